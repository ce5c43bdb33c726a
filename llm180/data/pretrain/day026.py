"""Day 26: word vectors of Austen's novels by the lesson's SkipGram and by gensim, on equal terms, from two seeds each.

``python -m llm180.data.pretrain.day026``; four processes, about a minute of processor time for each of the lesson's runs.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from llm180 import data
from llm180.data.pretrain import save
from solutions.day026_word2vec import SkipGram, train

SEEDS = (1, 2)
KEPT = 3000
SETTING = {"dim": 50, "epochs": 12, "rate": 0.05, "window": 5, "negatives": 5, "threshold": 1e-4}


def corpus() -> tuple[list[str], np.ndarray]:
    """The words that occur five times or more, the most frequent first, and the text as their numbers."""
    text = " ".join(data.load("austen").values()).lower()
    words = re.findall(r"[a-z]+(?:['’][a-z]+)?", text)
    vocabulary = [word for word, count in Counter(words).most_common() if count >= 5]
    number = {word: i for i, word in enumerate(vocabulary)}
    return vocabulary, np.array([number[word] for word in words if word in number])


def ours(seed: int) -> np.ndarray:
    vocabulary, words = corpus()
    rng = np.random.default_rng(seed)
    setting = dict(SETTING)
    model = SkipGram(np.bincount(words), setting.pop("dim"), rng)
    print("ours", seed, train(model, words, rng, progress=False, **setting), flush=True)
    return model.W


def gensims(seed: int) -> np.ndarray:
    from gensim.models import Word2Vec

    vocabulary, words = corpus()
    s = SETTING
    model = Word2Vec(
        [[vocabulary[i] for i in words[k : k + 10_000]] for k in range(0, len(words), 10_000)],
        sg=1, vector_size=s["dim"], epochs=s["epochs"], alpha=s["rate"], min_alpha=1e-4, window=s["window"],
        negative=s["negatives"], sample=s["threshold"], min_count=1, workers=1, seed=seed, hashfxn=len,
    )  # fmt: skip
    return np.array([model.wv[word] for word in vocabulary])


def main() -> None:
    vocabulary, _ = corpus()
    asked = {word.lower() for pair in data.load("wordsim353") for word in pair[:2]}
    asked |= {word.lower() for question in data.load("analogies")["family"] for word in question}
    rows = np.array([i for i, word in enumerate(vocabulary) if i < KEPT or word in asked])
    with ProcessPoolExecutor(4) as pool:
        runs = {f"ours_{seed}": pool.submit(ours, seed) for seed in SEEDS}
        runs |= {f"gensim_{seed}": pool.submit(gensims, seed) for seed in SEEDS}
        vectors = {name: run.result()[rows] for name, run in runs.items()}
    save(
        "day026",
        {"rows": rows.astype(np.int32), **vectors},
        title="Word vectors of Austen's novels, skip-gram with negative sampling: the lesson's and gensim's",
        trained_on=["austen"],
        note="About a minute of one core per run of 12 epochs; Spearman's correlation with WordSim-353 is on the page.",
    )


if __name__ == "__main__":
    main()
