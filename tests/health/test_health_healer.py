"""The healer: it acts within bounds, measures what that was worth, and puts everything back."""

from __future__ import annotations

import msgspec
import pytest
from healer_samples import AT, FakeLevers, healer, only, pattern, seen

from amaru.domain import Kind
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind, SelfHealingAction
from amaru.health.healing_settings import Veto
from amaru.health.moves import DRAINED
from amaru.health.observation import Sample
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.health.trial import BEGINS
from amaru.protocols.adapting import Adaptation, Rule
from amaru.routing.steering import Steering

RULES = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))


def mesh(*more: str) -> FakeLevers:
    return FakeLevers("a/m", "b/m", "c/m", *more)


def over(one: InfrastructurePattern, at: float) -> list[InfrastructurePattern]:
    ended = msgspec.structs.replace(one, ended_at=at)
    told = pattern(*one.offers, kind=PatternKind.RECOVERY, at=at, similar=(one.id,), ended_at=at)
    return [ended, told]


def kinds(actions: list[SelfHealingAction]) -> list[HealingKind]:
    return [action.kind for action in actions]


def drained_by(levers: FakeLevers) -> tuple[Healer, InfrastructurePattern, SelfHealingAction]:
    one = healer(levers)
    only(one, "drain")
    ill = pattern("a/m")
    (action,) = one.look([ill], AT)
    assert action.kind is HealingKind.DRAIN
    assert levers.all_steered() == {"a/m": DRAINED}
    return one, ill, action


def traffic(one: Healer, since: float, until: float, **bad: float) -> None:
    """Ten attempts a second at each offer of ``bad``, of which the given share fail."""
    for tick in range(round((until - since) * 10.0)):
        at = since + tick / 10.0
        for name, share in bad.items():
            one.observe(seen(f"{name}/m", at, ok=(tick * 0.618) % 1.0 >= share))


def test_a_healing_is_recorded_with_what_it_changed_and_when_it_ends() -> None:
    _, ill, action = drained_by(mesh())
    assert action.pattern == ill.id
    assert action.offers == ("a/m",)
    assert action.changed == {
        "a/m drained": "no -> yes",
        "a/m look_s": "as configured -> 20",
        "a/m patience": "1 -> 0.5",
    }
    assert action.until is not None
    assert AT < action.until <= AT + 3600.0
    assert "degradation, errors" in action.reason
    assert action.by == "amaru"


def test_one_pattern_has_one_healing_at_a_time() -> None:
    one, _, _ = drained_by(mesh())
    assert one.look([], AT + 1.0) == []
    assert len(one.active) == 1


def test_after_a_recovery_the_offer_comes_back_step_by_step() -> None:
    levers = mesh()
    one, ill, action = drained_by(levers)
    news = one.look(over(ill, AT + 20.0), AT + 20.0)
    assert kinds(news) == [HealingKind.RESTORE, HealingKind.DRAIN]
    ended = news[1]
    assert (ended.id, ended.ended_at, ended.ended, ended.reverted) == (
        action.id, AT + 20.0, "the trouble is over", True
    )  # fmt: skip
    weights = []
    for second in range(20, 40):
        one.look([], AT + second)
        weights.append(levers.steered["a/m"].weight)
    assert weights == sorted(weights)
    assert {0.5, 0.75, 1.0} == set(weights)
    assert levers.all_steered() == {}
    assert one.active == {}


def test_a_slow_offer_is_held_against_what_was_usual_before_it_is_healed_again() -> None:
    for ms, again in ((100.0, False), (300.0, True)):
        levers = mesh()
        one = healer(levers)
        only(one, "weight")
        traffic(one, AT - 100.0, AT, a=0.0, b=0.0, c=0.0)
        ill = pattern("a/m", cause="latency")
        (action,) = one.look([ill], AT)
        assert action.until is not None
        one.look([], action.until)
        for tick in range(400):
            one.observe(seen("a/m", action.until + tick / 10.0, ms=ms))
            if tick % 10 == 9:
                one.look([], action.until + tick / 10.0)
        assert (levers.all_steered() != {}) is again, ms


