"""Servers for lessons: on the loopback address, on a free port, and always shut down.

Three ways to run a web application (anything that speaks ASGI, such as FastAPI) from a
notebook's cell or from a check:

    with servers.serve(app) as url: ...          # a real server: uvicorn, sockets, a port of its own
    reply = servers.ask(app, "GET", "/health")   # one request, in this process, no socket
    servers.run(scene())                         # a coroutine with several clients:
                                                 #   client = servers.Client(app); await client.post(...)

Each runs on an event loop in a thread of its own (a notebook's main thread has a running
loop already). The thread ends with the block or the call, also when a check fails, when its
time is up, or when the block is left in a way that runs no clean-up: a watch ends it then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import json as jsons
import os
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_GLANCE = 0.05  # seconds between two looks at whether the owner is still there
_PATIENCE = 1.0  # seconds to end by itself, before the thread is made to
_LEAVE = 0.5  # seconds for answers that are under way when a server ends
_STARTUP = 10.0  # seconds in which a server must answer


class ServerError(RuntimeError):
    """A server did not start or did not end; the message says why."""


def _application(app: Any) -> Any:
    if not callable(app):
        raise TypeError(f"a web application is expected, not {app!r}" + ("; is a return missing?" if app is None else ""))
    return app


# --- a loop in a thread that ends with its owner ---------------------------------------------


class _Thread:
    """A thread of ours. It says itself when it ended.

    (An exception that strikes in ``Thread.join``, as Ctrl-C or a time limit does, makes Python 3.9 to
    3.12 believe that the thread has ended. So nobody joins a thread that may be running.)
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self.ended = False
        self._work = work
        self._running = threading.Lock()
        self._running.acquire()
        self.thread = threading.Thread(target=self._run, name=f"llm180-{name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.ended = True
            self._running.release()

    def wait(self, seconds: float) -> bool:
        """True once it ended. In short steps, so that an interrupt comes through on every system."""
        until = time.monotonic() + seconds
        while not self.ended and (left := until - time.monotonic()) > 0:
            if self._running.acquire(timeout=min(left, 0.1)):
                self._running.release()
        if self.ended:
            self.thread.join()  # its last microseconds
        return self.ended


class _LoopThread:
    """Runs ``main()`` on an event loop in a thread, until it ends, is stopped, or its owner is gone.

    ``frame`` is the owner's frame in the calling thread. While it is on that thread's stack the owner
    is there. (A frame that can be suspended, as a fixture's, is never taken for gone.)
    """

    def __init__(self, main: Callable[[], Coroutine[Any, Any, Any]], frame: types.FrameType, name: str) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._main, self._frame, self._owner = main, frame, threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False
        self._name = name
        self._watcher: _Thread | None = None
        self._worker = _Thread(self._work, name)
        self._worker.start()  # the one start: an interrupt cannot leave a worker without its watch

    def _work(self) -> None:
        self._watcher = _Thread(self._watch, f"{self._name}-watch")
        self._watcher.start()

        async def body() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            self.result = await self._main()

        try:
            asyncio.run(body())
        except BaseException as error:  # kept for the owner; this thread has nobody to tell
            self.error = error

    def _there(self) -> bool:
        if self._frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return True
        frame = sys._current_frames().get(self._owner)
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None

    def _watch(self) -> None:
        worker = self._worker
        while not worker.wait(_GLANCE) and not self._stopped and self._there():
            pass
        del self._frame
        until = time.monotonic() + _PATIENCE
        while not worker.ended and time.monotonic() < until:
            if self._loop is not None and self._task is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: it ended meanwhile
                    self._loop.call_soon_threadsafe(self._task.cancel)
            worker.wait(_PATIENCE / 4)
        until = time.monotonic() + _PATIENCE
        while not worker.ended and time.monotonic() < until:  # it computes and never looks up
            ident = ctypes.c_ulong(worker.thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
            worker.wait(0.02)
        worker.ended = worker.ended or not worker.thread.is_alive()  # it was struck on its last line

    def wait(self, seconds: float) -> bool:
        """True once ``main()`` has ended."""
        return self._worker.wait(seconds)

    def stop(self) -> None:
        """End the thread and wait for that. Raises ServerError where it does not end."""
        self._stopped = True
        until = time.monotonic() + 3 * _PATIENCE
        while self._watcher is None and time.monotonic() < until:  # the worker is about to start it
            time.sleep(0.001)
        if self._watcher is not None:
            self._watcher.wait(3 * _PATIENCE)
        if not self._worker.ended:
            raise ServerError("the event loop's thread does not end: something in it waits and cannot be interrupted")


def run(main: Coroutine[Any, Any, T], *, seconds: float = 5.0) -> T:
    """Run a coroutine to its end on an event loop of its own, and return its result.

    Raises what the coroutine raises, or TimeoutError after ``seconds``.
    """

    async def body() -> T:
        return await main

    thread = _LoopThread(body, sys._getframe(), "run")
    try:
        done = thread.wait(seconds)
    finally:
        thread.stop()
        main.close()
    if not done:
        raise TimeoutError(f"no end within {seconds:g} s: something waits for what never comes")
    if thread.error is not None:
        raise thread.error
    return thread.result


# --- a real server ------------------------------------------------------------------------------


class serve:  # noqa: N801  used as a function: with serve(app) as url
    """Serve ``app`` with uvicorn on 127.0.0.1, on a port that is free, while the block runs.

    Gives the address, as ``http://127.0.0.1:40123``. Answers that are still under way when the block ends
    have half a second, then they are cancelled. Clients made in the block go to the address
    directly, whatever proxy the environment names. Raises ServerError where the server does not start.
    """

    def __init__(self, app: Any) -> None:
        self.app = _application(app)

    def __enter__(self) -> str:
        import uvicorn

        stop = self._wanted = asyncio.Event()

        class Server(uvicorn.Server):
            async def main_loop(self) -> None:  # uvicorn's own looks ten times a second whether to end
                ticking = asyncio.create_task(super().main_loop())
                await stop.wait()
                ticking.cancel()

            async def shutdown(self, sockets: Any = None) -> None:  # nor has a lesson time for its pauses
                for each in (*self.servers, *(sockets or ())):
                    each.close()
                for connection in list(self.server_state.connections):
                    connection.shutdown()
                until = time.monotonic() + _LEAVE
                while (self.server_state.connections or self.server_state.tasks) and time.monotonic() < until:
                    await asyncio.sleep(0.002)
                for task in list(self.server_state.tasks):
                    task.cancel()

        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            self.app, http="h11", ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False
        )
        self._server = server = Server(config)
        self._listener = listener

        async def main() -> None:
            self._at = asyncio.get_running_loop()
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:  # the owner is gone
                stop.set()
                await serving

        self._thread = _LoopThread(main, sys._getframe(1), "server")
        until = time.monotonic() + _STARTUP
        while not server.started:
            if self._thread.wait(0.005) or time.monotonic() > until:
                self._thread.stop()
                listener.close()
                raise ServerError(f"the server did not start: {self._thread.error!r}")
        self._before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
        for name, value in self._before.items():
            os.environ[name] = ",".join(filter(None, (value, "127.0.0.1")))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        with contextlib.suppress(RuntimeError):
            self._at.call_soon_threadsafe(self._wanted.set)
        self._thread.wait(_PATIENCE)
        self._thread.stop()
        self._listener.close()


# --- requests without a socket -------------------------------------------------------------------


@dataclass
class Reply:
    """What an application answered: ``chunks`` are the parts of the body as it sent them."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of each chunk, seconds since the request

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        """The body as JSON. Raises ValueError, which quotes the body, where it is none."""
        try:
            return jsons.loads(self.body)
        except ValueError:
            raise ValueError(f"status {self.status}, and a body that is no JSON: {self.body[:100]!r}") from None

    def events(self) -> list[Event]:
        """The body as server-sent events."""
        return read_events(self.body)


class Call:
    """A request under way: ``await call`` waits for the :class:`Reply`, ``hang_up()`` leaves before it is complete."""

    def __init__(self, app: Any, method: str, path: str, content: bytes) -> None:
        self.reply = Reply()
        self._began = time.perf_counter()
        self._gone = asyncio.Event()
        self._news = asyncio.Event()
        self._unread = [{"type": "http.request", "body": content, "more_body": False}]
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # uvicorn's
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._task = asyncio.create_task(self._exchange(app, scope))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # no note of it on stderr

    async def _exchange(self, app: Any, scope: dict[str, Any]) -> Reply:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            # An error for which the application has an answer of its own is raised as well, for the log.
            if not self.reply.headers.get("content-type", "").startswith("application/json"):
                raise
        finally:
            self._news.set()
        return self.reply

    async def _receive(self) -> dict[str, Any]:
        if self._unread:
            return self._unread.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if self._gone.is_set():
            return  # as uvicorn does: nobody is there
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            headers = message.get("headers", ())
            self.reply.headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in headers}
        elif message.get("body"):
            self.reply.chunks.append(bytes(message["body"]))
            self.reply.times.append(time.perf_counter() - self._began)
        self._news.set()

    async def until(self, holds: Callable[[Reply], bool]) -> Reply:
        """Wait until ``holds(reply so far)``, or until the reply is complete."""
        while not holds(self.reply) and not self._task.done():
            self._news.clear()
            await self._news.wait()
        return self.reply

    def hang_up(self) -> None:
        """The client closes the connection. ``await call`` then waits until the application is done."""
        self._gone.set()

    def __await__(self) -> Any:
        return self._task.__await__()


class Client:
    """Speaks to an application in this process, as a server would. Use it in a coroutine under :func:`run`."""

    def __init__(self, app: Any) -> None:
        self.app = _application(app)

    def start(self, method: str, path: str, json: Any = None, *, content: bytes | None = None) -> Call:
        """Begin a request; ``json`` is sent as JSON, ``content`` as it is."""
        if content is None:
            content = b"" if json is None else jsons.dumps(json).encode()
        return Call(self.app, method, path, content)

    async def get(self, path: str) -> Reply:
        return await self.start("GET", path)

    async def post(self, path: str, json: Any = None, *, content: bytes | None = None) -> Reply:
        return await self.start("POST", path, json, content=content)


def ask(app: Any, method: str, path: str, json: Any = None, *, content: bytes | None = None) -> Reply:
    """One request to an application in this process, and its complete reply."""

    async def exchange() -> Reply:
        return await Client(app).start(method, path, json, content=content)

    return run(exchange())


# --- server-sent events ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """A server-sent event as a browser would dispatch it."""

    data: str
    event: str = "message"


def read_events(stream: bytes) -> list[Event]:
    """Parse a stream of server-sent events by the rules of the HTML standard (9.2.6, "Interpreting an event stream").

    Lines end with CR LF, LF or CR. A blank line dispatches the event; one that the stream's end
    cuts off is dropped. Raises UnicodeDecodeError where the stream is not UTF-8.
    """
    text = stream.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events: list[Event] = []
    data: list[str] = []
    name = ""
    for line in text.split("\n")[:-1]:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(Event("\n".join(data), name or "message"))
            data, name = [], ""
        elif key == "data":
            data.append(value)
        elif key == "event":
            name = value
    return events


def until(holds: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Wait until ``holds()``; False after ``seconds``."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


async def until_async(holds: Callable[[], bool], seconds: float = 2.0) -> bool:
    """The same for a coroutine: the event loop goes on meanwhile."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.001)
    return True
