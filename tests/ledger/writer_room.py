"""Writers of one log, and ways to wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from log_samples import KEY, open_log, view_of

from amaru.errors import LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.canonical import canonical
from amaru.ledger.log import Log
from amaru.ledger.ring import Gap, Ring
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.writer import Writer

WAIT_S = 90.0


def gap_leaf(gap: Gap) -> bytes:
    return canonical({"dropped": gap.dropped, "type": "gap"})


class Room:
    """Writers of one log, and the doors through which they open it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failing = False
        self.ring_failing = False
        self.told: list[tuple[int, list[bytes]]] = []
        self.writers: list[Writer] = []

    def open_log(self) -> Log:
        if self.failing:
            raise LedgerError("the disk is gone")
        return open_log(self.root / "log")

    def open_ring(self) -> Ring:
        if self.ring_failing:
            raise LedgerError("no queue here")
        return Ring.open(self.root / "ring", capacity_bytes=10_000, clock=time.time)

    def tell(self, first: int, committed: Sequence[bytes]) -> None:
        self.told.append((first, list(committed)))

    def writer(self, *, interval_s: float = 0.005, publish_interval_s: float = 0.01, start: bool = True) -> Writer:
        writer = Writer(
            self.open_log,
            self.open_ring,
            gap_leaf=gap_leaf,
            on_committed=lambda first, committed: self.tell(first, committed),
            interval_s=interval_s,
            publish_interval_s=publish_interval_s,
        )
        self.writers.append(writer)
        if start:
            writer.start()
        return writer

    def entries(self) -> list[bytes]:
        view = view_of(self.root / "log")
        return list(view.entries(0, view.size))

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close(WAIT_S)
        if (self.root / "log" / "checkpoint").exists():
            report = audit(FolderStore(self.root / "log"), [KEY.verifier])
            assert report.ok, report.findings


def until(what: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)