def test_a_trouble_whose_offer_was_shown_to_be_well_is_not_healed_without_new_evidence() -> None:
    levers = mesh()
    one, _, action = drained_by(levers)
    assert action.until is not None
    one.look([], action.until)
    traffic(one, action.until + 1.0, action.until + 3.0, a=0.0)
    for second in range(3, 60):
        one.look([], action.until + second)
    assert levers.all_steered() == {}
    traffic(one, action.until + 60.0, action.until + 65.0, a=0.8)
    one.look([], action.until + 66.0)
    assert levers.all_steered() != {}


def test_the_effect_is_the_change_of_what_users_got_and_is_learned() -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "drain")
    traffic(one, AT - 60.0, AT, a=0.8, b=0.0, c=0.0)
    before = one.bandit.belief("degradation", "errors", "a", HealingKind.DRAIN)[0]
    one.look([pattern("a/m")], AT)
    traffic(one, AT, AT + 40.0, b=0.0, c=0.0)
    (measured,) = one.look([], AT + 38.0)
    assert measured.effect == pytest.approx(0.8 / 3.0, abs=0.06)
    assert measured.ended_at is None
    assert one.bandit.belief("degradation", "errors", "a", HealingKind.DRAIN)[0] != before


def test_what_did_not_help_gives_way_to_another_healing() -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "retry")
    traffic(one, AT - 60.0, AT, a=0.8, b=0.0, c=0.0)
    one.look([pattern("a/m")], AT)
    traffic(one, AT, AT + 40.0, a=0.8, b=0.0, c=0.0)
    news = one.look([], AT + 38.0)
    assert news[0].kind is HealingKind.RETRY
    assert news[0].ended == "it did not help"
    assert news[1].kind is not HealingKind.RETRY
    assert levers.steered["a/m"].backoff == 1.0


def test_where_routing_had_helped_already_a_healing_stays_and_teaches_nothing() -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "weight")
    traffic(one, AT - 300.0, AT - 60.0, a=0.0, b=0.0, c=0.0)
    traffic(one, AT - 60.0, AT, b=0.0, c=0.0)
    before = one.bandit.known()
    one.look([pattern("a/m")], AT)
    traffic(one, AT, AT + 40.0, b=0.0, c=0.0)
    (measured,) = one.look([], AT + 38.0)
    assert measured.effect == pytest.approx(0.0, abs=0.01)
    assert measured.ended_at is None
    assert one.bandit.known() == before


def test_what_makes_it_worse_ends_before_it_is_measured_in_full() -> None:
    one = healer(mesh())
    only(one, "drain")
    traffic(one, AT - 60.0, AT, a=0.2, b=0.0, c=0.0)
    one.look([pattern("a/m")], AT)
    traffic(one, AT, AT + 12.0, b=0.9, c=0.9)
    news = one.look([], AT + 12.0)
    assert news[0].ended == "it made things worse"


def test_what_makes_it_worse_ends_at_once() -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "drain")
    traffic(one, AT - 60.0, AT, a=0.2, b=0.0, c=0.0)
    one.look([pattern("a/m")], AT)
    traffic(one, AT, AT + 40.0, b=0.9, c=0.9)  # the others cannot bear what came to them
    news = one.look([], AT + 38.0)
    assert news[0].ended == "it made things worse"
    assert not levers.steered["a/m"].drained


def test_slower_answers_count_too_and_so_do_empty_ones() -> None:
    for bad in ({"ms": 1_000.0}, {"sample": Sample(shape=1, empty=True)}):
        levers = mesh()
        one = healer(levers)
        only(one, "drain")
        for tick in range(100):
            one.observe(seen("a/m", AT - 20.0 + tick / 5.0, **bad))
            one.observe(seen("b/m", AT - 20.0 + tick / 5.0))
        one.look([pattern("a/m")], AT)
        for tick in range(100):
            one.observe(seen("b/m", AT + 10.0 + tick / 5.0))
        (measured,) = one.look([], AT + 38.0)
        assert measured.effect is not None
        assert measured.effect > 0.2


def test_too_few_attempts_say_nothing() -> None:
    one = healer(mesh())
    only(one, "drain")
    one.look([pattern("a/m")], AT)
    assert one.look([], AT + 39.0) == []
    (action,) = one.active.values()
    assert action.effect is None


