"""What ``kills.py`` kills: a real ``amaru serve``, started over and over at one port before callers who never rest.

The providers are simulated servers with bills of their own, in the benchmark's own process: no kill reaches them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import psutil
import yaml
from kills_nursery import Nursery
from sqlalchemy import create_engine

from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.domain import Kind, Offer, Price
from amaru.protocols.openai import parse_request
from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider

PRICES = {"alpha": Price(0.31, 0.07, 0.913), "beta": Price(0.27, 0.05, 1.137)}
"""USD per million tokens: input, cached input, output."""
LATENCY = Latency(ttft_ms=15, ttft_sigma=0.5, prefill_ms_per_ktok=0, itl_ms=1, itl_sigma=0.3, load_weight=0)
FAULTS = (
    Fault(kind="cut", after_events=3, probability=0.03, only="stream"),
    Fault(kind="status", status=500, probability=0.02),
)
"""Of alpha: some answers break without any kill."""
CALLERS = 12
TIGHT_CALLERS = 3
"""Of them: theirs is the budget that runs out in each life of the gateway, and is raised for the next."""
TIGHT_REQUESTS = 3
"""By how many requests' upper estimates it is raised; each of them costs about an eighth of that."""
PAUSE_S = 0.1
"""Before a caller tries again who was refused, or found nobody."""
WIDE_USD = "1000000"
KEYS = {"wide": "sk-amaru-key-of-those-with-money", "tight": "sk-amaru-key-of-those-with-little"}
WAIT_S = 300.0
"""A gateway that does not do within this what is waited for has failed."""
EARLY_S, LATE_S = 0.4, 0.2
"""Around the moment at which it usually serves: a kill at its start comes so much before that, or after."""


def body_of(number: int, caller: int) -> dict[str, Any]:
    """The request of a caller's number: streamed or whole, of many sizes."""
    stream = {"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {}
    content = f"Story {number}. " + "word " * (number * 7 % 60)
    length = 5 + number * 11 % 40
    messages = [{"role": "user", "content": content}]
    return {"model": f"sim-{caller}", "messages": messages, "max_tokens": length, **stream}


def most_nusd(body: dict[str, Any]) -> int:
    """What a request may cost at the dearest of the offers, nano-USD."""
    request = parse_request(Kind.CHAT, json.dumps(body, separators=(",", ":")).encode())
    offers = [
        Offer(f"{name}/{body['model']}", name, body["model"], body["model"], price=price)
        for name, price in PRICES.items()
    ]
    return max(upper_nusd(offer.price, bounds_of(request), offer) for offer in offers)


RAISE_NUSD = TIGHT_REQUESTS * max(most_nusd(body_of(number, CALLERS)) for number in range(240))


@dataclass
class Place:
    """Where a gateway keeps its accounts, and how it serves."""

    folder: Path
    store_url: str
    redis_url: str = ""
    workers: int = 1
    bound: bool = True
    """Budgets and limits bind what is asked."""


@contextlib.contextmanager
def postgresql_schema(url: str) -> Iterator[str]:
    """A schema of one's own in a database; its URL."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    schema = f"amaru_kills_{random.getrandbits(48):012x}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
    try:
        yield f"{url}?options={quote(f'-csearch_path={schema}')}"
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f'DROP SCHEMA "{schema}" CASCADE')
        engine.dispose()


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of one's own; its URL."""
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Answer(msgspec.Struct, frozen=True):
    """One that came whole."""

    decision: str
    input_tokens: int
    output_tokens: int


@dataclass
class Callers:
    """Each asks one request after the other, whatever happens; and notes what came whole."""

    base_url: str
    answers: list[Answer] = field(default_factory=list)
    cut: int = 0
    """Requests that ended without a whole answer: they were under way when something was killed."""
    refused: int = 0
    """By a budget that was used up."""
    put_off: int = 0
    """Told to come again, the store not having answered in time: it has to wait for a core where there are few."""
    other: list[str] = field(default_factory=list)
    """Answers that nobody should get."""
    served: dict[str, int] = field(default_factory=lambda: {"wide": 0, "tight": 0})
    resting: bool = False

    async def run(self) -> None:
        """Until they are to rest."""
        await asyncio.gather(*(self._call_on_and_on(caller) for caller in range(CALLERS)))

    async def _call_on_and_on(self, caller: int) -> None:
        tenant = "tight" if caller < TIGHT_CALLERS else "wide"
        async with self.client(tenant) as client:
            number = caller
            while not self.resting:
                number += 1
                try:
                    answer = await self.ask(client, body_of(number, caller))
                except httpx.ConnectError:
                    await asyncio.sleep(PAUSE_S)
                    continue
                except (httpx.TransportError, ValueError):
                    self.cut += 1
                    continue
                if answer is None:
                    await asyncio.sleep(PAUSE_S)
                else:
                    self.answers.append(answer)
                    self.served[tenant] += 1

    def client(self, tenant: str) -> httpx.AsyncClient:
        """That of a tenant."""
        headers = {"authorization": f"Bearer {KEYS[tenant]}"}
        return httpx.AsyncClient(base_url=self.base_url, headers=headers, timeout=WAIT_S)

    async def ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer | None:
        """The answer, if it is whole; ``None``: refused. Raises ``httpx.TransportError``, ValueError: it is not."""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            content = (await response.aread()).decode()
        if response.status_code != 200:
            code = json.loads(content)["error"]["code"]
            if response.status_code == 429 and code == "insufficient_quota":
                self.refused += 1
            elif response.status_code == 503 and code in ("accounts_unavailable", "accounts_busy"):
                self.put_off += 1
            else:
                self.other.append(f"{response.status_code} {content}")
            return None
        if not body.get("stream"):
            usage = json.loads(content)["usage"]
        else:
            if "data: [DONE]" not in content:
                raise ValueError("cut")
            events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith("data: {")]
            usage = next(event["usage"] for event in reversed(events) if event.get("usage"))
        return Answer(response.headers["x-amaru-decision"], usage["prompt_tokens"], usage["completion_tokens"])


