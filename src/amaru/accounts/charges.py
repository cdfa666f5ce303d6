"""Charges: what each attempt cost, a row of spend for each."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec


class ChargeStatus(enum.StrEnum):
    """How far a charge's figure can be relied on."""

    SETTLED = "settled"
    STANDING = "standing"
    """It was dispatched, and its usage is not known: what was reserved stands against the budgets."""
    RECONCILED = "reconciled"
    """Its figure is the provider's, from its export."""


class Charge(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One attempt at an offer; fields as the columns of ``schema.charges``."""

    id: str
    at: float
    """Unix seconds."""
    decision: str
    attempt: int
    tenant: str
    team: str | None = None
    key: str | None = None
    resource: str
    provider: str
    offer: str
    model: str
    kind: str
    status: ChargeStatus = ChargeStatus.SETTLED
    failure: str | None = None
    provider_ref: str | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    usage: str = "{}"
    """JSON: every other kind that is billed apart."""
    usage_source: str = "estimated"
    price: str | None = None
    cost_pusd: int = 0
    """Pico-USD; of one that stands our count or estimate."""
    reconciled_at: float | None = None
    note: str | None = None


def counted_text(counted: Mapping[tuple[str, int], int]) -> str | None:
    """What a charge counts against each counter, by the counter's key, for the column ``reserved``."""
    return msgspec.json.encode([(*key, amount) for key, amount in counted.items()]).decode() if counted else None


def row_of(charge: Charge, holder: str, reserved: str | None) -> dict[str, object]:
    """The charge as a row; ``reserved`` is JSON ``[[allowance, period_start, amount], …]``, as the schema says."""
    return {**msgspec.structs.asdict(charge), "status": charge.status.value, "holder": holder, "reserved": reserved}
