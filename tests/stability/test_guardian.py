"""The guardian: when it asks for what, what keeps it from asking, and what it keeps of it."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.stability.guardian import Guardian, GuardianSettings, Intervention
from amaru.stability.guardian_history import History

NIGREDO, ALBEDO = Intervention.NIGREDO, Intervention.ALBEDO


class Reading(NamedTuple):
    PE: float = 0.1
    H: float = 0.4
    Psi: float = 0.8


CALM = Reading()
SURPRISE = Reading(PE=2.0)
DISORDER = Reading(H=0.9, Psi=0.3)


def guardian(**settings: object) -> Guardian:
    return Guardian(msgspec.convert({"warm_up_steps": 0, "cooldown_steps": 0, **settings}, GuardianSettings))


def judge(one: Guardian, reading: Reading, now: float = 0.0) -> Intervention | None:
    record = one.decide(reading, now)
    return None if record is None else record.kind


def judged(one: Guardian, *readings: Reading, now: float = 0.0) -> list[Intervention | None]:
    return [judge(one, reading, now) for reading in readings]


# ---- what it asks for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "asked"),
    [
        (CALM, None),
        (SURPRISE, NIGREDO),
        (DISORDER, ALBEDO),
        (Reading(PE=1.5), None),
        (Reading(H=0.9), None),  # disordered, and yet stable
        (Reading(Psi=0.3), None),  # unstable, and yet in order
        (Reading(PE=2.0, H=0.9, Psi=0.3), NIGREDO),
        (Reading(math.nan, math.nan, math.nan), None),
    ],
)
def test_it_asks_for_what_the_reading_shows(reading: Reading, asked: Intervention | None) -> None:
    assert judged(guardian(), reading) == [asked]


def test_the_record_says_why_by_whom_and_when() -> None:
    one = guardian()
    judged(one, CALM, CALM)
    record = one.decide(SURPRISE, 1234.5)
    assert record is not None
    assert (record.id, record.kind, record.at, record.step, record.by) == ("nigredo-1", NIGREDO, 1234.5, 3, "guardian")
    assert record.reason == "PE 2.000 is above 1.500"
    assert record.psi == 0.8
    assert list(one.records) == [record]


# ---- thresholds -----------------------------------------------------------------------------------------------------


def test_thresholds_follow_the_history_and_are_never_more_eager_than_the_static_ones() -> None:
    one = guardian(history=100, least_history=50)
    judged(one, *[CALM] * 200)
    assert one.thresholds == (one.status(0.0)).thresholds
    assert (one.thresholds.nigredo_pe, one.thresholds.albedo_h, one.thresholds.albedo_psi) == (1.5, 0.8, 0.5)
    restless = guardian(history=100, least_history=50)
    judged(restless, *[Reading(PE=2.8, H=0.95, Psi=0.1)] * 200)
    assert (restless.thresholds.nigredo_pe, restless.thresholds.albedo_h) == (2.8, 0.95)
    assert restless.thresholds.albedo_psi == 0.25
    assert judged(restless, Reading(PE=2.7)) == [None]


def test_with_little_history_the_static_thresholds_stand_alone() -> None:
    one = guardian(least_history=50)
    judged(one, *[Reading(PE=3.0)] * 49)
    assert one.thresholds.nigredo_pe == 1.5
    judged(one, Reading(PE=3.0))
    assert one.thresholds.nigredo_pe == 3.0


@given(
    st.lists(st.tuples(*[st.floats(0, 5), st.floats(0, 1), st.floats(0, 1)]), max_size=150),
    st.integers(10, 60),
)
def test_no_history_makes_it_more_eager(readings: list[tuple[float, float, float]], size: int) -> None:
    one = guardian(history=size, least_history=10)
    for reading in readings:
        judge(one, Reading(*reading), 0.0)
        limits = one.thresholds
        assert limits.nigredo_pe >= 1.5
        assert limits.albedo_h >= 0.8
        assert limits.albedo_psi <= 0.5
        assert limits.nigredo_pe <= 3.0
        assert limits.albedo_psi >= 0.25


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), st.integers(1, 30), st.floats(0, 100))
def test_a_percentile_is_that_of_the_latest(figures: list[float], size: int, percent: float) -> None:
    history = History(size)
    for figure in figures:
        history.add(figure)
    latest = figures[-size:]
    assert list(history) == latest
    found = history.percentile(percent)
    below = sum(figure <= found for figure in latest) / len(latest)
    assert found in latest
    assert below >= percent / 100 - 1e-9
    assert sum(figure < found for figure in latest) / len(latest) <= percent / 100


# ---- restraint ----------------------------------------------------------------------------------------------------


def test_the_first_readings_only_warm_up() -> None:
    one = guardian(warm_up_steps=3)
    assert judged(one, *[SURPRISE] * 4) == [None, None, None, NIGREDO]
    assert one.statistics().withheld["warm_up"] == 3


def test_after_one_intervention_there_are_none_for_a_while() -> None:
    one = guardian(cooldown_steps=3)
    judged(one, SURPRISE)
    assert one.status(0.0).cooldown_left_steps == 3
    assert judged(one, CALM, DISORDER, CALM, DISORDER) == [None, None, None, ALBEDO]
    assert one.statistics().withheld["cooldown"] == 1


def test_seconds_can_be_asked_of_the_cool_down_too() -> None:
    one = guardian(cooldown_s=60.0)
    assert judge(one, SURPRISE, 1000.0) is NIGREDO
    assert judge(one, CALM, 1001.0) is None
    assert one.status(1030.0).cooldown_left_s == 30.0
    assert judge(one, SURPRISE, 1059.0) is None
    assert judge(one, SURPRISE, 1060.0) is NIGREDO
    judge(one, CALM, 1070.0)
    assert judge(one, SURPRISE, 10.0) is NIGREDO  # the clock was set back: nobody waits for it


def test_one_trouble_is_one_intervention() -> None:
    one = guardian()
    assert judged(one, *[SURPRISE] * 5) == [NIGREDO, None, None, None, None]
    just_below, released = Reading(PE=1.2), Reading(PE=1.0)
    assert judged(one, just_below, SURPRISE) == [None, None]
    assert judged(one, released, SURPRISE) == [None, NIGREDO]
    assert one.statistics().withheld["hysteresis"] == 5
    assert judged(one, *[DISORDER] * 3) == [ALBEDO, None, None]
    assert judged(one, Reading(H=0.78, Psi=0.3), DISORDER) == [None, None]
    assert judged(one, Reading(H=0.74, Psi=0.3), DISORDER) == [None, ALBEDO]
    assert judged(one, Reading(H=0.9, Psi=0.56), DISORDER) == [None, ALBEDO]


def test_what_the_cool_down_kept_back_comes_after_it() -> None:
    one = guardian(cooldown_steps=3)
    judged(one, DISORDER)
    assert judged(one, *[SURPRISE] * 4) == [None, None, None, NIGREDO]


def test_switched_off_it_watches_and_asks_for_nothing() -> None:
    one = guardian(enabled=False)
    assert judged(one, SURPRISE, DISORDER) == [None, None]
    assert one.statistics().withheld["off"] == 2
    assert not one.status(0.0).enabled
    one.enabled = True
    assert judged(one, SURPRISE) == [NIGREDO]


def test_readings_that_nobody_acts_on_belong_to_the_history_only() -> None:
    one = guardian(least_history=10)
    for _ in range(20):
        one.observe(Reading(PE=4.0))
    assert one.thresholds.nigredo_pe == 3.0
    assert one.counts[NIGREDO] == 0
    assert judged(one, Reading(PE=4.0)) == [NIGREDO]


def test_however_long_a_trouble_lasts_the_next_one_is_seen() -> None:
    one = guardian(least_history=10)
    assert judged(one, *[Reading(PE=6.3)] * 200).count(NIGREDO) == 1
    assert judged(one, CALM, Reading(PE=6.3)) == [None, NIGREDO]


# ---- people -------------------------------------------------------------------------------------------------------


def test_a_person_can_trigger_whatever_the_guardian_thinks() -> None:
    one = guardian(enabled=False, warm_up_steps=100, cooldown_steps=100)
    record = one.trigger(ALBEDO, 7.0, "ada")
    assert one.trigger(ALBEDO, 8.0, "ada") is record  # it waits already
    one.trigger(NIGREDO, 8.0, "ada")
    assert one.status(9.0).pending == ["albedo-1", "nigredo-2"]
    assert one.counts == {NIGREDO: 0, ALBEDO: 0}
    handed_out = one.decide(CALM, 10.0)
    assert handed_out is not None
    assert (handed_out.id, handed_out.by, handed_out.reason) == ("albedo-1", "ada", "triggered by ada")
    assert (handed_out.at, handed_out.step, handed_out.psi) == (7.0, 1, 0.8)
    assert judged(one, CALM, CALM) == [NIGREDO, None]
    assert one.statistics().triggered == 2


def test_a_persons_word_goes_first_and_starts_the_cool_down() -> None:
    one = guardian(cooldown_steps=2)
    one.trigger(ALBEDO, 0.0, "ada")
    assert judged(one, SURPRISE, SURPRISE, SURPRISE, SURPRISE) == [ALBEDO, None, None, NIGREDO]


def test_whoever_triggers_may_act_himself() -> None:
    one = guardian(cooldown_steps=2)
    record = one.trigger(NIGREDO, 3.0, "ada", queue=False)
    assert list(one.records) == [record]
    assert judged(one, SURPRISE, SURPRISE, SURPRISE) == [None, None, NIGREDO]


# ---- the record ---------------------------------------------------------------------------------------------------


def test_what_was_changed_is_kept_with_the_intervention() -> None:
    one = guardian()
    judged(one, SURPRISE)
    record = one.applied("nigredo-1", {"agent 3": "1,204 cells -> none"})
    assert record is not None
    assert record.changed == {"agent 3": "1,204 cells -> none"}
    assert list(one.records) == [record]
    assert one.applied("nigredo-9", {}) is None


def test_what_is_told_of_an_intervention_is_bounded() -> None:
    one = guardian()
    judged(one, SURPRISE)
    for round in range(3):
        record = one.applied("nigredo-1", {f"{round} {n}" + "x" * 999: "y" * 9999 for n in range(99)})
    assert record is not None
    assert len(record.changed) == 32
    assert all(len(name) == 300 and len(text) == 300 for name, text in record.changed.items())


def test_the_effect_on_psi_is_noted() -> None:
    one = guardian(effect_steps=3, cooldown_steps=1)
    judge(one, Reading(PE=2.0, Psi=0.2), 0.0)
    judged(one, CALM, CALM)
    assert one.statistics().effects == 0
    judged(one, Reading(Psi=0.6))
    assert (one.records[0].psi, one.records[0].psi_after) == (0.2, 0.6)
    one.trigger(ALBEDO, 0.0, "ada")  # waits until it is handed out: its effect is counted from there
    judged(one, Reading(Psi=0.4), CALM, CALM, Reading(Psi=0.5))
    found = one.statistics()
    assert found.effects == 2
    assert found.psi_before == pytest.approx(0.3)
    assert found.psi_after == pytest.approx(0.55)
    assert found.interventions == {"nigredo": 1, "albedo": 1}
    assert found.steps_per_intervention == 4.0


def test_records_are_bounded_and_totals_are_not() -> None:
    one = guardian(history=100_000, least_history=100_000)
    for _ in range(300):
        judged(one, SURPRISE, CALM)
    assert len(one.records) == 200
    assert one.records[-1].id == "nigredo-300"
    assert one.counts[NIGREDO] == 300


# ---- keeping ------------------------------------------------------------------------------------------------------


def restless(seed: int, count: int) -> list[Reading]:
    rng = random.Random(seed)
    return [Reading(rng.expovariate(1.2), rng.betavariate(4, 2), rng.betavariate(3, 2)) for _ in range(count)]


@pytest.mark.parametrize("cut", [0, 1, 40, 150])
def test_it_goes_on_from_its_state_as_if_it_had_never_stopped(cut: int) -> None:
    how = GuardianSettings(history=60, least_history=20, warm_up_steps=5, cooldown_steps=4)
    readings = restless(3, 300)
    whole, begun = Guardian(how), Guardian(how)
    begun.trigger(ALBEDO, 0.0, "ada")
    whole.trigger(ALBEDO, 0.0, "ada")
    judged(begun, *readings[:cut])
    resumed = Guardian(how)
    resumed.load(begun.state())
    assert judged(whole, *readings)[cut:] == judged(resumed, *readings[cut:])
    assert resumed.records == whole.records
    assert resumed.statistics() == whole.statistics()
    assert resumed.state() == whole.state()
    assert len(whole.records) > 5


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (b"", "not a guardian's state"),
        (b"\x00\xff", "not a guardian's state"),
        (msgspec.msgpack.encode({"version": 1}), "missing required field"),
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(state: bytes, reason: str) -> None:
    one = guardian()
    judged(one, SURPRISE)
    before = one.state()
    with pytest.raises(ValueError, match=reason):
        one.load(state)
    assert one.state() == before


def test_a_state_of_another_version_is_refused() -> None:
    other = msgspec.msgpack.decode(guardian().state())
    other["version"] = 2
    with pytest.raises(ValueError, match="version 2; this amaru reads version 1"):
        guardian().load(msgspec.msgpack.encode(other))
    other.update(version=1, pe=[math.nan])
    with pytest.raises(ValueError, match="no numbers"):
        guardian().load(msgspec.msgpack.encode(other))
