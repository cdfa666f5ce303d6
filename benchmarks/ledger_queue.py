"""How long a put into the ledger's queue takes while the disk under its file is busy.

    python benchmarks/ledger_queue.py [--seconds 10] [--folder DIR] [--per-second 2000]

The queue is a file mapped into memory. A put is a copy, but the kernel may make it wait: for a page that is being
written back, or to note that a clean page becomes dirty. Puts are paced as requests are, a thread empties the queue as
the ledger's writer does, and another process writes to the same file system and flushes all the time. The same with the
file in the memory's own file system, which has no disk, tells the disk's share from the scheduler's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wargame_page import machine_words

from amaru.ledger.journal import Mark
from amaru.ledger.ring import Ring

LEAF = b"x" * 480
EMPTY_EVERY_S = 0.2
HEAVY = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
block = os.urandom(1 << 20)
while True:
    os.lseek(file, 0, os.SEEK_SET)
    for _ in range(64):
        os.write(file, block)
    os.fsync(file)
"""


@contextmanager
def heavy(folder: Path) -> Iterator[None]:
    """Another process that writes 64 MiB and flushes, again and again."""
    process = subprocess.Popen([sys.executable, "-c", HEAVY, str(folder / "heavy")])
    try:
        time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.wait()


def puts(folder: Path, seconds: float, per_second: int) -> list[float]:
    """Microseconds of each put, least first."""
    ring = Ring.open(folder / "queue", clock=time.time)
    ring.reconcile(Mark())
    ended = threading.Event()

    def empty() -> None:
        while not ended.wait(EMPTY_EVERY_S):
            ring.advance(ring.peek(4_096, 4 << 20)[1])

    emptying = threading.Thread(target=empty)
    emptying.start()
    took: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        for _ in range(round((now - began) * per_second) - len(took)):
            before = time.perf_counter()
            taken = ring.put(LEAF)
            took.append((time.perf_counter() - before) * 1e6)
            assert taken
        time.sleep(0.001)
    ended.set()
    emptying.join()
    ring.close()
    return sorted(took)


def main(given: argparse.Namespace) -> None:
    """Print a table."""
    print(f"{machine_words()}; {given.per_second:,} puts of {len(LEAF)} bytes a second, {given.seconds:g} s each.\n")
    print("| queue's file | median µs | p99 | p99.9 | worst |\n|---|---|---|---|---|")
    made = Path(tempfile.mkdtemp(prefix="queue-", dir=given.folder))
    memory = Path(tempfile.mkdtemp(prefix="queue-", dir="/dev/shm"))
    try:
        for folder, name in ((made, "on the disk"), (memory, "in memory")):
            for busy in (False, True):
                if busy:
                    with heavy(made):
                        took = puts(folder, given.seconds, given.per_second)
                else:
                    took = puts(folder, given.seconds, given.per_second)
                figures = " | ".join(f"{took[int(len(took) * share)]:,.1f}" for share in (0.5, 0.99, 0.999))
                print(f"| {name}{', the disk busy' if busy else ''} | {figures} | {took[-1]:,.0f} |", flush=True)
    finally:
        shutil.rmtree(made)
        shutil.rmtree(memory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--per-second", type=int, default=2_000)
    parser.add_argument("--folder", type=Path)
    main(parser.parse_args())
