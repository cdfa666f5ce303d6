"""A policy that counts what it is told, and the store of a mesh that is not there."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec

from amaru.domain import Capability, Experience, Kind, Offer, Workload
from amaru.routing.policies import make_policy
from amaru.routing.policies_base import Policy
from amaru.storage import PolicyState

WORKLOAD = Workload(tenant="team", kind=Kind.CHAT, resource="m", needs=Capability.STREAM)
OFFER = Offer(id="a/m", provider="a", resource="m", model="m")
GOOD = Experience(at=1.0, ok=True, latency_ms=10.0)


class Counting:
    """Learns how often each offer served and failed; ranks as the rules do."""

    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.learns = True
        self.seen: Counter[str] = Counter()
        self.gate: threading.Event | None = None
        self.broken = ""
        rules: Policy = make_policy("rules")
        self.rank, self.share = rules.rank, rules.share

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        if self.broken:
            raise RuntimeError(self.broken)
        self.seen[f"{offer.id} {experience.ok}"] += 1

    def state(self) -> bytes:
        if self.gate is not None:
            assert self.gate.wait(60)
        return msgspec.json.encode(dict(sorted(self.seen.items())))

    def restore(self, state: bytes) -> None:
        self.seen = Counter(msgspec.json.decode(state, type=dict[str, int]))


class Kept:
    """Stands for the store: what was handed to it."""

    def __init__(self) -> None:
        self.states: list[PolicyState] = []

    def remember_policy(self, policy: PolicyState) -> None:
        self.states.append(policy)
