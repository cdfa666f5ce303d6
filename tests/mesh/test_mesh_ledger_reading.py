"""A decision's receipts are found by their time, in a log of any length, without an index."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.notes import NoteSigner
from amaru.ledger.place import Place
from amaru.ledger.pruning import prune
from amaru.ledger.receipts import Decision, Discovery, Gap, Outcome, Pruning, Receipt, Served, leaf_of, rfc3339
from amaru.ledger.tlog_proof import parse_tlog_proof
from amaru.mesh import ledger_reading
from amaru.mesh.ledger_files import LedgerFiles
from amaru.mesh.ledger_reading import LOOK_S, SLACK_S, ProofState, receipts_of

T0 = 1_795_000_000.0
STEP_S = 0.1
DECISIONS = 1500


def id_of(place: int) -> str:
    return f"{place:032x}"


def at(place: float) -> float:
    return T0 + place * STEP_S


def decision(place: int) -> Receipt:
    return Decision(at=rfc3339(at(place)), component="ai-mesh", ref=id_of(place), resource="sim")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A decision every 0.1 s; that of place 700 has two outcomes, one at once, and one 60 s later."""
    made = Log.open(str(tmp_path_factory.mktemp("log")), [NoteSigner.generate("test/log")])
    leaves = [decision(place) for place in range(DECISIONS)]
    served = Served(ok=True)
    leaves.insert(702, Outcome(at=rfc3339(at(701)), component="ai-mesh", ref=id_of(700), outcome=served))
    leaves.insert(1302, Outcome(at=rfc3339(at(1301)), component="ai-mesh", ref=id_of(700), outcome=served))
    # What mentions a decision is not about it; and others may write what they like.
    leaves.insert(500, Discovery(at=rfc3339(at(500)), component="x", ref=id_of(500), note=f'"ref":"{id_of(501)}"'))
    entries = [leaf_of(leaf) for leaf in leaves]
    entries.insert(750, b"no JSON at all")
    made.append(entries)
    return made


@pytest.mark.parametrize("place", [0, 1, 255, 499, 500, 501, 749, 750, 751, DECISIONS - 1])
def test_each_is_found_with_its_proof(log: Log, place: int) -> None:
    found = receipts_of(log, id_of(place), [(at(place), at(place))])
    assert found.state is ProofState.LOGGED
    (receipt,) = found.receipts
    assert receipt.entry == leaf_of(decision(place)).decode()
    assert receipt.hash == leaf_hash(receipt.entry.encode()).hex()
    parse_tlog_proof(receipt.proof.encode()).verify(leaf_hash(receipt.entry.encode()), log.verifiers)


def test_outcomes_are_found_in_their_own_span_of_time_and_each_once(log: Log) -> None:
    spans = [(at(700), at(700)), (at(1301), at(1301)), (at(1301), at(1301))]
    assert [one.type for one in receipts_of(log, id_of(700), spans).receipts] == ["decision", "outcome", "outcome"]
    assert [one.type for one in receipts_of(log, id_of(700), spans[:1]).receipts] == ["decision", "outcome"]


def test_what_the_log_has_passed_without_is_absent_and_what_it_has_not_come_to_is_pending(log: Log) -> None:
    assert receipts_of(log, id_of(9999), [(at(300), at(300))], settled=log.size).state is ProofState.ABSENT
    later = at(DECISIONS) + 2 * SLACK_S
    assert receipts_of(log, id_of(9999), [(later, later)]).state is ProofState.PENDING
    assert receipts_of(log, id_of(9999), [(later, later)], settled=log.size + 1).state is ProofState.PENDING
    assert receipts_of(log, id_of(9999), [(later, later)], settled=log.size).state is ProofState.ABSENT
    assert receipts_of(None, id_of(1), [(at(1), at(1))]).state is ProofState.PENDING


def test_what_may_still_be_logged_is_not_absent_though_the_log_has_passed_its_time(log: Log) -> None:
    """The clock was set back: the log has later times already, and this one's receipt waits in the queue."""
    for settled in (None, log.size + 1):
        found = receipts_of(log, id_of(9999), [(at(300), at(300))], settled=settled)
        assert found.state is ProofState.UNKNOWN
        assert "remembrancer query ref:ID" in found.words


