"""What the workers of one machine tell each other: messages over Unix sockets, in batches, each way in order.

One worker, the owner, does what only one may do. The others hand it what their attempts showed, and take from it how
offers are steered and what the policy has learned. A frame is its length in four bytes, big-endian, and a message in
msgpack. Nothing here waits: where one end does not read, messages are dropped, and whoever sent them counts them.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import msgspec

from amaru.domain import Experience, Workload
from amaru.health.observation import Observation
from amaru.protocols.adapting import Adaptation
from amaru.routing.steering import Steering
from amaru.storage import PolicyState, StoreStatus
from amaru.telemetry.counts import Tally

MOST_UNSENT_BYTES = 16 * 1024 * 1024
"""Of messages that the other end has not read; beyond it they are dropped."""
MOST_BYTES = 64 * 1024 * 1024
"""Of one message: a policy's state is the largest."""


class Lesson(msgspec.Struct, frozen=True, gc=False):
    """What one attempt is learned from; ``offer`` is an id."""

    workload: Workload
    offer: str
    experience: Experience


class Hello(msgspec.Struct, tag=True, frozen=True):
    """The first message of either side: which worker it is."""

    worker: int
    pid: int


class Shown(msgspec.Struct, tag=True, frozen=True):
    """What attempts showed of their offers."""

    observations: list[Observation]
    lessons: list[Lesson]


class Readable(msgspec.Struct, tag=True, frozen=True):
    """Unreadable answers of an offer would be readable so."""

    offer: str
    adaptation: Adaptation


class Sums(msgspec.Struct, frozen=True):
    """Counts that are no metrics' own, and add up."""

    written: int = 0
    """Decisions, as the next three."""
    dropped_queue_full: int = 0
    dropped_unstorable: int = 0
    dropped_unwritten: int = 0
    log_lines_dropped: int = 0
    not_handed_over: int = 0
    """What the owner did not get."""

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """The sum of both; with -1, what this has more."""
        return Sums(*(getattr(self, name) + sign * getattr(other, name) for name in self.__struct_fields__))


class Told(msgspec.Struct, tag=True, frozen=True):
    """The answer to ``Ask``: all that ended before is recorded and was handed over. Counts are since the worker's
    start, or that of the owner where it is the later."""

    number: int
    pid: int
    tally: Tally
    store: StoreStatus
    in_flight: int
    counts: Sums


class Orders(msgspec.Struct, tag=True, frozen=True):
    """How everything is steered: what is not named is as configured."""

    steerings: dict[str, Steering]
    """By offer, as the next."""
    adaptations: dict[str, Adaptation]
    addresses: dict[str, int]
    """By provider."""
    exploration: float


class Learned(msgspec.Struct, tag=True, frozen=True):
    """What the policy has learned by now."""

    policy: PolicyState


class Ask(msgspec.Struct, tag=True, frozen=True):
    """Hand over and tell all that you know."""

    number: int


Message = Hello | Shown | Readable | Told | Orders | Learned | Ask

_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Link(asyncio.Protocol):
    """One end of a connection between two workers.

    Parameters
    ----------
    received, lost
        Called with the link and each message, in order; and when the other end is gone. One that cannot be read ends
        the connection: the other end is of another version.
    """

    def __init__(self, received: Callable[[Link, Message], None], lost: Callable[[Link], None]) -> None:
        self.worker = -1
        """Which is at the other end, once it has said so."""
        self._received = received
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def send(self, message: Message) -> bool:
        """Hand a message on; False where it was dropped, since the other end is gone or does not read."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            return False
        content = _encode(message)
        transport.write(_LENGTH.pack(len(content)) + content)
        return True

    def close(self) -> None:
        """End the connection, once what was sent is on its way."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``, as the next two."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no instances of it

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > MOST_BYTES:
                self.close()
                return
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            try:
                message = _decode(bytes(buffer[at + _LENGTH.size : end]))
            except msgspec.MsgspecError:
                self.close()
                return
            self._received(self, message)
            at = end
        del buffer[:at]

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._lost(self)
