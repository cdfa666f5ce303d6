"""What people ordered about providers: drained, or of less weight. Kept in the store, for every gateway over it."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, insert, select, update

from amaru.accounts.changes import ChangeLog, require_text
from amaru.accounts.schema import meta
from amaru.accounts.store import Store

_PREFIX = "provider:"
"""Of the rows' keys, and of the subjects in the audit."""


class ProviderOrder(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider is to be steered until somebody orders otherwise."""

    provider: str
    drained: bool = False
    """It serves only what no other offer can take."""
    weight: float = 1.0
    """In [0, 1]: the scores of its offers count so much."""
    by: str
    at: float
    """Unix seconds."""
    reason: str = ""

    @property
    def is_none(self) -> bool:
        """As configured."""
        return not self.drained and self.weight == 1.0


class ProviderOrders:
    """The orders in force."""

    def __init__(self, store: Store, log: ChangeLog) -> None:
        self._store = store
        self._log = log

    def all(self) -> dict[str, ProviderOrder]:
        """By provider; also of providers that are configured no more. Raises StorageError."""
        query = select(meta.c.value).where(meta.c.key.startswith(_PREFIX, autoescape=True)).order_by(meta.c.key)
        with self._store.reading() as connection:
            found = [msgspec.json.decode(text, type=ProviderOrder) for text in connection.execute(query).scalars()]
        return {order.provider: order for order in found}

    def set(self, order: ProviderOrder, action: str) -> None:
        """Put an order in place of the one before; one that orders nothing ends it. Raises AccountError, StorageError.

        ``action`` is what the audit calls it: ``provider.drain``, ``provider.enable``, ``provider.weight``.
        """
        require_text("a reason", order.reason, empty=True)
        key = f"{_PREFIX}{order.provider}"
        with self._log.changing(order.by) as change:
            value = change.connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar()
            before = None if value is None else msgspec.json.decode(value, type=ProviderOrder)
            if order.is_none:
                change.connection.execute(delete(meta).where(meta.c.key == key))
            elif before is None:
                change.connection.execute(insert(meta).values(key=key, value=_text(order)))
            else:
                change.connection.execute(update(meta).where(meta.c.key == key).values(value=_text(order)))
            change.note(action, key, before, None if order.is_none else order)


def _text(order: ProviderOrder) -> str:
    return msgspec.json.encode(order).decode()
