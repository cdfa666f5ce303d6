"""``amaru serve``: the gateway as a process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from amaru.config import Config
    from amaru.gateway.seat import Seat
    from amaru.telemetry.logs import LineWriter


def serve(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The configuration file.", envvar="AMARU_CONFIG")
    ] = Path("amaru.yaml"),
    host: Annotated[str | None, typer.Option(help="Address to listen on, in place of server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port, in place of server.port; 0 takes a free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that serve one port, in place of server.workers.")
    ] = None,
    log_format: Annotated[Literal["json", "console"] | None, typer.Option(help="In place of logging.format.")] = None,
    seat: Annotated[str | None, typer.Option(hidden=True, help="Of one worker, from the supervisor.")] = None,
) -> None:
    """Serve the configured providers behind one OpenAI-compatible endpoint.

    A changed configuration file takes effect by itself (SIGHUP: at once); a broken one is refused and named in the log.
    SIGTERM and Ctrl-C let running requests end within server.drain_s; a second one ends them at once.
    """
    # Imported here, so that `amaru serve --help` need not wait for kernels and servers.
    from amaru.config import load
    from amaru.telemetry import logs

    options = {
        "SERVER__HOST": host,
        "SERVER__PORT": port,
        "SERVER__WORKERS": workers,
        "LOGGING__FORMAT": log_format,
    }
    # Options count as the environment variables of the same settings, so the same checks bind them, on reload too.
    given = {f"AMARU_{name}": str(value) for name, value in options.items() if value is not None}
    environment = {**os.environ, **given}
    loaded = load(config, environment)
    place = None if seat is None else _seat(seat)
    fields = {} if place is None else {"worker": place.worker}
    writer = logs.configure(loaded.logging.level, loaded.logging.format, fields=fields)
    try:
        if place is None and loaded.server.workers > 1:
            code = _supervise(loaded, environment)
        else:
            code = _serve(loaded, environment, writer, place)
    finally:
        writer.close()
    raise typer.Exit(code)


def _seat(told: str) -> Seat:
    import msgspec

    from amaru.gateway.seat import Seat

    return msgspec.json.decode(told, type=Seat)


def _serve(config: Config, environment: dict[str, str], writer: LineWriter, seat: Seat | None) -> int:
    from amaru.gateway.process import run

    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(run(config, environment, announce=_announce, log_writer=writer, seat=seat))


def _supervise(config: Config, environment: dict[str, str]) -> int:
    from amaru.gateway.supervisor import Supervisor

    async def run() -> int:
        return await Supervisor(config, environment, config.server.workers, announce=_announce).run()

    return asyncio.run(run())


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where there is one for this platform."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _announce(address: str) -> None:
    typer.echo(f"amaru serves at {address}/v1 (health: {address}/health/ready, API: {address}/openapi.json)")
