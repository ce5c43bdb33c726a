"""Lessons as plain notebooks, and the Colab set-up cell."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import nbformat
import pytest

from llm180 import lessons, notebooks, paths
from llm180.dev import plan

REPOSITORY = "https://github.com/someone/some-book"
SITE = "https://someone.github.io/some-book/"

HEAD = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
day:
  number: 7
  stage: 1
  section: "1.1"
  title: Toys
  title_zh: 玩具
  minutes: 120
  exercises:
    - {name: Matrix, difficulty: 3, minutes: 40, task: 实现矩阵运算库}
    - {name: blocked, difficulty: 2, minutes: 25}
---
"""

BIB = """\
@article{goto2008anatomy,
  author = {Goto, Kazushige and {van de Geijn}, Robert A.},
  title = {Anatomy of High-Performance Matrix Multiplication},
  year = {2008}, doi = {10.1145/1356052.1356053}}
@article{harris2020array,
  author = {Harris, Charles R. and Millman, K. Jarrod and van der Walt, St{\\'e}fan J.},
  title = {Array programming}, year = {2020}, url = {https://example.org/numpy}}
@book{golub2013,
  author = {Golub, Gene H.}, title = {Matrix Computations}, year = {2013}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, so that these tests do not depend on what the book holds."""
    (tmp_path / "book" / "stage1").mkdir(parents=True)
    (tmp_path / "labs").mkdir()
    (tmp_path / "book" / "references.bib").write_text(BIB, encoding="utf-8")
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {REPOSITORY}\n", encoding="utf-8")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BOOK", tmp_path / "book")
    monkeypatch.setattr(paths, "LABS", tmp_path / "labs")
    monkeypatch.setattr(paths, "IN_CLONE", True)
    monkeypatch.setattr(plan, "PLAN_FILE", tmp_path / "book" / "plan.yml")
    return tmp_path


def write(project: Path, body: str, name: str = "day007_toys") -> lessons.Lesson:
    path = project / "book" / "stage1" / f"{name}.md"
    path.write_text(HEAD + body, encoding="utf-8")
    return lessons.load(path)


def shown(project: Path, body: str) -> str:
    """The prose of a page's notebook, without the line that links to the page."""
    node = notebooks.portable_notebook(write(project, body))
    text = "\n\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    return text.replace(f"\n\n*This notebook as a page of the book: [Day 7]({SITE}book/stage1/day007_toys.html).*", "")


def failure(project: Path, body: str) -> str:
    with pytest.raises(notebooks.NotebookError) as caught:
        notebooks.portable_notebook(write(project, body))
    return str(caught.value)


# --- every page of the book ----------------------------------------------------------


def pages() -> list[lessons.Lesson]:
    return lessons.all_pages()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.key)
def test_every_page_becomes_a_valid_notebook(page: lessons.Lesson) -> None:
    node = notebooks.portable_notebook(page)
    nbformat.validate(node)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == [cell.source for cell in page.code_cells]
    assert [tuple(cell.metadata.get("tags", ())) for cell in code] == [cell.tags for cell in page.code_cells]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    prose = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    assert "{hint}" not in prose and "{solution}" not in prose
    for exercise in page.exercises:
        assert prose.count(f"· `{exercise.name}`** — difficulty") == 1
        assert prose.count(f'`day.solution("{exercise.name}")`') == 1
        for hint in exercise.hints:
            assert hint not in prose
    assert notebooks.notebook_text(node) == notebooks.notebook_text(notebooks.portable_notebook(page))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.key)
def test_every_page_sets_itself_up_on_colab(page: lessons.Lesson) -> None:
    marked = [cell for cell in page.code_cells if "colab" in cell.tags]
    assert [cell.source for cell in marked] == [notebooks.colab_cell(notebooks.repository())]
    assert page.code_cells[0] is marked[0], "the set-up cell comes before every other code cell"


# --- what MyST becomes ---------------------------------------------------------------


