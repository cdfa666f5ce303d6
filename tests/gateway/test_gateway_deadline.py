"""A request's own deadline ends streams too, and is not held against the provider."""

from __future__ import annotations

import json

from gateway_world import PROVIDER_KEY, MakeWorld

from amaru.simulation import Latency, ProviderProfile


async def test_deadline_in_mid_stream_ends_it_with_an_error_event_and_spares_the_offer(make_world: MakeWorld) -> None:
    slow = ProviderProfile(
        name="alpha", keys=(PROVIDER_KEY,), latency=Latency(ttft_ms=1, prefill_ms_per_ktok=0, itl_ms=40)
    )
    async with make_world(("alpha",), profiles={"alpha": slow}) as world:
        response, lines = await world.stream(max_tokens=400, ignore_eos=True, headers={"x-amaru-deadline-ms": "1500"})
        assert response.status_code == 200
        assert "data: [DONE]" not in lines
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "stream_stalled"
        decision = await world.decision(response)
        assert decision["outcome"]["ok"] is False
        assert decision["outcome"]["output_tokens"] is None  # a broken answer is no completion
        assert decision["attempts"][0]["usage"]["output_tokens"] > 0
        assert world.mesh.offer_health()[0].success == 1.0
