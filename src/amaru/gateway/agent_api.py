"""The agent API: scored recommendations without serving, and feedback on what came of them.

``POST /agent/route`` ranks every offer for a workload and names the constraint that refused each other one;
``/agent/route/batch`` does so for many; ``POST /route`` gives the best offer only; ``POST /agent/feedback`` reports
the outcome of a decision, exactly once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from amaru.domain import (
    Capability,
    Decision,
    FailureKind,
    Kind,
    Limits,
    Outcome,
    Provenance,
    RankedOffer,
    Refusal,
    Tenant,
    Usage,
    Weights,
    Workload,
)
from amaru.errors import RequestError, StorageError
from amaru.gateway.access import Access
from amaru.gateway.answers import Header, respond_error, respond_json, store_unavailable
from amaru.http1 import Request
from amaru.mesh import Mesh
from amaru.mesh.accounts import Caller
from amaru.mesh.accounts_outlook import Outlook, Prospects

MAX_BATCH = 1000
YIELD_EVERY = 16
LEAST_WEIGHT = 1e-9
"""Weights that are smaller in sum cannot be brought to 1: the division would overflow."""

_T = TypeVar("_T")
_Answer = Callable[[Request, Caller, Outlook | None], None]
_FIELD = re.compile(r"- at `\$\.([^`]+)`")

NonNegative = Annotated[float, Meta(ge=0.0, le=1e12)]
Tokens = Annotated[int, Meta(ge=0, le=10**9)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Need = Literal["stream", "tools", "vision", "json_schema", "prefill"]


class WeightsIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Preferences of this workload; what is left out counts 0. At least one must be positive (1e-9 or more)."""

    price: NonNegative = 0.0
    latency: NonNegative = 0.0
    reputation: NonNegative = 0.0
    availability: NonNegative = 0.0


class WorkloadIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A workload to find a provider for. Name a ``model`` (or alias) or a ``gpu_type``, not both."""

    workload_type: Name = "chat"
    """`chat`, `completion` or `embedding` for a model; any name of your own for GPU work."""
    model: Name | None = None
    gpu_type: Name | None = None
    region: Name | None = None
    gpu_hours: NonNegative = 1.0
    input_tokens: Tokens = 1000
    output_tokens: Tokens = 256
    needs: tuple[Need, ...] = ()
    max_price: NonNegative | None = None
    """USD per GPU-hour, or per million tokens at this workload's mix of input and output."""
    max_latency_ms: NonNegative | None = None
    min_reputation: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    regions: tuple[Name, ...] | None = None
    """Only offers in these regions."""
    weights: WeightsIn | None = None
    """In place of the tenant's own."""
    explain: bool = True
    """With the reason of each rank in words; `/decisions/{id}` has them in any case."""


class BatchIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 1,000 workloads."""

    workloads: Annotated[tuple[WorkloadIn, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class ErrorOut(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class BatchItemOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer of a batch, in the order asked: a decision, or the error of that workload."""

    decision: Decision | None = None
    receipt: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] = ""
    """Hash of the decision's receipt, as `x-amaru-receipt` names a single one; left out where none was taken."""
    error: ErrorOut | None = None


class BatchOut(msgspec.Struct, frozen=True):
    """The answers of a batch, in the order asked."""

    results: list[BatchItemOut]


class BestOut(msgspec.Struct, frozen=True):
    """The best offer for a workload."""

    decision_id: str
    best: RankedOffer
    refused: tuple[Refusal, ...]


class FeedbackIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a decision."""

    decision_id: Name
    ok: bool
    offer: Name | None = None
    """The offer that was used; the best-ranked one where left out."""
    failure: FailureKind | None = None
    latency_ms: NonNegative = 0.0
    first_token_ms: NonNegative | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cost_usd: NonNegative = 0.0


class FeedbackOut(msgspec.Struct, frozen=True):
    """The outcome was recorded."""

    decision_id: str
    recorded: bool = True


_workload_decoder = msgspec.json.Decoder(WorkloadIn)
_batch_decoder = msgspec.json.Decoder(BatchIn)
_feedback_decoder = msgspec.json.Decoder(FeedbackIn)


class AgentApi:
    """Serves the agent endpoints from a mesh."""

    def __init__(self, mesh: Mesh, access: Access) -> None:
        self._mesh = mesh
        self._access = access

    def route(self, request: Request) -> Coroutine[Any, Any, None] | None:
        """``POST /agent/route``."""
        return self._access.serve(request, self._route)

    def _route(self, request: Request, caller: Caller) -> Coroutine[Any, Any, None] | None:
        return self._answered(request, caller, self._ranked)

    def _ranked(self, request: Request, caller: Caller, outlook: Outlook | None) -> None:
        asked = decode(_workload_decoder, request.body)
        workload = workload_of(asked, caller.tenant)
        decision, receipt = self._mesh.recommend(caller.tenant, workload, words=asked.explain, outlook=outlook)
        respond_json(request, 200, decision, _named(receipt))

    async def batch(self, request: Request) -> None:
        """``POST /agent/route/batch``."""
        try:
            caller = await self._access.caller(request)
            batch = decode(_batch_decoder, request.body)
            outlook = await prospects.of(caller, self._mesh.plan) if (prospects := self._bound()) else None
        except RequestError as error:
            respond_error(request, error)
            return
        results = []
        for place, asked in enumerate(batch.workloads):
            if place % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)  # others' turn: a whole batch takes a tenth of a second
            try:
                workload = workload_of(asked, caller.tenant)
                decision, receipt = self._mesh.recommend(caller.tenant, workload, words=asked.explain, outlook=outlook)
                item = BatchItemOut(decision=decision, receipt=receipt.decode())
            except RequestError as error:
                item = BatchItemOut(error=ErrorOut(error.message, error.type, error.param, error.code))
            results.append(item)
        respond_json(request, 200, BatchOut(results))

    def best(self, request: Request) -> Coroutine[Any, Any, None] | None:
        """``POST /route``."""
        return self._access.serve(request, self._best)

    def _best(self, request: Request, caller: Caller) -> Coroutine[Any, Any, None] | None:
        return self._answered(request, caller, self._first)

    def _first(self, request: Request, caller: Caller, outlook: Outlook | None) -> None:
        workload = workload_of(decode(_workload_decoder, request.body), caller.tenant)
        decision, receipt = self._mesh.recommend(caller.tenant, workload, must_be_feasible=True, outlook=outlook)
        respond_json(request, 200, BestOut(decision.id, decision.ranked[0], decision.refused), _named(receipt))

    def _bound(self) -> Prospects | None:
        """What tells of budgets, where there are any."""
        prospects = self._mesh.prospects
        return prospects if prospects is not None and prospects.is_bound else None

    def _answered(self, request: Request, caller: Caller, answer: _Answer) -> Coroutine[Any, Any, None] | None:
        """Have ``answer`` answer: at once, unless what budgets have left must be asked for first."""
        prospects = self._bound()
        if prospects is not None:
            return self._answered_within(prospects, request, caller, answer)
        _answer(request, caller, answer, None)
        return None

    async def _answered_within(self, prospects: Prospects, request: Request, caller: Caller, answer: _Answer) -> None:
        try:
            outlook = await prospects.of(caller, self._mesh.plan)
        except RequestError as error:
            respond_error(request, error)
        else:
            _answer(request, caller, answer, outlook)

    async def feedback(self, request: Request) -> None:
        """``POST /agent/feedback``."""
        try:
            tenant = (await self._access.caller(request)).tenant
            report = decode(_feedback_decoder, request.body)
            await self._mesh.feedback(tenant, report.decision_id, _outcome_of(report, self._mesh.wall()))
            respond_json(request, 200, FeedbackOut(report.decision_id))
        except RequestError as error:
            respond_error(request, error)
        except StorageError as error:
            respond_error(request, store_unavailable(error))


def _answer(request: Request, caller: Caller, answer: _Answer, outlook: Outlook | None) -> None:
    try:
        answer(request, caller, outlook)
    except RequestError as error:
        respond_error(request, error)


def _named(receipt: bytes) -> list[Header]:
    return [(b"x-amaru-receipt", receipt)] if receipt else []


def decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    """The body as the decoder's type. Raises ``RequestError`` 400 that names the field and the mistake."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(400, f"The request body is not as expected: {error}", param=field_of(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            400, f"The request body is not valid JSON: {error}. Send one UTF-8 JSON object.", code="invalid_json"
        ) from None


