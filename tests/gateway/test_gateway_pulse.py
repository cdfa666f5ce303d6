"""Signs of life while an answer is held back."""

from __future__ import annotations

import functools

import pytest
from gateway_world import PROVIDER_KEY, MakeWorld, text_of

from amaru.gateway import openai_api
from amaru.gateway.pulse import COMMENT, Pulse
from amaru.simulation import Latency, ProviderProfile

HOLD = {"x-amaru-rescue": "hold"}
SLOW = ProviderProfile(name="alpha", keys=(PROVIDER_KEY,), latency=Latency(ttft_ms=1, ttft_sigma=0, itl_ms=30))
BEAT = COMMENT.decode().strip()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_api, "Pulse", functools.partial(Pulse, every_s=0.05))


async def test_a_held_answer_gives_signs_of_life(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": SLOW}) as world:
        response, lines = await world.stream(headers=HOLD)
        assert response.status_code == 200
        first_event = next(place for place, line in enumerate(lines) if line.startswith("data:"))
        assert lines[:first_event] == [BEAT] * first_event
        assert first_event >= 1
        assert text_of(lines)
        assert lines[-1] == "data: [DONE]"


async def test_a_failure_after_a_sign_of_life_is_an_error_event(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": SLOW}) as world:
        world.break_("alpha", "cut", after_events=8)
        response, lines = await world.stream(headers=HOLD)
        assert response.status_code == 200
        assert BEAT in lines
        assert '"error"' in lines[-1]
        assert "data: [DONE]" not in lines


async def test_a_lively_stream_needs_none(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": SLOW}) as world:
        _, lines = await world.stream()
        assert BEAT not in lines
