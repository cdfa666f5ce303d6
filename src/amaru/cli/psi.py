"""``amaru psi``: the stability field as a service, fed by a gateway or by a training."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.cli.psi_anomalies import anomalies
from amaru.errors import AmaruError

if TYPE_CHECKING:
    from amaru.stability.client import PsiClient
    from amaru.stability.guardian import GuardianStatus
    from amaru.stability.service import PsiService
    from amaru.stability.service_answers import StateAnswer
    from amaru.stability.service_feed import Fed

PORT = 8000
STATE = Path("psi_field.bin")
URL = f"http://127.0.0.1:{PORT}"
KEY = "AMARU_OPERATOR_KEY"
DRAIN_S = 5.0
_SHOWN = ("Psi", "PE", "C", "U", "Phi", "H")
_LOOPBACK = ("127.", "localhost", "::1")

Json = dict[str, Any]  # Any: a JSON document

app = typer.Typer(
    help="The stability field (Ψ) as a service: serve it, feed it a gateway's signals, look at it; find anomalies.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = PORT,
    state: Annotated[Path, typer.Option(help="File that it goes on from, and writes after every step.")] = STATE,
    dimension: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Have a field of so many rewards from the start, if there is none yet."),
    ] = None,
    node: Annotated[
        str | None, typer.Option(help="Its name among several nodes; by default the host's.", show_default=False)
    ] = None,
    guardian: Annotated[
        bool | None,
        typer.Option("--guardian/--no-guardian", help="Switch the guardian on or off; by default as it was."),
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one line of JSON when ready.")] = False,
) -> None:
    """Serve one stability field over HTTP, until Ctrl-C.

    A training tells it rewards (`amaru train --psi-field URL`), a gateway its figures (`amaru psi feed`); Prometheus
    reads GET /metrics. It goes on from --state after a restart, also where it was killed.
    """
    from amaru.telemetry import logs

    writer = logs.configure("info", "console")
    try:
        asyncio.run(_serve(host, port, state, dimension, node or socket.gethostname(), guardian, json_lines))
    finally:
        writer.close()


async def _serve(
    host: str, port: int, path: Path, dimension: int | None, node: str, guardian: bool | None, json_lines: bool
) -> None:
    import msgspec

    from amaru.http1 import ListenError
    from amaru.stability.field_settings import FieldSettings
    from amaru.stability.service import PsiService, warm
    from amaru.stability.service_state import StateFile, opened

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    warm()
    file = StateFile(path)
    try:
        service = PsiService(file=file, node=node, clock=time.time)
        damage = opened(file, time.time(), service.restore)
        if damage is not None:
            typer.echo(f"amaru psi: {damage}", err=True)
        if guardian is not None:
            service.guardian.enabled = guardian
        if service.field is None and dimension is not None:
            service.begin(FieldSettings(dimension=dimension, kind="rewards"))
        server = service.server()
        try:
            await server.start(host, port)
        except ListenError as error:
            raise ListenError(f"{error} (--port)") from None
        url = f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"
        if json_lines:
            typer.echo(msgspec.json.encode({"url": url, "state": str(path)}).decode())
        else:
            _announce(url, path, service)
        if not host.startswith(_LOOPBACK):
            typer.echo(
                f"amaru psi: {host} is no loopback address: whoever reaches it may feed the field, and trigger"
                " interventions; it asks for no key",
                err=True,
            )
        await stop.wait()
        await server.drain(DRAIN_S)
    finally:
        file.close()


def _announce(url: str, path: Path, service: PsiService) -> None:
    if service.field is None:
        how = f"""no field yet: curl {url}/init -d '{{"dimension": 16}}'"""
    else:
        reading = service.reading
        step = 0 if reading is None else reading.step
        how = f"a field of {service.field.dimension} signals, at step {step:,} (state: {path})"
    typer.echo(f"The psi-field is at {url}: {how}\nCtrl-C stops it; it goes on from {path} afterwards.")


@app.command()
def feed(
    gateway: Annotated[str, typer.Option(help="The gateway's address.")] = "http://127.0.0.1:8080",
    psi: Annotated[str, typer.Option(help="The service's address.")] = URL,
    every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, max=86400, help="Go on, a step in so many seconds; by default once."),
    ] = None,
    key_env: Annotated[str, typer.Option(help="Variable that holds an operator's key of the gateway.")] = KEY,
    json_lines: Annotated[bool, typer.Option("--json", help="Print each step as a line of JSON.")] = False,
) -> None:
    """Send a gateway's signals to a psi-field: each provider's latency, share of errors and utility.

    What fails is said; with --every it is tried again at the next step, else the exit status is 1.
    """
    from amaru.stability.client import FieldError, base_of, http_call
    from amaru.stability.service_feed import Feed

    key = os.environ.get(key_env) or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise AmaruError(f"--key-env: what {key_env} holds cannot be a key: it must be printable ASCII")
    try:
        gateway = base_of(gateway).removesuffix("/v1")
    except ValueError as error:
        raise AmaruError(f"--gateway: {error}") from None
    sent = Feed(gateway, _client(psi), http_call(5.0, key=key), every_s=every)
    with _stopped() as stop:
        due = time.monotonic()
        while True:
            try:
                _show_fed(sent.once(time.time()), json_lines)
            except FieldError as error:
                hint = f"; put an operator's key into {key_env}" if error.status in (401, 403) and key is None else ""
                if every is None:
                    raise AmaruError(f"{error}{hint}") from None
                typer.echo(f"{_clock()} {error}{hint}", err=True)
            if every is None:
                return
            due = max(due + every, time.monotonic())
            if stop.wait(due - time.monotonic()):
                return


@app.command()
def status(
    psi: Annotated[str, typer.Option(help="The service's address.")] = URL,
    json_lines: Annotated[bool, typer.Option("--json", help="Print what GET /state answers.")] = False,
) -> None:
    """Show what a psi-field reads now, and what its guardian would do."""
    import msgspec

    from amaru.stability.client import FieldError
    from amaru.stability.service_answers import StateAnswer

    client = _client(psi)
    try:
        state = client.get("state")
        known = msgspec.convert(state, StateAnswer)
    except FieldError as error:
        hint = "" if error.status else "; start one with `amaru psi serve`"
        raise AmaruError(f"the psi-field at {client.url}: {error}{hint}") from None
    except msgspec.ValidationError as error:
        raise AmaruError(f"the psi-field at {client.url}: GET /state is none of amaru's: {error}") from None
    typer.echo(msgspec.json.encode(state).decode() if json_lines else "\n".join(_lines(known)))


def _client(url: str) -> PsiClient:
    from amaru.stability.client import PsiClient

    try:
        return PsiClient(url)
    except ValueError as error:
        raise AmaruError(f"--psi: {error}") from None


def _lines(state: StateAnswer) -> list[str]:
    reading, guardian, kept = state.reading, state.guardian, state.state
    lines = []
    if reading is None:
        lines.append("no step yet" if state.initialised else "no field yet: POST /init makes one")
    else:
        figures = {name: getattr(reading, name) for name in _SHOWN}
        lines.append(f"step {reading.step:,}: {_figures(figures)}, M {reading.M:.2f}")
        beyond = [(name, surprise) for name, surprise in state.surprises.items() if surprise > 1.0]
        named = sorted(beyond, key=lambda item: -item[1])[:3]
        if named:
            lines.append("most surprising: " + ", ".join(f"{name} {surprise:.2f}" for name, surprise in named))
    limits = guardian.thresholds
    lines.append(
        f"guardian {'on' if guardian.enabled else 'off'}: nigredo above PE {limits.nigredo_pe:.2f}; albedo from"
        f" H {limits.albedo_h:.2f} with Psi to {limits.albedo_psi:.2f}; {_restraint(guardian)}"
    )
    if (last := guardian.last) is not None:
        done = "; ".join(f"{what}: {how}" for what, how in last.changed.items()) or "nobody said what it changed"
        lines.append(f"last: {last.id} at step {last.step:,}, by {last.by}: {last.reason} ({done})")
    if kept.problem:
        lines.append(f"NOT SAVED to {kept.file}: {kept.problem}")
    return lines


def _restraint(guardian: GuardianStatus) -> str:
    if guardian.pending:
        return f"{' and '.join(guardian.pending)} to come with the next step"
    if guardian.warming_up:
        return "warming up"
    left = guardian.cooldown_left_steps
    return f"cooling down for {left} more steps" if left else "ready"


def _figures(found: Json) -> str:
    shown = ((name, found.get(name)) for name in _SHOWN)
    return ", ".join(f"{name} {figure:.2f}" for name, figure in shown if isinstance(figure, int | float))


def _show_fed(fed: Fed, json_lines: bool) -> None:
    import msgspec

    if json_lines:
        typer.echo(msgspec.json.encode(fed).decode())
        return
    word = fed.answer.get("_guardian") or {}
    asked = f"; {word['intervention']}: {word.get('reason')}" if word.get("intervention") else ""
    known = sum(value is not None for value in fed.signals.values())
    typer.echo(f"{_clock()} {known} of {len(fed.signals)} signals: {_figures(fed.answer)}{asked}")


def _clock() -> str:
    return time.strftime("%H:%M:%S")


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


app.command()(anomalies)
