"""The certificate of a stage: what it takes, the evidence, the file, and how a file is verified.

``llm180 certify 1`` asks for four things, and lists exactly what is missing:

- every working copy of the stage's days, run again in a fresh kernel, with the page's own checks in it;
- the stage project's library, assembled from these answers, through its parity suite;
- a theory paper (:mod:`llm180.exam`) that was passed in its time;
- the documents that ``book/stageN/certificate.yml`` describes, written by the reader.

The certificate carries its evidence: the hash of every answer, file and document, and what the checks said.
``llm180 verify FILE`` takes it out again, computes its hash anew, and compares it with the reader's files where they are.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import llm180
from llm180 import assemble, exam, lessons, paths
from llm180.data import sha256

if TYPE_CHECKING:
    from llm180.lessons import Lesson
    from llm180.progress import Progress

SAME = 100  # an answer of at least so many syntax nodes that equals the book's was copied
COPIED = 0.3  # of a document's lines may stand in the book

MARK = "llm180-evidence:"


class CertifyError(Exception):
    """There is nothing to certify or verify; the message is one sentence for the reader."""


@dataclass
class Requirement:
    """One line of the list: what it is about, what is missing (nothing: it is met), and its evidence."""

    name: str
    missing: list[str] = field(default_factory=list)
    evidence: Any = None

    @property
    def met(self) -> bool:
        return not self.missing


# --- the days ----------------------------------------------------------------------------


def changed_checks(lesson: Lesson, cells: list[str]) -> list[str]:
    """The checks of a page that a working copy lacks, or has otherwise than the page."""
    mine: dict[str, list[str]] = {}
    for node in (node for cell in cells for node in lessons.decorated(cell, "check")):
        mine.setdefault(node.name, []).append(ast.dump(node))
    page = [node for cell in lesson.code_cells for node in lessons.decorated(cell.source, "check")]
    return [node.name for node in page if mine.get(node.name) != [ast.dump(node)]]


def is_the_books(answer: str, lesson: Lesson, name: str) -> bool:
    """Whether an answer of some size is the book's, word for word, docstrings and comments aside."""

    def plain(source: str, wanted: str) -> ast.AST | None:
        tree = lessons.parse_code(source)
        for node in tree.body if tree else []:
            if getattr(node, "name", None) == wanted:
                node.decorator_list = []  # type: ignore[union-attr]
                for part in ast.walk(node):
                    body = getattr(part, "body", None)
                    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                        part.body = body[1:]  # type: ignore[attr-defined]
                return node
        return None

    mine, books = plain(answer, name), plain(lesson.solution_path.read_text(encoding="utf-8"), name)
    return bool(mine and books) and ast.dump(mine) == ast.dump(books) and sum(1 for _ in ast.walk(books)) >= SAME


def check_days(stage: int, progress: Progress, tell: Callable[[str], None] = lambda _: None) -> list[Requirement]:
    """Run the working copy of every day of a stage again; what has passed and is unchanged since is not run twice."""
    from llm180 import cli
    from llm180.dev import plan

    first, last = plan.stage(stage)["days"]
    written = {page.number: page for page in lessons.all_lessons() if page.stage == stage}
    kept = _kept(stage)
    found = []
    for number in range(first, last + 1):
        page = written.get(number)
        if page is None:
            found.append(Requirement(f"Day {number}", ["the book does not have this day yet"]))
            continue
        requirement = Requirement(page.label)
        found.append(requirement)
        path = cli.copy_path(page)
        if not path.exists():
            requirement.missing.append(f"no working copy; `llm180 open {number}` makes one")
            continue
        cells = cli.read_code(path)
        changed = changed_checks(page, cells)
        if changed:
            requirement.missing.append(f"the checks {', '.join(changed)} are not the page's any more; `llm180 reset {number}` gives a fresh copy")
            continue
        state = sha256("\n\0".join([*cells, *(cell.source for cell in page.code_cells)]).encode())
        if kept.get(page.key, {}).get("state") != state:
            tell(page.label)
            run = cli.run_copy(path, cli.CELL_SECONDS)
            grades = cli.grade(page, run.rows)
            requirement.missing += [f"{grade.name} {'is not solved yet' if grade.word == 'unsolved' else grade.word}" for grade in grades if grade.word != "passed"]
            if not requirement.missing:
                answers = {row["exercise"]: row["source"] for row in run.rows}
                kept[page.key] = {"state": state, "answers": dict(sorted(answers.items()))}
                _keep(stage, kept)
        if not requirement.missing:
            for exercise in page.exercises:
                source = progress.passed_source(page.key, exercise.name)
                if source and is_the_books(source, page, exercise.name):
                    requirement.missing.append(f"{exercise.name} is the book's solution word for word; write it in your own way")
        requirement.evidence = kept.get(page.key, {}).get("answers")
    return found


