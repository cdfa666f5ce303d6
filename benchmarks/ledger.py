"""What the ledger costs: appends, proofs and memory, beside SQLite and a plain file in the same run.

    python benchmarks/ledger.py [--seconds 5] [--leaves 10000000] [--folder DIR] [--write docs/explanation/ledger.md]
    python benchmarks/ledger.py --only index [--receipts 1000000] [--postgresql URL]

Receipts are canonical JSON of some 430 bytes. "Durable" is an fsync before each acknowledgement. Every contender
takes its turn in each of ``--rounds`` rounds; the median is printed, and the least and the most.

- *batches*: 1,000 receipts a call, committed, published as tiles with a signed checkpoint a second, settled at the end
  (all tiles flushed), which is part of the time;
- *one caller*, *64 callers*: one receipt a call, durable when the call returns. The ledger's callers are threads at
  its writer, which groups what comes while a flush runs; *3,000 callers* are tasks of one event loop;
- *published*: one receipt a call, and in each the tiles and a signed checkpoint over it;
- *proofs*: inclusion proofs from random places of a log with ``--leaves`` leaves, each verified against the signed
  root; cold is with the cache of tiles emptied before each proof, with the files in the kernel's memory.

Tessera's docs/performance.md names some 2,900 writes a second for a POSIX file system: 3,000 concurrent writers over
HTTP, without deduplication, on a 12-core machine with a mirrored pair of SAS disks. That is another machine and another
disk, and there is HTTP in it: a mark, not a peer measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wargame_page import machine_words, write_between

from amaru.ledger.audit import audit
from amaru.ledger.canonical import canonical
from amaru.ledger.checkpoint import Checkpoint
from amaru.ledger.log import Log
from amaru.ledger.merkle import Frontier, leaf_hash, verify_inclusion
from amaru.ledger.notes import NoteSigner
from amaru.ledger.ring import Ring
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.tiles import Tile
from amaru.ledger.view import LogView
from amaru.ledger.writer import Writer

BATCH = 1_000
CALLERS = 64
TASKS = 3_000
KEY = NoteSigner("benchmark.example/ledger", bytes(32))


def receipt(number: int) -> bytes:
    return canonical(
        {
            "at": "2026-11-21T17:00:00.000000Z",
            "component": "gateway",
            "offers": ["north/fast", "south/fast", "west/cheap"],
            "outcome": {"cost_usd": 0.00123, "latency_ms": 812.3, "offer": "north/fast", "ok": True, "status": 200},
            "policy": "linucb",
            "prompt": "hmac-sha256:" + hashlib.sha256(b"%d" % number).hexdigest(),
            "propensity": 0.93,
            "ref": f"{number:032x}",
            "resource": "llama-70b",
            "tenant": "team-a",
            "type": "decision",
            "v": 1,
        }
    )


class Ledger:
    name = "amaru's ledger"

    def __init__(self, folder: Path) -> None:
        self.log = Log.open(str(folder / "log"), [KEY])
        self.published_at = time.monotonic()

    def batch(self, leaves: list[bytes]) -> None:
        self.log.commit(leaves)
        if time.monotonic() - self.published_at > 1.0:
            self.log.publish()
            self.published_at = time.monotonic()

    def one(self, leaf: bytes) -> None:
        self.log.commit([leaf])

    def close(self) -> None:
        self.log.close()


class Grouped:
    """The ledger behind its writer's thread."""

    name = "amaru's ledger"

    def __init__(self, folder: Path) -> None:
        self.writer = Writer(lambda: Log.open(str(folder / "log"), [KEY]))
        self.writer.start()
        assert self.writer.wait_open(30.0)

    def one(self, leaf: bytes) -> None:
        self.writer.append(leaf).result()

    def close(self) -> None:
        assert self.writer.close(120.0)


class Published:
    name = "amaru's ledger, published"

    def __init__(self, folder: Path) -> None:
        self.log = Log.open(str(folder / "log"), [KEY])

    def one(self, leaf: bytes) -> None:
        assert self.log.append([leaf]).checkpoint is not None

    def close(self) -> None:
        self.log.close()


class Sqlite:
    """An append-only table; callers take turns at one connection, as SQLite has one writer."""

    name = "SQLite, WAL, synchronous=FULL"

    def __init__(self, folder: Path) -> None:
        self.turn = threading.Lock()
        self.connection = sqlite3.connect(folder / "log.db", isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, entry BLOB NOT NULL)")

    def batch(self, leaves: list[bytes]) -> None:
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO log (entry) VALUES (?)", ((leaf,) for leaf in leaves))
        self.connection.execute("COMMIT")

    def one(self, leaf: bytes) -> None:
        with self.turn:
            self.connection.execute("INSERT INTO log (entry) VALUES (?)", (leaf,))

    def close(self) -> None:
        self.connection.close()


