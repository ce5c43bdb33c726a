"""The reader's own library: which answers it is made of, how they are put together, and that parity finds a wrong one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm180 import assemble, cli, lessons, mistakes, paths
from llm180.progress import Progress


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Progress]:
    monkeypatch.setattr(paths, "WORK", tmp_path / "work")
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Progress.open() as progress:
        yield progress


def the_books(lesson: lessons.Lesson, name: str) -> str:
    source = lesson.solution_path.read_text(encoding="utf-8")
    begin, end = mistakes.segment(source, name)
    return "@day.exercise\n" + source[begin:end]


def solve(progress: Progress, changed: dict[str, str] | None = None, leave: str = "") -> None:
    """Record an answer to every exercise that tinynn is made of: the book's, or another one."""
    for part in assemble.parts(assemble.projects()["tinynn"]):
        for name in part.exercises:
            source = (changed or {}).get(name) or the_books(part.lesson, name)
            for check in part.lesson.exercise(name).checks if name != leave else []:
                progress.record(day=part.lesson.key, exercise=name, check=check, verdict="passed", seconds=0.1, source=source)


def test_the_parts_are_what_the_imports_reach_and_stand_before_their_users() -> None:
    found = {part.lesson.number: part.exercises for part in assemble.parts(assemble.projects()["tinynn"])}
    assert found[13] == ["unbroadcast", "Tensor", "Linear"] and found[16] == ["SGD", "RMSprop"]
    assert {"Adam", "AdamW"} <= set(found[17]) and {"BatchNorm1d", "LayerNorm"} <= set(found[19])
    assert "topological_order" in found[8] and "kaiming_normal" in found[12]
    assert "noise_ball" not in found[16] and "compare_optimizers" not in found[17], "not part of the library"
    order = list(found)
    assert order.index(8) < order.index(13) < order.index(20) == len(order) - 1


def test_missing_answers_are_all_listed_and_can_be_filled(reader: Progress) -> None:
    with pytest.raises(assemble.AssemblyError) as failure:
        assemble.assemble("tinynn", reader)
    said = str(failure.value)
    assert "Day 13: Tensor" in said and "Day 17: AdamW" in said and "--fill" in said
    library = assemble.assemble("tinynn", reader, fill=True)
    assert not library.own and library.given
    with pytest.raises(assemble.AssemblyError, match="no library 'torch'; there is tinynn"):
        assemble.assemble("torch", reader)


def test_the_books_answers_make_a_library_that_agrees_with_pytorch(reader: Progress) -> None:
    solve(reader)
    library = assemble.assemble("tinynn", reader)
    assert not library.given and len(library.own) >= 15
    text = "".join(path.read_text(encoding="utf-8") for path in library.folder.glob("*.py"))
    assert "known_mistakes" not in text and "from solutions.day" not in text and "@day" not in text
    library.parity = assemble.run_parity("tinynn", library.folder)
    assert library.agrees, library.parity


def test_a_wrong_answer_that_passed_its_checks_somehow_is_found_by_parity(reader: Progress) -> None:
    wrong = the_books(lessons.find(16), "SGD").replace("self.lr * (g", "1.01 * self.lr * (g")
    assert wrong != the_books(lessons.find(16), "SGD")
    solve(reader, {"SGD": wrong})
    library = assemble.assemble("tinynn", reader)
    assert "1.01 * self.lr" in (library.folder / "day016_sgd.py").read_text(encoding="utf-8")
    rows = assemble.run_parity("tinynn", library.folder)
    assert any(not good and "SGD" in name + message for name, good, message in rows), rows


def test_helpers_of_an_answer_come_along_and_what_is_nowhere_is_named(reader: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    own = the_books(lessons.find(16), "SGD").replace("for p in params]", "for p in listed(params)]")
    solve(reader, {"SGD": own})
    with pytest.raises(assemble.AssemblyError, match="Day 16: your answer uses listed"):
        assemble.assemble("tinynn", reader)
    helper = {"listed": "def listed(params):\n    return deque(params)", "deque": "from collections import deque"}
    cells = assemble._notebook_definitions
    monkeypatch.setattr(assemble, "_notebook_definitions", lambda lesson: cells(lesson) | helper)
    library = assemble.assemble("tinynn", reader)
    code = f"import sys; sys.path.insert(0, {str(library.folder.parent)!r}); import tinynn, numpy; tinynn.SGD([numpy.ones(2)], 0.1); print(len(tinynn.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT)
    assert int(done.stdout) > 20, done.stderr


def test_a_library_that_breaks_or_does_not_end_is_told(reader: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = paths.WORK / "tinynn"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('no')")
    assert assemble.run_parity("tinynn", folder) == [("import", False, "RuntimeError: no")]
    (folder / "__init__.py").write_text("import os; os._exit(3)")
    assert assemble.run_parity("tinynn", folder)[0][:2] == ("the rest", False)
    (folder / "__init__.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(assemble, "SECONDS", 8)
    assert "stopped after 8 s" in assemble.run_parity("tinynn", folder)[0][2]


def test_files_that_were_not_made_here_are_not_overwritten(reader: Progress) -> None:
    assemble.assemble("tinynn", reader, fill=True)
    assemble.assemble("tinynn", reader, fill=True)  # its own files are
    (paths.WORK / "tinynn" / "mine.py").write_text("x = 1")
    with pytest.raises(assemble.AssemblyError, match="mine.py, which was not made by this command"):
        assemble.assemble("tinynn", reader, fill=True)


def test_the_command_says_whose_each_piece_is_and_how_it_compares(reader: Progress, capsys, monkeypatch) -> None:
    monkeypatch.setattr(assemble, "run_parity", lambda *_: [("Linear", True, ""), ("Adam", False, "off by 2")])
    solve(reader, leave="RMSprop")
    assert cli.main(["assemble", "tinynn"]) == 1
    assert "Day 16: RMSprop" in capsys.readouterr().err
    assert cli.main(["assemble", "tinynn", "--fill"]) == 1
    said = capsys.readouterr().out
    assert "1 of the book's" in said and "off by 2" in said and "1 of 2 comparisons passed" in said
