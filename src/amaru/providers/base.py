"""What the mesh calls: one ``Provider`` per configured provider, and the two shapes of its replies.

Instants are ``loop.time()`` seconds of the running event loop, so that the transports' watchdogs can use them as they
are. Every way in which a provider can let the caller down is raised as ``errors.Failure``, and as nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import msgspec

from amaru.domain import Offer, Usage
from amaru.protocols.adapting import Adaptation, Adapted
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.stream import Sent
from amaru.providers.unread import Unread

TAIL_S = 1.0
"""How long a stream whose every choice has finished may still take to send its usage and ``[DONE]``."""

MAX_SAMPLE_BYTES = 16 * 1024
"""Of an answer whose shape is looked at; see ``WholeReply.sample``."""
MAX_STREAM_SAMPLE_BYTES = 4 * 1024
"""Of a streamed one: its events repeat their shape, and each costs as much to read as a short answer."""


class Timing(msgspec.Struct, frozen=True, gc=False):
    """The limits of one call.

    ``first_token_at`` bounds a streamed answer up to its first content, ``answer_at`` a whole answer to its last byte;
    ``deadline_at`` is the request's own and bounds both, and the stream to its end.
    """

    first_token_at: float
    answer_at: float
    idle_s: float
    """Longest silence between two events of a stream; comments and keep-alives do not break it."""
    deadline_at: float
    tail_s: float = TAIL_S


class Facts(msgspec.Struct, gc=False):
    """What an answer told about itself. Of a stream: what it has told so far."""

    model: str | None = None
    id: str | None = None
    """By which its provider knows it."""
    usage: Usage | None = None
    """As the provider reported it; ``None`` where it did not, or not yet."""
    finish_reasons: tuple[str, ...] = ()
    """One for each finished choice, by choice index."""
    output_text: list[str] = []
    """The generated text in pieces, for counting where no usage came; never to be logged or stored (law 4)."""
    output_chars: int = 0
    """Length of all generated text, also of what ``output_text`` no longer holds."""
    first_token_at: float | None = None
    """Instant of the first content, or of the end of an answer without any; ``None`` for whole answers."""
    longest_gap_s: float | None = None
    """Of a stream: the longest wait for its next event since the first content; ``None``: there was none."""
    bytes_received: int = 0


class WholeReply(msgspec.Struct, frozen=True, gc=False):
    """A whole answer: the provider's bytes as they came, checked to be an answer."""

    status: int
    body: bytes
    content_type: bytes
    facts: Facts

    def sample(self) -> tuple[bytes, bool]:
        """What the shape of the answer can be read from, and whether it is all of it; of one too long, nothing."""
        return (self.body, True) if len(self.body) <= MAX_SAMPLE_BYTES else (b"", False)


class StreamReply(ABC):
    """A streamed answer whose first content has arrived: whatever failed before was raised by ``Provider.call``.

    Forwarded bytes are whole events, verbatim. ``[DONE]`` is not among them: it is written by whoever ends the stream
    towards the caller, so that nothing can follow it and a broken stream cannot carry one.
    """

    __slots__ = ()

    first: bytes
    """The events up to the first content, and those that arrived with it; empty where that content is held back."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What the stream has told so far."""

    @property
    @abstractmethod
    def sent(self) -> Sent:
        """What of the answer was handed on so far."""

    def sample(self) -> tuple[bytes, bool]:
        """What the shape of the answer can be read from, as far as it has come: its first events and its last ones, at
        most ``MAX_STREAM_SAMPLE_BYTES``; and whether these are all. Never to be logged or stored (law 4)."""
        return b"", False

    @abstractmethod
    async def next(self) -> bytes:
        """The events that came next, one or more; ``b""`` at the stream's whole end, and from then on.

        Raises
        ------
        Failure
            ``STREAM_CUT``, ``STREAM_STALLED``, ``MALFORMED_EVENT``, or by its code the error object that the provider
            sent. The connection is closed by then.
        """

    @abstractmethod
    def close(self) -> None:
        """Abandon the stream: the provider's call is cancelled if it still runs. Idempotent."""


class Provider(Protocol):
    """One provider, reached over its own transport."""

    @property
    def id(self) -> str:
        """Its name in the configuration."""

    async def call(
        self, offer: Offer, request: OpenAIRequest, timing: Timing, *, whole: bool = False
    ) -> WholeReply | StreamReply:
        """Ask ``offer`` to serve ``request``.

        For a stream this returns once the first content is there, so that every failure before it can be retried
        unseen. Raises ``Failure``; a cancelled call aborts the provider's connection.

        ``whole``: a stream is asked for without ``stream``, within ``timing.answer_at``, and the reply is a stream all
        the same, made of the whole answer.
        """

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        """From now on, rewrite the answers of the offer of that id as ``adaptation`` has it; gives back the former.

        ``None``: they are handed on as they come. Calls that have begun keep what they began with.
        """

    def adapted(self, offer: str) -> Adapted | None:
        """How the answers of that offer are rewritten, and how many needed it; ``None``: they are not."""

    def unread(self, offer: str) -> tuple[Unread, ...]:
        """The latest answers of that offer that could not be read, in which adaptations may be found."""

    async def aclose(self) -> None:
        """Close every connection."""
