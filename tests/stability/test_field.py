"""What the figures of the stability field say, each in the situation that it is for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldReading, FieldSettings

Floats = npt.NDArray[np.float64]
KINDS: tuple[Literal["rewards", "latencies"], ...] = ("rewards", "latencies")


def noise(steps: int, dimension: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(steps, dimension))


def autoregressive(steps: int, dimension: int, follows: float, seed: int = 0) -> Floats:
    values = noise(steps, dimension, seed)
    for i in range(1, steps):
        values[i] += follows * values[i - 1]
    return values


def read(field: StabilityField, rows: Iterable[Sequence[float]] | Floats) -> list[FieldReading]:
    return [field.step(list(row)) for row in rows]


def field_of(dimension: int, **settings: object) -> StabilityField:
    return StabilityField(msgspec.convert({"dimension": dimension, **settings}, FieldSettings))


# ---- calm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 5, 32])
@pytest.mark.parametrize("follows", [0.0, 0.9])
def test_calm_reads_eight_tenths(kind: str, dimension: int, follows: float) -> None:
    readings = read(field_of(dimension, kind=kind), autoregressive(1500, dimension, follows))
    assert statistics.median(reading.Psi for reading in readings[500:]) == pytest.approx(0.8, abs=0.02)
    assert statistics.median(reading.Psi for reading in readings[60:160]) == pytest.approx(0.8, abs=0.08)


def test_centring_gives_way_only_so_far() -> None:
    """Signals in resonance for ever do not become calm by habit."""
    field = field_of(8, kind="latencies", weights={"Phi": 10.0})
    waves = np.sin(np.arange(4000) / 3.0)[:, None] + 0.01 * noise(4000, 8)
    assert max(reading.Psi for reading in read(field, waves)[500:]) < 0.2


def test_constants_are_perfectly_stable() -> None:
    reading = read(field_of(3), [[0.0, -7.5, 1e9]] * 200)[-1]
    assert (reading.PE, reading.C, reading.U, reading.Phi, reading.H, reading.M) == (0.0, 1.0, 1.0, 0.0, 0.0, 1.0)
    assert reading.Psi > 0.9


def test_the_bias_may_be_given_and_the_weights_too() -> None:
    weights = {"M": 0.5, "C": 0.4, "U": 0.3, "Phi": 0.2, "H": 0.1, "PE": 1.5}
    for kind, sign in (("rewards", 1.0), ("latencies", -1.0)):
        field = field_of(4, kind=kind, bias=0.25, weights=weights)
        for reading in read(field, noise(300, 4)):
            expected = 0.5 * reading.M + 0.4 * reading.C + 0.3 * reading.U + sign * 0.2 * reading.Phi
            expected -= 0.1 * reading.H + 1.5 * reading.PE + 0.25
            assert reading.Psi == pytest.approx(1.0 / (1.0 + math.exp(-expected)), rel=1e-9)


# ---- PE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 4, 16, 64])
def test_one_signal_that_jumps_is_a_surprise_however_many_there_are(dimension: int) -> None:
    field = field_of(dimension)
    read(field, noise(1500, dimension))
    after = noise(40, dimension, seed=1)
    after[:, 0] += 9.0
    readings = read(field, after)
    assert readings[0].PE > 1.5
    assert max(range(dimension), key=lambda i: readings[0].surprises[i]) == 0
    assert readings[0].Psi < 0.7
    assert statistics.median(reading.PE for reading in readings[20:]) < 0.7


def test_a_shift_of_all_that_is_small_in_each_is_a_surprise() -> None:
    field = field_of(32)
    read(field, noise(1500, 32))
    assert field.step((noise(1, 32, seed=1)[0] + 2.0).tolist()).PE > 1.5


@pytest.mark.parametrize("factor", [1e-6, 0.02, 50.0, 1e6])
def test_another_scale_is_taken_over_within_some_steps(factor: float) -> None:
    field = field_of(4)
    read(field, noise(1500, 4))
    readings = read(field, factor * noise(300, 4, seed=1))
    assert (max(reading.PE for reading in readings[:10]) > 1.5) == (factor > 1.0)
    assert statistics.mean(reading.PE for reading in readings[40:]) == pytest.approx(0.152, abs=0.1)
    shifted = noise(1, 4, seed=2)[0] * factor
    shifted[2] += 12.0 * factor
    assert field.step(shifted.tolist()).PE > 1.5


def test_a_constant_that_moves_is_a_surprise_and_then_a_constant() -> None:
    field = field_of(2)
    read(field, [[5.0, 1.0]] * 100)
    readings = read(field, [[7.0, 1.0]] * 40)
    assert readings[0].PE > 1.5
    assert readings[0].surprises[1] == 0.0
    assert readings[-1].PE == 0.0


def test_rounding_is_no_surprise() -> None:
    field = field_of(1)
    values = [[0.1 + 0.2] if i % 3 else [0.3] for i in range(300)]
    assert {reading.PE for reading in read(field, values)} == {0.0}


def test_an_incident_does_not_teach_that_incidents_are_usual() -> None:
    field = field_of(4)
    read(field, noise(3000, 4))
    broken = noise(200, 4, seed=1) * 3.0 + np.cumsum(noise(200, 4, seed=2) * 8.0, axis=0)
    read(field, broken)
    read(field, noise(1500, 4, seed=3))
    jump = noise(1, 4, seed=4)[0]
    jump[1] += 9.0
    assert field.step(jump.tolist()).PE > 1.5


def test_what_comes_again_and_again_is_usual_however_far_out() -> None:
    """Bursts of a signal that rests otherwise are stationary too."""
    field = field_of(1)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(6000):
        burst = 100.0 * rng.random() + 50.0 if rng.random() < 0.01 else 0.0
        errors.append(field.step([burst]).PE)
    assert sum(error > 1.5 for error in errors[:1000]) > 0
    assert sum(error > 1.5 for error in errors[2000:]) <= 4


# ---- C, U, Φ, H -----------------------------------------------------------------------------------------------------


def test_continuity_falls_at_a_jump_and_comes_back() -> None:
    field = field_of(3)
    before = read(field, noise(600, 3))[-100:]
    readings = read(field, noise(100, 3, seed=1) + 8.0)
    assert statistics.mean(reading.C for reading in before) == pytest.approx(0.89, abs=0.03)
    assert readings[0].C < 0.2
    assert statistics.mean(reading.C for reading in readings[50:]) > 0.8


def test_futurity_is_what_a_forecast_explains() -> None:
    """Of a first-order autoregression that is the square of its coefficient."""
    mean = {
        follows: statistics.mean(reading.U for reading in read(field_of(4), autoregressive(3000, 4, follows))[500:])
        for follows in (0.0, 0.95)
    }
    assert mean[0.0] < 0.05
    assert mean[0.95] == pytest.approx(0.95**2, abs=0.15)
    ramp = read(field_of(2), np.arange(400.0)[:, None] * [1.0, -3.0])[-1]
    assert ramp.U > 0.95


def test_coherence_tells_moving_together_from_moving_apart() -> None:
    steps = np.arange(600)[:, None]
    together = np.sin(steps / 4.0) * [1.0, 20.0, 0.3, 5.0] + 0.05 * noise(600, 4)
    apart = np.sin(steps / 4.0 + np.arange(4) * np.pi / 2.0) + 0.05 * noise(600, 4)
    assert read(field_of(4), together)[-1].Phi > 0.9
    assert read(field_of(4), apart)[-1].Phi < 0.2
    alone = [reading.Phi for reading in read(field_of(16), noise(2000, 16))[500:]]
    assert statistics.mean(alone) == pytest.approx(math.sqrt(math.pi / 64.0), abs=0.03)


def test_moving_together_is_good_of_rewards_and_bad_of_latencies() -> None:
    waves = np.sin(np.arange(100) / 4.0)[:, None] * 2.0 + 0.1 * noise(100, 8)
    psi = {}
    for kind in KINDS:
        field = field_of(8, kind=kind)
        read(field, noise(600, 8))
        psi[kind] = read(field, waves)[-1].Psi
    assert psi["rewards"] > psi["latencies"] + 0.05


def test_entropy_is_that_of_the_orders_of_three_values() -> None:
    assert statistics.mean(reading.H for reading in read(field_of(4), noise(600, 4))[200:]) > 0.97
    assert read(field_of(2), np.arange(200.0)[:, None] * [1.0, -3.0])[-1].H == 0.0
    zigzag = read(field_of(1), [[float(i % 2)] for i in range(300)])[-1]
    assert abs(zigzag.H - math.log(2) / math.log(6)) < 0.01


# ---- M, dt_eff ------------------------------------------------------------------------------------------------------


def test_memory_is_let_go_when_it_is_of_no_use_and_built_up_again() -> None:
    field = field_of(2, half_life_steps=50)
    assert read(field, noise(300, 2))[-1].M > 0.9
    readings = read(field, noise(200, 2, seed=1) + 1000.0)
    assert min(reading.M for reading in readings[:12]) < 0.3
    assert readings[-1].M > 0.8


def test_memory_fades_while_nothing_comes_and_what_is_away_for_long_is_forgotten() -> None:
    field = field_of(2, half_life_steps=50)
    read(field, noise(300, 2))
    faded = [field.step([0.0, None]).M for _ in range(60)]
    assert faded == sorted(faded, reverse=True)
    assert faded[-1] < 0.75
    for _ in range(60):
        field.step([0.0, None])
    assert field.step([0.0]).M > 0.9
    read(field, 1e9 + noise(20, 2))
    assert max(reading.surprises[1] for reading in read(field, 1e9 + noise(5, 2))) < 5.0


def test_the_time_step_is_the_usual_one_and_shorter_while_surprised() -> None:
    field = field_of(4)
    at = 1_700_000_000.0
    for row in noise(300, 4):
        at += 30.0
        reading = field.step(row.tolist(), at=at)
    assert reading.at == at
    assert reading.dt_eff == pytest.approx(30.0, rel=0.2)
    short = field.step([50.0, -50.0, 50.0, 0.0], at=at + 30.0).dt_eff
    assert short < 20.0
    assert field_of(1, step_s=5.0).step([1.0]).dt_eff == 5.0
    for row in noise(20, 4, seed=1):
        at += 30.0
        reading = field.step(row.tolist(), at=at + 30.0)
    assert reading.dt_eff > short


def test_a_longer_gap_makes_a_larger_step_less_of_a_surprise() -> None:
    surprises = []
    for gap_s in (15.0, 150.0):
        field = field_of(1)
        walk = np.cumsum(noise(400, 1))
        for i, value in enumerate(walk):
            field.step([value], at=15.0 * i)
        surprises.append(field.step([walk[-1] + 5.0], at=15.0 * 399 + gap_s).surprises[0])
    assert surprises[1] < 0.7 * surprises[0]


# ---- what comes in --------------------------------------------------------------------------------------------------


def test_a_shorter_vector_lacks_its_last_signals() -> None:
    one, other = field_of(3), field_of(3)
    for row in noise(100, 2).tolist():
        assert one.step(row) == other.step([*row, None])
    assert one.step([]) == other.step([math.nan, math.inf, None])


def test_a_longer_vector_is_refused_unless_it_may_be_cut() -> None:
    one, other = field_of(2), field_of(2)
    one.step([1.0, 2.0])
    other.step([1.0, 2.0])
    with pytest.raises(ValueError, match="3 values for a field of 2 signals"):
        one.step([1.0, 2.0, 3.0])
    assert one.step([1.0, 2.5, 3.0], cut=True) == other.step([1.0, 2.5])


def test_a_field_that_is_told_nothing_knows_of_no_trouble() -> None:
    field = field_of(2)
    for _ in range(50):
        reading = field.step([])
    assert (reading.PE, reading.C, reading.U, reading.Phi, reading.H, reading.M) == (0.0, 1.0, 1.0, 0.0, 0.0, 1.0)
    assert reading.step == 50
    assert reading.at is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dimension": 0}, "dimension"),
        ({"dimension": 5000}, "dimension"),
        ({"dimension": 1, "step_s": 0.0}, "step_s"),
        ({"dimension": 1, "half_life_steps": 1.0}, "half_life_steps"),
        ({"dimension": 1, "horizon_steps": math.nan}, "horizon_steps"),
        ({"dimension": 1, "calm_steps": 10}, "calm_steps"),
        ({"dimension": 1, "bias": math.inf}, "bias"),
        ({"dimension": 1, "kind": "colours"}, "kind"),
        ({"dimension": 1, "weights": {"U": -1.0}}, "weight U"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        msgspec.convert(settings, FieldSettings)


# ---- state ----------------------------------------------------------------------------------------------------------


def test_a_state_of_something_else_is_refused_and_changes_nothing() -> None:
    field, untouched = field_of(2), field_of(2)
    rows = noise(600, 2).tolist()
    for row in rows[:500]:
        field.step(row)
        untouched.step(row)
    good = field.state()
    saved = msgspec.msgpack.decode(good)
    for broken, words in (
        (b"", "no state"),
        (b"\x00" * 40, "no state"),
        (good[:-9], "no state"),
        (msgspec.msgpack.encode({**saved, "version": 2}), "version 2"),
        (msgspec.msgpack.encode({**saved, "signals": saved["signals"][8:]}), "sizes"),
        (msgspec.msgpack.encode({**saved, "past": np.array([500.0, 1e9, 0.0, 0.0]).tobytes()}), "contradict"),
        (msgspec.msgpack.encode({**saved, "past": np.array([501.0, 0.0, 0.0, 0.0]).tobytes()}), "contradict"),
        (msgspec.msgpack.encode({**saved, "whole": np.full(9, math.nan).tobytes()}), "contradict"),
        (field_of(3).state(), "other settings"),
    ):
        with pytest.raises(ValueError, match=words):
            field.load(broken)
    assert [field.step(row) for row in rows[500:]] == [untouched.step(row) for row in rows[500:]]
