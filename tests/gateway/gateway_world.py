"""A gateway on real sockets in front of simulated providers that misbehave on demand."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from amaru.config import load
from amaru.gateway import Gateway
from amaru.http1 import ServerSettings
from amaru.ledger.place import Place
from amaru.mesh import Mesh, MeshLedger
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.accounts_till import MeshTill
from amaru.simulation import Fault, ProviderProfile, SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics

KEY = "sk-amaru-test-key-of-a-tenant"
OTHER_KEY = "sk-amaru-test-key-of-another-tenant"
OPERATOR_KEY = "sk-amaru-test-key-of-an-operator"
PROVIDER_KEY = "sk-provider-secret-that-must-never-leak"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass
class World:
    """Everything a test may want to touch."""

    gateway: Gateway
    mesh: Mesh
    providers: dict[str, SimulatedProvider]
    client: httpx.AsyncClient
    config_path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    accounts: MeshAccounts | None = None
    till: MeshTill | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    async def chat(self, content: str = "Say hello.", **fields: Any) -> httpx.Response:
        headers = fields.pop("headers", {})
        body = {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 12, **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def stream(self, **fields: Any) -> tuple[httpx.Response, list[str]]:
        """The response and the text of each of its lines that is not empty."""
        headers = fields.pop("headers", {})
        body = {
            "model": "sim", "messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 12,
            "stream": True, **fields,
        }  # fmt: skip
        async with self.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            lines = [line async for line in response.aiter_lines() if line]
        return response, lines

    async def decision(self, response: httpx.Response) -> dict[str, Any]:
        answer = await self.client.get(f"/decisions/{response.headers['x-amaru-decision']}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def break_(self, provider: str, kind: str, **fields: Any) -> None:
        self.providers[provider].faults.add(Fault(kind=kind, **fields))  # type: ignore[arg-type]

    def reload(self, **changes: Any) -> None:
        """Change the configuration file and have the mesh take it."""
        self.settings.update(changes)
        self.config_path.write_text(yaml.safe_dump(self.settings))
        self.mesh.reload(load(self.config_path, {"SIM_KEY": PROVIDER_KEY}))


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Give the event loop turns until ``condition`` holds; fails after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is of another server, which has no event to wait for
            await asyncio.sleep(0.002)


def text_of(lines: list[str]) -> str:
    """The content that a stream delivered."""
    pieces = []
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            choices = json.loads(line[6:]).get("choices", [])
            pieces += [choice.get("delta", {}).get("content") or "" for choice in choices]
    return "".join(pieces)


MakeWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def make_world(tmp_path: Path) -> MakeWorld:
    @contextlib.asynccontextmanager
    async def make(
        names: tuple[str, ...] = ("alpha", "beta"),
        *,
        profiles: dict[str, ProviderProfile] | None = None,
        offers: dict[str, dict[str, Any]] | None = None,
        routing: dict[str, Any] | None = None,
        tenants: dict[str, Any] | None = None,
        server: ServerSettings | None = None,
        extra: dict[str, Any] | None = None,
        with_accounts: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> AsyncIterator[World]:
        async with contextlib.AsyncExitStack() as stack:
            providers = {}
            for name in names:
                profile = (profiles or {}).get(name) or ProviderProfile(name=name, keys=(PROVIDER_KEY,))
                providers[name] = await stack.enter_async_context(SimulatedProvider(profile, seed=7, keep_received=8))
            settings: dict[str, Any] = {
                "version": 1,
                "server": {"operator_keys": [{"sha256": digest(OPERATOR_KEY)}]},
                "providers": {
                    name: {"base_url": provider.base_url, "key_env": "SIM_KEY"} for name, provider in providers.items()
                },
                "offers": [
                    {
                        "provider": name,
                        "resource": "sim",
                        "model": "sim-model",
                        "kinds": ["chat", "completion"],
                        "capabilities": ["stream", "tools", "vision", "json_schema"],
                        "price": {"input_usd_per_mtok": 1.0 + place, "output_usd_per_mtok": 2.0 + place},
                        **(offers or {}).get(name, {}),
                    }
                    for place, name in enumerate(names)
                ]
                + [
                    {
                        "provider": names[0],
                        "resource": "sim-embed",
                        "kinds": ["embedding"],
                        "price": {"input_usd_per_mtok": 0.1},
                    }
                ],
                "aliases": {"fast": ["sim"]},
                "tenants": tenants
                or {
                    "team": {"keys": [{"sha256": digest(KEY)}], "weights": {"price": 1}},
                    "other": {"keys": [{"sha256": digest(OTHER_KEY)}]},
                },
                "routing": {"first_token_ms": 2000, "answer_ms": 2000, "idle_ms": 1000, **(routing or {})},
                "storage": {"path": "test.db"},
                **(extra or {}),
            }
            path = tmp_path / "amaru.yaml"
            path.write_text(yaml.safe_dump(settings))
            store = DecisionStore(StoreSettings(path=tmp_path / "test.db", interval_s=0.01))
            store.start()
            stack.push_async_callback(store.close)
            config = load(path, {"SIM_KEY": PROVIDER_KEY})
            ledger = None
            if "ledger" in settings:
                ledger = MeshLedger(Place.of(config.ledger_url, tmp_path), config.ledger, wall=wall)
                ledger.start()
                stack.push_async_callback(asyncio.to_thread, ledger.close)
                await ledger.ready(60.0)
            accounts, till = None, None
            if with_accounts:
                accounts = MeshAccounts.of(config)
                stack.push_async_callback(accounts.aclose)
                await accounts.start()
                till = MeshTill.of(config, accounts)
                stack.push_async_callback(till.aclose)
                await till.start()
            mesh = Mesh(config, store, Metrics(), wall=wall, ledger=ledger, till=till)
            stack.push_async_callback(mesh.aclose)
            gateway = Gateway(mesh, server or ServerSettings(), host="127.0.0.1", accounts=accounts)
            await gateway.start(0)
            stack.push_async_callback(gateway.drain, 1.0)
            client = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{gateway.port}",
                    headers={"authorization": f"Bearer {KEY}"},
                    timeout=60.0,
                )
            )
            yield World(gateway, mesh, providers, client, path, settings, accounts, till)

    return make


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world() as made:
        yield made
