"""How strong a day's checks are: change its solution in one place at a time, and see what is refused.

``llm180 strength 31`` makes *mutants* of the day's solution module, each with one
changed operator, constant, comparison, axis, condition or deleted line (see
:mod:`llm180.dev.operators`), runs the day's checks on each, and shows every mutant
that passes them all as a diff. Results stand in ``tests/strength.json``; a test
fails when an entry is missing, stale or under 95%.

A survivor that behaves as the original does is marked where it stands, in the
solution, with the text that it has and the original has not, and a reason::

    while i <= n:  # equivalent `i < n`: the last pass swaps nothing
    # equivalent `block: int = 65` `block: int = 63`: any block gives the same product
    def matmul_blocked(a, b, block: int = 64):

A mark stands at the end of the changed line or in comments directly above it;
several on one line are separated by `` ;; ``. A mark that no mutant has, and one
whose mutant is refused after all, is an error.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import difflib
import dis
import functools
import hashlib
import importlib
import io
import json
import math
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.exceptions import CosmicRayTestingException
from cosmic_ray.operators.operator import Operator

from llm180 import lessons, mistakes, paths
from llm180.dev.operators import ARITHMETIC, CALLS, called, operators
from llm180.lessons import Lesson

LEDGER = paths.ROOT / "tests" / "strength.json"
REQUIRED = 0.95  # of the mutants that change behavior
ENGINE = "1"  # raised by hand when the set of operators, or what counts, changes: every entry is stale then
_TALK = {"print", "warn", "debug", "info", "warning", "error", "write"}  # calls that only say something
_NO_DECORATORS = {"override", "final", "abstractmethod", "wraps", "cache", "lru_cache", "overload", "no_type_check"}
_MEMORY = 3 << 30  # bytes of address space that a mutant may take beyond what the unchanged page has
_SLOWER = 5.0  # a mutant may take this many times as long as the unchanged solution,
_AT_LEAST = 2.0  # and at least this many seconds of processor time
_WALL = 4.0  # seconds of waiting allowed for each second of processor time: the machine may be busy


class StrengthError(Exception):
    """The strength of a lesson's checks cannot be measured; the message says why in one sentence."""


# --- what of a solution is mutated -----------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change: ``source[start:end]`` of the plain source becomes ``text``."""

    operator: str
    owner: str  # the top-level definition that it stands in
    exercises: tuple[str, ...]  # whose behavior it may change, its own first
    line: int  # 1-based, in the solution file
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


@dataclass(frozen=True)
class Mark:
    """A survivor that the solution's author marks as equivalent."""

    line: int  # of the code that it stands beside
    fragment: str
    reason: str


@dataclass
class Solution:
    """A solution module as it is mutated: no marks, no lists of known mistakes, lines kept."""

    path: Path
    source: str
    marks: list[Mark]
    owners: dict[str, tuple[int, int]]  # top-level name -> first and last line
    users: dict[str, tuple[str, ...]]  # top-level name -> the exercises that reach it
    key: str = field(default="", repr=False)


_PART = re.compile(r"\s*((?:`[^`]+`[\s,]*)+):\s*(\S.*)", re.S)


