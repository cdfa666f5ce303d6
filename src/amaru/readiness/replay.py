"""A replay: a trace played open-loop against one endpoint, whoever made it, and all that came of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import msgspec

from amaru.errors import TraceError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.machine import this_machine
from amaru.readiness.player import Lane, Run, play
from amaru.readiness.preflight import Target, look_at
from amaru.readiness.replay_plan import Plan, described
from amaru.readiness.replay_progress import Progress, Tally
from amaru.readiness.replay_report import ReplayRun
from amaru.readiness.running import room_for_connections, unless_stopped
from amaru.readiness.views import View

FRAMES_PER_S = 2.0


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user may choose."""

    target: str
    model: str | None = None
    """``None``: the only one that the target lists."""
    key: str | None = None
    speed: float = 1.0
    slo_first_token_s: float = 1.0
    duration_s: float | None = None
    max_in_flight: int = 4000
    retries: int = 0
    patience_s: float = 60.0
    grace_s: float = 120.0
    exact_lengths: bool | None = None
    """``None``: where the target can do so."""
    stream: bool = True
    seed: int = 0
    command: str = "amaru replay"


class Replayed(msgspec.Struct, frozen=True):
    """What became of a replay."""

    run: ReplayRun
    broken_off: TraceError | None
    """The mistake in the trace that ended it; what stood before it was played."""


async def replay(
    plan: Plan,
    options: ReplayOptions,
    stop: asyncio.Event,
    make_view: Callable[[], View[Progress]],
    say: Callable[[str], None],
) -> Replayed | None:
    """Play ``plan``; returns what was measured, also when stopped on the way. ``None``: stopped before any traffic.

    Parameters
    ----------
    stop
        Ends the run when set.
    make_view
        Called when the traffic begins.
    say
        Shows a line before that.

    Raises
    ------
    TargetError
        The target cannot be reached, or cannot serve the trace's requests at all.
    """
    habits = Habits(max_retries=options.retries, patience_s=options.patience_s, stream=options.stream)
    looking = look_at(options.target, model=options.model, key=options.key, habits=habits, exact=options.exact_lengths)
    target = await unless_stopped(looking, stop)
    if target is None:
        return None
    max_in_flight = room_for_connections(options.max_in_flight)
    say(described(plan, options.speed))
    lengths = "answers of the trace's lengths" if target.habits.exact_lengths else "answers of the model's own lengths"
    trials = "one trial request was sent" if target.trials == 1 else f"{target.trials} trial requests were sent"
    say(f"against {target.model} at {target.base_url}, {lengths}; {trials}")
    for note in target.notes:
        say(f"note: {note}")
    if max_in_flight < options.max_in_flight:
        say(f"note: at most {max_in_flight} requests in flight, as this process may open no more files (ulimit -n)")
    return await _Replay(plan, options, target, max_in_flight, stop).play(make_view)


class _Replay:
    """One run against a target that was looked at."""

    def __init__(
        self, plan: Plan, options: ReplayOptions, target: Target, max_in_flight: int, stop: asyncio.Event
    ) -> None:
        rng = random.Random(options.seed)  # noqa: S311 -- jitter, not secret
        caller = Caller(target.base_url, target.model, key=options.key, habits=target.habits, rng=rng)
        self._plan = plan
        self._options = options
        self._target = target
        self._stop = stop
        self._lane = Lane(target.base_url, caller, max_in_flight=max_in_flight)
        self._start: asyncio.Future[float] = asyncio.get_running_loop().create_future()  # when the traffic began

    async def play(self, make_view: Callable[[], View[Progress]]) -> Replayed:
        """The traffic, and what it came to."""
        options, lane, loop = self._options, self._lane, asyncio.get_running_loop()
        started_at = time.time()
        tally = Tally(lane, self._plan.count, self._plan.planned_s)
        with make_view() as view:
            drawing = loop.create_task(self._draw(view, tally))
            try:
                run = await play(
                    self._plan.requests,
                    (lane,),
                    speed=options.speed,
                    seed=options.seed,
                    stop=self._stop,
                    duration_s=options.duration_s,
                    grace_s=options.grace_s,
                    on_start=self._start.set_result,
                )
            finally:
                drawing.cancel()
                await asyncio.gather(drawing, return_exceptions=True)
                await lane.caller.aclose()
            view.show(tally.look(loop.time() - self._start.result()))
        return Replayed(self._measured(run, started_at), run.broken_off)

    async def _draw(self, view: View[Progress], tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        start = await asyncio.shield(self._start)
        while True:
            view.show(tally.look(loop.time() - start))
            await asyncio.sleep(1 / FRAMES_PER_S)

    def _measured(self, run: Run, started_at: float) -> ReplayRun:
        options, plan, target = self._options, self._plan, self._target
        return ReplayRun(
            samples=self._lane.samples,
            dropped=self._lane.dropped,
            duration_s=run.duration_s,
            complete=run.complete,
            target=target.base_url,
            model=target.model,
            trace=plan.path.name,
            trace_format=plan.format.value,
            speed=options.speed,
            slo_first_token_s=options.slo_first_token_s,
            started_at=started_at,
            command=options.command,
            machine=msgspec.to_builtins(this_machine()),
            client={
                **msgspec.to_builtins(target.habits),
                "max_in_flight": self._lane.max_in_flight,
                "grace_s": options.grace_s,
                "seed": options.seed,
            },
        )
