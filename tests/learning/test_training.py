"""Training: what decides the result and what does not, what it writes, and what it leaves alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import polars as pl
import pytest
from training_runs import FAMILY, assert_same, result, run, settings

from amaru.errors import AmaruError, CheckpointError
from amaru.learning.checkpoints import load_checkpoint
from amaru.learning.crew import learner
from amaru.learning.psi_field import PsiField
from amaru.learning.swarm_files import load_swarm_file
from amaru.learning.training import Training
from amaru.learning.worlds import EpisodeWorlds
from amaru.routing import belief_kernels
from amaru.simulation.play import play
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario

FILES = ["checkpoint.bin", "decisions.parquet", "swarm_final.json", "training_metrics.csv"]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario(FAMILY)


@pytest.mark.parametrize("policy", ["qlearning", "hybrid"])
def test_the_result_does_not_depend_on_the_number_of_processes(scenario: Scenario, tmp_path: Path, policy: str) -> None:
    how = settings(policy=policy, epsilon=0.1)
    run(scenario, tmp_path / "one", 6, how=how)
    run(scenario, tmp_path / "two", 6, how=how, processes=2)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("policy", ["qlearning", "thompson"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_ten_episodes_are_four_and_six_more(scenario: Scenario, tmp_path: Path, policy: str, elsewhere: bool) -> None:
    how = settings(policy=policy, share_every=3)
    run(scenario, tmp_path / "whole", 10, how=how)
    run(scenario, tmp_path / "begun", 4, how=how)
    out = tmp_path / ("resumed" if elsewhere else "begun")
    done = run(scenario, out, 10, load=tmp_path / "begun" / "checkpoint.bin")
    assert done.complete
    assert done.run_requests < done.requests
    assert_same(tmp_path / "whole", out)
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_a_training_that_was_killed_goes_on_from_its_last_checkpoint(scenario: Scenario, tmp_path: Path) -> None:
    how = settings(share_every=2)
    run(scenario, tmp_path / "whole", 8, how=how)
    out = tmp_path / "killed"
    out.mkdir()
    training = Training(
        how, scenario, out, episodes=8, checkpoint_every_s=0.0, clock=itertools.count(0.0, 0.1).__next__
    )
    seen = itertools.count()

    def killed() -> bool:
        if next(seen) == 5:
            raise SystemError("power failure")
        return False

    with pytest.raises(SystemError):
        training.run(killed)
    assert 0 < load_checkpoint(out / "checkpoint.bin").episode < 8
    assert not (out / "swarm_final.json").exists()
    run(scenario, out, 8, load=out / "checkpoint.bin")
    assert_same(tmp_path / "whole", out)


def test_another_seed_gives_another_swarm(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "a", 2, how=settings(seed=1))
    run(scenario, tmp_path / "b", 2, how=settings(seed=2))
    assert result(tmp_path / "a")[0] != result(tmp_path / "b")[0]


def test_a_stop_is_obeyed_between_two_episodes_and_everything_is_saved(scenario: Scenario, tmp_path: Path) -> None:
    looks = itertools.count()
    done = run(scenario, tmp_path / "out", 100, stopped=lambda: next(looks) >= 3)
    assert not done.complete
    assert done.episode == 3
    rows, decisions, _, checkpoint = result(tmp_path / "out")
    assert len(rows) == checkpoint.episode == done.episode
    assert decisions["episode"].max() == done.episode
    assert checkpoint.wanted == 100


def test_what_was_learned_serves_better_than_what_was_not(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "out", 100, how=settings(agents=5, steps=120, share_every=10))
    best = load_swarm_file(tmp_path / "out" / "swarm_final.json").best_policy()
    trained = learner("qlearning", {"epsilon": 0.0}, best.state())
    untrained = learner("qlearning", {"epsilon": 0.0}, None)
    for policy in (trained, untrained):
        policy.mind.knobs[belief_kernels.EPSILON] = 0.0
    worlds = [EpisodeWorlds(scenario, seed, 120) for seed in range(900, 930)]
    ours, theirs = (
        sum(play(each.for_agent(0), policy, 120, learn=False).mean_utility for each in worlds)
        for policy in (trained, untrained)
    )
    assert ours > theirs


def test_agents_of_one_episode_meet_the_same_world_with_lots_of_their_own(scenario: Scenario) -> None:
    worlds = EpisodeWorlds(scenario, 3, 8)
    mine, yours = worlds.for_agent(0).chunk(8), worlds.for_agent(1).chunk(8)
    assert (mine.posted == yours.posted).all()
    assert (mine.truth == yours.truth).all()
    assert (mine.luck[:, :2] == yours.luck[:, :2]).all()
    assert (mine.luck[:, 2] != yours.luck[:, 2]).all()
    assert ((yours.luck[:, 2] >= 0) & (yours.luck[:, 2] < 1)).all()


def test_metrics_have_a_row_per_episode_that_adds_up(scenario: Scenario, tmp_path: Path) -> None:
    done = run(scenario, tmp_path / "out", 5)
    table = pl.read_csv(tmp_path / "out" / "training_metrics.csv")
    assert table["episode"].to_list() == [1, 2, 3, 4, 5]
    assert table["requests"].sum() == done.requests
    assert table["epsilon"].to_list() == pytest.approx([0.2 * 0.9**n for n in range(5)])
    assert (table["worst_reward"] <= table["avg_reward"]).all()
    assert (table["avg_reward"] <= table["best_reward"]).all()
    assert table["fill_rate"].is_between(0.0, 1.0).all()
    assert table["q_table_size"].is_sorted()
    assert table["seconds"].is_sorted()


def test_decisions_are_a_bounded_sample_with_what_came_of_it(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "out", 4, how=settings(decisions=9))
    frame = pl.read_parquet(tmp_path / "out" / "decisions.parquet")
    assert frame.group_by("episode").len()["len"].to_list() == [9, 9, 9, 9]
    ids = {offer.id for offer in scenario.offers}
    served = frame.filter("ok")
    assert set(served["offer"]) <= ids
    assert served["propensity"].is_between(0.0, 1.0, closed="right").all()
    assert served["latency_ms"].gt(0).all()
    assert served["utility"].gt(0).all()
    assert frame.filter(~pl.col("ok"))["latency_ms"].is_null().all()
    assert not (tmp_path / "out" / "decisions.parts").exists()


def test_a_family_for_evaluation_is_never_trained_on(tmp_path: Path) -> None:
    with pytest.raises(AmaruError, match="evaluation only"):
        run(load_scenario("hidden-eval-v1"), tmp_path / "out", 1)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_of_another_version_of_the_family_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "out", 1)
    other = msgspec.structs.replace(scenario, step_s=scenario.step_s * 2)
    with pytest.raises(CheckpointError, match=r"checkpoint\.bin: .*other worlds"):
        run(other, tmp_path / "out", 2, load=tmp_path / "out" / "checkpoint.bin")


def test_rows_that_do_not_belong_to_the_checkpoint_are_refused(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "out", 3)
    metrics = tmp_path / "out" / "training_metrics.csv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(CheckpointError, match=r"training_metrics\.csv:2: ends before episode 3"):
        run(scenario, tmp_path / "out", 4, load=tmp_path / "out" / "checkpoint.bin")


def test_a_training_replaces_an_earlier_one_only_once_it_has_something_to_save(
    scenario: Scenario, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(scenario, out, 2)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def broken() -> bool:
        raise SystemError("power failure")

    with pytest.raises(SystemError):
        run(scenario, out, 2, how=settings(seed=8), stopped=broken)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    run(scenario, out, 1, how=settings(seed=8))
    assert [row["episode"] for row in result(out)[0]] == ["1"]
    assert result(out)[1]["episode"].max() == 1


def test_no_episode_at_all_still_writes_a_swarm_that_can_be_gone_on_from(scenario: Scenario, tmp_path: Path) -> None:
    run(scenario, tmp_path / "out", 0)
    assert len(load_swarm_file(tmp_path / "out" / "swarm_final.json").agents) == 6
    run(scenario, tmp_path / "out", 3, load=tmp_path / "out" / "checkpoint.bin")
    run(scenario, tmp_path / "whole", 3)
    assert_same(tmp_path / "out", tmp_path / "whole")


class Guardian:
    """A field that asks for what it is told to ask."""

    def __init__(self, *words: str | None) -> None:
        self.words = list(words)
        self.told: list[list[float]] = []

    def __call__(self, url: str, body: bytes | None) -> bytes:
        assert body is not None
        if not url.endswith("/step"):
            return b"{}"
        self.told.append(msgspec.json.decode(body)["x"])
        word = self.words.pop(0) if self.words else None
        figures = {"Psi": 0.5, "C": 0.25, "U": 1.0, "Phi": 0.125, "H": 2.0, "PE": 0.0}
        return msgspec.json.encode({**figures, "_guardian": {"intervention": word}})

    def field(self, agents: int) -> PsiField:
        return PsiField("http://field", agents, say=lambda _: None, clock=lambda: 0.0, call=self)


def test_the_field_is_told_the_rewards_of_every_episode_and_its_figures_are_kept(
    scenario: Scenario, tmp_path: Path
) -> None:
    guardian = Guardian(None, "albedo")
    run(scenario, tmp_path / "out", 3, field=guardian.field(6))
    table = pl.read_csv(tmp_path / "out" / "training_metrics.csv")
    assert [len(rewards) for rewards in guardian.told] == [6, 6, 6]
    means = [sum(rewards) / 6 for rewards in guardian.told]
    assert table["avg_reward"].to_list() == pytest.approx(means)
    assert table["Phi"].to_list() == [0.125, 0.125, 0.125]
    assert table["intervention"].to_list() == [None, "albedo", None]


def test_albedo_raises_exploration_by_half_to_three_tenths_at_most(scenario: Scenario, tmp_path: Path) -> None:
    guardian = Guardian("albedo", "albedo", "albedo")
    how = settings(epsilon=0.16, epsilon_kept=1.0)
    run(scenario, tmp_path / "out", 4, how=how, field=guardian.field(6))
    table = pl.read_csv(tmp_path / "out" / "training_metrics.csv")
    assert table["epsilon"].to_list() == pytest.approx([0.16, 0.24, 0.3, 0.3])


def test_albedo_never_lowers_exploration(scenario: Scenario, tmp_path: Path) -> None:
    how = settings(epsilon=0.5, epsilon_kept=1.0)
    run(scenario, tmp_path / "out", 2, how=how, field=Guardian("albedo").field(6))
    assert pl.read_csv(tmp_path / "out" / "training_metrics.csv")["epsilon"].to_list() == [0.5, 0.5]


def test_nigredo_resets_the_worst_agent_and_no_other(scenario: Scenario, tmp_path: Path) -> None:
    how = settings(share_every=100)
    guardian = Guardian("nigredo")
    run(scenario, tmp_path / "out", 1, how=how, field=guardian.field(6))
    run(scenario, tmp_path / "left", 1, how=how)
    worst = min(range(6), key=guardian.told[0].__getitem__)
    agents, left = (load_swarm_file(tmp_path / name / "swarm_final.json").agents for name in ("out", "left"))
    sizes = [agent.make().table_size() for agent in agents]
    assert sizes[worst] == 0
    assert [sizes[id] for id in range(6) if id != worst] == [
        left[id].make().table_size() for id in range(6) if id != worst
    ]


def test_a_reset_agent_is_resumed_as_one(scenario: Scenario, tmp_path: Path) -> None:
    how = settings(share_every=3)
    run(scenario, tmp_path / "whole", 6, how=how, field=Guardian(None, "nigredo").field(6))
    run(scenario, tmp_path / "out", 2, how=how, field=Guardian(None, "nigredo").field(6))
    run(scenario, tmp_path / "out", 6, load=tmp_path / "out" / "checkpoint.bin", field=Guardian().field(6))
    assert_same(tmp_path / "whole", tmp_path / "out")
