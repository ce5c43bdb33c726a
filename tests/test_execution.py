"""Execution of pages: what the plugin reports, keeps, and skips; in a small project of its own.

One pytest run of the small project (a fixture of this module) is looked at by most tests here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest

from llm180 import paths
from llm180.dev import execution, plugin

FRONT = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
day:
  number: {number}
  title: {title}
---

# Day {number} · {title}
"""

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def page(number: int, title: str, *cells: str) -> str:
    """A MyST page of code cells; a cell that begins with ``#tags:`` has these tags."""
    parts = [FRONT.format(number=number, title=title)]
    for cell in cells:
        source = textwrap.dedent(cell).strip("\n")
        if source.startswith("#tags: "):
            tags, source = source.split("\n", 1)
            source = f":tags: [{tags.removeprefix('#tags: ')}]\n\n{source}"
        parts.append(f"Prose between the cells.\n\n```{{code-cell}} ipython3\n{source}\n```\n")
    return "\n".join(parts)


GOOD_CELLS = (
    """
    import os
    import sys
    from pathlib import Path

    from IPython.display import HTML, clear_output, display
    from solutions.day001_good import double

    day = [Day := str][0]("setting up ends here")
    """,
    """
    print("one")
    print("to stderr", file=sys.stderr, flush=True)
    print("two")
    double(21)
    """,
    """
    display(HTML("<b>bold</b>"), metadata={"text/html": {"isolated": True}})
    handle = display("first", display_id=True)
    """,
    f"""
    handle.update("updated")
    display({{"image/png": "{PIXEL}", "text/plain": "a pixel"}}, raw=True, metadata={{"image/png": {{"width": 7}}}})
    """,
    """
    print("gone")
    clear_output(wait=True)
    print("left")
    """,
    """
    for step in range(3):
        print(f"\\rstep {step}", end="")
    print()
    """,
    """
    #tags: skip-execution
    raise SystemExit("never run")
    """,
    """
    #tags: raises-exception
    1 / 0
    """,
    """
    from comm import create_comm

    create_comm(target_name="a.widget", data={"state": {"value": 1}})
    None
    """,
    """
    for i in range(2500):
        display(i)
    clear_output()
    """,
    """
    text = Path("../../llm180/data/words.txt").read_text()
    Path("../../_build/scratch.txt").write_text(text)
    Path("../../note_of_the_page.txt").write_text(text)
    len(Path("../../note_of_the_page.txt").read_text())
    """,
    """
    import multiprocessing
    import subprocess

    subprocess.run([sys.executable, "-c", "import solutions.by_subprocess"], check=True)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            pool.apply(eval, [f"__import__('solutions.by_{method}').__name__"])
    """,
    """
    names = ["LLM180_MODE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED"]
    print([os.environ.get(name) for name in names], os.environ.get("MPLBACKEND"))
    print(Path.cwd().name, list(Path(os.environ["LLM180_HOME"]).glob("progress*")))
    """,
)

BROKEN_CELLS = (
    "def divide(x):\n    zero = 0\n    return x / zero",
    "print('before')\ny = 2\ndivide(y)\nz = 3",
    "open('ran.txt', 'w').write('a cell after the failure ran')",
)

PAGES = {
    "day001_good": page(1, "good", *GOOD_CELLS),
    "day002_broken": page(2, "broken", *BROKEN_CELLS),
    "day003_endless": page(
        3, "endless", "import time", "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass", "1"
    ),
    "day004_dies": page(4, "dies", "import os, sys", "print('x', flush=True)\nos.kill(os.getpid(), 9)", "1"),
    "day005_calls_out": page(
        5,
        "calls out",
        "import socket",
        "try:\n    socket.create_connection(('198.51.100.7', 80), timeout=1)\nexcept OSError:\n    print('went on')",
        "1",
    ),
}

TEST_SITE = """
from pathlib import Path

def test_waits(executed_pages, request):
    from llm180.dev import execution
    session = request.config.stash[__import__('llm180.dev.plugin').dev.plugin._STATE].session
    states = {Path(s["page"]).stem: s["status"] for s in session.all()}
    Path("seen_by_site.txt").write_text(repr(sorted(states.items())))
    assert len(executed_pages.selected) == 5
    assert len(executed_pages.failed) == 4
    assert [p.stem for p in executed_pages.current] == ["day001_good"]

def test_needs_all(executed_book):
    pass
"""


