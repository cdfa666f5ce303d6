"""A gateway's figures as the signals of a field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from service_world import EAGER, served

from amaru.stability.client import FieldError, PsiClient
from amaru.stability.service_feed import Feed, signals_of


def offer(success: float, answer_ms: float | None) -> dict[str, Any]:
    return {"id": "x", "now": {"offer": "x", "success": success, "answer_ms": answer_ms, "state": "closed"}}


def providers(**offers: list[dict[str, Any]]) -> bytes:
    return json.dumps({"providers": [{"id": id, "offers": given} for id, given in offers.items()]}).encode()


class Gateway:
    """What ``GET /providers`` answers."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.urls: list[str] = []

    def __call__(self, url: str, body: bytes | None) -> bytes:
        assert body is None
        self.urls.append(url)
        return self.answer


def test_signals_are_each_providers_latency_and_share_of_errors() -> None:
    found = signals_of(providers(birch=[offer(1.0, 400.0), offer(0.5, None)], anvil=[offer(1.0, None)], idle=[]))
    assert found == {
        "anvil.latency_ms": None,
        "anvil.error_share": 0.0,
        "birch.latency_ms": 400.0,
        "birch.error_share": 0.25,
    }


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"providers": [{"id": 1}]}'])
def test_what_is_no_gateway_is_named(answer: bytes) -> None:
    with pytest.raises(FieldError, match="something else than amaru's"):
        signals_of(answer)


def test_each_time_the_field_takes_a_step_of_named_latencies() -> None:
    with served() as service:
        gateway = Gateway(providers(anvil=[offer(1.0, 300.0)]))
        feed = Feed("http://gateway", PsiClient(service.url), gateway, every_s=5.0)
        fed = [feed.once(1000.0 + 5.0 * n) for n in range(3)]
        assert [one.answer["step"] for one in fed] == [1, 2, 3]
        assert fed[0].signals == {"anvil.latency_ms": 300.0, "anvil.error_share": 0.0}
        assert set(gateway.urls) == {"http://gateway/providers"}
        params = service.get("/params")
        assert params["names"] == ["anvil.latency_ms", "anvil.error_share"]
        assert (params["field"]["kind"], params["field"]["step_s"]) == ("latencies", 5.0)
        assert service.get("/state")["reading"]["at"] == 1010.0
        once = Feed("http://gateway", PsiClient(service.url), gateway)  # a second feed goes on with the same field
        assert once.once(1020.0).answer["step"] == 4


def test_other_providers_are_another_field() -> None:
    with served() as service:
        gateway = Gateway(providers(anvil=[offer(1.0, 300.0)]))
        feed = Feed("http://gateway", PsiClient(service.url), gateway)
        feed.once(1.0)
        gateway.answer = providers(anvil=[offer(1.0, 300.0)], birch=[offer(1.0, 200.0)])
        assert feed.once(2.0).answer["step"] == 1
        assert len(service.get("/params")["names"]) == 4


def test_what_the_guardian_asks_for_is_noted_as_told_only() -> None:
    with served(guardian=EAGER) as service:
        feed = Feed("http://gateway", PsiClient(service.url), Gateway(providers(anvil=[offer(1.0, 300.0)])))
        feed.once(1.0)
        service.post("/guardian/nigredo")
        assert feed.once(2.0).answer["_guardian"]["intervention"] == "nigredo"
        changed = service.get("/guardian/status")["last"]["changed"]
        assert changed == {"amaru psi feed": "told; it changes nothing itself"}


def test_it_says_which_of_the_two_failed_and_recovers() -> None:
    with served() as service:
        gateway = Gateway(b"<html>")
        feed = Feed("http://gateway", PsiClient(service.url), gateway)
        with pytest.raises(FieldError, match="the gateway at http://gateway: GET /providers"):
            feed.once(1.0)
        gateway.answer = providers()
        with pytest.raises(FieldError, match="no provider with offers"):
            feed.once(1.0)
        gateway.answer = providers(anvil=[offer(1.0, 300.0)])
        feed.once(2.0)
        service.service.field = None
        with pytest.raises(FieldError, match=r"the psi-field at .*409.*no field yet"):
            feed.once(3.0)
        assert feed.once(4.0).answer["step"] == 1
