"""What the mesh senses, over real sockets: after the answers, and never in their way."""

from __future__ import annotations

import asyncio
import threading

import pytest
from gateway_world import PROVIDER_KEY, MakeWorld

from amaru.domain import FailureKind, Kind, Outcome
from amaru.health.observation import Observation
from amaru.mesh import intake
from amaru.mesh.sensing import TAKE_AFTER_S


async def test_every_attempt_is_observed_with_the_figures_of_its_answer(make_world: MakeWorld) -> None:
    async with make_world() as world:
        seen: list[Observation] = []
        world.mesh.sensing.observers.append(seen.append)
        await world.chat("Say hello.")
        await world.stream()
        world.break_("alpha", "status", status=500)
        await world.chat()
        await world.mesh.sensing.settle()
        whole, stream, *failed, rescued = seen
        assert (whole.ok, whole.stream, whole.provider, whole.finish_reason) == (True, False, "alpha", "length")
        assert whole.sample is not None
        assert whole.sample.shape
        assert not whole.sample.missing
        assert not whole.sample.empty
        assert whole.output_tokens
        assert stream.stream
        assert stream.first_token_ms is not None
        assert stream.sample is not None
        assert stream.sample.shape not in (0, whole.sample.shape)
        assert not stream.sample.missing
        assert {(each.failure, each.status, each.sample) for each in failed} == {(FailureKind.SERVER_ERROR, 500, None)}
        assert (rescued.provider, rescued.ok) == ("beta", True)


