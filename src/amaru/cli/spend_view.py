"""How spend and charges look as rows for people, and how they are asked for."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import typer

from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.money import format_usd, nusd_half_even, usd_text
from amaru.accounts.spend import CORRECTION, By, Spend, instant_of
from amaru.accounts.spend_records import SOURCES
from amaru.cli.accounts_session import span_s

CHARGE_FIGURES = ("input", "cached", "output", "cost $")
CHARGE_HEADINGS = (
    "at (UTC)", "decision", "tenant", "model", "offer", *CHARGE_FIGURES, "status", "usage", "price", "note",
)  # fmt: skip
_ONE_ANSWER = frozenset({By.TENANT, By.TEAM, By.KEY, By.MODEL})
"""A request has one of each, so that requests can be added up."""
_AGO = re.compile(r"([0-9]{1,9}[smhdw])(?: ago)?")


def moment(text: str, option: str, now: float) -> float:
    """Unix seconds of a day, an instant (UTC where it names no offset), Unix seconds, or ``30d`` ago."""
    if ago := _AGO.fullmatch(text.strip()):
        return now - span_s(ago[1], option)
    try:
        return instant_of(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, or 30d for as long ago", param_hint=option) from None


def groups_of(text: str) -> list[By]:
    """What sums are told apart by; nothing where the text is empty."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return list(dict.fromkeys(By(name) for name in named))
    except ValueError:
        wrong = next(name for name in named if name not in list(By))
        raise typer.BadParameter(f"{wrong[:32]!r} is none of {', '.join(By)}", param_hint="--by") from None


def status_of(text: str | None) -> str | None:
    """A status, as it is kept."""
    if text is not None and text not in list(ChargeStatus):
        raise typer.BadParameter(f"{text[:32]!r} is none of {', '.join(ChargeStatus)}", param_hint="--status")
    return text


def usd(pusd: int) -> str:
    """For people."""
    return format_usd(nusd_half_even(pusd)).replace("$", "")


class Total:
    """All rows of a table added up, without holding them."""

    figures = ("requests", "attempts", "input", "cached", "output", "cost $", *SOURCES)

    def __init__(self, by: Sequence[By]) -> None:
        self._by = by
        self._sum = Spend(of={}, details={})
        self.rows = 0

    def add(self, row: Spend) -> None:
        """Take a row in."""
        self._sum.add(row)
        self.rows += 1

    def table(self, shown: Sequence[Spend]) -> tuple[list[str], list[list[str]]]:
        """Headings and rows, the total last; sources that nothing came from are left out."""
        sources = [source for source in SOURCES if getattr(self._sum, f"{source}_pusd")]
        headings = [*self._by, "requests", "attempts", "input", "cached", "output", "cost $", *sources]
        rows = [[*(row.of[one] or "-" for one in self._by), *_figures(row, sources)] for row in shown]
        last = _figures(self._sum, sources)
        if not _ONE_ANSWER.issuperset(self._by):
            last[0] = ""
        if self._by:
            rows.append([*("total" if at == 0 else "" for at in range(len(self._by))), *last])
        return headings, rows


def _figures(row: Spend, sources: Sequence[str]) -> list[str]:
    tokens = (row.requests, row.attempts, row.input_tokens, row.cached_input_tokens, row.output_tokens)
    return [*(f"{value:,}" for value in tokens), usd(row.cost_pusd), *(usd(_pusd(row, source)) for source in sources)]


def _pusd(row: Spend, source: str) -> int:
    return int(getattr(row, f"{source}_pusd"))


def charge_row(charge: Charge) -> tuple[str, ...]:
    """For people, under ``CHARGE_HEADINGS``."""
    at = datetime.datetime.fromtimestamp(charge.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    attempt = "correction" if charge.attempt == CORRECTION else charge.usage_source
    return (
        at,
        charge.decision or "-",
        charge.tenant or "-",
        charge.resource,
        charge.offer or charge.provider,
        f"{charge.input_tokens:,}",
        f"{charge.cached_input_tokens:,}",
        f"{charge.output_tokens:,}",
        usd_text(charge.cost_pusd),
        charge.status.value,
        attempt,
        charge.price or "-",
        charge.note or charge.failure or "",
    )
