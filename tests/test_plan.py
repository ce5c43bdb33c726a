"""The plan is complete, and each part of it has its day; the workflows are valid."""

from __future__ import annotations

import collections
import re
from typing import Any

import pytest
import yaml

from llm180 import lessons, paths
from llm180.dev import plan

WORKFLOWS = paths.ROOT / ".github" / "workflows"


def _entries(value: Any) -> list[Any]:
    """Every mapping below a value."""
    if isinstance(value, dict):
        return [value, *(e for v in value.values() for e in _entries(v))]
    if isinstance(value, list):
        return [e for v in value for e in _entries(v)]
    return []


def test_the_plan_has_its_parts() -> None:
    stages = plan.plan()["stages"]
    assert [s["number"] for s in stages] == [1, 2, 3, 4, 5, 6]
    assert [s["days"] for s in stages] == [[30 * k + 1, 30 * k + 30] for k in range(6)]
    assert [len(s["sections"]) for s in stages] == [3, 4, 4, 4, 4, 4]
    assert sum(len(s["topics"]) for s in plan.sections()) == 115
    assert sum(len(plan.items(s["number"])) for s in plan.sections()) == 289
    assert [len(s["resources"]) for s in stages] == [5] * 6
    assert [len(s["outcomes"]) for s in stages] == [3] * 6
    assert {len(part["items"]) for part in plan.plan()["deliverables"].values()} == {6}
    assert {len(part["items"]) for part in plan.plan()["advice"].values()} == {5, 6}


def test_sections_follow_each_other_through_180_days() -> None:
    days = [day for s in plan.sections() for day in range(s["days"][0], s["days"][1] + 1)]
    assert days == list(range(1, 181))


def test_every_entry_has_both_languages() -> None:
    for entry in _entries(plan.plan()):
        if "zh" in entry or "en" in entry:
            assert entry.get("zh") and entry.get("en"), entry


def test_an_item_occurs_once_in_its_section() -> None:
    for section in plan.sections():
        words = [item.zh for item in plan.items(section["number"])]
        assert len(words) == len(set(words)), section["number"]


def test_69_tasks_each_claimed_by_one_day_of_its_section() -> None:
    tasks = [(s["number"], plan.text(t).zh) for s in plan.sections() for t in s["tasks"]]
    assert len(tasks) == len(set(tasks)) == 69
    claimed = collections.Counter((day.section, task) for day in plan.days() for task in day.tasks)
    assert claimed == collections.Counter(tasks)


def test_every_day_is_written_or_planned_and_never_both() -> None:
    written = {lesson.number for lesson in lessons.all_lessons()}
    planned = [entry["number"] for entry in lessons.planned()]
    assert len(planned) == len(set(planned))
    both = sorted(written & set(planned))
    assert not both, f"written, and still in book/planned.yml: days {both}; delete their entries there"
    missing = sorted(set(range(1, 181)) - written - set(planned))
    assert not missing, f"neither written nor in book/planned.yml: days {missing}"


@pytest.mark.parametrize("day", plan.days(), ids=lambda day: day.stem)
def test_a_day_agrees_with_the_plan(day: plan.Day) -> None:
    section = plan.section(day.section)
    assert section["days"][0] <= day.number <= section["days"][1], "the day stands in another section"
    assert re.fullmatch(rf"day{day.number:03d}_[a-z0-9_]+", day.stem)
    assert day.title and re.search(r"[\u4e00-\u9fff]|^[\w -]+$", day.title_zh)
    assert day.exercises and all(name.isidentifier() for name in day.exercises)
    for where, word in day.topics:
        assert word in {item.zh for item in plan.items(where)}, f"the plan's section {where} has no item {word!r}"


def test_every_item_has_a_day() -> None:
    held = {topic for day in plan.days() for topic in day.topics}
    items = {(s["number"], item.zh) for s in plan.sections() for item in plan.items(s["number"])}
    assert items <= held, sorted(items - held)


