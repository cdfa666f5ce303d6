"""Machines that serve together tell each other, over Redis, what one of them found out.

One task, in the only process or in the owner of a machine's workers, every ``ROUND_S``: what this machine's requests
changed of breakers and pauses goes into a stream, and what others said there is taken over (``routing.hearsay`` says
how far). Every ``EXCHANGE_S`` it sends what the policy learned, as sums by origin, and takes in those of others.

Nothing of it is on the way of a request. While Redis is away this machine goes on alone, by what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from amaru.errors import StorageError
from amaru.mesh.sensing import Sensing
from amaru.mesh.sharing_learning import SharedLearning
from amaru.mesh.sharing_metrics import SharingCollector
from amaru.mesh.sharing_words import MOST_BYTES, Measured, Said, decode_measured, decode_said, encode
from amaru.routing.hearsay import Hearsay, Word
from amaru.storage.redis import RedisLink
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from amaru.config.sharing import Sharing as SharingConfig
    from amaru.mesh.mesh import Mesh

ROUND_S = 0.05
EXCHANGE_S = 3.0
LIVES_S = 15.0
"""A machine of which nothing was heard for so long is taken for gone."""
LOOK_BACK_S = 3600.0
"""What was said before a machine began counts for so long."""
MOST_WORDS = 10_000
"""That Redis keeps, about, and a quarter of which one machine keeps while it cannot be reached."""
MOST_AT_ONCE = 500
MOST_MACHINES = 256
LAST_S = 1.0
"""The end waits so long for Redis."""
SKEW_S = 1.0
"""Clocks that differ by less are taken for the same."""

log = get_logger("mesh")


class Sharing:
    """What one machine tells and hears. Belongs to the event loop's thread.

    Parameters
    ----------
    mesh
        The one that serves here.
    config
        With a URL. Raises StorageError where that cannot be used; nothing is connected yet.
    """

    def __init__(self, mesh: Mesh, config: SharingConfig, *, link: RedisLink | None = None) -> None:
        assert config.redis_url is not None
        self.link = link or RedisLink(config.redis_url, purpose="what machines share")
        self.name = config.name or f"amaru-{secrets.token_hex(4)}"
        self.machine = f"{self.name}/{secrets.token_hex(8)}"
        """Of this run: no two have the same."""
        self.hearsay = Hearsay(mesh.plan.board)
        self.learning = SharedLearning(mesh, self.name, f"{config.prefix}:sharing")
        self.machines = 1
        """That live, as far as is known; this one included."""
        self.said = self.heard = self.junk = self.lost = 0
        """Words that were told, those of others that changed something here, what could not be read, what was not told
        since Redis was away for too long."""
        self._mesh = mesh
        self._key = f"{config.prefix}:sharing"
        self._unsent: deque[tuple[float, Word]] = deque()
        self._after = b""  # the last entry of the stream that was read
        self._ahead_s = 0.0  # Redis' clock before this one's, where they differ
        self._exchange_at = 0.0
        self._measured: dict[bytes, tuple[float, Measured]] = {}  # by machine: its index's score, and what it measured
        self._task: asyncio.Task[None] | None = None
        self._failed = ""
        self._closed = False
        mesh.metrics.registry.register(SharingCollector(self))

    @property
    def up(self) -> bool:
        """Whether the others can be heard now."""
        return self.link.up

    @property
    def junk_total(self) -> int:
        """All that could not be read."""
        return self.junk + self.learning.junk

    # ---- living -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to tell and to hear."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._closed:
            try:
                await self.round()
            except StorageError:
                pass  # the link has said so; this machine goes on alone
            except Exception as error:  # the next round must come
                if str(error) != self._failed:
                    log.error("sharing_failed", error=type(error).__name__, exc_info=error)
                self._failed = str(error)
            await asyncio.sleep(ROUND_S)

    async def aclose(self) -> None:
        """Tell what is left to be told, and leave."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self.round()
                await self.link.ask(lambda redis: redis.zrem(f"{self._key}:machines", self.machine))
        await self.link.aclose()

    # ---- words --------------------------------------------------------------------------------------------------

    async def round(self) -> None:
        """Tell what is new, and hear what others said. Raises StorageError where Redis is away."""
        mesh = self._mesh
        if mesh.plan.board is not self.hearsay.board:
            self.hearsay.follow(mesh.plan.board)
            self.learning.follow()
        self._gather()
        sending = self._due()
        if not self._after:
            seconds, micros = await self.link.ask(lambda redis: redis.time())
            self._after = b"%d-0" % (max(seconds + micros * 1e-6 - LOOK_BACK_S, 0.0) * 1e3)
        said, now = await self.link.ask(lambda redis: self._trade(redis, sending))
        self._unsent.clear()
        self.said += len(sending)
        self._keep_time(now)
        self._hear(said, now)
        if now < int(self._after.partition(b"-")[0]) * 1e-3 - SKEW_S:  # another Redis, whose clock is behind
            self._after = b"%d-0" % (now * 1e3)
        if mesh.clock() >= self._exchange_at and len(said) < MOST_AT_ONCE:
            self._exchange_at = mesh.clock() + EXCHANGE_S
            await self._measure(now)
            await self.learning.exchange(self.link, now, self._ahead_s, self.hearsay)

    def _gather(self) -> None:
        now_s = self._mesh.clock()
        self._unsent.extend((now_s, word) for word in self.hearsay.news(now_s))
        while len(self._unsent) > MOST_WORDS // 4:
            self._unsent.popleft()
            self.lost += 1

    def _due(self) -> list[Word]:
        """What waits to be told, as it is to be said now: durations have run on since."""
        now_s = self._mesh.clock()
        due = []
        for at, word in self._unsent:
            waited_s = now_s - at
            left = msgspec.structs.replace(word, for_s=word.for_s - waited_s, failing_s=word.failing_s + waited_s)
            if word.what == "well" and waited_s < LIVES_S:
                due.append(word)
            elif word.what != "well" and left.for_s > 0.0:
                due.append(left)
        return due

    async def _trade(self, redis: Redis, words: Sequence[Word]) -> tuple[list[tuple[bytes, Any]], float]:
        key = f"{self._key}:words"
        async with redis.pipeline(transaction=False) as pipe:
            if words:
                said = encode(Said(self.machine, list(words)))
                pipe.xadd(key, {"said": said}, maxlen=MOST_WORDS, approximate=True)
                pipe.expire(key, int(2 * LOOK_BACK_S))
            pipe.xread({key: self._after}, count=MOST_AT_ONCE)
            pipe.time()
            *_, streams, (seconds, micros) = await pipe.execute()
        return _entries(streams), seconds + micros * 1e-6

    def _hear(self, entries: Iterable[tuple[bytes, Any]], now: float) -> None:
        now_s = self._mesh.clock()
        for id, fields in entries:
            self._after = id
            try:
                said = decode_said(fields[b"said"])
            except (KeyError, TypeError, msgspec.MsgspecError):
                self.junk += 1
                continue
            if said.machine == self.machine:
                continue
            age_s = now - int(id.partition(b"-")[0]) * 1e-3
            for word in said.words:
                self.heard += self.hearsay.hear(said.machine, word, age_s, now_s)

    def _keep_time(self, now: float) -> None:
        """Note by how much Redis' clock is ahead, in whole seconds; small differences would only move about."""
        ahead_s = now - self._mesh.wall()
        if abs(ahead_s - self._ahead_s) > SKEW_S:
            self._ahead_s = float(round(ahead_s))

    # ---- measurements -------------------------------------------------------------------------------------------

    async def _measure(self, now: float) -> None:
        """Tell what was measured here, and go by what others measured where that is nothing."""
        now_s, witness = self._mesh.clock(), self._mesh.witness
        acting = witness.acting if isinstance(witness, Sensing) else None
        board, row_of = self.hearsay.board, self.hearsay.board.row_of
        doubts = {} if acting is None else acting.doubts
        named = {self.hearsay.names[row_of[offer]]: doubt for offer, doubt in doubts.items() if offer in row_of}
        mine = encode(Measured(self.hearsay.averages(now_s), named))
        index = f"{self._key}:machines"

        async def meet(redis: Redis) -> list[tuple[bytes, float]]:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.set(f"{self._key}:machine:{self.machine}", mine, ex=int(LIVES_S))
                pipe.zadd(index, {self.machine: now})
                pipe.zremrangebyscore(index, "-inf", now - 10.0 * LIVES_S)
                pipe.expire(index, int(LOOK_BACK_S))
                pipe.zrevrangebyscore(index, "+inf", now - LIVES_S, 0, MOST_MACHINES, withscores=True)
                return [(member, float(score)) for member, score in (await pipe.execute())[-1]]

        met = dict(await self.link.ask(meet))
        self.machines = max(len(met), 1)
        met.pop(self.machine.encode(), None)
        self._measured = {machine: known for machine, known in self._measured.items() if machine in met}
        news = [machine for machine, score in met.items() if self._measured.get(machine, (0.0,))[0] != score]

        async def get(redis: Redis) -> list[bytes]:
            async with redis.pipeline(transaction=False) as pipe:
                for machine in news:
                    pipe.getrange(f"{self._key}:machine:".encode() + machine, 0, MOST_BYTES)
                return list(await pipe.execute())

        for machine, data in zip(news, await self.link.ask(get) if news else [], strict=True):
            measured = Measured({})
            try:
                measured = self._sound(decode_measured(data)) if data else measured
            except (ValueError, msgspec.MsgspecError):
                self.junk += 1
            self._measured[machine] = met[machine], measured
        others = [measured for _, measured in self._measured.values()]
        self.hearsay.fill([one.averages for one in others], now_s)
        if acting is not None:
            acting.heard = {
                board.offers[self.hearsay.row_of[name]].id: max(one.doubts.get(name, 0.0) for one in others)
                for name in {name for one in others for name in one.doubts}
                if name in self.hearsay.row_of
            }

    def _sound(self, measured: Measured) -> Measured:
        """What was measured of offers that this machine has too; raises ValueError where nobody can have done so."""
        for pair in measured.averages.values():
            for one in pair:
                if one is not None and not (0.0 < one.ms < 1e9 and 0.0 < one.weight <= 1.0):
                    raise ValueError("a latency that there is not")
        if not all(0.0 < doubt <= 1.0 for doubt in measured.doubts.values()):
            raise ValueError("a doubt that there is not")
        known = self.hearsay.row_of
        return Measured(
            {name: pair for name, pair in measured.averages.items() if name in known},
            {name: doubt for name, doubt in measured.doubts.items() if name in known},
        )


def _entries(streams: Any) -> list[tuple[bytes, Any]]:  # Any: a list by RESP2, a dict by RESP3, as the URL has it
    if not streams:
        return []
    found = next(iter(streams.values()))[0] if isinstance(streams, dict) else streams[0][1]
    return list(found)


def sharing_of(mesh: Mesh) -> Sharing | None:
    """What shares with other machines, where the configuration names a Redis. Raises StorageError."""
    config = mesh.plan.config.sharing
    return None if config.redis_url is None else Sharing(mesh, config)
