"""Servers for the tests, on both event loops: production's, and the one of platforms without uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from http1_client import Running, Serve, echo

from amaru.http1 import HttpServer, Request, ServerSettings


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers that stop with the test: ``await serve(handler, max_body_bytes=10)``."""
    servers: list[HttpServer] = []

    async def start(handler: Callable[[Request], Coroutine[Any, Any, None]] = echo, **limits: Any) -> Running:
        server = HttpServer(handler, ServerSettings(**limits))
        await server.start()
        servers.append(server)
        return Running(server)

    yield start
    for server in servers:
        await server.drain(0)
        assert server.connection_count == 0
        assert server.active_count == 0
        assert server.buffered_bytes == 0