def test_what_a_breaker_keeps_away_is_not_kept_out_besides() -> None:
    levers = mesh()
    levers.broken = {"a/m"}
    one = healer(levers)
    only(one, "drain")
    ill = pattern("a/m")
    assert one.look([ill], AT) == []
    levers.findable["a/m"] = RULES
    (adapted,) = one.look([pattern("a/m", kind=PatternKind.API_CHANGE, cause="shape")], AT + 1.0)
    assert adapted.kind is HealingKind.ADAPT  # that it can be read again is worth having
    levers.broken = set()
    assert HealingKind.DRAIN in kinds(one.look([], AT + 2.0))


def test_a_minor_trouble_drains_nobody() -> None:
    one = healer(mesh())
    only(one, "drain")
    one.look([pattern("a/m", impact=Impact.MINOR)], AT)
    assert HealingKind.DRAIN not in kinds(one.actions())


def test_the_last_offers_of_a_resource_are_never_drained() -> None:
    levers = FakeLevers("a/m", "b/m", "c/only")
    one = healer(levers)
    only(one, "drain")
    for ill in ("a/m", "b/m", "c/only"):
        one.look([pattern(ill)], AT)
    assert [offer for offer, steering in levers.steered.items() if steering.drained] == ["a/m"]


def test_offers_that_a_person_drained_count() -> None:
    levers = FakeLevers("a/m", "b/m")
    levers.steer("b/m", Steering(drained=True))
    one = healer(levers)
    only(one, "drain")
    one.look([pattern("a/m")], AT)
    assert not levers.steered["a/m"].drained


def test_nobody_is_kept_out_where_nobody_well_and_free_is_left() -> None:
    for trouble in ("broken", "full", "ill", "on trial"):
        levers = FakeLevers("a/m", "b/m")
        one = healer(levers)
        told = [pattern("a/m", impact=Impact.CRITICAL)]
        if trouble == "broken":
            levers.broken = {"b/m"}
        elif trouble == "full":
            levers.served = [msgspec.structs.replace(offer, capacity=4.0) for offer in levers.served]
            levers.flying["b/m"] = 4.0
        elif trouble == "ill":
            told.append(pattern("b/m", cause="latency"))
        else:
            levers.steer("b/m", Steering(at_once=1.0))
        for kind in ("drain", "weight", "concurrency", "retry"):
            only(one, kind)
        one.look(told, AT)
        assert {action.kind for action in one.actions()} <= {HealingKind.NOTHING}, trouble


def test_a_reload_that_leaves_too_few_others_ends_a_drain() -> None:
    levers = mesh()
    one, _, action = drained_by(levers)
    levers.set_offers("a/m")
    news = one.look([], AT + 5.0)
    assert [told.ended for told in news if told.id == action.id] == ["too few other offers are left"]
    assert not levers.steered["a/m"].drained


def test_so_many_healings_at_a_time_for_one_provider() -> None:
    levers = FakeLevers("a/m", "a/n", "a/o", "b/m", "b/n", "b/o")
    one = healer(levers, most_per_provider=2)
    for resource in ("m", "n", "o"):
        only(one, "weight")
        one.look([pattern(f"a/{resource}", cause="latency"), pattern(f"a/{resource}")], AT)
        running = [action for action in one.active.values() if action.kind is not HealingKind.NOTHING]
        assert len(running) <= 2


def test_a_healing_that_did_not_help_cools_down() -> None:
    levers = mesh()
    one = healer(levers, cooldown_s=100.0)
    only(one, "retry")
    traffic(one, AT - 60.0, AT + 50.0, a=0.5, b=0.0, c=0.0)
    ill = pattern("a/m")
    one.look([ill], AT)
    one.look([], AT + 38.0)
    for second in range(41, 130, 5):
        one.look([], AT + second)
        running = [action for action in one.active.values() if action.pattern == ill.id]
        assert HealingKind.RETRY not in kinds(running)


