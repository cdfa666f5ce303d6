"""How long known keys are trusted while their store does not answer: nobody here would hear of a revocation."""

from __future__ import annotations

import time
from collections.abc import Callable

from amaru.domain import Tenant
from amaru.errors import RequestError
from amaru.telemetry.logs import get_logger

TRUST_S = 300.0
RETRY_S = 1.0

log = get_logger("mesh")


class KeyTrust:
    """When the store was last heard of, and whom that binds. Belongs to one event loop.

    Parameters
    ----------
    clock
        Seconds that only rise.

    Attributes
    ----------
    refused
        How often a key was refused because it could not be checked.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused = 0
        self.clock = clock
        self._bound_s = TRUST_S
        self._is_open = False
        self._heard = clock()
        self._is_told = False

    def take(self, bound_s: float, *, is_open: bool) -> None:
        """Trust for so many seconds from now on; ``is_open``: of tenants that do not have it otherwise, for ever."""
        self._bound_s = bound_s
        self._is_open = is_open

    def heard(self, at: float) -> None:
        """All that was changed until then, by ``clock``, is known here."""
        self._heard = at
        if self._is_told:
            self._is_told = False
            log.info("keys_trusted_again")

    @property
    def silent_s(self) -> float:
        """For how long nothing was heard of the store."""
        return max(self.clock() - self._heard, 0.0)

    @property
    def is_over(self) -> bool:
        """Too long ago."""
        return self.clock() - self._heard > self._bound_s

    def tell(self) -> bool:
        """Say so in the log, once, if it is over; whether that was now."""
        if not self.is_over or self._is_told:
            return False
        self._is_told = True
        log.error(
            "keys_not_trusted",
            silent_s=round(self.silent_s, 1),
            bound_s=self._bound_s,
            remedy="mend the accounts' store; keys of the configuration file open meanwhile",
        )
        return True

    def require(self, tenant: Tenant | None = None) -> None:
        """Raises ``RequestError`` 503 where a key of ``tenant``, or an admin's, can be trusted no longer."""
        if not self.is_over:
            return
        if tenant is not None:
            serves = tenant.serves_without_store
            if self._is_open if serves is None else serves:
                return
        self.refused += 1
        said = f"Keys cannot be checked: the accounts' store has not answered for {self.silent_s:.0f} s."
        raise RequestError(
            503, f"{said} Try again shortly.", type="api_error", code="accounts_unavailable", retry_after_s=RETRY_S
        )
