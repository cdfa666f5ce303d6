"""Work beside the answers: quick pieces on the loop, slow ones never."""

from __future__ import annotations

import threading

import pytest

from amaru.mesh.aside import QUICK_S, Aside


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
    aside = Aside("test", timer=watch)
    assert await aside.run(lambda: watch.work(QUICK_S / 2)) is not threading.main_thread()
    assert await aside.run(lambda: watch.work(QUICK_S / 2)) is threading.main_thread()
    assert aside.slow_turns == 0
    aside.close()


async def test_what_was_slow_on_the_loop_goes_beside_it() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch)
    await aside.run(lambda: watch.work(0.0))
    assert await aside.run(lambda: watch.work(QUICK_S * 2)) is threading.main_thread()
    assert aside.slow_turns == 1
    for _ in range(3):  # and stays there a while, also where it is quick again
        assert await aside.run(lambda: watch.work(0.0)) is not threading.main_thread()
    aside.close()


async def test_what_was_slow_beside_the_loop_stays_there() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch)
    for _ in range(3):
        assert await aside.run(lambda: watch.work(QUICK_S * 2)) is not threading.main_thread()
    aside.close()


async def test_what_it_raises_comes_through_from_either_side() -> None:
    watch = Watch()
    aside = Aside("test", timer=watch)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await aside.run(fail)
    await aside.run(lambda: watch.work(0.0))
    with pytest.raises(ValueError, match="no"):
        await aside.run(fail)
    aside.close()
