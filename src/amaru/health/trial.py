"""Whether an offer that was in trouble is well again: it serves few requests at once until its answers say so.

Wald's sequential test (*Sequential tests of statistical hypotheses*, 1945): each attempt adds the logarithm of how much
likelier its end is where the offer is as usual than where it loses a third of what it usually brings to an end. So an
offer is held against its own past: one that always lost a fifth comes back, one that never did and loses a fifth now
does not. Only attempts that began within the trial count, and silence counts for nothing.

The evidence is bounded on both sides (as in Page's test, 1954), so what was long ago outweighs nothing.
"""

from __future__ import annotations

import math

from amaru.health.healing_effects import Sums, began_at, log_ms_of, worth_of
from amaru.health.observation import Observation
from amaru.routing.steering import UNSTEERED, Steering

ENOUGH = 3.0
"""Evidence, in nats, on which an offer counts as well or ill: odds of 20."""
AT_ONCE = (1.0, 2.0, 4.0)
"""Requests at once: in the beginning, with a third of the evidence, and with two thirds."""
LOOK_S = 5.0
"""How long an offer of which nothing is known yet may go unasked; twice that with each nat that it looks ill."""
PATIENCE = 0.5
"""Share of the learned limits for which whoever tries it waits, before another takes over."""
BEGINS = Steering(at_once=AT_ONCE[0], look_s=LOOK_S, patience=PATIENCE)
"""How every trial begins."""
WORSE = 1.0 / 3.0
"""Share of the attempts that usually come to a good end which an ill offer loses."""
LEAST_LOST, MOST_LOST = 0.02, 0.6
"""Bounds of what an offer is taken to lose usually; a few attempts tell neither."""
SLOW = 0.4
"""Mean log-latency beyond the usual of the same kind of answer, from which on it is slow: half as slow again,"""
SURELY = 3.5
"""where that is so many of the mean's standard errors."""
FEW = 5
"""Answers that show so; twice as many make a slow offer ill."""
MEMORY = 20
"""Answers over which that mean goes."""
MANY = 30
"""Attempts after which a trouble goes on that such figures do not show, and that nobody has seen end."""


class Trial:
    """The trial of one offer.

    Parameters
    ----------
    at
        When it begins, in Unix seconds.
    usual
        What the offer brought before the trouble.
    cause
        Of the pattern behind it. Where that is a status by which the offer refuses requests, those which it refuses so
        are lost, be they called their callers' fault.
    """

    __slots__ = (
        "_answers", "_bad", "_free", "_good", "_refusal", "_slowness", "_usual_log_ms", "_variance", "at", "attempts",
        "evidence",
    )  # fmt: skip

    def __init__(self, at: float, usual: Sums, cause: str = "") -> None:
        self._refusal = cause.removeprefix("status:") if cause.startswith("status:") else ""
        lost = (usual.attempts - usual.worth + 0.5) / (usual.attempts + 10.0)
        lost = min(max(lost, LEAST_LOST), MOST_LOST)
        lost_by_the_ill = lost + WORSE * (1.0 - lost)
        self._good = math.log((1.0 - lost) / (1.0 - lost_by_the_ill))
        self._bad = math.log(lost / lost_by_the_ill)
        self._usual_log_ms = [usual.mean_log_ms(stream, FEW) for stream in (False, True)]
        self.begin_again(at)

    def begin_again(self, at: float) -> None:
        """Forget what was seen."""
        self.at = at
        self.attempts = 0
        """Those that began within it and have ended."""
        self.evidence = 0.0
        """In nats, within ±``ENOUGH``; above 0 it is rather well."""
        self._answers = 0
        self._slowness = self._variance = 0.0
        self._free = False

    def observe(self, observation: Observation) -> None:
        """Take in an attempt at its offer."""
        worth = worth_of(observation)
        if self._refusal and not observation.ok and str(observation.status) == self._refusal:
            worth = 0.0
        if worth is None or began_at(observation) < self.at:
            return
        self.attempts += 1
        evidence = self.evidence + worth * self._good + (1.0 - worth) * self._bad
        self.evidence = min(max(evidence, -ENOUGH), ENOUGH)
        log_ms = log_ms_of(observation)
        usual = self._usual_log_ms[observation.first_token_ms is not None]
        if log_ms is not None and usual is not None:
            self._answers += 1
            gain, off = 1.0 / min(self._answers, MEMORY), log_ms - usual - self._slowness
            self._slowness += gain * off
            self._variance = (1.0 - gain) * (self._variance + gain * off * off)
        if self.evidence <= 0.0 or self.is_slow:
            self._free = False
        elif self.evidence >= ENOUGH:
            self._free = True

    @property
    def is_slow(self) -> bool:
        """Its answers take longer than usual."""
        if self._answers < FEW or self._slowness <= SLOW:
            return False
        gain = 1.0 / min(self._answers, MEMORY)
        return self._slowness > SURELY * math.sqrt(self._variance * gain / (2.0 - gain))

    @property
    def is_well(self) -> bool:
        """It was shown to be well, and nothing since has shown the contrary."""
        return self._free

    @property
    def is_ill(self) -> bool:
        """It is shown to be ill."""
        return self.evidence <= -ENOUGH or (self._answers >= 2 * FEW and self.is_slow)

    @property
    def look_s(self) -> float:
        """How long it may go unasked: an offer that nobody prefers is looked at all the same, the more often the better
        it looks. Whoever looks at an ill one waits in vain, or gets a poor answer."""
        evidence = min(self.evidence, 0.0) if self.is_slow else self.evidence
        return float(LOOK_S * 2.0**-evidence)

    @property
    def at_once(self) -> float | None:
        """Requests that it may serve at once; ``None``: as many as come."""
        if self._free:
            return None
        if self.is_slow:
            return AT_ONCE[0]
        third = ENOUGH / len(AT_ONCE)
        return AT_ONCE[min(max(int(self.evidence / third), 0), len(AT_ONCE) - 1)]

    def layer(self, most: float | None = None) -> Steering:
        """How its offer is steered meanwhile. ``most``: requests at once also where it is shown to be well."""
        at_once = most if self.at_once is None else self.at_once
        return UNSTEERED if at_once is None else Steering(at_once=at_once, look_s=self.look_s, patience=PATIENCE)
