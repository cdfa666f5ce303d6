"""A ready amaru.yaml for simulated providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from amaru.domain import Price
from amaru.simulation.asks import IMAGE_TOKENS
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.provider import VERSIONS

FIRST_LINE = "# Written by `amaru simulate`: providers of this machine's own.\n"
"""By this, a file is known to be of this origin, and free to be overwritten."""


def gateway_config(
    providers: Sequence[tuple[ProviderProfile, str]],
    *,
    port: int = 8080,
    storage_path: str | None = None,
    routing: Mapping[str, object] | None = None,
    sections: Mapping[str, object] | None = None,
    alternates: bool = False,
) -> str:
    """amaru.yaml for ``providers``, each with its base URL.

    Models become resources by the last part of their name, so that ``anvil/llama-70b`` and ``birch/llama-70b`` stand in
    for each other as ``llama-70b``. ``sections`` are further ones, or take the place of those made here.
    ``alternates`` names the other versions of each provider's API, which a healing may switch to.
    """
    whole: dict[str, Any] = {  # Any: raw YAML
        "version": 1,
        "server": {"host": "127.0.0.1", "port": port, "auth": "none"},
        "providers": {profile.name: _provider(profile, base_url, alternates) for profile, base_url in providers},
        "offers": [offer for profile, _ in providers for offer in _offers(profile)],
    }
    if routing is not None:
        whole["routing"] = dict(routing)
    if storage_path is not None:
        whole["storage"] = {"path": storage_path}
    whole |= sections or {}
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110)
    return FIRST_LINE + text


def _provider(profile: ProviderProfile, base_url: str, alternates: bool) -> dict[str, object]:
    section: dict[str, object] = {"base_url": base_url, "regions": list(profile.regions)}
    if alternates:
        root, _, version = base_url.rpartition("/")
        section["alternates"] = [{"base_url": f"{root}/{other}"} for other in VERSIONS if other != version]
    if profile.keys:
        section["key_env"] = f"{profile.name.upper().replace('-', '_')}_API_KEY"
    return section


def _price(price: Price) -> dict[str, object]:
    told: dict[str, object] = {
        name: usd
        for name in price.__struct_fields__
        if name.endswith("_mtok") and (usd := getattr(price, name)) is not None
    }
    tiers = [
        {
            "above_input_tokens": tier.above_input_tokens,
            **({} if tier.service_tier is None else {"service_tier": tier.service_tier.value}),
            "price": _price(tier.price),
        }
        for tier in price.tiers
    ]
    return {**told, "tiers": tiers} if tiers else told


def _offers(profile: ProviderProfile) -> list[dict[str, object]]:
    price = _price(profile.price)
    common: dict[str, object] = {
        "context_window_tokens": profile.context_window_tokens,
        "reputation": profile.reputation,
        "latency_ms": max(1.0, profile.latency.ttft_ms),
        "capacity": profile.capacity,
    }
    for limit in ("requests_per_min", "tokens_per_min"):
        if getattr(profile, limit) is not None:
            common[limit] = getattr(profile, limit)
    can = ["stream", "tools", "vision", "json_schema", *(["prefill"] if profile.prefill == "continue" else [])]
    heeds: dict[str, object] = {} if "max_tokens" in profile.limit_fields else {"limit_field": "max_completion_tokens"}
    if not (profile.limit_fields and profile.limits_reasoning):
        heeds["bills_beyond_limit"] = True
    offers: list[dict[str, object]] = [
        {
            "provider": profile.name,
            "resource": model.rpartition("/")[2],
            "model": model,
            "kinds": ["chat", "completion"],
            "price": price,
            "capabilities": can,
            "max_output_tokens": profile.max_output_tokens,
            "max_image_tokens": IMAGE_TOKENS,
            **heeds,
            **common,
        }
        for model in profile.models
    ]
    offers += [
        {
            "provider": profile.name,
            "resource": model.rpartition("/")[2],
            "model": model,
            "kinds": ["embedding"],
            "price": {**price, "output_usd_per_mtok": 0.0},
            "capabilities": [],
            **common,
        }
        for model in profile.embedding_models
    ]
    return offers
