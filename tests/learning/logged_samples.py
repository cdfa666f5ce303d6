"""A small gateway that logs: a real router with exploration in front of offers whose truth is known, and a store."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from amaru.domain import (
    Attempt,
    Capability,
    FailureKind,
    Kind,
    Offer,
    Outcome,
    Price,
    Usage,
    Weights,
    Workload,
)
from amaru.errors import Failure
from amaru.routing.board import Board
from amaru.routing.policies import make_policy
from amaru.routing.ranking import pack
from amaru.routing.router import Router
from amaru.storage import DecisionRecord, DecisionStore, StoreSettings

START = 1_800_000_000.0

TRUTH = {
    # id: (failure probability, factor on the advertised latency)
    "cheap/m": (0.25, 1.6),
    "fair/m": (0.02, 1.0),
    "fast/m": (0.05, 0.9),
    "dear/m": (0.01, 1.2),
}
OFFERS = (
    Offer("cheap/m", "cheap", "m", "c", price=Price(0.4, output_usd_per_mtok=0.8), latency_ms=300.0, reputation=60.0),
    Offer("fair/m", "fair", "m", "f", price=Price(0.6, output_usd_per_mtok=1.0), latency_ms=350.0, reputation=80.0),
    Offer("fast/m", "fast", "m", "q", price=Price(1.2, output_usd_per_mtok=2.4), latency_ms=150.0, reputation=85.0),
    Offer("dear/m", "dear", "m", "d", price=Price(2.0, output_usd_per_mtok=4.0), latency_ms=250.0, reputation=95.0),
    Offer(
        "gpu/A100",
        "gpu",
        "A100",
        "A100",
        kinds=(Kind.GPU_JOB,),
        price=Price(usd_per_gpu_hour=2.0),
        capabilities=Capability.NONE,
        latency_ms=400.0,
        capacity=100.0,
    ),
    Offer(
        "gpu2/A100",
        "gpu2",
        "A100",
        "A100",
        kinds=(Kind.GPU_JOB,),
        price=Price(usd_per_gpu_hour=3.0),
        capabilities=Capability.NONE,
        latency_ms=200.0,
        capacity=100.0,
    ),
)
WEIGHTS = (Weights(0.6, 0.2, 0.1, 0.1), Weights(0.1, 0.6, 0.1, 0.2))


def store_at(path: Path) -> DecisionStore:
    return DecisionStore(StoreSettings(path=path, interval_s=0.005), clock=lambda: START)


class Gateway:
    """Decides, attempts (at most twice) and records, one request every half second."""

    def __init__(self, *, policy: str = "rules", exploration: float = 0.3, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.board = Board(OFFERS, {}, rng=random.Random(seed))
        self.policy = make_policy(policy)
        self.router = Router(self.board, self.policy, exploration=exploration, rng=random.Random(seed + 1))
        self.count = 0

    def ask(self) -> DecisionRecord:
        """One streamed chat request."""
        rng, n = self.rng, self.count
        self.count += 1
        at = START + 0.5 * n
        workload = Workload(
            tenant=f"t{n % 2}",
            kind=Kind.CHAT,
            resource="m",
            input_tokens=rng.choice((200, 2_000)),
            output_tokens=200,
            needs=Capability.STREAM,
            weights=WEIGHTS[n % 2],
            session=f"conversation-{n}",
        )
        ranking = self.router.decide(workload, at)
        attempts: list[Attempt] = []
        started_ms = 1.0
        for row in ranking.order[:2]:
            offer = OFFERS[row]
            failing, slow = TRUTH[offer.id]
            first_ms = offer.latency_ms * slow * math.exp(rng.gauss(0.0, 0.3))
            failed = rng.random() < failing
            usage = Usage(workload.input_tokens, 150)
            failure = Failure(FailureKind.SERVER_ERROR, "said by the provider: secret words") if failed else None
            attempts.append(
                Attempt(
                    offer=offer.id,
                    provider=offer.provider,
                    started_ms=started_ms,
                    latency_ms=first_ms if failed else 3.0 * first_ms,
                    first_token_ms=None if failed else first_ms,
                    failure=failure.kind if failure else None,
                    status=500 if failed else 200,
                    detail=failure.message if failure else "",
                    usage=None if failed else usage,
                    cost_usd=0.0 if failed else (usage.input_tokens * 0.5 + usage.output_tokens) * 1e-6,
                )
            )
            self.board.observe(row, at, failure, None if failed else first_ms, 3.0 * first_ms, True)
            started_ms += attempts[-1].latency_ms
            if not failed:
                break
        last = attempts[-1]
        return DecisionRecord(
            id=f"{n:032x}",
            at=at,
            tenant=workload.tenant,
            kind=workload.kind,
            resource="m",
            policy=ranking.policy,
            board_version=ranking.version,
            ranking=pack(ranking),
            propensity=ranking.propensity,
            explored=ranking.explored,
            ok=last.failure is None,
            offer=last.offer,
            failure=last.failure,
            status=200 if last.failure is None else 502,
            latency_ms=last.started_ms + last.latency_ms,
            first_token_ms=last.first_token_ms,
            cost_usd=last.cost_usd,
            session="hash-of-a-session",
            stream=True,
            attempts=tuple(attempts),
        )

    def recommend(self) -> DecisionRecord:
        """One GPU job that its caller places."""
        n = self.count
        self.count += 1
        workload = Workload("t0", Kind.GPU_JOB, "A100", gpu_hours=2.0)
        ranking = self.router.decide(workload, START + 0.5 * n)
        return DecisionRecord(
            id=f"{n:032x}",
            at=START + 0.5 * n,
            tenant="t0",
            kind=Kind.GPU_JOB,
            resource="A100",
            policy=ranking.policy,
            board_version=ranking.version,
            ranking=pack(ranking),
            propensity=ranking.propensity,
            explored=ranking.explored,
        )


async def written(
    path: Path, gateway: Gateway, records: Sequence[DecisionRecord], feedback: Sequence[tuple[str, Outcome]] = ()
) -> None:
    store = store_at(path)
    store.start()
    store.remember_board(gateway.board.version, gateway.board.offers)
    for begin in range(0, len(records), 5_000):
        for record in records[begin : begin + 5_000]:
            assert store.record(record)
        assert await store.flush(30.0)
    for decision, outcome in feedback:
        assert await store.add_feedback(decision, outcome)
    assert await store.close(30.0)


def write(
    path: Path, gateway: Gateway, records: Sequence[DecisionRecord], feedback: Sequence[tuple[str, Outcome]] = ()
) -> Path:
    """``records`` in a store at ``path``."""
    asyncio.run(written(path, gateway, records, feedback))
    return path


def logged_store(path: Path, decisions: int = 400, **gateway: float | str) -> Path:
    """A store of so many chat decisions."""
    made = Gateway(**gateway)  # type: ignore[arg-type]  # a test's short hand
    return write(path, made, [made.ask() for _ in range(decisions)])


def changed(record: DecisionRecord, **fields: object) -> DecisionRecord:
    return msgspec.structs.replace(record, **fields)
