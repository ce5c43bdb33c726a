"""Real processes for the distributed lessons, started from a notebook's cell or from a check.

    from llm180 import distributed

    def worker(rank, x):                 # runs once in each process
        dist.all_reduce(x)
        return rank, x

    results = distributed.run(worker, ranks=2, args=(torch.ones(3),))   # a list, in rank order

Each call gets fresh processes that are joined in one process group (gloo, on this machine). The worker, its
arguments and what they use from the notebook travel by value. A rank that fails is reported with its line, the
others are stopped; ranks that wait for each other are stopped and told where each of them stood. Nothing is left
running, whatever happens to the ranks or to the notebook's kernel.

How: importing torch takes seconds, forking a process that has imported it takes milliseconds. So the first call
(or :func:`prepare`, which does not wait) starts one process, the *nursery*, that imports torch and then waits. For each
call it forks a *supervisor*, which forks the ranks, watches them, and ends them. The nursery holds one end of
a socket and ends when the other end is gone, and with it each supervisor its ranks.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import io
import linecache
import marshal
import os
import pickle
import random
import re
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import time
import traceback
import types
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DistributedError", "RankFailed", "prepare", "run"]

_HERE = Path(__file__).resolve().parent
_SHOWN = 2_000  # characters of a rank's output that are shown
_OUTPUT_LIMIT = 1 << 20  # bytes of output after which a rank is stopped
_GRACE = 0.2  # seconds in which other ranks may report an error of their own, once one has failed
_LINGER = 0.5  # seconds that a rank that has returned stays connected, for what is still on the way
_ANSWER = 0.1  # seconds that a rank has to say where it stands
_MARGIN = 0.5  # seconds before a check's time is up at which the ranks are stopped, so that there is something to tell
_MOST = 16  # ranks


class DistributedError(RuntimeError):
    """A run cannot be started, or its worker or results cannot travel; the message is one sentence."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows in place of a traceback
        return [f"DistributedError: {self}"]


class RankFailed(RuntimeError):
    """A rank of a run failed or hung. The message has a line for each rank: what it did, and where.

    ``ranks``: the states, in rank order. ``told``: the same failure without line numbers and
    times, equal for equal mistakes.
    """

    def __init__(self, message: str, told: str, ranks: list[Rank]) -> None:
        self.told, self.ranks = told, ranks
        super().__init__(message)

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


# --- what the caller uses -------------------------------------------------------------------


def prepare() -> None:
    """Start what :func:`run` needs, in the background, if it does not run yet. Returns at once.

    The first call of :func:`run` does it too; it then takes as long as importing torch.
    """
    if not hasattr(os, "fork"):
        raise DistributedError("the distributed lessons need Linux or macOS; on Windows, run them in WSL.")
    global _nursery
    if _nursery is None or not _nursery.is_alive():
        _nursery = _Nursery()


def run(
    worker: Callable[..., Any],
    *,
    ranks: int = 2,
    args: Sequence[Any] = (),
    seconds: float = 60.0,
    patience: float = 5.0,
    seed: int = 0,
) -> list[Any]:
    """Call ``worker(rank, *args)`` in ``ranks`` processes of one process group; the results, in rank order.

    The default group of ``torch.distributed`` is ready when the worker begins. In each rank, torch uses one thread,
    and the generators of Python, NumPy and torch are seeded with ``seed``, alike on all ranks.

    Parameters
    ----------
    worker:
        A function of a notebook's cell, of a check, or of a module. It and ``args`` are copied to the ranks: what a rank
        changes stays there, and what it returns is copied back (tensors with their values).
    seconds:
        Time limit of the whole. Inside a check it is cut to what is left of the check's time.
    patience:
        Seconds that a rank waits in a collective for the others before the run is called a deadlock.

    What the ranks print is printed when they are done, each line with its rank.

    Raises :class:`RankFailed` where a rank fails, ends its process, prints without end, returns what cannot travel, or
    where time is up; a mismatch of :mod:`llm180.expect` is raised as itself, with the rank named. Raises
    :class:`DistributedError` where the worker or its arguments cannot be copied.
    """
    if not isinstance(ranks, int) or not 1 <= ranks <= _MOST:
        raise DistributedError(f"ranks must be a whole number from 1 to {_MOST}, not {ranks!r}.")
    request = {
        "ranks": ranks,
        "payload": _packed(worker, tuple(args)),
        "seconds": float(seconds),
        "deadline": _deadline(),
        "patience": float(patience),
        "seed": seed,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
    }
    states = _ask(pickle.dumps(request))
    _show_output(states)
    _raise_if_failed(states, ranks)
    results = []
    for state in states:
        try:
            results.append(pickle.loads(state.value))
        except Exception as error:
            raise DistributedError(
                f"what rank {state.number} returned cannot be rebuilt here: {type(error).__name__}: {error}."
            ) from None
    return results


