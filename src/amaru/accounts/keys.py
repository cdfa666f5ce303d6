"""Who is calling: from a key to its tenant.

amaru keeps only the SHA-256 of each key. A slow hash (bcrypt, scrypt, Argon2) guards passwords, which people choose
and attackers can list; a key of 32 random bytes cannot be listed, so one fast hash already costs an attacker 2^255
tries on average, and a slow one would cost every request milliseconds and hand anyone a way to exhaust the CPU.

The lookup is an ordinary dictionary on digests. Its timing tells nothing of use: to steer a digest byte by byte
towards a stored one is to invert SHA-256.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from amaru.domain import Tenant
from amaru.errors import RequestError

KEY_PREFIX = "sk-amaru-"
"""Lets secret scanners and people recognise a key of ours."""

ANONYMOUS = Tenant(id="anonymous")
"""The caller where nobody needs a key."""
HOUSE = Tenant(id="amaru")
"""Whom requests of amaru's own are charged to: probes. It has budgets, and no keys; nobody else has its name."""

_sha256 = hashlib.sha256


def hash_key(key: str) -> str:
    """Lower-case hex SHA-256 of a key, as ``tenants.*.keys[].sha256`` in the configuration holds it."""
    return _sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh key: ``sk-amaru-`` and 32 bytes from the system's random source, in URL-safe base64 (43 characters)."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


class KeyRing:
    """Finds the tenant of a request by its key; immutable, so that a reload swaps the whole ring.

    Parameters
    ----------
    tenants
        Every tenant, with the hex SHA-256 of its keys. No key may belong to two of them.
    operator_hashes
        Hex SHA-256 of the operators' keys.
    anonymous
        Who a caller without a known key is; ``None``: such callers are refused.
    """

    __slots__ = ("_anonymous", "_operators", "_tenants")

    def __init__(
        self, tenants: Iterable[Tenant], operator_hashes: Iterable[str] = (), *, anonymous: Tenant | None = None
    ) -> None:
        self._tenants: dict[bytes, Tenant] = {}
        for tenant in tenants:
            for key_hash in tenant.key_hashes:
                other = self._tenants.setdefault(bytes.fromhex(key_hash), tenant)
                if other is not tenant:
                    raise ValueError(f"tenants {other.id} and {tenant.id} share a key")
        self._operators = frozenset(bytes.fromhex(key_hash) for key_hash in operator_hashes)
        self._anonymous = anonymous

    def tenant_of(self, authorization: bytes | None) -> Tenant:
        """The tenant behind an ``Authorization: Bearer …`` header (RFC 6750; the scheme's case does not count).

        Raises ``RequestError`` 401 with OpenAI's code ``invalid_api_key``. It never holds the key.
        """
        if authorization is None:
            return self._without_key(False)
        key = bearer(authorization)
        return self._without_key(True) if key is None else self._find(key)

    def tenant_of_key(self, key: bytes | None) -> Tenant:
        """The tenant behind a bare key, as the ``x-api-key`` header holds it. Raises as ``tenant_of`` does."""
        return self._find(key) if key else self._without_key(False)

    def known(self, key: bytes) -> Tenant | None:
        """Whose a bare key is; ``None``: nobody's here."""
        # Clients and shells add stray spaces around a key, which HTTP allows around a value.
        return self._tenants.get(_sha256(key).digest()) or self._tenants.get(_sha256(key.strip()).digest())

    def operator(self, authorization: bytes | None) -> str | None:
        """A name for the operator whose key the header holds; ``None``: it holds none.

        Where nobody needs a key and no operator's key is configured, everybody is one: such a server listens on
        loopback only.
        """
        if not self._operators:
            return None if self._anonymous is None else self._anonymous.id
        key = bearer(authorization) if authorization is not None else None
        digest = b"" if key is None else _sha256(key).digest()
        # So much of a hash tells operators apart in an audit, and nothing of their keys.
        return f"operator:{digest.hex()[:8]}" if digest in self._operators else None

    def is_operator(self, authorization: bytes | None) -> bool:
        """Whether the header holds an operator's key."""
        return self.operator(authorization) is not None

    def require_operator(self, authorization: bytes | None) -> None:
        """Raises ``RequestError`` 401 without a key, and 403 with a key that is no operator's."""
        if self.is_operator(authorization):
            return
        if authorization is None:
            raise RequestError(
                401,
                "This endpoint needs an operator's or an admin's key. Send it as `Authorization: Bearer KEY`.",
                type="authentication_error",
                code="invalid_api_key",
            )
        remedy = "send one of them" if self._operators else "add one under `server.operator_keys`"
        raise RequestError(
            403, f"This key is not an operator's: {remedy}.", type="permission_error", code="insufficient_permissions"
        )

    def _find(self, key: bytes) -> Tenant:
        tenant = self.known(key) or self._anonymous
        if tenant is None:
            raise RequestError(
                401,
                "Incorrect API key. Use a key that belongs to a tenant of this gateway, not a provider's key.",
                type="invalid_request_error",
                code="invalid_api_key",
            )
        return tenant

    def _without_key(self, header_present: bool) -> Tenant:
        if self._anonymous is not None:
            return self._anonymous
        problem = (
            "The Authorization header is not of the form" if header_present else "No API key was given. Send it as"
        )
        raise RequestError(
            401, f"{problem} `Authorization: Bearer KEY`.", type="invalid_request_error", code="invalid_api_key"
        )


def bearer(authorization: bytes) -> bytes | None:
    """The key in an ``Authorization: Bearer …`` header; ``None``: it is of another form."""
    scheme, _, key = authorization.strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" and key else None
