"""``amaru demo`` that is ended early: Ctrl-C, a closed terminal, a gateway that dies."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

# Makes its standard input the terminal that it is controlled by, as a login does, and then becomes the command.
IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
COMMAND = [sys.executable, "-c", "from amaru.cli.main import main; main()", "demo"]


@pytest.mark.slow
def test_ctrl_c_ends_it_with_a_report_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [*COMMAND, "--report", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "s of 120 s" in line:  # the first line of totals, ten seconds in
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 3
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0
        assert not any(child.is_running() for child in children)
    assert "ended early (stopped by the user)" in rest
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["complete"]
    assert 8 < report["through_amaru"]["duration_s"] < 600
    assert report["through_amaru"]["served"] > 10


@pytest.mark.slow
def test_a_closed_terminal_ends_it_with_a_report_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_TERMINAL, *COMMAND, "--report", str(tmp_path / "r")]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while b"alone" not in shown.partition(b"Starting")[2].partition(b"\n")[2]:  # the live view is drawn
            shown += os.read(ours, 65536)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 3
        os.close(ours)
        assert process.wait(180) == 0
        assert not any(child.is_running() for child in children)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]  # nor is its folder left
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["stopped_because"] == "stopped by the user"


@pytest.mark.slow
def test_ctrl_c_while_starting_says_that_nothing_was_measured(tmp_path: Path) -> None:
    command = [*COMMAND, "--report", str(tmp_path / "r")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert "Starting" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "nothing was measured" in process.stdout.read()
        assert process.wait(60) == 130
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_gateway_that_dies_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    command = [*COMMAND, "--report", str(tmp_path), "--duration-s", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "refuses connections" in line:  # the first incident: traffic flows
                break
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if "serve" in child.cmdline()).kill()
        said = process.stdout.read()
        assert process.wait(60) == 1
        assert "amaru serve ended with status -9" in process.stderr.read()
    assert "ended early" in said