def _deadline() -> float | None:
    """When a check's time is up (:mod:`llm180.guard` sets the alarm), on the clock that all processes share."""
    from llm180 import guard

    left = signal.getitimer(signal.ITIMER_REAL)[0] if hasattr(signal, "getitimer") else 0.0
    margin = min(_MARGIN * guard.crowding(), left / 2)  # stopping them takes longer on a crowded machine, too
    return time.monotonic() + max(left - margin, 0.1) if left else None


def _packed(worker: Any, args: tuple[Any, ...]) -> bytes:
    """Worker and arguments as bytes. Functions of notebooks and of solution modules go by value, with what they use."""
    try:
        import cloudpickle
    except ImportError:
        raise DistributedError('cloudpickle is missing: pip install "llm180[distributed]" installs it.') from None
    from llm180.mistakes import MARK

    by_value = []
    for name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", {})
        if (MARK in names or "__variant_source__" in names) and names.get("__name__") == name:
            by_value.append(module)
    registered = cloudpickle.list_registry_pickle_by_value()
    new = [module for module in by_value if module.__name__ not in registered]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        return _dumps((worker, args))
    except Exception as error:
        said = " ".join(str(error).split())
        raise DistributedError(
            f"the worker, or something that it uses, cannot be copied to another process: {said}."
        ) from None
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


def _dumps(value: Any) -> bytes:
    """``value`` pickled. Code keeps the name of its file, which cloudpickle drops: a failure is told with its line."""
    import cloudpickle

    class Pickler(cloudpickle.CloudPickler):
        dispatch_table = ChainMap(
            {types.CodeType: lambda code: (marshal.loads, (marshal.dumps(code),))},
            cloudpickle.CloudPickler.dispatch_table,
        )

    packed = io.BytesIO()
    Pickler(packed).dump(value)
    return packed.getvalue()


# --- talking to the nursery -------------------------------------------------------------------


