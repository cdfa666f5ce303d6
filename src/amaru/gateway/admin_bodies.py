"""What the admin API is sent and what it answers: every mistake named with its field, unknown fields refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import Field
from starlette.requests import Request

from amaru.accounts.allowances import MAX_ALERTS, Allowance, Metric, Scope
from amaru.accounts.changes import AuditRow
from amaru.accounts.directory_keys import MAX_OVERLAP_S, KeyInfo, Role
from amaru.accounts.directory_tenants import TeamInfo, TenantInfo
from amaru.accounts.money import NANO_PER_USD, nusd_of_amount
from amaru.accounts.outbox import MessageInfo
from amaru.accounts.periods import Period
from amaru.accounts.profile import TenantProfile
from amaru.accounts.provider_orders import ProviderOrder
from amaru.accounts.usage import Usage
from amaru.errors import RequestError
from amaru.files.fields import Identifier, Name, Section
from amaru.files.problems import dotted
from amaru.files.translate import validate
from amaru.gateway.agent_api import decode

MAX_BODY_BYTES = 64 * 1024
MAX_UNIX_S = 1e11
Title = Annotated[str, Field(max_length=200)]
Instant = Annotated[float, Field(gt=0, le=MAX_UNIX_S)]
_Body = TypeVar("_Body", bound=Section)
_decoder = msgspec.json.Decoder(dict[str, Any])


class TenantIn(Section):
    """A tenant to make."""

    id: Identifier = Field(description="By which it is known everywhere, for ever.")
    name: Title = Field(default="", description="For people.")
    settings: TenantProfile = Field(default=TenantProfile(), description="As under `tenants` in amaru.yaml.")


class TenantChange(Section):
    """What to change of a tenant; what is left out stays."""

    name: Title | None = Field(default=None, description="For people.")
    settings: TenantProfile | None = Field(default=None, description="In place of all that it had.")


class TeamIn(Section):
    """A team to make."""

    id: Identifier = Field(description="By which its tenant knows it.")
    name: Title = Field(default="", description="For people.")


class KeyIn(Section):
    """A key to make: of a tenant, or with a role, which makes it an admin's."""

    tenant: Identifier | None = Field(default=None, description="Whose key it is.")
    team: Identifier | None = Field(default=None, description="Of the tenant's.")
    role: Role | None = Field(default=None, description="What an admin's key opens.")
    name: Title = Field(default="", description="For people.")
    expires_at: Instant | None = Field(default=None, description="Unix seconds; left out: it lasts.")


class RotateIn(Section):
    """How a key is replaced."""

    overlap_s: Annotated[float, Field(ge=0, le=MAX_OVERLAP_S)] = Field(
        default=0.0, description="Seconds for which the one before goes on."
    )
    expires_at: Instant | None = Field(default=None, description="Of the new one, Unix seconds; left out: it lasts.")


class ExpireIn(Section):
    """When a key ends."""

    expires_at: Instant | None = Field(default=None, description="Unix seconds.")
    lasts: bool = Field(default=False, description="In place of expires_at: it has no end.")


class AllowanceIn(Section):
    """A budget or a limit, in place of what there was of the same scope, subject, metric and period."""

    scope: Scope
    subject: Name = Field(description="Of a key its id, of a team TENANT/TEAM, else the name.")
    metric: Metric
    period: Period = Field(
        description="usd: day, week, month or total; requests and tokens: minute; concurrency: none."
    )
    amount: Annotated[Decimal, Field(ge=0, max_digits=25, decimal_places=9)] = Field(
        description="Of usd, US dollars with up to nine decimals; else a whole number."
    )
    hard: bool = Field(default=True, description="It refuses what would exceed it; else it only alerts.")
    alerts: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(max_length=MAX_ALERTS)] = Field(
        default=(), description="Shares of the amount at which somebody is told, ascending."
    )

    def allowance(self) -> Allowance:
        """As accounts have it. Raises ``RequestError``."""
        if self.metric is Metric.USD:
            try:
                amount = nusd_of_amount(str(self.amount))
            except ValueError as error:
                raise RequestError(400, f"amount: {error}.", param="amount") from None
        elif self.amount != int(self.amount):
            raise RequestError(400, f"amount: {self.metric} are counted in whole numbers.", param="amount")
        else:
            amount = int(self.amount)
        return Allowance(
            scope=self.scope,
            subject=self.subject,
            metric=self.metric,
            period=self.period,
            amount=amount,
            hard=self.hard,
            alerts=self.alerts,
        )


