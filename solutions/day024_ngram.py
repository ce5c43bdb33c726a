"""Day 24: n-gram language models."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from llm180 import data, known_mistakes

UNKNOWN = "\ufffd"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ALPHABET = "\n !\"'(),-.:;?" + LETTERS + UNKNOWN


def clean(text: str) -> str:
    """A text with one paragraph a line, without the underscores that mark italics."""
    paragraphs = re.split(r"\n\s*\n", text.replace("_", "").strip())
    return "\n".join(" ".join(p.split()) for p in paragraphs)


def encode(text: str) -> np.ndarray:
    """The characters as places in ``ALPHABET``, int64; others as ``UNKNOWN``."""
    place = {c: i for i, c in enumerate(ALPHABET)}
    return np.array([place.get(c, len(ALPHABET) - 1) for c in text], dtype=np.int64)


class AustenSplit(NamedTuple):
    """Six novels in three parts, as text; valid and test hold 12 chapters each."""

    train: str
    valid: list[str]
    test: list[str]


def austen_split() -> AustenSplit:
    """Five novels to train on; the two volumes of Persuasion to tune and to test on."""
    novels = data.load("austen")
    held_out = re.split(r"\nChapter \d+\n", novels.pop("Persuasion"))[1:]
    chapters = [clean(chapter) for chapter in held_out]
    train = "\n".join(map(clean, novels.values()))
    return AustenSplit(train, chapters[:12], chapters[12:])


def ngram_counts(
    texts: list[np.ndarray], n: int, V: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count the n-grams of some texts; none reaches from one text into the next.

    An n-gram is packed into one number, its key: its tokens are the digits in base
    ``V``, the first token the most significant. So ``key // V`` is the context,
    ``key % V`` the last token, and ``key % V ** (n - 1)`` is the n-gram without its
    first token.

    Parameters
    ----------
    texts:
        One-dimensional integer arrays of tokens, each at least 0 and below ``V``;
        of any lengths, also shorter than ``n``, also none at all.
    n:
        Tokens per n-gram, at least 1.
    V:
        Size of the vocabulary, at least 1.

    Returns
    -------
    keys, int64 (m,), the keys of the different n-grams, increasing; and counts, int64
    (m,), how often each occurs. Both are empty if there is no n-gram.

    Raises a ValueError that names ``n`` or ``V`` if one is below 1, or if ``V ** n`` is
    above ``2 ** 63 - 1``, so that a key may not fit; and one that speaks of a token if
    a token is outside its range.

    Source: Jurafsky and Martin, "Speech and Language Processing", ch. 3.
    """
    if n < 1 or V < 1 or V**n > 2**63 - 1:
        raise ValueError(f"need n >= 1, V >= 1 and V**n below 2**63; got n {n}, V {V}")
    packed = [np.zeros(0, dtype=np.int64)]
    for text in texts:
        tokens = np.asarray(text, dtype=np.int64)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < V):
            raise ValueError(f"a token is below 0 or not below V = {V}")
        # equivalent `n + 1, 1)`: a text that is too short empties the keys anyway
        windows = max(len(tokens) - n + 1, 0)
        keys = np.zeros(windows, dtype=np.int64)
        for i in range(n):
            keys = keys * V + tokens[i : i + windows]
        packed.append(keys)
    return np.unique(np.concatenate(packed), return_counts=True)


known_mistakes(
    ngram_counts,
    (
        "windows = max(len(tokens) - n + 1, 0)",
        "windows = max(len(tokens) - n, 0)",
        "the last n-gram of each text is not counted: N tokens hold N - n + 1 n-grams",
    ),
    (
        "for text in texts:",
        "for text in [np.concatenate([np.zeros(0, dtype=np.int64), *texts])]:",
        "the texts are glued together: an n-gram reaches from the end of one into the next",
    ),
    (
        "keys * V + tokens[i : i + windows]",
        "keys + V**i * tokens[i : i + windows]",
        "the first token is the least significant digit; then key // V is not the context",
    ),
    (
        "if n < 1 or V < 1 or V**n > 2**63 - 1:",
        "if n < 1 or V < 1:",
        "a key beyond 63 bits overflows without a word, and different n-grams share a number",
    ),
    (
        "not (tokens.min() >= 0 and tokens.max() < V)",
        "not (tokens.min() >= 0 and tokens.max() <= V)",
        "the largest token is V - 1; a digit V is read as a carry",
    ),
    (
        "keys = keys * V + tokens[i : i + windows]",
        "keys = (keys * V + tokens[i : i + windows]).astype(np.asarray(text).dtype)",
        "the keys have the dtype of the tokens; int32 is too small for them, and they overflow",
    ),
    (
        "packed.append(keys)",
        "packed.append(np.unique(keys))",
        "each text counts an n-gram once; every occurrence counts",
    ),
)


