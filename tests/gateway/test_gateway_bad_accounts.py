"""What operators and their machines do wrong to accounts: clear errors, nothing lost, nobody let in."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_world import KEY, OTHER_KEY, MakeWorld, digest
from sqlalchemy import select
from test_gateway_budgets_processes import BODY, MOST_NUSD, budgeted, rows_of, slow
from test_gateway_ledger_kill import serve

from amaru.accounts.schema import outbox
from amaru.accounts.store import Store
from amaru.simulation import SimulatedProvider

DAY_S = 86_400.0
WAIT_S = 300.0
"""Against hanging alone."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skips where mounting one is not allowed."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(root)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield root
    subprocess.run(["umount", str(root)], check=True)


def fill(root: Path) -> Path:
    """Leave no room; the file that takes it."""
    ballast = root / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for piece in (1 << 20, 4096, 1):
            try:
                while file.write(b"x" * piece) == piece:
                    pass
            except OSError:
                continue
    return ballast


async def test_a_full_disk_refuses_what_a_budget_binds_in_words_and_loses_nothing(
    tmp_path: Path, small_disk: Path
) -> None:
    """The disk of the accounts, of the journal and of decisions alike."""
    url = str(small_disk / "accounts.db")
    async with SimulatedProvider(slow(1.0)) as provider:
        settings = budgeted(provider.base_url, 10**6 * MOST_NUSD, url=url)
        settings["tenants"]["free"] = {"keys": [{"sha256": digest(OTHER_KEY)}]}
        served = await serve(small_disk, settings)

        async def ask(key: str) -> tuple[int, dict[str, str]]:
            answer = await served.client.post(
                "/v1/chat/completions", json=BODY, headers={"authorization": f"Bearer {key}"}
            )
            return answer.status_code, answer.json().get("error", {})

        try:
            answered = 1
            assert (await ask(KEY))[0] == 200
            ballast = fill(small_disk)
            async with asyncio.timeout(WAIT_S):
                while (refused := await ask(KEY))[0] == 200:  # what was leased, and room that files have, is used up
                    answered += 1
            assert (refused[0], refused[1]["code"]) == (503, "accounts_unavailable")
            assert "try again shortly" in refused[1]["message"]
            assert (await ask("sk-amaru-nobody"))[0] == 401, "nobody is let in"
            assert (await ask(OTHER_KEY))[0] == 200, "whom nothing binds is served"
            ballast.unlink()
            async with asyncio.timeout(WAIT_S):
                while (await ask(KEY))[0] != 200:  # noqa: ASYNC110 - asked over the wire
                    await asyncio.sleep(0.05)
            answered += 1
            assert any("No space left" in json.dumps(line) or "is full" in json.dumps(line) for line in served.logs)
            lost = sum(line["event"] == "charge_lost" for line in served.logs)
        finally:
            assert await served.stop() == 0
        rows, counter, leases = rows_of(url)
        bill = provider.bill.total
        assert len([row for row in rows if row.tenant == "team"]) == answered, "of what a budget binds nothing is lost"
        assert len(rows) + lost == bill.requests, "and nothing else without a word"
        assert (counter.leased, leases) == (0, [])


async def test_a_webhook_that_hangs_delays_neither_answers_nor_the_end_and_its_message_waits(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reached.set()
        await asyncio.sleep(600.0)

    hook = await asyncio.start_server(hang, "127.0.0.1", 0)
    (tmp_path / "secret").write_text("whsec_" + "YWFh" * 10)
    url = str(tmp_path / "accounts.db")
    address = f"http://127.0.0.1:{hook.sockets[0].getsockname()[1]}/hook"
    async with SimulatedProvider(slow(1.0)) as provider:
        settings = budgeted(provider.base_url, 1, url=url, webhook={"url": address, "secret_file": "secret"})
        settings["tenants"]["team"]["budgets"][0] |= {"hard": False, "alerts": [1.0]}
        served = await serve(tmp_path, settings)
        try:
            assert (await served.client.post("/v1/chat/completions", json=BODY)).status_code == 200
            async with asyncio.timeout(WAIT_S):
                await reached.wait()
            for _ in range(10):
                assert (await served.client.post("/v1/chat/completions", json=BODY)).status_code == 200
            assert await served.stop() == 0
        finally:
            await served.stop(signal.SIGKILL)
            hook.close()
        rows, counter, leases = rows_of(url)
        assert sum(row.cost_pusd for row in rows) == provider.bill.total.pico_usd
        assert (len(rows), counter.leased, leases) == (11, 0, [])
    store = Store(url)
    with store.reading() as connection:
        waiting = connection.execute(select(outbox.c.event).where(outbox.c.next_at.is_not(None))).scalars().all()
    store.close()
    assert "budget.exceeded" in waiting, "it is not lost"


async def test_a_clock_that_jumps_opens_no_fresh_budget(make_world: MakeWorld) -> None:
    """It goes a day on, and back: the old counter is found as it was, and what was spent tomorrow is tomorrow's."""
    now = time.time()
    noon = now - now % DAY_S + DAY_S / 2
    jumped = [0.0]
    tenants = {
        "team": {"keys": [{"sha256": digest(KEY)}], "budgets": [{"usd": f"{2 * MOST_NUSD / 1e9:.9f}", "per": "day"}]}
    }
    price = {"price": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}}
    async with make_world(("alpha",), tenants=tenants, offers={"alpha": price}, with_accounts=True) as world:
        assert world.till is not None
        bank = world.till.till._bank
        bank._clock = lambda: noon + jumped[0]  # type: ignore[attr-defined]

        async def statuses() -> set[int]:
            """Of requests until one is refused; then what is left does not suffice."""
            found = set()
            async with asyncio.timeout(WAIT_S):
                while 429 not in found:
                    found.add((await world.chat()).status_code)
            return found

        async def jump(to_s: float) -> None:
            jumped[0] = to_s
            async with asyncio.timeout(WAIT_S):
                while abs(world.till.till.now() - noon - to_s) > DAY_S / 4:  # type: ignore[union-attr]  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        await jump(0.0)
        assert 200 in await statuses()
        await jump(DAY_S)
        assert 200 in await statuses(), "another day, another budget"
        await jump(0.0)
        refused = await world.chat()
        assert refused.status_code == 429, "the day that came again is used up as before"
        assert refused.json()["error"]["code"] == "insufficient_quota"
        await jump(-400 * DAY_S)
        assert 200 in await statuses()
        await jump(0.0)
        assert (await world.chat()).status_code == 429
