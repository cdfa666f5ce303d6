"""The search index of the ledger at scale: how fast it is made anew, in how much memory, and how soon it answers.

    python benchmarks/ledger.py --only index [--receipts 1000000] [--postgresql URL] [--folder DIR]

A log of ``--receipts`` receipts is indexed by SQLite and, where one answers, by PostgreSQL, each in a process of its
own. Nine of ten receipts are decisions, the tenth an incident with a note of words drawn after Zipf's law. Each query
is asked ``ASKED`` times, with other words where it has a rare one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from wargame_page import machine_words

from amaru.errors import LedgerError
from amaru.ledger.canonical import canonical
from amaru.ledger.index import Index
from amaru.ledger.log import Log
from amaru.ledger.receipts import rfc3339
from amaru.ledger.search import parse_query
from amaru.ledger.view import LogView
from ledger import KEY, peak_mib, scratch

BEGAN_AT = 1_790_000_000.0
STEP_S = 0.05
WORDS = [f"{head}{tail}" for head in ("no", "ke", "ra", "lu", "mi", "so") for tail in map(str, range(2_000))]
ASKED = 100
BATCH = 1_000


def receipts(count: int) -> Iterator[bytes]:
    """The same ones each time."""
    choose = random.Random(1)
    for number in range(count):
        at = rfc3339(BEGAN_AT + number * STEP_S)
        provider = choose.choice(("north", "south", "west", "east"))
        if number % 10 == 0:
            words = (WORDS[min(int(choose.paretovariate(0.7)), len(WORDS)) - 1] for _ in range(12))
            said: dict[str, object] = {"note": " ".join(words), "severity": "minor", "type": "incident"}
        else:
            said = {
                "offers": [f"{provider}/fast", "west/cheap"],
                "outcome": {"latency_ms": 812.3, "offer": f"{provider}/fast", "ok": True, "status": 200},
                "policy": "linucb",
                "prompt": f"hmac-sha256:{choose.randbytes(32).hex()}",
                "resource": "llama-70b",
                "tenant": f"team-{number % 50}",
                "type": "decision",
            }
        yield canonical({"at": at, "component": provider, "ref": f"{choose.getrandbits(128):032x}", "v": 1, **said})


def make_log(root: Path, count: int) -> None:
    log = Log.open(str(root), [KEY])
    leaves = receipts(count)
    for _ in range(0, count, BATCH):
        log.commit([leaf for _, leaf in zip(range(BATCH), leaves, strict=False)])
    log.close()


def queries(view: LogView) -> dict[str, Callable[[Index, random.Random], object]]:
    """What people ask, by its name."""
    now = BEGAN_AT + view.size * STEP_S

    def asks(text: str) -> Callable[[Index, random.Random], object]:
        return lambda index, choose: index.find(parse_query(text.format(rare=choose.choice(WORDS)), now), 20)

    return {
        "a receipt by its id": lambda index, choose: index.by_hash(view.leaf_hash(choose.randrange(view.size)).hex()),
        "a rare word": asks("{rare}"),
        "two rare words, one not": asks("{rare} no1 -{rare}x"),
        "a word that most have": asks("llama"),
        "a phrase of a component": asks('"north fast" component:north'),
        "newest of a type and component": asks("type:incident component:west"),
        "of the last hour": asks("since:1h type:incident"),
        "words that nothing has": asks("nothing of that"),
    }


def measure(url: str, root: Path) -> dict[str, object]:
    """Make the index anew and ask it; in this process."""
    view = LogView.at(str(root), [KEY.verifier])
    before = peak_mib()
    index = Index(url, view)
    began, cpu = time.perf_counter(), time.process_time()
    count = index.rebuild()
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    after = peak_mib()
    choose = random.Random(2)
    asked: dict[str, tuple[float, float]] = {}
    for name, ask in queries(view).items():
        took = []
        for _ in range(ASKED):
            began = time.perf_counter()
            ask(index, choose)
            took.append((time.perf_counter() - began) * 1e3)
        took.sort()
        asked[name] = (statistics.median(took), took[int(len(took) * 0.99)])
    size = size_of(index, url)
    if "://" in url:  # a database that others use, too: leave it as it was
        with index._engine.begin() as connection:
            index._tables.drop(connection)
    index.close()
    return {
        "rate": count / took_s, "cpu_us": cpu_s / count * 1e6, "before_mib": before, "after_mib": after,
        "bytes": size / count, "asked": asked,
    }  # fmt: skip


def size_of(index: Index, url: str) -> int:
    """Bytes that it takes on the disk."""
    if "://" not in url:
        return sum(path.stat().st_size for path in Path(url).parent.glob(f"{Path(url).name}*"))
    with index._engine.connect() as connection:
        sizes = [select(func.pg_total_relation_size(name)) for name in index._tables.names()]
        return sum(connection.execute(one).scalar_one() for one in sizes)


def answers(url: str) -> bool:
    """Whether a database is there."""
    try:
        made = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), connect_args={"connect_timeout": 2})
        with made.connect():
            return True
    except (SQLAlchemyError, ModuleNotFoundError):
        return False


def main(arguments: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    with scratch(arguments.folder) as place:
        make_log(place / "log", arguments.receipts)
        found = {}
        places = {"SQLite, FTS5": str(place / "index.db"), "PostgreSQL": arguments.postgresql}
        for name, url in places.items():
            if "://" in url and not answers(url):
                print(f"{name} was left out: nothing answers at --postgresql", file=sys.stderr)
                continue
            command = [sys.executable, __file__, url, str(place / "log")]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name] = json.loads(run.stdout)
    print(
        f"Measured by `python benchmarks/ledger.py --only index` on {machine_words()}; {arguments.receipts:,} receipts."
    )
    if load > 0.5:
        print(f"Other programs had {load:.1f} of its cores' worth of work when it began.")
    print("\n| made anew | receipts a second | CPU of the process, each | peak of its memory | on disk, each |")
    print("|---|---|---|---|---|")
    for name, one in found.items():
        memory = f"{one['before_mib']:.0f} to {one['after_mib']:.0f} MiB"
        print(f"| {name} | {one['rate']:,.0f} | {one['cpu_us']:.0f} µs | {memory} | {one['bytes']:,.0f} B |")
    print("\n| newest 20 | " + " | ".join(f"{name}, median | p99" for name in found) + " |")
    print("|---" * (1 + 2 * len(found)) + "|")
    for query in next(iter(found.values()))["asked"]:
        figures = (
            f"{middle:.1f} ms | {most:.1f} ms" for middle, most in (one["asked"][query] for one in found.values())
        )
        print(f"| {query} | {' | '.join(figures)} |")


if __name__ == "__main__":
    try:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    except LedgerError as error:
        sys.exit(str(error))
