"""What holds of the stability field whatever it is fed."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amaru.stability import field_kernels as k
from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldReading, FieldSettings

ANYTHING = st.one_of(
    st.none(),
    st.floats(),
    st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-300, math.inf, -math.inf, math.nan]),
    st.integers(-3, 3).map(float),
    st.integers(-(10**400), 10**400),
)
VECTORS = st.lists(st.lists(ANYTHING, max_size=3), min_size=1, max_size=60)
INSTANTS = st.one_of(st.none(), st.floats(-1e9, 1e12), st.sampled_from([0.0, math.nan, math.inf, 1e300]))


def whole(reading: FieldReading) -> bool:
    bounded = (reading.C, reading.U, reading.Phi, reading.H, reading.M, reading.Psi)
    return (
        all(0.0 <= figure <= 1.0 for figure in bounded)
        and 0.0 <= reading.PE < 10.0
        and 0.0 < reading.dt_eff < math.inf
        and all(0.0 <= surprise < math.inf for surprise in reading.surprises)
    )


@settings(max_examples=200, deadline=None)
@given(VECTORS, st.lists(INSTANTS, min_size=60, max_size=60))
@example([[1e308], [-1e308]] * 20, [None] * 60)
@example([[0.0]] * 20 + [[5e-324]] + [[1e308]] * 20, [float(i) for i in range(60)])
def test_whatever_comes_in_figures_come_out(vectors: list[list[float | None]], instants: list[float | None]) -> None:
    field = StabilityField(FieldSettings(dimension=3))
    for vector, at in zip(vectors, instants, strict=False):
        assert whole(field.step(vector, at=at))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-9, 0.01, 1.0, 300.0, 1e12]))
def test_long_series_with_everything_in_them_stay_whole(seed: int, scale: float) -> None:
    field = StabilityField(FieldSettings(dimension=4, calm_steps=512, half_life_steps=30.0))
    for vector in series(seed, 800, 4, scale):
        assert whole(field.step(vector))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 900))
def test_a_field_goes_on_from_its_state_exactly(seed: int, dimension: int, split: int) -> None:
    rows = series(seed, 900, dimension, 1.0)
    made = FieldSettings(dimension=dimension, calm_steps=512)
    field = StabilityField(made)
    for i, row in enumerate(rows[:split]):
        field.step(row, at=15.0 * i if seed % 2 else None)
    again = StabilityField(made)
    again.load(field.state())
    assert again.reading == field.reading
    for i, row in enumerate(rows[split:]):
        at = 15.0 * (split + i) if seed % 2 else None
        assert again.step(row, at=at) == field.step(row, at=at)
    assert again.state() == field.state()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_order_of_the_signals_does_not_matter(seed: int, order: list[int]) -> None:
    one, other = (StabilityField(FieldSettings(dimension=5)) for _ in range(2))
    for row in series(seed, 400, 5, 1.0):
        left, right = one.step(row), other.step([row[i] for i in order])
        assert figures(right) == pytest.approx(figures(left), abs=1e-6)
        assert right.surprises == pytest.approx([left.surprises[i] for i in order], abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3),
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
)
def test_units_do_not_matter(seed: int, scales: list[float], shifts: list[float]) -> None:
    """Each signal may be multiplied and shifted as one likes."""
    one, other = (StabilityField(FieldSettings(dimension=3)) for _ in range(2))
    for row in np.random.default_rng(seed).standard_t(4, size=(400, 3)):
        left = one.step(row.tolist())
        right = other.step([a * (x + b) for x, a, b in zip(row.tolist(), scales, shifts, strict=True)])
        assert figures(right) == pytest.approx(figures(left), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_past_stays_sorted(seed: int) -> None:
    field = StabilityField(FieldSettings(dimension=2, calm_steps=512))
    for row in series(seed, 1400, 2, 1.0):
        field.step(row)
    held = int(field._past[0])
    np.testing.assert_array_equal(field._ranked[:held], np.sort(field._calm[:held]))


def test_compiled_and_interpreted_it_reads_the_same() -> None:
    """Signs of a kernel that reads beyond its arrays, or relies on what compiling does to numbers."""
    one, other = (StabilityField(FieldSettings(dimension=3, calm_steps=512)) for _ in range(2))
    for row in series(7, 250, 3, 1.0):
        reading = one.step(row)
        other._x[:] = [math.nan if value is None or not math.isfinite(value) else value for value in row]
        k.step.py_func(  # type: ignore[attr-defined]  # Numba's
            other._x, math.nan, other._signals, other._whole, other._past, other._calm, other._ranked, other._knobs,
            other._surprises, other._figures,
        )  # fmt: skip
        assert figures(reading) == pytest.approx(other._figures.tolist(), abs=1e-6)


def figures(reading: FieldReading) -> list[float]:
    return [getattr(reading, name) for name in ("PE", "C", "U", "Phi", "H", "M", "dt_eff", "Psi")]


def series(seed: int, steps: int, dimension: int, scale: float) -> list[list[float | None]]:
    """Noise, walks, waves and constants, with jumps of level and scale and with gaps."""
    rng = random.Random(seed)
    columns: list[list[float | None]] = []
    for _ in range(dimension):
        kind, level, spread, walked = rng.randrange(4), rng.gauss(0, 10), 10 ** rng.uniform(-2, 2), 0.0
        column: list[float | None] = []
        absent = 0
        for i in range(steps):
            if rng.random() < 0.004:
                level += rng.gauss(0, 30) * spread
            if rng.random() < 0.002:
                spread *= 10 ** rng.uniform(-6, 6)
            if rng.random() < 0.004:
                absent = rng.randrange(60)
            walked += rng.gauss(0, 1)
            value = (rng.gauss(0, 1), walked, math.sin(i / 5.0), 0.0)[kind]
            absent -= 1
            column.append(None if absent > 0 else scale * (level + spread * value))
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]
