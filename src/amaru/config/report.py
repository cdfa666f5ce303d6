"""What a configuration amounts to: a summary, warnings, and the effective settings. No key is in any of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from amaru.accounts.allowances import shown_amount
from amaru.accounts.estimate import MAX_OUTPUT_TOKENS
from amaru.config.addresses import without_secrets
from amaru.config.checks import is_loopback
from amaru.config.fields import KeyReference
from amaru.config.settings import Config
from amaru.config.supply import ProviderSettings
from amaru.domain import Capability, Kind, Offer
from amaru.files.problems import dotted
from amaru.storage.engine import Place


def summary(config: Config) -> list[tuple[str, list[str]]]:
    """Headings, each with its lines: providers, offers by resource, aliases, tenants."""
    by_resource = _by_resource(config)
    offers = [
        f"{resource} ({', '.join(sorted({kind for offer in group for kind in offer.kinds}))}): "
        + ", ".join(offer.id for offer in group)
        for resource, group in by_resource.items()
    ]
    providers = [
        f"{provider.id}: {provider.base_url}, {_key_source(config.file.providers[provider.id])}"
        for provider in config.providers().values()
    ]
    aliases = [f"{alias}: {', '.join(members)}" for alias, members in config.aliases.items()]
    tenants = [f"{tenant.id}: {_count(len(tenant.key_hashes), 'key')}" for tenant in config.tenants()]
    sections = [
        (_count(len(providers), "provider"), providers),
        (_count(len(offers), "resource"), offers),
        (_count(len(aliases), "alias", "aliases"), aliases),
        (_count(len(tenants), "tenant"), tenants),
    ]
    if config.accounts.allowances:
        allowances = [f"{one.id}: {shown_amount(one)}" for one in config.accounts.allowances]
        sections.append((_count(len(allowances), "budget or limit", "budgets and limits"), allowances))
    if config.overridden:
        sections.append(
            ("set by the environment", [f"{place}: {variable}" for place, variable in config.overridden.items()])
        )
    return sections


def warnings(config: Config) -> list[str]:
    """What works, but is likely not meant; one line each, beginning with the place in the file."""
    found = [
        *_warn_callers(config),
        *_warn_providers(config),
        *_warn_offers(config),
        *_warn_limits(config),
    ]
    return [f"{place}: {what}" for place, what in found]


def effective(config: Config) -> dict[str, Any]:  # Any: plain data, ready for YAML
    """Every setting with its defaults and overrides; keys and header values appear as ``set``."""
    plain: dict[str, Any] = config.file.model_dump(mode="json", by_alias=True)
    for id, provider in config.providers().items():
        shown = plain["providers"][id]
        shown["key"] = _key_source(config.file.providers[id])
        shown["headers"] = dict.fromkeys(provider.headers, "set")
        shown["alternates"] = [
            {"base_url": alternate.base_url, "headers": dict.fromkeys(alternate.headers, "set")}
            for alternate in provider.alternates
        ]
        shown["timeouts"] = {
            "connect_ms": provider.connect_ms,
            "first_token_ms": provider.first_token_ms,
            "answer_ms": provider.answer_ms,
            "idle_ms": provider.idle_ms,
        }
        del shown["key_env"], shown["key_file"]
    for shown, offer in zip(plain["offers"], config.offers(), strict=True):
        shown.update(id=offer.id, model=offer.model, regions=list(offer.regions), limit_field=offer.limit_field.value)
        if offer.capabilities & Capability.PREFILL:
            shown["prefill_style"] = offer.prefill_style.value
    for id, tenant in config.file.tenants.items():
        plain["tenants"][id]["keys"] = [_reference(key) for key in tenant.keys]
    plain["server"]["operator_keys"] = [_reference(key) for key in config.server.operator_keys]
    plain["storage"]["path"] = str(config.storage_path)
    plain["health"]["path"] = str(config.health_path)
    plain["accounts"]["url"] = Place.of(config.accounts.url).name
    if config.accounts.redis_url is not None:
        plain["accounts"]["redis_url"] = without_secrets(config.accounts.redis_url)
    plain["accounts"]["pepper_file"] = str(config.accounts.pepper)
    if config.sharing.redis_url is not None:
        plain["sharing"]["redis_url"] = without_secrets(config.sharing.redis_url)
    plain["ledger"]["url"] = without_secrets(config.ledger_url)
    return plain


def _by_resource(config: Config) -> dict[str, list[Offer]]:
    groups: dict[str, list[Offer]] = {}
    for offer in config.offers():
        groups.setdefault(offer.resource, []).append(offer)
    return groups


def _warn_callers(config: Config) -> Iterable[tuple[str, str]]:
    if config.server.auth == "keys" and not any(tenant.key_hashes for tenant in config.tenants()):
        yield "tenants", "no key is in this file, so only the store's open: `amaru keys create` makes one"


def _warn_providers(config: Config) -> Iterable[tuple[str, str]]:
    if not config.providers():
        yield "providers", "none, so nothing can be served"
    used = {offer.provider for offer in config.offers()}
    for id, provider in config.providers().items():
        place = dotted(("providers", id))
        addresses = {f"{place}.base_url": provider.base_url}
        for index, alternate in enumerate(provider.alternates):
            addresses[f"{place}.alternates[{index}].base_url"] = alternate.base_url
        urls = {at: urlsplit(address) for at, address in addresses.items()}
        if id not in used:
            yield place, "has no offer, so it is never asked"
        for at, url in urls.items():
            if url.scheme == "http" and provider.key is not None and not is_loopback(url.hostname or ""):
                yield at, "its key travels unencrypted; write https:// unless the network is your own"
        if not provider.verify_tls and any(url.scheme == "https" for url in urls.values()):
            yield f"{place}.verify_tls", "whoever answers at its address gets its key and every prompt"


def _warn_offers(config: Config) -> Iterable[tuple[str, str]]:
    for index, offer in enumerate(config.offers()):
        streams = {Kind.CHAT, Kind.COMPLETION} & set(offer.kinds)
        if streams and not offer.capabilities & Capability.STREAM:
            yield f"offers[{index}].capabilities", f"{offer.id} is never asked for streams; add stream if it can"
        if streams and offer.max_output_tokens is None and offer.context_window_tokens is None:
            most = f"{MAX_OUTPUT_TOKENS:,} output tokens are reserved for each request without a limit"
            yield f"offers[{index}].max_output_tokens", f"not told, so {most}"
    for resource, group in _by_resource(config).items():
        providers = {offer.provider for offer in group}
        stand_ins = {
            member
            for members in config.aliases.values()
            if {resource, *(o.id for o in group)} & set(members)
            for member in members
        } - {resource, *(offer.id for offer in group)}
        if len(providers) == 1 and not stand_ins:
            yield "offers", f"{resource} comes from {group[0].provider} alone: when it fails, nothing stands in"


def _warn_limits(config: Config) -> Iterable[tuple[str, str]]:
    deadline_ms = config.routing.deadline_ms
    for name in ("first_token_ms", "answer_ms", "idle_ms"):
        if getattr(config.routing, name) > deadline_ms:
            yield f"routing.{name}", f"longer than deadline_ms ({deadline_ms:g}), which ends the request first"
    for name in ("first_token_ms", "idle_ms") if config.routing.adaptive_limits else ():
        longest_ms, least_ms = getattr(config.routing, name), getattr(config.routing, f"least_{name}")
        if least_ms > longest_ms:
            yield f"routing.least_{name}", f"longer than {name} ({longest_ms:g}), which holds in its place"


def _key_source(settings: ProviderSettings) -> str:
    if settings.key_env is not None:
        return f"key set by {settings.key_env}"
    return f"key set by file {settings.key_file}" if settings.key_file is not None else "no key"


def _reference(key: KeyReference) -> str:
    if key.env is not None:
        return f"set by {key.env}"
    return f"set by file {key.file}" if key.file is not None else "set by sha256"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
