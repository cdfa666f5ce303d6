"""Which counters bind whom, from period to period and change to change; and what a refusal says."""

from __future__ import annotations

import pytest

from amaru.accounts.allowances import Allowance, Metric, Scope
from amaru.accounts.periods import Period
from amaru.errors import AllowanceExceeded, BankGone, JournalError, TillBusy
from amaru.mesh.accounts_binding import MOST_KNOWN, UNBOUND, Bindings
from amaru.mesh.accounts_words import is_of_offer, names_of, refusal

NOW = 1_700_000_000.0  # 2023-11-14, 22:13:20
MINUTE_END = 1_700_000_040


def allowance(
    scope: Scope = Scope.TENANT,
    subject: str = "acme",
    metric: Metric = Metric.USD,
    period: Period = Period.MONTH,
    amount: int = 100,
) -> Allowance:
    return Allowance(scope=scope, subject=subject, metric=metric, period=period, amount=amount)


def test_where_there_is_nothing_nothing_is_looked_for() -> None:
    bindings = Bindings()
    assert bindings.of_caller("acme", "search", "k-1", NOW) is UNBOUND
    assert bindings.of_offer("chat", "openai", NOW) is UNBOUND


def test_a_caller_is_bound_by_its_key_its_team_and_its_tenant_and_nobody_elses() -> None:
    bindings = Bindings()
    scopes = {Scope.KEY: "k-1", Scope.TEAM: "acme/search", Scope.TENANT: "acme"}
    limit = allowance(metric=Metric.REQUESTS, period=Period.MINUTE)
    bindings.take(
        [
            *(allowance(scope, subject) for scope, subject in scopes.items()),
            limit,
            allowance(subject="other"),
            allowance(Scope.MODEL, "chat"),
            allowance(Scope.PROVIDER, "openai"),
        ]
    )
    bound = bindings.of_caller("acme", "search", "k-1", NOW)
    assert [counter.key[0].partition(":")[0] for counter in bound.budgets] == ["key", "team", "tenant"]
    assert [(metric, counter.key) for metric, counter in bound.limits] == [
        (Metric.REQUESTS, (limit.id, MINUTE_END - 60))
    ]
    assert bindings.of_caller("nobody", None, None, NOW).counters == ()
    offer = bindings.of_offer("chat", "openai", NOW)
    assert [counter.key[0] for counter in offer.budgets] == ["model:chat:usd:month", "provider:openai:usd:month"]
    assert bindings.of_offer("chat", "azure", NOW).budgets == offer.budgets[:1]


def test_counters_stay_the_same_until_their_period_ends_or_their_amount_changes() -> None:
    bindings = Bindings()
    budget, limit = allowance(), allowance(metric=Metric.TOKENS, period=Period.MINUTE)
    bindings.take([budget, limit])
    first = bindings.of_caller("acme", None, None, NOW)
    assert bindings.of_caller("acme", None, None, MINUTE_END - 0.001) is first
    second = bindings.of_caller("acme", None, None, MINUTE_END)
    assert second.budgets[0] is first.budgets[0], "its month goes on"
    assert second.limits[0][1].key == (limit.id, MINUTE_END)
    back = bindings.of_caller("acme", None, None, NOW)
    assert back.limits[0][1] == first.limits[0][1], "a clock that was set back"
    bindings.take([budget, allowance(Scope.KEY, "k-1")])
    kept = bindings.of_caller("acme", None, "k-1", NOW)
    assert kept.budgets[1] is first.budgets[0]
    assert kept.limits == ()
    bindings.take([allowance(amount=101)])
    assert bindings.of_caller("acme", None, None, NOW).budgets[0].amount == 101


def test_the_memory_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_KNOWN > 1000
    monkeypatch.setattr("amaru.mesh.accounts_binding.MOST_KNOWN", 10)
    bindings = Bindings()
    bindings.take([allowance()])
    for number in range(100):
        bindings.of_caller("acme", None, f"k-{number}", NOW)
    assert len(bindings._found) <= 10


def test_names_may_hold_colons() -> None:
    assert names_of("model:llama3:8b:usd:month") == (Scope.MODEL, "llama3:8b", Metric.USD, Period.MONTH)


def exceeded(id: str, end: int | None, amount: int, left: int, needed: int) -> AllowanceExceeded:
    return AllowanceExceeded(id, end, amount=amount, left=left, needed=needed)


@pytest.mark.parametrize(
    ("error", "words", "code", "retry_after_s", "should_retry"),
    [
        (
            exceeded("team:acme/search:usd:month", 1_701_388_800, 100 * 10**9, 420_000_000, 1_310_000_000),
            ("The budget of team acme/search, $100.00 a month, has $0.42 left, and this request may cost up to $1.31. "
            "It renews at 2023-12-01T00:00:00Z. A lower max_tokens lowers what a request may cost."),
            "insufficient_quota", None, False,
        ),
        (
            exceeded("key:k-1:usd:total", None, 5 * 10**9, -3, 10**9),
            ("The budget of key k-1, $5.00 in total, has $0.00 left, and this request may cost up to $1.00. "
            "A lower max_tokens lowers what a request may cost."),
            "insufficient_quota", None, False,
        ),
        (
            exceeded("tenant:acme:tokens:minute", MINUTE_END, 400_000, 1_200, 2_000),
            ("The limit of tenant acme, 400,000 tokens a minute, has 1,200 left, and this request needs up to 2,000. "
            "It renews in 40 s."),
            "rate_limit_exceeded", 40.0, True,
        ),
        (
            exceeded("tenant:acme:requests:minute", MINUTE_END, 0, 0, 1),
            "The limit of tenant acme, 0 requests a minute, has 0 left, and this request needs 1. It renews in 40 s.",
            "rate_limit_exceeded", None, False,
        ),
        (
            exceeded("tenant:acme:tokens:minute", MINUTE_END, 100, 100, 2_000),
            ("The limit of tenant acme, 100 tokens a minute, has 100 left, and this request needs up to 2,000. It "
            "renews in 40 s. It is more than the whole limit: a lower max_tokens or a shorter prompt needs less."),
            "rate_limit_exceeded", None, False,
        ),
        (
            exceeded("tenant:acme:concurrency:none", None, 32, 0, 1),
            "The limit of tenant acme, 32 requests at once, is reached.",
            "rate_limit_exceeded", 1.0, True,
        ),
    ],
)  # fmt: skip
def test_the_words_of_a_refusal(
    error: AllowanceExceeded, words: str, code: str, retry_after_s: float | None, should_retry: bool
) -> None:
    told = refusal(error, NOW)
    assert (told.status, told.message, told.code) == (429, words, code)
    assert (told.retry_after_s, told.should_retry) == (retry_after_s, should_retry)


def test_what_is_no_budgets_fault_is_a_503() -> None:
    gone, full, busy = BankGone("no route"), JournalError("disk full"), TillBusy("2000 wait")
    assert [(refusal(error, NOW).status, refusal(error, NOW).code) for error in (gone, full, busy)] == [
        (503, "accounts_unavailable"), (503, "accounts_unavailable"), (503, "accounts_busy"),
    ]  # fmt: skip
    assert not any(map(is_of_offer, (gone, full, busy)))
    assert is_of_offer(exceeded("model:chat:usd:month", None, 1, 0, 1))
    assert not is_of_offer(exceeded("key:k-1:usd:month", None, 1, 0, 1))
