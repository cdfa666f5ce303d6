"""The process's writer of a log in a bucket: its lease is kept while nothing is written, and lost without harm."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.core import url_to_fs
from log_samples import KEY, assert_holds, leaves, make_leaf
from writer_room import WAIT_S, until

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.log import Log
from amaru.ledger.remote_store import LEASE_S, RemoteStore
from amaru.ledger.ring import Ring
from amaru.ledger.view import LogView
from amaru.ledger.writer import Writer


class Bucket:
    """A log in memory whose writers go by one clock, which stands still unless it is set."""

    def __init__(self, folder: Path) -> None:
        self.url = f"memory://{uuid.uuid4().hex}/log"
        self.now_s = 1_000_000.0
        self.writers: list[Writer] = []
        self._folder = folder

    def open(self) -> Log:
        log = Log(RemoteStore(self.url, {}, clock=lambda: self.now_s), [KEY])
        log.store.hold()
        log.publish()
        return log

    def writer(self, interval_s: float) -> Writer:
        """A started one, with a queue of its own."""
        ring = self._folder / f"ring {len(self.writers)}"
        writer = Writer(
            self.open, lambda: Ring.open(ring, capacity_bytes=10_000, clock=time.time), interval_s=interval_s
        )
        self.writers.append(writer)
        writer.start()
        assert writer.wait_open(WAIT_S)
        return writer

    def objects(self) -> dict[str, bytes]:
        fs, root = url_to_fs(self.url)
        return {path: fs.cat_file(path) for path in fs.find(root)}

    def assert_holds(self, expected: list[bytes]) -> None:
        view = LogView.at(self.url, [KEY.verifier])
        assert_holds(view, expected)
        report = audit(view.store, [KEY.verifier])
        assert report.ok, report.findings


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    bucket = Bucket(tmp_path)
    yield bucket
    for writer in bucket.writers:
        writer.close(WAIT_S)


def test_a_writer_with_nothing_to_write_keeps_its_lease(bucket: Bucket) -> None:
    writer = bucket.writer(interval_s=0.005)
    assert writer.append(make_leaf(0)).result(WAIT_S) == 0
    for _ in range(5):
        before = bucket.objects()
        bucket.now_s += LEASE_S / 2
        until(lambda before=before: bucket.objects().keys() - before.keys())  # type: ignore[misc]
    with pytest.raises(LedgerBusy, match="its lease ends 60 s from now"):
        bucket.open()
    assert writer.append(make_leaf(1)).result(WAIT_S) == 1


def test_a_writer_that_lost_its_lease_harms_nobody_and_goes_on_after(bucket: Bucket) -> None:
    first = bucket.writer(interval_s=3_600.0)  # as where the process stood still
    for leaf in leaves(0, 300):
        first.append(leaf)
    first.publish().result(WAIT_S)
    first.append(make_leaf(300)).result(WAIT_S)
    bucket.now_s += 2 * LEASE_S
    second = bucket.open()
    second.append(leaves(301, 600))
    before = bucket.objects()
    assert first.offer(make_leaf(602))
    for words in ("has taken this log", "writes this log"):
        with pytest.raises(LedgerError, match=words):
            first.append(make_leaf(999)).result(WAIT_S)
    assert first.status().queued_bytes > 0
    assert bucket.objects() == before
    second.append(leaves(600, 602))
    second.close()
    bucket.assert_holds(leaves(0, 602))
    first.publish().result(WAIT_S)
    bucket.assert_holds(leaves(0, 603))


def test_a_writer_that_is_closed_after_it_lost_its_lease_writes_nothing(bucket: Bucket) -> None:
    first = bucket.writer(interval_s=3_600.0)
    first.append(make_leaf(0)).result(WAIT_S)
    bucket.now_s += 2 * LEASE_S
    second = bucket.open()
    second.append(leaves(1, 300))
    before = bucket.objects()
    assert not first.close(WAIT_S)
    assert bucket.objects() == before
    second.append(leaves(300, 301))
    second.close()
    bucket.assert_holds(leaves(0, 301))
