"""What people read of the infrastructure's health: each provider in figures and words, what is foreseen, what it means.

A report is made of signatures, patterns and healings at one moment, and holds no text of anybody's (law 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from amaru.health.healing import SelfHealingAction
from amaru.health.history import Recurrence
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.health.prediction import WARNS
from amaru.health.signature import AdapterHealthSignature
from amaru.stability.field_settings import FieldReading

FORESEEN = WARNS
"""A predicted failure probability from which on it is an issue."""
LOW_COHERENCE = 0.6
SURPRISING = 0.7
"""Prediction error of the stability field that calm exceeds in one step of a hundred."""
FAILING = 0.5
"""Share of failed attempts from which on a provider fails."""
DEGRADED = 0.1
_IMPACTS = list(Impact)


class ProviderHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One provider now, over all its offers."""

    provider: str
    status: str
    """``healthy``, ``degraded``, ``failing``, ``drained``, or ``unknown``: nothing was ever asked of it."""
    coherence: float
    stability: float
    failure_probability: float
    trend: float
    """-1 (getting worse) to 1 (getting better)."""
    recent_errors: dict[str, float]
    """By kind of failure, faded by half each half hour."""
    recommended: str
    """What to do, in words; empty: nothing."""
    steered: tuple[str, ...]
    """How traffic to it is steered now, in words."""
    signature: AdapterHealthSignature
    offers: tuple[AdapterHealthSignature, ...]


