"""The log on an object store: fsspec's memory, and moto's S3 server over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from fsspec.core import url_to_fs
from fsspec.implementations.memory import MemoryFileSystem
from log_samples import KEY, assert_holds, leaves, make_leaf
from moto.server import ThreadedMotoServer

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.journal import Frame, Mark
from amaru.ledger.log import Log
from amaru.ledger.remote_store import LEASE_S, RemoteStore
from amaru.ledger.tile_store import open_store
from amaru.ledger.tiles import encode_entries
from amaru.ledger.view import LogView

SECRET = "hunter2-and-some-more"


class Place:
    """A URL, and what the file system behind it takes."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = url
        self.options = options

    def open(self, **more: int) -> Log:
        return Log.open(self.url, [KEY], options=self.options, **more)

    def view(self) -> LogView:
        return LogView.at(self.url, [KEY.verifier], options=self.options)

    def store(self) -> RemoteStore:
        store = open_store(self.url, self.options)
        assert isinstance(store, RemoteStore)
        return store


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "memory":
        return Place(f"memory://{uuid.uuid4().hex}/log", {})
    return in_s3(request.getfixturevalue("endpoint"), monkeypatch)


def in_s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """In a bucket of its own."""
    name = uuid.uuid4().hex
    for variable in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    keys = {"aws_access_key_id": "AKIAEXAMPLEEXAMPLE", "aws_secret_access_key": SECRET}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)
    options = {"key": "AKIAEXAMPLEEXAMPLE", "secret": SECRET, "endpoint_url": endpoint}
    return Place(f"s3://{name}/team/log", options)


def assert_sound(place: Place) -> None:
    report = audit(place.store(), [KEY.verifier])
    assert report.ok, report.findings


def crash(log: Log) -> None:
    """The process ends, and its lease runs out."""
    log.store.delete("lock")


def test_what_is_appended_is_read_and_proven(place: Place) -> None:
    with place.open() as log:
        for start, end in ((0, 1), (1, 256), (256, 530), (530, 531)):
            assert log.append(leaves(start, end)).first == start
            assert_holds(log, leaves(0, end))
    assert_holds(place.view(), leaves(0, 531))
    assert_sound(place)
    with place.open() as log:
        log.append(leaves(531, 600))
    assert_holds(place.view(), leaves(0, 600))


def test_what_is_committed_is_there_after_a_crash(place: Place) -> None:
    log = place.open()
    log.append(leaves(0, 300))
    log.settle()
    assert log.commit(leaves(300, 310), mark=Mark(1, 2)) == 300
    log.commit(leaves(310, 311))
    crash(log)
    with place.open() as again:
        assert_holds(again, leaves(0, 311))
        assert again.mark == Mark(1, 2)
    assert_sound(place)


def test_a_second_writer_is_refused_by_name(place: Place) -> None:
    with place.open():
        with pytest.raises(LedgerBusy, match=r"process \d+ on .* writes this log, .* its lease ends \d+ s from now"):
            place.open()
        place.view()
    place.open().close()


def test_a_journal_with_a_hole_is_refused(place: Place) -> None:
    log = place.open()
    log.append(leaves(0, 3))
    for number in range(3, 6):
        log.commit([make_leaf(number)])
    crash(log)
    place.store().delete(f"journal/{4:020d}")
    with pytest.raises(LedgerCorrupt, match="entries 4 to 4 are missing"):
        place.open()
    place.store().write(f"journal/{4:020d}", b"garbage")
    with pytest.raises(LedgerCorrupt, match="damaged"):
        place.open()
    place.store().delete("journal/base")
    with pytest.raises(LedgerCorrupt, match="its base is gone"):
        place.open()


def test_settling_empties_the_journal(place: Place) -> None:
    with place.open(settle_bytes=2_000) as log:
        for number in range(60):
            log.commit([make_leaf(number)])
        assert len(log.store.names("journal")) < 50
    assert log.store.names("journal") == ["base"]
    assert_holds(place.view(), leaves(0, 60))


