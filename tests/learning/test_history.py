"""History as training data: learned from as it was live, in the order of its ends, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logged_samples import OFFERS, START, Gateway, changed, logged_store, write

from amaru.domain import Experience, FailureKind, Offer, Workload
from amaru.learning.dataset import build, read_rows
from amaru.learning.dataset_schema import DatasetError, LoggedDecision
from amaru.learning.dataset_source import StoredRows
from amaru.learning.history import in_order, warm_start
from amaru.learning.logged_scoring import Scorer, Target
from amaru.routing.belief_kernels import SUCCESS
from amaru.routing.experience import experience_of
from amaru.routing.policies import LEARNED, make_policy
from amaru.routing.policies_base import is_whole
from amaru.routing.ranking import seen_of, unpack


class Listener:
    name = "listener"
    learns = True

    def __init__(self) -> None:
        self.heard: list[tuple[Workload, Offer, Experience]] = []

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        self.heard.append((workload, offer, experience))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[LoggedDecision]:
    return list(StoredRows(logged_store(tmp_path_factory.mktemp("gateway") / "amaru.db", 100)))


def test_what_is_learned_is_what_was_learned_live(tmp_path: Path) -> None:
    gateway = Gateway()
    records = [gateway.ask() for _ in range(200)]
    build(write(tmp_path / "amaru.db", gateway, records), tmp_path / "out")
    live = []
    for record in records:
        figures = unpack(record.ranking)
        for attempt in record.attempts:
            row = gateway.board.row_of[attempt.offer]
            seen = seen_of(figures, row)
            live.append((figures.workload, OFFERS[row], experience_of(figures.workload, attempt, record.at, seen)))
    live.sort(key=lambda shown: shown[2].at)  # type: ignore[union-attr]  # none of them left
    listener = Listener()
    report = warm_start(listener, tmp_path / "out")
    assert listener.heard == live
    assert (report.decisions, report.learned) == (200, len(live))
    assert report.failed == sum(not shown[2].ok for shown in live)  # type: ignore[union-attr]
    assert sum(report.by_offer.values()) == report.learned
    assert (report.without_blame, report.unknown_offers, report.policy) == (0, 0, "listener")
    assert (report.first_at, report.last_at) == (START, START + 99.5)


@pytest.mark.parametrize("name", LEARNED)
def test_a_policy_begins_with_what_was_seen(name: str, tmp_path: Path) -> None:
    build(logged_store(tmp_path / "amaru.db", 600), tmp_path / "out")
    warm, again = make_policy(name), make_policy(name)
    report = warm_start(warm, tmp_path / "out")
    assert report.learned > 600  # second attempts count as well
    assert warm.state() != make_policy(name).state()
    warm_start(again, tmp_path / "out")
    assert warm.state() == again.state()
    # And expects by it, before anything is seen live: less of the offer that is cheapest, and fails one time in four.
    fresh = next(row for row in read_rows(tmp_path / "out") if row.tenant == "t0")
    assert set(fresh.success_seen) == {1.0}
    cheap = fresh.offers.index("cheap/m")
    boards = {fresh.board: OFFERS}
    if name == "qlearning":
        untrained = make_policy(name)
        shares = [Scorer(Target(name, policy), boards).shares(fresh)[cheap] for policy in (untrained, warm)]
        assert shares[1] < shares[0]
    else:  # it may well be worth its price all the same
        Scorer(Target(name, warm), boards).shares(fresh)
        whole = is_whole(fresh.figures({offer.id: row for row, offer in enumerate(OFFERS)}).workload)
        slots = warm.mind.slots(OFFERS, whole=whole)[0]
        success = {offer.id: warm.mind.beliefs[slot, SUCCESS] for offer, slot in zip(OFFERS, slots, strict=True)}
        assert 0.6 < success["cheap/m"] < 0.95 < min(success["fair/m"], success["fast/m"], success["dear/m"])


def test_only_of_the_offers_asked_for_and_as_they_are_now(tmp_path: Path) -> None:
    build(logged_store(tmp_path / "amaru.db", 100), tmp_path / "out")
    moved = msgspec.structs.replace(OFFERS[1], latency_ms=999.0)
    listener = Listener()
    report = warm_start(listener, tmp_path / "out", [moved])
    assert {offer for _, offer, _ in listener.heard} == {moved}
    assert list(report.by_offer) == ["fair/m"]
    assert report.unknown_offers > 0
    assert report.learned + report.unknown_offers + report.without_blame >= 100


def test_what_says_nothing_of_its_offer_is_not_learned(tmp_path: Path) -> None:
    gateway = Gateway()
    records = [gateway.ask() for _ in range(20)]
    own_fault = changed(records[3].attempts[0], failure=FailureKind.BAD_REQUEST, first_token_ms=None)  # type: ignore[arg-type]
    records[3] = changed(records[3], attempts=(own_fault,), ok=False)
    build(write(tmp_path / "amaru.db", gateway, records), tmp_path / "out")
    listener = Listener()
    report = warm_start(listener, tmp_path / "out")
    assert report.without_blame == 1
    assert all(experience.blame for _, _, experience in listener.heard)


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 30_000.0)), max_size=30))
def test_ends_come_in_order_and_never_before_their_decision_nor_after_a_later_one(
    rows: list[LoggedDecision], times: list[tuple[float, float]]
) -> None:
    begun = sorted(at for at, _ in times)
    log = [
        msgspec.structs.replace(
            row,
            at=START + at,
            first=msgspec.structs.replace(row.first, ended_at=START + at + ms / 1e3, blame=True),
            further=[],
        )
        for row, at, (_, ms) in zip(rows, begun, times, strict=False)
    ]
    items = list(in_order(log, {rows[0].board: OFFERS}))
    ends = [item[2].at for item in items if not isinstance(item, LoggedDecision)]
    assert [item for item in items if isinstance(item, LoggedDecision)] == log
    assert ends == sorted(row.first.ended_at for row in log)
    known = -1.0
    for item in items:
        if isinstance(item, LoggedDecision):
            assert known <= item.at
        else:
            known = item[2].at


def test_a_data_set_that_was_changed_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    build(logged_store(tmp_path / "amaru.db", 30), tmp_path / "out.parquet")
    (tmp_path / "out.parquet").write_bytes((tmp_path / "out.parquet").read_bytes()[:-1] + b"x")
    listener = Listener()
    with pytest.raises(DatasetError, match="digest"):
        warm_start(listener, tmp_path / "out.parquet")
    assert listener.heard == []


def test_rows_are_read_a_page_at_a_time(tmp_path: Path) -> None:
    build(logged_store(tmp_path / "amaru.db", 50), tmp_path / "out")
    pages = read_rows(tmp_path / "out", page_rows=7)
    assert [row.id for row in pages] == [f"{n:032x}" for n in range(50)]
