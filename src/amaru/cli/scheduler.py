"""``amaru scheduler``: anchors checkpoints of logs on cadences, as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from amaru.ledger.anchoring_config import SchedulerSettings
    from amaru.ledger.anchoring_watch import Watch
    from amaru.ledger.scheduler import Scheduler

LOOK_S = 1.0
"""Between two looks at the configuration."""
DRAIN_S = 10.0
_LOOPBACK = ("127.", "localhost", "::1")


def scheduler(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The configuration file.", envvar="AMARU_SCHEDULER_CONFIG")
    ] = Path("scheduler.yaml"),
    host: Annotated[str | None, typer.Option(help="Address to listen on, in place of the file's.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port, in place of the file's; 0 takes a free one.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only name every mistake in the file.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one line of JSON when ready; log in JSON.")] = False,
) -> None:
    """Anchor the checkpoints of logs on cadences: time-stamped, GPG-signed, posted elsewhere.

    GET /metrics and GET /health say how it fares (port 9091). A changed file takes effect by itself (SIGHUP: at once);
    a broken one is refused and named in the log. It may be killed at any time, and goes on from there.
    """
    from amaru.ledger.anchoring_config import load
    from amaru.telemetry import logs

    settings = load(config)
    if check:
        count = len(settings.lines)
        typer.echo(f"{config}: fine: {count} anchors a round, of {len(settings.sources)} log(s)")
        return
    writer = logs.configure("info", "json" if json_lines else "console")
    try:
        asyncio.run(_serve(settings, host, port, json_lines))
    finally:
        writer.close()


async def _serve(settings: SchedulerSettings, host: str | None, port: int | None, json_lines: bool) -> None:
    from amaru.http1 import ListenError
    from amaru.ledger.anchoring_state import StateFolder
    from amaru.ledger.anchoring_watch import Watch
    from amaru.ledger.scheduler import Scheduler
    from amaru.ledger.scheduler_api import SchedulerApi

    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    states = StateFolder(settings.state)
    try:
        scheduler = Scheduler(states)
        server = SchedulerApi(scheduler).server()
        host = host or settings.host
        try:
            await server.start(host, settings.port if port is None else port)
        except ListenError as error:
            raise ListenError(f"{error} (--port)") from None
        _announce(host, server.port, settings, json_lines)
        scheduler.apply(settings)
        watching = asyncio.create_task(_watch(Watch(settings), scheduler, hangup))
        await stop.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await scheduler.aclose(DRAIN_S)
        await server.drain(1.0)
    finally:
        states.close()


async def _watch(watch: Watch, scheduler: Scheduler, hangup: asyncio.Event) -> None:
    """Take changed settings in until cancelled."""
    from amaru.errors import ConfigError
    from amaru.telemetry.logs import get_logger

    log = get_logger("ledger")
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hangup.wait(), LOOK_S)
        settled = hangup.is_set()
        hangup.clear()
        before = watch.current
        try:
            new = await asyncio.to_thread(watch.look, settled=settled)
        except ConfigError as error:
            log.error("configuration_refused", problems=error.problems, remedy="the one before stays; mend the file")
            continue
        if new is None:
            continue
        scheduler.apply(new)
        log.info("configuration_reloaded", anchors=len(new.lines))
        if (new.state, new.host, new.port) != (before.state, before.host, before.port):
            log.warning(
                "restart_needed", fields=["state", "host", "port"], remedy="these take effect at the next start"
            )


def _announce(host: str, port: int, settings: SchedulerSettings, json_lines: bool) -> None:
    import msgspec

    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if json_lines:
        typer.echo(msgspec.json.encode({"url": url, "pid": os.getpid(), "state": str(settings.state)}).decode())
    else:
        lines = len(settings.lines)
        typer.echo(f"The scheduler is at {url} (/health, /metrics): {lines} anchors a round. Ctrl-C stops it.")
    if not host.startswith(_LOOPBACK):
        typer.echo(
            f"amaru scheduler: {host} is no loopback address: whoever reaches it may read health and metrics", err=True
        )
