"""The formats of usage exports: which columns each has, and what they mean.

Sources, as of November 2026: OpenAI, "Usage" and "Costs" of the administration API, and the CSV of its dashboard;
Anthropic, "Usage and Cost Admin API", and the CSVs of its console; OpenRouter, "Activity", "Get generation", and the
CSV of its activity page. Amounts of Anthropic's cost report are in cents, all others in dollars.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Grain(enum.StrEnum):
    """What a line of an export is about."""

    REQUEST = "request"
    DAY = "day"
    """A model's use in a day of UTC, or in a part of it."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A format. Columns of one meaning are alternatives, but for tokens, which are added up."""

    name: str
    grain: Grain
    needs: frozenset[str]
    """Columns by which it is known."""
    at: str
    until: str | None = None
    ref: str | None = None
    """The provider's id of the answer."""
    model: tuple[str, ...]
    """The first that holds something."""
    cuts_model: bool = False
    """``MODEL, what of it``."""
    input: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    """A part of the input; of these the input's sum holds ``cached`` too."""
    output: tuple[str, ...] = ()
    requests: str | None = None
    cost: str | None = None
    cost_shift: int = 0
    """Decimal places between the amount and dollars."""
    currency: str | None = None
    utc: bool = False
    """Times that name no zone are UTC, as its documentation says."""


def _plain(name: str, grain: Grain, at: str) -> Shape:
    return Shape(
        name=name,
        grain=grain,
        needs=frozenset({at, "model", "input_tokens", "output_tokens"}),
        at=at,
        ref="id" if grain is Grain.REQUEST else None,
        model=("model",),
        input=("input_tokens",),
        cached=("cached_input_tokens",),
        output=("output_tokens",),
        cost="cost_usd",
        currency="currency",
        requests="requests" if grain is Grain.DAY else None,
        utc=grain is Grain.DAY,
    )


SHAPES = (
    Shape(
        name="OpenAI costs",
        grain=Grain.DAY,
        needs=frozenset({"start_time", "amount.value", "line_item"}),
        at="start_time",
        until="end_time",
        model=("line_item",),
        cuts_model=True,
        cost="amount.value",
        currency="amount.currency",
    ),
    Shape(
        name="OpenAI costs (CSV)",
        grain=Grain.DAY,
        needs=frozenset({"start_time", "amount_value", "line_item"}),
        at="start_time",
        until="end_time",
        model=("line_item",),
        cuts_model=True,
        cost="amount_value",
        currency="amount_currency",
    ),
    Shape(
        name="OpenAI usage",
        grain=Grain.DAY,
        needs=frozenset({"start_time", "model", "input_tokens", "num_model_requests"}),
        at="start_time",
        until="end_time",
        model=("model",),
        input=("input_tokens",),
        cached=("input_cached_tokens",),
        output=("output_tokens",),
        requests="num_model_requests",
    ),
    Shape(
        name="Anthropic usage report",
        grain=Grain.DAY,
        needs=frozenset({"starting_at", "uncached_input_tokens", "output_tokens"}),
        at="starting_at",
        until="ending_at",
        model=("model",),
        input=(
            "uncached_input_tokens",
            "cache_read_input_tokens",
            "cache_creation.ephemeral_5m_input_tokens",
            "cache_creation.ephemeral_1h_input_tokens",
        ),
        cached=("cache_read_input_tokens",),
        output=("output_tokens",),
    ),
    Shape(
        name="Anthropic cost report",
        grain=Grain.DAY,
        needs=frozenset({"starting_at", "amount", "currency"}),
        at="starting_at",
        until="ending_at",
        model=("model", "description"),
        cost="amount",
        cost_shift=-2,
        currency="currency",
    ),
    Shape(
        name="Anthropic tokens (CSV)",
        grain=Grain.DAY,
        needs=frozenset({"usage_date_utc", "model_version", "usage_input_tokens_no_cache", "usage_output_tokens"}),
        at="usage_date_utc",
        model=("model_version",),
        input=(
            "usage_input_tokens_no_cache",
            "usage_input_tokens_cache_read",
            "usage_input_tokens_cache_write_5m",
            "usage_input_tokens_cache_write_1h",
        ),
        cached=("usage_input_tokens_cache_read",),
        output=("usage_output_tokens",),
        utc=True,
    ),
    Shape(
        name="Anthropic costs (CSV)",
        grain=Grain.DAY,
        needs=frozenset({"usage_date_utc", "model", "cost_usd"}),
        at="usage_date_utc",
        model=("model", "cost_type"),
        cost="cost_usd",
        utc=True,
    ),
    Shape(
        name="OpenRouter activity (CSV)",
        grain=Grain.REQUEST,
        needs=frozenset({"generation_id", "created_at", "cost_total", "tokens_prompt", "tokens_completion"}),
        at="created_at",
        ref="generation_id",
        model=("model_permaslug",),
        input=("tokens_prompt",),
        cached=("tokens_cached",),
        output=("tokens_completion",),
        cost="cost_total",
        utc=True,
    ),
    Shape(
        name="OpenRouter generation",
        grain=Grain.REQUEST,
        needs=frozenset({"id", "created_at", "total_cost", "native_tokens_prompt", "native_tokens_completion"}),
        at="created_at",
        ref="id",
        model=("model",),
        input=("native_tokens_prompt",),
        cached=("native_tokens_cached",),
        output=("native_tokens_completion",),
        cost="total_cost",
        utc=True,
    ),
    Shape(
        name="OpenRouter activity",
        grain=Grain.DAY,
        needs=frozenset({"date", "model", "usage", "prompt_tokens", "completion_tokens"}),
        at="date",
        model=("model",),
        input=("prompt_tokens",),
        output=("completion_tokens",),
        requests="requests",
        cost="usage",
        utc=True,
    ),
    _plain("plain, a line for each request", Grain.REQUEST, "at"),
    _plain("plain, a line for each day and model", Grain.DAY, "day"),
)
"""Those that ask for more stand before those that would take them too."""


def shape_of(columns: Iterable[str]) -> Shape | None:
    """The first format that all columns of are there."""
    have = frozenset(columns)
    return next((shape for shape in SHAPES if shape.needs <= have), None)


def known_shapes() -> str:
    """One line for each format, with the columns that were looked for."""
    return "\n".join(f"  {shape.name}: {', '.join(sorted(shape.needs))}" for shape in SHAPES)