class _Nursery:
    """The process that has imported torch. It ends when the last holder of ``control`` is gone."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_", "OPENBLAS_", "TORCH_"))}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_HERE.parent), environment.get("PYTHONPATH")]))
        environment["CUDA_VISIBLE_DEVICES"] = ""  # gloo moves what is in main memory
        environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
        environment["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        environment["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"  # read on macOS only
        code = f"from llm180 import distributed; distributed._be_a_nursery({theirs.fileno()})"
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", code],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt of the notebook is not meant for it
        )
        theirs.close()
        atexit.register(self.end)

    def is_alive(self) -> bool:
        """True while it runs; a forked child of the owner asks by the socket."""
        if os.getpid() == self.owner:
            return self.process.poll() is None
        try:
            return bool(self.control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def end(self) -> None:
        """Let go of it; wait for its end if this process started it."""
        self.control.close()
        if os.getpid() == self.owner:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)


_nursery: _Nursery | None = None


def _ask(request: bytes) -> list[Rank]:
    """Send a request, wait for the states of its ranks. If this is interrupted, the ranks are ended."""
    for attempt in (1, 2):
        prepare()
        assert _nursery is not None
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    socket.send_fds(_nursery.control, [b"r"], [theirs.fileno()])
                _send(ours, request)
                return pickle.loads(_receive(ours))
            except (EOFError, ConnectionError, OSError):  # the nursery was killed: once more, with a new one
                if attempt == 2:
                    break
                if os.getpid() == _nursery.owner and _nursery.process.poll() is None:
                    break  # it lives: the supervisor alone ended
    raise DistributedError("the process that starts the ranks ended; is memory short? Try once more.")


def _send(to: socket.socket, data: bytes) -> None:
    to.sendall(struct.pack("!Q", len(data)))
    to.sendall(data)


def _receive(source: socket.socket) -> bytes:
    """The next message. Raises EOFError where the other side is gone."""

    def exactly(count: int) -> bytes:
        parts = io.BytesIO()
        while count:
            part = source.recv(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.write(part)
            count -= len(part)
        return parts.getvalue()

    return exactly(struct.unpack("!Q", exactly(8))[0])


# --- telling ------------------------------------------------------------------------------------


@dataclass
class Rank:
    """What is known about one rank when a run is over."""

    number: int
    what: str = "ran"  # returned | raised | died | stopped | ran
    value: bytes = b""  # the pickled result
    error: str = ""  # the error's class
    said: str = ""  # its message
    mismatch: tuple[str, ...] = ()  # the fields of a mismatch
    frames: list[tuple[str, int, str]] = field(default_factory=list)  # file, line, function; innermost last
    status: int = 0  # what ended its process
    why: str = ""  # why it was stopped: time | output
    output: str = ""
    printed: int = 0

    @property
    def waited(self) -> bool:
        """It gave up waiting in a collective."""
        return self.what == "raised" and bool(re.search(r"[Tt]imed out|[Tt]imeout", self.said)) and self.in_torch

    @property
    def deserted(self) -> bool:
        """It waited for a rank whose process is gone."""
        lost = r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|[Pp]eer|[Ss]ocket|failed to recv"
        return self.what == "raised" and bool(re.search(lost, self.said)) and self.in_torch

    @property
    def in_torch(self) -> bool:
        return self.error in ("RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError", "DistError")

    @property
    def clashed(self) -> bool:
        """Gloo ended the process: what came from another rank was of another size than what it waited for."""
        return self.what == "died" and "Received data size doesn't match" in self.output

    def own_frames(self) -> list[tuple[str, int, str]]:
        """The frames of the reader's code: no library, no toolkit, no comprehension of its own."""
        return [f for f in self.frames if not _is_a_librarys(f[0]) and not f[2].startswith("<listcomp")]

    def at(self) -> str:
        """Where it stood, as ``line 3 of worker: dist.barrier()``."""
        own = self.own_frames()
        return _line(own[-1]) if own else ""

    def collective(self) -> str:
        """The function of torch.distributed that it was in, if the stack shows it."""
        own = self.own_frames()
        inner = self.frames[self.frames.index(own[-1]) + 1 :] if own else self.frames
        for file, _, name in inner:
            if f"{os.sep}distributed{os.sep}" in file and not name.startswith("_") and name not in ("wrapper", "inner"):
                return name
        call = re.search(r"\b(wait|barrier|result)\(", _source(own[-1])) if own else None  # written in C++
        return call[1] if call else ""


def _source(frame: tuple[str, int, str]) -> str:
    return linecache.getline(frame[0], frame[1]).strip()


def _line(frame: tuple[str, int, str]) -> str:
    text = _source(frame)
    name = Path(frame[0]).name
    place = f"line {frame[1]} of {frame[2]}" if frame[2] != "<module>" else f"line {frame[1]} of {name}"
    return f"{place}: {text}" if text else f"{place} ({name})"


def _is_a_librarys(file: str) -> bool:
    if file.startswith("<frozen") or file == "<string>":
        return True
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.startswith(p + os.sep) for p in [*places, str(_HERE)])


def _show_output(states: list[Rank]) -> None:
    for state in states:
        if state.clashed:
            continue  # Gloo's own words, which the message says better
        for line in state.output.splitlines():
            print(f"rank {state.number} | {line}")
        if state.printed > len(state.output):
            print(f"rank {state.number} | ... ({state.printed} characters in all)")


def _raise_if_failed(states: list[Rank], ranks: int) -> None:
    """Raise what went wrong: the first error of a rank's own, else who waited for whom."""
    if all(s.what == "returned" for s in states):
        return
    own = [s for s in states if s.what == "raised" and not s.waited and not s.deserted]
    for state in own:
        if state.mismatch:
            _raise_mismatch(state)
    clash = any(s.clashed for s in states) and not own
    died = [s for s in states if s.what == "died" and not s.clashed]
    loud = [s for s in states if s.why == "output"]
    guilty = (own or died or loud)[:1]
    if guilty:
        first = guilty[0]
        head, told = _story(first, ranks)
        lines = [head, *(f"  {_line(f)}" for f in first.own_frames()[-6:])]
        if first.what == "died" and (last := first.output.strip().splitlines()[-2:]):
            lines += [f"  its last words: {line}" for line in last]
    else:
        first = None
        returned = [s for s in states if s.what == "returned"]
        waiting = [s for s in states if s.waited or s.deserted or s.clashed]
        elsewhere = [s for s in states if s.what == "stopped"]
        if clash:
            head = told = "tensors of different sizes met: not every rank makes the same calls in the same order"
        elif returned and waiting:
            gone = _names(returned)
            head = f"{_names(waiting)} wait{'s' if len(waiting) == 1 else ''} for {gone}, which returned already:"
            head += " not every rank makes the same calls"
            told = "a rank returned while others wait for it"
        elif waiting and elsewhere:
            head = f"{_names(waiting)} wait{'s' if len(waiting) == 1 else ''} for {_names(elsewhere)}, busy elsewhere"
            told = "a rank does not come to a collective"
        elif waiting:
            head = told = "the ranks wait for each other: not every rank makes the same calls in the same order"
        else:
            head, told = "time is up, and the ranks were still at work", "time is up"
        lines = [head]
    lines += [f"  {_state(s)}" for s in states if s is not first]
    raise RankFailed("\n".join(line[:240] for line in lines), told, states) from None


