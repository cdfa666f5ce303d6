"""``amaru artifacts``: from a training's file to a promoted version and back."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner, Result

from amaru.cli.main import build
from amaru.errors import ArtifactError
from amaru.learning.artifacts import ArtifactStore
from amaru.learning.swarm_files import SwarmFile, TrainedAgent, save_swarm_file
from amaru.routing.policies import make_policy

COMMAND = "amaru evaluate --ai-agents swarm_final.json"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def swarm(tmp_path: Path) -> Path:
    """Two agents, of which the second is better."""
    return trained(tmp_path / "swarm_final.json", 0.25)


def trained(path: Path, epsilon: float) -> Path:
    agents = tuple(
        TrainedAgent(
            id=place + 7,
            policy=name,
            knobs={"epsilon": epsilon},
            score=0.5 + place / 10,
            state=make_policy(name).state(),
        )
        for place, name in enumerate(("qlearning", "thompson"))
    )
    save_swarm_file(
        SwarmFile(
            source=path,
            created="2026-03-01T12:00:00Z",
            seed=3,
            worlds="hidden-train-v1",
            episodes=400,
            best=1,
            agents=agents,
        )
    )
    return path


def evaluation(path: Path, **standing: object) -> Path:
    one = {
        "policy": "thompson",
        "origin": "agent 8 of swarm_final.json",
        "mean_utility": {"value": 0.81, "interval": {"low": 0.8, "high": 0.82}},
    }
    setup = {"scenario": "hidden-eval-v1", "command": COMMAND}
    path.write_text(json.dumps({"setup": setup, "standings": [{**one, **standing}], "else": None}))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build(), ["artifacts", *map(str, arguments)])


def said(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, ArtifactError), result.output
    return str(result.exception)


def test_from_a_training_to_a_promoted_version_and_back(swarm: Path, tmp_path: Path) -> None:
    first = said("publish", swarm, "--to", "store", "--note", "of March")
    assert first.startswith("v1: thompson, ")
    assert "amaru artifacts promote store v1" in first
    again = said("publish", swarm, "--to", "store")
    assert "v1 at store holds exactly this thompson: nothing new was published" in again
    second = said("publish", trained(tmp_path / "other.json", 0.125), "--to", "store", "--promote", "--parent", "v1")
    assert second.startswith("v2: thompson")
    assert "v2 is promoted" in second
    assert said("promote", "store", "v1") == "v1 is promoted; it was v2\n"
    assert said("promote", "store", "v1") == "v1 is promoted already\n"
    assert said("rollback", "store") == "v2 is promoted again; it was v1\n"
    lines = said("list", "store").splitlines()
    assert [line.split()[0] for line in lines] == ["version", "v1", "v2"]
    assert ["promoted" in line for line in lines] == [False, False, True]
    assert "0.6000" in lines[1]
    assert "of March" in lines[1]
    assert "hidden-train-v1" in lines[1]
    shown = said("show", "store")
    for word in ("v2 (promoted)", "epsilon 0.125", "(checked)", "hidden-train-v1", "400", "mean utility in training"):
        assert word in shown
    artifact = ArtifactStore("store").load()
    assert artifact.make().name == "thompson"
    assert artifact.manifest.parent == "v1"
    assert artifact.manifest.trained.digest.startswith("blake2b:")


def test_programs_get_json(swarm: Path) -> None:
    published = json.loads(said("publish", swarm, "--to", "store", "--promote", "--json"))
    assert (published["version"], published["new"], published["promoted"]) == ("v1", True, True)
    listed = json.loads(said("list", "store", "--json"))
    assert listed["url"] == "store"
    assert listed["versions"][0]["promoted"] is True
    assert listed["versions"][0]["manifest"]["trained"]["episodes"] == 400
    shown = json.loads(said("show", "store", "--json"))
    assert shown["manifest"] == listed["versions"][0]["manifest"]
    assert json.loads(said("promote", "store", "v1", "--json")) == {
        "url": "store", "promoted": "v1", "before": "v1", "receipt": None,
    }  # fmt: skip


def test_a_score_that_was_measured_comes_with_interval_and_command(swarm: Path, tmp_path: Path) -> None:
    said("publish", swarm, "--to", "store", "--score", evaluation(tmp_path / "evaluation.json"))
    assert "0.8100 [0.8000, 0.8200]" in said("list", "store")
    shown = said("show", "store", "latest")
    assert COMMAND in shown
    assert "hidden-eval-v1" in shown


@pytest.mark.parametrize(
    ("standing", "says"),
    [
        ({"policy": "hybrid"}, "thompson did not play there, hybrid did"),
        ({"origin": "untrained"}, "standings[0].origin: that thompson is untrained, not agent 8 of swarm_final.json"),
        ({"origin": "agent 7 of swarm_final.json"}, "not agent 8"),
        ({"mean_utility": {"value": None}}, "not a report of amaru evaluate"),
    ],
)
def test_a_score_of_something_else_is_refused(
    swarm: Path, tmp_path: Path, standing: dict[str, object], says: str
) -> None:
    report = evaluation(tmp_path / "evaluation.json", **standing)
    message = refused("publish", swarm, "--to", "store", "--score", report)
    assert says in message
    assert str(report) in message
    assert not Path("store").exists()


def test_what_is_no_training_is_not_published(swarm: Path, tmp_path: Path) -> None:
    assert "none.json: cannot be read" in refused("publish", tmp_path / "none.json", "--to", "store")
    swarm.write_bytes(swarm.read_bytes()[:-20])
    assert f"nothing was published: {swarm}" in refused("publish", swarm, "--to", "store")
    assert not Path("store").exists()


def test_a_state_that_no_policy_takes_is_not_published(swarm: Path) -> None:
    document = json.loads(swarm.read_bytes())
    document["agents"][1]["state"] = document["agents"][0]["state"]
    swarm.write_text(json.dumps(document))
    assert f"nothing was published: {swarm}: agents[1]" in refused("publish", swarm, "--to", "store")
    assert not Path("store").exists()


def test_an_unreadable_version_stands_in_the_list(swarm: Path) -> None:
    said("publish", swarm, "--to", "store", "--promote")
    Path("store/manifests/v1.json").write_text("{")
    result = run("list", "store")
    assert result.exit_code == 0
    assert "unreadable" in result.stdout
    assert "v1 cannot be used: store/manifests/v1.json: not JSON, or cut short" in result.stderr


def test_an_empty_store_says_so() -> None:
    assert said("list", "store") == "store: nothing is published there; begin with amaru artifacts publish\n"
    assert "nothing is published there" in refused("show", "store")
    assert "nothing is promoted" in refused("rollback", "store")
    assert not Path("store/promoted.json").exists()


def test_on_s3_with_nothing_but_the_environment(swarm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # Not the bucket of other tests: moto keeps one world per process.
        boto3.client("s3").create_bucket(Bucket="shelf")
        assert "v1 is promoted" in said("publish", swarm, "--to", "s3://shelf/amaru", "--promote")
        assert "v1 (promoted)" in said("show", "s3://shelf/amaru")
    finally:
        server.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # this one's server is gone
