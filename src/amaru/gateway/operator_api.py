"""The endpoints that people and their tools read: providers, decisions, health, status, metrics, the OpenAPI document.

Cold code, so an ordinary framework: Starlette, mounted on the same server through ``http1/asgi.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from amaru.accounts.directory_keys import Role
from amaru.domain import Tenant
from amaru.errors import RequestError, StorageError
from amaru.gateway.access import Access
from amaru.gateway.answers import CONTENT_JSON, credentials, headers_of, json_answer, store_unavailable
from amaru.gateway.openapi import openapi_document
from amaru.gateway.queries import DECISION_FILTERS, decisions_page, query_of
from amaru.mesh import Views
from amaru.protocols.openai import error_body

JSON = CONTENT_JSON.decode()


class OperatorApi:
    """Builds the Starlette application over the views of a mesh.

    Parameters
    ----------
    further
        Endpoints of other files, to be mounted with these.
    ready
        Whether the server takes traffic: started, and not draining.
    """

    def __init__(
        self, views: Views, access: Access, *, further: Sequence[Route] = (), ready: Callable[[], bool]
    ) -> None:
        self._views = views
        self._further = further
        self._access = access
        self._ready = ready

    def app(self) -> Starlette:
        """The application; its own 404 and 405 have OpenAI's error shape too."""
        routes = [
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/health", self.health),
            Route("/status", self.status),
            Route("/metrics", self.metrics),
            Route("/policy", self.policy),
            Route("/providers", self.providers),
            Route("/providers/{id}", self.provider),
            Route("/decisions", self.decisions),
            Route("/decisions/{id}", self.decision),
            Route("/openapi.json", self.openapi),
            *self._further,
        ]
        return application(routes)

    def admin_app(self, routes: Sequence[Route]) -> Starlette:
        """An application for the admin API's own port: ``routes``, whether it lives, and the OpenAPI document."""
        own = [
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/openapi.json", self.openapi),
        ]
        return application([*own, *routes])

    async def live(self, _: Request) -> Response:
        """The process answers."""
        return json_answer({"status": "live"})

    async def ready(self, _: Request) -> Response:
        """The server takes traffic."""
        if self._ready():
            return json_answer({"status": "ready"})
        return json_answer({"status": "draining"}, 503)

    async def health(self, _: Request) -> Response:
        """Whether each resource can be served now, without naming providers: for load balancers and status pages."""
        health = self._views.health()
        return json_answer(health, 200 if health["status"] != "down" else 503)

    async def status(self, request: Request) -> Response:
        """Everything an operator asks first: traffic, spend, offers, the store, what is sensed, the configuration."""
        await self._require_operator(request)
        return json_answer(self._views.status())

    async def policy(self, request: Request) -> Response:
        """The policy that ranks: its settings, its artifact, what it has learned from, and when that was last kept."""
        await self._require_operator(request)
        return json_answer(self._views.policy())

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format, or OpenMetrics where the scraper asks for it."""
        await self._require_operator(request)
        body, content_type = self._views.metrics(request.headers.get("accept", ""))
        return Response(body, media_type=None, headers={"content-type": content_type})

    async def providers(self, request: Request) -> Response:
        """Every provider with its offers and how they fare now."""
        return json_answer({"providers": self._views.providers(await self._tenant_or_operator(request))})

    async def provider(self, request: Request) -> Response:
        """One provider."""
        wanted = request.path_params["id"]
        for provider in self._views.providers(await self._tenant_or_operator(request)):
            if provider["id"] == wanted:
                return json_answer(provider)
        raise RequestError(404, f"No provider is named {wanted[:128]!r}; GET /providers lists them.", code="not_found")

    async def decisions(self, request: Request) -> Response:
        """Stored decisions, newest first, one page at a time, as filtered."""
        tenant = await self._tenant_or_operator(request)
        query = query_of(request, DECISION_FILTERS)
        if tenant is not None:
            query["tenant"] = tenant.id
        page = await self._views.decisions(**decisions_page(query))
        if tenant is not None:
            for decision in page["decisions"]:
                _drop_details(decision)
        return json_answer(page)

    async def decision(self, request: Request) -> Response:
        """One decision: ranked offers with the parts of each score, refusals, attempts, outcome, feedback."""
        tenant = await self._tenant_or_operator(request)
        found = await self._views.decision(request.path_params["id"])
        if found is None or (tenant is not None and found["tenant"] != tenant.id):
            raise RequestError(
                404,
                "No such decision: the id is unknown, belongs to another tenant, or was removed by retention.",
                code="not_found",
            )
        if tenant is not None:
            _drop_details(found)
        return json_answer(found)

    async def openapi(self, _: Request) -> Response:
        """The OpenAPI document of this server."""
        return json_answer(openapi_document())

    async def _require_operator(self, request: Request) -> None:
        await self._access.require(Role.READ, credentials(request)[0])

    async def _tenant_or_operator(self, request: Request) -> Tenant | None:
        """The tenant to whom the answer is limited; None for an operator, who sees all."""
        return await self._access.tenant_or_admin(*credentials(request))


def _drop_details(decision: dict[str, Any]) -> None:  # Any: JSON
    """Failures in words name hosts and ports of providers: tenants see the failure's kind only."""
    for attempt in decision["attempts"]:
        attempt.pop("detail", None)


def application(routes: Sequence[Route]) -> Starlette:
    """An application that serves ``routes``."""
    # Any: Starlette's own type for handlers
    handlers: dict[Any, Any] = {RequestError: _on_error, StorageError: _on_store, 404: _on_404, 405: _on_405}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # it would send callers to whatever their Host header names
    return app


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {name.decode(): value.decode() for name, value in headers_of(error)}
    return Response(error_body(error), error.status, headers, media_type=JSON)


async def _on_store(request: Request, error: Exception) -> Response:
    assert isinstance(error, StorageError)
    return await _on_error(request, store_unavailable(error))


async def _on_404(request: Request, _: Exception) -> Response:
    return await _on_error(
        request,
        RequestError(
            404, f"No endpoint at {request.url.path[:256]!r}; GET /openapi.json lists them.", code="not_found"
        ),
    )


async def _on_405(request: Request, error: Exception) -> Response:
    allowed = (getattr(error, "headers", None) or {}).get("Allow", "")
    answer = await _on_error(
        request, RequestError(405, f"{request.method} is not allowed here; use {allowed}.", code="method_not_allowed")
    )
    answer.headers["allow"] = allowed
    return answer
