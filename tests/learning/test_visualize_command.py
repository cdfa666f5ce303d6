"""``amaru visualize``: what it writes, and what it leaves alone."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from amaru.cli.main import build
from amaru.errors import ReportError
from amaru.learning.visualize import FIELD
from amaru.learning.visualize_baseline import read_standings

HEAD = "episode,q_table_size,avg_reward,epsilon,fill_rate,avg_cost,avg_latency"
OPTIONAL = ",best_reward,worst_reward,utility,requests,seconds"
pytestmark = pytest.mark.slow  # pictures are drawn

PNG = b"\x89PNG\r\n\x1a\n"
ALWAYS = {"training.html", "training_learning.png", "training_service.png", "training_exploration.png"}


def metrics(folder: Path, episodes: int, *, field: bool = False, name: str = "training_metrics.csv") -> Path:
    head = HEAD + OPTIONAL + ("," + ",".join(FIELD) + ",intervention" if field else "")
    lines = [head]
    for episode in range(1, episodes + 1):
        rising = 1 - 1 / episode
        cells = [episode, 10 * episode, rising, 0.2 / episode, 0.8 + rising / 10, 3.5 - rising, 350 - 40 * rising]
        cells += [rising + 0.1, rising - 0.1, 0.6 + rising / 10, 900, 1.5]
        asked = {3: "nigredo", 5: "albedo"}.get(episode, "")
        lines.append(",".join(map(str, cells + ([rising] * len(FIELD) + [asked] if field else []))))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def evaluation(folder: Path, **changed: Any) -> Path:
    def figure(value: float | None, sure: bool = True) -> dict[str, Any]:
        interval = {"low": value - 0.01, "high": value + 0.01} if sure and value is not None else None
        return {"value": value, "interval": interval}

    def standing(policy: str, role: str, utility: float, origin: str = "") -> dict[str, Any]:
        return {
            "policy": policy,
            "role": role,
            "origin": origin,
            "fill_rate": figure(0.85),
            "avg_cost_usd": figure(None),
            "avg_latency_ms": figure(340.0, sure=False),
            "mean_utility": figure(utility),
            "over_baseline": figure(utility - 0.61),
            "requests": 900,
        }

    standings = [
        standing("rules", "rule", 0.61),
        standing("random", "rule", 0.55),
        standing("hybrid", "learned", 0.67, "agent 3 of swarm_final.json"),
        standing("thompson", "learned", 0.64, "untrained"),
        standing("oracle", "reference", 0.7),
    ]
    told = {"schema": "amaru-evaluation-1", "baseline": "rules", "standings": standings, "worlds": []}
    path = folder / "evaluation.json"
    path.write_text(json.dumps({**told, **changed}), encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build(), ["visualize", *map(str, arguments)])


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_pictures_and_the_page_lie_beside_the_metrics(tmp_path: Path) -> None:
    result = run(metrics(tmp_path, 30))
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == ALWAYS | {"training_metrics.csv"}
    for name in ALWAYS - {"training.html"}:
        assert (tmp_path / name).read_bytes().startswith(PNG)
        assert name in result.output


def test_the_page_holds_every_picture_and_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    assert run(metrics(tmp_path, 30, field=True), "--out", out, "--baseline", evaluation(tmp_path)).exit_code == 0
    page = Page((out / "training.html").read_text("utf-8"))
    inside = {base64.b64decode(link.removeprefix("data:image/png;base64,")) for link in page.links}
    drawn = {path.read_bytes() for path in out.glob("*.png")}
    assert inside == drawn
    assert len(drawn) == 5
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "Trained, hybrid gets 0.0600 more utility than rules, the best rule" in page.words
    assert "The stability field asked for nigredo 1×, albedo 1×" in page.words
    assert re.search(r"requests served\s*89\.7 %", page.words)


def test_a_gain_whose_interval_holds_zero_is_not_sold_as_one(tmp_path: Path) -> None:
    path = evaluation(tmp_path)
    report = json.loads(path.read_text("utf-8"))
    for standing in report["standings"]:
        if standing["policy"] == "hybrid":
            standing["over_baseline"] = {"value": 0.004, "interval": {"low": -0.001, "high": 0.01}}
    path.write_text(json.dumps(report), "utf-8")
    assert run(metrics(tmp_path, 3), "--out", tmp_path / "out", "--baseline", path).exit_code == 0
    words = Page((tmp_path / "out" / "training.html").read_text("utf-8")).words
    assert "more utility than rules, the best rule: that could be chance" in words


def test_names_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    file = metrics(tmp_path, 3, name="<script>alert(1)</script>$x$.csv".replace("/", "∕"))
    assert run(file).exit_code == 0
    page = Page((tmp_path / "training.html").read_text("utf-8"))
    assert "script" not in page.tags
    assert "<script>alert(1)" in page.words


@pytest.mark.parametrize("row", ["1,10,0.5,0.2,0.9,3.5,320", "1,,,,,,", "1,0,0,0,0,,", "1000000,1,-1e9,1,1,1e9,1e-9"])
def test_one_episode_is_enough_and_gaps_do_no_harm(tmp_path: Path, row: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"{HEAD}\n{row}\n", encoding="utf-8")
    result = run(path)
    assert result.exit_code == 0, result.output
    assert "nan" not in Page((tmp_path / "training.html").read_text("utf-8")).words


def test_metrics_still_being_written_are_shown_and_said_to_be(tmp_path: Path) -> None:
    path = metrics(tmp_path, 4)
    path.write_text(path.read_text("utf-8") + "5,50,0.", encoding="utf-8")
    result = run(path)
    assert result.exit_code == 0
    assert "its last line is left out" in result.output
    assert "4 episodes; still being written" in (tmp_path / "training.html").read_text("utf-8")


def test_what_is_refused_leaves_earlier_pictures_alone(tmp_path: Path) -> None:
    path = metrics(tmp_path, 4)
    assert run(path).exit_code == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with path.open("a", encoding="utf-8") as file:
        file.write("5,what\n")
    before["training_metrics.csv"] = path.read_bytes()
    result = run(path)
    assert isinstance(result.exception, ReportError)
    assert f"{path}:6: has 2 cells" in str(result.exception)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_directory_that_cannot_be_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    path = metrics(tmp_path, 4)
    result = run(path, "--out", path / "deeper")
    assert isinstance(result.exception, ReportError)
    assert "is not a directory; name another directory with --out" in str(result.exception)


def test_an_evaluation_tells_who_was_trained_and_who_is_the_baseline(tmp_path: Path) -> None:
    standings = {standing.name: standing for standing in read_standings(evaluation(tmp_path))}
    assert [name for name, standing in standings.items() if standing.trained] == ["hybrid"]
    assert [name for name, standing in standings.items() if standing.is_baseline] == ["rules"]
    assert standings["oracle"].utility == 0.7
    assert standings["oracle"].gain == pytest.approx(0.09)
    assert standings["oracle"].gain_low == pytest.approx(0.08)
    assert standings["oracle"].avg_cost_usd is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schema": "other"}, "schema: 'other' is not amaru-evaluation-1"),
        ({"standings": [{"policy": "x"}]}, r"`\$\.standings\[0\]`"),
        ({"baseline": None}, r"`\$\.baseline`"),
    ],
)
def test_another_json_is_no_evaluation(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ReportError, match=said):
        read_standings(evaluation(tmp_path, **changed))
    with pytest.raises(ReportError, match="No such file"):
        read_standings(tmp_path / "none.json")
