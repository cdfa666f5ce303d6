"""What every reader of traces shares: the request, lines in bounded memory, and errors that name their place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from amaru.errors import TraceError

MAX_TOKENS = 100_000_000
"""A larger count is a mistake in the file."""
MAX_LINE_CHARACTERS = 16 * 1024 * 1024
"""A longer line is no row of a trace: read whole, it would fill the memory."""
BLOCK_TOKENS = 512
"""Tokens of a prompt block, as Mooncake cuts them."""


class TraceRequest(msgspec.Struct, frozen=True):
    """One request of a trace."""

    at_s: float
    """Seconds since the first request of the trace."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int | str, ...] = ()
    """Names of the prompt's leading blocks: two prompts share what they share from the start. Text behind them is the
    prompt's own; empty: all of it is."""
    block_tokens: int = BLOCK_TOKENS
    """Tokens of each block; the last may be cut by ``input_tokens``."""


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file with their ends, each no longer than ``MAX_LINE_CHARACTERS``.

    Raises
    ------
    TraceError
        It cannot be read, is no UTF-8 text, or has a line that is too long.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while line := file.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise TraceError(f"{path}, line {number}: longer than 16 MiB; a trace has one request on each line")
                yield line
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not UTF-8 text after line {number}; is it packed? Unpack it first") from None


def wrong(path: Path, line: int, field: str, words: str) -> NoReturn:
    """Raise the error of one field in one line; ``words`` say what is wrong, and the remedy."""
    raise TraceError(f"{path}, line {line}, {field}: {words}")
