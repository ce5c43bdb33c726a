"""Day 36: rotary position embedding, and a fair comparison of schemes of positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes
from solutions.day033_multi_head import merge_heads, split_heads
from solutions.day034_absolute_positions import LearnedPositions, sinusoidal
from solutions.day035_relative_positions import alibi_slopes, t5_bucket


def rope_frequencies(d_head: int, base: float = 10000.0) -> Tensor:
    """The angle by which each plane of a head turns per position, in radians.

    Parameters
    ----------
    d_head:
        Width of a head, even. It has ``d_head / 2`` planes.
    base:
        The slowest plane turns by a little more than ``1 / base`` per position.

    Returns
    -------
    ``(d_head / 2,)`` of float64: plane m has ``base ** (-2 * m / d_head)``, so the
    first has 1.

    Raises ValueError that says ``even`` if ``d_head`` is odd.

    Source: Su et al. 2024, "RoFormer", sec. 3.2.2.
    """
    # equivalent `d_head % 2 > 0`: no remainder is negative here
    if d_head % 2 != 0:
        raise ValueError(f"planes need an even width, got {d_head}")
    return base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)


known_mistakes(
    rope_frequencies,
    (
        "torch.arange(0, d_head, 2, dtype=torch.float64) / d_head",
        "torch.arange(0, d_head, 2, dtype=torch.float64) / (d_head // 2)",
        "the exponent is -2m / d_head; yours is twice as large, so the planes slow down too quickly",
    ),
    (
        "torch.arange(0, d_head, 2, dtype=torch.float64)",
        "torch.arange(d_head // 2, dtype=torch.float64)",
        "the exponent is -2m / d_head; the 2 is missing, so no plane is slow",
    ),
    (
        "-torch.arange(0, d_head, 2",
        "-torch.arange(1, d_head, 2",
        "the first plane has frequency 1: m begins at 0",
    ),
    (
        "(-torch.arange",
        "(torch.arange",
        "these are the reciprocals of the frequencies: later planes turn slower, not faster",
    ),
    (
        "dtype=torch.float64",
        "dtype=torch.float32",
        "float64 is asked for: a rounding of the frequency is multiplied by the position",
    ),
    (
        "    return base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)",
        "    one = base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)\n    return torch.cat([one, one])",
        "one frequency for each plane is asked for, not one for each entry of the head",
    ),
    (
        "    if d_head % 2 != 0:\n",
        "    if False:\n",
        "an odd width leaves one entry without a partner: it must be a ValueError",
    ),
)


def apply_rope(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Turn every plane of each vector by its frequency times the vector's position.

    Plane m consists of the entries ``m`` and ``m + d_head / 2``, the layout of Llama
    in the library transformers ("rotate half").

    Parameters
    ----------
    x:
        ``(..., n, d_head)``, queries or keys, ``d_head`` even. Left unchanged.
    positions:
        ``(n,)``, or ``(..., n)`` where the axes in front broadcast with those of
        ``x``: for one row of positions per sequence of ``(B, h, n, d_head)``, give
        ``(B, 1, n)``. Integers or floats, also fractions and negative ones.
    base:
        As in ``rope_frequencies``.

    Returns
    -------
    ``(..., n, d_head)``, differentiable in ``x`` and of its dtype. The angles and their
    sines and cosines are made in float64, whatever the dtype of ``x``.

    Raises ValueError that says ``even`` if ``d_head`` is odd, and one that says, for
    example, ``5 vectors, 1 positions`` where the numbers differ.

    Source: Su et al. 2024, "RoFormer", sec. 3.4.2; the layout is that of
    ``apply_rotary_pos_emb`` in transformers' ``modeling_llama.py``.
    """
    n, d_head = x.shape[-2:]
    if positions.shape[-1] != n:
        raise ValueError(f"{n} vectors, {positions.shape[-1]} positions")
    frequencies = rope_frequencies(d_head, base).to(x.device)
    angles = positions[..., None] * frequencies  # (..., n, d_head / 2), float64
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


