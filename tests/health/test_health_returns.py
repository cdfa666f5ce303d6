"""How offers come back: by what their attempts show, and never by the clock alone."""

from __future__ import annotations

import random

import msgspec
import pytest
from closed_loop import ClosedLoop
from healer_samples import AT, FakeLevers, healer, only, pattern, seen

from amaru.domain import FailureKind
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind
from amaru.health.healing_effects import Sums
from amaru.health.pattern_types import InfrastructurePattern, PatternKind
from amaru.health.trial import BEGINS, Trial
from amaru.routing.steering import Steering

USUAL = Sums(attempts=200.0, worth=199.0, answers=199.0, log_ms=199.0 * 4.6)
ONE_AT_ONCE = BEGINS


def mesh(*more: str) -> FakeLevers:
    return FakeLevers("a/m", "b/m", "c/m", *more)


def returning(
    levers: FakeLevers, kind: str = "drain", ill: InfrastructurePattern | None = None
) -> tuple[Healer, float]:
    """A healer whose healing of ``a/m`` has just come to its end, and when."""
    one = healer(levers)
    only(one, kind)
    for tick in range(100):
        one.observe(seen("a/m", AT - 100.0 + tick / 2.0))
    (action,) = one.look([ill or pattern("a/m")], AT)
    assert (action.kind, action.until is not None) == (kind, True)
    assert action.until is not None
    one.look([], action.until)
    return one, action.until


@pytest.mark.parametrize(("ok", "kind"), [(True, HealingKind.RESTORE), (False, HealingKind.DRAIN)])
def test_a_drain_ends_early_where_a_look_was_answered_well(ok: bool, kind: HealingKind) -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "drain")
    for tick in range(100):
        one.observe(seen("a/m", AT - 100.0 + tick / 2.0))
    one.look([pattern("a/m")], AT)
    one.observe(seen("a/m", AT + 20.0, ok=ok))
    one.look([], AT + 20.5)
    assert [action.kind for action in one.active.values()] == [kind]
    assert levers.steered["a/m"].look_s is not None


def test_silence_brings_nothing_back() -> None:
    levers = mesh()
    one, ends = returning(levers)
    for second in range(0, 4_000, 7):
        one.look([], ends + second)
        assert levers.all_steered() == {"a/m": ONE_AT_ONCE}
    assert [action.kind for action in one.active.values()] == [HealingKind.RESTORE]


def test_what_began_before_the_return_says_nothing_of_it() -> None:
    levers = mesh()
    one, ends = returning(levers)
    for number in range(30):
        one.observe(seen("a/m", ends + number, ms=1e3 * (number + 1.0)))
        one.look([], ends + number)
    assert levers.all_steered() == {"a/m": ONE_AT_ONCE}


def test_good_answers_bring_it_back_a_few_more_at_once_at_a_time() -> None:
    levers = mesh()
    one, ends = returning(levers)
    steps = []
    for number in range(1, 12):
        one.observe(seen("a/m", ends + number))
        one.look([], ends + number)
        steps.append(levers.steered["a/m"].at_once)
    assert list(dict.fromkeys(steps)) == [1.0, 2.0, 4.0, None]
    assert levers.all_steered() == {}
    assert one.active == {}


@pytest.mark.parametrize("kind", ["drain", "weight"])
def test_an_offer_that_is_ill_still_is_kept_out_again_for_longer(kind: str) -> None:
    levers = mesh()
    one, ends = returning(levers, kind)
    first = next(action for action in one.actions() if action.kind == kind)
    for number in range(1, 4):
        one.observe(seen("a/m", ends + number, ok=False))
    news = one.look([], ends + 4.0)
    again = next(action for action in news if action.kind == kind and action.ended_at is None)
    assert first.until is not None
    assert again.until is not None
    assert again.until - again.at == 2.0 * (first.until - first.at)
    assert [action.ended for action in news if action.kind is HealingKind.RESTORE] == ["it is ill still"]


def test_of_several_those_that_are_well_come_back_and_those_that_are_ill_do_not() -> None:
    levers = mesh("d/m")
    ill = pattern("a/m", "b/m", kind=PatternKind.RESONANCE, cause="region:eu")
    one = healer(levers)
    only(one, "weight")
    (action,) = one.look([ill], AT)
    assert action.until is not None
    one.look([], action.until)
    for number in range(1, 14):
        one.observe(seen("a/m", action.until + number))
        one.observe(seen("b/m", action.until + number, ok=False))
        one.look([], action.until + number)
    assert levers.steered["a/m"] == Steering()
    assert levers.steered["b/m"] != Steering()


def test_where_keeping_it_out_again_is_forbidden_it_stays_at_one_at_once_and_is_helped_otherwise() -> None:
    levers = mesh()
    one, ends = returning(levers)
    for kind in HealingKind:
        if kind not in (HealingKind.RETRY, HealingKind.RESTORE):
            one._choice._cools[kind, "a/m"] = ends + 1e6
    for number in range(1, 40):
        one.observe(seen("a/m", ends + number, ok=False))
        one.look([], ends + number)
        assert levers.steered["a/m"].at_once == 1.0
    assert HealingKind.RETRY in {action.kind for action in one.active.values()}


def test_a_trouble_that_is_over_ends_the_trial_whatever_was_seen() -> None:
    levers = mesh()
    ill = pattern("a/m")
    one, ends = returning(levers, ill=ill)
    one.look([msgspec.structs.replace(ill, ended_at=ends + 1.0)], ends + 1.0)
    assert levers.all_steered() == {}


