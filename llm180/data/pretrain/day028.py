"""Day 28: five models with attention and five without, which put spaces and capitals back into Austen's text.

``python -m llm180.data.pretrain.day028`` trains them, after a search for the learning rate of each kind. The lesson
uses the data and the training loop of this module as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from llm180 import data
from llm180.data import pretrain
from solutions.day028_seq2seq import END, PAD, START, Seq2Seq, greedy_decode

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SOURCE = {c: i for i, c in enumerate(LETTERS, 3)}
TARGET = {c: i for i, c in enumerate(" " + LETTERS + LETTERS.upper(), 3)}
SIZES = {"source_vocabulary": 29, "target_vocabulary": 56, "width": 24, "hidden": 32}
STEPS = {"attention": 320, "summary": 640}  # about the same processor time
RATES = 0.01, 0.03, 0.1
SEEDS = range(5)
TRAINED = range(5, 15)  # letters in a fragment


def fragments(books: Sequence[str], lengths: range, each: int, seed: int, known: Sequence[str] = ()) -> list[str]:
    """``each`` different runs of whole words for each number of letters, without punctuation, as in "at Mansfield"."""
    texts = data.load("austen")
    found: dict[int, set[str]] = {n: set() for n in lengths}
    for book in books:
        for run in re.findall(r"[A-Za-z]+(?: [A-Za-z]+)*", " ".join(texts[book].split())):
            words = run.split()
            for i in range(len(words)):
                letters = 0
                for j in range(i, len(words)):
                    letters += len(words[j])
                    if letters in found:
                        found[letters].add(" ".join(words[i : j + 1]))
                    if letters >= lengths[-1]:
                        break
    rng = np.random.default_rng(seed)
    sets = [sorted(found[n].difference(known)) for n in lengths]
    return [s[i] for s in sets for i in rng.choice(len(s), each, replace=False)]


def tensors(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources ``(B, S)``, lengths ``(B,)`` and targets ``(B, T)``: "a Day" asks for "a Day" from "aday"."""
    sources = [[SOURCE[c] for c in text.lower() if c != " "] for text in texts]
    targets = [[START, *(TARGET[c] for c in text), END] for text in texts]
    pad = lambda rows: torch.tensor([row + [PAD] * (max(map(len, rows)) - len(row)) for row in rows])
    return pad(sources), torch.tensor([len(row) for row in sources]), pad(targets)


def decode(model: Seq2Seq, texts: Sequence[str]) -> list[str]:
    """What the model makes of each text without its spaces and capitals."""
    symbols = dict(zip(TARGET.values(), TARGET))
    outputs = greedy_decode(model, *tensors(texts)[:2], 48)
    return ["".join(symbols.get(s, "?") for s in output) for output in outputs]


def train(model: Seq2Seq, texts: Sequence[str], steps: int, lr: float, seed: int, batch: int = 64) -> list[float]:
    """Train with Adam, the rate falling to zero, on batches of similar lengths. Returns the loss of each step."""
    rng = np.random.default_rng(seed)
    adam = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: min((k + 1) / 50, 1 - k / steps))
    losses: list[float] = []
    for k in tqdm(range(steps), desc="training"):
        if k % 4 == 0:
            pool = sorted(rng.integers(len(texts), size=4 * batch), key=lambda i: len(texts[i]))
            order = rng.permutation(4)
        chosen = [texts[i] for i in pool[order[k % 4] * batch :][:batch]]
        loss = model.loss(*tensors(chosen))
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def run(job: tuple[str, float, int]) -> tuple[float, dict[str, torch.Tensor]]:
    """Train one model; its share of right fragments on another novel, and its weights."""
    kind, lr, seed = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = Seq2Seq(**SIZES, attention=kind == "attention")
    texts = fragments(["Pride and Prejudice", "Emma"], TRAINED, 2000, 0)
    train(model, texts, STEPS[kind], lr, seed)
    check = fragments(["Northanger Abbey"], TRAINED, 40, 0, texts)
    right = float(np.mean([a == b for a, b in zip(decode(model, check), check)]))
    print(f"{kind}, lr {lr}, seed {seed}: {right:.3f}", flush=True)
    return right, model.state_dict()


def main() -> None:
    kinds = list(STEPS)
    state: dict[str, object] = {}
    with ProcessPoolExecutor() as pool:
        trials = [(kind, lr, 0) for kind in kinds for lr in RATES]
        tried = dict(zip(trials, pool.map(run, trials)))
        best = {kind: max(RATES, key=lambda lr: tried[kind, lr, 0][0]) for kind in kinds}
        jobs = [(kind, best[kind], seed) for kind in kinds for seed in SEEDS[1:]]
        tried |= dict(zip(jobs, pool.map(run, jobs)))
    for kind in kinds:
        state[f"{kind}/rates"] = np.array([tried[kind, lr, 0][0] for lr in RATES])
        for seed in SEEDS:
            weights = tried[kind, best[kind], seed][1]
            state |= {f"{kind}/{seed}/{name}": value for name, value in weights.items()}
    pretrain.save(
        "day028",
        state,
        title="Ten GRU encoder-decoders that restore spaces and capitals, five with attention and five without",
        trained_on=["austen"],
        note="About three minutes of processor time, with the search for the rates; the lesson evaluates all ten.",
    )


if __name__ == "__main__":
    main()
