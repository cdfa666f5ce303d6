"""Which allowances bind whom, and which can be."""

from __future__ import annotations

import pytest

from amaru.accounts.allowances import Allowance, AllowanceBook, Metric, Scope, mistakes
from amaru.accounts.periods import Period


def budget(scope: Scope, subject: str, **changes: object) -> Allowance:
    values = {"metric": Metric.USD, "period": Period.MONTH, "amount": 10**9} | changes
    return Allowance(scope=scope, subject=subject, **values)


BOOK = AllowanceBook(
    [
        budget(Scope.TENANT, "acme"),
        budget(Scope.TENANT, "acme", metric=Metric.CONCURRENCY, period=Period.NONE),
        budget(Scope.TENANT, "other"),
        budget(Scope.TEAM, "acme/search"),
        budget(Scope.TEAM, "other/search"),
        budget(Scope.KEY, "k-1"),
        budget(Scope.MODEL, "chat"),
        budget(Scope.PROVIDER, "chat"),
        budget(Scope.PROVIDER, "openai"),
    ]
)


def ids(found: tuple[Allowance, ...]) -> set[str]:
    return {one.id for one in found}


def test_a_caller_is_bound_by_its_key_its_team_and_its_tenant() -> None:
    assert ids(BOOK.of_caller("acme", "search", "k-1")) == {
        "key:k-1:usd:month",
        "team:acme/search:usd:month",
        "tenant:acme:usd:month",
        "tenant:acme:concurrency:none",
    }
    assert ids(BOOK.of_caller("acme")) == {"tenant:acme:usd:month", "tenant:acme:concurrency:none"}
    assert ids(BOOK.of_caller("nobody", "search", "k-2")) == set()


def test_an_offer_is_bound_by_its_model_and_its_provider() -> None:
    assert ids(BOOK.of_offer("chat", "openai")) == {"model:chat:usd:month", "provider:openai:usd:month"}
    assert ids(BOOK.of_offer("openai", "acme")) == set()


def test_an_id_names_one_allowance_whatever_its_amount() -> None:
    assert budget(Scope.KEY, "k-1", amount=5).id == budget(Scope.KEY, "k-1", hard=False).id


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"amount": -1}, "at least 0"),
        ({"amount": 2**53}, "at most"),
        ({"period": Period.MINUTE}, "usd counts per day or month or total or week, not per minute"),
        ({"metric": Metric.TOKENS}, "tokens counts per minute, not per month"),
        ({"metric": Metric.CONCURRENCY}, "concurrency counts per none, not per month"),
        ({"alerts": (0.0,)}, "above 0"),
        ({"alerts": (float("nan"),)}, "above 0"),
        ({"alerts": (0.5, 1.5)}, "up to 1"),
        ({"alerts": (0.8, 0.5)}, "ascending"),
        ({"alerts": (0.5, 0.5)}, "each once"),
        ({"alerts": tuple(n / 20 for n in range(1, 12))}, "at most 10 alerts"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, object], said: str) -> None:
    assert any(said in one for one in mistakes(budget(Scope.TENANT, "acme", **changes)))


def test_models_and_providers_have_no_limits() -> None:
    limit = budget(Scope.MODEL, "chat", metric=Metric.REQUESTS, period=Period.MINUTE)
    assert mistakes(limit) == ["a model has budgets alone, in usd; limits are of who asks"]


def test_what_can_be_has_no_mistake() -> None:
    assert mistakes(budget(Scope.TENANT, "acme", amount=0, alerts=(0.5, 1.0))) == []
