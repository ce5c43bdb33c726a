"""What is derived and committed: current in this tree, and regenerated rightly."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from jupytext.compare import compare_notebooks
from sphinx_external_toc.parsing import parse_toc_data, parse_toc_yaml

from llm180 import lessons, notebooks, paths
from llm180.dev import sync

REPOSITORY = "https://github.com/someone/some-book"


def every_file(toc: dict) -> list[str]:
    """All pages that a table of contents names, in order."""
    found = [toc["root"]] if "root" in toc else []
    if "file" in toc:
        found.append(toc["file"])
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, []):
            found += every_file(entry)
    return found


# --- this tree -------------------------------------------------------------------------


def test_nothing_derived_is_stale() -> None:
    stale = [path.relative_to(paths.ROOT).as_posix() for path in sync.sync(check=True)]
    assert not stale, "stale: run `llm180 sync` and commit the result"


def test_the_table_of_contents_is_valid_and_names_each_page_once() -> None:
    site_map = parse_toc_yaml(paths.ROOT / sync.TOC)
    toc = yaml.safe_load((paths.ROOT / sync.TOC).read_text(encoding="utf-8"))
    files = every_file(toc)
    assert len(files) == len(set(files))
    assert set(files) == set(site_map)
    pages = {*paths.BOOK.rglob("*.md"), *(lab.path for lab in lessons.all_labs())}
    assert {paths.ROOT / f"{name}.md" for name in files} == pages


@pytest.mark.parametrize("lab", lessons.all_labs(), ids=lambda lab: lab.key)
def test_a_lab_equals_its_notebook_both_ways(lab: lessons.Lesson) -> None:
    source = jupytext.read(lab.path, fmt="md:myst")
    notebook = nbformat.read(lab.path.with_suffix(".ipynb"), as_version=4)
    compare_notebooks(notebook, source, fmt="md:myst")
    back = jupytext.reads(jupytext.writes(notebook, fmt="md:myst"), fmt="md:myst")
    compare_notebooks(back, source, fmt="md:myst")
    assert back.metadata["lab"] == source.metadata["lab"] == notebook.metadata["lab"]
    assert [cell.metadata for cell in back.cells] == [cell.metadata for cell in source.cells]
    assert all(not cell.get("outputs") for cell in notebook.cells)
    code = [cell.source for cell in source.cells if cell.cell_type == "code"]
    assert code == [cell.source for cell in lab.code_cells], "llm180 and jupytext read the same cells"


def test_one_place_names_the_repository() -> None:
    url = yaml.safe_load((paths.ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert f'Repository = "{url}"' in (paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")


# --- a project of its own ----------------------------------------------------------------

DAY = """\
---
kernelspec: {{display_name: Python 3, language: python, name: python3}}
day: {{number: {number}, stage: {stage}, section: "{section}", title: T, title_zh: 题, minutes: 9, exercises: []}}
---

# Day {number} · T

Opening.

```{{code-cell}} ipython3
:tags: [hide-input]

x = 1
```
"""

LAB = """\
---
jupytext:
  formats: ipynb,md:myst
  notebook_metadata_filter: lab
  text_representation:
    extension: .md
    format_name: myst
kernelspec: {display_name: Python 3, language: python, name: python3}
lab: {section: "1.1", title: L, title_zh: 题, minutes: 9, gpu: T4, exercises: []}
---

# Lab 1.1 · L

```{code-cell} ipython3
:tags: [remove-cell, colab]

print("an older template")
if True:
    pass
```

```{code-cell} ipython3
y = 2
```
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    book = tmp_path / "book"
    for number, section in ((1, "1.1"), (2, "1.1"), (11, "1.2"), (31, "2.1")):
        path = book / f"stage{section[0]}" / f"day{number:03d}_t.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DAY.format(number=number, stage=section[0], section=section), encoding="utf-8")
    for name in ("intro", "how_to_use", "coverage", "glossary", "bibliography", "stage1/index", "stage1/project"):
        (book / f"{name}.md").write_text(f"# {name}\n", encoding="utf-8")
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs" / "lab_1_1_l.md").write_text(LAB, encoding="utf-8")
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {REPOSITORY}\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://old"\n', encoding="utf-8")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BOOK", book)
    monkeypatch.setattr(paths, "LABS", tmp_path / "labs")
    monkeypatch.setattr(paths, "IN_CLONE", True)
    return tmp_path


