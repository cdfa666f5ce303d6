"""Accounts' stores for gateways of tests: SQLite, or PostgreSQL in a schema of its own; and a wire that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import create_engine

POSTGRESQL = os.environ.get("AMARU_TEST_POSTGRESQL", "postgresql://127.0.0.1:5432/test")


@pytest.fixture
def postgresql_place() -> Iterator[str]:
    """Leads to an empty schema, which is gone after the test; skips where no PostgreSQL answers."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    engine = create_engine(
        POSTGRESQL.replace("postgresql:", "postgresql+psycopg:"), connect_args={"connect_timeout": 30}
    )
    schema = f"amaru_test_{uuid.uuid4().hex[:12]}"
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
    except Exception as error:  # whatever keeps it from being tried
        pytest.skip(f"no PostgreSQL at AMARU_TEST_POSTGRESQL ({type(error).__name__})")
    yield f"{POSTGRESQL}?options={quote(f'-csearch_path={schema}')}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f'DROP SCHEMA "{schema}" CASCADE')
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty accounts' store, on either engine."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_place"))
    return str(tmp_path / "accounts.db")


class Wire:
    """A connection to a PostgreSQL that can be cut, and mended."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port or 5432
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._parts = parts

    @property
    def url(self) -> str:
        user, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(*self._target)
        self._open |= {writer, ours}
        try:
            await asyncio.gather(self._pump(reader, ours), self._pump(theirs, writer))
        finally:
            self._open -= {writer, ours}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()
