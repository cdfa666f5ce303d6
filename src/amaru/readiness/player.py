"""Plays a trace against one or several callers, open-loop: each request leaves at its own time, whatever became of the
ones before it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from amaru.errors import TraceError
from amaru.readiness.caller import Caller
from amaru.readiness.measuring import UNFINISHED, Sample
from amaru.readiness.prompts import Prompts
from amaru.simulation.traces import TraceRequest

_AHEAD = 256
_AHEAD_BYTES = 16 * 1024 * 1024
"""Most requests, and most of their bytes, that are made before they are due."""
_SPARE_S = 0.01
"""Time until the next departure below which nothing is made: the longest prompt takes a few milliseconds."""


class Lane:
    """One caller's side of a run: its samples, and how much is open.

    ``samples`` holds every request that was sent, in order; those still open are marked unfinished.
    """

    def __init__(self, name: str, caller: Caller, *, max_in_flight: int = 2000) -> None:
        self.name = name
        self.caller = caller
        self.max_in_flight = max_in_flight
        self.samples: list[Sample] = []
        self.finished: list[Sample] = []
        """Those that ended, in the order of their ends."""
        self.dropped = 0
        self.open: set[asyncio.Task[None]] = set()
        self.mishap: BaseException | None = None
        """An error of our own making, which ends the run: it would otherwise pass for the server's."""

    def ended(self, task: asyncio.Task[None]) -> None:
        """Take note of a request's end."""
        self.open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.mishap = self.mishap or task.exception()

    @property
    def in_flight(self) -> int:
        """Requests open now."""
        return len(self.open)


class Run(msgspec.Struct, frozen=True):
    """How a run went."""

    duration_s: float
    """From the start until no more was sent."""
    complete: bool
    """False: it was stopped before the end of the trace, or the trace broke off."""
    broken_off: TraceError | None = None
    """The mistake in the trace that ended the run; what stands before it was sent."""


async def play(
    requests: Iterable[TraceRequest],
    lanes: Sequence[Lane],
    *,
    speed: float,
    seed: int,
    stop: asyncio.Event,
    duration_s: float | None = None,
    grace_s: float = 30.0,
    on_start: Callable[[float], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Send each request of the trace to every lane at ``at_s / speed`` seconds after the start.

    Parameters
    ----------
    speed
        2 plays twice as fast.
    stop
        Ends the run at once when set; requests still open are then given up and stay marked unfinished.
    duration_s
        Ends the sending after so long, the trace or not.
    grace_s
        How long open requests may take after the last one was sent.
    on_start
        Called with the start's instant (``loop.time()``).
    clock
        That of the lanes' callers.
    """
    upcoming = _Upcoming(requests, lanes, Prompts(seed), speed, duration_s)
    upcoming.make()
    on_start(asyncio.get_running_loop().time())
    start = clock()
    sent_until_s = 0.0
    try:
        while upcoming.ready and not stop.is_set():
            at_s = upcoming.ready[0].at_s
            while upcoming.room and start + at_s - clock() > _SPARE_S:
                upcoming.make()
                await asyncio.sleep(0)
            await _rest(stop, start + at_s - clock())
            if stop.is_set():
                break
            _send(lanes, upcoming.ready.popleft(), start, clock)
            if not upcoming.ready:
                upcoming.make()
        if duration_s is not None and not upcoming.over:
            await _rest(stop, start + duration_s - clock())
        sent_until_s = clock() - start
    finally:
        sent_until_s = sent_until_s or clock() - start
        await _settle(lanes, stop, grace_s)
    for lane in lanes:
        if lane.mishap is not None:
            raise lane.mishap
    return Run(sent_until_s, complete=not stop.is_set() and upcoming.error is None, broken_off=upcoming.error)


class _Ready(msgspec.Struct, frozen=True):
    """A request whose bodies are made, one for each lane."""

    at_s: float
    input_tokens: int
    bodies: list[bytes]


class _Upcoming:
    """Makes requests before they are due, while there is time: long prompts that come together would make each other
    late.

    Attributes
    ----------
    ready
        Those made and not sent, in order.
    over
        The trace has ended, or broke off (``error``); False where ``duration_s`` ended it.
    """

    def __init__(
        self,
        requests: Iterable[TraceRequest],
        lanes: Sequence[Lane],
        prompts: Prompts,
        speed: float,
        duration_s: float | None,
    ) -> None:
        self.ready: deque[_Ready] = deque()
        self.over = False
        self.error: TraceError | None = None
        self._requests = iter(requests)
        self._lanes = lanes
        self._prompts = prompts
        self._speed = speed
        self._duration_s = duration_s
        self._ended = False

    @property
    def room(self) -> bool:
        """Whether one more may be made ahead."""
        if self._ended or len(self.ready) >= _AHEAD:
            return False
        return sum(len(body) for one in self.ready for body in one.bodies) < _AHEAD_BYTES

    def make(self) -> None:
        """Make the next one, if there is one."""
        if self._ended:
            return
        try:
            request = next(self._requests)
        except StopIteration:
            self._ended = self.over = True
            return
        except TraceError as error:
            # What stands before the mistake is still sent.
            self._ended = self.over = True
            self.error = error
            return
        at_s = request.at_s / self._speed
        if self._duration_s is not None and at_s >= self._duration_s:
            self._ended = True
            return
        prompt = self._prompts.for_request(request)
        bodies = [lane.caller.body(prompt, request.output_tokens) for lane in self._lanes]
        self.ready.append(_Ready(at_s, request.input_tokens, bodies))


def _send(lanes: Sequence[Lane], ready: _Ready, start: float, clock: Callable[[], float]) -> None:
    for lane, body in zip(lanes, ready.bodies, strict=True):
        if lane.in_flight >= lane.max_in_flight:
            lane.dropped += 1
        else:
            _send_one(lane, ready, body, start + ready.at_s, clock)


def _send_one(lane: Lane, ready: _Ready, body: bytes, due: float, clock: Callable[[], float]) -> None:
    lag_s = max(0.0, clock() - due)
    sample = Sample(at_s=ready.at_s, lag_s=lag_s, input_tokens=ready.input_tokens, error=UNFINISHED)
    lane.samples.append(sample)

    async def call() -> None:
        try:
            await lane.caller.call(body, sample, due)
        except asyncio.CancelledError:
            sample.error = UNFINISHED
            raise
        lane.finished.append(sample)

    task = asyncio.get_running_loop().create_task(call())
    lane.open.add(task)
    task.add_done_callback(lane.ended)


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until stopped. Short waits, the many, cost one timer."""
    if seconds <= 0:
        # Behind schedule: still let answers be read, every time.
        await asyncio.sleep(0)
    elif seconds < 0.05:
        await asyncio.sleep(seconds)
    else:
        waiting = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((waiting,), timeout=seconds)
        finally:
            waiting.cancel()


async def _settle(lanes: Sequence[Lane], stop: asyncio.Event, grace_s: float) -> None:
    """Let open requests end, for ``grace_s`` or until stopped; then cancel them."""
    tasks = {task for lane in lanes for task in lane.open}
    if not tasks:
        return
    stopped = asyncio.ensure_future(stop.wait())
    ending = asyncio.gather(*tasks, return_exceptions=True)
    try:
        await asyncio.wait((ending, stopped), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
