"""Reads scenarios of the war-game: our own YAML, and the classic game's JSON; every mistake of a file in one go.

A scenario may extend another: it inherits everything but the name, what it is about and its purpose; a mapping is
merged into the inherited one, anything else takes the inherited one's place, and ``null`` takes it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from amaru.domain import Capability, Kind, Limits, Offer, Price, Tenant, Weights
from amaru.errors import ScenarioError
from amaru.files.document import MAX_BYTES, Document, read_document, write_document
from amaru.files.problems import MAX_PROBLEMS, Loc, Problem, shown, suggest
from amaru.files.settings import CAPABILITIES
from amaru.files.translate import validate
from amaru.simulation.scenario import (
    DEFAULT_STEPS,
    Demand,
    Event,
    Hidden,
    Profile,
    Range,
    Regime,
    Scenario,
    TraceDemand,
)
from amaru.simulation.scenario_checks import Names, check, is_gpu
from amaru.simulation.scenario_classic import PROVIDERS, WORKLOADS, Classic
from amaru.simulation.scenario_models import HiddenModel, RegimeModel, ScenarioFile, TenantModel

_MAX_EXTENDS = 8
_OWN = ("name", "about", "purpose")
"""What a scenario does not inherit."""
_EXAMPLE = "one as it should be: amaru wargame show classic"

Finding = tuple[Path, Problem]
"""The file, and what is wrong in it."""


def shipped() -> tuple[str, ...]:
    """Names of the scenarios that come with amaru."""
    return tuple(sorted(path.stem for path in _worlds().glob("*.yaml")))


def load_scenario(source: str | Path) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    source
        The name of one that comes with amaru (``shipped``); a YAML file; a ``workloads.json`` of the classic game with
        ``providers.json`` beside it, or their folder. A ``Path`` is always a file or folder.

    Raises
    ------
    ScenarioError
        With every mistake, one line each: ``mine.yaml:12: events[0].provider: no such provider: "akahs" — did you
        mean "akash"?``
    """
    return _scenario(read_scenario_file(source))


def read_scenario_file(source: str | Path) -> ScenarioFile:
    """As ``load_scenario``: the settings as they stand in the file, with all that it extends."""
    path = _path_of(source)
    return _read_classic(path) if path.suffix.lower() == ".json" else _read_yaml(path)


def dump_scenario(file: ScenarioFile) -> str:
    """The YAML of a scenario, with all that it extends: the same scenario when it is read."""
    return write_document(file.model_dump(mode="json", exclude_none=True, exclude_unset=True))


def _worlds() -> Path:
    return Path(str(files("amaru.simulation") / "worlds"))


def _path_of(source: str | Path) -> Path:
    if isinstance(source, str) and source in shipped():
        return _worlds() / f"{source}.yaml"
    path = Path(source)
    if _is_file(path / WORKLOADS):
        return path / WORKLOADS
    if path.suffix.lower() == ".json":
        return path
    if not _is_file(path):
        remedy = suggest(str(source), shipped(), "give a file, or a name that `amaru wargame list` shows")
        raise ScenarioError([Problem((), "no such file or scenario", remedy).render(str(source))])
    return path


def _is_file(path: Path) -> bool:
    """As ``Path.is_file``, also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _content(path: Path) -> bytes | str:
    """A file's bytes, bounded, or the reason why there are none."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or "cannot be read").lower()


def _refuse(findings: Iterable[Finding]) -> NoReturn:
    """Raises what was found, in the files' order, each mistake once."""
    placed: dict[str, tuple[str, int]] = {}
    for path, problem in findings:
        placed.setdefault(problem.render(str(path)), (str(path), problem.line or 0))
    raise ScenarioError(sorted(placed, key=lambda text: placed[text]))


# --- our own format


