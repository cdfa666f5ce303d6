"""A decision's receipts are found by their time, in a log of any length, without an index."""

from __future__ import annotations

from pathlib import Path

import pytest

from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.notes import NoteSigner
from amaru.ledger.place import Place
from amaru.ledger.pruning import prune
from amaru.ledger.receipts import Decision, Discovery, Outcome, Pruning, Receipt, Served, leaf_of, rfc3339
from amaru.ledger.tlog_proof import parse_tlog_proof
from amaru.mesh import ledger_reading
from amaru.mesh.ledger_reading import SLACK_S, LedgerFiles, ProofState, receipts_of

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
    assert receipts_of(log, id_of(9999), [(at(300), at(300))]).state is ProofState.ABSENT
    later = at(DECISIONS) + 2 * SLACK_S
    assert receipts_of(log, id_of(9999), [(later, later)]).state is ProofState.PENDING
    assert receipts_of(None, id_of(1), [(at(1), at(1))]).state is ProofState.PENDING


def test_no_more_is_looked_through_than_the_bound(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reading, "MOST_READ", 100)
    assert receipts_of(log, id_of(1000), [(at(0), at(1000))]).state is ProofState.ABSENT
    assert receipts_of(log, id_of(50), [(at(0), at(1000))]).state is ProofState.LOGGED


def test_what_was_pruned_says_so(tmp_path: Path) -> None:
    url = str(tmp_path / "log")
    with Log.open(url, [NoteSigner.generate("test/log")]) as log:
        log.append([leaf_of(decision(place)) for place in range(600)])
        prune(log, leaf_of(Pruning(at=rfc3339(at(600)), component="ledger", until=256)))
        assert receipts_of(log, id_of(100), [(at(100), at(100))]).state is ProofState.PRUNED
        assert receipts_of(log, id_of(300), [(at(300), at(300))]).state is ProofState.LOGGED
        files = LedgerFiles(Place.of(url, tmp_path))
        assert files.read("pruned", log.size) is not None
        assert files.read("tile/entries/000", log.size) is None
        assert files.read("tile/0/000", log.size) is not None
