"""Work beside the answers: quick pieces on the loop, slow ones never."""

from __future__ import annotations

import asyncio
import threading

import pytest

from amaru.mesh.aside import BESIDE_WALL_S, PROBATION_S, QUICK_S, QUICK_WALL_S, Aside


class Watch:
    """A timer that a piece of work turns on by itself."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, takes_s: float) -> threading.Thread:
        self.now += takes_s
        return threading.current_thread()


async def test_what_is_not_known_to_be_quick_runs_beside_the_loop_and_then_on_it() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch, cpu_timer=watch, waits=lambda: 0)
    assert await aside.run(lambda: watch.work(QUICK_S / 2)) is not threading.main_thread()
    assert await aside.run(lambda: watch.work(QUICK_S / 2)) is threading.main_thread()
    assert aside.slow_turns == 0
    aside.close()


async def test_what_was_slow_on_the_loop_goes_beside_it() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch, cpu_timer=watch, waits=lambda: 0)
    await aside.run(lambda: watch.work(0.0))
    assert await aside.run(lambda: watch.work(QUICK_S * 2)) is threading.main_thread()
    assert aside.slow_turns == 1
    for _ in range(3):  # and stays there a while, also where it is quick again
        assert await aside.run(lambda: watch.work(0.0)) is not threading.main_thread()
    aside.close()


async def test_what_takes_long_beside_the_loop_stays_there() -> None:
    watch, still = Watch(), Watch()
    aside = Aside("test", timer=watch, cpu_timer=still, waits=lambda: 0)
    for _ in range(3):
        assert await aside.run(lambda: watch.work(BESIDE_WALL_S * 2)) is not threading.main_thread()
    aside.close()


async def test_what_was_slow_beside_the_loop_stays_there() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch, cpu_timer=watch, waits=lambda: 0)
    for _ in range(3):
        assert await aside.run(lambda: watch.work(QUICK_S * 2)) is not threading.main_thread()
    aside.close()


async def test_what_it_raises_comes_through_from_either_side() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch, cpu_timer=watch, waits=lambda: 0)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await aside.run(fail)
    await aside.run(lambda: watch.work(0.0))
    with pytest.raises(ValueError, match="no"):
        await aside.run(fail)
    aside.close()


async def test_what_waits_may_take_a_little_longer_and_what_was_only_held_up_by_others_is_quick() -> None:
    watch, still = Watch(), Watch()
    waits = Watch()
    aside = Aside("test", timer=watch, cpu_timer=still, waits=lambda: int(waits.now))
    await aside.run(lambda: watch.work(0.0))
    assert await aside.run(lambda: watch.work(QUICK_WALL_S * 100)) is threading.main_thread()
    assert aside.on_loop, "it never gave up its core: others took it"

    def waiting() -> threading.Thread:
        waits.now += 1
        return watch.work(QUICK_WALL_S * 1.5)

    assert await aside.run(waiting) is threading.main_thread()
    assert not aside.on_loop
    aside.close()


async def test_what_is_slow_on_the_loop_again_and_again_is_tried_there_ever_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch()
    aside = Aside("test", timer=watch, cpu_timer=watch, waits=lambda: 0)
    loop, now = asyncio.get_running_loop(), [1000.0]
    monkeypatch.setattr(loop, "time", lambda: now[0])
    for passed_s in (PROBATION_S, 2 * PROBATION_S, 4 * PROBATION_S):
        await aside.run(lambda: watch.work(0.0))
        assert aside.on_loop
        await aside.run(lambda: watch.work(QUICK_S * 2))
        now[0] += passed_s - 1.0
        assert not aside.on_loop
        now[0] += 1.0
    aside.close()
