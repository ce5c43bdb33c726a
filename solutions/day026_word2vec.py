"""Day 26: Word2Vec: skip-gram and CBOW with negative sampling, and analogies."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.special import expit
from tqdm import tqdm

from llm180 import known_mistakes


def add_rows(table: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """``table[row] += value`` for every row and its value; a row may come many times.

    ``rows`` is an integer array of any shape, ``values`` has one more axis, ``d``.
    It is ``np.add.at``, as a product with a sparse matrix of ones, and faster.
    """
    n = rows.size
    ones = np.ones(n, values.dtype), rows.ravel(), np.arange(n + 1)
    add = sparse.csc_matrix(ones, shape=(len(table), n))
    table += add @ values.reshape(n, table.shape[1])


def negative_sampling_loss(
    center: np.ndarray, context: np.ndarray, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The loss of each pair against its noise words, and the gradients of their sum.

    For one pair, ``-log σ(center · context) - Σ log σ(-center · negative)``, over its
    ``k`` negatives, is the loss.

    Parameters
    ----------
    center:
        Vectors of the words that predict, float, shape ``(B, d)``.
    context:
        Vectors of the words that were there, shape ``(B, d)``.
    negatives:
        Vectors of the words drawn as noise, shape ``(B, k, d)``.

    Returns
    -------
    The losses, shape ``(B,)``, and the gradients of the sum of the losses with
    respect to the three arguments, each of its argument's shape. All are finite for
    finite scores, and the losses keep their digits however small they are.

    ``B`` and ``k`` may be 0. Raises a ValueError that names the shapes if they do not
    fit.

    Source: Mikolov et al. 2013b, "Distributed Representations of Words and Phrases",
    eq. 4, with the sign of a loss.
    """
    B, d = center.shape
    k = negatives.shape[1]
    if context.shape != (B, d) or negatives.shape != (B, k, d):
        raise ValueError(
            f"shapes must be (B, d), (B, d), (B, k, d), got {center.shape}, "
            f"{context.shape}, {negatives.shape}"
        )
    score = np.einsum("bd,bd->b", center, context)
    noise = np.einsum("bkd,bd->bk", negatives, center)
    loss = np.logaddexp(0, -score) + np.logaddexp(0, noise).sum(axis=1)
    d_score, d_noise = -expit(-score), expit(noise)
    d_center = d_score[:, None] * context
    d_center = d_center + np.einsum("bk,bkd->bd", d_noise, negatives)
    d_context = d_score[:, None] * center
    d_negatives = d_noise[:, :, None] * center[:, None, :]
    return loss, d_center, d_context, d_negatives


known_mistakes(
    negative_sampling_loss,
    (
        "np.logaddexp(0, -score) + np.logaddexp(0, noise).sum(axis=1)",
        "-np.log(expit(score)) - np.log(1 - expit(noise)).sum(axis=1)",
        "log(σ(x)) is -inf for x = -1000, and 1 - σ(x) loses every digit where σ is near 1",
    ),
    (
        "np.logaddexp(0, noise).sum(axis=1)",
        "np.logaddexp(0, noise).mean(axis=1)",
        "the noise terms are summed, not averaged: k negatives weigh k times as much as the one pair",
    ),
    (
        "np.logaddexp(0, noise).sum(axis=1)",
        "np.logaddexp(0, -noise).sum(axis=1)",
        "a noise word's score should be low: the sign inside of its sigmoid is minus",
    ),
    (
        "    d_center = d_center + np.einsum(\"bk,bkd->bd\", d_noise, negatives)\n",
        "",
        "the center takes part in the noise terms as well; its gradient has k + 1 summands",
    ),
    (
        "d_score, d_noise = -expit(-score), expit(noise)",
        "d_score, d_noise = -expit(score), expit(noise)",
        "the slope of -log σ(s) is σ(s) - 1, which is -σ(-s): it is large where the loss is",
    ),
    (
        "return loss, d_center, d_context, d_negatives",
        "return loss, d_center / B, d_context / B, d_negatives / B",
        "the gradients are those of the sum; a mean makes each pair's step depend on the batch",
    ),
    (
        "if context.shape != (B, d) or negatives.shape != (B, k, d):",
        "if False:",
        "shapes that do not fit are broadcast in silence",
    ),
)


