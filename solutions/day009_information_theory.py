"""Day 9: entropy, KL divergence and mutual information of tables of probabilities,
Huffman's code, and the information of a text's characters."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Hashable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from llm180 import known_mistakes


def distribution(values: ArrayLike, axis: int) -> np.ndarray:
    """``values`` in float64. Raises ValueError unless each slice along ``axis`` is a
    distribution: no entry negative or NaN, and a sum of 1 within 1e-5."""
    p = np.asarray(values, dtype=np.float64)
    if not (p >= 0).all():
        raise ValueError("a probability is negative or NaN")
    total = p.sum(axis=axis)
    # equivalent `abs(total - 1) < 1e-5`: no sum lies exactly on the limit
    if not (abs(total - 1) <= 1e-5).all():
        raise ValueError(f"the sum is not 1 but {total}; divide counts by their sum")
    return p


def entropy(p: ArrayLike, axis: int = -1, base: float = 2.0) -> np.ndarray:
    """Entropy: the mean surprise of each distribution in an array.

    Parameters
    ----------
    p:
        Probabilities of any numeric dtype; each slice along ``axis`` sums to 1.
        An entry of 0 adds nothing.
    axis:
        The axis of the outcomes.
    base:
        Of the logarithm: 2 gives bits, ``math.e`` nats.

    Returns
    -------
    float64, the shape of ``p`` without ``axis``: for one distribution, one number.

    Raises ValueError if a slice is no distribution.

    Source: Shannon 1948, "A Mathematical Theory of Communication", sec. 6.
    """
    p = distribution(p, axis)
    # equivalent `p != 0`: none is negative ;; `2.0`: it is multiplied by 0
    surprise = -np.log(np.where(p > 0, p, 1.0))
    return (p * surprise).sum(axis=axis) / math.log(base)


known_mistakes(
    entropy,
    (
        "np.where(p > 0, p, 1.0)",
        "p",
        "the logarithm of 0 is taken: 0 times minus infinity is NaN, and 0 log 0 has to count as 0",
    ),
    (
        "np.where(p > 0, p, 1.0)",
        "p + 1e-3",
        "a small constant is added inside the logarithm, which changes every term",
    ),
    (
        "np.where(p > 0, p, 1.0)",
        "np.maximum(p, 1e-12)",
        "small probabilities are raised to a least one, so that a rare outcome surprises too little",
    ),
    (
        " / math.log(base)",
        "",
        "the logarithm is natural, so the result is in nats whatever base is asked for",
    ),
    (
        "surprise = -np.log",
        "surprise = np.log",
        "the sign is missing: logarithms of probabilities are negative, surprise is positive",
    ),
    (
        "(p * surprise).sum(axis=axis)",
        "(p * surprise).sum()",
        "the sum runs over the whole array; a batch has one entropy for each distribution",
    ),
    (
        "(p * surprise).sum(axis=axis)",
        "(p * surprise).mean(axis=axis)",
        "a mean over outcomes divides by their number; the probabilities are the weights already",
    ),
    (
        "    p = distribution(p, axis)\n",
        "    p = np.asarray(p, dtype=np.float64)\n    p = p / p.sum(axis=axis, keepdims=True)\n",
        "what does not sum to 1 is rescaled in silence; it has to be refused with a ValueError",
    ),
)


def kl_divergence(
    p: ArrayLike, q: ArrayLike, axis: int = -1, base: float = 2.0
) -> np.ndarray:
    """KL divergence of q from p: the extra price of coding p with a code for q.

    Parameters
    ----------
    p, q:
        Probabilities, with equally many outcomes along ``axis``; the other axes are
        broadcast. An outcome with p = 0 adds nothing, whatever q is.
    axis, base:
        As in ``entropy``.

    Returns
    -------
    float64, the broadcast shape without ``axis``: infinity where some outcome has
    q = 0 and p > 0.

    Raises ValueError if a slice is no distribution, or if the numbers of outcomes
    differ.

    Source: Kullback and Leibler 1951, "On Information and Sufficiency", sec. 2.
    """
    p, q = distribution(p, axis), distribution(q, axis)
    if p.shape[axis] != q.shape[axis]:
        raise ValueError(f"p has {p.shape[axis]} outcomes, q has {q.shape[axis]}")
    # equivalent `(p != 0)` `(q != 0)`: no probability is negative
    both = (p > 0) & (q > 0)
    # equivalent `p, 2.0` `q, 2.0`: there p is 0, or the term is set to infinity
    extra = np.log(np.where(both, p, 1.0)) - np.log(np.where(both, q, 1.0))
    # equivalent `(p != 0)` `(q <= 0)`: no probability is negative
    terms = np.where((p > 0) & (q == 0), np.inf, p * extra)
    return terms.sum(axis=axis) / math.log(base)


known_mistakes(
    kl_divergence,
    (
        "np.log(np.where(both, p, 1.0)) - np.log(np.where(both, q, 1.0))",
        "np.log(np.where(both, q, 1.0)) - np.log(np.where(both, p, 1.0))",
        "the ratio is upside down: a KL divergence is the mean of log(p / q) and never negative",
    ),
    (
        "np.inf, p * extra)",
        "np.inf, q * extra)",
        "the mean is taken under q; what happens is drawn from p",
    ),
    (
        "np.where((p > 0) & (q == 0), np.inf, p * extra)",
        "p * extra",
        "an outcome that q holds impossible is left out; it costs infinitely many bits",
    ),
    (
        "both = (p > 0) & (q > 0)",
        "both = (p >= 0) & (q > 0)",
        "the logarithm of p = 0 is taken; such an outcome never happens and adds nothing",
    ),
    (
        "(p > 0) & (q == 0), np.inf",
        "q == 0, np.inf",
        "an outcome that both hold impossible counts as infinite; it adds nothing",
    ),
    (
        "np.log(np.where(both, p, 1.0)) - np.log(np.where(both, q, 1.0))",
        "np.log(np.where(both, p, 1.0) / np.where(both, q, 1.0))",
        "p / q overflows where q is tiny: subtract the two logarithms",
    ),
    (
        "    if p.shape[axis] != q.shape[axis]:\n",
        "    if False:\n",
        "a q with one outcome is stretched over all of p's; the numbers of outcomes have to agree",
    ),
    (
        "np.where(both, q, 1.0)",
        "np.where(both, q + 1e-9, 1.0)",
        "a small constant is added to q, which hides infinities and changes tiny terms",
    ),
)


def mutual_information(joint: ArrayLike, base: float = 2.0) -> np.ndarray:
    """Mutual information of two variables, from the table of their joint distribution.

    Parameters
    ----------
    joint:
        ``(..., m, n)``, of any numeric dtype: entry ``(x, y)`` of a table is the
        probability of x and y together, and each table sums to 1. Rows and columns
        of zeros are allowed.
    base:
        Of the logarithm.

    Returns
    -------
    float64, ``(...)``: one number for each table, at least 0 up to rounding.

    Raises ValueError if a table is no distribution.

    Source: Cover and Thomas 2006, "Elements of Information Theory", sec. 2.3.
    """
    joint = np.asarray(joint, dtype=np.float64)
    product = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    flat = (*joint.shape[:-2], -1)  # equivalent `-2)`: NumPy infers it as well
    return kl_divergence(joint.reshape(flat), product.reshape(flat), base=base)


known_mistakes(
    mutual_information,
    (
        "kl_divergence(joint.reshape(flat), product.reshape(flat), base=base)",
        "kl_divergence(product.reshape(flat), joint.reshape(flat), base=base)",
        "joint and product have changed places: the mean is under what happens, the joint",
    ),
    (
        "joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)",
        "np.full(joint.shape, 1 / math.prod(joint.shape[-2:]))",
        "the table is compared with equal probabilities; independence means the product of its own marginals",
    ),
    (
        "kl_divergence(joint.reshape(flat), product.reshape(flat), base=base)",
        "kl_divergence(joint.reshape(flat), product.reshape(flat))",
        "the base is not handed on",
    ),
    (
        "flat = (*joint.shape[:-2], -1)",
        "flat = (-1,)",
        "a batch of tables is flattened into one; each table has a number of its own",
    ),
    (
        "    joint = np.asarray(joint, dtype=np.float64)\n",
        "    joint = np.asarray(joint, dtype=np.float64)\n    joint = joint / joint.sum(axis=(-2, -1), keepdims=True)\n",
        "a table of counts is rescaled in silence; it has to be refused with a ValueError",
    ),
    (
        "joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)",
        "joint.sum(axis=-2, keepdims=True) * np.ones(joint.shape) / joint.shape[-2]",
        "only one marginal enters the product; this measures more than what the two share",
    ),
)


def huffman_code(weights: Mapping[Hashable, float]) -> dict[Hashable, str]:
    """Huffman's code: a prefix code of least mean length.

    Parameters
    ----------
    weights:
        Symbol -> a positive, finite number: a count or a probability. Symbols need
        no order among them.

    Returns
    -------
    Symbol -> its codeword, a string of the characters 0 and 1. No codeword begins
    another. A single symbol gets one bit.

    Raises ValueError if there is no symbol, or a weight that is not positive and
    finite.

    Source: Huffman 1952, "A Method for the Construction of Minimum-Redundancy Codes".
    """
    if not weights:
        raise ValueError("there is no symbol to code")
    # equivalent `0 < weight != math.inf`: NaN is not above 0
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError("a weight is not positive and finite")
    # equivalent `len(weights) <= 1`: none was refused above
    if len(weights) == 1:
        return dict.fromkeys(weights, "0")
    serial = itertools.count()  # decides ties, so that symbols are never compared
    trees = [(weight, next(serial), [symbol]) for symbol, weight in weights.items()]
    heapq.heapify(trees)
    code = dict.fromkeys(weights, "")
    # equivalent `len(trees) != 1`: it begins above 1 and falls by 1
    while len(trees) > 1:
        light, _, zeros = heapq.heappop(trees)
        heavy, _, ones = heapq.heappop(trees)
        for bit, symbols in (("0", zeros), ("1", ones)):
            for symbol in symbols:
                code[symbol] = bit + code[symbol]
        heapq.heappush(trees, (light + heavy, next(serial), zeros + ones))
    return code


known_mistakes(
    huffman_code,
    (
        "code[symbol] = bit + code[symbol]",
        "code[symbol] = code[symbol] + bit",
        "bits are added at the wrong end: merging goes from the leaves up, so the newest bit comes first",
    ),
    (
        "(light + heavy, next(serial), zeros + ones)",
        "(max(light, heavy), next(serial), zeros + ones)",
        "the merged tree takes one weight; it weighs as much as both together",
    ),
    (
        "(weight, next(serial), [symbol])",
        "(-weight, next(serial), [symbol])",
        "the heaviest trees are merged first; the two lightest belong deepest",
    ),
    (
        "    if len(weights) == 1:\n",
        "    if False:\n",
        "a single symbol gets an empty codeword, from which nobody can tell how often it was sent",
    ),
    (
        "(weight, next(serial), [symbol])",
        "(weight, repr(symbol), [symbol])",
        "ties of the heap compare what need not be comparable",
    ),
    (
        "    trees = [(weight, next(serial), [symbol]) for symbol, weight in weights.items()]\n",
        "    trees = [(1, next(serial), [symbol]) for symbol in weights]\n",
        "the weights are not looked at: this is a code of equal lengths",
    ),
    (
        "    if not weights:\n",
        "    if False:\n",
        "an alphabet without a symbol is not refused with a ValueError",
    ),
    (
        "    if not all(0 < weight < math.inf for weight in weights.values()):\n",
        "    if False:\n",
        "a weight that is zero, negative, infinite or NaN is not refused with a ValueError",
    ),
)


def text_information(
    text: str, reference: str, smoothing: float = 1.0
) -> tuple[float, float, float]:
    """What a text's characters cost, and what they cost under another text's model.

    Parameters
    ----------
    text:
        What is measured: its characters have the frequencies p. Not empty.
    reference:
        What the model q has read: ``q(c) = (count of c + smoothing) / total``, where
        c runs over all characters of either text, and the total makes the sum 1.
    smoothing:
        At least 0. With 0, a character that the reference lacks is impossible.

    Returns
    -------
    Entropy of p, cross-entropy of p under q, and KL divergence, in bits a character;
    three plain floats.

    Raises ValueError that says ``no text`` if the text is empty, and one that says
    ``no model`` if the smoothing is negative, or 0 with an empty reference.

    Source: Cover and Thomas 2006, sec. 2.3 and 5.4; smoothing, Day 5.
    """
    if not text:
        raise ValueError("there is no text to measure")
    if smoothing < 0 or not (reference or smoothing):
        raise ValueError(f"no model: {len(reference)} read, smoothing {smoothing}")
    seen, known = Counter(text), Counter(reference)
    alphabet = list(seen | known)
    p = np.array([seen[c] for c in alphabet]) / len(text)
    q = np.array([known[c] + smoothing for c in alphabet])
    h, kl = float(entropy(p)), float(kl_divergence(p, q / q.sum()))
    return h, h + kl, kl


known_mistakes(
    text_information,
    (
        "list(seen | known)",
        "list(seen)",
        "the alphabet leaves out what only the reference has, so that q gets too little to share out",
    ),
    (
        "list(seen | known)",
        "list(known)",
        "the alphabet leaves out what only the text has: the very characters that cost most",
    ),
    (
        "[known[c] + smoothing for c in alphabet]",
        "[max(known[c], smoothing) for c in alphabet]",
        "the smoothing fills gaps only; it is added to every count",
    ),
    (
        "kl_divergence(p, q / q.sum())",
        "kl_divergence(q / q.sum(), p)",
        "text and model have changed places",
    ),
    (
        "return h, h + kl, kl",
        "return h, h - kl, kl",
        "a wrong model costs more than the entropy, not less",
    ),
    (
        "p = np.array([seen[c] for c in alphabet]) / len(text)",
        "p = np.array([seen[c] + smoothing for c in alphabet])\n    p = p / p.sum()",
        "the text's own frequencies are smoothed too; p is what was seen",
    ),
    (
        "    if not text:\n",
        "    if False:\n",
        "an empty text is not refused with a ValueError that says so",
    ),
    (
        "    if smoothing < 0 or not (reference or smoothing):\n",
        "    if False:\n",
        "a negative smoothing, or a model of nothing, is not refused with a ValueError that says so",
    ),
)
