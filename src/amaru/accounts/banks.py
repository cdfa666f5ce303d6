"""Which bank a URL names, and where its leases are read."""

from __future__ import annotations

import importlib.util

from amaru.accounts.bank import Bank
from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.store import Store
from amaru.accounts.usage import Leases
from amaru.errors import StorageError


def bank_at(store: Store, leases_url: str = "", *, prefix: str = "") -> Bank:
    """The bank whose leases lie at ``redis://…`` or ``rediss://…``; without a URL in the store itself.

    ``prefix`` is that of Redis' keys, by default amaru's. Raises StorageError; nothing is connected yet.
    """
    if not leases_url:
        return SqlBank(store)
    _require_redis(leases_url)
    from amaru.accounts.bank_redis import PREFIX, RedisBank

    return RedisBank(store, leases_url, prefix=prefix or PREFIX)


def leases_at(leases_url: str = "", *, prefix: str = "") -> Leases:
    """What of counters is leased as its banks keep it, beside what the store has. Arguments and errors as above."""
    if not leases_url:
        return lambda _: {}
    _require_redis(leases_url)
    from amaru.accounts.bank_redis import PREFIX
    from amaru.accounts.leases_redis import RedisLeases

    return RedisLeases(leases_url, prefix=prefix or PREFIX)


def _require_redis(leases_url: str) -> None:
    scheme = leases_url.partition("://")[0]
    if scheme not in ("redis", "rediss"):
        raise StorageError(f"{scheme}://…: leases cannot lie there. Write redis://host:6379/0, or leave it out.")
    if importlib.util.find_spec("redis") is None:
        raise StorageError("Redis needs redis-py: pip install 'amaru[redis]'.")
