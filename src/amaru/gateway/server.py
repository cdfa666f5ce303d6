"""The gateway: one HTTP server over one mesh. Starts, reloads, drains."""

from __future__ import annotations

import socket
from collections.abc import Coroutine
from typing import Any

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.gateway.access import Access
from amaru.gateway.agent_api import AgentApi
from amaru.gateway.answers import respond_error
from amaru.gateway.health_api import HealthApi
from amaru.gateway.ledger_api import LedgerApi
from amaru.gateway.openai_api import OpenAIApi
from amaru.gateway.operator_api import OperatorApi
from amaru.http1 import Handler, HttpServer, Request, ServerSettings, asgi_handler
from amaru.mesh import Mesh, Views


class Gateway:
    """Binds the endpoints to a mesh.

    Parameters
    ----------
    mesh
        What serves; owned by the caller, who closes it after ``drain``.
    settings
        Limits of the HTTP server.
    host
        Address to bind.
    """

    def __init__(self, mesh: Mesh, settings: ServerSettings, *, host: str) -> None:
        self.host = host
        self._serving = False
        self._sensing = mesh.sensing
        access = Access(mesh)
        views = Views(mesh)
        openai = OpenAIApi(mesh, views, access)
        agent = AgentApi(mesh, access)
        health = HealthApi(mesh, access)
        ledger = LedgerApi(mesh, views, access)
        operator = OperatorApi(views, access, further=[*health.routes(), *ledger.routes()], ready=lambda: self._serving)
        self._posts: dict[str, Handler] = {
            "/v1/chat/completions": openai.handler(Kind.CHAT),
            "/v1/completions": openai.handler(Kind.COMPLETION),
            "/v1/embeddings": openai.handler(Kind.EMBEDDING),
            "/agent/route": agent.route,
            "/agent/route/batch": agent.batch,
            "/agent/feedback": agent.feedback,
            "/route": agent.best,
        }
        self._models = openai.models
        self._other = asgi_handler(operator.app())
        self._server = HttpServer(self._dispatch, settings)

    async def start(self, port: int, *, sock: socket.socket | None = None) -> None:
        """Bind and serve. Raises ``OSError`` where the address cannot be bound."""
        await self._server.start(self.host, port, sock=sock)
        self._serving = True
        self._sensing.start()

    @property
    def port(self) -> int:
        """The bound port (of use where 0 was asked for)."""
        return self._server.port

    @property
    def authority(self) -> str:
        """``host:port``, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def drain(self, timeout_s: float) -> int:
        """Stop accepting, let streams end, cut what is left after ``timeout_s``; returns how many were cut."""
        self._serving = False
        self._sensing.feed.close()  # streams that would never end by themselves
        return await self._server.drain(timeout_s)

    def _dispatch(self, request: Request) -> Coroutine[Any, Any, None] | None:
        """Answer, or give the coroutine that does; not one itself: each in the chain costs every wake-up."""
        path, method = request.path, request.method
        allowed: tuple[str, ...] = ("POST",)
        handler = self._posts.get(path)
        if handler is None:
            if path != "/v1/models":
                return self._other(request)
            handler, allowed = self._models, ("GET", "HEAD")
        if method in allowed:
            return handler(request)
        _method_not_allowed(request, allowed[0])
        return None


def _method_not_allowed(request: Request, allowed: str) -> None:
    error = RequestError(405, f"{request.path} takes {allowed}, not {request.method[:32]}.", code="method_not_allowed")
    respond_error(request, error, [(b"allow", allowed.encode())])
