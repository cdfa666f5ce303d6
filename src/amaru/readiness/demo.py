"""The demo: traffic through amaru and, at the same time, past it to one provider alone, while incidents strike."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from amaru.errors import AmaruError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.demo_board import Board, Snapshot
from amaru.readiness.demo_report import DemoReport, incident_reports, now_text, undisturbed
from amaru.readiness.demo_scenario import scenario
from amaru.readiness.demo_stage import MODEL, Stage, told
from amaru.readiness.machine import this_machine
from amaru.readiness.measuring import Quantiles, Sample, Summary, quantiles, summarize
from amaru.readiness.player import Lane, Run, play
from amaru.readiness.running import unless_stopped
from amaru.readiness.views import View
from amaru.simulation.profiles import SEVEN
from amaru.simulation.traces import bundled_trace, open_trace

FRAMES_PER_S = 3.0
STATUS_EVERY_S = 1.0
SLO_FIRST_TOKEN_S = 1.5
PATIENCE_S = 15.0
"""How long both clients wait for a head, and within a stream."""
GRACE_S = 20.0
"""How long answers may still come after the last request was sent."""


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user may choose."""

    trace: Path | None = None
    """``None``: the bundled one."""
    speed: float = 5.0
    duration_s: float = 120.0
    seed: int = 7
    policy: str = "rules"
    """By which amaru ranks."""
    command: str = "amaru demo"


async def run_demo(
    options: DemoOptions, stop: asyncio.Event, make_view: Callable[[str], View[Snapshot]], say: Callable[[str], None]
) -> DemoReport | None:
    """Run it all; returns what was measured, also when stopped on the way. ``None``: stopped before any traffic.

    Parameters
    ----------
    stop
        Ends the run when set.
    make_view
        Gets the favourite's name; called when the traffic begins.
    say
        Shows a line before that.

    Raises
    ------
    TraceError
        The trace cannot be read.
    ChildError, Failure
        A process did not start; the message shows its last lines. One that dies later ends the run, and the report
        says so.
    """
    trace = options.trace or bundled_trace()
    next(open_trace(trace).requests)  # a wrong file is told before anything starts
    with tempfile.TemporaryDirectory(prefix="amaru-demo-") as directory:
        say("Starting seven simulated providers, amaru, and one provider alone ...")
        stage = Stage(Path(directory), SEVEN, options.seed, policy=options.policy)
        if await unless_stopped(stage.__aenter__(), stop) is None:
            return None
        try:
            performance = _Performance(stage, options, trace, stop)
            with make_view(stage.favourite.name) as view:
                run = await performance.play(view)
            return await performance.report(run)
        finally:
            await stage.__aexit__(None, None, None)


