"""The shape of ``amaru.yaml``, as pydantic models.

What is checked here is what one field can tell by itself: its type and its range. What needs a second field, the
environment or a file is checked in ``checks.py`` and ``secrets.py``, so that one run names every mistake.

The descriptions are the reference documentation: ``amaru config schema`` prints them and editors show them. A field
marked ``restart`` is read once, when the server starts; every other one takes effect when the file is reloaded.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from amaru.domain import GLOBAL_REGION, Capability, Kind

RESTART: JsonDict = {"x-amaru-restart": True}
"""Marks a field that a reload cannot change."""

MISTAKE = "amaru_mistake"
"""Error type of our own validators; its context holds ``problem`` and ``remedy``, and never the value."""


def mistake(problem: str, remedy: str) -> PydanticCustomError:
    """An error for a validator to raise, in the two halves that every message of ours has."""
    return PydanticCustomError(MISTAKE, "{problem}", {"problem": problem, "remedy": remedy})


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


def _one_or_many(value: Any) -> Any:  # Any: raw YAML, typed right after
    return [value] if isinstance(value, str) else value


Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[!-~](?:[ -~]{0,198}[!-~])?$")]
Region = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["eu-west"])]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["OPENAI_API_KEY"])]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]
UsdPerMtok = Annotated[float, Field(ge=0, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]


class Section(BaseModel):
    """Base of every part of the file: unknown fields are refused, and values cannot change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _tidy(cls, data: Any) -> Any:  # Any: raw YAML
        """An empty value is no value: ``retry_budget:`` with every line below it commented out means the defaults.

        And ``true`` is no number: pydantic would read it as 1.
        """
        if not isinstance(data, dict):
            return data
        flags = {name for name, info in cls.model_fields.items() if info.annotation is bool}
        return {
            name: str(value).lower() if isinstance(value, bool) and name not in flags else value
            for name, value in data.items()
            if value is not None
        }


class KeyReference(Section):
    """Where a key that callers present comes from. Exactly one of the three."""

    sha256: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")] | None = Field(
        default=None, description="SHA-256 of the key in hex; the key itself is in no file. `amaru init` writes one."
    )
    env: EnvName | None = Field(default=None, description="Environment variable that holds the key.")
    file: FilePath | None = Field(
        default=None, description="File that holds the key, relative to the configuration file."
    )


