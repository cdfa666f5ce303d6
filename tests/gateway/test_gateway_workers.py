"""`amaru serve --workers N` over real processes: one port, one state, and no worker's death felt by callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateway_world import KEY, OPERATOR_KEY
from openai import AsyncOpenAI
from test_gateway_process import Served, settings_for, start

from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings

pytestmark = pytest.mark.slow
QUICK = ProviderProfile(name="quick", latency=Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=0))
SLOW = ProviderProfile(name="slow", latency=Latency(ttft_ms=5, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=40))
OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
BODY = {"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}


class Workers(Served):
    """A supervisor with two workers, and a client that stays with each."""

    by_worker: dict[int, httpx.AsyncClient]

    def pids(self) -> dict[int, int]:
        """Process ids of the workers that live, by number."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int(re.search(r"\nPPid:\t(\d+)", (folder / "status").read_text())[1])  # type: ignore[index]
                command = (folder / "cmdline").read_bytes().split(b"\0")
                if parent == self.process.pid and b"--seat" in command:
                    found[json.loads(command[command.index(b"--seat") + 1])["worker"]] = int(folder.name)
        return found

    async def meet(self) -> None:
        """Open connections until there is a client that stays with each worker."""
        self.by_worker = {}
        async with asyncio.timeout(60.0):
            while len(self.by_worker) < 2:
                client = httpx.AsyncClient(base_url=self.client.base_url, headers=self.client.headers, timeout=60.0)
                assert (await client.get("/health/live")).status_code == 200
                port = client_port(client)
                worker = next((n for n, pid in self.pids().items() if port in peer_ports(pid)), None)
                if worker is None or worker in self.by_worker:
                    await client.aclose()
                else:
                    self.by_worker[worker] = client

    async def aclose(self) -> None:
        for client in self.by_worker.values():
            await client.aclose()

    async def status(self, worker: int = 1) -> dict[str, Any]:
        answer = await self.by_worker[worker].get("/status", headers=OPERATOR)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def client_port(client: httpx.AsyncClient) -> int:
    pool = client._transport._pool  # type: ignore[attr-defined]  # where httpx keeps its connections
    stream = pool.connections[0]._connection._network_stream
    return int(stream.get_extra_info("client_addr")[1])


def peer_ports(pid: int) -> set[int]:
    """Ports of the callers that are connected to a process."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            ports.add(int(fields[2].split(":")[1], 16))
    return ports


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; what is waited for is bounded by 20 s, and not timed."""
    async with asyncio.timeout(60.0):
        while not await holds():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serving(folder: Path, settings: dict[str, Any], *options: str) -> AsyncIterator[Workers]:
    process = await start(folder, settings, *options)
    assert process.stdout is not None
    async with asyncio.timeout(90.0):
        words = (await process.stdout.readline()).decode()
    assert "serves at" in words, (await process.stderr.read()).decode() if process.stderr else ""
    made = Workers(process, words.split("serves at ")[1].split("/v1")[0], folder / "amaru.yaml", settings)
    try:
        await made.meet()
        yield made
    finally:
        await made.aclose()
        await made.stop(signal.SIGKILL)


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    async with SimulatedProvider(QUICK) as made:
        yield made


@pytest.fixture
async def workers(tmp_path: Path, provider: SimulatedProvider) -> AsyncIterator[Workers]:
    settings = settings_for(provider.base_url, drain_s=15, workers=2)
    async with serving(tmp_path, {**settings, "routing": {"policy": "hybrid"}}) as made:
        yield made


async def test_two_workers_serve_one_port_and_show_one_machine(workers: Workers) -> None:
    async with AsyncOpenAI(base_url=f"{workers.client.base_url}/v1", api_key=KEY) as official:
        answer = await official.chat.completions.create(model="sim", messages=[{"role": "user", "content": "x"}])
        assert answer.choices[0].message.content
    ids = []
    for client in workers.by_worker.values():
        for _ in range(5):
            served = await client.post("/v1/chat/completions", json=BODY)
            assert served.status_code == 200
            ids.append(served.headers["x-amaru-decision"])
    for client in workers.by_worker.values():
        for id in ids:  # each is found at once, whichever worker decided it
            assert (await client.get(f"/decisions/{id}")).json()["id"] == id
        metrics = (await client.get("/metrics", headers=OPERATOR)).text
        assert 'amaru_requests_total{kind="chat",outcome="ok",resource="sim",tenant="team"} 11.0' in metrics
        assert "amaru_workers 2.0" in metrics
        assert len((await client.get("/decisions")).json()["decisions"]) == 11
    status = await workers.status()
    assert status["traffic"]["requests"] == 11
    assert status["sensing"]["observed"] == 11
    feedback = {"decision_id": ids[0], "ok": True, "latency_ms": 5}
    assert (await workers.by_worker[1].post("/agent/feedback", json=feedback)).status_code == 409


async def test_what_one_worker_learned_the_other_ranks_by(workers: Workers) -> None:
    for _ in range(5):
        await workers.by_worker[1].post("/v1/chat/completions", json=BODY)
    policy = (await workers.by_worker[1].get("/policy", headers=OPERATOR)).json()
    assert policy["outcomes"] == 5  # those of the worker that did not serve them


