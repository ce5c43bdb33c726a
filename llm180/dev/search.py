"""The book's search language: English stems, and any run of Chinese.

Sphinx's own index splits at spaces, so a Chinese phrase is found only as the
whole run in which it stands. Here a run of Chinese is indexed as its single
characters and its overlapping pairs, and a query is cut the same way, in the
browser: 反向传播 is asked for as 反向, 向传, 传播, which a page must all hold.
No dictionary and no service are needed.
"""

from __future__ import annotations

import re

from sphinx.search.en import SearchEnglish

# Ideographs of the basic plane and the iteration mark; kana and the rare planes do not occur in the book.
CJK = "\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u3005"
_PIECES = re.compile(f"[{CJK}]+|[^\\W{CJK}]+")
_IS_CJK = re.compile(f"[{CJK}]")


def pieces(text: str) -> list[str]:
    """The words to index: Latin words as they stand, Chinese as characters and pairs."""
    words: list[str] = []
    for piece in _PIECES.findall(text):
        if _IS_CJK.match(piece):
            words += piece
            words += [piece[i : i + 2] for i in range(len(piece) - 1)]
        else:
            words.append(piece)
    return words


class SearchEnglishChinese(SearchEnglish):
    """English with Chinese in it. A lone character is a term; a longer run is asked for by its pairs."""

    lang = "en"
    language_name = "English and Chinese"
    js_splitter_code = (
        """
var splitQuery = function (query) {
  const terms = [];
  const pieces = query.match(/[%(cjk)s]+|[\\p{Letter}\\p{Number}_]+/gu) || [];
  for (const piece of pieces) {
    for (const part of piece.match(/[%(cjk)s]+|[^%(cjk)s]+/g) || []) {
      if (!/[%(cjk)s]/.test(part) || part.length === 1) terms.push(part);
      else for (let i = 0; i + 1 < part.length; i++) terms.push(part.slice(i, i + 2));
    }
  }
  return terms;
};
"""
        % {"cjk": CJK}
    )

    def split(self, input: str) -> list[str]:
        return pieces(input)
