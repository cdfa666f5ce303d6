"""Hostile files in place of proof bundles: each is refused, in words that say why."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from io import BytesIO

import pytest
from authority import needs_openssl
from gpg_home import needs_gpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.errors import ProofError
from amaru.ledger.bundle import Trust, verify_proof
from amaru.ledger.bundle_contents import MAX_BUNDLE_BYTES
from amaru.ledger.zips import pack, unpack

pytestmark = [needs_gpg, needs_openssl]

NOW = datetime.now(UTC)


def members_of(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: list[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP as others write it: Python's own writer."""
    made = BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return made.getvalue()


def test_other_programs_read_it_and_agree(bundle: bytes) -> None:
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist())
        assert all(one.date_time == (1980, 1, 1, 0, 0, 0) for one in archive.infolist())
    assert unpack(bundle, known=lambda _: True, most=100) == members_of(bundle)


def refused(bundle: bytes, words: str) -> None:
    with pytest.raises(ProofError, match=words):
        verify_proof(bundle, now=NOW)


def test_a_bomb_is_not_unpacked(bundle: bytes) -> None:
    members = [*members_of(bundle).items()]
    bomb = zipped([("VERSION", b"\x00" * 40_000_000)], method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 50_000
    refused(bomb, "VERSION is compressed")
    refused(zipped(members, method=zipfile.ZIP_DEFLATED), "is compressed")
    refused(b"PK\x03\x04" + bytes(MAX_BUNDLE_BYTES), "more than 8,388,608 is none")


@pytest.mark.parametrize(
    "name",
    [
        "../entry.json",
        "/etc/passwd",
        "a/../../b",
        "signatures/../x",
        "entry.json\x00",
        "C:\\x",
        "signatures/",
        "Entry.json",
        "signatures/checkpoint.01.asc",
        "signatures/checkpoint.17.asc",
        "signatures/entry.1.tsr",
        "timestamps/entry.1.asc",
    ],
)
def test_a_name_that_does_not_belong_is_refused(bundle: bytes, name: str) -> None:
    refused(pack({**members_of(bundle), name: b"x"}), "which does not belong into it")


def test_a_member_twice_or_too_many(bundle: bytes) -> None:
    members = [*members_of(bundle).items()]
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped([*members, ("entry.json", b"{}")])
    refused(twice, r"holds entry.json twice|not as amaru packs it|in a form")
    packed = pack(dict(members))
    again = packed[: packed.index(b"PK\x01\x02")] + pack({"entry.json": b"{}"})
    refused(again, r"holds entry.json twice")
    suffixes = {"timestamps": "tsr", "signatures": "asc"}
    names = [(folder, on, n) for folder in suffixes for on in ("entry", "artifact") for n in range(1, 17)]
    many = {f"{folder}/{on}.{n}.{suffixes[folder]}": b"" for folder, on, n in names}
    refused(pack(many), "holds more than 57 members")


@pytest.mark.parametrize(
    "name", ["entry.json", "entry.tlog-proof", "checkpoint", "log-keys.txt", "README.txt", "check.py"]
)
def test_a_missing_member_is_named(bundle: bytes, name: str) -> None:
    members = members_of(bundle)
    del members[name]
    refused(pack(members), f"the bundle lacks {name}")


def test_pieces_that_miss_their_other_half(bundle: bytes) -> None:
    members = members_of(bundle)
    for name, words in (
        ("signatures/checkpoint.1.key", r"lacks signatures/checkpoint.1.key"),
        ("signatures/artifact.2.asc", r"lacks signatures/artifact.2.asc"),
        ("timestamps/checkpoint.1.tsr", r"but no 1: one is missing"),
        ("timestamps/entry.2.tsr", r"has timestamps/artifact.3, but no 2"),
    ):
        refused(pack({key: content for key, content in members.items() if key != name}), words)
    refused(pack({**members, "timestamps/artifact.1.tsr": b""}), "two timestamps of the number 1")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("VERSION", b"amaru-proof 2\n", "of a version that this amaru does not know"),
        ("checkpoint", b"x", "is not the checkpoint of entry.tlog-proof"),
        ("attestation.json", b"{}", "is not the envelope that entry.json holds"),
        ("certificates.pem", b"", "is empty"),
        ("log-keys.txt", b"", "holds 0 keys"),
        ("log-keys.txt", b"x+y+z\n", "a verifier key is NAME"),
        ("log-keys.txt", b"x\n" * 65, "holds 65 keys"),
        ("entry.tlog-proof", b"", "tlog-proof"),
    ],
)
def test_a_member_of_other_content_is_named(bundle: bytes, name: str, content: bytes, words: str) -> None:
    refused(pack({**members_of(bundle), name: content}), words)


