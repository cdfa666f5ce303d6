"""Faults of a simulated provider: what can go wrong, where in a request, how often and for how long.

Each row of the failure taxonomy (DESIGN.md) can be produced, and each at the points of a request where it happens to
real providers. The words of the two axes:

==============  ===================================================================================================
``at``          where it strikes
``connect``     before the request is read
``head``        before any byte of the answer
``half_head``   in the middle of the status line and headers
``first_byte``  after the head, before the first event (or the first byte of a whole body)
``mid``         after ``after_events`` events (or half the body)
``last``        before the last chunk, the one with the finish reason (or the last byte)
``done``        instead of ``[DONE]``
``how``         how the answer ends then
``end``         the body ends by the rules of HTTP, so only its content tells
``close``       the connection is closed (FIN) before the body is whole
``rst``         the connection is reset (RST)
==============  ===================================================================================================

A ``garbage`` or ``truncated_utf8`` event takes the place of an event, and the stream goes on behind it unless ``how``
is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import msgspec

from amaru.domain import Price

FaultKind = Literal[
    "refuse",  # the port is closed: connections are refused
    "reset",  # the connection is reset or closed before the answer is whole or begun
    "hang",  # accepts, reads, never answers
    "slow",  # every latency times `factor`, and `delay_ms` before the first token
    "status",  # an error status, with OpenAI's error object
    "error_in_200",  # status 200, and an error object for an answer
    "error_in_stream",  # an error object as an event of the stream
    "cut",  # the answer ends early
    "stall",  # the answer stops, the connection stays
    "garbage",  # an event or a body that cannot be read
    "no_done",  # a whole stream without its [DONE]
    "truncated_utf8",  # an event or a body that ends within a character
    "keepalive_only",  # nothing but SSE comments (or blank lines) from here on
    "price",  # another price, on the bill from now on
    "capacity",  # another capacity
]
Point = Literal["connect", "head", "half_head", "first_byte", "mid", "last", "done"]
Garbage = Literal["json", "empty", "missing_field", "null_choices", "html"]
RetryAfter = Literal["seconds", "date", "ms"]
How = Literal["end", "close", "rst"]

KINDS: tuple[str, ...] = get_args(FaultKind)

_IN_BODY: tuple[Point, ...] = ("first_byte", "mid", "last", "done")
POINTS: dict[str, tuple[Point, ...]] = {
    "refuse": ("connect",),
    "reset": ("connect", "head", "half_head", "first_byte", "mid", "last", "done"),
    "hang": ("connect", "head", "half_head"),
    "slow": ("head",),
    "status": ("head",),
    "error_in_200": ("first_byte",),
    "error_in_stream": _IN_BODY,
    "cut": _IN_BODY,
    "stall": _IN_BODY,
    "garbage": _IN_BODY,
    "no_done": ("done",),
    "truncated_utf8": _IN_BODY,
    "keepalive_only": _IN_BODY,
    "price": ("head",),
    "capacity": ("head",),
}
"""Where each kind can strike; the first is where it strikes unless told, except that what belongs inside a stream
strikes in its middle."""

_DEFAULT_POINT: dict[str, Point] = {
    "reset": "head",
    "hang": "head",
    **dict.fromkeys(("error_in_stream", "cut", "stall", "garbage", "truncated_utf8", "keepalive_only"), "mid"),
}

_WHERE: dict[Point, str] = {
    "connect": "at once",
    "head": "before the answer",
    "half_head": "inside the head",
    "first_byte": "before the first token",
    "mid": "half-way",
    "last": "before the end",
    "done": "before [DONE]",
}

# OpenAI's error codes with the status and the type that come with them.
ERROR_CODES: dict[str, tuple[int, str, str]] = {
    "insufficient_quota": (429, "insufficient_quota", "You exceeded your current quota, please check your plan."),
    "rate_limit_exceeded": (429, "requests", "Rate limit reached for requests. Please try again later."),
    "context_length_exceeded": (400, "invalid_request_error", "This model's maximum context length is exceeded."),
    "content_policy_violation": (400, "invalid_request_error", "Your request was rejected by our safety system."),
    "invalid_api_key": (401, "invalid_request_error", "Incorrect API key provided."),
    "model_not_found": (404, "invalid_request_error", "The model does not exist or you do not have access to it."),
}
ERROR_STATUSES: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request could not be understood."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    402: ("billing_error", "payment_required", "Insufficient balance."),
    403: ("permission_error", "forbidden", "Your key may not use this."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", None, "The server had an error while processing your request."),
    502: ("server_error", None, "Bad gateway."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
    504: ("server_error", None, "Gateway time-out."),
    529: ("overloaded_error", None, "Overloaded."),
}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that goes wrong.

    It strikes every request that it concerns, for good, unless ``times``, ``duration_s`` or ``probability`` bound it.

    Raises
    ------
    ValueError
        Fields that do not go together; the message names them and what would do.
    """

    kind: FaultKind
    at: Point | None = None
    """Where it strikes; ``None``: where this kind usually does."""
    after_events: int = 2
    """For ``at: mid``: how many content events go out before it."""
    how: How | None = None
    """How the answer ends; ``None``: ``reset`` and ``cut`` by RST, the others by the rules of HTTP, or not at all."""
    times: int | None = None
    """How many requests it strikes; ``None``: all."""
    duration_s: float | None = None
    """How long it stays switched on; ``None``: for good."""
    probability: float = 1.0
    only: Literal["stream", "whole"] | None = None
    """Only streamed, or only whole answers."""
    model: str | None = None
    under_way: bool = False
    """Also strikes answers that are already on their way when it is switched on."""
    status: int | None = None
    """For ``status``, ``error_in_200``, ``error_in_stream``: 503 unless ``code`` says otherwise."""
    code: str | None = None
    """OpenAI's error code, such as ``insufficient_quota``; it brings its usual status."""
    message: str | None = None
    retry_after: RetryAfter | None = None
    """Form of the Retry-After header of a ``status``; ``None``: no header."""
    retry_after_s: float = 1.0
    factor: float = 10.0
    """For ``slow``."""
    delay_ms: float = 0.0
    """For ``slow``: added to the first token."""
    stall_s: float | None = None
    """For ``stall`` and ``hang``: how long; ``None``: until the other side gives up."""
    garbage: Garbage = "json"
    price: Price | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        if self.at is not None and self.at not in POINTS[self.kind]:
            raise ValueError(
                f"a {self.kind} fault cannot strike at {self.at}; it can at {', '.join(POINTS[self.kind])}"
            )
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, got {self.times}; leave it out for every request")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, got {self.probability}")
        for name in ("duration_s", "stall_s", "retry_after_s", "delay_ms", "after_events"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if self.factor <= 0:
            raise ValueError(f"factor must be above 0, got {self.factor}")
        if self.kind == "price" and self.price is None:
            raise ValueError("a price fault needs `price`, such as {input_usd_per_mtok: 1, output_usd_per_mtok: 2}")
        if self.kind == "capacity" and (self.capacity is None or self.capacity < 1):
            raise ValueError("a capacity fault needs `capacity`, at least 1")
        if self.status is not None and self.kind == "status" and not 400 <= self.status <= 599:
            raise ValueError(f"status must lie between 400 and 599, got {self.status}")
        if self.kind == "refuse" and (self.times is not None or self.probability < 1):
            raise ValueError("a refuse fault closes the port, so it cannot count or draw requests; use duration_s")

    @property
    def point(self) -> Point:
        """Where it strikes."""
        return self.at or _DEFAULT_POINT.get(self.kind) or POINTS[self.kind][0]

    def error(self) -> tuple[int, dict[str, object]]:
        """Its HTTP status, and OpenAI's error object."""
        if self.code in ERROR_CODES:
            status, type, words = ERROR_CODES[self.code]
            code: str | None = self.code
            status = self.status or status
        else:
            status = self.status or 503
            type, code, words = ERROR_STATUSES.get(status, ("server_error", None, "Something went wrong."))
            code = self.code or code
        return status, {"message": self.message or words, "type": type, "param": None, "code": code}

    def describe(self) -> str:
        """In words, for people."""
        return self._words() + (f", {self.probability:.0%} of the time" if self.probability < 1 else "")

    def _words(self) -> str:
        words = {
            "refuse": "refuses connections",
            "reset": f"resets connections {_WHERE[self.point]}",
            "hang": "accepts and never answers",
            "slow": f"answers {self.factor:g} times slower",
            "error_in_200": "answers 200 with an error object",
            "error_in_stream": "breaks streams with an error event",
            "cut": f"cuts answers off {_WHERE[self.point]}",
            "stall": f"falls silent {_WHERE[self.point]}",
            "garbage": f"sends garbage ({self.garbage}) {_WHERE[self.point]}",
            "no_done": "ends streams without [DONE]",
            "truncated_utf8": "sends half a character",
            "keepalive_only": "sends keep-alives and nothing else",
        }
        if self.kind == "status":
            status, error = self.error()
            return f"answers {status} ({error['code'] or error['type']})"
        if self.kind == "price" and self.price is not None:
            return f"charges ${self.price.input_usd_per_mtok:g}/${self.price.output_usd_per_mtok:g} per million tokens"
        return f"capacity becomes {self.capacity}" if self.kind == "capacity" else words[self.kind]


class Incident(Fault, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fault with its place in a script: which provider, and when (seconds since the script began)."""

    provider: str
    at_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_s < 0:
            raise ValueError(f"at_s must be at least 0, got {self.at_s}")

    @property
    def fault(self) -> Fault:
        """The fault alone."""
        return Fault(**{name: getattr(self, name) for name in Fault.__struct_fields__})


class ActiveFault:
    """A fault that is switched on. ``id`` names it, ``hits`` counts the requests it struck."""

    __slots__ = ("fault", "hits", "id", "since", "until")

    def __init__(self, id: str, fault: Fault, since: float) -> None:
        self.id = id
        self.fault = fault
        self.since = since
        self.until = None if fault.duration_s is None else since + fault.duration_s
        self.hits = 0

    def over(self, now: float) -> bool:
        """Whether its time or its number of strikes is used up."""
        times = self.fault.times
        return (self.until is not None and now >= self.until) or (times is not None and self.hits >= times)


class Plan:
    """What the faults do to one request: where it goes on slower, and where it breaks."""

    __slots__ = ("breaks", "delay_ms", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self.delay_ms = 0.0
        self.breaks: dict[Point, Fault] = {}


class Faults:
    """The faults of one provider.

    ``on_change`` is called after every change, so that the server can open and close its port. ``clock`` is the
    provider's; ``rng`` draws for faults with a probability.
    """

    def __init__(
        self, clock: Callable[[], float], rng: random.Random, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._active: dict[str, ActiveFault] = {}
        self._made = 0
        self.generation = 0
        """Rises with every fault switched on; answers under way look again when it does."""

    def add(self, fault: Fault) -> ActiveFault:
        """Switch ``fault`` on, from now."""
        self._made += 1
        active = ActiveFault(f"f{self._made}", fault, self._clock())
        self._active[active.id] = active
        self.generation += 1
        self._on_change()
        return active

    def remove(self, id: str) -> bool:
        """Switch one off; False where there is none of that id."""
        found = self._active.pop(id, None) is not None
        if found:
            self._on_change()
        return found

    def clear(self) -> None:
        """Switch all off."""
        self._active.clear()
        self._on_change()

    def active(self) -> list[ActiveFault]:
        """Those switched on now, oldest first."""
        now = self._clock()
        for id in [id for id, active in self._active.items() if active.over(now)]:
            del self._active[id]
        return list(self._active.values())

    def of_kind(self, kind: FaultKind) -> Fault | None:
        """The newest active fault of ``kind``: how the lasting kinds (refuse, price, capacity) are asked for."""
        if not self._active:
            return None
        return next((active.fault for active in reversed(self.active()) if active.fault.kind == kind), None)

    def strike_connection(self) -> Fault | None:
        """The fault that strikes a connection being opened, counted as a hit; ``None``: none does."""
        if not self._active:
            return None
        for active in self.active():
            fault = active.fault
            if fault.point == "connect" and fault.kind != "refuse" and self._drawn(fault):
                active.hits += 1
                return fault
        return None

    def plan(self, *, model: str, stream: bool, since: int | None = None) -> Plan | None:
        """What strikes a request for ``model``; each fault that does is counted as a hit. ``None``: nothing does.

        ``since`` is the generation that an answer under way has seen: only newer faults that strike answers under way
        are looked at. Where two faults break a request at one point, the older does.
        """
        if not self._active:
            return None
        plan: Plan | None = None
        for active in self.active():
            fault = active.fault
            if since is not None and (int(active.id[1:]) <= since or not fault.under_way):
                continue
            if fault.point == "connect" or fault.kind in ("price", "capacity"):
                continue
            if not _concerns(fault, model, stream) or not self._drawn(fault):
                continue
            plan = plan or Plan()
            if fault.kind == "slow":
                plan.factor *= fault.factor
                plan.delay_ms += fault.delay_ms
            elif fault.point in plan.breaks:
                continue
            else:
                plan.breaks[fault.point] = fault
            active.hits += 1
        return plan

    def _drawn(self, fault: Fault) -> bool:
        return fault.probability >= 1 or self._rng.random() < fault.probability


def _concerns(fault: Fault, model: str, stream: bool) -> bool:
    if fault.only is not None and (fault.only == "stream") is not stream:
        return False
    if fault.kind in ("no_done", "error_in_stream") and not stream:
        return False
    return fault.model is None or fault.model == model


def checked(incidents: Iterable[Incident], providers: Iterable[str]) -> list[Incident]:
    """The incidents in order of time.

    Raises
    ------
    ValueError
        An incident names a provider that is not simulated.
    """
    known = list(providers)
    script = sorted(incidents, key=lambda incident: incident.at_s)
    for incident in script:
        if incident.provider not in known:
            raise ValueError(f"incident at {incident.at_s:g} s: no provider {incident.provider!r}; there are {known}")
    return script
