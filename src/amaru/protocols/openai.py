"""OpenAI's requests: what the gateway reads out of them, and how they are written again for a provider.

Only the fields that routing needs are decoded. All others, known or not, stay the bytes that the caller sent and reach
the provider unchanged. Wire format: OpenAI API reference, "Chat", "Completions" and "Embeddings". This stands in the
path of every request: two passes of msgspec over the body, and no more objects than needed.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from amaru.domain import Capability, Kind
from amaru.errors import RequestError

BYTES_PER_TOKEN = 4
"""A token of English is about four characters (OpenAI, "What are tokens and how to count them?"). Taken over the JSON
of the messages: their roles and punctuation stand for the tokens of the model's chat template."""
TOKENS_PER_MEDIUM = 765
"""An image, file or sound counts as one 1024 x 1024 image in high detail does (OpenAI, "Images and vision": 85 base
tokens and four tiles of 170), whatever its size: its base64 or its link says nothing about its tokens."""
MAX_COUNT = 2**31 - 1
"""Largest number that counts or limits something; above it a request is a mistake."""

Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
_ABSENT = Raw()


class _Object(Struct, gc=False):
    """Any JSON object; its fields are skipped, but checked to be JSON."""


class _Part(Struct, gc=False):
    type: str = ""
    image_url: Raw = _ABSENT
    input_audio: Raw = _ABSENT
    file: Raw = _ABSENT


class _Message(Struct, gc=False):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_Object] | None = None


class _StreamOptions(Struct, gc=False):
    include_usage: bool | None = None


class _ResponseFormat(Struct, gc=False):
    type: str = ""


class _Chat(Struct, gc=False):
    model: str
    messages: list[_Message]
    n: Count | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    tools: list[_Object] | None = None
    functions: list[_Object] | None = None
    response_format: _ResponseFormat | None = None
    logprobs: bool | None = None


class _Completion(Struct, gc=False):
    model: str
    prompt: str | list[str | int | list[int]]
    n: Count | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Count | None = None
    logprobs: int | bool | None = None


class _Embedding(Struct, gc=False):
    model: str
    input: str | list[str | int | list[int]]


