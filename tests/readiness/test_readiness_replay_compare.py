"""Two replays side by side."""

import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from replay_runs import answer, failure, many, run_of

from amaru.errors import ReportError
from amaru.readiness.measuring import summarize
from amaru.readiness.replay_bootstrap import differences
from amaru.readiness.replay_compare import compare
from amaru.readiness.replay_report import ReplayRun, build_report


def store(run: ReplayRun, directory: Path) -> Path:
    """The run's JSON alone: all that a comparison needs."""
    directory.mkdir()
    (directory / "replay.json").write_bytes(msgspec.json.encode(build_report(run)))
    return directory


def compared(a: ReplayRun, b: ReplayRun, directory: Path) -> tuple[str, dict[str, Any]]:
    text = compare(store(a, directory / "one"), store(b, directory / "two") / "replay.json", directory / "out")
    return text, msgspec.json.decode((directory / "out" / "compare.json").read_bytes())


def test_two_runs_that_differ_are_told_apart(tmp_path: Path) -> None:
    a, b = many(1), many(2, slower=2.0, lost=0.1, target="http://other.example/v1")
    text, stored = compared(a, b, tmp_path)
    assert text == (tmp_path / "out" / "compare.md").read_text("utf-8")
    assert text.startswith("# A: one beside B: two\n\n**B gave ")
    verdict = text.split("\n\n")[1]
    assert "points fewer good answers (whole, first token within 800 ms) than A**" in verdict
    assert "The median time to first token was " in verdict
    assert " longer in B: " in verdict
    assert "repeat before concluding" in verdict
    assert "| target | http\\://127.0.0.1:8080/v1 | http\\://other.example/v1 | **yes** |" in text
    assert "B answered fewer requests whole" in text
    assert stored["comparable"] is True
    one, two = (summarize(run.samples, duration_s=60, slo_first_token_s=0.8) for run in (a, b))
    figures = {entry["figure"]: entry for entry in stored["figures"]}
    p95 = figures["time to first token p95"]
    assert (p95["a"], p95["b"]) == (one.first_token.p95, two.first_token.p95)
    assert p95["difference"] == pytest.approx(p95["b"] - p95["a"])
    assert p95["ratio"] == pytest.approx(p95["b"] / p95["a"])
    assert figures["failed"]["difference"] == two.failed
    assert figures["failed"]["ratio"] is None  # there is nothing to divide by
    low, high = (stored["intervals"]["goodput_share"][end] for end in ("low", "high"))
    assert low < two.goodput_share - one.goodput_share < high < 0
    for name in ("compare_first_token_cdf.png", "compare_goodput.png"):
        assert f"]({name})" in text
        with Image.open(tmp_path / "out" / name) as picture:
            assert (picture.format, picture.size) == ("PNG", (1440, 806))


def test_without_a_directory_nothing_is_written_or_linked(tmp_path: Path) -> None:
    a, b = store(many(1), tmp_path / "a"), store(many(2), tmp_path / "b")
    text = compare(a, b)
    assert ".png" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert text == compare(a, b)  # resampling is the same each time


