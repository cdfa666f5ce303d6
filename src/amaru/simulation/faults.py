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

Faults of the answer itself break nothing on the wire: a renamed, null or missing field (``field``, a path such as
``choices[].message.content``, in streams of each event's ``delta``), an envelope around all of it, a whole answer in a
stream's place, a text that repeats itself, or none.

With ``ramp_s`` a fault comes slowly: from nothing, when it is switched on, to its full size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from amaru.domain import Price
from amaru.simulation.fault_errors import ERROR_CODES, ERROR_STATUSES, ErrorShape, error_body

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
    "renamed_field",  # `field` of the answer is called `to`
    "null_field",  # `field` of the answer is null
    "missing_field",  # `field` of the answer is not there
    "wrapped_answer",  # the answer, or each event's part of it, stands in a field `to`, beside a status
    "unstreamed",  # a whole answer where a stream was asked for
    "repeated_text",  # a few words over and over, whatever was asked
    "empty_text",  # a 200 without a word
    "price",  # another price, on the bill from now on
    "capacity",  # another capacity
]
Point = Literal["connect", "head", "half_head", "first_byte", "mid", "last", "done"]
Garbage = Literal["json", "empty", "missing_field", "null_choices", "html"]
RetryAfter = Literal["seconds", "date", "ms"]
How = Literal["end", "close", "rst"]

KINDS: tuple[str, ...] = get_args(FaultKind)
FIELD_EDITS: tuple[FaultKind, ...] = ("renamed_field", "null_field", "missing_field")
TEXT_EDITS: tuple[FaultKind, ...] = ("repeated_text", "empty_text")
EDITS = (*FIELD_EDITS, *TEXT_EDITS, "wrapped_answer", "unstreamed")
"""Kinds that change what an answer says, or its shape, and leave the connection alone."""

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
    **dict.fromkeys(EDITS, ("head",)),
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
    field: str = "choices[].message.content"
    """For the kinds that change a field: where it stands in a whole answer; in streams ``message`` is ``delta``."""
    to: str | None = None
    """For ``renamed_field``: its other name, ``text`` by default; for ``wrapped_answer``: the field, ``data``."""
    error_shape: ErrorShape = "openai"
    """How an error is written: ``openai``, or as others do."""
    version: str | None = None
    """Only requests under this path, such as ``v1``; another version of the API goes on as ever."""
    ramp_s: float | None = None
    """How long it takes to reach its full size: of ``slow`` the factor and the delay, of others the probability."""

    def __post_init__(self) -> None:
        if self.at is not None and self.at not in POINTS[self.kind]:
            raise ValueError(
                f"a {self.kind} fault cannot strike at {self.at}; it can at {', '.join(POINTS[self.kind])}"
            )
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, got {self.times}; leave it out for every request")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, got {self.probability}")
        for name in ("duration_s", "stall_s", "retry_after_s", "delay_ms", "after_events", "ramp_s"):
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
        if self.kind in ("refuse", "price", "capacity") and self.ramp_s is not None:
            raise ValueError(f"a {self.kind} fault is there or not, so it has no ramp_s")
        if self.version is not None and (self.kind in ("price", "capacity") or self.point == "connect"):
            raise ValueError(f"a {self.kind} fault at {self.point} does not know the version of a request's path")
        if self.kind in FIELD_EDITS and not all(part.removesuffix("[]") for part in self.field.split(".")):
            raise ValueError(f"field must be a path such as choices[].message.content, got {self.field!r}")
        if self.kind == "refuse" and (self.times is not None or self.probability < 1):
            raise ValueError("a refuse fault closes the port, so it cannot count or draw requests; use duration_s")

    @property
    def point(self) -> Point:
        """Where it strikes."""
        return self.at or _DEFAULT_POINT.get(self.kind) or POINTS[self.kind][0]

    @property
    def name(self) -> str:
        """What the field is called that it makes."""
        return self.to or ("data" if self.kind == "wrapped_answer" else "text")

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

    def error_body(self) -> bytes:
        """The body that tells its error, in its shape."""
        return error_body(self.error()[1], self.error_shape)

    def describe(self) -> str:
        """In words, for people."""
        words = self._words()
        if self.version is not None:
            words += f" under /{self.version}"
        if self.ramp_s is not None:
            words += f", more and more over {self.ramp_s:g} s"
        return words + (f", {self.probability:.0%} of the time" if self.probability < 1 else "")

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
            "renamed_field": f"calls {self.field} {self.name}",
            "null_field": f"sends null for {self.field}",
            "missing_field": f"leaves out {self.field}",
            "wrapped_answer": f"puts its answers into a field {self.name}",
            "unstreamed": "answers whole where a stream is asked for",
            "repeated_text": "repeats a few words over and over",
            "empty_text": "answers without a word",
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
