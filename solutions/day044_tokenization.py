"""Day 44: tokenization by BPE over bytes, and by a unigram model."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TypeVar

from llm180 import known_mistakes

Token = TypeVar("Token")

# GPT-2's rule in the syntax of `re`: an English ending; or letters, digits or other
# signs, with at most one blank before them; or white space. No character is left out.
WORD = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)"
    r"| ?[^\W\d_]+"
    r"| ?\d+"
    r"| ?(?:[^\s\w]|_)+"
    r"|\s+(?!\S)|\s+"
)


def merge_pair(
    parts: list[Token], pair: tuple[Token, Token], new: Token
) -> list[Token]:
    """A new list, with ``new`` in place of each ``pair``, taken from left to right."""
    merged: list[Token] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] = new
        else:
            merged.append(part)
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

    Any two neighbors are a pair, so ``aaa`` holds the pair ``aa`` twice. Pairs are
    counted once, over the different words, each as often as its word occurs. Afterwards
    a merge changes the counts of the pairs beside it, and no others.

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
    # equivalent `len(tokens) != vocabulary_size`: it grows by one
    while heap and len(tokens) < vocabulary_size:
        count, pair = heapq.heappop(heap)
        # equivalent `-count > counts`: an outdated count is never too small
        if -count != counts[pair]:  # it has become rarer since: push the true count
            heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -count < 2:
            # equivalent `continue`: what is left occurs no more often
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
                    # equivalent `j != 0`: j is never negative
                    if j > 0:
                        beside.append(((word[j - 1], word[j]), (word[j - 1], new)))
                    # equivalent `j + 2 != len`: the pair ends inside of the word
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


known_mistakes(
    train_bpe,
    (
        "Counter(WORD.findall(text))",
        "Counter([text])",
        "the text is not cut into words: pairs reach over their ends, and blanks stick to what is before them",
    ),
    (
        "Counter(WORD.findall(text))",
        "Counter(text.split())",
        "words cut at white space lose it: no merge has a blank, and the endings and signs stick to words",
    ),
    (
        "            counts[pair] += times[i]\n            places[pair].add(i)\n",
        "            places[pair].add(i)\n        for pair in set(zip(word, word[1:])):\n            counts[pair] += times[i] * (len(word) - len(merge_pair(word, pair, -1)))\n",
        "a run like `aaa` is counted as one pair; every two neighbors count, so it holds two",
    ),
    (
        "counts[pair] += times[i]",
        "counts[pair] += 1",
        "each different word counts once; a pair occurs as often as its words do",
    ),
    (
        "if -count != counts[pair]:",
        "if False:",
        "an outdated count is believed: the pair on top of the heap has become rarer since",
    ),
    (
        "heap = [(-count, pair) for pair, count in counts.items()]",
        "heap = [(-count, pair[::-1]) for pair, count in counts.items()]\n    counts = Counter({pair[::-1]: n for pair, n in counts.items()})\n    places = defaultdict(set, {pair[::-1]: at for pair, at in places.items()})",
        "left and right are exchanged",
    ),
    (
        "merges.append((tokens[pair[0]], tokens[pair[1]]))",
        "merges.append(pair)",
        "a merge is a pair of bytes objects, not of ids",
    ),
    (
        "len(tokens) < vocabulary_size",
        "len(merges) < vocabulary_size",
        "the size counts all tokens: 256 of them are the bytes",
    ),
    (
        "if -count < 2:",
        "if -count < 1:",
        "pairs that occur once are merged as well: that learns the text by heart and saves nothing",
    ),
    (
        "if j > 0:",
        "if False:",
        "the pairs on the left of a merge keep their old counts",
    ),
    (
        "if j + 2 < len(word):",
        "if False:",
        "the pairs on the right of a merge keep their old counts",
    ),
    (
        "                        counts[gone] -= times[i]\n",
        "",
        "the pairs that a merge destroys are still counted",
    ),
    (
        "list(word.encode())",
        "list(word.encode('utf-16-le'))",
        "the bytes are those of UTF-16, as in a Java String; UTF-8 is asked for",
    ),
    (
        "heapq.heappush(heap, (-counts[come], come))",
        "heapq.heappush(heap, (-counts[come], (-come[0], -come[1]))) if False else heap.append((-counts[come], come))",
        "entries are appended, and the list is no heap any more: its first entry need not be the best",
    ),
    (
        "    if vocabulary_size < 256:\n",
        "    if False:\n",
        "a vocabulary without room for the bytes is a ValueError",
    ),
)


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
    A new list of ids: 0 to 255 are bytes, 256 + i is what merge i makes.

    Source: Sennrich et al. 2016, sec. 3.2; agrees with ``tokenizers.models.BPE``.
    """
    cache = {} if cache is None else cache
    rank = {pair: i for i, pair in enumerate(merges)}
    # equivalent `range(255)}`: no UTF-8 holds the byte 255
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


