"""Sense, wired to the live mesh: what attempts showed is taken in after the answers, and never holds one up.

``attempt_ended`` only queues. A task of its own takes in what is queued, as figures: in short turns on the event
loop while that is quick, beside it where it is not. Others who observe are always told beside it. About once a second
it looks for patterns and ahead, has healings taken, and lowers the rank of offers that are about to fail; every
``stability.every_s`` it steps the stability field. What it finds is remembered, and told to whoever listens.

Whatever touches what is sensed has turns of its own, one after another, on the loop or beside it; a new plan waits for
the next one too. An observer that raises loses that one observation, counted; nothing in here raises into a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from amaru.domain import Attempt, Kind, Offer, Outcome
from amaru.health.healer import Healer
from amaru.health.observation import Observation
from amaru.health.prediction import Prediction
from amaru.health.report import HealthReport
from amaru.health.sense import Sense
from amaru.mesh.acting import Acting
from amaru.mesh.aside import Aside
from amaru.mesh.attempt import OpenAttempt
from amaru.mesh.chronicle import Chronicle
from amaru.mesh.feed import Feed
from amaru.mesh.intake import Intake, Left
from amaru.mesh.keeping import Keeper, hand_states, keeper_of, load_states
from amaru.mesh.levers import MeshLevers
from amaru.mesh.onlookers import Onlookers
from amaru.mesh.probing import Probing
from amaru.mesh.sensing_metrics import SensingCollector
from amaru.mesh.sessions import Session
from amaru.mesh.steadiness import Steadiness
from amaru.mesh.turns import Turns
from amaru.mesh.watched import steered_by_provider, traits_of_plan
from amaru.stability.guardian import Intervention, InterventionRecord
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

TAKE_AFTER_S = 0.05
"""How long what attempts showed waits, to be taken in together."""
TURN_S = 0.001
"""A turn takes attempts in for no longer than this, but one at least; requests have their own turns in between."""
LOOK_EVERY_S = 1.0
LOOK_AFTER_ATTEMPTS = 16
"""Under traffic the next look comes after so many attempts, but not sooner than ``LOOK_SOONEST_S``: an offer that
begins to answer nonsense costs few requests."""
LOOK_SOONEST_S = 0.1
LAST_S = 5.0
"""How long the end may wait for what is still queued."""

T = TypeVar("T")
log = get_logger("mesh")


class Sensing:
    """What a mesh senses of its offers, and does about it.

    Parameters
    ----------
    mesh
        The one that is watched.
    timer
        Seconds that a turn takes are measured by it.
    """

    def __init__(self, mesh: Mesh, *, timer: Callable[[], float] = time.perf_counter) -> None:
        plan, health = mesh.plan, mesh.plan.config.health
        self.enabled = health.enabled
        self.intake = Intake(mesh.salt, mesh.wall, health.samples_per_s, mesh.workers)
        self.sense = Sense(traits_of_plan(plan), predict=Prediction().predict)
        self.steadiness = self._new_steadiness(mesh)
        self.levers = MeshLevers(mesh)
        self.acting = Acting(mesh, self.levers)
        self.probing = Probing(mesh, self.intake)
        self.feed = Feed()
        """What happened, for whoever listens."""
        self.onlookers = Onlookers(self._lose)
        self.observers = self.onlookers.observers
        """Others who are told of every attempt, beside the loop, one after another and never at once."""
        self.observed = self.lost = 0
        """What it took in; what it did not, since an observer failed or was too slow, or it could not be read."""
        self.latest: HealthReport | None = None
        """Of the last step; what metrics show."""
        self._mesh = mesh
        self._keeper: Keeper | None = None
        self._session = Session(mesh.wall())
        names = "amaru-health", "amaru-health-look", "amaru-health-report"
        self._aside, self._looking, self._reporting = map(Aside, names)
        self._timer = timer
        self._turns = Turns(self._follow_plan)
        self._wake = asyncio.Event()
        self._waking = False
        """A wake-up is on its way: under traffic most attempts add nothing to what waits, and need no timer each."""
        self._task: asyncio.Task[None] | None = None
        self._closed = self._outdated = False
        self._look_at = self._step_at = self._snapshot_at = 0.0  # of the loop's clock
        self._seen_at_look = 0
        if self.enabled:
            self._keeper = keeper_of(mesh.plan.config, mesh.wall)
            load_states(self, self._keeper, mesh.wall())
            mesh.metrics.registry.register(SensingCollector(self))
        self.chronicle = Chronicle(self.feed, None if self._keeper is None else self._keeper.memory, mesh.ledger)

    @staticmethod
    def _new_steadiness(mesh: Mesh) -> Steadiness:
        settings = mesh.plan.config.stability
        providers = list(mesh.plan.board.rows_of_provider) if settings.enabled else []
        return Steadiness(providers, every_s=settings.every_s, guardian=settings.guardian)

    @property
    def memory_failure(self) -> str:
        """Why what is remembered cannot be written; empty: it can."""
        return "" if self._keeper is None else self._keeper.memory.failure

    # ---- taking in ----------------------------------------------------------------------------------------------

    def attempt_ended(self, kept: Attempt, attempt: OpenAttempt) -> None:
        """Queue what an attempt showed that says something about its offer. Never raises."""
        if not self.enabled:
            return
        try:
            self.intake.ended(kept, attempt.ask.request, attempt.reply)
            self.probing.served(kept.offer, self._mesh.wall())
            self._wake_later()
        except Exception as error:  # nothing here may become a request's
            self._lose(1, error)

    def reported(self, offer: Offer, kind: Kind, outcome: Outcome) -> None:
        """Queue what a caller reported of work that it placed itself. Never raises."""
        if not self.enabled:
            return
        try:
            self.intake.reported(offer, kind, outcome)
            self._wake_later()
        except Exception as error:  # as above
            self._lose(1, error)

    def take_in(self, observations: Sequence[Observation]) -> None:
        """Queue what attempts in other workers showed."""
        if self.enabled:
            self.intake.take_in(observations)
            self.probing.heard(observations)
            self._wake_later()

    def _wake_later(self) -> None:
        if not self._waking and len(self.intake):
            self._waking = True
            self.start()
            asyncio.get_running_loop().call_later(TAKE_AFTER_S, self._wake_up)

    def _wake_up(self) -> None:
        self._waking = False
        self._wake.set()

    async def settle(self) -> None:
        """Take in all that is queued by now, and have all observers told of it."""
        await self._turns.run(self._settle)
        await self.onlookers.settle()

    async def _settle(self) -> None:
        """Take in what is queued by now; what comes meanwhile waits, so that a look comes too."""
        waiting = self.intake.take()
        while waiting:
            self.onlookers.tell(await self._aside.run(lambda: self._observe(waiting)))
            if self._aside.on_loop:
                await asyncio.sleep(0)

    def _observe(self, waiting: deque[Left | Observation]) -> list[Observation]:
        """Take in what waits longest, for one turn; what that was."""
        observers = (self.sense.observe, self.steadiness.observe, self.acting.observe)
        seen: list[Observation] = []
        until = self._timer() + TURN_S
        while waiting:
            left = waiting.popleft()
            try:
                observation = self.intake.reduce(left)
            except Exception as error:  # one must not take the others with it
                self._lose(1, error)
                continue
            self.observed += 1
            seen.append(observation)
            for observer in observers:
                try:
                    observer(observation)
                except Exception as error:  # as above
                    self._lose(1, error)
            if self._timer() >= until:
                break
        return seen

    def _lose(self, count: int, error: Exception | None) -> None:
        if not self.lost:
            log.error(
                "observation_lost",
                error="an observer is too slow" if error is None else type(error).__name__,
                exc_info=error,
            )
        self.lost += count

    # ---- looking ------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Take in what is queued, look for patterns and ahead, and act on what is found."""
        await self._turns.run(self._look)

    async def _look(self) -> None:
        await self._settle()
        now, self._seen_at_look = self._mesh.wall(), self.observed
        looked = await self._looking.run(lambda: self.sense.look(now))
        for pattern in looked.patterns:
            self.chronicle.pattern(pattern)
        for healing in self.acting.act(looked, now):
            if self.chronicle.healing(healing):
                for offer in healing.offers:
                    self.sense.signatures.healed(offer)

    async def step(self) -> None:
        """Look at the whole: one report, one step of the stability field, and what its guardian asks for."""
        await self._turns.run(self._step)

    async def _step(self) -> None:
        report = await self._report()
        if self.steadiness.field is not None:
            coherence = {one.provider: one.coherence for one in report.providers}
            record = self.steadiness.step(coherence, report.at)
            report = msgspec.structs.replace(report, stability=self.steadiness.reading)
            if self.steadiness.reading is not None:
                self.chronicle.reading(self.steadiness.reading)
            if record is not None:
                self._intervene(record, report)
        self.latest = report
        self._session.saw(report)

    def _intervene(self, record: InterventionRecord, report: HealthReport) -> InterventionRecord:
        """Have done what the guardian, or a person, asks for."""
        done = self.acting.intervene(record, self.steadiness.guardian, report)
        self.chronicle.intervention(done)
        return done

    async def report(self) -> HealthReport:
        """The whole infrastructure at this moment."""
        return await self._turns.run(self._report)

    async def _report(self) -> HealthReport:
        await self._settle()
        now, mesh = self._mesh.wall(), self._mesh
        notes = [f"memory cannot be written: {self.memory_failure}"] if self.memory_failure else []
        healings = [one for one in self.acting.healer.active.values() if one.applied]
        steered = steered_by_provider(mesh.plan.board)
        return await self._reporting.run(
            lambda: self.sense.report(
                now,
                healings=healings,
                recurrences=self.chronicle.lately(now),
                steered=steered,
                stability=self.steadiness.reading,
                observed=self.observed,
                dropped=self.intake.dropped + self.lost,
                notes=notes,
            )
        )

    # ---- people -------------------------------------------------------------------------------------------------

    async def order(self, order: Callable[[Healer, float], T]) -> T:
        """Have the healer take a person's order, given as what to do with it and the time; its answer.

        Passes on what that raises.
        """

        async def ordered() -> T:
            await self._settle()
            return order(self.acting.healer, self._mesh.wall())

        answer = await self._turns.run(ordered)
        await self.look()  # so that what it changed is told
        return answer

    async def trigger(self, kind: Intervention, by: str) -> InterventionRecord:
        """A person's intervention, done at once; what it changed."""

        async def triggered() -> InterventionRecord:
            report = await self._report()
            record = self.steadiness.guardian.trigger(kind, report.at, by, queue=False)
            return self._intervene(record, report)

        return await self._turns.run(triggered)

    # ---- living -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take in and to look, unless it has begun, is switched off or has been closed."""
        if self.enabled and self._task is None and not self._closed:
            loop = asyncio.get_running_loop()
            now, config = loop.time(), self._mesh.plan.config
            self._look_at = now + LOOK_EVERY_S
            self._step_at = now + config.stability.every_s
            self._snapshot_at = now + config.health.snapshot_every_s
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_at()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turns.run(self._settle)
                if loop.time() >= self._next_at():
                    self._look_at = loop.time() + LOOK_EVERY_S
                    self.probing.look(self._mesh.wall())
                    await self.look()
                if loop.time() >= self._step_at:
                    self._step_at = loop.time() + self._mesh.plan.config.stability.every_s
                    await self.step()
                await self._keep(loop.time())
            except Exception as error:  # the next look must come
                self._lose(1, error)

    def _next_at(self) -> float:
        """When to look next: in a second, or sooner under traffic."""
        busy = self.observed - self._seen_at_look >= LOOK_AFTER_ATTEMPTS
        return min(self._look_at - (LOOK_EVERY_S - LOOK_SOONEST_S if busy else 0.0), self._step_at)

    async def _keep_states(self, keeper: Keeper) -> None:
        await self._turns.run(lambda: self._reporting.run(lambda: hand_states(self, keeper.memory, self._mesh.wall())))

    async def _keep(self, now_s: float) -> None:
        keeper = self._keeper
        if keeper is None:
            return
        if now_s >= self._snapshot_at:
            self._snapshot_at = now_s + self._mesh.plan.config.health.snapshot_every_s
            await self._turns.run(lambda: self._export(keeper))
        if keeper.states_due:
            await self._keep_states(keeper)
        keeper.write()

    async def _export(self, keeper: Keeper) -> None:
        memory, report = keeper.memory, await self._report()
        analysis = await self._reporting.run(lambda: self._session.analysis(report, memory))
        memory.export("infrastructure_state", report.at, report)
        memory.export("session_analysis", self._session.began_at, analysis)

    def reload(self) -> None:
        """The mesh has another plan, steered as the one before at once, and watched from the next turn on."""
        if self.enabled:
            self.levers.carry_on()
            self._outdated = True
            self._wake.set()

    def _follow_plan(self) -> None:
        if not self._outdated:  # the plan is the one whose offers are watched
            return
        self._outdated, mesh = False, self._mesh
        before = set(self.sense.offers)
        self.sense.set_offers(traits_of_plan(mesh.plan))
        self.intake.keep(self.sense.offers)
        self.probing.keep(self.sense.offers)
        self.intake.samples_per_s = mesh.plan.config.health.samples_per_s
        fresh = self._new_steadiness(mesh)
        if fresh.providers != self.steadiness.providers:
            fresh.guardian = self.steadiness.guardian
            self.steadiness = fresh
        self.acting.reload(before.difference(self.sense.offers), mesh.wall())
        self.steadiness.guardian.enabled = mesh.plan.config.stability.guardian

    async def aclose(self) -> None:
        """Take in what is queued, keep what is known, and end."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self.probing.aclose()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self.look()
                    if (keeper := self._keeper) is not None:
                        await self._turns.run(lambda: self._export(keeper))
                        await self._keep_states(keeper)
                    await self.onlookers.settle()
            self._turns.close()  # where the time did not suffice, an observer hangs
        if self._keeper is not None:
            await self._keeper.aclose()
        self.feed.close()
        for worker in (self._aside, self._looking, self._reporting, self.onlookers):
            worker.close()
