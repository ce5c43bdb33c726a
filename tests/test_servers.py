"""llm180.servers: what it starts always ends, and what it reads follows the standards."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from llm180 import guard, servers

pytest.importorskip("uvicorn")


async def echo(scope, receive, send):
    """A small ASGI application: what it got comes back in two parts."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Path", scope["path"].encode())]})
    await send({"type": "http.response.body", "body": body[:2], "more_body": True})
    await send({"type": "http.response.body", "body": body[2:], "more_body": False})


async def endless(scope, receive, send):
    """Sends until the client leaves, or until it is cancelled."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    gone = asyncio.create_task(receive())
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.001)
        if gone.done() and gone.result()["type"] == "http.disconnect":
            return
        if gone.done():
            gone = asyncio.create_task(receive())


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("llm180")]


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=2)


def talk(url: str) -> bytes:
    with connect(url) as s:
        s.sendall(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        found = b""
        while part := s.recv(4096):
            found += part
        return found


def test_serves_and_ends():
    with servers.serve(echo) as url:
        assert url.startswith("http://127.0.0.1:")
        answer = talk(url)
        assert "127.0.0.1" in os.environ["NO_PROXY"]
    assert answer.startswith(b"HTTP/1.1 200") and b"x-path: /p" in answer.lower()
    assert not ours()
    with pytest.raises(OSError):
        connect(url)


def test_two_servers_at_once_have_two_ports():
    with servers.serve(echo) as one, servers.serve(echo) as other:
        assert one != other
        assert talk(one) and talk(other)
    assert not ours()


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    with servers.serve(echo):
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"
    assert os.environ["NO_PROXY"] == "example.org" and "no_proxy" not in os.environ


def test_ends_when_the_block_raises():
    with pytest.raises(KeyError), servers.serve(echo):
        raise KeyError
    assert not ours()


def test_ends_with_a_stream_under_way():
    began = time.monotonic()
    with servers.serve(endless) as url:
        s = connect(url)
        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert s.recv(100)
    s.close()
    assert not ours() and time.monotonic() - began < 4


@pytest.mark.parametrize("how", ["server", "run"])
def test_nothing_is_left_when_the_time_is_up(how):
    """The time limit strikes also in the clean-up: the watch ends what is left."""

    def body():
        if how == "server":
            with servers.serve(echo):
                while True:
                    time.sleep(0.01)
        servers.run(asyncio.sleep(100))

    outcome = guard.run(body, seconds=0.4)
    assert outcome.timed_out
    assert servers.until(lambda: not ours(), 3), ours()


def test_a_loop_that_never_looks_up_is_ended():
    async def busy():
        while True:
            pass

    with pytest.raises(TimeoutError):
        servers.run(busy(), seconds=0.2)
    assert servers.until(lambda: not ours(), 3)


def test_run_returns_and_raises():
    async def five():
        await asyncio.sleep(0)
        return 5

    async def wrong():
        raise LookupError("here")

    assert servers.run(five()) == 5
    with pytest.raises(LookupError, match="here"):
        servers.run(wrong())
    with pytest.raises(TimeoutError, match="0.1 s"):
        servers.run(asyncio.sleep(5), seconds=0.1)

    async def within():  # as in a notebook, whose main thread has a running loop
        return servers.run(five())

    assert asyncio.run(within()) == 5
    assert not ours()


def test_a_fixture_may_hold_a_server():
    def fixture():
        with servers.serve(echo) as url:
            yield url

    held = fixture()
    url = next(held)
    time.sleep(0.3)  # several glances of the watch
    assert talk(url)
    held.close()
    assert not ours()


def test_ask_gives_the_reply_in_its_parts():
    reply = servers.ask(echo, "POST", "/p?q=1", {"a": 1})
    assert reply.status == 200 and reply.headers["x-path"] == "/p"
    assert reply.chunks == [b'{"', b'a": 1}'] and reply.json() == {"a": 1}
    assert len(reply.times) == 2
    reply = servers.ask(echo, "POST", "/p", content=b"ab")
    assert reply.chunks == [b"ab"]
    with pytest.raises(ValueError, match="no JSON"):
        reply.json()


def test_a_client_can_hang_up():
    async def scene():
        call = servers.Client(endless).start("GET", "/")
        await call.until(lambda reply: len(reply.chunks) >= 3)
        call.hang_up()
        return await call

    reply = servers.run(scene())
    assert 3 <= len(reply.chunks) < 6


def test_what_is_no_application_is_refused():
    for use in (servers.serve, servers.Client, lambda app: servers.ask(app, "GET", "/")):
        with pytest.raises(TypeError, match="is a return missing"):
            use(None)


def test_an_error_of_the_application_is_raised():
    async def broken(scope, receive, send):
        raise ZeroDivisionError("inside")

    with pytest.raises(ZeroDivisionError, match="inside"):
        servers.ask(broken, "GET", "/")

    async def answered(scope, receive, send):
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 500, "headers": head})
        await send({"type": "http.response.body", "body": b"{}"})
        raise ZeroDivisionError

    assert servers.ask(answered, "GET", "/").status == 500


STREAMS = {
    b"data: a\n\n": ["a"],
    b"data:a\n\n": ["a"],
    b"data:  a\n\n": [" a"],
    b"data: a\ndata: b\n\n": ["a\nb"],
    b"data: a\r\n\r\ndata: b\r\rdata: c\n\n": ["a", "b", "c"],
    b"data: a\n\ndata: cut off\n": ["a"],
    b"data: a\n\ndata: cut off": ["a"],
    b": a comment\n\ndata: a\n\n": ["a"],
    b"data\n\ndata:\n\n": ["", ""],
    b"id: 1\nretry: 5\n\n": [],
    b"\xef\xbb\xbfdata: \xe5\xbf\x83\n\n": ["心"],
    b"": [],
}


@pytest.mark.parametrize("stream", STREAMS)
def test_events_as_the_standard_reads_them(stream):
    assert [e.data for e in servers.read_events(stream)] == STREAMS[stream]


def test_event_names():
    found = servers.read_events(b"event: ping\ndata: 1\n\ndata: 2\n\nevent: lost\n\ndata: 3\n\n")
    assert [(e.event, e.data) for e in found] == [("ping", "1"), ("message", "2"), ("message", "3")]


def test_events_as_the_openai_client_reads_them():
    streaming = pytest.importorskip("openai._streaming")
    for stream in STREAMS:
        if b"\xef\xbb\xbf" in stream or b"\r\r" in stream or b"id:" in stream or b"data\n" in stream:
            continue  # its reader knows no byte order mark, and dispatches events without data
        if stream.endswith(b"cut off\n"):
            continue
        theirs = streaming.SSEDecoder().iter_bytes(iter([stream]))
        assert [e.data for e in theirs if e.data] == [d for d in STREAMS[stream] if d], stream


@pytest.mark.skipif("CI" not in os.environ, reason="a reader needs no JDK")
def test_there_is_a_jdk_where_the_book_is_tested():
    """Day 174's client in Java is run there; without a JDK the page says so and goes on."""
    assert shutil.which("javac")
