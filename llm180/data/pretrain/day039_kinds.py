"""Language models of Austen's characters with four feed-forward networks, for Day 39.

    python -m llm180.data.pretrain.day039_kinds

trains a small model for each kind, learning rate and seed, and stores the test losses of all, with the weights of the
first seed at the best rate. It takes about nine minutes of one core, shared by three processes. The page takes its text
and its training from here.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180.data.pretrain import day036, save
from llm180.data.pretrain.day039 import windows
from solutions.day024_ngram import ALPHABET
from solutions.day039_feed_forward import EncoderBlock

WIDTH, HEADS, HIDDEN, LAYERS, LENGTH = 32, 4, 128, 2, 32
EQUAL = 85  # the width of a SwiGLU network with the parameters of a plain one of HIDDEN
KINDS = {"relu": ("relu", HIDDEN), "gelu": ("gelu", HIDDEN), "swiglu": ("swiglu", EQUAL), "swiglu, same width": ("swiglu", HIDDEN)}
RATES, SEEDS = (1e-2, 2e-2, 4e-2, 8e-2), range(5)
STEPS, BATCH, WARMUP = 400, 16, 50
TESTED = 32_000  # characters


def texts() -> tuple[Tensor, Tensor]:
    """Ids of five novels, and of the beginning of the last twelve chapters of the sixth."""
    return day036.texts(TESTED + 1)


class CharModel(nn.Module):
    """A causal language model of characters; positions are numbers by head and distance, added to the scores (Day 35)."""

    def __init__(self, kind: str, d_ff: int, block: type[nn.Module] = EncoderBlock) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), WIDTH)
        self.blocks = nn.ModuleList(block(WIDTH, HEADS, d_ff, kind=kind, norm_first=True) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(ALPHABET))
        self.bias = nn.Parameter(torch.zeros(HEADS, LENGTH))

    def forward(self, ids: Tensor) -> Tensor:
        """``(B, LENGTH)`` to ``(B, LENGTH, characters)``: position i scores the character at i + 1."""
        at = torch.arange(LENGTH)
        bias = self.bias[:, (at[:, None] - at).clamp(min=0)][None]  # (1, heads, LENGTH, LENGTH)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, mask=bias, causal=True)
        return self.head(self.norm(x))


def make(name: str, block: type[nn.Module] = EncoderBlock) -> CharModel:
    """A new model whose blocks hold the feed-forward network of this name."""
    return CharModel(*KINDS[name], block)


def train(name: str, seed: int, rate: float, text: Tensor, steps: int = STEPS, block: type[nn.Module] = EncoderBlock) -> CharModel:
    """A model from this seed, trained by Adam on windows that depend on the seed alone."""
    torch.manual_seed(seed)
    model = make(name, block)
    drawn = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / WARMUP, 1 - step / steps)
        starts = torch.randint(len(text) - LENGTH, (BATCH, 1), generator=drawn)
        rows = text[starts + torch.arange(LENGTH + 1)]
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def test_loss(model: CharModel, text: Tensor) -> float:
    """Mean loss in nats per character, in windows side by side."""
    inputs, _ = windows(text, LENGTH)
    targets = text[1 : inputs.numel() + 1]
    return F.cross_entropy(model(inputs).flatten(0, 1), targets).item()


def study(run: tuple[int, str, float]) -> tuple[float, CharModel]:
    """The test loss of one seed, network and learning rate, and the model."""
    torch.set_num_threads(1)
    seed, name, rate = run
    text, held_out = texts()
    model = train(name, seed, rate, text)
    loss = test_loss(model, held_out)
    print(f"seed {seed}, {name}, rate {rate}: {loss:.4f}", flush=True)
    return loss, model


def main() -> None:
    """Train all and store."""
    runs = list(itertools.product(SEEDS, KINDS, RATES))
    with ProcessPoolExecutor(3) as pool:
        results = dict(zip(runs, pool.map(study, runs)))
    losses = np.array([[[results[seed, name, rate][0] for seed in SEEDS] for rate in RATES] for name in KINDS])
    weights = {}
    for name, best in zip(KINDS, losses.mean(axis=2).argmin(axis=1)):
        model = results[SEEDS[0], name, RATES[best]][1]
        weights |= {f"{name}/{key}": value.numpy() for key, value in model.state_dict().items()}
    # as whole numbers: float16 has no more than three decimals here
    weights["losses"] = np.round(losses * 1e5).astype(np.int32)
    save(
        "day039_kinds",
        weights,
        title=f"Language models of characters with four kinds of feed-forward network, {LAYERS} blocks of width {WIDTH}",
        trained_on=["austen"],
        note=f"{STEPS} steps of {BATCH} windows of {LENGTH} characters each, for {len(KINDS)} networks, {len(RATES)} learning rates and {len(SEEDS)} seeds, "
        "about nine minutes of one core. The weights are those of the first seed; the losses, of all, are in units of 0.00001 nats.",
    )


if __name__ == "__main__":
    main()
