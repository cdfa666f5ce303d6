"""The agents at play: split over processes that live as long as the training, each holding its agents' policies.

What an agent does in an episode depends on nothing but its own policy, the episode's world and its own lots. So it does
not matter which process plays it, and whatever is put together afterwards is put together in the agents' order: any
number of processes gives the same result, bit for bit.

Processes are spawned, not forked: a fork would copy the locks of threads that Polars, Numba and the HTTP client may
have started, as they are at that moment, and those threads are not copied with them.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import msgspec
import numpy as np

from amaru.errors import AmaruError
from amaru.learning import exchange
from amaru.learning.decision_samples import Row, Sample
from amaru.learning.worlds import EpisodeWorlds, world_seed
from amaru.routing import belief_kernels as b
from amaru.routing.kernels import Floats
from amaru.routing.knobs import knobs_from
from amaru.routing.learned import BeliefPolicy
from amaru.routing.policies import LearnedPolicy, RulePolicy, make_policy
from amaru.simulation import play_kernels as p
from amaru.simulation.play import Played as Requests
from amaru.simulation.play import Tally, play
from amaru.simulation.scenario import Scenario
from amaru.simulation.world import Chunk, World

# Columns of what is counted for each agent and episode.
(REQUESTS, SERVED, COST_USD, LATENCY_MS, UTILITY, TABLE_SIZE) = range(6)
N_COUNTS = 6
_COUNTED = [p.REQUESTS, p.SERVED, p.COST_USD, p.LATENCY_MS, p.UTILITY]


class Plan(NamedTuple):
    """What every process of a crew needs to know."""

    scenario: Scenario
    policy: str
    steps: int
    seed: int
    decisions: int
    """Sampled per episode."""


class Member(NamedTuple):
    """An agent as it enters a crew."""

    id: int
    knobs: dict[str, float]
    state: bytes | None
    """``None``: it has learned nothing."""
    fresh: bool


class Played(NamedTuple):
    """Some episodes."""

    counts: Floats
    """[episodes, agents, N_COUNTS]"""
    decisions: list[Row]
    """Sampled from the agent that was asked for; empty: it is in another group."""


class Group:
    """Some of the agents, in one process."""

    def __init__(self, plan: Plan, members: Sequence[Member], center: bytes) -> None:
        self._plan = plan
        self._starts = {member.id: member.state for member in members}
        self._agents: dict[int, LearnedPolicy] = {}
        self._fresh: dict[int, bool] = {}
        for member in members:
            self._agents[member.id] = learner(plan.policy, member.knobs, member.state)
            self._fresh[member.id] = member.fresh
        self._center = exchange.unpacked(center)

    def play(self, first: int, epsilons: Sequence[float], sampled: int) -> Played:
        """Play episodes from number ``first`` on, one for each of ``epsilons``, and learn.

        Decisions are sampled from what agent ``sampled`` does.
        """
        plan = self._plan
        counts = np.zeros((len(epsilons), len(self._agents), N_COUNTS))
        decisions: list[Row] = []
        for place, epsilon in enumerate(epsilons):
            episode = first + place
            worlds = EpisodeWorlds(plan.scenario, world_seed(plan.seed, episode), plan.steps)
            for column, (id, policy) in enumerate(self._agents.items()):
                world = worlds.for_agent(id)
                sample = None
                if id == sampled and plan.decisions:
                    sample = Sample(world, plan.decisions, plan.seed, episode, id)
                on_chunk = None if sample is None else sample.take
                if isinstance(policy, BeliefPolicy):
                    policy.reset()  # beliefs are about one world's offers, at its own time
                tally = _played(world, policy, plan.steps, epsilon, on_chunk)
                counts[place, column, :TABLE_SIZE] = tally.totals[:, _COUNTED].sum(axis=0)
                counts[place, column, TABLE_SIZE] = policy.table_size()
                if sample is not None:
                    decisions += sample.rows()
        return Played(counts, decisions)

    def contributions(self) -> list[exchange.Contribution | None]:
        """What each agent has learned since the last exchange."""
        return [
            exchange.contribution(policy, self._center, fresh=self._fresh[id]) for id, policy in self._agents.items()
        ]

    def adopt(self, center: bytes) -> None:
        """Have all agents go on from what was agreed on."""
        self._center = exchange.unpacked(center)
        for id, policy in self._agents.items():
            exchange.adopt(policy, self._center)
            self._fresh[id] = False

    def turn(self, id: int, knobs: dict[str, float]) -> None:
        """Give an agent other knobs; what it has learned stays."""
        turn_knobs(self._agents[id], knobs)

    def reset(self, id: int) -> None:
        """Have an agent forget everything."""
        self._agents[id].reset()
        self._fresh[id] = True

    def states(self) -> list[bytes]:
        """What each agent has learned, to be gone on from anywhere.

        An agent that keeps beliefs has learned its knobs: what it believes about a world's offers is left behind with
        the world, and what it began with stays.
        """
        plan = self._plan
        return [
            learner(plan.policy, msgspec.structs.asdict(policy.mind.settings), self._starts[id]).state()
            if isinstance(policy, BeliefPolicy)
            else policy.state()
            for id, policy in self._agents.items()
        ]


def learner(name: str, knobs: Mapping[str, float], state: bytes | None) -> LearnedPolicy:
    """A learning policy with these knobs and what is in ``state``. Raises ValueError where either does not fit it."""
    policy = make_policy(name, **knobs)
    if isinstance(policy, RulePolicy):
        raise ValueError(f"{name!r} learns nothing")  # noqa: TRY004 - the name is wrong
    if state is not None:
        policy.restore(state)
        turn_knobs(policy, knobs)  # a state brings the knobs that it was saved with
    return policy


def _played(
    world: World, policy: LearnedPolicy, steps: int, epsilon: float, on_chunk: Callable[[Chunk, Requests], None] | None
) -> Tally:
    """Play an episode, exploring as often as the swarm does instead of as the policy itself would."""
    knobs = policy.mind.knobs
    knobs[b.EPSILON] = 0.0
    tally = play(world, policy, steps, floor=epsilon, on_chunk=on_chunk)
    knobs[b.EPSILON] = knobs[b.EPSILON_LEAST]  # how it will explore where it serves
    return tally


def turn_knobs(policy: LearnedPolicy, knobs: Mapping[str, float]) -> None:
    """Have ``policy`` go on with other knobs; how much it explores by now stays."""
    mind = policy.mind
    epsilon = mind.knobs[b.EPSILON]
    mind.settings = knobs_from(knobs)
    mind.knobs[:] = mind.settings.array()
    mind.knobs[b.EPSILON] = epsilon


class Crew:
    """All agents, over one or more processes. Used as a context manager; leaving it ends the processes.

    Parameters
    ----------
    processes
        At most; there are never more than agents. With one, agents play in this process.

    Raises
    ------
    AmaruError
        In any method: a process ended, or failed.
    """

    def __init__(self, plan: Plan, members: Sequence[Member], center: bytes, *, processes: int = 1) -> None:
        self.processes = max(1, min(processes, len(members)))
        if self.processes > 1:
            _compile(plan)
        bounds = [len(members) * i // self.processes for i in range(self.processes + 1)]
        self._groups: list[_Here | _There] = []
        self._home: dict[int, _Here | _There] = {}
        try:
            for low, high in pairwise(bounds):
                group = (_Here if self.processes == 1 else _There)(plan, members[low:high], center)
                self._groups.append(group)
                self._home |= {member.id: group for member in members[low:high]}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for group in self._groups:
            group.close()

    def play(self, first: int, epsilons: Sequence[float], sampled: int) -> Played:
        """See ``Group.play``."""
        parts: list[Played] = self._all("play", first, list(epsilons), sampled)
        decisions = [row for part in parts for row in part.decisions]
        return Played(np.concatenate([part.counts for part in parts], axis=1), decisions)

    def contributions(self) -> list[exchange.Contribution | None]:
        """See ``Group.contributions``; in the agents' order."""
        return [one for part in self._all("contributions") for one in part]

    def adopt(self, center: bytes) -> None:
        """See ``Group.adopt``."""
        self._all("adopt", center)

    def turn(self, id: int, knobs: dict[str, float]) -> None:
        """See ``Group.turn``."""
        self._home[id].ask("turn", id, knobs)
        self._home[id].answer()

    def reset(self, id: int) -> None:
        """See ``Group.reset``."""
        self._home[id].ask("reset", id)
        self._home[id].answer()

    def states(self) -> list[bytes]:
        """See ``Group.states``; in the agents' order."""
        return [state for part in self._all("states") for state in part]

    def _all(self, method: str, *arguments: object) -> list[Any]:  # Any: what the method returns
        for group in self._groups:
            group.ask(method, *arguments)
        return [group.answer() for group in self._groups]


