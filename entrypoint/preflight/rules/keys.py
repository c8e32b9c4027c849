"""Keys and values: what Axolotl refuses, and what it ignores without a word."""

from __future__ import annotations

import difflib
import re

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import FLASH, MEANS, MID, NAMED, NEW, OLD, Facts, Stage
from entrypoint.preflight.kernel import MEND_FA4, Run, default
from entrypoint.preflight.rule import Hit, Rules

if TYPE_CHECKING:
    from typing import Final

rules: Final = Rules()

# 0.19.0's CANONICAL_ATTN_IMPLS, and the short names that its message explains (utils/schemas/enums.py:109, 134).
VALUES: Final = (
    "eager", "sdpa", *FLASH, "flash_attention_torch", "flex_attention", "xformers", "sage", "fp8",
)  # fmt: skip
ALIASES: Final = {"flash": "flash_attention_2", "flex": "flex_attention", "sdp": "sdpa"}
# What transformers registers by itself (T55 modeling_utils.py, ALL_ATTENTION_FUNCTIONS).
REGISTERED: Final = ("eager", "sdpa", *FLASH, "flex_attention")
# 0.16.1's boolean for what only Axolotl knows.
OLD_BOOLEAN: Final = {"sage": "sage_attention", "xformers": "xformers_attention", "s2": "s2_attention"}
ONE_OF: Final = ("xformers_attention", "sdp_attention", "flash_attention", "flex_attention", "sage_attention")
ONLY_NEW: Final = (
    "gemma4_hybrid_attn_impl", "large_head_attention", "sdpa_varlen", "fused_attn_kernel", "selective_checkpointing",
    "flash_attn_d512",
)  # fmt: skip
IN_MID: Final = ("gemma4_hybrid_attn_impl", "fused_attn_kernel")
ATTENTION: Final = (
    *MEANS, "s2_attention", "attn_implementation", "sample_packing", "eval_sample_packing", "pad_to_sequence_len",
    "multipack_real_batches", "batch_flattening", "context_parallel_size", "flex_attn_compile_kwargs", *ONLY_NEW,
    "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_mlp", "flash_optimum", "scaling_softmax",
)  # fmt: skip
# Other keys of Axolotl whose names are near to one of those.
NEAR: Final = frozenset(
    {
        "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_sequentially", "sequence_len",
        "eval_sequence_len", "sequence_parallel_degree", "tensor_parallel_size", "data_parallel_size",
        "dp_shard_size", "expert_parallel_size", "scaling_softmax_factor", "scaling_softmax_bias",
        "pretrain_multipack_attn", "pretrain_multipack_buffer_size", "sample_packing_mp_start_method",
        "sample_packing_drop_attention_mask",
    }
)  # fmt: skip
# What pydantic takes for a boolean, beside true and false.
_WORDS: Final = frozenset({"true", "t", "yes", "y", "on", "1", "false", "f", "no", "n", "off", "0"})
# Old names and short words that people write for the values of attn_implementation.
_FLASH_3: Final = re.compile(r"fa-?3|flash.*3", re.IGNORECASE)


@rules.add("K01", "refuse", "A16 utils/schemas/validation.py:164", OLD, Stage.READS)
def several_booleans(facts: Facts, run: Run) -> Hit | None:
    found = [key for key in ONE_OF if facts.on(key)]
    if len(found) < 2:
        return None
    return Hit(key=found[1], why=f"{' and '.join(found)} are true; Axolotl 0.16.1 takes one of them and stops at two.")


@rules.add("K02", "refuse", "A19 utils/schemas/config.py:1580 (normalize_attn_implementation)", NAMED, Stage.READS)
def boolean_with_name(facts: Facts, run: Run) -> Hit | None:
    if not facts.implementation or not facts.booleans:
        return None
    drop = " ".join(f"--no-{key.replace('_', '-')}" for key in facts.booleans)
    return Hit(
        key=facts.booleans[0],
        why=f"attn_implementation and {' and '.join(facts.booleans)} are both set, and Axolotl {facts.axolotl} stops.",
        instead=f"attn_implementation: {facts.implementation} alone; by the command line: {drop}",
    )


@rules.add("K03", "warn", "A19 utils/schemas/config.py:1590", NAMED, Stage.READS)
def first_boolean_wins(facts: Facts, run: Run) -> Hit | None:
    if len(facts.booleans) < 2 or facts.implementation:
        return None
    first, *rest = facts.booleans
    return Hit(
        key=rest[0],
        why=f"{first} wins over {' and '.join(rest)}, which Axolotl {facts.axolotl} ignores.",
        instead=f"attn_implementation: {MEANS[first]}, or the one that you mean",
    )


