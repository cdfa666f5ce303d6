"""Traces as JSON lines, and telling the formats apart."""

import io
import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import TraceError
from amaru.simulation import traces_base
from amaru.simulation.traces import (
    TraceFormat,
    TraceRequest,
    bundled_trace,
    open_trace,
    read_amaru,
    read_azure,
    read_mooncake,
    write_amaru,
)
from amaru.simulation.traces_json import amaru_rows

MOONCAKE = Path(__file__).parents[3] / "shared" / "data" / "mooncake" / "conversation_trace.jsonl"
AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def mooncake(timestamp: float, length: int, ids: list | None = None, **fields) -> dict:
    return {"timestamp": timestamp, "input_length": length, "output_length": 5, "hash_ids": ids or [], **fields}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.mark.skipif(not MOONCAKE.is_file(), reason="the Mooncake trace (../shared/data/mooncake) is not here")
def test_the_real_mooncake_trace() -> None:
    trace = open_trace(MOONCAKE)
    assert trace.format is TraceFormat.MOONCAKE
    requests = list(trace.requests)
    assert len(requests) == 12_031
    assert requests[0] == TraceRequest(0.0, 6758, 500, tuple(range(14)))
    assert requests[-1].at_s == pytest.approx(3536.999)
    assert max(request.input_tokens for request in requests) == 126_195


def test_mooncake_times_are_milliseconds_from_the_first(path: Path) -> None:
    path.write_text(lines(mooncake(1500, 700, [7, 8]), mooncake(2750.0, 512, [7], session_id="may be there")))
    assert list(read_mooncake(path)) == [TraceRequest(0.0, 700, 5, (7, 8)), TraceRequest(1.25, 512, 5, (7,))]


def test_mooncake_without_hashes_and_with_hashes_of_text(path: Path) -> None:
    path.write_text('{"timestamp":0,"input_length":9,"output_length":1}\n\n' + lines(mooncake(0, 9, ["a1f0"])))
    assert [request.blocks for request in read_mooncake(path)] == [(), ("a1f0",)]


def test_our_own_format_in_short_and_in_full(path: Path) -> None:
    short = {"at_s": 1.7e9, "input_tokens": 5, "output_tokens": 6}
    full = {"at_s": 1.7e9 + 2, "input_tokens": 40, "output_tokens": 0, "blocks": [1, "two"], "block_tokens": 16}
    path.write_text("\ufeff" + lines(short, full).replace("\n", "\r\n"))
    assert list(read_amaru(path)) == [TraceRequest(0.0, 5, 6), TraceRequest(2.0, 40, 0, (1, "two"), 16)]


