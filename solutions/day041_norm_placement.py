"""Day 41: where the norm stands around a residual path, and what that does to training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes
from solutions.day033_multi_head import MultiHeadAttention
from solutions.day034_absolute_positions import LearnedPositions
from solutions.day039_feed_forward import FeedForward


class PreNorm(nn.Module):
    """``x + dropout(sublayer(norm(x)))``: the norm stands before the sublayer.

    The path of ``x`` itself meets neither norm nor dropout. Submodules: ``norm``,
    ``sublayer`` and ``dropout``, an ``nn.Dropout``.

    Source: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
    """

    def __init__(
        self,
        d_model: int,
        sublayer: nn.Module,
        *,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        """Keep ``sublayer``, and make the norm, ``norm(d_model)``.

        ``dropout`` is the probability with which an entry of what the sublayer adds is
        dropped while the module trains.
        """
        super().__init__()
        self.norm = norm(d_model)
        self.sublayer = sublayer
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add to ``x`` what the sublayer makes of the normalized ``x``.

        Parameters
        ----------
        x:
            ``(..., d_model)``. Left unchanged.
        args, kwargs:
            Handed on to the sublayer after the normalized ``x``, as they are.

        Returns
        -------
        ``(..., d_model)``. If the sublayer returns a tuple ``(y, *rest)``, then ``y``
        is added and the result is the tuple ``(x, *rest)``.

        Raises ValueError that says ``shape`` if what would be added has not the shape
        of ``x``.
        """
        update, rest = _split(self.sublayer(self.norm(x), *args, **kwargs), x)
        out = x + self.dropout(update)
        return out if rest is None else (out, *rest)


known_mistakes(
    PreNorm,
    (
        "update, rest = _split(self.sublayer(self.norm(x), *args, **kwargs), x)\n        out = x + self.dropout(update)",
        "update, rest = _split(self.sublayer(x, *args, **kwargs), x)\n        out = self.norm(x + self.dropout(update))",
        "the norm stands after the addition: this is PostNorm",
    ),
    (
        "        update, rest = _split(self.sublayer(self.norm(x), *args, **kwargs), x)\n",
        "        x = self.norm(x)\n        update, rest = _split(self.sublayer(x, *args, **kwargs), x)\n",
        "the normalized x is carried on too: the path of x itself must meet no norm",
    ),
    (
        "self.sublayer(self.norm(x), *args, **kwargs)",
        "self.norm(self.sublayer(x, *args, **kwargs))",
        "what the sublayer returns is normalized, in place of what it reads",
    ),
    (
        "x + self.dropout(update)",
        "self.dropout(x + update)",
        "dropout acts on the sum: it drops entries of x as well, at every sublayer",
    ),
    (
        "x + self.dropout(update)",
        "x + nn.functional.dropout(update, self.dropout.p)",
        "entries are dropped in evaluation too: the function does not know the module's mode",
    ),
    (
        "x + self.dropout(update)",
        "x + update",
        "dropout is made and never used",
    ),
    (
        "self.sublayer(self.norm(x), *args, **kwargs)",
        "self.sublayer(self.norm(x))",
        "what the sublayer needs besides x (a mask, a memory) is not handed on",
    ),
    (
        "self.sublayer(self.norm(x), *args, **kwargs)",
        "self.sublayer(self.norm(x), *map(self.norm, args), **kwargs)",
        "the other arguments are normalized as well; they go to the sublayer as they are",
    ),
    (
        "return out if rest is None else (out, *rest)",
        "return out",
        "what a tuple holds after its first item (attention's weights) is lost",
    ),
    (
        "return out if rest is None else (out, *rest)",
        "return (out, *(rest or ()))",
        "a sublayer that returns a tensor gets a tuple back",
    ),
    (
        "update, rest = _split(self.sublayer(self.norm(x), *args, **kwargs), x)",
        "result = self.sublayer(self.norm(x), *args, **kwargs)\n        update, rest = (result[0], result[1:]) if isinstance(result, tuple) else (result, None)",
        "an update of another shape is broadcast over x, and nobody notices",
    ),
    (
        "self.norm = norm(d_model)",
        "self.norm = nn.LayerNorm(d_model)",
        "the argument norm is not used",
    ),
)


