"""Day 27: GloVe vectors and a FastText table of Austen's novels, the latter without 300 inflected words.

``python -m llm180.data.pretrain.day027``; two processes, about a minute of processor time each.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from scipy import sparse

from llm180 import data
from llm180.data.pretrain import save
from llm180.data.pretrain.day026 import corpus
from solutions.day026_word2vec import SkipGram, add_rows, negative_sampling_loss, subsample
from solutions.day027_glove_fasttext import FastTextEmbedding, cooccurrence, glove_loss

ENDINGS = ("s", "ed", "ing", "ly", "er", "ness")
HELD, BUCKETS, DIM = 300, 8000, 40


def inflected(vocabulary: list[str], known: int) -> list[tuple[int, int]]:
    """Pairs (base, base with an ending) of words, as numbers; the longer one among the first ``known``."""
    number, pairs = {word: i for i, word in enumerate(vocabulary)}, []
    for base in vocabulary:
        for ending in ENDINGS:
            for stem in {base, base[:-1]} if base.endswith("e") else {base}:
                form = number.get(stem + ending, known)
                if len(base) > 3 and form < known and stem + ending != base:
                    pairs.append((number[base], form))
    return pairs


def glove(epochs: int = 12, rate: float = 0.05, batch: int = 4096) -> np.ndarray:
    vocabulary, words = corpus()
    X = cooccurrence(words, len(vocabulary), 10).tocoo()
    rng = np.random.default_rng(1)
    tables = [((rng.random((len(vocabulary), d)) - 0.5) / 50).astype(np.float32) for d in (50, 50, 1, 1)]
    squares = [np.ones_like(t) for t in tables]
    counts = X.data.astype(np.float32)
    for epoch in range(epochs):
        order, total = rng.permutation(X.nnz), 0.0
        for start in range(0, X.nnz, batch):
            at = order[start : start + batch]
            rows = (X.row[at], X.col[at]) * 2
            w, c, b, e = (t[r] for t, r in zip(tables, rows))
            loss, *grads = glove_loss(counts[at], w, c, b[:, 0], e[:, 0], x_max=10.0)
            for t, s, r, g in zip(tables, squares, rows, grads):
                step = np.zeros_like(t)
                add_rows(step, r, g.reshape(len(at), -1))
                s += step**2
                t -= rate * step / np.sqrt(s)
            total += loss.sum()
        print("glove", epoch, X.nnz, total / X.nnz, flush=True)
    return tables[0] + tables[1]


def fasttext(epochs: int = 6, rate: float = 0.15, batch: int = 4096) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    vocabulary, words = corpus()
    rng = np.random.default_rng(1)
    forms = np.unique([form for _, form in inflected(vocabulary, 3000)])
    held = np.sort(rng.permutation(forms)[:HELD])
    names = [word for i, word in enumerate(vocabulary) if i not in set(held.tolist())]
    number = {word: i for i, word in enumerate(names)}
    text = np.array([number.get(vocabulary[i], -1) for i in words])
    text = text[text >= 0]
    model = FastTextEmbedding(names, DIM, BUCKETS, torch.Generator().manual_seed(1))
    table = model.table.detach().numpy()  # the same memory
    C = np.zeros((len(names), DIM), np.float32)
    flat, starts = (part.numpy() for part in model.bags(names))
    ends = np.append(starts, len(flat))
    share = np.repeat(1 / np.diff(ends), np.diff(ends)).astype(np.float32)
    mean = sparse.csr_matrix((share, flat, ends), shape=(len(names), len(table)))  # words from rows
    mean_t = mean.T.tocsr()
    squares = [np.full_like(p, 1e-3) for p in (table, C)]
    sampler = SkipGram(np.bincount(text), 1, rng)
    for epoch in range(epochs):
        kept = subsample(text, sampler.counts, 1e-4, rng)
        inputs, targets = sampler.examples(kept, rng.integers(1, 6, len(kept)))
        order, total = rng.permutation(len(targets)), 0.0
        for start in range(0, len(order), batch):
            at = order[start : start + batch]
            noise = sampler.noise((len(at), 5), rng)
            w = (mean @ table)[inputs[at]]
            loss, d_w, d_c, d_n = negative_sampling_loss(w, C[targets[at]], C[noise])
            d_words, d_C = np.zeros_like(C), np.zeros_like(C)
            add_rows(d_words, inputs[at], d_w)
            add_rows(d_C, targets[at], d_c)
            add_rows(d_C, noise, d_n)
            now = rate * (1 - (epoch + start / len(order)) / epochs)
            for p, grad, square in ((table, mean_t @ d_words, squares[0]), (C, d_C, squares[1])):
                square += grad**2
                p -= now * grad / np.sqrt(square)
            total += loss.sum()
        print("fasttext", epoch, total / len(order), flush=True)
    return {"held": held.astype(np.int32), "table": table}


def main() -> None:
    with ProcessPoolExecutor(2) as pool:
        parts, vectors = pool.submit(fasttext), pool.submit(glove)
        state = {**parts.result(), "glove": vectors.result()[data.weights("day026")["rows"]]}
    save(
        "day027",
        state,
        title="GloVe vectors and a FastText table of Austen's novels",
        trained_on=["austen"],
        note="About a minute of one core each: GloVe, 12 epochs; FastText, 6 epochs, without 300 inflected words.",
    )


if __name__ == "__main__":
    main()
