"""Which chip a device is, and what a backend claims on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from entrypoint.probe.backends import Capabilities

if TYPE_CHECKING:
    import torch

# An NVIDIA GPU's compute capability, an AMD GPU's gfx name, or torch's device type for anything else.
Chip = tuple[int, int] | str

HALVES = ("bfloat16", "float16")
# AMD's data centre GPUs, and all that this project names (images.yaml).
CDNA = frozenset({"gfx90a", "gfx942", "gfx950"})
AMD = CDNA | {"gfx1100", "gfx1201"}


class UnsupportedChip(RuntimeError):
    """The backend claims nothing on this chip."""


def chip_of(where: torch.device) -> Chip:
    import torch

    if where.type != "cuda":
        return str(where.type)
    if torch.version.hip is not None:
        # Such as gfx90a:sramecc+:xnack-, of which the first part is the architecture.
        return str(torch.cuda.get_device_properties(where).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(where)
    return (major, minor)


def at_least(chip: Chip, oldest: tuple[int, int]) -> bool:
    """Whether the chip is an NVIDIA GPU of at least this compute capability."""
    return isinstance(chip, tuple) and chip >= oldest


def same(*head_dims: int) -> tuple[tuple[int, int], ...]:
    """Pairs in which v has the head_dim of q and k."""
    return tuple((head_dim, head_dim) for head_dim in head_dims)


def halves(chip: Chip) -> tuple[str, ...]:
    """The 16-bit dtypes that NVIDIA's matrix units multiply: bfloat16 came with Ampere."""
    return HALVES if not isinstance(chip, tuple) or chip >= (8, 0) else ("float16",)


def claims_on(name: str, chip: Chip, claims: Capabilities | None, where_it_runs: Iterable[str]) -> Capabilities:
    """The claims themselves. Raises UnsupportedChip where there are none, with where the backend does run."""
    if claims is None:
        here = ".".join(map(str, chip)) if isinstance(chip, tuple) else chip
        raise UnsupportedChip(f"{name} runs on {', '.join(where_it_runs)}; this device is {here}")
    return claims
