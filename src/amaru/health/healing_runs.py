"""The healings under way: what each pulled, and how it is put back."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from amaru.health.concurrency import ConcurrencyLimit
from amaru.health.grip import Grip, in_words, touched
from amaru.health.healing import HealingKind, Levers, SelfHealingAction
from amaru.health.healing_effects import Sums, log_ms_of, worth_of
from amaru.health.moves import Move
from amaru.health.observation import Observation
from amaru.health.pattern_types import InfrastructurePattern
from amaru.health.trial import Trial
from amaru.protocols.adapting import Adaptation
from amaru.routing.steering import UNSTEERED, Steering

KEPT_ACTIONS = 500
MOST_PAST = 10_000
LEAST_RISK = 0.05
"""A failure that is predicted to be rarer is not held against an offer."""
RISK_STEP = 0.02
"""Smaller changes of a risk are not followed."""
RISK_HALF_LIFE_S = 5.0
"""In which it halves while an offer serves nobody. It is on trial then, so that not everybody asks it at once."""
RISK_TRIAL_S = 300.0
"""Without an attempt for so long after nothing is foreseen any more, the trial is over."""


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
    usual: dict[str, Sums] = {}
    """What was usual at each offer of its pools, once it was read."""
    after: Running | None = None
    """Of a return of offers of which nobody knows whether they are well: what had kept them out."""
    in_vain: bool = False
    """They were ill still, and could not be kept out again."""
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
        self.history: deque[SelfHealingAction] = deque(maxlen=KEPT_ACTIONS)
        """Those that have ended."""
        self._news: dict[str, SelfHealingAction] = {}
        self._past: dict[tuple[HealingKind, str], tuple[float, float]] = {}
        self._levers = levers
        self._grip = Grip(levers)
        self._foreseen: dict[str, float] = {}
        self._risks: dict[str, float] = {}
        """What of it is held against each offer."""
        self._recoveries: dict[str, int] = {}
        """Of the offers with a risk: how often the router had found them well."""
        self._come_and_gone: dict[str, float] = {}
        """What was foreseen when it found them well after a fall; only more than that counts again."""
        self._on_trial: dict[str, Trial] = {}
        """Offers of which a failure was foreseen, and that nobody asked then."""
        self._limits: dict[tuple[str, str], ConcurrencyLimit] = {}
        self._trials: dict[tuple[str, str], Trial] = {}
        """By return and offer."""

    def of(self, *kinds: HealingKind) -> list[Running]:
        """Those of these kinds."""
        return [running for running in self.by_id.values() if running.action.kind in kinds]

    def tell(self, action: SelfHealingAction) -> None:
        """It is another than it was."""
        self._news[action.id] = action

    def news(self) -> list[SelfHealingAction]:
        """What began, changed or ended since this was asked last."""
        news, self._news = list(self._news.values()), {}
        return news

    def last(self, kind: HealingKind, offer: str) -> tuple[float, float]:
        """When the last of that kind ended there, and how long it was to last; -inf, 0 where there was none."""
        return self._past.get((kind, offer), (-math.inf, 0.0))

    # ---- beginning and ending -----------------------------------------------------------------------------------

    def begin(self, running: Running, usual: Mapping[str, Sums] | None = None) -> SelfHealingAction:
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
        if running.action.kind is HealingKind.DRAIN and running.action.until is not None and usual:
            self.try_out(running, usual, running.action.at)
        if running.action.kind is HealingKind.CONCURRENCY:
            for offer, layer in move.layers.items():
                begins = layer.at_once or 1.0
                limit = ConcurrencyLimit(begins, (usual or {}).get(offer))
                self._limits[running.action.id, offer] = limit
        running.action = msgspec.structs.replace(running.action, changed=changed)
        self.tell(running.action)
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
        for offer in running.offers:
            self._limits.pop((running.action.id, offer), None)
            self._trials.pop((running.action.id, offer), None)
        running.action = msgspec.structs.replace(running.action, ended_at=now, ended=why, reverted=reverted)
        for offer in running.offers:
            self._past.pop((running.action.kind, offer), None)  # newest last
            self._past[running.action.kind, offer] = now, running.duration_s
        while len(self._past) > MOST_PAST:
            del self._past[next(iter(self._past))]
        self.history.append(running.action)
        self.tell(running.action)
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
            trial = self._on_trial.get(offer)
            if (risk := self._risks.get(offer, 0.0)) > 0.0:
                layers.append(Steering(risk=risk))
            if trial is not None and (layer := trial.layer()) != UNSTEERED:
                layers.append(layer)
            self._grip.lay(offer, layers)

    def lay_all(self) -> None:
        """The same over all that are held, which finds what others changed, and offers that came back."""
        self.lay({*self._grip.offers, *(offer for one in self.by_id.values() for offer in one.move.layers)})

    # ---- predictions --------------------------------------------------------------------------------------------

    def foresee(self, offer: str, risk: float) -> None:
        """A failure of the offer is so probable."""
        risk, before = min(risk, 1.0) if risk >= LEAST_RISK else 0.0, self._foreseen.get(offer, 0.0)
        if risk == before or (risk > 0.0 and abs(risk - before) < RISK_STEP):
            return
        if risk > 0.0:
            self._foreseen[offer] = risk
        else:
            for held in (self._foreseen, self._recoveries, self._come_and_gone):
                held.pop(offer, None)
        self._hold_against(offer, self._foreseen.get(offer, 0.0))

    def fade_risks(self, last_at: Callable[[str], float | None], usual: Callable[[str], Sums], now: float) -> None:
        """What was foreseen is forgotten while nobody asks the offer, which cannot show that it is well; so it is on
        trial from then on."""
        for offer, risk in self._foreseen.items():
            recoveries = self._levers.recoveries(offer)
            if recoveries != self._recoveries.get(offer, recoveries):
                self._come_and_gone[offer] = risk
            self._recoveries[offer] = recoveries
            idle_s = max(now - (last_at(offer) or now), 0.0)
            held = risk * 0.5 ** (idle_s / RISK_HALF_LIFE_S)
            if held <= risk - RISK_STEP and offer not in self._on_trial:
                self._on_trial[offer] = Trial(now, usual(offer))
            self._hold_against(offer, held)
        for offer, trial in list(self._on_trial.items()):
            asked_at = max(last_at(offer) or trial.at, trial.at)
            if offer not in self._foreseen and (trial.is_well or now - asked_at >= RISK_TRIAL_S):
                del self._on_trial[offer]
            self.lay((offer,))

    def _hold_against(self, offer: str, risk: float) -> None:
        risk = risk if risk >= max(LEAST_RISK, self._come_and_gone.get(offer, 0.0) + RISK_STEP) else 0.0
        before = self._risks.get(offer, 0.0)
        if risk == before or (risk > 0.0 and abs(risk - before) < RISK_STEP):
            return
        if risk > 0.0:
            self._risks[offer] = risk
        else:
            del self._risks[offer]
        self.lay((offer,))

    # ---- trials -------------------------------------------------------------------------------------------------

    def try_out(self, running: Running, usual: Mapping[str, Sums], now: float) -> None:
        """Put the offers of a return on trial, from the beginning."""
        cause = "" if running.about is None else running.about.cause
        for offer in running.offers:
            self._trials[running.action.id, offer] = Trial(now, usual[offer], cause)

    def trials_of(self, running: Running) -> dict[str, Trial]:
        """By offer: the trials of a return."""
        return {offer: self._trials[running.action.id, offer] for offer in running.offers}

    def answers_again(self, running: Running) -> bool:
        """Whether all offers of a drain answered well when they were looked at last."""
        trials = [self._trials.get((running.action.id, offer)) for offer in running.offers]
        return all(trial is not None and trial.evidence > 0.0 for trial in trials)

    def narrow(self, running: Running, offers: tuple[str, ...]) -> None:
        """From now on it is about these of its offers only."""
        before = running.move.layers
        for gone in set(running.offers).difference(offers):
            self._trials.pop((running.action.id, gone), None)
        running.action = msgspec.structs.replace(running.action, offers=offers)
        self.relay(running, {offer: before[offer] for offer in offers})
        self.lay(before)

    def follow_trials(self, running: Running, *, most: float | None = None) -> None:
        """Let its offers serve as many requests at once as their trials allow by now, and no more than ``most``."""
        layers = {offer: trial.layer(most) for offer, trial in self.trials_of(running).items()}
        if layers != running.move.layers:
            self.relay(running, layers)

    # ---- adaptive limits ----------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Let the offer's trials, and its adaptive limit where it has one, take in an attempt."""
        on_trial = self._on_trial.get(observation.offer)
        if on_trial is not None:
            on_trial.observe(observation)
            if on_trial.is_ill:
                on_trial.begin_again(observation.at)
        for (_, offer), trial in list(self._trials.items()):
            if offer == observation.offer:
                trial.observe(observation)
        for (_, offer), limit in list(self._limits.items()):  # a person may order one at this moment
            if offer != observation.offer:
                continue
            log_ms = log_ms_of(observation)
            if log_ms is not None:
                stream = observation.first_token_ms is not None
                limit.answered(log_ms, stream, self._levers.in_flight(offer) + 1.0)
            elif worth_of(observation) is not None:
                limit.failed()

    def follow_limits(self) -> None:
        """Lay the adaptive limits of now."""
        for running in self.of(HealingKind.CONCURRENCY):
            layers = {}
            for offer, layer in running.move.layers.items():
                limit = self._limits.get((running.action.id, offer))
                layers[offer] = layer if limit is None else Steering(at_once=float(int(limit.limit)))
            if layers != running.move.layers:
                self.relay(running, layers)
