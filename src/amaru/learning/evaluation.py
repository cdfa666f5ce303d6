"""Policies in the same held-out worlds, beside the best that was possible.

Every policy plays every world from its first step: the rules, the learned ones (trained ones go on learning, as they
do live; untrained ones begin with nothing), and two references that no user can have: ``informed``, which is given the
world's true parameters but not its hidden state, and ``oracle``, which sees that too. A world is the same for all of
them, its requests and its luck included (common random numbers), so that differences are the policies' own.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import msgspec

from amaru.errors import AmaruError
from amaru.routing.policies import LEARNED, make_policy
from amaru.simulation import play_kernels as p
from amaru.simulation.play import Playable, play
from amaru.simulation.references import informed, oracle
from amaru.simulation.scenario import Scenario
from amaru.simulation.world import World

RULES = ("rules", "rules_classic", "cheapest", "fastest", "random")
"""The baselines; the best of them is what the learned ones must beat."""
REFERENCES = {"informed": informed, "oracle": oracle}
WORLDS = 20
"""Fewer held-out worlds than this carry no claim."""
SEED = 10_000
"""The first held-out world's, by default: far from the seeds that training begins with."""


class Player(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as it enters every world."""

    name: str
    """The policy's name, or the reference's."""
    role: str
    """``rule``, ``learned`` or ``reference``."""
    origin: str = ""
    """Where what it has learned comes from, in words; empty for those that do not learn."""
    knobs: dict[str, float] = {}
    state: bytes | None = None
    """What it has learned before; ``None``: nothing."""


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy did in one world; sums over its requests."""

    policy: str
    seed: int
    """Of the world."""
    requests: int
    served: int
    cost_usd: float
    """Of what was served, as the next."""
    latency_ms: float
    slo_met: int
    """Served within their tenant's latency limit."""
    utility: float


class Games(msgspec.Struct, frozen=True, kw_only=True):
    """All that was played."""

    scenario: Scenario
    steps: int
    seeds: tuple[int, ...]
    """Of the worlds that every policy has played to the end."""
    wanted: int
    """How many were asked for; more than ``seeds`` where it was stopped."""
    players: tuple[Player, ...]
    played: tuple[Played, ...]
    """Of the worlds ``seeds``, one for each of them and each player, world by world."""
    notes: tuple[str, ...] = ()
    """What a reader must know of how it was played."""

    @property
    def complete(self) -> bool:
        """Whether it went to its end."""
        return len(self.seeds) == self.wanted


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is."""

    games: int
    """Played: one is one policy in one world."""
    of: int
    worlds: int
    requests: int


def players(swarm: Path | None = None, only: Sequence[str] = ()) -> tuple[Player, ...]:
    """Who plays: all rules, the learned policies (only those named, where any is), and both references.

    Raises
    ------
    AmaruError
        A name is no learned policy's.
    CheckpointError
        ``swarm`` is not a swarm's file.
    """
    unknown = [name for name in only if name not in LEARNED]
    if unknown:
        raise AmaruError(
            f"--policy {unknown[0]}: the learned policies are {', '.join(LEARNED)}; "
            f"the rules {', '.join(RULES)} are always played"
        )
    trained = _best_of_each(swarm) if swarm is not None else {}
    learned = tuple(
        trained.get(name) or Player(name=name, role="learned", origin="untrained")
        for name in LEARNED
        if not only or name in only
    )
    return (
        *(Player(name=name, role="rule") for name in RULES),
        *learned,
        *(Player(name=name, role="reference") for name in REFERENCES),
    )


def _best_of_each(swarm: Path) -> dict[str, Player]:
    from amaru.learning.swarm_files import load_swarm_file

    loaded = load_swarm_file(swarm)
    best: dict[str, Player] = {}
    for agent in sorted(loaded.agents, key=lambda agent: -agent.score):
        best.setdefault(
            agent.policy,
            Player(
                name=agent.policy,
                role="learned",
                origin=f"agent {agent.id} of {swarm.name}",
                knobs=agent.knobs,
                state=agent.state,
            ),
        )
    return best


def who_can_play(scenario: Scenario, who: Sequence[Player]) -> tuple[tuple[Player, ...], tuple[str, ...]]:
    """``who`` without the references that this scenario is too large for, and why they are missing."""
    able, notes = [], []
    for player in who:
        try:
            enter(player, World(scenario, 0))
        except ValueError as error:
            if player.role != "reference":
                raise
            notes.append(f"{player.name} does not play: {error}.")
        else:
            able.append(player)
    return tuple(able), tuple(notes)


def enter(player: Player, world: World) -> Playable:
    """The player's policy, fresh for ``world``, which is at its first step."""
    reference = REFERENCES.get(player.name)
    if reference is not None:
        return reference(world)
    policy = make_policy(player.name, **player.knobs)
    if player.state is not None:
        policy.restore(player.state)
    return policy


def play_one(scenario: Scenario, seed: int, player: Player, steps: int) -> Played:
    """One policy through one world."""
    world = World(scenario, seed)
    tally = play(world, enter(player, world), steps)
    sums = tally.totals.sum(axis=0)
    return Played(
        policy=player.name,
        seed=seed,
        requests=tally.requests,
        served=tally.served,
        cost_usd=float(sums[p.COST_USD]),
        latency_ms=float(sums[p.LATENCY_MS]),
        slo_met=int(sums[p.SLO_MET]),
        utility=float(sums[p.UTILITY]),
    )


def evaluate(
    scenario: Scenario,
    who: Sequence[Player],
    *,
    steps: int,
    seeds: Sequence[int],
    processes: int = 1,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Games:
    """Play every world with every policy. The result is the same for any number of processes.

    A KeyboardInterrupt ends it early: what comes back are the worlds that everybody has played to the end.
    """
    who, notes = who_can_play(scenario, who)
    jobs = [(seed, place) for seed in seeds for place in range(len(who))]
    done: list[Played] = []
    requests = 0
    try:
        with contextlib.closing(_results(scenario, who, steps, jobs, processes)) as results:
            for played in results:
                done.append(played)
                requests += played.requests
                on_progress(Progress(games=len(done), of=len(jobs), worlds=len(done) // len(who), requests=requests))
    except KeyboardInterrupt:
        pass
    whole = len(done) // len(who)
    return Games(
        scenario=scenario,
        steps=steps,
        seeds=tuple(seeds[:whole]),
        wanted=len(seeds),
        players=who,
        played=tuple(done[: whole * len(who)]),
        notes=notes,
    )


_Job = tuple[int, int]
_room: tuple[Scenario, tuple[Player, ...], int] | None = None
"""What all jobs of a worker process share, so that it is sent there once."""


def _results(
    scenario: Scenario, who: tuple[Player, ...], steps: int, jobs: list[_Job], processes: int
) -> Generator[Played]:
    """What each of ``jobs`` (a world's seed, a player's place) came to, in their order."""
    if processes == 1:
        for seed, place in jobs:
            yield play_one(scenario, seed, who[place], steps)
        return
    # Spawned: a fork would copy threads that Numba and Polars may have started.
    pool = ProcessPoolExecutor(
        min(processes, len(jobs)), get_context("spawn"), initializer=_enter_room, initargs=(scenario, who, steps)
    )
    try:
        # A few at a time, so that a stop is not held up by what was handed out.
        waiting: list[Future[Played]] = []
        for job in jobs:
            waiting.append(pool.submit(_job, job))
            if len(waiting) > 2 * processes:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
    except BrokenProcessPool as error:
        raise AmaruError(
            "a worker process ended before its game did, perhaps for want of memory; use fewer --processes"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _enter_room(scenario: Scenario, who: tuple[Player, ...], steps: int) -> None:
    global _room
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    _room = (scenario, who, steps)


def _job(job: _Job) -> Played:
    assert _room is not None
    scenario, who, steps = _room
    seed, place = job
    return play_one(scenario, seed, who[place], steps)
