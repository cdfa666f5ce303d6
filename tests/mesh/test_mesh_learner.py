"""Learning while serving: nothing lost, nothing in the way, copies that are whole and not too many."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import msgspec
import pytest
from learning_policy import GOOD, OFFER, WORKLOAD, Counting, Kept

from amaru.mesh import learner as module
from amaru.mesh.learner import SLOW_S, SNAPSHOT_EVERY_S, Learner, Used
from amaru.storage import DecisionStore


def make_learner(policy: Counting, kept: Kept, *, took_s: float = 0.0) -> Learner:
    """One whose copies seem to take ``took_s``."""
    ticks = iter(range(10_000))
    return Learner(Used(policy), cast(DecisionStore, kept), wall=lambda: 100.0, timer=lambda: next(ticks) % 2 * took_s)


def told(kept: Kept) -> list[dict[str, int]]:
    return [msgspec.json.decode(state.state, type=dict[str, int]) for state in kept.states]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_first_outcome_is_kept_at_once_and_the_next_half_a_second_later() -> None:
    policy, kept = Counting(), Kept()
    learner = make_learner(policy, kept)
    started = asyncio.get_running_loop().time()
    learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()
    assert told(kept) == [{"a/m True": 1}]
    for _ in range(1000):
        learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()
    assert len(kept.states) == 1
    async with asyncio.timeout(60.0):
        while len(kept.states) < 2:  # noqa: ASYNC110 - a timer of the loop, which has no event to wait for
            await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() - started >= SNAPSHOT_EVERY_S
    assert told(kept)[1] == {"a/m True": 1001}
    assert (kept.states[1].outcomes, kept.states[1].policy, kept.states[1].at) == (1001, "counting", 100.0)
    await learner.aclose()
    assert len(kept.states) == 2


async def test_what_was_learned_last_is_kept_at_the_end() -> None:
    policy, kept = Counting(), Kept()
    learner = make_learner(policy, kept)
    learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()
    learner.learn(WORKLOAD, OFFER, GOOD)
    await learner.aclose()
    assert told(kept) == [{"a/m True": 1}, {"a/m True": 2}]


async def test_what_says_nothing_of_the_offer_is_not_learned() -> None:
    policy, kept = Counting(), Kept()
    learner = make_learner(policy, kept)
    learner.learn(WORKLOAD, OFFER, msgspec.structs.replace(GOOD, ok=False, blame=False))
    await learner.aclose()
    assert (policy.seen, learner.outcomes, kept.states) == ({}, 0, [])


async def test_a_slow_copy_is_made_beside_the_loop_and_is_of_one_instant() -> None:
    policy, kept = Counting(), Kept()
    learner = make_learner(policy, kept, took_s=2 * SLOW_S)
    learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()  # this one showed that it is slow
    policy.gate = threading.Event()
    learner.learn(WORKLOAD, OFFER, GOOD)
    async with asyncio.timeout(60.0):
        while learner._beside is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    learner.learn(WORKLOAD, OFFER, GOOD)  # the loop goes on, and what comes now waits for the copy
    assert policy.seen == {"a/m True": 2}
    policy.gate.set()
    await learner.aclose()
    assert policy.seen == {"a/m True": 3}
    assert told(kept) == [{"a/m True": 1}, {"a/m True": 2}, {"a/m True": 3}]
    assert [state.outcomes for state in kept.states] == [1, 2, 3]


async def test_a_policy_that_fails_takes_nothing_with_it() -> None:
    policy, kept = Counting(), Kept()
    learner = make_learner(policy, kept)
    policy.broken = "a bug"
    learner.learn(WORKLOAD, OFFER, GOOD)
    learner.learn(WORKLOAD, OFFER, GOOD)
    assert (learner.outcomes, learner.lost) == (0, 2)
    policy.broken = ""
    learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()
    assert told(kept) == [{"a/m True": 1}]
    await learner.aclose()


async def test_a_copy_that_fails_is_said_once_and_made_again_at_the_latest_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, kept = Counting(), Kept()
    learner = make_learner(policy, kept)
    monkeypatch.setattr(module, "MAX_STATE_BYTES", 4)
    learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()
    learner.save()
    assert kept.states == []
    assert learner.view()["snapshot_failure"] == "the state has 14 bytes; at most 4 are kept"
    assert caplog.text.count("policy_not_saved") == 1
    monkeypatch.setattr(module, "MAX_STATE_BYTES", 100)
    await learner.aclose()
    assert told(kept) == [{"a/m True": 1}]
    assert learner.view()["snapshot_failure"] is None


async def test_a_change_of_policy_keeps_what_the_one_before_learned() -> None:
    first, second, kept = Counting("first"), Counting("second"), Kept()
    learner = make_learner(first, kept)
    learner.learn(WORKLOAD, OFFER, GOOD)
    learner.use(Used(second, artifact="v2/abc"))
    learner.learn(WORKLOAD, OFFER, GOOD)
    learner.learn(WORKLOAD, OFFER, GOOD)
    await learner.aclose()
    assert [(state.policy, state.outcomes, state.artifact) for state in kept.states] == [
        ("first", 1, ""),
        ("second", 2, "v2/abc"),
    ]


@pytest.mark.parametrize("name", ["counting", "another"])
async def test_a_change_of_policy_during_a_slow_copy_loses_nothing(name: str) -> None:
    first, second, kept = Counting(), Counting(name), Kept()
    learner = make_learner(first, kept, took_s=2 * SLOW_S)
    learner.learn(WORKLOAD, OFFER, GOOD)
    await turns()
    first.gate = threading.Event()
    learner.learn(WORKLOAD, OFFER, GOOD)
    async with asyncio.timeout(60.0):
        while learner._beside is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    second.seen["a/m True"] = 2  # as a reload carries it on, or as it is known from before
    learner.use(Used(second, outcomes=2))
    first.gate.set()
    await learner.aclose()
    assert [(state.policy, state.outcomes) for state in kept.states] == [("counting", 1), ("counting", 2)]
    assert told(kept)[-1] == {"a/m True": 2}
