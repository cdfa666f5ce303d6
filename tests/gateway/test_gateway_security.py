"""What must never be seen: keys, prompts, completions, providers' addresses, and other tenants' decisions."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from gateway_world import KEY, OPERATOR_KEY, OTHER_KEY, PROVIDER_KEY, MakeWorld, World, digest, text_of
from test_gateway_process import settings_for, start

from amaru.config import load
from amaru.errors import ConfigError
from amaru.http1 import HttpServer, Request
from amaru.telemetry import logs

SECRET_WORDS = "violet-marmalade-4711"
"""Stands in prompts, and in what providers say of them; no figure and no name of ours can hold it by chance."""

HURRY = {"deadline_ms": 600}
"""Nobody waits for a broken provider to come back."""

OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
OTHER = {"authorization": f"Bearer {OTHER_KEY}"}


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """All that is logged, by amaru at any level and by libraries."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    with caplog.at_level(logging.DEBUG):
        yield stream
    logs.unconfigure()


async def kept(world: World, log_lines: io.StringIO, caplog: pytest.LogCaptureFixture) -> str:
    """All that amaru kept or showed of what happened: logs, figures, decisions, and the store's files byte for byte."""
    found = []
    for path in ("/status", "/metrics", "/providers", "/decisions?limit=500", "/health"):
        answer = await world.client.get(path, headers=OPERATOR)
        assert answer.status_code in (200, 503)
        found += [str(answer.headers), answer.text]
        if path.startswith("/decisions"):
            assert answer.json()["decisions"]
            for decision in answer.json()["decisions"]:
                found.append((await world.client.get(f"/decisions/{decision['id']}", headers=OPERATOR)).text)
    await world.mesh.store.flush()
    for file in sorted(world.config_path.parent.glob("test.db*")):
        found.append(file.read_bytes().decode("latin-1"))
    logs.unconfigure()  # writes what waits
    amaru = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    return "\n".join([*found, log_lines.getvalue(), *amaru])


