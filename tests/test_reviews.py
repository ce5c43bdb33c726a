"""Weekly reviews: filled in from the record, and never over what the reader wrote."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from llm180 import lessons, paths, reviews
from llm180.dev import plan
from llm180.progress import Progress


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty record, and a work folder of its own."""
    monkeypatch.setattr(paths, "WORK", tmp_path / "work")
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    with Progress.open() as progress:
        start, ticks = datetime(2026, 3, 2, 9, tzinfo=timezone.utc), iter(range(10_000))
        progress.clock = lambda: start + timedelta(minutes=10 * next(ticks))
        yield progress


def attempt(progress: Progress, day: int, name: str, verdict: str, message: str = "") -> None:
    page = lessons.find(day)
    for check in page.exercise(name).checks:
        progress.record(
            day=page.key, exercise=name, check=check, verdict=verdict, seconds=0.1, source="x = 1", message=message
        )


def test_the_weeks_hold_each_day_of_the_plan_once() -> None:
    days = [day for week in range(1, reviews.WEEKS + 1) for day in reviews.week_days(week)]
    assert days == list(range(1, 181))
    for week in (0, 27):
        with pytest.raises(reviews.ReviewError, match="weeks 1 to 26"):
            reviews.path_of(week)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_fresh_review_has_every_part_of_the_plans_template(record: Progress, language: str) -> None:
    path, _ = reviews.write(1, record, language)
    text = path.read_text(encoding="utf-8")
    for part in plan.plan()["weekly_review"]["parts"]:
        assert f"## {getattr(plan.text(part['title']), language)}\n" in text
        for item in part.get("items", []):
            assert f"- {getattr(plan.text(item), language)}" in text
    assert text.startswith({"en": "# Review of week 1 (days 1-7)", "zh": "# 第1周学习复盘（Day 1-7）"}[language])
    for day in plan.days()[:7]:
        assert f"Day {day.number} · {day.title_zh if language == 'zh' else day.title}" in text


def test_goals_gains_and_problems_come_from_the_record(record: Progress) -> None:
    for exercise in lessons.find(1).exercises:
        attempt(record, 1, exercise.name, "passed")
    name = lessons.find(2).exercises[0].name
    attempt(record, 2, name, "failed", "expected 3,\n  came 4")
    record.record_help(day="day002", exercise=name, kind="hint", step=1)
    text = reviews.write(1, record)[0].read_text(encoding="utf-8")
    first, second = lessons.find(1), lessons.find(2)
    assert f"- [x] {first.label} · {first.title}: 3 of 3 exercises; [x] Implement a matrix library" in text
    assert f"- [ ] {second.label} · {second.title}: 0 of {len(second.exercises)} exercises" in text
    assert "- exercises passed: `Matrix`, `matmul_blocked`, `einsum2`" in text
    assert "- topics of the completed days: Matrix operations" in text
    failed = len(second.exercise(name).checks)
    assert f"- `{name}` (Day 2): {failed} failed checks, 1 hints, open\n  > expected 3, came 4" in text
    assert f"left over: {second.label} · {second.title}" in text
    assert "on 1 dates" in text and "0.0 hours" not in text


def test_what_the_reader_wrote_stays_and_the_rest_is_renewed(record: Progress) -> None:
    path, _ = reviews.write(1, record)
    text = path.read_text(encoding="utf-8")
    mine = text.replace("- In theory: ", "- In theory: strides; 步长").replace(
        "- practice tasks done: nothing yet", "- practice tasks done: my own library, in Java"
    )
    path.write_bytes(mine.replace("\n", "\r\n").encode())  # an editor of another system
    for exercise in lessons.find(1).exercises:
        attempt(record, 1, exercise.name, "passed")
    _, told = reviews.write(1, record)
    after = path.read_text(encoding="utf-8")
    assert "- In theory: strides; 步长" in after and "my own library, in Java" in after
    assert "3 of 3 exercises" in after
    assert "renewed from your record" in told and "1 changed by you and left alone" in told
    again = path.read_bytes()
    assert "nothing new" in reviews.write(1, record)[1] and path.read_bytes() == again


def test_a_review_without_its_marks_is_the_readers_alone(record: Progress) -> None:
    path, _ = reviews.write(1, record)
    path.write_text("# My own week\n\nAll of it mine.\n", encoding="utf-8")
    reviews.write(1, record)
    assert path.read_text(encoding="utf-8") == "# My own week\n\nAll of it mine.\n"


def test_a_review_goes_on_in_the_language_in_which_it_was_begun(record: Progress) -> None:
    path, _ = reviews.write(2, record, "zh")
    attempt(record, 1, "Matrix", "passed")
    reviews.write(2, record)
    assert "本周目标完成情况" in path.read_text(encoding="utf-8")
    with pytest.raises(reviews.ReviewError, match="other language"):
        reviews.write(2, record, "en")


def test_a_file_that_cannot_be_used_is_left_as_it_is(record: Progress) -> None:
    path = reviews.path_of(3)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe not text")
    with pytest.raises(reviews.ReviewError, match="not text"):
        reviews.write(3, record)
    assert path.read_bytes() == b"\xff\xfe not text"


def test_the_last_week_is_short_and_has_no_next(record: Progress) -> None:
    text = reviews.write(26, record)[0].read_text(encoding="utf-8")
    assert "(days 176-180)" in text and "the plan ends here" in text
