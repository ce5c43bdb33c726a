"""Lessons as notebooks that need no MyST renderer: Jupyter, Colab, VS Code, Binder.

:func:`portable_notebook` keeps every code cell as it is and turns each MyST
directive and role of the prose into plain Markdown. What it does not know is
an error that names the file and the line, so that nothing is dropped silently.

The module also holds the text of the cell that sets a page up on Colab
(:func:`colab_cell`) and the import check that this cell calls.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib
import importlib.metadata
import mimetypes
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

import llm180
from llm180 import lessons, paths

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from llm180.lessons import Lesson

EMBED_LIMIT = 1_000_000  # bytes; a larger image is linked, not embedded


class NotebookError(Exception):
    """A page cannot be turned into a notebook; the message names file and line."""


# --- where the project lives -----------------------------------------------------


@functools.lru_cache(maxsize=4)
def _read_config(path: Path, stamp: tuple[int, int]) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _config() -> dict[str, Any]:
    """``_config.yml`` of the clone; empty in an installed package, which has none."""
    path = paths.ROOT / "_config.yml"
    if not (paths.IN_CLONE and path.is_file()):
        return {}
    status = path.stat()
    return _read_config(path, (status.st_mtime_ns, status.st_size))


def repository() -> str:
    """The repository's address, as ``https://github.com/owner/name``.

    ``repository: url`` of ``_config.yml`` decides; an installed package, which
    has no such file, asks its own metadata. Raises :class:`NotebookError` where neither tells.
    """
    url = (_config().get("repository") or {}).get("url")
    if not url:
        try:
            entries = importlib.metadata.metadata("llm180").get_all("Project-URL") or []
        except importlib.metadata.PackageNotFoundError:
            entries = []
        named = dict(entry.split(", ", 1) for entry in entries)
        url = named.get("Repository")
    if not url:
        raise NotebookError("_config.yml names no repository: write `repository: {url: https://github.com/...}`.")
    return str(url).rstrip("/").removesuffix(".git")


def _branch() -> str:
    return str((_config().get("repository") or {}).get("branch") or "main")


def site_url() -> str:
    """The published book's address, ending in a slash: ``html: baseurl`` of ``_config.yml``, else GitHub Pages."""
    base = (_config().get("html") or {}).get("baseurl")
    if base:
        return str(base).rstrip("/") + "/"
    owner, name = repository().rstrip("/").split("/")[-2:]
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def _project_root() -> Path:
    """What a path with a leading slash on a page is relative to."""
    return paths.BOOK.parent


def _in_project(path: Path) -> PurePosixPath:
    """A file's path in the repository; the wheel's ``_book`` and ``_labs`` are mapped back."""
    for folder, name in ((paths.BOOK, "book"), (paths.LABS, "labs"), (paths.ROOT, "")):
        try:
            return PurePosixPath(name) / path.resolve().relative_to(folder.resolve()).as_posix()
        except ValueError:
            continue
    return PurePosixPath(path.name)


def page_url(path: Path) -> str:
    """The published page of a MyST source file."""
    return site_url() + str(_in_project(path).with_suffix(".html"))


def _file_url(path: Path) -> str:
    return f"{repository()}/raw/{_branch()}/{_in_project(path)}"


# --- references and labels -------------------------------------------------------


@dataclass(frozen=True)
class _Reference:
    authors: str
    year: str
    url: str | None


@functools.lru_cache(maxsize=4)
def _read_bibliography(path: Path, stamp: int) -> dict[str, _Reference]:
    try:
        from pybtex.database import parse_file
        from pybtex.richtext import Text
    except ImportError:  # a reader's installation has no need of it
        return {}
    references = {}
    for key, entry in parse_file(str(path), bib_format="bibtex").entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [str(Text.from_latex(" ".join([*p.prelast_names, *p.last_names]))) for p in people]
        if not names:
            authors = str(Text.from_latex(entry.fields.get("title", key)))
        elif len(names) > 2:
            authors = f"{names[0]} et al."
        else:
            authors = " and ".join(names)
        fields = entry.fields
        url = fields.get("url")
        if not url and "doi" in fields:
            url = "https://doi.org/" + fields["doi"].removeprefix("https://doi.org/")
        if not url and fields.get("archiveprefix", fields.get("eprinttype", "")).lower() == "arxiv":
            url = "https://arxiv.org/abs/" + fields["eprint"]
        references[key] = _Reference(authors, fields.get("year", "n.d."), url)
    return references


