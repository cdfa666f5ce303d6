"""What recording costs: on the event loop, in the writer's thread, and to a busy loop beside it on one core.

    python benchmarks/bench_recorder.py [--seconds 3] [--core 0]

Prints

- the hot side: microseconds that the event loop spends for each request on its record and its metrics;
- the writer: records a second into SQLite, and CPU microseconds for each;
- the effect: requests a second of an echo server on uvloop with recording off and on, taken in turns, and how long
  answers took; with ``--core`` the writer shares that core with it;
- why whole statements: records a second that get written beside a main thread that seldom lets go of the interpreter
  lock, by ``executemany`` and by multi-row statements.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import uvloop

from amaru.domain import Attempt, Kind, Provenance, Usage
from amaru.storage import DecisionRecord, DecisionStore, StoreSettings
from amaru.storage.database import Database
from amaru.storage.inserting import RowsInsert
from amaru.storage.schema import Values, decisions, values_of
from amaru.telemetry.metrics import Metrics

ATTEMPTS = (
    Attempt(
        offer="provider-1/gpt-4o",
        provider="provider-1",
        started_ms=0.123,
        latency_ms=812.3,
        first_token_ms=212.1,
        status=200,
        usage=Usage(812, 123),
        cost_usd=0.00123,
        bytes_received=1234,
    ),
)
USAGE = Usage(812, 123)
RANKING = bytes(range(100))
WORK = 4_000
"""Turns of an empty loop that stand for the rest of a request's work: some 55 µs."""


def make_record(n: int) -> DecisionRecord:
    return DecisionRecord(
        id=f"{n:032x}",
        at=1.8e9 + n / 1e4,
        tenant="team-a",
        kind=Kind.CHAT,
        resource="gpt-4o",
        policy="rules",
        board_version="0123456789abcdef",
        ranking=RANKING,
        propensity=1.0,
        ok=True,
        offer="provider-1/gpt-4o",
        status=200,
        latency_ms=812.3,
        first_token_ms=212.1,
        input_tokens=812,
        cached_input_tokens=0,
        output_tokens=123,
        usage_source=Provenance.PROVIDER,
        cost_usd=0.00123,
        attempts=ATTEMPTS,
    )


def open_store(directory: Path, name: str, queue_size: int = 1_000_000) -> DecisionStore:
    store = DecisionStore(StoreSettings(path=directory / name, queue_size=queue_size), clock=lambda: 1.8e9)
    store.start()
    return store


async def hot_side(directory: Path) -> None:
    store = open_store(directory, "hot.db")
    metrics = Metrics()
    n = 100_000
    records = iter([make_record(i) for i in range(n)])
    put = timeit.timeit(lambda: store.record(next(records)), number=n) / n * 1e6
    build = timeit.timeit(lambda: make_record(1), number=n) / n * 1e6

    def observe() -> None:
        metrics.observe_request("team-a", Kind.CHAT, "gpt-4o", "ok", 0.81, 0.21)
        metrics.observe_usage("team-a", "provider-1/gpt-4o", USAGE, 0.001)
        metrics.observe_attempts(ATTEMPTS)
        metrics.observe_decision(2e-5)

    seen = timeit.timeit(observe, number=n) / n * 1e6
    print(f"hot side: record() {put:.2f} µs, building the record {build:.2f} µs, metrics {seen:.2f} µs")
    await store.close(60.0)


async def writer(directory: Path) -> None:
    store = open_store(directory, "writer.db")
    n = 100_000
    records = [make_record(i) for i in range(n)]
    cpu, wall = time.process_time(), time.perf_counter()
    for record in records:
        store.record(record)
    assert await store.flush(120.0)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    status = store.status()
    assert status.written == n
    assert await store.close(60.0)
    size = (directory / "writer.db").stat().st_size
    print(f"writer:   {n / wall:,.0f} records/s, {cpu / n * 1e6:.1f} µs of CPU each, {size / n:.0f} bytes each on disk")


class Echo(asyncio.Protocol):
    """Answers each message after some work, and records it where it is told to."""

    transport: asyncio.Transport

    def __init__(self, record: Callable[[int], object] | None) -> None:
        self._record = record
        self._n = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # asyncio's own type is wider than what it passes

    def data_received(self, data: bytes) -> None:
        for _ in range(WORK):
            pass
        self.transport.write(data)
        if self._record is not None:
            self._n += 1
            self._record(self._n)


