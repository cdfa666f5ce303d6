"""Memory: what is written is read again, whole or not at all, and kept no longer than said."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from amaru.health.healing import HealingKind, SelfHealingAction
from amaru.health.memory import DAY_S, PATTERNS, STATES, Memory, MemorySettings, read_history
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind

NOW = 1_800_000_000.0


def pattern(id: str = "p", at: float = NOW, **fields: object) -> InfrastructurePattern:
    usual = InfrastructurePattern(
        id=id, kind=PatternKind.DEGRADATION, at=at, confidence=0.9, offers=("a/m",), providers=("a",),
        impact=Impact.MAJOR, cause="latency", suggested="weight", detail="slow",
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


def healing(id: str = "h", at: float = NOW) -> SelfHealingAction:
    return SelfHealingAction(id=id, pattern="p", kind=HealingKind.WEIGHT, offers=("a/m",), at=at, until=at + 60.0)


class Life:
    """A memory over one folder, with a clock of its own."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.now = NOW
        self.folder = folder
        self.settings = MemorySettings(**settings)  # type: ignore[arg-type]

    def open(self) -> Memory:
        memory = Memory(self.folder, self.settings, wall=lambda: self.now)
        memory.open()
        return memory

    def write(self, memory: Memory) -> None:
        draft = memory.draft(states=True)
        assert draft is not None
        memory.write(draft)


def test_what_was_remembered_is_there_after_a_restart(tmp_path: Path) -> None:
    life = Life(tmp_path / "deep" / "health")
    memory = life.open()
    assert memory.notes == []
    assert not life.folder.exists()
    memory.remember(pattern())
    memory.remember(healing())
    memory.keep("signatures", b"\x00state")
    life.write(memory)
    again = life.open()
    assert again.patterns == {"p": pattern()}
    assert again.healings == {"h": healing()}
    assert again.parts == {"signatures": b"\x00state"}
    assert read_history(life.folder) == ([pattern()], [healing()])


def test_what_is_told_anew_replaces_what_was_kept_under_its_id(tmp_path: Path) -> None:
    life = Life(tmp_path)
    memory = life.open()
    memory.remember(pattern())
    memory.remember(pattern(ended_at=NOW + 5.0))
    life.write(memory)
    assert life.open().patterns["p"].ended_at == NOW + 5.0


def test_nothing_new_is_nothing_to_write(tmp_path: Path) -> None:
    memory = Life(tmp_path).open()
    assert memory.draft(states=True) is None
    memory.keep("a", b"1")
    assert memory.draft(states=False) is None
    assert memory.draft(states=True) is not None
    memory.keep("a", b"1")
    assert memory.draft(states=True) is None


def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    life = Life(tmp_path / "file" / "health")
    (tmp_path / "file").write_text("in the way")
    memory = life.open()
    memory.remember(pattern())
    memory.export("infrastructure_state", NOW, {"ok": True})
    draft = memory.draft(states=True)
    assert draft is not None
    memory.write(draft)
    assert "Not a directory" in memory.failure or "exists" in memory.failure
    memory.put_back(draft)
    (tmp_path / "file").unlink()
    life.write(memory)
    assert memory.failure == ""
    assert set(life.open().patterns) == {"p"}
    assert len(list(life.folder.glob("infrastructure_state_*.json"))) == 1


@pytest.mark.parametrize("name", [PATTERNS, STATES])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": 99, "saved_at": 0}'])
def test_a_file_that_cannot_be_read_is_set_aside_with_words(tmp_path: Path, name: str, content: bytes) -> None:
    life = Life(tmp_path)
    memory = life.open()
    memory.remember(pattern())
    memory.keep("field", b"x")
    life.write(memory)
    (tmp_path / name).write_bytes(content)
    again = life.open()
    (note,) = again.notes
    assert name in note
    assert "set aside" in note
    assert len(list(tmp_path.glob(f"{name}.unread-*"))) == 1
    assert bool(again.patterns) is (name != PATTERNS)
    assert bool(again.parts) is (name != STATES)


def test_another_version_is_set_aside(tmp_path: Path) -> None:
    life = Life(tmp_path)
    memory = life.open()
    memory.remember(pattern())
    life.write(memory)
    kept = json.loads((tmp_path / PATTERNS).read_text())
    (tmp_path / PATTERNS).write_text(json.dumps({**kept, "version": 2}))
    assert "version 2" in life.open().notes[0]


def test_a_draft_that_a_crash_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f".{PATTERNS}.123.draft").write_text("half")
    Life(tmp_path).open()
    assert list(tmp_path.iterdir()) == []


def test_exported_files_are_kept_by_number_and_by_age(tmp_path: Path) -> None:
    life = Life(tmp_path, files=3, days=1.0)
    memory = life.open()
    for hour in range(5):
        life.now = NOW + hour * 3600.0
        memory.export("infrastructure_state", life.now, {"hour": hour})
        life.write(memory)
    hours = sorted(json.loads(path.read_text())["hour"] for path in tmp_path.glob("infrastructure_state_*.json"))
    assert hours == [2, 3, 4]
    life.now = NOW + 1.1 * DAY_S
    memory.export("session_analysis", life.now, {})
    life.write(memory)
    assert len(list(tmp_path.glob("infrastructure_state_*.json"))) == 2
    assert len(list(tmp_path.glob("session_analysis_*.json"))) == 1


def test_patterns_are_forgotten_after_history_days(tmp_path: Path) -> None:
    life = Life(tmp_path, history_days=30.0)
    memory = life.open()
    memory.remember(pattern("old", at=NOW - 31 * DAY_S))
    memory.remember(pattern("long", at=NOW - 31 * DAY_S, ended_at=NOW - DAY_S))
    memory.remember(pattern("new"))
    life.write(memory)
    assert set(life.open().patterns) == {"long", "new"}


def test_they_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amaru.health.memory.MOST", 10)
    memory = Life(tmp_path).open()
    for number in range(25):
        memory.remember(pattern(f"p{number}"))
    assert list(memory.patterns) == [f"p{number}" for number in range(15, 25)]
