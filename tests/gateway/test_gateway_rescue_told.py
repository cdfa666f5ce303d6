"""What callers and operators are told of streams that broke: errors, costs and counts."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_world import MakeWorld
from test_gateway_rescue import cast, events_of, prefill, receipt_of


async def test_an_error_event_names_what_each_attempt_came_to(make_world: MakeWorld) -> None:
    async with make_world(**cast(beta={"answer_seed": 5})) as world:
        world.break_("alpha", "cut", after_events=4)
        _, lines = await world.stream()
        message = events_of(lines)[-1]["error"]["message"]
        assert message.startswith("The answer broke off, and no provider could go on with it")
        assert "(alpha/sim: stream_cut; beta/sim: diverged)" in message


async def test_where_nothing_was_sent_the_error_does_not_speak_of_a_beginning(make_world: MakeWorld) -> None:
    async with make_world(**cast()) as world:
        for name in ("alpha", "beta"):
            world.break_(name, "cut")
        response, lines = await world.stream(headers={"x-amaru-rescue": "hold"})
        assert response.status_code == 502
        assert "No provider could answer (alpha/sim: stream_cut; beta/sim: stream_cut)" in lines[0]


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_policy_violation", "invalid_request_error"])
async def test_that_another_offer_will_not_have_the_request_is_not_what_the_caller_is_told(
    make_world: MakeWorld, code: str
) -> None:
    async with make_world(**cast()) as world:
        world.break_("alpha", "cut", after_events=4)
        world.break_("beta", "status", status=400, code=code)
        response, lines = await world.stream()
        assert events_of(lines)[-1]["error"]["code"] == "stream_cut"
        outcome = (await world.decision(response))["outcome"]
        assert (outcome["status"], outcome["failure"]) == (502, "stream_cut")


@pytest.mark.parametrize("fields", [{}, {"at": "last", "how": "end"}], ids=["continued", "complete"])
async def test_a_broken_attempt_is_paid_apart_and_once(make_world: MakeWorld, fields: dict[str, Any]) -> None:
    async with make_world(**cast(), **prefill("beta")) as world:
        world.break_("alpha", "cut", **fields)
        response, lines = await world.stream(max_tokens=6)
        page = await world.decision(response)
        assert page["outcome"]["ok"] is True
        told = world.mesh.metrics.summary()
        attempts = [attempt["cost_usd"] for attempt in page["attempts"]]
        assert told["cost_usd"] + told["failed_attempts_cost_usd"] == pytest.approx(sum(attempts))
        assert told["failed_attempts_cost_usd"] == pytest.approx(attempts[0])
        assert page["outcome"]["cost_usd"] == pytest.approx(receipt_of(lines)["cost_usd"])


async def test_a_continuation_that_broke_before_its_finish_reason_was_not_what_ended_the_answer(
    make_world: MakeWorld,
) -> None:
    async with make_world(**cast(), **prefill("beta")) as world:
        world.break_("alpha", "cut", after_events=3)
        world.break_("beta", "cut", at="last", how="end")
        _, lines = await world.stream(max_tokens=8)
        assert lines[-1] == "data: [DONE]"
        assert receipt_of(lines)["joined"] == "complete"
        world.mesh.record_ended()
        assert world.mesh.metrics.summary()["rescues"] == {"complete": 1}
