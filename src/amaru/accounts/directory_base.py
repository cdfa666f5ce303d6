"""What the parts of the directory share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from amaru.accounts.allowances import Allowance
from amaru.accounts.changes import ChangeLog
from amaru.accounts.store import Store
from amaru.domain import Tenant
from amaru.errors import AccountError

T = TypeVar("T")
Check = Callable[[T], None]
"""Gets what there is, within the transaction that changes it; raises where that is not what was to be changed."""
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class FromFile(msgspec.Struct, frozen=True):
    """What the configuration has: its names are taken, and it is changed there alone."""

    path: str = "amaru.yaml"
    by_id: dict[str, Tenant] = {}
    allowances: tuple[Allowance, ...] = ()
    resources: frozenset[str] = frozenset()
    """What its offers are of: models, as callers ask for them."""
    providers: frozenset[str] = frozenset()

    @property
    def tenants(self) -> frozenset[str]:
        """Names of its tenants."""
        return frozenset(self.by_id)


class Desk(msgspec.Struct):
    """Where the parts of the directory work: one store, one log of changes, one clock."""

    store: Store
    log: ChangeLog
    clock: Callable[[], float]
    from_file: FromFile


def unchecked(_: object) -> None:
    """Whatever there is."""


def require_identifier(what: str, id: str) -> str:
    """The name. Raises AccountError where it could not stand in a URL, a metric and a file alike."""
    if not _IDENTIFIER.fullmatch(id):
        raise AccountError(
            f"{what} must be 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first."
        )
    return id
