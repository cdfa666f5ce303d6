"""The figures of one answer: its shape, what it lacks, how much it repeats itself. No text leaves this file (law 4).

The *shape* is the set of (path, JSON type) of an answer, or of all its events together. Elements of an array share one
path, numbers are one type, names that are numbers or that come by the hundreds are one name, and what a caller's own
tools or schemas fill in (``OPAQUE``) is not entered: two answers of one API differ in shape only where the API does.

Answers come from outside, so all of it is bounded: bytes, containers, depth, paths, words. What is beyond a bound is
left out, what cannot be read has the shape 0, and nothing raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from amaru.domain import Kind
from amaru.health.observation import Sample
from amaru.protocols.answers import Delta, texts_of
from amaru.protocols.sse import EventSplitter, EventTooLargeError, parse_event

MAX_BYTES = 256 * 1024
"""Of an answer or its events; a larger answer is not read, larger events are read this far."""
MAX_CONTAINERS = 4096
"""Objects and arrays; decoding more takes milliseconds."""
MAX_EVENTS = 512
MAX_DEPTH = 24
MAX_PATHS = 512
MAX_ELEMENTS = 8
"""Of an array, its first."""
MAX_NAMES = 64
"""An object with more names is a mapping: its names say nothing about the API."""
MAX_NAME_CHARS = 80
OPAQUE = frozenset(("arguments", "args", "input", "parsed", "metadata", "logit_bias", "top_logprobs"))
MAX_TEXT_CHARS = 32 * 1024
"""Of the text, for its repetition and digest."""
LEAST_WORDS = 12
"""A text with fewer has no repetition."""
_GRAM = 4
_LONG_WORD = 24
"""Words of more characters on average are no words: such a text (Chinese, base64) is taken character by character."""
_SPEAKING = frozenset(("content", "tool_calls", "function_call", "refusal", "reasoning", "reasoning_content", "audio"))
"""Fields of a message, one of which an answer needs."""
_MASK = (1 << 63) - 1

_decode = msgspec.json.Decoder().decode
Json = object


def sample_of(
    kind: Kind,
    data: bytes,
    texts: Sequence[str] | None,
    salt: bytes,
    prompt: int = 0,
    *,
    stream: bool = False,
    whole: bool = True,
) -> Sample:
    """The figures of one answer. Never raises.

    Parameters
    ----------
    data
        The whole answer's JSON; of a stream its events as they came, all or some.
    texts
        The generated text in pieces, calls of tools included; ``None``: it is read out of ``data``.
    salt
        At most 64 bytes; keys the hash of the text.
    prompt
        A salted hash of the prompt, such as ``hash_of`` gives; 0: not known.
    stream
        ``data`` are events.
    whole
        ``data`` is all of the answer. Where it is not, what may stand in the rest is not reported as missing.

    Examples
    --------
    >>> sample = sample_of(Kind.CHAT, b'{"choices": [{"message": {"content": null}}]}', None, b"salt")
    >>> sample.missing, sample.empty
    (('choices[].finish_reason', 'choices[].message.content'), True)
    """
    documents, cut = (_events(data) if stream else _document(data)) if data else ([], True)
    whole = whole and not cut
    told = whole or texts is not None
    if texts is None:
        texts = [text for document in documents for text in _texts(kind, document)]
    text = _joined(texts)
    blank = not text or text.isspace()
    # Of an answer that said nothing at all, the events that are known tell where its text should have stood.
    seen = whole or (told and blank and stream)
    return Sample(
        shape=_shape(documents),
        missing=_missing(kind, documents, stream=stream, said=not blank, whole=whole) if documents and seen else (),
        repetition=repetition_of(text),
        digest=0 if blank else hash_of(text, salt),
        prompt=prompt & _MASK,
        empty=blank and told and kind in (Kind.CHAT, Kind.COMPLETION) and not _excused(documents),
    )


def hash_of(text: str, salt: bytes) -> int:
    """Salted 63-bit hash of a text, never 0."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=salt[:64]).digest()
    return int.from_bytes(digest, "little") & _MASK or 1


