"""The world of the replay benchmark: seven providers that fall ill in turns, and the ways in which they can be used.

Every contender meets the same world from its beginning: fresh processes, the same seeds, the same incidents at the same
instants. The providers' capacities are what a buyer faces: together they can serve the load, and none can alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import yaml

from amaru.domain import Price
from amaru.errors import AmaruError
from amaru.readiness.caller import RETRIED_FAILURES, RETRIED_STATUSES, Caller, Habits
from amaru.readiness.children import Child
from amaru.readiness.json_client import JsonClient
from amaru.readiness.measuring import Sample
from amaru.simulation.faults import Fault, Incident
from amaru.simulation.gateway_config import gateway_config
from amaru.simulation.profiles import SEVEN, ProviderProfile
from amaru.simulation.traces import TraceRequest

MODEL = "llama-70b"
SEED = 11
LOAD_CORE, WORLD_CORE = 0, 1
"""The load generator has a core to itself; providers and gateway share the other."""
PATIENCE_S = 15.0
"""Of every client, and of nginx: for an answer's head, and for a silence inside a stream."""
HABITS = Habits(patience_s=PATIENCE_S)
"""The ``openai`` library's: two more tries."""
START_LIMIT_S = 90.0


AMARUS: dict[str, dict[str, Any]] = {  # Any: as in YAML
    "amaru": {},
    "amaru-latency": {
        "tenants": {
            "anonymous": {"weights": {"price": 0.2, "latency": 0.5, "reputation": 0.1, "availability": 0.2}},
        },
    },
    "amaru-random": {"routing": {"policy": "random"}},
}
"""amaru's contenders, and what their configuration says beyond its defaults."""


class Strike(msgspec.Struct, frozen=True):
    """One incident; begin and length are shares of the run."""

    provider: str
    begin: float
    length: float
    fault: Fault


STRIKES = (
    Strike("cobalt", 0.08, 0.14, Fault(kind="refuse", under_way=True)),
    Strike("anvil", 0.16, 0.14, Fault(kind="cut", after_events=6, probability=0.4)),
    Strike("garnet", 0.30, 0.12, Fault(kind="stall", probability=0.3)),
    Strike("birch", 0.38, 0.12, Fault(kind="status", status=429, retry_after="seconds", retry_after_s=2)),
    Strike("ember", 0.46, 0.12, Fault(kind="status", status=503, probability=0.8)),
    Strike("delta", 0.50, 0.14, Fault(kind="slow", factor=4)),
    Strike("flint", 0.60, 0.12, Fault(kind="garbage", how="close")),
    Strike("garnet", 0.64, 0.12, Fault(kind="slow", factor=5)),
    Strike("cobalt", 0.70, 0.20, Fault(kind="price", price=Price(input_usd_per_mtok=4.4, output_usd_per_mtok=4.4))),
    Strike("anvil", 0.78, 0.10, Fault(kind="hang")),
    Strike("garnet", 0.88, 0.08, Fault(kind="refuse", under_way=True)),
)
"""Outage, cuts, stalls, overload, slowness, garbage, hanging, a price spike: each provider is ill at some time, and at
most three are at once."""


def incidents(seconds: float) -> list[Incident]:
    """The incidents of a run of ``seconds``, in order."""
    return [
        Incident(
            **{**msgspec.structs.asdict(strike.fault), "duration_s": strike.length * seconds},
            provider=strike.provider,
            at_s=strike.begin * seconds,
        )
        for strike in STRIKES
    ]


class Sizing(msgspec.Struct, frozen=True):
    """The providers as this load meets them."""

    profiles: tuple[ProviderProfile, ...]
    requests_per_s: float
    """Of the load, on average."""
    sustained_per_s: dict[str, float]
    """What each provider serves at most, when every place is taken."""


def sized(requests: Sequence[TraceRequest], seconds: float, headroom: float) -> Sizing:
    """`SEVEN` with places for ``headroom`` times the mean load when they all work, in their own proportions.

    A full provider takes ``1 + load_weight`` times as long as an idle one; that gives what it sustains.
    """
    per_s = len(requests) / seconds
    inputs = sum(request.input_tokens for request in requests) / len(requests)
    outputs = sum(request.output_tokens for request in requests) / len(requests)
    full = {profile.name: _sustained_per_s(profile, inputs, outputs) for profile in SEVEN}
    scale = headroom * per_s / sum(full.values())
    profiles = tuple(_scaled(profile, scale) for profile in SEVEN)
    return Sizing(profiles, per_s, {name: scale * most for name, most in full.items()})


