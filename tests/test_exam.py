"""The theory paper: the bank is right by two ways, the draw is the reader's own, the clock counts, answers are judged."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm180 import exam, lessons, paths

STAGES = [stage for stage in range(1, 7) if exam.bank_path(stage).exists()]
NUMBERS = [pytest.param(entry, id=entry["id"]) for stage in STAGES for entry in exam.bank(stage) if "answer" in entry]
ENTRIES = [pytest.param(entry, id=entry["id"]) for stage in STAGES for entry in exam.bank(stage)]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "WORK", tmp_path / "work")
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    return tmp_path


# --- the bank ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_bank_asks_about_every_written_day_and_names_each_question_once(stage: int) -> None:
    entries = exam.bank(stage)
    assert len({entry["id"] for entry in entries}) == len(entries) >= 60
    written = {page.number for page in lessons.all_lessons() if page.stage == stage}
    assert {entry["day"] for entry in entries} >= written


@pytest.mark.parametrize("entry", NUMBERS)
def test_a_number_comes_out_the_same_by_another_way_for_all_its_values(entry: dict) -> None:
    assert entry["answer"].replace(" ", "") != entry["check"].replace(" ", "")
    given = entry.get("given") or {}
    cases = list(itertools.product(*given.values()))
    for case in random.Random(0).sample(cases, min(60, len(cases))):
        values = dict(zip(given, case))
        right, other = exam.compute(entry["answer"], values), exam.compute(entry["check"], values)
        assert math.isfinite(right) and right == pytest.approx(other, rel=2e-3, abs=1e-9), (values, right, other)
        if isinstance(right, int):
            assert abs(right) < 10**9
        else:  # one percent must tell right from wrong
            assert abs(right) > 1e-9


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_question_can_be_posed_and_says_no_more_than_it_should(entry: dict) -> None:
    kinds = {"id", "day", "ask", "given", "answer", "check", "worked"} if "answer" in entry else {"id", "day", "ask", "holds", "fails"}
    assert set(entry) <= kinds
    for seed in range(20):
        question = exam.pose(entry, random.Random(seed))
        assert "{" not in re.sub(r"\$[^$]*\$|`[^`]*`", "", question.ask + question.worked) and question.worked
        assert not question.judge("") and not question.judge("I do not know")
        right = " ".join(sorted(question.right)) if isinstance(question.right, frozenset) else repr(question.right)
        assert question.judge(right)
        if isinstance(question.right, frozenset):
            assert 0 < len(question.right) < exam.STATEMENTS
    if "answer" not in entry:
        for good in ("holds", "fails"):
            assert len(entry[good]) >= 2 and all(set(s) == {"say", "why"} and s["why"] for s in entry[good])
        assert len(entry["holds"]) + len(entry["fails"]) >= 6


# --- judging -----------------------------------------------------------------------------


def question(right) -> exam.Question:
    return exam.Question("q", 1, "?", right, "so")


@pytest.mark.parametrize("said", ["0.4", " 0.4 ", "2/5", "40%", "4e-1", "0.403", ".4", "0.3961"])
def test_a_number_may_be_written_in_several_ways(said: str) -> None:
    assert question(0.4).judge(said)


@pytest.mark.parametrize("said", ["", "0.41", "-0.4", "4", "0.4 or 0.5", "0,4", "1/0", "nan", "about 0.4", "0.4%"])
def test_what_is_not_the_number_is_wrong(said: str) -> None:
    assert not question(0.4).judge(said)


def test_a_whole_number_is_exact() -> None:
    assert question(1000).judge("1000") and question(1000).judge("1e3") and not question(1000).judge("1001")


def test_letters_are_a_set() -> None:
    both = question(frozenset("ac"))
    assert both.judge("a c") and both.judge("C, A") and both.judge("(a) (c)")
    assert not any(both.judge(said) for said in ("a", "a b c", "", "none", "ac d"))


# --- drawing -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_paper_is_the_readers_own_and_spread_over_the_days(stage: int) -> None:
    first = exam.draw(stage, "ada:1")
    assert first == exam.draw(stage, "ada:1") and len(first) == exam.QUESTIONS
    others = [exam.draw(stage, seed) for seed in ("ada:2", "bob:1")]
    assert all([q.ask for q in other] != [q.ask for q in first] for other in others)
    days = Counter(q.day for q in first)
    every = {entry["day"] for entry in exam.bank(stage)}
    assert max(days.values()) <= math.ceil(exam.QUESTIONS / len(every))
    assert [q.day for q in first] == sorted(q.day for q in first)


# --- a paper in time ------------------------------------------------------------------------


def fill(path: Path, answer) -> None:
    """Write ``answer(n)`` behind the n-th question."""
    count = itertools.count(1)
    text = re.sub(r"^Answer:$", lambda _: f"Answer: {answer(next(count))}", path.read_text(encoding="utf-8"), flags=re.M)
    path.write_text(text, encoding="utf-8")


def right_answers(stage: int) -> list[str]:
    reader = exam._record()["reader"]
    number = exam.papers(stage)[-1]["number"]
    drawn = exam.draw(stage, f"{reader}:{number}")
    return [" ".join(q.right) if isinstance(q.right, frozenset) else repr(q.right) for q in drawn]


def test_a_paper_with_the_right_answers_is_passed_and_comes_back_with_the_reasons(desk: Path) -> None:
    path = exam.begin(1, NOON)
    right = right_answers(1)
    fill(path, lambda n: right[n - 1])
    paper, graded = exam.hand_in(1, NOON + timedelta(minutes=50))
    assert paper["passed"] and paper["right"] == paper["of"] == exam.QUESTIONS
    assert graded.read_text(encoding="utf-8").count("· right") == exam.QUESTIONS
    assert exam.passed_paper(1) == paper


def test_a_paper_that_is_blank_or_guessed_is_not_passed(desk: Path) -> None:
    for answer in (lambda n: "", lambda n: "a b", lambda n: "1"):
        fill(exam.begin(1, NOON), answer)
        paper, _ = exam.hand_in(1, NOON + timedelta(minutes=1))
        assert not paper["passed"] and paper["right"] < exam.QUESTIONS // 2
    assert exam.passed_paper(1) is None and [p["number"] for p in exam.papers(1)] == [1, 2, 3]


def test_one_wrong_more_than_allowed_fails(desk: Path) -> None:
    need = math.ceil(exam.PASS * exam.QUESTIONS)
    for give, passed in ((need, True), (need - 1, False)):
        path = exam.begin(1, NOON)
        right = right_answers(1)
        fill(path, lambda n: right[n - 1] if n <= give else "")
        paper, _ = exam.hand_in(1, NOON)
        assert (paper["right"], paper["passed"]) == (give, passed)


def test_a_late_paper_is_not_graded_and_the_next_one_is_another(desk: Path) -> None:
    first = exam.begin(1, NOON)
    right = right_answers(1)
    fill(first, lambda n: right[n - 1])
    with pytest.raises(exam.ExamError, match="ended at"):
        exam.hand_in(1, NOON + timedelta(minutes=exam.MINUTES + 3))
    assert exam.passed_paper(1) is None
    second = exam.begin(1, NOON + timedelta(hours=2))
    asked = [path.read_text(encoding="utf-8").split("## 1\n", 1)[1] for path in (first, second)]
    assert asked[0] != asked[1]


def test_one_paper_at_a_time_and_none_is_overwritten(desk: Path) -> None:
    with pytest.raises(exam.ExamError, match="No paper is open"):
        exam.hand_in(1, NOON)
    path = exam.begin(1, NOON)
    with pytest.raises(exam.ExamError, match="is open until"):
        exam.begin(1, NOON + timedelta(minutes=5))
    path.unlink()
    with pytest.raises(exam.ExamError, match="is gone"):
        exam.hand_in(1, NOON)
    exam.paper_path(1, 2).write_text("mine")
    with pytest.raises(exam.ExamError, match="there already"):
        exam.begin(1, NOON + timedelta(hours=3))


def test_a_stage_without_questions_says_so(desk: Path) -> None:
    missing = next(stage for stage in range(1, 8) if stage not in STAGES)
    with pytest.raises(exam.ExamError, match="no questions yet"):
        exam.begin(missing)


def test_a_damaged_record_is_told(desk: Path) -> None:
    exam._record_path().parent.mkdir(parents=True)
    exam._record_path().write_text("{")
    with pytest.raises(exam.ExamError, match="cannot be read"):
        exam.begin(1, NOON)


@pytest.mark.parametrize("stage", STAGES)
def test_the_stage_page_says_how_long_the_paper_is(stage: int) -> None:
    page = (paths.BOOK / f"stage{stage}" / "index.md").read_text(encoding="utf-8")
    assert f"{exam.QUESTIONS} questions in {exam.MINUTES} minutes" in page
