"""Traces: the real ones, the bundled one, wrong ones."""

import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import TraceError
from amaru.simulation.trace_generator import START, TraceShape, generate, main
from amaru.simulation.traces import TraceRequest, bundled_trace, read_azure, write_azure

AZURE = Path(__file__).parents[3] / "shared" / "data" / "azure"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.skipif(not AZURE.is_dir(), reason="the Azure traces (../shared/data/azure) are not here")
@pytest.mark.parametrize(("name", "rows", "last_s"), [("code", 8819, 3435.9), ("conv", 19366, 3501.7)])
def test_the_real_traces(name: str, rows: int, last_s: float) -> None:
    requests = list(read_azure(AZURE / f"AzureLLMInferenceTrace_{name}.csv"))
    assert len(requests) == rows
    assert requests[0].at_s == 0
    assert requests[-1].at_s == pytest.approx(last_s, abs=0.1)
    assert all(request.input_tokens > 0 and request.output_tokens > 0 for request in requests)


def test_the_bundled_trace_is_what_its_seed_makes(tmp_path: Path) -> None:
    main([str(tmp_path / "made.csv")])
    assert (tmp_path / "made.csv").read_bytes() == bundled_trace().read_bytes()
    assert bundled_trace().stat().st_size < 200_000


def test_the_bundled_trace_looks_like_conversations() -> None:
    requests = list(read_azure(bundled_trace()))
    inputs = sorted(request.input_tokens for request in requests)
    outputs = sorted(request.output_tokens for request in requests)
    assert 900 < inputs[len(inputs) // 2] < 1150
    assert 115 < outputs[len(outputs) // 2] < 145
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(requests)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance / mean**2 > 1.1  # burstier than a Poisson process, whose ratio is 1


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "2023-11-16 18:17:03.9799600,1,2\nnonsense\n")
    rows = read_azure(path)
    assert next(rows) == TraceRequest(0.0, 1, 2)  # the row before the mistake is already out
    with pytest.raises(TraceError):
        next(rows)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "2023-11-16 18:17:03.9799600,5,6\n2023-11-16 18:17:04.9799600,7,8\n",
        HEADER.strip() + "\r\n2023-11-16 18:17:03.9799600,5,6\r\n2023-11-16 18:17:04.9799600,7,8",
        HEADER + "2024-05-10 00:00:00.009930+00:00,5,6\n2024-05-10 00:00:01.009930+00:00,7,8\n",
        "\ufeffGeneratedTokens, timestamp, ContextTokens\n6, 2024-05-10T00:00:00Z, 5\n\n8, 2024-05-10T00:00:01Z, 7\n",
    ],
)
def test_every_variant_of_the_header_and_the_time(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    assert list(read_azure(path)) == [TraceRequest(0.0, 5, 6), TraceRequest(1.0, 7, 8)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("a,b,c\n", "the header must be TIMESTAMP,ContextTokens,GeneratedTokens"),
        (HEADER, "at least one row"),
        (HEADER + "yesterday,1,2\n", "line 2, column TIMESTAMP: 'yesterday' is no time"),
        (HEADER + "2023-11-16 18:17:03,1\n", "line 2, column GeneratedTokens: missing"),
        (HEADER + "2023-11-16 18:17:03,-1,2\n", "line 2, column ContextTokens: '-1' is no count"),
        (HEADER + "2023-11-16 18:17:03,1,1e3\n", "line 2, column GeneratedTokens"),
        (HEADER + "2023-11-16 18:17:03,1,999999999999999\n", "is no count of tokens"),
        (HEADER + "2023-11-16 18:17:03,1,2\n2023-11-16 18:17:02,1,2\n", "line 3, column TIMESTAMP: earlier"),
    ],
)
def test_a_mistake_is_named_with_line_column_and_remedy(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        list(read_azure(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_azure(tmp_path / "missing.csv"))
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(TraceError, match="Unpack it first"):
        list(read_azure(tmp_path / "packed"))


@given(st.integers(0, 2**32))
def test_a_generated_trace_is_in_order_and_reproducible(seed: int) -> None:
    shape = TraceShape(duration_s=30)
    requests = list(generate(shape, seed))
    assert requests == list(generate(shape, seed))
    assert all(a.at_s <= b.at_s for a, b in itertools.pairwise(requests))
    assert all(2 <= request.input_tokens <= shape.input_max for request in requests)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    requests = [TraceRequest(0.0, 1, 2), TraceRequest(0.999999, 3, 4), TraceRequest(61.25, 5, 6)]
    out = io.StringIO()
    write_azure(out, requests, START)
    (tmp_path / "t.csv").write_text(out.getvalue())
    assert list(read_azure(tmp_path / "t.csv")) == requests
