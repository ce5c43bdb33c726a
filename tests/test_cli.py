"""The command line: what each command does, says and returns."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from llm180 import cli, doctor, lessons, mistakes, paths
from llm180.dev import site
from llm180.progress import Progress

# What a page's own toolkit does for `llm180 check`, as far as that command sees it.
TOOLKIT = '''
import inspect, json, os

class Toolkit:
    answers = {}

    def exercise(self, answer):
        self.answers[answer.__name__] = answer
        return answer

    def check(self, function):
        with open(os.environ["LLM180_REPORT"], "a") as report:
            for name in inspect.signature(function).parameters:
                row = {"exercise": name, "check": function.__name__, "verdict": "passed", "message": "", "seconds": 0}
                if self.answers[name]() is None:
                    row["verdict"] = "unsolved"
                else:
                    try:
                        function(self.answers[name])
                    except AssertionError as error:
                        row.update(verdict="failed", message=f"x {function.__name__}: {error}")
                report.write(json.dumps(row) + "\\n")

day = Toolkit()
'''

PAGE = """\
---
jupytext: {{text_representation: {{extension: .md, format_name: myst}}}}
kernelspec: {{display_name: Python 3, language: python, name: python3}}
{facts}
  section: "1.1"
  title: {title}
  title_zh: 页
  minutes: 150
  exercises:
    - {{name: one, difficulty: 1, minutes: 5}}
    - {{name: two, difficulty: 1, minutes: 5}}
---

# {title}

```{{code-cell}} ipython3
{toolkit}
```

```{{code-cell}} ipython3
@day.exercise
def one():
    ...
```

```{{code-cell}} ipython3
@day.exercise
def two():
    ...
```

```{{code-cell}} ipython3
@day.check
def is_right(one):
    assert one() == 1, "expected 1"
```

```{{code-cell}} ipython3
@day.check
def is_right_too(two):
    assert two() == 2, "expected 2, came [something]"
```
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two written days, one planned day and a lab, and a reader who has done nothing."""
    root = tmp_path / "a clone"
    pages = {
        "book/stage1/day001_first.md": ("day:\n  number: 1", "First"),
        "book/stage1/day002_second.md": ("day:\n  number: 2", "Second"),
        "labs/lab_1_1_cubes.md": ("lab:", "Cubes"),
    }
    for name, (facts, title) in pages.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(PAGE.format(facts=facts, title=title, toolkit=TOOLKIT), encoding="utf-8")
    (root / "book" / "planned.yml").write_text('- {number: 3, stem: day003_third, section: "1.1", title: Third, title_zh: 三}\n')
    for name, folder in {"ROOT": "", "BOOK": "book", "LABS": "labs", "WORK": "work", "BUILD": "_build"}.items():
        monkeypatch.setattr(paths, name, root / folder if folder else root)
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return root


class Said:
    """Exit status and output of one command."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def command(*arguments: str) -> Said:
        capsys.readouterr()
        status = cli.main(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Said(status, captured.out, captured.err)

    return command


def solve(copy: Path, **answers: str) -> None:
    """Write answers into a working copy: ``one="return 1"``, or a whole new cell as ``cell="..."``."""
    notebook = nbformat.read(copy, as_version=4)
    for name, body in answers.items():
        if name == "cell":
            notebook.cells.insert(len(notebook.cells) - 2, nbformat.v4.new_code_cell(body))
            continue
        (cell,) = [c for c in notebook.cells if c.source.startswith(f"@day.exercise\ndef {name}(")]
        cell.source = f"@day.exercise\ndef {name}():\n    {body}"
    nbformat.write(notebook, copy)


def pass_all(day: str) -> None:
    with Progress.open() as progress:
        for exercise, check in (("one", "is_right"), ("two", "is_right_too")):
            progress.record(day=day, exercise=exercise, check=check, verdict="passed", seconds=0.1)


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["open", "57"], 1, "Day 57 is not written yet; `llm180 status` lists the days that are."),
        (["open", "181"], 2, "There is no day 181; the days are 1 to 180."),
        (["open", "0"], 2, "There is no day 0; the days are 1 to 180."),
        (["check", "first"], 2, "'first' names no lesson; write a day as 31, a lab as lab-1.1."),
        (["check", "lab-9.9"], 1, "There is no lab 9.9; the labs written so far: 1.1."),
        (["check", "1"], 1, "There is no working copy of Day 1 yet; `llm180 open 1` makes one."),
        (["check", "lab-1.1"], 1, "There is no working copy of Lab 1.1 yet; `llm180 open lab-1.1` makes one."),
        (["reset", "2"], 1, "There is no working copy of Day 2 to reset; `llm180 open 2` makes one."),
        (["open"], 2, "Missing argument 'DAY'; `llm180 --help` shows what there is."),
        (["opne", "1"], 2, "No such command 'opne'"),
        (["open", "1", "--nolab"], 2, "No such option"),
    ],
)
def test_every_error_is_one_sentence_and_a_status(
    desk: Path, run: Callable[..., Said], arguments: list[str], status: int, sentence: str
) -> None:
    said = run(*arguments)
    assert said.status == status
    assert said.err.startswith(sentence) and said.err.count("\n") == 1
    assert said.out == ""


