"""Jane Austen's novels as words whose case, and one pronoun, are hidden: labels that cost nothing. For Day 29."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

HIDDEN_PRONOUN = "him/his/her"  # one token for three words: see `read`
UNKNOWN = "<unk>"


class Text(NamedTuple):
    """A text as tokens: in lower case, as they were written, and the chapter of each."""

    words: list[str]
    written: list[str]
    chapters: list[int]


def read(novel: str) -> Text:
    """Cut a novel into words and signs; case is hidden, and so is which of three pronouns it is.

    ``him``, ``his`` and ``her`` all become the token ``him/his/her``; ``written`` keeps
    the original. Numbers become ``<unk>``.
    """
    text = Text([], [], [])
    chapter = 0
    for token in re.findall(r"[A-Za-z]+(?:'[a-z]+)?|\d+|--|[^\sA-Za-z\d_]", novel):
        chapter += token.upper() == "CHAPTER"
        word = UNKNOWN if token.isdigit() else token.lower()
        text.words.append(HIDDEN_PRONOUN if word in HIDDEN_PRONOUN.split("/") else word)
        text.written.append(token)
        text.chapters.append(chapter)
    return text


def vocabulary(words: list[str], size: int) -> list[str]:
    """``<unk>``, then the most frequent words, ``size`` in all; equals in order of appearance."""
    counts = Counter(word for word in words if word != UNKNOWN)
    return [UNKNOWN, *(word for word, _ in counts.most_common(size - 1))]
