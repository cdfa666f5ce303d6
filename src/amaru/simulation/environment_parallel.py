"""The war-game as a PettingZoo parallel environment: one policy for each tenant.

It needs ``pip install 'amaru[environments]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# First, since what follows compiles kernels.
try:
    import gymnasium
    from gymnasium import spaces
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError("the parallel environment needs PettingZoo: pip install 'amaru[environments]'") from error

import numpy as np
from numpy.typing import NDArray

from amaru.simulation.environment import in_words, offers_in_words, the_scenario, told
from amaru.simulation.environment_game import (
    Observation,
    Placed,
    Seen,
    SteppedGame,
    observation_size,
    tenants_of,
)
from amaru.simulation.scenario import Scenario

MOST_SEED = 2**31
Infos = dict[str, dict[str, Any]]


def parallel_env(
    scenario: str | Path | Scenario = "classic",
    *,
    steps: int | None = None,
    seed: int | None = None,
    render_mode: str | None = None,
) -> WarGameParallelEnv:
    """Make the environment; PettingZoo's own modules have a function of this name."""
    return WarGameParallelEnv(scenario, steps=steps, seed=seed, render_mode=render_mode)


class WarGameParallelEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo has no types
    """Every tenant places its own requests, against each other for the same capacity.

    An environment's step is a **round**: each tenant that still has a request in this war-game step places its next
    one. When none has, the war-game's next step begins, with new prices, all capacity free and budgets full. All
    observations of a round are from before it. Its requests are then placed one after the other, and the tenant who
    goes first moves on by one from round to round, so that nobody is always first: where the last room at an offer is
    wanted by two, the later one is not served.

    Agents are the tenants' names. All are there from an episode's first round to its last, at which all are truncated.
    Those without a request left in a round see nothing (an observation and a mask of zeros), and whatever they do is
    passed over, with reward 0.

    Observations, actions, masks, rewards (the tenant's own utility) and infos are those of ``WarGameEnv``, per agent.
    ``state`` is all observations one after the other, in the order of ``possible_agents``.

    Parameters and errors: see ``WarGameEnv``.
    """

    metadata: dict[str, Any] = {"name": "amaru_war_game_v0", "render_modes": ["ansi"], "is_parallelizable": True}  # noqa: RUF012 - declared so by PettingZoo

    def __init__(
        self,
        scenario: str | Path | Scenario = "classic",
        *,
        steps: int | None = None,
        seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._scenario, self._steps = the_scenario(scenario, steps, render_mode)
        self._offers = self._scenario.offers
        self._first_seed = seed
        self._worlds = np.random.default_rng(seed)
        self.render_mode = render_mode
        self.possible_agents = [tenant.id for tenant in tenants_of(self._scenario)]
        self.agents: list[str] = []
        size = observation_size(len(self._offers))
        self.observation_spaces = {name: spaces.Box(0.0, 1.0, (size,), np.float32) for name in self.possible_agents}
        self.action_spaces = {name: spaces.Discrete(len(self._offers)) for name in self.possible_agents}
        self._game: SteppedGame | None = None
        self._round = 0
        self._queues: list[list[int]] = [[] for _ in self.possible_agents]
        """Of each tenant, the requests it still has in this step, the next one last."""
        self._seen: dict[str, Seen] = {}
        self._last: dict[str, Placed] = {}

    def observation_space(self, agent: str) -> spaces.Box:
        """The same object for the same agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """The same object for the same agent."""
        return self.action_spaces[agent]

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - PettingZoo's signature
    ) -> tuple[dict[str, Observation], Infos]:
        """Begin an episode; ``seed`` is its world's, and those of later episodes are drawn from it."""
        given, self._first_seed = (self._first_seed if seed is None else seed), None
        if given is not None:
            self._worlds = np.random.default_rng(given)
        world = int(self._worlds.integers(MOST_SEED)) if given is None else given
        self._game = SteppedGame(self._scenario, world, self._steps)
        self._round = 0
        self._queues = [[] for _ in self.possible_agents]
        self._last = {}
        self.agents = list(self.possible_agents)
        self._look_around(self._game)
        return self._observations(), self._infos(self._game)

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Play one round.

        Raises
        ------
        RuntimeError
            No episode is under way: call ``reset``.
        ValueError
            An agent that has a request gave no action, or that of no offer.
        """
        game = self._game
        if game is None or not self.agents:
            raise RuntimeError("no episode is under way; call reset() first")
        waiting = [place for place, queue in enumerate(self._queues) if queue]
        chosen = {place: self._action(actions, self.possible_agents[place]) for place in waiting}
        first = self._round % len(self.possible_agents)
        self._last = dict.fromkeys(self.possible_agents, Placed())
        for place in sorted(waiting, key=lambda place: (place - first) % len(self.possible_agents)):
            self._last[self.possible_agents[place]] = game.place(self._queues[place].pop(), chosen[place])
        self._round += 1
        over = not self._look_around(game)
        names = self.agents
        infos = self._infos(game)
        for name in names:
            placed = self._last[name]
            infos[name] |= told(placed, self._offers[placed.row].id if placed.row >= 0 else "")
        if over:
            self.agents = []
        return (
            self._observations(),
            {name: self._last[name].utility for name in names},
            dict.fromkeys(names, False),
            dict.fromkeys(names, over),
            infos,
        )

    def state(self) -> Observation:
        """All observations one after the other, in the order of ``possible_agents``."""
        return np.concatenate([self._seen[name].observation for name in self.possible_agents])

    def action_masks(self, agent: str) -> NDArray[np.bool_]:
        """Which offers may serve the agent's next request."""
        return self._seen[agent].mask.astype(bool)

    def render(self) -> str | None:
        """What every tenant faces, as text; ``None`` without a ``render_mode``."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() was called without a render_mode; make it with render_mode="ansi"')
            return None
        game = self._game
        if game is None:
            return "no episode is under way"
        lines = [f"step {game.step + 1} of {game.steps}, round {self._round + 1}, world {game.world.seed}"]
        for name, queue in zip(self.possible_agents, self._queues, strict=True):
            if name in self._last and self._last[name] != Placed():
                lines.append(f"{name}, last: {in_words(self._last[name], self._scenario)}")
            if queue:
                lines.append(f"{name} asks for {game.resource_of(queue[-1])}; {len(queue)} left in this step")
                lines += offers_in_words(self._seen[name], self._scenario)
        return "\n".join(lines)

    def close(self) -> None:
        """Nothing to release."""

    def _action(self, actions: dict[str, int], name: str) -> int:
        action = int(actions.get(name, -1))
        if not 0 <= action < len(self._offers):
            told_ = repr(actions[name]) if name in actions else "none"
            raise ValueError(f"{name}: an action is the number of an offer, 0 to {len(self._offers) - 1}, not {told_}")
        return action

    def _look_around(self, game: SteppedGame) -> bool:
        """Go on to the next step where no request is left in this one; False: the episode is over."""
        going = True
        while going and not any(self._queues):
            going = game.advance()
            for request in reversed(game.requests):
                self._queues[game.tenant_of(request)].append(request)
        self._seen = {
            name: game.see(queue[-1]) if queue else game.nothing()
            for name, queue in zip(self.possible_agents, self._queues, strict=True)
        }
        return going

    def _observations(self) -> dict[str, Observation]:
        return {name: seen.observation for name, seen in self._seen.items()}

    def _infos(self, game: SteppedGame) -> Infos:
        return {
            name: {
                "action_mask": self._seen[name].mask,
                "world": game.world.seed,
                "step": game.step,
                "tenant": name,
                "resource": game.resource_of(queue[-1]) if queue else "",
            }
            for name, queue in zip(self.possible_agents, self._queues, strict=True)
        }