class PredictedIssue(msgspec.Struct, frozen=True, kw_only=True):
    """A failure that is foreseen."""

    offer: str
    provider: str
    probability: float
    """Of a hard failure within ``within_s``."""
    within_s: float
    why: str


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole infrastructure at one moment."""

    at: float
    """Unix seconds."""
    status: str
    """Of the worst provider: ``healthy``, ``degraded`` (also where one is drained), ``failing``; ``unknown``: none was
    ever asked."""
    providers: tuple[ProviderHealth, ...]
    patterns: tuple[InfrastructurePattern, ...]
    """Those under way."""
    healings: tuple[SelfHealingAction, ...]
    """Those in force."""
    predicted: tuple[PredictedIssue, ...]
    insights: tuple[str, ...]
    stability: FieldReading | None
    """The field over the whole; ``None``: it has taken no step, or is off."""
    observed: int
    """Attempts taken in since the start."""
    dropped: int
    """Attempts that were not: the queue was full, or they could not be read."""
    notes: tuple[str, ...] = ()
    """What is wrong with the watching itself, in words."""


def report_on(
    views: Mapping[str, Sequence[AdapterHealthSignature]],
    over: Mapping[str, AdapterHealthSignature],
    *,
    at: float,
    patterns: Sequence[InfrastructurePattern] = (),
    healings: Sequence[SelfHealingAction] = (),
    steered: Mapping[str, Sequence[str]] | None = None,
    recurrences: Sequence[Recurrence] = (),
    stability: FieldReading | None = None,
    observed: int = 0,
    dropped: int = 0,
    notes: Sequence[str] = (),
) -> HealthReport:
    """The report.

    Parameters
    ----------
    views, over
        By provider: the signatures of its offers, and the one over all of them.
    steered
        By provider: how its offers are steered, in words; a provider whose every offer is drained says ``drained``.
    recurrences
        What came again in the past.
    """
    providers = tuple(
        _provider(name, over[name], views[name], patterns, healings, tuple((steered or {}).get(name, ())))
        for name in views
    )
    predicted = tuple(
        PredictedIssue(
            offer=view.offer,
            provider=name,
            probability=view.failure_probability,
            within_s=60.0,
            why=_why(view, patterns),
        )
        for name, offers in views.items()
        for view in offers
        if view.failure_probability >= FORESEEN
    )
    return HealthReport(
        at=at,
        status=_worst(providers),
        providers=providers,
        patterns=tuple(patterns),
        healings=tuple(healings),
        predicted=tuple(sorted(predicted, key=lambda issue: -issue.probability)),
        insights=tuple(_insights(providers, patterns, healings, recurrences, stability)),
        stability=stability,
        observed=observed,
        dropped=dropped,
        notes=tuple(notes),
    )


def _provider(
    name: str,
    over: AdapterHealthSignature,
    offers: Sequence[AdapterHealthSignature],
    patterns: Iterable[InfrastructurePattern],
    healings: Sequence[SelfHealingAction],
    steered: tuple[str, ...],
) -> ProviderHealth:
    own = [pattern for pattern in patterns if name in pattern.providers and pattern.kind is not PatternKind.RECOVERY]
    return ProviderHealth(
        provider=name,
        status=_status(over, own, steered),
        coherence=over.coherence,
        stability=over.stability,
        failure_probability=over.failure_probability,
        trend=over.trend,
        recent_errors={kind: count for kind, count in over.recent_errors.items() if count >= 0.05},
        recommended=_recommended(over, own, healings, {view.offer for view in offers}),
        steered=steered,
        signature=over,
        offers=tuple(offers),
    )


def _status(over: AdapterHealthSignature, own: Sequence[InfrastructurePattern], steered: Sequence[str]) -> str:
    if "drained" in steered:
        return "drained"
    if not over.total:
        return "unknown"
    if not over.connected or over.error_rate >= FAILING:
        return "failing"
    hurt = over.error_rate >= DEGRADED or over.coherence < LOW_COHERENCE or over.failure_probability >= FORESEEN
    return "degraded" if hurt or own else "healthy"


def _recommended(
    over: AdapterHealthSignature,
    own: Sequence[InfrastructurePattern],
    healings: Iterable[SelfHealingAction],
    offers: set[str],
) -> str:
    taken = [healing for healing in healings if offers & set(healing.offers)]
    if taken:
        last = taken[-1]
        return f"{last.kind.value.replace('_', ' ')} is in force: {last.reason}"
    for pattern in sorted(own, key=lambda one: -_IMPACTS.index(one.impact)):
        if pattern.suggested is not None:
            return f"{pattern.suggested.replace('_', ' ')} ({pattern.detail})"
    if "bad_credentials" in over.recent_errors or "quota_exhausted" in over.recent_errors:
        return "mend its key or its quota"
    if over.coherence < LOW_COHERENCE:
        parts = ", ".join(name.replace("_", " ") for name in over.incoherence)
        return f"look at its answers: {parts}"
    if over.failure_probability >= FORESEEN:
        return "keep another provider ready"
    return ""


def _why(view: AdapterHealthSignature, patterns: Iterable[InfrastructurePattern]) -> str:
    own = [pattern.detail for pattern in patterns if view.offer in pattern.offers]
    if own:
        return own[0]
    if view.consecutive_failures > 1:
        return f"{view.consecutive_failures} failures in a row"
    if view.error_rate >= DEGRADED:
        return f"{view.error_rate:.0%} of recent attempts failed"
    return "slower or less steady than usual"


def _worst(providers: Iterable[ProviderHealth]) -> str:
    found = {"degraded" if one.status == "drained" else one.status for one in providers}
    return next((status for status in ("failing", "degraded", "healthy") if status in found), "unknown")


def _insights(
    providers: Sequence[ProviderHealth],
    patterns: Sequence[InfrastructurePattern],
    healings: Sequence[SelfHealingAction],
    recurrences: Sequence[Recurrence],
    stability: FieldReading | None,
) -> Iterable[str]:
    for pattern in patterns:
        if pattern.kind is PatternKind.RESONANCE:
            yield f"{', '.join(pattern.providers)} fail together: {pattern.cause.replace(':', ' ')}"
    for provider in providers:
        if provider.coherence < LOW_COHERENCE and provider.signature.error_rate < DEGRADED:
            odd = f"coherence {provider.coherence:.2f}"
            yield f"{provider.provider} answers without errors, but not as it used to: {odd}"
    # One that nobody has asked may serve as well.
    in_use = [one for one in providers if one.status in ("healthy", "degraded", "unknown")]
    if len(in_use) == 1 and len(providers) > 1:
        yield f"only {in_use[0].provider} still serves: nothing stands in for it"
    for healing in healings:
        changed = ", ".join(f"{what} {how}" for what, how in healing.changed.items())
        yield f"{', '.join(healing.offers)}: {healing.kind.value.replace('_', ' ')}" + (
            f" ({changed})" if changed else ""
        )
    for recurrence in recurrences[:5]:
        yield recurrence.words
    if stability is not None and stability.step > 1:
        surprised = stability.PE > SURPRISING
        how = "unstable" if stability.Psi < 0.4 else "unsettled" if stability.Psi < 0.6 or surprised else "steady"
        yield f"the whole is {how}: Ψ {stability.Psi:.2f}" + (f", PE {stability.PE:.2f}" if surprised else "")