def test_progress_of_a_newer_version_is_one_sentence(desk: Path, run: Callable[..., Said]) -> None:
    import sqlite3

    with Progress.open() as progress:
        file = progress.path
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    for command in (["status"], ["next", "--no-lab"]):
        said = run(*command)
        assert said.status == 1 and "newer llm180" in said.err and said.err.count("\n") == 1


def test_an_unexpected_error_is_no_traceback(
    desk: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(lessons, "all_lessons", broken)
    said = run("next")
    assert said.status == 1 and "ZeroDivisionError: division by zero" in said.err and said.err.count("\n") == 1


def test_ctrl_c_is_130(desk: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lessons, "all_lessons", interrupted)
    said = run("next")
    assert said.status == 130 and said.err == "Interrupted.\n"


def test_a_reader_who_closes_the_pipe_gets_no_complaint(desk: Path) -> None:
    script = f"{sys.executable} -m llm180 --help | true; exit ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", script], cwd=Path(cli.__file__).parents[1], capture_output=True, text=True)
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("name", "key"),
    [("1", "day001"), ("001", "day001"), ("day1", "day001"), ("day-2", "day002"), ("LAB-1.1", "lab_1_1"), ("lab_1_1", "lab_1_1")],
)
def test_a_lesson_may_be_named_in_several_ways(desk: Path, name: str, key: str) -> None:
    assert cli.page_named(name).key == key


# --- help ------------------------------------------------------------------------------------


def test_help_names_every_command_and_sets_the_authors_apart(run: Callable[..., Said]) -> None:
    said = run("--help")
    readers, authors = said.out.split("For authors")
    for command in ("next", "open", "check", "status", "reset", "doctor", "serve", "setup", "assemble", "certify", "verify"):
        assert re.search(rf"\b{command}\b", readers), command
    for command in ("build", "test", "sync", "strength", "bench"):
        assert re.search(rf"\b{command}\b", authors), command
    assert run().out == said.out, "no arguments: the help"


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from llm180 import cli; cli.main(['--help']); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], cwd=Path(cli.__file__).parents[1], capture_output=True, text=True)
    loaded = set(said.stdout.split("\n")[-2].split())
    assert loaded.isdisjoint({"numpy", "torch", "yaml", "nbformat", "nbclient", "jupyter_client", "asyncio", "sqlite3"})


# --- open, next, reset ------------------------------------------------------------------------


def test_open_makes_a_working_copy_and_never_overwrites_it(desk: Path, run: Callable[..., Said]) -> None:
    copy = desk / "work" / "day001_first.ipynb"
    said = run("open", "1", "--no-lab")
    assert said.status == 0 and f"your copy is {copy.relative_to(desk.parent)}" in said.out
    solve(copy, one="return 1")
    before = copy.read_bytes()
    assert "as you left it" in run("open", "1", "--no-lab").out
    assert copy.read_bytes() == before


