"""The log: appending, reading, proving, being the only writer, and coming back as it was."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_samples import KEY, ORIGIN, OTHER_KEY, assert_holds, leaves, make_leaf, open_log, view_of

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.audit import audit
from amaru.ledger.checkpoint import read_checkpoint, verify_checkpoint
from amaru.ledger.journal import Mark
from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash, root_of, verify_consistency, verify_inclusion
from amaru.ledger.tiles import decode_entries, tiles_of
from amaru.ledger.view import LogView


def assert_sound(root: Path) -> None:
    report = audit(view_of(root).store, [KEY.verifier])
    assert report.ok, report.findings


def test_a_new_log_has_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        assert log.size == log.committed == 0
        assert (tmp_path / "log" / "checkpoint").read_bytes() == log.checkpoint()
    assert_holds(view_of(tmp_path / "log"), [])


def test_what_is_appended_is_read_and_proven(tmp_path: Path) -> None:
    expected = leaves(0, 700)
    with open_log(tmp_path / "log") as log:
        for start, end in ((0, 1), (1, 255), (255, 256), (256, 600), (600, 700)):
            appended = log.append(expected[start:end])
            assert appended.first == start
            assert appended.checkpoint is not None
            checkpoint = verify_checkpoint(appended.checkpoint, [KEY.verifier], origin=ORIGIN)
            assert checkpoint.size == end == log.size
            assert_holds(log, expected[:end])
        assert log.entry(300) == expected[300]
        assert list(log.entries(250, 520)) == expected[250:520]
    assert_holds(view_of(tmp_path / "log"), expected)
    assert_sound(tmp_path / "log")


def test_the_files_are_those_of_the_layout(tmp_path: Path) -> None:
    expected = leaves(0, 600)
    with open_log(tmp_path / "log") as log:
        log.append(expected[:100])
        log.append(expected[100:])
    for tile in tiles_of(600):
        hashes = (tmp_path / "log" / tile.path).read_bytes()
        assert len(hashes) == 32 * tile.width
    assert decode_entries((tmp_path / "log/tile/entries/001").read_bytes()) == expected[256:512]
    assert decode_entries((tmp_path / "log/tile/entries/002.p/88").read_bytes()) == expected[512:]
    assert not (tmp_path / "log/tile/0/000.p").exists(), "the full tile stands for the partial ones"


def test_each_tile_holds_what_the_specification_says(tmp_path: Path) -> None:
    """By the formula of tlog-tiles alone: MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l])."""
    size = 66_000
    with open_log(tmp_path / "log") as log:
        for start in range(0, size, 3_000):
            log.append(leaves(start, start + 3_000))
    hashes = [leaf_hash(leaf) for leaf in leaves(0, size)]
    found: dict[str, bytes] = {}
    for level in range(3):
        span = 256**level
        row = [root_of(hashes[at : at + span]) for at in range(0, size - span + 1, span)]
        for number in range(0, len(row), 256):
            part = row[number : number + 256]
            width = "" if len(part) == 256 else f".p/{len(part)}"
            found[f"{level}/{number // 256:03d}{width}"] = b"".join(part)
    root = tmp_path / "log/tile"
    there = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {name: there[name] for name in found} == found
    full = {name for name in there if ".p/" not in name and not name.startswith("entries/")}
    assert full == {name for name in found if ".p/" not in name}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 300), st.sampled_from("apso")), max_size=8))
def test_any_history_gives_the_naive_tree(
    steps: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Append, commit and publish, settle, or open again: the log is the list of its leaves."""
    root = tmp_path_factory.mktemp("any") / "log"
    expected: list[bytes] = []
    log = open_log(root, settle_bytes=20_000)
    for count, step in steps:
        more = leaves(len(expected), len(expected) + count)
        assert log.commit(more) == len(expected)
        expected += more
        assert log.committed == len(expected)
        if step == "s":
            log.settle()
        elif step == "o":
            log.close()
            log = open_log(root, settle_bytes=20_000)
        else:
            log.publish()
        assert_holds(log, expected)
        sizes = [read_checkpoint(note).size for note in log.kept_checkpoints()]
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == len(expected)
    log.close()
    assert_sound(root)


