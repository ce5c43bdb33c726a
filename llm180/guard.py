"""Running a reader's answer inside a check so that nothing it does reaches the next cell.

:func:`run` calls a function with a time limit and a cap on what it prints, and
puts back what it may have changed: random generators, grad mode, default dtype,
threads, error modes, the working directory, the environment, and the functions
of numpy, torch and this package that checks rely on. It is isolation within one
process: it protects the page from accidents and from careless answers, not a
machine from an attacker.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import inspect
import io
import itertools
import os
import random
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

OUTPUT_LIMIT = 2_000  # characters of an answer's output that are kept
# Seconds from one interrupt to the next once the time is up, in turn. An answer that catches everything
# (`except:` in a loop) catches the interrupt too; one that follows within microseconds meets it outside its `try`.
_STRIKES = (1e-6, 1e-5, 3e-5, 1e-4, 1e-3, 2e-2)


class TimeLimit(BaseException):
    """Raised inside an answer whose time is up. No ``except Exception`` catches it."""


@dataclass
class Outcome:
    """What came of one guarded call."""

    error: BaseException | None
    seconds: float
    output: str  # the first OUTPUT_LIMIT characters printed
    printed: int  # characters printed in all
    timed_out: bool
    tampered: list[str]  # names of functions that were replaced while it ran
    threads: int  # threads left running


# --- the functions that checks rely on --------------------------------------------

_WATCHED = (
    "builtins",
    "math",
    "copy",
    "numpy",
    "numpy.linalg",
    "numpy.random",
    "numpy.testing",
    "numpy.testing._private.utils",
    "torch",
    "torch.Tensor",
    "torch.autograd",
    "torch.nn.functional",
    "torch.testing",
    "torch.testing._comparison",
    "llm180.expect",
    "llm180.expect.Mismatch",
    "llm180.guard",
    "llm180.day.Page",
)
_CHANGES_BY_ITSELF = {("torch", "Storage")}  # an alias that set_default_dtype sets
_pristine: dict[str, tuple[Any, dict[str, Any]]] = {}


def _find(name: str) -> Any:
    """The watched module or class, if it is loaded already; importing is not our business."""
    if name in sys.modules:
        return sys.modules[name]
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, None) if attribute[:1].isupper() else None


def remember() -> None:
    """Keep the functions of watched modules that are loaded and not kept yet.

    Called when a day begins and before each cell, so before an answer's code can run.
    """
    if "numpy" in sys.modules:
        importlib.import_module("numpy.testing")  # loaded on first use otherwise: perhaps by the answer
    for name in _WATCHED:
        if name not in _pristine and (owner := _find(name)) is not None:
            kept = {k: v for k, v in vars(owner).items() if callable(v) or isinstance(v, (staticmethod, classmethod))}
            kept = {k: v for k, v in kept.items() if (name, k) not in _CHANGES_BY_ITSELF}
            if name == "builtins":
                kept = {k: v for k, v in kept.items() if isinstance(v, (type, types.BuiltinFunctionType))}
            _pristine[name] = (owner, kept)


def _is_the_librarys(owner: str, attribute: str, value: Any) -> bool:
    """True for a version of its own function that a library put in place itself.

    The first optimizer, say, loads torch's compiler, which wraps ``torch.manual_seed``.
    """
    package = sys.modules[owner.split(".")[0]]
    code = getattr(inspect.unwrap(value) if callable(value) else None, "__code__", None)
    home = os.path.dirname(getattr(package, "__file__", None) or "?")
    return (
        code is not None
        and getattr(value, "__name__", "") == attribute
        and value.__code__.co_filename.startswith(home + os.sep)
        and code.co_filename.startswith(home + os.sep)
    )


def put_back() -> list[str]:
    """Restore every remembered function that was replaced; the names of those."""
    replaced = []
    for name, (owner, kept) in _pristine.items():
        current = vars(owner)
        for attribute, value in kept.items():
            now = current.get(attribute)
            if now is not value and _is_the_librarys(name, attribute, now):
                kept[attribute] = now
            elif now is not value:
                with contextlib.suppress(Exception):
                    setattr(owner, attribute, value)
                    replaced.append(f"{name}.{attribute}")
        if isinstance(owner, type):  # a class also changes by hiding what it inherits
            for attribute in [k for k, v in current.items() if k not in kept and isinstance(v, types.FunctionType)]:
                with contextlib.suppress(Exception):
                    delattr(owner, attribute)
                    replaced.append(f"{name}.{attribute}")
    return replaced


# --- the state of the process -------------------------------------------------------


@contextlib.contextmanager
def unchanged_state() -> Iterator[None]:
    """Whatever the body does to global state of Python, numpy and torch is undone."""
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    state = random.getstate()
    cwd, environment = os.getcwd(), dict(os.environ)
    recursion, trace, switch = sys.getrecursionlimit(), sys.gettrace(), sys.getswitchinterval()
    filters = warnings.filters[:]
    if numpy:
        numpy_state, numpy_errors = numpy.random.get_state(), numpy.geterr()
        print_options = numpy.get_printoptions()
    if torch:
        torch_state = torch.random.get_rng_state()
        grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
        device = torch.get_default_device()
        strict = torch.are_deterministic_algorithms_enabled()
        anomaly = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        random.setstate(state)
        with contextlib.suppress(OSError):
            os.chdir(cwd)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        with contextlib.suppress(Exception):  # a limit lower than the present depth is refused
            sys.setrecursionlimit(recursion)
        sys.settrace(trace)
        sys.setswitchinterval(switch)
        warnings.filters[:] = filters
        if numpy:
            numpy.random.set_state(numpy_state)
            numpy.seterr(**numpy_errors)
            print_options.pop("override_repr", None)
            numpy.set_printoptions(**print_options)
        if torch:
            torch.random.set_rng_state(torch_state)
            torch.set_grad_enabled(grad)
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.get_default_device() != device:
                torch.set_default_device(device)
            if torch.are_deterministic_algorithms_enabled() != strict:
                torch.use_deterministic_algorithms(strict)
            if torch.is_anomaly_enabled() != anomaly:
                torch.autograd.set_detect_anomaly(anomaly)


def seed_everything(seed: int) -> None:
    """Seed every generator that is loaded: ``random``, numpy's global one, torch's."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


