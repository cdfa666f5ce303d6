"""The tables of the accounts' store, in SQLite and PostgreSQL alike (SQLAlchemy Core).

Money of charges is in pico-USD (1e-12 $), of counters and leases in nano-USD (1e-9 $); instants are Unix seconds. A
name of a tenant, a model or a provider refers to nothing here: those of the configuration file are in no table.
``migrations/`` makes these tables; a test holds both descriptions equal.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    column,
    table,
    text,
)

SCHEMA_VERSION = "0001"
"""Of the newest step in ``migrations/versions``."""
VERSION_TABLE = "accounts_schema"
"""Where Alembic keeps the version of a store."""

metadata = MetaData()
version_table = table(VERSION_TABLE, column("version_num", Text))

_STANDING = "status = 'standing'"
_Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself under INTEGER alone

versions = Table(
    "accounts_versions",
    metadata,
    # `directory` rises with each change of a tenant, team, key or allowance; `recalls` with each recall. The row is
    # updated inside the change's transaction, so that whoever sees a number sees every change up to it.
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

meta = Table(
    "accounts_meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

tenants = Table(
    "accounts_tenants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),  # for people; may be empty
    Column("settings", Text, nullable=False),  # JSON: weights, limits, resources, rescue, as in amaru.yaml
    Column("created_at", Double, nullable=False),
    Column("archived_at", Double),
)

teams = Table(
    "accounts_teams",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("archived_at", Double),
)

keys = Table(
    "accounts_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lineage", Text, nullable=False),  # id of the first key it was rotated from; what allowances are bound to
    Column("hash", LargeBinary, nullable=False),  # HMAC-SHA-256 of the key under the pepper
    Column("name", Text, nullable=False),
    Column("last4", Text, nullable=False),
    Column("tenant", Text),  # of a caller's key
    Column("team", Text),
    Column("role", Text),  # of an admin key: read, operate, own
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
    Index("accounts_keys_hash", "hash", unique=True),
    Index("accounts_keys_tenant", "tenant"),
    Index("accounts_keys_lineage", "lineage"),
)

allowances = Table(
    "accounts_allowances",
    metadata,
    # `scope:subject:metric:period`: archived and set again it goes on with the same counters, so that nobody gets a
    # fresh budget that way.
    Column("id", Text, primary_key=True),
    Column("scope", Text, nullable=False),  # key, team, tenant, model, provider
    Column("subject", Text, nullable=False),  # a team's is `tenant/team`, a key's its lineage
    Column("metric", Text, nullable=False),  # usd (nano-USD), requests, tokens, concurrency
    Column("period", Text, nullable=False),  # minute, day, week, month, total, none
    Column("amount", BigInteger, nullable=False),
    Column("hard", Boolean, nullable=False),
    Column("alerts", Text, nullable=False),  # JSON: shares in (0, 1]
    Column("created_at", Double, nullable=False),
    Column("archived_at", Double),
)

counters = Table(
    "accounts_counters",
    metadata,
    Column("allowance", Text, primary_key=True),
    Column("period_start", BigInteger, primary_key=True),  # 0: of all time
    Column("period_end", BigInteger),  # null: never
    Column("amount", BigInteger, nullable=False),  # of the allowance, also of one that is in the file
    Column("settled", BigInteger, nullable=False),
    Column("leased", BigInteger, nullable=False),  # leases of all holders, and reservations that stand
    Column("alerted", Double, nullable=False),  # the highest share that was alerted
    Column("overrun", BigInteger, nullable=False),  # the most by which settlements have exceeded it
    Column("version", BigInteger, nullable=False),  # rises with each change, so that Redis keeps the newest
    Index("accounts_counters_end", "period_end"),
)

holders = Table(
    "accounts_holders",
    metadata,
    Column("name", Text, primary_key=True),
    Column("turn", BigInteger, nullable=False),  # number of the last one: what comes later with a lower one is stale
    Column("through", BigInteger, nullable=False),  # number of the last end of a reservation that was taken in
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
)

leases = Table(
    "accounts_leases",
    metadata,
    Column("holder", Text, primary_key=True),
    Column("allowance", Text, primary_key=True),
    Column("period_start", BigInteger, primary_key=True),
    Column("amount", BigInteger, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),  # the last recall's generation that the holder answered
    Index("accounts_leases_counter", "allowance", "period_start"),
)

recalls = Table(
    "accounts_recalls",
    metadata,
    Column("allowance", Text, primary_key=True),
    Column("period_start", BigInteger, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Index("accounts_recalls_generation", "generation"),
)

charges = Table(
    "accounts_charges",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("decision", Text, nullable=False),
    Column("attempt", Integer, nullable=False),  # of the decision's, from 0
    Column("tenant", Text, nullable=False),
    Column("team", Text),
    Column("key", Text),
    Column("resource", Text, nullable=False),  # what was asked for
    Column("provider", Text, nullable=False),
    Column("offer", Text, nullable=False),
    Column("model", Text, nullable=False),  # by the provider's name
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),  # settled, standing, reconciled
    Column("failure", Text),
    Column("provider_ref", Text),  # the provider's id of the answer, by which its export names it
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("usage", Text, nullable=False),  # JSON: every other kind that is billed apart
    Column("usage_source", Text, nullable=False),  # provider, counted, estimated
    Column("price", Text),  # accounts_prices.id
    Column("cost_pusd", BigInteger, nullable=False),
    # JSON [[allowance, period_start, amount], …]: what is reserved for it while it stands, then what it counts.
    Column("reserved", Text),
    Column("holder", Text, nullable=False),
    Column("reconciled_at", Double),
    Column("note", Text),
    Index("accounts_charges_at", "at"),
    Index("accounts_charges_decision", "decision"),
    # Only those that stand: the others are found by their day.
    Index("accounts_charges_standing", "at", sqlite_where=text(_STANDING), postgresql_where=text(_STANDING)),
)

prices = Table(
    "accounts_prices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("offer", Text, nullable=False),
    Column("valid_from", Double, nullable=False),
    Column("valid_until", Double),
    Column("terms", Text, nullable=False),  # JSON, exact decimals as text
    Column("source", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("accounts_prices_offer", "offer", "valid_from"),
)

audit = Table(
    "accounts_audit",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),  # who: a key's id, or a user of the machine
    Column("action", Text, nullable=False),  # key.create, tenant.archive, …
    Column("subject", Text, nullable=False),
    Column("before", Text),  # JSON, never a secret
    Column("after", Text),
    Column("version", BigInteger),  # of the directory after it; null: it changed nothing there
    Index("accounts_audit_version", "version", unique=True),
    Index("accounts_audit_at", "at"),
)

outbox = Table(
    "accounts_outbox",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("once", Text, nullable=False),  # what it tells of: told once, whoever notices
    Column("at", Double, nullable=False),
    Column("event", Text, nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("tries", Integer, nullable=False),
    Column("next_at", Double),  # null: sent, or given up
    Column("sent_at", Double),
    Column("error", Text),
    Index("accounts_outbox_once", "once", unique=True),
    Index("accounts_outbox_next", "next_at"),
)
