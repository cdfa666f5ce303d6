"""The face of the ledger: over a real log on a real disk, by an honest holder and by others."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import sqlalchemy
from ledger_samples import DIGEST, SAMPLES, T0, at
from sqlalchemy import create_engine

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError, ProofError
from amaru.ledger import place as places
from amaru.ledger.adr import next_number, read_adr, write_adr
from amaru.ledger.attestation import verify_attestation
from amaru.ledger.keys import load_signers
from amaru.ledger.log import Log
from amaru.ledger.merkle import verify_inclusion
from amaru.ledger.notes import NoteSigner
from amaru.ledger.place import Place, load_salt, open_log, retire, rotate, trust_also
from amaru.ledger.proofs import Proofs
from amaru.ledger.pruning import prune
from amaru.ledger.receipts import Deploy, Discovery, Incident, Pruning, leaf_of
from amaru.ledger.remembrancer import NoReceipt, Remembrancer, evidence_of
from amaru.ledger.search import Search, parse_query
from amaru.ledger.tile_store import open_store
from amaru.ledger.trust import Trust


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(str(tmp_path / "data" / "ledger"), tmp_path / "data")


@pytest.fixture
def it(place: Place) -> Iterator[Remembrancer]:
    with Remembrancer(place, clock=lambda: T0) as one:
        yield one


def again(place: Place, **options: object) -> Remembrancer:
    """As a new process sees it."""
    return Remembrancer(place, clock=lambda: T0, **options)  # type: ignore[arg-type]  # a test's short hand


def fill(it: Remembrancer) -> None:
    for receipt in SAMPLES:
        it.record(receipt)


def test_the_first_record_makes_the_log_and_its_key(it: Remembrancer, place: Place) -> None:
    done = it.record(SAMPLES[1])

    assert done.made is not None
    assert stat.S_IMODE(place.signing_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.keys.stat().st_mode) == 0o700
    assert done.made.verifier.vkey in (Path(place.url) / "vkey").read_text()
    assert load_signers(place.signing_key) == [done.made]
    assert it.record(SAMPLES[2]).made is None
    assert (it.record(SAMPLES[3]).entry.leaf, it.view.size) == (2, 3)


def test_nothing_secret_lies_in_the_folder_that_is_served(it: Remembrancer, place: Place) -> None:
    fill(it)
    it.find(Search(), 5)
    load_salt(place)
    secrets = [place.signing_key.read_text().split("+")[-1].strip().encode(), place.salt.read_bytes()]
    for file in Path(place.url).rglob("*"):
        assert not file.is_file() or not any(secret in file.read_bytes() for secret in secrets), file


def test_what_was_recorded_is_found_shown_and_proven_by_a_new_process(it: Remembrancer, place: Place) -> None:
    fill(it)
    with again(place) as other:
        found = other.find(parse_query("ai-mesh routing decisions", T0), 10)
        assert [entry.receipt for entry in found] == [SAMPLES[2]]
        shown = other.show(found[0])
        verify_inclusion(found[0].hash, shown.proof.index, shown.proof.size, shown.proof.path, shown.head.root)
        assert [signer.vkey for signer in shown.signers] == [load_signers(place.signing_key)[0].verifier.vkey]
        assert other.of_file(DIGEST)[0].leaf == 0
        assert other.count(Search(component="ai-mesh")) == {"decision": 1, "incident": 1, "training": 1}


@pytest.mark.parametrize("form", ["{id}", "{short}", "{upper}", "#{leaf}", "{leaf}", " {id} "])
def test_a_receipt_has_several_names(it: Remembrancer, form: str) -> None:
    fill(it)
    entry = it.at(3)
    name = form.format(id=entry.id, short=entry.id[:8], upper=entry.id.upper(), leaf=3)
    assert it.get(name) == entry


@pytest.mark.parametrize(
    "name", ["", "#", "#8", "8", "abc", "0" * 63, "f" * 65, "not hex at all", "#-1", "٣", "#٣", "9" * 40]
)
def test_what_names_no_receipt_is_told(it: Remembrancer, name: str) -> None:
    fill(it)
    with pytest.raises(NoReceipt):
        it.get(name)


def test_a_deployment_is_attested_with_the_logs_key(it: Remembrancer, tmp_path: Path) -> None:
    file = tmp_path / "app.tar"
    file.write_bytes(b"app")
    done = it.record(Deploy(at=at(), component="gateway", version="1", evidence=(evidence_of(file),)))
    receipt = done.entry.receipt
    assert isinstance(receipt, Deploy)
    assert receipt.envelope is not None
    hexadecimal = evidence_of(file).digest.removeprefix("sha256:")
    statement = verify_attestation(receipt.envelope, it.trust.verifiers, sha256=hexadecimal)
    assert statement.predicate["component"] == "gateway"
    assert receipt.digest == evidence_of(file).digest
    with pytest.raises(ProofError):
        verify_attestation(receipt.envelope, [NoteSigner.generate("else").verifier])


@pytest.mark.parametrize(
    "receipt", [Deploy(at=at(), component="gateway"), Incident(at=at(), component="two words")], ids=["deploy", "name"]
)
def test_what_cannot_be_recorded_makes_no_log(it: Remembrancer, place: Place, receipt: Incident) -> None:
    with pytest.raises(LedgerError):
        it.record(receipt)
    assert not place.keys.exists()
    assert not Path(place.url).exists()


def test_without_a_ledger_it_is_said_how_to_begin(it: Remembrancer) -> None:
    with pytest.raises(LedgerError, match="remembrancer init"):
        it.find(Search(), 1)


def test_another_writer_is_waited_for_and_then_named(
    it: Remembrancer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.record(SAMPLES[0])
    log = open_log(place)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            log.close()

    open_log(place, sleep=nap).close()
    assert len(naps) == 3
    with open_log(place), pytest.raises(LedgerBusy, match=f"process {os.getpid()}"):
        open_log(place, wait_s=0)


def test_a_log_whose_key_is_elsewhere_can_be_read_and_not_written(it: Remembrancer, place: Place) -> None:
    fill(it)
    shutil.rmtree(place.keys)
    with again(place) as stranger:
        assert stranger.find(parse_query("drain", T0), 5)[0].leaf == 4
        assert "proves nothing about who made it" in stranger.show(stranger.at(0)).trusted
        with pytest.raises(LedgerError, match="only who holds it"):
            stranger.record(SAMPLES[0])


def test_a_log_is_held_to_the_keys_that_are_given(it: Remembrancer, place: Place) -> None:
    fill(it)
    trust = Trust((NoteSigner.generate("test.example/other").verifier,))
    with again(place, trust=trust) as strict, pytest.raises(ProofError, match="wrong key, or a forgery"):
        strict.find(Search(), 1)


# The ways to cheat who looks twice.


def forge(place: Place, receipts: list[Incident]) -> None:
    """The holder of the key writes another history, as if it had always been so."""
    shutil.rmtree(place.url)
    with Log.open(place.url, load_signers(place.signing_key)) as log:
        log.append([leaf_of(receipt) for receipt in receipts])


def other_history(count: int) -> list[Incident]:
    return [Incident(at=at(n), component="forged") for n in range(count)]


@pytest.mark.parametrize(
    ("count", "named"), [(3, "older checkpoint replayed, or log truncated"), (8, "split view"), (12, "consistency")]
)
def test_a_rewritten_history_is_caught_by_who_saw_the_old_one(
    it: Remembrancer, place: Place, count: int, named: str
) -> None:
    fill(it)
    it.find(Search(), 1)
    forge(place, other_history(count))
    with again(place) as later, pytest.raises(ProofError, match=f"{named}.*ledger.keys/seen"):
        later.find(Search(), 1)


def test_who_has_no_key_of_the_log_is_held_to_what_they_saw_as_well(it: Remembrancer, place: Place) -> None:
    """A stranger's first look takes the key beside the log; a later one no other, whatever lies there."""
    fill(it)
    shutil.rmtree(place.keys)
    with again(place) as stranger:
        stranger.at(0)
    shutil.rmtree(place.url)
    with Log.open(place.url, [NoteSigner.generate("test.example/other")]) as log:
        log.append([leaf_of(receipt) for receipt in other_history(20)])
        places.publish_keys(log.store, log.verifiers)
    with again(place) as stranger, pytest.raises(ProofError, match=r"wrong key.*ledger.keys/seen"):
        stranger.at(0)


