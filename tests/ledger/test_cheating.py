"""Each way to cheat, by someone who holds the log's files, and in some cases its key: caught, and named.

The audit trusts public keys alone. A holder of an earlier checkpoint also catches the operator who signs anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from log_samples import KEY, ORIGIN, OTHER_KEY, leaves, make_leaf, open_log, view_of

from amaru.errors import LedgerCorrupt, ProofError
from amaru.ledger.audit import audit
from amaru.ledger.audit_report import AuditReport, Fault, History
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint, verify_succession
from amaru.ledger.growth import Edge
from amaru.ledger.kept import kept_path
from amaru.ledger.merkle import EMPTY_ROOT, leaf_hash, verify_inclusion
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.tiles import Tile, decode_entries, encode_entries

SIZES = (100, 300, 600)
BUNDLE = "tile/entries/001"
"""Holds the leaves 256 to 511."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("honest") / "log"
    with open_log(root) as log:
        for start, end in zip((0, *SIZES), SIZES, strict=False):
            log.append(leaves(start, end))
    return root


@pytest.fixture
def root(honest: Path, tmp_path: Path) -> Path:
    shutil.copytree(honest, tmp_path / "log")
    return tmp_path / "log"


def audited(root: Path, *witnessed: bytes) -> AuditReport:
    return audit(FolderStore(root), [KEY.verifier], origin=ORIGIN, witnessed=witnessed)


def faults(report: AuditReport) -> set[Fault]:
    return {finding.fault for finding in report.findings}


def edit_bundle(root: Path, edit: Callable[[list[bytes]], list[bytes]], path: str = BUNDLE) -> None:
    entries = decode_entries((root / path).read_bytes())
    (root / path).write_bytes(encode_entries(edit(entries)))


def rebuild(root: Path, entries: list[bytes]) -> Checkpoint:
    """Make every tile anew from other entries, as whoever has the disk can; what is signed stays as it is."""
    shutil.rmtree(root / "tile")
    store = FolderStore(root)

    def put(tile: Tile, content: bytearray) -> None:
        store.write(tile.path, content)

    edge = Edge.new()
    edge.grow(entries, put)
    edge.write_partials(0, put)
    return Checkpoint(ORIGIN, len(entries), edge.frontier.root())


def test_an_honest_log_passes(honest: Path) -> None:
    report = audited(honest)
    assert report.ok
    assert report.first_leaf is None
    assert (report.size, report.entries, report.pruned, report.checkpoints) == (600, 600, 0, 5)


def test_an_edited_entry_is_named(root: Path) -> None:
    edit_bundle(root, lambda entries: [*entries[:44], make_leaf(9_999), *entries[45:]])
    report = audited(root)
    assert faults(report) == {Fault.ENTRY}
    assert report.first_leaf == 300
    assert BUNDLE in report.findings[0].where
    view = view_of(root)
    proof = view.inclusion(300)
    with pytest.raises(ProofError):  # and nobody can prove it
        verify_inclusion(leaf_hash(make_leaf(9_999)), 300, 600, proof.path, view.head.root)


def test_a_dropped_entry_is_named(root: Path) -> None:
    edit_bundle(root, lambda entries: entries[:44] + entries[45:])
    report = audited(root)
    assert Fault.ENTRY in faults(report)
    assert report.first_leaf == 300
    edit_bundle(root, lambda entries: entries[:44])
    assert Fault.MISSING in faults(audited(root))
    assert audited(root).first_leaf == 300


def test_an_entry_put_in_is_named(root: Path) -> None:
    edit_bundle(root, lambda entries: [*entries[:44], make_leaf(9_999), *entries[44:]])
    report = audited(root)
    assert Fault.ENTRY in faults(report)
    assert report.first_leaf == 300


def test_reordered_entries_are_named(root: Path) -> None:
    edit_bundle(root, lambda entries: [*entries[:44], entries[45], entries[44], *entries[46:]])
    report = audited(root)
    assert faults(report) == {Fault.ENTRY}
    assert report.first_leaf == 300
    assert "another entry of this log stands here" in report.findings[0].message


def test_an_entry_exchanged_together_with_all_tiles_is_narrowed_down_by_the_checkpoints(root: Path) -> None:
    entries = leaves(0, 600)
    entries[150] = make_leaf(9_999)
    rebuild(root, entries)
    report = audited(root)
    assert faults(report) == {Fault.HISTORY}
    assert report.first_leaf == 100, "the checkpoint of 100 leaves holds, the one of 300 does not"
    assert "of leaves 100 to 299" in report.findings[0].message


