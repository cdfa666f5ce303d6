"""Law 6: what is learned is sums, and any split of one log over nodes merges to what the whole log gives."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_samples import (
    OFFERS,
    STREAM,
    Lesson,
    assert_same_sums,
    believer,
    failed,
    lessons,
    served,
    tables,
    teach,
)  # fmt: skip

from amaru.routing import belief_kernels as b
from amaru.routing.evidence import Evidence, SlotSums, current, merged
from amaru.routing.learned import BeliefPolicy

LATER = 2e5


def node(log: list[Lesson], origin: str = "local", name: str = "thompson") -> BeliefPolicy:
    policy = believer(name, origin)
    teach(policy, log)
    return policy


def some(count: int, start: float = 0.0) -> list[Lesson]:
    rng = random.Random(start)
    return [
        (
            rng.choice(OFFERS),
            STREAM,
            served(rng.uniform(100.0, 900.0), start + i) if rng.random() < 0.8 else failed(start + i),
        )
        for i in range(count)
    ]


USUAL = [
    b.AS_USUAL,
    b.AS_USUAL_SD,
    b.LOG_MS_USUAL,
    b.LOG_MS_SLOPE,
    b.LOG_MS_SD,
    b.LOG_MS_NOISE,
    b.LOG_PRICE,
    b.EVIDENCE,
]
"""What follows from the sums. What was sensed of the moment is each node's own."""