def test_open_starts_jupyterlab_on_the_copy(
    desk: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Path]] = []
    monkeypatch.setattr(cli, "_foreground", lambda command, folder: started.append((command, folder)) or 0)
    assert run("open", "lab-1.1", "--no-browser").status == 0
    ((command, folder),) = started
    assert folder == desk / "work"
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--LabApp.default_url=/lab/tree/lab_1_1_cubes.ipynb" in command
    assert "--no-browser" in command
    if hasattr(os, "geteuid"):
        assert ("--allow-root" in command) == (os.geteuid() == 0)


def test_without_jupyterlab_open_says_how_to_install_it(
    desk: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else real(name))
    said = run("open", "1")
    assert said.status == 1 and "-m pip install jupyterlab" in said.err
    assert (desk / "work" / "day001_first.ipynb").exists()


def test_open_goes_on_where_progress_cannot_be_kept(
    desk: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "file" / "home"))
    said = run("open", "1", "--no-lab")
    assert said.status == 0 and "Progress is not kept" in said.err


def test_next_is_the_first_lesson_that_is_not_complete(desk: Path, run: Callable[..., Said]) -> None:
    assert "Day 1" in run("next", "--no-lab").out
    pass_all("day002")
    assert "Day 1" in run("next", "--no-lab").out
    pass_all("day001")
    said = run("next", "--no-lab")
    assert said.status == 0 and said.out == "All 2 lessons written so far are complete.\n"


def test_reset_begins_afresh_and_keeps_the_old_copy(desk: Path, run: Callable[..., Said]) -> None:
    run("open", "1", "--no-lab")
    copy = desk / "work" / "day001_first.ipynb"
    fresh = copy.read_bytes()
    for times in (1, 2):
        solve(copy, one=f"return {times}")
        mine = copy.read_bytes()
        assert run("reset", "1").status == 0
        assert copy.read_bytes() == fresh
        kept = [p.read_bytes() for p in (desk / "work" / "old").glob("day001_first-*.ipynb")]
        assert len(kept) == times and mine in kept
    assert [p.name for p in (desk / "work").iterdir() if p.name.startswith(".")] == []


# --- check ------------------------------------------------------------------------------------


def test_check_reports_each_exercise_and_fails_while_one_is_not_passed(desk: Path, run: Callable[..., Said]) -> None:
    run("open", "1", "--no-lab")
    copy = desk / "work" / "day001_first.ipynb"
    solve(copy, two="return 3", cell="undefined_name")
    before = copy.read_bytes()
    said = run("check", "1")
    assert said.status == 1
    assert "· one  not solved yet" in said.out
    assert "✗ two  failed (0 of 1 checks passed)" in said.out
    assert "x is_right_too: expected 2, came [something]" in said.out
    assert "! Code cell 4 raised NameError: name 'undefined_name' is not defined" in said.out
    assert "0 of 2 exercises passed" in said.out
    assert copy.read_bytes() == before, "the reader's copy is not touched"


def test_check_succeeds_when_all_is_passed_and_stops_a_cell_that_does_not_end(
    desk: Path, run: Callable[..., Said]
) -> None:
    run("open", "lab-1.1", "--no-lab")
    solve(desk / "work" / "lab_1_1_cubes.ipynb", one="return 1", two="return 2", cell="while True: pass")
    said = run("check", "lab-1.1", "--seconds", "1")
    assert said.status == 0, said.out
    assert "! Code cell 4 was stopped after 1 s." in said.out
    assert "2 of 2 exercises passed" in said.out


def test_check_says_where_the_kernel_died(desk: Path, run: Callable[..., Said]) -> None:
    run("open", "1", "--no-lab")
    solve(desk / "work" / "day001_first.ipynb", one="return 1", two="return 2", cell="os._exit(1)")
    said = run("check", "1")
    assert said.status == 1
    assert "The kernel died in code cell 4" in said.out
    assert "? one  not checked" in said.out and "did not run: is_right" in said.out


def test_check_of_a_broken_file_is_one_sentence(desk: Path, run: Callable[..., Said]) -> None:
    run("open", "1", "--no-lab")
    copy = desk / "work" / "day001_first.ipynb"
    for content in (b"{ not json", b"\xff\xfe\x00", b"", b'{"cells": 3}'):
        copy.write_bytes(content)
        said = run("check", "1")
        assert said.status == 1 and "is not a notebook that can be read" in said.err and said.err.count("\n") == 1