# ---- keys and texts -------------------------------------------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    **{f"status {code}": {"kind": "status", "status": code} for code in (400, 401, 402, 403, 404, 422, 429, 500, 503)},
    "too long": {"kind": "status", "code": "context_length_exceeded"},
    "rejected": {"kind": "status", "code": "content_policy_violation"},
    "error in 200": {"kind": "error_in_200", "status": 500},
    "error in stream": {"kind": "error_in_stream", "status": 500},
    "refused connection": {"kind": "refuse"},
    "cut": {"kind": "cut"},
    "garbage": {"kind": "garbage"},
    "half a character": {"kind": "truncated_utf8"},
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_keys_are_never_seen(
    make_world: MakeWorld, fault: dict[str, Any], log_lines: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where a provider repeats the key it was called with: whole, in a field of its own, or split by its words."""
    async with make_world(("alpha",), routing=HURRY) as world:
        assert (await world.chat()).status_code == 200
        world.break_("alpha", message=f"Incorrect key {PROVIDER_KEY} (Bearer {PROVIDER_KEY})", **fault)
        whole = await world.chat()
        stream, lines = await world.stream()
        page = await world.client.get(f"/decisions/{whole.headers['x-amaru-decision']}")
        found = await kept(world, log_lines, caplog)
        found += "\n".join([whole.text, str(whole.headers), str(stream.headers), *lines, page.text])
    for key in (PROVIDER_KEY, KEY, OPERATOR_KEY, OTHER_KEY):
        assert key not in found
        assert digest(key) not in found


@pytest.mark.parametrize("name", FAULTS.keys())
async def test_texts_are_never_kept_even_where_a_provider_repeats_them(
    make_world: MakeWorld, name: str, log_lines: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_world(routing=HURRY) as world:
        headers = {"x-amaru-session": SECRET_WORDS}
        answer = await world.chat(SECRET_WORDS, headers=headers, user=SECRET_WORDS)
        completion = answer.json()["choices"][0]["message"]["content"]
        _, lines = await world.stream(messages=[{"role": "user", "content": SECRET_WORDS}], headers=headers)
        for provider in world.providers:
            world.break_(provider, message=f"This cannot be served: {SECRET_WORDS}", **FAULTS[name])
        await world.chat(SECRET_WORDS, headers=headers)
        _, broken = await world.stream(messages=[{"role": "user", "content": SECRET_WORDS}], headers=headers)
        await world.chat(SECRET_WORDS, model=SECRET_WORDS)
        await world.client.post("/v1/chat/completions", content=f'{{"model": "sim", "messages": "{SECRET_WORDS}"}}')
        await world.client.post("/v1/chat/completions", content=f'{{"model": "sim", "{SECRET_WORDS}')
        await world.client.post("/v1/completions", json={"model": "sim", "prompt": SECRET_WORDS})
        await world.client.post("/v1/embeddings", json={"model": "sim-embed", "input": SECRET_WORDS})
        found = await kept(world, log_lines, caplog)
    for text in (SECRET_WORDS, completion, text_of(lines)):
        assert len(text) > 10
        assert text not in found
    assert len(text_of(broken)) < 10 or text_of(broken) not in found


async def test_bodies_of_broken_handlers_are_not_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, log_lines: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug on our side gets a 500 that tells nothing, and a trace without the request's text."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.mesh, "begin", broken)
    answer = await world.chat(SECRET_WORDS)
    assert answer.status_code == 500
    assert "bug" not in answer.text
    monkeypatch.undo()
    await world.chat()
    found = await kept(world, log_lines, caplog)
    assert "a bug" in found
    assert SECRET_WORDS not in found
    assert KEY not in found


async def test_callers_key_is_never_sent_to_a_provider(world: World) -> None:
    await world.chat(headers={"x-api-key": KEY, "cookie": f"key={KEY}", "openai-organization": KEY})
    received = str([(item.headers, item.body) for item in world.providers["alpha"].received])
    assert PROVIDER_KEY in received
    assert KEY not in received


def test_keys_are_hashed_at_rest(tmp_path: Path) -> None:
    settings = settings_for("http://127.0.0.1:9")
    settings["tenants"]["team"]["keys"] = [{"env": "TEAM_KEY"}]
    settings["providers"]["slow"]["key_env"] = "SIM_KEY"
    path = tmp_path / "amaru.yaml"
    path.write_text(json.dumps(settings))
    config = load(path, {"TEAM_KEY": KEY, "SIM_KEY": PROVIDER_KEY})
    shown = repr(config) + repr(config.file) + repr(config.providers()) + repr(config.key_ring())
    assert KEY not in shown
    assert PROVIDER_KEY not in shown
    assert config.key_ring().tenant_of(f"Bearer {KEY}".encode()).key_hashes == (digest(KEY),)


async def test_unknown_and_revoked_keys_look_the_same(world: World) -> None:
    unknown = await world.chat(headers={"authorization": "Bearer sk-amaru-never-seen"})
    world.reload(tenants={"other": {"keys": [{"sha256": digest(OTHER_KEY)}]}})
    revoked = await world.chat()
    assert revoked.status_code == unknown.status_code == 401
    assert revoked.text == unknown.text
    assert set(revoked.headers) == set(unknown.headers)


# ---- providers' addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refuse", "reset", "hang"])
async def test_tenants_do_not_see_where_providers_live(make_world: MakeWorld, kind: str) -> None:
    async with make_world(("alpha",), routing={"answer_ms": 100, "first_token_ms": 100}) as world:
        port = world.providers["alpha"].base_url.split(":")[2].split("/")[0]
        world.break_("alpha", kind)
        answer = await world.chat()
        stream, lines = await world.stream()
        identity = answer.headers["x-amaru-decision"]
        page = await world.client.get(f"/decisions/{identity}")
        assert page.json()["attempts"][0]["failure"]
        seen = [answer.text, str(answer.headers), str(stream.headers), *lines, page.text]
        paths = ("/decisions", "/providers", "/providers/alpha", "/health", "/v1/models")
        seen += [(await world.client.get(path)).text for path in paths]
        assert port not in "\n".join(seen)
        assert "detail" not in page.json()["attempts"][0]
        for_operators = (await world.client.get(f"/decisions/{identity}", headers=OPERATOR)).json()
        assert for_operators["attempts"][0]["detail"]
        assert (await world.client.get("/decisions", headers=OPERATOR)).json()["decisions"][0]["attempts"][0]["detail"]


async def test_failing_store_is_told_without_its_place(world: World, log_lines: io.StringIO) -> None:
    """Its path and the cause are for the log."""
    decision = (await world.client.post("/agent/route", json={"model": "sim"})).json()["id"]
    await world.mesh.store.flush()
    for file in world.config_path.parent.glob("test.db*"):
        file.write_bytes(b"\0" * 4096)
    for answer in (
        await world.client.get("/decisions"),
        await world.client.post("/agent/feedback", json={"decision_id": decision, "ok": True}),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["message"].startswith("The store of decisions is not available now")
    logs.unconfigure()
    assert "test.db" in log_lines.getvalue()
    assert (await world.chat()).status_code == 200


# ---- other tenants --------------------------------------------------------------------------------------------------


@pytest.fixture
async def secret(world: World) -> tuple[World, str, str]:
    """A served and a recommended decision of tenant ``team``."""
    served = await world.chat()
    recommended = await world.client.post("/agent/route", json={"model": "sim"})
    return world, served.headers["x-amaru-decision"], recommended.json()["id"]


async def test_decisions_are_their_tenants_alone(secret: tuple[World, str, str]) -> None:
    world, *ids = secret
    for identity in ids:
        foreign = await world.client.get(f"/decisions/{identity}", headers=OTHER)
        unknown = await world.client.get(f"/decisions/{'f' * 32}", headers=OTHER)
        assert (foreign.status_code, foreign.text) == (404, unknown.text)
        assert (await world.client.get(f"/decisions/{identity}")).json()["tenant"] == "team"


@pytest.mark.parametrize(
    "query",
    ["", "tenant=team", "tenant=other&tenant=team", "tenant=team&tenant=other", "tenant=", "limit=500&ok=true",
     "resource=sim", "offer=alpha/sim", "since=0", f"cursor={'f' * 32}", "tenant=%25", "tenant=team&resource=sim"],
)  # fmt: skip
async def test_no_query_leads_to_anothers_decisions(secret: tuple[World, str, str], query: str) -> None:
    world, served, recommended = secret
    own = (await world.client.post("/agent/route", json={"model": "sim"}, headers=OTHER)).json()["id"]
    answer = await world.client.get(f"/decisions?{query}", headers=OTHER)
    assert answer.status_code == 200
    assert {decision["id"] for decision in answer.json()["decisions"]} <= {own}
    assert served not in answer.text
    assert recommended not in answer.text


async def test_feedback_on_anothers_decision_is_refused_as_unknown(secret: tuple[World, str, str]) -> None:
    world, *ids = secret
    unknown = await world.client.post("/agent/feedback", json={"decision_id": "f" * 32, "ok": True}, headers=OTHER)
    for identity in ids:
        report = {"decision_id": identity, "ok": False, "failure": "server_error"}
        foreign = await world.client.post("/agent/feedback", json=report, headers=OTHER)
        assert (foreign.status_code, foreign.text) == (404, unknown.text)
    page = (await world.client.get(f"/decisions/{ids[1]}")).json()
    assert page["feedback"] is None


@pytest.mark.parametrize("path", ["/status", "/metrics", "//status", "/status/", "/%73tatus", "/./status", "/STATUS"])
async def test_what_is_about_all_tenants_is_closed_to_them(world: World, path: str) -> None:
    for headers in ({}, {"x-api-key": OPERATOR_KEY}, {"x-operator": "true"}, OTHER):
        answer = await world.client.get(path, headers=headers)
        assert answer.status_code in (401, 403, 404, 307)
        assert "alpha" not in answer.text


# ---- where it listens -----------------------------------------------------------------------------------------------


async def test_server_listens_on_loopback_unless_told() -> None:
    async def handle(request: Request) -> None:
        request.respond(200, [], b"")

    server = HttpServer(handle)
    await server.start()
    assert [socket.getsockname()[0] for socket in server.sockets] == ["127.0.0.1"]
    await server.drain(0.0)


async def test_process_listens_on_loopback_unless_told(tmp_path: Path) -> None:
    process = await start(tmp_path, settings_for("http://127.0.0.1:9"))
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60.0):
            assert b"serves at" in await process.stdout.readline()
        sockets = psutil.Process(process.pid).net_connections(kind="all")
        listening = [entry.laddr for entry in sockets if entry.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening] == ["127.0.0.1"]
        udp = [entry for entry in sockets if entry.type.name == "SOCK_DGRAM" and entry.laddr]
        assert udp == []
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "a b", "é", "a\n", "", "a" * 65, "../a"])
async def test_names_that_could_break_a_header_are_refused_by_the_configuration(tmp_path: Path, name: str) -> None:
    settings = settings_for("http://127.0.0.1:9")
    settings["providers"] = {name: settings["providers"]["slow"]}
    settings["offers"][0]["provider"] = name
    path = tmp_path / "amaru.yaml"
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError):
        load(path, {})


async def test_answers_are_not_for_browsers_of_other_origins(world: World) -> None:
    """No answer invites another site's script: there is no CORS, and no cookie is set or taken."""
    async with httpx.AsyncClient(base_url=world.base_url) as browser:
        preflight = await browser.options(
            "/v1/chat/completions", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
        )
        assert preflight.status_code == 405
        answer = await browser.get("/health", headers={"origin": "https://evil.example", "cookie": f"key={KEY}"})
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]
