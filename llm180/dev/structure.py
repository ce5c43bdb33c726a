"""What a lesson must be, as far as a program can judge: one function per rule.

A rule takes a :class:`~llm180.lessons.Lesson` and returns the problems that it
found, each one sentence with file and line. :data:`RULES` are judged by the
sources alone, :data:`OUTPUT_RULES` by the outputs of the page's last run, and
:data:`BOOK_RULES` by all pages together. ``tests/test_structure.py`` holds every
page to them, and each rule to an example that it must refuse.
"""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llm180 import bootstrap, data, lessons, mistakes, paths
from llm180.dev import execution, plan
from llm180.lessons import Cell, Lesson, LessonError

THEORY_WORDS = (1200, 2500)
LAB_WORDS = (300, 2500)
THEORY_SECTIONS = (2, 5)
QUESTIONS = (3, 5)
HINTS = (1, 3)
MISTAKES = 3
CITED_AT_END = (2, 5)
OPENING_WORDS = (25, 160)
DAY_MINUTES = (120, 180)
WORDS_PER_MINUTE = 50  # with the formulas and the code between them
DEMO_LINES = 25
FOLDED_LINES = 40
CODE_WIDTH = 88  # characters; what is wider is cut off on the page
OUTPUT_LINES = 60
OUTPUT_CHARACTERS = 20_000

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
FACTS = {
    "number": int,
    "stage": int,
    "section": str,
    "title": str,
    "title_zh": str,
    "minutes": int,
    "builds_on": list,
    "topics": list,
    "exercises": list,
    "references": list,
}
LAB_FACTS = {
    "section": str,
    "title": str,
    "title_zh": str,
    "minutes": int,
    "colab_minutes": (int, float),
    "gpu": str,
    "memory_gb": (int, float),
    "topics": list,
    "exercises": list,
    "references": list,
}
CARD = {"name": str, "difficulty": int, "minutes": int, "task": str}
OPTIONAL = {"builds_on", "topics", "tools", "needs", "models", "project", "task"}

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|:{3,}|~{3,})(?P<info>.*)$")
_DIRECTIVE = re.compile(r"^\{(?P<name>[\w:+-]+)\}\s*(?P<argument>.*)$")
_ROLE = re.compile(r"(?<![`\\])\{(?P<name>[a-zA-Z][\w:-]*)\}`(?P<text>[^`]+)`")
_NOT_PROSE = {"math", "code", "code-block", "literalinclude", "code-cell", "image"}
_BRITISH = re.compile(
    r"\b(colours?|behaviours?|centres?|centred|favours?|neighbours?|neighbouring|analys(?:e|ed|ing)|modelling|modelled"
    r"|(?:optim|normal|initial|regular|general|vector|summar|minim|maxim|quant|parallel|util|real|organ|recogn)is"
    r"(?:e|ed|es|ing|ation|ations|er|ers))\b",
    re.I,
)
_FILLER = re.compile(r"\b(simply|just(?!-in-time)|obviously)\b", re.I)

# Written so that this file does not name what it forbids.
_UNSAID = re.compile(
    r"\.\.[/\\]share[d]\b|\bp[y]pi\b|pythonhost[e]d\.org|\bnp[m]js\b|registry\.np[m]|/wor[k]/(?:main|shared)\b", re.I
)


# --- a page taken apart ----------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A heading, a directive or a code cell, in page order."""

    kind: str  # heading | directive | code
    line: int
    name: str  # the heading's text, the directive's name, "" for code
    level: int = 0  # of a heading
    argument: str = ""  # of a directive
    body: tuple[str, ...] = ()
    cell: Cell | None = None
    section: str = ""  # the level-2 heading under which it stands


@dataclass
class Anatomy:
    """A page's parts, and its prose by line (no code, no formulas, no options of directives)."""

    parts: list[Part] = field(default_factory=list)
    prose: list[tuple[int, str]] = field(default_factory=list)
    text: list[tuple[int, str]] = field(default_factory=list)  # prose with roles, code spans and formulas left in
    broken: list[tuple[int, str]] = field(default_factory=list)

    @property
    def headings(self) -> list[Part]:
        return [p for p in self.parts if p.kind == "heading"]

    @property
    def code(self) -> list[Part]:
        return [p for p in self.parts if p.kind == "code"]

    def directives(self, *names: str) -> list[Part]:
        return [p for p in self.parts if p.kind == "directive" and p.name in names]

    def section(self, title: str) -> list[tuple[int, str]]:
        """The text under a level-2 heading."""
        start = next((h.line for h in self.headings if h.level == 2 and h.name == title), None)
        if start is None:
            return []
        end = next((h.line for h in self.headings if h.level <= 2 and h.line > start), 10**9)
        return [(line, text) for line, text in self.text if start < line < end]


def anatomy(lesson: Lesson) -> Anatomy:
    """The page taken apart; kept while the lesson object lives."""
    if "_anatomy" not in lesson.__dict__:
        lesson.__dict__["_anatomy"] = _dissect(lesson)
    return lesson.__dict__["_anatomy"]


def _dissect(lesson: Lesson) -> Anatomy:
    found = Anatomy()
    section = ""
    for cell in lesson.cells:
        if cell.kind == "code":
            found.parts.append(Part("code", cell.line, "", cell=cell, section=section))
            continue
        section = _dissect_markdown(cell, section, found)
    return found


