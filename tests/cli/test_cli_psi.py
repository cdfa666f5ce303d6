"""``amaru psi`` as processes, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-c", "from amaru.cli.main import main; main()", "psi"]


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service on a free port, and its address."""
    command = [*COMMAND, "serve", "--port", "0", "--json", *options]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield process, json.loads(line)["url"]
        finally:
            process.kill()


def call(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=300) as answer:
        return json.load(answer)


def amaru(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False, env=env)


def test_a_service_that_is_killed_goes_on_from_its_last_answered_step(tmp_path: Path) -> None:
    with serving(tmp_path, "--dimension", "2") as (process, url):
        for n in range(5):
            last = call(f"{url}/step", {"x": [n, n]})
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    with serving(tmp_path, "--no-guardian") as (process, url):
        state = call(f"{url}/state")
        assert state["reading"]["Psi"] == last["Psi"]
        assert state["reading"]["step"] == 5
        assert state["guardian"]["enabled"] is False
        shown = amaru("status", "--psi", url)
        assert shown.returncode == 0
        assert "step 5: Psi" in shown.stdout
        assert "guardian off" in shown.stdout
        assert json.loads(amaru("status", "--psi", url, "--json").stdout)["reading"]["step"] == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (tmp_path / "psi_field.bin").exists()


def test_a_torn_state_is_told_and_set_aside(tmp_path: Path) -> None:
    (tmp_path / "psi_field.bin").write_bytes(b"AMARUPSI torn")
    with serving(tmp_path) as (process, url):
        assert call(f"{url}/health")["initialised"] is False
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "torn or damaged" in said
    assert len(list(tmp_path.glob("psi_field.bin.damaged-*"))) == 1


def test_what_cannot_be_served_is_refused_with_words(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url):
        again = amaru("serve", "--state", str(tmp_path / "psi_field.bin"), "--port", "0")
        assert again.returncode == 1
        assert "another process uses it" in again.stderr
        taken = amaru("serve", "--state", str(tmp_path / "other.bin"), "--port", url.rpartition(":")[2])
        assert taken.returncode == 1
        assert "(--port)" in taken.stderr
    nowhere = amaru("serve", "--state", str(tmp_path / "nowhere" / "psi.bin"))
    assert nowhere.returncode == 1
    assert "cannot be written" in nowhere.stderr


def test_the_example_trains_and_records(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "integrate_psi.py"
    with serving(tmp_path) as (_, url):
        command = [sys.executable, str(example), "--psi", url, "--steps", "120", "--agents", "4"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert said.returncode == 0, said.stderr
        assert "nigredo" in said.stdout  # half way through, the best provider begins to fail
        assert "the field answered 120 of them" in said.stdout
        assert call(f"{url}/guardian/statistics")["interventions"]["nigredo"] >= 1
    records = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 121))
    assert any(record["metrics"]["intervention"] == "nigredo" for record in records)


class Providers(BaseHTTPRequestHandler):
    """A gateway that wants an operator's key."""

    def do_GET(self) -> None:
        allowed = self.headers["authorization"] == "Bearer sk-operator"
        now = time.time()
        seen = {"error_rate": 0.25, "coherence": 0.5, "latency_p50_ms": 500.0, "last_seen_at": now}
        report = {"at": now, "providers": [{"provider": "anvil", "signature": seen}]}
        body = json.dumps(report if allowed else {"detail": "no key"})
        self.send_response(200 if allowed else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Providers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_gateways_signals_are_fed_once_or_on_an_interval(tmp_path: Path, gateway: str) -> None:
    with serving(tmp_path) as (_, url):
        where = ("feed", "--gateway", f"{gateway}/v1", "--psi", url)
        once = amaru(*where, "--json", AMARU_OPERATOR_KEY="sk-operator")
        assert once.returncode == 0, once.stderr
        fed = json.loads(once.stdout)
        assert fed["signals"] == {"anvil.latency_ms": 500.0, "anvil.error_rate": 0.25, "anvil.utility": 0.25}
        assert fed["answer"]["step"] == 1
        plain = amaru(*where, "--key-env", "MINE", MINE="sk-operator")
        assert "3 of 3 signals: Psi" in plain.stdout
        refused = amaru(*where, AMARU_OPERATOR_KEY="")
        assert refused.returncode == 1
        assert "401" in refused.stderr
        assert "put an operator's key into AMARU_OPERATOR_KEY" in refused.stderr
        command = [*COMMAND, *where, "--every", "0.1", "--json"]
        environment = {**os.environ, "AMARU_OPERATOR_KEY": "sk-operator"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            steps = [json.loads(process.stdout.readline())["answer"]["step"] for _ in range(3)]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert steps == [3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "--psi", "http://127.0.0.1:9"], "start one with `amaru psi serve`"),
        (["status", "--psi", "nonsense"], "--psi: 'nonsense' is not the URL"),
        (["feed", "--gateway", "nonsense"], "--gateway: 'nonsense' is not the URL"),
        (
            ["feed", "--gateway", "http://127.0.0.1:9"],
            "the gateway at http://127.0.0.1:9: no answer: Connection refused; is",
        ),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], words: str) -> None:
    said = amaru(*arguments)
    assert said.returncode == 1
    assert words in said.stderr
    assert "Traceback" not in said.stderr


def test_another_service_is_not_taken_for_a_field(gateway: str) -> None:
    said = amaru("status", "--psi", gateway)
    assert said.returncode == 1
    assert "401" in said.stderr
    assert "amaru psi serve" not in said.stderr  # something runs there
