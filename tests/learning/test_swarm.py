"""What agents tell each other, how their knobs are turned, and the swarm for programs that bring their own world."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import amaru.learning
from amaru.errors import CheckpointError
from amaru.learning import RoutingAgent, State, SwarmCoordinator, agents, compute_reward, exchange, population
from amaru.learning.crew import learner
from amaru.learning.exchange import Contribution
from amaru.learning.rewards import CHAT, references_of
from amaru.learning.swarm_files import load_swarm_file
from amaru.routing import belief_kernels as b
from amaru.routing import q_kernels as q
from amaru.routing.knobs import Knobs
from amaru.simulation.scenario_files import load_scenario


def said(cells: list[int], values: list[float], visits: list[float]) -> Contribution:
    return Contribution(np.array(cells, np.int32), np.array(values), np.array(visits))


# ---- the exchange ---------------------------------------------------------------------------------------------------


def test_a_word_weighs_as_much_as_its_visits_and_its_rank() -> None:
    center = exchange.merged(
        exchange.blank_center(),
        [said([3], [1.0], [10.0]), said([3, 4], [0.0, 0.5], [30.0, 2.0])],
        scores=[0.9, 0.1],  # ranks: 1 and 1/2
    )
    assert center[3].tolist() == pytest.approx([10.0 / (10.0 + 15.0), 40.0])
    assert center[4].tolist() == pytest.approx([0.5, 2.0])
    assert np.count_nonzero(center[:, q.VISITS]) == 2


def test_what_was_agreed_on_before_counts_by_its_visits_but_not_for_ever() -> None:
    center = exchange.blank_center()
    center[3] = (0.2, 30.0)
    assert exchange.merged(center, [said([3], [1.0], [10.0])], [0.0])[3].tolist() == pytest.approx([0.4, 40.0])
    center[3] = (0.2, 1e9)
    assert exchange.merged(center, [said([3], [1.0], [10.0])], [0.0])[3, 0] == pytest.approx(
        0.2 + 0.8 * exchange.LEAST_STEP
    )


def test_only_what_is_new_is_told_and_a_fresh_agent_tells_everything() -> None:
    policy = learner("qlearning", {}, None)
    center = exchange.blank_center()
    center[5] = (0.5, 100.0)
    exchange.adopt(policy, center)
    policy.mind.values[5] = (0.6, 103.0)
    policy.mind.values[9] = (0.7, 1.0)
    told = exchange.contribution(policy, center, fresh=False)
    assert told is not None
    assert (told.cells.tolist(), told.values.tolist(), told.visits.tolist()) == ([5, 9], [0.6, 0.7], [3.0, 1.0])
    fresh = exchange.contribution(policy, center, fresh=True)
    assert fresh is not None
    assert fresh.visits.tolist() == [103.0, 1.0]


def test_a_policy_with_beliefs_has_no_table_to_tell_of() -> None:
    assert exchange.contribution(learner("thompson", {}, None), exchange.blank_center(), fresh=False) is None


def test_a_center_comes_back_as_it_was_and_nonsense_is_refused() -> None:
    center = exchange.blank_center()
    center[[0, 7, q.N_STATES - 1]] = [[0.1, 1.0], [0.25, 3.0], [-1.5, 9.0]]
    assert (exchange.unpacked(exchange.packed(center)) == center).all()
    with pytest.raises(ValueError, match="Expected `object`"):
        exchange.unpacked(b"nonsense")


# ---- the population -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["qlearning", "thompson", "hybrid"])
def test_all_knobs_that_are_turned_exist_and_stay_in_bounds(policy: str) -> None:
    given_ = {"learning_rate": 0.02} if policy == "qlearning" else {}
    knobs = population.first_knobs(policy, 20, 5, given_)
    assert knobs[0] == given_
    for round_ in range(200):
        scores = np.random.default_rng(round_).random(20).tolist()
        for turn in population.turns(policy, scores, knobs, given_, 5, round_):
            knobs[turn.agent] = turn.knobs
    for own in knobs:
        learner(policy, own, None)  # within the knobs' own bounds
        for name in population.TURNED[policy]:
            center = given_.get(name, getattr(Knobs(), name))
            assert center / population.REACH <= own.get(name, center) <= center * population.REACH
    assert len({tuple(own.items()) for own in knobs}) > 10


def test_the_worst_fifth_takes_after_the_best_fifth_and_differs_a_little() -> None:
    knobs = [{"learning_rate": 0.02 + 0.002 * id, "q_prior": 3.0} for id in range(10)]
    scores = [id / 10 for id in range(10)]
    turns = population.turns("qlearning", scores, knobs, {}, 1, 50)
    assert [turn.agent for turn in turns] == [0, 1]
    for turn in turns:
        assert turn.donor in (8, 9)
        ratios = [turn.knobs[name] / knobs[turn.donor][name] for name in ("learning_rate", "q_prior")]
        assert all(min(abs(ratio - 0.8), abs(ratio - 1.2)) < 1e-9 for ratio in ratios)
    assert turns == population.turns("qlearning", scores, knobs, {}, 1, 50)
    assert population.turns("qlearning", scores[:4], knobs[:4], {}, 1, 50) == []


# ---- the reward -----------------------------------------------------------------------------------------------------

share = st.floats(0.0, 1.0)
figure = st.floats(0.0, 1e9)


@given(share, figure, figure, st.floats(0.001, 1.0))
def test_the_reward_is_bounded_and_monotone_in_each_figure(
    fill: float, cost: float, latency: float, less: float
) -> None:
    reward = compute_reward(fill, cost, latency)
    assert 0.0 <= reward <= 1.0
    assert compute_reward(fill * (1 - less), cost, latency) <= reward
    assert compute_reward(fill, cost * (1 + less), latency) <= reward
    assert compute_reward(fill, cost, latency * (1 + less)) <= reward


@pytest.mark.parametrize("figures", [(1.1, 0, 0), (-0.1, 0, 0), (1, -1, 0), (1, 0, float("inf")), (1, float("nan"), 0)])
def test_figures_that_are_none_have_no_reward(figures: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"is (a share|finite)"):
        compute_reward(*figures)


def test_chat_is_measured_by_what_chat_costs() -> None:
    assert references_of(load_scenario("chat-azure-v1")) == CHAT


# ---- for programs that bring their own world ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["agents", "swarm", "rewards", "exchange"])
def test_the_examples_run(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(f"amaru.learning.{name}"))
    assert tried.attempted > 0
    assert tried.failed == 0


def test_the_names_are_where_users_expect_them() -> None:
    for name in amaru.learning.__all__:
        assert getattr(amaru.learning, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Swarm'"):
        _ = amaru.learning.Swarm


@given(
    st.floats(1.0, 20.0), st.floats(1.0, 20.0), share, st.floats(0.0, 100.0), share, st.sampled_from(agents.PREFERENCES)
)
def test_a_state_is_the_row_that_the_live_policy_would_use(
    latency: float, price: float, capacity: float, reputation: float, health: float, preference: str
) -> None:
    state = State.of(
        latency_ms=100 * latency, price=2 * price, best_latency_ms=100, best_price=2, capacity=capacity,
        reputation=reputation, health=health, preference=preference,
    )  # fmt: skip
    place = agents.PREFERENCES.index(preference)
    row = q.state_at(place, 100 * latency / 100, 2 * price / 2, capacity, reputation, health)
    assert state.number == row
    assert State.numbered(row) == state


def test_every_row_is_one_state() -> None:
    assert all(State.numbered(number).number == number for number in range(0, q.N_STATES, 7))


def test_bins_and_figures_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="health is a bin, 0 to 5, not 6"):
        State(0, 0, 0, 0, 6)
    with pytest.raises(ValueError, match="more than 0"):
        State.of(latency_ms=0, price=1, best_latency_ms=1, best_price=1)
    with pytest.raises(ValueError, match="preference is one of price"):
        State.of(latency_ms=1, price=1, best_latency_ms=1, best_price=1, preference="speed")


NEAR, CHEAP = State(0, 4, 3, 0, 5), State(4, 0, 3, 0, 5)


def test_only_feasible_providers_are_chosen() -> None:
    agent = RoutingAgent(0, 2, epsilon=1.0)
    assert {agent.choose([NEAR, CHEAP], [False, True]) for _ in range(20)} == {1}
    assert agent.choose([NEAR, CHEAP], [False, False]) is None
    assert {agent.choose([NEAR, CHEAP]) for _ in range(50)} == {0, 1}
    with pytest.raises(ValueError, match="there are 2 providers"):
        agent.choose([NEAR])


def test_exploration_decays_with_what_is_learned_to_a_floor() -> None:
    agent = RoutingAgent(0, 1, epsilon=0.5, epsilon_decay=0.5)
    seen = []
    for _ in range(8):
        agent.learn(NEAR, 0.5)
        seen.append(agent.epsilon)
    assert seen == pytest.approx([0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.01, 0.01, 0.01])


def test_a_replay_learns_from_the_past_again() -> None:
    agent = RoutingAgent(0, 1, learning_rate=0.5, replays=0)
    assert agent.replay(10) == 0
    for reward in [0.0] * 30 + [1.0]:
        agent.learn(NEAR, reward)
    before = agent.policy.mind.values[NEAR.number].copy()
    assert agent.replay(31) == 31
    after = agent.policy.mind.values[NEAR.number]
    assert after[q.VISITS] == before[q.VISITS]
    assert after[q.VALUE] < before[q.VALUE]  # nearly all of it earned nothing


def test_what_an_agent_has_learned_is_what_the_policy_would_serve_with() -> None:
    agent = RoutingAgent(0, 2)
    agent.learn(NEAR, 0.25)
    served = learner("qlearning", {}, agent.policy.state())
    assert served.mind.values[NEAR.number].tolist() == [0.25, 1.0]


def taught(seed: int = 0, steps: int = 40) -> SwarmCoordinator:
    swarm = SwarmCoordinator(n_agents=4, n_providers=2, seed=seed)
    for step in range(steps):
        swarm.step([NEAR, CHEAP], lambda agent, provider: 0.2 if provider == 0 else 0.7 + 0.05 * agent)
        if step % 10 == 9:
            swarm.update_swarm()
    return swarm


def test_a_swarm_learns_agrees_and_is_the_same_for_the_same_seed() -> None:
    swarm = taught()
    assert [agent.choose([NEAR, CHEAP]) for agent in swarm.agents].count(1) >= 3
    assert len({agent.q_table()[CHEAP] for agent in swarm.agents}) == 1
    assert swarm.export_q_tables() == taught().export_q_tables()
    assert swarm.export_q_tables() != taught(seed=1).export_q_tables()
    assert swarm.best.agent_id == 3


def test_a_step_tells_what_each_agent_earned() -> None:
    swarm = SwarmCoordinator(n_agents=2, n_providers=2, epsilon=0.0)
    assert swarm.step([NEAR, CHEAP], lambda agent, provider: 0.5 + agent / 4) == [0.5, 0.75]
    assert swarm.step([NEAR, CHEAP], lambda agent, provider: 1.0, feasible=[False, False]) == [None, None]


def test_a_swarm_is_saved_loaded_and_goes_on(tmp_path: Path) -> None:
    swarm = taught()
    path = swarm.save_swarm(tmp_path / "swarm")
    assert path == tmp_path / "swarm.json"
    assert load_swarm_file(path).best == 3
    other = SwarmCoordinator(n_agents=4, n_providers=2)
    other.load_swarm(tmp_path / "swarm")
    assert other.export_q_tables() == swarm.export_q_tables()
    assert other.scores == swarm.scores
    for each in (swarm, other):
        for agent in each.agents:
            agent.learn(CHEAP, 0.1)
        assert each.update_swarm() == 1
    assert other.export_q_tables() == swarm.export_q_tables()
    assert (other.agents[0].policy.mind.values == swarm.agents[0].policy.mind.values).all()


def test_a_swarm_of_another_size_or_kind_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    taught().save_swarm(tmp_path / "swarm")
    small = SwarmCoordinator(n_agents=2, n_providers=2)
    with pytest.raises(CheckpointError, match=r"swarm\.json: agents: holds 4, and this swarm has 2"):
        small.load_swarm(tmp_path / "swarm")
    assert small.export_q_tables() == [{}, {}]
    with pytest.raises(CheckpointError, match=r"none\.json: cannot be read"):
        small.load_swarm(tmp_path / "none")


def test_tables_are_exported_as_json(tmp_path: Path) -> None:
    tables = taught().export_q_tables(tmp_path / "tables.json")
    stored = json.loads((tmp_path / "tables.json").read_text())
    assert [len(agent["states"]) for agent in stored] == [len(table) for table in tables]
    first = stored[0]["states"][0]
    assert tables[0][State(**first["state"])] == first["value"]


def test_arguments_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="n_agents"):
        SwarmCoordinator(n_agents=0)
    with pytest.raises(ValueError, match="n_providers"):
        SwarmCoordinator(n_providers=0)
    with pytest.raises(ValueError, match="epsilon"):
        RoutingAgent(0, 2, epsilon=1.5)
    agent = RoutingAgent(0, 2)
    with pytest.raises(ValueError, match="finite"):
        agent.learn(NEAR, float("nan"))
    with pytest.raises(ValueError, match="probability"):
        agent.epsilon = -1
    assert agent.policy.mind.knobs[b.EPSILON] == 0.2
