"""Slots and back-off: algebra."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.ledger.anchoring_pace import INTERVALS_S, PHI, TRIES, Cadence
from amaru.ledger.troubles import Trouble

instants = st.floats(0, 4e9)
cadences = st.builds(lambda interval: Cadence.of("some", interval), st.integers(1, 10_000_000))


@given(cadences, instants)
def test_an_instant_lies_in_its_slot_and_slots_do_not_overlap(cadence: Cadence, now: float) -> None:
    slot = cadence.slot(now)
    assert slot <= now < slot + cadence.interval_s
    assert slot % cadence.interval_s == 0
    assert cadence.slot(slot) == cadence.slot(slot + cadence.interval_s - 1) == slot


@given(cadences, instants)
def test_a_slot_is_due_once_and_the_next_one_when_it_begins(cadence: Cadence, now: float) -> None:
    slot = cadence.due(None, now)
    assert slot == cadence.slot(now)
    assert cadence.due(slot, now) is None
    following = cadence.next_s(slot, now)
    assert following == slot + cadence.interval_s > now
    assert cadence.due(slot, math.nextafter(following, 0)) is None
    assert cadence.due(slot, following) == slot + cadence.interval_s
    assert cadence.next_s(slot, following) == following


@given(cadences, st.lists(instants, min_size=1, max_size=40).map(sorted))
def test_whoever_looks_at_any_time_takes_each_slot_at_most_once_and_the_present_one_always(
    cadence: Cadence, looks: list[float]
) -> None:
    settled: int | None = None
    taken = []
    for now in looks:
        slot = cadence.due(settled, now)
        if slot is not None:
            taken.append(slot)
            settled = slot
        assert settled == cadence.slot(now)  # nothing is left undone
    assert taken == sorted(set(taken))


@given(cadences, cadences, instants)
def test_another_interval_leaves_no_slot_out_for_longer_than_itself(old: Cadence, new: Cadence, now: float) -> None:
    settled = old.slot(now)
    assert new.next_s(settled, now) <= now + new.interval_s


@given(cadences, instants, st.integers(0, 100_000_000))
def test_a_clock_set_back_doubles_no_slot_and_a_wrong_one_does_not_silence(
    cadence: Cadence, now: float, back_s: int
) -> None:
    settled = cadence.slot(now)
    earlier = max(0.0, now - back_s)
    due = cadence.due(settled, earlier)
    if settled <= earlier + cadence.interval_s:
        assert due is None
        assert cadence.next_s(settled, earlier) <= earlier + 2 * cadence.interval_s
    else:
        assert due == cadence.slot(earlier)


@given(st.floats(0.001, 1e5), st.integers(1, TRIES - 1), st.sampled_from(Trouble))
def test_waits_grow_by_the_golden_ratio(base_s: float, tries: int, trouble: Trouble) -> None:
    cadence = Cadence.of("some", 60, base_s)
    wait = cadence.backoff_s(tries, trouble)
    assert cadence.backoff_s(tries + 1, trouble) == pytest.approx(wait * PHI)
    assert wait == pytest.approx({"network": 1.0, "authentication": 2.0, "validation": 0.5}[trouble.value]
                                 * base_s * 1.618033988749895 ** (tries - 1))  # fmt: skip
    assert wait <= cadence.longest_wait_s


@pytest.mark.parametrize(("name", "seconds"), [("fast", 90), ("strong", 3600), ("cold", 86_400)])
def test_seven_tries_fit_into_an_interval_whatever_the_trouble(name: str, seconds: int) -> None:
    cadence = Cadence.of(name, INTERVALS_S[name])
    assert cadence.interval_s == seconds
    waited = {trouble: sum(cadence.backoff_s(tries, trouble) for tries in range(1, TRIES)) for trouble in Trouble}
    assert 0.9 * seconds < max(waited.values()) < seconds
