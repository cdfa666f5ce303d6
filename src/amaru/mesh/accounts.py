"""The accounts' store, wired to a live gateway: whose a key is, and what others changed.

A task looks twice a second at what was changed, by whichever process: so a key that was revoked opens nothing a second
later. While the store is away, keys that are known here go on for a while (``accounts_trust``), unknown ones are told
to come again, and nobody else is let in. All that blocks runs on threads of its own: a store that hangs holds up
nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, ParamSpec, TypeVar

from amaru.accounts.banks import leases_at
from amaru.accounts.changes import Changes
from amaru.accounts.directory import Directory
from amaru.accounts.directory_base import FromFile
from amaru.accounts.directory_keys import KeyInfo
from amaru.accounts.key_cache import KeyCache, admit
from amaru.accounts.store import Store
from amaru.accounts.usage import Leases
from amaru.config import Config
from amaru.domain import Tenant
from amaru.errors import AccountError, RequestError, StorageError, UnknownAccount
from amaru.mesh.accounts_trust import RETRY_S, KeyTrust
from amaru.telemetry.logs import get_logger

EVERY_S = 0.5
"""How often it is looked at what was changed."""
LOOKUP_S = 2.0
"""How long a request with a key that is not known here may wait for the store."""
THREADS = 8
UPKEEP_EVERY_S = 60.0
"""How often the store is told when keys were last used, and rid of what is older than its retention."""

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger("mesh")


class Caller(NamedTuple):
    """Who calls."""

    tenant: Tenant
    team: str | None = None
    key: str | None = None
    """The lineage of a key of the store; ``None``: a key of the file, or none."""


class MeshAccounts:
    """The directory of a gateway, and whose its keys are. Belongs to one event loop.

    Parameters
    ----------
    directory
        Of a store that is not open yet.
    clock
        Unix seconds.
    leases
        Where leases are read that the store does not have.

    Attributes
    ----------
    watchers
        Called on the loop after each look, with what was changed; nothing, where the store failed.
    failure
        Why the store cannot be read; empty: it can.
    trust
        How long known keys go on while it cannot.
    """

    def __init__(
        self, directory: Directory, *, clock: Callable[[], float] = time.time, leases: Leases = lambda _: {}
    ) -> None:
        self.directory = directory
        self.leases = leases
        self.watchers: list[Callable[[Changes], None]] = []
        self.failure = "not open yet"
        self.trust = KeyTrust()
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, "amaru-accounts")
        self._keys = KeyCache(directory, clock=clock, run=self.run)
        self._tenants: dict[str, Tenant] = {}  # of the store, those that were asked for
        self._version = -1
        self._is_open = False
        self._looking = asyncio.Lock()  # an older look must not be taken in after a newer one
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def of(cls, config: Config) -> MeshAccounts:
        """Those of a configuration. Raises StorageError: its URL leads nowhere."""
        accounts = config.accounts
        directory = Directory(Store(accounts.url), accounts.pepper, config.from_file())
        made = cls(directory, leases=leases_at(accounts.redis_url or ""))
        made.bind(config)
        return made

    def bind(self, config: Config) -> None:
        """Trust known keys as long as a configuration says."""
        accounts = config.accounts
        self.trust.take(accounts.trust_known_keys_s, is_open=accounts.serves_without_store)

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` gives, on a thread of the accounts' own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    # ---- who calls ----------------------------------------------------------------------------------------------

    def known(self, key: bytes) -> Caller | None:
        """Whose a key is, without asking the store; ``None``: ``find`` can tell. Raises as ``find`` does."""
        found = self._keys.find(key)
        return None if found is None else self._caller(admit(found, self._clock()))

    async def find(self, key: bytes) -> Caller:
        """Whose a key is.

        Raises ``RequestError``: 401 nobody's (revoked, expired), 403 an admin's, 503 the store cannot tell now.
        """
        info = await self.key(key)
        while (caller := self._caller(info)) is None:
            await self._fetch_tenant(info.tenant or "")
        return caller

    async def key(self, key: bytes) -> KeyInfo:
        """What the store has of a key. Raises ``RequestError`` as ``find`` does, but for admins' keys."""
        if not self._is_open:
            raise self._gone()
        self.trust.require()
        try:
            async with asyncio.timeout(LOOKUP_S):
                return admit(await self._keys.fetch(key), self._clock())
        except (StorageError, TimeoutError) as error:
            raise self._gone(error) from None

    def _caller(self, info: KeyInfo) -> Caller | None:
        if info.tenant is None:
            raise RequestError(
                403,
                f"Key {info.id} is an admin's: it opens the admin API, and asks nothing of providers. Use a tenant's.",
                type="permission_error",
                code="insufficient_permissions",
            )
        tenant = self.directory.from_file.by_id.get(info.tenant) or self._tenants.get(info.tenant)
        if tenant is None:
            return None
        self.trust.require(tenant)
        return Caller(tenant, info.team, info.lineage)

    async def _fetch_tenant(self, id: str) -> None:
        """Have ``_caller`` know a tenant of the store."""
        version = self._version
        try:
            async with asyncio.timeout(LOOKUP_S):
                tenant = (await self.run(self.directory.tenants.get, id)).tenant()
        except UnknownAccount:
            said = "This API key belongs to a tenant that is no longer configured."
            raise RequestError(401, said, type="invalid_request_error", code="invalid_api_key") from None
        except (StorageError, TimeoutError) as error:
            raise self._gone(error) from None
        if version == self._version:  # else what was changed meanwhile may not be in it
            self._tenants[id] = tenant

    def _gone(self, error: Exception | None = None) -> RequestError:
        log.warning("key_not_looked_up", reason=str(error or self.failure) or "the store does not answer")
        said = "The accounts' store is not available now, and this key is not known here; try again shortly."
        return RequestError(503, said, type="api_error", code="accounts_unavailable", retry_after_s=RETRY_S)

    # ---- following what is changed ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store and begin to follow it; one that cannot be opened now is tried again and again.

        Raises AccountError: the file and the store contradict each other.
        """
        await self._look()
        self._tasks = [asyncio.create_task(work()) for work in (self._follow, self._keep_up, self._keep_trust)]

    async def look(self) -> None:
        """Take in what was changed; where the store fails, ``failure`` says why."""
        try:
            await self._look()
        except AccountError as error:  # the file wins; a reload of it says so too
            self._fail(str(error))

    async def _look(self) -> None:
        async with self._looking:
            began = self.trust.clock()
            try:
                if not self._is_open:
                    await self.run(self.directory.store.open)
                    await self.run(self.directory.reload, self.directory.from_file)
                changes = await self._keys.refresh()
            except StorageError as error:
                self._fail(str(error))
                changes = Changes(self._version, frozenset())
            else:
                self.trust.heard(began)
                self._take_in(changes)
            for watcher in self.watchers:
                watcher(changes)

    def _take_in(self, changes: Changes) -> None:
        if self.failure and self._version >= 0:
            log.info("accounts_store_back")
        self.failure, self._is_open, self._version = "", True, changes.version
        if changes.subjects is None:
            self._tenants.clear()
        for subject in changes.subjects or ():
            self._tenants.pop(subject.removeprefix("tenant:"), None)

    def _fail(self, reason: str) -> None:
        if reason != self.failure:
            log.error("accounts_store_unavailable", reason=reason, remedy="keys that are known here go on for a while")
        self.failure = reason

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except Exception as error:  # a mistake of ours: the next look must come, else nobody hears of a revocation
                self._fail(f"{type(error).__name__}: {error}")

    async def _keep_trust(self) -> None:
        """Beside the looks: the store may hang, and whoever remembers callers must forget them in time."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self.trust.tell():
                for watcher in self.watchers:
                    watcher(Changes(self._version, frozenset()))

    async def _keep_up(self) -> None:
        """Beside the looks: a writer may have to wait for its turn."""
        while True:
            await asyncio.sleep(UPKEEP_EVERY_S)
            try:
                await self._keys.tell_used()
                await self.run(self.directory.prune)
            except StorageError:
                pass  # the next look says so
            except Exception as error:  # the next round must come
                log.error("accounts_upkeep_failed", error=type(error).__name__, exc_info=error)

    async def follow(self, from_file: FromFile) -> None:
        """Take another configuration. Raises AccountConflict: the store has what the file has."""
        try:
            await self.run(self.directory.reload, from_file)
        except StorageError:  # nothing can be compared now
            self.directory.take(from_file)

    async def remark(self, by: str, action: str, subject: str, after: object) -> None:
        """Write down what somebody ordered of this process; where the store is gone, the log has to do."""

        def note() -> None:
            with self.directory.log.changing(by) as change:
                change.remark(action, subject, after)

        try:
            await self.run(note)
        except StorageError as error:
            log.error("order_not_audited", by=by, action=action, reason=str(error))

    async def aclose(self) -> None:
        """Follow no more, and close the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.directory.store.close()