def test_code_cells_keep_source_tags_and_order(project: Path) -> None:
    body = """
# Day 7 · Toys

```{code-cell} ipython3
:tags: [hide-input]

x = "```{note}"  # {ref}`nothing`
%matplotlib inline
```

Between.

```{code-cell} ipython3
x
```
"""
    node = notebooks.portable_notebook(write(project, body))
    assert [cell.cell_type for cell in node.cells] == ["markdown", "code", "markdown", "code"]
    assert node.cells[1].source == 'x = "```{note}"  # {ref}`nothing`\n%matplotlib inline'
    assert node.cells[1].metadata == {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    assert node.cells[3].metadata == {}
    assert node.metadata["llm180"]["lesson"] == "day007"
    assert node.metadata["kernelspec"]["name"] == "python3"
    assert "accelerator" not in node.metadata


def test_exercise_card_and_one_line_for_hints_and_solution(project: Path) -> None:
    text = shown(
        project,
        """
### `Matrix`

```{exercise} Matrix
Build $A B$, shape `(m, n)`.

1. first
2. second
```

```{hint} Matrix
SECRET ONE
```

```{hint} Matrix
SECRET TWO
```

```{solution} Matrix
```

### `blocked`

````{exercise} blocked
```{note}
Inner.
```
````

```{solution} blocked
```
""",
    )
    stuck = '*Stuck?* `day.hint("{0}")` gives one hint more each call; `day.solution("{0}")` shows the reference.'
    assert text == "\n".join(
        [
            "### `Matrix`",
            "",
            "**Exercise 1 · `Matrix`** — difficulty 3/5, about 40 minutes, practice task: 实现矩阵运算库",
            "",
            "Build $A B$, shape `(m, n)`.",
            "",
            "1. first",
            "2. second",
            "",
            stuck.format("Matrix"),
            "",
            "### `blocked`",
            "",
            "**Exercise 2 · `blocked`** — difficulty 2/5, about 25 minutes",
            "",
            "> **Note**",
            ">",
            "> Inner.",
            "",
            stuck.format("blocked"),
        ]
    )


def test_a_cell_of_nothing_but_hints_is_left_out(project: Path) -> None:
    body = """
```{solution} Matrix
```

```{code-cell} ipython3
1
```

```{hint} Matrix
SECRET
```
"""
    node = notebooks.portable_notebook(write(project, body))
    assert [cell.cell_type for cell in node.cells] == ["markdown", "code"]


def test_dropdown_keeps_formulas_apart_from_html(project: Path) -> None:
    text = shown(
        project,
        """
:::{dropdown} Why is `a` < **b** for $x < y$?
:open:

Because
$$
x < y
$$
holds.
:::
""",
    )
    assert text == "\n".join(
        [
            "<details open>",
            r"<summary>Why is <code>a</code> &lt; <b>b</b> for $x \lt  y$?</summary>",
            "",
            "Because",
            "",
            "$$",
            "x < y",
            "$$",
            "",
            "holds.",
            "",
            "</details>",
        ]
    )


def test_admonitions_quote_and_keep_each_formula_on_one_line(project: Path) -> None:
    text = shown(
        project,
        """
:::{admonition} Coming from Java
:class: java
A `float[]`.

$$
a \\\\
b
$$

```java
int x = 1;

int y = 2;
```
:::

```{tip} On the first line
and the second, $a +
b$.
```
""",
    )
    assert text == "\n".join(
        [
            "> **Coming from Java**",
            ">",
            "> A `float[]`.",
            ">",
            r"> $$\begin{aligned}a \\ b\end{aligned}$$",
            ">",
            "> ```java",
            "> int x = 1;",
            ">",
            "> int y = 2;",
            "> ```",
            "",
            "> **Tip**",
            ">",
            "> On the first line",
            "> and the second, $a + b$.",
        ]
    )


def test_labeled_formulas_are_numbered_and_referred_to_from_before(project: Path) -> None:
    text = shown(
        project,
        """
By {eq}`second` and {eq}`first`:

```{math}
:label: first
a = b
```

$$ c = d $$ (second)
""",
    )
    assert text == "By (2) and (1):\n\n$$\na = b \\tag{1}\n$$\n\n$$\nc = d \\tag{2}\n$$"


def test_images_travel_in_the_cell(project: Path) -> None:
    image = b"\x89PNG\r\n\x1a\n toy"
    (project / "book" / "assets").mkdir()
    (project / "book" / "assets" / "toy.png").write_bytes(image)
    body = """
```{figure} /book/assets/toy.png
:alt: A toy
:name: toy-figure
The *caption* of {numref}`toy-figure`.

Its legend.
```

![again](../assets/toy.png) and <img src="../assets/toy.png" alt="once more">
"""
    node = notebooks.portable_notebook(write(project, body))
    cell = node.cells[0]
    assert cell.source.startswith(
        "![A toy](attachment:toy.png)\n\n**Figure 1.** The *caption* of Figure 1.\n\nIts legend.\n\n"
        "![again](attachment:toy.png) and ![once more](attachment:toy.png)"
    )
    assert base64.b64decode(cell.attachments["toy.png"]["image/png"]) == image
    nbformat.validate(node)


def test_a_large_image_is_linked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "book" / "stage1" / "toy.png").write_bytes(b"x" * 100)
    monkeypatch.setattr(notebooks, "EMBED_LIMIT", 99)
    assert shown(project, "![a](toy.png)") == f"![a]({REPOSITORY}/raw/main/book/stage1/toy.png)"