def test_a_tile_that_does_not_follow_from_the_entries_is_named(root: Path) -> None:
    upper = root / "tile/1/000.p/2"
    upper.write_bytes(upper.read_bytes()[:32] + bytes(32))
    report = audited(root)
    assert faults(report) == {Fault.TILE}
    assert report.first_leaf == 256
    with pytest.raises(LedgerCorrupt, match="not those of its checkpoint"):
        view_of(root).inclusion(3)


def test_a_leaf_hash_exchanged_alone_is_named(root: Path) -> None:
    tile = root / "tile/0/001"
    tile.write_bytes(tile.read_bytes()[: 32 * 44] + bytes(32) + tile.read_bytes()[32 * 45 :])
    assert audited(root).first_leaf == 300


def test_a_missing_bundle_without_a_logged_pruning_is_named(root: Path) -> None:
    (root / BUNDLE).unlink()
    report = audited(root)
    assert faults(report) == {Fault.MISSING}
    assert report.first_leaf == 256
    assert "no pruning is logged" in report.findings[0].message


def test_a_truncated_log_is_named(root: Path) -> None:
    """Tiles, entries and checkpoint as they were at 300; whoever cut them forgot what is kept, or kept it elsewhere."""
    later = (root / "checkpoint").read_bytes()
    earlier = next(n for n in view_of(root).kept_checkpoints() if verify_checkpoint(n, [KEY.verifier]).size == 300)
    rebuild(root, leaves(0, 300))
    (root / "checkpoint").write_bytes(earlier)
    report = audited(root)
    assert faults(report) == {Fault.TRUNCATED}
    assert report.first_leaf == 300
    shutil.rmtree(root / "checkpoints")
    assert audited(root).sound, "alone, the files cannot tell"
    assert audited(root).history is History.NONE, "but that something is gone"
    assert faults(audited(root, later)) == {Fault.TRUNCATED}, "a holder of a later checkpoint can"


def test_a_truncated_log_is_not_written_on(root: Path) -> None:
    earlier = next(iter(view_of(root).kept_checkpoints()))
    (root / "checkpoint").write_bytes(earlier)
    report = audited(root)
    assert Fault.TRUNCATED in faults(report)
    rebuild(root, leaves(0, 300))
    with pytest.raises(LedgerCorrupt):
        open_log(root)


def test_a_forged_checkpoint_is_named(root: Path) -> None:
    note = (root / "checkpoint").read_bytes()
    (root / "checkpoint").write_bytes(note.replace(b"\n600\n", b"\n599\n"))
    report = audited(root)
    assert faults(report) == {Fault.CHECKPOINT}
    assert "does not hold — forged or altered" in report.findings[0].message
    with pytest.raises(ProofError, match="forged or altered"):
        view_of(root)


def test_a_wrong_key_is_named(root: Path) -> None:
    head = view_of(root).head
    (root / "checkpoint").write_bytes(head.sign([OTHER_KEY]))
    report = audited(root)
    assert faults(report) == {Fault.CHECKPOINT}
    assert "wrong key, or a forgery" in report.findings[0].message


def test_the_checkpoint_of_another_log_is_named(root: Path) -> None:
    head = view_of(root).head
    (root / "checkpoint").write_bytes(head._replace(origin="example.com/other").sign([KEY]))
    assert "it speaks of another log" in audited(root).findings[0].message


def test_no_checkpoint_is_named(root: Path) -> None:
    (root / "checkpoint").unlink()
    assert faults(audited(root)) == {Fault.CHECKPOINT}


def test_an_older_checkpoint_replayed_is_named(root: Path) -> None:
    view = view_of(root)
    earlier = list(view.kept_checkpoints())[1]
    (root / "checkpoint").write_bytes(earlier)
    report = audited(root)
    assert Fault.TRUNCATED in faults(report)
    assert "cut short, or replayed" in report.findings[0].message
    with pytest.raises(ProofError, match="older checkpoint replayed"):
        view.refresh()
    assert view.size == 600, "the view stays where it was"


