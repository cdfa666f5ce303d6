"""The scheduler: steps every line of anchors when it is due, takes new settings while it runs, and says how it fares.

Each step runs in a thread of its own, for a disk, a network or gpg may take their time; the event loop only waits.
A process that ends lets them go: a step that was cut short is gone on with at the next start.

The HTTP client is loaded here, by the main thread: its allocator crashes a process in which the thread that loaded it
has ended, and another begins (mimalloc 3.3, https://github.com/microsoft/mimalloc/issues/1287).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import pyreqwest.client  # noqa: F401 - loaded, as said above

from amaru.ledger.anchoring import Line
from amaru.ledger.anchoring_config import LineSettings, SchedulerSettings, SourceSettings
from amaru.ledger.anchoring_metrics import AnchoringMetrics
from amaru.ledger.anchoring_source import Source
from amaru.ledger.anchoring_state import LineName, StateFolder
from amaru.ledger.receipts import rfc3339

AT_ONCE = 16
"""Steps of one namespace that run at one time; a log whose store does not answer holds up no other's."""
LOOK_S = 20.0
"""No longer sleep than this: a clock that is set, or a machine that slept, is noticed."""

Json = dict[str, Any]  # Any: a JSON document
_Result = TypeVar("_Result")


@dataclass
class _Running:
    """A line that is stepped, until it is told to stop."""

    settings: LineSettings
    line: Line
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Scheduler:
    """Runs the lines of the settings, on the running event loop.

    Parameters
    ----------
    states
        Where they write down how far they got.
    clock
        Unix seconds.
    """

    def __init__(self, states: StateFolder, *, clock: Callable[[], float] = time.time) -> None:
        self.metrics = AnchoringMetrics()
        self._states = states
        self._clock = clock
        self._sources: dict[str, tuple[SourceSettings, Source]] = {}
        self._running: dict[LineName, _Running] = {}
        self._ending: dict[LineName, asyncio.Task[None]] = {}
        self._at_once: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))

    def apply(self, settings: SchedulerSettings) -> None:
        """Run these lines from now on. One whose settings are as before goes on undisturbed; a step that is under way
        is let to its end before another of the same name begins.
        """
        for namespace, given in settings.sources.items():
            if namespace not in self._sources or self._sources[namespace][0] != given:
                self._sources[namespace] = (given, Source(namespace, given.url, given.verifiers, self._states))
        for namespace in set(self._sources) - set(settings.sources):
            del self._sources[namespace]
        wanted = {line.name: line for line in settings.lines}
        for name, running in list(self._running.items()):
            if wanted.get(name) != running.settings:
                self._end(name, running)
                if name not in wanted:
                    self.metrics.forget(name)
        for name, line in wanted.items():
            if name not in self._running:
                self._begin(line)

    async def aclose(self, limit_s: float) -> bool:
        """Begin no step any more, and let those under way end; False where that took longer than ``limit_s``."""
        for name, running in list(self._running.items()):
            self._end(name, running)
        tasks = list(self._ending.values())
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=limit_s)
        for task in late:
            task.cancel()
        return not late

    def health(self) -> Json:
        """Each namespace's last anchor and status, and the worst status of all."""
        namespaces = {name: self._namespace(name, source) for name, (_, source) in self._sources.items()}
        worst = max((_RANK[one["status"]] for one in namespaces.values()), default=0)
        return {"status": _STATUSES[worst], "namespaces": namespaces}

    # ---- lines ------------------------------------------------------------------------------------------------------

    def _begin(self, settings: LineSettings) -> None:
        name = settings.name
        log = self._sources[name.namespace][1]
        figures = self.metrics.of(name)
        line = Line(name, settings.cadence, settings.target, log, self._states, figures, clock=self._clock)
        running = _Running(settings, line)
        running.task = asyncio.create_task(self._drive(running, self._ending.get(name)))
        self._running[name] = running

    def _end(self, name: LineName, running: _Running) -> None:
        running.stop.set()
        del self._running[name]
        assert running.task is not None
        task = self._ending[name] = running.task

        def ended(_: asyncio.Task[None]) -> None:
            if self._ending.get(name) is task:
                del self._ending[name]

        task.add_done_callback(ended)

    async def _drive(self, running: _Running, before: asyncio.Task[None] | None) -> None:
        line, stop = running.line, running.stop
        if before is not None:
            await asyncio.wait((before,))
        while not stop.is_set():
            async with self._at_once[line.name.namespace]:
                if stop.is_set():
                    return
                next_s = await _in_thread(line.step)
            wait_s = min(max(next_s - self._clock(), 0.0), LOOK_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s)

    # ---- health -----------------------------------------------------------------------------------------------------

    def _namespace(self, name: str, source: Source) -> Json:
        lines = [running.line for at, running in self._running.items() if at.namespace == name]
        made = [(line, line.state.last) for line in lines if line.state.last is not None]
        last = max(made, key=lambda pair: pair[1].at_s, default=None)
        statuses = {line.status for line in lines}
        if source.alarm:
            status = "alarm"
        elif "failed" in statuses:
            status = "failed"
        elif "retrying" in statuses:
            status = "retrying"
        else:
            status = "waiting" if statuses <= {"new"} else "ok"
        return {
            "status": status,
            "problem": source.alarm or next((line.problem for line in lines if line.problem), ""),
            "size": source.size,
            "last_anchor": None if last is None else _anchor(last[0]),
            "anchors": [self._line(line) for line in lines],
        }

    def _line(self, line: Line) -> Json:
        pending, now = line.state.pending, self._clock()
        next_s = line.cadence.next_s(line.state.settled, now) if pending is None else max(pending.next_s, now)
        return {
            "cadence": line.name.cadence,
            "target": line.name.target,
            "status": line.status,
            "problem": line.problem,
            "tries": 0 if pending is None else pending.tries,
            "next_at": rfc3339(next_s),
            "last": _anchor(line),
        }


_STATUSES = ("ok", "waiting", "retrying", "failed", "alarm")
_RANK = {status: rank for rank, status in enumerate(_STATUSES)}


def _anchor(line: Line) -> Json | None:
    last = line.state.last
    if last is None:
        return None
    shown = msgspec.to_builtins(last)
    return {
        "cadence": line.name.cadence,
        "target": line.name.target,
        "at": rfc3339(last.at_s),
        "slot": rfc3339(last.slot),
        **{name: shown[name] for name in ("size", "root", "where", "digest")},
    }


async def _in_thread(work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns or raises, from a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def tell(result: _Result | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # of the type of what ``work`` returned

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="amaru-anchoring", daemon=True).start()
    return await done
