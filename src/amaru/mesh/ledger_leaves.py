"""The leaves of decisions, as they are made while their callers wait.

``receipts.leaf_of`` takes some fifty microseconds: it checks, sorts and walks whatever a receipt holds. What is logged
for every request is written here by msgspec in one go: structs whose fields stand in RFC 8785's order, and figures that
both write alike. A property test holds these leaves equal to what ``leaf_of`` writes of the same receipt.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, UnsetType

from amaru.domain import Attempt
from amaru.ledger.canonical import canonical
from amaru.routing.ranking import Ranking

if TYPE_CHECKING:
    from amaru.mesh.execution import Execution

COMPONENT = "ai-mesh"
"""What these receipts are about."""
MOST_OFFERS = 16
"""Of a ranking: the best; and of attempts, the first. A leaf has to fit into 64 KiB."""
_MAX_INTEGER = (1 << 53) - 1

Number = int | float | Raw


class _Tried(msgspec.Struct, gc=False):
    """``receipts.Tried``; as all here, in the order of RFC 8785, and what is ``UNSET`` is left out."""

    failure: str | UnsetType
    latency_ms: Number | UnsetType
    offer: str


class _Served(msgspec.Struct, gc=False):
    """``receipts.Served``."""

    attempts: Sequence[_Tried] | UnsetType
    cost_usd: Number
    failure: str | UnsetType
    first_token_ms: Number | UnsetType
    input_tokens: int | UnsetType
    latency_ms: Number
    offer: str | UnsetType
    ok: bool
    output_tokens: int | UnsetType
    status: int
    usage_source: str | UnsetType


class _Decision(msgspec.Struct, gc=False):
    """``receipts.Decision``."""

    at: str
    board: str
    component: str
    explored: bool | UnsetType
    kind: str
    offers: Sequence[str] | UnsetType
    outcome: _Served | UnsetType
    policy: str
    prompt: str | UnsetType
    propensity: Number
    ref: str
    resource: str
    tenant: str
    type: str
    v: int


class _Outcome(msgspec.Struct, gc=False):
    """``receipts.Outcome``."""

    at: str
    component: str
    outcome: _Served
    ref: str
    type: str
    v: int


_encode = msgspec.json.Encoder().encode


class Instants:
    """Instants as receipts write them; the second is put into words once."""

    __slots__ = ("_second", "_words")

    def __init__(self) -> None:
        self._second = -1
        self._words = ""

    def __call__(self, at: float) -> str:
        """``at``, Unix seconds, between the years 1970 and 9999."""
        second, micros = divmod(round(at * 1e6), 1_000_000)
        if second != self._second:
            self._words = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._words}.{micros:06d}Z"


class Marker:
    """What stands for a prompt: HMAC-SHA-256 (RFC 2104), with the two states that every one begins with made once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, salt: bytes) -> None:
        key = salt.ljust(64, b"\0")  # a salt is never longer than SHA-256's block
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def __call__(self, text: bytes | Raw) -> str:
        """The mark of a text."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return f"hmac-sha256:{outer.hexdigest()}"


def decision_leaf(
    ranking: Ranking, decision_id: str, at: str, prompt: str | UnsetType, outcome: _Served | UnsetType
) -> bytes:
    """The leaf of a decision, recorded ``at``."""
    workload, offers = ranking.workload, ranking.board.offers
    return _encode(
        _Decision(
            at,
            ranking.version,
            COMPONENT,
            True if ranking.explored else UNSET,
            workload.kind,
            [offers[row].id for row in ranking.order[:MOST_OFFERS]] or UNSET,
            outcome,
            ranking.policy,
            prompt,
            number(ranking.propensity),
            decision_id,
            workload.resource,
            workload.tenant,
            "decision",
            1,
        )
    )


def outcome_leaf(execution: Execution, at: str, latency_ms: float) -> bytes:
    """The leaf of what became of a stream, recorded ``at``."""
    return _encode(_Outcome(at, COMPONENT, served(execution, latency_ms), execution.id, "outcome", 1))


def served(execution: Execution, latency_ms: float) -> _Served:
    """What became of an execution. Its one attempt says no more than this, where it went well."""
    attempts, usage, failure = execution.attempts, execution.usage, execution.failed_by
    first_token_ms = execution.first_token_ms
    alone = len(attempts) == 1 and attempts[0].failure is None
    return _Served(
        UNSET if alone or not attempts else [_tried(attempt) for attempt in attempts[:MOST_OFFERS]],
        _usd(execution.cost),
        UNSET if failure is None else failure,
        UNSET if first_token_ms is None else number(round(first_token_ms, 3)),
        UNSET if usage is None else usage.input_tokens,
        number(round(latency_ms, 3)),
        attempts[-1].offer if attempts else UNSET,
        execution.ok,
        UNSET if usage is None else usage.output_tokens,
        execution.status,
        UNSET if usage is None else usage.source,
    )


def _tried(attempt: Attempt) -> _Tried:
    return _Tried(
        UNSET if attempt.failure is None else attempt.failure,
        number(round(attempt.latency_ms, 3)) or UNSET,
        attempt.offer,
    )


def number(value: float) -> Number:
    """A figure that msgspec writes as RFC 8785 does; raises LedgerError for one that JSON has no word for."""
    size = abs(value)
    if size < 1e15:
        whole = int(value)
        if whole == value:
            return whole
        if size >= 1e-4:  # without an exponent in both
            return value
    return Raw(canonical(value))


def _usd(value: float) -> Number:
    """A cost to a billionth of a dollar; most are small, and written here where ``canonical`` takes its time."""
    value = round(value, 9)
    if 1e-6 <= value < 1e-4:
        return Raw((b"%.9f" % value).rstrip(b"0"))
    return number(value)