def test_check_without_a_kernel_says_how_to_install_it(
    desk: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("open", "1", "--no-lab")
    monkeypatch.setitem(sys.modules, "ipykernel.kernelspec", None)  # type: ignore[arg-type]
    said = run("check", "1")
    assert said.status == 1 and "-m pip install ipykernel" in said.err and said.err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_check_and_its_kernel(desk: Path, run: Callable[..., Said], tmp_path: Path) -> None:
    run("open", "1", "--no-lab")
    mark = tmp_path / "kernel"
    forever = f"import time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    solve(desk / "work" / "day001_first.ipynb", cell=forever)
    script = (
        "import sys, pathlib\nfrom llm180 import cli, paths\n"
        f"paths.BOOK = pathlib.Path({str(desk / 'book')!r}); paths.WORK = pathlib.Path({str(desk / 'work')!r})\n"
        "sys.exit(cli.main(['check', '1']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(cli.__file__).parents[1], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: mark.exists() and mark.read_text())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "Interrupted.\n"
    wait_for(lambda: not alive(int(mark.read_text())))


def wait_for(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def rows(*results: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [{"exercise": e, "check": c, "verdict": v, "message": f"{c}: {v}" * (v == "failed")} for e, c, v in results]


def graded(*results: tuple[str, str, str]) -> dict[str, str]:
    """Words by exercise for a page with one(a, b) and two(c)."""
    page = types.SimpleNamespace(
        exercises=[types.SimpleNamespace(name="one", checks=("a", "b")), types.SimpleNamespace(name="two", checks=("c",))]
    )
    return {g.name: g.word for g in cli.grade(page, rows(*results))}  # type: ignore[arg-type]


def test_an_exercise_is_passed_only_when_each_of_its_checks_is() -> None:
    assert graded(("one", "a", "passed"), ("one", "b", "passed")) == {"one": "passed", "two": "unchecked"}
    assert graded(("one", "a", "passed"))["one"] == "unchecked"
    assert graded(("one", "a", "passed"), ("one", "b", "timeout"))["one"] == "failed"
    assert graded(("one", "a", "unsolved"), ("one", "b", "unsolved"))["one"] == "unsolved"
    assert graded(("one", "a", "passed"), ("one", "b", "unsolved"))["one"] == "unsolved"


def test_the_last_run_of_a_check_counts() -> None:
    assert graded(("two", "c", "failed"), ("two", "c", "passed"))["two"] == "passed"


def test_a_real_lesson_solved_with_the_reference_is_complete(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Day 1 itself, through the command line: blank it is not passed; solved it is, and progress knows."""
    lesson = lessons.find(1)
    monkeypatch.setattr(paths, "WORK", tmp_path / "work")
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run("open", "1", "--no-lab")
    copy = tmp_path / "work" / f"{lesson.stem}.ipynb"
    notebook = nbformat.read(copy, as_version=4)
    reference = lesson.solution_path.read_text(encoding="utf-8")
    first = lesson.exercises[0].name
    # The set-up, the stubs and the checks are enough here; the theory and the experiment take their time.
    notebook.cells = [c for c in notebook.cells if re.search(r"Day\(|^@day\.|^(import|from) ", c.source, re.M)]
    for cell in notebook.cells:
        for node in lessons.decorated(cell.source, "exercise") if cell.cell_type == "code" else []:
            if node.name != first:
                begin, end = mistakes.segment(reference, node.name)
                cell.source = "@day.exercise\n" + reference[begin:end]
    support = f"from solutions.{lesson.stem} import *\n"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(support))
    nbformat.write(notebook, copy)
    said = run("check", "1")
    assert said.status == 1
    assert re.search(rf"· {first} +not solved yet", said.out), said.out
    assert f"{len(lesson.exercises) - 1} of {len(lesson.exercises)} exercises passed" in said.out, said.out
    with Progress.open() as progress:
        assert progress.passed_exercises(lesson) == {e.name for e in lesson.exercises} - {first}


# --- status -----------------------------------------------------------------------------------


def test_status_counts_lessons_and_exercises_and_says_what_is_next(desk: Path, run: Callable[..., Said]) -> None:
    pass_all("day001")
    with Progress.open() as progress:
        progress.record(day="lab_1_1", exercise="one", check="is_right", verdict="passed", seconds=0.1)
    said = run("status")
    assert said.status == 0
    table = {line.split()[0]: " ".join(line.split()) for line in said.out.splitlines() if line.strip()}
    assert table["1"].endswith("1 2 1 2 of 4"), said.out
    assert table["2"].endswith("0 0 0 0 of 0")
    assert table["Labs"].endswith("0 1 1 of 2")
    assert table["All"].endswith("1 3 1 3 of 6")
    assert "Streak: 1 day " in said.out
    assert "Next: Day 2 · Second (150 minutes): `llm180 open 2`" in said.out


def test_status_tells_of_a_progress_file_that_was_set_aside(desk: Path, run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "progress.sqlite").write_text("garbage" * 100)
    said = run("status")
    assert said.status == 0 and "was kept as" in said.err


# --- doctor -----------------------------------------------------------------------------------


def finding(state: str, mend: str = "") -> Callable[[], Any]:
    return lambda: iter([doctor.Finding("thing", state, "its detail", mend)])  # type: ignore[arg-type]


def test_doctor_succeeds_when_nothing_is_wrong(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (finding("ok"), finding("note", "a remark")))
    said = run("doctor")
    assert said.status == 0 and said.out.endswith("Nothing is wrong.\n")


def test_doctor_names_the_command_that_mends_and_survives_a_check_that_breaks(
    run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks() -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr(doctor, "CHECKS", (finding("wrong", "pip install [thing]"), breaks))
    said = run("doctor")
    assert said.status == 1
    assert "mend: pip install [thing]" in said.out and "RuntimeError: boom" in said.out
    assert said.out.endswith("2 things are wrong.\n")


def test_doctor_compares_versions_with_the_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        "": ["nbformat>=5", "nbclient>=999"],
        "read": ["llm180-no-such-lab"],
        "book": ["llm180-no-such-book", "llm180-no-such-theme"],
    }
    monkeypatch.setattr(doctor, "wanted_packages", lambda: {k: list(v) for k, v in groups.items()})
    found = [f for f in doctor.packages() if "tested versions" not in f.detail]
    assert [f.state for f in found] == ["wrong", "note"]
    assert re.search(r"nbclient is \S+, not >=999; llm180-no-such-lab is missing", found[0].detail)
    assert all(f.mend for f in found)


def test_doctor_sees_a_folder_and_a_progress_file_that_cannot_be_used(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.state for f in doctor.folder()] == ["ok"]
    assert [f.state for f in doctor.progress()] == ["ok"]
    (desk / "file").write_text("")
    monkeypatch.setattr(paths, "WORK", desk / "file" / "work")
    monkeypatch.setenv("LLM180_HOME", str(desk / "file"))
    assert [f.state for f in doctor.folder()] == ["wrong"]
    assert [f.state for f in doctor.progress()] == ["wrong"]


def test_doctor_looks_at_progress_without_leaving_a_trace(desk: Path) -> None:
    list(doctor.progress())
    with Progress.open() as book:
        tables = book._rows("SELECT name FROM sqlite_master WHERE name = 'doctor'")
    assert tables == []


def test_doctor_sees_a_damaged_data_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm180 import data

    monkeypatch.setattr(data, "problems", lambda: ["austen.txt.xz is damaged."])
    (found,) = doctor.data()
    assert found.state == "wrong" and "checkout -- llm180/data" in found.mend


def test_doctor_sees_a_full_disk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = types.SimpleNamespace(free=100_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert {f.state for f in doctor.disk()} == {"wrong"}


# --- the authors' commands ----------------------------------------------------------------------


def test_authors_commands_pass_their_arguments_on(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sync", "strength", "bench"):
        got: list[list[str]] = []
        module = types.ModuleType(f"llm180.dev.{name}")
        module.main = lambda arguments: got.append(arguments) or 3  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"llm180.dev.{name}", module)
        assert run(name, "31", "--check", "--help").status == 3
        assert got == [["31", "--check", "--help"]]


def test_test_gives_its_arguments_to_pytest_and_returns_its_status(
    run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(cli, "_foreground", lambda command, folder: ran.append([str(folder), *command]) or 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_here.py").write_text("")
    assert run("test", "-k", "matrix", "test_here.py::one", "tests").status == 1
    assert ran[0][0] == str(paths.ROOT)
    assert ran[0][2:] == ["-m", "pytest", "-k", "matrix", f"{tmp_path / 'test_here.py'}::one", "tests"]


# --- build and serve -----------------------------------------------------------------------------

BOOK = """
import sys
def main():
    print("running sphinx")
    for percent in (50, 100):
        print(f"reading sources... [{percent:3d}%] book/page{percent}")
    print(SAID)
    return STATUS
"""


def jupyter_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int) -> None:
    """In place of Jupyter Book: says what it is told to."""
    folder = tmp_path / "in its place" / "jupyter_book" / "cli"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "main.py").write_text(BOOK.replace("SAID", repr(said)).replace("STATUS", str(status)))
    monkeypatch.setenv("PYTHONPATH", str(folder.parents[1]))
    monkeypatch.setattr(site, "LOG", tmp_path / "_build" / "build.log")
    monkeypatch.setattr(paths, "ROOT", tmp_path)


def test_build_shows_progress_and_keeps_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jupyter_book(tmp_path, monkeypatch, "build succeeded", 0)
    site.render()
    assert "reading sources ..." in capsys.readouterr().out
    assert "build succeeded" in (tmp_path / "_build" / "build.log").read_text()


def test_a_build_that_fails_shows_the_warnings(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jupyter_book(tmp_path, monkeypatch, "book/day.md:3: WARNING: undefined label: nowhere", 1)
    monkeypatch.setattr(site, "execute", lambda: None)
    said = run("build")
    assert said.status == 1
    assert "The book was not built" in said.err and "undefined label: nowhere" in said.err and "build.log" in said.err


def test_nothing_is_executed_when_no_page_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm180.dev import execution

    monkeypatch.setattr(execution, "stale_pages", lambda: [])
    monkeypatch.setattr(site.subprocess, "run", lambda *_, **__: pytest.fail("executed"))
    site.execute()


def test_changed_pages_are_executed_by_pytest_and_one_that_fails_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm180.dev import execution

    ran: list[list[str]] = []

    def pytest_run(command: list[str], **_: object) -> Any:
        ran.append(command)
        return types.SimpleNamespace(returncode=len(ran) - 1)

    monkeypatch.setattr(execution, "stale_pages", lambda: [Path("book/stage1/day001_first.md")])
    monkeypatch.setattr(site.subprocess, "run", pytest_run)
    site.execute()
    assert ran[0][1:5] == ["-m", "pytest", "--changed", "book"]
    with pytest.raises(site.SiteError, match="did not pass"):
        site.execute()


@pytest.fixture
def html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "_build" / "html"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("<title>矩阵</title>", encoding="utf-8")
    (folder / "code.js").write_text("1")
    (tmp_path / "_build" / "secret").write_text("s")
    monkeypatch.setattr(site, "HTML", folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_serve_needs_a_built_book(run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "HTML", tmp_path)
    said = run("serve", "--no-build", "--no-browser")
    assert said.status == 1 and "not built yet" in said.err


def test_the_next_free_port_is_taken(html: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with site.server(port) as running:
            assert running.server_address[0] == "127.0.0.1"
            assert running.server_address[1] > port


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve_shows_the_book_fresh_until_it_is_stopped(html: Path, end: signal.Signals) -> None:
    script = (
        "import sys, pathlib\nfrom llm180 import cli\nfrom llm180.dev import site\n"
        f"site.HTML = pathlib.Path({str(html)!r})\n"
        f"sys.exit(cli.main(['serve', '--no-build', '--no-browser', '--port', '{free_port()}']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(cli.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address
        with urllib.request.urlopen(address[0]) as page:
            assert "矩阵" in page.read().decode() and page.headers["Cache-Control"] == "no-cache"
        with urllib.request.urlopen(address[0] + "code.js") as code:
            assert code.headers["Content-Type"] == "text/javascript"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address[0] + "../secret")
    finally:
        process.send_signal(end)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.endswith("Stopped.\n") and err == ""