def test_two_writers_cannot_both_commit_an_index(place: Place) -> None:
    store = place.store()
    store.create(f"journal/{0:020d}", b"one")
    with pytest.raises(LedgerBusy, match="another writer made it"):
        store.create(f"journal/{0:020d}", b"two")
    assert store.read(f"journal/{0:020d}", most=10) == b"one"


class Hand:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def at(place: Place, clock: Hand) -> Log:
    """A writer of the log that goes by this clock."""
    log = Log(RemoteStore(place.url, place.options, clock=clock), [KEY])
    log.store.hold()
    log.publish()
    return log


def objects(place: Place) -> dict[str, bytes]:
    """Every object of the log, but the leases."""
    fs, root = url_to_fs(place.url, **place.options)
    fs.invalidate_cache()
    return {path: fs.cat_file(path) for path in fs.find(root) if "/lock/" not in path}


def test_a_lease_is_renewed_while_it_is_used_or_watched(place: Place) -> None:
    clock = Hand()
    log = at(place, clock)
    for number in range(4):
        log.append([make_leaf(number)])
        clock.now_s += LEASE_S / 2
    for _ in range(4):
        log.renew()
        clock.now_s += LEASE_S / 2
    with pytest.raises(LedgerBusy, match="its lease ends 30 s from now"):
        at(place, clock)
    assert len(log.store.names("lock")) == 1


def test_a_lease_that_ended_is_had_again_unless_another_took_it(place: Place) -> None:
    clock = Hand()
    log = at(place, clock)
    clock.now_s += 10 * LEASE_S
    log.append(leaves(0, 3))
    clock.now_s -= 5 * LEASE_S  # the clock is put right
    log.append(leaves(3, 5))
    with pytest.raises(LedgerBusy, match=r"its lease ends 60 s from now"):
        at(place, clock)
    log.close()
    assert_holds(place.view(), leaves(0, 5))


@pytest.mark.parametrize("settled", [False, True])
def test_who_lost_the_log_changes_nothing_in_it(place: Place, settled: bool) -> None:
    clock = Hand()
    first = at(place, clock)
    first.append(leaves(0, 300))
    first.commit(leaves(300, 302))
    clock.now_s += 2 * LEASE_S
    second = at(place, clock)
    second.append(leaves(302, 600))
    if settled:
        second.settle()
    before = objects(place)
    for attempt in (
        lambda: first.commit([make_leaf(99)]),
        first.publish,
        first.settle,
        first.renew,
        lambda: first.store.delete("checkpoint"),
        lambda: first.store.replace("checkpoint", b"another"),
    ):
        with pytest.raises(LedgerBusy, match=r"has taken this log|no longer holds the log"):
            attempt()
    first.close()
    assert objects(place) == before
    assert second.append(leaves(600, 601)).first == 600
    second.close()
    assert_holds(place.view(), leaves(0, 601))
    assert_sound(place)


def test_a_log_that_is_abandoned_is_left_as_it_is_and_free(place: Place) -> None:
    log = place.open()
    log.append(leaves(0, 3))
    log.commit(leaves(3, 5))
    before = objects(place)
    log.abandon()
    log.close()
    assert objects(place) == before
    with pytest.raises(LedgerError, match="closed"):
        log.commit([make_leaf(5)])
    with place.open() as again:
        assert_holds(again, leaves(0, 5))


def test_of_two_that_take_a_lease_at_once_one_has_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw that nobody writes; the other is faster."""
    first, second = place.store(), place.store()
    seen = second._newest_lease()
    first.hold()
    with monkeypatch.context() as before:
        before.setattr(second, "_newest_lease", lambda: seen)
        with pytest.raises(LedgerBusy, match="another writer made it"):
            second.hold()
    first.write("x", b"1")
    first.release()
    second.hold()
    with pytest.raises(LedgerBusy, match="no longer holds the log"):
        first.write("x", b"2")


def test_s3_replaces_a_checkpoint_only_over_the_one_that_its_writer_knows(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer stood still after it asked for its lease, and another came and went on."""
    place = in_s3(endpoint, monkeypatch)
    late = place.open()
    late.append(leaves(0, 3))
    late.settle()
    late.store.delete("lock")
    with place.open() as log:
        log.append(leaves(3, 9))
        before = objects(place)
        monkeypatch.setattr(late.store, "renew", lambda: None)
        with pytest.raises(LedgerBusy, match="checkpoint: another writer made it"):
            late.store.replace("checkpoint", late.checkpoint())
        log.settle()
        with pytest.raises(LedgerBusy, match="base: another writer made it"):
            late._journal.restart(Frame(3, late.checkpoint()))
        assert objects(place).keys() != before.keys(), "the journal was settled"
        log.append(leaves(9, 10))
    assert_holds(place.view(), leaves(0, 10))


