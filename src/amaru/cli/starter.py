"""The text that ``amaru init`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PRICES_AS_OF = "November 2026"
"""When the example prices were last compared with the public price table that LiteLLM 1.106 carries."""

SIMULATED_PORT = 9000
SIMULATED_PROVIDERS = 3
"""What ``amaru simulate`` starts without options: that many built-in providers, on consecutive ports from this one."""

_STANDARD = "stream, tools, json_schema"


@dataclass(frozen=True, slots=True)
class ExampleOffer:
    """Prices are USD per million tokens."""

    resource: str
    model: str
    input_usd: float
    cached_usd: float | None
    output_usd: float | None
    window_tokens: int
    capabilities: str = _STANDARD
    kind: str = "chat"
    note: str = ""


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """A provider whose API is OpenAI's, and the variables that its key usually stands in."""

    id: str
    variables: tuple[str, ...]
    base_url: str
    offers: tuple[ExampleOffer, ...]


def _gpt_oss(
    model: str, input_usd: float, cached_usd: float | None, output_usd: float, note: str = ""
) -> tuple[ExampleOffer, ...]:
    """One open model that many providers serve: the plainest case of failover."""
    return (ExampleOffer("gpt-oss-120b", model, input_usd, cached_usd, output_usd, 131_072, note=note),)


KNOWN: tuple[KnownProvider, ...] = (
    KnownProvider(
        "openai",
        ("OPENAI_API_KEY",),
        "https://api.openai.com/v1",
        (
            ExampleOffer("gpt-4o-mini", "gpt-4o-mini", 0.15, 0.075, 0.6, 128_000, f"{_STANDARD}, vision"),
            ExampleOffer("text-embedding-3-small", "text-embedding-3-small", 0.02, None, None, 8_191, "", "embedding"),
        ),
    ),
    KnownProvider(
        "groq", ("GROQ_API_KEY",), "https://api.groq.com/openai/v1", _gpt_oss("openai/gpt-oss-120b", 0.15, 0.075, 0.6)
    ),
    KnownProvider(
        "together",
        ("TOGETHER_API_KEY",),
        "https://api.together.xyz/v1",
        _gpt_oss("openai/gpt-oss-120b", 0.15, None, 0.6),
    ),
    KnownProvider(
        "fireworks",
        ("FIREWORKS_API_KEY",),
        "https://api.fireworks.ai/inference/v1",
        _gpt_oss("accounts/fireworks/models/gpt-oss-120b", 0.15, 0.015, 0.6),
    ),
    KnownProvider(
        "cerebras", ("CEREBRAS_API_KEY",), "https://api.cerebras.ai/v1", _gpt_oss("gpt-oss-120b", 0.35, None, 0.75)
    ),
    KnownProvider(
        "openrouter",
        ("OPENROUTER_API_KEY",),
        "https://openrouter.ai/api/v1",
        _gpt_oss("openai/gpt-oss-120b", 0.15, None, 0.6, "OpenRouter charges what the provider that it picks charges"),
    ),
    KnownProvider(
        "mistral",
        ("MISTRAL_API_KEY",),
        "https://api.mistral.ai/v1",
        (ExampleOffer("mistral-small", "mistral-small-latest", 0.15, 0.015, 0.6, 262_144, f"{_STANDARD}, vision"),),
    ),
    KnownProvider(
        "deepseek",
        ("DEEPSEEK_API_KEY",),
        "https://api.deepseek.com/v1",
        (ExampleOffer("deepseek-flash", "deepseek-v4-flash", 0.3, 0.006, 1.2, 1_000_000),),
    ),
    KnownProvider(
        "xai",
        ("XAI_API_KEY",),
        "https://api.x.ai/v1",
        (ExampleOffer("grok-4.3", "grok-4.3", 1.25, 0.2, 2.5, 1_000_000, f"{_STANDARD}, vision"),),
    ),
    KnownProvider(
        "gemini",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "https://generativelanguage.googleapis.com/v1beta/openai",
        (ExampleOffer("gemini-2.5-flash", "gemini-2.5-flash", 0.3, 0.03, 2.5, 1_048_576, f"{_STANDARD}, vision"),),
    ),
)


def find_providers(env: Mapping[str, str]) -> list[tuple[KnownProvider, str]]:
    """Each known provider whose key is in the environment, and the variable that holds it."""
    found = []
    for known in KNOWN:
        variable = next((name for name in known.variables if env.get(name, "").strip()), None)
        if variable:
            found.append((known, variable))
    return found


def starter(found: Sequence[tuple[KnownProvider, str]], key_sha256: str, operator_sha256: str) -> str:
    """The configuration's text: the providers found, or simulated ones where there are none.

    ``key_sha256`` and ``operator_sha256`` are hex digests of the application's and the operator's key.
    """
    providers, offers, resources = _found(found) if found else _simulated()
    alias = ", ".join(resources)
    return _TEXT.format(
        providers=providers,
        offers=offers,
        alias=alias,
        key_sha256=key_sha256,
        operator_sha256=operator_sha256,
        commented_local=_LOCAL,
    )


