"""What two policies made of the same requests: each request's utility to its caller, and the difference by pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from amaru.domain import Weights
from amaru.readiness.demo_board import brief, struck
from amaru.readiness.measuring import Sample, Summary
from amaru.routing.score_kernels import utility
from amaru.simulation.faults import Incident
from amaru.simulation.profiles import ProviderProfile

BLOCK_S = 5.0
"""Requests of one moment share their luck, so intervals are taken over blocks of this length, not over requests."""
NORMAL_95 = 1.96


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One policy's run."""

    policy: str
    summary: Summary
    billed_usd: float
    """By its providers, failed attempts included."""
    attempts: int
    outcomes_learned: int


class Difference(msgspec.Struct, frozen=True):
    """The second's mean less the first's, over the same requests, with a 95 % interval; ``None``: too few blocks."""

    mean: float
    low: float | None
    high: float | None


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that were sent while something lasted: all, an incident, or none."""

    name: str
    from_s: float
    to_s: float
    requests: int
    served: tuple[int, int]
    utility: tuple[float, float]
    """Mean over all requests of it, those that failed counting 0."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two policies over the same requests, in the order first, second."""

    phases: tuple[Phase, ...]
    """The whole run first, then what was sent while nothing was broken, then each incident."""
    utility: Difference
    success: Difference
    first_token_ms: Difference
    """Over requests that both served."""


def comparison(
    samples: Sequence[Sequence[Sample]],
    profiles: Sequence[ProviderProfile],
    incidents: Sequence[Incident],
    *,
    elapsed_s: float,
) -> Comparison:
    """Compare two lanes that were sent the same requests; those that either did not send or end are left out."""
    judge = Judge(profiles)
    by_time = [{sample.at_s: sample for sample in lane if sample.error != "unfinished"} for lane in samples]
    times = sorted(by_time[0].keys() & by_time[1].keys())
    pairs = [(by_time[0][at], by_time[1][at]) for at in times]
    hit = {sample.at_s for incident in incidents for sample in struck([first for first, _ in pairs], incident)}
    begun = [incident for incident in incidents if incident.at_s < elapsed_s]
    phases = [_phase("the whole run", 0.0, elapsed_s, pairs, judge)]
    phases.append(_phase("nothing broken", 0.0, elapsed_s, [pair for pair in pairs if pair[0].at_s not in hit], judge))
    for incident in begun:
        end_s = min(elapsed_s, incident.at_s + (incident.duration_s or elapsed_s))
        within = [pair for pair in pairs if incident.at_s <= pair[0].at_s < end_s]
        phases.append(_phase(f"{incident.provider} {brief(incident.fault)}", incident.at_s, end_s, within, judge))
    both = [(a, b) for a, b in pairs if a.ok and b.ok and a.first_token_s is not None and b.first_token_s is not None]
    return Comparison(
        phases=tuple(phases),
        utility=_difference([(a.at_s, judge.utility(b) - judge.utility(a)) for a, b in pairs]),
        success=_difference([(a.at_s, float(b.ok) - float(a.ok)) for a, b in pairs]),
        first_token_ms=_difference(
            [(a.at_s, ((b.first_token_s or 0) - (a.first_token_s or 0)) * 1e3) for a, b in both]
        ),
    )


class Judge:
    """What an answer was worth to its caller: the utility that policies are trained and judged by."""

    def __init__(self, profiles: Sequence[ProviderProfile]) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        weights = Weights()  # the demo's tenant has amaru's defaults
        self._weights = (weights.price, weights.latency, weights.reputation, weights.availability)
        self._best_ms = min(max(1.0, profile.latency.ttft_ms) for profile in profiles)

    def utility(self, sample: Sample) -> float:
        """In about [0, 1]; 0 where there was no whole answer. The price is the provider's at the request's own mix."""
        profile = self._profiles.get(sample.provider)
        if not sample.ok or profile is None or sample.first_token_s is None:
            return 0.0
        best = min(_unit_price(each, sample) for each in self._profiles.values())
        first_token_ms = sample.first_token_s * 1e3
        return utility(
            self._weights, best, self._best_ms, _unit_price(profile, sample), first_token_ms, profile.reputation
        )


def _unit_price(profile: ProviderProfile, sample: Sample) -> float:
    tokens = sample.input_tokens + sample.output_tokens
    share = sample.output_tokens / tokens if tokens else 0.5
    price = profile.price
    return price.input_usd_per_mtok + share * (price.output_usd_per_mtok - price.input_usd_per_mtok)


def _phase(name: str, from_s: float, to_s: float, pairs: Sequence[tuple[Sample, Sample]], judge: Judge) -> Phase:
    n = len(pairs)
    return Phase(
        name=name,
        from_s=from_s,
        to_s=to_s,
        requests=n,
        served=(sum(a.ok for a, _ in pairs), sum(b.ok for _, b in pairs)),
        utility=(
            sum(judge.utility(a) for a, _ in pairs) / n if n else 0.0,
            sum(judge.utility(b) for _, b in pairs) / n if n else 0.0,
        ),
    )


def _difference(found: Sequence[tuple[float, float]]) -> Difference:
    """Mean of the differences, with an interval from the ratio estimator over blocks of time."""
    if not found:
        return Difference(0.0, None, None)
    mean = statistics.fmean(value for _, value in found)
    blocks: dict[int, list[float]] = {}
    for at_s, value in found:
        blocks.setdefault(int(at_s // BLOCK_S), []).append(value)
    if len(blocks) < 2:
        return Difference(mean, None, None)
    residuals = [sum(values) - mean * len(values) for values in blocks.values()]
    count = len(blocks)
    error = math.sqrt(count / (count - 1) * sum(residual * residual for residual in residuals)) / len(found)
    return Difference(mean, mean - NORMAL_95 * error, mean + NORMAL_95 * error)
