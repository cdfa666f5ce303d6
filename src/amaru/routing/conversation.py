"""What is remembered of a conversation between its turns: figures and marks of offers, never text (law 4)."""

from __future__ import annotations

import functools
import hashlib
import hmac
import math
from typing import Annotated, Literal

import msgspec

from amaru.domain import FailureKind

KEY_BYTES = 16
"""Length of what a conversation is found by."""
MOST_FAILED = 4
"""Offers whose last failure is remembered."""
MOST_BYTES = 224
"""An encoded conversation is never longer."""

Mark = Annotated[bytes, msgspec.Meta(max_length=8)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Instant = Annotated[float, msgspec.Meta(ge=0.0, le=1e11)]


class Failed(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """The last failure of one offer in a conversation."""

    offer: Mark
    kind: FailureKind
    at: Instant
    """Unix seconds, as all instants here."""


class Conversation(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What is remembered of one conversation of one tenant."""

    version: Literal[1] = 1
    offer: Mark = b""
    """``mark_of`` the offer that served its last turn; empty: none did."""
    at: Instant = 0.0
    """When that turn ended."""
    turns: Count = 0
    """That were answered."""
    prompt_tokens: Count = 0
    """Of the last turn."""
    cached_tokens: Count = 0
    """Of the last turn: what the provider reported to have had in its cache."""
    cost_usd: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0
    """Of all turns, with attempts that failed."""
    failed: Annotated[tuple[Failed, ...], msgspec.Meta(max_length=MOST_FAILED)] = ()
    """By whom it was failed lately, the last one at the end."""

    @property
    def touched_at(self) -> float:
        """When it was last told of anything."""
        return max([self.at, *[one.at for one in self.failed]])


class Turn(msgspec.Struct, frozen=True, gc=False):
    """What one request of a conversation came to."""

    at: float
    cost_usd: float
    offer: bytes | None = None
    """``mark_of`` the offer that answered; ``None``: none did."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failed: tuple[Failed, ...] = ()
    """Offers that failed it, in order."""


@functools.lru_cache(maxsize=4096)
def mark_of(offer: str) -> bytes:
    """8 bytes that stand for the offer of that id, the same on every machine."""
    return hashlib.blake2b(offer.encode(), digest_size=8).digest()


def key_of(salt: bytes, tenant: str, session: str) -> bytes:
    """What a tenant's conversation of that name is found by: a salted HMAC-SHA-256, cut to ``KEY_BYTES``."""
    return hmac.digest(salt, f"{tenant}\0{session}".encode(), "sha256")[:KEY_BYTES]


def after(before: Conversation | None, turn: Turn) -> Conversation:
    """The conversation once ``turn`` has ended. A turn that nobody answered leaves the last answer's figures."""
    known = before or Conversation()
    failed = {one.offer: one for one in known.failed}
    for one in turn.failed:
        failed.pop(one.offer, None)  # to the end
        failed[one.offer] = one
    cost_usd = known.cost_usd + turn.cost_usd
    kept = tuple(failed.values())[-MOST_FAILED:]
    if turn.offer is None:
        return msgspec.structs.replace(known, cost_usd=cost_usd, failed=kept)
    return Conversation(
        offer=turn.offer,
        at=turn.at,
        turns=known.turns + 1,
        prompt_tokens=turn.prompt_tokens,
        cached_tokens=turn.cached_tokens,
        cost_usd=cost_usd,
        failed=kept,
    )


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Conversation).decode


def decode(data: bytes) -> Conversation | None:
    """The conversation that ``encode`` wrote; ``None`` where the bytes are none, of this version."""
    if len(data) > MOST_BYTES:
        return None
    try:
        found = _decode(data)
    except (msgspec.MsgspecError, ValueError):
        return None
    instants = [found.at, found.cost_usd, *[one.at for one in found.failed]]
    return found if all(map(math.isfinite, instants)) else None
