"""Receipts to try things on, and a log in memory that the index can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amaru.errors import EntryPruned
from amaru.ledger.merkle import leaf_hash, root_of
from amaru.ledger.receipts import (
    Adr,
    Decision,
    Deploy,
    Evidence,
    Healing,
    Incident,
    Memory,
    Receipt,
    Served,
    Training,
    leaf_of,
    rfc3339,
)
from amaru.ledger.view import Pruned

T0 = 1_790_000_000.0
"""2026-09-21, in Unix seconds: when the first of the samples was recorded; the others a minute apart."""
DIGEST = "sha256:" + "ab" * 32


def at(minutes: float = 0.0) -> str:
    """An instant after ``T0``."""
    return rfc3339(T0 + 60.0 * minutes)


SAMPLES: tuple[Receipt, ...] = (
    Deploy(at=at(0), component="gateway", version="1.4.2", digest=DIGEST, note="Rolled out to Zürich, slowly"),
    Training(at=at(1), component="ai-mesh", version="v7", ref="run-81", policy="linucb", score=0.25, episodes=4000),
    Decision(
        at=at(2),
        component="ai-mesh",
        ref="d-0001",
        resource="llama-70b",
        offers=("north/fast", "south/fast"),
        outcome=Served(ok=True, offer="north/fast", latency_ms=120.5),
    ),
    Incident(at=at(3), component="ai-mesh", severity="major", note="north answers nonsense", offers=("north/fast",)),
    Healing(at=at(4), component="north", ref="drain-3f2a", action="drain", pattern="degradation"),
    Memory(
        at=at(5),
        component="psi-field",
        note="kept before the upgrade",
        evidence=(Evidence(name="psi_field.bin", digest="sha256:" + "cd" * 32, size=4096),),
    ),
    Adr(at=at(6), component="ledger", ref="ADR-0001", title="Store the log as tiles", status="accepted"),
    Decision(at=at(7), component="board", by="maria", note="We stay with two providers in the EU."),
)


class FakeLog:
    """What ``index.Source`` asks of a log."""

    def __init__(self, entries: Sequence[bytes] = (), *, origin: str = "test.example/log") -> None:
        self.origin: str | None = origin
        self.kept = list(entries)
        self.pruned = Pruned()
        self.seen: int | None = None
        """Entries under the checkpoint that was read last; ``None``: all."""
        self.reads: list[tuple[int, int]] = []

    @classmethod
    def of(cls, receipts: Sequence[Receipt] = SAMPLES) -> FakeLog:
        return cls([leaf_of(receipt) for receipt in receipts])

    @property
    def size(self) -> int:
        return len(self.kept) if self.seen is None else self.seen

    def refresh(self) -> object:
        self.seen = None
        return None

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        self.reads.append((start, end))
        if start < self.pruned.until:
            raise EntryPruned(f"entry {start} was pruned")
        return iter(self.kept[start:end])

    def leaf_hash(self, index: int) -> bytes:
        return leaf_hash(self.kept[index])

    def root(self, size: int) -> bytes:
        return root_of([leaf_hash(entry) for entry in self.kept[:size]])
