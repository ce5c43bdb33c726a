"""Small language models that differ in depth, warm-up and the place of their norms, for Day 41.

    python -m llm180.data.pretrain.day041

trains each combination with several seeds, on windows of 16 characters, and stores the
losses of all steps. It takes about four minutes of one processor core. The page takes its
text and its settings from here.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import torch

from llm180.data.pretrain import save
from solutions.day024_ngram import ALPHABET, austen_split, encode

SEEDS = range(3)
DEPTHS = (2, 6, 12)
WARMUP, STEPS = 100, 200
BATCH, LENGTH = 16, 16
LR = 6e-3


@cache
def text() -> torch.Tensor:
    """Ids of five novels, one after the other."""
    return torch.from_numpy(encode(austen_split().train))


def draw(generator: torch.Generator, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of the novels, ``(batch, LENGTH)``, and the character after each of theirs."""
    starts = torch.randint(len(text()) - LENGTH, (batch, 1), generator=generator)
    ids = text()[starts + torch.arange(LENGTH + 1)]
    return ids[:, :-1], ids[:, 1:]


def floor() -> float:
    """The loss of a guess that knows how often each character stands in the novels, and nothing else."""
    share = torch.bincount(text()).double() / len(text())
    return -torch.xlogy(share, share).sum().item()


def study(run: tuple[str, int, int, int]) -> np.ndarray:
    """Losses ``(STEPS,)`` of one placement, depth, warm-up and seed."""
    from solutions.day041_norm_placement import Stack, train_depth_sweep

    torch.set_num_threads(1)
    placement, depth, warmup, seed = run
    sizes = {"placements": [placement], "depths": [depth], "warmups": [warmup], "seeds": [seed], "steps": STEPS, "lr": LR}
    sweep = train_depth_sweep(lambda where, layers: Stack(where, layers, len(ALPHABET)), draw, **sizes, floor=floor())
    losses = sweep.losses[run[:3]][0].numpy()
    print(run, losses[-20:].mean().round(3), flush=True)
    return losses


def main() -> None:
    """Train all and store."""
    from solutions.day041_norm_placement import PLACEMENTS

    keys = [(placement, depth, warmup) for placement, warmup in (("post", 0), ("post", WARMUP), ("pre", 0)) for depth in DEPTHS]
    keys += [(placement, max(DEPTHS), 0) for placement in PLACEMENTS[2:]]
    runs = [(*key, seed) for seed in SEEDS for key in keys]
    with ProcessPoolExecutor(4) as pool:
        results = list(pool.map(study, runs))
    losses = np.stack(results).reshape(len(SEEDS), len(keys), STEPS).swapaxes(0, 1)
    # as whole numbers: float16 has no more than three decimals here
    table = {"/".join(map(str, key)): (rows * 1e4).round().astype(np.int32) for key, rows in zip(keys, losses)}
    save(
        "day041",
        table,
        title="Losses of language models of characters that differ in depth, warm-up and the place of their norms: width 32",
        trained_on=["austen"],
        note=f"{STEPS} steps of {BATCH} windows of {LENGTH} characters, for {len(keys)} settings and {len(SEEDS)} seeds, about four minutes of one "
        "processor core. Not weights but the loss of every step, in units of 0.0001 nats, by placement, depth and warm-up.",
    )


if __name__ == "__main__":
    main()
