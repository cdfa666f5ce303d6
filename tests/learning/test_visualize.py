"""A training's metrics as they are read for looking at, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from amaru.errors import ReportError
from amaru.learning.visualize import last_figures, read_metrics, smoothed

HEAD = "episode,q_table_size,avg_reward,epsilon,fill_rate,avg_cost,avg_latency"


def written(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "training_metrics.csv"
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


def test_columns_come_as_they_stand(tmp_path: Path) -> None:
    run = read_metrics(
        written(tmp_path, HEAD + ",utility", "1,10,0.5,0.2,0.9,3.5,320,0.7", "2,12,0.6,0.1,1,3.4,310,0.8")
    )
    assert run.source == "training_metrics.csv"
    assert run.episodes.tolist() == [1, 2]
    assert run.columns["q_table_size"].tolist() == [10, 12]
    assert run.columns["utility"].tolist() == [0.7, 0.8]
    assert run.interventions == ()
    assert not run.unfinished


def test_the_order_of_columns_and_unknown_ones_do_not_matter(tmp_path: Path) -> None:
    names = HEAD.split(",")[::-1]
    run = read_metrics(written(tmp_path, ",".join(["mood", *names]), "fine,320,3.5,0.9,0.2,0.5,10,1"))
    assert run.episodes.tolist() == [1]
    assert run.columns["avg_latency"].tolist() == [320]
    assert "mood" not in run.columns


@pytest.mark.parametrize("half", ["3", "3,14,0.7", "3,14,0.7,0.1,0.9,3.5,31", '3,"', "3,14,x"])
def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path, half: str) -> None:
    run = read_metrics(written(tmp_path, HEAD, "1,10,0.5,0.2,0.9,3.5,320", half, end=""))
    assert run.episodes.tolist() == [1]
    assert run.unfinished


def test_lines_may_end_as_on_windows_and_begin_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEAD}\r\n1,10,0.5,0.2,0.9,3.5,320\r\n".encode())
    assert read_metrics(path).columns["avg_latency"].tolist() == [320]


def test_an_empty_cell_is_a_gap_and_a_field_that_was_away_is_one(tmp_path: Path) -> None:
    run = read_metrics(
        written(
            tmp_path,
            HEAD + ",Psi,intervention",
            "1,10,0.5,0.2,0,,,0.8,",
            "2,10,0.5,0.2,0.9,3.5,320,,nigredo",
            "3,10,0.5,0.2,0.9,3.5,320,0.6,none",
        )
    )
    assert math.isnan(run.columns["avg_cost"][0])
    assert run.has("Psi")
    assert not run.has("Phi")
    assert run.interventions == ((2.0, "nigredo"),)


def test_a_column_without_any_figure_is_not_there(tmp_path: Path) -> None:
    run = read_metrics(written(tmp_path, HEAD + ",Psi", "1,10,0.5,0.2,0.9,3.5,320,"))
    assert not run.has("Psi")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([HEAD, "1,10,0.5,0.2,0.9,3.5"], ":2: has 6 cells where the first line names 7 columns"),
        ([HEAD, "1,10,0.5,0.2,0.9,3.5,320", "", "2,10,much,0.2,0.9,3.5,320"], ":4: avg_reward: 'much' is not a number"),
        ([HEAD, "1,10,0.5,0.2,0.9,inf,320"], ":2: avg_cost: 'inf' is not finite"),
        ([HEAD, "nan,10,0.5,0.2,0.9,3.5,320"], ":2: episode: 'nan' is not finite"),
        ([HEAD, ",10,0.5,0.2,0.9,3.5,320"], ":2: episode: '' is not a number"),
        ([HEAD, "2,1,1,1,1,1,1", "2,1,1,1,1,1,1"], ":3: episode: 2 comes after 2; episodes must rise"),
        (["episode,avg_reward", "1,2"], ":1: names no column q_table_size, epsilon, fill_rate, avg_cost, avg_latency"),
        (['{"format": "amaru-swarm-1"}'], ":1: is not the head of a training's metrics; name the training_metrics.csv"),
        ([HEAD + ",epsilon", "1,1,1,1,1,1,1,1"], ":1: names column epsilon twice"),
        ([HEAD], ": holds no finished episode yet"),
        (['"' + HEAD], ":1: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, lines: list[str], said: str) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(ReportError) as refused:
        read_metrics(path)
    assert f"{path}{said}" in str(refused.value)


def test_an_empty_file_and_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="is empty; look again"):
        read_metrics(written(tmp_path, end=""))
    with pytest.raises(ReportError, match="No such file"):
        read_metrics(tmp_path / "none.csv")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ReportError, match="byte 0 is not UTF-8"):
        read_metrics(tmp_path / "picture.png")


def test_a_moving_average_passes_over_gaps() -> None:
    nan = math.nan
    assert smoothed(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1, 2, 4, 6]
    np.testing.assert_array_equal(smoothed(np.array([nan, 2.0, nan, nan, 4.0]), 2), [nan, 2, 2, nan, 4])
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, end - 7) : end].mean() for end in range(1, 51)]
    np.testing.assert_allclose(smoothed(values, 7), expected, rtol=1e-12)


def test_the_last_figures_are_means_over_the_window(tmp_path: Path) -> None:
    lines = [f"{episode},10,{episode / 10},0.2,0.9,,320" for episode in range(1, 41)]
    run = read_metrics(written(tmp_path, HEAD, *lines))
    assert run.window() == 2
    figures = last_figures(run)
    assert figures["avg_reward"] == pytest.approx(3.95)
    assert "avg_cost" not in figures
