"""A gateway's figures as the signals of a field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from service_world import EAGER, served

from amaru.stability.client import FieldError, PsiClient
from amaru.stability.service_feed import Feed


def provider(error_rate: float = 0.0, latency_ms: float | None = 300.0, seen_at: float | None = 999.0) -> Any:
    return {"error_rate": error_rate, "coherence": 0.5, "latency_p50_ms": latency_ms, "last_seen_at": seen_at}


def report(at: float = 1000.0, **providers: Any) -> bytes:
    found = [{"provider": name, "signature": signature} for name, signature in providers.items()]
    return json.dumps({"at": at, "status": "healthy", "providers": found}).encode()


class Gateway:
    """What ``GET /health/providers`` answers."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.urls: list[str] = []

    def __call__(self, url: str, body: bytes | None) -> bytes:
        assert body is None
        self.urls.append(url)
        return self.answer


def test_signals_are_each_providers_latency_share_of_errors_and_utility() -> None:
    with served() as service:
        sent = report(birch=provider(0.25, 1000.0), anvil=provider(1.0, None), idle=provider(seen_at=None))
        fed = Feed("http://gateway", PsiClient(service.url), Gateway(sent)).once(1.0)
        assert fed.signals == {
            "anvil.latency_ms": None,
            "anvil.error_rate": 1.0,
            "anvil.utility": 0.0,
            "birch.latency_ms": 1000.0,
            "birch.error_rate": 0.25,
            "birch.utility": 0.75 * 0.5 / 2.0,
            "idle.latency_ms": None,
            "idle.error_rate": None,
            "idle.utility": None,
        }


def test_where_nothing_was_heard_since_the_step_before_there_is_no_news() -> None:
    with served() as service:
        gateway = Gateway(report(at=1000.0, anvil=provider(seen_at=990.0)))
        feed = Feed("http://gateway", PsiClient(service.url), gateway)
        assert None not in feed.once(1.0).signals.values()
        gateway.answer = report(at=1015.0, anvil=provider(seen_at=990.0))
        assert set(feed.once(2.0).signals.values()) == {None}
        gateway.answer = report(at=1030.0, anvil=provider(seen_at=1016.0))
        assert None not in feed.once(3.0).signals.values()


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"at": 1, "providers": [{"provider": 1}]}'])
def test_what_is_no_gateway_is_named(answer: bytes) -> None:
    feed = Feed("http://gateway", PsiClient("http://127.0.0.1:9"), Gateway(answer))
    with pytest.raises(FieldError, match="something else than amaru's"):
        feed.once(1.0)


def test_each_time_the_field_takes_a_step_of_named_latencies() -> None:
    with served() as service:
        gateway = Gateway(report(anvil=provider()))
        feed = Feed("http://gateway", PsiClient(service.url), gateway, every_s=5.0)
        assert [feed.once(1000.0 + 5.0 * n).answer["step"] for n in range(3)] == [1, 2, 3]
        assert set(gateway.urls) == {"http://gateway/health/providers"}
        params = service.get("/params")
        assert params["names"] == ["anvil.latency_ms", "anvil.error_rate", "anvil.utility"]
        assert (params["field"]["kind"], params["field"]["step_s"]) == ("latencies", 5.0)
        assert service.get("/state")["reading"]["at"] == 1010.0
        once = Feed("http://gateway", PsiClient(service.url), gateway)  # a second feed goes on with the same field
        assert once.once(1020.0).answer["step"] == 4


def test_other_providers_are_another_field() -> None:
    with served() as service:
        gateway = Gateway(report(anvil=provider()))
        feed = Feed("http://gateway", PsiClient(service.url), gateway)
        feed.once(1.0)
        gateway.answer = report(anvil=provider(), birch=provider())
        assert feed.once(2.0).answer["step"] == 1
        assert len(service.get("/params")["names"]) == 6


def test_what_the_guardian_asks_for_is_noted_as_told_only() -> None:
    with served(guardian=EAGER) as service:
        feed = Feed("http://gateway", PsiClient(service.url), Gateway(report(anvil=provider())))
        feed.once(1.0)
        service.post("/guardian/nigredo")
        assert feed.once(2.0).answer["_guardian"]["intervention"] == "nigredo"
        changed = service.get("/guardian/status")["last"]["changed"]
        assert changed == {"amaru psi feed": "told; it changes nothing itself"}


def test_it_says_which_of_the_two_failed_and_recovers() -> None:
    with served() as service:
        gateway = Gateway(b"<html>")
        feed = Feed("http://gateway", PsiClient(service.url), gateway)
        with pytest.raises(FieldError, match="the gateway at http://gateway: GET /health/providers"):
            feed.once(1.0)
        gateway.answer = report()
        with pytest.raises(FieldError, match="it has no provider"):
            feed.once(1.0)
        gateway.answer = report(anvil=provider())
        feed.once(2.0)
        service.service.field = None
        with pytest.raises(FieldError, match=r"the psi-field at .*409.*no field yet"):
            feed.once(3.0)
        assert feed.once(4.0).answer["step"] == 1


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with served() as service:
        assert PsiClient(service.url).get("health")["status"] == "ok"


def test_who_does_not_listen_is_not_called_slow() -> None:
    with pytest.raises(FieldError, match=r"^no answer: Connection refused$"):
        PsiClient("http://127.0.0.1:9").get("health")
