"""kernels: USE_HUB_KERNELS=0 holds for every kernel of the hub, attention's too.

transformers reads that variable for layer kernels only. Where a flash_attention_N is not installed, its
`from_pretrained` fetches one from kernels-community, and so do its and Axolotl's checks of what is installed; all of
them call `kernels.get_kernel`.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

# As transformers reads it (ENV_VARS_TRUE_VALUES), with its default.
_ON = ("1", "ON", "YES", "TRUE")


def mend(module: ModuleType) -> None:
    """Wrap `get_kernel` of kernels.utils, from which the package takes it: RuntimeError before the hub is asked."""
    inner = module.get_kernel

    @functools.wraps(inner)
    def get_kernel(repo_id: str, *arguments: Any, **named: Any) -> Any:
        value = os.environ.get("USE_HUB_KERNELS", "YES")
        if value.upper() not in _ON:
            raise RuntimeError(
                f"{repo_id} is not fetched: USE_HUB_KERNELS={value} keeps kernels of the hub out of this image, since "
                "its check has not tried them. Ask for an attention backend that the image holds, or set "
                "USE_HUB_KERNELS=1."
            )
        return inner(repo_id, *arguments, **named)

    module.get_kernel = get_kernel  # type: ignore[attr-defined]
