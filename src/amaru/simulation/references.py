"""What the best is measured against: policies that are told what no policy is."""

from __future__ import annotations

import numpy as np

from amaru.routing import kernels as k
from amaru.routing.knobs import Knobs
from amaru.routing.mind import Mind
from amaru.routing.policies_base import Preferences, of_tenant
from amaru.simulation import filter_kernels as f
from amaru.simulation import play_kernels as p
from amaru.simulation.world import Chunk, World

MOST_ON_A_BRIDGE = 6
"""The filter holds 2 · 3^n states for n providers on one bridge."""


INFORMED_BOLDNESS = 0.4
"""Who always takes what looks best never finds out that a provider has recovered; so it draws some decisions from its
posterior. Of 0, 0.03, 0.1, 0.2, 0.4, 0.6 and 1 on ``hidden-train-v1``, 0.2 to 0.6 came out best, and equal."""


class Reference:
    """``oracle`` knows the truth of the moment, not the future; ``informed`` what the world was drawn with.

    Both choose by expected utility (``informed`` draws some from its posterior, to keep finding out), under the same
    hard limits as every policy, one request after the other. They are made for one world, at its first step.
    """

    def __init__(self, name: str, kind: int, world: World) -> None:
        if world.step != 0:
            raise ValueError(f"{name} must be made before its world begins; this one is at step {world.step}")
        self.name = name
        self.kind = kind
        self.learns = kind == p.INFORMED
        self.mind = Mind(Knobs(boldness=INFORMED_BOLDNESS if kind == p.INFORMED else 0.0), believes=True)
        self.preferences: Preferences = of_tenant
        self.world = world
        self.step = 0
        """Of its world, the next that it is to play: it has to see all of them."""
        self.known = _filter(world) if kind == p.INFORMED else no_filter()

    def follow(self, chunk: Chunk) -> None:
        """Take note that ``chunk`` is being played. Raises ValueError where it is not the next."""
        if chunk.first_step != self.step:
            raise ValueError(
                f"{self.name} must play its world from the first step on: it is at step {self.step}, and was handed "
                f"step {chunk.first_step}"
            )
        self.step += len(chunk.starts) - 1


def oracle(world: World) -> Reference:
    """Knows failure probabilities, latencies and prices as they are, and not what will happen."""
    return Reference("oracle", p.ORACLE, world)


def informed(world: World) -> Reference:
    """Knows what the world was drawn with, and infers the state it is in from what it sees: see ``filter_kernels``.

    Raises ValueError where more than 6 providers share a bridge.
    """
    return Reference("informed", p.INFORMED, world)


def no_filter() -> f.Filter:
    """For whoever infers nothing."""
    none, empty = np.zeros(0, dtype=np.int64), np.zeros((0, 1))
    return f.Filter(empty, np.zeros((0, 1), dtype=np.int64), none, none, empty, empty, empty, empty)


def _filter(world: World) -> f.Filter:
    on = [np.flatnonzero(world.bridge_of == bridge) for bridge in range(len(world.bridges))]
    most = max(len(members) for members in on)
    if most > MOST_ON_A_BRIDGE:
        name = world.bridges[int(np.argmax([len(members) for members in on]))]
        raise ValueError(
            f"{most} providers share the bridge {name!r}; `informed` can follow at most {MOST_ON_A_BRIDGE} jointly"
        )
    members: k.Ints = np.full((len(on), most), -1, dtype=np.int64)
    joint = np.zeros((len(on), 2 * 3**most))
    for bridge, providers in enumerate(on):
        members[bridge, : len(providers)] = providers
    joint[:, 0] = 1.0  # every world begins healthy
    charged = np.zeros((len(world.offers), 2))
    charged[:, f.AT_STEP] = -1.0
    return f.Filter(
        joint, members, world.bridge_of, world.provider_of, world.provider_truth, world.bridge_truth,
        world.offer_truth, charged,
    )  # fmt: skip
