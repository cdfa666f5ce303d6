"""OpenAI's answers, field by field, and the other names and places in which providers are known to have put each.

The names come from the answers of Anthropic (``stop_reason``, ``input_tokens``), Gemini (``candidates``,
``finishReason``, ``usageMetadata``), Cohere (``generations``), Hugging Face's TGI (``generated_text``), Ollama
(``response``, ``done_reason``), OpenAI's Responses API (``output_text``, ``output``), and from wrappers around them.
Names are compared without case, punctuation and a plural's last letter: ``finishReason`` is ``finish_reason``.
"""

from __future__ import annotations

import enum
import re

import msgspec
from msgspec import Raw, Struct

from amaru.domain import Kind

MAX_NAME_CHARS = 40
"""Of another name for a field; names are told to people."""
MAX_COUNT = 1_000_000_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_REASON = re.compile(rb'"[A-Za-z][A-Za-z_ -]{0,39}"')

Fields = dict[str, Raw]
read_fields = msgspec.json.Decoder(Fields).decode
read_items = msgspec.json.Decoder(list[Raw]).decode
_read_numbers = msgspec.json.Decoder(list[float]).decode

REASONS: dict[bytes, bytes] = {
    b'"%b"' % theirs: b'"%b"' % ours
    for ours, all_theirs in {
        b"stop": (b"end_turn", b"stop_sequence", b"eos", b"eos_token", b"complete", b"completed", b"end"),
        b"length": (b"max_tokens", b"max_length", b"token_limit"),
        b"tool_calls": (b"tool_use", b"tool_call"),
        b"content_filter": (b"safety", b"content_filtered"),
    }.items()
    for theirs in (ours, *all_theirs)
}
"""Words for why an answer ended, in lower case, and OpenAI's. A word that is not here is handed on as it is."""


class Holds(enum.Enum):
    """What a field holds, by which a value under another name is recognised."""

    ITEMS = "items"  # a list of objects
    MESSAGE = "message"  # an object, or a text that is all of its content
    OBJECT = "object"
    TEXT = "text"
    REASON = "reason"  # one word
    COUNT = "count"
    CALLS = "calls"  # a list of objects that each name a function
    VECTOR = "vector"  # numbers, or their base64
    NAME = "name"


class Field(Struct, frozen=True, gc=False):
    """One field of an answer, and what may stand for it."""

    name: str
    holds: Holds
    others: tuple[str, ...] = ()
    default: bool = False
    """An answer without it can be given one; which, is known where the answer is rewritten."""
    core: bool = False
    """Without it there is no answer: where two values could be it, nothing is adapted."""
    below: Level | None = None
    """The object, or each object of the list, that it holds."""


class Level(Struct, frozen=True, gc=False):
    """One object of an answer. ``path`` is where it stands, such as ``choices[].message``; empty at the top."""

    path: str
    fields: tuple[Field, ...]

    def place(self, name: str) -> str:
        """The path of one of its fields."""
        return f"{self.path}.{name}" if self.path else name

    def names(self) -> dict[str, Field]:
        """Each known name, as ``plain`` has it, and the field that it means."""
        return {plain(name): field for field in self.fields for name in (field.name, *field.others)}


def plain(name: str) -> str:
    """A name without case, punctuation and the ending of a plural; ``""`` for what cannot be one."""
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        return ""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s")


def absent(value: Raw | None) -> bool:
    """Whether a field is missing or null."""
    return value is None or bytes(value) == b"null"


def fits(holds: Holds, value: Raw, *, piece: bool) -> bool:
    """Whether ``value`` can be what the field holds; of a ``piece`` of a stream, less is asked.

    Raises
    ------
    ValueError, RecursionError
        It is no JSON.
    """
    data = bytes(value)
    match holds:
        case Holds.ITEMS:
            return (data == b"[]" and piece) or (data.startswith(b"[{") or _are_objects(data))
        case Holds.OBJECT:
            return data.startswith(b"{") and (piece or len(data) > 2)
        case Holds.MESSAGE:
            return data.startswith(b"{") or (data.startswith(b'"') and (piece or len(data) > 2))
        case Holds.TEXT | Holds.NAME:
            return data.startswith(b'"') and (piece or len(data) > 2)
        case Holds.REASON:
            return _REASON.fullmatch(data) is not None
        case Holds.COUNT:
            return data.isdigit() and len(data) <= 10 and int(data) <= MAX_COUNT
        case Holds.CALLS:
            return _are_objects(data) and all("function" in read_fields(call) for call in read_items(data))
        case Holds.VECTOR:
            return data.startswith(b'"') if not data.startswith(b"[") else bool(_read_numbers(data))


