"""What users got from each offer lately, in time slots: what the effect of a healing is measured by.

An attempt is worth 1 where it brought an answer, 0 where it failed or the answer was empty, lacked fields or said the
same over and over, and half where it was throttled (another offer can be asked at once). The effect of a healing is the
change of the mean worth over all offers of the pools that it concerns, and a third of the change of log-latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from amaru.health.observation import Observation, Verdict, verdict_on

SLOT_S = 5.0
SLOTS = 72
"""Six minutes of them."""
LEAST_ATTEMPTS = 8.0
"""Of a window that says anything."""
LATENCY_SHARE = 0.3
"""Of the effect that one unit of log-latency (a factor of 2.7) counts as."""
MOST_REPEATED = 0.6
"""An answer of which more is repetition is worth nothing."""
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


class Tallies:
    """The sums of each offer's last slots. Memory is bounded by the offers."""

    def __init__(self) -> None:
        self._slots: dict[str, list[tuple[int, Sums]]] = {}

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
        for offer in offers:
            for number, sums in self._slots.get(offer, ()):
                if since <= number * SLOT_S < until:
                    total.add(sums)
        return total

    def usual_ms(self, offer: str, until: float) -> float | None:
        """Geometric mean latency up to ``until``, as far back as is known; ``None``: too little is."""
        sums = self.between((offer,), until - SLOT_S * SLOTS, until)
        return math.exp(sums.log_ms / sums.answers) if sums.answers >= LEAST_ATTEMPTS else None

    def keep_only(self, offers: Iterable[str]) -> None:
        """Forget all others."""
        known = set(offers)
        for gone in [offer for offer in self._slots if offer not in known]:
            del self._slots[gone]


def _is_an_answer(observation: Observation) -> bool:
    sample = observation.sample
    return sample is None or not (sample.empty or sample.missing or sample.repetition > MOST_REPEATED)


def change(before: Sums, after: Sums) -> float | None:
    """From before to after, -1 to 1, better is more; ``None``: too few attempts to say."""
    if before.attempts < LEAST_ATTEMPTS or after.attempts < LEAST_ATTEMPTS:
        return None
    gained = after.worth / after.attempts - before.worth / before.attempts
    if before.answers > 0.0 and after.answers > 0.0:
        faster = before.log_ms / before.answers - after.log_ms / after.answers
        gained += LATENCY_SHARE * min(max(faster, -1.0), 1.0)
    return min(max(gained, -1.0), 1.0)
