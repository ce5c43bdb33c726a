"""The lessons, read from their MyST sources: facts, cells, exercises, checks, hints.

The front matter of a lesson is the only place where its facts stand; its cells
are the only place where its stubs and checks stand. Everything that needs them
(table of contents, stage pages, progress, hints, tests) asks this module.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from llm180 import paths

PLANNED_FILE = "planned.yml"


class LessonError(Exception):
    """A lesson's source cannot be used; the message says where and what to mend."""


class LessonNotFound(LessonError):
    """No such lesson, or not written yet; the message says what to do."""


@dataclass(frozen=True)
class Cell:
    """One cell of a page. ``line`` is the 1-based line in the file at which its source begins."""

    kind: Literal["code", "markdown"]
    source: str
    tags: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Exercise:
    """One graded exercise of a page, with the names of the checks that take its answer."""

    name: str
    difficulty: int
    minutes: int
    task: str | None
    checks: tuple[str, ...]
    hints: tuple[str, ...]


@dataclass
class Lesson:
    """A day's lesson, or a lab, as its file has it."""

    path: Path
    front: dict[str, Any]
    cells: list[Cell]
    exercises: list[Exercise] = field(default_factory=list)
    solutions: Path = paths.SOLUTIONS  # the folder of its solution module

    @property
    def is_lab(self) -> bool:
        return "lab" in self.front

    @property
    def facts(self) -> dict[str, Any]:
        return self.front["lab" if self.is_lab else "day"]

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def number(self) -> int | None:
        """The day's number; ``None`` for a lab."""
        return None if self.is_lab else int(self.facts["number"])

    @property
    def key(self) -> str:
        """``day001`` or ``lab_1_1``: what progress and records are kept under."""
        return "lab_" + self.section.replace(".", "_") if self.is_lab else f"day{self.number:03d}"

    @property
    def label(self) -> str:
        """``Day 1`` or ``Lab 1.1``: how the page names itself."""
        return f"Lab {self.section}" if self.is_lab else f"Day {self.number}"

    @property
    def section(self) -> str:
        return str(self.facts["section"])

    @property
    def stage(self) -> int:
        return int(self.section.split(".")[0])

    @property
    def title(self) -> str:
        return str(self.facts["title"])

    @property
    def title_zh(self) -> str:
        return str(self.facts["title_zh"])

    @property
    def minutes(self) -> int:
        return int(self.facts["minutes"])

    @property
    def builds_on(self) -> list[int]:
        return list(self.facts.get("builds_on") or [])

    @property
    def topics(self) -> list[str]:
        return list(self.facts.get("topics") or [])

    @property
    def tasks(self) -> list[str]:
        """The plan's practice tasks that this page's exercises claim."""
        return [e.task for e in self.exercises if e.task]

    @property
    def references(self) -> list[str]:
        return list(self.facts.get("references") or [])

    @property
    def solution_path(self) -> Path:
        return self.solutions / f"{self.stem}.py"

    @property
    def solution_module(self) -> str:
        return f"solutions.{self.stem}"

    def exercise(self, name: str) -> Exercise:
        for exercise in self.exercises:
            if exercise.name == name:
                return exercise
        known = ", ".join(e.name for e in self.exercises)
        raise LessonError(f"{self.label} has no exercise {name!r}; its exercises are: {known}.")

    @property
    def needs(self) -> list[str]:
        """The optional groups of ``pyproject.toml`` that the page's packages come from."""
        return list(self.facts.get("needs") or [])

    @property
    def code_cells(self) -> list[Cell]:
        return [c for c in self.cells if c.kind == "code"]

    @property
    def word_count(self) -> int:
        """Words of prose on the page: no code, no directives' marks, no formulas."""
        text = "\n".join(c.source for c in self.cells if c.kind == "markdown")
        return count_words(text)


def count_words(markdown: str) -> int:
    """Words of prose in MyST Markdown, formulas and code left out."""
    text = re.sub(r"\$\$.*?\$\$", " ", markdown, flags=re.S)
    text = re.sub(r"```\{math\}.*?```", " ", text, flags=re.S)
    text = re.sub(r"\$[^$\n]+\$", " x ", text)
    text = re.sub(r"^[`:]{3,}.*$", " ", text, flags=re.M)
    text = re.sub(r"\{[a-z:]+\}`[^`]*`", " x ", text)
    return len(re.findall(r"[A-Za-z0-9][\w'’-]*", text))


