"""Health over HTTP: what operators read, what they order, and that tenants see none of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest
from gateway_world import KEY, OPERATOR_KEY, PROVIDER_KEY, MakeWorld, World, until

from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.health.report import HealthReport
from amaru.mesh import feed, sensing

SLOW = InfrastructurePattern(
    id="p", kind=PatternKind.DEGRADATION, at=1.0, confidence=0.9, offers=("alpha/sim",), providers=("alpha",),
    impact=Impact.MAJOR, cause="latency", suggested=None, detail="three times as slow",
)  # fmt: skip
OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}


@pytest.fixture(autouse=True)
def _no_look_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine one would come in the middle of a test, and heal what the test has broken."""
    for name in ("LOOK_EVERY_S", "LOOK_SOONEST_S"):
        monkeypatch.setattr(sensing, name, 3600.0)


async def get(world: World, path: str, **fields: Any) -> Any:
    answer = await world.client.get(path, headers=OPERATOR, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def order(world: World, path: str, **body: Any) -> httpx.Response:
    return await world.client.post(path, json=body, headers=OPERATOR)


class Events:
    """A listener to ``/health/events`` over a real socket."""

    def __init__(self, world: World) -> None:
        self.told: list[tuple[str, Any]] = []
        self._world = world
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Events:
        self._task = asyncio.create_task(self._read())
        await until(lambda: bool(self.told))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        async with self._world.client.stream("GET", "/health/events", headers=OPERATOR, timeout=300) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.told.append((kind, json.loads(line.removeprefix("data: "))))


async def test_the_report_names_every_provider_with_its_figures(world: World) -> None:
    await world.chat()
    world.break_("alpha", "status", status=500)
    await world.chat()
    raw = (await world.client.get("/health/providers", headers=OPERATOR)).content
    report = msgspec.json.decode(raw, type=HealthReport)
    alpha, beta = report.providers
    assert (alpha.provider, beta.provider) == ("alpha", "beta")
    assert alpha.recent_errors["server_error"] > 0.5
    assert {offer.offer for offer in alpha.offers} == {"alpha/sim", "alpha/sim-embed"}
    assert alpha.signature.latency_p99_ms is not None
    assert beta.signature.total == 1
    assert report.observed >= 3


async def test_the_status_says_in_brief_what_is_sensed(world: World) -> None:
    calm = (await get(world, "/status"))["sensing"]
    assert calm == {
        "enabled": True, "patterns": {}, "healings": {}, "psi": None, "observed": 0, "dropped": 0, "memory": "ok",
    }  # fmt: skip
    await world.chat()
    pinned = (await order(world, "/health/healings/pin", kind="weight", offers=["alpha/sim"], reason="a test")).json()
    world.mesh.sensing.lost += 2
    world.mesh.sensing.sense.patterns.active["p"] = SLOW
    await world.mesh.sensing.step()
    now = (await get(world, "/status"))["sensing"]
    assert now["patterns"] == {"p": "degradation of alpha: three times as slow"}
    assert now["healings"] == {pinned["id"]: "weight of alpha/sim: a test"}
    assert (now["observed"], now["dropped"]) == (1, 2)
    assert 0.0 < now["psi"] < 1.0


async def test_what_was_never_asked_is_unknown_and_not_ill(world: World) -> None:
    report = await get(world, "/health/providers")
    assert report["status"] == "unknown"
    assert {one["status"] for one in report["providers"]} == {"unknown"}
    assert report["predicted"] == []


@pytest.mark.parametrize("path", ["providers", "patterns", "healings", "history", "events"])
async def test_a_tenant_sees_none_of_it(world: World, path: str) -> None:
    answer = await world.client.get(f"/health/{path}", headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 403
    assert "alpha" not in answer.text
    async with httpx.AsyncClient(base_url=world.base_url) as stranger:
        assert (await stranger.get(f"/health/{path}")).status_code == 401


async def test_a_veto_is_shown_until_it_is_lifted(world: World) -> None:
    answer = await order(world, "/health/healings/veto", kind="drain", provider="alpha", by="ada")
    assert answer.status_code == 200, answer.text
    (veto,) = (await get(world, "/health/healings"))["vetoes"]
    assert (veto["kind"], veto["provider"], veto["by"]) == ("drain", "alpha", "ada")
    assert (await order(world, "/health/healings/lift", veto={"kind": "drain"})).status_code == 404
    assert (await order(world, "/health/healings/lift", veto={"kind": "drain", "provider": "alpha"})).status_code == 200
    assert (await get(world, "/health/healings"))["vetoes"] == []


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/health/healings/veto", {"kind": "drian"}, "known: retry, non_stream, alternate,"),
        ("/health/healings/lift", {"veto": {"pattern": "trouble"}}, "known: degradation, api_change, resonance"),
        ("/health/healings/veto", {"kind": 5}, "got `int`"),
        ("/health/healings/veto", None, "Name a kind, a provider or a pattern"),
        ("/health/healings/pin", None, "missing required field `kind`"),
    ],
)
async def test_an_order_that_is_none_is_refused_with_what_there_is(
    world: World, path: str, body: Any, words: str
) -> None:
    answer = await world.client.post(path, content=b"" if body is None else json.dumps(body), headers=OPERATOR)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_an_intervention_needs_no_body(world: World) -> None:
    await world.chat()
    answer = await world.client.post("/health/guardian/albedo", headers=OPERATOR)
    assert (answer.status_code, answer.json()["by"]) == (200, "operator")


