"""What users got from each offer lately, in time slots: what the effect of a healing is measured by.

An attempt is worth 1 where it brought an answer, 0 where it failed or the answer was empty, lacked fields or said the
same over and over, and half where it was throttled (another offer can be asked at once). It counts in the slot in which
it began: what was under way when a healing began is none of its doing. The effect of a healing is the change of the
mean worth over all offers of the pools that it concerns, and a third of the change of log-latency, of first tokens and
of whole answers each against their own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
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
LEAST_KNOWN = 3.0
"""Latencies of one kind whose mean says anything."""
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
    """Whole answers with a latency,"""
    log_ms: float = 0.0
    """and the sum of its logarithms."""
    first_tokens: float = 0.0
    """The same of the first tokens of streams."""
    log_first_ms: float = 0.0
    streams: float = 0.0

    def add(self, other: Sums) -> None:
        """Take in another's."""
        self.attempts += other.attempts
        self.worth += other.worth
        self.answers += other.answers
        self.log_ms += other.log_ms
        self.first_tokens += other.first_tokens
        self.log_first_ms += other.log_first_ms
        self.streams += other.streams

    def mean_log_ms(self, stream: bool, least: float) -> float | None:
        """Of the first tokens of streams, or of whole answers; ``None``: there were fewer than ``least``."""
        count, total = (self.first_tokens, self.log_first_ms) if stream else (self.answers, self.log_ms)
        return total / count if count >= least else None

    def slower_than(self, before: Sums, least: float) -> float | None:
        """Log-latency more than before, like with like; ``None``: there are fewer than ``least`` of either kind."""
        weight = total = 0.0
        for stream, count in ((False, self.answers), (True, self.first_tokens)):
            now, usual = self.mean_log_ms(stream, least), before.mean_log_ms(stream, least)
            if now is not None and usual is not None:
                weight += count
                total += count * (now - usual)
        return total / weight if weight else None


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
        worth = worth_of(observation)
        if worth is None:
            return
        number = int(began_at(observation) // SLOT_S)
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
        sums.worth += worth
        sums.streams += observation.stream
        log_ms = log_ms_of(observation)
        if log_ms is None:
            return
        if observation.first_token_ms is None:
            sums.answers += 1.0
            sums.log_ms += log_ms
        else:
            sums.first_tokens += 1.0
            sums.log_first_ms += log_ms

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

    def latest(self, offers: Iterable[str]) -> Sums:
        """Sums of all that is known."""
        total = Sums()
        for offer in offers:
            for _, sums in self._slots.get(offer, ()):
                total.add(sums)
        return total

    def usual(self, offers: Collection[str], at: float) -> Sums:
        """What was usual before ``at``."""
        until = at - BEFORE_S[-1]
        return self.between(offers, until - USUAL_S, until)

    def change(
        self, offers: Collection[str], at: float, since: float, until: float, usual: Mapping[str, Sums]
    ) -> Change | None:
        """From before ``at`` to [since, until); ``None``: too few attempts to say. ``usual``: of each offer."""
        after = self.between(offers, since, until)
        for back_s in BEFORE_S if after.attempts >= LEAST_ATTEMPTS else ():
            before = self.between(offers, at - back_s, at)
            effect = change(before, after)
            if effect is not None:
                was_well = self._is_well(offers, at - back_s, at, usual)
                return Change(effect, after.attempts, was_well, self._is_well(offers, since, until, usual))
        return None

    def _is_well(self, offers: Iterable[str], since: float, until: float, usual: Mapping[str, Sums]) -> bool:
        """Users got what they usually do: from each offer, that is, since some are slower than others."""
        total, weight, slower = Sums(), 0.0, 0.0
        for offer in offers:
            now = self.between((offer,), since, until)
            total.add(now)
            than_usual = now.slower_than(usual[offer], LEAST_KNOWN) if offer in usual else None
            if than_usual is not None:
                weight += now.attempts
                slower += now.attempts * than_usual
        return total.worth >= WELL * total.attempts and slower <= SLOWER * weight

    def last_at(self, offer: str) -> float | None:
        """When its last attempt ended."""
        return self._last_at.get(offer)

    def keep_only(self, offers: Iterable[str]) -> None:
        """Forget all others."""
        known = set(offers)
        if self._slots.keys() <= known:
            return
        for gone in [offer for offer in self._slots if offer not in known]:
            del self._slots[gone]
            self._last_at.pop(gone, None)


def worth_of(observation: Observation) -> float | None:
    """What an attempt was worth, 0 to 1; ``None``: nothing can be said, as where the caller was at fault."""
    verdict = verdict_on(observation.ok, observation.failure)
    if verdict is Verdict.NONE or not math.isfinite(observation.at):
        return None
    if verdict is not Verdict.SUCCESS:
        return 0.5 if verdict is Verdict.THROTTLED else 0.0
    sample = observation.sample
    return float(sample is None or not (sample.empty or sample.missing or sample.repetition > MOST_REPEATED))


def began_at(observation: Observation) -> float:
    """When the attempt began, in Unix seconds."""
    latency_ms = observation.latency_ms
    return observation.at - latency_ms / 1e3 if 0.0 < latency_ms < math.inf else observation.at


def log_ms_of(observation: Observation) -> float | None:
    """Logarithm of the wait for its first token, or for its whole answer; ``None``: it had none."""
    ms = observation.latency_ms if observation.first_token_ms is None else observation.first_token_ms
    return math.log(ms) if observation.ok and 0.0 < ms < math.inf else None


def change(before: Sums, after: Sums) -> float | None:
    """From before to after, -1 to 1, better is more; ``None``: too few attempts to say."""
    if before.attempts < LEAST_ATTEMPTS or after.attempts < LEAST_ATTEMPTS:
        return None
    gained = after.worth / after.attempts - before.worth / before.attempts
    slower = after.slower_than(before, LEAST_KNOWN)
    if slower is not None:
        gained -= LATENCY_SHARE * min(max(slower, -1.0), 1.0)
    return min(max(gained, -1.0), 1.0)
