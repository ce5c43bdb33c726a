"""The original plan as data: ``book/plan.yml``, and the days not yet written, ``book/planned.yml``.

Both are read by the book's directives and by the tests. The plan says what must
be taught; a lesson's front matter, or the entry of a planned day, says where.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import yaml

from llm180 import lessons, paths

PLAN_FILE = paths.BOOK / "plan.yml"
PLANNED_FILE = paths.BOOK / lessons.PLANNED_FILE


@dataclass(frozen=True)
class Text:
    """The plan's own words and their English."""

    zh: str
    en: str


@dataclass(frozen=True)
class Day:
    """A day, written or planned, with what it takes from the plan."""

    number: int
    stem: str
    section: str
    title: str
    title_zh: str
    topics: tuple[tuple[str, str], ...]  # (section, the plan's word), tools among them
    tasks: tuple[str, ...]
    exercises: tuple[str, ...]
    references: tuple[str, ...]
    minutes: int | None
    written: bool

    @property
    def stage(self) -> int:
        return int(self.section.split(".")[0])

    @property
    def docname(self) -> str:
        return f"book/stage{self.stage}/{self.stem}"


def text(value: Any) -> Text:
    """A plan entry: ``{zh: ..., en: ...}``, or a plain string where the plan's word is English already."""
    if isinstance(value, str):
        return Text(value, value)
    return Text(value["zh"], value["en"])


@functools.lru_cache(maxsize=4)
def _read(stamp: int) -> dict[str, Any]:
    return yaml.safe_load(PLAN_FILE.read_text(encoding="utf-8"))


def plan() -> dict[str, Any]:
    """The whole plan, as ``book/plan.yml`` has it."""
    return _read(PLAN_FILE.stat().st_mtime_ns)


def stage(number: int) -> dict[str, Any]:
    """One stage of the plan (1-6). Raises KeyError."""
    for candidate in plan()["stages"]:
        if candidate["number"] == number:
            return candidate
    raise KeyError(f"the plan has no stage {number}")


def section(name: str) -> dict[str, Any]:
    """One section of the plan, as ``1.1``. Raises KeyError."""
    for candidate in sections():
        if candidate["number"] == name:
            return candidate
    raise KeyError(f"the plan has no section {name}")


def sections() -> list[dict[str, Any]]:
    """The 23 sections, in order."""
    return [s for part in plan()["stages"] for s in part["sections"]]


def items(name: str) -> list[Text]:
    """Every topic and tool of a section, in the plan's order."""
    return [text(item) for topic in section(name)["topics"] for item in topic["items"]]


def _topics(section: str, facts: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a day covers: items of its own section, or of the one named before the item (``2.2 正弦位置编码``)."""
    found = []
    for word in [*(facts.get("topics") or ()), *(facts.get("tools") or ())]:
        elsewhere = re.fullmatch(r"(\d\.\d) (.+)", str(word))
        found.append((elsewhere[1], elsewhere[2]) if elsewhere else (section, str(word)))
    return tuple(found)


def days() -> list[Day]:
    """All 180 days in order: the written ones from their front matter, the rest from ``planned.yml``."""
    found: dict[int, Day] = {}
    for lesson in lessons.all_lessons():
        assert lesson.number is not None
        found[lesson.number] = Day(
            number=lesson.number,
            stem=lesson.stem,
            section=lesson.section,
            title=lesson.title,
            title_zh=lesson.title_zh,
            topics=_topics(lesson.section, lesson.facts),
            tasks=tuple(lesson.tasks),
            exercises=tuple(e.name for e in lesson.exercises),
            references=tuple(lesson.references),
            minutes=lesson.minutes,
            written=True,
        )
    for entry in lessons.planned():
        if entry["number"] in found:
            continue
        found[entry["number"]] = Day(
            number=entry["number"],
            stem=entry["stem"],
            section=str(entry["section"]),
            title=entry["title"],
            title_zh=entry["title_zh"],
            topics=_topics(str(entry["section"]), entry),
            tasks=tuple(entry.get("tasks") or ()),
            exercises=tuple(entry.get("exercises") or ()),
            references=tuple(entry.get("references") or ()),
            minutes=None,
            written=False,
        )
    return [found[number] for number in sorted(found)]