def perplexity(log_probs: np.ndarray, units: float | None = None) -> float:
    """Perplexity of a text from the probability that a model gave to each token.

    Parameters
    ----------
    log_probs:
        Natural logarithms of the probabilities, any shape, not empty; ``-inf`` where
        a token was held to be impossible.
    units:
        How many units the text has, above 0, for a perplexity per unit, such as per
        word of a text whose tokens are characters; by default, the number of tokens.

    Returns
    -------
    ``exp`` of minus the sum of ``log_probs`` over the units, computed without
    multiplying probabilities; ``inf`` if a token was held to be impossible.

    Raises a ValueError that names ``log_probs`` if it is empty, or if an entry is NaN
    or above 1e-9, so that it is no logarithm of a probability; and one that names
    ``units`` if that is not above 0.

    Source: Jelinek et al. 1977, "Perplexity - a measure of the difficulty of speech
    recognition tasks".
    """
    log_probs = np.asarray(log_probs)
    units = log_probs.size if units is None else units
    if not log_probs.size or not (log_probs <= 1e-9).all():
        raise ValueError("log_probs: need logarithms of probabilities, at least one")
    if not units > 0:
        raise ValueError(f"a text has more than {units} units")
    return np.exp(-log_probs.sum() / units)


known_mistakes(
    perplexity,
    (
        "np.exp(-log_probs.sum() / units)",
        "np.exp(log_probs.sum() / units)",
        "the sign is missing: that is the mean probability, below 1",
    ),
    (
        "np.exp(-log_probs.sum() / units)",
        "np.exp(-log_probs).sum() / units",
        "the mean of 1 / p; perplexity is a geometric mean, so average the logarithms first",
    ),
    (
        "np.exp(-log_probs.sum() / units)",
        "2 ** (-log_probs.sum() / units)",
        "the logarithms are natural ones: the base of the power must be e",
    ),
    (
        "np.exp(-log_probs.sum() / units)",
        "np.prod(np.exp(log_probs)) ** (-1 / units)",
        "the product of a thousand probabilities underflows to 0",
    ),
    (
        "units = log_probs.size if",
        "units = len(log_probs) if",
        "log_probs may have any shape: count all of its entries, not its rows",
    ),
    (
        "units = log_probs.size if units is None else units",
        "units = units or log_probs.size",
        "0 counts as false too, so `or` takes zero units for none given; ask for `is None`",
    ),
    (
        "np.exp(-log_probs.sum() / units)",
        "np.exp(-log_probs.mean())",
        "the units are ignored; the surprise is the whole text's, shared among its units",
    ),
    (
        "np.exp(-log_probs.sum() / units)",
        "np.exp(-log_probs[np.isfinite(log_probs)].sum() / units)",
        "impossible tokens are left out; a model that rules out what comes has infinite perplexity",
    ),
)


class Level(NamedTuple):
    """One order of a model: what it says, and what it leaves to the order below."""

    keys: np.ndarray  # int64 (m,), increasing: the n-grams of this order
    shares: np.ndarray  # float64 (m,): their probability after the discount
    contexts: np.ndarray  # int64 (j,), increasing: their contexts
    rests: np.ndarray  # float64 (j,): the probability left to the order below


