"""Real traces at 20x through seven simulated providers that fall ill in turns: what a buyer gets of them, and how.

python benchmarks/replay_goodput.py [--trace azure,mooncake] [--speed 20] [--seconds 60] [--offset-s 0]
                                    [--slo-ttft-ms 800] [--only amaru,cobalt] [--headroom 2] [--calm] [--out DIR]
                                    [--write docs/explanation/performance.md]

The contenders: amaru (with its defaults; told that this buyer wants quick answers; choosing by lot), each provider
alone, a client that takes turns (round robin), and nginx with weights, by turns and by fewest connections. Requests
leave at the trace's own times, whatever became of the ones before (`amaru.readiness.player`); every client has the
``openai`` library's habit of two retries. `replay_world` has the providers, the incidents and the contenders.

Goodput counts answers that are whole and whose first token came within the objective, per second of the run. Latencies
are of whole answers alone, so one that serves few can look quick. The cost is what the providers bill in all, also for
broken answers and failed attempts, per thousand good answers. A run whose generator was late (99th percentile above
100 ms), or whose cores were taken, is marked: its figures are the machine's, not the contender's.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

import replay_world as w
import rig

from amaru.errors import AmaruError
from amaru.readiness.markdown import seconds as seconds_text
from amaru.readiness.markdown import share, table, usd
from amaru.readiness.measuring import Summary, summarize
from amaru.readiness.player import Lane, play
from amaru.readiness.replay_report import ReplayRun, write_report
from amaru.readiness.running import room_for_connections, run_until_signalled
from amaru.simulation.faults import Incident
from amaru.simulation.traces import TraceRequest, open_trace

DATA = Path(__file__).parent.parent.parent / "shared/data"
TRACES = {
    "azure": DATA / "azure/AzureLLMInferenceTrace_conv.csv",
    "mooncake": DATA / "mooncake/conversation_trace.jsonl",
}
SINGLE = tuple(profile.name for profile in w.SEVEN)
BASELINES = ("round-robin", "nginx", "nginx-least-conn")
CONTENDERS = (*w.AMARUS, *SINGLE, *BASELINES)
NAMES = {
    "amaru": "amaru",
    "amaru-latency": "amaru, weights for latency",
    "amaru-random": "amaru, policy `random`",
    **{name: f"{name} alone" for name in SINGLE},
    "round-robin": "round robin",
    "nginx": "nginx, weighted",
    "nginx-least-conn": "nginx, weighted, `least_conn`",
}
BEGIN, END = "<!-- replay goodput: begin -->", "<!-- replay goodput: end -->"
GRACE_S = 30.0
MOST_IN_FLIGHT = 6000
LATEST_S = 0.1
"""99th percentile of the generator's lag above which a run is not valid."""
BUSIEST = 0.97
"""Share of a core's time above which waiting for it must be expected to show."""


@dataclass
class Result:
    """What one contender made of one trace."""

    contender: str
    summary: Summary
    billed_usd: float
    busy: list[float]
    """Share of each core's time that was taken, by whomever: the generator's, and the world's."""
    complete: bool
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        lag_s = self.summary.lag.p99
        return self.complete and lag_s is not None and lag_s <= LATEST_S and max(self.busy) <= BUSIEST

    @property
    def usd_per_1k(self) -> float | None:
        return 1000 * self.billed_usd / self.summary.good if self.summary.good else None


