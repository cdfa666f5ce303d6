"""Tiny requests that show how an offer fares: what they ask, what they are reckoned to use, and one call of one."""

from __future__ import annotations

import msgspec

from amaru.domain import Kind, Offer, Usage
from amaru.errors import Failure
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.providers.base import Provider, StreamReply, Timing, WholeReply

LIMIT_S = 15.0
"""The longest that a probe may take."""
MOST_TOKENS = 8
EXPECTED = Usage(input_tokens=16, output_tokens=MOST_TOKENS)
"""What a probe is reckoned to use before it is sent."""
_PROMPT = "Reply with: ok"
_BODIES = {
    Kind.CHAT: {"model": "probe", "messages": [{"role": "user", "content": _PROMPT}], "max_tokens": MOST_TOKENS},
    Kind.COMPLETION: {"model": "probe", "prompt": _PROMPT, "max_tokens": MOST_TOKENS},
    Kind.EMBEDDING: {"model": "probe", "input": "ok"},
}
REQUESTS: dict[Kind, OpenAIRequest] = {
    kind: parse_request(kind, msgspec.json.encode(body)) for kind, body in _BODIES.items()
}
"""By kind of work; GPU jobs cannot be probed. Each provider puts its own model's name in."""


def kind_of(offer: Offer) -> Kind | None:
    """As what an offer is probed; ``None``: it cannot be."""
    return next((kind for kind in REQUESTS if kind in offer.kinds), None)


async def ask(
    offer: Offer, provider: Provider, request: OpenAIRequest, started_at: float
) -> WholeReply | StreamReply | Failure:
    """One call at ``started_at``, of the event loop's clock: the answer, or the failure that came instead."""
    limit_at = started_at + LIMIT_S
    try:
        return await provider.call(offer, request, Timing(limit_at, limit_at, LIMIT_S, limit_at))
    except Failure as failure:
        return failure