def _bibliography() -> dict[str, _Reference]:
    path = paths.BOOK / "references.bib"
    return _read_bibliography(path, path.stat().st_mtime_ns) if path.is_file() else {}


_TARGET = re.compile(r"^\(([^()\n]+)\)=[ \t]*\n(?:[ \t]*\n)*(?:#+[ \t]+(.+))?", re.M)


def _first_heading(text: str) -> str | None:
    found = re.search(r"^#[ \t]+(.+?)[ \t]*$", text, re.M)
    return found[1] if found else None


@functools.lru_cache(maxsize=1024)
def _labels_of(path: Path, stamp: int) -> dict[str, str]:
    """The explicit targets of a page with the heading that follows each (empty where none does)."""
    return {m[1]: m[2] or "" for m in _TARGET.finditer(path.read_text(encoding="utf-8"))}


def _find_label(label: str) -> tuple[Path, str] | None:
    for folder in (paths.BOOK, paths.LABS):
        for path in sorted(folder.rglob("*.md")):
            labels = _labels_of(path, path.stat().st_mtime_ns)
            if label in labels:
                return path, labels[label]
    return None


# --- MyST blocks -----------------------------------------------------------------

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,}|:{3,})[ \t]*(?P<info>.*)$")
_DIRECTIVE = re.compile(r"^\{(?P<name>[^}]+)\}[ \t]*(?P<argument>.*)$")


@dataclass
class _Fence:
    """A fenced block: a directive, or code where ``name`` is ``None``."""

    indent: str
    fence: str
    info: str
    name: str | None
    argument: str
    options: dict[str, str]
    body: list[str]
    line: int  # of the opening fence, 1-based, in the file
    body_line: int


def _blocks(lines: list[str], first: int, path: Path) -> Iterator[tuple[int, list[str]] | _Fence]:
    """Runs of prose as ``(line, lines)``, and fenced blocks, in order."""
    prose: list[str] = []
    prose_line = first
    i = 0
    while i < len(lines):
        opening = _OPENING.match(lines[i])
        if opening and opening["fence"][0] == "`" and "`" in opening["info"]:
            if opening["info"].startswith("{") and "}" in opening["info"]:
                raise NotebookError(f"{path}:{first + i}: a title that holds a backtick needs a fence of colons, :::.")
            opening = None  # code in a line of prose
        if not opening:
            prose.append(lines[i])
            i += 1
            continue
        if prose:
            yield prose_line, prose
            prose = []
        fence, indent = opening["fence"], opening["indent"]
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        end = next((j for j in range(i + 1, len(lines)) if closing.match(lines[j])), None)
        if end is None:
            raise NotebookError(f"{path}:{first + i}: this {fence} block is not closed.")
        body = [_unindent(line, len(indent)) for line in lines[i + 1 : end]]
        yield _directive(opening, body, first + i, path)
        i = end + 1
        prose_line = first + i
    if prose:
        yield prose_line, prose


def _unindent(line: str, columns: int) -> str:
    lead = len(line) - len(line.lstrip(" \t"))
    return line[min(lead, columns) :]


def _directive(opening: re.Match[str], body: list[str], line: int, path: Path) -> _Fence:
    info = opening["info"].strip()
    found = _DIRECTIVE.match(info)
    block = _Fence(opening["indent"], opening["fence"], info, None, "", {}, body, line, line + 1)
    if not found:
        if opening["fence"][0] == ":":
            raise NotebookError(f"{path}:{line}: a ::: block has to name its directive, as in :::{{note}}.")
        return block
    block.name, block.argument = found["name"].strip(), found["argument"].strip()
    taken = 0
    if body and body[0].strip() == "---":
        end = next((j for j in range(1, len(body)) if body[j].strip() == "---"), None)
        if end is None:
            raise NotebookError(f"{path}:{line}: the options of this directive are not closed by a line of ---.")
        options = yaml.safe_load("\n".join(body[1:end])) or {}
        block.options = {str(k): "" if v is None else str(v) for k, v in options.items()}
        taken = end + 1
    else:
        while taken < len(body) and (option := re.match(r"^:([\w-]+):[ \t]*(.*)$", body[taken])):
            block.options[option[1]] = option[2].strip()
            taken += 1
    while taken < len(body) and not body[taken].strip():
        taken += 1
    block.body = body[taken:]
    block.body_line += taken
    while block.body and not block.body[-1].strip():
        block.body.pop()
    return block


