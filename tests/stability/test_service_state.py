"""A psi-field service goes on after a restart, whatever became of its file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from service_world import EAGER, Clock, served

from amaru.errors import StorageError
from amaru.stability.service_state import MAGIC, SavedService, StateFile, decoded, encoded, opened


def begun(path: Path) -> None:
    """A service that took some steps, and was asked for something."""
    with served(path, guardian=EAGER) as service:
        service.post("/init", {"dimension": 2, "names": ["a", "b"], "guardian": {"warm_up_steps": 3}})
        for n in range(10):
            service.post("/step", {"x": [n % 3, n % 2]})
        service.post("/guardian/albedo", {"by": "ada"})
        service.post("/guardian/off")


def test_it_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    path = tmp_path / "psi.bin"
    begun(path)
    with served() as whole:
        whole.post("/init", {"dimension": 2, "names": ["a", "b"], "guardian": {"warm_up_steps": 3}})
        for n in range(10):
            whole.post("/step", {"x": [n % 3, n % 2]})
        whole.post("/guardian/albedo", {"by": "ada"})
        whole.post("/guardian/off")
        with served(path) as resumed:
            assert resumed.damage is None
            assert resumed.get("/params") == whole.get("/params")
            states = [one.get("/state") for one in (whole, resumed)]
            assert [state.pop("state")["problem"] for state in states] == [None, None]
            assert states[0] == states[1]
            for n in range(10):
                step = {"x": [n % 4, n % 5]}
                assert resumed.post("/step", step) == whole.post("/step", step)


def test_every_step_is_saved_before_it_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "psi.bin"
    with served(path) as service:
        service.post("/init", {"dimension": 1})
        for n in range(3):
            service.post("/step", {"x": [n]})
            saved = decoded(path.read_bytes())
            assert msgspec.msgpack.decode(saved.field)["reading"]["step"] == n + 1
        assert [entry.name for entry in tmp_path.iterdir() if "draft" in entry.name] == []
        assert service.get("/health")["state"] == {
            "file": str(path), "saved_at": Clock.now, "problem": None
        }  # fmt: skip


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    match how:
        case "torn":
            return content[:middle]
        case "flipped":
            return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        case "empty":
            return b""
        case "other":
            return b"PK\x03\x04 something else"
        case "version":
            return encoded(msgspec.structs.replace(decoded(content), version=9))
        case "field":
            return encoded(msgspec.structs.replace(decoded(content), field=b"\x00"))
        case "guardian":
            return encoded(msgspec.structs.replace(decoded(content), guardian=b"\x00"))
        case _:
            return MAGIC


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("torn", "torn or damaged"),
        ("flipped", "torn or damaged"),
        ("empty", "no state of a psi-field"),
        ("other", "no state of a psi-field"),
        ("version", "of version 9"),
        ("field", "no state of a stability field"),
        ("guardian", "not a guardian's state"),
        ("head", "torn or damaged"),
    ],
)
def test_a_damaged_file_is_set_aside_with_words_and_the_field_begins_anew(tmp_path: Path, how: str, words: str) -> None:
    path = tmp_path / "psi.bin"
    begun(path)
    content = damaged(path.read_bytes(), how)
    path.write_bytes(content)
    with served(path) as service:
        assert service.damage is not None
        assert words in service.damage
        aside = path.with_name(f"psi.bin.damaged-{int(Clock.now)}")
        assert str(aside) in service.damage
        assert aside.read_bytes() == content
        assert service.get("/health")["initialised"] is False
        service.post("/init", {"dimension": 2})
    with served(path) as again:
        assert again.damage is None
        assert again.get("/health")["initialised"] is True


def test_two_damaged_files_of_one_second_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "psi.bin"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        with served(path):
            pass
    aside = sorted(tmp_path.glob("psi.bin.damaged-*"))
    assert [entry.read_bytes() for entry in aside] == [b"one", b"two"]


def test_a_disk_that_fails_stops_no_step_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "there" / "psi.bin"
    path.parent.mkdir()
    with served(path) as service:
        service.post("/init", {"dimension": 1})
        path.unlink()
        path.mkdir()  # nothing can be put in its place
        assert service.post("/step", {"x": [1]})["step"] == 1
        health = service.get("/health")
        assert health["status"] == "degraded"
        assert "directory" in health["state"]["problem"]
        assert b"psi_field_state_saved 0.0" in service.call("GET", "/metrics").body
        path.rmdir()
        assert service.post("/step", {"x": [2]})["step"] == 2
        assert service.get("/health")["status"] == "ok"
    assert decoded(path.read_bytes()).names == ()


def test_one_file_is_for_one_process(tmp_path: Path) -> None:
    path = tmp_path / "psi.bin"
    first = StateFile(path)
    with pytest.raises(StorageError, match="another process uses it"):
        StateFile(path)
    first.close()
    StateFile(path).close()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/psi\.bin: cannot be written"):
        StateFile(tmp_path / "nowhere" / "psi.bin")


def test_what_cannot_be_read_is_not_taken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / "psi.bin"
    path.mkdir()
    file = StateFile(path)

    def never(_: SavedService) -> None:
        raise AssertionError

    with pytest.raises(StorageError, match="cannot be read"):
        opened(file, 0.0, never)
    file.close()
    assert path.is_dir()
