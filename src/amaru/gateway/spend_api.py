"""What was spent, over HTTP: sums of charges, and single ones. Amounts are exact, as texts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.directory_keys import Role
from amaru.accounts.periods import Period, span
from amaru.accounts.price_rows import PriceTerms
from amaru.accounts.spend import By, Which, charges_of, instant_of, spend
from amaru.accounts.spend_records import CHARGE_COLUMNS, as_json_record, charge_record, spend_columns, spend_record
from amaru.accounts.store import Store
from amaru.errors import RequestError
from amaru.gateway.access import Admin
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import limit_of, query_of
from amaru.mesh.accounts import MeshAccounts

MAX_GROUPS = 10_000
"""In one answer."""
_FILTERS = ("tenant", "team", "key", "model", "provider", "offer", "status")
_CURSOR = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)~([!-~]{1,200})")


class AdminSpend:
    """The endpoints about spend.

    ``clock`` gives Unix seconds.
    """

    def __init__(self, accounts: MeshAccounts, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._clock = clock

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        return [
            Entry("GET", "/admin/spend", Role.READ, self.spend),
            Entry("GET", "/admin/charges", Role.READ, self.charges),
        ]

    async def spend(self, request: Request, _: Admin) -> Response:
        """Sums of charges, told apart ``by`` what is asked for; without ``since``, of this month."""
        query = query_of(request, ("by", "since", "until", *_FILTERS))
        by = _by(query.get("by", "tenant,model"))
        query.setdefault("since", str(span(Period.MONTH, self._clock())[0]))
        which, columns = _which(query), spend_columns(by)
        found = await self._accounts.run(lambda: list(itertools.islice(spend(self._store, by, which), MAX_GROUPS + 1)))
        rows = [as_json_record(columns, spend_record(row)) for row in found[:MAX_GROUPS]]
        return json_answer(
            {"by": by, "since": which.since, "until": which.until, "rows": rows, "more": len(found) > MAX_GROUPS}
        )

    async def charges(self, request: Request, _: Admin) -> Response:
        """Single charges, the oldest first, a page at a time: each with its decision, its price and its usage."""
        query = query_of(request, ("cursor", "decision", "limit", "since", "until", *_FILTERS))
        which, limit, after = _which(query), limit_of(query), _after(query)

        def read() -> tuple[list[Charge], list[dict[str, object]]]:
            found, terms = list(charges_of(self._store, which, after=after, limit=limit + 1)), PriceTerms(self._store)
            return found, [as_json_record(CHARGE_COLUMNS, charge_record(charge, terms)) for charge in found[:limit]]

        found, page = await self._accounts.run(read)
        last = found[len(page) - 1] if len(found) > limit else None
        return json_answer(
            {
                "charges": page,
                "next_cursor": None if last is None else f"{last.at!r}~{last.id}",
            }
        )

    @property
    def _store(self) -> Store:
        return self._accounts.directory.store


def _by(text: str) -> Sequence[By]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in list(By)]
    if unknown:
        raise RequestError(400, f"by: {unknown[0][:64]!r} is none of {', '.join(By)}.", param="by")
    return [By(name) for name in dict.fromkeys(names)]


def _which(query: Mapping[str, str]) -> Which:
    for name in (*_FILTERS, "decision"):
        if not query.get(name, "").isprintable():
            raise RequestError(400, f"{name} must be printable characters.", param=name)
    status = query.get("status")
    if status is not None and status not in list(ChargeStatus):
        raise RequestError(400, f"status must be one of {', '.join(ChargeStatus)}.", param="status")
    return Which(
        since=_instant(query, "since"),
        until=_instant(query, "until"),
        **{name: query[name] for name in (*_FILTERS, "decision") if name in query},
    )


def _instant(query: Mapping[str, str], name: str) -> float | None:
    try:
        return instant_of(query[name]) if name in query else None
    except ValueError as error:
        raise RequestError(400, f"{name}: {error}.", param=name) from None


def _after(query: Mapping[str, str]) -> tuple[float, str] | None:
    if "cursor" not in query:
        return None
    found = _CURSOR.fullmatch(query["cursor"])
    if found is None:
        raise RequestError(400, "cursor must be the next_cursor of the page before.", param="cursor")
    return float(found[1]), found[2]
