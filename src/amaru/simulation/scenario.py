"""What a war-game is about: who offers, who asks, what happens on the way, and what is hidden.

A ``Scenario`` is read from a file (``scenario_files``) and holds no randomness; with a seed it becomes a ``World``.
"""

from __future__ import annotations

import enum

import msgspec

from amaru.domain import Offer, Tenant

Range = tuple[float, float]
"""Lowest and highest; a world draws one value uniformly, per provider unless the field says otherwise."""


class EventKind(enum.StrEnum):
    """What can befall a provider at a known step; all of them are visible to everyone at once."""

    PRICE_SPIKE = "price_spike"
    OUTAGE = "outage"
    LATENCY_SPIKE = "latency_spike"
    CAPACITY_SURGE = "capacity_surge"
    REPUTATION_DROP = "reputation_drop"


DEFAULT_STEPS: dict[EventKind, int] = {kind: 5 if kind is EventKind.OUTAGE else 10 for kind in EventKind}
"""How long an event lasts that does not say."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that befalls a provider from ``step`` on, for ``steps`` steps."""

    step: int
    kind: EventKind
    provider: str
    steps: int
    multiplier: float = 1.0
    """Of the price or the capacity."""
    delta: float = 0.0
    """Milliseconds, or points of reputation."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A sort of job: what it runs on, and how large it is."""

    id: str
    resource: str
    gpu_hours: Range
    """Uniform per request."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant asks for."""

    tenant: Tenant
    region: str | None
    budget_usd_per_step: float
    """Spent down over a step; what is left bounds the price of the next request."""
    requests_per_step: float
    """Mean; arrivals are max(0, int(N(mean, 2)))."""
    mix: dict[str, float]
    """Profile → share; they sum to 1."""


class TraceDemand(msgspec.Struct, frozen=True, kw_only=True):
    """Chat traffic from a trace: each request goes to one resource, for a tenant drawn from ``share``."""

    path: str | None
    """In Azure's, Mooncake's or amaru's own format; ``None``: the trace that comes with amaru."""
    resource: str
    share: dict[str, float]
    """Tenant → share of the requests; they sum to 1."""
    speed: float = 1.0
    """A trace's second is ``1/speed`` of a world's second. A trace that ends begins anew."""


class Regime(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider fares while it is in one of its three regimes."""

    failure: Range
    """Probability that an attempt fails."""
    slowdown: Range
    """Factor on its latency."""
    steps: Range
    """Mean length of a stay (geometric)."""


class Hidden(msgspec.Struct, frozen=True, kw_only=True):
    """From what a world draws the truth that no policy is told. Ranges are per provider, or per offer of it."""

    healthy: Regime
    degraded: Regime
    down: Regime
    down_share: Range
    """Probability that a provider which leaves ``healthy`` goes down instead of degrading."""
    latency_bias: Range
    """Factor of an offer's real mean latency to the advertised one, log-uniform."""
    latency_noise: Range
    """Standard deviation of log-latency."""
    latency_load: Range
    """Rise of log-latency from no to full utilisation."""
    bridge_up_steps: Range
    bridge_down_steps: Range
    """Mean steps (geometric) between, and of, outages that strike all providers on a bridge at once (``Range`` per
    bridge)."""
    bridge_failure: float
    """Probability that an attempt fails while the bridge is out."""
    price_drift: Range
    """Standard deviation of the log-price's change in a step; it is pulled back to the advertised one."""
    price_jumps: Range
    """Probability of a jump in a step."""
    price_jump_sd: float
    """Standard deviation of a jump of the log-price."""
    price_lag_steps: Range
    """How old the posted price is (whole steps)."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A war-game. With ``hidden`` it is a family of worlds, one per seed; without, what is posted is the truth."""

    name: str
    """As ``--worlds`` names it; a family's ends in its version, such as ``hidden-train-v1``."""
    purpose: str
    """``train`` or ``evaluate``: seeds of an evaluation family are never trained on; ``any``: either."""
    steps: int
    """Of one episode; a longer run repeats the events."""
    step_s: float
    """Seconds that a step stands for: what is learned fades in seconds."""
    offers: tuple[Offer, ...]
    bridges: dict[str, str]
    """Provider → the bridge that it is reached over."""
    demands: tuple[Demand, ...] = ()
    profiles: tuple[Profile, ...] = ()
    trace: TraceDemand | None = None
    tenants: tuple[Tenant, ...] = ()
    """Of a trace's requests; with ``demands`` they are in there."""
    events: tuple[Event, ...] = ()
    hidden: Hidden | None = None
