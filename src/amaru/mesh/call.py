"""What the gateway hands to the mesh, and what a caller is told when nothing could answer."""

from __future__ import annotations

import msgspec

from amaru.domain import Attempt, Capability, FailureKind, Kind, Rescue, Tenant, Workload
from amaru.errors import Failure, RequestError
from amaru.protocols.openai import Hold, OpenAIRequest
from amaru.routing.conversation import Conversation
from amaru.routing.reactions import reaction_to

DEFAULT_OUTPUT_TOKENS = 256
"""What an answer is taken to hold where the caller set no limit; it only mixes the unit price."""

NEEDS: dict[Capability, Capability] = {
    needs: needs & ~Capability.PREFILL for needs in map(Capability, range(2 * Capability.PREFILL))
}
"""What a request's needs mean for routing. A table, since operators of ``IntFlag`` cost most of a microsecond each."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """What the gateway hands to the mesh: a parsed request and who sent it. Instants are ``clock()`` seconds."""

    tenant: Tenant
    request: OpenAIRequest
    arrived_at: float
    region: str | None = None
    session: str | None = None
    """The caller's name for the conversation that the request belongs to."""
    conversation_key: bytes = b""
    conversation: Conversation | None = None
    """What is remembered of it; see ``Conversations.recall``."""
    request_bytes: int = 0
    deadline_s: float | None = None
    """The caller's own deadline; the configured one bounds it."""
    rescue: Rescue | None = None
    """The caller's own wish; ``None``: its tenant's."""
    team: str | None = None
    key: str | None = None
    """The lineage of a key of the accounts' store."""


def workload_of(call: Call) -> Workload:
    """What a parsed request asks for. A trailing assistant message needs no prefill: providers accept it as history."""
    request, tenant = call.request, call.tenant
    limit = request.max_output_tokens
    return Workload(
        tenant=tenant.id,
        kind=request.kind,
        resource=request.model,
        region=call.region,
        input_tokens=request.input_tokens_estimate,
        output_tokens=0 if request.kind is Kind.EMBEDDING else (limit if limit is not None else DEFAULT_OUTPUT_TOKENS),
        needs=NEEDS[request.needs],
        limits=tenant.limits,
        weights=tenant.weights,
        session=call.session,
    )


def as_held(call: Call) -> OpenAIRequest:
    """The request, held back to its end where its caller, or else its tenant, prefers that."""
    request = call.request
    wish = call.rescue if call.rescue is not None else call.tenant.rescue
    if wish is Rescue.HOLD and request.stream:
        return msgspec.structs.replace(request, hold=Hold.ALL)
    return request


def caller_error(failure: Failure, attempts: list[Attempt], soonest_s: float | None, *, begun: bool) -> RequestError:
    """What the caller is told when ``attempts`` came to nothing, by ``failure``, and nothing else may be tried.

    ``begun``: it has a part of the answer already.
    """
    reaction = reaction_to(failure)
    if reaction.caller_status in (None, 400):  # the caller's to mend, in the provider's words
        status = failure.status if failure.status is not None and 400 <= failure.status < 500 else 400
        code = "context_length_exceeded" if failure.kind is FailureKind.CONTEXT_TOO_LONG else failure.kind.value
        return RequestError(reaction.caller_status or status, failure.message, code=code, body=failure.body)
    tried = "; ".join(f"{a.offer}: {a.failure or a.joined}" for a in attempts)
    what = "The answer broke off, and no provider could go on with it" if begun else "No provider could answer"
    retry_after_s = soonest_s if soonest_s is not None else failure.retry_after_s
    status = reaction.caller_status
    return RequestError(
        status,
        f"{what} ({tried}). The decision's page tells why each was chosen and how it failed.",
        type="rate_limit_error" if status == 429 else "api_error",
        code=failure.kind.value,
        retry_after_s=retry_after_s,
    )
