"""``amaru replay`` as a process: a small trace, Ctrl-C, two reports side by side, wrong input."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.main import get_command

from amaru.cli.main import build
from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'amaru'; from amaru.cli.main import main; main()", "replay"]
PROFILE = ProviderProfile(embedding_models=(), latency=Latency(ttft_ms=20, itl_ms=1, prefill_ms_per_ktok=0))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rows = [f"2023-11-16 18:17:{second:02}.5000000,{400 + second},{10 + second}" for second in range(40)]
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return path


async def started(*arguments: object, **options: object) -> asyncio.subprocess.Process:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return await asyncio.create_subprocess_exec(*COMMAND, *map(str, arguments), **pipes)  # type: ignore[arg-type]


async def ran(*arguments: object, **options: object) -> tuple[int, str, str]:
    process = await started(*arguments, **options)
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_a_trace_becomes_a_report(trace: Path, tmp_path: Path) -> None:
    async with SimulatedProvider(PROFILE) as provider:
        provider.faults.add(Fault(kind="status", status=500, probability=0.3))
        code, out, error = await ran(
            trace, "--target", provider.url, "--speed", 20, "--slo-ttft-ms", 800, "--limit", 30, "--out", tmp_path / "r"
        )
    assert code == 0, error  # failures are the result
    assert "trace.csv (azure format) at 20x: 30 requests in 1 s, 12,435 tokens in and up to 735 out" in out
    assert f"against sim-model at {provider.base_url}" in out
    assert "# Replay of trace.csv at 20x" in out
    report = json.loads((tmp_path / "r" / "replay.json").read_text())
    summary = report["summary"]
    assert summary["sent"] == 30
    assert summary["served"] + summary["failed"] == 30
    assert summary["errors"] == {"http_500": summary["failed"]}
    assert summary["slo_first_token_s"] == 0.8
    assert report["setup"]["command"].startswith("amaru replay ")
    assert (tmp_path / "r" / "replay.md").read_text() in out
    assert list((tmp_path / "r").glob("*.png"))


async def test_two_reports_side_by_side(trace: Path, tmp_path: Path) -> None:
    async with SimulatedProvider(PROFILE) as provider:
        for name in ("a", "b"):
            out_to = tmp_path / name
            code, _, error = await ran(
                trace, "--target", provider.url, "--speed", 100, "--out", out_to, "--seed", len(name)
            )
            assert code == 0, error
    code, out, error = await ran("compare", tmp_path / "a", tmp_path / "b" / "replay.json", "--out", tmp_path / "c")
    assert code == 0, error
    assert "time to first token" in out
    assert (tmp_path / "c" / "compare.md").is_file()
    code, _, error = await ran("compare", tmp_path / "a", tmp_path / "nothing")
    assert code == 1
    assert str(tmp_path / "nothing") in error


async def test_ctrl_c_ends_it_with_a_report(trace: Path, tmp_path: Path) -> None:
    async with SimulatedProvider(PROFILE) as provider:
        process = await started(trace, "--target", provider.url, "--speed", 2, "--out", tmp_path / "r")
        async with asyncio.timeout(60.0):
            while provider.requests < 5:  # noqa: ASYNC110 -- of another process
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error
    report = json.loads((tmp_path / "r" / "replay.json").read_text())
    assert not report["setup"]["complete"]
    assert 4 <= report["summary"]["sent"] < 40
    assert b"stopped before the end of its trace" in out


async def test_ctrl_c_before_the_traffic_says_that_nothing_was_measured(trace: Path, tmp_path: Path) -> None:
    async with SimulatedProvider(PROFILE, faults=[Fault(kind="hang")]) as provider:
        process = await started(trace, "--target", provider.url, "--out", tmp_path / "r")
        async with asyncio.timeout(60.0):
            while not provider.requests:  # noqa: ASYNC110 -- of another process
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130
    assert b"nothing was measured" in out
    assert not (tmp_path / "r").exists()


async def test_in_a_terminal_there_is_a_picture_and_then_a_verdict(trace: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    async with SimulatedProvider(PROFILE) as provider:
        process = await started(
            trace, "--target", provider.url, "--speed", 50, "--out", tmp_path / "r",
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        )  # fmt: skip
        os.close(theirs)
        shown = await asyncio.to_thread(_read_all, ours)
        assert await process.wait() == 0, shown
    for words in ("ETA ", "in flight", "Ctrl-C ends it", "good: first token within 1 s", "time to first token"):
        assert words in shown
    assert "The whole report: " in shown
    assert "# Replay" not in shown


def _read_all(descriptor: int) -> str:
    data = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # Linux: the other side is closed
            piece = b""
        if not piece:
            os.close(descriptor)
            return data.decode()
        data += piece


Refused = Callable[..., Awaitable[str]]


@pytest.fixture
def refused(trace: Path, tmp_path: Path) -> Refused:
    """Run with arguments behind the trace; returns what was said of why not."""

    async def run(*arguments: object, of: object = trace, **options: object) -> str:
        code, out, error = await ran(of, "--out", tmp_path / "r", *arguments, **options)
        assert code == 1, out
        assert not (tmp_path / "r").exists()
        return error

    return run


async def test_what_cannot_work_is_told_before_anything_is_sent(refused: Refused, tmp_path: Path) -> None:
    async with SimulatedProvider(ProviderProfile(keys=("sk-right",))) as provider:
        one = ("--target", provider.url, "--model", "sim-model")
        assert "wants a key" in await refused(*one)
        environment = {**os.environ, "WRONG_KEY": "sk-wrong"}
        error = await refused(*one, "--key-env", "WRONG_KEY", env=environment)
        assert "refuses the key (401: " in error
        assert "sk-wrong" not in error
        environment = {**os.environ, "RIGHT_KEY": "sk-right\n"}
        error = await refused("--target", provider.url, "--key-env", "RIGHT_KEY", env=environment)
        assert "lists 2 models; name one with --model: sim-model, sim-embed" in error
        assert "the environment has no ABSENT_KEY" in await refused("--target", provider.url, "--key-env", "ABSENT_KEY")
        assert "secret" not in await refused("--target", provider.url, "--key-env", "sk-proj-secretsecret1")
        assert provider.requests == 2  # the trials without the right key
        url = provider.url
    assert "cannot be reached" in await refused("--target", url)
    assert "it looks like http://" in await refused("--target", "localhost")
    (tmp_path / "bad.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n")
    assert "line 2, column TIMESTAMP" in await refused("--target", url, of=tmp_path / "bad.csv")
    assert "cannot be read" in await refused("--target", url, of=tmp_path / "missing.csv")


async def test_a_report_that_cannot_be_written_is_told_before_anything_is_sent(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, error = await ran(trace, "--target", "http://127.0.0.1:9", "--out", tmp_path / "file" / "x")
    assert code == 1
    assert f"{tmp_path / 'file'} is not a directory; name another directory with --out" in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "Usage: amaru replay [OPTIONS]"),
        (["--help"], 0, "amaru replay compare A B"),
        (["compare", "--help"], 0, "Usage: amaru replay compare [OPTIONS]"),
        (["t.csv"], 2, "Missing option '--target'"),
        (["t.csv", "--target", "http://x", "--speed", "0"], 2, "--speed"),
        (["t.csv", "--target", "http://x", "--grace-s", "nan"], 2, "--grace-s"),
        (["t.csv", "--target", "http://x", "--slo-ttft-ms", "inf"], 2, "--slo-ttft-ms"),
    ],
)
async def test_the_command_line(arguments: list[str], code: int, words: str) -> None:
    found, out, error = await ran(*arguments, env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    assert found == code
    assert words in out + error


def test_the_command_is_in_the_list() -> None:
    assert "replay" in get_command(build()).commands
