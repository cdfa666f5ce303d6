"""The Numenta benchmark's scoring rule, as its paper has it (Lavin and Ahmad, 2015)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "benchmarks"
DATA = Path(__file__).parents[3] / "shared/data/nab"
ROWS = 200
WINDOW = (100, 119)


@pytest.fixture(scope="module")
def rule() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("anomaly_rule")


def scored(rule: ModuleType, *rows: int, windows: tuple[tuple[int, int], ...] = (WINDOW,), length: int = ROWS) -> float:
    """The normalised score of detections at ``rows``."""
    series = rule.Series("a/b.csv", np.arange(length, dtype=float), np.zeros(length), windows)
    detected = np.zeros(length)
    detected[list(rows)] = 1.0
    return float(rule.gains_of([(series, detected)]).at(1.0))


def test_nothing_detected_is_0_and_every_anomaly_at_its_begin_is_100(rule: ModuleType) -> None:
    windows = (WINDOW, (150, 169))
    assert scored(rule, windows=windows) == 0.0
    assert scored(rule, 100, 150, windows=windows) == pytest.approx(100.0)
    assert scored(rule, 100, windows=windows) == pytest.approx(50.0)


def test_only_the_earliest_detection_in_a_window_counts(rule: ModuleType) -> None:
    assert scored(rule, 105) == scored(rule, 105, 106, 118)
    assert scored(rule, 105) > scored(rule, 106)


def test_a_detection_in_the_middle_has_the_sigmoids_worth(rule: ModuleType) -> None:
    worth = (2 / (1 + math.exp(-2.5)) - 1) / (2 / (1 + math.exp(-5)) - 1)  # ten of twenty rows before the end
    assert scored(rule, 110) == pytest.approx(50.0 * (1 + worth))


def test_a_false_alarm_costs_more_the_farther_it_is_behind_a_window(rule: ModuleType) -> None:
    found = scored(rule, 100)
    lost = [found - scored(rule, 100, row) for row in (119 + 1, 119 + 10, 119 + 19, 119 + 57, 119 + 70)]
    assert lost == sorted(lost)
    assert 0.0 < lost[0] < 1.0
    assert lost[-1] == pytest.approx(100.0 * 0.11 / 2)
    assert found - scored(rule, 99, 100) == pytest.approx(100.0 * 0.11 / 2)  # before the first window: all


@pytest.mark.parametrize(("length", "counted_from"), [(200, 30), (4000, 600), (20_000, 750)])
def test_the_first_rows_are_for_learning(rule: ModuleType, length: int, counted_from: int) -> None:
    windows = ((length - 100, length - 81),)
    assert scored(rule, counted_from - 1, windows=windows, length=length) == 0.0
    assert scored(rule, counted_from, windows=windows, length=length) < 0.0


@settings(deadline=None)
@given(
    given_scores=st.lists(st.integers(0, 5), min_size=60, max_size=60),
    first=st.integers(12, 25),
    width=st.integers(2, 12),
    gap=st.integers(1, 8),
)
def test_the_best_threshold_is_the_one_that_trying_all_finds(
    rule: ModuleType, given_scores: list[int], first: int, width: int, gap: int
) -> None:
    windows = ((first, first + width - 1), (first + width + gap - 1, first + 2 * width + gap - 2))
    series = rule.Series("a/b.csv", np.arange(60.0), np.zeros(60), windows)
    gains = rule.gains_of([(series, np.array(given_scores, dtype=float))])
    tried = {float(threshold): by_the_paper(given_scores, windows, threshold) for threshold in range(7)}
    for threshold, score in tried.items():
        assert gains.at(threshold) == pytest.approx(score)
    threshold, best = gains.best()
    assert best == pytest.approx(max(0.0, *tried.values()))
    assert math.isinf(threshold) or gains.at(threshold) == pytest.approx(best)


def by_the_paper(scores: list[int], windows: tuple[tuple[int, int], ...], threshold: float) -> float:
    """One threshold, row by row."""

    def sigmoid(y: float) -> float:
        return -1.0 if y > 3.0 else 2.0 / (1.0 + math.exp(5.0 * y)) - 1.0

    raw, found = 0.0, set()
    for row in range(int(0.15 * len(scores)), len(scores)):
        if scores[row] < threshold:
            continue
        inside = [window for window in windows if window[0] <= row <= window[1]]
        before = [window for window in windows if window[1] < row]
        if inside and inside[0] not in found:
            found.add(inside[0])
            begin, end = inside[0]
            raw += sigmoid(-(end - row + 1) / (end - begin + 1)) / sigmoid(-1.0)
        elif not inside:
            raw += 0.11 * (sigmoid((row - before[-1][1]) / (before[-1][1] - before[-1][0])) if before else -1.0)
    raw -= len(windows) - len(found)
    return 100.0 * (raw + len(windows)) / (2 * len(windows))


def test_what_is_read_is_what_the_files_say(rule: ModuleType, tmp_path: Path) -> None:
    corpus(tmp_path)
    (series,) = rule.read(tmp_path)
    assert (series.name, series.group, series.probation) == ("made/spike.csv", "made", 60)
    assert series.windows == ((250, 269),)
    assert series.at[1] - series.at[0] == 300.0
    assert series.values[260] == 50.0
    assert rule.read(tmp_path, ["other"]) == []


def test_a_coarser_series_has_means_and_windows_of_the_same_instants(rule: ModuleType) -> None:
    series = rule.Series("a/b.csv", np.arange(20.0) * 60.0, np.arange(20.0), ((6, 8), (17, 19)))
    coarse = rule.coarser(series, 3)
    assert coarse.values.tolist() == [1.0, 4.0, 7.0, 10.0, 13.0, 16.0]
    assert coarse.at.tolist() == [0.0, 180.0, 360.0, 540.0, 720.0, 900.0]
    assert coarse.windows == ((2, 2),)


def corpus(folder: Path) -> None:
    """A benchmark of one series: noise of 400 rows, five minutes apart, with one spike."""
    noise = np.random.default_rng(0).normal(0.0, 1.0, 400)
    noise[260] = 50.0
    stamps = [f"2026-01-{1 + row // 288:02d} {row % 288 // 12:02d}:{row % 12 * 5:02d}:00" for row in range(400)]
    (folder / "labels").mkdir()
    (folder / "data/made").mkdir(parents=True)
    rows = "".join(f"{stamp},{value}\n" for stamp, value in zip(stamps, noise, strict=True))
    (folder / "data/made/spike.csv").write_text(f"timestamp,value\n{rows}")
    begin, end = (f"{stamps[row]}.000000" for row in (250, 269))
    (folder / "labels/combined_windows.json").write_text(
        f'{{"made/spike.csv": [["{begin}", "{end}"]], "made/absent.csv": []}}'
    )


def test_the_whole_benchmark_runs_on_a_corpus_of_ones_own(
    rule: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("anomaly")
    corpus(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- anomaly: begin -->\n<!-- anomaly: end -->\n")
    arguments = ["anomaly.py", "--data", str(tmp_path), "--without-river", "--write", str(page)]
    monkeypatch.setattr("sys.argv", arguments)
    benchmark.main()
    printed = capsys.readouterr().out
    for contender in ("amaru, as shipped", "windowed Gaussian", "Bayesian change-point", "random", "random, rested"):
        assert contender in printed
    assert "| made | 1 | 1 | 1 |" in printed
    assert printed.strip() in page.read_text()


def test_without_data_it_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("anomaly")
    monkeypatch.setattr("sys.argv", ["anomaly.py", "--data", str(tmp_path)])
    assert benchmark.main() == 2
    assert "github.com/numenta/NAB" in capsys.readouterr().err


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the Numenta benchmark's files are not in {DATA}")
def test_windows_lie_behind_the_rows_for_learning(rule: ModuleType) -> None:
    read = rule.read(DATA)
    assert len(read) == 34
    for series in read:
        assert np.all(np.diff(series.at) >= 0.0)
        assert all(series.probation <= first < last < len(series.values) for first, last in series.windows), series.name
