"""``amaru simulate`` as a process."""

import json
import re
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
        assert process.wait(60) == 0


def test_a_script_of_faults_is_played(tmp_path: Path) -> None:
    script = tmp_path / "faults.yaml"
    script.write_text("faults:\n  - {provider: anvil, kind: status, status: 500}\n")
    with running("--port-base", "0", "--providers", "1", "--json", "--faults", str(script)) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["providers"][0]["url"]
        body = b'{"model": "anvil/llama-70b", "messages": [{"role": "user", "content": "Hi"}]}'
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(f"{url}/v1/chat/completions", data=body)


def shown_by(*options: str) -> list[str]:
    """What a person reads."""
    lines = []
    with running("--port-base", "0", *options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if "Ctrl-C" in line:
                break
    return lines


def test_the_table_fits_into_80_columns_and_names_urls_prices_and_the_next_step() -> None:
    lines = shown_by("--providers", "7")
    assert max(map(len, lines)) <= 80
    assert re.match(r"anvil +http://127\.0\.0\.1:\d+/v1 +0\.6/0\.75 +220 ms +111 anvil/llama-70b", lines[1])
    assert "--write-config" in "".join(lines)
    assert "/sim/faults" in "".join(lines)


def test_nothing_of_a_long_name_is_cut(tmp_path: Path) -> None:
    name, model = "a-provider-with-a-rather-long-name", "somebody/a-model-with-a-rather-long-name-of-2026"
    (tmp_path / "p.yaml").write_text(f"providers:\n  - {{name: {name}, models: [{model}]}}\n")
    lines = shown_by("--config", str(tmp_path / "p.yaml"), "--write-config", str(tmp_path / "a.yaml"))
    assert re.match(rf"{name} http://127\.0\.0\.1:\d+/v1 .* {model}", lines[1])
    assert f"Next: amaru serve --config {tmp_path / 'a.yaml'}" in "".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("providers:\n  - {name: a, capacity: 0}\n", "capacity must be at least 1"),
        ("x", "must hold `name: value` lines"),
    ],
)
def test_a_wrong_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    done = subprocess.run([*COMMAND, "--config", str(tmp_path / "p.yaml")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named() -> None:
    with running("--port-base", "0", "--providers", "1", "--json") as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["providers"][0]["url"].rpartition(":")[2]
        done = subprocess.run([*COMMAND, "--port-base", port], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "port is taken" in done.stderr
    assert "--port-base" in done.stderr


def test_a_file_that_somebody_else_wrote_is_not_overwritten_without_force(tmp_path: Path) -> None:
    config = tmp_path / "amaru.yaml"
    config.write_text("precious: true\n")
    options = ["--port-base", "0", "--providers", "1", "--json", "--write-config", str(config)]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert not done.stdout  # nothing was started
    assert f"{config} is there already" in done.stderr
    assert "--force" in done.stderr
    assert config.read_text() == "precious: true\n"
    for again in (["--force"], []):  # its own it overwrites
        with running(*options, *again) as process:
            assert process.stdout is not None
            (row,) = json.loads(process.stdout.readline())["providers"]
            assert row["url"] in config.read_text()


@pytest.mark.parametrize(("name", "words"), [("no/folder/a.yaml", "No such file or directory"), ("", "Is a directory")])
def test_a_config_that_cannot_be_written_is_one_line(name: str, words: str, tmp_path: Path) -> None:
    options = ["--port-base", "0", "--providers", "1", "--write-config", str(tmp_path / name)]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == f"amaru: {tmp_path / name} cannot be written: {words}\n"
