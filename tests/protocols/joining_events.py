"""Events of streamed answers for the tests of joining, and what a caller reads in them."""

from __future__ import annotations

from typing import Any

import msgspec

from amaru.protocols.joining import Joint
from amaru.protocols.sse import EventSplitter, parse_event
from amaru.protocols.stream import Sent


def event(**fields: Any) -> bytes:
    """One event of the second provider's stream."""
    return b"data: " + msgspec.json.encode({"id": "c-2", "model": "m-2", **fields}) + b"\n\n"


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, index: int = 0, **fields: Any) -> bytes:
    """A chunk of a chat."""
    return event(choices=[{"index": index, "delta": delta or {}, "finish_reason": reason}], **fields)


def say(text: str, index: int = 0) -> bytes:
    """A chunk of content."""
    return chunk({"content": text}, index=index)


def think(text: str) -> bytes:
    """A chunk of reasoning."""
    return chunk({"reasoning_content": text})


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk(reason="stop")
HEAD = event(id="c-1", model="m-1", object="chat.completion.chunk", created=1, choices=[{"index": 0, "delta": {}}])
"""The first event that the caller got, from the first provider."""
IDENTITY = {"id": "c-1", "model": "m-1", "object": "chat.completion.chunk", "created": 1}


def sent(content: str = "", reasoning: str = "", **fields: Any) -> Sent:
    """What the caller has, in one event for each kind of text."""
    return Sent(content, reasoning, int(bool(content)), int(bool(reasoning)), **fields)


def joint(before: Sent, *, continues: bool, head: bytes = HEAD, **fields: Any) -> Joint:
    """What puts a second stream behind ``before``."""
    return Joint(head, before, continues=continues, retell=fields.pop("retell", lambda usage: usage))


def continued(content: str, **fields: Any) -> Joint:
    """Of a stream that was asked to go on from ``content``."""
    return joint(sent(content), continues=True, **fields)


def anew(content: str = "", reasoning: str = "", **fields: Any) -> Joint:
    """Of a stream that was begun anew."""
    return joint(sent(content, reasoning), continues=False, **fields)


def whole(joined: Joint, *events: bytes) -> bytes:
    """What the caller gets of a stream of these events."""
    return b"".join([joined.take(each) for each in events]) + joined.end()


def read(events: bytes) -> list[dict[str, Any]]:
    """The objects in whole events."""
    blocks = EventSplitter().feed(events)
    return [msgspec.json.decode(data) for data in (parse_event(block).data for block in blocks) if data is not None]


def deltas(events: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for told in read(events) for choice in told["choices"]]


def content(events: bytes, name: str = "content") -> str:
    """The text of whole events, put together."""
    return "".join(delta.get(name) or "" for delta in deltas(events))


def reasons(events: bytes) -> list[str]:
    return [choice["finish_reason"] for told in read(events) for choice in told["choices"] if choice["finish_reason"]]
