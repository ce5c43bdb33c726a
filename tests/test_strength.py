"""How strong the lessons' checks are, and that the tool which measures it can be believed."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from cosmic_ray.mutating import MutationVisitor

from llm180 import lessons
from llm180.dev import operators, strength
from llm180.lessons import Lesson

LEDGER = strength.ledger()


@pytest.mark.parametrize("key", [page.key for page in lessons.all_pages()])
def test_the_checks_of_a_lesson_refuse_its_mutants(key: str) -> None:
    if said := strength.problem(lessons.find_key(key), LEDGER):
        pytest.fail(said, pytrace=False)


def test_the_ledger_names_lessons_only() -> None:
    pages = {page.key for page in lessons.all_pages()}
    assert not (gone := sorted(LEDGER.keys() - pages)), f"take these out of {strength.LEDGER.name}: {gone}"


# --- a toy lesson ------------------------------------------------------------------------

SOLUTION = '''\
"""Toy answers."""

from __future__ import annotations

from llm180 import known_mistakes

UNUSED = 7
LIMIT = 3


def triangle(n: int | None = None) -> int:
    """The sum of 1 to n (3 without n). Raises ValueError below 0."""
    n = LIMIT if n is None else n
    if n < 0:
        raise ValueError(f"n is {n}, which is {0 - n} below 0")
    total = 0
    i = 0  # equivalent `i = 1`: the term that is left out is 0
    while i <= n:
        total += _term(i)
        i += 1
    return total


known_mistakes(triangle, ("i <= n", "i < n", "1 + 1 terms are missing"))


def _term(i: int) -> int:
    return i


def clamp(x: float, low: float, high: float) -> float:
    """x, moved into low to high."""
    if x < low:
        return low
    if x > high:
        return high
    return x


def unused(x: float) -> float:
    return x + 1
'''

LESSON = '''\
---
day:
  number: 7
  stage: 1
  section: "1.1"
  title: A toy day
  title_zh: 玩具日
  minutes: 60
  exercises:
    - {name: triangle, difficulty: 1, minutes: 5}
    - {name: clamp, difficulty: 1, minutes: 5}
---

# Day 7

```{code-cell}
from llm180 import Day, expect
day = Day(7)
```

```{code-cell}
raise RuntimeError("a demonstration that no check needs")
```

```{code-cell}
BRUTE = {n: sum(range(n + 1)) for n in range(6)}
```

```{code-cell}
@day.exercise
def triangle(n=None):
    ...

@day.exercise
def clamp(x, low, high):
    ...
```

```{code-cell}
@day.check
def sums(triangle):
    """It sums."""
    for n, total in BRUTE.items():
        expect.equal(triangle(n), total)
    expect.equal(triangle(), 6)
    expect.raises(ValueError, triangle, -1)
```

```{code-cell}
@day.check
def clamps(clamp):
    """It clamps."""
    CLAMPS
```

```{code-cell}
BRUTE = None
```
'''
STRONG = "expect.equal([clamp(x, 2, 5) for x in (1, 2, 3, 5, 9)], [2, 2, 3, 5, 5])"
WEAK = "expect.equal([clamp(x, 2, 5) for x in (1, 2, 3)], [2, 2, 3])"


def toy(folder: Path, solution: str = SOLUTION, clamps: str = STRONG, lesson: str = LESSON) -> Lesson:
    (folder / "answers").mkdir(exist_ok=True)
    path = folder / "day007_toy.md"
    path.write_text(lesson.replace("CLAMPS", clamps), encoding="utf-8")
    (folder / "answers" / "day007_toy.py").write_text(solution, encoding="utf-8")
    return lessons.load(path, solutions=folder / "answers")


def texts(report: strength.Report, results: list[strength.Result]) -> list[str]:
    """The changed lines, as they are after the change."""
    diffs = [report.diff(r).split("\n") for r in results]
    return [line[1:].strip() for diff in diffs for line in diff[2:] if line.startswith("+")]


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> strength.Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strength, "_AT_LEAST", 1.0)  # the endless mutants are stopped sooner
        return strength.run(toy(tmp_path_factory.mktemp("strong")))


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> strength.Report:
    marks = "  # equivalent `x >= low`: wrong ;; `x <= low`: the same where they are equal"
    wrong = SOLUTION.replace("    if x < low:", "    if x < low:" + marks)
    wrong = wrong.replace("    if x > high:", "    # equivalent `x << high`: stale\n    if x > high:")
    return strength.run(toy(tmp_path_factory.mktemp("weak"), wrong, WEAK), only="clamp")


# --- running mutants ---------------------------------------------------------------------


def test_strong_checks_refuse_every_mutant(strong: strength.Report) -> None:
    assert texts(strong, strong.survivors) == ["if x <= low:", "if x >= high:"]  # these two change nothing
    assert strong.killed == len(strong.results) - 3
    assert set(strong.by_exercise()) == {"triangle", "clamp"}


def test_a_mutant_that_never_ends_is_stopped_and_counts_as_refused(strong: strength.Report) -> None:
    endless = [r for r in strong.results if r.outcome == "timeout"]
    assert "i -= 1" in texts(strong, endless)
    assert all(r.refused for r in endless)
    assert max(r.seconds for r in endless) < 30


def test_a_marked_mutant_is_not_counted(strong: strength.Report) -> None:
    (marked,) = [r for r in strong.results if r.outcome == "survived" and r.mark]
    assert texts(strong, [marked]) == ["i = 1"]
    assert marked.mark and marked.mark.reason == "the term that is left out is 0"
    assert strong.equivalent == 1
    assert not strong.errors


def test_weak_checks_let_a_mutant_survive_and_it_is_shown(weak: strength.Report) -> None:
    assert "if x != high:" not in texts(weak, weak.survivors)
    assert "return None" in texts(weak, weak.survivors)  # nothing above the range was tried
    shown = weak.diff(next(r for r in weak.survivors if r.mutant.text == "return None"))
    line = weak.solution.path.read_text().split("\n").index("        return high") + 1
    assert f"@@ -{line - 2},5 " in shown
    assert "-        return high" in shown.split("\n")
    assert weak.rate < strength.REQUIRED


def test_only_leaves_other_exercises_alone(weak: strength.Report) -> None:
    assert {r.mutant.owner for r in weak.results} == {"clamp"}


def test_wrong_and_stale_marks_are_errors(weak: strength.Report) -> None:
    stale, wrong = weak.errors
    assert "`x << high`" in stale and "no mutant of this line" in stale
    assert "`x >= low`" in wrong and "clamps refuses it" in wrong
    assert weak.equivalent == 1


def test_checks_that_refuse_the_solution_itself_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(strength.StrengthError, match="Day 7: clamps refuses the unchanged solution: expected 8"):
        strength.run(toy(tmp_path, clamps="expect.equal(clamp(9, 2, 5), 8)"))


def test_mutants_that_eat_memory_or_end_the_process_are_refused(tmp_path: Path) -> None:
    solution = '''\
import os
import sys


def triangle(n=None):
    size = 6 * 2**30 if n == 0 else 8
    return len(bytearray(size))


def clamp(x, low, high):
    if False:
        os.kill(os.getpid(), 11)
    return x
'''
    begin, end = LESSON.index("    for n, total"), LESSON.index("```{code-cell}\n@day.check\ndef clamps")
    lesson = LESSON[:begin] + "    expect.equal(triangle(1), 8)\n```\n\n" + LESSON[end:]
    report = strength.run(toy(tmp_path, solution, "expect.equal(clamp(1, 2, 3), 1)", lesson))
    by = {text: r for r in report.results for text in texts(report, [r])}
    assert by["size = 6 * 2**30 if n != 0 else 8"].outcome == "killed"
    assert by["if not False:"].by == "the process ended"


# --- making mutants ------------------------------------------------------------------------


def mutants_of(folder: Path, solution: str, **more: str) -> list[strength.Mutant]:
    return strength.make_mutants(strength.read_solution(toy(folder, solution, **more)))


def test_mutants_are_made_where_behavior_is(tmp_path: Path) -> None:
    source = strength.read_solution(toy(tmp_path)).source
    mutants = mutants_of(tmp_path, SOLUTION)
    assert {m.owner for m in mutants} == {"LIMIT", "triangle", "_term", "clamp"}
    assert {m.exercises for m in mutants if m.owner == "_term"} == {("triangle",)}
    changed = {source.split("\n")[m.line - 1].strip() for m in mutants}
    assert not [line for line in changed if '"""' in line or line.startswith(("known", "from", "UNUSED"))]
    raised = [m for m in mutants if "raise ValueError" in source.split("\n")[m.line - 1]]
    assert {m.operator for m in raised} == {"DeleteStatement", "RaisedType"}  # not in the message


