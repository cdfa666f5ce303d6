"""Whatever happens, in whatever order: bounds hold at every moment, and in the end everything is as it was."""

from __future__ import annotations

import collections
from typing import Any

import msgspec
from healer_samples import AT, FakeLevers, healer, pattern, seen
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.domain import Kind
from amaru.health.grip import LEAST_WEIGHT, laid_over, touched
from amaru.health.healer import Healer
from amaru.health.healing import HealingKind
from amaru.health.healing_settings import HealerSettings, Veto
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.protocols.adapting import Adaptation, Rule
from amaru.routing.steering import UNSTEERED, Steering

ALL = ("a/m", "a/n", "b/m", "b/n", "c/m", "d/m", "d/only")
RULES = Adaptation((Rule(Kind.CHAT, False, "choices[].message.content", "text"),))
UNHEALED = (HealingKind.RESTORE, HealingKind.NOTHING)

some_offers = st.lists(st.sampled_from(ALL), min_size=1, max_size=4, unique=True).map(tuple)
causes = st.sampled_from(
    [
        (PatternKind.DEGRADATION, "errors"),
        (PatternKind.DEGRADATION, "latency"),
        (PatternKind.DEGRADATION, "coherence"),
        (PatternKind.API_CHANGE, "shape"),
        (PatternKind.API_CHANGE, "status:422"),
        (PatternKind.RESONANCE, "bridge:x"),
        (PatternKind.RESONANCE, "model:m"),
    ]
)
happenings = st.one_of(
    st.tuples(st.just("ill"), some_offers, causes, st.sampled_from(list(Impact))),
    st.tuples(st.just("well"), st.integers(0, 5)),
    st.tuples(st.just("passes"), st.sampled_from([1.0, 4.0, 6.0, 31.0, 70.0, 400.0, 5_000.0])),
    st.tuples(st.just("goes_on"), st.integers(5, 45), st.sampled_from([0, 1, 2, 10])),
    st.tuples(st.just("traffic"), some_offers, st.booleans()),
    st.tuples(st.just("veto"), st.sampled_from([None, *HealingKind]), st.sampled_from([None, "a", "b"])),
    st.tuples(st.just("pin"), st.sampled_from(list(HealingKind)), some_offers),
    st.tuples(st.just("unpin"), st.integers(0, 3)),
    st.tuples(st.just("mode"), st.sampled_from(["act", "advise", "off"])),
    st.tuples(st.just("risk"), st.sampled_from(ALL), st.sampled_from([0.0, 0.2, 0.9])),
    st.tuples(st.just("reload"), st.sets(st.sampled_from(ALL), min_size=1)),
    st.tuples(st.just("restart")),
)


