"""The log on an object store: fsspec's memory, and moto's S3 server over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from log_samples import KEY, assert_holds, leaves, make_leaf
from moto.server import ThreadedMotoServer

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError
from amaru.ledger.audit import audit
from amaru.ledger.journal import Mark
from amaru.ledger.log import Log
from amaru.ledger.remote_store import LEASE_S, RemoteStore
from amaru.ledger.tile_store import open_store
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
    name = uuid.uuid4().hex
    if request.param == "memory":
        return Place(f"memory://{name}/log", {})
    endpoint = request.getfixturevalue("endpoint")
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
        with pytest.raises(
            LedgerBusy, match=r"process \d+ on .* writes this log, .* its lease ends (59|60) s from now"
        ):
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


def test_a_lease_is_renewed_while_it_is_used_and_ends_where_it_is_not() -> None:
    url, clock = f"memory://{uuid.uuid4().hex}/log", Hand()
    first = Log(RemoteStore(url, {}, clock=clock), [KEY])
    first.store.hold()
    for number in range(5):
        first.append([make_leaf(number)])
        clock.now_s += LEASE_S / 2
    with pytest.raises(LedgerBusy):
        RemoteStore(url, {}, clock=clock).hold()
    clock.now_s += LEASE_S
    with pytest.raises(LedgerBusy, match="lease has ended"):
        first.commit([make_leaf(5)])
    second = Log(RemoteStore(url, {}, clock=clock), [KEY])
    second.store.hold()
    second.append([make_leaf(5)])
    with pytest.raises(LedgerBusy, match="lease has ended"):
        first.commit([make_leaf(99)])
    first.store.release()
    assert second.append([make_leaf(6)]).first == 6, "the one that lost it does not take it from the other"


def test_a_write_whose_answer_was_lost_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"memory://{uuid.uuid4().hex}/log", {})
    log = place.open()
    log.append(leaves(0, 2))
    pipe = MemoryFileSystem.pipe_file

    def lost(self: MemoryFileSystem, path: str, value: bytes, **options: str) -> None:
        pipe(self, path, value, **options)
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lost)
    with pytest.raises(LedgerError, match="no answer"):
        log.commit([make_leaf(99)])
    monkeypatch.undo()
    assert log.append([make_leaf(2)]).first == 2
    assert_holds(log, leaves(0, 3))
    log.close()


def test_errors_name_the_place_and_no_secret(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str) -> bytes:
        raise OSError(f"refused with {SECRET}")

    store = place.store()
    monkeypatch.setattr(store._fs, "cat_file", failing)
    with pytest.raises(LedgerError, match="log/checkpoint: cannot read: refused with") as raised:
        store.read("checkpoint", most=100)
    if place.options:
        assert SECRET not in str(raised.value)
    with pytest.raises(LedgerError, match="not a usable URL"):
        open_store("nosuch://bucket/log")
