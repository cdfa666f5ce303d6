"""`amaru serve` as a process: ready, reload, drain, SIGTERM, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateway_world import KEY, OPERATOR_KEY, digest, text_of

from amaru.simulation import Latency, ProviderProfile, SimulatedProvider

SLOW = ProviderProfile(name="slow", latency=Latency(ttft_ms=5, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=40))


class Served:
    """A running `amaru serve`."""

    def __init__(
        self, process: asyncio.subprocess.Process, address: str, config: Path, settings: dict[str, Any]
    ) -> None:
        self.process = process
        self.config = config
        self.settings = settings
        self.logs: list[dict[str, Any]] = []
        self.client = httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {KEY}"}, timeout=60.0)
        self._reading = asyncio.create_task(self._read_logs())
        self._news = asyncio.Event()

    async def _read_logs(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            with contextlib.suppress(json.JSONDecodeError):
                self.logs.append(json.loads(line))
                self._news.set()

    async def logged(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(60.0):
            while True:
                for line in self.logs:
                    if line["event"] == event:
                        return line
                self._news.clear()
                await self._news.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(300.0):
            code = await self.process.wait()
            await self._reading
        await self.client.aclose()
        return code


def settings_for(base_url: str, **server: Any) -> dict[str, Any]:
    return {
        "server": {"operator_keys": [{"sha256": digest(OPERATOR_KEY)}], **server},
        "providers": {"slow": {"base_url": base_url}},
        "offers": [
            {"provider": "slow", "resource": "sim", "model": "sim-model",
             "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}
        ],
        "tenants": {"team": {"keys": [{"sha256": digest(KEY)}]}},
    }  # fmt: skip


async def start(folder: Path, settings: dict[str, Any], *options: str) -> asyncio.subprocess.Process:
    config = folder / "amaru.yaml"
    config.write_text(yaml.safe_dump(settings))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from amaru.cli.main import main; main()", "serve", "--config", str(config),
        "--port", "0",
        *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ},
    )  # fmt: skip


async def refused(process: asyncio.subprocess.Process) -> str:
    """What a server that must not start says before it ends with status 1."""
    try:
        async with asyncio.timeout(60.0):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    return err.decode()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with SimulatedProvider(SLOW) as provider:
        settings = settings_for(provider.base_url, drain_s=15)
        process = await start(tmp_path, settings)
        assert process.stdout is not None
        async with asyncio.timeout(60.0):
            words = (await process.stdout.readline()).decode()
        assert "serves at" in words, (await process.stderr.read()).decode() if process.stderr else ""
        address = words.split("serves at ")[1].split("/v1")[0]
        made = Served(process, address, tmp_path / "amaru.yaml", settings)
        try:
            yield made
        finally:
            await made.stop(signal.SIGKILL)


def stream_request(tokens: int) -> dict[str, Any]:
    return {"model": "sim", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": tokens}


async def test_sigterm_lets_streams_end_and_refuses_new_traffic(served: Served) -> None:
    assert (await served.client.get("/health/ready")).status_code == 200
    lines = []
    async with served.client.stream("POST", "/v1/chat/completions", json=stream_request(15)) as response:
        async for line in response.aiter_lines():
            if not lines:
                served.process.send_signal(signal.SIGTERM)
                await served.logged("draining")
                with pytest.raises(httpx.ConnectError):
                    async with httpx.AsyncClient() as other:
                        await other.get(f"{served.client.base_url}/health/ready")
            lines.append(line)
    assert "data: [DONE]" in lines
    assert text_of(lines)
    assert await served.ended() == 0
    assert [line for line in served.logs if line["level"] == "error"] == []


async def test_second_signal_ends_at_once(served: Served) -> None:
    endless = {**stream_request(4000), "ignore_eos": True}
    async with served.client.stream("POST", "/v1/chat/completions", json=endless) as response:
        rest = response.aiter_lines()
        await anext(rest)
        served.process.send_signal(signal.SIGTERM)
        await served.logged("draining")
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            _ = [line async for line in rest]
    assert await served.ended() == 1


async def test_changed_file_is_taken_without_dropping_a_request_and_a_broken_one_refused(served: Served) -> None:
    lines = []
    async with served.client.stream("POST", "/v1/chat/completions", json=stream_request(25)) as response:
        async for line in response.aiter_lines():
            if not lines:
                served.config.write_text(yaml.safe_dump({**served.settings, "aliases": {"new": ["sim"]}}))
                served.process.send_signal(signal.SIGHUP)
                await served.logged("configuration_reloaded")
                models = (await served.client.get("/v1/models")).json()["data"]
                assert [model["id"] for model in models] == ["new", "sim"]
            lines.append(line)
    assert "data: [DONE]" in lines
    served.config.write_text("offers: [\n")
    served.process.send_signal(signal.SIGHUP)
    refused = await served.logged("configuration_refused")
    assert "amaru.yaml:" in refused["problems"][0]
    assert [model["id"] for model in (await served.client.get("/v1/models")).json()["data"]] == ["new", "sim"]


async def test_records_survive_the_process(served: Served) -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    response = await served.client.post("/v1/chat/completions", json=body)
    assert await served.stop() == 0
    from amaru.storage import DecisionStore, StoreSettings

    store = DecisionStore(StoreSettings(path=served.config.parent / "amaru-data" / "amaru.db"))
    store.start()
    stored = await store.get(response.headers["x-amaru-decision"])
    await store.close()
    assert stored is not None
    assert stored.record.ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offers": [{"provider": "nobody", "resource": "x", "price": {}}]}, "nobody"),
        ({"server": {"auth": "none", "host": "0.0.0.0"}}, "auth"),
        ({"storage": {"path": "/proc/nowhere/amaru.db"}}, "/proc/nowhere"),
    ],
)
async def test_what_prevents_the_start_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    err = await refused(await start(tmp_path, {**settings_for("http://127.0.0.1:9"), **change}))
    assert words in err
    assert "Traceback" not in err


async def test_option_cannot_open_an_unguarded_server(tmp_path: Path) -> None:
    settings = settings_for("http://127.0.0.1:9", auth="none")
    err = await refused(await start(tmp_path, settings, "--host", "0.0.0.0"))
    assert "server.auth: none lets everybody who reaches 0.0.0.0" in err
