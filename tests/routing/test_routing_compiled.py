"""Compiled and interpreted, the kernels say the same; and compiled code is thrown away when any of them changes."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import OFFERS, STREAM, WHOLE, Lesson, lessons, ranked, teach
from routing_samples import board, chat

from amaru import compiling
from amaru.domain import Limits, Weights, Workload
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import q_kernels, rank_kernels
from amaru.routing.knobs import Knobs
from amaru.routing.mind import Mind
from amaru.routing.policies import POLICIES, make_policy
from amaru.routing.policies_base import is_whole

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # lots wrap around, as they are meant to


def as_written(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The function that Numba was given."""
    return kernel.py_func  # type: ignore[attr-defined,no-any-return]  # Numba's handle on it


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(POLICIES)),
    lessons(25),
    st.sampled_from([
        STREAM, WHOLE, chat(limits=Limits(max_latency_ms=240.0)), chat(weights=Weights(0.0, 0.0, 0.0, 0.0))
    ]),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0]),
)  # fmt: skip
def test_ranks_and_shares_agree(name: str, log: list[Lesson], workload: Workload, seed: int, drawn: float) -> None:
    policy = make_policy(name, boldness=drawn, epsilon=drawn)
    teach(policy, log)
    on = board(*OFFERS)
    lot = random.Random(seed).random()
    ranking = ranked(policy, on, workload, now=2e5, seed=seed)
    mind, weights = policy.mind, policy.preferences(workload.weights)
    slots, groups = mind.slots(on.offers, whole=is_whole(workload))
    found = []
    for kernel, share, blank in (
        (rank_kernels.rank, rank_kernels.share, 7.0),
        (as_written(rank_kernels.rank), as_written(rank_kernels.share), np.nan),
    ):
        n = len(ranking.rows)
        table, codes, order = np.full((n, k.N_TABLE), blank), np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        beliefs = mind.beliefs.copy()
        beliefs[:, b.AS_OF] = -np.inf
        ranking.ask[k.LOT] = lot
        counts = kernel(
            policy.kind, ranking.rows, on.static, on.live, ranking.ask, ranking.excluded, *weights, table, codes, order,
            slots, groups, mind.sums, beliefs, mind.values, mind.knobs,
        )  # fmt: skip
        shares = [
            share(policy.kind, i, ranking.rows, codes, table, slots, beliefs, mind.knobs)
            for i in range(n)
            if codes[i] == 0
        ]
        found.append((tuple(counts), codes.tolist(), order[: counts[0]].tolist(), shares, table, beliefs))
    compiled, interpreted = found
    assert compiled[:3] == interpreted[:3]
    assert compiled[3] == pytest.approx(interpreted[3], abs=1e-9)
    # Each was given another blank table: nothing of it is left.
    np.testing.assert_allclose(compiled[4], interpreted[4], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(compiled[5], interpreted[5], rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, 50.0, 1e5]) | st.floats(0.0, 1e5), st.booleans(), st.booleans(),
            st.floats(0.0, 1.0),
            st.just(np.nan) | st.floats(-9.0, 9.0), st.just(np.nan) | st.floats(-9.0, 9.0), st.integers(0, 1),
        ),
        max_size=25,
    )
)  # fmt: skip
def test_beliefs_learned_agree(events: list[tuple[float, bool, bool, float, float, float, int]]) -> None:
    minds = [Mind(Knobs(), believes=True) for _ in range(2)]
    for learn, mind in zip((b.learn, as_written(b.learn)), minds, strict=True):
        pairs = [mind.pair(OFFERS[0]), mind.pair(OFFERS[1])]
        for at, ended, ok, load, log_latency, log_price, which in events:
            outcome = (at, ended, ok or not ended, load, log_latency, log_price)
            learn(*pairs[which], *outcome, mind.sums, mind.beliefs, mind.knobs)
    np.testing.assert_allclose(minds[0].sums, minds[1].sums, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(minds[0].beliefs, minds[1].beliefs, rtol=1e-7, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.9]), st.integers(0, 3))
def test_values_learned_agree(seed: int, discount: float, replays: int) -> None:
    minds = [Mind(Knobs(discount=discount, replays=replays), values_states=True) for _ in range(2)]
    for learn, mind in zip((q_kernels.learn, as_written(q_kernels.learn)), minds, strict=True):
        rng = random.Random(seed)
        for _ in range(120):
            learn(rng.randrange(9), rng.random(), rng.random(), mind.values, mind.memory, mind.ring, mind.knobs)
    for one, other in itertools.pairwise(minds):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-12)
        np.testing.assert_array_equal(one.memory, other.memory)
        np.testing.assert_allclose(one.knobs, other.knobs, rtol=1e-12)


# ---- the stamp ------------------------------------------------------------------------------------------------------

PACKAGE = Path(compiling.__file__).parent


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for path in PACKAGE.glob("*/*kernels.py"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    (tmp_path / "routing" / "words.py").write_text("other = 1\n")
    monkeypatch.setattr(compiling, "_PACKAGE", tmp_path)
    yield tmp_path
    monkeypatch.undo()
    compiling._stamp.cache_clear()


def stamp() -> str:
    compiling._stamp.cache_clear()
    return compiling._stamp()


def test_the_stamp_changes_with_any_kernel_and_with_nothing_else(copy: Path) -> None:
    before = stamp()
    assert stamp() == before
    (copy / "routing" / "words.py").write_text("other = 2\n")
    assert stamp() == before
    stamps = {before}
    for path in sorted(copy.glob("*/*kernels.py")):
        written = path.read_bytes()
        path.write_bytes(written + b"\n")
        stamps.add(stamp())
        path.write_bytes(written)
        assert stamp() == before
    assert len(stamps) == 1 + len(list(copy.glob("*/*kernels.py")))


def test_the_stamp_is_that_of_equal_sources_wherever_they_stand(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = stamp()
    monkeypatch.setattr(compiling, "_PACKAGE", PACKAGE)
    assert stamp() == there


def test_everything_compiled_is_in_a_file_that_is_stamped() -> None:
    marked = re.compile(r"^@(inlined|compiled\(|njit|register_jitable|numba)", re.MULTILINE)
    holders = {path for path in PACKAGE.rglob("*.py") if marked.search(path.read_text("utf-8"))}
    assert holders
    assert holders <= set(PACKAGE.glob("*/*kernels.py"))