def _dissect_markdown(cell: Cell, section: str, found: Anatomy) -> str:
    lines = cell.source.split("\n")
    open_fences: list[tuple[str, bool, int]] = []  # the fence, whether its body is prose, the part's index
    in_formula = False
    in_options = False
    for number, line in enumerate(lines, cell.line):
        fence = _FENCE.match(line)
        if fence and open_fences:
            mark = open_fences[-1][0]
            if fence["fence"][0] == mark[0] and len(fence["fence"]) >= len(mark) and not fence["info"].strip():
                open_fences.pop()
                in_options = False
                continue
        for _, _, index in open_fences:
            if index >= 0:
                part = found.parts[index]
                found.parts[index] = Part(**{**part.__dict__, "body": (*part.body, line)})
        prose_here = not open_fences or open_fences[-1][1]
        if fence and prose_here and not in_formula:
            info = fence["info"].strip()
            directive = _DIRECTIVE.match(info)
            if fence["fence"][0] == "`" and "`" in info:
                found.broken.append(
                    (number, f"a title with a backtick needs a fence of colons, :::{info.split(' ')[0]}")
                )
            index = -1
            if directive:
                index = len(found.parts)
                found.parts.append(
                    Part(
                        "directive", number, directive["name"], argument=directive["argument"].strip(), section=section
                    )
                )
                if directive["name"] in ("dropdown", "admonition"):
                    found.prose.append((number, _bare(directive["argument"])))
                    found.text.append((number, directive["argument"]))
            is_prose = bool(directive) and directive["name"] not in _NOT_PROSE
            open_fences.append((fence["fence"], is_prose, index))
            in_options = bool(directive)
            continue
        if not prose_here:
            continue
        if in_options:
            if re.match(r"^\s*:[\w-]+:", line):
                continue
            in_options = False
        if line.count("$$") % 2:
            in_formula = not in_formula
            found.text.append((number, line))
            continue
        if in_formula:
            continue
        heading = re.match(r"^(#{1,6})\s+(.*?)\s*$", line)
        if heading and not open_fences:
            level, title = len(heading[1]), heading[2]
            if level <= 2:
                section = title if level == 2 else ""
            found.parts.append(Part("heading", number, title, level=level, section=section))
            found.prose.append((number, _bare(title)))
            found.text.append((number, title))
            continue
        if line.startswith("%"):
            continue
        found.text.append((number, line))
        found.prose.append((number, _bare(line)))
    found.broken += [
        (cell.line, f"a {fence} block is not closed before the next cell: close it (no code cell can stand inside it)")
        for fence, _, _ in open_fences
    ]
    return section


def _bare(line: str) -> str:
    """A line of prose without code, formulas, roles, targets of links, and HTML."""
    line = re.sub(r"\$\$.*?\$\$", " ", line)
    line = _ROLE.sub(" ", line)
    line = re.sub(r"(`+)(?:(?!\1).)+\1", " ", line)
    line = re.sub(r"(?<!\\)\$[^$]+\$", " ", line)
    line = re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"\1", line)
    line = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line)
    return re.sub(r"<[^<>]*>", " ", line)


def _at(lesson: Lesson, line: int | None, problem: str) -> str:
    place = execution.relative(lesson.path) if lesson.path.is_absolute() else str(lesson.path)
    return f"{place}:{line or 1}: {problem}"


