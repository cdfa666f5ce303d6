"""Providers that fail together beyond chance, and what they share.

Time is cut into windows. In each one a provider is *hit* if so many of its attempts were in trouble that its own rate
does not explain it: the binomial tail is at most ``MOST_CHANCE``; *hard* if it is at most ``HARD_CHANCE``. That rate is
its usual one or that of the minutes before the last one, whichever is larger, so that a provider which has been down
for a while is no news: what counts is that they begin together. The tail is the chance of such a hit by itself; of
independent providers, hits are independent. Of each provider only those offers count that have the trait in question:
where a model fails everywhere, the other models of the same providers do not.

For each trait that at least two providers share, an e-value weighs a common shock (members are hit with probability
``HIT``, hard with ``HARD``, given that at least two of them are hit) against that independence:

    e = 1 - ρ + ρ · [at least two hit] · Π_members P(so hit | shock) / P(so hit by itself) / P(at least two | shock)

and e-values add up over windows as in ``change_kernels``: R = (R + seconds) · e, with a threshold from the budget of
false alarms. A member that fares well speaks against its trait, so of nested and overlapping traits the one with the
largest R explains the most; traits of the same offers cannot be told apart, and are named together.

Independence is of what is usual. Two outages that began within a minute by chance look the same as one.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from amaru.health.pattern_types import Traits

WELL, TOUCHED, HIT, HARD = 0.1, 0.1, 0.3, 0.5
"""Chances that a common shock shows nothing at a member, some trouble that is no hit, a hit, and a hard one."""
MOST_CHANCE, HARD_CHANCE = 0.05, 0.001
LEAST_CHANCE = 0.001
"""Outages and blips come by themselves, too: a few begin in some window of the day."""
SHOCK = 0.5
"""ρ: share of windows of a common failure in which it shows."""
EVERYONE = "everyone"
LEAST_RATE = 0.01
"""Nobody's usual share of troubled attempts is believed to be smaller."""
LATER = 6
"""Windows after which what happened counts as the rate of the minutes before."""
FADED_S = 60.0
"""Half-life of that rate."""
USUAL_S = 3600.0
MARGIN = 1.5
"""Rates are taken so much larger than they are."""
ENOUGH = 4
"""Attempts per provider that a window should have; it closes anyway after ``MOST_WINDOW_S``."""
MOST_WINDOW_S = 60.0
AHEAD = math.log(20.0)
"""With so much more evidence than any other trait one is the explanation; else ``WAITS`` windows are waited for it."""
WAITS = 2
_STEPS = 400
"""Rates are rounded up to one of so many, whose tails are kept."""
CALM_WINDOWS = 6
"""So many windows in a row with fewer than two members hit, by their usual rates, end a resonance."""


class Joint(msgspec.Struct, frozen=True):
    """Several providers that fail together."""

    trait: str
    """``kind:name``; several of the same offers are joined by `` + ``."""
    offers: tuple[str, ...]
    """Those of the trait, of the providers that were hit."""
    providers: tuple[str, ...]
    """That were hit."""
    at: float
    evidence: float
    """Natural logarithm of R."""
    members: int
    """Providers that share the trait."""


class Hit(NamedTuple):
    """What one window did to a member."""

    was: bool
    ratio: float
    """How much likelier that is in a common shock than by itself; 0: there were too few attempts to tell."""


class _Cell:
    """Some offers of one provider: attempts and troubles of this window, and at what rate they usually come."""

    __slots__ = ("_latest", "attempts", "hit_at", "recent", "recent_bad", "troubles", "usual", "usual_bad")

    def __init__(self) -> None:
        self.attempts = self.troubles = 0
        self.recent = self.recent_bad = 0.0
        self.usual = self.usual_bad = 0.0
        self._latest: deque[tuple[int, int]] = deque()
        self.hit_at = -math.inf

    def usual_rate(self) -> float:
        return max((self.usual_bad + 0.2) / (self.usual + 20.0), LEAST_RATE)

    def rate(self) -> float:
        """What is to be expected."""
        before = (self.recent_bad + 0.2) / (self.recent + 10.0)
        return min(MARGIN * max(self.usual_rate(), before), 0.95)

    def remember(self, elapsed_s: float) -> None:
        """The window is over."""
        # What is usual is not learned from trouble: the share is held to a few times what it was.
        held = min(self.troubles, math.ceil(self.attempts * min(4.0 * self.usual_rate(), 1.0)))
        kept = 0.5 ** (elapsed_s / USUAL_S)
        self.usual = self.usual * kept + self.attempts
        self.usual_bad = self.usual_bad * kept + held
        self._latest.append((self.attempts, self.troubles))
        kept = 0.5 ** (elapsed_s / FADED_S)
        self.recent *= kept
        self.recent_bad *= kept
        if len(self._latest) > LATER:
            attempts, troubles = self._latest.popleft()
            self.recent += attempts
            self.recent_bad += troubles
        self.attempts = self.troubles = 0