class _Here:
    """A group in this process."""

    def __init__(self, plan: Plan, members: Sequence[Member], center: bytes) -> None:
        self._group = Group(plan, members, center)
        self._call: Callable[[], Any] | None = None  # Any: what the method returns

    def ask(self, method: str, *arguments: object) -> None:
        self._call = lambda: getattr(self._group, method)(*arguments)

    def answer(self) -> Any:  # Any: what the method returns
        assert self._call is not None
        return self._call()

    def close(self) -> None:
        pass


class _There:
    """A group in a process of its own."""

    def __init__(self, plan: Plan, members: Sequence[Member], center: bytes) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, plan, list(members), center), daemon=True)
        with _deaf():
            self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: object) -> None:
        try:
            self._pipe.send((method, arguments))
        except OSError as error:
            raise self._gone() from error

    def answer(self) -> Any:  # Any: what the method returns
        try:
            fine, result = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if not fine:
            raise AmaruError(f"a process of the training failed: {result}")
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _gone(self) -> AmaruError:
        self._process.join(1)
        code = self._process.exitcode
        return AmaruError(
            f"a process of the training ended (exit code {code}), perhaps for want of memory; use fewer --processes or"
            " --agents, and go on from the last checkpoint with --load"
        )


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """A process started in here ignores Ctrl-C from its first instant; this one hears of it afterwards, or again."""
    if threading.current_thread() is not threading.main_thread():  # which signals are none of its business
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _compile(plan: Plan) -> None:
    """Have the kernels compiled, once: processes then find them on disk, instead of each compiling the same."""
    play(EpisodeWorlds(plan.scenario, 0, 1).for_agent(0), learner(plan.policy, {}, None), 1)


def _work(pipe: Connection, plan: Plan, members: Sequence[Member], center: bytes) -> None:
    """What a process does: it answers until its pipe ends, with the process at the other end at the latest."""
    # Ctrl-C reaches every process of the terminal; the first one decides, and finishes the episode.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    group: Group | None = None
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            group = group or Group(plan, members, center)
            answer = (True, getattr(group, method)(*arguments))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}")
        try:
            pipe.send(answer)
        except OSError:
            return
