"""The till of a gateway: budgets and limits as they are now, what binds whom, and who is told of overruns.

Where no budget and no limit binds a request, its attempts are noted and charged all the same: spend is the sum of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from amaru.accounts.allowances import Allowance, Metric, format_amount
from amaru.accounts.bank import Bank, Key
from amaru.accounts.banks import bank_at
from amaru.accounts.changes import Changes
from amaru.accounts.excess import Excesses
from amaru.accounts.price_rows import keep_prices
from amaru.accounts.till import Till
from amaru.accounts.usage import spent
from amaru.config import Config
from amaru.errors import StorageError
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.accounts_binding import Bindings
from amaru.mesh.accounts_words import names_of
from amaru.telemetry.logs import get_logger

log = get_logger("mesh")

TOLD_OF_LOST = 1_000
"""Of so many charges that are lost the log tells of one; the metric counts all."""

EXCESS_REMEDY = (
    "compare its limit_field, max_output_tokens, context_window_tokens and price with what its provider says; "
    "where it bills more output than a caller's limit, write bills_beyond_limit: true"
)


class MeshTill:
    """What requests reserve from. Belongs to one event loop.

    Parameters
    ----------
    accounts
        Started; whose directory says which budgets and limits there are.
    config
        Whose prices are charged; ``follow`` replaces it.
    root
        Folder of the journals, on a local disk, shared by the processes of a machine.
    bank
        Where budgets are kept.

    Attributes
    ----------
    till, bindings
        Where is reserved, and what binds whom.
    is_known
        The store's budgets were read once; before that nobody knows what binds a request.
    excesses
        What offers billed beyond what was reserved.
    on_excess
        Called with an offer's id, each time that it did.
    lost, on_lost
        Charges that could be kept nowhere: the journal cannot be written, and the store is gone; called with each.
    """

    def __init__(self, accounts: MeshAccounts, config: Config, root: Path, bank: Bank) -> None:
        self.bindings = Bindings()
        self.is_known = False
        self.lost = 0
        self.on_lost: Callable[[], None] = lambda: None
        self.excesses = Excesses(self._tell_excess)
        self.on_excess: Callable[[str], None] = lambda _offer: None
        self._accounts = accounts
        self._config = config
        self._kept: Config | None = None
        """Whose prices are kept."""
        self._stored: list[Allowance] = []
        self._is_stale = True
        self._is_due = False
        self._refreshing = asyncio.Lock()  # an older look must not be taken in after a newer one
        self._is_open = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.till = Till(
            bank,
            root,
            on_overrun=_tell_overrun,
            on_directory=lambda _version: self._soon(),
            on_trouble=lambda words: log.error("accounts_trouble", reason=words),
            on_back=lambda: log.info("budgets_back"),
        )

    @classmethod
    def of(cls, config: Config, accounts: MeshAccounts) -> MeshTill:
        """That of a configuration. Raises StorageError: a URL leads nowhere.

        Its journals lie beside its decisions, apart for each store: one left by a dead process is taken to its own.
        """
        store = accounts.directory.store
        folder = hashlib.sha256(store.name.encode()).hexdigest()[:12]
        bank = bank_at(store, config.accounts.redis_url or "")
        return cls(accounts, config, config.storage_path.parent / "holders" / folder, bank)

    async def start(self) -> None:
        """Begin; a store that is gone is no error.

        Raises JournalError: its journal cannot be written.
        """
        await self.refresh()
        await self.till.start()
        self._is_open = True
        self._accounts.watchers.append(self._follow)

    async def aclose(self) -> None:
        """Settle with the bank, and give back what is leased. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.till.close()

    async def follow(self, config: Config) -> None:
        """Charge by another configuration's prices, and bind by its budgets, which the directory has taken already."""
        self._config = config
        self.excesses.keep(config.offers())
        await self.refresh()

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """Every budget and limit there is."""
        return self.bindings.all

    async def refresh(self) -> None:
        """Take in which budgets and limits there are; where the store is away, those of the file and the last known."""
        async with self._refreshing:
            directory, config = self._accounts.directory, self._config
            self._is_due, self._is_stale = False, True
            try:
                self._stored = await self._accounts.run(directory.allowances.stored)
                self.is_known = True
                if self._kept is not config:
                    providers = {offer.id: offer.provider for offer in config.offers()}
                    await self._accounts.run(
                        keep_prices, directory.store, config.prices.records(), providers, self.till.now()
                    )
                    self._kept = config
                self._is_stale = False
            except StorageError:  # the next look says so, and has it read again
                pass
            self.bindings.take([*directory.from_file.allowances, *self._stored])

    async def spent(self, keys: Sequence[Key]) -> dict[Key, int]:
        """What of each counter is settled or stands, by the store. Raises StorageError."""
        return await self._accounts.run(spent, self._accounts.directory.store, keys)

    def lose(self) -> None:
        """A charge could be kept nowhere."""
        self.lost += 1
        self.on_lost()
        if self.lost % TOLD_OF_LOST == 1:
            log.error("charge_lost", lost=self.lost, remedy="make room on the disk of the journal, or mend the store")

    def _tell_excess(self, offer: str, nusd: int) -> None:
        log.error("bill_above_estimate", offer=offer, by=format_amount(Metric.USD, nusd), remedy=EXCESS_REMEDY)
        self.on_excess(offer)

    def _follow(self, changes: Changes) -> None:
        """After each look at the store."""
        subjects = changes.subjects
        if self._is_stale or subjects is None or any(subject.startswith("allowance:") for subject in subjects):
            self._soon()

    def _soon(self) -> None:
        if self._is_due:  # one waits already, behind the one under way
            return
        self._is_due = True
        task = asyncio.get_running_loop().create_task(self._refresh_or_tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh_or_tell(self) -> None:
        try:
            await self.refresh()
        except Exception as error:  # a mistake of ours: the next look has it read again
            log.error("budgets_not_read", error=type(error).__name__, exc_info=error)


def _tell_overrun(key: Key, over: int) -> None:
    scope, subject, metric, period = names_of(key[0])
    log.warning(
        "allowance_overrun",
        allowance=key[0],
        of=f"{scope} {subject}",
        period=str(period),
        by=format_amount(metric, over),
        remedy="it is soft, or answers were billed at more than they could cost by their offers' limits",
    )
