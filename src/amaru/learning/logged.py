"""Judge policies by what a gateway stored: ``amaru evaluate --logged``.

Each stored decision is scored again by the target, from the figures that were stored with it and by the compiled code
that serves; that gives the probability with which the target would have put each offer first. What its first choices
would have been worth is then estimated from what the choices made were worth (``off_policy``). Only first attempts
count: what comes after depends on how they went.

What this cannot see: figures move with what is chosen (an offer that is asked more is busier, and better known), and
the target is judged on the figures as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from amaru.domain import Offer
from amaru.errors import AmaruError
from amaru.learning.dataset import read_manifest, read_rows
from amaru.learning.dataset_schema import Filters, LoggedDecision, Manifest
from amaru.learning.dataset_source import StoredRows
from amaru.learning.history import in_order
from amaru.learning.logged_report import LoggedReport, Verdict
from amaru.learning.logged_scoring import CHUNK, AnyPolicy, Gathered, LeftOut, Target
from amaru.learning.off_policy import LEAST_EFFECTIVE, SupportError, evaluate, predict

MOST_DECISIONS = 200_000
"""Judged at once, the newest: some 100 MB."""


class Source:
    """The rows of a gateway's store, or of a data set made of it (a folder or a .parquet file).

    Attributes
    ----------
    rows
        Oldest first.
    boards
        Version → offers, of the rows given so far.

    Raises
    ------
    DatasetError
        It cannot be read.
    """

    def __init__(self, path: Path, filters: Filters | None = None) -> None:
        wanted = filters or Filters()
        self._counts: StoredRows | Manifest
        self.rows: Iterable[LoggedDecision]
        if path.is_dir() or path.suffix == ".parquet":
            self._counts = read_manifest(path)
            self.rows = (row for row in read_rows(path) if wanted.passes(row.at, row.tenant, row.resource))
        else:
            self.rows = self._counts = StoredRows(path, wanted)
        self.boards: Mapping[str, tuple[Offer, ...]] = self._counts.boards

    def left_out(self) -> list[LeftOut]:
        """What was left out of the rows, once they were read."""
        counts = self._counts
        found = [LeftOut("they have no outcome", counts.without_outcome)] if counts.without_outcome else []
        if counts.corrupt:
            first = counts.corrupt_rows[0]
            found.append(LeftOut(f"they are damaged (the first, {first.id}: {first.why})", counts.corrupt))
        return found


def evaluate_logged(
    source: Path,
    targets: Sequence[str | Target],
    *,
    filters: Filters | None = None,
    seed: int = 0,
    least_effective: float = LEAST_EFFECTIVE,
    most: int = MOST_DECISIONS,
    progress: Callable[[int], None] = lambda _: None,
) -> LoggedReport:
    """Judge ``targets`` by the decisions of ``source``, a gateway's store or a data set made of it.

    Parameters
    ----------
    targets
        Names of policies, or policies as they are.
    seed
        Of the bootstrap.
    most
        Decisions that are judged, the newest.
    progress
        Told how many were read, now and then.

    Raises
    ------
    DatasetError, StorageError
        The source cannot be read.
    SupportError
        No target can be judged; the message has the reason of each.
    """
    who = [Target.named(target) if isinstance(target, str) else target for target in targets]
    if not who:
        raise AmaruError("name at least one policy to judge")
    stored = Source(source, filters)
    taken = Gathered(who, stored.boards, most)
    for count, row in enumerate(_in_time(stored, [t.policy for t in who if t.learns_along]), start=1):
        taken.take(row)
        if count % CHUNK == 0:
            progress(count)
    logged, choices = taken.arrays()
    left_out = [*stored.left_out(), *taken.left_out()]
    why_few = "".join(f"\nLeft out: {left.decisions:,} decisions; {left.why}." for left in left_out)
    if not len(logged):
        raise SupportError(f"{source}: there is no decision with an outcome to judge by.{why_few}")
    predicted = predict(logged)
    verdicts = []
    for target, chosen in zip(who, choices, strict=True):
        try:
            found = evaluate(logged, chosen, predicted, seed=seed, least_effective=least_effective)
            verdicts.append(Verdict(target.name, target.learns_along, found, None))
        except SupportError as error:
            verdicts.append(Verdict(target.name, target.learns_along, None, str(error)))
    if not any(verdict.found for verdict in verdicts):
        reasons = "".join(f"\n{verdict.target}: {verdict.refused}" for verdict in verdicts)
        raise SupportError(f"{source}: no policy can be judged.{reasons}{why_few}")
    return LoggedReport(
        source=str(source),
        decisions=len(logged),
        first_at=taken.first_at,
        last_at=taken.last_at,
        policies=dict(sorted(taken.policies.items())),
        explored=taken.explored,
        left_out=left_out,
        seed=seed,
        verdicts=verdicts,
    )


def _in_time(source: Source, learners: Sequence[AnyPolicy]) -> Iterator[LoggedDecision]:
    """The decisions; before each, the learners have learned from all that had ended."""
    if not learners:
        yield from source.rows
        return
    for item in in_order(source.rows, source.boards):
        if isinstance(item, LoggedDecision):
            yield item
            continue
        for policy in learners:
            policy.learn(*item)
