"""Which attention runs in the end, from what was asked for. Pure.

Read: Axolotl 0.16.1's loaders/model.py:625 and loaders/patch_manager.py:168, 248; 0.19.0's loaders/model.py:843-893 and
monkeypatch/attention/flash_attn_4.py:119; transformers' modeling_utils.py (_check_and_adjust_attn_implementation).
"""

from __future__ import annotations

from entrypoint.light import TYPE_CHECKING, dataclass
from entrypoint.preflight.facts import FLASH, MEANS, MID, NEW, OLD, Facts
from entrypoint.preflight.software import at_least

if TYPE_CHECKING:
    from typing import Final

# The package of each kernel, and the backend of an image that holds it.
PACKAGES: Final = {
    "flash_attention_2": "flash-attn",
    "flash_attention_3": "flash-attn-3",
    "flash_attention_4": "flash-attn-4",
    "xformers": "xformers",
    "sage": "sageattention",
}
BACKENDS: Final = {
    "flash_attention_2": "fa2",
    "flash_attention_3": "fa3",
    "flash_attention_4": "fa4",
    "flex_attention": "flex",
    "sdpa": "sdpa",
    "xformers": "xformers",
    "sage": "sage",
}
# 0.19.0's ATTN_IMPLS_SUPPORTING_PACKING (utils/schemas/enums.py).
PACKING: Final = frozenset(
    {*FLASH, "flash_attention_torch", "flex_attention", "xformers", "sage"}
    | {f"kernels-community/{name}" for name in ("flash-attn2", "flash-attn3", "sage-attention")}
)
# Mends of an image that change what its Axolotl 0.17.0 does.
MEND_FA4: Final = "axolotl-flash-attention-4"
MEND_MASK: Final = "axolotl-packing-without-mask"
# The only release whose head dims and Blackwell backward the rules know.
KNOWN_FA4: Final = "4.0.0b36"
# The flash kernels that gpt_oss takes; any other name becomes the hub's (_compatible_flash_implementations).
WITH_SINKS: Final = ("flash_attention_4", "kernels-community/vllm-flash-attn3")


@dataclass(frozen=True, kw_only=True)
class Run:
    """`asked`: the key and value that decide, or "nothing". `name`: the attention that transformers is asked for.
    `kernel`: what runs in the end; None when that is not known. `upgraded`: Axolotl put FlashAttention 4 in its place.
    `takeover`: 0.16.1's own patch for FlashAttention 4, which fails. `isolated`: whether packed documents are kept
    apart; None without packing, and where that depends on a model that is not known."""

    asked: str
    name: str
    kernel: str | None
    upgraded: bool = False
    takeover: bool | None = False
    isolated: bool | None = None

    @property
    def flash(self) -> bool:
        return self.name in FLASH

    @property
    def backend(self) -> str | None:
        """The backend of an image that holds the kernel."""
        return BACKENDS.get(self.kernel or "")


def resolve(facts: Facts) -> Run:
    """What runs. For an Axolotl that is not known, only what was asked for is told."""
    if facts.axolotl in OLD:
        return _old(facts)
    if facts.axolotl in MID:
        return _mid(facts)
    if facts.axolotl in NEW:
        return _new(facts)
    asked, name = _asked(facts, tuple(MEANS))
    return Run(asked=asked, name=name, kernel=None)


def _asked(facts: Facts, order: tuple[str, ...]) -> tuple[str, str]:
    """What decides, and the attention it names; booleans count in `order`."""
    if facts.implementation:
        return f"attn_implementation: {facts.implementation}", facts.implementation
    for key in order:
        if facts.on(key):
            return f"{key}: true", MEANS[key]
    given = facts.get("model_kwargs") or facts.get("overrides_of_model_kwargs")
    inner = given.get("attn_implementation") if isinstance(given, dict) else None
    if inner:
        return f"model_kwargs.attn_implementation: {inner}", str(inner)
    return "nothing", default(facts)