def _kept_path(stage: int) -> Path:
    return paths.home() / f"certify_stage{stage}.json"


def _kept(stage: int) -> dict[str, Any]:
    try:
        return json.loads(_kept_path(stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # only a saving of time: without it, the days are run again
        return {}


def _keep(stage: int, kept: dict[str, Any]) -> None:
    paths.write_whole(_kept_path(stage), json.dumps(kept))


# --- project, paper ------------------------------------------------------------------------


def check_project(stage: int, progress: Progress, tell: Callable[[str], None] = lambda _: None) -> list[Requirement]:
    """The stage project's library from the reader's answers, through the parity suite."""
    found = []
    for package, page in assemble.projects().items():
        if page.stage != stage:
            continue
        requirement = Requirement(f"The library {package}")
        found.append(requirement)
        tell(package)
        try:
            library = assemble.assemble(package, progress)
        except assemble.AssemblyError as error:
            requirement.missing += str(error).splitlines()
            continue
        rows = assemble.run_parity(package, library.folder)
        requirement.missing += [f"{name}: {message}" for name, good, message in rows if not good]
        files = {path.name: sha256(path.read_bytes()) for path in sorted(library.folder.glob("*.py"))}
        requirement.evidence = {"package": package, "comparisons": len(rows), "files": files}
    return found


def check_paper(stage: int) -> Requirement:
    """A theory paper that was passed in its time."""
    best = exam.passed_paper(stage)
    requirement = Requirement("Theory paper", evidence=best)
    if best is None:
        tried = exam.papers(stage)
        if tried and "handed_in" not in tried[-1]:
            requirement.missing.append(f"paper {tried[-1]['number']} is open; `llm180 certify {stage} --hand-in` grades it")
        else:
            last = f"the last one had {tried[-1]['right']} of {tried[-1]['of']} right; " if tried else ""
            requirement.missing.append(f"{last}`llm180 certify {stage} --paper` draws one, {exam.QUESTIONS} questions in {exam.MINUTES} minutes")
    return requirement


# --- documents -----------------------------------------------------------------------------


def documents(stage: int) -> list[dict[str, Any]]:
    """The documents that a stage asks for, as ``book/stageN/certificate.yml`` describes them."""
    path = paths.BOOK / f"stage{stage}" / "certificate.yml"
    if not path.exists():
        raise CertifyError(f"Stage {stage} cannot be certified yet; there is no {path.name} for it.")
    return yaml.safe_load(path.read_text(encoding="utf-8"))["documents"]


def document_path(stage: int, spec: dict[str, Any]) -> Path:
    return paths.WORK / f"stage{stage}" / spec["file"]


def write_template(stage: int, spec: dict[str, Any]) -> Path:
    """Begin a document: its headings, and under each what belongs there, on lines that do not count."""
    path = document_path(stage, spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    out = [f"# {spec['title']} · {spec['title_zh']}", "", f"> {spec['ask']}", ""]
    for part in spec["parts"]:
        out += [f"## {part['title']} · {part['title_zh']}", "", f"> {part['ask']}", ""]
    path.write_text("\n".join(out), encoding="utf-8")
    return path


def count(text: str) -> int:
    """Words; of Chinese, three words for five characters."""
    characters = len(re.findall("[\u3400-\u9fff]", text))
    return len(re.findall(r"[A-Za-z0-9][\w'’-]*", re.sub("[\u3400-\u9fff]", " ", text))) + characters * 3 // 5


def check_document(stage: int, spec: dict[str, Any]) -> Requirement:
    """Whether a document has its parts, enough of the reader's own words in each, and the figures asked for."""
    requirement = Requirement(spec["title"])
    path = document_path(stage, spec)
    say = requirement.missing.append
    if not path.exists():
        write_template(stage, spec)
        say(f"{path} has just been begun for you: fill it in")
        return requirement
    text = path.read_text(encoding="utf-8")
    own = "\n".join(line for line in text.splitlines() if not line.startswith(">"))
    parts: dict[str, str] = {}
    for heading, body in re.findall(r"^## +(.+?)\s*$\n(.*?)(?=^## |\Z)", own, re.M | re.S):
        parts[heading.lower()] = re.sub(r"^```[\s\S]*?^```|^\|.*$", " ", body, flags=re.M)  # code and tables are no words
    for part in spec["parts"]:
        bodies = [body for heading, body in parts.items() if part["title"].lower() in heading or part["title_zh"] in heading]
        words = sum(map(count, bodies))
        if not bodies:
            say(f"the part `## {part['title']}` is missing")
        elif words < part["words"]:
            say(f"`{part['title']}` has {words} words of at least {part['words']}")
    formulas = len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", own, re.S))
    if formulas < spec.get("formulas", 0):
        say(f"{formulas} formulas of at least {spec['formulas']}, between dollar signs")
    rows = [line for line in own.splitlines() if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line)]
    if len(rows) < spec.get("table_rows", 0):
        say(f"a table with {spec['table_rows']} rows or more, the head included; {len(rows)} were found")
    if len(re.findall(r"\d\s*(?:±|\+/-)\s*\d", own)) < spec.get("intervals", 0):
        say(f"at least {spec['intervals']} results with their interval, as `91.4 ± 1.0`")
    if spec.get("names"):
        public = assemble.projects()[spec["names"]["of"]]
        known = _public_names(public)
        named = set(re.findall(r"`(\w+)", own)) & known
        if len(named) < spec["names"]["at_least"]:
            say(f"{len(named)} of the library's names stand in it, in backticks; at least {spec['names']['at_least']} are asked for")
    copied = _share_of_the_book(stage, own)
    if copied > COPIED:
        say(f"{copied:.0%} of its longer lines stand in the book word for word: say it in your own words")
    requirement.evidence = {"file": spec["file"], "sha256": sha256(path.read_bytes())}
    return requirement


def _public_names(page: Lesson) -> set[str]:
    for node in ast.parse(page.solution_path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return {e.name for e in page.exercises}


def _share_of_the_book(stage: int, text: str) -> float:
    book = "\n".join(path.read_text(encoding="utf-8") for path in sorted((paths.BOOK / f"stage{stage}").glob("*.md")))
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) >= 40]
    return sum(line in book for line in lines) / len(lines) if lines else 0.0


# --- the certificate -----------------------------------------------------------------------


def evidence_of(stage: int, name: str, found: list[Requirement], day: date) -> dict[str, Any]:
    """What a certificate stands on. Every requirement must be met."""
    assert all(requirement.met for requirement in found)
    return {
        "form": 1,
        "stage": stage,
        "name": name,
        "date": day.isoformat(),
        "toolkit": llm180.__version__,
        "requirements": {requirement.name: requirement.evidence for requirement in found},
    }


def by_day(requirement: tuple[str, Any]) -> tuple[bool, int, str]:
    """The order to list requirements in: the days by number, then the rest by name."""
    day = re.fullmatch(r"Day (\d+)", requirement[0])
    return day is None, int(day[1]) if day else 0, requirement[0]


def summary(name: str, evidence: Any) -> str:
    """What a requirement's evidence comes to, in a few words."""
    if name == "Theory paper":
        return f"{evidence['right']} of {evidence['of']}"
    if "comparisons" in evidence:
        return f"{evidence['comparisons']} comparisons"
    return evidence["file"] if "file" in evidence else ", ".join(evidence)  # of a day: its exercises


def digest(evidence: dict[str, Any]) -> str:
    """The hash of the evidence, whatever the order of its keys."""
    return sha256(json.dumps(evidence, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())


def _packed(evidence: dict[str, Any]) -> str:
    content = json.dumps({"evidence": evidence, "hash": digest(evidence)}, sort_keys=True, ensure_ascii=False).encode()
    return MARK + base64.urlsafe_b64encode(zlib.compress(content, 9)).decode()


def write_certificate(evidence: dict[str, Any], folder: Path) -> list[Path]:
    """The certificate as SVG and PDF, each with its evidence inside."""
    import matplotlib
    from matplotlib.figure import Figure

    from llm180.dev.sync import stage_titles

    stage, code, packed = evidence["stage"], digest(evidence), _packed(evidence)
    days = sum(name.startswith("Day ") for name in evidence["requirements"])
    answers = sum(len(v) for name, v in evidence["requirements"].items() if name.startswith("Day "))
    paper = evidence["requirements"]["Theory paper"]
    lines = [
        (0.80, 15, "LLM in 180 Days"),
        (0.68, 26, f"Stage {stage}"),
        (0.60, 14, stage_titles()[stage]),
        (0.47, 24, evidence["name"]),
        (0.40, 11, evidence["date"]),
        (0.33, 11, f"{days} days, {answers} exercises, each passed again in a fresh kernel"),
        (0.28, 11, f"Theory paper: {paper['right']} of {paper['of']}"),
        (0.12, 9, "Evidence " + " ".join(code[i : i + 8] for i in range(0, 64, 8))),
        (0.07, 9, "llm180 verify takes this file and checks it"),
    ]
    project = [v for name, v in evidence["requirements"].items() if name.startswith("The library ")]
    if project:
        lines.insert(6, (0.23, 11, f"{project[0]['package']}, a library of their own: {project[0]['comparisons']} of {project[0]['comparisons']} comparisons with PyTorch passed"))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    style = {"svg.fonttype": "none", "svg.hashsalt": code, "font.family": _fonts(), "pdf.fonttype": 42}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing_characters tells it in a sentence
        figure = Figure(figsize=(11, 7.8))
        figure.add_artist(matplotlib.patches.Rectangle((0.03, 0.04), 0.94, 0.92, fill=False, linewidth=2.5, edgecolor="#0072B2", transform=figure.transFigure))
        for y, size, text in lines:
            figure.text(0.5, y, text, ha="center", va="center", fontsize=size, color="#222", parse_math=False)
        for kind, metadata in (("svg", {"Description": packed, "Date": None, "Title": f"Stage {stage}"}), ("pdf", {"Subject": packed, "CreationDate": None, "Title": f"Stage {stage}"})):
            path = folder / f"certificate_stage{stage}.{kind}"
            figure.savefig(path, format=kind, metadata=metadata)
            written.append(path)
    return written


CHINESE = ["Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei", "Arial Unicode MS"]


def _fonts() -> list[str]:
    """matplotlib's own font, and for what it lacks the Chinese fonts that this system has."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in CHINESE if name in installed)]


def missing_characters(name: str) -> str:
    """The characters of a name that no font here can draw in the PDF; the SVG is drawn by the viewer's fonts."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    drawn: set[int] = set()
    for family in _fonts():
        drawn |= set(FT2Font(font_manager.findfont(family)).get_charmap())
    return "".join(c for c in name if ord(c) not in drawn)


@dataclass
class Verified:
    """What a certificate says, whether its hash is that of its evidence, and how the files here compare."""

    evidence: dict[str, Any]
    hash: str
    intact: bool
    differing: list[str] = field(default_factory=list)
    compared: int = 0


def verify(path: Path) -> Verified:
    """Take the evidence out of a certificate and check it. Raises :class:`CertifyError` if the file holds none."""
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise CertifyError(f"{path} cannot be read ({failure.strerror}).") from None
    found = set(re.findall(re.escape(MARK).encode() + rb"([A-Za-z0-9_=-]+)", content))
    if len(found) != 1:
        raise CertifyError(f"{path} is no certificate of this book: it holds no evidence.")
    try:
        packed = json.loads(zlib.decompress(base64.urlsafe_b64decode(found.pop())))
        evidence, said = packed["evidence"], packed["hash"]
        shown = None
        if path.suffix == ".svg":
            printed = re.search(r"Evidence ((?:[0-9a-f]{8} ?){8})", content.decode("utf-8"))
            shown = printed[1].replace(" ", "") if printed else ""
        intact = digest(evidence) == said and shown in (None, said) and _names_agree(content, evidence, path)
        result = Verified(evidence, said, intact)
        _compare(result)
        return result
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
        raise CertifyError(f"The evidence in {path} is damaged: it cannot be read.") from None


def _names_agree(content: bytes, evidence: dict[str, Any], path: Path) -> bool:
    """In an SVG the words can be read, so the name on it must be the name in the evidence."""
    import html

    return path.suffix != ".svg" or html.escape(evidence["name"], quote=False) in content.decode("utf-8")


def _compare(result: Verified) -> None:
    """Compare the hashes with the reader's own documents and library, where they are."""
    stage = result.evidence["stage"]
    for name, value in result.evidence["requirements"].items():
        if not isinstance(value, dict):
            continue
        files = value.get("files") or ({value["file"]: value["sha256"]} if "sha256" in value else {})
        folder = paths.WORK / (value["package"] if "package" in value else f"stage{stage}")
        for file, want in files.items():
            here = folder / file
            if here.exists():
                result.compared += 1
                if sha256(here.read_bytes()) != want:
                    result.differing.append(f"{name}: {file}")
