"""What the gateway decides and does leaves receipts; and it serves whatever befalls the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_world import OPERATOR_KEY, OTHER_KEY, MakeWorld, World, until

from amaru.ledger import receipts
from amaru.ledger.merkle import leaf_hash
from amaru.mesh.ledger import queue_of

ON: dict[str, Any] = {"extra": {"ledger": {}}}
OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}


def logged(world: World) -> dict[str, receipts.Receipt]:
    """Every receipt under the last checkpoint, by its leaf's hash."""
    assert world.mesh.ledger is not None
    log = world.mesh.ledger.log
    assert log is not None
    log.publish()
    found = {}
    for leaf in log.entries(0, log.size):
        receipt = receipts.read_leaf(leaf)
        assert receipt is not None, leaf
        assert receipts.leaf_of(receipt) == leaf
        found[leaf_hash(leaf).hex()] = receipt
    return found


def files_of(folder: Path) -> list[Path]:
    """Of the ledger, its keys and its queue."""
    return [path for path in folder.rglob("*") if path.is_file() and "ledger" in str(path.relative_to(folder))]


async def flushed(world: World, least: int) -> dict[str, receipts.Receipt]:
    """The receipts, once there are so many."""
    ledger = world.mesh.ledger
    assert ledger is not None
    await until(lambda: ledger.status().entries >= least)
    return logged(world)


