"""What the book adds to Sphinx: exercise cards, hints, solutions, and what comes from front matter.

Directives of a lesson::

    ```{exercise} Matrix      a card: difficulty, minutes, task and signature are drawn, the body is Markdown
    ```{hint} Matrix          a folded hint; the page numbers them
    ```{solution} Matrix      the answer's source, folded, drawn from the solution module

Directives of other pages: ``{stage-lessons} 1`` or ``{stage-lessons} 1.1`` lists
a stage's or a section's days, ``{coverage}`` says where each part of the plan is held.

The line under a lesson's title, the launch and download buttons, and the
notebook that the site offers are made from the lesson as well. What is used
wrongly is a warning with file and line, which ``-W`` turns into a failed build.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import tokenize
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_design.shared import create_component

from llm180 import lessons, mistakes, notebooks, paths
from llm180.dev import execution, plan
from llm180.dev.search import SearchEnglishChinese

logger = logging.getLogger(__name__)

COLAB = "https://colab.research.google.com/github"
BINDER = "https://mybinder.org/v2/gh"
NOTEBOOKS_BRANCH = "notebooks"
NOTEBOOKS_FOLDER = "_notebooks"  # in the built site


# --- the page being read ---------------------------------------------------------


def is_page(env: BuildEnvironment, docname: str) -> bool:
    """True for a lesson or a lab."""
    return execution.is_page(Path(env.doc2path(docname)))


def lesson_of(env: BuildEnvironment) -> lessons.Lesson | None:
    """The lesson or lab that is being read, or ``None`` on any other page."""
    if "llm180_lesson" not in env.temp_data:
        env.temp_data["llm180_lesson"] = None
        if is_page(env, env.docname):
            env.temp_data["llm180_lesson"] = lessons.load(Path(env.doc2path(env.docname)), paths.SOLUTIONS)
    return env.temp_data["llm180_lesson"]


def lists_days(env: BuildEnvironment) -> None:
    """Remember that this page shows facts of other pages: it is read again when one of them changes."""
    env.llm180_lists = {*getattr(env, "llm180_lists", ()), env.docname}  # type: ignore[attr-defined]


# --- source of answers -----------------------------------------------------------


def _definition(source: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef:
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return node
    raise mistakes.MistakeError(f"the module defines no {name}")


def _head(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """A definition's first line or lines, up to its colon, as the author broke them."""
    depth = 0
    text = "\n".join(lines[node.lineno - 1 :])
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.type == tokenize.OP and token.string == ":" and depth == 0:
            row, column = token.end
            kept = lines[node.lineno - 1 : node.lineno - 1 + row]
            kept[-1] = kept[-1][:column]
            return "\n".join(kept)
    raise AssertionError("a definition has a colon")


def signature(source: str, name: str) -> str:
    """What the reader writes: a function's head, or a class's with its public methods."""
    lines = source.split("\n")
    node = _definition(source, name)
    if not isinstance(node, ast.ClassDef):
        return _head(lines, node) + " ..."
    parts = [*(lines[d.lineno - 1] for d in node.decorator_list), _head(lines, node)]
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            parts += lines[member.lineno - 1 : member.end_lineno]
        if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if member.name.startswith("_") and not member.name.endswith("__"):
                continue
            parts += [lines[d.lineno - 1] for d in member.decorator_list]
            parts.append(_head(lines, member) + " ...")
    if len(parts) == 1:
        parts[0] += " ..."
    return "\n".join(parts)


# --- small nodes -----------------------------------------------------------------


def _div(*classes: str) -> nodes.container:
    return nodes.container(is_div=True, classes=list(classes))


def _generated(node: nodes.Element) -> nodes.Element:
    """Text that the extension makes: not for translators."""
    node["translatable"] = False
    return node


def _paragraph(*children: nodes.Node, classes: tuple[str, ...] = ()) -> nodes.paragraph:
    return _generated(nodes.paragraph("", "", *children, classes=list(classes)))  # type: ignore[return-value]


def _zh(text: str) -> nodes.inline:
    return nodes.inline("", text, classes=["zh", "language-zh-Hans"])


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def _link(url: str, text: str, *classes: str) -> nodes.reference:
    return nodes.reference("", text, refuri=url, internal=False, classes=list(classes))


