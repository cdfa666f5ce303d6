"""What trainings and promotions leave in a ledger, where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaru.cli.ledger_option import shown_url
from amaru.cli.main import build
from amaru.cli.remembrancer_session import ledger_url
from amaru.errors import AmaruError, LedgerError
from amaru.ledger.place import Place, open_log, open_view, trust_of
from amaru.ledger.receipts import Promotion, Receipt, Training, read_leaf
from amaru.ledger.remembrancer import evidence_of

TRAIN = ["train", "--agents", "1", "--steps", "4", "--processes", "1", "--episodes", "2"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "ada")


def said(*arguments: str) -> str:
    outcome = CliRunner().invoke(build(), arguments)
    if isinstance(outcome.exception, AmaruError):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def logged(url: str) -> list[Receipt | None]:
    place = Place.of(url, Path())
    view = open_view(place, trust_of(place)[0].verifiers)
    return [read_leaf(leaf) for leaf in view.entries(0, view.size)]


def test_a_training_leaves_a_receipt_with_the_digests_of_its_files() -> None:
    assert "Recorded as #0 of the ledger" in said(*TRAIN, "--seed", "7", "--ledger", "proofs")
    (receipt,) = logged("proofs")
    assert isinstance(receipt, Training)
    assert (receipt.policy, receipt.seed, receipt.episodes, receipt.by) == ("qlearning", 7, 2, "ada")
    assert receipt.worlds == "hidden-train-v1"
    assert receipt.digest == evidence_of(Path("out/swarm_final.json")).digest
    assert {one.name for one in receipt.evidence} >= {"swarm_final.json", "checkpoint.bin"}


def test_promotions_leave_receipts() -> None:
    said(*TRAIN)
    found = json.loads(
        said("artifacts", "publish", "out/swarm_final.json", "--to", "store", "--promote", "--ledger", "log", "--json")
    )
    said("train", *TRAIN[1:], "--seed", "5", "--overwrite")
    said("artifacts", "publish", "out/swarm_final.json", "--to", "store")
    assert "Recorded as #1" in said("artifacts", "promote", "store", "v2", "--ledger", "log")
    assert "promoted already" in said("artifacts", "promote", "store", "v2", "--ledger", "log")
    assert "Recorded as #2" in said("artifacts", "rollback", "store", "--ledger", "log")
    first, second, third = logged("log")
    assert isinstance(first, Promotion)
    assert isinstance(second, Promotion)
    assert isinstance(third, Promotion)
    assert (first.version, first.before, first.component) == ("v1", "", "qlearning")
    assert (second.version, second.before, second.store) == ("v2", "v1", "store")
    assert (third.version, third.before, third.note) == ("v1", "v2", "rolled back")
    assert len(found["receipt"]) == 64
    # The subject is the state as the store has it: by its SHA-256 for everyone, by its name for the store.
    for promoted in (first, second, third):
        blob = Path("store/blobs", promoted.ref.removeprefix("blake2b:"))
        assert promoted.digest == evidence_of(blob).digest
    assert first.digest == third.digest != second.digest
    assert "is known" in said("remembrancer", "verify", str(blob), "--ledger", "log")


def test_without_a_ledger_nothing_is_made_and_one_that_is_there_is_used() -> None:
    assert "ledger" not in said(*TRAIN)
    assert not Path("amaru-data").exists()
    said(*TRAIN, "--overwrite", "--ledger", "amaru-data/ledger")
    assert "Recorded as #1" in said(*TRAIN, "--overwrite")


def test_the_ledger_is_where_the_configuration_has_it() -> None:
    config = {"AMARU_CONFIG": "etc/amaru.yaml"}
    assert ledger_url(config) == "etc/amaru-data/ledger"
    Path("etc").mkdir()
    Path("etc/amaru.yaml").write_text("storage: {path: data/a.db}")
    assert ledger_url(config) == "etc/data/ledger"
    Path("etc/amaru.yaml").write_text("ledger: {url: log}")
    assert ledger_url(config) == "etc/log"
    assert ledger_url({**config, "AMARU_LEDGER__URL": "s3://bucket/log"}) == "s3://bucket/log"


def test_a_ledger_that_cannot_be_written_undoes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amaru.ledger.place.BUSY_S", 0.0)
    monkeypatch.setattr(open_log, "__kwdefaults__", {**open_log.__kwdefaults__, "wait_s": 0.0})
    said(*TRAIN, "--ledger", "amaru-data/ledger")
    with open_log(Place.of("amaru-data/ledger", Path())):
        with pytest.raises(LedgerError, match=r"done, but not recorded: .* writes this log"):
            said(*TRAIN, "--overwrite", "--ledger", "amaru-data/ledger")
        assert "not recorded in the ledger" in said(*TRAIN, "--overwrite")
    assert len(logged("amaru-data/ledger")) == 1


def test_no_credentials_of_a_store_get_into_the_log() -> None:
    assert shown_url("s3://key:secret@bucket/path") == "s3://bucket/path"
    assert shown_url("store@home/x") == "store@home/x"
