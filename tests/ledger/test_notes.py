"""C2SP signed notes: the specification's own example, and every way to write one wrongly."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_samples import KEY, ORIGIN, OTHER_KEY

from amaru.errors import LedgerError, ProofError
from amaru.ledger.keys import add_key, load_signers, load_verifiers, make_key, retire_key
from amaru.ledger.notes import MAX_NOTE_BYTES, NoteSigner, NoteVerifier, parse_note, sign_note, verify_note

# From https://c2sp.org/signed-note.
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
# The key of the tests of Go's golang.org/x/mod/sumdb/note.
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def test_the_specifications_example_verifies() -> None:
    verifier = NoteVerifier.of(VKEY)
    assert verifier.vkey == VKEY
    assert verify_note(NOTE, [verifier]) == ("This is an example message.\n", (verifier,))


def test_gos_keys_and_notes_are_ours() -> None:
    signer = NoteSigner.of(GO_SKEY)
    assert signer.skey == GO_SKEY
    assert signer.verifier.vkey == GO_VKEY
    assert verify_note(GO_NOTE, [NoteVerifier.of(GO_VKEY)])[1] == (signer.verifier,)
    text = parse_note(GO_NOTE).text
    assert sign_note(text, [signer]) == GO_NOTE


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=60))
def test_what_is_signed_is_read_back(text: str) -> None:
    note = sign_note(text + "\n", [KEY])
    assert verify_note(note, [KEY.verifier]) == (text + "\n", (KEY.verifier,))
    with pytest.raises(ProofError, match="no key known here"):
        verify_note(note, [OTHER_KEY.verifier])


@given(st.data())
def test_no_altered_note_verifies_as_another(data: st.DataObject) -> None:
    note = bytearray(sign_note("log\n42\nroot\n", [KEY]))
    at = data.draw(st.integers(0, len(note) - 1))
    note[at] ^= data.draw(st.integers(1, 255))
    try:
        text, _ = verify_note(bytes(note), [KEY.verifier])
    except ProofError:
        return
    assert text == "log\n42\nroot\n"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    with pytest.raises(ProofError):
        verify_note(data, [KEY.verifier])


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (b"text\n", "no blank line"),
        (b"text\n\n", "no signature"),
        (b"text\n\n\xe2\x80\x94 name AAAAAAA=", "does not end in a newline"),
        (b"text\n\n\xe2\x80\x94 name AAAA\n", "not a signature line"),
        (b"text\n\n\xe2\x80\x94 na+me AAAAAAAA\n", "not a signature line"),
        (b"text\n\n- name AAAAAAAA\n", "not a signature line"),
        (b"te\txt\n\n\xe2\x80\x94 name AAAAAAA=\n", "control character"),
        (b"text\n\n\xe2\x80\x94 na\x1b[2Jme AAAAAAA=\n", "control character"),
        (b"te\xffxt\n\n", "not UTF-8 at byte 2"),
        (b"x" * (MAX_NOTE_BYTES + 1), "more than"),
        (b"text\n\n" + b"\xe2\x80\x94 name AAAAAAA=\n" * 65, "65 signatures"),
    ],
)
def test_what_is_no_note_is_named(note: bytes, words: str) -> None:
    with pytest.raises(ProofError, match=words):
        parse_note(note)


def test_a_known_keys_bad_signature_spoils_the_note_and_an_unknown_ones_does_not() -> None:
    good = sign_note("text\n", [KEY])
    unknown = sign_note("another\n", [OTHER_KEY]).rpartition(b"\n\n")[2]
    assert verify_note(good + unknown, [KEY.verifier])[1] == (KEY.verifier,)
    with pytest.raises(ProofError, match="does not hold"):
        verify_note(good + unknown, [KEY.verifier, OTHER_KEY.verifier])


@pytest.mark.parametrize("text", ["", "no newline", "a\x00\n", "a\r\n"])
def test_what_cannot_be_signed_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="a note's text"):
        sign_note(text, [KEY])
    with pytest.raises(LedgerError, match="needs a signing key"):
        sign_note("text\n", [])


@pytest.mark.parametrize("vkey", ["", "name", "name+00000000+AQ==", VKEY[:-4], VKEY.replace("530d", "530e"), "a b+1+2"])
def test_a_misprinted_key_is_refused(vkey: str) -> None:
    with pytest.raises(LedgerError):
        NoteVerifier.of(vkey)


@pytest.mark.parametrize("skey", ["", GO_VKEY, GO_SKEY[:-1], GO_SKEY.replace("c74f", "c74e"), "PRIVATE+KEY+"])
def test_a_misprinted_signing_key_is_refused_without_quoting_it(skey: str) -> None:
    with pytest.raises(LedgerError) as refused:
        NoteSigner.of(skey)
    assert "AYEKFALVFGy" not in str(refused.value)
    assert "AYEKFALVFGy" not in repr(NoteSigner.of(GO_SKEY))


# ---- files of keys --------------------------------------------------------------------------------------------------


def test_a_key_is_made_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "ledger.key"
    made = make_key(path, ORIGIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signers(path) == [made]
    with pytest.raises(LedgerError, match="never overwritten"):
        make_key(path, ORIGIN)
    path.chmod(0o640)
    with pytest.raises(LedgerError, match="chmod 600"):
        load_signers(path)


def test_keys_rotate_by_overlap(tmp_path: Path) -> None:
    path = tmp_path / "ledger.key"
    old = make_key(path, ORIGIN)
    new = add_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signers = load_signers(path)
    note = sign_note("text\n", signers)
    for verifiers in ([old.verifier], [new.verifier], [old.verifier, new.verifier]):
        assert verify_note(note, verifiers)[1] == tuple(verifiers)
    retire_key(path, old.verifier.key_id)
    assert load_signers(path) == [new]
    with pytest.raises(LedgerError, match="only key"):
        retire_key(path, new.verifier.key_id)
    with pytest.raises(LedgerError, match="holds no key"):
        retire_key(path, old.verifier.key_id)


def test_public_keys_are_read_with_comments_and_mistakes_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "trusted.keys"
    path.write_text(f"# ours\n{KEY.verifier.vkey}\n\n{VKEY}\n")
    assert load_verifiers(path) == [KEY.verifier, NoteVerifier.of(VKEY)]
    path.write_text(f"{VKEY}\nnonsense\n")
    with pytest.raises(LedgerError, match=r"trusted\.keys, line 2"):
        load_verifiers(path)
    path.write_text("# nothing\n")
    with pytest.raises(LedgerError, match="holds no key"):
        load_verifiers(path)
    with pytest.raises(LedgerError, match="cannot be read"):
        load_verifiers(tmp_path / "absent")