def _doc_link(docname: str, text: str, source: str, classes: tuple[str, ...] = ()) -> addnodes.pending_xref:
    """A link to another page of the book."""
    return addnodes.pending_xref(
        "",
        nodes.inline("", text, classes=["doc", *classes]),
        refdomain="std",
        reftype="doc",
        reftarget="/" + docname,
        refdoc=source,
        refexplicit=True,
        refwarn=True,
    )


def _label_link(label: str, text: str, source: str) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "",
        nodes.inline("", text),
        refdomain="std",
        reftype="ref",
        reftarget=label,
        refdoc=source,
        refexplicit=True,
        refwarn=True,
    )


def _dropdown(title: str, *classes: str) -> nodes.container:
    """sphinx-design's folded block."""
    container = create_component(
        "dropdown",
        opened=False,
        type="dropdown",
        has_title=True,
        icon=None,
        chevron=None,
        container_classes=["sd-mb-3", *classes],
        title_classes=[],
        body_classes=[],
    )
    container += _generated(nodes.rubric("", title))
    return container


def _python(source: str) -> nodes.literal_block:
    return nodes.literal_block(source, source, language="python")


def _dots(difficulty: int) -> nodes.raw:
    """Five dots, for readers of a screen one phrase."""
    filled = min(max(difficulty, 0), 5)
    dots = "●" * filled + '<span class="off">' + "●" * (5 - filled) + "</span>"
    return _html(
        f'<span class="difficulty"><span aria-hidden="true">{dots}</span>'
        f'<span class="sr">difficulty {difficulty} of 5</span></span>'
    )


def _table(head: list[str], rows: list[list[list[nodes.Node]]], widths: list[int], *classes: str) -> nodes.Element:
    """A table from cells, each a list of inline nodes, in a frame that scrolls sideways where it is too wide."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]

    def row(cells: list[list[nodes.Node]]) -> nodes.row:
        made = nodes.row()
        for cell in cells:
            made += nodes.entry("", _paragraph(*cell))
        return made

    group += nodes.thead("", row([[nodes.Text(text)] for text in head]))
    group += nodes.tbody("", *(row(cells) for cells in rows))
    frame = _div("pst-scrollable-table-container")
    frame += nodes.table("", group, classes=["plan", *classes])
    return frame


# --- lessons: cards, hints, solutions ----------------------------------------------


class LessonDirective(SphinxDirective):
    """A block that belongs to one exercise of the page's front matter."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0].strip()
        lesson = lesson_of(self.env)
        if lesson is None:
            return self._warn(f"{{{self.name}}} stands on a lesson or a lab; this page is neither")
        try:
            exercise = lesson.exercise(name)
        except lessons.LessonError as error:
            return self._warn(str(error))
        self.env.note_dependency(str(lesson.solution_path))
        try:
            source = lesson.solution_path.read_text(encoding="utf-8")
        except OSError:
            return self._warn(f"{{{self.name}}} {name}: there is no {self.module(lesson)}")
        try:
            return self.build(lesson, exercise, source)
        except SyntaxError as error:
            return self._warn(f"{{{self.name}}} {name}: {self.module(lesson)} does not parse: {error}")
        except mistakes.MistakeError:
            return self._warn(f"{{{self.name}}} {name}: {self.module(lesson)} defines no {name}")

    @staticmethod
    def module(lesson: lessons.Lesson) -> str:
        return lesson.solution_path.relative_to(paths.ROOT).as_posix()

    def _warn(self, message: str) -> list[nodes.Node]:
        logger.warning(message, location=self.get_location(), type="llm180")
        return []

    def body(self, into: nodes.Element) -> None:
        self.state.nested_parse(self.content, self.content_offset, into)

    def build(self, lesson: lessons.Lesson, exercise: lessons.Exercise, source: str) -> list[nodes.Node]:
        raise NotImplementedError