@rules.add("K04", "note", "A19 utils/schemas/config.py:790-842", NAMED, Stage.READS)
def old_boolean(facts: Facts, run: Run) -> Hit | None:
    if len(facts.booleans) != 1 or facts.implementation:
        return None
    key = facts.booleans[0]
    why = f"{key} is the old name of attn_implementation: {MEANS[key]}."
    return Hit(key=key, why=why, instead=f"attn_implementation: {MEANS[key]}")


@rules.add("K05", "refuse", "A19 utils/schemas/config.py:1611 (validate_attn_implementation)", NAMED, Stage.READS)
def unknown_value(facts: Facts, run: Run) -> Hit | None:
    value = facts.implementation
    known = values(facts)
    if not value or value in known or "/" in value:
        return None
    near = ALIASES.get(value) or _near(value)
    return Hit(
        key="attn_implementation",
        why=f"Axolotl {facts.axolotl} has no attention {value!r}.",
        instead=f"attn_implementation: {near}" if near else f"one of {', '.join(known)}",
    )


def values(facts: Facts) -> tuple[str, ...]:
    """What this Axolotl takes; 0.17.0 learns of FlashAttention 4 by a mend of the image."""
    if facts.axolotl in NEW:
        return VALUES
    later = {"flash_attention_torch"} | ({"flash_attention_4"} if MEND_FA4 not in facts.mends else set())
    return tuple(value for value in VALUES if value not in later)


def _near(value: str) -> str | None:
    """The value that a short or misspelt one means: fa2, flash3, sage_attention."""
    plain = value.removesuffix("_attention")
    number = re.search(r"[234]$", value)
    if number and re.match(r"fa|flash", value):
        return f"flash_attention_{number.group()}"
    if plain in ALIASES or plain in VALUES:
        return ALIASES.get(plain, plain)
    return next(iter(difflib.get_close_matches(value, VALUES, n=1)), None)


@rules.add("K06", "refuse", "T55 modeling_utils.py:1888 (no key of ALL_ATTENTION_FUNCTIONS)", OLD)
def not_registered(facts: Facts, run: Run) -> Hit | None:
    value = facts.implementation
    if not value or value in REGISTERED or "/" in value:
        return None
    boolean = OLD_BOOLEAN.get(value)
    return Hit(
        key="attn_implementation",
        why=f"Axolotl 0.16.1 hands {value!r} to transformers 5.5.0, which has no attention of that name.",
        instead=f"{boolean}: true, and no attn_implementation" if boolean else None,
    )


@rules.add("K07", "refuse", "A19 utils/schemas/config.py:1740; T516 modeling_utils.py:5148", NEW, Stage.READS)
def torchs_flash(facts: Facts, run: Run) -> Hit | None:
    if facts.implementation != "flash_attention_torch":
        return None
    why = f"transformers 5.16.1 does not know flash_attention_torch yet, and Axolotl {facts.axolotl} stops."
    return Hit(key="attn_implementation", why=why, instead="attn_implementation: sdpa")


@rules.add("K08", "warn", "A16 utils/schemas/config.py:195, A19 :214 (pydantic's extra=ignore)", stage=Stage.READS)
def misspelt(facts: Facts, run: Run) -> Hit | None:
    for key in facts.config.values:
        if key in ATTENTION or key in NEAR:
            continue
        near = difflib.get_close_matches(key, ATTENTION, n=1, cutoff=0.85)
        if near:
            why = f"Axolotl has no key {key} and ignores it without a word."
            return Hit(key=key, why=why, instead=f"{near[0]}: {_yaml(facts.get(key))}")
    return None


def _yaml(value: object) -> str:
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


@rules.add("K09", "warn", "A16 utils/schemas/config.py (no such fields)", OLD + MID, Stage.READS)
def of_a_later_version(facts: Facts, run: Run) -> Hit | None:
    here = IN_MID if facts.axolotl in MID else ()
    found = [key for key in ONLY_NEW if facts.get(key) is not None and key not in here]
    if not found:
        return None
    why = f"{' and '.join(found)} came after Axolotl {facts.axolotl}, which ignores what it does not know."
    return Hit(key=found[0], why=why, instead="an image whose Axolotl is 0.19.0 (cu130), or without the key")


