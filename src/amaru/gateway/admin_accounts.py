"""Tenants, teams, keys, budgets, limits and the audit over HTTP.

A change is taken in here before it is answered: a key that was made opens at once, one that was revoked no more. Other
gateways over the same store follow within a second.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from amaru.accounts.allowances import Allowance, Scope
from amaru.accounts.directory_keys import KeyInfo, NewKey, Role
from amaru.accounts.directory_tenants import TenantInfo
from amaru.accounts.usage import Usage, usage
from amaru.errors import RequestError
from amaru.gateway.access import Admin
from amaru.gateway.admin_bodies import (
    AllowanceIn,
    AllowancesOut,
    AuditOut,
    ExpireIn,
    KeyIn,
    KeysOut,
    RotateIn,
    TeamIn,
    TeamsOut,
    TenantChange,
    TenantIn,
    TenantsOut,
    allowance_out,
    body_of,
)
from amaru.gateway.admin_gate import Entry
from amaru.gateway.answers import json_answer
from amaru.gateway.queries import limit_of, query_of
from amaru.mesh.accounts import MeshAccounts

T = TypeVar("T")
_CURSOR = re.compile("[0-9]{1,18}")
_ONCE = re.compile("[!-~]{1,255}")


class AdminAccounts:
    """The endpoints about accounts."""

    def __init__(self, accounts: MeshAccounts, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._directory = accounts.directory
        self._clock = clock

    def table(self) -> list[Entry]:
        """What it answers, and to whom."""
        read, operate, own = Role
        tenants, teams, keys, budgets = (
            "/admin/tenants",
            "/admin/tenants/{id}/teams",
            "/admin/keys",
            "/admin/allowances",
        )
        return [
            Entry("GET", tenants, read, self.tenants),
            Entry("POST", tenants, own, self.create_tenant),
            Entry("GET", f"{tenants}/{{id}}", read, self.tenant),
            Entry("PATCH", f"{tenants}/{{id}}", own, self.change_tenant),
            Entry("DELETE", f"{tenants}/{{id}}", own, self.archive_tenant),
            Entry("POST", f"{tenants}/{{id}}/restore", own, self.restore_tenant),
            Entry("GET", teams, read, self.teams),
            Entry("POST", teams, own, self.create_team),
            Entry("DELETE", f"{teams}/{{team}}", own, self.archive_team),
            Entry("POST", f"{teams}/{{team}}/restore", own, self.restore_team),
            Entry("GET", keys, read, self.keys),
            Entry("POST", keys, own, self.create_key),
            Entry("GET", f"{keys}/{{id}}", read, self.key),
            Entry("DELETE", f"{keys}/{{id}}", operate, self.revoke_key),
            Entry("POST", f"{keys}/{{id}}/rotate", operate, self.rotate_key),
            Entry("POST", f"{keys}/{{id}}/expire", operate, self.expire_key),
            Entry("GET", budgets, read, self.allowances),
            Entry("POST", budgets, own, self.set_allowance),
            Entry("GET", f"{budgets}/{{id:path}}", read, self.allowance),
            Entry("DELETE", f"{budgets}/{{id:path}}", own, self.archive_allowance),
            Entry("GET", "/admin/audit", read, self.audit),
        ]

    # ---- tenants and teams --------------------------------------------------------------------------------------

    async def tenants(self, request: Request, _: Admin) -> Response:
        """Every tenant; with ``archived=true`` also those that may not ask."""
        archived = _flag(query_of(request, ("archived",)), "archived")
        return json_answer(TenantsOut(await self._accounts.run(self._directory.tenants.all, archived=archived)))

    async def tenant(self, request: Request, _: Admin) -> Response:
        """One of them, archived or not."""
        return _tagged(await self._accounts.run(self._directory.tenants.get, _id(request)))

    async def create_tenant(self, request: Request, admin: Admin) -> Response:
        """A new tenant."""
        asked = await body_of(request, TenantIn)
        settings = asked.settings.model_dump(mode="json", exclude_unset=True)
        return json_answer(
            await self._change(
                lambda: self._directory.tenants.create(asked.id, by=admin.id, name=asked.name, settings=settings)
            ),
            201,
        )

    async def change_tenant(self, request: Request, admin: Admin) -> Response:
        """Another title, or other settings in place of all that it had; with ``If-Match`` only if it is as it was."""
        asked = await body_of(request, TenantChange)
        settings = None if asked.settings is None else asked.settings.model_dump(mode="json", exclude_unset=True)
        wanted = request.headers.get("if-match", "*")

        def check(found: TenantInfo) -> None:
            if wanted.strip() != "*" and _tag(found) not in [one.strip() for one in wanted.split(",")]:
                said = f"Tenant {found.id} was changed by somebody else; read it anew."
                raise RequestError(412, said, code="changed_meanwhile", param="if-match")

        return _tagged(
            await self._change(
                lambda: self._directory.tenants.change(
                    _id(request), by=admin.id, name=asked.name, settings=settings, check=check
                )
            )
        )

    async def archive_tenant(self, request: Request, admin: Admin) -> Response:
        """Its keys open nothing from now on; its history stays."""
        return json_answer(await self._change(lambda: self._directory.tenants.archive(_id(request), by=admin.id)))

    async def restore_tenant(self, request: Request, admin: Admin) -> Response:
        """An archived one may ask again."""
        return json_answer(await self._change(lambda: self._directory.tenants.restore(_id(request), by=admin.id)))

    async def teams(self, request: Request, _: Admin) -> Response:
        """Teams of a tenant."""
        archived = _flag(query_of(request, ("archived",)), "archived")

        def read() -> TeamsOut:
            self._directory.tenants.get(_id(request))
            return TeamsOut(self._directory.teams.all(_id(request), archived=archived))

        return json_answer(await self._accounts.run(read))

    async def create_team(self, request: Request, admin: Admin) -> Response:
        """A new team."""
        asked = await body_of(request, TeamIn)
        return json_answer(
            await self._change(
                lambda: self._directory.teams.create(_id(request), asked.id, by=admin.id, name=asked.name)
            ),
            201,
        )

    async def archive_team(self, request: Request, admin: Admin) -> Response:
        """Its keys open nothing from now on."""
        team: str = request.path_params["team"]
        return json_answer(await self._change(lambda: self._directory.teams.archive(_id(request), team, by=admin.id)))

    async def restore_team(self, request: Request, admin: Admin) -> Response:
        """Its keys open again what they did."""
        team: str = request.path_params["team"]
        return json_answer(await self._change(lambda: self._directory.teams.restore(_id(request), team, by=admin.id)))

    # ---- keys ---------------------------------------------------------------------------------------------------

    async def keys(self, request: Request, _: Admin) -> Response:
        """Keys by id, a page at a time; nothing of them opens anything."""
        query = query_of(request, ("cursor", "limit", "over", "tenant"))
        limit, over, after = limit_of(query), _flag(query, "over"), query.get("cursor")
        found = await self._accounts.run(
            self._directory.keys.page, tenant=query.get("tenant"), over=over, after=after, limit=limit + 1
        )
        page = found[:limit]
        return json_answer(KeysOut(page, page[-1].id if len(found) > limit else None))

    async def key(self, request: Request, _: Admin) -> Response:
        """One of them, over or not."""
        return json_answer(await self._accounts.run(self._directory.keys.get, _id(request)))

    async def create_key(self, request: Request, admin: Admin) -> Response:
        """A new key, shown here and never again."""
        asked = await body_of(request, KeyIn)
        keys, once = self._directory.keys, _once(request)
        if (asked.tenant is None) is (asked.role is None):
            raise RequestError(400, "Name a tenant, or the role of an admin key, and not both.", param="tenant")
        if asked.team is not None and asked.tenant is None:
            raise RequestError(400, "team: an admin key has no team; leave it out.", param="team")

        def create() -> NewKey:
            by, name, expires_at = admin.id, asked.name, asked.expires_at
            if asked.role is not None:
                return keys.create_admin(asked.role, by=by, name=name, expires_at=expires_at, once=once)
            tenant = asked.tenant or ""
            return keys.create(tenant, by=by, team=asked.team, name=name, expires_at=expires_at, once=once)

        return json_answer(await self._change(create), 201)

    async def rotate_key(self, request: Request, admin: Admin) -> Response:
        """Another key in its place, shown here and never again."""
        asked = await body_of(request, RotateIn)
        once = _once(request)

        def rotate() -> NewKey:
            self._mine(_id(request), admin)
            return self._directory.keys.rotate(
                _id(request), by=admin.id, overlap_s=asked.overlap_s, expires_at=asked.expires_at, once=once
            )

        return json_answer(await self._change(rotate), 201)

    async def expire_key(self, request: Request, admin: Admin) -> Response:
        """It opens nothing from an instant on, or lasts."""
        asked = await body_of(request, ExpireIn)
        at = asked.expires_at
        if (at is None) is not asked.lasts:
            raise RequestError(400, "Name expires_at, or say `lasts: true`, and not both.", param="expires_at")

        def expire() -> KeyInfo:
            self._mine(_id(request), admin)
            return self._directory.keys.expire(_id(request), at, by=admin.id)

        return json_answer(await self._change(expire))

    async def revoke_key(self, request: Request, admin: Admin) -> Response:
        """It opens nothing from now on, for ever."""

        def revoke() -> KeyInfo:
            self._mine(_id(request), admin)
            return self._directory.keys.revoke(_id(request), by=admin.id)

        return json_answer(await self._change(revoke))

    def _mine(self, id: str, admin: Admin) -> None:
        """Admins' keys are the owners': an operator who rotates one would get a key with its role."""
        if self._directory.keys.get(id).role is not None:
            admin.require(Role.OWN)

    # ---- budgets and limits -------------------------------------------------------------------------------------

    async def allowances(self, request: Request, _: Admin) -> Response:
        """Budgets and limits with what is left of them."""
        query = query_of(request, ("scope", "subject"))
        if query.get("scope", Scope.KEY) not in list(Scope):
            raise RequestError(400, f"scope must be one of {', '.join(Scope)}.", param="scope")

        def read() -> AllowancesOut:
            wanted = [
                one
                for one in self._directory.allowances.all()
                if query.get("scope", one.scope) == one.scope and query.get("subject", one.subject) == one.subject
            ]
            return AllowancesOut([allowance_out(one) for one in usage(self._directory.store, wanted, self._clock())])

        return json_answer(await self._accounts.run(read))

    async def allowance(self, request: Request, _: Admin) -> Response:
        """One of them."""
        return json_answer(
            allowance_out(await self._accounts.run(lambda: self._used(self._directory.allowances.get(_id(request)))))
        )

    async def set_allowance(self, request: Request, admin: Admin) -> Response:
        """Set one, in place of what there was; what was used of it stays used."""
        wanted = (await body_of(request, AllowanceIn)).allowance()
        used = await self._change(lambda: self._used(self._directory.allowances.set(wanted, by=admin.id)))
        return json_answer(allowance_out(used))

    async def archive_allowance(self, request: Request, admin: Admin) -> Response:
        """It binds nobody from now on."""
        used = await self._change(lambda: self._used(self._directory.allowances.archive(_id(request), by=admin.id)))
        return json_answer(allowance_out(used))

    # ---- the audit ----------------------------------------------------------------------------------------------

    async def audit(self, request: Request, _: Admin) -> Response:
        """Who changed what, newest first, a page at a time."""
        query = query_of(request, ("cursor", "limit", "subject"))
        limit, cursor = limit_of(query), query.get("cursor")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise RequestError(400, "cursor must be the next_cursor of the page before.", param="cursor")
        before = None if cursor is None else int(cursor)
        found = await self._accounts.run(
            self._directory.log.page, limit + 1, before=before, subject=query.get("subject")
        )
        page = found[:limit]
        return json_answer(AuditOut(page, str(page[-1].id) if len(found) > limit else None))

    def _used(self, allowance: Allowance) -> Usage:
        return usage(self._directory.store, [allowance], self._clock())[0]

    async def _change(self, change: Callable[[], T]) -> T:
        """Have a change made, and take it in before anybody is told."""
        made = await self._accounts.run(change)
        await self._accounts.look()
        return made


def _tag(tenant: TenantInfo) -> str:
    """Its entity tag (RFC 9110, section 8.8.3): another one for each change."""
    return f'"{hashlib.sha256(msgspec.json.encode(tenant, order="deterministic")).hexdigest()[:16]}"'


def _tagged(tenant: TenantInfo) -> Response:
    answer = json_answer(tenant)
    answer.headers["etag"] = _tag(tenant)
    return answer


def _id(request: Request) -> str:
    id: str = request.path_params["id"]
    return id


def _flag(query: dict[str, str], name: str) -> bool:
    if query.get(name, "false") not in ("true", "false"):
        raise RequestError(400, f"{name} must be `true` or `false`.", param=name)
    return query.get(name) == "true"


def _once(request: Request) -> str | None:
    """The Idempotency-Key (draft-ietf-httpapi-idempotency-key-header), if there is one. Raises ``RequestError``."""
    given = request.headers.get("idempotency-key")
    if given is not None and not _ONCE.fullmatch(given):
        raise RequestError(
            400, "Header idempotency-key: 1 to 255 printable ASCII characters, no spaces.", param="idempotency-key"
        )
    return given
