"""Linear layers stored in 4 bits for lab 5.1: by bitsandbytes on a GPU, in plain PyTorch without one.

Day 123 derives the sixteen levels and the double quantization. Here they are a tool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BLOCK, GROUP = 64, 256  # weights that share a scale, scales that share a scale


def levels() -> Tensor:
    """The sixteen numbers of NF4: quantiles of a normal distribution, from -1 to 1, with a zero."""
    offset = 0.9677083
    above = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    both = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    return (both / both.max()).float()


class PlainNF4(nn.Linear):
    """A frozen linear layer whose weight is kept as 4-bit codes, two in a byte.

    Scales of blocks of 64 weights are kept in 8 bits, with one float32 for 256 of them and one for
    their mean. The weight is unpacked whenever it is needed, and not kept in between.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        flat = layer.weight.detach().float().flatten()
        flat = nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
        scale = flat.abs().amax(1)
        between = (levels()[1:] + levels()[:-1]) / 2  # where one level ends and the next begins
        codes = torch.bucketize(flat / scale.clamp(min=1e-12)[:, None], between).to(torch.uint8)
        packed = codes.view(-1, 2)
        self.weight = nn.Parameter(packed[:, 0] << 4 | packed[:, 1], requires_grad=False)
        self.register_buffer("mean", scale.mean())
        groups = nn.functional.pad(scale - self.mean, (0, -len(scale) % GROUP)).view(-1, GROUP)
        self.register_buffer("group_scale", groups.abs().amax(1).clamp(min=1e-12) / 127)
        scales = (groups / self.group_scale[:, None]).round().to(torch.int8)
        self.register_buffer("scales", scales.flatten()[: len(scale)].clone())

    def dequantized(self) -> Tensor:
        """The weight that the codes stand for, ``(d_out, d_in)``, in float32."""
        groups = self.group_scale.repeat_interleave(GROUP)[: len(self.scales)]
        scale = self.scales * groups + self.mean
        values = _pairs().index_select(0, self.weight.int()).view(torch.float32)
        values = values.view(-1, BLOCK) * scale[:, None]
        count = self.in_features * self.out_features
        return values.flatten()[:count].view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of shape ``(..., d_in)`` to ``(..., d_out)``."""
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias


def _pairs() -> Tensor:
    """For each byte the two numbers that it holds, in the memory of one float64: (256,)."""
    if not _PAIRS:
        byte = torch.arange(256)
        _PAIRS.append(levels()[torch.stack([byte >> 4, byte & 15], 1)].view(torch.float64).flatten())
    return _PAIRS[0]


_PAIRS: list[Tensor] = []


class _Product(torch.autograd.Function):
    """``x @ W.T`` that keeps the layer for the backward pass and not its unpacked weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PlainNF4) -> Tensor:
        ctx.layer = layer
        return x @ layer.dequantized().T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized(), None


def bitsandbytes_nf4(layer: nn.Linear) -> nn.Module:
    """The same layer, as ``bitsandbytes.nn.Linear4bit`` on the GPU, computing in float16."""
    import bitsandbytes

    options = {"compute_dtype": torch.float16, "compress_statistics": True, "quant_type": "nf4"}
    new = bitsandbytes.nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, **options)
    new.weight = bitsandbytes.nn.Params4bit(
        layer.weight.detach().cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=new
    )
    new.bias = layer.bias
    return new.to(layer.weight.device)  # it is quantized on its way to the GPU


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes of a model's weights, of their gradients, and of what an Adam optimizer keeps; shared memory counts once."""
    weights = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        weights += _tensors(getattr(parameter, "quant_state", None))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    states = optimizer.state.values() if optimizer else ()
    averages = [t for state in states for t in state.values() if torch.is_tensor(t) and t.ndim]
    return {"weights": _bytes(weights), "gradients": _bytes(gradients), "optimizer": _bytes(averages)}


def _tensors(state: Any) -> Iterator[Tensor]:
    """What a bitsandbytes ``QuantState`` keeps beside the codes."""
    for value in vars(state).values() if state is not None else ():
        if torch.is_tensor(value):
            yield value
        elif type(value).__name__ == "QuantState":
            yield from _tensors(value)


def _bytes(tensors: list[Tensor]) -> int:
    seen = {t.data_ptr(): t.numel() * t.element_size() for t in tensors}
    return sum(seen.values())
