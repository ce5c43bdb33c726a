"""Known mistakes: the wrong answers that a day's checks must refuse.

A solution module lists, beside each answer, the errors that people really
make, each as one change of the answer's text::

    known_mistakes(matmul,
        ("range(k)", "range(k - 1)", "the last column of the left matrix is never read"),
    )

The unit is the module: a mistake is the module's source with one change,
executed as a module of its own, so that helpers and classes refer to the
changed version too. The same holds for the mutants of ``llm180 strength``.
"""

from __future__ import annotations

import ast
import io
import itertools
import linecache
import re
import sys
import tokenize
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "__known_mistakes__"
_serial = itertools.count(1)


class MistakeError(Exception):
    """A listed mistake cannot be made from the solution's source; the message says why."""


@dataclass(frozen=True)
class Variant:
    """A changed solution module: ``source`` is the whole module's text."""

    exercise: str
    why: str
    source: str
    old: str = ""
    new: str = ""


def known_mistakes(answer: Any, *entries: tuple[str, str, str]) -> None:
    """List wrong versions of ``answer`` (a function or class of the calling module).

    Each entry is ``(old, new, why)``: ``old`` occurs exactly once in the answer's
    source (or, failing that, exactly once in the module), ``new`` takes its
    place, and ``why`` is the sentence shown to a reader whose answer behaves so.
    """
    for entry in entries:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise MistakeError(f"a known mistake is (old text, new text, why), got {entry!r}")
    module = sys._getframe(1).f_globals
    module.setdefault(MARK, {}).setdefault(answer.__name__, []).extend(entries)


def listed(module: types.ModuleType) -> dict[str, list[tuple[str, str, str]]]:
    """The mistakes that a loaded solution module lists, by exercise."""
    return dict(getattr(module, MARK, {}))


def is_listing(node: ast.stmt) -> bool:
    """True for a top-level ``known_mistakes(...)`` statement."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "known_mistakes"
    )


def segment(source: str, name: str) -> tuple[int, int]:
    """Character range of the top-level definition ``name``, decorators included."""
    lines = source.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(len(line) for line in lines)]
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            return starts[first - 1], starts[node.end_lineno or node.lineno]
    raise MistakeError(f"the module defines no {name}")


def without_marks(source: str) -> str:
    """The text without the remarks on equivalent mutants (``# equivalent ...``), which are for authors."""
    lines = source.split("\n")
    goes_on = -1  # the row after a mark that had a line of its own: a comment there belongs to it
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, column = token.start
        alone = not token.line[:column].strip()
        if re.match(r"#\s*equivalent(:| `)", token.string) or (alone and row == goes_on):
            lines[row - 1] = lines[row - 1][:column].rstrip() or "\0"
            goes_on = row + 1 if alone else -1
    return "\n".join(line for line in lines if line != "\0")


def answer_source(source: str, name: str) -> str:
    """The text of one answer as a reader sees it: decorators included, authors' marks left out."""
    begin, end = segment(source, name)
    return without_marks(source[begin:end].rstrip() + "\n").rstrip()


def _without_listings(source: str) -> str:
    """The module's text with every ``known_mistakes(...)`` call blanked, lines kept."""
    lines = source.split("\n")
    for node in ast.parse(source).body:
        if is_listing(node):
            for i in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[i] = ""
    return "\n".join(lines)


def variants(path: Path, exercise: str, entries: list[tuple[str, str, str]]) -> list[Variant]:
    """The modules that make each listed mistake of ``exercise``."""
    source = without_marks(_without_listings(path.read_text(encoding="utf-8")))
    begin, end = segment(source, exercise)
    made = []
    for old, new, why in entries:
        body = source[begin:end]
        if body.count(old) == 1:
            changed = source[:begin] + body.replace(old, new) + source[end:]
        elif body.count(old) == 0 and source.count(old) == 1:
            changed = source.replace(old, new)
        else:
            raise MistakeError(
                f"{path.name}: the mistake {why!r} of {exercise} wants the text {old!r} once; "
                f"it occurs {body.count(old)} times in {exercise} and {source.count(old)} times in the module"
            )
        made.append(Variant(exercise, why, changed, old, new))
    return made


def load_variant(source: str, path: Path, why: str = "changed") -> types.ModuleType:
    """Execute a solution module's changed source as a fresh module.

    The module is named uniquely and stays in ``sys.modules`` (dataclasses and
    pickling look there) until :func:`unload`; its source is kept in
    ``__variant_source__`` so that it can be sent to another process.
    """
    name = f"llm180_variant_{next(_serial)}_{path.stem}"
    filename = f"<{path.stem}: {why}>"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    module.__dict__["__variant_source__"] = source
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules[name] = module
    try:
        exec(compile(source, filename, "exec"), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def unload(module: types.ModuleType) -> None:
    """Forget a module made by :func:`load_variant`."""
    sys.modules.pop(module.__name__, None)