class _Performance:
    """One run on a stage that stands."""

    def __init__(self, stage: Stage, options: DemoOptions, trace: Path, stop: asyncio.Event) -> None:
        favourite = stage.favourite
        self._stage = stage
        self._options = options
        self._trace = trace
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._start: asyncio.Future[float] = self._loop.create_future()  # when the traffic began
        self._failure: AmaruError | None = None
        self._incidents = scenario(stage.ranking, options.duration_s)
        self._through = self._lane("through amaru", stage.gateway_url, MODEL, "")
        self._alone = self._lane("alone", stage.alone_url, favourite.models[0], favourite.name)
        names = [profile.name for profile in stage.profiles]
        self._board = Board(self._through, self._alone, names, self._incidents, options.duration_s)

    def _lane(self, name: str, url: str, model: str, label: str) -> Lane:
        rng = random.Random(self._options.seed)  # noqa: S311 -- jitter, not secret
        return Lane(name, Caller(f"{url}/v1", model, label=label, habits=Habits(patience_s=PATIENCE_S), rng=rng))

    async def play(self, view: View[Snapshot]) -> Run:
        """The traffic, with what goes on beside it."""
        beside = [self._loop.create_task(work) for work in (self._strike(), self._draw(view), self._watch())]
        try:
            run = await play(
                open_trace(self._trace).requests,
                (self._through, self._alone),
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
            await self._through.caller.aclose()
            await self._alone.caller.aclose()
        for result in results:
            if isinstance(result, Exception):
                raise result
        self._failure = self._failure or run.broken_off
        view.show(self._board.snapshot(self._loop.time() - self._start.result()))
        return run

    async def _strike(self) -> None:
        start = await asyncio.shield(self._start)
        for incident in self._incidents:
            await asyncio.sleep(start + incident.at_s - self._loop.time())
            try:
                await self._stage.strike(incident.provider, incident.fault)
            except AmaruError as error:
                self._board.note(incident.at_s, f"this incident could not be switched on: {told(error)}")

    async def _draw(self, view: View[Snapshot]) -> None:
        start = await asyncio.shield(self._start)
        asked_at = -STATUS_EVERY_S
        while True:
            elapsed_s = self._loop.time() - start
            if elapsed_s - asked_at >= STATUS_EVERY_S:
                asked_at = elapsed_s
                with contextlib.suppress(AmaruError):  # the watch tells of a gateway that is gone
                    self._board.saw_status(await self._stage.page("/status"))
            view.show(self._board.snapshot(elapsed_s))
            await asyncio.sleep(1 / FRAMES_PER_S)

    async def _watch(self) -> None:
        self._failure = await self._stage.died()
        self._stop.set()

    async def report(self, run: Run) -> DemoReport:
        """All that was measured."""
        stage, options = self._stage, self._options
        billed, alone_billed = await stage.bills()
        traffic: dict[str, Any] = {}
        with contextlib.suppress(AmaruError):
            traffic = (await stage.page("/status"))["traffic"]
        why = str(self._failure) if self._failure is not None else "" if run.complete else "stopped by the user"
        counts = ("attempts", "failed_attempts", "failovers", "retries")
        through, alone = self._through.samples, self._alone.samples
        favourite = stage.ranking[0]
        return DemoReport(
            written_at=now_text(),
            machine=this_machine(),
            command=options.command,
            policy=options.policy,
            trace="bundled, generated" if options.trace is None else options.trace.name,
            speed=options.speed,
            seed=options.seed,
            planned_s=options.duration_s,
            complete=not why,
            stopped_because=why,
            failed=self._failure is not None,
            favourite=favourite,
            ranking=tuple(stage.ranking),
            through_amaru=_summary(self._through, run),
            alone=_summary(self._alone, run),
            incidents=incident_reports(self._incidents, through, alone, favourite, run.duration_s),
            first_token_without_incident={
                name: _first_tokens(undisturbed(samples, self._incidents))
                for name, samples in (("through_amaru", through), ("alone", alone))
            },
            billed_usd={name: total["usd"] for name, total in billed.items()},
            alone_billed_usd=alone_billed.get("usd"),
            failed_attempts_usd=traffic.get("failed_attempts_cost_usd"),
            provider_calls={name: traffic[name] for name in counts if name in traffic},
            example=await self._example(),
        )

    async def _example(self) -> dict[str, Any] | None:  # Any: JSON
        """The record of a saved answer, the one with the most attempts."""
        saved = [s for s in self._through.samples if s.ok and s.attempts > 1 and s.decision]
        if not saved:
            return None
        chosen = max(saved, key=lambda sample: sample.attempts)
        with contextlib.suppress(AmaruError):
            return await self._stage.page(f"/decisions/{chosen.decision}")
        return None


def _summary(lane: Lane, run: Run) -> Summary:
    return summarize(lane.samples, duration_s=run.duration_s, slo_first_token_s=SLO_FIRST_TOKEN_S, dropped=lane.dropped)


def _first_tokens(samples: list[Sample]) -> Quantiles:
    return quantiles(s.first_token_s for s in samples if s.ok and s.first_token_s is not None)
