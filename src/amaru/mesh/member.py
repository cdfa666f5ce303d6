"""A worker that is not the owner: hands over what its attempts showed, and does as the owner says.

What it learns and sees waits here, bounded, while the owner is away; serving goes on with what was known last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from amaru.domain import Experience, Offer, Workload
from amaru.health.observation import Observation
from amaru.mesh.bus import Ask, Hello, Learned, Lesson, Link, Message, Orders, Readable, Shown, Sums, Told
from amaru.mesh.company import BUS, Company
from amaru.mesh.learner import Learner, Used
from amaru.mesh.levers import MeshLevers
from amaru.protocols.adapting import Adaptation
from amaru.routing.policies import make_policy
from amaru.routing.shared import Memory
from amaru.routing.steering import UNSTEERED
from amaru.storage import DecisionStore, PolicyState
from amaru.telemetry.counts import tally_of
from amaru.telemetry.logs import get_logger

SEND_AFTER_S = 0.02
"""How long what is to be handed over waits, to go together."""
MOST_WAITING = 20_000
"""Observations, and lessons, that wait for the owner; more are dropped, and counted."""
AGAIN_AFTER_S = 0.1
"""Between two tries to reach the owner."""
FLUSH_S = 1.0

log = get_logger("mesh")


class MemberLearner(Learner):
    """The policy as the owner teaches it; what this worker's attempts showed goes to the owner."""

    def __init__(self, member: Member, used: Used, store: DecisionStore, *, wall: Callable[[], float]) -> None:
        super().__init__(used, store, wall=wall)
        self._member = member

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """Hand it to the owner, unless it says nothing about its offer."""
        if self.policy.learns and experience.blame:
            self._member.experienced(Lesson(workload, offer.id, experience))


