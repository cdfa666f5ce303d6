"""The scheduler whole: lines side by side, new settings while it runs, and what it answers over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anchoring_world import START, FakeTarget
from log_samples import KEY, make_leaf, open_log
from prometheus_client.parser import text_string_to_metric_families

from amaru.http1 import HttpServer
from amaru.ledger.anchoring_config import LineSettings, SchedulerSettings, SourceSettings
from amaru.ledger.anchoring_pace import Cadence
from amaru.ledger.anchoring_state import LineName, StateFolder
from amaru.ledger.anchoring_targets import Ask, Target
from amaru.ledger.checkpoint import Checkpoint
from amaru.ledger.scheduler import AT_ONCE, Scheduler
from amaru.ledger.scheduler_api import SchedulerApi
from amaru.ledger.troubles import Trouble

FAMILIES = {
    "anchors_attempted": "counter", "anchors_succeeded": "counter", "anchors_failed": "counter",
    "anchor_duration_seconds": "histogram", "anchor_backoff_state": "gauge",
}  # fmt: skip


class World:
    """A folder of logs, a state, and a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        self.states = StateFolder(folder / "state")
        self.scheduler = Scheduler(self.states, clock=lambda: self.now)

    def grow(self, name: str) -> None:
        with open_log(self.folder / name) as log:
            log.append([make_leaf(log.size)])

    def settings(self, lines: dict[str, Target], interval_s: int = 90) -> SchedulerSettings:
        """Of lines called ``namespace/cadence/target``."""
        names = [LineName(*line.split("/")) for line in lines]
        sources = {name.namespace: SourceSettings(str(self.folder / name.namespace), (KEY.verifier,)) for name in names}
        return SchedulerSettings(
            path=self.folder / "scheduler.yaml",
            state=self.folder / "state",
            host="127.0.0.1",
            port=0,
            sources=sources,
            lines=tuple(
                LineSettings(name, sources[name.namespace], Cadence.of(name.cadence, interval_s), target)
                for name, target in zip(names, lines.values(), strict=True)
            ),
            watched=(),
            digest=b"",
        )

    def anchors(self) -> dict[str, Any]:
        """Of each line, what health says of it."""
        health = self.scheduler.health()["namespaces"]
        return {
            f"{name}/{line['cadence']}/{line['target']}": line
            for name, one in health.items()
            for line in one["anchors"]
        }

    async def until(self, told: Callable[[], bool]) -> None:
        async with asyncio.timeout(60.0):
            while not told():  # noqa: ASYNC110 -- threads tell no event
                await asyncio.sleep(0.005)

    async def all_are(self, *statuses: str) -> None:
        await self.until(lambda: {line["status"] for line in self.anchors().values()} <= set(statuses))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    assert await made.scheduler.aclose(10)
    made.states.close()


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[Callable[..., Any]]:
    server: HttpServer = SchedulerApi(world.scheduler).server()
    await server.start("127.0.0.1", 0)

    def get(path: str, method: str = "GET", accept: str = "*/*") -> tuple[int, str, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}{path}", method=method, headers={"accept": accept}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["content-type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["content-type"], error.read().decode()

    async def ask(path: str, method: str = "GET", accept: str = "*/*") -> tuple[int, str, str]:
        return await asyncio.to_thread(get, path, method, accept)

    try:
        yield ask
    finally:
        await server.drain(1.0)


