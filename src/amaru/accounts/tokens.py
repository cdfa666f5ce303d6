"""Tokens of texts whose provider reported no usage: counted with the model's own vocabulary, else estimated.

Counting needs the extra ``count`` (tiktoken) and a vocabulary file that is on this machine already, where tiktoken
keeps its own: ``TIKTOKEN_CACHE_DIR``, ``DATA_GYM_CACHE_DIR``, or ``data-gym-cache`` in the directory for temporary
files. tiktoken by itself would fetch a missing one; here it is handed a loader that only reads these files.

Estimating goes by UTF-8: four bytes of ASCII to a token (OpenAI's rule of thumb for English,
https://help.openai.com/en/articles/4936856), two to a token for two-byte letters (Latin with marks, Greek, Cyrillic,
Hebrew, Arabic), one token for each three-byte character (Chinese, Japanese, Korean, Indic scripts), two for each of
four bytes (emoji). It is near for prose in any script and low for dense code, by up to half.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import tempfile
import types
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from amaru.domain import Provenance, Usage

VOCABULARIES = ("o200k_base", "cl100k_base")
"""Those of OpenAI's models since GPT-3.5."""
MAX_COUNTED_CHARS = 16_000
"""Counting runs on the event loop: beyond this (1 ms of prose, 11 ms of one letter repeated), a text's tokens are
scaled up from its beginning."""

_NOT_ASCII = bytes(range(0x80, 0x100))
_ALL_BYTES = bytes(range(0x100))
_NOT_LEAD_2 = bytes(b for b in _ALL_BYTES if not 0xC0 <= b < 0xE0)
_NOT_LEAD_3 = bytes(b for b in _ALL_BYTES if not 0xE0 <= b < 0xF0)
_NOT_LEAD_4 = bytes(b for b in _ALL_BYTES if not b >= 0xF0)


class Encoding(Protocol):
    """What is used of ``tiktoken.Encoding``."""

    def encode_ordinary(self, text: str) -> Sequence[int]:
        """Tokens of a text in which no special token is recognised."""


class VocabularyMissingError(Exception):
    """A vocabulary is not on this machine, or its file is not the published one."""


_encodings: dict[str, Encoding] = {}


def load_vocabularies(
    names: Iterable[str] = VOCABULARIES, directories: Sequence[Path] | None = None
) -> tuple[str, ...]:
    """Load what is needed to count; returns the names that can be counted with now, none without tiktoken.

    Takes up to 0.7 s and 80 MB for each, so it is called once at the start, never while serving. Nothing is fetched:
    a vocabulary that is not in ``directories`` (tiktoken's own by default) is left out.
    """
    try:
        tiktoken = import_module("tiktoken")
        public = import_module("tiktoken_ext.openai_public")
    except ImportError:
        return ()
    for name in names:
        constructor = public.ENCODING_CONSTRUCTORS.get(name)
        if constructor is None or name in _encodings:
            continue
        try:
            definition = _with_loader(constructor, directories if directories is not None else cache_directories())()
            _encodings[name] = tiktoken.Encoding(**definition)
        except (VocabularyMissingError, OSError):
            continue
    return tuple(_encodings)


def unload_vocabularies() -> None:
    """Forget what was loaded; every figure is estimated again."""
    _encodings.clear()


def cache_directories() -> tuple[Path, ...]:
    """Where tiktoken keeps vocabularies, by its own rules."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if named is not None:
        return (Path(named),) if named else ()
    return (Path(tempfile.gettempdir()) / "data-gym-cache",)


def _with_loader(
    constructor: Callable[[], dict[str, object]], directories: Sequence[Path]
) -> Callable[[], dict[str, object]]:
    """tiktoken's definition of an encoding, with its loader exchanged for one that cannot reach a network.

    The function is made anew over other globals: no module is patched, so tiktoken's other users see no change.
    """

    def load(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
        return _read_vocabulary(url, expected_hash, directories)

    assert isinstance(constructor, types.FunctionType)
    return types.FunctionType(constructor.__code__, {**constructor.__globals__, "load_tiktoken_bpe": load})


def _read_vocabulary(url: str, expected_sha256: str | None, directories: Sequence[Path]) -> dict[bytes, int]:
    """A vocabulary's tokens and ranks from tiktoken's cache, where files are named by the SHA-1 of their address."""
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    for directory in directories:
        file = directory / name
        if not file.is_file():
            continue
        data = file.read_bytes()
        # The directory may be writable by others; without a published digest its content proves nothing.
        if expected_sha256 is not None and hashlib.sha256(data).hexdigest() == expected_sha256:
            pairs = (line.split() for line in data.splitlines() if line)
            return {base64.b64decode(token): int(rank) for token, rank in pairs}
    raise VocabularyMissingError(url)


def estimate_tokens(text: str | bytes) -> int:
    """Tokens of a text, estimated from its UTF-8 bytes; at least 1 for any text at all. At most 3 ns a byte.

    Examples
    --------
    >>> estimate_tokens("The quick brown fox jumps over the lazy dog.")
    11
    >>> estimate_tokens("敏捷的棕色狐狸")
    7
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if data.isascii():
        return math.ceil(len(data) / 4)
    ascii_bytes = len(data.translate(None, _NOT_ASCII))
    two, three, four = (len(data.translate(None, others)) for others in (_NOT_LEAD_2, _NOT_LEAD_3, _NOT_LEAD_4))
    return math.ceil(ascii_bytes / 4 + two / 2 + three + 2 * four)