known_mistakes(
    apply_rope,
    (
        "    first, second = x.chunk(2, dim=-1)\n    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)",
        "    first, second = x[..., ::2], x[..., 1::2]\n    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)",
        "the planes are neighboring entries, the layout of the paper; here plane m is entries m and m + d_head / 2",
    ),
    (
        "[first * cos - second * sin, second * cos + first * sin]",
        "[first * cos + second * sin, second * cos - first * sin]",
        "the planes turn the other way: scores depend on the distance, but not as Llama's do",
    ),
    (
        "first * cos - second * sin, ",
        "first * cos + second * sin, ",
        "a minus sign is missing: this is no rotation, and lengths change",
    ),
    (
        "[first * cos - second * sin, second * cos + first * sin]",
        "[second * cos + first * sin, first * cos - second * sin]",
        "the two halves have changed places",
    ),
    (
        "positions[..., None] * frequencies",
        "positions[..., None].to(x.dtype) * frequencies.to(x.dtype)",
        "the angles are made in the dtype of x: bfloat16 has no integers like 257, so neighbors get the same angle",
    ),
    (
        "rope_frequencies(d_head, base)",
        "rope_frequencies(d_head)",
        "the base is not handed on",
    ),
    (
        "positions[..., None] * frequencies",
        "positions.float()[..., None] * frequencies",
        "the positions are rounded to float32 before they are multiplied; the angles are made in float64",
    ),
    (
        "cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)",
        "cos, sin = angles.cos(), angles.sin()",
        "the result has another dtype than x: float32 has become float64",
    ),
    (
        "    angles = positions[..., None] * frequencies",
        "    angles = torch.arange(n)[:, None] * frequencies",
        "the positions given are not used: with a cache, new tokens do not begin at 0",
    ),
    (
        "    if positions.shape[-1] != n:\n",
        "    if False:\n",
        "one position for several vectors is broadcast: all get the same angle, and nobody notices",
    ),
)


# --- a small language model with any of six schemes -----------------------------------

SCHEMES = ("none", "sinusoidal", "learned", "T5", "ALiBi", "RoPE")


class Block(nn.Module):
    """Causal attention and two linear layers, each added to its input."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(2)])
        self.into = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        wide = nn.Linear(d_model, 4 * d_model)
        self.feed = nn.Sequential(wide, nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor, bias: Tensor, positions: Tensor | None) -> Tensor:
        """``(B, n, d_model)`` to the same; with positions, queries and keys turn."""
        parts = self.into(self.norms[0](x)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        if positions is not None:
            q, k = apply_rope(q, positions), apply_rope(k, positions)
        y = F.scaled_dot_product_attention(q, k, v, bias)
        x = x + self.out(merge_heads(y))
        return x + self.feed(self.norms[1](x))


class PositionModel(nn.Module):
    """A causal language model that knows positions by one of the ``SCHEMES``.

    ``trained`` is the length of the windows that it is trained on, ``longest`` the
    number of rows in the table of "learned". What a scheme needs beyond the others is
    made last, so that models of the same seed are alike in all that they share.
    """

    def __init__(
        self, scheme: str, symbols: int, trained: int = 32, longest: int = 128,
        d_model: int = 32, heads: int = 4, layers: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"the schemes are {', '.join(SCHEMES)}; got {scheme!r}")
        self.scheme, self.trained, self.heads = scheme, trained, heads
        self.token = nn.Embedding(symbols, d_model)
        self.blocks = nn.ModuleList([Block(d_model, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, symbols)
        if scheme == "learned":
            self.table = LearnedPositions(longest, d_model)
        if scheme == "T5":
            self.biases = nn.Parameter(torch.zeros(trained // 2, heads))

    def forward(
        self, ids: Tensor, window: int | None = None, stretch: float = 1.0
    ) -> Tensor:
        """Ids ``(B, n)`` to logits ``(B, n, symbols)`` of the next token.

        With a ``window``, each token sees only itself and the ``window - 1`` before it.
        ``stretch`` divides the positions that RoPE turns by.
        """
        n = ids.shape[1]
        x, bias = place(self, self.token(ids), window or n)
        at = torch.arange(n) / stretch if self.scheme == "RoPE" else None
        for block in self.blocks:
            x = block(x, bias, at)
        return self.head(self.norm(x))


def place(model: PositionModel, x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The tokens, ``(B, n, d_model)``, and the scores' bias, as the scheme has them."""
    n, d_model = x.shape[-2:]
    at = torch.arange(n)
    distance = at - at[:, None]  # key minus query, (n, n)
    seen = (distance <= 0) & (distance > -window)
    bias = torch.zeros(n, n).masked_fill(~seen, -math.inf)
    if model.scheme == "sinusoidal":
        x = x + sinusoidal(n, d_model).to(x.dtype)
    elif model.scheme == "learned":
        x = model.table(x)
    elif model.scheme == "T5":
        sizes = {"buckets": len(model.biases), "max_distance": model.trained}
        bucket = t5_bucket(distance, bidirectional=False, **sizes)
        bias = bias + model.biases[bucket].permute(2, 0, 1)  # (h, n, n)
    elif model.scheme == "ALiBi":
        bias = bias + alibi_slopes(model.heads)[:, None, None] * distance
    return x, bias