class PostNorm(nn.Module):
    """``norm(alpha * x + dropout(sublayer(x)))``: the norm stands after the addition.

    Submodules: ``norm``, ``sublayer`` and ``dropout``, an ``nn.Dropout``. With
    ``alpha`` 1 this is the Transformer of 2017; DeepNorm takes a larger one.

    Source: Vaswani et al. 2017, sec. 5.4; ``alpha``, Wang et al. 2022, "DeepNet".
    """

    def __init__(
        self,
        d_model: int,
        sublayer: nn.Module,
        *,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        alpha: float = 1.0,
    ) -> None:
        """Keep ``sublayer``, and make the norm, ``norm(d_model)``.

        ``dropout`` is the probability with which an entry of what the sublayer adds is
        dropped while the module trains. ``alpha`` multiplies ``x`` before the addition.
        """
        super().__init__()
        self.norm = norm(d_model)
        self.sublayer = sublayer
        self.dropout = nn.Dropout(dropout)
        self.alpha = alpha

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add to ``x`` what the sublayer makes of it, and normalize the sum.

        Parameters
        ----------
        x:
            ``(..., d_model)``. Left unchanged.
        args, kwargs:
            Handed on to the sublayer after ``x``, as they are.

        Returns
        -------
        ``(..., d_model)``. If the sublayer returns a tuple ``(y, *rest)``, then ``y``
        is added and the result is the tuple ``(x, *rest)``.

        Raises ValueError that says ``shape`` if what would be added has not the shape
        of ``x``.
        """
        update, rest = _split(self.sublayer(x, *args, **kwargs), x)
        out = self.norm(self.alpha * x + self.dropout(update))
        return out if rest is None else (out, *rest)


known_mistakes(
    PostNorm,
    (
        "update, rest = _split(self.sublayer(x, *args, **kwargs), x)\n        out = self.norm(self.alpha * x + self.dropout(update))",
        "update, rest = _split(self.sublayer(self.norm(x), *args, **kwargs), x)\n        out = self.alpha * x + self.dropout(update)",
        "the norm stands before the sublayer: this is PreNorm",
    ),
    (
        "self.norm(self.alpha * x + self.dropout(update))",
        "self.alpha * x + self.norm(self.dropout(update))",
        "only what the sublayer adds is normalized; the norm takes the sum",
    ),
    (
        "self.norm(self.alpha * x + self.dropout(update))",
        "self.norm(self.dropout(update))",
        "x itself is not added: there is no residual path",
    ),
    (
        "self.alpha * x + self.dropout(update)",
        "self.alpha * (x + self.dropout(update))",
        "alpha multiplies the whole sum, and the norm divides it out again; it belongs to x alone",
    ),
    (
        "self.alpha * x + self.dropout(update)",
        "x + self.alpha * self.dropout(update)",
        "alpha multiplies what the sublayer adds; it belongs to x",
    ),
    (
        "self.alpha * x",
        "x",
        "alpha is not used",
    ),
    (
        "self.norm(self.alpha * x + self.dropout(update))",
        "self.norm(self.dropout(self.alpha * x + update))",
        "dropout acts on the sum: it drops entries of x as well",
    ),
    (
        "self.norm(self.alpha * x + self.dropout(update))",
        "self.dropout(self.norm(self.alpha * x + update))",
        "dropout comes after the norm; it belongs to what the sublayer adds",
    ),
    (
        "self.sublayer(x, *args, **kwargs)",
        "self.sublayer(x, *args)",
        "arguments with names (a mask, causal) are not handed on",
    ),
    (
        "return out if rest is None else (out, *rest)",
        "return out if not rest else (out, *rest)",
        "a tuple of one item must come back as a tuple of one item",
    ),
    (
        "update, rest = _split(self.sublayer(x, *args, **kwargs), x)",
        "result = self.sublayer(x, *args, **kwargs)\n        update, rest = (result[0], result[1:]) if isinstance(result, tuple) else (result, None)",
        "an update of another shape is broadcast over x, and nobody notices",
    ),
)


def _split(result: Any, x: Tensor) -> tuple[Tensor, tuple[Any, ...] | None]:
    """What is added to ``x``, and what a tuple holds after it; None without a tuple."""
    update, rest = (result[0], result[1:]) if isinstance(result, tuple) else (result, None)
    if update.shape != x.shape:
        raise ValueError(
            f"the sublayer's shape {tuple(update.shape)} is not that of x, {tuple(x.shape)}"
        )
    return update, rest


class Normed(nn.Module):
    """``norm(sublayer(x))``, so that ``PreNorm`` around it makes the sandwich.

    Submodules: ``norm`` and ``sublayer``. If the sublayer returns a tuple, its first
    item is normalized and the rest is returned along.

    Source: Ding et al. 2021, "CogView", Sandwich-LN.
    """

    def __init__(self, d_model: int, sublayer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.sublayer = sublayer

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """``x`` is ``(..., d_model)``; ``args`` and ``kwargs`` go to the sublayer."""
        result = self.sublayer(x, *args, **kwargs)
        if isinstance(result, tuple):
            return self.norm(result[0]), *result[1:]
        return self.norm(result)


# --- a stack of any depth, with any of five placements --------------------------------

PLACEMENTS = ("post", "pre", "pre, RMS", "sandwich", "DeepNorm")


class Stack(nn.Module):
    """A causal language model whose norms stand where ``placement`` says.

    ``layers`` blocks of attention and feed-forward network, each wrapped. Matrices of
    the blocks are drawn by Xavier's rule, as in ``nn.Transformer``, their biases are 0.
    Models of the same seed and depth have the same first weights; "DeepNorm" makes
    some of them smaller.
    """

    def __init__(
        self, placement: str, layers: int, symbols: int, *,
        d_model: int = 32, heads: int = 4, d_ff: int = 64, longest: int = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        if placement not in PLACEMENTS:
            raise ValueError(f"the placements are {PLACEMENTS}; got {placement!r}")
        self.embed = nn.Embedding(symbols, d_model)
        self.positions = LearnedPositions(longest, d_model, std=0.1)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            sublayers = MultiHeadAttention(d_model, heads), FeedForward(d_model, d_ff)
            parts = [wrap(placement, layers, d_model, part) for part in sublayers]
            self.blocks.append(nn.ModuleList(parts))
        last = {"post": nn.Identity, "DeepNorm": nn.Identity, "pre, RMS": nn.RMSNorm}
        self.norm = last.get(placement, nn.LayerNorm)(d_model)
        self.unembed = nn.Linear(d_model, symbols)
        for name, value in self.blocks.named_parameters():
            if value.ndim > 1:
                nn.init.xavier_uniform_(value)
                small = ("value.weight", "output.weight", "up.weight", "down.weight")
                if placement == "DeepNorm" and name.endswith(small):
                    value.data *= (8 * layers) ** -0.25
            elif name.endswith("bias"):
                nn.init.zeros_(value)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``(B, n)`` to logits ``(B, n, symbols)`` of the next token."""
        return self.unembed(self.norm(self.stream(ids)[-1]))

    def stream(self, ids: Tensor) -> list[Tensor]:
        """The stream, ``(B, n, d_model)``, at the start and after each sublayer."""
        xs = [self.positions(self.embed(ids))]
        for attention, feed_forward in self.blocks:
            xs.append(attention(xs[-1], causal=True)[0])
            xs.append(feed_forward(xs[-1]))
        return xs


