"""The Python faces of health: over a mesh, a gateway's URL, and providers alone, the same report."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_world import KEY, OPERATOR_KEY, PROVIDER_KEY, MakeWorld, World

from amaru.domain import Kind, Offer
from amaru.errors import HealthError
from amaru.health.bridge import InfrastructureMetricsBridge
from amaru.health.consciousness import Adapter, InfrastructureConsciousness


async def test_a_mesh_is_watched_by_its_own_sensing(world: World) -> None:
    await world.chat()
    async with InfrastructureConsciousness() as watching:
        await watching.start_monitoring(world.mesh)
        report = await watching.generate_consciousness_report()
    assert [(one.provider, one.status) for one in report.providers] == [("alpha", "healthy"), ("beta", "unknown")]
    assert report.observed == 1


@pytest.mark.parametrize("end", ["", "/v1", "/"])
async def test_a_gateway_is_watched_by_its_url(world: World, end: str) -> None:
    await world.chat()
    watching = InfrastructureConsciousness(key=OPERATOR_KEY)
    await watching.start_monitoring(world.base_url + end)
    report = await watching.generate_consciousness_report()
    assert report.providers[0].signature.total == 1


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        (None, KEY, "answers 403"),
        (None, None, "answers 401"),
        ("http://127.0.0.1:9", OPERATOR_KEY, "cannot be reached"),
        ("127.0.0.1:8080", OPERATOR_KEY, "not a gateway's URL"),
        ("http://user:secret@127.0.0.1:9", OPERATOR_KEY, "not a gateway's URL"),
    ],
)
async def test_a_gateway_that_cannot_be_asked_is_named_with_the_reason(
    world: World, url: str | None, key: str | None, words: str
) -> None:
    watching = InfrastructureConsciousness(key=key)
    with pytest.raises(HealthError, match=words) as caught:
        await watching.start_monitoring(url or world.base_url)
    assert "secret" not in str(caught.value)
    assert OPERATOR_KEY not in str(caught.value)


async def test_providers_alone_are_asked_and_told_apart(make_world: MakeWorld) -> None:
    async with make_world() as world:
        plan = world.mesh.plan
        adapters: dict[str, Any] = {
            "first": Adapter(plan.board.offers[0], plan.providers["alpha"]),
            "second": (plan.board.offers[1], plan.providers["beta"]),
        }
        world.break_("beta", "status", status=500)
        async with InfrastructureConsciousness(every_s=3600.0) as watching:
            await watching.start_monitoring(adapters)
            report = await watching.generate_consciousness_report()
        alpha, beta = report.providers
        assert (alpha.offers[0].offer, alpha.status) == ("first", "healthy")
        assert beta.signature.errors == {"server_error": 1}
        assert report.observed == 2
        received = world.providers["alpha"].received[-1]
        assert PROVIDER_KEY not in repr(report)
        assert received is not None


async def test_what_cannot_be_asked_for_is_refused_and_nothing_watched_is_said(world: World) -> None:
    watching = InfrastructureConsciousness()
    with pytest.raises(HealthError, match="nothing is watched"):
        await watching.generate_consciousness_report()
    gpu = Offer(id="g", provider="alpha", resource="A100", model="A100", kinds=(Kind.GPU_JOB,))
    with pytest.raises(ValueError, match="gpu_job"):
        await watching.start_monitoring({"g": (gpu, world.mesh.plan.providers["alpha"])})
    with pytest.raises(ValueError, match="every_s"):
        InfrastructureConsciousness(every_s=0.0)


async def test_one_report_holds_health_and_traffic(world: World) -> None:
    await world.chat()
    world.break_("alpha", "status", status=500)
    for _ in range(3):
        await world.chat()
    watching = InfrastructureConsciousness()
    await watching.start_monitoring(world.mesh)
    world.mesh.record_ended()
    bridge = InfrastructureMetricsBridge(infrastructure=watching, metrics_collector=world.mesh.metrics)
    report = await bridge.generate_unified_report()
    assert report.served == 1.0
    assert report.traffic["requests"] == 4
    assert "users hardly notice that alpha ails: 100.0% were served" in report.insights
    assert any("took over" in insight for insight in report.insights)


async def test_a_collector_may_be_any_function(world: World) -> None:
    watching = InfrastructureConsciousness()
    await watching.start_monitoring(world.mesh)

    async def collect() -> dict[str, Any]:
        return {"outcomes": {"ok": 1, "server_error": 1, "cancelled": 5}}

    report = await InfrastructureMetricsBridge(
        infrastructure=watching, metrics_collector=collect
    ).generate_unified_report()
    assert report.served == 0.5
    assert report.insights[0] == "50.0% of requests were not served"
    empty = await InfrastructureMetricsBridge(infrastructure=watching, metrics_collector=dict).generate_unified_report()
    assert empty.served is None
