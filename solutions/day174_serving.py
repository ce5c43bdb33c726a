"""Day 174: a language model behind an HTTP interface that speaks OpenAI's protocol."""

from __future__ import annotations

import codecs
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from llm180 import known_mistakes
from solutions.serving_engine import ApiError, ChatRequest, Engine, EventStream, Message


def sse_encode(data: str, event: str | None = None) -> bytes:
    """One server-sent event, as bytes of UTF-8.

    Parameters
    ----------
    data:
        Any text. A parser gives it back with every line end (CR LF, CR or LF) as LF.
    event:
        The event's name; without one, the stream names none.

    Raises ValueError if ``event`` is empty or holds a CR or LF.

    Source: HTML standard, section 9.2 "Server-sent events".
    """
    if event is not None and not re.fullmatch(r"[^\r\n]+", event):
        raise ValueError(f"an event's name is one line of text, not {event!r}")
    lines = [] if event is None else [f"event: {event}"]
    lines += [f"data: {line}" for line in re.split(r"\r\n|\r|\n", data)]
    return ("\n".join(lines) + "\n\n").encode()


known_mistakes(
    sse_encode,
    (
        '+ "\\n\\n"',
        '+ "\\n"',
        "an event ends with a blank line; without it no client sees the event",
    ),
    (
        '[f"data: {line}" for line in re.split(r"\\r\\n|\\r|\\n", data)]',
        '[f"data: {data}"]',
        "a line break in the data ends the field; each line of the data needs a field of its own",
    ),
    (
        're.split(r"\\r\\n|\\r|\\n", data)',
        "data.splitlines()",
        "str.splitlines also cuts at characters that are no line ends here, and drops a last empty line",
    ),
    (
        're.split(r"\\r\\n|\\r|\\n", data)',
        'data.split("\\n")',
        "a carriage return alone ends a line of the stream as well",
    ),
    (
        'f"data: {line}"',
        'f"data:{line}"',
        "a parser removes one space after the colon; without yours it removes one of the data's own",
    ),
    (
        'f"event: {event}"',
        'f"name: {event}"',
        "the field with the event's name is called event",
    ),
    (
        'not re.fullmatch(r"[^\\r\\n]+", event)',
        "False",
        "a line break in the event's name begins a new field: whoever chooses the name writes into the stream",
    ),
)

_FIELDS = {
    *(
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "stop",
    ),
    *("seed", "n", "stream", "stream_options", "user"),
}
_ROLES = ("system", "developer", "user", "assistant")


def validate_request(body: object, models: Collection[str]) -> ChatRequest:
    """Check the body of a chat completion and give it its types.

    Parameters
    ----------
    body:
        What ``json.loads`` made of the request's body: anything.
    models:
        The names of the models that are served.

    Returns
    -------
    The request. A field that is absent or null has its default.

    Raises ApiError, with the ``param`` at fault: 404 with code "model_not_found" for a
    model that is not served, else 400. The exercise's table lists the rules.

    Source: OpenAI API reference, "Create chat completion".
    """

    def refuse(message: str, param: str | None, code: str | None = None) -> ApiError:
        return ApiError(400, message, param=param, code=code)

    if not isinstance(body, dict):
        raise refuse("the body must be a JSON object", None)
    for name in body:
        if name not in _FIELDS:
            raise refuse(f"unknown parameter: {name!r}", name, "unknown_parameter")
    given = {name: value for name, value in body.items() if value is not None}

    def whole(name: str, least: int | None) -> int | None:
        value = given.get(name)
        if value is None:
            return None
        if type(value) is not int or (least is not None and value < least):
            raise refuse(f"{name} must be a whole number in its range", name)
        return value

    def flag(fields: Mapping[str, Any], name: str, param: str) -> bool:
        value = fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise refuse(f"{param} must be true or false", param)
        return bool(value)

    model = given.get("model")
    if not isinstance(model, str):
        raise refuse("model must name the model to use", "model")
    if model not in models:
        raise ApiError(
            404, f"there is no model {model!r}", param="model", code="model_not_found"
        )

    turns = given.get("messages")
    if not isinstance(turns, list) or not turns:
        raise refuse("messages must be a list of at least one message", "messages")
    messages = []
    for i, turn in enumerate(turns):
        at = f"messages[{i}]"
        if not isinstance(turn, dict):
            raise refuse(f"{at} must be an object", at)
        if turn.get("role") not in _ROLES:
            raise refuse(f"{at}.role must be one of {', '.join(_ROLES)}", f"{at}.role")
        content = turn.get("content")
        if not isinstance(content, str) or not _is_unicode(content):
            raise refuse(f"{at}.content must be Unicode text", f"{at}.content")
        messages.append(Message(turn["role"], content))

    limits = [whole(name, 1) for name in ("max_tokens", "max_completion_tokens")]
    if None not in limits:
        raise refuse(
            "give max_tokens or max_completion_tokens, not both",
            "max_completion_tokens",
        )
    temperature = given.get("temperature", 1.0)
    # A comparison with NaN, which Python's JSON parser accepts, is false.
    if type(temperature) not in (int, float) or not 0 <= temperature <= 2:
        raise refuse("temperature must be a number from 0 to 2", "temperature")
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > 4:
        raise refuse("stop must be a string or a list of up to 4 strings", "stop")
    if not all(isinstance(text, str) and text for text in stop):
        raise refuse("each stop must be a string that is not empty", "stop")
    if whole("n", 1) not in (None, 1):
        raise refuse("n above 1 is not supported", "n", "unsupported_value")
    stream = flag(given, "stream", "stream")
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or (options and not stream):
        raise refuse(
            "stream_options is an object, for stream: true only", "stream_options"
        )
    return ChatRequest(
        model=model,
        messages=tuple(messages),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        temperature=float(temperature),
        stop=tuple(stop),
        seed=whole("seed", None),
        stream=stream,
        include_usage=flag(options, "include_usage", "stream_options.include_usage"),
    )


