"""What all machines remember of conversations, in Redis: a key each, read as a request begins, written after its end.

While Redis is away nobody waits for it. Writes wait in a bounded queue, the last of each conversation only; what finds
it full is dropped. Two machines that serve one conversation in the same moment write over each other: its turns are
counted exactly by one machine only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from amaru.errors import StorageError
from amaru.routing.conversation import Conversation, decode, encode
from amaru.storage.redis import RedisLink
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from redis.asyncio import Redis

MOST_WAITING = 4096
"""Conversations that wait to be written."""
MOST_AT_ONCE = 256
GATHER_S = 0.005
"""Writes wait so long, to go together."""
LOOK_S = 5.0
"""Between two looks at whether Redis is there and the salt the same, where nothing is written."""
START_S = 1.0
CLOSE_S = 1.0

log = get_logger("mesh")


_Batch = dict[bytes, tuple[Conversation, float]]
"""By key, with the seconds that each is kept after it was touched."""


class RemoteConversations:
    """Conversations by their keys, in Redis. Belongs to the event loop's thread.

    Parameters
    ----------
    link
        Closed with it.
    prefix
        Of its keys.
    salt
        Put there where there is none yet; else the one that is there takes its place.
    wall
        Unix seconds.
    """

    def __init__(self, link: RedisLink, prefix: str, salt: bytes, *, wall: Callable[[], float] = time.time) -> None:
        from redis import ResponseError

        self.salt = salt
        self._refusal = ResponseError
        self._link = link
        self._prefix = f"{prefix}:conversation:".encode()
        self._salt_key = f"{prefix}:conversations:salt"
        self._wall = wall
        self._waiting: _Batch = {}
        self._woken = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._agreed = False

    @property
    def up(self) -> bool:
        """Whether Redis answered when it was asked last, and all machines use one salt."""
        return self._agreed and self._link.up

    @property
    def waiting(self) -> int:
        """Conversations that wait to be written."""
        return len(self._waiting)

    async def get(self, key: bytes) -> Conversation | None:
        """What is remembered under the key; raises ConnectionError where Redis is away."""

        async def read(redis: Redis) -> object:
            try:
                return await redis.get(self._prefix + key.hex().encode())
            except self._refusal:  # what lies there is no string: it is overwritten
                return None

        try:
            data = await self._link.ask(read)
        except StorageError as error:
            raise ConnectionError(str(error)) from None
        return decode(data) if isinstance(data, bytes) else None

    def put(self, key: bytes, conversation: Conversation, ttl_s: float) -> bool:
        """Have it written, to be kept for ``ttl_s``; False where too many wait."""
        if key not in self._waiting and len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting[key] = (conversation, ttl_s)
        self._woken.set()
        self._live()
        return True

    def _live(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()
            await asyncio.sleep(GATHER_S)
            batch = self._longest()
            try:
                await self._write(batch)
            except StorageError:  # the link has said so in the log, and knows when to try again
                await asyncio.sleep(max(self._link.again_in_s, GATHER_S))
            except Exception as error:  # what cannot be written must not keep the others from it
                log.error("conversations_not_written", error=type(error).__name__, exc_info=error)
                self._written(batch)
                await asyncio.sleep(LOOK_S)

    def _longest(self) -> _Batch:
        """What waits longest."""
        return {key: self._waiting[key] for key in islice(self._waiting, MOST_AT_ONCE)}

    async def _write(self, batch: _Batch) -> None:
        """Write those, and look at the salt."""
        now = self._wall()

        async def write(redis: Redis) -> bytes | None:
            async with redis.pipeline(transaction=False) as pipeline:
                # With every write: a Redis that was emptied has the salt again at once, and the same one.
                pipeline.set(self._salt_key, self.salt, nx=True)
                pipeline.get(self._salt_key)
                for key, (conversation, ttl_s) in batch.items():
                    left_ms = int((conversation.touched_at + ttl_s - now) * 1e3)
                    if left_ms > 0:
                        pipeline.set(self._prefix + key.hex().encode(), encode(conversation), px=left_ms)
                _, salt, *_ = await pipeline.execute()
            return salt if isinstance(salt, bytes) else None

        salt = await self._link.ask(write)
        self._written(batch)
        self._agree(salt)

    def _written(self, batch: _Batch) -> None:
        for key, written in batch.items():
            if self._waiting.get(key) is written:
                del self._waiting[key]
        if not self._waiting:
            self._woken.clear()

    def _agree(self, salt: bytes | None) -> None:
        if salt is None or len(salt) != len(self.salt):
            if self._agreed:
                log.error("salt_not_shared", remedy=f"delete {self._salt_key} in Redis: it holds no salt")
            self._agreed = False
            return
        self.salt, self._agreed = salt, True

    async def start(self) -> None:
        """Agree on the salt; where Redis does not answer within a second, later."""
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(START_S):
                await self._write(self._longest())
        self._live()

    async def aclose(self) -> None:
        """Write what waits, for a second at most, and close the link."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            with contextlib.suppress(StorageError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    while self._waiting:
                        await self._write(self._longest())
        await self._link.aclose()