def contents_of(project: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_check_writes_nothing_and_sync_settles_at_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents_of(project)
    assert sync.main(["--check"]) == 1
    assert contents_of(project) == before
    said = capsys.readouterr().out
    assert "stale: _toc.yml" in said and "stale: labs/lab_1_1_l.ipynb" in said and "Run `llm180 sync`" in said

    assert sync.main([]) == 0
    assert "updated: book/stage1/day001_t.md" in capsys.readouterr().out
    after = contents_of(project)
    assert sync.main(["--check"]) == 0
    assert sync.main([]) == 0
    assert contents_of(project) == after


def test_the_order_of_the_contents(project: Path) -> None:
    sync.sync()
    assert (project / sync.TOC).read_text(encoding="utf-8").startswith("# Generated")
    toc = yaml.safe_load((project / sync.TOC).read_text(encoding="utf-8"))
    parse_toc_data(toc)
    assert [part["caption"] for part in toc["parts"]] == [
        "Start here",
        "Stage 1 · Deep-learning foundations and mathematics",
        "Stage 2 · Transformer architecture in depth",
        "Reference",
    ]
    assert every_file(toc) == [
        "book/intro",
        "book/how_to_use",
        "book/coverage",
        "book/stage1/index",
        "book/stage1/day001_t",
        "book/stage1/day002_t",
        "labs/lab_1_1_l",
        "book/stage1/day011_t",
        "book/stage1/project",
        "book/stage2/day031_t",
        "book/glossary",
        "book/bibliography",
    ]


def test_the_plan_gives_the_titles_of_stages(project: Path) -> None:
    (project / "book" / "plan.yml").write_text("stages:\n- number: 1\n  title: {zh: 基础, en: Other words}\n", encoding="utf-8")
    assert sync.contents()["parts"][1]["caption"] == "Stage 1 · Other words"


def test_the_colab_cell_is_put_in_or_brought_up_to_date(project: Path) -> None:
    sync.sync()
    cell = notebooks.colab_cell(REPOSITORY)
    day = lessons.load(project / "book" / "stage1" / "day001_t.md")
    assert [c.source for c in day.code_cells] == [cell, "x = 1"]
    assert day.code_cells[0].tags == ("remove-cell", "colab") and day.code_cells[1].tags == ("hide-input",)
    assert [c.source for c in day.cells if c.kind == "markdown"] == ["# Day 1 · T\n\nOpening."]
    lab = lessons.load(project / "labs" / "lab_1_1_l.md")
    assert [c.source for c in lab.code_cells] == [cell, "y = 2"]
    assert lab.path.read_text(encoding="utf-8").endswith("```{code-cell} ipython3\ny = 2\n```\n")


def test_a_second_colab_cell_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "labs" / "lab_1_1_l.md"
    path.write_text(LAB + "\n```{code-cell} ipython3\n:tags: [colab]\n\n1\n```\n", encoding="utf-8")
    assert sync.main([]) == 1
    assert re.match(rf"{re.escape(str(path))}:\d+: a page has one cell tagged colab", capsys.readouterr().err)


def test_a_lab_has_to_be_paired(project: Path) -> None:
    path = project / "labs" / "lab_1_1_l.md"
    path.write_text(LAB.replace("  notebook_metadata_filter: lab\n", ""), encoding="utf-8")
    with pytest.raises(sync.SyncError, match="notebook_metadata_filter: lab"):
        sync.sync(check=True)


def test_the_notebook_of_a_lab_that_is_gone_is_removed(project: Path) -> None:
    orphan = project / "labs" / "lab_9_9_gone.ipynb"
    orphan.write_text("{}")
    assert orphan in sync.sync(check=True) and orphan.exists()
    assert orphan in sync.sync() and not orphan.exists()


def test_the_address_goes_into_the_package(project: Path) -> None:
    sync.sync()
    assert (project / "pyproject.toml").read_text() == f'[project.urls]\nRepository = "{REPOSITORY}"\n'


def test_published_notebooks(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("branch")
    written = sync.publish_notebooks(folder)
    assert [path.relative_to(folder).as_posix() for path in written] == [
        "stage1/day001_t.ipynb",
        "stage1/day002_t.ipynb",
        "stage1/day011_t.ipynb",
        "stage2/day031_t.ipynb",
        "labs/lab_1_1_l.ipynb",
        "requirements.txt",
        "README.md",
    ]
    for path in written[:-2]:
        nbformat.validate(nbformat.read(path, as_version=4))
    first = contents_of(folder)
    sync.publish_notebooks(folder)
    assert contents_of(folder) == first