def make_project(root: Path, pages: dict[str, str]) -> Path:
    root.mkdir(parents=True)
    (root / "book" / "stage1").mkdir(parents=True)
    for name in ("labs", "solutions", "tests"):
        (root / name).mkdir()
    shutil.copytree(
        paths.PACKAGE, root / "llm180", ignore=shutil.ignore_patterns("__pycache__", "data", "*.bin", "*.gz")
    )
    (root / "llm180" / "data").mkdir()
    for name in ("__init__.py", "models.py", "registry.json"):
        shutil.copy(paths.PACKAGE / "data" / name, root / "llm180" / "data" / name)
    (root / "llm180" / "data" / "words.txt").write_text("some words\n")
    (root / "requirements.txt").write_text("numpy==2\n")
    shutil.copy(paths.ROOT / "pyproject.toml", root / "pyproject.toml")
    for stem, text in pages.items():
        (root / "book" / "stage1" / f"{stem}.md").write_text(text)
    (root / "solutions" / "__init__.py").write_text("")
    (root / "solutions" / "day001_good.py").write_text("def double(x):\n    return 2 * x\n")
    for way in ("subprocess", "fork", "spawn"):
        (root / "solutions" / f"by_{way}.py").write_text("x = 1\n")
    return root


def environment(root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "LLM180_"))}
    return {**kept, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def run_pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--color=no", "-p", "no:hypothesispytest", *arguments]
    return subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=300)


