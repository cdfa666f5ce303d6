"""A mesh over real HTTP providers, without a gateway, for the tests of levers and healing."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from amaru.config import Config, parse
from amaru.domain import Kind, Tenant, Weights
from amaru.errors import RequestError
from amaru.mesh import Mesh
from amaru.mesh.call import Call
from amaru.mesh.execution import Execution
from amaru.mesh.levers import MeshLevers
from amaru.protocols.openai import parse_request
from amaru.providers.base import StreamReply
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.provider import SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics

TENANT = Tenant(id="t", weights=Weights(price=1.0, latency=0.0, reputation=0.0, availability=0.0))


class LeversWorld:
    """Providers ``a``, ``b``, ... that serve ``sim``, the first the cheapest, and a mesh over them."""

    def __init__(self, mesh: Mesh, providers: dict[str, SimulatedProvider], settings: dict[str, Any]) -> None:
        self.mesh = mesh
        self.providers = providers
        self.settings = settings
        self.levers = MeshLevers(mesh)

    def config(self, **changes: Any) -> Config:
        return parse(yaml.safe_dump(self.settings | changes), env={})

    def begin(self, *, stream: bool = False, words: str = "Say something.", model: str = "sim") -> Execution:
        body = {"model": model, "messages": [{"role": "user", "content": words}], "stream": stream, "max_tokens": 8}
        request = parse_request(Kind.CHAT, msgspec.json.encode(body))
        return self.mesh.begin(Call(TENANT, request, self.mesh.clock()))

    async def ask(self, **request: Any) -> tuple[str | None, bytes]:
        """Who served one request, and what came."""
        execution = self.begin(**request)
        try:
            reply = await execution.run()
            if not isinstance(reply, StreamReply):
                return execution.provider, reply.body
            got = b""
            while data := await execution.next():
                got += data
            return execution.provider, got
        except RequestError as error:
            return None, str(error).encode()
        finally:
            execution.settle()

    async def served(self, times: int, **request: Any) -> collections.Counter[str | None]:
        """How many of so many requests each provider served."""
        counts: collections.Counter[str | None] = collections.Counter()
        for number in range(times):
            counts[(await self.ask(words=f"Say something of {number}.", **request))[0]] += 1
        return counts


MakeLevers = Callable[..., AbstractAsyncContextManager[LeversWorld]]


@pytest.fixture
def make_levers(tmp_path: Path) -> MakeLevers:
    @contextlib.asynccontextmanager
    async def make(
        names: tuple[str, ...] = ("a", "b"),
        *,
        profiles: dict[str, ProviderProfile] | None = None,
        routing: dict[str, Any] | None = None,
        alternate: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> AsyncIterator[LeversWorld]:
        async with contextlib.AsyncExitStack() as stack:
            providers = {}
            for name in names:
                profile = (profiles or {}).get(name) or ProviderProfile(name=name)
                providers[name] = await stack.enter_async_context(SimulatedProvider(profile, seed=7, keep_received=50))
            settings: dict[str, Any] = {
                "version": 1,
                "server": {"auth": "none"},
                "providers": {name: {"base_url": provider.base_url} for name, provider in providers.items()},
                "offers": [
                    {
                        "provider": name,
                        "resource": "sim",
                        "model": "sim-model",
                        "capabilities": ["stream"],
                        "price": {"input_usd_per_mtok": 1.0 + 0.2 * place, "output_usd_per_mtok": 1.0 + 0.2 * place},
                    }
                    for place, name in enumerate(names)
                ],
                "routing": {"first_token_ms": 20_000, "answer_ms": 20_000, "idle_ms": 20_000, **(routing or {})},
                "health": {"enabled": False},
                **(extra or {}),
            }
            if alternate is not None:
                settings["providers"][alternate]["alternates"] = [{"base_url": providers[alternate].alternate_url}]
            store = DecisionStore(StoreSettings(path=tmp_path / "test.db", interval_s=0.01))
            store.start()
            stack.push_async_callback(store.close)
            mesh = Mesh(parse(yaml.safe_dump(settings), env={}), store, Metrics())
            stack.push_async_callback(mesh.aclose)
            yield LeversWorld(mesh, providers, settings)

    return make
