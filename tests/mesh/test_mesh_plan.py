"""A plan's limits: the configured ones where nobody else could serve, else those that an offer's answers teach."""

from __future__ import annotations

import random

import pytest

from amaru.config import parse
from amaru.domain import Kind
from amaru.mesh.plan import Plan
from amaru.protocols.adapting import Adaptation, Rule

NOW = 1_000.0
CONFIG = """\
version: 1
server: {auth: none}
providers:
  a: {base_url: "http://127.0.0.1:1/v1", timeouts: {first_token_ms: 8000}}
  b: {base_url: "http://127.0.0.1:2/v1"}
offers:
  - {provider: a, resource: m, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
  - {provider: b, resource: m, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
routing: {least_first_token_ms: 500, least_idle_ms: 1000}
"""


def open_plan(config: str = CONFIG, previous: Plan | None = None) -> Plan:
    return Plan(parse(config, env={}), random.Random(1), previous)


def answer(plan: Plan, count: int = 50) -> float:
    """So many streams of the first offer, a second apart; the instant after the last."""
    for second in range(count):
        admission = plan.board.admit(0, 1_000.0, NOW + second)
        assert admission is not None
        plan.board.observe(
            admission, NOW + second, None, 300.0, 900.0, stream=True, input_tokens=600, longest_gap_ms=100.0
        )
        plan.board.release(admission)
    return NOW + count


async def test_limits_adapt_only_while_another_offer_could_take_over() -> None:
    plan = open_plan()
    now = answer(plan)
    first, second = plan.board.offers
    alone = plan.timing(first, now, now + 600.0, input_tokens=600, alone=True)
    assert (alone.first_token_at, alone.answer_at, alone.idle_s) == (now + 8.0, now + 120.0, 30.0)
    backed = plan.timing(first, now, now + 600.0, input_tokens=600, alone=False)
    assert backed.first_token_at == pytest.approx(now + 1.2)
    assert (backed.answer_at, backed.idle_s) == (now + 120.0, 1.0)
    long = plan.timing(first, now, now + 600.0, input_tokens=100_000, alone=False)
    assert long.first_token_at == now + 8.0
    unknown = plan.timing(second, now, now + 600.0, input_tokens=600, alone=False)
    assert (unknown.first_token_at, unknown.idle_s) == (now + 30.0, 30.0)
    await plan.aclose()


async def test_no_limit_lies_past_the_deadline() -> None:
    plan = open_plan()
    now = answer(plan)
    for alone in (True, False):
        timing = plan.timing(plan.board.offers[0], now, now + 0.5, input_tokens=600, alone=alone)
        assert (timing.first_token_at, timing.answer_at, timing.deadline_at) == (now + 0.5, now + 0.5, now + 0.5)
    await plan.aclose()


async def test_a_reload_keeps_what_was_learned_and_may_turn_it_off() -> None:
    plan = open_plan()
    now = answer(plan)
    offer = plan.board.offers[0]
    tighter = open_plan(CONFIG.replace("least_idle_ms: 1000", "least_idle_ms: 700"), plan)
    timing = tighter.timing(offer, now, now + 600.0, input_tokens=600, alone=False)
    assert (timing.first_token_at - now, timing.idle_s) == pytest.approx((1.2, 0.7))
    off = open_plan(CONFIG.replace("{least", "{adaptive_limits: false, least"), tighter)
    timing = off.timing(offer, now, now + 600.0, input_tokens=600, alone=False)
    assert (timing.first_token_at - now, timing.idle_s) == (8.0, 30.0)
    for each in (plan, tighter, off):
        await each.aclose()


ALTERNATES = CONFIG.replace(
    '"http://127.0.0.1:2/v1"', '"http://127.0.0.1:2/v1", alternates: [{base_url: "http://b/v2"}]'
)
RULES = Adaptation((Rule(Kind.CHAT, False, "choices", "outputs"),))


async def test_a_provider_is_switched_to_another_of_its_addresses_and_back() -> None:
    plan = open_plan(ALTERNATES)
    assert plan.endpoint("b", 1) == 0
    assert plan.endpoint("b", 1) == 1
    reloaded = open_plan(ALTERNATES.replace("least_idle_ms: 1000", "least_idle_ms: 700"), plan)
    assert reloaded.providers["b"] is plan.providers["b"]
    assert reloaded.endpoint("b", 0) == 1  # an unchanged provider stays where it was
    assert reloaded.endpoint("a", 0) == 0
    for provider, index, words in (("b", 2, "0 to 1"), ("a", 1, "has no alternates"), ("c", 0, "no provider 'c'")):
        with pytest.raises(ValueError, match=words):
            plan.endpoint(provider, index)
    for each in (plan, reloaded):
        await each.aclose()


async def test_the_answers_of_an_offer_are_adapted_by_its_id() -> None:
    plan = open_plan(ALTERNATES)
    for offer in ("a/m", "b/m"):
        assert plan.adapt(offer, RULES) is None
        use = plan.provider_of(offer).adapted(offer)
        assert use is not None
        assert use.adaptation == RULES
        assert plan.adapt(offer, None) == RULES
        assert plan.provider_of(offer).adapted(offer) is None
    with pytest.raises(ValueError, match="no offer 'c/m'"):
        plan.adapt("c/m", RULES)
    await plan.aclose()
