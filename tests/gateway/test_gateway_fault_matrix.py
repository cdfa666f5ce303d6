"""The fault matrix against amaru: every failure at every point of a request ends in a whole answer or the right error.

What must come is read from DESIGN.md's failure taxonomy (`expected` below). The harness that breaks, asks and judges is
`amaru.readiness.fault_matrix`; ``benchmarks/fault_matrix.py`` runs the same one against other gateways.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from gateway_world import KEY, PROVIDER_KEY, MakeWorld

from amaru.config import load
from amaru.domain import FailureKind
from amaru.readiness.fault_matrix import (
    PROVIDER_MODEL,
    Cell,
    Lane,
    Outcome,
    Placement,
    Target,
    cells,
    in_words,
    profile,
    references,
    run,
)
from amaru.readiness.fault_matrix_cases import Case, Way, all_cases, failure_kind_of
from amaru.readiness.fault_matrix_reading import Result, Shape
from amaru.simulation.faults import EDITS, POINTS

pytestmark = pytest.mark.slow
LANES = 48
PATIENCE_S = 120.0
MOST_ATTEMPTS = 6
MOST_SECONDS = 60.0
BREAKS_NOTHING = ("price", "capacity", *EDITS)
KINDS = [kind for kind in POINTS if kind not in BREAKS_NOTHING]

CALLERS_OWN = (FailureKind.CONTEXT_TOO_LONG, FailureKind.CONTENT_REJECTED, FailureKind.BAD_REQUEST)
STATUSES = {
    FailureKind.RATE_LIMITED: 429,
    FailureKind.OVERLOADED: 503,
    FailureKind.SERVER_ERROR: 502,
    FailureKind.BAD_CREDENTIALS: 502,
    FailureKind.QUOTA_EXHAUSTED: 502,
    FailureKind.UNKNOWN_MODEL: 502,
    **dict.fromkeys(CALLERS_OWN, 400),
}
ASKED_AGAIN = (FailureKind.RATE_LIMITED, FailureKind.OVERLOADED, FailureKind.SERVER_ERROR)


# ---- what must come (DESIGN.md, the failure taxonomy) ---------------------------------------------------------------


def expected(cell: Cell) -> tuple[str, ...]:
    """``whole``, or the error in words: ``error 502``; where part of the answer should have been sent, ``error event``
    first, and behind it what is right where a busy machine read beginning and break as one."""
    kind = failure_kind_of(cell.case.fault)
    callers_own = kind in CALLERS_OWN
    if loses_nothing(cell):
        return ("whole",)
    if not callers_own and (cell.placement is Placement.ONE or (passes(cell) and asked_again(cell))):
        return ("whole",)
    status = STATUSES[kind] if kind is not None else 504 if cell.case.waits else 502
    if cell.way is Way.STREAM and cell.shape is Shape.TEXT and cell.case.fault.point in ("mid", "last"):
        return ("error event", f"error {status}")
    return (f"error {status}",)


def loses_nothing(cell: Cell) -> bool:
    """A stream that has named its finish reason is whole, whatever comes in the place of its [DONE]."""
    return cell.case.fault.point == "done"


def passes(cell: Cell) -> bool:
    return cell.placement is Placement.ONCE


def asked_again(cell: Cell) -> bool:
    """Whether the table lets the same offer be asked once more."""
    fault, stream = cell.case.fault, cell.way is Way.STREAM
    kind = failure_kind_of(fault)
    if kind is not None:
        return kind in ASKED_AGAIN
    if cell.case.waits:
        return False
    before_any_byte = fault.point in ("connect", "head", "half_head")
    nothing_came = fault.point == "first_byte" and fault.kind == "cut" and fault.how == "end"  # an empty body
    return before_any_byte or nothing_came or not stream


def mistakes(outcome: Outcome) -> list[str]:
    """What is wrong about it, in words."""
    wanted = expected(outcome.cell)
    wrong = [] if outcome.verdict.words in wanted else [f"should be {' or '.join(wanted)}"]
    return wrong + mistakes_of_any(outcome)


def mistakes_of_any(outcome: Outcome) -> list[str]:
    """What would be wrong about any outcome."""
    cell, verdict = outcome.cell, outcome.verdict
    found = []
    if verdict.result is Result.WHOLE and cell.way is Way.STREAM and not verdict.done:
        found.append("a whole stream without [DONE]")
    if outcome.attempts > MOST_ATTEMPTS:
        found.append(f"at most {MOST_ATTEMPTS} attempts")
    if outcome.seconds > MOST_SECONDS:
        found.append(f"at most {MOST_SECONDS:g} s")
    if outcome.next.result is not Result.WHOLE:
        found.append("the request right after must succeed")
    if outcome.open_attempts:
        found.append(f"{outcome.open_attempts} calls were left open")
    return found


# ---- amaru in front of many lanes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """How a broken stream of text can go on."""

    claims_prefill: bool
    prefill: str
    """What the providers do with a trailing assistant message."""
    joined: str
    """How the closing comment says it was joined."""


CONTINUED = Setup(True, "continue", "continued")
REPEATED = Setup(False, "continue", "repeated")
REJECTED = Setup(True, "reject", "repeated")


def offers(wanted: Sequence[Cell], setup: Setup) -> list[dict[str, Any]]:
    capabilities = ["stream", "tools", "json_schema", *(["prefill"] if setup.claims_prefill else [])]
    made = []
    for cell in wanted:
        lane = cell.number % LANES
        alone = cell.placement in (Placement.ALONE, Placement.ONCE)
        for price, place in enumerate(("first",) if alone else ("first", "second"), 1):
            made.append(
                {
                    "provider": f"{place}{lane}",
                    "resource": cell.model,
                    "model": PROVIDER_MODEL,
                    "capabilities": capabilities,
                    "price": {"input_usd_per_mtok": float(price), "output_usd_per_mtok": float(price)},
                }
            )
    return made


async def run_through_amaru(make_world: MakeWorld, wanted: Sequence[Cell], setup: Setup) -> list[Outcome]:
    names = tuple(f"{place}{lane}" for lane in range(LANES) for place in ("first", "second"))
    profiles = {name: profile(name, keys=(PROVIDER_KEY,), prefill=setup.prefill) for name in names}  # type: ignore[arg-type]
    waits = any(case.waits for cell in wanted for case in (cell.case, cell.beside or cell.case))
    limit_ms = 3000 if waits else 20_000
    routing = {
        "first_token_ms": limit_ms,
        "answer_ms": 2 * limit_ms,
        "idle_ms": limit_ms,
        "retry_budget": {"ratio": 1.0, "min_per_s": 10_000},
    }
    extra = {
        "offers": offers(wanted, setup),
        "aliases": {},
        # Sensed, but not acted upon: what is to strike must not be foreseen and avoided.
        "health": {"healing": "off", "prediction": False},
        "stability": {"guardian": False},
    }
    async with make_world(names, profiles=profiles, routing=routing, extra=extra) as world:
        lanes = [Lane(world.providers[f"first{lane}"], world.providers[f"second{lane}"]) for lane in range(LANES)]

        config = load(world.config_path, {"SIM_KEY": PROVIDER_KEY})

        async def mend() -> None:
            world.mesh.reload(config)

        target = Target(f"{world.base_url}/v1", (("authorization", f"Bearer {KEY}"),), mend)
        answers = await references(lanes[0], (("authorization", f"Bearer {PROVIDER_KEY}"),))
        return await run(wanted, lanes, target, answers, patience_s=PATIENCE_S)


def check(outcomes: Sequence[Outcome]) -> None:
    lines = [f"{in_words(outcome)}: {'; '.join(found)}" for outcome in outcomes if (found := mistakes(outcome))]
    assert not lines, f"{len(lines)} of {len(outcomes)} cells:\n" + "\n".join(lines)


def cases_of(kind: str) -> list[Case]:
    return [case for case in all_cases() if case.fault.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_failure_ends_in_a_whole_answer_or_the_right_error(make_world: MakeWorld, kind: str) -> None:
    check(await run_through_amaru(make_world, cells(cases_of(kind)), CONTINUED))


@pytest.mark.parametrize("setup", [CONTINUED, REPEATED, REJECTED], ids=["continued", "repeated", "rejected prefill"])
async def test_a_stream_of_text_that_breaks_is_joined_without_a_seam(make_world: MakeWorld, setup: Setup) -> None:
    breaks = [case for case in all_cases() if case.fault.point in ("mid", "last") and not case.waits]
    every = cells(breaks, (Placement.ONE, Placement.BOTH), (Shape.TEXT,))
    wanted = [cell for cell in every if cell.way is Way.STREAM]
    outcomes = await run_through_amaru(make_world, wanted, setup)
    check(outcomes)
    assert any(outcome.verdict.event for outcome in outcomes), "a break was after the first byte"
    assert setup.joined in {joined_of(outcome) for outcome in outcomes}


@pytest.mark.parametrize("waits", [False, True], ids=["quick", "with waits"])
async def test_two_different_failures_at_once_never_leave_a_beginning_that_looks_whole(
    make_world: MakeWorld, waits: bool
) -> None:
    outcomes = await run_through_amaru(make_world, pairs(90, waits=waits), CONTINUED)
    lines = []
    for outcome in outcomes:
        result, found = outcome.verdict.result, mistakes_of_any(outcome)
        if result not in (Result.WHOLE, Result.ERROR):
            found.append("neither whole nor an error")
        if second_would_serve(outcome.cell) and result is not Result.WHOLE:
            found.append("should be whole")
        lines += [f"{in_words(outcome)}: {'; '.join(found)}"] if found else []
    assert not lines, "\n".join(lines)


def pairs(count: int, *, waits: bool) -> list[Cell]:
    """``count`` cells in which the two providers fail differently; in those with ``waits`` at least one is silent."""
    rng = random.Random(20)
    found: list[Cell] = []
    while len(found) < count:
        first, second = rng.sample(all_cases(), 2)
        way, shape = rng.choice(list(Way)), rng.choice(list(Shape))
        if way in first.ways and way in second.ways and (first.waits or second.waits) is waits:
            found.append(Cell(len(found), first, Placement.BOTH, way, shape, second))
    return found


def second_would_serve(cell: Cell) -> bool:
    """Whether the second failure costs nothing, and the first one leaves it the chance."""
    assert cell.beside is not None
    return cell.beside.fault.point == "done" and failure_kind_of(cell.case.fault) not in CALLERS_OWN


def joined_of(outcome: Outcome) -> str | None:
    """What the closing comment says about the join."""
    told = outcome.verdict.comment.removeprefix("amaru ")
    return json.loads(told).get("joined") if told else None


def test_the_matrix_leaves_no_failure_out() -> None:
    here = {(case.fault.kind, case.fault.point) for case in all_cases()}
    assert here == {(kind, point) for kind in KINDS for point in POINTS[kind]}
    names = [cell.name for cell in cells(all_cases())]
    assert len(names) == len(set(names))
