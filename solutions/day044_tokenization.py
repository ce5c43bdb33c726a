"""Day 44: tokenization by BPE over bytes, and by a unigram model."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from typing import TypeVar

from llm180 import known_mistakes

Token = TypeVar("Token", bound=Hashable)

# GPT-2's rule in the syntax of `re`: an English ending, or letters, digits or other signs
# with at most one blank before them, or white space. Every character belongs to a word.
WORD = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)"
    r"| ?[^\W\d_]+"
    r"| ?\d+"
    r"| ?(?:[^\s\w]|_)+"
    r"|\s+(?!\S)|\s+"
)


def merge_pair(parts: list[Token], pair: tuple[Token, Token], new: Token) -> list[Token]:
    """A new list, with ``new`` in place of each ``pair``, taken from left to right."""
    merged, i = [], 0
    while i < len(parts):
        # equivalent `i + 3]`: a longer slice never equals a pair
        if (*parts[i : i + 2],) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def train_bpe(text: str, vocabulary_size: int) -> list[tuple[bytes, bytes]]:
    """Learn the merges of byte-level BPE from a text.

    ``WORD.findall(text)`` cuts the text into words. A word begins as its UTF-8 bytes,
    one token each. Then, again and again, the pair of neighboring tokens that occurs
    most often becomes one token wherever it stands, from left to right. No pair reaches
    over the end of a word.

    Parameters
    ----------
    text:
        Any text, also an empty one.
    vocabulary_size:
        Number of tokens in the end, the 256 bytes included; at least 256.

    Returns
    -------
    The merges in the order in which they were made, each a pair of bytes objects, such
    as ``(b"t", b"h")``. Token 256 + i is made by merge i. Of pairs that occur equally
    often, the one with the smaller ids is merged, the left id compared first. There
    are ``vocabulary_size - 256`` merges, or fewer if no pair occurs twice any more.

    Pairs are counted once, over the different words, each as often as its word occurs.
    Afterwards a merge changes the counts of the pairs beside it, and no others.

    Raises ValueError that says ``256`` if ``vocabulary_size`` is below it.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
    Units", sec. 3.2; bytes and words as in Radford et al. 2019, sec. 2.2.
    """
    if vocabulary_size < 256:
        raise ValueError(f"256 tokens are the bytes, got a size of {vocabulary_size}")
    frequency = Counter(WORD.findall(text))
    words = [list(word.encode()) for word in frequency]  # as ids
    times = list(frequency.values())
    counts: Counter[tuple[int, int]] = Counter()
    places = defaultdict(set)  # pair -> words that hold it, or did once
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            counts[pair] += times[i]
            places[pair].add(i)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    tokens, merges = [bytes([b]) for b in range(256)], []
    while heap and len(tokens) < vocabulary_size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # it has become rarer since: back into the queue
            heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -count < 2:
            break
        new = len(tokens)
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        born = set()
        for i in places.pop(pair):
            word, j = words[i], 0
            while j + 1 < len(word):
                if (word[j], word[j + 1]) == pair:
                    beside = []  # (pair that goes, pair that comes)
                    if j > 0:
                        beside.append(((word[j - 1], word[j]), (word[j - 1], new)))
                    if j + 2 < len(word):
                        beside.append(((word[j + 1], word[j + 2]), (new, word[j + 2])))
                    for gone, come in beside:
                        counts[gone] -= times[i]
                        counts[come] += times[i]
                        places[come].add(i)
                        born.add(come)
                    word[j : j + 2] = [new]
                j += 1
        for come in born:  # only pairs with the new token can have gained
            heapq.heappush(heap, (-counts[come], come))
    return merges


def bpe_encode(
    text: str,
    merges: list[tuple[bytes, bytes]],
    cache: dict[str, list[int]] | None = None,
) -> list[int]:
    """The ids of a text's tokens.

    Each word of ``WORD.findall(text)`` begins as its UTF-8 bytes. Of the merges that
    apply somewhere in the word, the earliest in the list is made, wherever it applies
    and from left to right; then again, until none applies.

    Parameters
    ----------
    text:
        Any text, also an empty one.
    merges:
        As ``train_bpe`` gives them, also none at all.
    cache:
        Ids of words already encoded, by word; new ones are added. Give one dictionary
        to several calls with the same merges. By default, a call keeps its own.

    Returns
    -------
    Ids: 0 to 255 are bytes, 256 + i is what merge i makes.

    Source: Sennrich et al. 2016, sec. 3.2; agrees with ``tokenizers.models.BPE``.
    """
    cache = {} if cache is None else cache
    rank = {pair: i for i, pair in enumerate(merges)}
    number = {bytes([b]): b for b in range(256)}
    number |= {left + right: 256 + i for (left, right), i in rank.items()}
    ids = []
    for word in WORD.findall(text):
        if word not in cache:
            parts = [bytes([b]) for b in word.encode()]
            while known := [rank[p] for p in zip(parts, parts[1:]) if p in rank]:
                first = merges[min(known)]
                parts = merge_pair(parts, first, first[0] + first[1])
            cache[word] = [number[part] for part in parts]
        ids += cache[word]
    return ids


def bpe_decode(ids: Iterable[int], merges: list[tuple[bytes, bytes]]) -> str:
    """The text that ids stand for, the inverse of ``bpe_encode``.

    Parameters
    ----------
    ids:
        Integers from 0 to ``255 + len(merges)``, in a list, an array or a tensor.
    merges:
        Those that the text was encoded with.

    Returns
    -------
    The bytes of all tokens, joined and only then read as UTF-8. Bytes that are no
    UTF-8, as in a text that a model broke off, become U+FFFD.

    Raises ValueError that says ``id`` if one is outside of its range.
    """
    tokens = [bytes([b]) for b in range(256)]
    tokens += [left + right for left, right in merges]
    found = []
    for i in ids:
        if not 0 <= i < len(tokens):
            raise ValueError(f"an id is from 0 to {len(tokens) - 1}, got {i}")
        found.append(tokens[i])
    return b"".join(found).decode("utf-8", errors="replace")


def unigram_viterbi(
    text: str, log_probs: dict[str, float]
) -> tuple[list[str], float]:
    """The most probable way to cut a text into pieces, under a unigram model.

    Parameters
    ----------
    text:
        Any text, n characters.
    log_probs:
        Natural logarithm of the probability of each piece, by piece. Pieces are not
        empty; one with ``-inf`` is never used.

    Returns
    -------
    The pieces, which joined give the text, and their score, a float: the sum of their
    logarithms. Of several best ways, any. The empty text has no pieces and score 0.

    The time is proportional to n times the length of the longest piece.

    Raises ValueError that says ``pieces`` if no pieces give the text.

    Source: Kudo 2018, "Subword Regularization", sec. 3.2; agrees with
    ``tokenizers.models.Unigram``.
    """
    longest = max(map(len, log_probs), default=0)
    best = [0.0] + [-math.inf] * len(text)  # score of the best way to each place
    begin = [0] * (len(text) + 1)  # where its last piece begins
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            score = best[start] + log_probs.get(text[start:end], -math.inf)
            if score > best[end]:
                best[end], begin[end] = score, start
    if best[-1] == -math.inf:
        raise ValueError(f"no pieces give the text {text!r}")
    pieces, end = [], len(text)
    while end > 0:
        pieces.append(text[begin[end] : end])
        end = begin[end]
    return pieces[::-1], best[-1]
