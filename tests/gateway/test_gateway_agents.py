"""The agent API: recommendations that explain themselves, and feedback that counts exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import KEY, OTHER_KEY, MakeWorld, World, digest

GPU_OFFERS: list[dict[str, Any]] = [
    {"provider": "alpha", "resource": "A100", "kinds": ["gpu_job"], "price": {"usd_per_gpu_hour": 1.8},
     "latency_ms": 300, "reputation": 78, "regions": ["eu-west-1", "us-west-2"], "capacity": 220},
    {"provider": "beta", "resource": "A100", "kinds": ["gpu_job"], "price": {"usd_per_gpu_hour": 2.5},
     "latency_ms": 260, "reputation": 85, "regions": ["us-west-2"], "capacity": 200},
]  # fmt: skip


@pytest.fixture
async def gpus(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world(extra={"offers": GPU_OFFERS, "aliases": {}}) as made:
        yield made


async def route(world: World, path: str = "/agent/route", **fields: Any) -> Any:
    return await world.client.post(path, json={"workload_type": "llm_inference", "gpu_type": "A100", **fields})


async def test_every_offer_is_ranked_with_parts_that_add_up(gpus: World) -> None:
    response = await route(gpus, gpu_hours=2.0, weights={"price": 0.7, "latency": 0.3})
    assert response.status_code == 200
    decision = response.json()
    assert [ranked["offer"] for ranked in decision["ranked"]] == ["alpha/A100", "beta/A100"]
    for ranked in decision["ranked"]:
        assert sum(ranked["parts"].values()) == pytest.approx(ranked["score"])
        assert ranked["reason"]
    assert decision["ranked"][0]["estimated_cost_usd"] == pytest.approx(3.6)
    assert decision["refused"] == []


async def test_weights_turn_the_order_around(gpus: World) -> None:
    fast = (await route(gpus, weights={"latency": 1.0})).json()
    cheap = (await route(gpus, weights={"price": 1.0})).json()
    assert fast["ranked"][0]["offer"] == "beta/A100"
    assert cheap["ranked"][0]["offer"] == "alpha/A100"


@pytest.mark.parametrize(
    ("fields", "constraint", "refused"),
    [
        ({"max_price": 2.0}, "max_price", {"beta/A100"}),
        ({"max_latency_ms": 280}, "max_latency", {"alpha/A100"}),
        ({"min_reputation": 80}, "min_reputation", {"alpha/A100"}),
        ({"region": "eu-west-1"}, "region", {"beta/A100"}),
        ({"regions": ["eu-west-1"]}, "regions", {"beta/A100"}),
        ({"gpu_hours": 210}, "capacity", {"beta/A100"}),
    ],
)
async def test_refused_offers_name_the_constraint(
    gpus: World, fields: dict[str, Any], constraint: str, refused: set[str]
) -> None:
    decision = (await route(gpus, **fields)).json()
    assert {refusal["offer"] for refusal in decision["refused"]} == refused
    assert all(
        constraint in refusal["constraint"] or constraint in refusal["detail"] for refusal in decision["refused"]
    )


async def test_best_only_and_none_feasible(gpus: World) -> None:
    best = (await route(gpus, "/route", weights={"price": 1.0})).json()
    assert best["best"]["offer"] == "alpha/A100"
    none = await route(gpus, "/route", max_price=0.1)
    assert none.status_code == 400
    assert "max_price" in none.json()["error"]["message"]
    assert (await route(gpus, max_price=0.1)).json()["ranked"] == []


async def test_batch_answers_in_order_and_keeps_each_mistake_to_itself(gpus: World) -> None:
    workloads = [{"gpu_type": "A100", "workload_type": "x"}, {"gpu_type": "H900", "workload_type": "x"},
                 {"gpu_type": "A100", "model": "both"}]  # fmt: skip
    response = await gpus.client.post("/agent/route/batch", json={"workloads": workloads})
    results = response.json()["results"]
    assert results[0]["decision"]["ranked"]
    assert results[1]["error"]["code"] == "model_not_found"
    assert results[2]["error"]["param"] == "model"


async def test_tenants_limits_bind_agents_too(make_world: MakeWorld) -> None:
    tenants = {"team": {"keys": [{"sha256": digest(KEY)}], "limits": {"max_price": 2.0}}}
    async with make_world(extra={"offers": GPU_OFFERS, "aliases": {}}, tenants=tenants) as world:
        decision = (await route(world, max_price=100.0)).json()
        assert [ranked["offer"] for ranked in decision["ranked"]] == ["alpha/A100"]


async def test_feedback_counts_exactly_once_even_when_sent_at_once(gpus: World) -> None:
    decision = (await route(gpus)).json()
    report = {"decision_id": decision["id"], "ok": True, "latency_ms": 280.0, "cost_usd": 3.6}
    answers = await asyncio.gather(*[gpus.client.post("/agent/feedback", json=report) for _ in range(8)])
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    stored = (await gpus.client.get(f"/decisions/{decision['id']}")).json()
    assert stored["feedback"]["cost_usd"] == 3.6
    assert stored["feedback"]["offer"] == decision["ranked"][0]["offer"]


async def test_reported_failures_open_the_breaker(gpus: World) -> None:
    for _ in range(5):
        decision = (await route(gpus, weights={"price": 1.0})).json()
        report = {"decision_id": decision["id"], "ok": False, "failure": "server_error", "offer": "alpha/A100"}
        assert (await gpus.client.post("/agent/feedback", json=report)).status_code == 200
    decision = (await route(gpus, weights={"price": 1.0})).json()
    assert [ranked["offer"] for ranked in decision["ranked"]] == ["beta/A100"]
    assert decision["refused"][0]["constraint"] == "cooling_down"


@pytest.mark.parametrize(
    ("change", "status"),
    [({"decision_id": "f" * 32}, 404), ({"offer": "gamma/A100"}, 400), ({"failure": "server_error"}, 400),
     ({"latency_ms": -1}, 400), ({"failure": "bad luck"}, 400), ({"surprise": 1}, 400)],
)  # fmt: skip
async def test_wrong_feedback_is_refused_and_named(gpus: World, change: dict[str, Any], status: int) -> None:
    decision = (await route(gpus)).json()
    report = {"decision_id": decision["id"], "ok": True, **change}
    response = await gpus.client.post("/agent/feedback", json=report)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


async def test_feedback_on_anothers_or_a_served_decision_is_refused(world: World) -> None:
    served = await world.chat()
    report = {"decision_id": served.headers["x-amaru-decision"], "ok": True}
    assert (await world.client.post("/agent/feedback", json=report)).status_code == 409
    foreign = await world.client.post("/agent/feedback", json=report, headers={"authorization": f"Bearer {OTHER_KEY}"})
    assert foreign.status_code == 404


async def test_model_workloads_are_ranked_as_they_would_be_served(world: World) -> None:
    response = await world.client.post(
        "/agent/route", json={"model": "fast", "input_tokens": 500, "output_tokens": 100, "needs": ["tools", "stream"]}
    )
    decision = response.json()
    assert [ranked["offer"] for ranked in decision["ranked"]] == ["alpha/sim", "beta/sim"]
    served = await world.chat()
    assert served.headers["x-amaru-provider"] == decision["ranked"][0]["provider"]