def _is_unicode(text: str) -> bool:
    """False for text with half of a surrogate pair: JSON can hold it, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False  # equivalent `return None`: it is used as a truth value
    return True


known_mistakes(
    validate_request,
    (
        '    if not isinstance(body, dict):\n        raise refuse("the body must be a JSON object", None)\n',
        "",
        "a body that is no object is used as one: the client gets a 500 for its own mistake",
    ),
    (
        "if name not in _FIELDS:",
        "if False:",
        "an unknown field is ignored, so that a misspelled one has silently no effect",
    ),
    (
        "given = {name: value for name, value in body.items() if value is not None}",
        "given = dict(body)",
        "null means the same as absent: clients write out every field that they know",
    ),
    (
        '404, f"there',
        '400, f"there',
        "a model that is not served is not found: 404",
    ),
    (
        "if not isinstance(turns, list) or not turns:",
        "if not isinstance(turns, list):",
        "an empty list of messages is let through",
    ),
    (
        'if turn.get("role") not in _ROLES:',
        'if not isinstance(turn.get("role"), str):',
        "any role is let through; only those of the protocol mean something",
    ),
    (
        "if not isinstance(content, str) or not _is_unicode(content):",
        "if not isinstance(content, str):",
        "JSON can hold half of a surrogate pair; such text fails later, when it is encoded as UTF-8",
    ),
    (
        "not 0 <= temperature <= 2:",
        "temperature < 0 or temperature > 2:",
        "every comparison with NaN is false, so NaN passes; ask for what is allowed",
    ),
    (
        "not 0 <= temperature <= 2:",
        "not 0 < temperature <= 2:",
        "a temperature of 0 is legal: the likeliest token each time",
    ),
    (
        "type(value) is not int or",
        "not isinstance(value, int) or",
        "true and false are instances of int in Python; a check by isinstance takes them for 1 and 0",
    ),
    (
        "if not all(isinstance(text, str) and text for text in stop):",
        "if not all(isinstance(text, str) for text in stop):",
        "an empty stop string is let through, and every text contains it",
    ),
    (
        "stop = [stop] if isinstance(stop, str) else stop",
        "stop = list(stop) if isinstance(stop, str) else stop",
        "a single stop string is taken apart into its characters",
    ),
    (
        "or (options and not stream)",
        "",
        "stream_options without stream has no effect and is not refused",
    ),
)


class TextStream:
    """Turns an answer's tokens into text that can be sent as it comes.

    Text is held back while it may change or may have to be left out: the beginning of a
    character whose last bytes are missing, and the beginning of a stop string. What is
    returned is never taken back, and nothing is held longer than needed.

    Source: Python's ``codecs``; stop strings as in the OpenAI API.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """``stop``: strings that end the answer, none of them empty."""
        self.stop = tuple(stop)
        self.stopped = False  # a stop string came: the answer is complete
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: bytes) -> str:
        """Take a token's bytes; return the text that can be sent now, often none.

        The answer ends before the first stop string that is complete (of several that
        end with the same character, the longest). After that every call returns "".
        """
        return self._take(self._decoder.decode(token))

    def finish(self) -> str:
        """The model has ended: return what was held back.

        Bytes that are no UTF-8, or an unfinished character, are shown as U+FFFD.
        """
        text = self._take(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [
            (text.index(s) + len(s), text.index(s)) for s in self.stop if s in text
        ]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        # The longest end of the text that begins a stop string.
        # equivalent `default=-1` `default=1`: no stop string, nothing to hold
        longest = max(map(len, self.stop), default=0)
        # equivalent `-1, -1)`: a size of 0 holds nothing back either
        sizes = range(min(longest, len(text)), 0, -1)
        held = (n for n in sizes if any(s.startswith(text[-n:]) for s in self.stop))
        # equivalent `next(held, -1)`: a slice ends where the text does
        cut = len(text) - next(held, 0)
        self._held = text[cut:]
        return text[:cut]


known_mistakes(
    TextStream,
    (
        "self._take(self._decoder.decode(token))",
        'self._take(token.decode("utf-8", "replace"))',
        "each token is decoded alone; a character that two tokens share comes out as two U+FFFD",
    ),
    (
        '("replace")',
        '("ignore")',
        "bytes that are no UTF-8 vanish; U+FFFD shows that something was there",
    ),
    (
        "        self._held = text[cut:]\n        return text[:cut]",
        '        self._held = ""\n        return text',
        "the beginning of a stop string is sent before it is known whether the rest of it comes",
    ),
    (
        "return text[: min(found)[1]]",
        "return text[: min(found)[0]]",
        "the stop string itself is sent",
    ),
    (
        "return text[: min(found)[1]]",
        "return text[: max(found)[1]]",
        "the last of several stop strings ends the answer; it must be the first",
    ),
    (
        "return text + held",
        "return text",
        "what was held back for a stop string is lost when the model ends without it",
    ),
    (
        "cut = len(text) - next(held, 0)",
        "cut = max(0, len(text) - longest)",
        "more is held back than begins a stop string: the client waits for text that is certain",
    ),
    (
        '        if self.stopped:\n            return ""\n',
        "",
        "text goes on after the stop string",
    ),
)


def create_app(
    engines: Mapping[str, Engine], *, max_concurrent: int = 4, retry_after: int = 1
) -> FastAPI:
    """A server for the models ``engines``, by name, in OpenAI's protocol.

    Parameters
    ----------
    max_concurrent:
        Answers that are generated at the same time, for all models together. A request
        beyond gets 503 at once, with a header ``Retry-After``: ``retry_after`` seconds.

    Returns
    -------
    An application with ``GET /health`` (status and busy slots), ``GET /v1/models``,
    ``GET /v1/models/{name}`` and ``POST /v1/chat/completions``. Every error, also one
    for an unknown path or inside an engine, has OpenAI's shape.

    An engine blocks only a thread of the pool, never the event loop. When its client
    leaves, an answer makes no further token; when it ends in whatever way, the engine's
    generator is closed and the slot is free.

    Source: OpenAI API reference, "Chat"; ASGI specification, "HTTP".
    """
    app = FastAPI()
    busy = 0

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def not_found(_: Request, error: HTTPException) -> Response:
        return ApiError(
            error.status_code, error.detail, headers=error.headers
        ).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _FAILED.response()

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "busy": busy}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(name) for name in engines]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in engines:
            raise ApiError(
                404,
                f"there is no model {name!r}",
                param="model",
                code="model_not_found",
            )
        return _card(name)

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        nonlocal busy
        try:
            body = await http.json()
        except (ValueError, RecursionError):
            raise ApiError(400, "the body is not valid JSON") from None
        request = validate_request(body, engines)
        engine = engines[request.model]
        prompt = engine.count(request.messages)
        room = engine.context - prompt
        limit = room if request.max_tokens is None else request.max_tokens
        if room < 1 or limit > room:
            raise ApiError(
                400,
                f"the context holds {engine.context} tokens; "
                f"the messages have {prompt} and max_tokens is {limit}",
                param="messages",
                code="context_length_exceeded",
            )
        # No await from here to `busy += 1`: no other request comes in between.
        # equivalent `busy == max_concurrent`: it is never above
        if busy >= max_concurrent:
            raise ApiError(
                503,
                "every slot is busy, try again later",
                kind="server_error",
                code="overloaded",
                headers={"Retry-After": str(retry_after)},
            )
        busy += 1
        answer = _Answer(engine, request, limit)

        def close() -> None:
            nonlocal busy
            busy -= 1
            answer.tokens.close()

        if request.stream:
            return EventStream(_events(answer, request, prompt), close)
        try:
            text = ""
            async for piece in answer.pieces():
                text += piece
                if await http.is_disconnected():
                    # equivalent `return None` `Response()` `status_code=498`
                    # `status_code=500`: nobody reads it
                    return Response(status_code=499)
        finally:
            close()
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": answer.finish_reason,
        }
        return Response(
            json.dumps(
                _head("chat.completion", request)
                | {"choices": [choice], "usage": answer.usage(prompt)}
            ),
            media_type="application/json",
        )

    return app


