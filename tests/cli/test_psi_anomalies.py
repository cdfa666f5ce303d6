"""``amaru psi anomalies`` on real files and pipes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from amaru.cli.main import load_command
from amaru.cli.psi_anomalies import MAGIC, Saved, _Kept, _Watch, decoded, encoded, in_words
from amaru.cli.psi_series import Series
from amaru.errors import StorageError
from amaru.stability.anomaly import ALARM, AnomalyScorer

COMMAND = [sys.executable, "-c", "from amaru.cli.main import main; main()", "psi", "anomalies"]
ROWS, SPIKE = 700, 600
EVERY_S = 300


def values(rows: int = ROWS) -> list[float]:
    calm = random.Random(5)
    return [90.0 if row == SPIKE else round(calm.gauss(20.0, 1.0), 3) for row in range(rows)]


def text(series: list[float], first: int = 0) -> str:
    return "".join(f"{1_772_323_200 + EVERY_S * row},{value}\n" for row, value in enumerate(series, first))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    path = tmp_path / "calls.csv"
    path.write_text("timestamp,value\n" + text(values()))
    return path


def run(*arguments: str | Path) -> Result:
    """In this process; what `amaru` itself would print as an error is the result's exception."""
    return CliRunner().invoke(_app(), ["anomalies", *map(str, arguments)])


def _app() -> typer.Typer:
    from amaru.cli.psi import app

    return app


def amaru(*arguments: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=300, check=False)


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_spike_is_told_with_time_value_score_and_words(series: Path) -> None:
    said = run(series)
    assert said.exit_code == 0
    *found, summary = said.stdout.splitlines()
    (spike,) = [line for line in found if line.startswith(f"{1_772_323_200 + EVERY_S * SPIKE}  90  score 0.")]
    assert "unusual: 1 row in " in spike
    assert summary == f"{series}: 700 rows, {len(found)} {'anomaly' if len(found) == 1 else 'anomalies'}"


def test_json_has_each_row_as_the_scorer_scores_it(series: Path) -> None:
    scorer = AnomalyScorer()
    expected = [scorer.score(value, 1_772_323_200.0 + EVERY_S * row) for row, value in enumerate(values())]
    said = run(series, "--json", "--all")
    rows = rows_of(said.stdout)
    assert [row["score"] for row in rows] == expected
    assert [row["anomaly"] for row in rows] == [score >= ALARM for score in expected]
    assert rows[SPIKE] == {
        "line": SPIKE + 2,
        "time": str(1_772_323_200 + EVERY_S * SPIKE),
        "at": 1_772_323_200.0 + EVERY_S * SPIKE,
        "value": 90.0,
        "score": expected[SPIKE],
        "surprise": rows[SPIKE]["surprise"],
        "anomaly": True,
    }
    assert rows_of(run(series, "--json").stdout) == [row for row in rows if row["anomaly"]]
    assert f"{series}: 700 rows" in said.stderr
    assert run(series, "--all").exit_code == 2  # it would say nothing without --json


def test_missing_values_are_counted_and_score_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    known = values()
    shown = ["NaN" if row in (3, 400) else str(value) for row, value in enumerate(known)]
    path.write_text("value,note\n" + "".join(f"{one},x\n" for one in shown))
    rows = rows_of(run(path, "--json", "--all").stdout)
    assert rows[400]["value"] is rows[400]["surprise"] is rows[400]["time"] is None
    assert rows[400]["score"] == 0.0
    scorer = AnomalyScorer()
    expected = [scorer.score(value) for row, value in enumerate(known) if row not in (3, 400)]
    assert [row["score"] for row in rows if row["value"] is not None] == expected
    said = run(path)
    assert "700 rows" in said.stdout
    assert "2 missing values" in said.stdout
    assert f"line {SPIKE + 2}  90  score" in said.stdout


def test_two_runs_with_a_state_are_as_one(tmp_path: Path, series: Path) -> None:
    whole = rows_of(run(series, "--json", "--all").stdout)
    state = tmp_path / "calls.state"
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text(text(values()[:450]))
    second.write_text(text(values()[450:], 450))
    one = rows_of(run(first, "--json", "--all", "--state", state).stdout)
    size = state.stat().st_size
    two = rows_of(run(second, "--json", "--all", "--state", state).stdout)
    assert [row["score"] for row in one + two] == [row["score"] for row in whole]
    assert state.stat().st_size == size  # however much was seen


def test_a_file_that_has_grown_is_gone_on_from_where_it_ended(tmp_path: Path) -> None:
    path, state = tmp_path / "calls.csv", tmp_path / "calls.state"
    path.write_text("timestamp,value\n" + text(values()[:450]))
    run(path, "--state", state)
    path.write_text("timestamp,value\n" + text(values()))
    said = run(path, "--json", "--all", "--state", state)
    rows = rows_of(said.stdout)
    assert [row["line"] for row in rows] == list(range(452, 702))
    assert rows[SPIKE - 450]["anomaly"]
    assert "450 rows left out that --state had seen, up to 2026-03-02 13:25:00 UTC" in said.stderr
    assert rows_of(run(path, "--json", "--all", "--state", state).stdout) == []


def saved() -> Saved:
    return Saved(scorer=AnomalyScorer().state(), until=None)


