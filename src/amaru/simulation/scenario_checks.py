"""Checks of a scenario across its fields: does every name lead somewhere, can every tenant be served at all?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from amaru.domain import GLOBAL_REGION
from amaru.files.problems import Loc, Problem, shown, suggest
from amaru.files.settings import PriceSettings
from amaru.simulation.scenario import EventKind
from amaru.simulation.scenario_models import EventModel, ScenarioFile, TenantModel

_TOLERANCE = 1e-6
"""Of shares that sum to 1: people write 0.333."""
_JOB_FIELDS = ("region", "budget_usd_per_step", "requests_per_step", "mix")
_FIGURES = {
    EventKind.PRICE_SPIKE: ("multiplier", "multiplier: 1.6"),
    EventKind.CAPACITY_SURGE: ("multiplier", "multiplier: 1.5"),
    EventKind.LATENCY_SPIKE: ("delta", "delta: 200"),
    EventKind.REPUTATION_DROP: ("delta", "delta: -10"),
}
"""The figure that an event of each kind needs, and one to write; an outage needs none."""


class Names:
    """Every name that a file declares, also in parts that were refused: one mistake is not reported twice."""

    def __init__(self, data: Mapping[str, Any]) -> None:  # Any: raw YAML
        self.providers = _keys(data.get("providers"))
        self.tenants = _keys(data.get("tenants"))
        self.profiles = _keys(data.get("profiles"))
        self.trace = data.get("trace") is not None
        self.resources: set[str] = set()
        self.regions: set[str] = set()
        for name in self.providers:
            provider = data["providers"][name]
            self.resources |= _keys(provider.get("offers") if isinstance(provider, dict) else None)
            regions = provider.get("regions") if isinstance(provider, dict) else None
            given = regions if isinstance(regions, list) else [GLOBAL_REGION]
            self.regions |= {region for region in given if isinstance(region, str)}


def _keys(value: object) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def is_gpu(price: PriceSettings) -> bool:
    """Whether an offer at this price runs GPU jobs; else it answers chats."""
    return price.usd_per_gpu_hour is not None


def check(
    file: ScenarioFile, event_indices: Sequence[int], names: Names, refused: Collection[Loc]
) -> Iterable[Problem]:
    """Every mistake that needs more than one field to see.

    ``event_indices`` holds the index in the file of each event kept; ``refused`` the places whose values were refused
    already: what follows from those is no second mistake.
    """
    checks = _Checks(file, names, refused)
    for problem in checks.all(event_indices):
        if not checks.is_refused(problem.loc):
            yield problem


class _Checks:
    def __init__(self, file: ScenarioFile, names: Names, refused: Collection[Loc]) -> None:
        self.file = file
        self.names = names
        self.around_refused = {loc[:length] for loc in refused for length in range(len(loc) + 1)}
        self.served: dict[bool, set[str]] = {True: set(), False: set()}
        """Resources by whether they run GPU jobs; without those that have a refused price, of which none can tell."""
        self.unsure = set(names.resources)
        for id, provider in file.providers.items():
            for resource, offer in provider.offers.items():
                if not self.is_refused(("providers", id, "offers", resource)):
                    self.served[is_gpu(offer.price)].add(resource)
        self.unsure -= self.served[True] | self.served[False]

    def is_refused(self, loc: Loc) -> bool:
        """Whether this value, or one in it, was refused."""
        return loc in self.around_refused

    def all(self, event_indices: Sequence[int]) -> Iterable[Problem]:
        if self.file.name is None:
            yield Problem(("name",), "missing", "write name: my-worlds-v1")
        if not self.names.providers:
            yield Problem(("providers",), "nobody offers anything", "write providers, by name, with their offers")
        if not self.names.tenants:
            yield Problem(("tenants",), "nobody asks for anything", "write tenants, by name")
        yield from self.prices()
        yield from self.profiles()
        for id, tenant in self.file.tenants.items():
            yield from self.tenant(("tenants", id), tenant)
        yield from self.trace()
        for index, event in zip(event_indices, self.file.events, strict=True):
            yield from self.event(("events", index), event)

    def prices(self) -> Iterable[Problem]:
        for id, provider in self.file.providers.items():
            for resource, offer in provider.offers.items():
                loc: Loc = ("providers", id, "offers", resource, "price")
                price = offer.price
                tokens = (price.input_usd_per_mtok, price.output_usd_per_mtok)
                if is_gpu(price) and any(each is not None for each in (*tokens, price.cached_input_usd_per_mtok)):
                    yield Problem(loc, "prices of GPU-hours and of tokens at once", "keep those of what it serves")
                elif not is_gpu(price) and None in tokens:
                    remedy = "write usd_per_gpu_hour, or input_usd_per_mtok and output_usd_per_mtok; 0 where it is free"
                    yield Problem(loc, "the price is missing", remedy)
            if len({is_gpu(offer.price) for offer in provider.offers.values()}) > 1:
                what = "offers both GPUs and models, but has one capacity"
                yield Problem(("providers", id, "offers"), what, "make two providers of it")

    def resource(self, loc: Loc, resource: str, *, gpu: bool) -> Iterable[Problem]:
        served, others = self.served[gpu], self.served[not gpu]
        if not self.names.resources or resource in self.unsure:
            return
        if resource not in self.names.resources:
            remedy = suggest(resource, served, "name a resource that a provider offers")
            yield Problem(loc, f"no provider offers {shown(resource)}", remedy)
        elif resource not in served:
            sort = "answers chats, and jobs need GPUs" if gpu else "runs GPU jobs, and a trace holds chats"
            priced = "a price per GPU-hour" if gpu else "token prices"
            yield Problem(loc, f"{shown(resource)} {sort}", suggest(resource, served, f"name one with {priced}"))
        elif resource in others:
            yield Problem(loc, f"{shown(resource)} is offered as a GPU and as a model", "give the two different names")

    def profiles(self) -> Iterable[Problem]:
        if self.names.trace and self.names.profiles:
            yield Problem(("profiles",), "a scenario has jobs or a trace, not both", "remove profiles, or trace")
            return
        for id, profile in self.file.profiles.items():
            yield from self.resource(("profiles", id, "resource"), profile.resource, gpu=True)

    def tenant(self, loc: Loc, tenant: TenantModel) -> Iterable[Problem]:
        weights = tenant.weights
        if not any((weights.price, weights.latency, weights.reputation, weights.availability)):
            yield Problem((*loc, "weights"), "every weight is 0", "make at least one positive")
        for index, region in enumerate(tenant.limits.regions or ()):
            if self.names.providers and region not in self.names.regions:
                remedy = suggest(region, self.names.regions, "name a region of a provider")
                yield Problem((*loc, "limits", "regions", index), f"nobody serves from {shown(region)}", remedy)
        if not self.names.trace:
            yield from self.demand(loc, tenant)
            return
        for name in _JOB_FIELDS:
            if getattr(tenant, name) is not None:
                yield Problem((*loc, name), "is for jobs, and this scenario plays a trace", "remove the line")

    def demand(self, loc: Loc, tenant: TenantModel) -> Iterable[Problem]:
        if tenant.budget_usd_per_step is None:
            yield Problem((*loc, "budget_usd_per_step"), "missing", "write budget_usd_per_step: 500")
        if tenant.requests_per_step is None:
            yield Problem((*loc, "requests_per_step"), "missing", "write requests_per_step: 10")
        if tenant.mix is None:
            remedy = "write the share of each profile, or give the scenario a trace"
            yield Problem((*loc, "mix"), "missing", remedy)
            return
        for profile in tenant.mix:
            if profile not in self.names.profiles and not self.is_refused(("profiles",)):
                remedy = suggest(profile, self.names.profiles, "name a profile of `profiles`")
                yield Problem((*loc, "mix", profile), f"no such profile: {shown(profile)}", remedy)
        yield from _check_sum((*loc, "mix"), tenant.mix)
        if tenant.region is not None and not self.is_refused(("providers",)):
            yield from self.region((*loc, "region"), tenant.region, tenant.mix)

    def region(self, loc: Loc, region: str, mix: Mapping[str, float]) -> Iterable[Problem]:
        """A profile that nobody serves there is a hard life, and allowed; where none is, nothing can work."""
        known = self.file.profiles
        wanted = {known[profile].resource for profile in mix if profile in known}
        offering = [p for p in self.file.providers.values() if {region, GLOBAL_REGION} & set(p.regions)]
        if not offering and self.names.providers:
            remedy = suggest(region, self.names.regions, "name a region of a provider")
            yield Problem(loc, f"nobody serves {shown(region)}", remedy)
        elif not (set(mix) <= set(known) and wanted <= self.served[True]):
            return  # a mistake of its own
        elif not any(wanted & set(p.offers) for p in offering):
            what = f"nobody serves {', '.join(sorted(wanted))} in {shown(region)}"
            yield Problem(loc, what, "name another region, or leave it out")

    def trace(self) -> Iterable[Problem]:
        trace = self.file.trace
        if trace is None:
            return
        yield from self.resource(("trace", "resource"), trace.resource, gpu=False)
        for tenant in trace.share:
            if self.names.tenants and tenant not in self.names.tenants:
                remedy = suggest(tenant, self.names.tenants, "name a tenant of `tenants`")
                yield Problem(("trace", "share", tenant), f"no such tenant: {shown(tenant)}", remedy)
        yield from _check_sum(("trace", "share"), trace.share)

    def event(self, loc: Loc, event: EventModel) -> Iterable[Problem]:
        if self.names.providers and event.provider not in self.names.providers:
            remedy = suggest(event.provider, self.names.providers, "name a provider of `providers`")
            yield Problem((*loc, "provider"), f"no such provider: {shown(event.provider)}", remedy)
        if event.step >= self.file.steps and not self.is_refused(("steps",)):
            what = f"never happens: the scenario has {self.file.steps} steps, from 0"
            yield Problem((*loc, "step"), what, "let it happen earlier, or raise steps")
        needed, example = _FIGURES.get(event.kind, ("", ""))
        for name in ("multiplier", "delta"):
            given = getattr(event, name) is not None
            if name == needed and not given:
                yield Problem((*loc, name), f"missing: a {event.kind} needs it", f"write {example}")
            elif name != needed and given:
                remedy = f"write {needed} instead" if needed else "remove the line"
                yield Problem((*loc, name), f"has no meaning for {event.kind}", remedy)
        provider = self.file.providers.get(event.provider)
        if event.kind is EventKind.LATENCY_SPIKE and event.delta is not None and provider is not None:
            least = min(offer.latency_ms or provider.latency_ms for offer in provider.offers.values())
            if least + event.delta <= 0 and not self.is_refused(("providers", event.provider)):
                yield Problem((*loc, "delta"), f"leaves no latency of {least:g} ms", "write a larger number")


def _check_sum(loc: Loc, shares: Mapping[str, float]) -> Iterable[Problem]:
    total = math.fsum(shares.values())
    if abs(total - 1) > _TOLERANCE:
        yield Problem(loc, f"the shares sum to {total:g}, not 1", "make them sum to 1")
