"""What is known about the last run of each page, and the outputs that the book shows.

pytest runs every page once (:mod:`llm180.dev.plugin`). When all its cells have
passed, :func:`store` puts the outputs into the book's jupyter-cache, where
MyST-NB finds them, and writes a record with everything that the run used::

    _build/executed/<stem>.json
    {"status": "passed", "file": <sha256>, "cells": <jupyter-cache's key>, "front": <hash of the day's facts>,
     "inputs": {"solutions/day001_....py": <sha256>, ...}, "packages": <hash of the pins and Python>,
     "outputs": <hash of the outputs>, "seconds": {"kernel": s, "imports": s, "content": s}, ...}

jupyter-cache's key covers a page's code cells only. :func:`current` covers the
rest: it is true when nothing that the run used has changed since. Prose may
change freely: it is not executed.

This module imports only the standard library until a function needs more.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm180 import paths

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from llm180.lessons import Lesson

VERSION = 1
"""Raised when the way a page is executed changes, so that every record of an older way is stale."""

EXECUTED = paths.BUILD / "executed"
CACHE = paths.BUILD / ".jupyter_cache"
TRACING = Path(__file__).with_name("tracing")

# Extensions of Jupyter Book 1.x where _config.yml names none; they decide where a code cell begins.
_DEFAULT_EXTENSIONS = ("colon_fence", "dollarmath", "linkify", "substitution", "tasklist")


# --- pages ---------------------------------------------------------------------


def is_page(path: Path) -> bool:
    """Whether a file is a lesson or a lab of this project, by its place and name."""
    path = path.resolve()
    if path.suffix != ".md":
        return False
    if path.parent == paths.LABS:
        return path.name.startswith("lab_")
    return path.parent.parent == paths.BOOK and path.parent.name.startswith("stage") and path.name.startswith("day")


def pages() -> list[Path]:
    """Every page of the project, the days first."""
    return [*sorted(paths.BOOK.glob("stage*/day*.md")), *sorted(paths.LABS.glob("lab_*.md"))]


def relative(path: Path) -> str:
    """A path as messages and records name it: from the project's root, with slashes."""
    try:
        return path.resolve().relative_to(paths.ROOT).as_posix()
    except ValueError:
        return str(path)


def _path(page: Lesson | Path | str) -> Path:
    return Path(getattr(page, "path", page)).resolve()


@functools.cache
def _markdown_extensions() -> frozenset[str]:
    import yaml

    config = paths.ROOT / "_config.yml"
    settings = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config.exists() else {}
    named = (settings.get("sphinx") or {}).get("config", {}).get("myst_enable_extensions")
    named = named or (settings.get("parse") or {}).get("myst_enable_extensions")
    return frozenset(named or _DEFAULT_EXTENSIONS)


def read_page(page: Lesson | Path | str) -> NotebookNode:
    """The page as a notebook, by the reader with which MyST-NB reads it, so that both see the same cells.

    ``metadata.source_map`` holds, for each cell, the 0-based line at which it begins in the file:
    the fence's next line for a code cell.
    """
    return _read_page(_path(page), _path(page).read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=4)
def _reader() -> Callable[[str, Path], NotebookNode]:
    from myst_nb.core.read import read_myst_markdown_notebook
    from myst_parser.config.main import MdParserConfig

    config = MdParserConfig(enable_extensions=set(_markdown_extensions()))

    def read(text: str, path: Path) -> NotebookNode:
        return read_myst_markdown_notebook(text, config=config, add_source_map=True, path=str(path))

    return read


def _read_page(path: Path, text: str) -> NotebookNode:
    return _reader()(text, path)


def cells_key(notebook: NotebookNode) -> str:
    """The key under which jupyter-cache keeps a notebook: its code cells, their tags, the kernel's name."""
    return _open_cache().create_hashed_notebook(notebook)[1]


@functools.lru_cache(maxsize=1024)
def _key_of_text(path: Path, text: str) -> tuple[str, str]:
    notebook = _read_page(path, text)
    facts = notebook.metadata.get("day") or notebook.metadata.get("lab") or {}
    return cells_key(notebook), _digest(json.dumps(facts, sort_keys=True, default=str).encode())


def page_key(page: Lesson | Path | str) -> tuple[str, str]:
    """Jupyter-cache's key of the page as it is on disk now, and the hash of its day's facts."""
    path = _path(page)
    return _key_of_text(path, path.read_text(encoding="utf-8"))


# --- hashes ----------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, mtime_ns: int, size: int) -> str:
    return _digest(Path(path).read_bytes())


