"""Fields of a request that may make it cost what no price of a token tells: fees, other models, dearer tiers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

import msgspec
from msgspec import Raw, Struct

SurchargeName = Literal[
    "service_tier",
    "tools",
    "web_search_options",  # OpenAI, Perplexity: a fee for each call
    "search_parameters",  # xAI: for each source
    "enable_search",  # Alibaba: for each call
    "plugins",  # OpenRouter: for searches, and pages that are read
    "compound_custom",  # Groq: tools of its own
    "models",  # OpenRouter: models to fall back on, as the next
    "fallbacks",  # LiteLLM
    "route",
    "provider",  # OpenRouter: by whom a model is served, at that one's price
    "preset",  # OpenRouter: fields that are kept there, models among them
    "speed",  # Anthropic: fast, at several times the price
    "inference_geo",  # Anthropic: a factor on the price
]
SURCHARGES: tuple[SurchargeName, ...] = get_args(SurchargeName)
"""All of them. Stored decisions name them by their place: new ones go to the end."""
SURCHARGE_FIELDS = frozenset(SURCHARGES)
_OTHERS = SURCHARGE_FIELDS - {"tools"}
_OFF = frozenset((b"null", b"false", b"[]", b'""', b'"standard"', b'"global"'))
_USUAL_TIERS = frozenset(("auto", "default", "standard", "standard_only", "on_demand"))
"""What providers call the tier of their usual price, or whichever an account has by itself."""
_CALLERS_TOOLS = frozenset(("function", "custom"))
"""Types of tools that the caller runs."""


class _Tool(Struct, gc=False):
    type: str = ""


_read_tools = msgspec.json.Decoder(list[_Tool] | None).decode


class Surcharge(Struct, frozen=True, gc=False):
    """A field that a request sets."""

    field: str
    service_tier: str | None = None
    """Which one is asked for; ``None`` of other fields."""


_RUN_TOOLS = Surcharge("tools")


def surcharges_of(fields: Mapping[str, Raw]) -> tuple[Surcharge, ...]:
    """Those that a request sets; some ten nanoseconds a field where there are none."""
    runs = (_RUN_TOOLS,) if "tools" in fields and _runs_tools(fields["tools"]) else ()
    if _OTHERS.isdisjoint(fields):
        return runs
    found = [*runs]
    for field in SURCHARGES:
        raw = fields.get(field)
        if raw is None or field == "tools" or bytes(raw) in _OFF:
            continue
        tier = _service_tier(raw) if field == "service_tier" else None
        if tier not in _USUAL_TIERS:
            found.append(Surcharge(field, tier))
    return tuple(found)


def runs_tools(surcharges: Collection[Surcharge]) -> bool:
    """Whether the provider itself runs tools."""
    return _RUN_TOOLS in surcharges


def _runs_tools(tools: Raw) -> bool:
    """Whether any is run by the provider itself, which bills what it finds as a part of the prompt, and often a fee."""
    try:
        return any(tool.type not in _CALLERS_TOOLS for tool in _read_tools(tools) or ())
    except msgspec.ValidationError:  # a type that is no text: the provider's to refuse
        return True


def _service_tier(raw: Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        return ""