def main() -> int:
    """Run and print; 1 where it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", default=",".join(TRACES), help="of azure, mooncake")
    parser.add_argument("--speed", type=float, default=20.0, help="how many times faster than the trace")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a run; 0: the whole trace")
    parser.add_argument("--offset-s", type=float, default=0.0, help="begin so many seconds (of the trace) into it")
    parser.add_argument("--slo-ttft-ms", type=float, default=800.0, help="the objective for the first token")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, of " + ", ".join(CONTENDERS))
    parser.add_argument("--headroom", type=float, default=2.0, help="what the seven sustain, over the mean load")
    parser.add_argument("--calm", action="store_true", help="without incidents")
    parser.add_argument("--out", type=Path, help="a folder for each run's replay report, and goodput.json")
    parser.add_argument("--write", type=Path, help="the page whose tables are to be replaced")
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - set(CONTENDERS) | set(arguments.trace.split(",")) - set(TRACES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    room_for_connections(MOST_IN_FLIGHT)
    os.sched_setaffinity(0, {sorted(w.ALL_CORES)[w.LOAD_CORE]})
    return run_until_signalled(lambda stop: compare(arguments, stop))


async def compare(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    """Every trace through every contender."""
    cores = sorted(w.ALL_CORES)
    where = f"The load generator has core {cores[w.LOAD_CORE]} to itself; providers and gateway share core "
    said = [f"Machine: {rig.machine()}, {time.strftime('%B %Y')}. {where}{cores[w.WORLD_CORE % len(cores)]}.\n"]
    print(said[0], flush=True)
    found: dict[str, list[Result]] = {}
    for trace in arguments.trace.split(","):
        if not TRACES[trace].exists():
            print(f"{trace}: skipped, there is no {'/'.join(TRACES[trace].parts[-4:])}\n")
            continue
        requests, seconds = window(TRACES[trace], arguments.offset_s, arguments.seconds, arguments.speed)
        sizing = w.sized(requests, seconds, arguments.headroom)
        said.append(described(trace, requests, seconds, sizing, arguments))
        print(said[-1], flush=True)
        results = found[trace] = []
        for contender in arguments.only.split(","):
            if stop.is_set():
                break
            if contender.startswith("nginx") and not w.has_nginx():
                print(f"{contender}: skipped, nginx is not installed\n")
                continue
            result = await run(contender, trace, requests, seconds, sizing, arguments, stop)
            results.append(result)
            print(f"  {progress(result)}", file=sys.stderr, flush=True)
        said.append(rendered(results, arguments.slo_ttft_ms))
        print(said[-1], flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / "goodput.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    if arguments.write and not stop.is_set():
        write_between_markers(arguments.write, "\n".join(said))
    return int(stop.is_set())


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the markers of ``page``."""
    old = page.read_text()
    begin, end = old.index(BEGIN) + len(BEGIN), old.index(END)
    page.write_text(f"{old[:begin]}\n\n{text}\n{old[end:]}")


def window(path: Path, offset_s: float, seconds: float, speed: float) -> tuple[list[TraceRequest], float]:
    """The requests of a part of the trace, and how long they take to play; ``seconds`` are of the run."""
    found = []
    for request in open_trace(path).requests:
        at_s = request.at_s - offset_s
        if seconds and at_s >= seconds * speed:
            break
        if at_s >= 0:
            found.append(msgspec.structs.replace(request, at_s=at_s))
    if not found:
        raise SystemExit(f"{path.name}: nothing stands {offset_s:g} s into it; choose a smaller --offset-s")
    return found, min(seconds or math.inf, found[-1].at_s / speed + 0.001)