def default(facts: Facts) -> str:
    """transformers' choice when nothing is asked for."""
    family = facts.model.family if facts.model else None
    return "sdpa" if family is None or family.sdpa else "eager"


# --- 0.16.1 -------------------------------------------------------------------------------------------------------


def _old(facts: Facts) -> Run:
    order = ("flex_attention", "flash_attention", "sdp_attention", "sage_attention", "eager_attention")
    asked, name = _asked(facts, order)
    xformers = facts.on("xformers_attention")
    if xformers and not facts.implementation:
        # With packing it sets flash_attention and takes FlashAttention 2's place; without, only llama is patched.
        asked, name = "xformers_attention: true", "flash_attention_2" if facts.pack else default(facts)
    elif name == "sage" and not facts.implementation:
        name = "flash_attention_2"
    taken = takeover(facts, name)
    kernel: str | None = name
    if name == "flash_attention_2" and xformers and facts.pack or xformers and facts.like_llama and not facts.pack:
        kernel = "xformers"
    elif name == "flash_attention_2" and facts.on("sage_attention"):
        kernel = "sage"
    elif taken is None:
        kernel = None
    elif taken:
        kernel = "flash_attention_4"
    isolated = _drops_mask(facts) if facts.pack else None
    return Run(asked=asked, name=name, kernel=_hub(facts, name, kernel), takeover=taken, isolated=isolated)


def flash_flag(facts: Facts) -> bool:
    """0.16.1's flash_attention in the end: patch_manager.py:168 sets it for packing with xformers."""
    return facts.on("flash_attention") or (facts.on("xformers_attention") and facts.pack)


def _drops_mask(facts: Facts) -> bool | None:
    """core/builders/causal.py:260."""
    return flash_flag(facts) or facts.on("flex_attention") or _loses_mask(facts)


def takeover(facts: Facts, name: str) -> bool | None:
    """Whether patch_flash_attn_4 (attention/flash_attn_4.py:36) acts on it; None when a fact is missing."""
    if not flash_flag(facts) or name not in FLASH or not facts.has("flash-attn-4") or facts.on_cpu or facts.on_amd:
        return False
    if facts.major is None:
        return None
    return facts.major in {9, 10, 11} and dims_fit_fa4(facts)


# --- 0.17.0 -------------------------------------------------------------------------------------------------------


def _mid(facts: Facts) -> Run:
    """0.19.0's keys; FlashAttention 4 is put under the names of 2 and 3, as in 0.16.1, and here it works."""
    asked, name = _named(facts)
    fits: bool | None = name in FLASH[:2] and facts.has("flash-attn-4") and not facts.on_cpu and not facts.on_amd
    if fits:
        fits = None if facts.major is None else facts.major in {9, 10, 11} and dims_fit_fa4(facts)
    own = _hub(facts, name, "sdpa" if name == "fp8" else name)
    kernel = own if not fits or own != name else "flash_attention_4"
    return Run(
        asked=asked,
        name=name,
        kernel=None if fits is None and own == name else kernel,
        upgraded=kernel == "flash_attention_4" != name,
        isolated=_mid_apart(facts, asked, name) if facts.pack else None,
    )


def _mid_apart(facts: Facts, asked: str, name: str) -> bool | None:
    """core/builders/causal.py:260, where attn_supports_packing (utils/schemas/config.py:1405) drops the mask."""
    by_key = not asked.startswith("model_kwargs") and asked != "nothing"
    packs = by_key and name in PACKING and (name != "flash_attention_4" or MEND_FA4 in facts.mends)
    mended = MEND_MASK in facts.mends and (not by_key or name in {"sdpa", "eager"})
    return packs or mended or _loses_mask(facts)


# --- 0.19.0 -------------------------------------------------------------------------------------------------------


def _new(facts: Facts) -> Run:
    asked, name = _named(facts)
    usable = fa4_usable(facts) if name in FLASH[:2] else False
    kernel: str | None = "sdpa" if name == "fp8" else name
    if usable is None:
        kernel = None
    elif usable:
        kernel = "flash_attention_4"
    isolated = _decontaminates(facts, name) if facts.pack else None
    return Run(asked=asked, name=name, kernel=_hub(facts, name, kernel), upgraded=bool(usable), isolated=isolated)