def test_types_are_not_mutated(tmp_path: Path) -> None:
    solution = SOLUTION.replace("low: float, high: float) -> float:", "low: int | float, high: list[1 + 2]) -> 1 + 2:")
    solution = solution.replace("    if x < low:", "    y: dict[0, 1] | None\n    if x < low:", 1)
    assert len(mutants_of(tmp_path, solution)) == len(mutants_of(tmp_path, SOLUTION))


def test_every_mutant_is_python_and_differs(tmp_path: Path) -> None:
    solution = strength.read_solution(toy(tmp_path))
    sources = [m.apply(solution.source) for m in strength.make_mutants(solution)]
    trees = {ast.dump(ast.parse(s)) for s in [solution.source, *sources]}
    assert len(trees) == len(sources) + 1 > 40


@pytest.mark.parametrize("operator", operators.OWN, ids=lambda cls: cls.__name__)
def test_an_operator_does_what_its_example_says(operator: Any) -> None:
    for example in operator.examples():
        code = MutationVisitor.mutate_code(example.pre_mutation_code, operator(), example.occurrence)
        assert code is not None
        assert "".join(code.split()) == "".join(example.post_mutation_code.split())


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("y = x.mean(axis=0)", {"axis=1", "axis=-1", "mean()"}),
        ("y = x.sum(-1)", {"sum(1)", "sum(-2)", "sum(-0)"}),
        ("y = q @ k.T / math.sqrt(d)", {"q@k/", "k.T@q/", "*math.sqrt(d)", "/(d)", "y=q@k.T\n"}),
        ("y = x and not d", {"xornotd", "=x\n", "=notd\n", "=xandd\n"}),
        ("y = [v for v in x if v not in d]", {"ifTrue", "ifnot(vnotind)"}),
        ("y = d * 0.5", {"1.0", "1.5", "-0.5", "d/0.5"}),
        ("y = einsum('bij,bjk->bik', x, d)", {"->ibk", "->bi'"}),
        ("y = x != d", {"x==d", "x<d", "x>d"}),
        ("y = [x for _ in range(d)]", {"range(d-1)"}),
        ("y = x.detach()", {"y=x\n", "pass"}),
        ("d *= x", {"d=x", "d/=x", "pass"}),
        ("y = f(x, d, k)", {"f(d,x,k)"}),
    ],
)
def test_the_errors_that_lessons_are_about_are_among_the_mutants(tmp_path: Path, line: str, wanted: set[str]) -> None:
    solution = f"def triangle(x, q, k, d):\n    {line}\n    return y\n\n\ndef clamp():\n    return 1\n"
    read = strength.read_solution(toy(tmp_path, solution))
    made = [m.apply(read.source).replace(" ", "") for m in strength.make_mutants(read) if m.line == 2]
    assert not [w for w in wanted if not any(w in text for text in made)]