def subsample(
    words: np.ndarray, counts: np.ndarray, threshold: float, rng: np.random.Generator
) -> np.ndarray:
    """Drop occurrences of frequent words at random, each independently of the others.

    Where a word has the frequency ``f``, its count divided by the sum of all counts,
    each of its occurrences is kept with probability ``min(1, sqrt(threshold / f))``.

    Parameters
    ----------
    words:
        The text as word numbers, integers from 0 to ``V - 1``, shape ``(n,)``. It may
        be a part of the text that was counted, or empty.
    counts:
        How often each word occurs in the whole text, positive, shape ``(V,)``.
    threshold:
        Positive. Words less frequent than that are always kept.
    rng:
        Where the draws come from; only this generator is used.

    Returns
    -------
    The words kept, in their order, a new array of integers, shape ``(m,)``, m <= n.

    Raises a ValueError that names ``threshold`` if it is not positive.

    Source: Mikolov et al. 2013b, eq. 5, which gives the probability to drop.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    frequency = counts / counts.sum()
    keep = np.sqrt(threshold / frequency)  # above 1 where the word is rare
    # equivalent `<= keep[words]`: a draw hits the probability itself almost never
    return words[rng.random(len(words)) < keep[words]]


known_mistakes(
    subsample,
    (
        "keep = np.sqrt(threshold / frequency)",
        "keep = 1 - np.sqrt(threshold / frequency)",
        "that is the probability to drop a word; the paper's formula is the one for dropping",
    ),
    (
        "keep = np.sqrt(threshold / frequency)",
        "keep = threshold / frequency",
        "the square root is missing: frequent words nearly vanish",
    ),
    (
        "frequency = counts / counts.sum()",
        "frequency = np.bincount(words, minlength=len(counts)) / max(len(words), 1)",
        "frequencies come from counts, which cover the whole text; words may be a part of it",
    ),
    (
        "rng.random(len(words)) < keep[words]",
        "rng.random(len(words)) >= keep[words]",
        "what should be kept is dropped, and the other way round",
    ),
    (
        "rng.random(len(words)) < keep[words]",
        "(rng.random(len(counts)) < keep)[words]",
        "one draw per word of the vocabulary drops all its occurrences or none; draw one per occurrence",
    ),
    (
        "rng.random(len(words))",
        "np.random.default_rng(0).random(len(words))",
        "every call drops the same places; use the generator that was given",
    ),
    (
        "    if not threshold > 0:\n        raise ValueError(f\"threshold must be positive, got {threshold}\")\n",
        "",
        "a threshold of 0 drops the whole text in silence",
    ),
)


class SkipGram:
    """Skip-gram with negative sampling: each word predicts each word in its window.

    ``W`` holds the vectors of the words as centers, the ones you keep, and ``C`` those
    as context, both of shape ``(V, d)``. They are changed in place.

    Source: Mikolov et al. 2013a and 2013b.
    """

    def __init__(
        self, counts: np.ndarray, dim: int, rng: np.random.Generator
    ) -> None:
        """Small random vectors W, zeros C; ``counts`` of the words, shape ``(V,)``."""
        V = len(counts)
        self.counts = counts
        self.W = ((rng.random((V, dim)) - 0.5) / dim).astype(np.float32)
        self.C = np.zeros((V, dim), np.float32)

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Word numbers of the given shape, drawn independently with replacement.

        A word that occurs ``f`` times is drawn with a probability proportional to
        ``f ** 0.75``. Word numbers that occur 0 times are never drawn.
        """
        cumulative = np.cumsum(self.counts**0.75)
        return np.searchsorted(cumulative / cumulative[-1], rng.random(shape), "right")

    def examples(
        self, words: np.ndarray, spans: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of a center and a context word of it, in any order.

        The word at place ``i`` is the center of the pairs with all words at most
        ``spans[i]`` places before or after it, as far as the text reaches. The place
        ``i`` itself is no context; another place with the same word is.

        Parameters
        ----------
        words:
            The text as word numbers, shape ``(n,)``; it may be empty.
        spans:
            How far the window of each place reaches, integers >= 1, shape ``(n,)``.

        Returns
        -------
        The centers and the contexts, word numbers, each of shape ``(N,)``.

        Raises a ValueError that names ``spans`` if the shapes differ or a span is less
        than 1.
        """
        if words.shape != spans.shape or (spans < 1).any():
            raise ValueError("need one span for each word, at least 1")
        place = np.arange(len(words))
        centers, contexts = [words[:0]], [words[:0]]
        # equivalent `initial=-1`, `initial=1`, `+ 2`: no span reaches that far
        for distance in range(1, spans.max(initial=0) + 1):
            for other in (place - distance, place + distance):
                inside = (spans >= distance) & (other >= 0) & (other < len(words))
                centers.append(words[inside])
                contexts.append(words[other[inside]])
        return np.concatenate(centers), np.concatenate(contexts)

    def step(
        self, inputs: np.ndarray, targets: np.ndarray, noise: np.ndarray, rate: float
    ) -> float:
        """One step of gradient descent on the sum of the losses of a batch.

        Parameters
        ----------
        inputs:
            Word numbers of the centers, shape ``(B,)``, as ``examples`` gives them; a
            word may come many times.
        targets:
            Word numbers of the contexts, shape ``(B,)``.
        noise:
            Word numbers of the negatives, shape ``(B, k)``.
        rate:
            The learning rate, positive.

        Returns
        -------
        The mean loss of an example, before the step. ``W`` and ``C`` have changed in
        place; all gradients are taken before any vector moves.
        """
        loss, d_center, d_context, d_noise = negative_sampling_loss(
            self.W[inputs], self.C[targets], self.C[noise]
        )
        add_rows(self.W, inputs, -rate * d_center)
        add_rows(self.C, targets, -rate * d_context)
        add_rows(self.C, noise, -rate * d_noise)
        return float(loss.mean())


known_mistakes(
    SkipGram,
    (
        "self.counts**0.75",
        "self.counts * 1.0",
        "the noise is drawn by plain frequency; the exponent 3/4 is missing",
    ),
    (
        "inside = (spans >= distance) & (other >= 0) & (other < len(words))",
        "inside = (spans > distance) & (other >= 0) & (other < len(words))",
        "the word at the distance of the span itself belongs to the window",
    ),
    (
        "inside = (spans >= distance) & (other >= 0) & (other < len(words))",
        "inside = (spans >= distance) & (other < len(words))",
        "a place before the text is a negative index, and NumPy reads it from the end",
    ),
    (
        "inside = (spans >= distance) & (other >= 0) & (other < len(words))",
        "inside = (spans >= distance) & (other >= 0) & (other < len(words)) & (words != words[other % len(words)])",
        "the same word at another place is a context like any other",
    ),
    (
        "inside = (spans >= distance) & (other >= 0) & (other < len(words))",
        "inside = (spans[other % len(words)] >= distance) & (other >= 0) & (other < len(words))",
        "the span of the context was used; it is the center's that counts",
    ),
    (
        "add_rows(self.W, inputs, -rate * d_center)",
        "self.W[inputs] -= rate * d_center",
        "of a word that comes twice in the batch only the last gradient is kept: `a[rows] -= x` does not add up",
    ),
    (
        "add_rows(self.C, targets, -rate * d_context)",
        "add_rows(self.W, targets, -rate * d_context)",
        "contexts have vectors of their own, in C",
    ),
    (
        "add_rows(self.C, noise, -rate * d_noise)",
        "pass",
        "the noise words' vectors move as well",
    ),
    (
        "add_rows(self.C, noise, -rate * d_noise)",
        "self.C[noise] -= rate * d_noise",
        "of a noise word that comes twice in the batch only the last gradient is kept: `a[rows] -= x` does not add up",
    ),
    (
        "        add_rows(self.W, inputs, -rate * d_center)\n",
        "        add_rows(self.W, inputs, -rate * d_center)\n"
        "        _, _, d_context, d_noise = negative_sampling_loss(self.W[inputs], self.C[targets], self.C[noise])\n",
        "W moves before the gradients of C are taken; compute all of them at the old place",
    ),
    (
        "self.W[inputs], self.C[targets], self.C[noise]",
        "self.W[targets], self.C[inputs], self.C[noise]",
        "the roles are exchanged: the center's vector is a row of W, the context's one of C",
    ),
    (
        "        add_rows(self.W, inputs, -rate * d_center)\n",
        "        rate = rate / max(1, len(inputs))\n        add_rows(self.W, inputs, -rate * d_center)\n",
        "the step is that of the sum of the losses; a mean makes each pair's step depend on the batch",
    ),
    (
        "return float(loss.mean())",
        "return float(loss.sum())",
        "the mean loss of an example is asked for, not the batch's sum",
    ),
    (
        "            self.W[inputs], self.C[targets], self.C[noise]\n",
        "            self.W[inputs], self.W[targets], self.W[noise]\n",
        "one table for both roles: a word would have to predict itself, since its vector is close to itself",
    ),
)


class CBOW(SkipGram):
    """Continuous bag of words: the mean of the window's vectors predicts the center.

    ``W`` holds the vectors of the words as input, the ones you keep, here of the
    window's words; ``C`` those of the words that are predicted.

    Source: Mikolov et al. 2013a; with the gradient of the mean as Irsoy et al. 2021
    have it.
    """

    def examples(
        self, words: np.ndarray, spans: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """For every place its window, and the word there; in any order.

        The window of place ``i`` is that of ``SkipGram.examples``. Places whose window
        is empty are left out.

        Parameters
        ----------
        words, spans:
            As for ``SkipGram.examples``.

        Returns
        -------
        The windows as word numbers, shape ``(N, m)``, where m is twice the largest
        span, with -1 wherever a window has no word; and the words that they
        predict, shape ``(N,)``. The order within a window is free.

        Raises a ValueError that names ``spans`` if the shapes differ or a span is less
        than 1.
        """
        if words.shape != spans.shape or (spans < 1).any():
            raise ValueError("need one span for each word, at least 1")
        place, widest = np.arange(len(words)), spans.max(initial=0)
        windows = np.full((len(words), 2 * widest), -1)
        for distance in range(1, widest + 1):
            for side, other in enumerate((place - distance, place + distance)):
                inside = (spans >= distance) & (other >= 0) & (other < len(words))
                # equivalent `2 * distance - 3`, `- side`: the order in a window is free
                windows[inside, 2 * distance - 2 + side] = words[other[inside]]
        some = (windows >= 0).any(axis=1)
        return windows[some], words[some]

    def step(
        self, inputs: np.ndarray, targets: np.ndarray, noise: np.ndarray, rate: float
    ) -> float:
        """One step of gradient descent on the sum of the losses of a batch.

        Parameters
        ----------
        inputs:
            Windows, shape ``(B, m)``, word numbers or -1; at least one word in each.
            The mean of its words' vectors takes the center's part in the loss.
        targets, noise, rate:
            Shapes ``(B,)`` and ``(B, k)``; as for ``SkipGram.step``.

        Returns
        -------
        The mean loss of an example, before the step. ``W`` and ``C`` have changed in
        place; all gradients are taken before any vector moves.
        """
        there = inputs >= 0
        size = there.sum(axis=1, keepdims=True).astype(self.W.dtype)
        mean = (self.W[inputs] * there[:, :, None]).sum(axis=1) / size
        loss, d_mean, d_target, d_noise = negative_sampling_loss(
            mean, self.C[targets], self.C[noise]
        )
        each = np.broadcast_to((d_mean / size)[:, None], (*inputs.shape, mean.shape[1]))
        add_rows(self.W, inputs[there], -rate * each[there])
        add_rows(self.C, targets, -rate * d_target)
        add_rows(self.C, noise, -rate * d_noise)
        return float(loss.mean())


known_mistakes(
    CBOW,
    (
        "(d_mean / size)[:, None]",
        "d_mean[:, None]",
        "the gradient of a mean is divided by the number of words; word2vec.c and gensim had this bug for years",
    ),
    (
        "mean = (self.W[inputs] * there[:, :, None]).sum(axis=1) / size",
        "mean = self.W[inputs].sum(axis=1) / size",
        "-1 is NumPy's last row: the padding brings the vector of the rarest word into every short window",
    ),
    (
        "mean = (self.W[inputs] * there[:, :, None]).sum(axis=1) / size",
        "mean = (self.W[inputs] * there[:, :, None]).sum(axis=1)",
        "the vectors of the window are summed; it is their mean that predicts",
    ),
    (
        "mean = (self.W[inputs] * there[:, :, None]).sum(axis=1) / size",
        "mean = (self.W[inputs] * there[:, :, None]).mean(axis=1)",
        "the mean runs over the window's words, not over the padding",
    ),
    (
        "add_rows(self.W, inputs[there], -rate * each[there])",
        "add_rows(self.W, inputs % len(self.W), -rate * each)",
        "the padding has no vector: its gradient went to the last word",
    ),
    (
        "add_rows(self.W, inputs[there], -rate * each[there])",
        "self.W[inputs[there]] -= rate * each[there]",
        "a word that comes twice, in one window or in two, keeps only its last gradient",
    ),
    (
        "        some = (windows >= 0).any(axis=1)\n        return windows[some], words[some]",
        "        return windows, words",
        "a place without neighbors has no window; its mean would be 0 / 0",
    ),
)


def analogy(
    vectors: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, top: int = 1
) -> np.ndarray:
    """The words that are to ``c`` as ``b`` is to ``a``, by 3CosAdd.

    With all vectors scaled to length 1, they are the words ``w`` with the largest
    cosine between ``vectors[w]`` and ``vectors[b] - vectors[a] + vectors[c]``. The
    words of the question are no answers.

    Parameters
    ----------
    vectors:
        One row for each word, float, shape ``(V, d)``; none is zero.
    a, b, c:
        Word numbers of Q questions, each of shape ``(Q,)``; words may coincide.
    top:
        How many answers to give, from 1 to ``V - 3``.

    Returns
    -------
    The answers' word numbers, best first, shape ``(Q, top)``.

    Raises a ValueError that speaks of a zero vector if there is one, and one that names
    ``top`` if that is out of range.

    Source: Mikolov et al. 2013a, sec. 4; the name is of Levy and Goldberg 2014.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not length.all():
        raise ValueError("a zero vector has no direction")
    if not 1 <= top <= len(vectors) - 3:
        raise ValueError(f"top must be from 1 to {len(vectors) - 3}, got {top}")
    unit = vectors / length
    score = (unit[b] - unit[a] + unit[c]) @ unit.T  # (Q, V), the cosine up to a factor
    question = np.arange(len(score))
    for asked in (a, b, c):
        score[question, asked] = -np.inf
    return np.argsort(-score)[:, :top]


known_mistakes(
    analogy,
    (
        "unit = vectors / length",
        "unit = vectors",
        "the vectors are not scaled to length 1: long vectors, which are frequent words', win",
    ),
    (
        "    for asked in (a, b, c):\n        score[question, asked] = -np.inf\n",
        "",
        "the question's own words are not excluded; the nearest to b - a + c is nearly always b or c",
    ),
    (
        "for asked in (a, b, c):",
        "for asked in (c,):",
        "all three words of the question are excluded, b above all",
    ),
    (
        "unit[b] - unit[a] + unit[c]",
        "unit[a] - unit[b] + unit[c]",
        "the question is read the other way round: b - a is the way that leads from c",
    ),
    (
        "unit[b] - unit[a] + unit[c]",
        "vectors[b] - vectors[a] + vectors[c]",
        "scale the vectors to length 1 before they are added, or the longest decides the direction",
    ),
    (
        "np.argsort(-score)",
        "np.argsort(score)",
        "argsort goes up; the best answer has the largest cosine",
    ),
    (
        "score[question, asked] = -np.inf",
        "score[:, asked] = -np.inf",
        "the words of one question are excluded from all others, too",
    ),
    (
        "    if not length.all():\n        raise ValueError(\"a zero vector has no direction\")\n",
        "",
        "a zero vector turns into NaN by the division",
    ),
)


def train(
    model, words, rng, epochs, rate=0.05, window=5, negatives=5, threshold=1e-4,
    batch=1024, progress=True,
):  # fmt: skip
    """Train on the text; the mean loss of an example, by epoch. The rate falls to 0.

    Each epoch draws the words kept, the spans from 1 to ``window``, and the order anew.
    """
    means = []
    for epoch in range(epochs):
        text = subsample(words, model.counts, threshold, rng)
        spans = rng.integers(1, window + 1, len(text))
        inputs, targets = model.examples(text, spans)
        order, total = rng.permutation(len(targets)), 0.0
        starts = range(0, len(order), batch)
        for start in tqdm(starts, f"epoch {epoch + 1}", disable=not progress):
            at = order[start : start + batch]
            noise = model.noise((len(at), negatives), rng)
            now = rate * (1 - (epoch + start / len(order)) / epochs)
            total += model.step(inputs[at], targets[at], noise, now) * len(at)
        means.append(total / len(order))
    return means
