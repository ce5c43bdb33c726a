"""The command line: ``llm180 next``, ``open``, ``check``, ``status`` and the rest.

Every error is one sentence on stderr and an exit status: 1 where something
failed, 2 where the command was used wrongly, 130 after Ctrl-C. Whatever a command needs is imported when
it runs, so that ``llm180 --help`` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm180 import paths

if TYPE_CHECKING:
    from rich.console import Console

    from llm180.lessons import Lesson
    from llm180.progress import Progress

AUTHORS = "For authors"
CELL_SECONDS = 120

app = typer.Typer(
    name="llm180",
    help="LLM in 180 Days: read a lesson, solve its exercises, see what is right.",
    add_completion=False,
    rich_markup_mode=None if os.environ.get("TERM") == "dumb" else "rich",
    pretty_exceptions_enable=False,
)


class CommandError(Exception):
    """A command cannot go on; the message is one sentence for the reader."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


# --- running a command -------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; no error leaves it as a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:  # titles are in Chinese too; a terminal that cannot show them gets a ?
            reconfigure(errors="replace")
    try:
        status = int(app(arguments or ["--help"], prog_name="llm180", standalone_mode=False) or 0)
        return _fail("Interrupted.", 130) if status == 130 else status  # Ctrl-C, as newer parsers tell it
    except CommandError as error:
        return _fail(str(error), error.status)
    except KeyboardInterrupt:
        return _fail("Interrupted.", 130)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else _fail(str(left.code)) if left.code else 0
    except Exception as error:
        if os.environ.get("LLM180_DEBUG"):
            raise
        return _fail(*_sentence(error))


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(message.rstrip() + "\n")
    return status


def _sentence(error: Exception) -> tuple[str, int]:
    """What the reader is told of an error, and the exit status."""
    from llm180.lessons import LessonError
    from llm180.notebooks import NotebookError
    from llm180.progress import ProgressError

    if hasattr(error, "format_message"):  # the parser's: wrong use
        return f"{error.format_message().rstrip('.')}; `llm180 --help` shows what there is.", 2
    if type(error).__name__ == "Abort":  # what the parser makes of Ctrl-C
        return "Interrupted.", 130
    if isinstance(error, (LessonError, NotebookError, ProgressError)):
        return _one_line(error), 1
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:  # llm180 status | head
            sys.stdout = open(os.devnull, "w")
            return "", 1
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or _one_line(error)}.", 1
    if isinstance(error, ModuleNotFoundError):
        return f"The package {error.name} is missing; `llm180 doctor` says how to install it.", 1
    return (
        f"This should not happen ({type(error).__name__}: {_one_line(error)}); set LLM180_DEBUG=1 to see where, "
        "and please report it."
    ), 1


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


# --- which lesson ------------------------------------------------------------------------


def page_named(name: str) -> Lesson:
    """The lesson or lab that a reader means by ``31``, ``day031``, ``lab-1.1``."""
    from llm180 import lessons

    plain = name.strip().lower()
    if match := re.fullmatch(r"(?:day[-_ ]?)?(\d{1,6})", plain):
        number = int(match[1])
        if not 1 <= number <= 180:
            raise CommandError(f"There is no day {number}; the days are 1 to 180.", 2)
        return lessons.find(number)
    if match := re.fullmatch(r"lab[-_ ]?(\d+)[._](\d+)", plain):
        return lessons.find_lab(f"{match[1]}.{match[2]}")
    raise CommandError(f"{name!r} names no lesson; write a day as 31, a lab as lab-1.1.", 2)


def spoken(lesson: Lesson) -> str:
    """A lesson as the commands take it: ``31`` or ``lab-1.1``."""
    return f"lab-{lesson.section}" if lesson.is_lab else str(lesson.number)


def copy_path(lesson: Lesson) -> Path:
    return paths.WORK / f"{lesson.stem}.ipynb"