def test_tools_stand_under_tools() -> None:
    tools = {
        (s["number"], plan.text(item).zh)
        for s in plan.sections()
        for group in s["topics"]
        if group.get("tool")
        for item in group["items"]
    }
    for entry in lessons.planned():
        for word in entry.get("tools") or ():
            assert (entry["section"], word) in tools, f"day {entry['number']}: {word!r} is no tool of the plan"
        for word in entry.get("topics") or ():
            assert (entry["section"], word) not in tools, f"day {entry['number']}: {word!r} belongs under tools"


def _bibliography() -> set[str]:
    return set(re.findall(r"^@\w+\{([^,\s]+),", (paths.BOOK / "references.bib").read_text(encoding="utf-8"), re.M))


def test_every_resource_has_an_entry_a_day_and_its_stage_page() -> None:
    keys = _bibliography()
    held = {key for day in plan.days() for key in day.references}
    for stage in plan.plan()["stages"]:
        page = (paths.BOOK / f"stage{stage['number']}" / "index.md").read_text(encoding="utf-8")
        for resource in stage["resources"]:
            assert resource["key"] in keys, f"references.bib has no {resource['key']}"
            assert resource["key"] in held, f"no day names {resource['key']}"
            assert plan.text(resource["title"]).en in page
            assert resource.get("url", "") in page


def test_references_of_days_are_in_the_bibliography() -> None:
    keys = _bibliography()
    for day in plan.days():
        assert set(day.references) <= keys, f"day {day.number}: {sorted(set(day.references) - keys)}"


def test_stage_pages_say_what_the_plan_says() -> None:
    for stage in plan.plan()["stages"]:
        page = (paths.BOOK / f"stage{stage['number']}" / "index.md").read_text(encoding="utf-8")
        said = [*stage["goals"], *stage["acceptance"].values(), *(o[k] for o in stage["outcomes"] for k in ("name", "value"))]
        said += [word for s in stage["sections"] for group in s["topics"] for word in (group, *group["items"])]
        for entry in said:
            assert plan.text(entry).en in page, f"stage {stage['number']}: {plan.text(entry).en}"
        for section in stage["sections"]:
            assert f"(section-{section['number']})=\n## {section['number']} {section['title']}\n" in page
            assert f"```{{stage-lessons}} {section['number']}\n" in page
            for task in section["tasks"]:
                assert plan.text(task).en.lower() in page.lower()


def test_landing_and_how_to_hold_deliverables_and_advice() -> None:
    pages = "".join((paths.BOOK / f"{name}.md").read_text(encoding="utf-8") for name in ("intro", "how_to_use")).lower()
    for part in plan.plan()["deliverables"].values():
        for item in part["items"]:
            assert plan.text(item).en.lower() in pages, item
    for part in plan.plan()["advice"].values():
        for item in part["items"]:
            assert plan.text(item["name"]).en.lower() in pages, item


# --- workflows -------------------------------------------------------------------------


def _workflows() -> dict[str, dict[str, Any]]:
    return {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(WORKFLOWS.glob("*.yml"))}


def test_workflows_are_valid_and_use_no_secret() -> None:
    found = _workflows()
    assert {"test.yml", "publish.yml", "newest.yml"} <= set(found)
    for name, flow in found.items():
        assert flow["name"], name
        assert flow.get("on", flow.get(True)), f"{name} never runs"  # YAML 1.1 reads `on` as true
        assert flow.get("permissions") is not None, f"{name} does not limit its token"
        for job in flow["jobs"].values():
            assert job["runs-on"] and int(job["timeout-minutes"]) > 0, name
            for step in job["steps"]:
                assert "uses" in step or "run" in step, (name, step)
                if "uses" in step:
                    assert re.fullmatch(r"[\w.-]+/[\w./-]+@v\d+(\.\d+)*", step["uses"]), (name, step["uses"])
        text = (WORKFLOWS / name).read_text(encoding="utf-8")
        assert set(re.findall(r"secrets\.(\w+)", text)) <= {"GITHUB_TOKEN"}, name


def test_ci_runs_what_the_readme_says() -> None:
    flow = _workflows()["test.yml"]
    job = flow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    command = "python3 -m llm180 test"
    assert command in (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert any(step.get("run", "").strip() in (command, ".ci/run") for step in job["steps"])
