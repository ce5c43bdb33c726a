"""Day 5: drawing from a distribution by its CDF, Bayes' rule on a grid, and a naive
Bayes classifier of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from llm180 import known_mistakes


def log_sum_exp(x: np.ndarray) -> float:
    """The log of the sum of ``exp(x)`` over a vector, safe for any size of ``x``.

    ``-inf``, the log of zero, is allowed; the result is ``-inf`` where all are.
    Day 15 derives it.
    """
    top = x.max()
    # equivalent `top <= -np.inf`: nothing is below minus infinity
    if top == -np.inf:
        return -np.inf
    return top + np.log(np.exp(x - top).sum())


def sample_from_cdf(cdf: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Turn uniform numbers into outcomes, by inverting a cumulative distribution.

    Parameters
    ----------
    cdf:
        ``(n,)``, the running totals of the weights of n outcomes, which are at least
        0. The last total need not be 1: weights are taken in proportion.
    u:
        Uniform numbers in ``[0, 1)``, of any shape, also a single one or none.

    Returns
    -------
    Indices from 0 to ``n - 1``, integers of the shape of ``u``: the first outcome
    whose running total, divided by the last, is greater than ``u``. An outcome of
    weight 0 is never drawn. Takes memory for n and for ``u``, not for their product.

    Raises ValueError that says ``running totals`` if ``cdf`` is empty, is no vector,
    begins below 0, falls, or ends at 0 or at no finite number; and one that says
    ``[0, 1)`` if some ``u`` lies outside.

    Source: Devroye 1986, "Non-Uniform Random Variate Generation", sec. III.2.
    """
    cdf, u = np.asarray(cdf), np.asarray(u)
    if cdf.ndim != 1 or not cdf.size:
        raise ValueError(f"running totals are a vector, not of shape {cdf.shape}")
    weights = np.diff(cdf, prepend=0.0)
    if not (weights >= 0).all() or cdf[-1] in (0, np.inf):
        raise ValueError("running totals never fall, and end above 0")
    if not ((u >= 0) & (u < 1)).all():
        raise ValueError("every u must lie in [0, 1)")
    return np.searchsorted(cdf / cdf[-1], u, side="right")


known_mistakes(
    sample_from_cdf,
    (
        'side="right"',
        'side="left"',
        "a u that equals a running total gets the outcome below it, so an outcome of weight 0 can be drawn",
    ),
    (
        "np.searchsorted(cdf / cdf[-1], u",
        "np.searchsorted(cdf, u",
        "the totals are taken as they are: divide by the last one, which need not be 1",
    ),
    (
        'np.searchsorted(cdf / cdf[-1], u, side="right")',
        'np.searchsorted(cdf, u * (cdf[-1] if cdf[-1] > 1 else 1), side="right").clip(max=cdf.size - 1)',
        "an index past the end is clipped to the last outcome, whose weight may be 0",
    ),
    (
        'np.searchsorted(cdf / cdf[-1], u, side="right")',
        "(u[..., None] >= cdf / cdf[-1]).sum(axis=-1)",
        "every u is compared with every total: a table of all pairs, where a binary search needs none",
    ),
    (
        'np.searchsorted(cdf / cdf[-1], u, side="right")',
        'np.searchsorted(cdf / cdf[-1], u.ravel(), side="right")',
        "the draws come back flat: the result has the shape of u",
    ),
    (
        'np.searchsorted(cdf / cdf[-1], u, side="right")',
        'np.searchsorted(cdf.cumsum() / cdf.sum(), u, side="right")',
        "the totals are summed up once more, as if they were weights",
    ),
    (
        "(u >= 0) & (u < 1)",
        "(u >= 0) & (u <= 1)",
        "u = 1 is let through, and no running total is greater than it",
    ),
    (
        "not (weights >= 0).all()",
        "(weights < 0).any()",
        "NaN among the totals is let through: every comparison with NaN is false",
    ),
    (
        "cdf[-1] in (0, np.inf)",
        "cdf[-1] == np.inf",
        "a total of 0 is let through, though nothing can be drawn",
    ),
)


