"""``amaru serve``: the gateway as a process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Literal

import typer


def serve(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The configuration file.", envvar="AMARU_CONFIG")
    ] = Path("amaru.yaml"),
    host: Annotated[str | None, typer.Option(help="Address to listen on, in place of server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port, in place of server.port; 0 takes a free one.")
    ] = None,
    log_format: Annotated[Literal["json", "console"] | None, typer.Option(help="In place of logging.format.")] = None,
) -> None:
    """Serve the configured providers behind one OpenAI-compatible endpoint.

    A changed configuration file takes effect by itself (SIGHUP: at once); a broken one is refused and named in the log.
    SIGTERM and Ctrl-C let running requests end within server.drain_s; a second one ends them at once.
    """
    # Imported here, so that `amaru serve --help` need not wait for kernels and servers.
    from amaru.config import load
    from amaru.gateway.process import run
    from amaru.telemetry import logs

    options = {"SERVER__HOST": host, "SERVER__PORT": port, "LOGGING__FORMAT": log_format}
    # Options count as the environment variables of the same settings, so the same checks bind them, on reload too.
    given = {f"AMARU_{name}": str(value) for name, value in options.items() if value is not None}
    environment = {**os.environ, **given}
    loaded = load(config, environment)
    writer = logs.configure(loaded.logging.level, loaded.logging.format)
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            code = runner.run(run(loaded, environment, announce=_announce, log_writer=writer))
    finally:
        writer.close()
    raise typer.Exit(code)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where there is one for this platform."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _announce(address: str) -> None:
    typer.echo(f"amaru serves at {address}/v1 (health: {address}/health/ready, API: {address}/openapi.json)")
