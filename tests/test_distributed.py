"""Real processes for the distributed lessons: results, failures, time limits, and nothing left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from llm180 import distributed, expect, guard, mistakes
from tests.toy import Notebook, write_toy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Linux or macOS")


@pytest.fixture(scope="module", autouse=True)
def nursery():
    distributed.prepare()
    yield
    distributed._nursery.end()
    distributed._nursery = None


def living_ranks() -> set[int]:
    """Supervisors and ranks of this process's nursery."""
    return {p.pid for p in psutil.Process(distributed._nursery.process.pid).children(recursive=True)}


def soon(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def failure(worker, **options) -> distributed.RankFailed:
    with pytest.raises(distributed.RankFailed) as caught:
        distributed.run(worker, **{"patience": 1.0, "seconds": 20, **options})
    assert soon(lambda: not living_ranks()), "ranks are left running"
    return caught.value


# --- results ------------------------------------------------------------------------------


def test_results_come_in_rank_order_and_tensors_by_value():
    import torch
    import torch.distributed as dist

    def worker(rank, x):
        x += rank  # the caller's tensor stays as it is
        dist.all_reduce(x)
        return rank, x, dist.get_world_size()

    x = torch.ones(2)
    results = distributed.run(worker, ranks=3, args=(x,))
    assert [r[0] for r in results] == [0, 1, 2] and {r[2] for r in results} == {3}
    assert all(r[1].tolist() == [6.0, 6.0] for r in results) and x.tolist() == [1.0, 1.0]
    assert soon(lambda: not living_ranks())


def test_one_rank_is_a_group_too():
    assert distributed.run(lambda rank: rank, ranks=1) == [0]


def test_each_call_begins_anew_and_seeded_with_one_thread():
    def worker(rank):
        import random

        import numpy as np
        import torch

        fresh = not hasattr(torch, "left_behind")
        torch.left_behind = True
        numbers = float(torch.rand(())), float(np.random.rand()), random.random()
        return fresh, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], numbers

    first, second = distributed.run(worker), distributed.run(worker)
    assert first == second and first[0] == first[1] and first[0][:3] == (True, 1, "1")
    assert distributed.run(worker, seed=1)[0][3] != first[0][3]


def test_environment_folder_and_search_path_are_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_SETTING", "7")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_me.py").write_text("value = 41\n")

    def worker(rank):
        import beside_me

        return os.getcwd(), os.environ["SOME_SETTING"], os.environ["RANK"], beside_me.value

    assert distributed.run(worker)[1] == (str(tmp_path), "7", "1", 41)


def test_what_ranks_print_is_printed_in_rank_order(capfd):
    def worker(rank):
        print("first", rank)
        os.system("echo second")
        print("third", file=sys.stderr)

    distributed.run(worker)
    said = capfd.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("rank 0")] == ["rank 0 | first 0", "rank 0 | second", "rank 0 | third"]
    assert said == sorted(said, key=lambda line: line[:6])


def test_classes_and_functions_of_a_notebook_reach_the_ranks(tmp_path):
    notebook = Notebook(write_toy(tmp_path))
    names = notebook.cell("""
        from llm180 import distributed
        class Answer:
            def __init__(self, n): self.n = n
            def twice(self): return helper(self.n)
        def helper(n): return 2 * n
        def worker(rank, answer): return Answer(answer.twice() + rank)
        results = distributed.run(worker, args=(Answer(5),))
    """)
    assert [r.n for r in names["results"]] == [10, 11] and isinstance(names["results"][0], names["Answer"])


def test_a_changed_solution_module_reaches_the_ranks_as_changed():
    source = "class Net:\n    scale = 2\n    def out(self):\n        return helper() * self.scale\ndef helper():\n    return 3\n"
    module = mistakes.load_variant(source.replace("return 3", "return 4"), Path("answers.py"))
    try:
        kind = module.Net
        assert distributed.run(lambda rank: kind().out()) == [8, 8]
    finally:
        mistakes.unload(module)


def test_a_mismatch_on_a_rank_is_raised_as_one():
    def worker(rank):
        expect.close(float(rank), 0.0, what="the number")

    with pytest.raises(expect.Mismatch, match="the number on rank 1: expected 0, came 1"):
        distributed.run(worker)

    def told(rank):
        expect.that(rank == 0, "a story", "a cause")

    with pytest.raises(expect.Told, match="rank 1: a story. Likely cause: a cause"):
        distributed.run(told)


# --- failures: one message, and nothing left running --------------------------------------


