"""What is remembered of one conversation, for its tenant and for operators: ``GET /conversations``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from amaru.domain import FailureKind
from amaru.errors import RequestError
from amaru.gateway.access import Access
from amaru.gateway.answers import credentials, json_answer
from amaru.gateway.queries import query_of
from amaru.mesh import Mesh
from amaru.routing.conversation import mark_of

Json = dict[str, Any]  # Any: a JSON document


class FailedOut(msgspec.Struct, frozen=True):
    """An offer that failed the conversation."""

    offer: str | None
    """Null: it is no longer configured."""
    failure: FailureKind
    at: float


class ConversationOut(msgspec.Struct, frozen=True):
    """What is remembered of a conversation. Instants are Unix seconds."""

    tenant: str
    offer: str | None
    """Who served the last turn; null: nobody has, or it is no longer configured."""
    at: float
    """When that ended; 0: there was none."""
    turns: int
    """That were answered."""
    prompt_tokens: int
    """Of the last turn."""
    cached_tokens: int
    """Of the last turn, as its provider reported them."""
    cost_usd: float
    """Of all turns, with attempts that failed."""
    failed: list[FailedOut]
    """The last failure of each of up to four offers, the latest at the end."""


CONVERSATION_TYPES = (ConversationOut,)
"""Whose schemas are made from the types themselves."""


class ConversationsApi:
    """Shows what a mesh remembers."""

    def __init__(self, mesh: Mesh, access: Access) -> None:
        self._mesh = mesh
        self._access = access

    def routes(self) -> list[Route]:
        """Its endpoint."""
        return [Route("/conversations", self.one)]

    async def one(self, request: Request) -> Response:
        """A tenant's conversation, by the name that its callers sent."""
        tenant = await self._access.tenant_or_admin(*credentials(request))
        query = query_of(request, ("session", "tenant"))
        if tenant is not None:
            query["tenant"] = tenant.id
        for name, what in (("session", "the conversation's name"), ("tenant", "the id of its tenant")):
            if not query.get(name):
                raise RequestError(400, f"{name} is missing: {what}.", param=name)
        found = await self._mesh.conversations.look_up(query["tenant"], query["session"])
        if found is None:
            raise RequestError(404, "Nothing is remembered of a conversation of that name.", code="not_found")
        names = {mark_of(offer.id): offer.id for offer in self._mesh.plan.board.offers}
        failed = [FailedOut(names.get(one.offer), one.kind, one.at) for one in found.failed]
        out = ConversationOut(
            tenant=query["tenant"],
            offer=names.get(found.offer),
            at=found.at,
            turns=found.turns,
            prompt_tokens=found.prompt_tokens,
            cached_tokens=found.cached_tokens,
            cost_usd=found.cost_usd,
            failed=failed,
        )
        return json_answer(out)


def conversation_paths(get: Callable[..., Json]) -> Json:
    """What the OpenAPI document says of it; ``get`` makes an operation."""
    text: Json = {"type": "string", "pattern": "^[ -~]+$"}
    whose = "Whose; for operators. A tenant's key leads to its own."
    query = [
        {"name": "session", "in": "query", "required": True, "schema": text, "description": "As `x-amaru-session`."},
        {"name": "tenant", "in": "query", "schema": text, "description": whose},
    ]
    what = "What is remembered of a conversation"
    return {"/conversations": {"get": get(what, "getConversation", "ConversationOut", 401, 404, parameters=query)}}
