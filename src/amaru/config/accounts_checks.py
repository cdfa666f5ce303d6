"""Checks of ``accounts`` and ``budgets``, and where they lead: addresses with their passwords, files, secrets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pydantic import SecretStr

from amaru.accounts.keys import HOUSE
from amaru.accounts.money import nusd_of_amount
from amaru.accounts.webhooks import read_secret
from amaru.config.accounts import (
    Accounts,
    AccountsSettings,
    BudgetSettings,
    BudgetsSettings,
    TenantSettings,
    Webhook,
    allowances_of,
)
from amaru.config.addresses import check_password, redis_url
from amaru.config.secrets import Secrets
from amaru.errors import StorageError
from amaru.files.problems import Loc, Problem, shown, suggest
from amaru.http1.posting import PostError, require_url
from amaru.storage.engine import Place


def check_budgets(tenants: Mapping[str, TenantSettings], budgets: BudgetsSettings) -> Iterable[Problem]:
    """Budgets that contradict each other, and the name of whom probes are charged to."""
    if HOUSE.id in tenants:
        yield Problem(("tenants", HOUSE.id), "amaru's own probes are charged to this name", "choose another")
    for id, tenant in tenants.items():
        yield from _check_each(("tenants", id, "budgets"), tenant.budgets)
        if tenant.open_usd is not None and tenant.when_store_gone == "closed":
            yield Problem(("tenants", id, "open_usd"), "means nothing where when_store_gone is closed", "remove one")
    for model, settings in budgets.models.items():
        yield from _check_each(("budgets", "models", model), settings)
    for provider, settings in budgets.providers.items():
        yield from _check_each(("budgets", "providers", provider), settings)


def check_budgeted(
    budgets: BudgetsSettings, resources: Collection[str], providers: Collection[str]
) -> Iterable[Problem]:
    """Budgets of what is not there: a typing mistake, and nothing would be bound."""
    for model in budgets.models:
        if model not in resources:
            remedy = suggest(model, resources, "name the resource of an offer")
            yield Problem(("budgets", "models", model), f"no such resource: {shown(model)}", remedy)
    for provider in budgets.providers:
        if provider not in providers:
            remedy = suggest(provider, providers, "add it under `providers`")
            yield Problem(("budgets", "providers", provider), f"no such provider: {shown(provider)}", remedy)


def _check_each(loc: Loc, budgets: tuple[BudgetSettings, ...]) -> Iterable[Problem]:
    seen: set[str] = set()
    for index, budget in enumerate(budgets):
        if budget.per in seen:
            yield Problem((*loc, index, "per"), f"a second budget per {budget.per}", "keep one of the two")
        seen.add(budget.per)
        if sorted(set(budget.alerts)) != list(budget.alerts):
            yield Problem((*loc, index, "alerts"), "not ascending, each once", "write alerts: [0.5, 0.8, 1]")


def resolve(
    settings: AccountsSettings,
    tenants: Mapping[str, TenantSettings],
    budgets: BudgetsSettings,
    *,
    storage_path: Path,
    secrets: Secrets,
    overridden: Collection[Loc],
) -> tuple[Accounts, list[Problem]]:
    """The settings with secrets at hand, and what was wrong with them; what could not be read, ``secrets`` knows."""
    url = settings.url
    problems = check_password(("accounts", "url"), url, overridden)
    if url is None:
        url = str(storage_path.with_name("accounts.db"))
    elif "://" not in url:
        url = str(secrets.directory / url)
    else:
        url = secrets.url(("accounts", "url"), url)
    try:
        Place.of(url)
    except StorageError as error:
        problems.append(Problem(("accounts", "url"), str(error)))
    redis, mistakes = redis_url(("accounts", "redis_url"), settings.redis_url, secrets, overridden)
    problems += mistakes
    pepper = settings.pepper_file
    accounts = Accounts(
        url=url,
        redis_url=redis,
        pepper=storage_path.with_name("accounts.pepper") if pepper is None else secrets.directory / pepper,
        allowances=allowances_of(tenants, budgets),
        serves_without_store=settings.when_store_gone == "open",
        open_nusd=nusd_of_amount(settings.open_usd),
        trust_known_keys_s=settings.trust_known_keys_s,
        unknown_usage=settings.unknown_usage,
        webhook=_webhook(settings, secrets, problems),
        admin_port=settings.admin_port,
        admin_host=settings.admin_host,
    )
    return accounts, problems


def _webhook(settings: AccountsSettings, secrets: Secrets, problems: list[Problem]) -> Webhook | None:
    webhook, loc = settings.webhook, ("accounts", "webhook")
    if webhook.url is None:
        return None
    url = secrets.url((*loc, "url"), webhook.url)
    try:
        require_url(url)
    except PostError as error:
        problems.append(Problem((*loc, "url"), str(error)))
    if webhook.secret_env is None and webhook.secret_file is None:
        problems.append(Problem(loc, "nothing signs what it is sent", "add secret_env or secret_file"))
    found = (
        secrets.from_either(loc, "secret", webhook.secret_env, webhook.secret_file),
        secrets.from_either(loc, "previous_secret", webhook.previous_secret_env, webhook.previous_secret_file),
    )
    usable: list[SecretStr] = []
    for secret in filter(None, found):
        try:
            read_secret(secret.get_secret_value())
            usable.append(secret)
        except ValueError as error:
            problems.append(Problem(loc, str(error), 'make a random one: echo "whsec_$(openssl rand -base64 32)"'))
    return Webhook(url, tuple(usable))