def bayes_update(
    log_prior: np.ndarray, log_likelihood: np.ndarray
) -> tuple[np.ndarray, float]:
    """Bayes' rule for k hypotheses and any number of observations, in logs.

    Parameters
    ----------
    log_prior:
        ``(k,)``, logs of the hypotheses' weights before the data, k at least 1.
        Weights are taken in proportion; ``-inf`` is the log of weight 0.
    log_likelihood:
        ``(k,)`` for one observation or ``(n, k)`` for n observations, which are
        independent given the hypothesis: log of the probability, or density, of
        each. ``-inf`` where a hypothesis rules it out. n may be 0.

    Returns
    -------
    The log-posterior, ``(k,)``, whose exponentials sum to 1, and the log-evidence:
    log of the probability of all observations under the prior, scaled to sum 1.

    Raises ValueError that says ``hypotheses`` if the lengths do not fit,
    ``no log`` if a value is NaN or plus infinity, and ``impossible`` if every
    hypothesis has weight 0 before the data or after them.

    Source: MacKay 2003, "Information Theory, Inference, and Learning Algorithms",
    ch. 3.
    """
    log_prior = np.asarray(log_prior)
    log_likelihood = np.asarray(log_likelihood, dtype=float)
    k = log_prior.size
    if log_prior.shape != (k,) or not k or log_likelihood.shape[-1:] != (k,):
        shapes = f"{log_prior.shape} and {log_likelihood.shape}"
        raise ValueError(f"shapes {shapes} do not agree on the hypotheses")
    for values in (log_prior, log_likelihood):
        if not (values < np.inf).all():
            raise ValueError("NaN or infinity is no log of a weight")
    # equivalent `reshape(-2, k)`: NumPy infers the length for any negative number
    joint = log_prior + log_likelihood.reshape(-1, k).sum(axis=0)
    total = log_sum_exp(joint)
    # equivalent `total <= -np.inf`: nothing is below minus infinity
    if total == -np.inf:
        raise ValueError("the data are impossible under every hypothesis")
    return joint - total, total - log_sum_exp(log_prior)


known_mistakes(
    bayes_update,
    (
        "joint - total,",
        "joint,",
        "the joint is returned, not the posterior: it is not divided by its sum",
    ),
    (
        "return joint - total,",
        "return np.exp(joint - total),",
        "probabilities are returned where their logs are promised",
    ),
    (
        "joint - total, total - log_sum_exp(log_prior)",
        "joint - total, log_sum_exp(log_likelihood.reshape(-1, k).sum(axis=0))",
        "the evidence is a sum of likelihoods, each weighted by its prior; here the weights are left out",
    ),
    (
        "return joint - total,",
        "joint = np.exp(joint)\n    return np.log(joint / joint.sum()),",
        "the logs are taken back before the sum, and the product of many likelihoods underflows to 0",
    ),
    (
        "joint - total, total - log_sum_exp(log_prior)",
        "joint - total, total",
        "the evidence takes the prior as it is; its weights are to be scaled to sum 1",
    ),
    (
        "joint = log_prior + log_likelihood",
        "joint = log_likelihood",
        "the prior is left out: this is the likelihood alone",
    ),
    (
        "reshape(-1, k).sum(axis=0)",
        "reshape(-1, k).mean(axis=0)",
        "the log-likelihoods are averaged over the observations; independent ones add up",
    ),
    (
        "reshape(-1, k).sum(axis=0)",
        "reshape(-1, k)[-1]",
        "only the last observation counts",
    ),
    (
        "    if total == -np.inf:\n",
        "    if False:\n",
        "data that no hypothesis allows give NaN: they are to be refused",
    ),
    (
        "if not (values < np.inf).all():",
        "if not np.isfinite(values).all():",
        "minus infinity is refused, but it is the log of 0 and legal",
    ),
    (
        "if not (values < np.inf).all():",
        "if (values == np.inf).any():",
        "NaN is not refused",
    ),
    (
        " or log_likelihood.shape[-1:] != (k,)",
        "",
        "a likelihood for another number of hypotheses is not refused with a message of its own",
    ),
)


