"""Plays worlds to measure how soon a policy regains what a change of regime cost it; ``regained`` defines that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amaru.learning.evaluation import Player, enter
from amaru.learning.intervals import Floats
from amaru.learning.regained import Curves, Ints, changes, curves
from amaru.simulation import world_kernels as w
from amaru.simulation.play import Played, play
from amaru.simulation.scenario import Scenario
from amaru.simulation.world import Chunk, World

WARM_STEPS = 200
"""Changes in the first steps of a world do not count: everybody is still learning what it is like."""


class Trail(NamedTuple):
    """What one policy did in one world, request by request."""

    steps: Ints
    """[n], as the next."""
    classes: Ints
    chosen: Ints
    utility: Floats
    failure: Floats
    """[steps, offers], the truth."""


def trail(scenario: Scenario, seed: int, player: Player, steps: int) -> Trail:
    """Play one world from its first step to ``steps``, with ``player``."""
    world = World(scenario, seed)
    seen: list[tuple[Ints, Ints, Ints, Floats, Floats]] = []

    def keep(chunk: Chunk, played: Played) -> None:
        step = chunk.first_step + np.repeat(np.arange(len(chunk.starts) - 1), np.diff(chunk.starts))
        class_ = chunk.tenant * len(world.pools) + chunk.pool
        failure = chunk.truth[:, :, w.FAILURE].copy()
        seen.append((step, class_, played.chosen.copy(), played.utility.copy(), failure))

    play(world, enter(player, world), steps, on_chunk=keep)
    return Trail(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))


def strikes(scenario: Scenario, seed: int, who: Sequence[Player], steps: int) -> dict[str, tuple[Curves, Curves]]:
    """For each of ``who``, its curves in one world: after changes for the worse, and for the better."""
    best = trail(scenario, seed, Player(name="oracle", role="reference"), steps)
    found: dict[str, tuple[Curves, Curves]] = {}
    for player in who:
        policy = trail(scenario, seed, player, steps)
        struck = []
        for class_ in np.unique(best.classes).tolist():
            of_class = np.flatnonzero(best.classes == class_)
            hit = changes(best.steps[of_class], best.chosen[of_class], best.failure)
            struck.append((hit, best.utility[of_class] - policy.utility[of_class]))
        worse, better = (curves(struck, worse=which, from_step=WARM_STEPS) for which in (True, False))
        found[player.name] = (worse, better)
    return found