def _sustained_per_s(profile: ProviderProfile, inputs: float, outputs: float) -> float:
    latency = profile.latency
    idle_ms = latency.ttft_ms + latency.prefill_ms_per_ktok * inputs / 1000 + latency.itl_ms * outputs
    by_places = profile.capacity / (idle_ms / 1000 * (1 + latency.load_weight))
    return by_places if profile.requests_per_min is None else min(by_places, profile.requests_per_min / 60)


def _scaled(profile: ProviderProfile, scale: float) -> ProviderProfile:
    capacity = max(1, round(profile.capacity * scale))
    per_min = profile.requests_per_min
    # One name for the model everywhere: whoever takes turns sends the same body to all.
    return msgspec.structs.replace(
        profile,
        models=(MODEL,),
        capacity=capacity,
        queue=capacity // 4,
        requests_per_min=None if per_min is None else per_min * scale,
    )


class RoundRobin(Caller):
    """Takes turns. A try that fails before the answer began goes to the next provider at once, as often as the
    ``openai`` library tries again."""

    def __init__(self, turns: Sequence[Caller]) -> None:
        self._callers = turns
        self._turn = count()

    def body(self, prompt: str, output_tokens: int) -> bytes:
        """All of them are asked for the same model."""
        return self._callers[0].body(prompt, output_tokens)

    async def call(self, body: bytes, sample: Sample, due: float) -> None:
        """As `Caller.call`."""
        first = next(self._turn)
        for tried in range(HABITS.max_retries + 1):
            await self._callers[(first + tried) % len(self._callers)].call(body, sample, due)
            sample.client_retries = tried
            if not _retried(sample):
                return

    async def aclose(self) -> None:
        """Close the connections to all."""
        await asyncio.gather(*(caller.aclose() for caller in self._callers))


def _retried(sample: Sample) -> bool:
    if sample.status:
        return sample.status in RETRIED_STATUSES or sample.status >= 500
    return sample.error in RETRIED_FAILURES


