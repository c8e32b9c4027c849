"""The seeded defects: every mistake by name, each as a backend that is right in everything else.

Most are mistakes that attention kernels have had: the trackers of FlashAttention, PyTorch, xFormers, SageAttention and
LongLoRA tell of them.
"""

from __future__ import annotations

from entrypoint.probe.backends import Backend
from tests.defects import backward, forward, sometimes
from tests.unit.wrong_kernels import backend


def wrong_kernels() -> dict[str, Backend]:
    """Every defect by name."""
    attentions = {
        **forward.softmaxes(),
        **forward.masks(),
        **forward.long_calls(),
        **forward.features(),
        **forward.shifted(),
        **forward.heads_and_batches(),
        **forward.outputs(),
        **backward.gradients(),
        **backward.long_gradients(),
        **sometimes.layouts(),
        **sometimes.only_sometimes(),
    }
    defects = {name: backend(attention) for name, attention in attentions.items()}
    return defects | sometimes.logsumexps() | sometimes.conduct()
