"""Budgets that are used up, or a share of them: noticed once each, and put into the outbox.

Every process looks. What is told stands in the outbox under a name of its own (the counter, the amount and the share),
written in the transaction that marks the counter, so that of many processes one writes it, and a process that dies has
either done so or not. A budget whose amount is changed may be told of anew.

Limits of requests and tokens are not told of: they renew within a minute.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from sqlalchemy import select, tuple_, update
from sqlalchemy.engine import Connection

from amaru.accounts.allowances import Allowance, Metric
from amaru.accounts.books_sql import KEYS_PER_STATEMENT, ignoring, read_now
from amaru.accounts.money import PICO_PER_NANO, usd_text
from amaru.accounts.periods import span
from amaru.accounts.schema import counters, outbox
from amaru.accounts.store import Store
from amaru.accounts.usage import standing

THRESHOLD = "budget.threshold"
"""A share of a budget is used that somebody asked to be told of."""
EXCEEDED = "budget.exceeded"
"""More than the whole of it is used: it is soft, or calls were billed at more than was reserved for them."""
LATE_S = 86_400.0
"""A period is looked at for so long after its end: usage may arrive late."""

_KEY = (counters.c.allowance, counters.c.period_start)


class Fill(msgspec.Struct, frozen=True):
    """How far a budget is used in one period; amounts in nano-USD."""

    allowance: Allowance
    start: int
    """Unix seconds."""
    end: int | None
    """``None``: it never renews."""
    settled: int = 0
    standing: int = 0
    """Reserved by calls whose usage is not known."""

    @property
    def used(self) -> int:
        return self.settled + self.standing

    @property
    def ratio(self) -> float:
        """Used by amount; of a budget of nothing, 1 where anything was used."""
        return self.used / self.allowance.amount if self.allowance.amount else float(self.used > 0)

    def crossed(self) -> Iterator[Alert]:
        """All there is to tell of it, by share."""
        if self.used <= 0:
            return
        for share in self.allowance.alerts:
            if self.used >= share * self.allowance.amount:
                yield Alert(THRESHOLD, share, self)
        if self.used > self.allowance.amount:
            yield Alert(EXCEEDED, None, self)


class Alert(msgspec.Struct, frozen=True):
    """Something to tell."""

    event: str
    share: float | None
    fill: Fill

    @property
    def once(self) -> str:
        """What it is told under: the same for whoever notices."""
        fill = self.fill
        what = "exceeded" if self.share is None else f"{self.share!r}"
        return f"{fill.start}:{fill.allowance.amount}:{what}:{fill.allowance.id}"

    def body(self, at: float) -> str:
        """The payload, as the Standard Webhooks specification has it: ``type``, ``timestamp`` and ``data``."""
        allowance = self.fill.allowance
        data = {
            "budget": allowance.id,
            "scope": allowance.scope,
            "subject": allowance.subject,
            "period": allowance.period,
            "period_start": iso(self.fill.start) if self.fill.end is not None else None,
            "renews_at": iso(self.fill.end) if self.fill.end is not None else None,
            "hard": allowance.hard,
            "share": self.share,
            "amount_usd": _usd(allowance.amount),
            "settled_usd": _usd(self.fill.settled),
            "standing_usd": _usd(self.fill.standing),
            "left_usd": _usd(allowance.amount - self.fill.used),
        }
        return msgspec.json.encode({"type": self.event, "timestamp": iso(at), "data": data}).decode()


def fills(store: Store, allowances: Iterable[Allowance], clock: float) -> list[Fill]:
    """The budgets among ``allowances``, in the periods of now and of a day ago. Raises StorageError.

    ``clock`` is the time, Unix seconds, where the store has no clock of its own.
    """
    with store.reading() as connection:
        now = read_now(connection, clock)
        found: dict[tuple[str, int], Fill] = {}
        for allowance in allowances:
            if allowance.metric is Metric.USD:
                for at in (now - LATE_S, now):
                    start, end = span(allowance.period, at)
                    found[allowance.id, start] = Fill(allowance, start, end)
        wanted = sorted(found)
        for first in range(0, len(wanted), KEYS_PER_STATEMENT):
            these = wanted[first : first + KEYS_PER_STATEMENT]
            query = select(*_KEY, counters.c.settled, standing()).where(tuple_(*_KEY).in_(these))
            for id, start, settled, stands in connection.execute(query):
                figures = {"settled": settled, "standing": max(int(stands), 0)}
                found[id, start] = msgspec.structs.replace(found[id, start], **figures)
    return [found[key] for key in wanted]


class Lookout:
    """Notices what is to be told. Used from one thread.

    Parameters
    ----------
    store
        Open.
    clock
        Unix seconds.

    Attributes
    ----------
    fills
        What was seen last.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self.fills: list[Fill] = []
        self._store = store
        self._clock = clock
        self._told: frozenset[str] = frozenset()

    def look(self, allowances: Iterable[Allowance], *, is_sent: bool) -> list[Alert]:
        """Notice what nobody has noticed before, and put it into the outbox; gives what is new.

        ``is_sent``: it is to be sent from there; else it only stands there. Raises StorageError; then nothing is told,
        and the next look notices it.
        """
        self.fills = fills(self._store, allowances, self._clock())
        crossed = {alert.once: alert for fill in self.fills for alert in fill.crossed()}
        fresh = [alert for once, alert in crossed.items() if once not in self._told]
        new: list[Alert] = []
        if fresh:
            with self._store.writing() as connection:
                new = _write(connection, fresh, read_now(connection, self._clock()), is_sent=is_sent)
        self._told = frozenset(crossed)
        return new


def _write(connection: Connection, alerts: Sequence[Alert], at: float, *, is_sent: bool) -> list[Alert]:
    """In the order of their counters, which is that of the banks' locks: nobody waits in a circle."""
    new = []
    for alert in alerts:
        row = {"once": alert.once, "at": at, "event": alert.event, "body": alert.body(at), "tries": 0}
        made = ignoring(connection, outbox).values(**row, next_at=at if is_sent else None).returning(outbox.c.id)
        if connection.execute(made).first() is not None:
            new.append(alert)
            share, fill = alert.share or 0.0, alert.fill
            same = (counters.c.allowance == fill.allowance.id, counters.c.period_start == fill.start)
            connection.execute(update(counters).where(*same, counters.c.alerted < share).values(alerted=share))
    return new


def iso(at: float) -> str:
    """An instant as RFC 3339 writes it, UTC, to the second; of one beyond all calendars its Unix seconds."""
    try:
        return datetime.datetime.fromtimestamp(int(at), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"@{int(at)}"


def _usd(nusd: int) -> str:
    return usd_text(nusd * PICO_PER_NANO)
