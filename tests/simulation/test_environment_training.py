"""A library that knows nothing of amaru trains on the war-game as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest

import amaru.simulation.environment  # noqa: F401 - registers the environment

WANTED = "needs torch and stable-baselines3, which are in no lock file: .ci/run installs them"
HELD_OUT = range(1_000, 1_003)
"""Worlds that the training does not see."""


def mean_reward(env: gymnasium.Env[np.ndarray, np.int64], choose: Callable[[np.ndarray], int]) -> float:
    """Of a request, over the held-out worlds."""
    rewards = []
    for seed in HELD_OUT:
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            observation, reward, _, over, _ = env.step(choose(observation))
            rewards.append(float(reward))
    return float(np.mean(rewards))


@pytest.mark.slow
def test_ppo_of_stable_baselines_learns_to_place_requests() -> None:
    """At first it mostly names offers that may not serve; it must learn from rewards alone which ones may."""
    torch = pytest.importorskip("torch", reason=WANTED)
    pytest.importorskip("stable_baselines3", reason=WANTED)
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env

    torch.set_num_threads(1)
    env = gymnasium.make("amaru/WarGame-v0", scenario="hidden-train-v1", steps=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    model = PPO("MlpPolicy", env, seed=0, n_steps=512, batch_size=128, learning_rate=1e-3, device="cpu")

    def choose(observation: np.ndarray) -> int:
        return int(model.predict(observation, deterministic=True)[0])

    lots = np.random.default_rng(0)
    by_lot = mean_reward(env, lambda _: int(lots.integers(env.action_space.n)))
    untrained = mean_reward(env, choose)
    model.learn(6_144)
    trained = mean_reward(env, choose)
    assert trained > 2 * by_lot
    assert trained > untrained
