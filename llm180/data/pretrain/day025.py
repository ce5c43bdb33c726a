"""The weights that Day 25 evaluates: an LSTM language model of Austen's characters.

    python -m llm180.data.pretrain.day025

It takes a quarter of an hour on one core, gives the same weights again on the same processor, and goes on where it was
stopped: its checkpoint lies in the folder for temporary files until the end.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from llm180.data import pretrain
from solutions.day024_ngram import ALPHABET, austen_split, encode
from solutions.day025_neural_lm import LSTMLanguageModel

SEED, WIDTH, HIDDEN = 0, 48, 320
ROWS, WINDOW, EPOCHS = 32, 100, 2.5
RATE, WARMUP, DECAY, CLIP = 4e-3, 200, 0.4, 1.0  # the rate falls linearly over the last DECAY of all steps


def bits(model: LSTMLanguageModel, chapters: list[str], length: int = 3001) -> float:
    """Mean bits per character of the beginnings of chapters, which are read side by side."""
    rows = torch.tensor(np.stack([encode(c)[:length] for c in chapters]))
    return -model.log_probs(rows).mean().item() / math.log(2)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    split = austen_split()
    text = torch.tensor(encode(split.train))
    per_row = (len(text) - 1) // ROWS
    inputs = text[: ROWS * per_row].view(ROWS, per_row)
    targets = text[1 : ROWS * per_row + 1].view(ROWS, per_row)
    windows = per_row // WINDOW
    total = int(EPOCHS * windows)

    model = LSTMLanguageModel(len(ALPHABET), WIDTH, HIDDEN)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    saved = Path(tempfile.gettempdir()) / "llm180-day025.pt"
    step, state = 0, None
    if saved.exists():
        step, state, weights, moments = torch.load(saved)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)

    seen = 0.0
    progress = tqdm(range(step, total), initial=step, total=total, mininterval=10)
    for step in progress:
        at = step % windows * WINDOW
        if at == 0:
            state = None
        rate = RATE * min(1, (step + 1) / WARMUP, (total - step) / (DECAY * total))
        optimizer.param_groups[0]["lr"] = rate
        window = slice(at, at + WINDOW)
        loss, state = model.train_step(inputs[:, window], targets[:, window], state, optimizer, CLIP)
        seen += (loss / math.log(2) - seen) * max(0.01, 1 / (step + 1))
        if (step + 1) % 200 == 0 or step + 1 == total:
            progress.write(f"step {step + 1}: train {seen:.3f}, valid {bits(model, split.valid):.3f} bits")
            torch.save((step + 1, state, model.state_dict(), optimizer.state_dict()), saved)

    final = bits(model, split.valid)
    pretrain.save(
        "day025",
        model.state_dict(),
        title=f"LSTM language model of characters, one layer of {HIDDEN}",
        trained_on=["austen"],
        note=f"{EPOCHS} passes over five novels, a quarter of an hour on one core; {final:.3f} bits per character on chapters of the sixth",
    )
    saved.unlink()


if __name__ == "__main__":
    main()
