"""Generated incidents: the same from the same seed, in the order of time, and as their labels say."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import msgspec
import pytest
from pattern_samples import BEGINS, MESH, incident

from amaru.health.incident_types import GRADUAL, HARD_SHARE, Trouble, load_at, mesh_of
from amaru.health.incidents import World, troubled_times
from amaru.health.observation import Observation, Verdict, verdict_on
from amaru.health.patterns import PatternKind

ONE = ("p2/mistral",)


def failed(observations: list[Observation]) -> float:
    judged = [verdict_on(one.ok, one.failure) for one in observations]
    counted = [verdict for verdict in judged if verdict in (Verdict.SUCCESS, Verdict.ERROR)]
    return sum(verdict is Verdict.ERROR for verdict in counted) / len(counted)


def test_the_same_seed_gives_the_same_observations_and_another_one_others() -> None:
    first, again, other = (list(World(MESH, (), seed, BEGINS).observations(1200.0)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_observations_come_in_the_order_of_time_and_at_the_rate_asked_for() -> None:
    observations = list(World(MESH, (), 1, BEGINS).observations(3000.0))
    times = [one.at for one in observations]
    assert times == sorted(times)
    assert BEGINS <= times[0] <= times[-1] <= BEGINS + 3000.0
    assert len(times) == pytest.approx(3000.0 * MESH.rate_per_s * len(MESH.traits), rel=0.05)


def test_a_day_has_its_load() -> None:
    mesh = mesh_of()
    loads = [load_at(mesh, BEGINS + 900.0 * i) for i in range(96)]
    assert sum(loads) / len(loads) == pytest.approx(1.0, abs=0.02)
    assert max(loads) / min(loads) > 5.0


def test_calm_is_not_without_failures_and_throttling() -> None:
    mesh = msgspec.structs.replace(mesh_of(), rate_per_s=0.2)
    failures = Counter(one.failure for one in World(mesh, (), 1, BEGINS).observations(86_400.0))
    assert len(failures) >= 8
    assert failures[None] / failures.total() > 0.9


@pytest.mark.parametrize("trouble", [*GRADUAL, Trouble.OUTAGE, Trouble.MALFORMED])
def test_a_hard_failure_is_when_at_least_half_of_the_attempts_fail(trouble: Trouble) -> None:
    what = incident(trouble, ONE, ramp_s=0.0 if trouble in (Trouble.OUTAGE, Trouble.MALFORMED) else 300.0)
    what = msgspec.structs.replace(what, strength=5.0) if trouble is Trouble.SLOWING else what
    world = World(MESH, (what,), 1, BEGINS)
    assert world.hard("p2/llama-3") == []
    ((begins, ends),) = world.hard(ONE[0])
    mine = [one for one in world.observations(2400.0) if one.offer == ONE[0]]
    assert failed([one for one in mine if begins <= one.at < ends]) > HARD_SHARE
    assert failed([one for one in mine if begins - 300.0 <= one.at < begins]) < HARD_SHARE
    assert failed([one for one in mine if one.at >= ends]) < 0.1


def test_slowing_slows_by_its_factor() -> None:
    what = incident(Trouble.SLOWING, ONE, ramp_s=600.0, strength=6.0)
    mine = [one for one in World(MESH, (what,), 1, BEGINS).observations(1500.0) if one.offer == ONE[0] and one.ok]

    def level(begins: float, ends: float) -> float:
        times = [math.log(one.latency_ms) for one in mine if begins <= one.at - BEGINS < ends]
        return sum(times) / len(times)

    assert math.exp(level(1400.0, 1500.0) - level(0.0, 900.0)) == pytest.approx(5.2, rel=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_troubled_times_hold_every_trouble_and_leave_calm_between(seed: int) -> None:
    mesh = mesh_of()
    incidents = troubled_times(mesh, seed, 24.0)
    assert {one.trouble for one in incidents} == set(Trouble)
    assert {one.kind for one in incidents} == {PatternKind.DEGRADATION, PatternKind.API_CHANGE, PatternKind.RESONANCE}
    for one in incidents:
        assert BEGINS + 3600.0 <= one.begins <= one.full_at < one.ends <= BEGINS + 86_400.0
        assert one.hard_at is None or one.begins <= one.hard_at <= one.full_at
        if one.trait is not None:
            assert len(one.providers) >= 2
            assert set(one.offers) == {traits.offer for traits in mesh.traits if one.trait in traits.shared()}
    ends = sorted((one.begins, one.ends) for one in incidents if one.trouble is not Trouble.OUTAGE)
    assert all(later[0] - earlier[1] >= 600.0 for earlier, later in pairwise(ends))