class _Extended:
    """A YAML file merged into those that it extends, and where everything in it comes from."""

    def __init__(self, path: Path) -> None:
        self.data: dict[str, Any] = {}  # Any: raw YAML
        self.findings: list[Finding] = []
        self.broken = False
        """Whether a file of them cannot be read at all: then what is missing says nothing."""
        self._layers: list[tuple[Path, Document, set[Loc]]] = []
        self._read(path, ())
        for layer_path, document, replaced in reversed(self._layers):
            own = {name: value for name, value in document.data.items() if name != "extends"}
            inherited = {name: value for name, value in self.data.items() if name not in _OWN}
            self.data = _merged(inherited, own, (), replaced)
            self._anchor_trace(layer_path, own)

    def _read(self, path: Path, before: tuple[Path, ...]) -> None:
        content = _content(path)
        if isinstance(content, str):
            self._stop(path, Problem((), content, "check the path"))
            return
        document = read_document(content, _EXAMPLE)
        self._layers.append((path, document, {(name,) for name in _OWN}))
        self.findings += [(path, problem) for problem in document.problems]
        self.broken |= bool(document.problems) and not document.data
        base = document.data.get("extends")
        if base is None:
            return
        loc: Loc = ("extends",)
        line = document.line_of(loc)
        if not isinstance(base, str):
            remedy = "write the name of a scenario that comes with amaru, or a file"
            self._stop(path, Problem(loc, f"not a text: {shown(base)}", remedy, line))
            return
        found = _worlds() / f"{base}.yaml" if base in shipped() else path.parent / base
        trail = (*before, path.resolve())
        if not _is_file(found):
            remedy = suggest(base, shipped(), "give a file, relative to this one")
            self._stop(path, Problem(loc, f"no such file or scenario: {shown(base)}", remedy, line))
        elif found.suffix.lower() == ".json":
            remedy = f"turn it into YAML first: amaru wargame show {found.name}"
            self._stop(path, Problem(loc, "the classic JSON cannot be extended", remedy, line))
        elif found.resolve() in trail:
            self._stop(path, Problem(loc, "extends itself in the end", "extend another one", line))
        elif len(trail) > _MAX_EXTENDS:
            what = f"more than {_MAX_EXTENDS} files that extend each other"
            self._stop(path, Problem(loc, what, "extend one that stands by itself", line))
        else:
            self._read(found, trail)

    def _stop(self, path: Path, problem: Problem) -> None:
        self.findings.append((path, problem))
        self.broken = True

    def _anchor_trace(self, path: Path, own: dict[str, Any]) -> None:
        """A trace's path is relative to the file that names it."""
        trace = own.get("trace")
        if isinstance(trace, dict) and isinstance(trace.get("path"), str) and trace["path"]:
            self.data["trace"] = {**self.data["trace"], "path": str(path.parent / trace["path"])}

    def find(self, loc: Loc) -> tuple[Path, int | None]:
        """The file and the line of a value, or of the closest one around it."""
        for length in range(len(loc), 0, -1):
            place = loc[:length]
            for path, document, replaced in self._layers:
                if place in document.lines:
                    return path, document.lines[place]
                if any(place[:n] in replaced for n in range(1, length + 1)):
                    break
        return self._layers[0][0], None


def _merged(inherited: dict[str, Any], own: dict[str, Any], loc: Loc, replaced: set[Loc]) -> dict[str, Any]:
    result = dict(inherited)
    for name, value in own.items():
        here = (*loc, name)
        if isinstance(value, dict) and isinstance(inherited.get(name), dict):
            result[name] = _merged(inherited[name], value, here, replaced)
            continue
        replaced.add(here)
        if value is None and name in inherited:
            del result[name]
        else:
            result[name] = value
    return result


def _read_yaml(path: Path) -> ScenarioFile:
    extended = _Extended(path)
    if extended.broken:
        _refuse(extended.findings)
    file, indices, problems = validate(ScenarioFile, extended.data, elements_of=("events",))
    if file is not None:
        refused = [problem.loc for problem in problems]
        checked = check(file, indices["events"], Names(extended.data), refused)
        problems = [*problems, *islice(checked, MAX_PROBLEMS), *_check_path(file)]
    for problem in problems:
        where, line = extended.find(problem.loc)
        extended.findings.append((where, replace(problem, line=line)))
    if extended.findings or file is None:
        _refuse(extended.findings)
    return file


def _check_path(file: ScenarioFile) -> Iterable[Problem]:
    path = file.trace.path if file.trace else None
    if path is not None and not _is_file(Path(path)):
        remedy = "give a path relative to this file, or null for the trace that comes with amaru"
        yield Problem(("trace", "path"), f"no such file: {shown(path)}", remedy)


# --- the classic game's


