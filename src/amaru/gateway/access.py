"""Who may call what.

A tenant's key opens the serving endpoints and the tenant's own decisions; an operator's key opens what is about all
tenants. Keys are the configuration's or the accounts' store's; an admin's key of the store opens what its role does,
and an operator's key of the configuration everything. The keyring is asked for anew with each request, so that a reload
takes effect at once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from amaru.accounts.changes import Changes
from amaru.accounts.directory_keys import Role
from amaru.accounts.keys import bearer
from amaru.accounts.pepper import is_formed
from amaru.domain import Tenant
from amaru.errors import RequestError
from amaru.gateway.answers import respond_error
from amaru.http1 import Request
from amaru.mesh import Mesh
from amaru.mesh.accounts import Caller, MeshAccounts

SEEN = 10_000
"""Headers that were good before, so that a busy caller's key is looked for once; then the memory begins anew."""
_LONGEST_SEEN = 256
"""Bytes of a header that is remembered."""
_RANKS = {role: rank for rank, role in enumerate(Role)}


class Admin(NamedTuple):
    """Who uses the admin API."""

    id: str
    """As the audit names them: a key's id, or an operator of the file."""
    role: Role

    def may(self, role: Role) -> bool:
        """Whether they may do what needs this role."""
        return _RANKS[self.role] >= _RANKS[role]

    def require(self, role: Role) -> None:
        """Raises ``RequestError`` 403 unless they may do what needs this role."""
        if not self.may(role):
            raise RequestError(
                403,
                f"This needs an admin key with the role {role}; {self.id} has {self.role}.",
                type="permission_error",
                code="insufficient_permissions",
            )


class Access:
    """Checks the keys of requests against the mesh's keyring of the moment, and the accounts' store if there is one."""

    def __init__(self, mesh: Mesh, accounts: MeshAccounts | None = None) -> None:
        self._mesh = mesh
        self._accounts = accounts
        self._keyring = mesh.keyring
        self._seen: dict[bytes, Caller] = {}
        if accounts is not None:
            accounts.watchers.append(self._forget)

    def _forget(self, _: Changes) -> None:
        """Of each key it is asked anew after each look at the store: whether it was revoked, or has expired."""
        self._seen.clear()

    # ---- callers ------------------------------------------------------------------------------------------------

    def serve(
        self, request: Request, answer: Callable[[Request, Caller], Coroutine[Any, Any, None] | None]
    ) -> Coroutine[Any, Any, None] | None:
        """Have ``answer`` answer a caller; who is none is told so here."""
        try:
            caller = self.known(request)
        except RequestError as error:
            respond_error(request, error)
            return None
        return self._serve_later(request, answer) if caller is None else answer(request, caller)

    async def _serve_later(
        self, request: Request, answer: Callable[[Request, Caller], Coroutine[Any, Any, None] | None]
    ) -> None:
        try:
            caller = await self.caller(request)
        except RequestError as error:
            respond_error(request, error)
            return
        answering = answer(request, caller)
        if answering is not None:
            await answering

    def known(self, request: Request) -> Caller | None:
        """Who calls, without asking the store; ``None``: ``caller`` can tell. Raises ``RequestError`` 401."""
        headers = request.headers
        return self._known(headers.get(b"authorization"), headers.get(b"x-api-key"))

    async def caller(self, request: Request) -> Caller:
        """Who calls. Raises ``RequestError`` 401, 403 where it is an admin's key, 503 where the store cannot tell."""
        headers = request.headers
        return await self._caller(headers.get(b"authorization"), headers.get(b"x-api-key"))

    def _known(self, authorization: bytes | None, api_key: bytes | None) -> Caller | None:
        keyring = self._mesh.keyring
        if keyring is not self._keyring:
            self._keyring = keyring
            self._seen.clear()
        presented = api_key if authorization is None else authorization
        if presented is None:
            return Caller(keyring.tenant_of(None))
        caller = self._seen.get(presented)
        if caller is not None:
            return caller
        key = presented if authorization is None else bearer(presented)
        tenant = None if key is None else keyring.known(key)
        if tenant is not None:
            caller = Caller(tenant)
        elif (ours := self._of_store(key)) is not None and self._accounts is not None:
            caller = self._accounts.known(ours)
        else:
            return Caller(keyring.tenant_of_key(key) if authorization is None else keyring.tenant_of(authorization))
        if caller is not None and len(presented) <= _LONGEST_SEEN:
            if len(self._seen) >= SEEN:
                self._seen.clear()
            self._seen[presented] = caller
        return caller

    async def _caller(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        caller = self._known(authorization, api_key)
        if caller is None and self._accounts is not None:
            key = self._of_store(api_key if authorization is None else bearer(authorization))
            caller = await self._accounts.find(key or b"")
        assert caller is not None, "only the store's keys are not known at once"
        return caller

    def _of_store(self, key: bytes | None) -> bytes | None:
        """The key, if it may be one of the store's: what has not their form is none, without a look."""
        if self._accounts is None or key is None:
            return None
        key = key.strip()
        return key if is_formed(key) else None

    # ---- admins -------------------------------------------------------------------------------------------------

    async def tenant_or_admin(self, authorization: bytes | None, api_key: bytes | None) -> Tenant | None:
        """The tenant to whom an answer is limited; ``None``: an admin, who sees all. Raises ``RequestError``."""
        if self._mesh.keyring.is_operator(authorization):
            return None
        try:
            return (await self._caller(authorization, api_key)).tenant
        except RequestError as error:
            if error.status == 403:  # no tenant's, but an admin's
                await self.require(Role.READ, authorization)
                return None
            raise

    async def refusal(self, role: Role, authorization: bytes | None) -> str:
        """Why the header's key opens what needs ``role`` no more, for streams that go on; empty: it does."""
        try:
            await self.require(role, authorization)
        except RequestError as error:
            return error.message
        return ""

    async def require(self, role: Role, authorization: bytes | None) -> Admin:
        """Whose key the header holds, if it opens what needs ``role``. Raises ``RequestError`` 401, 403, 503."""
        operator = self._mesh.keyring.operator(authorization)
        if operator is not None:
            return Admin(operator, Role.OWN)
        key = self._of_store(None if authorization is None else bearer(authorization))
        if key is not None and self._accounts is not None and self._mesh.keyring.known(key) is None:
            info = await self._accounts.key(key)
            if info.role is not None:
                admin = Admin(info.id, info.role)
                admin.require(role)
                return admin
        try:
            self._mesh.keyring.require_operator(authorization)
        except RequestError as error:
            if error.status != 403:
                raise
            said = f"{error.message} An admin key with the role {role} opens this too."
            raise RequestError(403, said, type=error.type, code=error.code) from None
        raise AssertionError("the keyring knows no operator, and refuses none")
