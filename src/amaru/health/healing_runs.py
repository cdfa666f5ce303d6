"""The healings under way: what each pulled, and how it is put back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import msgspec

from amaru.health.concurrency import ConcurrencyLimit
from amaru.health.grip import Grip, in_words, touched
from amaru.health.healing import HealingKind, Levers, SelfHealingAction
from amaru.health.healing_effects import Sums
from amaru.health.moves import Move
from amaru.health.observation import Observation, Verdict, verdict_on
from amaru.health.pattern_types import InfrastructurePattern
from amaru.protocols.adapting import Adaptation
from amaru.routing.steering import UNSTEERED, Steering

LEAST_RISK = 0.05
"""A failure that is predicted to be rarer is not held against an offer."""
RISK_STEP = 0.02
"""Smaller changes of a risk are not followed."""
RISK_HALF_LIFE_S = 5.0
"""In which it halves while an offer serves nobody."""


class Running(msgspec.Struct):
    """One healing under way."""

    action: SelfHealingAction
    move: Move
    about: InfrastructurePattern | None
    """The pattern; ``None``: a person's order."""
    provider: str
    """Under which its effect is learned: the provider, or what several share."""
    duration_s: float
    measured: bool = False
    measure_at: float = 0.0
    """When it is looked at next."""
    usual: Sums | None = None
    """What was usual in its pools, once it was read."""
    tries: bool = False
    """A step-by-step return of an offer of which nobody knows whether it is well."""
    rewritten: int = 0
    """Answers that its adaptation had changed when it was last looked at."""
    address: int = 0
    """The address before."""
    adaptations: dict[str, Adaptation | None] = {}
    """Those before."""

    @property
    def offers(self) -> tuple[str, ...]:
        """All that it concerns."""
        return self.action.offers


