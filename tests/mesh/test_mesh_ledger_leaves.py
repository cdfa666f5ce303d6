"""Leaves that are made on the request path are those that the slow way would make of the same receipt."""

from __future__ import annotations

import math
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Attempt, FailureKind, Kind, Offer, Provenance, Usage, Workload
from amaru.errors import LedgerError
from amaru.ledger import receipts
from amaru.ledger.marks import PromptMarks
from amaru.mesh.ledger_leaves import (
    COMPONENT,
    MOST_COMMON,
    MOST_OFFERS,
    DecisionLeaves,
    Instants,
    number,
    outcome_leaf,
    served,
)
from amaru.routing.ranking import Ranking

ID = "019a5d0c3b7e4f21c8d96a07e35b1f42"
AT = "2026-11-21T17:17:21.448957Z"
names = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs",)), min_size=1, max_size=20)
costs = st.one_of(
    st.floats(0, 1.1e-6),
    st.floats(0, 1e-3),
    st.floats(0, 1e6),
    st.floats(0, 1e12),
    st.sampled_from((0.0, 1e-9, 9.9e-7, 1e-6, 4.23e-5, 1e-4, 1.0)),
)
milliseconds = st.one_of(st.floats(0, 1e7), st.floats(0, 1e14), st.sampled_from((0.0, 0.0004, 0.001, 12.0)))
tokens = st.integers(0, 10**9)
usages = st.builds(Usage, tokens, tokens, source=st.sampled_from(Provenance))
attempts = st.builds(
    Attempt,
    names,
    names,
    milliseconds,
    milliseconds,
    failure=st.none() | st.sampled_from(FailureKind),
)


LEAVES = DecisionLeaves()


@lru_cache
def board_of(offers: tuple[str, ...]) -> Any:
    return SimpleNamespace(version="5f60718", offers=tuple(Offer(id, "p", "r", "m") for id in offers))


def ranking_of(offers: list[str], *, tenant: str = "team", explored: bool = False, propensity: float = 1.0) -> Ranking:
    no_rows, no_table = np.zeros(0, dtype=np.int64), np.zeros((0, 0))
    found = Ranking(
        board_of(tuple(offers)),
        Workload(tenant, Kind.CHAT, "sim"),
        0.0,
        "rules",
        no_rows,
        no_rows,
        no_table,
        no_table[0:0],
        no_rows,
    )
    found.order = list(range(len(offers)))
    found.explored, found.propensity = explored, propensity
    return found


def execution(**fields: Any) -> Any:
    usual = {
        "id": ID, "attempts": [Attempt("a", "p", 0.0, 5.0)], "usage": None, "failed_by": None, "first_token_ms": None,
        "cost": 0.0, "ok": True, "status": 200,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **fields})


executions = st.builds(
    execution,
    attempts=st.lists(attempts, max_size=3),
    usage=st.none() | usages,
    failed_by=st.none() | st.sampled_from(FailureKind),
    first_token_ms=st.none() | milliseconds,
    cost=costs,
    ok=st.booleans(),
    status=st.integers(100, 599),
)


@given(
    offers=st.lists(names, max_size=5),
    tenant=names,
    explored=st.booleans(),
    propensity=st.floats(0, 1),
    marked=st.none() | st.binary(max_size=10),
    ended=st.none() | executions,
    latency_ms=milliseconds,
)
def test_a_decisions_leaf_is_its_receipts_canonical_json(
    offers: list[str],
    tenant: str,
    explored: bool,
    propensity: float,
    marked: bytes | None,
    ended: Any,
    latency_ms: float,
) -> None:
    ranking = ranking_of(offers, tenant=tenant, explored=explored, propensity=propensity)
    prompt = "" if marked is None else PromptMarks(b"s" * 32).mark(tenant, marked)
    leaf = LEAVES.leaf(ranking, ID, AT, prompt, "" if ended is None else served(ended, latency_ms))
    receipt = receipts.read_leaf(leaf)
    assert isinstance(receipt, receipts.Decision)
    assert receipts.leaf_of(receipt) == leaf
    assert (receipt.ref, receipt.at, receipt.component, receipt.tenant) == (ID, AT, COMPONENT, tenant)
    assert receipt.offers == tuple(offers)
    assert (receipt.outcome is None) == (ended is None)
    if receipt.outcome is not None:
        assert receipt.outcome.cost_usd == round(ended.cost, 9)
        assert receipt.outcome.latency_ms == round(latency_ms, 3)
        assert receipt.outcome.offer == (ended.attempts[-1].offer if ended.attempts else "")


