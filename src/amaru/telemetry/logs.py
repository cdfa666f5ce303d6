"""Logs: structured, redacted, rate limited, and never in the way of the event loop.

Rooms log through ``get_logger(room)``: an event name and figures, ``log.warning("breaker_opened", offer=…)``. Until
``configure`` is called (a library user may never call it) events go to the standard library's logger ``amaru.<room>``.
Afterwards they are rendered and handed to a writer thread, so that a slow terminal or pipe cannot stall serving: when
it falls behind, lines are dropped and counted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from amaru.telemetry.redaction import redact

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

QUEUE_LINES = 10_000
EVENTS_PER_WINDOW = 20
WINDOW_S = 10.0
EVENT_KEYS = 512

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "exception": 40, "critical": 50}


class LineWriter:
    """A thread that writes lines to a stream; ``write`` never blocks.

    Parameters
    ----------
    stream
        Where lines go. A stream that fails (a closed pipe) loses its lines; they are counted as dropped.
    queue_lines
        Lines that may wait.
    """

    def __init__(self, stream: TextIO, *, queue_lines: int = QUEUE_LINES) -> None:
        self.dropped = 0
        self._stream = stream
        self._queue_lines = queue_lines
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="amaru-logs", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue a line (without its end); dropped and counted where too many wait."""
        if len(self._lines) >= self._queue_lines or self._closing:
            self.dropped += 1
            return
        self._idle.clear()
        self._lines.append(line)
        self._wake.set()

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until what was queued is written; False where that took too long."""
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for at most ``timeout_s``, and stop. The stream stays open."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        told = 0
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), 256))]
                if self.dropped > told:
                    batch.append(f'{{"event": "log_lines_dropped", "level": "warning", "total": {self.dropped}}}')
                    told = self.dropped
                try:
                    self._stream.write("\n".join(batch) + "\n")
                    self._stream.flush()
                except (OSError, ValueError):  # ValueError: the stream was closed
                    self.dropped += len(batch)
                    told = self.dropped
            self._idle.set()
            if self._lines:  # one slipped in between the two lines above
                self._idle.clear()
                self._wake.set()
            elif self._closing:
                return


class RepeatLimit:
    """Lets through so many events of one name in a window; the next one let through tells how many were not.

    Bounded: of more than ``EVENT_KEYS`` names, the one longest unseen is forgotten.
    """

    def __init__(
        self, timer: Callable[[], float], *, events: int = EVENTS_PER_WINDOW, window_s: float = WINDOW_S
    ) -> None:
        self._timer = timer
        self._events = events
        self._window_s = window_s
        self._seen: OrderedDict[tuple[str, str], list[float]] = OrderedDict()  # window's begin, passed, held back

    def admit(self, room: str, event: str) -> int | None:
        """How many events of this name were held back since the last one let through; ``None``: hold this one back."""
        now, key = self._timer(), (room, event)
        state = self._seen.get(key)
        if state is None:
            state = self._seen[key] = [now, 0, 0]
            if len(self._seen) > EVENT_KEYS:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        if now - state[0] >= self._window_s:
            state[0], state[1] = now, 0
        if state[1] >= self._events:
            state[2] += 1
            return None
        state[1] += 1
        held_back, state[2] = int(state[2]), 0
        return held_back


class _Pipeline:
    """What ``configure`` set up: from an event to a line."""

    def __init__(
        self,
        level: Level,
        format: Format,
        stream: TextIO,
        clock: Callable[[], float],
        timer: Callable[[], float],
        fields: Mapping[str, int],
    ) -> None:
        self._fields = fields
        self.level = _LEVELS[level]
        self.writer = LineWriter(stream)
        self._clock = clock
        self._limit = RepeatLimit(timer)
        self._console = (
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False) if format == "console" else None
        )

    def emit(self, room: str, method: str, event: EventDict) -> None:
        if _LEVELS.get(method, 20) < self.level:
            return
        held_back = self._limit.admit(room, str(event.get("event", "")))
        if held_back is None:
            return
        if held_back:
            event["held_back"] = held_back
        event = structlog.processors.format_exc_info(None, method, event)
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = "warning" if method == "warn" else "error" if method == "exception" else method
        line = {"timestamp": at, "level": level, "room": room, **self._fields, **redact(event)}
        if self._console is not None:
            self.writer.write(str(self._console(None, method, line)))
        else:
            self.writer.write(msgspec.json.encode(line, enc_hook=str).decode())


_pipeline: _Pipeline | None = None


class _Sink:
    """The end of a room's logger: hands each event to the pipeline of the moment."""

    def __init__(self, room: str) -> None:
        self._room = room
        self._standard = logging.getLogger(f"amaru.{room}")

    def _process(self, _: object, method: str, event: EventDict) -> str:
        if _pipeline is not None:
            _pipeline.emit(self._room, method, event)
        else:
            level = _LEVELS.get(method, 20)
            if self._standard.isEnabledFor(level):
                fields = redact(structlog.processors.format_exc_info(None, method, event))
                name = fields.pop("event", "")
                self._standard.log(level, "%s", " ".join([str(name), *(f"{k}={v}" for k, v in fields.items())]))
        raise structlog.DropEvent


def get_logger(room: str) -> FilteringBoundLogger:
    """The logger of a room; may be made before ``configure``, and follows it."""
    sink = _Sink(room)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[sink._process], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return logger


class _StandardHandler(logging.Handler):
    """Takes what libraries log through the standard library along, with the same redaction and limits."""

    def emit(self, record: logging.LogRecord) -> None:
        if _pipeline is None:
            return
        # The message's template is the event, so that repeats of it are counted as one.
        event: EventDict = {"event": str(record.msg), "logger": record.name}
        message = record.getMessage()
        if message != event["event"]:
            event["message"] = message
        if record.exc_info:
            event["exc_info"] = record.exc_info
        _pipeline.emit("library", record.levelname.lower(), event)


_handler = _StandardHandler()


def configure(
    level: Level = "info",
    format: Format = "json",
    stream: TextIO | None = None,
    *,
    clock: Callable[[], float] = time.time,
    timer: Callable[[], float] = time.monotonic,
    fields: Mapping[str, int] = MappingProxyType({}),
) -> LineWriter:
    """Send every room's events, and other libraries' warnings, to ``stream`` (standard error by default).

    Every line has ``fields`` too. Replaces what an earlier call set up. Returns the writer, whose ``dropped`` is a
    metric; close it at the end.
    """
    global _pipeline
    previous, _pipeline = _pipeline, _Pipeline(level, format, stream or sys.stderr, clock, timer, fields)
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
    _handler.setLevel(max(_LEVELS[level], logging.WARNING))
    if previous is not None:
        previous.writer.close()
    return _pipeline.writer


def unconfigure() -> None:
    """Undo ``configure``: write what waits, and leave events to the standard library again."""
    global _pipeline
    previous, _pipeline = _pipeline, None
    logging.getLogger().removeHandler(_handler)
    if previous is not None:
        previous.writer.close()