def field_of(message: str) -> str | None:
    """The field at fault in a message of msgspec: `… - at `$.workloads[3].region`` names ``workloads[3].region``."""
    match = _FIELD.search(message)
    return match.group(1) if match else None


def workload_of(asked: WorkloadIn, tenant: Tenant) -> Workload:
    """The workload asked for, under the stricter of its own and the tenant's limits (law 10)."""
    if (asked.model is None) == (asked.gpu_type is None):
        raise RequestError(
            400, "Name either `model` (or an alias) or `gpu_type`, not both and not neither.", param="model"
        )
    if asked.gpu_type is not None:
        kind = Kind.GPU_JOB
    elif asked.workload_type in (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING):
        kind = Kind(asked.workload_type)
    else:
        raise RequestError(
            400,
            f"workload_type {asked.workload_type[:64]!r} is not served by a model: use chat, completion or embedding "
            "(a name of your own goes with `gpu_type`).",
            param="workload_type",
        )
    needs = Capability.NONE
    for need in asked.needs:
        needs |= Capability[need.upper()]
    tokens = kind is not Kind.GPU_JOB
    return Workload(
        tenant=tenant.id,
        kind=kind,
        resource=asked.model or asked.gpu_type or "",
        region=asked.region,
        input_tokens=asked.input_tokens if tokens else 0,
        output_tokens=asked.output_tokens if tokens and kind is not Kind.EMBEDDING else 0,
        gpu_hours=0.0 if tokens else asked.gpu_hours,
        needs=needs,
        limits=stricter(tenant.limits, asked),
        weights=_weights(asked.weights, tenant),
    )


def stricter(own: Limits, asked: WorkloadIn) -> Limits:
    """Of each limit the one that refuses more."""
    regions = asked.regions
    if own.regions is not None:
        regions = own.regions if regions is None else tuple(r for r in regions if r in own.regions)
    return Limits(
        max_price=_least(own.max_price, asked.max_price),
        max_latency_ms=_least(own.max_latency_ms, asked.max_latency_ms),
        min_reputation=_most(own.min_reputation, asked.min_reputation),
        regions=regions,
    )


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def _most(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def _weights(asked: WeightsIn | None, tenant: Tenant) -> Weights:
    if asked is None:
        return tenant.weights
    if max(asked.price, asked.latency, asked.reputation, asked.availability) < LEAST_WEIGHT:
        raise RequestError(400, f"weights: at least one must be {LEAST_WEIGHT:g} or more.", param="weights")
    return Weights(asked.price, asked.latency, asked.reputation, asked.availability)


def _outcome_of(report: FeedbackIn, at: float) -> Outcome:
    if report.ok and report.failure is not None:
        raise RequestError(400, "failure: an outcome that is ok has no failure; leave it out.", param="failure")
    usage = None
    if report.input_tokens is not None and report.output_tokens is not None:
        usage = Usage(report.input_tokens, report.output_tokens, 0, Provenance.PROVIDER)
    return Outcome(
        decision=report.decision_id,
        at=at,
        ok=report.ok,
        offer=report.offer,
        failure=report.failure,
        latency_ms=report.latency_ms,
        first_token_ms=report.first_token_ms,
        usage=usage,
        cost_usd=report.cost_usd,
        reported=True,
    )