class ExerciseDirective(LessonDirective):
    """The card of an exercise."""

    def build(self, lesson: lessons.Lesson, exercise: lessons.Exercise, source: str) -> list[nodes.Node]:
        number = 1 + [e.name for e in lesson.exercises].index(exercise.name)
        label = f"ex-{lesson.key}-{exercise.name}"
        title = f"Exercise {number} · {exercise.name}"
        card = nodes.admonition(classes=["exercise"], ids=[label])
        self.set_source_info(card)
        card += _generated(nodes.title("", "", nodes.Text(f"Exercise {number} · "), nodes.literal("", exercise.name)))
        facts: list[nodes.Node] = [_dots(exercise.difficulty), nodes.Text(f" · about {exercise.minutes} minutes")]
        card += _paragraph(*facts, classes=("facts",))
        if exercise.task:
            card += _paragraph(nodes.Text("Practice task: "), *self.task(lesson, exercise.task), classes=("task",))
        card += _python(signature(source, exercise.name))
        self.body(card)
        self.register(label, title)
        return [card]

    def task(self, lesson: lessons.Lesson, task: str) -> list[nodes.Node]:
        tasks = {t.zh: t.en for t in map(plan.text, plan.section(lesson.section)["tasks"])}
        if task not in tasks:
            self._warn(f"the plan's section {lesson.section} has no practice task {task!r}")
        return [nodes.Text(tasks.get(task, "") + " "), _zh(task)]

    def register(self, label: str, title: str) -> None:
        """Make ``{ref}`ex-day001-Matrix``` work; Sphinx looks labels up in lower case."""
        domain = self.env.get_domain("std")
        domain.labels[label.lower()] = (self.env.docname, label, title)  # type: ignore[attr-defined]
        domain.anonlabels[label.lower()] = (self.env.docname, label)  # type: ignore[attr-defined]


class HintDirective(LessonDirective):
    """A folded hint. Without an exercise's name it is a plain admonition, as elsewhere."""

    def build(self, lesson: lessons.Lesson, exercise: lessons.Exercise, source: str) -> list[nodes.Node]:
        counts = self.env.temp_data.setdefault("llm180_hints", {})
        counts[exercise.name] = counts.get(exercise.name, 0) + 1
        fold = _dropdown(f"Hint {counts[exercise.name]}", "hint")
        self.set_source_info(fold)
        self.body(fold)
        return [fold]


class SolutionDirective(LessonDirective):
    """The answer's source, folded."""

    def build(self, lesson: lessons.Lesson, exercise: lessons.Exercise, source: str) -> list[nodes.Node]:
        fold = _dropdown("Solution", "solution")
        self.set_source_info(fold)
        module = self.module(lesson)
        url = f"{notebooks.repository()}/blob/main/{module}"
        where = nodes.reference("", "", nodes.literal("", module), refuri=url, internal=False)
        fold += _paragraph(where, classes=("module",))
        fold += _python(mistakes.answer_source(source, exercise.name))
        self.body(fold)
        return [fold]


def add_page_header(app: Sphinx, doctree: nodes.document) -> None:
    """The line under a lesson's title: where it stands, how long it takes, what it builds on, where it runs."""
    env = app.env
    if not is_page(env, env.docname):
        return
    if app.builder.format == "html":
        stamps = getattr(env, "llm180_outputs", {})
        stamps[env.docname] = execution.outputs_stamp(Path(env.doc2path(env.docname)))
        env.llm180_outputs = stamps  # type: ignore[attr-defined]
    lesson = lesson_of(env)
    title = next(doctree.findall(nodes.title), None)
    if lesson is None or title is None:
        return
    here = env.docname
    try:
        section = plan.section(lesson.section)
    except KeyError as error:
        logger.warning(str(error.args[0]), location=here, type="llm180")
        return
    facts: list[list[nodes.Node]] = [
        [_doc_link(f"book/stage{lesson.stage}/index", f"Stage {lesson.stage}", here)],
        [_label_link(f"section-{lesson.section}", f"{lesson.section} {section['title']}", here)],
        [nodes.Text(f"{lesson.minutes} minutes")],
    ]
    if lesson.builds_on:
        lists_days(env)
        written = {day.number: day for day in plan.days() if day.written}
        links: list[nodes.Node] = [nodes.Text("builds on ")]
        for i, number in enumerate(lesson.builds_on):
            links += [nodes.Text(", ")] if i else []
            text = f"Day {number}"
            links.append(_doc_link(written[number].docname, text, here) if number in written else nodes.Text(text))
        facts.append(links)
    if lesson.is_lab:
        need = lesson.facts
        parts = [f"{need['colab_minutes']} minutes of it running"] if need.get("colab_minutes") else []
        parts += [f"on a {need['gpu']}"] if isinstance(need.get("gpu"), str) else []
        parts += [f"{need['memory_gb']} GB of GPU memory"] if need.get("memory_gb") else []
        facts += [[nodes.Text(", ".join(parts))]] if parts else []
    line: list[nodes.Node] = []
    for i, fact in enumerate(facts):
        line += [_html('<span class="sep"> · </span>')] if i else []
        line += fact
    up = "../" * here.count("/")
    buttons = [
        _link(colab_url(lesson), "Open in Colab", "run"),
        _link(binder_url(lesson), "Open in Binder", "run"),
        _link(up + download_path(lesson), "Download the notebook", "run"),
    ]
    header = _div("page-facts")
    header += _paragraph(_zh(lesson.title_zh), classes=("title-zh",))
    header += _paragraph(*line)
    header += _paragraph(*[n for b in buttons for n in (b, nodes.Text(" "))], classes=("runs",))
    if missing := execution.lacking(lesson.path):
        told = f"Shown without its outputs: {', '.join(missing)} not installed when the book was built. "
        header += _paragraph(nodes.Text(told), nodes.literal("", "llm180 setup lessons"), nodes.Text(" installs it."))
    section_node = title.parent
    section_node.insert(section_node.index(title) + 1, header)