def test_a_crashed_rank_is_named_with_its_line_and_the_others_are_stopped():
    import torch.distributed as dist

    def worker(rank):
        if rank == 1:
            raise ValueError("shapes differ")
        dist.barrier()

    began = time.monotonic()
    told = str(failure(worker, patience=15, seconds=30))
    assert time.monotonic() - began < 10
    assert told.startswith("rank 1 of 2: ValueError: shapes differ\n")
    assert 'of worker: raise ValueError("shapes differ")' in told
    assert "rank 0" in told and "dist.barrier()" in told


def test_ranks_that_wait_for_each_other_are_told_where():
    import torch
    import torch.distributed as dist

    def worker(rank):
        if rank == 0:
            dist.all_reduce(torch.ones(3))
        else:
            dist.broadcast(torch.ones(3), src=0)
            dist.broadcast(torch.ones(3), src=1)

    told = str(failure(worker))
    assert "the ranks wait for each other" in told
    assert "rank 0 waits in all_reduce: line" in told and "rank 1 waits in broadcast: line" in told


def test_receiving_what_nobody_sends_is_told_as_well():
    import torch
    import torch.distributed as dist

    told = str(failure(lambda rank: dist.recv(torch.ones(1), src=1 - rank)))
    assert "rank 0 waits in recv" in told and "rank 1 waits in recv" in told


def test_tensors_of_different_sizes_are_told():
    import torch
    import torch.distributed as dist

    def worker(rank):
        dist.all_reduce(torch.ones(3 if rank else 40_000))
        dist.all_reduce(torch.ones(3))

    told = str(failure(worker))
    assert "not every rank makes the same calls in the same order" in told and "gloo" not in told
    assert "rank 0" in told and "rank 1" in told and "line" in told


def test_a_rank_that_returned_early_is_told_and_ends_the_wait_at_once():
    import torch
    import torch.distributed as dist

    def worker(rank):
        if rank == 0:
            dist.all_reduce(torch.ones(3))

    began = time.monotonic()
    told = str(failure(worker, patience=20, seconds=30))
    assert time.monotonic() - began < 10
    assert "rank 0 waits for rank 1, which returned already" in told


def test_a_rank_that_never_comes_is_shown_at_its_line():
    import torch.distributed as dist

    def worker(rank):
        while rank == 1:
            pass
        dist.barrier()

    told = str(failure(worker))
    assert "rank 0 waits for rank 1, busy elsewhere" in told and "rank 1 stopped at line" in told
    assert "while rank == 1:" in told or "pass" in told


def test_an_endless_rank_is_stopped_when_time_is_up():
    def worker(rank):
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                pass

    began = time.monotonic()
    told = str(failure(worker, seconds=1))
    assert "time is up" in told and told.count("stopped at line") == 2 and time.monotonic() - began < 8


ENDINGS = {
    "sys.exit": (lambda rank: sys.exit(0), "called sys.exit; a worker must return"),
    "os._exit": (lambda rank: os._exit(3), "ended its own process with exit status 3"),
    "a segmentation fault": (lambda rank: ctypes.string_at(0), "its process was ended by SIGSEGV"),
    "a kill": (lambda rank: os.kill(os.getpid(), signal.SIGKILL), "its process was ended by SIGKILL"),
    "a result that cannot travel": (lambda rank: (x for x in "ab"), "it returned a generator, which cannot be copied"),
    "KeyboardInterrupt": (lambda rank: (_ for _ in ()).throw(KeyboardInterrupt()), "KeyboardInterrupt"),
}


@pytest.mark.parametrize(("worker", "told"), ENDINGS.values(), ids=ENDINGS.keys())
def test_each_way_to_end_has_one_clear_message(worker, told):
    message = str(failure(worker))
    assert told in message.splitlines()[0] and message.startswith("rank 0 of 2") and len(message) < 1_000


def test_endless_output_is_stopped_and_capped(capfd):
    def worker(rank):
        while True:
            print("x" * 1_000)

    assert "printed more than 1 MB" in str(failure(worker))
    assert len(capfd.readouterr().out) < 10_000


def test_what_a_rank_started_ends_with_it():
    def worker(rank):
        child = subprocess.Popen(["sleep", "60"])
        return child.pid

    for pid in distributed.run(worker):
        assert soon(lambda pid=pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_what_cannot_be_copied_is_said_before_anything_starts():
    lock = threading.Lock()
    with pytest.raises(distributed.DistributedError, match="cannot be copied to another process: .*lock"):
        distributed.run(lambda rank: lock)
    for ranks in (0, 17, 2.0, "2"):
        with pytest.raises(distributed.DistributedError, match="ranks must be"):
            distributed.run(lambda rank: rank, ranks=ranks)


# --- inside a check -------------------------------------------------------------------------


def test_the_guards_time_limit_stops_the_ranks_with_a_message():
    def worker(rank):
        time.sleep(60)

    outcome = guard.run(lambda: distributed.run(worker), seconds=3)
    assert isinstance(outcome.error, distributed.RankFailed) and not outcome.timed_out and outcome.threads == 0
    assert "time is up" in str(outcome.error)
    assert soon(lambda: not living_ranks())


def test_an_interrupted_call_leaves_nothing_and_the_next_one_works():
    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGUSR2, interrupt)
    try:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        with pytest.raises(KeyboardInterrupt):
            distributed.run(lambda rank: time.sleep(60))
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert soon(lambda: not living_ranks())
    assert distributed.run(lambda rank: rank) == [0, 1]


