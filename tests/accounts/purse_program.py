"""Spends without a store what it may, or settles it once the store is there; a program of its own, to be killed.

python purse_program.py spend FOLDER STORE_URL LIMIT_NUSD EACH_NUSD    a call for each line that it reads
python purse_program.py settle FOLDER STORE_URL                        until the store has it all
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from till_samples import charge, counter

from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.store import Store
from amaru.accounts.till import Till
from amaru.errors import BankGone, StorageError

BUDGET = counter("tenant:acme:usd:total", 10**12)


async def spend(folder: Path, store: Store, limit_nusd: int, each_nusd: int) -> None:
    till = Till(SqlBank(store), folder, interval_s=0.01)
    await till.start()
    for number, _ in enumerate(iter(sys.stdin.readline, "")):
        purse = till.purse("acme", limit_nusd)
        try:
            made = await till.reserve_slow([(BUDGET, each_nusd)], purse=purse, purse_nusd=each_nusd)
        except BankGone:
            print("spent", flush=True)
            await asyncio.sleep(3600)  # until it is killed
        id = f"{os.getpid()}-{number}"
        till.dispatched(made, charge(id))
        print("out", flush=True)
        if number % 2:
            till.settle(made, [each_nusd], charge(id, cost_pusd=each_nusd * 1000))


async def settle(folder: Path, store: Store) -> None:
    till = Till(SqlBank(store), folder, interval_s=0.01)
    await till.start()
    assert not till.gone, till.gone
    await till.close()


store = Store(sys.argv[3])
if sys.argv[1] == "settle":
    store.open()
    asyncio.run(settle(Path(sys.argv[2]), store))
else:
    with contextlib.suppress(StorageError):
        store.open()
    asyncio.run(spend(Path(sys.argv[2]), store, int(sys.argv[4]), int(sys.argv[5])))
