"""The report of an evaluation: figures with intervals, for programs as JSON and for people as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from amaru.errors import AmaruError, ReportError
from amaru.files.whole import write_whole
from amaru.learning.envelope import Envelope, envelope
from amaru.learning.evaluation import REFERENCES, RULES, WORLDS, Games, Played
from amaru.learning.intervals import CONFIDENCE, RESAMPLES, Estimate, Floats, Resampling

SCHEMA = "amaru-evaluation-1"
DATA, TEXT = "evaluation.json", "evaluation.md"
METHOD = "paired bootstrap over worlds, BCa"

_REQUESTS, _SERVED, _COST, _LATENCY, _SLO, _UTILITY = range(6)
_COLUMNS = 6


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How it was measured."""

    scenario: str
    purpose: str
    hidden: bool
    """Whether the truth was hidden from the policies."""
    steps: int
    scenario_steps: int
    seeds: tuple[int, ...]
    """Of the worlds."""
    wanted_worlds: int
    resamples: int
    bootstrap_seed: int
    confidence: float
    method: str
    started_at: str
    """ISO 8601."""
    seconds: float
    """That it took."""
    command: str
    machine: str
    """In words."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One policy over all worlds."""

    policy: str
    role: str
    origin: str
    requests: int
    fill_rate: Estimate
    avg_cost_usd: Estimate
    """Per served request, as the next."""
    avg_latency_ms: Estimate
    slo_attainment: Estimate
    """Share of all requests that were served within their tenant's latency limit."""
    mean_utility: Estimate
    """Per request."""
    over_baseline: Estimate
    """Mean utility more than the best baseline's."""
    of_informed_gap: Estimate | None
    """Share of what ``informed`` has over the best baseline; ``None``: there is no such gap, nothing is hidden, or it
    is a baseline or ``informed`` itself."""
    of_oracle_gap: Estimate | None


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """One policy beside another: what the first has more in mean utility."""

    policy: str
    than: str
    utility: Estimate


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    schema: str
    version: str
    """Of amaru."""
    complete: bool
    setup: Setup
    warnings: tuple[str, ...]
    baseline: str
    """The rule with the best mean utility over these worlds."""
    informed_gap: Estimate | None
    """Mean utility that ``informed`` has over it; ``None``: it could not play."""
    oracle_gap: Estimate | None
    standings: tuple[Standing, ...]
    contrasts: tuple[Contrast, ...]
    envelope: Envelope | None
    """Where nothing is hidden: what is possible at all."""
    worlds: tuple[Played, ...]


