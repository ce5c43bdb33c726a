"""What a server of models stands on: engines, requests, errors. Given to the reader of Day 174 and of the days after.

An engine makes the tokens of one answer, one after the other, and blocks while it computes each. The
engine here is an n-gram model that is counted as it is asked, so that it is ready at once.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatRequest:
    """A request that was checked: every field has its type and lies within its limits."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None  # None: as many as fit
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False


class ApiError(Exception):
    """A request that is not served: status, and what the client is told about it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """The error as a response in OpenAI's shape."""
        return JSONResponse(self.body, self.status, self.headers)


class Engine(Protocol):
    """Anything that continues a conversation."""

    context: int  # tokens that prompt and answer may have together

    def count(self, messages: tuple[Message, ...]) -> int:
        """Tokens of the prompt."""
        ...

    def generate(self, messages: tuple[Message, ...], *, temperature: float, seed: int | None) -> Iterator[bytes]:
        """The answer's tokens, each as bytes of UTF-8 (a character may be spread over several).

        A generator: ``next`` blocks while a token is computed, ``close`` gives up what the answer holds.
        It ends where the model ends the answer.
        """
        ...


class NgramEngine:
    """A byte-level n-gram model as an :class:`Engine`; it continues the last message.

    The next byte is drawn from what follows the last ``order`` bytes in ``text``, or fewer where
    those do not occur. The counts are made as they are asked for, by searching the text: nothing
    is trained. A blank line ends an answer.

    Parameters
    ----------
    pause:
        Seconds that each token takes beside: what a forward pass would keep the accelerator busy.
        Sleeping leaves the interpreter to other threads, as a call into a GPU's library does.
    device:
        Held during each pause; a lock makes the engine compute one token at a time, for whomever.
    """

    def __init__(
        self,
        text: str,
        order: int = 8,
        *,
        context: int = 2048,
        pause: float = 0.0,
        device: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.text = text.encode()
        self.order, self.context, self.pause = order, context, pause
        self.device = nullcontext() if device is None else device
        self.steps = 0  # tokens made, for all answers together
        self._counts = lru_cache(maxsize=4096)(self._search)

    def count(self, messages: tuple[Message, ...]) -> int:
        return sum(len(message.content.encode()) for message in messages)

    def generate(self, messages: tuple[Message, ...], *, temperature: float, seed: int | None) -> Iterator[bytes]:
        rng = random.Random(seed)
        written = messages[-1].content.encode()
        while True:
            with self.device:
                time.sleep(self.pause)
            self.steps += 1
            counts = self._counts(written[-self.order :])
            if temperature:
                weights = [n ** (1 / max(temperature, 0.05)) for n in counts.values()]
                (byte,) = rng.choices(list(counts), weights)
            else:
                byte = max(counts, key=lambda b: (counts[b], -b))
            written += bytes([byte])
            if written.endswith(b"\n\n"):
                return
            yield bytes([byte])

    def _search(self, suffix: bytes) -> dict[int, int]:
        """How often each byte follows ``suffix``, or the longest end of it that occurs."""
        for start in range(len(suffix) + 1):
            found = re.finditer(re.escape(suffix[start:]) + b"(?s:(.))", self.text)
            if counts := Counter(match[1][0] for match in found):
                return dict(sorted(counts.items()))
        raise ValueError("an engine needs some text")


class EventStream(StreamingResponse):
    """A response that sends events as they come, and calls ``close`` once, however the exchange ends.

    It ends when ``events`` does, when the client leaves, or when the server shuts down. In the latter two
    cases the generator is closed where it waits, or was never begun: what must happen in any
    case stands in ``close`` and not in the generator.
    """

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        # No proxy on the way may keep events back or store them.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                await self.body_iterator.aclose()  # type: ignore[union-attr]
            finally:
                self._close()


def paragraphs(text: str) -> str:
    """A novel's text with each paragraph on one line, and a blank line between two."""
    return re.sub(r"(?<!\n) *\n(?!\n)", " ", text)
