"""Server-sent events, taken apart (WHATWG HTML, section 9.2 "Server-sent events").

``EventSplitter`` cuts a byte stream, however it arrives, into blocks: one event each, verbatim, with the blank line
that ends it. ``parse_event`` reads a block. Put together again, the blocks and the rest are the stream, byte for byte,
without the byte order mark that it may begin with; elsewhere one is a character like others.
"""

from __future__ import annotations

import re

from msgspec import Struct

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""An event that grows larger is malformed: no chunk of a chat comes near, and a buffer needs a bound."""

_CR = 0x0D
BOM = b"\xef\xbb\xbf"
# A line ends in CRLF, LF or CR, and an event in two line ends. The CR of a CRLF is not a line end of its own; where it
# is the last byte so far, its LF comes as the first byte of the next block, where an empty line means nothing.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLargeError(ValueError):
    """An event exceeds ``MAX_EVENT_BYTES``."""


class Event(Struct, gc=False):
    """One event. ``data``: its data lines joined with LF; ``None`` where the block has none (comments, bare fields)."""

    data: bytes | None = None
    event: bytes = b""
    id: bytes | None = None
    retry_ms: int | None = None


class EventSplitter:
    """Cuts a stream into blocks; holds what is not yet a whole one."""

    __slots__ = ("_held", "_max_event_bytes", "begun")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._held = bytearray()
        self._max_event_bytes = max_event_bytes
        self.begun = False
        """The first block is out: no byte order mark can come any more."""

    @property
    def rest(self) -> bytes:
        """The bytes after the last whole event. What a stream ends in without a blank line stands here."""
        if not self._held:
            return b""
        return bytes(self._held) if self.begun else bytes(self._held).removeprefix(BOM)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes.

        Raises
        ------
        EventTooLargeError
            What is held has grown too large, with no end in sight.
        """
        held = self._held
        if held:
            unseen = max(len(held) - 3, 0)  # no event ends in what was held, but the end of one may begin in it
            held += data
            if _EVENT_END.search(held, unseen) is None:
                self._check_size()
                return []
            data = bytes(held)
            held.clear()
        blocks: list[bytes] = []
        start = 0
        if _CR in data:
            for match in _EVENT_END.finditer(data):
                blocks.append(data[start : match.end()])
                start = match.end()
        else:
            find = data.find
            while (end := find(b"\n\n", start)) >= 0:
                blocks.append(data[start : end + 2])
                start = end + 2
        if start < len(data):
            held += data[start:]
            self._check_size()
        if not self.begun and blocks:
            self.begun = True
            blocks[0] = blocks[0].removeprefix(BOM)
        return blocks

    def _check_size(self) -> None:
        if len(self._held) > self._max_event_bytes:
            raise EventTooLargeError(f"an event is larger than {self._max_event_bytes} bytes")


def parse_event(block: bytes) -> Event:
    """Read one block. Lines that are no field are ignored, as the standard says."""
    event = Event()
    for line in _LINE_END.split(block):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            event.data = value if event.data is None else event.data + b"\n" + value
        elif name == b"event":
            event.event = value
        elif name == b"id" and b"\0" not in value:
            event.id = value
        elif name == b"retry" and value.isdigit():
            event.retry_ms = int(value)
    return event