def ask(root: Path, code: str) -> list:
    """What a piece of Python prints as JSON, run in the small project with ``execution`` imported."""
    script = (
        "import json\nfrom pathlib import Path\nfrom llm180 import paths\nfrom llm180.dev import execution\n"
        "root = paths.ROOT\npage = lambda stem: root / 'book/stage1' / (stem + '.md')\nanswers = []\n"
        + textwrap.dedent(code)
        + "\nprint('ANSWERS' + json.dumps(answers))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment(root), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """The small project after one run, with two workers, of one page that passes and four that fail."""
    root = make_project(tmp_path_factory.mktemp("execution") / "project", PAGES)
    (root / "tests" / "test_site.py").write_text(TEST_SITE)
    (root / "tests" / "test_alone.py").write_text("def test_passes():\n    pass\n")
    done = run_pytest(root, "-v", "--nbval-cell-timeout=12")
    return root, done.stdout + done.stderr


def line_of(stem: str, text: str) -> int:
    return PAGES[stem].split("\n").index(text) + 1


def outcome(out: str, test: str) -> str:
    found = re.search(rf"(PASSED|FAILED|SKIPPED|ERROR)\s+\S*{re.escape(test)}\s*$", out, re.M)
    assert found, f"{test} is not in the report"
    return found[1]


# --- the report ---------------------------------------------------------------------


def test_each_code_cell_is_a_test(run):
    _, out = run
    for number in range(1, len(GOOD_CELLS) + 1):
        expected = "SKIPPED" if number == 7 else "PASSED"
        assert outcome(out, f"day001_good.md::cell{number}") == expected, out


def test_report_says_which_cell_where_and_why(run):
    _, out = run
    line = line_of("day002_broken", "divide(y)")
    report = out[out.index("day002_broken.md, cell 2") :]
    report = report[: report.index("\n____") if "\n____" in report else None]
    assert f"book/stage1/day002_broken.md:{line}: cell 2 of 3: ZeroDivisionError: division by zero" in report
    assert f">{line:6d} | divide(y)" in report
    assert "What the cell printed (its end):\nbefore" in report
    in_function = line_of("day002_broken", "    return x / zero")
    assert f"book/stage1/day002_broken.md:{in_function}, in divide(x)" in report
    assert "\x1b" not in out
    assert "nbval" not in report.lower()


def test_cells_after_a_failure_are_not_run(run):
    root, out = run
    assert outcome(out, "day002_broken.md::cell3") == "SKIPPED"
    assert f"not run: cell 2 (line {line_of('day002_broken', 'divide(y)')}) failed" in out
    assert not (root / "book" / "stage1" / "ran.txt").exists()


def test_time_limit_holds_where_the_interrupt_is_swallowed(run):
    _, out = run
    assert outcome(out, "day003_endless.md::cell2") == "FAILED"
    assert "cell 2 of 3: Timeout of 12 seconds exceeded" in out
    assert outcome(out, "day003_endless.md::cell3") == "SKIPPED"


def test_a_dead_kernel_is_noticed_at_once(run):
    _, out = run
    assert "cell 2 of 3: The kernel died" in out


def test_the_network_is_refused_even_where_the_page_goes_on(run):
    _, out = run
    assert "cell 2 of 3: The cell asked for the network (198.51.100.7)" in out


def test_table_of_seconds(run):
    root, out = run
    rows = re.findall(r"^ +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)  (book/\S+)", out, re.M)
    assert len(rows) == 5
    good = next(row for row in rows if "day001" in row[4])
    record = json.loads((root / "_build" / "executed" / "day001_good.json").read_text())
    assert [float(x) for x in good[:3]] == pytest.approx(
        [record["seconds"][part] for part in ("kernel", "imports", "content")], abs=0.06
    )
    assert record["seconds"]["kernel"] > 0.1
    assert record["seconds"]["imports"] > 0


def test_what_needs_pages_runs_after_them(run):
    root, out = run
    assert outcome(out, "test_site.py::test_waits") == "PASSED"
    seen = (root / "seen_by_site.txt").read_text()
    assert "running" not in seen
    assert seen.count("failed") == 4
    assert outcome(out, "test_site.py::test_needs_all") == "ERROR"
    assert "the book needs every page to pass" in out
    assert outcome(out, "test_alone.py::test_passes") == "PASSED"


def test_the_sessions_files_are_removed(run):
    root, _ = run
    assert not list((root / "_build" / "executed" / "sessions").glob("*"))


# --- what is kept ---------------------------------------------------------------------


def test_failed_pages_leave_no_outputs(run):
    root, _ = run
    for stem in ("day002_broken", "day003_endless", "day004_dies", "day005_calls_out"):
        record = json.loads((root / "_build" / "executed" / f"{stem}.json").read_text())
        assert record["status"] == "failed"
    assert ask(root, "answers = [Path(r.uri).stem for r in execution._open_cache().list_cache_records()]") == [
        "day001_good"
    ]


def test_record_names_what_the_page_used(run):
    root, _ = run
    record = json.loads((root / "_build" / "executed" / "day001_good.json").read_text())
    assert record["status"] == "passed"
    inputs = set(record["inputs"])
    assert {
        "solutions/day001_good.py",
        "solutions/by_subprocess.py",
        "solutions/by_fork.py",
        "solutions/by_spawn.py",
        "llm180/data/words.txt",
    } <= inputs
    # Not: what the page wrote itself, what is generated, the page, the tracer.
    assert not [name for name in inputs if name.startswith(("_build", "book", "llm180/dev", "note_"))]


def cached(root: Path) -> list[nbformat.NotebookNode]:
    [folder] = (root / "_build" / ".jupyter_cache" / "executed").iterdir()
    return nbformat.read(folder / "base.ipynb", as_version=4).cells


def test_environment_of_the_kernel(run):
    root, _ = run
    text = cached(root)[12].outputs[0].text
    assert "['solved', '1', '1', '1', '0'] module://matplotlib_inline.backend_inline" in text
    assert "stage1 []" in text


def test_outputs_are_those_of_a_normal_execution(run, tmp_path):
    """Cell by cell the same as nbclient's, which is what MyST-NB itself executes with."""
    import nbclient

    root, _ = run
    notebook = execution._read_page(root / "page.md", PAGES["day001_good"])
    keep = [0, 1, 2, 3, 4, 5, 7, 8]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [code[i] for i in keep]
    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(root / "book" / "stage1")}}
    )
    client.execute(env=environment(root))
    ours = cached(root)
    for index, expected in zip(keep, notebook.cells, strict=True):
        outputs = plugin.join_streams(expected.outputs)
        got = ours[index].outputs
        assert [o.output_type for o in got] == [o.output_type for o in outputs], index
        for a, b in zip(got, outputs, strict=True):
            a, b = dict(a), dict(b)
            for name in ("execution_count", "traceback"):  # other cells were left out of the second run
                a.pop(name, None), b.pop(name, None)
            assert a == b, index


