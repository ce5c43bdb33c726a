"""What the project costs, measured now: ``llm180 bench``.

Prints a table each for set-up (with ``--setup``, as it takes minutes), executed
pages, building the book, pages in a browser, and the overhead of a check.
Nothing is compared with a limit: a benchmark informs, the tests judge.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import shutil
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm180 import lessons, paths
from llm180.dev import execution

PARTS = ("notebooks", "checks", "build", "pages")
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "_build", "work", "dist", "__pycache__", ".*_c*", ".hypothesis")


class BenchError(Exception):
    """A part cannot be measured; the message says what is missing."""


@functools.cache
def _console() -> Any:
    from rich.console import Console

    return Console()


def _table(title: str, columns: list[str], rows: list[list[str]], note: str = "") -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    _console().print(table)
    if note:
        _console().print(note)
    _console().print()


def _timed(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> float:
    """Seconds that a command takes. Raises :class:`BenchError` with the end of what it said where it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BenchError(f"`{' '.join(command)}` failed:\n{said}")
    return seconds


def _megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


# --- set-up ----------------------------------------------------------------------


def setup() -> None:
    """What a newcomer waits for: `python3 -m llm180 setup` in a copy of the sources, with the Python below this one."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH")}
    with tempfile.TemporaryDirectory() as folder:
        root = copy_project(Path(folder) / "clone", outputs=False)
        first = _timed([python, "-m", "llm180", "setup"], root, environment)
        venv = root / ".venv"
        packages = sum(1 for _ in venv.rglob("*.dist-info"))
        rows = [["python3 -m llm180 setup", f"{first:.1f}", f"{_megabytes(venv):.0f}", str(packages)]]
        _table(
            "Set-up in a fresh folder",
            ["", "seconds", "MB", "packages"],
            rows,
            "With pip's download cache as it is on this machine.",
        )


# --- executed pages -----------------------------------------------------------------


def notebooks() -> None:
    """The last tested run of each page, from its record."""
    rows = []
    totals = []
    for page in lessons.all_pages():
        record = execution.read_record(page)
        if not record or record.get("status") != "passed":
            rows.append([page.key, "", "", "", "", "", "not executed"])
            continue
        seconds = record["seconds"]
        total = sum(seconds.values())
        totals.append(total)
        memory = record.get("memory_mb")
        rows.append(
            [
                page.key,
                *(f"{seconds.get(part, 0.0):.1f}" for part in ("kernel", "imports", "content")),
                f"{total:.1f}",
                f"{memory:.0f}" if memory else "",
                record.get("at", "")[:10] + ("" if execution.current(page) else ", stale"),
            ]
        )
    note = f"{len(totals)} pages, median {statistics.median(totals):.1f} s." if totals else "Run `pytest` first."
    columns = ["page", "kernel s", "imports s", "content s", "total s", "MB", "when"]
    _table("Pages as nbval executed them", columns, rows, note)


# --- a check -------------------------------------------------------------------------

_PAGE = """\
---
day:
  {number: 1, stage: 1, section: "1.1", title: Bench, title_zh: 测, minutes: 1,
   exercises: [{name: double, difficulty: 1, minutes: 1}]}
---

# Day 1 · Bench
"""

_SOLUTION = """\
from llm180 import known_mistakes


def double(x):
    \"\"\"Twice x.\"\"\"
    return x * 2


known_mistakes(double, ("x * 2", "x * 3", "triples"), ("x * 2", "x + 2", "adds"), ("x * 2", "x", "keeps"))
"""

_PROGRAM = """\
import contextlib, io, json, statistics, sys, time
from pathlib import Path

import numpy as np
import torch  # what a page has loaded is what a check has to guard

from llm180 import day, lessons

folder, calls = Path(sys.argv[1]), int(sys.argv[2])
page = day.Page(lessons.load(folder / "day001_bench.md", folder))


def median(function):
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@page.exercise
def double(x):
    \"\"\"Twice x.\"\"\"
    return x + x