async def test_failures_in_one_worker_keep_the_other_away(workers: Workers, provider: SimulatedProvider) -> None:
    provider.faults.add(Fault(kind="status", status=401))  # broken until a person mends it: no last resort either
    failed = await workers.by_worker[1].post("/v1/chat/completions", json=BODY)
    assert failed.headers["x-amaru-attempts"] == "1"
    for client in workers.by_worker.values():  # the one that saw it, and the one that was told
        entry = (await client.get("/providers/slow")).json()["offers"][0]["now"]
        assert entry["state"] == "open"
        refused = await client.post("/v1/chat/completions", json=BODY)
        assert refused.status_code == 502
        assert refused.headers["x-amaru-attempts"] == "0"


async def test_worker_killed_under_load_is_replaced_and_others_serve_on(workers: Workers) -> None:
    before = workers.pids()
    results: Counter[str] = Counter()
    stop = asyncio.Event()

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=workers.client.base_url, headers=workers.client.headers) as client:
            while not stop.is_set():
                try:
                    answer = await client.post("/v1/chat/completions", json=BODY, timeout=60.0)
                    results["ok" if answer.status_code == 200 else str(answer.status_code)] += 1
                except httpx.HTTPError:
                    results["cut"] += 1  # its connection was to the worker that died

    asking = [asyncio.create_task(ask()) for _ in range(6)]
    await eventually(lambda: _true(results["ok"] >= 20))
    served = (await workers.by_worker[0].post("/v1/chat/completions", json=BODY)).headers["x-amaru-decision"]
    os.kill(before[1], signal.SIGKILL)
    ok = results["ok"]
    await eventually(lambda: _true(results["ok"] >= ok + 50))
    await eventually(lambda: _true(workers.pids().get(1, before[1]) != before[1]))
    await workers.logged("worker_died")
    stop.set()
    await asyncio.gather(*asking)
    assert set(results) <= {"ok", "cut"}
    assert results["cut"] <= len(asking)
    assert (await workers.by_worker[0].get(f"/decisions/{served}")).status_code == 200
    await workers.aclose()
    await workers.meet()
    assert (await workers.by_worker[1].post("/v1/chat/completions", json=BODY)).status_code == 200
    assert (await workers.status())["in_flight"] == 0


async def test_owner_killed_is_replaced_and_knows_what_was_learned(workers: Workers) -> None:
    for _ in range(3):
        await workers.by_worker[1].post("/v1/chat/completions", json=BODY)
    assert (await workers.by_worker[1].get("/policy", headers=OPERATOR)).json()["outcomes"] == 3
    await eventually(lambda: _is_stored(workers, 3))
    owner = workers.pids()[0]
    os.kill(owner, signal.SIGKILL)
    for _ in range(5):
        assert (await workers.by_worker[1].post("/v1/chat/completions", json=BODY)).status_code == 200
        assert (await workers.by_worker[1].get("/health")).status_code == 200
    await eventually(lambda: _true(workers.pids().get(0, owner) != owner))

    async def knows_and_learns() -> bool:
        assert (await workers.by_worker[1].post("/v1/chat/completions", json=BODY)).status_code == 200
        answer = await workers.by_worker[1].get("/policy", headers=OPERATOR)
        return answer.status_code == 200 and answer.json()["outcomes"] > 3

    await eventually(knows_and_learns)


async def _true(value: bool) -> bool:
    return value


async def _is_stored(workers: Workers, outcomes: int) -> bool:
    store = DecisionStore(StoreSettings(path=workers.config.parent / "amaru-data" / "amaru.db", removes=False))
    store.start()
    try:
        kept = await store.policy("hybrid")
        return kept is not None and kept.outcomes == outcomes
    finally:
        await store.close()


async def test_no_worker_outlives_a_supervisor_that_is_killed(workers: Workers) -> None:
    pids = list(workers.pids().values())
    workers.process.kill()
    await workers.process.wait()
    await eventually(lambda: _true(not any(Path(f"/proc/{pid}").exists() for pid in pids)))


async def test_a_worker_that_is_ready_after_its_supervisor_died_drains_as_the_others(workers: Workers) -> None:
    dead = workers.pids()[0]
    os.kill(dead, signal.SIGKILL)

    async def is_starting() -> bool:
        return workers.pids().get(0, dead) != dead

    await eventually(is_starting)
    workers.process.kill()  # long before the new one is ready
    await eventually(lambda: _true(any(line["event"] == "stopped" and line["worker"] == 0 for line in workers.logs)))


async def test_changed_file_reaches_every_worker(workers: Workers) -> None:
    workers.config.write_text(yaml.safe_dump({**workers.settings, "aliases": {"new": ["sim"]}}))
    workers.process.send_signal(signal.SIGHUP)

    async def all_know() -> bool:
        answers = [await client.get("/v1/models") for client in workers.by_worker.values()]
        return all([model["id"] for model in answer.json()["data"]] == ["new", "sim"] for answer in answers)

    await eventually(all_know)