def compare_positions(
    make: Callable[[str], nn.Module],
    schemes: Sequence[str],
    train: Tensor,
    test: Tensor,
    *,
    length: int,
    lengths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    batch: int = 32,
    lr: float = 1e-2,
    scored: int = 16,
) -> dict[str, Tensor]:
    """Train a model for each scheme and seed, and measure it in and beyond its length.

    Parameters
    ----------
    make:
        ``make(scheme)`` gives a new model, from ids ``(B, n)`` to logits
        ``(B, n, symbols)`` of the next token. It draws its parameters from torch's
        global generator.
    schemes:
        Names to compare.
    train, test:
        Token ids, ``(N,)`` and ``(M,)``.
    length:
        Number of tokens that a model sees at once in training.
    lengths:
        Numbers of tokens that it sees at once in the test, shorter or longer.
    seeds:
        Integers. A seed fixes the initial parameters (``torch.manual_seed`` right
        before ``make``) and, by a generator of its own, the windows. Both are the same
        for all schemes.
    steps, batch, lr:
        Steps of ``torch.optim.Adam``, each on ``batch`` windows that begin at uniformly
        drawn places of ``train``. The learning rate of step k is
        ``lr * (1 - k / steps)``, k from 0. The loss is the mean over all tokens.
    scored:
        The test's targets are the same for each of the lengths: from ``max(lengths)``
        on, every ``scored``-th token of ``test`` ends a window, and the last ``scored``
        targets of each window count. Only what a model sees before them differs.

    Returns
    -------
    By scheme, ``(len(seeds), len(lengths))`` of float64: mean loss per target in nats,
    measured in evaluation mode and without gradients.

    Raises ValueError that says ``scored`` if it is not from 1 to ``min(lengths)``, and
    one that says ``short`` if a text does not hold one window and its last target.

    Source: evaluation beyond the trained length as in Press et al. 2022, "Train Short,
    Test Long", sec. 2, with the targets held fixed.
    """
    if not 1 <= scored <= min(lengths):
        raise ValueError(f"scored is from 1 to {min(lengths)}, got {scored}")
    if len(train) <= length or len(test) <= max(lengths):
        raise ValueError(f"texts of {len(train)} and {len(test)} tokens are too short")
    ends = torch.arange(max(lengths), len(test), scored)
    table = {}
    for scheme in schemes:
        rows = []
        for seed in seeds:
            torch.manual_seed(seed)
            model = make(scheme)
            windows = torch.Generator().manual_seed(seed)
            optimizer = torch.optim.Adam(model.parameters(), lr)
            model.train()
            for k in range(steps):
                starts = torch.randint(
                    len(train) - length, (batch, 1), generator=windows
                )
                ids = train[starts + torch.arange(length + 1)]
                logits = model(ids[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
                # equivalent `param_groups[-1]`: there is one group
                optimizer.param_groups[0]["lr"] = lr * (1 - k / steps)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            rows.append([_test_loss(model, test, ends, n, scored) for n in lengths])
        table[scheme] = torch.tensor(rows, dtype=torch.float64)
    return table


def _test_loss(
    model: nn.Module, test: Tensor, ends: Tensor, n: int, scored: int
) -> float:
    """Mean loss of the last targets of windows of n tokens that end at ``ends``."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        # equivalent `split(63)` `split(65)`: it only bounds the memory
        for some in ends.split(64):
            ids = test[some[:, None] - n + torch.arange(n + 1)]
            logits = model(ids[:, :-1])[:, -scored:].flatten(0, 1)
            targets = ids[:, -scored:].flatten()
            total += F.cross_entropy(logits, targets, reduction="sum").item()
    return total / (len(ends) * scored)


known_mistakes(
    compare_positions,
    (
        "            torch.manual_seed(seed)\n",
        "",
        "the initial parameters are not fixed by the seed: the schemes begin at different places",
    ),
    (
        "            torch.manual_seed(seed)\n            model = make(scheme)\n",
        "            model = make(scheme)\n            torch.manual_seed(seed)\n",
        "the seed is set after the model was made: it fixes nothing of the model",
    ),
    (
        "            windows = torch.Generator().manual_seed(seed)\n",
        "            windows = torch.default_generator\n",
        "the windows come from the generator that made the model: a scheme with more parameters gets other windows",
    ),
    (
        "    table = {}\n    for scheme in schemes:\n        rows = []\n        for seed in seeds:\n            torch.manual_seed(seed)\n            model = make(scheme)\n            windows = torch.Generator().manual_seed(seed)\n",
        "    table, windows = {}, torch.Generator().manual_seed(seeds[0])\n    for scheme in schemes:\n        rows = []\n        for seed in seeds:\n            torch.manual_seed(seed)\n            model = make(scheme)\n",
        "one generator runs on through all schemes, so each scheme gets other windows",
    ),
    (
        "ids[:, 1:].flatten()",
        "ids[:, :-1].flatten()",
        "the targets are the inputs: the model learns to copy the token that it sees",
    ),
    (
        "(batch, 1), generator=windows\n                )\n",
        "(1, 1), generator=windows\n                ).expand(batch, 1)\n",
        "one place is drawn for a step, and all windows of the step begin there; draw one for each window",
    ),
    (
        "                optimizer.zero_grad()\n",
        "",
        "the gradients of all steps add up: zero_grad is missing",
    ),
    (
        "= lr * (1 - k / steps)",
        "= lr",
        "the learning rate does not fall",
    ),
    (
        "ends = torch.arange(max(lengths), len(test), scored)",
        "ends = torch.arange(max(lengths), len(test), max(lengths))",
        "whole windows are laid side by side; every scored-th token of the test ends a window",
    ),
    (
        "[_test_loss(model, test, ends, n, scored) for n in lengths]",
        "[_test_loss(model, test, torch.arange(n, len(test), scored), n, scored) for n in lengths]",
        "the targets are other ones for each length: they begin at max(lengths) for all",
    ),
    (
        "[:, -scored:].flatten(0, 1)\n            targets = ids[:, -scored:].flatten()",
        ".flatten(0, 1)\n            targets = ids[:, 1:].flatten()",
        "all targets of a window count, also those at its beginning; the last ones are asked for",
    ),
    (
        "    model.eval()\n",
        "",
        "the test runs in training mode: dropout is on",
    ),
    (
        "with torch.no_grad():",
        "with torch.enable_grad():",
        "the test builds a graph that nobody needs",
    ),
    (
        "            model.train()\n",
        "            model.eval()\n",
        "the model is not in training mode while it is trained",
    ),
    (
        "table[scheme] = torch.tensor(rows, dtype=torch.float64)",
        "table[scheme] = torch.tensor(rows, dtype=torch.float64).mean(dim=0)",
        "the seeds are averaged away: one row for each is asked for",
    ),
    (
        "    if not 1 <= scored <= min(lengths):\n",
        "    if scored < 1:\n",
        "more scored targets than the shortest window has must be a ValueError",
    ),
    (
        "    if len(train) <= length or len(test) <= max(lengths):\n",
        "    if False:\n",
        "a text that does not hold one window must be a ValueError that says short",
    ),
)
