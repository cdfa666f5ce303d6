"""What stored decisions say of policies: for programs as JSON, for people as Markdown."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec

from amaru.learning.intervals import CONFIDENCE
from amaru.learning.logged_scoring import LeftOut
from amaru.learning.off_policy import Estimated, Evaluation

SCHEMA = "amaru-logged-1"
_SUSPECT = 0.1
"""The weights' mean may differ from 1 by so much before propensities are doubted, unless the sample is small."""

_METHOD = (
    "Mean utility of first attempts, doubly robust, with 95 % intervals (bootstrap over blocks of consecutive "
    "decisions); the gain is over the decisions as they were made."
)
_LEGEND = (
    "*effective*: how many decisions of its own would tell as much; *largest w*: the most that one decision counts "
    "for; *model alone* may be biased."
)


class Verdict(msgspec.Struct, frozen=True):
    """What was found of one target: ``found``, or why it was refused."""

    target: str
    learns_along: bool
    found: Evaluation | None
    refused: str | None

    @property
    def words(self) -> str:
        """Whether it would have done better, in a word or two."""
        if self.found is None:
            return "refused"
        interval = self.found.gain.interval
        if interval is None or not interval.sure:
            return "cannot say"
        return "better" if interval.low > 0.0 else "worse"


class LoggedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What stored decisions say of policies.

    Attributes
    ----------
    decisions, first_at, last_at
        How many were judged, and their span in Unix seconds.
    policies
        How many of them each policy made.
    explored
        How many of them the exploration floor drew.
    left_out
        What was not judged, and why.
    seed
        Of the bootstrap.
    verdicts
        One per target, in the order asked for.
    """

    source: str
    decisions: int
    first_at: float | None
    last_at: float | None
    policies: dict[str, int]
    explored: int
    left_out: list[LeftOut]
    seed: int
    verdicts: list[Verdict]
    schema: str = SCHEMA
    confidence: float = CONFIDENCE

    def json(self) -> bytes:
        """All of it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def markdown(self) -> str:
        """All of it, for reading."""
        lines = ["# Policies judged by stored decisions", "", *self._head(), ""]
        judged = [verdict for verdict in self.verdicts if verdict.found is not None]
        if judged:
            lines += [
                _METHOD,
                "",
                *_table(
                    (
                        "policy",
                        "utility (DR)",
                        "gain",
                        "SNIPS",
                        "IPS",
                        "model alone",
                        "effective",
                        "largest w",
                        "",
                    ),
                    [_row(verdict.target, verdict.found, verdict.words) for verdict in judged if verdict.found],
                ),
                "",
                _LEGEND,
                "",
            ]
        along = [verdict.target for verdict in self.verdicts if verdict.learns_along]
        if along:
            lines += [f"Learned along, from what had ended before each decision: {', '.join(along)}.", ""]
        for verdict in self.verdicts:
            if verdict.refused is not None:
                lines += [f"- **{verdict.target}** cannot be judged: {verdict.refused}", ""]
        for warning in self.warnings():
            lines += [f"- {warning}", ""]
        return "\n".join(lines).rstrip() + "\n"

    def warnings(self) -> list[str]:
        """What a reader must know before quoting a figure."""
        found = [f"Left out: {left.decisions:,} decisions; {left.why}." for left in self.left_out]
        for verdict in self.verdicts:
            if verdict.found is None:
                continue
            support = verdict.found.support
            # The mean of the weights has a standard deviation of about one over the effective sample's root.
            slack = max(_SUSPECT, 4.0 / max(support.effective, 1.0) ** 0.5)
            if abs(support.mean - 1.0) > slack:
                found.append(
                    f"The weights of {verdict.target} have a mean of {support.mean:.2f} where 1 is expected: some "
                    "propensities are not what was logged. Trust SNIPS and DR with care, and IPS not at all."
                )
        return found

    def _head(self) -> list[str]:
        span = "no time"
        if self.first_at is not None and self.last_at is not None:
            span = f"{_instant(self.first_at)} to {_instant(self.last_at)}"
        by = ", ".join(f"{name} {count:,}" for name, count in self.policies.items()) or "nobody"
        logged = next((verdict.found.logged for verdict in self.verdicts if verdict.found), None)
        lines = [
            f"- source: {self.source}",
            f"- decisions: {self.decisions:,}, from {span} (UTC)",
            f"- made by: {by}; {self.explored:,} of them drawn by the exploration floor",
        ]
        if logged is not None:
            lines.append(f"- mean utility as they were made: {_figure(logged)}")
        return lines


def _row(name: str, found: Evaluation, words: str) -> tuple[str, ...]:
    return (
        name,
        _figure(found.dr),
        _figure(found.gain, signed=True),
        _figure(found.snips),
        _figure(found.ips),
        f"{found.direct:.4f}",
        f"{found.support.effective:,.0f}",
        f"{found.support.largest:,.1f}",
        words,
    )


def _figure(estimated: Estimated, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    text = f"{estimated.value:{sign}.4f}"
    if estimated.interval is None:
        return text
    return f"{text} ({estimated.interval.low:{sign}.4f} to {estimated.interval.high:{sign}.4f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = tuple("---" if place in (0, len(head) - 1) else "---:" for place in range(len(head)))
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _instant(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(sep=" ", timespec="minutes")[:16]
