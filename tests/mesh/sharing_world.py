"""Machines that share over a real Redis: meshes with stores, clocks and metrics of their own, over shared providers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from levers_world import LeversWorld

from amaru.config import parse
from amaru.mesh import Mesh
from amaru.mesh.sharing import Sharing
from amaru.routing.breaker import State
from amaru.routing.learned import BeliefPolicy
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.provider import SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings
from amaru.storage.redis import RedisLink
from amaru.telemetry.metrics import Metrics

REDIS = os.environ.get("AMARU_TEST_REDIS", "redis://127.0.0.1:6379/0")


class Clock:
    """Seconds that never go back, and that a test may move on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Machine(LeversWorld):
    """One of several."""

    clock: Clock
    sharing: Sharing

    def state_of(self, offer: str) -> State:
        board = self.mesh.plan.board
        return board.states[board.row_of[offer]].breaker.state

    def free_in_s(self, offer: str) -> float | None:
        board = self.mesh.plan.board
        return board.health(board.row_of[offer], self.mesh.clock()).free_in_s

    def attempts(self, offer: str) -> int:
        """How many of its own went there."""
        self.mesh.record_ended()
        return sum(cell.count for (of, _), cell in self.mesh.metrics.attempts.items() if of == offer)

    @property
    def policy(self) -> BeliefPolicy:
        policy = self.mesh.learner.policy
        assert isinstance(policy, BeliefPolicy)
        return policy

    async def ask_until(self, holds: Callable[[], bool], **request: Any) -> None:
        async with asyncio.timeout(120.0):
            while not holds():
                await self.ask(**request)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120.0):
        while not holds():  # noqa: ASYNC110 - it is another machine's doing, which has no event to wait for
            await asyncio.sleep(0.005)


class OwnRedis:
    """A redis-server of the test's own, which it may stop and start."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = OwnRedis(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def redis_url() -> str:
    """Of a Redis that answers; skips where there is none."""
    redis = pytest.importorskip("redis")
    try:
        with redis.Redis.from_url(REDIS, socket_connect_timeout=2.0) as client:
            client.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis at AMARU_TEST_REDIS ({type(error).__name__})")
    return REDIS


@pytest.fixture
def prefix(redis_url: str) -> Iterator[str]:
    """Of keys of the test's own, which are gone after it."""
    prefix = f"amaru-test-{uuid.uuid4().hex}"
    yield prefix
    with pytest.importorskip("redis").Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{prefix}:*"):
            client.delete(key)


MakeMachine = Callable[..., AbstractAsyncContextManager[Machine]]


@contextlib.asynccontextmanager
async def provided(*names: str) -> AsyncIterator[dict[str, SimulatedProvider]]:
    async with contextlib.AsyncExitStack() as stack:
        profiles = [ProviderProfile(name=name) for name in names]
        yield {
            profile.name: await stack.enter_async_context(SimulatedProvider(profile, seed=7)) for profile in profiles
        }


@contextlib.asynccontextmanager
async def machine(
    path: Path,
    providers: dict[str, SimulatedProvider],
    url: str,
    prefix: str = "amaru",
    *,
    policy: str = "cheapest",
    dead: tuple[str, ...] = (),
    wall: Callable[[], float] = time.time,
    shares: bool = True,
    offers: tuple[dict[str, Any], ...] = (),
    policy_settings: dict[str, Any] | None = None,
    senses: bool = False,
) -> AsyncIterator[Machine]:
    """One that reaches the providers, but for ``dead`` ones, from where it stands."""
    path.mkdir(exist_ok=True)  # noqa: ASYNC240 - a moment, in a test
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        settings: dict[str, Any] = {
            "version": 1,
            "server": {"auth": "none"},
            "providers": {
                name: {"base_url": nowhere if name in dead else one.base_url} for name, one in providers.items()
            },
            "offers": [
                {
                    "provider": name,
                    "resource": "sim",
                    "model": "sim-model",
                    "capabilities": ["stream"],
                    "price": {"input_usd_per_mtok": 1.0 + place, "output_usd_per_mtok": 1.0 + place},
                }
                for place, name in enumerate(providers)
            ]
            + list(offers),
            "routing": {
                "policy": policy,
                "policy_settings": policy_settings or {},
                "first_token_ms": 60_000,
                "answer_ms": 60_000,
                "deadline_ms": 120_000,
                "breaker": {"cool_down_s": 500, "max_cool_down_s": 1000, "window_s": 3600},
            },
            "health": {"enabled": senses, "path": str(path / "health")},
            "sharing": {"redis_url": url, "name": path.name, "prefix": prefix},
        }
        store = DecisionStore(StoreSettings(path=path / "test.db", interval_s=0.01))
        store.start()
        clock = Clock()
        mesh = Mesh(parse(yaml.safe_dump(settings), env={}), store, Metrics(), clock=clock, wall=wall)
        made = Machine(mesh, providers, settings)
        made.clock = clock
        config = mesh.plan.config.sharing
        made.sharing = Sharing(mesh, config, link=RedisLink(url, purpose="a test", timeout_s=20.0))
        if shares:
            made.sharing.start()
        try:
            yield made
        finally:
            await made.sharing.aclose()
            await mesh.aclose()
            await store.close()
