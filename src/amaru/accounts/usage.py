"""What was used of each allowance: as the store knows, and Redis, where leases are kept there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_

from amaru.accounts.allowances import Allowance
from amaru.accounts.bank import Key
from amaru.accounts.periods import span
from amaru.accounts.schema import counters, leases
from amaru.accounts.store import Store

_COUNTERS_PER_STATEMENT = 400
"""Two variables each, and SQLite's expressions are at most 1,000 deep."""


Leases = Callable[[Collection[Key]], Mapping[Key, int] | None]
"""What of counters is leased beside the store; ``None``: that cannot be told now."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """An allowance in the period of now; amounts as the allowance has them."""

    allowance: Allowance
    renews_at: int | None
    """Unix seconds; ``None``: never."""
    used: int = 0
    """Settled."""
    held: int | None = 0
    """Reserved by requests under way, leased to processes for those to come, or standing until usage is known.

    ``None``: the leases are in Redis, which does not answer.
    """

    @property
    def left(self) -> int | None:
        """Neither used nor held; below 0 where more was used than was reserved."""
        return None if self.held is None else self.allowance.amount - self.used - self.held


def usage(store: Store, allowances: Sequence[Allowance], at: float, leases: Leases = lambda _: {}) -> list[Usage]:
    """What was used of each, in their order. Raises StorageError.

    A settlement of this very moment may count twice, as used and as held: too much, never too little.
    """
    spans = [span(allowance.period, at) for allowance in allowances]
    wanted = [(allowance.id, start) for allowance, (start, _) in zip(allowances, spans, strict=True)]
    beside = leases(wanted) if wanted else {}
    found: dict[Key, tuple[int, int]] = {}
    with store.reading() as connection:
        for first in range(0, len(wanted), _COUNTERS_PER_STATEMENT):
            these = (
                and_(counters.c.allowance == id, counters.c.period_start == start)
                for id, start in wanted[first : first + _COUNTERS_PER_STATEMENT]
            )
            query = select(counters.c.allowance, counters.c.period_start, counters.c.settled, counters.c.leased)
            for id, start, settled, leased in connection.execute(query.where(or_(*these))):
                found[id, start] = settled, leased
    made = []
    for allowance, key, (_, end) in zip(allowances, wanted, spans, strict=True):
        used, here = found.get(key, (0, 0))
        held = None if beside is None else here + beside.get(key, 0)
        made.append(Usage(allowance=allowance, renews_at=end, used=used, held=held))
    return made


def spent(store: Store, keys: Sequence[Key]) -> dict[Key, int]:
    """What of each counter is settled, or stands for calls whose usage is not known; not what is merely leased.

    Raises StorageError.
    """
    place = counters.c.allowance, counters.c.period_start
    found = dict.fromkeys(keys, 0)
    with store.reading() as connection:
        for first in range(0, len(keys), _COUNTERS_PER_STATEMENT):
            query = select(*place, counters.c.settled, standing()).where(
                tuple_(*place).in_(keys[first : first + _COUNTERS_PER_STATEMENT])
            )
            for id, start, settled, stands in connection.execute(query):
                found[id, start] = settled + max(int(stands), 0)
    return found


def standing() -> ColumnElement[int]:
    """Of a counter: what is set aside beside all leases."""
    leased = (
        select(func.coalesce(func.sum(leases.c.amount), 0))
        .where(leases.c.allowance == counters.c.allowance, leases.c.period_start == counters.c.period_start)
        .scalar_subquery()
    )
    return counters.c.leased - leased
