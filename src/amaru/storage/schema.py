"""The tables, and the way of a record into a row and back.

Described in SQLAlchemy Core, so that another engine can take them by URL. ``decisions`` has no index but its key: ids
sort by time, so the key serves paging and retention, and each further index would cost every request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.engine import Connection

from amaru.domain import Attempt, Offer
from amaru.storage.records import DecisionRecord, PolicyState

SCHEMA_VERSION = 1

metadata = MetaData()

meta = Table(
    "amaru_meta",
    metadata,
    Column("key", Text, primary_key=True, nullable=False),
    Column("value", Text, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("at", Float, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("board_version", Text, nullable=False),
    Column("ranking", LargeBinary, nullable=False),
    Column("propensity", Float, nullable=False),
    Column("explored", Integer, nullable=False),
    Column("ok", Integer),
    Column("offer", Text),
    Column("failure", Text),
    Column("status", Integer),
    Column("latency_ms", Float),
    Column("first_token_ms", Float),
    Column("input_tokens", Integer),
    Column("cached_input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("usage_source", Text),
    Column("cost_usd", Float, nullable=False),
    Column("session", Text),
    Column("stream", Integer, nullable=False),
    Column("request_bytes", Integer, nullable=False),
    Column("attempts", Text, nullable=False),  # JSON of tuple[domain.Attempt]; readable with SQL's JSON functions
    Column("team", Text),
    Column("key", Text),
    # One b-tree instead of two: a third less to write per record than a table beside an index.
    sqlite_with_rowid=False,
)

boards = Table(
    "boards",
    metadata,
    Column("version", Text, primary_key=True, nullable=False),
    Column("at", Float, nullable=False),  # when it was last put in use
    Column("offers", Text, nullable=False),  # JSON of tuple[domain.Offer]
)

feedback = Table(
    "feedback",
    metadata,
    Column("decision", Text, primary_key=True, nullable=False),
    Column("at", Float, nullable=False),
    Column("outcome", Text, nullable=False),  # JSON, as the caller reported it
    sqlite_with_rowid=False,
)

policy_states = Table(
    "policy_states",
    metadata,
    Column("name", Text, primary_key=True, nullable=False),
    Column("at", Float, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("digest", Text, nullable=False),  # BLAKE2b-256 of the state, in hex
    Column("settings", Text, nullable=False),  # JSON
    Column("artifact", Text, nullable=False),
    Column("outcomes", Integer, nullable=False),
)

_FIELDS = tuple(field.name for field in msgspec.structs.fields(DecisionRecord))
_json = msgspec.json.Encoder()
_attempts_decoder = msgspec.json.Decoder(tuple[Attempt, ...])
_offers_decoder = msgspec.json.Decoder(tuple[Offer, ...])

Value = str | bytes | float | int | None
Values = tuple[Value, ...]


def values_of(r: DecisionRecord) -> Values:
    """The row of a record, in the order of the columns; only the exact types that the driver binds without adapters."""
    return (
        r.id,
        r.at,
        r.tenant,
        str.__str__(r.kind),
        r.resource,
        r.policy,
        r.board_version,
        r.ranking,
        r.propensity,
        1 if r.explored else 0,
        None if r.ok is None else 1 if r.ok else 0,
        r.offer,
        None if r.failure is None else str.__str__(r.failure),
        r.status,
        r.latency_ms,
        r.first_token_ms,
        r.input_tokens,
        r.cached_input_tokens,
        r.output_tokens,
        None if r.usage_source is None else str.__str__(r.usage_source),
        r.cost_usd,
        r.session,
        1 if r.stream else 0,
        r.request_bytes,
        _json.encode(r.attempts).decode(),
        r.team,
        r.key,
    )


def record_of(row: Sequence[object]) -> DecisionRecord:
    """The record of a row of ``decisions``. Raises msgspec.MsgspecError where a column holds what it cannot."""
    fields = dict(zip(_FIELDS, row, strict=True))
    fields["attempts"] = _attempts_decoder.decode(str(fields["attempts"]))
    for name in ("explored", "ok", "stream"):
        fields[name] = None if fields[name] is None else bool(fields[name])
    return msgspec.convert(fields, DecisionRecord, builtin_types=(bytes,))


def encode_offers(offers: Iterable[Offer]) -> str:
    """The JSON under which a board's offers are kept."""
    return _json.encode(tuple(offers)).decode()


def decode_offers(text: str) -> tuple[Offer, ...]:
    """The offers of a board."""
    return _offers_decoder.decode(text)


def digest_of(state: bytes) -> str:
    """By which a damaged state is known: BLAKE2b (RFC 7693) with 256 bits, in hex."""
    return hashlib.blake2b(state, digest_size=32).hexdigest()


def insert_policy(connection: Connection, policy: PolicyState) -> None:
    """Keep a policy's state in place of the one before it."""
    connection.exec_driver_sql(
        "INSERT INTO policy_states (name, at, state, digest, settings, artifact, outcomes) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET at = excluded.at, state = excluded.state, digest = excluded.digest,"
        " settings = excluded.settings, artifact = excluded.artifact, outcomes = excluded.outcomes",
        (
            policy.policy,
            policy.at,
            policy.state,
            digest_of(policy.state),
            _json.encode(policy.settings).decode(),
            policy.artifact,
            policy.outcomes,
        ),
    )
