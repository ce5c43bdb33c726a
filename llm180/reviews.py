"""Weekly reviews: the plan's template, filled in from the reader's record.

A week is seven days of the plan; week 26 has the last five. ``work/reviews/week_01.md`` is the reader's own
file. What is filled in stands between marks that carry its hash, so that a later run renews it and touches
nothing else; a part that the reader has changed, and whatever stands outside the marks, stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llm180 import lessons, paths
from llm180.dev import plan

if TYPE_CHECKING:
    from llm180.lessons import Lesson
    from llm180.progress import Attempt, Progress

DAYS, WEEKS = 180, 26
PROBLEMS = 5  # at most so many are listed

_BLOCK = re.compile(r"<!-- from your record: (?P<name>\w+) (?P<hash>[0-9a-f]{12}) -->\n(?P<body>.*?)<!-- end -->\n", re.S)


class ReviewError(Exception):
    """A review cannot be written; the message is one sentence for the reader."""


def week_days(week: int) -> range:
    """The days of a week of the plan (1-26). Raises :class:`ReviewError`."""
    if not 1 <= week <= WEEKS:
        raise ReviewError(f"There is no week {week}; the plan has weeks 1 to {WEEKS}.")
    return range(7 * week - 6, min(7 * week, DAYS) + 1)


def path_of(week: int) -> Path:
    """Where the review of a week lies."""
    week_days(week)
    return paths.WORK / "reviews" / f"week_{week:02d}.md"


@dataclass
class Trouble:
    """An exercise that did not go at once."""

    page: Lesson
    exercise: str
    failed: int
    solved: bool
    hints: int
    looked: bool
    said: str


@dataclass
class Week:
    """What the record holds of a week."""

    number: int
    pages: list[Lesson]
    later: list[plan.Day]  # days of the week that are not written yet
    passed: dict[str, set[str]]
    hours: float
    dates: int
    troubles: list[Trouble] = field(default_factory=list)

    def complete(self, page: Lesson) -> bool:
        return len(self.passed[page.key]) == len(page.exercises)


def pages_of(week: int) -> list[Lesson]:
    """The written days of a week, and the labs of the sections that end in it."""
    days = week_days(week)
    labs = [lab for lab in lessons.all_labs() if plan.section(lab.section)["days"][1] in days]
    return [*(page for page in lessons.all_lessons() if page.number in days), *labs]


def read(week: int, progress: Progress) -> Week:
    """The facts of a week from the reader's record."""
    pages = pages_of(week)
    keys = {page.key for page in pages}
    attempts: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in progress.attempts():
        if attempt.day in keys:
            attempts.setdefault((attempt.day, attempt.exercise), []).append(attempt)
    passed = {page.key: progress.passed_exercises(page) for page in pages}
    troubles = []
    for page in pages:
        for exercise in page.exercises:
            tried = attempts.get((page.key, exercise.name), [])
            wrong = [a for a in tried if a.verdict not in ("passed", "unsolved")]
            hints, looked = progress.help_taken(page.key, exercise.name)
            if wrong or looked:
                said = wrong[-1].message if wrong else ""
                solved = exercise.name in passed[page.key]
                troubles.append(Trouble(page, exercise.name, len(wrong), solved, hints, looked, said))
    troubles.sort(key=lambda t: (t.solved, -t.failed))
    return Week(
        number=week,
        pages=pages,
        later=[day for day in plan.days() if day.number in week_days(week) and not day.written],
        passed=passed,
        hours=progress.hours(keys),
        dates=len(progress.days_worked(days=keys)),
        troubles=troubles,
    )


# --- the text ------------------------------------------------------------------------------

