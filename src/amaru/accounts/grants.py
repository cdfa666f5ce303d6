"""Who is granted what: the rules of leases and recalls, apart from where counters are kept.

A counter is scarce where less is free than somebody needs. It is recalled then: every holder gives back what it has
idle and says so. Whoever waits is granted as soon as enough is free; refused once every other live holder has answered
a recall that was made after it asked, and still less is free. ``turn.lua`` says the same for Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence

import msgspec

from amaru.accounts.bank import Decision, Key, Need, Verdict

EVERYBODY = 1 << 62
"""Acknowledged, where nobody else holds anything."""


class Row(msgspec.Struct, gc=False):
    """A counter as the bank keeps it, while its turn lasts."""

    amount: int
    settled: int
    leased: int
    overrun: int = 0
    """The most by which settlements have exceeded it."""
    generation: int = 0
    """Of its recall, if that goes on; else 0."""
    recalled: bool = False
    """Somebody waited for it in this turn: the recall goes on."""

    @property
    def free(self) -> int:
        return self.amount - self.settled - self.leased


def answer_asks(
    asks: Sequence[tuple[Need, ...]],
    rows: Mapping[Key, Row],
    granted: MutableMapping[Key, int],
    *,
    acknowledged: Callable[[Key], int],
    new_generation: Callable[[], int],
) -> list[Decision]:
    """Decide each ask, all or nothing, in the order given; what is granted is leased, and added to ``granted``.

    Parameters
    ----------
    acknowledged
        The lowest recall of a counter that another live holder of a part of it has answered; EVERYBODY: none has any.
    new_generation
        A number above those of all recalls before.
    """
    decisions = []
    awaited: set[Key] = set()
    """Counters that one before waits for: nobody overtakes it."""
    lapsed = {key for key, row in rows.items() if not row.generation}
    fresh: dict[Key, int] = {}

    def recall(need: Need) -> int:
        """The recall that was made for it, or is made now: one turn makes one of a counter."""
        row = rows[need.key]
        row.recalled = True
        if need.since and need.key not in lapsed:
            return need.since
        if need.key not in fresh:
            fresh[need.key] = row.generation = new_generation()
        return fresh[need.key]

    for needs in asks:
        short = [need.amount > rows[need.key].free for need in needs]
        wanting = [lacks or need.key in awaited for need, lacks in zip(needs, short, strict=True)]
        if not any(wanting):
            for need in needs:
                grant(need.key, need.amount, rows, granted)
            decisions.append(Decision(Verdict.GRANTED))
            continue
        since = tuple(recall(need) if wants else need.since for need, wants in zip(needs, wanting, strict=True))
        refused = [at for at, need in enumerate(needs) if short[at] and acknowledged(need.key) >= since[at]]
        if refused:
            decisions.append(Decision(Verdict.REFUSED, short=refused[0]))
        else:
            awaited.update(need.key for need in needs)
            decisions.append(Decision(Verdict.WAIT, since))
    return decisions


def answer_wants(
    wants: Mapping[Key, int], rows: Mapping[Key, Row], granted: MutableMapping[Key, int], *, holders: int
) -> None:
    """Lease more where there is plenty: never more than half of a fair share of what is free, so that leases shrink
    as a counter runs low; and nothing of one that is recalled."""
    for key, want in wants.items():
        row = rows[key]
        if not row.generation:
            grant(key, max(0, min(want, row.free // (2 * max(holders, 1)))), rows, granted)


def grant(key: Key, amount: int, rows: Mapping[Key, Row], granted: MutableMapping[Key, int]) -> None:
    """Lease ``amount`` of a counter."""
    if amount:
        rows[key].leased += amount
        granted[key] = granted.get(key, 0) + amount


def note_overrun(row: Row, over_before: int) -> bool:
    """Record by how much settlements exceed a counter, where they do so by more than before; whether they do."""
    over = row.settled + row.leased - row.amount
    if over <= max(over_before, 0):
        return False
    row.overrun = max(row.overrun, over)
    return True
