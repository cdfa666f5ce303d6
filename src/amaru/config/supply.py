"""The shape of ``providers`` and ``offers``: where requests can go, what is served there, and at what price."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from amaru.config.fields import EnvName
from amaru.config.prices import DatedPriceSettings, OfferPriceSettings
from amaru.domain import GLOBAL_REGION, Kind, LimitField, PrefillStyle
from amaru.files.fields import FilePath, Identifier, Milliseconds, Name, Region, Section, mistake
from amaru.files.settings import CapabilityName
from amaru.protocols.surcharges import SurchargeName


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise mistake("its port is not a number from 1 to 65535", "write it like https://api.openai.com/v1") from None
    if parts.username is not None or parts.password is not None:
        raise mistake("holds a user name or password", "take it out; name the key with key_env or key_file")
    if parts.query or parts.fragment:
        raise mistake("holds a query or fragment", "end it with the path, e.g. https://api.openai.com/v1")
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f\x7f]", value):
        bare = value.split("://")[-1].strip("/ ")
        looks_whole = re.fullmatch(r"[\w.-]+(:\d+)?(/[\w./-]*)?", bare) is not None
        example = f"https://{bare}" if looks_whole and "/" in bare else "https://api.openai.com/v1"
        # The value itself is shown by the caller, which knows whether it looks like a secret.
        raise mistake("not a URL", f"write it with https://, e.g. {example}")
    return value.rstrip("/")


class TimeoutSettings(Section):
    """Limits for one provider; what is left out comes from `routing`."""

    connect_ms: Milliseconds = Field(default=3_000, description="Longest wait for a connection, with DNS and TLS.")
    first_token_ms: Milliseconds | None = Field(default=None, description="Longest wait for a stream's first token.")
    answer_ms: Milliseconds | None = Field(default=None, description="Longest wait for an answer that is not streamed.")
    idle_ms: Milliseconds | None = Field(default=None, description="Longest silence inside a stream.")


BaseUrl = Annotated[str, Field(max_length=2048), AfterValidator(_base_url)]


class AlternateSettings(Section):
    """Another address of the same provider, such as another version of its API or another endpoint."""

    base_url: BaseUrl = Field(
        description="Its address, up to and without /chat/completions. It gets the provider's key.",
        examples=["https://api.openai.com/v2"],
    )
    headers: dict[str, str] = Field(
        default={},
        description="Extra request headers, besides the provider's own, which they outrank. "
        "{env:NAME} in a value stands for that environment variable.",
    )


class ProviderSettings(Section):
    """One provider: where it is, and how to reach it."""

    protocol: Literal["openai"] = Field(default="openai", description="The API that it speaks.")
    base_url: BaseUrl = Field(
        description="Its address, up to and without /chat/completions.", examples=["https://api.openai.com/v1"]
    )
    alternates: tuple[AlternateSettings, ...] = Field(
        default=(),
        max_length=8,
        description="Other addresses of it that serve the same offers; asked where the first one ails.",
    )
    key_env: EnvName | None = Field(
        default=None,
        description="Environment variable that holds the provider's key; leave out for servers without keys.",
    )
    key_file: FilePath | None = Field(
        default=None,
        description="File that holds the provider's key, relative to the configuration file; it is watched.",
    )
    regions: tuple[Region, ...] = Field(
        default=(GLOBAL_REGION,), min_length=1, description="Regions that it serves from; `global` stands for anywhere."
    )
    labels: dict[Identifier, Name] = Field(
        default={},
        description="What it has in common with others, by your own words: when several fail together, a shared label "
        "is named as the cause.",
        examples=[{"bridge": "axelar"}],
    )
    headers: dict[str, str] = Field(
        default={}, description="Extra request headers. {env:NAME} in a value stands for that environment variable."
    )
    timeouts: TimeoutSettings = Field(default=TimeoutSettings(), description="Time limits of this provider.")
    max_connections: int = Field(default=256, ge=1, le=100_000, description="Connections at once to this provider.")
    transport: Literal["h1", "reqwest"] = Field(
        default="h1", description="h1: amaru's own HTTP/1.1 client. reqwest: a client in Rust that also speaks HTTP/2."
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of the certificate authorities to trust, relative to the configuration file.",
    )
    verify_tls: bool = Field(
        default=True, description="false: accept any certificate. For tests on your own machine only."
    )


def limit_field_at(base_url: str) -> LimitField:
    """What is heeded at an address, where nobody said."""
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com" or host.endswith(".api.openai.com"):
        return LimitField.MAX_COMPLETION_TOKENS
    if host.endswith(".azure.com"):  # by model and version, one or the other; what it does not know it refuses
        return LimitField.BOTH
    return LimitField.MAX_TOKENS


class OfferSettings(Section):
    """One provider's ability to serve one resource."""

    id: Name | None = Field(default=None, description="Its name in decisions and metrics; left out: provider/resource.")
    provider: str = Field(description="A provider named under `providers`.", examples=["openai"])
    resource: Name = Field(
        description="What callers ask for: a model's name or a GPU type. "
        "Offers of one resource stand in for each other.",
        examples=["gpt-4o-mini"],
    )
    model: Name | None = Field(default=None, description="The provider's own name for it; left out: the resource.")
    kinds: tuple[Kind, ...] = Field(default=(Kind.CHAT,), min_length=1, description="Kinds of work that it serves.")
    regions: tuple[Region, ...] | None = Field(
        default=None, min_length=1, description="Regions that it serves from; left out: the provider's."
    )
    labels: dict[Identifier, Name] = Field(
        default={}, description="As the provider's labels, for this offer; they win where both name one."
    )
    price: OfferPriceSettings | None = Field(
        default=None,
        description="What it charges; needed, unless `prices` says it.",
        examples=["{input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.6}"],
    )
    prices: tuple[DatedPriceSettings, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="What it charges, by date; the first price also holds before its date.",
        examples=["[{from: 2026-01-01, input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.6}]"],
    )
    price_covers: tuple[SurchargeName, ...] = Field(
        default=(),
        description="Fields of a request that may make it cost what no price of a token tells, and for which the price "
        "holds all the same. Others are not sent to it where a budget binds a request, unless it is free.",
        examples=[["provider", "web_search_options"]],
    )
    context_window_tokens: int | None = Field(
        default=None, ge=1, description="Longest input and output together, in tokens; left out: not checked."
    )
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest answer, in tokens, reasoning included. It bounds what is reserved for a request that sets "
        "no limit; left out: the context window does.",
    )
    limit_field: LimitField | None = Field(
        default=None,
        description="By which field of a chat it takes the caller's limit on the answer; whichever a caller wrote, "
        "this one is sent. both: either, so the caller's is. Left out: max_completion_tokens at OpenAI's own address, "
        "both at Azure's, max_tokens elsewhere, which nearly every server knows.",
    )
    bills_beyond_limit: bool = Field(
        default=False,
        description="true: it may bill more output than the caller's limit, since it heeds none or does not count "
        "reasoning. Its longest answer is then reserved for every request.",
    )
    max_image_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens that it counts one image as. It bounds what is reserved for images; left out: 48,169, "
        "the most of any known model.",
    )
    capabilities: tuple[CapabilityName, ...] = Field(
        default=("stream",),
        description="What it can do beyond plain text. prefill: continues a trailing assistant message.",
    )
    prefill_style: PrefillStyle | None = Field(
        default=None,
        description="How it is told to continue an assistant message. plain: by the message alone, also when left out. "
        "prefix: by `prefix` in the message (Mistral, DeepSeek). "
        "continue_final_message: by that field of the request (vLLM, SGLang).",
    )
    cache_s: float | None = Field(
        default=None,
        ge=0,
        le=604_800,
        description="Seconds for which it keeps a prompt in its cache after a turn of a conversation; left out: "
        "sessions.cache_s. 0: it has no cache.",
    )
    requests_per_min: float | None = Field(default=None, gt=0, description="The provider's rate limit on requests.")
    tokens_per_min: float | None = Field(default=None, gt=0, description="The provider's rate limit on tokens.")
    reputation: float = Field(default=50, ge=0, le=100, description="How far you trust it, 0 to 100.")
    latency_ms: Milliseconds = Field(
        default=500, description="Advertised time to the first token, until real answers are measured."
    )
    capacity: float | None = Field(
        default=None, gt=0, description="Requests at once (GPU-hours at once for gpu_job); left out: unbounded."
    )