def _read_marks(text: str, name: str) -> tuple[str, list[Mark]]:
    """The text without the marks, and the marks."""
    lines = text.split("\n")
    comments: dict[int, tuple[int, str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.start[1], token.string[1:].strip()

    marks: list[Mark] = []
    row = 1
    while row <= len(lines):
        if row not in comments or not comments[row][1].startswith("equivalent `"):
            row += 1
            continue
        column, said = comments[row]
        alone = not lines[row - 1][:column].strip()
        first, parts = row, [said]
        lines[row - 1] = lines[row - 1][:column].rstrip()
        row += 1
        target = first
        if alone:  # further lines of the comment, then the code that it is about
            while row in comments and not lines[row - 1][: comments[row][0]].strip():
                following = comments[row][1]
                if following.startswith("equivalent `"):
                    parts.append(following)
                else:
                    parts[-1] += " " + following
                lines[row - 1] = ""
                row += 1
            target = row
        for part in (p for said in parts for p in said.removeprefix("equivalent").split(" ;; ")):
            match = _PART.match(part.removeprefix("equivalent"))
            if not match:
                raise StrengthError(
                    f"{name}:{first}: a mark reads `# equivalent`, the changed text in backticks, "
                    f"a colon and the reason; this one is {said!r}."
                )
            for fragment in re.findall(r"`([^`]+)`", match[1]):
                marks.append(Mark(target, fragment, " ".join(match[2].split())))
    return "\n".join(lines), marks


def _bound(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and n.id != "__all__"]


def read_solution(lesson: Lesson) -> Solution:
    """The solution module of a lesson, and which of its definitions its exercises use."""
    path = lesson.solution_path
    if not path.is_file():
        raise StrengthError(f"{lesson.label} has no solution module {path.name} yet.")
    try:
        source, marks = _read_marks(path.read_text(encoding="utf-8"), path.name)
        tree = ast.parse(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise StrengthError(f"{path.name} is not valid Python: {error}.") from None
    lines = source.split("\n")
    for node in tree.body:
        if mistakes.is_listing(node):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or 0) - node.lineno + 1)
    owners: dict[str, tuple[int, int]] = {}
    uses: dict[str, set[str]] = {}
    for node in tree.body:
        for name in _bound(node):
            decorators = getattr(node, "decorator_list", [])
            owners[name] = min([node.lineno, *(d.lineno for d in decorators)]), node.end_lineno or node.lineno
            uses.setdefault(name, set()).update(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
    reaches: dict[str, set[str]] = {}
    for exercise in (e.name for e in lesson.exercises):
        if exercise not in owners:
            raise StrengthError(f"{path.name} does not define the exercise {exercise} of {lesson.label}.")
        seen, todo = {exercise}, [exercise]
        while todo:
            for used in uses[todo.pop()] & owners.keys() - seen:
                seen.add(used)
                todo.append(used)
        reaches[exercise] = seen
    users = {}
    for name in owners:
        using = [e for e, seen in reaches.items() if name in seen]
        if using:
            users[name] = tuple(sorted(using, key=lambda e: e != name))
    text = "\n".join(lines)
    digest = hashlib.sha256()
    digest.update(_dump(ast.parse(text)).encode())
    digest.update(repr(sorted((m.fragment, m.reason) for m in marks)).encode())
    return Solution(path, text, marks, owners, users, digest.hexdigest())


def _dump(node: Any) -> str:
    """A syntax tree as text that is equal on every Python version; docstrings are left out."""
    if isinstance(node, list):
        return "[" + ",".join(_dump(n) for n in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
            continue
        if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                value = value[1:]
        parts.append(f"{name}={_dump(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


# --- making mutants ----------------------------------------------------------------------


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _in_types(node: Any) -> bool:
    """True inside a type annotation."""
    while node.parent is not None:
        parent = node.parent
        if parent.type in ("annassign", "tfpdef") and len(parent.children) > 1 and parent.children[-1] is not node:
            if parent.children[1] is node:
                return True
        if parent.type == "tfpdef" and node is parent.children[-1] and len(parent.children) == 3:
            return True
        if parent.type == "annassign" and parent.children[1] is node:
            return True
        if parent.type == "funcdef" and parent.annotation is node:
            return True
        node = parent
    return False


def _in_talk(node: Any) -> bool:
    """True inside a message: what is raised says, an assertion says, or what is printed."""
    child = node
    while (parent := child.parent) is not None:
        if parent.type == "raise_stmt":
            return True
        if parent.type == "assert_stmt" and len(parent.children) > 3 and child is parent.children[3]:
            return True
        if parent.type in ("import_from", "import_name"):
            return True
        if parent.type in CALLS and child.type == "trailer" and child.children[0].value == "(":
            if called(child) in _TALK:
                return True
        child = parent
    return False


def _says(node: Any) -> bool:
    """True for a statement that is only a call which prints, warns or logs."""
    call = node.children[0] if node.type == "simple_stmt" else None
    return call is not None and call.type in CALLS and call.children[-1].type == "trailer" and (
        call.children[-1].children[0].value == "(" and called(call.children[-1]) in _TALK
    )


def _skipped(name: str, node: Any) -> bool:
    """True where a mutant of this operator would change no behavior, or nonsense."""
    if _in_types(node) or _in_talk(node) or _says(node):
        return True
    if name.startswith("ReplaceBinaryOperator"):
        return node.parent.type not in ARITHMETIC
    if name == "RemoveDecorator":
        return bool(_NO_DECORATORS & {n.value for n in _nodes(node) if n.type == "name"})
    return False


def _mutated(operator: Operator, node: Any, index: int) -> str | None:
    """The text that takes the place of ``node``; ``None`` where it is removed. The tree is left as it was."""
    kept = [(n, getattr(n, "value", None), list(getattr(n, "children", ()))) for n in _nodes(node)]
    prefix = node.get_first_leaf().prefix
    try:
        result = operator.mutate(node, index)
        if result is None:
            return None
        code = result.get_code()
    finally:
        for n, value, children in kept:
            if children:
                n.children = children
            else:
                n.value = value
    return code.removeprefix(prefix).lstrip(" \t")


def _fingerprint(code: types.CodeType) -> Any:
    """What a compiled text does, without where it stands: equal for texts that cannot behave differently."""
    constants = tuple(_fingerprint(c) if isinstance(c, types.CodeType) else (type(c), repr(c)) for c in code.co_consts)
    return (code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
            code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags,
            getattr(code, "co_exceptiontable", b""))  # fmt: skip


def make_mutants(solution: Solution) -> list[Mutant]:
    """Every mutant of the exercises and of what they use in the module, in the order of the file.

    Changes that do not compile, and such as compile to what the original or an
    earlier mutant compiles to, are left out.
    """
    import __future__

    source = solution.source
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)

    def offset(position: tuple[int, int]) -> int:
        return starts[position[0] - 1] + position[1]

    annotations = __future__.annotations.compiler_flag if "from __future__ import annotations" in source else 0
    compiled = functools.partial(compile, filename="mutant", mode="exec", flags=annotations, dont_inherit=True)
    mutants: list[Mutant] = []
    for top in parso.parse(source).children:
        line = top.start_pos[0]
        owner = next((n for n, (a, b) in solution.owners.items() if a <= line <= b and n in solution.users), None)
        if owner is None:
            continue
        begin, finish = offset(top.start_pos), min(offset(top.end_pos), len(source))
        seen = {_fingerprint(compiled(source[begin:finish]))}
        for node in list(_nodes(top)):
            for name, operator in operators().items():
                positions = list(operator.mutation_positions(node))
                if not positions or _skipped(name, node) or (name == "DeleteStatement" and node is top):
                    continue
                for index in range(len(positions)):
                    text = _mutated(operator, node, index)
                    start, end = offset(node.start_pos), offset(node.end_pos)
                    if text is None:
                        start, text = offset(node.get_first_leaf().get_start_pos_of_prefix()), ""
                    try:
                        print_ = _fingerprint(compiled(source[begin:start] + text + source[end:finish]))
                    except (SyntaxError, ValueError):
                        continue
                    if print_ not in seen:
                        seen.add(print_)
                        where = positions[index][0][0]
                        mutants.append(Mutant(name, owner, solution.users[owner], where, start, end, text))
    return sorted(mutants, key=lambda m: (m.line, m.start, m.operator, m.text))


def _change(source: str, mutant: Mutant) -> tuple[int, int, str, str]:
    """First and last changed line (1-based) of the original, and both texts without white space."""
    first = source.count("\n", 0, mutant.start) + 1
    last = source.count("\n", 0, max(mutant.start, mutant.end - 1)) + 1
    changed = mutant.apply(source)
    more = changed.count("\n") - source.count("\n")
    old = source.split("\n")[first - 1 : last]
    new = changed.split("\n")[first - 1 : last + more]
    while len(old) > 1 and new and old[0] == new[0]:
        old, new, first = old[1:], new[1:], first + 1
    while len(old) > 1 and new and old[-1] == new[-1]:
        old, new, last = old[:-1], new[:-1], last - 1
    return first, last, "".join("".join(old).split()), "".join("".join(new).split())


def marked(solution: Solution, mutants: list[Mutant]) -> tuple[dict[int, Mark], list[str]]:
    """Which mutants are marked as equivalent, by index, and which marks are stale."""
    found: dict[int, Mark] = {}
    used: set[int] = set()
    changes = [_change(solution.source, m) for m in mutants]
    for number, mark in enumerate(solution.marks):
        fragment = "".join(mark.fragment.split())
        for i, (first, last, old, new) in enumerate(changes):
            if first <= mark.line <= last and fragment in new and fragment not in old:
                found.setdefault(i, mark)
                used.add(number)
    stale = [
        f"{solution.path.name}:{mark.line}: no mutant of this line has the text `{mark.fragment}`; "
        "take the mark away or mend it."
        for number, mark in enumerate(solution.marks)
        if number not in used
    ]
    return found, stale


# --- the cells that the checks need ----------------------------------------------------


def needed_cells(lesson: Lesson) -> list[int]:
    """Indices, among the code cells, of the exercises, the checks, and what defines names that they use."""
    cells = lesson.code_cells
    used: list[set[str]] = []
    bound: list[set[str]] = []
    for cell in cells:
        tree = lessons.parse_code(cell.source)
        names = _names(compile(tree, "cell", "exec", dont_inherit=True)) if tree else (set(), set())
        used.append(names[0])
        bound.append(names[1])
    todo = [
        i
        for i, cell in enumerate(cells)
        if lessons.decorated(cell.source, "check") or lessons.decorated(cell.source, "exercise")
    ]
    needed = set(todo)
    while todo:
        i = todo.pop()
        for name in used[i] - bound[i] - set(dir(builtins)):
            before = next((j for j in range(i - 1, -1, -1) if name in bound[j]), None)
            if before is not None and before not in needed:
                needed.add(before)
                todo.append(before)
    return sorted(needed)


def _names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The global names that a cell reads, in its functions too, and those that it binds."""
    used, bound = set(), set()
    for step in dis.get_instructions(code):
        if step.opname.startswith("LOAD_") and ("NAME" in step.opname or "GLOBAL" in step.opname):
            used.add(step.argval)
        elif step.opname in ("STORE_GLOBAL", "STORE_NAME"):
            bound.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner_used, inner_bound = _names(constant)
            used |= inner_used - (inner_bound if constant.co_name.startswith("<") else set())
            if "STORE_GLOBAL" in {s.opname for s in dis.get_instructions(constant)}:
                bound |= {s.argval for s in dis.get_instructions(constant) if s.opname == "STORE_GLOBAL"}
    return used, bound


def key(lesson: Lesson) -> str:
    """What an entry of the ledger depends on: the solution, its marks, and the cells that the checks need.

    Comments, docstrings and the lists of known mistakes do not count.
    """
    digest = hashlib.sha256(read_solution(lesson).key.encode())
    cells = lesson.code_cells
    for i in needed_cells(lesson):
        tree = lessons.parse_code(cells[i].source)
        assert tree is not None
        digest.update(_dump(tree).encode())
    return digest.hexdigest()[:16]


# --- running: the process in which the page is set up once -------------------------------
# `run` starts one process for the lesson. It executes the needed cells, then forks a child for each mutant:
# a mutant may hang, take all memory or end its process, and what it leaves behind is gone with the child.


def _collect(lesson: Lesson) -> Any:
    """Execute the needed cells; the page, with its checks collected and not run."""
    from llm180 import day as day_module

    made: list[Any] = []

    class Collecting(day_module.Page):
        def __init__(self, *_: Any) -> None:
            super().__init__(lesson)
            made.append(self)

        def _prove(self, check: Any, costly: bool) -> None:
            """Only collected: the mutants come later."""

        def summary(self) -> None:
            """Nothing was run yet."""

        def explore(self, *_: Any, **__: Any) -> None:
            """Figures are not wanted."""

    day_module.Day = day_module.Lab = Collecting  # type: ignore[assignment, misc]
    page = types.ModuleType("__main__")
    sys.modules["__main__"] = page
    import linecache

    for i in needed_cells(lesson):
        cell = lesson.code_cells[i]
        source = "\n".join("" if re.match(r"\s*[%!]", line) else line for line in cell.source.split("\n"))
        filename = f"<{lesson.stem}, cell at line {cell.line}>"
        linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
        try:
            exec(compile(source, filename, "exec"), page.__dict__)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise StrengthError(
                f"{lesson.path.name}:{cell.line}: this cell, which the checks need, fails: {said}."
            ) from None
    if not made or not made[-1].checks:
        raise StrengthError(f"{lesson.path.name} has no check, so there is nothing to measure.")
    return made[-1]


def _judge(page: Any, source: str, names: Sequence[str], seconds: float, everything: bool = False) -> dict[str, Any]:
    """In a child: load the module and run the checks, in order, until one refuses it."""
    from llm180 import guard

    loaded: list[types.ModuleType] = []
    path = page.lesson.solution_path
    started = guard.run(lambda: loaded.append(mistakes.load_variant(source, path, "mutant")), seconds=seconds)
    if started.timed_out:
        return {"outcome": "timeout", "by": "import"}
    answers = {n: getattr(loaded[0], n, None) for n in page.answers} if loaded else {}
    if started.error is not None or any(a is None for a in answers.values()):
        return {"outcome": "incompetent", "by": "import", "said": repr(started.error)}
    times = {}
    for name in names:
        check = page.checks[name]
        check.seconds = seconds
        begin, wall = time.process_time(), time.perf_counter()
        verdict = page.verdict(check, **{n: answers[n] for n in check.takes})
        times[name] = time.process_time() - begin, time.perf_counter() - wall
        if verdict.word != "passed":
            outcome = "timeout" if verdict.word == "timeout" else "killed"
            return {"outcome": outcome, "by": name, "said": verdict.message}
    return {"outcome": "survived", "times": times, "modules": sorted(sys.modules) if everything else []}


def _limit_child(cpu: float, memory: bool) -> None:
    whole = max(1, math.ceil(cpu))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if memory and statm.exists():
        size = int(statm.read_text().split()[0]) * resource.getpagesize() + _MEMORY
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (size, size))


class _Child:
    """A forked process at work on one mutant. Its answer is one JSON text through a pipe."""

    def __init__(self, work: Callable[[], dict[str, Any]], cpu: float) -> None:
        self.read, write = os.pipe()
        self.began = time.perf_counter()
        self.deadline = self.began + cpu * _WALL + 5
        self.text = b""
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            leave = os._exit
            try:
                os.setsid()
                os.close(self.read)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                _limit_child(cpu, memory=True)
                answer = work()
                with os.fdopen(write, "w") as pipe:
                    json.dump(answer, pipe)
                code = 0
            finally:
                leave(code)
        os.close(write)
        os.set_blocking(self.read, False)

    def poll(self) -> dict[str, Any] | None:
        """The result once there is one. A child over its time is killed."""
        self._take()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if time.perf_counter() < self.deadline:
                return None
            self.kill()
            return {"outcome": "timeout", "by": "the clock"}
        self._take()
        self._sweep()
        os.close(self.read)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            return {"outcome": "timeout", "by": "the clock"}
        try:
            return json.loads(self.text)
        except ValueError:
            return {"outcome": "killed", "by": "the process ended", "said": f"wait status {status}"}

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.read, 1 << 16):
                self.text += part

    def _sweep(self) -> None:
        """End what the child started and left running: it is alone in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        self._sweep()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.read)


def _alone(work: Callable[[], dict[str, Any]], cpu: float) -> dict[str, Any]:
    child = _Child(work, cpu)
    while (answer := child.poll()) is None:
        select.select([child.read], [], [], 0.05)
    return answer


def _runner() -> None:
    """The lesson's process: reads its task from standard input, writes a line of JSON per result."""
    out = os.fdopen(os.dup(1), "w")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    task = json.load(sys.stdin)

    def tell(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    children: dict[int, _Child] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        lesson = lessons.load(Path(task["path"]), Path(task["solutions"]))
        builtins.CosmicRayTestingException = CosmicRayTestingException  # type: ignore[attr-defined]
        page = _collect(lesson)
        source = task["source"]
        names = list(page.checks)
        allowed = sum(c.seconds for c in page.checks.values()) + 60
        base: dict[str, Any] = {}
        for turn in range(2):
            # Once to see what the checks import, which is then shared by all children; once for the times.
            base = _alone(lambda: _judge(page, source, names, allowed, everything=True), allowed)
            if base["outcome"] != "survived":
                raise StrengthError(
                    f"{lesson.label}: {base['by']} refuses the unchanged solution: {base.get('said', 'it is too slow')}"
                )
            if turn == 0:
                for module in base["modules"]:
                    if module not in sys.modules and not module.startswith("llm180_variant_"):
                        with contextlib.suppress(Exception):
                            importlib.import_module(module)
        times = {name: cpu for name, (cpu, _) in base["times"].items()}
        tell(base=times)

        waiting = list(reversed(task["mutants"]))
        while waiting or children:
            while waiting and len(children) < task["jobs"]:
                number, start, end, text, exercises = waiting.pop()
                hit = set(exercises)
                chosen = [n for n in names if hit & set(page.checks[n].takes)]
                own = exercises[0]
                chosen.sort(key=lambda n: (own not in page.checks[n].takes, times[n]))
                limit = max(task["at_least"], _SLOWER * sum(times[n] for n in chosen))
                changed = source[:start] + text + source[end:]
                children[number] = _Child(functools.partial(_judge, page, changed, chosen, limit * _WALL), limit)
            select.select([c.read for c in children.values()], [], [], 0.02)
            for number, child in list(children.items()):
                if (answer := child.poll()) is not None:
                    del children[number]
                    answer.pop("modules", None)
                    answer.pop("times", None)
                    tell(number=number, seconds=round(time.perf_counter() - child.began, 3), **answer)
    except StrengthError as error:
        tell(error=str(error))
    finally:
        for child in children.values():
            child.kill()


# --- results -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What became of one mutant."""

    mutant: Mutant
    outcome: str  # killed | timeout | survived | incompetent (its module cannot be imported)
    by: str  # the check that refused it
    seconds: float
    mark: Mark | None = None

    @property
    def refused(self) -> bool:
        return self.outcome in ("killed", "timeout")


@dataclass
class Report:
    """What ``llm180 strength`` found out about a lesson."""

    lesson: Lesson
    solution: Solution
    results: list[Result]
    errors: list[str]  # wrong or stale marks
    seconds: float
    base: dict[str, float]  # processor seconds of each check on the unchanged solution
    key: str = ""  # of the solution and the checks when the run began

    def count(self, *outcomes: str) -> int:
        return sum(r.outcome in outcomes for r in self.results)

    @property
    def killed(self) -> int:
        return self.count("killed", "timeout")

    @property
    def equivalent(self) -> int:
        return sum(r.outcome == "survived" and r.mark is not None for r in self.results)

    @property
    def survivors(self) -> list[Result]:
        """Mutants that pass every check and are not marked."""
        return [r for r in self.results if r.outcome == "survived" and r.mark is None]

    @property
    def rate(self) -> float:
        """Refused, of the mutants that can be imported and are not marked; 0 if there is none."""
        counted = self.killed + len(self.survivors)
        return self.killed / counted if counted else 0.0

    def by_exercise(self) -> dict[str, list[Result]]:
        """Results by exercise; those in a helper of several stand under all their names."""
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            m = result.mutant
            name = m.exercises[0] if m.owner == m.exercises[0] or len(m.exercises) == 1 else f"{m.owner} (shared)"
            groups.setdefault(name, []).append(result)
        return groups

    def diff(self, result: Result) -> str:
        """The mutant as a unified diff, with the line numbers of the solution file."""
        path = f"solutions/{self.solution.path.name}"
        old = self.solution.source.split("\n")
        new = result.mutant.apply(self.solution.source).split("\n")
        return "\n".join(difflib.unified_diff(old, new, path, path, lineterm="", n=2))

    def entry(self) -> dict[str, Any]:
        """The lesson's entry in the ledger."""
        return {
            "engine": ENGINE,
            "equivalent": self.equivalent,
            "incompetent": self.count("incompetent"),
            "key": self.key,
            "killed": self.killed,
            "mutants": len(self.results),
            "rate": math.floor(self.rate * 1000) / 1000,
            "seconds": round(self.seconds),
            "survived": len(self.survivors),
            "timeouts": self.count("timeout"),
        }


def run(
    lesson: Lesson,
    jobs: int = 2,
    *,
    only: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Mutate the lesson's solution and run its checks on every mutant.

    Parameters
    ----------
    jobs:
        Mutants at work at the same time.
    only:
        The name of one exercise: only mutants that may change it.
    sample, seed:
        Only so many mutants, drawn by a generator with this seed.
    progress:
        Called with the number of mutants done and of all.

    Raises :class:`StrengthError` where nothing can be measured.
    """
    if not hasattr(os, "fork"):
        raise StrengthError("llm180 strength needs os.fork, which this system lacks; run it on Linux, macOS or WSL.")
    began = time.perf_counter()
    solution, state = read_solution(lesson), key(lesson)
    mutants = make_mutants(solution)
    marks, errors = marked(solution, mutants)
    chosen = list(range(len(mutants)))
    if only is not None:
        if only not in {e.name for e in lesson.exercises}:
            known = ", ".join(e.name for e in lesson.exercises)
            raise StrengthError(f"{lesson.label} has no exercise {only}; its exercises are: {known}.")
        chosen = [i for i in chosen if only in mutants[i].exercises]
    if sample is not None and sample < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, sample))
    task = {
        "path": str(lesson.path.resolve()),
        "solutions": str(lesson.solutions.resolve()),
        "source": solution.source,
        "jobs": jobs,
        "at_least": _AT_LEAST,
        "mutants": [(i, mutants[i].start, mutants[i].end, mutants[i].text, mutants[i].exercises) for i in chosen],
    }
    base: dict[str, float] = {}
    results: dict[int, Result] = {}
    if progress:
        progress(0, len(chosen))
    with _started(task) as lines:
        for message in lines:
            if "error" in message:
                raise StrengthError(message["error"])
            if "base" in message:
                base = message["base"]
                continue
            i = message["number"]
            results[i] = Result(mutants[i], message["outcome"], message["by"] if "by" in message else "",
                                message["seconds"], marks.get(i))  # fmt: skip
            if progress:
                progress(len(results), len(chosen))
    if len(results) < len(chosen):
        raise StrengthError(f"{lesson.label}: the process that runs the mutants ended early, after {len(results)}.")
    ordered = [results[i] for i in chosen]
    for result in ordered:
        if result.mark is not None and result.outcome != "survived":
            errors.append(
                f"{solution.path.name}:{result.mark.line}: `{result.mark.fragment}` is marked as equivalent, "
                f"but {result.by} refuses it; take the mark away."
            )
    return Report(lesson, solution, ordered, errors, time.perf_counter() - began, base, state)


@contextlib.contextmanager
def _started(task: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of the lesson's process."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LLM180_REPORT", "LLM180_TRACE")}
    search = os.pathsep.join(filter(None, [str(paths.ROOT), environment.get("PYTHONPATH", "")]))
    environment["CUDA_VISIBLE_DEVICES"] = ""  # the path that is tested everywhere
    environment |= {"LLM180_MODE": "solved", "MPLBACKEND": "Agg", "PYTHONPATH": search, "PYTHONHASHSEED": "0"}
    # One thread: a child forked beside a pool of threads would wait for them for ever.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "ignore", "-c", "from llm180.dev import strength; strength._runner()"]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
        )
        assert process.stdin and process.stdout

        def messages() -> Iterator[dict[str, Any]]:
            assert process.stdout
            yield from map(json.loads, process.stdout)
            if process.wait():
                complaints.seek(0)
                said = complaints.read().strip().splitlines()
                why = said[-1] if said else f"exit code {process.returncode}"
                raise StrengthError(f"The process that runs the mutants failed: {why}")

        try:
            with contextlib.suppress(BrokenPipeError):
                json.dump(task, process.stdin)
                process.stdin.close()
            yield messages()
        finally:
            if process.poll() is None:
                process.terminate()  # it ends its children first
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


# --- the ledger ----------------------------------------------------------------------------


def ledger(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The committed results by lesson key."""
    path = path or LEDGER
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_ledger(entries: dict[str, dict[str, Any]], path: Path | None = None) -> None:
    """One line per lesson, sorted, so that a changed lesson is a changed line."""
    path = path or LEDGER
    rows = [f"{json.dumps(k)}: {json.dumps(entries[k], sort_keys=True)}" for k in sorted(entries)]
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def command_for(lesson: Lesson) -> str:
    """The command that measures a lesson."""
    return f"llm180 strength {lesson.section if lesson.is_lab else lesson.number}"


def problem(lesson: Lesson, entries: dict[str, dict[str, Any]] | None = None) -> str:
    """What is wrong with a lesson's entry, in one sentence with the command to run; empty if nothing is."""
    entry = (ledger() if entries is None else entries).get(lesson.key)
    command = command_for(lesson)
    if entry is None:
        return f"The strength of {lesson.label}'s checks is not measured yet: run `{command}`."
    if entry["engine"] != ENGINE or entry["key"] != key(lesson):
        return f"{lesson.label}'s solution or checks changed since their strength was measured: run `{command}`."
    counted = entry["killed"] + entry["survived"]
    if not counted or entry["killed"] / counted < REQUIRED:
        return (
            f"{lesson.label}'s checks refuse {entry['killed']} of {counted} mutants, {REQUIRED:.0%} are required: "
            f"run `{command}`, which shows those that pass."
        )
    return ""


# --- the command -----------------------------------------------------------------------------


def find(name: str) -> Lesson:
    """A lesson by ``31``, ``day031``, ``1.1`` (a lab) or ``lab_1_1``. Raises LessonNotFound."""
    if name.isdigit():
        return lessons.find(int(name))
    if re.fullmatch(r"\d\.\d+", name):
        return lessons.find_lab(name)
    return lessons.find_key(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """``llm180 strength``: measure lessons, print what survives, keep the results.

    Returns the exit code: 0 where every lesson named reaches the required rate
    and has no wrong mark, 1 where one does not, 2 where one cannot be measured.
    """
    parser = argparse.ArgumentParser("llm180 strength", description="Mutate a solution; show what its checks miss.")
    parser.add_argument("lessons", nargs="*", metavar="lesson", help="a day (31) or a lab (1.1)")
    parser.add_argument("--all-stale", action="store_true", help="every lesson whose entry is missing, stale or low")
    parser.add_argument("--show-killed", action="store_true", help="show every mutant, not only the survivors")
    parser.add_argument("--only", metavar="NAME", help="one exercise only, for a quick look; nothing is kept")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants, drawn by --seed; nothing is kept")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at work at the same time (default: 2)")
    options = parser.parse_args(arguments)

    from rich.console import Console

    console = Console()

    def refuse(error: Exception) -> int:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2

    try:
        chosen = [find(name) for name in options.lessons]
        if options.all_stale:
            entries, named = ledger(), {page.key for page in chosen}
            chosen += [p for p in lessons.all_pages() if p.key not in named and problem(p, entries)]
    except (lessons.LessonError, StrengthError) as error:
        return refuse(error)
    if not chosen:
        console.print("Every lesson's entry is current." if options.all_stale else "Name a day: `llm180 strength 31`.")
        return 0 if options.all_stale else 2
    code = 0
    look = {"only": options.only, "sample": options.sample, "seed": options.seed, "jobs": options.jobs}
    for lesson in chosen:
        try:
            report = _run_with_bar(lesson, console, **look)
        except (lessons.LessonError, StrengthError) as error:
            code = refuse(error)
            continue
        show(report, console, show_killed=options.show_killed)
        if not report.errors and options.only is None and options.sample is None:
            write_ledger(ledger() | {lesson.key: report.entry()})
            console.print(f"Kept in {os.path.relpath(LEDGER)}.", style="dim", highlight=False)
        if report.errors or report.rate < REQUIRED:
            code = max(code, 1)
    return code


def _run_with_bar(lesson: Lesson, console: Any, **options: Any) -> Report:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(lesson.label, total=None)
        return run(lesson, progress=lambda done, total: bar.update(task, completed=done, total=total), **options)


def show(report: Report, console: Any, *, show_killed: bool = False) -> None:
    """Print a report: each survivor as a diff, the rate of each exercise, wrong marks."""
    from rich.syntax import Syntax
    from rich.table import Table

    for result in report.results:
        survived = result.outcome == "survived" and result.mark is None
        if not survived and not show_killed:
            continue
        word = "survived" if survived else "equivalent" if result.outcome == "survived" else result.outcome
        by = f" by {result.by}" if result.refused else ""
        console.print(f"{word}{by}: {result.mutant.operator}", style="bold red" if survived else "dim", highlight=False)
        console.print(Syntax(report.diff(result), "diff", theme="ansi_light", background_color="default"))
    table = Table("exercise", "mutants", "refused", "timeouts", "equivalent", "survived", "rate")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, results in report.by_exercise().items():
        table.add_row(name, *_figures(Report(report.lesson, report.solution, results, [], 0.0, {})))
    table.add_section()
    table.add_row(report.lesson.label, *_figures(report), style="bold")
    console.print(table)
    incompetent = report.count("incompetent")
    if incompetent:
        console.print(f"{incompetent} more cannot be imported and are not counted.", style="dim", highlight=False)
    console.print(
        f"{report.seconds:.0f} s; the checks take {sum(report.base.values()):.2f} s on the unchanged solution.",
        style="dim",
        highlight=False,
    )
    for error in report.errors:
        console.print(error, style="red", markup=False, highlight=False, soft_wrap=True)


def _figures(report: Report) -> list[str]:
    made = len(report.results) - report.count("incompetent")
    counts = made, report.killed, report.count("timeout"), report.equivalent, len(report.survivors)
    return [*map(str, counts), f"{math.floor(1000 * report.rate) / 10:.1f}%"]
