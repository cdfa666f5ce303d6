"""Artifacts on an object store: moto's S3 server, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from artifact_stores import refused
from moto.server import ThreadedMotoServer

from amaru.errors import ArtifactError
from amaru.learning.artifact_files import Files
from amaru.learning.artifact_manifest import digest_of
from amaru.learning.artifacts import ArtifactStore, Moved, Published

SECRET = "hunter2-and-some-more"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # Any: boto3 makes its clients at run time
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="models")
    yield client
    for item in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=item["Key"])


def open_store(endpoint: str, url: str = "s3://models/team/amaru") -> ArtifactStore:
    # Each with a client of its own, as on another machine.
    return ArtifactStore(url, endpoint_url=endpoint, skip_instance_cache=True)


def keys(s3: Any) -> list[str]:
    return sorted(item["Key"] for item in s3.list_objects_v2(Bucket="models").get("Contents", []))


def test_a_version_goes_up_and_comes_down_on_another_machine(endpoint: str, s3: Any) -> None:
    here, there = open_store(endpoint), open_store(endpoint)
    assert here.list() == there.list() == ()
    assert here.publish("thompson", b"one" * 100_000, knobs={"epsilon": 0.1}) == Published("v1", True)
    assert there.publish("thompson", b"one" * 100_000, knobs={"epsilon": 0.1}) == Published("v1", False)
    assert there.publish("thompson", b"two") == Published("v2", True)
    assert here.promote("v1") == Moved(None, "v1")
    assert there.load().state == b"one" * 100_000
    assert there.promote("latest") == Moved("v1", "v2")
    assert here.load().state == b"two"
    assert here.rollback() == Moved("v2", "v1")
    assert [(one.version, one.promoted) for one in there.list()] == [("v1", True), ("v2", False)]
    assert keys(s3) == sorted(
        [f"team/amaru/blobs/{digest_of(state).removeprefix('blake2b:')}" for state in (b"one" * 100_000, b"two")]
        + [f"team/amaru/{name}" for name in ("manifests/v1.json", "manifests/v2.json", "promoted.json")]
    )


def test_what_was_damaged_there_is_refused(endpoint: str, s3: Any) -> None:
    store = open_store(endpoint)
    store.publish("thompson", b"one")
    key = f"team/amaru/blobs/{digest_of(b'one').removeprefix('blake2b:')}"
    s3.put_object(Bucket="models", Key=key, Body=b"two")
    refused(lambda: store.promote("v1"), f"s3://models/{key}", digest_of(b"one"), digest_of(b"two"))
    assert store.publish("thompson", b"one") == Published("v1", False)
    assert store.promote("v1") == Moved(None, "v1")


def test_publishers_and_promoters_at_once_lose_nothing(endpoint: str, s3: Any) -> None:
    published: list[str] = []

    def work(name: int) -> None:
        store = open_store(endpoint)
        for number in range(3):
            version = store.publish("thompson", f"{name} {number}".encode()).version
            store.promote(version)
            published.append(version)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = open_store(endpoint)
    assert sorted(published) == sorted(store.versions()) == sorted(f"v{number}" for number in range(1, 10))
    assert len({store.load(version).state for version in published}) == 9
    body = s3.get_object(Bucket="models", Key="team/amaru/promoted.json")["Body"].read()
    assert sorted(entry["version"] for entry in json.loads(body)["history"]) == sorted(published)


def test_a_name_is_created_once(endpoint: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine writes the same name after this one has looked: S3 itself decides."""
    here, there = (Files("s3://models/x", {"endpoint_url": endpoint, "skip_instance_cache": True}) for _ in range(2))
    look = here.read
    looked: list[object] = []

    def late(name: str, *, most: int) -> bytes | None:
        found = look(name, most=most)
        if not looked:
            looked.append(found)
            assert there.create(name, b"theirs")
        return found

    monkeypatch.setattr(here, "read", late)
    assert not here.create("name", b"ours")
    assert looked == [None]
    assert there.read("name", most=10) == b"theirs"
    assert here.create("name", b"theirs")  # as one whose answer was lost


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_replacement_begins_anew_where_another_came_between(endpoint: str, s3: Any, before: bytes | None) -> None:
    here, there = (Files("s3://models/x", {"endpoint_url": endpoint, "skip_instance_cache": True}) for _ in range(2))
    if before is not None:
        here.replace("name", before)
    seen: list[bytes | None] = []

    def change(content: bytes | None) -> bytes:
        seen.append(content)
        if len(seen) == 1:
            there.replace("name", b"theirs")
        return (content or b"") + b" and ours"

    here.update("name", change, most=100)
    assert seen == [before, b"theirs"]
    assert there.read("name", most=100) == b"theirs and ours"


def test_a_bucket_that_is_not_there_is_named(endpoint: str, s3: Any) -> None:
    store = open_store(endpoint, "s3://nobodys/x")
    refused(lambda: store.publish("thompson", b""), "cannot write s3://nobodys/x/blobs/", "does the bucket exist?")
    with pytest.raises(ArtifactError, match="nothing is published there"):
        store.load("v1")


def test_a_server_that_is_away_is_told_without_secrets(s3: Any) -> None:
    store = ArtifactStore(
        "s3://models/x",
        endpoint_url="http://127.0.0.1:9",  # the discard service, which nobody runs
        secret=SECRET,
        key="AKIAEXAMPLEEXAMPLE",
        config_kwargs={"retries": {"max_attempts": 0}, "connect_timeout": 2},
        skip_instance_cache=True,
    )
    said = refused(store.list, "cannot list s3://models/x/manifests")
    assert SECRET not in said
    assert "AKIA" not in said
