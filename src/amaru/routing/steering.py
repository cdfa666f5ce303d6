"""What whoever watches over an offer asks of the router: less traffic for it or none, other limits, another manner.

A steering is laid over the configuration and never changes it: taken away, everything is as configured. It is kept with
what is known of the offer, so a reload carries it on.
"""

from __future__ import annotations

import math

import msgspec

from amaru.routing.breaker import BreakerSettings


class Steering(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How one offer is steered; without arguments, not at all.

    Raises ValueError where a figure is out of its bounds.
    """

    drained: bool = False
    """It serves only what no other offer can take now."""
    at_once: float | None = None
    """Requests (or GPU-hours, but one job in any case) at once, at least 1, beyond which it is as if drained: nobody is
    turned away by it."""
    look_s: float | None = None
    """Where nobody was sent to it for so many seconds, and nothing is under way there, one request tries it first
    wherever it ranks, if another offer could take over: else nobody would see that it is well."""
    weight: float = 1.0
    """In [0, 1]: its score counts so much."""
    risk: float = 0.0
    """In [0, 1]: probability that a request to it fails soon; its score counts for the rest."""
    concurrency: float | None = None
    """Requests (or GPU-hours) at once, at least 1; the lower of it and the configured capacity holds."""
    patience: float = 1.0
    """In (0, 1]: share of the limits on waits that are learned from its answers, but twice the longest of its recent
    waits at least."""
    first_token_ms: float | None = None
    """Longest wait for a stream's first token while another offer could take over, within the configured one; else it
    is learned from the offer's answers."""
    idle_ms: float | None = None
    """The same of the longest silence inside a stream."""
    breaker_failures: int | None = None
    """Failures in a row that open its breaker; else as configured."""
    cool_down_s: float | None = None
    """First cool-down of its breaker; else as configured."""
    backoff: float = 1.0
    """At least 1: factor on the back-off before it is asked a second time."""
    retry_ratio: float | None = None
    """In [0, 1]: share of its recent requests that may be second ones, within the budget of all; 0: none is."""
    non_stream: bool = False
    """Streams are asked for as whole answers, and handed on as streams."""
    adapted: bool = False
    """Its answers are decoded by an adaptation."""

    def __post_init__(self) -> None:
        for name, share in (
            ("weight", self.weight),
            ("risk", self.risk),
            ("patience", self.patience),
            ("retry_ratio", self.retry_ratio),
        ):
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"the {name} of a steering is between 0 and 1, not {share}")
        for name, figure in (
            ("at_once", self.at_once),
            ("concurrency", self.concurrency),
            ("breaker_failures", self.breaker_failures),
            ("backoff", self.backoff),
        ):
            if figure is not None and not figure >= 1.0:
                raise ValueError(f"the {name} of a steering is at least 1, not {figure}")
        for name, limit in (
            ("patience", self.patience),
            ("first_token_ms", self.first_token_ms),
            ("idle_ms", self.idle_ms),
            ("cool_down_s", self.cool_down_s),
            ("look_s", self.look_s),
        ):
            if limit is not None and not limit > 0.0:
                raise ValueError(f"the {name} of a steering is more than 0, not {limit}")

    @property
    def care(self) -> float:
        """What its score is multiplied by."""
        return self.weight * (1.0 - self.risk)

    @property
    def drained_from(self) -> float:
        """Requests under way from which on it serves only what no other offer can take."""
        if self.drained:
            return 0.0
        return math.inf if self.at_once is None else self.at_once

    def over(self, settings: BreakerSettings) -> BreakerSettings:
        """The breaker's settings under this steering."""
        if self.breaker_failures is None and self.cool_down_s is None:
            return settings
        cool_down_s = settings.cool_down_s if self.cool_down_s is None else self.cool_down_s
        failures = self.breaker_failures
        return msgspec.structs.replace(
            settings,
            consecutive_failures=settings.consecutive_failures if failures is None else failures,
            cool_down_s=cool_down_s,
            max_cool_down_s=max(settings.max_cool_down_s, cool_down_s),
        )


UNSTEERED = Steering()
"""As configured."""
