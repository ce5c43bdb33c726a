"""``llm180 doctor``: what is wrong with an installation, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm180 import paths

if TYPE_CHECKING:
    from rich.console import Console

NEEDED_GB = 1.0
GROUPS = {"": "to do the lessons", "book": "to build the book", "test": "to run the tests"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``mend`` is a command, or a sentence where no command can do it."""

    name: str
    state: Literal["ok", "note", "wrong"]
    detail: str
    mend: str = ""


# --- commands that mend ------------------------------------------------------------------


def pip_install(*requirements: str) -> str:
    """The command that installs packages into the environment in which this runs."""
    words = [sys.executable, "-m", "pip", "install", *requirements]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _install(*requirements: str) -> str:
    """In the project's own environment its set-up; in the reader's own environment pip."""
    own = paths.IN_CLONE and Path(sys.prefix).resolve() == (paths.ROOT / ".venv").resolve()
    return f"cd {shlex.quote(str(paths.ROOT))} && python3 -m llm180 setup" if own else pip_install(*requirements)


def own_kernel() -> Any:
    """Kernels of this Python alone: one of the same name in the reader's folder may be another Python's."""
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager(kernel_dirs=[])


# --- what is looked at -------------------------------------------------------------------


def python() -> Iterator[Finding]:
    """The version, and that it is a 64-bit build with SQLite."""
    from llm180.bootstrap import supported, unsupported_message

    version = f"{platform.python_version()} ({sys.executable})"
    if not supported():
        yield Finding("Python", "wrong", version, unsupported_message(["setup"]))
    elif sys.maxsize < 2**32:
        yield Finding("Python", "wrong", f"{version} is a 32-bit build", "Install a 64-bit Python; torch has no other.")
    else:
        yield Finding("Python", "ok", version)


def wanted_packages() -> dict[str, list[str]]:
    """The requirements by group (``""``: always needed), from the clone, else from the installed package."""
    if paths.IN_CLONE:
        project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return {"": project["dependencies"], **project.get("optional-dependencies", {})}
    groups: dict[str, list[str]] = {"": []}
    for line in metadata.requires("llm180") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        groups.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return groups


def _unmet(requirement: str) -> str:
    """Why a requirement is not met; empty where it is."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    if wanted.marker and not wanted.marker.evaluate():
        return ""
    try:
        have = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is missing"
    if not wanted.specifier.contains(have, prereleases=True):
        return f"{wanted.name} is {have}, not {wanted.specifier}"
    return ""


def packages() -> Iterator[Finding]:
    """Versions against the ranges of pyproject.toml, and how many differ from the tested pins."""
    groups = wanted_packages()
    groups[""] = [*groups[""], *groups.pop("read", [])]  # JupyterLab is the reader's as well
    for group, requirements in groups.items():
        purpose = GROUPS.get(group, f"of the group {group}")
        unmet = {r: why for r in requirements if (why := _unmet(r))}
        missing_all = len(unmet) == len(requirements) and all("missing" in why for why in unmet.values())
        if not unmet:
            yield Finding("packages", "ok", f"{len(requirements)} {purpose}")
        elif group and missing_all:  # not wanted here: a reader's own environment
            yield Finding("packages", "note", f"those {purpose} are not installed", _install(*unmet))
        else:
            yield Finding("packages", "wrong", f"{purpose}: {'; '.join(unmet.values())}", _install(*unmet))
    pins = paths.ROOT / "requirements.txt"
    if paths.IN_CLONE and pins.exists():
        lines = [line.split("#")[0].strip() for line in pins.read_text(encoding="utf-8").splitlines()]
        differ = [why for line in lines if re.match(r"[A-Za-z0-9]", line) and (why := _unmet(line))]
        if differ:
            few = "; ".join(differ[:3]) + (" ..." if len(differ) > 3 else "")
            yield Finding("packages", "note", f"{len(differ)} differ from the tested versions: {few}", _install("-r", str(pins)))


def gpu() -> Iterator[Finding]:
    """That torch computes, and on what."""
    try:
        import torch

        assert float((torch.ones(2, 3) @ torch.ones(3, 1)).sum()) == 6.0
    except Exception as error:
        said = f"torch does not work ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        yield Finding("torch", "wrong", said, pip_install("--force-reinstall", "torch"))
        return
    yield Finding("torch", "ok", torch.__version__)
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        yield Finding("GPU", "ok", f"{device.name}, {device.total_memory / 2**30:.0f} GB")
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "Apple GPU (lessons use the CPU)")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            "note",
            "an NVIDIA driver is here, and this torch does not use it",
            "Install the CUDA build that pytorch.org/get-started names; lessons and tests run without.",
        )
    else:
        yield Finding("GPU", "ok", "none; no lesson needs one, and labs run smaller")


def disk() -> Iterator[Finding]:
    """Room where the book is built and where progress is kept."""
    for folder in dict.fromkeys([paths.ROOT if paths.IN_CLONE else Path.cwd(), paths.home()]):
        place = folder
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free / 1e9
        if free < NEEDED_GB:
            mend = f"rm -r {shlex.quote(str(paths.BUILD))}" if paths.BUILD.exists() else "Free some space on this disk."
            yield Finding("disk", "wrong", f"{free:.1f} GB free for {folder}, {NEEDED_GB:.0f} GB needed", mend)
        else:
            yield Finding("disk", "ok", f"{free:.0f} GB free for {folder}")


def data() -> Iterator[Finding]:
    """The data files against their hashes."""
    from llm180 import data as files

    problems = files.problems()
    mend = (
        f"git -C {shlex.quote(str(paths.ROOT))} checkout -- llm180/data"
        if paths.IN_CLONE
        else pip_install("--force-reinstall", "--no-deps", "llm180")
    )
    for problem in problems:
        yield Finding("data", "wrong", problem, mend)
    if not problems:
        yield Finding("data", "ok", f"{len(files.names())} data sets, hashes as recorded")


def progress() -> Iterator[Finding]:
    """That the reader's progress can be read and written."""
    from llm180.progress import Progress, ProgressError

    try:
        with Progress.open() as book:
            kept = len(book.attempts())
            with book._connection() as db:  # can a row be written? nothing is kept of it
                db.execute("BEGIN IMMEDIATE")
                db.execute("CREATE TABLE doctor (x)")
                db.execute("ROLLBACK")
    except ProgressError as error:
        yield Finding("progress", "wrong", str(error), "See the sentence above.")
        return
    if book.notice:
        yield Finding("progress", "note", book.notice)
    yield Finding("progress", "ok", f"{kept} attempt{'s' if kept != 1 else ''} in {book.path}")


