"""Many processes share one budget to the last request: exactly as many are granted as it bears, wherever they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select
from till_samples import counter

from amaru.accounts.schema import charges, counters, leases
from amaru.accounts.store import Store

PROGRAM = Path(__file__).parent / "spend_program.py"
NEED = 7
GRANTED = 100
REQUESTS = 500


def run_together(store: Store, store_url: str, roots: list[Path], *, redis: str = "", prefix: str = "") -> None:
    """A process for each folder; the requests are shared among them."""
    numbers = [str(GRANTED * NEED), str(NEED), str(REQUESTS // len(roots))]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), store_url, str(root), redis, prefix, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for root in roots
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=300)[0].split() for process in processes]
        assert all(process.returncode == 0 for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sum(int(granted) for granted, _ in said) == GRANTED
    with store.reading() as connection:
        row = connection.execute(select(counters).where(counters.c.allowance == counter().key[0])).one()
        assert (row.settled, row.leased, row.overrun) == (GRANTED * NEED, 0, 0)
        assert connection.execute(select(func.count()).select_from(charges)).scalar() == GRANTED
        assert connection.execute(select(func.count()).select_from(leases)).scalar() == 0


def test_one_process(store: Store, store_url: str, tmp_path: Path) -> None:
    run_together(store, store_url, [tmp_path / "holders"])


@pytest.mark.slow
def test_four_processes_of_one_machine(store: Store, store_url: str, tmp_path: Path) -> None:
    run_together(store, store_url, [tmp_path / "holders"] * 4)


@pytest.mark.slow
def test_two_machines_over_redis(
    store: Store, store_url: str, tmp_path: Path, redis_url: str, redis_prefix: str
) -> None:
    roots = [tmp_path / "one", tmp_path / "other"] * 2
    run_together(store, store_url, roots, redis=redis_url, prefix=redis_prefix)
