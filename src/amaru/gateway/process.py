"""The gateway as a process: started in order, reloaded while it runs, and ended without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

from amaru import __version__
from amaru.accounts.alert_metrics import AlertCollector
from amaru.accounts.alerting import Alerting
from amaru.accounts.tokens import load_vocabularies
from amaru.config import Config
from amaru.config.watch import ConfigWatcher
from amaru.gateway.seat import Seat
from amaru.gateway.server import Gateway
from amaru.http1 import ServerSettings
from amaru.ledger.place import Place
from amaru.mesh import ArtifactSource, LedgerCollector, Mesh, MeshLedger, Owner, follow_prices
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.accounts_metrics import TrustCollector
from amaru.mesh.accounts_till import MeshTill
from amaru.mesh.sharing import sharing_of
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
    config: Config,
    environment: Mapping[str, str],
    *,
    announce: Callable[[str], None],
    log_writer: LineWriter,
    seat: Seat | None = None,
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
    seat
        The process is one of several workers, and this its place; left out, it is alone.

    Raises
    ------
    StorageError, AccountError, ListenError
        The store cannot be opened, the accounts' store has what the file has, or the address cannot be bound.
    """
    started = time.monotonic()
    server = config.server
    owns = seat is None or seat.owns
    company = None if seat is None else seat.company(lambda: log_writer.dropped)
    store = DecisionStore(
        StoreSettings(
            path=config.storage_path,
            retention_days=config.storage.retention_days,
            retention_gb=config.storage.retention_gb,
            queue_size=config.storage.queue_size,
            removes=owns,
        )
    )
    store.start()
    ledger = _ledger_of(config, None if seat is None else seat.worker)
    accounts = MeshAccounts.of(config)
    till = MeshTill.of(config, accounts)
    alerting = Alerting(accounts.directory.store, lambda: till.allowances)
    gateway: Gateway | None = None
    try:
        await accounts.start()
        await till.start()
        _send_alerts(alerting, config)
        alerting.start()
        metrics = Metrics()
        metrics.registry.register(AlertCollector(alerting))
        alerting.on_result = metrics.observe_webhook
        metrics.registry.register(TrustCollector(accounts.trust))
        metrics.watch(log_lines_dropped=lambda: log_writer.dropped)
        if ledger is not None:
            ledger.start()
            metrics.registry.register(LedgerCollector(ledger))
        artifacts = ArtifactSource(store) if owns else None  # what the others rank by, the owner tells them
        origin = None if artifacts is None else await artifacts.find(config)
        mesh = Mesh(config, store, metrics, origin=origin, ledger=ledger, till=till, company=company)
        mesh.artifacts = artifacts
        sharing = sharing_of(mesh) if owns else None  # what the others know, the owner tells them
        await mesh.conversations.start()
        mesh.plan.warm()
        settings = ServerSettings(
            max_body_bytes=int(server.max_body_mb * 1024 * 1024),
            max_connections=-(-server.max_connections // (1 if seat is None else seat.workers)),
            keep_alive_s=server.keep_alive_s,
        )
        gateway = Gateway(mesh, settings, host=server.host, accounts=accounts, company=company)
        if ledger is not None:
            await ledger.ready(LEDGER_READY_S)
        if seat is None or company is None:
            await gateway.start(server.port)
        else:
            await seat.join(company)
            await gateway.join(seat.sockets(), seat.relay_socket(), seat.admin_sockets())
        if sharing is not None:
            sharing.start()
        watcher = ConfigWatcher(
            config, _applier(mesh, artifacts, accounts, till, alerting), _on_refused, env=environment
        )
        following = [] if artifacts is None else [artifacts.follow(mesh)]
        watching = asyncio.gather(watcher.run(), follow_prices(mesh), *following)
        gc.collect()
        gc.freeze()  # what is alive now lives as long as the process: never look at it again
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        with _signals(watcher) as (stop, hurry):
            log.info("serving", host=gateway.host, port=gateway.port, version=__version__, after_s=_since(started))
            if gateway.admin_port is not None:
                log.info("serving_admin", host=config.accounts.admin_host, port=gateway.admin_port)
            if seat is None:
                announce(f"http://{gateway.authority}")
            else:
                seat.follow(stop.set)
                seat.tell_ready()
            # Takes some 0.3 s each where tiktoken has them, and is needed only for answers without usage.
            vocabularies = await asyncio.to_thread(load_vocabularies)
            log.info("counting_tokens", vocabularies=list(vocabularies) or "none: tokens without usage are estimated")
            await stop.wait()
            watching.cancel()
            drain_s = watcher.current.server.drain_s
            cut = await _drain(gateway, drain_s, hurry)
            if isinstance(company, Owner):
                await company.wait_alone(drain_s, hurry)
            await asyncio.gather(watching, return_exceptions=True)  # asyncio logs an error where nobody takes note
            if sharing is not None:
                await sharing.aclose()
            await mesh.aclose()
            if company is not None:
                await company.aclose()
            await store.close()  # still under the signal handlers: a third signal must not lose records
    finally:
        if gateway is not None:
            await gateway.drain(0.0)  # where it failed: nobody is served while what accounts for it is closed
        await asyncio.to_thread(alerting.close)
        await till.aclose()
        await accounts.aclose()
        await store.close()
        if ledger is not None:
            await asyncio.to_thread(ledger.close)
    log.info("stopped", requests_cut=cut)
    return 1 if cut else 0


def _ledger_of(config: Config, worker: int | None) -> MeshLedger | None:
    if not config.ledger.enabled:
        return None
    index = os.environ.get("AMARU_LEDGER_INDEX") or None  # as for `remembrancer`, whose index it is
    place = Place.of(config.ledger_url, config.storage_path.parent, index=index)
    return MeshLedger(place, config.ledger, worker=worker)


async def _drain(gateway: Gateway, limit_s: float, hurry: asyncio.Event) -> int:
    """Let running requests end within ``limit_s``, or until told to hurry; how many were cut."""
    draining, hurrying = asyncio.create_task(gateway.drain(limit_s)), asyncio.create_task(hurry.wait())
    await asyncio.sleep(0.0)  # it accepts no more once this is said
    log.info("draining", limit_s=limit_s)
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


def _applier(
    mesh: Mesh, artifacts: ArtifactSource | None, accounts: MeshAccounts, till: MeshTill, alerting: Alerting
) -> Callable[[Config, tuple[str, ...]], Awaitable[None]]:
    async def apply(config: Config, need_restart: tuple[str, ...]) -> None:
        origin = None if artifacts is None else await artifacts.find(config)
        await accounts.follow(config.from_file())
        accounts.bind(config)
        await till.follow(config)
        _send_alerts(alerting, config)
        mesh.reload(config, origin)
        log.info("configuration_reloaded", digest=config.digest.hex()[:16])
        if need_restart:
            log.warning("restart_needed", fields=list(need_restart), remedy="these take effect at the next start")

    return apply


def _send_alerts(alerting: Alerting, config: Config) -> None:
    webhook = config.accounts.webhook
    alerting.take(None if webhook is None else webhook.hook())


def _on_refused(problems: list[str]) -> None:
    log.error("configuration_refused", problems=problems, remedy="the configuration before it serves on; mend the file")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