def count_tokens(model: str, text: str) -> int | None:
    """Tokens of ``text`` in the vocabulary of ``model``; ``None`` where that is unknown or not loaded."""
    encoding = _encoding_of(model)
    return None if encoding is None else len(encoding.encode_ordinary(text))


def count_usage(model: str, input: str | int, output: str | Sequence[str], output_chars: int | None = None) -> Usage:
    """Usage of an answer whose provider reported none.

    Parameters
    ----------
    model
        The provider's name of the model; a prefix such as ``openai/`` is overlooked.
    input
        The prompt's text, or an estimate of its tokens.
    output
        The generated text, whole or in pieces that each were generated by themselves (choices).
    output_chars
        Length of all that was generated, where ``output`` is only its beginning.

    Returns
    -------
    Usage
        Marked ``counted`` only where both sides were counted in full; a sum is as good as its weakest part.
    """
    if isinstance(input, str):
        input_tokens, input_counted = _measure(model, input, None)
    else:
        input_tokens, input_counted = input, False
    text = output if isinstance(output, str) else "".join(output)
    output_tokens, output_counted = _measure(model, text, output_chars)
    source = Provenance.COUNTED if input_counted and output_counted else Provenance.ESTIMATED
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, source=source)


CHARS_PER_EVENT = 6
"""Streams that send a token at a time have fewer characters to an event, on average."""
SLACK_CHARS = 24
"""Averages of a few events tell little."""


def may_be_tokens(text: str, events: int) -> bool:
    """Whether a text may have ``events`` tokens; some servers send it in smaller pieces, a letter at a time.

    No estimate is low by more than half.
    """
    return events <= 2 * estimate_tokens(text)


def count_sent(model: str, text: str, events: int) -> tuple[int, Provenance]:
    """Tokens of a part of an answer that came in ``events`` pieces: each is a token at least, unless it is too small.

    Counted with the model's vocabulary; else the number of events, where they are of a size to be tokens; else
    estimated by size.
    """
    counted = count_tokens(model, text) if len(text) <= MAX_COUNTED_CHARS else None
    if counted is not None:
        return counted, Provenance.COUNTED
    if may_be_tokens(text, events) and len(text) <= CHARS_PER_EVENT * events + SLACK_CHARS:
        return events, Provenance.ESTIMATED
    return estimate_tokens(text), Provenance.ESTIMATED


def surely_spent(tokens: int, source: Provenance, events: int) -> int:
    """Of a part that ``count_sent`` puts at ``tokens``, those that its author's limit has surely paid for.

    An estimate by size is high by up to half. Taken in full from the limit of a continuation, it would end the answer
    before the caller's limit, with a finish reason that blames that limit.
    """
    return tokens if source is Provenance.COUNTED or tokens == events else tokens * 2 // 3


def _measure(model: str, text: str, chars: int | None) -> tuple[int, bool]:
    """Tokens of a text of ``chars`` characters that begins with ``text``, and whether they were counted in full."""
    if not text:
        return 0, not chars
    whole = max(chars or 0, len(text))
    counted = count_tokens(model, text[:MAX_COUNTED_CHARS])
    if counted is not None:
        seen = min(len(text), MAX_COUNTED_CHARS)
        return math.ceil(counted * whole / seen), seen == whole
    return math.ceil(estimate_tokens(text) * whole / len(text)), False


def _encoding_of(model: str) -> Encoding | None:
    if not _encodings:
        return None
    try:
        name = import_module("tiktoken.model").encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return None
    return _encodings.get(name)