def _read_classic(workloads: Path) -> ScenarioFile:
    classic = Classic(workloads, {path: _content(path) for path in (workloads, workloads.with_name(PROVIDERS))})
    findings = classic.findings()
    file, _, problems = validate(ScenarioFile, classic.data, elements_of=("events",))
    if file is not None and not classic.broken:
        checked = check(file, classic.event_places, Names(classic.declared()), classic.refused)
        problems = [*problems, *islice(checked, MAX_PROBLEMS)]
    # Without what was refused, more is amiss; that is no second mistake.
    findings += [classic.finding(problem) for problem in problems if not classic.is_refused(problem.loc)]
    if findings or file is None:
        _refuse(findings)
    return file


# --- from settings to the scenario


def _scenario(file: ScenarioFile) -> Scenario:
    tenants = tuple(_tenant(id, model) for id, model in file.tenants.items())
    chats = file.trace is not None
    return Scenario(
        name=file.name or "",
        purpose=file.purpose,
        steps=file.steps,
        step_s=file.step_s,
        offers=tuple(_offers(file)),
        bridges={id: provider.bridge for id, provider in file.providers.items() if provider.bridge is not None},
        demands=() if chats else tuple(_demand(tenant, file.tenants[tenant.id]) for tenant in tenants),
        profiles=tuple(
            Profile(id=id, resource=profile.resource, gpu_hours=_range(profile.gpu_hours))
            for id, profile in file.profiles.items()
        ),
        trace=TraceDemand(**file.trace.model_dump()) if file.trace else None,
        tenants=tenants if chats else (),
        events=tuple(
            Event(
                step=event.step,
                kind=event.kind,
                provider=event.provider,
                steps=event.steps or DEFAULT_STEPS[event.kind],
                multiplier=1.0 if event.multiplier is None else event.multiplier,
                delta=event.delta or 0.0,
            )
            for event in file.events
        ),
        hidden=_hidden(file.hidden) if file.hidden else None,
    )


def _offers(file: ScenarioFile) -> Iterable[Offer]:
    for id, provider in file.providers.items():
        for resource, offer in provider.offers.items():
            capabilities = Capability.NONE
            for name in offer.capabilities:
                capabilities |= CAPABILITIES[name]
            price = offer.price
            yield Offer(
                id=f"{id}/{resource}",
                provider=id,
                resource=resource,
                model=offer.model or resource,
                kinds=(Kind.GPU_JOB if is_gpu(price) else Kind.CHAT,),
                regions=provider.regions,
                price=Price(
                    input_usd_per_mtok=price.input_usd_per_mtok or 0.0,
                    cached_input_usd_per_mtok=price.cached_input_usd_per_mtok,
                    output_usd_per_mtok=price.output_usd_per_mtok or 0.0,
                    usd_per_gpu_hour=price.usd_per_gpu_hour or 0.0,
                ),
                context_window_tokens=offer.context_window_tokens,
                capabilities=capabilities,
                latency_ms=offer.latency_ms or provider.latency_ms,
                reputation=provider.reputation,
                capacity=provider.capacity,
            )


def _tenant(id: str, model: TenantModel) -> Tenant:
    return Tenant(id=id, weights=Weights(**model.weights.model_dump()), limits=Limits(**model.limits.model_dump()))


def _demand(tenant: Tenant, model: TenantModel) -> Demand:
    return Demand(
        tenant=tenant,
        region=model.region,
        budget_usd_per_step=model.budget_usd_per_step or 0.0,
        requests_per_step=model.requests_per_step or 0.0,
        mix=dict(model.mix or {}),
    )


def _hidden(model: HiddenModel) -> Hidden:
    return Hidden(
        healthy=_regime(model.healthy),
        degraded=_regime(model.degraded),
        down=_regime(model.down),
        down_share=_range(model.down_share),
        latency_bias=_range(model.latency_bias),
        latency_noise=_range(model.latency_noise),
        latency_load=_range(model.latency_load),
        bridge_up_steps=_range(model.bridge_up_steps),
        bridge_down_steps=_range(model.bridge_down_steps),
        bridge_failure=model.bridge_failure,
        price_drift=_range(model.price_drift),
        price_jumps=_range(model.price_jumps),
        price_jump_sd=model.price_jump_sd,
        price_lag_steps=_range(model.price_lag_steps),
    )


def _regime(model: RegimeModel) -> Regime:
    return Regime(failure=_range(model.failure), slowdown=_range(model.slowdown), steps=_range(model.steps))


def _range(pair: tuple[float, ...]) -> Range:
    low, high = pair
    return float(low), float(high)
