"""RFC 3161: asked of a real authority over HTTP, verified offline with the verdicts of ``openssl ts -verify``."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc3161_client
from authority import POLICY, Authority, needs_openssl, openssl, openssl_accepts, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.errors import LedgerError, ProofError
from amaru.ledger import timestamps
from amaru.ledger.der import signing_certificate_hash, with_sorted_certificates
from amaru.ledger.timestamps import Sha256, parse_roots, read_roots, read_timestamp, request_for, verify_timestamp
from amaru.ledger.troubles import AnchorError, Trouble

pytestmark = needs_openssl

DATA = b"example.org/log\n3\nmZ0...\n"
NOW = datetime.now(UTC)
A_DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with serving(Authority(tmp_path_factory.mktemp("tsa"))) as authority:
        yield authority


@pytest.fixture(scope="module")
def other_tsa(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), name="another")


@pytest.fixture(scope="module")
def token(tsa: Authority) -> bytes:
    return tsa.stamp(DATA)


@pytest.fixture(autouse=True)
def _well_behaved(tsa: Authority) -> None:
    tsa.answer = None


def asking(tsa: Authority, **more: object) -> timestamps.Authority:
    return timestamps.Authority(tsa.url, read_roots(tsa.roots), **more)  # type: ignore[arg-type]  # what a test says


def accepts(response: bytes, data: bytes, roots: Path, *, at: datetime | None) -> bool:
    try:
        verify_timestamp(response, data, read_roots(roots), at=at)
    except ProofError:
        return False
    return True


# -- asking


def test_a_stamp_is_got_over_http_and_verifies_here_and_with_openssl(tsa: Authority, tmp_path: Path) -> None:
    response = asking(tsa).stamp(DATA)
    stamp = verify_timestamp(response, DATA, read_roots(tsa.roots), at=datetime.now(UTC))
    assert openssl_accepts(response, DATA, tsa.roots, tmp_path)
    assert abs(stamp.time - datetime.now(UTC)) < timedelta(minutes=5)
    assert (stamp.hash, stamp.policy, stamp.authority) == ("sha256", POLICY, "CN=throw-away time-stamping")
    assert len(stamp.fingerprint) == 64
    assert tsa.headers[-1]["content-type"] == "application/timestamp-query"
    assert tsa.headers[-1]["accept"] == "application/timestamp-reply"


def test_a_file_or_a_digest_is_stamped_as_its_bytes_are(tsa: Authority, tmp_path: Path) -> None:
    file = tmp_path / "artifact.bin"
    file.write_bytes(b"\x00" * 3_000_000)
    response = asking(tsa).stamp(file)
    roots = read_roots(tsa.roots)
    digest = bytes.fromhex(openssl("dgst", "-sha256", "-r", file).stdout.split()[0].decode())
    for data in (file, file.read_bytes(), Sha256(digest)):
        assert verify_timestamp(response, data, roots, at=None).imprint == digest
    assert verify_timestamp(asking(tsa).stamp(Sha256(digest)), file, roots, at=None)
    with pytest.raises(LedgerError, match=r"gone.bin: cannot be read"):
        verify_timestamp(response, tmp_path / "gone.bin", roots, at=None)


@given(nonce=st.integers(0, 2**63 - 1), digest=st.binary(min_size=32, max_size=32))
def test_requests_are_der_as_the_library_reads_it(nonce: int, digest: bytes) -> None:
    read = rfc3161_client._rust.parse_timestamp_request(request_for(digest, nonce))
    assert (read.version, read.nonce, read.cert_req, read.policy) == (1, nonce, True, None)
    assert read.message_imprint.message == digest
    assert read.as_bytes() == request_for(digest, nonce)


def test_requests_are_those_of_the_library_byte_for_byte() -> None:
    made = rfc3161_client.TimestampRequestBuilder(DATA, rfc3161_client.HashAlgorithm.SHA256).build()
    assert made.nonce is not None
    assert request_for(made.message_imprint.message, made.nonce) == made.as_bytes()


def test_a_replayed_answer_is_named(tsa: Authority) -> None:
    old = asking(tsa).stamp(DATA)
    tsa.answer = lambda _: (200, old)
    with pytest.raises(AnchorError, match=r"for another request .*replayed") as caught:
        asking(tsa).stamp(DATA)
    assert caught.value.trouble is Trouble.VALIDATION


def test_an_answer_for_other_data_is_named(tsa: Authority) -> None:
    tsa.answer = lambda _: (200, tsa.stamp(b"other data"))
    with pytest.raises(AnchorError, match="for other data"):
        asking(tsa).stamp(DATA)


def test_an_authority_that_the_roots_do_not_vouch_for_is_refused(tsa: Authority, other_tsa: Authority) -> None:
    with pytest.raises(AnchorError, match="do not vouch for the authority CN=throw-away time-stamping"):
        timestamps.Authority(tsa.url, read_roots(other_tsa.roots)).stamp(DATA)
    with pytest.raises(AnchorError, match="no roots to trust"):
        timestamps.Authority(tsa.url, [])


def test_a_refusal_gives_the_authoritys_reason(tsa: Authority) -> None:
    def bad_request(request: bytes) -> tuple[int, bytes]:  # a hash of which the authority has never heard
        return 200, tsa.reply(
            request.replace(bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040204"))
        )

    tsa.answer = bad_request
    with pytest.raises(
        AnchorError, match=r"granted no time-stamp \(status 2\): Message digest algorithm is not supported"
    ):
        asking(tsa).stamp(DATA)


# -- verifying, beside openssl


def test_good_swapped_and_wrong_root(tsa: Authority, other_tsa: Authority, token: bytes, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for data, roots, verdict in (
        (DATA, tsa.roots, True),
        (DATA + b".", tsa.roots, False),
        (b"", tsa.roots, False),
        (DATA, other_tsa.roots, False),
    ):
        assert openssl_accepts(token, data, roots, tmp_path) is verdict
        assert accepts(token, data, roots, at=now) is verdict
    with pytest.raises(
        ProofError, match=r"for other data, so it was swapped or the data was changed: it is over sha256:[0-9a-f]{64}"
    ):
        verify_timestamp(token, DATA + b".", read_roots(tsa.roots), at=now)
    with pytest.raises(ProofError, match="do not vouch for the authority"):
        verify_timestamp(token, DATA, read_roots(other_tsa.roots), at=now)
    with pytest.raises(ProofError, match="no roots"):
        verify_timestamp(token, DATA, [], at=now)
    both = (*read_roots(other_tsa.roots), *read_roots(tsa.roots))
    assert verify_timestamp(token, DATA, both, at=now)


def test_roots_of_the_same_name_are_not_the_same(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    twin = Authority(tmp_path / "twin")
    assert not openssl_accepts(token, DATA, twin.roots, tmp_path)
    with pytest.raises(ProofError, match="do not vouch for the authority"):
        verify_timestamp(token, DATA, read_roots(twin.roots), at=None)


def test_an_intermediate_alone_is_no_root_as_with_openssl(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    between = tsa.folder / "intermediate.pem"
    assert not openssl_accepts(token, DATA, between, tmp_path)
    assert not accepts(token, DATA, between, at=datetime.now(UTC))


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_each_hash_that_others_may_have_asked_with(tsa: Authority, tmp_path: Path, digest: str) -> None:
    response = tsa.stamp(DATA, digest=digest)
    assert verify_timestamp(response, DATA, read_roots(tsa.roots), at=None).hash == digest
    assert not accepts(response, b"other", tsa.roots, at=None)
    if digest != "sha256":
        with pytest.raises(ProofError, match="its SHA-256 is not enough"):
            verify_timestamp(response, Sha256(bytes(32)), read_roots(tsa.roots), at=None)


def test_an_expired_chain_is_refused_now_and_holds_as_of_the_stamp(
    tsa: Authority, token: bytes, tmp_path: Path
) -> None:
    later = NOW + timedelta(days=60)
    stamp = read_timestamp(token)
    assert not openssl_accepts(token, DATA, tsa.roots, tmp_path, at=later)
    assert openssl_accepts(token, DATA, tsa.roots, tmp_path, at=stamp.time)
    with pytest.raises(ProofError, match=r"had expired by .*; it was valid at the stamp's own time"):
        verify_timestamp(token, DATA, read_roots(tsa.roots), at=later)
    assert verify_timestamp(token, DATA, read_roots(tsa.roots), at=None) == stamp


def test_a_chain_that_had_expired_when_it_stamped_never_holds(tmp_path: Path) -> None:
    late = Authority(tmp_path / "late", valid_until=NOW - A_DAY)
    response = late.stamp(DATA)
    assert not openssl_accepts(response, DATA, late.roots, tmp_path)
    for at in (None, NOW, NOW - 2 * A_DAY):
        with pytest.raises(ProofError, match="had expired when it stamped"):
            verify_timestamp(response, DATA, read_roots(late.roots), at=at)


def test_a_chain_that_was_not_yet_valid_does_not_hold(tmp_path: Path) -> None:
    early = Authority(tmp_path / "early", valid_from=NOW + A_DAY)
    response = early.stamp(DATA)
    assert not openssl_accepts(response, DATA, early.roots, tmp_path)
    with pytest.raises(ProofError, match="was not yet valid"):
        verify_timestamp(response, DATA, read_roots(early.roots), at=None)


def signed_by_hand(response: bytes, authority: Authority, folder: Path, *options: str) -> bytes:
    """The statement of ``response`` once more, signed with the authority's key as openssl's own authority would not."""
    stamped, token, info = (folder / name for name in ("stamped.tsr", "token.der", "info.der"))
    stamped.write_bytes(response)
    openssl("ts", "-reply", "-in", stamped, "-token_out", "-out", token)
    openssl("cms", "-verify", "-noverify", "-inform", "DER", "-in", token, "-binary", "-out", info)
    files = authority.folder
    made = openssl(
        *("cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-econtent_type", "1.2.840.113549.1.9.16.1.4"),
        *("-in", info, "-signer", files / "stamping.pem", "-inkey", files / "stamping.key"),
        *("-certfile", files / "intermediate.pem", "-md", "sha256", *options),
    ).stdout
    body = bytes.fromhex("3003020100") + made  # granted
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def test_a_certificate_for_other_uses_cannot_stamp(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    coding = Authority(tmp_path / "coding", stamping=False)
    with pytest.raises(subprocess.CalledProcessError):
        coding.stamp(DATA)
    forged = signed_by_hand(token, coding, tmp_path, "-cades")
    assert not openssl_accepts(forged, DATA, coding.roots, tmp_path)
    with pytest.raises(ProofError, match=r"do not vouch .*purpose|no time-stamping authority"):
        verify_timestamp(forged, DATA, read_roots(coding.roots), at=None)


def test_a_signature_must_name_its_certificate(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    by_hand = signed_by_hand(token, tsa, tmp_path, "-cades")
    assert openssl_accepts(by_hand, DATA, tsa.roots, tmp_path)
    assert verify_timestamp(by_hand, DATA, read_roots(tsa.roots), at=None)
    nameless = signed_by_hand(token, tsa, tmp_path)
    assert not openssl_accepts(nameless, DATA, tsa.roots, tmp_path)
    with pytest.raises(ProofError, match="does not name its certificate"):
        verify_timestamp(nameless, DATA, read_roots(tsa.roots), at=None)


def test_another_certificate_for_the_same_key_is_named(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    """RFC 3161 section 2.4.2: the signature names the certificate, so that none can be put in its place."""
    swapped = token.replace(tsa.certificate, tsa.twin)
    assert len(swapped) == len(token)
    assert swapped != token
    assert not openssl_accepts(swapped, DATA, tsa.roots, tmp_path)
    with pytest.raises(ProofError, match="not the one that its signature names: it was swapped"):
        verify_timestamp(swapped, DATA, read_roots(tsa.roots), at=None)


@pytest.mark.parametrize("hash", ["sha1", "sha256", "sha384", "sha512"])
def test_each_hash_by_which_a_signature_may_name_its_certificate(tmp_path: Path, hash: str) -> None:
    authority = Authority(tmp_path / hash, ess=hash)
    response = authority.stamp(DATA)
    assert openssl_accepts(response, DATA, authority.roots, tmp_path)
    named = signing_certificate_hash(response)
    assert named == (hash, hashlib.new(hash, authority.certificate).digest())
    assert verify_timestamp(response, DATA, read_roots(authority.roots), at=None)
    swapped = response.replace(authority.certificate, authority.twin)
    assert not openssl_accepts(swapped, DATA, authority.roots, tmp_path)
    with pytest.raises(ProofError, match="it was swapped"):
        verify_timestamp(swapped, DATA, read_roots(authority.roots), at=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_no_byte_can_be_changed_that_openssl_would_not_let_pass(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    passed = 0
    for place in range(len(token)):
        changed = bytearray(token)
        changed[place] ^= 1 << place % 8
        if accepts(bytes(changed), DATA, tsa.roots, at=now):
            assert openssl_accepts(bytes(changed), DATA, tsa.roots, tmp_path), f"byte {place}"
            passed += 1
    assert passed < 40  # in certificates that the chain does not need, and in the status, which nobody signs


def test_a_changed_time_or_imprint_is_named(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    stamp = read_timestamp(token)
    for old, new in (
        (f"{stamp.time:%Y%m%d%H%M%S}Z".encode(), f"{stamp.time - 365 * A_DAY:%Y%m%d%H%M%S}Z".encode()),
        (stamp.imprint, bytes(32)),
    ):
        assert token.count(old) == 1
        changed = token.replace(old, new)
        assert not openssl_accepts(changed, DATA, tsa.roots, tmp_path, at=NOW)
        with pytest.raises(ProofError, match=r"the time-stamp was changed|had|not yet valid"):
            verify_timestamp(changed, DATA, read_roots(tsa.roots), at=NOW)
    changed = token.replace(stamp.imprint, bytes(32))
    with pytest.raises(ProofError, match="the time-stamp was changed: its signature does not fit"):
        verify_timestamp(changed, DATA, read_roots(tsa.roots), at=NOW)


def test_the_order_of_certificates_is_nobodys_business(tsa: Authority, token: bytes, tmp_path: Path) -> None:
    """openssl's authority writes its chain as its file has it; DER sorts."""
    as_sorted = with_sorted_certificates(token)
    assert len(as_sorted) == len(token)
    assert with_sorted_certificates(as_sorted) == as_sorted
    assert openssl_accepts(as_sorted, DATA, tsa.roots, tmp_path)
    assert verify_timestamp(as_sorted, DATA, read_roots(tsa.roots), at=None) == read_timestamp(token)