def test_a_split_view_is_named(root: Path) -> None:
    """The operator signs two trees of one size, and shows one here and the other there."""
    shown_elsewhere = Checkpoint(ORIGIN, 600, EMPTY_ROOT).sign([KEY])
    report = audited(root, shown_elsewhere)
    assert faults(report) == {Fault.SPLIT}
    view = view_of(root)
    (root / "checkpoint").write_bytes(shown_elsewhere)
    with pytest.raises(ProofError, match="split view"):
        view.refresh()
    # And of one size among those kept:
    notes = decode_entries((root / kept_path(0, 4)).read_bytes())
    twice = [*notes, Checkpoint(ORIGIN, 600, EMPTY_ROOT).sign([KEY])]
    (root / kept_path(0, 5)).write_bytes(encode_entries(twice))
    assert Fault.SPLIT in faults(audited(root))


def test_a_history_rewritten_and_signed_anew_is_caught_by_an_earlier_checkpoint(root: Path) -> None:
    held = (root / "checkpoint").read_bytes()
    entries = leaves(0, 700)
    entries[150] = make_leaf(9_999)
    new = rebuild(root, entries)
    (root / "checkpoint").write_bytes(new.sign([KEY]))
    shutil.rmtree(root / "checkpoints")
    assert audited(root).sound, "alone, the files cannot tell"
    assert audited(root).history is History.NONE, "but that something is gone"
    report = audited(root, held)
    assert faults(report) == {Fault.HISTORY}
    old = verify_checkpoint(held, [KEY.verifier])
    path = view_of(root).consistency(600, 700)
    with pytest.raises(ProofError, match="history was rewritten"):
        verify_succession(old, new, path)


def test_a_kept_checkpoint_exchanged_is_named(root: Path) -> None:
    notes = decode_entries((root / kept_path(0, 4)).read_bytes())
    for forged, fault in (
        (Checkpoint(ORIGIN, 300, EMPTY_ROOT).sign([OTHER_KEY]), Fault.CHECKPOINT),
        (Checkpoint(ORIGIN, 300, EMPTY_ROOT).sign([KEY]), Fault.HISTORY),
        (b"garbage", Fault.CHECKPOINT),
    ):
        (root / kept_path(0, 4)).write_bytes(encode_entries([*notes[:2], forged, notes[3]]))
        assert faults(audited(root)) == {fault}
    (root / kept_path(0, 4)).write_bytes(encode_entries([notes[0], notes[2], notes[1], notes[3]]))
    assert faults(audited(root)) == {Fault.TRUNCATED}
    (root / kept_path(0, 4)).write_bytes(b"\xff\xff")
    assert faults(audited(root)) == {Fault.CHECKPOINT}


def assert_incomplete(root: Path, *missing: str) -> None:
    report = audited(root)
    assert (report.findings, report.history, report.missing) == ((), History.INCOMPLETE, missing)
    assert not report.ok


def test_kept_checkpoints_that_were_removed_are_missed(root: Path) -> None:
    notes = decode_entries((root / kept_path(0, 4)).read_bytes())
    (root / kept_path(0, 4)).unlink()
    assert_incomplete(root, "those after the one of 300 leaves, up to the log's own of 600")
    (root / kept_path(0, 3)).unlink()
    assert_incomplete(root, "those after the one of 100 leaves, up to the log's own of 600")
    for path in (root / "checkpoints/000.p").iterdir():
        path.unlink()
    (root / kept_path(0, 2)).write_bytes(encode_entries(notes[2:]))
    assert_incomplete(root, "those before the one of 300 leaves")
    (root / kept_path(0, 4)).write_bytes(encode_entries(notes[:3]))
    assert faults(audited(root)) == {Fault.CHECKPOINT}, "cut, under the name of the whole"


@pytest.mark.parametrize("more", [0, 300])
def test_a_checkpoint_that_is_published_and_kept_while_an_audit_looks_is_not_missed(root: Path, more: int) -> None:
    class Written(FolderStore):
        """What a reader of the newest file sees who comes between publishing and keeping; ``more`` follow."""

        def read(self, name: str, *, most: int) -> bytes | None:
            if name == kept_path(0, 4) and not asked:
                asked.append(name)
                with open_log(root) as log:
                    for number in range(600, 600 + more):
                        log.append([make_leaf(number)])
                return None
            return super().read(name, most=most)

    asked: list[str] = []
    report = audit(Written(root), [KEY.verifier], origin=ORIGIN)
    assert asked
    assert report.ok, report
    assert report.size == 600


