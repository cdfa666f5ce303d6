"""``amaru scheduler`` as a process: a real authority, real logs, real signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, needs_openssl, serving

PYTHON = [sys.executable, "-c"]
SCHEDULER = [*PYTHON, "from amaru.cli.main import main; main()", "scheduler"]
REMEMBRANCER = [*PYTHON, "from amaru.cli.main import main; main()", "remembrancer"]

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with serving(Authority(tmp_path_factory.mktemp("authority"))) as served:
        yield served


def config(authority: Authority, **more: str) -> str:
    return f"""\
state: state
port: 0
cadences: {{fast: {{interval_s: {more.get("interval_s", "1")}}}, weekly: {{interval_s: 604800}}}}
targets:
  authority: {{kind: timestamp, url: "{authority.url}", roots: "{authority.roots}"}}
namespaces:
  gateway:
    log: ledger
    trust: ledger.keys/trust
    anchors: {{{more.get("cadence", "fast")}: [authority]}}
"""


def remembrancer(folder: Path, *arguments: str) -> Any:
    run = subprocess.run(
        [*REMEMBRANCER, *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "AMARU_LEDGER": str(folder / "ledger")},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def record(folder: Path, note: str) -> str:
    id: str = remembrancer(folder, "record", "discovery", "--component", "mesh", "--note", note)["id"]
    return id


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A scheduler on a free port, and its address; what it logs goes to ``folder/log.txt``."""
    with (
        (folder / "log.txt").open("a") as logged,
        subprocess.Popen(
            [*SCHEDULER, "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=logged, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "log.txt").read_text()
            yield process, json.loads(line)["url"]
        finally:
            process.kill()


def health(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/health", timeout=300) as answer:
        return json.load(answer)["namespaces"]["gateway"]


def until(told: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 90.0
    while not (found := told()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)
    return found


def anchored(url: str, size: int) -> bool:
    last = health(url)["last_anchor"]
    return last is not None and last["size"] == size


@pytest.mark.slow
def test_anchors_outlast_kills_and_are_in_the_bundle_of_a_receipt(authority: Authority, tmp_path: Path) -> None:
    id = record(tmp_path, "the first")
    (tmp_path / "scheduler.yaml").write_text(config(authority))
    with running(tmp_path) as (process, url):
        until(lambda: anchored(url, 1))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    record(tmp_path, "the second")
    with running(tmp_path) as (process, url):
        until(lambda: anchored(url, 2))
        until(lambda: health(url)["anchors"][0]["status"] == "unchanged")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    stamps = sorted((tmp_path / "ledger" / "proofs").rglob("*.tsr"))
    assert len(stamps) == 2  # one for each size, however often it was started
    made = remembrancer(tmp_path, "export-proof", id, "--out", "proof.zip")
    assert made["timestamps"] == 1
    with (tmp_path / "ledger.keys" / "trust").open("a") as trust:
        trust.write(authority.roots.read_text())
    remembrancer(tmp_path, "verify-full", id, "--strict")
    remembrancer(tmp_path, "verify-audit")


@pytest.mark.slow
def test_processes_killed_at_random_moments_leave_one_time_stamp_for_each_checkpoint(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "scheduler.yaml").write_text(config(authority))
    choose = random.Random(7)
    for number in range(8):
        record(tmp_path, f"number {number}")
        with running(tmp_path) as (process, _):
            time.sleep(choose.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            process.wait(60)
    with running(tmp_path) as (process, url):
        until(lambda: anchored(url, 8))
    folders = list((tmp_path / "ledger" / "proofs" / "checkpoints" / "0").iterdir())
    assert "8" in {folder.name for folder in folders}
    assert {folder.name: len(list(folder.glob("*.tsr"))) for folder in folders} == {one.name: 1 for one in folders}
    assert remembrancer(tmp_path, "verify-full")


def test_a_changed_file_takes_effect_and_a_broken_one_does_not(authority: Authority, tmp_path: Path) -> None:
    record(tmp_path, "the first")
    path = tmp_path / "scheduler.yaml"
    path.write_text(config(authority))
    with running(tmp_path) as (process, url):
        until(lambda: anchored(url, 1))
        path.write_text(config(authority, interval_s="none"))
        process.send_signal(signal.SIGHUP)
        until(lambda: "configuration_refused" in (tmp_path / "log.txt").read_text())
        assert health(url)["anchors"][0]["cadence"] == "fast"
        path.write_text(config(authority, cadence="weekly"))
        until(lambda: health(url)["anchors"][0]["cadence"] == "weekly")  # without being told
        until(lambda: health(url)["anchors"][0]["status"] == "anchored")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_file_is_checked_without_running_it(authority: Authority, tmp_path: Path) -> None:
    def check(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "some.yaml").write_text(text)
        command = [*SCHEDULER, "--check", "--config", "some.yaml"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    (tmp_path / "ledger.keys").mkdir()
    (tmp_path / "ledger.keys" / "trust").write_text("example.com/ledger+b9a1e4f2+AQ==\n")
    broken = check(config(authority, interval_s="0"))
    assert broken.returncode == 1
    assert "some.yaml:3: cadences.fast.interval_s: must be at least 1" in broken.stderr
    assert "some.yaml:9: namespaces.gateway.trust:" in broken.stderr
    record(tmp_path / "ledger.keys", "for its key")
    (tmp_path / "ledger.keys" / "ledger.keys" / "trust").replace(tmp_path / "ledger.keys" / "trust")
    fine = check(config(authority))
    assert (fine.returncode, fine.stdout) == (0, "some.yaml: fine: 1 anchors a round, of 1 log(s)\n")


def test_what_is_taken_is_told(authority: Authority, tmp_path: Path) -> None:
    record(tmp_path, "the first")
    (tmp_path / "scheduler.yaml").write_text(config(authority))
    with running(tmp_path) as (_, url):
        again = subprocess.run(SCHEDULER, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert again.returncode == 1
        assert "another scheduler keeps its state there" in again.stderr
        (tmp_path / "scheduler.yaml").write_text(config(authority).replace("state: state", "state: other"))
        port = url.rpartition(":")[2]
        taken = subprocess.run(
            [*SCHEDULER, "--port", port], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert taken.returncode == 1
        assert "(--port)" in taken.stderr


def test_a_url_that_cannot_be_reached_ends_no_process(authority: Authority, tmp_path: Path) -> None:
    """Try after try, each in a thread of its own."""
    record(tmp_path, "the first")
    witness = 'witness: {kind: post, url: "http://127.0.0.1:1/checkpoints"}'
    text = config(authority).replace("namespaces:", f"  {witness}\nnamespaces:").replace("[authority]", "[witness]")
    (tmp_path / "scheduler.yaml").write_text(text)
    with running(tmp_path) as (process, url):
        until(lambda: process.poll() is not None or health(url)["status"] == "failed")
        assert process.poll() is None, (tmp_path / "log.txt").read_text()
        assert "cannot be reached" in health(url)["problem"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
