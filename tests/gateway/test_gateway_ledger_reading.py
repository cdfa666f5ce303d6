"""Whoever asks gets the proofs, and the log's own files: and with them can check all that the gateway says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_world import OPERATOR_KEY, OTHER_KEY, MakeWorld, World
from typer.testing import CliRunner

from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode
from amaru.ledger.checkpoint import verify_checkpoint
from amaru.ledger.merkle import leaf_hash, root_of
from amaru.ledger.proofs import Proofs
from amaru.ledger.receipts import Outcome, read_leaf
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.tiles import decode_entries
from amaru.ledger.tlog_proof import parse_tlog_proof
from amaru.ledger.trust import parse_trust

ON: dict[str, Any] = {"extra": {"ledger": {}}}
OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}


async def proven(world: World, decision_id: str, *, receipts: int = 1) -> dict[str, Any]:
    """What the decision's page says of the ledger, once so many receipts are published."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(60.0):
            while not found or found["state"] == "pending" or len(found["receipts"]) < receipts:
                await asyncio.sleep(0.01)
                found = (await world.client.get(f"/decisions/{decision_id}")).json()["ledger"]
    except TimeoutError:
        status = (await world.client.get("/status", headers=OPERATOR)).json()["ledger"]
        pytest.fail(f"it is not published: {found}; the ledger: {status}")
    return found


async def ledger_file(world: World, name: str, **headers: str) -> httpx.Response:
    return await world.client.get(f"/ledger/{name}", headers=headers or OPERATOR)


