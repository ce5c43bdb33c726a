"""Reading lessons: facts, cells, exercises, checks, hints; and what is said of a broken one."""

from __future__ import annotations

import pytest

from llm180 import lessons
from tests.toy import LESSON, write_toy


def test_a_lesson_knows_its_facts_cells_checks_and_hints(tmp_path):
    toy = write_toy(tmp_path)
    assert (toy.number, toy.key, toy.label, toy.stage, toy.section) == (7, "day007", "Day 7", 1, "1.1")
    assert toy.solution_module == "solutions.day007_toy" and toy.tasks == ["玩具"]
    assert [e.checks for e in toy.exercises] == [("multiplies", "counts_scaled"), ("counts_scaled",)]
    assert toy.exercise("scale").hints == ("Multiply.", "Return `x * factor`.")
    assert [c.kind for c in toy.cells].count("code") == 4


def test_a_cell_knows_its_line(tmp_path):
    toy = write_toy(tmp_path)
    lines = toy.path.read_text().split("\n")
    for cell in toy.cells:
        assert lines[cell.line - 1] == cell.source.split("\n")[0]


def test_tags_are_read_in_both_notations(tmp_path):
    text = LESSON + "\n```{code-cell} ipython3\n:tags: [hide-input, slow]\n\nx = 1\n```\n"
    text += "\n```{code-cell} ipython3\n---\ntags: [remove-cell]\n---\ny = 2\n```\n"
    cells = write_toy(tmp_path, lesson=text).code_cells
    assert [(c.source, c.tags) for c in cells[-2:]] == [("x = 1", ("hide-input", "slow")), ("y = 2", ("remove-cell",))]


def test_a_code_cell_within_a_longer_fence_is_prose(tmp_path):
    text = LESSON + "\n````md\n```{code-cell}\nshown, not run\n```\n````\n"
    assert len(write_toy(tmp_path, lesson=text).code_cells) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# no front matter\n", "begins with front matter"),
        ("---\nday: {number: 1\n", "not closed"),
        ("---\nday: [1\n---\n", "not valid YAML"),
        ("---\ntitle: x\n---\n", "neither a `day:` nor a `lab:`"),
        ("---\nday: {number: 1}\n---\n", "has no `section`"),
        (LESSON + "```{code-cell} ipython3\nx = 1\n", "code cell is not closed"),
    ],
)
def test_a_broken_lesson_is_told_in_one_sentence(tmp_path, text, said):
    path = tmp_path / "day001_x.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(lessons.LessonError, match=said):
        lessons.load(path)


def test_a_day_that_is_not_there_is_said_to_be_so():
    with pytest.raises(lessons.LessonNotFound, match="the days are 1 to 180"):
        lessons.find(181)
    unwritten = next(n for n in range(180, 0, -1) if not list(lessons.paths.BOOK.glob(f"stage*/day{n:03d}_*.md")))
    with pytest.raises(lessons.LessonNotFound, match="not written yet"):
        lessons.find(unwritten)
    with pytest.raises(lessons.LessonNotFound, match="There is no lab 9.9"):
        lessons.find_lab("9.9")
    with pytest.raises(lessons.LessonNotFound, match="names no page"):
        lessons.find_key("x")


def test_words_are_counted_without_code_and_formulas():
    assert lessons.count_words("Two words, $x + y$ and\n\n$$a b c d$$\n\n{cite}`key`.") == 5
