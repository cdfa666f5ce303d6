"""Pruning: the text of the oldest entries is erased, by an entry that says so; their hashes stay.

Every proof and every checkpoint holds as before, since the tree is made of hashes; what is lost is the entries' text,
for good. Who holds an entry's text can still prove that it was logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from amaru.errors import LedgerError
from amaru.ledger.canonical import canonical, require_canonical
from amaru.ledger.erasing import erase
from amaru.ledger.log import Log
from amaru.ledger.receipts import rfc3339
from amaru.ledger.tiles import TILE_WIDTH
from amaru.ledger.view import PRUNED, LogView, Pruned

KIND = "pruning"
ERASED_AT_ONCE = 64 * TILE_WIDTH
"""Entries that go while nobody else can write."""
DAY_S = 86_400.0
_AT = re.compile(rb'"at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"')


def prunable_until(log: LogView, index: int) -> int:
    """Up to where entries can be pruned so that none from ``index`` on is: bundles go whole."""
    return min(index, log.size) // TILE_WIDTH * TILE_WIDTH


def older_than(view: LogView, since: float, now: float) -> Iterator[int]:
    """How far entries can be pruned so that none goes that was recorded at ``since`` or later, bundle by bundle.

    Both are Unix seconds. All from the first such one on stay, in whichever order clocks had it. What says no time, or
    one of more than a day after ``now``, by a clock that was wrong, keeps nothing back. Raises LedgerError.
    """
    least, most = rfc3339(since).encode(), rfc3339(now + DAY_S).encode()
    for start in range(view.pruned.until, view.size // TILE_WIDTH * TILE_WIDTH, TILE_WIDTH):
        for leaf in view.entries(start, start + TILE_WIDTH):
            said = _AT.search(leaf)
            if said is not None and least <= said[1] <= most:
                return
        yield start + TILE_WIDTH


def pruning_until(leaf: bytes) -> int:
    """What a pruning's leaf says: entries before this are gone. Raises LedgerError where it is none."""
    value = require_canonical(leaf)
    if not isinstance(value, dict) or value.get("type") != KIND or type(value.get("until")) is not int:
        raise LedgerError(
            f"not a receipt of a pruning: its type is {KIND!r}, and its field `until` a number of entries"
        )
    return int(value["until"])


def prune(log: Log, leaf: bytes) -> Pruned:
    """Log ``leaf``, a receipt of type ``pruning``, and erase the entries before its ``until``, a multiple of 256.

    In this order, so that a crash leaves nothing unexplained: the leaf is logged and made durable, then ``pruned``
    names it, then the bundles go, the oldest first. What a crash leaves of them goes when the log is next opened to
    write. Others may write the log meanwhile. Raises LedgerError.
    """
    until = pruning_until(leaf)
    with log.writing:
        if until % TILE_WIDTH or not 0 < until <= log.size:
            raise LedgerError(
                f"{log.store.shown}: entries go {TILE_WIDTH} at a time: prune until {prunable_until(log, until):,}, "
                f"not {until:,}"
            )
        before = log.pruned.until
        if until <= before:
            raise LedgerError(f"{log.store.shown}: the entries before {before:,} are pruned already")
        appended = log.append([leaf])
        if appended.checkpoint is None:
            raise LedgerError(
                f"{log.store.shown}: the pruning is logged, and could not be published; nothing was erased"
            )
        log.settle()
        pruned = Pruned(until, appended.first)
        log.store.write(PRUNED, canonical({"leaf": pruned.leaf, "until": pruned.until}))
        log.store.sync()
        log.note_pruned(pruned)
    for start in range(before, until, ERASED_AT_ONCE):  # so that others need not wait for all of it
        with log.writing:
            erase(log.store, start, min(start + ERASED_AT_ONCE, until))
    return pruned
