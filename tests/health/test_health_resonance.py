"""Failures together: beyond chance, and named by what is shared."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pattern_samples import BEGINS, MESH, incident, told_of, traits

from amaru.health.incident_types import Trouble
from amaru.health.pattern_types import PatternKind
from amaru.health.resonance import EVERYONE, Joint, Resonance, binomial_tail, hit, shock_ratio

rates = st.floats(min_value=0.01, max_value=0.6)


def who_has(trait: str) -> tuple[str, ...]:
    return tuple(one.offer for one in MESH.traits if trait in one.shared())


@pytest.mark.parametrize("trait", ["bridge:axelar", "bridge:across", "region:eu", "region:us", "model:qwen-3"])
def test_what_is_shared_is_named(trait: str) -> None:
    told = told_of(incident(Trouble.TOGETHER, who_has(trait), trait=trait, strength=0.9))
    found = [pattern for pattern in told if pattern.kind is PatternKind.RESONANCE and pattern.ended_at is None]
    assert [pattern.cause for pattern in found] == [trait]
    assert set(found[0].offers) <= set(who_has(trait))
    assert len(found[0].providers) >= 2
    assert found[0].at - BEGINS - 900.0 < 60.0
    over = [pattern for pattern in told if pattern.kind is PatternKind.RECOVERY and pattern.cause == trait]
    assert [pattern.similar[0] for pattern in over] == [found[0].id]


def test_one_provider_alone_is_no_resonance_however_many_offers_it_has() -> None:
    told = told_of(incident(Trouble.OUTAGE, ("p2/mistral", "p2/llama-3")))
    assert PatternKind.RESONANCE not in {pattern.kind for pattern in told}


def test_outages_that_overlap_without_having_begun_together_are_no_resonance() -> None:
    # p0 and p1 share a bridge.
    told = told_of(
        incident(Trouble.OUTAGE, ("p0/llama-3", "p0/qwen-3"), lasts_s=900.0),
        incident(Trouble.OUTAGE, ("p1/qwen-3", "p1/mistral"), after_s=1140.0, lasts_s=900.0),
    )
    assert PatternKind.RESONANCE not in {pattern.kind for pattern in told}


def test_everyone_is_named_where_nothing_else_explains_it() -> None:
    everyone = tuple(one.offer for one in MESH.traits)
    told = told_of(incident(Trouble.TOGETHER, everyone, strength=0.9), seconds=1100.0)
    assert [pattern.cause for pattern in told if pattern.kind is PatternKind.RESONANCE] == [EVERYONE]


def watched(*offers: str, **labels: tuple[str, ...]) -> Resonance:
    shared = [traits(offer, labels=labels.get(offer.partition("/")[0], ())) for offer in offers]
    return Resonance(shared, window_s=10.0, false_alarms_per_day=0.5)


def shocked(
    resonance: Resonance, offers: tuple[str, ...], ill: tuple[str, ...], windows: int = 30, share: float = 1.0
) -> list[Joint]:
    """Calm, then ``windows`` in which that share of the attempts of ``ill`` fails."""
    found = []
    resonance.look(BEGINS)
    for window in range(60 + windows):
        for offer in offers:
            for attempt in range(8):
                struck = window >= 60 and offer in ill and attempt < 8 * share
                resonance.observe(offer, struck or (window % 10 == 3 and attempt == 0))
        begun, _ = resonance.look(BEGINS + 10.0 * (window + 1))
        found += begun
    return found


def test_traits_of_the_same_offers_are_named_together() -> None:
    offers = ("a/x", "b/x", "c/x", "d/x")
    both = ("bridge:hop", "host:one")
    found = shocked(watched(*offers, a=both, b=both), offers, ("a/x", "b/x"))
    assert [(joint.trait, joint.providers) for joint in found] == [("bridge:hop + host:one", ("a", "b"))]


def test_the_narrower_trait_explains_more_where_the_others_fare_well() -> None:
    offers = tuple(f"{name}/x" for name in "abcdef")
    labels = {name: ("region:eu", *(("bridge:hop",) if name in "ab" else ())) for name in "abcd"}
    assert [joint.trait for joint in shocked(watched(*offers, **labels), offers, ("a/x", "b/x"))] == ["bridge:hop"]
    wider = shocked(watched(*offers, **labels), offers, ("a/x", "b/x", "c/x", "d/x"))
    assert [(joint.trait, joint.members) for joint in wider] == [("region:eu", 4)]


def test_one_joint_failure_is_told_once() -> None:
    offers = ("a/x", "b/x", "c/x")
    assert len(shocked(watched(*offers, a=("bridge:hop",), b=("bridge:hop",)), offers, ("a/x", "b/x"), 400)) == 1


def chance_of(troubles: int, attempts: int, p: float) -> float:
    return math.comb(attempts, troubles) * p**troubles * (1.0 - p) ** (attempts - troubles)


@given(st.lists(st.tuples(st.integers(2, 8), st.sampled_from((0.01, 0.03, 0.1, 0.4))), min_size=2, max_size=4))
def test_independent_providers_give_no_evidence_in_the_mean(members: list[tuple[int, float]]) -> None:
    mean = 0.0
    for counts in product(*(range(attempts + 1) for attempts, _ in members)):
        of = list(zip(counts, members, strict=True))
        hits = [hit(attempts, troubles, p) for troubles, (attempts, p) in of]
        mean += math.prod(chance_of(troubles, attempts, p) for troubles, (attempts, p) in of) * shock_ratio(
            [one for one in hits if one.ratio > 0.0]
        )
    assert 0.0 < mean <= 1.0 + 1e-9


@given(st.integers(min_value=0, max_value=60), rates)
def test_a_hit_seldom_happens_by_itself_and_never_says_less_than_none(attempts: int, p: float) -> None:
    found = [hit(attempts, troubles, p) for troubles in range(attempts + 1)]
    assert sum(chance_of(troubles, attempts, p) for troubles, one in enumerate(found) if one.was) <= 0.05 + 1e-9
    assert [one.was for one in found] == sorted(one.was for one in found)
    assert all(hit_.ratio >= miss.ratio for hit_ in found if hit_.was for miss in found if not miss.was)


@given(st.integers(min_value=0, max_value=100), st.integers(min_value=-1, max_value=101), rates)
def test_tails_of_the_binomial(n: int, least: int, p: float) -> None:
    expected = sum(math.comb(n, k) * p**k * (1.0 - p) ** (n - k) for k in range(max(least, 0), n + 1))
    assert binomial_tail(n, least, p) == pytest.approx(expected, abs=1e-9)


def test_a_member_that_fares_well_speaks_against_its_trait_and_a_hard_hit_says_more() -> None:
    well, touched, was, hard = (hit(10, troubles, 0.03) for troubles in (0, 1, 2, 8))
    assert [one.was for one in (well, touched, was, hard)] == [False, False, True, True]
    assert shock_ratio([was, was]) > 10.0
    assert shock_ratio([was, was, well]) < shock_ratio([was, was, touched]) < shock_ratio([was, was])
    assert shock_ratio([was, was, was]) > shock_ratio([was, was])
    assert shock_ratio([hard, was]) > shock_ratio([was, was])
    assert shock_ratio([hard]) == 1.0


def test_two_that_are_struck_hard_are_told_in_the_first_window_and_two_struck_lightly_later() -> None:
    offers = ("a/x", "b/x", "c/x", "d/x")
    labels = {"a": ("bridge:hop",), "b": ("bridge:hop",)}
    ((hard,), (light,)) = (
        shocked(watched(*offers, **labels), offers, offers[:2], share=share) for share in (1.0, 0.375)
    )
    assert hard.at == BEGINS + 610.0
    assert BEGINS + 610.0 < light.at <= BEGINS + 640.0