def _within(count: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= count <= bounds[1]


def _tree(cell: Cell) -> ast.Module:
    return lessons.parse_code(cell.source) or ast.Module([], [])


def _marked(lesson: Lesson, mark: str) -> Iterator[tuple[Cell, Any]]:
    """Cells with their definitions under ``@day.<mark>``."""
    for cell in lesson.code_cells:
        for node in lessons.decorated(cell.source, mark):
            yield cell, node


# --- rules ------------------------------------------------------------------------------


def front_matter(lesson: Lesson) -> list[str]:
    """Complete, of the right types, and consistent with the file's name, its folder and the plan."""
    problems = []

    def say(problem: str) -> None:
        problems.append(_at(lesson, 1, problem))

    header = (lesson.front.get("jupytext") or {}).get("text_representation") or {}
    if header.get("extension") != ".md" or header.get("format_name") != "myst":
        say("the jupytext header must say `extension: .md` and `format_name: myst`.")
    if lesson.front.get("kernelspec") != KERNEL:
        say(f"the kernelspec must be {KERNEL}, or the book's cache does not find the page.")
    facts, wanted = lesson.facts, LAB_FACTS if lesson.is_lab else FACTS
    say_missing = [name for name in wanted if name not in facts and name not in OPTIONAL]
    if say_missing:
        say(f"the front matter lacks {', '.join(say_missing)}.")
    for name, value in facts.items():
        if name not in wanted and name not in OPTIONAL:
            say(f"the front matter has an unknown fact `{name}`; the known ones are {', '.join(wanted)}.")
        elif name in wanted and (not isinstance(value, wanted[name]) or isinstance(value, bool)):
            say(f"`{name}` must be {_type_name(wanted[name])}, not {value!r}.")
    for card in facts.get("exercises") or []:
        for name in [n for n in CARD if n not in card and n not in OPTIONAL]:
            say(f"the exercise {card.get('name', card)} lacks `{name}`.")
        for name, value in card.items():
            if name not in CARD or not isinstance(value, CARD[name]):
                say(
                    f"the exercise {card.get('name', card)} has `{name}: {value!r}`, which is unknown or of the wrong type."
                )
        if not _within(card.get("difficulty", 1), (1, 5)):
            say(f"the difficulty of {card.get('name')} must be 1 to 5, not {card['difficulty']}.")
    names = [e.name for e in lesson.exercises]
    if not names:
        say("the page has no exercise; every day is graded.")
    if len(set(names)) != len(names):
        say("two exercises have one name.")
    for what, known in (("needs", lesson_groups), ("models", lambda: data.registry()["models"])):
        for name in facts.get(what) or []:
            if name not in known():
                say(f"`{what}` names {name!r}; there is {', '.join(known())}.")
    if problems:
        return problems

    if lesson.is_lab:
        expected = f"lab_{lesson.section.replace('.', '_')}_"
    else:
        expected = f"day{lesson.number:03d}_"
        if lesson.path.parent.name != f"stage{lesson.facts['stage']}":
            say(f"a page of stage {lesson.facts['stage']} lies in book/stage{lesson.facts['stage']}/.")
        if not _within(lesson.minutes, DAY_MINUTES):
            say(f"a day takes {DAY_MINUTES[0]} to {DAY_MINUTES[1]} minutes, not {lesson.minutes}.")
        if lesson.facts["stage"] != lesson.stage:
            say(f"section {lesson.section} belongs to stage {lesson.stage}, not {lesson.facts['stage']}.")
        later = [n for n in lesson.builds_on if not isinstance(n, int) or not 1 <= n < lesson.number]
        if later:
            say(f"a day builds on earlier days only; builds_on has {later}.")
    if not re.fullmatch(expected + r"[a-z0-9]+(_[a-z0-9]+)*", lesson.stem):
        say(f"the file's name must be {expected}, then words in lower case joined by _.")
    if not re.search(r"[\u4e00-\u9fff]", lesson.title_zh):
        say("title_zh must be the Chinese title.")
    if facts.get("topics") is None and not facts.get("tools") and not lesson.is_lab:
        say("topics must name what the day covers of the plan; [] where the plan has nothing of it.")
    return problems + _agrees_with_plan(lesson)


def lesson_groups() -> tuple[str, ...]:
    """The groups of pyproject.toml that belong to lessons."""
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return tuple(g for g in project["optional-dependencies"] if g not in bootstrap.EVERYBODY)


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", str: "text (in quotes)", list: "a list"}
    return names.get(kind, "a number")


def _agrees_with_plan(lesson: Lesson) -> list[str]:
    try:
        section = plan.section(lesson.section)
    except KeyError:
        return [_at(lesson, 1, f"the plan has no section {lesson.section}.")]
    problems = []
    first, last = section["days"]
    if not lesson.is_lab and not first <= lesson.number <= last:
        problems.append(f"section {lesson.section} holds days {first} to {last}, not day {lesson.number}.")
    for word in [*lesson.topics, *(lesson.facts.get("tools") or [])]:
        elsewhere = re.fullmatch(r"(\d\.\d) (.+)", str(word))
        at, item = (elsewhere[1], elsewhere[2]) if elsewhere else (lesson.section, str(word))
        try:
            known = {t.zh for t in plan.items(at)} | {t.en for t in plan.items(at)}
        except KeyError:
            known = set()
        if item not in known:
            problems.append(f"{item!r} is no topic or tool of section {at} in book/plan.yml.")
    tasks = {plan.text(t).zh for t in section["tasks"]}
    problems += [
        f"the task {e.task!r} of {e.name} is no practice task of section {lesson.section} in book/plan.yml."
        for e in lesson.exercises
        if e.task and e.task not in tasks
    ]
    return [_at(lesson, 1, problem) for problem in problems]


def contents(lesson: Lesson) -> list[str]:
    """The page stands once in the table of contents."""
    toc = paths.ROOT / "_toc.yml"
    if not toc.exists():
        return [_at(lesson, 1, "there is no _toc.yml; run `llm180 sync`.")]
    name = lesson.path.relative_to(paths.ROOT).with_suffix("").as_posix()
    count = _files(yaml.safe_load(toc.read_text(encoding="utf-8")))[name]
    if count != 1:
        return [_at(lesson, 1, f"the page stands {count} times in _toc.yml, not once; run `llm180 sync`.")]
    return []


def _files(node: Any) -> Counter[str]:
    if isinstance(node, list):
        return sum((_files(x) for x in node), Counter())
    if isinstance(node, dict):
        own = Counter([str(node["file"])]) if "file" in node else Counter()
        return own + sum((_files(x) for x in node.values()), Counter())
    return Counter()


def markup(lesson: Lesson) -> list[str]:
    """Fences close, and the page's cells are the same for the toolkit and for the book."""
    problems = [_at(lesson, line, f"{problem}.") for line, problem in anatomy(lesson).broken]
    if problems:
        return problems
    ours = [c.source.strip() for c in lesson.code_cells]
    theirs = [c.source.strip() for c in execution.read_page(lesson).cells if c.cell_type == "code"]
    if ours != theirs:
        at = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        line = lesson.code_cells[at].line if at < len(ours) else None
        problems.append(
            _at(lesson, line, f"the book sees other code cells ({len(theirs)}) than the toolkit ({len(ours)}), from cell {at + 1} on: look for a fence that is not closed, or a cell inside another block.")
        )  # fmt: skip
    return problems


def parts_in_order(lesson: Lesson) -> list[str]:
    """Title, opening, set-up, theory, exercises, experiment, questions, where it leads, summary."""
    page = anatomy(lesson)
    problems = []

    def say(line: int | None, problem: str) -> None:
        problems.append(_at(lesson, line, problem))

    title = f"{lesson.label} · {lesson.title}"
    first = page.parts[0] if page.parts else None
    if first is None or first.kind != "heading" or first.level != 1 or first.name != title:
        say(first.line if first else 1, f"the page must begin with the heading `# {title}`.")
    sections = [h for h in page.headings if h.level == 2]
    names = [h.name for h in sections]
    experiments = [h for h in sections if h.name.startswith("Experiment: ")]
    fixed = [
        "Exercises",
        experiments[0].name if experiments else "Experiment: ...",
        "Check yourself",
        "Where this leads",
    ]
    missing = [name for name in fixed if name not in names]
    if missing:
        say(
            None,
            f"the page lacks the section{'s' if len(missing) > 1 else ''} {', '.join('## ' + m for m in missing)}.",
        )
    else:
        tail = names[names.index("Exercises") :]
        if tail != fixed:
            say(sections[names.index("Exercises")].line, f"the sections from Exercises on must be {fixed}, not {tail}.")
        theory = names[: names.index("Exercises")]
        bounds = (1, 5) if lesson.is_lab else THEORY_SECTIONS
        if not _within(len(theory), bounds):
            say(
                sections[0].line,
                f"there must be {bounds[0]} to {bounds[1]} theory sections before Exercises, not {len(theory)}.",
            )

    code = page.code
    tags = code[0].cell.tags if code else ()
    if set(tags) != {"remove-cell", "colab"}:
        say(
            code[0].line if code else None,
            "the first code cell must be the Colab cell, tagged [remove-cell, colab]; run `llm180 sync`.",
        )
    made = (
        rf"^day\s*=\s*Lab\(\"{re.escape(lesson.section)}\"\)"
        if lesson.is_lab
        else rf"^day\s*=\s*Day\({lesson.number}\)"
    )
    wanted = f'day = Lab("{lesson.section}")' if lesson.is_lab else f"day = Day({lesson.number})"
    if len(code) < 2 or not re.search(made, code[1].cell.source, re.M):
        say(code[1].line if len(code) > 1 else None, f"the second code cell must be the set-up cell, with `{wanted}`.")
    if len(code) > 1 and sections and code[1].line > sections[0].line:
        say(code[1].line, "the set-up cell must stand in the opening, before the first section.")
    last = lesson.cells[-1] if lesson.cells else None
    if last is None or last.kind != "code" or last.source.strip() != "day.summary()":
        say(
            last.line if last else None,
            "the page must end with a code cell that says `day.summary()` and nothing else.",
        )
    return problems


def heading_order(lesson: Lesson) -> list[str]:
    """One title; no level is left out."""
    problems = []
    before = 0
    for heading in anatomy(lesson).headings:
        if heading.level > before + 1:
            problems.append(
                _at(lesson, heading.line, f"the heading {heading.name!r} skips a level: {before} to {heading.level}.")
            )
        if heading.level == 1 and before:
            problems.append(_at(lesson, heading.line, f"{heading.name!r} is a second title; sections begin with ##."))
        before = heading.level
    return problems


def opening(lesson: Lesson) -> list[str]:
    """Says what the reader can do after, and asks the question of the day; short."""
    page = anatomy(lesson)
    end = page.code[0].line if page.code else 10**9
    lines = [(line, text) for line, text in page.prose if line < end][1:]
    text = " ".join(text for _, text in lines)
    words = lessons.count_words(text)
    problems = []
    line = lines[0][0] if lines else 1
    if not _within(words, OPENING_WORDS):
        problems.append(
            _at(lesson, line, f"the opening has {words} words; {OPENING_WORDS[0]} to {OPENING_WORDS[1]} are asked for.")
        )
    if "?" not in text:
        problems.append(_at(lesson, line, "the opening does not ask the question of the day."))
    for number, prose in page.prose:
        if re.search(r"\bin this (lesson|lab|chapter|tutorial)\b", prose, re.I):
            problems.append(_at(lesson, number, "say what the reader can do, not what is in the lesson."))
    return problems


def exercises(lesson: Lesson) -> list[str]:
    """Each exercise has its heading, card, stub, checks, hints and folded solution, in this order and in the front matter's."""
    page = anatomy(lesson)
    problems = []
    headings = [h for h in page.headings if h.level == 3 and h.section == "Exercises"]
    names = [h.name.strip("`") for h in headings if h.name.startswith("`")]
    listed = [e.name for e in lesson.exercises]
    if names != listed:
        problems.append(
            _at(
                lesson,
                headings[0].line if headings else None,
                f"under Exercises stand {names}; the front matter lists {listed}, in this order.",
            )
        )
    stubs: dict[str, list[int]] = {}
    for cell, node in _marked(lesson, "exercise"):
        stubs.setdefault(node.name, []).append(cell.line)
    for name, lines in stubs.items():
        if name not in listed:
            problems.append(_at(lesson, lines[0], f"@day.exercise {name} is not in the front matter."))
        if len(lines) > 1:
            problems.append(_at(lesson, lines[1], f"{name} has a second stub."))
    for exercise in lesson.exercises:
        name = exercise.name
        heading = next((h.line for h in headings if h.name == f"`{name}`"), None)
        cards = [d for d in page.directives("exercise") if d.argument == name]
        hints = [d for d in page.directives("hint") if d.argument == name]
        folded = [d for d in page.directives("solution") if d.argument == name]
        checks = [cell.line for cell, node in _marked(lesson, "check") if name in lessons.parameters(node)]
        for what, found, low, high in (
            (f"card, ```{{exercise}} {name}", cards, 1, 1),
            (f"stub, @day.exercise on {name}", stubs.get(name, []), 1, 1),
            (f"check, @day.check with a parameter {name}", checks, 1, 99),
            (f"hint, ```{{hint}} {name}", hints, *HINTS),
            (f"folded solution, ```{{solution}} {name}", folded, 1, 1),
        ):
            if not _within(len(found), (low, high)):
                amount = f"{low}" if low == high else f"{low} to {high}" if high < 99 else f"at least {low}"
                problems.append(_at(lesson, heading, f"{name} has {len(found)} of: {what}; {amount} asked for."))
        for block in [*cards, *hints]:
            if not "".join(block.body).strip():
                problems.append(_at(lesson, block.line, f"this {block.name} of {name} is empty."))
        if cards and folded and hints and checks and name in stubs:
            own = [line for line in checks if stubs[name][0] <= line]
            order = [
                heading or 0,
                cards[0].line,
                stubs[name][0],
                min(own or checks),
                min(h.line for h in hints),
                folded[0].line,
            ]
            if order != sorted(order):
                problems.append(
                    _at(lesson, heading, f"{name} must come as heading, card, stub, checks, hints, solution.")
                )
    for block in page.directives("exercise", "hint", "solution"):
        if block.argument not in listed:
            problems.append(
                _at(
                    lesson, block.line, f"this {block.name} names {block.argument!r}, which is no exercise of the page."
                )
            )
    return problems


def stubs_match(lesson: Lesson) -> list[str]:
    """Signature and docstring of a stub are the solution's, its bodies are blank, all of it is typed."""
    if not lesson.solution_path.exists():
        return [_at(lesson, 1, f"the solution module {execution.relative(lesson.solution_path)} is missing.")]
    source = lesson.solution_path.read_text(encoding="utf-8")
    try:
        module = ast.parse(source)
    except SyntaxError as error:
        return [
            f"{execution.relative(lesson.solution_path)}:{error.lineno}: the solution module does not parse: {error.msg}."
        ]
    answers = {n.name: n for n in module.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    problems = []
    for cell, stub in _marked(lesson, "exercise"):
        line = cell.line + stub.lineno - 1
        if stub.name not in answers:
            problems.append(_at(lesson, line, f"{execution.relative(lesson.solution_path)} defines no {stub.name}."))
            continue
        compare = _compare_classes if isinstance(stub, ast.ClassDef) else _compare_functions
        if type(stub) is not type(answers[stub.name]):
            problems.append(
                _at(lesson, line, f"{stub.name} is one kind of thing in the stub and another in the solution.")
            )
            continue
        problems += [_at(lesson, line, problem) for problem in compare(stub, answers[stub.name], stub.name)]
    return problems


def _text(node: ast.AST | None) -> str:
    return ast.unparse(node) if node is not None else ""


def _decorators(node: Any) -> list[str]:
    return [text for text in map(_text, node.decorator_list) if not text.startswith("day.exercise")]


def _compare_functions(stub: Any, answer: Any, name: str, *, method: bool = False, given: bool = False) -> list[str]:
    problems = []
    if _text(stub.args) != _text(answer.args) or _text(stub.returns) != _text(answer.returns):
        problems.append(
            f"the stub's signature {name}({_text(stub.args)}) -> {_text(stub.returns) or '?'} is not the solution's, ({_text(answer.args)}) -> {_text(answer.returns) or '?'}."
        )
    if _decorators(stub) != _decorators(answer):
        problems.append(
            f"{name} is decorated by {_decorators(stub)} in the stub and by {_decorators(answer)} in the solution."
        )
    if ast.get_docstring(stub) != ast.get_docstring(answer):
        problems.append(f"the docstring of the stub {name} is not the solution's.")
    if not ast.get_docstring(stub) and not (method and name.split(".")[-1].startswith("__") and given):
        problems.append(f"{name} has no docstring.")
    arguments = [*stub.args.posonlyargs, *stub.args.args, *stub.args.kwonlyargs]
    if method and not any(d == "staticmethod" for d in _decorators(stub)):
        arguments = arguments[1:]
    untyped = [a.arg for a in arguments if a.annotation is None]
    if untyped or stub.returns is None:
        problems.append(
            f"{name} is not typed: {', '.join([*untyped, *([] if stub.returns else ['what it returns'])])}."
        )
    if not _blank(stub) and not given:
        problems.append(f"the body of the stub {name} must be `...`.")
    return problems


def _blank(node: Any) -> bool:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return len(body) == 1 and _text(body[0]) == "..."


def _functions(node: ast.ClassDef) -> dict[str, Any]:
    return {s.name: s for s in node.body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef))}