def _found(found: Sequence[tuple[KnownProvider, str]]) -> tuple[str, str, list[str]]:
    providers = "".join(
        f"  {known.id}:\n    base_url: {known.base_url}\n    key_env: {variable}\n" for known, variable in found
    )
    offers = f"  # EXAMPLES. Prices are USD per million tokens as of {PRICES_AS_OF}: check against your contract.\n"
    resources: dict[str, None] = {}
    for known, _ in found:
        for offer in known.offers:
            offers += _offer(known.id, offer)
            if offer.kind == "chat":
                resources[offer.resource] = None
    return providers, offers, list(resources)


def _offer(provider: str, offer: ExampleOffer) -> str:
    price = f"input_usd_per_mtok: {offer.input_usd:g}"
    if offer.cached_usd is not None:
        price += f", cached_input_usd_per_mtok: {offer.cached_usd:g}"
    if offer.output_usd is not None:
        price += f", output_usd_per_mtok: {offer.output_usd:g}"
    lines = [
        f"  - provider: {provider}" + (f"  # {offer.note}" if offer.note else ""),
        f"    resource: {offer.resource}",
        *([f"    model: {offer.model}"] if offer.model != offer.resource else []),
        *([f"    kinds: [{offer.kind}]"] if offer.kind != "chat" else []),
        f"    price: {{{price}}}",
        f"    context_window_tokens: {offer.window_tokens}",
        f"    capabilities: [{offer.capabilities}]",
    ]
    return "\n".join(lines) + "\n"


def _simulated() -> tuple[str, str, list[str]]:
    from amaru.simulation.profiles import builtin

    providers = "  # Simulated, by `amaru simulate`: no key, no cost, no network.\n"
    offers = "  # Three invented providers of one model: prices and latencies are the simulator's own.\n"
    for index, profile in enumerate(builtin(SIMULATED_PROVIDERS)):
        providers += f"  {profile.name}:\n    base_url: http://127.0.0.1:{SIMULATED_PORT + index}/v1\n"
        providers += f"    regions: [{', '.join(profile.regions)}]\n"
        price = profile.price
        offers += (
            f"  - provider: {profile.name}\n    resource: llama-70b\n    model: {profile.models[0]}\n"
            f"    price: {{input_usd_per_mtok: {price.input_usd_per_mtok:g}, "
            f"output_usd_per_mtok: {price.output_usd_per_mtok:g}}}\n"
            f"    context_window_tokens: {profile.context_window_tokens}\n"
            f"    capabilities: [{_STANDARD}]\n"
            f"    latency_ms: {profile.latency.ttft_ms:g}\n    reputation: {profile.reputation:g}\n"
        )
    return providers, offers, ["llama-70b"]


_LOCAL = """\
  # A server of your own that speaks OpenAI's API, such as vLLM or Ollama:
  # local:
  #   base_url: http://127.0.0.1:8000/v1     # Ollama: http://127.0.0.1:11434/v1
  #   regions: [on-prem]
"""

_TEXT = """\
# yaml-language-server: $schema=./amaru.schema.json
# For completion in your editor: amaru config schema > amaru.schema.json
#
# amaru's configuration. A changed file is taken up while serving; a broken one is refused, and the old one serves on.
# Check it with: amaru config check
# Single values can come from the environment: AMARU_SERVER__PORT=9000 amaru serve
version: 1

server:
  host: 127.0.0.1        # 0.0.0.0 listens on every interface
  port: 8080
  auth: keys             # none: anybody may call; on a loopback host only
  operator_keys:         # of who may read /status, /metrics and everybody's decisions
    - sha256: {operator_sha256}

# Where requests can go. Keys stay in the environment (key_env) or in files (key_file), never here.
providers:
{providers}{commented_local}
# What each provider serves. Offers of one resource stand in for each other.
offers:
{offers}  # - provider: local
  #   resource: gpt-oss-120b
  #   model: openai/gpt-oss-120b
  #   price: {{input_usd_per_mtok: 0, output_usd_per_mtok: 0}}

# Names of your own: each stands for resources that may all answer.
aliases:
  assistant: [{alias}]

# Who may call. Each caller presents one of its tenant's keys.
tenants:
  my-app:
    keys:
      - sha256: {key_sha256}
    # What counts when offers are ranked; only the ratios matter.
    weights: {{price: 0.4, latency: 0.3, reputation: 0.15, availability: 0.15}}
    # limits: {{max_price: 5, max_latency_ms: 3000, min_reputation: 40, regions: [global]}}
    # budgets: [{{usd: "100", per: month}}]
    # rescue: hold         # hold streams back until they are whole, so that no break is ever seen

routing:
  policy: rules          # rules, rules_classic, cheapest, fastest, random
  exploration: 0         # 0.01: one first attempt in a hundred goes to another offer, to learn
  deadline_ms: 600000    # longest time for one request, with all its attempts
  first_token_ms: 30000  # longest wait for a stream's first token
  answer_ms: 120000      # longest wait for an answer that is not streamed
  idle_ms: 30000         # longest silence inside a stream
  adaptive_limits: true  # while another offer can take over, wait no longer than usual for the first token or the next

storage:
  path: amaru-data/amaru.db
  retention_days: 30
  retention_gb: 10

# Receipts of every decision, healing and intervention, in a log that nobody can alter unseen; beside the database.
ledger:
  enabled: true

logging:
  level: info
  format: console        # json: one object a line, for log collectors
"""
