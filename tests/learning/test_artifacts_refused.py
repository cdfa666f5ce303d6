"""What a store of artifacts refuses: damage, strangers, and what cannot be kept."""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from artifact_stores import folder, refused, store, three

from amaru.learning import artifact_files, artifacts
from amaru.learning.artifact_manifest import Manifest, Score, digest_of
from amaru.learning.artifacts import ArtifactStore, Moved, Published

__all__ = ["folder", "store", "three"]  # fixtures


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s + b"x", lambda s: b"X" + s[1:], lambda s: b""])
def test_a_damaged_state_is_refused_and_publishing_repairs_it(
    three: ArtifactStore, folder: Path, change: object
) -> None:
    assert callable(change)
    digest = digest_of(b"state 2")
    blob = folder / "blobs" / digest.removeprefix("blake2b:")
    damaged = change(b"state 2")
    blob.write_bytes(damaged)
    refused(three.load, str(blob), f"expected {digest}", f"found {digest_of(damaged)}", "publish the same policy again")
    assert three.load("v1").state == b"state 1"
    assert three.publish("thompson", b"state 2", knobs={"half_life": 1.0}) == Published("v2", False)
    assert three.load().state == b"state 2"


def test_what_is_damaged_is_not_promoted_nor_rolled_back_to(three: ArtifactStore, folder: Path) -> None:
    for number in (1, 3):
        (folder / "blobs" / digest_of(b"state %d" % number).removeprefix("blake2b:")).write_bytes(b"else")
    refused(lambda: three.promote("v3"), "damaged")
    refused(three.rollback, "the state of v1 is damaged")
    assert three.promoted() == "v2"


def test_a_state_that_is_gone_is_named(three: ArtifactStore, folder: Path) -> None:
    blob = folder / "blobs" / digest_of(b"state 2").removeprefix("blake2b:")
    blob.unlink()
    refused(three.load, str(blob), "the state of v2 is gone", "load another version")


def rewritten(content: bytes, **fields: object) -> bytes:
    """A manifest with other fields, under a seal that fits them."""
    from amaru.learning.artifact_manifest import _seal

    changed = {**json.loads(content), **fields}
    changed.pop("seal")
    return json.dumps({**changed, "seal": _seal(changed)}).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c[: len(c) // 2], "not JSON, or cut short"),
        (lambda c: b"", "not JSON, or cut short"),
        (lambda c: b"[" * 100_000, "not JSON, or cut short"),
        (lambda c: b"\xff" + c, "not JSON, or cut short"),
        (lambda c: b"[]", "has no `format`"),
        (lambda c: b'{"format": 1}', "has no `format`"),
        (lambda c: c.replace(b"amaru-artifact-1", b"amaru-artifact-2"), "a newer amaru: amaru-artifact-2"),
        (lambda c: c.replace(b"amaru-artifact-1", b"amaru-swarm-1"), "is this the right URL?"),
        (lambda c: c.replace(b'"half_life": 1.0', b'"half_life": 9.0'), "not as it was published"),
        (lambda c: c.replace(b'"seal"', b'"sael"'), "seal missing"),
        (lambda c: rewritten(c, size="7"), "Expected `int`, got `str` - at `$.size`"),
        (lambda c: rewritten(c, digest="blake2b:../../../etc/passwd"), "$.digest"),
        (lambda c: rewritten(c, version="v1"), "speaks of v1"),
        (lambda c: c + b" " * 2**20, "more than 1,048,576"),
    ],
)
def test_a_broken_manifest_is_refused_and_hides_no_other(
    three: ArtifactStore, folder: Path, change: object, says: str
) -> None:
    assert callable(change)
    path = folder / "manifests" / "v2.json"
    path.write_bytes(change(path.read_bytes()))
    refused(lambda: three.load("v2"), str(path), says)
    listed = three.list()
    assert [(one.version, one.promoted, one.manifest is None) for one in listed] == [
        ("v1", False, False),
        ("v2", True, True),
        ("v3", False, False),
    ]
    assert says in listed[1].problem
    assert three.publish("thompson", b"state 4").version == "v4"
    assert three.rollback().now == "v1"


def test_fields_of_tomorrow_are_under_the_seal_and_otherwise_ignored(three: ArtifactStore, folder: Path) -> None:
    path = folder / "manifests" / "v2.json"
    content = rewritten(path.read_bytes(), mood="sunny")
    path.write_bytes(content)
    assert three.load("v2").state == b"state 2"
    path.write_bytes(content.replace(b"sunny", b"rainy"))
    refused(lambda: three.load("v2"), "not as it was published")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"format": "amaru-promoted-1", "version": "v2"', "not JSON, or cut short"),
        (b'{"format": "amaru-promoted-2"}', "a newer amaru"),
        (b'{"format": "amaru-promoted-1", "version": "v2", "history": []}', "which its history does not"),
        (
            b'{"format": "amaru-promoted-1", "version": "v2", "history": [{"version": "../v2", "at": ""}]}',
            "$.history[0]",
        ),
    ],
)
def test_a_broken_pointer_is_refused_and_versions_are_not(
    three: ArtifactStore, folder: Path, content: bytes, says: str
) -> None:
    pointer = folder / "promoted.json"
    pointer.write_bytes(content)
    for call in (three.load, three.rollback, lambda: three.promote("v3"), three.promoted):
        refused(call, str(pointer), says)
    assert pointer.read_bytes() == content
    assert three.load("v3").state == b"state 3"
    pointer.unlink()
    assert three.promote("v3") == Moved(None, "v3")


