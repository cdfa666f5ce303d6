"""OpenAI's requests: what the gateway reads out of them, and how they are written again for a provider.

Only the fields that routing needs are decoded. All others, known or not, stay the bytes that the caller sent and reach
the provider unchanged. Wire format: OpenAI API reference, "Chat", "Completions" and "Embeddings". This stands in the
path of every request: two passes of msgspec over the body, and no more objects than needed.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from amaru.domain import Capability, Kind
from amaru.errors import RequestError
from amaru.protocols.mistakes import bad, explain

BYTES_PER_TOKEN = 4
"""A token of English is about four characters (OpenAI, "What are tokens and how to count them?"). Taken over the JSON
of the messages: their roles and punctuation stand for the tokens of the model's chat template."""
TOKENS_PER_MEDIUM = 765
"""An image, file or sound counts as one 1024 x 1024 image in high detail does (OpenAI, "Images and vision": 85 base
tokens and four tiles of 170), whatever its size: its base64 or its link says nothing about its tokens."""
MAX_COUNT = 2**31 - 1
"""Largest number that counts or limits something; above it a request is a mistake."""
MAX_FIELDS = 256
"""Top-level fields of a request; OpenAI's API has some forty."""
MAX_INPUTS = 2048
"""Inputs of one embeddings request (OpenAI API reference, "Create embeddings"), and prompts of one completion: each is
answered by choices of its own, which a stream keeps apart."""
MAX_TOOLS = 2048
"""Tools, or functions, of one request; OpenAI takes 128, and others more."""
MAX_ITEMS = 100_000
"""Messages of one request, and parts or calls of one message."""
LARGE_BYTES = 64 * 1024
"""Smaller bodies are decoded as they come: they cannot hold enough to be a burden. Larger ones are weighed first."""
MAX_VALUES = 2**20
"""JSON values of a large body: a prompt of a million token ids fits. Decoding stays well below a second."""
MAX_CONTAINERS = 2**18
"""Objects and arrays among them; each costs as much as many plain values."""
MAX_NAME_CHARS = 1024
"""Of a top-level field of a large body."""


class Hold(enum.Enum):
    """What of a stream is held back until it is whole: a broken piece of it is then begun anew unseen."""

    CALLS = "calls"
    """From the first call of a tool on: half a call is of no use, and nothing can go on from it."""
    CHOICES = "choices"
    """Each choice: JSON, log-probabilities and audio, and the several choices of one request."""
    ALL = "all"
    """The whole answer, since the caller prefers that."""


Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
_ABSENT = Raw()


class _Object(Struct, gc=False):
    """Any JSON object; its fields are skipped, but checked to be JSON."""


class _Part(Struct, gc=False):
    type: str = ""
    image_url: Raw = _ABSENT
    input_audio: Raw = _ABSENT
    file: Raw = _ABSENT


class Referring(Struct, gc=False):
    """What a message holds beside its content: an earlier answer's sound or images, files that the provider has."""

    audio: Raw = _ABSENT
    images: Raw = _ABSENT
    attachments: Raw = _ABSENT
    files: Raw = _ABSENT
    file_ids: Raw = _ABSENT

    @property
    def refers(self) -> bool:
        """Whether it holds any."""
        if (  # written out: it is asked of every message
            self.audio is _ABSENT
            and self.images is _ABSENT
            and self.attachments is _ABSENT
            and self.files is _ABSENT
            and self.file_ids is _ABSENT
        ):
            return False
        held = (self.audio, self.images, self.attachments, self.files, self.file_ids)
        return any(bytes(raw) not in _NOTHING for raw in held)


class _Message(Referring, gc=False, kw_only=True):
    role: str
    content: str | Annotated[list[_Part], Meta(max_length=MAX_ITEMS)] | None = None
    tool_calls: Annotated[list[_Object], Meta(max_length=MAX_ITEMS)] | None = None


_Tools = Annotated[list[_Object], Meta(max_length=MAX_TOOLS)]


class _StreamOptions(Struct, gc=False):
    include_usage: bool | None = None


class _ResponseFormat(Struct, gc=False):
    type: str = ""


class _Chat(Struct, gc=False):
    model: str
    messages: Annotated[list[_Message], Meta(max_length=MAX_ITEMS)]
    n: Count | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    tools: _Tools | None = None
    functions: _Tools | None = None
    response_format: _ResponseFormat | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None


class _Completion(Struct, gc=False):
    model: str
    prompt: str | list[str | int | list[int]]
    n: Count | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None = None  # 0, with echo, scores a prompt
    logprobs: int | bool | None = None


class _Embedding(Struct, gc=False):
    model: str
    input: str | list[str | int | list[int]]


