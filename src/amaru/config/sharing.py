"""The shape of ``sharing``: what the machines of one installation tell each other, over Redis."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from pydantic import Field

from amaru.config.addresses import Url, redis_url
from amaru.config.fields import RESTART
from amaru.config.secrets import Secrets
from amaru.files.fields import Identifier, Section
from amaru.files.problems import Loc, Problem


class SharingSettings(Section):
    """What machines that serve together tell each other: breakers, throttles, health, and what was learned."""

    redis_url: Url | None = Field(
        default=None,
        description="redis://:{env:NAME}@host:6379/0, the same for every machine; left out: this machine shares with "
        "no other. While it cannot be reached each goes on alone.",
        json_schema_extra=RESTART,
    )
    name: Identifier | None = Field(
        default=None,
        description="This machine's, which no other may have; left out: a random one at each start.",
        json_schema_extra=RESTART,
    )
    prefix: Identifier = Field(
        default="amaru",
        description="Of all keys in Redis: installations that share one Redis and nothing else need different ones.",
        json_schema_extra=RESTART,
    )


@dataclass(frozen=True, slots=True)
class Sharing:
    """The same with secrets at hand."""

    redis_url: str | None = field(repr=False)
    """May hold a password. ``None``: nothing is shared."""
    name: str | None
    prefix: str


def resolve_sharing(
    settings: SharingSettings, secrets: Secrets, overridden: Collection[Loc]
) -> tuple[Sharing, list[Problem]]:
    """The settings with secrets at hand, and what was wrong with them; what could not be read, ``secrets`` knows."""
    url, problems = redis_url(("sharing", "redis_url"), settings.redis_url, secrets, overridden)
    return Sharing(url, settings.name, settings.prefix), problems
