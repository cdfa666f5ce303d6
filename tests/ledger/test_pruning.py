"""Pruning erases the text of entries, by an entry that says so; all else still verifies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from log_samples import KEY, ORIGIN, leaves, make_leaf, open_log, view_of

from amaru.errors import EntryPruned, LedgerError
from amaru.ledger.audit import Fault, audit
from amaru.ledger.canonical import canonical
from amaru.ledger.merkle import leaf_hash, verify_inclusion
from amaru.ledger.pruning import prunable_until, prune
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