async def test_a_pinned_drain_moves_traffic_and_lifting_it_brings_it_back(world: World) -> None:
    assert (await world.chat()).headers["x-amaru-provider"] == "alpha"
    answer = await order(world, "/health/healings/pin", kind="drain", offers=["alpha/sim"], by="ada", reason="a test")
    assert answer.status_code == 200, answer.text
    assert {(await world.chat()).headers["x-amaru-provider"] for _ in range(5)} == {"beta"}
    healings = await get(world, "/health/healings")
    assert healings["active"] == [answer.json()["id"]]
    assert (await order(world, "/health/healings/lift", healing=answer.json()["id"])).status_code == 200
    assert (await world.chat()).headers["x-amaru-provider"] == "alpha"
    (ended,) = (await get(world, "/health/healings"))["healings"]
    assert ended["reverted"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("veto", {}, 400),
        ("veto", {"provider": "nobody"}, 400),
        ("veto", {"kind": "magic"}, 400),
        ("pin", {"kind": "drain", "offers": ["nobody/sim"]}, 400),
        ("pin", {"kind": "drain", "offers": ["alpha/sim", "beta/sim"]}, 400),
        ("pin", {"kind": "restore", "offers": ["alpha/sim"]}, 400),
        ("pin", {"kind": "drain", "offers": []}, 400),
        ("lift", {}, 400),
        ("lift", {"healing": "none"}, 404),
    ],
)
async def test_what_cannot_be_ordered_is_refused_in_words(
    world: World, path: str, body: dict[str, Any], status: int
) -> None:
    answer = await order(world, f"/health/healings/{path}", **body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert (await get(world, "/health/healings"))["active"] == []


async def test_albedo_raises_exploration_and_nigredo_drains_the_worst(world: World) -> None:
    for _ in range(3):
        await world.chat()
    world.break_("alpha", "status", status=500)
    for _ in range(3):
        await world.chat()
    raised = await order(world, "/health/guardian/albedo", by="ada")
    assert "0.05" in raised.json()["changed"]["exploration"]
    assert world.mesh.plan.router.exploration == 0.05
    drained = await order(world, "/health/guardian/nigredo", by="ada")
    assert "alpha" in drained.json()["changed"]
    report = await get(world, "/health/providers")
    assert report["providers"][0]["steered"] == ["sim: drained"], "sim-embed has no other offer, and stays"
    assert [one["kind"] for one in (await get(world, "/health/healings"))["interventions"]] == ["nigredo", "albedo"]


async def test_events_are_told_as_they_happen(world: World) -> None:
    async with Events(world) as events:
        assert events.told[0][0] == "report"
        await order(world, "/health/healings/pin", kind="drain", offers=["alpha/sim"])
        await until(lambda: any(kind == "healing" for kind, _ in events.told))
        await world.mesh.sensing.step()
        await until(lambda: any(kind == "field" for kind, _ in events.told))
    await until(lambda: len(world.mesh.sensing.feed) == 0)


async def test_a_listener_who_does_not_read_is_dropped_and_slows_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING", 4)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port, limit=1024)
    writer.write(b"GET /health/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % OPERATOR_KEY.encode())
    await until(lambda: len(world.mesh.sensing.feed) == 1)
    for _ in range(2000):  # nobody reads: the socket's buffers fill, then the queue
        world.mesh.sensing.feed.tell("pattern", "x" * 10_000)
        await asyncio.sleep(0)
        if not len(world.mesh.sensing.feed):
            break
    assert world.mesh.sensing.feed.dropped == 1
    assert (await world.chat()).status_code == 200
    writer.close()
    assert reader is not None


async def test_a_draining_gateway_does_not_wait_for_listeners(world: World) -> None:
    async with Events(world) as events:
        assert await world.gateway.drain(5.0) == 0
        await until(lambda: events.told[-1][0] == "end")


async def test_health_that_is_switched_off_costs_nothing_and_says_so(make_world: MakeWorld) -> None:
    async with make_world(extra={"health": {"enabled": False}}) as world:
        await world.chat()
        assert world.mesh.sensing.observed == 0
        assert (await get(world, "/health/providers"))["observed"] == 0
        assert (await order(world, "/health/healings/veto", kind="drain")).status_code == 409


async def test_no_text_and_no_key_is_in_anything_that_is_told_or_kept(make_world: MakeWorld) -> None:
    async with make_world() as world:
        secret = "swordfish-4711"
        answers = [await world.chat(f"the password is {secret}") for _ in range(5)]
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
        await world.mesh.sensing.step()
        pages = [
            (await world.client.get(f"/health/{page}", headers=OPERATOR)).text
            for page in ("providers", "patterns", "healings", "history")
        ]
        folder = world.mesh.plan.config.health_path
    kept = [path.read_bytes() for path in folder.iterdir()]
    assert kept
    for text in (secret, PROVIDER_KEY, KEY, OPERATOR_KEY, *texts):
        assert all(text not in page for page in pages)
        assert all(text.encode() not in content for content in kept)
