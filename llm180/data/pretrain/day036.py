"""Small language models of characters with six schemes of positions, for Day 36.

    python -m llm180.data.pretrain.day036

trains a model for each scheme and seed, on windows of 32 characters, and stores the
test losses of all at five lengths, with the weights of one seed. It takes about six
minutes of one processor core, shared by three processes. The page takes its text from here.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from llm180.data.pretrain import save
from solutions.day024_ngram import ALPHABET, austen_split, encode

SEEDS = range(5)
LENGTH, LENGTHS = 32, (16, 32, 64, 96, 128)
STEPS = 600
TESTED = 16_000  # characters


def texts(tested: int = TESTED) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of five novels, and of the first ``tested`` characters of the last twelve chapters of the sixth."""
    split = austen_split()
    train, test = encode(split.train), encode("\n".join(split.test))[:tested]
    return torch.from_numpy(train), torch.from_numpy(test)


def study(run: tuple[str, int]) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Losses ``(lengths,)`` of one scheme and seed, and the weights as ``scheme/name``."""
    from solutions.day036_rope import PositionModel, compare_positions

    torch.set_num_threads(1)
    scheme, seed = run
    made: list[torch.nn.Module] = []

    def make(scheme: str) -> torch.nn.Module:
        made.append(PositionModel(scheme, len(ALPHABET), trained=LENGTH, longest=max(LENGTHS)))
        return made[-1]

    sizes = {"length": LENGTH, "lengths": LENGTHS, "steps": STEPS}
    losses = compare_positions(make, [scheme], *texts(), seeds=[seed], **sizes)[scheme][0]
    print(f"seed {seed}, {scheme}: {losses.numpy().round(3)}", flush=True)
    return losses, {f"{scheme}/{name}": value.numpy() for name, value in made[0].state_dict().items()}


def main() -> None:
    """Train all and store."""
    from solutions.day036_rope import SCHEMES

    runs = [(scheme, seed) for seed in SEEDS for scheme in SCHEMES]
    with ProcessPoolExecutor(3) as pool:
        results = list(pool.map(study, runs))
    weights = {name: value for (_, seed), (_, state) in zip(runs, results) if seed == SEEDS[0] for name, value in state.items()}
    losses = torch.stack([losses for losses, _ in results]).view(len(SEEDS), len(SCHEMES), len(LENGTHS))
    # as whole numbers: float16 has no more than three decimals here
    weights["losses"] = (losses * 1e5).round().to(torch.int32).numpy()
    save(
        "day036",
        weights,
        title="Six language models of characters that differ in how they know positions: two layers of width 32",
        trained_on=["austen"],
        note=f"{STEPS} steps of 32 windows of {LENGTH} characters each, for {len(SCHEMES)} schemes and {len(SEEDS)} seeds, about six "
        "minutes of one processor core. The weights are those of the first seed; the losses, of all seeds, are in units of 0.00001 nats.",
    )


if __name__ == "__main__":
    main()