class PlainFile:
    """One write and one fsync a call: what the disk gives to who groups nothing and hashes nothing."""

    name = "a file, write + fsync"

    def __init__(self, folder: Path) -> None:
        self.turn = threading.Lock()
        self.file = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def batch(self, leaves: list[bytes]) -> None:
        os.write(self.file, b"\n".join(leaves))
        os.fsync(self.file)

    def one(self, leaf: bytes) -> None:
        with self.turn:
            os.write(self.file, leaf)
            os.fsync(self.file)

    def close(self) -> None:
        os.close(self.file)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ledger-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def batches(make: Callable[[Path], Ledger | Sqlite | PlainFile], folder: Path, seconds: float) -> float:
    """Receipts a second, closing included."""
    leaves = [receipt(number) for number in range(50 * BATCH)]
    contender = make(folder)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = count % len(leaves)
        contender.batch(leaves[at : at + BATCH])
        count += BATCH
    contender.close()
    return count / (time.perf_counter() - began)


def singles(make: Callable[[Path], object], folder: Path, seconds: float, callers: int) -> tuple[float, float]:
    """Acknowledged receipts a second, and the 99th percentile of the wait for it, in milliseconds."""
    leaves = [receipt(number) for number in range(1_000)]
    contender = make(folder)
    one: Callable[[bytes], None] = contender.one  # type: ignore[attr-defined]  # each has it
    took: list[list[float]] = [[] for _ in range(callers)]
    end = time.perf_counter() + seconds

    def call(mine: list[float]) -> None:
        number = 0
        while (before := time.perf_counter()) < end:
            one(leaves[number % len(leaves)])
            mine.append(time.perf_counter() - before)
            number += 1

    threads = [threading.Thread(target=call, args=(mine,)) for mine in took]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    contender.close()  # type: ignore[attr-defined]  # as above
    waits = sorted(wait for mine in took for wait in mine)
    return len(waits) / elapsed, waits[int(len(waits) * 0.99)] * 1e3


def crowd(folder: Path, seconds: float) -> tuple[float, float]:
    """As ``singles``, for tasks of one event loop at the ledger's writer."""
    leaves = [receipt(number) for number in range(1_000)]
    contender = Grouped(folder)
    waits: list[float] = []

    async def call(end: float) -> None:
        number = 0
        while (before := time.perf_counter()) < end:
            await asyncio.wrap_future(contender.writer.append(leaves[number % len(leaves)]))
            waits.append(time.perf_counter() - before)
            number += 1

    async def all_of_them() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(call(began + seconds) for _ in range(TASKS)))
        return time.perf_counter() - began

    elapsed = asyncio.run(all_of_them())
    contender.close()
    return len(waits) / elapsed, sorted(waits)[int(len(waits) * 0.99)] * 1e3