def doubles(double):
    \"\"\"An array comes back doubled.\"\"\"
    x = np.arange(1000.0)
    assert (double(x) == 2 * x).all()


page.check(doubles)
assert page.progress.verdicts("day001"), "the result is kept"
print("\\n" + json.dumps({
    "bare": median(lambda: doubles(double)),
    "guarded": median(lambda: page.verdict(page.checks["doubles"])),
    "whole": median(lambda: page.check(doubles)),
}))
"""


def checks(calls: int = 200) -> None:
    """What ``@day.check`` adds to a check that does next to nothing, per call."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "day001_bench.md").write_text(_PAGE, encoding="utf-8")
        (folder / "day001_bench.py").write_text(_SOLUTION, encoding="utf-8")
        program = folder / "bench_check.py"
        program.write_text(_PROGRAM, encoding="utf-8")
        environment = os.environ | {
            "LLM180_MODE": "learn",
            "LLM180_HOME": str(folder / "home"),
            "PYTHONPATH": str(paths.ROOT),
        }
        command = [sys.executable, str(program), str(folder), str(calls)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise BenchError("the check could not be timed:\n" + "\n".join(done.stderr.strip().splitlines()[-5:]))
        seconds = json.loads(done.stdout.strip().splitlines()[-1])

    def row(what: str, key: str) -> list[str]:
        return [what, f"{seconds[key] * 1e3:.2f}", f"{(seconds[key] - seconds['bare']) * 1e3:.2f}"]

    _table(
        "A check, per call",
        ["", "ms", "overhead ms"],
        [
            row("the function alone", "bare"),
            row("guarded (time limit, seeds, state restored)", "guarded"),
            row("as @day.check, result committed to disk", "whole"),
        ],
        f"Median of {calls} calls with numpy and torch loaded, learning mode.",
    )


# --- the book -----------------------------------------------------------------------


def copy_project(target: Path, *, outputs: bool = True) -> Path:
    """The project's sources in another folder, so that measuring touches nothing; with the outputs of tested runs."""
    shutil.copytree(paths.ROOT, target, ignore=_LEFT_OUT)
    for folder in (execution.CACHE, execution.EXECUTED) if outputs else ():
        if folder.is_dir():
            shutil.copytree(folder, target / folder.relative_to(paths.ROOT))
    return target


def build_book(root: Path) -> float:
    """Build the book in ``root``; the seconds it takes. Warnings do not matter here."""
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        *("build", ".", "-n"),
    ]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return _timed(command, root, environment)


def build(root: Path, edits: int = 3) -> None:
    """A cold build, one with nothing to do, and one after a sentence was added to a lesson."""
    pages = execution.pages()
    ready = sum(execution.current(page) for page in pages)
    rows = [["cold", f"{build_book(root):.1f}"], ["nothing changed", f"{build_book(root):.1f}"]]
    if pages:
        edited = root / pages[0].relative_to(paths.ROOT)
        times = []
        for i in range(edits):
            with edited.open("a", encoding="utf-8") as file:
                file.write(f"\nSentence {i}.\n")
            times.append(build_book(root))
        rows.append([f"one lesson edited (median of {edits})", f"{statistics.median(times):.1f}"])
    site = root / "_build" / "html"
    note = f"{ready} of {len(pages)} pages had their outputs ready; the cold build executed the rest. "
    note += f"The site is {_megabytes(site):.1f} MB."
    _table("Building the book", ["", "seconds"], rows, note)


# --- a browser ------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over HTTP on this machine; yields the address."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Chromium without a window: the system's where there is one, else Playwright's own."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise BenchError("Playwright is not installed: `pip install playwright`.") from None
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=flags)
        except Error as error:
            message = str(error).strip().splitlines()[0]
            raise BenchError(f"Chromium does not start ({message}); `playwright install chromium` gets one.") from None
        try:
            yield browser
        finally:
            browser.close()