class Caller(Echo):
    """Sends a message as soon as the last one came back."""

    def __init__(self, took_s: list[float]) -> None:
        super().__init__(None)
        self._took_s = took_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sent = time.perf_counter()
        self.transport.write(b"x" * 300)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._took_s.append(now - self._sent)
        self._sent = now
        self.transport.write(data)


async def echo(record: Callable[[int], object] | None, seconds: float) -> list[float]:
    """Answer times of 16 connections."""
    loop = asyncio.get_running_loop()
    took_s: list[float] = []
    server = await loop.create_server(lambda: Echo(record), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    callers = [(await loop.create_connection(lambda: Caller(took_s), "127.0.0.1", port))[0] for _ in range(16)]
    await asyncio.sleep(seconds)
    for caller in callers:
        caller.abort()
    server.close()
    return sorted(took_s)


async def effect(directory: Path, seconds: float) -> None:
    off: list[list[float]] = []
    on: list[list[float]] = []
    written = dropped = 0
    for turn in range(3):
        off.append(await echo(None, seconds))
        store = open_store(directory, f"effect-{turn}.db", 10_000)
        numbers = iter(range(1 << 60))
        on.append(await echo(lambda _, s=store, i=numbers: s.record(make_record(next(i))), seconds))
        status = store.status()
        written, dropped = written + status.written, dropped + status.dropped
        await store.close(60.0)
    rates = {}
    for name, runs in (("off", off), ("on", on)):
        rates[name] = sum(len(run) for run in runs) / (seconds * len(runs))
        middle, high, highest = (
            sum(run[int(len(run) * q)] for run in runs) / len(runs) * 1e3 for q in (0.5, 0.99, 0.999)
        )
        print(
            f"effect:   recording {name:3s} {rates[name]:,.0f} requests/s, "
            f"answers p50 {middle:.2f} ms, p99 {high:.2f} ms, p99.9 {highest:.2f} ms"
        )
    each = (1 / rates["on"] - 1 / rates["off"]) * 1e6
    print(f"          {each:.1f} µs for each record in all; {written:,} written meanwhile, {dropped:,} dropped")


def executemany(connection: object, rows: list[Values]) -> None:
    """The usual way, for comparison."""
    driver = connection.connection.driver_connection  # type: ignore[attr-defined]  # a SQLAlchemy Connection
    assert isinstance(driver, sqlite3.Connection)
    marks = ", ".join("?" * len(rows[0]))
    driver.executemany(f"INSERT INTO decisions VALUES ({marks}) ON CONFLICT (id) DO NOTHING", rows)


def beside_a_greedy_thread(directory: Path, seconds: float) -> None:
    """The main thread computes without pause; how much does the writer get done?"""
    for name in ("executemany", "statements"):
        database = Database(directory / f"{name}.db", busy_timeout_s=1.0, clock=time.time)
        database.open()
        done = [0]
        stop = threading.Event()

        def write(name: str = name, database: Database = database, done: list[int] = done) -> None:
            with database.writing() as connection:
                statements = RowsInsert.into(decisions, connection.dialect)
            while not stop.is_set():  # noqa: B023 - the loop waits for this thread before it goes on
                rows = [values_of(make_record(done[0] + i)) for i in range(256)]
                with database.writing() as connection:
                    (executemany if name == "executemany" else statements)(connection, rows)
                done[0] += len(rows)

        thread = threading.Thread(target=write)
        thread.start()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        written = done[0]
        stop.set()
        thread.join()
        database.close_writer()
        print(f"greedy:   {written / seconds:,.0f} records/s by {name} beside a thread that computes without pause")


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        await hot_side(directory)
        await writer(directory)
        await effect(directory, seconds)
        beside_a_greedy_thread(directory, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What recording costs.")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measured run")
    parser.add_argument("--core", type=int, default=None, help="pin everything to this core (Linux)")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {sys.platform}, {os.cpu_count()} cores"
    )
    uvloop.run(main(arguments.seconds))
