"""The weights that Day 29 evaluates: forward and backward language models of Austen's words.

    python -m llm180.data.pretrain.day029

Persuasion is not among the training text. The softmax is sampled: each step scores the true words against some hundred
others, which is many times cheaper than against all. It takes about three minutes on one core.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from llm180 import data
from llm180.data import pretrain
from solutions.austen_words import read, vocabulary
from solutions.day029_elmo import BiLM

SEED, VOCAB, WIDTH, LAYERS = 0, 4000, 96, 2
ROWS, LENGTH, OTHERS, EPOCHS = 32, 32, 320, 2
RATE, WARMUP, CLIP = 5e-3, 100, 1.0
HELD_OUT = "Persuasion"


def sampled_loss(model: BiLM, h: Tensor, y: Tensor, others: Tensor, log_q: Tensor) -> Tensor:
    """Cross-entropy of the true words ``y`` against the drawn ``others``; scores are corrected by how often each is drawn."""
    weights, bias = model.embed.weight, model.bias - log_q
    true = (h * weights[y]).sum(dim=1) + bias[y]
    scores = F.linear(h, weights[others], bias[others])
    scores = scores.masked_fill(others == y[:, None], -torch.inf)
    return (torch.cat([true[:, None], scores], dim=1).logsumexp(dim=1) - true).mean()


def both(model: BiLM, tokens: Tensor, others: Tensor, log_q: Tensor) -> Tensor:
    ahead, back = model(tokens)[-1].chunk(2, dim=-1)
    pairs = (ahead[:, :-1], tokens[:, 1:]), (back[:, 1:], tokens[:, :-1])
    return sum(sampled_loss(model, h.flatten(0, 1), y.flatten(), others, log_q) for h, y in pairs)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    texts = {title: read(novel) for title, novel in data.load("austen").items()}
    words = [word for title, text in texts.items() if title != HELD_OUT for word in text.words]
    names = vocabulary(words, VOCAB)
    index = {word: i for i, word in enumerate(names)}
    ids = np.array([index.get(word, 0) for word in words])
    test = torch.tensor([index.get(word, 0) for word in texts[HELD_OUT].words])
    test = test[: len(test) // LENGTH * LENGTH].view(-1, LENGTH)[::12]

    share = np.bincount(ids, minlength=VOCAB) ** 0.75
    share /= share.sum()
    log_q = torch.tensor(np.log(OTHERS * share), dtype=torch.float32)
    model = BiLM(VOCAB, WIDTH, LAYERS)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    per_epoch = (len(ids) - LENGTH) // (ROWS * LENGTH)
    total, seen = EPOCHS * per_epoch, 0.0
    progress = tqdm(range(total), mininterval=10)
    for step in progress:
        if step % per_epoch == 0:
            starts = rng.permutation(np.arange(rng.integers(LENGTH), len(ids) - LENGTH, LENGTH))
        at = starts[step % per_epoch * ROWS :][:ROWS]
        tokens = torch.tensor(ids[at[:, None] + np.arange(LENGTH)])
        others = torch.tensor(rng.choice(VOCAB, OTHERS, p=share))
        optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / WARMUP, 1 - step / total)
        loss = both(model, tokens, others, log_q)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        seen += (loss.item() / 2 - seen) * max(0.01, 1 / (step + 1))
        if (step + 1) % 100 == 0:
            progress.write(f"step {step + 1}: sampled loss {seen:.3f} nats per word and direction")

    with torch.no_grad():
        ahead, back = (model(test)[-1]).chunk(2, dim=-1)
        losses = [
            F.cross_entropy(F.linear(h, model.embed.weight, model.bias).flatten(0, 1), y.flatten()).exp().item()
            for h, y in ((ahead[:, :-1], test[:, 1:]), (back[:, 1:], test[:, :-1]))
        ]
    note = f"{EPOCHS} passes over five novels, about three minutes on one core; perplexity on Persuasion {losses[0]:.0f} forward, {losses[1]:.0f} backward"
    print(note)
    pretrain.save(
        "day029",
        {**model.state_dict(), "words": np.array(names)},
        title=f"Forward and backward LSTM language models of words, {LAYERS} layers of {WIDTH}",
        trained_on=["austen"],
        note=note,
    )


if __name__ == "__main__":
    main()
