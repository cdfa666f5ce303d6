"""The four patterns, made by real HTTP providers: what amaru sees of them, how soon, and what healing does for callers.

python benchmarks/incidents.py [--rounds 3] [--speed 2.5] [--seed 7] [--out DIR] [--write docs/explanation/foresight.md]

Two amarus run side by side, each before seven simulated providers of its own: one senses, predicts and heals (the
defaults), the other does none of it (`health.enabled: false`). Both get the same requests at the same instants, and
the same incidents strike both: the two providers that get most of the traffic, in turns.

An incident is *found* where amaru names its pattern for a provider that was struck, between its beginning and its end
and `LATE_S` more. A pattern that names no struck provider then, or the wrong kind, counts against precision; so does
any in the calm, but for a recovery after its incident. *Lead* is how long before the provider fails hard amaru first
named a degradation of it. Success and latency are those of the callers, over the requests sent while the incident
lasted, in both lanes.

What is rare (false alarms in days of calm) and what needs many incidents (calibration) is in `incident_patterns.py`,
which needs no network.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

import incident_world as w
from wargame_page import machine_words, write_between

from amaru.errors import AmaruError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.demo_comparison import Judge
from amaru.readiness.demo_stage import MODEL, Stage, told
from amaru.readiness.markdown import seconds, share, table
from amaru.readiness.measuring import Sample, quantiles
from amaru.readiness.player import Lane, play
from amaru.readiness.running import run_until_signalled
from amaru.simulation.faults import Incident

SETTINGS: dict[str, dict[str, object]] = {
    "on": {"stability": {"guardian": True}},
    "off": {"health": {"enabled": False}, "stability": {"enabled": False}},
}
LOOK_EVERY_S = 1.0
LATE_S = 20.0
"""After its end an incident may still be named: what was under way ends late."""
PATIENCE_S = 15.0


class Sighting(msgspec.Struct, frozen=True):
    """A pattern as amaru first named it."""

    at_s: float
    kind: str
    providers: frozenset[str]
    cause: str
    confidence: float


class Watch:
    """Reads the patterns and healings of one gateway, and when each was first there."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.sightings: dict[str, Sighting] = {}
        self.healings: dict[str, dict[str, Any]] = {}  # Any: JSON

    async def run(self, started: asyncio.Future[float]) -> None:
        """Look on and on."""
        start = await asyncio.shield(started)
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(AmaruError):  # a gateway that is gone ends the run by itself
                await self._look(loop.time() - start)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, now_s: float) -> None:
        for pattern in (await self._stage.page("/health/patterns"))["patterns"]:
            if pattern["id"] not in self.sightings:
                self.sightings[pattern["id"]] = Sighting(
                    now_s,
                    pattern["kind"],
                    frozenset(pattern["providers"]),
                    pattern["cause"],
                    pattern["confidence"],
                )
        for healing in (await self._stage.page("/health/healings"))["healings"]:
            self.healings[healing["id"]] = healing


