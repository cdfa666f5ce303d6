"""Exports of providers are read line by line, or refused with the line at fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.accounts.export_lines import Billed, model_key
from amaru.accounts.exports import Export
from amaru.errors import AccountError

DAY = 1_793_491_200
"""2026-11-01, which begins then."""
PLAIN = "id,at,model,input_tokens,cached_input_tokens,output_tokens,cost_usd\n"


def read(tmp_path: Path, content: str | bytes, name: str = "export") -> tuple[str, list[Billed]]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    export = Export(path)
    return export.shape.name, [billed for _, billed in export.lines()]


def refused(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(AccountError) as caught:
        read(tmp_path, content)
    return str(caught.value)


def openai(results: list[dict[str, Any]], **page: Any) -> dict[str, Any]:
    bucket = {"object": "bucket", "start_time": DAY, "end_time": DAY + 86400, "results": results}
    return {"object": "page", "data": [{**bucket, "results": []}, bucket], "has_more": False, **page}


OPENAI_USAGE = {
    "object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500,
    "input_cached_tokens": 800, "num_model_requests": 5, "project_id": None, "model": "gpt-4o-mini-2024-07-18",
}  # fmt: skip
OPENAI_COST = {
    "object": "organization.costs.result", "amount": {"value": 0.06, "currency": "usd"},
    "line_item": "gpt-4o-mini-2024-07-18, cached input", "project_id": None,
}  # fmt: skip
ANTHROPIC_USAGE = {
    "uncached_input_tokens": 100, "cache_read_input_tokens": 40, "output_tokens": 7,
    "model": "claude-haiku-4-5-20251001",
    "cache_creation": {"ephemeral_1h_input_tokens": 3, "ephemeral_5m_input_tokens": 2}, "service_tier": "standard",
}  # fmt: skip
ANTHROPIC_COST = {"amount": "123.456", "currency": "USD", "model": None, "description": "Web Search Usage"}
_ANTHROPIC_BUCKET = {"starting_at": "2026-11-01T00:00:00Z", "ending_at": "2026-11-02T00:00:00Z"}


def anthropic(result: dict[str, Any]) -> str:
    return json.dumps({"data": [{**_ANTHROPIC_BUCKET, "results": [result]}], "has_more": False, "next_page": None})


def table(**row: Any) -> str:
    return f"{','.join(row)}\n{','.join(map(str, row.values()))}\n"


def on_a_day(model: str, **figures: Any) -> Billed:
    return Billed(at=float(DAY), until=DAY + 86400.0, model=model, **figures)


FORMATS = {
    "OpenAI usage": (
        json.dumps(openai([OPENAI_USAGE]), indent=1),
        on_a_day(
            "gpt-4o-mini-2024-07-18", input_tokens=1000, cached_input_tokens=800, output_tokens=500, requests=5
        ),
    ),
    "OpenAI costs": (
        "\n".join(json.dumps(page) for page in (openai([], has_more=True), openai([OPENAI_COST]))),
        on_a_day("gpt-4o-mini-2024-07-18", cost_pusd=60_000_000_000, decimals=2),
    ),
    "OpenAI costs (CSV)": (
        f"start_time,end_time,amount_value,amount_currency,line_item\n{DAY},{DAY + 86400},0.5,usd,\"gpt-4o, input\"\n",
        on_a_day("gpt-4o", cost_pusd=500_000_000_000, decimals=1),
    ),
    "Anthropic usage report": (
        anthropic(ANTHROPIC_USAGE),
        on_a_day("claude-haiku-4-5-20251001", input_tokens=145, cached_input_tokens=40, output_tokens=7),
    ),
    "Anthropic cost report": (
        anthropic(ANTHROPIC_COST),
        on_a_day("Web Search Usage", cost_pusd=1_234_560_000_000, decimals=5),
    ),
    "Anthropic tokens (CSV)": (
        table(
            usage_date_utc="2026-11-01", model_version="claude-haiku-4-5-20251001", usage_input_tokens_no_cache=100,
            usage_input_tokens_cache_write_5m=5, usage_input_tokens_cache_read=40, usage_output_tokens=7,
        ),
        on_a_day("claude-haiku-4-5-20251001", input_tokens=145, cached_input_tokens=40, output_tokens=7),
    ),
    "Anthropic costs (CSV)": (
        table(
            usage_date_utc="2026-11-01", model="Claude Haiku 4.5", token_type="input_no_cache", cost_usd=0.05,
            list_price_usd=0.05, cost_type="token",
        ),
        on_a_day("Claude Haiku 4.5", cost_pusd=50_000_000_000, decimals=2),
    ),
    "OpenRouter activity (CSV)": (
        table(
            generation_id="gen-1", created_at="2026-11-01 00:00:01.5", cost_total=0.0015, tokens_prompt=10,
            tokens_completion=25, tokens_reasoning=5, tokens_cached=3, model_permaslug="openai/gpt-4.1-2025-04-14",
        ),
        Billed(
            at=DAY + 1.5, ref="gen-1", model="openai/gpt-4.1-2025-04-14", input_tokens=10, cached_input_tokens=3,
            output_tokens=25, cost_pusd=1_500_000_000, decimals=4,
        ),
    ),
    "OpenRouter generation": (
        json.dumps({"data": {
            "id": "gen-1", "created_at": "2026-11-01T00:00:01+00:00", "model": "openai/gpt-4.1", "total_cost": 0.0015,
            "native_tokens_prompt": 10, "native_tokens_completion": 25, "native_tokens_cached": None,
        }}),
        Billed(
            at=DAY + 1.0, ref="gen-1", model="openai/gpt-4.1", input_tokens=10, output_tokens=25,
            cost_pusd=1_500_000_000, decimals=4,
        ),
    ),
    "OpenRouter activity": (
        json.dumps({"data": [{
            "date": "2026-11-01", "model": "openai/gpt-4.1", "usage": 0.015, "byok_usage_inference": 0, "requests": 5,
            "prompt_tokens": 50, "completion_tokens": 125, "reasoning_tokens": 25,
        }]}),
        on_a_day(
            "openai/gpt-4.1", input_tokens=50, output_tokens=125, requests=5, cost_pusd=15_000_000_000, decimals=3
        ),
    ),
    "plain, a line for each request": (
        "\ufeff" + PLAIN + "chatcmpl-1,2026-11-01T01:00:00+01:00,large,10,3,25,-0.000000000001\n",
        Billed(
            at=float(DAY), ref="chatcmpl-1", model="large", input_tokens=10, cached_input_tokens=3, output_tokens=25,
            cost_pusd=-1, decimals=12,
        ),
    ),
    "plain, a line for each day and model": (
        '{"day": "2026-11-01", "model": "large", "input_tokens": 10, "output_tokens": 25, "cost_usd": "7"}\n',
        on_a_day("large", input_tokens=10, output_tokens=25, cost_pusd=7_000_000_000_000),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_known_format_gives_what_was_billed(tmp_path: Path, name: str) -> None:
    content, billed = FORMATS[name]
    assert read(tmp_path, content) == (name, [billed])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,2026-11-01T00:00:00,m,1,0,1,1", 'at: "2026-11-01T00:00:00" names no zone'),
        ("a,2026-11-01,m,1,0,1,1", "is a day; a line for one request needs its time"),
        ("a,1793491200000,m,1,0,1,1", "is no time in Unix seconds"),
        ("a,20261101,m,1,0,1,1", "is no time in Unix seconds"),
        ("a,0001-01-01T00:00:00Z,m,1,0,1,1", "or not of our days"),
        ("a,soon,m,1,0,1,1", 'at: "soon" is no time'),
        ("a\x1b[2J,1793491200,m,1,0,1,1", "id: not 1 to 200 printable characters"),
        ("a,1793491200,m\0,1,0,1,1", "model: not 1 to 200 printable characters"),
        ("a,1793491200,,1,0,1,1", "model: empty"),
        ("a,1793491200,m,-1,0,1,1", 'input_tokens: "-1" is no number of tokens'),
        ("a,1793491200,m,1.5,0,1,1", 'input_tokens: "1.5" is no number of tokens'),
        ("a,1793491200,m,1,0,1,nan", 'cost_usd: "nan" is no plain number'),
        ("a,1793491200,m,1,0,1,1_0", 'cost_usd: "1_0" is no plain number'),
        ("a,1793491200,m,1,0,1,$1", 'cost_usd: "$1" is no plain number'),
        ("a,1793491200,m,1,0,1,1e300", "more than 9,000,000 dollars in one line"),
        ("a,1793491200,m,1,0,1", "6 columns, where the header has 7"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, said: str) -> None:
    message = refused(tmp_path, f"{PLAIN}good,1793491200,m,1,0,1,1\n{line}\n")
    assert "nothing was changed" in message
    assert "/export:3: " in message
    assert said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "nothing is billed"),
        (PLAIN, "nothing is billed"),
        ('{"data": []}', "nothing is billed"),
        ("day,colour\n1,red\n", 'It has "day", "colour"'),
        ("day,colour\n1,red\n", "plain, a line for each request: at, input_tokens, model, output_tokens"),
        ("at,at\n1,2\n", "two columns have one name"),
        (PLAIN + 'a,"1793491200', "not CSV"),
        (PLAIN.encode() + b"\xff,1793491200,m,1,0,1,1\n", "not UTF-8"),
        (json.dumps(openai([OPENAI_COST], has_more=True)), "the export goes on (has_more is true)"),
        (json.dumps(openai([OPENAI_COST | {"amount": {"value": 1, "currency": "eur"}}])), 'an amount in "eur"'),
        (json.dumps(openai([OPENAI_USAGE | {"model": None}])), "model: empty; export it by model"),
        ('{"day": "2026-11-01", "model": "m", "input_tokens": 1, "output_tokens": 1}\n{"day"\n', "export:2: not JSON"),
        ('{"day": "2026-11-01T05:00:00", "model": "m", "input_tokens": 1, "output_tokens": 1}', "not a day of UTC"),
        ("[" * 100_000, "nothing is billed"),
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, content)


def test_of_many_mistakes_the_first_are_told(tmp_path: Path) -> None:
    message = refused(tmp_path, PLAIN + "a,soon,m,1,0,1,1\n" * 500)
    assert message.count("is no time") == 20
    assert message.endswith("and 480 more")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="No such file"):
        Export(tmp_path / "nowhere.csv")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
plain_records = st.fixed_dictionaries({name: json_values | st.integers(0, 2**33) for name in PLAIN.strip().split(",")})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | st.lists(plain_records, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
)
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    try:
        _, lines = read(tmp_path, content)
    except AccountError:
        return
    assert all(billed.at > 0 and billed.model for billed in lines)


@pytest.mark.parametrize(
    ("one", "other"),
    [("gpt-4o-2024-08-06", "GPT-4o"), ("Claude Sonnet 4.5", "claude-sonnet-4-5-20250929"), ("a@20250101", "a")],
)
def test_names_of_a_model_that_are_one(one: str, other: str) -> None:
    assert model_key(one) == model_key(other)


def test_versions_of_a_model_are_not_one() -> None:
    assert model_key("gpt-4.1") != model_key("gpt-4.1-mini")
