"""Reads the classic war-game's JSON: ``workloads.json``, with ``providers.json`` beside it.

It becomes what the same scenario would be in our own format, and is checked as that; every place is told as it stands
in the JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from amaru.domain import GLOBAL_REGION
from amaru.files.document import Document, read_document
from amaru.files.fields import Identifier, Milliseconds, Name, Region, Section
from amaru.files.problems import Loc, Problem, shown
from amaru.files.settings import WeightSettings
from amaru.files.translate import validate
from amaru.simulation.scenario import EventKind
from amaru.simulation.scenario_models import (
    Capacity,
    Delta,
    GpuHours,
    Multiplier,
    Reputation,
    Requests,
    Shares,
    Step,
    Steps,
    Usd,
)

PROVIDERS = "providers.json"
WORKLOADS = "workloads.json"

_UsdPerHour = Annotated[float, Field(ge=0, le=1_000_000)]
_Model = TypeVar("_Model", bound=BaseModel)


class _Provider(Section):
    id: Identifier = Field(examples=['"akash"'])
    name: str | None = None
    bridge: Identifier | None = None
    regions: tuple[Region, ...] = Field(default=(GLOBAL_REGION,), min_length=1)
    gpu_types: tuple[Name, ...] | None = Field(default=None, min_length=1)
    credits_per_hour: dict[str, float] = Field(default={})
    base_price_usd_per_hour: dict[Name, _UsdPerHour] = Field(min_length=1, examples=['{"A100": 1.8}'])
    base_latency_ms: Milliseconds = Field(examples=[300])
    capacity_gpu_hours_per_step: Capacity = Field(examples=[220])
    reputation: Reputation = Field(examples=[78])


class _Providers(Section):
    providers: tuple[_Provider, ...] = ()
    credit_currency: str | None = None
    usd_per_credit: float | None = None


class _Tenant(Section):
    id: Identifier = Field(examples=['"tenant-research"'])
    name: str | None = None
    region: Region | None = None
    budget_usd_per_step: Usd = Field(examples=[500])
    weights: WeightSettings = WeightSettings()
    min_reputation: Reputation | None = None
    max_latency_ms: Milliseconds | None = None
    mix: Shares = Field(examples=['{"llm_inference": 1}'])
    avg_requests_per_step: Requests = Field(examples=[10])


class _Profile(Section):
    gpu_type: Name = Field(examples=['"A100"'])
    gpu_hours: GpuHours = Field(examples=["[0.5, 2]"])


class _Event(Section):
    step: Step = Field(examples=[20])
    event: EventKind = Field(examples=['"outage"'])
    provider_id: str = Field(examples=['"akash"'])
    duration: Steps | None = None
    multiplier: Multiplier | None = None
    delta: Delta | None = None
    delta_ms: Delta | None = None


class _Simulation(Section):
    steps: Steps = 120
    seed: int | None = None


class _Workloads(Section):
    tenants: tuple[_Tenant, ...] = ()
    workload_profiles: dict[Name, _Profile] = Field(default={})
    simulation: _Simulation = _Simulation()
    scenarios: tuple[_Event, ...] = ()


class Classic:
    """A classic war-game as it would be in our own format, and the place in the JSON of everything in it.

    ``data`` holds what ``ScenarioFile`` reads, without what was refused.
    """

    def __init__(self, workloads: Path, contents: dict[Path, bytes | str]) -> None:
        """``contents`` holds the bytes of ``workloads`` and of the providers, or the reason why they cannot be read."""
        self.data: dict[str, Any] = {"name": _identifier(workloads)}  # Any: as raw YAML
        self._problems: list[tuple[Path, Problem]] = []
        self._documents: dict[Path, Document] = {}
        self.event_places: list[int] = []
        self._places: dict[Loc, tuple[Path, Loc]] = {}
        self._refused: list[tuple[Path, Loc]] = []
        self._workloads, self._providers = workloads, workloads.with_name(PROVIDERS)
        for path, content in contents.items():
            self._open(path, content)
        self._read_providers()
        self._read_workloads()

    @property
    def broken(self) -> bool:
        """Whether a file of the two cannot be read at all: then what is missing says nothing."""
        return any(document.problems and not document.data for document in self._documents.values())

    def findings(self) -> list[tuple[Path, Problem]]:
        """What is wrong with the two files by themselves, with lines."""
        return [(path, self._lined(path, problem)) for path, problem in self._problems]

    def finding(self, problem: Problem) -> tuple[Path, Problem]:
        """What is wrong in ``data``, as it stands in the JSON."""
        path, at = self._place(problem.loc)
        return path, self._lined(path, replace(problem, loc=at))

    @property
    def refused(self) -> list[Loc]:
        """The parts of ``data`` of which something was refused in the JSON."""
        parts = {(self._providers, "providers"): "providers", (self._workloads, "simulation"): "steps"}
        parts[(self._workloads, "workload_profiles")] = "profiles"
        found = {parts.get((path, str(at[0]))) for path, at in self._refused if at}
        return [(part,) for part in sorted(filter(None, found))]

    def is_refused(self, loc: Loc) -> bool:
        """Whether something within, or around, this place of ``data`` was refused in the JSON."""
        path, at = self._place(loc)
        return any(
            other == path and (where[: len(at)] == at or at[: len(where)] == where) for other, where in self._refused
        )

    def declared(self) -> dict[str, Any]:  # Any: as raw YAML
        """The names in the JSON as ``data`` would hold them, also of what was refused."""
        providers = {
            id: {
                "offers": _mapping(provider.get("base_price_usd_per_hour")),
                "regions": provider.get("regions"),
            }
            for id, provider in self._by_id(self._providers, "providers").items()
        }
        profiles = self._documents[self._workloads].data.get("workload_profiles")
        return {
            "providers": providers,
            "tenants": self._by_id(self._workloads, "tenants"),
            "profiles": _mapping(profiles),
        }

    def _by_id(self, path: Path, name: str) -> dict[str, dict[str, Any]]:  # Any: raw JSON
        elements = self._documents[path].data.get(name)
        found = [element for element in elements if isinstance(element, dict)] if isinstance(elements, list) else []
        return {element["id"]: element for element in found if isinstance(element.get("id"), str)}

    def _place(self, loc: Loc) -> tuple[Path, Loc]:
        for length in range(len(loc), 0, -1):
            if loc[:length] in self._places:
                path, at = self._places[loc[:length]]
                return path, at + loc[length:]
        return self._workloads, loc

    def _lined(self, path: Path, problem: Problem) -> Problem:
        return replace(problem, line=problem.line or self._documents[path].line_of(problem.loc))

    def _open(self, path: Path, content: bytes | str) -> None:
        document = Document() if isinstance(content, str) else _read_json(content)
        if isinstance(content, str):
            document.problems.append(Problem((), content, f"put {WORKLOADS} and {PROVIDERS} into one folder"))
        self._documents[path] = document
        self._problems += [(path, problem) for problem in document.problems]

    def _validated(self, path: Path, model: type[_Model], *lists: str) -> tuple[_Model, dict[str, tuple[int, ...]]]:
        document = self._documents[path]
        file, indices, problems = validate(model, document.data, elements_of=lists)
        self._problems += [(path, problem) for problem in problems]
        self._refused += [(path, problem.loc) for problem in problems]
        if document.problems and not document.data:
            self._refused.append((path, ()))
        return file or model(), indices

    def _read_providers(self) -> None:
        path = self._providers
        file, indices = self._validated(path, _Providers, "providers")
        self._places[("providers",)] = (path, ("providers",))
        providers: dict[str, Any] = {}
        for index, provider in zip(indices["providers"], file.providers, strict=True):
            at: Loc = ("providers", index)
            if provider.id in providers:
                self._problems.append((path, _twice((*at, "id"), provider.id)))
                continue
            loc: Loc = ("providers", provider.id)
            prices = provider.base_price_usd_per_hour
            for position, gpu in enumerate(provider.gpu_types or ()):
                if gpu not in prices and not self._within_refused(path, (*at, "base_price_usd_per_hour")):
                    what = f"{shown(gpu)} has no price"
                    remedy = f"write it in base_price_usd_per_hour, or remove {gpu} here"
                    self._problems.append((path, Problem((*at, "gpu_types", position), what, remedy)))
            self._note(path, loc, at, latency_ms="base_latency_ms", capacity="capacity_gpu_hours_per_step")
            self._places[(*loc, "offers")] = (path, (*at, "base_price_usd_per_hour"))
            offered = [gpu for gpu in provider.gpu_types or prices if gpu in prices]
            for gpu in offered:
                self._places[(*loc, "offers", gpu, "price")] = (path, (*at, "base_price_usd_per_hour", gpu))
            providers[provider.id] = {
                "bridge": provider.bridge,
                "regions": list(provider.regions),
                "reputation": provider.reputation,
                "latency_ms": provider.base_latency_ms,
                "capacity": provider.capacity_gpu_hours_per_step,
                "offers": {gpu: {"price": {"usd_per_gpu_hour": prices[gpu]}} for gpu in offered},
            }
        self.data["providers"] = {id: p for id, p in providers.items() if p["offers"]}

    def _read_workloads(self) -> None:
        path = self._workloads
        file, indices = self._validated(path, _Workloads, "tenants", "scenarios")
        self._note(path, (), (), profiles="workload_profiles", events="scenarios", tenants="tenants")
        self._places[("steps",)] = (path, ("simulation", "steps"))
        tenants: dict[str, Any] = {}
        for index, tenant in zip(indices["tenants"], file.tenants, strict=True):
            at: Loc = ("tenants", index)
            if tenant.id in tenants:
                self._problems.append((path, _twice((*at, "id"), tenant.id)))
                continue
            self._note(path, ("tenants", tenant.id), at, requests_per_step="avg_requests_per_step")
            self._places[("tenants", tenant.id, "limits")] = (path, at)
            limits = {"min_reputation": tenant.min_reputation, "max_latency_ms": tenant.max_latency_ms}
            tenants[tenant.id] = {
                "region": tenant.region,
                "budget_usd_per_step": tenant.budget_usd_per_step,
                "requests_per_step": tenant.avg_requests_per_step,
                "mix": tenant.mix,
                "weights": tenant.weights.model_dump(),
                "limits": limits,
            }
        for id in file.workload_profiles:
            self._note(path, ("profiles", id), ("workload_profiles", id), resource="gpu_type")
        for index, event in zip(indices["scenarios"], file.scenarios, strict=True):
            self._note(path, ("events", index), ("scenarios", index), provider="provider_id", kind="event")
            name = "delta_ms" if event.delta_ms is not None or event.event is EventKind.LATENCY_SPIKE else "delta"
            self._places[("events", index, "delta")] = (path, ("scenarios", index, name))
        profiles = file.workload_profiles
        self.event_places = list(indices["scenarios"])
        self.data |= {
            "steps": file.simulation.steps,
            "tenants": tenants,
            "profiles": {id: {"resource": p.gpu_type, "gpu_hours": list(p.gpu_hours)} for id, p in profiles.items()},
            "events": [
                {
                    "step": event.step,
                    "kind": event.event.value,
                    "provider": event.provider_id,
                    "steps": event.duration,
                    "multiplier": event.multiplier,
                    "delta": event.delta if event.delta_ms is None else event.delta_ms,
                }
                for event in file.scenarios
            ],
        }

    def _note(self, path: Path, loc: Loc, at: Loc, **names: str) -> None:
        if loc:
            self._places[loc] = (path, at)
        for ours, theirs in names.items():
            self._places[(*loc, ours)] = (path, (*at, theirs))

    def _within_refused(self, path: Path, at: Loc) -> bool:
        return any(other == path and where[: len(at)] == at for other, where in self._refused)


def _mapping(value: object) -> dict[str, Any]:  # Any: raw JSON
    return value if isinstance(value, dict) else {}


def _twice(loc: Loc, id: str) -> Problem:
    return Problem(loc, f"{shown(id)} is written twice", "give each its own id")


def _identifier(workloads: Path) -> str:
    """A scenario's name from its file's: what stands in no JSON."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in workloads.stem)[:64]
    return name if name[:1].isalnum() else "classic"


def _read_json(content: bytes) -> Document:
    """JSON's values, and the line of each: YAML's parser knows those, and reads JSON too."""
    lines = read_document(content, "is this the right file?")
    document = Document(lines=lines.lines)
    if not content.strip():
        document.problems.append(Problem((), "the file is empty", "is this the right file?"))
        return document
    problems = document.problems

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: raw JSON
        names = [name for name, _ in found]
        for name in sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
            problems.append(Problem((), f"the field {shown(name)} is written twice in one object", "remove one"))
        return dict(found)

    try:
        values = json.loads(content.decode("utf-8-sig"), object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        problems.append(Problem((), what, "check commas, quotes and brackets there", error.lineno, error.colno))
    except (ValueError, RecursionError):
        # Not UTF-8, nested without end, a number of thousands of digits: the bounded reader says which.
        problems += lines.problems or [Problem((), "not valid JSON: a number that is too long", "write a shorter one")]
    else:
        if isinstance(values, dict):
            document.data = values
        else:
            problems.append(Problem((), "must hold an object, not " + shown(values), "is this the right file?"))
    return document
