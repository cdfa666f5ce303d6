"""``amaru health`` as a process, against a gateway on a real socket."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

from gateway_world import KEY, OPERATOR_KEY, MakeWorld, World
from rich.console import Console

from amaru.cli.health_view import picture
from amaru.health.history import HOUR_S
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.health.report import HealthReport

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'amaru'; from amaru.cli.main import main; main()", "health"]


async def ran(world: World | None, *arguments: str, key: str = OPERATOR_KEY, **options: str) -> tuple[int, str, str]:
    environment = {**os.environ, "AMARU_OPERATOR_KEY": key, "COLUMNS": "140", "USER": "ada", **options}
    if world is not None:
        environment["AMARU_URL"] = world.base_url
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def ailing(world: World) -> None:
    for _ in range(3):
        await world.chat()
    world.break_("alpha", "status", status=500)
    for _ in range(6):
        await world.chat()


async def test_it_shows_each_provider_and_what_is_foreseen(world: World) -> None:
    await ailing(world)
    code, out, error = await ran(world)
    assert code == 0, error
    lines = {line.split()[0]: line for line in reversed(out.splitlines()) if line.strip()}  # the first of each
    assert lines["infrastructure"].split()[1] in ("degraded", "failing")
    assert "server error" in lines["alpha"]
    assert "healthy" in lines["beta"]
    assert "foreseen" in lines


async def test_json_is_the_endpoints(world: World) -> None:
    await ailing(world)
    code, out, _ = await ran(world, "--json")
    assert code == 0
    report = json.loads(out)
    assert [one["provider"] for one in report["providers"]] == ["alpha", "beta"]
    assert report["providers"][0]["recent_errors"]["server_error"] > 1


async def test_a_narrow_terminal_is_enough(world: World) -> None:
    code, out, _ = await ran(world, COLUMNS="80")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    await world.mesh.sensing.step()
    _, out, _ = await ran(world, COLUMNS="80")
    assert re.search(r"^Ψ 0\.\d\d  PE .*  H \d\.\d\d$", out, re.MULTILINE)  # on one line
    assert "p99" not in out


async def test_watching_draws_until_it_is_interrupted(world: World) -> None:
    await ailing(world)
    leader, follower = pty.openpty()
    environment = {**os.environ, "AMARU_OPERATOR_KEY": OPERATOR_KEY, "TERM": "xterm", "AMARU_URL": world.base_url}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--watch", stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=environment
    )
    os.close(follower)
    drawn = b""
    while b"alpha" not in drawn:
        drawn += await asyncio.to_thread(os.read, leader, 65536)
    process.send_signal(signal.SIGINT)
    reading = asyncio.create_task(asyncio.to_thread(_drain, leader))
    _, error = await asyncio.wait_for(process.communicate(), 60)
    await reading
    os.close(leader)
    assert process.returncode == 0, error
    assert b"Traceback" not in error


async def test_a_gateway_that_goes_away_while_it_is_watched_is_waited_for(make_world: MakeWorld) -> None:
    environment = {**os.environ, "AMARU_OPERATOR_KEY": OPERATOR_KEY}
    async with make_world() as world:
        environment["AMARU_URL"] = world.base_url
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "--watch", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, limit=2**22
        )
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(2):
            report = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
            assert [one["provider"] for one in report["providers"]] == ["alpha", "beta"]
    said = await asyncio.wait_for(process.stderr.readline(), 60)
    assert b"is `amaru serve` running there?" in said
    assert process.returncode is None
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0


def test_an_old_picture_says_that_it_is_one() -> None:
    report = HealthReport(
        at=0.0, status="healthy", providers=(), patterns=(), healings=(), predicted=(), insights=(), stability=None,
        observed=0, dropped=0, notes=(),
    )  # fmt: skip
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(picture(report, 80, trouble="the port is closed"))
    assert "no news since then: the port is closed" in console.export_text()


def _drain(leader: int) -> None:
    try:
        while os.read(leader, 65536):
            pass
    except OSError:  # the other end is closed
        return


async def test_a_wrong_key_and_a_gateway_that_is_not_there_are_said(world: World) -> None:
    code, _, error = await ran(world, key=KEY)
    assert (code, "answers 403" in error) == (1, True)
    assert KEY not in error
    code, _, error = await ran(None, "--url", "http://127.0.0.1:9")
    assert (code, "is `amaru serve` running there?" in error) == (1, True)


async def test_orders_are_given_and_lifted(world: World) -> None:
    assert (await ran(world, "veto", "--kind", "drain", "--provider", "alpha"))[:2] == (
        0, "Forbidden: drain of alpha. `amaru health lift` allows it again.\n",
    )  # fmt: skip
    assert [veto.by for veto in world.mesh.sensing.acting.healer.vetoes] == ["ada"]
    assert (await ran(world, "lift", "--kind", "drain", "--provider", "alpha"))[0] == 0
    assert world.mesh.sensing.acting.healer.vetoes == []
    code, out, error = await ran(world, "pin", "drain", "alpha/sim", "--reason", "a test")
    assert code == 0, error
    (id,) = world.mesh.sensing.acting.healer.active
    assert f"amaru health lift {id}" in out
    assert (await ran(world, "lift", id))[0] == 0
    assert not world.mesh.sensing.acting.healer.active
    assert (await ran(world, "lift"))[0] == 2
    code, _, error = await ran(world, "pin", "drain", "nobody/sim")
    assert (code, "there is no offer nobody/sim" in error) == (1, True)


async def test_history_is_found_in_what_was_remembered_with_or_without_the_gateway(make_world: MakeWorld) -> None:
    async with make_world() as world:
        now = world.mesh.wall()
        for day in range(4):
            at = now - (day + 1) * 24 * HOUR_S
            assert world.mesh.sensing.chronicle.memory is not None
            world.mesh.sensing.chronicle.memory.remember(
                InfrastructurePattern(
                    id=f"p{day}",
                    kind=PatternKind.DEGRADATION,
                    at=at,
                    confidence=0.9,
                    offers=("alpha/sim",),
                    providers=("alpha",),
                    impact=Impact.MAJOR,
                    cause="latency",
                    suggested=None,
                    detail="",
                    ended_at=at + 60.0,
                )
            )
        code, asked, error = await ran(None, "history", "--url", world.base_url, "--json")
        assert code == 0, error
        path = str(world.config_path)
    code, read, error = await ran(None, "history", "--config", path, "--json", SIM_KEY="x")
    assert code == 0, error
    assert json.loads(read) == json.loads(asked)
    assert json.loads(read)["recurring"][0]["count"] == 4
    code, table, _ = await ran(None, "history", "--config", path, "--since", "60h", SIM_KEY="x")
    assert "alpha" in table
    assert " 2 " in table
    assert (await ran(None, "history", "--config", path, "--since", "1h", SIM_KEY="x"))[1].startswith("Nothing came")
    assert (await ran(None, "history", "--config", path, "--since", "soon", SIM_KEY="x"))[0] == 2


async def test_history_of_a_gateway_that_never_ran_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "amaru.yaml"
    path.write_text("version: 1\n")
    assert (await ran(None, "history", "--config", str(path)))[1].startswith("Nothing came more than once within 30d")
