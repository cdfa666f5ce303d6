"""Traces of LLM traffic: when each request came, how many tokens went in and out, and what their prompts share.

`open_trace` reads any of three formats, told by what stands in the file: Azure's CSV, Mooncake's JSON lines, and
amaru's own JSON lines, into which every trace can be turned (`write_amaru`).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from importlib.resources import files
from itertools import chain
from pathlib import Path

import msgspec

from amaru.errors import TraceError
from amaru.simulation.traces_azure import COLUMNS, azure_rows, read_azure, write_azure
from amaru.simulation.traces_base import BLOCK_TOKENS, TraceRequest, lines_of
from amaru.simulation.traces_json import (
    AMARU_EXAMPLE,
    MOONCAKE_EXAMPLE,
    amaru_rows,
    fields_of,
    mooncake_rows,
    read_amaru,
    read_mooncake,
    write_amaru,
)

__all__ = [
    "BLOCK_TOKENS",
    "Trace",
    "TraceFormat",
    "TraceRequest",
    "bundled_trace",
    "open_trace",
    "read_amaru",
    "read_azure",
    "read_mooncake",
    "write_amaru",
    "write_azure",
]

_SNIFFED_LINES = 100
"""Blank lines before the first of a file that are put up with."""


class TraceFormat(StrEnum):
    """Whose format a trace has."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    AMARU = "amaru"


class Trace(msgspec.Struct, frozen=True):
    """A trace that was opened."""

    format: TraceFormat
    requests: Iterator[TraceRequest]
    """Row by row, in bounded memory; raises ``TraceError`` at a row that is wrong."""


def open_trace(path: Path) -> Trace:
    """Open a trace of any format. The file is read once from its beginning: it may be a pipe.

    Raises
    ------
    TraceError
        The file cannot be read, or begins like none of the formats; the message says what each looks like.
    """
    lines = lines_of(path)
    begun: list[str] = []
    for line in lines:
        begun.append(line)
        if line.strip() or len(begun) == _SNIFFED_LINES:
            break
    format = _format_of(path, len(begun), begun[-1].strip() if begun else "")
    rows = {TraceFormat.AZURE: azure_rows, TraceFormat.MOONCAKE: mooncake_rows, TraceFormat.AMARU: amaru_rows}[format]
    return Trace(format, rows(path, chain(begun, lines)))


def bundled_trace() -> Path:
    """The trace that comes with amaru; `amaru.simulation.trace_generator` made it and can make it again."""
    return Path(str(files("amaru.simulation") / "data" / "generated_conv.csv"))


def _format_of(path: Path, number: int, line: str) -> TraceFormat:
    if line.startswith("{"):
        names = fields_of(path, number, line)
        if names & {"at_s", "input_tokens", "output_tokens"}:
            return TraceFormat.AMARU
        if names & {"timestamp", "input_length", "hash_ids"}:
            return TraceFormat.MOONCAKE
        words = f"an object with {', '.join(sorted(names)) or 'no fields'}"
    elif any(name.strip().lower() == COLUMNS[0].lower() for name in line.split(",")):
        return TraceFormat.AZURE
    elif line.startswith("["):
        words = "a JSON array; write one object a line"
    else:
        words = f"{line[:40]!r}" if line else "nothing"
    raise TraceError(
        f"{path}, line {max(number, 1)}: no known trace: {words}. It must begin with the header {','.join(COLUMNS)} "
        f"(Azure), or hold lines like {MOONCAKE_EXAMPLE} (Mooncake) or {AMARU_EXAMPLE} (amaru)"
    )