class NaiveBayes:
    """Multinomial naive Bayes: classes of documents, which are sequences of tokens.

    After ``fit`` it has four attributes. ``classes`` is the sorted list of the C
    labels; ``vocabulary`` maps each of the V tokens of the training documents to its
    column. ``log_prior``, ``(C,)``, holds the log of each class's share of the
    documents. ``log_likelihood``, ``(C, V)``, holds the log of
    ``(count + alpha) / (tokens of the class + alpha * V)``.

    Source: McCallum and Nigam 1998, "A Comparison of Event Models for Naive Bayes
    Text Classification", its multinomial event model, with any alpha in place of 1.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        """``alpha`` tokens are added to each count. ValueError unless above 0."""
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        self.alpha = alpha

    def fit(
        self, documents: Sequence[Sequence[str]], labels: Sequence[str]
    ) -> NaiveBayes:
        """Count tokens by class, replacing what an earlier fit learned; returns self.

        Raises ValueError that says ``documents`` if there are none, or not one
        label for each.
        """
        if not len(documents) or len(documents) != len(labels):
            raise ValueError(f"{len(documents)} documents, {len(labels)} labels")
        shares = Counter(labels)
        self.classes = sorted(shares)
        tallies = {label: Counter() for label in self.classes}
        for document, label in zip(documents, labels):
            tallies[label].update(document)
        words = sorted(set().union(*tallies.values()))
        self.vocabulary = {word: column for column, word in enumerate(words)}
        counts = np.array([[tallies[c][w] for w in words] for c in self.classes])
        counts = counts + self.alpha
        self.log_likelihood = np.log(counts / counts.sum(axis=1, keepdims=True))
        self.log_prior = np.log([shares[c] / len(labels) for c in self.classes])
        return self

    def log_posterior(self, documents: Sequence[Sequence[str]]) -> np.ndarray:
        """Log-probability of each class for each document, ``(n, C)``.

        Each row's exponentials sum to 1. Tokens outside the vocabulary are passed
        over; a document without any other gets the prior. n may be 0.
        """
        rows = np.empty((len(documents), len(self.classes)))
        for i, document in enumerate(documents):
            known = [self.vocabulary[w] for w in document if w in self.vocabulary]
            evidence = self.log_likelihood[:, known].T
            rows[i], _ = bayes_update(self.log_prior, evidence)
        return rows

    def predict(self, documents: Sequence[Sequence[str]]) -> list[str]:
        """The most probable label of each document; of equals, the first in order."""
        best = self.log_posterior(documents).argmax(axis=1)
        return [self.classes[c] for c in best]


known_mistakes(
    NaiveBayes,
    (
        "counts = counts + self.alpha\n",
        "counts = np.maximum(counts, self.alpha)\n",
        "alpha replaces the zeros only; it is added to every count",
    ),
    (
        "np.log(counts / counts.sum(axis=1, keepdims=True))",
        "np.log(counts / (counts - self.alpha).sum(axis=1, keepdims=True))",
        "alpha is missing in the denominator, so the probabilities of a class do not sum to 1",
    ),
    (
        "np.log(counts / counts.sum(axis=1, keepdims=True))",
        "np.log(counts / counts.sum(axis=0, keepdims=True))",
        "the counts are divided by the total of the word; P(w | c) divides by the total of the class",
    ),
    (
        "np.log([shares[c] / len(labels) for c in self.classes])",
        "np.log([(shares[c] + self.alpha) / (len(labels) + self.alpha * len(shares)) for c in self.classes])",
        "alpha is added to the counts of the classes too; it belongs to those of the tokens only",
    ),
    (
        "np.log([shares[c] / len(labels) for c in self.classes])",
        "np.log([1 / len(self.classes) for c in self.classes])",
        "every class gets the same prior; it is the class's share of the documents",
    ),
    (
        "np.log([shares[c] / len(labels) for c in self.classes])",
        "np.log([shares[c] / len(labels) for c in shares])",
        "the prior is in the order in which labels first came, not in that of the classes",
    ),
    (
        "tallies[label].update(document)",
        "tallies[label].update(set(document))",
        "a token counts once per document; the multinomial counts every occurrence",
    ),
    (
        "[self.vocabulary[w] for w in document if w in self.vocabulary]",
        "[self.vocabulary[w] for w in document]",
        "a token outside the vocabulary raises KeyError; it is to be passed over",
    ),
    (
        "[self.vocabulary[w] for w in document if w in self.vocabulary]",
        "sorted({self.vocabulary[w] for w in document if w in self.vocabulary})",
        "a token that occurs twice in the judged document counts once",
    ),
    (
        "rows[i], _ = bayes_update(self.log_prior, evidence)",
        "rows[i], _ = bayes_update(np.zeros(len(self.classes)), evidence)",
        "the prior is left out of the posterior",
    ),
    (
        "rows[i], _ = bayes_update(self.log_prior, evidence)",
        "rows[i] = np.log(np.exp(self.log_prior) * np.exp(evidence).prod(axis=0))\n            rows[i] -= np.log(np.exp(rows[i]).sum())",
        "probabilities are multiplied, not logs added: a long document underflows to 0",
    ),
    (
        "return [self.classes[c] for c in best]",
        "return best.tolist()",
        "numbers of classes are returned; labels are asked for",
    ),
    (
        "        if not alpha > 0:\n",
        "        if False:\n",
        "an alpha of 0 is not refused: one unseen token would then veto a class",
    ),
    (
        "        if not len(documents) or len(documents) != len(labels):\n",
        "        if False:\n",
        "documents without a label, or none at all, are not refused",
    ),
)
