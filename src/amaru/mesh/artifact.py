"""The artifact that a policy stands on: loaded beside the event loop, within a time limit, and followed while it may
change.

``@promoted`` and ``@latest`` are looked up again and again, so that ``amaru artifacts promote`` reaches a gateway that
runs; an artifact that could not be loaded is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from amaru.config import Config, RoutingSettings
from amaru.errors import ArtifactError
from amaru.learning.artifact_files import redact_url
from amaru.learning.artifacts import Artifact, ArtifactStore, parse_reference
from amaru.mesh.origin import Origin, stored_policy
from amaru.routing.policies import make_policy
from amaru.storage import DecisionStore
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

EVERY_S = 30.0
"""Between two looks at which version is promoted."""
LIMIT_S = 30.0
"""The longest that a look, or a load, may take."""
EFFECT = "the policy stays what it was, or begins with what the store kept, or untrained; tried again"

T = TypeVar("T")
log = get_logger("mesh")


class ArtifactSource:
    """Finds what ``routing.policy_artifact`` names.

    Parameters
    ----------
    store
        Holds what policies learned live.
    every_s, limit_s
        Between two looks, and the longest that one may take.
    sleep
        Waits between two looks; for tests.
    """

    def __init__(
        self,
        store: DecisionStore,
        *,
        every_s: float = EVERY_S,
        limit_s: float = LIMIT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.failures = 0
        """Loads and looks that failed, since the start."""
        self.failure = ""
        """Why the last one failed; empty: it did not."""
        self._store = store
        self._every_s = every_s
        self._limit_s = limit_s
        self._sleep = sleep
        self._hanging: threading.Thread | None = None

    async def find(self, config: Config) -> Origin:
        """What there is for the configuration's policy. Never raises for an artifact: its failure is in the origin."""
        routing = config.routing
        if not make_policy(routing.policy).learns:
            return Origin()
        stored = await stored_policy(self._store, routing.policy)
        reference = routing.policy_artifact
        if reference is None:
            self.failure = ""
            return Origin(stored=stored)
        try:
            artifact = await self._beside(lambda: _load(reference, routing))
        except (ArtifactError, TimeoutError) as error:
            self._failed(error)
            return Origin(stored=stored, failure=self.failure)
        self.failure = ""
        return Origin(version=identity(artifact), artifact=artifact.state, knobs=artifact.knobs, stored=stored)

    async def follow(self, mesh: Mesh) -> None:
        """Swaps the mesh's policy whenever the reference comes to mean another version. Runs until cancelled."""
        while True:
            await self._sleep(self._every_s)
            try:
                await self.look(mesh)
            except (ArtifactError, TimeoutError):  # counted, logged, and tried again
                continue
            except Exception as error:  # the policy stays, and the next look must come
                self._failed(error, exc_info=error)

    async def look(self, mesh: Mesh) -> bool:
        """One look; True where the policy was swapped.

        Raises
        ------
        ArtifactError, TimeoutError
            It cannot be told or loaded; the policy in use stays.
        """
        config = mesh.plan.config
        reference = config.routing.policy_artifact
        if reference is None or not make_policy(config.routing.policy).learns:
            return False
        standing = mesh.learner.used.artifact.partition("/")[0]
        if parse_reference(reference).version == standing:
            return False
        try:
            if await self._beside(lambda: _version(reference)) == standing:
                self.failure = ""
                return False
        except (ArtifactError, TimeoutError) as error:
            self._failed(error)
            raise
        origin = await self.find(config)
        if origin.failure or mesh.plan.config is not config:  # a reload came between, with an artifact of its own
            return False
        mesh.reload(config, origin)
        log.info("policy_swapped", policy=config.routing.policy, artifact=origin.version, before=standing or None)
        return True

    def view(self, config: Config) -> dict[str, Any] | None:  # Any: JSON
        """What is named, and whether it could be loaded."""
        reference = config.routing.policy_artifact
        if reference is None:
            return None
        with contextlib.suppress(ArtifactError):
            url, version = parse_reference(reference)
            return {
                # Not the store's own word for it: making one may read credentials over the network.
                "store": redact_url(url),
                "version": version,
                "failure": self.failure or None,
                "failures": self.failures,
            }
        return {"store": None, "version": None, "failure": self.failure or None, "failures": self.failures}

    def _failed(self, error: Exception, exc_info: Exception | None = None) -> None:
        late = isinstance(error, TimeoutError)
        reason = f"no answer within {self._limit_s:g} s" if late else str(error)
        self.failures += 1
        if reason != self.failure:  # else it would be said every half minute
            log.error("artifact_not_loaded", reason=reason, effect=EFFECT, exc_info=exc_info)
        self.failure = reason

    async def _beside(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread of its own, which may hang without keeping the process from ending."""
        if self._hanging is not None and self._hanging.is_alive():
            raise ArtifactError("the look before this one has not come to an end yet")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except ArtifactError as refused:
                error = refused
            except Exception as unforeseen:
                error = ArtifactError(f"{type(unforeseen).__name__}: {unforeseen}")
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, error)

        thread = threading.Thread(target=run, name="amaru-artifact", daemon=True)
        thread.start()
        try:
            return await asyncio.wait_for(done, self._limit_s)
        except TimeoutError:
            self._hanging = thread
            raise


def identity(artifact: Artifact) -> str:
    """The version, and enough of its digest to tell it from a version of that name in another store."""
    return f"{artifact.manifest.version}/{artifact.manifest.digest.removeprefix('blake2b:')[:16]}"


def _load(reference: str, routing: RoutingSettings) -> Artifact:
    """The artifact, which the policy is known to take."""
    url, version = parse_reference(reference)
    store = ArtifactStore(url)
    artifact = store.load(version)
    of, named = f"{store.url}: {artifact.manifest.version}", routing.policy
    if artifact.policy != named:
        raise ArtifactError(
            f"{of} holds the policy {artifact.policy}, and routing.policy is {named}"
            f" - write routing.policy: {artifact.policy}, or name a version of {named}"
        )
    try:
        make_policy(named, **artifact.knobs).restore(artifact.state)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{of} cannot be used by this amaru: {error} - publish it anew, or name another") from None
    return artifact


def _version(reference: str) -> str:
    url, version = parse_reference(reference)
    return ArtifactStore(url).resolve(version)
