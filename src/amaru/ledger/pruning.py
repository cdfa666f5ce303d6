"""Pruning: the text of the oldest entries is erased, by an entry that says so; their hashes stay.

Every proof and every checkpoint holds as before, since the tree is made of hashes; what is lost is the entries' text,
for good. Who holds an entry's text can still prove that it was logged.
"""

from __future__ import annotations

from amaru.errors import LedgerError
from amaru.ledger.canonical import canonical, require_canonical
from amaru.ledger.log import Log
from amaru.ledger.tiles import ENTRIES, TILE_WIDTH, Tile
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
    names it, then the bundles go, the oldest first. Whatever a crash left goes with ``finish_pruning``. Raises
    LedgerError.
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
    _erase(log, before, until)
    return pruned


def finish_pruning(log: Log) -> None:
    """Erase what a logged pruning was stopped from erasing; done at little cost where there is nothing."""
    _erase(log, 0, log.pruned.until)


def _erase(log: Log, start: int, until: int) -> None:
    for number in range(start // TILE_WIDTH, until // TILE_WIDTH):
        path = Tile(ENTRIES, number).path
        log.store.delete(path)
        log.store.delete(f"{path}.p")
