"""The war-game as a Gymnasium environment: one policy places every request.

Importing this module registers ``amaru/WarGame-v0``, whose reward is the tenant's utility, and ``amaru/MOWarGame-v0``,
the same with a vector as reward, as MO-Gymnasium has it. It needs ``pip install 'amaru[environments]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# First, since what follows compiles kernels.
try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise ImportError("the war-game's environments need Gymnasium: pip install 'amaru[environments]'") from error

import numpy as np
from numpy.typing import NDArray

from amaru.simulation.environment_game import (
    OFFER_FIGURES,
    Observation,
    Placed,
    Seen,
    SteppedGame,
    observation_size,
)
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario

SCALAR, VECTOR = "utility", "vector"
MOST_SEED = 2**31


class WarGameEnv(gymnasium.Env[Observation, np.int64]):
    """Place one request after the other with one of the offers.

    An environment's step is one request. An episode is one world of the scenario, from its first war-game step to its
    last; then it is truncated, and it never terminates. Worlds without hidden truth (``classic``) differ by what is
    asked for; those of a family differ in their truth too.

    **Observation**: ``Box`` of float32 in [0, 1], ``observation_size(offers)`` figures: ``OFFER_FIGURES`` of each
    offer, then ``REQUEST_FIGURES`` (``environment_game``). What is posted and what was recently observed, never what
    is hidden.

    **Action**: ``Discrete(offers)``, the offer that shall serve. Hard limits bind: where it may not serve this request
    (``info["action_mask"]`` is 0), nobody does, and the reward is 0.

    **Reward**: the tenant's utility of what came of it, about 0 to 1; 0 where it was not served. With
    ``reward="vector"`` an array of float64, ``(success, -cost in USD, -latency in ms)``, all 0 where it was not
    served; ``reward_space`` describes it.

    **Info**: ``action_mask`` (int8), ``world`` (its seed), ``step`` (of the war-game), ``tenant``, ``resource``, of the
    request that waits; after a step also ``served``, ``offer`` (empty: the action was not feasible), ``latency_ms``,
    ``cost_usd`` and ``utility`` of the one that was placed.

    Parameters
    ----------
    scenario
        As ``load_scenario`` takes it, or a ``Scenario``. Train on a family for training, such as ``hidden-train-v1``.
    reward
        ``utility`` or ``vector``.
    steps
        War-game steps of an episode; ``None``: the scenario's own.
    seed
        Of the first episode, where ``reset`` is not given one. The seed of an episode is that of its world; episodes
        after it draw theirs from it.
    render_mode
        ``ansi``: ``render`` returns the request that waits and the offers as text.

    Raises
    ------
    ScenarioError
        The scenario cannot be read.
    ValueError
        Another parameter is wrong.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - declared so by Gymnasium

    def __init__(
        self,
        scenario: str | Path | Scenario = "classic",
        *,
        reward: str = SCALAR,
        steps: int | None = None,
        seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if reward not in (SCALAR, VECTOR):
            raise ValueError(f"reward is {SCALAR!r} or {VECTOR!r}, not {reward!r}")
        self._scenario, self._steps = the_scenario(scenario, steps, render_mode)
        self._offers = self._scenario.offers
        self._first_seed = seed
        self._vector = reward == VECTOR
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (observation_size(len(self._offers)),), np.float32)
        self.action_space = spaces.Discrete(len(self._offers))
        if self._vector:
            self.reward_space = spaces.Box(
                np.array([0.0, -np.inf, -np.inf]), np.array([1.0, 0.0, 0.0]), dtype=np.float64
            )
            self.reward_dim = 3
        self._game: SteppedGame | None = None
        self._request = 0
        self._waits = False
        self._seen = Seen(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int8))
        self._last: Placed | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. See the class for what is returned; ``options`` are not used."""
        given, self._first_seed = (self._first_seed if seed is None else seed), None
        super().reset(seed=given, options=options)
        world = int(self.np_random.integers(MOST_SEED)) if given is None else given
        self._game = SteppedGame(self._scenario, world, self._steps)
        self._last = None
        self._request = 0
        self._next_request(self._game)
        return self._seen.observation, self._info(self._game)

    # Any: Gymnasium allows only a number as reward; MO-Gymnasium's convention is an array.
    def step(self, action: np.int64 | int) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Let the offer ``action`` serve the request that waits.

        Raises
        ------
        RuntimeError
            No episode is under way: call ``reset``.
        ValueError
            There is no such offer.
        """
        game = self._game
        if game is None or (not self._waits and self._last is not None):
            raise RuntimeError("no episode is under way; call reset() first")
        if not 0 <= int(action) < len(self._offers):
            raise ValueError(f"action is the number of an offer, 0 to {len(self._offers) - 1}, not {action}")
        placed = Placed()
        if self._waits:
            placed = game.place(self._request, int(action))
            self._request += 1
            self._next_request(game)
        self._last = placed
        info = self._info(game) | told(placed, self._offers[placed.row].id if placed.row >= 0 else "")
        return self._seen.observation, self._reward(placed), False, not self._waits, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which offers may serve the request that waits, as ``sb3-contrib`` asks for it."""
        return self._seen.mask.astype(bool)

    def render(self) -> str | None:
        """The request that waits, the offers, and what came of the last one; ``None`` without a ``render_mode``."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() was called without a render_mode; make it with render_mode="ansi"')
            return None
        game = self._game
        if game is None:
            return "no episode is under way"
        lines = [f"step {game.step + 1} of {game.steps}, world {game.world.seed}"]
        if self._last is not None:
            lines.append(f"last: {in_words(self._last, self._scenario)}")
        if not self._waits:
            return "\n".join([*lines, "the episode is over"])
        tenant = game.world.tenants[game.tenant_of(self._request)].id
        lines.append(f"now: {tenant} asks for {game.resource_of(self._request)}")
        return "\n".join([*lines, *offers_in_words(self._seen, self._scenario)])

    def _next_request(self, game: SteppedGame) -> None:
        while self._request >= game.requests.stop:
            if not game.advance():
                self._waits, self._seen = False, game.nothing()
                return
            self._request = game.requests.start
        self._waits, self._seen = True, game.see(self._request)

    def _reward(self, placed: Placed) -> float | NDArray[np.float64]:
        if not self._vector:
            return placed.utility
        return np.array([float(placed.served), -placed.cost_usd or 0.0, -placed.latency_ms or 0.0])

    def _info(self, game: SteppedGame) -> dict[str, Any]:
        waits = self._waits
        return {
            "action_mask": self._seen.mask,
            "world": game.world.seed,
            "step": game.step,
            "tenant": game.world.tenants[game.tenant_of(self._request)].id if waits else "",
            "resource": game.resource_of(self._request) if waits else "",
        }