def test_proofs_between_any_two_sizes(tmp_path: Path) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves(0, 530)]
    roots = {size: root_of(hashes[:size]) for size in (0, 1, 2, 255, 256, 257, 400, 512, 529, 530)}
    with open_log(tmp_path / "log") as log:
        log.append(leaves(0, 530))
        for old, new in [(old, new) for old in roots for new in roots if old <= new]:
            assert log.root(new) == roots[new]
            verify_consistency(old, new, roots[old], roots[new], log.consistency(old, new))
            if old < new:
                proof = log.inclusion(old, new)
                assert proof.leaf_hash == hashes[old]
                verify_inclusion(hashes[old], old, new, proof.path, roots[new])
        proof_file = log.proof(77)
        assert proof_file.verify(hashes[77], [KEY.verifier], origin=ORIGIN).size == 530


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.append(leaves(0, 10))
        for ask in (
            lambda: log.entry(10),
            lambda: log.entry(-1),
            lambda: log.entries(4, 11),
            lambda: log.leaf_hash(10),
        ):
            with pytest.raises(LedgerError, match="has entries 0 to 9"):
                ask()
        for prove in (lambda: log.inclusion(10), lambda: log.inclusion(3, 11), lambda: log.consistency(3, 11)):
            with pytest.raises(ProofError):
                prove()
        with pytest.raises(LedgerError, match="at most 65,535"):
            log.append([b"x" * 65_536])
        assert log.size == 10
    with pytest.raises(LedgerError, match="this log is closed"):
        log.append([b"late"])
    with pytest.raises(LedgerError, match="no log here"):
        view_of(tmp_path / "elsewhere")


def test_what_is_committed_is_there_after_a_crash_before_it_was_published(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.append(leaves(0, 300))
    assert log.commit(leaves(300, 310), mark=Mark(7, 8)) == 300
    assert (log.size, log.committed) == (300, 310)
    log.store.release()  # as the kernel does when the process dies; nothing is closed or settled
    with open_log(tmp_path / "log") as again:
        assert_holds(again, leaves(0, 310))
        assert again.mark == Mark(7, 8)
    assert_sound(tmp_path / "log")


def test_the_mark_outlives_the_journal(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.commit(leaves(0, 3), mark=Mark(5, 6))
        log.commit(leaves(3, 4))
        log.settle()
        assert log.mark == Mark(5, 6)
    with open_log(tmp_path / "log") as log:
        assert log.mark == Mark(5, 6)


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    with open_log(tmp_path / "log"):
        with pytest.raises(LedgerBusy, match=r"process \d+ writes this log"):
            open_log(tmp_path / "log")
        view_of(tmp_path / "log")  # readers are welcome
    open_log(tmp_path / "log").close()


def test_threads_that_append_wait_for_each_other(tmp_path: Path) -> None:
    firsts: list[int] = []
    with open_log(tmp_path / "log") as log:

        def append() -> None:
            firsts.extend(log.append([make_leaf(0), make_leaf(1)]).first for _ in range(20))

        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(firsts) == list(range(0, 160, 2))
        assert list(log.entries(0, 160)) == [make_leaf(0), make_leaf(1)] * 80


def test_a_view_follows_the_log_and_holds_it_to_what_it_saw(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.append(leaves(0, 3))
        view = view_of(tmp_path / "log")
        for size in (4, 260, 1000):
            log.append(leaves(log.size, size))
            assert view.size < size
            assert view.entry(0) == make_leaf(0)  # also where the partial tiles of its size are gone
            assert view.inclusion(1).size == view.size
            view.refresh()
            assert_holds(view, leaves(0, size))


def test_another_key_or_origin_does_not_write_on(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.append(leaves(0, 5))
    with pytest.raises(LedgerCorrupt, match="wrong key, or a forgery"):
        Log.open(str(tmp_path / "log"), [OTHER_KEY])
    with pytest.raises(LedgerCorrupt, match="another log"):
        Log.open(str(tmp_path / "log"), [KEY], origin="example.com/other")
    with pytest.raises(LedgerError, match="needs a key"):
        Log.open(str(tmp_path / "log"), [])
    with open_log(tmp_path / "log") as log:
        assert_holds(log, leaves(0, 5))


def test_keys_rotate_by_overlap(tmp_path: Path) -> None:
    root = tmp_path / "log"
    with open_log(root) as log:
        log.append(leaves(0, 2))
    with Log.open(str(root), [KEY, OTHER_KEY]) as log:
        log.append(leaves(2, 4))
    with Log.open(str(root), [OTHER_KEY], verifiers=[KEY.verifier]) as log:
        log.append(leaves(4, 6))
    assert_holds(LogView.at(str(root), [OTHER_KEY.verifier]), leaves(0, 6))
    assert audit(log.store, [KEY.verifier, OTHER_KEY.verifier]).ok
    with pytest.raises(ProofError, match="wrong key"):
        view_of(root)


def test_memory_and_journal_are_bounded_by_settling(tmp_path: Path) -> None:
    with open_log(tmp_path / "log", settle_bytes=50_000) as log:
        for start in range(0, 4_000, 100):
            log.commit([make_leaf(number, 100) for number in range(start, start + 100)])
            journal = sum(path.stat().st_size for path in (tmp_path / "log/journal").iterdir())
            assert journal < 50_000 + 100 * 150
        assert log.size > 3_000, "settling publishes"


def test_a_large_append_is_split_and_whole(tmp_path: Path) -> None:
    large = [bytes([65 + number % 26]) * 60_000 for number in range(400)]
    with open_log(tmp_path / "log") as log:
        assert log.append(large).first == 0
        assert list(log.entries(0, 400)) == large
    with open_log(tmp_path / "log") as log:
        assert log.size == 400