def _raise_mismatch(state: Rank) -> None:
    from llm180 import expect

    if len(state.mismatch) == 2:
        message, cause = state.mismatch
        raise expect.Told(f"rank {state.number}: {message}", cause) from None
    expected, came, cause, what = state.mismatch
    raise expect.Mismatch(expected, came, cause, f"{what} on rank {state.number}".strip()) from None


def _names(states: list[Rank]) -> str:
    numbers = [str(s.number) for s in states]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def _story(state: Rank, ranks: int) -> tuple[str, str]:
    """What happened to a rank that is at fault: for the message, and without numbers."""
    name = f"rank {state.number} of {ranks}"
    if state.why == "output":
        return f"{name} was stopped: it printed more than {_OUTPUT_LIMIT >> 20} MB", "output"
    if state.what == "died":
        if os.WIFSIGNALED(state.status):
            number = os.WTERMSIG(state.status)
            with contextlib.suppress(ValueError):
                return f"{name}: its process was ended by {signal.Signals(number).name}", f"signal {number}"
            return f"{name}: its process was ended by signal {number}", f"signal {number}"
        code = os.WEXITSTATUS(state.status)
        return f"{name} ended its own process with exit status {code}; a worker must return", f"exit {code}"
    if state.error == "SystemExit":
        return f"{name} called sys.exit; a worker must return", "SystemExit"
    said = " ".join(state.said.split())
    text = f"{state.error}: {said}" if said else state.error
    return f"{name}: {text}", text


def _state(state: Rank) -> str:
    """One line: what a rank was doing when the run was stopped."""
    name = f"rank {state.number}"
    at = f" {state.at()}" if state.at() else ""
    if state.what == "returned":
        return f"{name} returned"
    if state.waited or state.deserted or state.clashed:
        return f"{name} waits in {state.collective() or 'a collective'}:{at}"
    if state.what == "raised":
        return f"{name} raised {state.error}:{at}"
    if state.what == "died":
        return f"{name}: its process ended"
    return f"{name} stopped at{at}" if at else f"{name} was stopped"


# --- the nursery's side: no notebook, no reader's code, one thread -------------------------------


