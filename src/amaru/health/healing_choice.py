"""Which healing is begun for a pattern, and whether any is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from amaru.health.bandit import Bandit
from amaru.health.healing import HealingKind, SelfHealingAction
from amaru.health.healing_effects import BEFORE_S, SLOT_S, Sums, Tallies
from amaru.health.healing_runs import Running, Runs
from amaru.health.healing_settings import KEEPING_OUT, MASKING, HealerSettings, Veto, duration_s
from amaru.health.moves import Move, Moves
from amaru.health.pattern_types import InfrastructurePattern

STILL_ILL = 0.7
"""Mean worth of an attempt below which an offer that comes back is ill still,"""
STILL_SLOW = 0.4
"""and log-latency beyond the usual one."""
FEW, MANY = 5.0, 30.0
"""Attempts that show so; and attempts after which a trouble that such figures do not show, and that has not ended, goes
on."""
_SHOWS = ("latency", "errors")
"""Causes that they do show."""
SOON_S = 300.0
"""A healing that is begun so soon after the last one of its kind lasts longer."""
MOST_PAST = 10_000


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
        self.tried: dict[str, float] = {}
        """Pattern → when its offers were back as configured, while it had not ended."""
        self._settings = settings
        self._moves = moves
        self._tallies = tallies
        self._runs = runs
        self._cools: dict[tuple[HealingKind, str], float] = {}
        """Kind and offer → instant until which it is not taken again."""
        self._past: dict[tuple[HealingKind, str], tuple[float, float]] = {}
        """Kind and offer → when it ended last, and how long it was to last."""
        self._usual: dict[str, Sums] = {}
        """By pattern: what was usual at its offers before it was seen."""
        self._watched: set[str] = set()
        """Patterns of which it was seen what nothing brings."""

    def of(self, pattern: InfrastructurePattern, now: float, *, applied: bool) -> Running | None:
        """The healing to begin for the pattern now; ``None``: none."""
        if pattern.confidence < self._settings.least_confidence:
            return None
        if any(running.action.pattern == pattern.id for running in self._runs.by_id.values()):
            return None
        if not self._goes_on(pattern, now):
            return None
        moves = self._possible(pattern, now)
        if not moves or (set(moves) == {HealingKind.NOTHING} and all(map(self._moves.kept_away, pattern.offers))):
            return None
        if pattern.id not in self._usual:
            self._usual[pattern.id] = self._tallies.between(pattern.offers, 0.0, pattern.at - BEFORE_S[1])
        provider = pattern.providers[0] if len(pattern.providers) == 1 else pattern.cause
        kind = self.bandit.choose(pattern.kind, pattern.cause, provider, moves, pattern.suggested)
        if kind is HealingKind.NOTHING:
            self._watched.add(pattern.id)
        move = moves[kind]
        offers = move.offers or tuple(offer for offer in pattern.offers if offer in self._moves.offers)
        lasts_s = self._lasts_s(kind, offers, now)
        reason = f"{pattern.kind}, {pattern.cause}: {pattern.detail}"
        action = action_of(kind, pattern.id, offers, now, lasts_s, reason=reason, applied=applied)
        return Running(action, move if applied else Move(), pattern, provider, lasts_s)

    def over(self, pattern: str) -> None:
        """The pattern of that id has ended."""
        self.tried.pop(pattern, None)
        self._usual.pop(pattern, None)
        self._watched.discard(pattern)

    def cool(self, action: SelfHealingAction, until: float) -> None:
        """Do not take that healing again for its offers until then."""
        for offer in action.offers:
            self._cools[action.kind, offer] = until

    def ended(self, running: Running, now: float) -> None:
        """Remember when it was, and how long it was to last."""
        for offer in running.offers:
            self._past.pop((running.action.kind, offer), None)  # newest last
            self._past[running.action.kind, offer] = now, running.duration_s
        while len(self._past) > MOST_PAST:
            del self._past[next(iter(self._past))]
        self._cools = {key: until for key, until in self._cools.items() if until > now}

    def _goes_on(self, pattern: InfrastructurePattern, now: float) -> bool:
        """After its offers were tried and too little was seen, a trouble goes on where their attempts say so."""
        tried_at = self.tried.get(pattern.id)
        if tried_at is None:
            return True
        ill = self.is_ill(pattern, tried_at, now)
        if ill:
            del self.tried[pattern.id]
        return ill

    def is_ill(self, pattern: InfrastructurePattern, since: float, now: float) -> bool:
        """Whether the attempts at its offers since then show the trouble."""
        seen = self._tallies.between(pattern.offers, since, now + SLOT_S)
        if seen.attempts < FEW:
            return False
        if seen.worth < STILL_ILL * seen.attempts:
            return True
        usual = self._usual.get(pattern.id)
        known = usual is not None and min(seen.answers, usual.answers) >= FEW
        if usual is not None and known and seen.log_ms / seen.answers - usual.log_ms / usual.answers > STILL_SLOW:
            return True
        return pattern.cause not in _SHOWS and seen.attempts >= MANY

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
            if any(veto.forbids(kind, pattern.providers, pattern.kind) for veto in self.vetoes):
                continue
            if any(self._cools.get((kind, offer), -math.inf) > now for offer in pattern.offers):
                continue
            if kind is HealingKind.NOTHING and pattern.id in self._watched:
                continue
            move = self._moves.move(kind, pattern)
            if move is None or (kind in MASKING and self._is_masked(kind, pattern)):
                continue
            providers = self._moves.providers((*pattern.offers, *move.offers))
            free = all(busy.get(provider, 0) < self._settings.most_per_provider for provider in providers)
            if free or kind is HealingKind.NOTHING:
                moves[kind] = move
        return moves

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
            ended_at, lasted_s = self._past.get((kind, offer), (-math.inf, 0.0))
            if kind is not HealingKind.NOTHING and now - ended_at < max(2.0 * lasted_s, SOON_S):
                lasts_s = max(lasts_s, min(2.0 * lasted_s, most_s))
        return lasts_s


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