def test_citations(project: Path) -> None:
    text = shown(
        project,
        "A {cite}`goto2008anatomy,golub2013`, {cite:t}`harris2020array`, {cite:p}`golub2013`, {cite:year}`golub2013`.",
    )
    assert text == (
        "A ([Goto and van de Geijn, 2008](https://doi.org/10.1145/1356052.1356053); Golub, 2013), "
        "[Harris et al. (2020)](https://example.org/numpy), (Golub, 2013), 2013."
    )
    (project / "book" / "references.bib").unlink()
    assert shown(project, "A {cite}`goto2008anatomy`.") == "A [goto2008anatomy]."


def test_links_to_pages_labels_terms_and_files(project: Path) -> None:
    (project / "book" / "glossary.md").write_text("(the-words)=\n# All words\n\n(a_part)=\n## A part\n", encoding="utf-8")
    (project / "book" / "toy.csv").write_text("1", encoding="utf-8")
    glossary = f"{SITE}book/glossary.html"
    text = shown(
        project,
        """
{doc}`/book/glossary`, {doc}`words </book/glossary>`, {ref}`a_part`, {ref}`here <own>`, {ref}`own`,
{term}`vectors <vector>`, {term}`matrix`, {download}`data </book/toy.csv>`, [text](../glossary.md#a-part),
[out](https://example.org/a_b), {math}`a_b`, `{ref}`, ``{ref}`x` ``.

(own)=
## Own heading
""",
    )
    assert text == f"""\
[All words]({glossary}), [words]({glossary}), [A part]({glossary}#a-part), here, Own heading,
vectors, matrix, [data]({REPOSITORY}/raw/main/book/toy.csv), [text]({glossary}#a-part),
[out](https://example.org/a_b), $a_b$, `{{ref}}`, ``{{ref}}`x` ``.

## Own heading"""


def test_tables_code_comments_and_footnotes(project: Path) -> None:
    text = shown(
        project,
        """
```{list-table} Sizes
:header-rows: 1

* - What
  - Size
* - a | b
  - $n^2$
    bytes
```

```{table} Given
| a | b |
|---|---|
| 1 | 2 |
```

```{code-block} java
int x;
```

```text
{note} stays
```

% a comment
(target)=
Before[^one].

[^one]: After.
""",
    )
    assert text == "\n".join(
        [
            "**Sizes**",
            "",
            "| What | Size |",
            "| --- | --- |",
            r"| a \| b | $n^2$ bytes |",
            "",
            "**Given**",
            "",
            "| a | b |",
            "|---|---|",
            "| 1 | 2 |",
            "",
            "```java",
            "int x;",
            "```",
            "",
            "```text",
            "{note} stays",
            "```",
            "",
            "Before<sup>1</sup>.",
            "",
            "<sup>1</sup> After.",
        ]
    )