def test_outputs_by_kind(run):
    root, _ = run
    cells = cached(root)
    assert [(o.output_type, o.get("name"), o.get("text")) for o in cells[1].outputs] == [
        ("stream", "stdout", "one\n"),
        ("stream", "stderr", "to stderr\n"),
        ("stream", "stdout", "two\n"),
        ("execute_result", None, None),
    ] or sorted(o.get("text", "") for o in cells[1].outputs) == ["", "one\ntwo\n", "to stderr\n"]
    assert cells[1].outputs[-1].data["text/plain"] == "42"
    assert cells[1].outputs[-1].execution_count == cells[1].execution_count == 2
    html, updated = cells[2].outputs
    assert html.data["text/html"] == "<b>bold</b>"
    assert html.metadata["text/html"] == {"isolated": True}
    assert updated.data["text/plain"] == "'updated'"
    [image] = cells[3].outputs
    assert image.data["image/png"].strip() == PIXEL
    assert image.metadata["image/png"] == {"width": 7}
    assert [o.text for o in cells[4].outputs] == ["left\n"]
    assert [o.text for o in cells[5].outputs] == ["step 2\n"]
    assert cells[6].outputs == [] and cells[6].execution_count is None
    assert cells[7].outputs[0].ename == "ZeroDivisionError"
    assert cells[9].outputs == []


def test_a_long_queue_of_outputs_is_complete(run, tmp_path):
    """2,500 outputs in a burst, then cleared: the cell ends, which it does not if messages are lost."""
    _, out = run
    assert outcome(out, "day001_good.md::cell10") == "PASSED"


# --- what is current -----------------------------------------------------------------------


def test_every_kind_of_change_is_seen_and_no_other(run):
    root, _ = run
    answers = ask(
        root,
        """
        good = page('day001_good')
        why = lambda: answers.append(execution.stale_because(good))
        def change(name, old, new):
            path = root / name
            before = path.read_bytes()
            assert old in before.decode(), name
            path.write_text(before.decode().replace(old, new, 1))
            why()
            path.write_bytes(before)
        why()
        change('book/stage1/day001_good.md', 'Prose between', 'Other prose between')
        change('book/stage1/day001_good.md', 'double(21)', 'double(22)')
        change('book/stage1/day001_good.md', 'skip-execution', 'hide-input')
        change('book/stage1/day001_good.md', 'title: good', 'title: better')
        change('solutions/day001_good.py', '2 * x', 'x + x')
        change('solutions/by_spawn.py', 'x = 1', 'x = 2')
        change('llm180/data/words.txt', 'some', 'other')
        change('requirements.txt', 'numpy==2', 'numpy==3')
        (root / 'solutions/by_fork.py').rename(root / 'solutions/away.py')
        why()
        (root / 'solutions/away.py').rename(root / 'solutions/by_fork.py')
        (root / 'solutions/unused.py').write_text('x = 1')
        why()
        answers.append([p.stem for p in execution.stale_pages()])
        """,
    )
    assert answers == [
        None,
        None,
        "its code cells changed",
        "its code cells changed",
        "its front matter changed",
        "solutions/day001_good.py changed",
        "solutions/by_spawn.py changed",
        "llm180/data/words.txt changed",
        "the pinned packages or Python changed",
        "solutions/by_fork.py is gone",
        None,
        ["day002_broken", "day003_endless", "day004_dies", "day005_calls_out"],
    ]


def test_changed_executes_only_what_changed(tmp_path):
    cells = ("import solutions.day001_good", "print('a')")
    root = make_project(
        tmp_path / "project", {"day001_a": page(1, "a", *cells), "day002_b": page(2, "b", "print('b')")}
    )
    assert run_pytest(root, "-n0", "book").returncode == 0
    (root / "solutions" / "day001_good.py").write_text("def double(x):\n    return x + x\n")
    done = run_pytest(root, "-v", "-n0", "--changed", "book")
    assert done.returncode == 0, done.stdout
    assert re.search(r"day001_a.md::cell2 PASSED", done.stdout)
    assert re.search(r"day002_b.md::unchanged SKIPPED \(unchanged since", done.stdout)
    # A page that fails loses the outputs that it had.
    (root / "solutions" / "day001_good.py").write_text("raise ValueError('broken now')\n")
    executed = root / "_build" / ".jupyter_cache" / "executed"
    assert len(list(executed.iterdir())) == 2
    answers = ask(
        root,
        """
        lines = []
        answers.append(execution.run_stale(lambda done, total, name: lines.append([done, total, name])))
        answers.append(lines)
        """,
    )
    assert answers == [1, [[1, 1, "book/stage1/day001_a.md"]]]
    assert len(list(executed.iterdir())) == 1
    assert json.loads((root / "_build" / "executed" / "day001_a.json").read_text())["status"] == "failed"


