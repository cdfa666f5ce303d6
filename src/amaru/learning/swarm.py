"""Agents that learn side by side and average what they know, for programs that bring their own world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from amaru.errors import CheckpointError
from amaru.files.whole import write_whole
from amaru.learning import exchange
from amaru.learning.agents import RoutingAgent, State
from amaru.learning.swarm_files import SwarmFile, TrainedAgent, load_swarm_file, save_swarm_file
from amaru.routing import q_kernels as q

SCORE_KEPT = 0.95
"""A score is a moving average over some twenty steps."""


class SwarmCoordinator:
    """A swarm of ``RoutingAgent``, and what it exchanges.

    ``amaru train`` trains a swarm in the war-game; this is for worlds of your own.

    Parameters
    ----------
    n_agents, n_providers
        How many; each at least 1.
    learning_rate, epsilon, epsilon_decay, discount
        See ``RoutingAgent``.
    seed
        The same gives the same swarm.

    Attributes
    ----------
    agents
        In the order of their ids.
    scores
        Moving average of each agent's rewards.
    steps
        How many were taken.

    Examples
    --------
    >>> from amaru.learning import State, SwarmCoordinator
    >>> swarm = SwarmCoordinator(n_agents=3, n_providers=2)
    >>> offers = [
    ...     State.of(latency_ms=100, price=3, best_latency_ms=100, best_price=1),
    ...     State.of(latency_ms=300, price=1, best_latency_ms=100, best_price=1),
    ... ]
    >>> for _ in range(50):
    ...     rewards = swarm.step(offers, serve=lambda agent, provider: 0.4 if provider == 0 else 0.9)
    >>> swarm.update_swarm()  # states that anybody has been in since the last time
    2
    >>> [round(value, 6) for value in swarm.agents[0].q_table().values()]
    [0.4, 0.9]
    """

    def __init__(
        self,
        n_agents: int = 10,
        n_providers: int = 7,
        *,
        learning_rate: float = 0.05,
        epsilon: float = 0.2,
        epsilon_decay: float = 0.999,
        discount: float = 0.0,
        seed: int = 0,
    ) -> None:
        if n_agents < 1:
            raise ValueError(f"n_agents is at least 1, not {n_agents}")
        self.seed = seed
        self.agents = [
            RoutingAgent(
                id,
                n_providers,
                learning_rate=learning_rate,
                epsilon=epsilon,
                epsilon_decay=epsilon_decay,
                discount=discount,
                seed=seed,
            )
            for id in range(n_agents)
        ]
        self.scores = [0.0] * n_agents
        self.steps = 0
        self._center = exchange.blank_center()

    def step(
        self,
        states: Sequence[State],
        serve: Callable[[int, int], float],
        feasible: Sequence[bool] | None = None,
    ) -> list[float | None]:
        """Have every agent choose once, and learn from what comes of it.

        Parameters
        ----------
        states, feasible
            Of the providers, the same for all agents: see ``RoutingAgent.choose``.
        serve
            Called with an agent's id and the provider that it chose; returns the reward, about 0 to 1, such as
            ``compute_reward``'s.

        Returns
        -------
        list
            The reward of each agent; ``None`` where no provider was feasible.
        """
        rewards: list[float | None] = []
        self.steps += 1
        for place, agent in enumerate(self.agents):
            choice = agent.choose(states, feasible)
            if choice is None:
                rewards.append(None)
                continue
            reward = serve(agent.agent_id, choice)
            agent.learn(states[choice], reward)
            kept = min(SCORE_KEPT, 1.0 - 1.0 / self.steps)
            self.scores[place] = kept * self.scores[place] + (1.0 - kept) * reward
            rewards.append(reward)
        return rewards

    def update_swarm(self) -> int:
        """Average the agents' tables (see ``exchange``); all go on from that. Returns in how many states anybody has
        been since the last time."""
        said = [exchange.contribution(agent.policy, self._center, fresh=False) for agent in self.agents]
        parts = [part for part in said if part is not None]
        self._center = exchange.merged(self._center, parts, self.scores)
        for agent in self.agents:
            exchange.adopt(agent.policy, self._center)
        return len({int(cell) for part in parts for cell in part.cells})

    @property
    def best(self) -> RoutingAgent:
        """The agent with the highest score."""
        return self.agents[self._best]

    @property
    def _best(self) -> int:
        return max(range(len(self.agents)), key=self.scores.__getitem__)

    def save_swarm(self, prefix: Path | str) -> Path:
        """Write ``PREFIX.json``, as `amaru train` writes ``swarm_final.json``. Raises OSError."""
        path = _json_at(prefix)
        swarm = SwarmFile(
            source=path,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=self.seed,
            worlds="",
            episodes=self.steps,
            best=self._best,
            agents=tuple(
                TrainedAgent(
                    id=agent.agent_id,
                    policy=agent.policy.name,
                    knobs=msgspec.structs.asdict(agent.policy.mind.settings),
                    score=score,
                    state=agent.policy.state(),
                )
                for agent, score in zip(self.agents, self.scores, strict=True)
            ),
        )
        save_swarm_file(swarm)
        return path

    def load_swarm(self, prefix: Path | str) -> None:
        """Take over what ``save_swarm``, or `amaru train`, has written; draws go on where this swarm's are.

        Raises
        ------
        CheckpointError
            The file is none, or holds another number of agents or other policies; nothing changes then.
        """
        path = _json_at(prefix)
        swarm = load_swarm_file(path)
        if len(swarm.agents) != len(self.agents):
            raise CheckpointError(f"{path}: agents: holds {len(swarm.agents)}, and this swarm has {len(self.agents)}")
        for place, stored in enumerate(swarm.agents):
            try:
                stored.make()
            except ValueError as error:
                raise CheckpointError(f"{path}: agents[{place}]: {error}") from None
            if stored.policy != "qlearning":
                raise CheckpointError(f"{path}: agents[{place}].policy: {stored.policy} keeps no table")
        for agent, stored in zip(self.agents, swarm.agents, strict=True):
            agent.policy.restore(stored.state)
        self.scores = [stored.score for stored in swarm.agents]
        self.steps = swarm.episodes
        # What they agreed on is not in the file. Agents have counted each other's visits, so it is what all have.
        tables = np.stack([agent.policy.mind.values for agent in self.agents])
        self._center = tables[0].copy()
        self._center[:, q.VISITS] = tables[:, :, q.VISITS].min(axis=0)

    def export_q_tables(self, path: Path | str | None = None) -> list[dict[State, float]]:
        """Each agent's value of the states that it visited; with ``path``, written there too, as JSON."""
        tables = [agent.q_table() for agent in self.agents]
        if path is not None:
            rows = [
                {
                    "agent": agent.agent_id,
                    "states": [{"state": state, "value": value} for state, value in table.items()],
                }
                for agent, table in zip(self.agents, tables, strict=True)
            ]
            write_whole(Path(path), msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
        return tables


def _json_at(prefix: Path | str) -> Path:
    path = Path(prefix)
    return path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
