"""Tabular Q-learning against a plain reading of its rules."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import q_kernels as q
from amaru.routing.knobs import knobs_from

SIDES = (
    (q.LATENCY_EDGES, 1.0),
    (q.PRICE_EDGES, 1.0),
    (q.CAPACITY_EDGES, 0.0),
    (q.REPUTATION_EDGES, 0.0),
    (q.HEALTH_EDGES, 0.0),
)
"""Edges of each figure, and its least."""


def inside(edges: tuple[float, ...], least: float) -> list[float]:
    """A figure inside each bin."""
    bounds = (least, *edges, edges[-1] + (1.0 - edges[-1] if edges[-1] < 1.0 else 10.0))
    return [0.5 * (low + high) for low, high in itertools.pairwise(bounds)]


def plain_bin(value: float, edges: tuple[float, ...]) -> int:
    return sum(value >= edge for edge in edges)


def test_states_are_numbered_without_gaps_or_doubles() -> None:
    found = [
        q.state_at(preference, *figures)
        for preference in range(q.PREFERENCES)
        for figures in itertools.product(*(inside(*side) for side in SIDES))
    ]
    assert sorted(found) == list(range(q.N_STATES))


figures = st.floats(0.0, 1e12, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), figures, figures, st.floats(-1.0, 2.0), st.floats(0.0, 100.0), st.floats(0.0, 1.0))
def test_any_figures_have_a_state(
    preference: int, latency: float, price: float, free: float, reputation: float, health: float
) -> None:
    state = q.state_at(preference, latency, price, free, reputation, health)
    assert 0 <= state < q.N_STATES
    assert state // (q.N_STATES // q.PREFERENCES) == preference
    assert state % 6 == plain_bin(health, q.HEALTH_EDGES)
    assert state // 6 % 4 == plain_bin(reputation, q.REPUTATION_EDGES)
    assert state // 24 % 4 == plain_bin(free, q.CAPACITY_EDGES)
    near = any(
        math.isclose(ratio, edge, rel_tol=1e-12)
        for ratio, side in ((latency, 0), (price, 1))
        for edge in SIDES[side][0]
    )
    if not near:  # where exactly an edge lies is rounding
        assert state // 96 % 6 == plain_bin(price, q.PRICE_EDGES)
        assert state // 576 % 6 == plain_bin(latency, q.LATENCY_EDGES)


@pytest.mark.parametrize(
    ("weights", "which"),
    [((1, 0, 0, 0), 0), ((0, 0, 0, 1), 3), ((1, 2, 2, 1), 1), ((0, 0, 0, 0), 0), ((0.1, 0.2, 0.4, 0.3), 2)],
)
def test_the_preference_is_the_largest_weight_the_first_of_equals(
    weights: tuple[float, float, float, float], which: int
) -> None:
    assert q.preference_of(weights) == which


class Plain:
    """The same rules in plain Python."""

    def __init__(self, rate: float, discount: float, replays: int, epsilon: float, kept: float, least: float) -> None:
        self.rate, self.discount, self.replays = rate, discount, replays
        self.epsilon, self.kept, self.least = epsilon, kept, least
        self.value: dict[int, float] = {}
        self.visits: dict[int, int] = {}
        self.memory: list[list[float]] = []
        self.count = 0

    def update(self, state: int, target: float, visit: bool) -> None:
        if visit:
            self.visits[state] = self.visits.get(state, 0) + 1
        step = max(self.rate, 1.0 / max(self.visits.get(state, 0), 1))
        value = self.value.get(state, 0.0)
        self.value[state] = value + step * (target - value)

    def take_in(self, state: int, reward: float, lot: float) -> None:
        if self.discount > 0.0 and self.count:
            last = self.memory[(self.count - 1) % q.MEMORY]
            last[2] = state
            self.update(int(last[0]), last[1] + self.discount * self.value.get(state, 0.0), visit=True)
        held = min(self.count, q.MEMORY)
        entry = [float(state), reward, -1.0]
        if len(self.memory) < q.MEMORY:
            self.memory.append(entry)
        else:
            self.memory[self.count % q.MEMORY] = entry
        self.count += 1
        if self.discount == 0.0:
            self.update(state, reward, visit=True)
        for i in range(self.replays if held >= 64 else 0):
            past, gained, after = self.memory[int(k.unit_of(k.lot_of(lot, 1000 + i)) * held)]
            if self.discount > 0.0 and after < 0:
                continue
            self.update(int(past), gained + self.discount * self.value.get(int(after), 0.0), visit=False)
        if self.epsilon > self.least:
            self.epsilon = max(self.epsilon * self.kept, self.least)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([0.02, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 0.99]),
    st.integers(0, 3),
    st.integers(0, 10**6),
    st.sampled_from([30, 200, q.MEMORY + 90]),
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_learning_equals_the_plain_reading(rate: float, discount: float, replays: int, seed: int, count: int) -> None:
    knobs = knobs_from({"learning_rate": rate, "discount": discount, "replays": replays, "epsilon_kept": 0.99}).array()
    plain = Plain(rate, discount, replays, knobs[b.EPSILON], 0.99, knobs[b.EPSILON_LEAST])
    values, memory, ring = np.zeros((q.N_STATES, 2)), np.zeros((q.MEMORY, 3)), np.zeros(1)
    rng = np.random.default_rng(seed)
    states = rng.integers(0, q.N_STATES, 12)
    for _ in range(count):
        state, reward, lot = int(rng.choice(states)), float(rng.random()), float(rng.random())
        q.learn(state, reward, lot, values, memory, ring, knobs)
        plain.take_in(state, reward, lot)
    assert knobs[b.EPSILON] == pytest.approx(plain.epsilon, rel=1e-12)
    assert ring[q.COUNT] == count
    held = min(count, q.MEMORY)
    np.testing.assert_array_equal(memory[:held], plain.memory)
    assert not memory[held:].any()
    expected = np.zeros_like(values)
    for state, value in plain.value.items():
        expected[state] = value, plain.visits.get(state, 0)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


def test_the_value_of_a_state_is_the_mean_of_its_rewards_while_they_are_few() -> None:
    values, memory, ring = np.zeros((q.N_STATES, 2)), np.zeros((q.MEMORY, 3)), np.zeros(1)
    knobs = knobs_from({"learning_rate": 0.05, "replays": 0}).array()
    for reward in (1.0, 0.0, 0.5, 0.9):
        q.learn(7, reward, 0.5, values, memory, ring, knobs)
    assert values[7].tolist() == pytest.approx([0.6, 4.0])
    for _ in range(300):  # and a moving one, which forgets, when they are many
        q.learn(7, 0.0, 0.5, values, memory, ring, knobs)
    assert values[7, q.VALUE] < 1e-6


@pytest.mark.parametrize(
    ("start", "least", "after"), [(0.4, 0.05, 0.2), (0.4, 0.3, 0.3), (0.02, 0.1, 0.02), (0.0, 0.1, 0.0)]
)
def test_epsilon_falls_to_its_least_and_never_rises(start: float, least: float, after: float) -> None:
    knobs = knobs_from({"epsilon": start, "epsilon_least": least, "epsilon_kept": 0.5}).array()
    values, memory, ring = np.zeros((q.N_STATES, 2)), np.zeros((q.MEMORY, 3)), np.zeros(1)
    q.learn(1, 1.0, 0.5, values, memory, ring, knobs)
    assert knobs[b.EPSILON] == pytest.approx(after)
    for _ in range(50):
        q.learn(1, 1.0, 0.5, values, memory, ring, knobs)
    assert knobs[b.EPSILON] == min(start, least)
