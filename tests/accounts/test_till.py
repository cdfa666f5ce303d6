"""The till as a process uses it: reserve, dispatch, settle; what dies, and a bank that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from till_samples import MemoryBank, charge, counter

from amaru.accounts.bank import TAKEOVER_STEP, Answer, Turn
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.drawer import MOST_ENDED
from amaru.accounts.store import Store
from amaru.accounts.till import Till
from amaru.errors import AllowanceExceeded, BankGone, JournalError, StorageError, TillBusy


class Switchable(MemoryBank):
    """A bank that can be unplugged."""

    gone = False

    def turn(self, turn: Turn) -> Answer:
        if self.gone:
            raise StorageError("the cable is out")
        return super().turn(turn)


@pytest.fixture
def bank() -> Switchable:
    return Switchable()


@asynccontextmanager
async def open_till(bank: MemoryBank | SqlBank, root: Path, **settings: object) -> AsyncIterator[Till]:
    till = Till(bank, root, **{"interval_s": 0.01, **settings})  # type: ignore[arg-type]
    await till.start()
    try:
        yield till
    finally:
        await till.close()


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what is waited for is on another thread
        await asyncio.sleep(0.001)


def kill(till: Till) -> None:
    """Have its process end here, as a kill would: nothing is told to anybody, the lock is let go of."""
    assert till._running is not None
    till._running.cancel()
    till._thread.shutdown()
    till._journal.close()
    till._purses.close()
    till._folder.close()


async def test_first_request_waits_for_a_lease_and_the_next_ones_do_not(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=1000)
    async with open_till(bank, tmp_path) as till:
        assert till.reserve([(budget, 1)]) is None
        made = await till.reserve_slow([(budget, 1)])
        again = till.reserve([(budget, 1)])
        assert again is not None
        assert till.left(budget) == 998
        till.release(made)
        till.settle(again, [1], charge("a"))
    assert bank.rows[budget.key].settled == 1
    assert bank.rows[budget.key].leased == 0
    assert list(bank.charges) == ["a"]


async def test_exactly_as_many_are_granted_as_the_budget_bears(store: Store, tmp_path: Path) -> None:
    budget = counter(amount=100 * 7)
    async with open_till(SqlBank(store), tmp_path / "holders") as till:
        made = await asyncio.gather(*(till.reserve_slow([(budget, 7)]) for _ in range(500)), return_exceptions=True)
        granted = [one for one in made if not isinstance(one, BaseException)]
        assert len(granted) == 100
        refused = [one for one in made if isinstance(one, AllowanceExceeded)]
        assert len(refused) == 400
        assert (refused[0].left, refused[0].needed, refused[0].amount) == (0, 7, 700)
        for at, one in enumerate(granted):
            till.dispatched(one, charge(str(at)))
            till.settle(one, [7], charge(str(at)))
        with pytest.raises(AllowanceExceeded):
            await till.reserve_slow([(budget, 1)])


async def test_what_was_not_used_serves_the_next(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=10)
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(budget, 10)])
        with pytest.raises(AllowanceExceeded):
            await till.reserve_slow([(budget, 4)])
        till.settle(made, [6], charge("a"))
        await until(lambda: bank.rows[budget.key].settled == 6)
        await until(lambda: bank.rows[budget.key].free == 4)
        await until(lambda: till.left(budget) == 4)
        await till.reserve_slow([(budget, 4)])


async def test_two_tills_share_a_budget_to_the_last_request(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=100)
    async with open_till(bank, tmp_path) as one, open_till(bank, tmp_path) as other:
        made = await asyncio.gather(
            *((one, other)[at % 2].reserve_slow([(budget, 1)]) for at in range(300)), return_exceptions=True
        )
        assert sum(not isinstance(each, BaseException) for each in made) == 100


async def test_all_or_nothing_over_several_allowances(bank: Switchable, tmp_path: Path) -> None:
    key, tenant = counter("key", 10), counter("tenant", 3)
    async with open_till(bank, tmp_path) as till:
        with pytest.raises(AllowanceExceeded, match="tenant: 3 of 3 left, 4 needed"):
            await till.reserve_slow([(key, 4), (tenant, 4)])
        made = await till.reserve_slow([(key, 3), (tenant, 3)])
        till.release(made)
    assert all(row.leased == 0 for row in bank.rows.values())


async def test_mistakes_of_a_hook_or_a_driver_stop_no_turn(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def broken(_version: int) -> None:
        raise KeyError("hook")

    async with open_till(bank, tmp_path, on_directory=broken, on_trouble=told.append) as till:
        with monkeypatch.context() as patched:
            patched.setattr(bank, "_turn", lambda _turn: 1 // 0)
            await until(lambda: till.gone != "")
        await until(lambda: till.gone == "")
        till.release(await till.reserve_slow([(counter(), 1)]))
    assert "KeyError" in told[0]
    assert "ZeroDivisionError" in told[1]


async def test_a_caller_that_leaves_while_it_waits_keeps_nothing(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=5)
    async with open_till(bank, tmp_path) as till:
        waits = [asyncio.ensure_future(till.reserve_slow([(budget, 5)])) for _ in range(20)]
        await asyncio.sleep(0)
        for one in waits:
            one.cancel()
        await asyncio.wait(waits)
        made = await till.reserve_slow([(budget, 5)])
        till.release(made)


async def test_a_caller_that_leaves_just_as_it_is_granted_keeps_nothing(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=5)
    async with open_till(bank, tmp_path) as till:
        decided = till._drawer.wait
        waits: list[asyncio.Future[object]] = []

        def and_leave(needs, decide):  # type: ignore[no-untyped-def]
            def both(what: object) -> None:
                decide(what)
                waits[0].cancel()

            return decided(needs, both)

        till._drawer.wait = and_leave  # type: ignore[method-assign]
        waits.append(asyncio.ensure_future(till.reserve_slow([(budget, 5)])))
        await asyncio.wait(waits)
        assert waits[0].cancelled()
        till._drawer.wait = decided  # type: ignore[method-assign]
        await till.reserve_slow([(budget, 5)])


async def test_too_many_that_wait_are_refused_with_words(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.accounts.drawer.MOST_WAITING", 2)
    async with open_till(bank, tmp_path) as till:
        made = await asyncio.gather(
            *(till.reserve_slow([(counter(amount=9), 1)]) for _ in range(3)), return_exceptions=True
        )
        assert isinstance(made[2], TillBusy)


async def test_use_beyond_the_reservation_is_counted_and_told(bank: Switchable, tmp_path: Path) -> None:
    budget, told = counter(amount=10), []
    async with open_till(bank, tmp_path, on_overrun=lambda key, over: told.append((key, over))) as till:
        made = await till.reserve_slow([(budget, 8)])
        till.settle(made, [13], charge("a"))
        await until(lambda: told == [(budget.key, 3)])
    assert bank.rows[budget.key].settled == 13
    assert bank.rows[budget.key].overrun == 3


async def test_a_process_that_dies_leaves_what_it_dispatched_standing_and_nothing_else(
    bank: Switchable, tmp_path: Path
) -> None:
    budget = counter(amount=100)
    dying = Till(bank, tmp_path, interval_s=60.0)
    await dying.start()
    for at, id in enumerate(("settled", "open", "never")):
        made = await dying.reserve_slow([(budget, 10 + at)])
        if id != "never":
            dying.dispatched(made, charge(id))
        if id == "settled":
            dying.settle(made, [9], charge(id))
    kill(dying)
    async with open_till(bank, tmp_path):
        assert bank.rows[budget.key].settled == 9
        assert bank.standing == {"open": {budget.key: 11}}
        assert bank.rows[budget.key].leased == 11
        assert bank.charges["open"].status is ChargeStatus.STANDING
        assert bank.resolve(charge("open", status=ChargeStatus.RECONCILED), {budget.key: 5})
    assert (bank.rows[budget.key].settled, bank.rows[budget.key].leased) == (14, 0)


async def test_what_cannot_be_recovered_is_said_and_ends_no_turns(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> list[str]:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("amaru.accounts.till.RECOVERY_S", 0.0)
    monkeypatch.setattr("amaru.accounts.till.recover_all", mistaken)
    budget, told = counter(amount=100), []
    async with open_till(bank, tmp_path, on_trouble=told.append) as till:
        till.settle(await till.reserve_slow([(budget, 10)]), [10], charge("a"))
        await until(lambda: bank.rows[budget.key].settled == 10)
    assert "ValueError: a mistake of ours" in told[0]


async def test_a_survivor_recovers_it_while_it_serves(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.accounts.till.RECOVERY_S", 0.0)
    budget = counter(amount=100)
    async with open_till(bank, tmp_path):
        dying = Till(bank, tmp_path, interval_s=60.0)
        await dying.start()
        await dying.reserve_slow([(budget, 60)])
        kill(dying)
        await until(lambda: bank.rows[budget.key].leased == 0)


async def test_after_a_loss_of_power_what_was_leased_stands(bank: Switchable, tmp_path: Path) -> None:
    budget, told = counter(amount=100), []
    dying = Till(bank, tmp_path, interval_s=60.0, boot="before")
    await dying.start()
    made = await dying.reserve_slow([(budget, 10)])
    dying.dispatched(made, charge("a"))
    dying.settle(made, [9], charge("a"))
    kill(dying)
    leased = bank.rows[budget.key].leased
    async with open_till(bank, tmp_path, boot="after", on_trouble=told.append):
        assert bank.rows[budget.key].settled == 9
        assert bank.rows[budget.key].leased == leased
        assert any("stands until it is released" in words for words in told)


def release(bank: MemoryBank, holder: str) -> None:
    """As ``holders.release`` does."""
    bank.turn(Turn(holder=holder, number=bank.position(holder).turn + TAKEOVER_STEP, whole=True))


async def test_what_a_lost_holder_leased_is_released_and_one_that_lives_says_it_anew(
    bank: Switchable, tmp_path: Path
) -> None:
    budget = counter(amount=100)
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(budget, 60)])
        release(bank, till.holder)
        assert bank.rows[budget.key].leased == 0
        await until(lambda: bank.rows[budget.key].leased >= 60)
        with pytest.raises(AllowanceExceeded):
            await till.reserve_slow([(budget, 41)])
        till.settle(made, [60], charge("a"))
    lost = Till(bank, tmp_path, interval_s=60.0)
    await lost.start()
    await lost.reserve_slow([(budget, 40)])
    kill(lost)
    (lost._folder.journal).unlink()
    release(bank, lost.holder)
    assert (bank.rows[budget.key].settled, bank.rows[budget.key].leased) == (60, 0)


async def test_closed_while_the_bank_is_gone_and_back(bank: Switchable, tmp_path: Path) -> None:
    budget, told = counter(amount=100), []
    async with open_till(bank, tmp_path, on_trouble=told.append, on_back=lambda: told.append("back")) as till:
        made = await till.reserve_slow([(budget, 10)])
        bank.gone = True
        await until(lambda: till.gone != "")
        with pytest.raises(BankGone, match="the cable is out"):
            await till.reserve_slow([(budget, 90)])
        till.dispatched(made, charge("a"))
        till.settle(made, [10], charge("a"))
        bank.gone = False
        await until(lambda: till.gone == "")
        await until(lambda: bank.rows[budget.key].settled == 10)
    assert told == ["accounts: the store is gone: the cable is out", "back"]


async def test_a_journal_is_not_written_anew_turn_after_turn_while_the_bank_catches_up(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_bytes = 2**20
    monkeypatch.setattr("amaru.accounts.till.ROTATE_BYTES", rotate_bytes)
    async with open_till(bank, tmp_path) as till:
        bank.gone = True
        await until(lambda: till.gone != "")
        for at in range(12 * MOST_ENDED):
            till.note(charge(str(at)))
        assert till._journal.size_bytes > 2 * rotate_bytes
        anew: list[int] = []
        restart = till._journal.restart

        def restarted(records: Iterable[bytes]) -> None:
            restart(records)
            anew.append(till._journal.size_bytes)

        monkeypatch.setattr(till._journal, "restart", restarted)
        bank.gone = False
        await until(lambda: len(bank.charges) == 12 * MOST_ENDED and not till._drawer.is_owing)
        assert (len(anew), till._journal.size_bytes < rotate_bytes) == (1, True)


async def test_limits_that_are_counted_without_a_bank_take_no_more_memory_with_time(
    bank: Switchable, tmp_path: Path
) -> None:
    bank.gone = True
    async with open_till(bank, tmp_path) as till:
        purse = till.purse("acme", 1)
        for minute in range(50):
            requests = counter("requests", 10**6, start=60 * minute, end=60 * minute + 60)
            for _ in range(4):
                till.settle(await till.reserve_slow([(requests, 1)], purse=purse), [1])
            with pytest.raises(BankGone):
                await till.reserve_slow([(counter("other", start=60 * minute), 1)])
            await till._turn()
        assert len(till._drawer.ended) <= 1
        assert len(till._drawer.leases) <= 50
        bank.gone = False
        await until(lambda: sum(row.settled for row in bank.rows.values()) == 200)


async def test_open_within_an_allowance_while_the_bank_is_gone(bank: Switchable, tmp_path: Path) -> None:
    budget, told = counter(amount=10), []
    bank.gone = True
    async with open_till(bank, tmp_path, on_overrun=lambda key, over: told.append(over)) as till:
        purse = till.purse("acme", 25)
        for id in ("a", "b"):
            made = await till.reserve_slow([(budget, 10)], purse=purse, purse_nusd=10)
            till.dispatched(made, charge(id))
            till.settle(made, [10], charge(id, cost_pusd=10_000))
        with pytest.raises(BankGone, match="may spend without it is spent"):
            await till.reserve_slow([(budget, 10)], purse=purse, purse_nusd=10)
        bank.gone = False
        await until(lambda: bank.rows.get(budget.key) is not None and bank.rows[budget.key].settled == 20)
        await until(lambda: told == [10] and purse.ended_nusd == 0)
        with pytest.raises(AllowanceExceeded):
            await till.reserve_slow([(budget, 1)])
    assert bank.rows[budget.key].overrun == 10


async def test_what_was_spent_without_a_bank_is_settled_by_the_next_start(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=10)
    bank.gone = True
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(budget, 4)], purse=till.purse("acme", 25), purse_nusd=4)
        till.dispatched(made, charge("a"))
        till.settle(made, [4], charge("a"))
    bank.gone = False
    async with open_till(bank, tmp_path):
        assert bank.rows[budget.key].settled == 4


async def test_a_journal_that_cannot_be_written_refuses_to_dispatch(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = counter(amount=100)
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(budget, 1)])
        noted = await till.reserve_slow([(budget, 1)])
        till.dispatched(noted, charge("noted"))

        def full(*_: object, **__: object) -> None:
            raise JournalError("no space left on device")

        monkeypatch.setattr(till._journal, "append", full)
        with pytest.raises(JournalError):
            till.dispatched(made, charge("a"))
        till.settle(noted, [1], charge("noted"))  # never refused
        till.dispatched(made, charge("a"), purse=till.purse("acme", 5), purse_nusd=5)
        till.settle(made, [1], charge("a"))
        await until(lambda: {"a", "noted"} <= bank.charges.keys())


async def test_a_journal_is_written_anew_once_it_has_grown(
    bank: Switchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.accounts.till.ROTATE_BYTES", 2_000)
    budget = counter(amount=10_000)
    dying = Till(bank, tmp_path, interval_s=0.001)
    await dying.start()
    kept = await dying.reserve_slow([(budget, 77)])
    dying.dispatched(kept, charge("open"))
    for at in range(50):
        made = await dying.reserve_slow([(budget, 1)])
        dying.dispatched(made, charge(str(at)))
        dying.settle(made, [1], charge(str(at)))
    await until(lambda: not dying._drawer.ended and dying._journal.size_bytes < 2_000)
    kill(dying)
    async with open_till(bank, tmp_path):
        assert bank.standing == {"open": {budget.key: 77}}
        assert bank.rows[budget.key].settled == 50


async def test_a_period_that_ends_with_reservations_open(bank: Switchable, tmp_path: Path) -> None:
    first = counter("minute", 10, start=0, end=60)
    bank.now = 59.0
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(first, 10)])
        bank.now = 61.0
        await until(lambda: till.now() >= 61.0)
        second = counter("minute", 10, start=60, end=120)
        later = await till.reserve_slow([(second, 10)])
        till.settle(made, [7], charge("first"))
        till.settle(later, [9], charge("second"))
    assert (bank.rows[first.key].settled, bank.rows[second.key].settled) == (7, 9)
    assert bank.rows[first.key].leased == bank.rows[second.key].leased == 0


async def test_a_raised_budget_serves_at_once_and_a_lowered_one_takes_back(bank: Switchable, tmp_path: Path) -> None:
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(counter(amount=10), 10)])
        with pytest.raises(AllowanceExceeded):
            await till.reserve_slow([(counter(amount=10), 5)])
        raised = await till.reserve_slow([(counter(amount=20), 5)])
        till.release(raised)
        with pytest.raises(AllowanceExceeded):
            await till.reserve_slow([(counter(amount=12), 5)])
        till.release(made)


async def test_soft_allowances_count_and_never_refuse(bank: Switchable, tmp_path: Path) -> None:
    import msgspec

    soft = msgspec.structs.replace(counter(amount=5), hard=False)
    async with open_till(bank, tmp_path) as till:
        for id in ("a", "b"):
            made = till.reserve([(soft, 4)]) or await till.reserve_slow([(soft, 4)])
            till.settle(made, [4], charge(id))
    assert bank.rows[soft.key].settled == 8


async def test_an_end_is_said_once_and_in_whole_numbers(bank: Switchable, tmp_path: Path) -> None:
    budget = counter(amount=100)
    async with open_till(bank, tmp_path) as till:
        made = await till.reserve_slow([(budget, 1)])
        till.dispatched(made, charge("a"))
        with pytest.raises(ValueError, match="dispatched before"):
            till.dispatched(made, charge("b"))
        with pytest.raises(ValueError, match="at least 0"):
            till.settle(made, [-1])
        till.settle(made, [1])
        with pytest.raises(ValueError, match="ended before"):
            till.release(made)