def test_other_help_is_told_and_changes_nothing_else(bundle: bytes) -> None:
    report = verify_proof(pack({**members_of(bundle), "check.py": b"print('all is well')"}), now=NOW)
    assert report.ok
    assert report.findings[-1].piece == "help"
    assert "do not run it unread" in report.findings[-1].words


def test_what_was_packed_otherwise_is_refused(bundle: bytes) -> None:
    members = [*members_of(bundle).items()]
    for other in (zipped(members), zipped(members[::-1]), bundle + b"\x00", bundle[:-1], b"#!/bin/sh\n" + bundle):
        refused(other, "the ZIP|no ZIP")
    with_comment = bytearray(bundle + b"hello")
    with_comment[-7] = 5
    refused(bytes(with_comment), "not as amaru packs it")


def test_false_sizes_are_refused(bundle: bytes) -> None:
    at = bundle.index(b"PK\x03\x04") + 18
    for size in (0, 1, 2**31, 2**32 - 1):
        lied = bundle[:at] + size.to_bytes(4, "little") * 2 + bundle[at + 8 :]
        refused(lied, "the ZIP|lacks|that is no ZIP")
    refused(bundle[:at] + (5).to_bytes(4, "little") + bundle[at + 4 :], "is compressed")


@given(noise=st.binary(max_size=500), mark=st.booleans())
def test_random_bytes_are_no_bundle(noise: bytes, mark: bool) -> None:
    refused((b"PK\x03\x04" if mark else b"") + noise, "ZIP")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0), cut=st.integers(0, 8), instead=st.binary(max_size=8))
def test_no_byte_of_the_file_can_be_changed(bundle: bytes, start: int, cut: int, instead: bytes) -> None:
    at = start % len(bundle)
    other = bundle[:at] + instead + bundle[at + cut :]
    if other != bundle:
        refused(other, "ZIP|bundle")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(member=st.integers(0), start=st.integers(0), cut=st.integers(0, 4), instead=st.binary(max_size=4))
def test_changed_members_packed_anew_never_say_anything_else(
    bundle: bytes, trust: Trust, member: int, start: int, cut: int, instead: bytes
) -> None:
    members = members_of(bundle)
    name = sorted(members)[member % len(members)]
    at = start % (len(members[name]) + 1)
    members[name] = members[name][:at] + instead + members[name][at + cut :]
    try:
        report = verify_proof(pack(members), trust, now=NOW)
    except ProofError:
        return
    if report.ok:  # what no signature covers, such as the help
        assert report.entry == members_of(bundle)["entry.json"]
        assert report.checkpoint.size == 300
        assert report.trusted


@settings(max_examples=50, deadline=None)
@given(
    members=st.dictionaries(
        st.sampled_from(["entry.json", "checkpoint", "README.txt", "a/b"]), st.binary(max_size=50), min_size=1
    )
)
def test_packing_and_unpacking_are_inverse(members: dict[str, bytes]) -> None:
    assert unpack(pack(members), known=lambda _: True, most=4) == members
    assert members_of(pack(members)) == members