def test_no_more_is_looked_through_than_the_bound(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reading, "MOST_READ", 100)
    assert receipts_of(log, id_of(50), [(at(0), at(1000))]).state is ProofState.LOGGED
    beyond = receipts_of(log, id_of(1000), [(at(0), at(1000))], settled=log.size)
    assert beyond.state is ProofState.UNKNOWN, "absent is only what was looked for everywhere"


def test_no_longer_is_looked_than_the_bound(log: Log) -> None:
    seconds = itertools.count(0.0, LOOK_S / 4)
    found = receipts_of(log, id_of(9999), [(at(300), at(300))], settled=log.size, timer=lambda: next(seconds))
    assert found.state is ProofState.UNKNOWN
    assert next(seconds) < 3 * LOOK_S


def log_of(folder: Path, leaves: list[bytes]) -> Log:
    made = Log.open(str(folder / "log"), [NoteSigner.generate("test/log")])
    made.append(leaves)
    return made


def state_of(log: Log, place: int, **more: Any) -> ProofState:
    return receipts_of(log, id_of(place), [(at(place), at(place))], settled=log.size, **more).state


@pytest.mark.parametrize("back", [100, 700, 5_000])
def test_what_was_logged_before_and_after_the_clock_was_set_back_is_found(tmp_path: Path, back: int) -> None:
    """Ids say in which order they were logged; times do not."""
    count = 2_000
    with log_of(tmp_path, [leaf_of(decision(place)) for place in range(count)]) as log:
        again = [Decision(at=rfc3339(at(place)), component="ai-mesh", ref=f"f{place:031d}") for place in range(count)]
        shift = (count - back) * STEP_S
        log.append([leaf_of(msgspec.structs.replace(one, at=rfc3339(at(n) + shift))) for n, one in enumerate(again)])
        for place in range(0, count, 97):
            assert state_of(log, place) is ProofState.LOGGED
            moment = at(place) + shift
            found = receipts_of(log, f"f{place:031d}", [(moment, moment)], settled=log.size)
            assert found.state is ProofState.LOGGED, place
        assert state_of(log, 99_999) is ProofState.ABSENT


def test_a_gap_that_was_logged_before_what_is_older_hides_nothing(tmp_path: Path) -> None:
    leaves = [leaf_of(decision(place)) for place in range(1_000)]
    gap = Gap(at=rfc3339(at(1_000)), component="ai-mesh", dropped=3, since=rfc3339(at(1)), until=rfc3339(at(2)))
    for place in (64, 128, 500, 512, 704, 960):  # where halving, and the look at the time, come by
        leaves.insert(place, leaf_of(gap))
    with log_of(tmp_path, leaves) as log:
        assert {state_of(log, place) for place in range(1_000)} == {ProofState.LOGGED}


def test_decisions_of_one_instant_are_told_apart(tmp_path: Path) -> None:
    """More than a bundle of them, as where a clock stands still."""
    with log_of(tmp_path, [leaf_of(msgspec.structs.replace(decision(n), at=rfc3339(T0))) for n in range(900)]) as log:
        for place in (0, 255, 256, 640, 899):
            assert receipts_of(log, id_of(place), [(T0, T0)]).receipts[0].index == place
        assert receipts_of(log, id_of(9999), [(T0, T0)], settled=900).state is ProofState.ABSENT


def test_what_is_not_sampled_is_not_looked_for_all_around(tmp_path: Path) -> None:
    late = [leaf_of(decision(place)) for place in (*range(1, 900), 0)]
    with log_of(tmp_path, late) as log:
        assert state_of(log, 0) is ProofState.LOGGED
        assert state_of(log, 0, around=False) is ProofState.UNKNOWN


def test_what_was_pruned_says_so(tmp_path: Path) -> None:
    url = str(tmp_path / "log")
    with Log.open(url, [NoteSigner.generate("test/log")]) as log:
        log.append([leaf_of(decision(place)) for place in range(600)])
        prune(log, leaf_of(Pruning(at=rfc3339(at(600)), component="ledger", until=256)))
        assert receipts_of(log, id_of(100), [(at(100), at(100))]).state is ProofState.PRUNED
        assert receipts_of(log, id_of(300), [(at(300), at(300))]).state is ProofState.LOGGED
        assert state_of(log, 9999) is ProofState.UNKNOWN, "it may have been among what was erased"
        files = LedgerFiles(Place.of(url, tmp_path))
        assert files.read("pruned", log.size) is not None
        assert files.read("tile/entries/000", log.size) is None
        assert files.read("tile/0/000", log.size) is not None
