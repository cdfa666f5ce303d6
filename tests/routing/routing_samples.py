"""Offers and workloads that the tests of this room share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from amaru.domain import Capability, FailureKind, Kind, Offer, Price, Workload
from amaru.errors import Failure
from amaru.routing.board import Board
from amaru.routing.breaker import BreakerSettings
from amaru.routing.live import Admission
from amaru.routing.policies import make_policy
from amaru.routing.router import Ranking, Router

NOW = 1_000.0
OPENING = BreakerSettings().consecutive_failures


def offer(name: str = "a", **changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "id": f"{name}/m",
        "provider": name,
        "resource": "m",
        "model": f"{name}-m",
        "price": Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0),
    }
    return Offer(**(fields | changes))


def gpu_offer(name: str, usd: float, ms: float, reputation: float, capacity: float, regions: Sequence[str]) -> Offer:
    return Offer(
        id=f"{name}/A100",
        provider=name,
        resource="A100",
        model="A100",
        kinds=(Kind.GPU_JOB,),
        regions=tuple(regions),
        price=Price(usd_per_gpu_hour=usd),
        capabilities=Capability.NONE,
        latency_ms=ms,
        reputation=reputation,
        capacity=capacity,
    )


def classic_a100() -> list[Offer]:
    """The A100 offers of the classic war-game."""
    return [
        gpu_offer("akash", 1.8, 300, 78, 220, ["eu-west-1", "us-west-2"]),
        gpu_offer("ionet", 2.2, 320, 74, 180, ["us-west-2"]),
        gpu_offer("flux", 1.7, 330, 68, 140, ["eu-west-1"]),
        gpu_offer("aethir", 2.5, 260, 85, 200, ["us-west-2", "eu-west-1"]),
        gpu_offer("vast", 1.4, 380, 62, 160, ["us-west-2"]),
    ]


def chat(**changes: Any) -> Workload:
    fields: dict[str, Any] = {
        "tenant": "t",
        "kind": Kind.CHAT,
        "resource": "m",
        "input_tokens": 600,
        "output_tokens": 400,
        "needs": Capability.STREAM,
    }
    return Workload(**(fields | changes))


def gpu_job(**changes: Any) -> Workload:
    fields: dict[str, Any] = {"tenant": "t", "kind": Kind.GPU_JOB, "resource": "A100", "gpu_hours": 1.0}
    return Workload(**(fields | changes))


def board(*offers: Offer, **options: Any) -> Board:
    return Board(offers, options.pop("aliases", {}), rng=random.Random(1), **options)


def decide(
    on: Board, workload: Workload, policy: str = "rules", *, now: float = NOW, exploration: float = 0.0, seed: int = 1
) -> Ranking:
    router = Router(on, make_policy(policy), exploration=exploration, rng=random.Random(seed))
    return router.decide(workload, now)


def providers(ranking: Ranking) -> list[str]:
    return [ranking.board.offers[row].provider for row in ranking.order]


def failure(kind: Any, **fields: Any) -> Failure:
    return Failure(kind, "as the test says", **fields)


def admit(on: Board, now: float = NOW, row: int = 0, tokens: float = 1_000.0) -> Admission:
    admission = on.admit(row, tokens, now)
    assert admission is not None
    return admission


def run(on: Board, kind: FailureKind | None, now: float = NOW, row: int = 0, **fields: float) -> None:
    """One attempt from admission to release."""
    admission = admit(on, now, row)
    on.observe(admission, now, failure(kind, **fields) if kind else None, 100.0, 900.0, stream=True)
    on.release(admission)


def fail_until_open(on: Board, now: float = NOW, row: int = 0) -> None:
    for _ in range(OPENING):
        run(on, FailureKind.SERVER_ERROR, now, row)
