"""Progress: durable, shared by notebooks, careful with files that it cannot use."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm180 import paths, progress
from llm180.progress import Progress, ProgressError

UTC = timezone.utc


def record(book: Progress, check: str = "agrees_with_numpy", verdict: str = "passed", **more: object) -> None:
    facts = {"day": "day001", "exercise": "matmul_blocked", "seconds": 0.25, "source": "def f(): return 1"} | more
    book.record(check=check, verdict=verdict, **facts)  # type: ignore[arg-type]


def at(book: Progress, *time: int) -> None:
    """Set the clock of a progress file: year, month, day, hour, minute in UTC."""
    book.clock = lambda: datetime(*time, tzinfo=UTC)  # type: ignore[arg-type, misc]


def writer(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that writes, like a second notebook."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom llm180.progress import Progress\n{script}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=paths.ROOT,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reader data" / "progress.sqlite"


def set_aside(file: Path) -> list[Path]:
    return [p for p in file.parent.glob("progress.sqlite.unreadable-*") if p.suffix.endswith("Z")]


# --- what is kept ----------------------------------------------------------------------


def test_an_attempt_is_there_after_the_file_is_opened_again(file: Path) -> None:
    with Progress.open(file) as book:
        at(book, 2026, 3, 1, 10, 0)
        record(book, message="off by one")
    (attempt,) = Progress.open(file).attempts()
    assert attempt == progress.Attempt(
        day="day001",
        exercise="matmul_blocked",
        check="agrees_with_numpy",
        at="2026-03-01T10:00:00.000000+00:00",
        verdict="passed",
        seconds=0.25,
        source_hash=attempt.source_hash,
        message="off by one",
    )
    assert attempt.time == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_the_readers_data_folder_is_the_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "new" / "home"))
    record(Progress.open())
    assert (tmp_path / "new" / "home" / "progress.sqlite").is_file()


def test_the_latest_verdict_of_each_check_counts_even_when_the_clock_goes_back(file: Path) -> None:
    book = Progress.open(file)
    at(book, 2026, 3, 2)
    record(book, "shape", "passed")
    record(book, "values", "error")
    at(book, 2026, 3, 1)
    record(book, "shape", "failed")
    record(book, "shape", "passed", day="day002")
    latest = book.verdicts("day001")
    assert {key: a.verdict for key, a in latest.items()} == {
        ("matmul_blocked", "shape"): "failed",
        ("matmul_blocked", "values"): "error",
    }
    assert len(book.all_verdicts()) == 3


def test_an_exercise_is_passed_when_every_check_of_it_passed_last(file: Path) -> None:
    lesson = SimpleNamespace(
        key="day001",
        exercises=[
            SimpleNamespace(name="matmul_blocked", checks=("shape", "values")),
            SimpleNamespace(name="einsum2", checks=("values",)),
            SimpleNamespace(name="unchecked", checks=()),
        ],
    )
    book = Progress.open(file)
    record(book, "shape")
    record(book, "values", exercise="einsum2")
    assert book.passed_exercises(lesson) == {"einsum2"}  # type: ignore[arg-type]
    record(book, "values")
    assert book.passed_exercises(lesson) == {"einsum2", "matmul_blocked"}  # type: ignore[arg-type]
    record(book, "values", "failed", exercise="einsum2")
    assert book.passed_exercises(lesson) == {"matmul_blocked"}  # type: ignore[arg-type]


def test_the_passed_source_is_the_newest_that_no_check_refuses(file: Path) -> None:
    book = Progress.open(file)
    assert book.passed_source("day001", "matmul_blocked") is None
    record(book, "shape", source="first")
    record(book, "values", source="first")
    record(book, "shape", source="second")
    record(book, "values", "failed", source="second")
    assert book.passed_source("day001", "matmul_blocked") == "first"
    record(book, "shape", source="third")
    assert book.passed_source("day001", "matmul_blocked") == "third"
    assert book.passed_source("day001", "matmul_blocked", checks=["shape", "values"]) == "first"


def test_help_is_remembered_by_exercise(file: Path) -> None:
    book = Progress.open(file)
    assert book.help_taken("day001", "einsum2") == (0, False)
    book.record_help(day="day001", exercise="einsum2", kind="hint", step=1)
    book.record_help(day="day001", exercise="einsum2", kind="hint", step=2)
    assert book.help_taken("day001", "einsum2") == (2, False)
    book.record_help(day="day001", exercise="einsum2", kind="solution", step=1)
    assert book.help_taken("day001", "einsum2") == (2, True)
    assert book.help_taken("day001", "Matrix") == (0, False)


def test_a_source_is_stored_once_however_often_it_is_tried(file: Path) -> None:
    book = Progress.open(file)
    for _ in range(5):
        record(book)
    assert sqlite3.connect(file).execute("SELECT count(*) FROM sources").fetchone() == (1,)


def test_odd_text_and_numbers_are_kept_too(file: Path) -> None:
    book = Progress.open(file)
    record(book, source="x = '\ud800'", message="came \udc00 and \0, 矩阵", seconds=float("nan"))
    (attempt,) = book.attempts()
    assert attempt.message == r"came \udc00 and \0, 矩阵"
    assert attempt.seconds == 0.0


def test_an_unknown_verdict_is_a_mistake_of_the_caller(file: Path) -> None:
    with pytest.raises(ValueError, match="passed, failed, error, timeout"):
        record(Progress.open(file), verdict="fine")


def test_attempts_since_a_time(file: Path) -> None:
    book = Progress.open(file)
    for hour in (8, 9, 10):
        at(book, 2026, 3, 1, hour)
        record(book, f"check{hour}")
    since_nine = [a.check for a in book.attempts(since=datetime(2026, 3, 1, 9, tzinfo=UTC))]
    assert since_nine == ["check9", "check10"]
    assert [a.check for a in book.attempts(since="2026-03-01T11:30:00+02:00")] == ["check10"]


# --- streak and hours --------------------------------------------------------------------


def test_a_streak_counts_days_without_a_gap_and_waits_for_today(file: Path) -> None:
    book = Progress.open(file)
    for day in (1, 2, 4, 5, 6):
        at(book, 2026, 3, day, 12, 0)
        record(book)
    assert book.days_worked(UTC) == [date(2026, 3, d) for d in (1, 2, 4, 5, 6)]
    assert book.streak(date(2026, 3, 6), UTC) == 3
    assert book.streak(date(2026, 3, 7), UTC) == 3, "nothing done yet today"
    assert book.streak(date(2026, 3, 8), UTC) == 0
    assert book.streak(date(2026, 3, 2), UTC) == 2


def test_a_day_is_a_day_on_the_readers_calendar(file: Path) -> None:
    book = Progress.open(file)
    at(book, 2026, 3, 1, 20, 0)
    record(book)
    assert book.days_worked(timezone(timedelta(hours=8))) == [date(2026, 3, 2)]


def test_hours_count_the_pauses_that_are_shorter_than_half_an_hour(file: Path) -> None:
    book = Progress.open(file)
    assert book.hours() == 0
    at(book, 2026, 3, 1, 10, 0)
    book.opened("day001")
    at(book, 2026, 3, 1, 10, 20)
    book.record_help(day="day001", exercise="einsum2", kind="hint", step=1)
    at(book, 2026, 3, 1, 10, 45)
    record(book)
    at(book, 2026, 3, 1, 11, 15)  # half an hour later: not counted
    record(book)
    at(book, 2026, 3, 1, 11, 30)
    book.was_reset("day001")
    assert book.hours() == pytest.approx(1.0)


# --- several processes, and kills ----------------------------------------------------------


def test_two_notebooks_write_at_once_and_nothing_is_lost(file: Path) -> None:
    script = """
