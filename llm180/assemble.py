"""The reader's own library, put together from the answers that passed: ``llm180 assemble tinynn``.

A stage project names its library in the front matter, ``project: {package: tinynn, parity: tinynn_parity}``. Its
solution module imports the pieces of earlier days; those imports, followed from module to module, are the list of
parts. Each module is written again into ``work/tinynn/`` with the reader's answers in place of the book's, and the
parity suite, the same that holds the book's own library to PyTorch, is run on the result in a fresh process.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm180 import lessons, paths

if TYPE_CHECKING:
    from llm180.lessons import Lesson
    from llm180.progress import Progress

SECONDS = 300  # for the whole parity suite
MADE = "# Made by `llm180 assemble"  # the first line of every file of a library, and the license to overwrite it

_Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class AssemblyError(Exception):
    """A library cannot be put together; the message is one sentence, or a list, for the reader."""


@dataclass
class Part:
    """A solution module that goes into the library, with the exercises that the library needs from it."""

    lesson: Lesson
    source: str
    tree: ast.Module
    exercises: list[str]


@dataclass
class Library:
    """What was put together: where it lies, whose pieces are in it, what the parity suite said."""

    folder: Path
    own: list[tuple[Lesson, str]] = field(default_factory=list)
    given: list[tuple[Lesson, str]] = field(default_factory=list)
    parity: list[tuple[str, bool, str]] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return bool(self.parity) and all(good for _, good, _ in self.parity)


def projects() -> dict[str, Lesson]:
    """The stage projects whose library can be put together, by the name of the package."""
    return {page.facts["project"]["package"]: page for page in lessons.all_lessons() if page.facts.get("project")}


def parts(project: Lesson) -> list[Part]:
    """The modules of a project's library, those that others need first."""
    pages = {page.solution_module: page for page in lessons.all_lessons()}
    found: dict[str, Part] = {}
    wanted: dict[str, set[str]] = {}

    def visit(page: Lesson, names: set[str]) -> None:
        module = page.solution_module
        first = module not in wanted
        if not first and names <= wanted[module]:
            return
        wanted[module] = names | wanted.get(module, set())
        source = page.solution_path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        used = _reach(tree, wanted[module])
        for node in _imports(tree, "solutions"):
            if node.module in pages:
                visit(pages[node.module], {alias.name for alias in node.names if (alias.asname or alias.name) in used})
        found.pop(module, None)
        found[module] = Part(page, source, tree, [e.name for e in page.exercises if e.name in used])

    visit(project, _defined(ast.parse(project.solution_path.read_text(encoding="utf-8"))))  # also what it only passes on
    return list(found.values())


def _imports(tree: ast.Module, package: str) -> Iterator[ast.ImportFrom]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield node


def _reach(tree: ast.Module, names: set[str]) -> set[str]:
    """All names of a module that the given ones use, through any number of definitions."""
    uses: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, _Definition):
            uses[node.name] = _names(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                uses |= {t.id: _names(node) for t in ast.walk(target) if isinstance(t, ast.Name)}
    reached, open_ = set(), set(names)
    while open_:
        name = open_.pop()
        reached.add(name)
        open_ |= uses.get(name, set()) - reached
    return reached


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


# --- one module ------------------------------------------------------------------------------


def _module(part: Part, answers: dict[str, str], modules: set[str], package: str) -> str:
    """The text of a part's module, with the reader's answers in place of the book's."""
    lines = part.source.split("\n")
    cuts: list[tuple[int, int, str]] = []  # first line, line after the last, what stands there instead
    for node in part.tree.body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        if isinstance(node, _Definition) and node.name in answers:
            cuts.append((first, node.end_lineno or 0, _undecorated(answers[node.name])))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _names(node.value.func) == {"known_mistakes"}:
            cuts.append((first, node.end_lineno or 0, ""))
        elif isinstance(node, ast.ImportFrom) and node.module == "llm180":
            kept = [alias for alias in node.names if alias.name != "known_mistakes"]
            cuts.append((first, node.end_lineno or 0, ast.unparse(ast.ImportFrom("llm180", kept, 0)) if kept else ""))
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            cuts.append((first, node.end_lineno or 0, ast.unparse(ast.ImportFrom(node.module.split(".")[-1], node.names, 1))))
    for first, last, text in sorted(cuts, reverse=True):
        lines[first:last] = text.split("\n") if text else []
    text = "\n".join(lines)
    return f"{MADE} {package}`, from {part.lesson.label} and your answers to it; made anew each time.\n{_with_helpers(part, text, answers)}"


def _undecorated(answer: str) -> str:
    """An answer without the decorator that makes it one."""
    node = ast.parse(answer).body[-1]
    lines = answer.split("\n")
    for decorator in reversed(getattr(node, "decorator_list", [])):
        if ast.unparse(decorator).startswith("day.exercise"):
            del lines[decorator.lineno - 1 : decorator.end_lineno]
    return "\n".join(lines)


def _with_helpers(part: Part, text: str, answers: dict[str, str]) -> str:
    """The module's text, and before it what the answers take from other cells of the notebook: imports, helpers."""
    known = _defined(ast.parse(text)) | set(dir(builtins))
    cells = _notebook_definitions(part.lesson)
    missing, added, problems = set(), [], []
    for name, answer in answers.items():
        missing |= _free(ast.parse(_undecorated(answer))) - known
    while missing:
        name = missing.pop()
        if name not in cells:
            problems.append(name)
            continue
        if cells[name] not in added:
            added.insert(0, cells[name])
        known.add(name)
        missing |= _free(ast.parse(cells[name])) - known
    if problems:
        raise AssemblyError(
            f"{part.lesson.label}: your answer uses {', '.join(sorted(problems))}, which stands neither in it nor in your "
            "working copy: put it into the cell of the answer and check the day again."
        )
    if not added:
        return text
    body = ast.parse(text).body
    after = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom)) or (n is body[0] and isinstance(n, ast.Expr))]
    at = after[-1].end_lineno or 0 if after else 0
    lines = text.split("\n")
    return "\n".join([*lines[:at], "", *"\n\n".join(added).split("\n"), *lines[at:]])