def _others(node: ast.ClassDef) -> list[str]:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return [_text(s) for s in body if not isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef)) and _text(s) != "..."]


def _compare_classes(stub: ast.ClassDef, answer: ast.ClassDef, name: str) -> list[str]:
    problems = []
    if [_text(b) for b in [*stub.bases, *stub.keywords]] != [_text(b) for b in [*answer.bases, *answer.keywords]]:
        problems.append(f"the stub {name} has other base classes than the solution.")
    if _decorators(stub) != _decorators(answer):
        problems.append(
            f"{name} is decorated by {_decorators(stub)} in the stub and by {_decorators(answer)} in the solution."
        )
    if ast.get_docstring(stub) != ast.get_docstring(answer) or not ast.get_docstring(stub):
        problems.append(f"the docstring of the stub {name} is missing, or not the solution's.")
    if _others(stub) != _others(answer):
        problems.append(f"the fields of the stub {name} are not the solution's.")
    ours, theirs = _functions(stub), _functions(answer)
    public = [m for m in theirs if not m.startswith("_") or m.startswith("__")]
    lacking, extra = [m for m in public if m not in ours], [m for m in ours if m not in theirs]
    if lacking or extra:
        problems.append(f"the stub {name} lacks the methods {lacking} and has {extra} that the solution has not.")
    blanks = 0
    for method, node in ours.items():
        if method not in theirs:
            continue
        blank = _blank(node)
        blanks += blank
        given = not blank and ast.dump(node) == ast.dump(theirs[method])
        problems += _compare_functions(node, theirs[method], f"{name}.{method}", method=True, given=given)
    if not blanks:
        problems.append(f"the stub {name} has no blank method: there is nothing to do.")
    return problems


