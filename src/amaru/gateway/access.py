"""Who may call what.

A tenant's key opens the serving endpoints and the tenant's own decisions; an operator's key opens what is about all
tenants. The keyring is asked for anew with each request, so that a reload takes effect at once.
"""

from __future__ import annotations

from amaru.domain import Tenant
from amaru.http1 import Request
from amaru.mesh import Mesh


class Access:
    """Checks the keys of requests against the mesh's keyring of the moment."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def tenant_of(self, request: Request) -> Tenant:
        """The tenant whose key the request carries. Raises ``RequestError`` 401."""
        headers = request.headers
        return self.tenant(headers.get(b"authorization"), headers.get(b"x-api-key"))

    def tenant(self, authorization: bytes | None, api_key: bytes | None) -> Tenant:
        """The tenant behind either header. Raises ``RequestError`` 401."""
        keyring = self._mesh.keyring
        if authorization is None and api_key is not None:
            return keyring.tenant_of_key(api_key)
        return keyring.tenant_of(authorization)

    def is_operator(self, authorization: bytes | None) -> bool:
        """Whether the header holds an operator's key."""
        return self._mesh.keyring.is_operator(authorization)

    def require_operator(self, authorization: bytes | None) -> None:
        """Raises ``RequestError`` 401 or 403 unless the header holds an operator's key."""
        self._mesh.keyring.require_operator(authorization)
