"""The glossary and the bibliography: each entry whole, once, and in its place."""

from __future__ import annotations

import re

from pybtex.database import parse_string

from llm180 import paths

GLOSSARY = (paths.BOOK / "glossary.md").read_text(encoding="utf-8")
BIBLIOGRAPHY = (paths.BOOK / "references.bib").read_text(encoding="utf-8")


def blocks() -> list[list[str]]:
    """The entries of each glossary block, as they stand between empty lines."""
    return [body.split("\n\n") for body in re.findall(r"```\{glossary\}\n(.*?)\n```", GLOSSARY, re.S)]


def test_every_term_has_its_chinese_and_a_definition() -> None:
    for entry in (entry for block in blocks() for entry in block):
        english, chinese, *definition = entry.split("\n")
        assert re.search(r"[\u4e00-\u9fff]", chinese) and not english.startswith(" "), entry
        assert definition and all(line.startswith("  ") for line in definition), entry


def test_every_term_stands_once_and_in_the_order_of_the_alphabet() -> None:
    terms = [[entry.split("\n")[0].lower() for entry in block] for block in blocks()]
    chinese = [entry.split("\n")[1] for block in blocks() for entry in block]
    flat = sorted([*(term for block in terms for term in block), *chinese])
    assert [a for a, b in zip(flat, flat[1:]) if a == b] == []
    assert all(block == sorted(block) for block in terms)


def test_the_bibliography_parses_and_is_sorted_by_key() -> None:
    assert len(parse_string(BIBLIOGRAPHY, "bibtex").entries) == len(re.findall(r"(?m)^@", BIBLIOGRAPHY))
    keys = re.findall(r"(?m)^@\w+\{([^,\s]+),", BIBLIOGRAPHY)
    assert keys == sorted(keys)