def known_mistakes(lesson: Lesson) -> list[str]:
    """At least three known mistakes per exercise, each with a reason of its own."""
    if not lesson.solution_path.exists():
        return []
    where = execution.relative(lesson.solution_path)
    source = lesson.solution_path.read_text(encoding="utf-8")
    listed: dict[str, list[ast.expr]] = {}
    try:
        module = ast.parse(source)
    except SyntaxError:
        return []  # said by stubs_match
    for node in module.body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and _text(call.func) == "known_mistakes" and call.args:
            listed.setdefault(_text(call.args[0]), []).extend(call.args[1:])
    problems = []
    for exercise in lesson.exercises:
        entries = listed.get(exercise.name, [])
        starred = any(isinstance(e, ast.Starred) for e in entries)
        if len(entries) < MISTAKES and not starred:
            problems.append(
                f"{where}: {exercise.name} lists {len(entries)} known mistakes; at least {MISTAKES} are asked for."
            )
        whys = [
            e.elts[2].value
            for e in entries
            if isinstance(e, ast.Tuple) and len(e.elts) == 3 and isinstance(e.elts[2], ast.Constant)
        ]
        for why, count in Counter(whys).items():
            if count > 1 or len(str(why).split()) < 4:
                problems.append(
                    f"{where}: the mistake {why!r} of {exercise.name} needs a reason of its own, in words that help the reader."
                )
    if not ast.get_docstring(module):
        problems.append(f"{where}: the module has no docstring.")
    return problems


def checks(lesson: Lesson) -> list[str]:
    """A check says in one sentence what is right, is repeatable, and asks an independent source of truth."""
    problems = []
    names = {e.name for e in lesson.exercises}
    for cell, node in _marked(lesson, "check"):
        line = cell.line + node.lineno - 1
        claim = (ast.get_docstring(node) or "").split("\n")[0]
        if not claim.endswith("."):
            problems.append(
                _at(lesson, line, f"the check {node.name} needs a docstring: one sentence that says what is right.")
            )
        if not names & set(lessons.parameters(node)):
            problems.append(
                _at(lesson, line, f"the check {node.name} takes no answer: none of its parameters is an exercise.")
            )
        for inner in ast.walk(node):
            text = _text(inner) if isinstance(inner, (ast.Attribute, ast.Call)) else ""
            if re.fullmatch(r"time\.(time|perf_counter|monotonic|process_time)(_ns)?", text):
                problems.append(
                    _at(lesson, line, f"the check {node.name} reads the clock; a timing is shown, never asserted.")
                )
    for cell in lesson.code_cells:
        if re.search(r"default_rng\(\s*\)", cell.source):
            problems.append(
                _at(lesson, cell.line, "default_rng() without a seed: the page must give the same numbers twice.")
            )
        for node in ast.walk(_tree(cell)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            imported = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            own = lesson.solution_module
            if module == own or own in imported or (module == "solutions" and lesson.stem in imported):
                problems.append(
                    _at(lesson, cell.line, "the page imports its own solution module; checks must not ask the answer.")
                )
    return problems


def figures(lesson: Lesson) -> list[str]:
    """Every figure has an alternative text: images in the text, and figures that cells show."""
    problems = []
    for line, text in anatomy(lesson).text:
        for alt in re.findall(r"!\[([^\]]*)\]\(", text):
            if not alt.strip():
                problems.append(_at(lesson, line, "this image has no alternative text: ![what it shows](file)."))
        for tag in re.findall(r"<img\b[^>]*>", text):
            if not re.search(r"\balt=[\"']\s*[^\"'\s]", tag):
                problems.append(_at(lesson, line, "this <img> has no alt text."))
    for block in anatomy(lesson).directives("figure", "image"):
        if not any(re.match(r"\s*:alt:\s*\S", option) for option in block.body):
            problems.append(_at(lesson, block.line, f"this {block.name} has no `:alt:`."))
    for cell in lesson.code_cells:
        for node in ast.walk(_tree(cell)):
            if not isinstance(node, ast.Call):
                continue
            name, line = _text(node.func), cell.line + node.lineno - 1
            if re.fullmatch(r"(plt|pyplot|matplotlib\.pyplot|fig|figure)\.show", name):
                problems.append(
                    _at(
                        lesson,
                        line,
                        f"{name}() shows a figure without alternative text; use figures.show(fig, alt=...).",
                    )
                )
            if name in ("figures.show", "day.explore", "figures.explore"):
                alt = next((k.value for k in node.keywords if k.arg == "alt"), None)
                alt = node.args[1] if alt is None and name == "figures.show" and len(node.args) > 1 else alt
                if alt is None or (isinstance(alt, ast.Constant) and not str(alt.value).strip()):
                    problems.append(_at(lesson, line, f"{name} without alt=...: say what the figure shows."))
    return problems


_NETWORK = {
    "requests",
    "urllib3",
    "httpx",
    "aiohttp",
    "http.client",
    "urllib.request",
    "ftplib",
    "smtplib",
    "huggingface_hub",
}


def network(lesson: Lesson) -> list[str]:
    """No code cell of a day asks for the network (the Colab cell aside); a lab may, on its GPU path."""
    problems = []
    for cell in lesson.code_cells:
        if "colab" in cell.tags:
            continue
        for number, line in enumerate(cell.source.split("\n"), cell.line):
            if re.match(r"\s*[!%]\s*(pip|conda|wget|curl|apt|git)\b", line):
                problems.append(
                    _at(
                        lesson,
                        number,
                        "a page installs and downloads nothing; what it needs is a dependency or in llm180.data.",
                    )
                )
        if lesson.is_lab:
            continue
        for node in ast.walk(_tree(cell)):
            line = cell.line + getattr(node, "lineno", 1) - 1
            used: list[str] = []
            if isinstance(node, ast.Import):
                used = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                used = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            for name in used:
                if name in _NETWORK or name.split(".")[0] in _NETWORK:
                    problems.append(_at(lesson, line, f"{name} goes to the network; a lesson runs without."))
                    break
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.search(r"\b(https?|ftp|wss?)://(?!localhost|127\.)", node.value)
            ):
                problems.append(_at(lesson, line, "a cell holds an address of the web; data come from llm180.data."))
            if isinstance(node, ast.keyword) and node.arg == "download" and _text(node.value) == "True":
                problems.append(_at(lesson, cell.line, "download=True: data come from llm180.data."))
    return problems


