"""Put a defect in the place of what transformers calls, when transformers is imported.

Attention is what `ALL_ATTENTION_FUNCTIONS.get_interface` hands to a model for the names in KERNELS; whatever else is
registered, such as a reference, stays as it is. The other defects replace a function of `transformers.masking_utils`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

from .call import Call

# The attentions that a defect is planted into.
KERNELS: Final = ("sdpa", "eager", "flex_attention")
Change = Callable[[ModuleType], None]


def plant(name: str) -> None:
    """Raises KeyError for a defect that does not exist."""
    from .table import ATTENTIONS, MASKS

    if name in MASKS:
        _once_imported("transformers.masking_utils", MASKS[name])
    else:
        defect = ATTENTIONS[name]
        _once_imported("transformers.modeling_utils", lambda module: _wrap(module, defect))


def _wrap(module: ModuleType, defect: Callable[[Call], Any]) -> None:
    """Let models get `defect` around the attention that they ask for."""
    interface: Any = module.AttentionInterface
    real = interface.get_interface

    def get_interface(self: Any, attn_implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        inner: Callable[..., Any] = real(self, attn_implementation, default)
        if attn_implementation not in KERNELS:
            return inner

        def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any) -> Any:
            return defect(
                Call(
                    name=attn_implementation,
                    inner=inner,
                    module=module,
                    query=query,
                    key=key,
                    value=value,
                    mask=attention_mask,
                    options=options,
                )
            )

        return attention

    interface.get_interface = get_interface


def _once_imported(name: str, change: Change) -> None:
    """Change the module `name` now, or as soon as it has been imported."""
    if name in sys.modules:
        change(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, change))


class _Finder:
    """Finds one module as Python does, and has it changed after its code has run."""

    def __init__(self, name: str, change: Change) -> None:
        self._name = name
        self._change = change

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._change(module)

        loader.exec_module = exec_module
        return spec
