"""Framing under any split, any cut, any damage: the same answer, or a failure, and never a hang or a crash."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_line import HeldLoop, begin, connection_on

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.h1_connection import H1Connection

_token = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: b"x-" + name.encode())
_value = st.text("abcXYZ019 ;,=", max_size=30).map(lambda value: value.strip().encode())
_framing = st.sampled_from(["length", "chunked", "eof"])


def _render(status: int, headers: list[tuple[bytes, bytes]], body: list[bytes], framing: str, interim: bool) -> bytes:
    whole = b"".join(body)
    lines = [b"%b: %b\r\n" % header for header in headers]
    if framing == "length":
        lines.append(b"Content-Length: %d\r\n" % len(whole))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked\r\n")
        whole = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in body if part) + b"0\r\n\r\n"
    first = b"HTTP/1.1 103 Early\r\nx-early: 1\r\n\r\n" if interim else b""
    return first + b"HTTP/1.1 %d Reason\r\n" % status + b"".join(lines) + b"\r\n" + whole


async def _play(pieces: list[bytes]) -> tuple[H1Connection, bytes, Failure | None]:
    connection, _, _ = connection_on(HeldLoop())
    begin(connection)
    for piece in pieces:
        connection.data_received(piece)
    connection.eof_received()
    connection.connection_lost(None)
    body = b""
    try:
        while connection.status and (part := await connection.read_some()):
            body += part
    except Failure as failure:
        return connection, body, failure
    return connection, body, connection.failure


def _run(pieces: list[bytes]) -> tuple[H1Connection, bytes, Failure | None]:
    return _LOOP.run_until_complete(asyncio.wait_for(_play(pieces), 60))


_LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _close_loop() -> Any:
    yield
    _LOOP.close()


@settings(max_examples=150, deadline=None)
@given(
    status=st.sampled_from([200, 201, 400, 429, 500, 529]),
    headers=st.lists(st.tuples(_token, _value), max_size=5),
    body=st.lists(st.binary(max_size=40), max_size=5),
    framing=_framing,
    interim=st.booleans(),
    data=st.data(),
)
def test_a_response_is_the_same_however_it_is_split(status, headers, body, framing, interim, data):
    wire = _render(status, headers, body, framing, interim)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    bounds = [0, *cuts, len(wire)]
    pieces = [wire[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    connection, got, failure = _run(pieces)
    assert failure is None
    assert (connection.status, got) == (status, b"".join(body))
    assert connection.ended_by_eof == (framing == "eof")
    expected: dict[bytes, bytes] = {}
    for name, value in headers:
        expected[name] = expected[name] + b", " + value if name in expected else value
    assert {name: value for name, value in connection.headers.items() if name.startswith(b"x-")} == expected


@settings(max_examples=150, deadline=None)
@given(
    body=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5),
    framing=st.sampled_from(["length", "chunked"]),
    data=st.data(),
)
def test_a_response_that_is_cut_anywhere_is_a_failure(body, framing, data):
    wire = _render(200, [], body, framing, interim=False)
    kept = data.draw(st.integers(0, len(wire) - 1))
    connection, got, failure = _run([wire[:kept]])
    assert failure is not None
    assert b"".join(body).startswith(got), "what was given out is what was sent"
    assert failure.kind is (FailureKind.STREAM_CUT if connection.status else FailureKind.RESET)


@settings(max_examples=200, deadline=None)
@given(garbage=st.lists(st.binary(min_size=1, max_size=60), max_size=6), prefix=st.sampled_from([b"", b"HTTP/1.1 "]))
def test_garbage_is_a_failure_and_never_a_hang(garbage, prefix):
    connection, _, failure = _run([prefix, *garbage] if prefix else garbage)
    assert failure is not None or connection.status, "no answer came of it, or one that a server could have meant"


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4), framing=_framing)
def test_damage_ends_in_an_answer_or_a_failure(flips, framing):
    wire = bytearray(_render(200, [(b"x-a", b"1")], [b"hello", b"world"], framing, interim=True))
    for place, byte in flips:
        wire[place % len(wire)] = byte
    connection, _, failure = _run([bytes(wire)])
    assert failure is not None or connection.status
