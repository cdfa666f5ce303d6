"""Machines over one Redis: what one finds out, the others act on; and one that is wrong cannot keep them away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sharing_world import OwnRedis, machine, own_redis, prefix, provided, redis_url, until

from amaru.health.observation import Observation, Sample
from amaru.mesh import sharing as module
from amaru.routing import hearsay
from amaru.routing.breaker import State
from amaru.simulation import Fault

__all__ = ["own_redis", "prefix", "redis_url"]
pytestmark = pytest.mark.timeout(600)

A, B = "a/sim", "b/sim"


async def test_a_provider_that_dies_for_one_machine_is_left_alone_by_the_other_until_one_finds_it_well(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix) as one,
        machine(tmp_path / "two", providers, redis_url, prefix) as two,
    ):
        providers["a"].faults.add(Fault(kind="status", status=500))
        await one.ask_until(lambda: one.state_of(A) is State.OPEN)
        await until(lambda: two.state_of(A) is State.OPEN)
        assert (await two.ask())[0] == "b"
        assert (two.attempts(A), two.attempts(B)) == (0, 1)
        assert 0.0 < (two.free_in_s(A) or 0.0) <= 600.0  # 500 and its jitter
        providers["a"].faults.clear()
        one.clock.ahead_s = two.clock.ahead_s = 601.0
        assert (await one.ask())[0] == "a"  # its probe
        await until(lambda: two.state_of(A) is State.CLOSED)
        assert two.attempts(A) == 0
        assert (await two.ask())[0] == "a"


async def test_one_that_begins_later_hears_what_was_said_before(tmp_path: Path, redis_url: str, prefix: str) -> None:
    async with provided("a", "b") as providers, machine(tmp_path / "one", providers, redis_url, prefix) as one:
        providers["a"].faults.add(Fault(kind="status", status=500))
        await one.ask_until(lambda: one.state_of(A) is State.OPEN)
        await until(lambda: one.sharing.said > 0)
        async with machine(tmp_path / "two", providers, redis_url, prefix) as two:
            await until(lambda: two.state_of(A) is State.OPEN)


async def test_while_one_probes_the_others_do_not(
    tmp_path: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearsay, "PROBE_S", 60.0)
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix) as one,
        machine(tmp_path / "two", providers, redis_url, prefix) as two,
    ):
        providers["a"].faults.add(Fault(kind="status", status=500))
        await one.ask_until(lambda: one.state_of(A) is State.OPEN)
        await until(lambda: two.state_of(A) is State.OPEN)
        one.clock.ahead_s = two.clock.ahead_s = (one.free_in_s(A) or 0.0) + 0.01
        board = one.mesh.plan.board
        admission = board.admit(board.row_of[A], 1.0, one.clock())
        assert admission is not None  # the probe, which takes its time
        await until(lambda: (two.free_in_s(A) or 0.0) > 20.0)
        assert (await two.ask())[0] == "b"
        assert two.attempts(A) == 0
        board.release(admission)


async def test_a_machine_whose_own_network_is_broken_does_not_close_the_others_way(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "broken", providers, redis_url, prefix, dead=("a",)) as broken,
        machine(tmp_path / "well", providers, redis_url, prefix) as well,
    ):
        await broken.ask()  # the first failure
        assert (await well.ask())[0] == "a"
        await broken.ask_until(lambda: broken.state_of(A) is State.OPEN)
        await until(lambda: well.sharing.hearsay.doubted > 0)
        assert well.state_of(A) is State.CLOSED
        assert (await well.ask())[0] == "a"


async def test_a_pause_that_a_provider_asks_of_one_machine_holds_for_the_other(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix) as one,
        machine(tmp_path / "two", providers, redis_url, prefix) as two,
    ):
        providers["a"].faults.add(Fault(kind="status", status=429, retry_after="seconds", retry_after_s=1000.0))
        await one.ask()
        await until(lambda: bool(two.free_in_s(A)))
        assert 900.0 < (one.free_in_s(A) or 0.0) <= 1000.0
        assert 0.0 < (two.free_in_s(A) or 0.0) <= 60.0  # then it asks itself
        assert (await two.ask())[0] == "b"
        assert two.attempts(A) == 0


async def test_offers_are_known_by_provider_resource_and_model_and_others_are_passed_over(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    more = {
        "id": "mine", "provider": "b", "resource": "other", "model": "m",
        "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1},
    }  # fmt: skip
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, offers=(more,)) as one,
        machine(tmp_path / "two", providers, redis_url, prefix) as two,
        machine(tmp_path / "three", providers, redis_url, prefix, offers=({**more, "id": "theirs"},)) as three,
    ):
        providers["b"].faults.add(Fault(kind="status", status=500))
        await one.ask_until(lambda: one.state_of("mine") is State.OPEN, model="other")
        await until(lambda: three.state_of("theirs") is State.OPEN)
        assert two.state_of(B) is three.state_of(B) is State.CLOSED


async def test_latencies_of_others_stand_in_where_a_machine_has_none(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix) as one,
        machine(tmp_path / "two", providers, redis_url, prefix) as two,
    ):
        await one.ask()
        own = one.mesh.offer_health()[0].answer_ms
        assert own is not None
        await until(lambda: two.mesh.offer_health()[0].answer_ms is not None)
        assert two.mesh.offer_health()[0].answer_ms == pytest.approx(own)
        assert two.sharing.hearsay.averages(two.clock()) == {}  # it measured nothing itself
        await until(lambda: two.sharing.machines == 2)
        await two.ask()
        assert list(two.sharing.hearsay.averages(two.clock())) == ["a/sim/sim-model"]


def answers(offer: str, count: int, *, empty: bool) -> list[Observation]:
    """Ordinary ones; or some that should hold text, and hold none."""
    now, chars = time.time(), 0 if empty else 100
    return [
        Observation(
            offer=offer, provider=offer[0], at=now, ok=True, status=200, latency_ms=100.0, output_tokens=25,
            output_chars=chars, finish_reason="stop", sample=Sample(shape=1, empty=empty, digest=0 if empty else n + 1),
        )
        for n in range(count)
    ]  # fmt: skip


async def test_answers_that_one_machine_doubts_rank_lower_on_others_that_saw_none(
    tmp_path: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXCHANGE_S", 0.2)
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, redis_url, prefix, senses=True) as one,
        machine(tmp_path / "two", providers, redis_url, prefix, senses=True) as two,
        machine(tmp_path / "three", providers, redis_url, prefix, senses=True) as three,
    ):
        for each in (one, three):
            each.mesh.sensing.take_in(answers(A, 40, empty=False))
        one.mesh.sensing.take_in(answers(A, 40, empty=True))
        two.mesh.sensing.start()
        await until(lambda: two.mesh.plan.board.steering(0).risk > 0.0)
        assert two.mesh.sensing.acting.doubts == {}  # it tells nobody what it has not seen itself
        await until(lambda: bool(three.mesh.sensing.acting.heard))
        await three.mesh.sensing.look()
        assert three.mesh.plan.board.steering(0).risk < two.mesh.plan.board.steering(0).risk
        await one.sharing.aclose()  # it leaves
        await until(lambda: two.mesh.plan.board.steering(0).risk == 0.0)


async def test_without_redis_each_goes_on_alone_and_with_it_again_they_hear_what_was_found_out_meanwhile(
    tmp_path: Path, own_redis: OwnRedis, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        provided("a", "b") as providers,
        machine(tmp_path / "one", providers, own_redis.url) as one,
        machine(tmp_path / "two", providers, own_redis.url) as two,
    ):
        assert (await one.ask())[0] == "a"
        assert not one.sharing.up
        own_redis.start()
        await until(lambda: one.sharing.up and two.sharing.up)
        own_redis.stop()
        await until(lambda: not one.sharing.up and not two.sharing.up)
        metrics = one.mesh.metrics.render()[0].decode()
        assert "amaru_sharing_up 0.0" in metrics
        providers["a"].faults.add(Fault(kind="status", status=500))
        await one.ask_until(lambda: one.state_of(A) is State.OPEN)
        assert two.state_of(A) is State.CLOSED
        own_redis.start()  # it has forgotten everything
        await until(lambda: two.state_of(A) is State.OPEN)
        assert "amaru_sharing_up 1.0" in two.mesh.metrics.render()[0].decode()
    assert caplog.text.count("redis_gone") <= 4  # once a time and machine


async def test_what_anybody_else_wrote_there_is_counted_and_passed_over(
    tmp_path: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXCHANGE_S", 0.2)
    key = f"{prefix}:sharing"
    with pytest.importorskip("redis").Redis.from_url(redis_url) as client:
        junk: list[dict[str, Any]] = [
            {"x": "y"},
            {"said": b"\xff\xfe junk"},
            {"said": b"\x82\xa7machine\xa1x\xa5words\x91\x82\xa5offer\xa1o\xa4what\xa5other"},
        ]
        async with provided("a", "b") as providers, machine(tmp_path / "one", providers, redis_url, prefix) as one:
            await until(lambda: one.sharing.up)
            for fields in junk:
                client.xadd(f"{key}:words", fields)
            now = float(client.time()[0]) + 1000.0  # alive for as long as the test takes
            client.zadd(f"{key}:machines", {"them/1": now, b"\xff": now})
            client.set(f"{key}:machine:them/1", b"\xc1")
            client.zadd(f"{key}:origins", {"them/0123456789abcdef": now, b"\xff\xfe": now})
            client.set(f"{key}:learned:them/0123456789abcdef", b"junk")
            await until(lambda: one.sharing.junk >= 4)
            async with machine(tmp_path / "two", providers, redis_url, prefix, policy="thompson") as two:
                await until(lambda: two.sharing.learning.junk >= 2)
                providers["a"].faults.add(Fault(kind="status", status=500))
                await one.ask_until(lambda: one.state_of(A) is State.OPEN)
                await until(lambda: two.state_of(A) is State.OPEN)
                assert "amaru_sharing_junk_total" in two.mesh.metrics.render()[0].decode()


async def test_keys_of_another_kind_stop_the_sharing_and_nothing_else(
    tmp_path: Path, redis_url: str, prefix: str
) -> None:
    with pytest.importorskip("redis").Redis.from_url(redis_url) as client:
        client.set(f"{prefix}:sharing:words", "mine")
        async with provided("a") as providers, machine(tmp_path / "one", providers, redis_url, prefix) as one:
            await until(lambda: "WRONGTYPE" in one.sharing.link.failure)
            assert (await one.ask())[0] == "a"
            client.delete(f"{prefix}:sharing:words")
            await until(lambda: one.sharing.up)