def test_what_its_answers_do_not_show_keeps_it_at_a_few_at_once_until_it_is_over() -> None:
    levers = mesh()
    ill = pattern("a/m", kind=PatternKind.API_CHANGE, cause="shape")
    one, ends = returning(levers, ill=ill)
    for number in range(1, 25):
        one.observe(seen("a/m", ends + number))
        one.look([], ends + number)
    assert levers.steered["a/m"].at_once == 4.0
    for number in range(25, 40):
        one.observe(seen("a/m", ends + number))
        one.look([], ends + number)
    assert levers.steered["a/m"].drained


def test_a_trial_outlasts_a_restart() -> None:
    levers = mesh()
    ill = pattern("a/m")
    one, ends = returning(levers, ill=ill)
    fresh = mesh()
    two = healer(fresh)
    two.load(one.state(), ends + 10.0)
    assert fresh.all_steered() == levers.all_steered()
    two.look([], ends + 11.0, {ill.id: ill})
    assert fresh.steered["a/m"].at_once == 1.0


# ---- the test behind it


def trial(usual: Sums = USUAL) -> Trial:
    return Trial(AT, usual)


@pytest.mark.parametrize(("usually", "now", "well"), [(0.0, 0.03, True), (0.0, 0.35, False), (0.3, 0.3, True)])
def test_an_offer_is_held_against_its_own_past(usually: float, now: float, well: bool) -> None:
    rng = random.Random(7)
    right = 0
    for _ in range(200):
        one = trial(Sums(attempts=300.0, worth=300.0 * (1.0 - usually)))
        for number in range(1, 200):
            one.observe(seen("a/m", AT + number, ok=rng.random() >= now))
            if one.is_well or one.is_ill:
                break
        right += one.is_well is well
    assert right >= 180


def test_what_was_long_ago_outweighs_nothing() -> None:
    one = trial()
    for number in range(1, 1_000):
        one.observe(seen("a/m", AT + number))
    assert one.is_well
    for number in range(1_000, 1_003):
        one.observe(seen("a/m", AT + number, ok=False))
    assert (one.is_well, one.is_ill, one.at_once) == (False, True, 1.0)


def test_slow_answers_are_no_good_ones() -> None:
    one = trial()
    for number in range(1, 30):
        one.observe(seen("a/m", AT + number, ms=300.0))
    assert (one.is_well, one.is_ill, one.at_once) == (False, True, 1.0)
    as_usual = trial()
    for number in range(1, 30):
        as_usual.observe(seen("a/m", AT + number, ms=5_000.0, first_token_ms=300.0))  # of streams nothing is known
    assert as_usual.is_well


def test_what_is_refused_as_the_callers_fault_counts_where_that_is_the_trouble() -> None:
    for cause, ill in (("status:400", True), ("status:422", False), ("errors", False)):
        one = Trial(AT, USUAL, cause)
        for number in range(1, 5):
            refused = seen("a/m", AT + number, ok=False, failure=FailureKind.BAD_REQUEST, status=400)
            one.observe(refused)
        assert one.is_ill is ill


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
def test_answers_that_vary_as_they_always_did_are_not_slow(sigma: float) -> None:
    rng = random.Random(5)
    slow = 0
    for factor in (1.0, 3.0):
        one = trial()
        for number in range(1, 600):
            one.observe(seen("a/m", AT + number, ms=factor * 100.0 * rng.lognormvariate(0.0, sigma)))
            slow += one.is_slow and factor == 1.0
    assert one.is_ill  # three times as slow
    assert slow <= 3


# ---- closed loop


def serving(ill: tuple[float, float], share: float, answer_s: float) -> ClosedLoop:
    """``a/m`` loses a share of its requests between two instants; all others serve."""
    levers, rng = mesh(), random.Random(3)
    one = healer(levers)
    only(one, "drain")

    def serve(offer: str, now: float) -> tuple[bool, float]:
        lost = offer == "a/m" and AT + ill[0] <= now < AT + ill[1] and rng.random() < share
        return not lost, answer_s * rng.uniform(0.7, 1.3)

    return ClosedLoop(levers, one, serve, per_s=7.0)


@pytest.mark.parametrize("answer_s", [1.0, 4.0, 15.0])
@pytest.mark.parametrize("share", [0.35, 1.0])
def test_a_trouble_that_goes_on_costs_few_requests_however_long_its_answers_take(answer_s: float, share: float) -> None:
    loop = serving((60.0, 660.0), share, answer_s)
    loop.run(70.0)
    loop.healer.look([pattern("a/m", at=loop.now)], loop.now)
    healed_at = loop.now
    loop.run(590.0)
    assert loop.share_struck(healed_at) < 0.02
    loop.run(500.0)
    assert loop.share_of("a/m", loop.now - 60.0, loop.now) == 1.0  # it is well, and was found to be


@pytest.mark.parametrize("share", [0.35, 0.5, 1.0])
def test_a_risk_that_fades_lets_one_request_at_once_try(share: float) -> None:
    loop = serving((60.0, 1e9), share, 4.0)
    latest: list[float] = []

    def foresee(now: float) -> None:  # as a prediction does: by the last answers, which stand until others come
        latest[:] = [at for at, to, ok in loop.sent if to == "a/m" and not ok and at + 5.0 < now][-1:]
        loop.healer.foresee("a/m", 0.7 if latest and now - latest[0] < 40.0 else 0.0)

    loop.look = foresee
    loop.run(75.0)
    since = loop.now
    loop.run(400.0)
    assert loop.share_struck(since) < 0.05
