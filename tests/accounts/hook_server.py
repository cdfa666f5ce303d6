"""A receiver of webhooks that does as it is told, and what it takes to check a signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = bytes(range(32))


class Receiver(ThreadingHTTPServer):
    """Answers by ``script``, one word for each request; ``ok`` once it is used up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: deque[str] = deque()
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.answer = b""
        """Instead of the path that was asked for."""
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/t0ken-of-the-hook"

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.paths.append(self.path)
        word = self.server.script.popleft() if self.server.script else "ok"
        if word == "hang":
            self.server.release.wait(60)
        elif word == "close":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        elif word == "flood":
            self._answer(200, b"x" * 300_000)
        elif word == "redirect":
            self._answer(302, b"", location=f"{self.server.url}-elsewhere")
        elif word.startswith("busy "):
            self._answer(429, b"", **{"retry-after": word.removeprefix("busy ")})
        else:
            said = self.server.answer or f"answer to {self.path}\x1b[31m".encode()
            self._answer(200 if word == "ok" else int(word), said)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


def verify(secret: bytes, headers: dict[str, str], body: bytes) -> bool:
    """As Standard Webhooks 1.0.0 tells receivers to: any of the ``v1`` signatures over ``id.timestamp.body``."""
    signed = f"{headers['webhook-id']}.{int(headers['webhook-timestamp'])}.".encode() + body
    expected = hmac.new(secret, signed, hashlib.sha256).digest()
    given = [one.split(",", 1) for one in headers["webhook-signature"].split(" ")]
    return any(hmac.compare_digest(expected, base64.b64decode(text)) for version, text in given if version == "v1")
