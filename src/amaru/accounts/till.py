"""The till: where a process reserves before a call, and settles after it, so that no budget can be overspent.

Used from one event loop. ``reserve`` takes from what was leased already, in memory; where that is too little,
``await reserve_slow`` waits for the bank, which the till asks in turns, on a thread of its own. What goes out is noted
in the journal first, so that a process that dies forgets nothing.

    made = till.reserve(needs) or await till.reserve_slow(needs)
    till.dispatched(made, charge)        # right before the call
    till.settle(made, [used, …], charge)  # usage arrived; or stand(made, charge), or release(made)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from amaru.accounts.bank import TAKEOVER_STEP, Answer, Bank, Counter, Ended, Key, Part
from amaru.accounts.charges import Charge
from amaru.accounts.drawer import MOST_ENDED, Drawer, Sent
from amaru.accounts.journal import Dispatched, EndedRecord, Journal, boot_id, claim, encode
from amaru.accounts.lease import Needs, Purse, Reservation
from amaru.accounts.money import nusd_half_even
from amaru.accounts.purses import Purses
from amaru.accounts.recovery import recover, recover_all
from amaru.errors import AmaruError, BankGone, JournalError, StaleTurn, StorageError

INTERVAL_S = 0.1
"""Between two turns where nothing is urgent: so soon a revoked key, or another's need, is noticed."""
WAITING_S = 0.02
"""The same, while somebody waits for other holders."""
GONE_S = 0.5
"""Between two tries to reach a bank that is gone."""
PATIENCE_S = 5.0
"""A bank that has not decided for so long is taken to be gone."""
RECOVERY_S = 1.0
"""Between two looks for processes of this machine that died."""
MOST_OWED = 200_000
"""Ends that wait for a bank that answers, but not in time; what no budget binds is not kept beyond that."""
ROTATE_BYTES = 8 * 1024 * 1024
"""A journal that is larger is written anew, without what the bank has."""
CROWDED_BYTES = 48 * 1024 * 1024
"""The same, while so much waits for the bank that most of it would be written again."""