@given(ended=executions, latency_ms=milliseconds)
def test_an_outcomes_leaf_is_its_receipts_canonical_json(ended: Any, latency_ms: float) -> None:
    leaf = outcome_leaf(ended, AT, latency_ms)
    receipt = receipts.read_leaf(leaf)
    assert isinstance(receipt, receipts.Outcome)
    assert receipts.leaf_of(receipt) == leaf
    assert receipt.ref == ID


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_figures_are_written_as_rfc_8785_has_them(value: float) -> None:
    if math.isfinite(value) and abs(value) < 2**53:
        assert number(value).encode() == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_figure_is_refused(value: float) -> None:
    with pytest.raises(LedgerError):
        number(value)


@given(st.floats(0, 4e9))
def test_instants_read_as_those_of_receipts(at: float) -> None:
    assert Instants()(at) == receipts.rfc3339(at)


def test_only_the_best_of_many_offers_are_named() -> None:
    leaf = LEAVES.leaf(ranking_of([f"o{n}" for n in range(1000)]), ID, AT)
    receipt = receipts.read_leaf(leaf)
    assert isinstance(receipt, receipts.Decision)
    assert receipt.offers == tuple(f"o{n}" for n in range(MOST_OFFERS))


@given(
    st.lists(
        st.tuples(
            st.permutations(["a", "b", "c"]),
            st.sampled_from(["red", "blue"]),
            st.booleans(),
            st.sampled_from([0.5, 1.0]),
            st.sampled_from([["a", "b", "c"], ["c", "b", "a"]]),
        ),
        max_size=20,
    )
)
def test_what_leaves_have_in_common_is_never_anothers(
    asked: list[tuple[list[str], str, bool, float, list[str]]],
) -> None:
    for ranked, tenant, explored, propensity, board in asked:
        ranking = ranking_of(board, tenant=tenant, explored=explored, propensity=propensity)
        ranking.order = [board.index(offer) for offer in ranked]
        receipt = receipts.read_leaf(LEAVES.leaf(ranking, ID, AT))
        assert isinstance(receipt, receipts.Decision)
        assert (receipt.offers, receipt.tenant) == (tuple(ranked), tenant)
        assert (receipt.explored, receipt.propensity) == (explored, propensity)


def test_what_is_kept_is_bounded() -> None:
    leaves = DecisionLeaves()
    for team in range(2 * MOST_COMMON + 1):
        leaves.leaf(ranking_of(["a"], tenant=f"team-{team}"), ID, AT)
    assert len(leaves._common) <= MOST_COMMON


def test_the_attempts_are_told_where_they_say_more_than_the_outcome() -> None:
    def told(*tried: Attempt) -> tuple[str, ...]:
        leaf = outcome_leaf(execution(attempts=list(tried)), AT, 1.0)
        receipt = receipts.read_leaf(leaf)
        assert isinstance(receipt, receipts.Outcome)
        return tuple(f"{one.offer}:{one.failure}" for one in receipt.outcome.attempts)

    good, bad = Attempt("b", "p", 0.0, 5.0), Attempt("a", "p", 0.0, 5.0, failure=FailureKind.RESET)
    assert told(good) == ()
    assert told(bad) == ("a:reset",)
    assert told(bad, good) == ("a:reset", "b:")