def test_an_unknown_version_lists_what_there_is(three: ArtifactStore, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "nothing" / "here"))
    refused(lambda: three.load("v9"), "no version 'v9'", "v1, v2, v3 (v2 is promoted)")
    refused(lambda: three.load("../v1"), "no version '../v1'")
    refused(lambda: store.load("latest"), "nothing is published there")
    refused(lambda: store.promote("v1"), "nothing is published there")
    refused(lambda: three.publish("thompson", b"x", parent="v7"), "the parent 'v7' is unknown", "v1, v2, v3")
    for number in range(4, 31):
        three.publish("thompson", b"%d" % number)
    assert "v1, …, v21, " in refused(lambda: three.load("v99"), "v30 (v2 is promoted)")
    assert store.list() == ()


def test_what_cannot_be_kept_is_not_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(folder))
    refused(lambda: store.publish("Thompson!", b""), "not a policy's name")
    refused(lambda: store.publish("thompson", b"", knobs={"a": float("nan")}), "knobs of thompson")
    refused(lambda: store.publish("thompson", b"", knobs={"a": object()}), "knobs of thompson")
    refused(lambda: store.publish("thompson", b"", score=Score(metric="m", value=float("inf"))), "not finite")
    refused(lambda: store.publish("thompson", b"", note="n" * 2001), "2,001 characters, more than 2,000")
    monkeypatch.setattr(artifacts, "LARGEST_STATE", 10)
    refused(lambda: store.publish("thompson", b"01234567890"), "11 bytes, more than 10", "while it swaps")
    assert not folder.exists()


def test_a_state_too_large_is_not_read(three: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "LARGEST_STATE", 3)
    refused(lambda: three.load("v1"), "7 bytes, more than 3")


def test_the_limit_of_a_state_is_256_mib() -> None:
    assert artifacts.LARGEST_STATE == 256 * 1024 * 1024


def test_a_number_is_not_used_twice(three: ArtifactStore, folder: Path) -> None:
    three.promote("v3")
    (folder / "manifests" / "v3.json").unlink()
    refused(three.load, "v3.json", "is gone", "v1, v2")
    assert three.publish("thompson", b"new") == Published("v4", True)


def test_other_files_in_the_store_are_left_alone(three: ArtifactStore, folder: Path) -> None:
    for name in ("v01.json", "v0.json", "v9.json~", "README", ".v9.json.1.draft"):
        (folder / "manifests" / name).write_text("else")
    assert three.versions() == ("v1", "v2", "v3")


def test_a_crash_before_the_manifest_leaves_nothing_but_a_blob(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(folder))
    store.publish("thompson", b"first")
    with monkeypatch.context() as crash:

        def die(manifest: Manifest) -> bytes:
            raise KeyboardInterrupt

        crash.setattr(artifacts, "encode_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            store.publish("thompson", b"second")
    assert len(list((folder / "blobs").iterdir())) == 2
    assert [one.version for one in store.list()] == ["v1"]
    assert store.publish("thompson", b"second") == Published("v2", True)
    assert len(list((folder / "blobs").iterdir())) == 2


def test_a_write_that_fails_leaves_what_was_there(
    three: ArtifactStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as full:

        def no_space(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(os, "fsync", no_space)
        refused(
            lambda: three.publish("thompson", b"next"), "cannot write", f"{folder}/blobs/", "No space left on device"
        )
        refused(lambda: three.promote("v3"), "cannot write", "promoted.json")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert three.promoted() == "v2"


@pytest.mark.usefixtures("modes_bind")
def test_a_folder_that_may_not_be_written_can_be_read(three: ArtifactStore, folder: Path) -> None:
    for path in (folder / "blobs", folder / "manifests", folder):
        path.chmod(0o555)
    (folder / ".lock").chmod(0o444)
    try:
        assert three.load().state == b"state 2"
        refused(lambda: three.publish("thompson", b"next"), "cannot write", str(folder), "Permission denied")
    finally:
        for path in (folder, folder / "blobs", folder / "manifests"):
            path.chmod(0o755)


def test_a_store_behind_a_web_server_can_be_read_and_not_written(three: ArtifactStore, folder: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            store = ArtifactStore(f"http://user:hunter2@127.0.0.1:{server.server_port}")
            assert store.load("promoted").state == b"state 2"
            assert store.load("v3").state == b"state 3"
            said = refused(lambda: store.publish("thompson", b"next"), "cannot write http://…@127.0.0.1")
            assert "hunter2" not in said
        finally:
            server.shutdown()
            thread.join()


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ArtifactStore(str(tmp_path / "file"))
    refused(lambda: store.publish("thompson", b""), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the URL of the store is empty"),
        ("simplecache::s3://bucket/x", "chained URLs"),
        ("s3://AKIAEXAMPLE:hunter2@bucket/x", "credentials in the URL are not read"),
        ("gs://bucket/x?token=hunter2", "has no query"),
        ("nosuch://bucket", "use a folder or file://, s3://, gs://"),
    ],
)
def test_a_url_that_names_no_store_is_refused_without_its_secrets(url: str, says: str) -> None:
    said = refused(lambda: ArtifactStore(url), says)
    assert "hunter2" not in said
    assert "AKIA" not in said


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_a_missing_library_is_named(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str, **options: object) -> object:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(artifact_files, "url_to_fs", missing)
    refused(lambda: ArtifactStore(f"{scheme}://bucket/x"), f"{scheme}://bucket/x", f"pip install 'amaru[{extra}]'")


def test_options_that_are_secret_are_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore("memory://secrets", secret="hunter2-and-more")

    def fail(*args: object, **options: object) -> object:
        raise OSError("refused hunter2-and-more at https://u:p@host/?X-Amz-Signature=abcdef from AKIAABCDEFGHIJKLMNOP")

    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "ls", fail)
    said = refused(store.list, "cannot list memory://secrets/manifests")
    for secret in ("hunter2", "u:p", "abcdef", "AKIA"):
        assert secret not in said