def test_the_plan_translates_a_practice_task(project: Path) -> None:
    plan.PLAN_FILE.write_text(
        "stages: [{number: 1, sections: [{number: '1.1', tasks: [{zh: 实现矩阵运算库, en: A matrix library}]}]}]\n",
        encoding="utf-8",
    )
    text = shown(project, "```{exercise} Matrix\n```")
    assert text.endswith("practice task: A matrix library (实现矩阵运算库)")


def test_exercises_are_targets(project: Path) -> None:
    other = project / "book" / "stage1" / "day008_more.md"
    other.write_text(HEAD.replace("number: 7", "number: 8") + "# Day 8 · More\n", encoding="utf-8")
    text = shown(project, "{ref}`ex-day007-Matrix`, {ref}`ex-day008-blocked`, {ref}`it <ex-day008-Matrix>`")
    page = f"{SITE}book/stage1/day008_more.html"
    assert text == f"Exercise 1 · Matrix, [Exercise 2 · blocked]({page}#ex-day008-blocked), [it]({page}#ex-day008-Matrix)"


def test_attributes_definitions_and_bare_latex(project: Path) -> None:
    text = shown(
        project,
        """
[some words]{.zh}, `x`{l=python}, [a](https://example.org){.b}, f(`x`) {doc}.

Term
: Its *meaning*,
  over two lines

\\begin{align*}
a &= b \\\\
c &= d
\\end{align*}
""",
    )
    assert text == "\n".join(
        [
            "some words, `x`, [a](https://example.org), f(`x`) {doc}.",
            "",
            "- **Term**: Its *meaning*,",
            "  over two lines",
            "",
            "$$",
            "\\begin{aligned}",
            r"a &= b \\",
            "c &= d",
            "\\end{aligned}",
            "$$",
        ]
    )


def test_a_block_inside_a_list_stays_in_it(project: Path) -> None:
    text = shown(project, "- one\n\n  ```{note}\n  In.\n  ```\n- two")
    assert text == "- one\n\n  > **Note**\n  >\n  > In.\n\n- two"


@pytest.mark.parametrize(
    ("body", "line", "names"),
    [
        ("# T\n\n```{mermaid}\nx\n```", 3, "{mermaid}"),
        ("# T\n\n````{note}\n\n```{mermaid}\nx\n```\n````", 5, "{mermaid}"),
        ("# T\n\n:::{tip}\nA {wrong}`role`.\n:::", 4, "{wrong}"),
        ("# T\n\nOne.\nTwo {eq}`none`.", 4, "'none'"),
        ("# T\n\n{ref}`none`", 3, "'none'"),
        ("# T\n\n{doc}`/book/none`", 3, "/book/none"),
        ("# T\n\n{cite}`none`", 3, "'none'"),
        ("# T\n\n![x](none.png)", 3, "none.png"),
        ("# T\n\n```{exercise} Nothing\n```", 3, "'Nothing'"),
        ("# T\n\n```{hint}\n```", 3, "{hint}"),
        ("# T\n\n```{dropdown} Why `x`?\nopen\n```", 3, "fence of colons"),
        ("# T\n\n:::{note}\nopen", 3, "not closed"),
    ],
)
def test_what_cannot_be_shown_is_an_error_with_file_and_line(project: Path, body: str, line: int, names: str) -> None:
    message = failure(project, body)
    assert message.startswith(f"{project}/book/stage1/day007_toys.md:{HEAD.count(chr(10)) + line}: "), message
    assert names in message


