"""What was learned as bytes: there and back without a difference, and nothing is taken over from bytes that are not."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import OFFERS, STREAM, AnyPolicy, Lesson, believer, failed, lessons, served, tables, teach

from amaru.routing import q_kernels as q
from amaru.routing.knobs import knobs_from
from amaru.routing.learned import MAX_STATE_BYTES
from amaru.routing.policies import LEARNED, make_policy

LATER = 2e5
names = st.sampled_from(LEARNED)


def trained(name: str, count: int = 90) -> AnyPolicy:
    policy = make_policy(name)
    outcomes = [failed(float(i)) if i % 7 == 0 else served(150.0 + i, float(i)) for i in range(count)]
    teach(policy, [(OFFERS[i % 3], STREAM, each) for i, each in enumerate(outcomes)])
    return policy


def seen_by(policy: AnyPolicy) -> tuple[bytes, list[bytes]]:
    """All that anyone can see of it."""
    return policy.state(), [table.tobytes() for table in tables(policy, LATER)]


def assert_refused(policy: AnyPolicy, state: bytes, words: str) -> None:
    before = seen_by(policy)
    with pytest.raises(ValueError, match=words):
        policy.restore(state)
    assert seen_by(policy) == before


# ---- there and back -------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(names, lessons(), lessons(10), lessons(10))
def test_a_restored_policy_is_the_same_and_learns_on_alike(
    name: str, log: list[Lesson], before: list[Lesson], after: list[Lesson]
) -> None:
    policy, other = make_policy(name), make_policy(name)
    teach(policy, log)
    teach(other, before)
    tables(other, LATER)  # it has ranked: its offers have their slots
    other.restore(policy.state())
    assert seen_by(other) == seen_by(policy)
    for each in (policy, other):
        teach(each, after)
    assert seen_by(other) == seen_by(policy)


@settings(max_examples=40, deadline=None)
@given(lessons(10), lessons(10), lessons(10))
def test_what_others_told_is_kept_apart_in_the_state(
    log: list[Lesson], told: list[Lesson], after: list[Lesson]
) -> None:
    policy, peer, restored = believer(origin="a"), believer(origin="b"), believer()
    teach(policy, log)
    teach(peer, told)
    policy.receive(peer.evidence())
    restored.restore(policy.state())
    assert seen_by(restored) == seen_by(policy)
    assert restored.evidence() == policy.evidence()
    teach(peer, after)
    for each in (policy, restored):
        teach(each, after)
        each.receive(peer.evidence())
    assert seen_by(restored) == seen_by(policy)


def test_a_state_without_others_forgets_those_there_were() -> None:
    policy, peer, fresh = believer(origin="a"), believer(origin="b"), believer(origin="a")
    teach(peer, [(OFFERS[0], STREAM, failed())])
    policy.receive(peer.evidence())
    policy.restore(fresh.state())
    assert seen_by(policy) == seen_by(fresh)
    for each in (policy, fresh):
        teach(each, [(OFFERS[0], STREAM, served())])
    assert seen_by(policy) == seen_by(fresh)


@pytest.mark.parametrize("name", LEARNED)
def test_equal_policies_have_equal_bytes_and_others_have_not(name: str) -> None:
    assert trained(name).state() == trained(name).state()
    assert trained(name).state() != trained(name, 91).state()
    assert make_policy(name, epsilon=0.1, boldness=0.1).state() != make_policy(name).state()


@pytest.mark.parametrize("name", LEARNED)
def test_the_knobs_come_with_the_state(name: str) -> None:
    policy = make_policy(name)
    policy.restore(make_policy(name, epsilon=0.15, boldness=0.25).state())
    assert policy.mind.settings == knobs_from({"epsilon": 0.15, "boldness": 0.25})
    np.testing.assert_array_equal(policy.mind.knobs, policy.mind.settings.array())


def test_exploration_goes_on_from_where_it_was() -> None:
    policy, restored = trained("qlearning"), make_policy("qlearning")
    restored.restore(policy.state())
    np.testing.assert_array_equal(restored.mind.knobs, policy.mind.knobs)
    assert (restored.mind.knobs != make_policy("qlearning").mind.knobs).any()


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("other", LEARNED)
def test_the_state_of_another_policy_is_refused(name: str, other: str) -> None:
    if name == other:
        trained(name).restore(trained(other).state())
        return
    assert_refused(trained(name), trained(other).state(), f"of the policy '({other}|{name})'")


@pytest.mark.parametrize("name", LEARNED)
def test_every_cut_is_refused(name: str) -> None:
    policy, state = trained(name), trained(name, 30).state()
    before = seen_by(policy)
    for length in {*range(0, len(state), 7), len(state) - 1}:
        with pytest.raises(ValueError, match=f"this is no state of the policy '{name}'"):
            policy.restore(state[:length])
    assert seen_by(policy) == before


@settings(max_examples=300, deadline=None)
@given(names, st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(name: str, where: float, value: int) -> None:
    policy = trained(name, 40)
    before, damaged = seen_by(policy), bytearray(policy.state())
    damaged[int(where * len(damaged))] = value
    try:
        policy.restore(bytes(damaged))
    except ValueError:
        assert seen_by(policy) == before
    else:
        teach(policy, [(OFFERS[0], STREAM, served())] * 3)
        assert all(np.isfinite(table).all() for table in tables(policy, LATER))
        policy.restore(policy.state())


def changed(name: str, **fields: Any) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(trained(name).state()) | fields)


@pytest.mark.parametrize("name", LEARNED)
def test_another_format_is_named(name: str) -> None:
    assert_refused(trained(name), changed(name, format=2), "the state has format 2; this version of amaru reads 1")


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(
    ("knobs", "words"),
    [({"boldness": 2.0}, r"<= 1\.0.*knobs\.boldness"), ({"speed": 1.0}, "unknown field `speed`"), ({}, "")],
)
def test_impossible_knobs_are_named(name: str, knobs: dict[str, float], words: str) -> None:
    held = msgspec.msgpack.decode(trained(name).state())["knobs"]
    if words:
        assert_refused(trained(name), changed(name, knobs=held | knobs), words)
    else:
        trained(name).restore(changed(name, knobs=held))


def evidence_of(change: Callable[[dict[str, Any]], None], others: int = 0) -> bytes:
    own = msgspec.msgpack.decode(trained("thompson").state())["evidence"][0]
    change(own)
    return changed("thompson", evidence=[own] * (1 + others))


def with_nan(own: dict[str, Any]) -> None:
    slot = own["slots"]["first offer b/m"]
    slot[1] = np.full(len(slot[1]) // 8, math.nan).tobytes()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: changed("thompson", evidence=[]), "without its own evidence"),
        (lambda: evidence_of(lambda own: None, others=1), "the evidence of 'local' itself twice"),
        (lambda: evidence_of(lambda own: own.update(half_lives_s=[1.0])), r"half-lives of \(1\.0,\) s, its knobs say"),
        (lambda: evidence_of(with_nan), "not finite numbers"),
        (lambda: evidence_of(lambda own: own["slots"].update(x=[0.0, b"12345678"])), "8 bytes of sums"),
        (lambda: evidence_of(lambda own: own["slots"].update(x=[math.inf, b""])), "0 bytes of sums"),
        (lambda: evidence_of(lambda own: own.update(slots=[])), "no state of the policy 'thompson'"),
    ],
)
def test_impossible_evidence_is_refused(state: Callable[[], bytes], words: str) -> None:
    assert_refused(trained("thompson"), state(), words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([0.0] * 6, "is not 7 finite numbers"),
        ([math.nan] * 7, "is not 7 finite numbers"),
        ([0.0, -0.1, 0.0, 0.0, 0.0, 0.5, 1.0], "is no probability, or no latency"),
        ([0.0, 0.4, 0.4, 0.4, 0.4, 0.5, 1.0], "is no probability, or no latency"),
        ([0.0, 0.1, 0.1, 0.1, 0.1, 99.0, 1.0], "is no probability, or no latency"),
    ],
)
def test_what_cannot_have_been_sensed_is_refused(columns: list[float], words: str) -> None:
    sensed = {"first offer b/m": columns}
    assert_refused(trained("thompson"), changed("thompson", sensed=sensed), f"sensed of 'first offer b/m' {words}")


def packed(*parts: np.ndarray) -> bytes:
    return zlib.compress(b"".join(part.tobytes() for part in parts))


def table_of(states: list[int], values: list[list[float]]) -> bytes:
    return packed(np.array(states, dtype="<i4"), np.array(values, dtype="<f8"))


MEMORY = packed(np.array([[3.0, 0.5, -1.0]]))
OF_NONE = "names a state that there is not; there are"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"states": b"other"}, "its table is damaged"),
        ({"states": zlib.compress(bytes(2000))[:-6]}, "too large, or cut short"),
        ({"states": zlib.compress(bytes(MAX_STATE_BYTES + 1))}, "too large, or cut short"),
        ({"memory": zlib.compress(bytes(MAX_STATE_BYTES + 1))}, "too large, or cut short"),
        ({"states": packed(np.zeros(7, dtype="<i4"))}, "cut short"),
        ({"states": table_of([1, 1], [[0.5, 1.0]] * 2)}, "names a state twice"),
        ({"states": table_of([q.N_STATES], [[0.5, 1.0]])}, OF_NONE),
        ({"states": table_of([-1], [[0.5, 1.0]])}, OF_NONE),
        ({"states": table_of([1], [[math.nan, 1.0]])}, "not a finite number"),
        ({"states": table_of([1], [[0.5, math.inf]])}, "not a finite number"),
        ({"states": table_of([1], [[0.5, 0.0]])}, "never visited"),
        ({"states": table_of([1], [[0.5, -3.0]])}, "never visited"),
        ({"count": 2, "memory": MEMORY}, "cut short"),
        ({"count": -1, "memory": packed()}, "cut short"),
        ({"count": 2**60}, "cut short"),
        ({"count": 1, "memory": packed(np.zeros(5))}, "cut short"),
        ({"count": 1, "memory": zlib.compress(b"123")}, "cut short"),
        ({"count": 1, "memory": packed(np.array([[-1.0, 0.5, -1.0]]))}, OF_NONE),
        ({"count": 1, "memory": packed(np.array([[0.5, 0.5, -1.0]]))}, OF_NONE),
        ({"count": 1, "memory": packed(np.array([[3.0, 0.5, 1e9]]))}, OF_NONE),
        ({"count": 1, "memory": packed(np.array([[3.0, math.inf, -1.0]]))}, "not a finite number"),
        ({"epsilon": 1.5}, "an epsilon that is no probability"),
        ({"epsilon": math.nan}, "an epsilon that is no probability"),
    ],
)
def test_an_impossible_table_is_refused(fields: dict[str, Any], words: str) -> None:
    assert_refused(trained("qlearning"), changed("qlearning", **fields), words)


def test_a_small_table_by_hand_is_taken() -> None:
    policy = make_policy("qlearning")
    policy.restore(changed("qlearning", states=table_of([5, 7], [[0.5, 2.0], [0.25, 1.0]]), count=1, memory=MEMORY))
    assert policy.table_size() == 2
    assert policy.mind.values[7].tolist() == [0.25, 1.0]


# ---- knobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"speed": 1.0}, "unknown field `speed`; the knobs are fast_s, .*q_prior"),
        ({"epsilon": 1.01}, r"<= 1\.0.*epsilon"),
        ({"fast_s": 0.0}, r">= 1\.0.*fast_s"),
        ({"replays": 1.5}, "int.*replays"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"degraded": 0.6, "down": 0.4}, r"degraded \+ down must not exceed 0\.9"),
    ],
)
def test_a_wrong_knob_is_named(knobs: dict[str, float], words: str) -> None:
    for name in LEARNED:
        with pytest.raises(ValueError, match=words):
            make_policy(name, **knobs)
