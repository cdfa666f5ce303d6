"""An owner and a member in one process, over a real socket: what each tells the other, and what comes of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import yaml
from levers_world import LeversWorld

from amaru.config import parse
from amaru.domain import Experience, Kind
from amaru.mesh import Member, Mesh, Owner
from amaru.mesh import member as member_module
from amaru.mesh import owner as owner_module
from amaru.mesh.bus import Lesson
from amaru.mesh.company import BUS
from amaru.protocols.adapting import Adaptation, Rule
from amaru.routing.shared import Memory
from amaru.routing.steering import Steering
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.provider import SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics

OFFER = "a/sim"


class Pair:
    """A mesh that owns and one that does not, over the same provider."""

    def __init__(self, owner: LeversWorld, member: LeversWorld, companies: tuple[Owner, Member]) -> None:
        self.owner = owner
        self.member = member
        self.company, self.joined = companies


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(owner_module, "GATHER_S", 60.0)
    memory = Memory.create(2)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / BUS))
    listening.listen()
    listening.setblocking(False)
    profile = ProviderProfile(name="a")
    async with SimulatedProvider(profile) as provider, SimulatedProvider(profile) as second:
        settings = {
            "version": 1,
            "server": {"auth": "none"},
            "providers": {"a": {"base_url": provider.base_url, "alternates": [{"base_url": second.base_url}]}},
            "offers": [
                {
                    "provider": "a",
                    "resource": "sim",
                    "model": "sim-model",
                    "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1},
                }
            ],
            "routing": {"policy": "thompson"},
            "storage": {"path": str(tmp_path / "test.db")},
        }
        worlds, companies, stores = [], [], []
        for worker, kind in enumerate((Owner, Member)):
            store = DecisionStore(StoreSettings(path=tmp_path / "test.db", interval_s=0.01, removes=not worker))
            store.start()
            company = kind(Memory(os.dup(memory.file), 2, worker), tmp_path, log_lines_dropped=lambda: 1)
            mesh = Mesh(parse(yaml.safe_dump(settings), env={}), store, Metrics(), company=company)
            worlds.append(LeversWorld(mesh, {"a": provider}, settings))
            companies.append(company)
            stores.append(store)
        owner, member = companies
        await owner.start(listening)
        assert await member.join(60.0)
        yield Pair(worlds[0], worlds[1], (owner, member))
        for world, company in reversed(list(zip(worlds, companies, strict=True))):
            await world.mesh.aclose()
            await company.aclose()
        for store in stores:
            await store.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not holds():  # noqa: ASYNC110 - it is another's doing, which has no event to wait for
            await asyncio.sleep(0.005)


async def test_what_the_owner_steers_the_member_obeys_and_lets_go_of(pair: Pair) -> None:
    levers, plan = pair.owner.mesh.sensing.levers, pair.member.mesh.plan
    adaptation = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))
    steering = Steering(patience=0.5, non_stream=True, breaker_failures=2)
    levers.steer(OFFER, steering)
    levers.adapt(OFFER, adaptation)
    levers.endpoint("a", 1)
    pair.owner.mesh.plan.router.exploration = 0.25
    theirs = pair.member.levers
    await until(lambda: plan.router.exploration == 0.25 and theirs.address("a") == 1)
    assert plan.board.steering(0) == steering
    assert theirs.address("a") == 1
    use = theirs.adapted(OFFER)
    assert use is not None
    assert use.adaptation == adaptation
    levers.steer(OFFER, Steering())
    levers.adapt(OFFER, None)
    levers.endpoint("a", 0)
    await until(lambda: theirs.address("a") == 0)  # which was told last
    assert plan.board.steering(0) == Steering()
    assert theirs.adapted(OFFER) is None


async def test_a_reload_of_the_member_keeps_what_the_owner_ordered(pair: Pair) -> None:
    pair.owner.mesh.sensing.levers.endpoint("a", 1)
    await until(lambda: pair.member.levers.address("a") == 1)
    settings = pair.member.settings
    changed = {"providers": {"a": {**settings["providers"]["a"], "max_connections": 77}}}
    pair.member.mesh.reload(pair.member.config(**changed))
    assert pair.member.levers.address("a") == 1


async def test_what_the_members_requests_showed_reaches_sense_and_policy(pair: Pair) -> None:
    for _ in range(3):
        assert (await pair.member.ask())[0] == "a"
    await pair.company.gather()
    await pair.owner.mesh.sensing.settle()
    assert pair.owner.mesh.sensing.observed == 3
    assert pair.owner.mesh.learner.outcomes == 3
    assert pair.owner.mesh.metrics.summary()["requests"] == 3
    assert pair.company.store().written == 3
    assert pair.company.log_lines_dropped() == 2


async def test_who_gathers_at_the_same_time_is_answered_alike(pair: Pair) -> None:
    await pair.member.ask()
    async with asyncio.timeout(30.0):  # less than a worker that does not answer is given
        await asyncio.gather(*(pair.company.gather() for _ in range(5)))
    assert pair.owner.mesh.metrics.summary()["requests"] == 1


async def test_counters_never_fall_when_a_worker_is_replaced(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair.member.ask()
    await pair.company.gather()
    monkeypatch.setattr(member_module.os, "getpid", lambda: -1)  # as if it were another process
    pair.member.mesh.metrics.begin_anew()
    await pair.member.ask()
    await pair.company.gather()
    assert pair.owner.mesh.metrics.summary()["requests"] == 2


async def test_with_a_new_owner_all_count_from_zero(pair: Pair) -> None:
    await pair.member.ask()
    await pair.company.gather()
    assert pair.company.store().written == 1
    pair.joined._meet(-1)
    await pair.company.gather()
    assert pair.owner.mesh.metrics.summary()["requests"] == 0
    assert pair.company.store().written == 0


async def test_what_the_owner_learned_the_member_ranks_by(pair: Pair) -> None:
    policy = pair.owner.mesh.learner.policy
    for _ in range(5):
        await pair.member.ask()
    await pair.company.gather()
    await until(lambda: pair.member.mesh.learner.outcomes == 5)
    assert pair.member.mesh.learner.policy.state() == policy.state()
    assert pair.member.mesh.plan.router.policy is pair.member.mesh.learner.policy


async def test_another_policy_is_adopted_once_the_member_has_it_configured(pair: Pair) -> None:
    changed = {"routing": {"policy": "hybrid", "policy_settings": {"boldness": 0.5}}}
    pair.owner.mesh.reload(pair.owner.config(**changed))
    pair.member.mesh.reload(pair.member.config(**changed))
    await pair.member.ask()
    await pair.company.gather()
    await until(lambda: pair.member.mesh.learner.outcomes == 1)
    assert pair.member.mesh.learner.name == "hybrid"


async def test_how_unreadable_answers_of_the_member_could_be_read_the_owner_is_told(pair: Pair) -> None:
    adaptation = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))
    levers = pair.owner.mesh.sensing.levers
    assert levers.find_adaptation(OFFER) is None
    pair.joined.readable(OFFER, adaptation)
    await until(lambda: levers.find_adaptation(OFFER) == adaptation)


async def test_sessions_have_one_hash_whichever_worker_serves_them(pair: Pair) -> None:
    assert pair.owner.mesh.salt == pair.member.mesh.salt
    assert len(set(pair.owner.mesh.salt)) > 8


async def test_while_the_owner_is_away_what_is_told_waits_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "MOST_WAITING", 2)
    await pair.company.aclose()
    await until(lambda: not pair.company.live() > 1)
    execution = pair.member.begin()
    execution.settle()
    lesson = Lesson(execution.workload, OFFER, Experience(at=1.0, ok=True, latency_ms=1.0))
    await asyncio.sleep(0)
    for _ in range(5):
        pair.joined.experienced(lesson)
    assert pair.joined.dropped == 3
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(lesson), type=Lesson) == lesson
