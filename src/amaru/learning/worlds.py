"""The worlds of a training: one per episode, the same for all its agents, but with lots of their own.

The lot is the one random number that a policy gets with each request. With the same lots, agents that have learned the
same would do the same, and a swarm would be one agent many times over. So each agent's lots are the world's, shifted
round the unit interval by its own angle (a Cranley-Patterson rotation, 1976; by multiples of the golden ratio, which
lie as far apart as can be): still uniform, and different for every agent.
"""

from __future__ import annotations

import numpy as np

from amaru.simulation import world_kernels as w
from amaru.simulation.scenario import Scenario
from amaru.simulation.world import Chunk, World

MOST_RECORDED_STEPS = 4096
"""An episode of more is unrolled anew for each agent: a recording of it would take too much memory."""
_GOLDEN = (5**0.5 - 1) / 2
_WORLDS = 0  # what the random numbers are for


def world_seed(seed: int, episode: int) -> int:
    """Of the world of an episode (from 1) in a run of that seed."""
    return int(np.random.SeedSequence([seed, _WORLDS, episode]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class EpisodeWorlds:
    """One world, once for each agent; unrolled once for all where it is not too long."""

    def __init__(self, scenario: Scenario, seed: int, steps: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._first = World(scenario, seed)
        self._recording: list[Chunk] | None = [] if steps <= MOST_RECORDED_STEPS else None

    def for_agent(self, agent: int) -> World:
        """The world from its first step, with that agent's lots."""
        if self._recording is None:
            return _AgentWorld(World(self._scenario, self._seed), agent, None)
        return _AgentWorld(self._first, agent, self._recording)


class _AgentWorld(World):
    """A world as one agent meets it.

    Parameters
    ----------
    source
        Unrolls it.
    recording
        Chunks that were unrolled for other agents already; ``None``: none are kept.
    """

    def __init__(self, source: World, agent: int, recording: list[Chunk] | None) -> None:
        self.__dict__.update(source.__dict__)  # all but how it unrolls
        self.step = 0
        self._source = source
        self._agent = agent
        self._recording = recording
        self._next = 0

    def chunk(self, steps: int) -> Chunk:
        """See ``World.chunk``. All agents of a recorded world must cut it alike."""
        recording = self._recording
        if recording is not None and self._next < len(recording):
            chunk = recording[self._next]
        else:
            chunk = self._source.chunk(steps)
            if recording is not None:
                recording.append(chunk)
        if (chunk.first_step, len(chunk.starts) - 1) != (self.step, steps):
            raise ValueError(f"step {self.step} and {steps} more were not cut so before")
        self._next += 1
        self.step += steps
        if not self._agent:
            return chunk
        luck = chunk.luck.copy()
        lots = luck[:, w.LOT] + (_GOLDEN * self._agent) % 1.0
        luck[:, w.LOT] = np.subtract(lots, 1.0, out=lots, where=lots >= 1.0)
        return chunk._replace(luck=luck)