known_mistakes(
    bpe_encode,
    (
        "first = merges[min(known)]",
        "first = merges[known[0]]",
        "the first pair that has a merge is taken; it is the earliest merge of the list that comes first",
    ),
    (
        "first = merges[min(known)]",
        "first = merges[max(known)]",
        "the latest merge is made first; training made the earliest first",
    ),
    (
        "            while known :=",
        "            if known :=",
        "one merge is made, then no more: repeat until none applies",
    ),
    (
        """            while known := [rank[p] for p in zip(parts, parts[1:]) if p in rank]:
                first = merges[min(known)]
                parts = merge_pair(parts, first, first[0] + first[1])
""",
        """            rest, parts = b"".join(parts), []
            while rest:
                end = max(k for k in range(1, len(rest) + 1) if rest[:k] in number)
                parts, rest = [*parts, rest[:end]], rest[end:]
""",
        "the longest token is taken: that is WordPiece's rule; BPE replays the merges",
    ),
    (
        "256 + i for (left, right)",
        "255 + i for (left, right)",
        "merge i makes id 256 + i",
    ),
    (
        "for word in WORD.findall(text):",
        "for word in [text] if text else []:",
        "merges reach over the end of a word: the text is not cut into words first",
    ),
    (
        "[bytes([b]) for b in word.encode()]",
        "[c.encode() for c in word]",
        "a word begins as bytes; its characters may have no token of their own",
    ),
    (
        "cache = {} if cache is None else cache",
        "cache = bpe_encode.__dict__.setdefault('kept', {}) if cache is None else cache",
        "the cache is kept from call to call, also for other merges: like a default argument that is a dictionary",
    ),
    (
        "cache = {} if cache is None else cache",
        "cache = cache or {}",
        "an empty dictionary counts as false: the caller's cache is never filled",
    ),
    (
        "        ids += cache[word]\n",
        "        ids = ids + cache[word] if ids else cache[word]\n",
        "the list in the cache is handed out as the result: who changes the one changes the other",
    ),
    (
        "cache = {} if cache is None else cache",
        "cache = {}",
        "the cache that is given is not used",
    ),
)


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


known_mistakes(
    bpe_decode,
    (
        'b"".join(found).decode("utf-8", errors="replace")',
        '"".join(t.decode("utf-8", errors="replace") for t in found)',
        "each token is read alone: characters that are spread over tokens break",
    ),
    (
        ', errors="replace"',
        "",
        "a text that ends inside of a character raises; it should show U+FFFD",
    ),
    (
        'errors="replace"',
        'errors="ignore"',
        "broken bytes vanish; the reader should see U+FFFD",
    ),
    (
        'decode("utf-8", errors="replace")',
        'decode("latin-1")',
        "the bytes are read as Latin-1: one character for each byte",
    ),
    (
        "if not 0 <= i < len(tokens):",
        "if i >= len(tokens):",
        "Python counts -1 from the end: a negative id gives the last merge, and nobody notices",
    ),
    (
        "raise ValueError(f\"an id is from 0 to {len(tokens) - 1}, got {i}\")",
        "continue",
        "an id that stands for nothing is skipped; it is a ValueError",
    ),
    (
        "return b\"\".join(found)",
        "return b\" \".join(found)",
        "blanks are put between tokens; they are part of the tokens already",
    ),
)


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
    # equivalent `default=-1` `default=1`: without pieces nothing fits
    longest = max(map(len, log_probs), default=0)
    best = [0.0] + [-math.inf] * len(text)  # score of the best way to each place
    # equivalent `[-1] * (` `[1] * (` `+ 2)  #`: read only where it was written
    begin = [0] * (len(text) + 1)  # where its last piece begins
    # equivalent `range(0, len`: nothing stands before place 0
    for end in range(1, len(text) + 1):
        # equivalent `max(-1`: the last place has no score until its turn
        for start in range(max(0, end - longest), end):
            score = best[start] + log_probs.get(text[start:end], -math.inf)
            # equivalent `score >= best`: of several best ways, any
            if score > best[end]:
                best[end], begin[end] = score, start
    # equivalent `best[-1] <= -math.inf`: nothing is smaller
    if best[-1] == -math.inf:
        raise ValueError(f"no pieces give the text {text!r}")
    pieces, end = [], len(text)
    # equivalent `end != 0`: no end is negative
    while end > 0:
        pieces.append(text[begin[end] : end])
        end = begin[end]
    return pieces[::-1], best[-1]


known_mistakes(
    unigram_viterbi,
    (
        "            if score > best[end]:\n",
        "            if best[end] == -math.inf and score > best[end]:\n",
        "the longest piece that fits is taken at each place; the best cut may end in a shorter one",
    ),
    (
        "if score > best[end]:",
        "if score > -math.inf:",
        "the last way found is kept, not the best one",
    ),
    (
        "score = best[start] + log_probs",
        "score = log_probs",
        "only the last piece is scored: what stands before it counts too",
    ),
    (
        "range(max(0, end - longest), end)",
        "range(end)",
        "every place before is tried as the beginning; no piece is longer than the longest, and the steps grow as the square of n",
    ),
    (
        "longest = max(map(len, log_probs), default=0)",
        "longest = max(map(len, log_probs), default=0) - 1",
        "the longest piece is never tried",
    ),
    (
        "score = best[start] + log_probs.get(text[start:end], -math.inf)",
        "score = best[start] + log_probs.get(text[start:end], 0.0)",
        "what is no piece costs nothing; it is impossible, and its logarithm is -inf",
    ),
    (
        "score = best[start] + log_probs.get(text[start:end], -math.inf)",
        "score = best[start] + (-1.0 if text[start:end] in log_probs else -math.inf)",
        "this takes as few pieces as it can; the probabilities are not used",
    ),
    (
        "pieces[::-1], best[-1]",
        "pieces, best[-1]",
        "the pieces are in the order of walking back: reverse them",
    ),
    (
        "pieces[::-1], best[-1]",
        "pieces[::-1], best[-1] / max(len(pieces), 1)",
        "the score is the sum of the logarithms, not their mean",
    ),
    (
        "pieces[::-1], best[-1]",
        "pieces[::-1], math.exp(best[-1])",
        "the score is the logarithm; the probability itself is 0 for a long text",
    ),
    (
        "    if best[-1] == -math.inf:\n",
        "    if False:\n",
        "a text that no pieces give is returned as a piece of its own; it is a ValueError",
    ),
    (
        "max(map(len, log_probs), default=0)",
        "max(map(len, log_probs))",
        "an empty dictionary has no longest piece: the empty text raises",
    ),
)
