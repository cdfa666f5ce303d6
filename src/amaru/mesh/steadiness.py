"""The stability field over a mesh's own signals, and what its guardian asks for.

Each provider gives three signals for each step, of the attempts that ended since the step before: the mean logarithm of
the latency of those that succeeded, the share of those that failed, and the utility, what an attempt there was worth
(``utility_of``). A provider that nobody asked in between has none: that is no news of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from amaru.health.observation import Observation, Verdict, verdict_on
from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldReading, FieldSettings
from amaru.stability.guardian import Guardian, GuardianSettings, InterventionRecord
from amaru.stability.utility import utility_of

SIGNALS = ("log_latency", "error_rate", "utility")


class _Since:
    """Of one provider, since the last step."""

    __slots__ = ("failed", "log_ms", "served")

    def __init__(self) -> None:
        self.served = self.failed = 0
        self.log_ms = 0.0


class Steadiness:
    """A field over the signals of some providers, with its guardian.

    Parameters
    ----------
    providers
        Their names; the signals follow their order.
    every_s
        Seconds between two steps.
    guardian
        Whether the guardian asks by itself.
    """

    def __init__(self, providers: Sequence[str], *, every_s: float, guardian: bool) -> None:
        self.providers = tuple(providers)
        self.guardian = Guardian(GuardianSettings(enabled=guardian))
        self.field: StabilityField | None = None
        self._since = {name: _Since() for name in self.providers}
        if self.providers:
            self.field = StabilityField(FieldSettings(dimension=len(SIGNALS) * len(self.providers), step_s=every_s))

    @property
    def reading(self) -> FieldReading | None:
        """The last one."""
        return None if self.field is None else self.field.reading

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals, in order."""
        return tuple(f"{provider}.{signal}" for provider in self.providers for signal in SIGNALS)

    def observe(self, observation: Observation) -> None:
        """Take in one attempt."""
        since = self._since.get(observation.provider)
        if since is None:
            return
        verdict = verdict_on(observation.ok, observation.failure)
        if verdict is Verdict.SUCCESS:
            since.served += 1
            since.log_ms += math.log(max(observation.latency_ms, 1e-3))
        elif verdict is Verdict.ERROR:
            since.failed += 1

    def values(self, coherence: Mapping[str, float]) -> list[float | None]:
        """The signals of what was taken in since the last time, in order; ``coherence`` by provider."""
        found: list[float | None] = []
        for name, since in self._since.items():
            asked = since.served + since.failed
            share = since.served / asked if asked else 0.0
            log_ms = since.log_ms / since.served if since.served else None
            worth = 0.0 if log_ms is None else utility_of(share, coherence.get(name, 1.0), math.exp(log_ms) / 1e3)
            found += (log_ms, 1.0 - share, worth) if asked else (None, None, None)
            self._since[name] = _Since()
        return found

    def step(self, coherence: Mapping[str, float], now: float) -> InterventionRecord | None:
        """One step at ``now``, Unix seconds; what the guardian asks for, usually nothing."""
        if self.field is None:
            return None
        return self.guardian.decide(self.field.step(self.values(coherence), at=now), now)

    def load(self, field: bytes | None, guardian: bytes | None) -> Iterable[str]:
        """Go on from states that were kept; yields why one cannot be used."""
        for what, state, load in (
            ("stability field", field, None if self.field is None else self.field.load),
            ("guardian", guardian, self.guardian.load),
        ):
            if state is not None and load is not None:
                try:
                    load(state)
                except ValueError as error:
                    yield f"the {what} begins anew: {error}"