def _be_a_nursery(fd: int) -> None:
    """Import what ranks need, then fork a supervisor for each request until the kernel is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are not waited for
    control = socket.socket(fileno=fd)
    _preload()
    gc.collect()
    gc.freeze()
    while True:
        try:
            said, fds, *_ = socket.recv_fds(control, 1, 1)
        except OSError:
            break
        if not said:
            break
        if os.fork() == 0:
            try:
                control.close()
                _supervise(socket.socket(fileno=fds[0]))
            finally:
                os._exit(0)
        os.close(fds[0])
    os._exit(0)


def _preload() -> None:
    """What a first training step imports, without starting a thread."""
    import numpy  # noqa: F401
    import torch
    import torch.distributed
    import torch.nn.parallel

    from llm180 import expect, guard  # noqa: F401

    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    for kind in (torch.optim.SGD, torch.optim.AdamW):  # the first optimizer loads torch's compiler
        kind([parameter], lr=0.1).step()
    with contextlib.suppress(ImportError):
        import cloudpickle  # noqa: F401


class _Watched:
    """A rank as its supervisor sees it."""

    def __init__(self, number: int, pid: int, result: int, output: int, stack: int) -> None:
        self.state = Rank(number)
        self.pid, self.pipes = pid, {result: "result", output: "output", stack: "stack"}
        self.result, self.stack = bytearray(), bytearray()
        self.text = bytearray()
        self.alive = True
        self.returned_at = 0.0

    def read(self, pipe: int) -> bool:
        """Take what a pipe has; False when it has ended."""
        data = os.read(pipe, 1 << 16)
        kind = self.pipes[pipe]
        if kind == "output":
            self.state.printed += len(data)
            self.text += data[: max(0, _SHOWN - len(self.text))]
        else:
            getattr(self, kind).extend(data)
        return bool(data)

    @property
    def reported(self) -> bool:
        size = struct.unpack("!Q", self.result[:8])[0] if len(self.result) >= 8 else None
        return size is not None and len(self.result) >= 8 + size

    def take_report(self) -> None:
        for name, value in pickle.loads(bytes(self.result[8:])).items():
            setattr(self.state, name, value)

    def kill(self) -> None:
        """End the rank and the processes that it started."""
        if self.alive:
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(self.pid, signal.SIGKILL)


def _supervise(caller: socket.socket) -> None:
    """Start the ranks of one request, watch them, tell the caller what became of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a rank that is asked before it can answer is not ended by the question
    request = pickle.loads(_receive(caller))
    begin = time.monotonic()
    end = begin + request["seconds"]
    if request["deadline"] is not None:
        end = min(end, request["deadline"])
    patience = min(request["patience"], max(0.5, end - begin - 1.0))
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    watched: list[_Watched] = []
    lives: list[int] = []  # a rank on macOS ends when the other end of its pipe is closed
    try:
        for number in range(request["ranks"]):
            pipes = [os.pipe() for _ in range(4)]  # result, output, stack; life, held by the supervisor
            pid = os.fork()
            if pid == 0:
                caller.close()
                for other in watched:
                    for pipe in other.pipes:
                        os.close(pipe)
                for read, _ in pipes[:3]:
                    os.close(read)
                for pipe in (*lives, pipes[3][1]):
                    os.close(pipe)
                _be_a_rank(number, request, listener, patience, *(w for _, w in pipes[:3]), pipes[3][0])
            for _, write in pipes[:3]:
                os.close(write)
            os.close(pipes[3][0])
            lives.append(pipes[3][1])
            watched.append(_Watched(number, pid, *(r for r, _ in pipes[:3])))
        listener.close()
        gone = _watch(caller, watched, end)
    finally:
        for rank in watched:
            rank.kill()
        for rank in watched:
            if rank.alive:
                os.waitpid(rank.pid, 0)
    if not gone:
        for rank in watched:
            rank.state.output = rank.text.decode("utf-8", "replace")
            if not rank.state.frames and rank.stack:
                rank.state.frames = _frames_of(rank.stack.decode("utf-8", "replace"))
        with contextlib.suppress(OSError):
            _send(caller, pickle.dumps([rank.state for rank in watched]))


def _watch(caller: socket.socket, watched: list[_Watched], end: float) -> bool:
    """Until every rank has reported, or one failed, or time is up. True when the caller is gone."""
    selector = selectors.DefaultSelector()
    selector.register(caller, selectors.EVENT_READ, None)
    for rank in watched:
        for pipe in rank.pipes:
            selector.register(pipe, selectors.EVENT_READ, rank)
    failed = False
    asked = False
    while True:
        now = time.monotonic()
        working = [r for r in watched if r.state.what == "ran"]
        if not working:
            return False
        if now >= end:
            if asked:
                for rank in working:
                    rank.state.what = "stopped"
                    rank.state.why = rank.state.why or ("" if failed else "time")
                return False
            asked = True  # of each rank that still works: where does it stand
            for rank in working:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGUSR1)
            end = now + _ANSWER
        for rank in watched:  # who has returned leaves after a while, so that those who wait for it notice
            if rank.returned_at and now > rank.returned_at + _LINGER:
                rank.kill()
        for key, _ in selector.select(max(0.0, min(end - now, 0.1))):
            rank = key.data
            if rank is None:
                return True  # the caller is gone, or has said what it must not say
            if not rank.read(key.fd):
                selector.unregister(key.fd)
        for rank in watched:
            bad = False
            if rank.state.what == "ran":
                if rank.reported:
                    rank.take_report()
                    bad = rank.state.what == "raised"
                    rank.returned_at = now
                elif rank.state.printed > _OUTPUT_LIMIT and rank.state.why == "":
                    rank.state.why, bad = "output", True
                elif _has_ended(rank):
                    rank.state.what, bad = "died", True
            if bad and not failed:
                failed = True
                end = min(end, now + _GRACE)


