"""Who is granted what: first come, first served, all or nothing, and refused only when nobody has anything to spare."""

from __future__ import annotations

from till_samples import MemoryBank, charge, counter

from amaru.accounts.bank import Decision, Key, Need, Part, Verdict
from amaru.accounts.drawer import Drawer
from amaru.accounts.grants import EVERYBODY, Row, answer_asks, answer_wants
from amaru.accounts.journal import Dispatched, Left
from amaru.accounts.lease import Reservation
from amaru.accounts.recovery import last_turn
from amaru.errors import AllowanceExceeded, AmaruError, StaleTurn

A: Key = ("a", 0)
B: Key = ("b", 0)


def decide(
    rows: dict[Key, Row], *asks: tuple[Need, ...], acknowledged: int = EVERYBODY
) -> tuple[list[Decision], dict[Key, int]]:
    granted: dict[Key, int] = {}
    decisions = answer_asks(
        asks, rows, granted, acknowledged=lambda _: acknowledged, new_generation=iter(range(8, 99)).__next__
    )
    return decisions, granted


def verdicts(decisions: list[Decision]) -> list[Verdict]:
    return [decision.verdict for decision in decisions]


def test_nobody_overtakes_one_that_waits_for_the_same() -> None:
    rows = {A: Row(10, 0, 0), B: Row(10, 0, 0)}
    decisions, granted = decide(rows, (Need(A, 11, 0),), (Need(A, 1, 0),), (Need(B, 1, 0),), acknowledged=0)
    assert verdicts(decisions) == [Verdict.WAIT, Verdict.WAIT, Verdict.GRANTED]
    assert granted == {B: 1}
    assert [decision.since for decision in decisions] == [(8,), (8,), ()], "one recall for both"


def test_one_that_is_refused_lets_the_next_pass() -> None:
    rows = {A: Row(10, 0, 0)}
    decisions, granted = decide(rows, (Need(A, 11, 0),), (Need(A, 10, 0),))
    assert verdicts(decisions) == [Verdict.REFUSED, Verdict.GRANTED]
    assert granted == {A: 10}


def test_all_or_nothing_and_the_short_one_is_named() -> None:
    rows = {A: Row(10, 0, 0), B: Row(10, 9, 0)}
    decisions, granted = decide(rows, (Need(A, 5, 0), Need(B, 5, 0)))
    assert decisions == [Decision(Verdict.REFUSED, short=1)]
    assert granted == {}


def test_an_acknowledgement_of_an_earlier_recall_refuses_nobody() -> None:
    rows = {A: Row(10, 0, 5, generation=7)}
    asked = Need(A, 6, 0)
    assert verdicts(decide(rows, (asked,), acknowledged=7)[0]) == [Verdict.WAIT]
    again = asked._replace(since=8)
    assert verdicts(decide(rows, (again,), acknowledged=7)[0]) == [Verdict.WAIT]
    assert verdicts(decide(rows, (again,), acknowledged=8)[0]) == [Verdict.REFUSED]


def test_leases_shrink_as_a_counter_runs_low() -> None:
    row, leased = Row(1_000, 0, 0), []
    for _ in range(5):
        granted: dict[Key, int] = {}
        answer_wants({A: 10**6}, {A: row}, granted, holders=2)
        leased.append(granted[A])
    assert leased == [250, 187, 140, 105, 79]
    row.generation = 8
    granted = {}
    answer_wants({A: 10**6}, {A: row}, granted, holders=2)
    assert granted == {}


def test_turns_of_a_dead_holder_that_are_still_under_way_change_nothing() -> None:
    bank, drawer = MemoryBank(), Drawer("dead")
    bank.turn(drawer.compose(bank.now).turn)
    late = [drawer.compose(bank.now) for _ in range(5)]
    left = Left(holder="dead", whole=True, open={"a": Dispatched(charge("a"), (Part(A, 3, None),))}, ended=[])
    bank.rows[A] = Row(10, 0, 0)
    for _ in range(2):
        bank.turn(last_turn(left, bank.position("dead")))
    assert bank.rows[A].leased == 3
    for sent in late:
        try:
            bank.turn(sent.turn)
        except StaleTurn:
            continue
        raise AssertionError("it was taken in")


def test_what_goes_back_is_refused_to_nobody_while_the_bank_hears_of_it() -> None:
    bank, drawer, counted = MemoryBank(), Drawer("h"), counter("tenant:acme:concurrency:none", 1)

    def ask() -> list[Reservation | AmaruError]:
        """Wait for the one place there is; what is decided comes into the list that this gives."""
        decided: list[Reservation | AmaruError] = []
        drawer.wait([(counted, 1)], decided.append)
        return decided

    def turn() -> None:
        sent = drawer.compose(bank.now)
        drawer.apply(sent, bank.turn(sent.turn))

    first = ask()
    turn()
    (place,) = first
    assert isinstance(place, Reservation)
    refused = ask()
    turn()
    turn()
    assert isinstance(refused[0], AllowanceExceeded)
    drawer.end(place, [0], None)
    sent = drawer.compose(bank.now)  # the recall goes on, so the place goes back with this turn
    second = ask()
    drawer.apply(sent, bank.turn(sent.turn))
    turn()
    assert isinstance(second[0], Reservation)
