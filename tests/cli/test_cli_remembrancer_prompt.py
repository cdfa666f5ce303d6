"""``remembrancer prompt`` where it cannot tell: it says why, and makes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode
from amaru.ledger.marks import PromptMarks
from amaru.ledger.place import Place, found, load_salt, open_log
from amaru.ledger.receipts import Decision, leaf_of, rfc3339

BODY = b'{"model": "sim", "messages": [{"role": "user", "content": "hi"}]}'
MESSAGES = b'[{"role": "user", "content": "hi"}]'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Of a ledger that is not there yet, in the folder where commands run."""
    monkeypatch.chdir(tmp_path)
    for name in ("AMARU_LEDGER", "AMARU_LEDGER_INDEX", "AMARU_CONFIG", "AMARU_STORAGE__PATH", "AMARU_LEDGER__URL"):
        monkeypatch.delenv(name, raising=False)
    Path("body.json").write_bytes(BODY)
    return Place.of("amaru-data/ledger", tmp_path)


def refused(*arguments: str, code: ExitCode = ExitCode.FAILED) -> str:
    """Why it cannot be told."""
    done = CliRunner().invoke(app, ["prompt", *arguments, "--tenant", "team", "--json"], catch_exceptions=False)
    assert done.exit_code == code, done.output
    error = json.loads(done.stdout)["error"]
    assert error["exit"] == code
    said: str = error["message"]
    return said


def record(kind: str) -> None:
    done = CliRunner().invoke(app, ["record", kind, "--component", "gateway"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_a_mark_needs_the_salt_alone_and_no_log(place: Place) -> None:
    mark = PromptMarks(load_salt(place)).mark("team", MESSAGES)
    done = CliRunner().invoke(app, ["prompt", "body.json", "--tenant", "team"], catch_exceptions=False)
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, mark)


def test_without_a_salt_none_is_made(place: Place) -> None:
    assert "there is no salt" in refused("body.json")
    assert not place.keys.exists()


def test_a_salt_that_cannot_be_read_is_said_to_be_its_owners(place: Place) -> None:
    place.salt.mkdir(parents=True)  # permissions keep nothing from root
    assert "the salt cannot be read: Is a directory; it is for the ledger's owner alone" in refused("body.json")


def test_a_salt_that_is_cut_short_is_refused(place: Place) -> None:
    load_salt(place)
    place.salt.write_bytes(b"short")
    assert "holds 5 bytes, not 32" in refused("body.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Say hello.", "body.json: is not JSON"),
        (b"", "body.json: is not JSON"),
        (b'{"model": "sim"}', "body.json: has none of messages, prompt, input"),
        (b'{"messages": [], "prompt": "x"}', "body.json: has messages and prompt"),
    ],
)
def test_a_file_without_a_prompt_is_refused(place: Place, content: bytes, said: str) -> None:
    load_salt(place)
    Path("body.json").write_bytes(content)
    assert refused("body.json").startswith(said)


@pytest.mark.parametrize("file", ["missing.json", ".", "no\0file"])
def test_a_file_that_cannot_be_read_is_named(place: Place, file: str) -> None:
    load_salt(place)
    assert refused(file).startswith(f"{file}: cannot be read")


def test_a_file_longer_than_any_prompt_is_refused_unread(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    load_salt(place)
    monkeypatch.setattr("amaru.cli.remembrancer_prompt.MOST_MIB", 0)
    assert "has more than 0 MiB" in refused("body.json")


def test_a_tenants_name_is_text(place: Place) -> None:
    load_salt(place)
    done = CliRunner().invoke(app, ["prompt", "body.json", "--tenant", "\udcff", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["error"]["message"] == "--tenant: is no text in UTF-8"
    assert done.exit_code == ExitCode.USAGE


def test_receipts_that_hold_no_mark_are_told_apart_from_a_no(place: Place) -> None:
    load_salt(place)
    assert "there is no ledger yet" in refused("body.json", "--receipt", "#0")
    record("discovery")
    record("decision")
    assert "is no decision" in refused("body.json", "--receipt", "#0")
    assert "holds no mark" in refused("body.json", "--receipt", "#1")
    assert "this log has no #2" in refused("body.json", "--receipt", "#2", code=ExitCode.NOT_FOUND)


def test_a_pruned_receipt_is_said_to_be_erased(place: Place) -> None:
    found(place)
    mark = PromptMarks(load_salt(place)).mark("team", MESSAGES)
    with open_log(place) as log:
        old = Decision(at=rfc3339(0.0), component="ai-mesh", ref="d1", tenant="team", prompt=mark)
        log.append([leaf_of(old)] * 256)
    prune = ["prune", "--before", "2026-01-01", "--yes"]
    assert CliRunner().invoke(app, prune, catch_exceptions=False).exit_code == 0
    assert "was pruned" in refused("body.json", "--receipt", "#7", code=ExitCode.PRUNED)
