"""RFC 8785: the fast encoder and the library write the same bytes, and only those bytes are taken."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from amaru.errors import LedgerError
from amaru.ledger.canonical import canonical, require_canonical

_NUMBERS = st.one_of(
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e6, 1e6),
    st.sampled_from([0.0, -0.0, 1e21, 1e-7, 5e-324, 1e-6, 1e-5, 1e15, 1e16, 123456789012345.6, 0.1 + 0.2, 100.0]),
)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(_VALUES)
@example({"\ue000": 1, "\U00010000": 2})  # UTF-16 and UTF-8 sort these two the other way round
@example({"a": 1e21, "b": -0.0, "\x7f": "\u2028"})
def test_the_fast_encoder_writes_what_the_library_writes(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(_VALUES)
@example([float(2**53), -1e20])  # written without a point, and beyond the integers
def test_a_canonical_text_is_taken_and_read_back(value: Any) -> None:
    text = canonical(value)
    assert canonical(require_canonical(text)) == text


@given(_VALUES)
def test_another_text_of_the_same_value_is_refused(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1), json.dumps(value, ensure_ascii=False) + " "):
        if text.encode() != canonical(value):
            with pytest.raises(LedgerError, match="not canonical JSON"):
                require_canonical(text.encode())


@given(st.binary(max_size=30))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        value = require_canonical(data)
    except LedgerError:
        return
    assert canonical(value) == data


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b"1.0",
        b"1e2",
        b"-0",
        b'"\\u0041"',
        b'"\\/"',
        b"[1,]",
        b"NaN",
        b"\xff",
        b"",
        b"12345678901234567890",
        b"[" * 100_000,
        b'"\\ud800"',
    ],
)
def test_texts_that_say_the_same_otherwise_are_refused(text: bytes) -> None:
    with pytest.raises(LedgerError, match="not canonical JSON"):
        require_canonical(text)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53, "\ud800", {"\ud800": 1}, b"bytes", {1: 2}, object(), {1, 2}]
)
def test_what_json_has_no_word_for_is_refused(value: Any) -> None:
    with pytest.raises(LedgerError, match="no canonical JSON"):
        canonical(value)


def test_a_value_nested_without_end_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(LedgerError, match="no canonical JSON"):
        canonical(value)


def test_the_example_of_the_rfc() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(value).decode() == expected