# --- one page --------------------------------------------------------------------

_ADMONITIONS = {
    "note": "Note",
    "tip": "Tip",
    "warning": "Warning",
    "important": "Important",
    "caution": "Caution",
    "attention": "Attention",
    "danger": "Danger",
    "seealso": "See also",
}

# Attributes, as in ![](figure.png){width=60%}: plain Markdown has none.
_ATTRIBUTES = r"(?:\{[^{}`\n]+\}(?!`))?"

# A role, or plain code (whose text is left alone), or a formula (likewise).
_INLINE = re.compile(
    r"(?<!\\)\{(?P<role>[a-zA-Z][\w:.+-]*)\}(?P<ticks>`+)(?P<text>(?:(?!\n[ \t]*\n).)+?)(?<!`)(?P=ticks)(?!`)"
    r"|(?P<code>(?P<code_ticks>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=code_ticks)(?!`))"
    + _ATTRIBUTES +
    r"|(?P<formula>(?<![\\$])\$(?![\s$])(?:(?!\n[ \t]*\n)[^$])*?(?<![\s\\])\$(?!\d))"
    r"|(?P<image>!\[(?P<alt>[^\]]*)\]\((?P<source>[^)\s]+)(?:\s+\"[^\"]*\")?\))"
    + _ATTRIBUTES +
    r"|(?P<link>(?<!!)\[(?P<label>[^\[\]]*)\]\((?P<target>[^)\s]+)\))"
    + _ATTRIBUTES +
    r"|(?<!!)\[(?P<span>[^\[\]]+)\]\{[^{}`\n]+\}(?!`)"
    r"|(?P<tag><img\b[^>]*>)"
    r"|\[\^(?P<note>[^\]\s]+)\](?P<defines>:)?",
    re.S,
)
_DISPLAY = re.compile(
    r"^(?P<indent>[ \t]*)\$\$(?P<tex>(?:(?!\$\$).)+?)\$\$[ \t]*(?:\((?P<label>[^()\s]+)\))?[ \t]*$", re.M | re.S
)
# LaTeX that stands by itself, and a term with its definition.
_AMSMATH = re.compile(
    r"^\\begin\{(?P<name>equation|align|gather|multline)\*?\}(?P<tex>.*?)^\\end\{(?P=name)\*?\}[ \t]*$", re.M | re.S
)
_DEFINITION = re.compile(r"^(?P<term>[^\s|>#:-].*)\n\n?:[ \t]+(?P<text>\S.*)$", re.M)
_TITLED = re.compile(r"^(?P<title>.*?)\s*<(?P<target>[^<>]+)>$", re.S)


