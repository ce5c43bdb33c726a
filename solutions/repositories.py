"""Local Git repositories that a lesson makes, works on and throws away.

Days 159 to 165 share this module. A repository made here is the same one every
time: authors and dates are fixed, so that its hashes are equal on every machine.
Nothing is read from the reader's own Git configuration, nothing asks a question,
nothing goes to the network, and every command has a time limit.
"""

from __future__ import annotations

import ast
import base64
import functools
import html
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

OLDEST_GIT = (2, 25)
PYTHON = [sys.executable, "-E", "-S", "-X", "utf8"]  # starts fast, reads no settings
BEGIN = 1_735_689_600  # 2025-01-01 00:00 UTC: the date of a history's first commit
HOUR = 3600

# What git reads instead of the reader's own settings: one name for what it is asked.
_NAME, _MAIL = "Reader", "reader@example.org"
_CONFIG = f"""\
[user]
\tname = {_NAME}
\temail = {_MAIL}
[core]
\tautocrlf = false
\tquotepath = false
\tfsmonitor = false
[commit]
\tgpgsign = false
[tag]
\tgpgsign = false
[gc]
\tauto = 0
[advice]
\tdetachedHead = false
"""


class GitError(RuntimeError):
    """Git is missing, too old, or refused a command; the message says so in a line."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the message, and no traceback."""
        return [f"{type(self).__name__}: {self}"]


# --- running -----------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The environment of every command: without the reader's Git configuration."""
    hidden = ("GIT_", "PYTHON")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    nowhere = str(Path(tempfile.gettempdir()) / "llm180-no-such-home")
    return kept | {
        "HOME": nowhere,  # Git before 2.32 finds the configuration by it
        "XDG_CONFIG_HOME": nowhere,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true",
        "GIT_PAGER": "cat",
        "GIT_DEFAULT_HASH": "sha1",
        "GIT_AUTHOR_DATE": f"{BEGIN + 400 * 24 * HOUR} +0000",
        "GIT_COMMITTER_DATE": f"{BEGIN + 400 * 24 * HOUR} +0000",
        "LC_ALL": "C",
    }