def repetition_of(text: str) -> float:
    """Share of repeated 4-grams of words, 1 - distinct/total; 0 for fewer than ``LEAST_WORDS`` words.

    >>> repetition_of("the cat sat on the mat and then the dog lay down beside it")
    0.0
    >>> round(repetition_of("no more of this " * 10), 2)
    0.89
    """
    words: Sequence[str] = text[:MAX_TEXT_CHARS].split()
    if len(words) * _LONG_WORD < min(len(text), MAX_TEXT_CHARS):
        words = text[: MAX_TEXT_CHARS // 8]
    if len(words) < LEAST_WORDS:
        return 0.0
    grams = {tuple(words[at : at + _GRAM]) for at in range(len(words) - _GRAM + 1)}
    return 1.0 - len(grams) / (len(words) - _GRAM + 1)


def _joined(texts: Sequence[str]) -> str:
    """The first ``MAX_TEXT_CHARS`` characters; pieces are taken while there is room."""
    pieces: list[str] = []
    room = MAX_TEXT_CHARS
    for piece in texts:
        if room <= 0:
            break
        pieces.append(piece[:room])
        room -= len(piece)
    return "".join(pieces)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _document(data: bytes) -> tuple[list[Json], bool]:
    """The answer, and whether something of it could not be read."""
    if len(data) > MAX_BYTES:
        return [], True
    return _decoded([data])


def _events(data: bytes) -> tuple[list[Json], bool]:
    """The data of the events, and whether something of them was left out."""
    splitter = EventSplitter(MAX_BYTES)
    try:
        blocks = splitter.feed(data[:MAX_BYTES])
    except EventTooLargeError:
        return [], True
    cut = len(data) > MAX_BYTES or len(blocks) > MAX_EVENTS
    if len(blocks) > MAX_EVENTS:  # the first, and the last, which ends it
        blocks = [*blocks[: MAX_EVENTS - 8], *blocks[-8:]]
    payloads = [payload for block in blocks if (payload := parse_event(block).data)]
    documents, unread = _decoded([payload for payload in payloads if payload.strip() != b"[DONE]"])
    return documents, cut or unread


def _decoded(payloads: list[bytes]) -> tuple[list[Json], bool]:
    documents: list[Json] = []
    room = MAX_CONTAINERS
    for payload in payloads:
        room -= payload.count(b"{") + payload.count(b"[")
        if room < 0:
            return documents, True
        try:
            documents.append(_decode(payload))
        except (ValueError, OverflowError, RecursionError):
            return documents, True
    return documents, False


# ---- shape -----------------------------------------------------------------------------------------------------------


def _shape(documents: list[Json]) -> int:
    """63-bit digest of all paths with their types; 0 where there are none."""
    paths: set[str] = set()
    for document in documents:
        _collect(document, paths)
    if not paths:
        return 0
    text = "\n".join(sorted(paths)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") & _MASK or 1


def _collect(document: Json, paths: set[str]) -> None:
    waiting: list[tuple[str, Json, int]] = [("", document, 0)]
    while waiting and len(paths) < MAX_PATHS:
        path, value, depth = waiting.pop()
        if isinstance(value, dict):
            paths.add(path + ":object")
            if depth < MAX_DEPTH:
                waiting += _members(path, value, depth + 1)
        elif isinstance(value, list):
            paths.add(path + ":array")
            if depth < MAX_DEPTH:
                waiting += [(path + "[]", element, depth + 1) for element in value[:MAX_ELEMENTS]]
        else:
            paths.add(path + _type(value))


def _members(path: str, value: dict[str, Json], depth: int) -> Iterator[tuple[str, Json, int]]:
    many = len(value) > MAX_NAMES
    for place, (name, member) in enumerate(value.items()):
        if many and place >= MAX_ELEMENTS:
            return
        label = "#" if many or name.isdigit() else name[:MAX_NAME_CHARS]
        # Of what is the caller's, only the type counts.
        yield f"{path}.{label}", type(member)() if name in OPAQUE and isinstance(member, dict | list) else member, depth


def _type(value: Json) -> str:
    if value is None:
        return ":null"
    if isinstance(value, bool):
        return ":boolean"
    return ":number" if isinstance(value, int | float) else ":string"


# ---- what must be there ----------------------------------------------------------------------------------------------


def _missing(kind: Kind, documents: list[Json], *, stream: bool, said: bool, whole: bool) -> tuple[str, ...]:
    """Required fields (OpenAI API reference) that no document has, or has but as null, by their paths, sorted.

    ``said``: generated text was found, whatever the field that it stood in. ``whole``: there are no other documents.
    """
    if kind is Kind.EMBEDDING:
        rows = [row for document in documents for row in _list(document, "data")]
        if not rows:
            return ("data",)
        return () if all(isinstance(row, dict) and row.get("embedding") for row in rows) else ("data[].embedding",)
    if kind not in (Kind.CHAT, Kind.COMPLETION):
        return ()
    choices = _choices(documents)
    if not choices:
        return ("choices",)
    missing: set[str] = set()
    if not stream and not all(choice.get("finish_reason") for choice in choices):
        missing.add("choices[].finish_reason")
    if stream and whole and not any(choice.get("finish_reason") for choice in choices):
        missing.add("choices[].finish_reason")
    if kind is Kind.COMPLETION:
        if not any(isinstance(choice.get("text"), str) for choice in choices):
            missing.add("choices[].text")
        return tuple(sorted(missing))
    field = "delta" if stream else "message"
    messages = [message for choice in choices if isinstance(message := choice.get(field), dict)]
    if not messages or (not stream and len(messages) < len(choices)):
        missing.add(f"choices[].{field}")
    elif not said and not _excused(documents) and not any(_speaks(message) for message in messages):
        missing.add(f"choices[].{field}.content")
    return tuple(sorted(missing))


def _choices(documents: list[Json]) -> list[dict[str, Json]]:
    return [choice for document in documents for choice in _list(document, "choices") if isinstance(choice, dict)]


def _list(document: Json, name: str) -> list[Json]:
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, list) else []


def _speaks(message: dict[str, Json]) -> bool:
    """An empty string is content, if empty; null is none."""
    return any(message.get(name) is not None for name in _SPEAKING)


def _excused(documents: list[Json]) -> bool:
    """An answer without text that is none of the provider's faults: held back by its filter, or a picture or sound."""
    for choice in _choices(documents):
        message = choice.get("message") or choice.get("delta")
        if choice.get("finish_reason") == "content_filter":
            return True
        if isinstance(message, dict) and any(message.get(name) for name in ("audio", "images", "tool_calls")):
            return True
    return False


def _texts(kind: Kind, document: Json) -> Iterator[str]:
    for choice in _choices([document]):
        message = choice.get("message") or choice.get("delta")
        if kind is Kind.COMPLETION:
            text = choice.get("text")
            if isinstance(text, str):
                yield text
        elif isinstance(message, dict):
            try:
                yield from texts_of(msgspec.convert(message, Delta))
            except (ValueError, RecursionError):
                continue
