"""C2SP checkpoints and tlog-proof files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_samples import KEY, ORIGIN, OTHER_KEY

from amaru.errors import ProofError
from amaru.ledger.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint, verify_checkpoint, verify_succession
from amaru.ledger.merkle import consistency_ranges, inclusion_ranges, leaf_hash, root_of
from amaru.ledger.tlog_proof import TlogProof, parse_tlog_proof

HASHES = [leaf_hash(bytes([number])) for number in range(20)]


def checkpoint_of(size: int, origin: str = ORIGIN) -> Checkpoint:
    return Checkpoint(origin, size, root_of(HASHES[:size]))


def path_between(old: int, new: int) -> list[bytes]:
    return [root_of(HASHES[start:end]) for start, end in consistency_ranges(old, new)]


def test_the_specifications_example_is_read() -> None:
    # https://c2sp.org/tlog-checkpoint
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = parse_checkpoint(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert checkpoint.text == text


def test_extensions_of_others_are_kept() -> None:
    checkpoint = Checkpoint("o", 0, root_of([]), ("more", "lines"))
    assert parse_checkpoint(checkpoint.text) == checkpoint
    assert read_checkpoint(checkpoint.sign([KEY])) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "o\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n",
        "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n",
        "o\n1\nAAAA\n",
        "\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n",
        "o\n9999999999999999999\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ProofError, match="checkpoint"):
        parse_checkpoint(text)


def test_a_checkpoint_is_of_its_log_and_its_key() -> None:
    note = checkpoint_of(7).sign([KEY])
    assert verify_checkpoint(note, [KEY.verifier], origin=ORIGIN) == checkpoint_of(7)
    with pytest.raises(ProofError, match="another log"):
        verify_checkpoint(note, [KEY.verifier], origin="example.com/other")
    with pytest.raises(ProofError, match="wrong key, or a forgery"):
        verify_checkpoint(note, [OTHER_KEY.verifier])


def test_succession_names_each_way_to_break_it() -> None:
    old, new = checkpoint_of(7), checkpoint_of(12)
    verify_succession(old, new, path_between(7, 12))
    verify_succession(old, old, [])
    with pytest.raises(ProofError, match="older checkpoint replayed, or log truncated"):
        verify_succession(new, old, [])
    with pytest.raises(ProofError, match="split view"):
        verify_succession(old, Checkpoint(ORIGIN, 7, HASHES[0]), [])
    with pytest.raises(ProofError, match="another log"):
        verify_succession(old, checkpoint_of(12, "example.com/other"), path_between(7, 12))
    with pytest.raises(ProofError, match="history was rewritten"):
        verify_succession(old, Checkpoint(ORIGIN, 12, HASHES[0]), path_between(7, 12))


def proof_of(index: int, size: int, extra: bytes | None = None) -> TlogProof:
    path = tuple(root_of(HASHES[start:end]) for start, end in inclusion_ranges(index, size))
    return TlogProof(index, path, checkpoint_of(size).sign([KEY]), extra)


@given(st.integers(1, 20), st.data(), st.none() | st.binary(max_size=40))
def test_a_proof_file_is_written_read_and_verified(size: int, data: st.DataObject, extra: bytes | None) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = proof_of(index, size, extra)
    read = parse_tlog_proof(proof.encode())
    assert read == proof
    assert read.verify(HASHES[index], [KEY.verifier], origin=ORIGIN) == checkpoint_of(size)


def test_a_proof_file_reads_as_the_specification_shows_it() -> None:
    lines = proof_of(3, 8, b"more").encode().decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra bW9yZQ==", "index 3"]
    assert all(len(line) == 44 for line in lines[3:6])
    assert lines[6:9] == ["", ORIGIN, "8"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"tlog-proof@v1", b"tlog-proof@v2", "does not begin"),
        (b"index 3", b"index 03", "index N"),
        (b"index 3\n", b"", "index N"),
        (b"index 3", b"index 3\nAAAA", "32 bytes"),
        (b"index 3", b"index 3\n!", "not base64"),
        (b"index 3", b"extra !\nindex 3", "extra data is not base64"),
        (b"index 3\n", b"index 3\n\n", "checkpoint|signed note|empty"),
    ],
)
def test_a_malformed_proof_file_is_refused(before: bytes, after: bytes, words: str) -> None:
    content = proof_of(3, 8).encode().replace(before, after, 1)
    with pytest.raises(ProofError, match=words):
        parse_tlog_proof(content).verify(HASHES[3], [KEY.verifier])


@given(st.data())
def test_a_proof_file_altered_anywhere_proves_nothing_else(data: st.DataObject) -> None:
    content = bytearray(proof_of(3, 8).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        read = parse_tlog_proof(bytes(content))
        checkpoint = read.verify(HASHES[3], [KEY.verifier], origin=ORIGIN)
    except ProofError:
        return
    assert (read.index, checkpoint) == (3, checkpoint_of(8))


def test_a_proof_for_another_tree_size_is_named() -> None:
    proof = TlogProof(3, proof_of(3, 8).path, checkpoint_of(20).sign([KEY]))
    with pytest.raises(ProofError, match="another size"):
        proof.verify(HASHES[3], [KEY.verifier])
