"""The door of the admin API: one table of what each role opens, and what is asked of every request before its handler.

Every answer is ``no-store``: some hold keys, which are shown once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from amaru.accounts.directory_keys import Role
from amaru.errors import AccountConflict, AccountError, RequestError, StorageError, UnknownAccount
from amaru.gateway.access import Access, Admin
from amaru.gateway.answers import credentials
from amaru.telemetry.logs import get_logger

Handler = Callable[[Request, Admin], Awaitable[Response]]
_SAFE = ("GET", "HEAD")
log = get_logger("gateway")


class Entry(NamedTuple):
    """One line of the table."""

    method: str
    path: str
    role: Role
    """Which a key needs at least."""
    handler: Handler


def routes_of(access: Access, table: Iterable[Entry]) -> list[Route]:
    """A route for each path of the table, behind the door."""
    by_path: dict[str, dict[str, Entry]] = {}
    for entry in table:
        by_path.setdefault(entry.path, {})[entry.method] = entry
    return [Route(path, _door(access, entries), methods=list(entries)) for path, entries in by_path.items()]


def _door(access: Access, entries: dict[str, Entry]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        entry = entries["GET" if request.method == "HEAD" else request.method]
        admin = await access.require(entry.role, credentials(request)[0])
        if request.method not in _SAFE:
            _refuse_other_sites(request)
        if not all(part.isprintable() for part in request.path_params.values()):
            raise RequestError(404, "No name has such characters.", code="not_found")
        try:
            response = await entry.handler(request, admin)
        except AccountError as error:
            raise _refused(error) from None
        except StorageError as error:
            log.error("admin_store_unavailable", error=str(error))
            said = "The store is not available now, and nothing was changed; try again shortly."
            raise RequestError(503, said, type="api_error", code="store_unavailable", retry_after_s=1.0) from None
        response.headers.setdefault("cache-control", "no-store")
        return response

    return answer


def _refuse_other_sites(request: Request) -> None:
    """A page of another site could have a browser order things of a gateway that asks for no key.

    Told by the headers that browsers send (Fetch Metadata, W3C; else RFC 6454). Raises ``RequestError`` 403.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none") or (site is None and origin is None):
        return
    if site is None and origin is not None and urlsplit(origin).netloc == request.headers.get("host"):
        return
    raise RequestError(
        403, "A page of another site sent this; the admin API takes none of them.", type="permission_error"
    )


def _refused(error: AccountError) -> RequestError:
    said = str(error)[:1].upper() + str(error)[1:]
    if isinstance(error, UnknownAccount):
        return RequestError(404, said, code="not_found")
    if isinstance(error, AccountConflict):
        return RequestError(409, said, code="conflict")
    return RequestError(400, said)
