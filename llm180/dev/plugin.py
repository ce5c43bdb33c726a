"""pytest plugin: every lesson and lab is a test file, executed by nbval, straight from its MyST source.

``pytest`` executes all pages and unit tests; ``pytest book/stage1/day001_....md`` one page;
``pytest --changed`` only pages whose last passing run no longer stands. Each code cell is one test.

A page's cells run in one kernel, in the mode in which the solution takes each exercise's place.
After the first cell that fails the rest of the page is skipped. When all cells have passed, the
outputs go to the book's cache and a record is written (:mod:`llm180.dev.execution`).

An unchanged page under ``--changed`` is one skipped test that says when it passed: skipped rather
than deselected, so that the summary counts it and no page can drop out of a run unseen.

Order: pages (longest first, by earlier records), then test files, then the test files that need
executed pages (fixtures ``executed_pages``, ``executed_book``), ``test_site.py`` last of all.
With xdist (``--dist loadfile --no-loadscope-reorder``) a worker takes whole files in this order. A
worker that waits in a fixture therefore has no page behind it in its own queue; every page is
finished, or runs in another worker that does not wait. After a worker has crashed xdist may
queue its page behind a waiting test: the wait ends soon after a page's worker is gone, and in
any case when no page has given a sign of life for longer than a cell may take.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from nbformat import from_dict
from nbformat.v4 import output_from_msg
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel, start_new_kernel
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError, find_comment_markers, find_metadata_tags

from llm180 import data, guard
from llm180.dev import execution

CELL_SECONDS = 60.0
LOST_SECONDS = 20.0  # for which a test still waits for a page whose worker is gone: another may have taken it
NBVAL_DEFAULT_SECONDS = 2000.0
SKIP_TAG = "skip-execution"

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


# --- options, session -------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llm180", "lessons and labs")
    group.addoption(
        "--changed",
        action="store_true",
        help="execute only pages of which the cells, the solution, a project module, data or the pins changed",
    )
    parser.addini("executed_patience", "seconds without a sign of any page after which a test stops waiting for them")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.nbval_cell_timeout == NBVAL_DEFAULT_SECONDS:
        config.option.nbval_cell_timeout = CELL_SECONDS * guard.crowding()
    config.option.nbval_current_env = True
    worker = getattr(config, "workerinput", None)
    if worker is None:
        state = _State(execution.Session(os.environ.get("LLM180_SESSION") or uuid.uuid4().hex))
    else:
        state = _State(
            execution.Session(worker["llm180_session"]), worker["llm180_seconds"], worker["llm180_unchanged"]
        )
    config.stash[_STATE] = state
    config.pluginmanager.register(_Hooks(config, state, controller=worker is None), "llm180-session")


@dataclass
class _State:
    """What all processes of a run must see alike: decided once, in the controlling process."""

    session: execution.Session
    seconds: dict[str, float] | None = None
    unchanged: dict[str, str] | None = None

    def decide(self, changed_only: bool) -> None:
        if self.seconds is not None:
            return
        self.seconds, self.unchanged = {}, {}
        for path in execution.pages():
            name = execution.relative(path)
            if (known := execution.seconds(path)) is not None:
                self.seconds[name] = known
            if changed_only and execution.current(path):
                record = execution.read_record(path) or {}
                self.unchanged[name] = str(record.get("at", "an earlier run"))


_STATE = pytest.StashKey[_State]()


class _Hooks:
    """Hooks that need the run's state."""

    def __init__(self, config: pytest.Config, state: _State, controller: bool) -> None:
        self.config = config
        self.state = state
        self.controller = controller

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self.state.decide(self.config.option.changed)
        node.workerinput["llm180_session"] = self.state.session.id
        node.workerinput["llm180_seconds"] = self.state.seconds
        node.workerinput["llm180_unchanged"] = self.state.unchanged

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        if config.option.dist != "loadfile":
            return None
        from xdist.scheduler import LoadFileScheduling

        class Scheduler(LoadFileScheduling):
            """xdist's, which after a crash hands out again all files of the lost worker, finished ones too.

            A worker that gets a file without open tests has nothing to report, and is never given another.
            """

            def remove_node(self, node: Any) -> str | None:
                files = self.assigned_work[node]
                for file in [file for file, tests in files.items() if all(tests.values())]:
                    del files[file]
                return super().remove_node(node)

        return Scheduler(config, log)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name a failure when it happens: the reports come at the end of a run, which may be far or never come."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if self.controller and report.failed and terminal and terminal.verbosity <= 0:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else str(report.longrepr)
            terminal.line("")
            terminal.line(f"{report.nodeid}: {(plain(why).strip() or 'failed').splitlines()[0][:300]}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.controller:
            _summarize(terminalreporter, self.state.session)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self.controller and "LLM180_SESSION" not in os.environ:
            self.state.session.end()


# --- collection ---------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Page | None:
    return Page.from_parent(parent, path=file_path) if execution.is_page(file_path) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    state = config.stash[_STATE]
    state.decide(config.option.changed)
    waiting = {item.path for item in items if {"executed_pages", "executed_book"} & set(_fixtures(item))}

    def rank(item: pytest.Item) -> tuple[int, float]:
        if isinstance(item, _PageItem):
            name = execution.relative(item.path)
            if name in state.unchanged:
                return 0, 0.0
            return 0, -state.seconds.get(name, float("inf"))
        if item.path.name == "test_site.py":
            return 3, 0.0
        return (2 if item.path in waiting else 1), 0.0

    items.sort(key=rank)  # stable: equal ranks keep their order


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


class Page(IPyNbFile):
    """A lesson or lab: collects its code cells, runs them in one kernel, keeps the outputs."""

    def collect(self) -> Iterator[pytest.Item]:
        state = self.config.stash[_STATE]
        state.decide(self.config.option.changed)
        passed_at = state.unchanged.get(self.name_in_messages)
        if passed_at is not None:
            yield Idle.from_parent(self, name="unchanged", why=f"unchanged since it passed ({passed_at})")
            return
        if missing := execution.lacking(self.path):
            why = f"not installed: {', '.join(missing)}; `python3 -m llm180 setup lessons` installs it"
            yield Idle.from_parent(self, name="lacking", why=why)
            return
        self.text = self.path.read_text(encoding="utf-8")
        self.nb = execution._read_page(self.path.resolve(), self.text)
        self.cells: list[PageCell] = []
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code":
                continue
            options = defaultdict(bool, find_metadata_tags(cell.metadata))
            options.update(find_comment_markers(cell.source))
            if SKIP_TAG in cell.metadata.get("tags", []):
                options["skip"] = True
            number = len(self.cells) + 1
            item = PageCell.from_parent(self, name=f"cell{number}", cell_num=number, cell=cell, options=options)
            item.index = index
            item.line = self._first_line(cell.source, self.nb.metadata.source_map[index])
            self.cells.append(item)
        yield from self.cells

    def _first_line(self, source: str, start: int) -> int:
        """The 1-based line of the file at which a cell's code begins (after the fence and its options)."""
        first = source.split("\n", 1)[0]
        lines = self.text.split("\n")
        return next((n + 1 for n in range(start, len(lines)) if lines[n] == first), start + 1)

    @property
    def name_in_messages(self) -> str:
        return execution.relative(self.path)

    @property
    def session_files(self) -> execution.Session:
        return self.config.stash[_STATE].session

    def setup(self) -> None:
        if not hasattr(self, "cells"):
            return
        self.sanitize_patterns = {}
        self.failure: str | None = None
        self.done = 0
        self.finished = False
        self.spent = {"kernel": 0.0, "imports": 0.0, "content": 0.0}
        self.setting_up = True
        self.folder = Path(tempfile.mkdtemp(prefix="llm180-page-"))
        (self.folder / "home").mkdir()
        self._say("running")
        self.displays: dict[str, list[Any]] = defaultdict(list)
        self.begun = time.time()
        try:
            for model in execution.facts(self.path).get("models") or []:  # the page itself runs without a network
                data.model(model, progress=False)
        except data.DataError as error:
            self._fail(None, error)
            pytest.fail(str(error), pytrace=False)
        start = time.perf_counter()
        try:
            self.kernel = Kernel(
                self.path.resolve().parent,
                execution.kernel_environment(self.folder, self.folder / "home"),
                log=self.folder / "kernel.log",
                startup_timeout=self.config.option.nbval_kernel_startup_timeout,
            )
        except BaseException as error:
            self._fail(None, error)
            raise
        self.spent["kernel"] = time.perf_counter() - start

    def get_kernel_message(self, timeout: float | None = None, stream: str = "iopub") -> dict[str, Any]:
        """A message for nbval, which keeps part of it; all of it is kept for the outputs."""
        while True:
            message = super().get_kernel_message(timeout=timeout, stream=stream)
            self.messages.append(message)
            if message["msg_type"] not in ("update_display_data", "clear_output"):  # nbval knows neither
                return message

    def run(self, item: PageCell) -> None:
        """Run an item, and before it the items of the page that were not selected."""
        while self.done < len(self.cells):
            cell = self.cells[self.done]
            if cell.cell_num > item.cell_num:
                return
            if not cell.options["skip"]:
                self._run_cell(cell)
            self.done += 1
            self._say("running")
        self._finish()

    def _run_cell(self, cell: PageCell) -> None:
        self.messages: list[dict[str, Any]] = []
        start = time.perf_counter()
        try:
            try:
                cell.run_by_nbval()
            finally:
                self.spent["imports" if self.setting_up else "content"] += time.perf_counter() - start
                if re.search(r"^\w+\s*=\s*(Day|Lab)\(", cell.cell.source, re.M):
                    self.setting_up = False
                self._collect_outputs(cell)
            if self.timed_out:  # the interrupt was swallowed, and the cell went on to its end
                cell.raise_cell_error(f"Timeout of {self.config.option.nbval_cell_timeout:g} seconds exceeded")
            if hosts := execution.read_trace(self.folder).hosts:  # refused, but the page went on
                cell.raise_cell_error(f"The cell asked for the network ({', '.join(hosts)}); a lesson runs without")
        except BaseException as error:
            self._fail(cell, error)
            raise

    def _collect_outputs(self, item: PageCell) -> None:
        """The outputs that a notebook would hold, from all messages of the cell's run.

        nbval's own list leaves out counts, updated displays and cleared output, and moves all that
        a cell printed to where it printed first.
        """
        item.cell.outputs = outputs = []
        clear_first = False
        for message in self.messages:
            if message["parent_header"].get("msg_id") != self.kernel.last_request:
                continue
            kind, content = message["msg_type"], message["content"]
            if "execution_count" in content:
                item.cell.execution_count = content["execution_count"]
            display = (content.get("transient") or {}).get("display_id")
            if display and kind in ("update_display_data", "display_data", "execute_result"):
                for shown in self.displays[display]:
                    shown.update(data=from_dict(content["data"]), metadata=from_dict(content["metadata"]))
            if kind == "clear_output":
                clear_first = bool(content.get("wait"))
                if not clear_first:
                    outputs.clear()
            elif kind in ("stream", "display_data", "execute_result", "error"):
                if clear_first:
                    outputs.clear()
                    clear_first = False
                outputs.append(output_from_msg(message))
                if display:
                    self.displays[display].append(outputs[-1])
        self.messages = []

    def _finish(self) -> None:
        uses = execution.read_trace(self.folder, self.begun)
        self.nb.metadata.language_info = self.kernel.language_info()
        for item in self.cells:
            item.cell.outputs = join_streams(item.cell.outputs)
        memory = self.kernel.peak_memory_mb()
        execution.store(self.path, self.nb, uses=uses, seconds=self.spent, text=self.text, memory_mb=memory)
        self.finished = True
        self._say("passed")

    def _fail(self, cell: PageCell | None, error: BaseException) -> None:
        why = str(error) if isinstance(error, data.DataError) else f"the kernel did not start: {error}"
        message = cell.error_line(error) if cell else why
        line = cell.error_place(error) if cell else 1
        self.failure = f"cell {cell.cell_num} (line {line}) failed" if cell else message
        self.finished = True
        execution.forget(self.path, error=message, line=line, seconds=self.spent)
        self._say("failed", error=message, line=line, cell=cell.cell_num if cell else None)

    def _say(self, status: str, **facts: Any) -> None:
        self.session_files.write(self.path, status=status, seconds=self.spent, **facts)

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        if not self.finished:
            self._say("partial")
        if self.kernel is not None:
            self.kernel.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class _PageItem:
    """Marks the items that belong to pages."""


class Idle(_PageItem, pytest.Item):
    """Stands for a whole page that is not run: nothing of it has changed, or packages that it needs are missing."""

    def __init__(self, *, why: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.why = why

    def runtest(self) -> None:
        pytest.skip(self.why)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, execution.relative(self.path)


class PageCell(_PageItem, IPyNbCell):
    """One code cell. ``cell_num`` counts the page's code cells from 1; ``line`` is where its code begins."""

    index: int
    line: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_timeout = 10

    def setup(self) -> None:
        """nbval would expect the cells after a timeout to fail; here they are skipped."""

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line - 1, f"{execution.relative(self.path)}, cell {self.cell_num}"

    def runtest(self) -> None:
        if self.parent.failure:
            pytest.skip(f"not run: {self.parent.failure}")
        self.parent.run(self)
        if self.options["skip"]:
            pytest.skip("tagged skip-execution")

    def run_by_nbval(self) -> None:
        try:
            super().runtest()
        except KernelDied as error:
            raise NbCellError(self.cell_num, str(error), self.cell.source, error.last_words) from None

    # --- the report

    def error_line(self, error: BaseException) -> str:
        """What went wrong, in one line."""
        raised = next((o for o in reversed(self.test_outputs or []) if o["output_type"] == "error"), None)
        text = str(error)
        if raised and not text.startswith("Timeout"):
            text = f"{raised['ename']}: {raised['evalue']}"
        return plain(text).strip().split("\n")[0][:300] or type(error).__name__

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        error = excinfo.value
        if not isinstance(error, NbCellError):
            return pytest.Item.repr_failure(self, excinfo)
        failed = self.parent.cells[error.cell_num - 1]
        return failed.report(error)

    def error_place(self, error: BaseException) -> int:
        """The line of the page at which the cell failed; its first line where that is not known."""
        page = re.escape(execution.relative(self.path))
        trace = self._traceback(getattr(error, "inner_traceback", None) or "")
        end = self.line + self.cell.source.count("\n")
        return next((n for n in map(int, re.findall(rf"{page}:(\d+)", trace)) if self.line <= n <= end), self.line)

    def report(self, error: NbCellError) -> str:
        """Where, the code around it, what it printed, and the traceback; in plain text."""
        line = self.error_place(error)
        place = f"{execution.relative(self.path)}:{line}: cell {self.cell_num} of {len(self.parent.cells)}"
        parts = [f"{place}: {self.error_line(error)}", self._excerpt(line)]
        printed = "".join(o["text"] for o in self.cell.outputs if o["output_type"] == "stream")
        if printed.strip():
            parts.append("What the cell printed (its end):\n" + _tail(plain(printed), 12))
        if trace := self._traceback(error.inner_traceback or ""):
            parts.append(_tail(trace, 40))
        return "\n\n".join(parts)

    def _excerpt(self, marked: int) -> str:
        lines = self.cell.source.split("\n")
        numbered = [
            f"{'>' if self.line + i == marked else ' '} {self.line + i:5d} | {text}" for i, text in enumerate(lines)
        ]
        near = marked - self.line
        return "\n".join(numbered[max(0, near - 8) : near + 5])

    def _traceback(self, text: str) -> str:
        """IPython's traceback without colors and header, with the lines of the page in place of cell numbers."""
        page = execution.relative(self.path)
        starts = {c.cell.execution_count: c.line for c in self.parent.cells if c.cell.execution_count}

        def place(match: re.Match[str]) -> str:
            start = starts.get(int(match[1]))
            return f"{page}:{start + int(match[2]) - 1}" if start else match[0]

        text = re.sub(r"Cell In\s?\[(\d+)\], line (\d+)", place, plain(text))
        kept = [line for line in text.strip().split("\n") if not re.fullmatch(r"-{20,}", line.strip())]
        return "\n".join(kept).strip()


def plain(text: str) -> str:
    """Text without terminal colors."""
    return _ANSI.sub("", text)


def _tail(text: str, count: int) -> str:
    lines = text.rstrip().split("\n")
    return "\n".join(["...", *lines[-count:]] if len(lines) > count else lines)


def join_streams(outputs: list[Any]) -> list[Any]:
    """Neighboring pieces of one stream as one output, with carriage returns and backspaces applied.

    What other outputs separate stays apart, so the order on the page is the order of the run.
    """
    joined: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and joined and joined[-1].get("name") == output["name"]:
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    for output in joined:
        if output["output_type"] == "stream":
            output["text"] = _as_terminal(output["text"])
    return [o for o in joined if o["output_type"] != "stream" or o["text"]]


def _as_terminal(text: str) -> str:
    """What a terminal shows of text in which a progress bar rewrites its line."""
    before = None
    while before != text:
        before = text
        text = re.sub(r"[^\n\b]\x08", "", text)
    return re.sub(r"^.*\r(?=[^\n])", "", text, flags=re.M)


# --- the kernel --------------------------------------------------------------------------


class KernelDied(RuntimeError):
    """The kernel's process ended while a cell ran; ``last_words`` is what it wrote before."""

    def __init__(self, last_words: str) -> None:
        super().__init__("The kernel died")
        self.last_words = last_words


class Kernel(RunningKernel):
    """nbval's kernel, with an environment of its own and a watch on its process."""

    def __init__(self, cwd: Path, environment: dict[str, str], *, log: Path, startup_timeout: float) -> None:
        self.log = log
        self.last_request = ""
        self._waiting: deque[dict[str, Any]] = deque()
        with log.open("wb") as file:
            self.km, self.kc = start_new_kernel(
                kernel_name=CURRENT_ENV_KERNEL_NAME,
                startup_timeout=startup_timeout,
                cwd=str(cwd),
                env=environment,
                stdout=file,
                stderr=file,
            )
        self.process = getattr(self.km.provisioner, "pid", None)
        self._ensure_iopub_up()

    def execute_cell_input(self, cell_input: str, allow_stdin: bool | None = None) -> str:
        """Send a cell as a notebook does: it is counted, and kept in the history."""
        self.last_request = self.kc.execute(
            cell_input, store_history=True, allow_stdin=bool(allow_stdin), stop_on_error=False
        )
        return self.last_request

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """Wait for a reply; take outputs in meanwhile (a queue that overflows drops them), and watch the process."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._take_in()
            try:
                super().await_reply(msg_id, timeout=0.1)
                return
            except Empty:
                if not self.is_alive():
                    raise KernelDied(self._last_words()) from None
                if deadline is not None and time.monotonic() > deadline:
                    raise

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        if stream == "iopub" and self._waiting:
            return self._waiting.popleft()
        return super().get_message(stream, timeout=timeout)

    def _take_in(self) -> None:
        with suppress(Empty):
            while True:
                self._waiting.append(super().get_message("iopub", timeout=0))

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = plain(self.log.read_text(encoding="utf-8", errors="replace")).split("\n")
            return _tail("\n".join(line for line in lines if "over TCP without encryption" not in line), 12)
        return ""

    def language_info(self) -> dict[str, Any]:
        """What the kernel says of its language; the page's highlighting is chosen by it."""
        reply = self.kc.kernel_info(reply=True, timeout=30)
        return reply["content"]["language_info"]

    def peak_memory_mb(self) -> float | None:
        """The most memory that the kernel's own process has held, in MB; ``None`` where it is not known."""
        with suppress(OSError, ValueError, TypeError):
            status = Path(f"/proc/{self.process}/status").read_text()
            match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
            return round(int(match[1]) / 1024, 1) if match else None
        return None

    def stop(self) -> None:
        """End the kernel and what it has started."""
        if not hasattr(self, "km"):
            return
        super().stop()
        if self.process and hasattr(os, "killpg"):
            with suppress(OSError):  # the kernel led its own group: its children go too
                os.killpg(self.process, signal.SIGKILL)


# --- waiting for pages -----------------------------------------------------------------------


@dataclass(frozen=True)
class ExecutedPages:
    """``selected``: pages that this run executes in full; ``failed``: those of them that failed, by name, with why.

    ``current``: every page of the project whose stored outputs stand for its sources now.
    """

    selected: list[Path]
    failed: dict[str, str]
    current: list[Path]


@pytest.fixture(scope="session")
def executed_pages(request: pytest.FixtureRequest) -> ExecutedPages:
    """Waits until every page that this run executes has passed or failed."""
    config = request.config
    state = config.stash[_STATE]
    chosen: dict[Path, int] = defaultdict(int)
    whole: dict[Path, int] = {}
    for item in request.session.items:
        if isinstance(item, PageCell):
            chosen[item.path] += 1
            whole[item.path] = len(item.parent.cells)
    selected = [path for path, count in chosen.items() if count == whole[path]]
    patience = float(config.getini("executed_patience") or 0) or (
        config.option.nbval_cell_timeout + config.option.nbval_kernel_startup_timeout + 60
    )
    begun = time.time()
    while True:
        states = {path: state.session.read(path) or {} for path in selected}
        open_pages = [path for path, s in states.items() if s.get("status") not in ("passed", "failed", "partial")]
        if not open_pages:
            break
        lost = any(not _is_alive(s["process"]) for path in open_pages if (s := states[path]))
        if time.time() - max(begun, state.session.last_sign()) > (min(patience, LOST_SECONDS) if lost else patience):
            names = ", ".join(execution.relative(path) for path in open_pages)
            why = "the worker that ran a page was lost" if lost else f"no page has moved on for {patience:.0f} s"
            pytest.fail(f"{why}; not finished: {names}", pytrace=False)
        time.sleep(0.25)
    failed = {
        execution.relative(path): f"line {s.get('line')}: {s.get('error')}"
        for path, s in states.items()
        if s["status"] != "passed"
    }
    return ExecutedPages(selected, failed, [path for path in execution.pages() if execution.current(path)])


def _is_alive(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


@pytest.fixture(scope="session")
def executed_book(executed_pages: ExecutedPages) -> ExecutedPages:
    """As ``executed_pages``; fails if one of them failed, skips where there is no executed page at all."""
    if executed_pages.failed:
        listed = "; ".join(f"{name}, {why}" for name, why in executed_pages.failed.items())
        pytest.fail(f"the book needs every page to pass, and did not get it: {listed}", pytrace=False)
    if not executed_pages.selected and not executed_pages.current:
        pytest.skip("no page was selected, and none has current outputs: run pytest with the pages first")
    return executed_pages


# --- the last table ----------------------------------------------------------------------------


def _summarize(terminal: Any, session: execution.Session) -> None:
    states = [s for s in session.all() if s.get("status") in ("passed", "failed", "partial", "running")]
    if not states:
        return
    failed = [s for s in states if s["status"] == "failed"]
    if failed:
        terminal.write_sep("=", "pages that failed", red=True)
        for state in failed:
            cell = f"cell {state['cell']}: " if state.get("cell") else ""
            terminal.write_line(f"{state['page']}:{state.get('line', 1)}: {cell}{state.get('error')}")
    terminal.write_sep("=", "seconds per page")
    terminal.write_line(f"{'kernel':>8} {'imports':>8} {'content':>8} {'total':>8}  page")
    totals = [0.0, 0.0, 0.0]
    for state in sorted(states, key=lambda s: -sum(s["seconds"].values())):
        spent = [state["seconds"][part] for part in ("kernel", "imports", "content")]
        totals = [a + b for a, b in zip(totals, spent, strict=True)]
        mark = "" if state["status"] == "passed" else f"  ({state['status']})"
        terminal.write_line("".join(f"{s:8.1f} " for s in [*spent, sum(spent)]) + f" {state['page']}{mark}")
    if len(states) > 1:
        terminal.write_line("".join(f"{s:8.1f} " for s in [*totals, sum(totals)]) + f" {len(states)} pages")
