"""FlexAttention, compiled: windows, packed documents and S2's shifted segments as block masks, softcap as score_mod."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from entrypoint.probe.backends import Arguments, Attention, Backend, Capabilities, Feature, hardware, masks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

# Inductor's template kernels on a GPU (`triton_tem_fused_flex_attention_0`, in older versions `triton_tem_fused_0`).
# Its C++ kernels have no name in a profile; on a CPU the call of the compiled graph stands for them.
KERNELS = (r"triton_tem_fused_", r"Call CompiledFxGraph")
CACHE = "TORCHINDUCTOR_CACHE_DIR"
COMPILES_EACH_VARIANT = True
START_VARIANTS = 6
# Every shape, mask and score_mod is a variant of its own. torch's default of 8 is fewer than we check, and past it flex
# runs unfused with only a log line; fullgraph makes that an error as well.
RECOMPILE_LIMIT = 512
MASKS_KEPT = 128

SOURCE = "torch 2.10-2.13, torch/_inductor/kernel/flex (no atomics in its backward); head_dim on sm_12x: pytorch#198224"


def load(where: torch.device) -> Backend:
    """Raises ImportError where torch has no FlexAttention, UnsupportedChip where Triton has no matrix units to use."""
    chip = hardware.chip_of(where)
    claims = hardware.claims_on("flex", chip, capabilities(chip), ("a CPU", "compute capability 8.0 on", "AMD"))
    compiled, no_gradient = compiled_flex_attention(), refusal_of_gradients(where)
    if no_gradient is not None:
        return Backend(name="flex", attention=adapt(compiled), no_gradient=no_gradient, capabilities=claims)
    training = adapt_training(compiled)
    return Backend(name="flex", attention=training.out, capabilities=claims, logsumexp=training.logsumexp)


def capabilities(chip: hardware.Chip) -> Capabilities | None:
    """Forward and without logsumexp on a CPU. sm_12x has too little shared memory for larger backward passes.

    head_dim 256 is right on an H200 and left out all the same: Triton compiles its backward for 27 seconds there.
    """
    on_gpu = chip in hardware.AMD or hardware.at_least(chip, (8, 0))
    if chip != "cpu" and not on_gpu:
        return None
    wide = ((192, 128),) if hardware.at_least(chip, (8, 0)) and not hardware.at_least(chip, (12, 0)) else ()
    features: tuple[Feature, ...] = ("window", "softcap", "varlen", "gqa", "strided", "deterministic")
    return Capabilities(
        dtypes=hardware.HALVES,
        head_dims=(*hardware.same(64, 96, 128), *wide),
        features=frozenset((*features, "logsumexp") if on_gpu else features),
        source=SOURCE,
        proved={"cpu": ("CPU",), (9, 0): ("H200",)}.get(chip, ()),
    )


def preload() -> None:
    """Import what traces. It asks no driver how many GPUs there are, as the compiler's import does."""
    compiled_flex_attention()


def preload_compiler() -> None:
    """Import what a first call would import: half a second."""
    importlib.import_module("torch._inductor.compile_fx")


@functools.cache
def compiled_flex_attention(compiler: Any = "inductor") -> Any:
    """flex_attention compiled by a backend of torch.compile, for shapes as they are; `fullgraph` refuses what would run
    unfused.
    """
    import torch._dynamo.config
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.accumulated_recompile_limit = 2 * RECOMPILE_LIMIT
    return torch.compile(flex_attention, backend=compiler, dynamic=False, fullgraph=True)


def adapt(compiled: Any) -> Attention:
    """The one signature around a compiled flex_attention, for inference."""

    def attention(arguments: Arguments) -> Tensor:
        out: Tensor = compiled(*heads_first(arguments), **options(arguments))
        return out.transpose(1, 2)

    return attention


@dataclass(frozen=True, kw_only=True)
class Joint:
    """flex_attention as transformers calls it in training: output and logsumexp from one compiled graph."""

    out: Attention
    logsumexp: Attention


def adapt_training(compiled: Any) -> Joint:
    """The logsumexp that flex returns is a natural logarithm, [batch, heads, seqlen].

    It is asked for with inputs that need gradients, as the output is: the same graph, and no second compilation.
    """

    def both(arguments: Arguments) -> tuple[Tensor, Tensor]:
        from torch.nn.attention.flex_attention import AuxRequest

        out, aux = compiled(*heads_first(arguments), **options(arguments), return_aux=AuxRequest(lse=True))
        return out.transpose(1, 2), aux.lse

    def logsumexp(arguments: Arguments) -> Tensor:
        return both(arguments.map(lambda tensor: tensor.detach().requires_grad_()))[1].detach()

    return Joint(out=lambda arguments: both(arguments)[0], logsumexp=logsumexp)


def heads_first(arguments: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Views [batch, heads, seqlen, head_dim], as flex wants them."""
    return (arguments.q.transpose(1, 2), arguments.k.transpose(1, 2), arguments.v.transpose(1, 2))


def options(arguments: Arguments) -> dict[str, Any]:
    """flex_attention's keyword arguments for this call."""
    pattern = masks.Pattern.of(arguments)
    return {
        "score_mod": softcapped(arguments.softcap) if arguments.softcap else None,
        "block_mask": None if pattern.masks_nothing else block_mask(pattern, arguments.q.device),
        "scale": arguments.softmax_scale,
        "enable_gqa": arguments.q.shape[2] != arguments.k.shape[2],
    }


@functools.lru_cache(maxsize=MASKS_KEPT)
def block_mask(pattern: masks.Pattern, where: torch.device) -> Any:
    """A BlockMask, made once per pattern: a model makes it once per step, not once per layer.

    The same object each time also keeps torch from compiling the same mask twice.
    """
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask

    mask_mod = masks.visible(pattern, where)
    if pattern.heads is None:
        return create_block_mask(mask_mod, None, None, pattern.queries, pattern.keys, device=str(where))
    # Two heads stand for the two halves; one dense mask for each of them all would need heads / 2 times the memory.
    halves = masks.visible(replace(pattern, heads=2), where)
    pair = create_block_mask(halves, None, 2, pattern.queries, pattern.keys, device=str(where))
    blocks = (pair.kv_num_blocks, pair.kv_indices, pair.full_kv_num_blocks, pair.full_kv_indices)
    return BlockMask.from_kv_blocks(
        *(None if part is None else part.repeat_interleave(pattern.heads // 2, dim=1) for part in blocks),
        BLOCK_SIZE=pair.BLOCK_SIZE,
        mask_mod=mask_mod,
        seq_lengths=pair.seq_lengths,
    )


@functools.lru_cache(maxsize=MASKS_KEPT)
def softcapped(softcap: float) -> ScoreMod:
    """score_mod comes after the scale, as Arguments.softcap does."""
    import torch

    def score_mod(score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return score_mod


def refusal_of_gradients(where: torch.device) -> str | None:
    """Flex's own words when it has no backward on this device, else None.

    Asked of the uncompiled function: it refuses before it computes, and a compiled function whose tracing failed once
    would run later calls unfused.
    """
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    if where.type != "cpu":
        return None
    q = torch.zeros(1, 1, 16, 16, device=where, requires_grad=True)
    try:
        flex_attention(q, q, q)
    except NotImplementedError as refusal:
        return str(refusal)
    return None
