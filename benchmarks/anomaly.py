"""The anomaly scorer on the Numenta Anomaly Benchmark, beside four others on the same files: the table of the docs.

python benchmarks/anomaly.py [--data ../shared/data/nab] [--write docs/explanation/anomaly.md]
python benchmarks/anomaly.py --data NAB --short [--write docs/explanation/anomaly.md --section anomaly-whole]

Every contender scores each row from the rows up to it. The benchmark's rule (``anomaly_rule``) lets each have the one
threshold that is best for it on the series that are evaluated; ours stands there with its shipped threshold too. Tuned
on are the artificial series and those of AWS; all others are test data. River (``pip install river``) must be
importable for its HalfSpaceTrees; ``--without-river`` leaves them out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from anomaly_peers import GAUSSIAN_ROWS, HAZARD_ROWS, PEERS, REST_SHARES, SEED, TREES, rested
from anomaly_rule import Floats, Gains, Series, coarser, gains_of, read
from wargame_page import machine_words, write_between

from amaru.readiness.markdown import table
from amaru.stability.anomaly import ALARM, AnomalyScorer, AnomalySettings

DATA = Path(__file__).parents[2] / "shared/data/nab"
TUNED_ON = ("artificial", "realAWSCloudwatch")
OURS = "amaru"
HALVINGS = 50
RESAMPLES = 400
COARSER = (3, 6)
WITHOUT = (
    ("as shipped", AnomalySettings()),
    ("one length: 1 row", AnomalySettings(half_lives=(1.0,))),
    ("one length: 3 rows", AnomalySettings(half_lives=(3.0,))),
    ("one length: 8 rows", AnomalySettings(half_lives=(8.0,))),
    ("no season", AnomalySettings(season_share=0.0)),
    ("one probability for all rows", AnomalySettings(alarm_fall=0.0)),
    ("no rest", AnomalySettings(rest_rows=0)),
    ("nothing breaks the rest", AnomalySettings(rest_margin=100.0)),
    ("half the memory", AnomalySettings(memory=2048)),
)
"""What each part of ours is worth on the tuning series."""
CLEAR = 10.0
"""Points by which ours is to be better than the best of the others on test data."""


@dataclass(frozen=True)
class Scored:
    """What one contender gave: scores of each series, and its processor time per row."""

    name: str
    scores: tuple[Floats, ...]
    us: float


def main() -> int:
    """Run and print; exit status 1 where a goal is missed, 2 without data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="a checkout of numenta/NAB, or part of one")
    parser.add_argument("--without-river", action="store_true")
    parser.add_argument("--short", action="store_true", help="without the tables of the tuning series alone")
    parser.add_argument("--write", type=Path, help="replace the tables in this page")
    parser.add_argument("--section", default="anomaly", help="of the page")
    arguments = parser.parse_args()
    if not (arguments.data / "labels/combined_windows.json").is_file():
        print(f"No benchmark data in {arguments.data}. It is at https://github.com/numenta/NAB.", file=sys.stderr)
        return 2
    corpus = read(arguments.data)
    peers = [(name, peer) for name, peer in PEERS if not (arguments.without_river and name == "HalfSpaceTrees")]
    contenders = [(OURS, ours), *peers]
    AnomalyScorer().score(0.0)  # compiled before it is timed
    scored = [told(run(name, contender, corpus)) for name, contender in contenders]
    text, fine = page(corpus, scored)
    if not arguments.short:
        text += "\n\nThe tuning series sampled more rarely, by means of so many rows:\n\n" + rates(corpus, contenders)
        text += "\n\nOurs on the tuning series without one of its parts, as shipped / at best:\n\n" + ablation(corpus)
    print(text)
    if arguments.write:
        write_between(arguments.write, arguments.section, text)
    return 0 if fine else 1


def ours(series: Series, settings: AnomalySettings | None = None) -> Floats:
    """The scorer, as shipped unless told otherwise."""
    scorer = AnomalyScorer(settings)
    return np.array(
        [scorer.score(value, at) for value, at in zip(series.values.tolist(), series.at.tolist(), strict=True)]
    )


def run(name: str, contender: Callable[[Series], Floats], corpus: Sequence[Series]) -> Scored:
    """Scores of every series."""
    began = time.process_time()
    scores = tuple(contender(series) for series in corpus)
    rows = sum(len(series.values) for series in corpus)
    return Scored(name, scores, (time.process_time() - began) / max(rows, 1) * 1e6)


def rates(corpus: Sequence[Series], contenders: Sequence[tuple[str, Callable[[Series], Floats]]]) -> str:
    """The tuning series at coarser rates, as a table."""
    columns: list[list[str]] = []
    for rows in COARSER:
        coarse = [coarser(series, rows) for series in corpus if series.name.startswith(TUNED_ON)]
        places = range(len(coarse))
        mine, *peers = (told(run(name, contender, coarse)) for name, contender in contenders)
        rests = [rest_of(coarse, peer, places) for peer in peers]
        figures = [shipped(coarse, mine, places), *(best_of(coarse, one, places) for one in (mine, *peers, *rests))]
        columns.append([f"{figure:.1f}" for figure in figures])
    names = [name for name, _ in contenders]
    names = [f"{OURS}, as shipped", *names, *(f"{name}, rested" for name in names[1:])]
    return table(("", *(f"{rows} rows" for rows in COARSER)), list(zip(names, *columns, strict=True)))


