"""Many publish and promote at once, and nothing is lost."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from artifact_stores import folder, store

from amaru.errors import ArtifactError
from amaru.learning.artifact_files import Files
from amaru.learning.artifacts import ArtifactStore

__all__ = ["folder", "store"]  # fixtures


WRITER = """
import sys
from amaru.learning.artifacts import ArtifactStore
store = ArtifactStore(sys.argv[1])
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    version = store.publish("thompson", f"{sys.argv[2]} {number}".encode(), note=sys.argv[2]).version
    store.publish("thompson", b"the same of all")
    store.promote(version)
    print(version, flush=True)
"""


@pytest.fixture
def writers(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(name), "6"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in range(3)
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_processes_that_publish_at_once_lose_nothing(folder: Path, writers: list[subprocess.Popen[str]]) -> None:
    for process in writers:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    published = [version for process in writers for version in process.communicate()[0].split()]
    store = ArtifactStore(str(folder))
    assert len(published) == len(set(published)) == 18
    assert store.versions() == tuple(f"v{number}" for number in range(1, 20))  # and the one that all published
    assert all(store.load(version).manifest.version == version for version in store.versions())
    assert {store.load(version).state for version in published} == {
        f"{name} {number}".encode() for name in range(3) for number in range(6)
    }
    history = json.loads((folder / "promoted.json").read_bytes())["history"]
    assert sorted(entry["version"] for entry in history) == sorted(published)
    assert not list(folder.rglob("*.draft"))


def test_threads_that_publish_at_once_lose_nothing(store: ArtifactStore) -> None:
    published: list[str] = []

    def work(name: int) -> None:
        for number in range(4):
            published.append(store.publish("thompson", f"{name} {number}".encode()).version)
            store.publish("thompson", b"the same of all")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(published)) == 16
    assert store.versions() == tuple(f"v{number}" for number in range(1, 18))


def test_a_lost_race_for_a_number_takes_the_next_one(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another publisher comes between the look at the versions and the writing of the manifest."""
    listing = ArtifactStore.list
    others = iter([b"another's", b"mine"])

    def slow(self: ArtifactStore) -> object:
        seen = listing(self)
        if (state := next(others, None)) is not None:
            self.publish("thompson", state, note="the other's")
        return seen

    monkeypatch.setattr(ArtifactStore, "list", slow)
    # The other publishes two, of which one is what this one wants to publish.
    assert store.publish("thompson", b"mine").new is False
    monkeypatch.undo()
    assert sorted(store.load(version).state for version in store.versions()) == [b"another's", b"mine"]


@pytest.fixture
def odd(tmp_path: Path) -> Files:
    """A store whose way to create a file is for the test to say."""
    files = Files(f"memory://odd-{tmp_path.name}", {})
    files.replace("other", b"")
    return files


def test_a_store_that_cannot_create_only_is_written_plainly(odd: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.get_filesystem_class("memory")
    put = memory.pipe_file

    def pipe_file(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        put(self, path, value)

    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    assert odd.create("name", b"ours")
    assert not odd.create("name", b"theirs")
    assert odd.read("name", most=10) == b"ours"


def test_a_file_that_another_wrote_over_is_not_taken_for_ours(odd: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.get_filesystem_class("memory")
    put = memory.pipe_file

    def pipe_file(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        put(self, path, value)
        put(self, path, b"theirs")  # a moment later

    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    assert not odd.create("name", b"ours")


def test_whoever_never_gets_a_turn_is_told(odd: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odd, "_swap", lambda *arguments: False)
    with pytest.raises(ArtifactError, match="others keep changing it at the same time"):
        odd.update("name", lambda content: b"ours", most=10)