def test_a_piece_of_a_page_in_plain_markdown(project: Path) -> None:
    (project / "book" / "stage1" / "toy.svg").write_text("<svg/>", encoding="utf-8")
    lesson = write(project, "# Day 7 · Toys\n\n$$ a $$ (first)\n")
    text = notebooks.plain_markdown(lesson, "See {eq}`first` and ![x](toy.svg), {cite:t}`golub2013`.")
    assert text == "See (1) and ![x](data:image/svg+xml;base64,PHN2Zy8+), Golub (2013)."
    with pytest.raises(notebooks.NotebookError, match="'second'"):
        notebooks.plain_markdown(lesson, "See {eq}`second`.")


# --- files -----------------------------------------------------------------------------


def test_a_working_copy_never_replaces_a_file(project: Path) -> None:
    lesson = write(project, "# Day 7 · Toys\n\n```{code-cell} ipython3\n1\n```\n")
    path = project / "work" / "stage1" / "toys.ipynb"
    notebooks.working_copy(lesson, path)
    node = nbformat.read(path, as_version=4)
    assert len({cell.id for cell in node.cells}) == 2
    path.write_text("the reader's", encoding="utf-8")
    with pytest.raises(FileExistsError, match="left as it is"):
        notebooks.working_copy(lesson, path)
    assert path.read_text(encoding="utf-8") == "the reader's"
    assert [p.name for p in path.parent.iterdir()] == ["toys.ipynb"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_of_many_writers_one_wins_and_the_file_is_whole(
    project: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:

        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    lesson = write(project, "# Day 7 · Toys\n")
    path = project / "toys.ipynb"
    results: list[str] = []

    def run() -> None:
        try:
            notebooks.working_copy(lesson, path)
            results.append("written")
        except FileExistsError:
            results.append("refused")

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("written") == 1 and len(results) == 8
    assert json.loads(path.read_text(encoding="utf-8"))["nbformat"] == 4


def test_cell_ids_depend_on_content_alone(project: Path) -> None:
    body = "# Day 7 · Toys\n\n```{code-cell} ipython3\nx\n```\n\n```{code-cell} ipython3\nx\n```\n"
    first = [cell.id for cell in notebooks.portable_notebook(write(project, body)).cells]
    longer = [cell.id for cell in notebooks.portable_notebook(write(project, body + "\nMore.\n")).cells]
    assert longer[:3] == first and len(set(longer)) == 4
    assert first[2] == first[1] + "-2"


def test_a_lab_asks_colab_for_a_gpu(project: Path) -> None:
    path = project / "labs" / "lab_1_1_toys.md"
    head = HEAD.replace("day:\n", "lab:\n  gpu: T4\n").replace("  number: 7\n", "")
    path.write_text(head + "# Lab 1.1 · Toys\n", encoding="utf-8")
    node = notebooks.portable_notebook(lessons.load(path))
    assert node.metadata["accelerator"] == "GPU"
    assert node.metadata["colab"]["gpuType"] == "T4"
    assert f"[Lab 1.1]({SITE}labs/lab_1_1_toys.html)" in node.cells[0].source


# --- the repository's address -------------------------------------------------------------


def test_addresses_come_from_the_configuration(project: Path) -> None:
    assert notebooks.repository() == REPOSITORY
    assert notebooks.site_url() == SITE
    config = project / "_config.yml"
    config.write_text("repository:\n  url: https://github.com/Me/me.github.io/\n", encoding="utf-8")
    assert notebooks.site_url() == "https://me.github.io/"
    config.write_text(f"repository:\n  url: {REPOSITORY}.git\nhtml:\n  baseurl: https://book.example\n", encoding="utf-8")
    assert notebooks.repository() == REPOSITORY
    assert notebooks.page_url(paths.BOOK / "intro.md") == "https://book.example/book/intro.html"


def test_an_installed_package_reads_its_metadata(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path_factory.mktemp("site")
    info = site / "llm180-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: llm180\nVersion: 9.9\nProject-URL: Repository, https://github.com/else/where\n"
    )
    lesson = write(project, "# Day 7 · Toys\n\n{doc}`/book/stage1/day007_toys`\n")
    monkeypatch.setattr(paths, "IN_CLONE", False)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    assert notebooks.repository() == "https://github.com/else/where"
    page = "https://else.github.io/where/book/stage1/day007_toys.html"
    assert f"[Day 7 · Toys]({page})" in notebooks.portable_notebook(lesson).cells[0].source


# --- Colab ----------------------------------------------------------------------------------

CELL = notebooks.colab_cell(REPOSITORY)


def run_cell(monkeypatch: pytest.MonkeyPatch, *, returncode: int = 0, stderr: str = "") -> list[list[str]]:
    """Run the set-up cell where the package is not installed; the commands that it ran."""
    commands: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(subprocess, "run", pip)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm180" else find_spec(name))
    exec(compile(CELL, "<cell>", "exec"), {})
    return commands


def test_the_cell_is_short_plain_and_pins_nothing() -> None:
    assert len(CELL.splitlines()) <= 12
    assert max(map(len, CELL.splitlines())) <= 120
    assert "torch" not in CELL and not any(line.lstrip().startswith(("!", "%")) for line in CELL.splitlines())
    assert f"llm180 @ git+{REPOSITORY}" in CELL


def test_elsewhere_the_cell_does_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    assert run_cell(monkeypatch) == []
    assert capsys.readouterr() == ("", "")


@pytest.fixture(params=["module", "environment"])
def colab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "module":
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    else:
        monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-20260101")


def test_on_colab_the_cell_installs_and_checks(
    colab: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = run_cell(monkeypatch)
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", f"llm180 @ git+{REPOSITORY}"]]
    said = capsys.readouterr().out
    assert said.startswith("Ready: numpy ") and said.count("\n") == 1


def test_on_colab_a_second_run_installs_nothing(colab: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    exec(compile(CELL, "<cell>", "exec"), {})


def test_on_colab_a_failed_install_is_one_message(colab: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        run_cell(monkeypatch, returncode=1, stderr="noise\n" * 1000 + "ERROR: could not reach the repository")
    message = str(caught.value)
    assert message.startswith("llm180 was not installed. Try this cell again")
    assert message.endswith("ERROR: could not reach the repository") and len(message) < 800


def test_on_colab_a_failed_install_stops_a_notebook_without_a_traceback(tmp_path: Path) -> None:
    """The same in a real kernel: what the reader sees is the message."""
    from IPython.core.interactiveshell import InteractiveShell

    program = (
        "import sys, types, importlib.util, subprocess\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
        "importlib.util.find_spec = lambda name: None\n"
        "subprocess.run = lambda c, **_: subprocess.CompletedProcess(c, 1, '', 'ERROR: offline')\n"
        "shell = InteractiveShell.instance()\n"
        f"result = shell.run_cell({CELL!r})\n"
        "assert not result.success\n"
    )
    assert InteractiveShell  # the kernel's own shell is what runs here
    environment = os.environ | {"PYTHONPATH": str(Path(notebooks.__file__).parents[1]), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ERROR: offline" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_ready_says_what_to_do_when_an_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = notebooks.importlib.import_module

    def broken(name: str) -> types.ModuleType:
        if name == "torch":
            raise RuntimeError("operator torchvision::nms does not exist\nand more")
        return real(name)

    monkeypatch.setattr(notebooks.importlib, "import_module", broken)
    with pytest.raises(SystemExit, match=r"torch cannot be imported \(RuntimeError: operator .* exist\)\. .*Restart session"):
        notebooks.colab_ready()


def test_ready_notices_that_a_replaced_package_is_still_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = notebooks.importlib.metadata.version
    monkeypatch.setattr(
        notebooks.importlib.metadata, "version", lambda name: "99.0" if name == "numpy" else real(name)
    )
    with pytest.raises(SystemExit, match=r"numpy 99\.0 is installed, but .* is still loaded\. .*Restart session"):
        notebooks.colab_ready()
