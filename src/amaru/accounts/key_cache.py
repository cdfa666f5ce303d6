"""Keys of the store in memory: the hot path asks here, and waits for the store only the first time that a key comes.

``refresh``, called at least once a second, takes in what was changed, by whichever process: so a revoked key opens
nothing anywhere a second later. While the store is away, keys that are known here go on as they were.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from amaru.accounts.changes import Changes
from amaru.accounts.directory import Directory
from amaru.accounts.directory_keys import FoundKey, KeyInfo
from amaru.accounts.pepper import Pepper
from amaru.errors import RequestError, StorageError

SIZE = 10_000
"""Keys known at once, some 1 KB each; the one that was not asked for longest goes first."""
ABSENT_SIZE = 1_000
"""Keys with our tag that the store has not; forgotten at the next refresh."""
LOOKUPS = 4
"""Asked of the store at once."""


class KeyCache:
    """Finds what a key stands for. Belongs to one event loop.

    Parameters
    ----------
    directory
        Asked in threads.
    size
        Keys known at once.
    clock
        Unix seconds.
    run
        Has the store asked, on a thread.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        size: int = SIZE,
        clock: Callable[[], float] = time.time,
        run: Callable[..., Awaitable[Any]] = asyncio.to_thread,  # Any: what each question is answered with
    ) -> None:
        self._run = run
        self._directory = directory
        self._size = size
        self._clock = clock
        self._pepper: Pepper | None = None
        self._known: OrderedDict[bytes, FoundKey] = OrderedDict()
        self._absent: set[bytes] = set()
        self._asked: dict[bytes, asyncio.Task[FoundKey | None]] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._version = -1
        self._used: dict[str, float] = {}

    def find(self, key: bytes) -> FoundKey | None:
        """What a key stands for; ``None``: ``fetch`` can tell. No I/O."""
        digest = self._pepper.digest(key) if self._pepper is not None else None
        found = self._known.get(digest) if digest is not None else None
        if found is not None and digest is not None:
            self._known.move_to_end(digest)
            if len(self._used) < self._size:
                self._used[found.info.id] = self._clock()
        return found

    async def fetch(self, key: bytes) -> FoundKey | None:
        """What a key stands for; ``None``: it is none of ours. Asks the store where it must; raises StorageError."""
        if self._version < 0:
            await self.refresh()
        digest = self._pepper.digest(key) if self._pepper is not None else None
        if digest is None or digest in self._absent:
            return None
        if digest in self._known:
            return self._known[digest]
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda _: self._asked.pop(digest, None))
        # One caller that leaves does not end what others wait for.
        return await asyncio.shield(task)

    async def refresh(self) -> Changes:
        """Take in what was changed since the last time. Raises StorageError; then everything is as it was."""
        read: tuple[Changes, Pepper | None] = await self._run(self._read)
        changes, pepper = read
        if changes.version != self._version:
            self._version, self._pepper = changes.version, pepper
            self._forget(changes.subjects)
        self._absent.clear()
        return changes

    async def tell_used(self) -> None:
        """Have the store know when keys were last used. Raises StorageError; then it hears of it the next time."""
        used, self._used = self._used, {}
        try:
            await self._run(self._directory.keys.mark_used, used)
        except StorageError:
            self._used = used | self._used
            raise

    def _read(self) -> tuple[Changes, Pepper | None]:
        changes = self._directory.log.since(self._version)
        pepper = self._directory.keys.pepper() if changes.version != self._version else self._pepper
        return changes, pepper

    async def _ask(self, digest: bytes) -> FoundKey | None:
        async with self._lookups:
            version = self._version
            found: FoundKey | None = await self._run(self._directory.keys.find_digest, digest)
        # What changed meanwhile may not be in what was found: the next to come asks again.
        if version == self._version:
            if found is not None:
                self._known[digest] = found
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
            elif len(self._absent) < ABSENT_SIZE:
                self._absent.add(digest)
        return found

    def _forget(self, subjects: frozenset[str] | None) -> None:
        if subjects is None:
            self._known.clear()
            return
        for digest, found in list(self._known.items()):
            info = found.info
            whose = {f"key:{info.id}", f"tenant:{info.tenant}", f"team:{info.tenant}/{info.team}"}
            if not whose.isdisjoint(subjects):
                del self._known[digest]


def admit(found: FoundKey | None, at: float) -> KeyInfo:
    """The key, if it opens anything at that instant. Raises ``RequestError`` 401, which says why not."""
    if found is None:
        said = "Incorrect API key. Use a key that belongs to a tenant of this gateway, not a provider's key."
    elif found.info.revoked_at is not None:
        said = f"This API key ({found.info.id}) was revoked. Ask for a new one."
    elif found.info.is_over(at):
        said = f"This API key ({found.info.id}) has expired. Ask for a new one."
    elif found.archived:
        said = f"This API key ({found.info.id}) belongs to a {found.archived} that was archived."
    else:
        return found.info
    raise RequestError(401, said, type="invalid_request_error", code="invalid_api_key")
