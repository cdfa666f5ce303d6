"""Checkpoints and swarm files: whole, or refused with the file and the reason."""

from __future__ import annotations

import json
import os
import zlib
from base64 import b64encode
from pathlib import Path

import msgspec
import pytest

from amaru.errors import CheckpointError
from amaru.files.whole import put_whole, write_whole
from amaru.learning import swarm_files
from amaru.learning.checkpoints import (
    AgentState,
    Checkpoint,
    TrainingSettings,
    load_checkpoint,
    save_checkpoint,
)
from amaru.learning.crew import learner
from amaru.learning.swarm_files import SwarmFile, TrainedAgent, load_swarm_file, save_swarm_file
from amaru.routing import q_kernels as q


def checkpoint() -> Checkpoint:
    settings = TrainingSettings(
        policy="qlearning", agents=2, worlds="w", steps=3, seed=1, learning_rate=0.05, epsilon=0.2, epsilon_kept=0.9,
        epsilon_least=0.01, share_every=10, decisions=5,
    )  # fmt: skip
    agents = tuple(AgentState(knobs={"learning_rate": 0.1}, score=0.5, fresh=False, state=os.urandom(99)) for _ in "ab")
    return Checkpoint(
        settings=settings, family="f", episode=4, wanted=9, epsilon=0.1, scored=4, agents=agents, center=b"c",
        requests=7, seconds=1.5,
    )  # fmt: skip


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.bin"
    before = checkpoint()
    save_checkpoint(before, path)
    assert load_checkpoint(path) == before
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.bin"]


def test_a_byte_that_differs_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.bin"
    save_checkpoint(checkpoint(), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"checkpoint\.bin: is (damaged|no checkpoint)"):
            load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 3, 8, 20, -1])
def test_one_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "checkpoint.bin"
    save_checkpoint(checkpoint(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "swarm_final.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"swarm_final\.json: is no checkpoint"):
        load_checkpoint(tmp_path / "swarm_final.json")
    with pytest.raises(CheckpointError, match="missing: cannot be read: No such file"):
        load_checkpoint(tmp_path / "missing")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")

    def broken(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        put_whole(path, broken)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def swarm(path: Path, agents: int = 2) -> SwarmFile:
    trained = []
    for id in range(agents):
        policy = learner("qlearning", {"learning_rate": 0.1 + 0.01 * id}, None)
        policy.mind.values[id, q.VISITS] = 3.0
        knobs = {"learning_rate": 0.1 + 0.01 * id}
        trained.append(TrainedAgent(id=id, policy="qlearning", knobs=knobs, score=id / 10, state=policy.state()))
    return SwarmFile(source=path, created="2026-01-01", seed=3, worlds="w", episodes=5, best=1, agents=tuple(trained))


def binaries(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.bin"))


@pytest.mark.parametrize("inline", [0, 1_000_000])
def test_a_swarm_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: int) -> None:
    monkeypatch.setattr(swarm_files, "MAX_INLINE_BYTES", inline)
    path = tmp_path / "swarm_final.json"
    before = swarm(path)
    files = save_swarm_file(before)
    assert load_swarm_file(path) == before
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert len(binaries(tmp_path)) == (0 if inline else 1)
    best = load_swarm_file(path).best_policy()
    assert best.state() == before.agents[1].state
    assert best.mind.settings.learning_rate == pytest.approx(0.11)


def test_a_newer_swarm_takes_the_older_binary_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_files, "MAX_INLINE_BYTES", 0)
    path = tmp_path / "swarm_final.json"
    save_swarm_file(swarm(path))
    first = binaries(tmp_path)
    save_swarm_file(swarm(path, agents=3))
    assert len(binaries(tmp_path)) == 1
    assert binaries(tmp_path) != first
    assert len(load_swarm_file(path).agents) == 3


def test_a_binary_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_files, "MAX_INLINE_BYTES", 0)
    path = tmp_path / "swarm_final.json"
    save_swarm_file(swarm(path))
    binary = binaries(tmp_path)[0]
    content = bytearray(binary.read_bytes())
    content[-1] ^= 1
    binary.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"swarm_final\.json: agents\[1\]\.state: .*another digest"):
        load_swarm_file(path)
    binary.unlink()
    with pytest.raises(CheckpointError, match=rf"{binary.name}: cannot be read"):
        load_swarm_file(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "amaru-swarm-9"}, "amaru-swarm-9"),
        ({"best": 2}, "best: there is no agent 2 of 2"),
        ({"agents": []}, "agents"),
        ({"agents.0.policy": "cheapest"}, r"agents\[0\]\.policy: 'cheapest' is none of"),
        ({"agents.1.knobs": {"learning_rate": -1}}, r"agents\[1\]\.knobs: .*learning_rate"),
        ({"agents.1.knobs": {"unheard": 1}}, r"agents\[1\]\.knobs: .*unheard"),
        ({"agents.1.state": "%%%"}, r"agents\[1\]\.state: no base64"),
        ({"agents.1.state": "QUJD"}, r"agents\[1\]\.state: it cannot be unpacked"),
        ({"agents.1.state": {"file": "../secret", "offset": 0, "length": 1, "blake2b": ""}}, r"agents\[.*\]\.state"),
    ],
)
def test_what_is_wrong_in_a_swarm_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = tmp_path / "swarm_final.json"
    save_swarm_file(swarm(path))
    document = json.loads(path.read_text())
    for place, value in change.items():
        *way, last = place.split(".")
        holder = document
        for step in way:
            holder = holder[int(step)] if step.isdigit() else holder[step]
        holder[last] = value
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=rf"swarm_final\.json: .*{reason}"):
        load_swarm_file(path)


def test_a_state_that_unpacks_to_more_than_any_state_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm_files, "MAX_STATE_BYTES", 1000)
    with pytest.raises(ValueError, match="too long"):
        swarm_files.unpacked(zlib.compress(bytes(1001)))
    assert swarm_files.unpacked(zlib.compress(bytes(1000))) == bytes(1000)


def test_a_state_of_another_policy_is_refused_when_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "swarm_final.json"
    save_swarm_file(swarm(path))
    document = json.loads(path.read_text())
    other = learner("thompson", {}, None).state()
    document["agents"][1]["state"] = b64encode(zlib.compress(other)).decode()
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"swarm_final\.json: agents\[1\]: .*state"):
        load_swarm_file(path).best_policy()


def test_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swarm_final.json"
    path.write_bytes(msgspec.msgpack.encode({"a": 1}))
    with pytest.raises(CheckpointError, match=r"swarm_final\.json: .*`amaru train`"):
        load_swarm_file(path)
