"""A gateway tells a webhook of budgets that are used up, and goes on telling it when the file names another."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import signal
from pathlib import Path
from typing import Any

import yaml
from test_gateway_budgets_processes import BODY, budgeted, slow
from test_gateway_ledger_kill import serve
from test_gateway_process import OPERATOR_KEY, Served

from amaru.simulation import SimulatedProvider

SECRETS = (b"a" * 32, b"b" * 32)


class Receiver:
    """Takes every message, but the first."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
        self._refused = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
        body = await reader.readexactly(int(headers["content-length"]))
        status, self._refused = b"200 OK" if self._refused else b"500 No", True
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        await writer.drain()
        writer.close()
        await self.got.put((headers, body))

    async def next(self) -> tuple[dict[str, str], dict[str, Any]]:
        """What came, once its signature holds under the first secret."""
        async with asyncio.timeout(60.0):
            headers, body = await self.got.get()
        signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        expected = base64.b64encode(hmac.new(SECRETS[0], signed, hashlib.sha256).digest()).decode()
        assert f"v1,{expected}" in headers["webhook-signature"].split(" ")
        return headers, json.loads(body)


async def metrics(served: Served) -> str:
    operator = {"authorization": f"Bearer {OPERATOR_KEY}"}
    return (await served.client.get("/metrics", headers=operator)).text


async def test_a_budget_that_is_exceeded_is_told_and_told_again_where_that_failed(tmp_path: Path) -> None:
    receiver = Receiver()
    server = await asyncio.start_server(receiver, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    for name, secret in zip(("now", "before"), SECRETS, strict=True):
        (tmp_path / name).write_text(f"whsec_{base64.b64encode(secret).decode()}")
    async with SimulatedProvider(slow(1.0)) as provider:
        webhook = {"url": url, "secret_file": "now"}
        settings = budgeted(provider.base_url, 1, webhook=webhook)
        settings["tenants"]["team"]["budgets"][0] |= {"hard": False, "alerts": []}
        served = await serve(tmp_path, settings)
        try:
            assert (await served.client.post("/v1/chat/completions", json=BODY)).status_code == 200
            first, body = await receiver.next()
            assert (body["type"], body["data"]["budget"]) == ("budget.exceeded", "tenant:team:usd:total")
            assert " " not in first["webhook-signature"]
            served.config.write_text(
                yaml.safe_dump(settings | {"accounts": {"webhook": {**webhook, "previous_secret_file": "before"}}})
            )
            served.process.send_signal(signal.SIGHUP)
            await served.logged("configuration_reloaded")
            again, _ = await receiver.next()
            assert again["webhook-id"] == first["webhook-id"]
            async with asyncio.timeout(60.0):
                while 'amaru_webhooks_total{result="delivered"} 1.0' not in (shown := await metrics(served)):
                    pass
            assert 'amaru_webhooks_total{result="failed"} 1.0' in shown
            assert 'amaru_budget_used_ratio{period="total",scope="tenant",subject="team"}' in shown
        finally:
            await served.stop(signal.SIGKILL)
            server.close()
