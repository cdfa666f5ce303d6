"""The faults of the fault matrix: every failure at every point of a request, in the variants that matter.

A ``Case`` is one fault of the simulated providers (`amaru.simulation.faults`, which explains kinds and points). All
kinds and points are here that make a request fail; left out are

- ``price`` and ``capacity``, which break no request;
- for whole answers, the point ``done`` (they have none), and all but one point of what replaces the body as a whole;
- an empty event in the place of any but ``[DONE]``: nobody behind such a provider could know what is missing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

from amaru.domain import FailureKind
from amaru.simulation.faults import POINTS, Fault, FaultKind, Garbage, How, Point

MID_EVENTS = 8
"""Content events before a fault in the middle; the matrix's answers have about twenty."""
PAST_ANY_LIMIT_MS = 600_000.0

BROKEN_CODES = ("insufficient_quota", "invalid_api_key", "model_not_found", "payment_required", "forbidden")
"""What only an operator can mend: until then nobody may expect the provider to serve."""


class Way(enum.StrEnum):
    """How the answer is asked for."""

    WHOLE = "whole"
    STREAM = "stream"


class Case(msgspec.Struct, frozen=True):
    """One fault, with the words by which people tell it from its neighbours of the same kind and point."""

    fault: Fault
    variant: str
    ways: tuple[Way, ...] = tuple(Way)

    @property
    def name(self) -> str:
        """Kind, point and variant: ``cut-mid-FIN``."""
        return "-".join(part.replace(" ", "_") for part in (self.fault.kind, self.fault.point, self.variant) if part)

    @property
    def needs_operator(self) -> bool:
        """Whether the provider stays out until somebody mends a key, a quota or a model's name."""
        fault = self.fault
        if fault.kind not in ("status", "error_in_200", "error_in_stream"):
            return False
        return fault.error()[1]["code"] in BROKEN_CODES

    @property
    def waits(self) -> bool:
        """Whether a time limit of the gateway is what ends the wait for this provider."""
        return self.fault.kind in ("hang", "slow", "stall", "keepalive_only")


ENDS: dict[How, str] = {"end": "ends cleanly", "close": "FIN", "rst": "RST"}
_STREAM = (Way.STREAM,)
_WHOLE = (Way.WHOLE,)


def all_cases() -> tuple[Case, ...]:
    """The rows of the matrix."""
    return tuple(_cases())


def _cases() -> Iterator[Case]:
    yield Case(Fault(kind="refuse"), "")
    yield from _broken_connections()
    silences: tuple[FaultKind, ...] = ("hang", "stall", "keepalive_only")
    for kind in silences:
        for point in POINTS[kind]:
            fault = Fault(kind=kind, at=point, after_events=MID_EVENTS)
            if kind == "keepalive_only":
                yield Case(fault, "", tuple(Way) if point == "first_byte" else _STREAM)
            else:
                yield Case(fault, "", _ways_at(point))
    yield Case(Fault(kind="slow", factor=1.0, delay_ms=PAST_ANY_LIMIT_MS), "")
    yield from _statuses()
    yield from _error_objects()
    yield from _unreadable()


def _broken_connections() -> Iterator[Case]:
    both: tuple[How, ...] = ("rst", "close")
    for point in POINTS["reset"]:
        for how in both if point in ("connect", "head", "half_head") else both[:1]:
            fault = Fault(kind="reset", at=point, how=how, after_events=MID_EVENTS)
            yield Case(fault, ENDS[how], _ways_at(point))
    for point in POINTS["cut"]:
        for how in ENDS:
            if how == "rst":
                continue  # that is a reset
            fault = Fault(kind="cut", at=point, how=how, after_events=MID_EVENTS)
            yield Case(fault, ENDS[how], _ways_at(point))
    for how in ENDS:
        yield Case(Fault(kind="no_done", how=how), ENDS[how], _STREAM)


