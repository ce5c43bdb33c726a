"""Day 27: co-occurrence counts, GloVe's loss, and vectors of words made of their parts."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import nn

from llm180 import known_mistakes


def cooccurrence(words: np.ndarray, size: int, window: int) -> sparse.csr_matrix:
    """How often words stand near each other, near places counted more.

    Each pair of places of the text that are ``distance`` apart, 1 up to ``window``,
    adds ``1 / distance`` to the cell of their two words, and to the mirrored cell. If
    both are the same word, its cell on the diagonal gets it twice.

    Parameters
    ----------
    words:
        The text as word numbers from 0 to ``size - 1``, shape ``(n,)``; n may be 0.
    size:
        How many different words there are, V.
    window:
        The largest distance that counts, at least 1; it may exceed the text.

    Returns
    -------
    A symmetric matrix, shape ``(V, V)``, float64, in CSR form; pairs that never meet
    are not stored.

    Raises a ValueError that names ``window`` if it is less than 1.

    Source: Pennington et al. 2014, sec. 4.2.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    total = sparse.csr_matrix((size, size))
    for distance in range(1, min(window, len(words)) + 1):
        weight = np.full(len(words) - distance, 1 / distance)
        cells = words[:-distance], words[distance:]
        total = total + sparse.csr_matrix((weight, cells), shape=(size, size))
    return (total + total.T).tocsr()


known_mistakes(
    cooccurrence,
    (
        "np.full(len(words) - distance, 1 / distance)",
        "np.full(len(words) - distance, 1.0)",
        "every pair counts 1; a pair d places apart counts 1/d",
    ),
    (
        "return (total + total.T).tocsr()",
        "return total",
        "each pair is counted in one order only; the matrix must be symmetric",
    ),
    (
        "range(1, min(window, len(words)) + 1)",
        "range(1, min(window, len(words)))",
        "the largest distance itself is missing",
    ),
    (
        "return (total + total.T).tocsr()",
        "return total.maximum(total.T).tocsr()",
        "the two orders add up; the larger of them is not their sum",
    ),
    (
        "return (total + total.T).tocsr()",
        "both = (total + total.T).tolil()\n    both.setdiag(0)\n    return both.tocsr()",
        "a word that stands near itself counts as well",
    ),
    (
        "range(1, min(window, len(words)) + 1)",
        "range(1, window + 1)",
        "a window longer than the text must be cut: there are no such pairs",
    ),
)


