"""The shape of ``sessions``: what is remembered of a conversation between its turns, and what for."""

from __future__ import annotations

from pydantic import Field

from amaru.files.fields import Section


class SessionsSettings(Section):
    """Conversations, named by `x-amaru-session`: each prefers the offer that has its prompt in its cache."""

    ttl_s: float = Field(
        default=3600, ge=1, le=604_800, description="Seconds after its last turn for which a conversation is known."
    )
    weight: float = Field(
        default=1,
        ge=0,
        le=1,
        description="How much a warm prompt cache counts in the ranks: 1 what it is expected to save, 0 nothing.",
    )
    first_token: float = Field(
        default=0.1,
        ge=0,
        le=0.9,
        description="Share of an offer's latency that its cache is expected to save right after a turn.",
    )
    cache_s: float = Field(
        default=300,
        ge=0,
        le=604_800,
        description="Seconds for which a provider keeps a prompt in its cache, where `cache_s` of the offer does not "
        "say. What a cache counts declines to nothing over them.",
    )
    shun_s: float = Field(
        default=60,
        ge=0,
        le=604_800,
        description="Seconds for which an offer that failed a conversation is not preferred for it.",
    )
    redis_ms: float = Field(
        default=20,
        gt=0,
        le=1000,
        description="With sharing.redis_url: longest wait for what other machines remember of a conversation; beyond, "
        "a request goes by what this one does.",
    )