def _defined(tree: ast.Module) -> set[str]:
    """What the statements of a module bind at its top level."""
    bound: set[str] = set()
    for node in tree.body:
        if isinstance(node, _Definition):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return bound


def _free(tree: ast.Module) -> set[str]:
    """The names that a piece of code reads and nothing in it binds."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, _Definition):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    annotations = {id(n) for a in ast.walk(tree) for n in _annotations(a)}
    read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in annotations}
    return read - bound - {"__class__"}


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """Type hints are not evaluated: every module begins with `from __future__ import annotations`."""
    for name in ("annotation", "returns"):
        if isinstance(hint := getattr(node, name, None), ast.AST):
            yield from ast.walk(hint)


def _notebook_definitions(lesson: Lesson) -> dict[str, str]:
    """Name -> the top-level statement that binds it, in the reader's working copy (the page, if there is none)."""
    from llm180 import cli

    path = cli.copy_path(lesson)
    cells = cli.read_code(path) if path.exists() else [cell.source for cell in lesson.code_cells]
    found: dict[str, str] = {}
    for cell in cells:
        tree = lessons.parse_code(cell)
        for node in tree.body if tree else []:
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            if isinstance(node, (*_Definition, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)) and not any(d.startswith("day.") for d in decorators):
                text = ast.get_source_segment(cell, node) or ast.unparse(node)
                found |= dict.fromkeys(_defined(ast.Module([node], [])), text)
    return found


# --- the library -----------------------------------------------------------------------------


def assemble(package: str, progress: Progress, *, fill: bool = False, to: Path | None = None) -> Library:
    """Write the reader's library into ``work/PACKAGE``; ``fill``: with the book's pieces where an answer is missing.

    Raises :class:`AssemblyError` for an unknown project, for answers that are missing (all are listed), or where the
    folder holds files that were not made here.
    """
    known = projects()
    if package not in known:
        raise AssemblyError(f"There is no library {package!r}; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none yet'}.")
    folder = to or paths.WORK / package
    library, texts = Library(folder), {}
    found = parts(known[package])
    modules = {part.lesson.solution_module for part in found}
    for part in found:
        answers, passed = {}, progress.passed_exercises(part.lesson)
        for name in part.exercises:
            source = progress.passed_source(part.lesson.key, name) if name in passed else None
            (library.own if source else library.given).append((part.lesson, name))
            if source:
                answers[name] = source
        texts[f"{part.lesson.stem}.py"] = (part, answers)
    if library.given and not fill:
        missing = "\n".join(f"  {page.label}: {name}" for page, name in library.given)
        raise AssemblyError(
            f"{len(library.given)} of the {len(library.own) + len(library.given)} answers that {package} is made of have not passed yet:\n{missing}\n"
            "Solve them and check them; `--fill` takes the book's pieces in their place."
        )
    main = known[package].stem
    files = {name: _module(part, answers, modules, package) for name, (part, answers) in texts.items()}
    files["__init__.py"] = f"{MADE} {package}`; made anew each time.\nfrom .{main} import *  # noqa: F403\nfrom .{main} import __all__, __doc__  # noqa: F401\n"
    _write(folder, files)
    return library


def _write(folder: Path, files: dict[str, str]) -> None:
    if folder.exists():
        foreign = [p.name for p in sorted(folder.iterdir()) if p.name != "__pycache__" and not _is_made(p)]
        if foreign:
            raise AssemblyError(f"{folder} holds {foreign[0]}, which was not made by this command: move it away first.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _is_made(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(MADE)


_RUNNER = """\
import importlib, json, sys
sys.path[:0] = [{parent!r}]
report, suite = open({report!r}, "a", encoding="utf-8"), importlib.import_module("solutions.{suite}")
def tell(name, good, message):
    report.write(json.dumps([name, good, message]) + "\\n"); report.flush()
try:
    library = importlib.import_module({package!r})
except BaseException as error:
    tell("import", False, f"{{type(error).__name__}}: {{error}}"); sys.exit()
for name, good, message in suite.run(library):
    tell(name, good, message)
tell("", True, "")
"""


def run_parity(package: str, folder: Path, tell: Callable[[str, bool, str], Any] = lambda *_: None) -> list[tuple[str, bool, str]]:
    """Run the project's parity suite on the library in ``folder``, in a process of its own; (name, passed, message) each."""
    suite = projects()[package].facts["project"]["parity"]
    with tempfile.TemporaryDirectory(prefix="llm180-") as temporary:
        report = Path(temporary) / "report.jsonl"
        report.touch()
        code = _RUNNER.format(parent=str(folder.parent), report=str(report), suite=suite, package=folder.name)
        path = os.pathsep.join([str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        ended = ""
        try:
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=SECONDS)
            ended = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        except subprocess.TimeoutExpired:
            ended = f"it was stopped after {SECONDS} s"
        rows = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    results = [(name, good, message) for name, good, message in rows if name]
    if not rows or (rows[-1][0] and rows[-1][0] != "import"):  # the suite did not come to its end
        results.append(("the rest", False, ended))
    return results
