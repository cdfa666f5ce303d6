"""What each kind of healing would change for a pattern now, within the bounds; ``None``: it cannot, or must not.

Nothing is pulled here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from amaru.domain import Kind, Offer
from amaru.health.healing import HealingKind, Levers
from amaru.health.healing_effects import Tallies
from amaru.health.healing_settings import MASKING, HealerSettings
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.health.trial import PATIENCE
from amaru.protocols.adapting import Adaptation
from amaru.routing.steering import UNSTEERED, Steering

STRICTER = Steering(backoff=4.0, retry_ratio=0.05, breaker_failures=3, cool_down_s=10.0)
"""Where another could serve at once, a second try at an ill offer is seldom worth its wait."""
DRAINED = Steering(drained=True, look_s=20.0, patience=PATIENCE)
"""Who is kept away is looked at now and then all the same: else nobody would see that it is well."""
LEAST_CONCURRENCY = 4.0
"""An adaptive limit begins no lower."""
OTHER_MODEL_WEIGHT = 0.1
ORDERED = ""
"""Id of the pattern that stands for a person's order."""


class Move(msgspec.Struct, frozen=True):
    """What a healing changes."""

    layers: dict[str, Steering] = {}
    """By offer."""
    adaptations: dict[str, Adaptation] = {}
    """By offer."""
    address: tuple[str, int] | None = None
    """A provider, and the index of the address to ask."""

    @property
    def offers(self) -> tuple[str, ...]:
        """Those that it steers or adapts."""
        return tuple(dict.fromkeys((*self.layers, *self.adaptations)))


