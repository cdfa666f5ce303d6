"""Transports are tested on both event loops: production's (uvloop), and the one of platforms without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from transport_peer import Authority, Peer, Script

from amaru.providers.transport import Endpoint, Transport, open_transport


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name.startswith("test_transport_"):
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def peer() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Start servers that stop with the test: ``await peer(script)``."""
    peers: list[Peer] = []

    async def start(script: Script, **options: Any) -> Peer:
        started = Peer(script, **options)
        await started.start()
        peers.append(started)
        return started

    yield start
    for started in peers:
        await started.stop()
        assert not started.failures


@pytest.fixture
async def connect(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Transport]]:
    """Open transports that close with the test: ``connect(peer, "h1", max_connections=1)``."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)  # pyreqwest would heed them
    transports: list[Transport] = []

    def open_to(to: Peer | int, kind: str = "h1", **options: Any) -> Transport:
        port = to if isinstance(to, int) else to.port
        options = {"scheme": "http", "host": "127.0.0.1", "base_path": "/v1", "provider": "test"} | options
        transports.append(open_transport(Endpoint(port=port, transport=kind, **options)))
        return transports[-1]

    yield open_to
    for transport in transports:
        await transport.aclose()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))