_MOMENTS = """async () => {
  const math = window.MathJax && MathJax.startup ? await MathJax.startup.promise.then(() => performance.now()) : null;
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const load = performance.getEntriesByType("navigation")[0].loadEventEnd;
  return {paint: paint ? paint.startTime : null, load, math};
}"""


def visit(browser: Any, address: str) -> dict[str, float | None]:
    """Open a page with an empty cache: its weight in bytes, its requests, the moments in ms from the start."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        network = context.new_cdp_session(page)
        weights: list[float] = []
        network.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
        network.send("Network.enable")
        page.goto(address, wait_until="networkidle")
        moments = page.evaluate(_MOMENTS)
        return {"bytes": sum(weights), "requests": float(len(weights)), **moments}
    finally:
        context.close()


def pages(site: Path, visits: int = 3) -> None:
    """Weight and moments of the landing page and of each lesson and lab, served from this machine."""
    named = {"landing page": "book/intro.html"}
    for page in lessons.all_pages():
        named[page.key] = page.path.relative_to(paths.ROOT).with_suffix(".html").as_posix()
    rows = []
    with served(site) as address, chromium() as browser:
        visit(browser, address + "book/intro.html")  # the first start of a browser is not what is measured
        for name, path in named.items():
            if not (site / path).exists():
                rows.append([name, "", "", "", "", "not built"])
                continue
            seen = [visit(browser, address + path) for _ in range(visits)]

            def middle(key: str, seen: list[dict[str, float | None]] = seen) -> float | None:
                values = [value for one in seen if (value := one[key]) is not None]
                return statistics.median(values) if values else None

            def shown(key: str, scale: float, digits: int, middle: Callable[[str], float | None] = middle) -> str:
                value = middle(key)
                return "" if value is None else f"{value * scale:.{digits}f}"

            html = (site / path).stat().st_size / 1e6
            rows.append(
                [
                    name,
                    f"{html:.2f}",
                    shown("bytes", 1e-6, 2),
                    shown("requests", 1, 0),
                    shown("paint", 1, 0),
                    shown("load", 1, 0),
                    shown("math", 1, 0),
                ]
            )
    columns = ["page", "HTML MB", "weight MB", "requests", "first paint ms", "load ms", "math set ms"]
    note = f"Empty browser cache, local server without compression, 1280 x 900, median of {visits} visits."
    _table("Pages in Chromium", columns, rows, note)


# --- all of it --------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a part could not be measured."""
    parser = argparse.ArgumentParser(prog="llm180 bench", description="Measure what the project costs.")
    parser.add_argument("--setup", action="store_true", help="also set up a fresh environment (minutes, downloads)")
    parser.add_argument("--only", choices=[*PARTS, "setup"], action="append", help="this part alone; may repeat")
    options = parser.parse_args(arguments)
    return bench(setup_too=options.setup, only=options.only)


def bench(*, setup_too: bool = False, only: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    wanted = set(only or PARTS) | ({"setup"} if setup_too else set())
    failed = 0

    def part(name: str, measure: Callable[[], None]) -> None:
        nonlocal failed
        if name not in wanted:
            return
        try:
            with _console().status(f"Measuring: {name}"):
                measure()
        except BenchError as error:
            failed = 1
            print(f"{name}: {error}", file=sys.stderr)

    part("setup", setup)
    part("notebooks", notebooks)
    part("checks", checks)
    if wanted & {"build", "pages"}:
        with tempfile.TemporaryDirectory() as folder:
            built = paths.BUILD / "html"
            if "build" in wanted:
                root = copy_project(Path(folder) / "book")
                part("build", lambda: build(root))
                fresh = root / "_build" / "html"
                built = fresh if fresh.is_dir() else built
            if built.is_dir():
                part("pages", lambda: pages(built))
            elif "pages" in wanted:
                print("pages: the book is not built: run `llm180 build`.", file=sys.stderr)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
