"""The certificate: what it asks for, what it refuses, and that its file can be verified."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import nbformat
import pytest

from llm180 import assemble, certify, cli, data, exam, lessons, notebooks, paths
from llm180.certify import Requirement
from llm180.dev import plan
from llm180.progress import Progress

from tests.test_cli import desk, run, solve  # noqa: F401


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real book, and a reader who has done nothing."""
    monkeypatch.setattr(paths, "WORK", tmp_path / "work")
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    return tmp_path / "work"


# --- days ----------------------------------------------------------------------------------


@pytest.fixture
def two_days(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A stage of two days, whose toolkit also tells the source of an answer, as the real one does."""
    monkeypatch.setattr(plan, "stage", lambda number: {"days": [1, 3]})
    for path in (desk / "book" / "stage1").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"seconds": 0}', '"seconds": 0, "source": "hash of " + name}'), encoding="utf-8")
    return desk


def days() -> list[Requirement]:
    with Progress.open() as progress:
        return certify.check_days(1, progress)


def test_each_day_is_run_again_and_what_is_missing_is_listed(two_days: Path, run) -> None:  # noqa: F811
    run("open", "1", "--no-lab")
    solve(two_days / "work" / "day001_first.ipynb", one="return 1", two="return 3")
    first, second, third = days()
    assert first.missing == ["two failed"]
    assert second.missing == ["no working copy; `llm180 open 2` makes one"]
    assert third.missing == ["the book does not have this day yet"]


def test_a_day_that_passed_is_not_run_twice_unless_it_changed(two_days: Path, run, monkeypatch) -> None:  # noqa: F811
    run("open", "1", "--no-lab")
    copy = two_days / "work" / "day001_first.ipynb"
    solve(copy, one="return 1", two="return 2")
    assert days()[0].evidence == {"one": "hash of one", "two": "hash of two"}
    ran = []
    monkeypatch.setattr(cli, "run_copy", lambda path, limit: ran.append(path) or cli.Run([], []))
    assert days()[0].met and not ran
    solve(copy, two="return 1 + 1")
    assert not days()[0].met and ran == [copy]


def test_a_check_that_was_weakened_or_taken_out_is_found(two_days: Path, run) -> None:  # noqa: F811
    run("open", "1", "--no-lab")
    copy = two_days / "work" / "day001_first.ipynb"
    solve(copy, one="return 7", two="return 2")
    for change in (lambda s: s.replace("one() == 1", "one() == 7"), lambda s: "" if "is_right(" in s else s):
        notebook = nbformat.read(copy, as_version=4)
        for cell in notebook.cells:
            cell.source = change(cell.source) if cell.cell_type == "code" else cell.source
        nbformat.write(notebook, copy)
        assert "the checks is_right are not the page's any more" in days()[0].missing[0]


def test_a_second_check_of_the_same_name_is_found(two_days: Path, run) -> None:  # noqa: F811
    run("open", "1", "--no-lab")
    copy = two_days / "work" / "day001_first.ipynb"
    solve(copy, one="return 7", two="return 2", cell="@day.check\ndef is_right(one):\n    pass")
    assert "is_right" in days()[0].missing[0]


def test_the_books_solution_is_recognized_and_an_answer_of_ones_own_is_not() -> None:
    lesson = lessons.find(13)
    source = lesson.solution_path.read_text(encoding="utf-8")
    from llm180 import mistakes

    begin, end = mistakes.segment(source, "Tensor")
    books = "@day.exercise\n" + source[begin:end]
    assert certify.is_the_books(books, lesson, "Tensor")
    assert certify.is_the_books(re.sub(r"  # .*", "", books), lesson, "Tensor")
    assert not certify.is_the_books(books.replace("arrived", "mine"), lesson, "Tensor")


def test_an_unchanged_working_copy_has_all_checks_of_its_page(work: Path) -> None:
    lesson = lessons.find(13)
    cells = [c.source for c in notebooks.portable_notebook(lesson).cells if c.cell_type == "code"]
    assert certify.changed_checks(lesson, cells) == []
    assert certify.changed_checks(lesson, cells[:3])


# --- documents -------------------------------------------------------------------------------

SPEC = {
    "file": "report.md",
    "title": "Report",
    "title_zh": "报告",
    "ask": "Say what you did.",
    "table_rows": 3,
    "intervals": 2,
    "formulas": 1,
    "parts": [
        {"title": "Method", "title_zh": "方法", "words": 14, "ask": "How?"},
        {"title": "Results", "title_zh": "结果", "words": 6, "ask": "What came out?"},
    ],
}
GOOD = """\
# Report

## Method

Ten seeds, the same budget for both, the learning rate from a grid of five values, $t = 0.1$.

## Results

Momentum wins by two points of accuracy here.

| way | accuracy |
|---|---|
| plain | 90.1 ± 0.4 |
| momentum | 92.0 +/- 0.5 |
"""


def missing(text: str) -> list[str]:
    path = certify.document_path(1, SPEC)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return certify.check_document(1, SPEC).missing


def test_a_missing_document_is_begun_and_the_template_alone_does_not_count(work: Path) -> None:
    assert "just been begun" in certify.check_document(1, SPEC).missing[0]
    said = certify.check_document(1, SPEC).missing
    assert said[:2] == ["`Method` has 0 words of at least 14", "`Results` has 0 words of at least 6"]


def test_a_document_with_all_that_is_asked_is_accepted(work: Path) -> None:
    assert missing(GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("## Method", "## Methods and all"), None),
        (("## Method", "## 方法"), None),
        (("## Method", "## How"), "`## Method` is missing"),
        (("Ten seeds, the same budget for both, ", ""), "`Method` has 12 words"),
        (("$t = 0.1$", "t = 0.1"), "0 formulas of at least 1"),
        (("| momentum | 92.0 +/- 0.5 |\n", ""), "a table with 3 rows"),
        (("92.0 +/- 0.5", "92.0"), "at least 2 results with their interval"),
        (("Momentum wins by two points of accuracy here.", "> Momentum wins by two points of accuracy here."), "`Results`"),
    ],
)
def test_what_a_document_lacks_is_named(work: Path, change: tuple[str, str], said: str | None) -> None:
    found = missing(GOOD.replace(*change))
    assert found == [] if said is None else said in found[0]


def test_chinese_counts_as_well() -> None:
    assert certify.count("十个随机种子，每种方法预算相同") == 8
    assert certify.count("Adam 的学习率来自网格") == 5


def test_a_document_copied_from_the_book_is_refused(work: Path) -> None:
    handbook = (paths.BOOK / "stage1" / "handbook.md").read_text(encoding="utf-8")
    assert "stand in the book word for word" in missing(GOOD + handbook)[-1]


def test_the_documents_of_each_stage_can_be_begun(work: Path) -> None:
    for path in paths.BOOK.glob("stage*/certificate.yml"):
        stage = int(path.parent.name[-1])
        for spec in certify.documents(stage):
            assert set(spec) <= {"file", "title", "title_zh", "ask", "parts", "formulas", "table_rows", "intervals", "names"}
            certify.check_document(stage, spec)
            assert not certify.check_document(stage, spec).met
            if "names" in spec:
                assert spec["names"]["of"] in assemble.projects()


def test_a_stage_that_cannot_be_certified_says_so(work: Path) -> None:
    with pytest.raises(certify.CertifyError, match="Stage 9 cannot be certified yet"):
        certify.documents(9)


# --- the file --------------------------------------------------------------------------------


@pytest.fixture
def issued(work: Path) -> list[Path]:
    document = work / "stage1" / "notes.md"
    document.parent.mkdir(parents=True)
    document.write_text("my notes")
    found = [
        Requirement("Day 1", evidence={"Matrix": "0" * 64, "einsum2": "1" * 64}),
        Requirement("The library tinynn", evidence={"package": "tinynn", "comparisons": 12, "files": {}}),
        Requirement("Theory paper", evidence={"number": 1, "right": 17, "of": 20, "passed": True}),
        Requirement("Notes", evidence={"file": "notes.md", "sha256": data.sha256(b"my notes")}),
    ]
    return certify.write_certificate(certify.evidence_of(1, "Ada <Lovelace> 王", found, date(2026, 1, 2)), work / "stage1")


def test_both_files_carry_their_evidence_and_are_verified(issued: list[Path]) -> None:
    assert [path.suffix for path in issued] == [".svg", ".pdf"]
    for path in issued:
        found = certify.verify(path)
        assert found.intact and found.evidence["name"] == "Ada <Lovelace> 王"
        assert found.hash == certify.digest(found.evidence)
        assert (found.compared, found.differing) == (1, [])
    assert "Stage 1" in issued[0].read_text(encoding="utf-8") and issued[1].read_bytes().startswith(b"%PDF")


def test_a_changed_name_is_found(issued: list[Path]) -> None:
    svg = issued[0]
    svg.write_text(svg.read_text(encoding="utf-8").replace("Ada &lt;Lovelace&gt; 王", "Eve"), encoding="utf-8")
    assert not certify.verify(svg).intact


def test_changed_evidence_is_found(issued: list[Path]) -> None:
    for path in issued:
        found = certify.verify(path)
        other = found.evidence | {"name": "Eve"}
        old, new = certify._packed(found.evidence), certify._packed(other)
        content = path.read_bytes().replace(old.encode(), new.encode())
        path.write_bytes(content.replace("Ada &lt;Lovelace&gt; 王".encode(), b"Eve"))
        if path.suffix == ".svg":  # the printed hash gives it away
            assert not certify.verify(path).intact
        forged = new.replace(certify.digest(other), found.hash)
        assert forged == new, "the hash travels inside the packed evidence"


def test_a_hash_that_is_not_that_of_the_evidence_is_found(issued: list[Path], monkeypatch) -> None:
    pdf = issued[1]
    found = certify.verify(pdf)
    old = certify._packed(found.evidence)
    monkeypatch.setattr(certify, "digest", lambda evidence: found.hash)
    forged = certify._packed(found.evidence | {"name": "Eve"})
    monkeypatch.undo()
    pdf.write_bytes(pdf.read_bytes().replace(old.encode(), forged.encode()))
    assert not certify.verify(pdf).intact


def test_a_document_that_changed_since_is_named(issued: list[Path], work: Path) -> None:
    (work / "stage1" / "notes.md").write_text("other notes")
    assert certify.verify(issued[0]).differing == ["Notes: notes.md"]


@pytest.mark.parametrize("content", ["hello", "llm180-evidence:", "llm180-evidence:AAAA"])
def test_a_file_that_is_no_certificate_is_told_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.svg"
    path.write_text(content)
    with pytest.raises(certify.CertifyError, match="no certificate|damaged"):
        certify.verify(path)
    with pytest.raises(certify.CertifyError, match="cannot be read"):
        certify.verify(tmp_path / "none.svg")


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def all_met(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "check_days", lambda *_: [Requirement("Day 1", evidence={"Matrix": "0" * 64})])
    monkeypatch.setattr(certify, "check_project", lambda *_: [])
    monkeypatch.setattr(certify, "documents", lambda stage: [])
    monkeypatch.setattr(exam, "passed_paper", lambda stage: {"number": 1, "right": 20, "of": 20, "passed": True})


def test_a_certificate_is_written_when_all_is_met_and_verified_by_the_command(all_met: None, run, work: Path) -> None:  # noqa: F811
    assert run("certify", "1").status == 2 and not list(work.rglob("*.svg"))
    said = run("certify", "1", "--name", "Ada Lovelace")
    assert said.status == 0, said.err
    for kind in ("svg", "pdf"):
        verified = run("verify", str(work / "stage1" / f"certificate_stage1.{kind}"))
        assert verified.status == 0 and "Ada Lovelace, stage 1" in verified.out, verified.err


def test_a_certificate_lists_its_days_by_number() -> None:
    names = ["Theory paper", "Day 10", "Code", "Day 2", "Day 1"]
    assert sorted(((name, None) for name in names), key=certify.by_day) == [(name, None) for name in ("Day 1", "Day 2", "Day 10", "Code", "Theory paper")]


def test_without_all_there_is_no_certificate_but_a_list(all_met: None, run, work: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(exam, "passed_paper", lambda stage: None)
    said = run("certify", "1", "--name", "Ada Lovelace")
    assert said.status == 1 and "--paper" in said.out and "1 of 2 are done" in said.out
    assert not list(work.rglob("*.svg"))


def test_a_stage_that_is_not_written_is_one_sentence(run, work: Path) -> None:  # noqa: F811
    missing_stage = next(n for n in range(1, 7) if not (paths.BOOK / f"stage{n}" / "certificate.yml").exists())
    said = run("certify", str(missing_stage))
    assert said.status == 1 and said.err.count("\n") == 1