def glove_loss(
    x: np.ndarray,
    w: np.ndarray,
    c: np.ndarray,
    b: np.ndarray,
    e: np.ndarray,
    x_max: float = 100.0,
    alpha: float = 0.75,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """GloVe's loss for B cells of the matrix of counts, and the gradients of the sum.

    The loss of a cell with the count ``x`` is

        ``min(1, (x / x_max)**alpha) * (w · c + b + e - log(x))**2``

    Parameters
    ----------
    x:
        Counts of the cells, positive, shape ``(B,)``; cells of 0 are left out before.
    w, c:
        Vectors of the cells' words and contexts, each of shape ``(B, d)``.
    b, e:
        Biases of the words and the contexts, each of shape ``(B,)``.
    x_max:
        The count from which a cell has full weight, positive.
    alpha:
        The power of the weight.

    Returns
    -------
    The losses, shape ``(B,)``, and the gradients of their sum with respect to ``w``,
    ``c``, ``b`` and ``e``, each of its argument's shape and an array of its own. B may
    be 0.

    Raises a ValueError that asks for positive counts if one is not, NaN included, and
    one that names the shapes if they do not fit.

    Source: Pennington et al. 2014, "GloVe", eq. 8 and 9.
    """
    B, d = w.shape
    if [a.shape for a in (x, b, e, c)] != [(B,), (B,), (B,), (B, d)]:
        raise ValueError("shapes must be (B,), (B, d), (B, d), (B,), (B,)")
    if not (x > 0).all():
        raise ValueError("counts must be positive: leave out the cells of 0")
    weight = np.minimum(1, (x / x_max) ** alpha)
    off = np.einsum("bd,bd->b", w, c) + b + e - np.log(x)
    slope = 2 * weight * off
    return weight * off**2, slope[:, None] * c, slope[:, None] * w, slope, slope.copy()


known_mistakes(
    glove_loss,
    (
        "weight = np.minimum(1, (x / x_max) ** alpha)",
        "weight = (x / x_max) ** alpha",
        "the weight is cut at 1; otherwise the cells of frequent words decide everything",
    ),
    (
        "slope = 2 * weight * off",
        "slope = weight * off",
        "the derivative of a square has a factor of 2",
    ),
    (
        "weight * off**2",
        "(weight * off) ** 2",
        "the weight stands outside of the square",
    ),
    (
        "- np.log(x)",
        "- x",
        "the target is the logarithm of the count, not the count",
    ),
    (
        "slope = 2 * weight * off",
        "slope = 2 * off",
        "the weight belongs into the gradient, too",
    ),
    (
        "off = np.einsum(\"bd,bd->b\", w, c) + b + e - np.log(x)",
        "off = np.einsum(\"bd,bd->b\", w, c) + b + e - np.log(1 + x)",
        "the target is log x; counts below 1 are legal here, and log(1 + x) flattens them",
    ),
    (
        "off = np.einsum(\"bd,bd->b\", w, c) + b + e - np.log(x)",
        "off = np.einsum(\"bd,bd->b\", w, c) + b - np.log(x)",
        "the context has a bias of its own",
    ),
    (
        "slope, slope.copy()",
        "slope, slope",
        "the gradients of b and e are one array, so a change of one changes the other",
    ),
    (
        "slope[:, None] * c, slope[:, None] * w, slope",
        "slope[:, None] * w, slope[:, None] * c, slope",
        "the derivative of a dot product with respect to one factor is the other",
    ),
    (
        "    if not (x > 0).all():\n        raise ValueError(\"counts must be positive: leave out the cells of 0\")\n",
        "",
        "log 0 is -inf; a count of 0 must be refused",
    ),
)


def char_ngrams(word: str, smallest: int = 3, largest: int = 6) -> list[str]:
    """The pieces of a word: runs of characters, with marks at its borders.

    With ``<`` before and ``>`` after it, the word's runs of ``smallest`` to ``largest``
    characters, the shorter ones first, those of one length from left to right; then
    the marked word itself, unless it is one of them. A run that occurs twice is listed
    twice.

    Raises a ValueError that names ``word`` if it is empty, and one that names
    ``smallest`` unless 2 <= smallest <= largest.

    Source: Bojanowski et al. 2017, sec. 3.2.
    """
    if not word or not 2 <= smallest <= largest:
        raise ValueError("need a word, and 2 <= smallest <= largest")
    marked = f"<{word}>"
    grams = [
        marked[start : start + length]
        for length in range(smallest, largest + 1)
        for start in range(len(marked) - length + 1)
    ]
    return grams if marked in grams else [*grams, marked]


known_mistakes(
    char_ngrams,
    (
        "marked = f\"<{word}>\"",
        "marked = word",
        "without marks, a prefix looks like any other piece: `<un` and `>`-ends are lost",
    ),
    (
        "range(smallest, largest + 1)",
        "range(smallest, largest)",
        "the largest length is missing",
    ),
    (
        "range(len(marked) - length + 1)",
        "range(len(marked) - length)",
        "the last piece of each length is missing, the one with the mark of the end",
    ),
    (
        "return grams if marked in grams else [*grams, marked]",
        "return grams",
        "the word itself is missing; a long word is no run of six characters",
    ),
    (
        "return grams if marked in grams else [*grams, marked]",
        "return [*grams, marked]",
        "a short word was listed twice: as a run of characters, and as the word",
    ),
    (
        "return grams if marked in grams else [*grams, marked]",
        "return sorted({*grams, marked})",
        "a set forgets how often a piece occurs, and the order",
    ),
)


class FastTextEmbedding(nn.Module):
    """Word vectors that are means of vectors of their pieces, as in FastText.

    The table has a row for each word of the vocabulary, and after these ``buckets``
    rows that the n-grams share by their hash. A word's vector is the mean over its
    rows, and a word outside the vocabulary has its n-grams' rows.

    Source: Bojanowski et al. 2017, sec. 3.2; means and hash as in the fastText library.
    """

    def __init__(
        self,
        vocabulary: list[str],
        dim: int,
        buckets: int,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the table, a parameter of shape ``(V + buckets, dim)``, ±1/dim uniform.

        Raises a ValueError that names ``vocabulary`` or the word if a word comes twice,
        and one that names ``buckets`` if it is less than 1.
        """
        super().__init__()
        # equivalent `!= len(vocabulary)`: a set is not larger than its list
        if len(set(vocabulary)) < len(vocabulary) or buckets < 1:
            raise ValueError("need different words, and at least one bucket")
        self.number = {word: i for i, word in enumerate(vocabulary)}
        self.buckets = buckets
        start = torch.rand(len(vocabulary) + buckets, dim, generator=generator)
        self.table = nn.Parameter((2 * start - 1) / dim)

    def bucket(self, gram: str) -> int:
        """The bucket of an n-gram, from 0 to ``buckets - 1``: 32-bit FNV-1a, modulo.

        FNV-1a starts with 2166136261. For each byte of the text in UTF-8, it takes the
        exclusive or with the byte, then multiplies by 16777619, modulo 2**32.
        """
        value = 2166136261
        for byte in gram.encode():
            value = (value ^ byte) * 16777619 % 2**32
        return value % self.buckets

    def rows(self, word: str) -> list[int]:
        """The rows of a word, in any order; a row comes as often as pieces share it.

        They are the word's own row, if it is in the vocabulary; and for each of
        ``char_ngrams(word)`` but the marked word itself, its bucket's row.
        """
        own = [self.number[word]] if word in self.number else []
        grams = [gram for gram in char_ngrams(word) if gram != f"<{word}>"]
        return own + [len(self.number) + self.bucket(gram) for gram in grams]

    def bags(self, words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows of the words, one word after the other, and where each begins.

        Returns
        -------
        Two int64 tensors, of shapes ``(N,)`` and ``(B,)``, as
        ``torch.nn.functional.embedding_bag`` takes them. They can be kept and reused.
        """
        rows = [self.rows(word) for word in words]
        flat = [row for some in rows for row in some]
        starts = np.cumsum([0, *map(len, rows)])[:-1]
        return torch.tensor(flat, dtype=torch.int64), torch.tensor(starts)

    def forward(self, flat: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """The vectors of the words of ``bags``, shape ``(B, dim)``.

        A word without rows, which only an unseen word of one letter is, gets zeros.
        The gradient reaches every row of a word.
        """
        # equivalent `starts)`: the mean is the default
        # equivalent `self.table, flat`: torch still takes the old order
        return nn.functional.embedding_bag(flat, self.table, starts, mode="mean")


known_mistakes(
    FastTextEmbedding,
    (
        "value = (value ^ byte) * 16777619 % 2**32",
        "value = (value * 16777619 % 2**32) ^ byte",
        "that is FNV-1, which multiplies first; FNV-1a takes the exclusive or first",
    ),
    (
        "value = (value ^ byte) * 16777619 % 2**32",
        "value = (value ^ byte) * 16777619 % 2**64",
        "the hash has 32 bits; Java's int overflows by itself, Python's does not",
    ),
    (
        "gram.encode()",
        "map(ord, gram)",
        "these are code points; the hash runs over the bytes of UTF-8, and é has two",
    ),
    (
        "generator=generator",
        "generator=None",
        "the generator is ignored, so the table is another one each time",
    ),
    (
        "len(self.number) + self.bucket(gram)",
        "self.bucket(gram)",
        "n-grams were sent to the rows of words; the buckets begin after the vocabulary",
    ),
    (
        "own = [self.number[word]] if word in self.number else []",
        "own = [self.number.get(word, 0)]",
        "an unseen word has no row of its own, and must not borrow that of the first word",
    ),
    (
        "own = [self.number[word]] if word in self.number else []",
        "own = []",
        "a word of the vocabulary has a row of its own beside its n-grams",
    ),
    (
        "mode=\"mean\"",
        "mode=\"sum\"",
        "the rows are summed: long words get long vectors",
    ),
    (
        "embedding_bag(flat, self.table, starts,",
        "embedding_bag(flat, self.table.detach(), starts,",
        "the gradient does not reach the table",
    ),
    (
        "grams = [gram for gram in char_ngrams(word) if gram != f\"<{word}>\"]",
        "grams = char_ngrams(word)",
        "the marked word is hashed as well; its own row stands for it",
    ),
)
