"""Messages between workers: whole, in order, bounded."""

from __future__ import annotations

import asyncio
import struct

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Capability, Experience, Kind, Workload
from amaru.health.observation import Observation, Sample
from amaru.mesh.bus import MOST_BYTES, Ask, Hello, Lesson, Link, Message, Orders, Shown
from amaru.routing.steering import Steering


class Pipe(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, waiting: int = 0) -> None:
        super().__init__()
        self.written = b""
        self.waiting = waiting
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def link(received: list[Message], pipe: Pipe) -> Link:
    made = Link(lambda _, message: received.append(message), lambda _: None)
    made.connection_made(pipe)
    return made


WORKLOAD = Workload(tenant="t", kind=Kind.CHAT, resource="m", needs=Capability.STREAM | Capability.TOOLS)
MESSAGES: list[Message] = [
    Hello(1, 2),
    Shown(
        [Observation(offer="a/m", provider="a", at=1.0, ok=True, sample=Sample(shape=2**64 - 1))],
        [Lesson(WORKLOAD, "a/m", Experience(at=1.0, ok=True, latency_ms=5.0))],
    ),
    Orders({"a/m": Steering(drained=True, at_once=float("inf"))}, {}, {"a": 1}, 0.05),
    Ask(7),
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.integers(1, 40))
def test_messages_come_whole_and_in_order_however_they_are_cut(messages: list[Message], size: int) -> None:
    pipe, received = Pipe(), list[Message]()
    sender = link([], pipe)
    for message in messages:
        assert sender.send(message)
    reader = link(received, Pipe())
    for at in range(0, len(pipe.written), size):
        reader.data_received(pipe.written[at : at + size])
    assert received == messages


def test_what_cannot_be_read_ends_the_connection() -> None:
    unknown = msgspec.msgpack.encode({"type": "x"})
    for data in (
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", MOST_BYTES + 1),
        struct.pack(">I", len(unknown)) + unknown,
    ):
        pipe, received = Pipe(), list[Message]()
        link(received, pipe).data_received(data)
        assert pipe.closed
        assert received == []


def test_what_the_other_end_does_not_read_is_dropped() -> None:
    pipe = Pipe(waiting=2**30)
    assert not link([], pipe).send(Ask(1))
    assert pipe.written == b""


def test_nothing_is_sent_to_who_is_gone() -> None:
    pipe = Pipe()
    made = link([], pipe)
    made.connection_lost(None)
    assert not made.send(Ask(1))
