"""From what became of an attempt, or from a caller's report, to what policies learn from.

One place for both, live and from history: what is trained from stored decisions is what was learned while serving.
"""

from __future__ import annotations

import math

from amaru.domain import Attempt, Capability, Experience, FailureKind, Kind, Offer, Outcome, Seen, Workload
from amaru.errors import Failure
from amaru.routing.reactions import Health, reaction_to

REPORT_BOUND = 10.0
"""A caller's report counts as at most so many times, and at least such a part of, what the offer advertises: one word
must not move an offer further than one surprising measurement could."""

_HEALTH = {kind: reaction_to(Failure(kind, "")).health for kind in FailureKind}
_BLAMED = frozenset(kind for kind, health in _HEALTH.items() if health is not Health.HEALTHY)
_BLAMED_BY_REPORT = frozenset(kind for kind, health in _HEALTH.items() if health in (Health.FAILING, Health.SUSPECT))
"""A caller that places its work itself uses its own key and quota, which say nothing about the offer."""


def experience_of(
    workload: Workload, attempt: Attempt, decided_at: float, seen: Seen | None = None, *, begun: bool = False
) -> Experience | None:
    """What an attempt that amaru made showed of its offer.

    Parameters
    ----------
    decided_at
        When the request was decided, in Unix seconds: ``attempt.started_ms`` counts from about then.
    seen
        What the decision saw of the offer (``ranking.seen_of``).
    begun
        The latency of its beginning was learned from already.

    Returns
    -------
    Experience
        With ``blame`` False where it failed without fault of the offer: the request was bad, or out of time.
    None
        Where it neither failed nor served: its caller went away, or its answer could not be joined to another's.
    """
    failure = attempt.failure
    if failure is None and attempt.detail:
        return None
    latency_ms: float | None = None
    if failure is None:
        # A stream without a first token came as a whole answer, which says nothing of how soon streams begin.
        latency_ms = attempt.first_token_ms if Capability.STREAM in workload.needs else attempt.latency_ms
    return Experience(
        at=decided_at + (attempt.started_ms + attempt.latency_ms) * 1e-3,
        ok=failure is None,
        failure=failure,
        latency_ms=latency_ms,
        cost_usd=attempt.cost_usd,
        # The bill of an attempt is its usage at the posted price (``accounts.cost``).
        expected_cost_usd=None if attempt.usage is None else attempt.cost_usd,
        load=attempt.load,
        blame=failure is None or (failure in _BLAMED and not attempt.out_of_time),
        seen=seen,
        begun=begun,
    )


def experience_of_report(
    workload: Workload, offer: Offer, outcome: Outcome, expected_cost_usd: float | None, seen: Seen | None = None
) -> Experience:
    """What a caller reports of an offer that it used itself, within ``REPORT_BOUND`` of what was to be expected.

    Parameters
    ----------
    expected_cost_usd
        What the offer's posted price gives for the usage that is reported; ``None``: unknown.
    seen
        What the decision saw of the offer.
    """
    latency_ms: float | None = None
    if outcome.ok:
        latency_ms = outcome.latency_ms
        if workload.kind is Kind.GPU_JOB or Capability.STREAM in workload.needs:
            # Whole answers may well take ten times what the first token is advertised to.
            if outcome.first_token_ms is not None:
                latency_ms = outcome.first_token_ms
            if latency_ms > 0.0:
                latency_ms = min(max(latency_ms, offer.latency_ms / REPORT_BOUND), offer.latency_ms * REPORT_BOUND)
        if not 0.0 < latency_ms < math.inf:  # left out
            latency_ms = None
    cost_usd = outcome.cost_usd
    if expected_cost_usd is None or expected_cost_usd <= 0.0 or cost_usd <= 0.0:
        expected_cost_usd = None
    else:
        cost_usd = min(max(cost_usd, expected_cost_usd / REPORT_BOUND), expected_cost_usd * REPORT_BOUND)
    return Experience(
        at=outcome.at,
        ok=outcome.ok,
        failure=None if outcome.ok else outcome.failure or FailureKind.SERVER_ERROR,
        latency_ms=latency_ms,
        cost_usd=cost_usd,
        expected_cost_usd=expected_cost_usd,
        blame=outcome.ok or (outcome.failure or FailureKind.SERVER_ERROR) in _BLAMED_BY_REPORT,
        seen=seen,
    )
