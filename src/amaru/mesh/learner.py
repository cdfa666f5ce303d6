"""The policy that serves, what it learns while it serves, and the copies of its state that outlive the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from amaru.accounts.cost import cost_usd
from amaru.domain import Attempt, Experience, Kind, Offer, Outcome, Workload
from amaru.mesh.attempt import OpenAttempt
from amaru.routing.experience import experience_of, experience_of_report
from amaru.routing.learned import MAX_STATE_BYTES
from amaru.routing.policies_base import Policy
from amaru.routing.ranking import Figures, Ranking, seen_of
from amaru.storage import DecisionStore, PolicyState
from amaru.telemetry.logs import get_logger

SNAPSHOT_EVERY_S = 0.5
"""Least time between two copies. With the 0.1 s for which the store gathers a batch, a crash costs less than a second
of outcomes."""
BEGUN_AFTER_S = 0.25
"""A stream that is over by then teaches all at once, at its end, which costs half."""
LEARN_AFTER_S = 0.01
"""How long what attempts showed waits, to be learned together and after the answers."""
SLOW_S = 0.002
"""A copy that took longer is next made beside the event loop, which every answer would otherwise wait for."""
MAX_LATE = 100_000
"""Outcomes that may wait while a copy is made beside the event loop; more are not learned from, and counted."""

Lesson = tuple[Workload, Offer, Experience]

log = get_logger("mesh")


@dataclass(slots=True)
class Used:
    """A policy with where it comes from."""

    policy: Policy
    settings: Mapping[str, int | float] = field(default_factory=dict)
    """The knobs it was made with, as ``routing.policy_settings`` gives them."""
    artifact: str = ""
    """The version on top of which it learns; empty: none."""
    outcomes: int = 0
    """How many it has learned from, on top of that artifact."""

    def snapshot(self, at: float, state: bytes | None = None) -> PolicyState:
        """All that was learned, as it is now, or as ``state`` holds it."""
        return PolicyState(
            policy=self.policy.name,
            at=at,
            state=self.policy.state() if state is None else state,
            settings=dict(self.settings),
            artifact=self.artifact,
            outcomes=self.outcomes,
        )


class Learner:
    """The policy in use: learns on the event loop's thread, and hands copies of its state to the store.

    Parameters
    ----------
    used
        What learns. Ranking may go on while its state is copied; learning waits.
    timer
        Seconds that a copy takes are measured by it.
    """

    def __init__(
        self,
        used: Used,
        store: DecisionStore,
        *,
        wall: Callable[[], float],
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.used = used
        self.lost = 0
        """Outcomes that could not be learned from."""
        self.saved_at: float | None = None
        """When the last copy was handed to the store, in Unix seconds."""
        self.saved_bytes = 0
        self.failure = ""
        """Why the last copy could not be kept; empty: it was."""
        self.snapshot_s = 0.0
        """How long the last copy took."""
        self.on_saved: Callable[[PolicyState], None] | None = None
        """Gets each copy too."""
        self._store = store
        self._wall = wall
        self._timer = timer
        self._timing: asyncio.TimerHandle | None = None
        self._last_s = -SNAPSHOT_EVERY_S  # of the loop's clock
        self._beside: asyncio.Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._late: list[Lesson] = []
        self._waiting: list[tuple[Ranking, int, Experience]] = []
        self._dirty = False
        self._closed = False

    @property
    def policy(self) -> Policy:
        """Which ranks now."""
        return self.used.policy

    @property
    def name(self) -> str:
        """The policy's."""
        return self.used.policy.name

    @property
    def outcomes(self) -> int:
        """How many it has learned from, on top of its artifact."""
        return self.used.outcomes

    def use(self, used: Used) -> None:
        """Learn by another policy from now on; what the one before it learned is kept under its name."""
        if used.policy.name != self.name:
            if self._dirty:
                self.save()
            self._dirty = False
        self.used = used

    # ---- learning -----------------------------------------------------------------------------------------------

    def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        """Learn from one attempt, unless it says nothing about its offer. Never raises."""
        if not self.policy.learns or not experience.blame:
            return
        if self._beside is not None:
            if len(self._late) < MAX_LATE:
                self._late.append((workload, offer, experience))
            else:
                self.lost += 1
            return
        self._learn(workload, offer, experience)
        self._save_later()

    def attempt_began(self, ranking: Ranking, attempt: OpenAttempt) -> None:
        """Take in that a stream's first token has come: where the answer is long, its latency need not wait for it."""
        first_token_ms = attempt.first_token_ms()
        if first_token_ms is None or not self.policy.learns:
            return
        told = Experience(at=self._wall(), ok=True, latency_ms=first_token_ms, load=attempt.load, ended=False)
        asyncio.get_running_loop().call_later(BEGUN_AFTER_S, self._still_open, ranking, attempt, told)

    def _still_open(self, ranking: Ranking, attempt: OpenAttempt, told: Experience) -> None:
        if not attempt.ended:
            attempt.begun = True
            self._waiting.append((ranking, attempt.row, told))
            self._catch_up_later()

    def attempt_ended(self, ranking: Ranking, attempt: Attempt, at: float, *, begun: bool) -> None:
        """Take in an attempt of a request that was decided at ``at``, Unix seconds.

        It is learned from a moment later, and not only when the whole request has ended: another offer may take seconds
        to answer it, while others still go to this one. ``begun``: its first token was learned from already.
        """
        if self.policy.learns:
            row = ranking.board.row_of[attempt.offer]
            told = experience_of(ranking.workload, attempt, at, begun=begun)
            if told is not None:
                self._waiting.append((ranking, row, told))
                self._catch_up_later()

    def _catch_up_later(self) -> None:
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(LEARN_AFTER_S, self.catch_up)

    def catch_up(self) -> None:
        """Learn from all that was taken in. Never raises.

        It may have begun under another policy: what is learned is learned by the one in use now.
        """
        waiting, self._waiting = self._waiting, []
        for ranking, row, shown in waiting:
            try:
                told = msgspec.structs.replace(shown, seen=seen_of(ranking, row))
            except Exception as error:  # one outcome must not take the others with it, nor the answers
                self._lose(error)
                continue
            self.learn(ranking.workload, ranking.board.offers[row], told)

    def learn_from_report(self, figures: Figures, row: int, offer: Offer, outcome: Outcome) -> None:
        """Learn from what a caller reports of ``offer``, which was that row of the decision's board."""
        if not self.policy.learns:
            return
        workload, usage = figures.workload, outcome.usage
        expected_usd = cost_usd(offer.price, usage) if usage is not None else None
        if workload.kind is Kind.GPU_JOB:
            expected_usd = workload.gpu_hours * offer.price.usd_per_gpu_hour
        told = experience_of_report(workload, offer, outcome, expected_usd, seen_of(figures, row))
        self.learn(workload, offer, told)

    def exchange(self, take: Callable[[Policy], bool]) -> bool:
        """Have the policy take in what others learned; ``take`` says whether there was anything.

        False where it cannot be done now, since a copy is being made; try again.
        """
        if self._beside is not None:
            return False
        if take(self.policy):
            self._dirty = True
            self._save_later()
        return True

    def _learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
        try:
            self.policy.learn(workload, offer, experience)
        except Exception as error:  # as above
            self._lose(error)
            return
        self.used.outcomes += experience.ended
        self._dirty = True

    def _lose(self, error: Exception) -> None:
        if not self.lost:
            log.error("policy_cannot_learn", policy=self.policy.name, error=type(error).__name__, exc_info=error)
        self.lost += 1

    # ---- copies -------------------------------------------------------------------------------------------------

    def _save_later(self) -> None:
        if self._timing is not None or self._closed or not self._dirty:
            return
        loop = asyncio.get_running_loop()
        wait_s = max(self._last_s + SNAPSHOT_EVERY_S - loop.time(), 0.0)
        self._timing = loop.call_later(wait_s, self._save)

    def _save(self) -> None:
        self._timing = None
        loop = asyncio.get_running_loop()
        self._last_s = loop.time()
        if self.snapshot_s <= SLOW_S:
            self.save()
            return
        if self._thread is None:
            # Its own, since the loop's threads may all wait for the disk.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="amaru-policy")
        self._dirty = False
        used = self.used
        copying = loop.run_in_executor(self._thread, self._copy, used.policy)
        self._beside = asyncio.ensure_future(self._finish_beside(used, copying))

    async def _finish_beside(self, used: Used, copying: asyncio.Future[tuple[bytes, float]]) -> None:
        try:
            state, took_s = await copying
            if used is self.used or used.policy.name != self.name:
                self._hand_over(used, state, took_s)
            else:  # it was replaced meanwhile by one of its name, which is the one to keep
                self._dirty = True
        except Exception as error:
            self._not_saved(error)
        self._beside = None
        late, self._late = self._late, []
        for lesson in late:
            self._learn(*lesson)
        self._save_later()

    def _copy(self, policy: Policy) -> tuple[bytes, float]:
        started = self._timer()
        return policy.state(), self._timer() - started

    def save(self) -> None:
        """Hand a copy of the state to the store now. Never blocks for the disk, and never raises."""
        self._dirty = False
        try:
            self._hand_over(self.used, *self._copy(self.policy))
        except Exception as error:
            self._not_saved(error)

    def _not_saved(self, error: Exception) -> None:
        """Serving goes on, and the next copy, at the latest the one at the end, may succeed."""
        self._dirty = True
        if str(error) != self.failure:  # else it would be said twice a second
            log.error("policy_not_saved", policy=self.policy.name, error=str(error), exc_info=error)
        self.failure = str(error)

    def _hand_over(self, used: Used, state: bytes, took_s: float) -> None:
        self.snapshot_s = took_s
        if len(state) > MAX_STATE_BYTES:
            raise ValueError(f"the state has {len(state):,} bytes; at most {MAX_STATE_BYTES:,} are kept")
        self.failure = ""
        self.saved_at, self.saved_bytes = self._wall(), len(state)
        copy = used.snapshot(self.saved_at, state)
        self._store.remember_policy(copy)
        if self.on_saved is not None:
            self.on_saved(copy)

    async def aclose(self) -> None:
        """Hand the last copy to the store, where something was learned since the one before; learn no more."""
        self.catch_up()
        self._closed = True
        if self._timing is not None:
            self._timing.cancel()
        if self._beside is not None:
            await self._beside
        if self._dirty:
            self.save()
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    # ---- showing ------------------------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:  # Any: JSON
        """Its figures, for ``GET /policy``."""
        return {
            "policy": self.policy.name,
            "learns": self.policy.learns,
            "settings": dict(self.used.settings),
            "artifact": self.used.artifact or None,
            "outcomes": self.used.outcomes,
            "outcomes_lost": self.lost,
            "snapshot_age_s": None if self.saved_at is None else round(max(self._wall() - self.saved_at, 0.0), 3),
            "snapshot_failure": self.failure or None,
            "snapshot_bytes": self.saved_bytes,
            "snapshot_ms": round(self.snapshot_s * 1e3, 3),
        }
