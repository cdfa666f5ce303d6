"""A configuration that was found whole: settings, domain types, and the keys that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, SecretStr

from amaru.accounts.directory_base import FromFile
from amaru.accounts.keys import ANONYMOUS, KeyRing
from amaru.accounts.pricing import PriceBook
from amaru.config.accounts import Accounts
from amaru.config.demand import RoutingSettings
from amaru.config.ledger import LedgerSettings
from amaru.config.models import ConfigFile, LoggingSettings, ServerSettings, StorageSettings
from amaru.config.sense import HealthSettings, StabilitySettings
from amaru.config.sessions import SessionsSettings
from amaru.config.sharing import Sharing
from amaru.domain import Offer, Tenant
from amaru.errors import ConfigError


class RefusedConfigError(ConfigError):
    """A configuration that cannot be used, with the files that it named: when one of them changes, try again."""

    def __init__(self, problems: list[str], watched: tuple[Path, ...]) -> None:
        super().__init__(problems)
        self.watched = watched


@dataclass(frozen=True, slots=True)
class Alternate:
    """Another address of a provider. Its headers are all that it is sent: the provider's, and its own over them."""

    base_url: str
    headers: Mapping[str, SecretStr]


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider with its key at hand and every limit filled in. Times are milliseconds."""

    id: str
    protocol: Literal["openai"]
    base_url: str
    """Without a slash at its end."""
    key: SecretStr | None
    """``None``: the provider asks for none."""
    headers: Mapping[str, SecretStr]
    """Extra request headers, names in lower case."""
    regions: tuple[str, ...]
    connect_ms: float
    first_token_ms: float
    answer_ms: float
    idle_ms: float
    max_connections: int
    transport: Literal["h1", "reqwest"]
    ca_file: Path | None
    verify_tls: bool
    alternates: tuple[Alternate, ...] = ()
    """Other addresses of it, in the file's order; everything else is as for the first."""


@dataclass(frozen=True, slots=True)
class Config:
    """One version of the configuration; immutable, so that a reload swaps it whole. Its repr holds no secret."""

    path: Path
    file: ConfigFile = field(repr=False)
    """The settings as written, with defaults and overrides."""
    digest: bytes = field(repr=False)
    """Of the file's bytes and of every key file's: two configurations with one digest are the same."""
    watched: tuple[Path, ...]
    """The file, and every file that it names."""
    overridden: Mapping[str, str]
    """Dotted path of each value that an environment variable set, and the variable."""
    _providers: Mapping[str, Provider] = field(repr=False)
    _offers: tuple[Offer, ...] = field(repr=False)
    prices: PriceBook = field(repr=False)
    """What each offer charges, and from when."""
    _tenants: tuple[Tenant, ...] = field(repr=False)
    accounts: Accounts
    """Where tenants, keys, budgets and spend are kept, and the file's budgets."""
    sharing: Sharing
    """The Redis by which machines tell each other what they see, and this machine's name there."""
    operator_hashes: tuple[str, ...] = field(repr=False)
    """Hex SHA-256 of the operators' keys."""

    @property
    def server(self) -> ServerSettings:
        return self.file.server

    @property
    def routing(self) -> RoutingSettings:
        return self.file.routing

    @property
    def storage(self) -> StorageSettings:
        return self.file.storage

    @property
    def logging(self) -> LoggingSettings:
        return self.file.logging

    @property
    def health(self) -> HealthSettings:
        return self.file.health

    @property
    def stability(self) -> StabilitySettings:
        return self.file.stability

    @property
    def sessions(self) -> SessionsSettings:
        return self.file.sessions

    @property
    def health_path(self) -> Path:
        """The folder of what health remembers: beside the database, unless the file names another."""
        path = self.file.health.path
        return self.storage_path.parent / "health" if path is None else self.path.parent / path

    @property
    def ledger(self) -> LedgerSettings:
        return self.file.ledger

    @property
    def ledger_url(self) -> str:
        """Where the log lies, a path or a URL: beside the database, unless the file names another place."""
        url = self.file.ledger.url
        if url is None:
            return str(self.storage_path.parent / "ledger")
        return url if "://" in url else str(self.path.parent / url)

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """What each offer, by id, has in common with others by the operator's own words; its provider's hold for it."""
        return {
            offer.id: {**self.file.providers[settings.provider].labels, **settings.labels}
            for offer, settings in zip(self._offers, self.file.offers, strict=True)
        }

    def cache_lifetimes_s(self) -> Mapping[str, float]:
        """For how long each offer, by id, is taken to keep a prompt in its cache after a turn."""
        usual_s = self.sessions.cache_s
        return {
            offer.id: usual_s if settings.cache_s is None else settings.cache_s
            for offer, settings in zip(self._offers, self.file.offers, strict=True)
        }

    @property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """Each alias, and the resources or offer ids that it stands for."""
        return self.file.aliases

    @property
    def storage_path(self) -> Path:
        """Where the database lives; a relative path starts at the configuration file's folder."""
        return self.path.parent / self.file.storage.path

    def providers(self) -> Mapping[str, Provider]:
        """Providers by id."""
        return self._providers

    def offers(self) -> tuple[Offer, ...]:
        """Every offer, in the file's order, at the first of its prices; ``prices.offers_at`` tells later ones."""
        return self._offers

    def from_file(self) -> FromFile:
        """What the file has of accounts: its names are taken."""
        return FromFile(
            path=str(self.path),
            by_id={tenant.id: tenant for tenant in self._tenants},
            allowances=self.accounts.allowances,
            resources=frozenset(offer.resource for offer in self._offers),
            providers=frozenset(self._providers),
        )

    def tenants(self) -> tuple[Tenant, ...]:
        """Every tenant; with ``auth: none`` also the anonymous one."""
        return self._tenants

    def key_ring(self) -> KeyRing:
        """Who may call."""
        anonymous = next((t for t in self._tenants if t.id == ANONYMOUS.id), ANONYMOUS)
        return KeyRing(self._tenants, self.operator_hashes, anonymous=anonymous if self.server.auth == "none" else None)


def needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """Dotted paths of what differs and is read only when the server starts."""
    return tuple(_differences("", old.file, new.file))


def _differences(prefix: str, old: BaseModel, new: BaseModel) -> list[str]:
    found: list[str] = []
    for name, info in type(old).model_fields.items():
        before: Any = getattr(old, name)  # Any: whatever the field holds
        after: Any = getattr(new, name)
        if before == after:
            continue
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("x-amaru-restart"):
            found.append(prefix + name)
        elif isinstance(before, BaseModel):
            found += _differences(f"{prefix}{name}.", before, after)
    return found
