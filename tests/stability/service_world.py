"""A psi-field service on a real port, in a thread of its own, and plain calls to it."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from amaru.stability.guardian import GuardianSettings
from amaru.stability.service import PsiService, warm
from amaru.stability.service_state import StateFile, opened

EAGER = GuardianSettings(warm_up_steps=0, cooldown_steps=0)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Served:
    """A running service."""

    def __init__(self, service: PsiService, url: str, damage: str | None) -> None:
        self.service = service
        self.url = url
        self.damage = damage

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers.items()), error.read())

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def post(self, path: str, body: object = None) -> Any:
        answer = self.call("POST", path, {} if body is None else body)
        assert answer.status == 200, answer
        return answer.json


@contextmanager
def served(
    state: Path | None = None,
    *,
    node: str = "here",
    guardian: GuardianSettings | None = None,
    clock: Clock | None = None,
) -> Iterator[Served]:
    """A service that goes on from ``state``, if there is one."""
    warm()
    clock = clock or Clock()
    file = None if state is None else StateFile(state)
    service = PsiService(file=file, node=node, guardian=guardian, clock=clock)
    damage = None if file is None else opened(file, clock(), service.restore)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = service.server()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        yield Served(service, f"http://127.0.0.1:{server.port}", damage)
        asyncio.run_coroutine_threadsafe(server.drain(5.0), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
        if file is not None:
            file.close()
