"""What policies learn on several machines over one Redis: any split of it comes to the whole, to 1e-9."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharing_world import Machine, OwnRedis, machine, own_redis, prefix, provided, redis_url, until

from amaru.domain import Experience, FailureKind, Kind, Workload
from amaru.mesh import sharing as module
from amaru.routing.evidence import arrays_of
from amaru.routing.kernels import PREDICTED_SUCCESS
from amaru.routing.learned import BeliefPolicy
from amaru.routing.policies import make_policy

__all__ = ["own_redis", "prefix", "redis_url"]
pytestmark = pytest.mark.timeout(600)

WORKLOAD = Workload(tenant="t", kind=Kind.CHAT, resource="sim", input_tokens=100, output_tokens=10)
Lesson = tuple[int, Experience]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXCHANGE_S", 0.2)


def served(at: float, latency_ms: float = 200.0) -> Experience:
    return Experience(at=at, ok=True, latency_ms=latency_ms)


def failed(at: float) -> Experience:
    return Experience(at=at, ok=False, failure=FailureKind.SERVER_ERROR)


def some(count: int, seed: int) -> list[Lesson]:
    rng, began = random.Random(seed), time.time() - 400.0
    return [
        (rng.randrange(2), served(began + i, rng.uniform(50.0, 900.0)) if rng.random() < 0.8 else failed(began + i))
        for i in range(count)
    ]


def teach(of: Machine, lessons: Sequence[Lesson]) -> None:
    for row, told in lessons:
        of.mesh.learner.learn(WORKLOAD, of.mesh.plan.board.offers[row], told)


def whole(of: Machine, lessons: Sequence[Lesson]) -> BeliefPolicy:
    policy = make_policy("thompson")
    assert isinstance(policy, BeliefPolicy)
    for row, told in lessons:
        policy.learn(WORKLOAD, of.mesh.plan.board.offers[row], told)
    return policy


def believed(of: BeliefPolicy) -> tuple[list[str], Any, Any]:
    """What it goes by, own and others' together: keys, instants and sums."""
    mind = of.mind
    slots = sorted((key, slot) for key, slot in (mind.slot_of or {}).items() if mind.sums[slot].any())
    return [key for key, _ in slots], mind.beliefs[[slot for _, slot in slots], 0], mind.sums[[s for _, s in slots]]


def assert_same(got: BeliefPolicy, expected: BeliefPolicy) -> None:
    keys, at, sums = believed(got)
    right_keys, right_at, right_sums = believed(expected)
    assert keys == right_keys
    np.testing.assert_array_equal(at, right_at)
    np.testing.assert_allclose(sums, right_sums, rtol=1e-9, atol=1e-12)


def heard(of: Machine) -> int:
    """Outcomes of others that it goes by."""
    return sum(one.outcomes for one in of.policy.others)


async def test_what_three_machines_saw_comes_to_what_one_would_believe_that_saw_it_all(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    log = some(300, seed=1)
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson") as one,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson") as two,
        machine(tmp_path / "three", providers, redis_url, prefix, policy="thompson") as three,
    ):
        machines = (one, two, three)
        parts: list[list[Lesson]] = [[], [], []]
        for number, lesson in enumerate(log):
            parts[number * 7 % 3].append(lesson)
        for half in (0, 1):  # what is told again takes the place of what was told before
            for each, part in zip(machines, parts, strict=True):
                teach(each, part[: len(part) // 2] if half == 0 else part[len(part) // 2 :])
            told = sum(len(part) // 2 for part in parts) if half == 0 else len(log)
            for each in machines:
                await until(lambda each=each, told=told: heard(each) + each.policy.outcomes == told)
        for each in machines:
            assert_same(each.policy, whole(each, log))


async def test_what_one_learned_is_in_the_others_ranking(tmp_path: Path, redis_url: str, prefix: str) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson") as one,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson") as two,
    ):
        offers = [offer.id for offer in two.mesh.plan.board.offers]

        def expected_of(offer: str) -> float:
            ranking = two.mesh.plan.router.decide(WORKLOAD, two.clock())
            row = ranking.rows.tolist().index(two.mesh.plan.board.row_of[offer])
            return float(ranking.table[row, PREDICTED_SUCCESS])

        before = expected_of(offers[0])
        now = time.time()
        teach(one, [(0, failed(now - 60.0 + i * 0.1)) for i in range(200)] + [(1, served(now - 40.0))])
        await until(lambda: heard(two) == 201)
        assert expected_of(offers[0]) < before - 0.2
        assert two.policy.outcomes == 0  # it saw nothing itself


async def test_machines_whose_clocks_are_apart_do_not_make_each_others_outcomes_fade(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    def ahead() -> float:
        return time.time() + 86_400.0

    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson", wall=ahead) as one,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson") as two,
    ):
        now = time.time()
        teach(one, [(0, served(now + 86_400.0 - 10.0))] * 10)
        teach(two, [(0, served(now - 10.0))] * 10)
        await until(lambda: heard(one) == heard(two) == 10)
        for each, right in ((one, now + 86_400.0), (two, now)):
            _, at, sums = believed(each.policy)
            assert np.abs(at - (right - 10.0)).max() <= 2.0  # clocks are told apart by whole seconds
            np.testing.assert_allclose(sums[:, 1, 0], 20.0, rtol=1e-3)  # tries, by the slow forgetting