def other_scorer(version: int) -> bytes:
    return msgspec.msgpack.encode({**msgspec.msgpack.decode(AnomalyScorer().state()), "version": version})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"timestamp,value\n1,2\n", "it is no state of `amaru psi anomalies`"),
        (b"", "it is no state of `amaru psi anomalies`"),
        (encoded(msgspec.structs.replace(saved(), version=7)), "it is of version 7, and this amaru reads version 1"),
        (encoded(msgspec.structs.replace(saved(), scorer=other_scorer(1))), "state of version 1, and this reads"),
        (encoded(saved())[:-1], "it is torn or damaged"),
        (encoded(saved()).replace(b"until", b"wntil"), "it is torn or damaged"),
        (encoded(msgspec.structs.replace(saved(), scorer=b"no")), "no state of an anomaly scorer"),
        (MAGIC + bytes(5 * 1024**2), "it is larger than 4,194,304 bytes"),
    ],
)
def test_a_state_that_cannot_be_gone_on_from_is_refused_and_left(
    tmp_path: Path, series: Path, content: bytes, words: str
) -> None:
    state = tmp_path / "calls.state"
    state.write_bytes(content)
    said = run(series, "--state", state)
    assert isinstance(said.exception, StorageError)
    assert words in str(said.exception)
    assert "name another file, or move it" in str(said.exception)
    assert state.read_bytes() == content
    assert said.stdout == ""


def test_a_state_is_read_as_it_was_written() -> None:
    assert decoded(encoded(saved())) == saved()


def test_a_feed_is_saved_once_a_minute_and_a_full_disk_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "calls.state"
    watch = _Watch(Series("feed"), json_lines=False, every=False)
    kept = _Kept(watch, state, now=100.0)
    watch.take(1, b"1772323200,20.5")
    kept.now_and_then(159.0)
    assert not state.exists()
    kept.now_and_then(160.0)
    assert decoded(state.read_bytes()).until == 1_772_323_200.0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("amaru.cli.psi_anomalies.write_whole", full)
    kept.now_and_then(219.0)
    assert capsys.readouterr().err == ""
    kept.now_and_then(220.0)
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    with pytest.raises(StorageError):
        kept.save()


def test_a_long_series_takes_no_more_memory_than_a_short_one() -> None:
    watch = _Watch(Series("feed"), json_lines=False, every=False)
    watch.take(1, b"0,1.5")
    tracemalloc.start()
    for row in range(1, 6000):
        watch.take(row + 1, b"%d,%d.5" % (row * EVERY_S, row % 7))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_rows_that_cannot_be_read_are_named_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("timestamp,value\n1,7\n2,fast\n3,8\n" + "x\n" * 20)
    said = amaru(path)
    assert said.returncode == 1
    assert said.stdout == f"{path}: 2 rows, 0 anomalies, 21 rows that could not be read\n"
    errors = said.stderr.splitlines()
    assert errors[0].startswith(f"amaru: {path}, line 3, column value: 'fast' is no number; write it like 12.5")
    assert errors[0].endswith("the row is left out")
    assert len(errors) == 11
    assert errors[-1] == "amaru: further rows that cannot be read are only counted"
    assert amaru(path, "--fail").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.csv"], "nowhere.csv: cannot be read: No such file or directory"),
        (["."], ".: cannot be read: Is a directory"),
        (["-", "--value", "latency"], "standard input, line 1: --value latency: no such column"),
        (["-", "--state", "nowhere/calls.state"], "--state nowhere/calls.state: nowhere does not exist"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], words: str) -> None:
    given = "timestamp,value\n1,2\n"
    said = amaru(*arguments, given=given)
    assert said.returncode == 1
    assert words in said.stderr
    assert "Traceback" not in said.stderr
    assert amaru(*arguments, "--fail", given=given).returncode == 2


def test_a_closed_standard_input_is_named_and_not_waited_for() -> None:
    shell = ["sh", "-c", '"$@" - <&-', "sh", *COMMAND]
    said = subprocess.run(shell, capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 1
    assert "standard input: cannot be read: it is closed" in said.stderr


def test_with_fail_the_exit_status_tells_of_anomalies(series: Path, tmp_path: Path) -> None:
    calm = tmp_path / "calm.csv"
    calm.write_text("7\n" * 300)
    assert run(series, "--fail").exit_code == 1
    assert run(series).exit_code == 0
    assert run(calm, "--fail").exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_feed_is_told_of_as_it_comes_and_saved_when_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "calls.state"
    command = [*COMMAND, "-", "--json", "--all", "--state", str(state)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("timestamp,value\n" + text(values()[: SPIKE + 1]) + "17723")
            process.stdin.flush()
            rows = [json.loads(process.stdout.readline()) for _ in range(SPIKE + 1)]
            assert rows[SPIKE]["anomaly"]  # while the feed is open
            process.send_signal(number)
            process.wait(60)  # its input is still open
            assert process.stderr is not None
            said = process.stderr.read()
        finally:
            process.kill()
    assert process.returncode == 0
    assert said.startswith("standard input: 601 rows, ")
    assert decoded(state.read_bytes()).until == rows[SPIKE]["at"]


def test_a_named_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "feed"
    os.mkfifo(path)
    with subprocess.Popen([*COMMAND, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            with path.open("w") as feed:
                feed.write(text(values()))
            said, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "  90  score 0." in said
    assert f"{path}: 700 rows" in said


def test_a_reader_that_goes_away_is_no_crash(series: Path) -> None:
    command = [*COMMAND, str(series), "--json", "--all"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said


def test_how_unusual_in_words() -> None:
    assert in_words(0.0) == "a little unusual: 1 row in 1"
    assert in_words(2.5) == "unusual: 1 row in 320"
    assert in_words(3.08) == "very unusual: 1 row in 1,200"
    assert in_words(6.0) == "extremely unusual: 1 row in 1,000,000"
    assert in_words(40.0) == "extremely unusual: less than 1 row in a billion"


def test_the_command_is_listed() -> None:
    assert "anomalies" in load_command("psi").commands