with Progress.open(sys.argv[1]) as book:
    for i in range(250):
        book.record(day="day001", exercise=sys.argv[2], check=f"c{i}", verdict="passed", seconds=0, source=str(i))
"""
    both = [writer(script, str(file), name) for name in ("a", "b")]
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    kept = {(a.exercise, a.check) for a in Progress.open(file).attempts()}
    assert kept == {(name, f"c{i}") for name in "ab" for i in range(250)}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_kill_loses_nothing_that_was_reported(file: Path) -> None:
    script = """
book = Progress.open(sys.argv[1])
for i in range(100_000):
    book.record(day="day001", exercise=sys.argv[2], check=f"c{i}", verdict="passed", seconds=0, source="x" * 500)
    print(i, flush=True)
"""
    for turn in range(6):
        process = writer(script, str(file), f"e{turn}")
        assert process.stdout
        reported = [int(process.stdout.readline()) for _ in range(5 + 17 * turn)]
        process.kill()
        reported += [int(line) for line in process.stdout.read().splitlines() if line]
        process.communicate()
        book = Progress.open(file)
        kept = {a.check for a in book.attempts() if a.exercise == f"e{turn}"}
        assert not book.notice
        assert {f"c{i}" for i in reported} <= kept
        book.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_may_write_too(file: Path) -> None:
    book = Progress.open(file)
    record(book, "parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            record(book, "child")
            book.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    record(book, "parent again")
    assert [a.check for a in book.attempts()] == ["parent", "child", "parent again"]


def test_an_interrupt_in_the_middle_of_a_record_leaves_nothing_half_done(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Progress.open(file)

    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(book, "_at", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(book)
    monkeypatch.undo()
    record(book, "afterwards")
    assert [a.check for a in book.attempts()] == ["afterwards"]


# --- files that cannot be used ---------------------------------------------------------------


@pytest.mark.parametrize("content", [b"this is no database, " * 300, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 5000])
def test_garbage_is_set_aside_with_a_message_and_a_new_file_begun(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    book = Progress.open(file)
    (aside,) = set_aside(file)
    assert aside.read_bytes() == content
    assert str(aside) in book.notice and "new one was begun" in book.notice
    record(book)
    assert len(Progress.open(file).attempts()) == 1
    assert not Progress.open(file).notice


def test_a_truncated_file_is_set_aside(file: Path) -> None:
    with Progress.open(file) as book:
        for i in range(100):
            record(book, f"c{i}", source="x" * 3000 + str(i))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "could not be read" in Progress.open(file).notice
    assert len(set_aside(file)) == 1


def test_a_folder_in_place_of_the_file_is_set_aside(file: Path) -> None:
    file.mkdir(parents=True)
    (file / "note.txt").write_text("mine")
    book = Progress.open(file)
    record(book)
    (aside,) = set_aside(file)
    assert (aside / "note.txt").read_text() == "mine"


def test_a_database_of_another_program_is_set_aside(file: Path) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE bookmarks (url)")
    other.close()
    before = file.read_bytes()
    assert "something else" in Progress.open(file).notice
    assert set_aside(file)[0].read_bytes() == before


def test_an_empty_file_is_a_new_one(file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    book = Progress.open(file)
    record(book)
    assert not book.notice and not set_aside(file)


def test_of_many_notebooks_that_find_garbage_one_sets_it_aside_and_no_result_is_lost(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"garbage" * 1000)
    script = """
