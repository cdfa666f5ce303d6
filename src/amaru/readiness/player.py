"""Plays a trace against one or several callers, open-loop: each request leaves at its own time, whatever became of the
ones before it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

import msgspec

from amaru.readiness.caller import Ask, Caller
from amaru.readiness.measuring import UNFINISHED, Sample
from amaru.simulation.text import VOCABULARY
from amaru.simulation.traces import TraceRequest


class Prompts:
    """Prompts of a wished-for number of words, cut from one long text: cheap to make, and seldom alike."""

    def __init__(self, seed: int, words: int = 150_000) -> None:
        rng = random.Random(seed)  # noqa: S311 -- reproducible, not secret
        self._rng = rng
        drawn = rng.choices(VOCABULARY, k=words)
        self._text = " ".join(drawn)
        self._starts = [0]
        for word in drawn:
            self._starts.append(self._starts[-1] + len(word) + 1)

    def take(self, tokens: int) -> str:
        """A prompt of ``tokens`` tokens by the simulator's rule (one a word); at least one, at most what there is."""
        tokens = min(max(1, tokens), len(self._starts) - 2)
        first = self._rng.randrange(len(self._starts) - 1 - tokens)
        return self._text[self._starts[first] : self._starts[first + tokens] - 1]


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
    """False: it was stopped before the end of the trace."""


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

    Raises
    ------
    TraceError
        From ``requests``, as it is read while playing; what was sent until then is in the lanes.
    """
    loop = asyncio.get_running_loop()
    prompts = Prompts(seed)
    start = loop.time()
    on_start(start)
    complete = True
    sent_until_s = 0.0
    try:
        for request in requests:
            at_s = request.at_s / speed
            if duration_s is not None and at_s >= duration_s:
                await _rest(stop, start + duration_s - loop.time())
                break
            await _rest(stop, start + at_s - loop.time())
            if stop.is_set():
                complete = False
                break
            ask = Ask(prompts.take(request.input_tokens), request.input_tokens, request.output_tokens)
            for lane in lanes:
                _send(lane, ask, at_s, start)
        sent_until_s = loop.time() - start
    finally:
        sent_until_s = sent_until_s or loop.time() - start
        await _settle(lanes, stop, grace_s)
    for lane in lanes:
        if lane.mishap is not None:
            raise lane.mishap
    return Run(sent_until_s, complete and not stop.is_set())


def _send(lane: Lane, ask: Ask, at_s: float, start: float) -> None:
    if lane.in_flight >= lane.max_in_flight:
        lane.dropped += 1
        return
    loop = asyncio.get_running_loop()
    due = start + at_s
    sample = Sample(at_s=at_s, lag_s=max(0.0, loop.time() - due), error=UNFINISHED)
    lane.samples.append(sample)

    async def call() -> None:
        try:
            await lane.caller.call(ask, sample, due)
        except asyncio.CancelledError:
            sample.error = UNFINISHED
            raise
        lane.finished.append(sample)

    task = loop.create_task(call())
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
