"""Signs of life while an answer is held back."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import cast

import pytest
from gateway_world import PROVIDER_KEY, MakeWorld, text_of

from amaru.gateway import openai_api
from amaru.gateway.pulse import COMMENT, Pulse
from amaru.http1 import Request
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


@dataclasses.dataclass
class Caller:
    """A request that keeps what it was sent; ``call_later`` keeps the one timer that runs instead of running it."""

    congested: bool = False
    started: bool = False
    settled: bool = False
    sent: list[bytes] = dataclasses.field(default_factory=list)
    beat: Callable[[], None] | None = None

    @property
    def connection(self) -> Caller:
        return self

    def start(self, status: int, headers: object) -> None:
        assert (status, self.started) == (200, False)
        self.started = True

    def write_nowait(self, data: bytes) -> None:
        assert self.started
        self.sent.append(data)

    def call_later(self, delay_s: float, beat: Callable[[], None]) -> Caller:
        self.beat = beat
        return self

    def cancel(self) -> None:
        self.beat = None

    def wait(self) -> None:
        beat, self.beat = self.beat, None
        if beat is not None:
            beat()


@pytest.fixture
async def caller(monkeypatch: pytest.MonkeyPatch) -> Caller:
    made = Caller()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", made.call_later)
    return made


async def test_a_lively_stream_needs_none(caller: Caller) -> None:
    pulse = Pulse(cast(Request, caller), [])
    for _ in range(5):
        pulse.alive = True
        caller.wait()
    assert caller.sent == []
    caller.wait()
    caller.wait()
    assert caller.sent == [COMMENT] * 2


async def test_a_caller_who_does_not_read_gets_none(caller: Caller) -> None:
    Pulse(cast(Request, caller), [])
    caller.congested = True
    for _ in range(5):
        caller.wait()
    assert not caller.started


@pytest.mark.parametrize("gone", [False, True])
async def test_no_timer_outlives_its_stream(caller: Caller, gone: bool) -> None:
    pulse = Pulse(cast(Request, caller), [])
    caller.wait()
    if gone:
        caller.settled = True
        caller.wait()
    else:
        pulse.stop()
    assert caller.beat is None
    caller.wait()
    assert caller.sent == []
