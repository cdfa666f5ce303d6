"""The war-game as a PettingZoo parallel environment."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from amaru.simulation.environment import WarGameEnv
from amaru.simulation.environment_parallel import WarGameParallelEnv, parallel_env
from amaru.simulation.scenario_files import load_scenario


def first_feasible(infos: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: int(np.argmax(info["action_mask"])) for name, info in infos.items()}


def rounds(env: WarGameParallelEnv, seed: int | None) -> list[Any]:
    told = [env.reset(seed=seed)]
    infos = told[0][1]
    while env.agents:
        told.append(env.step(first_feasible(infos)))
        infos = told[-1][4]
    return told


@pytest.mark.parametrize("scenario", ["classic", "hidden-train-v1", "chat-azure-v1"])
def test_the_official_checkers_have_nothing_to_say(scenario: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(scenario, steps=3), num_cycles=500)
        parallel_seed_test(lambda: parallel_env(scenario, steps=3), num_cycles=50)


def test_the_same_seed_gives_the_same_episode() -> None:
    def told(seed: int) -> str:
        return repr(rounds(parallel_env("hidden-train-v1", steps=3), seed))

    with np.printoptions(threshold=10**6, precision=17):
        assert told(5) == told(5)
        assert told(5) != told(6)


def test_every_request_is_asked_for_once_and_by_its_own_tenant() -> None:
    """Both environments hold the same requests; only their order differs."""
    single = WarGameEnv("classic", steps=4)
    _, info = single.reset(seed=3)
    alone: Counter[tuple[int, str, str]] = Counter()
    over = False
    while not over:
        alone[info["step"], info["tenant"], info["resource"]] += 1
        _, _, _, over, info = single.step(0)
    env = parallel_env("classic", steps=4)
    _, infos = env.reset(seed=3)
    together: Counter[tuple[int, str, str]] = Counter()
    while env.agents:
        for name, told in infos.items():
            if told["resource"]:
                together[told["step"], name, told["resource"]] += 1
        infos = env.step(first_feasible(infos))[4]
    assert together == alone


def test_who_has_no_request_sees_nothing_and_gets_nothing() -> None:
    env = parallel_env("classic", steps=3)
    observations, infos = env.reset(seed=0)
    idle = 0
    while env.agents:
        resting = [name for name in env.agents if not infos[name]["resource"]]
        idle += len(resting)
        for name in resting:
            assert not observations[name].any()
            assert not infos[name]["action_mask"].any()
        observations, rewards, _, _, infos = env.step(
            {name: action for name, action in first_feasible(infos).items() if name not in resting}
        )
        assert all(rewards[name] == 0 and not infos[name]["served"] for name in resting)
    assert idle > 0


def test_all_tenants_end_together_with_the_last_round() -> None:
    env = parallel_env("classic", steps=2)
    told = rounds(env, 0)
    assert set(told[-1][3].values()) == {True}
    assert all(set(step[3].values()) == {False} for step in told[1:-1])
    assert all(set(step[2].values()) == {False} for step in told[1:])
    assert env.agents == []
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({})


def test_the_last_room_goes_to_whoever_is_first_and_that_changes() -> None:
    """Two tenants want an offer with room for one of them; who gets it takes turns."""
    classic = load_scenario("classic")
    demand = classic.demands[0]
    profile = next(profile for profile in classic.profiles if demand.mix.get(profile.id, 0) > 0)
    offers = [offer for offer in classic.offers if offer.resource == profile.resource][:1]
    twins = tuple(
        msgspec.structs.replace(
            demand,
            tenant=msgspec.structs.replace(demand.tenant, id=name),
            mix={profile.id: 1.0},
            requests_per_step=30.0,
            budget_usd_per_step=1e9,
            region=None,
        )
        for name in ("left", "right")
    )
    scenario = msgspec.structs.replace(
        classic,
        offers=tuple(msgspec.structs.replace(offer, capacity=1.0) for offer in offers),
        demands=twins,
        profiles=(msgspec.structs.replace(profile, gpu_hours=(1.0, 1.0)),),
        events=(),
    )
    env = parallel_env(scenario, steps=40)
    env.reset(seed=0)
    winners = []
    while env.agents:
        infos = env.step(dict.fromkeys(env.agents, 0))[4]
        winners += [name for name, told in infos.items() if told["served"]]
    counts = Counter(winners)
    assert sum(counts.values()) == 40, "room for one a step"
    assert min(counts.values()) >= 10, counts


def test_the_state_is_what_all_see() -> None:
    env = parallel_env("classic", steps=1)
    observations, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.state(), np.concatenate([observations[name] for name in env.possible_agents]))


def test_it_can_be_read() -> None:
    env = parallel_env("classic", steps=1, render_mode="ansi")
    _, infos = env.reset(seed=0)
    env.step(first_feasible(infos))
    text = env.render()
    assert text is not None
    assert "step 1 of 1, round 2, world 0" in text
    assert "last: " in text


def test_an_action_of_no_offer_is_refused() -> None:
    env = parallel_env("classic", steps=1)
    _, infos = env.reset(seed=0)
    busy = next(name for name in env.agents if infos[name]["resource"])
    for actions, said in (({}, "none"), ({busy: 99}, "99")):
        with pytest.raises(ValueError, match=f"an action is the number of an offer, 0 to 10, not {said}"):
            env.step(first_feasible(infos) | actions if actions else actions)