@dataclass
class _Page:
    """One page on its way to a notebook: what is numbered, and what has been said."""

    lesson: Lesson
    attachments: dict[str, dict[str, str]] = field(default_factory=dict)
    equations: dict[str, int] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)
    footnotes: dict[str, int] = field(default_factory=dict)
    pointed: set[str] = field(default_factory=set)
    equation_count: int = 0
    figure_count: int = 0
    numbering: bool = True  # the first pass, which only numbers what later text refers to

    def fail(self, line: int, message: str) -> NotebookError:
        return NotebookError(f"{self.lesson.path}:{line}: {message}")

    def begin(self, *, numbering: bool) -> None:
        self.numbering = numbering
        self.equation_count = self.figure_count = 0
        self.pointed.clear()

    def convert(self, source: str, line: int) -> tuple[str, dict[str, dict[str, str]]]:
        """A cell's MyST as plain Markdown, and the images that travel with it."""
        self.attachments = {}
        return self.render(source.split("\n"), line), self.attachments

    # blocks

    def render(self, lines: list[str], line: int, *, flat: bool = False) -> str:
        """``flat`` puts each display formula on one line, as a quoted block needs it."""
        parts = []
        for block in _blocks(lines, line, self.lesson.path):
            if isinstance(block, _Fence):
                parts.append(_indented(self.block(block, flat), block.indent))
            else:
                parts.append(self.prose("\n".join(block[1]), block[0], flat))
        return _spaced(parts)

    def block(self, block: _Fence, flat: bool) -> str:
        if block.name is None:
            return "\n".join([block.fence + block.info, *block.body, block.fence])
        handler = self.handlers().get(block.name)
        if handler is None:
            known = ", ".join(sorted(self.handlers()))
            raise self.fail(block.line, f"no notebook can show the directive {{{block.name}}}; use one of: {known}.")
        return handler(block, flat)

    def handlers(self) -> dict[str, Callable[[_Fence, bool], str]]:
        named = {
            "exercise": self.exercise,
            "hint": self.help_line,
            "solution": self.help_line,
            "dropdown": self.dropdown,
            "admonition": self.admonition,
            "math": self.math,
            "figure": self.figure,
            "image": self.figure,
            "table": self.table,
            "list-table": self.list_table,
            "code-block": self.code,
            "code": self.code,
        }
        return named | {name: self.admonition for name in _ADMONITIONS}

    def body(self, block: _Fence, flat: bool) -> str:
        return self.render(block.body, block.body_line, flat=flat)

    def exercise(self, block: _Fence, flat: bool) -> str:
        names = [e.name for e in self.lesson.exercises]
        if block.argument not in names:
            listed = ", ".join(names) or "none"
            raise self.fail(block.line, f"the front matter lists no exercise {block.argument!r}; it lists {listed}.")
        card = self.lesson.exercise(block.argument)
        facts = [f"difficulty {card.difficulty}/5", f"about {card.minutes} minutes"]
        if card.task:
            facts.append(f"practice task: {self.task(card.task)}")
        head = f"**Exercise {names.index(card.name) + 1} · `{card.name}`** — {', '.join(facts)}"
        return f"{head}\n\n{self.body(block, flat)}"

    def task(self, task: str) -> str:
        """A practice task in English, with the plan's own words."""
        from llm180.dev import plan

        if not plan.PLAN_FILE.is_file():
            return task
        known = {t.zh: t.en for section in plan.sections() for t in map(plan.text, section["tasks"])}
        english = known.get(task, task)
        return task if english == task else f"{english} ({task})"

    def help_line(self, block: _Fence, flat: bool) -> str:
        """Hints and solution are not in the notebook; one line per exercise says how to ask for them."""
        name = block.argument.split()[0] if block.argument else ""
        if name not in [e.name for e in self.lesson.exercises]:
            raise self.fail(block.line, f"{{{block.name}}} has to name an exercise of the front matter, not {name!r}.")
        if name in self.pointed:
            return ""
        self.pointed.add(name)
        return (
            f'*Stuck?* `day.hint("{name}")` gives one hint more each call; '
            f'`day.solution("{name}")` shows the reference.'
        )

    def dropdown(self, block: _Fence, flat: bool) -> str:
        opening = "<details open>" if "open" in block.options else "<details>"
        summary = _as_html(self.inline(block.argument, block.line))
        return f"{opening}\n<summary>{summary}</summary>\n\n{self.body(block, flat)}\n\n</details>"

    def admonition(self, block: _Fence, flat: bool) -> str:
        if "dropdown" in block.options.get("class", "").split():
            return self.dropdown(block, flat)
        if block.name == "admonition":
            title, lines, line = self.inline(block.argument, block.line), block.body, block.body_line
        else:  # text beside the name of a note is its first line
            title = _ADMONITIONS[block.name or ""]
            lines = [block.argument, *block.body] if block.argument else block.body
            line = block.line if block.argument else block.body_line
        return _quoted(f"**{title}**\n\n{self.render(lines, line, flat=True)}")

    def math(self, block: _Fence, flat: bool) -> str:
        lines = [block.argument, *block.body] if block.argument else block.body
        return self.display("\n".join(lines), block.options.get("label") or block.options.get("name"), flat)

    def display(self, tex: str, label: str | None, flat: bool) -> str:
        rows = [row for row in tex.strip().split("\n") if not row.lstrip().startswith("%")]
        # An empty line ends a paragraph in Markdown, a formula's line in Sphinx.
        formulas = [f.strip() for f in re.split(r"\n[ \t]*\n", "\n".join(rows)) if f.strip()]
        formulas = [
            f"\\begin{{aligned}}{f}\\end{{aligned}}" if "\\\\" in f and "\\begin{" not in f else f for f in formulas
        ]
        tex = formulas[0] if len(formulas) == 1 else "\\begin{gathered}" + " \\\\\n".join(formulas) + "\\end{gathered}"
        if label:
            self.equation_count += 1
            self.equations[label] = self.equation_count
            tex += f" \\tag{{{self.equation_count}}}"
        if flat:
            return f"$${' '.join(tex.split())}$$"
        return f"$$\n{tex}\n$$"

    def figure(self, block: _Fence, flat: bool) -> str:
        if not block.argument:
            raise self.fail(block.line, f"{{{block.name}}} names no image file.")
        alt = " ".join(block.options.get("alt", "").split())
        shown = self.image(alt, block.argument, block.line)
        if block.name == "image":
            return shown
        self.figure_count += 1
        if name := block.options.get("name"):
            self.figures[name] = self.figure_count
        caption = self.body(block, flat)
        paragraphs = caption.split("\n\n") if caption else []
        if paragraphs:
            paragraphs[0] = f"**Figure {self.figure_count}.** {paragraphs[0]}"
        return "\n\n".join([shown, *paragraphs])

    def table(self, block: _Fence, flat: bool) -> str:
        title = f"**{self.inline(block.argument, block.line)}**\n\n" if block.argument else ""
        return title + self.body(block, flat)

    def list_table(self, block: _Fence, flat: bool) -> str:
        rows: list[list[str]] = []
        for offset, line in enumerate(block.body):
            row = re.match(r"^[*-][ \t]+[*-](?:[ \t]+(.*))?$", line)
            cell = re.match(r"^[ \t]+[*-](?:[ \t]+(.*))?$", line)
            if row:
                rows.append([row[1] or ""])
            elif cell and rows:
                rows[-1].append(cell[1] or "")
            elif rows:
                rows[-1][-1] += " " + line.strip()
            elif line.strip():
                raise self.fail(block.body_line + offset, "a row of a {list-table} begins with `* - `.")
        if len({len(row) for row in rows}) > 1:
            raise self.fail(block.line, "the rows of this {list-table} differ in length.")
        cells = [[self.inline(c.strip(), block.body_line).replace("|", r"\|") for c in row] for row in rows]
        heads = int(block.options.get("header-rows") or 0)
        width = len(rows[0]) if rows else 0
        head = cells[:heads] or [[""] * width]
        lines = [*head[:1], ["---"] * width, *head[1:], *cells[heads:]]
        text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
        title = f"**{self.inline(block.argument, block.line)}**\n\n" if block.argument else ""
        return title + text

    def code(self, block: _Fence, flat: bool) -> str:
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"^`{3,}", "\n".join(block.body), re.M)), 3)
        caption = block.options.get("caption")
        title = f"**{self.inline(caption, block.line)}**\n\n" if caption else ""
        return title + "\n".join([fence + block.argument, *block.body, fence])

    # prose

    def prose(self, text: str, line: int, flat: bool) -> str:
        text = _AMSMATH.sub(_dollars, text)
        parts: list[str] = []
        start = 0
        for formula in _DISPLAY.finditer(text):
            parts.append(self.paragraphs(text[start : formula.start()], line + text.count("\n", 0, start)))
            parts.append(_indented(self.display(formula["tex"], formula["label"], flat), formula["indent"]))
            start = formula.end()
        parts.append(self.paragraphs(text[start:], line + text.count("\n", 0, start)))
        return _spaced(parts)

    def paragraphs(self, text: str, line: int) -> str:
        kept = [
            row
            for row in text.split("\n")
            if not (row.startswith(("%", "+++")) or re.match(r"^\([^()\n]+\)=[ \t]*$", row))
        ]
        if len(kept) != len(text.split("\n")):
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept))
        return self.inline(_DEFINITION.sub(r"- **\g<term>**: \g<text>", text), line)

    def inline(self, text: str, line: int) -> str:
        def replaced(match: re.Match[str]) -> str:
            at = line + text.count("\n", 0, match.start())
            if match["role"]:
                return self.role(match["role"], match["text"].strip(), at)
            if match["image"]:
                return self.image(match["alt"], match["source"], at)
            if match["link"]:
                return self.link(match["label"], match["target"], at)
            if match["tag"]:
                return self.image_tag(match["tag"], at)
            if match["formula"]:  # a quoted block puts its mark before each line, formulas included
                return match["formula"].replace("\n", " ")
            if match["code"]:
                return match["code"]
            if match["span"]:
                return self.inline(match["span"], at)
            if match["note"]:
                number = self.footnotes.setdefault(match["note"], len(self.footnotes) + 1)
                return f"<sup>{number}</sup>"
            return match[0]

        return _INLINE.sub(replaced, text)

    # roles, links, images

    def role(self, name: str, text: str, line: int) -> str:
        titled = _TITLED.match(text)
        title, target = (titled["title"], titled["target"].strip()) if titled else ("", text)
        match name:
            case "math":
                return f"${text}$"
            case "cite" | "cite:p" | "cite:ps" | "cite:t" | "cite:ts" | "cite:author" | "cite:year":
                return self.cite(name, [key.strip() for key in text.split(",")], line)
            case "doc":
                return self.page_link(title, target, line)
            case "ref":
                return self.label_link(title, target, line)
            case "eq":
                if target not in self.equations and not self.numbering:
                    raise self.fail(line, f"no equation of this page has the label {target!r}.")
                return f"({self.equations.get(target, 0)})"
            case "numref":
                if target not in self.figures and not self.numbering:
                    raise self.fail(line, f"no figure of this page has the name {target!r}.")
                number = str(self.figures.get(target, 0))
                return (title or "Figure %s").replace("%s", number).replace("{number}", number)
            case "term":
                return title or target
            case "download":
                path = self.locate(target, line)
                return f"[{title or path.name}]({_file_url(path)})"
            case "code" | "file" | "kbd" | "command":
                return f"`{text}`"
            case "abbr":
                return text
            case "sub" | "sup":
                return f"<{name}>{html.escape(text)}</{name}>"
        raise self.fail(line, f"no notebook can show the role {{{name}}}.")

    def cite(self, role: str, keys: list[str], line: int) -> str:
        known = _bibliography()
        shown = []
        for key in keys:
            entry = known.get(key)
            if entry is None:
                if known:
                    raise self.fail(line, f"book/references.bib has no entry {key!r}.")
                shown.append(f"[{key}]")
                continue
            text = {
                "cite:author": entry.authors,
                "cite:year": entry.year,
                "cite:t": f"{entry.authors} ({entry.year})",
                "cite:ts": f"{entry.authors} ({entry.year})",
            }.get(role, f"{entry.authors}, {entry.year}")
            shown.append(f"[{text}]({entry.url})" if entry.url else text)
        joined = "; ".join(shown)
        return f"({joined})" if role in ("cite", "cite:p", "cite:ps") and known else joined

    def locate(self, target: str, line: int) -> Path:
        """The file that a path on this page means: a leading slash is the project's root."""
        path = _project_root() / target.lstrip("/") if target.startswith("/") else self.lesson.path.parent / target
        if target.startswith(("/book/", "/labs/")):  # an installed package keeps them under other names
            folder = paths.BOOK if target.startswith("/book/") else paths.LABS
            path = folder / target[len("/book/") :]
        if not path.is_file():
            raise self.fail(line, f"there is no file {target!r}.")
        return path

    def page_link(self, title: str, target: str, line: int) -> str:
        """Pages that are not written yet are left to the book's own build to complain of."""
        anchor = ""
        if "#" in target:
            target, _, anchor = target.partition("#")
            anchor = "#" + anchor
        path = self.locate(target if target.endswith(".md") else target + ".md", line)
        title = title or _first_heading(path.read_text(encoding="utf-8")) or path.stem
        return f"[{title}]({page_url(path)}{anchor})"

    def label_link(self, title: str, label: str, line: int) -> str:
        found = _find_label(label)
        if found is None:
            own = {m[1]: m[2] or "" for cell in self.lesson.cells for m in _TARGET.finditer(cell.source)}
            if label in own:
                return title or own[label] or label
            for page in lessons.all_pages() if label.lower().startswith("ex-") else ():
                for i, exercise in enumerate(page.exercises):
                    if label.lower() == f"ex-{page.key}-{exercise.name}".lower():
                        text = title or f"Exercise {i + 1} · {exercise.name}"
                        own_page = page.path == self.lesson.path
                        return text if own_page else f"[{text}]({page_url(page.path)}#ex-{page.key}-{exercise.name})"
            if label in self.figures:
                return title or f"Figure {self.figures[label]}"
            if self.numbering:
                return title
            raise self.fail(line, f"no page has the label {label!r}.")
        path, heading = found
        text = title or heading or label
        return text if path == self.lesson.path else f"[{text}]({page_url(path)}#{_anchor(label)})"

    def link(self, label: str, target: str, line: int) -> str:
        if re.match(r"^[a-z][a-z0-9+.-]*:", target):
            return f"[{self.inline(label, line)}]({target})"
        label = self.inline(label, line)
        if target.startswith("#"):
            return label if label else self.label_link("", target[1:], line)
        if target.partition("#")[0].endswith(".md"):
            return self.page_link(label, target, line)
        path = self.locate(target, line)
        return f"[{label or path.name}]({_file_url(path)})"

    def image(self, alt: str, source: str, line: int) -> str:
        return f"![{alt}]({self.image_source(source, line)})"

    def image_source(self, source: str, line: int) -> str:
        """An image that lies in the project travels inside the notebook, so that it shows offline.

        JupyterLab shows no SVG that is attached to a cell, so that one goes into the text.
        """
        if re.match(r"^(https?|data):", source):
            return source
        path = self.locate(source, line)
        if path.stat().st_size > EMBED_LIMIT:
            return _file_url(path)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        if kind == "image/svg+xml":
            return f"data:{kind};base64,{content}"
        self.attachments[path.name] = {kind: content}
        return f"attachment:{path.name}"

    def image_tag(self, tag: str, line: int) -> str:
        """An ``<img>`` of a local file becomes a Markdown image; one with a full address stays."""
        source = re.search(r"""\bsrc=["']([^"']+)["']""", tag)
        if not source or re.match(r"^(https?|data|attachment):", source[1]):
            return tag
        alt = re.search(r"""\balt=["']([^"']*)["']""", tag)
        return self.image(html.unescape(alt[1]) if alt else "", source[1], line)


