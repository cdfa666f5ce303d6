"""Traces as JSON lines: one object for each request, in the order of their times.

Mooncake's (https://github.com/kvcache-ai/Mooncake, published with the FAST '25 paper)::

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49]}

``timestamp`` in milliseconds; ``hash_ids`` names each block of 512 prompt tokens, the last one cut: the same id stands
for the same text with the same text before it. Other fields are passed over.

amaru's own::

    {"at_s": 27.482, "input_tokens": 6955, "output_tokens": 52, "blocks": [46, 47], "block_tokens": 512}

``at_s`` in seconds from any origin. ``blocks`` may be left out, and need not cover the prompt: the rest of it is text
that no other request has. ``block_tokens`` is 512 where it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import msgspec

from amaru.errors import TraceError
from amaru.simulation.traces_base import BLOCK_TOKENS, MAX_TOKENS, TraceRequest, lines_of, wrong

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
_BlockTokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
_Blocks = tuple[int | str, ...]

MOONCAKE_EXAMPLE = '{"timestamp": 27482, "input_length": 700, "output_length": 52, "hash_ids": [46, 47]}'
AMARU_EXAMPLE = '{"at_s": 27.482, "input_tokens": 700, "output_tokens": 52}'

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<field>.*?)`)?$")
_NAMED = re.compile(r"field `(?P<field>[^`]*)`")


class _Mooncake(msgspec.Struct):
    timestamp: float
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: _Blocks | None = None


class _Amaru(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    at_s: float
    input_tokens: _Tokens
    output_tokens: _Tokens
    blocks: _Blocks = ()
    block_tokens: _BlockTokens = BLOCK_TOKENS


_MOONCAKE = msgspec.json.Decoder(_Mooncake)
_AMARU = msgspec.json.Decoder(_Amaru)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_mooncake(path: Path) -> Iterator[TraceRequest]:
    """Read a Mooncake trace line by line, in bounded memory.

    Raises
    ------
    TraceError
        The file cannot be read, or a line is wrong; the message names file, line, field and remedy.
    """
    return mooncake_rows(path, lines_of(path))


def read_amaru(path: Path) -> Iterator[TraceRequest]:
    """Read a trace in amaru's own format; raises as `read_mooncake` does."""
    return amaru_rows(path, lines_of(path))


def mooncake_rows(path: Path, lines: Iterator[str]) -> Iterator[TraceRequest]:
    """The requests of ``lines``, which stand in ``path``."""
    return _rows(path, lines, _mooncake, "timestamp")


def amaru_rows(path: Path, lines: Iterator[str]) -> Iterator[TraceRequest]:
    """The requests of ``lines``, which stand in ``path``."""
    return _rows(path, lines, _amaru, "at_s")


def write_amaru(out: TextIO, requests: Iterable[TraceRequest]) -> None:
    """Write ``requests`` in amaru's own format: what any trace can be turned into without loss."""
    for request in requests:
        line = _Amaru(
            request.at_s, request.input_tokens, request.output_tokens, request.blocks, request.block_tokens
        )  # fmt: skip
        out.write(msgspec.json.encode(line).decode() + "\n")


def fields_of(path: Path, number: int, line: str) -> set[str]:
    """The names in one line's object."""
    try:
        return set(_FIELDS.decode(line))
    except msgspec.DecodeError as error:
        _told(path, number, error, AMARU_EXAMPLE)


def _rows(
    path: Path, lines: Iterator[str], read: Callable[[Path, int, str], TraceRequest], time_field: str
) -> Iterator[TraceRequest]:
    first_s: float | None = None
    last_s = 0.0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = read(path, number, line)
        if first_s is None:
            first_s = last_s = request.at_s
        if request.at_s < last_s:
            wrong(
                path, number, f"field {time_field}", f"earlier than the line before it; sort the file by {time_field}"
            )
        last_s = request.at_s
        # Positional: `structs.replace` would take as long as the decoding.
        yield TraceRequest(
            request.at_s - first_s, request.input_tokens, request.output_tokens, request.blocks, request.block_tokens
        )
    if first_s is None:
        raise TraceError(f"{path}: no requests; a trace needs at least one line like {AMARU_EXAMPLE}")


def _mooncake(path: Path, number: int, line: str) -> TraceRequest:
    try:
        row = _MOONCAKE.decode(line)
    except msgspec.DecodeError as error:
        _told(path, number, error, MOONCAKE_EXAMPLE)
    blocks = row.hash_ids or ()
    needed = -(-row.input_length // BLOCK_TOKENS)
    if row.hash_ids is not None and len(blocks) != needed:
        words = (
            f"{len(blocks)} blocks, but an input_length of {row.input_length} takes {needed} of {BLOCK_TOKENS} tokens; "
            "blocks of another size can be told in amaru's own format (block_tokens)"
        )
        wrong(path, number, "field hash_ids", words)
    return TraceRequest(row.timestamp / 1000, row.input_length, row.output_length, blocks)


def _amaru(path: Path, number: int, line: str) -> TraceRequest:
    try:
        row = _AMARU.decode(line)
    except msgspec.DecodeError as error:
        _told(path, number, error, AMARU_EXAMPLE)
    most = -(-row.input_tokens // row.block_tokens)
    if len(row.blocks) > most:
        words = (
            f"{len(row.blocks)} blocks, but {row.input_tokens} input_tokens have room for {most} of "
            f"{row.block_tokens} tokens; leave out those behind the prompt, or correct block_tokens"
        )
        wrong(path, number, "field blocks", words)
    return TraceRequest(row.at_s, row.input_tokens, row.output_tokens, row.blocks, row.block_tokens)


def _told(path: Path, number: int, error: msgspec.DecodeError, example: str) -> NoReturn:
    """Raise msgspec's error in our words."""
    if not isinstance(error, msgspec.ValidationError):
        raise TraceError(f"{path}, line {number}: no JSON ({error}); write one object a line, like {example}") from None
    found = _PLACE.match(str(error))
    what, field = (found["what"], found["field"]) if found else (str(error), None)
    named = _NAMED.search(what)
    if named is not None:
        missing = "missing" in what
        field, what = named["field"], "missing" if missing else "not a field of this format"
    place = f"{path}, line {number}" + (f", field {field}" if field else "")
    what = what[:1].lower() + what[1:]
    raise TraceError(f"{place}: {what}; write it like {example}") from None
