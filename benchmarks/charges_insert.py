"""Rows of charges into SQLite, by three ways, in the same run: processor time a row, insert and commit.

python benchmarks/charges_insert.py [--batches 60] [--rows 512]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path

from sqlalchemy.engine import Connection

from amaru.accounts.charges import Charge, row_of
from amaru.accounts.charges_insert import insert_charges
from amaru.accounts.schema import charges
from amaru.accounts.store import Store
from amaru.storage.inserting import RowsInsert

sys.path.insert(0, str(Path(__file__).parent))

import rig

HOLDER = "c0ffee" * 5
Way = Callable[[Connection, Sequence[Charge]], object]
_values_of = itemgetter(*(column.name for column in charges.columns))


def made(number: int) -> Charge:
    """One of 20 callers' charges."""
    decision = f"01994d3e-{number >> 16:04x}-7abc-8def-{number:012x}"
    return Charge(
        id=f"{decision}-0",
        at=1.7e9 + number,
        decision=decision,
        attempt=0,
        tenant="acme",
        key=f"k-{number % 20}",
        resource="small",
        provider="sim",
        offer="sim/small/m",
        model="m",
        kind="chat",
        provider_ref=f"chatcmpl-{number}",
        input_tokens=number % 900,
        output_tokens=number % 300,
        usage_source="provider",
        price="0123456789abcdef",
        cost_pusd=number * 1000,
    )


def ways(store: Store) -> dict[str, Way]:
    """By name."""
    with store.reading() as connection:
        every = RowsInsert.into(charges, connection.dialect)
    return {
        "what they share once (ours)": lambda c, some: insert_charges(c, [(one, None) for one in some], HOLDER),
        "every column of every row": lambda c, some: every(c, [_values_of(row_of(one, HOLDER, None)) for one in some]),
        "SQLAlchemy's executemany": lambda c, some: c.execute(
            charges.insert(), [row_of(x, HOLDER, None) for x in some]
        ),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rows", type=int, default=512)
    arguments = parser.parse_args()
    print(f"Machine: {rig.machine()}\n\n| way | µs a row | least | most |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="amaru-bench-") as folder:
        stores = [Store(f"sqlite:///{folder}/{number}.db") for number in range(3)]
        taken: dict[str, list[float]] = {}
        for store in stores:
            store.open()
        for batch in range(arguments.batches):
            some = [made(batch * arguments.rows + at) for at in range(arguments.rows)]
            for store, (name, way) in zip(stores, ways(stores[0]).items(), strict=True):
                began = time.thread_time()
                with store.writing() as connection:
                    way(connection, some)
                taken.setdefault(name, []).append((time.thread_time() - began) / arguments.rows * 1e6)
        for name, times in taken.items():
            print(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} |")


if __name__ == "__main__":
    main()