# --- marks ------------------------------------------------------------------------------------


def marks(text: str) -> tuple[str, list[tuple[int, str, str]]]:
    source, found = strength._read_marks(dedent(text), "toy.py")
    return source, [(m.line, m.fragment, m.reason) for m in found]


def test_marks_stand_on_the_line_or_above_it() -> None:
    source, found = marks("""\
        # equivalent `a = 2` `a = 0`: any number
        # will do
        # equivalent `pass`: not read
        a = 1  # equivalent `a = 3`: here too ;; `a = 4`: and here
        b = "# equivalent `no`: mark"  # a comment
    """)
    assert found == [
        (4, "a = 2", "any number will do"),
        (4, "a = 0", "any number will do"),
        (4, "pass", "not read"),
        (4, "a = 3", "here too"),
        (4, "a = 4", "and here"),
    ]
    assert source.split("\n")[3:5] == ["a = 1", 'b = "# equivalent `no`: mark"  # a comment']


def test_a_mark_without_a_reason_is_refused() -> None:
    with pytest.raises(strength.StrengthError, match="toy.py:1: a mark reads"):
        marks("a = 1  # equivalent `a = 2`\n")


# --- the ledger ---------------------------------------------------------------------------------


def test_an_entry_goes_stale_with_the_solution_and_with_the_checks(tmp_path: Path) -> None:
    whole = {"engine": strength.ENGINE, "killed": 95, "survived": 5}
    entries = {"day007": whole | {"key": strength.key(toy(tmp_path))}}

    def problem(solution: str = SOLUTION, clamps: str = STRONG, lesson: str = LESSON) -> str:
        return strength.problem(toy(tmp_path, solution, clamps, lesson), entries)

    assert problem() == ""
    stale = "Day 7's solution or checks changed since their strength was measured: run `llm180 strength 7`."
    assert problem(SOLUTION.replace("x < low", "x <= low")) == stale
    assert problem(SOLUTION.replace("is left out", "is gone")) == stale  # a mark
    assert problem(clamps=WEAK) == stale
    assert problem(lesson=LESSON.replace("range(6)", "range(7)")) == stale  # a cell that a check needs
    # what is said about it, and cells that no check needs, change nothing
    assert problem(SOLUTION.replace("moved into", "put between").replace("UNUSED", "# more\nUNUSED")) == ""
    assert problem(SOLUTION.replace("1 + 1 terms", "some terms")) == ""
    assert problem(lesson=LESSON.replace("It sums.", "It adds up.")) == ""
    assert problem(lesson=LESSON.replace("a demonstration", "another")) == ""


