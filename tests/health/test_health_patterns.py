"""Patterns: what is recognised, how it is named, when it ends, and that calm is quiet."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec
import pytest
from pattern_samples import BEGINS, MESH, incident, play, sample, seen, told_of, traits

from amaru.domain import FailureKind
from amaru.health.healing import HealingKind
from amaru.health.incident_types import Trouble, mesh_of
from amaru.health.incidents import World
from amaru.health.observation import Observation
from amaru.health.pattern_words import healing_for
from amaru.health.patterns import Impact, InfrastructurePattern, PatternKind, Patterns, PatternSettings

ONE = ("p2/mistral",)


def began(told: list[InfrastructurePattern], kind: PatternKind) -> list[InfrastructurePattern]:
    return [pattern for pattern in told if pattern.kind is kind and (pattern.ended_at is None)]


@pytest.mark.parametrize(
    ("trouble", "ramp_s", "strength", "kind", "cause", "suggested"),
    [
        (Trouble.SLOWING, 300.0, 6.0, PatternKind.DEGRADATION, "latency", {"weight", "timeouts"}),
        (Trouble.FAILING, 300.0, 0.9, PatternKind.DEGRADATION, "errors", {"weight", "drain"}),
        (Trouble.RAMBLING, 300.0, 0.9, PatternKind.DEGRADATION, "coherence", {"drain"}),
        (Trouble.OUTAGE, 0.0, 0.95, PatternKind.DEGRADATION, "errors", {"weight", "drain"}),
        (Trouble.MISSING, 0.0, 0.95, PatternKind.API_CHANGE, "shape", {"adapt"}),
        (Trouble.MALFORMED, 0.0, 0.95, PatternKind.API_CHANGE, "shape", {"adapt"}),
        (Trouble.STATUS, 0.0, 0.95, PatternKind.API_CHANGE, "status:422", {"alternate"}),
        (Trouble.RESHAPED, 0.0, 0.95, PatternKind.API_CHANGE, "shape", {"adapt"}),
    ],
)
def test_one_trouble_is_named_and_its_end_is_told(
    trouble: Trouble, ramp_s: float, strength: float, kind: PatternKind, cause: str, suggested: set[str]
) -> None:
    what = incident(trouble, ONE, ramp_s=ramp_s, strength=strength)
    told = told_of(what)
    first = next(pattern for pattern in told if pattern.ended_at is None)
    assert (first.kind, first.cause, first.offers, first.providers) == (kind, cause, ONE, ("p2",))
    assert first.suggested in suggested
    assert what.begins < first.at < what.ends
    assert 0.5 <= first.confidence <= 0.99
    ended = next(pattern for pattern in told if pattern.id == first.id and pattern.ended_at is not None)
    assert ended.ended_at is not None
    if trouble is not Trouble.RESHAPED:  # that becomes usual
        recovery = next(p for p in told if p.kind is PatternKind.RECOVERY and p.similar[0] == first.id)
        assert (recovery.cause, recovery.suggested) == (cause, "restore")
        assert what.ends < recovery.at < what.ends + 400.0


@pytest.mark.parametrize("trouble", [Trouble.SLOWING, Trouble.FAILING, Trouble.RAMBLING])
def test_a_gradual_fault_is_told_before_it_is_a_hard_one(trouble: Trouble) -> None:
    strength = 6.0 if trouble is Trouble.SLOWING else 0.9
    leads = []
    for seed in range(3):
        what = incident(trouble, ONE, ramp_s=360.0, strength=strength)
        first = began(told_of(what, seconds=1800.0, seed=seed), PatternKind.DEGRADATION)[0]
        assert what.hard_at is not None
        leads.append(what.hard_at - first.at)
    assert sorted(leads)[1] > 30.0


@pytest.mark.slow
def test_two_days_of_calm_have_load_noise_and_blips_but_no_pattern() -> None:
    mesh = msgspec.structs.replace(mesh_of(6), rate_per_s=0.3, blips_per_day=20.0)
    patterns = Patterns(PatternSettings(), mesh.traits)
    assert play(patterns, World(mesh, (), 3, BEGINS).observations(172_800.0), every_s=10.0) == []
    assert patterns.active == {}


def test_callers_faults_and_throttling_are_nobodys_pattern() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a")])
    kinds = (FailureKind.BAD_REQUEST, FailureKind.CONTENT_REJECTED, FailureKind.RATE_LIMITED)
    worst = (seen("p/a", float(i), kinds[i % 3], status=429 if i % 3 == 2 else 400) for i in range(5000))
    assert play(patterns, worst) == []


def refused(offer: str, at: float, prompt: int) -> Observation:
    return seen(offer, at, FailureKind.BAD_REQUEST, status=400, prompt=prompt)


def test_an_offer_that_refuses_whatever_is_asked_has_another_api() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a"), traits("q/a")])
    both = [seen(offer, float(i)) for i in range(200) for offer in ("p/a", "q/a")]
    after = [one for i in range(60) for one in (refused("p/a", 200.0 + i, i + 1), seen("q/a", 200.0 + i))]
    told = play(patterns, [*both, *after])
    assert [(one.kind, one.cause, one.offers) for one in told] == [(PatternKind.API_CHANGE, "status:400", ("p/a",))]
    assert told[0].at - BEGINS < 220.0
    assert "callers' fault" in told[0].detail
    assert told[0].suggested == "alternate"
    back = play(patterns, [seen("p/a", 300.0 + i) for i in range(20)])
    assert [one.kind for one in back] == [PatternKind.API_CHANGE, PatternKind.RECOVERY]


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(lambda i: [refused("p/a", i, 7)], id="one prompt again and again"),
        pytest.param(lambda i: [refused("p/a", i, 0)], id="nobody knows which prompts"),
        pytest.param(lambda i: [refused("p/a", i, int(i)), refused("q/a", i, int(i))], id="every provider"),
        pytest.param(lambda i: [seen("p/a", i + 0.5), seen("p/a", i + 0.7), refused("p/a", i, int(i))], id="a third"),
    ],
)
def test_what_callers_do_wrong_is_no_change_of_the_api(of: Callable[[float], list[Observation]]) -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a"), traits("q/a")])
    both = [seen(offer, float(i)) for i in range(200) for offer in ("p/a", "q/a")]
    assert play(patterns, both + [one for i in range(200) for one in of(200.0 + i)]) == []


def test_five_failures_are_no_pattern_but_a_minute_of_them_is_wherever_one_begins() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a"), traits("q/a")])
    few = [seen("p/a", float(i), FailureKind.CONNECT if i % 50 == 7 else None) for i in range(500)]
    assert play(patterns, few) == []
    down = [seen("q/a", 600.0 + i, FailureKind.CONNECT) for i in range(60)]
    told = play(patterns, down)
    assert [(pattern.cause, pattern.offers) for pattern in told] == [("errors", ("q/a",))]
    assert told[0].at - BEGINS < 620.0


def test_a_thousand_failures_in_one_moment_count_as_few() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a")])
    calm = [seen("p/a", 0.05 * i) for i in range(4000)]
    blip = [seen("p/a", 200.0 + 0.001 * i, FailureKind.RESET) for i in range(1000)]
    after = [seen("p/a", 201.0 + 0.05 * i) for i in range(4000)]
    assert play(patterns, [*calm, *blip, *after]) == []


def test_more_tokens_take_longer_and_that_is_no_change() -> None:
    draws = random.Random(4)
    patterns = Patterns(PatternSettings(), [traits("p/a")])

    def answer(at: float, tokens: int) -> Observation:
        return seen(
            "p/a", at, output_tokens=tokens, latency_ms=(300.0 + 20.0 * tokens) * draws.lognormvariate(0.0, 0.2)
        )

    mixed = [answer(float(i), draws.choice((20, 100, 500))) for i in range(600)]
    long = [answer(600.0 + i, 500) for i in range(600)]
    assert play(patterns, [*mixed, *long]) == []


def test_the_same_answer_to_different_prompts_makes_no_sense() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a")])
    calm = [seen("p/a", float(i), sample=sample(i)) for i in range(200)]
    assert play(patterns, calm) == []
    stuck = [seen("p/a", 200.0 + i, sample=sample(1000 + i, digest=9)) for i in range(20)]
    told = play(patterns, stuck)
    assert [(pattern.kind, pattern.cause) for pattern in told] == [(PatternKind.DEGRADATION, "coherence")]


def test_empty_answers_are_told_within_twenty() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a")])
    play(patterns, [seen("p/a", float(i), sample=sample(i)) for i in range(200)])
    told = play(patterns, [seen("p/a", 200.0 + i, sample=sample(i, empty=True, digest=0)) for i in range(20)])
    assert [pattern.cause for pattern in told] == ["coherence"]


def test_what_an_empty_answer_takes_is_compared_with_nothing() -> None:
    patterns, draws = Patterns(PatternSettings(), [traits("p/a")]), random.Random(2)
    for i in range(300):
        tokens = draws.choice((20, 100, 500))
        patterns.observe(seen("p/a", float(i), output_tokens=tokens, latency_ms=20.0 * tokens, sample=sample(i)))
    empty = [
        seen("p/a", 300.0 + i, output_tokens=0, latency_ms=900.0, sample=sample(i, empty=True, digest=0))
        for i in range(60)
    ]
    assert [pattern.cause for pattern in play(patterns, empty)] == ["coherence"]


def test_a_latency_that_stays_becomes_usual() -> None:
    settings = PatternSettings(settle_s=600.0)
    patterns = Patterns(settings, [traits("p/a")])
    draws = random.Random(1)
    times = [seen("p/a", float(i), latency_ms=1000.0 * draws.lognormvariate(0.0, 0.3)) for i in range(400)]
    times += [seen("p/a", 400.0 + i, latency_ms=4000.0 * draws.lognormvariate(0.0, 0.3)) for i in range(1500)]
    told = play(patterns, times)
    assert [(pattern.kind, pattern.ended_at is None) for pattern in told] == [
        (PatternKind.DEGRADATION, True),
        (PatternKind.DEGRADATION, False),
    ]
    assert "usual by now" in told[1].detail
    assert patterns.active == {}


def test_failures_never_become_usual() -> None:
    patterns = Patterns(PatternSettings(settle_s=60.0), [traits("p/a")])
    play(patterns, [seen("p/a", float(i)) for i in range(100)])
    told = play(patterns, [seen("p/a", 100.0 + i, FailureKind.SERVER_ERROR) for i in range(2000)])
    assert [pattern.ended_at for pattern in told] == [None]
    assert [pattern.cause for pattern in patterns.active.values()] == ["errors"]


def test_several_offers_of_one_provider_are_one_pattern() -> None:
    told = told_of(incident(Trouble.OUTAGE, ("p2/mistral", "p2/llama-3")), seconds=1200.0)
    assert len({pattern.id for pattern in told}) == 1
    assert set(told[-1].offers) == {"p2/mistral", "p2/llama-3"}


def test_what_is_suggested_depends_on_how_it_fails() -> None:
    for kind, suggested in (
        (FailureKind.STREAM_CUT, "non_stream"),
        (FailureKind.OVERLOADED, "concurrency"),
        (FailureKind.CONNECT, "drain"),
    ):
        patterns = Patterns(PatternSettings(), [traits("p/a")])
        play(patterns, [seen("p/a", float(i)) for i in range(100)])
        told = play(patterns, [seen("p/a", 100.0 + i, kind) for i in range(30)])
        assert [pattern.suggested for pattern in told] == [suggested]


@pytest.mark.parametrize("kind", list(PatternKind))
def test_every_suggestion_is_a_healing(kind: PatternKind) -> None:
    for cause in ("latency", "errors", "coherence", "shape", "status:422", "model:llama-3", "region:eu"):
        for level in (0.1, 0.6, 2.0):
            for failures in ((), (FailureKind.STREAM_CUT,), (FailureKind.OVERLOADED,), (FailureKind.CONNECT,)):
                suggested = healing_for(kind, cause, level, failures)
                assert suggested is None or HealingKind(suggested)


def test_impact_grows_with_the_share_of_traffic_and_the_lack_of_others() -> None:
    def impact(*others: str) -> Impact:
        patterns = Patterns(PatternSettings(), [traits("p/a"), *(traits(other) for other in others)])
        for i in range(200):
            for offer in ("p/a", *others):
                patterns.observe(seen(offer, float(i)))
        return play(patterns, [seen("p/a", 200.0 + i, FailureKind.CONNECT) for i in range(30)])[0].impact

    order = list(Impact)
    alone, with_one, with_many = impact(), impact("q/a"), impact(*(f"q{i}/a" for i in range(40)))
    assert alone is Impact.CRITICAL
    assert order.index(alone) >= order.index(with_one) > order.index(with_many)


def test_past_patterns_of_the_same_kind_and_cause_are_similar_wherever_they_come_from() -> None:
    what = incident(Trouble.OUTAGE, ONE)
    first = told_of(what, seconds=1200.0)[0]
    patterns = Patterns(PatternSettings(), MESH.traits)
    other = msgspec.structs.replace(first, id="degradation-other", kind=PatternKind.API_CHANGE)
    patterns.remember([other, msgspec.structs.replace(first, id="degradation-of-old", at=first.at - 86_400.0)])
    again = play(patterns, World(MESH, (what,), 6, BEGINS).observations(1200.0))[0]
    assert again.similar == ("degradation-of-old",)


def test_ids_are_the_same_for_the_same_observations_and_differ_otherwise() -> None:
    what = incident(Trouble.OUTAGE, ONE)
    one, same = told_of(what, seconds=1500.0), told_of(what, seconds=1500.0)
    assert one == same
    other = told_of(incident(Trouble.OUTAGE, ("p3/llama-3",)), seconds=1500.0)
    assert {pattern.id for pattern in one}.isdisjoint(pattern.id for pattern in other)


def test_an_offer_that_goes_takes_its_pattern_along_without_a_recovery() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a"), traits("q/a")])
    play(patterns, [seen("p/a", float(i), FailureKind.CONNECT) for i in range(60)])
    assert len(patterns.active) == 1
    patterns.set_offers([traits("q/a")])
    patterns.observe(seen("p/a", 61.0))
    told = patterns.look(BEGINS + 62.0)
    assert [(pattern.kind, pattern.ended_at) for pattern in told] == [(PatternKind.DEGRADATION, BEGINS + 62.0)]
    assert patterns.active == {}


def test_a_restart_in_the_middle_changes_nothing_that_is_told() -> None:
    what = incident(Trouble.SLOWING, ("p2/mistral", "p2/llama-3"), ramp_s=200.0, strength=6.0)
    observations = list(World(MESH, (what,), 2, BEGINS).observations(2400.0))
    whole = Patterns(PatternSettings(), MESH.traits)
    expected = play(whole, observations)
    half = next(i for i, one in enumerate(observations) if one.at > what.begins + 250.0)
    before, after = Patterns(PatternSettings(), MESH.traits), Patterns(PatternSettings(), MESH.traits)
    told = play(before, observations[:half])
    after.load(before.state())
    assert after.active == before.active
    told += play(after, observations[half:])
    assert [(one.kind, one.cause, one.offers) for one in told] == [
        (one.kind, one.cause, one.offers) for one in expected
    ]


def test_a_state_of_another_version_or_a_damaged_one_is_refused() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a")])
    patterns.observe(seen("p/a", 1.0))
    state = patterns.state()
    for wrong in (b"", b"no state", state[: len(state) // 2]):
        with pytest.raises(ValueError, match="state of patterns"):
            patterns.load(wrong)


def test_nonsense_is_survived() -> None:
    patterns = Patterns(PatternSettings(), [traits("p/a")])
    for at in (0.0, math.nan, math.inf, -1e12, 1e12, 5.0):
        for ms in (0.0, -1.0, 1e300, math.inf, 1e-300):
            patterns.observe(seen("p/a", at, latency_ms=ms, first_token_ms=ms, stream=True, output_tokens=-5))
    patterns.observe(seen("unknown/a", 1.0))
    patterns.look(BEGINS + 10.0)
    other = Patterns(PatternSettings(), [traits("p/a")])
    other.load(patterns.state())