# --- what a page refers to --------------------------------------------------------------


def _sources() -> list[Path]:
    return [*sorted(paths.BOOK.rglob("*.md")), *sorted(paths.LABS.glob("*.md"))]


@functools.lru_cache(maxsize=1024)
def _labels_at(path: Path, mtime_ns: int) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^\(([^()\s]+)\)=\s*$", text, re.M)
    found += re.findall(r"^\s*:(?:name|label):\s*(\S+)", text, re.M)
    found += re.findall(r"\$\$\s*\(([^()\s]+)\)\s*$", text, re.M)
    found += re.findall(r"\\label\{([^}]+)\}", text)
    return frozenset(found)


def _labels_of(path: Path) -> frozenset[str]:
    """The labels of a page, read again when the file has changed."""
    return _labels_at(path, path.stat().st_mtime_ns)


def _labels() -> set[str]:
    return set().union(*map(_labels_of, _sources()))


def _terms() -> set[str]:
    found: set[str] = set()
    for path in (paths.BOOK / "glossary.md",):
        if not path.exists():
            continue
        inside = ""
        for line in path.read_text(encoding="utf-8").split("\n"):
            if mark := re.match(r"^(`{3,}|:{3,})\{glossary\}", line):
                inside = mark[1]
            elif inside and line.strip() == inside:
                inside = ""
            elif inside and line.strip() and not line[0].isspace() and not line.startswith(":"):
                found.add(line.split(" : ")[0].strip().lower())
    return found


def bibliography() -> set[str]:
    path = paths.BOOK / "references.bib"
    return set(re.findall(r"^@\w+\{([^,\s]+),", path.read_text(encoding="utf-8"), re.M)) if path.exists() else set()


def _target(text: str) -> str:
    titled = re.fullmatch(r".*?<([^<>]+)>", text, re.S)
    return (titled[1] if titled else text).strip()


def _exists(lesson: Lesson, target: str, suffix: str = "") -> bool:
    base = paths.ROOT if target.startswith("/") else lesson.path.parent
    return (base / (target.lstrip("/") + suffix)).is_file()


def _roles(lesson: Lesson) -> Iterator[tuple[int, str, str]]:
    """Every role of the page, also one that a line break divides."""
    text = anatomy(lesson).text
    for i, (line, content) in enumerate(text):
        joined = content + (" " + text[i + 1][1] if i + 1 < len(text) and text[i + 1][0] == line + 1 else "")
        for role in _ROLE.finditer(joined):
            if role.start() < len(content):
                yield line, role["name"], role["text"]


def _cited(lesson: Lesson) -> list[tuple[int, str]]:
    return [
        (line, key.strip())
        for line, name, text in _roles(lesson)
        if name == "cite" or name.startswith("cite:")
        for key in text.split(",")
    ]


def cross_references(lesson: Lesson) -> list[str]:
    """Every {doc}, {ref}, {eq}, {cite}, {term}, {download} and relative link has its target."""
    problems = []
    known = bibliography()

    def say(line: int, problem: str) -> None:
        problems.append(_at(lesson, line, problem))

    for line, name, text in _roles(lesson):
        target = _target(text)
        if name == "doc" and not _exists(lesson, target, ".md"):
            say(
                line,
                f"{{doc}} {target}: there is no such page (a day that is not written yet is named without a link).",
            )
        elif name in ("ref", "eq", "numref") and target not in _labels():
            say(line, f"{{{name}}} {target}: no page defines this label.")
        elif name == "eq" and target not in _labels_of(lesson.path):
            say(line, f"{{eq}} {target}: the equation stands on another page, and a notebook has no number for it; name the day in words.")
        elif name == "term" and target.lower() not in _terms():
            say(line, f"{{term}} {target}: book/glossary.md has no such entry.")
        elif name == "download" and not _exists(lesson, target):
            say(line, f"{{download}} {target}: there is no such file.")
    cited = _cited(lesson)
    for line, key in cited:
        if key not in known:
            say(line, f"{{cite}} {key}: book/references.bib has no such entry.")
    for line, text in anatomy(lesson).text:
        plain = re.sub(r"(`+)(?:(?!\1).)+\1", " ", text)
        for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", plain):
            if not re.match(r"[a-z]+:|#", target) and not _exists(lesson, target.split("#")[0]):
                say(line, f"the link to {target} leads nowhere.")
    listed, used = set(lesson.references), {key for _, key in cited}
    for key in sorted(listed - used):
        say(1, f"the front matter lists the reference {key}, which the page does not cite.")
    for key in sorted(used & known - listed):
        say(next(line for line, k in cited if k == key), f"the page cites {key}, which the front matter does not list.")
    return problems


