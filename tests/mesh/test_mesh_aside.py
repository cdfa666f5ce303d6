"""Work beside the answers: quick pieces on the loop, slow ones never for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from amaru.mesh.aside import BESIDE_S, PROBATION_S, QUICK_S, STALLED_S, Aside, Spent, meter

MAIN = threading.main_thread()


class Work:
    """Pieces of work, and the meter that they turn on."""

    def __init__(self) -> None:
        self.spent = Spent(0.0, 0.0, 0)

    def meter(self) -> Spent:
        return self.spent

    def piece(self, *, computes_s: float = 0.0, waits_s: float = 0.0, held_up_s: float = 0.0) -> Callable[[], object]:
        """Computes, waits of itself, or is held up by other processes; tells where it ran."""

        def work() -> threading.Thread:
            wall_s, cpu_s, waits = self.spent
            self.spent = Spent(wall_s + computes_s + waits_s + held_up_s, cpu_s + computes_s, waits + (waits_s > 0.0))
            return threading.current_thread()

        return work


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def proven(work: Work) -> Aside:
    """One that has shown itself quick."""
    aside = Aside("test", meter=work.meter)
    await aside.run(work.piece())
    assert aside.on_loop
    return aside


async def test_what_is_not_known_to_be_quick_runs_beside_the_loop_and_then_on_it(work: Work) -> None:
    aside = Aside("test", meter=work.meter)
    assert await aside.run(work.piece(computes_s=QUICK_S / 2)) is not MAIN
    assert await aside.run(work.piece(computes_s=QUICK_S / 2)) is MAIN
    assert aside.slow_turns == 0


@pytest.mark.parametrize("how", [{"computes_s": QUICK_S * 2}, {"waits_s": BESIDE_S * 2}])
async def test_what_is_slow_beside_the_loop_stays_there(work: Work, how: dict[str, float]) -> None:
    aside = Aside("test", meter=work.meter)
    for _ in range(3):
        assert await aside.run(work.piece(**how)) is not MAIN


@pytest.mark.parametrize("how", ["computes_s", "waits_s"])
async def test_what_stalls_the_loop_goes_beside_it_at_once_and_stays_a_while(
    work: Work, proven: Aside, how: str
) -> None:
    assert await proven.run(work.piece(**{how: STALLED_S * 2})) is MAIN
    for _ in range(3):
        assert await proven.run(work.piece()) is not MAIN


async def test_what_is_slow_again_and_again_goes_beside_it(work: Work, proven: Aside) -> None:
    ran = [await proven.run(work.piece(computes_s=QUICK_S * 2)) for _ in range(12)]
    assert ran[:8] == [MAIN] * 8
    assert ran[11] is not MAIN


async def test_one_slow_piece_among_many_is_forgiven(work: Work, proven: Aside) -> None:
    for number in range(500):
        await proven.run(work.piece(computes_s=QUICK_S * 2 if number % 50 == 0 else 0.0))
        assert proven.on_loop
    assert proven.slow_turns == 10


async def test_what_a_busy_machine_holds_up_is_quick(work: Work, proven: Aside) -> None:
    for _ in range(10):
        assert await proven.run(work.piece(held_up_s=1.0)) is MAIN


async def test_what_is_slow_on_the_loop_again_and_again_is_tried_there_ever_less(
    work: Work, proven: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    for passed_s in (PROBATION_S, 2 * PROBATION_S, 4 * PROBATION_S):
        assert await proven.run(work.piece(computes_s=STALLED_S * 2)) is MAIN
        now[0] += passed_s - 1.0
        assert await proven.run(work.piece()) is not MAIN
        now[0] += 1.0


async def test_what_it_raises_comes_through_from_either_side(work: Work) -> None:
    aside = Aside("test", meter=work.meter)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await aside.run(fail)
    await aside.run(work.piece())
    with pytest.raises(ValueError, match="no"):
        await aside.run(fail)


def test_the_meter_tells_waiting_from_computing() -> None:
    begun = meter()
    threading.Event().wait(0.01)
    assert meter().waits > begun.waits
