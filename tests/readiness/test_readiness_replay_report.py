"""A replay's report: its JSON, its Markdown, its warnings, its plots."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from replay_runs import answer, any_sample, failure, many, run_of

from amaru.errors import ReportError
from amaru.readiness.measuring import UNFINISHED, Sample, summarize
from amaru.readiness.replay_data import SCHEMA, read_report
from amaru.readiness.replay_report import ReplayRun, build_report, write_report
from amaru.readiness.replay_series import HISTOGRAM_FROM_S, HISTOGRAM_RATIO, OTHERS, histogram, series

NASTY = "a|b`c`\n# d <script>x</script> ![i](http://e/) $\\frac$ *e* 日本語 🦙 \u202e\ud800 _f_"


def text_of(run: ReplayRun, directory: Path) -> str:
    write_report(run, directory)
    return (directory / "replay.md").read_text("utf-8")


def test_the_report_is_written_whole_and_read_back_the_same(tmp_path: Path) -> None:
    run = many(1, dropped=3)
    paths = write_report(run, tmp_path / "new" / "place")
    assert [path.name for path in paths] == [
        "replay.json",
        "replay.md",
        "first_token_cdf.png",
        "latency.png",
        "throughput.png",
        "providers.png",
    ]
    assert read_report(tmp_path / "new" / "place") == read_report(paths[0]) == build_report(run)
    stored = msgspec.json.decode(paths[0].read_bytes())
    assert stored["schema"] == SCHEMA
    assert set(stored["summary"]) >= {"first_token_s", "inter_token_s", "time_per_output_token_s", "latency_s", "lag_s"}
    assert stored["setup"]["started_at"] == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="empty"),
        pytest.param([failure(place / 10) for place in range(300)], id="only failures"),
        pytest.param([answer()], id="one answer"),
        pytest.param([Sample(at_s=1, error=UNFINISHED)], id="never ended"),
        pytest.param([answer(first_token_s=0.0, latency_s=0.0, tokens=1)], id="no time at all"),
        pytest.param([answer(first_token_s=None, tokens=1)], id="an answer without a token"),
        pytest.param([answer(place, provider=f"p{place}") for place in range(60)], id="sixty providers"),
    ],
)
def test_whatever_a_run_was_its_plots_are_pictures(samples: list[Sample], tmp_path: Path) -> None:
    paths = write_report(run_of(samples, duration_s=60.0 if samples else 0.0), tmp_path)
    for path in paths[2:]:
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("PNG", (1440, 806))
            assert len(picture.convert("L").getcolors() or range(256)) > 20  # something is drawn on it
        assert 5_000 < path.stat().st_size < 400_000


def test_plots_differ_with_what_was_measured(tmp_path: Path) -> None:
    one = write_report(many(1), tmp_path / "one")
    two = write_report(many(1, slower=3, lost=0.2), tmp_path / "two")
    for a, b in zip(one[2:], two[2:], strict=True):
        assert a.read_bytes() != b.read_bytes()


def test_nothing_but_a_plot_imports_matplotlib() -> None:
    rooms = "amaru.readiness.replay_report, amaru.readiness.replay_compare, amaru.gateway.process, amaru.cli.serve"
    code = f"import sys, {rooms}; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_text_begins_with_the_verdict(tmp_path: Path) -> None:
    samples = [answer(place / 10, 0.2 if place % 4 else 2.0) for place in range(400)]
    samples += [failure(40 + place / 10, detail="it | broke") for place in range(100)]
    samples[0].attempts, samples[0].joined = 2, "continued"
    shown = text_of(run_of(samples), tmp_path)
    assert shown.startswith(
        "# Replay of trace.csv at 20x\n\n"
        "**60.0 % of 500 requests were good: answered whole, with the first token within 800 ms of when they were "
        "due.** That is 5.00 good answers a second, of 8.33 asked for. Half of the answers began within 200 ms, 99 % "
        "within 2.00 s. 100 failed. It took more than one provider's call for 1 answer, and a rescue half-way for 1 "
        "answer.\n"
    )
    assert "| http_503 | 100 | 20.0 % | it \\| broke |" in shown
    assert "Rescued after they had broken: 1 (1 continued)." in shown
    assert "| anvil | 400 | 100.0 % |" in shown
    assert "| who counted the tokens | 100.0 % by the server |" in shown
    assert "| cost | $0.400, $1.00 for 1,000 answers |" in shown
    assert "| inter-token latency | 10.0 ms | 10.0 ms | 10.0 ms | 1,600 gaps |" in shown
    for name in ("first_token_cdf.png", "latency.png", "throughput.png", "providers.png"):
        assert f"]({name})" in shown
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (run_of([answer()], complete=False), "stopped before the end of its trace"),
        (
            run_of([answer(), failure(), Sample(at_s=1, error=UNFINISHED)], complete=False),
            "Of the 2 requests that had ended, 50.0 % were good",
        ),
        (run_of([answer()], duration_s=0.2), "were due within 200 ms: rates of requests"),
        (run_of([answer()], dropped=3), "were due, 3 (75.0 %) never left"),
        (run_of([answer(), Sample(at_s=1, error=UNFINISHED)]), "were sent, 1 (50.0 %) did not end"),
        (run_of([answer(lag_s=0.1) for _ in range(9)]), "The load generator was late itself: one request in a hundred"),
        (run_of([answer(counted_by="client"), answer()]), "no usage for 50.0 % of the whole answers"),
        (run_of([answer(counted_by="client")], client={"stream": False}), "the client's count, an estimate from the"),
        (run_of([answer(output_tokens=15)]), "A content event carried 3.00 tokens on average"),
        (run_of([answer(), answer(cost_usd=None)]), "The server reported the cost of 1 whole answer only"),
        (run_of([answer()], client={"stream": False}), "Answers were not streamed"),
        (run_of([answer()]), "With only 1 whole answer, a p99 is no more than the slowest"),
    ],
)
def test_what_a_reader_must_mind_is_said_out_loud(run: ReplayRun, words: str) -> None:
    assert any(words in warning for warning in build_report(run).warnings)


def test_a_run_without_a_flaw_has_no_warning() -> None:
    assert build_report(many(1)).warnings == ()
    free = run_of([answer(cost_usd=0.0) for _ in range(200)])
    assert build_report(free).warnings == ()


def test_of_gaps_between_events_nothing_is_said_where_there_are_none() -> None:
    whole = run_of([answer(tokens=1, output_tokens=200)], client={"stream": False})
    assert not any("inter-token" in warning for warning in build_report(whole).warnings)


def test_what_came_from_caches_is_told_or_said_not_to_be(tmp_path: Path) -> None:
    told = text_of(run_of([answer(cached_input_tokens=4), answer(cached_input_tokens=0)]), tmp_path)
    assert "| input tokens from caches of prompts | 4, 20.0 % of the input tokens |" in told
    untold = text_of(run_of([answer()]), tmp_path)
    assert "| input tokens from caches of prompts | not reported by the server |" in untold
    assert "of 1 request was good: answered whole, with the first token within 800 ms of when it was due" in untold


def test_no_key_is_stored_or_shown(tmp_path: Path) -> None:
    run = run_of(
        [failure(detail="Incorrect API key provided: sk-proj-secretsecret1")],
        target="https://user:secretsecret2@host.example:8443/v1?key=secretsecret3#secretsecret4",
        command=(
            "amaru replay t.csv --target https://user:secretsecret2@host.example/v1?key=secretsecret3 "
            "--key secretsecret5 --key-env NAME --api-key='secretsecret6 x' -H \"x: y\" "
            "--target=//u:secretsecret7@h/v1 --speed 20"
        ),
    )
    shown = text_of(run, tmp_path)
    stored = (tmp_path / "replay.json").read_text("utf-8")
    assert "secretsecret" not in shown + stored
    assert "https\\://host.example:8443/v1" in shown
    assert "--key-env NAME" in shown
    assert "--speed 20" in shown


def test_strings_of_others_do_no_harm(tmp_path: Path) -> None:
    sample = failure(error=NASTY.replace("\ud800", ""), detail=NASTY)
    served = answer(provider=NASTY.replace("\ud800", "") * 20, joined="a|b")
    run = run_of([sample, served], model=NASTY, trace=NASTY, trace_format=NASTY, command=NASTY, machine={"x|": NASTY})
    shown = text_of(run, tmp_path)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(shown)
    assert not [token for token in tokens if token.type == "html_block"]
    parts = [part for token in tokens for part in token.children or ()]
    assert not [part for part in parts if part.type in ("html_inline", "link_open")]
    assert {part.attrs["src"] for part in parts if part.type == "image"} == {
        "first_token_cdf.png",
        "latency.png",
        "throughput.png",
        "providers.png",
    }
    headings = [token for token in tokens if token.type == "heading_open"]
    assert [token.tag for token in headings] == ["h1", *["h2"] * 7]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"file.*--out"):
        write_report(many(1, 10), tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is no report of a replay"),
        (b'{"a": 1}', "is no report of a replay"),
        (b"\xff\xfe", "is no report of a replay"),
        (b'{"schema": "something/1"}', "is no report of a replay, but 'something/1'"),
        (b'{"schema": "amaru.replay/0"}', "has the form 'amaru.replay/0'; this amaru .* reads 'amaru.replay/1'"),
        (b'{"schema": "amaru.replay/1"}', "is damaged"),
    ],
)
def test_what_is_no_report_is_refused_with_a_remedy(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "replay.json").write_bytes(content)
    with pytest.raises(ReportError, match=words) as caught:
        read_report(tmp_path)
    assert str(tmp_path / "replay.json") in str(caught.value)
    assert "replay" in str(caught.value).partition(str(tmp_path))[2]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("series", "good", [1]),
        ("series", "first_token_histograms", [{"999999999999": 1}] * 60),
        ("curves", "first_token_s", [1.0]),
        ("summary", "sent", "many"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(part: str, field: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "replay.json"
    stored = msgspec.json.decode(msgspec.json.encode(build_report(many(1))))
    stored[part][field] = value
    path.write_bytes(msgspec.json.encode(stored))
    with pytest.raises(ReportError, match="is damaged"):
        read_report(path)


@given(st.lists(any_sample(), max_size=60), st.floats(0.1, 100), st.floats(0, 50))
def test_intervals_add_up_to_the_whole_run(samples: list[Sample], duration_s: float, slo_s: float) -> None:
    cut = series(samples, duration_s=duration_s, slo_first_token_s=slo_s)
    summary = summarize(samples, duration_s=duration_s, slo_first_token_s=slo_s)
    assert cut.interval_s * len(cut.sent) == pytest.approx(duration_s)
    for name in ("sent", "served", "good", "failed", "unfinished"):
        assert sum(getattr(cut, name)) == getattr(summary, name)
    assert sum(map(sum, cut.by_provider.values())) == summary.served
    assert sum(sum(bins.values()) for bins in cut.first_token_histograms) == summary.first_token.count
    assert min(cut.output_tokens_delivered) >= -1e-6
    assert sum(cut.output_tokens_delivered) <= summary.output_tokens + 1e-6


def test_an_interval_holds_what_was_due_in_it() -> None:
    samples = [answer(place, 0.1 * (1 + place // 30)) for place in range(60)]
    cut = series(samples, duration_s=60, slo_first_token_s=0.15)
    assert cut.interval_s == 10
    assert cut.starts_s == [0, 10, 20, 30, 40, 50]
    assert cut.sent == [10] * 6
    assert cut.good == [10, 10, 10, 0, 0, 0]
    assert cut.first_token_p50_s == pytest.approx([0.1] * 3 + [0.2] * 3)


def test_tokens_stand_where_they_came() -> None:
    long = answer(0, first_token_s=5.0, tokens=101, gap_s=0.1)  # from 5 s to 15 s
    samples = [long, *(answer(place, tokens=1, output_tokens=0) for place in range(19))]
    assert series(samples, duration_s=20, slo_first_token_s=1).output_tokens_delivered == pytest.approx([50.5, 50.5])


def test_small_providers_go_together() -> None:
    samples = [answer(place % 60, provider=f"p{min(place, 12)}") for place in range(60)]
    cut = series(samples, duration_s=60, slo_first_token_s=1)
    assert len(cut.by_provider) == 10
    assert sum(cut.by_provider[OTHERS]) == 4


@given(st.floats(HISTOGRAM_FROM_S, 50_000))
def test_a_bin_holds_its_value(value_s: float) -> None:
    ((place, count),) = histogram([value_s]).items()
    assert count == 1
    edge_s = HISTOGRAM_FROM_S * HISTOGRAM_RATIO**place
    assert edge_s * (1 - 1e-9) <= value_s <= edge_s * HISTOGRAM_RATIO * (1 + 1e-9)
    assert histogram([0.0, 1e9]) == {0: 1, 1023: 1}
