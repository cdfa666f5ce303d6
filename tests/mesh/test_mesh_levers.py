"""Each lever, pulled on a live mesh over real HTTP providers, does what it says, survives a reload, and comes back."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from levers_world import MakeLevers, make_levers

from amaru.domain import FailureKind, Kind
from amaru.health.observation import Observation
from amaru.mesh import levers
from amaru.protocols.adapting import Adaptation, Rule
from amaru.protocols.adapting_evidence import find_adaptation
from amaru.providers.base import StreamReply
from amaru.routing.retries import BACKOFF_S
from amaru.routing.steering import UNSTEERED, Steering
from amaru.simulation.faults import Fault
from amaru.simulation.profiles import INSTANT, ProviderProfile

__all__ = ["make_levers"]

SLOW = msgspec.structs.replace(INSTANT, ttft_ms=600.0)
TEXT = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))


async def test_a_drained_offer_gets_no_traffic_until_it_is_restored(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        assert await world.served(6) == {"a": 6}
        assert world.levers.steer("a/sim", Steering(drained=True)) == UNSTEERED
        assert await world.served(6, stream=True) == {"b": 6}
        assert world.providers["a"].requests == 6
        assert world.levers.steer("a/sim", UNSTEERED) == Steering(drained=True)
        assert await world.served(6) == {"a": 6}


async def test_where_all_are_drained_or_the_others_fail_the_drained_ones_serve(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.levers.steer("a/sim", Steering(drained=True))
        world.providers["b"].faults.add(Fault(kind="status", status=500))
        assert await world.served(3) == {"a": 3}
        world.levers.steer("b/sim", Steering(drained=True))
        assert (await world.served(3)).total() == 3


async def test_a_weight_moves_the_share_of_traffic(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.levers.steer("a/sim", Steering(weight=0.9))
        assert await world.served(5) == {"a": 5}  # it is a fifth cheaper
        world.levers.steer("a/sim", Steering(weight=0.5))
        assert await world.served(5) == {"b": 5}
        world.levers.steer("b/sim", Steering(risk=0.6))
        assert await world.served(5) == {"a": 5}


async def test_a_decision_that_was_steered_says_so_when_it_is_read_back(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.levers.steer("a/sim", Steering(weight=0.5))
        execution = world.begin()
        await execution.run()
        execution.settle()
        decision = world.mesh.plan.router.explain(execution.ranking, execution.id, execution.at)
        assert decision.ranked[1].reason.endswith("weighed down to 50 % by a healing")


async def test_a_limit_on_requests_at_once_holds_and_the_rest_go_elsewhere_or_wait(make_levers: MakeLevers) -> None:
    slow = ProviderProfile(name="a", latency=SLOW)
    async with make_levers(profiles={"a": slow}) as world:
        world.levers.steer("a/sim", Steering(concurrency=2.0))
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, world.providers["a"].in_flight)
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        served = [provider for provider, _ in await asyncio.gather(*(world.ask() for _ in range(8)))]
        assert served.count("a") == 2
        assert served.count("b") == 6
        world.levers.steer("b/sim", Steering(drained=True))
        again = [provider for provider, _ in await asyncio.gather(*(world.ask() for _ in range(4)))]
        assert None not in again
        watching.cancel()
        assert most == 2
        assert world.levers.in_flight("a/sim") == 0.0


async def test_who_waits_is_let_in_when_a_limit_is_lifted(make_levers: MakeLevers) -> None:
    hangs = ProviderProfile(name="a", latency=SLOW)
    async with make_levers(("a",), profiles={"a": hangs}) as world:
        world.levers.steer("a/sim", Steering(concurrency=1.0))
        first, second = (asyncio.create_task(world.ask()) for _ in range(2))
        while world.providers["a"].in_flight < 1:  # noqa: ASYNC110 - the provider has no event for it
            await asyncio.sleep(0.005)
        world.levers.steer("a/sim", UNSTEERED)
        while world.providers["a"].in_flight < 2:
            assert not first.done()
            await asyncio.sleep(0.005)
        assert [provider for provider, _ in await asyncio.gather(first, second)] == ["a", "a"]


async def test_a_limit_on_the_first_token_applies_while_another_can_take_over(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.levers.steer("a/sim", Steering(first_token_ms=80.0))
        world.providers["a"].faults.add(Fault(kind="hang"))
        execution = world.begin(stream=True)
        await execution.run()
        assert execution.provider == "b"
        assert execution.attempts[0].failure is FailureKind.NO_ANSWER
        assert execution.attempts[0].latency_ms < 5_000.0
        execution.settle()


async def test_a_limit_on_silence_applies_inside_a_stream(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.levers.steer("a/sim", Steering(idle_ms=80.0))
        world.providers["a"].faults.add(Fault(kind="stall", after_events=2))
        provider, got = await world.ask(stream=True)
        assert provider == "b"
        assert b"finish_reason" in got


async def test_a_steered_breaker_opens_sooner_and_stays_open_longer(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.levers.steer("a/sim", Steering(breaker_failures=1, cool_down_s=300.0))
        world.providers["a"].faults.add(Fault(kind="status", status=500))
        assert await world.served(4) == {"b": 4}
        assert world.providers["a"].requests == 1
        (health, _) = world.mesh.offer_health()
        assert health.state == "open"
        assert health.free_in_s is not None
        assert health.free_in_s > 250.0


async def test_the_same_offer_is_asked_twice_as_seldom_as_that_is_steered(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        world.providers["a"].faults.add(Fault(kind="status", status=500))
        world.levers.steer("a/sim", Steering(retry_ratio=0.6))
        await world.ask(words="One.")  # earns a share of a second try
        assert world.providers["a"].requests == 1
        await world.ask(words="Two.")
        assert world.providers["a"].requests == 3
        world.levers.steer("a/sim", Steering(retry_ratio=0.0))
        await world.ask(words="Three.")
        assert world.providers["a"].requests == 4


async def test_a_second_try_waits_as_long_as_that_is_steered(
    make_levers: MakeLevers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_levers() as world:
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        monkeypatch.setattr(world.mesh, "sleep", sleep)
        monkeypatch.setattr(world.mesh.rng, "random", lambda: 1.0)
        world.providers["a"].faults.add(Fault(kind="status", status=503))
        await world.ask()
        world.levers.steer("a/sim", Steering(backoff=4.0))
        await world.ask(words="And now?")
        assert pauses == [BACKOFF_S, 4.0 * BACKOFF_S]


@pytest.mark.parametrize("steered", [True, False])
async def test_streams_are_asked_for_as_whole_answers_and_handed_on_as_streams(
    make_levers: MakeLevers, steered: bool
) -> None:
    async with make_levers(("a",)) as world:
        world.levers.steer("a/sim", Steering(non_stream=steered))
        provider, got = await world.ask(stream=True)
        assert provider == "a"
        assert b"chat.completion.chunk" in got
        assert b'"finish_reason":"' in got
        (received,) = world.providers["a"].received
        assert msgspec.json.decode(received.body).get("stream", False) is not steered


async def test_streams_asked_for_as_whole_answers_teach_nothing_about_streams(make_levers: MakeLevers) -> None:
    async with make_levers(("a",), extra={"health": {"enabled": True}}) as world:
        told: list[Observation] = []
        world.mesh.sensing.observers.append(told.append)
        await world.ask(stream=True)
        world.levers.steer("a/sim", Steering(non_stream=True))
        execution = world.begin(stream=True, words="And now?")
        assert isinstance(await execution.run(), StreamReply)
        while await execution.next():
            pass
        execution.settle()
        assert execution.first_token_ms is not None  # as its caller saw it
        await world.mesh.sensing.settle()
        streamed, whole = told
        assert (streamed.stream, whole.stream) == (True, False)
        assert streamed.first_token_ms is not None
        assert (whole.ok, whole.first_token_ms) == (True, None)
        assert whole.sample is not None
        assert (whole.sample.shape, whole.sample.missing, whole.sample.empty) == (0, (), False)
        health = world.mesh.plan.board.health(0, world.mesh.clock())
        assert health.answer_ms is not None  # it is known as what it was
        assert world.mesh.plan.board.states[0].first_token._by_bits[0]._weight == 1.0


async def test_answers_are_read_by_an_adaptation(make_levers: MakeLevers) -> None:
    async with make_levers(("a",)) as world:
        renamed = Fault(kind="renamed_field", field="choices[].message.content", to="text")
        world.providers["a"].faults.add(renamed)
        await world.ask()
        assert world.levers.find_adaptation("a/sim") == TEXT
        assert world.levers.adapted("a/sim") is None
        assert world.levers.adapt("a/sim", TEXT) is None
        provider, got = await world.ask(words="And now?")
        assert provider == "a"
        assert msgspec.json.decode(got)["choices"][0]["message"]["content"]
        adapted = world.levers.adapted("a/sim")
        assert adapted is not None
        assert adapted.rewritten == 1
        assert world.levers.adapt("a/sim", None) == TEXT


async def test_an_answer_is_looked_through_for_an_adaptation_once(
    make_levers: MakeLevers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []

    def find(kind: Kind, body: bytes, *, stream: bool) -> Adaptation | None:
        looked.append(body)
        return find_adaptation(kind, body, stream=stream)

    monkeypatch.setattr(levers, "find_adaptation", find)
    async with make_levers(("a",)) as world:
        world.providers["a"].faults.add(Fault(kind="renamed_field", field="choices[].message.content", to="text"))
        for asked in (1, 2):
            await world.ask(words=f"For the {asked}. time.")
            for _ in range(3):
                assert world.levers.find_adaptation("a/sim") == TEXT
            assert len(looked) == asked


async def test_pools_are_those_of_the_plan_that_serves(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        assert world.levers.pools() == {"sim": ["a/sim", "b/sim"]}
        world.mesh.reload(world.config(offers=world.settings["offers"][:1], aliases={"fast": ["sim"]}))
        assert world.levers.pools() == {"sim": ["a/sim"], "fast": ["a/sim"]}
        assert world.levers.adapted("a/sim") is None


async def test_another_address_of_the_provider_is_asked(make_levers: MakeLevers) -> None:
    async with make_levers(alternate="a") as world:
        assert (world.levers.alternates("a"), world.levers.alternates("b"), world.levers.alternates("x")) == (1, 0, 0)
        assert world.levers.endpoint("a", 1) == 0
        await world.ask()
        assert world.levers.address("a") == 1
        assert world.levers.endpoint("a", 0) == 1
        await world.ask()
        assert [received.path[:4] for received in world.providers["a"].received] == ["/v2/", "/v1/"]


async def test_a_reload_keeps_what_is_set_even_where_a_provider_is_opened_anew(make_levers: MakeLevers) -> None:
    async with make_levers(alternate="a") as world:
        world.levers.steer("a/sim", Steering(weight=0.5, concurrency=3.0))
        world.levers.endpoint("a", 1)
        world.levers.adapt("a/sim", TEXT)
        before = world.mesh.plan.providers["a"]
        providers = msgspec.json.decode(msgspec.json.encode(world.settings["providers"]))
        providers["a"]["max_connections"] = 7
        world.mesh.reload(world.config(providers=providers))
        world.levers.carry_on()
        assert world.mesh.plan.providers["a"] is not before
        assert world.levers.steering("a/sim") == Steering(weight=0.5, concurrency=3.0)
        assert world.levers.address("a") == 1
        adapted = world.levers.adapted("a/sim")
        assert adapted is not None
        assert adapted.adaptation == TEXT
        assert await world.served(3) == {"b": 3}
        world.levers.steer("a/sim", UNSTEERED)
        world.levers.endpoint("a", 0)
        world.levers.adapt("a/sim", None)
        world.mesh.reload(world.config())
        world.levers.carry_on()
        assert (world.levers.address("a"), world.levers.adapted("a/sim")) == (0, None)
        assert await world.served(3) == {"a": 3}


async def test_offers_and_providers_that_a_reload_takes_away_are_unknown(make_levers: MakeLevers) -> None:
    async with make_levers(alternate="a") as world:
        world.levers.adapt("a/sim", TEXT)
        world.levers.endpoint("a", 1)
        providers = {"b": world.settings["providers"]["b"]}
        offers = [offer for offer in world.settings["offers"] if offer["provider"] == "b"]
        world.mesh.reload(world.config(providers=providers, offers=offers))
        world.levers.carry_on()
        assert [offer.id for offer in world.levers.offers()] == ["b/sim"]
        assert world.levers.pools() == {"sim": ["b/sim"]}
        assert world.levers.steering("a/sim") is None
        assert world.levers.adapted("a/sim") is None
        assert world.levers.find_adaptation("a/sim") is None
        assert (world.levers.in_flight("a/sim"), world.levers.address("a")) == (0.0, 0)
        for pull in (
            lambda: world.levers.steer("a/sim", UNSTEERED),
            lambda: world.levers.adapt("a/sim", None),
            lambda: world.levers.endpoint("a", 1),
        ):
            with pytest.raises(ValueError, match=r"no (offer|provider) 'a"):
                pull()
