"""Kills processes that reserve, dispatch and settle, and looks at what they leave; a program of its own, so that it
may fork.

    python kill_till.py random FOLDER STORE_URL KILLS SEED [REDIS_URL PREFIX]    kills after a random time
    python kill_till.py instants FOLDER STORE_URL STEP         kills at every STEP-th call of the journal to the system

Prints how many it killed; exits with a traceback where a settled record was lost or counted twice, a reservation leaked
or was forgotten, or a budget was exceeded. STORE_URL may hold ``{}``, for a store of each round; else the budget is
large.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Row, select
from till_samples import charge, counter

from amaru.accounts import journal as journal_module
from amaru.accounts.bank import Bank, Held, Turn
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.banks import bank_at
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.journal import boot_id
from amaru.accounts.lease import Reservation
from amaru.accounts.recovery import recover_all
from amaru.accounts.schema import charges, counters, leases
from amaru.accounts.store import Store
from amaru.accounts.till import Till
from amaru.errors import AllowanceExceeded

KEY, TENANT = counter("key:k:usd:total", 10**9), counter("tenant:acme:usd:total", 3_000)
Note = Callable[[str], None]
CALLS = ("open", "replace", "close", "take_blocks", "put")


async def spend_for_ever(bank: Bank, root: Path, note: Note, choose: random.Random, *, rounds: int = 10**9) -> None:
    """Some at a time, of both budgets; notes each step where it is acknowledged, and what the provider will bill."""
    till = Till(bank, root, interval_s=0.002, patience_s=100.0)
    await till.start()

    async def attempt() -> None:
        need = choose.randint(1, 30)
        needs = [(KEY, need), (TENANT, need)]
        try:
            made: Reservation = till.reserve(needs) or await till.reserve_slow(needs)
        except AllowanceExceeded:
            return
        if choose.random() < 0.1:
            till.release(made)
            return
        id = f"{os.getpid()}-{next(numbers)}"
        used = choose.randint(0, need)
        till.dispatched(made, charge(id))
        note(f"dispatched {id} {need} {used}")
        await asyncio.sleep(choose.uniform(0, 0.002))
        fate = choose.random()
        if fate < 0.1:
            till.stand(made, charge(id, status=ChargeStatus.STANDING))
            note(f"stood {id}")
        elif fate < 0.2:
            note(f"releasing {id}")
            till.release(made)
            note(f"released {id}")
        else:
            till.settle(made, [used, used], charge(id, cost_pusd=used * 1000))
            note(f"settled {id}")

    numbers = itertools.count()
    for _ in range(rounds):
        await asyncio.gather(*(attempt() for _ in range(choose.randint(1, 8))))
    await till.close()


def forked(work: Callable[[Note], None]) -> tuple[int, int]:
    """A child that does the work; its process id, and a pipe of what it notes."""
    out, into = os.pipe()
    child = os.fork()
    if child:
        os.close(into)
        return child, out
    os.close(out)
    system_write = os.write  # before anything counts or kills
    try:
        work(lambda line: system_write(into, f"{line}\n".encode()) and None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


class Notes:
    """What was acknowledged over all rounds on one store."""

    def __init__(self) -> None:
        self.dispatched: dict[str, tuple[int, int]] = {}
        self.releasing: set[str] = set()
        self.ended: dict[str, str] = {}

    def read(self, pipe: int) -> None:
        content = b""
        while piece := os.read(pipe, 1 << 16):
            content += piece
        os.close(pipe)
        for line in content.decode().splitlines():
            what, id, *numbers = line.split()
            if what == "dispatched":
                self.dispatched[id] = int(numbers[0]), int(numbers[1])
            elif what == "releasing":
                self.releasing.add(id)
            else:
                self.ended[id] = what


def look(store: Store, bank: Bank, root: Path, notes: Notes) -> None:
    """Recover as any other process would, and hold the books against the notes."""
    assert recover_all(root, bank, boot_id()) == []
    assert not list(root.glob("*/journal")), "a journal is left"
    with store.reading() as connection:
        rows = {row.id: row for row in connection.execute(select(charges))}
        books = {row.allowance: row for row in connection.execute(select(counters))}
        assert connection.execute(select(leases)).all() == [], "a lease leaked"
    for id, what in notes.ended.items():
        if what == "settled":
            assert rows[id].status == "settled", f"{id} was settled, and is {rows[id].status}"
            assert rows[id].cost_pusd == notes.dispatched[id][1] * 1000
        elif what == "stood":
            assert rows[id].status == "standing"
        else:
            assert id not in rows, f"{id} was released"
    forgotten = notes.dispatched.keys() - notes.ended.keys() - rows.keys() - notes.releasing
    assert not forgotten, f"dispatched and forgotten: {forgotten}"
    unnoted = rows.keys() - notes.dispatched.keys()
    assert all(rows[id].status == "standing" for id in unnoted)
    settled = sum(row.cost_pusd // 1000 for row in rows.values() if row.status == "settled")
    standing = sum(int(row.reserved.split(",")[2].rstrip("]")) for row in rows.values() if row.status == "standing")
    for book in books.values():
        assert (book.settled, book.leased) == (settled, standing), f"{book} for {settled} settled, {standing} standing"
        assert book.settled + book.leased <= book.amount
        assert book.overrun == 0
        assert free_of(bank, book) == book.amount - settled - standing
    assert all(row.holder for row in rows.values())


def free_of(bank: Bank, book: Row[Any]) -> int:
    """As the bank would tell a process that asks."""
    key = book.allowance, book.period_start
    number = bank.position("look").turn + 1
    return bank.turn(Turn(holder="look", number=number, leases={key: Held(0, 0)}, whole=True)).free[key]


def open_store(url: str) -> Store:
    store = Store(url, busy_timeout_s=60.0)
    store.open()
    return store


def kill_at_random(folder: Path, url: str, kills: int, seed: int, redis: str = "", prefix: str = "") -> int:
    """Two processes at a time, and both are killed; the books go on until the tenant's budget is used up."""
    global TENANT
    if "{}" not in url:
        TENANT = msgspec.structs.replace(TENANT, amount=10**9)
    choose = random.Random(seed)
    killed, notes = 0, Notes()
    for round in itertools.count():
        if killed >= kills:
            return killed
        root = folder / f"holders-{round}"
        if "{}" in url:
            notes = Notes()
        place = url.format(round)
        open_store(place).close()
        for _ in range(10):

            def work(note: Note, place: str = place, root: Path = root) -> None:
                bank = bank_at(open_store(place), redis, prefix=prefix)
                asyncio.run(spend_for_ever(bank, root, note, random.Random(choose.random() + os.getpid())))

            children = [forked(work) for _ in range(2)]
            for child, _ in children:
                time.sleep(choose.uniform(0.0, 0.15))
                os.kill(child, signal.SIGKILL)
            for child, pipe in children:
                _, status = os.waitpid(child, 0)
                assert os.WIFSIGNALED(status), "it failed by itself"
                notes.read(pipe)
                killed += 1
            store = open_store(place)
            look(store, bank_at(store, redis, prefix=prefix), root, notes)
            store.close()
    raise AssertionError


