"""Which processes hold parts of allowances; and the end of one that will never say itself what became of them."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, or_, select

from amaru.accounts.bank import TAKEOVER_STEP, Bank, Turn
from amaru.accounts.changes import ChangeLog, plain
from amaru.accounts.schema import holders, leases
from amaru.accounts.store import Store
from amaru.errors import AccountConflict, UnknownAccount
from amaru.files.problems import shown

SILENT_S = 30.0
"""One that was heard of within this time may live, and would spend what it holds."""
SHOWN_S = 86_400.0
"""One that holds nothing is shown for so long after it was last heard of."""


class HolderInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds parts of allowances, or did."""

    name: str
    host: str
    pid: int
    started_at: float
    heartbeat_at: float
    leases: int
    """Of how many allowances; 0 where leases are in Redis."""


_COLUMNS = (holders.c.name, holders.c.host, holders.c.pid, holders.c.started_at, holders.c.heartbeat_at)
_HELD = func.count(leases.c.allowance)
_HOLDERS = (
    select(*_COLUMNS, _HELD.label("leases"))
    .select_from(holders.outerjoin(leases, leases.c.holder == holders.c.name))
    .group_by(*_COLUMNS)
)


def list_holders(store: Store, at: float) -> list[HolderInfo]:
    """Those that hold anything, and those that were heard of lately; the last one first. Raises StorageError."""
    shown_ones = or_(_HELD > 0, holders.c.heartbeat_at > at - SHOWN_S)
    with store.reading() as connection:
        rows = connection.execute(_HOLDERS.having(shown_ones).order_by(holders.c.heartbeat_at.desc()))
        return [HolderInfo(**row._mapping) for row in rows]


def release(name: str, store: Store, bank: Bank, log: ChangeLog, *, at: float, by: str) -> HolderInfo:
    """Give back what a dead process holds, whose journal is lost with its machine; what stands goes on standing.

    Should its journal turn up after all, what it spent is still counted.

    Raises
    ------
    UnknownAccount
        No process of that name ever held anything.
    AccountConflict
        It was heard of in the last half minute.
    StorageError
        The store fails.
    """
    with store.reading() as connection:
        row = connection.execute(_HOLDERS.where(holders.c.name == plain(name))).first()
    if row is None:
        raise UnknownAccount(f"no process {shown(name)} holds anything. `amaru budgets holders` shows those that do.")
    found = HolderInfo(**row._mapping)
    if abs(at - found.heartbeat_at) < SILENT_S:
        raise AccountConflict(
            f"process {found.pid} on {found.host} lives, or did until {abs(at - found.heartbeat_at):.0f} s ago, and "
            f"would spend what it holds. Stop it, wait {SILENT_S:.0f} s, and try again."
        )
    bank.turn(Turn(holder=name, number=bank.position(name).turn + TAKEOVER_STEP, whole=True))
    with log.changing(by) as change:
        change.remark("holder.release", f"holder:{name}", found)
    return found