@pytest.mark.parametrize("recovers", [False, True])
def test_a_write_whose_answer_was_lost_is_taken_back(monkeypatch: pytest.MonkeyPatch, recovers: bool) -> None:
    place = Place(f"memory://{uuid.uuid4().hex}/log", {})
    log = place.open()
    log.append(leaves(0, 2))
    pipe = MemoryFileSystem.pipe_file

    def lost(self: MemoryFileSystem, path: str, value: bytes, **options: str) -> None:
        pipe(self, path, value, **options)
        raise TimeoutError("no answer")

    with monkeypatch.context() as failing:
        failing.setattr(MemoryFileSystem, "pipe_file", lost)
        with pytest.raises(LedgerError, match="no answer"):
            log.commit([make_leaf(99)])
        if recovers:
            with pytest.raises(LedgerError, match="no answer"):
                log.settle()
    assert log.append([make_leaf(2)]).first == 2
    assert_holds(log, leaves(0, 3))
    log.close()


def test_a_write_that_the_client_repeats_finds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"memory://{uuid.uuid4().hex}/log", {})
    pipe = MemoryFileSystem.pipe_file

    def twice(self: MemoryFileSystem, path: str, value: bytes, **options: str) -> None:
        pipe(self, path, value, **options)
        pipe(self, path, value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", twice)
    with place.open() as log:
        assert log.append(leaves(0, 2)).first == 0
        log.commit(leaves(2, 3))
    assert_holds(place.view(), leaves(0, 3))


def test_what_failed_and_is_another_writers_by_now_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"memory://{uuid.uuid4().hex}/log", {})
    log = place.open()
    log.append(leaves(0, 2))

    def lost(self: MemoryFileSystem, path: str, value: bytes, **options: str) -> None:
        raise TimeoutError("no answer")

    with monkeypatch.context() as failing:
        failing.setattr(MemoryFileSystem, "pipe_file", lost)
        with pytest.raises(LedgerError, match="no answer"):
            log.commit([make_leaf(99)])
    theirs = Frame(2, encode_entries([make_leaf(2)]))
    place.store().create(f"journal/{2:020d}", theirs.encode())
    with pytest.raises(LedgerBusy, match="another writer made it"):
        log.commit([make_leaf(98)])
    log.abandon()
    with place.open() as again:
        assert_holds(again, leaves(0, 3))


def test_an_object_that_is_too_long_is_not_read_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.store()
    store.write("checkpoint", b"x" * 1_000_000)
    read: list[int] = []
    cat_file = store._fs.cat_file

    def counted(path: str, start: int, end: int) -> bytes:
        content = cat_file(path, start=start, end=end)
        read.append(len(content))
        return content

    monkeypatch.setattr(store._fs, "cat_file", counted)
    with pytest.raises(LedgerError, match="checkpoint: more than 1,000 bytes"):
        store.read("checkpoint", most=1_000)
    assert read == [1_001]
    assert store.read("checkpoint", most=1_000_000) == b"x" * 1_000_000


def test_errors_name_the_place_and_no_secret(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str, start: int, end: int) -> bytes:
        raise OSError(f"refused with {SECRET}")

    store = place.store()
    monkeypatch.setattr(store._fs, "cat_file", failing)
    with pytest.raises(LedgerError, match="log/checkpoint: cannot read: refused with") as raised:
        store.read("checkpoint", most=100)
    if place.options:
        assert SECRET not in str(raised.value)
    with pytest.raises(LedgerError, match="not a usable URL"):
        open_store("nosuch://bucket/log")