def jupyterlab() -> Iterator[Finding]:
    """That JupyterLab starts."""
    if importlib.util.find_spec("jupyterlab") is None:
        yield Finding("JupyterLab", "wrong", "is not installed", _install("jupyterlab>=4.2"))
        return
    asked = subprocess.run(
        [sys.executable, "-m", "jupyterlab", "--version"], capture_output=True, text=True, errors="replace", timeout=120
    )
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("JupyterLab", "wrong", f"does not start: {last}", pip_install("--force-reinstall", "jupyterlab"))
    else:
        yield Finding("JupyterLab", "ok", asked.stdout.strip())


def kernel() -> Iterator[Finding]:
    """That a kernel of this Python starts and finds llm180."""
    mend = pip_install("--force-reinstall", "ipykernel", "pyzmq", "jupyter_client")
    try:
        from jupyter_client.manager import KernelManager

        manager = KernelManager(kernel_name="python3", kernel_spec_manager=own_kernel())
        with tempfile.TemporaryDirectory() as elsewhere:
            manager.start_kernel(cwd=elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            client = manager.client()
            try:
                client.start_channels()
                client.wait_for_ready(timeout=60)
                reply = client.execute_interactive("import llm180", timeout=60, output_hook=lambda _: None)
            finally:
                client.stop_channels()
                manager.shutdown_kernel(now=True)
    except Exception as error:
        yield Finding("kernel", "wrong", f"does not start ({' '.join(str(error).split())[:160]})", mend)
        return
    if reply["content"]["status"] != "ok":
        again = _install("--no-deps", "-e", str(paths.ROOT))
        yield Finding("kernel", "wrong", "starts, but does not find llm180", again)
    else:
        yield Finding("kernel", "ok", "starts and finds llm180")


def folder() -> Iterator[Finding]:
    """That working copies can be written."""
    try:
        paths.WORK.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=paths.WORK, prefix=".doctor-"):
            pass
    except OSError as error:
        own = f'sudo chown -R "$USER" {shlex.quote(str(paths.WORK))}'
        mend = own if isinstance(error, PermissionError) and os.name != "nt" else "Make room or change the rights there."
        yield Finding("notebooks", "wrong", f"{paths.WORK} cannot be written ({error.strerror})", mend)
        return
    yield Finding("notebooks", "ok", f"{paths.WORK} can be written")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    gpu,
    disk,
    data,
    progress,
    jupyterlab,
    kernel,
    folder,
)


# --- the command -------------------------------------------------------------------------


def examine(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What one check finds; a check that breaks has found something wrong."""
    found: list[Finding] = []
    try:
        found += check()
    except Exception as error:
        said = f"could not be looked at ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        found.append(Finding(check.__name__, "wrong", said, _install("llm180")))
    return found


def main(console: Console) -> int:
    """Print what each check finds; 1 where something is wrong."""
    from rich.markup import escape

    marks = {"ok": "[green]✓[/green]", "note": "[yellow]![/yellow]", "wrong": "[red]✗[/red]"}
    wrong = 0
    for check in CHECKS:
        for finding in examine(check):
            wrong += finding.state == "wrong"
            console.print(f"{marks[finding.state]} {finding.name:<11} {escape(finding.detail)}")
            if finding.mend:
                console.print(f"    mend: {escape(finding.mend)}" if finding.state == "wrong" else f"    {escape(finding.mend)}")
    console.print("Nothing is wrong." if not wrong else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong.")
    return 1 if wrong else 0