def where_this_leads(lesson: Lesson) -> list[str]:
    """The last section names two to five references and one stretch task."""
    text = anatomy(lesson).section("Where this leads")
    if not text:
        return []  # said by parts_in_order
    lines = {line for line, _ in text}
    keys = {key for line, key in _cited(lesson) if line in lines}
    problems = []
    bounds = (1, 5) if lesson.is_lab else CITED_AT_END
    if not _within(len(keys), bounds):
        problems.append(
            _at(
                lesson,
                text[0][0],
                f"the last section cites {len(keys)} references; {bounds[0]} to {bounds[1]} are asked for.",
            )
        )
    count = sum(len(re.findall(r"\*\*Stretch", line)) for _, line in text)
    if count != 1:
        problems.append(
            _at(
                lesson,
                text[0][0],
                f"the last section has {count} stretch tasks; one is asked for, beginning with **Stretch.**",
            )
        )
    return problems


def questions(lesson: Lesson) -> list[str]:
    """Three to five questions, each with an answer folded away."""
    page = anatomy(lesson)
    asked = [d for d in page.directives("dropdown") if d.section == "Check yourself"]
    problems = []
    line = next((h.line for h in page.headings if h.name == "Check yourself"), None)
    if not _within(len(asked), QUESTIONS):
        problems.append(
            _at(
                lesson,
                line,
                f"Check yourself has {len(asked)} questions in dropdowns; {QUESTIONS[0]} to {QUESTIONS[1]} are asked for.",
            )
        )
    for block in asked:
        if len(block.argument.split()) < 4:
            problems.append(_at(lesson, block.line, "this dropdown's title must be the question."))
        if len(" ".join(block.body).split()) < 5:
            problems.append(_at(lesson, block.line, "this question has no answer folded away."))
    return problems


# --- size and voice -----------------------------------------------------------------------


def theory_words(lesson: Lesson) -> int:
    """Words of prose from the first section to Exercises."""
    page = anatomy(lesson)
    sections = [h for h in page.headings if h.level == 2]
    start = sections[0].line if sections else 0
    end = next((h.line for h in sections if h.name == "Exercises"), 10**9)
    return lessons.count_words("\n".join(text for line, text in page.text if start <= line < end))


def words(lesson: Lesson) -> list[str]:
    """The theory is neither a stub nor a chapter."""
    count = lesson.word_count if lesson.is_lab else theory_words(lesson)
    bounds = LAB_WORDS if lesson.is_lab else THEORY_WORDS
    if not _within(count, bounds):
        return [
            _at(
                lesson,
                1,
                f"the {'page' if lesson.is_lab else 'theory'} has {count} words; {bounds[0]} to {bounds[1]} are asked for.",
            )
        ]
    return []


def minutes(lesson: Lesson) -> list[str]:
    """The day's minutes are those of its exercises and of its reading, with some to look at results."""
    doing = sum(e.minutes for e in lesson.exercises)
    reading = lesson.word_count / WORDS_PER_MINUTE
    total = doing + reading
    if not 0.6 * lesson.minutes <= total <= lesson.minutes + 15:
        return [
            _at(
                lesson,
                1,
                f"exercises ({doing} min) and reading (about {reading:.0f} min) make {total:.0f} of {lesson.minutes} minutes; mend the cards or the day.",
            )
        ]
    return []


def demo_cells(lesson: Lesson) -> list[str]:
    """A cell that shows something has at most 25 lines of code; a folded one, tagged hide-input, 40."""
    exempt = {id(cell) for mark in ("exercise", "check") for cell, _ in _marked(lesson, mark)}
    problems = []
    for cell in lesson.code_cells:
        if id(cell) in exempt or "colab" in cell.tags:
            continue
        count = sum(1 for line in cell.source.split("\n") if line.strip() and not line.strip().startswith("#"))
        limit = FOLDED_LINES if "hide-input" in cell.tags else DEMO_LINES
        if count > limit:
            problems.append(
                _at(
                    lesson,
                    cell.line,
                    f"this cell has {count} lines of code; {limit} are the limit: divide it, or move code into the solution module.",
                )
            )
    return problems


def code_width(lesson: Lesson) -> list[str]:
    """A line of code that the page shows has at most 88 characters: in a cell, or in a folded solution."""
    wide = f"characters; {CODE_WIDTH} are the limit, or the page cuts it off."
    problems = []
    for cell in lesson.code_cells:
        if "colab" in cell.tags:
            continue  # generated, and on the page it is left out
        for number, line in enumerate(cell.source.split("\n"), cell.line):
            if len(line) > CODE_WIDTH:
                problems.append(_at(lesson, number, f"this line of code has {len(line)} {wide}"))
    if not lesson.solution_path.exists():
        return problems  # said by stubs_match
    where, source = execution.relative(lesson.solution_path), lesson.solution_path.read_text(encoding="utf-8")
    for exercise in lesson.exercises:
        try:
            answer = mistakes.answer_source(source, exercise.name)
        except (SyntaxError, mistakes.MistakeError):
            continue  # said by stubs_match
        for line in answer.split("\n"):
            if len(line) > CODE_WIDTH:
                number = source[: source.index(line)].count("\n") + 1
                problems.append(f"{where}:{number}: this line of the folded solution has {len(line)} {wide}")
    return problems


def voice(lesson: Lesson) -> list[str]:
    """No exclamation marks, no "simply/just/obviously", American spelling."""
    problems = []
    for line, text in anatomy(lesson).prose:
        if "!" in text:
            problems.append(_at(lesson, line, "an exclamation mark; state it."))
        for word in _FILLER.findall(text):
            problems.append(_at(lesson, line, f"{word!r} tells the reader that it should be easy; leave it out."))
        for match in _BRITISH.finditer(text):
            problems.append(_at(lesson, line, f"{match[0]!r} is British spelling; the book is American."))
    return problems


def unsaid(lesson: Lesson) -> list[str]:
    """Neither page nor solution names a workplace's folder or a package registry's host."""
    problems = []
    for path in (lesson.path, lesson.solution_path):
        if not path.exists():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if match := _UNSAID.search(line):
                problems.append(f"{execution.relative(path)}:{number}: {match[0]!r} has no place in the book.")
    return problems


RULES: list[Callable[[Lesson], list[str]]] = [
    front_matter,
    contents,
    markup,
    parts_in_order,
    heading_order,
    opening,
    exercises,
    stubs_match,
    known_mistakes,
    checks,
    figures,
    network,
    cross_references,
    where_this_leads,
    questions,
    words,
    minutes,
    demo_cells,
    code_width,
    voice,
    unsaid,
]


def problems(lesson: Lesson) -> list[str]:
    """Everything that is wrong with a page's sources."""
    return [problem for rule in RULES for problem in rule(lesson)]