class Till:
    """Reservations of one process.

    Parameters
    ----------
    bank
        Asked by the till's own thread alone.
    root
        Folder of the holders' journals, on a local disk; shared by the processes of a machine.
    clock, timer
        Unix seconds, and seconds that never go back.
    interval_s
        Between two turns.
    boot
        Which start of the machine this is; by default as the system says.
    on_overrun
        Called with a counter's key and by how much it exceeds its amount, once settlements have made it so.
    on_directory
        Called with the version of tenants, keys and allowances, when it has changed.
    on_trouble
        Called with words for whoever operates this: the bank is gone, a journal was damaged.
    on_back
        Called once the bank is back.
    """

    def __init__(
        self,
        bank: Bank,
        root: Path,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        interval_s: float = INTERVAL_S,
        patience_s: float = PATIENCE_S,
        boot: str | None = None,
        on_overrun: Callable[[Key, int], None] = lambda _key, _over: None,
        on_directory: Callable[[int], None] = lambda _version: None,
        on_trouble: Callable[[str], None] = lambda _words: None,
        on_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._bank = bank
        self._root = root
        self._clock, self._timer = clock, timer
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._boot = boot_id() if boot is None else boot
        self._on_overrun, self._on_directory = on_overrun, on_directory
        self._on_trouble, self._on_back = on_trouble, on_back
        self.holder = uuid.uuid4().hex
        """Its name at the bank: of this start of this process alone."""
        self.gone = ""
        """Why the bank cannot be reached; empty: it answered last."""
        self.directory = -1
        """Version of tenants, keys and allowances, as of the last turn."""
        self._drawer = Drawer(self.holder)
        self._open: dict[str, bytes] = {}
        """Records of what is dispatched, by id."""
        self._open_bytes = 0
        self._untold = False
        """Ends are not in the journal, and it was said why; until the next turn that the bank takes."""
        self._time: tuple[float, float] | None = None
        """The bank's clock and ours, at the last turn."""
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="amaru-till")
        self._running: asyncio.Task[None] | None = None
        self._closing = False
        self._recovered_at = -RECOVERY_S

    async def start(self) -> None:
        """Claim a folder and begin its journal; take the first turn. A bank that is gone is no error.

        Raises JournalError where the journal cannot be written.
        """
        self._loop = asyncio.get_running_loop()
        self._folder = await asyncio.to_thread(claim, self._root)
        try:
            self._journal = Journal(self._folder.journal, self.holder, boot=self._boot)
            self._purses = await asyncio.to_thread(Purses, self._root, self._folder.path)
        except JournalError:
            self._folder.close()
            raise
        await self._turn()
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Settle with the bank and give everything back; what is dispatched still stands.

        Where the bank is gone the journal stays, and whoever starts next here takes it there.
        """
        self._closing = True
        self._wake.set()
        if self._running is not None:
            await self._running
        self._drawer.leave()
        await self._turn()
        while self._drawer.is_owing and not self.gone:
            await self._turn()
        self._journal.close()
        try:
            await self._on_thread(recover, self._folder, self._bank, self._boot)
        except (StorageError, OSError) as error:
            self._on_trouble(f"accounts: what this process spent is settled at the next start: {error}")
        finally:
            self._thread.shutdown()
            self._purses.close()
            self._folder.close()

    def now(self) -> float:
        """Unix seconds by the bank's clock, by which periods begin and end; before the first turn by our own."""
        if self._time is None:
            return self._clock()
        at_bank, at_timer = self._time
        return at_bank + self._timer() - at_timer

    @property
    def is_overfull(self) -> bool:
        """No more may wait for the bank, but for what was noted before it went out."""
        return len(self._drawer.ended) >= MOST_OWED

    def left(self, counter: Counter) -> int | None:
        """What of a counter is neither used nor reserved, as far as this process knows; ``None``: nothing yet."""
        lease = self._drawer.leases.get(counter.key)
        return None if lease is None else max(lease.free, 0) + lease.idle

    def purse(self, tenant: str, limit_nusd: int) -> Purse:
        """What a tenant may spend while the bank is gone, nano-USD in all; for its policy ``open``."""
        return self._purses.purse(tenant, limit_nusd)

    def reserve(self, needs: Needs) -> Reservation | None:
        """Reserve all of it from leases in memory; ``None``: ``reserve_slow`` must be asked.

        Each counter stands in ``needs`` once, and is the same object from call to call as long as it is the same.
        """
        return self._drawer.reserve(needs)

    async def reserve_slow(self, needs: Needs, *, purse: Purse | None = None, purse_nusd: int = 0) -> Reservation:
        """Reserve all of it, once the bank has leased enough. To be ended exactly once.

        Parameters
        ----------
        purse, purse_nusd
            What bears it where the bank is gone, and how much of that it takes at most.

        Raises
        ------
        AllowanceExceeded
            A budget or a limit has too little left, wherever it may be leased.
        BankGone
            It cannot be asked, and no purse bears it.
        TillBusy
            Too many wait already.
        """
        if self.gone:
            return self._without_bank(needs, purse, purse_nusd)
        decided: asyncio.Future[Reservation] = self._loop.create_future()

        def decide(what: Reservation | AmaruError) -> None:
            if isinstance(what, Reservation):
                if decided.done():
                    self.release(what)
                else:
                    decided.set_result(what)
            elif not decided.done():
                decided.set_exception(what)

        waiter = self._drawer.wait(needs, decide)
        self._nudge()
        try:
            async with asyncio.timeout(self._patience_s):
                return await decided
        except (TimeoutError, BankGone):
            return self._without_bank(needs, purse, purse_nusd)
        except asyncio.CancelledError:
            # Decided and cancelled in the same round of the loop: nobody else would ever end it.
            if decided.done() and not decided.cancelled() and decided.exception() is None:
                self.release(decided.result())
            raise
        finally:
            self._drawer.cancel(waiter)

    def dispatched(
        self, reservation: Reservation, charge: Charge, *, purse: Purse | None = None, purse_nusd: int = 0
    ) -> None:
        """Note that a call goes out now, before it does; from here on its reservation stands until it is ended.

        ``charge`` is what will stand if nothing more is heard. Its id was never used before.

        Raises JournalError where it cannot be noted, unless a purse bears that; then it must not go out. Raises
        ValueError where the reservation was dispatched or ended before, or another goes by that id.
        """
        if reservation.over or reservation.dispatched or charge.id in self._open:
            raise ValueError(f"{charge.id}: dispatched before, or its reservation was ended")
        parts = tuple([Part(lease.key, amount, None) for lease, amount, _ in reservation.parts])
        bearer = reservation.purse.tenant if reservation.purse else ""
        counters = tuple([lease.counter for lease, _, _ in reservation.parts]) if bearer else ()
        record = encode(Dispatched(charge, parts, bearer, counters))
        try:
            # Room is left for the ends of all that is open: about as long again, and their parts twice.
            self._journal.append(record, reserve_bytes=2 * (self._open_bytes + len(record)))
        except JournalError:
            if reservation.purse is None and not (purse and purse.take(reservation, purse_nusd)):
                raise
        reservation.dispatched = charge.id
        self._open[charge.id] = record
        self._open_bytes += len(record)

    def settle(self, reservation: Reservation, used: Sequence[int], charge: Charge | None = None) -> None:
        """End it with what was used of each of its needs, in their order; never refused."""
        self._end(reservation, used, charge)

    def stand(self, reservation: Reservation, charge: Charge) -> None:
        """End it without knowing what was used: all that was reserved stands until ``Bank.resolve``."""
        self._end(reservation, None, charge)

    def note(self, charge: Charge) -> None:
        """Have the bank keep a charge of what nothing was reserved for."""
        self._keep(self._drawer.note(charge))

    def release(self, reservation: Reservation) -> None:
        """End it: nothing was used. Also of what was dispatched, where the call did not go out after all."""
        self._end(reservation, [0] * len(reservation.parts), None)

    def _end(self, reservation: Reservation, used: Sequence[int] | None, charge: Charge | None) -> None:
        ended = self._drawer.end(reservation, used, charge)
        if reservation.dispatched:
            assert ended is not None
            self._open_bytes -= len(self._open.pop(reservation.dispatched))
            self._keep(ended)
        if reservation.purse is not None:
            settled_nusd = nusd_half_even(charge.cost_pusd) if charge is not None else 0
            reservation.purse.end(reservation, reservation.purse_nusd if used is None else settled_nusd)
        if self._drawer.due:
            self._drawer.due = False
            self._loop.call_soon(self._serve)

    def _keep(self, ended: Ended) -> None:
        """Note an end in the journal; where that fails, only a kill before the next turn keeps it from the bank."""
        try:
            self._journal.append(encode(EndedRecord(ended)))
        except JournalError as error:
            if not self._untold:
                self._on_trouble(f"accounts: {error}")
            self._untold = True
            self._wake.set()

    def _serve(self) -> None:
        self._drawer.serve()
        self._nudge()

    def _nudge(self) -> None:
        if self._drawer.urgent:
            self._wake.set()

    def _without_bank(self, needs: Needs, purse: Purse | None, purse_nusd: int) -> Reservation:
        self._drawer.refuse_known(needs)
        if purse is None:
            raise BankGone(f"budgets cannot be reserved: {self.gone or 'the accounts store does not answer in time'}")
        reservation = self._drawer.unbacked(needs)
        if not purse.take(reservation, purse_nusd):
            self._drawer.end(reservation, [0] * len(needs), None)
            raise BankGone(
                f"the accounts store is gone, and what tenant {purse.tenant} may spend without it is spent:"
                f" {self.gone or 'it does not answer in time'}"
            )
        return reservation

    async def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            if not (self._drawer.urgent and not self.gone):
                pause_s = GONE_S if self.gone else WAITING_S if self._drawer.waiters else self._interval_s
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
            try:
                await self._turn()
            except Exception as error:  # a mistake of ours: turns go on, and it is said
                self._on_trouble(f"accounts: a turn failed: {type(error).__name__}: {error}")
                await asyncio.sleep(self._interval_s)

    async def _turn(self) -> None:
        sent = self._drawer.compose(self.now())
        if self._timer() - self._recovered_at >= RECOVERY_S:
            self._recovered_at = self._timer()
            await self._recover()
        try:
            answer = await self._on_thread(self._bank.turn, sent.turn)
        except StaleTurn as error:
            self._drawer.resume(sent.turn.number + TAKEOVER_STEP)  # beyond that of whoever took this one for dead
            self._fail(sent, error)
        except StorageError as error:
            self._fail(sent, error)
        except Exception as error:  # of a driver, or a mistake of ours: turns go on, and it is said
            self._fail(sent, StorageError(f"{type(error).__name__}: {error}"))
        else:
            self._take(sent, answer)

    async def _recover(self) -> None:
        """Take to the bank what other processes left that died here."""
        try:
            for words in await self._on_thread(recover_all, self._root, self._bank, self._boot):
                self._on_trouble(f"accounts: {words}")
        except Exception as error:  # also a driver's, or a mistake of ours: turns go on
            if not self.gone:  # else it is known, and tried again
                self._on_trouble(f"accounts: a dead process's journal waits: {type(error).__name__}: {error}")

    def _fail(self, sent: Sent, error: StorageError) -> None:
        if not self.gone:
            self._on_trouble(f"accounts: the store is gone: {error}")
        self.gone = str(error)
        self._drawer.fail(sent)
        for waiter in list(self._drawer.waiters):
            if not waiter.over:
                self._drawer.cancel(waiter)
                waiter.decide(BankGone(str(error)))

    def _take(self, sent: Sent, answer: Answer) -> None:
        if self.gone:
            self.gone = ""
            self._on_back()
        self._time = answer.now, self._timer()
        self._untold = False
        self._drawer.apply(sent, answer)
        if not self._drawer.is_owing:
            self._purses.settled()
        open_bytes, is_crowded = self._open_bytes, len(self._drawer.ended) >= MOST_ENDED
        worth_bytes = max(ROTATE_BYTES + 4 * open_bytes, CROWDED_BYTES - 2 * open_bytes if is_crowded else 0)
        if self._journal.size_bytes > worth_bytes:
            self._rotate()
        for key, over in answer.overruns.items():
            self._call(self._on_overrun, key, over)
        if answer.directory != self.directory:
            self.directory = answer.directory
            self._call(self._on_directory, answer.directory)

    def _call(self, hook: Callable[..., None], *arguments: object) -> None:
        """A hook that fails keeps no budget from being settled."""
        try:
            hook(*arguments)
        except Exception as error:
            self._on_trouble(f"accounts: {getattr(hook, '__qualname__', hook)}: {type(error).__name__}: {error}")

    def _rotate(self) -> None:
        waiting = [encode(EndedRecord(ended)) for ended, _ in self._drawer.ended if ended.charge or ended.id]
        try:
            self._journal.restart([*self._open.values(), *waiting])
        except JournalError as error:
            self._on_trouble(f"accounts: {error}")

    async def _on_thread(self, work: Callable[..., object], *arguments: object):  # type: ignore[no-untyped-def]
        return await self._loop.run_in_executor(self._thread, work, *arguments)