def ablation(corpus: Sequence[Series]) -> str:
    """Ours with each setting of ``WITHOUT`` on the tuning series at each rate, as a table."""
    tuning = [series for series in corpus if series.name.startswith(TUNED_ON)]
    rates = [tuning, *([coarser(series, rows) for series in tuning] for rows in COARSER)]
    lines = []
    for name, settings in WITHOUT:
        line = [name]
        for series in rates:
            found = gains_of((one, ours(one, settings)) for one in series)
            line.append(f"{found.at(ALARM):.1f} / {found.best()[1]:.1f}")
        lines.append(line)
    return table(("", "every row", *(f"{rows} rows" for rows in COARSER)), lines)


def told(scored: Scored) -> Scored:
    """A line on the standard error for who waits."""
    print(f"{scored.name}: {scored.us:.0f} µs a row", file=sys.stderr, flush=True)
    return scored


def page(corpus: Sequence[Series], scored: Sequence[Scored]) -> tuple[str, bool]:
    """The tables as Markdown, and whether the goal is met."""
    parts = Parts.of(corpus)
    mine, *peers = scored
    rests = [rest_of(corpus, peer, parts.tuning) for peer in peers]
    rows = [shipped_row(corpus, mine, parts)]
    rows += [row_of(corpus, contender, parts) for contender in (*scored, *rests)]
    goals = list(judged(corpus, mine, (*peers, *rests), parts))
    rows_in_all = sum(len(series.values) for series in corpus)
    head = (
        f"{len(corpus)} series, {rows_in_all:,} rows; tuned on {words(corpus, parts.tuning)}; test data: "
        f"{words(corpus, parts.testing)}. {machine_words()}. Seeds: {SEED} (trees, random), 0 to {HALVINGS - 1} "
        f"(halves). River {river_version()}, {', '.join(f'{key} {value}' for key, value in TREES.items())}; Gaussian "
        f"of {GAUSSIAN_ROWS} rows; one change in {HAZARD_ROWS} rows expected. Processor time in µs."
    )
    texts = [
        head,
        table(COLUMNS, rows),
        "As shipped, by folder; and the best of the others there, each with the threshold that is best for it there:",
        table(FOLDER_COLUMNS, folder_rows(corpus, mine, (*peers, *rests))),
        table(
            ("goal", "met?", "measured"), [(goal, "yes" if met else "NO", measured) for goal, met, measured in goals]
        ),
    ]
    return "\n\n".join(texts), all(met for _, met, _ in goals)


COLUMNS = (
    "",
    "test data",
    "with the tuning series' threshold",
    "tuning series",
    "their halves",
    "all",
    "µs a row",
)
FOLDER_COLUMNS = ("", "series", "windows", "found", "false alarms", "rows outside windows", "score", "best other")


class Parts(NamedTuple):
    """Places in the corpus."""

    testing: Sequence[int]
    tuning: Sequence[int]
    everything: Sequence[int]

    @classmethod
    def of(cls, corpus: Sequence[Series]) -> Parts:
        """Divided by folder; what no folder of ``TUNED_ON`` holds is test data."""
        everything = range(len(corpus))
        tuning = [place for place in everything if corpus[place].name.startswith(TUNED_ON)]
        return cls([place for place in everything if place not in tuning], tuning, everything)


def rest_of(corpus: Sequence[Series], peer: Scored, tuning: Sequence[int]) -> Scored:
    """A contender with a rest after each alarm, of the share that is best for it on the tuning series."""
    ways = [
        Scored(f"{peer.name}, rested", tuple(rested(given, share) for given in peer.scores), peer.us)
        for share in REST_SHARES
    ]
    return max(ways, key=lambda way: best_of(corpus, way, tuning))


def judged(
    corpus: Sequence[Series], mine: Scored, others: Sequence[Scored], parts: Parts
) -> Iterator[tuple[str, bool, str]]:
    """What must hold: goal, whether it does, and the figures."""
    for where, places in (("all series", parts.everything), ("test data", parts.testing)):
        best, rival = max(((best_of(corpus, other, places), other) for other in others), key=lambda one: one[0])
        low, high = spread(corpus, mine, rival, places)
        for goal, score in (
            (f"best on {where}, by {CLEAR:.0f} points", best_of(corpus, mine, places)),
            (f"best on {where} as shipped, by {CLEAR:.0f} points", shipped(corpus, mine, places)),
        ):
            measured = f"{score:.1f}; {rival.name} {best:.1f}; as shipped better by {low:+.1f} to {high:+.1f}"
            yield goal, score - best >= CLEAR, measured


