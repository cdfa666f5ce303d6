"""The shape of ``accounts``, ``budgets`` and ``tenants``: where accounts are kept, who asks, who may spend what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from amaru.accounts.allowances import MAX_ALERTS, MAX_AMOUNT, Allowance, Metric, Scope
from amaru.accounts.money import nusd_of_amount
from amaru.accounts.periods import Period
from amaru.accounts.profile import TenantProfile, Usd, WhenStoreGone
from amaru.accounts.webhooks import Hook, read_secret
from amaru.config.addresses import Url
from amaru.config.fields import RESTART, EnvName, KeyReference
from amaru.files.fields import FilePath, Identifier, Name, Section
from amaru.files.settings import LimitSettings

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]


class BudgetSettings(Section):
    """How much money may be spent in a period."""

    usd: Usd = Field(description="US dollars, with up to nine decimals.", examples=["100"])
    per: Literal["day", "week", "month", "total"] = Field(
        default="month", description="When it renews, by UTC; a week begins on Monday, and total never renews."
    )
    hard: bool = Field(default=True, description="true: what could exceed it is refused. false: it only alerts.")
    alerts: Annotated[tuple[Share, ...], Field(max_length=MAX_ALERTS)] = Field(
        default=(0.8, 1.0), description="Shares of it at which the webhook is told, ascending."
    )


class BudgetsSettings(Section):
    """Budgets of what is asked, whoever asks."""

    models: dict[Name, tuple[BudgetSettings, ...]] = Field(
        default={}, description="By resource; an offer that would exceed one is passed over."
    )
    providers: dict[Identifier, tuple[BudgetSettings, ...]] = Field(default={}, description="By provider, likewise.")


class TenantLimitSettings(LimitSettings):
    """Hard limits: what a tenant never accepts, and what it may ask for at most."""

    requests_per_min: Count | None = Field(default=None, description="Requests in a minute of the clock.")
    tokens_per_min: Count | None = Field(
        default=None, description="Tokens in a minute of the clock, input and output; reserved at their most."
    )
    concurrency: Count | None = Field(default=None, description="Requests under way at once.")


class TenantSettings(TenantProfile):
    """Who asks: a team, an application, a customer."""

    limits: TenantLimitSettings = Field(
        default=TenantLimitSettings(), description="What it never accepts, and what it may ask for at most."
    )
    keys: tuple[KeyReference, ...] = Field(
        default=(), description="The keys that it presents; several while one is rotated."
    )
    budgets: tuple[BudgetSettings, ...] = Field(default=(), description="What it may spend; one for each period.")


class WebhookSettings(Section):
    """Who is told when a share of a budget is used."""

    url: Url | None = Field(
        default=None,
        description="Gets a signed POST, wherever it leads; may hold {env:NAME}. Left out: alerts go to the log alone.",
        examples=["https://alerts.example.com/amaru"],
    )
    secret_env: EnvName | None = Field(
        default=None, description="Environment variable with the secret that signs: base64 of 24 to 64 bytes, whsec_…"
    )
    secret_file: FilePath | None = Field(default=None, description="Or the file that holds it.")
    previous_secret_env: EnvName | None = Field(
        default=None,
        description="While the secret is changed, the one before: both sign, and receivers may have either.",
    )
    previous_secret_file: FilePath | None = Field(default=None, description="Or the file that holds it.")


class AccountsSettings(Section):
    """Where tenants, keys, budgets and spend are kept, and what happens while that cannot be reached."""

    url: Url | None = Field(
        default=None,
        description="SQLite file, relative to the configuration file, or postgresql://user:{env:NAME}@host/database; "
        "left out: accounts.db beside the database.",
        json_schema_extra=RESTART,
    )
    redis_url: Url | None = Field(
        default=None,
        description="redis://:{env:NAME}@host:6379/0: leases and limits that machines share; left out: in `url`.",
        json_schema_extra=RESTART,
    )
    pepper_file: FilePath | None = Field(
        default=None,
        description="The secret under which keys are hashed, made with the first key; every machine of one store needs "
        "the same. Left out: accounts.pepper beside the database.",
        json_schema_extra=RESTART,
    )
    when_store_gone: WhenStoreGone = Field(
        default="closed",
        description="While the store cannot be reached. closed: requests that a budget or limit binds are refused. "
        "open: they are served, up to open_usd.",
    )
    open_usd: Usd = Field(default="1", description="US dollars that each process may spend then, for each tenant.")
    trust_known_keys_s: Annotated[float, Field(ge=5, le=2_592_000)] = Field(
        default=300.0,
        description="While the store cannot be reached: seconds for which the keys that a gateway knows go on opening. "
        "Then they are answered 503, since one that was revoked elsewhere would open too; but for those of tenants "
        "whose when_store_gone is open.",
    )
    unknown_usage: Literal["hold", "estimate"] = Field(
        default="hold",
        description="When a provider was asked and no usage is known. hold: what was reserved stays taken until it is "
        "reconciled. estimate: it is settled at our own figure.",
    )
    webhook: WebhookSettings = Field(
        default=WebhookSettings(), description="Who is told when a share of a budget is used."
    )
    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None,
        description="TCP port of the admin API; left out: it is served with everything else.",
        json_schema_extra=RESTART,
    )
    admin_host: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default="127.0.0.1", description="Address of the admin API, where it has a port.", json_schema_extra=RESTART
    )


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts go, and what signs them."""

    url: str = field(repr=False)
    """May hold a token."""
    secrets: tuple[SecretStr, ...]
    """The one that is valid; the one before it, while it is changed."""

    def hook(self) -> Hook:
        """What sends there."""
        return Hook(self.url, [read_secret(secret.get_secret_value()) for secret in self.secrets])


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts' settings with secrets at hand and every place filled in."""

    url: str = field(repr=False)
    """May hold a password."""
    redis_url: str | None = field(repr=False)
    """May hold a password."""
    pepper: Path
    allowances: tuple[Allowance, ...]
    """Of tenants, models and providers in the file."""
    serves_without_store: bool
    """While budgets cannot be asked; of tenants that do not have it otherwise. So the next."""
    open_nusd: int
    """Nano-USD that a process may spend for each tenant then."""
    trust_known_keys_s: float
    """How long keys that are known go on opening then; of tenants that it serves then for ever."""
    unknown_usage: Literal["hold", "estimate"]
    webhook: Webhook | None
    admin_port: int | None
    admin_host: str


