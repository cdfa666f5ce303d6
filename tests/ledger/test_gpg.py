"""Detached signatures through the gpg program: made, verified, and refused with the reason."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gpg_home import GpgHome, gpg_home, needs_gpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.errors import ProofError
from amaru.ledger.gpg import MAX_SIGNATURE_BYTES, Gpg, with_public_keys
from amaru.ledger.troubles import AnchorError, Trouble

pytestmark = needs_gpg

DATA = b"example.org/log\n3\n...\n"


@pytest.fixture(scope="module")
def home() -> Iterator[GpgHome]:
    with gpg_home() as made:
        yield made


@pytest.fixture(scope="module")
def alice(home: GpgHome) -> str:
    return home.make_key("Alice Example <alice@example.org>")


@pytest.fixture(scope="module")
def bob(home: GpgHome) -> str:
    return home.make_key("Bob Example <bob@example.org>")


@pytest.fixture(scope="module")
def gpg(home: GpgHome, alice: str, bob: str) -> Gpg:
    return Gpg(home.folder)


def test_signs_bytes_and_gpg_itself_agrees(home: GpgHome, gpg: Gpg, alice: str) -> None:
    signed = gpg.sign(DATA, "alice@example.org")
    assert signed.fingerprint == alice
    assert signed.signature.startswith(b"-----BEGIN PGP SIGNATURE-----")
    assert abs(signed.at - datetime.now(UTC)) < timedelta(minutes=5)
    assert home.accepts(DATA, signed.signature)
    signer = gpg.verify(DATA, signed.signature)
    assert (signer.fingerprint, signer.user_id, signer.at) == (alice, "Alice Example <alice@example.org>", signed.at)
    assert signer.validity == "ultimate"


@pytest.mark.parametrize("name", ["model.bin", "--output", "with space", "ünïcode"])
def test_signs_files_whatever_their_name(
    gpg: Gpg, alice: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"\x00weights" * 1000)
    monkeypatch.chdir(tmp_path)
    signed = gpg.sign(Path(name), alice)
    assert gpg.verify(Path(name), signed.signature).fingerprint == alice
    assert gpg.verify(b"\x00weights" * 1000, signed.signature).fingerprint == alice
    (tmp_path / name).write_bytes(b"\x00weights" * 999)
    with pytest.raises(ProofError, match="not over these bytes"):
        gpg.verify(Path(name), signed.signature)


def test_empty_data_can_be_signed(gpg: Gpg, alice: str) -> None:
    assert gpg.verify(b"", gpg.sign(b"", alice).signature).fingerprint == alice


def test_changed_data_and_a_changed_signature_are_refused_as_gpg_does(home: GpgHome, gpg: Gpg, alice: str) -> None:
    signature = gpg.sign(DATA, alice).signature
    assert not home.accepts(DATA + b" ", signature)
    with pytest.raises(ProofError, match=r"Alice Example .* is not over these bytes"):
        gpg.verify(DATA + b" ", signature)
    other = gpg.sign(b"other", alice).signature
    with pytest.raises(ProofError, match="is not over these bytes"):
        gpg.verify(DATA, other)


def test_a_key_is_chosen_by_name_and_never_guessed(home: GpgHome, gpg: Gpg, alice: str, bob: str) -> None:
    assert {key.fingerprint for key in gpg.secret_keys()} == {alice, bob}
    assert gpg.sign(DATA, bob).fingerprint == bob
    assert gpg.sign(DATA, bob[-16:]).fingerprint == bob
    assert gpg.sign(DATA).fingerprint == alice  # gpg's own default: the first
    with pytest.raises(
        AnchorError, match=r"'example.org' names 2 keys; give the fingerprint of one: .*Alice.*Bob"
    ) as caught:
        gpg.sign(DATA, "example.org")
    assert caught.value.trouble is Trouble.VALIDATION
    with pytest.raises(AnchorError, match=r"no secret key 'carol@example.org'.*gpg --list-secret-keys") as caught:
        gpg.sign(DATA, "carol@example.org")
    assert caught.value.trouble is Trouble.AUTHENTICATION
    with pytest.raises(AnchorError, match="no secret key"):
        gpg.sign(DATA, "--output=/tmp/x")


def test_a_home_without_keys_says_what_to_do() -> None:
    with gpg_home() as empty, pytest.raises(AnchorError, match=r"no key to sign with.*--quick-generate-key"):
        Gpg(empty.folder).sign(DATA)


def test_the_environment_names_the_home(home: GpgHome, gpg: Gpg, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNUPGHOME", str(home.folder))
    assert Gpg().sign(DATA, alice).fingerprint == alice


def test_a_missing_program_is_named() -> None:
    with pytest.raises(AnchorError, match="no program 'gpg-that-is-not-there'; install GnuPG"):
        Gpg(program="gpg-that-is-not-there").verify(DATA, b"x")


def test_a_missing_file_is_named(gpg: Gpg, alice: str, tmp_path: Path) -> None:
    with pytest.raises(AnchorError, match=r"nothing.bin: no such file"):
        gpg.sign(tmp_path / "nothing.bin", alice)


def test_a_program_that_never_ends_is_ended(tmp_path: Path) -> None:
    slow = tmp_path / "gpg"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(AnchorError, match=r"did not end within 0.2 s"):
        Gpg(program=str(slow), limit_s=0.2).verify(DATA, b"x")


def test_a_stranger_verifies_with_the_public_key_alone(gpg: Gpg, alice: str, bob: str) -> None:
    signature = gpg.sign(DATA, alice).signature
    with with_public_keys([gpg.public_key(bob), gpg.public_key(alice)]) as stranger:
        signer = stranger.verify(DATA, signature)
        assert (signer.fingerprint, signer.validity) == (alice, None)
        with pytest.raises(ProofError, match="not over these bytes"):
            stranger.verify(b"other", signature)
        assert stranger.secret_keys() == ()
    with (
        with_public_keys([gpg.public_key(bob)]) as stranger,
        pytest.raises(ProofError, match=f"by the key {alice[-16:]}, which"),
    ):
        stranger.verify(DATA, signature)


def test_verifying_starts_no_agent(gpg: Gpg, alice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signature, key = gpg.sign(DATA, alice).signature, gpg.public_key(alice)
    long = tmp_path / ("x" * 100)  # longer than a socket's path may be
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with with_public_keys([key]) as stranger:
        stranger.verify(DATA, signature)
        assert not [file for folder in long.iterdir() for file in folder.iterdir() if file.is_socket()]
    assert list(long.iterdir()) == []


@pytest.mark.parametrize(
    "key", [b"", b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"]
)
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(ProofError, match="key cannot be read"), with_public_keys([key]):
        pass


def test_a_signature_that_holds_its_data_is_not_detached(home: GpgHome, gpg: Gpg, alice: str) -> None:
    inline = home.run("--armor", "--sign", "--output", "-", stdin=b"other data").stdout
    with pytest.raises(ProofError, match=r"no detached GPG signature.*not a detached signature"):
        gpg.verify(DATA, inline)


def test_several_signatures_in_one_file_are_refused(gpg: Gpg, alice: str, bob: str) -> None:
    both = gpg.sign(DATA, alice).signature + gpg.sign(DATA, bob).signature
    with pytest.raises(ProofError, match="several GPG signatures"):
        gpg.verify(DATA, both)


def test_a_weak_hash_is_refused(home: GpgHome, gpg: Gpg, alice: str) -> None:
    weak = home.run("--digest-algo", "SHA1", "--armor", "--detach-sign", "--output", "-", stdin=DATA).stdout
    with pytest.raises(ProofError, match="a hash that can be forged"):
        gpg.verify(DATA, weak)


def test_a_signature_over_text_is_refused(home: GpgHome, gpg: Gpg, alice: str) -> None:
    text = home.run("--textmode", "--armor", "--detach-sign", "--output", "-", stdin=DATA).stdout
    assert home.accepts(DATA.replace(b"\n", b"\r\n"), text)
    with pytest.raises(ProofError, match="over text"):
        gpg.verify(DATA.replace(b"\n", b"\r\n"), text)


def test_expired_and_revoked_keys_are_named() -> None:
    with gpg_home() as home:
        old = home.make_key("Old <old@example.org>", expires="1y", at="20200101T000000!")
        sign = ("--armor", "--detach-sign", "--output", "-")
        signature = home.run("--faked-system-time", "20200601T000000!", *sign, stdin=DATA).stdout
        with pytest.raises(ProofError, match=r"a key that has expired, .*Old <old@example.org>"):
            Gpg(home.folder).verify(DATA, signature)
        with pytest.raises(AnchorError, match=r"no secret key 'old@example.org'"):
            Gpg(home.folder).sign(DATA, "old@example.org")
        assert len(old) == 40
        lost = home.make_key("Lost <lost@example.org>")
        signature = Gpg(home.folder).sign(DATA, lost).signature
        home.revoke(lost)
        with pytest.raises(ProofError, match=r"a revoked key, .*Lost <lost@example.org>"):
            Gpg(home.folder).verify(DATA, signature)


def test_an_oversized_signature_is_not_even_shown_to_gpg() -> None:
    with pytest.raises(ProofError, match="bytes; more than"):
        Gpg(program="gpg-that-is-not-there").verify(DATA, b"x" * (MAX_SIGNATURE_BYTES + 1))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 119), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_signature_is_refused(home: GpgHome, gpg: Gpg, alice: str, place: int, bit: int) -> None:
    armoured = gpg.sign(DATA, alice).signature
    binary = bytearray(subprocess.run(["gpg", "--dearmor"], input=armoured, capture_output=True, check=True).stdout)
    binary[place % len(binary)] ^= 1 << bit
    accepted = home.accepts(DATA, bytes(binary))
    if accepted:  # in the unhashed part, which proves nothing
        assert gpg.verify(DATA, bytes(binary)).fingerprint == alice
    else:
        with pytest.raises(ProofError):
            gpg.verify(DATA, bytes(binary))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300))
def test_random_bytes_are_no_signature(gpg: Gpg, noise: bytes) -> None:
    with pytest.raises(ProofError):
        gpg.verify(DATA, noise)


def test_a_signing_subkey_speaks_for_its_primary_key() -> None:
    with gpg_home() as home:
        primary = home.make_key("Carol <carol@example.org>")
        home.run("--pinentry-mode", "loopback", "--passphrase", "", "--quick-add-key", primary, "ed25519", "sign")
        gpg = Gpg(home.folder)
        signed = gpg.sign(DATA, "carol@example.org")
        assert signed.fingerprint != primary
        with with_public_keys([gpg.public_key(signed.fingerprint)]) as stranger:
            assert stranger.verify(DATA, signed.signature).fingerprint == primary


def test_a_passphrase_that_is_not_given_is_a_trouble_of_authentication() -> None:
    with gpg_home() as home:
        (home.folder / "gpg-agent.conf").write_text("pinentry-program /bin/false\n")
        secret = ("--pinentry-mode", "loopback", "--passphrase", "a secret", "--quick-generate-key")
        home.run(*secret, "Dave <dave@example.org>", "ed25519", "sign", "never")
        home.end_agent()  # which remembers the passphrase
        with pytest.raises(AnchorError, match=r"gpg made no signature: .*signing failed") as caught:
            Gpg(home.folder).sign(DATA, "dave@example.org")
        assert caught.value.trouble is Trouble.AUTHENTICATION


def test_a_signature_that_has_expired_is_named(home: GpgHome, gpg: Gpg, alice: str) -> None:
    with gpg_home() as old:
        old.make_key("Old <old@example.org>", at="20200101T000000!")
        options = ("--faked-system-time", "20200601T000000!", "--default-sig-expire", "1d")
        signature = old.run(*options, "--armor", "--detach-sign", "--output", "-", stdin=DATA).stdout
        with pytest.raises(ProofError, match=r"the GPG signature by .*Old <old@example.org> has expired"):
            Gpg(old.folder).verify(DATA, signature)


def test_a_key_that_is_not_there_cannot_be_given_away(gpg: Gpg) -> None:
    with pytest.raises(AnchorError, match="cannot export the key FFFF"):
        gpg.public_key("F" * 40)


def test_what_is_no_program_or_no_key_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnchorError, match="cannot be run"):
        Gpg(program=str(tmp_path)).sign(DATA)
    with pytest.raises(ProofError, match="bytes; more than"), with_public_keys([bytes(1024 * 1024 + 1)]):
        pass