# --- reading -----------------------------------------------------------------

_FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,}|~{3,})(?P<info>.*)$")


def split_front_matter(text: str, path: Path) -> tuple[dict[str, Any], int]:
    """The YAML block at the top, and the number of lines that it takes."""
    lines = text.split("\n")
    if not lines or lines[0].strip() != "---":
        raise LessonError(f"{path}: a lesson begins with front matter between two lines of ---.")
    for i in range(1, len(lines)):
        if lines[i].strip() == "---":
            try:
                front = yaml.safe_load("\n".join(lines[1:i])) or {}
            except yaml.YAMLError as error:
                raise LessonError(f"{path}: the front matter is not valid YAML: {error}") from None
            return front, i + 1
    raise LessonError(f"{path}: the front matter is not closed by a line of ---.")


def read_cells(text: str, path: Path) -> tuple[dict[str, Any], list[Cell]]:
    """Front matter and cells of a MyST notebook."""
    front, start = split_front_matter(text, path)
    lines = text.split("\n")
    cells: list[Cell] = []
    prose: list[str] = []
    prose_line = start + 1

    def flush() -> None:
        nonlocal prose
        source = "\n".join(prose).strip("\n")
        if source.strip():
            skipped = next(k for k, line in enumerate(prose) if line.strip())
            cells.append(Cell("markdown", source, (), prose_line + skipped))
        prose = []

    i = start
    while i < len(lines):
        line = lines[i]
        fence = _FENCE.match(line)
        if fence and fence["info"].strip().startswith("{code-cell}"):
            flush()
            body_start = i + 1
            closing = re.compile(rf"^{fence['fence'][0]}{{{len(fence['fence'])},}}\s*$")
            end = next((j for j in range(body_start, len(lines)) if closing.match(lines[j])), None)
            if end is None:
                raise LessonError(f"{path}:{i + 1}: this code cell is not closed.")
            tags: tuple[str, ...] = ()
            while body_start < end and re.match(r"^:[\w-]+:", lines[body_start]):
                option, _, value = lines[body_start][1:].partition(":")
                if option == "tags":
                    tags = tuple(yaml.safe_load(value) or ())
                body_start += 1
            if body_start < end and lines[body_start].strip() == "---":
                close = next(j for j in range(body_start + 1, end) if lines[j].strip() == "---")
                options = yaml.safe_load("\n".join(lines[body_start + 1 : close])) or {}
                tags = tuple(options.get("tags") or ())
                body_start = close + 1
            while body_start < end and not lines[body_start].strip():
                body_start += 1
            cells.append(Cell("code", "\n".join(lines[body_start:end]).rstrip(), tags, body_start + 1))
            i = end + 1
            prose_line = i + 1
            continue
        if fence and not line.startswith(":::"):
            # Any other fence is prose; a code cell inside it (in a page about MyST) is not a cell.
            closing = re.compile(rf"^{fence['fence'][0]}{{{len(fence['fence'])},}}\s*$")
            end = next((j for j in range(i + 1, len(lines)) if closing.match(lines[j])), len(lines) - 1)
            prose.extend(lines[i : end + 1])
            i = end + 1
            continue
        if line.startswith("+++"):
            flush()
            prose_line = i + 2
            i += 1
            continue
        prose.append(line)
        i += 1
    flush()
    return front, cells


def parse_code(source: str) -> ast.Module | None:
    """The syntax tree of a cell; lines of IPython magic are blanked. ``None`` if it does not parse."""
    plain = "\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.split("\n"))
    try:
        return ast.parse(plain)
    except SyntaxError:
        return None


