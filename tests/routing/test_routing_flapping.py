"""Offers that fall and come back under steady traffic, on a simulated clock: hardly asked while down, soon used again.

Requests overlap as in life, and each is tried as the mesh tries it: a row whose probe is due goes first, a server error
is asked once more, a wait is as long as the board's limits say while another offer could take over.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

import pytest
from routing_samples import board, chat, decide, failure, offer

from amaru.domain import FailureKind, Price
from amaru.routing.board import Board
from amaru.routing.reactions import Again, reaction_to

CONFIGURED_S = 30.0
REQUESTS_PER_S = 5.0
USUAL_S = 0.3

Down = Callable[[float], bool]


class World:
    """Some offers of one resource, of which the first may be down."""

    def __init__(
        self, on: Board, down: Down, kind: FailureKind, slow: Callable[[float], float] = lambda now: 1.0
    ) -> None:
        self.board = on
        self.asked: list[tuple[float, int, bool]] = []
        """Instant, row and whether it answered, of every attempt."""
        self.took_s: list[tuple[float, float]] = []
        """Arrival and duration of every request that was answered."""
        self.gave_up = 0
        self._down = down
        self._kind = kind
        self._slow = slow
        self._rng = random.Random(7)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def run(self, until: float) -> None:
        for request in range(int(until * REQUESTS_PER_S)):
            at = request / REQUESTS_PER_S
            self._at(at, lambda at=at: self._try(at, at, set(), set()))  # type: ignore[misc]  # a lambda's default
        while self._events:
            _, _, event = heapq.heappop(self._events)
            event()

    def _at(self, instant: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (instant, next(self._count), event))

    def _try(self, arrived: float, now: float, excluded: set[int], retried: set[int]) -> None:
        candidates = [row for row in decide(self.board, chat(), now=now).order if row not in excluded]
        candidates.sort(key=lambda row: not self.board.probe_due(row, now))
        for row in candidates:
            admission = self.board.admit(row, 1_000.0, now)
            if admission is not None:
                break
        else:
            self.gave_up += 1
            return
        limit_s = CONFIGURED_S if len(candidates) == 1 else self.board.limits_s(row, 600, now)[0]
        is_down = row == 0 and self._down(now)
        takes_s = USUAL_S * math.exp(self._rng.gauss(0.0, 0.1)) * self._slow(now)
        if is_down:
            takes_s = math.inf if self._kind is FailureKind.NO_ANSWER else 0.005
        waited_s = min(takes_s, limit_s)
        self.asked.append((now, row, not is_down and takes_s <= limit_s))

        def end() -> None:
            then = now + waited_s
            if is_down or takes_s > limit_s:
                problem = failure(FailureKind.NO_ANSWER if takes_s > limit_s else self._kind)
                self.board.observe(admission, then, problem, None, waited_s * 1e3, True, input_tokens=600)
                once_more = reaction_to(problem).again is Again.ONCE and row not in retried
                self.board.release(admission)
                left, again = (excluded, retried | {row}) if once_more else (excluded | {row}, retried)
                self._try(arrived, then, left, again)
            else:
                first_ms = takes_s * 1e3
                self.board.observe(admission, then, None, first_ms, first_ms, True, input_tokens=600)
                self.board.release(admission)
                self.took_s.append((arrived, then - arrived))

        self._at(now + waited_s, end)

    def asked_while(self, down: Down) -> int:
        return sum(row == 0 and down(now) for now, row, _ in self.asked)

    def first_used_after(self, instant: float) -> float:
        """From when on the first offer answers the greater part of ten requests in a row again."""
        answers = [(now, row) for now, row, ok in self.asked if ok and now >= instant]
        for place in range(len(answers) - 10):
            if sum(row == 0 for _, row in answers[place : place + 10]) > 5:
                return answers[place][0]
        return math.inf


def offers(advantage: float) -> Board:
    """Three offers; the first is cheaper by ``advantage``."""
    usd = {"a": 1.0 - advantage, "b": 1.0, "c": 1.0}
    return board(*(offer(name, price=Price(it, None, it), latency_ms=USUAL_S * 1e3) for name, it in usd.items()))


def down_for_a_minute(now: float) -> bool:
    return 60.0 <= now < 120.0


@pytest.mark.parametrize("advantage", [0.1, 0.3, 0.6])
@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (FailureKind.SERVER_ERROR, 12),
        (FailureKind.CONNECT, 12),
        # Those that came before the first wait was over hang too: 5 a second for 2 s.
        (FailureKind.NO_ANSWER, 12 + 12),
    ],
)
def test_a_fallen_offer_is_hardly_asked_and_soon_used_again(kind: FailureKind, most: int, advantage: float) -> None:
    world = World(offers(advantage), down_for_a_minute, kind)
    world.run(240.0)
    assert world.gave_up == 0
    assert world.first_used_after(0.0) < 10.0
    assert 5 <= world.asked_while(down_for_a_minute) <= most
    assert 120.0 <= world.first_used_after(120.0) <= 150.0
    assert len(world.took_s) == 240 * REQUESTS_PER_S
    assert max(took_s for arrived, took_s in world.took_s if arrived > 120.0 + CONFIGURED_S) < 5.0


@pytest.mark.parametrize("kind", [FailureKind.SERVER_ERROR, FailureKind.NO_ANSWER])
def test_an_offer_that_falls_again_and_again_costs_little_each_time(kind: FailureKind) -> None:
    def down(now: float) -> bool:
        return now % 60.0 >= 30.0

    world = World(offers(0.3), down, kind)
    world.run(600.0)
    assert world.gave_up == 0
    assert world.asked_while(down) / 10 <= 20
    assert sum(row == 0 and ok for _, row, ok in world.asked) > 600.0 * REQUESTS_PER_S * 0.15


def test_an_offer_that_fails_half_the_time_is_mostly_left_alone() -> None:
    rng = random.Random(2)
    world = World(offers(0.3), lambda now: rng.random() < 0.5, FailureKind.SERVER_ERROR)
    world.run(300.0)
    failed = sum(row == 0 and not ok for _, row, ok in world.asked)
    assert failed < 0.1 * 300.0 * REQUESTS_PER_S


@pytest.mark.parametrize(("slower", "settled_s"), [(10.0, 30.0), (30.0, 240.0)])
def test_a_world_that_slows_down_at_once_opens_its_limits_and_shuts_nobody_out(slower: float, settled_s: float) -> None:
    start_s = 60.0
    world = World(
        offers(0.05), lambda now: False, FailureKind.NO_ANSWER, slow=lambda now: slower if now >= start_s else 1.0
    )
    world.run(start_s + settled_s + 120.0)
    assert world.gave_up <= 3  # each offer was either tried or being probed; the mesh would wait for the probe
    cut_off = [now for now, _, ok in world.asked if not ok]
    assert cut_off  # else the world did not slow down enough to tell anything
    assert max(cut_off) < start_s + settled_s
    end_s = start_s + settled_s + 120.0
    assert {row for now, row, ok in world.asked if ok and now > end_s - 100.0} == {0, 1, 2}
    assert all(world.board.health(row, end_s).state == "closed" for row in range(3))
    assert all(world.board.limits_s(row, 600, end_s)[0] > 1.5 * slower * USUAL_S for row in range(3))
