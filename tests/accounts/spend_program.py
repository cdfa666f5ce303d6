"""One process of many that share a budget: reserves as often as it is told to, all at once, and settles what it gets.

    python spend_program.py STORE_URL HOLDERS_FOLDER REDIS_URL PREFIX AMOUNT NEED TIMES

Waits for a line on its input, so that all begin together; prints how many were granted and how many were refused.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from till_samples import charge, counter

from amaru.accounts.bank import Bank
from amaru.accounts.banks import bank_at
from amaru.accounts.store import Store
from amaru.accounts.till import Till
from amaru.errors import AllowanceExceeded


def open_bank(store_url: str, redis_url: str, prefix: str) -> Bank:
    # SQLite's lock is polled for: where processes contend on a busy machine, one may wait long.
    store = Store(store_url, busy_timeout_s=60.0)
    store.open()
    return bank_at(store, redis_url, prefix=prefix)


async def spend(bank: Bank, root: Path, amount: int, need: int, times: int) -> tuple[int, int]:
    budget = counter(amount=amount)
    till = Till(bank, root, patience_s=100.0)
    await till.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def request() -> bool:
        try:
            made = till.reserve([(budget, need)]) or await till.reserve_slow([(budget, need)])
        except AllowanceExceeded:
            return False
        id = uuid.uuid4().hex
        till.dispatched(made, charge(id))
        await asyncio.sleep(0)
        till.settle(made, [need], charge(id))
        return True

    granted = await asyncio.gather(*(request() for _ in range(times)))
    await till.close()
    return sum(granted), times - sum(granted)


if __name__ == "__main__":
    store_url, root, redis_url, prefix, *numbers = sys.argv[1:]
    print(*asyncio.run(spend(open_bank(store_url, redis_url, prefix), Path(root), *map(int, numbers))))
