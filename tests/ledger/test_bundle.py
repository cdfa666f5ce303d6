"""Proof bundles: what they prove, to whom, and each way to cheat with one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from authority import Authority, needs_openssl
from bundle_world import ARTIFACT, INDEX, ORIGIN, World, deployment, other_leaf
from gpg_home import needs_gpg

from amaru.errors import LedgerError, ProofError
from amaru.ledger.bundle import (
    Contents,
    Finding,
    Report,
    Required,
    Signature,
    Stamp,
    Trust,
    Verdict,
    export_proof,
    prove,
    verify_proof,
)
from amaru.ledger.bundle_contents import MAX_BUNDLE_BYTES, MAX_PIECES
from amaru.ledger.canonical import canonical
from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.notes import NoteSigner
from amaru.ledger.tlog_proof import TlogProof, parse_tlog_proof

pytestmark = [needs_gpg, needs_openssl]

NOW = datetime.now(UTC)


def changed(contents: Contents, **pieces: object) -> bytes:
    """The bundle with other pieces, packed as amaru packs it; whether they fit or not."""
    return msgspec.structs.replace(contents, **pieces).pack()


def by_piece(report: Report) -> dict[str, Finding]:
    return {finding.piece: finding for finding in report.findings}


def failure(bundle: bytes, piece: str, trust: Trust = Trust(), **more: object) -> str:  # noqa: B008 -- frozen
    """Verify, see that ``piece`` fails and no other piece does; its words."""
    report = verify_proof(bundle, trust, now=NOW, **more)  # type: ignore[arg-type]  # what a test says
    assert not report.ok
    assert [finding.piece for finding in report.failures] == [piece], report.findings
    return report.failures[0].words


# ---- what a bundle proves -------------------------------------------------------------------------------------------


def test_all_pieces_hold_for_who_trusts_their_keys(made: World, bundle: bytes, trust: Trust) -> None:
    report = verify_proof(bundle, trust, now=NOW, artifact=made.artifact)
    assert report.ok
    assert report.trusted
    found = by_piece(report)
    assert {finding.verdict for finding in found.values()} == {Verdict.HOLDS}
    assert set(found) == {
        *("entry", "inclusion", "checkpoint", "artifact", "attestation.json"),
        *("signatures/checkpoint.1.asc", "signatures/artifact.2.asc"),
        *("timestamps/checkpoint.1.tsr", "timestamps/entry.2.tsr", "timestamps/artifact.3.tsr"),
    }
    by_trust = {piece for piece, finding in found.items() if finding.trusted}
    assert by_trust == set(found) - {"entry", "inclusion", "artifact"}
    assert found["inclusion"].words == f"number {INDEX} of the 300 entries of {ORIGIN}"
    assert "which you trust" in found["checkpoint"].words
    assert f"Alice <alice@example.org> (key {made.alice})" in found["signatures/checkpoint.1.asc"].words
    assert "says CN=throw-away time-stamping" in found["timestamps/artifact.3.tsr"].words
    assert (report.entry, report.index, report.leaf) == (made.entry, INDEX, leaf_hash(made.entry))
    assert report.checkpoint == made.log.head


def test_without_trust_it_holds_and_says_what_to_compare(bundle: bytes) -> None:
    report = verify_proof(bundle, now=NOW)
    found = by_piece(report)
    assert report.ok
    assert not report.trusted
    assert not any(finding.trusted for finding in found.values())
    assert "a key that came in the bundle: compare it" in found["checkpoint"].words
    assert "the key came in the bundle: compare its fingerprint" in found["signatures/checkpoint.1.asc"].words
    assert "its roots came in the bundle" in found["timestamps/checkpoint.1.tsr"].words
    assert found["signatures/artifact.2.asc"].verdict is Verdict.UNCHECKED  # the artifact is not at hand
    assert found["timestamps/artifact.3.tsr"].verdict is Verdict.HOLDS  # its digest is in the receipt


def test_the_same_pieces_make_the_same_bytes(bundle: bytes, contents: Contents) -> None:
    assert export_proof(contents) == bundle


def test_an_older_checkpoint_can_be_the_one_that_proves(made: World, tmp_path: Path) -> None:
    with Log.open(str(tmp_path / "ledger"), [made.signer]) as log:
        log.append([made.entry])
        anchored = log.checkpoint()
        log.append([other_leaf(number) for number in range(9)])
        pieces = Contents(entry=made.entry, proof=prove(log, 0, anchored), verifiers=(made.signer.verifier,))
        assert parse_tlog_proof(pieces.proof).checkpoint == anchored
        assert verify_proof(export_proof(pieces), now=NOW).checkpoint.size == 1
        assert (
            verify_proof(export_proof(msgspec.structs.replace(pieces, proof=prove(log, 0))), now=NOW).checkpoint.size
            == 10
        )
        with pytest.raises(ProofError):
            prove(log, 5, anchored)


def test_a_bare_bundle_holds_as_well(made: World) -> None:
    pieces = Contents(entry=other_leaf(5), proof=prove(made.log, 5), verifiers=(made.signer.verifier,))
    report = verify_proof(export_proof(pieces), now=NOW)
    assert [finding.piece for finding in report.findings] == ["entry", "inclusion", "checkpoint"]
    assert report.ok


ALL = frozenset(Required)


def test_what_is_required_must_be_there_and_hold_by_whom_the_verifier_trusts(
    made: World, contents: Contents, bundle: bytes, trust: Trust
) -> None:
    assert verify_proof(bundle, trust, now=NOW, artifact=made.artifact, required=ALL).sure
    bare = Contents(entry=other_leaf(5), proof=prove(made.log, 5), verifiers=contents.verifiers)
    report = verify_proof(export_proof(bare), trust, now=NOW, required=ALL)
    assert {(one.piece, one.words) for one in report.failures} == {
        ("attestation", "required: no attestation is there"),
        ("signatures", "required: no signature is there"),
        ("timestamps", "required: no timestamp is there"),
    }
    assert verify_proof(export_proof(bare), trust, now=NOW).sure  # what nobody asked for may be missing


@pytest.mark.parametrize(
    ("kind", "piece"), [(Required.SIGNATURE, "signatures"), (Required.TIMESTAMP, "timestamps")], ids=str
)
def test_a_bundle_that_was_stripped_of_it_fails(contents: Contents, trust: Trust, kind: Required, piece: str) -> None:
    stripped = changed(contents, **{piece: ()})
    assert verify_proof(stripped, trust, now=NOW).ok
    assert failure(stripped, piece, trust, required={kind}) == f"required: no {kind.value} is there"


@pytest.mark.parametrize("kind", list(Required), ids=str)
def test_what_only_the_bundle_vouches_for_is_not_what_is_required(bundle: bytes, kind: Required) -> None:
    """Whoever strips a bundle of its time-stamp can put in another, with certificates of their own making."""
    report = verify_proof(bundle, now=NOW, required={kind})
    (failed,) = report.failures
    assert failed.words.startswith("required: to hold, it takes a")


def test_it_is_sure_only_by_keys_that_the_verifier_trusts(made: World, bundle: bytes, trust: Trust) -> None:
    assert verify_proof(bundle, trust, now=NOW, artifact=made.artifact).sure
    log_only = Trust(verifiers=trust.verifiers)
    report = verify_proof(bundle, log_only, now=NOW, artifact=made.artifact)
    assert {one.verdict for one in report.findings} == {Verdict.HOLDS}
    assert not report.sure  # a signature and a time-stamp by whomever came in the bundle


def test_what_nobody_could_verify_is_not_exported(made: World, contents: Contents) -> None:
    stranger = NoteSigner(ORIGIN, bytes(32)).verifier
    with pytest.raises(ProofError, match="wrong key"):
        export_proof(msgspec.structs.replace(contents, verifiers=(stranger,)))
    with pytest.raises(ProofError):
        export_proof(msgspec.structs.replace(contents, entry=other_leaf(0)))
    many = (contents.signatures[0],) * (MAX_PIECES + 1)
    with pytest.raises(LedgerError, match="up to 16 signatures"):
        export_proof(msgspec.structs.replace(contents, signatures=many))
    keys = tuple(NoteSigner(ORIGIN, bytes([number]) * 32).verifier for number in range(64))
    with pytest.raises(LedgerError, match="1 to 64 keys of its log, not 65"):
        export_proof(msgspec.structs.replace(contents, verifiers=(*contents.verifiers, *keys)))
    with pytest.raises(LedgerError, match="more than 8,388,608"):
        export_proof(msgspec.structs.replace(contents, certificates=bytes(MAX_BUNDLE_BYTES)))


def test_a_rotated_key_is_one_of_several(made: World, tmp_path: Path) -> None:
    old, new = made.signer, NoteSigner(ORIGIN, bytes(32))
    with Log.open(str(tmp_path / "ledger"), [old, new]) as log:
        log.append([made.entry])
        pieces = Contents(entry=made.entry, proof=prove(log, 0), verifiers=(old.verifier, new.verifier))
        for key in (old, new):
            assert verify_proof(export_proof(pieces), Trust(verifiers=(key.verifier,)), now=NOW).trusted


# ---- ways to cheat --------------------------------------------------------------------------------------------------


def test_an_edited_entry(contents: Contents) -> None:
    entry = contents.entry.replace(b"slowly", b"fast")
    bare = msgspec.structs.replace(contents, timestamps=())
    assert "inclusion" in failure(changed(bare, entry=entry), "inclusion")
    report = verify_proof(changed(contents, entry=entry), now=NOW)
    assert {one.piece for one in report.failures} == {"inclusion", "timestamps/entry.2.tsr"}


def test_another_entry_of_the_same_log(made: World, contents: Contents) -> None:
    bare = msgspec.structs.replace(contents, signatures=(), timestamps=())
    assert "inclusion" in failure(changed(bare, entry=other_leaf(7)), "inclusion")


def test_a_proof_for_another_place_or_another_size(made: World, contents: Contents) -> None:
    proof = parse_tlog_proof(contents.proof)
    elsewhere = TlogProof(INDEX - 1, proof.path, proof.checkpoint).encode()
    beyond = TlogProof(300, proof.path, proof.checkpoint).encode()
    smaller = TlogProof(INDEX, made.log.inclusion(INDEX, 200).path, proof.checkpoint).encode()
    for wrong in (elsewhere, smaller):
        assert "inclusion" in failure(changed(contents, proof=wrong), "inclusion")
    assert "does not stand in a tree of 300 leaves" in failure(changed(contents, proof=beyond), "inclusion")


def test_a_forged_checkpoint(made: World, contents: Contents) -> None:
    proof = parse_tlog_proof(contents.proof)
    forged = proof.checkpoint.replace(b"\n300\n", b"\n299\n")
    report = verify_proof(changed(contents, proof=TlogProof(INDEX, proof.path, forged).encode()), now=NOW)
    found = by_piece(report)
    assert "does not hold — forged or altered" in found["checkpoint"].words
    assert {one.piece for one in report.failures} >= {
        "checkpoint",
        "signatures/checkpoint.1.asc",
        "timestamps/checkpoint.1.tsr",
    }


def test_a_whole_log_of_another_key(made: World, trust: Trust, tmp_path: Path) -> None:
    """Everything in it fits together; only who knows the true key can tell."""
    impostor = NoteSigner(ORIGIN, b"\x66" * 32)
    with Log.open(str(tmp_path / "ledger"), [impostor]) as log:
        entry = deployment(impostor)
        log.append([entry])
        forged = export_proof(Contents(entry=entry, proof=prove(log, 0), verifiers=(impostor.verifier,)))
    assert verify_proof(forged, now=NOW).ok
    report = verify_proof(forged, trust, now=NOW)
    assert {one.piece for one in report.failures} == {"checkpoint", "attestation.json"}
    assert not report.trusted
    assert "no key known here" in by_piece(report)["checkpoint"].words


def test_a_swapped_time_stamp_is_named(made: World, contents: Contents) -> None:
    checkpoint, entry, artifact = contents.timestamps
    swapped = changed(contents, timestamps=(Stamp("checkpoint", entry.response), entry, artifact))
    assert "is for other data, so it was swapped" in failure(swapped, "timestamps/checkpoint.1.tsr")
    swapped = changed(contents, timestamps=(checkpoint, entry, Stamp("artifact", entry.response)))
    assert "is for other data, so it was swapped" in failure(swapped, "timestamps/artifact.3.tsr")


def test_a_time_stamp_of_another_authority(made: World, contents: Contents, trust: Trust, tmp_path: Path) -> None:
    own = Authority(tmp_path / "own", name="homemade")
    forged = changed(
        contents,
        timestamps=(Stamp("checkpoint", own.stamp(made.log.checkpoint())),),
        certificates=own.roots.read_bytes(),
    )
    assert verify_proof(forged, now=NOW).ok  # who trusts nothing learns only what to compare
    report = verify_proof(forged, trust, now=NOW)
    assert by_piece(report)["timestamps/checkpoint.1.tsr"].verdict is Verdict.UNTRUSTED
    assert [one.words for one in report.failures] == ["none holds by an authority that you trust"]
    both = changed(contents, timestamps=(*contents.timestamps, Stamp("checkpoint", own.stamp(made.log.checkpoint()))))
    assert failure(both, "timestamps/checkpoint.4.tsr", trust)  # its roots are not even in the bundle
    both = changed(
        contents,
        timestamps=(*contents.timestamps, Stamp("checkpoint", own.stamp(made.log.checkpoint()))),
        certificates=contents.certificates + own.roots.read_bytes(),
    )
    assert verify_proof(both, trust, now=NOW).ok


def test_an_expired_authority_holds_as_of_the_stamp(bundle: bytes) -> None:
    later = NOW + timedelta(days=365)
    report = verify_proof(bundle, now=later)
    assert len(report.failures) == 3
    assert all("had expired by" in one.words for one in report.failures)
    assert verify_proof(bundle, now=later, as_of_stamp=True).ok


def test_time_stamps_without_roots_are_not_checked(contents: Contents, trust: Trust) -> None:
    bare = changed(contents, certificates=b"")
    found = by_piece(verify_proof(bare, now=NOW))
    assert found["timestamps/checkpoint.1.tsr"].verdict is Verdict.UNCHECKED
    assert by_piece(verify_proof(bare, trust, now=NOW))["timestamps/checkpoint.1.tsr"].trusted


def test_a_time_stamp_over_something_else_is_seen_without_roots_too(contents: Contents) -> None:
    _, entry, artifact = contents.timestamps
    swapped = changed(contents, timestamps=(Stamp("checkpoint", entry.response), entry, artifact), certificates=b"")
    assert "is for other data, so it was swapped" in failure(swapped, "timestamps/checkpoint.1.tsr")
    junk = changed(contents, timestamps=(Stamp("checkpoint", b"junk"), entry, artifact), certificates=b"")
    assert "no time-stamp response" in failure(junk, "timestamps/checkpoint.1.tsr")


def test_a_swapped_signature(made: World, contents: Contents) -> None:
    artifact = contents.signatures[1]
    swapped = (Signature("checkpoint", artifact.signature, artifact.public_key), artifact)
    assert "is not over these bytes" in failure(changed(contents, signatures=swapped), "signatures/checkpoint.1.asc")


def test_a_signature_by_another_key(made: World, contents: Contents, trust: Trust) -> None:
    by_bob = changed(contents, signatures=(made.signed("checkpoint", made.bob),))
    assert verify_proof(by_bob, now=NOW).ok
    report = verify_proof(by_bob, trust, now=NOW)
    assert by_piece(report)["signatures/checkpoint.1.asc"].verdict is Verdict.UNTRUSTED
    assert [one.words for one in report.failures] == ["none holds by a GPG key that you trust"]
    both = (made.signed("checkpoint"), made.signed("checkpoint", made.bob))
    assert verify_proof(changed(contents, signatures=both), trust, now=NOW).ok
    mixed = (Signature("checkpoint", both[0].signature, both[1].public_key),)
    assert "which gpg does not have" in failure(changed(contents, signatures=mixed), "signatures/checkpoint.1.asc")


def test_where_gpg_is_missing_the_rest_is_still_checked(bundle: bytes) -> None:
    found = by_piece(verify_proof(bundle, now=NOW, gpg_program="gpg-that-is-not-there"))
    assert found["signatures/checkpoint.1.asc"].verdict is Verdict.UNCHECKED
    assert "install GnuPG" in found["signatures/checkpoint.1.asc"].words
    assert found["timestamps/checkpoint.1.tsr"].verdict is Verdict.HOLDS


def test_another_artifact(made: World, contents: Contents, bundle: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(ARTIFACT + b"\x00")
    report = verify_proof(bundle, now=NOW, artifact=other)
    found = by_piece(report)
    assert "other.bin is not what the receipt is about: its SHA-256 is " in found["artifact"].words
    assert {one.piece for one in report.failures} == {
        "artifact",
        "signatures/artifact.2.asc",
        "timestamps/artifact.3.tsr",
    }
    bare = Contents(entry=other_leaf(5), proof=prove(made.log, 5), verifiers=contents.verifiers)
    assert "names no digest" in failure(export_proof(bare), "artifact", artifact=made.artifact)
    assert "cannot be read" in failure(export_proof(bare), "artifact", artifact=tmp_path / "gone.bin")


@pytest.mark.parametrize("entry", [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1.0}', b'{"a":1,"a":1}', b"\xff", b"", b"[1]"])
def test_an_entry_that_is_not_canonical(made: World, tmp_path: Path, entry: bytes) -> None:
    with Log.open(str(tmp_path / "ledger"), [made.signer]) as log:
        log.append([entry or b" "])
        logged = export_proof(Contents(entry=entry or b" ", proof=prove(log, 0), verifiers=(made.signer.verifier,)))
    report = verify_proof(logged, now=NOW)
    assert [one.piece for one in report.failures] == ([] if entry == b"[1]" else ["entry"])


def test_an_attestation_about_something_else(made: World, tmp_path: Path) -> None:
    document = msgspec.json.decode(made.entry)
    cases = [
        ({**document, "digest": "sha256:" + "00" * 32}, "about other artifacts"),
        ({**document, "envelope": {**document["envelope"], "payloadType": "text/plain"}}, "none signed this"),
        ({**document, "envelope": {}}, "no DSSE envelope"),
    ]
    for number, (changed_document, words) in enumerate(cases):
        with Log.open(str(tmp_path / str(number)), [made.signer]) as log:
            entry = canonical(changed_document)
            log.append([entry])
            bundle = export_proof(Contents(entry=entry, proof=prove(log, 0), verifiers=(made.signer.verifier,)))
        assert words in failure(bundle, "attestation.json")
