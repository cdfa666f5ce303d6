"""What a simulated provider is: its models, speed, capacity, limits, prices and habits.

The seven built-in profiles (``SEVEN``) serve one open model each in their own way: dear and quick, cheap and slow, near
and far. Names and figures are invented, of the order that hosts of 70B-class models advertise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from amaru.domain import Price


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast a provider answers, when idle and under load.

    Times are log-normal: ``median · exp(sigma · N(0, 1))``, the shape that measured LLM latencies have. Under a load of
    ``x = in flight / capacity`` every time is multiplied by ``1 + load_weight · x ** load_power``.
    """

    ttft_ms: float = 300.0
    """Median time to first token of an idle provider."""
    ttft_sigma: float = 0.25
    prefill_ms_per_ktok: float = 30.0
    """Added to the first token per 1,000 prompt tokens that are not cached."""
    itl_ms: float = 18.0
    """Median time between two tokens of an idle provider."""
    itl_sigma: float = 0.15
    load_weight: float = 1.0
    load_power: float = 2.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not 0 <= value < 1e9:
                raise ValueError(f"latency.{name} must be at least 0, got {value}")


INSTANT = Latency(ttft_ms=0, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=0, itl_sigma=0, load_weight=0)
"""Answers without waiting: for tests."""


class ProviderProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One simulated provider.

    The defaults make an instant, unlimited and free one, which is what most tests want; ``SEVEN`` are realistic.
    """

    name: str = "sim"
    models: tuple[str, ...] = ("sim-model",)
    """Chat and completion models it serves; any other name gets OpenAI's ``model_not_found``."""
    embedding_models: tuple[str, ...] = ("sim-embed",)
    embedding_dimensions: int = 64
    regions: tuple[str, ...] = ("global",)
    price: Price = Price()
    latency: Latency = INSTANT
    capacity: int = 1_000_000
    """Requests served at once."""
    queue: int = 0
    """Requests that wait when the capacity is taken; more are turned away."""
    overload_status: Literal[429, 503, 529] = 503
    requests_per_min: float | None = None
    """Per key, as a token bucket that starts full (OpenAI's way)."""
    tokens_per_min: float | None = None
    """Per key; prompt tokens plus the limit on the answer are taken when the request arrives."""
    context_window_tokens: int = 128_000
    max_output_tokens: int = 16_384
    limit_fields: tuple[str, ...] = ("max_tokens", "max_completion_tokens")
    """By which fields of a chat it takes the caller's limit on an answer; others it passes over, as it does any field
    that it does not know."""
    keys: tuple[str, ...] = ()
    """API keys that it accepts; none: any key, or no key."""
    prefill: Literal["continue", "ignore", "reject"] = "continue"
    """What it does with a trailing assistant message: go on from it, answer anew, or refuse with 400."""
    caches_prompts: bool = True
    """Remembers prompt prefixes and bills repeats of 128 tokens or more at the cached price."""
    cache_writes: bool = False
    """Bills what it takes up into its cache as cache writes, where a request asks for that by ``cache_control``."""
    reasoning_tokens: float = 0.0
    """Median length of what it thinks before each answer: never shown, and a part of the answer's tokens."""
    limits_reasoning: bool = True
    """The caller's limit holds for what it thinks, too; else for its answer alone."""
    answer_tokens: float = 32.0
    """Median length of an answer that nothing limits."""
    answer_sigma: float = 0.5
    answer_seed: int = 0
    """Providers with the same seed give the same answer to the same prompt, like one open model at temperature 0."""
    tokens_per_event: int = 1
    """Tokens in one stream event."""
    stream_usage: bool = True
    """Reports usage at the end of a stream where asked; some providers do not."""
    reputation: float = 80.0

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a provider needs a name")
        if not self.models and not self.embedding_models:
            raise ValueError(f"provider {self.name} serves no model: give at least one in `models`")
        for field in ("capacity", "context_window_tokens", "max_output_tokens", "tokens_per_event"):
            if getattr(self, field) < 1:
                raise ValueError(f"provider {self.name}: {field} must be at least 1, got {getattr(self, field)}")
        for field in ("requests_per_min", "tokens_per_min"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise ValueError(
                    f"provider {self.name}: {field} must be above 0, got {value}; leave it out for no limit"
                )
        if not 0 <= self.reasoning_tokens < 1e6:
            raise ValueError(f"provider {self.name}: reasoning_tokens must be at least 0, got {self.reasoning_tokens}")
        if self.queue < 0 or self.embedding_dimensions < 1:
            raise ValueError(f"provider {self.name}: queue must be at least 0 and embedding_dimensions at least 1")


def _hosted(
    name: str,
    *,
    regions: tuple[str, ...],
    prices: tuple[float, float, float],
    ttft_ms: float,
    itl_ms: float,
    capacity: int,
    reputation: float,
    sigma: float = 0.3,
    requests_per_min: float | None = None,
) -> ProviderProfile:
    return ProviderProfile(
        name=name,
        models=(f"{name}/llama-70b",),
        embedding_models=(),
        regions=regions,
        price=Price(input_usd_per_mtok=prices[0], cached_input_usd_per_mtok=prices[1], output_usd_per_mtok=prices[2]),
        latency=Latency(ttft_ms=ttft_ms, ttft_sigma=sigma, prefill_ms_per_ktok=ttft_ms / 10, itl_ms=itl_ms),
        capacity=capacity,
        queue=capacity // 4,
        requests_per_min=requests_per_min,
        answer_tokens=120.0,
        tokens_per_event=8,
        reputation=reputation,
    )


SEVEN: tuple[ProviderProfile, ...] = (
    _hosted(
        "anvil", regions=("us-east",), prices=(0.60, 0.30, 0.75), ttft_ms=220, itl_ms=9, capacity=320, reputation=92
    ),
    _hosted(
        "birch", regions=("eu-west",), prices=(0.52, 0.26, 0.66), ttft_ms=310, itl_ms=12, capacity=280, reputation=88
    ),
    _hosted(
        "cobalt", regions=("us-west",), prices=(0.88, 0.44, 0.88), ttft_ms=140, itl_ms=6, capacity=256, reputation=95
    ),
    _hosted(
        "delta",
        regions=("eu-central",),
        prices=(0.35, 0.18, 0.45),
        ttft_ms=480,
        itl_ms=17,
        capacity=240,
        reputation=74,
        requests_per_min=1200,
    ),
    _hosted(
        "ember", regions=("us-east",), prices=(0.42, 0.21, 0.54), ttft_ms=390, itl_ms=14, capacity=200, reputation=81
    ),
    _hosted(
        "flint", regions=("ap-south",), prices=(0.28, 0.14, 0.36), ttft_ms=720, itl_ms=16, capacity=320, reputation=63
    ),
    _hosted(
        "garnet", regions=("global",), prices=(1.10, 0.55, 1.40), ttft_ms=180, itl_ms=7, capacity=480, reputation=97
    ),
)
"""The cast of the demo."""


def builtin(count: int) -> tuple[ProviderProfile, ...]:
    """The first ``count`` built-in profiles; beyond seven they repeat under new names."""
    if count < 1:
        raise ValueError(f"at least one provider is needed, got {count}")
    cast = []
    for place in range(count):
        lap, which = divmod(place, len(SEVEN))
        profile = SEVEN[which]
        name = profile.name if lap == 0 else f"{profile.name}{lap + 1}"
        cast.append(msgspec.structs.replace(profile, name=name, models=(f"{name}/llama-70b",)))
    return tuple(cast)