book = Progress.open(sys.argv[1])
book.record(day="day001", exercise=sys.argv[2], check="c", verdict="passed", seconds=0)
"""
    several = [writer(script, str(file), str(i)) for i in range(4)]
    for process in several:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert {a.exercise for a in Progress.open(file).attempts()} == {"0", "1", "2", "3"}
    assert len(set_aside(file)) == 1


def test_a_file_that_is_deleted_under_an_open_notebook_is_begun_again(file: Path) -> None:
    book = Progress.open(file)
    record(book, "before")
    if os.name == "nt":
        pytest.skip("an open file cannot be deleted here")
    for companion in file.parent.iterdir():
        companion.unlink()
    record(book, "after")
    assert [a.check for a in Progress.open(file).attempts()] == ["after"]


def test_a_newer_schema_is_refused_and_not_a_byte_changes(file: Path) -> None:
    with Progress.open(file) as book:
        record(book)
    with sqlite3.connect(file) as db:
        db.execute(f"PRAGMA user_version={progress.SCHEMA + 1}")
    db.close()
    before, names = file.read_bytes(), sorted(p.name for p in file.parent.iterdir() if "-" not in p.name)
    with pytest.raises(ProgressError, match=r"newer llm180 .*git pull") as refusal:
        Progress.open(file)
    assert "\n" not in str(refusal.value)
    assert file.read_bytes() == before
    assert sorted(p.name for p in file.parent.iterdir() if "-" not in p.name) == names


def make_version_1(file: Path) -> None:
    """A file as the first version made it: attempts without a message."""
    file.parent.mkdir()
    with sqlite3.connect(file) as db:
        db.executescript(
            """
            CREATE TABLE attempts (id INTEGER PRIMARY KEY, at TEXT NOT NULL, day TEXT NOT NULL, exercise TEXT NOT NULL,
                check_name TEXT NOT NULL, verdict TEXT NOT NULL, seconds REAL NOT NULL, source_hash TEXT);
            CREATE INDEX attempts_by_check ON attempts (day, exercise, check_name);
            CREATE TABLE sources (hash TEXT PRIMARY KEY, source TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE events (id INTEGER PRIMARY KEY, at TEXT NOT NULL, day TEXT NOT NULL, exercise TEXT NOT NULL,
                kind TEXT NOT NULL, step INTEGER NOT NULL);
            INSERT INTO attempts VALUES (1, '2026-01-01T00:00:00+00:00', 'day001', 'einsum2', 'values', 'passed', 0.5, 'h');
            INSERT INTO sources VALUES ('h', 'def einsum2(): ...');
            PRAGMA user_version = 1;
            """
        )
    db.close()


def test_an_older_schema_is_migrated_with_all_that_it_holds(file: Path) -> None:
    make_version_1(file)
    book = Progress.open(file)
    assert not book.notice
    record(book, "new", message="said")
    assert [(a.check, a.message) for a in book.attempts()] == [("values", ""), ("new", "said")]
    assert book.passed_source("day001", "einsum2") == "def einsum2(): ..."
    assert sqlite3.connect(file).execute("PRAGMA user_version").fetchone() == (progress.SCHEMA,)


def test_a_migration_that_fails_half_way_leaves_the_old_version(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version_1(file)

    class Stop(Exception):
        pass

    def stop_at_the_end(path: Path, version: int) -> None:
        calls.append(version)
        if len(calls) == 2:
            raise Stop

    calls: list[int] = []
    monkeypatch.setattr(progress, "_refuse_newer", stop_at_the_end)
    with pytest.raises(Stop):
        Progress.open(file)
    with sqlite3.connect(file) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()
    monkeypatch.undo()
    assert len(Progress.open(file).attempts()) == 1


def test_the_steps_lead_to_the_current_schema() -> None:
    assert len(progress._STEPS) == progress.SCHEMA


# --- surroundings that fail ------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProgressError, match="cannot be opened; check the folder") as refusal:
        Progress.open(tmp_path / "file" / "progress.sqlite")
    assert "\n" not in str(refusal.value)


def test_a_full_disk_is_one_sentence_and_the_file_stays_whole(file: Path) -> None:
    book = Progress.open(file)
    record(book, "before")
    pages = book._db.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[union-attr]
    book._db.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[union-attr]
    with pytest.raises(ProgressError, match="is full; free some space"):
        record(book, "too much", source="x" * 100_000)
    assert [a.check for a in Progress.open(file).attempts()] == ["before"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("existing", [False, True])
def test_a_read_only_folder_is_one_sentence(file: Path, existing: bool) -> None:
    file.parent.mkdir()
    if existing:
        Progress.open(file).close()
        file.chmod(0o444)
    reader, speaker = os.pipe()
    file.parent.chmod(0o555)
    child = os.fork()
    if child == 0:  # where the tests run as root, rights bind only another user
        try:
            os.chdir(file.parent)
            if os.geteuid() == 0:
                os.setuid(65534)
            try:
                record(Progress.open("progress.sqlite"))
            except ProgressError as error:
                os.write(speaker, str(error).encode())
        finally:
            os._exit(0)
    os.close(speaker)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    file.parent.chmod(0o755)
    assert said.startswith("Progress is not kept:") and "LLM180_HOME" in said and "\n" not in said