def shown(path: Path) -> str:
    """A path as short as it can be from where the reader stands."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def open_progress() -> Progress:
    """The reader's progress, with a notice on stderr where an unreadable file was set aside."""
    from llm180.progress import Progress

    progress = Progress.open()
    if progress.notice:
        sys.stderr.write(progress.notice + "\n")
    return progress


def note_event(lesson: Lesson, kind: str) -> None:
    """Keep that a copy was opened or reset; where that fails, say so and go on."""
    from llm180.progress import ProgressError

    try:
        with open_progress() as progress:
            (progress.opened if kind == "opened" else progress.was_reset)(lesson.key)
    except ProgressError as error:
        sys.stderr.write(f"{error}\n")


Which = Annotated[str, typer.Argument(metavar="DAY", help="A day, as 31, or a lab, as lab-1.1.", show_default=False)]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Start it, but open no browser.")]
NoLab = Annotated[bool, typer.Option("--no-lab", help="Only make the working copy.")]


# --- next, open, reset -------------------------------------------------------------------


@app.command("next")
def next_(no_lab: NoLab = False, no_browser: NoBrowser = False) -> int:
    """Open the next lesson: the first that is not complete."""
    from llm180 import lessons

    written = lessons.all_lessons()
    with open_progress() as progress:
        lesson = next((page for page in written if not progress.is_complete(page)), None)
    if lesson is None:
        if not written:
            raise CommandError("No lesson is written yet.")
        print(f"All {len(written)} lessons written so far are complete.")
        return 0
    return open_lesson(lesson, lab=not no_lab, browser=not no_browser)


@app.command("open")
def open_(day: Which, no_lab: NoLab = False, no_browser: NoBrowser = False) -> int:
    """Open your working copy of a lesson in JupyterLab; make one if there is none."""
    return open_lesson(page_named(day), lab=not no_lab, browser=not no_browser)


def open_lesson(lesson: Lesson, *, lab: bool, browser: bool) -> int:
    """Make the working copy where there is none, then start JupyterLab on it."""
    from llm180 import notebooks

    path = copy_path(lesson)
    try:
        notebooks.working_copy(lesson, path)
        print(f"{lesson.label} · {lesson.title}: your copy is {shown(path)}")
    except FileExistsError:
        print(f"{lesson.label} · {lesson.title}: your copy {shown(path)} is as you left it")
    note_event(lesson, "opened")
    return start_jupyterlab(path, browser=browser) if lab else 0


def start_jupyterlab(path: Path, *, browser: bool = True) -> int:
    """Run JupyterLab on a notebook until the reader stops it."""
    from llm180.doctor import pip_install

    if importlib.util.find_spec("jupyterlab") is None:
        raise CommandError(f"JupyterLab is not installed; run `{pip_install('jupyterlab')}`.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={path.parent}"]
    command.append(f"--LabApp.default_url=/lab/tree/{path.name}")
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # without it JupyterLab refuses to serve root
    print("JupyterLab is starting; Ctrl-C here stops it.", flush=True)
    status = _foreground(command, path.parent)
    if status not in (0, -signal.SIGINT, -signal.SIGTERM):
        raise CommandError(f"JupyterLab stopped with status {status}; `llm180 doctor` looks for the cause.")
    return 0


def _foreground(command: list[str], folder: Path) -> int:
    """Run a program that handles Ctrl-C itself, and ends when this one is told to; its exit status."""
    process = subprocess.Popen(command, cwd=folder)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, end)


@app.command()
def reset(day: Which) -> int:
    """Begin a lesson's working copy afresh; the old one is kept in work/old."""
    from llm180 import notebooks

    lesson = page_named(day)
    path = copy_path(lesson)
    if not path.exists():
        raise CommandError(
            f"There is no working copy of {lesson.label} to reset; `llm180 open {spoken(lesson)}` makes one."
        )
    with tempfile.TemporaryDirectory(prefix=".reset-", dir=path.parent) as folder:
        fresh = notebooks.working_copy(lesson, Path(folder) / path.name)  # before anything is moved
        old = _free_name(path.parent / "old", f"{path.stem}-{datetime.now():%Y%m%d-%H%M%S}", path.suffix)
        os.rename(path, old)
        os.replace(fresh, path)
    note_event(lesson, "reset")
    print(f"{lesson.label} begins afresh in {shown(path)}; the old copy is {shown(old)}, and your results are kept.")
    return 0


