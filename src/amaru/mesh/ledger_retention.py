"""Retention of the ledger: the texts of receipts that are older than is wanted are erased, by prunings that are logged.

A thread of its own looks once an hour. It prunes through the log that the process writes, bundle by bundle, so that
neither the event loop nor the writer waits for all of it; hashes and checkpoints stay, and everything still verifies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from amaru.errors import LedgerError
from amaru.ledger import receipts
from amaru.ledger.log import Log
from amaru.ledger.pruning import DAY_S, older_than, prune
from amaru.ledger.tiles import TILE_WIDTH
from amaru.telemetry.logs import get_logger

EVERY_S = 3_600.0
SOON_S = 10.0
"""Until the next look where the log was not open yet, or could not be read."""
MOST_AT_ONCE = 4_096 * TILE_WIDTH
"""Entries of one pruning: where much is old, it is erased in several."""

_log = get_logger("ledger")


class Retention:
    """Prunes one log. ``days``, ``None`` for ever, may be replaced while it runs; ``hurry`` has it look again.

    Parameters
    ----------
    log
        The log that the process writes; ``None`` while it is not open.
    forget
        Called after a pruning, and once where there was one before: has the search index forget what is gone. May wait
        for the disk, and raise LedgerError.
    wall
        Unix seconds.
    """

    def __init__(self, log: Callable[[], Log | None], *, forget: Callable[[], None], wall: Callable[[], float]) -> None:
        self.days: float | None = None
        self._open = log
        self._forget = forget
        self._forgotten = 0
        self._wall = wall
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amaru-ledger-retention", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def hurry(self) -> None:
        """Look again now: ``days`` were changed."""
        self._wake.set()

    def close(self, limit_s: float) -> None:
        """End; what a pruning has not erased yet goes when the log is next opened."""
        self._ended.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(limit_s)

    def look(self) -> bool:
        """Prune what is older than wanted; False: to look again soon. Raises LedgerError."""
        log, days = self._open(), self.days
        if log is None:
            return False
        if days is not None:
            self._prune(log, days)
        until = log.pruned.until
        if until > self._forgotten and not self._ended.is_set():
            try:
                self._forget()
            except LedgerError as error:
                _log.warning("ledger_index_not_pruned", reason=str(error), remedy="it is tried again shortly")
                return False
            self._forgotten = until
        return True

    def _prune(self, log: Log, days: float) -> None:
        now = self._wall()
        while not self._ended.is_set():
            before = until = log.pruned.until
            for until in older_than(log, now - days * DAY_S, now):
                if self._ended.is_set() or until - before >= MOST_AT_ONCE:
                    break
            if until == before or self._ended.is_set():
                break
            note = f"older than {days:g} days (ledger.retention_days)"
            pruning = receipts.Pruning(
                at=receipts.rfc3339(now), component="ledger", until=until, note=note, by="retention"
            )
            leaf = prune(log, receipts.leaf_of(pruning)).leaf
            _log.info("ledger_pruned", until=until, erased=until - before, leaf=leaf)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                pause_s = EVERY_S if self.look() else SOON_S
            except LedgerError as error:
                _log.warning("ledger_not_pruned", reason=str(error), remedy="it is tried again shortly")
                pause_s = SOON_S
            except Exception:  # the thread must outlive a bug of its own
                _log.exception("ledger_retention_bug")
                pause_s = EVERY_S
            self._wake.wait(pause_s)
