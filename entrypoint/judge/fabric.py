"""Bus bandwidth of collectives, and what the links between the GPUs of known machines should reach. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from entrypoint.children.ranks import Ranks
    from entrypoint.collective.events import Operation, RankEvent


def bus_bandwidth(operation: Operation, size: int, seconds: float, ranks: int) -> float:
    """GB/s (10^9) that each rank's link must carry, whatever the number of ranks.

    The formulas are those of nccl-tests: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md. `size` is
    in bytes: of the buffer (all-reduce), of all that a rank gets (all-gather) or gives (reduce-scatter).
    """
    share = (ranks - 1) / ranks
    return (2 * share if operation == "all-reduce" else share) * size / seconds / 1e9


@dataclass(frozen=True, kw_only=True)
class BusFloor:
    """80 % of what `source` has measured at `size` bytes or more, on `ranks` GPUs of one machine."""

    models: tuple[str, ...]
    operations: tuple[Operation, ...]
    gigabytes_per_second: float
    source: str
    nvls: bool = False  # only where the switches add (NVLink SHARP)
    ranks: int = 8
    size: int = 1 << 30


_HOPPER: Final = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
_BLACKWELL: Final = ("NVIDIA B200",)
_AMPERE: Final = ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB")
_STAS: Final = "https://github.com/stas00/ml-engineering/tree/master/network/benchmarks"
_AZURE: Final = "https://github.com/Azure/azurehpc-health-checks/blob/main/conf/nd96asr_v4.conf"
# Published: 464 GB/s for all-reduce with NVLS and 367 without, 361 for the other two (8 H200, whose links are an
# H100's), 723 for all-reduce on 8 B200; and Azure expects 228 of 8 A100. Nothing is known of other machines.
FLOORS: Final = (
    BusFloor(models=_HOPPER, operations=("all-reduce",), gigabytes_per_second=370.0, source=_STAS, nvls=True),
    BusFloor(models=_HOPPER, operations=("all-reduce",), gigabytes_per_second=290.0, source=_STAS),
    BusFloor(models=_HOPPER, operations=("all-gather", "reduce-scatter"), gigabytes_per_second=290.0, source=_STAS),
    BusFloor(models=_BLACKWELL, operations=("all-reduce",), gigabytes_per_second=580.0, source=_STAS, nvls=True),
    BusFloor(models=_AMPERE, operations=("all-reduce",), gigabytes_per_second=180.0, source=_AZURE),
)


def floor_of(ranks: Ranks, operation: Operation, size: int) -> BusFloor | None:
    """The floor of this operation on these GPUs, if they are those of one machine that something is known of."""
    everyone = [facts.who for facts in ranks.every if facts.who]
    machines = {(who.node, who.name) for who in everyone}
    if len(everyone) != ranks.world_size or len(machines) != 1:
        return None
    model, nvls = everyone[0].name, all(map(has_nvls, everyone))
    fitting = (
        floor
        for floor in FLOORS
        if model in floor.models and operation in floor.operations and size >= floor.size
        if ranks.world_size == floor.ranks and (nvls or not floor.nvls)
    )
    return next(fitting, None)


def has_nvls(who: RankEvent) -> bool:
    """Whether NCCL may let the switches add: the driver offers multicast, and the user has not said otherwise."""
    settings = who.variables
    return who.multicast is True and settings.get("NCCL_NVLS_ENABLE") != "0" and "NCCL_ALGO" not in settings