def test_a_reader_is_told_what_each_rank_did(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM180_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLM180_MODE", "learn")
    notebook = Notebook(write_toy(tmp_path))
    notebook.answer("if x:\n    raise RuntimeError('lost')\nreturn factor")
    notebook.cell("""
        from llm180 import distributed
        @day.check
        def multiplies(scale):
            \"\"\"Each rank multiplies.\"\"\"
            expect.equal(distributed.run(lambda rank: scale(rank, 3)), [0, 3])
    """)
    told = capsys.readouterr().out
    assert "✗ multiplies: Each rank multiplies.\n  found     rank 1 of 2: RuntimeError: lost\n" in told
    assert "line 4 of scale: raise RuntimeError('lost')" in told and "rank 0 returned" in told


def test_forked_children_share_the_nursery():
    read, write = os.pipe()
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                results = distributed.run(lambda rank, n: 10 * n + rank, args=(number,))
                os.write(write, bytes(results))
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert sorted(os.read(read, 100)) == [0, 1, 10, 11, 20, 21]
    assert distributed.run(lambda rank: rank) == [0, 1]


def test_a_killed_nursery_is_replaced():
    os.kill(distributed._nursery.process.pid, signal.SIGKILL)
    distributed._nursery.process.wait()
    assert distributed.run(lambda rank: rank) == [0, 1]


# --- the kernel ends --------------------------------------------------------------------------


def start_a_script(tmp_path, body: str, **environment: str) -> subprocess.Popen:
    head = "import os, sys, time\nfrom llm180 import distributed\ndistributed.prepare()\n"
    tail = "print(distributed._nursery.process.pid, flush=True)\n"
    path = tmp_path / "notebook.py"
    path.write_text(head + tail + textwrap.dedent(body))
    env = {**os.environ, "PYTHONPATH": str(distributed._HERE.parent), "TMPDIR": str(tmp_path / "tmp"), **environment}
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=env)


def test_a_killed_kernel_takes_everything_with_it(tmp_path):
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    process = start_a_script(
        tmp_path,
        """
        def worker(rank):
            open(f"{os.environ['TMPDIR']}/{rank}.pid", "w").write(str(os.getpid()))
            time.sleep(60)
        distributed.run(worker)
        """,
    )
    nursery = int(process.stdout.readline())
    marks = [tmp_path / "tmp" / f"{rank}.pid" for rank in (0, 1)]
    assert soon(lambda: all(m.exists() and m.read_text() for m in marks), 60)
    pids = [nursery, *(int(m.read_text()) for m in marks)]
    process.kill()
    process.wait()
    assert soon(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))
    assert left_in_temp(tmp_path) == ["0.pid", "1.pid"]
    if shared:
        mine = {n for n in set(os.listdir("/dev/shm")) - shared if os.stat(f"/dev/shm/{n}").st_uid == os.getuid()}
        assert not {n for n in mine if not n.startswith("sem.mp-")}


def left_in_temp(tmp_path) -> list[str]:
    """What is left there, but for the cache that torch's compiler makes in any process with an optimizer."""
    return sorted(p.name for p in (tmp_path / "tmp").iterdir() if not p.name.startswith("torchinductor_"))


def test_a_kernel_that_ends_waits_for_its_nursery_and_ranks_note_what_they_read(tmp_path):
    from llm180.dev import execution

    (tmp_path / "input.txt").write_text("x")
    environment = execution.kernel_environment(tmp_path, tmp_path / "home")
    process = start_a_script(
        tmp_path,
        f"print(distributed.run(lambda rank: open({str(tmp_path / 'input.txt')!r}).read()))",
        LLM180_TRACE=str(tmp_path),
        LLM180_TRACE_ROOT=str(tmp_path),
        PYTHONPATH=environment["PYTHONPATH"],
    )
    nursery = int(process.stdout.readline())
    assert process.communicate(timeout=120)[0] == "['x', 'x']\n" and process.returncode == 0
    assert not psutil.pid_exists(nursery) and not left_in_temp(tmp_path)
    assert f"R {tmp_path / 'input.txt'}" in (tmp_path / "uses").read_text()