class OpenAIRequest(Struct, gc=False):
    """A checked request.

    ``fields`` holds the caller's top-level fields, each value as it was sent. ``include_usage`` is what the caller
    asked for. ``choices`` is how many an answer holds: ``n`` for each prompt. ``max_output_tokens`` is the caller's
    limit over all choices; ``None``: it set none. ``input_tokens_estimate`` is an estimate by size, see above. ``hold``
    is what of its stream is held back. ``only_text``: no part of a message is an image, a sound, a file or unknown, and
    none ``refers`` to any.
    """

    kind: Kind
    model: str
    stream: bool
    include_usage: bool
    n: int
    choices: int
    max_output_tokens: int | None
    needs: Capability
    input_tokens_estimate: int
    hold: Hold
    fields: dict[str, Raw]
    only_text: bool = True


_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_chat = msgspec.json.Decoder(_Chat).decode
_read_completion = msgspec.json.Decoder(_Completion).decode
_read_embedding = msgspec.json.Decoder(_Embedding).decode
_write = msgspec.json.Encoder().encode

_CHAT, _COMPLETION, _EMBEDDING = Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING
# Arithmetic on IntFlag is slow: the bits are added up as plain integers, and looked up once.
_STREAM, _TOOLS, _VISION, _JSON_SCHEMA, _PREFILL = (
    int(bit)
    for bit in (
        Capability.STREAM, Capability.TOOLS, Capability.VISION, Capability.JSON_SCHEMA, Capability.PREFILL,
    )
)  # fmt: skip
_NEEDS = [Capability(bits) for bits in range(32)]
_NO_NEEDS = Capability.NONE
_NOTHING = frozenset((b"", b"null", b"[]"))
_JSON_FORMATS = frozenset(("json_schema", "json_object"))
_IMAGE_PARTS = frozenset(("image_url", "input_image"))
TEXT_PARTS = frozenset(("text", "input_text", "output_text", "refusal"))


def parse_request(kind: Kind, body: bytes) -> OpenAIRequest:
    """Read and check a request body.

    Raises
    ------
    RequestError
        400: not a JSON object of this kind. It names the field and never repeats the caller's text.
    """
    try:
        if not body.isascii():
            body.decode()  # the decoder checks UTF-8 only in the fields that it keeps
        size = len(body)
        fields = _read_fields(body) if size <= LARGE_BYTES else _read_large(body)
        if len(fields) > MAX_FIELDS:
            raise bad(None, f"has more than {MAX_FIELDS} fields", "send only fields of OpenAI's API")
        if len(_write(fields)) != size:  # written compactly the two agree, unless a name came twice
            _refuse_duplicates(body, fields)
        if kind is _CHAT:
            return _chat(_read_chat(body), fields)
        if kind is _COMPLETION:
            return _completion(_read_completion(body), fields)
        if kind is _EMBEDDING:
            return _embedding(_read_embedding(body), fields)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise explain(error, body) from None
    raise ValueError(f"{kind} is not served over OpenAI's API")