def lookup(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float
) -> np.ndarray:
    """The value of each wanted key, or the default where it is not among the keys."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], default)


class Interpolated(NamedTuple):
    """An n-gram model: levels 1 to n above a uniform level 0, over tokens below V."""

    levels: list[Level]
    V: int

    def prob(self, text: np.ndarray) -> np.ndarray:
        """The probability of each token given those before it, float64 (len(text),)."""
        p, keys = np.full(len(text), 1 / self.V), np.zeros(len(text), dtype=np.int64)
        for k, level in enumerate(self.levels, start=1):
            ends = slice(k - 1, None)  # where the text's k-grams end
            keys[ends] += text[: len(keys[ends])] * self.V ** (k - 1)
            rest = lookup(level.contexts, level.rests, keys[ends] // self.V, 1.0)
            p[ends] = lookup(level.keys, level.shares, keys[ends], 0.0) + rest * p[ends]
        return p

    def following(self, context: np.ndarray) -> np.ndarray:
        """The distribution of the token after a context of any length, float64 (V,)."""
        p, keys = np.full(self.V, 1 / self.V), np.arange(self.V)
        for k, level in enumerate(self.levels[: len(context) + 1]):
            if k:
                keys = keys + context[-k] * self.V**k
            # equivalent `[:1] / self`: the first key ends in token 0
            rest = lookup(level.contexts, level.rests, keys[:1] // self.V, 1.0)
            p = lookup(level.keys, level.shares, keys, 0.0) + rest * p
        return p


def discounts(counts: np.ndarray, modified: bool) -> np.ndarray:
    """What to take from a count of 1, of 2, and of 3 or more: float64 (3,)."""
    n1, n2, n3, n4 = (np.count_nonzero(counts == r) for r in (1, 2, 3, 4))
    if modified and all([n1, n2, n3, n4]):
        Y = n1 / (n1 + 2 * n2)
        D = [Y, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3]
        return np.maximum(D, 0.0)
    D = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5  # too small a corpus for the formula
    return np.full(3, D)  # equivalent `np.full(4, D)`: nothing reads the fourth


def kneser_ney(
    texts: list[np.ndarray], n: int, V: int, modified: bool = False
) -> Interpolated:
    """Fit interpolated Kneser-Ney to some texts.

    Level ``n`` is made of the counts of n-grams. Each level ``k`` below is made of the
    continuation counts of k-grams: how many different tokens come before the k-gram,
    at the places of the texts where one does. At each level, with ``c`` these counts,
    ``D`` the discounts of ``c``, and ``h`` the context of a k-gram,

        ``share(h w) = (c(h w) - D of c(h w)) / total of c over the context h``
        ``rest(h)    = 1 - total of share over the context h``

    A k-gram or context that has no such count has no entry.

    Parameters
    ----------
    texts, n, V:
        As in ``ngram_counts``; at least one text has ``n`` tokens.
    modified:
        Take another discount from counts of 1, of 2, and of 3 or more.

    Returns
    -------
    The model, with levels 1 to ``n`` in this order.

    Raises a ValueError that names ``n``, or its value, if no text has ``n`` tokens; and
    where ``ngram_counts`` does.

    Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for
    language modeling", after Kneser and Ney 1995.
    """
    keys, counts = ngram_counts(texts, n, V)
    if not len(keys):
        raise ValueError(f"no text has {n} tokens")
    levels = []
    for k in range(n, 0, -1):
        if k < n:  # equivalent `k != n`: k is never above n
            longer, _ = ngram_counts(texts, k + 1, V)
            keys, counts = np.unique(longer % V**k, return_counts=True)
        cut = discounts(counts, modified)[np.minimum(counts, 3) - 1]
        contexts, first, width = np.unique(
            keys // V, return_index=True, return_counts=True
        )
        totals = np.add.reduceat(counts, first)
        shares = (counts - cut) / np.repeat(totals, width)
        rests = np.add.reduceat(cut, first) / totals
        levels.insert(0, Level(keys, shares, contexts, rests))
    return Interpolated(levels, V)


known_mistakes(
    kneser_ney,
    (
        "keys, counts = np.unique(longer % V**k, return_counts=True)",
        "keys, counts = ngram_counts(texts, k, V)",
        "the lower levels use plain counts; Kneser-Ney counts the different tokens before a k-gram",
    ),
    (
        "longer, _ = ngram_counts(texts, k + 1, V)",
        "longer = keys",
        "a k-gram that only begins a text has no count of its own, but it counts for the level below: take the k-grams of the texts",
    ),
    (
        "longer, _ = ngram_counts(texts, k + 1, V)",
        "longer = np.repeat(*ngram_counts(texts, k + 1, V))",
        "every occurrence is counted; a token that comes before twice is still one",
    ),
    (
        "longer % V**k",
        "longer // V",
        "these are the tokens that come after a k-gram; continuation counts those before it",
    ),
    (
        "if k < n:",
        "if True:",
        "continuation counts at the top level too; there nothing is longer, and plain counts are right",
    ),
    (
        "np.add.reduceat(cut, first) / totals",
        "cut[first] / totals",
        "the discount was taken from every k-gram of the context, not from one",
    ),
    (
        "discounts(counts, modified)[np.minimum(counts, 3) - 1]",
        "discounts(counts, modified)[np.minimum(counts, 2) - 1]",
        "counts of 3 or more have a discount of their own",
    ),
    (
        "cut = discounts(counts, modified)",
        "cut = discounts(ngram_counts(texts, n, V)[1], modified)",
        "one discount from the top level's counts for all levels; each level has its own counts",
    ),
    (
        "cut = discounts(counts, modified)",
        "cut = discounts(counts, modified if k == n else False)",
        "`modified` asks for three discounts at every level, not at the top one alone",
    ),
    (
        "cut = discounts(counts, modified)[np.minimum(counts, 3) - 1]",
        "cut = np.full(len(counts), discounts(counts, modified)[0])",
        "one discount is taken from all counts; with `modified`, counts of 1, 2 and 3 or more have each their own",
    ),
    (
        "cut = discounts(counts, modified)",
        "cut = discounts(ngram_counts(texts, k, V)[1], modified)",
        "a lower level's discounts come from its continuation counts, not from the plain ones",
    ),
    (
        "levels.insert(0, Level(",
        "levels.append(Level(",
        "the levels come in reverse order: level 1 must be the first",
    ),
)
