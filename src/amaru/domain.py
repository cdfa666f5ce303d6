"""The language of amaru, as frozen types.

Every room speaks in these words and no others. This module imports nothing of amaru but the words of a bill, does no
I/O and holds no state.

The types hold nothing but values and each other, so none can be part of a cycle: ``gc=False`` spares the collector.

Units stand in the names: ``_ms`` milliseconds, ``_s`` seconds, ``_usd`` US dollars, ``_usd_per_mtok`` US dollars per
million tokens. Instants are Unix seconds (``float``) unless a name says otherwise.
"""

from __future__ import annotations

import enum

import msgspec

from amaru.bill import Price as Price
from amaru.bill import PriceTier as PriceTier
from amaru.bill import Provenance as Provenance
from amaru.bill import ServiceTier as ServiceTier
from amaru.bill import Usage as Usage
from amaru.bill import UsageDetails as UsageDetails

GLOBAL_REGION = "global"
"""The region of an offer that serves every region."""


class Kind(enum.StrEnum):
    """What sort of work a workload is; it decides which endpoint of a provider serves it."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    GPU_JOB = "gpu_job"


class Capability(enum.IntFlag):
    """What a request needs and an offer can do; a bit set, so that feasibility is one AND."""

    NONE = 0
    STREAM = 1
    TOOLS = 2
    VISION = 4
    JSON_SCHEMA = 8
    PREFILL = 16
    """Continues a trailing assistant message instead of answering it (what mid-stream rescue needs)."""


class FailureKind(enum.StrEnum):
    """The failure taxonomy: every provider error becomes exactly one of these at the boundary, in ``providers/``."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    CONNECT = "connect"
    RESET = "reset"
    NO_ANSWER = "no_answer"
    STREAM_CUT = "stream_cut"
    STREAM_STALLED = "stream_stalled"
    MALFORMED_EVENT = "malformed_event"
    MALFORMED_BODY = "malformed_body"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_REJECTED = "content_rejected"
    BAD_REQUEST = "bad_request"
    BAD_CREDENTIALS = "bad_credentials"
    QUOTA_EXHAUSTED = "quota_exhausted"
    UNKNOWN_MODEL = "unknown_model"


class Join(enum.StrEnum):
    """How an attempt's answer was put behind what the caller already had of a broken one."""

    CONTINUED = "continued"
    """It went on from the text that was sent (assistant prefill)."""
    REPEATED = "repeated"
    """It was begun anew unseen, and repeated what was sent, character for character."""
    UNSEEN = "unseen"
    """It was begun anew unseen: what the broken one had generated was still held back."""
    DIVERGED = "diverged"
    """It was begun anew unseen, did not repeat what was sent, and so could not be used."""


class Rescue(enum.StrEnum):
    """What a caller prefers where a stream may break."""

    JOIN = "join"
    """Hand on each event as it comes; a break is joined where that can be done exactly."""
    HOLD = "hold"
    """Hold the answer back until it is whole, so that any break stays unseen, at the price of the first token."""


class PrefillStyle(enum.StrEnum):
    """How an offer wants to be told that a trailing assistant message is to be continued."""

    PLAIN = "plain"
    """It continues one by itself (OpenRouter, Anthropic's models before Claude 4.6)."""
    PREFIX = "prefix"
    """``"prefix": true`` in the message (Mistral, and DeepSeek's ``/beta``)."""
    CONTINUE_FINAL_MESSAGE = "continue_final_message"
    """``"continue_final_message": true, "add_generation_prompt": false`` in the request (vLLM, SGLang)."""


class LimitField(enum.StrEnum):
    """By which field of a chat an offer takes the caller's limit on the answer."""

    MAX_TOKENS = "max_tokens"
    """The older one: nearly every server knows it, and many pass the newer one over."""
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    """The newer one: OpenAI's reasoning models refuse the older."""
    BOTH = "both"
    """Either: it is sent the one that the caller wrote."""


