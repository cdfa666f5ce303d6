"""What was used of each allowance, as the store knows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import and_, or_, select

from amaru.accounts.allowances import Allowance
from amaru.accounts.periods import span
from amaru.accounts.schema import counters
from amaru.accounts.store import Store

_COUNTERS_PER_STATEMENT = 400
"""Two variables each, and SQLite's expressions are at most 1,000 deep."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """An allowance in the period of now; amounts as the allowance has them."""

    allowance: Allowance
    renews_at: int | None
    """Unix seconds; ``None``: never."""
    used: int = 0
    """Settled."""
    held: int = 0
    """Reserved by requests under way, leased to processes for those to come, or standing until usage is known."""

    @property
    def left(self) -> int:
        """Neither used nor held; below 0 where more was used than was reserved."""
        return self.allowance.amount - self.used - self.held


def usage(store: Store, allowances: Sequence[Allowance], at: float) -> list[Usage]:
    """What was used of each, in their order. Raises StorageError."""
    spans = [span(allowance.period, at) for allowance in allowances]
    wanted = [(allowance.id, start) for allowance, (start, _) in zip(allowances, spans, strict=True)]
    found: dict[tuple[str, int], tuple[int, int]] = {}
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
        used, held = found.get(key, (0, 0))
        made.append(Usage(allowance=allowance, renews_at=end, used=used, held=held))
    return made
