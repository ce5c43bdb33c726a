"""The weights that Days 39 and 40 read: a small language model of Austen's words, six blocks deep.

    python -m llm180.data.pretrain.day039

Persuasion, the sixth novel, is not among the training text. It takes about ten minutes on one core.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from llm180 import data
from llm180.data import pretrain
from solutions.day024_ngram import austen_split
from solutions.day034_absolute_positions import LearnedPositions
from solutions.day039_feed_forward import EncoderBlock

VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS, LENGTH = 3000, 64, 4, 256, 6, 32
SIZES = {"vocabulary": VOCABULARY, "d_model": WIDTH, "heads": HEADS, "d_ff": HIDDEN, "layers": LAYERS, "max_len": LENGTH}
SEED, ROWS, EPOCHS, RATE, WARMUP = 0, 32, 5, 4e-3, 200
UNKNOWN, END = "<unk>", "<end>"  # a word outside the vocabulary, and the end of a paragraph


class WordModel(nn.Module):
    """A causal language model: a table of words, a table of positions, blocks, a norm, and the table of words again."""

    def __init__(self, vocabulary: int, d_model: int, heads: int, d_ff: int, layers: int, max_len: int, kind: str = "gelu") -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d_model)
        self.positions = LearnedPositions(max_len, d_model)
        self.blocks = nn.ModuleList(EncoderBlock(d_model, heads, d_ff, kind=kind, norm_first=True) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        nn.init.normal_(self.embed.weight, std=0.02)

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """``(B, n)`` to ``layers + 1`` tensors ``(B, n, d_model)``: the stream after the embedding and after each block, before the final norm."""
        states = [self.positions(self.embed(ids))]
        for block in self.blocks:
            states.append(block(states[-1], causal=True))
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """``(..., d_model)`` to ``(..., vocabulary)``: the final norm, then the product with each word's row of the table."""
        return F.linear(self.norm(hidden), self.embed.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """``(B, n)`` to ``(B, n, vocabulary)``: position i scores the word at i + 1."""
        return self.logits(self.hidden_states(ids)[-1])


def tokens(text: str) -> list[str]:
    """Words and signs in lower case; a line ends in ``<end>``; two hyphens are one sign."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|--|<end>|[^\s\w]|\d+", text.lower().replace("\n", f" {END} "))


class Corpus(NamedTuple):
    """The vocabulary, and the texts as ids: five novels, and the halves of the sixth."""

    words: list[str]
    train: Tensor
    valid: Tensor
    test: Tensor


def corpus() -> Corpus:
    """Austen's novels as ids into the most frequent words of five of them; id 0 is ``<unk>``."""
    split = austen_split()
    train = tokens(split.train)
    words = [UNKNOWN] + [word for word, _ in Counter(train).most_common(VOCABULARY - 1)]
    place = {word: i for i, word in enumerate(words)}
    parts = (train, tokens("\n".join(split.valid)), tokens("\n".join(split.test)))
    return Corpus(words, *(torch.tensor([place.get(word, 0) for word in part]) for part in parts))


def windows(ids: Tensor, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Inputs and targets ``(N, length)``, side by side; a target outside the vocabulary is -100, which no loss counts."""
    n = (len(ids) - 1) // length * length
    targets = ids[1 : n + 1].view(-1, length)
    return ids[:n].view(-1, length), targets.masked_fill(targets == 0, -100)


def load() -> tuple[WordModel, list[str]]:
    """The stored model, in evaluation mode, and its vocabulary."""
    stored = data.weights("day039")
    model = WordModel(**SIZES)
    model.load_state_dict({name: torch.tensor(stored[name], dtype=torch.float32) for name in model.state_dict()})
    return model.eval().requires_grad_(False), stored["words"].tolist()


@torch.no_grad()
def perplexity(model: WordModel, ids: Tensor) -> float:
    """Of the words that the vocabulary holds, in windows side by side."""
    loss, count = 0.0, 0
    for x, y in zip(*(part.split(256) for part in windows(ids))):
        loss += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
        count += int((y >= 0).sum())
    return math.exp(loss / count)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    text = corpus()
    print(f"{len(text.train):,} words to train on, {(text.train == 0).float().mean():.1%} unknown")
    model = WordModel(**SIZES)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    per_epoch = (len(text.train) - 1 - LENGTH) // (ROWS * LENGTH)
    total, seen = EPOCHS * per_epoch, 0.0
    progress = tqdm(range(total), mininterval=20)
    for step in progress:
        if step % per_epoch == 0:  # the windows of an epoch begin at an offset of its own
            inputs, targets = windows(text.train[int(torch.randint(LENGTH, ())) :])
            order = torch.randperm(len(inputs))
        rows = order[step % per_epoch * ROWS :][:ROWS]
        optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / WARMUP, 1 - step / total)
        loss = F.cross_entropy(model(inputs[rows]).flatten(0, 1), targets[rows].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += (loss.item() - seen) * max(0.01, 1 / (step + 1))
        if (step + 1) % 400 == 0:
            progress.write(f"step {step + 1}: loss {seen:.3f}, perplexity on the valid text {perplexity(model, text.valid[:8000]):.1f}")
    note = f"{EPOCHS} passes over five novels, about ten minutes on one core; perplexity {perplexity(model, text.test):.1f} on the second half of the sixth"
    print(note)
    pretrain.save(
        "day039",
        {**model.state_dict(), "words": np.array(text.words)},
        title=f"Language model of words: {LAYERS} Transformer blocks of width {WIDTH}, {VOCABULARY} words",
        trained_on=["austen"],
        note=note,
    )


if __name__ == "__main__":
    main()
