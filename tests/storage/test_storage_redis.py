"""A way to Redis: what it says while Redis is away, that nobody waits for it then, and that it comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from amaru.errors import StorageError
from amaru.storage.redis import CONNECTIONS, FIRST_BACKOFF_S, RedisLink

pytest.importorskip("redis")
PASSWORD = "hunter2hunter2"


class Server:
    """A redis-server of the test's own, which it may stop and start."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--requirepass", PASSWORD]
        self._process = subprocess.Popen([*command, "--dir", self._folder], stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Any:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture
async def link(server: Server) -> AsyncIterator[RedisLink]:
    link = RedisLink(server.url, purpose="a test", timeout_s=10.0)
    yield link
    await link.aclose()


async def until_answered(link: RedisLink) -> None:
    async with asyncio.timeout(60.0):
        while True:
            try:
                await link.ask(lambda redis: redis.ping())
                return
            except StorageError:
                await asyncio.sleep(0.01)


async def test_it_comes_back_by_itself_and_says_both_once(
    server: Server, link: RedisLink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.start()
    await until_answered(link)
    assert (link.up, link.failure) == (True, "")
    caplog.clear()  # it may have been asked before it was there
    server.stop()
    with pytest.raises(StorageError, match=f"redis://127.0.0.1:{server.port}: .*Does it run") as gone:
        await link.ask(lambda redis: redis.ping())
    assert PASSWORD not in str(gone.value)
    for _ in range(3):
        await asyncio.sleep(0)
        with pytest.raises(StorageError):
            await link.ask(lambda redis: redis.ping())
    assert not link.up
    server.start()
    await until_answered(link)
    assert (link.up, link.failure, link.again_in_s) == (True, "", 0.0)
    assert (caplog.text.count("redis_gone"), caplog.text.count("redis_back")) == (1, 1)
    assert PASSWORD not in caplog.text


async def test_more_calls_at_once_than_connections_wait_for_one(server: Server, link: RedisLink) -> None:
    server.start()
    await until_answered(link)
    answers = await asyncio.gather(*(link.ask(lambda redis: redis.ping()) for _ in range(8 * CONNECTIONS)))
    assert answers == [True] * (8 * CONNECTIONS)
    assert (link.up, link.failure) == (True, "")


async def test_calls_that_fail_at_once_are_one_failure(server: Server) -> None:
    now = [0.0]
    link = RedisLink(server.url, purpose="a test", timeout_s=10.0, clock=lambda: now[0])
    calls = [link.ask(lambda redis: redis.ping()) for _ in range(CONNECTIONS)]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, StorageError) for one in failed)
    assert 0.0 < link.again_in_s <= FIRST_BACKOFF_S
    await link.aclose()


async def test_while_the_next_try_is_not_due_nobody_waits(server: Server) -> None:
    now = [0.0]
    link = RedisLink(server.url, purpose="a test", timeout_s=10.0, clock=lambda: now[0])
    asked = []

    async def ask(redis: Any) -> None:
        asked.append(now[0])
        await redis.ping()

    for second in range(60):
        now[0] = float(second)
        with pytest.raises(StorageError):
            await link.ask(ask)
    assert 60 / 5.0 <= len(asked) <= 30  # ever more seldom, and at least every five seconds
    await link.aclose()


async def test_one_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        link = RedisLink(f"redis://127.0.0.1:{silent.getsockname()[1]}", purpose="a test", timeout_s=0.05)
        with pytest.raises(StorageError):
            async with asyncio.timeout(30.0):
                await link.ask(lambda redis: redis.ping())
        await link.aclose()


def test_a_url_that_cannot_be_read_shows_no_password() -> None:
    with pytest.raises(StorageError, match="cannot be read") as refused:
        RedisLink(f"redis://:{PASSWORD}@h:port", purpose="a test")
    assert PASSWORD not in str(refused.value)


async def test_who_is_cancelled_ends_although_the_library_swallowed_it() -> None:
    link, began = RedisLink("redis://127.0.0.1:1/0", purpose="a test"), asyncio.Event()

    async def swallows(_redis: object) -> bytes:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        return b"as if nothing had been"

    asking = asyncio.create_task(link.ask(swallows))
    await began.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await link.aclose()