async def run(
    contender: str,
    trace: str,
    requests: Sequence[TraceRequest],
    seconds: float,
    sizing: w.Sizing,
    arguments: argparse.Namespace,
    stop: asyncio.Event,
) -> Result:
    """One trace through one contender, in a fresh world."""
    loop = asyncio.get_running_loop()
    striking: list[asyncio.Task[None]] = []
    cores: list[list[tuple[int, int]]] = []
    with tempfile.TemporaryDirectory(prefix="amaru-bench-") as name:
        async with w.World(contender, sizing, Path(name)) as world:
            lane = Lane(contender, world.caller, max_in_flight=MOST_IN_FLIGHT)

            def begun(start: float) -> None:
                cores.append(core_times())
                if not arguments.calm:
                    incidents = w.incidents(seconds)
                    striking.extend(loop.create_task(strike(world, incident, start)) for incident in incidents)

            started_at = time.time()
            played = await play(
                requests,
                (lane,),
                speed=arguments.speed,
                seed=w.SEED,
                stop=stop,
                duration_s=seconds,
                grace_s=GRACE_S,
                on_start=begun,
            )
            cores.append(core_times())
            for task in striking:
                task.cancel()
            for problem in await asyncio.gather(*striking, return_exceptions=True):
                if isinstance(problem, Exception):
                    raise problem
            billed_usd, told = await world.billed_usd(), await world.told()
    slo_s = arguments.slo_ttft_ms / 1000
    if arguments.out:
        report = ReplayRun(
            samples=lane.samples,
            dropped=lane.dropped,
            duration_s=played.duration_s,
            complete=played.complete,
            target=f"http://127.0.0.1/{contender}",
            model=w.MODEL,
            trace=TRACES[trace].name,
            trace_format=trace,
            speed=arguments.speed,
            slo_first_token_s=slo_s,
            started_at=started_at,
            command=f"python benchmarks/replay_goodput.py --only {contender}",
            machine={"machine": rig.machine()},
            client=msgspec.to_builtins(w.HABITS),
        )
        write_report(report, arguments.out / trace / contender)
    return Result(
        contender=contender,
        summary=summarize(lane.samples, duration_s=played.duration_s, slo_first_token_s=slo_s, dropped=lane.dropped),
        billed_usd=billed_usd,
        busy=[1 - (idle - idle0) / max(1, all_ - all0) for (idle0, all0), (idle, all_) in zip(*cores, strict=True)],
        complete=played.complete,
        told=told,
    )


async def strike(world: w.World, incident: Incident, start: float) -> None:
    """Wait for an incident's time, and switch it on."""
    await asyncio.sleep(start + incident.at_s - asyncio.get_running_loop().time())
    try:
        await world.strike(incident)
    except AmaruError as error:
        raise AmaruError(f"the incident of {incident.provider} at {incident.at_s:.1f} s: {error}") from error


def core_times() -> list[tuple[int, int]]:
    """Idle and all ticks of the two cores in use."""
    found = []
    lines = Path("/proc/stat").read_text().splitlines()
    for core in sorted(w.ALL_CORES)[:2]:
        ticks = next([int(t) for t in line.split()[1:9]] for line in lines if line.startswith(f"cpu{core} "))
        found.append((ticks[3] + ticks[4], sum(ticks)))
    return found


# --- in words -------------------------------------------------------------------------------------------------------


def described(
    trace: str, requests: Sequence[TraceRequest], seconds: float, sizing: w.Sizing, arguments: argparse.Namespace
) -> str:
    """The load, and what the providers sustain."""
    inputs, outputs = sum(r.input_tokens for r in requests), sum(r.output_tokens for r in requests)
    most = ", ".join(f"{name} {per_s:.0f}" for name, per_s in sizing.sustained_per_s.items())
    from_s = f", from {arguments.offset_s:g} s into it" if arguments.offset_s else ""
    return (
        f"### {TRACES[trace].name} at {arguments.speed:g}x{from_s}\n\n"
        f"{len(requests):,} requests in {seconds:.0f} s ({sizing.requests_per_s:.1f} a second), on average "
        f"{inputs / len(requests):,.0f} tokens in and {outputs / len(requests):,.0f} out.\n"
        f"Full, the providers sustain so many of them a second: {most}; together "
        f"{arguments.headroom:g} times the mean load.\n"
        + ("No incidents.\n" if arguments.calm else "".join(f"- {line}\n" for line in incident_lines(seconds)))
    )


def incident_lines(seconds: float) -> list[str]:
    """Each incident in a line."""
    return [
        f"{i.at_s:.0f} to {i.at_s + (i.duration_s or 0):.0f} s: {i.provider} {i.fault.describe()}"
        for i in w.incidents(seconds)
    ]


