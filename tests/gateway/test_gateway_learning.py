"""A gateway whose policy learns: from every attempt, from reports, across reloads, and through a crash."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import yaml
from gateway_world import KEY, OPERATOR_KEY, MakeWorld, World, digest
from test_gateway_process import Served, start

from amaru.routing import belief_kernels as b
from amaru.routing.learned import BeliefPolicy
from amaru.routing.policies import make_policy
from amaru.simulation import Latency, ProviderProfile, SimulatedProvider

OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
QUICK = Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=0.1)
THOMPSON = {"policy": "thompson"}
PRICE = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
GPU_JOB = {"gpu_type": "a100", "gpu_hours": 1.0}


def tries_of(world: World) -> dict[str, float]:
    """How many outcomes of each offer the policy holds (they fade, but not within a test)."""
    policy = world.mesh.learner.policy
    assert isinstance(policy, BeliefPolicy)
    found: dict[str, float] = {}
    for key, slot in (policy.mind.slot_of or {}).items():
        if " offer " in key:  # of first tokens or of whole answers
            name = key.split(" ")[2]
            found[name] = found.get(name, 0.0) + float(policy.mind.sums[slot, b.SLOW, b.TRIES])
    return found


async def policy_page(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/policy", headers=OPERATOR)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


async def test_every_attempt_is_learned_from_and_not_only_the_last(make_world: MakeWorld) -> None:
    async with make_world(routing=THOMPSON) as world:
        for name in world.providers:
            world.break_(name, "status", status=500)
        assert (await world.chat()).status_code == 502
        stored = (await world.client.get("/decisions", headers=OPERATOR)).json()["decisions"][0]
        assert len(stored["attempts"]) == 4  # each is asked twice
        page = await policy_page(world.client)
        assert (page["policy"], page["outcomes"], page["outcomes_lost"]) == ("thompson", 4, 0)
        assert page["snapshot_age_s"] is not None
        text = (await world.client.get("/metrics", headers=OPERATOR)).text
        assert 'amaru_policy_outcomes_total{policy="thompson"} 4.0' in text


async def test_a_failed_attempt_is_learned_from_while_another_offer_still_answers(make_world: MakeWorld) -> None:
    slow = ProviderProfile(name="beta", latency=Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=50))
    async with make_world(profiles={"beta": slow}, routing={**THOMPSON, "policy_settings": {"boldness": 0}}) as world:
        world.break_("alpha", "status", status=500)
        streaming = asyncio.create_task(world.stream(max_tokens=30, ignore_eos=True))
        async with asyncio.timeout(60.0):
            while tries_of(world).get("alpha/sim", 0.0) < 1.9:  # noqa: ASYNC110 - of another task
                await asyncio.sleep(0.002)
        assert not streaming.done()
        assert tries_of(world).get("beta/sim", 0.0) == 0.0
        await streaming
        assert (await policy_page(world.client))["outcomes"] == 3


async def test_a_bad_request_teaches_nothing(make_world: MakeWorld) -> None:
    async with make_world(routing=THOMPSON) as world:
        for name in world.providers:
            world.break_(name, "status", status=400)
        assert (await world.chat()).status_code == 400
        assert (await policy_page(world.client))["outcomes"] == 0


async def test_a_report_is_learned_from_once(make_world: MakeWorld) -> None:
    job = {"kinds": ["gpu_job"], "resource": "a100", "price": {"usd_per_gpu_hour": 2.0}, "capabilities": []}
    async with make_world(routing=THOMPSON, offers={"alpha": job}) as world:
        decision = (await world.client.post("/agent/route", json=GPU_JOB)).json()
        report = {"decision_id": decision["id"], "ok": True, "latency_ms": 80.0, "cost_usd": 2.0}
        for status in (200, 409):
            response = await world.client.post("/agent/feedback", json=report)
            assert response.status_code == status, response.text
        assert (await policy_page(world.client))["outcomes"] == 1


async def test_a_reload_carries_on_what_was_learned_and_another_policy_begins_its_own(world: World) -> None:
    world.reload(routing=THOMPSON)
    for _ in range(3):
        assert (await world.chat()).status_code == 200
    world.mesh.record_ended()
    before = world.mesh.learner.policy.state()
    world.reload(routing={**THOMPSON, "max_attempts": 3})
    assert world.mesh.plan.router.policy.state() == before
    assert (await policy_page(world.client))["outcomes"] == 3
    assert (await world.chat()).status_code == 200
    assert (await policy_page(world.client))["outcomes"] == 4
    world.reload(routing={"policy": "hybrid"})
    page = await policy_page(world.client)
    assert (page["policy"], page["outcomes"]) == ("hybrid", 0)
    assert world.mesh.plan.router.policy.state() == make_policy("hybrid").state()


async def test_a_request_that_outlives_a_reload_is_still_learned_from(make_world: MakeWorld) -> None:
    slow = ProviderProfile(name="alpha", latency=Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=20))
    async with make_world(("alpha",), profiles={"alpha": slow}, routing=THOMPSON) as world:
        streaming = asyncio.create_task(world.stream(max_tokens=20))
        async with asyncio.timeout(60.0):
            while world.mesh.in_flight == 0:  # noqa: ASYNC110 - of another task
                await asyncio.sleep(0.002)
        world.reload(routing={**THOMPSON, "max_attempts": 3})
        await streaming
        assert (await policy_page(world.client))["outcomes"] == 1
        assert tries_of(world)["alpha/sim"] > 0.9


async def test_only_operators_see_the_policy(world: World) -> None:
    assert (await world.client.get("/policy")).status_code == 403
    page = await policy_page(world.client)
    assert (page["policy"], page["learns"], page["outcomes"]) == ("rules", False, 0)


async def serve(folder: Path, settings: dict[str, Any]) -> Served:
    process = await start(folder, settings)
    assert process.stdout is not None
    async with asyncio.timeout(90.0):
        words = (await process.stdout.readline()).decode()
    assert "serves at" in words
    return Served(process, words.split("serves at ")[1].split("/v1")[0], folder / "amaru.yaml", settings)


async def test_a_killed_gateway_knows_again_what_it_had_learned(tmp_path: Path) -> None:
    """kill -9 under traffic: all outcomes that were kept are there again, under the same configuration."""
    async with SimulatedProvider(ProviderProfile(name="quick", latency=QUICK), seed=1) as provider:
        settings = {
            "server": {"operator_keys": [{"sha256": digest(OPERATOR_KEY)}]},
            "providers": {"quick": {"base_url": provider.base_url}},
            "offers": [
                {"provider": "quick", "resource": "sim", "model": "sim-model",
                 "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}
            ],
            "tenants": {"team": {"keys": [{"sha256": digest(KEY)}]}},
            "routing": THOMPSON,
        }  # fmt: skip
        served = await serve(tmp_path, settings)
        body = {"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        answered = 0

        async def traffic() -> None:
            nonlocal answered
            while True:
                try:
                    response = await served.client.post("/v1/chat/completions", json=body)
                except httpx.HTTPError:
                    return
                assert response.status_code == 200, response.text
                answered += 1

        def kept() -> int:
            with closing(sqlite3.connect(tmp_path / "amaru-data" / "amaru.db")) as file:
                return int(file.execute("SELECT coalesce(max(outcomes), 0) FROM policy_states").fetchone()[0])

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(traffic())
            async with asyncio.timeout(60.0):
                while (before := kept()) < 100:  # noqa: ASYNC110 - another process sets no event here
                    await asyncio.sleep(0.05)
            await served.stop(signal.SIGKILL)
        settings_before = yaml.safe_load(served.config.read_text())
        again = await serve(tmp_path, settings_before)
        try:
            page = await policy_page(again.client)
        finally:
            await again.stop()
        assert before <= page["outcomes"] <= answered + 4
        assert page["policy"] == "thompson"


async def test_a_damaged_state_is_told_and_does_not_keep_the_gateway_from_serving(tmp_path: Path) -> None:
    settings = {
        "server": {"operator_keys": [{"sha256": digest(OPERATOR_KEY)}]},
        "providers": {"quick": {"base_url": "http://127.0.0.1:9/v1"}},
        "offers": [{"provider": "quick", "resource": "sim", "price": PRICE}],
        "tenants": {"team": {"keys": [{"sha256": digest(KEY)}]}},
        "routing": THOMPSON,
    }  # fmt: skip
    served = await serve(tmp_path, settings)
    await served.stop()
    with closing(sqlite3.connect(tmp_path / "amaru-data" / "amaru.db")) as file, file:
        file.execute("INSERT INTO policy_states VALUES ('thompson', 1.0, x'00ff', 'no digest', '{}', '', 12)")
    again = await serve(tmp_path, settings)
    try:
        told = await again.logged("policy_begins_anew")
        assert "damaged" in told["reason"]
        assert (await policy_page(again.client))["outcomes"] == 0
    finally:
        await again.stop()