class ReasonIn(Section):
    """Why."""

    reason: Title = Field(default="", description="For people, and the audit.")


class WeightIn(Section):
    """How much a provider's scores count."""

    weight: Annotated[float, Field(ge=0, le=1)] = Field(description="1: as configured.")
    reason: Title = Field(default="", description="For people, and the audit.")


class TenantsOut(msgspec.Struct, frozen=True):
    """A page of tenants: those of the file, then those of the store, by name."""

    tenants: list[TenantInfo]
    next_cursor: str | None


class TeamsOut(msgspec.Struct, frozen=True):
    """A page of the teams of a tenant, by name."""

    teams: list[TeamInfo]
    next_cursor: str | None


class KeysOut(msgspec.Struct, frozen=True):
    """A page of keys, by id."""

    keys: list[KeyInfo]
    next_cursor: str | None


class AllowanceOut(msgspec.Struct, frozen=True, kw_only=True):
    """A budget or a limit in the period of now. Amounts of usd are decimal text, the others whole numbers."""

    id: str
    scope: Scope
    subject: str
    metric: Metric
    period: Period
    amount: str | int
    used: str | int
    """Settled."""
    held: str | int | None
    """Reserved: by requests under way, for those to come, or until usage is known. Null: Redis, which keeps the leases,
    does not answer."""
    left: str | int | None
    """Neither used nor held; null likewise."""
    renews_at: int | None
    """Unix seconds; null: never."""
    hard: bool
    alerts: tuple[float, ...]
    from_file: bool


class AllowancesOut(msgspec.Struct, frozen=True):
    """A page of budgets and limits: those of the file, then those of the store, by id."""

    allowances: list[AllowanceOut]
    next_cursor: str | None


class AlertsOut(msgspec.Struct, frozen=True):
    """A page of alerts, newest first."""

    alerts: list[MessageInfo]
    next_cursor: str | None


class AuditOut(msgspec.Struct, frozen=True):
    """A page of the audit, newest first."""

    changes: list[AuditRow]
    next_cursor: str | None


class ProviderOrderOut(msgspec.Struct, frozen=True):
    """An order that was given, and what of it could not be carried out."""

    order: ProviderOrder
    refused: dict[str, str]
    """By offer, why it goes on: too few others would be left."""


class ProviderOrdersOut(msgspec.Struct, frozen=True):
    """What people ordered about providers."""

    orders: list[ProviderOrder]


def allowance_out(usage: Usage) -> AllowanceOut:
    """As it is shown."""
    one = usage.allowance

    def shown(amount: int) -> str | int:
        return f"{(Decimal(amount) / NANO_PER_USD).normalize():f}" if one.metric is Metric.USD else amount

    return AllowanceOut(
        id=one.id,
        scope=one.scope,
        subject=one.subject,
        metric=one.metric,
        period=one.period,
        amount=shown(one.amount),
        used=shown(usage.used),
        held=None if usage.held is None else shown(usage.held),
        left=None if usage.left is None else shown(usage.left),
        renews_at=usage.renews_at,
        hard=one.hard,
        alerts=one.alerts,
        from_file=one.from_file,
    )


async def body_of(request: Request, model: type[_Body]) -> _Body:
    """The request's body. Raises ``RequestError`` 400 that names every mistake with its field, or 413."""
    raw = await request.body()
    if len(raw) > MAX_BODY_BYTES:
        raise RequestError(413, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB.", code="too_large")
    body, _, problems = validate(model, decode(_decoder, raw or b"{}"))
    if body is None or problems:
        said = "; ".join(
            f"{dotted(one.loc) or 'body'}: {one.what}" + (f" — {one.remedy}" if one.remedy else "") for one in problems
        )
        param = dotted(problems[0].loc) if problems else None
        raise RequestError(400, f"The request body is not as expected: {said}", param=param)
    return body
