"""What a simulated provider understands of a request: OpenAI's three bodies, brought into one form (`Ask`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, TypeVar

import msgspec

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.simulation.text import count_tokens, fingerprint

T = TypeVar("T")

LIMIT_FIELDS = frozenset(("max_tokens", "max_completion_tokens"))
"""Of a chat."""

MAX_TOP_LOGPROBS = {Kind.CHAT: 20, Kind.COMPLETION: 5}
"""Most alternatives per token, OpenAI's limits."""
MAX_INPUTS = 2048
"""Most inputs of an embedding, OpenAI's limit; here also the most answers of a completion."""

IMAGE_TOKENS = 85
"""What an image counts, OpenAI's figure for low detail."""


class _CacheControl(msgspec.Struct):
    ttl: Literal["5m", "1h"] = "5m"


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""
    image_url: msgspec.Raw = msgspec.Raw()
    cache_control: _CacheControl | None = None
    """Anthropic's way to have a prompt kept, which gateways take over."""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class Function(msgspec.Struct):
    """A function that may be called; ``parameters`` is a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None  # a JSON schema has any shape


class _Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None


class _JsonSchema(msgspec.Struct):
    name: str = "answer"
    schema: dict[str, Any] | None = None  # a JSON schema has any shape


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    service_tier: str | None = None
    ignore_eos: bool | None = None
    """vLLM's extension: go on to the limit. ``max_tokens`` with it is the exact length of the answer."""


