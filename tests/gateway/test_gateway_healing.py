"""Sensing that acts: over real sockets, what goes wrong is seen, named, healed, remembered, and told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_world import OPERATOR_KEY, MakeWorld, World, until

from amaru.domain import Kind
from amaru.health.probe import REQUESTS

OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
FREE = {"price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}}


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def served(world: World, count: int, *, stream: bool = False, clock: Clock | None = None) -> list[str]:
    """Who served each of so many requests, all with different prompts, with a look after every fifth.

    With ``clock`` one second passes between two of them.
    """
    found = []
    for number in range(count):
        prompt = f"Tell me something about number {number}, and about {count - number}."
        if stream:
            answer, _ = await world.stream(messages=[{"role": "user", "content": prompt}], max_tokens=60)
        else:
            answer = await world.chat(prompt, max_tokens=60)
        found.append(answer.headers["x-amaru-provider"])
        if clock is not None:
            await world.mesh.sensing.settle()
            clock.now += 1.0
        if number % 5 == 4:
            await world.mesh.sensing.look()
    return found


def coherence(world: World, offer: str) -> float:
    return world.mesh.sensing.sense.view(offer, world.mesh.wall()).coherence


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", ["empty_text", "repeated_text"])
async def test_a_provider_that_answers_nonsense_loses_coherence_and_traffic_within_twenty_answers(
    world: World, fault: str, stream: bool
) -> None:
    assert set(await served(world, 40, stream=stream)) == {"alpha"}
    assert coherence(world, "alpha/sim") > 0.8
    world.break_("alpha", fault)
    struck = await served(world, 40, stream=stream)
    assert struck.count("alpha") <= 20
    assert struck[-10:].count("alpha") <= 1
    assert coherence(world, "alpha/sim") < 0.6
    alpha = (await world.client.get("/health/providers", headers=OPERATOR)).json()["providers"][0]
    assert alpha["status"] == "degraded"
    assert alpha["recommended"].startswith("look at its answers")


@pytest.mark.parametrize("fault", ["empty_text", "repeated_text"])
async def test_it_is_a_pattern_that_is_healed_and_told(make_world: MakeWorld, fault: str) -> None:
    clock = Clock()
    async with make_world(wall=clock, extra={"health": {"prediction": False}}) as world:
        await served(world, 60, clock=clock)
        world.break_("alpha", fault)
        struck = await served(world, 40, clock=clock)
        assert struck.count("alpha") <= 20, struck
        page = (await world.client.get("/health/providers", headers=OPERATOR)).json()
        (pattern,) = page["patterns"]
        assert (pattern["kind"], pattern["cause"], pattern["providers"]) == ("degradation", "coherence", ["alpha"])
        assert page["healings"]
        assert page["providers"][0]["recommended"]
        healings = (await world.client.get("/health/healings", headers=OPERATOR)).json()["healings"]
        assert {healing["pattern"] for healing in healings} == {pattern["id"]}
        metrics = (await world.client.get("/metrics", headers=OPERATOR)).text
        assert 'amaru_health_patterns_total{kind="degradation"} 1.0' in metrics


async def test_advice_is_given_and_nothing_done_where_healing_only_advises(make_world: MakeWorld) -> None:
    clock = Clock()
    async with make_world(wall=clock, extra={"health": {"healing": "advise", "prediction": False}}) as world:
        await served(world, 60, clock=clock)
        world.break_("alpha", "empty_text")
        assert set(await served(world, 30, clock=clock)) == {"alpha"}
        healings = (await world.client.get("/health/healings", headers=OPERATOR)).json()["healings"]
        assert healings
        assert not any(healing["applied"] for healing in healings)


async def test_doubt_fades_so_that_what_recovered_is_found_out(make_world: MakeWorld) -> None:
    clock = Clock()
    async with make_world(wall=clock, extra={"health": {"healing": "off"}}) as world:
        await served(world, 60, clock=clock)
        world.break_("alpha", "empty_text")
        await served(world, 40, clock=clock)
        world.providers["alpha"].faults.clear()
        assert "alpha" in await served(world, 120, clock=clock)
        assert (await served(world, 20, clock=clock)).count("alpha") == 20


async def test_what_is_known_survives_a_restart(make_world: MakeWorld) -> None:
    clock = Clock()
    async with make_world(wall=clock, extra={"health": {"prediction": False}}) as world:
        await served(world, 60, clock=clock)
        world.break_("alpha", "empty_text")
        await served(world, 20, clock=clock)
        before = coherence(world, "alpha/sim")
        patterns = {one.id for one in world.mesh.sensing.chronicle.patterns()}
        assert patterns
        for _ in range(3):
            await world.mesh.sensing.step()
        await world.client.post("/health/healings/veto", json={"provider": "beta"}, headers=OPERATOR)
        folder = world.mesh.plan.config.health_path
    assert {path.name.partition("_2")[0] for path in folder.iterdir()} == {
        "pattern_memory.json", "state.msgpack", "infrastructure_state", "session_analysis",
    }  # fmt: skip
    async with make_world(wall=clock) as again:
        assert coherence(again, "alpha/sim") == pytest.approx(before, abs=0.1)
        assert patterns <= {one.id for one in again.mesh.sensing.chronicle.patterns()}
        assert [veto.provider for veto in again.mesh.sensing.acting.healer.vetoes] == ["beta"]
        reading = again.mesh.sensing.steadiness.reading
        assert reading is not None
        assert reading.step == 3


async def test_torn_files_are_set_aside_with_words_and_cost_only_themselves(make_world: MakeWorld) -> None:
    async with make_world() as world:
        await served(world, 5)
        folder = world.mesh.plan.config.health_path
    (folder / "state.msgpack").write_bytes((folder / "state.msgpack").read_bytes()[:50])
    (folder / "pattern_memory.json").write_text("{")
    async with make_world() as again:
        assert (await again.chat()).status_code == 200
        assert len(list(folder.glob("*.unread-*"))) == 2


async def test_a_folder_that_cannot_be_written_is_said_and_serving_goes_on(make_world: MakeWorld) -> None:
    async with make_world(extra={"health": {"path": "amaru.yaml/health"}}) as world:
        assert (await world.chat()).status_code == 200
        sensing = world.mesh.sensing
        await sensing.look()
        await until(lambda: bool(sensing.memory_failure))
        assert "memory cannot be written" in (await sensing.report()).notes[0]


async def test_the_field_steps_over_the_providers_signals_and_is_shown(world: World) -> None:
    sensing = world.mesh.sensing
    assert sensing.steadiness.signals[:3] == ("alpha.log_latency", "alpha.error_rate", "alpha.utility")
    for _ in range(4):
        await served(world, 3)
        await sensing.step()
    page = (await world.client.get("/health/providers", headers=OPERATOR)).json()
    assert page["stability"]["step"] == 4
    assert 0.0 < page["stability"]["Psi"] < 1.0
    metrics = (await world.client.get("/metrics", headers=OPERATOR)).text
    assert "psi_field_density 0." in metrics
    assert 'guardian_interventions_total{kind="nigredo"} 0.0' in metrics
    assert 'amaru_health_coherence{offer="alpha/sim"} 1.0' in metrics
    assert "amaru_health_observations_total 12.0" in metrics


async def test_a_reload_keeps_what_is_known_of_what_stays(world: World) -> None:
    await served(world, 20)
    outcomes = world.mesh.sensing.sense.view("alpha/sim", world.mesh.wall()).total
    offers = [offer for offer in world.settings["offers"] if offer["provider"] == "alpha"]
    world.reload(offers=offers, health={"healing": "off", "samples_per_s": 1})
    sensing = world.mesh.sensing
    await sensing.settle()
    assert list(sensing.sense.offers) == ["alpha/sim", "alpha/sim-embed"]
    assert sensing.sense.view("alpha/sim", world.mesh.wall()).total == outcomes
    assert sensing.acting.healer.settings.mode == "off"
    assert sensing.intake.samples_per_s == 1
    assert sensing.steadiness.providers == ("alpha",)
    assert (await world.chat()).status_code == 200


# ---- probes ----------------------------------------------------------------------------------------------------------


async def probed(world: World, after_s: float) -> list[str]:
    """The offers that are probed when nobody has asked them for so long, once the probes are over."""
    probing, now = world.mesh.sensing.probing, world.mesh.wall()
    probing.look(now)
    found = probing.look(now + after_s)
    await probing.finish()
    await world.mesh.sensing.settle()
    return found


async def test_an_idle_offer_is_probed_where_that_is_free(make_world: MakeWorld) -> None:
    async with make_world(offers={"alpha": FREE}, extra={"health": {"probes": {"idle_after_s": 60}}}) as world:
        assert await probed(world, 59.0) == []
        assert await probed(world, 61.0) == ["alpha/sim"]
        view = world.mesh.sensing.sense.view("alpha/sim", world.mesh.wall())
        assert (view.total, view.connected) == (1, True)
        assert world.providers["alpha"].requests == 1
        assert (await world.client.get("/decisions")).json()["decisions"] == [], "it is nobody's request"
        metrics = (await world.client.get("/metrics", headers=OPERATOR)).text
        assert 'amaru_health_probes_total{offer="alpha/sim"} 1.0' in metrics
        assert "amaru_cost_usd_total{" not in metrics


async def test_an_offer_that_serves_is_not_probed(make_world: MakeWorld) -> None:
    async with make_world(offers={"alpha": FREE}) as world:
        probing, now = world.mesh.sensing.probing, world.mesh.wall()
        probing.look(now)
        await world.chat()
        assert probing.look(world.mesh.wall() + 290.0) == []


async def test_offers_that_bill_are_probed_only_where_allowed_and_up_to_a_cap(make_world: MakeWorld) -> None:
    async with make_world() as world:
        assert await probed(world, 1e6) == []
    probes = {"offers": "all", "max_usd_per_day": 0.00005}
    async with make_world(extra={"health": {"probes": probes}}) as world:
        total = []
        for turn in range(1, 6):
            total += await probed(world, 400.0 * turn)
        probing = world.mesh.sensing.probing
        assert total
        assert 0.0 < probing.cost_usd <= 0.00005
        assert len(total) < 15, "the cap held"


async def test_a_probe_that_fails_is_seen_and_a_broken_offer_is_left_alone(make_world: MakeWorld) -> None:
    async with make_world(offers={"alpha": FREE}) as world:
        world.break_("alpha", "status", status=401)
        assert await probed(world, 400.0) == ["alpha/sim"]
        view = world.mesh.sensing.sense.view("alpha/sim", world.mesh.wall())
        assert view.errors == {"bad_credentials": 1}
        await probed(world, 1000.0)
        assert world.providers["alpha"].requests == 1, "its breaker keeps everybody away, probes too"


def test_probes_ask_for_little() -> None:
    assert set(REQUESTS) == {Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING}
    for request in REQUESTS.values():
        assert not request.stream
        fields: dict[str, Any] = {name: json.loads(bytes(value)) for name, value in request.fields.items()}
        assert fields.get("max_tokens", 8) == 8


async def test_probes_under_way_together_do_not_pass_the_cap_and_neither_does_a_restart(make_world: MakeWorld) -> None:
    clock = Clock()
    price = {"price": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}}
    names = ("alpha", "beta", "gamma")
    probe_usd = 24e-6  # as much as a probe is reckoned to use
    extra = {"health": {"probes": {"offers": "all", "max_usd_per_day": 2.5 * probe_usd}}}
    offers = dict.fromkeys(names, price)
    async with make_world(names, offers=offers, extra=extra, wall=clock) as world:
        probing = world.mesh.sensing.probing
        probing.look(clock.now)
        clock.now += 400.0
        begun = probing.look(clock.now)
        assert {offer.partition("/")[2] for offer in begun} <= {"sim", "sim-embed"}
        assert begun.count("alpha/sim") + begun.count("beta/sim") + begun.count("gamma/sim") == 2
        await probing.finish()
        assert 0.0 < probing.spending.usd(clock.now) == pytest.approx(probing.cost_usd)
        spent_usd = probing.spending.usd(clock.now)
    async with make_world(names, offers=offers, extra=extra, wall=clock) as again:
        assert again.mesh.sensing.probing.spending.usd(clock.now) == pytest.approx(spent_usd)
