"""What a replay is going to do, read off its trace before anything is sent: for the ETA, and for whoever pays."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from amaru.errors import TraceError
from amaru.simulation.traces import TraceFormat, TraceRequest, open_trace

LOOK_S = 3.0
"""Longest time spent on reading ahead: about a million rows."""
_ROWS_A_LOOK = 1000


class Plan(msgspec.Struct, frozen=True):
    """The trace as it will be played."""

    path: Path
    format: TraceFormat
    requests: Iterator[TraceRequest]
    """To be played; read while playing."""
    count: int | None = None
    """Requests; ``None``: not known, as the trace is a pipe, or too long to be read ahead."""
    planned_s: float | None = None
    """From the first departure to the last, or ``--duration-s``."""
    input_tokens: int = 0
    output_tokens: int = 0


def plan(
    path: Path,
    *,
    speed: float,
    limit: int | None = None,
    duration_s: float | None = None,
    look_s: float = LOOK_S,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Open a trace and, where it is a file, read it ahead for up to ``look_s``.

    Raises
    ------
    TraceError
        It cannot be read, is of no known format, or has a mistake within what is read ahead: better told before the
        first request than after the thousandth.
    """
    trace = open_trace(path)
    played = islice(trace.requests, limit)
    if not stat.S_ISREG(path.stat().st_mode):
        return Plan(path, trace.format, played, planned_s=duration_s)
    count = inputs = outputs = 0
    last_s = 0.0
    give_up_at = clock() + look_s
    for request in islice(open_trace(path).requests, limit):
        if duration_s is not None and request.at_s / speed >= duration_s:
            last_s = duration_s
            break
        count += 1
        inputs += request.input_tokens
        outputs += request.output_tokens
        last_s = request.at_s / speed
        if count % _ROWS_A_LOOK == 0 and clock() > give_up_at:
            return Plan(path, trace.format, played, planned_s=duration_s)
    if not count:
        raise TraceError(f"{path}: no request falls into the time to be played; raise --limit or --duration-s")
    return Plan(path, trace.format, played, count, last_s, inputs, outputs)


def described(plan: Plan, speed: float) -> str:
    """The plan in a sentence."""
    what = f"{plan.path.name} ({plan.format.value} format) at {speed:g}x"
    if plan.count is None or plan.planned_s is None:
        return f"{what}: its length is not known"
    noun = "request" if plan.count == 1 else "requests"
    tokens = f"{plan.input_tokens:,} tokens in and up to {plan.output_tokens:,} out"
    return f"{what}: {plan.count:,} {noun} in {time_text(plan.planned_s)}, {tokens}"


def time_text(seconds: float) -> str:
    """``59 s``, ``2:57 min``, ``1:02:03 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02} h" if hour else f"{minute}:{second:02} min"