def test_a_veto_forbids_and_ends_what_it_forbids() -> None:
    levers = mesh()
    one, ill, action = drained_by(levers)
    veto = Veto(kind=HealingKind.DRAIN, provider="a", by="kim", at=AT)
    one.veto(veto, AT + 1.0)
    assert not levers.steered["a/m"].drained
    news = one.look([], AT + 1.0)
    assert next(told.ended for told in news if told.id == action.id) == "vetoed by kim"
    assert HealingKind.DRAIN not in [told.kind for told in news if told.ended_at is None]
    one.veto(Veto(by="kim"), AT + 2.0)
    one.look([pattern("b/m")], AT + 3.0)
    assert one.active == {}
    assert levers.all_steered() == {}
    one.lift(veto)
    assert veto not in one.vetoes
    assert ill.id in {told.pattern for told in one.actions()}


def test_a_pin_holds_until_it_is_unpinned_whatever_happens() -> None:
    levers = mesh()
    one = healer(levers, mode="off")
    pinned = one.pin(HealingKind.DRAIN, ["a/m"], AT, by="kim", reason="maintenance")
    assert (pinned.by, pinned.until, pinned.reason) == ("kim", None, "maintenance")
    for second in (1.0, 1e4, 1e6):
        one.look(over(pattern("a/m"), AT + second), AT + second)
        assert levers.all_steered() == {"a/m": Steering(drained=True)}
    one.veto(Veto(), AT + 1e6)
    assert levers.steered["a/m"].drained
    ended = one.unpin(pinned.id, AT + 1e6)
    assert (ended.ended, ended.reverted) == ("unpinned", True)
    assert levers.all_steered() == {}
    with pytest.raises(ValueError, match="no pinned healing"):
        one.unpin(pinned.id, AT)


def test_a_pin_may_be_any_steering_and_lies_under_what_amaru_does_besides() -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "weight")
    pinned = one.pin(HealingKind.WEIGHT, ["a/m"], AT, by="kim", steering=Steering(weight=0.5, idle_ms=700.0))
    one.look([pattern("a/m")], AT)
    assert levers.steered["a/m"] == Steering(weight=0.2, idle_ms=700.0)
    one.unpin(pinned.id, AT + 1.0)
    assert levers.steered["a/m"] == Steering(weight=0.4)


def test_pinning_nothing_keeps_amaru_away() -> None:
    levers = mesh()
    one, ill, _ = drained_by(levers)
    pinned = one.pin(HealingKind.NOTHING, ["a/m"], AT + 1.0, by="kim")
    assert levers.all_steered() == {}
    one.look([ill], AT + 2.0)
    assert levers.all_steered() == {}
    one.unpin(pinned.id, AT + 3.0)
    one.look([], AT + 4.0)
    assert levers.all_steered() != {}


def test_impossible_orders_are_refused() -> None:
    one = healer(FakeLevers("a/m", "b/m"))
    with pytest.raises(ValueError, match="no offer x/m"):
        one.pin(HealingKind.DRAIN, ["x/m"], AT, by="kim")
    with pytest.raises(ValueError, match=r"too few other offers would be left .*: at most 50% of"):
        one.pin(HealingKind.DRAIN, ["a/m", "b/m"], AT, by="kim")
    with pytest.raises(ValueError, match="adapt is not possible"):
        one.pin(HealingKind.ADAPT, ["a/m"], AT, by="kim")
    with pytest.raises(ValueError, match="alternate is not possible"):
        one.pin(HealingKind.ALTERNATE, ["a/m"], AT, by="kim")
    with pytest.raises(ValueError, match="unpinning"):
        one.pin(HealingKind.RESTORE, ["a/m"], AT, by="kim")
    assert one.active == {}


def test_what_a_person_changes_meanwhile_stays_as_they_set_it() -> None:
    levers = mesh()
    one, ill, _ = drained_by(levers)
    theirs = Steering(drained=False, weight=0.7)
    levers.steer("a/m", theirs)  # the person puts it back, and weighs it down themselves
    one.look([], AT + 1.0)
    assert levers.steered["a/m"] == theirs
    (ended,) = [told for told in one.look(over(ill, AT + 5.0), AT + 5.0) if told.kind is HealingKind.DRAIN]
    assert not ended.reverted
    for second in range(6, 40):
        one.look([], AT + second)
    assert levers.steered["a/m"] == theirs


