"""What tests of the admin API share: a gateway with accounts, and clients for keys of each role."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from gateway_world import OPERATOR_KEY, World
from sqlalchemy import insert

from amaru.accounts.schema import outbox
from amaru.mesh.accounts import MeshAccounts


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class Admin:
    """Calls the admin API of a gateway with one key."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, path: str, body: Any = None, *, expect: int = 200, **fields: Any) -> Any:
        answer = await self.client.request(method, f"/admin{path}", json=body, **fields)
        assert answer.status_code == expect, (answer.status_code, answer.text)
        assert answer.headers.get("cache-control") == "no-store" or expect >= 400
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None, *, status: int, **fields: Any) -> str:
        """The words in which it is refused."""
        answer = await self(method, path, body, expect=status, **fields)
        return str(answer["error"]["message"])


@contextlib.asynccontextmanager
async def admin_of(world: World, key: str = OPERATOR_KEY, port: int | None = None) -> AsyncIterator[Admin]:
    base = world.base_url if port is None else f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers=bearer(key), timeout=60.0) as client:
        yield Admin(client)


def alerted(world: World, **changes: Any) -> None:
    """An alert stands in the outbox that was given up."""
    body = {"type": "budget.threshold", "timestamp": "2026-11-14T22:13:20Z", "data": {"budget": "tenant:shop:usd:day"}}
    row = {"once": secrets.token_hex(4), "at": time.time(), "event": "budget.threshold", "body": json.dumps(body),
           "tries": 12, "next_at": None, "error": "503", **changes}  # fmt: skip
    with accounts_of(world).directory.store.writing() as connection:
        connection.execute(insert(outbox).values(row))


def accounts_of(world: World) -> MeshAccounts:
    assert world.accounts is not None
    return world.accounts
