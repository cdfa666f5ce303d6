"""What a store of artifacts keeps, and how it is named: on files and in memory."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from artifact_stores import NOON, folder, refused, store, three

from amaru.learning.artifact_manifest import Code, Manifest, Score, Trained, decode_manifest, digest_of, encode_manifest
from amaru.learning.artifacts import ArtifactStore, Moved, Published, parse_reference
from amaru.routing.policies import make_policy

__all__ = ["folder", "store", "three"]  # fixtures


def test_what_was_published_comes_back_whole(store: ArtifactStore) -> None:
    trained = Trained(worlds="hidden-train-v1", digest="blake2b:1", episodes=50, seed=3)
    score = Score(metric="mean utility", value=0.8, low=0.79, high=0.81, worlds="e", command="amaru evaluate")
    first = store.publish(
        "hybrid", b"\x00state", knobs={"epsilon": 0.1, "list": [1, None]}, trained=trained, score=score
    )
    second = store.publish("hybrid", b"", parent="v1", note="as v1, but empty")
    assert (first, second) == (Published("v1", True), Published("v2", True))
    artifact = store.load("v1")
    assert (artifact.policy, artifact.knobs, artifact.state) == (
        "hybrid",
        {"epsilon": 0.1, "list": [1, None]},
        b"\x00state",
    )
    manifest = artifact.manifest
    assert (manifest.version, manifest.created, manifest.size) == ("v1", "2026-03-01T12:00:00Z", 6)
    assert (manifest.trained, manifest.score, manifest.parent) == (trained, score, None)
    assert manifest.digest == digest_of(b"\x00state")
    assert manifest.code.amaru
    assert len(manifest.code.source) == len(manifest.digest)
    latest = store.load("latest")
    assert (latest.state, latest.manifest.parent, latest.manifest.note) == (b"", "v1", "as v1, but empty")
    assert latest.source == f"{store.url}@v2"
    assert [(one.version, one.promoted, one.problem) for one in store.list()] == [("v1", False, ""), ("v2", False, "")]


def test_the_same_policy_again_stays_the_version_that_it_is(store: ArtifactStore) -> None:
    store.publish("thompson", b"s", knobs={"a": 1.0, "b": 2})
    assert store.publish("thompson", b"s", knobs={"b": 2, "a": 1.0}, note="another word") == Published("v1", False)
    assert store.publish("thompson", b"s", knobs={"a": 1.5, "b": 2}) == Published("v2", True)
    assert store.publish("hybrid", b"s", knobs={"a": 1.0, "b": 2}) == Published("v3", True)
    assert store.publish("thompson", b"t", knobs={"a": 1.0, "b": 2}) == Published("v4", True)
    assert len(store.versions()) == 4


def test_rollback_goes_back_and_back(store: ArtifactStore) -> None:
    for number in range(4):
        store.publish("thompson", bytes([number]))
    assert store.promoted() is None
    refused(lambda: store.load(), "nothing is promoted", "v1, v2, v3, v4 (none is promoted)", "amaru artifacts promote")
    refused(store.rollback, "nothing is promoted")
    assert store.promote("v1") == Moved(None, "v1")
    assert store.promote("v2") == Moved("v1", "v2")
    assert store.promote("latest") == Moved("v2", "v4")
    assert store.promote("v4") == Moved("v4", "v4")
    assert store.rollback() == Moved("v4", "v2")
    assert store.promote("v3") == Moved("v2", "v3")
    assert store.load().state == b"\x02"
    assert store.rollback() == Moved("v3", "v2")
    assert store.rollback() == Moved("v2", "v1")
    refused(store.rollback, "v1 is the first that was promoted", "v1, v2, v3, v4")
    assert store.load("promoted").manifest.version == "v1"


def test_the_pointer_tells_the_whole_story(folder: Path) -> None:
    hours = iter(range(100))
    store = ArtifactStore(str(folder), clock=lambda: NOON + timedelta(hours=next(hours)))
    store.publish("thompson", b"1")
    store.publish("thompson", b"2")
    store.promote("v1")
    store.promote("v2")
    store.rollback()
    assert json.loads((folder / "promoted.json").read_bytes()) == {
        "format": "amaru-promoted-1",
        "version": "v1",
        "history": [
            {"version": "v1", "at": "2026-03-01T14:00:00Z"},
            {"version": "v2", "at": "2026-03-01T15:00:00Z", "rolled_back": "2026-03-01T16:00:00Z"},
        ],
    }


def test_a_policy_goes_in_and_out(folder: Path) -> None:
    store = ArtifactStore(str(folder))
    store.publish("rules", make_policy("rules").state())
    assert store.load("v1").make().name == "rules"
    store.publish("no_such_policy", b"")
    refused(store.load("v2").make, f"{folder}@v2", "no_such_policy", "train and publish anew")
    store.publish("rules", b"what no rule has learned")
    refused(store.load("v3").make, f"{folder}@v3")


def test_a_manifest_reads_as_it_was_written() -> None:
    manifest = Manifest(
        format="amaru-artifact-1",
        version="v7",
        created="2026-03-01T12:00:00Z",
        policy="thompson",
        knobs={"z": 0.1, "a": {"deep": [1e-300, 2**60, "ü"]}},
        digest=digest_of(b""),
        size=0,
        code=Code(amaru="0.1.0", source=""),
    )
    assert decode_manifest(encode_manifest(manifest), "x") == manifest


def test_blobs_are_named_by_blake2b(three: ArtifactStore, folder: Path) -> None:
    names = {hashlib.blake2b(b"state %d" % number, digest_size=32).hexdigest() for number in (1, 2, 3)}
    assert {path.name for path in (folder / "blobs").iterdir()} == names


@pytest.mark.parametrize(
    ("text", "url", "version"),
    [
        ("s3://bucket/path@v3", "s3://bucket/path", "v3"),
        ("s3://bucket/path", "s3://bucket/path", "promoted"),
        ("s3://bucket@latest", "s3://bucket", "latest"),
        ("/srv/artifacts@promoted", "/srv/artifacts", "promoted"),
        ("artifacts@v12", "artifacts", "v12"),
        ("/srv/me@home/artifacts", "/srv/me@home/artifacts", "promoted"),
        ("/srv/me@home/artifacts@v1", "/srv/me@home/artifacts", "v1"),
        ("/srv/odd@name@promoted", "/srv/odd@name", "promoted"),
        ("http://user:pass@host/path", "http://user:pass@host/path", "promoted"),
        ("http://user:pass@host/path@v2", "http://user:pass@host/path", "v2"),
        ("http://user:pass@v2", "http://user:pass@v2", "promoted"),
        ("http://host:8080@v2", "http://host:8080", "v2"),
        (" file:///srv/a@v2 ", "file:///srv/a", "v2"),
    ],
)
def test_a_reference_is_a_url_and_a_version(text: str, url: str, version: str) -> None:
    assert parse_reference(text) == (url, version)


@pytest.mark.parametrize(
    "text", ["s3://bucket/path@prod", "s3://bucket/path@", "/srv/a@v0", "/srv/a@3", "@v3", "", "s3://@v3"]
)
def test_a_reference_that_is_none_is_refused(text: str) -> None:
    refused(lambda: parse_reference(text), "@v3")


def test_a_refused_reference_hides_credentials() -> None:
    assert "hunter2" not in refused(lambda: parse_reference("http://user:hunter2@host/path@prod"), "host/path@prod")