def test_advice_changes_nothing_and_teaches_what_nothing_brings() -> None:
    levers = mesh()
    one = healer(levers, mode="advise")
    only(one, "drain")
    traffic(one, AT - 60.0, AT + 45.0, a=0.8, b=0.0)
    (advice,) = one.look([pattern("a/m")], AT)
    assert (advice.kind, advice.applied, advice.changed) == (HealingKind.DRAIN, False, {})
    assert levers.all_steered() == {}
    before = one.bandit.known()["degradation|errors|"]
    one.look([], AT + 38.0)
    after = one.bandit.known()["degradation|errors|"]
    assert after["nothing"][0] == 1.0
    assert abs(after["nothing"][1]) < 0.1
    assert after["drain"][1] == before["drain"][1]


def test_the_off_switch_puts_everything_back_at_once_but_for_pins() -> None:
    levers = mesh()
    one, ill, _ = drained_by(levers)
    one.pin(HealingKind.WEIGHT, ["b/m"], AT, by="kim", steering=Steering(weight=0.5))
    one.set_mode("off", AT + 1.0)
    assert levers.all_steered() == {"b/m": Steering(weight=0.5)}
    one.look([ill], AT + 2.0)
    assert levers.all_steered() == {"b/m": Steering(weight=0.5)}
    one.set_mode("act", AT + 3.0)
    one.look([], AT + 4.0)
    assert "a/m" in levers.all_steered()


def test_an_adaptation_stays_while_it_is_needed_whatever_looks_well_under_it() -> None:
    levers = mesh()
    levers.findable["a/m"] = RULES
    one = healer(levers)
    only(one, "adapt")
    ill = pattern("a/m", kind=PatternKind.API_CHANGE, cause="shape")
    (action,) = one.look([ill], AT)
    assert action.kind is HealingKind.ADAPT
    assert action.changed["a/m adaptation"] == "choices[].message.text read as content"
    assert levers.steered["a/m"].adapted
    one.look(over(ill, AT + 30.0), AT + 30.0)
    assert levers.adapted("a/m") is not None
    assert action.until is not None
    levers.adaptations["a/m"].rewritten = 12
    (longer,) = one.look([], action.until)
    assert longer.until is not None
    assert longer.until > action.until
    (ended,) = one.look([], longer.until)  # nothing was rewritten since
    assert ended.reverted
    assert levers.adapted("a/m") is None
    assert levers.all_steered() == {}


def test_another_address_is_asked_and_the_first_one_again_afterwards() -> None:
    levers = FakeLevers("a/m", "b/m", alternates={"a": 2})
    one = healer(levers)
    only(one, "alternate")
    ill = pattern("a/m", kind=PatternKind.API_CHANGE, cause="status:422")
    (action,) = one.look([ill], AT)
    assert (action.kind, levers.address("a"), action.changed) == (HealingKind.ALTERNATE, 1, {"a address": "0 -> 1"})
    one.look(over(ill, AT + 30.0), AT + 30.0)
    assert levers.address("a") == 1  # that one is well says nothing of the other
    assert action.until is not None
    one.look([], action.until)
    assert levers.address("a") == 0


def test_an_address_that_a_person_chose_meanwhile_is_left_to_them() -> None:
    levers = FakeLevers("a/m", "b/m", alternates={"a": 2})
    one = healer(levers)
    pinned = one.pin(HealingKind.ALTERNATE, ["a/m"], AT, by="kim")
    levers.endpoint("a", 2)
    assert not one.unpin(pinned.id, AT + 1.0).reverted
    assert levers.address("a") == 2


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_orders_that_lie_over_each_other_end_in_any_order(first_ends_first: bool) -> None:
    levers = FakeLevers("a/m", "b/m", alternates={"a": 2})
    levers.findable["a/m"] = RULES
    one = healer(levers)
    for kind in (HealingKind.ALTERNATE, HealingKind.ADAPT):
        pinned = [one.pin(kind, ["a/m"], AT, by="kim")]
        levers.findable["a/m"] = RULES | Adaptation((Rule(Kind.CHAT, True, "choices[].delta.content", "text"),))
        pinned.append(one.pin(kind, ["a/m"], AT + 1.0, by="kim"))
        for action in pinned if first_ends_first else reversed(pinned):
            assert one.unpin(action.id, AT + 2.0).reverted
        assert (levers.address("a"), levers.adapted("a/m"), levers.all_steered()) == (0, None, {})