def with_facts(text: str, facts: str) -> str:
    """A small page with one fact more."""
    assert "\nday:\n" in text
    return text.replace("\nday:\n", f"\nday:\n  {facts}\n", 1)


def test_a_page_that_lacks_packages_is_skipped_with_the_command_that_installs_them(tmp_path):
    pages = {"day001_good": page(1, "good", "1"), "day002_more": with_facts(page(2, "more", "1 / 0"), "needs: [toy]")}
    root = make_project(tmp_path / "project", pages)
    (root / "conftest.py").write_text(
        "import importlib.metadata\nimportlib.metadata.requires = lambda name: ['no-such-package; extra == \"toy\"']\n"
    )
    done = run_pytest(root, "book", "-n", "0")
    assert done.returncode == 0, done.stdout
    assert "not installed: no-such-package; `python3 -m llm180 setup lessons` installs it" in done.stdout
    assert "2 skipped" in done.stdout or "1 skipped" in done.stdout
    assert ask(root, "import conftest\nanswers = [p.stem for p in execution.stale_pages()]") == []


def test_a_page_gets_its_models_from_the_reader_and_fails_where_there_is_none(tmp_path):
    says = "import os, pathlib\nprint(sorted(p.name for p in pathlib.Path(os.environ['LLM180_MODELS']).iterdir()))"
    pages = {
        "day001_has": with_facts(page(1, "has", says), "models: [toy]"),
        "day002_none": with_facts(page(2, "none", "1"), "models: [gone]"),
    }
    root = make_project(tmp_path / "project", pages)
    (root / "conftest.py").write_text(
        "from llm180 import data\nfrom llm180.data import models\n"
        "def model(name, progress):\n"
        "    if name == 'gone': raise data.DataError('The model gone cannot be had.')\n"
        "    (models.home() / name).mkdir(parents=True)\n"
        "data.model = model\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--color=no", "-n", "0", "book"], cwd=root, capture_output=True, text=True,
        env=environment(root) | {"LLM180_HOME": str(tmp_path / "reader")},
    )  # fmt: skip
    assert "day002_none.md:1: The model gone cannot be had." in done.stdout, done.stdout
    assert "1 passed" in done.stdout, done.stdout
    assert "['toy']" in cached(root)[0].outputs[0].text


def test_one_cell_selected_runs_the_cells_before_it(tmp_path):
    root = make_project(tmp_path / "project", {"day001_a": page(1, "a", "x = 1", "x += 1", "assert x == 2", "1 / 0")})
    done = run_pytest(root, "-n0", "book/stage1/day001_a.md::cell3")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert not (root / "_build" / "executed" / "day001_a.json").exists()  # the page did not run to its end


# --- the build ------------------------------------------------------------------------------------


BOOK_CONFIG = """
title: small
author: tests
only_build_toc_files: true
execute: {execute_notebooks: cache, cache: _build/.jupyter_cache}
parse: {myst_enable_extensions: [colon_fence, dollarmath]}
sphinx: {local_extensions: {no_kernel: .}}
"""

NO_KERNEL = """
import jupyter_client.manager as manager

async def refused(self, *args, **kwargs):
    raise RuntimeError("A KERNEL WAS STARTED")

manager.KernelManager._async_start_kernel = refused
manager.KernelManager.start_kernel = refused
manager.AsyncKernelManager.start_kernel = refused

def setup(app):
    from llm180.dev import execution
    app.connect("builder-inited", lambda app: print("PURGED", [p.stem for p in execution.purge_stale()]))
    return {"parallel_read_safe": True}
"""


def test_a_build_executes_nothing_and_shows_what_was_tested(tmp_path):
    text = page(1, "built", "print(6 * 7)", "#tags: hide-input\nfrom solutions.day001_good import double\ndouble(4)")
    root = make_project(
        tmp_path / "project", {"day001_built": text.replace("Prose between", "$$\nx\n$$\nProse between")}
    )
    (root / "_config.yml").write_text(BOOK_CONFIG)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/stage1/day001_built\n")
    (root / "no_kernel.py").write_text(NO_KERNEL)
    assert run_pytest(root, "-n0", "book").returncode == 0

    def build() -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", ".", "--all"],
            cwd=root, env=environment(root), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        html = root / "_build" / "html" / "book" / "stage1" / "day001_built.html"
        return done.stdout + done.stderr, html.read_text() if html.exists() else ""

    log, html = build()
    assert "A KERNEL WAS STARTED" not in log
    assert "Using cached notebook" in log
    assert "PURGED []" in log
    shown = re.sub(r"<[^>]+>", "", html)
    assert "42" in shown and "8" in shown
    assert "highlight-ipython3" in html  # the kernel's language_info came with the outputs

    # The same build does ask for a kernel once the solution has changed, though no cell has:
    # jupyter-cache alone would show what the old solution printed.
    (root / "solutions" / "day001_good.py").write_text("def double(x):\n    return x + x + 0\n")
    log, html = build()
    assert "PURGED ['day001_built']" in log
    assert "A KERNEL WAS STARTED" in log