class _ChatBody(_Common, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None  # a string, or an object whose shape depends on its type
    response_format: _ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _CompletionBody(_Common, kw_only=True):
    prompt: str | list[str | int | list[int]] = ""
    logprobs: int | None = None
    echo: bool | None = None


class EmbeddingBody(msgspec.Struct):
    """Body of ``POST /v1/embeddings``."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def texts(self) -> list[str | list[int]]:
        """One input per vector: a text, or token ids."""
        return prompts(self.input)


class Ask(msgspec.Struct, kw_only=True):
    """A chat or completion request, understood."""

    kind: Kind
    model: str
    stream: bool
    include_usage: bool
    n: int
    limit: int | None
    """Most tokens of the answer; ``None``: the caller set no limit."""
    exact: bool
    """The answer is to have exactly ``limit`` tokens."""
    stop: tuple[str, ...]
    prompt: str
    """All text of the prompt, joined; what the cache of prefixes sees."""
    prompt_tokens: int
    image_tokens: int = 0
    """The part of ``prompt_tokens`` that is images."""
    cache_ttl: Literal["5m", "1h"] | None = None
    """How long the prompt is to be kept for later ones; ``None``: it need not be."""
    service_tier: str | None = None
    prefill: str | None = None
    """A trailing assistant message, where there is one."""
    seed: int = 0
    """Same request, same seed: same answer."""
    call: Function | None = None
    """The function to be called instead of answering."""
    schema: dict[str, Any] | None = None  # a JSON schema has any shape
    json: bool = False
    logprobs: int | None = None
    """How many alternatives to report per token (0: only the chosen one); ``None``: no log-probabilities."""
    echo: bool = False


_CHAT = msgspec.json.Decoder(_ChatBody)
_COMPLETION = msgspec.json.Decoder(_CompletionBody)
_EMBEDDING = msgspec.json.Decoder(EmbeddingBody)


def understand(kind: Kind, body: bytes, limit_fields: Collection[str] = LIMIT_FIELDS) -> Ask:
    """Read a chat or completion body; ``limit_fields`` are those of a chat by which it may limit its answer.

    Raises
    ------
    RequestError
        400, as OpenAI would: the body is not JSON, a field has the wrong type or an impossible value.
    """
    if kind is not Kind.CHAT:
        return _completion(decode(_COMPLETION, body))
    chat = decode(_CHAT, body)
    for name in LIMIT_FIELDS - set(limit_fields):
        setattr(chat, name, None)
    return _chat(chat)


def understand_embedding(body: bytes) -> EmbeddingBody:
    """Read an embeddings body; raises as `understand` does."""
    parsed = decode(_EMBEDDING, body)
    if parsed.dimensions is not None and not 1 <= parsed.dimensions <= 8192:
        raise RequestError(400, "dimensions must lie between 1 and 8192", param="dimensions")
    _count(len(parsed.texts()), "input")
    return parsed


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode ``body``, a mistake becoming OpenAI's 400."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"We could not parse the body of your request: {error}") from None


def prompts(value: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The inputs of a completion or embedding: a text, several, token ids, or several lists of token ids."""
    if isinstance(value, str):
        return [value]
    ids = [item for item in value if isinstance(item, int)]
    if ids:
        return [ids]
    return [item for item in value if not isinstance(item, int)]


def size_of(value: str | list[int]) -> int:
    """Tokens of one input."""
    return count_tokens(value) if isinstance(value, str) else len(value)


def _base(body: _Common) -> tuple[int, tuple[str, ...]]:
    n = 1 if body.n is None else body.n
    if not 1 <= n <= 128:
        raise RequestError(400, f"n must lie between 1 and 128, got {n}", param="n")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return n, tuple(word for word in stop if word)


def _limit(value: int | None, param: str, least: int = 1) -> int | None:
    if value is not None and value < least:
        raise RequestError(400, f"{param} must be at least {least}, got {value}", param=param)
    return value


def _count(inputs: int, param: str) -> int:
    if inputs > MAX_INPUTS:
        raise RequestError(400, f"{param} must hold at most {MAX_INPUTS} inputs, got {inputs}", param=param)
    return inputs


def _alternatives(value: int, kind: Kind, param: str) -> int:
    most = MAX_TOP_LOGPROBS[kind]
    if 0 <= value <= most:
        return value
    side, end, bound = ("above", "max", f"<= {most}") if value > most else ("below", "min", ">= 0")
    words = f"Invalid '{param}': integer {side} {end}imum value. Expected a value {bound}, but got {value} instead."
    raise RequestError(400, words, param=param, code=f"integer_{side}_{end}_value")


def _chat(body: _ChatBody) -> Ask:
    if not body.messages:
        raise RequestError(400, "messages must hold at least one message", param="messages")
    n, stop = _base(body)
    newer = body.max_completion_tokens
    limit = _limit(newer, "max_completion_tokens") if newer is not None else _limit(body.max_tokens, "max_tokens")
    texts, tokens, image_tokens = [], 0, 0
    for message in body.messages:
        text, images = _content(message)
        texts.append(text)
        tokens += count_tokens(text)
        image_tokens += IMAGE_TOKENS * images
    last = body.messages[-1]
    prefill = texts.pop() if last.role == "assistant" and not last.tool_calls else None
    if body.tools:
        tokens += count_tokens(msgspec.json.encode(body.tools).decode())
    prompt = "\n".join(texts)
    alternatives = _alternatives(body.top_logprobs or 0, Kind.CHAT, "top_logprobs")
    wanted = body.response_format
    schema = wanted.json_schema.schema if wanted is not None and wanted.json_schema is not None else None
    return Ask(
        kind=Kind.CHAT,
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        n=n,
        limit=limit,
        exact=bool(body.ignore_eos) and limit is not None,
        stop=stop,
        prompt=prompt,
        prompt_tokens=max(1, tokens + image_tokens),
        image_tokens=image_tokens,
        cache_ttl=_cache_ttl(body.messages),
        service_tier=body.service_tier,
        prefill=prefill,
        seed=fingerprint(prompt, body.seed),
        call=_called(body, last, texts),
        schema=schema,
        json=wanted is not None and wanted.type != "text",
        logprobs=alternatives if body.logprobs else None,
    )


def _completion(body: _CompletionBody) -> Ask:
    n, stop = _base(body)
    inputs = prompts(body.prompt)
    answers = _count(n * max(1, len(inputs)), "prompt")
    prompt = "\n".join(item if isinstance(item, str) else str(item) for item in inputs)
    limit = _limit(body.max_tokens, "max_tokens", least=0)  # 0 with echo and logprobs scores a prompt
    return Ask(
        kind=Kind.COMPLETION,
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        n=answers,
        limit=16 if limit is None else limit,  # OpenAI's default for this endpoint
        exact=bool(body.ignore_eos) and limit is not None,
        stop=stop,
        prompt=prompt,
        prompt_tokens=max(1, sum(size_of(item) for item in inputs)),
        service_tier=body.service_tier,
        seed=fingerprint(prompt, body.seed),
        logprobs=None if body.logprobs is None else _alternatives(body.logprobs, Kind.COMPLETION, "logprobs"),
        echo=bool(body.echo),
    )


def _content(message: _Message) -> tuple[str, int]:
    if isinstance(message.content, str):
        return message.content, 0
    if message.content is None:
        return "", 0
    texts = [part.text for part in message.content if part.type == "text"]
    return "\n".join(texts), sum(part.type == "image_url" for part in message.content)


def _cache_ttl(messages: list[_Message]) -> Literal["5m", "1h"] | None:
    """The longest that any part asks for."""
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    asked = {part.cache_control.ttl for part in parts if part.cache_control is not None}
    return None if not asked else "1h" if "1h" in asked else "5m"


def _called(body: _ChatBody, last: _Message, texts: list[str]) -> Function | None:
    """The function to call: the one demanded, or one that the last user message asks for by ``call:NAME``."""
    functions = [tool.function for tool in body.tools or () if tool.function is not None]
    choice = body.tool_choice
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        found = next((function for function in functions if function.name == name), None)
        if found is None:
            raise RequestError(400, f"tool_choice names {name!r}, which is not among the tools", param="tool_choice")
        return found
    if not functions or choice == "none":
        return None
    if choice == "required":
        return functions[0]
    asked = texts[-1] if last.role == "user" and texts else ""
    return next((function for function in functions if f"call:{function.name}" in asked), None)
