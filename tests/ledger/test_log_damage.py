"""What can happen to the log's files between two runs: mended where nothing acknowledged is lost, else refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from log_samples import KEY, OTHER_KEY, assert_holds, leaves, make_leaf, open_log

from amaru.errors import LedgerCorrupt
from amaru.ledger.audit import audit
from amaru.ledger.checkpoint import Checkpoint
from amaru.ledger.journal import Frame, decode_frames
from amaru.ledger.kept import kept_path
from amaru.ledger.merkle import EMPTY_ROOT
from amaru.ledger.tiles import decode_entries


def crash(root: Path, published: int, committed: int, settled: int = 0) -> None:
    """A log whose writer died: so many leaves settled, published, and committed."""
    log = open_log(root)
    log.append(leaves(0, settled))
    log.settle()
    log.append(leaves(settled, published))
    for number in range(published, committed):
        log.commit([make_leaf(number)])
    log.store.release()


def journal_of(root: Path) -> Path:
    (path,) = (root / "journal").iterdir()
    return path


def test_the_journals_last_frame_torn_at_every_byte(tmp_path: Path) -> None:
    crash(tmp_path / "log", 5, 9)
    journal = journal_of(tmp_path / "log")
    content = journal.read_bytes()
    frames, good = decode_frames(content, "")
    assert good == len(content)
    last = len(frames[-1].encode())
    for cut in range(len(content) - last, len(content) + 1):
        root = tmp_path / "torn"
        shutil.copytree(tmp_path / "log", root)
        journal_of(root).write_bytes(content[:cut])
        whole = 9 if cut == len(content) else 8  # the torn frame's leaf was never acknowledged
        with open_log(root) as log:
            assert_holds(log, leaves(0, whole))
            log.append([make_leaf(whole)])
            shutil.copytree(root, tmp_path / "and killed again")
        for after in (root, tmp_path / "and killed again"):
            with open_log(after) as log:
                assert_holds(log, leaves(0, whole + 1))
            report = audit(log.store, [KEY.verifier])
            assert report.ok, report.findings
            shutil.rmtree(after)


@pytest.mark.parametrize("flip", [0, 5, 11, 20, 40])
def test_a_damaged_last_frame_is_taken_for_torn_and_an_earlier_one_refused(tmp_path: Path, flip: int) -> None:
    crash(tmp_path / "log", 0, 6)
    journal = journal_of(tmp_path / "log")
    content = bytearray(journal.read_bytes())
    frames, _ = decode_frames(bytes(content), "")
    starts = [sum(len(frame.encode()) for frame in frames[:number]) for number in range(len(frames))]
    content[starts[-1] + flip] ^= 1
    journal.write_bytes(content)
    with open_log(tmp_path / "log") as log:
        assert_holds(log, leaves(0, 5))
    crash(tmp_path / "other", 0, 6)
    content = bytearray(journal_of(tmp_path / "other").read_bytes())
    content[starts[3] + flip] ^= 1
    journal_of(tmp_path / "other").write_bytes(content)
    with pytest.raises(LedgerCorrupt, match=r"damaged at byte .*, and acknowledged entries follow"):
        open_log(tmp_path / "other")
    assert journal_of(tmp_path / "other").read_bytes() == content, "what was found is left for people to look at"


def relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def audit_names(root: Path, settled: int) -> list[str]:
    with open_log(root) as log:
        log.append(leaves(0, settled))
    return [relative(root, path) for path in root.rglob("*") if path.is_file() and path.name != "checkpoint"]


@pytest.mark.parametrize("harm", ["gone", "empty", "half"])
def test_any_unsettled_file_may_be_lost_with_the_power(tmp_path: Path, harm: str) -> None:
    """Settled at 300; then 400 more published, of which the kernel wrote nothing, or only parts."""
    durable = set(audit_names(tmp_path / "durable", 300))
    crash(tmp_path / "log", 700, 710, settled=300)
    unsettled = [
        path
        for path in sorted((tmp_path / "log").rglob("*"))
        if path.is_file()
        and relative(tmp_path / "log", path) not in durable
        and path.parent.name != "journal"
        and path.name not in ("lock", "checkpoint")
    ]
    assert len(unsettled) > 5
    for damaged in [unsettled, *[[path] for path in unsettled]]:
        root = tmp_path / "after"
        shutil.copytree(tmp_path / "log", root)
        for path in damaged:
            copy = root / path.relative_to(tmp_path / "log")
            if harm == "gone":
                copy.unlink()
            else:
                copy.write_bytes(b"" if harm == "empty" else path.read_bytes()[: path.stat().st_size // 2])
        if len(damaged) > 1:  # the checkpoint's new version did not come to the disk either
            (root / "checkpoint").write_bytes(b"" if harm == "empty" else earlier_checkpoint(tmp_path / "durable"))
        with open_log(root) as log:
            assert_holds(log, leaves(0, 710))
        report = audit(log.store, [KEY.verifier])
        assert report.ok, report.findings
        shutil.rmtree(root)


def earlier_checkpoint(root: Path) -> bytes:
    return (root / "checkpoint").read_bytes()


def test_a_crash_between_publishing_and_keeping_keeps_the_checkpoint(tmp_path: Path) -> None:
    crash(tmp_path / "log", 5, 5)
    published = (tmp_path / "log/checkpoint").read_bytes()
    kept = sorted((tmp_path / "log/checkpoints/000.p").iterdir(), key=lambda path: int(path.name))
    kept[-1].unlink()
    with open_log(tmp_path / "log") as log:
        log.append(leaves(5, 6))
        assert published in list(log.kept_checkpoints())
    assert audit(log.store, [KEY.verifier]).ok


def test_a_crash_while_a_new_journal_takes_over_leaves_either(tmp_path: Path) -> None:
    root = tmp_path / "log"
    crash(root, 5, 9)
    old = journal_of(root)
    before = old.read_bytes()
    open_log(root).close()  # settles
    old.write_bytes(before)  # as if the crash came before the old one was removed
    with open_log(root) as log:
        assert_holds(log, leaves(0, 9))
    assert not old.exists()
    (root / "journal" / ".draft").write_bytes(b"half")
    with open_log(root) as log:
        assert_holds(log, leaves(0, 9))


def lose_journal(root: Path) -> None:
    shutil.rmtree(root / "journal")


def lose_journal_and_checkpoint(root: Path) -> None:
    shutil.rmtree(root / "journal")
    (root / "checkpoint").unlink()


def replay_all_but_the_kept(root: Path) -> None:
    lose_tail(root)
    notes = decode_entries((root / kept_path(0, 6)).read_bytes())
    (root / "checkpoint").write_bytes(notes[1])


def lose_tail(root: Path) -> None:
    journal = journal_of(root)
    frames, _ = decode_frames(journal.read_bytes(), "")
    journal.write_bytes(b"".join(frame.encode() for frame in frames[:-2]))


def lose_middle(root: Path) -> None:
    journal = journal_of(root)
    frames, _ = decode_frames(journal.read_bytes(), "")
    journal.write_bytes(b"".join(frame.encode() for frame in [*frames[:-2], frames[-1]]))


def exchange_committed(root: Path) -> None:
    journal = journal_of(root)
    base, *frames = decode_frames(journal.read_bytes(), "")[0]
    frames[0] = Frame(frames[0].first, frames[0].payload.replace(b'"test"', b'"tset"'))
    journal.write_bytes(b"".join(frame.encode() for frame in [base, *frames]))


def exchange_tile(root: Path) -> None:
    for path in (root / "tile/0").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))


def lose_edge(root: Path) -> None:
    shutil.rmtree(root / "tile/0")


def edit_open_bundle(root: Path) -> None:
    for path in (root / "tile/entries").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b'"test"', b'"tset"', 1))


def forge_base(root: Path) -> None:
    journal = journal_of(root)
    frames, _ = decode_frames(journal.read_bytes(), "")
    frames[0] = Frame(0, Checkpoint("example.com/ledger", 0, EMPTY_ROOT).sign([OTHER_KEY]))
    journal.write_bytes(b"".join(frame.encode() for frame in frames))


def garble_journal(root: Path) -> None:
    journal_of(root).write_bytes(b"garbage")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lose_journal, "no journal"),
        (lose_journal_and_checkpoint, "holds 9 entries and no journal"),
        (replay_all_but_the_kept, "truncated: 9 entries were published, and 7 are here"),
        (lose_tail, "truncated: 9 entries were published, and 7 are here"),
        (lose_middle, "entries 7 to 7 are missing"),
        (exchange_committed, "are not those that were published"),
        (exchange_tile, "not those of its checkpoint"),
        (lose_edge, "is missing"),
        (edit_open_bundle, "leaf 0 is not what was logged"),
        (forge_base, "its base does not hold here"),
        (garble_journal, "its base cannot be read"),
    ],
)
def test_what_would_lose_an_acknowledged_entry_is_refused(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    root = tmp_path / "log"
    log = open_log(root)
    log.append(leaves(0, 5))
    log.settle()
    for number in range(5, 9):
        log.append([make_leaf(number)])
    log.store.release()
    harm(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(LedgerCorrupt, match=words):
        open_log(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "lock"} == before
    with pytest.raises(LedgerCorrupt, match=words):
        open_log(root)  # the lock was let go of


def test_a_forged_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    crash(tmp_path / "log", 5, 5)
    forged = Checkpoint("example.com/ledger", 5, EMPTY_ROOT).sign([OTHER_KEY])
    (tmp_path / "log/checkpoint").write_bytes(forged)
    with pytest.raises(LedgerCorrupt, match="wrong key, or a forgery"):
        open_log(tmp_path / "log")
    assert (tmp_path / "log/checkpoint").read_bytes() == forged