def report(
    games: Games, *, version: str, seed: int, started_at: str, seconds: float, command: str, machine: str
) -> EvaluationReport:
    """Everything that can be said of ``games``. Raises AmaruError where not one world was played to the end."""
    if not games.seeds:
        raise AmaruError("not one world was played to the end, so there is nothing to report")
    names = [player.name for player in games.players]
    sums = _sums(games)
    resampling = Resampling(len(games.seeds), seed=seed)
    flat = sums.reshape(len(games.seeds), -1)

    def estimate(figure: Callable[[Callable[[str, int], Floats]], Floats]) -> Estimate:
        def statistic(means: Floats) -> Floats:
            return figure(lambda name, column: means[..., names.index(name) * _COLUMNS + column])

        return resampling.estimate(flat, statistic)

    def utility_over(policy: str, than: str) -> Estimate:
        return estimate(lambda of: (of(policy, _UTILITY) - of(than, _UTILITY)) / of(policy, _REQUESTS))

    mean_utility = {
        name: sums[:, place, _UTILITY].sum() / sums[:, place, _REQUESTS].sum() for place, name in enumerate(names)
    }
    baseline = max((name for name in names if name in RULES), key=lambda name: mean_utility[name])
    gaps = {name: utility_over(name, baseline) for name in REFERENCES if name in names}

    def closed(policy: str, reference: str) -> Estimate | None:
        hidden = games.scenario.hidden is not None
        if not hidden or policy in RULES or policy == reference or not is_gap(gaps.get(reference)):
            return None
        return estimate(
            lambda of: (
                (of(policy, _UTILITY) - of(baseline, _UTILITY)) / (of(reference, _UTILITY) - of(baseline, _UTILITY))
            )
        )

    def standing(place: int) -> Standing:
        player = games.players[place]

        def ratio(above: int, below: int) -> Estimate:
            return estimate(lambda of: of(player.name, above) / of(player.name, below))

        return Standing(
            policy=player.name,
            role=player.role,
            origin=player.origin,
            requests=int(sums[:, place, _REQUESTS].sum()),
            fill_rate=ratio(_SERVED, _REQUESTS),
            avg_cost_usd=ratio(_COST, _SERVED),
            avg_latency_ms=ratio(_LATENCY, _SERVED),
            slo_attainment=ratio(_SLO, _REQUESTS),
            mean_utility=ratio(_UTILITY, _REQUESTS),
            over_baseline=utility_over(player.name, baseline),
            of_informed_gap=closed(player.name, "informed"),
            of_oracle_gap=closed(player.name, "oracle"),
        )

    learned = [player.name for player in games.players if player.role == "learned"]
    pairs = [(name, baseline) for name in learned]
    if "qlearning" in learned:
        pairs += [(name, "qlearning") for name in learned if name != "qlearning"]
    setup = Setup(
        scenario=games.scenario.name,
        purpose=games.scenario.purpose,
        hidden=games.scenario.hidden is not None,
        steps=games.steps,
        scenario_steps=games.scenario.steps,
        seeds=games.seeds,
        wanted_worlds=games.wanted,
        resamples=RESAMPLES,
        bootstrap_seed=seed,
        confidence=CONFIDENCE,
        method=METHOD,
        started_at=started_at,
        seconds=seconds,
        command=command,
        machine=machine,
    )
    return EvaluationReport(
        schema=SCHEMA,
        version=version,
        complete=games.complete,
        setup=setup,
        warnings=tuple(_warnings(games)),
        baseline=baseline,
        informed_gap=gaps.get("informed"),
        oracle_gap=gaps.get("oracle"),
        standings=tuple(standing(place) for place in range(len(names))),
        contrasts=tuple(
            Contrast(policy=policy, than=than, utility=utility_over(policy, than)) for policy, than in pairs
        ),
        envelope=envelope(games),
        worlds=games.played,
    )


def is_gap(gap: Estimate | None) -> bool:
    """Whether a reference is surely above the best baseline, so that a share of the difference means something."""
    if gap is None:
        return False
    return gap.interval.low > 0 if gap.interval is not None else gap.value > 1e-6


def _sums(games: Games) -> Floats:
    """[worlds, players, columns]."""
    rows = [(one.requests, one.served, one.cost_usd, one.latency_ms, one.slo_met, one.utility) for one in games.played]
    return np.array(rows, np.float64).reshape(len(games.seeds), len(games.players), _COLUMNS)


def _warnings(games: Games) -> list[str]:
    found = list(games.notes)
    worlds = len(games.seeds)
    if not games.complete:
        found.append(f"It was stopped after {worlds} of {games.wanted} worlds; what follows is of these.")
    if worlds < WORLDS:
        found.append(f"{worlds} worlds are too few for a claim: take at least {WORLDS}.")
    if games.scenario.purpose == "train":
        found.append(
            f"{games.scenario.name} is for training. These worlds have seeds that training does not take, but policies "
            "were made for worlds of this family; one for evaluation says more."
        )
    requests = [played.requests for played in games.played]
    if not all(requests):
        found.append(f"Nothing was asked for in {sum(1 for count in requests if not count)} games.")
    return found


def write(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write ``files``, each of them whole or not at all.

    Raises ReportError where a directory cannot be written to.
    """
    for path, content in files:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            why = error.strerror or str(error)
            raise ReportError(f"cannot write {path}: {why}; name another directory with --out") from error


def encoded(data: msgspec.Struct) -> bytes:
    """A report's JSON. Figures that are undefined are null."""
    return msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n"
