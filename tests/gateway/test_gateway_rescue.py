"""Streams that break after their first byte go on from another provider, as a caller sees it over real sockets."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from gateway_world import KEY, OPERATOR_KEY, PROVIDER_KEY, MakeWorld, World, digest, text_of, until

from amaru.simulation import Latency, ProviderProfile

PACE = Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=8, itl_sigma=0)
"""Slow enough that the first content has left before a fault in the middle strikes."""
CAN = ["stream", "tools", "vision", "json_schema"]
BREAKS: list[dict[str, Any]] = [
    {"kind": "cut", "how": "rst"},
    {"kind": "cut", "how": "close"},
    {"kind": "cut", "how": "end"},
    {"kind": "cut", "at": "last", "how": "end"},
    {"kind": "stall"},
    {"kind": "garbage", "garbage": "json"},
    {"kind": "garbage", "garbage": "missing_field"},
    {"kind": "truncated_utf8"},
    {"kind": "error_in_stream", "status": 500},
    {"kind": "error_in_stream", "status": 429},
    {"kind": "keepalive_only"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def ids(case: dict[str, Any]) -> str:
    return "-".join(map(str, case.values()))


def profile(name: str, **fields: Any) -> ProviderProfile:
    return ProviderProfile(name=name, keys=(PROVIDER_KEY,), latency=PACE, **fields)


def cast(names: tuple[str, ...] = ("alpha", "beta"), **fields: Any) -> dict[str, Any]:
    """Profiles of one speed that give the same answers; ``fields`` by name for those that differ."""
    return {"names": names, "profiles": {name: profile(name, **fields.get(name, {})) for name in names}}


def prefill(*names: str) -> dict[str, Any]:
    return {"offers": {name: {"capabilities": [*CAN, "prefill"]} for name in names}}


def events_of(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


def receipt_of(lines: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        next(line for line in lines if line.startswith(": amaru")).removeprefix(": amaru")
    )
    return found


async def whole_text(world: World, **fields: Any) -> str:
    """What the answer is where nothing breaks."""
    response = await world.chat("Tell a story.", **fields)
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


def received(world: World, provider: str) -> dict[str, Any]:
    """The last request that a provider got."""
    body: dict[str, Any] = msgspec.json.decode(world.providers[provider].received[-1].body)
    return body


@pytest.mark.parametrize("continues", [True, False], ids=["continued", "repeated"])
@pytest.mark.parametrize("fault", BREAKS, ids=ids)
async def test_broken_text_goes_on_as_if_nothing_had_happened(
    make_world: MakeWorld, fault: dict[str, Any], continues: bool
) -> None:
    setting = prefill("alpha", "beta") if continues else {}
    async with make_world(**cast(), **setting, routing={"idle_ms": 250}) as world:
        expected = await whole_text(world)
        world.break_("alpha", **fault)
        response, lines = await world.stream(stream_options={"include_usage": True})
        assert lines[-1] == "data: [DONE]"
        assert text_of(lines) == expected
        events = events_of(lines)
        assert len({event["id"] for event in events}) == len({event["model"] for event in events}) == 1
        assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1]
        assert sum(1 for event in events if event["choices"] and event["choices"][0]["delta"].get("role")) == 1
        usage = events[-1]["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        page = await world.decision(response)
        attempts = page["attempts"]
        how = receipt_of(lines)["joined"]
        if how != "complete":
            assert how == ("continued" if continues else "repeated")
            assert attempts[-1]["joined"] == how
            assert attempts[-1]["failure"] is None
            assert response.headers["x-amaru-provider"] == "alpha"
            assert receipt_of(lines)["provider"] == "beta"
        assert attempts[0]["failure"]
        assert attempts[0]["bytes_received"] > 0
        assert attempts[0]["usage"]["output_tokens"] >= 1
        assert page["outcome"]["ok"] is True
        assert page["outcome"]["failure"] is None


async def test_a_continuation_is_asked_for_with_what_was_sent_and_what_is_left(make_world: MakeWorld) -> None:
    async with make_world(**cast(), **prefill("alpha", "beta")) as world:
        expected = await whole_text(world)
        world.break_("alpha", "cut", after_events=5)
        _, lines = await world.stream(stream_options={"include_usage": True})
        asked = received(world, "beta")
        assert asked["messages"][-1]["role"] == "assistant"
        sent = asked["messages"][-1]["content"]
        assert expected.startswith(sent)
        assert len(expected) > len(sent) > 0
        assert asked["max_tokens"] == 12 - 5
        assert text_of(lines) == expected
        # The caller's own prompt and the whole answer, as an unbroken stream would have told.
        _, unbroken = await world.stream(stream_options={"include_usage": True})
        told, expected_usage = events_of(lines)[-1]["usage"], events_of(unbroken)[-1]["usage"]
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert told[name] == expected_usage[name]


@pytest.mark.parametrize("at", ["mid", "last"])
async def test_an_estimate_of_what_was_sent_never_ends_an_answer_before_the_callers_limit(
    make_world: MakeWorld, at: str
) -> None:
    batching = {name: {"tokens_per_event": 3, "answer_tokens": 400.0} for name in ("alpha", "beta")}
    async with make_world(**cast(**batching), **prefill("alpha", "beta")) as world:
        expected = await whole_text(world, max_tokens=40)
        world.break_("alpha", "cut", at=at, how="end", **({"after_events": 6} if at == "mid" else {}))
        _, lines = await world.stream(max_tokens=40)
        assert lines[-1] == "data: [DONE]"
        assert text_of(lines).startswith(expected)
        assert len(text_of(lines)) < 1.5 * len(expected)


@pytest.mark.parametrize(
    ("style", "top", "message"),
    [
        ("plain", {}, {}),
        ("prefix", {}, {"prefix": True}),
        ("continue_final_message", {"continue_final_message": True, "add_generation_prompt": False}, {}),
    ],
)
async def test_a_continuation_speaks_the_offers_dialect(
    make_world: MakeWorld, style: str, top: dict[str, Any], message: dict[str, Any]
) -> None:
    beta = {"capabilities": [*CAN, "prefill"], "prefill_style": style}
    async with make_world(**cast(), offers={"beta": beta}) as world:
        world.break_("alpha", "cut")
        _, lines = await world.stream()
        assert lines[-1] == "data: [DONE]"
        asked = received(world, "beta")
        assert {name: asked.get(name) for name in top} == top
        last = asked["messages"][-1]
        assert last == {"role": "assistant", "content": last["content"], **message}


async def test_an_offer_that_rejects_prefill_is_remembered_and_the_caller_never_sees_it(make_world: MakeWorld) -> None:
    async with make_world(**cast(beta={"prefill": "reject"}), **prefill("alpha", "beta")) as world:
        expected = await whole_text(world)
        world.break_("alpha", "cut")
        response, lines = await world.stream()
        assert text_of(lines) == expected
        assert lines[-1] == "data: [DONE]"
        attempts = (await world.decision(response))["attempts"]
        assert [(a["failure"], a["joined"]) for a in attempts] == [
            ("stream_cut", None),
            ("bad_request", "continued"),
            (None, "repeated"),
        ]
        second = await world.stream()
        assert [a["joined"] for a in (await world.decision(second[0]))["attempts"]] == [None, "repeated"]
        assert text_of(second[1]) == expected
        health = {entry.offer: entry for entry in world.mesh.offer_health()}
        assert not health["beta/sim"].continues
        assert health["beta/sim"].state == "closed"


async def test_an_offer_that_answers_anew_instead_of_continuing_is_noticed(make_world: MakeWorld) -> None:
    async with make_world(**cast(beta={"prefill": "ignore"}), **prefill("alpha", "beta")) as world:
        expected = await whole_text(world)
        world.break_("alpha", "cut", after_events=8)
        response, lines = await world.stream()
        assert text_of(lines) == expected
        assert receipt_of(lines)["joined"] == "repeated"
        assert not {e.offer: e for e in world.mesh.offer_health()}["beta/sim"].continues
        assert (await world.decision(response))["outcome"]["ok"] is True


async def test_another_answer_is_never_joined(make_world: MakeWorld) -> None:
    async with make_world(**cast(beta={"answer_seed": 5})) as world:
        world.break_("alpha", "cut", after_events=4)
        response, lines = await world.stream()
        assert "data: [DONE]" not in lines
        assert events_of(lines)[-1]["error"]["message"]
        assert not any(e["choices"][0]["finish_reason"] for e in events_of(lines)[:-1])
        page = await world.decision(response)
        assert [(a["failure"], a["joined"]) for a in page["attempts"]] == [("stream_cut", None), (None, "diverged")]
        assert page["outcome"]["ok"] is False
        assert page["outcome"]["cost_usd"] == 0.0
        assert page["attempts"][1]["cost_usd"] > 0.0
        assert {e.offer: e for e in world.mesh.offer_health()}["beta/sim"].success == 1.0


async def test_those_that_continue_are_asked_before_those_that_must_repeat(make_world: MakeWorld) -> None:
    names = ("alpha", "beta", "gamma")
    async with make_world(**cast(names, beta={"answer_seed": 5}), **prefill("gamma")) as world:
        expected = await whole_text(world)
        world.break_("alpha", "cut")
        _, lines = await world.stream()
        assert text_of(lines) == expected
        assert receipt_of(lines)["provider"] == "gamma"
        assert world.providers["beta"].requests == 0


async def test_a_rescue_that_breaks_is_rescued_again(make_world: MakeWorld) -> None:
    names = ("alpha", "beta", "gamma")
    async with make_world(**cast(names), **prefill(*names)) as world:
        expected = await whole_text(world)
        world.break_("alpha", "cut", after_events=3)
        world.break_("beta", "cut", after_events=3)
        response, lines = await world.stream()
        assert text_of(lines) == expected
        assert lines[-1] == "data: [DONE]"
        assert [a["provider"] for a in (await world.decision(response))["attempts"]] == list(names)


HELD: list[dict[str, Any]] = [
    {"tools": [TOOL], "tool_choice": "required"},
    {"response_format": SCHEMA},
    {"response_format": {"type": "json_object"}},
    {"n": 2},
    {"logprobs": True},
    {"headers": {"x-amaru-rescue": "hold"}},
]


def pieces_of(lines: list[str]) -> dict[int, str]:
    """The text, or the arguments of the call, of each choice."""
    found: dict[int, str] = {}
    for event in events_of(lines):
        for choice in event["choices"]:
            delta = choice["delta"]
            calls = delta.get("tool_calls") or []
            text = (delta.get("content") or "") + "".join(call["function"]["arguments"] for call in calls)
            found[choice["index"]] = found.get(choice["index"], "") + text
    return found


@pytest.mark.parametrize("fields", HELD, ids=lambda fields: next(iter(fields)))
async def test_what_is_held_is_begun_anew_unseen(make_world: MakeWorld, fields: dict[str, Any]) -> None:
    async with make_world(**cast(beta={"answer_seed": 5}), routing={"idle_ms": 250}) as world:
        world.break_("alpha", "stall", at="mid", after_events=2)
        response, lines = await world.stream(max_tokens=60, **fields)
        assert lines[-1] == "data: [DONE]"
        assert receipt_of(lines)["joined"] == "unseen"
        assert response.headers["x-amaru-provider"] == "beta"
        assert len({event["id"] for event in events_of(lines)}) == 1
        world.providers["alpha"].faults.clear()
        world.break_("alpha", "refuse")
        _, unbroken = await world.stream(max_tokens=60, **fields)
        assert pieces_of(lines) == pieces_of(unbroken)


async def test_choices_that_were_whole_stay_and_the_others_come_from_elsewhere(make_world: MakeWorld) -> None:
    async with make_world(**cast(alpha={"answer_tokens": 12.0, "answer_sigma": 0.9}, beta={"answer_seed": 5})) as world:
        _, unbroken = await world.stream(n=3, max_tokens=40)
        whole = pieces_of(unbroken)
        assert len({len(text) for text in whole.values()}) > 1, "the choices end at different times"
        world.break_("alpha", "cut", at="last", how="end")
        response, lines = await world.stream(n=3, max_tokens=40)
        assert lines[-1] == "data: [DONE]"
        assert set(pieces_of(lines)) == {0, 1, 2}
        assert len({event["model"] for event in events_of(lines)}) == 1
        reasons = [c["index"] for e in events_of(lines) for c in e["choices"] if c["finish_reason"]]
        assert sorted(reasons) == [0, 1, 2]
        assert (await world.decision(response))["outcome"]["ok"] is True


async def test_a_tenant_may_prefer_to_have_its_answers_held(make_world: MakeWorld) -> None:
    tenants = {"team": {"keys": [{"sha256": digest(KEY)}], "weights": {"price": 1}, "rescue": "hold"}}
    async with make_world(**cast(beta={"answer_seed": 5}), tenants=tenants) as world:
        world.break_("alpha", "cut")
        response, lines = await world.stream()
        assert lines[-1] == "data: [DONE]"
        assert response.headers["x-amaru-provider"] == "beta"
        # The request's own wish goes first.
        _, lines = await world.stream(headers={"x-amaru-rescue": "join"})
        assert "data: [DONE]" not in lines


async def test_held_answers_that_nobody_can_give_end_in_a_status_not_in_a_stream(make_world: MakeWorld) -> None:
    async with make_world(**cast(), routing={"idle_ms": 250}) as world:
        for name in ("alpha", "beta"):
            world.break_(name, "cut")
        response, _ = await world.stream(headers={"x-amaru-rescue": "hold"})
        assert response.status_code == 502
        assert response.headers["content-type"].startswith("application/json")


async def test_a_wrong_wish_is_refused(world: World) -> None:
    response = await world.chat(headers={"x-amaru-rescue": "please"})
    assert response.status_code == 400
    assert "join or hold" in response.json()["error"]["message"]


async def test_an_answer_that_lacks_only_its_end_is_ended(make_world: MakeWorld) -> None:
    async with make_world(**cast(beta={"answer_seed": 5})) as world:
        world.break_("alpha", "cut", at="last", how="end")
        response, lines = await world.stream(max_tokens=6, stream_options={"include_usage": True})
        assert lines[-1] == "data: [DONE]"
        assert receipt_of(lines)["joined"] == "complete"
        finish = [e["choices"][0]["finish_reason"] for e in events_of(lines) if e["choices"]]
        assert finish[-1] == "length"
        assert events_of(lines)[-1]["usage"]["completion_tokens"] == 6
        assert world.providers["beta"].requests == 0
        assert (await world.decision(response))["outcome"]["ok"] is True


async def test_rescues_are_counted(make_world: MakeWorld) -> None:
    async with make_world(**cast(), **prefill("alpha", "beta")) as world:
        world.break_("alpha", "cut")
        await world.stream()
        answer = await world.client.get("/metrics", headers={"authorization": f"Bearer {OPERATOR_KEY}"})
        assert 'amaru_rescues_total{how="continued"} 1.0' in answer.text
        assert 'amaru_attempts_total{offer="alpha/sim",outcome="stream_cut"} 1.0' in answer.text
        assert 'amaru_attempt_received_bytes_total{offer="alpha/sim",outcome="stream_cut"}' in answer.text
        assert world.mesh.metrics.summary()["rescues"] == {"continued": 1}


async def test_a_caller_who_leaves_during_a_rescue_leaves_nothing_behind(make_world: MakeWorld) -> None:
    async with make_world(**cast(), routing={"idle_ms": 250}) as world:
        world.break_("alpha", "cut")
        world.break_("beta", "hang")
        body = {"model": "sim", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 30}
        async with world.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.aiter_bytes()
            assert await anext(pieces)
            await until(lambda: any(e.offer == "beta/sim" and e.in_flight for e in world.mesh.offer_health()))
        await until(lambda: world.mesh.in_flight == 0)
        assert all(entry.in_flight == 0 for entry in world.mesh.offer_health())
        world.mesh.record_ended()
        assert world.mesh.metrics.summary()["rescues"] == {"cancelled": 1}
