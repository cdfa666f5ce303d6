"""Kinds of healing: what is learned of them, what they widen to, and how those end that make an offer look well."""

from __future__ import annotations

import msgspec
import pytest
from healer_samples import AT, FakeLevers, healer, only, pattern, seen

from amaru.domain import Kind
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.protocols.adapting import Adaptation, Rule
from amaru.routing.steering import Steering

RULES = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))


def mesh() -> FakeLevers:
    return FakeLevers("a/m", "b/m", "c/m", alternates={"a": 2})


def over(one: InfrastructurePattern, at: float) -> list[InfrastructurePattern]:
    ended = msgspec.structs.replace(one, ended_at=at)
    return [ended, pattern(*one.offers, kind=PatternKind.RECOVERY, at=at, similar=(one.id,), ended_at=at)]


def traffic(one: Healer, since: float, until: float, **bad: float) -> None:
    """Ten attempts a second at each offer of ``bad``, of which the given share fail."""
    for tick in range(round((until - since) * 10.0)):
        for name, share in bad.items():
            one.observe(seen(f"{name}/m", since + tick / 10.0, ok=(tick * 0.618) % 1.0 >= share, stream=True))


def test_nothing_is_done_for_the_sake_of_learning_only_where_little_is_at_stake() -> None:
    left_alone = dict.fromkeys(Impact, 0)
    one = healer(mesh())
    only(one, "weight")
    for impact in Impact:
        for number in range(300):
            at = AT + 1e4 * number
            ill = pattern("a/m", impact=impact, at=at)
            begun = one.look([ill], at)
            left_alone[impact] += [action.kind for action in begun] == [HealingKind.NOTHING]
            one.look(over(ill, at + 1.0), at + 1.0)
            for second in range(2, 12):
                one.look([], at + second)
    assert 6 <= left_alone[Impact.MINOR] <= 50
    assert 6 <= left_alone[Impact.MODERATE] <= 50
    assert left_alone[Impact.MAJOR] == left_alone[Impact.CRITICAL] == 0


def test_what_was_under_way_when_a_healing_began_is_none_of_its_doing() -> None:
    one = healer(mesh())
    only(one, "weight")
    traffic(one, AT - 60.0, AT, a=0.8, b=0.0, c=0.0)
    one.look([pattern("a/m")], AT)
    for tick in range(100):  # of the time before, and late
        one.observe(seen("a/m", AT + 6.0 + tick / 10.0, ok=False, ms=20_000.0))
    traffic(one, AT + 5.0, AT + 38.0, b=0.0, c=0.0)
    (measured,) = one.look([], AT + 38.0)
    assert measured.effect is not None
    assert measured.effect > 0.2


def test_an_adaptation_is_widened_to_what_else_cannot_be_read_while_its_pattern_goes_on() -> None:
    streamed = Adaptation((Rule(Kind.CHAT, True, "choices[].delta.content", "text"),))
    levers = mesh()
    levers.findable["a/m"] = RULES
    one = healer(levers)
    only(one, "adapt")
    ill = pattern("a/m", "b/m", kind=PatternKind.API_CHANGE, cause="shape")
    (action,) = one.look([ill], AT)
    levers.findable |= {"a/m": RULES | streamed, "b/m": streamed}
    (wider,) = one.look([], AT + 10.0)
    assert (wider.id, wider.offers, wider.kind) == (action.id, ("a/m", "b/m"), HealingKind.ADAPT)
    assert levers.adaptations["a/m"].adaptation == RULES | streamed
    assert levers.adaptations["b/m"].adaptation == streamed
    assert set(wider.changed) > {"a/m adaptation", "b/m adaptation"} - set(action.changed)
    assert one.look([], AT + 20.0) == []
    levers.adapt("a/m", RULES)  # a person knows better
    levers.findable["a/m"] = RULES | streamed | Adaptation((Rule(Kind.CHAT, True, "model", "id"),))
    one.look([], AT + 30.0)
    assert levers.adaptations["a/m"].adaptation == RULES
    assert action.until is not None
    one.look(over(ill, action.until), action.until)
    assert (levers.adapted("b/m"), levers.steered["b/m"], levers.steered["a/m"]) == (None, Steering(), Steering())