def test_cells_are_those_of_myst_nb():
    """A code cell inside a colon fence is no cell where the extension is on, as in the book."""
    nested = FRONT.format(number=1, title="x") + ":::{note}\n```{code-cell} ipython3\nx\n```\n:::\n"
    notebook = execution._read_page(Path("day001_x.md"), nested)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown"]


def test_outputs_without_record_last_until_the_project_changes(tmp_path):
    """A build that executed a page itself (nothing was in the cache) leaves no record."""
    root = make_project(tmp_path / "project", {"day001_a": page(1, "a", "print('a')")})
    answers = ask(
        root,
        """
        def by_a_build():
            notebook = execution.read_page(page('day001_a'))
            for cell in notebook.cells:
                if cell.cell_type == 'code':
                    cell.execution_count = 1
            from jupyter_cache.base import CacheBundleIn
            bundle = CacheBundleIn(notebook, str(page('day001_a')), data={})
            execution._open_cache().cache_notebook_bundle(bundle, overwrite=True)
        def purge():
            answers.append([p.stem for p in execution.purge_stale()])
        purge()          # the start of a build
        by_a_build()
        purge()          # the start of the next, nothing changed
        purge()
        (root / 'solutions/day001_good.py').write_text('def double(x): return 0')
        purge()
        answers.append(len(execution._open_cache().list_cache_records()))
        by_a_build()
        purge()
        text = page('day001_a').read_text()
        page('day001_a').write_text(text.replace("print('a')", "print('b')"))
        purge()          # its code is another, so the entry is nobody's
        answers.append(len(execution._open_cache().list_cache_records()))
        """,
    )
    assert answers == [[], [], [], ["day001_a"], 0, [], [], 0]


