"""The report of a replay: what was measured, in JSON for programs and in Markdown and plots for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from amaru.errors import ReportError
from amaru.readiness.markdown import plain
from amaru.readiness.measuring import UNFINISHED, Sample, distributions, summarize
from amaru.readiness.replay_data import DATA, ReplayReport, Setup
from amaru.readiness.replay_markdown import markdown
from amaru.readiness.replay_plots import draw
from amaru.readiness.replay_series import curves, series
from amaru.readiness.replay_warnings import warnings
from amaru.telemetry.redaction import REDACTED, redact_text

TEXT = "replay.md"
EXAMPLES = 12
"""Kinds of errors of which the report keeps the words of one."""

LONGEST_COMMAND = 2000

_KEY_OPTION = re.compile(
    r"""(--?[\w-]*(?:key|secret|password|authorization|auth|header)(?:=|\s+))("[^"]*"|'[^']*'|\S+)""", re.I
)
_URL = re.compile(r"(?:\b[a-z][a-z0-9+.-]*:)?//[^\s\"'`]+", re.I)


class ReplayRun(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that has ended, as the player hands it over."""

    samples: list[Sample]
    dropped: int
    """Requests never sent, since too many were open."""
    duration_s: float
    """From the start until no more was sent."""
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
    client: dict[str, Any] = msgspec.field(default_factory=dict)  # Any: JSON
    """How the client behaved: its `Habits`, and what else of it a figure depends on."""


def write_report(run: ReplayRun, directory: Path) -> list[Path]:
    """Write ``replay.json``, ``replay.md`` and the plots into ``directory``; returns what was written.

    The JSON goes first: whatever happens to the rest, the figures are safe.

    Raises
    ------
    ReportError
        The directory cannot be written to.
    """
    report = build_report(run)
    data, text = directory / DATA, directory / TEXT
    try:
        directory.mkdir(parents=True, exist_ok=True)
        data.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        text.write_text(markdown(report), encoding="utf-8")
        return [data, text, *draw(report, directory)]
    except OSError as error:
        why = error.strerror or str(error)
        raise ReportError(f"cannot write the report into {directory}: {why}; name another with --out") from error


def build_report(run: ReplayRun) -> ReplayReport:
    """Everything that can be said of ``run``."""
    timed = distributions(run.samples)
    summary = summarize(
        run.samples,
        duration_s=run.duration_s,
        slo_first_token_s=run.slo_first_token_s,
        dropped=run.dropped,
        timed=timed,
    )
    return ReplayReport(
        setup=Setup(
            trace=plain(run.trace),
            trace_format=plain(run.trace_format),
            speed=run.speed,
            target=plain(_without_secrets(run.target)),
            model=plain(run.model),
            slo_first_token_s=run.slo_first_token_s,
            complete=run.complete,
            started_at=datetime.fromtimestamp(run.started_at, UTC).isoformat(timespec="seconds"),
            command=plain(_command_without_secrets(run.command), LONGEST_COMMAND),
            machine={plain(name): plain(str(value)) for name, value in run.machine.items()},
            client={plain(name): plain(str(value)) for name, value in run.client.items()},
        ),
        summary=summary,
        error_examples=_examples(run.samples),
        warnings=tuple(warnings(summary, complete=run.complete, streamed=run.client.get("stream") is not False)),
        curves=curves(timed),
        series=series(run.samples, duration_s=run.duration_s, slo_first_token_s=run.slo_first_token_s),
    )


def _without_secrets(url: str) -> str:
    """``url`` without user, password, query and fragment, all of which may hold a key."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL at all; still, nothing after an @ or ? is lost by leaving out the rest
        return re.split(r"[?#]", url.rpartition("@")[2])[0]
    return redact_text(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def _command_without_secrets(command: str) -> str:
    shown = _KEY_OPTION.sub(rf"\g<1>{REDACTED}", command)
    return redact_text(_URL.sub(lambda found: _without_secrets(found[0]), shown))


def _examples(samples: list[Sample]) -> dict[str, str]:
    examples: dict[str, str] = {}
    for sample in samples:
        if sample.error and sample.error != UNFINISHED and sample.detail and sample.error not in examples:
            examples[sample.error] = plain(redact_text(sample.detail))
            if len(examples) == EXAMPLES:
                break
    return examples