# --- outputs --------------------------------------------------------------------------------


def output_alt(lesson: Lesson, notebook: Any) -> list[str]:
    """Every image among a page's outputs carries an alternative text."""
    problems = []
    for cell, output in _outputs(lesson, notebook):
        data = output.get("data") or {}
        markup = _joined(data.get("text/html", "")) + _joined(data.get("image/svg+xml", ""))
        images = [kind for kind in data if kind.startswith("image/") and kind != "image/svg+xml"]
        if images and not re.search(r"<img\b", markup) and not _alt_in_metadata(output, cell):
            problems.append(
                _at(
                    lesson,
                    cell.line,
                    "a cell shows a bare figure; use figures.show(fig, alt=...), and end a plotting call with a name or `;`.",
                )
            )
        for tag in re.findall(r"<img\b[^>]*>", markup):
            if not re.search(r"\balt=(\"\s*[^\"\s]|'\s*[^'\s])", tag):
                problems.append(_at(lesson, cell.line, "an image among the outputs has no alt text."))
        for svg in re.findall(r"<svg\b.*?</svg>", markup, re.S):
            if not re.search(r"<title\b|aria-label=|aria-hidden=|aria-labelledby=", svg):
                problems.append(_at(lesson, cell.line, "an SVG among the outputs has neither <title> nor aria-label."))
    return problems


def _alt_in_metadata(output: Any, cell: Cell) -> bool:
    metadata = output.get("metadata") or {}
    return any(isinstance(m, dict) and str(m.get("alt", "")).strip() for m in [metadata, *metadata.values()])


def output_size(lesson: Lesson, notebook: Any) -> list[str]:
    """No output is longer than a screen or two."""
    problems = []
    for cell, output in _outputs(lesson, notebook):
        data = output.get("data") or {}
        if output["output_type"] == "error":
            continue
        shown = (
            _joined(output.get("text", "")) or _joined(data.get("text/html", "")) or _joined(data.get("text/plain", ""))
        )
        shown = re.sub(r"data:[\w/+;=-]*base64,[A-Za-z0-9+/=]+", "", shown)
        lines, size = shown.rstrip("\n").count("\n") + 1, len(shown)
        if "text/html" not in data and lines > OUTPUT_LINES:
            problems.append(_at(lesson, cell.line, f"an output has {lines} lines; {OUTPUT_LINES} are the limit."))
        if size > OUTPUT_CHARACTERS:
            problems.append(
                _at(lesson, cell.line, f"an output has {size:,} characters; {OUTPUT_CHARACTERS:,} are the limit.")
            )
    return problems


def output_errors(lesson: Lesson, notebook: Any) -> list[str]:
    """An error is shown only where the cell's tag announces it; no warning of a library is shown."""
    problems = []
    for cell, output in _outputs(lesson, notebook):
        if output["output_type"] == "error" and "raises-exception" not in cell.tags:
            problems.append(
                _at(
                    lesson,
                    cell.line,
                    f"the cell's output holds the error {output['ename']}, and its tags do not say so.",
                )
            )
        if re.search(r"^.*\b\w*Warning: ", _joined(output.get("text", "")), re.M) and output.get("name") == "stderr":
            problems.append(_at(lesson, cell.line, "the cell raises a warning: mend what it warns of."))
    return problems


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)


def _outputs(lesson: Lesson, notebook: Any) -> Iterator[tuple[Cell, Any]]:
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    for ours, run in zip(lesson.code_cells, cells, strict=False):
        for output in run.outputs:
            yield ours, output


OUTPUT_RULES: list[Callable[[Lesson, Any], list[str]]] = [output_alt, output_size, output_errors]


def output_problems(lesson: Lesson, notebook: Any) -> list[str]:
    """Everything that is wrong with the outputs of a page's last run."""
    return [problem for rule in OUTPUT_RULES for problem in rule(lesson, notebook)]


# --- all pages together ------------------------------------------------------------------------


def tasks_claimed_once() -> list[str]:
    """Every practice task of the plan is claimed by exactly one exercise, or by one day that is still planned."""
    claims: Counter[tuple[str, str]] = Counter()
    by: dict[tuple[str, str], list[str]] = {}
    for day in plan.days():
        for task in day.tasks:
            claims[day.section, task] += 1
            by.setdefault((day.section, task), []).append(f"day {day.number}")
    found = []
    wanted = {(s["number"], plan.text(t).zh) for s in plan.sections() for t in s["tasks"]}
    for section, task in sorted(wanted):
        count = claims[section, task]
        if count != 1:
            whose = f": {', '.join(by[section, task])}" if count else ""
            found.append(f"the practice task {task!r} of section {section} is claimed {count} times, not once{whose}.")
    for section, task in sorted(set(claims) - wanted):
        found.append(f"{', '.join(by[section, task])} claims {task!r}, which is no practice task of section {section}.")
    return found


def files_are_pages() -> list[str]:
    """Every file of a stage's folder and of labs/ is a lesson or a lab, the stage's index or its handbook; no two have one number."""
    found = []
    numbers: Counter[str] = Counter()
    for path in [*sorted(paths.BOOK.glob("stage*/*.md")), *sorted(paths.LABS.glob("*.md"))]:
        if path.name in ("index.md", "handbook.md", "README.md"):
            continue
        if not execution.is_page(path):
            found.append(
                f"{execution.relative(path)}: the name is neither dayNNN_slug.md nor lab_N_N_slug.md, so nothing tests it."
            )
            continue
        try:
            numbers[lessons.load(path).key] += 1
        except LessonError as error:
            found.append(str(error))
    found += [f"{key} has {count} files." for key, count in numbers.items() if count > 1]
    stems = {path.stem for path in execution.pages()}
    for path in sorted(paths.SOLUTIONS.glob("*.py")):
        if re.match(r"(day|lab)_?\d", path.stem) and path.stem not in stems:
            found.append(f"{execution.relative(path)}: no page has this name.")
    return found


def labels_are_unique() -> list[str]:
    """No label of an equation, a section or a figure stands twice in the book: a reference would go to either."""
    found: dict[str, list[str]] = {}
    for path in _sources():
        for label in _labels_of(path):
            found.setdefault(label, []).append(execution.relative(path))
    return [
        f"{pages[0]}:1: the label {label!r} stands also in {', '.join(pages[1:])}; a label is unique in the book."
        for label, pages in sorted(found.items())
        if len(pages) > 1
    ]


BOOK_RULES: list[Callable[[], list[str]]] = [tasks_claimed_once, files_are_pages, labels_are_unique]
