"""Language models of Austen's characters with four feed-forward networks, for Day 39.

    python -m llm180.data.pretrain.day039_kinds

trains a small model for each kind, learning rate and seed, and stores the test losses of all, with the weights of the
first seed at the better rate. It takes about four minutes of one core. The page takes its text and its training from here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llm180.data.pretrain import save
from llm180.data.pretrain.day039 import WordModel, windows
from solutions.day024_ngram import ALPHABET, austen_split, encode

WIDTH, HIDDEN, LAYERS, LENGTH = 32, 128, 2, 32
EQUAL = 85  # the width of a SwiGLU network with the parameters of a plain one of HIDDEN
KINDS = {"relu": ("relu", HIDDEN), "gelu": ("gelu", HIDDEN), "swiglu": ("swiglu", EQUAL), "swiglu, same width": ("swiglu", HIDDEN)}
RATES, SEEDS = (5e-3, 1e-2), range(5)
STEPS, BATCH, WARMUP = 600, 16, 50
TESTED = 32_000  # characters


def texts() -> tuple[Tensor, Tensor]:
    """Ids of five novels, and of the beginning of the last twelve chapters of the sixth."""
    split = austen_split()
    train, test = encode(split.train), encode("\n".join(split.test))[: TESTED + 1]
    return torch.from_numpy(train), torch.from_numpy(test)


def make(name: str) -> WordModel:
    """A new model of characters whose blocks hold this feed-forward network."""
    kind, d_ff = KINDS[name]
    return WordModel(len(ALPHABET), WIDTH, 4, d_ff, LAYERS, LENGTH, kind=kind)


def train(name: str, seed: int, rate: float, text: Tensor, steps: int = STEPS) -> WordModel:
    """A model from this seed, trained by Adam on windows that depend on the seed alone."""
    torch.manual_seed(seed)
    model = make(name)
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
def test_loss(model: WordModel, text: Tensor) -> float:
    """Mean loss in nats per character, in windows side by side."""
    inputs, _ = windows(text, LENGTH)
    targets = text[1 : inputs.numel() + 1]
    return F.cross_entropy(model(inputs).flatten(0, 1), targets).item()


def main() -> None:
    """Train all and store."""
    torch.set_num_threads(1)
    text, held_out = texts()
    losses = np.zeros((len(KINDS), len(RATES), len(SEEDS)))
    first = {}
    for seed in SEEDS:
        for k, name in enumerate(KINDS):
            for r, rate in enumerate(RATES):
                model = train(name, seed, rate, text)
                losses[k, r, seed] = test_loss(model, held_out)
                if seed == SEEDS[0]:
                    first[name, r] = model
        print(f"seed {seed}: {losses[:, :, seed].round(4).tolist()}", flush=True)
    best = losses.mean(axis=2).argmin(axis=1)
    weights = {f"{name}/{key}": value.numpy() for (name, r), model in first.items() if r == best[list(KINDS).index(name)] for key, value in model.state_dict().items()}
    # as whole numbers: float16 has no more than three decimals here
    weights["losses"] = np.round(losses * 1e5).astype(np.int32)
    save(
        "day039_kinds",
        weights,
        title=f"Language models of characters with four kinds of feed-forward network, {LAYERS} blocks of width {WIDTH}",
        trained_on=["austen"],
        note=f"{STEPS} steps of {BATCH} windows of {LENGTH} characters each, for {len(KINDS)} networks, {len(RATES)} learning rates and {len(SEEDS)} seeds, "
        "about four minutes of one core. The weights are those of the first seed; the losses, of all, are in units of 0.00001 nats.",
    )


if __name__ == "__main__":
    main()
