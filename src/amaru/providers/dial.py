"""Making a connection: name lookup, TCP to the address that answers first, TLS.

Every error becomes ``CONNECT``, a time-out ``NO_ANSWER``.

uvloop tries a host's addresses one after the other, so that one dead IPv6 route eats the whole connect time-out; the
race of RFC 8305 (Happy Eyeballs v2) is therefore run here, over plain sockets.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from amaru.domain import FailureKind
from amaru.errors import ConfigError, Failure
from amaru.providers.transport import Endpoint

ATTEMPT_DELAY_S = 0.25
"""Between two attempts of a race (RFC 8305 section 5)."""

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """The endpoint's TLS settings, ``None`` for plain HTTP; raises ``ConfigError`` where ``ca_file`` is unusable."""
    if endpoint.scheme != "https":
        return None
    if endpoint.verify and endpoint.ca_file is None:
        return _system_context()
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file if endpoint.verify else None)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it holds no PEM certificate"
        raise ConfigError([f"{endpoint.setting}.ca_file: cannot read {endpoint.ca_file!r}: {reason}"]) from error
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


@functools.cache
def _system_context() -> ssl.SSLContext:
    """Shared by all endpoints: reading the system's certificates takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def read_ca_file(endpoint: Endpoint) -> bytes | None:
    """The PEM certificates of ``ca_file``, where the endpoint names one; raises ``ConfigError``."""
    if endpoint.ca_file is None or not endpoint.verify or endpoint.scheme != "https":
        return None
    tls_context(endpoint)  # the same checks, and words, as the other transport's
    return Path(endpoint.ca_file).read_bytes()


async def dial(
    endpoint: Endpoint, tls: ssl.SSLContext | None, protocol: Callable[[], _Protocol], *, deadline: float
) -> _Protocol:
    """A connected protocol, after TLS, within ``endpoint.connect_timeout_s`` and before ``deadline`` (``loop.time()``).

    Cancelling it leaves no socket behind. Raises ``Failure``: ``NO_ANSWER`` where the time ran out, else ``CONNECT``.
    """
    loop = asyncio.get_running_loop()
    timeout_at = loop.time() + endpoint.connect_timeout_s
    where = endpoint.authority
    try:
        async with asyncio.timeout_at(min(timeout_at, deadline)):
            sock = await _race(await _resolve(endpoint))
            try:
                name = endpoint.host if tls is not None else None
                _, connected = await loop.create_connection(protocol, sock=sock, ssl=tls, server_hostname=name)
            except BaseException:
                sock.close()
                raise
            return connected
    except TimeoutError:
        limit = "before the deadline" if deadline < timeout_at else f"within {endpoint.connect_timeout_s:g} s"
        raise Failure(FailureKind.NO_ANSWER, f"{where} could not be connected {limit}", unsent=True) from None
    except socket.gaierror as error:
        raise Failure(FailureKind.CONNECT, f"{where}: the name cannot be resolved ({error.strerror})") from None
    except ssl.SSLCertVerificationError as error:
        raise Failure(
            FailureKind.CONNECT,
            f"{where}: its certificate is not trusted ({error.verify_message.rstrip('.')}); if it is meant to be so, "
            f"set {endpoint.setting}.ca_file to the PEM file of its authority",
        ) from None
    except ssl.SSLError as error:
        raise Failure(FailureKind.CONNECT, f"{where}: no TLS ({error.reason or error.strerror})") from None
    except ConnectionRefusedError:
        raise Failure(FailureKind.CONNECT, f"{where} refused the connection") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Failure(FailureKind.CONNECT, f"{where} could not be connected ({reason})") from None


async def _resolve(endpoint: Endpoint) -> list[_Address]:
    """The host's addresses, families alternating from the first one preferred (RFC 8305 section 4)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    by_family: dict[socket.AddressFamily, list[_Address]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, []).append((family, address))
    rounds = itertools.zip_longest(*by_family.values())
    return [address for one_round in rounds for address in one_round if address is not None]


async def _race(addresses: Sequence[_Address]) -> socket.socket:
    """The first socket to connect; an attempt starts when the last one failed or after ``ATTEMPT_DELAY_S``."""
    if len(addresses) == 1:
        return await _connect(addresses[0])
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    rest = iter(addresses)
    try:
        while True:
            address = next(rest, None)
            if address is not None:
                running.add(asyncio.ensure_future(_connect(address)))
            if not running:
                raise errors[0] if errors else OSError("the name has no address")
            delay = ATTEMPT_DELAY_S if address is not None else None
            done, _ = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    running |= done - {task}
                    return task.result()
                errors.append(error)
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_late)


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect(address: _Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
