"""How faults show on the wire: errors, cuts, silence and garbage, written where an answer should be."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from email.utils import formatdate

from amaru.http1.request import Request
from amaru.simulation.faults import Fault

KEEPALIVE_S = 0.05
"""Between two keep-alive comments of a provider that sends nothing else (real ones take seconds; tests have none)."""

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
_HTML = b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n"


class Broken(Exception):
    """The answer has ended as a fault wanted; nothing more may be written."""


def reset(request: Request) -> None:
    """Close the connection by RST, at once."""
    reset_transport(request.connection.transport)
    request.abort()  # the answer is settled: nothing is left unfinished by mistake


def reset_transport(transport: asyncio.Transport) -> None:
    """Close ``transport`` by RST: a socket that does not linger drops what it holds and says so."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def end_by(request: Request, how: str) -> Broken:
    """End the answer the way ``how`` says; raise what is returned."""
    if how == "rst":
        reset(request)
    elif how == "end" and request.started:
        request.end()
    else:
        request.abort()
    return Broken()


async def silence(seconds: float | None) -> None:
    """Say nothing for ``seconds``; ``None``: until the other side gives up, which cancels the caller."""
    if seconds is None:
        await asyncio.get_running_loop().create_future()
    else:
        await asyncio.sleep(seconds)


async def break_head(request: Request, fault: Fault) -> None:
    """Strike before or in the middle of the head; returns only where the answer goes on after a pause.

    Raises
    ------
    Broken
        The answer is over.
    """
    if fault.kind == "status":
        content_type = (b"content-type", b"text/plain") if fault.error_shape == "text" else JSON
        request.respond(fault.error()[0], [content_type, *retry_after_headers(fault)], fault.error_body())
        raise Broken
    if fault.point == "half_head":
        request.connection.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-str")
        if fault.kind == "hang":
            await silence(fault.stall_s)
        raise end_by(request, fault.how or "rst")
    if fault.kind == "hang":
        await silence(fault.stall_s)
        return
    raise end_by(request, fault.how or "rst")


async def break_stream(request: Request, fault: Fault, event: bytes) -> bool:
    """Strike between two events of a stream, in the place of ``event``.

    Returns
    -------
    bool
        True where something else went out in the place of ``event``; False where the stream only paused.

    Raises
    ------
    Broken
        The stream is over.
    """
    match fault.kind:
        case "reset" | "cut":
            raise end_by(request, fault.how or "rst")
        case "stall":
            await silence(fault.stall_s)
            return False
        case "error_in_stream" | "error_in_200":
            await request.write(b"data: " + fault.error_body() + b"\n\n")
            raise end_by(request, fault.how or "end")
        case "garbage":
            await request.write(_garbage_event(fault, event))
        case "truncated_utf8":
            await request.write(_cut_in_character(event))
        case "keepalive_only":
            while True:
                await request.write(b": keep-alive\n\n")
                await asyncio.sleep(KEEPALIVE_S)
        case "no_done":
            raise end_by(request, fault.how or "end")
    if fault.how is not None or fault.point == "done":
        raise end_by(request, fault.how or "end")
    return True


async def break_body(request: Request, fault: Fault, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole answer as the fault has it.

    Raises
    ------
    Broken
        The answer is over; always, unless it is whole after a pause.
    """
    match fault.kind:
        case "error_in_200":
            request.respond(200, headers, fault.error_body())
        case "garbage":
            content_type = (b"content-type", b"text/html") if fault.garbage == "html" else JSON
            rest = [field for field in headers if field[0] != b"content-type"]
            request.respond(200, [content_type, *rest], _garbage_body(fault, body))
        case "truncated_utf8":
            request.respond(200, headers, _with_half_a_character(body))
        case "keepalive_only":
            request.start(200, headers)
            while True:
                await request.write(b"\n")
                await asyncio.sleep(KEEPALIVE_S)
        case _:
            await _part_of_body(request, fault, headers, body)
    raise Broken


async def _part_of_body(request: Request, fault: Fault, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    sent = {"first_byte": 0, "mid": len(body) // 2}.get(fault.point, len(body) - 1)
    if fault.kind in ("cut", "reset") and fault.how == "end":
        request.respond(200, headers, body[:sent])
        raise Broken
    request.start(200, headers, content_length=len(body))
    request.write_nowait(body[:sent])
    if fault.kind != "stall":
        raise end_by(request, fault.how or "rst")
    await silence(fault.stall_s)
    request.end(body[sent:])


def retry_after_headers(fault: Fault) -> list[tuple[bytes, bytes]]:
    """The Retry-After of a fault, in its form: seconds, an HTTP date (RFC 9110), or OpenAI's ``retry-after-ms``."""
    match fault.retry_after:
        case "seconds":
            return [(b"retry-after", f"{fault.retry_after_s:g}".encode())]
        case "date":
            # A date is of the world, not of the simulation: clients compare it with their own clock.
            return [(b"retry-after", formatdate(time.time() + fault.retry_after_s, usegmt=True).encode())]
        case "ms":
            return [(b"retry-after-ms", f"{fault.retry_after_s * 1000:.0f}".encode())]
    return []


def _garbage_event(fault: Fault, event: bytes) -> bytes:
    match fault.garbage:
        case "empty":
            return b"data:\n\n"
        case "missing_field":
            return b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk"}\n\n'
        case "null_choices":
            return b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk","choices":null}\n\n'
        case "html":
            return b"data: " + _HTML.replace(b"\n", b"") + b"\n\n"
    return event[: max(8, len(event) // 2)].rstrip(b"\n") + b"\n\n"


def _garbage_body(fault: Fault, body: bytes) -> bytes:
    match fault.garbage:
        case "empty":
            return b""
        case "missing_field":
            return b'{"id":"chatcmpl-x","object":"chat.completion"}'
        case "null_choices":
            return b'{"id":"chatcmpl-x","object":"chat.completion","choices":null}'
        case "html":
            return _HTML
    return body[: len(body) // 2]


def _cut_in_character(event: bytes) -> bytes:
    """An event whose text ends in the first of two bytes of a character."""
    broken = _with_half_a_character(event)
    return broken if broken != event else b'data: {"choices":[{"index":0,"text":"caf\xc3"}]}\n\n'


def _with_half_a_character(answer: bytes) -> bytes:
    """``answer`` with the first of two bytes of a character in its first text, be it content or a call's arguments."""
    for begin in (b'"content":"', b'"arguments":"', b'"text":"'):
        if begin in answer:
            return answer.replace(begin, begin + b"caf\xc3", 1)
    return answer
