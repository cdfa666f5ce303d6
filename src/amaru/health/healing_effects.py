"""What users got from each offer lately, in time slots: what the effect of a healing is measured by.

An attempt is worth 1 where it brought an answer, 0 where it failed or the answer was empty, lacked fields or said the
same over and over, and half where it was throttled (another offer can be asked at once). The effect of a healing is the
change of the mean worth over all offers of the pools that it concerns, and a third of the change of log-latency.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from amaru.health.observation import Observation, Verdict, verdict_on

SLOT_S = 3.0
SLOTS = 120
"""Six minutes of them."""
BEFORE_S = (6.0, 12.0, 24.0, 60.0)
"""How far back the time before a healing reaches: the shortest with enough attempts. A trouble is seen within seconds,
and what came before it is not what a healing is measured against."""
USUAL_S = 120.0
"""The time before that one, in which all was as usual."""
LEAST_ATTEMPTS = 8.0
"""Of a window that says anything."""
LATENCY_SHARE = 0.3
"""Of the effect that one unit of log-latency (a factor of 2.7) counts as."""
MOST_REPEATED = 0.6
"""An answer of which more is repetition is worth nothing."""
WELL = 0.97
"""Mean worth of an attempt, from which on there is nothing to gain,"""
SLOWER = 0.2
"""unless log-latency is so much more than usual."""
MOST_OFFERS = 10_000


class Sums(msgspec.Struct):
    """Sums over attempts."""

    attempts: float = 0.0
    worth: float = 0.0
    answers: float = 0.0
    """Those with a latency."""
    log_ms: float = 0.0
    """Of the first token, of whole answers that of the answer."""
    streams: float = 0.0

    def add(self, other: Sums) -> None:
        """Take in another's."""
        self.attempts += other.attempts
        self.worth += other.worth
        self.answers += other.answers
        self.log_ms += other.log_ms
        self.streams += other.streams


class Change(NamedTuple):
    """What users got after an instant, against before."""

    effect: float
    """See ``change``."""
    attempts: float
    """After it."""
    was_well: bool
    """They got what they usually do before it already: routing alone had helped."""
    is_well: bool
    """They get what they usually do."""


class Tallies:
    """The sums of each offer's last slots. Memory is bounded by the offers."""

    def __init__(self) -> None:
        self._slots: dict[str, list[tuple[int, Sums]]] = {}
        self._last_at: dict[str, float] = {}

    def observe(self, observation: Observation) -> None:
        """Take in what one attempt showed; the caller's own faults say nothing."""
        verdict = verdict_on(observation.ok, observation.failure)
        if verdict is Verdict.NONE or not math.isfinite(observation.at):
            return
        number = int(observation.at // SLOT_S)
        slots = self._slots.get(observation.offer)
        if slots is None:
            if len(self._slots) >= MOST_OFFERS:
                return
            slots = self._slots[observation.offer] = [(-1, Sums())] * SLOTS
        self._last_at[observation.offer] = max(observation.at, self._last_at.get(observation.offer, 0.0))
        place = number % SLOTS
        held, sums = slots[place]
        if held != number:
            if held > number:  # too old to matter
                return
            sums = Sums()
            slots[place] = number, sums
        sums.attempts += 1.0
        sums.streams += observation.stream
        if verdict is Verdict.THROTTLED:
            sums.worth += 0.5
        if verdict is not Verdict.SUCCESS:
            return
        sums.worth += _is_an_answer(observation)
        latency_ms = observation.latency_ms if observation.first_token_ms is None else observation.first_token_ms
        if 0.0 < latency_ms < math.inf:
            sums.answers += 1.0
            sums.log_ms += math.log(latency_ms)

    def between(self, offers: Iterable[str], since: float, until: float) -> Sums:
        """Sums of all slots that begin in [since, until)."""
        total = Sums()
        last = math.ceil(until / SLOT_S)
        numbers = range(max(math.ceil(since / SLOT_S), last - SLOTS), last)
        for offer in offers:
            slots = self._slots.get(offer)
            if slots is not None:
                for number in numbers:
                    held, sums = slots[number % SLOTS]
                    if held == number:
                        total.add(sums)
        return total

    def usual(self, offers: Collection[str], at: float) -> Sums:
        """What was usual before ``at``."""
        until = at - BEFORE_S[-1]
        return self.between(offers, until - USUAL_S, until)

    def change(self, offers: Collection[str], at: float, since: float, until: float, usual: Sums) -> Change | None:
        """From before ``at`` to [since, until); ``None``: too few attempts to say."""
        after = self.between(offers, since, until)
        for back_s in BEFORE_S if after.attempts >= LEAST_ATTEMPTS else ():
            before = self.between(offers, at - back_s, at)
            effect = change(before, after)
            if effect is not None:
                return Change(effect, after.attempts, _is_well(before, usual), _is_well(after, usual))
        return None

    def last_at(self, offer: str) -> float | None:
        """When its last attempt ended."""
        return self._last_at.get(offer)

    def usual_ms(self, offer: str, until: float, *, since: float = 0.0) -> float | None:
        """Geometric mean latency up to ``until``, as far back as is known; ``None``: too little is."""
        sums = self.between((offer,), since, until)
        return math.exp(sums.log_ms / sums.answers) if sums.answers >= LEAST_ATTEMPTS else None

    def keep_only(self, offers: Iterable[str]) -> None:
        """Forget all others."""
        known = set(offers)
        if self._slots.keys() <= known:
            return
        for gone in [offer for offer in self._slots if offer not in known]:
            del self._slots[gone]
            self._last_at.pop(gone, None)


def _is_an_answer(observation: Observation) -> bool:
    sample = observation.sample
    return sample is None or not (sample.empty or sample.missing or sample.repetition > MOST_REPEATED)


def _is_well(now: Sums, usual: Sums) -> bool:
    if now.worth < WELL * now.attempts:
        return False
    if usual.answers < LEAST_ATTEMPTS or now.answers == 0.0:
        return True
    return now.log_ms / now.answers - usual.log_ms / usual.answers < SLOWER


def change(before: Sums, after: Sums) -> float | None:
    """From before to after, -1 to 1, better is more; ``None``: too few attempts to say."""
    if before.attempts < LEAST_ATTEMPTS or after.attempts < LEAST_ATTEMPTS:
        return None
    gained = after.worth / after.attempts - before.worth / before.attempts
    if before.answers > 0.0 and after.answers > 0.0:
        faster = before.log_ms / before.answers - after.log_ms / after.answers
        gained += LATENCY_SHARE * min(max(faster, -1.0), 1.0)
    return min(max(gained, -1.0), 1.0)