# --- output --------------------------------------------------------------------------


class _Capped(io.TextIOBase):
    """A text stream that keeps the beginning and counts the rest."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.room = OUTPUT_LIMIT
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.count += len(text)
        if self.room > 0:
            self.kept.append(text[: self.room])
            self.room -= len(text)
        return len(text)

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def _quiet(sink: _Capped) -> Iterator[None]:
    """Standard streams go to ``sink``; no input, no way to end the kernel, no figure left open."""

    def no_input(*_: Any) -> str:
        raise EOFError("a check gives no input")

    def no_exit(*_: Any) -> None:
        raise SystemExit("the answer tried to end the process")

    streams = sys.stdout, sys.stderr, sys.stdin
    read, leave = builtins.input, os._exit
    shell = _shell()
    pyplot = sys.modules.get("matplotlib.pyplot")
    figures = set(pyplot.get_fignums()) if pyplot else set()
    sys.stdout = sys.stderr = sink  # type: ignore[assignment]
    sys.stdin = io.StringIO()
    builtins.input, os._exit = no_input, no_exit  # type: ignore[assignment]
    if shell:
        shell.ask_exit = no_exit  # what `exit` and `quit` call in IPython
    try:
        yield
    finally:
        if shell:
            with contextlib.suppress(AttributeError):
                del shell.ask_exit
        builtins.input, os._exit = read, leave
        sys.stdout, sys.stderr, sys.stdin = streams
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            for number in set(pyplot.get_fignums()) - figures:
                pyplot.close(number)


def _shell() -> Any:
    """The running IPython shell, if there is one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


# --- time ----------------------------------------------------------------------------


def _call(function: Callable[[], Any]) -> None:
    """The frame below which an answer's time is counted: interrupts strike only above it."""
    function()


def _inside(frame: types.FrameType | None) -> bool:
    """True where ``frame`` was called, at whatever depth, by :func:`_call`."""
    while frame is not None:
        frame = frame.f_back
        if frame is not None and frame.f_code is _call.__code__:
            return True
    return False


