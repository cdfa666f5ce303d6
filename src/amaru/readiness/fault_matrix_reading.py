"""One request of the fault matrix as a careful client makes it, and the judgement of what came back.

The client knows nothing of the gateway: it reads HTTP, server-sent events (strictly, every byte UTF-8) and OpenAI's
objects. What it gets is compared with the answer that the simulated providers give without faults.
"""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.transport import Header, HttpResponse, endpoint_from_url, open_transport
from amaru.readiness.fault_matrix_cases import Way

MAX_BODY_BYTES = 4 * 1024 * 1024
AFTER_ERROR_S = 1.0
"""How long a stream is still read after its error event, to see that nothing follows."""


class Shape(enum.StrEnum):
    """What is asked for."""

    TEXT = "text"
    TOOLS = "tools"
    JSON = "json"


class Result(enum.StrEnum):
    """What a caller was left with."""

    WHOLE = "whole"
    """Exactly the answer, character for character, and its end said so."""
    ERROR = "error"
    """An error that no client can miss: an HTTP error status with an error object, or an error event that ends the
    stream."""
    BROKEN = "broken"
    """Not usable, and no error says so: the connection broke, the stream ended without a word, or it cannot be read."""
    HANG = "hang"
    """Not over within the client's patience."""
    WRONG = "wrong"
    """Looks like a finished answer, and is another one than the provider's."""
    TRUNCATED = "truncated"
    """Looks like a finished answer, and is only the beginning of it: the worst, since nobody will ever know."""


class Answer(msgspec.Struct):
    """An answer as far as it came."""

    text: str = ""
    calls: list[tuple[str, str]] = []
    """Name and arguments of each function called."""
    finish_reason: str | None = None


class Verdict(msgspec.Struct):
    """The judgement of one request."""

    result: Result
    status: int = 0
    """HTTP's; 0 where no head came."""
    event: bool = False
    """The error came as an event of the stream."""
    done: bool = False
    """``[DONE]`` came."""
    detail: str = ""
    comment: str = ""
    """The last comment of the stream: gateways may tell there how the answer was made."""
    headers: dict[str, str] = {}

    @property
    def words(self) -> str:
        """The result in a word or two: ``error 502``, ``error event``."""
        if self.result is not Result.ERROR:
            return self.result.value
        return "error event" if self.event else f"error {self.status}"


class Unreadable(Exception):
    """What came is not what OpenAI's API sends; the message says why."""


_STRING = {"type": "string", "minLength": 40}
_SCHEMA = {
    "type": "object",
    "properties": {"title": _STRING, "story": _STRING, "count": {"type": "integer"}, "place": _STRING},
    "required": ["title", "story", "count", "place"],
    "additionalProperties": False,
}
_PROMPT = "Name three rivers and what they are known for."
"""Its answer has some forty tokens, among them letters of two, three and four bytes."""


def body_of(shape: Shape, model: str, way: Way) -> bytes:
    """The request's body."""
    fields: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": 200,
    }
    if shape is Shape.TOOLS:
        function = {"name": "write_story", "description": "Writes a story.", "parameters": _SCHEMA}
        fields["tools"] = [{"type": "function", "function": function}]
        fields["tool_choice"] = {"type": "function", "function": {"name": "write_story"}}
    elif shape is Shape.JSON:
        schema = {"name": "story", "strict": True, "schema": _SCHEMA}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if way is Way.STREAM:
        fields["stream"] = True
    return msgspec.json.encode(fields)


async def fetch(
    base_url: str, headers: Sequence[tuple[str, str]], body: bytes, patience_s: float
) -> tuple[Verdict, Answer]:
    """Make one request on a connection of its own; the verdict is ``WHOLE`` for whatever looks finished."""
    answer = Answer()
    verdict = Verdict(Result.HANG, detail=f"not over within {patience_s:g} s")
    transport = open_transport(endpoint_from_url(base_url))
    fields: list[Header] = [(b"content-type", b"application/json")]
    fields += [(name.encode(), value.encode()) for name, value in headers]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience_s):
            response = await transport.send(
                "POST",
                b"/chat/completions",
                fields,
                body,
                head_deadline=loop.time() + 2 * patience_s,
                head_kind=FailureKind.NO_ANSWER,
            )
            verdict.status = response.status
            verdict.headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers.items()
            }
            is_stream = b"event-stream" in response.headers.get(b"content-type", b"")
            await (_read_stream if is_stream else _read_whole)(response, answer, verdict)
    except TimeoutError:
        pass
    except Failure as failure:
        # After an error event the caller has been told, however the connection ends.
        if not verdict.event:
            verdict.result, verdict.detail = Result.BROKEN, str(failure)
    except Unreadable as error:
        verdict.result, verdict.detail = Result.BROKEN, str(error)
    finally:
        await transport.aclose()
    return verdict, answer


