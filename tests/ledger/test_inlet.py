"""Other processes record through the one that holds the log."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from ledger_samples import SAMPLES, T0
from msgspec.structs import replace

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.inlet import Inlet, hand_over
from amaru.ledger.log import Log
from amaru.ledger.place import Place, found, open_log
from amaru.ledger.receipts import Pruning, leaf_of
from amaru.ledger.remembrancer import Remembrancer
from amaru.ledger.search import Search
from amaru.ledger.writer import Writer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place.of(str(tmp_path / "ledger"), tmp_path)
    found(made)
    return made


@pytest.fixture
def writer(place: Place) -> Iterator[Writer]:
    made = Writer(lambda: open_log(place, wait_s=0))
    made.start()
    assert made.wait_open(30)
    yield made
    made.close()


def test_a_receipt_is_recorded_while_another_process_holds_the_log(place: Place, writer: Writer) -> None:
    with Inlet(place.keys, writer) as inlet:
        assert stat.S_IMODE(inlet.path.stat().st_mode) == 0o600
        with Remembrancer(place, clock=lambda: T0) as it:
            done = [it.record(receipt) for receipt in SAMPLES]
            assert [one.entry.leaf for one in done] == list(range(len(SAMPLES)))
            assert all(one.checkpoint is not None for one in done)
            for one in done:
                assert it.show(it.at(one.entry.leaf)).entry == one.entry
    assert not inlet.path.exists()


def test_a_command_records_while_this_process_holds_the_log(place: Place, writer: Writer) -> None:
    command = [sys.executable, "-c", "from amaru.cli.remembrancer import main; main()", "record", "incident"]
    options = ["--component", "north", "--note", "at night", "--ledger", place.url]
    with Inlet(place.keys, writer):
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "#0 of a log of 1" in done.stdout


def test_a_pruning_is_done_by_who_holds_the_log(place: Place, writer: Writer) -> None:
    for receipt in SAMPLES * 40:
        writer.append(leaf_of(receipt))
    writer.publish().result(60)
    pruning = Pruning(at=SAMPLES[0].at, component="ledger", until=256)
    with Inlet(place.keys, writer), Remembrancer(place) as it:
        assert it.view.size == 320
        assert it.prune(pruning) == (256, 320)
        assert it.at(255).data is None
        assert it.at(256).data is not None
        assert it.count(Search(before=256)) == {"pruned": 256}
        for refused, said in ((pruning, "pruned already"), (replace(pruning, until=512), "prune until 256")):
            with pytest.raises(LedgerError, match=said):
                it.prune(refused)
        with pytest.raises(LedgerError, match="recorded by doing it"):
            it.record(pruning)
        assert it.view.size == 321, "what is refused is not logged"
        assert hand_over(place.keys, leaf_of(SAMPLES[0])) is not None
    assert writer.log is not None
    assert writer.log.pruned == (256, 320)


def test_a_pruning_where_the_log_is_not_open_is_refused(tmp_path: Path) -> None:
    def fails() -> Log:
        raise LedgerError("the disk is gone")

    with Inlet(tmp_path, Writer(fails)), pytest.raises(LedgerError, match="cannot be opened now; nothing was erased"):
        hand_over(tmp_path, leaf_of(Pruning(at=SAMPLES[0].at, component="ledger", until=256)))


def test_many_at_once_are_taken_one_after_the_other(place: Place, writer: Writer) -> None:
    leaf = leaf_of(SAMPLES[3])
    with Inlet(place.keys, writer):
        indices: list[int] = []

        def hand() -> None:
            logged = hand_over(place.keys, leaf)
            assert logged is not None
            indices.append(logged.index)

        threads = [threading.Thread(target=hand) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(indices) == list(range(20))


def test_what_is_no_leaf_is_refused_in_words_and_costs_nothing(place: Place, writer: Writer) -> None:
    with Inlet(place.keys, writer):
        with pytest.raises(LedgerError, match="not canonical"):
            hand_over(place.keys, b'{"b":1, "a":2}')
        logged = hand_over(place.keys, leaf_of(SAMPLES[3]))
        assert logged is not None
        assert logged.index == 0


@pytest.mark.parametrize("said", [b"", b"\x00", struct.pack(">I", 5) + b"abc", struct.pack(">I", 2**31)])
def test_who_breaks_off_or_talks_nonsense_harms_nobody(place: Place, writer: Writer, said: bytes) -> None:
    with Inlet(place.keys, writer, limit_s=5) as inlet:
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(inlet.path))
            rude.sendall(said)
        assert hand_over(place.keys, leaf_of(SAMPLES[3])) is not None


def test_without_a_process_that_takes_leaves_there_is_nobody(place: Place, tmp_path: Path) -> None:
    assert hand_over(place.keys, b"{}") is None
    assert hand_over(tmp_path / "no" / "folder", b"{}") is None
    # One that was killed leaves its socket behind.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.keys / "writer.sock"))
    assert hand_over(place.keys, b"{}") is None
    with Remembrancer(place, clock=lambda: T0) as it:
        assert it.record(SAMPLES[1]).entry.leaf == 0


def test_the_next_writer_takes_the_place_of_one_that_was_killed(place: Place, writer: Writer) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.keys / "writer.sock"))
    with Inlet(place.keys, writer):
        assert hand_over(place.keys, leaf_of(SAMPLES[3])) is not None


def test_a_path_longer_than_the_kernel_takes(tmp_path: Path, writer: Writer) -> None:
    folder = tmp_path / ("deep" * 20) / ("er" * 30)
    assert len(os.fsencode(folder)) > 107
    with Inlet(folder, writer):
        assert hand_over(folder, leaf_of(SAMPLES[3])) is not None
    assert hand_over(folder, b"{}") is None


class Silent:
    """Holds a log that does not come back."""

    def append(self, leaf: bytes) -> Future[int]:
        return Future()

    def publish(self) -> Future[bytes]:
        return Future()


class Full(Silent):
    """Can make durable, and not publish."""

    def append(self, leaf: bytes) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(7)
        return future


def test_a_log_that_does_not_answer_is_not_said_to_have_refused(tmp_path: Path) -> None:
    with Inlet(tmp_path, Silent(), limit_s=0.05), pytest.raises(LedgerError, match="look whether it was logged"):
        hand_over(tmp_path, leaf_of(SAMPLES[3]))
    with Inlet(tmp_path, Full(), limit_s=0.05):
        logged = hand_over(tmp_path, leaf_of(SAMPLES[3]))
        assert logged is not None
        assert (logged.index, logged.checkpoint) == (7, None)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "writer.sock"))
        deaf.listen()
        with pytest.raises(LedgerBusy, match="look whether"):
            hand_over(tmp_path, leaf_of(SAMPLES[3]), limit_s=0.05)


def test_a_folder_that_cannot_hold_a_socket_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="others cannot log"):
        Inlet(tmp_path / "file", Silent()).start()