def _statuses() -> Iterator[Case]:
    for status in (500, 502, 504, 503, 529, 429):
        yield Case(Fault(kind="status", status=status), str(status))
    yield Case(Fault(kind="status", status=429, retry_after="ms", retry_after_s=0.2), "429 with retry-after-ms")
    yield Case(Fault(kind="status", status=429, retry_after="seconds", retry_after_s=1), "429 with Retry-After")
    # A date counts in whole seconds: two of them leave at least one.
    yield Case(Fault(kind="status", status=429, retry_after="date", retry_after_s=2), "429 with a date")
    yield Case(Fault(kind="status", status=503, retry_after="seconds", retry_after_s=1), "503 with Retry-After")
    for status in (401, 402, 403, 404):
        yield Case(Fault(kind="status", status=status), str(status))
    yield Case(Fault(kind="status", code="insufficient_quota"), "429 insufficient_quota")
    yield Case(Fault(kind="status", status=400), "400")
    for code in ("context_length_exceeded", "content_policy_violation"):
        yield Case(Fault(kind="status", code=code), f"400 {code}")


def _error_objects() -> Iterator[Case]:
    for status in (500, 503):
        yield Case(Fault(kind="error_in_200", status=status), str(status))
    for code in (
        "rate_limit_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "model_not_found",
        "context_length_exceeded",
        "content_policy_violation",
    ):
        yield Case(Fault(kind="error_in_200", code=code), code)
    for point in POINTS["error_in_stream"]:
        yield Case(Fault(kind="error_in_stream", at=point, status=500, after_events=MID_EVENTS), "500", _STREAM)
    for code in ("rate_limit_exceeded", "insufficient_quota", "context_length_exceeded", "content_policy_violation"):
        yield Case(Fault(kind="error_in_stream", at="mid", code=code, after_events=MID_EVENTS), code, _STREAM)


def _unreadable() -> Iterator[Case]:
    words: dict[Garbage, str] = {
        "json": "half an object",
        "html": "HTML",
        "missing_field": "no choices",
        "null_choices": "choices: null",
        "empty": "empty",
    }
    for garbage, variant in words.items():
        for point in POINTS["garbage"]:
            fault = Fault(kind="garbage", at=point, garbage=garbage, after_events=MID_EVENTS)
            if garbage != "empty":
                yield Case(fault, variant, tuple(Way) if point == "first_byte" else _STREAM)
            elif point in ("first_byte", "done"):
                yield Case(fault, variant, _WHOLE if point == "first_byte" else _STREAM)
    for point in POINTS["truncated_utf8"]:
        fault = Fault(kind="truncated_utf8", at=point, after_events=MID_EVENTS)
        yield Case(fault, "", tuple(Way) if point == "first_byte" else _STREAM)


def _ways_at(point: Point) -> tuple[Way, ...]:
    return _STREAM if point == "done" else tuple(Way)


def failure_kind_of(fault: Fault) -> FailureKind | None:
    """The row of the failure taxonomy (DESIGN.md) that an error object of ``fault`` means; ``None``: it has none."""
    if fault.kind not in ("status", "error_in_200", "error_in_stream"):
        return None
    status, error = fault.error()
    code = error["code"]
    by_code = {
        "context_length_exceeded": FailureKind.CONTEXT_TOO_LONG,
        "content_policy_violation": FailureKind.CONTENT_REJECTED,
        "insufficient_quota": FailureKind.QUOTA_EXHAUSTED,
        "payment_required": FailureKind.QUOTA_EXHAUSTED,
        "invalid_api_key": FailureKind.BAD_CREDENTIALS,
        "forbidden": FailureKind.BAD_CREDENTIALS,
        "model_not_found": FailureKind.UNKNOWN_MODEL,
        "rate_limit_exceeded": FailureKind.RATE_LIMITED,
    }
    if code in by_code:
        return by_code[str(code)]
    return {
        400: FailureKind.BAD_REQUEST,
        503: FailureKind.OVERLOADED,
        529: FailureKind.OVERLOADED,
    }.get(status, FailureKind.SERVER_ERROR)
