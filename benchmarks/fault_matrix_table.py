"""The fault matrix as Markdown that a person can read: one row per fault and point, one column per gateway and way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from amaru.readiness.fault_matrix import Outcome, Placement
from amaru.readiness.fault_matrix_cases import Way
from amaru.readiness.fault_matrix_reading import Result, Shape

BEGIN, END = "<!-- fault matrix: begin -->", "<!-- fault matrix: end -->"

SYMBOLS = {
    Result.WHOLE: "✓",
    Result.ERROR: "△",
    Result.BROKEN: "✗",
    Result.HANG: "✗",
    Result.WRONG: "✗✗",
    Result.TRUNCATED: "✗✗",
}
KIND_WORDS = {
    "refuse": "connection refused",
    "reset": "connection broken",
    "cut": "answer ends early",
    "no_done": "no [DONE]",
    "hang": "never answers",
    "stall": "falls silent",
    "keepalive_only": "keep-alives only",
    "slow": "far too slow",
    "status": "error status",
    "error_in_200": "error object in a 200",
    "error_in_stream": "error event",
    "garbage": "unreadable",
    "truncated_utf8": "half a character",
}
POINT_WORDS = {
    "connect": "connecting",
    "head": "before the head",
    "half_head": "inside the head",
    "first_byte": "before the first byte",
    "mid": "mid-answer",
    "last": "before the last chunk",
    "done": "at [DONE]",
}
PLACEMENT_WORDS = {
    Placement.ONE: "One provider fails, the other is well",
    Placement.BOTH: "Both providers fail",
    Placement.ALONE: "The only provider fails",
    Placement.ONCE: "The only provider fails once (text alone)",
}


class Run(msgspec.Struct):
    """All that one run found."""

    outcomes: dict[str, list[Outcome]]
    versions: dict[str, str]
    machine: str
    day: str
    limit_s: float
    patience_s: float
    lanes: int


def rendered(run: Run) -> str:
    """Everything, as Markdown."""
    head = (
        f"Measured on {run.day}: {', '.join(run.versions[name] for name in run.outcomes)}. Machine: {run.machine}. "
        f"{run.lanes} cells under way at once; limits of both gateways: {run.limit_s:g} s for a first token, for a "
        f"silence and for a whole answer; the client waits {run.patience_s:g} s."
    )
    parts = [head, "### Totals\n\n" + totals(run)]
    for placement in Placement:
        words = PLACEMENT_WORDS[placement]
        body = rows(run, placement)
        if placement in (Placement.ONE, Placement.BOTH):
            parts.append(f"### {words}\n\n{body}")
        else:
            indented = "\n".join("    " + line if line else line for line in body.splitlines())
            parts.append(f'??? note "{words}"\n\n{indented}')
    return "\n\n".join(parts) + "\n"


def totals(run: Run) -> str:
    """Cells by result, the most attempts, the longest time, and the request right after."""
    lines = [
        "| who fails | gateway | cells | " + " | ".join(f"{SYMBOLS[result]} {result}" for result in Result)
        + " | most attempts | longest | the next request served |",
        "|---|---|--:|" + "--:|" * (len(Result) + 3),
    ]  # fmt: skip
    for placement in Placement:
        for name, outcomes in run.outcomes.items():
            mine = [outcome for outcome in outcomes if outcome.cell.placement is placement]
            if not mine:
                continue
            count = Counter(outcome.verdict.result for outcome in mine)
            # Who needs an operator is not expected back without one.
            after = [outcome for outcome in mine if not outcome.cell.needs_operator]
            served = sum(outcome.next.result is Result.WHOLE for outcome in after)
            lines.append(
                f"| {PLACEMENT_WORDS[placement]} | {name} | {len(mine)} | "
                + " | ".join(str(count[result]) for result in Result)
                + f" | {max(outcome.attempts for outcome in mine)} | {max(outcome.seconds for outcome in mine):.1f} s"
                + f" | {served} of {len(after)} |"
            )
    return "\n".join(lines)


def rows(run: Run, placement: Placement) -> str:
    """One table. Variants of one fault at one point that came to the same share a row."""
    gateways = list(run.outcomes)
    heads = [f"{name}: {way}" for name in gateways for way in Way]
    lines = ["| fault | where | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    merged: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (kind, point, variant), columns in _by_case(run, placement).items():
        shown = tuple(_shown(columns.get((name, way), [])) for name in gateways for way in Way)
        merged.setdefault((kind, point, shown), []).append(variant)
    for (kind, point, shown), variants in merged.items():
        named = ", ".join(variant for variant in variants if variant)
        fault = KIND_WORDS[kind] + (f": {named}" if named else "")
        lines.append(f"| {fault} | {POINT_WORDS[point]} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _by_case(
    run: Run, placement: Placement
) -> dict[tuple[str, str, str], dict[tuple[str, Way], list[Outcome]]]:  # fmt: skip
    found: dict[tuple[str, str, str], dict[tuple[str, Way], list[Outcome]]] = {}
    for name, outcomes in run.outcomes.items():
        for outcome in outcomes:
            cell = outcome.cell
            if cell.placement is placement:
                key = (cell.case.fault.kind, cell.case.fault.point, cell.case.variant)
                found.setdefault(key, {}).setdefault((name, cell.way), []).append(outcome)
    return found


def _shown(outcomes: Sequence[Outcome]) -> str:
    """The results of text, tools and JSON: one where they agree."""
    if not outcomes:
        return "–"
    by_words: dict[str, list[Shape]] = {}
    for outcome in outcomes:
        verdict = outcome.verdict
        by_words.setdefault(f"{SYMBOLS[verdict.result]} {verdict.words}", []).append(outcome.cell.shape)
    if len(by_words) == 1:
        return next(iter(by_words))
    return "; ".join(f"{words} ({_listed(shapes)})" for words, shapes in by_words.items())


def _listed(shapes: Iterable[Shape]) -> str:
    return ", ".join("JSON" if shape is Shape.JSON else str(shape) for shape in shapes)


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the markers of ``page``."""
    old = page.read_text()
    begin, end = old.index(BEGIN) + len(BEGIN), old.index(END)
    page.write_text(f"{old[:begin]}\n\n{text}\n{old[end:]}")