class _Answer:
    """One answer in the making."""

    def __init__(self, engine: Engine, request: ChatRequest, limit: int) -> None:
        self.tokens = engine.generate(
            request.messages, temperature=request.temperature, seed=request.seed
        )
        self.finish_reason = "length"
        self._made, self._limit, self._stop = 0, limit, request.stop

    async def pieces(self) -> AsyncIterator[str]:
        """A piece of text for each token, often empty; a thread of the pool makes each."""
        stream = TextStream(self._stop)
        # equivalent `self._made != self._limit`: it grows by one
        while self._made < self._limit and not stream.stopped:
            token = await run_in_threadpool(next, self.tokens, None)
            if token is None:
                self.finish_reason = "stop"
                break
            self._made += 1
            yield stream.push(token)
        if stream.stopped:
            self.finish_reason = "stop"
        yield stream.finish()

    def usage(self, prompt: int) -> dict[str, int]:
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._made,
            "total_tokens": prompt + self._made,
        }


async def _events(
    answer: _Answer, request: ChatRequest, prompt: int
) -> AsyncIterator[bytes]:
    """The answer as events: the role, pieces of text, the reason of the end, [DONE]."""
    head = _head("chat.completion.chunk", request)

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return sse_encode(json.dumps(head | {"choices": [choice]}))

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for piece in answer.pieces():
            if piece:
                yield chunk({"content": piece})
    except Exception:  # the status is sent already; an event is all that is left
        yield sse_encode(json.dumps(_FAILED.body))
        return
    yield chunk({}, answer.finish_reason)
    if request.include_usage:
        yield sse_encode(
            json.dumps(head | {"choices": [], "usage": answer.usage(prompt)})
        )
    yield sse_encode("[DONE]")