def progress(result: Result) -> str:
    """A contender's line on standard error, with what its failures were and who served."""
    s = result.summary
    return (
        f"{result.contender}: {s.good} of {s.sent + s.dropped} good, {s.served} whole; errors {s.errors}; "
        f"by {s.by_provider}; failed over {s.saved_by_failover}, joined {s.joined}, client retries {s.client_retries}; "
        f"unfinished {s.unfinished}, dropped {s.dropped}; busy {'/'.join(f'{b:.0%}' for b in result.busy)}, "
        f"lag p99 {seconds_text(s.lag.p99)}"
    )


HEAD = (
    "contender", "sent", "whole", "broken streams", "goodput/s", "in the objective", "TTFT p50", "p95", "p99",
    "whole answer p95", "tokens/s", "USD per 1k good", "lag p99", "cores busy",
)  # fmt: skip


def rendered(results: Sequence[Result], slo_ms: float) -> str:
    """The table, best of each column in bold, and amaru's goodput over the others'."""
    # Column → its figure, whether more is better, and how it is written; those without a figure are not compared.
    columns = (
        (lambda r: r.summary.served / max(1, r.summary.sent + r.summary.dropped), True, share),
        (lambda r: r.summary.broken_streams, False, lambda v: f"{v:,}"),
        (lambda r: r.summary.goodput_per_s, True, lambda v: f"{v:.1f}"),
        (lambda r: r.summary.goodput_share, True, share),
        (lambda r: r.summary.first_token.p50, False, seconds_text),
        (lambda r: r.summary.first_token.p95, False, seconds_text),
        (lambda r: r.summary.first_token.p99, False, seconds_text),
        (lambda r: r.summary.latency.p95, False, seconds_text),
        (lambda r: r.summary.output_tokens_per_s, True, lambda v: f"{v:,.0f}"),
        (lambda r: r.usd_per_1k, False, lambda v: "-" if v is None else usd(v)),
    )
    cells: list[list[str]] = [
        [NAMES[r.contender] + ("" if r.valid else " (not valid)"), f"{r.summary.sent:,}"] for r in results
    ]
    for figure, more, written in columns:
        values = [figure(r) for r in results]
        known = [value for value in values if value is not None]
        best = (max if more else min)(known, default=None)
        for row, value in zip(cells, values, strict=True):
            row.append(f"**{written(value)}**" if value is not None and value == best else written(value))
    for row, result in zip(cells, results, strict=True):
        row += [seconds_text(result.summary.lag.p99), " / ".join(f"{busy:.0%}" for busy in result.busy)]
    invalid = [result.contender for result in results if not result.valid]
    notes = [f"The objective: a first token within {slo_ms:g} ms, and the answer whole."]
    if invalid:
        notes.append(f"Not valid, since this machine could not keep up: {', '.join(invalid)}.")
    return table(HEAD, cells) + "\n\n" + "\n".join(notes + ratios(results)) + "\n"


def ratios(results: Sequence[Result]) -> list[str]:
    """amaru's goodput over that of the best provider alone, and of the others."""
    goodput = {result.contender: result.summary.goodput_per_s for result in results}
    ours = [contender for contender in goodput if contender.startswith("amaru")]
    theirs = {contender: goodput[contender] for contender in BASELINES if contender in goodput}
    alone = [contender for contender in SINGLE if contender in goodput]
    if alone:
        best = max(alone, key=goodput.__getitem__)
        theirs = {f"{best}, the best alone": goodput[best], **theirs}
    return [
        f"- {NAMES[contender]}: "
        + ", ".join(
            f"{goodput[contender] / max(per_s, 1e-9):.2f} times {NAMES.get(name, name)}"
            for name, per_s in theirs.items()
        )
        for contender in ours
        if theirs
    ]


if __name__ == "__main__":
    sys.exit(main())
