"""``amaru demo`` as a process: a short run, wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from amaru.cli.main import main; main()", "demo"]


@pytest.mark.slow
def test_a_short_demo_serves_most_and_reports_what_it_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--duration-s", "12", "--report", str(tmp_path / "r"), "--speed", "3"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    through, alone = report["through_amaru"], report["alone"]
    assert report["complete"]
    assert through["sent"] == alone["sent"] > 100
    assert through["success_share"] > 0.6  # nearly all, where the machine keeps up with the traffic
    assert through["success_share"] > alone["success_share"]
    assert through["saved_by_failover"] > 0
    assert through["errors"].get("truncated", 0) == 0  # a truncated answer never looks finished
    assert len(report["incidents"]) == 9
    assert sum(report["billed_usd"].values()) == pytest.approx(
        through["cost_usd"] + report["failed_attempts_usd"], rel=0.15
    )
    assert report["example"]["attempts"]
    assert "refuses connections" in done.stdout
    assert "Wrote" in done.stdout
    assert (tmp_path / "r" / "report.md").exists()


@pytest.mark.slow
def test_two_policies_get_the_same_traffic_and_both_are_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *COMMAND,
            "--compare",
            "--policy",
            "thompson",
            "--duration-s",
            "12",
            "--speed",
            "3",
            "--report",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "compare.json").read_text())
    rules, learned = report["sides"]
    assert (rules["policy"], learned["policy"]) == ("rules", "thompson")
    assert rules["summary"]["sent"] == learned["summary"]["sent"] > 100
    assert rules["outcomes_learned"] == 0
    assert learned["outcomes_learned"] > 50
    assert min(side["summary"]["success_share"] for side in report["sides"]) > 0.6
    whole = report["comparison"]["phases"][0]
    assert all(0.1 < utility < 1.0 for utility in whole["utility"])
    assert (tmp_path / "compare.md").exists()


def test_an_unknown_policy_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--policy", "clever", "--report", str(tmp_path / "r")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "--policy clever: there is no such policy; choose one of rules, " in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_wrong_trace_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    done = subprocess.run([*COMMAND, "--trace", str(tmp_path / "t.csv")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "It must begin with the header TIMESTAMP,ContextTokens,GeneratedTokens" in done.stderr
    assert "Starting" not in done.stdout


def test_a_report_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [*COMMAND, "--report", str(tmp_path / "file" / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"{tmp_path / 'file'} is not a directory; name another directory with --report" in done.stderr
    assert "Starting" not in done.stdout


@pytest.mark.slow
def test_a_report_that_can_no_longer_be_written_is_shown_instead(tmp_path: Path) -> None:
    command = [*COMMAND, "--report", str(tmp_path / "r"), "--duration-s", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "Starting" in process.stdout.readline()
        (tmp_path / "r").write_text("")
        assert "# amaru demo: what was measured" in process.stdout.read()
        error = process.stderr.read()
        assert process.wait(60) == 1
    assert error == f"amaru: the report could not be written to {tmp_path / 'r'}: File exists\n"
