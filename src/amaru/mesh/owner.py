"""The worker that does for all what only one may do: it senses, heals, learns and keeps, and shows the whole machine.

It takes what the others' attempts showed, and broadcasts how offers are steered and what the policy has learned: the
first as often as it changes, the second with each copy that the store gets. Where it dies, the others serve on by what
they know; its successor goes on from the store and the memory of health.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.mesh.bus import Ask, Hello, Learned, Link, Message, Orders, Readable, Shown, Sums, Told
from amaru.mesh.company import Company
from amaru.mesh.learner import Used
from amaru.routing.shared import Memory
from amaru.routing.steering import UNSTEERED
from amaru.storage import PolicyState, StoreStatus
from amaru.telemetry.counts import Counts, Tally, tally_of
from amaru.telemetry.logs import get_logger

GATHER_S = 2.0
"""The others get so long to tell what they know."""

log = get_logger("mesh")


class Owner(Company):
    """See ``Company``. Belongs to the event loop's thread."""

    def __init__(self, memory: Memory, folder: Path, *, log_lines_dropped: Callable[[], int]) -> None:
        super().__init__(memory, folder)
        self._log_lines_dropped = log_lines_dropped
        self._server: asyncio.Server | None = None
        self._links: dict[int, Link] = {}
        self._told: dict[int, Told] = {}
        self._gone = Counts()  # what workers counted that have died
        self._gone_sums = Sums()
        self._orders: Orders | None = None
        self._taught: Used | None = None
        self._alone = asyncio.Event()
        self._alone.set()
        self._number = 0
        self._waiting: dict[tuple[int, int], asyncio.Future[None]] = {}

    # ---- the others ---------------------------------------------------------------------------------------------

    def _received(self, link: Link, message: Message) -> None:
        try:
            match message:
                case Hello(worker):
                    link.worker = worker
                    self._links[worker] = link
                    self._alone.clear()
                    link.send(Hello(self.worker, os.getpid()))
                    link.send(self._orders or self._current_orders())
                    link.send(Learned(self.mesh.learner.used.snapshot(self.mesh.wall())))
                case Shown(observations, lessons):
                    self.mesh.sensing.take_in(observations)
                    offers, row_of = self.mesh.plan.board.offers, self.mesh.plan.board.row_of
                    for lesson in lessons:
                        row = row_of.get(lesson.offer)
                        if row is not None:  # else it is no longer configured
                            self.mesh.learner.learn(lesson.workload, offers[row], lesson.experience)
                case Readable(offer, adaptation):
                    self.mesh.sensing.levers.told_readable(offer, adaptation, self.mesh.wall())
                case Told():
                    self._take(link.worker, message)
                    self._answered(link.worker, message.number)
                case _:
                    pass
        except Exception as error:  # one message must not take the others with it
            log.error("worker_not_heard", message=type(message).__name__, reason=str(error), exc_info=error)

    def _lost(self, link: Link) -> None:
        if self._links.get(link.worker) is link:
            del self._links[link.worker]
            if not self._links:
                self._alone.set()
            for worker, number in list(self._waiting):
                if worker == link.worker:
                    self._answered(worker, number)

    def _take(self, worker: int, told: Told) -> None:
        before = self._told.get(worker)
        if before is not None and before.pid != told.pid:  # it died: what it had counted stays counted
            self._gone.add(before.tally)
            self._gone_sums = self._gone_sums.plus(before.counts)
        self._told[worker] = told

    def _answered(self, worker: int, number: int) -> None:
        waiting = self._waiting.pop((worker, number), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def gather(self) -> None:
        """Have every worker record what ended there, and tell what it counted; a few milliseconds."""
        self._number += 1
        number, loop = self._number, asyncio.get_running_loop()
        asked = {
            (worker, number): loop.create_future() for worker, link in self._links.items() if link.send(Ask(number))
        }
        if asked:
            self._waiting |= asked
            await asyncio.wait(asked.values(), timeout=GATHER_S)
            for key in asked:
                self._waiting.pop(key, None)

    # ---- what the machine shows ---------------------------------------------------------------------------------

    def tallies(self) -> list[Tally]:
        """What the other workers counted until they were asked last, also those that have died."""
        return [tally_of(self._gone), *(told.tally for told in self._told.values())]

    def _sums(self) -> Sums:
        sums = self._gone_sums
        for told in self._told.values():
            sums = sums.plus(told.counts)
        return sums

    def in_flight(self) -> int:
        """Requests that are being served."""
        return self.mesh.in_flight + sum(self._told[worker].in_flight for worker in self._links if worker in self._told)

    def log_lines_dropped(self) -> int:
        """Over all workers."""
        return self._log_lines_dropped() + self._sums().log_lines_dropped

    def store(self) -> StoreStatus:
        """The store, with what all workers wrote to it."""
        own, sums = self.mesh.store.status(), self._sums()
        others = [told.store for worker, told in self._told.items() if worker in self._links]
        full = own.dropped_queue_full + sums.dropped_queue_full
        unstorable = own.dropped_unstorable + sums.dropped_unstorable
        unwritten = own.dropped_unwritten + sums.dropped_unwritten
        return msgspec.structs.replace(
            next((one for one in (own, *others) if not one.healthy), own),
            queue_depth=own.queue_depth + sum(one.queue_depth for one in others),
            written=own.written + sums.written,
            dropped=full + unstorable + unwritten,
            dropped_queue_full=full,
            dropped_unstorable=unstorable,
            dropped_unwritten=unwritten,
            deleted=own.deleted,
        )

    def live(self) -> int:
        """Workers that serve now."""
        return 1 + len(self._links)

    def dropped(self) -> dict[int, int]:
        """By worker: what its attempts showed that did not arrive here."""
        return {worker: told.counts.not_handed_over for worker, told in sorted(self._told.items())}

    # ---- what the others are told -------------------------------------------------------------------------------

    def _round(self) -> None:
        super()._round()
        orders = self._current_orders()
        if orders != self._orders:
            self._orders = orders
            for link in self._links.values():
                link.send(orders)
        used = self.mesh.learner.used
        if used is not self._taught:  # another policy, or from another artifact
            self._taught = used
            self._teach(used.snapshot(self.mesh.wall()))

    def _current_orders(self) -> Orders:
        mesh = self.mesh
        board, levers = mesh.plan.board, mesh.sensing.levers
        steerings = {offer.id: board.steering(row) for row, offer in enumerate(board.offers)}
        return Orders(
            steerings={offer: steering for offer, steering in steerings.items() if steering != UNSTEERED},
            adaptations=levers.adaptations(),
            addresses=levers.addresses(),
            exploration=mesh.plan.router.exploration,
        )

    def _teach(self, policy: PolicyState) -> None:
        for link in self._links.values():
            link.send(Learned(policy))

    # ---- living -------------------------------------------------------------------------------------------------

    async def start(self, listening: socket.socket) -> None:
        """Take in what others hand over, at this socket."""
        mesh = self.mesh
        mesh.learner.on_saved = self._teach
        mesh.metrics.watch(
            in_flight=self.in_flight,
            store=self.store,
            log_lines_dropped=self.log_lines_dropped,
            others=self.tallies,
        )
        mesh.metrics.registry.register(WorkersCollector(self))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Link(self._received, self._lost), sock=listening)
        self.begin()

    async def wait_alone(self, limit_s: float, hurry: asyncio.Event) -> None:
        """Until every other worker has handed over its last and left, ``limit_s`` passes, or there is a hurry."""
        leaving, hurrying = asyncio.create_task(self._alone.wait()), asyncio.create_task(hurry.wait())
        await asyncio.wait({leaving, hurrying}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        hurrying.cancel()

    async def aclose(self) -> None:
        """Take in no more."""
        self.end()
        if self._server is not None:
            self._server.close()
        for link in list(self._links.values()):
            link.close()


class WorkersCollector(Collector):
    """The workers, as metrics."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family, once per scrape."""
        yield GaugeMetricFamily("amaru_workers", "Workers that serve now.", value=self._owner.live())
        dropped = CounterMetricFamily(
            "amaru_worker_dropped", "What a worker's attempts showed that the owner did not get.", labels=("worker",)
        )
        for worker, count in self._owner.dropped().items():
            dropped.add_metric((str(worker),), count)
        yield dropped
