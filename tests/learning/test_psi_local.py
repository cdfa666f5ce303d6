"""The stability field in the training's own process."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import msgspec
import pytest
from training_runs import assert_same, run, settings

from amaru.errors import CheckpointError
from amaru.learning.checkpoints import load_checkpoint, save_checkpoint
from amaru.learning.psi_field import LocalField
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.stability.guardian import GuardianSettings, Intervention

EAGER = GuardianSettings(warm_up_steps=0, cooldown_steps=0)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("hidden-train-v1")


def rewards(episode: int) -> list[float]:
    return [0.5 + 0.01 * math.sin(7.0 * episode + 3.0 * agent) for agent in range(4)]


def test_it_goes_on_from_its_state() -> None:
    whole, begun = LocalField(4), LocalField(4)
    for episode in range(40):
        whole.read(rewards(episode))
        begun.read(rewards(episode))
    resumed = LocalField(4)
    resumed.load(begun.state())
    assert [resumed.read(rewards(n)) for n in range(40, 60)] == [whole.read(rewards(n)) for n in range(40, 60)]


@pytest.mark.parametrize("state", [b"", b"\x00", msgspec.msgpack.encode({"dimension": 4})])
def test_what_is_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="not a field's state"):
        LocalField(4).load(state)


def test_a_state_of_another_number_of_agents_is_refused() -> None:
    with pytest.raises(ValueError, match="of 3 signals, where there are 4"):
        LocalField(4).load(LocalField(3).state())


def asked(out: Path) -> list[str]:
    return [row["intervention"] for row in csv.DictReader((out / "training_metrics.csv").open())]


def triggered() -> LocalField:
    """A field whose guardian hands out one of each with the first two episodes."""
    field = LocalField(6, EAGER)
    field.guardian.trigger(Intervention.ALBEDO, 0.0, "ada")
    field.guardian.trigger(Intervention.NIGREDO, 0.0, "ada")
    return field


def test_what_the_training_did_is_on_the_guardians_record(scenario: Scenario, tmp_path: Path) -> None:
    field = triggered()
    run(scenario, tmp_path / "out", 3, how=settings(epsilon=0.16, epsilon_kept=1.0), field=field)
    assert asked(tmp_path / "out")[:2] == ["albedo", "nigredo"]
    albedo, nigredo = list(field.guardian.records)[:2]
    assert albedo.changed == {"epsilon": "0.1600 -> 0.2400"}
    ((agent, what),) = nigredo.changed.items()
    assert agent.startswith("agent ")
    assert what.endswith("-> nothing")


def test_a_training_with_it_is_the_same_in_one_go_or_resumed(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "whole", 8, how=settings(share_every=3), field=triggered())
    run(scenario, tmp_path / "begun", 3, how=settings(share_every=3), field=triggered())
    checkpoint = tmp_path / "begun" / "checkpoint.bin"
    run(scenario, tmp_path / "begun", 8, load=checkpoint, field=LocalField(6, EAGER))
    assert_same(tmp_path / "whole", tmp_path / "begun")
    assert load_checkpoint(checkpoint).field is not None


def test_a_damaged_field_in_a_checkpoint_is_named(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "out", 1, field=LocalField(6))
    path = tmp_path / "out" / "checkpoint.bin"
    save_checkpoint(msgspec.structs.replace(load_checkpoint(path), field=b"\x00"), path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.bin: field: not a field's state"):
        run(scenario, tmp_path / "out", 2, load=path, field=LocalField(6))
