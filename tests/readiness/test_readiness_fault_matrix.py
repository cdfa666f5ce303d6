"""The judge of the fault matrix, held to answers whose worth is known: it must not praise, and not blame, wrongly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from amaru.http1 import HttpServer, Request, ServerSettings
from amaru.readiness.fault_matrix import PROVIDER_MODEL, Lane, profile, references
from amaru.readiness.fault_matrix_cases import Way
from amaru.readiness.fault_matrix_reading import Answer, Result, Shape, Verdict, body_of, fetch, judged
from amaru.simulation import Fault, SimulatedProvider

TEXT = Answer(text="Twice two is four. Ångström 🙂", finish_reason="stop")
CALL = Answer(calls=[("add", '{"a":2,"b":2}')], finish_reason="tool_calls")


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None) -> bytes:
    value = {"id": "x", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": reason}]}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def call(name: str | None, arguments: str) -> bytes:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return chunk({"tool_calls": [{"index": 0, "function": function}]})


DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"It broke.","type":"server_error"}}\n\n'
BEGUN = chunk({"role": "assistant", "content": ""}) + chunk({"content": TEXT.text[:10]})
REST = chunk({"content": TEXT.text[10:]})
STOP = chunk(reason="stop")

STREAMS: list[tuple[str, bytes, Answer, str]] = [
    ("all of it", BEGUN + REST + STOP + DONE, TEXT, "whole"),
    ("all of it, carriage returns too", (BEGUN + REST + STOP + DONE).replace(b"\n", b"\r\n"), TEXT, "whole"),
    ("comments between", b": hello\n\n" + BEGUN + b": wait\n\n" + REST + STOP + DONE, TEXT, "whole"),
    ("a finish reason and no [DONE]", BEGUN + REST + STOP, TEXT, "whole"),
    ("a call of a function", call("add", '{"a":2,') + call(None, '"b":2}') + chunk(reason="tool_calls"), CALL, "whole"),
    ("half, and a finish reason", BEGUN + STOP + DONE, TEXT, "truncated"),
    ("half, and [DONE]", BEGUN + DONE, TEXT, "truncated"),
    ("nothing, and [DONE]", DONE, TEXT, "truncated"),
    ("half a call", call("add", '{"a":2,') + chunk(reason="tool_calls") + DONE, CALL, "truncated"),
    ("a beginning twice", BEGUN + BEGUN + REST + STOP + DONE, TEXT, "wrong"),
    ("a character lost", BEGUN + chunk({"content": TEXT.text[11:]}) + STOP + DONE, TEXT, "wrong"),
    ("another call", call("sub", '{"a":2,"b":2}') + chunk(reason="tool_calls") + DONE, CALL, "wrong"),
    ("another finish reason", BEGUN + REST + chunk(reason="length") + DONE, TEXT, "wrong"),
    ("no finish reason", BEGUN + REST + DONE, TEXT, "wrong"),
    ("an end without a word", BEGUN + REST, TEXT, "broken"),
    ("an end within an event", BEGUN + REST[:-9], TEXT, "broken"),
    ("an event that is no JSON", BEGUN + b"data: {\n\n" + REST + STOP + DONE, TEXT, "broken"),
    ("half a character", BEGUN + REST.replace("🙂".encode(), "🙂".encode()[:2]) + STOP + DONE, TEXT, "broken"),
    ("an error event", BEGUN + ERROR, TEXT, "error event"),
    ("an error event and [DONE]", BEGUN + ERROR + DONE, TEXT, "broken"),
    ("an error event and a finish reason", BEGUN + ERROR + STOP, TEXT, "broken"),
    ("an error behind a finish reason", BEGUN + REST + STOP + ERROR, TEXT, "broken"),
    ("an error without words", BEGUN + b'data: {"error":{"code":500}}\n\n', TEXT, "broken"),
]

WHOLE = {"choices": [{"message": {"content": TEXT.text}, "finish_reason": "stop"}]}
BODIES: list[tuple[str, int, bytes, str]] = [
    ("all of it", 200, json.dumps(WHOLE).encode(), "whole"),
    ("half of it", 200, json.dumps(WHOLE).replace(" is four", "").encode(), "wrong"),
    ("its beginning", 200, json.dumps(WHOLE).replace(json.dumps(TEXT.text), '"Twice"').encode(), "truncated"),
    ("half an object", 200, json.dumps(WHOLE).encode()[:-3], "broken"),
    ("no answer", 200, b'{"choices":null}', "broken"),
    ("an error in a 200", 200, b'{"error":{"message":"It broke."}}', "broken"),
    ("an error", 502, b'{"error":{"message":"It broke."}}', "error 502"),
    ("an error in HTML", 502, b"<h1>Bad Gateway</h1>", "broken"),
    ("an error without words", 500, b'{"error":{"code":500}}', "broken"),
]


class Canned:
    """A server that answers everything with one thing."""

    def __init__(self) -> None:
        self.status = 200
        self.content_type = b"application/json"
        self.body = b""

    async def handle(self, request: Request) -> None:
        request.respond(self.status, [(b"content-type", self.content_type)], self.body)


@pytest.fixture
async def canned() -> AsyncIterator[tuple[Canned, str]]:
    made = Canned()
    server = HttpServer(made.handle, ServerSettings())
    await server.start("127.0.0.1", 0)
    yield made, f"http://127.0.0.1:{server.port}/v1"
    await server.drain(0)


async def verdict_of(base_url: str, expected: Answer, way: Way = Way.STREAM) -> Verdict:
    verdict, answer = await fetch(base_url, (), body_of(Shape.TEXT, "any", way), 20.0)
    return judged(verdict, answer, expected)


@pytest.mark.parametrize(("stream", "expected", "words"), [pytest.param(*row[1:], id=row[0]) for row in STREAMS])
async def test_a_stream_is_judged(canned: tuple[Canned, str], stream: bytes, expected: Answer, words: str) -> None:
    server, url = canned
    server.content_type, server.body = b"text/event-stream", stream
    verdict = await verdict_of(url, expected)
    assert verdict.words == words, verdict.detail


@pytest.mark.parametrize(("status", "body", "words"), [pytest.param(*row[1:], id=row[0]) for row in BODIES])
async def test_a_whole_answer_is_judged(canned: tuple[Canned, str], status: int, body: bytes, words: str) -> None:
    server, url = canned
    server.status, server.body = status, body
    verdict = await verdict_of(url, TEXT, Way.WHOLE)
    assert verdict.words == words, verdict.detail


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (Fault(kind="refuse"), Result.BROKEN),
        (Fault(kind="reset"), Result.BROKEN),
        (Fault(kind="cut", how="close"), Result.BROKEN),
        (Fault(kind="cut", how="end"), Result.BROKEN),
        (Fault(kind="hang"), Result.HANG),
        (Fault(kind="stall"), Result.HANG),
        (Fault(kind="keepalive_only"), Result.HANG),
        (Fault(kind="error_in_stream"), Result.ERROR),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
async def test_without_a_gateway_the_faults_reach_the_caller(fault: Fault, result: Result) -> None:
    async with SimulatedProvider(profile("first")) as provider:
        provider.faults.add(fault)
        verdict, _ = await fetch(provider.base_url, (), body_of(Shape.TEXT, PROVIDER_MODEL, Way.STREAM), 0.5)
        assert verdict.result is result, verdict.detail


async def test_the_whole_answers_are_asked_of_the_providers() -> None:
    async with SimulatedProvider(profile("first")) as first, SimulatedProvider(profile("second")) as second:
        answers = await references(Lane(first, second))
        assert len(answers[Shape.TEXT].text) > 150
        assert not answers[Shape.TEXT].text.isascii()
        ((name, arguments),) = answers[Shape.TOOLS].calls
        assert (name, set(json.loads(arguments))) == ("write_story", {"title", "story", "count", "place"})
        assert set(json.loads(answers[Shape.JSON].text)) == {"title", "story", "count", "place"}
        second.faults.add(Fault(kind="status", status=500))
        with pytest.raises(ValueError, match="second: text, whole: error 500"):
            await asyncio.wait_for(references(Lane(first, second)), 60)
