"""The war-game as a Gymnasium environment."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.routing.policies import make_policy
from amaru.simulation.environment import WarGameEnv
from amaru.simulation.environment_game import OFFER_FIGURES, REQUEST_FIGURES
from amaru.simulation.play import Played, play
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import Chunk, World

STEPS = 6


def unwrapped(env: gymnasium.Env[Any, Any]) -> WarGameEnv:
    inner = env.unwrapped
    assert isinstance(inner, WarGameEnv)
    return inner


def episode(env: gymnasium.Env[Any, Any], seed: int | None, choose: Callable[[dict[str, Any]], int]) -> list[Any]:
    """Everything that one episode says, step by step."""
    observation, info = env.reset(seed=seed)
    told: list[Any] = [(observation, info)]
    over = False
    while not over:
        observation, reward, terminated, over, info = env.step(choose(info))
        assert not terminated
        told.append((observation, reward, over, info))
    return told


def first_feasible(info: dict[str, Any]) -> int:
    return int(np.argmax(info["action_mask"]))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b))


@pytest.mark.parametrize("scenario", ["classic", "hidden-train-v1", "chat-azure-v1"])
def test_the_official_checker_has_nothing_to_say(scenario: str) -> None:
    env = gymnasium.make("amaru/WarGame-v0", scenario=scenario, steps=STEPS, render_mode="ansi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_it_is_made_by_an_id_that_names_its_module_too() -> None:
    code = "import gymnasium; print(gymnasium.make('amaru.simulation.environment:amaru/WarGame-v0').unwrapped)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "WarGameEnv" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("scenario", "policy"),
    [("classic", "rules_classic"), ("hidden-train-v1", "qlearning"), ("chat-azure-v1", "thompson")],
)
def test_who_chooses_what_a_policy_chooses_gets_what_it_gets(scenario: str, policy: str) -> None:
    """Law 5: the environment has no rules of its own."""
    expected: list[tuple[int, bool, float, float, float]] = []

    def keep(_: Chunk, played: Played) -> None:
        columns = played.chosen, played.ok, played.latency_ms, played.cost_usd, played.utility
        expected.extend(zip(*(column.tolist() for column in columns), strict=True))

    # Longer than a chunk, so that it goes on in the next one.
    steps = 70 if scenario == "classic" else STEPS
    play(World(load_scenario(scenario), 3), make_policy(policy), steps, on_chunk=keep)
    env = WarGameEnv(scenario, steps=steps)
    _, info = env.reset(seed=3)
    for place, (row, ok, latency_ms, cost_usd, utility) in enumerate(expected):
        assert info["action_mask"].any() == (row >= 0)
        _, reward, _, over, info = env.step(max(row, 0))
        assert info["served"] == ok
        assert (info["latency_ms"], info["cost_usd"]) == pytest.approx((latency_ms, cost_usd), rel=1e-12)
        assert reward == info["utility"] == pytest.approx(utility, rel=1e-12)
        assert over == (place == len(expected) - 1)


def test_the_same_seed_gives_the_same_episode_and_another_one_another() -> None:
    one, other = (gymnasium.make("amaru/WarGame-v0", scenario="hidden-train-v1", steps=STEPS) for _ in range(2))
    first, again, unlike = (episode(env, seed, first_feasible) for env, seed in ((one, 5), (other, 5), (one, 6)))
    assert same(first, again)
    assert not same(first, unlike)


def test_episodes_without_a_seed_are_drawn_from_the_last_one() -> None:
    def worlds(env: gymnasium.Env[Any, Any], **first: int) -> list[int]:
        return [env.reset(**first)[1]["world"], *(env.reset()[1]["world"] for _ in range(3))]

    told = worlds(WarGameEnv(steps=1), seed=11)
    assert told[0] == 11
    assert len(set(told)) == 4
    assert worlds(WarGameEnv(steps=1), seed=11) == told
    assert worlds(WarGameEnv(steps=1, seed=11)) == told, "a seed at the making counts for the first reset"


def test_an_infeasible_choice_serves_nobody_and_hurts_no_provider() -> None:
    env = WarGameEnv("classic", steps=1)
    _, info = env.reset(seed=0)
    outcomes = []
    over = False
    while not over:
        wrong = int(np.argmin(info["action_mask"]))
        assert info["action_mask"][wrong] == 0
        _, reward, _, over, info = env.step(wrong)
        outcomes.append((reward, info["served"], info["offer"], info["cost_usd"]))
    assert set(outcomes) == {(0.0, False, "", 0.0)}


def test_only_offers_of_what_is_asked_for_may_serve_and_a_budget_that_is_spent_leaves_fewer() -> None:
    scenario = load_scenario("classic")
    poor = msgspec.structs.replace(
        scenario,
        demands=tuple(msgspec.structs.replace(demand, budget_usd_per_step=6.0) for demand in scenario.demands),
    )

    def able(scenario: Scenario) -> int:
        env = WarGameEnv(scenario, steps=STEPS)
        _, info = env.reset(seed=2)
        over, count = False, 0
        while not over:
            able = [offer.resource for offer, may in zip(scenario.offers, info["action_mask"], strict=True) if may]
            assert set(able) <= {info["resource"]}
            count += len(able)
            _, _, _, over, info = env.step(first_feasible(info))
        return count

    assert 0 < able(poor) < able(scenario) / 2


def test_an_observation_says_what_is_posted_and_asked() -> None:
    scenario = load_scenario("classic")
    env = WarGameEnv(scenario)
    observation, info = env.reset(seed=0)
    offers = observation[: -len(REQUEST_FIGURES)].reshape(len(scenario.offers), len(OFFER_FIGURES))
    asked = dict(zip(REQUEST_FIGURES, observation[-len(REQUEST_FIGURES) :].tolist(), strict=True))
    pool = [row for row, offer in enumerate(scenario.offers) if offer.resource == info["resource"]]
    prices = np.array([scenario.offers[row].price.usd_per_gpu_hour for row in pool])
    latencies = np.array([scenario.offers[row].latency_ms for row in pool])
    np.testing.assert_allclose(offers[pool, 0], prices.min() / prices, rtol=1e-6)
    np.testing.assert_allclose(offers[pool, 1], latencies.min() / latencies, rtol=1e-6)
    np.testing.assert_array_equal(offers[pool, 2], 1.0)
    np.testing.assert_allclose(offers[pool, 3], [scenario.offers[row].reputation / 100 for row in pool], rtol=1e-6)
    np.testing.assert_array_equal(offers[:, 4], info["action_mask"])
    np.testing.assert_array_equal(offers[pool, 5:], [[1.0, 0.5]] * len(pool))
    assert not np.delete(offers, pool, axis=0).any()
    tenant = next(demand.tenant for demand in scenario.demands if demand.tenant.id == info["tenant"])
    weights = [asked[f"weight_{name}"] for name in ("price", "latency", "reputation", "availability")]
    told = tenant.weights
    expected = np.array([told.price, told.latency, told.reputation, told.availability])
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-6)
    assert asked["waiting"] == 1
    assert asked["gpu_hours"] > 0
    assert asked["input_tokens"] == asked["output_tokens"] == 0


def test_what_was_observed_of_an_offer_is_seen_and_capacity_fills() -> None:
    env = WarGameEnv("hidden-train-v1", steps=30)
    rows = []
    observation, info = env.reset(seed=4)
    over = False
    while not over:
        rows.append(observation[: -len(REQUEST_FIGURES)].reshape(-1, len(OFFER_FIGURES)))
        observation, _, _, over, info = env.step(first_feasible(info))
    figures = np.array(rows)
    assert figures[..., 2][figures.any(axis=2)].min() < 0.9, "free capacity"
    assert figures[..., 5][figures.any(axis=2)].min() < 0.9, "recent success"
    assert len(np.unique(figures[..., 6])) > 100, "recent latency"


def test_a_vector_reward_is_that_of_mo_gymnasium() -> None:
    env = gymnasium.make("amaru/MOWarGame-v0", scenario="hidden-train-v1", steps=STEPS)
    space = unwrapped(env).reward_space
    assert space.shape == (3,) == (unwrapped(env).reward_dim,)
    served = []
    for _, reward, _, info in episode(env, 1, first_feasible)[1:]:
        assert space.contains(reward)
        expected = [info["served"], -info["cost_usd"], -info["latency_ms"]]
        np.testing.assert_array_equal(reward, expected)
        served.append(info["served"])
    assert len(set(served)) == 2, "some requests of a hidden world fail"


def test_masks_are_told_in_both_of_the_usual_ways() -> None:
    env = gymnasium.make("amaru/WarGame-v0")
    _, info = env.reset(seed=0)
    masks = env.get_wrapper_attr("action_masks")()
    assert masks.dtype == bool
    assert masks.tolist() == info["action_mask"].astype(bool).tolist()
    assert info["action_mask"][env.action_space.sample(mask=info["action_mask"])] == 1


def test_it_can_be_read() -> None:
    env = WarGameEnv("classic", steps=1, render_mode="ansi")
    assert env.render() == "no episode is under way"
    _, info = env.reset(seed=0)
    text = env.render()
    assert text is not None
    assert f"{info['tenant']} asks for {info['resource']}" in text
    assert text.count("*") == info["action_mask"].sum()
    told = env.step(first_feasible(info))[4]
    assert f"last: {told['offer']} served in" in str(env.render())
    env.step(int(np.argmin(told["action_mask"])))
    assert "last: not placed" in str(env.render())


def test_what_is_wrong_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="reward is 'utility' or 'vector', not 'gold'"):
        WarGameEnv(reward="gold")
    with pytest.raises(ValueError, match="steps is at least 1, not 0"):
        WarGameEnv(steps=0)
    with pytest.raises(ValueError, match="render_mode is 'ansi' or None, not 'human'"):
        WarGameEnv(render_mode="human")
    env = WarGameEnv(steps=1)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="the number of an offer, 0 to 10, not 11"):
        env.step(11)
    while not env.step(0)[3]:
        pass
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)


@given(seed=st.integers(0, 2**31 - 1), actions=st.lists(st.integers(0, 10), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_whatever_is_done_stays_within_the_spaces(seed: int, actions: list[int]) -> None:
    env = WarGameEnv("hidden-train-v1", steps=2)
    observation, _ = env.reset(seed=seed)
    for action in actions:
        assert env.observation_space.contains(observation)
        observation, reward, _, over, info = env.step(action)
        assert 0 <= reward < 2
        assert (reward > 0) == info["served"]
        if over:
            break


@pytest.mark.parametrize(("module", "missing"), [("environment", "gymnasium"), ("environment_parallel", "pettingzoo")])
def test_a_missing_library_is_named_with_its_remedy(module: str, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import amaru.simulation.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "pip install 'amaru[environments]'" in done.stderr.splitlines()[-1]