# --- plan: lists and coverage --------------------------------------------------------


def _day_links(days: list[plan.Day], source: str) -> list[nodes.Node]:
    """``D1, D2``: links where written, marked where planned."""
    found: list[nodes.Node] = []
    for i, day in enumerate(days):
        found += [nodes.Text(", ")] if i else []
        text = f"D{day.number}"
        if day.written:
            found.append(_doc_link(day.docname, text, source))
        else:
            found.append(nodes.inline("", text, classes=["planned"]))
    return found


class StageLessons(SphinxDirective):
    """The days of a stage (``1``) or of a section (``1.1``), with the section's lab."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        wanted = self.arguments[0].strip()
        lists_days(self.env)
        chosen = [s for s in plan.sections() if wanted in (s["number"], s["number"].split(".")[0])]
        if not chosen:
            logger.warning(f"the plan has no stage or section {wanted}", location=self.get_location(), type="llm180")
        found: list[nodes.Node] = []
        for section in chosen:
            if wanted != section["number"]:
                found.append(_generated(nodes.rubric("", f"{section['number']} {section['title']}")))
            found.append(self.table(section["number"]))
        return found

    def table(self, section: str) -> nodes.Element:
        here = self.env.docname
        rows: list[list[list[nodes.Node]]] = []
        for day in plan.days():
            if day.section != section:
                continue
            title: nodes.Node = nodes.Text(day.title)
            state: list[nodes.Node] = [nodes.inline("", "planned", classes=["planned"])]
            if day.written:
                title = _doc_link(day.docname, day.title, here)
                state = [nodes.Text(f"{day.minutes} min")]
            rows.append([[nodes.Text(f"D{day.number}")], [title, _html("<br/>"), _zh(day.title_zh)], state])
        for lab in lessons.all_labs():
            if lab.section == section:
                link = _doc_link(f"labs/{lab.stem}", lab.title, here)
                rows.append([[nodes.Text("Lab")], [link, _html("<br/>"), _zh(lab.title_zh)], [nodes.Text(f"{lab.minutes} min")]])
        return _table(["Day", "Lesson", ""], rows, [8, 72, 20], "days")


class Coverage(SphinxDirective):
    """Every topic, tool, task and resource of the plan, with the days that hold it."""

    def run(self) -> list[nodes.Node]:
        lists_days(self.env)
        here = self.env.docname
        days = plan.days()
        written = [d for d in days if d.written]
        count = sum(len(s["tasks"]) for s in plan.sections())
        done = sum(len(d.tasks) for d in written)
        found: list[nodes.Node] = [
            _paragraph(
                nodes.Text(f"{len(written)} of 180 days are written, with {done} of the {count} practice tasks. "),
                nodes.Text("A number that links leads to a day you can read; a "),
                nodes.inline("", "gray one", classes=["planned"]),
                nodes.Text(" is planned."),
            )
        ]
        for stage in plan.plan()["stages"]:
            part = nodes.section(ids=[f"coverage-{stage['number']}"])
            part += _generated(nodes.title("", f"Stage {stage['number']} · {stage['title']}"))
            for section in stage["sections"]:
                part += self.section(section, days, here)
            part += self.resources(stage, days, here)
            found.append(part)
        return found

    def section(self, section: dict[str, Any], days: list[plan.Day], source: str) -> nodes.section:
        part = nodes.section(ids=[f"coverage-{section['number'].replace('.', '-')}"])
        title = nodes.title("", f"{section['number']} {section['title']} ", _zh(section["title_zh"]))
        part += _generated(title)
        rows = []
        for group in section["topics"]:
            head = plan.text(group)
            cell: list[nodes.Node] = []
            for i, item in enumerate(map(plan.text, group["items"])):
                cell += [nodes.Text("; ")] if i else []
                cell += [*self.words(item), nodes.Text(" "), *self.where(self.holding(days, section, item), source)]
            rows.append([self.words(head), cell])
        for task in map(plan.text, section["tasks"]):
            holds = [d for d in days if d.section == section["number"] and task.zh in d.tasks]
            cell = [*self.words(task), nodes.Text(" "), *self.where(holds, source)]
            rows.append([[nodes.Text("Practice task")], cell])
        part += _table(["Topic of the plan", "What it holds, and where"], rows, [25, 75])
        return part

    def resources(self, stage: dict[str, Any], days: list[plan.Day], source: str) -> nodes.section:
        part = nodes.section(ids=[f"coverage-{stage['number']}-resources"])
        part += _generated(nodes.title("", f"Resources of stage {stage['number']}"))
        rows = []
        for resource in stage["resources"]:
            title = plan.text(resource["title"])
            named: nodes.Node = _link(resource["url"], title.en) if resource.get("url") else nodes.Text(title.en)
            holds = [d for d in days if resource["key"] in d.references]
            cell = _day_links(holds, source)
            cell += [nodes.Text(", " if holds else "")]
            cell += [_doc_link(f"book/stage{stage['number']}/index", "stage page", source)]
            rows.append([[nodes.Text(plan.text(resource["kind"]).en)], [named], cell])
        part += _table(["Kind", "Resource", "Where"], rows, [15, 55, 30])
        return part

    @staticmethod
    def words(words: plan.Text) -> list[nodes.Node]:
        if words.zh == words.en:
            return [nodes.Text(words.en)]
        return [nodes.Text(words.en + " "), _zh(words.zh)]

    @staticmethod
    def holding(days: list[plan.Day], section: dict[str, Any], item: plan.Text) -> list[plan.Day]:
        return [d for d in days if (section["number"], item.zh) in d.topics]

    @staticmethod
    def where(days: list[plan.Day], source: str) -> list[nodes.Node]:
        links = _day_links(days, source) if days else [nodes.inline("", "not planned", classes=["missing"])]
        return [nodes.Text("("), *links, nodes.Text(")")]


# --- buttons and notebooks -------------------------------------------------------------


def _owner_and_name() -> str:
    """``owner/name`` of the repository that ``_config.yml`` names."""
    return "/".join(notebooks.repository().split("/")[-2:])


def notebook_path(lesson: lessons.Lesson) -> str:
    """Where the published notebook stands: on the branch of notebooks, and below the site's folder."""
    return f"labs/{lesson.stem}.ipynb" if lesson.is_lab else f"stage{lesson.stage}/{lesson.stem}.ipynb"


