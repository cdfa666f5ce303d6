"""Retention: what is too old or too much is removed in small steps, so that no write waits long for one."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

from amaru.storage.database import Database

ROWS_PER_STEP = 500
PAGES_PER_STEP = 64
EVERY_S = 30.0
"""Pause after everything that had to go is gone."""
FILL = 0.95
"""Share of the size limit that records may fill; the rest is room for pages freed and not yet given back."""
DAY_S = 86_400.0


class Retention:
    """Deletes by age and size, oldest first, and gives freed pages back to the file system.

    Parameters
    ----------
    days, gigabytes
        Limits (10^9 bytes a gigabyte); both may be changed while running.
    clock
        Unix seconds.
    timer
        Monotonic seconds; paces the work.
    """

    def __init__(
        self, days: float, gigabytes: float, *, clock: Callable[[], float], timer: Callable[[], float]
    ) -> None:
        self.days = days
        self.gigabytes = gigabytes
        self.deleted = 0
        self._clock = clock
        self._timer = timer
        self._next_at = float("-inf")

    def run(self, database: Database, budget_s: float) -> None:
        """Take steps for about ``budget_s`` seconds, when it is time for any. Raises what SQLite raises."""
        began = self._timer()
        if began < self._next_at:
            return
        while self._step(database):
            if self._timer() - began >= budget_s:
                return
        self._next_at = self._timer() + EVERY_S

    def hurry(self) -> None:
        """Look again at the next run: a limit was changed."""
        self._next_at = float("-inf")

    def _step(self, database: Database) -> bool:
        """One step; False when nothing is left to do."""
        with database.writing() as connection:
            pages, free, page_bytes = _pages(connection)
            oversize = (pages - free) * page_bytes > self.gigabytes * 1e9 * FILL
            deleted = _delete_oldest(connection, float("inf") if oversize else self._clock() - self.days * DAY_S)
            if deleted:
                _delete_unused_boards(connection)
        self.deleted += deleted
        wasteful = free > pages * (1 - FILL)
        return (wasteful and _give_back(database)) or deleted > 0


def _pages(connection: Connection) -> tuple[int, int, int]:
    """Pages of the file, free ones among them, bytes of a page."""
    pages, free, page_bytes = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_count", "freelist_count", "page_size")
    )
    return pages, free, page_bytes


def _give_back(database: Database) -> bool:
    """Return some free pages to the file system; False where none went (the file was not made by us)."""
    with database.outside_transaction() as driver:
        (before,) = driver.execute("PRAGMA freelist_count").fetchone()
        driver.execute(f"PRAGMA incremental_vacuum({PAGES_PER_STEP})").fetchall()
        (after,) = driver.execute("PRAGMA freelist_count").fetchone()
    return bool(after < before)


def _delete_oldest(connection: Connection, before: float) -> int:
    """Delete those of the oldest ``ROWS_PER_STEP`` decisions that were made before the instant; returns how many."""
    last = connection.exec_driver_sql(
        "SELECT max(id) FROM (SELECT id FROM decisions ORDER BY id LIMIT ?)", (ROWS_PER_STEP,)
    ).scalar()
    if last is None:
        return 0
    deleted = connection.exec_driver_sql("DELETE FROM decisions WHERE id <= ? AND at < ?", (last, before)).rowcount
    if deleted:
        connection.exec_driver_sql(
            "DELETE FROM feedback WHERE decision <= ? AND decision NOT IN (SELECT id FROM decisions WHERE id <= ?)",
            (last, last),
        )
    return deleted


def _delete_unused_boards(connection: Connection) -> None:
    """Delete boards whose successor was in use a day before the oldest decision left: no decision refers to them."""
    connection.exec_driver_sql(
        """
        DELETE FROM boards WHERE version IN (
            SELECT version FROM (SELECT version, lead(at) OVER (ORDER BY at) AS replaced_at FROM boards)
            WHERE replaced_at < (SELECT at FROM decisions ORDER BY id LIMIT 1) - ?
        )
        """,
        (DAY_S,),
    )
