"""The failure taxonomy, row by row, as a caller sees it over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_world import PROVIDER_KEY, MakeWorld, World, text_of

from amaru.simulation import Latency, ProviderProfile

# What a fault at the preferred provider is recorded as; with a healthy second provider the caller sees none of them.
HIDDEN: list[tuple[dict[str, Any], str]] = [
    ({"kind": "refuse"}, "connect"),
    ({"kind": "reset"}, "reset"),
    ({"kind": "reset", "at": "connect"}, "reset"),
    ({"kind": "status", "status": 500}, "server_error"),
    ({"kind": "status", "status": 502}, "server_error"),
    ({"kind": "status", "status": 503}, "overloaded"),
    ({"kind": "status", "status": 529}, "overloaded"),
    ({"kind": "status", "status": 429}, "rate_limited"),
    ({"kind": "status", "status": 429, "retry_after": "seconds", "retry_after_s": 30}, "rate_limited"),
    ({"kind": "status", "status": 429, "code": "insufficient_quota"}, "quota_exhausted"),
    ({"kind": "status", "status": 402}, "quota_exhausted"),
    ({"kind": "status", "status": 401}, "bad_credentials"),
    ({"kind": "status", "status": 404, "code": "model_not_found"}, "unknown_model"),
    ({"kind": "error_in_200", "status": 500}, "server_error"),
    ({"kind": "garbage", "at": "first_byte", "garbage": "html"}, "malformed"),
    ({"kind": "garbage", "at": "first_byte", "garbage": "empty", "only": "whole"}, "malformed"),
    ({"kind": "garbage", "at": "first_byte", "garbage": "null_choices"}, "malformed"),
    ({"kind": "garbage", "at": "first_byte", "garbage": "json"}, "malformed"),
    ({"kind": "cut", "at": "first_byte", "only": "stream"}, "cut"),
    ({"kind": "cut", "at": "first_byte", "only": "whole"}, "malformed"),
]


def ids(case: Any) -> str:
    return "-".join(str(value) for value in case.values()) if isinstance(case, dict) else ""


def cases() -> list[Any]:
    """Each fault for both ways of answering, but for those that exist in one only."""
    ways = ("whole", "stream")
    return [
        pytest.param(fault, recorded, way == "stream", id=f"{ids(fault)}-{way}")
        for fault, recorded in HIDDEN
        for way in ways
        if fault.get("only", way) == way
    ]


@pytest.mark.parametrize(("fault", "recorded", "stream"), cases())
async def test_failure_is_hidden_by_the_next_provider(
    world: World, fault: dict[str, Any], recorded: str, stream: bool
) -> None:
    world.break_("alpha", **fault)
    if stream:
        response, lines = await world.stream()
        assert lines[-1] == "data: [DONE]"
        assert text_of(lines)
    else:
        response = await world.chat()
        assert response.json()["choices"][0]["message"]["content"]
    assert response.status_code == 200
    assert response.headers["x-amaru-provider"] == "beta"
    attempts = (await world.decision(response))["attempts"]
    assert attempts[-1]["failure"] is None
    failed = {attempt["failure"] for attempt in attempts[:-1]}
    assert failed, "the first provider was tried"
    assert all(recorded in failure for failure in failed), failed
    assert all(attempt["offer"] == "alpha/sim" for attempt in attempts[:-1])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_provider_that_never_answers_is_not_asked_twice(make_world: MakeWorld, stream: bool) -> None:
    async with make_world(routing={"first_token_ms": 150, "answer_ms": 150}) as world:
        world.break_("alpha", "hang")
        response = (await world.stream())[0] if stream else await world.chat()
        assert response.headers["x-amaru-provider"] == "beta"
        attempts = (await world.decision(response))["attempts"]
        assert [attempt["failure"] for attempt in attempts] == ["no_answer", None]
        assert world.providers["alpha"].requests == 1


async def test_first_token_limit_is_not_reset_by_keep_alives(make_world: MakeWorld) -> None:
    async with make_world(routing={"first_token_ms": 300}) as world:
        world.break_("alpha", "keepalive_only", at="first_byte")
        response, lines = await world.stream()
        assert response.headers["x-amaru-provider"] == "beta"
        assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut", "at": "mid", "how": "rst"},
        {"kind": "cut", "at": "mid", "how": "close"},
        {"kind": "cut", "at": "mid", "how": "end"},
        {"kind": "stall", "at": "mid"},
        {"kind": "garbage", "at": "mid", "garbage": "json"},
        {"kind": "truncated_utf8", "at": "mid"},
        {"kind": "error_in_stream", "at": "mid", "status": 500},
        {"kind": "keepalive_only", "at": "mid"},
    ],
    ids=ids,
)
async def test_stream_that_breaks_and_that_nobody_can_go_on_with_ends_in_an_error_event(
    make_world: MakeWorld, fault: dict[str, Any]
) -> None:
    # Slow enough that the first content has left before the fault strikes: else the failure is hidden, unseen.
    slow = ProviderProfile(
        name="alpha", keys=(PROVIDER_KEY,), latency=Latency(ttft_ms=1, prefill_ms_per_ktok=0, itl_ms=20)
    )
    async with make_world(("alpha",), routing={"idle_ms": 300}, profiles={"alpha": slow}) as world:
        world.break_("alpha", **fault)
        response, lines = await world.stream()
        assert response.status_code == 200
        assert "data: [DONE]" not in lines
        last = json.loads(lines[-1].removeprefix("data: "))
        assert last["error"]["message"]
        decision = await world.decision(response)
        assert decision["outcome"]["ok"] is False
        assert decision["attempts"][0]["failure"]
        world.providers["alpha"].faults.clear()
        healthy = await world.chat()
        assert healthy.status_code == 200


async def test_whole_stream_without_done_is_finished_at_once(world: World) -> None:
    world.break_("alpha", "no_done")
    response, lines = await world.stream()
    assert lines[-1] == "data: [DONE]"
    assert (await world.decision(response))["outcome"]["ok"] is True


@pytest.mark.parametrize(
    ("code", "status"), [("content_policy_violation", 400), (None, 400)], ids=["content", "bad request"]
)
async def test_what_is_the_callers_fault_is_told_in_the_providers_words(
    world: World, code: str | None, status: int
) -> None:
    world.break_("alpha", "status", status=status, code=code)
    response = await world.chat()
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert world.providers["beta"].requests == 0
    assert response.headers["x-amaru-attempts"] == "1"


async def test_too_long_a_context_goes_to_a_larger_window_only(make_world: MakeWorld) -> None:
    windows = {name: {"context_window_tokens": tokens} for name, tokens in
               {"alpha": 8000, "beta": 8000, "gamma": 32000}.items()}  # fmt: skip
    async with make_world(("alpha", "beta", "gamma"), offers=windows) as world:
        world.break_("alpha", "status", code="context_length_exceeded")
        response = await world.chat()
        assert response.status_code == 200
        assert response.headers["x-amaru-provider"] == "gamma"
        assert world.providers["beta"].requests == 0


async def test_when_all_fail_the_caller_gets_the_taxonomys_status(world: World) -> None:
    for name in world.providers:
        world.break_(name, "status", status=500)
    response = await world.chat()
    assert response.status_code == 502
    error = response.json()["error"]
    assert "alpha/sim" in error["message"]
    assert error["code"] == "server_error"
    assert PROVIDER_KEY not in response.text


async def test_when_all_are_throttled_the_caller_gets_the_soonest_return(world: World) -> None:
    for name, seconds in (("alpha", 300), ("beta", 200)):
        world.break_(name, "status", status=429, retry_after="seconds", retry_after_s=seconds)
    response = await world.chat()
    assert response.status_code == 429
    assert 190 <= int(response.headers["retry-after"]) <= 200
    assert world.providers["alpha"].requests == 1


async def test_throttled_everywhere_waits_inside_the_deadline(make_world: MakeWorld) -> None:
    async with make_world(("alpha",)) as world:
        world.break_("alpha", "status", status=429, retry_after="ms", retry_after_s=0.2, times=1)
        response = await world.chat(headers={"x-amaru-deadline-ms": "30000"})
        assert response.status_code == 200
        assert response.headers["x-amaru-attempts"] == "2"


async def test_deadline_bounds_everything(make_world: MakeWorld) -> None:
    async with make_world(routing={"answer_ms": 60_000}) as world:
        for name in world.providers:
            world.break_(name, "hang")
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await world.chat(headers={"x-amaru-deadline-ms": "250"})
        assert response.status_code == 504
        assert loop.time() - started < 30.0
        # The caller's impatience is not the provider's failure.
        health = world.mesh.offer_health()
        assert all(offer.success == 1.0 for offer in health)


async def test_breaker_opens_and_the_next_requests_do_not_touch_the_provider(world: World) -> None:
    world.break_("alpha", "status", status=500)
    for _ in range(6):
        assert (await world.chat()).status_code == 200
    touched = world.providers["alpha"].requests
    for _ in range(10):
        response = await world.chat()
        assert response.headers["x-amaru-provider"] == "beta"
    assert world.providers["alpha"].requests == touched
    decision = await world.decision(response)
    assert decision["refused"][0]["constraint"] == "cooling_down"


async def test_broken_credentials_take_the_offer_out_until_the_configuration_changes(world: World) -> None:
    world.break_("alpha", "status", status=401, times=1)
    assert (await world.chat()).headers["x-amaru-provider"] == "beta"
    assert (await world.chat()).headers["x-amaru-provider"] == "beta"
    assert world.providers["alpha"].requests == 1
    world.reload()
    assert (await world.chat()).headers["x-amaru-provider"] == "alpha"


async def test_where_every_provider_fails_often_the_best_of_them_still_serve(make_world: MakeWorld) -> None:
    """Breakers would keep all of them away; what they still serve must not be lost."""
    routing = {"breaker": {"cool_down_s": 60, "max_cool_down_s": 60}}
    async with make_world(("alpha", "beta", "gamma"), routing=routing) as world:
        for name in world.providers:
            world.break_(name, "status", status=500, probability=0.5)
        answers = await asyncio.gather(*(world.chat() for _ in range(10)))
        for _ in range(30):
            answers += await asyncio.gather(*(world.chat() for _ in range(5)))
        late = answers[60:]
        assert any(entry.state == "open" for entry in world.mesh.offer_health())
        assert sum(answer.status_code == 200 for answer in late) >= 0.7 * len(late)
