"""Evaluation: everybody in the same worlds, honest shares of the gap, and nothing claimed where there is none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from amaru.errors import AmaruError, CheckpointError, ReportError
from amaru.learning import evaluation as e
from amaru.learning.evaluation import Games, Played, Player, evaluate, players
from amaru.learning.evaluation_report import DATA, EvaluationReport, encoded, report, write
from amaru.learning.swarm_files import SwarmFile, TrainedAgent, save_swarm_file
from amaru.readiness.evaluation_markdown import markdown, verdict
from amaru.routing.policies import LEARNED, make_policy
from amaru.simulation.play import play
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World


@pytest.fixture(scope="module")
def hidden() -> Scenario:
    return load_scenario("hidden-eval-v1")


@pytest.fixture(scope="module")
def classic() -> Scenario:
    return load_scenario("classic")


def reported(games: Games) -> EvaluationReport:
    return report(games, version="0", seed=0, started_at="then", seconds=1.0, command="amaru evaluate", machine="m")


def made_up(utilities: dict[str, float], scenario: Scenario, worlds: int = 20) -> Games:
    """Games of which the mean utility is given, the same in all worlds but for what is hard for everybody."""
    who = tuple(player for player in players() if player.name in utilities)
    played = [
        Played(
            policy=player.name,
            seed=seed,
            requests=1000,
            served=900,
            cost_usd=2700.0,
            latency_ms=270_000.0,
            slo_met=800,
            utility=1000 * (utilities[player.name] + 0.01 * (seed % 3)),
        )
        for seed in range(worlds)
        for player in who
    ]
    return Games(
        scenario=scenario, steps=10, seeds=tuple(range(worlds)), wanted=worlds, players=who, played=tuple(played)
    )


def standing(found: EvaluationReport, policy: str):
    return next(one for one in found.standings if one.policy == policy)


# --- Playing ------------------------------------------------------------------------------------------------------


def test_everybody_meets_the_same_requests(hidden: Scenario) -> None:
    games = evaluate(hidden, players(), steps=30, seeds=[3, 4])
    assert [player.name for player in games.players] == [*e.RULES, *LEARNED, *e.REFERENCES]
    for seed in (3, 4):
        assert len({one.requests for one in games.played if one.seed == seed}) == 1


def test_one_or_two_processes_and_any_company_give_the_same(hidden: Scenario) -> None:
    who = players(only=["thompson"])
    alone = evaluate(hidden, who, steps=30, seeds=[1, 2])
    assert evaluate(hidden, who, steps=30, seeds=[1, 2], processes=2) == alone
    thompson = [player for player in who if player.name == "thompson"]
    only = evaluate(hidden, thompson, steps=30, seeds=[1, 2])
    assert only.played == tuple(one for one in alone.played if one.policy == "thompson")


def test_every_world_is_entered_afresh(hidden: Scenario) -> None:
    who = [player for player in players(only=["qlearning"]) if player.name == "qlearning"]
    both = evaluate(hidden, who, steps=30, seeds=[1, 2])
    assert both.played[1:] == evaluate(hidden, who, steps=30, seeds=[2]).played


def test_ctrl_c_keeps_the_worlds_that_everybody_finished(hidden: Scenario) -> None:
    who = players(only=["hybrid"])

    def stop(now: e.Progress) -> None:
        if now.games == len(who) + 2:
            raise KeyboardInterrupt

    games = evaluate(hidden, who, steps=10, seeds=[1, 2, 3], on_progress=stop)
    assert games.seeds == (1,)
    assert not games.complete
    assert len(games.played) == len(who)
    found = reported(games)
    assert not found.complete
    assert "stopped after 1 of 3 worlds" in found.warnings[0]
    with pytest.raises(AmaruError, match="nothing to report"):
        reported(msgspec.structs.replace(games, seeds=(), played=()))


def test_a_rule_cannot_be_asked_for_as_a_learned_policy() -> None:
    with pytest.raises(AmaruError, match="always played"):
        players(only=["cheapest"])


# --- Trained ones ---------------------------------------------------------------------------------------------------


def swarm(path: Path, scenario: Scenario) -> Path:
    agents = []
    for id_, (name, score) in enumerate([("thompson", 0.5), ("qlearning", 0.6), ("thompson", 0.7)]):
        policy = make_policy(name)
        play(World(scenario, 77 + id_), policy, 40)
        agents.append(TrainedAgent(id=id_, policy=name, knobs={}, score=score, state=policy.state()))
    file = SwarmFile(
        source=path, created="then", seed=0, worlds="hidden-train-v1", episodes=1, best=2, agents=tuple(agents)
    )
    save_swarm_file(file)
    return path


def test_the_best_agent_of_each_kind_plays_and_what_it_learned_counts(hidden: Scenario, tmp_path: Path) -> None:
    who = {player.name: player for player in players(swarm(tmp_path / "swarm_final.json", hidden))}
    assert who["thompson"].origin == "agent 2 of swarm_final.json"
    assert who["qlearning"].origin == "agent 1 of swarm_final.json"
    assert who["hybrid"].origin == "untrained"
    trained = e.play_one(hidden, 5, who["qlearning"], 20)
    untrained = e.play_one(hidden, 5, Player(name="qlearning", role="learned"), 20)
    assert trained.requests == untrained.requests
    assert trained != untrained


def test_a_swarm_that_is_none_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "swarm_final.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"swarm_final\.json"):
        players(tmp_path / "swarm_final.json")


# --- Judging --------------------------------------------------------------------------------------------------------

KNOWN = {"rules": 0.80, "cheapest": 0.7, "qlearning": 0.82, "thompson": 0.845, "informed": 0.85, "oracle": 0.90}


def test_shares_of_the_gap_are_of_what_the_reference_gains(hidden: Scenario) -> None:
    found = reported(made_up(KNOWN, hidden))
    assert found.baseline == "rules"
    assert standing(found, "thompson").of_informed_gap.value == pytest.approx(0.9)
    assert standing(found, "thompson").of_oracle_gap.value == pytest.approx(0.45)
    assert standing(found, "qlearning").of_informed_gap.value == pytest.approx(0.4)
    assert standing(found, "rules").of_informed_gap is None
    assert standing(found, "informed").of_informed_gap is None
    assert found.informed_gap is not None
    assert found.informed_gap.value == pytest.approx(0.05)


def test_figures_are_over_all_requests_of_all_worlds(hidden: Scenario) -> None:
    row = standing(reported(made_up(KNOWN, hidden)), "rules")
    assert row.fill_rate.value == pytest.approx(0.9)
    assert row.avg_cost_usd.value == pytest.approx(3.0)
    assert row.avg_latency_ms.value == pytest.approx(300.0)
    assert row.slo_attainment.value == pytest.approx(0.8)
    assert row.mean_utility.value == pytest.approx(0.8 + 0.01 * 19 / 20)


def test_contrasts_are_paired_so_what_is_hard_for_all_cancels(hidden: Scenario) -> None:
    found = {(one.policy, one.than): one.utility for one in reported(made_up(KNOWN, hidden)).contrasts}
    assert set(found) == {("qlearning", "rules"), ("thompson", "rules"), ("thompson", "qlearning")}
    difference = found["thompson", "qlearning"]
    assert difference.interval is not None
    assert difference.interval.low == pytest.approx(0.025)
    assert difference.interval.high == pytest.approx(0.025)


def test_without_a_gap_no_share_is_made_up(hidden: Scenario) -> None:
    found = reported(made_up({**KNOWN, "informed": 0.80, "oracle": 0.80}, hidden))
    assert all(one.of_informed_gap is None and one.of_oracle_gap is None for one in found.standings)
    assert "There is no gap to close" in markdown(found)


def test_where_nothing_is_hidden_there_is_no_gap_but_an_envelope(classic: Scenario) -> None:
    found = reported(evaluate(classic, players(only=["thompson"]), steps=40, seeds=range(4)))
    assert all(one.of_informed_gap is None for one in found.standings)
    text = markdown(found)
    assert "There is no gap to close" in text
    assert "Claims outside this are impossible" in text
    assert "nothing is hidden" in verdict(found).lower()


def test_hidden_worlds_have_no_envelope(hidden: Scenario) -> None:
    found = reported(made_up(KNOWN, hidden))
    assert found.envelope is None
    assert "What is possible at all" not in markdown(found)


def test_few_worlds_and_worlds_of_training_are_pointed_out() -> None:
    found = reported(made_up(KNOWN, load_scenario("hidden-train-v1"), worlds=5))
    assert any("5 worlds are too few" in words for words in found.warnings)
    assert any("is for training" in words for words in found.warnings)
    assert all(words in markdown(found) for words in ("too few", "for training"))


def test_a_reference_that_cannot_follow_so_many_providers_is_left_out_and_said(classic: Scenario) -> None:
    offers = tuple(
        msgspec.structs.replace(offer, provider=f"p{i}", id=f"p{i}/{offer.resource}")
        for i, offer in enumerate(classic.offers)
    )
    crowded = msgspec.structs.replace(classic, offers=offers, bridges={}, events=())
    found = reported(evaluate(crowded, players(only=["thompson"]), steps=20, seeds=range(3)))
    assert found.informed_gap is None
    assert "informed does not play" in found.warnings[0]
    assert "oracle" in [one.policy for one in found.standings]
    markdown(found)


@pytest.mark.parametrize("worlds", [1, 2])
def test_a_report_without_intervals_still_reads(hidden: Scenario, worlds: int) -> None:
    found = reported(made_up(KNOWN, hidden, worlds=worlds))
    assert standing(found, "thompson").mean_utility.interval is None
    assert "cannot tell" in verdict(found)
    assert " nan" not in markdown(found)


# --- Files ----------------------------------------------------------------------------------------------------------


def test_the_json_reads_back_and_is_the_same_for_the_same_games(hidden: Scenario) -> None:
    found = reported(made_up(KNOWN, hidden))
    assert msgspec.json.decode(encoded(found), type=EvaluationReport) == found
    assert encoded(reported(made_up(KNOWN, hidden))) == encoded(found)


def test_a_report_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    place = tmp_path / "out"
    write([(place / DATA, b"old")])
    blocked = place / "taken"
    blocked.mkdir()
    with pytest.raises(ReportError, match="name another directory with --out"):
        write([(blocked, b"new")])
    assert (place / DATA).read_bytes() == b"old"
    assert sorted(path.name for path in place.iterdir()) == [DATA, "taken"]