def file_hash(path: Path) -> str | None:
    """The SHA-256 of a file; ``None`` if there is none. Read once per process while the file is unchanged."""
    try:
        status = path.stat()
        return _file_hash(str(path), status.st_mtime_ns, status.st_size)
    except OSError:
        return None


def facts(page: Lesson | Path | str) -> dict[str, Any]:
    """The facts of a page's front matter, also where the page is not yet what a lesson must be."""
    from llm180 import lessons

    path = _path(page)
    try:
        front, _ = lessons.split_front_matter(path.read_text(encoding="utf-8"), path)
    except lessons.LessonError:  # said where the page is judged
        return {}
    return front.get("day") or front.get("lab") or {}


def packages_key() -> str:
    """The hash of the pinned packages and of the Python that runs them."""
    pins = [paths.ROOT / name for name in ("requirements.txt", "requirements-lessons.txt")]
    text = b"".join(path.read_bytes() for path in pins if path.exists())
    return _digest(text + repr(sys.version_info[:3]).encode())


def lacking(page: Lesson | Path | str) -> list[str]:
    """The packages of the page's optional groups that are not installed: without them it cannot run here."""
    from llm180 import day

    return day.missing_packages(facts(page).get("needs") or [])


# --- what a run uses ---------------------------------------------------------------