def decorated(source: str, decorator: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Top-level definitions under ``@day.<decorator>`` (called or bare) in a cell's source."""
    tree = parse_code(source)
    found = []
    for node in tree.body if tree else []:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for mark in node.decorator_list:
            target = mark.func if isinstance(mark, ast.Call) else mark
            if isinstance(target, ast.Attribute) and target.attr == decorator:
                found.append(node)
    return found


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[str]:
    """The parameter names of a function's definition; none for a class."""
    if isinstance(node, ast.ClassDef):
        return []
    return [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]


def _hints(markdown: str) -> dict[str, list[str]]:
    """The bodies of ``{hint} Name`` blocks by exercise, in page order."""
    found: dict[str, list[str]] = {}
    lines = markdown.split("\n")
    i = 0
    while i < len(lines):
        fence = _FENCE.match(lines[i])
        mark = re.match(r"\{hint\}\s*(\w+)", fence["info"].strip()) if fence else None
        if fence and mark:
            closing = re.compile(rf"^{re.escape(fence['fence'][0])}{{{len(fence['fence'])},}}\s*$")
            end = next((j for j in range(i + 1, len(lines)) if closing.match(lines[j])), len(lines))
            found.setdefault(mark[1], []).append("\n".join(lines[i + 1 : end]).strip())
            i = end
        i += 1
    return found


def load(path: Path, solutions: Path = paths.SOLUTIONS) -> Lesson:
    """Read one lesson or lab. Raises :class:`LessonError` where the source is not one."""
    text = path.read_text(encoding="utf-8")
    front, cells = read_cells(text, path)
    if "day" not in front and "lab" not in front:
        raise LessonError(f"{path}: the front matter has neither a `day:` nor a `lab:` block.")
    lesson = Lesson(path, front, cells, solutions=solutions)
    for fact in ("section", "title", "title_zh", "minutes", "exercises"):
        if fact not in lesson.facts:
            raise LessonError(f"{path}: the front matter's block has no `{fact}`.")
    if not lesson.is_lab and "number" not in lesson.facts:
        raise LessonError(f"{path}: the front matter's `day:` block has no `number`.")
    checks = [node for cell in lesson.code_cells for node in decorated(cell.source, "check")]
    hints: dict[str, list[str]] = {}
    for cell in cells:
        if cell.kind == "markdown":
            for name, bodies in _hints(cell.source).items():
                hints.setdefault(name, []).extend(bodies)
    for card in lesson.facts["exercises"] or []:
        name = card["name"]
        lesson.exercises.append(
            Exercise(
                name=name,
                difficulty=int(card["difficulty"]),
                minutes=int(card["minutes"]),
                task=card.get("task"),
                checks=tuple(c.name for c in checks if name in parameters(c)),
                hints=tuple(hints.get(name, ())),
            )
        )
    return lesson


@functools.lru_cache(maxsize=512)
def _load_cached(path: Path, stamp: tuple[int, int]) -> Lesson:
    return load(path)


def _load(path: Path) -> Lesson:
    status = path.stat()
    return _load_cached(path, (status.st_mtime_ns, status.st_size))


# --- finding -----------------------------------------------------------------


def all_lessons() -> list[Lesson]:
    """Every written day, in order."""
    return [_load(p) for p in sorted(paths.BOOK.glob("stage*/day[0-9][0-9][0-9]_*.md"))]


def all_labs() -> list[Lesson]:
    """Every written lab, in order of section."""
    labs = [_load(p) for p in sorted(paths.LABS.glob("lab_*.md"))]
    return sorted(labs, key=lambda lab: [int(part) for part in lab.section.split(".")])


def all_pages() -> list[Lesson]:
    """Every page with exercises: the days, then the labs."""
    return [*all_lessons(), *all_labs()]


def planned() -> list[dict[str, Any]]:
    """The days that are not written yet, as ``book/planned.yml`` has them."""
    path = paths.BOOK / PLANNED_FILE
    if not path.exists():
        return []
    return list(yaml.safe_load(path.read_text(encoding="utf-8")) or [])


def find(number: int) -> Lesson:
    """The lesson of a day (1-180)."""
    if not 1 <= number <= 180:
        raise LessonNotFound(f"There is no day {number}; the days are 1 to 180.")
    found = sorted(paths.BOOK.glob(f"stage*/day{number:03d}_*.md"))
    if not found:
        raise LessonNotFound(f"Day {number} is not written yet; `llm180 status` lists the days that are.")
    return _load(found[0])


def find_lab(section: str) -> Lesson:
    """The lab of a section, as ``1.1``."""
    for lab in all_labs():
        if lab.section == section:
            return lab
    written = ", ".join(lab.section for lab in all_labs()) or "none yet"
    raise LessonNotFound(f"There is no lab {section}; the labs written so far: {written}.")


def find_key(key: str) -> Lesson:
    """The page of a key, as ``day001`` or ``lab_1_1``."""
    if match := re.fullmatch(r"day(\d{1,3})", key):
        return find(int(match[1]))
    if match := re.fullmatch(r"lab_(\d)_(\d)", key):
        return find_lab(f"{match[1]}.{match[2]}")
    raise LessonNotFound(f"{key!r} names no page; a page is named as day001 or lab_1_1.")
