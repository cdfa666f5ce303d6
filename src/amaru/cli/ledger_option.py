"""``--ledger`` of commands that are about something else: what they did leaves a receipt, where there is a ledger."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.remembrancer_session import place_of
from amaru.errors import LedgerError

if TYPE_CHECKING:
    from amaru.ledger.receipts import Receipt
    from amaru.ledger.remembrancer import Entry

RecordIn = Annotated[
    str | None,
    typer.Option(
        "--ledger", metavar="URL", envvar="AMARU_LEDGER", show_default=False,
        help="Have it leave a receipt in this ledger; by default in that of amaru.yaml, where there is one.",
    ),
]  # fmt: skip
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


def record(ledger: str | None, make: Callable[[str, str], Receipt]) -> Entry | None:
    """Log what was done; ``None``: there is no ledger, or it cannot be written and nobody named it.

    ``make`` gets the time, as receipts write it, and who records. Raises LedgerError where the ledger that was named
    cannot be written; what was done stays done.
    """
    from amaru.ledger.place import exists
    from amaru.ledger.receipts import rfc3339
    from amaru.ledger.remembrancer import Remembrancer

    try:
        place = place_of(ledger)
        if ledger is None and not exists(place):
            return None
        with Remembrancer(place) as remembrancer:
            return remembrancer.record(make(rfc3339(time.time()), os.environ.get("USER", "")[:200])).entry
    except LedgerError as error:
        if ledger is not None:
            raise LedgerError(f"it was done, but not recorded: {error}") from None
        typer.echo(f"It was not recorded in the ledger: {error}", err=True)
        return None


def said_of(entry: Entry) -> str:
    """Where the receipt is, in words."""
    return f"Recorded as #{entry.leaf:,} of the ledger: remembrancer receipt {entry.id[:16]}"


def shown_url(url: str) -> str:
    """A URL as a receipt may hold it: without credentials, and not too long."""
    return _CREDENTIALS.sub("", url)[-200:]
