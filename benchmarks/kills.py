"""kill -9 of a real gateway under traffic, many times: is a charge lost, a reservation leaked, a budget exceeded?

    python benchmarks/kills.py                                  200 kills of one process, accounts in SQLite
    python benchmarks/kills.py --workers 2 --kills 60           a worker, the owner, the supervisor, or all at once
    python benchmarks/kills.py --store postgresql://127.0.0.1:5432/test --kills 60      a schema of its own there
    python benchmarks/kills.py --redis --kills 60               leases in a Redis of its own
    python benchmarks/kills.py --unbound --kills 60             traffic that no budget binds

Ends with 1, and says what, where something is so that must not be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
from kills_books import Books, exceeded, look, reconcile
from kills_world import (
    CALLERS,
    EARLY_S,
    LATE_S,
    PAUSE_S,
    WAIT_S,
    Callers,
    Gateway,
    Place,
    body_of,
    most_nusd,
    postgresql_schema,
    providers,
    redis_server,
    until,
)
from sqlalchemy import select

from amaru.accounts.banks import bank_at
from amaru.accounts.schema import counters
from amaru.accounts.store import Store

AT_START_PROBABILITY = 0.2
"""So many of the lives end while the gateway starts, about when it takes in what the one before it left."""
MOST_ANSWERS = 150
"""Between two kills, at most; the number is drawn."""
PARTS = ("worker", "owner", "supervisor", "all")
LAST = body_of(0, 0)
PARTS_A_LIFE = 3
"""Of several workers; a worker that dies again and again is started anew ever more slowly."""


class Run(msgspec.Struct):
    """What was done, and what the books said then."""

    killed: dict[str, int]
    """By part."""
    answers: int
    cut: int
    refused: int
    put_off: int
    startup_s: float
    """Median of what the gateway took to serve."""
    seconds: float
    books: Books


async def run(place: Place, kills: int, *, seed: int) -> Run:
    """Kill as often, then look.

    Raises
    ------
    TimeoutError, RuntimeError
        A gateway did not serve within five minutes, or ended by itself.
    """
    began, since = time.monotonic(), time.time() - 60
    choose = random.Random(seed)
    killed: Counter[str] = Counter()
    wrong: list[str] = []
    async with providers() as servers, contextlib.AsyncExitStack() as stack:
        gateway = Gateway(place, servers)
        stack.push_async_callback(gateway.clear)
        callers = Callers(gateway.base_url)
        calling = asyncio.create_task(callers.run())
        stack.callback(calling.cancel)
        while killed.total() < kills:
            await gateway.start()
            await _end_life(gateway, callers, killed, kills, choose)
            wrong += _exceeded_now(place)
        await gateway.start()
        await gateway.serves()
        await _answered(callers, CALLERS)
        callers.resting = True
        await calling
        if place.bound:
            await _use_up(callers)
        if (status := await gateway.stop()) != 0:
            wrong.append(f"after all of it the gateway ended with status {status}")
        bills = {name: server.bill for name, server in servers.items()}
    store = Store(place.store_url)
    store.open()
    try:
        bank = bank_at(store, place.redis_url)
        books = look(store, bank, callers.answers, bound=place.bound)
        books.wrong += [*wrong, *callers.other, *(_left_over(store) if place.bound else [])]
        reconcile(books, store, bank, bills, place.folder, since=since, bound=place.bound)
    finally:
        store.close()
    startup_s = sorted(gateway.startups_s)[len(gateway.startups_s) // 2]
    seconds = time.monotonic() - began
    return Run(killed, len(callers.answers), callers.cut, callers.refused, callers.put_off, startup_s, seconds, books)


async def _end_life(
    gateway: Gateway, callers: Callers, killed: Counter[str], kills: int, choose: random.Random
) -> None:
    """Kill parts of it until none is left."""
    if gateway.lives > 1 and choose.random() < AT_START_PROBABILITY:
        await gateway.starts_for(choose.uniform(-EARLY_S, LATE_S))
        await gateway.kill("all")
        killed["all, at start"] += 1
        return
    await gateway.serves()
    for left in reversed(range(PARTS_A_LIFE)):
        part = "all" if gateway.place.workers == 1 else choose.choice(PARTS if left else PARTS[2:])
        await _answered(callers, choose.randrange(MOST_ANSWERS))
        if await gateway.kill(part):
            killed[part] += 1
        if part in ("all", "supervisor"):
            return
        if killed.total() >= kills:
            await gateway.kill("all")
            return


async def _answered(callers: Callers, more: int) -> None:
    """Until so many more answers came."""
    goal = len(callers.answers) + more
    await until(lambda: len(callers.answers) >= goal, f"only {len(callers.answers)} of {goal} answers came")


def _exceeded_now(place: Place) -> list[str]:
    store = Store(place.store_url)
    try:
        return exceeded(store)
    finally:
        store.close()


async def _use_up(callers: Callers) -> None:
    """Ask until the budget that runs out is used up."""
    before = callers.refused
    async with asyncio.timeout(WAIT_S), callers.client("tight") as client:
        while callers.refused == before:
            answer = await callers.ask(client, LAST)
            if answer is None:
                await asyncio.sleep(PAUSE_S)
            else:
                callers.answers.append(answer)


def _left_over(store: Store) -> list[str]:
    """What was leaked could not be used up."""
    with store.reading() as connection:
        book = connection.execute(select(counters).where(counters.c.allowance == "tenant:tight:usd:total")).one()
    left, most = book.amount - book.settled - book.leased, most_nusd(LAST)
    return [] if left < most else [f"{left:,} nano-USD are left, and a request that may cost {most:,} was refused"]


def table(name: str, one: Run) -> str:
    """In Markdown."""
    books = one.books
    stand = sum(books.standing.values())
    kills = ", ".join(f"{count} {part}" for part, count in sorted(one.killed.items()))
    causes = ", ".join(f"{count:,} {why}" for why, count in sorted(books.standing.items()))
    rows = {
        "kills": f"{sum(one.killed.values())}: {kills}",
        "answers that callers got whole": f"{one.answers:,}",
        "cut; refused, the budget being used up; put off": f"{one.cut:,}; {one.refused:,}; {one.put_off:,}",
        "charges": f"{books.charges:,}: {books.settled:,} settled, {stand:,} stand",
        "why these stand": causes or "none does",
        "of these billed; not billed": f"{stand - books.unbilled:,}; {books.unbilled:,}",
        "requests on the providers' bills": f"{books.billed:,}, {books.billed_pusd / 1e12:.6f} USD",
        "of it held until it was reconciled": f"{books.standing_pusd / 1e12:.6f} USD",
        "whole answers whose charge stands; that have none": f"{books.unsettled_answers:,}; {books.lost_answers:,}",
        "billed and not charged": f"{books.missing:,}, {books.missing_pusd / 1e12:.6f} USD",
        "what must not be": f"{len(books.wrong):,}",
        "until the gateway serves, median": f"{one.startup_s:.1f} s",
        "seconds": f"{one.seconds:.0f}",
    }
    lines = [f"| {name} | |", "|---|---|", *(f"| {what} | {found} |" for what, found in rows.items())]
    return "\n".join(lines)


def main() -> int:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", default="", help="postgresql://…; left out: SQLite")
    parser.add_argument("--redis", action="store_true", help="leases in Redis")
    parser.add_argument("--unbound", action="store_true", help="no budget binds what is asked")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where everything is kept; left out: nowhere")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind then
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amaru-kills-")))
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(
            folder=folder,
            store_url=stack.enter_context(postgresql_schema(given.store))
            if given.store
            else str(folder / "accounts.db"),
            redis_url=stack.enter_context(redis_server(folder)) if given.redis else "",
            workers=given.workers,
            bound=not given.unbound,
        )
        found = asyncio.run(run(place, given.kills, seed=given.seed))
    store = "PostgreSQL" if given.store else "SQLite"
    leases = ", leases in Redis" if given.redis else ""
    bound = "" if place.bound else ", no budget binds"
    print(table(f"{store}{leases}, --workers {given.workers}{bound}", found))
    for words in found.books.wrong[:50]:
        print(f"WRONG: {words}")
    return 1 if found.books.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
