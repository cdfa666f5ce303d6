"""What the parts of the admin API that are about accounts share: reading and changing the store, pages, and tags.

A thing's tag (RFC 9110, section 8.8.3) is another one after each change of it. Whoever sends the tag that it was read
with as ``If-Match`` changes nothing that somebody else has changed since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.allowances import Allowance
from amaru.accounts.directory import Directory
from amaru.accounts.directory_base import Check
from amaru.accounts.directory_keys import KeyInfo
from amaru.accounts.directory_tenants import TeamInfo, TenantInfo
from amaru.errors import RequestError
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import limit_of
from amaru.mesh.accounts import MeshAccounts

Thing = TenantInfo | TeamInfo | KeyInfo | Allowance
T = TypeVar("T")
_NUMBER = re.compile("[0-9]{1,18}")


class AdminDesk(NamedTuple):
    """Where requests about accounts are worked on. ``clock`` gives Unix seconds."""

    accounts: MeshAccounts
    clock: Callable[[], float]

    @property
    def directory(self) -> Directory:
        return self.accounts.directory

    async def read(self, work: Callable[[], T]) -> T:
        """What ``work`` finds in the store, on a thread."""
        return await self.accounts.run(work)

    async def change(self, change: Callable[[], T]) -> T:
        """Have a change made, and take it in before anybody is told."""
        made = await self.accounts.run(change)
        await self.accounts.look()
        return made


class Asked(NamedTuple):
    """Which page a query asks for."""

    cursor: str | None
    limit: int


def asked_page(query: Mapping[str, str]) -> Asked:
    """By ``cursor`` and ``limit``. Raises ``RequestError`` 400."""
    return Asked(query.get("cursor"), limit_of(query))


def before_of(query: Mapping[str, str]) -> int | None:
    """The ``cursor`` of a list that is newest first: an id, to go on from. Raises ``RequestError`` 400."""
    cursor = query.get("cursor")
    if cursor is not None and not _NUMBER.fullmatch(cursor):
        raise RequestError(400, "cursor must be the next_cursor of the page before.", param="cursor")
    return None if cursor is None else int(cursor)


def tag_of(thing: Thing) -> str:
    """Its entity tag; use changes nothing of it."""
    if isinstance(thing, KeyInfo):
        thing = msgspec.structs.replace(thing, last_used_at=None)
    return f'"{hashlib.sha256(msgspec.json.encode(thing, order="deterministic")).hexdigest()[:16]}"'


def tagged(thing: Thing, answer: Any = None, status: int = 200) -> Response:  # Any: what is answered in its place
    """An answer with its tag."""
    made = json_answer(thing if answer is None else answer, status)
    made.headers["etag"] = tag_of(thing)
    return made


def as_it_was(request: Request) -> Check[Thing | None]:
    """Raises ``RequestError`` 412 where the thing is not as ``If-Match`` says, if the request has such a header."""
    wanted = request.headers.get("if-match")

    def check(found: Thing | None) -> None:
        if wanted is None or (found is not None and wanted.strip() == "*"):
            return
        if found is None or tag_of(found) not in [one.strip() for one in wanted.split(",")]:
            said = "there is none" if found is None else "it was changed by somebody else; read it anew"
            raise RequestError(412, f"Nothing was changed: {said}.", code="changed_meanwhile", param="if-match")

    return check


def id_of(request: Request) -> str:
    """The id in the path."""
    id: str = request.path_params["id"]
    return id


def flag(query: Mapping[str, str], name: str) -> bool:
    """``true``, or by default ``false``. Raises ``RequestError`` 400."""
    if query.get(name, "false") not in ("true", "false"):
        raise RequestError(400, f"{name} must be `true` or `false`.", param=name)
    return query.get(name) == "true"