class _Trait:
    __slots__ = ("active", "calm", "cells", "evidence", "name", "waited")

    def __init__(self, name: str, cells: dict[str, tuple[str, ...]]) -> None:
        self.name = name
        self.cells = cells
        """Offers that have it, by provider."""
        self.evidence = 0.0
        """R, in seconds."""
        self.waited = 0
        self.active: Joint | None = None
        self.calm = 0


class Resonance:
    """Watches providers for common failures.

    Parameters
    ----------
    traits
        Of all offers.
    window_s
        Length of a window, where there is enough traffic.
    false_alarms_per_day
        Of all traits together, in calm.
    """

    def __init__(self, traits: Sequence[Traits], *, window_s: float, false_alarms_per_day: float) -> None:
        self._window_s = window_s
        self._budget = false_alarms_per_day
        self._cells: dict[tuple[str, ...], _Cell] = {}
        self._of: dict[str, list[_Cell]] = {}
        self._traits: list[_Trait] = []
        self._began: float | None = None
        self.set_traits(traits)

    def set_traits(self, traits: Sequence[Traits]) -> None:
        """From now on these offers exist; what is known of those that stay as they were is kept."""
        shared: dict[str, dict[str, list[str]]] = {}
        for one in traits:
            for name in dict.fromkeys((*one.shared(), EVERYONE)):
                shared.setdefault(name, {}).setdefault(one.provider, []).append(one.offer)
        by_cells: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
        for name, of in shared.items():
            if len(of) >= 2:
                by_cells.setdefault(tuple((who, tuple(of[who])) for who in sorted(of)), []).append(name)
        before = {(trait.name, tuple(trait.cells.items())): trait for trait in self._traits}
        self._traits = []
        for cells, names in sorted(by_cells.items()):
            name = " + ".join([name for name in names if name != EVERYONE] or names)
            self._traits.append(before.get((name, cells)) or _Trait(name, dict(cells)))
        kept, self._cells, self._of = self._cells, {}, {one.offer: [] for one in traits}
        for trait in self._traits:
            for offers in trait.cells.values():
                if offers not in self._cells:
                    self._cells[offers] = kept.get(offers) or _Cell()
                    for offer in offers:
                        self._of[offer].append(self._cells[offers])

    def active(self) -> frozenset[str]:
        """Traits whose providers fail together now."""
        return frozenset(trait.active.trait for trait in self._traits if trait.active is not None)

    @property
    def threshold(self) -> float:
        """Natural logarithm of the evidence of an alarm."""
        return math.log(86400.0 * max(len(self._traits), 1) / self._budget)

    def observe(self, offer: str, troubled: bool) -> None:
        """Count one attempt."""
        for cell in self._of.get(offer, ()):
            cell.attempts += 1
            cell.troubles += troubled

    def look(self, now: float) -> tuple[list[Joint], list[str]]:
        """Close the window if it is over: what began, and the traits of what ended."""
        if self._began is None:
            self._began = now
        elapsed_s = now - self._began
        if elapsed_s < self._window_s:
            return [], []
        if elapsed_s < MOST_WINDOW_S:  # where there is little traffic, windows are longer
            asked = [cell.attempts for cell in self._cells.values() if cell.attempts]
            if sum(asked) < ENOUGH * len(asked):
                return [], []
        self._began = now
        hits: dict[tuple[str, ...], Hit] = {}
        for offers, cell in self._cells.items():
            if cell.attempts:
                found = hit(cell.attempts, cell.troubles, cell.rate())
                if found.ratio > 0.0:
                    hits[offers] = found
                if found.was:
                    cell.hit_at = now
        for trait in self._traits:
            ratio = shock_ratio([hits[offers] for offers in trait.cells.values() if offers in hits])
            trait.evidence = min((trait.evidence + min(elapsed_s, MOST_WINDOW_S)) * ratio, 1e30)
        ended = self._ended()
        begun = self._begun(now)
        for cell in self._cells.values():
            cell.remember(elapsed_s)
        return begun, ended

    def _ended(self) -> list[str]:
        ended = []
        for trait in self._traits:
            if trait.active is not None:
                ill = 0
                for provider in trait.active.providers:
                    cell = self._cells[trait.cells[provider]]
                    ill += hit(cell.attempts, cell.troubles, 2.0 * cell.usual_rate()).was
                trait.calm = 0 if ill >= 2 else trait.calm + 1
                if trait.calm >= CALM_WINDOWS:
                    ended.append(trait.active.trait)
                    trait.active, trait.evidence, trait.calm = None, 0.0, 0
        return ended

    def _begun(self, now: float) -> list[Joint]:
        """The trait that explains the most, where that is beyond chance and not yet known."""
        over = [trait for trait in self._traits if trait.evidence > 0.0 and math.log(trait.evidence) >= self.threshold]
        if not over:
            return []
        best = max(over, key=lambda trait: (trait.evidence, -len(trait.cells)))
        others = [trait.evidence for trait in self._traits if trait is not best]
        if math.log(best.evidence) - math.log(max([1.0, *others])) < AHEAD and best.waited < WAITS:
            best.waited += 1
            return []
        recent = now - max(3.5 * self._window_s, MOST_WINDOW_S)
        ill = tuple(who for who, offers in best.cells.items() if self._cells[offers].hit_at >= recent)
        evidence = math.log(best.evidence)
        for trait in over:  # told once; what overlaps rests upon the same failures
            trait.evidence, trait.waited = 0.0, 0
        known = {who for trait in self._traits if trait.active is not None for who in trait.cells}
        if len(ill) < 2 or known & set(ill):
            return []
        offers = tuple(offer for who in ill for offer in best.cells[who])
        best.active = Joint(best.name, offers, ill, now, evidence, len(best.cells))
        best.calm = 0
        return [best.active]


