"""What goes into the store and what comes out of it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from amaru.domain import Attempt, FailureKind, Kind, Provenance
from amaru.errors import StorageError


class UnknownDecisionError(StorageError):
    """No stored decision has this id: it never existed, was dropped, or was removed by retention."""


class DecisionRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A decision and its outcome, in the order of the columns of table ``decisions``.

    ``gc=False``: thousands wait in the queue, none can be part of a cycle, and the collector need not visit them.
    """

    id: str
    """Unique; ids sort by the time of the decision. Pages and retention follow this order."""
    at: float
    """When it was decided, in Unix seconds."""
    tenant: str
    kind: Kind
    resource: str
    policy: str
    board_version: str
    """Key of table ``boards``: the offers as they were."""
    ranking: bytes
    """The packed ranking. Opaque here; ``routing`` unpacks and explains it with the board."""
    propensity: float = 1.0
    """Probability with which the first attempt's offer was chosen."""
    explored: bool = False
    ok: bool | None = None
    """``None``: only recommended; amaru did not serve it."""
    offer: str | None = None
    """The offer that answered, or the last one tried."""
    failure: FailureKind | None = None
    status: int | None = None
    """How it ended, as an HTTP status: what the caller saw, but for streams that broke after their 200 (502, or 504
    where time ran out) and callers who went away (499)."""
    latency_ms: float | None = None
    first_token_ms: float | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    usage_source: Provenance | None = None
    cost_usd: float = 0.0
    """Of the answer delivered; failed attempts are kept apart, in ``attempts``."""
    session: str | None = None
    """A salted hash of the caller's session id, never the id."""
    stream: bool = False
    request_bytes: int = 0
    attempts: tuple[Attempt, ...] = ()
    team: str | None = None
    key: str | None = None
    """The lineage of the key of the accounts' store that asked."""


class PolicyState(msgspec.Struct, frozen=True, kw_only=True):
    """All that a policy has learned."""

    policy: str
    """Its name; the store keeps the newest state of each."""
    at: float
    """When it was copied, in Unix seconds."""
    state: bytes
    """Opaque here: as ``Policy.state`` gave it."""
    settings: dict[str, int | float] = {}
    """The knobs that the policy was made with."""
    artifact: str = ""
    """The version of the artifact on top of which it was learned; empty: none."""
    outcomes: int = 0
    """How many outcomes were learned from, on top of that artifact."""


class StoredDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A record as read back.

    Attributes
    ----------
    record
        What was recorded.
    feedback
        The outcome reported later, as the JSON that was given; ``None`` where none was. Filled by ``get`` only.
    pending
        It still waits to be written; a crash now would lose it.
    """

    record: DecisionRecord
    feedback: msgspec.Raw | None = None
    pending: bool = False


class Page(msgspec.Struct, frozen=True):
    """One page of decisions, newest first.

    A page looks at a bounded number of rows, so it may hold fewer than asked for, even none, and still have a next one:
    ``next_cursor`` is ``None`` only at the end.
    """

    items: tuple[DecisionRecord, ...]
    next_cursor: str | None


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where records are kept, for how long, and how many may wait.

    Attributes
    ----------
    path
        The SQLite file; its directory is created.
    retention_days, retention_gb
        Older records, and the oldest beyond this size (10^9 bytes), are deleted.
    queue_size
        Records that may wait to be written; beyond, they are dropped and counted.
    interval_s
        How long the writer gathers a batch. A crash loses at most about this much.
    busy_timeout_s
        How long the writer waits for another process that holds the file's lock.
    removes
        Whether it deletes what is too old or too much: of the processes that write to one file, one does.
    """

    path: Path
    retention_days: float = 30.0
    retention_gb: float = 10.0
    queue_size: int = 10_000
    interval_s: float = 0.1
    busy_timeout_s: float = 5.0
    removes: bool = True


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the store fares; counts are since the start."""

    healthy: bool
    """The last write succeeded."""
    path: str
    queue_depth: int
    written: int
    dropped: int
    """Never written; the sum of the next three."""
    dropped_queue_full: int
    dropped_unstorable: int
    """Refused by the database for what they hold."""
    dropped_unwritten: int
    """Left over when the store was closed."""
    deleted: int
    """Removed by retention."""
    last_error: str | None
    last_error_at: float | None
    """Unix seconds."""
    file_bytes: int
    wal_bytes: int