def run(
    command: Sequence[str], cwd: Path, *, seconds: float = 8.0, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder ``cwd`` and wait for it, ``seconds`` at most.

    ``given`` is what it reads on standard input. Returns its exit code and both
    outputs, as text. Raises TimeoutError when the time is over; the command and
    whatever it started are ended then.
    """
    group = (
        {"start_new_session": True}
        if os.name == "posix"
        else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    )
    process = subprocess.Popen(
        list(command),
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **group,
    )
    try:
        out, err = process.communicate(given.encode(), timeout=seconds)
    except BaseException as error:
        for _ in range(20):  # a check whose time is up is interrupted more than once
            try:
                _end(process)
                break
            except BaseException:
                continue
        if isinstance(error, subprocess.TimeoutExpired):
            words = " ".join([Path(command[0]).name, *command[1:]])
            words = words if len(words) <= 80 else "..." + words[-77:]
            raise TimeoutError(f"stopped after {seconds:g} s: {words}") from None
        raise
    said = [part.decode("utf-8", "replace").replace("\r\n", "\n") for part in (out, err)]
    return subprocess.CompletedProcess(list(command), process.returncode, *said)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False)
    process.wait(5)


@functools.lru_cache(maxsize=1)
def git_version() -> tuple[int, ...]:
    """The version of Git, as ``(2, 39, 5)``. Raises GitError if it cannot be used."""
    oldest = ".".join(map(str, OLDEST_GIT))
    try:
        said = run(["git", "version"], Path(tempfile.gettempdir())).stdout
    except OSError:
        said = ""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    if not found:
        raise GitError(
            f"This lesson works on real repositories and needs Git {oldest} or "
            "later on the PATH: install it, then run this cell again."
        )
    version = tuple(int(part) for part in found.groups() if part)
    if version < OLDEST_GIT:
        raise GitError(
            f"This lesson needs Git {oldest} or later and found {found[0]}: "
            "upgrade it, then run this cell again."
        )
    return version


def git(repo: Path, *arguments: str, given: str = "", seconds: float = 8.0) -> str:
    """What ``git ARGUMENTS`` prints in ``repo``, without the last line break.

    Raises GitError with Git's own message when it exits with another code than 0.
    """
    git_version()
    done = run(["git", *arguments], repo, seconds=seconds, given=given)
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        words = " ".join(arguments)
        words = words if len(words) <= 80 else words[:77] + "..."
        raise GitError(f"git {words} exited with {done.returncode}: {said[:300]}")
    return done.stdout.rstrip("\n")


# --- making a repository -----------------------------------------------------------

Edit = str | tuple[str, str] | None


@dataclass(frozen=True)
class Commit:
    """One commit of a history that :func:`make_repository` writes.

    Attributes
    ----------
    message:
        Subject, and a body after an empty line if there is one.
    edits:
        By path: the file's whole new text; or ``(old, new)``, where ``old`` occurs
        once and ``new`` takes its place, an empty ``old`` meaning the file's end;
        or ``None``, which removes the file.
    on:
        The branch that it is made on. A new branch begins at the tip of ``main``.
    merges:
        A branch that this commit merges, the second parent.
    tag:
        A tag that points to it.
    author:
        ``Name <mail>``.
    """

    message: str
    edits: Mapping[str, Edit] = field(default_factory=dict)
    on: str = "main"
    merges: str = ""
    tag: str = ""
    author: str = "Mara Lind <mara@example.org>"


def make_repository(folder: Path, commits: Iterable[Commit]) -> Path:
    """Make a Git repository in ``folder`` with the history ``commits``, oldest first.

    ``folder`` is made; it must not hold a repository yet. Commits are dated five
    hours apart, and ``main`` is checked out at the end. One process of Git writes
    the whole history, so that hundreds of commits take a fraction of a second.

    Returns ``folder``. Raises ValueError where an edit does not fit the file, or a
    merge finds a file changed on both sides that ``edits`` does not settle.
    """
    if (folder / ".git").exists():
        raise ValueError(f"{folder} holds a repository already")
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--template=")
    with open(folder / ".git" / "config", "a", encoding="utf-8") as config:
        config.write(_CONFIG)
    git(folder, "symbolic-ref", "HEAD", "refs/heads/main")
    stream = _stream(list(commits))
    keep = ("-c", "fastimport.unpackLimit=1")
    git(folder, *keep, "fast-import", "--quiet", "--done", given=stream, seconds=30)
    git(folder, "reset", "--quiet", "--hard")
    return folder


def _stream(commits: list[Commit]) -> str:
    """A history as ``git fast-import`` reads it."""
    files: dict[str, dict[str, str]] = {"main": {}}
    base: dict[str, dict[str, str]] = {}  # of a branch: the files where it began
    tip: dict[str, int] = {}
    lines: list[str] = []
    for mark, commit in enumerate(commits, 1):
        branch = commit.on
        if branch not in files:
            files[branch], base[branch] = dict(files["main"]), dict(files["main"])
            tip[branch] = tip["main"]
        before = files[branch]
        after = dict(before)
        if commit.merges:
            theirs, root = files[commit.merges], base[commit.merges]
            for path in sorted(theirs.keys() | root.keys()):
                if theirs.get(path) == root.get(path):
                    continue
                if before.get(path) != root.get(path) and path not in commit.edits:
                    raise ValueError(f"{path} is changed on both sides of a merge")
                after[path] = theirs.get(path, "")
                if path not in theirs:
                    del after[path]
        for path, change in commit.edits.items():
            if change is None:
                del after[path]
            elif isinstance(change, str):
                after[path] = change
            else:
                after[path] = _replaced(after.get(path, ""), *change, path)
        date = f"{BEGIN + mark * 5 * HOUR} +0000"
        lines += [f"commit refs/heads/{branch}", f"mark :{mark}"]
        lines += [f"author {commit.author} {date}", f"committer {commit.author} {date}"]
        lines += _data(commit.message.rstrip("\n") + "\n")
        if branch in tip:
            lines.append(f"from :{tip[branch]}")
        if commit.merges:
            lines.append(f"merge :{tip[commit.merges]}")
        for path in sorted(before.keys() | after.keys()):
            if path not in after:
                lines.append(f"D {path}")
            elif after[path] != before.get(path):
                lines += [f"M 100644 inline {path}", *_data(after[path])]
        lines.append("")
        if commit.tag:
            lines += [f"reset refs/tags/{commit.tag}", f"from :{mark}", ""]
        files[branch], tip[branch] = after, mark
    return "\n".join([*lines, "done", ""])


def _data(text: str) -> list[str]:
    return [f"data {len(text.encode())}", text]


def _replaced(text: str, old: str, new: str, path: str) -> str:
    if not old:
        return text + new
    if text.count(old) != 1:
        raise ValueError(f"{path}: {old!r} occurs {text.count(old)} times, not once")
    return text.replace(old, new)


def edit(path: Path, old: str, new: str) -> None:
    """Put ``new`` in the place of ``old``, which must occur once in the file.

    An empty ``old`` adds ``new`` at the end. Line ends stay as they are. Raises
    ValueError where ``old`` occurs not at all or more than once.
    """
    text = path.read_bytes().decode("utf-8")
    path.write_bytes(_replaced(text, old, new, path.name).encode("utf-8"))


def export(repo: Path, commit: str, folder: Path) -> Path:
    """Write the files of a commit into the new folder ``folder``; returns it.

    The repository's own work tree is left as it is.
    """
    command = ["git", "archive", "--format=tar", commit]
    done = subprocess.run(command, cwd=repo, env=environment(), capture_output=True, timeout=8)
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise GitError(f"git archive {commit}: {said}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder


# --- scripts and tests ---------------------------------------------------------------


def as_script(function: Callable[[], int | None]) -> str:
    """A function as a program of its own, whose exit code is what it returns.

    The program holds the function's source and nothing else of the page, so the
    function imports all that it uses. The folder that the program is started in
    comes first on its ``sys.path``.
    """
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    node.decorator_list = []
    return (
        "from __future__ import annotations\n\nimport os\nimport sys\n\n"
        "sys.path.insert(0, os.getcwd())\n\n\n"
        f"{ast.unparse(node)}\n\n\nsys.exit({node.name}())\n"
    )


@dataclass(frozen=True)
class Tests:
    """What became of the tests of a tree: the names, as ``test_stream.test_flush``."""

    passed: frozenset[str]
    failed: frozenset[str]  # by an assertion
    errors: frozenset[str]  # by another exception; a module that does not import

    @property
    def all(self) -> frozenset[str]:
        return self.passed | self.failed | self.errors


_RUNNER = r"""
import os, sys
sys.dont_write_bytecode = True
home = list(sys.path)
out = sys.stdout
sys.stdout = sys.stderr
for tree in eval(sys.stdin.read()):
    os.chdir(tree)
    before = set(sys.modules)
    sys.path[:] = [tree, os.path.join(tree, "tests"), *home]
    passed, failed, errors = [], [], []
    names = [n[:-3] for n in sorted(os.listdir("tests")) if n.endswith(".py")]
    names = [n for n in names if n.startswith("test_")]
    for name in names:
        try:
            module = __import__(name)
        except BaseException as error:
            errors.append(name)
            continue
        for key, test in sorted(vars(module).items()):
            if key.startswith("test") and callable(test):
                try:
                    test()
                    passed.append(name + "." + key)
                except AssertionError:
                    failed.append(name + "." + key)
                except BaseException:
                    errors.append(name + "." + key)
    print(repr((passed, failed, errors)), file=out)
    for name in set(sys.modules) - before:
        del sys.modules[name]
"""


def run_tests(*trees: Path, seconds: float = 8.0) -> list[Tests]:
    """Run the test functions in ``tests/test_*.py`` of each tree, all in one process.

    A tree is a folder with a package and its tests: plain functions whose names
    begin with ``test`` and which take nothing. Raises GitError if the process dies.
    """
    folders = repr([str(tree) for tree in trees])
    done = run([*PYTHON, "-c", _RUNNER], trees[0], given=folders, seconds=seconds)
    lines = done.stdout.splitlines()
    if len(lines) != len(trees):
        raise GitError(f"the tests ended their process: {done.stderr.strip()[-200:]}")
    reports = map(ast.literal_eval, lines)
    return [Tests(*(frozenset(names) for names in report)) for report in reports]


# --- drawing -------------------------------------------------------------------------

_SHAPES = {
    "good": '<circle cx="{0}" cy="{1}" r="6.5" fill="#009E73"/>',
    "bad": '<path d="M{0} {1}m-6.5 -6.5h13v13h-13z" fill="#D55E00"/>',
    "skip": '<path d="M{0} {1}m0 -8l8 8l-8 8l-8 -8z" fill="#E69F00"/>',
    "candidate": '<circle cx="{0}" cy="{1}" r="4.5" fill="#0072B2"/>',
    "": '<circle cx="{0}" cy="{1}" r="4" fill="#fff" stroke="#888"/>',
}


def commit_graph(
    parents: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str],
    *,
    ring: str = "",
    lines: Sequence[str] = (),
    width: int = 700,
) -> str:
    """A picture of a history as HTML: an image with ``lines`` of text under it.

    Parameters
    ----------
    parents:
        Of each commit its parents, oldest commit first; parents that are no key are
        outside the picture. The last commit's first parents lie on the upper row.
    kinds:
        ``good`` (green circle), ``bad`` (orange square), ``skip`` (amber diamond) or
        ``candidate`` (blue dot) by commit; the others are hollow.
    ring:
        A commit with a ring around it.
    """
    upper, commit = set(), next(reversed(list(parents)), "")
    while commit in parents:
        upper.add(commit)
        commit = next(iter(parents[commit]), "")
    step = (width - 32) / max(len(parents) - 1, 1)
    spot = {
        c: (f"{16 + step * i:.0f}", 18 if c in upper else 46) for i, c in enumerate(parents)
    }
    drawn = [
        '<path d="M{} {}L{} {}" stroke="#888"/>'.format(*spot[c], *spot[p])
        for c, above in parents.items()
        for p in above
        if p in spot
    ]
    drawn += [_SHAPES[kinds.get(c, "")].format(*spot[c]) for c in parents]
    if ring:
        x, y = spot[ring]
        drawn.append(f'<circle cx="{x}" cy="{y}" r="11" fill="none" stroke="#000"/>')
    for i, text in enumerate(lines):
        style = 'font-family="sans-serif" font-size="15" fill="#222"'
        drawn.append(f'<text x="10" y="{82 + 21 * i}" {style}>{html.escape(text)}</text>')
    height = 68 + 21 * len(lines)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    svg = f"{head}{ground}{''.join(drawn)}</svg>"
    data = base64.b64encode(svg.encode("utf-8")).decode("ascii")
    alt = html.escape(". ".join(lines) or "A history of commits", quote=True)
    return (
        f'<img class="llm180-figure" alt="{alt}" style="width:100%;max-width:{width}px" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
