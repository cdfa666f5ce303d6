"""in-toto Statements in DSSE envelopes, against the vectors that DSSE publishes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import LedgerError, ProofError
from amaru.ledger.attestation import (
    DEPLOYMENT_TYPE,
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    STATEMENT_TYPE,
    Deployment,
    Resource,
    deployment_statement,
    keyid_of,
    pae,
    read_statement,
    sign_envelope,
    verify_attestation,
    verify_envelope,
)
from amaru.ledger.canonical import canonical, require_canonical
from amaru.ledger.notes import NoteSigner, NoteVerifier

VECTORS = json.loads(Path(__file__).with_name("dsse_vectors.json").read_text("utf-8"))
DIGEST = "5f" * 32
ALICE, BOB, MALLORY = (NoteSigner(name, bytes([number]) * 32) for number, name in enumerate(("alice", "bob", "alice")))

# From the specification of in-toto's Statement and ResourceDescriptor: fields that a consumer must ignore included.
STATEMENT_OF_OTHERS = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [
        {
            "name": "curl-7.72.0.tar.bz2",
            "digest": {"sha256": "ad91970864102a59765e20ce16216efc9d6ad381471f7accceceab7d905703ef"},
            "annotations": {"twoPartyReview": False},
        }
    ],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {"buildDefinition": {"buildType": "https://example.com/Makefile"}},
    "extension": 1,
}


def statement() -> bytes:
    deployment = Deployment(
        component="gateway",
        version="1.4.2",
        environment="production",
        deployed_at="2026-11-21T16:20:00.000000Z",
        evidence=(Resource(name="change.md", digest={"sha256": "ab" * 32}),),
    )
    return deployment_statement([Resource(name="registry.example/gateway", digest={"sha256": DIGEST})], deployment)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: str(vector["id"]))
def test_the_published_vectors(vector: dict[str, Any]) -> None:
    keys = {name: NoteVerifier(name, bytes.fromhex(key["public"])) for name, key in VECTORS["keys"].items()}

    def verify() -> bytes:
        return verify_envelope(
            json.dumps(vector["envelope"]).encode(),
            [keys[name] for name in vector["trustedKeys"]],
            payload_types=vector["supportedPayloadTypes"],
            threshold=vector["threshold"],
        ).payload

    if vector["expect"] == "accept":
        payload = verify()
        assert pae(vector["envelope"]["payloadType"], payload).hex() == vector["pae"]
    else:
        with pytest.raises(ProofError):
            verify()


def test_envelopes_are_those_of_the_published_vectors() -> None:
    vector = VECTORS["vectors"][0]
    signer = NoteSigner("A", bytes.fromhex(VECTORS["keys"]["A"]["seed"]))
    payload = base64.b64decode(vector["envelope"]["payload"])
    made = sign_envelope(payload, [signer])
    assert made["payload"] == vector["envelope"]["payload"]
    assert made["payloadType"] == vector["envelope"]["payloadType"]
    assert made["signatures"][0]["sig"] == vector["envelope"]["signatures"][0]["sig"]


def test_the_protocols_own_example_verifies_over_our_encoding() -> None:
    """``protocol.md``: ECDSA over P-256, which signs the same encoding."""
    encoded = pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    signature = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    key.verify(encode_dss_signature(r, s), encoded, ec.ECDSA(hashes.SHA256()))  # raises where it does not hold


@given(type=st.text(st.characters(exclude_categories=["Cs"])), payload=st.binary())
def test_the_encoding_can_be_taken_apart_in_one_way_only(type: str, payload: bytes) -> None:
    rest = pae(type, payload)
    assert rest[:7] == b"DSSEv1 "
    length, _, rest = rest[7:].partition(b" ")
    assert rest[: int(length)].decode() == type
    length, _, rest = rest[int(length) + 1 :].partition(b" ")
    assert int(length) == len(payload)
    assert rest == payload


def test_a_deployment_is_attested() -> None:
    payload = statement()
    require_canonical(payload)
    envelope = sign_envelope(payload, [ALICE])
    assert envelope["signatures"][0]["keyid"] == keyid_of(ALICE.verifier)
    for form in (envelope, canonical(envelope), json.dumps(envelope, indent=2).encode()):
        read = verify_attestation(form, [BOB.verifier, ALICE.verifier], sha256=DIGEST)
        assert (read.type, read.predicate_type) == (STATEMENT_TYPE, DEPLOYMENT_TYPE)
        assert msgspec.convert(read.predicate, Deployment).version == "1.4.2"
    assert json.loads(payload)["predicate"] == {
        "component": "gateway",
        "version": "1.4.2",
        "environment": "production",
        "deployedAt": "2026-11-21T16:20:00.000000Z",
        "evidence": [{"name": "change.md", "digest": {"sha256": "ab" * 32}}],
    }


def test_statements_of_others_are_read_and_what_is_unknown_is_passed_over() -> None:
    read = read_statement(json.dumps(STATEMENT_OF_OTHERS).encode())
    assert read.subject[0].name == "curl-7.72.0.tar.bz2"
    without_predicate = {**STATEMENT_OF_OTHERS}
    del without_predicate["predicate"]
    assert read_statement(json.dumps(without_predicate).encode()).predicate == {}


def test_a_wrong_key_is_named_whatever_the_keyid_claims() -> None:
    envelope = sign_envelope(statement(), [MALLORY])
    envelope["signatures"][0]["keyid"] = keyid_of(ALICE.verifier)
    with pytest.raises(
        ProofError, match=rf"of the known keys \(alice\+{ALICE.verifier.key_id.hex()}\) none signed this"
    ):
        verify_attestation(envelope, [ALICE.verifier])
    with pytest.raises(ProofError, match="known keys \\(none\\)"):
        verify_attestation(envelope, [])


def test_a_wrong_keyid_hinders_nobody() -> None:
    envelope = sign_envelope(statement(), [ALICE])
    for keyid in ("", None, "nonsense", keyid_of(BOB.verifier)):
        envelope["signatures"][0]["keyid"] = keyid
        assert verify_attestation(envelope, [BOB.verifier, ALICE.verifier])
    del envelope["signatures"][0]["keyid"]
    assert verify_attestation(envelope, [ALICE.verifier])


def test_one_key_under_two_names_is_one_signer() -> None:
    envelope = sign_envelope(statement(), [ALICE])
    twice = [ALICE.verifier, NoteVerifier("another", ALICE.verifier.public_key)]
    with pytest.raises(ProofError, match="1 of the 2 wanted signed this"):
        verify_envelope(envelope, twice, threshold=2)
    assert (
        len(
            verify_envelope(
                sign_envelope(statement(), [ALICE, BOB]), [ALICE.verifier, BOB.verifier], threshold=2
            ).signers
        )
        == 2
    )


def test_another_artifact_is_named() -> None:
    envelope = sign_envelope(statement(), [ALICE])
    with pytest.raises(ProofError, match=f"about other artifacts \\(sha256 {DIGEST}\\), not {'00' * 32}"):
        verify_attestation(envelope, [ALICE.verifier], sha256="00" * 32)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "no in-toto Statement"),
        (b"[]", "no in-toto Statement"),
        (b"\xff", "no in-toto Statement"),
        (b"[" * 100_000, "no in-toto Statement"),
        (canonical({**STATEMENT_OF_OTHERS, "_type": "https://in-toto.io/Statement/v0.1"}), "a statement of type"),
        (canonical({**STATEMENT_OF_OTHERS, "subject": []}), "about nothing"),
        (canonical({**STATEMENT_OF_OTHERS, "subject": [{"name": "x"}]}), "about nothing"),
    ],
)
def test_a_signed_payload_that_is_no_statement_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(ProofError, match=why):
        verify_attestation(sign_envelope(payload, [ALICE]), [ALICE.verifier])


def test_another_payload_type_is_refused() -> None:
    envelope = sign_envelope(statement(), [ALICE], payload_type="application/json")
    with pytest.raises(ProofError, match=f"of type 'application/json', not {PAYLOAD_TYPE.replace('+', '.')}"):
        verify_attestation(envelope, [ALICE.verifier])


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"payload":"","payloadType":"x"}',
        b'{"payload":"!","payloadType":"x","signatures":[]}',
        b'{"payload":"","payloadType":"x","signatures":[{"sig":"?"}]}',
        b'{"payload":"","payloadType":"x","signatures":' + json.dumps([{"sig": ""}] * 65).encode() + b"}",
        b'{"payload":"\\ud800","payloadType":"\\ud800","signatures":[]}', b" " * (MAX_ENVELOPE_BYTES + 1),
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(text: bytes) -> None:
    with pytest.raises(ProofError, match="attestation: "):
        verify_attestation(text, [ALICE.verifier])


@given(place=st.integers(0), char=st.sampled_from('AZaz09+/-_= \n"{}[]:,é'))
def test_no_changed_envelope_says_anything_else(place: int, char: str) -> None:
    text = json.dumps(sign_envelope(statement(), [ALICE]))
    at = place % len(text)
    try:
        verified = verify_envelope((text[:at] + char + text[at + 1 :]).encode(), [ALICE.verifier])
    except ProofError:
        return
    assert (verified.payload, verified.payload_type) == (statement(), PAYLOAD_TYPE)


@pytest.mark.parametrize("digest", [{}, {"sha1": "ab" * 20}, {"sha256": "ab"}, {"sha256": "AB" * 32}])
def test_a_subject_needs_its_sha256(digest: dict[str, str]) -> None:
    deployment = Deployment(component="gateway", deployed_at="2026-11-21T16:20:00.000000Z")
    with pytest.raises(LedgerError, match="needs the SHA-256"):
        deployment_statement([Resource(name="x", digest=digest)], deployment)
    with pytest.raises(LedgerError, match="needs a subject"):
        deployment_statement([], deployment)
    with pytest.raises(LedgerError, match="needs a signing key"):
        sign_envelope(b"", [])