_WORDS = {
    "en": {
        "of": "{passed} of {all} exercises",
        "later": "not written yet",
        "none": "nothing yet",
        "solved": "exercises passed",
        "tasks": "practice tasks done",
        "topics": "topics of the completed days",
        "failed": "{count} failed checks",
        "hints": "{count} hints",
        "looked": "the reference was read",
        "open": "open",
        "done": "solved",
        "solution": "Solution",
        "left": "left over: {what}",
        "time": "Your record: {hours:.1f} hours on {dates} dates; the plan allows {planned:.1f} hours for these days.",
        "results": "{exercises} exercises, about {hours:.1f} hours",
        "last": "the plan ends here",
    },
    "zh": {
        "of": "{all}道练习完成{passed}道",
        "later": "课程尚未写成",
        "none": "暂无",
        "solved": "已通过的练习",
        "tasks": "已完成的实践任务",
        "topics": "已学完的主题",
        "failed": "{count}次检查未通过",
        "hints": "用了{count}条提示",
        "looked": "看过参考答案",
        "open": "未解决",
        "done": "已解决",
        "solution": "解决方案",
        "left": "上周遗留：{what}",
        "time": "学习记录：共{hours:.1f}小时，分布在{dates}天；计划为这几天安排了{planned:.1f}小时。",
        "results": "{exercises}道练习，约{hours:.1f}小时",
        "last": "计划到此结束",
    },
}


def _title(page: Lesson | plan.Day, language: str) -> str:
    label = page.label if isinstance(page, lessons.Lesson) else f"Day {page.number}"
    return f"{label} · {page.title_zh if language == 'zh' else page.title}"


def _task(section: str, task: str, language: str) -> str:
    found = next((plan.text(t) for t in plan.section(section)["tasks"] if plan.text(t).zh == task), None)
    return getattr(found, language) if found else task


def blocks(week: Week, language: str = "en") -> dict[str, str]:
    """What is filled in, by the name of its part: goals, gains, problems, next, pace."""
    say = _WORDS[language]
    goals, labs = [], []
    for page in week.pages:
        count = say["of"].format(passed=len(week.passed[page.key]), all=len(page.exercises))
        tasks = [
            f"[{'x' if e.name in week.passed[page.key] else ' '}] {_task(page.section, e.task, language)}"
            for e in page.exercises
            if e.task
        ]
        (labs if page.is_lab else goals).append(f"- [{'x' if week.complete(page) else ' '}] {_title(page, language)}: {'; '.join([count, *tasks])}")
    goals += [f"- [ ] {_title(day, language)}: {say['later']}" for day in week.later]
    goals += labs

    done = [e.name for page in week.pages for e in page.exercises if e.name in week.passed[page.key]]
    tasks = [
        _task(page.section, e.task, language)
        for page in week.pages
        for e in page.exercises
        if e.task and e.name in week.passed[page.key]
    ]
    topics = [
        getattr(item, language)
        for page in week.pages
        if week.complete(page)
        for item in plan.items(page.section)
        if item.zh in page.topics or item.en in page.topics
    ]
    gains = [
        f"- {say[name]}: {', '.join(dict.fromkeys(found)) or say['none']}"
        for name, found in (("solved", [f"`{name}`" for name in done]), ("tasks", tasks), ("topics", topics))
    ]

    problems = []
    for trouble in week.troubles[:PROBLEMS]:
        facts = [say["failed"].format(count=trouble.failed)] if trouble.failed else []
        facts += [say["hints"].format(count=trouble.hints)] if trouble.hints else []
        facts += [say["looked"]] if trouble.looked else []
        facts.append(say["done"] if trouble.solved else say["open"])
        problems.append(f"- `{trouble.exercise}` ({trouble.page.label}): {', '.join(facts)}")
        if trouble.said:
            problems.append("  > " + " ".join(trouble.said.split())[:300])
    problems = problems or [f"- {say['none']}"]

    coming = []
    if week.number < WEEKS:
        following = [day for day in plan.days() if day.number in week_days(week.number + 1)]
        left = [_title(page, language) for page in week.pages if not week.complete(page)]
        coming = [f"- {_title(day, language)}" for day in following]
        coming += [f"- {say['left'].format(what=', '.join(left))}"] if left else []
        coming += [f"- {_task(day.section, task, language)} ({_title(day, language)})" for day in following for task in day.tasks]
        hours = sum(day.minutes or 150 for day in following) / 60
        coming.append(f"- {say['results'].format(exercises=sum(len(d.exercises) for d in following), hours=hours)}")
    else:
        coming = [f"- {say['last']}"]

    minutes = sum(page.minutes for page in week.pages)
    pace = say["time"].format(hours=week.hours, dates=week.dates, planned=minutes / 60)
    parts = {"goals": goals, "gains": gains, "problems": problems, "next": coming, "pace": [f"- {pace}"]}
    return {name: "\n".join(lines) + "\n" for name, lines in parts.items()}


