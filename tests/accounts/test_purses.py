"""What may be spent without the store is spent once, however often a process dies."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from amaru.accounts.lease import Reservation
from amaru.accounts.purses import NAME, Purses
from amaru.accounts.schema import charges, counters
from amaru.accounts.store import Store
from amaru.errors import JournalError

PROGRAM = Path(__file__).parent / "purse_program.py"
EACH = 1_000
CALLS = 24


def folder(root: Path, number: int) -> Path:
    path = root / str(number)
    path.mkdir(exist_ok=True)
    return path


def take(purses: Purses, nusd: int, *, limit: int = 100, tenant: str = "acme") -> bool:
    return purses.purse(tenant, limit).take(Reservation([]), nusd)


def test_who_starts_counts_what_dead_ones_took_and_not_what_live_ones_do(tmp_path: Path) -> None:
    first = Purses(tmp_path, folder(tmp_path, 0))
    assert take(first, 60)
    assert take(first, 5, tenant="bolt")
    second = Purses(tmp_path, folder(tmp_path, 1))
    assert take(second, 90), "each process has an allowance of its own"
    first.close()
    third = Purses(tmp_path, folder(tmp_path, 2))
    assert not take(third, 41)
    assert take(third, 40)
    assert take(third, 95, tenant="bolt")
    second.close()
    third.close()
    assert not take(Purses(tmp_path, folder(tmp_path, 3)), 1), "60, 90 and 40 are beyond it"


def test_it_is_renewed_once_the_store_has_what_was_spent(tmp_path: Path) -> None:
    dead = Purses(tmp_path, folder(tmp_path, 0))
    assert take(dead, 60)
    dead.close()
    lives = Purses(tmp_path, folder(tmp_path, 1))
    assert not take(lives, 50)
    lives.settled()
    assert not take(lives, 50), "the dead one's journal waits still"
    (tmp_path / "0" / NAME).unlink()
    lives.settled()
    assert take(lives, 50)
    lives.settled()
    assert not take(lives, 51), "what is under way is not settled"
    lives.close()
    assert take(Purses(tmp_path, folder(tmp_path, 2)), 50)


def test_what_was_released_is_not_held_against_who_comes_next(tmp_path: Path) -> None:
    first, made = Purses(tmp_path, folder(tmp_path, 0)), Reservation([])
    purse = first.purse("acme", 100)
    assert purse.take(made, 100)
    purse.end(made, 0)
    first.settled()
    first.close()
    assert take(Purses(tmp_path, folder(tmp_path, 1)), 100)


def test_what_cannot_be_noted_is_not_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    purses = Purses(tmp_path, folder(tmp_path, 0))
    monkeypatch.setattr("amaru.accounts.purses.MOST_TENANTS", 1)
    assert take(purses, 1)
    assert not take(purses, 1, tenant="bolt"), "no room for it"

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", broken)
    assert not take(purses, 1)


def test_a_file_that_cannot_be_made_is_said_and_a_damaged_one_is_no_amount(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="open"):
        Purses(tmp_path, tmp_path / "nowhere")
    damaged = folder(tmp_path, 0) / NAME
    damaged.write_bytes(os.urandom(100))
    assert take(Purses(tmp_path, folder(tmp_path, 1)), 100)


def spender(root: Path, url: str, calls: int) -> subprocess.Popen[str]:
    """A process that is to make so many calls."""
    command = [sys.executable, str(PROGRAM), "spend", str(root), url, str(CALLS * EACH), str(EACH)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("go\n" * calls)
    process.stdin.flush()
    return process


def killed(process: subprocess.Popen[str], after: int) -> list[str]:
    """What it said until it was killed, at some moment after so many lines, or after it had spent all."""
    assert process.stdout is not None
    found: list[str] = []
    while len(found) < after and found[-1:] != ["spent"]:
        line = process.stdout.readline().strip()
        assert line, "it ended by itself"
        found.append(line)
    process.kill()
    found += process.stdout.read().split()
    process.wait(60)
    return found


def spent_until_none_is_left(root: Path, gone: str, chance: random.Random) -> tuple[int, int]:
    """Processes that die one after another while the store is gone: calls that went out, and how often one died."""
    calls = deaths = 0
    while True:
        at_most = chance.randint(4, 10)
        found = killed(spender(root, gone, at_most), chance.randint(1, at_most))
        calls += found.count("out")
        deaths += 1
        assert calls <= CALLS
        if "spent" in found:
            return calls, deaths


def test_processes_killed_again_and_again_while_the_store_is_gone(store_url: str, tmp_path: Path) -> None:
    root, chance = tmp_path / "holders", random.Random(7)
    (tmp_path / "away").write_text("a file where a folder should be")
    on_postgresql = store_url.startswith("postgresql")
    gone = "postgresql://127.0.0.1:1/none?connect_timeout=2" if on_postgresql else str(tmp_path / "away" / "a.db")
    calls, deaths = spent_until_none_is_left(root, gone, chance)
    assert deaths > 2
    assert CALLS - deaths <= calls, "one may be noted when its process dies, and not have gone out"
    assert killed(spender(root, gone, 1), 1) == ["spent"]

    store = Store(store_url)
    store.open()
    settle = [sys.executable, str(PROGRAM), "settle", str(root), store_url]
    assert subprocess.run(settle, timeout=60, check=False).returncode == 0
    with store.reading() as connection:
        rows = connection.execute(select(charges)).all()
        (row,) = connection.execute(select(counters)).all()
    store.close()
    assert calls <= len(rows) <= CALLS
    assert row.settled + row.leased == len(rows) * EACH
    assert not list(root.glob("*/journal")) + list(root.glob(f"*/{NAME}"))
    assert killed(spender(root, gone, 3), 3)[:3] == ["out"] * 3, "another outage, another allowance"
