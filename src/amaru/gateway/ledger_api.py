"""The ledger's files, for whoever checks it: C2SP tlog-tiles under ``/ledger/``, as any HTTP server could serve them.

Nothing here vouches for the log: signatures and hashes do. The names of tiles are parsed and written anew, so that no
path leads anywhere else.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from amaru.errors import LedgerError, RequestError
from amaru.gateway.access import Access
from amaru.gateway.answers import credentials
from amaru.mesh import Mesh, Views
from amaru.mesh.ledger_reading import SMALL_FILES
from amaru.telemetry.logs import get_logger

FOR_EVER = "max-age=31536000, immutable"
"""Tiles never change."""
NOT_AT_ALL = "no-cache"
"""What is replaced as the log grows is asked for anew each time (RFC 9111, section 5.2.2.4)."""

log = get_logger("gateway")


class LedgerApi:
    """Serves a mesh's log: to operators, or to everybody where ``ledger.public`` says so."""

    def __init__(self, mesh: Mesh, views: Views, access: Access) -> None:
        self._mesh = mesh
        self._views = views
        self._access = access

    def routes(self) -> list[Route]:
        """Its endpoints."""
        return [
            *(Route(f"/ledger/{name}", self.file) for name in SMALL_FILES),
            Route("/ledger/tile/{tile:path}", self.file),
        ]

    async def file(self, request: Request) -> Response:
        """``checkpoint``, ``vkey``, ``pruned``, or a tile."""
        public = self._mesh.plan.config.ledger.public
        if not public:
            self._access.require_operator(credentials(request)[0])
        name = request.url.path.removeprefix("/ledger/")
        try:
            content = await self._views.ledger_file(name)
        except LedgerError as error:
            log.error("ledger_not_read", reason=str(error))
            raise RequestError(503, "The ledger cannot be read now; try again shortly.", type="api_error") from None
        if content is None:
            raise RequestError(
                404,
                "The ledger has no such file: it has `checkpoint`, `vkey`, and tiles as https://c2sp.org/tlog-tiles "
                "names them; a partial tile goes once the full one is there.",
                code="not_found",
            )
        if name.startswith("tile/"):
            media, cached = "application/octet-stream", f"{'public' if public else 'private'}, {FOR_EVER}"
        else:
            media, cached = "text/plain; charset=utf-8", NOT_AT_ALL
        headers = {"content-type": media, "cache-control": cached, "x-content-type-options": "nosniff"}
        return Response(content, headers=headers)
