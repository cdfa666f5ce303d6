"""The streaming anomaly scorer: what it finds, what it leaves alone, and what it may look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.stability.anomaly import ALARM, AnomalyScorer, AnomalySettings

DAY_S = 86_400.0
SMALL = AnomalySettings(memory=512)


def scores(values: Sequence[float], chosen: AnomalySettings = SMALL, every_s: float | None = None) -> list[float]:
    scorer = AnomalyScorer(chosen)
    return [scorer.score(float(value), None if every_s is None else row * every_s) for row, value in enumerate(values)]


def alarms(found: Sequence[float]) -> list[int]:
    return [row for row, score in enumerate(found) if score >= ALARM]


def noise(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(10.0, 1.0, rows)


def test_a_spike_in_noise_is_an_alarm_at_once() -> None:
    values = noise(600)
    values[500] = 30.0
    found = scores(values)
    assert found[500] >= ALARM
    assert not [row for row in alarms(found) if 400 <= row < 500]


def test_a_new_level_is_an_alarm_and_then_the_new_normal() -> None:
    values = noise(900)
    values[500:] += 15.0
    found = scores(values)
    assert 500 in alarms(found)
    scorer = AnomalyScorer(SMALL)
    for value in values:
        scorer.score(float(value))
    assert scorer.surprise < 1.75


def test_a_shape_that_stays_within_the_usual_range_is_found() -> None:
    rows = np.arange(900)
    values = np.sin(rows / 4.0) + 0.05 * noise(900)
    values[700:720] = values[700]  # it freezes, at a value like any other
    assert [row for row in alarms(scores(values)) if 700 <= row < 725]


def test_what_is_usual_only_at_another_time_of_day_is_found_by_instants_alone() -> None:
    every_s = 1800.0
    day = np.array([80.0 if 18 <= slot < 36 else 20.0 for slot in range(48)])
    values = np.tile(day, 14) + noise(48 * 14, seed=1)
    values[48 * 12 : 48 * 13] = 20.0 + noise(48, seed=2)  # a day without its rise
    began = 48 * 12 + 18
    chosen = AnomalySettings(memory=2048)
    assert [row for row in alarms(scores(values, chosen, every_s)) if began <= row < began + 6]
    assert not [row for row in alarms(scores(values, chosen)) if began <= row < began + 6]


@pytest.mark.parametrize("constant", [0.0, 5.0, -1e12])
def test_a_constant_never_alarms_and_its_first_change_does(constant: float) -> None:
    found = scores([constant] * 300 + [constant + abs(constant) * 0.1 + 1.0])
    assert max(found[:300]) < ALARM
    assert found[300] >= ALARM


@pytest.mark.parametrize("seed", range(5))
def test_calm_noise_rarely_alarms(seed: int) -> None:
    found = scores(np.random.default_rng(seed).uniform(0.0, 1.0, 4000), AnomalySettings())
    assert len(alarms(found)) <= 12


def test_an_anomaly_that_goes_on_is_news_once_and_stays_surprising() -> None:
    values = noise(600)
    values[500:504] = (30.0, 30.5, 29.5, 30.2)
    scorer = AnomalyScorer(SMALL)
    found, surprises = [], []
    for value in values:
        found.append(scorer.score(float(value)))
        surprises.append(scorer.surprise)
    assert alarms(found[500:504]) == [0]
    assert min(surprises[500:504]) > 1.75
    without_rest = AnomalySettings(memory=512, rest_rows=0)
    assert alarms(scores(values, without_rest)[500:504]) == [0, 1, 2, 3]


def test_the_more_is_known_the_rarer_is_what_alarms() -> None:
    falling, constant = (AnomalyScorer(AnomalySettings(memory=512, alarm_fall=fall)) for fall in (0.5, 0.0))
    seen = [(falling.score(value), constant.score(value), falling.surprise) for value in noise(3000).tolist()]
    calm = [(row, one, other, surprise) for row, (one, other, surprise) in enumerate(seen) if 0 < surprise < 1.0]
    assert all(one > other for row, one, other, _ in calm if row < 900)
    assert all(one < other for row, one, other, _ in calm if row > 1100)
    for row, one, other, surprise in calm:
        assert other == pytest.approx(surprise / (surprise + 1.65))
        assert one == pytest.approx(surprise / (surprise + 1.65 + 0.5 * math.log10(max(row, 100) / 1000.0)))


def test_something_clearly_worse_breaks_the_rest() -> None:
    values = noise(600)
    values[500], values[520] = 18.0, 1e6
    assert {500, 520} <= set(alarms(scores(values)))


@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.none()), max_size=150),
    later=st.lists(st.floats(-1e6, 1e6), max_size=20),
)
def test_every_score_is_in_range_and_none_looks_ahead(values: list[float | None], later: list[float]) -> None:
    short, long = AnomalyScorer(SMALL), AnomalyScorer(SMALL)
    first = [short.score(value, 60.0 * row) for row, value in enumerate(values)]
    both = [long.score(value, 60.0 * row) for row, value in enumerate([*values, *later])]
    assert both[: len(first)] == first
    assert all(0.0 <= score < 1.0 for score in both)
    assert 0.0 <= long.surprise < math.inf


@pytest.mark.parametrize("factor", [1e-9, 0.25, 1e15])
def test_the_unit_of_a_signal_is_no_matter(factor: float) -> None:
    values = noise(700)
    values[600] = 25.0
    assert scores(values * factor) == pytest.approx(scores(values), abs=0.06)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_left_out(missing: float | None) -> None:
    values = noise(300)
    scorer = AnomalyScorer(SMALL)
    with_gaps = []
    for value in values:
        assert scorer.score(missing) == 0.0
        with_gaps.append(scorer.score(float(value)))
    assert with_gaps == scores(values)


def test_signals_that_part_company_are_found_though_each_is_as_usual() -> None:
    switches = np.random.default_rng(3).random(900) < 0.1
    state = np.cumsum(switches) % 2
    pair = np.stack([state * 10.0, state * 1e4], axis=1) + noise(1800).reshape(900, 2) * [0.1, 100.0]
    parts = int(np.flatnonzero(switches & (np.arange(900) >= 800))[0])
    pair[parts : parts + 5, 1] = pair[parts - 1, 1]  # one switches, and the other stays as it was
    scorer = AnomalyScorer(AnomalySettings(memory=512, dimension=2))
    apart = set(range(parts, parts + 5))
    assert apart & set(alarms([scorer.score([float(one) for one in row]) for row in pair]))
    assert not apart & set(alarms(scores(pair[:, 0])))
    assert not apart & set(alarms(scores(pair[:, 1])))


def test_one_of_several_signals_may_be_missing() -> None:
    scorer = AnomalyScorer(AnomalySettings(memory=512, dimension=2))
    values = noise(600)
    for row, value in enumerate(values[:-1]):
        scorer.score([None if row % 3 == 0 else float(value), float(value)])
    assert scorer.score([None, 40.0]) >= ALARM


def test_signals_that_never_come_together_are_still_compared_each_with_its_past() -> None:
    scorer = AnomalyScorer(AnomalySettings(memory=512, dimension=2))
    for row, value in enumerate(noise(600).tolist()):
        scorer.score([value, None] if row % 2 else [None, value])
    assert scorer.score([None, 40.0]) >= ALARM


def test_another_number_of_signals_is_refused() -> None:
    scorer = AnomalyScorer(AnomalySettings(memory=512, dimension=2))
    with pytest.raises(ValueError, match="3 values for a scorer of 2 signals"):
        scorer.score([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="1 values for a scorer of 2 signals"):
        scorer.score(1.0)


def test_a_scorer_that_loads_a_state_goes_on_as_the_one_that_saved_it_and_no_state_grows() -> None:
    values = noise(1500)
    values[1400] = 40.0
    first, second = AnomalyScorer(SMALL), AnomalyScorer(SMALL)
    empty = len(first.state())
    for row, value in enumerate(values[:1200]):
        first.score(float(value), 300.0 * row)
    state = first.state()
    assert len(state) == empty
    second.load(state)
    later = [(float(value), 300.0 * (1200 + row)) for row, value in enumerate(values[1200:])]
    assert [second.score(*row) for row in later] == [first.score(*row) for row in later]


def test_a_state_of_something_else_is_refused() -> None:
    scorer = AnomalyScorer(SMALL)
    with pytest.raises(ValueError, match="no state of an anomaly scorer"):
        scorer.load(b"something else")
    with pytest.raises(ValueError, match="other settings"):
        scorer.load(AnomalyScorer().state())
    with pytest.raises(ValueError, match="version 1"):
        scorer.load(scorer.state().replace(b"\xa7version\x02", b"\xa7version\x01"))
    saved = msgspec.msgpack.decode(scorer.state())
    with pytest.raises(ValueError, match="other sizes"):
        scorer.load(msgspec.msgpack.encode(saved | {"arrays": saved["arrays"][:-1]}))
    outside = np.full(len(saved["arrays"][-1]) // 8, 1e9).astype("<f8").tobytes()
    with pytest.raises(ValueError, match="contradict each other"):
        scorer.load(msgspec.msgpack.encode(saved | {"arrays": [*saved["arrays"][:-1], outside]}))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"dimension": 0}, "dimension"),
        ({"memory": 10}, "memory"),
        ({"half_lives": ()}, "half_lives"),
        ({"half_lives": (1.0, 1e6)}, "half_lives"),
        ({"alarm_probability": 0.0}, "alarm_probability"),
        ({"alarm_fall": -0.5}, "alarm_fall"),
        ({"season_within_s": DAY_S}, "season_within_s"),
        ({"rest_margin": math.nan}, "rest_margin"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AnomalySettings(**wrong)  # type: ignore[arg-type]  # wrong on purpose
