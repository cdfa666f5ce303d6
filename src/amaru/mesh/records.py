"""From an execution to its stored record, and from a stored record back to what people read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from amaru.domain import Decision, Offer
from amaru.routing.explanation import explain_packed
from amaru.routing.ranking import Ranking, pack
from amaru.storage import DecisionRecord, StoredDecision

if TYPE_CHECKING:
    from amaru.mesh.execution import Execution


def session_hash(salt: bytes, session: str | None) -> str | None:
    """What stands for a conversation's name where it must be recognised again (law 4): a salted HMAC-SHA-256."""
    return None if session is None else hmac.new(salt, session.encode(), hashlib.sha256).hexdigest()[:32]


def record_of_execution(execution: Execution) -> DecisionRecord:
    """The record of one served (or failed) request."""
    ranking, usage = execution.ranking, execution.usage
    call, workload = execution.call, execution.workload
    return DecisionRecord(
        id=execution.id,
        at=execution.at,
        tenant=workload.tenant,
        kind=workload.kind,
        resource=workload.resource,
        policy=ranking.policy,
        board_version=ranking.version,
        ranking=pack(ranking),
        propensity=ranking.propensity,
        explored=ranking.explored,
        ok=execution.ok,
        offer=execution.offer,
        failure=execution.failed_by,
        status=execution.status,
        latency_ms=execution.duration_s * 1e3,
        first_token_ms=execution.first_token_ms,
        input_tokens=usage.input_tokens if usage is not None else None,
        cached_input_tokens=usage.cached_input_tokens if usage is not None else None,
        output_tokens=usage.output_tokens if usage is not None else None,
        usage_source=usage.source if usage is not None else None,
        cost_usd=execution.cost,
        session=session_hash(execution.mesh.conversations.salt, call.session),
        stream=call.request.stream,
        request_bytes=call.request_bytes,
        attempts=tuple(execution.attempts),
        team=call.team,
        key=call.key,
    )


def record_of_recommendation(ranking: Ranking, decision_id: str, at: float) -> DecisionRecord:
    """The record of a decision that amaru does not carry out itself."""
    workload = ranking.workload
    return DecisionRecord(
        id=decision_id,
        at=at,
        tenant=workload.tenant,
        kind=workload.kind,
        resource=workload.resource,
        policy=ranking.policy,
        board_version=ranking.version,
        ranking=pack(ranking),
        propensity=ranking.propensity,
        explored=ranking.explored,
    )


def decision_of(record: DecisionRecord, offers: Sequence[Offer]) -> Decision:
    """The stored decision in words, from the offers of its board."""
    return explain_packed(offers, record.board_version, record.ranking, record.id, record.at)


def summary_of(record: DecisionRecord) -> dict[str, Any]:  # Any: JSON
    """The outcome of a decision without its ranking: one line of a page."""
    fields: dict[str, Any] = msgspec.to_builtins(record, str_keys=True, builtin_types=(bytes,))
    del fields["ranking"]
    return fields


def page_of(stored: StoredDecision, offers: Sequence[Offer] | None) -> dict[str, Any]:  # Any: JSON
    """Everything known of one decision: what was ranked and refused and why, what was tried, what came of it."""
    record = stored.record
    page: dict[str, Any] = {"id": record.id, "at": record.at, "tenant": record.tenant, "kind": record.kind}
    page |= {"team": record.team, "key": record.key}
    if offers is None:
        page["ranked"] = None
        page["note"] = "The offers of that time are no longer kept, so the ranking cannot be explained."
    else:
        page |= msgspec.to_builtins(decision_of(record, offers))
    page["outcome"] = None
    if record.ok is not None:
        page["outcome"] = {
            "ok": record.ok,
            "status": record.status,
            "failure": record.failure,
            "offer": record.offer,
            "stream": record.stream,
            "latency_ms": record.latency_ms,
            "first_token_ms": record.first_token_ms,
            "input_tokens": record.input_tokens,
            "cached_input_tokens": record.cached_input_tokens,
            "output_tokens": record.output_tokens,
            "usage_source": record.usage_source,
            "cost_usd": record.cost_usd,
        }
    page["attempts"] = msgspec.to_builtins(record.attempts)
    page["feedback"] = stored.feedback
    page["pending"] = stored.pending
    return page