def judged(verdict: Verdict, answer: Answer, expected: Answer) -> Verdict:
    """``verdict`` after comparing the answer: what looks finished is whole, truncated or wrong."""
    if verdict.result is not Result.WHOLE:
        return verdict
    if answer == expected:
        return verdict
    if (answer.text, answer.calls) == (expected.text, expected.calls):
        verdict.detail = f"finish reason {answer.finish_reason!r} instead of {expected.finish_reason!r}"
        verdict.result = Result.WRONG
    elif _begins(answer, expected):
        verdict.detail = f"{_size(answer)} of {_size(expected)} characters, and a finished look"
        verdict.result = Result.TRUNCATED
    else:
        verdict.detail = f"another answer of {_size(answer)} characters instead of {_size(expected)}"
        verdict.result = Result.WRONG
    return verdict


def _begins(answer: Answer, expected: Answer) -> bool:
    """Whether ``answer`` is the beginning of what was to come, or nothing at all."""
    if not expected.text.startswith(answer.text) or len(answer.calls) > len(expected.calls):
        return False
    pairs = zip(answer.calls, expected.calls, strict=False)
    return all(whole[0].startswith(part[0]) and whole[1].startswith(part[1]) for part, whole in pairs)


def _size(answer: Answer) -> int:
    return len(answer.text) + sum(len(arguments) for _, arguments in answer.calls)


# ---- whole answers --------------------------------------------------------------------------------------------------


async def _read_whole(response: HttpResponse, answer: Answer, verdict: Verdict) -> None:
    value = _decoded(await response.read(MAX_BODY_BYTES), "the body")
    error = value.get("error")
    if response.status >= 400:
        if not isinstance(error, dict) or not isinstance(error.get("message"), str) or not error["message"]:
            raise Unreadable(f"status {response.status} without an error object")
        verdict.result, verdict.detail = Result.ERROR, error["message"][:300]
        return
    if error:
        raise Unreadable(f"an error object under status {response.status}")
    try:
        (choice,) = value["choices"]
        message = choice["message"]
        answer.text = message.get("content") or ""
        for call in message.get("tool_calls") or ():
            answer.calls.append((call["function"]["name"], call["function"]["arguments"]))
        answer.finish_reason = choice["finish_reason"]
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise Unreadable(f"no answer of a chat: {problem!r}") from None
    verdict.result, verdict.detail = Result.WHOLE, ""


def _decoded(data: bytes, what: str) -> dict[str, Any]:  # Any: JSON
    try:
        value = json.loads(data.decode())
    except ValueError as problem:  # UnicodeDecodeError is one
        raise Unreadable(f"{what} is no JSON in UTF-8: {problem}") from None
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is no JSON object")
    return value


# ---- streams --------------------------------------------------------------------------------------------------------


async def _read_stream(response: HttpResponse, answer: Answer, verdict: Verdict) -> None:
    loop = asyncio.get_running_loop()
    rest = b""
    while data := await response.chunk():
        *blocks, rest = (rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            _take_event(block, answer, verdict)
            if verdict.event:
                response.set_deadline(loop.time() + AFTER_ERROR_S, FailureKind.STREAM_STALLED, "read enough")
    if verdict.event:
        return
    if rest.strip():
        raise Unreadable("the stream ended within an event")
    if answer.finish_reason is None and not verdict.done:
        raise Unreadable("the stream ended without a finish reason, [DONE] or error")
    verdict.result, verdict.detail = Result.WHOLE, ""


def _take_event(block: bytes, answer: Answer, verdict: Verdict) -> None:
    data = b""
    for line in block.split(b"\n"):
        if line.startswith(b":"):
            verdict.comment = line[1:].strip().decode("utf-8", "replace")
        elif line.startswith(b"data:"):
            data += line[5:].strip()
    if not data:
        return
    if data == b"[DONE]":
        verdict.done = True
    if verdict.event:
        _nothing_follows(data)
        return
    if verdict.done:
        return
    value = _decoded(data, "an event")
    error = value.get("error")
    if error:
        words = error.get("message") if isinstance(error, dict) else None
        if not isinstance(words, str) or not words:
            raise Unreadable("an error event without an error object")
        if answer.finish_reason is not None:
            raise Unreadable("an error event behind a finish reason")
        verdict.result, verdict.event, verdict.detail = Result.ERROR, True, words[:300]
        return
    _take_chunk(value, answer)


def _nothing_follows(data: bytes) -> None:
    """After an error event, what a careless client would take for the end of an answer must not come."""
    if data == b"[DONE]":
        raise Unreadable("[DONE] behind an error event")
    if b'"finish_reason"' in data and b'"finish_reason":null' not in data.replace(b" ", b""):
        raise Unreadable("a finish reason behind an error event")


def _take_chunk(value: dict[str, Any], answer: Answer) -> None:  # Any: JSON
    try:
        for choice in value["choices"]:
            delta = choice.get("delta") or {}
            answer.text += delta.get("content") or ""
            for part in delta.get("tool_calls") or ():
                _take_call(part, answer)
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    except (KeyError, TypeError, AttributeError, IndexError) as problem:
        raise Unreadable(f"an event that is no chunk of an answer: {problem!r}") from None


def _take_call(part: dict[str, Any], answer: Answer) -> None:  # Any: JSON
    function = part.get("function") or {}
    if part["index"] == len(answer.calls):
        answer.calls.append(("", ""))
    name, arguments = answer.calls[part["index"]]
    answer.calls[part["index"]] = (name + (function.get("name") or ""), arguments + (function.get("arguments") or ""))