def _spaced(parts: list[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _dollars(block: re.Match[str]) -> str:
    """A LaTeX environment as a display formula, on as many lines."""
    inner = {"equation": "{}", "gather": "\\begin{{gathered}}{}\\end{{gathered}}"}
    return "$$" + inner.get(block["name"], "\\begin{{aligned}}{}\\end{{aligned}}").format(block["tex"]) + "$$"


def _indented(text: str, indent: str) -> str:
    return "\n".join(indent + row if row.strip() else row for row in text.split("\n"))


def _quoted(text: str) -> str:
    return "\n".join(f"> {row}".rstrip() for row in text.split("\n"))


def _anchor(label: str) -> str:
    """The fragment that Sphinx gives a label on the built page."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def _as_html(markdown: str) -> str:
    """One line of Markdown for inside ``<summary>``, where Markdown is not read: code, emphasis, formulas."""
    pieces = re.split(r"(`[^`]+`|\$[^$]+\$)", markdown)
    shown = []
    for piece in pieces:
        if piece.startswith("`") and len(piece) > 1:
            shown.append(f"<code>{html.escape(piece[1:-1], quote=False)}</code>")
        elif piece.startswith("$") and len(piece) > 1:
            shown.append(piece.replace("<", r"\lt ").replace(">", r"\gt "))
        else:
            piece = re.sub(r"\[([^\]]*)\]\(([^)]*)\)", r"\1", piece)
            piece = html.escape(piece, quote=False)
            piece = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", piece)
            shown.append(re.sub(r"(?<![\w*])\*(.+?)\*(?!\w)", r"<em>\1</em>", piece))
    return "".join(shown)


# --- notebooks -------------------------------------------------------------------


def portable_notebook(lesson: Lesson) -> NotebookNode:
    """The lesson as a notebook (nbformat 4.5) in plain Markdown, without outputs.

    Code cells and their tags are unchanged. Cell ids are derived from the
    content, so that the same lesson gives the same file. Raises
    :class:`NotebookError` for what plain Markdown cannot show, with file and line.
    """
    from nbformat import v4

    page = _Page(lesson)
    for numbering in (True, False):
        page.begin(numbering=numbering)
        converted = [
            page.convert(cell.source, cell.line) if cell.kind == "markdown" else (cell.source, {})
            for cell in lesson.cells
        ]
    cells: list[NotebookNode] = []
    seen: dict[str, int] = {}
    for cell, (source, attachments) in zip(lesson.cells, converted, strict=True):
        if not source.strip():
            continue  # it held nothing but hints
        if not cells and cell.kind == "markdown":
            source += f"\n\n*This notebook as a page of the book: [{lesson.label}]({page_url(lesson.path)}).*"
        metadata: dict[str, Any] = {"tags": list(cell.tags)} if cell.tags else {}
        if cell.kind == "code" and {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(cell.tags):
            metadata["jupyter"] = {"source_hidden": True}
        new = v4.new_code_cell if cell.kind == "code" else v4.new_markdown_cell
        node = new(source, metadata=metadata)
        if attachments:
            node["attachments"] = attachments
        node["id"] = cell_id(lesson.key, cell.kind, source, seen)
        cells.append(node)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "llm180": {"lesson": lesson.key, "version": llm180.__version__},
    }
    if lesson.facts.get("gpu"):  # Colab then starts with a GPU
        metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}
    return v4.new_notebook(cells=cells, metadata=metadata)


def plain_markdown(lesson: Lesson, markdown: str) -> str:
    """A piece of the lesson's MyST, a hint say, as plain Markdown for display in a notebook.

    Images come as data addresses. Raises :class:`NotebookError` as :func:`portable_notebook` does.
    """
    page = _Page(lesson)
    page.begin(numbering=True)
    for cell in lesson.cells:
        if cell.kind == "markdown":
            page.convert(cell.source, cell.line)
    page.numbering = False
    text, attachments = page.convert(markdown, 1)
    for name, content in attachments.items():
        for kind, encoded in content.items():
            text = text.replace(f"(attachment:{name})", f"(data:{kind};base64,{encoded})")
    return text


def cell_id(key: str, kind: str, source: str, seen: dict[str, int]) -> str:
    """A cell id that depends on nothing but the content; equal cells are numbered through ``seen``."""
    digest = hashlib.sha256(f"{kind}\n{source}".encode()).hexdigest()[:10]
    seen[digest] = seen.get(digest, 0) + 1
    repeat = f"-{seen[digest]}" if seen[digest] > 1 else ""
    return f"{key}-{digest}{repeat}"


def notebook_text(node: NotebookNode) -> str:
    """A notebook as the text of its file, after validation."""
    import nbformat

    nbformat.validate(node)
    text = nbformat.writes(node, version=4)
    return text if text.endswith("\n") else text + "\n"


def working_copy(lesson: Lesson, path: Path) -> Path:
    """Write the lesson's notebook to ``path`` for the reader to work in.

    The file appears whole or not at all. Raises :class:`FileExistsError` where
    there is a file already, which is left as it is.
    """
    text = notebook_text(portable_notebook(lesson))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise FileExistsError(f"{path} is there already; it is left as it is.")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        try:
            os.link(temporary, path)  # unlike a rename, this refuses to replace a file
        except FileExistsError:
            raise FileExistsError(f"{path} is there already; it is left as it is.") from None
        except OSError:  # a file system without hard links: reserve the name, then fill it
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                raise FileExistsError(f"{path} is there already; it is left as it is.") from None
            os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


# --- Colab -----------------------------------------------------------------------

_COLAB_CELL = '''\
# On Colab this cell installs the toolkit and the solutions; anywhere else it does nothing.
import importlib.util, os, subprocess, sys

if "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ:
    if importlib.util.find_spec("llm180") is None:
        toolkit = "llm180 @ git+REPOSITORY"
        install = [sys.executable, "-m", "pip", "install", "--quiet", toolkit]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"llm180 was not installed. Try this cell again; pip said:\\n{done.stderr.strip()[-600:]}")
    from llm180.notebooks import colab_ready
    colab_ready()'''


def colab_cell(repository: str) -> str:
    """The source of the set-up cell of every lesson and lab, for a repository's address."""
    return _COLAB_CELL.replace("REPOSITORY", repository)


def colab_ready() -> None:
    """Check on Colab that what a page imports can be imported; say so in one line, or what to do.

    Raises :class:`SystemExit` with that advice, which stops a "run all" without a traceback.
    """
    restart = "Choose Runtime > Restart session, then run this cell again."
    versions = []
    for name in ("numpy", "torch", "llm180"):
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken binary raises whatever it likes
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise SystemExit(
                f"{name} cannot be imported ({reason}). {restart} "
                "If that does not help: Runtime > Disconnect and delete runtime, then run this cell again."
            ) from None
        running = str(getattr(module, "__version__", "?"))
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = running
        if installed.split("+")[0] != running.split("+")[0]:
            raise SystemExit(f"{name} {installed} is installed, but {running} is still loaded. {restart}")
        versions.append(f"{name} {running}")
    torch = sys.modules["torch"]
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    print(f"Ready: {', '.join(versions)}; {device}.")
