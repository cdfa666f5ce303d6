"""Bytes of HTTP/1.1 heads (RFC 9110, RFC 9112): status lines, fields, request targets, the server's own errors."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

import msgspec

Fields = Sequence[tuple[bytes, bytes]]
"""Header fields in order, as (name, value)."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_CONTROLS = frozenset(map(chr, (*range(0x20), 0x7F)))


class Heads(dict[int, bytes]):
    """The first lines of an answer by status: status line and Date, encoded once a second rather than per answer."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._date = b""

    def set_time(self, now_s: float) -> None:
        """Take over the wall-clock time ``now_s`` (Unix seconds) for the Date of the answers to come."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True).encode("ascii")
            self.clear()

    def __missing__(self, status: int) -> bytes:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is no status of a final answer: use 200 to 599")
        line = f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ndate: ".encode("ascii") + self._date + b"\r\n"
        self[status] = line
        return line


class Block(bytes):
    """Header lines, each ``name: value\\r\\n``, encoded by a caller that vouches for them; sent as they are."""


def encode_fields(fields: Fields | Block) -> bytes:
    """Encode header fields as lines.

    Raises
    ------
    ValueError
        A name or value holds CR, LF or NUL: whoever controls it could add fields or a second answer. The message
        names the field, never its value.
    """
    if isinstance(fields, Block):
        return fields
    block = b"".join([name + b": " + value + b"\r\n" for name, value in fields])
    count = len(fields)
    if block.count(b"\n") != count or block.count(b"\r") != count or b"\0" in block:
        for name, value in fields:
            if any(byte in part for part in (name, value) for byte in (b"\r", b"\n", b"\0")):
                raise ValueError(f"the header {name!r} holds CR, LF or NUL, which would break the answer's framing")
    return block


def parse_target(target: bytes) -> tuple[str, bytes]:
    """Split a request target into the percent-decoded path and the raw query.

    Takes origin-form, absolute-form (its authority is dropped) and ``*`` (RFC 9112, section 3.2); a fragment is cut.

    Raises
    ------
    ValueError
        The path is not UTF-8 or holds a control character (also an encoded one): no resource has such a name, and it
        could corrupt a log line or a terminal.
    """
    if b"#" in target:
        target = target.partition(b"#")[0]
    raw, _, query = target.partition(b"?")
    if not raw.startswith(b"/") and raw != b"*":
        raw = b"/" + raw.partition(b"://")[2].partition(b"/")[2]
    if b"%" not in raw:
        return raw.decode("utf-8"), query  # the parser lets no raw control character through
    path = unquote_to_bytes(raw).decode("utf-8")
    if not _CONTROLS.isdisjoint(path):
        raise ValueError("the path holds a control character")
    return path, query


class Refusal(msgspec.Struct, frozen=True):
    """An answer that the server gives itself, without asking the handler; the connection closes after it."""

    status: int
    code: str
    message: str

    def body(self) -> bytes:
        """Return the JSON body in the shape of OpenAI's errors."""
        return error_body(self.status, self.code, self.message)


def error_body(status: int, code: str, message: str) -> bytes:
    """Encode an error in the shape of OpenAI's: ``{"error": {"message", "type", "param", "code"}}``."""
    type_ = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": None, "code": code}})