@pytest.mark.parametrize(
    ("text", "format"),
    [
        (AZURE_HEADER + "2023-11-16 18:17:03.9799600,5,6\n", TraceFormat.AZURE),
        (" timestamp , GeneratedTokens,ContextTokens\n2024-05-10T00:00:00Z,6,5\n", TraceFormat.AZURE),
        ("\n\n" + lines(mooncake(3, 5, [1])), TraceFormat.MOONCAKE),
        (lines({"at_s": 3, "input_tokens": 5, "output_tokens": 6}), TraceFormat.AMARU),
    ],
)
def test_a_format_is_told_by_content(text: str, format: TraceFormat, path: Path) -> None:
    path.write_text(text)
    trace = open_trace(path)
    assert trace.format is format
    assert [request.input_tokens for request in trace.requests] == [5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: no known trace: nothing. It must begin with the header TIMESTAMP,ContextTokens,GeneratedTokens"),
        ("\n" * 200, "no known trace: nothing"),
        ("a,b,c\n", "line 1: no known trace: 'a,b,c'"),
        ('[{"at_s": 0}]\n', "a JSON array; write one object a line"),
        ("{}\n", "an object with no fields"),
        ('{"prompt": "x", "model": "y"}\n', "an object with model, prompt"),
        ('\n{"at_s": 0,\n', "line 2: no JSON (Input data was truncated); write one object a line, like {"),
        ("Timestamp,Model,Request tokens\n", "line 1: no column ContextTokens, GeneratedTokens"),
        # Mooncake
        (lines(mooncake(0, 5, [1]) | {"timestamp": None}), "line 1, field timestamp: expected `float`, got `null`"),
        (lines(mooncake(0, 5, [1]) | {"input_length": -1}), "line 1, field input_length: expected `int` >= 0"),
        (lines(mooncake(0, 5, [1]) | {"output_length": 1e9}), "line 1, field output_length: expected `int`"),
        (lines(mooncake(0, 5, [1]), mooncake(0, 5, [1.5])), "line 2, field hash_ids[0]: expected"),
        (lines(mooncake(0, 513, [1])), "field hash_ids: 1 blocks, but an input_length of 513 takes 2 of 512 tokens"),
        (lines({"timestamp": 0, "input_length": 5}), "line 1, field output_length: missing; write it like {"),
        (lines(mooncake(9, 5, [1]), mooncake(8, 5, [1])), "line 2, field timestamp: earlier than the line before it"),
        # our own
        (lines({"at_s": 0, "input_tokens": 5}), "line 1, field output_tokens: missing"),
        (
            lines({"at_s": 0, "input_tokens": 5, "output_tokens": 6, "block": [1]}),
            "line 1, field block: not a field of this format; write it like {",
        ),
        (
            lines({"at_s": 0, "input_tokens": 5, "output_tokens": 6, "blocks": [1, 2]}),
            "line 1, field blocks: 2 blocks, but 5 input_tokens have room for 1 of 512 tokens",
        ),
        (
            lines({"at_s": 0, "input_tokens": 5, "output_tokens": 6, "block_tokens": 0}),
            "line 1, field block_tokens: expected `int` >= 1",
        ),
        (
            lines(
                {"at_s": 5, "input_tokens": 5, "output_tokens": 6}, {"at_s": 4, "input_tokens": 5, "output_tokens": 6}
            ),
            "line 2, field at_s: earlier than the line before it; sort the file by at_s",
        ),
        (lines({"at_s": 0, "input_tokens": 5, "output_tokens": 6}) + "nonsense\n", "line 2: no JSON ("),
        (lines({"at_s": 0, "input_tokens": 5, "output_tokens": 6}) + "[]\n", "line 2: expected `object`, got `array`"),
        ('{"at_s": 1e999, "input_tokens": 5, "output_tokens": 6}', "line 1, field at_s: number out of range"),
    ],
)
def test_a_mistake_is_named_with_line_field_and_remedy(text: str, words: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        list(open_trace(path).requests)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_no_text(path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        open_trace(path)
    with pytest.raises(TraceError, match="cannot be read"):
        open_trace(path.parent)
    path.write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(TraceError, match="Unpack it first"):
        open_trace(path)


def test_a_line_without_an_end_is_not_read_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_base, "MAX_LINE_CHARACTERS", 100)
    path.write_text('{"at_s": 0, "input_tokens": 1, "output_tokens": 1}\n' + "x" * 10_000)
    rows = open_trace(path).requests
    assert next(rows) == TraceRequest(0.0, 1, 1)
    with pytest.raises(TraceError, match="line 2: longer than"):
        next(rows)


def test_lines_are_read_one_at_a_time(path: Path) -> None:
    path.write_text(lines(mooncake(0, 5, [1])) + "nonsense\n")
    rows = open_trace(path).requests
    assert next(rows) == TraceRequest(0.0, 5, 5, (1,))  # the line before the mistake is already out
    with pytest.raises(TraceError):
        next(rows)


def test_any_trace_becomes_ours_without_loss(path: Path) -> None:
    requests = list(read_azure(bundled_trace()))
    with path.open("w") as out:
        write_amaru(out, requests)
    trace = open_trace(path)
    assert trace.format is TraceFormat.AMARU
    assert list(trace.requests) == requests
    assert path.read_text().splitlines()[0] == '{"at_s":0.0,"input_tokens":394,"output_tokens":189}'


_BLOCK_TOKENS = st.integers(1, 600)


@st.composite
def _requests(draw: st.DrawFn) -> list[TraceRequest]:
    at_s, made = 0.0, []
    for gap_s in [0.0, *draw(st.lists(st.floats(0, 1e4), max_size=5))]:
        at_s += gap_s
        tokens, size = draw(st.integers(0, 5000)), draw(_BLOCK_TOKENS)
        names = st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(max_size=8), st.just("\u2028\r\n"))
        blocks = draw(st.lists(names, max_size=-(-tokens // size)))
        made.append(TraceRequest(at_s, tokens, draw(st.integers(0, 5000)), tuple(blocks), size))
    return made


@given(_requests())
def test_what_is_written_is_read_back(requests: list[TraceRequest]) -> None:
    out = io.StringIO()
    write_amaru(out, requests)
    written = io.StringIO(out.getvalue(), newline="")  # lines as a file has them: not every separator ends one
    assert list(amaru_rows(Path("t"), written)) == requests


@given(st.binary(max_size=300), st.sampled_from(["", AZURE_HEADER, '{"at_s":0,"input_tokens":1,"output_tokens":1}\n']))
def test_whatever_stands_in_a_file_it_is_read_or_refused_in_words(data: bytes, head: str) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(head.encode() + data)
        file.flush()
        try:
            read = list(open_trace(Path(file.name)).requests)
        except TraceError as error:
            read = []
            words = str(error)
        else:
            words = file.name
    assert file.name in words
    assert all(a.at_s <= b.at_s for a, b in itertools.pairwise(read))
    assert all(request.input_tokens >= 0 for request in read)
