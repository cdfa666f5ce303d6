"""Keys over HTTP. Whoever makes or rotates one is shown a secret that opens, so that is the owners' alone."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.directory_keys import KeyInfo, NewKey, Role
from amaru.accounts.pages import Page
from amaru.errors import RequestError
from amaru.gateway.access import Admin
from amaru.gateway.admin_bodies import ExpireIn, KeyIn, KeysOut, RotateIn, body_of
from amaru.gateway.admin_desk import AdminDesk, as_it_was, asked_page, flag, id_of, tagged
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import query_of

_ONCE = re.compile("[!-~]{1,255}")


class AdminKeys:
    """The endpoints about keys."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._keys = desk.directory.keys

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        read, operate, own = Role
        keys = "/admin/keys"
        return [
            Entry("GET", keys, read, self.keys),
            Entry("POST", keys, own, self.create),
            Entry("GET", f"{keys}/{{id}}", read, self.key),
            Entry("DELETE", f"{keys}/{{id}}", operate, self.revoke),
            Entry("POST", f"{keys}/{{id}}/rotate", own, self.rotate),
            Entry("POST", f"{keys}/{{id}}/expire", operate, self.expire),
        ]

    async def keys(self, request: Request, _: Admin) -> Response:
        """Keys by id, a page at a time; nothing of them opens anything."""
        query = query_of(request, ("cursor", "limit", "over", "tenant"))
        (cursor, limit), over = asked_page(query), flag(query, "over")

        def read() -> Page[KeyInfo]:
            return self._keys.page(tenant=query.get("tenant"), over=over, cursor=cursor, limit=limit)

        return json_answer(KeysOut(*await self._desk.read(read)))

    async def key(self, request: Request, _: Admin) -> Response:
        """One of them, over or not."""
        return tagged(await self._desk.read(lambda: self._keys.get(id_of(request))))

    async def create(self, request: Request, admin: Admin) -> Response:
        """A new key, shown here and never again."""
        asked, once = await body_of(request, KeyIn), _once(request)
        if (asked.tenant is None) is (asked.role is None):
            raise RequestError(400, "Name a tenant, or the role of an admin key, and not both.", param="tenant")
        if asked.team is not None and asked.tenant is None:
            raise RequestError(400, "team: an admin key has no team; leave it out.", param="team")

        def create() -> NewKey:
            by, name, expires_at = admin.id, asked.name, asked.expires_at
            if asked.role is not None:
                return self._keys.create_admin(asked.role, by=by, name=name, expires_at=expires_at, once=once)
            tenant = asked.tenant or ""
            return self._keys.create(tenant, by=by, team=asked.team, name=name, expires_at=expires_at, once=once)

        made = await self._desk.change(create)
        return tagged(made.info, made, 201)

    async def rotate(self, request: Request, admin: Admin) -> Response:
        """Another key in its place, shown here and never again."""
        asked, once, check = await body_of(request, RotateIn), _once(request), as_it_was(request)

        def rotate() -> NewKey:
            overlap_s, ends = asked.overlap_s, asked.expires_at
            return self._keys.rotate(
                id_of(request), by=admin.id, overlap_s=overlap_s, expires_at=ends, once=once, check=check
            )

        made = await self._desk.change(rotate)
        return tagged(made.info, made, 201)

    async def expire(self, request: Request, admin: Admin) -> Response:
        """It opens nothing from an instant on, or lasts."""
        asked, check = await body_of(request, ExpireIn), as_it_was(request)
        at = asked.expires_at
        if (at is None) is not asked.lasts:
            raise RequestError(400, "Name expires_at, or say `lasts: true`, and not both.", param="expires_at")

        def expire() -> KeyInfo:
            self._require_own(id_of(request), admin)
            return self._keys.expire(id_of(request), at, by=admin.id, check=check)

        return tagged(await self._desk.change(expire))

    async def revoke(self, request: Request, admin: Admin) -> Response:
        """It opens nothing from now on, for ever."""
        check = as_it_was(request)

        def revoke() -> KeyInfo:
            self._require_own(id_of(request), admin)
            return self._keys.revoke(id_of(request), by=admin.id, check=check)

        return tagged(await self._desk.change(revoke))

    def _require_own(self, id: str, admin: Admin) -> None:
        """Admins' keys are the owners': no operator shuts out another, or an owner."""
        if self._keys.get(id).role is not None:
            admin.require(Role.OWN)


def _once(request: Request) -> str | None:
    """The Idempotency-Key (draft-ietf-httpapi-idempotency-key-header), if there is one. Raises ``RequestError``."""
    given = request.headers.get("idempotency-key")
    if given is not None and not _ONCE.fullmatch(given):
        raise RequestError(
            400, "Header idempotency-key: 1 to 255 printable ASCII characters, no spaces.", param="idempotency-key"
        )
    return given