class OpenAIRequest(Struct, gc=False):
    """A checked request.

    ``fields`` holds the caller's top-level fields, each value as it was sent. ``include_usage`` is what the caller
    asked for. ``choices`` is how many an answer holds: ``n`` for each prompt. ``max_output_tokens`` is the caller's
    limit over all choices; ``None``: it set none. ``input_tokens_estimate`` is an estimate by size, see above.
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
    wants_logprobs: bool
    fields: dict[str, Raw]


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
_INCLUDE_USAGE = Raw(b'{"include_usage":true}')
_IMAGE_PARTS = frozenset(("image_url", "input_image"))


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
        fields = _read_fields(body)
        if len(_write(fields)) != len(body):  # written compactly the two agree, unless a name came twice
            _refuse_duplicates(body, fields)
        if kind is _CHAT:
            return _chat(_read_chat(body), fields)
        if kind is _COMPLETION:
            return _completion(_read_completion(body), fields)
        if kind is _EMBEDDING:
            return _embedding(_read_embedding(body), fields)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise _explain(error, body) from None
    raise ValueError(f"{kind} is not served over OpenAI's API")


def _chat(request: _Chat, fields: dict[str, Raw]) -> OpenAIRequest:
    messages = request.messages
    if not messages:
        raise _bad("messages", "is empty", "send at least one message")
    needs = 0
    size = _size(fields["messages"])
    media = 0
    for message in messages:
        content = message.content
        if type(content) is list:
            for part in content:
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
    if response_format is not None and response_format.type == "json_schema":
        needs |= _JSON_SCHEMA
    stream = request.stream is True
    if stream:
        needs |= _STREAM
    n = request.n or 1
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
        request.logprobs is True,
        fields,
    )


def _completion(request: _Completion, fields: dict[str, Raw]) -> OpenAIRequest:
    prompts, tokens = _inputs("prompt", request.prompt, fields)
    stream = request.stream is True
    n = request.n or 1
    limit = request.max_tokens
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
        request.logprobs is not None and request.logprobs is not False,
        fields,
    )


def _embedding(request: _Embedding, fields: dict[str, Raw]) -> OpenAIRequest:
    inputs, tokens = _inputs("input", request.input, fields)
    model = _checked_model(request.model)
    return OpenAIRequest(_EMBEDDING, model, False, False, 1, inputs, None, _NO_NEEDS, tokens, False, fields)


def encode_request(request: OpenAIRequest, model: str) -> bytes:
    """The body for a provider whose own name for the model is ``model``.

    A stream also asks for its usage, beside the caller's other stream options. All else is the caller's, byte for byte.
    """
    fields: dict[str, object] = request.fields.copy()  # type: ignore[assignment]  # a copy may hold more types
    fields["model"] = model
    if request.stream and not request.include_usage:
        options = request.fields.get("stream_options")
        given = None if options is None else msgspec.json.decode(options, type=dict[str, Raw] | None)
        fields["stream_options"] = {**given, "include_usage": True} if given else _INCLUDE_USAGE
    return _write(fields)


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
        raise _bad("model", "is empty", "name a model or an alias; GET /v1/models lists them")
    return model


def _asks_usage(options: _StreamOptions | None) -> bool:
    return options is not None and options.include_usage is True


def _inputs(field: str, value: str | list[str | int | list[int]], fields: dict[str, Raw]) -> tuple[int, int]:
    """How many inputs, and their tokens: counted where they are token ids, else estimated by size."""
    if type(value) is str:
        return 1, -(-_size(fields[field]) // BYTES_PER_TOKEN)
    if not value:
        raise _bad(field, "is empty", "send a string, strings, token ids, or lists of token ids")
    kinds = {type(item) for item in value}
    if len(kinds) > 1:
        raise _bad(field, "mixes strings and token ids", "send one sort in a request")
    if kinds == {int}:
        return 1, len(value)
    if kinds == {list}:
        return len(value), sum(len(item) for item in value if type(item) is list)
    return len(value), -(-_size(fields[field]) // BYTES_PER_TOKEN)


_MEMBER = re.compile(rb'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_LAST = re.compile(rb"\s*}\s*$")


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
        raise _bad(name if re.fullmatch(r"\w{1,64}", name) else None, "appears twice", "send each field once")


_EXPECTED = re.compile(r"Expected `(?P<want>[^`]+)`(?P<bound> [<>]= -?\d+)?(?:, got `(?P<got>[^`]+)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_JSON_WORDS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "null": "null",
               "object": "an object", "array": "an array"}  # fmt: skip


def _explain(error: ValueError | RecursionError, body: bytes) -> RequestError:
    """What is wrong with ``body``, in JSON's words; the decoder's own messages quote places, never values."""
    if isinstance(error, RecursionError):
        return _bad(None, "is nested too deeply", "flatten it")
    if isinstance(error, UnicodeDecodeError):
        return _bad(None, "is not valid UTF-8", "encode it as UTF-8")
    if not body.strip():
        return _bad(None, "is empty", "send a JSON object")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        where = text.removeprefix("JSON is malformed: ")
        return _bad(None, f"is not valid JSON ({where[0].lower()}{where[1:]})", "send one JSON object (RFC 8259)")
    place = _PATH.search(text)
    path = place["path"] if place else ""
    if missing := _MISSING.match(text):
        name = missing["name"]
        return _bad(f"{path}.{name}" if path else name, "is missing", "add it")
    if expected := _EXPECTED.match(text):
        want = _words(expected["want"]) + (expected["bound"] or "")
        wrong = f"is {_words(expected['got'])}" if expected["got"] else "is out of range"
        return _bad(path or None, wrong, f"send {want}")
    return _bad(
        path or None,
        "is out of range" if "range" in text else "is not valid",
        "check it against OpenAI's API reference",
    )


def _words(types: str) -> str:
    return " or ".join(_JSON_WORDS.get(word, word) for word in types.split(" | "))


def _bad(field: str | None, wrong: str, remedy: str) -> RequestError:
    what = f"The field {field!r}" if field else "The request body"
    return RequestError(400, f"{what} {wrong}: {remedy}.", param=field)