def wrap(placement: str, layers: int, d_model: int, part: nn.Module) -> nn.Module:
    """A sublayer of a stack of ``layers`` blocks, with its norms."""
    if placement == "DeepNorm":
        return PostNorm(d_model, part, alpha=(2 * layers) ** 0.25)
    if placement == "pre, RMS":
        return PreNorm(d_model, part, norm=nn.RMSNorm)
    if placement == "sandwich":
        return PreNorm(d_model, Normed(d_model, part))
    return (PostNorm if placement == "post" else PreNorm)(d_model, part)


class Sweep(NamedTuple):
    """What ``train_depth_sweep`` returns, by ``(placement, depth, warmup)``."""

    losses: dict[tuple[str, int, int], Tensor]
    """``(len(seeds), steps)`` of float64: the loss of each step's batch."""
    failed: dict[tuple[str, int, int], Tensor]
    """``(len(seeds),)`` of bool: True for a run that has learned nothing."""


def train_depth_sweep(
    make: Callable[[str, int], nn.Module],
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    *,
    placements: Sequence[str],
    depths: Sequence[int],
    warmups: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    lr: float,
    floor: float,
    last: int = 20,
) -> Sweep:
    """Train a model for each placement, depth, warm-up and seed; say which failed.

    Parameters
    ----------
    make:
        ``make(placement, depth)`` gives a new model, from inputs to logits
        ``(..., classes)``. It draws its parameters from torch's global generator.
    draw:
        ``draw(generator)`` gives a batch: inputs for the model, and integer targets
        ``(...)``. All that is random in it comes from ``generator``.
    placements, depths, warmups:
        All combinations are trained.
    seeds:
        Integers. A seed fixes the initial parameters (``torch.manual_seed`` right
        before ``make``) and, by a generator of its own with the same seed, the
        batches. Both are the same for all placements and warm-ups.
    steps, lr:
        Steps of ``torch.optim.Adam`` with betas (0.9, 0.98), in training mode. The
        loss of a step is the mean cross-entropy over the targets of its batch. With
        warm-up w, step k of 1, 2, ... has the learning rate ``lr * min(1, k / w)``;
        with warm-up 0 it is ``lr`` from the first step on.
    floor, last:
        A run has failed if the mean of its last ``last`` losses is ``floor`` or more.

    Returns
    -------
    A ``Sweep`` of two dictionaries with the keys ``(placement, depth, warmup)``. If the
    loss of a step is not finite, it and all later losses of this run are recorded as
    ``inf``, and the training of this run ends there.

    Raises ValueError that says ``last`` if it is not from 1 to ``steps``, and one that
    says ``warmup`` if one of them is negative. Nothing is trained then.

    Source: Xiong et al. 2020, sec. 3.2, where depth is fixed.
    """
    if not 1 <= last <= steps:
        raise ValueError(f"last is from 1 to {steps} steps, got {last}")
    if min(warmups) < 0:
        raise ValueError(f"a warmup is a number of steps, got {min(warmups)}")
    losses, failed = {}, {}
    for placement in placements:
        for depth in depths:
            for warmup in warmups:
                key = placement, depth, warmup
                rows = [
                    _train(make, draw, key, seed, steps=steps, lr=lr) for seed in seeds
                ]
                losses[key] = torch.tensor(rows, dtype=torch.float64)
                failed[key] = losses[key][:, -last:].mean(dim=1) >= floor
    return Sweep(losses, failed)


