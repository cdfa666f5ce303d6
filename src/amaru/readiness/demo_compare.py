"""The demo on two policies at once: the same traffic and the same incidents, each on providers of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from amaru.errors import AmaruError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.demo import GRACE_S, PATIENCE_S, SLO_FIRST_TOKEN_S, DemoOptions
from amaru.readiness.demo_comparison import Side, comparison
from amaru.readiness.demo_comparison_report import ComparisonReport
from amaru.readiness.demo_report import now_text
from amaru.readiness.demo_scenario import scenario
from amaru.readiness.demo_stage import MODEL, Stage, told
from amaru.readiness.machine import this_machine
from amaru.readiness.measuring import summarize
from amaru.readiness.player import Lane, Run, play
from amaru.readiness.running import unless_stopped
from amaru.simulation.faults import Incident
from amaru.simulation.profiles import SEVEN
from amaru.simulation.traces import bundled_trace, open_trace

BASELINE = "rules"
TELL_EVERY_S = 10.0


async def run_comparison(
    options: DemoOptions, stop: asyncio.Event, say: Callable[[str], None]
) -> ComparisonReport | None:
    """Play the traffic through amaru by the rules and, at the same instants, through amaru by ``options.policy``.

    Each has a gateway and seven providers of its own, drawn with the same seed, so that neither's load slows the
    other's. ``None``: stopped before any traffic. Raises as ``run_demo`` does.
    """
    trace = options.trace or bundled_trace()
    next(open_trace(trace).requests)  # a wrong file is told before anything starts
    async with contextlib.AsyncExitStack() as stack:
        say(f"Starting amaru twice, by {BASELINE} and by {options.policy}, each before seven simulated providers ...")
        stages = []
        for policy in (BASELINE, options.policy):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="amaru-demo-"))
            stage = Stage(Path(directory), SEVEN, options.seed, policy=policy, twin=False)
            if await unless_stopped(stage.__aenter__(), stop) is None:
                return None
            stack.push_async_exit(stage.__aexit__)
            stages.append(stage)
        return await _Pair(stages, options, trace, stop, say).report()


class _Pair:
    """Two stages that stand, and their lanes."""

    def __init__(
        self,
        stages: Sequence[Stage],
        options: DemoOptions,
        trace: Path,
        stop: asyncio.Event,
        say: Callable[[str], None],
    ) -> None:
        self._stages = stages
        self._options = options
        self._trace = trace
        self._stop = stop
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._start: asyncio.Future[float] = self._loop.create_future()
        self._failure: AmaruError | None = None
        self._incidents = scenario(stages[0].ranking, options.duration_s, gray=True)
        self._lanes = [
            Lane(
                stage.policy,
                Caller(
                    f"{stage.gateway_url}/v1",
                    MODEL,
                    habits=Habits(patience_s=PATIENCE_S),
                    rng=random.Random(options.seed),  # noqa: S311 - jitter, not secret
                ),
            )
            for stage in stages
        ]

    async def report(self) -> ComparisonReport:
        """Play it, and put side by side what was measured."""
        run = await self._play()
        options = self._options
        why = str(self._failure) if self._failure is not None else "" if run.complete else "stopped by the user"
        sides = [await self._side(stage, lane, run) for stage, lane in zip(self._stages, self._lanes, strict=True)]
        return ComparisonReport(
            written_at=now_text(),
            machine=this_machine(),
            command=options.command,
            trace="bundled, generated" if options.trace is None else options.trace.name,
            speed=options.speed,
            seed=options.seed,
            planned_s=options.duration_s,
            stopped_because=why,
            failed=self._failure is not None,
            sides=tuple(sides),
            comparison=comparison(
                [lane.samples for lane in self._lanes], SEVEN, self._incidents, elapsed_s=run.duration_s
            ),
        )

    async def _play(self) -> Run:
        beside = [self._loop.create_task(work) for work in (self._strike(), self._tell(), self._watch())]
        try:
            run = await play(
                open_trace(self._trace).requests,
                self._lanes,
                speed=self._options.speed,
                seed=self._options.seed,
                stop=self._stop,
                duration_s=self._options.duration_s,
                grace_s=GRACE_S,
                on_start=self._start.set_result,
            )
        finally:
            for task in beside:
                task.cancel()
            results = await asyncio.gather(*beside, return_exceptions=True)
            for lane in self._lanes:
                await lane.caller.aclose()
        for result in results:
            if isinstance(result, Exception):
                raise result
        self._failure = self._failure or run.broken_off
        return run

    async def _strike(self) -> None:
        start = await asyncio.shield(self._start)
        for incident in self._incidents:
            await asyncio.sleep(start + incident.at_s - self._loop.time())
            self._say(f"{incident.at_s:.0f} s: {incident.provider} {incident.fault.describe()}, at both")
            await asyncio.gather(*(self._strike_one(stage, incident) for stage in self._stages))

    async def _strike_one(self, stage: Stage, incident: Incident) -> None:
        try:
            await stage.strike(incident.provider, incident.fault)
        except AmaruError as error:
            self._say(f"this incident could not be switched on before {stage.policy}: {told(error)}")

    async def _tell(self) -> None:
        start = await asyncio.shield(self._start)
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            words = "; ".join(
                f"{lane.name} {sum(sample.ok for sample in lane.finished)} served, "
                f"{sum(not sample.ok for sample in lane.finished)} failed"
                for lane in self._lanes
            )
            self._say(f"{self._loop.time() - start:.0f} s of {self._options.duration_s:.0f} s: {words}")

    async def _watch(self) -> None:
        watching = [asyncio.ensure_future(stage.died()) for stage in self._stages]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            self._failure = next(iter(done)).result()
            self._stop.set()
        finally:
            for task in watching:
                task.cancel()

    async def _side(self, stage: Stage, lane: Lane, run: Run) -> Side:
        billed, _ = await stage.bills()
        learned: dict[str, Any] = {}  # Any: JSON
        with contextlib.suppress(AmaruError):
            learned = await stage.page("/policy")
        summary = summarize(
            lane.samples, duration_s=run.duration_s, slo_first_token_s=SLO_FIRST_TOKEN_S, dropped=lane.dropped
        )
        return Side(
            policy=stage.policy,
            summary=summary,
            billed_usd=sum(total["usd"] for total in billed.values()),
            attempts=sum(sample.attempts for sample in lane.samples),
            outcomes_learned=learned.get("outcomes", 0),
        )
