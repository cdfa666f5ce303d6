"""Which bank a URL names."""

from __future__ import annotations

from amaru.accounts.bank import Bank
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.store import Store
from amaru.errors import StorageError


def bank_at(store: Store, leases_url: str = "", *, prefix: str = "") -> Bank:
    """The bank whose leases lie at ``redis://…`` or ``rediss://…``; without a URL in the store itself.

    ``prefix`` is that of Redis' keys, by default amaru's. Raises StorageError; nothing is connected yet.
    """
    if not leases_url:
        return SqlBank(store)
    scheme = leases_url.partition("://")[0]
    if scheme not in ("redis", "rediss"):
        raise StorageError(f"{scheme}://…: leases cannot lie there. Write redis://host:6379/0, or leave it out.")
    try:
        from amaru.accounts.bank_redis import PREFIX, RedisBank
    except ModuleNotFoundError:
        raise StorageError("Redis needs redis-py: pip install 'amaru[redis]'.") from None
    return RedisBank(store, leases_url, prefix=prefix or PREFIX)
