"""Waiting for an offer, asking it again, reloading under load: what is bounded, and who pays."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from gateway_world import KEY, OTHER_KEY, PROVIDER_KEY, MakeWorld, digest, until

from amaru.simulation import Latency, ProviderProfile

TICKING = Latency(ttft_ms=10, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=30, itl_sigma=0, load_weight=0)
ONE_AT_A_TIME = {"price": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}, "capacity": 1}


def profile(name: str, latency: Latency) -> ProviderProfile:
    return ProviderProfile(name=name, keys=(PROVIDER_KEY,), latency=latency)


async def test_reloads_never_close_a_provider_that_a_request_still_uses(make_world: MakeWorld) -> None:
    profiles = {name: profile(name, TICKING) for name in ("alpha", "beta")}
    async with make_world(profiles=profiles) as world:
        routing = world.settings["routing"]
        first = asyncio.create_task(world.stream(max_tokens=8))
        await until(lambda: world.mesh.in_flight == 1)
        world.reload(routing={**routing, "max_attempts": 5})
        world.reload(routing={**routing, "max_attempts": 4})
        second = asyncio.create_task(world.stream(max_tokens=40))
        await until(lambda: world.mesh.in_flight == 2)
        offers = [offer for offer in world.settings["offers"] if offer["provider"] == "beta"]
        world.reload(providers={"beta": world.settings["providers"]["beta"]}, offers=offers)
        for task in (first, second):
            response, lines = await task
            assert response.headers["x-amaru-provider"] == "alpha"
            assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize("retry_after_s", [0.0, 0.05])
async def test_asking_a_throttled_offer_again_costs_the_retry_budget(
    make_world: MakeWorld, retry_after_s: float
) -> None:
    async with make_world(("alpha",), routing={"retry_budget": {"ratio": 0, "min_per_s": 0}}) as world:
        world.break_("alpha", "status", status=429, retry_after="ms", retry_after_s=retry_after_s)
        for _ in range(5):
            assert (await world.chat()).status_code == 429
        assert world.providers["alpha"].requests <= 5


async def test_throttled_offer_is_asked_again_once(make_world: MakeWorld) -> None:
    async with make_world(("alpha",)) as world:
        world.break_("alpha", "status", status=429, retry_after="ms", retry_after_s=0.02)
        assert (await world.chat()).status_code == 429
        assert world.providers["alpha"].requests == 2


async def test_spent_attempts_still_name_the_soonest_return(make_world: MakeWorld) -> None:
    async with make_world(routing={"max_attempts": 2}) as world:
        world.break_("alpha", "status", status=429, retry_after="seconds", retry_after_s=20)
        world.break_("beta", "status", status=429, retry_after="seconds", retry_after_s=300)
        response = await world.chat()
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) <= 20


async def test_requests_in_line_are_served_in_turn_and_each_place_wakes_one(make_world: MakeWorld) -> None:
    fast = msgspec.structs.replace(TICKING, ttft_ms=2, itl_ms=0)
    async with make_world(
        ("alpha",), profiles={"alpha": profile("alpha", fast)}, offers={"alpha": ONE_AT_A_TIME}
    ) as world:
        decided = 0
        decide = world.mesh.plan.router.decide

        def counting(*arguments: Any) -> Any:
            nonlocal decided
            decided += 1
            return decide(*arguments)

        type(world.mesh.plan.router).decide, original = lambda _, *a: counting(*a), type(world.mesh.plan.router).decide
        try:
            answers = await asyncio.gather(*[world.chat(max_tokens=2) for _ in range(40)])
        finally:
            type(world.mesh.plan.router).decide = original  # type: ignore[method-assign]
        assert {answer.status_code for answer in answers} == {200}
        # Every waiter waking on every release would make 40 * 40 / 2 decisions and more.
        assert decided < 40 * 6


async def test_first_attempt_after_a_wait_is_recorded_with_its_own_decision(make_world: MakeWorld) -> None:
    profiles = {name: profile(name, TICKING) for name in ("alpha", "beta")}
    offers = {"alpha": ONE_AT_A_TIME, "beta": ONE_AT_A_TIME}
    async with make_world(profiles=profiles, offers=offers, routing={"policy": "random"}) as world:
        answers = await asyncio.gather(*[world.chat(max_tokens=2) for _ in range(6)])
        for answer in answers:
            decision = await world.decision(answer)
            assert decision["attempts"][0]["offer"] == decision["ranked"][0]["offer"]
            assert decision["propensity"] == pytest.approx(1.0 / len(decision["ranked"]))


async def test_health_returns_by_itself_when_the_cool_down_ends(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), routing={"breaker": {"cool_down_s": 0.1, "max_cool_down_s": 0.1}}) as world:
        world.break_("alpha", "status", status=500)
        while world.mesh.offer_health()[0].state == "closed":
            await world.chat(headers={"x-amaru-deadline-ms": "200"})
        await until(lambda: world.mesh.offer_health()[0].free_in_s == 0.0)
        provider = (await world.client.get("/providers/alpha")).json()
        assert provider["offers"][0]["status"] == "recovering"
        assert (await world.client.get("/health")).json()["status"] == "ok"


@pytest.mark.parametrize(
    "report", [{"ok": False, "failure": "bad_credentials"}, {"ok": False, "failure": "server_error"},
               {"ok": True, "first_token_ms": 1e12, "latency_ms": 1e12}]
)  # fmt: skip
async def test_one_tenants_reports_cannot_close_an_offer_to_others(
    make_world: MakeWorld, report: dict[str, Any]
) -> None:
    async with make_world(("alpha",)) as world:
        other = {"authorization": f"Bearer {OTHER_KEY}"}
        for _ in range(8):
            decision = (await world.client.post("/agent/route", json={"model": "sim"}, headers=other)).json()
            body = {"decision_id": decision["id"], **report}
            assert (await world.client.post("/agent/feedback", json=body, headers=other)).status_code == 200
        assert (await world.chat()).status_code == 200
        again = (await world.client.post("/agent/route", json={"model": "sim", "max_latency_ms": 5000})).json()
        assert again["ranked"]


async def test_one_record_that_cannot_be_made_does_not_take_others_with_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amaru.mesh import mesh as mesh_module

    async with make_world(("alpha",)) as world:
        real = mesh_module.record_of_execution
        calls = iter(range(100))

        def sometimes(execution: Any) -> Any:
            if next(calls) == 0:
                raise OverflowError("a figure that cannot be stored")
            return real(execution)

        monkeypatch.setattr(mesh_module, "record_of_execution", sometimes)
        await asyncio.gather(*[world.chat() for _ in range(4)])
        page = (await world.client.get("/decisions")).json()["decisions"]
        assert len(page) == 3
        assert world.mesh.in_flight == 0


async def test_tenants_see_the_offers_that_they_may_use(make_world: MakeWorld) -> None:
    tenants = {"team": {"keys": [{"sha256": digest(KEY)}], "resources": ["sim-embed"]}}
    async with make_world(tenants=tenants) as world:
        providers = (await world.client.get("/providers")).json()["providers"]
        assert [offer["resource"] for provider in providers for offer in provider["offers"]] == ["sim-embed"]
        assert (await world.client.get("/providers/beta")).status_code == 404
