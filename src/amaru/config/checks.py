"""Checks across fields: does every name lead somewhere, do the parts agree with each other?"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from amaru.accounts.profile import weight_problems
from amaru.config.accounts_checks import check_budgeted, check_budgets
from amaru.config.fields import KeyReference
from amaru.config.models import ConfigFile
from amaru.config.prices import check_prices
from amaru.config.supply import OfferSettings
from amaru.domain import GLOBAL_REGION
from amaru.errors import ArtifactError
from amaru.files.problems import Loc, Problem, shown, suggest
from amaru.files.settings import LimitSettings
from amaru.learning.artifacts import parse_reference
from amaru.routing.policies import make_policy


class Names:
    """Every name that the file declares, also in parts that were refused: one mistake is not reported twice."""

    def __init__(self, data: Mapping[str, Any]) -> None:  # Any: raw YAML
        self.providers = _keys(data.get("providers"))
        self.aliases = _keys(data.get("aliases"))
        self.resources: set[str] = set()
        self.offers: set[str] = set()
        self.regions: set[str] = {GLOBAL_REGION}
        providers, offers = data.get("providers"), data.get("offers")
        for provider in providers.values() if isinstance(providers, dict) else []:
            self.regions.update(_regions(provider))
        for offer in offers if isinstance(offers, list) else []:
            if not isinstance(offer, dict):
                continue
            self.regions.update(_regions(offer))
            resource, provider, id = (offer.get(name) for name in ("resource", "provider", "id"))
            if isinstance(resource, str):
                self.resources.add(resource)
            if isinstance(id, str):
                self.offers.add(id)
            elif isinstance(resource, str) and isinstance(provider, str):
                self.offers.add(f"{provider}/{resource}")

    @property
    def askable(self) -> set[str]:
        """What a caller may ask for: resources, aliases and offers."""
        return self.resources | self.aliases | self.offers


def _keys(value: object) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _regions(holder: object) -> set[str]:
    regions = holder.get("regions") if isinstance(holder, dict) else None
    return {region for region in regions if isinstance(region, str)} if isinstance(regions, list) else set()


def offer_id(offer: OfferSettings) -> str:
    """``provider/resource`` unless the file names it."""
    return offer.id or f"{offer.provider}/{offer.resource}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check(
    file: ConfigFile, offer_indices: tuple[int, ...], names: Names, refused: Collection[Loc]
) -> Iterable[Problem]:
    """Every mistake that needs more than one field to see, except for keys (``secrets.py``).

    ``refused`` holds the places whose values were refused already. Defaults stand there now, and what follows from
    them is no mistake of the file's.
    """
    yield from _check_server(file)
    yield from _check_offers(file, offer_indices, names, refused)
    yield from _check_aliases(file, names)
    yield from _check_tenants(file, names)
    yield from check_budgets(file.tenants, file.budgets)
    yield from check_budgeted(file.budgets, names.resources, names.providers)
    if not _within(("routing", "policy"), refused) and not _within(("routing", "policy_settings"), refused):
        yield from _check_policy(file)
    if not _within(("routing", "breaker"), refused):
        yield from _check_breaker(file)


def _check_policy(file: ConfigFile) -> Iterable[Problem]:
    routing = file.routing
    try:
        policy = make_policy(routing.policy, **routing.policy_settings)
    except (TypeError, ValueError) as error:
        yield Problem(("routing", "policy_settings"), str(error), "leave it out for the policy's own defaults")
        return
    if routing.policy_settings and not policy.learns:
        yield Problem(("routing", "policy_settings"), f"policy {routing.policy} has none", "leave it out")
    if routing.policy_artifact is not None:
        loc = ("routing", "policy_artifact")
        if not policy.learns:
            yield Problem(loc, f"policy {routing.policy} learns nothing, so it has no artifact", "leave it out")
        if routing.policy_settings:
            yield Problem(loc, "brings the settings that it was trained with", "leave policy_settings out")
        try:
            url = parse_reference(routing.policy_artifact).url
        except ArtifactError as error:
            yield Problem(loc, str(error))
        else:
            if "://" in url and "@" in url.partition("://")[2].partition("/")[0]:
                yield Problem(
                    loc, "holds a user or a password", "leave them to the environment, as the store's own tools do"
                )


def _within(loc: Loc, refused: Collection[Loc]) -> bool:
    return any(other[: len(loc)] == loc for other in refused)


def _check_server(file: ConfigFile) -> Iterable[Problem]:
    server = file.server
    if server.auth == "none" and not is_loopback(server.host):
        what = f"none lets everybody who reaches {server.host} spend your money"
        yield Problem(("server", "auth"), what, "write auth: keys, or host: 127.0.0.1")
    if server.auth == "none" and file.accounts.admin_port is not None and not is_loopback(file.accounts.admin_host):
        what = f"with auth: none, everybody who reaches {file.accounts.admin_host} would be an admin"
        yield Problem(("accounts", "admin_host"), what, "write auth: keys, or admin_host: 127.0.0.1")
    if file.accounts.admin_port not in (None, 0) and file.accounts.admin_port == server.port:
        yield Problem(("accounts", "admin_port"), "the same port as server.port", "choose another, or leave it out")


def _check_offers(
    file: ConfigFile, indices: tuple[int, ...], names: Names, refused: Collection[Loc]
) -> Iterable[Problem]:
    first: dict[str, int] = {}
    for index, offer in zip(indices, file.offers, strict=True):
        loc: Loc = ("offers", index)
        if offer.provider not in names.providers:
            remedy = suggest(offer.provider, names.providers, "add it under `providers`")
            yield Problem((*loc, "provider"), f"no such provider: {shown(offer.provider)}", remedy)
        id = offer_id(offer)
        at = (*loc, "id") if offer.id else loc
        if id in first:
            what = f"offers[{first[id]}] has the same id: {shown(id)}"
            yield Problem(at, what, "give one of them another id")
        first.setdefault(id, index)
        if id in names.resources:
            what = f"its id is a resource's name: {shown(id)}"
            yield Problem(at, what, "give it an id of its own, e.g. provider/resource")
        if not any(_within((*loc, name), refused) for name in ("kinds", "price", "prices")):
            yield from check_prices(loc, offer.kinds, offer.price, offer.prices)
        for kind in {kind for kind in offer.kinds if offer.kinds.count(kind) > 1}:
            yield Problem((*loc, "kinds"), f"{kind} is written twice", "remove one of the two")
        if offer.prefill_style is not None and not _within((*loc, "capabilities"), refused):
            yield from _check_prefill(loc, offer)


def _check_prefill(loc: Loc, offer: OfferSettings) -> Iterable[Problem]:
    if "prefill" not in offer.capabilities:
        what = "says how to continue a message, which its capabilities do not name"
        yield Problem((*loc, "prefill_style"), what, "add prefill to its capabilities, or remove the line")


def _check_aliases(file: ConfigFile, names: Names) -> Iterable[Problem]:
    targets = names.resources | names.offers
    for alias, members in file.aliases.items():
        loc: Loc = ("aliases", alias)
        if alias in targets:
            kind = "a resource" if alias in names.resources else "an offer"
            yield Problem(loc, f"{kind} has this name, and the alias would hide it", "give the alias another name")
        for index, member in enumerate(members):
            at = (*loc, index)
            if member in names.aliases and member not in targets:
                yield Problem(at, f"{shown(member)} is an alias itself", "name the resources that it stands for")
            elif member not in targets:
                remedy = suggest(member, targets, "name a resource or an offer")
                yield Problem(at, f"no such resource or offer: {shown(member)}", remedy)
            elif member in members[:index]:
                yield Problem(at, f"{shown(member)} is written twice", "remove one of the two")


def _check_tenants(file: ConfigFile, names: Names) -> Iterable[Problem]:
    for id, tenant in file.tenants.items():
        loc: Loc = ("tenants", id)
        for problem in weight_problems(tenant.weights):
            yield dataclasses.replace(problem, loc=(*loc, *problem.loc))
        for index, resource in enumerate(tenant.resources or ()):
            if resource not in names.askable:
                remedy = suggest(resource, names.askable, "name a resource, an alias or an offer")
                yield Problem((*loc, "resources", index), f"no such resource: {shown(resource)}", remedy)
        yield from _check_limits((*loc, "limits"), tenant.limits, names)


def _check_limits(loc: Loc, limits: LimitSettings, names: Names) -> Iterable[Problem]:
    """A region that nobody serves from is a typing mistake, and would refuse every request of the tenant."""
    for index, region in enumerate(limits.regions or ()):
        if names.offers and region not in names.regions:
            remedy = suggest(region, names.regions, "name a region of an offer")
            yield Problem((*loc, "regions", index), f"no offer serves from {shown(region)}", remedy)


def _check_breaker(file: ConfigFile) -> Iterable[Problem]:
    breaker = file.routing.breaker
    if breaker.max_cool_down_s < breaker.cool_down_s:
        what = f"less than cool_down_s ({breaker.cool_down_s:g})"
        yield Problem(("routing", "breaker", "max_cool_down_s"), what, "make it at least as long")


def check_shared_keys(hashes: Iterable[tuple[Loc, str, str]]) -> Iterable[Problem]:
    """``hashes`` holds place, owner and hash of every caller's key: one key has one owner."""
    owners: dict[str, str] = {}
    for loc, owner, key_hash in hashes:
        other = owners.setdefault(key_hash, owner)
        if other != owner:
            yield Problem(loc, f"the same key as {other}'s", "give each its own key, or nobody can tell who asked")


def references(file: ConfigFile) -> Iterable[tuple[Loc, str, KeyReference]]:
    """Place, owner and reference of every caller's key in the file."""
    for index, reference in enumerate(file.server.operator_keys):
        yield ("server", "operator_keys", index), "the operators", reference
    for id, tenant in file.tenants.items():
        for index, reference in enumerate(tenant.keys):
            yield ("tenants", id, "keys", index), f"tenant {id}", reference
