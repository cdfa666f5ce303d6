"""A log whose files were made to hold an auditor up: what no writer makes ends no audit, and is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from log_samples import KEY, ORIGIN, leaves, open_log

from amaru.ledger.audit import audit
from amaru.ledger.audit_report import MOST_COUNTED, AuditReport, Fault
from amaru.ledger.checkpoint import Checkpoint
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.tiles import encode_entries

BUNDLE, TILE, KEPT = "tile/entries/001", "tile/0/000", "checkpoints/000.p/4"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with open_log(tmp_path / "log") as log:
        for start, end in ((0, 100), (100, 300), (300, 600)):
            log.append(leaves(start, end))
    return tmp_path / "log"


def audited(root: Path) -> AuditReport:
    return audit(FolderStore(root), [KEY.verifier], origin=ORIGIN)


def faults(report: AuditReport) -> set[Fault]:
    return {finding.fault for finding in report.findings}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("tile/entries/002", encode_entries(leaves(0, 256))),
        ("tile/0/002", bytes(256 * 32)),
        ("tile/1/000", bytes(256 * 32)),
        ("tile/1/000.p/1", bytes(32)),
    ],
)
def test_each_version_of_a_tile_that_others_may_read_is_looked_at(root: Path, path: str, content: bytes) -> None:
    (root / path).write_bytes(content)
    report = audited(root)
    assert faults(report) == {Fault.DUPLICATE}
    assert report.findings[0].where == path


def test_a_version_that_was_cut_short_is_what_a_loss_of_power_leaves(root: Path) -> None:
    path = root / "tile/entries/002.p/20"
    path.write_bytes(encode_entries(leaves(512, 515)))
    assert audited(root).ok
    path.write_bytes(encode_entries(leaves(513, 515)))
    assert faults(audited(root)) == {Fault.ENTRY}


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (TILE, Fault.TILE),
        ("tile/1/000.p/2", Fault.TILE),
        (BUNDLE, Fault.ENTRY),
        ("checkpoint", Fault.CHECKPOINT),
        (KEPT, Fault.CHECKPOINT),
    ],
)
@pytest.mark.parametrize("how", ["too long", "pipe", "folder"])
def test_what_cannot_be_such_a_file_is_named(root: Path, path: str, fault: Fault, how: str) -> None:
    (root / path).unlink()
    if how == "too long":
        (root / path).touch()
        os.truncate(root / path, 1 << 40)
    elif how == "pipe":
        os.mkfifo(root / path)
    else:
        (root / path).mkdir()
    found = [finding for finding in audited(root).findings if finding.fault is fault]
    assert path in found[0].message


def test_names_that_only_look_like_numbers_are_passed_over(root: Path) -> None:
    for folder in ("tile/0/002.p", "tile/entries/002.p", "checkpoints/000.p"):
        for name in ("²", "٣", "007", "256"):
            (root / folder / name).write_bytes(b"?")
    assert audited(root).ok


def test_an_audit_of_a_size_that_nothing_stands_for_ends(root: Path) -> None:
    (root / "checkpoint").write_bytes(Checkpoint(ORIGIN, 1 << 62, bytes(32)).sign([KEY]))
    report = audited(root)
    assert not report.ok
    assert report.walked < report.size
    assert report.more >= MOST_COUNTED
    assert report.first_leaf == 512


def test_an_empty_tree_has_one_root(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(Checkpoint(ORIGIN, 0, bytes(32)).sign([KEY]))
    report = audited(tmp_path)
    assert faults(report) == {Fault.CHECKPOINT}
    assert "not the empty tree's" in report.findings[0].message


@pytest.mark.parametrize(
    "text", [b'{"leaf":-1,"until":-256}', b'{"leaf":1e+300,"until":1e+300}', b'{"leaf":true,"until":256}', b"[]"]
)
def test_a_pruning_of_no_places_in_a_log_is_named(root: Path, text: bytes) -> None:
    (root / "pruned").write_bytes(text)
    report = audited(root)
    assert faults(report) == {Fault.MISSING}
    assert "pruned: cannot be read" in report.findings[0].message
