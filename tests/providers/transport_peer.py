"""A provider that does exactly what a script says, byte by byte: the far end of the transport tests."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire:
    """One accepted connection."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer
        self.number = peer.accepted
        """1 for the first connection."""
        self.body = b""
        self.sent_bytes = 0

    async def request(self) -> bytes:
        """The next request's head; its body is then in ``body``."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        self.body = await self.reader.readexactly(int(length[1])) if length else b""
        self.peer.requests.append(head)
        self.peer.arrived.set()
        return head

    async def send(self, data: bytes) -> None:
        """Waits while the reader is slow."""
        self.writer.write(data)
        self.sent_bytes += len(data)
        await self.writer.drain()

    async def pace(self, seconds: float) -> None:
        """Let so much time pass between two parts of an answer, unless the transport goes away meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.gone()
        except TimeoutError:
            return
        raise ConnectionResetError

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Until the transport has closed its end."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Wire], Awaitable[None]]


class Peer:
    """A listening server that plays one script per connection."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.accepted = 0
        self.requests: list[bytes] = []
        self.arrived = asyncio.Event()
        """A request has arrived; tests clear it to wait for the next."""
        self.hung_up = asyncio.Event()
        """A script that ended with ``gone`` has seen the transport close."""
        self.failures: list[BaseException] = []
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.script(Wire(self, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the transport went away first
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # shown by the test's teardown
            self.failures.append(error)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


def answer(*parts: bytes, then: str = "close") -> Script:
    """A script: read a request, send ``parts``, then ``close``, ``reset``, ``keep`` (serve again) or ``hold``."""

    async def script(wire: Wire) -> None:
        while True:
            await wire.request()
            for part in parts:
                await wire.send(part)
            if then == "reset":
                wire.reset()
            elif then == "hold":
                await wire.gone()
                wire.peer.hung_up.set()
            elif then == "close":
                wire.close()
                await wire.gone()
            if then != "keep":
                return

    return script


class Authority:
    """A certificate authority for the tests; ``issue`` gives a server's TLS settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "amaru test authority")])
        certificate = self._sign(self._name, self._key.public_key(), names=(), is_authority=True)
        self.ca_file = str(folder / "ca.pem")
        Path(self.ca_file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str) -> ssl.SSLContext:
        """A server whose certificate is for ``names`` (DNS names or addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key.public_key(), names=names, is_authority=False)
        chain = self._folder / f"{names[0]}.pem"
        chain.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, names: tuple[str, ...], is_authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            general = [
                x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
                for name in names
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        return builder.sign(self._key, hashes.SHA256())
