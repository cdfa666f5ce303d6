"""A whole answer told as a stream, for callers who asked for a stream of an offer that does better without.

The chunks are OpenAI's: the role with everything that is not content, the content in pieces, the finish reason, and the
usage where the caller asked for it. Nothing of the answer is lost: fields of the answer and of its choices that we do
not know go out once, with the first chunk and with the finish reason.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from amaru.domain import Kind
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.stream import Sent, StreamParser

PIECE_CHARS = 16 * 1024
"""Content of one chunk; clients bound the size of an event."""

_REPEATED = ("id", "created", "model", "system_fingerprint", "service_tier")
"""What OpenAI says in each chunk of an answer."""
_OWN = frozenset(("object", "choices", "usage", *_REPEATED))
_NULL = Raw(b"null")
_Fields = dict[str, Raw]

_read = msgspec.json.Decoder(_Fields).decode
_read_many = msgspec.json.Decoder(list[_Fields]).decode
_write = msgspec.json.encode


def as_whole(request: OpenAIRequest) -> OpenAIRequest:
    """The same request without ``stream``: all else, the caller's other fields too, is as it was."""
    fields = {name: value for name, value in request.fields.items() if name not in ("stream", "stream_options")}
    return msgspec.structs.replace(request, stream=False, include_usage=False, fields=fields)


def chunks_of(kind: Kind, body: bytes, *, include_usage: bool) -> bytes:
    """The events of a stream that says what ``body`` says, an answer that ``parse_answer`` has read; no ``[DONE]``.

    Raises
    ------
    ValueError
        A part of it that ``parse_answer`` passes over is none that a chunk could hold.
    """
    if b"\n" in body or b"\r" in body:  # an event's data is one line
        body = msgspec.json.format(body, indent=-1)
    answer = _read(body)
    head: dict[str, object] = {name: answer[name] for name in _REPEATED if name in answer}
    head["object"] = "chat.completion.chunk" if kind is Kind.CHAT else "text_completion"
    usage = answer.get("usage", _NULL) if include_usage else None
    choices = [_pieces(kind, choice, place) for place, choice in enumerate(_read_many(answer["choices"]))]
    events: list[bytes] = []
    extras = {name: value for name, value in answer.items() if name not in _OWN}
    for pieces in choices:
        for piece in pieces:
            # As OpenAI has it: whoever asked for usage finds the field in each chunk, empty in all but the last.
            told: dict[str, object] = {} if usage is None else {"usage": None}
            events.append(_event({**head, **extras, "choices": [piece], **told}))
            extras = {}
    if usage is not None and bytes(usage) != b"null":
        events.append(_event({**head, "choices": [], "usage": usage}))
    return b"".join(events)


def sent_by(events: bytes) -> Sent:
    """What of an answer was handed on when ``events``, all of it, were."""
    parser = StreamParser(include_usage=True)
    parser.feed(events)
    parser.let_go()
    return parser.sent


def _event(chunk: dict[str, object]) -> bytes:
    return b"data: %b\n\n" % _write(chunk)


def _pieces(kind: Kind, choice: _Fields, place: int) -> list[dict[str, object]]:
    """One choice of an answer as the choices of its chunks."""
    index = choice.pop("index", _NULL)
    if bytes(index) == b"null":
        index = Raw(b"%d" % place)
    logprobs = choice.pop("logprobs", _NULL)
    reason = choice.pop("finish_reason", _NULL)
    deltas: list[dict[str, object]]
    if kind is Kind.CHAT:
        opening, content = _delta(_read(choice.pop("message")))
        deltas = [{"delta": opening}]
        deltas += [{"delta": {"content": piece}} for piece in _cut(content)]
        closing: dict[str, object] = {"delta": {}}
    else:
        deltas = [{"text": piece} for piece in _cut(msgspec.json.decode(choice.pop("text"), type=str))]
        closing = {"text": ""}
    pieces = [{"index": index, **delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    pieces.append({"index": index, **closing, **choice, "logprobs": None, "finish_reason": reason})
    # The log-probabilities belong to content; of an answer without any they still are a part.
    carrier = min(1, len(pieces) - 1) if kind is Kind.CHAT else 0
    pieces[carrier]["logprobs"] = logprobs
    return pieces


def _delta(message: _Fields) -> tuple[dict[str, object], str]:
    """The opening delta of a message, and the content that follows it."""
    delta: dict[str, object] = dict(message)
    if bytes(message.get("role", _NULL)) == b"null":
        delta["role"] = "assistant"
    content = message.get("content", _NULL)
    text = ""
    if bytes(content).startswith(b'"'):  # typed parts of content stay as they are
        text = msgspec.json.decode(content, type=str)
        delta["content"] = ""
    calls = message.get("tool_calls")
    if calls is not None and bytes(calls) != b"null":
        delta["tool_calls"] = [
            {"index": place, **{name: value for name, value in call.items() if name != "index"}}
            for place, call in enumerate(_read_many(calls))
        ]
    return delta, text


def _cut(text: str) -> list[str]:
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]
