"""All that the rules know of a run, as one frozen value with the questions that they ask of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import cached_property

from entrypoint.light import TYPE_CHECKING, dataclass, field
from entrypoint.preflight.config import Config
from entrypoint.preflight.model import Model
from entrypoint.spec import ImageSpec

if TYPE_CHECKING:
    from typing import Any, Final

# transformers' version under each Axolotl whose rules are known: the rules hold for both together.
KNOWN: Final = {"0.16.1": "5.5.0", "0.17.0": "5.9.0", "0.19.0": "5.16.1"}
OLD: Final = ("0.16.1",)
NEW: Final = ("0.19.0",)
MID: Final = ("0.17.0",)
NAMED: Final = MID + NEW  # attn_implementation decides, and the booleans are old names of its values
ALL: Final = OLD + NAMED

# The attention booleans, in the order in which 0.19.0 takes one (utils/schemas/enums.py, LEGACY_ATTN_FLAG_TO_IMPL).
MEANS: Final = {
    "xformers_attention": "xformers",
    "sage_attention": "sage",
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
# Read without torch, as its own check is true for Turing by emulation (torch/cuda/__init__.py, is_bf16_supported).
FLASH: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


class Stage(IntEnum):
    """How far a command goes: each one goes through those before it."""

    READS = 0  # the configuration is validated
    LOADS = 1  # the model is loaded
    BATCHES = 2  # rows of the data set go through it
    TRAINS = 3  # and back


STAGES: Final = {"train": Stage.TRAINS, "evaluate": Stage.BATCHES, "inference": Stage.LOADS}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`packages`: distributions in the image, by name. `capabilities`: torch's compute capability of each GPU, GPU 0
    first; () when they are not known yet. `model` is None when config.json is not there yet."""

    config: Config
    spec: ImageSpec
    packages: Mapping[str, str]
    model: Model | None = None
    capabilities: tuple[str, ...] = ()
    action: str = "train"
    passed_on: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    mends: frozenset[str] = frozenset()  # what the image changes in its packages, by name

    @property
    def axolotl(self) -> str:
        """Its version, while the rules for it are known; "" otherwise."""
        version = self.packages.get("axolotl", "")
        return version if KNOWN.get(version) == self.packages.get("transformers") else ""

    @property
    def stage(self) -> Stage:
        return STAGES.get(self.action, Stage.READS)

    def get(self, key: str) -> Any:
        return self.config.values.get(key)

    def on(self, key: str) -> bool:
        """Whether a key is true for Axolotl, whose validators ask for truth before types are checked."""
        return bool(self.get(key))

    @cached_property
    def booleans(self) -> tuple[str, ...]:
        """The attention booleans that are true."""
        return tuple(key for key in MEANS if self.on(key))

    @cached_property
    def implementation(self) -> str:
        """attn_implementation as it is written; "" for none."""
        value = self.get("attn_implementation")
        return str(value) if value else ""

    @property
    def pack(self) -> bool:
        return self.on("sample_packing")

    @property
    def rows(self) -> int:
        """micro_batch_size; 1 where it is not set."""
        value = self.get("micro_batch_size")
        return value if isinstance(value, int) else 1

    @property
    def base_model(self) -> str:
        return str(self.get("base_model") or "")

    @cached_property
    def like_llama(self) -> bool:
        """Axolotl's is_llama_derived_model (utils/config/__init__.py, normalize_config)."""
        names = f"{self.base_model} {self.get('type_of_model') or ''}".lower()
        kinds = {"llama", "mllama_text_model"}
        return bool(self.model and self.model.type in kinds) or "llama" in names or self.on("is_llama_derived_model")

    # --- the machine ------------------------------------------------------------------------------------------------

    @property
    def capability(self) -> str | None:
        """GPU 0's: the one that Axolotl asks."""
        return self.capabilities[0] if self.capabilities else None

    @property
    def major(self) -> int | None:
        """CUDA's major number; None when it is not known, and on AMD."""
        return self.numbers[0] if self.numbers else None

    @property
    def numbers(self) -> tuple[int, ...]:
        capability = self.capability or ""
        return tuple(int(part) for part in capability.split(".")) if capability[:1].isdigit() else ()

    @property
    def on_cpu(self) -> bool:
        return self.spec.device == "cpu"

    @property
    def on_amd(self) -> bool:
        return self.spec.platform.startswith("rocm")

    def has(self, package: str) -> bool:
        return package in self.packages

    # --- precision ----------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> str:
        """ "bf16", "fp16" or "fp32", as resolve_dtype has it; torch says yes to bf16 on every CUDA GPU."""
        bf16 = self.config.values.get("bf16", "auto")
        if bf16 == "auto":
            bf16 = not self.on("fp16")
        if bf16 or self.on("bfloat16"):
            return "bf16"
        return "fp16" if self.on("fp16") or self.on("float16") or self.on("load_in_8bit") else "fp32"