@rules.add("K10", "refuse", "A19 utils/schemas/deprecated.py", NAMED, Stage.READS)
def removed(facts: Facts, run: Run) -> Hit | None:
    found = [key for key in ("s2_attention", "flash_attn_rms_norm") if facts.on(key)]
    if not found:
        return None
    why = f"Axolotl {facts.axolotl} has removed {' and '.join(found)}, and stops."
    return Hit(key=found[0], why=why, instead=None if found[0] == "s2_attention" else "nothing in its place")


@rules.add("K11", "warn", "T55 modeling_utils.py:1888, T516 :1926")
def nothing_asked(facts: Facts, run: Run) -> Hit | None:
    if run.asked != "nothing" or facts.on("s2_attention"):
        return None
    return Hit(why=f"The configuration asks for no attention, so transformers takes {default(facts)}.")


@rules.add("K12", "warn", "A16 loaders/patch_manager.py:100, A19 :128 (the call is commented out)", stage=Stage.READS)
def no_compile_kwargs(facts: Facts, run: Run) -> Hit | None:
    if not facts.get("flex_attn_compile_kwargs"):
        return None
    why = "flex_attn_compile_kwargs has no effect: Axolotl does not hand it on."
    return Hit(key="flex_attn_compile_kwargs", why=why, instead="nothing; transformers compiles FlexAttention itself")


@rules.add("K13", "refuse", "A16 cli/config.py:230, A19 :233 (load_cfg)", stage=Stage.READS)
def dropped_flags(facts: Facts, run: Run) -> Hit | None:
    dropped = [key for key in facts.config.dropped if key in ATTENTION]
    if not dropped:
        return None
    flags = " and ".join(f"--{key.replace('_', '-')}" for key in dropped)
    return Hit(
        key="strict",
        why=f"strict: true drops {flags}, because the file does not have {' and '.join(dropped)}.",
        instead=f"{dropped[0]} in the file, or strict: false",
    )


@rules.add("K14", "warn", "A16 loaders/model.py:625", OLD)
def eager_loses(facts: Facts, run: Run) -> Hit | None:
    if not facts.on("eager_attention") or len(facts.booleans) < 2:
        return None
    other = next(key for key in facts.booleans if key != "eager_attention")
    return Hit(key="eager_attention", why=f"eager_attention loses to {other}.", instead="one of the two")


@rules.add("K15", "note", "A16 loaders/model.py:625; core/builders/causal.py:260", OLD)
def name_over_boolean(facts: Facts, run: Run) -> Hit | None:
    others = [key for key in facts.booleans if MEANS[key] != facts.implementation]
    if not facts.implementation or not others:
        return None
    why = f"{facts.implementation} is the kernel; {' and '.join(others)} decides about packing and precision only."
    return Hit(key=others[0], why=why, instead="")


@rules.add("K16", "note", "A16 and A19 loaders/model.py (overrides_of_model_kwargs)")
def in_model_kwargs(facts: Facts, run: Run) -> Hit | None:
    given = facts.get("model_kwargs") or facts.get("overrides_of_model_kwargs")
    value = given.get("attn_implementation") if isinstance(given, dict) else None
    if not value:
        return None
    counts = run.asked.startswith("model_kwargs")
    why = f"model_kwargs asks for {value}; it {'counts, as no attention key is set' if counts else 'does not count'}."
    return Hit(key="model_kwargs", why=why, instead=f"attn_implementation: {value}")


@rules.add("K17", "refuse", "pydantic's bool: A16 and A19 utils/schemas/config.py", stage=Stage.READS)
def not_a_boolean(facts: Facts, run: Run) -> Hit | None:
    for key in (*MEANS, "sample_packing", "pad_to_sequence_len", "eval_sample_packing", "multipack_real_batches"):
        value = facts.get(key)
        ignored = facts.axolotl in NAMED and key in MEANS  # taken by truth, and dropped before types are checked
        if ignored or value is None or isinstance(value, bool) or value in (0, 1):
            continue
        if not isinstance(value, str) or value.lower() not in _WORDS:
            return Hit(
                key=key, why=f"{key}: {value!r} is neither true nor false, and Axolotl stops.", instead=f"{key}: true"
            )
    return None


@rules.add("K18", "warn", "A16 and A19 cli/main.py (ignore_unknown_options)", stage=Stage.READS)
def flag_for_the_launcher(facts: Facts, run: Run) -> Hit | None:
    if not facts.passed_on:
        return None
    flag = facts.passed_on[0]
    why = f"Axolotl's flags have hyphens: it hands {flag} to its launcher and sets nothing."
    return Hit(why=why, instead=flag.replace("_", "-"))