def test_another_model_of_the_alias_goes_first() -> None:
    levers = FakeLevers("a/m", "b/m", "c/n")
    one = healer(levers)
    only(one, "other_model")
    ill = pattern("a/m", "b/m", kind=PatternKind.RESONANCE, cause="model:m")
    (action,) = one.look([ill], AT)
    assert action.kind is HealingKind.OTHER_MODEL
    assert set(levers.all_steered()) == {"a/m", "b/m"}


def test_waits_end_sooner_where_there_are_streams_to_wait_for_and_another_offer() -> None:
    for stream in (True, False):
        levers = mesh()
        one = healer(levers)
        only(one, "timeouts")
        for tick in range(200):
            one.observe(seen("a/m", AT - 200.0 + tick * 0.9, ms=2_000.0, first_token_ms=400.0, stream=stream))
        (action,) = one.look([pattern("a/m", cause="latency")], AT)
        assert (action.kind is HealingKind.TIMEOUTS) is stream
        if stream:
            assert levers.steered["a/m"] == Steering(patience=0.5)


def test_an_adaptive_limit_falls_with_failures_and_slowness_and_rises_again() -> None:
    levers = mesh()
    levers.flying["a/m"] = 40.0
    one = healer(levers)
    only(one, "concurrency")
    traffic(one, AT - 100.0, AT - 30.0, a=0.0)
    one.look([pattern("a/m")], AT)
    assert levers.steered["a/m"].at_once == 40.0
    for tick in range(20):
        one.observe(seen("a/m", AT + tick / 10.0, ok=False))
    one.look([], AT + 2.0)
    least = levers.steered["a/m"].at_once
    assert least == 20.0  # half of what it served
    for tick in range(40):
        one.observe(seen("a/m", AT + 3.0 + tick / 10.0))
    one.look([], AT + 7.0)
    most = levers.steered["a/m"].at_once
    assert most is not None
    assert most > least
    for tick in range(60):
        one.observe(seen("a/m", AT + 8.0 + tick / 10.0, ms=2_000.0))
    one.look([], AT + 14.0)
    slow = levers.steered["a/m"].at_once
    assert slow is not None
    assert slow < most


def test_requests_at_once_are_limited_only_where_others_can_serve_them() -> None:
    one = healer(FakeLevers("a/m"))
    only(one, "concurrency")
    one.look([pattern("a/m")], AT)
    assert HealingKind.CONCURRENCY not in kinds(one.actions())


def test_a_predicted_failure_is_laid_over_the_offer_and_taken_away() -> None:
    levers = mesh()
    one, ill, _ = drained_by(levers)
    one.foresee("a/m", 0.35)
    one.foresee("b/m", 0.01)
    assert levers.all_steered() == {"a/m": msgspec.structs.replace(DRAINED, risk=0.35)}
    one.look(over(ill, AT + 1.0), AT + 1.0)
    for second in range(60):
        one.look([], AT + 2.0 + second)
    assert levers.all_steered() == {"a/m": Steering(risk=0.35)}
    one.foresee("a/m", 0.36)  # hardly another
    assert levers.steered["a/m"].risk == 0.35
    one.foresee("a/m", 0.0)
    assert levers.all_steered() == {}


def test_what_was_foreseen_fades_while_nobody_asks_the_offer_which_is_on_trial_then() -> None:
    levers = mesh()
    one = healer(levers)
    one.observe(seen("a/m", AT, ok=False))
    one.foresee("a/m", 0.8)
    assert levers.all_steered() == {"a/m": Steering(risk=0.8)}
    one.look([], AT + 5.0)
    assert levers.all_steered() == {"a/m": msgspec.structs.replace(BEGINS, risk=0.4)}
    one.look([], AT + 60.0)
    assert levers.all_steered() == {"a/m": BEGINS}
    one.observe(seen("a/m", AT + 61.0, ok=False))
    one.look([], AT + 61.0)
    assert (levers.steered["a/m"].risk, levers.steered["a/m"].at_once) == (0.8, 1.0)
    assert levers.steered["a/m"].look_s > 3.0 * BEGINS.look_s  # whoever looks again waits in vain, most likely
    one.foresee("a/m", 0.0)  # silence alone ends no trial
    one.look([], AT + 63.0)
    assert (levers.steered["a/m"].risk, levers.steered["a/m"].at_once) == (0.0, 1.0)
    for tick in range(15):
        one.observe(seen("a/m", AT + 64.0 + tick))
    one.look([], AT + 79.0)
    assert levers.all_steered() == {}