async def test_what_was_learned_before_sharing_is_told_and_a_restart_goes_on_under_the_same_origin(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    log = some(40, seed=2)
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson") as two,
    ):
        async with machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson", shares=False) as one:
            teach(one, log[:20])
            one.sharing.start()
            await until(lambda: heard(two) == 20)
            state = one.mesh.learner.used.snapshot(0.0).state
        async with machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson", shares=False) as one:
            one.policy.restore(state)
            one.sharing.start()
            teach(one, log[20:])
            await until(lambda: heard(two) == 40)
        assert len(two.policy.others) == 1
        assert_same(two.policy, whole(two, log))


async def test_what_came_with_an_artifact_is_nobodys_own(tmp_path: Path, redis_url: str, prefix: str) -> None:
    log = some(40, seed=3)
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson", shares=False) as one,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson", shares=False) as two,
    ):
        for each in (one, two):
            each.policy.restore(whole(each, log[:20]).state())
            each.mesh.learner.used.artifact = "v1/abc"
            each.sharing.start()
            await until(lambda each=each: "/" in each.policy.origin)
        teach(one, log[20:])
        await until(lambda: heard(two) == 20 + 20)
        assert_same(two.policy, whole(two, log))
        assert_same(one.policy, whole(one, log))


async def test_two_machines_that_began_from_one_copy_part(tmp_path: Path, redis_url: str, prefix: str) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson", shares=False) as one,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson", shares=False) as two,
    ):
        teach(one, some(20, seed=4))
        one.policy.begin_as("copied/0123456789abcdef", 1.0, anew=False)
        two.policy.restore(one.policy.state())
        one.sharing.start()
        two.sharing.start()
        now = time.time()
        async with asyncio.timeout(60.0):
            while one.policy.origin == two.policy.origin:
                teach(one, [(0, served(now))])
                teach(two, [(0, served(now))])
                await asyncio.sleep(0.01)


async def test_learning_that_fades_otherwise_is_not_mixed_in(tmp_path: Path, redis_url: str, prefix: str) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson") as one,
        machine(
            tmp_path / "two", providers, redis_url, prefix, policy="thompson", policy_settings={"slow_s": 9999.0}
        ) as two,
        machine(tmp_path / "three", providers, redis_url, prefix, policy="qlearning") as three,
    ):
        teach(one, some(20, seed=5))
        await until(lambda: two.sharing.learning.unlike > 0)
        assert two.policy.others == []
        assert (one.sharing.learning.origins, three.sharing.learning.origins) == (1, 0)


async def test_what_redis_forgot_is_told_again(tmp_path: Path, own_redis: OwnRedis) -> None:
    log = some(20, seed=6)
    own_redis.start()
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, own_redis.url, policy="thompson") as one,
    ):
        teach(one, log)
        await until(lambda: one.sharing.learning.told)
        own_redis.stop()
        await until(lambda: not one.sharing.up)
        own_redis.start()
        async with machine(tmp_path / "two", providers, own_redis.url, policy="thompson") as two:
            await until(lambda: heard(two) == 20)
            assert_same(two.policy, whole(two, log))


async def test_outcomes_from_the_future_are_junk(tmp_path: Path, redis_url: str, prefix: str) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, policy="thompson") as one,
        machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson") as two,
    ):
        teach(two, some(20, seed=7))
        teach(one, [(0, served(time.time() + 1e6))])
        await until(lambda: two.sharing.learning.junk > 0)
        _, at, _ = believed(two.policy)
        assert at.max() <= time.time()
        assert two.policy.others == []
        assert arrays_of(two.policy.evidence().slots.values())[0].max() <= time.time()
