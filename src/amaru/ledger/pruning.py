"""Pruning: the text of the oldest entries is erased, by an entry that says so; their hashes stay.

Every proof and every checkpoint holds as before, since the tree is made of hashes; what is lost is the entries' text,
for good. Who holds an entry's text can still prove that it was logged.
"""

from __future__ import annotations

from amaru.errors import LedgerError
from amaru.ledger.canonical import canonical, require_canonical
from amaru.ledger.erasing import erase
from amaru.ledger.log import Log
from amaru.ledger.tiles import TILE_WIDTH
from amaru.ledger.view import PRUNED, Pruned

KIND = "pruning"


def prunable_until(log: Log, index: int) -> int:
    """Up to where entries can be pruned so that none from ``index`` on is: bundles go whole."""
    return min(index, log.size) // TILE_WIDTH * TILE_WIDTH


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
    write. Raises LedgerError.
    """
    until = pruning_until(leaf)
    if until % TILE_WIDTH or not 0 < until <= log.size:
        raise LedgerError(
            f"{log.store.shown}: entries go {TILE_WIDTH} at a time: prune until {prunable_until(log, until):,}, "
            f"not {until:,}"
        )
    if until <= log.pruned.until:
        raise LedgerError(f"{log.store.shown}: the entries before {log.pruned.until:,} are pruned already")
    appended = log.append([leaf])
    if appended.checkpoint is None:
        raise LedgerError(f"{log.store.shown}: the pruning is logged, and could not be published; nothing was erased")
    log.settle()
    before = log.pruned.until
    pruned = Pruned(until, appended.first)
    log.store.write(PRUNED, canonical({"leaf": pruned.leaf, "until": pruned.until}))
    log.store.sync()
    log.note_pruned(pruned)
    erase(log.store, before, until)
    return pruned
