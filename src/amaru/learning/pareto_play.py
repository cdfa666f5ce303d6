"""One learned model asked for every preference (law 6): what cost, latency and success each of them gets.

In each world the policy plays and learns under the tenants' own weights. Every few steps it is frozen, and that step
is played once for each preference: same requests, same luck, same model, and every tenant's weights replaced by one
point of the simplex. Then it goes on as if it had not been asked. So no preference is served by what was learned under
it, and none by stale knowledge. The rules are asked the same, with what they had observed by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from amaru.learning.evaluation import Player
from amaru.learning.intervals import Estimate, Floats, Resampling
from amaru.learning.pareto import box, hypervolume, lattice, non_dominated, reference_beyond
from amaru.routing.policies import make_policy
from amaru.simulation import play_kernels as p
from amaru.simulation.play import Game
from amaru.simulation.scenario import Scenario
from amaru.simulation.world import World

RESAMPLES = 1000
"""For the intervals of volumes; each resample's volumes are computed anew."""

EVERY = 5
"""Steps between two askings."""

Reference = tuple[float, float, float]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What one preference got."""

    weights: tuple[float, float, float]
    """On cost, latency, success; they sum to 1."""
    avg_cost_usd: float
    """Per served request, as the next, over all worlds."""
    avg_latency_ms: float
    success: float
    """Share of the requests that were served."""
    non_dominated: bool
    """No other preference of this policy got as much on every axis, and more on one."""


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy got for every preference."""

    policy: str
    origin: str
    points: tuple[Point, ...]
    hypervolume: Estimate
    """USD · ms · share of requests, up to the reference point."""
    covered: float
    """The same as a share of the box between the reference point and the best on each axis by any policy here."""


class Fronts(msgspec.Struct, frozen=True, kw_only=True):
    """All that was asked."""

    schema: str = "amaru-pareto-1"
    scenario: str
    worlds: tuple[int, ...]
    """Their seeds."""
    learn_steps: int
    """Before it is asked first."""
    steps: int
    """In which it is asked, every fifth of them."""
    requests: int
    """Per preference, in all worlds together."""
    bootstrap_seed: int
    resamples: int
    reference: Reference
    """USD, ms, share of requests: what a point must be better than, on every axis, to cover anything."""
    fronts: tuple[Front, ...]
    volume_gained: Estimate | None
    """What the first front covers more than the second."""


def ask(
    scenario: Scenario,
    who: Sequence[Player],
    *,
    weights: int,
    learn_steps: int,
    steps: int,
    seeds: Sequence[int],
    seed: int,
    reference: Reference | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Fronts:
    """Ask each of ``who`` for at least ``weights`` preferences in the worlds ``seeds``; ``seed`` resamples.

    A KeyboardInterrupt ends it early; what comes back is of the worlds that were finished, and their seeds are in it.
    Where there is none, it is raised.
    """
    points = lattice(weights)
    sums: list[Floats] = []
    try:
        on_progress(0, len(seeds))
        for done, world_seed in enumerate(seeds, 1):
            sums.append(np.array([_answers(scenario, one, points, learn_steps, steps, world_seed) for one in who]))
            on_progress(done, len(seeds))
    except KeyboardInterrupt:
        if not sums:
            raise
    return _fronts(
        np.array(sums),
        points,
        who,
        reference,
        scenario=scenario.name,
        worlds=tuple(seeds[: len(sums)]),
        learn_steps=learn_steps,
        steps=steps,
        bootstrap_seed=seed,
    )


def _answers(scenario: Scenario, player: Player, points: Floats, learn_steps: int, steps: int, seed: int) -> Floats:
    """Requests, served, cost, latency of each preference in one world, [preferences, 4]."""
    world = World(scenario, seed)
    policy = make_policy(player.name, **player.knobs)
    if player.state is not None:
        policy.restore(player.state)
    game = Game(world, policy)
    tenants = len(world.tenants)
    weights = [np.tile((cost, latency, 0.0, success), (tenants, 1)) for cost, latency, success in points.tolist()]
    answers = np.zeros((len(points), tenants, p.N_TALLY))
    own, by_step = np.zeros((tenants, p.N_TALLY)), np.zeros((1, p.N_TALLY))
    for step in range(learn_steps + steps):
        chunk = world.chunk(1)
        if step >= learn_steps and (step - learn_steps) % EVERY == 0:
            for place, wanted in enumerate(weights):
                game.asked(wanted).play(chunk, answers[place], by_step)
        game.play(chunk, own, by_step)
    found: Floats = answers.sum(axis=1)[:, [p.REQUESTS, p.SERVED, p.COST_USD, p.LATENCY_MS]]
    return found


def _fronts(
    sums: Floats,
    weights: Floats,
    who: Sequence[Player],
    reference: Reference | None,
    *,
    scenario: str,
    worlds: tuple[int, ...],
    learn_steps: int,
    steps: int,
    bootstrap_seed: int,
) -> Fronts:
    """``sums`` [worlds, policies, preferences, 4]."""
    shape = sums.shape[1:]
    outcomes = _outcomes(sums.mean(axis=0))
    every = outcomes.reshape(-1, 3)
    known = every[np.isfinite(every).all(axis=1)]
    bound = reference or reference_beyond(known)
    whole = box(known, bound)
    resampling = Resampling(len(worlds), seed=bootstrap_seed, resamples=RESAMPLES)
    flat = sums.reshape(len(worlds), -1)

    def volumes(means: Floats, place: int) -> Floats:
        drawn = _outcomes(means.reshape(*means.shape[:-1], *shape))[..., place, :, :]
        found = [hypervolume(one, bound) for one in drawn.reshape(-1, *drawn.shape[-2:])]
        return np.array(found).reshape(drawn.shape[:-2])

    def front(place: int) -> Front:
        player, points = who[place], outcomes[place]
        free = non_dominated(points)
        volume = resampling.estimate(flat, lambda means: volumes(means, place))
        return Front(
            policy=player.name,
            origin=player.origin,
            points=tuple(
                Point(
                    weights=(a, b, c),
                    avg_cost_usd=cost,
                    avg_latency_ms=latency,
                    success=success,
                    non_dominated=bool(ok),
                )
                for (a, b, c), (cost, latency, success), ok in zip(weights.tolist(), points.tolist(), free, strict=True)
            ),
            hypervolume=volume,
            covered=volume.value / whole if whole else 0.0,
        )

    gained = None
    if len(who) > 1:
        gained = resampling.estimate(flat, lambda means: volumes(means, 0) - volumes(means, 1))
    return Fronts(
        scenario=scenario,
        worlds=worlds,
        learn_steps=learn_steps,
        steps=steps,
        requests=int(sums[:, 0, 0, 0].sum()),
        bootstrap_seed=bootstrap_seed,
        resamples=RESAMPLES,
        reference=bound,
        fronts=tuple(front(place) for place in range(len(who))),
        volume_gained=gained,
    )


def _outcomes(sums: Floats) -> Floats:
    """[..., 4] → [..., 3]: cost and latency of a served request, share served."""
    requests, served, cost, latency = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([cost / served, latency / served, served / requests], axis=-1)
