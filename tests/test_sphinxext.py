"""The book's directives, on a small project of their own."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util.docutils import docutils_namespace, patch_docutils  # noqa: E402

from llm180 import mistakes, paths  # noqa: E402
from llm180.dev import execution, search, sphinxext  # noqa: E402

SOLUTION = '''\
"""Answers."""

import functools

from llm180 import known_mistakes


@functools.cache
def double(
    x: int,
    *, options: dict[str, int] = {"a": 1},
) -> int:
    """Twice ``x``. # equivalent is a word here"""
    y = x + x  # equivalent: 2 * x is the same
    # equivalent: nothing is changed by this line
    return y


known_mistakes(double, ("x + x", "x * x", "squared, not doubled"))


class Pair:
    """Two numbers."""

    left: int = 0

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def T(self) -> "Pair":
        return self

    def _hidden(self) -> None: ...

    def sum(self) -> int: return self.left
'''

LESSON = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
day:
  number: 1
  stage: 1
  section: "1.1"
  title: Toy
  title_zh: 玩具
  minutes: 30
  builds_on: []
  topics: [矩阵运算]
  exercises:
    - {name: double, difficulty: 2, minutes: 10, task: 实现矩阵运算库}
    - {name: Pair, difficulty: 1, minutes: 5}
  references: []
---

# Day 1 · Toy

See {ref}`ex-day001-double`.

```{exercise} double
Return **twice** the number.
```

```{hint} double
Add it to itself.
```

```{hint} double
Really.
```

```{solution} double
```

```{exercise} Pair
A pair.
```
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one lesson; the plan is the real one."""
    for folder in ("book/stage1", "solutions", "labs"):
        (tmp_path / folder).mkdir(parents=True)
    plan_file = paths.BOOK / "plan.yml"
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BOOK", tmp_path / "book")
    monkeypatch.setattr(paths, "LABS", tmp_path / "labs")
    monkeypatch.setattr(paths, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(sphinxext.plan, "PLAN_FILE", plan_file)
    monkeypatch.setattr(execution, "purge_stale", lambda: [])
    monkeypatch.setattr(execution, "outputs_stamp", lambda page: None)
    monkeypatch.setattr(sphinxext.notebooks, "repository", lambda: "https://github.com/owner/name")
    monkeypatch.setattr(sphinxext.notebooks, "site_url", lambda: "https://owner.github.io/name/")
    for name in ("LLM180_MODE", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
    (tmp_path / "solutions" / "day001_toy.py").write_text(SOLUTION, encoding="utf-8")
    (tmp_path / "book" / "stage1" / "day001_toy.md").write_text(LESSON, encoding="utf-8")
    stage = "# Stage 1\n\n(section-1.1)=\n## 1.1 Mathematics\n\n```{stage-lessons} 1.1\n```\n\n```{toctree}\nday001_toy\n```\n"
    (tmp_path / "book" / "stage1" / "index.md").write_text(stage, encoding="utf-8")
    return tmp_path


def _build(project: Path, builder: str = "dummy") -> tuple[Sphinx, str]:
    """Build the project; returns the application and its warnings."""
    warnings = io.StringIO()
    settings: dict[str, Any] = {
        "extensions": ["myst_nb", "sphinx_design", "llm180.dev.sphinxext"],
        "nb_execution_mode": "off",
        "root_doc": "book/stage1/index",
        "gettext_compact": False,
        "language": "en",
    }
    out = project / "_out"
    with patch_docutils(), docutils_namespace():
        app = Sphinx(project, None, out / builder, out / "trees", builder, settings, status=None, warning=warnings)
        app.build()
    return app, re.sub(r"\x1b\[[0-9;]*m", "", warnings.getvalue())


def _page(app: Sphinx) -> nodes.document:
    return app.env.get_doctree("book/stage1/day001_toy")


def test_the_answer_is_shown_without_remarks_and_mistakes() -> None:
    shown = mistakes.answer_source(SOLUTION, "double")
    assert shown.startswith("@functools.cache\ndef double(")
    assert shown.endswith("    y = x + x\n    return y")
    assert "# equivalent is a word here" in shown
    assert "known_mistakes" not in shown


def test_signatures_are_the_authors_own_lines() -> None:
    assert sphinxext.signature(SOLUTION, "double") == (
        'def double(\n    x: int,\n    *, options: dict[str, int] = {"a": 1},\n) -> int: ...'
    )
    assert sphinxext.signature(SOLUTION, "Pair").split("\n") == [
        "class Pair:",
        "    left: int = 0",
        "    def __init__(self, left: int) -> None: ...",
        "    @property",
        '    def T(self) -> "Pair": ...',
        "    def sum(self) -> int: ...",
    ]


def test_cards_hints_and_solutions(project: Path) -> None:
    app, warnings = _build(project)
    assert not warnings
    page = _page(app)
    cards = [n for n in page.findall(nodes.admonition) if "exercise" in n["classes"]]
    assert [card["ids"] for card in cards] == [["ex-day001-double"], ["ex-day001-Pair"]]
    text = cards[0].astext()
    assert text.startswith("Exercise 1 · double")
    assert "about 10 minutes" in text and "Implement a matrix library 实现矩阵运算库" in text and "def double(" in text
    assert "difficulty 2 of 5" in text
    folds = [n for n in page.findall(nodes.container) if n.get("design_component") == "dropdown"]
    assert [fold[0].astext() for fold in folds] == ["Hint 1", "Hint 2", "Solution"]
    assert "solutions/day001_toy.py" in folds[2].astext() and "return y" in folds[2].astext()
    head = next(n for n in page.findall(nodes.container) if "page-facts" in n["classes"])
    assert "玩具" in head.astext() and "30 minutes" in head.astext() and "1.1 Mathematics" in head.astext()
    links = [n["refuri"] for n in head.findall(nodes.reference) if "refuri" in n]
    assert links[0] == "https://colab.research.google.com/github/owner/name/blob/notebooks/stage1/day001_toy.ipynb"
    assert links[2] == "../../_notebooks/stage1/day001_toy.ipynb"


def test_a_changed_solution_reads_the_page_again(project: Path) -> None:
    _build(project)
    solution = project / "solutions" / "day001_toy.py"
    solution.write_text(SOLUTION.replace("y = x + x", "y = 2 * x"), encoding="utf-8")
    app, _ = _build(project)
    assert "y = 2 * x" in _page(app).astext()


def test_a_new_day_reads_the_lists_again(project: Path) -> None:
    app, _ = _build(project)
    assert "Second" not in app.env.get_doctree("book/stage1/index").astext()
    (project / "book" / "planned.yml").write_text(
        '- {number: 2, stem: day002_second, stage: 1, section: "1.1", title: Second, title_zh: 二, exercises: [f]}\n',
        encoding="utf-8",
    )
    app, _ = _build(project)
    assert "Second" in app.env.get_doctree("book/stage1/index").astext()


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("```{exercise} Pair", "```{exercise} Triple", "```{exercise} Triple", "Day 1 has no exercise 'Triple'"),
        ("```{hint} double\nReally", "```{hint} dubble\nReally", "```{hint} dubble", "Day 1 has no exercise 'dubble'"),
        ("task: 实现矩阵运算库", "task: 造火箭", "```{exercise} double", "has no practice task '造火箭'"),
    ],
)
def test_wrong_use_is_a_warning_with_file_and_line(project: Path, old: str, new: str, at: str, message: str) -> None:
    lesson = project / "book" / "stage1" / "day001_toy.md"
    text = LESSON.replace(old, new)
    lesson.write_text(text, encoding="utf-8")
    _, warnings = _build(project)
    line = 1 + text[: text.index(at)].count("\n")
    assert f"day001_toy.md:{line}: WARNING:" in warnings and message in warnings


def test_an_answer_that_is_not_there_is_a_warning(project: Path) -> None:
    (project / "solutions" / "day001_toy.py").write_text(SOLUTION.replace("class Pair", "class Other"), encoding="utf-8")
    _, warnings = _build(project)
    assert "{exercise} Pair: solutions/day001_toy.py defines no Pair" in warnings
    (project / "solutions" / "day001_toy.py").unlink()
    _, warnings = _build(project)
    assert "{exercise} double: there is no solutions/day001_toy.py" in warnings


def test_bodies_can_be_translated_and_generated_text_cannot(project: Path) -> None:
    _build(project, "gettext")
    catalog = (project / "_out" / "gettext" / "book" / "stage1" / "day001_toy.pot").read_text(encoding="utf-8")
    messages = re.findall(r'^msgid "(.+)"$', catalog, re.M)
    assert {"Return **twice** the number.", "Add it to itself.", "Really.", "A pair."} <= set(messages)
    assert not [m for m in messages if "Exercise" in m or "minutes" in m or "Hint" in m or "Colab" in m]


def test_chinese_is_cut_into_characters_and_pairs() -> None:
    assert search.pieces("KL散度 is not 熵") == ["KL", "散", "度", "散度", "is", "not", "熵"]
    assert search.pieces("self-attention") == ["self", "attention"]
