"""The theory paper of a stage: drawn from a bank of questions, another one for each reader and each attempt.

The bank is ``book/stageN/questions.yml``, a list of two kinds of questions. *Numbers* are computed from values that
the draw picks; ``answer`` and ``check`` are two expressions for the same number, by different ways::

    - id: trace-from-eigenvalues
      day: 3
      ask: "A symmetric matrix has the eigenvalues {a}, {b} and {c}. What is its trace?"
      given: {a: [2, 3], b: [-1, 5], c: [0.5, 4]}
      answer: a + b + c
      check: np.trace(np.diag([a, b, c]))
      worked: "The trace is the sum of the eigenvalues: {a} + {b} + {c} = {answer}."

*Statements* are true or false; the draw picks some of each, and every one has its reason::

    - id: qr-or-normal
      day: 2
      ask: "Which statements about least squares are true?"
      holds: [{say: "...", why: "..."}, ...]
      fails: [{say: "...", why: "..."}, ...]

A reader who has the bank by heart has learned the stage.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from llm180 import paths

QUESTIONS = 20
MINUTES = 60
PASS = 0.75  # of the questions
STATEMENTS = 4
GRACE = timedelta(minutes=2)
TOLERANCE = 0.01  # of a number that is not whole: two digits and a little care


class ExamError(Exception):
    """A paper cannot be drawn or graded; the message is one sentence for the reader."""


@dataclass(frozen=True)
class Question:
    """A question as one paper asks it. ``right`` is a number, or the letters of the true statements."""

    id: str
    day: int
    ask: str
    right: float | int | frozenset[str]
    worked: str

    def judge(self, said: str) -> bool:
        """Whether an answer is right: a number (3, 0.5, 1e-3, 2/3, 40%), or letters (a c; none)."""
        if isinstance(self.right, frozenset):
            letters = said.lower().replace("none", " ")
            return bool(said.strip()) and frozenset(re.findall(r"[a-z]", letters)) == self.right
        number = read_number(said)
        if number is None:
            return False
        if isinstance(self.right, int):
            return abs(number - self.right) < 1e-9
        return abs(number - self.right) <= TOLERANCE * abs(self.right) + 1e-12


def read_number(said: str) -> float | None:
    """The number that a reader wrote, or ``None``."""
    text = said.strip().replace("−", "-").replace("_", "")
    found = re.fullmatch(r"([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(?:/\s*([\d.]+(?:e[-+]?\d+)?))?\s*(%?)", text, re.IGNORECASE)
    try:
        if not found:
            return None
        value = float(found[1]) / (float(found[2]) if found[2] else 1.0)
        return value / 100 if found[3] else value
    except (ValueError, ZeroDivisionError):
        return None


# --- the bank ----------------------------------------------------------------------------


def bank_path(stage: int) -> Path:
    return paths.BOOK / f"stage{stage}" / "questions.yml"


def bank(stage: int) -> list[dict[str, Any]]:
    """The questions of a stage. Raises :class:`ExamError` where there are none yet."""
    path = bank_path(stage)
    if not path.exists():
        raise ExamError(f"Stage {stage} has no questions yet, so there is no theory paper and no certificate.")
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _load(path: Path, stamp: int) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def compute(expression: str, values: dict[str, Any]) -> float | int:
    """The value of an expression of the bank, in the names of ``math``, ``np`` and the given values."""
    import numpy as np

    names = {name: getattr(math, name) for name in dir(math) if not name.startswith("_")}
    found = eval(expression, {"np": np, "abs": abs, "sum": sum, "min": min, "max": max, "range": range, "round": round, "len": len, **names, **values})
    if isinstance(found, (int, np.integer)) and not isinstance(found, bool):
        return int(found)
    return float(found)


def pose(entry: dict[str, Any], rng: random.Random) -> Question:
    """A question of the bank with values, or statements, drawn by ``rng``."""
    if "answer" in entry:
        values = {name: rng.choice(choices) for name, choices in (entry.get("given") or {}).items()}
        right = compute(entry["answer"], values)
        shown = values | {"answer": right if isinstance(right, int) else f"{right:.4g}"}
        return Question(entry["id"], entry["day"], entry["ask"].format(**values), right, entry["worked"].format(**shown))
    true = rng.randint(max(1, STATEMENTS - len(entry["fails"])), min(STATEMENTS - 1, len(entry["holds"])))
    picked = [(s, True) for s in rng.sample(entry["holds"], true)]
    picked += [(s, False) for s in rng.sample(entry["fails"], STATEMENTS - true)]
    rng.shuffle(picked)
    letters = "abcdefgh"[: len(picked)]
    ask = entry["ask"] + "\n\n" + "\n".join(f"- ({letter}) {s['say']}" for letter, (s, _) in zip(letters, picked))
    worked = "\n".join(f"- ({letter}) {'True' if good else 'False'}: {s['why']}" for letter, (s, good) in zip(letters, picked))
    right = frozenset(letter for letter, (_, good) in zip(letters, picked) if good)
    return Question(entry["id"], entry["day"], ask, right, worked)


def draw(stage: int, seed: str) -> list[Question]:
    """The questions of one paper, in the order of the days; no day twice before every day has had its turn."""
    rng = random.Random(hashlib.sha256(f"{stage}:{seed}".encode()).hexdigest())
    entries = list(bank(stage))
    rng.shuffle(entries)
    seen: dict[int, int] = {}
    ranked = []
    for entry in entries:
        seen[entry["day"]] = seen.get(entry["day"], 0) + 1
        ranked.append((seen[entry["day"]], entry))
    ranked.sort(key=lambda pair: pair[0])  # stable: the shuffle decides within a turn
    chosen = [entry for _, entry in ranked[:QUESTIONS]]
    return [pose(entry, rng) for entry in sorted(chosen, key=lambda e: (e["day"], e["id"]))]


# --- the reader's record of papers ---------------------------------------------------------


def _record_path() -> Path:
    return paths.home() / "exam.json"


def _record() -> dict[str, Any]:
    path = _record_path()
    if not path.exists():
        return {"reader": secrets.token_hex(8), "papers": {}}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise ExamError(f"The record of your papers, {path}, cannot be read; move it away to begin a new one.") from None


def _keep(record: dict[str, Any]) -> None:
    paths.write_whole(_record_path(), json.dumps(record, indent=1) + "\n")


def papers(stage: int) -> list[dict[str, Any]]:
    """The papers of a stage that the reader has begun, oldest first."""
    return _record()["papers"].get(str(stage), [])


def passed_paper(stage: int) -> dict[str, Any] | None:
    """The best paper that was passed, or ``None``."""
    good = [paper for paper in papers(stage) if paper.get("passed")]
    return max(good, key=lambda paper: paper["right"]) if good else None


def paper_path(stage: int, number: int) -> Path:
    return paths.WORK / f"stage{stage}" / f"theory_paper_{number}.md"


def begin(stage: int, now: datetime | None = None) -> Path:
    """Draw a paper, write it for the reader to fill in, and start the clock. Raises :class:`ExamError` while one is open."""
    now = now or datetime.now(UTC)
    record = _record()
    mine = record["papers"].setdefault(str(stage), [])
    if mine and "handed_in" not in mine[-1] and now <= _due(mine[-1]) + GRACE:
        raise ExamError(f"Paper {mine[-1]['number']} is open until {_clock(_due(mine[-1]))}: {paper_path(stage, mine[-1]['number'])}.")
    number = len(mine) + 1
    paper = {"number": number, "begun": now.isoformat(timespec="seconds")}
    questions = draw(stage, f"{record['reader']}:{number}")
    path = paper_path(stage, number)
    if path.exists():
        raise ExamError(f"{path} is there already; move it away, and ask again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_paper_text(stage, paper, questions), encoding="utf-8")
    mine.append(paper)
    _keep(record)
    return path


def _due(paper: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(paper["begun"]) + timedelta(minutes=MINUTES)


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%H:%M")


def _paper_text(stage: int, paper: dict[str, Any], questions: list[Question]) -> str:
    out = [
        f"# Theory paper of stage {stage}, number {paper['number']}",
        "",
        f"{len(questions)} questions, {MINUTES} minutes: hand it in by {_clock(_due(paper))} with `llm180 certify {stage} --hand-in`. Passed with {math.ceil(PASS * len(questions))} right.",
        "Write behind each `Answer:`, on the same line. A number as 3, 0.25, 1e-3, 2/3 or 40%, within 1%; a whole number exactly.",
        "Where statements are given, the letters of all that are true, as `a c`. Pen, paper and a calculator are all you need.",
        "",
    ]
    for number, question in enumerate(questions, 1):
        out += [f"## {number}", "", question.ask, "", "Answer:", ""]
    return "\n".join(out)


_ANSWER = re.compile(r"^## (\d+)\s*$(?:(?!^## ).)*?^Answer:[ \t]*(.*?)[ \t]*$", re.M | re.S)


def hand_in(stage: int, now: datetime | None = None) -> tuple[dict[str, Any], Path]:
    """Grade the open paper and write it out with the worked answers; the paper's record and that file.

    Raises :class:`ExamError` if none is open, if its time is over (the paper is then closed), or if the file is gone.
    """
    now = now or datetime.now(UTC)
    record = _record()
    mine = record["papers"].get(str(stage), [])
    if not mine or "handed_in" in mine[-1]:
        raise ExamError(f"No paper is open; `llm180 certify {stage} --paper` draws one and starts the clock.")
    paper = mine[-1]
    path = paper_path(stage, paper["number"])
    if now > _due(paper) + GRACE:
        paper |= {"handed_in": now.isoformat(timespec="seconds"), "right": 0, "of": QUESTIONS, "passed": False, "late": True}
        _keep(record)
        raise ExamError(f"The time of paper {paper['number']} ended at {_clock(_due(paper))}; `llm180 certify {stage} --paper` draws another one.")
    if not path.exists():
        raise ExamError(f"{path} is gone; without it there is nothing to grade.")
    questions = draw(stage, f"{record['reader']}:{paper['number']}")
    said = {int(n): answer for n, answer in _ANSWER.findall(path.read_text(encoding="utf-8"))}
    verdicts = [question.judge(said.get(n, "")) for n, question in enumerate(questions, 1)]
    paper |= {
        "handed_in": now.isoformat(timespec="seconds"),
        "right": sum(verdicts),
        "of": len(questions),
        "passed": sum(verdicts) >= PASS * len(questions),
        "late": False,
    }
    graded = path.with_name(f"theory_paper_{paper['number']}_graded.md")
    out = [f"# Theory paper of stage {stage}, number {paper['number']}: {sum(verdicts)} of {len(questions)} right", ""]
    for n, (question, good) in enumerate(zip(questions, verdicts), 1):
        out += [f"## {n} · Day {question.day} · {'right' if good else 'wrong'}", "", question.ask, "", f"Your answer: {said.get(n, '') or 'none'}", "", question.worked, ""]
    graded.write_text("\n".join(out), encoding="utf-8")
    _keep(record)
    return paper, graded
