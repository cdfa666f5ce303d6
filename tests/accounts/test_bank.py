"""Every bank gives the same answers: SQLite, PostgreSQL and Redis beside the rules alone."""

from __future__ import annotations

import contextlib
import uuid
from functools import partial
from pathlib import Path

import msgspec
import pytest
import till_samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from till_samples import MemoryBank, charge, counter

from amaru.accounts import bank_sql
from amaru.accounts.bank import Answer, Bank, Ended, Held, Need, Part, Position, Turn, Verdict
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.banks import bank_at
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.drawer import Drawer
from amaru.accounts.lease import Reservation
from amaru.accounts.schema import charges, counters
from amaru.accounts.store import Store
from amaru.errors import AllowanceExceeded, AmaruError, StaleTurn, StorageError

LONG_S = 1e9
BUDGET = counter(amount=100)


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders live and recalls go on however long the test takes."""
    for module in (bank_sql, pytest.importorskip("amaru.accounts.bank_redis"), till_samples):
        monkeypatch.setattr(module, "LIVE_S", LONG_S)
        monkeypatch.setattr(module, "RECALL_S", LONG_S)


@pytest.fixture
def redis_bank(redis_url: str, redis_prefix: str, tmp_path: Path) -> Bank:
    store = Store(str(tmp_path / "redis.db"))
    store.open()
    return bank_at(store, redis_url, prefix=redis_prefix)


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    if request.param == "redis":
        return request.getfixturevalue("redis_bank")
    on_file = request.param == "sqlite"
    store = Store(str(tmp_path / "a.db") if on_file else request.getfixturevalue("postgresql_store_url"))
    store.open()
    return SqlBank(store)


class Voice:
    """A holder that says what it is told to, and only once that it is new."""

    def __init__(self, bank: Bank, holder: str) -> None:
        self.bank, self.holder, self.epoch, self.heard = bank, holder, "", False

    def turn(self, number: int, *, need: int = 0, amount: int = BUDGET.amount, **more: object) -> Answer:
        turn = Turn(
            holder=self.holder,
            number=number,
            asks=[(Need(BUDGET.key, need, 0),)] if need else [],
            counters={BUDGET.key: msgspec.structs.replace(BUDGET, amount=amount)},
            whole=not self.heard,
            epoch=self.epoch,
            **more,  # type: ignore[arg-type]
        )
        answer = self.bank.turn(turn)
        self.epoch, self.heard = answer.epoch, True
        return answer


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["ask", "turn", "settle", "release", "leave"]), st.integers(1, 40)),
    max_size=14,
)


@given(steps=steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_same_turns_have_same_answers(
    for_ever: None, store: Store, redis_bank: Bank, made: dict[str, MemoryBank], steps: list[tuple[int, str, int]]
) -> None:
    memory = made.setdefault(store.name, MemoryBank())
    banks: list[Bank] = [memory, SqlBank(store), redis_bank]
    budget = counter(f"tenant:{uuid.uuid4().hex}:usd:total", 90)
    names = [uuid.uuid4().hex for _ in range(3)]
    drawers = [[Drawer(name) for name in names] for _ in banks]
    live: list[list[tuple[int, Reservation]]] = [[] for _ in banks]
    for which, what, amount in steps:
        answers = []
        for bank, processes, reserved in zip(banks, drawers, live, strict=True):
            drawer = processes[which]
            if what == "ask":
                with contextlib.suppress(AllowanceExceeded):
                    drawer.wait([(budget, amount)], partial(keep, reserved, which))
            mine = [pair for pair in reserved if pair[0] == which]
            if what in ("settle", "release") and mine:
                reserved.remove(mine[0])
                drawer.end(mine[0][1], [amount if what == "settle" else 0], None)
            if what == "leave":
                drawer.leave()
            sent = drawer.compose(0.0)
            answer = bank.turn(sent.turn)
            drawer.apply(sent, answer)
            answers.append(said_of(answer))
        assert all(answer == answers[0] for answer in answers), answers


def keep(reserved: list[tuple[int, Reservation]], which: int, said: Reservation | AmaruError) -> None:
    if isinstance(said, Reservation):
        reserved.append((which, said))


def said_of(answer: Answer) -> object:
    """But for overruns: beside Redis the store counts what is settled and stands, not what is leased."""
    return (
        [(decision.verdict, [bool(one) for one in decision.since], decision.short) for decision in answer.decisions],
        dict(answer.granted),
    )


@pytest.fixture(scope="module")
def made() -> dict[str, MemoryBank]:
    """A bank of memory beside each store, since examples share it."""
    return {}


def test_a_turn_that_comes_late_changes_nothing(bank: Bank) -> None:
    one, other = Voice(bank, "one"), Voice(bank, "other")
    assert one.turn(2, need=60).granted == {BUDGET.key: 60}
    with pytest.raises(StaleTurn):
        one.turn(1, need=10)
    assert other.turn(1, need=40).granted == {BUDGET.key: 40}


def test_what_ended_is_taken_in_once(bank: Bank) -> None:
    one = Voice(bank, "one")
    one.turn(1, need=60)
    ended = [Ended(1, "a", charge("a"), (Part(BUDGET.key, 60, 50),))]
    for number in (2, 3):
        assert one.turn(number, ended=ended, leases={BUDGET.key: Held(0, 0)}).free == {BUDGET.key: 50}
    assert bank.position("one") == Position(3, 1)


def test_what_stands_is_resolved_once(bank: Bank) -> None:
    one = Voice(bank, "one")
    one.turn(1, need=60)
    standing = Ended(1, "a", charge("a", status=ChargeStatus.STANDING), (Part(BUDGET.key, 60, None),))
    assert one.turn(2, ended=[standing], leases={BUDGET.key: Held(0, 0)}).free == {BUDGET.key: 40}
    resolved = charge("a", status=ChargeStatus.RECONCILED, cost_pusd=25_000)
    assert bank.resolve(resolved, {BUDGET.key: 25})
    assert not bank.resolve(resolved, {BUDGET.key: 25})
    assert not bank.resolve(charge("unknown"), {BUDGET.key: 25})
    assert one.turn(3, need=75).granted == {BUDGET.key: 75}
    store: Store = bank._store  # type: ignore[attr-defined]
    with store.reading() as connection:
        row = connection.execute(select(charges)).one()
    assert (row.status, row.cost_pusd, row.reserved, row.holder) == (
        "reconciled",
        25_000,
        f'[["{BUDGET.key[0]}",0,25]]',
        "one",
    )


def test_amounts_are_exact_up_to_nine_million_dollars(bank: Bank) -> None:
    one, large = Voice(bank, "one"), 2**53 - 1
    assert one.turn(1, need=large - 1, amount=large).granted == {BUDGET.key: large - 1}
    answer = one.turn(2, need=1, amount=large)
    assert (answer.granted, answer.free) == ({BUDGET.key: 1}, {BUDGET.key: 0})


def test_a_redis_that_was_flushed_grants_nothing_before_all_have_told(
    redis_bank: Bank, redis_url: str, redis_prefix: str
) -> None:
    one, other = Drawer("one"), Drawer("other")
    got: list[Reservation | AmaruError] = []

    def turn(drawer: Drawer) -> Answer:
        sent = drawer.compose(0.0)
        answer = redis_bank.turn(sent.turn)
        drawer.apply(sent, answer)
        return answer

    for drawer in (one, other):
        turn(drawer)
        drawer.wait([(BUDGET, 40)], got.append)
        turn(drawer)
    client = pytest.importorskip("redis").Redis.from_url(redis_url)
    for key in client.scan_iter(f"{redis_prefix}*"):
        client.delete(key)
    one.wait([(BUDGET, 60)], got.append)
    for _ in range(3):
        assert turn(one).decisions[0].verdict is Verdict.WAIT, "the other one was not heard yet"
    assert turn(other).announce
    for drawer in (other, one) * 3:
        turn(drawer)
    assert isinstance(got[2], AllowanceExceeded)
    assert got[2].left == 20


def test_a_redis_that_is_not_there_says_so(store: Store) -> None:
    pytest.importorskip("redis")
    bank = bank_at(store, "redis://127.0.0.1:1/0")
    with pytest.raises(StorageError, match="Does it run"):
        Voice(bank, "one").turn(1, need=1)
    with pytest.raises(StorageError, match="cannot lie there"):
        bank_at(store, "memcached://localhost")
    with pytest.raises(StorageError, match="cannot be read"):
        bank_at(store, "redis://localhost:port/0")


def test_what_stands_at_nothing_is_resolved_after_its_counters_are_gone(bank: Bank) -> None:
    one = Voice(bank, "one")
    free_of_charge = Ended(1, "a", charge("a", status=ChargeStatus.STANDING), (Part(BUDGET.key, 0, None),))
    one.turn(1, ended=[free_of_charge], leases={BUDGET.key: Held(0, 0)})
    store: Store = bank._store  # type: ignore[attr-defined]
    with store.writing() as connection:
        connection.execute(delete(counters))
    assert bank.resolve(charge("a", cost_pusd=25_000), {BUDGET.key: 25})
    with store.reading() as connection:
        assert connection.execute(select(counters.c.settled)).scalar_one() == 25
