"""What the tests of learning policies share: offers with siblings, lessons, and policies that took them in."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st
from routing_samples import NOW, board, chat, offer

from amaru.domain import Capability, Experience, FailureKind, Offer, Seen, Weights, Workload
from amaru.routing.board import Board
from amaru.routing.evidence import SlotSums
from amaru.routing.kernels import Floats
from amaru.routing.knobs import knobs_from
from amaru.routing.learned import BeliefPolicy
from amaru.routing.policies import LearnedPolicy, RulePolicy, make_policy
from amaru.routing.ranking import Ranking
from amaru.routing.router import Router
from amaru.routing.score_kernels import HYBRID, THOMPSON

AnyPolicy = RulePolicy | LearnedPolicy

OFFERS = (
    offer("a", id="a/one", latency_ms=200.0),
    offer("a", id="a/two", latency_ms=300.0, reputation=80.0),
    offer("b", latency_ms=250.0),
    offer("c", latency_ms=220.0, capacity=4.0, reputation=60.0),
)
"""Two of them are of one provider."""

STREAM, WHOLE = chat(), chat(needs=Capability.NONE)

Lesson = tuple[Offer, Workload, Experience]


def served(latency_ms: float | None = 200.0, at: float = NOW, **fields: float) -> Experience:
    return Experience(at=at, ok=True, latency_ms=latency_ms, **fields)  # type: ignore[arg-type]  # only its numbers


def failed(at: float = NOW) -> Experience:
    return Experience(at=at, ok=False, failure=FailureKind.SERVER_ERROR)


def times(most_s: float = 1e5) -> st.SearchStrategy[float]:
    """Instants that often are equal, near each other or far apart."""
    near = st.sampled_from([0.0, 1.0, 1.5, 60.0, 1_000.0, most_s])
    return st.one_of(near, st.floats(0.0, most_s))


def seens() -> st.SearchStrategy[Seen]:
    price, ms = st.floats(0.01, 100.0), st.floats(1.0, 1e5)
    return st.builds(Seen, price, ms, ms, st.floats(0.0, 100.0), st.floats(0.0, 1.0), price, ms)


def experiences(at: st.SearchStrategy[float] | None = None) -> st.SearchStrategy[Experience]:
    return st.builds(
        Experience,
        at=times() if at is None else at,
        ok=st.booleans(),
        latency_ms=st.none() | st.sampled_from([0.0, 200.0, 1e9]) | st.floats(1e-3, 1e7),
        cost_usd=st.sampled_from([0.0, 0.01]) | st.floats(1e-9, 1e4),
        expected_cost_usd=st.none() | st.sampled_from([0.0, 0.01]) | st.floats(1e-9, 1e4),
        load=st.sampled_from([0.0, 1.0, 1e6]) | st.floats(0.0, 1.0),
        blame=st.sampled_from([True, True, True, False]),
        ended=st.sampled_from([True, True, True, False]),
        begun=st.booleans(),
        seen=st.none() | seens(),
    )


def lessons(most: int = 30, at: st.SearchStrategy[float] | None = None) -> st.SearchStrategy[list[Lesson]]:
    tenants = st.sampled_from([STREAM, WHOLE, chat(weights=Weights(0.1, 0.7, 0.1, 0.1))])
    return st.lists(st.tuples(st.sampled_from(OFFERS), tenants, experiences(at)), max_size=most)


def believer(name: str = "thompson", origin: str = "local", epoch: float = 0.0, **knobs: float) -> BeliefPolicy:
    kind = {"thompson": THOMPSON, "hybrid": HYBRID}[name]
    return BeliefPolicy(name, kind, knobs_from(knobs), origin=origin, epoch=epoch)


def teach(policy: AnyPolicy, log: Iterable[Lesson]) -> None:
    for each, workload, experience in log:
        policy.learn(workload, each, experience)


def taught(name: str, *log: tuple[Offer, Experience], **knobs: float) -> AnyPolicy:
    """A policy of that name, taught about streams."""
    policy = make_policy(name, **knobs)
    teach(policy, [(each, STREAM, experience) for each, experience in log])
    return policy


def ranked(
    policy: AnyPolicy, on: Board | None = None, workload: Workload = STREAM, *, now: float = NOW, seed: int = 1
) -> Ranking:
    router = Router(on or board(*OFFERS), policy, rng=random.Random(seed))
    return router.decide(workload, now)


def first(
    policy: AnyPolicy, on: Board | None = None, workload: Workload = STREAM, *, now: float = NOW, seed: int = 1
) -> str:
    """Id of the offer that it would take."""
    ranking = ranked(policy, on, workload, now=now, seed=seed)
    return ranking.board.offers[ranking.order[0]].id


def assert_same_sums(got: dict[str, SlotSums], expected: dict[str, SlotSums]) -> None:
    """Equal to 1e-9, relatively; what has all but faded away, absolutely."""
    assert got.keys() == expected.keys()
    for key, slot in expected.items():
        assert got[key].at == slot.at
        np.testing.assert_allclose(got[key].array(), slot.array(), rtol=1e-9, atol=1e-12, err_msg=key)


def tables(policy: AnyPolicy, now: float, workloads: Sequence[Workload] = (STREAM, WHOLE)) -> list[Floats]:
    return [ranked(policy, workload=workload, now=now).table for workload in workloads]
