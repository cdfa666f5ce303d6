"""``amaru tenants``, ``keys`` and ``budgets`` work on the store, say what went wrong, and exit by it."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from amaru.accounts.directory import Directory
from amaru.accounts.store import Store
from amaru.cli.main import build

CONFIG = """\
providers:
  openai: {base_url: "https://api.openai.com/v1", key_env: OPENAI_API_KEY}
offers:
  - {provider: openai, resource: chat, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
tenants:
  filed:
    budgets: [{usd: "100"}]
    limits: {requests_per_min: 60}
"""

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # who keeps budgets need not have it
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    Path("amaru.yaml").write_text(CONFIG)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build(), arguments)


def done(*arguments: str) -> str:
    outcome = run(*arguments)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def document(*arguments: str) -> list[dict[str, object]]:
    return json.loads(done(*arguments, "--json"))


def directory() -> Directory:
    store = Store("amaru-data/accounts.db")
    store.open()
    return Directory(store, Path("amaru-data/accounts.pepper"))


def test_a_key_is_alone_on_stdout_and_opens_what_it_should() -> None:
    done("tenants", "create", "acme", "--title", "ACME, Inc.", "--settings", '{"weights": {"price": 1}}')
    done("tenants", "teams", "create", "acme/search")
    printed = done("keys", "create", "acme/search", "--title", "nightly", "--expires", "30d")
    found = directory().keys.find(printed.strip().encode())
    assert printed.count("\n") == 1
    assert found is not None
    assert (found.info.tenant, found.info.team, found.info.name) == ("acme", "search", "nightly")
    assert found.info.expires_at == pytest.approx(time.time() + 30 * 86_400, abs=600)
    assert found.info.created_by == "cli:ann"
    listed = done("keys", "list")
    assert found.info.id in listed
    assert f"…{printed.strip()[-4:]}" in listed
    assert printed.strip()[:-4] not in listed


def test_keys_are_rotated_expired_and_revoked() -> None:
    made = json.loads(done("keys", "create", "filed", "--json"))
    old = made["info"]["id"]
    new = json.loads(done("keys", "rotate", old, "--overlap", "2h", "--json"))["info"]
    assert new["lineage"] == old
    states = {one["id"]: one["expires_at"] for one in document("keys", "list")}
    assert states[old] == pytest.approx(time.time() + 7200, abs=600)
    assert states[new["id"]] is None
    assert "expires 2999-01-01 00:00" in done("keys", "expire", new["id"], "--at", "2999-01-01")
    assert "lasts" in done("keys", "expire", new["id"], "--at", "never")
    assert "revoked" in done("keys", "revoke", new["id"])
    assert [one["id"] for one in document("keys", "list")] == [old]
    assert {one["id"] for one in document("keys", "list", "--all")} == {old, new["id"]}
    brief = run("keys", "create", "filed", "--expires", "2999-01-01").stderr
    assert ", which expires 2999-01-01 00:00 UTC;" in brief
    assert ", which never expires;" in run("keys", "rotate", brief.split()[3].rstrip(",")).stderr


def test_admin_keys_have_a_role() -> None:
    made = json.loads(done("keys", "create", "--admin", "operate", "--json"))
    assert made["info"]["role"] == "operate"
    assert "admin: operate" in done("keys", "list")


def test_tenants_of_the_file_and_of_the_store_are_listed_together() -> None:
    done("tenants", "create", "acme")
    assert [(one["id"], one["from_file"]) for one in document("tenants", "list")] == [("filed", True), ("acme", False)]
    done("tenants", "archive", "acme")
    assert [one["id"] for one in document("tenants", "list")] == ["filed"]
    assert "archived" in done("tenants", "list", "--archived")
    done("tenants", "restore", "acme")
    done("tenants", "change", "acme", "--title", "Other")
    assert json.loads(done("tenants", "show", "acme"))["name"] == "Other"


def test_budgets_show_what_is_used_held_and_left() -> None:
    done("tenants", "create", "acme")
    done("budgets", "set", "tenant", "acme", "12.50", "--alert", "0.9", "--alert", "0.5")
    done("budgets", "set", "tenant", "acme", "8", "--of", "concurrency")
    done("budgets", "set", "model", "chat", "5", "--per", "day", "--soft")
    with sqlite3.connect("amaru-data/accounts.db") as connection:
        connection.execute(
            "INSERT INTO accounts_counters"
            " (allowance, period_start, amount, settled, leased, alerted, overrun, version)"
            " VALUES ('tenant:acme:concurrency:none', 0, 8, 0, 3, 0, 0, 1)"
        )
    found = {one["id"]: one for one in document("budgets", "list")}
    assert set(found) == {
        "tenant:filed:usd:month", "tenant:filed:requests:minute", "tenant:acme:usd:month",
        "tenant:acme:concurrency:none", "model:chat:usd:day",
    }  # fmt: skip
    acme = found["tenant:acme:usd:month"]
    assert (acme["amount"], acme["used"], acme["left"]) == (12_500_000_000, 0, 12_500_000_000)
    assert (acme["alerts"], acme["hard"], acme["from_file"]) == ([0.5, 0.9], True, False)
    assert acme["renews_at"] > time.time()
    assert (found["tenant:acme:concurrency:none"]["held"], found["tenant:acme:concurrency:none"]["left"]) == (3, 5)
    assert found["model:chat:usd:day"]["hard"] is False
    assert found["tenant:filed:usd:month"]["from_file"] is True
    shown = done("budgets", "list", "--subject", "acme")
    assert "$12.50" in shown
    assert "chat" not in shown
    done("budgets", "archive", "model:chat:usd:day")
    assert "model:chat:usd:day" not in done("budgets", "list")


COPIES = (
    (
        "INSERT INTO accounts_tenants SELECT ?1, name, settings, created_at, archived_at"
        " FROM accounts_tenants WHERE id = 't0000'"
    ),
    "INSERT INTO accounts_teams SELECT tenant, ?1, name, created_at, archived_at FROM accounts_teams WHERE id = 'web'",
    (
        "INSERT INTO accounts_allowances SELECT 'tenant:' || ?1 || ':usd:month', scope, ?1, metric, period, amount,"
        " hard, alerts, created_at, archived_at FROM accounts_allowances WHERE subject = 't0000'"
    ),
    (
        "INSERT INTO accounts_keys SELECT 'k-' || ?1, lineage, randomblob(32), name, last4, tenant, team, role,"
        " created_at, created_by, expires_at, revoked_at, last_used_at FROM accounts_keys LIMIT 1"
    ),
)
"""More of each, like the first."""


def test_lists_are_whole_however_many_pages_they_have() -> None:
    done("tenants", "create", "t0000")
    done("tenants", "teams", "create", "t0000/web")
    done("keys", "create", "t0000")
    done("budgets", "set", "tenant", "t0000", "5")
    names = [f"t{number:04}" for number in range(1, 1_101)]
    with sqlite3.connect("amaru-data/accounts.db") as connection:
        for statement in COPIES:
            connection.executemany(statement, [(name,) for name in names])
    assert [one["id"] for one in document("tenants", "list")] == ["filed", "t0000", *names]
    assert {one["id"] for one in document("tenants", "teams", "list", "t0000")} == {"web", *names}
    assert {one["subject"] for one in document("budgets", "list")} == {"filed", "t0000", *names}
    assert len({one["id"] for one in document("keys", "list")}) == 1_101


def test_what_is_held_is_shown_as_unknown_where_redis_keeps_it_and_does_not_answer() -> None:
    pytest.importorskip("redis")
    Path("amaru.yaml").write_text(f"{CONFIG}accounts: {{redis_url: 'redis://127.0.0.1:1/0'}}\n")
    found = document("budgets", "list")
    assert {(one["used"], one["held"], one["left"]) for one in found} == {(0, None, None)}
    assert done("budgets", "list").count(" ? ") == 2 * len(found)


def test_holders_are_listed_and_released() -> None:
    done("budgets", "list")
    with sqlite3.connect("amaru-data/accounts.db") as connection:
        connection.execute(
            "INSERT INTO accounts_holders (name, turn, through, host, pid, started_at, heartbeat_at)"
            " VALUES ('node-1', 1, 0, 'here', 42, 0, ?)",
            (time.time() - 3600,),
        )
        connection.execute("INSERT INTO accounts_leases VALUES ('node-1', 'tenant:filed:usd:total', 0, 5, 0)")
        connection.execute(
            "INSERT INTO accounts_counters"
            " (allowance, period_start, amount, settled, leased, alerted, overrun, version)"
            " VALUES ('tenant:filed:usd:total', 0, 8, 0, 5, 0, 0, 1)"
        )
    (found,) = document("budgets", "holders")
    assert (found["name"], found["pid"], found["leases"]) == ("node-1", 42, 1)
    assert "node-1" in done("budgets", "holders")
    assert "what node-1 held is given back" in done("budgets", "release", "node-1")
    assert run("budgets", "release", "node-1").exit_code == 5  # it was heard of just now: by this command


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("keys", "create", "nobody"), 4, 'amaru: there is no tenant "nobody".'),
        (("keys", "revoke", "k-0"), 4, 'there is no key "k-0"'),
        (("tenants", "create", "filed"), 5, "tenant filed is in amaru.yaml; choose another name"),
        (("tenants", "archive", "filed"), 5, "tenant filed is in amaru.yaml; change it there"),
        (("tenants", "create", "anonymous"), 5, "who calls without a key"),
        (("tenants", "create", "a/b"), 1, "a tenant's name must be 1 to 64 letters"),
        (("tenants", "create", "x", "--settings", '{"wieghts": {}}'), 1, 'did you mean "weights"?'),
        (("tenants", "create", "x", "--settings", "[]"), 2, "must be an object"),
        (("tenants", "create", "x", "--settings", "{"), 2, "not JSON"),
        (("tenants", "create", "x", "--settings", "@nowhere"), 2, "No such file"),
        (("tenants", "teams", "create", "x"), 2, "write TENANT/TEAM"),
        (("keys", "create"), 2, "name a tenant, or --admin"),
        (("keys", "create", "filed", "--admin", "own"), 2, "name a tenant, or --admin"),
        (("keys", "create", "--admin", "god"), 2, "read, operate, own"),
        (("keys", "create", "filed", "--expires", "2020-01-01"), 1, "a key cannot expire in the past"),
        (("keys", "create", "filed", "--expires", "soon"), 2, "is no time"),
        (("keys", "create", "filed", "--title", "a\x1bb"), 1, "printable characters"),
        (("budgets", "set", "tenant", "filed", "1"), 5, "tenant:filed:usd:month is in amaru.yaml"),
        (("budgets", "set", "tenant", "filed", "--per", "day", "--", "-5"), 2, "must be at least 0, not -5"),
        (("budgets", "set", "tenant", "filed", "lots"), 2, "not an amount of US dollars"),
        (("budgets", "set", "tenant", "filed", "-5"), 2, "must be at least 0"),
        (("budgets", "set", "planet", "earth", "1"), 2, "is none of key, team, tenant, model, provider"),
        (("budgets", "set", "tenant", "filed", "1", "--per", "moth"), 2, "is none of minute, day"),
        (("budgets", "set", "tenant", "filed", "1", "--per", "minute"), 1, "usd counts per day"),
        (("budgets", "set", "model", "chat", "1", "--alert", "2"), 1, "alerts are shares above 0"),
        (("budgets", "set", "model", "chat", "1.5", "--of", "requests"), 2, "not a whole number"),
        (("budgets", "archive", "model:x:usd:day"), 4, "there is no allowance"),
    ],
)
def test_what_cannot_be_done_is_said_with_an_exit_code(arguments: tuple[str, ...], exit_code: int, said: str) -> None:
    outcome = run(*arguments)
    assert outcome.exit_code == exit_code, outcome.output
    assert said in " ".join(outcome.stderr.replace("│", " ").split())
    assert outcome.stdout == ""


def test_errors_in_json() -> None:
    outcome = run("keys", "create", "nobody", "--json")
    assert outcome.exit_code == 4
    assert json.loads(outcome.stdout)["error"] == {
        "exit": 4, "kind": "unknown", "message": 'there is no tenant "nobody".',
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "exit_code", "said"),
    [
        ("accounts: {url: \"postgresql://u@127.0.0.1:1/d\"}", 7, "Does the server run"),
        ("accounts: {url: /proc/nowhere/accounts.db}", 7, "/proc/nowhere"),
        ("accounts: {when_store_gone: ajar}", 1, "amaru.yaml:1: accounts.when_store_gone: not one of closed, open"),
        ("tenants: {a: {budgets: [{usd: -1}]}}", 1, "amaru.yaml:1: tenants.a.budgets[0].usd"),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_reached_is_said(config: str, exit_code: int, said: str) -> None:
    Path("amaru.yaml").write_text(config)
    outcome = run("tenants", "list")
    assert outcome.exit_code == exit_code, outcome.output
    assert said in outcome.stderr


def test_without_a_configuration_it_says_how_to_write_one() -> None:
    Path("amaru.yaml").unlink()
    outcome = run("tenants", "list")
    assert outcome.exit_code == 1
    assert "amaru init" in outcome.stderr


def test_the_environment_names_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMARU_ACCOUNTS__URL", "other.db")
    done("tenants", "create", "acme")
    assert Path("other.db").exists()
    monkeypatch.delenv("AMARU_ACCOUNTS__URL")
    assert [one["id"] for one in document("tenants", "list")] == ["filed"]


def test_what_is_wrong_elsewhere_in_the_file_is_no_matter_here() -> None:
    Path("amaru.yaml").write_text(CONFIG + "routing: {policy: none-such}\n")
    assert [one["id"] for one in document("tenants", "list")] == ["filed"]


def test_a_key_of_another_pepper_is_told_and_none_is_made() -> None:
    done("keys", "create", "filed")
    Path("amaru-data/accounts.pepper").unlink()
    outcome = run("keys", "create", "filed")
    assert (outcome.exit_code, outcome.stdout) == (7, "")
    assert "Restore it, or copy it from the machine that made the keys" in outcome.stderr


SECRET = "whsec_" + "s" * 32


def alert(**columns: object) -> None:
    """Puts one into the outbox."""
    done("budgets", "list")
    body = '{"type": "budget.threshold", "data": {"budget": "tenant:filed:usd:month", "share": 0.8}}'
    row = {"once": f"1:{columns}", "at": 0.0, "event": "budget.threshold", "body": body, "tries": 0} | columns
    with sqlite3.connect("amaru-data/accounts.db") as connection:
        names = ", ".join(row)
        connection.execute(
            f"INSERT INTO accounts_outbox ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
        )


def test_alerts_are_listed_by_what_became_of_them_and_sent_again() -> None:
    assert document("budgets", "alerts") == []
    alert(sent_at=1.0, tries=1)
    alert(tries=12, error="nobody is there")
    alert(next_at=5.0, tries=2, error="busy")
    alert()
    assert [(one["id"], one["state"], one["body"]["data"]["share"]) for one in document("budgets", "alerts")] == [
        (4, "logged", 0.8), (3, "pending", 0.8), (2, "given_up", 0.8), (1, "delivered", 0.8),
    ]  # fmt: skip
    assert [one["id"] for one in document("budgets", "alerts", "--before", "4", "--limit", "2")] == [3, 2]
    shown = done("budgets", "alerts")
    assert "nobody is there" in shown
    assert "80%" in shown
    done("budgets", "alerts", "--retry", "2")
    assert [one["state"] for one in document("budgets", "alerts")] == ["logged", "pending", "pending", "delivered"]
    assert run("budgets", "alerts", "--retry", "1").exit_code == 5
    assert run("budgets", "alerts", "--retry", "9").exit_code == 4
    assert run("budgets", "alerts", "--retry", "2", "--test").exit_code == 2
    assert [(row.action, row.actor, row.subject) for row in directory().log.page(1)] == [
        ("alert.retry", "cli:ann", "alert:2")
    ]


def test_a_test_message_says_what_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("budgets", "alerts", "--test")
    assert refused.exit_code == 1
    assert "has no accounts.webhook.url" in refused.output
    webhook = '\naccounts: {webhook: {url: "http://127.0.0.1:9/t0ken-of-the-hook", secret_env: HOOK}}\n'
    Path("amaru.yaml").write_text(CONFIG + webhook)
    refused = run("budgets", "alerts", "--test")
    assert refused.exit_code == 1
    assert "environment variable HOOK is not set" in refused.output
    done("budgets", "alerts")  # which needs no secret
    monkeypatch.setenv("HOOK", SECRET)
    refused = run("budgets", "alerts", "--test")
    assert refused.exit_code == 1
    assert "the test message was not taken: http://127.0.0.1:9/… cannot be reached" in refused.output
    got: list[tuple[str, bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.headers["webhook-signature"], self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"heard")

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        Path("amaru.yaml").write_text(CONFIG + webhook.replace(":9/", f":{server.server_address[1]}/"))
        assert "took the test message: heard" in done("budgets", "alerts", "--test")
        answering.join()
    ((signature, body),) = got
    assert json.loads(body)["type"] == "webhook.test"
    assert signature.startswith("v1,")