# The cause goes into the server's log and not to the client.
_FAILED = ApiError(500, "the server failed on this request", kind="server_error")


def _head(kind: str, request: ChatRequest) -> dict[str, Any]:
    name = f"chatcmpl-{uuid.uuid4().hex}"
    return {
        "id": name,
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
    }


def _card(name: str) -> dict[str, Any]:
    # equivalent `"created": 1` `"created": -1`: no date is known
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm180"}


known_mistakes(
    create_app,
    (
        '    yield sse_encode("[DONE]")\n',
        "",
        "the stream ends without [DONE]; a client waits for it, and cannot tell an end from a cut",
    ),
    (
        'yield chunk({"content": piece})',
        'yield chunk({"role": "assistant", "content": piece})',
        "the role stands in every chunk; clients that add up deltas write assistantassistant",
    ),
    (
        '{"choices": [choice], "usage": answer.usage(prompt)}',
        '{"choices": [choice]}',
        "usage is missing; whoever pays by the token needs it",
    ),
    (
        "    if request.include_usage:\n",
        "    if True:\n",
        "the chunk with usage is sent unasked; clients that read choices[0] of each chunk fail on it",
    ),
    (
        '        if stream.stopped:\n            self.finish_reason = "stop"\n',
        "",
        "an answer that ends at a stop string has the reason stop, also when it ends at its last token",
    ),
    (
        'self.finish_reason = "length"',
        'self.finish_reason = "stop"',
        "an answer that was cut off at max_tokens has the reason length",
    ),
    (
        "while self._made < self._limit and",
        "while self._made <= self._limit and",
        "one token more than max_tokens is made",
    ),
    (
        "token = await run_in_threadpool(next, self.tokens, None)",
        "token = next(self.tokens, None)",
        "the engine runs on the event loop, so that no other client is served meanwhile",
    ),
    (
        "        except (ValueError, RecursionError):\n",
        "        except ZeroDivisionError:\n",
        "a body that is no JSON makes a 500; the mistake is the client's, so 400",
    ),
    (
        "                if await http.is_disconnected():\n                    return Response(status_code=499)\n",
        "",
        "an answer that is not streamed goes on after its client has left",
    ),
    (
        "            busy -= 1\n",
        "",
        "a slot is taken and never given back: after a few answers the server refuses everyone",
    ),
    (
        "            answer.tokens.close()\n",
        "",
        "the engine's generator is left open, with all that it holds for this answer",
    ),
    (
        "if busy >= max_concurrent:",
        "if busy > max_concurrent:",
        "one answer more than max_concurrent is let in",
    ),
    (
        'headers={"Retry-After": str(retry_after)},',
        "headers=None,",
        "a 503 without Retry-After leaves the client to guess when to come back",
    ),
    (
        "if room < 1 or limit > room:",
        "if False:",
        "a request that does not fit into the context is let through",
    ),
    (
        "    @app.exception_handler(HTTPException)\n",
        "",
        "an unknown path is answered in the framework's shape, which the client's library cannot read",
    ),
    (
        "    @app.exception_handler(Exception)\n",
        "",
        "an error inside the engine is answered by the framework with plain text",
    ),
    (
        "            if piece:\n                yield",
        "            if True:\n                yield",
        "an event is sent for each token, also where it brings no text yet",
    ),
)
