"""The notebook's view of a lesson: ``day = Day(1)``, ``@day.exercise``, ``@day.check``.

In *learning* mode (the default) the reader's answer is used; while it is blank,
the reference stands in, so that the rest of the page runs. In *solved* mode
(``LLM180_MODE=solved``: CI and the rendered book) the reference takes its place,
and every check must pass on it, fail on the blank stub, and refuse the known
mistakes that the solution module lists.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import linecache
import os
import sys
import textwrap
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llm180 import expect, guard, lessons, mistakes
from llm180.lessons import Lesson

_DIAGNOSIS_BUDGET = 3.0  # seconds spent at most on finding which known mistake an answer makes


class MissingPackages(ImportError):
    """Packages of an optional group are not installed; the message is one sentence with the command that installs them."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows in place of a traceback
        return [str(self)]


class CheckFailed(AssertionError):
    """In solved mode: a check that does not hold what this book promises of it."""


@dataclass
class Answer:
    """One exercise on this page: what stands in for it, and where it came from."""

    name: str
    value: Any  # what the page and the checks use
    own: Any  # what the cell defined: the reader's answer, or the stub
    blank: bool
    mutates: bool
    source: str  # the cell's text of it


@dataclass
class Check:
    """One check on this page."""

    name: str
    function: Callable[..., Any]
    takes: tuple[str, ...]
    seconds: float
    refused: set[tuple[str, str]] = field(default_factory=set)  # known mistakes (exercise, why)

    @property
    def claim(self) -> str:
        """The first paragraph of its docstring: what is right, in the page's terms."""
        told = (inspect.getdoc(self.function) or self.name.replace("_", " ")).split("\n\n")[0]
        return " ".join(told.split())


@dataclass
class Verdict:
    """What came of a check."""

    word: str  # passed | failed | error | timeout | unsolved
    seconds: float
    expected: str = ""
    came: str = ""
    cause: str = ""
    line: str = ""  # where in the answer it went wrong
    printed: str = ""
    spot: tuple[Any, ...] = ()  # where and with what it failed: equal for equal mistakes

    @property
    def message(self) -> str:
        parts = [f"expected {self.expected}"] if self.came else [self.expected]
        parts += [f"came {self.came}"] if self.came else []
        text = ", ".join(p for p in parts if p)
        return text + (f". Likely cause: {self.cause}" if self.cause else "")