def _has_ended(rank: _Watched) -> bool:
    """Whether the rank's process has ended; its status is kept. Called until it says so."""
    if rank.alive:
        pid, status = os.waitpid(rank.pid, os.WNOHANG)
        if pid:
            rank.alive, rank.state.status = False, status
    return not rank.alive


def _frames_of(stack: str) -> list[tuple[str, int, str]]:
    """The frames that faulthandler wrote, of the thread that ran the worker; innermost last."""
    threads: list[list[tuple[str, int, str]]] = [[]]
    for line in stack.splitlines():
        if "most recent call first" in line:
            threads.append([])
        elif match := re.match(r'\s+File "(.*)", line (\d+) in (.*)', line):
            threads[-1].insert(0, (match[1], int(match[2]), match[3]))
    main = [t for t in threads if any(name == "_be_a_rank" for _, _, name in t)]
    return (main or threads)[-1]


# --- a rank -----------------------------------------------------------------------------------------


def _be_a_rank(
    rank: int, request: dict[str, Any], listener: socket.socket, patience: float, result: int, output: int, stack: int, life: int
) -> None:
    """Join the group, call the worker, report; then wait to be ended. Never returns."""
    try:
        os.setsid()
        _die_with_parent(life)
        faulthandler.enable(stack)
        faulthandler.register(signal.SIGUSR1, stack, all_threads=True)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd, source in ((0, nothing), (1, output), (2, output)):
            os.dup2(source, fd)
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
        kept = {k: os.environ[k] for k in ("GLOO_SOCKET_IFNAME", "TORCH_CPP_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")}
        os.environ.clear()
        os.environ.update(request["environment"] | kept)
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with contextlib.suppress(OSError):
            os.chdir(request["folder"])
        sys.path[:] = request["path"]
        report = _work(rank, request, listener, patience)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        _write_all(result, report)
        while os.read(life, 1):
            pass
    finally:
        os._exit(1)


def _work(rank: int, request: dict[str, Any], listener: socket.socket, patience: float) -> bytes:
    """The report of one rank, as it goes through the pipe."""
    report: dict[str, Any]
    try:
        worker, args = _join(rank, request, listener, patience)
        value = worker(rank, *args)
        report = {"what": "returned", "value": _packed_result(value)}
    except BaseException as error:
        report = _report_of(error)
    return pickle.dumps(report)


def _join(rank: int, request: dict[str, Any], listener: socket.socket, patience: float) -> tuple[Callable[..., Any], tuple]:
    """Become a member of the process group; the worker and its arguments."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from llm180 import guard

    ranks, port = request["ranks"], listener.getsockname()[1]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fd = {"master_listen_fd": listener.detach()} if rank == 0 else {}
    if rank:
        listener.close()
    long, short = timedelta(seconds=request["seconds"]), timedelta(seconds=patience)
    store = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, long, wait_for_workers=False, use_libuv=False, **fd)
    store.set(f"here {rank}", "yes")
    store.wait([f"here {other}" for other in range(ranks)], long)  # a busy machine may start them one by one
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=short)
    dist.distributed_c10d.default_pg_timeout = short  # of groups that the worker makes
    torch.set_num_threads(1)
    guard.seed_everything(request["seed"])
    random.seed(request["seed"])
    return pickle.loads(request["payload"])


class _NoResult(Exception):
    """A worker returned something that cannot travel."""


def _packed_result(value: Any) -> bytes:
    try:
        return _dumps(value)
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise _NoResult(f"it returned a {type(value).__name__}, which cannot be copied back: {said}") from None


def _report_of(error: BaseException) -> dict[str, Any]:
    from llm180 import expect

    frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__, limit=-60)]
    try:
        said = str(error)
    except Exception:
        said = "(its message cannot be shown)"
    mismatch: tuple[str, ...] = ()
    if isinstance(error, expect.Told):
        mismatch = (error.message, error.cause)
    elif isinstance(error, expect.Mismatch):
        mismatch = (error.expected, error.came, error.cause, error.what)
    name = "TypeError" if isinstance(error, _NoResult) else type(error).__name__
    return {"what": "raised", "error": name, "said": said[:2_000], "frames": frames, "mismatch": mismatch}


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(struct.pack("!Q", len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def _die_with_parent(life: int) -> None:
    """End this process when its supervisor is gone, even if that was killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if select.select([life], [], [], 0)[0]:  # it was gone before this was asked for
            os._exit(1)
        return
    import threading

    def watch() -> None:
        while os.read(life, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
