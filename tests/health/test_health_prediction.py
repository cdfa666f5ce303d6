"""Prediction: monotone, calibrated on worlds that it has not seen, and earlier than a hard failure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pattern_samples import BEGINS, MESH, incident

from amaru.health.features import N_FEATURES, NAMES, NOTHING_KNOWN
from amaru.health.incident_types import Trouble
from amaru.health.incidents import World
from amaru.health.prediction import ENOUGH, WARNS, Prediction
from amaru.health.prediction_table import BIAS, CALIBRATION, OFTEN, TERMS
from amaru.health.signature import Signatures

FALLING = {"coherence", "stability", "speed_shift"}
figures = st.floats(min_value=-10.0, max_value=4000.0)
rows = st.lists(figures, min_size=N_FEATURES, max_size=N_FEATURES)


@given(rows)
def test_it_is_a_probability(row: list[float]) -> None:
    assert 0.0 <= Prediction().predict(row) <= 1.0


@given(rows, st.sampled_from(NAMES), st.floats(min_value=0.0, max_value=100.0))
def test_what_looks_worse_in_any_respect_is_never_predicted_safer(row: list[float], name: str, by: float) -> None:
    column = NAMES.index(name)
    worse = list(row)
    worse[column] += -by if name in FALLING else by
    prediction = Prediction()
    assert prediction.predict(worse) >= prediction.predict(row) - 1e-12


@given(rows)
def test_lists_and_arrays_say_the_same(row: list[float]) -> None:
    prediction = Prediction()
    assert prediction.predict(row) == prediction.predict(np.array(row))


def test_an_offer_of_which_nothing_is_known_is_not_feared() -> None:
    assert Prediction().predict(NOTHING_KNOWN) < 0.05


def test_one_that_fails_all_the_time_fails_on() -> None:
    signatures = Signatures()
    what = incident(Trouble.OUTAGE, ("p2/mistral",))
    for observation in World(MESH, (what,), 1, BEGINS).observations(1000.0):
        signatures.observe(observation)
    prediction = Prediction()
    assert prediction.predict(signatures.features("p2/mistral", BEGINS + 1000.0)) > 0.9
    assert prediction.predict(signatures.features("p3/llama-3", BEGINS + 1000.0)) < 0.05


@pytest.mark.parametrize("trouble", [Trouble.SLOWING, Trouble.FAILING, Trouble.RAMBLING])
def test_a_gradual_fault_is_predicted_before_it_is_a_hard_one(trouble: Trouble) -> None:
    what = incident(trouble, ("p2/mistral",), ramp_s=360.0, strength=6.0 if trouble is Trouble.SLOWING else 0.9)
    assert what.hard_at is not None
    signatures, prediction, look_at = Signatures(), Prediction(), what.begins
    warned = None
    for observation in World(MESH, (what,), 4, BEGINS).observations(1400.0):
        signatures.observe(observation)
        if warned is None and observation.at >= look_at:
            look_at += 1.0
            if prediction.predict(signatures.features("p2/mistral", observation.at)) >= WARNS:
                warned = observation.at
    assert warned is not None
    assert what.hard_at - warned > 30.0


def test_predictions_are_worth_more_than_the_base_rate_and_the_last_error_rate() -> None:
    incidents = [
        incident(trouble, (offer,), after_s=after_s, ramp_s=ramp_s, strength=5.0 if trouble is Trouble.SLOWING else 0.9)
        for trouble, offer, after_s, ramp_s in (
            (Trouble.SLOWING, "p1/mistral", 700.0, 300.0),
            (Trouble.OUTAGE, "p2/mistral", 900.0, 0.0),
            (Trouble.FAILING, "p3/llama-3", 1100.0, 300.0),
        )
    ]
    world = World(MESH, incidents, 1001, BEGINS)
    signatures, prediction, look_at = Signatures(), Prediction(), BEGINS + 600.0
    squares = {"ours": 0.0, "base": 0.0, "last": 0.0}
    for observation in world.observations(2400.0):
        signatures.observe(observation)
        if observation.at < look_at:
            continue
        for traits in MESH.traits:
            row = signatures.features(traits.offer, look_at)
            fails = any(begins < look_at + 60.0 and ends > look_at for begins, ends in world.hard(traits.offer))
            squares["ours"] += (prediction.predict(row) - fails) ** 2
            squares["base"] += (OFTEN - fails) ** 2
            squares["last"] += (float(row[NAMES.index("errors_fast")]) - fails) ** 2
        look_at += 10.0
    assert squares["ours"] < 0.8 * squares["last"] < squares["base"]


def test_the_table_is_what_the_model_asks_for() -> None:
    assert all(weight > 0.0 for *_, weight in TERMS)
    assert BIAS < 0.0
    assert [p for _, p in CALIBRATION] == sorted(p for _, p in CALIBRATION)
    assert 0.0 < CALIBRATION[0][1] < OFTEN < CALIBRATION[-1][1] < 1.0


@pytest.mark.parametrize(
    ("terms", "calibration"),
    [
        ((("no_such_feature", 0.0, 1.0, 1.0),), ((0.0, 0.5),)),
        ((("errors_fast", 0.0, 1.0, -1.0),), ((0.0, 0.5),)),
        ((("errors_fast", 0.0, 0.0, 1.0),), ((0.0, 0.5),)),
        ((("errors_fast", 0.0, 1.0, math.nan),), ((0.0, 0.5),)),
        ((), ()),
        ((), ((0.0, 0.5), (1.0, 0.4))),
        ((), ((1.0, 0.4), (0.0, 0.5))),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    terms: tuple[tuple[str, float, float, float], ...], calibration: tuple[tuple[float, float], ...]
) -> None:
    with pytest.raises(ValueError, match=r"term|calibration"):
        Prediction(terms, -5.0, calibration)


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="features"):
        Prediction().predict([0.0] * (N_FEATURES + 1))


def test_the_first_failure_of_a_new_offer_is_no_prophecy() -> None:
    row = [*NOTHING_KNOWN]
    row[NAMES.index("errors_fast")] = row[NAMES.index("errors_mid")] = row[NAMES.index("errors_slow")] = 1.0
    row[NAMES.index("failures_in_a_row")] = 1.0
    predicted = []
    for attempts in (1.0, 10.0, ENOUGH, 10 * ENOUGH):
        row[NAMES.index("outcomes_slow")] = attempts
        predicted.append(Prediction().predict(row))
    assert predicted[0] < 0.1
    assert predicted[1] == pytest.approx(predicted[2] / 2)
    assert 0.5 < predicted[2] == predicted[3]
