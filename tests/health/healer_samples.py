"""Levers without a mesh, and patterns, for the tests of healing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from amaru.domain import FailureKind, Offer, Price
from amaru.health.healer import Healer
from amaru.health.healing_settings import HealerSettings
from amaru.health.observation import Observation
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.protocols.adapting import Adaptation, Adapted
from amaru.routing.steering import UNSTEERED, Steering

AT = 1_700_000_000.0


class FakeLevers:
    """Offers ``provider/model``; alias ``any`` holds all of them."""

    def __init__(self, *offers: str, alternates: dict[str, int] | None = None) -> None:
        self.steered: dict[str, Steering] = {}
        self.adaptations: dict[str, Adapted] = {}
        self.findable: dict[str, Adaptation] = {}
        self.addresses: dict[str, int] = {}
        self.of_provider = alternates or {}
        self.flying: dict[str, float] = {}
        self.broken: set[str] = set()
        self.recovered: dict[str, int] = {}
        self.set_offers(*offers)

    def set_offers(self, *offers: str) -> None:
        """Reload: what is gone forgets."""
        self.served = [
            Offer(
                id=one, provider=one.split("/")[0], resource=one.split("/")[1], model=one.split("/")[1], price=Price()
            )
            for one in offers
        ]
        self.steered = {one: self.steered.get(one, UNSTEERED) for one in offers}

    def offers(self) -> Sequence[Offer]:
        return self.served

    def pools(self) -> Mapping[str, Sequence[str]]:
        pools: dict[str, list[str]] = {"any": [offer.id for offer in self.served]}
        for offer in self.served:
            pools.setdefault(offer.resource, []).append(offer.id)
        return pools

    def steering(self, offer: str) -> Steering | None:
        return self.steered.get(offer)

    def steer(self, offer: str, steering: Steering) -> Steering:
        before = self.steered[offer]
        self.steered[offer] = steering
        return before

    def kept_away(self, offer: str) -> bool:
        return offer in self.broken

    def recoveries(self, offer: str) -> int:
        return self.recovered.get(offer, 0)

    def in_flight(self, offer: str) -> float:
        return self.flying.get(offer, 0.0)

    def adapted(self, offer: str) -> Adapted | None:
        return self.adaptations.get(offer)

    def find_adaptation(self, offer: str) -> Adaptation | None:
        return self.findable.get(offer)

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        before = self.adaptations.pop(offer, None)
        if adaptation is not None:
            self.adaptations[offer] = Adapted(adaptation)
        return None if before is None else before.adaptation

    def alternates(self, provider: str) -> int:
        return self.of_provider.get(provider, 0)

    def address(self, provider: str) -> int:
        return self.addresses.get(provider, 0)

    def endpoint(self, provider: str, index: int) -> int:
        before = self.address(provider)
        self.addresses[provider] = index
        return before

    def all_steered(self) -> dict[str, Steering]:
        """Offers that are steered at all."""
        return {offer: steering for offer, steering in self.steered.items() if steering != UNSTEERED}


def pattern(*offers: str, cause: str = "errors", at: float = AT, **changes: Any) -> InfrastructurePattern:
    fields: dict[str, Any] = {
        "id": f"p-{cause}-{'-'.join(offers)}-{at}",
        "kind": PatternKind.DEGRADATION,
        "at": at,
        "confidence": 0.9,
        "offers": offers,
        "providers": tuple(dict.fromkeys(offer.split("/")[0] for offer in offers)),
        "impact": Impact.MAJOR,
        "cause": cause,
        "suggested": None,
        "detail": "as the test says",
    }
    return InfrastructurePattern(**(fields | changes))


def seen(offer: str, at: float, *, ok: bool = True, ms: float = 100.0, **changes: Any) -> Observation:
    fields: dict[str, Any] = {
        "offer": offer,
        "provider": offer.split("/")[0],
        "at": at,
        "ok": ok,
        "failure": None if ok else FailureKind.SERVER_ERROR,
        "latency_ms": ms,
    }
    return Observation(**(fields | changes))


def healer(levers: FakeLevers, **settings: Any) -> Healer:
    return Healer(HealerSettings(**settings), levers, random.Random(7))


def only(healer: Healer, kind: str) -> None:
    """Make ``kind`` the only healing that will be chosen, as if it were known to help most."""
    for pattern_kind in PatternKind:
        for cause in ("errors", "latency", "coherence", "shape", "status:422", "bridge:b", "model:m"):
            for _ in range(200):
                healer.bandit.learn(pattern_kind, cause, "", _kind(kind), 1.0)


def _kind(kind: str) -> Any:
    from amaru.health.healing import HealingKind

    return HealingKind(kind)
