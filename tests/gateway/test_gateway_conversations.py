"""Conversations over real sockets: one stays with the offer that has its prompt, leaves it when that fails, and is
remembered by all workers of a machine and, over Redis, by all machines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateway_world import KEY, OPERATOR_KEY, OTHER_KEY, PROVIDER_KEY, MakeWorld, World, digest, until
from test_gateway_process import settings_for
from test_gateway_workers import QUICK, eventually, serving

from amaru.config import load
from amaru.domain import Kind, Workload
from amaru.gateway import Gateway
from amaru.http1 import ServerSettings
from amaru.mesh import Mesh
from amaru.mesh.conversations_redis import MOST_WAITING, RemoteConversations
from amaru.routing.conversation import Conversation, decode, key_of, mark_of
from amaru.simulation import SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings
from amaru.storage.redis import RedisLink
from amaru.telemetry.metrics import Metrics

REDIS = os.environ.get("AMARU_TEST_REDIS", "redis://127.0.0.1:6379/0")
PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0, "cached_input_usd_per_mtok": 0.1}
EQUAL: dict[str, dict[str, Any]] = {"alpha": {"price": PRICE}, "beta": {"price": PRICE}}
# Only prices are weighed, which are the same: without a conversation the lot decides.
PRICES_ONLY = {"price": 1, "latency": 0, "reputation": 0, "availability": 0}
TENANTS = {
    "team": {"keys": [{"sha256": digest(KEY)}], "weights": PRICES_ONLY},
    "other": {"keys": [{"sha256": digest(OTHER_KEY)}], "weights": PRICES_ONLY},
}
# Nobody sends a probe to who has failed while a test lasts, nor gives up on who is slow, as machines are.
ROUTING = {
    "breaker": {"cool_down_s": 3600, "max_cool_down_s": 3600},
    "adaptive_limits": False, "first_token_ms": 60_000, "answer_ms": 60_000, "idle_ms": 60_000,
}  # fmt: skip
QUIET = {"health": {"enabled": False}}
SESSIONS = {"redis_ms": 1000, "cache_s": 3600}


def sharing(prefix: str, url: str = REDIS) -> dict[str, Any]:
    return {"sharing": {"redis_url": url, "prefix": prefix}, "sessions": SESSIONS}


@contextlib.asynccontextmanager
async def equals(make_world: MakeWorld, **extra: Any) -> AsyncIterator[World]:
    settings = {**QUIET, "sessions": SESSIONS, **extra}
    async with make_world(offers=EQUAL, tenants=TENANTS, routing=ROUTING, extra=settings) as world:
        yield world


@contextlib.asynccontextmanager
async def another_machine(world: World, folder: Path) -> AsyncIterator[World]:
    """A gateway of its own, with the configuration of ``world``."""
    async with contextlib.AsyncExitStack() as stack:
        store = DecisionStore(StoreSettings(path=folder / "another.db", interval_s=0.01))
        store.start()
        stack.push_async_callback(store.close)
        mesh = Mesh(load(world.config_path, {"SIM_KEY": PROVIDER_KEY}), store, Metrics())
        stack.push_async_callback(mesh.aclose)
        gateway = Gateway(mesh, ServerSettings(), host="127.0.0.1")
        await gateway.start(0)
        stack.push_async_callback(gateway.drain, 1.0)
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{gateway.port}", headers={"authorization": f"Bearer {KEY}"}, timeout=60.0
            )
        )
        yield World(gateway, mesh, world.providers, client, world.config_path, world.settings)


async def turn(client: httpx.AsyncClient, session: str | None, key: str = KEY, model: str = "sim") -> str:
    """Who served it."""
    answer = await asked(client, session, key, model)
    return answer.headers["x-amaru-provider"]


async def asked(client: httpx.AsyncClient, session: str | None, key: str = KEY, model: str = "sim") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    if session is not None:
        headers["x-amaru-session"] = session
    body = {"model": model, "messages": [{"role": "user", "content": "Go on. " * 40}], "max_tokens": 3}
    answer = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def turn_by_redis(world: World, session: str) -> str | None:
    """Who served it; ``None`` where Redis was too slow, as it may be on a busy machine."""
    before = sum(counted(world).get(what, 0) for what in ("late", "alone"))
    served = await turn(world.client, session)
    return served if before == sum(counted(world).get(what, 0) for what in ("late", "alone")) else None


def counted(world: World) -> dict[str, int]:
    return world.mesh.metrics.conversations


# ---- one process ----------------------------------------------------------------------------------------------------


async def test_conversations_stay_and_other_requests_are_drawn_by_lot(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        stays = {}
        for session in range(30):
            served = {await turn(world.client, f"s-{session}") for _ in range(3)}
            assert len(served) == 1
            stays[session] = served.pop()
        assert set(stays.values()) == {"alpha", "beta"}
        assert counted(world) == {"new": 30, "known": 60}
        assert {await turn(world.client, None) for _ in range(40)} == {"alpha", "beta"}
        assert counted(world) == {"new": 30, "known": 60}
        text = (await world.client.get("/metrics", headers={"authorization": f"Bearer {KEY}"})).status_code
        assert text in (401, 403)  # the operators' business


async def test_streams_are_turns_too(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        for session in range(20):
            headers = {"x-amaru-session": f"s-{session}"}
            first, _ = await world.stream(headers=headers)
            again = [await world.stream(headers=headers) for _ in range(2)]
            assert {answer.headers["x-amaru-provider"] for answer, _ in again} == {first.headers["x-amaru-provider"]}


async def test_why_is_told_in_the_decision(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        await turn(world.client, "s")
        told = await world.decision(await asked(world.client, "s"))
        first, second = told["ranked"]
        assert "its prompt cache is warm for this conversation, which saves" in first["reason"]
        assert "of its price" in first["reason"]
        assert "most by price" in second["reason"]
        assert first["unit_price_usd"] == second["unit_price_usd"] == 1.0
        plain = await world.decision(await asked(world.client, None))
        assert all("warm" not in rank["reason"] for rank in plain["ranked"])


async def test_a_conversation_leaves_who_fails_it_and_does_not_come_back_at_once(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        first = await turn(world.client, "s")
        other = {"alpha": "beta", "beta": "alpha"}[first]
        world.break_(first, "status", status=500, times=2)  # also when it is asked again
        assert await turn(world.client, "s") == other
        assert [await turn(world.client, "s") for _ in range(4)] == [other] * 4
        found = await world.mesh.conversations.look_up("team", "s")
        assert found is not None
        assert (found.turns, found.offer) == (6, mark_of(f"{other}/sim"))
        assert [one.offer for one in found.failed] == [mark_of(f"{first}/sim")]


async def test_a_better_offer_is_better_for_conversations_too(make_world: MakeWorld) -> None:
    """It is a term of the score: nobody is pinned to who has become dear."""
    async with equals(make_world) as world:
        first = await turn(world.client, "s")
        other = {"alpha": "beta", "beta": "alpha"}[first]
        offers = [
            offer | {"price": {name: usd * 9 for name, usd in PRICE.items()}} if offer["provider"] == first else offer
            for offer in world.settings["offers"]
        ]
        world.reload(offers=offers)
        assert await turn(world.client, "s") == other


async def test_the_caches_lifetime_and_the_weight_bound_it(make_world: MakeWorld) -> None:
    now = [1_700_000_000.0]
    async with make_world(
        offers=EQUAL,
        tenants=TENANTS,
        routing=ROUTING,
        extra={**QUIET, "sessions": {"cache_s": 100}},
        wall=lambda: now[0],
    ) as world:

        async def is_warm() -> bool:
            plan, found = world.mesh.plan, await world.mesh.conversations.look_up("team", "s")
            world.mesh.record_ended()  # tells the time
            asks = Workload(tenant="team", kind=Kind.CHAT, resource="sim", input_tokens=500, output_tokens=3)
            return found is not None and plan.warmth.of(found, asks, now[0]) is not None

        await turn(world.client, "s")
        assert await is_warm()
        world.reload(sessions={"weight": 0})
        assert not await is_warm()
        world.reload(sessions={"cache_s": 100})
        now[0] += 99.0
        assert await is_warm()
        now[0] += 2.0
        assert not await is_warm()
        world.reload(offers=[offer | {"cache_s": 500} for offer in world.settings["offers"]])
        assert await is_warm()
        assert await world.mesh.conversations.look_up("team", "s") is not None
        now[0] += 3600.0
        assert await world.mesh.conversations.look_up("team", "s") is None  # forgotten


async def test_tenants_do_not_share_a_conversation(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        await turn(world.client, "s")
        await turn(world.client, "s", OTHER_KEY)
        assert counted(world) == {"new": 2}
        mine, theirs = [await world.mesh.conversations.look_up(tenant, "s") for tenant in ("team", "other")]
        assert mine is not None
        assert theirs is not None
        assert (mine.turns, theirs.turns) == (1, 1)


async def test_what_is_remembered_is_figures(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        answers = [await asked(world.client, "a-name-of-a-conversation") for _ in range(2)]
        found = await world.mesh.conversations.look_up("team", "a-name-of-a-conversation")
        assert found is not None
        usage = answers[-1].json()["usage"]
        assert found.prompt_tokens == usage["prompt_tokens"]
        assert found.cost_usd == pytest.approx(sum(float(a.headers["x-amaru-cost-usd"]) for a in answers), abs=2e-9)
        held = bytes(world.mesh.conversations._table._cells)
        assert b"a-name" not in held
        assert b"Go on" not in held


async def test_a_caller_who_leaves_before_any_answer_leaves_no_turn(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        for name in world.providers:
            world.break_(name, "status", status=400)
        headers = {"x-amaru-session": "s"}
        assert (await world.chat(headers=headers)).status_code == 400
        assert await world.mesh.conversations.look_up("team", "s") is None


async def test_operators_and_tenants_read_what_is_remembered(make_world: MakeWorld) -> None:
    async with equals(make_world) as world:
        name = "a/name of its own"
        first = await turn(world.client, name)
        world.break_(first, "status", status=500, times=2)
        await turn(world.client, name)
        mine = await world.client.get("/conversations", params={"session": name})
        assert mine.status_code == 200
        told = mine.json()
        other = {"alpha": "beta", "beta": "alpha"}[first]
        assert (told["tenant"], told["offer"], told["turns"]) == ("team", f"{other}/sim", 2)
        assert [(one["offer"], one["failure"]) for one in told["failed"]] == [(f"{first}/sim", "server_error")]
        operator = {"authorization": f"Bearer {OPERATOR_KEY}"}
        seen = await world.client.get("/conversations", params={"session": name, "tenant": "team"}, headers=operator)
        assert seen.json() == told
        for params, headers, status in (
            ({"session": name}, {"authorization": f"Bearer {OTHER_KEY}"}, 404),
            ({"session": name, "tenant": "team"}, {"authorization": f"Bearer {OTHER_KEY}"}, 404),
            ({"session": "another"}, {}, 404),
            ({}, {}, 400),
            ({"session": name}, operator, 400),
            ({"session": name}, {"authorization": "Bearer no-key"}, 401),
        ):
            answer = await world.client.get("/conversations", params=params, headers=headers)
            assert answer.status_code == status, (params, answer.text)


# ---- the workers of a machine ---------------------------------------------------------------------------------------


async def is_known(client: httpx.AsyncClient, session: str) -> bool:
    return (await client.get("/conversations", params={"session": session})).status_code == 200


@pytest.mark.slow
async def test_workers_remember_together(tmp_path: Path) -> None:
    async with SimulatedProvider(QUICK) as alpha, SimulatedProvider(QUICK) as beta:
        settings = settings_for(alpha.base_url)
        settings["server"]["port"] = 0
        settings["providers"] = {"alpha": {"base_url": alpha.base_url}, "beta": {"base_url": beta.base_url}}
        settings["offers"] = [
            {"provider": name, "resource": "sim", "model": "sim-model", "price": PRICE} for name in ("alpha", "beta")
        ]
        settings["tenants"] = TENANTS
        settings |= {**QUIET, "sessions": SESSIONS, "routing": ROUTING}
        async with serving(tmp_path, settings, "--workers", "2") as made:
            owner, member = made.by_worker[0], made.by_worker[1]
            for session in range(25):
                for name, here, there in ((f"s-{session}", owner, member), (f"t-{session}", member, owner)):
                    first = await turn(here, name)
                    await eventually(lambda name=name: is_known(owner, name))  # type: ignore[misc]
                    assert await turn(there, name) == first


# ---- machines -------------------------------------------------------------------------------------------------------


@pytest.fixture
def prefix() -> Iterator[str]:
    """Of keys of the test's own, in a Redis that answers; they are gone after it."""
    redis = pytest.importorskip("redis")
    client = redis.Redis.from_url(REDIS, socket_timeout=5.0)
    try:
        client.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis at AMARU_TEST_REDIS ({type(error).__name__})")
    made = f"amaru-test-{uuid.uuid4().hex[:12]}"
    yield made
    for key in client.scan_iter(f"{made}:*"):
        client.delete(key)
    client.close()