def test_that_the_others_are_slower_than_the_one_kept_out_is_no_reason_to_give_up() -> None:
    levers = mesh()
    one = healer(levers)
    only(one, "drain")

    def serve(since: float, until: float, **ms: float) -> None:
        for tick in range(round((until - since) * 10.0)):
            for name, each in ms.items():
                one.observe(seen(f"{name}/m", since + tick / 10.0, ms=each))

    serve(AT - 200.0, AT - 5.0, a=100.0, b=300.0)
    serve(AT - 5.0, AT, a=200.0, b=300.0)  # it has just begun to slow down
    one.look([pattern("a/m", cause="latency")], AT)
    serve(AT, AT + 38.0, b=300.0)
    (measured,) = one.look([], AT + 38.0)
    assert measured.effect is not None
    assert measured.ended_at is None


# ---- those under which an offer looks well whether or not it is


def test_streams_are_asked_for_whole_only_where_they_break() -> None:
    one = healer(mesh())
    only(one, "non_stream")
    traffic(one, AT - 100.0, AT, a=0.0)
    begun = one.look([pattern("a/m", suggested="drain")], AT)
    begun += one.look([pattern("a/m", suggested="non_stream", at=AT + 1.0)], AT + 1.0)
    assert [action.at for action in begun if action.kind is HealingKind.NON_STREAM] == [AT + 1.0]


def masked(levers: FakeLevers, kind: str) -> tuple[Healer, InfrastructurePattern, float]:
    """A healer whose masking healing ends now, its pattern long over, with what it was about."""
    one = healer(levers)
    only(one, kind)
    traffic(one, AT - 100.0, AT, a=0.0)
    ill = pattern("a/m", suggested=kind)
    (action,) = one.look([ill], AT)
    assert (action.kind, action.until is not None) == (kind, True)
    assert action.until is not None
    one.look(over(ill, AT + 60.0), AT + 60.0)
    one.look([], action.until - 1.0)
    return one, ill, action.until


def is_masked(levers: FakeLevers, kind: str) -> bool:
    return levers.address("a") == 1 if kind == "alternate" else levers.steered["a/m"].non_stream


@pytest.mark.parametrize("kind", ["alternate", "non_stream"])
def test_what_looked_well_under_a_healing_is_tried_without_it_one_request_at_a_time(kind: str) -> None:
    levers = mesh()
    one, _, ends = masked(levers, kind)
    assert is_masked(levers, kind)
    one.look([], ends)
    assert not is_masked(levers, kind)
    assert levers.steered["a/m"].at_once == 1.0
    for number in range(1, 15):
        one.observe(seen("a/m", ends + number))
        one.look([], ends + number)
    assert (levers.all_steered(), levers.address("a"), one.active) == ({}, 0, {})


@pytest.mark.parametrize("kind", ["alternate", "non_stream"])
def test_where_the_first_ones_fail_it_is_healed_so_again_and_for_longer(kind: str) -> None:
    levers = mesh()
    one, _, ends = masked(levers, kind)
    one.look([], ends)
    for number in range(1, 4):
        one.observe(seen("a/m", ends + number, ok=False))
    one.look([], ends + 4.0)
    assert is_masked(levers, kind)
    (again,) = one.active.values()
    assert (again.kind, again.until) == (kind, ends + 4.0 + 1800.0)


@pytest.mark.parametrize("kind", ["alternate", "non_stream"])
def test_where_nobody_asks_the_trial_ends_by_itself_and_leaves_nothing_behind(kind: str) -> None:
    levers = mesh()
    one, _, ends = masked(levers, kind)
    for second in range(0, 400, 50):
        one.look([], ends + second)
    assert (levers.all_steered(), levers.address("a"), one.active) == ({}, 0, {})
