"""A toy lesson with one function and one class to answer, and a stand-in for a notebook's cells."""

from __future__ import annotations

import itertools
import linecache
from pathlib import Path
from textwrap import dedent
from typing import Any

from llm180 import lessons
from llm180.day import Page

LESSON = '''\
---
kernelspec: {display_name: Python 3, language: python, name: python3}
day:
  number: 7
  stage: 1
  section: "1.1"
  title: A toy day
  title_zh: 玩具日
  minutes: 60
  exercises:
    - {name: scale, difficulty: 1, minutes: 5, task: 玩具}
    - {name: Counter, difficulty: 2, minutes: 10}
---

# Day 7 · A toy day

```{code-cell} ipython3
from llm180 import Day
day = Day(7)
```

```{code-cell} ipython3
@day.exercise
def scale(x, factor):
    """x times factor."""
    ...
```

```{code-cell} ipython3
@day.check
def multiplies(scale):
    """Each entry is multiplied by the factor."""
```

```{hint} scale
Multiply.
```

```{hint} scale
Return `x * factor`.
```

```{code-cell} ipython3
@day.check
def counts_scaled(scale, Counter):
    """The counter counts."""
```
'''

SOLUTION = '''\
from llm180 import known_mistakes


def scale(x, factor):
    """x times factor."""
    return x * factor


known_mistakes(
    scale,
    ("x * factor", "x + factor", "the factor is added, not multiplied"),
    ("x * factor", "x / factor", "the factor divides"),
    ("return x * factor", "x * factor", "nothing is returned"),
)


class Counter:
    """Counts up."""

    def __init__(self):
        self.n = 0

    def up(self):
        """One more; returns the count."""
        self.n += 1
        return self.n


known_mistakes(
    Counter,
    ("self.n += 1", "self.n += 2", "it counts by two"),
    ("self.n += 1", "self.n = 1", "it starts again each time"),
    ("return self.n", "return self.n - 1", "it returns the count before"),
)
'''

CHECKS = '''\
@day.check(seconds=1)
def multiplies(scale):
    """Each entry is multiplied by the factor."""
    x = np.array([1.0, 2.0, 4.0])
    expect.close(scale(x, 3.0), 3.0 * np.array([1.0, 2.0, 4.0]), what="scale(x, 3)")
'''

COUNTER_STUB = '''\
@day.exercise
class Counter:
    """Counts up."""

    def __init__(self):
        self.n = 0

    def up(self):
        """One more; returns the count."""
        ...
'''

_cells = itertools.count(1)


def write_toy(folder: Path, lesson: str = LESSON, solution: str = SOLUTION) -> lessons.Lesson:
    """The toy lesson and its solution module as files."""
    (folder / "book").mkdir(exist_ok=True)
    (folder / "answers").mkdir(exist_ok=True)
    path = folder / "book" / "day007_toy.md"
    path.write_text(lesson, encoding="utf-8")
    (folder / "answers" / "day007_toy.py").write_text(solution, encoding="utf-8")
    return lessons.load(path, solutions=folder / "answers")


class Notebook:
    """Runs cells one after another, as a kernel does, with each cell's source kept for tracebacks."""

    def __init__(self, lesson: lessons.Lesson) -> None:
        import numpy as np

        from llm180 import expect

        self.page = Page(lesson)
        self.names: dict[str, Any] = {"day": self.page, "np": np, "expect": expect, "__name__": "__main__"}

    def cell(self, source: str) -> dict[str, Any]:
        """Execute one cell; what the notebook's names are afterwards."""
        source = dedent(source)
        filename = f"<cell {next(_cells)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec"), self.names)
        return self.names

    def answer(self, body: str, head: str = "def scale(x, factor):") -> None:
        """Answer the exercise ``scale`` with a body."""
        self.cell(f"@day.exercise\n{head}\n" + "\n".join("    " + line for line in dedent(body).strip().split("\n")))
