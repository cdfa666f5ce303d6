"""The bandit begins with sensible choices, learns what helps where, and forgets what no longer does."""

from __future__ import annotations

import collections
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.health.bandit import DEFAULTS, MOST_KEYS, Arm, Bandit, default_of, family
from amaru.health.healing import HealingKind

ALL = [kind for kind in HealingKind if kind is not HealingKind.RESTORE]


def bandit(seed: int = 1) -> Bandit:
    return Bandit(random.Random(seed))


def chosen(
    of: Bandit, cause: str = "errors", provider: str = "p", times: int = 300
) -> collections.Counter[HealingKind]:
    return collections.Counter(of.choose("degradation", cause, provider, ALL) for _ in range(times))


def test_without_experience_the_defaults_decide_and_everything_is_tried_sometimes() -> None:
    counts = chosen(bandit(), times=2_000)
    assert {kind for kind, _ in counts.most_common(2)} == {HealingKind.DRAIN, HealingKind.WEIGHT}
    assert counts[HealingKind.NOTHING] < 100
    assert len(counts) >= 5


def test_where_little_is_at_stake_nothing_is_done_now_and_then_to_measure_the_others_against() -> None:
    one = bandit()
    for kind in ALL:
        one.learn("degradation", "errors", "p", kind, -1.0 if kind is HealingKind.NOTHING else 1.0)
    drawn = [one.choose("degradation", "errors", "p", ALL, control=True) for _ in range(2_000)]
    assert 0.06 < drawn.count(HealingKind.NOTHING) / 2_000 < 0.10
    forbidden = [kind for kind in ALL if kind is not HealingKind.NOTHING]
    assert all(one.choose("degradation", "errors", "p", forbidden, control=True) in forbidden for _ in range(200))


def test_what_a_pattern_suggests_is_likelier() -> None:
    plain, suggested = bandit(), bandit()
    without = sum(plain.choose("degradation", "errors", "p", ALL) is HealingKind.RETRY for _ in range(1_000))
    with_it = sum(
        suggested.choose("degradation", "errors", "p", ALL, "retry") is HealingKind.RETRY for _ in range(1_000)
    )
    assert with_it > 1.5 * without


def test_it_finds_the_healing_that_helps_however_unlikely_it_seemed() -> None:
    effects = {HealingKind.TIMEOUTS: 0.5}  # its default is the least promising
    rng, one = random.Random(3), bandit()
    for _ in range(400):
        kind = one.choose("degradation", "errors", "p", ALL)
        one.learn("degradation", "errors", "p", kind, effects.get(kind, 0.0) + rng.gauss(0.0, 0.1))
    assert chosen(one).most_common(1)[0][0] is HealingKind.TIMEOUTS
    assert chosen(one)[HealingKind.TIMEOUTS] > 270


def test_nothing_is_done_once_nothing_helps_and_all_does_harm() -> None:
    one = bandit()
    for _ in range(40):
        for kind in ALL:
            one.learn("degradation", "errors", "p", kind, 0.0 if kind is HealingKind.NOTHING else -0.4)
    assert chosen(one)[HealingKind.NOTHING] > 250


def test_what_helps_one_provider_is_tried_at_others_and_not_against_other_patterns() -> None:
    one = bandit()
    for _ in range(60):
        one.learn("degradation", "errors", "p", HealingKind.RETRY, 0.9)
    assert chosen(one, provider="another")[HealingKind.RETRY] > 200
    untouched = default_of("degradation", "latency", HealingKind.RETRY)
    assert one.belief("degradation", "latency", "p", HealingKind.RETRY)[0] == pytest.approx(untouched)


def test_one_provider_can_differ_from_all_others() -> None:
    one = bandit()
    for _ in range(60):
        one.learn("degradation", "errors", "p", HealingKind.RETRY, 0.9)
        one.learn("degradation", "errors", "odd", HealingKind.RETRY, -0.5)
    assert one.belief("degradation", "errors", "odd", HealingKind.RETRY)[0] < -0.3
    assert one.belief("degradation", "errors", "p", HealingKind.RETRY)[0] > 0.7


def test_it_forgets_what_no_longer_holds() -> None:
    one = bandit()
    for _ in range(300):
        one.learn("degradation", "errors", "p", HealingKind.WEIGHT, 0.9)
    for _ in range(150):
        one.learn("degradation", "errors", "p", HealingKind.WEIGHT, -0.5)
    assert one.belief("degradation", "errors", "p", HealingKind.WEIGHT)[0] < -0.3


def test_causes_of_one_family_are_one() -> None:
    assert family("status:529") == family("status:500") == "status"
    one = bandit()
    one.learn("api_change", "status:529", "p", HealingKind.DRAIN, 1.0)
    assert one.belief("api_change", "status:500", "p", HealingKind.DRAIN)[0] > default_of(
        "api_change", "status:500", HealingKind.DRAIN
    )


def test_unknown_patterns_have_defaults_too() -> None:
    assert default_of("resonance", "bridge:axelar", HealingKind.WEIGHT) == DEFAULTS["resonance", ""][HealingKind.WEIGHT]
    assert default_of("whatever", "odd", HealingKind.NOTHING) == 0.0
    assert default_of("whatever", "odd", HealingKind.DRAIN) > 0.0


def test_where_nothing_is_allowed_nothing_is_chosen() -> None:
    assert bandit().choose("degradation", "errors", "p", []) is HealingKind.NOTHING


@given(st.lists(st.tuples(st.sampled_from(ALL), st.floats(allow_nan=True, allow_infinity=True)), max_size=40))
def test_whatever_it_learns_beliefs_stay_within_what_is_possible(effects: list[tuple[HealingKind, float]]) -> None:
    one = bandit()
    for kind, effect in effects:
        one.learn("degradation", "errors", "p", kind, effect)
    for kind in ALL:
        mean, sd = one.belief("degradation", "errors", "p", kind)
        assert -1.0 <= mean <= 1.0
        assert 0.0 < sd <= 0.25


@given(st.lists(st.tuples(st.sampled_from(ALL), st.floats(-1.0, 1.0)), max_size=40))
def test_it_goes_on_from_its_state(effects: list[tuple[HealingKind, float]]) -> None:
    one, other = bandit(5), bandit(5)
    for kind, effect in effects:
        one.learn("degradation", "errors", "p", kind, effect)
    stored = msgspec.msgpack.encode(one.state())
    other.load(msgspec.msgpack.decode(stored, type=dict[str, dict[str, Arm]]))
    assert other.known() == one.known()
    assert chosen(one) == chosen(other)


@pytest.mark.parametrize("arm", [Arm(-1.0, 0.0), Arm(1.0, 2.0), Arm(float("nan"), 0.0)])
def test_a_state_of_impossible_effects_is_refused(arm: Arm) -> None:
    one = bandit()
    with pytest.raises(ValueError, match="no effect of a healing"):
        one.load({"degradation|errors|p": {"drain": arm}})
    with pytest.raises(ValueError, match="no effect of a healing"):
        one.load({"degradation|errors|p": {"dance": Arm()}})


def test_its_memory_is_bounded() -> None:
    one = bandit()
    for number in range(MOST_KEYS + 50):
        one.learn("degradation", "errors", f"p{number}", HealingKind.DRAIN, 0.5)
    assert len(one.known()) == MOST_KEYS