def test_what_is_wrong_with_an_entry_is_one_sentence(tmp_path: Path) -> None:
    lesson = toy(tmp_path)
    entry = {"engine": strength.ENGINE, "key": strength.key(lesson), "killed": 94, "survived": 6}
    assert strength.problem(lesson, {}) == (
        "The strength of Day 7's checks is not measured yet: run `llm180 strength 7`."
    )
    assert strength.problem(lesson, {"day007": entry}) == (
        "Day 7's checks refuse 94 of 100 mutants, 95% are required: "
        "run `llm180 strength 7`, which shows those that pass."
    )
    assert "changed" in strength.problem(lesson, {"day007": entry | {"engine": "another"}})


def test_the_ledger_is_one_line_a_lesson(tmp_path: Path) -> None:
    file = tmp_path / "strength.json"
    entries: dict[str, dict[str, Any]] = {"day010": {"b": 1, "a": 2}, "day002": {"a": 3}}
    strength.write_ledger(entries, file)
    assert file.read_text() == '{\n"day002": {"a": 3},\n"day010": {"a": 2, "b": 1}\n}\n'
    assert strength.ledger(file) == entries
    assert strength.ledger(tmp_path / "none.json") == {}


def test_the_command_keeps_a_whole_result_only(
    strong: strength.Report,
    weak: strength.Report,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(strength, "LEDGER", tmp_path / "strength.json")
    monkeypatch.setattr(strength.lessons, "find", lambda number: strong.lesson)
    monkeypatch.setattr(strength, "run", lambda lesson, **options: weak if options["only"] else strong)
    assert strength.main(["7", "--only", "clamp"]) == 1
    assert not strength.ledger()
    assert strength.main(["7"]) == 0
    assert strength.ledger()["day007"] == strong.entry()
    printed = capsys.readouterr().out
    assert "+    if x <= low:" in printed
    assert "is marked as equivalent, but clamps refuses it" in printed
    assert strength.main([]) == 2


def test_the_command_names_no_lesson_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert strength.main(["181"]) == 2
    assert capsys.readouterr().out == "There is no day 181; the days are 1 to 180.\n"