class Member(Company):
    """See ``Company``. Belongs to the event loop's thread."""

    def __init__(self, memory: Memory, folder: Path, *, log_lines_dropped: Callable[[], int]) -> None:
        super().__init__(memory, folder)
        self.dropped = 0
        """Observations and lessons that the owner did not get."""
        self.levers: MeshLevers
        """Set by its mesh, as ``mesh`` is."""
        self._log_lines_dropped = log_lines_dropped
        self._link: Link | None = None
        self._left: asyncio.Event = asyncio.Event()
        self._ordered = asyncio.Event()
        self._orders: Orders | None = None
        self._latest: PolicyState | None = None
        self._owner = 0  # its process id
        self._before = Sums()  # what was counted before this owner began
        self._observations: list[Observation] = []
        self._lessons: list[Lesson] = []
        self._sending: asyncio.TimerHandle | None = None
        self._staying: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()

    # ---- to the owner -------------------------------------------------------------------------------------------

    def observed(self, observations: Sequence[Observation]) -> None:
        """Hand over what attempts showed. Never waits."""
        room = MOST_WAITING - len(self._observations)
        self._observations += observations[:room]
        self.dropped += max(len(observations) - room, 0)
        self._send_later()

    def experienced(self, lesson: Lesson) -> None:
        """Hand over what is to be learned. Never waits."""
        if len(self._lessons) >= MOST_WAITING:
            self.dropped += 1
            return
        self._lessons.append(lesson)
        self._send_later()

    def readable(self, offer: str, adaptation: Adaptation) -> None:
        """Tell how the offer's unreadable answers can be read; told again while they come."""
        if self._link is not None:
            self._link.send(Readable(offer, adaptation))

    def _send_later(self) -> None:
        if self._sending is None:
            self._sending = asyncio.get_running_loop().call_later(SEND_AFTER_S, self._send)

    def _send(self) -> None:
        self._sending = None
        if self._link is None:  # the next link sends what waits
            return
        shown = Shown(self._observations, self._lessons)
        if (shown.observations or shown.lessons) and not self._link.send(shown):
            self.dropped += len(shown.observations) + len(shown.lessons)
        self._observations, self._lessons = [], []

    # ---- from the owner -----------------------------------------------------------------------------------------

    def _received(self, link: Link, message: Message) -> None:
        try:
            match message:
                case Hello(_, pid):
                    self._meet(pid)
                case Orders():
                    self._orders = message
                    self.carry_on()
                    self._ordered.set()
                case Learned(policy):
                    self._latest = policy
                    self._adopt()
                case Ask(number):
                    task = asyncio.ensure_future(self._tell(link, number))
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)
                case _:
                    pass
        except Exception as error:  # serving goes on as before
            log.error("owner_not_followed", message=type(message).__name__, reason=str(error), exc_info=error)

    def _meet(self, owner: int) -> None:
        """A new owner counts from zero. What all count must too, or the sums would fall by what the last one had:
        whoever reads a counter that fell takes it for one that began anew."""
        if self._owner not in (0, owner):
            self.mesh.metrics.begin_anew()
            self._before = self._sums()
        self._owner = owner

    def _sums(self) -> Sums:
        store = self.mesh.store.status()
        return Sums(
            store.written,
            store.dropped_queue_full,
            store.dropped_unstorable,
            store.dropped_unwritten,
            self._log_lines_dropped(),
            self.dropped,
        )

    def carry_on(self) -> None:
        """Have everything as the owner said last, on whatever plan the mesh serves by now."""
        orders, plan, levers = self._orders, self.mesh.plan, self.levers
        self._adopt()
        if orders is None:
            return
        plan.router.exploration = orders.exploration
        for row, offer in enumerate(plan.board.offers):
            steering = orders.steerings.get(offer.id, UNSTEERED)
            if plan.board.steering(row) != steering:
                plan.board.steer(row, steering)
            use, wanted = levers.adapted(offer.id), orders.adaptations.get(offer.id)
            if (None if use is None else use.adaptation) != wanted:
                levers.adapt(offer.id, wanted)
        for provider in plan.providers:
            wanted_index = orders.addresses.get(provider, 0)
            if levers.address(provider) != wanted_index:
                with contextlib.suppress(ValueError):  # the owner's configuration is another one for the moment
                    levers.endpoint(provider, wanted_index)

    def _adopt(self) -> None:
        """Rank by what the owner has learned, where it learns by the policy that this worker is to use."""
        learned, mesh = self._latest, self.mesh
        if learned is None or learned.policy != mesh.plan.config.routing.policy:
            return
        used = mesh.learner.used
        if used.policy.name != learned.policy or used.settings != learned.settings:
            used = Used(make_policy(learned.policy, **learned.settings), dict(learned.settings))
        used.policy.restore(learned.state)
        used.artifact, used.outcomes = learned.artifact, learned.outcomes
        mesh.learner.use(used)
        mesh.plan.router.policy = used.policy

    async def _tell(self, link: Link, number: int) -> None:
        mesh = self.mesh
        mesh.record_ended()
        await mesh.witness.settle()
        self._send()
        await mesh.store.flush(FLUSH_S)
        link.send(
            Told(
                number,
                os.getpid(),
                tally_of(mesh.metrics),
                mesh.store.status(),
                mesh.in_flight,
                self._sums().plus(self._before, -1),
            )
        )

    # ---- living -------------------------------------------------------------------------------------------------

    async def join(self, limit_s: float) -> bool:
        """Reach the owner and do as it says, from now on; False where it has said nothing within ``limit_s``."""
        self.begin()
        self._staying = asyncio.create_task(self._stay())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ordered.wait(), limit_s)
        return self._ordered.is_set()

    async def _stay(self) -> None:
        loop = asyncio.get_running_loop()
        path = str(self.folder / BUS)
        while True:
            self._left.clear()
            try:
                _, link = await loop.create_unix_connection(lambda: Link(self._received, self._lost), path)
            except OSError:
                await asyncio.sleep(AGAIN_AFTER_S)
                continue
            link.send(Hello(self.worker, os.getpid()))
            self._link = link
            self._send()
            await self._left.wait()
            await asyncio.sleep(AGAIN_AFTER_S)

    def _lost(self, _: Link) -> None:
        self._link = None
        self._left.set()

    async def aclose(self) -> None:
        """Hand over what waits, and leave."""
        self.end()
        self._send()
        if self._staying is not None:
            self._staying.cancel()
        if self._link is not None:
            self._link.close()