class Gateway:
    """``amaru serve``, dead or alive, at one port over all of its lives."""

    def __init__(self, place: Place, providers: dict[str, SimulatedProvider]) -> None:
        self.place = place
        self.port = free_port()
        self.lives = 0
        self.startups_s: list[float] = []
        """From being started until it serves."""
        self._providers = providers
        self._nursery = Nursery()
        self._pid = 0
        """Of the process that is ``amaru serve`` itself; 0: none lives."""
        self._serves: asyncio.Task[bytes] | None = None
        self._began = 0.0
        self._log = (place.folder / "gateway.log").open("ab")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, Any]:
        """Of this life: in each one the budget that runs out is larger."""
        place, models = self.place, [f"sim-{caller}" for caller in range(CALLERS)]
        tight_usd = f"{Decimal(self.lives * RAISE_NUSD) / 10**9:f}"
        budgets = {"wide": [{"usd": WIDE_USD, "per": "day"}], "tight": [{"usd": tight_usd, "per": "total"}]}
        limits = {"requests_per_min": 10**9, "tokens_per_min": 10**12, "concurrency": 10**6}
        bound = {name: {"budgets": of, "limits": limits} if place.bound else {} for name, of in budgets.items()}
        of_provider = {"providers": {"beta": [{"usd": WIDE_USD, "per": "total"}]}} if place.bound else {}
        return {
            "server": {"port": self.port, "workers": place.workers, "drain_s": 20},
            "providers": {name: {"base_url": provider.base_url} for name, provider in self._providers.items()},
            "offers": [
                {
                    "provider": name,
                    "resource": model,
                    "model": model,
                    "price": {
                        "input_usd_per_mtok": price.input_usd_per_mtok,
                        "cached_input_usd_per_mtok": price.cached_input_usd_per_mtok,
                        "output_usd_per_mtok": price.output_usd_per_mtok,
                    },
                }
                for name, price in PRICES.items()
                for model in models
            ],
            "routing": {"policy": "random"},
            "tenants": {
                name: {"keys": [{"sha256": hashlib.sha256(key.encode()).hexdigest()}], **bound[name]}
                for name, key in KEYS.items()
            },
            "budgets": of_provider,
            "accounts": {"url": place.store_url} | ({"redis_url": place.redis_url} if place.redis_url else {}),
            "logging": {"level": "warning"},
        }

    async def start(self) -> None:
        """Begin a life; whether it serves is another question."""
        self.lives += 1
        config = self.place.folder / "amaru.yaml"
        config.write_text(yaml.safe_dump(self.settings()))
        self._began = time.monotonic()
        self._pid, said = self._nursery.start(["serve", "--config", str(config)], self._log)

        def first_line() -> bytes:
            with said:
                return said.readline()

        self._serves = asyncio.create_task(asyncio.to_thread(first_line))

    async def serves(self) -> None:
        """Wait until it does. Raises RuntimeError where it ended instead, TimeoutError where it does neither."""
        assert self._serves is not None
        async with asyncio.timeout(WAIT_S):
            words = await asyncio.shield(self._serves)
        if b"serves at" not in words:
            raise RuntimeError(f"amaru serve ended while it started: see {self._log.name}")
        self.startups_s.append(time.monotonic() - self._began)

    async def starts_for(self, late_s: float) -> None:
        """Wait until so long after the moment at which it usually serves (or before it, where below 0)."""
        assert self._serves is not None
        usual_s = sorted(self.startups_s)[len(self.startups_s) // 2] if self.startups_s else 2.0
        rest_s = self._began + usual_s + late_s - time.monotonic()
        await asyncio.wait([self._serves], timeout=max(rest_s, 0.0))

    def processes(self) -> dict[str, psutil.Process]:
        """Those that live, by their part: ``all`` of one process, or ``supervisor``, ``owner``, ``worker``."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._pid)
            if self.place.workers == 1:
                return {"all": first}
            found = {"supervisor": first}
            for child in first.children():
                with contextlib.suppress(psutil.Error, ValueError):
                    command = child.cmdline()
                    number = json.loads(command[command.index("--seat") + 1])["worker"]
                    found["owner" if number == 0 else "worker"] = child
            return found
        return {}

    async def kill(self, part: str) -> bool:
        """SIGKILL to a part of it, or to ``all``; whether there was such a process."""
        found = self.processes()
        hit = list(found.values()) if part == "all" else [found[part]] if part in found else []
        for process in hit:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        if part in ("all", "supervisor"):
            await self._ended(found)
        return bool(hit)

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        found = self.processes()
        os.kill(self._pid, signal.SIGTERM)
        return await self._ended(found)

    async def _ended(self, found: dict[str, psutil.Process]) -> int:
        """Once all of them have: workers outlive their supervisor until they have drained."""
        assert self._serves is not None
        async with asyncio.timeout(WAIT_S):
            status = await asyncio.to_thread(self._nursery.status, self._pid)
            while any(_lives(process) for process in found.values()):  # noqa: ASYNC110 - no children of ours
                await asyncio.sleep(0.005)
            await self._serves
        self._pid = 0
        return status

    async def clear(self) -> None:
        """Leave nothing behind."""
        if self._pid:
            await self.kill("all")
        self._nursery.close()
        self._log.close()


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.asynccontextmanager
async def providers() -> Any:
    """Two of them: one that breaks now and then, and one that is dearer."""
    models = tuple(f"sim-{caller}" for caller in range(CALLERS))
    async with contextlib.AsyncExitStack() as stack:
        made = {}
        for seed, (name, price) in enumerate(PRICES.items()):
            profile = ProviderProfile(name=name, models=models, price=price, latency=LATENCY)
            made[name] = await stack.enter_async_context(SimulatedProvider(profile, seed=seed))
        for fault in FAULTS:
            made["alpha"].faults.add(fault)
        yield made


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds. Raises TimeoutError: in vain."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds():  # noqa: ASYNC110 - told by no event
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise TimeoutError(f"within {WAIT_S:.0f} s {what}") from None
