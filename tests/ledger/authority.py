"""A time-stamping authority for tests: a real HTTP server around ``openssl ts -reply``, with a throw-away chain.

The chain is root → intermediate → time-stamping certificate; its validity is an argument. ``answer`` may be set to make
the server misbehave.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl program is not installed")

Answer = Callable[[bytes], tuple[int, bytes]]
"""A request's body → the status and the body that are sent instead of a time-stamp."""

POLICY = "1.3.6.1.4.1.13762.3"

_CONFIG = """\
[ tsa ]
default_tsa = stamping
[ stamping ]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/stamping.pem
signer_key = {folder}/stamping.key
certs = {folder}/intermediate.pem
signer_digest = sha256
default_policy = {policy}
digests = sha256, sha384, sha512
accuracy = secs:1
ordering = yes
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = {ess}
"""


class Authority:
    """One authority, with its files in ``folder``. ``roots`` is the PEM file to trust."""

    def __init__(
        self,
        folder: Path,
        *,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
        stamping: bool = True,
        name: str = "throw-away",
        ess: str = "sha256",
    ) -> None:
        self.folder = folder
        self.roots = folder / "roots.pem"
        self.url = ""
        self.requests: list[bytes] = []
        """The bodies that came, oldest first."""
        self.headers: list[dict[str, str]] = []
        self.answer: Answer | None = None
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        self._make_chain(
            valid_from or now - timedelta(days=30), valid_until or now + timedelta(days=30), stamping, name
        )
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder, policy=POLICY, ess=ess))
        (folder / "serial").write_text("01\n")

    def reply(self, request: bytes) -> bytes:
        """The time-stamp response (DER) to a time-stamp request (DER)."""
        with self._lock:  # openssl counts serial numbers in a file
            query, made = self.folder / "query.tsq", self.folder / "reply.tsr"
            query.write_bytes(request)
            openssl("ts", "-reply", "-config", self.folder / "tsa.cnf", "-queryfile", query, "-out", made)
            return made.read_bytes()

    def stamp(self, data: bytes, *, digest: str = "sha256") -> bytes:
        """A time-stamp response over ``data``, asked for by openssl itself."""
        file, query = self.folder / "data", self.folder / "own.tsq"
        file.write_bytes(data)
        openssl("ts", "-query", "-data", file, f"-{digest}", "-cert", "-out", query)
        return self.reply(query.read_bytes())

    def _make_chain(self, valid_from: datetime, valid_until: datetime, stamping: bool, name: str) -> None:
        root_key, between_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(3))
        root_name, between_name, own_name = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {what}")])
            for what in ("root", "intermediate", "time-stamping")
        )

        def certificate(
            subject: x509.Name,
            subject_key: rsa.RSAPrivateKey,
            issuer: x509.Name,
            issuer_key: rsa.RSAPrivateKey,
            *,
            ca: bool,
            like: x509.Certificate | None = None,
        ) -> x509.Certificate:
            builder = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(issuer)
                .public_key(subject_key.public_key())
                .serial_number(like.serial_number if like else x509.random_serial_number())
                .not_valid_before(valid_from - timedelta(days=1) if like else valid_from)
                .not_valid_after(valid_until)
                .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            )
            if ca:
                usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
                builder = builder.add_extension(usage, critical=True)
            else:
                purpose = ExtendedKeyUsageOID.TIME_STAMPING if stamping else ExtendedKeyUsageOID.CODE_SIGNING
                usage = x509.KeyUsage(True, True, False, False, False, False, False, False, False)
                builder = builder.add_extension(usage, critical=True)
                builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
            return builder.sign(issuer_key, hashes.SHA256())

        root = certificate(root_name, root_key, root_name, root_key, ca=True)
        between = certificate(between_name, between_key, root_name, root_key, ca=True)
        own = certificate(own_name, key, between_name, between_key, ca=False)
        # The same once more, for the same key and under the same number, but other bytes.
        twin = certificate(own_name, key, between_name, between_key, ca=False, like=own)
        self.certificate, self.twin = (one.public_bytes(serialization.Encoding.DER) for one in (own, twin))
        for file, made in (("roots.pem", root), ("intermediate.pem", between), ("stamping.pem", own)):
            (self.folder / file).write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (self.folder / "stamping.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


@contextmanager
def serving(authority: Authority, *, tls: ssl.SSLContext | None = None) -> Iterator[Authority]:
    """Serve ``authority`` on a free port; its ``url`` is set. With ``tls`` it speaks HTTPS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            authority.requests.append(body)
            authority.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, answer = authority.answer(body) if authority.answer else (200, authority.reply(body))
            self.send_response(status)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    authority.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/tsr"
    try:
        yield authority
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def openssl(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run openssl; raises ``CalledProcessError`` where it fails."""
    command = [OPENSSL or "openssl", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, timeout=300)


def openssl_accepts(response: bytes, data: bytes, roots: Path, folder: Path, *, at: datetime | None = None) -> bool:
    """The verdict of ``openssl ts -verify`` on a stored response."""
    (folder / "verified.tsr").write_bytes(response)
    (folder / "verified.data").write_bytes(data)
    arguments: list[object] = ["ts", "-verify", "-data", folder / "verified.data", "-in", folder / "verified.tsr"]
    arguments += ["-CAfile", roots, *(["-attime", int(at.timestamp())] if at else [])]
    try:
        return b"Verification: OK" in openssl(*arguments).stdout
    except subprocess.CalledProcessError:
        return False
