"""Stores to test with: SQLite in a file of the test's own, PostgreSQL in a schema of the test's own."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from directory_samples import FILE, Clock
from sqlalchemy import create_engine

from amaru.accounts.directory import Directory
from amaru.accounts.directory_base import FromFile
from amaru.accounts.store import Store
from amaru.storage import engine as engine_module

POSTGRESQL = os.environ.get("AMARU_TEST_POSTGRESQL", "postgresql://127.0.0.1:5432/test")
REDIS = os.environ.get("AMARU_TEST_REDIS", "redis://127.0.0.1:6379/0")


def _engine():
    return create_engine(POSTGRESQL.replace("postgresql:", "postgresql+psycopg:"), connect_args={"connect_timeout": 30})


@pytest.fixture(autouse=True)
def _idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose turn does not come for ten seconds would lose its transaction."""
    monkeypatch.setattr(engine_module, "IDLE_TIMEOUT_S", 300.0)


@pytest.fixture(scope="session")
def postgresql() -> str:
    """The URL of a PostgreSQL that answers; skips where there is none."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    try:
        with _engine().connect():
            return POSTGRESQL
    except Exception as error:  # whatever keeps it from being tried
        pytest.skip(f"no PostgreSQL at AMARU_TEST_POSTGRESQL ({type(error).__name__})")


@pytest.fixture
def postgresql_store_url(postgresql: str) -> Iterator[str]:
    """Leads to an empty schema, which is gone after the test."""
    schema = f"amaru_test_{uuid.uuid4().hex[:12]}"
    engine = _engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
    yield f"{postgresql}?options={quote(f'-csearch_path={schema}')}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f'DROP SCHEMA "{schema}" CASCADE')
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty store, on either engine."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_store_url"))
    return str(tmp_path / "accounts.db")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An open store, on either engine."""
    opened = Store(store_url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_directory(store: Store, tmp_path: Path, clock: Clock) -> Callable[..., Directory]:
    """Another process's, or another machine's with a pepper file of its own."""

    def open_one(machine: str = "one", from_file: FromFile | None = None) -> Directory:
        return Directory(store, tmp_path / machine / "accounts.pepper", from_file, clock=clock)

    return open_one


@pytest.fixture
def directory(open_directory: Callable[..., Directory]) -> Directory:
    return open_directory(from_file=FILE)


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Of a Redis that answers; skips where there is none."""
    redis = pytest.importorskip("redis")
    try:
        with redis.Redis.from_url(REDIS, socket_connect_timeout=30.0) as client:
            client.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis at AMARU_TEST_REDIS ({type(error).__name__})")
    return REDIS


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """Of keys of the test's own, which are gone after it."""
    prefix = f"{{amaru-test-{uuid.uuid4().hex}}}:"
    yield prefix
    with pytest.importorskip("redis").Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)
