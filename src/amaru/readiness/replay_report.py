"""The report of a replay: what was measured, in JSON for programs and in Markdown and plots for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from amaru.errors import ReportError
from amaru.readiness.measuring import Sample, summarize


class ReplayRun(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that has ended, as the player hands it over."""

    samples: list[Sample]
    dropped: int
    """Requests never sent, since too many were open."""
    duration_s: float
    """What rates are taken over."""
    complete: bool
    """False: it was stopped before the end of the trace."""
    target: str
    """The URL that was called."""
    model: str
    trace: str
    """The trace's file name."""
    trace_format: str
    speed: float
    slo_first_token_s: float
    started_at: float
    """Unix time."""
    command: str
    machine: dict[str, Any]  # Any: JSON
    """From ``readiness.machine``."""


def write_report(run: ReplayRun, directory: Path) -> list[Path]:
    """Write ``replay.json`` and ``replay.md`` into ``directory``; returns what was written.

    Raises
    ------
    ReportError
        The directory cannot be written to.
    """
    summary = summarize(
        run.samples, duration_s=run.duration_s, slo_first_token_s=run.slo_first_token_s, dropped=run.dropped
    )
    data, text = directory / "replay.json", directory / "replay.md"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        data.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        text.write_text(f"# Replay\n\n{summary.served} of {summary.sent} requests were served.\n", encoding="utf-8")
    except OSError as error:
        raise ReportError(f"cannot write the report into {directory}: {error.strerror or error}") from error
    return [data, text]