def test_beside_a_log_that_cannot_be_written_the_users_own_folder_serves(
    it: Remembrancer, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(it)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(places.os, "access", lambda *_: False)  # root may write everywhere
    theirs = Place.of(place.url, tmp_path)
    assert theirs.keys.parent == Path(theirs.index).parent == tmp_path / "state" / "amaru"
    with again(theirs) as auditor:
        assert auditor.find(parse_query("drain", T0), 5)[0].leaf == 4
    assert theirs.seen.exists()


def test_an_honest_log_that_grew_passes(it: Remembrancer, place: Place) -> None:
    for receipt in SAMPLES:
        done = it.record(receipt)
        with again(place) as other:
            assert other.at(other.view.size - 1) == done.entry
            assert it.find(Search(), 1) == [done.entry]


def test_a_checkpoint_seen_that_was_swapped_is_caught(it: Remembrancer, place: Place) -> None:
    fill(it)
    it.find(Search(), 1)
    place.seen.write_bytes(b"nonsense\n")
    with again(place) as later, pytest.raises(ProofError, match="signed note"):
        later.find(Search(), 1)


def test_an_edited_entry_is_not_shown(it: Remembrancer, place: Place) -> None:
    fill(it)
    it.find(Search(), 1)
    for bundle in (Path(place.url) / "tile" / "entries" / "000.p").iterdir():
        bundle.write_bytes(bundle.read_bytes().replace(b"nonsense", b"wonders!"))
    with again(place) as later:
        with pytest.raises(LedgerCorrupt, match="#3 is not what was logged"):
            later.at(3)
        with pytest.raises(LedgerCorrupt, match="#3"):
            later.find(parse_query("type:incident", T0), 5)
        assert later.at(2).receipt == SAMPLES[2]


def test_an_index_that_lies_is_made_anew(it: Remembrancer, place: Place) -> None:
    fill(it)
    it.find(Search(), 1)
    it.close()
    with create_engine(f"sqlite:///{place.index}").begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE receipts SET component = 'north', hash = x'00' WHERE leaf = 0"))
    told: list[str] = []
    with again(place, told=told.append) as later:
        assert [entry.leaf for entry in later.find(Search(component="north"), 5)] == [4]
    assert "does not agree with the log" in told[0]


def test_a_log_in_a_bucket_is_recorded_in_and_read_alike(tmp_path: Path) -> None:
    bucket = Place.of(f"memory://{tmp_path.name}/log", tmp_path)
    with Remembrancer(bucket, clock=lambda: T0) as it:
        done = [it.record(receipt).entry for receipt in SAMPLES]
        assert it.find(parse_query("ai-mesh", T0), 5) == [done[3], done[2], done[1]]
        assert it.show(done[0]).proof.size == len(SAMPLES)


# Keys.


def test_keys_rotate_by_overlap(it: Remembrancer, place: Place) -> None:
    old = it.record(SAMPLES[1]).made
    assert old is not None
    new = rotate(place)
    it.record(SAMPLES[2])
    assert {one.name for one in it.show(it.at(1)).signers} == {old.name}
    assert len(it.show(it.at(1)).signers) == 2
    retire(place, old.verifier.key_id)
    it.record(SAMPLES[3])
    assert it.show(it.at(2)).signers == (new.verifier,)
    assert (Path(place.url) / "vkey").read_text().count(f"\n{old.name}+") == 2

    # Who knows only the old key reads up to here no further; who knows the new one reads all.
    with again(place, trust=Trust((old.verifier,))) as behind, pytest.raises(ProofError):
        behind.at(0)
    place.seen.unlink()
    with again(place, trust=Trust((new.verifier,))) as ahead:
        assert ahead.at(0).receipt == SAMPLES[1]


def test_the_last_key_stays(it: Remembrancer, place: Place) -> None:
    made = it.record(SAMPLES[1]).made
    assert made is not None
    with pytest.raises(LedgerError, match="only key"):
        retire(place, made.verifier.key_id)


def test_a_signing_key_that_others_may_read_is_refused(it: Remembrancer, place: Place) -> None:
    it.record(SAMPLES[1])
    place.signing_key.chmod(0o644)
    with pytest.raises(LedgerError, match="chmod 600"):
        it.record(SAMPLES[2])


def test_trust_grows_by_what_is_well_formed_only(it: Remembrancer, place: Place) -> None:
    it.record(SAMPLES[1])
    for _ in range(2):
        trust_also(place, "gpg " + "AB" * 20)
    assert place.trust.read_text().count("gpg ") == 1
    with pytest.raises(LedgerError):
        trust_also(place, "gpg nonsense")
    assert it.trust.gpg == {"AB" * 20}


def test_who_trusts_a_gpg_key_only_takes_the_logs_key_from_beside_it(it: Remembrancer, place: Place) -> None:
    fill(it)
    shutil.rmtree(place.keys)
    trust_also(place, "gpg " + "AB" * 20)
    with again(place) as stranger:
        assert stranger.trust.gpg == {"AB" * 20}
        assert "proves nothing" in stranger.show(stranger.at(0)).trusted


def test_the_salt_is_made_once_for_its_owner_alone(place: Place) -> None:
    first = load_salt(place)
    assert load_salt(place) == first
    assert len(first) == 32
    assert stat.S_IMODE(place.salt.stat().st_mode) == 0o600
    place.salt.write_bytes(b"short")
    with pytest.raises(LedgerError, match="restore it"):
        load_salt(place)


def test_places_of_logs(tmp_path: Path) -> None:
    local = Place.of("logs/mine", tmp_path)
    assert (local.keys, local.index) == (Path("logs/mine.keys"), "logs/mine.index.db")
    remote = Place.of("s3://bucket/mine", tmp_path, index="postgresql://db/x")
    assert (remote.keys.parent, remote.keys.suffix, remote.index) == (tmp_path, ".keys", "postgresql://db/x")
    others = [Place.of(url, tmp_path).keys for url in ("s3://bucket/other", str(tmp_path / "ledger"))]
    assert len({remote.keys, *others}) == 3
    assert Place.of("file:///logs/mine", tmp_path).keys == Path("/logs/mine.keys")


# Pruning.


def test_what_was_pruned_says_so_and_everything_else_stays_provable(it: Remembrancer, place: Place) -> None:
    receipts = [Incident(at=at(n), component="c", note=f"number{n}") for n in range(300)]
    it.record(receipts[0])
    with it.open_log() as log:
        log.append([leaf_of(receipt) for receipt in receipts[1:]])
    gone, kept = it.at(7), it.at(260)
    assert it.find(parse_query("number7", T0), 5) == [gone]
    with it.open_log() as log:
        prune(log, leaf_of(Pruning(at=at(400), component="ledger", until=256)))

    for later in (it, again(place)):
        later.__dict__.pop("view", None)
        again_index = again(place)
        assert again_index.find(parse_query("number7", T0), 5) == []
        entry = later.get(gone.id)
        assert (entry.data, entry.receipt, entry.hash) == (None, None, gone.hash)
        assert later.show(entry).proof.leaf_hash == gone.hash
        assert later.get(kept.id) == kept
        again_index.close()
        later.close()


# What was got beyond the log's own key.


def test_proofs_are_kept_by_what_they_are_about(it: Remembrancer, place: Place) -> None:
    fill(it)
    store = open_store(place.url)
    proofs = Proofs(store)
    assert not proofs.of_artifact(b"\xab" * 32)
    proofs.keep_signature(b"\xab" * 32, b"one", b"key")
    proofs.keep_signature(b"\xab" * 32, b"two", b"key")
    proofs.keep_stamp(b"\xab" * 32, b"stamp")
    assert proofs.of_artifact(b"\xab" * 32).signatures == ((b"one", b"key"), (b"two", b"key"))
    assert proofs.of_artifact(b"\xab" * 32).stamps == (b"stamp",)
    assert not proofs.of_artifact(b"\xcd" * 32)


def test_two_processes_at_once_keep_what_both_have_got(it: Remembrancer, place: Place) -> None:
    fill(it)
    (place.keys / "note").write_bytes(it.view.checkpoint())
    code = (
        "import sys; from pathlib import Path; from amaru.ledger.proofs import Proofs\n"
        "from amaru.ledger.tile_store import open_store\n"
        "who, url, note = sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(16):\n"
        "    Proofs(open_store(url)).keep_stamp(note, f'{who} {n}'.encode(), checkpoint=True)\n"
        "    Proofs(open_store(url)).keep_signature(note, f'{who} {n}'.encode(), b'key', checkpoint=True)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, who, place.url, str(place.keys / "note")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for who in ("one", "other")
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.communicate("go\n", timeout=300)
        assert process.returncode == 0
    pieces = Proofs(open_store(place.url)).of_checkpoint(it.view.checkpoint())
    every = {f"{who} {n}".encode() for who in ("one", "other") for n in range(16)}
    assert set(pieces.stamps) == {signature for signature, _ in pieces.signatures} == every
    assert len(pieces.stamps) == len(pieces.signatures) == 32


def test_what_another_keeps_between_the_look_and_the_writing_is_not_written_over(
    it: Remembrancer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(it)
    store, digest = open_store(place.url), b"\xab" * 32
    names = store.names

    def late(folder: str) -> list[str]:
        before = names(folder)
        Proofs(open_store(place.url)).keep_stamp(digest, b"another's")
        return before

    with monkeypatch.context() as patch:
        patch.setattr(store, "names", late)
        Proofs(store).keep_stamp(digest, b"ours")
    assert sorted(Proofs(store).of_artifact(digest).stamps) == [b"another's", b"ours"]


def test_the_smallest_checkpoint_over_an_entry_with_a_proof_is_found(it: Remembrancer, place: Place) -> None:
    notes = []
    proofs = Proofs(open_store(place.url))
    for receipt in SAMPLES:
        it.record(receipt)
        notes.append(it.view.checkpoint())
    assert proofs.first_over(1) is None
    assert proofs.latest() is None
    for size in (2, 5):
        proofs.keep_stamp(notes[size - 1], b"stamp", checkpoint=True)
    assert [proofs.first_over(size) for size in (1, 2, 3, 5)] == [notes[1], notes[1], notes[4], notes[4]]
    assert proofs.first_over(6) is None
    assert proofs.latest() == notes[4]
    assert proofs.of_checkpoint(notes[4]).stamps == (b"stamp",)
    assert not proofs.of_checkpoint(notes[3])


# Files.


def test_evidence_is_name_digest_and_size_alone(tmp_path: Path) -> None:
    file = tmp_path / "report.pdf"
    file.write_bytes(b"abc")
    evidence = evidence_of(file)
    assert evidence.name == "report.pdf"
    assert evidence.digest == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert evidence.size == 3
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(LedgerError, match="cannot be read"):
            evidence_of(wrong)


def test_adrs_are_numbered_after_files_and_log(tmp_path: Path) -> None:
    folder = tmp_path / "adr"
    assert next_number(folder, []) == 1
    assert next_number(folder, ["ADR-0007", "d-99", ""]) == 8
    path = write_adr(folder, 8, "Größe: Store / the log?", date="2026-11-21", status="proposed", context="")
    assert path.name == "0008-grosse-store-the-log.md"
    assert next_number(folder, []) == 9
    assert read_adr(path) == ("ADR-0008", "Größe: Store / the log?", "proposed")
    with pytest.raises(LedgerError, match="already"):
        write_adr(folder, 8, "Größe: Store / the log?", date="2026-11-21", status="proposed", context="")


def test_an_adr_of_another_hand_is_read_as_well(tmp_path: Path) -> None:
    file = tmp_path / "0012-use-tiles.md"
    file.write_text("# Use tiles\n\n* **Status:** Accepted\n")
    assert read_adr(file) == ("ADR-0012", "Use tiles", "accepted")
    file.write_text("no heading")
    with pytest.raises(LedgerError, match="heading"):
        read_adr(file)


def test_the_key_is_not_made_where_two_begin_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the key between our look and our making."""
    real = places.make_key

    def late(path: Path, name: str) -> NoteSigner:
        real(path, "theirs")
        return real(path, name)

    monkeypatch.setattr(places, "make_key", late)
    assert places.found(place) is None
    assert load_signers(place.signing_key)[0].name == "theirs"


def test_a_name_that_no_log_can_have_makes_nothing(place: Place) -> None:
    with pytest.raises(LedgerError, match="cannot name a key"):
        places.found(place, "two words")
    assert not place.keys.exists()


def test_a_discovery_of_another_file_name(it: Remembrancer, tmp_path: Path) -> None:
    file = tmp_path / "app.tar"
    file.write_bytes(b"one")
    it.record(Discovery(at=at(), component="c", evidence=(evidence_of(file),)))
    file.write_bytes(b"two")
    assert it.of_file(evidence_of(file).digest) == []
    ((entry, evidence),) = it.of_name("app.tar")
    assert (entry.leaf, evidence.size) == (0, 3)
    assert msgspec.structs.asdict(evidence)["digest"] != evidence_of(file).digest


def test_closing_twice_is_fine(place: Place) -> None:
    one = again(place)
    with closing(one):
        one.record(SAMPLES[1])
        one.find(Search(), 1)
    one.close()