class Page:
    """What a day and a lab share. The reader makes a :class:`Day` or a :class:`Lab`."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        require(lesson.label, lesson.needs)
        self.solved = os.environ.get("LLM180_MODE", "learn") == "solved"
        self.answers: dict[str, Answer] = {}
        self.checks: dict[str, Check] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._variants: dict[str, list[tuple[str, types.ModuleType]]] = {}
        self._hints_given: dict[str, int] = {}
        self._progress: Any = None
        self._progress_error = ""
        from llm180 import figures

        figures.use_style()
        guard.remember()
        self._before_each_cell()
        guard.seed_everything(lesson.number or 0)
        count = len(lesson.exercises)
        print(f"{lesson.label} · {lesson.title} · {count} exercise{'s' if count != 1 else ''}")

    # --- exercises ---------------------------------------------------------------

    def exercise(self, answer: Any = None, *, mutates: bool = False) -> Any:
        """Take the cell's function or class as the answer to the exercise of its name.

        ``mutates=True`` says that a function's contract is to change its inputs;
        otherwise a check fails an answer that does. Returns the object that the
        page goes on with: the reader's, or the reference while the answer is blank.
        """
        if answer is None:
            return functools.partial(self.exercise, mutates=mutates)
        name = answer.__name__
        self.lesson.exercise(name)  # an unknown name is said so here
        reference = getattr(self.solution_module, name)
        source = source_of(answer)
        blank = self.solved or is_blank(source, self._reference_source(name))
        self.answers[name] = Answer(name, reference if blank else answer, answer, blank, mutates, source)
        if blank and not self.solved:
            print(f"{name}: not solved yet; the reference stands in, so that the page runs on.")
        return self.answers[name].value

    @functools.cached_property
    def solution_module(self) -> types.ModuleType:
        """The day's reference answers."""
        lesson = self.lesson
        if not lesson.solution_path.exists():
            raise lessons.LessonError(f"{lesson.label}'s solution module is missing: {lesson.solution_path}")
        if lesson.solution_path.parent.name == "solutions":
            with_root = str(lesson.solution_path.parent.parent)
            if with_root not in sys.path:
                sys.path.insert(0, with_root)
            module = importlib.import_module(lesson.solution_module)
            if os.path.samefile(module.__file__ or "", lesson.solution_path):
                return module
        spec = importlib.util.spec_from_file_location(lesson.stem, lesson.solution_path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[lesson.stem] = module
        spec.loader.exec_module(module)
        return module

    def _reference_source(self, name: str) -> str:
        return mistakes.answer_source(self.lesson.solution_path.read_text(encoding="utf-8"), name)

    # --- checks --------------------------------------------------------------------

    def check(self, function: Any = None, *, seconds: float = 10.0, costly: bool = False) -> Any:
        """Run the check at once on the answers that its parameters name, and print one verdict.

        ``costly``: in solved mode, mistakes that an earlier check has refused are not tried again
        (for a check that starts processes or servers).

        Returns the function, so that ``my_check(my_answer)`` shows the full traceback.
        """
        if function is None:
            return functools.partial(self.check, seconds=seconds, costly=costly)
        takes = tuple(inspect.signature(function).parameters)
        unknown = [name for name in takes if name not in self.answers]
        if unknown or not takes:
            missing = ", ".join(unknown) or "no answer"
            raise lessons.LessonError(
                f"the check {function.__name__} takes {missing}: run the cell of that exercise first."
            )
        check = Check(function.__name__, function, takes, seconds)
        self.checks[check.name] = check
        if self.solved:
            self._prove(check, costly)
        else:
            self._judge(check)
        return function

    def _judge(self, check: Check) -> None:
        """Learning mode: run it on the reader's answers, say what came of it, keep it."""
        own = [name for name in check.takes if not self.answers[name].blank]
        if not own:
            verdict = Verdict("unsolved", 0.0)
            print(f"· {check.name}: not solved yet")
        else:
            verdict = self.verdict(check)
            if verdict.word != "passed":  # a listed mistake knows more than a general cause
                verdict.cause = self._likely_cause(check, verdict, own) or verdict.cause
            lost = ""
            for name in own:  # kept before it is shown: what is reported as passed is never lost
                lost = self._keep(name, check, verdict) or lost
            print(self._told(check, verdict))
            if lost:
                print(f"  (this result could not be saved: {lost})")
        self._verdicts[check.name] = verdict
        self._report(check, verdict, own)

    def verdict(self, check: Check, **instead: Any) -> Verdict:
        """Run a check under guard, with ``instead`` in place of the page's own answers."""
        values = {name: instead.get(name, self.answers[name].value) for name in check.takes}
        guarded = {name: self._watched(name, value) for name, value in values.items()}
        outcome = guard.run(lambda: check.function(**guarded), seconds=check.seconds, seed=0)
        return self._read(check, outcome, values)

    def _watched(self, name: str, value: Any) -> Any:
        """A function answer that fails when it changes its inputs; a class is returned as it is."""
        if self.answers[name].mutates or not isinstance(value, types.FunctionType):
            return value
        signature = inspect.signature(value)

        @functools.wraps(value)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = [guard.fingerprint(a) for a in args], {k: guard.fingerprint(v) for k, v in kwargs.items()}
            result = value(*args, **kwargs)
            after = [guard.fingerprint(a) for a in args], {k: guard.fingerprint(v) for k, v in kwargs.items()}
            if before != after:
                names = list(signature.parameters)
                at = next((i for i, pair in enumerate(zip(before[0], after[0])) if pair[0] != pair[1]), None)
                which = next((k for k in kwargs if before[1][k] != after[1][k]), "") if at is None else ""
                which = which or (names[at] if at is not None and at < len(names) else f"number {(at or 0) + 1}")
                raise expect.Mismatch(
                    f"the argument {which} to be left as it was",
                    "the same object with other contents",
                    f"{name} writes into its input; work on a copy",
                )
            return result

        return watched

    def _read(self, check: Check, outcome: guard.Outcome, values: dict[str, Any]) -> Verdict:
        """A verdict from what the guarded call did."""
        verdict = Verdict("passed", outcome.seconds, printed=_printed(outcome))
        error = outcome.error
        if outcome.timed_out:
            verdict.word = "timeout"
            verdict.expected = f"an answer within {check.seconds:g} s"
            verdict.came = "none: stopped"
            verdict.cause = "a loop that never ends, or far too much work"
            verdict.spot = ("timeout",)
        elif outcome.tampered:
            names = ", ".join(outcome.tampered[:3])
            verdict.word = "failed"
            verdict.expected = "the libraries left as they are"
            verdict.came = f"other functions in place of {names}; they were put back"
            verdict.spot = ("tampered",)
        elif isinstance(error, expect.Told):
            verdict.word, verdict.expected, verdict.cause = "failed", error.message, error.cause
            verdict.spot = (_line_in(error, check.function), error.message)
        elif isinstance(error, expect.Mismatch):
            subject = f" for {error.what}" if error.what else ""
            verdict.word, verdict.expected = "failed", error.expected + subject
            verdict.came, verdict.cause = error.came, error.cause
            verdict.spot = (_line_in(error, check.function), error.expected, error.came)
        elif hasattr(error, "told"):  # llm180.distributed: it says itself what each rank did, line by line
            verdict.word, verdict.expected = "error", str(error).replace("\n", "\n" + 10 * " ")
            verdict.spot = (_line_in(error, check.function), error.told)
        elif isinstance(error, AssertionError) and not _inside_answer(error, values):
            verdict.word = "failed"
            verdict.expected = _first_lines(str(error)) or _source_line(error, check.function)
            verdict.spot = (_line_in(error, check.function), verdict.expected)
        elif error is not None:
            verdict.word = "error"
            said = " ".join(str(error).split())[:200]
            verdict.expected, verdict.came = "a result", type(error).__name__ + (f": {said}" if said else "")
            verdict.line = _answer_line(error, values)
            verdict.spot = (_line_in(error, check.function), type(error).__name__, said)
        elif outcome.threads:
            verdict.word = "failed"
            verdict.expected, verdict.came = "no thread left running", f"{outcome.threads} still at work"
            verdict.cause = "a thread that is started and not joined"
            verdict.spot = ("threads",)
        return verdict

    def _likely_cause(self, check: Check, verdict: Verdict, own: list[str]) -> str:
        """The known mistake that fails this check in the same place with the same value."""
        deadline = time.monotonic() + _DIAGNOSIS_BUDGET
        if verdict.word == "timeout" or verdict.seconds > _DIAGNOSIS_BUDGET / 2:
            return ""
        for name in own:
            for why, module in self.known_mistakes(name):
                if time.monotonic() > deadline:
                    return ""
                if self.verdict(check, **{name: getattr(module, name)}).spot == verdict.spot:
                    return why
        return ""

    def known_mistakes(self, name: str) -> list[tuple[str, types.ModuleType]]:
        """The listed mistakes of an exercise, each as a loaded module."""
        if name not in self._variants:
            path = self.lesson.solution_path
            entries = mistakes.listed(self.solution_module).get(name, [])
            self._variants[name] = [
                (v.why, mistakes.load_variant(v.source, path, v.why)) for v in mistakes.variants(path, name, entries)
            ]
        return self._variants[name]

    def _prove(self, check: Check, costly: bool) -> None:
        """Solved mode: the check passes on the reference, fails on the stub, refuses known mistakes."""
        before = {refused for c in self.checks.values() for refused in c.refused} if costly else set()
        verdict = self.verdict(check)
        if verdict.word != "passed":
            raise CheckFailed(f"{check.name} refuses the reference answer: {verdict.message} {verdict.line}")
        listed = 0
        for name in check.takes:
            if self.verdict(check, **{name: self.answers[name].own}).word == "passed":
                raise CheckFailed(f"{check.name} passes on the blank stub of {name}: it checks nothing of it")
            for why, module in self.known_mistakes(name):
                if (name, why) in before:
                    continue
                listed += 1
                if self.verdict(check, **{name: getattr(module, name)}).word != "passed":
                    check.refused.add((name, why))
        self._verdicts[check.name] = verdict
        refused = len(check.refused)
        more = " that were left" if before else ""
        print(f"✓ {check.name}: passed; refuses the stub and {refused} of {listed} mistakes{more}")

    # --- telling ---------------------------------------------------------------------

    def _told(self, check: Check, verdict: Verdict) -> str:
        """The verdict as the reader sees it: one line when passed, a few short ones when not."""
        if verdict.word == "passed":
            return f"✓ {check.name}: passed"
        lines = [f"✗ {check.name}: {check.claim}"]
        if verdict.came:
            lines += [f"  expected  {verdict.expected}", f"  came      {verdict.came}"]
        else:
            lines += [f"  found     {verdict.expected}"]
        if verdict.line:
            lines += [f"  at        {verdict.line}"]
        if verdict.cause:
            lines += [f"  likely    {verdict.cause}"]
        if verdict.printed:
            lines += [f"  printed   {verdict.printed}"]
        lines = "\n".join(lines).split("\n")
        return "\n".join(line if len(line) < 400 else line[:397] + "..." for line in lines)

    def _keep(self, name: str, check: Check, verdict: Verdict) -> str:
        """Write the attempt to the progress file; what went wrong, or an empty string."""
        progress = self.progress
        if progress is None:
            return self._progress_error
        from llm180.progress import ProgressError

        try:
            progress.record(
                day=self.lesson.key,
                exercise=name,
                check=check.name,
                verdict=verdict.word,
                seconds=verdict.seconds,
                source=self.answers[name].source,
                message=verdict.message,
            )
        except ProgressError as error:
            return str(error)
        return ""

    @property
    def progress(self) -> Any:
        """The reader's progress, or ``None`` when it cannot be kept (and once said why)."""
        if self._progress is None and not self._progress_error:
            from llm180.progress import Progress, ProgressError

            try:
                self._progress = Progress.open()
                if self._progress.notice:
                    print(self._progress.notice)
            except ProgressError as error:
                self._progress_error = str(error)
        return self._progress

    def _report(self, check: Check, verdict: Verdict, own: list[str]) -> None:
        """One JSON line per exercise for ``llm180 check``, which names the file."""
        path = os.environ.get("LLM180_REPORT")
        if not path:
            return
        with open(path, "a", encoding="utf-8") as file:
            for name in check.takes:
                word = verdict.word if name in own else "unsolved"
                row = {
                    "exercise": name,
                    "check": check.name,
                    "verdict": word,
                    "message": self._told(check, verdict) if word not in ("passed", "unsolved") else "",
                    "seconds": round(verdict.seconds, 4),
                    "source": hashlib.sha256(self.answers[name].source.encode()).hexdigest(),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def summary(self) -> None:
        """The page's result, a line per exercise. In solved mode, raises where a known mistake passed."""
        survivors = []
        for card in self.lesson.exercises:
            names = [c.name for c in self.checks.values() if card.name in c.takes]
            if self.solved:
                listed = self.known_mistakes(card.name) if card.name in self.answers else []
                refused = {why for c in self.checks.values() for e, why in c.refused if e == card.name}
                survivors += [f"{card.name}: {why}" for why, _ in listed if why not in refused]
                if not names:
                    survivors.append(f"{card.name}: no check takes it")
                print(f"{card.name}: {_count(names, 'check')}; {len(refused)} of {len(listed)} known mistakes refused")
                continue
            answer = self.answers.get(card.name)
            words = [self._verdicts[n].word for n in names if n in self._verdicts]
            if answer is None or answer.blank or not words:
                print(f"· {card.name}: not solved yet")
            elif all(word == "passed" for word in words):
                print(f"✓ {card.name}: solved")
            else:
                wrong = sum(word != "passed" for word in words)
                print(f"✗ {card.name}: {wrong} of {_count(names, 'check')} not passed yet")
        if survivors:
            raise CheckFailed("these mistakes pass every check: " + "; ".join(survivors))

    # --- help ------------------------------------------------------------------------

    def hint(self, name: str) -> None:
        """Show one hint more for an exercise each time it is called."""
        exercise = self.lesson.exercise(name)
        progress = None if self.solved else self.progress
        given = progress.help_taken(self.lesson.key, name)[0] if progress else 0
        given = max(given, self._hints_given.get(name, 0))
        total = len(exercise.hints)
        if not total:
            print(f"{name} has no hints.")
            return
        step = min(given + 1, total)
        if given < total:
            self._hints_given[name] = step
            if progress:
                progress.record_help(day=self.lesson.key, exercise=name, kind="hint", step=step)
            shown = exercise.hints[step - 1 : step]
            head = f"**Hint {step} of {total}**\n\n"
        else:
            shown, head = list(exercise.hints), f"**All {total} hints**\n\n"
        more = "" if step < total else f'\n\n`day.solution("{name}")` shows the reference.'
        from llm180 import notebooks

        plain = [notebooks.plain_markdown(self.lesson, text) for text in shown]
        _show_markdown(head + "\n\n".join(plain) + more)

    def solution(self, name: str, confirm: bool = False) -> None:
        """Show the reference's source, after a confirmation (``confirm=True`` is one)."""
        self.lesson.exercise(name)
        if not confirm:
            try:
                confirm = input(f"Show the reference solution of {name}? Type yes: ").strip().lower() in ("y", "yes")
            except (EOFError, NotImplementedError):
                pass
            except Exception as error:  # IPython's own StdinNotImplementedError, without importing it
                if type(error).__name__ != "StdinNotImplementedError":
                    raise
        if not confirm:
            print(f'Not shown. day.solution("{name}", confirm=True) shows it without asking.')
            return
        if not self.solved and self.progress:
            self.progress.record_help(day=self.lesson.key, exercise=name, kind="solution", step=1)
        _show_markdown(f"```python\n{self._reference_source(name)}\n```")

    # --- figures ---------------------------------------------------------------------

    def explore(self, draw: Callable[[Any], Any], *, alt: str = "", **values: Any) -> None:
        """A control that moves a figure: live in Jupyter, pre-rendered on the static page.

        See :func:`llm180.figures.explore`.
        """
        from llm180 import figures

        figures.explore(draw, alt=alt, static=self.solved, **values)

    # --- the kernel ------------------------------------------------------------------

    def _before_each_cell(self) -> None:
        """Keep the functions of libraries as they are before a cell can replace them."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if shell and not getattr(shell, "_llm180_remembers", False):
            shell.events.register("pre_run_cell", lambda *_: guard.remember())
            shell._llm180_remembers = True


class Day(Page):
    """A day's lesson in its notebook: ``day = Day(31)``."""

    def __init__(self, number: int) -> None:
        super().__init__(lessons.find(number))


class Lab(Page):
    """A lab in its notebook: ``day = Lab("1.1")``."""

    def __init__(self, section: str) -> None:
        super().__init__(lessons.find_lab(section))


# --- optional packages --------------------------------------------------------------------


def missing_packages(groups: list[str]) -> list[str]:
    """What these groups of ``pyproject.toml`` ask for and is not installed."""
    if not groups:
        return []
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in importlib.metadata.requires("llm180") or ()]
    missing = []
    for requirement in wanted:
        marker = requirement.marker
        in_group = marker and any(marker.evaluate({"extra": group}) for group in groups)
        if in_group and not marker.evaluate({"extra": ""}):
            try:
                installed = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(requirement.name)
                continue
            if not requirement.specifier.contains(installed, prereleases=True):
                missing.append(f"{requirement.name}{requirement.specifier} (here: {installed})")
    return missing


def require(label: str, groups: list[str]) -> None:
    """Raise :class:`MissingPackages` where a package of these groups of ``pyproject.toml`` is not installed."""
    if missing := missing_packages(groups):
        from llm180 import notebooks, paths

        names = ",".join(groups)
        pins = "-c requirements.txt -c requirements-lessons.txt"
        elsewhere = f'pip install "llm180[{names}] @ git+{notebooks.repository()}"'
        command = f'pip install -e ".[{names}]" {pins}' if paths.IN_CLONE else elsewhere
        raise MissingPackages(f"{label} needs {', '.join(missing)}; this command installs what it needs: {command}")


# --- an answer's source ----------------------------------------------------------------


def source_of(answer: Any) -> str:
    """The text of a function or class, as its cell has it (``inspect`` cannot for a notebook's class)."""
    functions = [answer] if isinstance(answer, types.FunctionType) else []
    functions += [
        f
        for member in vars(answer).values()
        if isinstance(answer, type)
        for f in [getattr(member, "__func__", getattr(member, "fget", member))]
        if isinstance(f, types.FunctionType)
    ]
    for function in functions:
        filename = function.__code__.co_filename
        linecache.checkcache(filename)
        text = "".join(linecache.getlines(filename))
        tree = lessons.parse_code(text)
        for node in tree.body if tree else []:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == answer.__name__:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                return "\n".join(text.split("\n")[first - 1 : node.end_lineno])
    with_fallback = ""
    try:
        with_fallback = textwrap.dedent(inspect.getsource(answer))
    except (OSError, TypeError):
        pass
    return with_fallback


def is_blank(source: str, reference: str) -> bool:
    """True while nothing of an answer is written.

    A function is blank when its body is a docstring and ``...`` (or ``pass``, or
    ``raise NotImplementedError``). A class is blank when some method is, and every
    method that is not stands in the reference too, word for word: it was given.
    """
    tree, given = lessons.parse_code(source), lessons.parse_code(reference)
    if not tree or not tree.body:
        return not source.strip()
    node = tree.body[-1]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return _empty(node.body)
    if not isinstance(node, ast.ClassDef):
        return False
    original = given.body[-1] if given and given.body else None
    known = {ast.dump(s) for s in getattr(original, "body", [])}
    methods = [s for s in node.body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef))]
    blanks = [m for m in methods if _empty(m.body) and ast.dump(m) not in known]
    rest = [m for m in methods if m not in blanks]
    return (bool(blanks) or not methods) and all(ast.dump(m) in known for m in rest)