async def test_what_the_caller_did_wrong_or_gave_up_is_not_told_as_the_offers(make_world: MakeWorld) -> None:
    async with make_world() as world:
        seen: list[Observation] = []
        world.mesh.sensing.observers.append(seen.append)
        world.break_("alpha", "hang")
        world.break_("beta", "hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await world.chat()
        await world.chat(headers={"x-amaru-deadline-ms": "100"})
        await world.mesh.sensing.settle()
        assert seen == []


async def test_an_observer_that_raises_costs_its_own_observation_and_nothing_else(make_world: MakeWorld) -> None:
    async with make_world() as world:
        seen: list[Observation] = []

        def fail(observation: Observation) -> None:
            raise RuntimeError("broken observer")

        world.mesh.sensing.observers += [fail, seen.append]
        for _ in range(3):
            assert (await world.chat()).status_code == 200
        await world.mesh.sensing.settle()
        assert len(seen) == 3
        assert world.mesh.sensing.lost >= 3


async def test_an_observer_that_hangs_holds_up_no_answer_and_no_look(make_world: MakeWorld) -> None:
    async with make_world() as world:
        go_on, sensing = threading.Event(), world.mesh.sensing
        told_on: list[threading.Thread] = []

        def hang(observation: Observation) -> None:
            told_on.append(threading.current_thread())
            if observation.failure is not None:  # quick at first, as one that waits for a disk only when it is full
                assert go_on.wait(60)

        sensing.observers.append(hang)
        async with asyncio.timeout(30.0):  # less than the observer hangs
            for _ in range(6):
                assert (await world.chat()).status_code == 200
                await sensing.settle()
            world.break_("alpha", "status", status=500)
            for _ in range(6):
                assert (await world.chat()).status_code == 200
            await sensing.look()
            assert (await sensing.report()).observed == sensing.observed >= 12
        assert threading.main_thread() not in told_on
        assert len(told_on) < sensing.observed, "it never caught up, and nobody waited for it"
        go_on.set()
        await sensing.settle()
        assert len(told_on) == sensing.observed


async def test_a_look_comes_also_where_attempts_come_faster_than_they_are_taken_in(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_world() as world:
        sensing = world.mesh.sensing
        observe, offer = sensing.sense.observe, world.mesh.plan.board.offers[0]
        told = Outcome("", 0.0, True, offer.id, latency_ms=1.0)

        def slow(observation: Observation) -> None:
            observe(observation)
            sensing.intake.reported(offer, Kind.CHAT, told)  # while this one was taken in

        monkeypatch.setattr(sensing.sense, "observe", slow)
        assert (await world.chat()).status_code == 200
        async with asyncio.timeout(60.0):
            await sensing.look()
            assert (await sensing.report()).observed >= 1
        assert (sensing.lost, len(sensing.intake)) == (0, 1)
        monkeypatch.undo()


async def test_a_full_queue_drops_and_counts(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_world() as world:
        monkeypatch.setattr(intake, "MAX_WAITING", 0)
        assert (await world.chat()).status_code == 200
        assert world.mesh.sensing.intake.dropped == 1


async def test_of_more_attempts_a_second_than_are_taken_in_the_others_are_skipped_and_counted(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_PER_S", 2.0)
    async with make_world(wall=lambda: 1_800_000_000.0) as world:
        for _ in range(5):
            assert (await world.chat()).status_code == 200
        await world.mesh.sensing.settle()
        assert (world.mesh.sensing.observed, world.mesh.sensing.intake.skipped) == (2, 3)


async def test_attempts_set_no_timer_while_one_is_set(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MOST_PER_S", 1.0)  # what waits stays one, and each may seem the first
    rung: list[None] = []
    async with make_world(wall=lambda: 1_800_000_000.0) as world:
        monkeypatch.setattr(world.mesh.sensing, "_wake_up", lambda: rung.append(None))
        for _ in range(5):
            assert (await world.chat()).status_code == 200
        await asyncio.sleep(2 * TAKE_AFTER_S)
        assert len(rung) == 1


async def test_no_text_and_no_key_is_left_in_what_observers_are_told(make_world: MakeWorld) -> None:
    async with make_world() as world:
        seen: list[Observation] = []
        world.mesh.sensing.observers.append(seen.append)
        answer = await world.chat("the password is swordfish")
        text = answer.json()["choices"][0]["message"]["content"]
        await world.mesh.sensing.settle()
        told = repr(seen)
        assert "swordfish" not in told
        assert text not in told
        assert PROVIDER_KEY not in told


class Stopped:
    """Holds up whoever calls it, beside the loop, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: object, name: str) -> None:
        self._work = getattr(of, name)
        self._begun, self._go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(of, name, self)

    def __call__(self, *args: object) -> object:
        self._begun.set()
        assert self._go_on.wait(60)
        return self._work(*args)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 10.0)

    def let_go(self) -> None:
        self._go_on.set()


async def test_a_reload_waits_until_who_observes_the_offers_of_before_is_done(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an observer writes into compiled arrays, which nobody checks, at a row that is no longer there."""
    async with make_world(("alpha", "beta", "gamma")) as world:
        sensing = world.mesh.sensing
        before = list(sensing.sense.offers)
        observing = Stopped(monkeypatch, sensing.sense.patterns, "observe")
        world.break_("alpha", "status", status=500)
        world.break_("beta", "status", status=500)
        assert (await world.chat()).headers["x-amaru-provider"] == "gamma"
        settling = asyncio.ensure_future(sensing.settle())
        await observing.begun()
        settling.cancel()  # as when a client that asked for a report leaves: the thread goes on
        world.reload(offers=[offer for offer in world.settings["offers"] if offer["provider"] == "alpha"])
        world.providers["alpha"].faults.clear()
        assert (await world.chat()).headers["x-amaru-provider"] == "alpha", "it serves by the new plan at once"
        assert list(sensing.sense.offers) == before
        observing.let_go()
        await sensing.settle()
        assert list(sensing.sense.offers) == ["alpha/sim", "alpha/sim-embed"]
        assert sensing.sense.view("alpha/sim", world.mesh.wall()).total >= 2
        assert sensing.lost == 0


async def test_many_reloads_while_attempts_are_taken_in_lose_nothing_that_stays(make_world: MakeWorld) -> None:
    async with make_world(("alpha", "beta", "gamma")) as world:
        sensing, every = world.mesh.sensing, list(world.settings["offers"])
        for number in range(24):
            fewer = [offer for offer in every if offer["provider"] == "alpha"]
            settling = asyncio.ensure_future(sensing.look())
            world.reload(offers=every if number % 2 else fewer)
            assert (await world.chat()).status_code == 200
            await settling
        await sensing.settle()
        assert sensing.sense.view("alpha/sim", world.mesh.wall()).total == 24
        assert (sensing.observed, sensing.lost) == (24, 0)


async def test_neither_an_attempt_nor_a_report_raises_where_it_cannot_be_queued(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_world() as world:
        sensing = world.mesh.sensing

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(sensing.intake, "ended", fail)
        monkeypatch.setattr(sensing.intake, "reported", fail)
        assert (await world.chat()).status_code == 200
        sensing.reported(world.mesh.plan.board.offers[0], Kind.CHAT, Outcome("", 0.0, True, None))
        assert sensing.lost == 2