def kernel_environment(trace: Path, home: Path) -> dict[str, str]:
    """The environment in which a page runs when it is tested.

    ``trace``: a folder for the notes of what is used. ``home``: the reader's data folder, a
    temporary one, so that a test touches nobody's progress. Models are those of the real one.
    """
    from llm180.data import models

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "LLM180_", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE"))
    }
    environment.update(
        LLM180_MODE="solved",
        LLM180_HOME=str(home),
        LLM180_MODELS=str(models.home()),
        LLM180_TRACE=str(trace),
        LLM180_TRACE_ROOT=str(paths.ROOT),
        IPYTHONDIR=str(home / "ipython"),
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        PYTHONHASHSEED="0",
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        PYTHONPATH=os.pathsep.join([str(TRACING), str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    return environment


CHANGED_MEANWHILE = "changed while the page ran"


@dataclass(frozen=True)
class Uses:
    """What the processes of one page used: project files by hash, hosts that they asked for."""

    inputs: dict[str, str]
    hosts: list[str]


def read_trace(trace: Path, since: float = float("inf")) -> Uses:
    """The notes of a run that began at ``since`` (seconds since the epoch).

    Sources of pages count by their code and facts, not as files, and the tracer not at all. A file
    that changed while the page ran gets no hash: what the page saw of it is not known.
    """
    inputs: dict[str, str] = {}
    hosts: list[str] = []
    written: set[str] = set()
    notes = trace / "uses"
    text = notes.read_text(encoding="utf-8", errors="surrogateescape") if notes.exists() else ""
    for line in text.splitlines():
        kind, _, what = line.partition(" ")
        if kind == "N":
            hosts.append(what)
            continue
        path = Path(what)
        if path.suffix == ".pyc" and path.parent.name == "__pycache__":
            path = path.parent.parent / (path.name.split(".")[0] + ".py")
        name = relative(path)
        if kind == "W":
            written.add(name)
        elif name not in written and not _not_an_input(path) and (digest := file_hash(path)):
            changed = path.stat().st_mtime > since
            inputs[name] = CHANGED_MEANWHILE if changed else digest
    return Uses(dict(sorted(inputs.items())), sorted(set(hosts)))


def _not_an_input(path: Path) -> bool:
    return is_page(path) or TRACING in path.parents or path in _OWN or "__pycache__" in path.parts


_OWN = {Path(__file__).resolve(), Path(__file__).resolve().with_name("__init__.py")}


# --- records -------------------------------------------------------------------------


def record_path(page: Lesson | Path | str) -> Path:
    return EXECUTED / f"{_path(page).stem}.json"


def read_record(page: Lesson | Path | str) -> dict[str, Any] | None:
    """The record of the page's last run; ``None`` where there is none that can be read."""
    try:
        record = json.loads(record_path(page).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def seconds(page: Lesson | Path | str) -> float | None:
    """How long the page's last complete run took; ``None`` if it is not known."""
    record = read_record(page)
    try:
        return float(sum(record["seconds"].values())) if record else None
    except (KeyError, TypeError, AttributeError):
        return None


def stale_because(page: Lesson | Path | str) -> str | None:
    """Why the page's outputs no longer stand for its sources, in words; ``None`` if they still do."""
    record = read_record(page)
    if record is None:
        return "it has not been executed yet"
    if record.get("status") != "passed":
        return "its last run failed"
    if record.get("version") != VERSION:
        return "pages are executed in a new way"
    if record.get("file") != file_hash(_path(page)):  # else it need not be parsed
        key, front = page_key(page)
        if record.get("cells") != key:
            return "its code cells changed"
        if record.get("front") != front:
            return "its front matter changed"
    if record.get("packages") != packages_key():
        return "the pinned packages or Python changed"
    for name, digest in record.get("inputs", {}).items():
        now = file_hash(paths.ROOT / name)
        if digest == CHANGED_MEANWHILE:
            return f"{name} {digest}"
        if now != digest:
            return f"{name} {'is gone' if now is None else 'changed'}"
    if not _executed_file(record["cells"]).exists():
        return "its outputs are not in the cache"
    return None


def current(page: Lesson | Path | str) -> bool:
    """Whether nothing that the page's last passing run used has changed, and its outputs are at hand."""
    return stale_because(page) is None


def outputs_stamp(page: Lesson | Path | str) -> str | None:
    """A hash that changes when the page's stored outputs change: what a built page was made from."""
    record = read_record(page)
    return record.get("outputs") if record and record.get("status") == "passed" else None


# --- the book's cache ------------------------------------------------------------------


def _open_cache() -> Any:
    return _cache_at(CACHE)


@functools.lru_cache(maxsize=2)
def _cache_at(folder: Path) -> Any:
    from jupyter_cache import get_cache

    return get_cache(str(folder))


@contextlib.contextmanager
def _locked() -> Iterator[Any]:
    """The cache, for one process at a time."""
    from filelock import FileLock

    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / ".llm180.lock", timeout=120):
        yield _open_cache()


def _executed_file(key: str) -> Path:
    return CACHE / "executed" / key / "base.ipynb"


def _forget(cache: Any, *, uris: Iterable[str] = (), keys: Iterable[str] = (), but: str = "") -> None:
    """Remove entries by page or by key, also ones of which only half is left; ``but`` is a key to keep."""
    import shutil

    from jupyter_cache.cache.db import NbCacheRecord

    uris, keys = set(uris), set(keys)
    found = [r for r in cache.list_cache_records() if (r.uri in uris or r.hashkey in keys) and r.hashkey != but]
    for entry in found:
        shutil.rmtree(_executed_file(entry.hashkey).parent, ignore_errors=True)
    if found:
        NbCacheRecord.remove_records([r.pk for r in found], cache.db)
    for key in keys:  # a folder that the database does not know
        shutil.rmtree(_executed_file(key).parent, ignore_errors=True)


def store(
    page: Lesson | Path | str,
    notebook: NotebookNode,
    *,
    uses: Uses,
    seconds: Mapping[str, float],
    text: str | None = None,
    memory_mb: float | None = None,
) -> dict[str, Any]:
    """Keep the outputs of a run in which every cell passed, and write its record.

    ``notebook``: from :func:`read_page`, with outputs; ``text``: what it was read from. The record's
    keys are taken from these, not from the file, which may have changed since.
    """
    from jupyter_cache.base import CacheBundleIn

    path = _path(page)
    key = cells_key(notebook)
    facts = notebook.metadata.get("day") or notebook.metadata.get("lab") or {}
    outputs = [cell.get("outputs", []) for cell in notebook.cells if cell.cell_type == "code"]
    record = {
        "version": VERSION,
        "status": "passed",
        "page": relative(path),
        "file": _digest(text.encode("utf-8")) if text is not None else None,
        "cells": key,
        "front": _digest(json.dumps(facts, sort_keys=True, default=str).encode()),
        "inputs": uses.inputs,
        "packages": packages_key(),
        "outputs": _digest(json.dumps(outputs, sort_keys=True).encode()),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "memory_mb": memory_mb,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with _locked() as cache:
        # Outputs first, then the record. After a kill between the two the old record does not pass for
        # the new outputs: what made this run necessary, another key or another input, still differs.
        _forget(cache, uris=[str(path)], but=key)
        cache.cache_notebook_bundle(
            CacheBundleIn(notebook, str(path), data={"execution_seconds": sum(seconds.values())}),
            check_validity=False,  # counts may skip a cell that is tagged skip-execution
            overwrite=True,
        )
        write_json(record_path(path), record)
    return record


def forget(page: Lesson | Path | str, **failure: Any) -> None:
    """Drop the page's outputs; with ``failure`` facts, leave a record that its last run failed."""
    path = _path(page)
    with _locked() as cache:
        record_path(path).unlink(missing_ok=True)
        _forget(cache, uris=[str(path)], keys=[page_key(path)[0]] if path.exists() else [])
        if failure:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_json(
                record_path(path),
                {"version": VERSION, "status": "failed", "page": relative(path), "at": at, **failure},
            )


def executed_notebook(page: Lesson | Path | str) -> NotebookNode | None:
    """The page with the outputs of its last passing run; ``None`` if they are not current."""
    if not current(page):
        return None
    _, notebook = _open_cache().merge_match_into_notebook(read_page(page))
    return notebook


def _project_key() -> str:
    """One hash of everything that any page could use: toolkit, solutions, data, pins."""
    files = [
        path
        for folder in (paths.PACKAGE, paths.SOLUTIONS)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    lines = [f"{relative(path)} {file_hash(path)}" for path in files]
    return _digest("\n".join([packages_key(), str(VERSION), *lines]).encode())


def purge_stale() -> list[Path]:
    """Drop from the book's cache what no longer stands for its sources. For the start of a build.

    Returns the pages whose outputs were dropped; the build would execute them. Three cases:

    - a page with a record that is not current: dropped, and the record with it;
    - a page without a record, but with outputs: a build executed it (MyST-NB does so when the
      cache has nothing), and nothing is known about what it used. It is kept as long as no file
      of toolkit, solutions, data and pins has changed since the build that made it;
    - entries of pages that are gone, or of code cells that a page no longer has: dropped.
    """
    dropped: list[Path] = []
    marker = EXECUTED / ".project"
    with _locked() as cache:
        project = _project_key()
        unchanged = marker.exists() and marker.read_text(encoding="utf-8") == project
        entries = {record.hashkey: record.uri for record in cache.list_cache_records()}
        keep: set[str] = set()
        for path in pages():
            key, _ = page_key(path)
            if key not in entries and not _executed_file(key).exists():
                continue
            if current(path) or (read_record(path) is None and unchanged):
                keep.add(key)
            else:
                dropped.append(path)
                record_path(path).unlink(missing_ok=True)
        _forget(cache, keys=(set(entries) | {page_key(path)[0] for path in dropped}) - keep)
        EXECUTED.mkdir(parents=True, exist_ok=True)
        marker.write_text(project, encoding="utf-8")
    return dropped


def stale_pages() -> list[Path]:
    """The pages that ``pytest --changed`` would execute: those that changed and can run here."""
    return [path for path in pages() if not current(path) and not lacking(path)]


# --- one pytest session -------------------------------------------------------------------


@dataclass
class Session:
    """What the processes of one pytest run tell each other about its pages, by small files."""

    id: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = EXECUTED / "sessions" / self.id

    def write(self, page: Path, **state: Any) -> None:
        """Say how far a page is. Every write is also a sign of life, see :meth:`last_sign`."""
        write_json(self.folder / f"{page.stem}.json", {"page": relative(page), "process": os.getpid(), **state})

    def read(self, page: Path) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / f"{page.stem}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def all(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text(encoding="utf-8")))
        return found

    def last_sign(self) -> float:
        """When any page of the session last said something (seconds since the epoch); 0 if none did."""
        times = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times, default=0.0)

    def end(self) -> None:
        """Remove the session's files, and those of sessions that were killed more than a day ago."""
        import shutil

        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self.folder.parent.glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > 86_400:
                    shutil.rmtree(folder, ignore_errors=True)


def run_stale(progress: Callable[[int, int, str], None] | None = None, *, verbose: bool = False) -> int:
    """Execute the pages whose outputs are not current, by ``pytest --changed`` in a process of its own.

    ``progress(done, total, page)`` is called as pages finish. Returns pytest's exit status: 0 when
    every page passed. What pytest prints goes to this process's output with ``verbose``, or if a page failed.
    """
    stale = stale_pages()
    if not stale:
        return 0
    session = Session(f"run-{uuid.uuid4().hex[:12]}")
    command = [sys.executable, "-m", "pytest", "--changed", "-q", *(relative(path) for path in stale)]
    environment = {**os.environ, "LLM180_SESSION": session.id}
    pipe = None if verbose else subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=paths.ROOT, env=environment, stdout=pipe, stderr=None if verbose else subprocess.STDOUT, text=True
    )
    reported: set[str] = set()
    session.folder.mkdir(parents=True, exist_ok=True)
    output = ""
    while True:
        try:
            output, _ = process.communicate(timeout=0.3)
            break
        except subprocess.TimeoutExpired:
            _report(session, reported, len(stale), progress)
    _report(session, reported, len(stale), progress)
    session.end()
    if process.returncode and not verbose:
        sys.stdout.write(output or "")
    return process.returncode


def _report(session: Session, reported: set[str], total: int, progress: Callable[[int, int, str], None] | None) -> None:
    for state in session.all():
        if state.get("status") in ("passed", "failed") and state["page"] not in reported:
            reported.add(state["page"])
            if progress:
                progress(len(reported), total, state["page"])
