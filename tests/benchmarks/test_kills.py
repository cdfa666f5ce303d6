"""A real gateway is killed under traffic, a few times: the books are right, and the checks would see if they were not.

``benchmarks/kills.py`` is the same with hundreds of kills, several workers, PostgreSQL and Redis.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import delete, insert, update

from amaru.accounts.banks import bank_at
from amaru.accounts.charges import Charge, row_of
from amaru.accounts.schema import charges, counters, leases
from amaru.accounts.store import Store

FOLDER = Path(__file__).parents[2] / "benchmarks"
KILLS = 8
BUDGET = "tenant:team:usd:total"


@pytest.fixture(scope="module")
def kills() -> Iterator[SimpleNamespace]:
    """The benchmark's modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        names = ("kills", "kills_books", "kills_world")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two charges, and the counter that binds them."""
    opened = Store(str(tmp_path / "accounts.db"))
    opened.open()
    common = {"at": 1.0, "attempt": 0, "tenant": "team", "resource": "sim", "provider": "alpha", "offer": "alpha/sim"}
    made = [
        Charge(id=f"d-{number}-0", decision=f"d-{number}", model="sim", kind="chat", input_tokens=10 * number,
               output_tokens=tokens, cost_pusd=1000 * tokens, **common)
        for number, tokens in ((1, 5), (2, 7))
    ]  # fmt: skip
    book = {"amount": 100, "settled": 12, "leased": 0, "alerted": 0.0, "overrun": 0, "version": 1}
    with opened.writing() as connection:
        connection.execute(insert(charges), [row_of(one, "h", None) for one in made])
        connection.execute(insert(counters), {"allowance": BUDGET, "period_start": 0, **book})
    yield opened
    opened.close()


@pytest.mark.slow
async def test_a_gateway_that_is_killed_again_and_again_keeps_its_books(kills: SimpleNamespace, tmp_path: Path) -> None:
    place = kills.kills_world.Place(tmp_path, str(tmp_path / "accounts.db"))
    found = await kills.kills.run(place, KILLS, seed=7)
    assert found.books.wrong == []
    assert sum(found.killed.values()) == KILLS
    assert (found.books.lost_answers, found.books.missing) == (0, 0)
    assert found.books.charges >= found.answers >= kills.kills_world.CALLERS
    assert found.books.settled > 0
    assert f"| kills | {KILLS}: " in kills.kills.table("SQLite", found)


def test_the_checks_see_what_must_not_be(kills: SimpleNamespace, store: Store) -> None:
    answer = kills.kills_world.Answer

    def wrong(*answers: object) -> str:
        return "; ".join(kills.kills_books.look(store, bank_at(store), answers, bound=True).wrong)

    assert wrong(answer("d-1", 10, 5), answer("d-2", 20, 7)) == ""
    assert "is charged as 20, 7 tokens" in wrong(answer("d-2", 20, 8))
    assert "1 answers that callers got whole have no charge" in wrong(answer("d-3", 1, 1))
    with store.writing() as connection:
        connection.execute(delete(charges).where(charges.c.id == "d-1-0"))
    assert f"{BUDGET}: 12 is settled, and its charges come to 7" in wrong()
    with store.writing() as connection:
        connection.execute(update(counters).values(settled=7, leased=94))
    assert f"{BUDGET}: 94 is leased, and charges that stand hold 0" in wrong()
    assert f"{BUDGET}: 7 settled, 94 leased of 100; over 0" in wrong()
    with store.writing() as connection:
        connection.execute(
            insert(leases), {"holder": "h", "allowance": BUDGET, "period_start": 0, "amount": 3, "acknowledged": 0}
        )
    assert f"a lease of h is left: 3 of {BUDGET}" in wrong()
