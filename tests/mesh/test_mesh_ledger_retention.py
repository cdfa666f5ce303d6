"""The ledger's retention, by a clock that is handed in: what it erases, when, and what it does where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from amaru.errors import LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.log import Log
from amaru.ledger.notes import NoteSigner
from amaru.ledger.receipts import Discovery, Pruning, leaf_of, read_leaf, rfc3339
from amaru.ledger.tiles import TILE_WIDTH
from amaru.mesh import ledger_retention
from amaru.mesh.ledger_retention import Retention

DAY_S = 86_400.0
T0 = 1_795_000_000.0
SIGNER = NoteSigner.generate("test/log")


class Clock:
    now = T0

    def __call__(self) -> float:
        return self.now


def nothing() -> None:
    """There is no index to forget anything."""


def log_of(folder: Path, days: int, each: int = 2 * TILE_WIDTH) -> Log:
    """So many receipts a day."""
    log = Log.open(str(folder / "log"), [SIGNER])
    for day in range(days):
        at = rfc3339(T0 + day * DAY_S)
        log.append([leaf_of(Discovery(at=at, component="x", note=f"{day}, {number}")) for number in range(each)])
    return log


def test_what_is_older_is_erased_day_by_day(tmp_path: Path) -> None:
    clock = Clock()
    with log_of(tmp_path, 10) as log:
        retention = Retention(lambda: log, forget=nothing, wall=clock)
        assert retention.look()
        assert log.pruned.until == 0, "for ever, unless somebody says otherwise"
        retention.days = 5.5
        for day in range(9, 15):
            clock.now = T0 + day * DAY_S
            assert retention.look()
            assert log.pruned.until == (day - 5) * 2 * TILE_WIDTH
        size = log.size
        assert retention.look()
        assert log.size == size, "where nothing is old enough, nothing is logged"
        found = read_leaf(log.entry(log.pruned.leaf))
        assert isinstance(found, Pruning)
        assert (found.until, found.at) == (9 * 2 * TILE_WIDTH, rfc3339(clock.now))
    report = audit(log.store, [SIGNER.verifier])
    assert report.ok, report.findings


def test_much_is_erased_in_several_prunings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_retention, "MOST_AT_ONCE", 3 * TILE_WIDTH)
    clock = Clock()
    clock.now = T0 + 100 * DAY_S
    with log_of(tmp_path, 4) as log:
        retention = Retention(lambda: log, forget=nothing, wall=clock)
        retention.days = 30.0
        retention.look()
        prunings = [read_leaf(leaf) for leaf in log.entries(8 * TILE_WIDTH, log.size)]
        assert [one.until // TILE_WIDTH for one in prunings if isinstance(one, Pruning)] == [3, 6, 8]
    assert audit(log.store, [SIGNER.verifier]).ok


def test_the_index_forgets_after_each_pruning_and_once_what_was_pruned_before(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = T0 + 100 * DAY_S
    told: list[int] = []
    busy = [True]

    def forget() -> None:
        if busy and busy.pop():
            raise LedgerError("another process is using the index")
        told.append(log.pruned.until)

    with log_of(tmp_path, 4, TILE_WIDTH) as log:
        retention = Retention(lambda: log, forget=forget, wall=clock)
        assert retention.look()
        assert busy, "nothing was pruned yet"
        for days, until in ((98.5, 2), (97.5, 3), (97.5, 3)):
            retention.days = days
            if busy:
                assert retention.look() is False, "the index was in use: to be tried again soon"
            assert retention.look()
            assert log.pruned.until == until * TILE_WIDTH
        assert told == [2 * TILE_WIDTH, 3 * TILE_WIDTH]
        again = Retention(lambda: log, forget=forget, wall=clock)  # after a restart: who knows how far it came
        assert again.look()
        assert told[2:] == [3 * TILE_WIDTH]


def test_it_waits_for_the_log_and_outlives_its_failures(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = T0 + 100 * DAY_S
    opened: list[Log] = []
    retention = Retention(lambda: opened[0] if opened else None, forget=nothing, wall=clock)
    retention.days = 30.0
    assert retention.look() is False
    log = log_of(tmp_path, 1)
    log.close()
    opened.append(log)
    with pytest.raises(LedgerError, match="closed"):
        retention.look()
    retention.start()
    retention.close(10.0)
    assert not retention._thread.is_alive()
    assert (tmp_path / "log/tile/entries/000").exists()