async def test_a_decisions_page_proves_its_receipt_once_it_is_published(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answers = [await world.chat() for _ in range(20)]
        keys = parse_trust((await ledger_file(world, "vkey")).text, where="vkey").verifiers
        for answer in answers:
            found = await proven(world, answer.headers["x-amaru-decision"])
            assert found["state"] == "logged"
            (receipt,) = found["receipts"]
            assert receipt["type"] == "decision"
            assert receipt["hash"] == answer.headers["x-amaru-receipt"]
            leaf = leaf_hash(receipt["entry"].encode())
            assert leaf.hex() == receipt["hash"]
            proof = parse_tlog_proof(receipt["proof"].encode())
            assert proof.index == receipt["index"]
            proof.verify(leaf, keys)


async def test_a_streams_page_proves_decision_and_outcome(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        response, _ = await world.stream()
        found = await proven(world, response.headers["x-amaru-decision"], receipts=2)
        assert [one["type"] for one in found["receipts"]] == ["decision", "outcome"]
        assert found["receipts"][0]["hash"] == response.headers["x-amaru-receipt"]


async def test_what_was_reported_is_proven_beside_its_decision(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        decision = (await world.client.post("/agent/route", json={"model": "sim"})).json()
        await world.client.post("/agent/feedback", json={"decision_id": decision["id"], "ok": True, "latency_ms": 9.0})
        found = await proven(world, decision["id"], receipts=2)
        outcome = read_leaf(found["receipts"][1]["entry"].encode())
        assert isinstance(outcome, Outcome)
        assert (outcome.by, outcome.outcome.latency_ms) == ("team", 9.0)


async def test_a_decision_that_was_not_logged_says_so(make_world: MakeWorld) -> None:
    async with make_world(extra={"ledger": {"decisions": 0}}) as world:
        answer = await world.chat()
        assert "x-amaru-receipt" not in answer.headers
        shown = (await world.decision(answer))["ledger"]
        assert (shown["state"], shown["receipts"]) == ("not_sampled", [])
        assert shown["words"] == "Not among the share of decisions that is logged now."
    async with make_world() as world:
        assert (await world.decision(await world.chat()))["ledger"] is None


async def test_the_files_served_are_the_whole_log(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answers = [await world.chat() for _ in range(30)]
        await proven(world, answers[-1].headers["x-amaru-decision"])
        note, keys = await ledger_file(world, "checkpoint"), await ledger_file(world, "vkey")
        assert note.headers["cache-control"] == "no-cache"
        head = verify_checkpoint(note.content, parse_trust(keys.text, where="vkey").verifiers)
        assert head.size >= 30
        bundle = await ledger_file(world, f"tile/entries/000.p/{head.size}")
        assert bundle.headers["cache-control"] == "private, max-age=31536000, immutable"
        entries = decode_entries(bundle.content, width=head.size)
        assert root_of([leaf_hash(entry) for entry in entries]) == head.root
        assert {answer.headers["x-amaru-receipt"] for answer in answers} == {leaf_hash(e).hex() for e in entries}
        tile = await ledger_file(world, f"tile/0/000.p/{head.size}")
        assert tile.content == b"".join(leaf_hash(entry) for entry in entries)


async def test_a_narrower_tile_is_cut_from_the_one_that_replaced_it(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answers: list[httpx.Response] = []
        while len(answers) < 300:  # not all at once, for the sake of slow machines
            answers += await asyncio.gather(*(world.chat() for _ in range(20)))
        await asyncio.gather(*(proven(world, answer.headers["x-amaru-decision"]) for answer in answers))
        whole, narrow = await ledger_file(world, "tile/0/000"), await ledger_file(world, "tile/0/000.p/7")
        assert narrow.content == whole.content[: 7 * 32]
        bundle = decode_entries((await ledger_file(world, "tile/entries/000.p/7")).content, width=7)
        assert [leaf_hash(entry) for entry in bundle] == [narrow.content[at : at + 32] for at in range(0, 7 * 32, 32)]


@pytest.mark.parametrize(
    "name",
    [
        "tile/0/999", "tile/0/000.p/255", "tile/9/000", "tile/0/x000/000", "tile/0/0", "tile/-1/000", "tile/0/000.p/0",
        "tile/0/000.p/256", "tile/../checkpoint", "tile/%2e%2e/checkpoint", "tile/..%2f..%2fledger.keys%2fsalt",
        "tile/entries/../../../ledger.keys/salt", "..%2fledger.keys/salt", "%2e%2e/ledger.keys/signing-key", "journal",
        "journal/current", "lock", "seen", "tile/", "tile//etc/passwd", "tile/0/000%00",
        "checkpoints/../../ledger.keys/salt", "checkpoints/..%2f..%2fledger.keys%2fsalt", "checkpoints/999",
        "checkpoints/000.p/0", "checkpoints/000.p/999", "checkpoints/.", "checkpoints/..", "checkpoints/x000/../000",
        "checkpoints//", "checkpoints/x001/x002/x003/004", "checkpoints/000.p/1/", "checkpoints%2f..%2fvkey",
        "proofs", "proofs/", "proofs/..", "proofs/../checkpoint", "proofs/checkpoints/0/1/../../../../vkey",
        "proofs/checkpoints/0/1/1.pem", "proofs/checkpoints/%2e%2e/%2e%2e/1.asc", "proofs/artifacts/", "proofs/seen",
        "proofs/artifacts/ab/", "proofs/artifacts/../../../ledger.keys/salt", "proofs/checkpoints/٣/",
    ],
)  # fmt: skip
async def test_nothing_else_is_served(make_world: MakeWorld, name: str) -> None:
    async with make_world(**ON) as world:
        await proven(world, (await world.chat()).headers["x-amaru-decision"])
        target = f"GET /ledger/{name} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPERATOR_KEY}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)  # no client tidies the path
        writer.write(target.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert head.split()[1] in (b"400", b"404"), head


async def test_the_log_is_for_operators_unless_it_is_public(make_world: MakeWorld) -> None:
    async with make_world(**ON) as world:
        answer = await world.chat()
        await proven(world, answer.headers["x-amaru-decision"])
        assert (await ledger_file(world, "checkpoint", authorization=f"Bearer {OTHER_KEY}")).status_code == 403
        assert (await ledger_file(world, "vkey", authorization="Bearer nobody's")).status_code == 403
        world.reload(ledger={"public": True})
        stranger = await ledger_file(world, "checkpoint", authorization="")
        assert stranger.status_code == 200
        tile = await ledger_file(world, "tile/0/000.p/1", authorization="")
        assert tile.headers["cache-control"].startswith("public")
        another = await world.client.get(
            f"/decisions/{answer.headers['x-amaru-decision']}", headers={"authorization": f"Bearer {OTHER_KEY}"}
        )
        assert another.status_code == 404


async def test_an_auditor_from_afar_holds_the_log_to_all_that_it_published(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads HTTP by aiohttp")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    async with make_world(extra={"ledger": {"public": True}}) as world:
        for _ in range(3):
            await proven(world, (await world.chat()).headers["x-amaru-decision"])
        url = f"{world.base_url}/ledger"

        async def verify_audit(code: int) -> dict[str, Any]:
            arguments = ["verify-audit", "--ledger", url, "--json"]
            done = await asyncio.to_thread(CliRunner().invoke, app, arguments, catch_exceptions=False)
            assert done.exit_code == code, done.output
            report: dict[str, Any] = json.loads(done.stdout)
            return report

        report = await verify_audit(0)
        assert (report["ok"], report["history"]) == (True, "complete")
        assert report["checkpoints"] >= 3
        folder = tmp_path / "ledger/checkpoints/000.p"
        assert set(links(await ledger_file(world, "checkpoints/000.p/"))) == set(os.listdir(folder))
        shutil.move(folder.parent, tmp_path / "aside")
        assert (await verify_audit(ExitCode.NO_HISTORY))["history"] == "not available"
        shutil.move(tmp_path / "aside", folder.parent)
        Proofs(FolderStore(tmp_path / "ledger")).keep_stamp(
            (await ledger_file(world, "checkpoint")).content, b"a stamp", checkpoint=True
        )
        (shard,) = links(await ledger_file(world, "proofs/checkpoints/"))
        (size,) = links(await ledger_file(world, f"proofs/checkpoints/{shard}/"))
        at = f"proofs/checkpoints/{shard}/{size}"
        name, note = links(await ledger_file(world, f"{at}/"))
        assert note == "checkpoint"
        stamp = await ledger_file(world, f"{at}/{name}")
        assert (stamp.content, stamp.headers["content-type"]) == (b"a stamp", "application/timestamp-reply")
        moved = await ledger_file(world, at)
        assert (moved.status_code, moved.headers["location"]) == (308, f"{size}/")


def links(page: httpx.Response) -> list[str]:
    assert page.status_code == 200
    return re.findall('href="([^"]+)"', page.text)


async def test_an_operator_audits_from_afar_what_is_not_public(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/guides/operate.md has it: the key goes to fsspec, by its own variable."""
    pytest.importorskip("aiohttp", reason="as above")
    async with make_world(**ON) as world:
        await proven(world, (await world.chat()).headers["x-amaru-decision"])
        command = [sys.executable, "-c", "from amaru.cli.remembrancer import main; main()", "verify-audit"]
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
        for headers, code in ((OPERATOR, 0), ({}, ExitCode.FAILED)):
            process = await asyncio.create_subprocess_exec(
                *command,
                "--ledger",
                f"{world.base_url}/ledger",
                env={**environment, "FSSPEC_HTTP": json.dumps({"headers": headers})},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await process.communicate()
            assert process.returncode == code, said
            assert OPERATOR_KEY.encode() not in said


async def test_without_a_ledger_there_are_no_files(world: World) -> None:
    assert (await ledger_file(world, "checkpoint")).status_code == 404