class World:
    """Providers and, where the contender has one, a gateway before them. Leaves nothing running.

    Parameters
    ----------
    contender
        One of `AMARUS`, ``round-robin``, ``nginx``, ``nginx-least-conn``, or a provider's name.
    """

    def __init__(self, contender: str, sizing: Sizing, directory: Path) -> None:
        self.contender = contender
        self._alone = contender in {profile.name for profile in sizing.profiles}
        self._profiles = [p for p in sizing.profiles if not self._alone or p.name == contender]
        self._sizing = sizing
        self._directory = directory
        self._stack = AsyncExitStack()
        self._urls: dict[str, str] = {}
        self._controls: dict[str, JsonClient] = {}
        self.caller: Caller
        self.gateway: JsonClient | None = None
        """amaru's own."""

    async def __aenter__(self) -> World:
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def strike(self, incident: Incident) -> None:
        """Switch an incident on. A new price is public: whoever runs amaru puts it into the configuration."""
        control = self._controls.get(incident.provider)
        if control is None:
            return
        await control.call("POST", "/sim/faults", incident.fault)
        if incident.price is not None and self.gateway is not None:
            assert incident.duration_s is not None
            self._write_config({incident.provider: incident.price})
            await asyncio.sleep(incident.duration_s)
            self._write_config({})

    async def billed_usd(self) -> float:
        """What all providers charge together: also for answers that broke, and for attempts that failed."""
        bills = await asyncio.gather(*(control.call("GET", "/sim/bill") for control in self._controls.values()))
        return sum(bill["total"]["usd"] for bill in bills)

    async def told(self) -> dict[str, Any]:  # Any: JSON
        """What amaru says of itself; empty for others."""
        if self.gateway is None:
            return {}
        return {"status": await self.gateway.call("GET", "/status")}

    # --- building ---------------------------------------------------------------------------------------------------

    async def _build(self) -> None:
        first = 0 if not self._alone else [p.name for p in self._sizing.profiles].index(self.contender)
        (self._directory / "providers.yaml").write_text(
            yaml.safe_dump({"providers": [msgspec.to_builtins(profile) for profile in self._profiles]})
        )
        options = ["--config", "providers.yaml", "--port-base", "0", "--seed", str(SEED + first), "--json"]
        child = await self._start("amaru simulate", ["simulate", *options])
        line = await child.line(lambda line: line.startswith('{"providers"'), START_LIMIT_S)
        self._urls = {row["name"]: row["url"] for row in msgspec.json.decode(line)["providers"]}
        for name, url in self._urls.items():
            self._controls[name] = self._closed(JsonClient(url))
        self.caller = self._closed(await self._make_caller())

    async def _make_caller(self) -> Caller:
        if self._alone:
            return _caller(self._urls[self.contender], self.contender)
        if self.contender == "round-robin":
            turns = [_caller(url, name, max_retries=0) for name, url in self._urls.items()]
            return RoundRobin(turns)
        if self.contender.startswith("nginx"):
            return _caller(await self._nginx("least_conn" if "least" in self.contender else ""), "")
        url = await self._amaru()
        self.gateway = self._closed(JsonClient(url))
        return _caller(url, "")

    async def _amaru(self) -> str:
        self._write_config({})
        child = await self._start("amaru serve", ["serve", "--config", "amaru.yaml", "--log-format", "json"])
        line = await child.line(lambda line: line.startswith("amaru serves at "), START_LIMIT_S)
        return line.removeprefix("amaru serves at ").split("/v1")[0]

    def _write_config(self, prices: dict[str, Price]) -> None:
        """amaru's configuration: what the providers are, and this contender's own."""
        named = [
            (msgspec.structs.replace(p, price=prices.get(p.name, p.price)), f"{self._urls[p.name]}/v1")
            for p in self._profiles
        ]
        text = gateway_config(named, port=0, storage_path="amaru.db")
        own = AMARUS[self.contender]
        text += yaml.safe_dump(own) if own else ""
        half = self._directory / "amaru.yaml.new"
        half.write_text(text)
        half.replace(self._directory / "amaru.yaml")

    async def _nginx(self, method: str) -> str:
        """nginx as a buyer would set it up: turns (or fewest connections) weighted by what each provider sustains, the
        next one where one fails before its answer began, three tries at most; one that failed rests for 10 s, as is its
        default."""
        port = _free_port()
        weights = {name: max(1, round(10 * per_s)) for name, per_s in self._sizing.sustained_per_s.items()}
        servers = "\n".join(
            f"    server {url.removeprefix('http://')} weight={weights[name]};" for name, url in self._urls.items()
        )
        folder = self._directory
        (folder / "nginx.conf").write_text(
            f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; tcp_nodelay on; keepalive_requests 100000000;
  client_max_body_size 64m; client_body_buffer_size 1m;
  upstream seven {{
    {f"{method};" if method else ""}
{servers}
    keepalive 512;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://seven; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504 http_429 non_idempotent;
      proxy_next_upstream_tries {HABITS.max_retries + 1}; proxy_read_timeout {PATIENCE_S:g}s;
    }}
  }}
}}
"""
        )
        with pinned(WORLD_CORE):
            process = await asyncio.create_subprocess_exec("nginx", "-c", str(folder / "nginx.conf"))

        async def end() -> None:
            process.terminate()
            await process.wait()

        self._stack.push_async_callback(end)
        for _ in range(200):
            if process.returncode is not None:
                raise AmaruError(f"nginx ended with status {process.returncode}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return f"http://127.0.0.1:{port}"
        raise AmaruError("nginx did not listen within 10 s")

    async def _start(self, name: str, arguments: Sequence[str]) -> Child:
        with pinned(WORLD_CORE):
            child = await Child.start(name, arguments, self._directory)
        self._stack.push_async_callback(child.stop)
        return child

    def _closed(self, client: Any) -> Any:  # Any: whatever has an aclose
        """Have ``client`` closed at the end."""
        self._stack.push_async_callback(client.aclose)
        return client


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes that are started inside run on ``core`` alone, where there are several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(ALL_CORES)[core % len(ALL_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


ALL_CORES = os.sched_getaffinity(0)


def has_nginx() -> bool:
    """Whether nginx can be run."""
    return shutil.which("nginx") is not None


def _caller(url: str, label: str, *, max_retries: int = HABITS.max_retries) -> Caller:
    habits = msgspec.structs.replace(HABITS, max_retries=max_retries)
    return Caller(f"{url}/v1", MODEL, label=label, habits=habits, rng=random.Random(SEED))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
