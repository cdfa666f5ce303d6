"""What a data set holds: one row per decision whose first attempt has an outcome.

A row is a ``LoggedDecision`` in memory and the same fields in Parquet. It holds sizes, prices, times and the names of
offers; no prompt, no completion, no session, no provider's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from amaru.domain import Capability, Experience, FailureKind, Kind, Limits, Offer, Seen, Weights, Workload
from amaru.errors import AmaruError
from amaru.routing import kernels as k
from amaru.routing.ranking import Figures

FORMAT = "amaru-dataset-1"
"""Named in every manifest; another number means that older readers must refuse."""

REFUSED = int(k.Code.EXCLUDED)
"""Stands for every cause in figures made from a row: what refused an offer then refuses it for every policy."""


class DatasetError(AmaruError):
    """A data set cannot be read or written; the message names the file and what to do."""


class Tried(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt, and what it showed of its offer."""

    offer: str
    ended_at: float
    """Unix seconds."""
    ok: bool
    failure: FailureKind | None
    blame: bool
    """False where a failure says nothing about the offer: the request was at fault, or out of time."""
    latency_ms: float | None
    """Of a stream its first token, of a GPU job its acceptance, else the whole answer; null where it failed, or nobody
    measured it."""
    cost_usd: float
    expected_cost_usd: float | None
    """At the posted price, for what was billed."""
    load: float
    """Share of the offer's capacity that was taken when it was chosen."""
    total_ms: float
    """Until it ended, however it did."""
    first_token_ms: float | None
    input_tokens: int | None
    output_tokens: int | None

    def experience(self, seen: Seen | None) -> Experience:
        """What policies learn from it; ``seen`` is what the decision saw of the offer."""
        return Experience(
            at=self.ended_at,
            ok=self.ok,
            failure=self.failure,
            latency_ms=self.latency_ms,
            cost_usd=self.cost_usd,
            expected_cost_usd=self.expected_cost_usd,
            load=self.load,
            blame=self.blame,
            seen=seen,
        )


class LoggedDecision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row. Lists named after figures run over ``offers``, all that were asked about, in the board's order."""

    id: str
    at: float
    """When it was decided, Unix seconds. Rows are in this order, as far as ids sort by time."""
    tenant: str
    kind: Kind
    resource: str
    region: str | None
    stream: bool
    needs: int
    """Bits of ``domain.Capability``."""
    input_tokens: int
    """As estimated before the call, like the next two."""
    output_tokens: int
    gpu_hours: float
    weights: Weights
    limits: Limits
    policy: str
    board: str
    """Version; the manifest holds its offers."""
    propensity: float
    """Probability with which the first of the ranking came first."""
    propensity_exact: bool
    """The first attempt went to the first of the ranking, so ``propensity`` is that of the offer tried."""
    explored: bool
    tied: int
    """How many offers shared the policy's best score."""
    offers: list[str]
    rank: list[int | None]
    """Place in the ranking, from 0; null: it was refused."""
    refused_by: list[str | None]
    score: list[float]
    unit_price_usd: list[float]
    """Per GPU-hour, or per million tokens at the workload's mix."""
    expected_cost_usd: list[float]
    expected_ms: list[float]
    """Latency, advertised and observed."""
    posted_ms: list[float]
    """Latency as advertised."""
    reputation: list[float]
    availability: list[float]
    """As the policy saw it."""
    load: list[float]
    success_seen: list[float]
    """Share of recent attempts that succeeded."""
    reported: bool
    """The outcome is what a caller reported; else amaru saw it."""
    first: Tried
    """The first attempt."""
    further: list[Tried]
    """The attempts after it, in order."""
    utility: float | None
    """Of the first attempt to its tenant, about 0 to 1; null where it cannot be judged: no blame, or no latency."""
    ok: bool
    """How the request ended, with all its attempts, like the next two."""
    latency_ms: float
    cost_usd: float

    def workload(self) -> Workload:
        """What was asked for."""
        return Workload(
            tenant=self.tenant,
            kind=self.kind,
            resource=self.resource,
            region=self.region,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            gpu_hours=self.gpu_hours,
            needs=Capability(self.needs),
            limits=self.limits,
            weights=self.weights,
        )

    def attempts(self) -> list[Tried]:
        """All of them, in order."""
        return [self.first, *self.further]

    def figures(self, row_of: Mapping[str, int]) -> Figures:
        """What the decision was made from: what every policy can score. ``row_of`` gives the row of each offer.

        Availability is as it was before a policy weighed it with recent successes; no healing weighs an offer, and no
        prompt cache is warm.
        """
        rows = np.array([row_of[offer] for offer in self.offers], dtype=np.int64)
        codes = np.array([0 if place is not None else REFUSED for place in self.rank], dtype=np.int64)
        table = np.zeros((len(rows), k.N_TABLE))
        for column, values in (
            (k.UNIT_PRICE, self.unit_price_usd),
            (k.COST, self.expected_cost_usd),
            (k.LATENCY, self.expected_ms),
            (k.TRUST, self.reputation),
            (k.POSTED_MS, self.posted_ms),
            (k.LOAD, self.load),
            (k.SUCCESS_SEEN, self.success_seen),
        ):
            table[:, column] = values
        table[:, k.AVAILABILITY] = 1.0 - table[:, k.LOAD]
        table[:, k.CARED] = 1.0
        return Figures(self.board, self.workload(), self.at, self.policy, rows, codes, table)


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which decisions are wanted; ``None``: all."""

    since: float | None = None
    """Unix seconds, inclusive."""
    until: float | None = None
    """Unix seconds, exclusive."""
    tenant: str | None = None
    resource: str | None = None

    def passes(self, at: float, tenant: str, resource: str) -> bool:
        """Whether such a decision is wanted."""
        return (
            (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and (self.tenant is None or tenant == self.tenant)
            and (self.resource is None or resource == self.resource)
        )


class CorruptRow(msgspec.Struct, frozen=True):
    """A stored decision that could not be used."""

    id: str
    why: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a data set."""

    format: str
    file: str
    """Of the rows, beside this one."""
    sha256: str
    """Of that file."""
    bytes: int
    rows: int
    first_at: float | None
    """Unix seconds of the oldest decision, and of the newest."""
    last_at: float | None
    policies: dict[str, int]
    """Rows by the policy that decided."""
    reported: int
    """Rows whose outcome a caller reported."""
    without_outcome: int
    """Decisions that passed the filters and have none: left out."""
    corrupt: int
    """Stored decisions that could not be used: left out."""
    corrupt_rows: list[CorruptRow]
    """The first of them."""
    filters: Filters
    store_schema: int
    code: str
    """The version of amaru that wrote it."""
    boards: dict[str, tuple[Offer, ...]]
    """The offers by version of the board, as they were."""