def crowding() -> float:
    """How many processes wait for each processor, from 1 to 6: a crowded machine gets as much more time."""
    try:
        return min(6.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
    except (AttributeError, OSError):  # Windows does not tell
        return 1.0


class _Clock:
    """Interrupts the calling thread once its time is up, and again until it has given way.

    An interrupt strikes only inside :func:`_call`, so that no clean-up is cut short.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.fired = False
        self._over = False
        self._strikes = itertools.cycle(_STRIKES)
        self._by_signal = (
            hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> _Clock:
        if self._by_signal:
            self._old = signal.signal(signal.SIGALRM, self._strike)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        else:
            self._thread = threading.get_ident()
            self._done = threading.Event()
            threading.Thread(target=self._watch, name="llm180-clock", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        # First of all: a signal that has arrived is handled after the next line, and would set the timer anew;
        # once the old handler is back, that alarm would end the process.
        self._over = True
        if self._by_signal:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._old)
        else:
            self._done.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)

    def _strike(self, _: int, frame: types.FrameType | None) -> None:
        if self._over:
            return
        signal.setitimer(signal.ITIMER_REAL, next(self._strikes))
        if _inside(frame):
            self.fired = True
            raise TimeLimit

    def _watch(self) -> None:
        # Where there is no alarm signal (Windows), the exception is set from a second thread.
        pause = self.seconds
        while not self._done.wait(pause):
            if _inside(sys._current_frames().get(self._thread)):
                self.fired = True
                target = ctypes.c_ulong(self._thread)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(TimeLimit))
            pause = next(self._strikes)


# --- all together ---------------------------------------------------------------------


def run(function: Callable[[], Any], *, seconds: float, seed: int = 0) -> Outcome:
    """Call ``function()`` under guard. Never raises; the outcome says what happened.

    Parameters
    ----------
    seconds:
        The time limit, on a machine that does nothing else; a crowded one gets more. Python code
        is interrupted when it is over; a single long call into compiled code when it returns.
    seed:
        Every loaded generator is seeded with it first, and put back afterwards.
    """
    sink = _Capped()
    error: BaseException | None = None
    before = set(threading.enumerate())
    remember()
    clock = _Clock(seconds * crowding())
    start = time.perf_counter()
    with unchanged_state():
        seed_everything(seed)
        with _quiet(sink), clock:
            try:
                _call(function)
            except BaseException as raised:  # SystemExit, KeyboardInterrupt and all
                error = raised
        took = time.perf_counter() - start
        tampered = put_back()
    # A thread without an identity was stopped before it began: it can be neither joined nor at work.
    left = [t for t in threading.enumerate() if t not in before and t.name != "llm180-clock" and t.ident is not None]
    for thread in left:
        thread.join(0.5 / len(left))
    return Outcome(
        error=error,
        seconds=took,
        output="".join(sink.kept),
        printed=sink.count,
        timed_out=clock.fired,
        tampered=tampered,
        threads=sum(t.is_alive() and type(t).__name__ != "TMonitor" for t in left),
    )


# --- inputs ---------------------------------------------------------------------------

_LARGEST = 1 << 24  # bytes of an array beyond which its contents are not compared


def fingerprint(value: Any, depth: int = 4) -> Any:
    """Something that changes when the value's contents do: arrays, tensors, lists, dicts, sets.

    Other objects, very large arrays and deep nests are left out (``None``).
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy and isinstance(value, numpy.ndarray):
        if value.nbytes > _LARGEST or value.dtype == object:
            return None
        return value.shape, value.strides, str(value.dtype), value.tobytes()
    if torch and isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > _LARGEST or value.layout != torch.strided:
            return None
        plain = value.detach().cpu()
        # a view of bytes wants a last stride of 1, which torch does not ask of axes of length 1 when it calls a tensor contiguous
        kept = torch.empty(plain.numel(), dtype=plain.dtype).copy_(plain.reshape(-1)).view(torch.uint8)
        return tuple(value.shape), value.requires_grad, bytes(kept.numpy().tobytes())
    if depth and isinstance(value, (list, tuple)) and len(value) <= 100_000:
        return type(value), [fingerprint(v, depth - 1) for v in value]
    if depth and isinstance(value, dict) and len(value) <= 100_000:
        return [(k, fingerprint(v, depth - 1)) for k, v in value.items()]
    if isinstance(value, (bytearray, set, frozenset)):
        return type(value), bytes(value) if isinstance(value, bytearray) else frozenset(value)
    if isinstance(value, (int, float, complex, str, bytes, bool, type(None))):
        return value if value == value else "nan"
    return None


importlib.import_module("llm180.expect")  # so that its functions are among the remembered
