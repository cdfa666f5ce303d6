"""What can be done about a pattern, what was done, and the levers by which it is done.

A healing lays something over the configuration for a bounded time: it is recorded with what it changed and what that
was worth, and leaves everything as it found it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from amaru.domain import Offer
from amaru.protocols.adapting import Adaptation, Adapted
from amaru.routing.steering import Steering


class HealingKind(enum.StrEnum):
    """What a healing does to the offers that a pattern affects."""

    RETRY = "retry"
    """Second tries at the same offer are fewer and wait longer; its breaker opens sooner and stays open longer."""
    NON_STREAM = "non_stream"
    """Streams are asked for as whole answers, and handed on as streams."""
    ALTERNATE = "alternate"
    """Another address or API version of the same provider is asked."""
    OTHER_MODEL = "other_model"
    """Within aliases of several models, another model goes first."""
    TIMEOUTS = "timeouts"
    """Waits end sooner where another offer could take over."""
    CONCURRENCY = "concurrency"
    """Requests at once are limited, by what latency and errors say."""
    WEIGHT = "weight"
    """Its score counts for less."""
    DRAIN = "drain"
    """It serves only what no other offer can take."""
    ADAPT = "adapt"
    """Renamed and missing fields of its answers are mapped."""
    RESTORE = "restore"
    """It comes back step by step."""
    NOTHING = "nothing"
    """Left as it is: what the others are measured against."""


class SelfHealingAction(msgspec.Struct, frozen=True, kw_only=True):
    """One healing: what was done about which pattern, and what it was worth."""

    id: str
    pattern: str
    """Id of the pattern; empty: a person's own order."""
    kind: HealingKind
    offers: tuple[str, ...]
    at: float
    """Unix seconds, as the other instants."""
    until: float | None
    """It ends by then. ``None``: a person ordered it, and ends it."""
    changed: dict[str, str] = {}
    """By offer and what of it: from → to, in words."""
    reason: str = ""
    by: str = "amaru"
    """Or the name of the person."""
    applied: bool = True
    """False: it is advice only, and nothing was changed."""
    ended_at: float | None = None
    ended: str = ""
    """Why it ended."""
    effect: float | None = None
    """Change of users' success and latency in the pools of its offers, from before to after, less what doing nothing
    is known to bring; -1 to 1, better is more. ``None``: not measured (yet), or too few requests."""
    reverted: bool = False
    """All that it changed is as it was before; what a person changed meanwhile was left as they set it."""


class Levers(Protocol):
    """What a healer pulls on the live router. What is set stays set across reloads, while its offer does."""

    def offers(self) -> Sequence[Offer]:
        """Those of the configuration that serves now."""

    def pools(self) -> Mapping[str, Sequence[str]]:
        """Name of each resource and alias → ids of its offers."""

    def steering(self, offer: str) -> Steering | None:
        """How the offer is steered now; ``None``: there is no such offer now."""

    def steer(self, offer: str, steering: Steering) -> Steering:
        """Steer it so from the next decision on; returns the steering before. Raises ValueError: no such offer."""

    def kept_away(self, offer: str) -> bool:
        """Whether its breaker keeps requests away now, but for probes."""

    def recoveries(self, offer: str) -> int:
        """How often a probe has found it well after its breaker had opened."""

    def in_flight(self, offer: str) -> float:
        """Requests, or GPU-hours, under way there now."""

    def adapted(self, offer: str) -> Adapted | None:
        """How its answers are rewritten now, and how many needed it; ``None``: they are not."""

    def find_adaptation(self, offer: str) -> Adaptation | None:
        """One that would make its latest unreadable answer readable, where that takes no guessing."""

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        """Rewrite its answers so, or not at all; returns the adaptation before. Raises ValueError: no such offer."""

    def alternates(self, provider: str) -> int:
        """How many other addresses the provider has."""

    def address(self, provider: str) -> int:
        """Which is asked now: 0 the configured one, n the n-th alternate."""

    def endpoint(self, provider: str, index: int) -> int:
        """Ask its address 0 (the configured one) or n (its n-th alternate); returns the index before.

        Raises ValueError where there is no such provider or address.
        """
