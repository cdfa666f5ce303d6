"""Records to store, and what the tests of the store need around them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from amaru.domain import Attempt, FailureKind, Kind, Offer, Provenance, Usage
from amaru.storage import DecisionRecord, DecisionStore

NOW = 1_800_000_000.0


def decision_id(n: int) -> str:
    return f"{n:032x}"


def make_record(n: int, **fields: object) -> DecisionRecord:
    """The n-th record; ids and times rise with n."""
    ok = fields.get("ok", True)
    base: dict[str, object] = {
        "id": decision_id(n),
        "at": NOW + n,
        "tenant": f"tenant-{n % 3}",
        "kind": Kind.CHAT,
        "resource": "gpt",
        "policy": "rules",
        "board_version": "b1",
        "ranking": bytes(range(60)),
        "propensity": 0.99,
        "ok": ok,
        "offer": f"provider-{n % 2}/gpt",
        "failure": None if ok else FailureKind.RESET,
        "status": 200 if ok else 502,
        "latency_ms": 812.5,
        "input_tokens": 812,
        "cached_input_tokens": 12,
        "output_tokens": 123,
        "usage_source": Provenance.PROVIDER,
        "cost_usd": 0.00123,
        "attempts": (
            Attempt(
                offer=f"provider-{n % 2}/gpt",
                provider=f"provider-{n % 2}",
                started_ms=0.2,
                latency_ms=812.3,
                status=200,
                usage=Usage(812, 123, 12),
                cost_usd=0.00123,
            ),
        ),
    }
    return DecisionRecord(**{**base, **fields})  # type: ignore[arg-type]  # a test's short hand


def make_offer(name: str) -> Offer:
    return Offer(id=f"{name}/gpt", provider=name, resource="gpt", model="gpt-x")


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


OpenStore = Callable[..., DecisionStore]


def size_of(path: Path) -> int:
    """Bytes of the file once its WAL is folded in."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def delete(path: Path) -> None:
    path.unlink()
