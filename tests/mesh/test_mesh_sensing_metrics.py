"""What Prometheus sees of health: counts of this moment, scores of the last step, and nothing where it is off."""

from __future__ import annotations

from pathlib import Path

import pytest
from levers_world import LeversWorld, MakeLevers, make_levers
from prometheus_client.parser import text_string_to_metric_families
from told_samples import healing, pattern

from amaru.mesh.sensing_metrics import SCORES

__all__ = ["make_levers"]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(world: LeversWorld) -> Samples:
    """By name and labels."""
    text = world.mesh.metrics.render()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("amaru_health_", "psi_", "guardian_"))
    }


def on(tmp_path: Path) -> dict[str, object]:
    return {"health": {"enabled": True, "path": str(tmp_path / "health")}}


async def test_scores_are_those_of_the_last_step(make_levers: MakeLevers, tmp_path: Path) -> None:
    async with make_levers(extra=on(tmp_path)) as world:
        sensing = world.mesh.sensing
        await world.served(5)
        await sensing.settle()
        offer = (("offer", "a/sim"),)
        assert not any((f"amaru_health_{name}", offer) in scraped(world) for name in SCORES), "no step was taken"
        await sensing.step()
        assert sensing.latest is not None
        found, (shown, idle) = scraped(world), sensing.latest.providers
        for name in SCORES:
            assert found[f"amaru_health_{name}", offer] == getattr(shown.offers[0], name)
            assert (f"amaru_health_{name}", (("offer", "b/sim"),)) not in found, "nothing is known of it"
        assert idle.signature.total == 0
        await world.served(5)
        await sensing.settle()
        assert all(scraped(world)[f"amaru_health_{name}", offer] == getattr(shown.offers[0], name) for name in SCORES)


async def test_counts_are_of_this_moment(make_levers: MakeLevers, tmp_path: Path) -> None:
    async with make_levers(extra=on(tmp_path)) as world:
        sensing = world.mesh.sensing
        await world.served(3)
        await sensing.settle()
        sensing.chronicle.pattern(pattern("one"))
        sensing.chronicle.pattern(pattern("two"))
        sensing.chronicle.healing(healing())
        sensing.lost, sensing.intake.dropped, sensing.intake.skipped, sensing.feed.dropped = 1, 2, 4, 5
        sensing.probing.sent["b/sim"], sensing.probing.cost_usd = 7, 0.25
        found = scraped(world)
        assert found["amaru_health_observations_total", ()] == 3
        assert found["amaru_health_observations_dropped_total", ()] == 3
        assert found["amaru_health_observations_skipped_total", ()] == 4
        assert found["amaru_health_listeners_dropped_total", ()] == 5
        assert found["amaru_health_patterns_total", (("kind", "degradation"),)] == 2
        assert found["amaru_health_healings_total", (("kind", "weight"),)] == 1
        assert found["amaru_health_probes_total", (("offer", "b/sim"),)] == 7
        assert found["amaru_health_probe_cost_usd_total", ()] == 0.25


async def test_the_field_is_shown_once_it_took_a_step(make_levers: MakeLevers, tmp_path: Path) -> None:
    async with make_levers(extra=on(tmp_path)) as world:
        await world.served(3)
        await world.mesh.sensing.step()
        reading = world.mesh.sensing.steadiness.reading
        assert reading is not None
        found = scraped(world)
        assert found["psi_field_density", ()] == pytest.approx(reading.Psi)
        assert found["guardian_interventions_total", (("kind", "nigredo"),)] == 0


async def test_nothing_is_shown_where_health_is_off(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        await world.served(1)
        assert scraped(world) == {}
