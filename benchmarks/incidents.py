"""The four patterns, made by real HTTP providers: what amaru sees of them, how soon, and what healing does for callers.

python benchmarks/incidents.py [--meshes 5] [--incidents 10] [--seed 7] [--out DIR] [--write PAGE]

Each mesh is two amarus side by side, each before four simulated providers of its own: one senses, predicts and heals
(the defaults), the other does none of it (`health.enabled: false`) and has breakers and failover alone. Both get the
same requests at the same instants, and the same incidents strike both: the two providers that get most of the traffic.
The meshes run at the same time, and each begins with another incident at another place of the trace.

An incident is *found* where amaru names its pattern for a provider that was struck, between its beginning and its end
and `LATE_S` more. Whatever is named that is not true of an incident counts against precision. *Served* is the share of
requests that got a whole answer that says something, while the incident lasted; times are those of its first token.

What is rare (false alarms in days of calm) and what needs many incidents (calibration) is in `incident_patterns.py`,
which needs no network.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

import incident_world as w
from incident_report import Played, Sighting, report
from wargame_page import machine_words, write_between

from amaru.errors import AmaruError
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.demo_stage import MODEL, Stage, told
from amaru.readiness.player import Lane, play
from amaru.readiness.running import run_until_signalled
from amaru.simulation.faults import Incident

SETTINGS: dict[str, dict[str, object]] = {
    "on": {},
    "off": {"health": {"enabled": False}, "stability": {"enabled": False}},
}
LOOK_EVERY_S = 1.0
PATIENCE_S = 15.0
WARNS = 0.5


class Watch:
    """Reads what one gateway names, foresees and does, and when each was first there."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._warned: set[str] = set()
        self.sightings: dict[str, Sighting] = {}
        self.healings: dict[str, dict[str, Any]] = {}  # Any: JSON
        self.warnings: list[tuple[float, str]] = []

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
                providers = frozenset(pattern["providers"])
                self.sightings[pattern["id"]] = Sighting(
                    now_s, pattern["kind"], providers, pattern["cause"], pattern["confidence"]
                )
        for healing in (await self._stage.page("/health/healings"))["healings"]:
            self.healings[healing["id"]] = healing
        for provider in (await self._stage.page("/health/providers"))["providers"]:
            name = provider["provider"]
            if provider["failure_probability"] < WARNS:
                self._warned.discard(name)
            elif name not in self._warned:
                self._warned.add(name)
                self.warnings.append((now_s, name))


class Mesh:
    """One mesh: its two stages, its incidents, its callers."""

    def __init__(self, number: int, arguments: argparse.Namespace) -> None:
        self.number = number
        self.placed, self._faults, self.lasts_s = w.schedule(number, arguments.incidents)
        self._seed = arguments.seed + number
        self._policy = arguments.policy
        self._share = number / arguments.meshes
        self._stages: dict[str, Stage] = {}

    async def build(self, stack: contextlib.AsyncExitStack) -> None:
        """Start its processes."""
        for name, sections in SETTINGS.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amaru-incidents-")))
            stage = Stage(directory, w.profiles(), self._seed, policy=self._policy, twin=False, sections=sections)
            self._stages[name] = await stack.enter_async_context(stage)

    async def play(self, stop: asyncio.Event) -> Played:
        """Live through its incidents."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[float] = loop.create_future()
        watch = Watch(self._stages["on"])
        beside = [
            loop.create_task(watch.run(started)),
            loop.create_task(_strike(list(self._stages.values()), self._faults, started)),
            *(loop.create_task(_end_with(stage, stop)) for stage in self._stages.values()),
        ]
        lanes = [self._lane(name, stage) for name, stage in self._stages.items()]
        try:
            await play(
                w.endless(self._share),
                lanes,
                speed=1.0,
                seed=self._seed,
                stop=stop,
                duration_s=self.lasts_s,
                on_start=started.set_result,
            )
        finally:
            for task in beside:
                task.cancel()
            for ended in await asyncio.gather(*beside, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
            for lane in lanes:
                await lane.caller.aclose()
        sightings, healings = list(watch.sightings.values()), list(watch.healings.values())
        return Played(self.placed, sightings, healings, lanes, watch.warnings)

    def _lane(self, name: str, stage: Stage) -> Lane:
        habits, rng = Habits(patience_s=PATIENCE_S), random.Random(self._seed)
        return Lane(name, Caller(f"{stage.gateway_url}/v1", MODEL, habits=habits, rng=rng))


async def run(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    """Play it, print it; 1 where it was stopped or a process died."""
    meshes = [Mesh(number, arguments) for number in range(arguments.meshes)]
    async with contextlib.AsyncExitStack() as stack:
        for mesh in meshes:
            await mesh.build(stack)
        struck, minutes = sum(len(mesh.placed) for mesh in meshes), max(mesh.lasts_s for mesh in meshes) / 60
        print(f"{struck} incidents in {minutes:.0f} minutes ...", file=sys.stderr)
        played = await asyncio.gather(*(mesh.play(stop) for mesh in meshes))
    requests = sum(len(one.lanes[0].samples) for one in played)
    words = (
        f"{struck} incidents in {len(meshes)} meshes of four providers, policy {arguments.policy}, seed "
        f"{arguments.seed}; {requests:,} requests through each side. {machine_words()}."
    )
    text = f"{words}\n\n{report(played)}"
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for mesh, one in zip(meshes, played, strict=True):
            kept = {
                "incidents": [(i.at_s, i.until_s, i.course.name, i.providers) for i in one.placed],
                "sightings": one.sightings, "warnings": one.warnings, "healings": one.healings,
                "samples": {lane.name: [_brief(sample) for sample in lane.samples] for lane in one.lanes},
            }  # fmt: skip
            (arguments.out / f"mesh-{mesh.number}.json").write_bytes(msgspec.json.encode(kept))
    if stop.is_set():
        print("It was stopped on the way: no figure to quote.", file=sys.stderr)
        return 1
    if arguments.write is not None:
        write_between(arguments.write, "incidents", text)
    return 0


def _brief(sample: Any) -> tuple[object, ...]:  # Any: a Sample
    return (
        round(sample.at_s, 2), sample.first_token_s, sample.latency_s, sample.error, sample.content_events,
        sample.provider, sample.attempts, sample.client_retries,
    )  # fmt: skip


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


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=int, default=5, help="how many run at the same time")
    parser.add_argument("--incidents", type=int, default=10, help="in each mesh, one after the other")
    parser.add_argument("--policy", default="rules", help="by which both sides route")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a folder for what each mesh saw and did, as JSON")
    parser.add_argument("--write", type=Path, help="the page whose tables are to be replaced")
    arguments = parser.parse_args()
    return run_until_signalled(lambda stop: run(arguments, stop))


if __name__ == "__main__":
    raise SystemExit(main())
