"""What is older than ``ledger.retention_days`` is erased while the gateway serves; and all of it still verifies."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gateway_world import MakeWorld, World, until
from typer.testing import CliRunner

from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode
from amaru.ledger.log import Log

DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


async def remembrancer(*arguments: str, code: int = 0) -> Any:
    done = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("AMARU_LEDGER_INDEX", raising=False)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "ledger")


def log_of(world: World) -> Log:
    assert world.mesh.ledger is not None
    log = world.mesh.ledger.log
    assert log is not None
    return log


async def decided(world: World, count: int) -> list[str]:
    """The ids of so many decisions, which are published on return."""
    size = log_of(world).size
    answers = await asyncio.gather(
        *(world.client.post("/agent/route", json={"model": "sim"}, timeout=None) for _ in range(count))
    )
    await until(lambda: log_of(world).size >= size + count)
    return [answer.json()["id"] for answer in answers]


async def state_of(world: World, decision_id: str) -> str:
    return str((await world.client.get(f"/decisions/{decision_id}")).json()["ledger"]["state"])


async def test_old_receipts_are_erased_while_the_gateway_serves(make_world: MakeWorld, ledger: str) -> None:
    clock = Clock()
    async with make_world(extra={"ledger": {"retention_days": 60}}, wall=clock) as world:
        old = await decided(world, 300)
        assert {await state_of(world, one) for one in (old[0], old[-1])} == {"logged"}
        clock.now += 40 * DAY_S
        young = await decided(world, 300)
        kept = await remembrancer("receipt", "#7", "--ledger", ledger)
        world.reload(ledger={"retention_days": 30})
        await until(lambda: log_of(world).pruned.until == 256)
        log_order = await remembrancer("list", "decisions", "--limit", "1000", "--ledger", ledger)
        left = {one["receipt"]["ref"] for one in log_order["receipts"]}
        assert len(left) == 600 - 256
        assert {await state_of(world, one) for one in old if one not in left} == {"pruned"}
        assert {await state_of(world, one) for one in left} == {"logged"}
        assert set(young) <= left

        pruned = await remembrancer("receipt", kept["id"], "--ledger", ledger, code=ExitCode.PRUNED)
        assert (pruned["pruned"], pruned["proof"]["proved"]) == (True, True)
        (pruning,) = (await remembrancer("list", "prunings", "--ledger", ledger))["receipts"]
        assert pruning["receipt"]["note"] == "older than 30 days (ledger.retention_days)"
        assert (pruning["receipt"]["until"], pruning["receipt"]["by"]) == (256, "retention")
        report = await remembrancer("verify-audit", "--ledger", ledger)
        assert (report["ok"], report["pruned"]) == (True, 256)
        assert (await world.chat()).status_code == 200
    report = await remembrancer("verify-audit", "--ledger", ledger)
    assert (report["ok"], report["pruned"]) == (True, 256)


async def test_the_search_index_forgets_with_the_pruning(make_world: MakeWorld, ledger: str, tmp_path: Path) -> None:
    clock = Clock()

    def indexed(decision_id: str) -> bool:
        found = False
        for file in tmp_path.glob("ledger.index.db*"):
            with suppress(FileNotFoundError):  # its WAL comes and goes
                found = decision_id.encode() in file.read_bytes() or found
        return found

    async with make_world(extra={"ledger": {}}, wall=clock) as world:
        old = await decided(world, 300)
        await remembrancer("list", "decisions", "--ledger", ledger)
        entries = {json.loads(leaf)["ref"] for leaf in log_of(world).entries(0, 256)}
        assert len(entries) == 256
        assert all(indexed(one) for one in entries)
        clock.now += 40 * DAY_S
        young = await decided(world, 1)
        await remembrancer("list", "decisions", "--ledger", ledger)
        world.reload(ledger={"retention_days": 30})
        await until(lambda: not any(indexed(one) for one in entries))  # and no command of `remembrancer` was given
        assert indexed(young[0])
        assert all(indexed(one) for one in set(old) - entries)


async def test_what_somebody_prunes_goes_through_the_gateway_that_writes(make_world: MakeWorld, ledger: str) -> None:
    async with make_world(extra={"ledger": {}}) as world:
        ids = await decided(world, 600)
        document = await remembrancer("prune", "--before", "#520", "--note", "asked for", "--yes", "--ledger", ledger)
        assert (document["until"], document["erased"]) == (512, 512)
        assert log_of(world).pruned == (512, document["receipt"])
        more = await decided(world, 10)
        states = [await state_of(world, one) for one in (*ids, *more)]
        assert (states.count("pruned"), states.count("logged")) == (512, 98)
        assert (await remembrancer("verify-audit", "--ledger", ledger))["ok"] is True
        error = (await remembrancer("prune", "--before", "#520", "--yes", "--ledger", ledger, code=1))["error"]
        assert "256 at a time" in error["message"]


async def test_without_retention_nothing_is_erased(make_world: MakeWorld) -> None:
    clock = Clock()
    async with make_world(extra={"ledger": {"retention_days": 30}}, wall=clock) as world:
        await decided(world, 300)
        world.reload(ledger={})
        clock.now += 400 * DAY_S
        await decided(world, 1)
        world.reload(ledger={"decisions": 1.0})  # which looks again
        assert world.mesh.ledger is not None
        assert world.mesh.ledger._retention.look()  # what its thread does once an hour
        assert log_of(world).pruned.until == 0
