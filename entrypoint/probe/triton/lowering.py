"""torch.compile for a GPU that is not there: a call is traced on the CPU, and its graphs are lowered as the GPU's.

Dynamo and autograd trace shapes and types, which a device does not change. So the tensors of the traced graphs, which
are fake ones, move to the GPU just before Inductor lowers them; Triton then compiles what Inductor writes, and neither
asks for a device that absent.py does not answer for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from entrypoint.probe.triton.absent import pretended

if TYPE_CHECKING:
    from entrypoint.probe.ahead import AbsentGpu
    from entrypoint.probe.backends import Backend
    from entrypoint.probe.cases import Case


class Launched(Exception):
    """The compiled forward was called: what was asked of the compiler is done, and there is no GPU to run it."""


class Compiler:
    """A backend of torch.compile for one GPU. `lowered` counts the graphs: one for a forward, one for its backward."""

    def __init__(self, gpu: AbsentGpu) -> None:
        self.gpu = gpu
        self.lowered = 0

    def __call__(self, graph: Any, inputs: Sequence[Any], **options: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs, inner_compile=self.lower, **options)

    def lower(self, graph: Any, inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
        """In place of `compile_fx_inner`: the same on the GPU's tensors, and a function that only says so."""
        from torch._inductor.compile_fx import compile_fx_inner

        with pretended(self.gpu):
            retarget(graph)
            compile_fx_inner(graph, [moved(each) for each in inputs], **options)
        self.lowered += 1
        return launch


def launch(*_: Any) -> Any:
    raise Launched


def prepare() -> None:
    """Make torch in this process trace FlexAttention's backward with its forward, and load no kernel on a GPU."""
    import torch._functorch.config
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner
    from torch.nn.attention import flex_attention

    torch._functorch.config.force_non_lazy_backward_lowering = True
    precompile = CachingAutotuner.precompile
    CachingAutotuner.precompile = lambda self, *_, **__: precompile(self, warm_cache_only=True)
    # It refuses what has no backward on a CPU, where nothing is computed here.
    flex_attention._validate_device = lambda *_: None


def compile_call(backend: Backend, case: Case, compiler: Compiler) -> None:
    """Compile the forward and backward kernels of the adapter's call for a case.

    Its inputs are made and placed on a CPU as the check makes them on a GPU. Raises whatever torch or Triton raises,
    and RuntimeError where the call was not compiled as a forward and a backward.
    """
    import torch

    from entrypoint.probe import cases, memory

    arguments, dout = cases.make_inputs(case, torch.device("cpu"))
    leaves, _ = memory.place(arguments, dout, case.layout, requires_grad=True)
    before = compiler.lowered
    try:
        backend.attention(leaves)
    except Launched:
        graphs = compiler.lowered - before
        if graphs != 2:
            raise RuntimeError(f"{graphs} graphs were compiled, and a forward and a backward are two") from None
    else:
        raise RuntimeError("nothing was compiled: the call computed on the CPU")


def retarget(graph: Any) -> None:
    """Move every node of a traced graph, and of the graphs in it (masks, score_mods), to the GPU."""
    import torch

    to_gpu = functools.partial(torch.utils._pytree.tree_map, moved)
    for module in graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                if "val" in node.meta:
                    node.meta["val"] = to_gpu(node.meta["val"])
                node.args, node.kwargs = to_gpu(node.args), to_gpu(dict(node.kwargs))
            module.recompile()


def moved(value: Any) -> Any:
    """A device, or a fake tensor of the same shape, strides and dtype on the GPU; anything else as it is."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor

    where = torch.device("cuda", 0)
    if isinstance(value, torch.device):
        return where
    if isinstance(value, FakeTensor):
        with value.fake_mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=where)
    return value