def remote_of(world: World) -> RemoteConversations:
    remote = world.mesh.conversations.remote
    assert remote is not None
    return remote


async def settled(*worlds: World) -> None:
    """All that is to be written is written, and all use one salt."""
    for world in worlds:
        await until(lambda world=world: remote_of(world).up and not remote_of(world).waiting)  # type: ignore[misc]


async def started(*worlds: World) -> None:
    for world in worlds:
        await world.mesh.conversations.start()
    await settled(*worlds)


async def test_machines_remember_together(make_world: MakeWorld, tmp_path: Path, prefix: str) -> None:
    async with equals(make_world, **sharing(prefix)) as one, another_machine(one, tmp_path) as two:
        await started(one, two)
        assert one.mesh.conversations.salt == two.mesh.conversations.salt
        for session in range(25):
            first = await turn(one.client, f"s-{session}")
            await settled(one)
            assert await turn_by_redis(two, f"s-{session}") in (first, None)
        assert counted(two)["known"] >= 1
        assert "new" not in counted(two)
        await settled(two)
        await turn(one.client, "s-0")
        found = await one.mesh.conversations.look_up("team", "s-0")
        assert found is not None
        assert found.turns >= 2


async def test_nothing_in_redis_names_a_conversation_and_all_of_it_expires(make_world: MakeWorld, prefix: str) -> None:
    redis = pytest.importorskip("redis").Redis.from_url(REDIS)
    async with equals(make_world, **sharing(prefix)) as world:
        await started(world)
        await turn(world.client, "a-name-of-a-conversation")
        await settled(world)
    held = {key: redis.get(key) for key in redis.scan_iter(f"{prefix}:conversation:*")}
    assert len(held) == 1
    for key, value in held.items():
        assert b"a-name" not in key + value
        assert b"team" not in key + value
        assert 0 < redis.pttl(key) <= 3_600_000