def kill_at_call(number: int, half: bool) -> None:
    """Have this process killed at the journal's call of this number, where ``half`` halfway through what it writes."""
    calls = itertools.count(1)

    def counted(name: str, system: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: Any, **more: object) -> object:  # Any: whatever is called
            if next(calls) == number:
                if half and name == "put":
                    memory, at, content = arguments
                    system(memory, at, content[: len(content) // 2])
                elif half:
                    system(*arguments, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            return system(*arguments, **more)

        return call

    class Counted:
        """``os`` as the journal sees it."""

        def __getattr__(self, name: str) -> object:
            system = getattr(os, name)
            return counted(name, system) if name in CALLS else system

    journal_module.os = Counted()  # type: ignore[assignment]
    for name in ("take_blocks", "put"):
        setattr(journal_module, name, counted(name, getattr(journal_module, name)))


def kill_at_every_call(folder: Path, url: str, step: int) -> int:
    kills, root = 0, folder / "holders"
    for half in (False, True):
        for number in itertools.count(1, step):
            shutil.rmtree(root, ignore_errors=True)
            notes = Notes()
            place = url.format(f"{half}-{number}")
            open_store(place).close()

            def work(note: Note, place: str = place, number: int = number, half: bool = half) -> None:
                kill_at_call(number, half)
                asyncio.run(spend_for_ever(SqlBank(open_store(place)), root, note, random.Random(1), rounds=6))

            child, pipe = forked(work)
            _, status = os.waitpid(child, 0)
            notes.read(pipe)
            store = open_store(place)
            look(store, SqlBank(store), root, notes)
            store.close()
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
    return kills


if __name__ == "__main__":
    how, folder, url, *rest = sys.argv[1:]
    if how == "random":
        print(kill_at_random(Path(folder), url, int(rest[0]), int(rest[1]), *rest[2:]))
    else:
        print(kill_at_every_call(Path(folder), url, int(rest[0])))