async def run(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    """Play it, print it; 1 where it was stopped or a process died."""
    loop = asyncio.get_running_loop()
    started: asyncio.Future[float] = loop.create_future()
    async with contextlib.AsyncExitStack() as stack:
        stages = {}
        for name, sections in SETTINGS.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amaru-incidents-")))
            stage = Stage(
                directory, w.profiles(), arguments.seed, policy=arguments.policy, twin=False, sections=sections
            )
            stages[name] = await stack.enter_async_context(stage)
        placed, faults, lasts_s = w.schedule(stages["on"].ranking, arguments.rounds)
        print(f"{len(placed)} incidents in {lasts_s / 60:.0f} minutes ...", file=sys.stderr)
        lanes = [
            Lane(
                name,
                Caller(
                    f"{stage.gateway_url}/v1",
                    MODEL,
                    habits=Habits(patience_s=PATIENCE_S),
                    rng=random.Random(arguments.seed),
                ),
            )
            for name, stage in stages.items()
        ]
        watch = Watch(stages["on"])
        beside = [
            loop.create_task(watch.run(started)),
            loop.create_task(_strike(list(stages.values()), faults, started)),
            *(loop.create_task(_end_with(stage, stop)) for stage in stages.values()),
        ]
        try:
            told_of = await play(
                w.endless(),
                lanes,
                speed=arguments.speed,
                seed=arguments.seed,
                stop=stop,
                duration_s=lasts_s,
                on_start=started.set_result,
            )
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            for lane in lanes:
                await lane.caller.aclose()
    text = report(placed, list(watch.sightings.values()), list(watch.healings.values()), lanes, arguments)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        kept = {"sightings": list(watch.sightings.values()), "healings": list(watch.healings.values())}
        (arguments.out / "incidents.json").write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
    if not told_of.complete:
        print("It was stopped on the way: no figure to quote.", file=sys.stderr)
        return 1
    if arguments.write is not None:
        write_between(arguments.write, "incidents", text)
    return 0


async def _strike(stages: Sequence[Stage], faults: Iterable[Incident], started: asyncio.Future[float]) -> None:
    start = await asyncio.shield(started)
    loop = asyncio.get_running_loop()
    for incident in faults:
        await asyncio.sleep(start + incident.at_s - loop.time())
        for stage in stages:
            try:
                await stage.strike(incident.provider, incident.fault)
            except AmaruError as error:
                print(f"{incident.provider}: could not be struck: {told(error)}", file=sys.stderr)


async def _end_with(stage: Stage, stop: asyncio.Event) -> None:
    print(await stage.died(), file=sys.stderr)
    stop.set()


# --- what came of it --------------------------------------------------------------------------------------------------


def report(
    placed: Sequence[w.Placed],
    sightings: Sequence[Sighting],
    healings: Sequence[dict[str, Any]],  # Any: JSON
    lanes: Sequence[Lane],
    arguments: argparse.Namespace,
) -> str:
    """All tables, in Markdown."""
    words = (
        f"{len(placed)} incidents over {arguments.rounds} rounds, policy {arguments.policy}, seed {arguments.seed}, "
        f"{len(lanes[0].samples):,} requests through each. {machine_words()}."
    )
    acted = [healing for healing in healings if healing["kind"] != "nothing"]
    ended = sum(bool(healing.get("ended_at")) for healing in acted)
    return "\n\n".join(
        (
            words,
            _seen(placed, sightings),
            _served(placed, lanes),
            f"{len(acted)} healings were applied, {ended} of them had ended by then.",
        )
    )


def matches(incident: w.Placed, sighting: Sighting) -> bool:
    """Whether the sighting names this incident."""
    return (
        sighting.kind == incident.course.pattern
        and bool(sighting.providers & incident.providers)
        and incident.at_s <= sighting.at_s <= incident.until_s + LATE_S
    )


def excused(incident: w.Placed, sighting: Sighting) -> bool:
    """Whether the sighting is true of this incident though it is not its own pattern: its parts, and its end."""
    if not sighting.providers & incident.providers or sighting.at_s < incident.at_s:
        return False
    if sighting.kind == w.RECOVERY:
        return sighting.at_s <= incident.until_s + w.CALM_S
    # Each of the providers that fail together degrades; and one that is gone is degraded.
    return sighting.kind == w.DEGRADATION and sighting.at_s <= incident.until_s + LATE_S


def _seen(placed: Sequence[w.Placed], sightings: Sequence[Sighting]) -> str:
    rows = []
    for kind in (w.DEGRADATION, w.API_CHANGE, w.RESONANCE):
        own = [incident for incident in placed if incident.course.pattern == kind]
        firsts = [min((s.at_s for s in sightings if matches(incident, s)), default=None) for incident in own]
        delays = [first - incident.at_s for first, incident in zip(firsts, own, strict=True) if first is not None]
        leads = [
            incident.at_s + incident.course.hard_at_s - first
            for first, incident in zip(firsts, own, strict=True)
            if first is not None and incident.course.hard_at_s is not None
        ]
        named = [s for s in sightings if s.kind == kind]
        true = [s for s in named if any(matches(i, s) or excused(i, s) for i in placed)]
        rows.append(_row(kind, len(own), len(delays), len(named), len(true), delays, leads))
    named = [s for s in sightings if s.kind == w.RECOVERY]
    true = [s for s in named if any(excused(i, s) for i in placed)]
    ends = [min((s.at_s - i.until_s for s in named if excused(i, s)), default=None) for i in placed]
    found = [max(end, 0.0) for end in ends if end is not None]
    rows.append(_row(w.RECOVERY, len(placed), len(found), len(named), len(true), found, []))
    head = ("pattern", "incidents", "found (recall)", "named", "true (precision)", "delay, median", "lead, median")
    return table(head, rows)


def _row(
    kind: str, incidents: int, found: int, named: int, true: int, delays: Sequence[float], leads: Sequence[float]
) -> list[str]:
    return [
        kind,
        str(incidents),
        f"{found} ({share(found / incidents)})",
        str(named),
        f"{true} ({share(true / named)})" if named else "0",
        seconds(statistics.median(delays)) if delays else "-",
        seconds(statistics.median(leads)) if leads else "-",
    ]


def _served(placed: Sequence[w.Placed], lanes: Sequence[Lane]) -> str:
    judge = Judge(w.profiles())
    rows = []
    for course in w.COURSES:
        spans = [(incident.at_s, incident.until_s) for incident in placed if incident.course is course]
        rows.append(_lanes_row(course.name, lanes, spans, judge))
    ends = [0.0, *(incident.until_s for incident in placed)]
    calm = list(zip(ends, [*(incident.at_s for incident in placed), float("inf")], strict=True))
    rows.append(_lanes_row("calm, between them", lanes, calm, judge))
    columns = [f"{what}, healing {lane.name}" for what in ("served", "p99", "utility") for lane in lanes]
    return table(("while", "requests", *columns), rows)


def _lanes_row(name: str, lanes: Sequence[Lane], spans: Sequence[tuple[float, float]], judge: Judge) -> list[str]:
    within = [_within(lane.samples, spans) for lane in lanes]
    return [
        name,
        f"{len(within[0]):,}",
        *(share(sum(sample.ok for sample in samples) / max(len(samples), 1)) for samples in within),
        *(seconds(quantiles(sample.latency_s for sample in samples if sample.ok).p99) for samples in within),
        *(f"{statistics.fmean([judge.utility(s) for s in samples] or [0.0]):.4f}" for samples in within),
    ]


def _within(samples: Sequence[Sample], spans: Sequence[tuple[float, float]]) -> list[Sample]:
    return [s for s in samples if s.error != "unfinished" and any(a <= s.at_s < b for a, b in spans)]


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each kind of incident is played")
    parser.add_argument("--speed", type=float, default=2.5, help="of the bundled trace: about 7 requests a second each")
    parser.add_argument("--policy", default="rules", help="by which both route")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a folder for every sighting and healing, as JSON")
    parser.add_argument("--write", type=Path, help="the page whose tables are to be replaced")
    arguments = parser.parse_args()
    return run_until_signalled(lambda stop: run(arguments, stop))


if __name__ == "__main__":
    raise SystemExit(main())
