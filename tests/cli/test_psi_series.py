"""CSV series line by line: columns found, mistakes named, and never more than a block in memory."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.cli.psi_series import MAX_LINE_BYTES, Mistake, Observation, Series, instant, is_header, lines, utc
from amaru.errors import AmaruError

NOON = 1_775_044_800.0
"""2026-04-01 12:00:00 UTC."""


def read(text: str, value: str | None = None, time: str | None = None) -> list[Observation]:
    series = Series("calls.csv", value, time)
    found = [series.read(number, line.encode()) for number, line in enumerate(text.split("\n"), 1)]
    return [row for row in found if row is not None]


@pytest.mark.parametrize(
    ("text", "value", "time"),
    [
        ("timestamp,value\n2026-04-01 12:00:00,7.5", None, None),
        ("\ufeffTimestamp,Value\r\n2026-04-01T12:00:00Z,7.5\r", None, None),
        ("2026-04-01 14:00:00+02:00,7.5", None, None),
        ("time,latency\n1775044800,7.5", None, None),
        ("host,ts,ms,errors\nweb1,1775044800000,7.5,3", "ms", None),
        ("host,ts,ms,errors\nweb1,1775044800000,7.5,3", "3", "2"),
        ("web1,2026-04-01 12:00:00,7.5", "3", "2"),
        ("when,2026\n2026-04-01 12:00:00,7.5", "2026", "when"),
        ('"a, b",value,at\n"1,2", 7.5 ,2026-04-01 12:00:00', None, None),
    ],
)
def test_the_columns_are_found(text: str, value: str | None, time: str | None) -> None:
    (row,) = read(text, value, time)
    assert (row.at, row.value) == (NOON, 7.5)


@pytest.mark.parametrize("text", ["7.5", "value\n7.5", "latency\n\n7.5\n", "timestamp,value\n,7.5", "a,value\n1,7.5"])
def test_a_series_needs_no_instants(text: str) -> None:
    (row,) = read(text)
    assert (row.at, row.value) == (None, 7.5)


@pytest.mark.parametrize("text", ["", "NaN", "null", "N/A", "-", "inf", "-Infinity", "1e999"])
def test_what_is_missing_is_missing_and_no_mistake(text: str) -> None:
    assert read(f"timestamp,value\n1775044800,{text}")[0] == ("1775044800", NOON, None)


def test_a_header_that_comes_again_is_no_row() -> None:
    assert [row.value for row in read("timestamp,value\n1,7\ntimestamp,value\n2,8")] == [7.0, 8.0]


def test_what_a_header_is() -> None:
    assert is_header(["timestamp", "value"])
    assert is_header(["time", ""])
    assert not is_header(["web1", "20.5"])
    assert not is_header(["", "NaN"])
    assert not is_header(["2026-04-01", "NA"])
    assert is_header(["time", "2025"], ["time"])
    assert not is_header(["time", "2025"], ["2025"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2026-04-01,fast", "column value: 'fast' is no number"),
        ("1 April,7", "column timestamp: '1 April' is no time"),
        ("2026-04-01,7,5", "column 3: the first row has no such column; put a value with a comma in quotes"),
        ("2026-04-01", "column value: missing"),
        ('2026-04-01,"7', "column 2: not CSV"),
        ('2026-04-01,"7,5"', "column value: '7,5' is no number"),
        ("2026-04-01,\x1b[2J", r"column value: '\x1b[2J' is no number"),
    ],
)
def test_a_mistake_is_named_with_its_column_and_the_next_row_is_read(row: str, words: str) -> None:
    series = Series("calls.csv")
    assert series.read(1, b"timestamp,value") is None
    with pytest.raises(Mistake) as raised:
        series.read(2, row.encode())
    assert words in str(raised.value)
    assert str(raised.value).isprintable()
    assert series.read(3, b"1775044800,8") == ("1775044800", NOON, 8.0)


def test_what_is_no_text_and_what_is_no_line_is_named() -> None:
    series = Series("calls.csv")
    assert series.read(1, b"timestamp,value") is None
    with pytest.raises(Mistake, match="column 2: not UTF-8"):
        series.read(2, b"1,\xff\xfe")
    with pytest.raises(Mistake, match="longer than 65,536 bytes"):
        series.read(3, None)


@pytest.mark.parametrize(
    ("text", "value", "time", "words"),
    [
        ("a,b,c", None, None, "line 1: name the column of the values with --value: of a, b, c"),
        ("timestamp,ms", "latency", None, "line 1: --value latency: no such column; name one of timestamp, ms"),
        ("1,2", "3", None, "--value 3: no such column; name one of 2, by number: there is no header"),
        ("timestamp,value", "value", "value", "--value and --time name the same column"),
        ("timestamp,value", None, "when", "--time when: no such column"),
    ],
)
def test_columns_are_not_guessed(text: str, value: str | None, time: str | None, words: str) -> None:
    with pytest.raises(AmaruError) as raised:
        read(text, value, time)
    assert f"calls.csv, line 1: {words.removeprefix('line 1: ')}" in str(raised.value)


@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda text: text.encode()))))
def test_no_line_does_more_than_be_refused_with_words(given_lines: list[bytes]) -> None:
    series = Series("calls.csv")
    for number, line in enumerate(given_lines, 1):
        try:
            series.read(number, line.replace(b"\n", b""))
        except (Mistake, AmaruError) as error:
            assert "column" in str(error)  # noqa: PT017 - which of the two, if any, is the input's


@given(st.text(max_size=30))
def test_an_instant_is_a_finite_number_or_none_or_refused(text: str) -> None:
    try:
        at = instant(text)
    except ValueError:
        return
    assert at is None or utc(at)


def test_instants_at_the_ends_of_the_calendar() -> None:
    assert instant("0001-01-01 00:00:00+14:00") == pytest.approx(-62_135_596_800 - 14 * 3600)
    assert utc(1e300) == "1e+300 s"


def fed(blocks: list[bytes]) -> list[bytes | None]:
    """What `lines` makes of blocks that come one by one through a pipe."""
    end, begin = os.pipe()
    stop, told = os.pipe()

    def feed() -> None:
        for block in blocks:
            os.write(begin, block)
        os.close(begin)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        return list(lines("feed", end, stop))
    finally:
        feeding.join(30)
        for descriptor in (end, stop, told):
            os.close(descriptor)


def test_lines_come_as_they_are_ended() -> None:
    assert fed([b"a\nb", b"c\n", b"d"]) == [b"a", b"bc", b"d"]
    assert fed([b"a\n\nb\n"]) == [b"a", b"", b"b"]
    assert fed([]) == []


def test_a_feed_that_waits_ends_when_it_is_told_to() -> None:
    end, begin = os.pipe()
    stop, told = os.pipe()
    os.write(begin, b"a\nhalf")
    coming = lines("feed", end, stop)
    assert next(coming) == b"a"
    os.write(told, b".")
    assert list(coming) == []  # half a line is no line
    for descriptor in (end, begin, stop, told):
        os.close(descriptor)


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "endless.csv"
    path.write_bytes(b"1\n" + b"9" * 20_000_000 + b"\n2\n" + b"8" * MAX_LINE_BYTES + b"\n3")
    stop, told = os.pipe()
    descriptor = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    found = [line if line is None or len(line) < 2 else len(line) for line in lines("endless.csv", descriptor, stop)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for one in (descriptor, stop, told):
        os.close(one)
    assert found == [b"1", None, b"2", MAX_LINE_BYTES, b"3"]
    assert peak < 10 * MAX_LINE_BYTES