class Runs:
    """All healings under way, and the risks that are predicted. Belongs to the thread of the levers."""

    def __init__(self, levers: Levers) -> None:
        self.by_id: dict[str, Running] = {}
        self._levers = levers
        self._grip = Grip(levers)
        self._foreseen: dict[str, float] = {}
        self._risks: dict[str, float] = {}
        """What of it is held against each offer."""
        self._limits: dict[tuple[str, str], ConcurrencyLimit] = {}

    def of(self, *kinds: HealingKind) -> list[Running]:
        """Those of these kinds."""
        return [running for running in self.by_id.values() if running.action.kind in kinds]

    # ---- beginning and ending -----------------------------------------------------------------------------------

    def begin(self, running: Running, usual_ms: dict[str, float | None] | None = None) -> SelfHealingAction:
        """Pull what it moves; the action, with what that changed."""
        levers, move, changed = self._levers, running.move, dict[str, str]()
        if move.address is not None:
            provider, index = move.address
            running.address = levers.endpoint(provider, index)
            changed[f"{provider} address"] = f"{running.address} -> {index}"
        for offer, adaptation in move.adaptations.items():
            running.adaptations[offer] = levers.adapt(offer, adaptation)
            changed[f"{offer} adaptation"] = "; ".join(adaptation.words)
        before = {offer: levers.steering(offer) for offer in move.layers}
        self.by_id[running.action.id] = running
        self.lay(move.layers)
        for offer, was in before.items():
            now = levers.steering(offer)
            if was is not None and now is not None:
                changed.update({f"{offer} {name}": words for name, words in in_words(was, now).items()})
        if running.action.kind is HealingKind.CONCURRENCY:
            for offer, layer in move.layers.items():
                begins = layer.concurrency or 1.0
                limit = ConcurrencyLimit(begins, (usual_ms or {}).get(offer))
                self._limits[running.action.id, offer] = limit
        running.action = msgspec.structs.replace(running.action, changed=changed)
        return running.action

    def end(self, running: Running, now: float, why: str) -> SelfHealingAction:
        """Put back what it moved, but for what somebody else set meanwhile; the action, ended."""
        levers, move = self._levers, running.move
        del self.by_id[running.action.id]
        reverted = all(not (self._grip.theirs(offer) & touched(layer)) for offer, layer in move.layers.items())
        self.lay(move.layers)
        for offer, adaptation in move.adaptations.items():
            adapted = levers.adapted(offer)
            later = [one for one in self.by_id.values() if one.adaptations.get(offer) == adaptation]
            if later:  # it lies over this one, and will find below it what this one found
                later[0].adaptations[offer] = running.adaptations.get(offer)
            elif adapted is not None and adapted.adaptation == adaptation:
                levers.adapt(offer, running.adaptations.get(offer))
            else:
                reverted = reverted and levers.steering(offer) is None
        if move.address is not None:
            reverted = self._put_back_address(running, *move.address) and reverted
        for offer in move.layers:
            self._limits.pop((running.action.id, offer), None)
        running.action = msgspec.structs.replace(running.action, ended_at=now, ended=why, reverted=reverted)
        return running.action

    def _put_back_address(self, running: Running, provider: str, index: int) -> bool:
        """Whether nobody else has changed it."""
        for one in self.by_id.values():
            if one.move.address is not None and one.move.address[0] == provider and one.address == index:
                one.address = running.address  # as with adaptations
                return True
        if self._levers.address(provider) != index:
            return False
        with contextlib.suppress(ValueError):  # the provider is gone, or that address of it
            self._levers.endpoint(provider, running.address)
        return True

    def relay(self, running: Running, layers: dict[str, Steering]) -> None:
        """From now on it lays these over its offers."""
        running.move = msgspec.structs.replace(running.move, layers=layers)
        self.lay(layers)

    def lay(self, offers: Iterable[str]) -> None:
        """Lay over these offers exactly what is under way."""
        for offer in offers:
            layers = [one.move.layers[offer] for one in self.by_id.values() if offer in one.move.layers]
            if (risk := self._risks.get(offer, 0.0)) > 0.0:
                layers.append(Steering(risk=risk))
            self._grip.lay(offer, layers)

    def lay_all(self) -> None:
        """The same over all that are held, which finds what others changed, and offers that came back."""
        self.lay({*self._grip.offers, *(offer for one in self.by_id.values() for offer in one.move.layers)})

    # ---- predictions --------------------------------------------------------------------------------------------

    def foresee(self, offer: str, risk: float) -> None:
        """A failure of the offer is so probable."""
        if risk >= LEAST_RISK:
            self._foreseen[offer] = min(risk, 1.0)
        else:
            self._foreseen.pop(offer, None)
        self._hold_against(offer, self._foreseen.get(offer, 0.0))

    def fade_risks(self, last_at: Callable[[str], float | None], now: float) -> None:
        """What was foreseen is forgotten while nobody asks the offer: it cannot show that it is well."""
        for offer, risk in self._foreseen.items():
            idle_s = now - (last_at(offer) or now)
            self._hold_against(offer, risk * 0.5 ** (max(idle_s, 0.0) / RISK_HALF_LIFE_S))

    def _hold_against(self, offer: str, risk: float) -> None:
        risk = risk if risk >= LEAST_RISK else 0.0
        before = self._risks.get(offer, 0.0)
        if risk == before or (risk > 0.0 and abs(risk - before) < RISK_STEP):
            return
        if risk > 0.0:
            self._risks[offer] = risk
        else:
            del self._risks[offer]
        self.lay((offer,))

    # ---- adaptive limits ----------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Let the adaptive limit of the offer, where it has one, take in an attempt."""
        for (_, offer), limit in list(self._limits.items()):  # a person may order one at this moment
            if offer != observation.offer:
                continue
            verdict = verdict_on(observation.ok, observation.failure)
            if verdict is Verdict.SUCCESS:
                first_ms = observation.first_token_ms
                latency_ms = observation.latency_ms if first_ms is None else first_ms
                limit.answered(latency_ms, self._levers.in_flight(offer) + 1.0)
            elif verdict is not Verdict.NONE:
                limit.failed()

    def follow_limits(self) -> None:
        """Lay the adaptive limits of now."""
        for running in self.of(HealingKind.CONCURRENCY):
            layers = {}
            for offer, layer in running.move.layers.items():
                limit = self._limits.get((running.action.id, offer))
                layers[offer] = layer if limit is None else Steering(concurrency=float(int(limit.limit)))
            if layers != running.move.layers:
                self.relay(running, layers)


def eased(offers: Iterable[str], steps: tuple[float, ...], step: int, *, tries: bool) -> dict[str, Steering]:
    """The layers of an offer's return at its n-th step; behind the last one, nothing."""
    if step >= len(steps):
        return dict.fromkeys(offers, UNSTEERED)
    layer = Steering(concurrency=steps[step]) if tries else Steering(weight=steps[step])
    return dict.fromkeys(offers, layer)
