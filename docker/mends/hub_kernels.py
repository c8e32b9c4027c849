"""USE_HUB_KERNELS=0 holds for every kernel of the hub, attention's too.

transformers reads that variable for layer kernels only. Where a flash_attention_N is not installed, its
`from_pretrained` fetches one from kernels-community, and so do its and Axolotl's checks of what is installed; all of
them call `kernels.get_kernel`. (Read in transformers 5.5.0 and 5.16.1, Axolotl 0.16.1 and 0.19.0, kernels 0.12.2 and
0.16.2.)
"""

import os
from collections.abc import Callable
from functools import wraps
from types import ModuleType

# As transformers reads it (ENV_VARS_TRUE_VALUES), with its default.
_ON = ("1", "ON", "YES", "TRUE")


def mended(get_kernel: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
    """`get_kernel`, but where USE_HUB_KERNELS is off it raises RuntimeError before anything is asked of the hub."""

    @wraps(get_kernel)
    def guarded(repo_id: str, *args: object, **kwargs: object) -> ModuleType:
        value = os.environ.get("USE_HUB_KERNELS", "YES")
        if value.upper() not in _ON:
            raise RuntimeError(
                f"{repo_id} is not fetched: USE_HUB_KERNELS={value} keeps kernels of the hub out of this image, since "
                "its check has not tried them. Ask for an attention backend that the image holds, or set "
                "USE_HUB_KERNELS=1."
            )
        return get_kernel(repo_id, *args, **kwargs)

    return guarded