def _empty(body: list[ast.stmt]) -> bool:
    for i, statement in enumerate(body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            if statement.value.value is Ellipsis or (i == 0 and isinstance(statement.value.value, str)):
                continue
        if isinstance(statement, ast.Pass):
            continue
        if isinstance(statement, ast.Raise) and "NotImplementedError" in ast.dump(statement):
            continue
        return False
    return True


# --- reading errors ----------------------------------------------------------------------


def _frames(error: BaseException) -> list[tuple[types.FrameType, int]]:
    frames, trace = [], error.__traceback__
    while trace:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return frames


def _line_in(error: BaseException, check: Callable[..., Any]) -> int:
    """The line of the check's own function at which the error passed through; 0 if none."""
    return next((line for frame, line in _frames(error) if frame.f_code is check.__code__), 0)


def _source_line(error: BaseException, check: Callable[..., Any]) -> str:
    line = linecache.getline(check.__code__.co_filename, _line_in(error, check)).strip()
    return f"`{line}` does not hold" if line else "an assertion does not hold"


def _files_of(value: Any) -> set[str]:
    members = vars(value).values() if isinstance(value, type) else [value]
    codes = [getattr(getattr(m, "__func__", getattr(m, "fget", m)), "__code__", None) for m in members]
    return {code.co_filename for code in codes if code is not None}


def _inside_answer(error: BaseException, values: dict[str, Any]) -> bool:
    """True when the innermost frame that is not a library's is the answer's own code."""
    own = set().union(*(_files_of(v) for v in values.values()))
    frames = _frames(error)
    return bool(frames) and frames[-1][0].f_code.co_filename in own


def _answer_line(error: BaseException, values: dict[str, Any]) -> str:
    """The innermost line of the answer's code that the error came through."""
    own = set().union(*(_files_of(v) for v in values.values()))
    for frame, line in reversed(_frames(error)):
        if frame.f_code.co_filename in own:
            text = linecache.getline(frame.f_code.co_filename, line).strip()
            return f"line {line} of the cell: {text}"
    return ""


def _first_lines(text: str, limit: int = 300) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    joined = "; ".join(lines[:6])
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."


def _printed(outcome: guard.Outcome) -> str:
    if not outcome.printed:
        return ""
    text = " ".join(outcome.output.split())
    shown = text if len(text) <= 120 else text[:120] + "..."
    return f"{outcome.printed} characters: {shown}"


def _count(names: list[str], word: str) -> str:
    return f"{len(names)} {word}{'s' if len(names) != 1 else ''}"


def _show_markdown(text: str) -> None:
    ipython = sys.modules.get("IPython")
    if ipython and ipython.get_ipython():
        from IPython.display import Markdown, display

        display(Markdown(text))
    else:
        print(text)
