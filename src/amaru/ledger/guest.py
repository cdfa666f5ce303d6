"""A process that logs through another's writer: what it offers goes into the queue that the writer empties.

The queue is a file that both have in memory (``Ring.join``): what was put is logged though either process is killed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from amaru.errors import LedgerError
from amaru.ledger.log import Log
from amaru.ledger.ring import Ring
from amaru.ledger.unqueued import Unqueued
from amaru.ledger.writer import WriterStatus
from amaru.telemetry.logs import get_logger

RETRY_S = 1.0
"""Between two tries to join a queue that is not there yet."""

_log = get_logger("ledger")


class Guest:
    """Stands where a ``Writer`` does, for who only offers. ``join`` is called on a thread of its own, until it works.

    Until then what is offered is dropped, counted, and the count handed to the queue when it is there.
    """

    log: Log | None = None
    """It has none to read from."""

    def __init__(self, join: Callable[[], Ring], *, clock: Callable[[], float] = time.time) -> None:
        self._join = join
        self._ring: Ring | None = None
        self._unqueued = Unqueued(clock)
        self._opened = threading.Event()
        self._ended = threading.Event()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="amaru-ledger-guest", daemon=True)

    def start(self) -> None:
        """Begin to look for the queue."""
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                ring = self._join()
            except LedgerError as error:
                if self._error is None:
                    _log.warning("ledger_queue_not_joined", reason=str(error), effect="receipts are dropped meanwhile")
                self._error = str(error)
                self._ended.wait(RETRY_S)
                continue
            self._ring, self._error = ring, None
            self._unqueued.move_to(ring)
            self._opened.set()
            return

    def wait_open(self, timeout_s: float) -> bool:
        """Whether the queue is there, at the latest after this time."""
        return self._opened.wait(timeout_s)

    def offer(self, leaf: bytes) -> bytes:
        """See ``Writer.offer``."""
        ring = self._ring
        if ring is not None:
            return ring.put(leaf)
        self._unqueued.count()
        return b""

    def status(self) -> WriterStatus:
        """See ``Writer.status``; what is durable, the writer knows."""
        ring = self._ring
        return WriterStatus(
            healthy=self._error is None,
            open=ring is not None,
            committed=0,
            published=0,
            waiting=0,
            queued_bytes=0,
            dropped=self._unqueued.dropped + (ring.dropped if ring is not None else 0),
            last_error=self._error,
        )

    def close(self, timeout_s: float) -> bool:
        """Let go of the queue; what is in it, the writer logs."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._ring is not None:
            self._ring.close()
        return True
