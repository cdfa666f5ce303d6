"""A holder's journal: what was acknowledged is there after a kill, a torn end is left out, a full disk says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from till_samples import charge

from amaru.accounts import journal as module
from amaru.accounts.bank import Ended, Part
from amaru.accounts.journal import Begun, Dispatched, EndedRecord, Journal, abandoned, claim, decode, encode, read
from amaru.errors import JournalError

KEY = ("tenant:acme:usd:total", 0)


def dispatched(id: str) -> bytes:
    return encode(Dispatched(charge(id), (Part(KEY, 5, None),)))


def ended(number: int, id: str) -> bytes:
    return encode(EndedRecord(Ended(number, id, charge(id), (Part(KEY, 5, 3),))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_what_was_written_is_read(path: Path) -> None:
    journal = Journal(path, "h1", boot="b")
    for record in (dispatched("a"), dispatched("b"), ended(1, "a")):
        journal.append(record)
    left = read(path, boot="b")
    assert (left.holder, left.whole) == ("h1", True)
    assert list(left.open) == ["b"]
    assert [(one.number, one.id, one.parts) for one in left.ended] == [(1, "a", (Part(KEY, 5, 3),))]
    assert not read(path, boot="another").whole
    assert path.stat().st_mode & 0o077 == 0


@given(cut=st.integers(0, 10_000))
def test_a_torn_end_is_left_out_and_nothing_before_it(cut: int) -> None:
    records = [encode(Begun("h1", "b")), dispatched("a"), ended(1, "a"), dispatched("b")]
    content = b"".join(records)
    cut %= len(content) + 1
    found = [record for _, _, record in decode(content[:cut])]
    sizes = [sum(map(len, records[:n])) for n in range(1, len(records) + 1)]
    assert len(found) == sum(size <= cut for size in sizes)


@given(at=st.integers(0, 10_000), noise=st.binary(min_size=1, max_size=40))
def test_damage_costs_only_what_it_struck(tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes) -> None:
    records = [encode(Begun("h1", "b")), *(ended(number, str(number)) for number in range(1, 6))]
    content = b"".join(records)
    at %= len(content)
    damaged = content[:at] + noise + content[at + len(noise) :]
    path = tmp_path_factory.mktemp("j") / "journal"
    path.write_bytes(damaged)
    left = read(path, boot="b")
    untouched, begin = set(), len(records[0])
    for number, record in enumerate(records[1:], 1):
        if begin + len(record) <= at or begin >= at + len(noise):
            untouched.add(number)
        begin += len(record)
    numbers = [one.number for one in left.ended]
    assert untouched <= set(numbers)
    if left.whole:  # a kill explains it: what is missing is the end
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_disk_that_has_no_more_room_leaves_nothing_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path, "h1", boot="b")
    journal.append(dispatched("a"))
    filler = dispatched("x" * 50_000)

    def full(file: int, size_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "take_blocks", full)
        while journal.size_bytes + len(filler) <= module.STEP_BYTES:
            journal.append(filler)
        with pytest.raises(JournalError, match=r"No space left.*make room there.*Nothing is dispatched"):
            journal.append(filler)
    journal.append(dispatched("c"))
    journal.append(filler)
    left = read(path, boot="b")
    assert left.whole
    assert set(left.open) == {"a", "c", "x" * 50_000}


def test_it_grows_step_by_step(path: Path) -> None:
    journal = Journal(path, "h1", boot="b")
    names = [f"{number:06}" * 3_000 for number in range(200)]
    for name in names:
        journal.append(dispatched(name))
    assert journal.size_bytes > 3 * module.STEP_BYTES
    assert path.stat().st_size % module.STEP_BYTES == 0
    left = read(path, boot="b")
    assert left.whole
    assert list(left.open) == names


def test_a_journal_is_bounded_and_keeps_room_for_what_is_open(path: Path) -> None:
    record = dispatched("a")
    journal = Journal(path, "h1", boot="b", most_bytes=len(encode(Begun("h1", "b"))) + 3 * len(record))
    journal.append(record, reserve_bytes=len(record))
    journal.append(record, reserve_bytes=len(record))
    with pytest.raises(JournalError, match="the journal is full"):
        journal.append(record, reserve_bytes=len(record))
    journal.append(record)


def test_a_record_that_could_not_be_read_is_not_written(path: Path) -> None:
    with pytest.raises(JournalError, match="at most"):
        Journal(path, "h1", boot="b").append(b"x" * (module.MAX_RECORD_BYTES + 1))


def test_begun_anew_it_holds_what_it_is_given(path: Path) -> None:
    journal = Journal(path, "h1", boot="b")
    for id in "abc":
        journal.append(dispatched(id))
    journal.restart([dispatched("c")])
    journal.append(ended(7, "c"))
    left = read(path, boot="b")
    assert not left.open
    assert [one.number for one in left.ended] == [7]


def test_folders_are_each_one_processs(tmp_path: Path) -> None:
    first, second = claim(tmp_path), claim(tmp_path)
    assert first.path != second.path
    Journal(first.journal, "h1", boot="b")
    assert list(abandoned(tmp_path)) == []
    first.close()
    third = claim(tmp_path)
    assert third.path not in (first.path, second.path), "a journal waits there"
    (left,) = abandoned(tmp_path)
    assert left.path == first.path
    left.journal.unlink()
    left.close()
    assert claim(tmp_path).path == first.path


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="file"):
        claim(tmp_path / "file")