_TRIED = pl.Struct(
    {
        "offer": pl.String(),
        "ended_at": pl.Float64(),
        "ok": pl.Boolean(),
        "failure": pl.String(),
        "blame": pl.Boolean(),
        "latency_ms": pl.Float64(),
        "cost_usd": pl.Float64(),
        "expected_cost_usd": pl.Float64(),
        "load": pl.Float64(),
        "total_ms": pl.Float64(),
        "first_token_ms": pl.Float64(),
        "input_tokens": pl.Int64(),
        "output_tokens": pl.Int64(),
    }
)
_FIGURES = pl.List(pl.Float64())

SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "at": pl.Float64(),
        "tenant": pl.String(),
        "kind": pl.String(),
        "resource": pl.String(),
        "region": pl.String(),
        "stream": pl.Boolean(),
        "needs": pl.Int64(),
        "input_tokens": pl.Int64(),
        "output_tokens": pl.Int64(),
        "gpu_hours": pl.Float64(),
        "weights": pl.Struct(dict.fromkeys(("price", "latency", "reputation", "availability"), pl.Float64())),
        "limits": pl.Struct(
            {
                "max_price": pl.Float64(),
                "max_latency_ms": pl.Float64(),
                "min_reputation": pl.Float64(),
                "regions": pl.List(pl.String()),
            }
        ),
        "policy": pl.String(),
        "board": pl.String(),
        "propensity": pl.Float64(),
        "propensity_exact": pl.Boolean(),
        "explored": pl.Boolean(),
        "tied": pl.Int64(),
        "offers": pl.List(pl.String()),
        "rank": pl.List(pl.Int64()),
        "refused_by": pl.List(pl.String()),
        "score": _FIGURES,
        "unit_price_usd": _FIGURES,
        "expected_cost_usd": _FIGURES,
        "expected_ms": _FIGURES,
        "posted_ms": _FIGURES,
        "reputation": _FIGURES,
        "availability": _FIGURES,
        "load": _FIGURES,
        "success_seen": _FIGURES,
        "reported": pl.Boolean(),
        "first": _TRIED,
        "further": pl.List(_TRIED),
        "utility": pl.Float64(),
        "ok": pl.Boolean(),
        "latency_ms": pl.Float64(),
        "cost_usd": pl.Float64(),
    }
)
"""Of the Parquet file; the fields of ``LoggedDecision``, in their order."""


_lines = msgspec.json.Encoder()


def to_frame(rows: Sequence[LoggedDecision]) -> pl.DataFrame:
    """The rows as a table."""
    # By way of JSON: five times faster than from dictionaries, of which every list becomes a column first.
    return pl.read_ndjson(_lines.encode_lines(rows), schema=SCHEMA)


def from_frame(frame: pl.DataFrame, path: Path, first_row: int) -> list[LoggedDecision]:
    """The table as rows. Raises DatasetError, naming the row, where a value is not what it must be."""
    rows: list[LoggedDecision] = []
    for place, fields in enumerate(frame.iter_rows(named=True)):
        try:
            rows.append(msgspec.convert(fields, LoggedDecision))
        except msgspec.ValidationError as error:
            raise DatasetError(
                f"{path}: row {first_row + place}: {error}. Build the data set anew: amaru dataset build"
            ) from error
    return rows
