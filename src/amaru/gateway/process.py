"""The gateway as a process: started in order, reloaded while it runs, and ended without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

from amaru import __version__
from amaru.accounts.tokens import load_vocabularies
from amaru.config import Config
from amaru.config.watch import ConfigWatcher
from amaru.gateway.server import Gateway
from amaru.http1 import ServerSettings
from amaru.ledger.place import Place
from amaru.mesh import ArtifactSource, LedgerCollector, Mesh, MeshLedger
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.logs import LineWriter, get_logger
from amaru.telemetry.metrics import Metrics

log = get_logger("gateway")

LEDGER_READY_S = 10.0
"""The first request may wait so long for the ledger to open; after that requests are served without it."""
GC_THRESHOLD = 50_000
"""Allocations between two collections of the young generation. Requests leave no cycles behind, so the collector finds
little; its default of 700 costs several per cent of the throughput."""


async def run(
    config: Config, environment: Mapping[str, str], *, announce: Callable[[str], None], log_writer: LineWriter
) -> int:
    """Serve until told to stop; returns the exit status: 0, or 1 where requests had to be cut at the end.

    Parameters
    ----------
    environment
        Holds the overrides and keys that ``config`` was loaded with, and each reload of it will be.
    log_writer
        Where logs go; how many lines it dropped is a metric.
    announce
        Gets the address once the server takes traffic.

    Raises
    ------
    StorageError, ListenError
        The store cannot be opened, or the address not be bound.
    """
    started = time.monotonic()
    server = config.server
    store = DecisionStore(
        StoreSettings(
            path=config.storage_path,
            retention_days=config.storage.retention_days,
            retention_gb=config.storage.retention_gb,
            queue_size=config.storage.queue_size,
        )
    )
    store.start()
    ledger = _ledger_of(config)
    try:
        metrics = Metrics()
        metrics.watch(log_lines_dropped=lambda: log_writer.dropped)
        if ledger is not None:
            ledger.start()
            metrics.registry.register(LedgerCollector(ledger))
        artifacts = ArtifactSource(store)
        mesh = Mesh(config, store, metrics, origin=await artifacts.find(config), ledger=ledger)
        mesh.artifacts = artifacts
        mesh.plan.warm()
        settings = ServerSettings(
            max_body_bytes=int(server.max_body_mb * 1024 * 1024),
            max_connections=server.max_connections,
            keep_alive_s=server.keep_alive_s,
        )
        gateway = Gateway(mesh, settings, host=server.host)
        if ledger is not None:
            await ledger.ready(LEDGER_READY_S)
        await gateway.start(server.port)
        watcher = ConfigWatcher(config, _applier(mesh, artifacts), _on_refused, env=environment)
        watching = asyncio.gather(watcher.run(), artifacts.follow(mesh))
        gc.collect()
        gc.freeze()  # what is alive now lives as long as the process: never look at it again
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        with _signals(watcher) as (stop, hurry):
            log.info("serving", host=gateway.host, port=gateway.port, version=__version__, after_s=_since(started))
            announce(f"http://{gateway.authority}")
            # Takes some 0.3 s each where tiktoken has them, and is needed only for answers without usage.
            vocabularies = await asyncio.to_thread(load_vocabularies)
            log.info("counting_tokens", vocabularies=list(vocabularies) or "none: tokens without usage are estimated")
            await stop.wait()
            watching.cancel()
            cut = await _drain(gateway, watcher.current.server.drain_s, hurry)
            await asyncio.gather(watching, return_exceptions=True)  # asyncio logs an error where nobody takes note
            await mesh.aclose()
            await store.close()  # still under the signal handlers: a third signal must not lose records
    finally:
        await store.close()
        if ledger is not None:
            await asyncio.to_thread(ledger.close)
    log.info("stopped", requests_cut=cut)
    return 1 if cut else 0


def _ledger_of(config: Config) -> MeshLedger | None:
    if not config.ledger.enabled:
        return None
    return MeshLedger(Place.of(config.ledger_url, config.storage_path.parent), config.ledger)


async def _drain(gateway: Gateway, limit_s: float, hurry: asyncio.Event) -> int:
    """Let running requests end within ``limit_s``, or until told to hurry; how many were cut."""
    log.info("draining", limit_s=limit_s)
    draining, hurrying = asyncio.create_task(gateway.drain(limit_s)), asyncio.create_task(hurry.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    cut = 0 if draining.done() else await gateway.drain(0.0)
    hurrying.cancel()
    return cut + await draining


@contextlib.contextmanager
def _signals(watcher: ConfigWatcher) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """SIGTERM and SIGINT set the first event, and once more the second; SIGHUP reads the configuration anew."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    reloads: set[asyncio.Task[bool]] = set()

    def end() -> None:
        (hurry if stop.is_set() else stop).set()

    def reload() -> None:
        task = asyncio.ensure_future(watcher.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield stop, hurry
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _applier(mesh: Mesh, artifacts: ArtifactSource) -> Callable[[Config, tuple[str, ...]], Awaitable[None]]:
    async def apply(config: Config, need_restart: tuple[str, ...]) -> None:
        mesh.reload(config, await artifacts.find(config))
        log.info("configuration_reloaded", digest=config.digest.hex()[:16])
        if need_restart:
            log.warning("restart_needed", fields=list(need_restart), remedy="these take effect at the next start")

    return apply


def _on_refused(problems: list[str]) -> None:
    log.error("configuration_refused", problems=problems, remedy="the configuration before it serves on; mend the file")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
