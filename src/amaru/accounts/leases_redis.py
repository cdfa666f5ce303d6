"""What of counters is leased, read from Redis for whoever shows budgets; ``bank_redis`` and ``turn.lua`` write it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from redis import RedisError

from amaru.accounts.bank import Key
from amaru.accounts.bank_redis import client, encode
from amaru.telemetry.logs import get_logger

log = get_logger("accounts")


class RedisLeases:
    """Gives what is leased of each counter. May be called from several threads.

    Parameters
    ----------
    url, prefix
        As of ``RedisBank``.

    Raises
    ------
    StorageError
        The URL cannot be read. Nothing is connected yet.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self._prefix = prefix
        self._redis = client(url)

    def __call__(self, keys: Collection[Key]) -> Mapping[Key, int] | None:
        """By counter; ``None``: Redis does not answer. Of a Redis that was restarted nothing is believed."""
        try:
            asking = self._redis.pipeline(transaction=False)
            asking.get(f"{self._prefix}epoch")
            asking.info("server")
            epoch, server = asking.execute()
            if epoch is None or not epoch.startswith(server["run_id"].encode()):
                return {}
            reading = self._redis.pipeline(transaction=False)
            for key in keys:
                reading.hget(f"{self._prefix}{epoch.decode()}:c:{encode(key)}", "leased")
            found = reading.execute()
        except RedisError as error:
            log.warning("leases_not_read", reason=" ".join(str(error).split())[:300])
            return None
        return {key: int(amount) for key, amount in zip(keys, found, strict=True) if amount is not None}