class Story:
    """A healer with what happens to it."""

    def __init__(self) -> None:
        self.levers = FakeLevers(*ALL, alternates={"a": 2, "b": 1})
        self.levers.findable = {"a/m": RULES, "b/n": RULES}
        self.healer: Healer = healer(self.levers)
        self.now = AT
        self.ill: list[InfrastructurePattern] = []
        self.vetoes: list[Veto] = []

    def happens(self, what: tuple[Any, ...]) -> None:
        name, *rest = what
        told = getattr(self, f"on_{name}")(*rest) or []
        self.healer.look(told, self.now)
        self.check()

    def on_ill(self, offers: tuple[str, ...], cause: tuple[PatternKind, str], impact: Impact) -> Any:
        one = pattern(*offers, kind=cause[0], cause=cause[1], impact=impact, at=self.now)
        self.ill.append(one)
        return [one]

    def on_well(self, which: int) -> Any:
        if not self.ill:
            return []
        one = self.ill.pop(which % len(self.ill))
        return [msgspec.structs.replace(one, ended_at=self.now)]

    def on_passes(self, seconds: float) -> None:
        self.now += seconds

    def on_goes_on(self, seconds: int, fails_each: int) -> None:
        """With traffic at every offer, of which each n-th attempt at those that are ill fails."""
        ill = {offer for one in self.ill for offer in one.offers}
        for second in range(seconds):
            for offer, steering in self.levers.steered.items():
                if not steering.drained:
                    ok = not (fails_each and offer in ill and second % fails_each == 0)
                    self.healer.observe(seen(offer, self.now + second, ok=ok, ms=100.0 + 5.0 * second))
            self.healer.look([], self.now + second)
        self.now += seconds

    def on_traffic(self, offers: tuple[str, ...], ok: bool) -> None:
        for tick in range(60):
            for offer in offers:
                self.healer.observe(seen(offer, self.now + tick / 10.0, ok=ok, stream=tick % 2 == 0))
        self.now += 6.0

    def on_veto(self, kind: HealingKind | None, provider: str | None) -> None:
        veto = Veto(kind=kind, provider=provider, at=self.now)
        self.vetoes.append(veto)
        self.healer.veto(veto, self.now)

    def on_pin(self, kind: HealingKind, offers: tuple[str, ...]) -> None:
        before = dict(self.levers.steered)
        try:
            self.healer.pin(kind, offers, self.now, by="kim")
        except ValueError:
            assert self.levers.steered == before

    def pinned(self) -> list[str]:
        return [action.id for action in self.healer.active.values() if action.until is None]

    def on_unpin(self, which: int) -> None:
        if pinned := self.pinned():
            self.healer.unpin(pinned[which % len(pinned)], self.now)

    def on_mode(self, mode: Any) -> None:
        self.healer.set_mode(mode, self.now)

    def on_risk(self, offer: str, probability: float) -> None:
        self.healer.foresee(offer, probability)

    def on_reload(self, offers: set[str]) -> None:
        self.levers.set_offers(*sorted(offers))

    def on_restart(self) -> None:
        state, mode = self.healer.state(), self.healer.settings.mode
        self.levers.steered = dict.fromkeys(self.levers.steered, UNSTEERED)
        self.levers.addresses, self.levers.adaptations = {}, {}
        self.healer = healer(self.levers, mode=mode)
        self.healer.load(state, self.now)

    def check(self) -> None:
        limits: HealerSettings = self.healer.settings
        for pool in self.levers.pools().values():
            drained = [offer for offer in pool if self.levers.steered[offer].drained]
            assert not drained or (len(drained) < len(pool) and len(drained) <= limits.most_drained * len(pool))
        busy: collections.Counter[str] = collections.Counter()
        for action in self.healer.active.values():
            if action.until is None:
                continue
            assert action.until <= max(self.now, action.at) + limits.most_s
            assert limits.mode != "off"
            assert action.applied or action.kind not in UNHEALED[:1]
            assert not any(
                veto.kind in (None, action.kind) and veto.provider is None and veto.pattern is None
                for veto in self.vetoes
                if action.kind is not HealingKind.RESTORE
            )
            if action.kind not in UNHEALED:
                busy.update({offer.split("/")[0] for offer in action.offers if offer in self.levers.steered})
        assert all(count <= limits.most_per_provider for count in busy.values())
        for steering in self.levers.steered.values():
            assert steering.weight >= LEAST_WEIGHT

    def ends(self) -> None:
        """Everything is well again, nobody orders anything, and time passes."""
        self.on_reload(set(ALL))
        self.healer.look([msgspec.structs.replace(one, ended_at=self.now) for one in self.ill], self.now)
        for offer in ALL:
            self.healer.foresee(offer, 0.0)
        for id in self.pinned():
            self.healer.unpin(id, self.now)
        for _ in range(40):
            self.now += 300.0
            self.healer.look([], self.now)
            self.check()


@settings(max_examples=250, deadline=None)
@given(st.lists(happenings, min_size=1, max_size=25))
def test_whatever_happens_bounds_hold_and_in_the_end_all_is_as_it_was(story: list[tuple[Any, ...]]) -> None:
    one = Story()
    one.on_goes_on(30, 0)
    for what in story:
        one.happens(what)
    one.on_goes_on(45, 2)
    one.ends()
    assert one.levers.all_steered() == {}
    assert all(index == 0 for index in one.levers.addresses.values())
    assert one.levers.adaptations == {}
    assert one.healer.active == {}
    assert all(action.ended_at is not None for action in one.healer.actions())


steerings = st.builds(
    Steering,
    drained=st.booleans(),
    weight=st.floats(0.0, 1.0),
    risk=st.floats(0.0, 1.0),
    concurrency=st.none() | st.floats(1.0, 50.0),
    first_token_ms=st.none() | st.floats(1.0, 1e4),
    breaker_failures=st.none() | st.integers(1, 9),
    cool_down_s=st.none() | st.floats(1.0, 100.0),
    backoff=st.floats(1.0, 9.0),
    retry_ratio=st.none() | st.floats(0.0, 1.0),
    non_stream=st.booleans(),
)


@given(steerings, st.lists(steerings, max_size=4), st.randoms())
def test_layers_are_the_strictest_of_each_in_any_order_and_leave_what_is_set_already(
    base: Steering, layers: list[Steering], rng: Any
) -> None:
    laid = laid_over(base, layers, frozenset())
    shuffled = list(layers)
    rng.shuffle(shuffled)
    again = laid_over(base, shuffled, frozenset())
    for name in base.__struct_fields__:
        one, other = getattr(laid, name), getattr(again, name)
        assert one == other or abs(one - other) < 1e-12  # products round
    for name in touched(base):
        assert getattr(laid, name) == getattr(base, name)
    assert touched(laid) <= touched(base).union(*map(touched, layers))
    assert laid_over(base, [], frozenset()) == base
    everything = frozenset(base.__struct_fields__)
    assert laid_over(base, layers, everything) == base
