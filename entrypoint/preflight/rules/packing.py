"""Packing: whether the documents of a row see each other."""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING
from entrypoint.preflight.facts import FLASH, MID, NAMED, NEW, OLD, Facts, Stage
from entrypoint.preflight.families import MROPE
from entrypoint.preflight.kernel import PACKING, Run
from entrypoint.preflight.rule import Hit, Rules

if TYPE_CHECKING:
    from typing import Final

    from entrypoint.preflight.rule import Level

rules: Final = Rules()

_LEAK: Final = "packed documents see each other, and the loss falls all the same"
_ONE_ROW: Final = (*FLASH, "xformers")


def _certainty(run: Run) -> Level:
    """A model that is not known may be Gemma 3, whose mask Axolotl takes away for packing whatever attention runs."""
    return "refuse" if run.isolated is False else "warn"


@rules.add("P01", "refuse", "A16 core/builders/causal.py:260; https://github.com/axolotl-ai-cloud/axolotl/pull/3796",
           OLD + MID, Stage.BATCHES)  # fmt: skip
def mask_is_kept(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or run.isolated or facts.implementation or facts.on("sage_attention"):
        return None
    if facts.axolotl in MID and not facts.booleans:
        return None  # P03's
    why = f"Axolotl {facts.axolotl} keeps the padding mask of packed rows under {run.asked}: {_LEAK}."
    return Hit(key="sample_packing", why=why, level=_certainty(run))


@rules.add("P02", "refuse", "A16 core/builders/causal.py:260", OLD, Stage.BATCHES)
def name_without_boolean(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or run.isolated or not facts.implementation:
        return None
    why = f"Axolotl 0.16.1 packs by its booleans, and attn_implementation is none of them: {_LEAK}."
    return Hit(key="attn_implementation", why=why, level=_certainty(run))


@rules.add("P03", "refuse", "A19 utils/schemas/config.py:1506 (attn_decontaminates_packing)", NAMED, Stage.BATCHES)
def packed_without_a_key(facts: Facts, run: Run) -> Hit | None:
    asked = facts.implementation or facts.booleans or facts.on("gemma4_hybrid_attn_impl")
    if not facts.pack or run.isolated or asked:
        return None
    why = f"Without attn_implementation Axolotl {facts.axolotl} keeps the padding mask: {_LEAK}."
    return Hit(key="sample_packing", why=why, level=_certainty(run))


@rules.add("P04", "refuse", "A19 utils/schemas/enums.py:142", NAMED, Stage.BATCHES)
def packed_with_another(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or run.isolated or not facts.implementation:
        return None
    why = f"Axolotl {facts.axolotl} does not keep documents apart with {facts.implementation}: {_LEAK}."
    return Hit(key="attn_implementation", why=why, level=_certainty(run))


@rules.add("P05", "refuse", "A16 utils/schemas/validation.py:708, A19 :706", stage=Stage.READS)
def packed_rl(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or not facts.on("rl"):
        return None
    why = f"Axolotl does not pack samples for rl: {facts.get('rl')}, and stops."
    return Hit(key="sample_packing", why=why, instead="sample_packing: false")


@rules.add("P06", "refuse", "T516 modeling_flash_attention_utils.py:536 (_is_packed_sequence asks for one row)",
           stage=Stage.BATCHES)  # fmt: skip
def rows_of_their_own(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or not facts.on("multipack_real_batches") or facts.rows <= 1 or run.kernel not in _ONE_ROW:
        return None
    why = (
        f"With multipack_real_batches a batch has {facts.rows} rows, and {run.kernel} takes rows for unpacked: {_LEAK}."
    )
    return Hit(key="multipack_real_batches", why=why, instead="multipack_real_batches: false")


@rules.add("P07", "warn", "A16 and A19 utils/schemas/validation.py (hint_sample_packing_padding)", stage=Stage.BATCHES)
def unpadded_rows(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or facts.get("pad_to_sequence_len") is not False:
        return None
    why = "Packed rows of many lengths leave the GPU's memory in pieces."
    return Hit(key="pad_to_sequence_len", why=why, instead="pad_to_sequence_len: true")


@rules.add(
    "P08",
    "refuse",
    "A19 monkeypatch/models/falcon_h1 (its imports); A16 has no such patch",
    versions=OLD + NEW,
    stage=Stage.BATCHES,
)
def state_crosses(facts: Facts, run: Run) -> Hit | None:
    kind = facts.model.type if facts.model else ""
    old = facts.axolotl in OLD
    if not facts.pack or kind not in ({"falcon_h1", "granitemoehybrid"} if old else {"falcon_h1"}):
        return None
    if not old and facts.has("mamba-ssm") and facts.has("causal-conv1d"):
        return None
    why = (
        f"The Mamba state of {kind} crosses from one packed document to the next."
        if old
        else f"Packing {kind} needs mamba-ssm and causal-conv1d, which are not in this image."
    )
    return Hit(key="sample_packing", why=why, instead="sample_packing: false")


@rules.add(
    "P09", "warn", "https://github.com/axolotl-ai-cloud/axolotl/pull/3817 (a comment; not run)", stage=Stage.BATCHES
)
def positions_of_images(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or facts.model is None or not {facts.model.type, facts.model.text_type} & MROPE:
        return None
    why = f"{facts.model.type} has positions of several axes, and packing may not tell its documents apart."
    return Hit(key="sample_packing", why=why, instead="sample_packing: false")


@rules.add("P10", "warn", "A19 loaders/patch_manager.py:825; monkeypatch/attention/sdpa_varlen.py", NEW, Stage.BATCHES)
def window_lost(facts: Facts, run: Run) -> Hit | None:
    model = facts.model
    off = facts.get("sdpa_varlen") is False
    if not _varlen(facts, run) or model is None or not model.wrapped or not model.window or off:
        return None
    why = (
        "Axolotl looks for a sliding window at config.json's top level, and this model's is in text_config: packed "
        "rows may lose it."
    )
    return Hit(key="attn_implementation", why=why, instead="sdpa_varlen: false")


def _varlen(facts: Facts, run: Run) -> bool:
    """Whether 0.19.0 sends packed rows of sdpa through torch's variable-length attention, as far as the key tells."""
    asked = bool(facts.implementation or facts.booleans)
    return facts.pack and asked and run.name == "sdpa" and not facts.on_cpu


@rules.add("P11", "note", "A19 loaders/patch_manager.py:825", NEW, Stage.BATCHES)
def varlen_runs(facts: Facts, run: Run) -> Hit | None:
    model = facts.model
    if not _varlen(facts, run) or model is None:
        return None
    plain = not model.wrapped and not model.window and model.plain_scale and model.head_dim == model.value_dim
    if not plain or (model.head_dim or 999) > 256 or facts.dtype == "fp32" or facts.get("sdpa_varlen") is False:
        return None
    return Hit(
        key=run.asked.split(":", 1)[0], why="Packed rows go through torch's variable-length attention.", instead=""
    )


@rules.add(
    "P12", "note", "A16 utils/schemas/config.py:1400, A19 :1868 (check_sample_packing_w_sdpa_bf16)", stage=Stage.BATCHES
)
def old_warning(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or facts.dtype != "bf16" or facts.numbers == ():
        return None
    asked = facts.on("sdp_attention") if facts.axolotl in OLD else _varlen(facts, run)
    exempt = facts.numbers >= (9, 0) if facts.axolotl in NEW else facts.numbers == (9, 0)
    if not asked or exempt:
        return None
    return Hit(
        why="Axolotl's warning of a loss of 0.0 for sdpa in bf16 is about a fault that torch has mended.", instead=""
    )


@rules.add(
    "P13", "refuse", "A16 utils/schemas/validation.py:830, A19 :1076 (check_batch_flattening_fa)", stage=Stage.READS
)
def flattening_refused(facts: Facts, run: Run) -> Hit | None:
    value = facts.get("batch_flattening")
    if not value or value == "auto":
        return None
    if facts.pack:
        why = "batch_flattening does not go with sample_packing, and Axolotl stops."
    elif facts.axolotl in NAMED and run.name not in PACKING:
        why = f"batch_flattening needs a kernel that packs, and {run.name} is none for Axolotl {facts.axolotl}."
    elif facts.axolotl in OLD and not facts.on("flash_attention") and run.name not in FLASH:
        why = "batch_flattening needs flash_attention: true, and Axolotl 0.16.1 stops without it."
    else:
        return None
    return Hit(key="batch_flattening", why=why, instead="batch_flattening: auto")


@rules.add("P14", "refuse", "A16 utils/schemas/validation.py:830", OLD, Stage.READS)
def flattening_asks_for_the_boolean(facts: Facts, run: Run) -> Hit | None:
    value = facts.get("batch_flattening")
    if not value or value == "auto" or facts.pack or facts.on("flash_attention") or facts.implementation not in FLASH:
        return None
    why = "batch_flattening asks for flash_attention: true; attn_implementation does not count."
    return Hit(key="batch_flattening", why=why, instead="batch_flattening: auto")


@rules.add("P15", "refuse", "A16 utils/schemas/validation.py:197", OLD, Stage.READS)
def packed_s2(facts: Facts, run: Run) -> Hit | None:
    if not facts.pack or not facts.on("s2_attention"):
        return None
    why = "Shifted sparse attention does not pack samples, and Axolotl stops."
    return Hit(key="s2_attention", why=why, instead="s2_attention: false")


@rules.add("P16", "refuse", "T516 models/gpt_oss/modeling_gpt_oss.py (its masks get no position_ids)", NAMED,
           Stage.BATCHES)  # fmt: skip
def packed_without_positions(facts: Facts, run: Run) -> Hit | None:
    is_gpt_oss = facts.model is not None and facts.model.text_type == "gpt_oss"
    if not facts.pack or not is_gpt_oss or run.kernel not in {"eager", "flex_attention"}:
        return None
    why = f"GPT-OSS makes its masks without positions, so no document is found in a row: {_LEAK}."
    return Hit(key="sample_packing", why=why, instead=None if facts.spec.backend("fa4") else "sample_packing: false")