class ServerSettings(Section):
    """Where amaru listens, and whom it lets in."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default="127.0.0.1",
        description="Address to listen on. 0.0.0.0 listens on every IPv4 interface.",
        json_schema_extra=RESTART,
    )
    port: int = Field(
        default=8080, ge=0, le=65535, description="TCP port; 0 takes a free one.", json_schema_extra=RESTART
    )
    auth: Literal["keys", "none"] = Field(
        default="keys",
        description="keys: callers present a tenant's key. none: anybody who reaches the port may call; "
        "allowed on a loopback host only.",
    )
    operator_keys: tuple[KeyReference, ...] = Field(
        default=(), description="Keys that open /status, /metrics and the decisions of every tenant."
    )
    max_body_mb: float = Field(
        default=32,
        gt=0,
        le=1024,
        description="Largest request body, in MiB; a larger one gets 413.",
        json_schema_extra=RESTART,
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Connections at once; one more gets 503.",
        json_schema_extra=RESTART,
    )
    drain_s: float = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that open requests get to finish when the server is told to stop.",
    )
    keep_alive_s: float = Field(
        default=75,
        gt=0,
        le=3600,
        description="Seconds after which an idle connection is closed.",
        json_schema_extra=RESTART,
    )


class TimeoutSettings(Section):
    """Limits for one provider; what is left out comes from `routing`."""

    connect_ms: Milliseconds = Field(default=3_000, description="Longest wait for a connection, with DNS and TLS.")
    first_token_ms: Milliseconds | None = Field(default=None, description="Longest wait for a stream's first token.")
    answer_ms: Milliseconds | None = Field(default=None, description="Longest wait for an answer that is not streamed.")
    idle_ms: Milliseconds | None = Field(default=None, description="Longest silence inside a stream.")


class ProviderSettings(Section):
    """One provider: where it is, and how to reach it."""

    protocol: Literal["openai"] = Field(default="openai", description="The API that it speaks.")
    base_url: Annotated[str, Field(max_length=2048), AfterValidator(_base_url)] = Field(
        description="Its address, up to and without /chat/completions.", examples=["https://api.openai.com/v1"]
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


class PriceSettings(Section):
    """What an offer charges. Token prices are USD per million tokens. A free offer says 0."""

    input_usd_per_mtok: UsdPerMtok | None = Field(
        default=None, description="Per million input tokens.", examples=[0.15]
    )
    cached_input_usd_per_mtok: UsdPerMtok | None = Field(
        default=None, description="Per million input tokens that the provider had cached; left out: what input costs."
    )
    output_usd_per_mtok: UsdPerMtok | None = Field(
        default=None, description="Per million output tokens.", examples=[0.6]
    )
    usd_per_gpu_hour: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Per GPU-hour, for offers of kind gpu_job.", examples=[2.49]
    )


CapabilityName = Literal["stream", "tools", "vision", "json_schema", "prefill"]
CAPABILITIES: dict[CapabilityName, Capability] = {
    "stream": Capability.STREAM,
    "tools": Capability.TOOLS,
    "vision": Capability.VISION,
    "json_schema": Capability.JSON_SCHEMA,
    "prefill": Capability.PREFILL,
}


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
    price: PriceSettings = Field(
        description="What it charges.", examples=["{input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.6}"]
    )
    context_window_tokens: int | None = Field(
        default=None, ge=1, description="Longest input and output together, in tokens; left out: not checked."
    )
    capabilities: tuple[CapabilityName, ...] = Field(
        default=("stream",),
        description="What it can do beyond plain text. prefill: continues a trailing assistant message.",
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


class WeightSettings(Section):
    """What a tenant prefers. Only ratios count; one that is left out keeps its default."""

    price: Weight = Field(default=0.4, description="Low price.")
    latency: Weight = Field(default=0.3, description="Low latency.")
    reputation: Weight = Field(default=0.15, description="High reputation.")
    availability: Weight = Field(default=0.15, description="Free capacity and health.")


class LimitSettings(Section):
    """Hard limits: an offer that breaks one is never chosen, by any policy."""

    max_price: float | None = Field(
        default=None,
        ge=0,
        description="USD per GPU-hour, or per million tokens at the request's mix of input and output.",
    )
    max_latency_ms: Milliseconds | None = Field(default=None, description="Longest expected time to the first token.")
    min_reputation: float | None = Field(default=None, ge=0, le=100, description="Lowest reputation.")
    regions: tuple[Region, ...] | None = Field(
        default=None,
        min_length=1,
        description="Regions that may serve; an offer in `global` passes only where `global` is listed.",
    )


class TenantSettings(Section):
    """Who asks: a team, an application, a customer."""

    weights: WeightSettings = Field(default=WeightSettings(), description="What it prefers.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What it never accepts.")
    keys: tuple[KeyReference, ...] = Field(
        default=(), description="The keys that it presents; several while one is rotated."
    )
    resources: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="Resources, aliases and offers that it may use; left out: all."
    )


class RetryBudgetSettings(Section):
    """How many retries are allowed, so that retries cannot become a storm."""

    ratio: float = Field(default=0.2, ge=0, le=1, description="Retries per request of recent traffic.")
    min_per_s: float = Field(
        default=10, ge=0, le=10_000, description="Retries per second that are allowed at any traffic."
    )


class BreakerSettings(Section):
    """When an offer is left alone for a while."""

    consecutive_failures: int = Field(default=5, ge=1, le=1000, description="Opens after this many failures in a row.")
    failure_rate: float = Field(
        default=0.5, gt=0, le=1, description="Opens when this share of a window's requests failed."
    )
    window_s: float = Field(default=60, gt=0, le=3600, description="Length of that window, in seconds.")
    cool_down_s: float = Field(default=5, gt=0, le=3600, description="Seconds until one probe request is let through.")
    max_cool_down_s: float = Field(default=25, gt=0, le=3600, description="Longest cool-down after probes that failed.")


class RoutingSettings(Section):
    """How a request finds its offer, and for how long."""

    policy: Literal["rules", "rules_classic", "cheapest", "fastest", "random"] = Field(
        default="rules", description="How offers are ranked. rules weighs price, latency, reputation and availability."
    )
    exploration: float = Field(
        default=0.0,
        ge=0,
        le=0.1,
        description="Share of first attempts that try another offer, to learn; 0.01 is a good start.",
    )
    deadline_ms: Milliseconds = Field(
        default=600_000, description="Longest time for one request, with all its attempts."
    )
    max_attempts: int = Field(default=6, ge=1, le=100, description="Most calls to providers for one request.")
    first_token_ms: Milliseconds = Field(default=30_000, description="Longest wait for a stream's first token.")
    answer_ms: Milliseconds = Field(default=120_000, description="Longest wait for an answer that is not streamed.")
    idle_ms: Milliseconds = Field(default=30_000, description="Longest silence inside a stream.")
    longest_retry_after_ms: float = Field(
        default=1_000,
        ge=0,
        le=3_600_000,
        description="A Retry-After up to this is waited for; beyond, the next offer is asked.",
    )
    longest_wait_ms: float = Field(
        default=30_000,
        ge=0,
        le=3_600_000,
        description="Longest wait for an offer when none is free; a caller's own deadline takes its place.",
    )
    retry_budget: RetryBudgetSettings = Field(
        default=RetryBudgetSettings(), description="How many retries are allowed."
    )
    breaker: BreakerSettings = Field(default=BreakerSettings(), description="When an offer is left alone for a while.")


class StorageSettings(Section):
    """Where decisions and outcomes are kept, and for how long."""

    path: FilePath = Field(
        default="amaru-data/amaru.db",
        description="SQLite file, relative to the configuration file.",
        json_schema_extra=RESTART,
    )
    retention_days: float = Field(default=30, gt=0, le=36_500, description="Older records are deleted.")
    retention_gb: float = Field(
        default=10, gt=0, le=100_000, description="Beyond this size the oldest records are deleted."
    )
    queue_size: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Records that wait to be written; when it is full, records are dropped and counted.",
        json_schema_extra=RESTART,
    )


class LoggingSettings(Section):
    """What is logged, and how. Prompts, completions and keys never are."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged.", json_schema_extra=RESTART
    )
    format: Literal["json", "console"] = Field(
        default="json", description="json: one object a line. console: for reading.", json_schema_extra=RESTART
    )


class ConfigFile(Section):
    """amaru.yaml: providers, what they offer, who may ask, and how requests are routed."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    server: ServerSettings = Field(default=ServerSettings(), description="Where amaru listens, and whom it lets in.")
    providers: dict[Identifier, ProviderSettings] = Field(default={}, description="Providers by name.")
    offers: tuple[OfferSettings, ...] = Field(default=(), description="What each provider offers.")
    aliases: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(_one_or_many)]] = Field(
        default={}, description="Other names for resources: each stands for a list of resources or offers."
    )
    tenants: dict[Identifier, TenantSettings] = Field(default={}, description="Who may ask, by name.")
    routing: RoutingSettings = Field(default=RoutingSettings(), description="How a request finds its offer.")
    storage: StorageSettings = Field(default=StorageSettings(), description="Where decisions and outcomes are kept.")
    logging: LoggingSettings = Field(default=LoggingSettings(), description="What is logged, and how.")
