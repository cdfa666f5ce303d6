"""Spend and charges as records: the columns of files, and of what programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from amaru.accounts.charges import Charge
from amaru.accounts.money import usd_text
from amaru.accounts.price_rows import PriceTerms
from amaru.accounts.spend import TOKEN_KINDS, By, Spend

SOURCES = ("provider", "counted", "estimated", "standing", "reconciled")
"""Where figures come from."""
CHARGE_COLUMNS: dict[str, type] = {
    "id": str, "at": float, "decision": str, "attempt": int, "tenant": str, "team": str, "key": str, "resource": str,
    "provider": str, "offer": str, "model": str, "kind": str, "status": str, "failure": str, "provider_ref": str,
    "input_tokens": int, "cached_input_tokens": int, "output_tokens": int, "usage": str, "usage_source": str,
    "price": str, "price_terms": str, "cost_usd": int, "reconciled_at": float, "note": str,
}  # fmt: skip
"""As ``spend_files`` takes them."""


def spend_columns(by: Sequence[By]) -> dict[str, type]:
    """As ``spend_files`` takes them."""
    figures = ("requests", "attempts", "input_tokens", "cached_input_tokens", "output_tokens", *TOKEN_KINDS)
    money = ("cost_usd", *(f"{source}_usd" for source in SOURCES))
    return dict.fromkeys([one.value for one in by], str) | dict.fromkeys((*figures, *money), int)


def spend_record(row: Spend) -> dict[str, object]:
    """A record of ``spend_columns``."""
    values = {name.replace("_pusd", "_usd"): value for name, value in msgspec.structs.asdict(row).items()}
    return dict.fromkeys(TOKEN_KINDS, 0) | values | row.details | row.of


def charge_record(charge: Charge, terms: PriceTerms) -> dict[str, object]:
    """A record of ``CHARGE_COLUMNS``; ``price_terms`` is what its price says. Raises StorageError."""
    told = {"cost_usd": charge.cost_pusd, "status": charge.status.value, "price_terms": terms.of(charge.price)}
    return msgspec.structs.asdict(charge) | told


def as_json_record(columns: Mapping[str, type], record: Mapping[str, object]) -> dict[str, object]:
    """A record for JSON: amounts are texts, so that no reader rounds them."""
    return {
        name: usd_text(value) if name.endswith("_usd") and isinstance(value := record[name], int) else record[name]
        for name in columns
    }


def json_line(columns: Mapping[str, type], record: Mapping[str, object]) -> str:
    """A record as a line of JSON."""
    return msgspec.json.encode(as_json_record(columns, record)).decode()
