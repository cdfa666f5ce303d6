"""Others who are told of attempts: all of them in order, beside the loop, and in nobody's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from amaru.health.observation import Observation
from amaru.mesh import onlookers
from amaru.mesh.onlookers import Onlookers

Losses = list[tuple[int, Exception | None]]


def seen(number: int) -> Observation:
    return Observation(offer="a/sim", provider="a", at=float(number), ok=True)


def onlookers_of(*observers: Callable[[Observation], None]) -> tuple[Onlookers, Losses]:
    losses: Losses = []
    made = Onlookers(lambda count, error: losses.append((count, error)))
    made.observers += observers
    return made, losses


async def test_each_is_told_everything_in_order_beside_the_loop() -> None:
    told: list[tuple[str, float, threading.Thread]] = []
    made, losses = onlookers_of(
        lambda one: told.append(("first", one.at, threading.current_thread())),
        lambda one: told.append(("second", one.at, threading.current_thread())),
    )
    for number in range(3):
        made.tell([seen(number)])
    await made.settle()
    assert [(name, at) for name, at, _ in told] == [
        (name, float(number)) for number in range(3) for name in ("first", "second")
    ]
    assert threading.main_thread() not in {thread for *_, thread in told}
    assert losses == []
    made.close()


async def test_one_that_raises_keeps_nothing_from_the_others() -> None:
    told: list[float] = []
    error = RuntimeError("broken observer")

    def fail(observation: Observation) -> None:
        raise error

    made, losses = onlookers_of(fail, lambda one: told.append(one.at))
    made.tell([seen(1), seen(2)])
    await made.settle()
    assert told == [1.0, 2.0]
    assert losses == [(2, error)]
    made.close()


async def test_what_one_is_too_slow_for_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlookers, "MAX_UNTOLD", 4)
    begun, go_on, told = threading.Event(), threading.Event(), list[float]()

    def hang(observation: Observation) -> None:
        told.append(observation.at)
        begun.set()
        assert go_on.wait(60)

    made, losses = onlookers_of(hang)
    made.tell([seen(0)])
    assert await asyncio.to_thread(begun.wait, 10.0)
    made.tell([seen(1), seen(2)])
    made.tell([seen(number) for number in range(3, 8)])
    made.tell([seen(8)])
    assert losses == [(4, None), (1, None)]
    assert told == [0.0]
    go_on.set()
    await made.settle()
    assert told == [0.0, 1.0, 2.0, 3.0]
    made.close()


async def test_nothing_is_kept_where_nobody_observes() -> None:
    made, losses = onlookers_of()
    made.tell([seen(1)])
    told: list[float] = []
    made.observers.append(lambda one: told.append(one.at))
    made.tell([])
    await made.settle()
    assert (told, losses) == ([], [])
    made.close()