def large_log(root: Path, size: int) -> None:
    """A log of ``size`` small leaves: its hash tiles, and no entry bundles, which proofs do not need."""
    store = FolderStore(root)
    frontier, rows = Frontier(), [bytearray()]
    for number in range(size):
        made = frontier.push(leaf_hash(b"%d" % number))
        rows[0] += made[0]
        if len(rows[0]) < 8192:
            continue
        for level, node in enumerate(made[::8]):
            if level == len(rows):
                rows.append(bytearray())
            if level:
                rows[level] += node
            if len(rows[level]) == 8192:
                store.write(Tile(level, (frontier.size >> 8 * (level + 1)) - 1).path, rows[level])
                rows[level].clear()
    for level, row in enumerate(rows):
        if row:
            store.write(Tile(level, size >> 8 * (level + 1), len(row) // 32).path, row)
    store.write("checkpoint", Checkpoint(KEY.name, size, frontier.root()).sign([KEY]))


def proofs(root: Path, size: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each proof: warm, and with an empty cache."""
    choose = random.Random(1)
    view = LogView.at(str(root), [KEY.verifier])
    warm, cold = [], []
    for took, empty in ((warm, False), (cold, True)):
        for _ in range(2_000):
            index = choose.randrange(size)
            if empty:
                view = LogView.at(str(root), [KEY.verifier])
            before = time.perf_counter()
            proof = view.inclusion(index)
            took.append((time.perf_counter() - before) * 1e3)
            verify_inclusion(leaf_hash(b"%d" % index), index, size, proof.path, view.head.root)
    return sorted(warm), sorted(cold)


def offering(folder: Path) -> float:
    """Microseconds of CPU that the request path spends to hand a receipt to the queue."""
    leaves = [receipt(number) for number in range(20_000)]
    ring = Ring.open(folder / "ring", clock=time.time)
    began = time.thread_time()
    taken = sum(ring.put(leaf) != b"" for leaf in leaves)
    took_s = time.thread_time() - began
    ring.close()
    assert taken == len(leaves)
    return took_s / taken * 1e6


def peak_mib() -> float:
    """Of this process's resident memory; ``getrusage`` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]  # it is there on Linux


def memory(folder: Path, count: int) -> None:
    """In a process of its own: append ``count`` receipts, audit them, and print the peak of its memory in MiB."""
    before = peak_mib()
    log = Log.open(str(folder / "log"), [KEY])
    for start in range(0, count, BATCH):
        log.commit([receipt(number) for number in range(start, start + BATCH)])
    log.close()
    appended = peak_mib()
    began = time.perf_counter()
    assert audit(FolderStore(folder / "log"), [KEY.verifier]).ok
    took_s = time.perf_counter() - began
    print(before, appended, peak_mib(), count / took_s)


def row(name: str, figures: list[float], more: str = "") -> str:
    middle, least, most = statistics.median(figures), min(figures), max(figures)
    return f"| {name} | {middle:,.0f} | {least:,.0f} to {most:,.0f} |{more}"


def rates(folder: Path | None, seconds: float, rounds: int) -> str:
    lines = ["| receipts a second, in batches of 1,000 | median | least to most |", "|---|---|---|"]
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for make in (Ledger, Sqlite, PlainFile):
            with scratch(folder) as place:
                found.setdefault(make.name, []).append(batches(make, place, seconds))
    lines += [row(name, figures) for name, figures in found.items()]
    for callers, contenders in ((1, (Ledger, Published, Sqlite, PlainFile)), (CALLERS, (Grouped, Sqlite, PlainFile))):
        words = "one caller" if callers == 1 else f"{callers} callers"
        lines += [
            "",
            f"| durable appends a second, {words} | median | least to most | p99 of a call |",
            "|---|---|---|---|",
        ]
        both: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for single in contenders:
                with scratch(folder) as place:
                    both.setdefault(single.name, []).append(singles(single, place, seconds, callers))
        lines += [
            row(name, [rate for rate, _ in pairs], f" {statistics.median(p99 for _, p99 in pairs):.1f} ms |")
            for name, pairs in both.items()
        ]
    pairs = []
    for _ in range(rounds):
        with scratch(folder) as place:
            pairs.append(crowd(place, seconds))
    p99 = statistics.median(p99 for _, p99 in pairs)
    lines.append(row(f"amaru's ledger, {TASKS:,} callers", [rate for rate, _ in pairs], f" {p99:.1f} ms |"))
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    text = rates(arguments.folder, arguments.seconds, arguments.rounds)
    with scratch(arguments.folder) as place:
        large_log(place / "log", arguments.leaves)
        warm, cold = proofs(place / "log", arguments.leaves)
    with scratch(arguments.folder) as place:
        offer_us = offering(place)
    with scratch(arguments.folder) as place:
        count = arguments.memory_receipts
        command = [sys.executable, __file__, "--memory", str(place), "--memory-receipts", str(count)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        before, appended, audited, rate = map(float, run.stdout.split())

    def at(took: list[float], share: float) -> str:
        return f"{took[int(len(took) * share)]:.2f} ms"

    how = f"receipts of {len(receipt(1))} bytes, {arguments.seconds:g} s each, {arguments.rounds} rounds in turns"
    busy = f"\nOther programs had {load:.1f} of its cores' worth of work when it began." if load > 0.5 else ""
    text = f"""Measured by `python benchmarks/ledger.py` on {machine_words()}; {how}.{busy}

{text}

| an inclusion proof at {arguments.leaves:,} leaves | median | p99 |
|---|---|---|
| from random places, cache of 512 tiles | {at(warm, 0.5)} | {at(warm, 0.99)} |
| with an empty cache each time | {at(cold, 0.5)} | {at(cold, 0.99)} |

The request path hands a receipt to the queue in {offer_us:.1f} µs of CPU; nothing in it waits for a disk.

Appending {count:,} receipts raises the peak of a process's memory from {before:.0f} to {appended:.0f} MiB, and
auditing them to {audited:.0f} MiB; the audit takes in {rate:,.0f} entries a second."""
    print(text)
    if arguments.write:
        write_between(arguments.write, "ledger-figures", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the ledger costs.")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measured run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--leaves", type=int, default=10_000_000, help="of the log that proofs are made from")
    parser.add_argument("--memory-receipts", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; else the temporary folder")
    parser.add_argument("--write", type=Path, default=None, help="page whose figures are replaced")
    parser.add_argument("--memory", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["index"], default=None, help="the search index at scale, and nothing else")
    parser.add_argument("--receipts", type=int, default=1_000_000, help="of the log that is indexed")
    parser.add_argument(
        "--postgresql", default="postgresql://127.0.0.1:5432/test", help="indexed there too, if it answers"
    )
    given = parser.parse_args()
    if given.memory is not None:
        memory(given.memory, given.memory_receipts)
    elif given.only == "index":
        from ledger_index import main as index

        index(given)
    else:
        main(given)