@given(noise=st.binary(max_size=2000))
def test_random_bytes_are_no_stamp(noise: bytes) -> None:
    with pytest.raises(ProofError):
        read_timestamp(noise)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 40),
    instead=st.binary(max_size=40),
    end=st.floats(0.5, 1),
)
def test_a_mangled_stamp_is_refused_and_nothing_breaks(
    tsa: Authority, token: bytes, start: float, length: int, instead: bytes, end: float
) -> None:
    at = int(start * len(token))
    mangled = (token[:at] + instead + token[at + length :])[: int(end * len(token)) + 1]
    if mangled != token:
        assert not accepts(mangled, DATA + b"!", tsa.roots, at=None)


def test_roots_come_from_a_pem_file(tsa: Authority, other_tsa: Authority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"# ours\n" + tsa.roots.read_bytes() + other_tsa.roots.read_bytes() + tsa.roots.read_bytes())
    assert len(read_roots(both)) == 2
    for content in (b"", b"nothing", tsa.roots.read_bytes()[:200]):
        both.write_bytes(content)
        with pytest.raises(AnchorError, match=r"both.pem: holds no PEM certificates"):
            read_roots(both)
        with pytest.raises(ProofError):
            parse_roots(content)
    both.write_bytes(tsa.certificate)
    with pytest.raises(AnchorError, match=r"both.pem: .*`openssl x509 -inform DER` makes PEM of a .cer file"):
        read_roots(both)
    with pytest.raises(AnchorError, match=r"none.pem: cannot be read: No such file"):
        read_roots(tmp_path / "none.pem")


def test_a_stamp_without_its_certificate_is_of_no_use_offline_as_with_openssl(tsa: Authority, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)
    openssl("ts", "-query", "-data", tmp_path / "data", "-sha256", "-out", tmp_path / "bare.tsq")
    bare = tsa.reply((tmp_path / "bare.tsq").read_bytes())
    assert not openssl_accepts(bare, DATA, tsa.roots, tmp_path)
    with pytest.raises(ProofError, match="does not hold the certificate of its signer"):
        verify_timestamp(bare, DATA, read_roots(tsa.roots), at=None)
    with pytest.raises(ProofError, match="more than 65,536 is none"):
        read_timestamp(bytes(65_537))
