"""Pruning erases the text of entries, by an entry that says so; all else still verifies."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from log_samples import KEY, ORIGIN, leaves, make_leaf, open_log, view_of

from amaru.errors import EntryPruned, LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.audit_report import Fault
from amaru.ledger.canonical import canonical
from amaru.ledger.merkle import leaf_hash, verify_inclusion
from amaru.ledger.pruning import older_than, prunable_until, prune
from amaru.ledger.receipts import rfc3339
from amaru.ledger.tile_store import FolderStore


def pruning(until: int) -> bytes:
    return canonical({"type": "pruning", "until": until})


def make_log(root: Path, size: int = 700) -> None:
    with open_log(root) as log:
        log.append(leaves(0, 100))
        log.append(leaves(100, size))


def test_a_pruned_entry_says_so_and_everything_still_verifies(tmp_path: Path) -> None:
    root = tmp_path / "log"
    make_log(root)
    with open_log(root) as log:
        before = log.proof(100)
        assert prunable_until(log, 700) == 512
        assert prune(log, pruning(512)) == (512, 700)
        for index in (0, 100, 511):
            with pytest.raises(EntryPruned, match=f"entry {index} was pruned, as leaf 700 says; its hash remains"):
                log.entry(index)
            proof = log.inclusion(index)
            assert proof.leaf_hash == leaf_hash(make_leaf(index))
            verify_inclusion(proof.leaf_hash, index, log.size, proof.path, log.head.root)
        assert list(log.entries(512, 701)) == [*leaves(512, 700), pruning(512)]
        log.append(leaves(701, 800))
    before.verify(leaf_hash(make_leaf(100)), [KEY.verifier], origin=ORIGIN)
    assert make_leaf(100) not in b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    report = audit(FolderStore(root), [KEY.verifier])
    assert report.ok, report.findings
    assert (report.size, report.pruned, report.entries) == (800, 512, 288)
    view = view_of(root)
    assert view.pruned == (512, 700)
    with open_log(root) as log:
        assert prune(log, pruning(768)).until == 768


def test_what_cannot_be_pruned_is_refused(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    with open_log(tmp_path / "log") as log:
        for until in (0, 100, 257, 1024, -256):
            with pytest.raises(LedgerError, match="prune until"):
                prune(log, pruning(until))
        for leaf in (b"{}", b'{"type":"pruning"}', b'{"type":"other","until":256}', b"[]", b"not JSON"):
            with pytest.raises(LedgerError):
                prune(log, leaf)
        assert log.size == 700, "a refused pruning is not logged"
        prune(log, pruning(256))
        with pytest.raises(LedgerError, match="pruned already"):
            prune(log, pruning(256))


def test_a_pruning_stopped_midway_is_finished_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "log"
    make_log(root)
    with open_log(root) as log:
        delete = log.store.delete
        monkeypatch.setattr(log.store, "delete", lambda name: delete(name) if "001" not in name else fail())
        with pytest.raises(LedgerError, match="stopped"):
            prune(log, pruning(512))
    assert (root / "tile/entries/001").exists()
    report = audit(FolderStore(root), [KEY.verifier])
    assert report.ok, report.findings
    open_log(root).close()
    assert not (root / "tile/entries/001").exists()
    assert os.listdir(root / "tile/entries") == ["002.p"]


def fail() -> None:
    raise LedgerError("stopped")


def test_what_is_pruned_while_an_audit_runs_is_no_fault(tmp_path: Path) -> None:
    root = tmp_path / "log"
    make_log(root, 2_000)
    with open_log(root) as log:
        seen: list[int] = []

        def meanwhile(done: int, _: int) -> None:
            if done >= 300 and not seen:
                seen.append(done)
                prune(log, pruning(1_536))

        report = audit(FolderStore(root), [KEY.verifier], progress=meanwhile)
        assert seen
        assert report.ok, report.findings
        assert report.pruned == 1_536
        # And between the audit's looks at the checkpoint and at what is pruned.
        head = (root / "checkpoint").read_bytes()
        log.append(leaves(2_001, 2_100))
        prune(log, pruning(1_792))

        class Slow(FolderStore):
            def read(self, name: str, *, most: int) -> bytes | None:
                content = head if name == "checkpoint" and not asked else super().read(name, most=most)
                asked.append(name)
                return content

        asked: list[str] = []
        report = audit(Slow(root), [KEY.verifier])
        assert report.ok, report.findings
        assert report.size == 2_001


def test_old_entries_are_told_by_each_ones_time(tmp_path: Path) -> None:
    def entry(at: float | None) -> bytes:
        return canonical({"type": "test"} if at is None else {"at": rfc3339(at), "type": "test"})

    day = 86_400.0
    now = 1_000 * day
    entries = [entry(now - 90 * day + index) for index in range(1_000)]
    entries[100] = entry(None)
    entries[200] = entry(now + 400 * day)  # by a clock that was wrong
    with open_log(tmp_path / "log") as log:
        log.append([*entries, *(entry(now) for _ in range(100))])
        assert list(older_than(log, now - 30 * day, now)) == [256, 512, 768]
        assert list(older_than(log, now - 90 * day + 600, now)) == [256, 512]
        assert list(older_than(log, now - 90 * day, now)) == []
        prune(log, pruning(256))
        assert list(older_than(log, now - 30 * day, now)) == [512, 768]
    with open_log(tmp_path / "back") as log:  # the clock was set back: young entries stand before old ones
        log.append([*entries[:300], *(entry(now) for _ in range(300)), *entries])
        assert list(older_than(log, now - 30 * day, now)) == [256]


def test_others_write_while_old_entries_are_erased(tmp_path: Path) -> None:
    """All of it stays durable and provable; and of two who prune at once, one is told."""
    with open_log(tmp_path / "log") as log:
        log.append(leaves(0, 3_000))
        told: list[str] = []

        def prune_some(until: int) -> None:
            try:
                prune(log, pruning(until))
            except LedgerError as error:
                told.append(str(error))

        threads = [threading.Thread(target=prune_some, args=(until,)) for until in (256, 2_560, 2_560)]
        for thread in threads:
            thread.start()
        for number in range(200):
            log.append([make_leaf(number)])
        for thread in threads:
            thread.join()
        assert log.pruned.until == 2_560
        assert told
        assert log.size == 3_200 + 3 - len(told)
    report = audit(FolderStore(tmp_path / "log"), [KEY.verifier])
    assert report.ok, report.findings
    assert not list((tmp_path / "log/tile/entries").glob("00[0-9]"))


def test_a_pruning_that_was_not_logged_is_named(tmp_path: Path) -> None:
    root = tmp_path / "log"
    make_log(root)
    with open_log(root) as log:
        prune(log, pruning(256))
    (root / "tile/entries/001").unlink()
    (root / "pruned").write_bytes(canonical({"leaf": 700, "until": 512}))
    report = audit(FolderStore(root), [KEY.verifier])
    assert {finding.fault for finding in report.findings} == {Fault.MISSING}
    assert report.first_leaf == 256
    for words in (canonical({"leaf": 699, "until": 256}), canonical({"leaf": 9_999, "until": 256}), b"garbage", b"{}"):
        (root / "pruned").write_bytes(words)
        assert not audit(FolderStore(root), [KEY.verifier]).ok
    (root / "pruned").unlink()
    assert audit(FolderStore(root), [KEY.verifier]).first_leaf == 0
