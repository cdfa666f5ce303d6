"""The stage of the demo: simulated providers, amaru before them, and one provider alone, each a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import yaml

from amaru.config import Config, parse
from amaru.domain import Capability, Kind, Workload
from amaru.errors import AmaruError
from amaru.readiness.children import Child, ChildError
from amaru.readiness.json_client import JsonClient
from amaru.routing.board import Board
from amaru.routing.policies import make_policy
from amaru.routing.router import Router
from amaru.simulation.faults import Fault
from amaru.simulation.gateway_config import gateway_config
from amaru.simulation.profiles import ProviderProfile

START_LIMIT_S = 90.0
"""For a process to be ready; compiling the kernels for the first time takes most of it."""
MODEL = "llama-70b"
TYPICAL = Workload(
    tenant="", kind=Kind.CHAT, resource=MODEL, input_tokens=1000, output_tokens=130, needs=Capability.STREAM
)
"""The workload by which the providers are ranked before the run: the trace's medians."""

ROUTING: dict[str, object] = {"first_token_ms": 4000, "idle_ms": 4000, "deadline_ms": 60000}
"""Limits shorter than the defaults: two minutes are to show what otherwise takes longer."""


class Stage:
    """Starts everything, in a directory of its own; leaves nothing running.

    Parameters
    ----------
    policy
        By which amaru ranks.
    twin
        Whether a lone provider stands beside it.
    sections
        Of amaru's configuration, besides what the stage sets itself.

    Attributes
    ----------
    ranking
        Providers in the order in which the rules prefer them for a typical request, before any traffic. Incidents aim
        by it, so that every policy meets the same ones.
    gateway_url, alone_url
        Where clients call amaru, and the lone twin of the favourite, without ``/v1``.
    """

    def __init__(
        self,
        directory: Path,
        profiles: Sequence[ProviderProfile],
        seed: int,
        *,
        policy: str = "rules",
        twin: bool = True,
        sections: Mapping[str, object] | None = None,
    ) -> None:
        self.policy = policy
        self._twin = twin
        self._sections = sections
        self.profiles = tuple(profiles)
        self.ranking: list[str] = []
        self.gateway_url = ""
        self.alone_url = ""
        self._directory = directory
        self._seed = seed
        self._children: list[Child] = []
        self._controls: dict[str, JsonClient] = {}
        self._gateway: JsonClient | None = None
        self._alone: JsonClient | None = None

    async def __aenter__(self) -> Stage:
        try:
            await self._build()
        except BaseException:
            await self._clear()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clear()

    @property
    def favourite(self) -> ProviderProfile:
        """The provider that the rules rank first; the lone client is bound to its twin."""
        return next(profile for profile in self.profiles if profile.name == self.ranking[0])

    async def died(self) -> ChildError:
        """Wait until a process ends by itself, and return what it said."""
        watching = [asyncio.ensure_future(child.died()) for child in self._children]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in watching:
                task.cancel()

    async def strike(self, provider: str, fault: Fault) -> None:
        """Switch a fault on at a provider and, where it is the favourite, at its twin in the same instant."""
        targets = [self._controls[provider]]
        if provider == self.ranking[0] and self._alone is not None:
            targets.append(self._alone)
        await asyncio.gather(*(target.call("POST", "/sim/faults", fault) for target in targets))

    async def page(self, path: str) -> dict[str, Any]:  # Any: JSON
        """What amaru answers to a GET of ``path``."""
        assert self._gateway is not None
        answer: dict[str, Any] = await self._gateway.call("GET", path)
        return answer

    async def bills(self) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """What each provider charges, and what the lone twin charges. A bill that cannot be read is left out."""
        names = list(self._controls)
        clients = [*(self._controls[name] for name in names), *([self._alone] if self._alone is not None else [])]
        answers = await asyncio.gather(*(client.call("GET", "/sim/bill") for client in clients), return_exceptions=True)
        totals = [{} if isinstance(answer, BaseException) else answer["total"] for answer in answers]
        alone = totals[-1] if self._alone is not None else {}
        return {name: total for name, total in zip(names, totals, strict=False) if total}, alone

    # --- building ---------------------------------------------------------------------------------------------------

    async def _build(self) -> None:
        urls = await self._simulate("providers", self.profiles, self._seed)
        self._controls = {name: JsonClient(url) for name, url in urls.items()}
        config = gateway_config(
            [(profile, f"{urls[profile.name]}/v1") for profile in self.profiles],
            port=0,
            storage_path="demo.db",
            routing={**ROUTING, "policy": self.policy},
            sections=self._sections,
        )
        (self._directory / "amaru.yaml").write_text(config, encoding="utf-8")
        self.ranking = ranking_of(parse(config, env={}))
        self.gateway_url = await self._serve()
        self._gateway = JsonClient(self.gateway_url)
        await self._gateway.call("GET", "/health/ready")
        if not self._twin:
            return
        twin = await self._simulate("the lone provider", [self.favourite], self._seed)
        self.alone_url = twin[self.ranking[0]]
        self._alone = JsonClient(self.alone_url)

    async def _simulate(self, name: str, profiles: Sequence[ProviderProfile], seed: int) -> dict[str, str]:
        path = self._directory / f"{name.replace(' ', '-')}.yaml"
        path.write_text(yaml.safe_dump({"providers": [msgspec.to_builtins(profile) for profile in profiles]}), "utf-8")
        options = ["simulate", "--config", path.name, "--port-base", "0", "--seed", str(seed), "--json"]
        child = await self._start(name, options)
        line = await child.line(lambda line: line.startswith('{"providers"'), START_LIMIT_S)
        rows: list[dict[str, str]] = msgspec.json.decode(line)["providers"]
        return {row["name"]: row["url"] for row in rows}

    async def _serve(self) -> str:
        child = await self._start("amaru serve", ["serve", "--config", "amaru.yaml", "--log-format", "json"])
        line = await child.line(lambda line: line.startswith("amaru serves at "), START_LIMIT_S)
        return line.removeprefix("amaru serves at ").split("/v1")[0]

    async def _start(self, name: str, arguments: Sequence[str]) -> Child:
        child = await Child.start(name, arguments, self._directory)
        self._children.append(child)
        return child

    async def _clear(self) -> None:
        clients = [*self._controls.values(), *(client for client in (self._gateway, self._alone) if client)]
        await asyncio.gather(*(client.aclose() for client in clients), return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in self._children), return_exceptions=True)


def ranking_of(config: Config) -> list[str]:
    """The providers in the order in which the rules prefer them for a typical request."""
    board = Board(config.offers(), config.aliases)
    order = Router(board, make_policy("rules")).decide(TYPICAL, 0.0).order
    return [board.offers[row].provider for row in order]


def told(error: BaseException) -> str:
    """An error in one line, for the view."""
    return str(error).splitlines()[0] if isinstance(error, AmaruError) else type(error).__name__
