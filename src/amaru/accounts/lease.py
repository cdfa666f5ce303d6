"""A lease in a till's memory, what is reserved from leases, and who waits for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaru.accounts.bank import Counter, Key
from amaru.errors import AllowanceExceeded, AmaruError

Needs = Sequence[tuple[Counter, int]]
"""What a reservation takes, each counter once."""


class Lease:
    """What this holder has of one counter."""

    __slots__ = (
        "acknowledged",
        "counter",
        "ended",
        "free",
        "idle",
        "key",
        "leaving",
        "pace",
        "recall",
        "refused",
        "reserved",
        "used",
        "waiting",
    )

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.key = counter.key
        self.idle = 0
        self.reserved = 0
        self.ended = 0
        self.waiting = 0
        """How many wait for it: nobody overtakes them."""
        self.used = 0
        """Reserved or asked for since the last turn that told of it."""
        self.pace = 0
        """The same, of recent turns."""
        self.recall = 0
        """Of the recall that goes on; 0: none. What is idle then goes back in the next turn."""
        self.acknowledged = 0
        self.refused: int | None = None
        """So much was refused during this recall, and whoever needs as much is refused at once."""
        self.free = 0
        """Of the counter, by the last answer."""
        self.leaving = False


class Reservation:
    """What may be used of several counters; to be ended exactly once."""

    __slots__ = ("dispatched", "over", "parts", "purse", "purse_nusd")

    def __init__(self, parts: list[tuple[Lease, int, int]]) -> None:
        self.parts = parts
        """Lease, amount, and how much of it the lease bears: all, or nothing of what only counts."""
        self.dispatched = ""
        """Under which id."""
        self.over = False
        self.purse: Purse | None = None
        """What bears it, the bank being gone."""
        self.purse_nusd = 0


class Purse:
    """What a tenant may spend while its budgets cannot be asked; nano-USD.

    ``note`` keeps how much may have been spent by then, for whoever comes after this process; False: it cannot.
    """

    __slots__ = ("_note", "before_nusd", "ended_nusd", "limit_nusd", "open_nusd", "tenant")

    def __init__(self, tenant: str, note: Callable[[str, int], bool]) -> None:
        self.tenant = tenant
        self._note = note
        self.limit_nusd = 0
        self.before_nusd = 0
        """Spent by processes that are dead, as long as the bank has not heard of it."""
        self.open_nusd = 0
        """Of reservations that are under way."""
        self.ended_nusd = 0
        """Of those that ended, as long as the bank has not heard of them."""

    def take(self, reservation: Reservation, nusd: int) -> bool:
        """Bear a reservation, where enough is left and that is noted; whether it does."""
        spent = self.open_nusd + self.ended_nusd + nusd
        if self.before_nusd + spent > self.limit_nusd or not self._note(self.tenant, spent):
            return False
        self.open_nusd += nusd
        reservation.purse, reservation.purse_nusd = self, nusd
        return True

    def end(self, reservation: Reservation, spent_nusd: int) -> None:
        """A reservation ended, and cost so much."""
        self.open_nusd -= reservation.purse_nusd
        self.ended_nusd += spent_nusd


class Waiter:
    """A reservation that waits for leases. ``decide`` is called once, unless it is cancelled before."""

    __slots__ = ("decide", "needs", "over", "short")

    def __init__(self, needs: Needs, decide: Callable[[Reservation | AmaruError], None]) -> None:
        self.needs = needs
        self.decide = decide
        self.short: dict[Key, int] = {}
        """What it waits for, and the recall made for it; 0: none yet."""
        self.over = False


def exceeded(lease: Lease, needed: int) -> AllowanceExceeded:
    """A lease's counter has too little left."""
    counter = lease.counter
    return AllowanceExceeded(counter.key[0], counter.period_end, amount=counter.amount, left=lease.free, needed=needed)