class Weights(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A tenant's preferences; each is at least 0 and at least one is positive. Only their ratios matter."""

    price: float = 0.4
    latency: float = 0.3
    reputation: float = 0.15
    availability: float = 0.15


class Limits(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Hard limits: an offer that breaks one is never chosen, by any policy (law 10). ``None`` means no limit."""

    max_price: float | None = None
    """USD per GPU-hour for GPU work; for tokens, USD per million tokens at the workload's mix of input and output."""
    max_latency_ms: float | None = None
    """Expected time to first token, or until a GPU job is accepted."""
    min_reputation: float | None = None
    regions: tuple[str, ...] | None = None
    """Regions that may serve; an offer in ``global`` passes only where ``global`` is listed."""


class Offer(msgspec.Struct, frozen=True, gc=False):
    """One provider's ability to serve one resource."""

    id: str
    """``provider/resource`` unless the configuration names it."""
    provider: str
    resource: str
    model: str
    """The provider's own name for the resource."""
    kinds: tuple[Kind, ...] = (Kind.CHAT,)
    regions: tuple[str, ...] = (GLOBAL_REGION,)
    price: Price = Price()
    context_window_tokens: int | None = None
    max_output_tokens: int | None = None
    """Most tokens of one answer; ``None``: unknown."""
    limit_field: LimitField = LimitField.BOTH
    bills_beyond_limit: bool = False
    """More output than the caller's limit may be billed: it heeds none, or its reasoning does not count."""
    price_covers: tuple[str, ...] = ()
    """Fields of a request that may raise its cost, and for which ``price`` holds all the same."""
    max_image_tokens: int | None = None
    """Most tokens that one image of a prompt is counted as; ``None``: unknown."""
    capabilities: Capability = Capability.STREAM
    latency_ms: float = 500.0
    """Advertised time to first token (or until a GPU job is accepted)."""
    reputation: float = 50.0
    """0 to 100."""
    prefill_style: PrefillStyle = PrefillStyle.PLAIN
    """Only of meaning with ``Capability.PREFILL``."""
    capacity: float | None = None
    """Requests at once, or GPU-hours at once for GPU work; ``None``: unbounded."""
    requests_per_min: float | None = None
    tokens_per_min: float | None = None


class Tenant(msgspec.Struct, frozen=True, gc=False):
    """Who asks."""

    id: str
    weights: Weights = Weights()
    limits: Limits = Limits()
    key_hashes: tuple[str, ...] = ()
    """Lower-case hex SHA-256 of each of the tenant's keys."""
    resources: tuple[str, ...] | None = None
    """Resources and aliases the tenant may use; ``None``: all."""
    rescue: Rescue = Rescue.JOIN
    """Of its streams, where the request does not say."""
    serves_without_store: bool | None = None
    """Whether its requests are served while its budgets cannot be asked; ``None``: as everybody's."""
    open_nusd: int | None = None
    """Nano-USD that a process may spend for it then; ``None``: as for everybody."""


class Workload(msgspec.Struct, frozen=True, gc=False):
    """One thing to be served."""

    tenant: str
    kind: Kind
    resource: str
    """A model alias, a resource, or a GPU type."""
    region: str | None = None
    """Where it must be served; ``None``: anywhere."""
    input_tokens: int = 0
    """Estimated before the call."""
    output_tokens: int = 0
    """The caller's limit on the answer where it gave one, else an estimate."""
    gpu_hours: float = 0.0
    needs: Capability = Capability.NONE
    limits: Limits = Limits()
    weights: Weights = Weights()
    session: str | None = None


class ScoreParts(msgspec.Struct, frozen=True, gc=False):
    """How each term contributed to a score; they add up to it."""

    price: float
    latency: float
    reputation: float
    availability: float
    draw: float = 0.0
    """What a policy that tries what is uncertain drew for it; 0 by rules."""


class RankedOffer(msgspec.Struct, frozen=True, gc=False):
    """A feasible offer with its place, and why it stands there."""

    offer: str
    provider: str
    model: str
    score: float
    parts: ScoreParts
    unit_price_usd: float
    """USD per GPU-hour, or per million tokens at the workload's mix."""
    estimated_cost_usd: float
    latency_ms: float
    reputation: float
    availability: float
    reason: str = ""
    """In words; empty where the caller asked for figures only."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """An offer that was not eligible, the constraint that refused it, and the figures in words."""

    offer: str
    provider: str
    constraint: str
    detail: str


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The ranked offers, the reason for each rank and each refusal."""

    id: str
    at: float
    tenant: str
    resource: str
    policy: str
    ranked: tuple[RankedOffer, ...]
    refused: tuple[Refusal, ...]
    explored: bool = False
    """The first place was drawn by the exploration floor, not by the policy."""
    propensity: float = 1.0
    """Probability with which the first attempt's offer was chosen."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One call to one offer."""

    offer: str
    provider: str
    started_ms: float
    """Since the request arrived."""
    latency_ms: float
    first_token_ms: float | None = None
    failure: FailureKind | None = None
    status: int | None = None
    """The provider's HTTP status, where one arrived."""
    detail: str = ""
    """The failure in words; never prompt or completion text."""
    usage: Usage | None = None
    cost_usd: float = 0.0
    bytes_received: int = 0
    joined: Join | None = None
    """How it was joined to an answer that had broken before it; ``None``: nothing had begun before it."""
    load: float = 0.0
    """Share of the offer's capacity that was taken when it was chosen, 0 to 1; 0 where the capacity has no bound."""
    out_of_time: bool = False
    """The request's own deadline ended it, not a limit of the offer's."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of a decision."""

    decision: str
    at: float
    ok: bool
    offer: str | None
    """The offer that answered, or the last one tried."""
    failure: FailureKind | None = None
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    usage: Usage | None = None
    cost_usd: float = 0.0
    """Of the answer delivered; failed attempts are accounted apart, in ``attempts``."""
    attempts: tuple[Attempt, ...] = ()
    reported: bool = False
    """True where a caller reported it through the agent API, False where amaru saw it."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What a decision saw of one offer, and of the best of its pool: the state that a choice was made in."""

    unit_price: float
    """Posted, in USD per GPU-hour, or per million tokens at the workload's mix."""
    latency_ms: float
    """Expected: posted, blended with what was observed."""
    posted_ms: float
    reputation: float
    success: float
    """Recent share of successes, 0 to 1."""
    best_price: float
    """Lowest posted of the pool, as is ``best_ms``."""
    best_ms: float


class Experience(msgspec.Struct, frozen=True, gc=False):
    """What one attempt showed of an offer: what policies learn from."""

    at: float
    """When it ended, in Unix seconds. What is learned fades by this clock, not by that of whoever reads it."""
    ok: bool
    failure: FailureKind | None = None
    latency_ms: float | None = None
    """Of a stream its first token, of a GPU job its acceptance, else the whole answer; ``None`` where it failed, or
    where nobody measured it."""
    cost_usd: float = 0.0
    """What was billed."""
    expected_cost_usd: float | None = None
    """What the offer's posted price gives for the usage that was billed; ``None``: unknown."""
    load: float = 0.0
    """Share of the offer's capacity that was taken when it was chosen, 0 to 1."""
    blame: bool = True
    """False where a failure says nothing about the offer: the request was at fault, or its caller went away."""
    ended: bool = True
    """False: the answer has only begun; its latency is known, whether it will succeed is not."""
    begun: bool = False
    """There was an experience of its beginning, with the same latency."""
    seen: Seen | None = None
    """What the decision saw of the offer; ``None``: not known, then what was advertised stands for it."""
