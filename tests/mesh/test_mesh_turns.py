"""Turns: one piece of work after another, each to its end, whoever waits for it."""

from __future__ import annotations

import asyncio

import pytest

from amaru.mesh.turns import Turns


class Work:
    """Pieces of work that end when they are let go, and what was done so far."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.turns = Turns(lambda: self.done.append("turn"))

    def begin(self, name: str) -> asyncio.Task[str]:
        gate = self.gates[name] = asyncio.Event()

        async def work() -> str:
            self.done.append(f"{name} begins")
            await gate.wait()
            self.done.append(f"{name} ends")
            return name

        return asyncio.ensure_future(self.turns.run(work))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_begins_when_the_one_before_has_ended() -> None:
    work = Work()
    one, two = work.begin("one"), work.begin("two")
    work.gates["two"].set()
    await settle()
    assert work.done == ["turn", "one begins"]
    work.gates["one"].set()
    assert [await one, await two] == ["one", "two"]
    assert work.done == ["turn", "one begins", "one ends", "turn", "two begins", "two ends"]


async def test_what_nobody_waits_for_any_more_goes_on_to_its_end_before_the_next_begins() -> None:
    work = Work()
    one, two = work.begin("one"), work.begin("two")
    await settle()
    one.cancel()
    await settle()
    assert one.cancelled()
    assert work.done == ["turn", "one begins"]
    for gate in work.gates.values():
        gate.set()
    await two
    assert work.done[1:] == ["one begins", "one ends", "turn", "two begins", "two ends"]


async def test_what_a_piece_raises_comes_through_and_the_next_has_its_turn() -> None:
    work = Work()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await work.turns.run(fail)
    one = work.begin("one")
    work.gates["one"].set()
    assert await one == "one"


async def test_closing_abandons_what_is_under_way_and_what_waits() -> None:
    work = Work()
    tasks = [work.begin("one"), work.begin("two")]
    await settle()
    work.turns.close()
    assert {type(found) for found in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}
    assert work.done == ["turn", "one begins"]