def test_two_writers_at_once(tmp_path):
    root = make_project(tmp_path / "project", {f"day{n:03d}_p": page(n, "p", f"print({n})") for n in range(1, 7)})
    script = """
    import sys
    from llm180.dev import execution
    for path in execution.pages()[int(sys.argv[1])::2] * 2:
        notebook = execution.read_page(path)
        execution.store(path, notebook, uses=execution.Uses({}, []), seconds={"kernel": 1.0})
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(i)], cwd=root, env=environment(root))
        for i in range(2)
    ]
    assert [w.wait(timeout=120) for w in writers] == [0, 0]
    assert ask(root, "answers = [[p.stem for p in execution.stale_pages()], len(execution._open_cache().list_cache_records())]") == [[], 6]  # fmt: skip


# --- small pieces --------------------------------------------------------------------------------------


def test_which_files_are_pages():
    assert execution.is_page(paths.BOOK / "stage1" / "day001_x.md")
    assert execution.is_page(paths.LABS / "lab_1_1_x.md")
    for other in (
        paths.BOOK / "stage1" / "index.md",
        paths.BOOK / "day001_x.md",
        paths.BOOK / "stage1" / "day001_x.ipynb",
        paths.BUILD / "html" / "_sources" / "book" / "stage1" / "day001_x.md",
        paths.WORK / "day001_x.md",
        paths.LABS / "README.md",
    ):
        assert not execution.is_page(other), other


@pytest.mark.parametrize(
    ("pieces", "joined"),
    [
        ([("stdout", "a"), ("stdout", "b")], [("stdout", "ab")]),
        ([("stdout", "a"), ("stderr", "b"), ("stdout", "c")], [("stdout", "a"), ("stderr", "b"), ("stdout", "c")]),
        ([("stderr", "\r 10%"), ("stderr", "\r 20%")], [("stderr", " 20%")]),
        ([("stdout", "one\r\ntwo\n")], [("stdout", "one\r\ntwo\n")]),
        ([("stdout", "ab\bc")], [("stdout", "ac")]),
        ([("stdout", "ab\b\bcd")], [("stdout", "cd")]),
    ],
)
def test_join_streams(pieces, joined):
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    assert [(o.name, o.text) for o in plugin.join_streams(outputs)] == joined


def test_a_record_that_cannot_be_read_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "EXECUTED", tmp_path)
    (tmp_path / "day001_x.json").write_text('{"status": "pas')
    assert execution.read_record(Path("day001_x.md")) is None
    assert execution.stale_because(Path("day001_x.md")) == "it has not been executed yet"


def test_what_changed_while_the_page_ran_is_not_taken_for_current(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path.resolve())
    for name, changed in (("before.py", 1000.0), ("meanwhile.py", 3000.0)):
        (tmp_path / name).write_text("x = 1\n")
        os.utime(tmp_path / name, (changed, changed))
    root = tmp_path.resolve()
    (tmp_path / "uses").write_text(
        f"R {root}/before.py\nR {root}/meanwhile.py\nR {root}/gone.py\nW {root}/own.txt\nR {root}/own.txt\nN 10.0.0.1\n"
    )
    (tmp_path / "own.txt").write_text("x")
    uses = execution.read_trace(tmp_path, since=2000.0)
    assert set(uses.inputs) == {"before.py", "meanwhile.py"}
    assert uses.inputs["before.py"] == execution.file_hash(tmp_path / "before.py")
    assert uses.inputs["meanwhile.py"] == execution.CHANGED_MEANWHILE
    assert uses.hosts == ["10.0.0.1"]


def test_waiting_ends_when_no_page_moves(tmp_path):
    """A page whose worker was lost is never finished; the tests that wait for it fail instead of hanging."""
    root = make_project(tmp_path / "project", {"day001_a": page(1, "a", "print('a')")})
    (root / "tests" / "test_site.py").write_text("def test_site(executed_book):\n    pass\n")
    (root / "conftest.py").write_text(
        "import llm180.dev.plugin as p\np.Page._say = lambda self, status, **facts: None\n"  # nobody hears of the page
    )
    done = run_pytest(root, "-n0", "-o", "executed_patience=2")
    assert "no page has moved on for" in done.stdout, done.stdout
    assert "not finished: book/stage1/day001_a.md" in done.stdout


def test_a_run_goes_on_to_its_end_after_a_worker_has_crashed(tmp_path):
    """The tests that a lost worker had left are run by another, what it had finished is not waited for."""
    root = make_project(tmp_path / "project", {f"day00{i}_a": page(i, "a", "print('a')") for i in (1, 2, 3, 4)})
    (root / "tests" / "test_crash.py").write_text(
        "import os, signal, time\nfrom pathlib import Path\n\ndef test_before():\n    pass\n\n"
        "def test_crash():\n    if not Path('crashed').exists():\n        Path('crashed').touch()\n"
        "        time.sleep(0.5)\n        os.kill(os.getpid(), signal.SIGKILL)\n\ndef test_after():\n    pass\n"
    )
    (root / "tests" / "test_site.py").write_text("def test_site(executed_book):\n    pass\n")
    done = run_pytest(root, "-v")
    assert re.search(r"worker '?gw\d'? crashed while running '?tests/test_crash.py::test_crash", done.stdout), done.stdout
    assert outcome(done.stdout, "tests/test_crash.py::test_after") == "PASSED"
    assert outcome(done.stdout, "tests/test_site.py::test_site") == "PASSED"


def test_a_failure_is_named_when_it_happens(tmp_path):
    root = make_project(tmp_path / "project", {"day001_broken": page(1, "broken", "1 / 0")})
    (root / "tests" / "test_more.py").write_text("def test_wrong():\n    assert 1 == 2, 'first\\nsecond'\n")
    shown = run_pytest(root, "-q").stdout.split("= FAILURES =")[0].splitlines()
    assert "tests/test_more.py::test_wrong: AssertionError: first" in shown
    assert any(re.search(r"day001_broken.md:\d+: cell 1 of 1: ZeroDivisionError: division by zero", line) for line in shown)


def test_a_process_that_ended_is_not_alive():
    assert plugin._is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()
    child.stdout.close()
    for _ in range(100):  # ended, but nobody has asked for its status yet
        if not plugin._is_alive(child.pid):
            break
        time.sleep(0.05)
    assert not plugin._is_alive(child.pid)
    child.wait()
    assert not plugin._is_alive(child.pid)