def assert_same_usual(got: BeliefPolicy, expected: BeliefPolicy) -> None:
    """They believe the same of what is usual."""
    tables(got, LATER)
    tables(expected, LATER)
    for whole in (False, True):
        (slots, _), (others, _) = (each.mind.slots(OFFERS, whole=whole) for each in (got, expected))
        believed, right = got.mind.beliefs[slots][:, USUAL], expected.mind.beliefs[others][:, USUAL]
        np.testing.assert_allclose(believed, right, rtol=1e-7, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(lessons(), st.lists(st.integers(0, 3), min_size=30, max_size=30), st.randoms(use_true_random=False))
def test_any_split_of_a_log_merges_to_what_the_whole_gives(
    log: list[Lesson], split: list[int], rng: random.Random
) -> None:
    parts: list[list[Lesson]] = [[], [], [], []]
    for lesson, which in zip(log, split, strict=False):
        parts[which].append(lesson)
    for part in parts:
        rng.shuffle(part)
    whole = node(log, "whole")
    nodes = [node(part, f"n{i}") for i, part in enumerate(parts)]
    evidences = [each.evidence() for each in nodes]
    assert sum(evidence.outcomes for evidence in evidences) == whole.evidence().outcomes
    rng.shuffle(evidences)
    assert_same_sums(merged(evidences), whole.evidence().slots)

    asked = rng.choice(nodes)
    for evidence in evidences:
        if evidence.origin != asked.origin:
            asked.receive(evidence)
    assert_same_usual(asked, whole)


@settings(max_examples=60, deadline=None)
@given(lessons(), st.integers(0, 30), st.integers(0, 30))
def test_receiving_in_between_changes_nothing_in_the_end(log: list[Lesson], cut: int, other_cut: int) -> None:
    mine, theirs = log[::2], log[1::2]
    alone, told, other = node(mine, "a"), node([], "a"), node([], "b")
    teach(told, mine[:cut])
    teach(other, theirs[:other_cut])
    told.receive(other.evidence())
    other.receive(told.evidence())
    teach(told, mine[cut:])
    teach(other, theirs[other_cut:])
    assert_same_sums(told.evidence().slots, alone.evidence().slots)
    told.receive(other.evidence())
    whole = node(log)
    assert_same_sums(merged([told.evidence(), other.evidence()]), whole.evidence().slots)
    assert_same_usual(told, whole)


@settings(max_examples=100, deadline=None)
@given(lessons(), st.randoms(use_true_random=False))
def test_events_out_of_order_give_the_same(log: list[Lesson], rng: random.Random) -> None:
    in_order = sorted(log, key=lambda lesson: lesson[2].at)
    shuffled = rng.sample(log, len(log))
    assert_same_sums(node(shuffled).evidence().slots, node(in_order).evidence().slots)


def test_an_outcome_counts_half_after_a_half_life() -> None:
    policy = believer(slow_s=100.0)
    teach(policy, [(OFFERS[0], STREAM, served(at=0.0)), (OFFERS[0], STREAM, failed(at=100.0))])
    sums = policy.evidence().slots["first offer a/one"].array()
    assert sums[b.SLOW, b.TRIES] == pytest.approx(1.5)
    assert sums[b.SLOW, b.WINS] == pytest.approx(0.5)


def test_an_outcome_is_the_offers_and_its_providers() -> None:
    keys = node([(OFFERS[0], STREAM, served()), (OFFERS[1], STREAM, served())]).evidence().slots
    assert {key: slot.array()[b.FAST, b.TRIES] for key, slot in keys.items()} == {
        "first offer a/one": 1.0,
        "first offer a/two": 1.0,
        "first provider a": 2.0,
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_receipt_does_not_matter(order: tuple[int, ...]) -> None:
    others = [node(some(20, 100.0 * i), f"n{i}").evidence() for i in range(3)]
    policy, same = node(some(10)), node(some(10))
    for i in order:
        policy.receive(others[i])
    for other in others:
        same.receive(other)
    assert policy.state() == same.state()
    assert [table.tobytes() for table in tables(policy, LATER)] == [table.tobytes() for table in tables(same, LATER)]


def test_evidence_received_again_replaces_and_older_is_ignored() -> None:
    other = node(some(10), "other")
    older = other.evidence()
    teach(other, some(10, 50.0))
    newer = other.evidence()
    policy, once = node(some(5)), node(some(5))
    once.receive(newer)
    for evidence in (older, older, newer, older, newer):
        policy.receive(evidence)
    assert policy.state() == once.state()
    assert current([newer, older, newer]) == [newer]
    assert merged([older, newer, older]) == merged([newer])


def test_its_own_evidence_is_refused_and_nothing_changes() -> None:
    policy = node(some(5), "n")
    before = policy.state()
    with pytest.raises(ValueError, match="evidence of 'n' itself: give each node an origin of its own"):
        policy.receive(node(some(3), "n").evidence())
    assert policy.state() == before


def test_evidence_that_fades_otherwise_is_refused_and_nothing_changes() -> None:
    policy, other = node(some(5), "n"), believer(origin="o", slow_s=77.0)
    teach(other, some(3))
    before, table = policy.state(), tables(policy, LATER)[0].tobytes()
    with pytest.raises(ValueError, match=r"different half-lives cannot be merged: .*77.0.*give all nodes the same"):
        policy.receive(other.evidence())
    assert policy.state() == before
    assert tables(policy, LATER)[0].tobytes() == table


def with_sums(column: int, value: float, at: float = 0.0) -> SlotSums:
    sums = np.zeros((b.N_SCALES, b.N_SUMS))
    sums[:, [b.TRIES, b.WINS, b.N_Y, b.N_C]] = 1.0
    sums[b.SLOW, column] = value
    return SlotSums(at, sums.tobytes())


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (with_sums(b.YY, float("nan")), "not finite numbers"),
        (with_sums(b.TRIES, float("inf")), "not finite numbers"),
        (with_sums(b.TRIES, 1.0, float("nan")), "not finite numbers"),
        (with_sums(b.TRIES, -1.0), "no outcomes add up to"),
        (with_sums(b.WINS, 2.0), "no outcomes add up to"),
        (with_sums(b.X, 1.5), "no outcomes add up to"),
        (with_sums(b.X, 0.9), "no outcomes add up to"),  # with no square of it
        (with_sums(b.Y, -100.0), "no outcomes add up to"),
        (with_sums(b.C, 100.0), "no outcomes add up to"),
        (SlotSums(0.0, b"\0" * 16), r"16 bytes of sums in a slot, not \d+"),
        (SlotSums(0.0, b"\0" * 3), "3 bytes of sums"),
    ],
)
def test_sums_that_cannot_be_are_refused_and_nothing_changes(slot: SlotSums, words: str) -> None:
    policy = node(some(5))
    before, table = policy.state(), tables(policy, LATER)[0].tobytes()
    lives = policy.evidence().half_lives_s
    with pytest.raises(ValueError, match=words):
        policy.receive(Evidence("other", 0.0, 1, lives, {"first offer b/m": slot}))
    assert policy.state() == before
    assert tables(policy, LATER)[0].tobytes() == table