def colab_url(lesson: lessons.Lesson) -> str:
    return f"{COLAB}/{_owner_and_name()}/blob/{NOTEBOOKS_BRANCH}/{notebook_path(lesson)}"


def binder_url(lesson: lessons.Lesson) -> str:
    return f"{BINDER}/{_owner_and_name()}/{NOTEBOOKS_BRANCH}?urlpath=lab/tree/{notebook_path(lesson)}"


def download_path(lesson: lessons.Lesson) -> str:
    return f"{NOTEBOOKS_FOLDER}/{notebook_path(lesson)}"


def retarget_buttons(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Colab, Binder and download lead to the notebook; the theme's own links end in ``.md``, which Colab cannot open.

    Runs after the theme's handlers.
    """
    if doctree is None or pagename not in app.env.found_docs or not is_page(app.env, pagename):
        return
    lesson = lessons.load(Path(app.env.doc2path(pagename)))
    targets = {
        "Colab": colab_url(lesson),
        "Binder": binder_url(lesson),
        ".ipynb": context["pathto"](download_path(lesson), 1),
    }
    for group in context.get("header_buttons", ()):
        for button in group.get("buttons", ()):
            if button.get("text") in targets:
                button["url"] = targets[button["text"]]


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    """The portable notebook of every page, into the site; the theme's copies with outputs are dropped."""
    if error or app.builder.name not in ("html", "dirhtml"):
        return
    out = Path(app.outdir)
    for copy in (out / "_sources").rglob("*.ipynb"):
        copy.unlink()
    expected = set()
    for lesson in lessons.all_pages():
        target = out / download_path(lesson)
        expected.add(target)
        try:
            text = notebooks.notebook_text(notebooks.portable_notebook(lesson))
        except notebooks.NotebookError as problem:
            logger.warning(str(problem), type="llm180")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for path in (out / NOTEBOOKS_FOLDER).rglob("*.ipynb"):
        if path not in expected:
            path.unlink()


# --- what is read again -----------------------------------------------------------------


def _digest() -> str:
    """A hash of the facts that lists and links between pages are made from."""
    facts = [plan.days(), [(lab.stem, lab.title, lab.title_zh, lab.minutes) for lab in lessons.all_labs()], plan.plan()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def outdated(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages to read again though their own files are the same: what they list or show has changed."""
    digest = _digest()
    again: set[str] = set()
    if digest != getattr(env, "llm180_digest", None):
        again |= getattr(env, "llm180_lists", set())
    env.llm180_digest = digest  # type: ignore[attr-defined]
    assets = [(str(p), p.stat().st_mtime_ns) for p in sorted((paths.BOOK / "assets").rglob("*"))]
    if assets != getattr(env, "llm180_assets", None):
        again.add(env.config.root_doc)  # Sphinx copies no asset where it has no page to write
    env.llm180_assets = assets  # type: ignore[attr-defined]
    for docname, stamp in getattr(env, "llm180_outputs", {}).items():
        path = Path(env.doc2path(docname))
        if docname in env.found_docs and path.exists() and execution.outputs_stamp(path) != stamp:
            again.add(docname)
    return sorted(again & env.found_docs)


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    getattr(env, "llm180_lists", set()).discard(docname)
    getattr(env, "llm180_outputs", {}).pop(docname, None)


def begin(app: Sphinx) -> None:
    """No build shows outputs that are not of the sources as they stand."""
    execution.purge_stale()


def configure(app: Sphinx, config: Any) -> None:
    """The published address follows from the repository's; the cache is pytest's, wherever the build is started."""
    config.nb_execution_cache_path = str(execution.CACHE)
    lacking = [path.name for path in execution.pages() if execution.lacking(path)]
    config.nb_execution_excludepatterns = [*config.nb_execution_excludepatterns, *lacking]
    if not config.html_baseurl:
        config.html_baseurl = notebooks.site_url()


def setup(app: Sphinx) -> dict[str, Any]:
    os.environ["LLM180_MODE"] = "solved"
    # A page that the build itself has to execute imports the toolkit of this clone.
    kept = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(paths.ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(paths.ROOT), *kept])

    app.add_directive("exercise", ExerciseDirective)
    app.add_directive("hint", HintDirective, override=True)
    app.add_directive("solution", SolutionDirective)
    app.add_directive("stage-lessons", StageLessons)
    app.add_directive("coverage", Coverage)
    app.add_search_language(SearchEnglishChinese)
    app.connect("config-inited", configure, priority=100)
    app.connect("builder-inited", begin)
    app.connect("env-get-outdated", outdated)
    app.connect("env-purge-doc", forget)
    app.connect("doctree-read", add_page_header)
    app.connect("html-page-context", retarget_buttons, priority=900)
    app.connect("build-finished", write_notebooks)
    # Another version of this file reads every page again.
    version = hashlib.sha256(Path(__file__).read_bytes() + Path(plan.__file__).read_bytes()).hexdigest()
    return {"version": "1", "env_version": int(version[:8], 16), "parallel_read_safe": False, "parallel_write_safe": False}
