"""Live state in shared memory: the same as each worker's own would be, and one for all of them."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_samples import offer

from amaru.domain import FailureKind, Offer
from amaru.errors import Failure
from amaru.routing import kernels as k
from amaru.routing import shared as s
from amaru.routing.board import Board
from amaru.routing.breaker import Breaker, BreakerSettings
from amaru.routing.retries import RetryBudget
from amaru.routing.shared import Memory
from amaru.routing.shared_live import SharedBreaker, SharedRetryBudget, SharedSlab
from amaru.routing.steering import Steering

SETTINGS = BreakerSettings(consecutive_failures=3, jitter=0.0)
DOWN = Failure(FailureKind.SERVER_ERROR, "down")


def memories(workers: int = 2) -> list[Memory]:
    """The memory as each worker has it."""
    made = Memory.create(workers)
    return [Memory(os.dup(made.file), workers, worker) for worker in range(workers)]


def boards(*offers: Offer, workers: int = 2) -> list[Board]:
    return [
        Board(offers, {}, breaker=SETTINGS, slab=SharedSlab(memory), rng=random.Random(1))
        for memory in memories(workers)
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from(("admit", "ok", "failed", "broken", "forget", "reset")), st.floats(0.0, 20.0)),
        max_size=60,
    )
)
def test_a_shared_breaker_does_what_a_breaker_does(steps: list[tuple[str, float]]) -> None:
    memory = memories(1)[0]
    slot = memory.take_slot("a")
    plain = Breaker(SETTINGS, random.Random(2))
    shared = SharedBreaker(memory, slot, SETTINGS, random.Random(2))
    now, ticket = 0.0, 0
    for step, later_s in steps:
        now += later_s
        found = []
        for breaker in (plain, shared):
            if step == "admit":
                found.append(breaker.admit(now))
            elif step == "forget":
                found.append(breaker.forget(ticket))
            elif step == "reset":
                found.append(breaker.reset())
            else:
                found.append(breaker.record(ticket, now, ok=step == "ok", broken=step == "broken"))
        assert found[0] == found[1]
        if step == "admit" and found[0] is not None:
            ticket = found[0]
        for name in ("state", "until", "due_at", "broken", "generation", "refuses_until", "on_trial"):
            assert getattr(plain, name) == getattr(shared, name), name


def test_failures_seen_by_different_workers_open_one_breaker() -> None:
    one, other = boards(offer("a"))
    for board in (one, other, one):
        admission = board.admit(0, 1.0, 10.0)
        assert admission is not None
        board.observe(admission, 10.0, DOWN)
        board.release(admission)
    assert one.kept_away(0)
    assert other.kept_away(0)
    assert other.admit(0, 1.0, 10.1) is None
    assert other.live[int(other.static[0, k.SLOT]), k.REFUSES_UNTIL] > 10.0  # what the kernel sees


def test_one_worker_alone_sends_the_probe_and_its_success_lets_all_in() -> None:
    one, other = boards(offer("a"))
    for _ in range(3):
        one.observe(0, 10.0, DOWN)
    probe = other.admit(0, 1.0, 40.0)
    assert probe is not None
    assert one.admit(0, 1.0, 40.0) is None
    other.observe(probe, 41.0, None, 100.0)
    other.release(probe)
    assert one.health(0, 41.0).state == "closed"
    assert one.recoveries(0) == 1
    assert one.admit(0, 1.0, 41.0) is not None


def test_the_probe_of_a_worker_that_died_is_given_up() -> None:
    memory = Memory.create(2)
    one, other = (Board([offer("a")], {}, breaker=SETTINGS, slab=SharedSlab(Memory(os.dup(memory.file), 2, worker)))
                  for worker in range(2))  # fmt: skip
    for _ in range(3):
        one.observe(0, 10.0, DOWN)
    assert other.admit(0, 1.0, 40.0) is not None
    assert one.admit(0, 1.0, 40.0) is None
    memory.bury(1)
    assert one.admit(0, 1.0, 40.0) is not None


def test_places_are_counted_over_all_workers_and_come_back_from_the_dead() -> None:
    memory = Memory.create(2)
    one, other = (Board([offer("a", capacity=2.0)], {}, slab=SharedSlab(Memory(os.dup(memory.file), 2, worker)))
                  for worker in range(2))  # fmt: skip
    mine, theirs = one.admit(0, 1.0, 0.0), other.admit(0, 1.0, 0.0)
    assert mine is not None
    assert theirs is not None
    assert one.in_flight(0) == 2.0
    assert one.admit(0, 1.0, 0.0) is None
    one.release(mine)
    assert other.in_flight(0) == 1.0
    memory.bury(1)
    assert one.in_flight(0) == 0.0


def test_a_throttle_a_rate_limit_and_a_drain_hold_in_every_worker() -> None:
    one, other = boards(offer("a"), offer("b", requests_per_min=1.0), offer("c"))
    told = one.admit(0, 1.0, 10.0)
    assert told is not None
    one.observe(told, 10.0, Failure(FailureKind.RATE_LIMITED, "slow down", retry_after_s=5.0))
    assert other.admit(0, 1.0, 11.0) is None
    assert one.admit(1, 1.0, 10.0) is not None
    assert other.admit(1, 1.0, 11.0) is None
    one.steer(2, Steering(drained=True))
    assert other.live[int(other.static[2, k.SLOT]), k.DRAINED_FROM] == 0.0


def test_who_waits_in_one_worker_wakes_when_a_place_becomes_free_in_another() -> None:
    one, other = boards(offer("a", capacity=1.0))
    taken = one.admit(0, 1.0, 0.0)
    assert taken is not None
    slab, woken = other.slab, []
    other.changed.add(lambda: woken.append(1))
    assert isinstance(slab, SharedSlab)
    slab.follow()
    assert not woken
    one.release(taken)
    slab.follow()
    assert woken == [1]


def test_a_slot_is_free_when_no_worker_knows_its_offer() -> None:
    one, other = boards(offer("a"))
    slot = int(one.static[0, k.SLOT])
    assert int(other.static[0, k.SLOT]) == slot
    one.observe(0, 1.0, DOWN)
    memory = one.slab.memory  # type: ignore[attr-defined]  # it is a SharedSlab
    del one
    gc.collect()
    assert memory.users[slot].sum() == 1.0
    del other
    gc.collect()
    assert memory.users[slot].sum() == 0.0
    assert memory.take_slot("another") == slot
    assert memory.live[slot].tolist() == k.BLANK.tolist()
    assert memory.state[slot, s.CONSECUTIVE] == 0.0


def test_more_offers_than_slots_are_refused_in_words() -> None:
    memory = memories(1)[0]
    memory.users[:] = 1.0
    with pytest.raises(ValueError, match=f"can know {s.SLOTS} offers"):
        memory.take_slot("one too many")


def test_one_retry_budget_holds_for_all_workers() -> None:
    shared = [SharedRetryBudget(memory, 0.2, min_per_s=1.0) for memory in memories()]
    plain = RetryBudget(0.2, min_per_s=1.0)
    for number in range(100):
        shared[number % 2].request(100.0)
        plain.request(100.0)
    allowed = [sum(budget.try_retry(100.5) for _ in range(30)) for budget in (*shared, plain)]
    assert allowed[0] + allowed[1] == allowed[2]
    assert 0 < allowed[2] < 60


def test_of_two_processes_that_try_at_once_one_sends_each_probe() -> None:
    memory = Memory.create(2)
    memory.take_slot("a")
    memory.state[0, s.STATE] = s.OPEN
    script = (
        "import random, sys\n"
        "from amaru.routing.breaker import BreakerSettings\n"
        "from amaru.routing.shared import Memory\n"
        "from amaru.routing.shared_live import SharedBreaker\n"
        "settings = BreakerSettings(cool_down_s=1.0, max_cool_down_s=1.0, jitter=0.0)\n"
        "breaker = SharedBreaker(Memory(int(sys.argv[1]), 2, int(sys.argv[2])), 0, settings, random.Random(1))\n"
        "probes = 0\n"
        "while breaker.generation < 2000:\n"
        "    ticket = breaker.admit(2.0 * breaker.generation)\n"
        "    if ticket is not None:\n"
        "        probes += 1\n"
        "        breaker.record(ticket, 2.0 * ticket, ok=False)\n"
        "print(probes)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(memory.file), str(worker)],
            pass_fds=(memory.file,), stdout=subprocess.PIPE, text=True,
        )
        for worker in range(2)
    ]  # fmt: skip
    probes = [int(process.communicate(timeout=300)[0]) for process in running]
    assert sum(probes) == memory.state[0, s.GENERATION]
