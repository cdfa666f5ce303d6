"""Patterns: what the changes of single signals, and failures together, mean.

Told once a second or so by ``look``. A change of one signal at one offer (``changes``) is a degradation or a changed
API; changes of one kind and cause at one provider are one pattern. Several providers that fail together beyond chance
(``resonance``) are one more, beside what each of them shows. A pattern ends when all that it is made of is as usual
again for some outcomes in a row, which a recovery tells; or when it has stayed so for so long that it is usual by now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from amaru.domain import FailureKind
from amaru.health import change_kernels as k
from amaru.health.changes import Alarm, Changes
from amaru.health.observation import Observation
from amaru.health.pattern_state import Going, packed, unpacked
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind, PatternSettings, Traits
from amaru.health.pattern_words import (
    change_in_words,
    confidence_of,
    healing_for,
    impact_of,
    joint_in_words,
    pattern_id,
    similar_to,
)
from amaru.health.resonance import Joint, Resonance

__all__ = ["Impact", "InfrastructurePattern", "PatternKind", "PatternSettings", "Patterns", "Traits"]

_TRAFFIC_HALF_LIFE_S = 1800.0
_RESONANCE_SHARE = 0.3
"""Of the budget of false alarms; changes of single signals have the rest."""
_SETTLING = (k.LATENCY, k.FIRST_TOKEN, k.REPETITION, k.NOVELTY)
"""Signals that may stay as they are. Failures never become usual."""

_REFUSED_ELSEWHERE = 0.25
"""Share of the latest attempts at another provider."""

_Key = tuple[str, PatternKind, str]
_Part = tuple[str, int]


class Patterns:
    """Recognises patterns in what attempts show.

    Parameters
    ----------
    settings
        The budget of false alarms, and what matters.
    offers
        What is known of each offer; attempts of others are ignored.
    """

    def __init__(self, settings: PatternSettings, offers: Sequence[Traits]) -> None:
        self.settings = settings
        self.active: dict[str, InfrastructurePattern] = {}
        """What goes on, by id."""
        budget = settings.false_alarms_per_day
        ours = msgspec.structs.replace(settings, false_alarms_per_day=(1.0 - _RESONANCE_SHARE) * budget)
        self._changes = Changes(ours, [one.offer for one in offers])
        self._resonance = Resonance(offers, window_s=settings.window_s, false_alarms_per_day=_RESONANCE_SHARE * budget)
        self._open: dict[_Key, Going] = {}
        self._joint: dict[str, InfrastructurePattern] = {}
        self._past: deque[InfrastructurePattern] = deque(maxlen=settings.past)
        self._looked_at: float | None = None
        self._traffic: list[float] = []
        self._traits: dict[str, Traits] = {}
        self._failures: dict[str, deque[FailureKind]] = {}
        self._set(offers)

    def _set(self, offers: Sequence[Traits]) -> None:
        traffic = dict(zip(self._traits, self._traffic, strict=True))
        self._traits = {one.offer: one for one in offers}
        self._traffic = [traffic.get(name, 0.0) for name in self._traits]
        self._failures = {name: self._failures.get(name, deque(maxlen=20)) for name in self._traits}

    def set_offers(self, offers: Sequence[Traits]) -> None:
        """From now on these offers exist; what is known of those that stay is kept, patterns of the others go on only
        with those that stay."""
        self._changes.set_offers([one.offer for one in offers])
        self._resonance.set_traits(offers)
        self._set(offers)
        self._notice_gone()

    def _notice_gone(self) -> None:
        for one in self._open.values():
            if any(offer not in self._traits for offer, _ in one.parts):
                one.because = "an offer is gone"

    def remember(self, past: Iterable[InfrastructurePattern]) -> None:
        """Patterns that were, which new ones may be similar to; the oldest first."""
        self._past.extend(past)

    def observe(self, observation: Observation) -> None:
        """Take in one attempt."""
        row = self._changes.row_of(observation.offer)
        if row is None:
            return
        trouble = self._changes.observe(observation, row)
        self._traffic[row] += not observation.probe
        if observation.failure is not None:
            self._failures[observation.offer].append(observation.failure)
        if trouble >= 0.0:  # not NaN
            self._resonance.observe(observation.offer, trouble > 0.0)

    def look(self, now: float) -> list[InfrastructurePattern]:
        """What began, changed or ended since the last look, in that order."""
        elapsed_s = 0.0 if self._looked_at is None else max(now - self._looked_at, 0.0)
        self._looked_at = now
        kept = 0.5 ** (elapsed_s / _TRAFFIC_HALF_LIFE_S)
        self._traffic = [kept * seen for seen in self._traffic]
        began, over = self._resonance.look(now)
        told = {pattern.id: pattern for pattern in self._changed(now)}
        for joint in began:
            pattern = self._joined(joint)
            told[pattern.id] = pattern
        for pattern in [*self._ended(now), *self._parted(over, now)]:
            told[pattern.id] = pattern
        return list(told.values())

    # ---- across restarts

    def state(self) -> bytes:
        """What is known and what goes on, to be loaded after a restart."""
        return packed(self._changes, list(self._open.values()), list(self._joint.values()))

    def load(self, state: bytes) -> None:
        """Go on from ``state``, as far as it is about offers that exist. What failed together ends at the next look.

        Raises
        ------
        ValueError
            It is no state, damaged, or of another version; the message says which. Nothing changes then.
        """
        stored, known = unpacked(state)
        for row, offer in enumerate(self._changes.offers):
            if offer in known:
                self._changes.restore(row, *known[offer])
        self._open = {
            (one.pattern.providers[0], one.pattern.kind, one.pattern.cause): one
            for one in stored.going
            if one.pattern.providers
        }
        self._joint = {pattern.cause: pattern for pattern in stored.joint}
        self.active = {one.id: one for one in (*(going.pattern for going in stored.going), *stored.joint)}
        self._notice_gone()

    # ---- changes of one provider

    def _changed(self, now: float) -> list[InfrastructurePattern]:
        told: dict[str, InfrastructurePattern] = {}
        alarms = self._changes.alarms()
        known = set().union(*(one.parts for one in self._open.values())) if alarms else set()
        for alarm in alarms:
            offer = self._changes.offers[alarm.row]
            part = (offer, alarm.signal)
            if part in known:
                continue
            kind, cause = self._meaning(alarm)
            provider = self._traits[offer].provider
            if alarm.signal == k.REFUSED and self._refused_elsewhere(provider):
                self._changes.clear(alarm.row, alarm.signal)
                continue
            key = (provider, kind, cause)
            found = self._open.get(key)
            if found is None:
                pattern = self._new(kind, cause, (offer,), (provider,), alarm, now)
                found = self._open[key] = Going(pattern, {part})
            else:
                found.parts.add(part)
                offers = tuple(dict.fromkeys((*found.pattern.offers, offer)))
                if offers == found.pattern.offers:
                    continue
                found.pattern = self._more(found.pattern, offers, alarm)
            self.active[found.pattern.id] = told[found.pattern.id] = found.pattern
        return list(told.values())

    def _meaning(self, alarm: Alarm) -> tuple[PatternKind, str]:
        if alarm.signal in (k.LATENCY, k.FIRST_TOKEN):
            return PatternKind.DEGRADATION, "latency"
        if alarm.signal == k.ERRORS:
            return PatternKind.DEGRADATION, "errors"
        if alarm.signal in (k.ODD, k.REPETITION):
            return PatternKind.DEGRADATION, "coherence"
        looks = self._changes.looks(alarm.row)
        status = looks.status if alarm.signal == k.SHAPE else looks.refusal if alarm.signal == k.REFUSED else None
        return PatternKind.API_CHANGE, "shape" if status is None else f"status:{status}"

    def _refused_elsewhere(self, provider: str) -> bool:
        """Whether others refuse requests as well: then it is what callers ask for."""
        others = (row for row, one in enumerate(self._traits.values()) if one.provider != provider)
        return any(self._changes.level(row, k.REFUSED) >= _REFUSED_ELSEWHERE for row in others)

    def _new(
        self,
        kind: PatternKind,
        cause: str,
        offers: tuple[str, ...],
        providers: tuple[str, ...],
        alarm: Alarm,
        now: float,
    ) -> InfrastructurePattern:
        pattern = InfrastructurePattern(
            id=pattern_id(kind, cause, providers, now),
            kind=kind,
            at=now,
            confidence=confidence_of(alarm.evidence, self.settings.incidents_per_day / 86400.0),
            offers=offers,
            providers=providers,
            impact=self._impact(offers, _severe(cause, alarm.level)),
            cause=cause,
            suggested=healing_for(kind, cause, alarm.level, self._latest_failures(offers)),
            detail=change_in_words(offers, cause, alarm.level, self._changes.looks(alarm.row).missing),
        )
        return self._kept(pattern)

    def _more(self, pattern: InfrastructurePattern, offers: tuple[str, ...], alarm: Alarm) -> InfrastructurePattern:
        """The same at one more offer."""
        confidence = confidence_of(alarm.evidence, self.settings.incidents_per_day / 86400.0)
        return msgspec.structs.replace(
            pattern,
            offers=offers,
            confidence=max(pattern.confidence, confidence),
            impact=self._impact(offers, _severe(pattern.cause, alarm.level)),
            detail=change_in_words(offers, pattern.cause, alarm.level, self._changes.looks(alarm.row).missing),
        )

    def _ended(self, now: float) -> list[InfrastructurePattern]:
        changes, settle_s = self._changes, self.settings.settle_s
        going_on: set[_Part] = set()
        settled: set[_Part] = set()
        for alarm in changes.alarms():
            part = (changes.offers[alarm.row], alarm.signal)
            if alarm.recovered:
                changes.clear(alarm.row, alarm.signal)
                if alarm.signal == k.NOVELTY:  # it is known by now: nothing came back
                    settled.add(part)
            elif alarm.signal in _SETTLING and now - alarm.since >= settle_s:
                changes.settle(alarm.row, alarm.signal)
                settled.add(part)
            else:
                going_on.add(part)
        told: list[InfrastructurePattern] = []
        for key, one in list(self._open.items()):
            if not settled.isdisjoint(one.parts):
                one.because = "that is usual by now"
            one.parts &= going_on
            if not one.parts:
                del self._open[key]
                told += self._over(one.pattern, now, one.because)
        return told

    # ---- several providers

    def _joined(self, joint: Joint) -> InfrastructurePattern:
        kind = PatternKind.RESONANCE
        pattern = InfrastructurePattern(
            id=pattern_id(kind, joint.trait, joint.providers, joint.at),
            kind=kind,
            at=joint.at,
            confidence=confidence_of(joint.evidence, self.settings.incidents_per_day / 86400.0),
            offers=joint.offers,
            providers=joint.providers,
            impact=self._impact(joint.offers, severe=True),
            cause=joint.trait,
            suggested=healing_for(kind, joint.trait, 1.0, ()),
            detail=joint_in_words(joint.trait, joint.providers, joint.members),
        )
        pattern = self._kept(pattern)
        self.active[pattern.id] = self._joint[joint.trait] = pattern
        return pattern

    def _parted(self, over: Sequence[str], now: float) -> list[InfrastructurePattern]:
        told: list[InfrastructurePattern] = []
        known = self._resonance.active()
        for trait, pattern in list(self._joint.items()):
            if trait not in known:
                del self._joint[trait]
                told += self._over(pattern, now, "" if trait in over else "it was lost sight of")
        return told

    # ---- of both

    def _over(self, pattern: InfrastructurePattern, now: float, because: str) -> list[InfrastructurePattern]:
        """The pattern, ended, and the recovery that tells so; none where it ended for another reason."""
        self.active.pop(pattern.id, None)
        if because:
            return [msgspec.structs.replace(pattern, ended_at=now, detail=f"{pattern.detail}; {because}")]
        pattern = msgspec.structs.replace(pattern, ended_at=now)
        kind = PatternKind.RECOVERY
        who = ", ".join(pattern.offers if len(pattern.offers) <= 3 else pattern.providers)
        recovery = InfrastructurePattern(
            id=pattern_id(kind, pattern.cause, pattern.providers, now),
            kind=kind,
            at=now,
            confidence=pattern.confidence,
            offers=pattern.offers,
            providers=pattern.providers,
            impact=pattern.impact,
            cause=pattern.cause,
            suggested=healing_for(kind, pattern.cause, 0.0, ()),
            detail=f"{who}: as usual again after {now - pattern.at:.0f} s ({pattern.kind}, {pattern.cause})",
            ended_at=now,
        )
        recovery = self._kept(recovery, (pattern.id,))
        return [pattern, recovery]

    def _kept(self, pattern: InfrastructurePattern, first: tuple[str, ...] = ()) -> InfrastructurePattern:
        """With what it is similar to, and kept in mind for those to come."""
        similar = tuple(dict.fromkeys((*first, *similar_to(pattern, self._past))))
        pattern = msgspec.structs.replace(pattern, similar=similar)
        self._past.append(pattern)
        return pattern

    def _impact(self, offers: Sequence[str], severe: bool) -> Impact:
        rows = dict(zip(self._traits, self._traffic, strict=True))
        ill = set(offers).union(*(pattern.offers for pattern in self.active.values()))
        all_of_it = sum(rows.values())
        share = sum(rows.get(offer, 0.0) for offer in offers) / all_of_it if all_of_it > 0.0 else 0.0
        resources = {self._traits[offer].resource for offer in offers if offer in self._traits}
        well = [one.resource for one in self._traits.values() if one.offer not in ill]
        return impact_of(share, severe, min((well.count(resource) for resource in resources), default=0))

    def _latest_failures(self, offers: Sequence[str]) -> list[FailureKind]:
        return [failure for offer in offers for failure in self._failures[offer]]


def _severe(cause: str, level: float) -> bool:
    """``level``: share of attempts, or logarithm of the latency ratio."""
    return level >= 1.0 if cause == "latency" else level >= 0.4
