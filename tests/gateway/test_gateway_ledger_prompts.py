"""Who runs a gateway can tell of a prompt that they kept whether a decision was about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_world import OTHER_KEY, MakeWorld
from typer.testing import CliRunner

from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode

ON: dict[str, Any] = {"extra": {"ledger": {"prompt_kib": 1}}}
OTHER = {"authorization": f"Bearer {OTHER_KEY}"}

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks about a prompt, and expects the exit status; gives the document, or the text without ``--json``."""
    for name in ("AMARU_LEDGER", "AMARU_LEDGER_INDEX", "AMARU_STORAGE__PATH", "AMARU_LEDGER__URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AMARU_CONFIG", str(tmp_path / "amaru.yaml"))

    def ask_one(*arguments: str, sent: bytes, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["prompt", "-", *arguments], input=sent, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    return ask_one


async def test_a_prompt_is_told_from_others_by_its_tenants_receipt(make_world: MakeWorld, ask: Ask) -> None:
    async with make_world(**ON) as world:
        answers = {
            "ours": await world.chat("the plan — für alle"),
            "another": await world.chat("another plan"),
            "theirs": await world.chat("the plan — für alle", headers=OTHER),
            "long": await world.chat("x" * 2000),
            "completion": await world.client.post(
                "/v1/completions", json={"model": "sim", "prompt": ["Say", "hello."]}
            ),
            "embedding": await world.client.post("/v1/embeddings", json={"model": "sim-embed", "input": "hello"}),
        }
        assert {answer.status_code for answer in answers.values()} == {200}
    ids = {name: answer.headers["x-amaru-receipt"] for name, answer in answers.items()}
    sent = {name: answer.request.content for name, answer in answers.items()}

    for name, tenant in (("ours", "team"), ("theirs", "other"), ("completion", "team"), ("embedding", "team")):
        found = ask("--tenant", tenant, "--receipt", ids[name], "--json", sent=sent[name])
        assert (found["holds"], found["id"], found["tenant"]) == (True, ids[name], tenant)
        assert found["held"] == found["mark"]
        assert found["decision"] == answers[name].headers["x-amaru-decision"]
        assert found["proof"]["proved"] is True
        assert ask("--tenant", tenant, "--json", sent=sent[name]) == {"mark": found["mark"], "tenant": tenant}
    assert "Yes: the decision" in ask("--tenant", "team", "--receipt", ids["ours"][:8], sent=sent["ours"])
    alone = json.dumps(json.loads(sent["ours"])["messages"], ensure_ascii=False, separators=(",", ":")).encode()
    assert alone in sent["ours"]
    ask("--tenant", "team", "--receipt", ids["ours"], sent=b" " + alone + b"\n")

    no = ExitCode.UNPROVEN
    found = ask("--tenant", "team", "--receipt", ids["another"], "--json", sent=sent["ours"], code=no)
    assert (found["holds"], found["held"] == found["mark"]) == (False, False)
    said = ask("--tenant", "team", "--receipt", ids["theirs"], sent=sent["ours"], code=no)
    assert "a request of tenant other, not of team" in said
    spaced = json.dumps(json.loads(alone), ensure_ascii=False, indent=1).encode()
    assert "other white space" in ask("--tenant", "team", "--receipt", ids["ours"], sent=spaced, code=no)

    found = ask("--tenant", "team", "--receipt", ids["long"], "--json", sent=sent["long"], code=ExitCode.FAILED)
    assert "longer than ledger.prompt_kib" in found["error"]["message"]


async def test_the_mark_finds_the_receipts(make_world: MakeWorld, ask: Ask) -> None:
    async with make_world(**ON) as world:
        answers = [await world.chat(content) for content in ("again", "again", "once")]
    said = ask("--tenant", "team", sent=answers[0].request.content)
    mark, _, hint = said.partition("\n")
    command = hint.split("remembrancer ")[1].split()
    assert command == ["query", f"digest:{mark}"]
    done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    found = [one["id"] for one in json.loads(done.stdout)["receipts"]]
    assert found == [answer.headers["x-amaru-receipt"] for answer in reversed(answers[:2])]