def test_a_probe_that_finds_an_offer_well_ends_what_was_foreseen_but_not_what_is_foreseen_beyond() -> None:
    levers = mesh()
    one = healer(levers)
    one.observe(seen("a/m", AT, ok=False))
    one.foresee("a/m", 0.5)
    one.look([], AT)
    levers.recovered["a/m"] = 1
    one.observe(seen("a/m", AT + 1.0))
    one.look([], AT + 1.0)
    assert levers.steered["a/m"].risk == 0.0
    one.foresee("a/m", 0.4)
    assert levers.steered["a/m"].risk == 0.0
    one.foresee("a/m", 0.7)  # it flaps: worse is to come
    assert levers.steered["a/m"].risk == 0.7
    one.foresee("a/m", 0.0)
    one.foresee("a/m", 0.3)  # another failure is foreseen
    assert levers.steered["a/m"].risk == 0.3


def test_a_restart_goes_on_with_what_was_learned_forbidden_and_under_way() -> None:
    levers = mesh()
    one, _, action = drained_by(levers)
    one.pin(HealingKind.WEIGHT, ["b/m"], AT, by="kim", steering=Steering(weight=0.5))
    one.veto(Veto(kind=HealingKind.RETRY), AT)
    state = one.state()
    fresh = mesh()
    two = healer(fresh)
    two.load(state, AT + 10.0)
    assert fresh.all_steered() == levers.all_steered()
    assert two.vetoes == one.vetoes
    assert two.bandit.known() == one.bandit.known()
    assert two.active.keys() == one.active.keys()
    assert action.until is not None
    for second in range(40):
        two.look([], action.until + second)
    assert fresh.all_steered() == {"b/m": Steering(weight=0.5)}


def test_what_expired_while_amaru_was_down_is_over() -> None:
    one, _, action = drained_by(mesh())
    fresh = mesh()
    two = healer(fresh)
    two.load(one.state(), AT + 1e5)
    assert fresh.all_steered() == {}
    assert two.active == {}
    assert (two.actions()[0].id, two.actions()[0].reverted) == (action.id, True)


@pytest.mark.parametrize("state", [b"", b"\x81\xa7version\x09", b"nonsense", msgspec.msgpack.encode({"version": 1})])
def test_a_state_that_is_none_is_refused_and_changes_nothing(state: bytes) -> None:
    one = healer(mesh())
    with pytest.raises(ValueError, match="healer"):
        one.load(state, AT)
    assert one.actions() == []


def test_an_offer_that_went_and_came_back_is_steered_again() -> None:
    levers = mesh("d/m")
    one, _, _ = drained_by(levers)
    levers.set_offers("b/m", "c/m", "d/m")
    one.look([], AT + 1.0)
    assert levers.all_steered() == {}
    levers.set_offers("a/m", "b/m", "c/m", "d/m")
    one.look([], AT + 2.0)
    assert levers.all_steered() == {"a/m": DRAINED}


def test_who_knows_what_goes_on_ends_the_rest_and_has_what_was_before_a_restart_taken_up() -> None:
    levers = mesh()
    one, ill, _ = drained_by(levers)
    one.look([], AT + 1.0, {ill.id: ill})
    assert levers.steered["a/m"].drained
    one.look([], AT + 2.0, {})
    assert not levers.steered["a/m"].drained
    two = healer(FakeLevers("a/m", "b/m"))
    assert two.look([], AT, {ill.id: ill}) != []


def test_who_is_unsure_does_nothing() -> None:
    one = healer(mesh(), least_confidence=0.6)
    assert one.look([pattern("a/m", confidence=0.55)], AT) == []


def test_patterns_of_offers_that_there_are_not_do_no_harm() -> None:
    levers = mesh()
    one = healer(levers)
    for second in range(100):
        one.look([pattern("x/y", at=AT + second)] if second < 3 else [], AT + second)
    assert levers.all_steered() == {}
