"""The gateway: one HTTP server over one mesh. Starts, reloads, drains."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.gateway.access import Access
from amaru.gateway.admin_api import AdminApi
from amaru.gateway.agent_api import AgentApi
from amaru.gateway.answers import respond_error
from amaru.gateway.conversations_api import ConversationsApi
from amaru.gateway.health_api import HealthApi
from amaru.gateway.ledger_api import LedgerApi
from amaru.gateway.openai_api import OpenAIApi
from amaru.gateway.operator_api import OperatorApi
from amaru.gateway.relay import Relay
from amaru.http1 import Handler, HttpServer, ListenError, Request, ServerSettings, asgi_handler
from amaru.mesh import Member, Mesh, Owner, Views
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.company import RELAY

LOCAL = frozenset(("/health", "/health/live", "/health/ready", "/providers", "/openapi.json"))
"""What every worker of a machine answers itself, also while the owner is away."""


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
    accounts
        Started, and owned by the caller; left out: only the configuration's keys open anything, and there is no admin
        API. It has a port of its own where the configuration names one.
    company
        The mesh's place among the workers of a machine; left out, it is alone.
    """

    def __init__(
        self,
        mesh: Mesh,
        settings: ServerSettings,
        *,
        host: str,
        accounts: MeshAccounts | None = None,
        company: Owner | Member | None = None,
    ) -> None:
        self.host = host
        self._admin_place = mesh.plan.config.accounts.admin_host, mesh.plan.config.accounts.admin_port
        self._serving = False
        self._witness = mesh.witness
        self._company = company
        access = Access(mesh, accounts)
        views = Views(mesh, accounts)
        openai = OpenAIApi(mesh, views, access)
        agent = AgentApi(mesh, access)
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
        self._server = HttpServer(self._dispatch, settings)
        self._relayed: HttpServer | None = None
        self._admin: AdminApi | None = None
        self._admin_server: HttpServer | None = None
        if isinstance(company, Member):
            relay = Relay(company.folder / RELAY).handle
            self._posts["/agent/feedback"] = relay
            operator = OperatorApi(views, access, ready=lambda: self._serving)
            self._other = _divided(asgi_handler(operator.app()), relay)
            return
        further = [*HealthApi(mesh, access, accounts).routes(), *LedgerApi(mesh, views, access).routes()]
        further += ConversationsApi(mesh, access).routes()
        admin = []
        if accounts is not None:
            self._admin = AdminApi(mesh, views, access, accounts)
            admin = self._admin.routes()
        apart = self._admin_place[1] is not None
        operator = OperatorApi(
            views, access, further=further if apart else further + admin, ready=lambda: self._serving
        )
        app = asgi_handler(operator.app())
        self._other = app if company is None else _divided(app, self._gathered(app))
        if admin and apart:
            self._admin_server = HttpServer(self._gathered(asgi_handler(operator.admin_app(admin))), settings)
        if company is not None:
            self._posts["/agent/feedback"] = self._gathered(agent.feedback)
            self._relayed = HttpServer(self._dispatch, settings)

    async def start(self, port: int, *, sock: socket.socket | None = None) -> None:
        """Bind and serve. Raises ``ListenError`` where an address cannot be bound."""
        await self._start_admin()
        try:
            await self._server.start(self.host, port, sock=sock)
        except ListenError:
            if self._admin_server is not None:
                await self._admin_server.drain(0.0)
            raise
        self._begin()

    async def join(
        self, sockets: Sequence[socket.socket], relay: socket.socket | None, admin: Sequence[socket.socket]
    ) -> None:
        """Serve beside the other workers, from sockets that all listen on; the owner also what they hand on to it.

        ``admin`` are those of the admin API, if it has its own: the supervisor holds them, so that it keeps its port
        whoever owns it. Raises ``ListenError`` where there are none and its address cannot be bound.
        """
        company = self._company
        assert company is not None
        if self._admin_server is not None and admin:
            self._admin_server.share(admin, may_take=lambda _: True)
        else:  # it was configured after the supervisor had started
            await self._start_admin()
        self._server.share(sockets, may_take=company.may_take)
        if self._relayed is not None:
            await self._relayed.start(sock=relay)
        self._begin()

    async def _start_admin(self) -> None:
        if self._admin_server is not None:
            host, admin_port = self._admin_place
            await self._admin_server.start(host, admin_port or 0)

    def _begin(self) -> None:
        self._serving = True
        self._witness.start()
        if self._admin is not None:
            self._admin.events.start()

    @property
    def port(self) -> int:
        """The bound port (of use where 0 was asked for)."""
        return self._server.port

    @property
    def admin_port(self) -> int | None:
        """The bound port of the admin API; ``None``: it has none of its own."""
        return None if self._admin_server is None else self._admin_server.port

    @property
    def authority(self) -> str:
        """``host:port``, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def drain(self, timeout_s: float) -> int:
        """Stop accepting, let streams end, cut what is left after ``timeout_s``; returns how many were cut."""
        self._serving = False
        servers = [server for server in (self._server, self._admin_server) if server is not None]
        for server in servers:
            server.refuse()
        self._witness.feed.close()  # streams that would never end by themselves
        if self._admin is not None:
            await self._admin.events.close()
        cut = sum(await asyncio.gather(*(server.drain(timeout_s) for server in servers)))
        if self._relayed is not None:  # other workers' last requests came through it
            await self._relayed.drain(0.0)
        return cut

    def _gathered(self, handler: Handler) -> Handler:
        """The same once every worker has told what it knows: what it answers is of the whole machine."""
        owner = self._company
        if not isinstance(owner, Owner):
            return handler

        async def handle(request: Request) -> None:
            await owner.gather()
            running = handler(request)
            if running is not None:
                await running

        return handle

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


def _divided(here: Handler, owner: Handler) -> Handler:
    """What load balancers ask, and what every worker knows, is answered here; the rest by the owner."""

    def handle(request: Request) -> Coroutine[Any, Any, None] | None:
        return (here if request.path in LOCAL or request.path.startswith("/providers/") else owner)(request)

    return handle


def _method_not_allowed(request: Request, allowed: str) -> None:
    error = RequestError(405, f"{request.path} takes {allowed}, not {request.method[:32]}.", code="method_not_allowed")
    respond_error(request, error, [(b"allow", allowed.encode())])