def _named(facts: Facts) -> tuple[str, str]:
    """What decides where attn_implementation does (utils/schemas/config.py, normalize_attn_implementation)."""
    if facts.on("gemma4_hybrid_attn_impl") and not facts.implementation and not facts.booleans:
        return "gemma4_hybrid_attn_impl: true", "flash_attention_2"
    return _asked(facts, tuple(MEANS))


def _decontaminates(facts: Facts, name: str) -> bool | None:
    """attn_decontaminates_packing (utils/schemas/config.py:1506), which knows only the key attn_implementation."""
    explicit = facts.implementation or facts.booleans or facts.on("gemma4_hybrid_attn_impl")
    base = name.split(":", 1)[0].split("@", 1)[0].strip()
    return (bool(explicit) and base in PACKING | {"sdpa", "eager"}) or _loses_mask(facts)


def fa4_usable(facts: Facts) -> bool | None:
    """monkeypatch/attention/flash_attn_4.py:119; None when a fact is missing."""
    parallel = facts.get("context_parallel_size") or facts.get("sequence_parallel_degree") or 1
    if facts.on_cpu or facts.on_amd or not facts.has("flash-attn-4") or (isinstance(parallel, int) and parallel > 1):
        return False
    if facts.major is None:
        return None
    if facts.major not in {9, 10, 11}:
        return False
    fits = dims_fit_fa4(facts)
    if not fits:
        return fits
    if facts.has("quack-kernels") and not at_least(facts.packages, "quack-kernels", 0, 6):
        return False
    hangs = fa4_hangs(facts) if facts.major in {10, 11} else False
    return None if hangs is None else not hangs


def fa4_hangs(facts: Facts) -> bool | None:
    """Whether Axolotl takes FlashAttention 4's backward for one that hangs on Blackwell: its source elects around a
    copy that CuTe DSL 4.6 elects in by itself. Known of one release."""
    if not at_least(facts.packages, "nvidia-cutlass-dsl", 4, 6):
        return False
    return True if facts.packages.get("flash-attn-4") == KNOWN_FA4 else None


# --- both ---------------------------------------------------------------------------------------------------------


def _loses_mask(facts: Facts) -> bool | None:
    """Whether packing takes the mask away whatever attention runs: of gemma3's wrapper and of mamba (utils/trainer.py,
    A16 :253, A19 :245). None while the model is not known."""
    return facts.model.type in {"gemma3", "mamba"} if facts.model else None


def dims_fit_fa4(facts: Facts) -> bool | None:
    """What Axolotl asks of FlashAttention 4: the model's own head dims. None when the model is not known yet."""
    model = facts.model
    if model is None or model.head_dim is None or model.value_dim is None or facts.major is None:
        return None
    return fits_fa4(model.head_dim, model.value_dim, facts.major)


def fits_fa4(head_dim: int, value_dim: int, major: int) -> bool:
    """_validate_head_dims of flash-attn-4 4.0.0b36 (flash_attn/cute/interface.py:121), for 16-bit numbers."""
    if head_dim % 8 or value_dim % 8:
        return False
    if major == 9:
        return 8 <= head_dim <= 256 and 8 <= value_dim <= 256
    if major in {10, 11}:
        special = {(192, 128), (256, 256), (64, 512), (512, 512)}
        return (8 <= head_dim <= 128 and 8 <= value_dim <= 128) or (head_dim, value_dim) in special
    return True


def _hub(facts: Facts, name: str, kernel: str | None) -> str | None:
    """A kernel of the hub where transformers takes one: by its path, and for gpt_oss by any flash name but two."""
    if "/" in name:
        return "a kernel of the hub"
    sinks = facts.model is not None and facts.model.text_type == "gpt_oss"
    replaced = sinks and "flash" in name and kernel not in {None, "flash_attention_4"}
    return "a kernel of the hub" if replaced else kernel
