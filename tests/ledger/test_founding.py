"""A ledger is begun whole or not at all: by those who are killed, on full disks, and by two at once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import kills_of
from small_disks import small_file_system

from amaru.errors import LedgerError
from amaru.files.whole import make_folder, make_whole, write_whole
from amaru.ledger.keys import add_key, load_signers
from amaru.ledger.place import Place, found, load_salt, open_log, rotate, trust_of

CALLS = ("open", "write", "fsync", "mkdir", "link", "replace")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(str(tmp_path / "data" / "ledger"), tmp_path / "data")


def test_those_who_begin_a_ledger_killed_at_some_of_their_calls_to_the_system(tmp_path: Path) -> None:
    assert kills_of("kill_founding.py", str(tmp_path), "11") > 25


@pytest.mark.slow
def test_those_who_begin_a_ledger_killed_at_every_call_to_the_system(tmp_path: Path) -> None:
    assert kills_of("kill_founding.py", str(tmp_path), "1") > 250


class FullDisk:
    """From its ``first`` call on, nothing more fits."""

    def __init__(self, patch: pytest.MonkeyPatch, first: int) -> None:
        self.calls, self.first = 0, first
        for name in CALLS:
            patch.setattr(os, name, self._full(name, getattr(os, name)))

    def _full(self, name: str, system: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if name == "open" and not (isinstance(arguments[1], int) and arguments[1] & os.O_CREAT):
                return system(*arguments, **more)  # reading takes no room
            self.calls += 1
            if self.calls < self.first:
                return system(*arguments, **more)
            if name == "write":  # a full disk takes what fits
                system(arguments[0], arguments[1][:1])  # type: ignore[index]  # bytes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call


@pytest.mark.parametrize("begin", [found, load_salt])
def test_on_a_full_disk_it_is_said_where_room_is_needed_and_with_room_it_goes_on(
    place: Place, begin: Callable[[Place], object]
) -> None:
    for first in range(1, 30):
        told = ""
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, first)
            try:
                begin(place)
            except LedgerError as error:
                told = str(error)
        if disk.calls < first:
            break
        assert not told or (str(place.keys) in told and "No space left on device; make room there" in told)
        begin(place)
        load_salt(place)
        found(place)
        assert len(load_signers(place.signing_key)) == 1
        with open_log(place):
            assert trust_of(place)[0].verifiers
        shutil.rmtree(place.keys.parent)
    else:
        pytest.fail("it takes more calls than this test tries")


def test_a_disk_that_is_really_full_takes_no_key_and_with_room_it_does(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk") as disk:
        place = Place.of(str(disk.root / "ledger"), disk.root)
        for begin in (found, load_salt):
            disk.fill()
            with pytest.raises(LedgerError, match=r"ledger\.keys.*No space left on device; make room there"):
                begin(place)
            disk.free()
            begin(place)
        assert [path.name for path in place.keys.iterdir() if path.name.startswith(".")] == []
        with open_log(place):
            assert len(load_signers(place.signing_key)) == 1


def test_a_rotation_on_a_full_disk_leaves_the_keys_as_they_were(place: Place) -> None:
    found(place)
    before = place.signing_key.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, 2)
        with pytest.raises(LedgerError, match=r"signing-key.*No space left on device; make room"):
            rotate(place)
    assert place.signing_key.read_bytes() == before
    assert [path for path in place.keys.iterdir() if path.name.startswith(".")] == []
    rotate(place)
    assert len(load_signers(place.signing_key)) == 2


def test_a_key_that_was_added_by_one_who_was_killed_then_is_known_at_the_next_opening(place: Place) -> None:
    found(place)
    added = add_key(place.signing_key)  # and no further
    open_log(place).close()
    assert added.verifier in trust_of(place)[0].verifiers


def test_what_one_left_who_was_killed_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the next process has the same number."""
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        killed.setattr(os, "replace", refuse)
        killed.setattr(os, "link", refuse)
        for put in (make_whole, write_whole):
            with pytest.raises(OSError, match="killed"):
                put(tmp_path / put.__name__, b"half")
    assert len(list(tmp_path.glob(".*.draft"))) == 2
    for put in (make_whole, write_whole):
        put(tmp_path / put.__name__, b"whole")
        assert (tmp_path / put.__name__).read_bytes() == b"whole"
    assert list(tmp_path.glob(".*.draft")) == []


def refuse(*_: object) -> None:
    raise OSError("killed")


def test_nothing_is_made_over_what_is_there(tmp_path: Path) -> None:
    make_whole(tmp_path / "one", b"first", mode=0o600)
    with pytest.raises(FileExistsError):
        make_whole(tmp_path / "one", b"second")
    assert (tmp_path / "one").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "one")
    make_folder(tmp_path / "a" / "b" / "c", 0o700)
    make_folder(tmp_path / "a" / "b" / "c", 0o700)
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700
