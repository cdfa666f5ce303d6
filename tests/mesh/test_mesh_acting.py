"""What is foreseen is held against offers while they are there, where predictions are wanted."""

from __future__ import annotations

import pytest
from levers_world import MakeLevers, make_levers

from amaru.health.sense import Looked
from amaru.mesh.acting import Acting
from amaru.routing.steering import UNSTEERED

__all__ = ["make_levers"]

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("prediction", "risk"), [(True, 0.51), (False, 0.0)])
async def test_a_foreseen_failure_is_held_against_an_offer_where_that_is_wanted(
    make_levers: MakeLevers, prediction: bool, risk: float
) -> None:
    async with make_levers(extra={"health": {"enabled": False, "prediction": prediction}}) as world:
        acting = Acting(world.mesh, world.levers)
        acting.act(Looked([], {"a/sim": 0.5123, "b/sim": 0.01}), NOW)
        steering = world.levers.steering("a/sim")
        assert steering is not None
        assert steering.risk == risk
        assert world.levers.steering("b/sim") == UNSTEERED


async def test_what_was_foreseen_of_an_offer_that_is_gone_is_forgotten(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        acting = Acting(world.mesh, world.levers)
        acting.act(Looked([], {"a/sim": 0.5}), NOW)
        world.mesh.reload(world.config(offers=world.settings["offers"][1:]))
        acting.reload({"a/sim"}, NOW + 1.0)
        world.mesh.reload(world.config())
        acting.reload((), NOW + 2.0)
        acting.act(Looked([], {}), NOW + 3.0)
        assert world.levers.steering("a/sim") == UNSTEERED