def _are_objects(data: bytes) -> bool:
    if not data.startswith(b"["):
        return False
    items = read_items(data)
    return bool(items) and all(bytes(item).startswith(b"{") for item in items)


def has_core(level: Level, fields: Fields, *, piece: bool) -> bool:
    """Whether an object holds what it cannot be without, under OpenAI's name.

    Raises
    ------
    ValueError, RecursionError
        A value is no JSON.
    """
    return all(
        (value := fields.get(field.name)) is not None and fits(field.holds, value, piece=piece)
        for field in level.fields
        if field.core
    )


def unwrapped(envelope: str, fields: Fields) -> Fields | None:
    """What stands in the field ``envelope``, with what stands beside it; ``None``: it holds no object.

    Raises
    ------
    ValueError, RecursionError
        The object is no JSON.
    """
    value = fields.get(envelope)
    if value is None or not bytes(value).startswith(b"{"):
        return None
    inside = {name: held for name, held in read_fields(value).items() if not absent(held) or name not in fields}
    return {**{name: held for name, held in fields.items() if name != envelope}, **inside}


# ---- the table ------------------------------------------------------------------------------------------------------

ENVELOPES = frozenset(("data", "result", "response", "output", "body", "payload", "answer", "completion"))
"""Names, as ``plain`` has them, of fields in which a whole answer was put, beside a status or a request's id."""

_TEXTS = ("text", "output_text", "generated_text", "response", "answer", "value", "body")
_USAGE = Level(
    "usage",
    (
        Field("prompt_tokens", Holds.COUNT, ("input_tokens", "prompt_token_count", "input_token_count", "tokens_in")),
        Field(
            "completion_tokens",
            Holds.COUNT,
            (
                "output_tokens",
                "completion_token_count",
                "output_token_count",
                "candidates_token_count",
                "generated_tokens",
                "tokens_out",
            ),
        ),
        Field("total_tokens", Holds.COUNT, ("total_token_count", "tokens_total"), default=True),
    ),
)
_REASON_FIELD = Field(
    "finish_reason",
    Holds.REASON,
    ("stop_reason", "done_reason", "end_reason", "completion_reason", "reason", "finished"),
)
_INDEX = Field("index", Holds.COUNT, default=True)
_HEAD = (
    Field("id", Holds.NAME, default=True),
    Field("object", Holds.NAME, default=True),
    Field("created", Holds.COUNT, ("created_at", "timestamp"), default=True),
    Field("model", Holds.NAME, ("model_name", "model_id", "model_version"), default=True),
)
_LISTS = ("outputs", "results", "generations", "completions", "candidates", "alternatives")


def _usage(*, whole: bool) -> Field:
    return Field("usage", Holds.OBJECT, ("token_usage", "usage_metadata", "tokens"), default=whole, below=_USAGE)


def _message(name: str, *others: str) -> Field:
    path = f"choices[].{name}"
    fields = (
        Field("content", Holds.TEXT, _TEXTS, core=True),
        Field("tool_calls", Holds.CALLS, ("tool_uses", "function_calls", "calls")),
        Field("role", Holds.NAME, default=True),
    )
    return Field(
        name,
        Holds.MESSAGE,
        (*others, "output", "reply", "msg", "text", "output_text", "generated_text", "content"),
        core=True,
        below=Level(path, fields),
    )


def _generation(choice: Field, *, whole: bool) -> Level:
    choices = Field(
        "choices",
        Holds.ITEMS,
        _LISTS,
        core=True,
        below=Level("choices[]", (choice, _REASON_FIELD, _INDEX)),
    )
    return Level("", (choices, *_HEAD, _usage(whole=whole)))


_VECTORS = Field(
    "data",
    Holds.ITEMS,
    ("embeddings", "vectors", *_LISTS),
    core=True,
    below=Level(
        "data[]",
        (
            Field("embedding", Holds.VECTOR, ("vector", "values"), core=True),
            _INDEX,
            Field("object", Holds.NAME, default=True),
        ),
    ),
)
_TEXT = Field("text", Holds.TEXT, ("content", "completion", "output", *_TEXTS[1:]), core=True)

LEVELS: dict[tuple[Kind, bool], Level] = {
    (Kind.CHAT, False): _generation(_message("message", "delta"), whole=True),
    (Kind.CHAT, True): _generation(_message("delta", "message", "chunk"), whole=False),
    (Kind.COMPLETION, False): _generation(_TEXT, whole=True),
    (Kind.COMPLETION, True): _generation(_TEXT, whole=False),
    (Kind.EMBEDDING, False): Level("", (_VECTORS, *_HEAD[1:2], *_HEAD[3:], _usage(whole=True))),
}
"""What an answer of each kind is made of, whole (``False``) and in each event of a stream (``True``)."""