class Moves:
    """What can be done now.

    Parameters
    ----------
    levers, tallies, settings
        What can be pulled, what was seen, and the bounds.
    """

    def __init__(self, levers: Levers, tallies: Tallies, settings: HealerSettings) -> None:
        self.settings = settings
        self._levers = levers
        self._tallies = tallies
        self.offers: dict[str, Offer] = {}
        self.pools: Mapping[str, Sequence[str]] = {}
        self._ill: Collection[str] = ()
        self.read()

    def read(self, ill: Collection[str] = ()) -> None:
        """Read anew which offers there are; of which of them a pattern goes on."""
        self._ill = ill
        self.offers = {offer.id: offer for offer in self._levers.offers()}
        self.pools = self._levers.pools()

    def pool_of(self, offers: Iterable[str]) -> tuple[str, ...]:
        """All offers that stand in for these, and these."""
        wanted = set(offers)
        members = {one for pool in self.pools.values() if wanted.intersection(pool) for one in pool}
        return tuple(sorted(members | wanted))

    def providers(self, offers: Iterable[str]) -> set[str]:
        """Whose offers these are."""
        return {self.offers[offer].provider for offer in offers if offer in self.offers}

    def still_possible(self, move: Move) -> Move:
        """As much of a move as there are offers and addresses for."""
        address = move.address
        if address is not None:
            provider, index = address
            there = provider in self.providers(self.offers) and index <= self._levers.alternates(provider)
            address = address if there else None
        return Move(
            {offer: layer for offer, layer in move.layers.items() if offer in self.offers},
            {offer: adaptation for offer, adaptation in move.adaptations.items() if offer in self.offers},
            address,
        )

    def kept_away(self, offer: str) -> bool:
        """Whether the router by itself keeps requests away from it now."""
        return self._levers.kept_away(offer)

    def drained(self) -> set[str]:
        """The offers that are drained now, whoever drained them."""
        steerings = ((offer, self._levers.steering(offer)) for offer in self.offers)
        return {offer for offer, steering in steerings if steering is not None and steering.drained}

    def drainable(self, offers: Iterable[str], drained: Collection[str]) -> tuple[str, ...]:
        """Those of ``offers`` that may be drained besides ``drained``: the first ones, as far as the bounds allow."""
        out, more = set(drained), []
        for offer in offers:
            if offer in out or offer not in self.offers:
                continue
            if all(self.within(pool, {*out, offer}) for pool in self._pools_of(offer)):
                out.add(offer)
                more.append(offer)
        return tuple(more)

    def _pools_of(self, offer: str) -> list[Sequence[str]]:
        return [pool for pool in self.pools.values() if offer in pool]

    def _can_take_over(self, offer: str) -> bool:
        """It is known of no trouble, and has a place free."""
        steering = self._levers.steering(offer)
        if steering is None or steering.drained_from < math.inf or offer in self._ill or self.kept_away(offer):
            return False
        capacity = self.offers[offer].capacity
        return capacity is None or self._levers.in_flight(offer) < capacity

    def within(self, pool: Sequence[str], drained: Collection[str]) -> bool:
        """Whether so much of a pool may be drained."""
        gone = len(set(pool).intersection(drained))
        return gone == 0 or (gone < len(set(pool)) and gone <= self.settings.most_drained * len(set(pool)))

    # ---- each kind ----------------------------------------------------------------------------------------------

    def move(self, kind: HealingKind, pattern: InfrastructurePattern) -> Move | None:
        """What a healing of that kind would change for the pattern."""
        offers = tuple(offer for offer in pattern.offers if offer in self.offers)
        if kind not in MASKING and kind is not HealingKind.NOTHING:
            # What a breaker keeps away already is asked again as soon as it is well: nothing is to be gained by more.
            offers = tuple(offer for offer in offers if pattern.id == ORDERED or not self.kept_away(offer))
        if not offers:
            return None
        match kind:
            case HealingKind.NOTHING:
                return Move()
            case HealingKind.RETRY:
                return _all(self._with_others(offers, pattern), STRICTER)
            case HealingKind.WEIGHT:
                return _all(self._with_others(offers, pattern), Steering(weight=self.settings.weight))
            case HealingKind.DRAIN:
                if pattern.impact not in (Impact.MAJOR, Impact.CRITICAL):
                    return None
                drainable = self.drainable(self._with_others(offers, pattern, everywhere=True), self.drained())
                return _all(drainable, DRAINED)
            case HealingKind.OTHER_MODEL:
                return _all(self._of_these_models(offers), Steering(weight=OTHER_MODEL_WEIGHT))
            case HealingKind.TIMEOUTS:
                hurried = self._with_others(offers, pattern) if self._mostly_streams(offers) else ()
                return _all(hurried, Steering(patience=PATIENCE))
            case HealingKind.CONCURRENCY:
                return self._concurrency(self._with_others(offers, pattern))
            case HealingKind.NON_STREAM:
                # Callers wait longer for its first words than for any other healing's, so only where streams break.
                breaks = pattern.suggested == HealingKind.NON_STREAM.value or pattern.kind is PatternKind.API_CHANGE
                streamed = offers if breaks and self._mostly_streams(offers) else ()
                return _all(streamed, Steering(non_stream=True))
            case HealingKind.ALTERNATE:
                return self._alternate(pattern)
            case HealingKind.ADAPT:
                return self._adapt(offers, pattern)
        return None

    def _mostly_streams(self, offers: tuple[str, ...]) -> bool:
        sums = self._tallies.latest(offers)
        return sums.attempts > 0.0 and sums.streams >= 0.5 * sums.attempts

    def _with_others(
        self, offers: tuple[str, ...], pattern: InfrastructurePattern, *, everywhere: bool = False
    ) -> tuple[str, ...]:
        """Those of ``offers`` whose requests others can take over now, in one of their resources or in each; a person's
        order asks only that there are others."""
        if pattern.id == ORDERED:
            others = set(self.offers).difference(offers, self.drained())
        else:
            others = {one for one in self.offers if one not in offers and self._can_take_over(one)}
        need = all if everywhere else any
        return tuple(one for one in offers if need(others.intersection(pool) for pool in self._pools_of(one)))

    def _of_these_models(self, offers: tuple[str, ...]) -> tuple[str, ...]:
        """All offers of their models, where some alias holds another model too."""
        models = {self.offers[offer].resource for offer in offers}
        for pool in self.pools.values():
            of_pool = {self.offers[one].resource for one in pool if one in self.offers}
            if of_pool & models and of_pool - models:
                return tuple(one for one, offer in self.offers.items() if offer.resource in models)
        return ()

    def _concurrency(self, offers: tuple[str, ...]) -> Move | None:
        layers = {
            offer: Steering(at_once=max(self._levers.in_flight(offer), LEAST_CONCURRENCY))
            for offer in offers
            if Kind.GPU_JOB not in self.offers[offer].kinds  # jobs are counted in hours
        }
        return Move(layers) if layers else None

    def _alternate(self, pattern: InfrastructurePattern) -> Move | None:
        if len(pattern.providers) != 1 or self._levers.alternates(pattern.providers[0]) == 0:
            return None
        provider = pattern.providers[0]
        others = self._levers.alternates(provider) + 1
        return Move(address=(provider, (self._levers.address(provider) + 1) % others))

    def _adapt(self, offers: tuple[str, ...], pattern: InfrastructurePattern) -> Move | None:
        if pattern.kind is not PatternKind.API_CHANGE and pattern.cause != "coherence":
            return None
        found = {}
        for offer in offers:
            adaptation = self._levers.find_adaptation(offer)
            if adaptation is not None:
                found[offer] = adaptation
        return Move({offer: Steering(adapted=True) for offer in found}, found) if found else None


def _all(offers: Sequence[str], steering: Steering) -> Move | None:
    assert steering != UNSTEERED
    return Move(dict.fromkeys(offers, steering)) if offers else None