def _chat(request: _Chat, fields: dict[str, Raw]) -> OpenAIRequest:
    messages = request.messages
    if not messages:
        raise bad("messages", "is empty", "send at least one message")
    needs = 0
    size = len(memoryview(fields["messages"]))
    media = 0
    only_text = True
    for message in messages:
        content = message.content
        if message.refers:
            only_text = False
        if type(content) is list:
            for part in content:
                if part.type not in TEXT_PARTS:
                    only_text = False
                if part.type in _IMAGE_PARTS:
                    needs |= _VISION
                medium = _size(part.image_url) + _size(part.input_audio) + _size(part.file)
                if medium:
                    size -= medium
                    media += 1
    if message.role == "assistant" and not message.tool_calls:
        needs |= _PREFILL
    if request.tools:
        needs |= _TOOLS
        size += _size(fields["tools"])
    if request.functions:
        needs |= _TOOLS
        size += _size(fields["functions"])
    response_format = request.response_format
    n = request.n or 1
    hold = n > 1 or request.logprobs is True or (request.modalities is not None and "audio" in request.modalities)
    if response_format is not None and response_format.type in _JSON_FORMATS:
        hold = True
        if response_format.type == "json_schema":
            needs |= _JSON_SCHEMA
    stream = request.stream is True
    if stream:
        needs |= _STREAM
    limit = request.max_completion_tokens or request.max_tokens
    return OpenAIRequest(
        _CHAT,
        _checked_model(request.model),
        stream,
        stream and _asks_usage(request.stream_options),
        n,
        n,
        None if limit is None else limit * n,
        _NEEDS[needs],
        -(-size // BYTES_PER_TOKEN) + media * TOKENS_PER_MEDIUM,
        Hold.CHOICES if hold else Hold.CALLS,
        fields,
        only_text,
    )


def _completion(request: _Completion, fields: dict[str, Raw]) -> OpenAIRequest:
    prompts, tokens = _inputs("prompt", request.prompt, fields)
    stream = request.stream is True
    n = request.n or 1
    limit = request.max_tokens
    hold = n * prompts > 1 or (request.logprobs is not None and request.logprobs is not False)
    return OpenAIRequest(
        _COMPLETION,
        _checked_model(request.model),
        stream,
        stream and _asks_usage(request.stream_options),
        n,
        n * prompts,
        None if limit is None else limit * n * prompts,
        _NEEDS[_STREAM] if stream else _NO_NEEDS,
        tokens,
        Hold.CHOICES if hold else Hold.CALLS,
        fields,
    )


def _embedding(request: _Embedding, fields: dict[str, Raw]) -> OpenAIRequest:
    inputs, tokens = _inputs("input", request.input, fields)
    model = _checked_model(request.model)
    return OpenAIRequest(_EMBEDDING, model, False, False, 1, inputs, None, _NO_NEEDS, tokens, Hold.CALLS, fields)


def error_body(error: RequestError) -> bytes:
    """The error object of OpenAI's API for ``error``."""
    return _error(error.message, error.type, error.param, error.code)


def error_event(error: RequestError) -> bytes:
    """The same as an event of a stream, in the provider's own words where ``error`` carries them."""
    body = error.body if error.body is not None and b"\n" not in error.body else error_body(error)
    return b"data: %b\n\n" % body


def _error(message: str, type: str, param: str | None, code: str | None) -> bytes:
    return _write({"error": {"message": message, "type": type, "param": param, "code": code}})


# ---- the parts of checking ------------------------------------------------------------------------------------------


def _size(raw: Raw) -> int:
    return len(memoryview(raw))


def _checked_model(model: str) -> str:
    if not model.strip():
        raise bad("model", "is empty", "name a model or an alias; GET /v1/models lists them")
    return model


def _asks_usage(options: _StreamOptions | None) -> bool:
    return options is not None and options.include_usage is True


def _inputs(field: str, value: str | list[str | int | list[int]], fields: dict[str, Raw]) -> tuple[int, int]:
    """How many inputs, and their tokens: counted where they are token ids, else estimated by size."""
    if type(value) is str:
        return 1, -(-_size(fields[field]) // BYTES_PER_TOKEN)
    if not value:
        raise bad(field, "is empty", "send a string, strings, token ids, or lists of token ids")
    kinds = {type(item) for item in value}
    if len(kinds) > 1:
        raise bad(field, "mixes strings and token ids", "send one sort in a request")
    if kinds == {int}:
        return 1, len(value)
    if len(value) > MAX_INPUTS:
        raise bad(field, f"holds {len(value)} inputs", f"send at most {MAX_INPUTS} in a request")
    if kinds == {list}:
        return len(value), sum(len(item) for item in value if type(item) is list)
    return len(value), -(-_size(fields[field]) // BYTES_PER_TOKEN)


# Quantifiers are possessive: a greedy one keeps a way back for each character of a string, over a hundred bytes apiece.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Also a string that never ends is one, lest each quote in it be tried as a start.
_STRINGS = re.compile(_STRING + rb"?+", re.DOTALL)
_MEMBER = re.compile(rb"\s*+[{,]\s*+(" + _STRING + rb")\s*+:\s*+", re.DOTALL)
_LAST = re.compile(rb"\s*+}\s*+$")


def _read_large(body: bytes) -> dict[str, Raw]:
    """The fields of ``body``; one of more values than anybody needs is refused before objects are made of them.

    A value opens a container or follows a comma, so that the bytes ``{ [ ,`` bound the values: at first all of them,
    which takes no time and is enough for nearly every body, then those outside of strings.
    """
    if not _is_light(body):
        bare, strings = _STRINGS.subn(b"", body, MAX_VALUES)
        if strings == MAX_VALUES or not _is_light(bare):
            most = f"{MAX_VALUES} values, or {MAX_CONTAINERS} objects and arrays"
            raise bad(None, f"holds more than {most}", "split it into several requests")
    fields = _read_fields(body)
    if any(len(name) > MAX_NAME_CHARS for name in fields):
        raise bad(None, f"has a field whose name is longer than {MAX_NAME_CHARS} characters", "shorten it")
    return fields


def _is_light(body: bytes) -> bool:
    containers = body.count(b"{") + body.count(b"[")
    return containers <= MAX_CONTAINERS and containers + body.count(b",") <= MAX_VALUES


def _refuse_duplicates(body: bytes, fields: dict[str, Raw]) -> None:
    """Walk over the members of ``body`` and refuse a name that comes twice (RFC 8259 section 4).

    Receivers disagree on which one counts, so that what was routed and what is served could differ. ``fields`` holds
    the last value of each name: where another stands in the body, an earlier one was overwritten.
    """
    at = 0
    name = ""
    seen = set()
    while member := _MEMBER.match(body, at):
        name = msgspec.json.decode(member[1], type=str)
        value = bytes(fields[name])
        at = member.end() + len(value)
        if name in seen or not body.startswith(value, member.end()):
            break
        seen.add(name)
    if fields and (len(seen) < len(fields) or not _LAST.match(body, at)):
        raise bad(name if re.fullmatch(r"\w{1,64}", name) else None, "appears twice", "send each field once")