def _marked(name: str, body: str) -> str:
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    return f"<!-- from your record: {name} {digest} -->\n{body}<!-- end -->\n"


def fresh(week: Week, language: str = "en") -> str:
    """The whole review as Markdown: the plan's template with what is known of the week."""
    template = plan.plan()["weekly_review"]
    days = week_days(week.number)
    title = getattr(plan.text(template["title"]), language)
    span = f"{days[0]}-{days[-1]}"
    title = title.replace("第X周", f"第{week.number}周").replace("week X", f"week {week.number}").replace("X-X", span)
    known = blocks(week, language)
    lines = [f"# {title}\n"]
    for part, name in zip(template["parts"], ("goals", "gains", "problems", "next", "pace"), strict=True):
        lines.append(f"## {getattr(plan.text(part['title']), language)}\n")
        lines.append(_marked(name, known[name]))
        if name != "goals":  # the goals of a week are its lessons
            own = [getattr(plan.text(item), language) for item in part["items"]]
            lines.append("\n".join(f"- {item}{'' if item.endswith(('?', '？')) else ': '}" for item in own) + "\n")
    return "\n".join(lines)


def renewed(text: str, week: Week, language: str = "en") -> tuple[str, Counter[str]]:
    """A review that the reader has, with the parts that they left untouched brought up to date.

    Returns the text, and how many parts were ``renewed``, were ``current`` and are the reader's ``own``.
    """
    known = blocks(week, language)
    found: Counter[str] = Counter()

    def renew(block: re.Match[str]) -> str:
        body, name = block["body"], block["name"]
        if name not in known or hashlib.sha256(body.encode()).hexdigest()[:12] != block["hash"]:
            found["own"] += 1
            return block[0]
        found["current" if body == known[name] else "renewed"] += 1
        return _marked(name, known[name])

    return _BLOCK.sub(renew, text), found


def language_of(text: str) -> str:
    """The language in which a review was begun: that of its title."""
    return "zh" if re.search(r"^# .*周", text, re.M) else "en"


def write(week: int, progress: Progress, language: str | None = None) -> tuple[Path, str]:
    """Write or renew a week's review. Returns its path and what was done, in one sentence.

    Raises :class:`ReviewError` for a week that is not there or a file that cannot be used.
    """
    path = path_of(week)
    facts = read(week, progress)
    try:
        if not path.exists():
            paths.write_whole(path, fresh(facts, language or "en"))
            return path, "Written: what your record knows is filled in, the rest is yours."
        before = path.read_bytes().decode("utf-8")
        begun = language_of(before)
        if language and language != begun:
            raise ReviewError(f"{path} is in the other language; rename it to begin a new one.")
        text, found = renewed(before.replace("\r\n", "\n"), facts, begun)
        if found["renewed"]:
            paths.write_whole(path, text)
        told = [f"{found['renewed']} renewed from your record" if found["renewed"] else "nothing new in your record"]
        told += [f"{found['own']} changed by you and left alone"] if found["own"] else []
        return path, f"Your review is kept; parts: {', '.join(told)}."
    except UnicodeDecodeError:
        raise ReviewError(f"{path} is not text in UTF-8; rename it to begin a new one.") from None
    except OSError as error:
        raise ReviewError(f"{path} cannot be written ({error.strerror or error}).") from None


def week_now(progress: Progress) -> int:
    """The week of the first lesson that is not complete."""
    for page in lessons.all_lessons():
        if not progress.is_complete(page):
            assert page.number is not None
            return (page.number + 6) // 7
    return WEEKS