def spread(corpus: Sequence[Series], mine: Scored, rival: Scored, places: Sequence[int]) -> tuple[float, float]:
    """95 % interval (bootstrap over series) of what ours as shipped has over the rival with its best threshold."""
    drawn = np.random.default_rng(SEED)
    ours_by, theirs_by = ([gains(corpus, one, [place]) for place in places] for one in (mine, rival))
    differences = []
    for _ in range(RESAMPLES if len(places) else 0):
        some = drawn.integers(len(places), size=len(places)).tolist()
        first, second = (together([by[place] for place in some]) for by in (ours_by, theirs_by))
        differences.append(first.at(ALARM) - second.best()[1])
    low, high = np.quantile(differences or [0.0], (0.025, 0.975)).tolist()
    return low, high


def words(corpus: Sequence[Series], places: Sequence[int]) -> str:
    """What stands at these places of the corpus."""
    groups = sorted({corpus[place].group for place in places})
    windows = sum(len(corpus[place].windows) for place in places)
    return f"{len(places)} with {windows} windows ({', '.join(groups)})"


def river_version() -> str:
    """Of the River that is installed."""
    try:
        return version("river")
    except PackageNotFoundError:
        return "left out"


def gains(corpus: Sequence[Series], contender: Scored, places: Sequence[int]) -> Gains:
    """Of one contender at these places of the corpus."""
    return gains_of((corpus[place], contender.scores[place]) for place in places)


def together(parts: Sequence[Gains]) -> Gains:
    """Of several series, as ``gains`` has them."""
    scores, worth = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "gains"))
    return Gains(scores, worth, sum(part.windows for part in parts))


def best_of(corpus: Sequence[Series], contender: Scored, places: Sequence[int]) -> float:
    """The benchmark's score: with the threshold that is best on these very series."""
    return gains(corpus, contender, places).best()[1]


def shipped(corpus: Sequence[Series], contender: Scored, places: Sequence[int]) -> float:
    """The score with the threshold that ours is shipped with, which nothing here chose."""
    return gains(corpus, contender, places).at(ALARM)


def carried(corpus: Sequence[Series], contender: Scored, learned: Sequence[int], places: Sequence[int]) -> float:
    """The score at ``places`` with the threshold that is best on ``learned``."""
    return gains(corpus, contender, places).at(gains(corpus, contender, learned).best()[0])


def halved(corpus: Sequence[Series], contender: Scored, places: Sequence[int]) -> float:
    """Mean score on random halves, each with the threshold of the other half: does a threshold carry over?"""
    scores = []
    for seed in range(HALVINGS):
        mixed = np.random.default_rng(seed).permutation(np.array(places, dtype=int)).tolist()
        one, other = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
        scores += [carried(corpus, contender, one, other), carried(corpus, contender, other, one)]
    return float(np.mean(scores))


def row_of(corpus: Sequence[Series], contender: Scored, parts: Parts) -> tuple[str, ...]:
    """One contender's figures."""
    figures = (
        best_of(corpus, contender, parts.testing),
        carried(corpus, contender, parts.tuning, parts.testing),
        best_of(corpus, contender, parts.tuning),
        halved(corpus, contender, parts.tuning),
        best_of(corpus, contender, parts.everything),
    )
    return (contender.name, *(f"{figure:.1f}" for figure in figures), f"{contender.us:.0f}")


def shipped_row(corpus: Sequence[Series], contender: Scored, parts: Parts) -> tuple[str, ...]:
    """Ours with the shipped threshold."""
    testing, tuning, everything = (f"{shipped(corpus, contender, places):.1f}" for places in parts)
    return (f"{OURS}, as shipped", testing, testing, tuning, tuning, everything, f"{contender.us:.0f}")


def folder_rows(corpus: Sequence[Series], contender: Scored, others: Sequence[Scored]) -> Iterator[tuple[str, ...]]:
    """Per folder: windows found, false alarms, and the score, with the shipped threshold; and what others score."""
    for group in sorted({series.group for series in corpus}):
        places = [place for place, series in enumerate(corpus) if series.group == group]
        windows = found = false = outside = 0
        for place in places:
            series, given = corpus[place], contender.scores[place]
            alarms = given >= ALARM
            alarms[: series.probation] = False
            quiet = np.arange(len(given)) >= series.probation
            for first, last in series.windows:
                found += int(alarms[first : last + 1].any())
                quiet[first : last + 1] = False
            windows += len(series.windows)
            false += int((alarms & quiet).sum())
            outside += int(quiet.sum())
        score = f"{shipped(corpus, contender, places):.1f}" if windows else "-"
        best = f"{max(best_of(corpus, other, places) for other in others):.1f}" if windows else "-"
        yield group, str(len(places)), str(windows), str(found), str(false), f"{outside:,}", score, best


if __name__ == "__main__":
    sys.exit(main())
