"""The ledger's files, for whoever checks it: C2SP tlog-tiles under ``/ledger/``, as any HTTP server could serve them.

Beside the tiles lie all checkpoints that were published, and what others signed of them: with these an auditor from
afar can hold the log to its history. Nothing here vouches for the log: signatures and hashes do. Names are parsed, so
that no path leads anywhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from amaru.accounts.directory_keys import Role
from amaru.errors import LedgerError, RequestError
from amaru.gateway.access import Access
from amaru.gateway.answers import credentials
from amaru.mesh import Mesh, Views
from amaru.mesh.ledger_files import SMALL_FILES
from amaru.telemetry.logs import get_logger

FOR_EVER = "max-age=31536000, immutable"
"""Tiles never change."""
HEADERS = {"x-content-type-options": "nosniff"}
NOT_AT_ALL = "no-cache"
"""What is replaced as the log grows is asked for anew each time (RFC 9111, section 5.2.2.4)."""

log = get_logger("gateway")
_Given = TypeVar("_Given")


class LedgerApi:
    """Serves a mesh's log: to operators, or to everybody where ``ledger.public`` says so."""

    def __init__(self, mesh: Mesh, views: Views, access: Access) -> None:
        self._mesh = mesh
        self._views = views
        self._access = access

    def routes(self) -> list[Route]:
        """Its endpoints."""
        folders = [Route(f"/ledger/{name}/{{path:path}}", self.folder_or_file) for name in ("checkpoints", "proofs")]
        return [
            *(Route(f"/ledger/{name}", self.file) for name in SMALL_FILES),
            Route("/ledger/tile/{tile:path}", self.file),
            Route("/ledger/checkpoints", self.folder_or_file),
            *folders,
        ]

    async def folder_or_file(self, request: Request) -> Response:
        """A file among the kept checkpoints or the proofs; of a folder a page with links, as HTTP servers make it."""
        name = _name(request)
        folder = name if name.endswith("/") else f"{name}/"
        names = await self._read(request, self._views.ledger_names, folder)
        if names is None:
            return await self.file(request)
        if folder != name:  # so that the links lead there
            return RedirectResponse(f"{name.rpartition('/')[2]}/", 308)
        page = "<!DOCTYPE html>\n" + "".join(f'<a href="{one}">{one}</a>\n' for one in names)
        return Response(page, headers={**HEADERS, "content-type": "text/html", "cache-control": NOT_AT_ALL})

    async def file(self, request: Request) -> Response:
        """``checkpoint``, ``vkey``, ``pruned``, a tile, kept checkpoints, a proof."""
        name = _name(request)
        content = await self._read(request, self._views.ledger_file, name)
        if content is None:
            raise RequestError(
                404,
                "The ledger has no such file: it has `checkpoint`, `vkey`, tiles as https://c2sp.org/tlog-tiles "
                "names them, and what the folders `checkpoints/` and `proofs/checkpoints/` list; a partial file goes "
                "once the full one is there.",
                code="not_found",
            )
        media, cached = "text/plain; charset=utf-8", NOT_AT_ALL
        if name.startswith(("tile/", "checkpoints/")):
            public = self._mesh.plan.config.ledger.public
            media, cached = "application/octet-stream", f"{'public' if public else 'private'}, {FOR_EVER}"
        elif name.endswith(".tsr"):
            media = "application/timestamp-reply"  # RFC 3161, section 3.4
        return Response(content, headers={**HEADERS, "content-type": media, "cache-control": cached})

    async def _read(self, request: Request, read: Callable[[str], Awaitable[_Given]], name: str) -> _Given:
        if not self._mesh.plan.config.ledger.public:
            await self._access.require(Role.READ, credentials(request)[0])
        try:
            return await read(name)
        except LedgerError as error:
            log.error("ledger_not_read", reason=str(error))
            raise RequestError(503, "The ledger cannot be read now; try again shortly.", type="api_error") from None


def _name(request: Request) -> str:
    return request.url.path.removeprefix("/ledger/")
