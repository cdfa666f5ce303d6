"""The healer on a live mesh: what it decides acts on real requests, lasts across a reload, and leaves no trace."""

from __future__ import annotations

import random

import msgspec
from levers_world import LeversWorld, MakeLevers, make_levers

from amaru.health.bandit import Bandit
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind
from amaru.health.healing_settings import HealerSettings
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.routing.steering import UNSTEERED
from amaru.simulation.faults import Fault

__all__ = ["make_levers"]

AT = 1_700_000_000.0
OF_A = InfrastructurePattern(
    id="p-1",
    kind=PatternKind.DEGRADATION,
    at=AT,
    confidence=0.9,
    offers=("a/sim",),
    providers=("a",),
    impact=Impact.MAJOR,
    cause="errors",
    suggested=None,
    detail="as the test says",
)
OVER = msgspec.structs.replace(OF_A, ended_at=AT + 10.0)


def healer_of(world: LeversWorld, best: HealingKind) -> Healer:
    """One that has learned that ``best`` helps."""
    healer = Healer(HealerSettings(), world.levers, random.Random(1))
    learned: Bandit = healer.bandit
    for kind in ("degradation", "api_change"):
        for _ in range(200):
            learned.learn(kind, "errors" if kind == "degradation" else "shape", "", best, 1.0)
    return healer


async def test_a_drain_moves_real_traffic_survives_a_reload_and_ends_step_by_step(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        healer = healer_of(world, HealingKind.DRAIN)
        assert await world.served(4) == {"a": 4}
        (action,) = healer.look([OF_A], AT)
        assert action.changed["a/sim drained"] == "no -> yes"
        assert await world.served(4) == {"b": 4}
        world.mesh.reload(world.config(routing={"policy": "rules_classic"}))
        world.levers.carry_on()
        healer.look([], AT + 1.0)
        assert await world.served(4) == {"b": 4}
        healer.look([OVER], AT + 10.0)
        assert await world.served(4) == {"b": 4}  # it counts for half as yet
        for second in range(11, 30):
            healer.look([], AT + second)
        assert await world.served(4) == {"a": 4}
        assert [world.levers.steering(offer) for offer in ("a/sim", "b/sim")] == [UNSTEERED, UNSTEERED]


async def test_an_offer_that_is_tried_serves_so_many_requests_at_once(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        healer = healer_of(world, HealingKind.DRAIN)
        (action,) = healer.look([OF_A], AT)
        assert action.until is not None
        healer.look([], action.until)
        steering = world.levers.steering("a/sim")
        assert steering is not None
        assert steering.at_once == 1.0
        assert await world.served(3) == {"a": 3}


async def test_an_api_that_changed_is_read_again_and_told_how(make_levers: MakeLevers) -> None:
    async with make_levers(("a",)) as world:
        healer = healer_of(world, HealingKind.ADAPT)
        world.providers["a"].faults.add(Fault(kind="renamed_field", field="choices[].message.content", to="text"))
        _, got = await world.ask()
        assert "content" not in msgspec.json.decode(got)["choices"][0]["message"]
        changed = msgspec.structs.replace(OF_A, kind=PatternKind.API_CHANGE, cause="shape")
        (action,) = healer.look([changed], AT)
        assert action.kind is HealingKind.ADAPT
        assert action.changed["a/sim adaptation"] == "choices[].message.text read as content"
        provider, got = await world.ask(words="And now?")
        assert provider == "a"
        assert msgspec.json.decode(got)["choices"][0]["message"]["content"]
        assert action.until is not None
        (longer,) = healer.look([OVER], action.until)  # it was needed meanwhile
        assert longer.until is not None
        ended = healer.look([], longer.until)
        assert [told.reverted for told in ended if told.id == action.id] == [True]
        assert world.levers.adapted("a/sim") is None


async def test_another_version_of_the_api_is_asked_while_the_first_one_fails(make_levers: MakeLevers) -> None:
    async with make_levers(("a",), alternate="a") as world:
        healer = healer_of(world, HealingKind.ALTERNATE)
        world.providers["a"].faults.add(Fault(kind="status", status=500, version="v1"))
        assert (await world.ask())[0] is None
        (action,) = healer.look([OF_A], AT)
        assert action.changed == {"a address": "0 -> 1"}
        assert (await world.ask(words="And now?"))[0] == "a"


async def test_a_restart_sets_again_what_was_set(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        healer = healer_of(world, HealingKind.DRAIN)
        assert await world.served(1) == {"a": 1}  # so that nobody need look at it for a while
        healer.look([OF_A], AT)
        state = healer.state()
        world.levers.steer("a/sim", UNSTEERED)  # as a new process finds it
        again = Healer(HealerSettings(), world.levers, random.Random(1))
        again.load(state, AT + 1.0)
        assert await world.served(3) == {"b": 3}
        assert again.active.keys() == healer.active.keys()