def test_runs_of_one_kind_cannot_be_told_apart(tmp_path: Path) -> None:
    text, stored = compared(many(1, lost=0.02), many(2, lost=0.02), tmp_path)
    verdict = text.split("\n\n")[1]
    assert verdict.count("cannot be told apart") == 3
    assert "Both runs called the same target and model" in text
    assert "Both sent the same prompts" in text
    for interval in ("goodput_share", "first_token_p50_s", "first_token_p95_s"):
        assert stored["intervals"][interval]["low"] < 0 < stored["intervals"][interval]["high"]


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"trace": "other.csv"}, "trace"),
        ({"trace_format": "mooncake"}, "trace format"),
        ({"speed": 10.0}, "speed"),
        ({"slo_first_token_s": 2.0}, "first token's objective"),
        ({"complete": False}, "played as planned"),
        ({"dropped": 100}, "requests due"),
    ],
)
def test_runs_that_had_not_the_same_task_get_no_verdict(changed: dict[str, Any], fact: str, tmp_path: Path) -> None:
    text, stored = compared(many(1), many(2, slower=3.0, **changed), tmp_path)
    assert text.split("\n\n")[1].startswith("**No verdict")
    assert f"they differ in {fact}. Replay one of them anew." in text
    assert stored["comparable"] is False
    assert stored["intervals"]["goodput_share"] is None
    assert "good answers of all due" in text  # the figures are shown all the same


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "another"}, "different models"),
        ({"machine": {"processor": "another"}}, "different machines"),
        ({"client": {"max_retries": 2}}, "clients behaved differently"),
    ],
)
def test_what_else_differs_is_said(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    text, stored = compared(many(1), many(2, **changed), tmp_path)
    assert words in text
    assert stored["comparable"] is True


def test_another_seed_of_the_prompts_is_no_other_client(tmp_path: Path) -> None:
    a, b = (many(seed, client={"max_retries": 0, "seed": seed}) for seed in (1, 2))
    text, _ = compared(a, b, tmp_path)
    assert "| seed of the prompts | 1 | 2 | **yes** |" in text
    assert "clients behaved differently" not in text
    assert "same prompts" not in text


def test_a_run_that_served_nothing_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    lost = run_of([failure(place / 20) for place in range(1200)])
    text, stored = compared(many(1), lost, tmp_path)
    assert "Of latency nothing can be said: B served nothing." in text
    assert stored["intervals"]["goodput_share"]["high"] < -0.9
    assert stored["intervals"]["first_token_p50_s"] is None
    assert re.search(r"^\| time to first token p50 \| \d+ ms \| - \| - \| - \|$", text, re.M)


@pytest.mark.parametrize("samples", [[], [answer()]], ids=["empty", "one answer"])
def test_tiny_runs_are_compared_without_intervals(samples: list[Any], tmp_path: Path) -> None:
    text, stored = compared(run_of(samples), run_of(samples), tmp_path)
    assert stored["intervals"]["goodput_share"] is None
    assert "95 % interval" not in text


def test_names_and_strings_of_others_do_no_harm(tmp_path: Path) -> None:
    nasty = "a|b`<script>x</script>![i](http://e/)\\"
    a, b = store(many(1, model=nasty), tmp_path / "a|b`<i>"), store(many(2), tmp_path / "$x$")
    text = compare(a, b, tmp_path / "out")
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "A: a\\|b\\`\\<i\\>" in text
    for line in text.splitlines():
        if line.startswith("| model"):
            assert line.replace("\\|", "").count("|") == 5


def test_two_reports_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
    a, b = store(many(1), tmp_path / "x" / "out"), store(many(2), tmp_path / "y" / "out")
    assert f"A: {a}" in compare(a, b).replace("\\", "")


@pytest.mark.parametrize("place", ["missing", "file.json"])
def test_what_is_no_report_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("[]")
    good = store(many(1), tmp_path / "good")
    for pair in ((tmp_path / place, good), (good, tmp_path / place)):
        with pytest.raises(ReportError, match=place):
            compare(*pair)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    good = store(many(1), tmp_path / "good")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot write the comparison into .*file"):
        compare(good, good, tmp_path / "file")


def test_an_outage_in_one_block_makes_no_certain_difference() -> None:
    """Four hundred requests lost at once are one event: resampled one by one they would look like a proof."""

    def with_outage(length_s: float) -> ReplayRun:
        rng = random.Random(3)
        samples = [
            failure(at_s) if 20 <= at_s < 20 + length_s else answer(at_s, 0.2 * rng.lognormvariate(0, 0.3))
            for at_s in (place / 100 for place in range(6000))
        ]
        return run_of(samples)

    found = differences(build_report(with_outage(0)), build_report(with_outage(4)))
    assert found.goodput_share is not None
    assert not found.goodput_share.sure
    assert found.goodput_share.low < -4 / 60 < found.goodput_share.high
    assert found.block_s == 4


def test_the_same_run_twice_does_not_differ() -> None:
    report = build_report(many(1, lost=0.1))
    found = differences(report, report)
    assert found.goodput_share is not None
    assert (found.goodput_share.low, found.goodput_share.high) == (0, 0)
    assert not found.goodput_share.sure


def test_intervals_lie_around_what_was_measured() -> None:
    a, b = build_report(many(1)), build_report(many(2, slower=1.5))
    found = differences(a, b)
    for name, interval in (("p50", found.first_token_p50_s), ("p95", found.first_token_p95_s)):
        measured = getattr(b.summary.first_token, name) - getattr(a.summary.first_token, name)
        assert interval is not None
        assert interval.low < measured < interval.high
        assert interval.sure
