"""The reader's progress: one SQLite file that never leaves the machine.

:meth:`Progress.record` returns only after a durable commit, so that whatever a
notebook reports as passed survives a kill or a power cut. Several notebooks may
write at once. A file that cannot be read is set aside, never deleted; a file of
a newer version is refused and left as it is; an older one is migrated.

Everything that goes wrong is a :class:`ProgressError` of one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llm180 import paths

if TYPE_CHECKING:
    from llm180.lessons import Lesson

SCHEMA = 2
FILE = "progress.sqlite"
VERDICTS = ("passed", "failed", "error", "timeout")
GAP = timedelta(minutes=30)  # a longer pause between two events is not study

_BUSY_SECONDS = 20.0
_SIDE_FILES = ("-wal", "-shm", "-journal")

T = TypeVar("T")


class ProgressError(Exception):
    """Progress cannot be read or kept; the message is one sentence for the reader."""


class _Unreadable(Exception):
    """The file is not a progress file, or a damaged one."""


@dataclass(frozen=True)
class Attempt:
    """One run of a check on an answer. ``at`` is a time in UTC, ISO 8601."""

    day: str
    exercise: str
    check: str
    at: str
    verdict: str  # one of VERDICTS
    seconds: float
    source_hash: str | None
    message: str = ""

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.at)


# --- the schema, version by version ------------------------------------------------

_VERSION_1 = (
    """CREATE TABLE attempts (
        id INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        day TEXT NOT NULL,
        exercise TEXT NOT NULL,
        check_name TEXT NOT NULL,
        verdict TEXT NOT NULL,
        seconds REAL NOT NULL,
        source_hash TEXT)""",
    "CREATE INDEX attempts_by_check ON attempts (day, exercise, check_name)",
    "CREATE TABLE sources (hash TEXT PRIMARY KEY, source TEXT NOT NULL) WITHOUT ROWID",
    # kind: hint, solution, opened, reset; exercise is empty where the event is of a whole day
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        day TEXT NOT NULL,
        exercise TEXT NOT NULL,
        kind TEXT NOT NULL,
        step INTEGER NOT NULL)""",
)
# What a failed check said.
_VERSION_2 = ("ALTER TABLE attempts ADD COLUMN message TEXT NOT NULL DEFAULT ''",)
_STEPS = (_VERSION_1, _VERSION_2)  # _STEPS[n] leads from version n to n + 1

_COLUMNS = {
    "attempts": {"id", "at", "day", "exercise", "check_name", "verdict", "seconds", "source_hash", "message"},
    "sources": {"hash", "source"},
    "events": {"id", "at", "day", "exercise", "kind", "step"},
}
_ATTEMPT = "day, exercise, check_name, at, verdict, seconds, source_hash, message"


