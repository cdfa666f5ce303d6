"""A receipt is one canonical text, and the text is the receipt."""

from __future__ import annotations

import json

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from ledger_samples import DIGEST, SAMPLES, T0, at

from amaru.errors import LedgerError
from amaru.ledger import receipts
from amaru.ledger.canonical import require_canonical
from amaru.ledger.receipts import (
    Deploy,
    Gap,
    Incident,
    Receipt,
    leaf_of,
    read_leaf,
    rfc3339,
    type_of,
    unix_s,
)

KINDS: list[type[Receipt]] = list(Receipt.__subclasses__())


@pytest.mark.parametrize("receipt", SAMPLES, ids=lambda receipt: type(receipt).__name__)
def test_a_leaf_is_canonical_and_reads_back_as_its_receipt(receipt: Receipt) -> None:
    leaf = leaf_of(receipt)

    assert leaf == rfc8785.dumps(json.loads(leaf))
    assert require_canonical(leaf) == json.loads(leaf)
    assert read_leaf(leaf) == receipt


def test_every_leaf_says_its_version_type_time_and_component() -> None:
    for receipt in SAMPLES:
        said = json.loads(leaf_of(receipt))
        assert {"v": 1, "type": type(receipt).__name__.lower()}.items() <= said.items()
        assert {"at", "component"} <= said.keys()


def test_what_is_not_said_is_left_out() -> None:
    said = json.loads(leaf_of(Incident(at=at(), component="north")))
    assert said.keys() == {"v", "type", "at", "component"}


def test_every_kind_has_a_list_by_a_name_of_its_own() -> None:
    names = {kind.__name__.lower() for kind in KINDS}
    assert receipts.PLURALS.keys() == names
    assert len(set(receipts.PLURALS.values())) == len(names)
    assert {type_of(plural) for plural in receipts.PLURALS.values()} == names
    assert type_of("Deployment") == "deploy"
    assert type_of("nonsense") == "nonsense"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("component", ""),
        ("component", "two words"),
        ("component", 'a"b'),
        ("component", "x" * 129),
        ("at", "2026-11-21T16:00:00Z"),
        ("at", "yesterday"),
        ("digest", "sha256:abc"),
        ("digest", "sha256:" + "AB" * 32),
        ("version", "v" * 201),
        ("note", "n" * 4001),
        ("note", "half \ud800 of a pair"),
        ("v", 2),
    ],
)
def test_what_no_receipt_can_hold_is_refused_by_its_name(field: str, value: object) -> None:
    good = Deploy(at=at(), component="gateway", digest=DIGEST)
    bad = msgspec.structs.replace(good, **{field: value})
    with pytest.raises(LedgerError) as refused:
        leaf_of(bad)
    assert "deploy" in str(refused.value) or "canonical" in str(refused.value)


def test_the_field_at_fault_is_named() -> None:
    with pytest.raises(LedgerError, match="component"):
        leaf_of(Deploy(at=at(), component="two words"))
    with pytest.raises(LedgerError, match="dropped"):
        leaf_of(Gap(at=at(), component="ledger", dropped=-1))


def test_a_receipt_too_long_for_an_entry_is_refused_with_its_length() -> None:
    long = Deploy(at=at(), component="gateway", envelope={"payload": "x" * 70_000})
    with pytest.raises(LedgerError, match=r"70,\d\d\d bytes"):
        leaf_of(long)


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"not json",
        b"[1,2]",
        b"\xff\xfe",
        b'{"at":"2026-09-21T00:00:00.000000Z","component":"x","type":"from-the-future","v":1}',
        b'{"at":"2026-09-21T00:00:00.000000Z","component":"x","new":"field","type":"gap","v":1}',
        b'{"at":"2026-09-21T00:00:00.000000Z","component":"x","dropped":1,"type":"gap","v":2}',
        b"[" * 50_000,
    ],
)
def test_what_this_amaru_does_not_know_is_no_receipt_and_no_error(leaf: bytes) -> None:
    assert read_leaf(leaf) is None


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(leaf: bytes) -> None:
    read_leaf(leaf)


@given(st.floats(0, 4e9))
def test_instants_keep_their_microseconds_and_sort_as_they_read(unix: float) -> None:
    written = rfc3339(unix)
    assert abs(unix_s(written) - unix) <= 1e-6
    assert (written < rfc3339(T0)) == (written != rfc3339(T0) and unix < T0)


def test_an_instant_is_utc_with_microseconds() -> None:
    assert rfc3339(0.25) == "1970-01-01T00:00:00.250000Z"
    assert rfc3339(1_790_000_000.0) == "2026-09-21T14:13:20.000000Z"
    for wrong in (1e300, float("inf"), float("nan")):
        with pytest.raises(LedgerError):
            rfc3339(wrong)
    with pytest.raises(ValueError, match="UTC"):
        unix_s("2026-11-21T16:00:00+02:00")
