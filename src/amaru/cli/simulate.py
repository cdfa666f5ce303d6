"""``amaru simulate``: OpenAI-compatible servers that behave, and misbehave, like real providers."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from amaru.errors import AmaruError
from amaru.http1.settings import ListenError
from amaru.simulation.faults import Incident
from amaru.simulation.gateway_config import FIRST_LINE, gateway_config
from amaru.simulation.profiles import ProviderProfile, builtin
from amaru.simulation.provider import SimulatedProvider
from amaru.simulation.script import read_incidents, read_profiles


def simulate(
    providers: Annotated[int, typer.Option(help="How many of the built-in providers to start.", min=1, max=100)] = 3,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file with `providers:`, in place of the built-in ones.")
    ] = None,
    port_base: Annotated[
        int, typer.Option(help="Port of the first provider; the others follow. 0: any free ones.", min=0, max=65535)
    ] = 9000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="Seed of latencies and of faults with a probability.")] = 0,
    faults: Annotated[Path | None, typer.Option(help="YAML file with `faults:`, a script of incidents.")] = None,
    write_config: Annotated[Path | None, typer.Option(help="Write an amaru.yaml for these providers there.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let --write-config overwrite a file that it has not written itself.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when ready, in place of the table.")
    ] = False,
) -> None:
    """Start simulated providers on ports of this machine, until Ctrl-C.

    Each one bills exactly (GET /sim/bill), and breaks on demand: POST /sim/faults, DELETE /sim/faults.
    """
    profiles = read_profiles(config) if config is not None else builtin(providers)
    script = read_incidents(faults, [profile.name for profile in profiles]) if faults is not None else []
    if write_config is not None and not force:
        _spare(write_config)
    main = _run(profiles, script, host, port_base, seed, write_config, json_lines)
    try:
        import uvloop
    except ImportError:  # a platform without it
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _run(
    profiles: tuple[ProviderProfile, ...],
    script: list[Incident],
    host: str,
    port_base: int,
    seed: int,
    write_config: Path | None,
    json_lines: bool,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        running = []
        for place, profile in enumerate(profiles):
            port = port_base + place if port_base else 0
            provider = SimulatedProvider(profile, script=script, seed=seed + place, host=host, port=port)
            try:
                await stack.enter_async_context(provider)
            except ListenError as error:
                raise ListenError(f"{error} (--port-base)") from None
            running.append(provider)
        if write_config is not None:
            text = gateway_config([(provider.profile, provider.base_url) for provider in running], alternates=True)
            _write(write_config, text)  # once, before serving: nobody waits for this loop yet
        if json_lines:
            rows = [{"name": provider.profile.name, "url": provider.url} for provider in running]
            typer.echo(msgspec.json.encode({"providers": rows}).decode())
        else:
            _show(running, script, write_config)
        sys.stdout.flush()
        await stop.wait()


def _spare(path: Path) -> None:
    """Refuse to overwrite what somebody else has written."""
    if not path.is_file():
        return  # not there; or, say, /dev/stdout
    try:
        with path.open("rb") as file:
            theirs = not file.read(len(FIRST_LINE)).startswith(FIRST_LINE.encode())
    except OSError as error:
        raise AmaruError(f"{path} cannot be read: {error.strerror}") from None
    if theirs:
        raise AmaruError(
            f"{path} is there already, and not from `amaru simulate`; overwrite it with --force, or name another "
            "with --write-config"
        )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AmaruError(f"{path} cannot be written: {error.strerror}") from None


def _show(running: Sequence[SimulatedProvider], script: Sequence[Incident], write_config: Path | None) -> None:
    lines = [*_table(running), ""]
    lines += [f"{incident.at_s:>6g} s  {incident.provider} {incident.fault.describe()}" for incident in script]
    if write_config is not None:
        lines.append(f"Wrote {write_config}. Next: amaru serve{_option(write_config)}")
    else:
        lines.append("For an amaru.yaml that names them, start with --write-config amaru.yaml")
    lines.append(f"""Break one: curl {running[0].url}/sim/faults -d '{{"kind": "cut"}}'""")
    lines.append("Ctrl-C stops them.")
    typer.echo("\n".join(lines))


def _option(config: Path) -> str:
    return "" if config == Path("amaru.yaml") else f" --config {shlex.quote(str(config))}"


def _table(running: Sequence[SimulatedProvider]) -> list[str]:
    """Lines of 80 columns for the built-in providers. Names of models, which may be long, come last; nothing is cut."""
    rows = [("provider", "base URL", "$/M in/out", "1st token", "tok/s", "models")]
    for provider in running:
        profile = provider.profile
        price, itl_ms = profile.price, profile.latency.itl_ms
        rows.append(
            (
                profile.name,
                provider.base_url,
                f"{price.input_usd_per_mtok:g}/{price.output_usd_per_mtok:g}",
                f"{profile.latency.ttft_ms:g} ms",
                f"{1000 / itl_ms:.0f}" if itl_ms else "instant",
                ", ".join((*profile.models, *profile.embedding_models)),
            )
        )
    name, url, *_ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [f"{a:{name}} {b:{url}} {c:>10} {d:>9} {e:>7} {f}" for a, b, c, d, e, f in rows]