# --- opening -----------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    if read_only:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _damaged(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is bad, and not its surroundings."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _retried(action: Callable[[], T]) -> T:
    """``action()`` again while another process holds the file, for those steps that do not wait by themselves."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not _busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _refuse_newer(path: Path, version: int) -> None:
    if version > SCHEMA:
        raise ProgressError(
            f"{path} was written by a newer llm180 (its schema is {version}, this one knows up to {SCHEMA}): "
            "upgrade llm180 with `git pull`, or set LLM180_HOME to another folder; the file was left as it is."
        )


def _look(path: Path) -> None:
    """Judge an existing file without writing a byte to it. Raises ProgressError or _Unreadable."""
    if path.is_dir():
        raise _Unreadable("it is a folder")
    if not path.exists() or path.stat().st_size == 0:
        return
    with contextlib.closing(_connect(path, read_only=True)) as db:
        version = _retried(lambda: db.execute("PRAGMA user_version").fetchone()[0])
        _refuse_newer(path, version)
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version < 0 or (version == 0 and tables):
            raise _Unreadable("it is a database of something else")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _Unreadable("it is damaged")


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Settings and schema of a connection to write with. Raises as :func:`_look` does."""
    _retried(lambda: db.execute("PRAGMA journal_mode=WAL"))
    db.execute("PRAGMA synchronous=FULL")
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        with _transaction(db):
            # Read again under the lock: another process may have been faster.
            version = db.execute("PRAGMA user_version").fetchone()[0]
            _refuse_newer(path, version)
            try:
                for step in _STEPS[version:]:
                    for statement in step:
                        db.execute(statement)
            except sqlite3.OperationalError as error:
                if (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_ERROR:  # no such table, and so on
                    raise _Unreadable("it is a database of something else") from None
                raise
            db.execute(f"PRAGMA user_version={SCHEMA}")
    for table, columns in _COLUMNS.items():
        if not columns <= {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
            raise _Unreadable("it is a database of something else")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, durable when the block is left; an interrupt rolls back like any error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _open(path: Path) -> sqlite3.Connection:
    _look(path)
    db = _connect(path)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _set_aside(path: Path, why: str) -> str:
    """Rename an unreadable file and its companions; what was done, in one sentence."""
    stamp = _now().strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.unreadable-{stamp}")
    os.replace(path, aside)
    for suffix in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return f"Your progress file could not be read ({why}): it was kept as {aside}, and a new one was begun."


def _open_or_begin(path: Path) -> tuple[sqlite3.Connection, str]:
    """A connection, and a notice where an unreadable file was set aside."""
    why = ""

    def attempt() -> sqlite3.Connection | None:
        nonlocal why
        try:
            return _open(path)
        except _Unreadable as error:
            why = str(error)
        except sqlite3.DatabaseError as error:
            if not _damaged(error):
                raise
            why = "it is damaged"
        return None

    path.parent.mkdir(parents=True, exist_ok=True)
    if db := attempt():
        return db, ""
    # Of several processes that find the file unreadable only one may set it aside:
    # the others would set aside the new one.
    lock = sqlite3.connect(f"{path}.lock", timeout=_BUSY_SECONDS, isolation_level=None)
    with contextlib.closing(lock):
        lock.execute("BEGIN EXCLUSIVE")
        if db := attempt():
            return db, ""
        notice = _set_aside(path, why)
        if db := attempt():
            return db, notice
    raise ProgressError(f"A new progress file could not be begun at {path}: {why}.")


def _said(error: Exception, path: Path) -> str:
    """One sentence for an error of the file system or of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        return f"the disk that holds {path} is full; free some space."
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) or isinstance(error, PermissionError):
        return f"{path} cannot be written; give yourself the right to, or set LLM180_HOME to a folder of yours."
    if code == sqlite3.SQLITE_CANTOPEN or isinstance(error, OSError):
        return f"{path} cannot be opened; check the folder, or set LLM180_HOME to another one."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} has been locked by another program for {_BUSY_SECONDS:g} seconds."
    return f"{path}: {' '.join(str(error).split()).rstrip('.')}."


def _clean(text: str) -> str:
    """Text that SQLite can store: no lone surrogates, no zero characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


# --- the file ------------------------------------------------------------------------


class Progress:
    """An open progress file. Safe to use from several threads and after a fork."""

    # Connections of a parent process: closing one here could disturb the parent's.
    _inherited: list[sqlite3.Connection] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notice = ""  # what happened to an unreadable file; empty when nothing did
        self.clock: Callable[[], datetime] = _now
        self._guard = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int, int] | None = None

    @classmethod
    def open(cls, path: Path | str | None = None) -> Progress:
        """Open or begin the reader's file (``progress.sqlite`` in :func:`llm180.paths.home`).

        Raises :class:`ProgressError` where it cannot be opened, or is of a newer version.
        """
        progress = cls(Path(path) if path is not None else paths.home() / FILE)
        with progress._connection():
            pass
        return progress

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._guard:
            self._let_go()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _let_go(self) -> None:
        if self._db is not None:
            if self._opened_as and self._opened_as[0] != os.getpid():
                Progress._inherited.append(self._db)
            else:
                self._db.close()
        self._db = None

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return os.getpid(), status.st_dev, status.st_ino

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The connection, opened anew where the file was moved away or the process was forked."""
        with self._guard:
            try:
                if self._db is not None and self._identity() != self._opened_as:
                    self._let_go()
                if self._db is None:
                    self._db, notice = _open_or_begin(self.path)
                    self.notice = notice or self.notice
                    self._opened_as = self._identity()
                yield self._db
            except sqlite3.Error as error:
                if _damaged(error):  # the next call finds it so, and sets it aside
                    self.close()
                raise ProgressError(f"Progress is not kept: {_said(error, self.path)}") from error
            except OSError as error:
                raise ProgressError(f"Progress is not kept: {_said(error, self.path)}") from error

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._connection() as db:
            return db.execute(query, values).fetchall()

    def _at(self) -> str:
        return self.clock().astimezone(timezone.utc).isoformat(timespec="microseconds")

    # writing

    def record(
        self,
        *,
        day: str,
        exercise: str,
        check: str,
        verdict: str,
        seconds: float,
        source: str | None = None,
        message: str = "",
    ) -> None:
        """Keep one run of a check (``seconds``: its duration). Returns after a durable commit.

        Raises :class:`ProgressError` where it could not be kept, ValueError for an unknown verdict.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"verdict is one of {', '.join(VERDICTS)}, not {verdict!r}")
        digest = None
        if source is not None:
            source = _clean(source)
            digest = hashlib.sha256(source.encode()).hexdigest()
        seconds = float(seconds) if math.isfinite(seconds) else 0.0
        names = [_clean(name) for name in (day, exercise, check)]
        with self._connection() as db, _transaction(db):
            if digest is not None:
                db.execute("INSERT OR IGNORE INTO sources VALUES (?, ?)", (digest, source))
            db.execute(
                f"INSERT INTO attempts ({_ATTEMPT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*names, self._at(), verdict, seconds, digest, _clean(message)),
            )

    def record_help(self, *, day: str, exercise: str, kind: Literal["hint", "solution"], step: int) -> None:
        """Keep that the reader looked at a hint (``step`` counts from 1) or at the solution."""
        if kind not in ("hint", "solution"):
            raise ValueError(f"kind is hint or solution, not {kind!r}")
        self._event(day, exercise, kind, step)

    def opened(self, day: str) -> None:
        """Keep that the reader opened a working copy."""
        self._event(day, "", "opened", 0)

    def was_reset(self, day: str) -> None:
        """Keep that the reader began a fresh working copy. Earlier attempts stay."""
        self._event(day, "", "reset", 0)

    def _event(self, day: str, exercise: str, kind: str, step: int) -> None:
        with self._connection() as db, _transaction(db):
            db.execute(
                "INSERT INTO events (at, day, exercise, kind, step) VALUES (?, ?, ?, ?, ?)",
                (self._at(), _clean(day), _clean(exercise), kind, int(step)),
            )

    # reading

    def help_taken(self, day: str, exercise: str) -> tuple[int, bool]:
        """How many hints of an exercise were shown, and whether its solution was."""
        rows = self._rows(
            "SELECT kind, max(step) FROM events WHERE day = ? AND exercise = ? GROUP BY kind", day, exercise
        )
        found = dict(rows)
        return int(found.get("hint", 0)), "solution" in found

    def attempts(self, since: datetime | str | None = None) -> list[Attempt]:
        """Every attempt in the order in which it was kept; ``since`` a time (naive means UTC)."""
        if since is None:
            return [Attempt(*row) for row in self._rows(f"SELECT {_ATTEMPT} FROM attempts ORDER BY id")]
        if isinstance(since, str):
            since = datetime.fromisoformat(since)
        if since.tzinfo is None:
            since = since.replace(tzinfo=timezone.utc)
        text = since.astimezone(timezone.utc).isoformat(timespec="microseconds")
        return [Attempt(*row) for row in self._rows(f"SELECT {_ATTEMPT} FROM attempts WHERE at >= ? ORDER BY id", text)]

    def verdicts(self, day: str) -> dict[tuple[str, str], Attempt]:
        """The latest attempt of each ``(exercise, check)`` of a day."""
        return {key[1:]: attempt for key, attempt in self._latest("WHERE day = ?", day).items()}

    def all_verdicts(self) -> dict[tuple[str, str, str], Attempt]:
        """The latest attempt of each ``(day, exercise, check)``."""
        return self._latest("")

    def _latest(self, where: str, *values: Any) -> dict[tuple[str, str, str], Attempt]:
        rows = self._rows(
            f"SELECT {_ATTEMPT} FROM attempts WHERE id IN "
            f"(SELECT max(id) FROM attempts {where} GROUP BY day, exercise, check_name) ORDER BY id",
            *values,
        )
        return {(row[0], row[1], row[2]): Attempt(*row) for row in rows}

    def passed_exercises(self, lesson: Lesson) -> set[str]:
        """The names of a lesson's exercises of which every check has passed in its latest run."""
        return passed_exercises(lesson, self.verdicts(lesson.key))

    def is_complete(self, lesson: Lesson) -> bool:
        """Whether every exercise of a lesson is passed."""
        return len(self.passed_exercises(lesson)) == len(lesson.exercises)

    def passed_source(self, day: str, exercise: str, checks: Collection[str] = ()) -> str | None:
        """The newest answer that passed every check that it met, and each of ``checks``; else ``None``."""
        latest: dict[str, dict[str, str]] = {}
        order: dict[str, int] = {}
        rows = self._rows(
            "SELECT id, source_hash, check_name, verdict FROM attempts "
            "WHERE day = ? AND exercise = ? AND source_hash IS NOT NULL ORDER BY id",
            day,
            exercise,
        )
        for number, digest, check, verdict in rows:
            latest.setdefault(digest, {})[check] = verdict
            order[digest] = number
        for digest in sorted(order, key=order.__getitem__, reverse=True):
            met = latest[digest]
            if all(v == "passed" for v in met.values()) and set(checks) <= set(met):
                found = self._rows("SELECT source FROM sources WHERE hash = ?", digest)
                return found[0][0] if found else None
        return None

    # time spent

    def _times(self, days: Collection[str] | None = None) -> list[datetime]:
        rows = self._rows("SELECT at, day FROM attempts UNION ALL SELECT at, day FROM events")
        return sorted(datetime.fromisoformat(at) for at, day in rows if days is None or day in days)

    def days_worked(self, zone: tzinfo | None = None, days: Collection[str] | None = None) -> list[date]:
        """The calendar dates with at least one event, in order, in ``zone`` (default: the reader's own).

        ``days``: count only events of these days, as ``day001``.
        """
        return sorted({at.astimezone(zone).date() for at in self._times(days)})

    def streak(self, today: date | None = None, zone: tzinfo | None = None) -> int:
        """Days worked without a gap up to ``today``, or up to yesterday while nothing is done today."""
        worked = set(self.days_worked(zone))
        day = today or self.clock().astimezone(zone).date()
        if day not in worked:
            day -= timedelta(days=1)
        count = 0
        while day in worked:
            count += 1
            day -= timedelta(days=1)
        return count

    def hours(self, days: Collection[str] | None = None) -> float:
        """Hours of study: the sum of the pauses between events that are shorter than half an hour.

        ``days``: count only events of these days, as ``day001``.
        """
        times = self._times(days)
        spans = (later - earlier for earlier, later in zip(times, times[1:]))
        return sum((span for span in spans if span < GAP), timedelta()) / timedelta(hours=1)


def passed_exercises(lesson: Lesson, verdicts: dict[tuple[str, str], Attempt]) -> set[str]:
    """The exercises of a lesson of which every check has passed in its latest run."""

    def passed(exercise: str, check: str) -> bool:
        attempt = verdicts.get((exercise, check))
        return attempt is not None and attempt.verdict == "passed"

    return {e.name for e in lesson.exercises if e.checks and all(passed(e.name, check) for check in e.checks)}
