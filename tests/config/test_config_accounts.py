"""``accounts``, ``budgets`` and what a tenant may use: understood exactly, and every mistake named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from amaru.accounts.allowances import Allowance, Metric, Scope, mistakes
from amaru.accounts.periods import Period
from amaru.config import effective, parse
from amaru.errors import ConfigError

BASE = """\
providers:
  openai: {base_url: "http://127.0.0.1:1/v1"}
offers:
  - {provider: openai, resource: chat, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
"""
SECRET = "s" * 32


def problems(text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(BASE + text, "amaru.yaml", env or {})
    return refused.value.problems


def test_without_a_word_about_them_accounts_lie_beside_the_database() -> None:
    config = parse(BASE, "/etc/amaru/amaru.yaml", {})
    accounts = config.accounts
    assert accounts.url == "/etc/amaru/amaru-data/accounts.db"
    assert accounts.pepper == Path("/etc/amaru/amaru-data/accounts.pepper")
    assert (accounts.redis_url, accounts.webhook, accounts.admin_port) == (None, None, None)
    assert (accounts.allowances, accounts.serves_without_store, accounts.unknown_usage) == ((), False, "hold")


def test_every_budget_and_limit_is_an_allowance() -> None:
    text = """
tenants:
  acme:
    budgets:
      - {usd: 0.1, per: day, hard: false, alerts: [0.5]}
      - {usd: "100"}
    limits: {requests_per_min: 60, tokens_per_min: 100000, concurrency: 8, regions: [global]}
budgets:
  models: {chat: [{usd: 5, per: week, alerts: []}]}
  providers: {openai: [{usd: "1000.000000001", per: total}]}
"""
    config = parse(BASE + text, "amaru.yaml", {})
    found = {one.id: one for one in config.accounts.allowances}
    assert found["tenant:acme:usd:day"] == Allowance(
        scope=Scope.TENANT, subject="acme", metric=Metric.USD, period=Period.DAY, amount=100_000_000, hard=False,
        alerts=(0.5,), from_file=True,
    )  # fmt: skip
    assert {id: one.amount for id, one in found.items()} == {
        "tenant:acme:usd:day": 100_000_000,
        "tenant:acme:usd:month": 100_000_000_000,
        "tenant:acme:requests:minute": 60,
        "tenant:acme:tokens:minute": 100_000,
        "tenant:acme:concurrency:none": 8,
        "model:chat:usd:week": 5_000_000_000,
        "provider:openai:usd:total": 1_000_000_000_001,
    }
    assert found["tenant:acme:usd:month"].alerts == (0.8, 1.0)
    assert [mistakes(one) for one in found.values()] == [[]] * 7
    assert config.tenants()[0].limits.regions == ("global",)


def test_a_tenant_may_be_open_where_others_are_closed() -> None:
    text = """
accounts: {when_store_gone: open, open_usd: 2}
tenants:
  acme: {when_store_gone: closed}
  other: {open_usd: "0.5"}
  third: {}
"""
    config = parse(BASE + text, "amaru.yaml", {})
    assert (config.accounts.serves_without_store, config.accounts.open_nusd) == (True, 2_000_000_000)
    assert {tenant.id: (tenant.serves_without_store, tenant.open_nusd) for tenant in config.tenants()} == {
        "acme": (False, None), "other": (None, 500_000_000), "third": (None, None),
    }  # fmt: skip


def test_passwords_come_from_the_environment_and_are_shown_nowhere() -> None:
    text = """
accounts:
  url: postgresql://amaru:{env:PG}@db/amaru
  redis_url: redis://:{env:RD}@cache:6379/0
  webhook: {url: "https://alerts.example.com", secret_env: HOOK}
"""
    config = parse(BASE + text, "amaru.yaml", {"PG": "p@ss/w:rd", "RD": "hunter2hunter2", "HOOK": SECRET})
    assert config.accounts.url == "postgresql://amaru:p%40ss%2Fw%3Ard@db/amaru"
    assert config.accounts.redis_url == "redis://:hunter2hunter2@cache:6379/0"
    assert config.accounts.webhook is not None
    assert [secret.get_secret_value() for secret in config.accounts.webhook.secrets] == [SECRET]
    for shown in (repr(config), str(effective(config))):
        assert not any(secret in shown for secret in ("p@ss", "p%40ss", "hunter2", SECRET))
    assert effective(config)["accounts"]["url"] == "postgresql://amaru:***@db/amaru"


def test_while_a_webhooks_secret_is_changed_both_sign(tmp_path: Path) -> None:
    (tmp_path / "before").write_text(f"whsec_{'t' * 32}\n")
    text = """
accounts: {webhook: {url: "https://h/{env:TOKEN}", secret_env: HOOK, previous_secret_file: before}}
"""
    webhook = parse(BASE + text, str(tmp_path / "amaru.yaml"), {"HOOK": SECRET, "TOKEN": "a/b"}).accounts.webhook
    assert webhook is not None
    assert (webhook.url, len(webhook.secrets)) == ("https://h/a%2Fb", 2)
    assert webhook.hook().place == "https://h"


def test_an_override_of_the_environment_may_hold_the_password() -> None:
    env = {"AMARU_ACCOUNTS__URL": "postgresql://amaru:hunter2@db/amaru"}
    assert parse(BASE, "amaru.yaml", env).accounts.url == env["AMARU_ACCOUNTS__URL"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenants: {a: {budgets: [{usd: -1}]}}", "tenants.a.budgets[0].usd: an amount must be at least 0, not -1"),
        ("tenants: {a: {budgets: [{usd: lots}]}}", "tenants.a.budgets[0].usd: not an amount of US dollars"),
        ("tenants: {a: {budgets: [{usd: true}]}}", "tenants.a.budgets[0].usd: not an amount of US dollars"),
        ("tenants: {a: {budgets: [{usd: 0.0000000001}]}}", "tenants.a.budgets[0].usd: an amount has at most nine"),
        ("tenants: {a: {budgets: [{usd: 1e12}]}}", "tenants.a.budgets[0].usd: an amount is at most"),
        ("tenants: {a: {budgets: [{usd: .nan}]}}", "tenants.a.budgets[0].usd: not an amount of US dollars"),
        ("tenants: {a: {budgets: [{}]}}", "tenants.a.budgets[0].usd: missing — write usd: 100"),
        ("tenants: {a: {budgets: [{usd: 1, per: moth}]}}", "tenants.a.budgets[0].per: not one of day, week,"),
        ("tenants: {a: {budgets: [{usd: 1}, {usd: 2}]}}", "tenants.a.budgets[1].per: a second budget per month"),
        ("tenants: {a: {budgets: [{usd: 1, alerts: [1.5]}]}}", "tenants.a.budgets[0].alerts[0]: must be at most 1"),
        ("tenants: {a: {budgets: [{usd: 1, alerts: [0]}]}}", "tenants.a.budgets[0].alerts[0]: must be greater"),
        ("tenants: {a: {budgets: [{usd: 1, alerts: [0.8, 0.5]}]}}", "tenants.a.budgets[0].alerts: not ascending"),
        ("tenants: {a: {limits: {requests_per_min: -1}}}", "tenants.a.limits.requests_per_min: must be at"),
        ("tenants: {a: {limits: {concurrency: 1.5}}}", "tenants.a.limits.concurrency: not a whole number: 1.5"),
        ("tenants: {a: {when_store_gone: closed, open_usd: 1}}", "tenants.a.open_usd: means nothing where"),
        ("budgets: {models: {chta: [{usd: 1}]}}", 'budgets.models.chta: no such resource: "chta" — did you'),
        ("budgets: {providers: {opena: [{usd: 1}]}}", 'budgets.providers.opena: no such provider: "opena"'),
        ("budgets: {tenants: {}}", "budgets.tenants: unknown field"),
        ('accounts: {url: "postgresql://u:hunter2@h/d"}', "accounts.url: passwords do not stand in this file"),
        ('accounts: {url: "postgresql://h/d?password=hunter2"}', "accounts.url: passwords do not stand in this file"),
        ('accounts: {redis_url: "redis://:hunter2@h"}', "accounts.redis_url: passwords do not stand in this file"),
        ('accounts: {url: "mysql://h/d"}', "accounts.url: mysql://…: no database of amaru's"),
        ('accounts: {url: "postgresql://u:{env:NONE}@h/d"}', "accounts.url: environment variable NONE is not set"),
        ('accounts: {redis_url: "http://h"}', "accounts.redis_url: not a Redis URL"),
        ('accounts: {webhook: {url: "https://h"}}', "accounts.webhook: nothing signs what it is sent"),
        ("accounts: {webhook: {url: h, secret_env: HOOK}}", "accounts.webhook.url: the URL cannot be posted to"),
        ('accounts: {webhook: {url: "https://[::1", secret_env: HOOK}}', "accounts.webhook.url: the URL cannot be"),
        ('accounts: {webhook: {url: "https://h 1/", secret_env: HOOK}}', "accounts.webhook.url: the URL cannot be"),
        ('accounts: {redis_url: "redis://[::1"}', "accounts.redis_url: not a Redis URL"),
        ('accounts: {redis_url: "redis://h:port"}', "accounts.redis_url: not a Redis URL"),
        ('accounts: {url: "postgresql://[::1/d"}', "accounts.url: the postgresql:// URL cannot be read"),
        ('accounts: {webhook: {url: "https://h", secret_env: SHORT}}', "accounts.webhook: the secret stands for"),
        ('accounts: {webhook: {url: "https://h", secret_env: ODD}}', "accounts.webhook: the secret is no base64"),
        (
            'accounts: {webhook: {url: "https://h", secret_env: HOOK, previous_secret_env: SHORT}}',
            "accounts.webhook: the secret stands for",
        ),
        ('accounts: {webhook: {url: "https://me@h", secret_env: HOOK}}', "accounts.webhook.url: the URL of h holds"),
        (
            'accounts: {webhook: {url: "https://h", secret_env: HOOK, secret_file: f}}',
            "accounts.webhook.secret_file: secret_env",
        ),
        (
            "accounts: {admin_port: 8081, admin_host: 0.0.0.0}\nserver: {auth: none}",
            "accounts.admin_host: with auth: none, everybody who reaches 0.0.0.0 would be an admin",
        ),
        ("accounts: {admin_port: 8080}", "accounts.admin_port: the same port as server.port"),
        ("accounts: {unknown_usage: keep}", "accounts.unknown_usage: not one of hold, estimate"),
        ("accounts: {open_usd: -1}", "accounts.open_usd: an amount must be at least 0, not -1"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, said: str) -> None:
    found = problems(text, {"HOOK": SECRET, "SHORT": "abc", "ODD": "no-base64" * 4})
    assert len(found) == 1
    assert found[0].startswith(f"amaru.yaml:5: {said}")
    assert "hunter2" not in found[0]