def binomial_tail(n: int, least: int, p: float) -> float:
    """P(X ≥ least) of a binomial with ``n`` tries at ``p`` in (0, 1)."""
    if least <= 0:
        return 1.0
    below, term = 0.0, (1.0 - p) ** n
    for count in range(min(least, n + 1)):
        below += term
        term *= (n - count) / (count + 1) * p / (1.0 - p)
    return min(max(1.0 - below, 0.0), 1.0) if least <= n else 0.0


def hit(attempts: int, troubles: int, p: float) -> Hit:
    """Whether so many troubles are more than ``p`` explains."""
    n = min(attempts, 200)
    if attempts > n:  # that many tell enough; exact tails of thousands underflow
        troubles = round(troubles * n / attempts)
    was, ratio = False, 0.0
    for least, grade_was, grade_ratio in _grades(n, min(math.ceil(p * _STEPS), int(0.95 * _STEPS))):
        if troubles >= least:
            was, ratio = grade_was, grade_ratio
    return Hit(was, ratio)


@functools.lru_cache(maxsize=5_000)
def _grades(n: int, steps: int) -> tuple[tuple[int, bool, float], ...]:
    """What ``n`` attempts may show at a rate of so many ``_STEPS``: the fewest troubles, and the ``Hit`` from there on;
    empty: nothing."""
    p = steps / _STEPS
    least, chance = _critical(n, p, MOST_CHANCE)
    hard, hard_chance = _critical(n, p, HARD_CHANCE)
    if not least:
        return ()
    well = (1.0 - p) ** n
    touched = max(1.0 - well - chance, LEAST_CHANCE)
    if WELL / well < TOUCHED / touched:
        grades = [(0, False, WELL / well), (1, False, TOUCHED / touched)]
    else:  # so often in trouble anyway that none at all is rare, and no better a sign
        grades = [(0, False, (WELL + TOUCHED) / (1.0 - chance))]
    if hard == least or not hard:
        return (*grades, (least, True, (HIT + HARD) / max(chance, LEAST_CHANCE)))
    grades.append((least, True, HIT / max(chance - hard_chance, LEAST_CHANCE)))
    return (*grades, (hard, True, HARD / max(hard_chance, LEAST_CHANCE)))


def _critical(n: int, p: float, most: float) -> tuple[int, float]:
    """The fewest troubles of ``n`` attempts whose chance is at most ``most``, and that chance; (0, 0): none."""
    # Two at least: one failure in a window is never news.
    for least in range(max(2, int(n * p)), n + 1):
        chance = binomial_tail(n, least, p)
        if chance <= most:
            return least, chance
    return 0, 0.0


def shock_ratio(hits: Sequence[Hit]) -> float:
    """The e-value of one window: what became of each member that had enough attempts."""
    n = len(hits)
    if n < 2:
        return 1.0
    if sum(one.was for one in hits) < 2:
        return 1.0 - SHOCK
    ratio = math.prod(one.ratio for one in hits)
    missed = WELL + TOUCHED
    two = 1.0 - missed**n - n * (1.0 - missed) * missed ** (n - 1)
    return 1.0 - SHOCK + SHOCK * ratio / two
