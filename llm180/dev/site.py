"""The book as a site: execute what changed, build it, and show it on this machine.

Nothing here is needed to publish the book; it is what ``llm180 build`` and ``llm180 serve`` run.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from typing import Any

from llm180 import paths

HTML = paths.BUILD / "html"
LOG = paths.BUILD / "build.log"
PORT = 8180

_STEP = re.compile(r"(reading sources|writing output|copying images)\.\.\. \[ *(\d+)%\] *(\S*)")
_TROUBLE = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Extension error|Traceback|Error:")


class SiteError(Exception):
    """The book cannot be built or shown; the message is for the reader."""


# --- building ----------------------------------------------------------------------------


def build() -> None:
    """Execute the pages that changed, then build what changed into ``_build/html``. Raises :class:`SiteError`."""
    started = time.monotonic()
    execute()
    render()
    print(f"The book is built in {time.monotonic() - started:.0f} s: {HTML / 'index.html'}", flush=True)


def execute() -> None:
    """Run the pages of which something changed since they last passed; their outputs go into the book's cache."""
    from llm180.dev import execution

    if idle := [path for path in execution.pages() if execution.lacking(path)]:
        what = "1 page is" if len(idle) == 1 else f"{len(idle)} pages are"
        print(f"{what} shown without outputs: what they need is not installed; `llm180 setup lessons` installs it.", flush=True)
    stale = execution.stale_pages()
    if not stale:
        print("Every page is as it was when it last passed; none is executed.", flush=True)
        return
    print(f"Executing {len(stale)} page{'s' if len(stale) != 1 else ''} that changed:", flush=True)
    folders = [name for name in ("book", "labs") if (paths.ROOT / name).is_dir()]
    command = [sys.executable, "-m", "pytest", "--changed", *folders, "-q"]
    status = subprocess.run(command, cwd=paths.ROOT).returncode
    if status == 2:
        raise KeyboardInterrupt
    if status not in (0, 5):  # 5: nothing to run
        raise SiteError("A page did not pass, so the book was not built; the report above says which and why.")


def render() -> None:
    """Run Jupyter Book, incremental, warnings as errors, with progress on stderr and all it says in a log."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    program = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "build", str(paths.ROOT), "-W", "--keep-going", "-n"]
    environment = os.environ | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    trouble: list[str] = []
    last: list[str] = []
    with open(LOG, "w", encoding="utf-8") as log, _bar() as show:
        process = subprocess.Popen(
            command,
            cwd=paths.ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert process.stdout
        try:
            for raw in process.stdout:
                line = re.sub(r"\x1b\[[0-9;]*m", "", raw).rstrip()
                log.write(line + "\n")
                if step := _STEP.search(line):
                    show(step[1], int(step[2]), step[3])
                elif line.strip():
                    last = [*last[-7:], line]
                    if _TROUBLE.search(line) and line not in trouble:
                        trouble.append(line)
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        told = trouble[:12] or last
        more = f"\n  ... and {len(trouble) - 12} more" if len(trouble) > 12 else ""
        lines = "\n".join(f"  {line[:400]}" for line in told)
        raise SiteError(f"The book was not built:\n{lines}{more}\nAll that Sphinx said: {LOG}")


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    """Sphinx's own percentages as a bar on a terminal; one line per phase elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    names = {"reading sources": "Reading", "writing output": "Writing", "copying images": "Copying images"}
    said: set[str] = set()
    print("Building the book ...", flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[page]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Starting", total=100, page="")

        def show(phase: str, percent: int, page: str) -> None:
            if not console.is_terminal and phase not in said:
                said.add(phase)
                print(f"  {phase} ...", flush=True)
            progress.update(task, description=names[phase], completed=percent, page=page[-40:])

        yield show


# --- showing -----------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of the built book: fresh after every build, with the types that browsers insist on."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",  # some systems' registries say otherwise
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        ".woff2": "font/woff2",
        ".json": "application/json",
    }

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Bound to this machine alone; two servers never share a port."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows it would let a second server take the same port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of a page is no event."""


def server(port: int = PORT) -> Server:
    """A server of the built book on the first free port from ``port`` on. Raises :class:`SiteError`."""
    if not (HTML / "index.html").is_file():
        raise SiteError("The book is not built yet; run `llm180 serve` without --no-build.")
    handler = functools.partial(Handler, directory=str(HTML))
    for candidate in range(port, min(port + 50, 65536)):
        with contextlib.suppress(OSError):
            return Server(("127.0.0.1", candidate), handler)
    raise SiteError(f"No port from {port} to {min(port + 49, 65535)} is free; name another with --port.")


def serve(*, port: int = PORT, browser: bool = True) -> None:
    """Show the built book until Ctrl-C."""
    with server(port) as running:
        address = f"http://127.0.0.1:{running.server_address[1]}/"
        print(f"The book is at {address} (Ctrl-C stops it)", flush=True)
        if browser and _has_browser():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            running.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("Stopped.", flush=True)
        finally:
            signal.signal(signal.SIGTERM, before)


def _has_browser() -> bool:
    """Whether opening a browser shows a window, and does not take this terminal."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    return True
