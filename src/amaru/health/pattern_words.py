"""What a pattern is called in words, how much it touches, what might help, and what it resembles."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from amaru.domain import FailureKind
from amaru.health.changes import USUAL_STATUSES
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind

_CUT = frozenset({FailureKind.STREAM_CUT, FailureKind.STREAM_STALLED})
_ALIKE = 0.5
"""Likeness from which a past pattern counts as similar."""
_MOST_SIMILAR = 3
_DAY_S = 86400.0
_CALLERS = frozenset(str(status) for status in USUAL_STATUSES)


def pattern_id(kind: PatternKind, cause: str, providers: Sequence[str], at: float) -> str:
    """An id that only this pattern has, and that is the same wherever it is worked out."""
    said = "\0".join((kind, cause, *providers, repr(at))).encode()
    return f"{kind}-{hashlib.blake2b(said, digest_size=5).hexdigest()}"


def confidence_of(log_evidence: float, incidents_per_s: float) -> float:
    """Posterior probability that there is a change, tempered.

    Shiryaev's odds are the rate of incidents times R; their square root is taken, because neither the rate nor the
    model behind R is exact. Within 0.5 and 0.99.
    """
    log_odds = 0.5 * (log_evidence + math.log(incidents_per_s))
    return min(max(1.0 / (1.0 + math.exp(-min(log_odds, 50.0))), 0.5), 0.99)


def impact_of(share: float, severe: bool, alternatives: int) -> Impact:
    """``share``: of the traffic that is touched; ``alternatives``: well offers of the scarcest resource touched."""
    grade = (share >= 0.05) + (share >= 0.25) + severe
    if alternatives == 0:
        grade = max(grade, 2) + severe
    elif alternatives > 1:
        grade = min(grade, 2)
    return (Impact.MINOR, Impact.MODERATE, Impact.MAJOR, Impact.CRITICAL)[min(grade, 3)]


def healing_for(kind: PatternKind, cause: str, level: float, failures: Sequence[FailureKind]) -> str | None:
    """A kind of healing that is sensible before anything was learned; its value.

    ``level``: share of attempts, or logarithm of the latency ratio; ``failures``: the latest ones.
    """
    if kind is PatternKind.RECOVERY:
        return "restore"
    if kind is PatternKind.RESONANCE:
        return "other_model" if cause.startswith("model:") else "drain"
    if kind is PatternKind.API_CHANGE:
        return "alternate" if cause.startswith("status:") else "adapt"
    if cause == "latency":
        return "timeouts" if level < math.log(2.5) else "weight"
    if cause == "coherence":
        return "drain"
    if failures:
        if 2 * sum(failure in _CUT for failure in failures) > len(failures):
            return "non_stream"
        if 2 * sum(failure is FailureKind.OVERLOADED for failure in failures) > len(failures):
            return "concurrency"
    return "drain" if level >= 0.4 else "weight"


def change_in_words(offers: Sequence[str], cause: str, level: float, missing: Sequence[str]) -> str:
    """A change of one provider's offers."""
    who = _listed(offers)
    if cause == "latency":
        return f"{who}: {math.exp(max(level, 0.0)):.1f} times as slow as usual"
    if cause == "errors":
        return f"{who}: {level:.0%} of the latest attempts failed"
    if cause == "coherence":
        return f"{who}: answers are empty, repeat themselves, or are the same to different prompts"
    if cause.removeprefix("status:") in _CALLERS:
        return f"{who}: {level:.0%} of the latest attempts were refused as their callers' fault, and others refuse none"
    if cause.startswith("status:"):
        return f"{who}: attempts are refused with a status never seen before, {cause.removeprefix('status:')}"
    if missing:
        return f"{who}: answers lack {_listed(missing)}"
    return f"{who}: answers have another shape than usual, or cannot be read"


def joint_in_words(trait: str, ill: Sequence[str], members: int) -> str:
    """Providers that fail together."""
    shared = "nothing that is known but this mesh" if trait == "everyone" else trait
    return f"{_listed(ill)} fail together beyond chance; they share {shared} ({len(ill)} of {members} that do)"


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def similar_to(pattern: InfrastructurePattern, past: Iterable[InfrastructurePattern]) -> tuple[str, ...]:
    """Ids of the past patterns most like it: of the same kind, then cause, offers, providers and hour of the day."""
    found = []
    for one in past:
        if one.kind is pattern.kind and one.id != pattern.id:
            likeness = 0.4 * (one.cause == pattern.cause) + 0.3 * _overlap(one.offers, pattern.offers)
            likeness += 0.2 * _overlap(one.providers, pattern.providers)
            apart = abs(one.at - pattern.at) % _DAY_S
            likeness += 0.1 * (1.0 - 2.0 * min(apart, _DAY_S - apart) / _DAY_S)
            if likeness >= _ALIKE:
                found.append((likeness, one.at, one.id))
    found.sort(reverse=True)
    return tuple(dict.fromkeys(id for _, _, id in found))[:_MOST_SIMILAR]


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    union = len(set(one) | set(other))
    return len(set(one) & set(other)) / union if union else 0.0