def allowances_of(tenants: Mapping[str, TenantSettings], budgets: BudgetsSettings) -> tuple[Allowance, ...]:
    """Every budget and limit that the file has."""
    found: list[Allowance] = []
    for id, tenant in tenants.items():
        found += _budgets(Scope.TENANT, id, tenant.budgets)
        limits = tenant.limits
        for metric, period, amount in (
            (Metric.REQUESTS, Period.MINUTE, limits.requests_per_min),
            (Metric.TOKENS, Period.MINUTE, limits.tokens_per_min),
            (Metric.CONCURRENCY, Period.NONE, limits.concurrency),
        ):
            if amount is not None:
                found.append(
                    Allowance(
                        scope=Scope.TENANT, subject=id, metric=metric, period=period, amount=amount, from_file=True
                    )
                )
    for model, settings in budgets.models.items():
        found += _budgets(Scope.MODEL, model, settings)
    for provider, settings in budgets.providers.items():
        found += _budgets(Scope.PROVIDER, provider, settings)
    return tuple(found)


def _budgets(scope: Scope, subject: str, settings: tuple[BudgetSettings, ...]) -> list[Allowance]:
    return [
        Allowance(
            scope=scope,
            subject=subject,
            metric=Metric.USD,
            period=Period(one.per),
            amount=nusd_of_amount(one.usd),
            hard=one.hard,
            alerts=one.alerts,
            from_file=True,
        )
        for one in settings
    ]
