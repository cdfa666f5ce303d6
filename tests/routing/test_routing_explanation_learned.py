"""What a learning policy expects, and what its draw did, in words that a person can check."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from routing_samples import NOW, board, chat, offer

from amaru.domain import Decision, Experience, FailureKind
from amaru.routing.explanation import explain
from amaru.routing.policies import make_policy
from amaru.routing.ranking import pack, unpack
from amaru.routing.router import Router

STEADY = {"boldness": 0.0}
"""Without draws, so that what was learned decides alone."""

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def decided(name: str, lessons: dict[str, list[Experience]], lot: int = 1, /, **knobs: float) -> Decision:
    on = board(offer("a", latency_ms=200.0), offer("b", latency_ms=220.0))
    policy = make_policy(name, **knobs)
    for each in on.offers:
        for lesson in lessons.get(each.provider, []):
            policy.learn(chat(), each, lesson)
    ranking = Router(on, policy, rng=random.Random(lot)).decide(chat(), NOW)
    live = explain(on.offers, ranking, "d", NOW)
    stored = explain(on.offers, unpack(pack(ranking)), "d", NOW)
    for kept, said in zip(stored.ranked, live.ranked, strict=True):
        # Seven digits are stored: a small difference of two scores may round the other way in its last digit.
        assert NUMBER.sub("#", kept.reason) == NUMBER.sub("#", said.reason)
        figures = [[float(number) for number in NUMBER.findall(each.reason)] for each in (kept, said)]
        assert figures[0] == pytest.approx(figures[1], rel=0.02)
    for entry in live.ranked:
        parts = entry.parts
        terms = parts.price + parts.latency + parts.reputation + parts.availability + parts.draw
        assert entry.score == pytest.approx(terms, abs=1e-9)
    return live


def served(latency_ms: float, count: int = 40) -> list[Experience]:
    return [Experience(at=NOW, ok=True, latency_ms=latency_ms)] * count


def failed(count: int = 40) -> list[Experience]:
    return [Experience(at=NOW, ok=False, failure=FailureKind.SERVER_ERROR)] * count


@pytest.mark.parametrize("name", ["thompson", "hybrid"])
def test_an_offer_that_fails_stands_behind_by_success(name: str) -> None:
    first, second = decided(name, {"a": failed(), "b": served(220.0)}, **STEADY).ranked
    assert (first.provider, second.provider) == ("b", "a")
    assert "expected to serve" in first.reason
    assert "from 40.0 outcomes" in first.reason
    assert "behind the first, most by success:" in second.reason


def test_a_latency_that_is_not_as_posted_is_told_with_both_figures() -> None:
    first, second = decided("thompson", {"a": served(900.0), "b": served(220.0)}, **STEADY).ranked
    assert first.provider == "b"
    assert "most by latency:" in second.reason
    assert "(posted 200 ms)" in second.reason


def test_what_is_not_known_yet_is_said_to_be_taken_as_posted() -> None:
    first, _ = decided("thompson", {}, **STEADY).ranked
    assert first.reason.startswith("first of 2: fastest")
    assert first.reason.endswith("nothing is learned of it yet, so it is taken as posted")


def test_a_first_place_by_the_draw_is_called_so() -> None:
    reasons = {
        ranked[0].provider: ranked[0].reason
        for lot in range(60)
        if (ranked := decided("thompson", {"a": served(200.0, 2), "b": served(210.0, 2)}, lot, boldness=1.0).ranked)
    }
    assert "first of 2 by the draw" in reasons["b"]


def test_the_value_of_a_state_is_told_with_its_visits_and_its_exploration() -> None:
    lessons: dict[str, list[Experience]] = {"a": failed(60), "b": served(220.0)}
    first, second = decided("qlearning", lessons, epsilon=0.0).ranked
    assert "visits of its state" in first.reason or "its state is new" in first.reason
    assert "behind the first by value; value " in second.reason
    drawn: dict[str, Any] = {}
    for lot in range(40):
        ranked = decided("qlearning", lessons, lot, epsilon=1.0, epsilon_kept=1.0).ranked
        drawn[ranked[0].provider] = ranked[0].reason
    assert set(drawn) == {"a", "b"}
    assert all("by the policy's own exploration" in reason for reason in drawn.values())


def test_the_only_offer_needs_no_comparison() -> None:
    on = board(offer("a"))
    ranking = Router(on, make_policy("thompson"), rng=random.Random(1)).decide(chat(), NOW)
    (only,) = explain(on.offers, ranking, "d", NOW).ranked
    assert only.reason.startswith("the only feasible offer; ")
