"""Which healing is begun for a pattern, and whether any is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

import msgspec

from amaru.health.bandit import Bandit
from amaru.health.healing import HealingKind, SelfHealingAction
from amaru.health.healing_effects import BEFORE_S, Sums, Tallies
from amaru.health.healing_runs import Running, Runs
from amaru.health.healing_settings import KEEPING_OUT, MASKING, HealerSettings, Veto, duration_s
from amaru.health.moves import Move, Moves
from amaru.health.observation import Observation
from amaru.health.pattern_types import Impact, InfrastructurePattern
from amaru.health.trial import MANY, Trial

_HIDDEN = ("coherence", "shape", "status")
"""Causes that what an attempt is worth need not show."""
SOON_S = 300.0
"""A healing that is begun so soon after the last one of its kind lasts longer."""


class Choice:
    """Chooses within the bounds.

    Parameters
    ----------
    settings, bandit, moves, tallies, runs
        The bounds, what was learned, what is possible, what was seen, and what is under way.
    """

    def __init__(self, settings: HealerSettings, bandit: Bandit, moves: Moves, tallies: Tallies, runs: Runs) -> None:
        self.bandit = bandit
        self.vetoes: list[Veto] = []
        self._settings = settings
        self._moves = moves
        self._tallies = tallies
        self._runs = runs
        self._cools: dict[tuple[HealingKind, str], float] = {}
        """Kind and offer → instant until which it is not taken again."""
        self._usual: dict[tuple[str, str], Sums] = {}
        """By pattern and offer: what was usual there before it was seen."""
        self._back: dict[tuple[str, str], Trial] = {}
        """By pattern and offer: what its attempts show since it is back as configured, while the pattern goes on."""
        self._watched: set[str] = set()
        """Patterns of which it was seen what nothing brings."""

    def of(self, pattern: InfrastructurePattern, now: float, *, applied: bool) -> Running | None:
        """The healing to begin for the pattern now; ``None``: none."""
        if pattern.confidence < self._settings.least_confidence:
            return None
        if any(self._is_held(running, pattern) for running in self._runs.by_id.values()):
            return None
        for offer in pattern.offers:
            self._remember_usual(pattern, offer)
        pattern = msgspec.structs.replace(
            pattern, offers=tuple(offer for offer in pattern.offers if self._goes_on(pattern, offer))
        )
        moves = self._possible(pattern, now)
        if not moves or (set(moves) == {HealingKind.NOTHING} and all(map(self._moves.kept_away, pattern.offers))):
            return None
        provider = pattern.providers[0] if len(pattern.providers) == 1 else pattern.cause
        little = pattern.impact in (Impact.MINOR, Impact.MODERATE)
        kind = self.bandit.choose(pattern.kind, pattern.cause, provider, moves, pattern.suggested, control=little)
        if kind is HealingKind.NOTHING:
            self._watched.add(pattern.id)
        move = moves[kind]
        offers = move.offers or tuple(offer for offer in pattern.offers if offer in self._moves.offers)
        lasts_s = self._lasts_s(kind, offers, now)
        reason = f"{pattern.kind}, {pattern.cause}: {pattern.detail}"
        action = action_of(kind, pattern.id, offers, now, lasts_s, reason=reason, applied=applied)
        return Running(action, move if applied else Move(), pattern, provider, lasts_s)

    def again(self, before: Running, offers: tuple[str, ...], now: float) -> Running | None:
        """The healing that kept these offers out, once more and for longer; ``None``: it may not, or cannot."""
        about, kind = before.about, before.action.kind
        if about is None:
            return None
        about = msgspec.structs.replace(about, offers=offers)
        if kind in MASKING:  # what suggested it cannot be seen under it
            move = self._moves.still_possible(before.move) if self._may(kind, about, now) else None
        else:
            move = self._possible(about, now).get(kind)
        if move is None:
            return None
        offers = move.offers or offers
        lasts_s = self._lasts_s(kind, offers, now)
        action = action_of(kind, about.id, offers, now, lasts_s, reason=f"ill still; {before.action.reason}")
        return Running(action, move, before.about, before.provider, lasts_s)

    def observe(self, observation: Observation) -> None:
        """Take in an attempt: offers that are back may be ill still."""
        for (_, offer), trial in list(self._back.items()):
            if offer == observation.offer:
                trial.observe(observation)

    def is_back(self, pattern: InfrastructurePattern, offer: str, now: float) -> None:
        """An offer of the pattern, which goes on, has shown that it is well."""
        self._back[pattern.id, offer] = Trial(now, self.usual(pattern.id, offer), pattern.cause)

    def ill_of(self, pattern: InfrastructurePattern) -> list[str]:
        """Offers of a pattern that have not shown that they are well."""
        return [offer for offer in pattern.offers if (pattern.id, offer) not in self._back]

    def usual(self, pattern: str, offer: str) -> Sums:
        """What was usual there before the pattern was seen."""
        return self._usual.get((pattern, offer)) or Sums()

    def over(self, pattern: str) -> None:
        """The pattern of that id has ended."""
        self._watched.discard(pattern)
        for key in [key for key in self._back if key[0] == pattern]:
            del self._back[key]

    def keep_only(self, patterns: Collection[str]) -> None:
        """Forget what was usual before all others."""
        for key in [key for key in self._usual if key[0] not in patterns]:
            del self._usual[key]

    def _remember_usual(self, pattern: InfrastructurePattern, offer: str) -> None:
        if (pattern.id, offer) not in self._usual:
            self._usual[pattern.id, offer] = self._tallies.between((offer,), 0.0, pattern.at - BEFORE_S[1])

    def cool(self, action: SelfHealingAction, now: float, until: float) -> None:
        """Do not take that healing again for its offers until then."""
        self._cools = {key: at for key, at in self._cools.items() if at > now}
        for offer in action.offers:
            self._cools[action.kind, offer] = until

    @staticmethod
    def _is_held(running: Running, pattern: InfrastructurePattern) -> bool:
        """It is seen to already, but for what comes back in vain: that may be helped besides."""
        return running.action.pattern == pattern.id and not running.in_vain

    def _goes_on(self, pattern: InfrastructurePattern, offer: str) -> bool:
        """An offer that has shown that it is well is healed again where its attempts say so."""
        trial = self._back.get((pattern.id, offer))
        if trial is None:
            return True
        if trial.is_ill or (is_hidden(pattern.cause) and trial.attempts >= MANY):
            del self._back[pattern.id, offer]
            return True
        return False

    def _possible(self, pattern: InfrastructurePattern, now: float) -> dict[HealingKind, Move]:
        """What may be done about a pattern now, and what each would change."""
        busy: dict[str, int] = {}
        for running in self._runs.by_id.values():
            action = running.action
            if action.until is None and action.kind is HealingKind.NOTHING and set(action.offers) & set(pattern.offers):
                return {}  # a person wants them left alone
            if action.until is not None and action.kind not in (HealingKind.RESTORE, HealingKind.NOTHING):
                for provider in self._moves.providers(action.offers):
                    busy[provider] = busy.get(provider, 0) + 1
        moves: dict[HealingKind, Move] = {}
        for kind in HealingKind:
            if not self._may(kind, pattern, now) or (kind is HealingKind.NOTHING and pattern.id in self._watched):
                continue
            move = self._moves.move(kind, pattern)
            if move is None or (kind in MASKING and self._is_masked(kind, pattern)):
                continue
            providers = self._moves.providers((*pattern.offers, *move.offers))
            free = all(busy.get(provider, 0) < self._settings.most_per_provider for provider in providers)
            if free or kind is HealingKind.NOTHING:
                moves[kind] = move
        return moves

    def _may(self, kind: HealingKind, pattern: InfrastructurePattern, now: float) -> bool:
        """Nobody forbade it, and it was not tried in vain of late."""
        return not any(veto.forbids(kind, pattern.providers, pattern.kind) for veto in self.vetoes) and not any(
            self._cools.get((kind, offer), -math.inf) > now for offer in pattern.offers
        )

    def _is_masked(self, kind: HealingKind, pattern: InfrastructurePattern) -> bool:
        """Such a healing is under way there already."""
        if kind is HealingKind.ALTERNATE:
            providers = set(pattern.providers)
            return any(providers & self._moves.providers(running.offers) for running in self._runs.of(kind))
        return any(set(pattern.offers).intersection(running.offers) for running in self._runs.of(kind))

    def _lasts_s(self, kind: HealingKind, offers: Iterable[str], now: float) -> float:
        """The duration, doubled where the last one of its kind ended not long ago."""
        lasts_s = duration_s(kind, self._settings)
        most_s = self._settings.most_drain_s if kind in KEEPING_OUT else self._settings.most_s
        for offer in offers:
            ended_at, lasted_s = self._runs.last(kind, offer)
            if kind is not HealingKind.NOTHING and now - ended_at < max(2.0 * lasted_s, SOON_S):
                lasts_s = max(lasts_s, min(2.0 * lasted_s, most_s))
        return lasts_s


def is_hidden(cause: str) -> bool:
    """Whether what an attempt is worth may not show such a trouble: only its end does."""
    return cause.startswith(_HIDDEN)


def action_of(
    kind: HealingKind,
    pattern: str,
    offers: tuple[str, ...],
    now: float,
    lasts_s: float | None,
    *,
    reason: str = "",
    by: str = "amaru",
    applied: bool = True,
) -> SelfHealingAction:
    """A healing that begins now, under an id of its own; ``lasts_s`` is None where a person ends it."""
    said = "\0".join((pattern, kind.value, *offers, repr(now))).encode()
    return SelfHealingAction(
        id=f"{kind.value}-{hashlib.blake2b(said, digest_size=5).hexdigest()}",
        pattern=pattern,
        kind=kind,
        offers=offers,
        at=now,
        until=None if lasts_s is None else now + lasts_s,
        reason=reason,
        by=by,
        applied=applied,
    )