def _train(
    make: Callable[[str, int], nn.Module],
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    key: tuple[str, int, int],
    seed: int,
    *,
    steps: int,
    lr: float,
) -> list[float]:
    """The losses of one run; inf from the first that is not finite."""
    placement, depth, warmup = key
    torch.manual_seed(seed)
    model = make(placement, depth)
    model.train()
    batches = torch.Generator().manual_seed(seed)
    # equivalent `betas=(0.9, 0.98))` `fused=False`: fused is faster and computes the same
    optimizer = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.98), fused=True)
    losses: list[float] = []
    for k in range(1, steps + 1):
        inputs, targets = draw(batches)
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        if not math.isfinite(loss.item()):
            break
        losses.append(loss.item())
        # equivalent `param_groups[-1]`: there is one group
        optimizer.param_groups[0]["lr"] = lr * min(1, k / max(warmup, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses + [math.inf] * (steps - len(losses))


known_mistakes(
    train_depth_sweep,
    (
        "    torch.manual_seed(seed)\n    model = make(placement, depth)\n",
        "    model = make(placement, depth)\n    torch.manual_seed(seed)\n",
        "the seed is set after the model was made: it fixes nothing of the model",
    ),
    (
        "    batches = torch.Generator().manual_seed(seed)\n",
        "    batches = torch.default_generator\n",
        "the batches come from the generator that made the model: a model with more parameters gets other batches",
    ),
    (
        "lr * min(1, k / max(warmup, 1))",
        "lr * k / max(warmup, 1)",
        "the learning rate goes on growing after the warm-up",
    ),
    (
        "lr * min(1, k / max(warmup, 1))",
        "lr * min(1, (k - 1) / max(warmup, 1))",
        "the first step has the learning rate 0: steps count from 1",
    ),
    (
        "lr * min(1, k / max(warmup, 1))",
        "lr * min(1, k / warmup)",
        "a warm-up of 0 steps divides by zero: it means the full rate from the first step on",
    ),
    (
        "        optimizer.param_groups[0][\"lr\"] = lr * min(1, k / max(warmup, 1))\n",
        "",
        "there is no warm-up",
    ),
    (
        "        loss.backward()\n        optimizer.step()\n",
        "        loss.backward()\n        nn.utils.clip_grad_norm_(model.parameters(), 0.1)\n        optimizer.step()\n",
        "gradients are clipped: that is another remedy, and not part of this comparison",
    ),
    (
        ", betas=(0.9, 0.98)",
        "",
        "the betas of Adam are its defaults, not (0.9, 0.98)",
    ),
    (
        "        optimizer.zero_grad()\n",
        "",
        "the gradients of all steps add up: zero_grad is missing",
    ),
    (
        "        if not math.isfinite(loss.item()):\n            break\n",
        "",
        "a run whose loss is not finite goes on, and NaN compares as not failed",
    ),
    (
        "if not math.isfinite(loss.item()):",
        "if math.isnan(loss.item()):",
        "a loss may overflow to inf as well: the run ends at the first that is NaN or inf",
    ),
    (
        "return losses + [math.inf] * (steps - len(losses))",
        "return losses + [math.nan] * (steps - len(losses))",
        "the missing losses are NaN: no comparison with NaN is true, so the run counts as trained",
    ),
    (
        "losses[key][:, -last:].mean(dim=1) >= floor",
        "losses[key][:, -1] >= floor",
        "one batch decides; the mean of the last losses is asked for",
    ),
    (
        "losses[key][:, -last:].mean(dim=1) >= floor",
        "losses[key].mean(dim=1) >= floor",
        "the mean runs over all steps, the bad ones of the beginning included",
    ),
    (
        "losses[key][:, -last:].mean(dim=1) >= floor",
        "losses[key][:, -last:].mean(dim=1) > floor",
        "a mean of exactly floor has failed",
    ),
    (
        "    model.train()\n",
        "    model.eval()\n",
        "the model is trained in evaluation mode: without dropout",
    ),
    (
        "    if min(warmups) < 0:\n",
        "    if False:\n",
        "a negative warm-up must be a ValueError",
    ),
    (
        "    if not 1 <= last <= steps:\n",
        "    if last < 1:\n",
        "more last losses than steps must be a ValueError",
    ),
)