def _free_name(folder: Path, stem: str, suffix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, count = folder / f"{stem}{suffix}", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path


# --- check -------------------------------------------------------------------------------


@dataclass
class Graded:
    """One exercise after a run: ``word`` is passed, failed, unsolved or unchecked."""

    name: str
    word: str
    passed: int = 0
    checks: int = 0
    messages: list[str] = field(default_factory=list)


@dataclass
class Run:
    """What a run of a working copy left behind."""

    rows: list[dict[str, Any]]  # one per check and exercise, in the order in which they ran
    troubles: list[str]  # cells that raised, ran out of time or killed the kernel
    seconds: float = 0.0


@app.command()
def check(
    day: Which,
    seconds: Annotated[
        int, typer.Option("--seconds", min=1, help="Stop a cell that runs longer than this.")
    ] = CELL_SECONDS,
) -> int:
    """Run your working copy in a fresh kernel and report each exercise."""
    lesson = page_named(day)
    path = copy_path(lesson)
    if not path.exists():
        raise CommandError(
            f"There is no working copy of {lesson.label} yet; `llm180 open {spoken(lesson)}` makes one."
        )
    run = run_copy(path, seconds)
    grades = grade(lesson, run.rows)
    _tell(lesson, grades, run)
    return 0 if all(grade.word == "passed" for grade in grades) else 1


def read_notebook(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except Exception as error:
        if isinstance(error, OSError):
            raise
        why = _one_line(error)[:120]
    raise CommandError(
        f"{shown(path)} is not a notebook that can be read ({why}); "
        "mend it in JupyterLab, or begin afresh with `llm180 reset`."
    )


def read_code(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    return [cell.source for cell in read_notebook(path).cells if cell.cell_type == "code"]


def run_copy(path: Path, limit: int) -> Run:
    """Run a notebook's cells in a fresh kernel, each for at most ``limit`` seconds. The file is not changed."""
    import asyncio

    from jupyter_client.kernelspec import NoSuchKernel

    from llm180.doctor import pip_install

    notebook = read_notebook(path)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llm180-") as folder:
        report = Path(folder) / "report.jsonl"
        try:
            troubles = asyncio.run(_execute(notebook, path.parent, report, limit))
        except NoSuchKernel:
            raise CommandError(f"The Python kernel is missing; run `{pip_install('ipykernel')}`.") from None
        except RuntimeError as error:
            if "Kernel" not in str(error):
                raise
            raise CommandError(
                f"The kernel does not start ({_one_line(error)}); `llm180 doctor` looks for the cause."
            ) from None
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # the kernel died while it wrote the last one
            continue
    return Run(rows, troubles, time.monotonic() - started)


async def _execute(notebook: Any, folder: Path, report: Path, limit: int) -> list[str]:
    """Run every cell; what went wrong outside the checks, a sentence each."""
    import asyncio

    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from llm180.doctor import own_kernel

    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
    troubles: list[str] = []
    stopped: set[int] = set()
    interrupted = False
    alarm: asyncio.TimerHandle | None = None
    current = 0
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=own_kernel())
    # The limit is kept by an interrupt, after which the next cells run; `timeout` is for a cell that ignores it.
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=limit + 10,
        startup_timeout=120,
        shutdown_kernel="immediate",  # it has nothing left to save
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )

    with _cell_bar(len(code)) as bar:

        def leave() -> None:
            nonlocal interrupted
            interrupted = True
            if task:
                task.cancel()

        def started(**_: Any) -> None:  # the client has put its own handler in place, which only ends the kernel
            try:
                loop.add_signal_handler(signal.SIGINT, leave)
            except (NotImplementedError, RuntimeError):
                pass

        def out_of_time(index: int) -> None:
            stopped.add(index)
            loop.create_task(manager.interrupt_kernel())

        def begin(cell: Any, cell_index: int) -> None:
            nonlocal alarm, current
            current = cell_index
            alarm = loop.call_later(limit, out_of_time, cell_index)

        def end(cell: Any, cell_index: int, execute_reply: Any) -> None:
            if alarm:
                alarm.cancel()
            number = code.index(cell_index) + 1
            bar(number)
            content = execute_reply.get("content", {})
            if cell_index in stopped:
                troubles.append(f"Code cell {number} was stopped after {limit} s.")
            elif content.get("status") == "error":
                said = f"{content.get('ename')}: {_one_line(content.get('evalue', ''))[:200]}".rstrip(": ")
                troubles.append(f"Code cell {number} raised {said}")

        client.on_notebook_start = started
        client.on_cell_execute = begin
        client.on_cell_executed = end
        environment = os.environ | {"LLM180_MODE": "learn", "LLM180_REPORT": str(report)}
        try:
            await client.async_execute(
                env=environment, cleanup_kc=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except DeadKernelError:
            if not interrupted:
                number = code.index(current) + 1 if current in code else 1
                troubles.append(
                    f"The kernel died in code cell {number} (out of memory, or an exit); the cells after it did not run."
                )
        except CellTimeoutError:
            number = code.index(current) + 1
            troubles.append(f"Code cell {number} could not be stopped after {limit} s; the cells after it did not run.")
        except asyncio.CancelledError:
            if not interrupted:
                raise
        finally:
            if alarm:
                alarm.cancel()
            if await manager.is_alive():
                await manager.shutdown_kernel(now=True)
    if interrupted:
        raise KeyboardInterrupt
    return troubles


@contextmanager
def _cell_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over code cells on stderr, gone when done; nothing where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Running cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = _console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        row = progress.add_task("", total=total)
        yield lambda done: progress.update(row, completed=done)


def grade(lesson: Lesson, rows: list[dict[str, Any]]) -> list[Graded]:
    """Each exercise of the lesson from what the checks reported; the last run of a check counts."""
    latest = {(row["exercise"], row["check"]): row for row in rows}
    grades = []
    for exercise in lesson.exercises:
        own = {check: latest.get((exercise.name, check)) for check in exercise.checks}
        words = [row["verdict"] if row else "missing" for row in own.values()]
        passed = words.count("passed")
        messages = [row["message"] for row in own.values() if row and row["verdict"] not in ("passed", "unsolved")]
        missing = [check for check, row in own.items() if row is None]
        if messages or any(w in ("failed", "error", "timeout") for w in words):
            word = "failed"
        elif missing or not own:
            word = "unchecked"
            messages = [f"did not run: {', '.join(missing)}"] if missing else []
        else:
            word = "passed" if passed == len(words) else "unsolved"
        grades.append(Graded(exercise.name, word, passed, len(words), messages))
    return grades


_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "unsolved": ("·", "dim"), "unchecked": ("?", "yellow")}


def _tell(lesson: Lesson, grades: list[Graded], run: Run) -> None:
    """Print the result of a check."""
    from rich.markup import escape

    console = _console()
    console.print(f"[bold]{lesson.label} · {escape(lesson.title)}[/bold]")
    width = max((len(g.name) for g in grades), default=0)
    for item in grades:
        mark, color = _MARKS[item.word]
        said = {
            "passed": f"passed ({item.checks} check{'s' if item.checks != 1 else ''})",
            "failed": f"failed ({item.passed} of {item.checks} checks passed)",
            "unsolved": "not solved yet",
            "unchecked": "not checked",
        }[item.word]
        console.print(f"[{color}]{mark}[/{color}] {item.name:<{width}}  {said}")
        for message in item.messages:
            for line in message.splitlines():
                console.print(f"    {escape(line)}")
    for trouble in run.troubles:
        console.print(f"[yellow]![/yellow] {escape(trouble)}")
    done = sum(g.word == "passed" for g in grades)
    console.print(f"{done} of {len(grades)} exercises passed, in {run.seconds:.0f} s.")


# --- status ------------------------------------------------------------------------------


@app.command()
def status() -> int:
    """What is done, what is written, your streak and hours, and what is next."""
    from rich import box
    from rich.table import Table

    from llm180 import lessons
    from llm180.dev.sync import stage_titles
    from llm180.progress import passed_exercises

    progress = open_progress()
    by_day: dict[str, dict[tuple[str, str], Any]] = {}
    for (key, exercise, name), attempt in progress.all_verdicts().items():
        by_day.setdefault(key, {})[exercise, name] = attempt
    written, labs = lessons.all_lessons(), lessons.all_labs()
    passed = {page.key: len(passed_exercises(page, by_day.get(page.key, {}))) for page in [*written, *labs]}
    complete = {page.key for page in [*written, *labs] if passed[page.key] == len(page.exercises)}
    numbers = {page.number for page in written}
    planned = [entry for entry in lessons.planned() if entry["number"] not in numbers]

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("Stage", "Title"):
        table.add_column(title)
    for title in ("Done", "Written", "Planned", "Exercises"):
        table.add_column(title, justify="right")

    def row(name: str, title: str, pages: list[Lesson], plan: int | None) -> None:
        exercises = sum(len(page.exercises) for page in pages)
        table.add_row(
            name,
            title,
            str(sum(page.key in complete for page in pages)),
            str(len(pages)),
            "" if plan is None else str(plan),
            f"{sum(passed[page.key] for page in pages)} of {exercises}",
        )

    for stage, title in stage_titles().items():
        later = sum(str(entry["section"]).startswith(f"{stage}.") for entry in planned)
        row(str(stage), title, [page for page in written if page.stage == stage], later)
    if labs:
        row("Labs", "On a GPU, or smaller without", labs, None)
    table.add_section()
    row("All", "", [*written, *labs], len(planned))
    console = _console()
    console.print(table)
    streak, hours = progress.streak(), progress.hours()
    console.print(f"Streak: {streak} day{'s' if streak != 1 else ''}   Study: {hours:.1f} hours")
    following = next((page for page in written if page.key not in complete), None)
    if following:
        console.print(
            f"Next: {following.label} · {following.title} ({following.minutes} minutes): "
            f"`llm180 open {spoken(following)}`",
            markup=False,
        )
    elif written:
        console.print("Next: every lesson written so far is complete.")
    return 0


# --- review ------------------------------------------------------------------------------


@app.command()
def review(
    week: Annotated[int, typer.Argument(metavar="[WEEK]", help="1 to 26; without it, the week in which you are.", show_default=False)] = 0,
    chinese: Annotated[bool, typer.Option("--zh", help="Begin it in Chinese.")] = False,
) -> int:
    """Write your review of a week from your record; what you wrote in it stays."""
    from llm180 import reviews

    with open_progress() as progress:
        try:
            path, told = reviews.write(week or reviews.week_now(progress), progress, "zh" if chinese else None)
        except reviews.ReviewError as error:
            raise CommandError(str(error)) from None
    print(told)
    print(shown(path))
    return 0


# --- assemble ----------------------------------------------------------------------------


@app.command()
def assemble(
    library: Annotated[str, typer.Argument(metavar="LIBRARY", help="The library of a stage project: tinynn.")],
    fill: Annotated[bool, typer.Option("--fill", help="Take the book's pieces where an answer of yours is missing.")] = False,
) -> int:
    """Put your passed answers together into your own library, and hold it to PyTorch."""
    from rich.markup import escape

    from llm180 import assemble as assembly

    with open_progress() as progress:
        try:
            made = assembly.assemble(library, progress, fill=fill)
        except assembly.AssemblyError as error:
            raise CommandError(str(error)) from None
    console = _console()
    console.print(f"{shown(made.folder)}: {len(made.own)} answers of yours, {len(made.given)} of the book's.")
    for page, name in made.given:
        console.print(f"[dim]·[/dim] {page.label}: {name} is the book's", highlight=False)
    with console.status("Comparing it with PyTorch ..."):
        made.parity = assembly.run_parity(library, made.folder)
    for name, good, message in made.parity:
        mark, color = _MARKS["passed" if good else "failed"]
        console.print(f"[{color}]{mark}[/{color}] {escape(name)}", highlight=False)
        if not good:
            console.print(f"    {escape(message)}", highlight=False)
    console.print(f"{sum(good for _, good, _ in made.parity)} of {len(made.parity)} comparisons passed.")
    return 0 if made.agrees else 1


# --- certify, verify -----------------------------------------------------------------------


@app.command()
def certify(
    stage: Annotated[int, typer.Argument(metavar="STAGE", help="1 to 6.", min=1, max=6, show_default=False)],
    name: Annotated[str, typer.Option("--name", help="Your name, as the certificate shall have it.")] = "",
    paper: Annotated[bool, typer.Option("--paper", help="Draw a theory paper and start its clock.")] = False,
    hand_in: Annotated[bool, typer.Option("--hand-in", help="Hand in the open paper.")] = False,
) -> int:
    """Run a stage's work again and, if all of it holds, write your certificate; else list what is missing."""
    from datetime import date

    from llm180 import certify as office
    from llm180 import exam

    console = _console()
    try:
        if paper:
            path = exam.begin(stage)
            console.print(f"{shown(path)}: {exam.MINUTES} minutes from now.", highlight=False)
            return 0
        if hand_in:
            result, graded = exam.hand_in(stage)
            console.print(f"{result['right']} of {result['of']} right, {'passed' if result['passed'] else 'not passed'}. The worked answers: {shown(graded)}", highlight=False)
            return 0 if result["passed"] else 1
        asked = office.documents(stage)
        with open_progress() as progress, console.status("Running your work again ...") as line:
            tell = lambda what: line.update(f"Running your work again: {what} ...")
            found = office.check_days(stage, progress, tell)
            found += office.check_project(stage, progress, tell)
        found += [office.check_paper(stage), *(office.check_document(stage, spec) for spec in asked)]
    except (office.CertifyError, exam.ExamError) as error:
        raise CommandError(str(error)) from None
    for requirement in found:
        mark, color = _MARKS["passed" if requirement.met else "failed"]
        console.print(f"[{color}]{mark}[/{color}] {requirement.name}", highlight=False)
        for missing in requirement.missing:
            console.print(f"    {missing}", markup=False, highlight=False)
    met = sum(requirement.met for requirement in found)
    if met < len(found):
        console.print(f"{met} of {len(found)} are done.")
        return 1
    if not name.strip():
        raise CommandError(f"All is done. Say which name the certificate shall have: `llm180 certify {stage} --name \"Ada Lovelace\"`.", 2)
    evidence = office.evidence_of(stage, " ".join(name.split()), found, date.today())
    for path in office.write_certificate(evidence, paths.WORK / f"stage{stage}"):
        console.print(shown(path), highlight=False)
    console.print(f"Evidence {office.digest(evidence)}", highlight=False)
    if lacking := office.missing_characters(name):
        console.print(f"No font here draws {lacking}, so the PDF shows boxes in its place; the SVG is right.", highlight=False)
    return 0


@app.command()
def verify(file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate, SVG or PDF.", show_default=False)]) -> int:
    """Check a certificate: whether its hash is that of its evidence, and what it says."""
    from llm180 import certify as office

    try:
        found = office.verify(file)
    except office.CertifyError as error:
        raise CommandError(str(error)) from None
    evidence, console = found.evidence, _console()
    if not found.intact:
        raise CommandError(f"{shown(file)} was changed after it was written: its hash is not that of its evidence.")
    console.print(f"{evidence['name']}, stage {evidence['stage']}, {evidence['date']}; evidence {found.hash}", highlight=False, markup=False)
    for name, value in sorted(evidence["requirements"].items(), key=office.by_day):
        console.print(f"[green]✓[/green] {name}: {office.summary(name, value)}", highlight=False)
    if found.compared:
        same = found.compared - len(found.differing)
        console.print(f"{same} of {found.compared} files that it names are here as they were." + "".join(f"\n    changed since: {name}" for name in found.differing), highlight=False)
    return 0


# --- doctor, setup -----------------------------------------------------------------------


@app.command()
def doctor() -> int:
    """Look for what is wrong with this installation, and say which command mends it."""
    from llm180 import doctor as examination

    return examination.main(_console())


@app.command()
def setup(
    more: Annotated[str, typer.Argument(metavar="[lessons]", help="lessons: with the packages that some lessons need besides.", show_default=False)] = "",
) -> int:
    """Install again what requirements.txt and pyproject.toml ask for, into .venv."""
    from llm180 import bootstrap

    if not bootstrap.in_clone():
        raise CommandError("There is nothing to set up here: llm180 was installed without its repository.")
    if more not in ("", "lessons"):
        raise CommandError(f"`llm180 setup {more}` is not known; `llm180 setup lessons` installs what all lessons need.", 2)
    try:
        bootstrap.set_up(again=True, lessons=more == "lessons")
    except bootstrap.SetupError as error:
        raise CommandError(str(error)) from None
    return 0


# --- the book and the tests --------------------------------------------------------------


@app.command()
def serve(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The next free one is taken if it is in use.")] = 8180,
    no_browser: NoBrowser = False,
    no_build: Annotated[bool, typer.Option("--no-build", help="Show the book as it was built last.")] = False,
) -> int:
    """Build what has changed and show the book in a browser, on this machine only."""
    site = _developed("site")
    try:
        if not no_build:
            site.build()
        site.serve(port=port, browser=not no_browser)
    except site.SiteError as error:
        raise CommandError(str(error)) from None
    return 0


@app.command(rich_help_panel=AUTHORS)
def build() -> int:
    """Execute the pages that changed, and build the book into _build/html."""
    site = _developed("site")
    try:
        site.build()
    except site.SiteError as error:
        raise CommandError(str(error)) from None
    return 0


_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON, rich_help_panel=AUTHORS)
def test(context: typer.Context) -> int:
    """Run every test, the lessons included. Arguments go to pytest."""
    if not paths.IN_CLONE or importlib.util.find_spec("pytest") is None:
        raise CommandError("The tests need the repository and pytest; `python3 -m llm180 setup` installs what they use.")
    arguments = [_absolute(argument) for argument in context.args]
    status = _foreground([sys.executable, "-m", "pytest", *arguments], paths.ROOT)
    return status if status >= 0 else 130


def _absolute(argument: str) -> str:
    """An argument that names a file from where the reader stands, as pytest takes it from the root."""
    name, mark, rest = argument.partition("::")
    if name and not name.startswith("-") and Path(name).exists() and Path.cwd() != paths.ROOT:
        return f"{Path(name).resolve()}{mark}{rest}"
    return argument


@app.command(context_settings=_PASS_ON, rich_help_panel=AUTHORS)
def sync(context: typer.Context) -> int:
    """Regenerate what is derived from the lessons."""
    return _developer(context, "sync")


@app.command(context_settings=_PASS_ON, rich_help_panel=AUTHORS)
def strength(context: typer.Context) -> int:
    """Mutate a day's solution and see whether its checks notice."""
    return _developer(context, "strength")


@app.command(context_settings=_PASS_ON, rich_help_panel=AUTHORS)
def bench(context: typer.Context) -> int:
    """Measure what set-up, execution and build cost."""
    return _developer(context, "bench")


def _developed(name: str) -> Any:
    """A module of llm180.dev, which needs the repository and its development tools."""
    if not paths.IN_CLONE:
        raise CommandError("This command needs a clone of the repository, not an installed llm180.")
    try:
        return importlib.import_module(f"llm180.dev.{name}")
    except ModuleNotFoundError as error:
        raise CommandError(
            f"This command needs {error.name}, which is not installed; `python3 -m llm180 setup` installs all of it."
        ) from None


def _developer(context: typer.Context, name: str) -> int:
    return int(_developed(name).main(list(context.args)) or 0)


if __name__ == "__main__":
    sys.exit(main())