async def test_a_whole_answers_head_names_the_leaf_of_its_decision_and_outcome(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answer = await world.chat()
        assert answer.status_code == 200
        receipt = (await flushed(world, 1))[answer.headers["x-amaru-receipt"]]
        assert isinstance(receipt, receipts.Decision)
        assert receipt.ref == answer.headers["x-amaru-decision"]
        assert (receipt.tenant, receipt.resource, receipt.kind) == ("team", "sim", "chat")
        assert receipt.offers == ("alpha/sim", "beta/sim")
        assert receipt.outcome is not None
        assert (receipt.outcome.ok, receipt.outcome.status, receipt.outcome.offer) == (True, 200, "alpha/sim")
        assert receipt.outcome.cost_usd == float(answer.headers["x-amaru-cost-usd"])
        assert receipt.prompt.startswith("hmac-sha256:")
        assert len(logged(world)) == 1


async def test_a_tenants_prompt_has_one_mark_another_tenants_another(make_world: MakeWorld, tmp_path: Path) -> None:
    other = {"authorization": f"Bearer {OTHER_KEY}"}
    async with make_world(**ON) as world:
        for content in ("the secret plan", "the secret plan", "another"):
            await world.chat(content)
        await world.chat("the secret plan", headers=other)
        await world.chat("the secret plan", headers=other)
        found = [one for one in (await flushed(world, 5)).values() if isinstance(one, receipts.Decision)]
        assert [one.tenant for one in found] == ["team", "team", "team", "other", "other"]
        first, again, different, theirs, theirs_again = (one.prompt for one in found)
        assert first == again
        assert theirs == theirs_again
        assert len({first, different, theirs}) == 3
    files = files_of(tmp_path)
    assert files
    assert not [path for path in files if b"secret plan" in path.read_bytes()]


async def test_a_prompt_beyond_the_bound_has_no_mark(make_world: MakeWorld) -> None:
    async with make_world(extra={"ledger": {"prompt_kib": 1}}) as world:
        await world.chat("x" * 2000)
        (receipt,) = (await flushed(world, 1)).values()
        assert isinstance(receipt, receipts.Decision)
        assert receipt.prompt == ""


async def test_a_streams_outcome_is_logged_at_its_end(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        response, _ = await world.stream()
        found = await flushed(world, 2)
        decision = found[response.headers["x-amaru-receipt"]]
        assert isinstance(decision, receipts.Decision)
        assert decision.outcome is None
        (outcome,) = [one for one in found.values() if isinstance(one, receipts.Outcome)]
        assert outcome.ref == decision.ref == response.headers["x-amaru-decision"]
        assert outcome.outcome.ok
        assert outcome.outcome.first_token_ms is not None
        assert decision.at <= outcome.at


async def test_a_failed_request_leaves_a_receipt_with_its_attempts(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        for name in ("alpha", "beta"):
            world.break_(name, "status", status=400)
        answer = await world.chat()
        assert answer.status_code == 400
        receipt = (await flushed(world, 1))[answer.headers["x-amaru-receipt"]]
        assert isinstance(receipt, receipts.Decision)
        assert receipt.outcome is not None
        assert (receipt.outcome.ok, receipt.outcome.status, receipt.outcome.failure) == (False, 400, "bad_request")
        assert [one.failure for one in receipt.outcome.attempts] == ["bad_request"]


async def test_a_caller_who_left_is_in_the_log_too(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        world.break_("alpha", "hang")
        with pytest.raises(httpx.ReadTimeout):
            await world.client.post(
                "/v1/chat/completions",
                json={"model": "sim", "messages": [{"role": "user", "content": "hi"}]},
                timeout=0.2,
            )
        (receipt,) = (await flushed(world, 1)).values()
        assert isinstance(receipt, receipts.Decision)
        assert receipt.outcome is not None
        assert receipt.outcome.status == 499


async def test_recommendations_and_what_is_reported_of_them_leave_receipts(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answer = await world.client.post("/agent/route", json={"model": "sim"})
        decision = answer.json()
        report = {"decision_id": decision["id"], "ok": True, "latency_ms": 12.5, "cost_usd": 0.001}
        assert (await world.client.post("/agent/feedback", json=report)).status_code == 200
        found = await flushed(world, 2)
        first, second = found.values()
        assert isinstance(first, receipts.Decision)
        assert isinstance(second, receipts.Outcome)
        assert found[answer.headers["x-amaru-receipt"]] is first
        best = await world.client.post("/route", json={"model": "sim"})
        third = (await flushed(world, 3))[best.headers["x-amaru-receipt"]]
        assert third.ref == best.json()["decision_id"]
        assert first.ref == second.ref == decision["id"]
        assert (first.outcome, second.by, second.outcome.latency_ms) == (None, "team", 12.5)


async def test_each_decision_of_a_batch_names_its_receipt(make_world: MakeWorld) -> None:
    batch = {"workloads": [{"model": "sim"}, {"model": "nobody-has-it"}, {"model": "sim", "explain": False}]}
    async with make_world(**ON) as world:
        first, wrong, last = (await world.client.post("/agent/route/batch", json=batch)).json()["results"]
        found = await flushed(world, 2)
        assert [found[one["receipt"]].ref for one in (first, last)] == [one["decision"]["id"] for one in (first, last)]
        assert set(wrong) == {"error"}
    async with make_world() as world:
        results = (await world.client.post("/agent/route/batch", json=batch)).json()["results"]
        assert [set(one) for one in results] == [{"decision"}, {"error"}, {"decision"}]


async def test_interventions_leave_receipts(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answer = await world.client.post("/health/guardian/albedo", json={"by": "ada"}, headers=OPERATOR)
        assert answer.status_code == 200, answer.text
        (receipt,) = (await flushed(world, 1)).values()
        assert isinstance(receipt, receipts.Intervention)
        assert (receipt.action, receipt.by) == ("albedo", "ada")
        assert "exploration" in receipt.changed


async def test_healings_leave_receipts_as_they_begin_and_end(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        order = {"kind": "weight", "offers": ["beta/sim"], "by": "ada"}
        pinned = await world.client.post("/health/healings/pin", json=order, headers=OPERATOR)
        assert pinned.status_code == 200, pinned.text
        id = pinned.json()["id"]
        await world.client.post("/health/healings/lift", json={"healing": id}, headers=OPERATOR)
        first, second = (await flushed(world, 2)).values()
        assert isinstance(first, receipts.Healing)
        assert isinstance(second, receipts.Healing)
        assert first.ref == second.ref == id
        assert (first.action, first.offers, first.by, first.ended) == ("weight", ("beta/sim",), "ada", "")
        assert second.ended


async def test_the_share_that_is_logged_is_drawn_by_the_decisions_id_and_may_change_at_a_reload(
    make_world: MakeWorld,
) -> None:
    async with make_world(extra={"ledger": {"decisions": 0.5}}) as world:
        ledger = world.mesh.ledger
        assert ledger is not None
        answers = await asyncio.gather(*(world.chat() for _ in range(40)))
        for answer in answers:
            assert ("x-amaru-receipt" in answer.headers) == ledger.samples(answer.headers["x-amaru-decision"])
        wanted = sum("x-amaru-receipt" in answer.headers for answer in answers)
        assert 0 < wanted < 40
        assert len(await flushed(world, wanted)) == wanted
        world.reload(ledger={"decisions": 0})
        assert "x-amaru-receipt" not in (await world.chat()).headers
        world.reload(ledger={})
        assert "x-amaru-receipt" in (await world.chat()).headers


async def test_status_and_metrics_show_how_the_ledger_fares(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        await world.chat()
        await flushed(world, 1)
        status = (await world.client.get("/status", headers=OPERATOR)).json()["ledger"]
        assert status["healthy"]
        assert (status["entries"], status["dropped"], status["error"]) == (1, 0, None)
    async with make_world() as world:
        assert (await world.client.get("/status", headers=OPERATOR)).json()["ledger"] is None
        assert "x-amaru-receipt" not in (await world.chat()).headers


@pytest.mark.parametrize("at", ["ledger", "ledger.keys"])
async def test_where_the_log_cannot_be_opened_requests_are_served_and_their_receipts_wait(
    make_world: MakeWorld, tmp_path: Path, at: str
) -> None:
    obstacle = tmp_path / at
    obstacle.write_text("not a folder")
    async with make_world(**ON) as world:
        ledger = world.mesh.ledger
        assert ledger is not None
        answers = [await world.chat() for _ in range(3)]
        status = ledger.status()
        assert not status.healthy
        assert (status.dropped, status.entries) == (0, 0)
        assert status.queued_bytes > 0
        assert at in (status.error or "")
        obstacle.unlink()
        await until(lambda: ledger.status().published == 3)
        assert list(logged(world)) == [answer.headers["x-amaru-receipt"] for answer in answers]


def told_dropped(world: World) -> int:
    return sum(gap.dropped for gap in logged(world).values() if isinstance(gap, receipts.Gap))


async def test_where_the_queue_cannot_be_opened_requests_are_served_and_what_is_dropped_is_told(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    obstacle = tmp_path / "ledger.queue"
    obstacle.mkdir()
    async with make_world(**ON) as world:
        ledger = world.mesh.ledger
        assert ledger is not None
        for _ in range(3):
            answer = await world.chat()
            assert answer.status_code == 200
            assert "x-amaru-receipt" not in answer.headers
        status = ledger.status()
        assert not status.healthy
        assert status.dropped == 3
        assert "ledger.queue" in (status.error or "")
        await until(lambda: ledger.log is not None and told_dropped(world) == 3)
        obstacle.rmdir()
        await until(lambda: ledger.status().healthy)
        assert "x-amaru-receipt" in (await world.chat()).headers


async def test_what_waits_is_logged_at_the_end_and_after_a_restart(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answers = [await world.chat() for _ in range(5)]
    async with make_world(**ON) as world:
        answers.append(await world.chat())
        found = await flushed(world, 6)
        assert {answer.headers["x-amaru-receipt"] for answer in answers} == set(found)
        assert world.mesh.ledger is not None
        assert queue_of(world.mesh.ledger.place).exists()
