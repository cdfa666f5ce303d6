"""The leaves of decisions, as they are made while their callers wait.

``receipts.leaf_of`` takes some fifty microseconds: it checks, sorts and walks whatever a receipt holds. What is logged
for every request is written out here, its fields in RFC 8785's order, its figures as that writes them, its words quoted
once and kept. A property test holds these leaves equal to what ``leaf_of`` writes of the same receipt.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from amaru.domain import Attempt
from amaru.ledger.canonical import canonical
from amaru.routing.board import Board
from amaru.routing.ranking import Ranking

if TYPE_CHECKING:
    from amaru.mesh.execution import Execution

COMPONENT = "ai-mesh"
"""What these receipts are about."""
MOST_OFFERS = 16
"""Of a ranking: the best; and of attempts, the first. A leaf has to fit into 64 KiB."""
MOST_QUOTED = 4096
"""Words kept quoted: names of tenants, resources, policies."""
MOST_COMMON = 1024
"""Beginnings and ends of leaves kept."""
_MOST_MS, _MOST_USD = 1e12, 1e6
"""Below these, doubles lie closer than what is rounded to, so that a rounded figure is also the shortest one."""


@lru_cache(MOST_QUOTED)
def quoted(text: str) -> str:
    """A text as JSON has it."""
    return canonical(text).decode()


class Instants:
    """Instants as receipts write them; the second is put into words once."""

    __slots__ = ("_second", "_words")

    def __init__(self) -> None:
        self._second = -1
        self._words = ""

    def __call__(self, at: float) -> str:
        """``at``, Unix seconds, between the years 1970 and 9999."""
        micros = round(at * 1e6)
        second = micros // 1_000_000
        if second != self._second:
            self._words = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        return f"{self._words}{micros - second * 1_000_000:06d}Z"


class DecisionLeaves:
    """Writes the leaves of decisions, for one thread; what many have in common is written once and kept."""

    __slots__ = ("_board", "_common")

    def __init__(self) -> None:
        self._board: Board | None = None
        self._common: dict[tuple[object, ...], tuple[str, str, str]] = {}

    def leaf(self, ranking: Ranking, decision_id: str, at: str, prompt: str = "", outcome: str = "") -> bytes:
        """The leaf of a decision, recorded ``at``; ``prompt`` is its mark, ``outcome`` as ``served`` writes it.

        What is empty is left out. An id of ours needs no quoting.
        """
        work = ranking.workload
        key = (work.tenant, work.resource, work.kind, ranking.policy, ranking.explored, *ranking.order[:MOST_OFFERS])
        if ranking.board is not self._board or len(self._common) >= MOST_COMMON:
            self._board, self._common = ranking.board, {}
        common = self._common.get(key)
        if common is None:
            common = self._common[key] = _in_common(ranking)
        head, policy, tail = common
        if outcome:
            head = f'{head}"outcome":{outcome},'
        if prompt:
            policy = f'{policy}"prompt":"{prompt}",'
        return (
            f'{{"at":"{at}",{head}{policy}"propensity":{number(ranking.propensity)},"ref":"{decision_id}",{tail}'
        ).encode()


def _in_common(ranking: Ranking) -> tuple[str, str, str]:
    """What stands before the outcome, between it and the prompt, and after the decision's id."""
    workload, offers = ranking.workload, ranking.board.offers
    ranked = ",".join(quoted(offers[row].id) for row in ranking.order[:MOST_OFFERS])
    return (
        f'"board":{quoted(ranking.version)},"component":"{COMPONENT}",'
        + ('"explored":true,' if ranking.explored else "")
        + f'"kind":{quoted(workload.kind)},'
        + (f'"offers":[{ranked}],' if ranked else ""),
        f'"policy":{quoted(ranking.policy)},',
        f'"resource":{quoted(workload.resource)},"tenant":{quoted(workload.tenant)},"type":"decision","v":1}}',
    )


def outcome_leaf(execution: Execution, at: str, latency_ms: float) -> bytes:
    """The leaf of what became of a stream, recorded ``at``."""
    return (
        f'{{"at":"{at}","component":"{COMPONENT}","outcome":{served(execution, latency_ms)},"ref":"{execution.id}",'
        '"type":"outcome","v":1}'
    ).encode()


def served(execution: Execution, latency_ms: float) -> str:
    """What became of an execution, ``receipts.Served``. Its one attempt says no more than this, where it went well."""
    attempts, usage, failure = execution.attempts, execution.usage, execution.failed_by
    first_token_ms = execution.first_token_ms
    tried = tokens = output = source = offer = ""
    if attempts:
        offer = f'"offer":{quoted(attempts[-1].offer)},'
        if len(attempts) > 1 or attempts[0].failure is not None:
            tried = f'"attempts":[{",".join(map(_tried, attempts[:MOST_OFFERS]))}],'
    if usage is not None:
        tokens = f'"input_tokens":{usage.input_tokens},'
        output = f'"output_tokens":{usage.output_tokens},'
        source = f',"usage_source":{quoted(usage.source)}'
    failed = "" if failure is None else f'"failure":{quoted(failure)},'
    first = "" if first_token_ms is None else f'"first_token_ms":{_ms(first_token_ms)},'
    return (
        f'{{{tried}"cost_usd":{_usd(execution.cost)},{failed}{first}{tokens}"latency_ms":{_ms(latency_ms)},{offer}'
        f'"ok":{"true" if execution.ok else "false"},{output}"status":{execution.status}{source}}}'
    )


def _tried(attempt: Attempt) -> str:
    failure = "" if attempt.failure is None else f'"failure":{quoted(attempt.failure)},'
    took = _ms(attempt.latency_ms)
    latency = "" if took == "0" else f'"latency_ms":{took},'
    return f'{{{failure}{latency}"offer":{quoted(attempt.offer)}}}'


def number(value: float) -> str:
    """A figure as RFC 8785 writes it; raises LedgerError for one that JSON has no word for."""
    if value == 1.0:
        return "1"
    size = abs(value)
    if size < 1e15:
        whole = int(value)
        if whole == value:
            return str(whole)
        if size >= 1e-4:  # without an exponent in both
            return repr(value)
    return canonical(value).decode()


def _ms(value: float) -> str:
    """A duration to a microsecond."""
    if 0.0 <= value < _MOST_MS:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return number(round(value, 3))


def _usd(value: float) -> str:
    """A cost to a billionth of a dollar."""
    if 1e-6 <= value < _MOST_USD:
        return f"{value:.9f}".rstrip("0").rstrip(".")
    value = round(value, 9)
    if 0.0 < value < 1e-6:  # a short request of a small model
        return repr(value).replace("e-0", "e-")
    return number(value)
