"""``amaru simulate`` as a process."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from amaru.cli.main import main; main()", "simulate"]


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_providers_listen_bill_and_stop_at_ctrl_c(tmp_path: Path) -> None:
    config = tmp_path / "amaru.yaml"
    with running("--port-base", "0", "--providers", "2", "--json", "--write-config", str(config)) as process:
        assert process.stdout is not None
        providers = json.loads(process.stdout.readline())["providers"]
        assert [row["name"] for row in providers] == ["anvil", "birch"]
        for row in providers:
            with urllib.request.urlopen(f"{row['url']}/sim/bill") as answer:
                assert json.load(answer)["total"]["requests"] == 0
            assert row["url"] in config.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_script_of_faults_is_played(tmp_path: Path) -> None:
    script = tmp_path / "faults.yaml"
    script.write_text("faults:\n  - {provider: anvil, kind: status, status: 500}\n")
    with running("--port-base", "0", "--providers", "1", "--json", "--faults", str(script)) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["providers"][0]["url"]
        body = b'{"model": "anvil/llama-70b", "messages": [{"role": "user", "content": "Hi"}]}'
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(f"{url}/v1/chat/completions", data=body)


def test_the_table_names_urls_prices_and_the_next_step(tmp_path: Path) -> None:
    with running("--port-base", "0", "--providers", "1") as process:
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            shown += line
            if "Ctrl-C" in line:
                break
    assert "anvil" in shown
    assert "base_url: http://127.0.0.1:" in shown
    assert "/sim/faults" in shown


@pytest.mark.parametrize(
    ("text", "words"),
    [("providers:\n  - {name: a, capacity: 0}\n", "capacity must be at least 1"), ("x", "no list `providers:`")],
)
def test_a_wrong_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    done = subprocess.run([*COMMAND, "--config", str(tmp_path / "p.yaml")], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named() -> None:
    with running("--port-base", "0", "--providers", "1", "--json") as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["providers"][0]["url"].rpartition(":")[2]
        done = subprocess.run([*COMMAND, "--port-base", port], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "port is taken" in done.stderr
    assert "--port-base" in done.stderr