def test_a_log_without_any_kept_checkpoint_is_no_plain_success(root: Path) -> None:
    """A copy by other tools, of tiles and checkpoint alone, looks so; nothing in it is wrong."""
    shutil.rmtree(root / "checkpoints")
    report = audited(root)
    assert (report.sound, report.history, report.ok) == (True, History.NONE, False)
    (root / "checkpoints/000.p").mkdir(parents=True)
    assert audited(root).history is History.NONE


def test_files_of_kept_checkpoints_that_are_missing_before_others_are_named(tmp_path: Path) -> None:
    root = tmp_path / "log"
    with open_log(root) as log:
        for number in range(800):
            log.append([make_leaf(number)])
    assert audited(root).checkpoints == 802
    bundle = (root / kept_path(1)).read_bytes()
    (root / kept_path(1)).unlink()
    assert_incomplete(root, "the file checkpoints/001")
    (root / kept_path(0)).unlink()
    assert_incomplete(root, "the files checkpoints/000 to checkpoints/001")
    assert audited(root).checkpoints == 801 - 512 + 1, "those after the gap are checked"
    (root / kept_path(1)).write_bytes(bundle[:-1])
    report = audited(root)
    assert (faults(report), report.missing) == ({Fault.CHECKPOINT}, ("the file checkpoints/000",))
    shutil.rmtree(root / "checkpoints/003.p")
    assert "those after the one of 767 leaves, up to the log's own of 800" in audited(root).missing


def test_a_proof_for_another_tree_size_is_named(root: Path) -> None:
    view = view_of(root)
    proof = view.inclusion(77, 300)
    verify_inclusion(leaf_hash(make_leaf(77)), 77, 300, proof.path, view.root(300))
    with pytest.raises(ProofError, match="another size"):
        verify_inclusion(leaf_hash(make_leaf(77)), 77, 600, proof.path, view.head.root)
    same_shape = view.inclusion(77, 599)
    with pytest.raises(ProofError, match="the tree is another one"):
        verify_inclusion(leaf_hash(make_leaf(77)), 77, 600, same_shape.path, view.head.root)


def test_a_duplicate_index_is_named(root: Path) -> None:
    """A bundle shown whole to one, and another one, of the width of an earlier checkpoint, to others."""
    partial = root / "tile/entries/001.p/44"
    partial.parent.mkdir()
    entries = leaves(256, 300)
    partial.write_bytes(encode_entries(entries))
    assert audited(root).ok
    partial.write_bytes(encode_entries([*entries[:10], make_leaf(9_999), *entries[11:]]))
    report = audited(root)
    assert faults(report) == {Fault.DUPLICATE}
    assert report.first_leaf == 266
    assert "has another leaf 266" in report.findings[0].message


@pytest.mark.parametrize("text", [b'{"b":1,"a":2}', b'{ "a": 1}', b'{"a":1,"a":2}', b'{"a":1.0}', b"\xff", b"not JSON"])
def test_an_entry_that_is_not_canonical_json_is_named(tmp_path: Path, text: bytes) -> None:
    with open_log(tmp_path / "log") as log:
        log.append([make_leaf(0), text, make_leaf(2)])
    report = audited(tmp_path / "log")
    assert faults(report) == {Fault.CANONICAL}
    assert report.first_leaf == 1
    assert audit(FolderStore(tmp_path / "log"), [KEY.verifier], canonical=False).ok


def test_every_byte_of_a_small_log_matters(tmp_path: Path) -> None:
    """No byte of what the checkpoint covers can change without a finding."""
    with open_log(tmp_path / "log") as log:
        log.append(leaves(0, 3))
    store = FolderStore(tmp_path / "log")
    for name in ("checkpoint", "tile/0/000.p/3", "tile/entries/000.p/3", kept_path(0, 2)):
        path = tmp_path / "log" / name
        content = path.read_bytes()
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert not audit(store, [KEY.verifier], origin=ORIGIN).ok, f"{name}, byte {at}"
        path.write_bytes(content)
    assert audit(store, [KEY.verifier], origin=ORIGIN).ok


def test_many_faults_are_counted_and_the_first_hundred_named(root: Path) -> None:
    edit_bundle(root, lambda entries: [b"{}x" for _ in entries])
    report = audited(root)
    assert len(report.findings) == 100
    assert report.more > 100
    assert report.first_leaf == 256