def test_what_was_told_is_not_told_on_as_ones_own() -> None:
    policy = node(some(5), "n")
    alone = policy.evidence()
    policy.receive(node(some(20), "other").evidence())
    assert policy.evidence() == alone


def test_a_node_that_forgets_begins_an_epoch_and_the_others_keep_both() -> None:
    a, peer = node(some(10), "a"), node(some(10, 30.0), "peer")
    before = a.evidence()
    peer.receive(before)
    a.receive(peer.evidence())
    a.reset()
    assert a.evidence().slots == {}
    assert a.table_size() == 0
    a.epoch = 60.0
    teach(a, some(3, 60.0))
    peer.receive(a.evidence())
    assert_same_sums(
        merged([peer.evidence(), before, a.evidence()]),
        node([*some(10), *some(10, 30.0), *some(3, 60.0)]).evidence().slots,
    )
    total = node([*some(10), *some(10, 30.0), *some(3, 60.0)])
    assert_same_usual(peer, total)
    # And it may have back from them what it forgot.
    a.receive(peer.evidence())
    a.receive(before)
    assert_same_usual(a, total)


def test_a_restart_goes_on_counting_so_that_its_news_are_newer() -> None:
    a, peer = node(some(10), "a"), node([], "peer")
    peer.receive(a.evidence())
    restarted = believer()
    restarted.restore(a.state())
    assert (restarted.origin, restarted.epoch, restarted.outcomes) == ("a", 0.0, 10)
    teach(restarted, some(1, 40.0))
    peer.receive(restarted.evidence())
    assert_same_sums(
        merged([peer.evidence(), restarted.evidence()]), node([*some(10), *some(1, 40.0)]).evidence().slots
    )
    assert_same_usual(peer, restarted)


def test_under_a_new_name_it_goes_on_and_a_new_beginning_keeps_what_was_known_apart() -> None:
    log = some(40)
    policy, whole = node(log[:20]), node(log)
    policy.begin_as("machine/1", 5.0, anew=True)  # what it knew came with an artifact
    teach(policy, log[20:])
    own = policy.evidence()
    assert (own.origin, own.epoch, own.outcomes) == ("machine/1", 5.0, 20)
    assert_same_sums(own.slots, node(log[20:]).evidence().slots)
    assert_same_usual(policy, whole)  # and both count
    policy.begin_as("machine/2", 6.0, anew=False)
    assert (policy.evidence().origin, policy.evidence().outcomes) == ("machine/2", 20)
    restored = believer()
    restored.restore(policy.state())
    assert restored.evidence() == policy.evidence()
    assert_same_usual(restored, whole)


def test_several_are_taken_in_at_once_and_an_origin_can_be_forgotten() -> None:
    log = some(60)
    policy = node(log[:20], "a")
    policy.receive(node(log[20:40], "b").evidence(), node(log[40:], "c").evidence())
    assert_same_usual(policy, node(log))
    policy.receive(forget=["b"])
    assert [one.origin for one in policy.others] == ["c"]
    assert_same_usual(policy, node(log[:20] + log[40:]))
