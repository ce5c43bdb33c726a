"""The notebook's Day: answers, checks, what a reader is told, and hostile answers."""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch

from llm180 import expect, guard
from llm180.day import CheckFailed, is_blank
from llm180.lessons import LessonError
from llm180.progress import Progress
from tests.toy import CHECKS, COUNTER_STUB, SOLUTION, Notebook, write_toy


@pytest.fixture(autouse=True)
def reader(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLM180_REPORT", raising=False)
    monkeypatch.setenv("LLM180_MODE", "learn")
    return tmp_path


@pytest.fixture
def notebook(reader):
    return Notebook(write_toy(reader))


def test_a_day_begins_with_one_line(notebook, capsys):
    Notebook(notebook.page.lesson)
    assert capsys.readouterr().out.splitlines()[-1] == "Day 7 · A toy day · 2 exercises"


def test_while_an_answer_is_blank_the_reference_stands_in(notebook, capsys):
    notebook.answer('"""x times factor."""\n...')
    assert notebook.names["scale"](3, 4) == 12
    assert "scale: not solved yet" in capsys.readouterr().out
    notebook.cell(CHECKS)
    assert "multiplies: not solved yet" in capsys.readouterr().out


def test_a_right_answer_passes_and_is_kept_with_its_source(notebook, capsys):
    notebook.answer("return x * factor")
    notebook.cell(CHECKS)
    assert "✓ multiplies: passed" in capsys.readouterr().out
    progress = Progress.open()
    assert progress.verdicts("day007")["scale", "multiplies"].verdict == "passed"
    assert "return x * factor" in progress.passed_source("day007", "scale")


def test_a_wrong_answer_is_told_what_was_expected_what_came_and_the_likely_cause(notebook, capsys):
    notebook.answer("return x + factor")
    notebook.cell(CHECKS)
    told = capsys.readouterr().out
    assert "✗ multiplies: Each entry is multiplied by the factor." in told
    assert "expected  3 at [0] for scale(x, 3)" in told
    assert "came      4" in told
    assert "likely    the factor is added, not multiplied" in told
    assert "Traceback" not in told


def test_a_listed_mistake_explains_more_than_a_general_cause(notebook, capsys):
    notebook.answer("x * factor")
    notebook.cell(CHECKS)
    told = capsys.readouterr().out
    assert "came      None" in told and "likely    nothing is returned" in told


def test_an_error_in_the_answer_names_its_line(notebook, capsys):
    notebook.answer("y = x * factor\nreturn y[17]")
    notebook.cell(CHECKS)
    told = capsys.readouterr().out
    assert "IndexError" in told and "return y[17]" in told and "Traceback" not in told


HOSTILE = {
    "an endless loop": "while True:\n    pass",
    "an endless loop that catches everything": "while True:\n    try:\n        x = x\n    except BaseException:\n        pass",
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "an exception that is no Exception": "class Odd(BaseException): pass\nraise Odd",
    "a string raised": "raise 'text'",
    "returning None": "return None",
    "returning nonsense": "return {'a': 1}",
    "returning an object that cannot be shown": (
        "class Bad:\n    def __repr__(self): raise ValueError\n    def __array__(self, *a, **k): raise RuntimeError\nreturn Bad()"
    ),
    "mutating the input": "x *= factor\nreturn x",
    "endless recursion": "return scale(x, factor)",
    "asking for input": "return float(input())",
    "replacing numpy's assertion": "np.testing.assert_allclose = lambda *a, **k: None",
    "replacing the comparison": "expect.close = lambda *a, **k: None",
    "replacing torch's comparison": "import torch\ntorch.testing.assert_close = lambda *a, **k: None\nreturn x * factor",
    "hiding an inherited method": "import torch\ntorch.Tensor.__eq__ = lambda a, b: True\nreturn x * factor",
    "a thread left running": "import threading, time\nthreading.Thread(target=time.sleep, args=(3,), daemon=True).start()\nreturn x * factor",
    "a thread that dies": "import threading\nthreading.excepthook = lambda *a: None\nthreading.Thread(target=lambda: 1 / 0).start()",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_answer_fails_its_check_and_the_next_cell_works(notebook, capsys, body):
    before = np.testing.assert_allclose, torch.testing.assert_close, expect.close, torch.Tensor.__eq__
    notebook.answer(body)
    notebook.cell(CHECKS)
    told = capsys.readouterr().out
    assert "✗ multiplies" in told and "Traceback" not in told and len(told) < 2_000
    assert (np.testing.assert_allclose, torch.testing.assert_close, expect.close, torch.Tensor.__eq__) == before
    notebook.answer("return x * factor")
    notebook.cell(CHECKS)
    assert "✓ multiplies: passed" in capsys.readouterr().out


def test_a_megabyte_printed_does_not_reach_the_page(notebook, capsys):
    notebook.answer("print('x' * 1_000_000)\nreturn x")
    notebook.cell(CHECKS)
    told = capsys.readouterr().out
    assert len(told) < 1_000 and "1000001 characters" in told


def test_an_answer_that_changes_global_state_leaves_none_of_it(notebook, capsys):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state().clone()
    threads = torch.get_num_threads()
    notebook.answer(
        """
        import os, random, sys, torch, warnings
        random.seed(9); np.random.seed(9); torch.manual_seed(9)
        torch.set_grad_enabled(False); torch.set_default_dtype(torch.float64); torch.set_num_threads(3)
        np.seterr(all="raise"); np.set_printoptions(precision=1); os.chdir("/"); os.environ["ODD"] = "1"
        warnings.simplefilter("error"); sys.setrecursionlimit(20_000)
        return x * factor
        """
    )
    import os

    where = os.getcwd()
    notebook.cell(CHECKS)
    assert "✓" in capsys.readouterr().out
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == threads and np.geterr()["divide"] == "warn"
    assert os.getcwd() == where and "ODD" not in os.environ and np.get_printoptions()["precision"] == 8


def test_a_check_is_seeded_the_same_way_each_time(notebook, capsys):
    notebook.answer("return x * factor")
    drawn = []
    notebook.names["drawn"] = drawn
    check = "@day.check\ndef draws(scale):\n    drawn.append((np.random.rand(), scale(1, 2)))\n"
    notebook.cell(check)
    np.random.rand(5)
    notebook.cell(check)
    assert drawn[0] == drawn[1]


def test_an_answer_whose_contract_is_to_change_its_input_may(notebook, capsys):
    notebook.cell("@day.exercise(mutates=True)\ndef scale(x, factor):\n    x *= factor\n    return x\n")
    notebook.cell(CHECKS)
    assert "✓ multiplies: passed" in capsys.readouterr().out


def test_a_plain_assertion_shows_its_message_or_its_source(notebook, capsys):
    notebook.answer("return x")
    notebook.cell("@day.check\ndef a(scale):\n    assert scale(1, 2) == 2, 'twice one is two'\n")
    notebook.cell("@day.check\ndef b(scale):\n    assert scale(1, 2) == 2\n")
    told = capsys.readouterr().out
    assert "found     twice one is two" in told and "`assert scale(1, 2) == 2` does not hold" in told


def test_a_check_of_an_unknown_answer_says_which_cell_to_run(notebook):
    with pytest.raises(LessonError, match="takes scale: run the cell of that exercise first"):
        notebook.cell(CHECKS)
    with pytest.raises(LessonError, match="no exercise 'other'"):
        notebook.cell("@day.exercise\ndef other():\n    ...\n")


def test_the_summary_tells_each_exercise(notebook, capsys):
    notebook.answer("return x * factor")
    notebook.cell(CHECKS)
    notebook.cell(COUNTER_STUB)
    notebook.cell("day.summary()")
    lines = capsys.readouterr().out.splitlines()
    assert "✓ scale: solved" in lines and "· Counter: not solved yet" in lines


def test_hints_come_one_more_each_call_and_are_remembered(notebook, capsys):
    notebook.cell("day.hint('scale')")
    assert "Hint 1 of 2" in (first := capsys.readouterr().out) and "Multiply." in first
    other = Notebook(notebook.page.lesson)
    other.cell("day.hint('scale')")
    assert "Return `x * factor`." in capsys.readouterr().out
    other.cell("day.hint('scale')")
    assert "All 2 hints" in capsys.readouterr().out
    assert Progress.open().help_taken("day007", "scale") == (2, False)


def test_the_solution_is_shown_after_a_confirmation_and_this_is_kept(notebook, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "no")
    notebook.cell("day.solution('scale')")
    assert "Not shown" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    notebook.cell("day.solution('scale')")
    assert "return x * factor" in (shown := capsys.readouterr().out) and "known_mistakes" not in shown
    assert Progress.open().help_taken("day007", "scale") == (0, True)


def test_each_check_is_reported_for_the_command_line(notebook, reader, monkeypatch):
    monkeypatch.setenv("LLM180_REPORT", str(reader / "report.jsonl"))
    notebook.answer("return x + factor")
    notebook.cell(CHECKS)
    notebook.cell(COUNTER_STUB)
    notebook.cell("@day.check\ndef counts(Counter):\n    assert Counter().up() == 1\n")
    rows = [json.loads(line) for line in (reader / "report.jsonl").read_text().splitlines()]
    assert [(r["exercise"], r["check"], r["verdict"]) for r in rows] == [
        ("scale", "multiplies", "failed"),
        ("Counter", "counts", "unsolved"),
    ]


def test_progress_that_cannot_be_kept_does_not_stop_the_page(notebook, capsys, reader, monkeypatch):
    (reader / "file").write_text("")
    monkeypatch.setenv("LLM180_HOME", str(reader / "file" / "below"))
    notebook.answer("return x * factor")
    notebook.cell(CHECKS)
    told = capsys.readouterr().out
    assert "✓ multiplies: passed" in told and "could not be saved" in told


# --- solved mode -----------------------------------------------------------------------


@pytest.fixture
def solved(reader, monkeypatch):
    monkeypatch.setenv("LLM180_MODE", "solved")
    return Notebook(write_toy(reader))


COUNTS = "@day.check\ndef counts(Counter):\n    c = Counter()\n    assert [c.up(), c.up()] == [1, 2]\n"


def test_in_solved_mode_the_reference_takes_the_place_of_any_answer(solved, capsys):
    solved.answer("return 0")
    assert solved.names["scale"](2, 5) == 10
    solved.cell(CHECKS)
    solved.cell(COUNTER_STUB)
    solved.cell(COUNTS)
    solved.cell("day.summary()")
    out = capsys.readouterr().out
    assert "✓ multiplies: passed; refuses the stub and 3 of 3 mistakes" in out
    assert "Counter: 1 check; 3 of 3 known mistakes refused" in out
    assert not (solved.page.lesson.path.parent.parent / "home").exists(), "solved mode keeps no progress"


def test_a_costly_check_tries_only_the_mistakes_that_are_left(solved, capsys):
    solved.answer('"""x times factor."""\n...')
    solved.cell("@day.check\ndef grows(scale):\n    \"\"\"Twice two is four.\"\"\"\n    expect.equal(scale(2, 2), 4)\n")
    assert "refuses the stub and 2 of 3 mistakes\n" in capsys.readouterr().out
    solved.cell(CHECKS.replace("seconds=1", "seconds=1, costly=True"))
    assert "multiplies: passed; refuses the stub and 1 of 1 mistakes that were left" in capsys.readouterr().out


def test_a_check_that_passes_on_the_blank_stub_is_refused(solved):
    solved.answer('"""x times factor."""\n...')
    with pytest.raises(CheckFailed, match="passes on the blank stub of scale"):
        solved.cell("@day.check\ndef nothing(scale):\n    scale(1, 2)\n")


def test_a_check_that_refuses_the_reference_is_refused(solved):
    solved.answer('"""x times factor."""\n...')
    with pytest.raises(CheckFailed, match="refuses the reference answer"):
        solved.cell("@day.check\ndef wrong(scale):\n    assert scale(1, 2) == 3\n")


def test_a_known_mistake_that_passes_every_check_is_named_at_the_end(solved):
    solved.answer('"""x times factor."""\n...')
    solved.cell("@day.check\ndef weak(scale):\n    assert scale(1, 1) == 1\n")
    solved.cell(COUNTER_STUB)
    solved.cell(COUNTS)
    with pytest.raises(CheckFailed, match="scale: the factor divides"):
        solved.cell("day.summary()")


def test_an_exercise_without_a_check_is_named_at_the_end(solved):
    solved.answer('"""x times factor."""\n...')
    solved.cell(CHECKS)
    with pytest.raises(CheckFailed, match="Counter: no check takes it"):
        solved.cell("day.summary()")


def test_a_mistake_whose_text_is_not_in_the_solution_is_an_error(reader, monkeypatch):
    monkeypatch.setenv("LLM180_MODE", "solved")
    broken = Notebook(write_toy(reader, solution=SOLUTION.replace('("x * factor", "x / factor"', '("x ** factor", "x / factor"')))
    broken.answer('"""x times factor."""\n...')
    from llm180.mistakes import MistakeError

    with pytest.raises(MistakeError, match="wants the text 'x \\*\\* factor' once"):
        broken.cell(CHECKS)


# --- blank or not ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "blank"),
    [
        ("def f():\n    ...", True),
        ('def f():\n    """Doc."""\n    ...', True),
        ("def f():\n    pass", True),
        ("def f():\n    raise NotImplementedError('yet')", True),
        ("def f():\n    return None", False),
        ("def f():\n    x = 1\n    ...", False),
        ("class C:\n    def g(self):\n        return 1\n    def f(self):\n        ...", True),
        ("class C:\n    def g(self):\n        return 2\n    def f(self):\n        ...", False),
        ("class C:\n    def g(self):\n        return 1\n    def f(self):\n        return 2", False),
        ("class C:\n    ...", True),
        ("def f(:", False),
    ],
)
def test_an_answer_is_blank_while_nothing_of_it_is_written(source, blank):
    reference = "class C:\n    def g(self):\n        return 1\n    def f(self):\n        return 3"
    assert is_blank(source, reference) is blank


def test_the_clock_works_off_the_main_thread_too(notebook, capsys):
    notebook.answer("while True:\n    pass")
    runner = threading.Thread(target=lambda: notebook.cell(CHECKS))
    runner.start()
    runner.join(10)
    assert not runner.is_alive() and "stopped" in capsys.readouterr().out


def test_a_function_that_torch_itself_replaces_is_no_offence(notebook, capsys):
    notebook.answer("import torch\ntorch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()\nreturn x * factor")
    notebook.cell(CHECKS.replace("seconds=1", "seconds=60"))
    assert "✓ multiplies: passed" in capsys.readouterr().out


def test_a_hint_is_shown_in_plain_markdown(reader, capsys):
    from tests.toy import LESSON

    toy = write_toy(reader, lesson=LESSON.replace("Multiply.", "See {math}`x^2`."))
    Notebook(toy).cell("day.hint('scale')")
    assert "See $x^2$." in capsys.readouterr().out


def test_marks_for_authors_are_not_shown_to_a_reader():
    from llm180.mistakes import answer_source

    source = (
        "# equivalent `y`: above\n# and its second line\ndef f(x):\n    # kept\n    y = x  # equivalent `x + 0`: zero\n"
        "    # equivalent `z`: a mark\n    # that goes on\n    return y  # kept too\n"
    )
    assert answer_source(source, "f") == "def f(x):\n    # kept\n    y = x\n    return y  # kept too"


def test_a_page_whose_optional_packages_are_missing_says_which_command_installs_them(reader, monkeypatch):
    import importlib.metadata

    from llm180.day import MissingPackages
    from tests.toy import LESSON

    wanted = ["numpy>=1", 'no-such-package>=1; extra == "serve"', 'numpy>=999; extra == "serve"', 'other; extra == "onnx"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    toy = write_toy(reader, lesson=LESSON.replace("  minutes: 60\n", "  minutes: 60\n  needs: [serve]\n", 1))
    with pytest.raises(MissingPackages, match=r"Day 7 needs no-such-package, numpy>=999 .*pip install -e \"\.\[serve\]\"") as caught:
        Notebook(toy)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_a_crowded_machine_gives_an_answer_more_time(monkeypatch):
    monkeypatch.setattr(guard.os, "cpu_count", lambda: 2)
    for load, factor in ((0.3, 1), (2, 1), (5, 2.5), (40, 6)):
        monkeypatch.setattr(guard.os, "getloadavg", lambda: (load, 0, 0))
        assert guard.crowding() == factor
    monkeypatch.delattr(guard.os, "getloadavg")
    assert guard.crowding() == 1
    monkeypatch.setattr(guard, "crowding", lambda: 20.0)
    assert not guard.run(lambda: time.sleep(0.3), seconds=0.05).timed_out



def test_a_thread_that_was_stopped_before_it_began_is_no_thread_left(monkeypatch):
    import threading


    never, real, calls = threading.Thread(target=print), threading.enumerate, []

    def with_one_in_limbo():
        calls.append(1)
        return [*real(), never] if len(calls) > 1 else real()

    monkeypatch.setattr(threading, "enumerate", with_one_in_limbo)
    outcome = guard.run(lambda: 3, seconds=5)
    assert (outcome.error, outcome.threads) == (None, 0) and len(calls) > 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarm here")
def test_an_interrupt_that_comes_while_the_clock_is_put_away_sets_no_other():
    with (clock := guard._Clock(60)):
        pass
    clock._strike(signal.SIGALRM, None)  # what a signal does that arrived just before the timer was stopped
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # an alarm without a handler would end the process


def test_a_given_method_that_refuses_does_not_make_an_answer_blank():
    reference = "class A:\n    def given(self):\n        raise NotImplementedError('a subclass does')\n    def f(self):\n        return 1\n"
    assert is_blank(reference.replace("return 1", "..."), reference)
    assert not is_blank(reference.replace("return 1", "return 2"), reference)


@pytest.mark.parametrize("shape", [(1, 1, 4), (0, 3, 2), (2, 3, 4)])
def test_tensors_of_any_strides_have_a_fingerprint(shape):
    x = torch.arange(24.0)[: math.prod(shape)].view(shape).transpose(-1, -2)  # torch calls the first two contiguous
    before = guard.fingerprint(x)
    assert before == guard.fingerprint(x) and before is not None
    if x.numel():
        x[0, -1, -1] += 1
        assert guard.fingerprint(x) != before
