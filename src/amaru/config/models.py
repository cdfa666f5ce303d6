"""The shape of ``amaru.yaml``, as pydantic models; its parts stand in ``supply.py``, ``demand.py`` and others.

What is checked here is what one field can tell by itself: its type and its range. What needs a second field, the
environment or a file is checked in ``checks.py`` and ``secrets.py``, so that one run names every mistake.

The descriptions are the reference documentation: ``amaru config schema`` prints them and editors show them. A field
marked ``restart`` is read once, when the server starts; every other one takes effect when the file is reloaded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from amaru.config.accounts import AccountsSettings, BudgetsSettings, TenantSettings
from amaru.config.demand import RoutingSettings
from amaru.config.fields import RESTART, KeyReference
from amaru.config.ledger import LedgerSettings
from amaru.config.sense import HealthSettings, StabilitySettings
from amaru.config.sessions import SessionsSettings
from amaru.config.sharing import SharingSettings
from amaru.config.supply import OfferSettings, ProviderSettings
from amaru.files.fields import FilePath, Identifier, Name, Section


def _one_or_many(value: Any) -> Any:  # Any: raw YAML, typed right after
    return [value] if isinstance(value, str) else value


class ServerSettings(Section):
    """Where amaru listens, and whom it lets in."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default="127.0.0.1",
        description="Address to listen on. 0.0.0.0 listens on every IPv4 interface.",
        json_schema_extra=RESTART,
    )
    port: int = Field(
        default=8080, ge=0, le=65535, description="TCP port; 0 takes a free one.", json_schema_extra=RESTART
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that serve the port together, on one machine; about one per core. They share what is "
        "known of the offers, and what the policy learns.",
        json_schema_extra=RESTART,
    )
    auth: Literal["keys", "none"] = Field(
        default="keys",
        description="keys: callers present a tenant's key. none: anybody who reaches the port may call; "
        "allowed on a loopback host only.",
    )
    operator_keys: tuple[KeyReference, ...] = Field(
        default=(), description="Keys that open /status, /metrics and the decisions of every tenant."
    )
    max_body_mb: float = Field(
        default=32,
        gt=0,
        le=1024,
        description="Largest request body, in MiB; a larger one gets 413.",
        json_schema_extra=RESTART,
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Connections at once; one more gets 503.",
        json_schema_extra=RESTART,
    )
    drain_s: float = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that open requests get to finish when the server is told to stop.",
    )
    keep_alive_s: float = Field(
        default=75,
        gt=0,
        le=3600,
        description="Seconds after which an idle connection is closed.",
        json_schema_extra=RESTART,
    )


class StorageSettings(Section):
    """Where decisions and outcomes are kept, and for how long."""

    path: FilePath = Field(
        default="amaru-data/amaru.db",
        description="SQLite file, relative to the configuration file.",
        json_schema_extra=RESTART,
    )
    retention_days: float = Field(default=30, gt=0, le=36_500, description="Older records are deleted.")
    retention_gb: float = Field(
        default=10, gt=0, le=100_000, description="Beyond this size the oldest records are deleted."
    )
    queue_size: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Records that wait to be written; when it is full, records are dropped and counted.",
        json_schema_extra=RESTART,
    )


class LoggingSettings(Section):
    """What is logged, and how. Prompts, completions and keys never are."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged.", json_schema_extra=RESTART
    )
    format: Literal["json", "console"] = Field(
        default="json", description="json: one object a line. console: for reading.", json_schema_extra=RESTART
    )


class ConfigFile(Section):
    """amaru.yaml: providers, what they offer, who may ask, and how requests are routed."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    server: ServerSettings = Field(default=ServerSettings(), description="Where amaru listens, and whom it lets in.")
    providers: dict[Identifier, ProviderSettings] = Field(default={}, description="Providers by name.")
    offers: tuple[OfferSettings, ...] = Field(default=(), description="What each provider offers.")
    aliases: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(_one_or_many)]] = Field(
        default={}, description="Other names for resources: each stands for a list of resources or offers."
    )
    tenants: dict[Identifier, TenantSettings] = Field(default={}, description="Who may ask, by name.")
    budgets: BudgetsSettings = Field(default=BudgetsSettings(), description="Budgets of models and providers.")
    routing: RoutingSettings = Field(default=RoutingSettings(), description="How a request finds its offer.")
    storage: StorageSettings = Field(default=StorageSettings(), description="Where decisions and outcomes are kept.")
    health: HealthSettings = Field(default=HealthSettings(), description="How amaru senses each provider, and heals.")
    stability: StabilitySettings = Field(
        default=StabilitySettings(), description="One stability score for the whole mesh, and its guardian."
    )
    accounts: AccountsSettings = Field(
        default=AccountsSettings(), description="Where tenants, keys, budgets and spend are kept."
    )
    sharing: SharingSettings = Field(
        default=SharingSettings(), description="What machines that serve together tell each other, over Redis."
    )
    sessions: SessionsSettings = Field(
        default=SessionsSettings(), description="What is remembered of a conversation between its turns."
    )
    ledger: LedgerSettings = Field(
        default=LedgerSettings(), description="The tamper-evident log of what amaru decided and did."
    )
    logging: LoggingSettings = Field(default=LoggingSettings(), description="What is logged, and how.")
