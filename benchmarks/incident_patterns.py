"""How well patterns and predictions foresee generated incidents, and how quiet they are in calm.

python benchmarks/incident_patterns.py [--hours 48] [--worlds 4] [--days 30] [--write docs/explanation/foresight.md]

Everything comes from seeds: incidents of nine kinds in meshes of ten providers and twenty offers with diurnal load and
noise (``amaru.health.incidents``), and a month of calm. Seeds from 1000 on are held out: what was tuned and fitted saw
others only. Half an attempt per second and offer in the mean, a seventh of one at night, three in ten looked at.

A pattern that was told is right if its offers are ill at that time in the way that it names (of a resonance: if its
trait is the true one, and none is named that is well; of a recovery: if the illness is over). An incident is recognised
if a right pattern of its kind was told before it ended; a recovery counts within ten minutes. Each row's interval is
Wilson's, of 95 %. Half an hour in all.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from incident_moments import AHEAD_S, joined, moments
from wargame_page import machine_words, write_between

from amaru.health.features import ERRORS_FAST, NOTHING_KNOWN
from amaru.health.incident_types import GRADUAL, Incident, Trouble, mesh_of
from amaru.health.incidents import World, troubled_times
from amaru.health.pattern_types import InfrastructurePattern, PatternKind, PatternSettings
from amaru.health.patterns import Patterns
from amaru.health.prediction import OFTEN, WARNS, Prediction
from amaru.health.signature import Signatures

HELD_OUT = 1000
SLACK_S = 60.0
"""A pattern told so soon after an illness ended is not wrong: what it rests upon was seen before."""
RECOVERY_S = 600.0
WARNED_DAYS = 3.0
"""Of calm, in which predictions are looked at."""


class Counts(msgspec.Struct):
    """Of one kind of pattern, or of one kind of trouble."""

    told: int = 0
    right: int = 0
    happened: int = 0
    recognised: int = 0
    delays: list[float] = msgspec.field(default_factory=list)

    @property
    def precision(self) -> float:
        return self.right / self.told if self.told else math.nan

    @property
    def recall(self) -> float:
        return self.recognised / self.happened if self.happened else math.nan


class Played(msgspec.Struct):
    """What one world showed."""

    told: list[InfrastructurePattern]
    """Every pattern that began, and every recovery."""
    warned: dict[str, list[float]]
    """By offer, when its prediction rose to ``WARNS``."""
    attempts: int
    look_s: list[float]
    """Time that each look took, of the processor."""


def played(world: World, seconds: float, *, predict: bool = True) -> Played:
    """Live through a world, looking once a second; predictions every five."""
    patterns, signatures, prediction = Patterns(PatternSettings(), world.mesh.traits), Signatures(), Prediction()
    offers = [traits.offer for traits in world.mesh.traits]
    told: dict[str, InfrastructurePattern] = {}
    warned: dict[str, list[float]] = {offer: [] for offer in offers}
    warns = dict.fromkeys(offers, False)
    found = Played([], warned, 0, [])
    look_at, predict_at = -math.inf, world.begins + 1800.0
    for observation in world.observations(seconds):
        found.attempts += 1
        patterns.observe(observation)
        if predict:
            signatures.observe(observation)
        if observation.at < look_at:
            continue
        look_at = observation.at + 1.0
        since = time.process_time()
        for pattern in patterns.look(observation.at):
            told.setdefault(pattern.id, pattern)
        found.look_s.append(time.process_time() - since)
        if predict and observation.at >= predict_at:
            predict_at = observation.at + 5.0
            for offer in offers:
                high = prediction.predict(signatures.features(offer, observation.at)) >= WARNS
                if high and not warns[offer]:
                    warned[offer].append(observation.at)
                warns[offer] = high
    found.told = list(told.values())
    return found


def names(pattern: InfrastructurePattern, incident: Incident) -> bool:
    """Whether the pattern rightly names the incident."""
    cause = pattern.cause.partition(":")[0]
    theirs = set(pattern.offers) & set(incident.offers)
    if pattern.kind is PatternKind.RESONANCE:
        traits = pattern.cause.split(" + ")
        inside = incident.begins <= pattern.at <= incident.ends + SLACK_S
        return inside and incident.trait in traits and set(pattern.providers) <= set(incident.providers)
    if pattern.kind is PatternKind.RECOVERY:
        cause_named = cause in incident.shows or incident.trait in pattern.cause.split(" + ")
        return bool(theirs) and cause_named and incident.ends <= pattern.at <= incident.ends + 2.0 * RECOVERY_S
    return bool(theirs) and cause in incident.shows and incident.begins <= pattern.at <= incident.ends + SLACK_S


def weighed(
    told: Sequence[InfrastructurePattern], incidents: Sequence[Incident]
) -> tuple[dict[PatternKind, Counts], dict[Trouble, Counts], list[InfrastructurePattern]]:
    """Counts by kind of pattern and by trouble, and the patterns that were wrong."""
    by_kind: dict[PatternKind, Counts] = defaultdict(Counts)
    by_trouble: dict[Trouble, Counts] = defaultdict(Counts)
    wrong = []
    for pattern in told:
        right = any(names(pattern, one) for one in incidents)
        by_kind[pattern.kind].told += 1
        by_kind[pattern.kind].right += right
        if not right:
            wrong.append(pattern)
    for one in incidents:
        found = [p.at for p in told if p.kind is one.kind and p.at <= one.ends and names(p, one)]
        for counts in (by_kind[one.kind], by_trouble[one.trouble]):
            counts.happened += 1
            counts.recognised += bool(found)
            counts.delays += [min(found) - one.begins] if found else []
        if found and one.trouble is not Trouble.RESHAPED:  # another shape that stays becomes usual: nothing recovers
            back = [p.at - one.ends for p in told if p.kind is PatternKind.RECOVERY and names(p, one)]
            counts = by_kind[PatternKind.RECOVERY]
            counts.happened += 1
            counts.recognised += bool(back) and min(back) <= RECOVERY_S
            counts.delays += [min(back)] if back else []
    return by_kind, by_trouble, wrong


def leads(played: Played, incidents: Sequence[Incident]) -> dict[Trouble, list[tuple[float, float]]]:
    """Of gradual incidents: seconds from the first right pattern, and from the first warning of either, to the hard
    failure. Where nothing was told until its end, minus the time from failure to end."""
    found: dict[Trouble, list[tuple[float, float]]] = defaultdict(list)
    for one in incidents:
        if one.trouble in GRADUAL and one.hard_at is not None:
            right = [p.at for p in played.told if p.kind is PatternKind.DEGRADATION and names(p, one)]
            at = min(right, default=one.ends)
            warned = [t for offer in one.offers for t in played.warned[offer] if one.begins <= t <= one.ends]
            found[one.trouble].append((one.hard_at - at, one.hard_at - min([at, *warned])))
    return found


def add(to: dict, counts: dict) -> None:
    """Sum counts."""
    for key, one in counts.items():
        into = to[key]
        into.told, into.right = into.told + one.told, into.right + one.right
        into.happened, into.recognised = into.happened + one.happened, into.recognised + one.recognised
        into.delays += one.delays


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return math.nan, math.nan
    z, p = 1.96, successes / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


def share(successes: int, n: int) -> str:
    """A share with its interval, in words."""
    low, high = wilson(successes, n)
    return f"{successes / n:.3f} ({low:.2f} to {high:.2f})" if n else "none"


def spread(values: Sequence[float]) -> str:
    """Median, and tenth and ninetieth percentile."""
    if not values:
        return "none"
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:.0f} s ({low:.0f} to {high:.0f})"


def of_incidents(worlds: int, hours: float) -> str:
    """The tables of patterns, troubles and lead times."""
    by_kind: dict[PatternKind, Counts] = defaultdict(Counts)
    by_trouble: dict[Trouble, Counts] = defaultdict(Counts)
    ahead: dict[Trouble, list[tuple[float, float]]] = defaultdict(list)
    confident: list[tuple[float, bool]] = []
    for seed in range(HELD_OUT, HELD_OUT + worlds):
        mesh = mesh_of()
        world = World(mesh, troubled_times(mesh, seed, hours), seed)
        seen = played(world, 3600.0 * hours)
        kinds, troubles, wrong = weighed(seen.told, world.incidents)
        add(by_kind, kinds)
        add(by_trouble, troubles)
        for trouble, times in leads(seen, world.incidents).items():
            ahead[trouble] += times
        confident += [(one.confidence, one not in wrong) for one in seen.told]
        print(f"world {seed}: {len(world.incidents)} incidents, {seen.attempts} attempts, {len(wrong)} patterns wrong")
        for one in wrong:
            print(f"  wrong: {one.kind} {one.cause}: {one.detail}")
    lines = [
        "| pattern | told | precision | incidents | recall | from its beginning to the pattern |",
        "|---|--:|---|--:|---|---|",
    ]
    for kind in PatternKind:
        one = by_kind[kind]
        lines.append(
            f"| `{kind}` | {one.told} | {share(one.right, one.told)} | {one.happened} |"
            f" {share(one.recognised, one.happened)} | {spread(one.delays)} |"
        )
    lines += [
        "",
        "| trouble | incidents | recognised | delay | before the hard failure: pattern | pattern or prediction |",
    ]
    lines += ["|---|--:|---|---|---|---|"]
    for trouble in Trouble:
        one, times = by_trouble[trouble], ahead.get(trouble, [])
        first, either = spread([t for t, _ in times]), spread([t for _, t in times])
        lines.append(
            f"| {trouble} | {one.happened} | {share(one.recognised, one.happened)} | {spread(one.delays)} |"
            f" {first if times else ''} | {either if times else ''} |"
        )
    times = [pair for pairs in ahead.values() for pair in pairs]
    first, either = spread([t for t, _ in times]), spread([t for _, t in times])
    lines.append(f"| all gradual ones | {len(times)} | | | **{first}** | **{either}** |")
    said, right = statistics.fmean(c for c, _ in confident), statistics.fmean(r for _, r in confident)
    lines += ["", f"Mean confidence of all that was told: {said:.3f}; right were {right:.3f}."]
    return "\n".join(lines)


def of_calm(days: float) -> str:
    """False alarms in calm."""
    mesh = mesh_of()
    seen = played(World(mesh, (), HELD_OUT + 500), 86_400.0 * days, predict=False)
    for one in seen.told:
        print(f"  told in calm: {one.kind} {one.cause}: {one.detail}")
    alarms = sum(one.kind is not PatternKind.RECOVERY for one in seen.told)
    return (
        f"In {days:g} simulated days of calm ({seen.attempts:,} attempts at {len(mesh.traits)} offers): "
        f"**{alarms} false alarms**, {alarms / days:.2f} a day (at most 1 is asked)."
    )


def of_speed() -> str:
    """What it takes, of one core."""
    mesh = mesh_of(50)
    patterns = Patterns(PatternSettings(), mesh.traits)
    observations = list(World(mesh, (), HELD_OUT).observations(3600.0))
    since = time.process_time()
    for observation in observations:
        patterns.observe(observation)
    observe_us = 1e6 * (time.process_time() - since) / len(observations)
    looks = played(World(mesh, (), HELD_OUT), 3600.0, predict=False).look_s
    median, most = 1e6 * np.quantile(looks, [0.5, 0.99])
    prediction, row = Prediction(), np.array(NOTHING_KNOWN)
    since = time.process_time()
    for _ in range(100_000):
        prediction.predict(row)
    predict_us = 1e6 * (time.process_time() - since) / 100_000
    return (
        f"With {len(mesh.traits)} offers, of one core: {observe_us:.1f} µs an attempt for patterns; {median:.0f} µs a "
        f"look (99th percentile {most:.0f}: that is when a window closes); {predict_us:.1f} µs a prediction."
    )


def of_prediction(worlds: int, hours: float) -> str:
    """Brier scores and the reliability curve, on worlds held out."""
    parts = []
    for seed in range(HELD_OUT + 100, HELD_OUT + 100 + worlds):
        mesh = mesh_of()
        parts.append(moments(World(mesh, troubled_times(mesh, seed, hours), seed), 3600.0 * hours))
    all_of_them = joined(parts)
    prediction = Prediction()
    ours = np.array([prediction.predict(row) for row in all_of_them.features])
    well = all_of_them.features[:, ERRORS_FAST] < 0.5
    often = all_of_them.fails.mean()
    lines = [
        f"{len(ours):,} moments, {often:.2%} in a hard failure or {AHEAD_S:.0f} s before.",
        "",
        "| predictor | Brier score, all moments | where fewer than half of the latest attempts failed |",
        "|---|--:|--:|",
    ]
    for name, predicted in (
        ("ours", ours),
        (f"base rate ({OFTEN:.2%}, as fitted)", np.full(len(ours), OFTEN)),
        ("last error rate", all_of_them.features[:, ERRORS_FAST]),
    ):
        squares = (predicted - all_of_them.fails) ** 2
        lines.append(f"| {name} | {squares.mean():.5f} | {squares[well].mean():.5f} |")
    lines += ["", "| predicted | moments | mean prediction | it did fail |", "|---|--:|--:|--:|"]
    edges = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.01)
    for low, high in pairwise(edges):
        inside = (ours >= low) & (ours < high)
        if inside.sum() >= 20:
            lines.append(
                f"| {low:.0%} to {min(high, 1.0):.0%} | {int(inside.sum()):,} | {ours[inside].mean():.3f} |"
                f" {all_of_them.fails[inside].mean():.3f} |"
            )
    calm = played(World(mesh_of(), (), HELD_OUT + 501), 86_400.0 * WARNED_DAYS)
    warnings = sum(len(times) for times in calm.warned.values()) / WARNED_DAYS
    lines += ["", f"In calm, a prediction of {WARNS:.0%} or more that nothing followed came {warnings:.1f} times a day"]
    lines[-1] += f" ({len(calm.warned)} offers, {WARNED_DAYS:g} days)."
    return "\n".join(lines)


def main() -> int:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=48.0, help="of each world with incidents")
    parser.add_argument("--worlds", type=int, default=4)
    parser.add_argument("--days", type=float, default=30.0, help="of calm")
    parser.add_argument("--only", choices=("incidents", "prediction", "calm", "speed"))
    parser.add_argument("--write", type=Path, help="replace the tables in this page")
    arguments = parser.parse_args()
    parts = {
        "incidents": lambda: of_incidents(arguments.worlds, arguments.hours),
        "prediction": lambda: of_prediction(arguments.worlds, arguments.hours / 2.0),
        "calm": lambda: of_calm(arguments.days),
        "speed": of_speed,
    }
    print(machine_words())
    for name, measured in parts.items():
        if arguments.only in (None, name):
            text = f"{measured()}\n\nMeasured on {machine_words()}."
            print(f"\n{text}\n", flush=True)
            if arguments.write:
                write_between(arguments.write, f"incident-{name}", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
