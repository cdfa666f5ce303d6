"""Who writes a log remembers what it has published, so that an older copy in its place is noticed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amaru.config.ledger import LedgerSettings
from amaru.errors import ProofError
from amaru.ledger.place import Place, open_view, trust_of
from amaru.mesh.ledger import SEEN_EVERY_S, MeshLedger
from amaru.stability.guardian import Intervention, InterventionRecord


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def intervention(number: int) -> InterventionRecord:
    return InterventionRecord(id=f"i-{number}", at=1.8e9, kind=Intervention.ALBEDO, step=1, by="guardian", reason="r")


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def published(ledger: MeshLedger, least: int) -> bytes:
    until(lambda: ledger.status().published >= least)
    assert ledger.log is not None
    return ledger.log.checkpoint()


def test_the_last_checkpoint_is_noted_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    clock, place = Clock(), Place.of(str(tmp_path / "ledger"), tmp_path)
    ledger = MeshLedger(place, LedgerSettings(), clock=clock)
    ledger.start()
    ledger.intervened(intervention(0))
    first = published(ledger, 1)
    assert not place.seen.exists() or place.seen.read_bytes() != first
    clock.now += SEEN_EVERY_S
    ledger.intervened(intervention(1))  # what is published by then is noted
    until(lambda: place.seen.exists() and place.seen.read_bytes() == first)
    last = published(ledger, 2)
    assert ledger.close()
    assert place.seen.read_bytes() == last


def test_an_older_copy_of_the_log_is_refused_afterwards(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path / "ledger"), tmp_path)
    for number in range(2):
        ledger = MeshLedger(place, LedgerSettings())
        ledger.start()
        ledger.intervened(intervention(number))
        published(ledger, number + 1)
        assert ledger.close()
        if not number:
            shutil.copytree(tmp_path / "ledger", tmp_path / "older")
    shutil.rmtree(tmp_path / "ledger")
    shutil.copytree(tmp_path / "older", tmp_path / "ledger")
    with pytest.raises(ProofError, match="older checkpoint replayed"):
        open_view(place, trust_of(place)[0].verifiers)
    again = MeshLedger(place, LedgerSettings())
    again.start()
    until(lambda: not again.status().healthy and again.status().error is not None)
    again.close()