async def test_metrics_are_exactly_the_five_families_by_namespace_cadence_and_target(world: World) -> None:
    world.grow("gateway")
    world.grow("other")
    lines: dict[str, Target] = {
        "gateway/fast/authority": FakeTarget(),
        "gateway/strong/authority": FakeTarget(troubles=[Trouble.NETWORK]),
        "other/fast/vault": FakeTarget(),
    }
    world.scheduler.apply(world.settings(lines))
    await world.all_are("anchored", "retrying")
    async with serving(world) as get:
        status, kind, body = await get("/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        found = list(text_string_to_metric_families(body))
        assert {family.name: family.type for family in found} == FAMILIES
        for name in ("anchors_attempted_total", "anchors_succeeded_total", "anchors_failed_total"):
            assert f"\n{name}{{" in body
        values = {
            (sample.name, *(sample.labels[label] for label in ("namespace", "cadence", "target"))): sample.value
            for family in found
            for sample in family.samples
            if "le" not in sample.labels
        }
        expected = {
            ("gateway", "fast", "authority"): (1, 1, 0, 0),
            ("gateway", "strong", "authority"): (1, 0, 1, 1),
            ("other", "fast", "vault"): (1, 1, 0, 0),
        }
        for line, (attempted, succeeded, failed, backoff) in expected.items():
            assert values[("anchors_attempted_total", *line)] == attempted
            assert values[("anchors_succeeded_total", *line)] == succeeded
            assert values[("anchors_failed_total", *line)] == failed
            assert values[("anchor_backoff_state", *line)] == backoff
            assert values[("anchor_duration_seconds_count", *line)] == 1
        _, kind, body = await get("/metrics", accept="application/openmetrics-text")
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")


async def test_health_says_the_last_anchor_and_the_status_of_each_namespace(world: World) -> None:
    world.grow("gateway")
    world.grow("other")
    fine, sick = FakeTarget(), FakeTarget(troubles=[Trouble.AUTHENTICATION])
    world.scheduler.apply(world.settings({"gateway/fast/authority": fine, "other/fast/vault": sick}))
    await world.all_are("anchored", "retrying")
    async with serving(world) as get:
        status, kind, body = await get("/health")
        health = json.loads(body)
        assert (status, kind, health["status"]) == (200, "application/json", "retrying")
        gateway, other = health["namespaces"]["gateway"], health["namespaces"]["other"]
        assert (gateway["status"], gateway["size"], gateway["problem"]) == ("ok", 1, "")
        assert gateway["last_anchor"]["at"] == gateway["last_anchor"]["slot"] == "2026-09-21T14:13:30.000000Z"
        assert (gateway["last_anchor"]["target"], gateway["last_anchor"]["size"]) == ("authority", 1)
        assert gateway["anchors"][0]["next_at"] == "2026-09-21T14:15:00.000000Z"
        assert (other["status"], other["last_anchor"], other["problem"]) == ("retrying", None, "no")
        assert (other["anchors"][0]["tries"], other["anchors"][0]["next_at"]) == (1, "2026-09-21T14:13:33.000000Z")
        assert (await get("/health", "HEAD"))[0] == 200
        assert (await get("/health", "POST"))[0] == 405
        assert (await get("/"))[0] == 404


async def test_a_log_that_does_not_hold_is_alarmed(world: World) -> None:
    world.grow("gateway")
    world.grow("other")
    (world.folder / "gateway" / "checkpoint").write_bytes(
        Checkpoint("example.com/other", 1, bytes(32)).sign([KEY])[:-3]
    )
    world.scheduler.apply(world.settings({"gateway/fast/a": FakeTarget(), "other/fast/a": FakeTarget()}))
    await world.all_are("anchored", "retrying")
    async with serving(world) as get:
        status, _, body = await get("/health")
        assert (status, json.loads(body)["status"]) == (503, "alarm")
        assert json.loads(body)["namespaces"]["gateway"]["status"] == "alarm"
        assert json.loads(body)["namespaces"]["other"]["status"] == "ok"


class Held(FakeTarget):
    """One whose answer is awaited until it is released."""

    def __init__(self) -> None:
        super().__init__(during=self._hold)
        self.entered, self.release = threading.Event(), threading.Event()
        self.at_once = self.most_at_once = 0

    def _hold(self, _: Ask) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        assert self.release.wait(60)
        self.at_once -= 1


async def test_a_slow_target_holds_up_nobody_else(world: World) -> None:
    world.grow("gateway")
    slow = Held()
    world.scheduler.apply(world.settings({"gateway/fast/slow": slow, "gateway/fast/quick": FakeTarget()}))
    await world.until(lambda: world.anchors()["gateway/fast/quick"]["status"] == "anchored")
    await world.until(slow.entered.is_set)
    assert world.anchors()["gateway/fast/slow"]["status"] == "new"
    slow.release.set()
    await world.all_are("anchored")


async def test_a_namespace_that_is_stuck_holds_up_no_other_one(world: World) -> None:
    world.grow("stuck")
    world.grow("gateway")
    slow = Held()
    lines: dict[str, Target] = {f"stuck/fast/{number}": slow for number in range(3 * AT_ONCE)}
    world.scheduler.apply(world.settings({**lines, "gateway/fast/quick": FakeTarget()}))
    await world.until(slow.entered.is_set)
    await world.until(lambda: world.anchors()["gateway/fast/quick"]["status"] == "anchored")
    assert slow.most_at_once <= AT_ONCE
    slow.release.set()
    await world.all_are("anchored")


async def test_new_settings_leave_lines_alone_that_they_do_not_change(world: World) -> None:
    world.grow("gateway")
    kept, gone, new = FakeTarget(), FakeTarget(where="gone"), FakeTarget(where="new")
    world.scheduler.apply(world.settings({"gateway/fast/kept": kept, "gateway/fast/gone": gone}))
    await world.all_are("anchored")
    world.scheduler.apply(world.settings({"gateway/fast/kept": kept, "gateway/fast/new": new}))
    await world.all_are("anchored")
    assert set(world.anchors()) == {"gateway/fast/kept", "gateway/fast/new"}
    assert (len(kept.asked), len(gone.asked), len(new.asked)) == (1, 1, 1)
    body, _ = world.scheduler.metrics.render("")
    assert b'target="gone"' not in body
    assert b'anchors_attempted_total{cadence="fast",namespace="gateway",target="kept"} 1.0' in body
    world.scheduler.apply(world.settings({"gateway/fast/kept": kept, "gateway/fast/gone": gone}))
    await world.until(lambda: world.anchors()["gateway/fast/gone"]["status"] == "anchored")
    assert len(gone.asked) == 1  # it goes on where it was


async def test_a_line_is_never_stepped_twice_at_a_time_whatever_the_settings(world: World) -> None:
    world.grow("gateway")
    slow = Held()
    for interval_s in (90, 91, 92, 93):
        world.scheduler.apply(world.settings({"gateway/fast/slow": slow}, interval_s))
        await world.until(slow.entered.is_set)
    slow.release.set()
    await world.all_are("anchored", "unchanged")
    assert slow.most_at_once == 1
    assert len(slow.asked) == 1  # the new line found what the one before had done


async def test_the_end_waits_for_a_step_but_not_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.grow("gateway")
    slow = Held()
    world.scheduler.apply(world.settings({"gateway/fast/slow": slow}))
    await world.until(slow.entered.is_set)
    assert not await world.scheduler.aclose(0.05)
    slow.release.set()
    world.states.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "amaru-anchoring":
            thread.join(60)
            assert not thread.is_alive()