@pytest.mark.parametrize("junk", [b"", b"\x93junk", b"x" * 100_000, "list", "salt"])
async def test_junk_in_redis_is_passed_over(make_world: MakeWorld, prefix: str, junk: bytes | str) -> None:
    redis = pytest.importorskip("redis").Redis.from_url(REDIS)
    if junk == "salt":
        redis.set(f"{prefix}:conversations:salt", b"short")
    async with equals(make_world, **sharing(prefix)) as world:
        await world.mesh.conversations.start()
        key = f"{prefix}:conversation:{key_of(world.mesh.conversations.salt, 'team', 's').hex()}"
        if isinstance(junk, bytes):
            redis.set(key, junk)
        elif junk == "list":
            redis.rpush(key, b"no string")
        first = await turn(world.client, "s")
        assert [await turn(world.client, "s") for _ in range(3)] == [first] * 3
        if junk == "salt":
            assert not remote_of(world).up
            assert counted(world) == {"alone": 4}
        else:
            await settled(world)
            held = redis.get(key)
            assert isinstance(held, bytes)
            assert decode(held) == await world.mesh.conversations.look_up("team", "s")


class Server:
    """A redis-server of the test's own, which it may stop and start."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self._port), "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    made = Server(tmp_path)
    yield made
    made.stop()


async def test_redis_may_stop_and_come_back(make_world: MakeWorld, tmp_path: Path, server: Server) -> None:
    server.start()
    async with (
        equals(make_world, **sharing("p", server.url)) as one, another_machine(one, tmp_path) as two
    ):  # fmt: skip
        await until(lambda: _answers(server))
        await started(one, two)
        salt = one.mesh.conversations.salt
        first = await turn(one.client, "s")
        await settled(one)
        server.stop()
        # Each goes on by what it remembers itself.
        assert [await turn(one.client, "s") for _ in range(3)] == [first] * 3
        await turn(two.client, "another")
        for world in (one, two):
            await until(lambda world=world: not remote_of(world).up)  # type: ignore[misc]
        assert await turn(one.client, "s") == first
        assert counted(one)["alone"] >= 1
        server.start()  # empty
        await settled(one, two)
        assert one.mesh.conversations.salt == two.mesh.conversations.salt == salt
        assert await turn_by_redis(two, "s") in (first, None)
        known = counted(one).get("known", 0)
        async with asyncio.timeout(60.0):
            while counted(one).get("known", 0) == known:  # a connection of before may be found broken first
                assert await turn(one.client, "s") == first
                await settled(one)


def _answers(server: Server) -> bool:
    redis = pytest.importorskip("redis")
    try:
        return bool(redis.Redis.from_url(server.url).ping())
    except redis.RedisError:
        return False


async def test_a_gateway_starts_without_its_redis(make_world: MakeWorld, server: Server) -> None:
    async with equals(make_world, **sharing("p", server.url)) as world:
        await world.mesh.conversations.start()
        first = await turn(world.client, "s")
        assert await turn(world.client, "s") == first
        assert counted(world) == {"alone": 2}
        server.start()
        await settled(world)
        await turn(world.client, "s")
        assert counted(world)["alone"] == 2


async def test_who_does_not_answer_in_time_is_not_waited_for(make_world: MakeWorld, server: Server) -> None:
    """A Redis that hangs: the request goes on after ``redis_ms``, with what this machine remembers."""
    server.start()
    await until(lambda: _answers(server))
    settings = sharing("p", server.url)
    async with equals(make_world, **settings) as world:
        await started(world)
        first = await turn(world.client, "s")
        await settled(world)
        world.reload(sessions=SESSIONS | {"redis_ms": 1})
        server.hang()
        assert await turn(world.client, "s") == first
        assert counted(world).get("late", 0) + counted(world).get("alone", 0) >= 1


async def test_what_waits_to_be_written_is_bounded_and_dropped_ones_are_counted(
    make_world: MakeWorld, server: Server
) -> None:
    async with equals(make_world, **sharing("p", server.url)) as world:
        await world.mesh.conversations.start()
        remote = remote_of(world)
        for number in range(MOST_WAITING):
            assert remote.put(number.to_bytes(16, "big"), Conversation(at=1.0), 3600.0)
        await turn(world.client, "s")
        assert counted(world)["dropped"] == 1
        assert remote.waiting == MOST_WAITING
        assert remote.put((5).to_bytes(16, "big"), Conversation(at=2.0), 3600.0)  # of one that waits, the last counts


async def test_two_writers_agree_on_one_salt(prefix: str) -> None:
    made = [RemoteConversations(RedisLink(REDIS, purpose="a test"), prefix, os.urandom(32)) for _ in range(4)]
    try:
        for remote in made:
            await remote.start()
        await until(lambda: all(remote.up for remote in made))
        assert len({remote.salt for remote in made}) == 1
    finally:
        for remote in made:
            await remote.aclose()


def test_the_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "amaru.yaml"
    path.write_text(
        yaml.safe_dump({
            "providers": {"a": {"base_url": "http://127.0.0.1:9"}},
            "offers": [
                {"provider": "a", "resource": "m", "price": PRICE, "cache_s": 0},
                {"provider": "a", "resource": "n", "price": PRICE},
            ],
            "sessions": {"cache_s": 600},
        })
    )  # fmt: skip
    config = load(path, {})
    assert config.cache_lifetimes_s() == {"a/m": 0.0, "a/n": 600.0}
    assert (config.sessions.ttl_s, config.sessions.weight) == (3600.0, 1.0)