def the_scenario(scenario: str | Path | Scenario, steps: int | None, render_mode: str | None) -> tuple[Scenario, int]:
    """What both environments are made with, checked. Raises ScenarioError and ValueError."""
    if steps is not None and steps < 1:
        raise ValueError(f"steps is at least 1, not {steps}")
    if render_mode not in (None, "ansi"):
        raise ValueError(f"render_mode is 'ansi' or None, not {render_mode!r}")
    read = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    return read, read.steps if steps is None else steps


def told(placed: Placed, offer: str) -> dict[str, Any]:
    """What ``info`` says of a request that was placed."""
    return {
        "served": placed.served,
        "offer": offer,
        "latency_ms": placed.latency_ms,
        "cost_usd": placed.cost_usd,
        "utility": placed.utility,
    }


def in_words(placed: Placed, scenario: Scenario) -> str:
    """What became of a request."""
    if placed.row < 0:
        return "not placed: the offer may not serve it"
    offer = scenario.offers[placed.row].id
    if not placed.served:
        return f"{offer} failed"
    return f"{offer} served in {placed.latency_ms:.0f} ms for {placed.cost_usd:.4g} USD, utility {placed.utility:.3f}"


def offers_in_words(seen: Seen, scenario: Scenario) -> list[str]:
    """A line for each offer of the resource asked for; those that may serve have a mark."""
    each = len(OFFER_FIGURES)
    figures = seen.observation[: len(scenario.offers) * each].reshape(-1, each)
    width = max(len(offer.id) for offer in scenario.offers)
    lines = [f"   {'offer':{width}}  price  speed  free  reputation  recent success"]
    for number, (offer, row, mask) in enumerate(zip(scenario.offers, figures, seen.mask, strict=True)):
        if row.any():
            price, speed, free, reputation, _, success, _ = row.tolist()
            mark = "*" if mask else " "
            lines.append(
                f"{mark}{number:2d} {offer.id:{width}} {price:6.2f} {speed:6.2f} {free:4.0%} {100 * reputation:11.0f}"
                f" {success:15.0%}"
            )
    return lines


def register() -> None:
    """Make both ids known to Gymnasium; once is enough."""
    here = f"{__name__}:{WarGameEnv.__name__}"
    if "amaru/WarGame-v0" not in gymnasium.registry:
        gymnasium.register("amaru/WarGame-v0", here)
    if "amaru/MOWarGame-v0" not in gymnasium.registry:
        # Gymnasium's checker knows only numbers as rewards.
        gymnasium.register("amaru/MOWarGame-v0", here, kwargs={"reward": VECTOR}, disable_env_checker=True)


register()
