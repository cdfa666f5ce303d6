"""The healer: takes patterns, chooses a healing for each, measures what it was worth, and puts everything back.

Every healing is bounded (it expires; so many at a time for one provider; the last offers of a resource are never
drained), reversible (it leaves each offer as it found it, and what a person changed meanwhile as they set it) and
recorded with its effect, from which the bandit learns what helps. A person can forbid a healing (veto), order one
(pin), or switch all of them off; predictions are laid over the offers in the same way.

Belongs to the thread of its levers. Instants are Unix seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

import msgspec

from amaru.health.bandit import Bandit
from amaru.health.healer_state import Kept, packed, unpacked
from amaru.health.healing import HealingKind, Levers, SelfHealingAction
from amaru.health.healing_choice import Choice, action_of, is_hidden
from amaru.health.healing_effects import Tallies
from amaru.health.healing_returns import Returns
from amaru.health.healing_runs import Running, Runs
from amaru.health.healing_settings import (
    MASKING,
    HealerSettings,
    Mode,
    Veto,
)
from amaru.health.moves import ORDERED, Move, Moves
from amaru.health.observation import Observation
from amaru.health.pattern_types import Impact, InfrastructurePattern, PatternKind
from amaru.health.trial import MANY
from amaru.routing.steering import UNSTEERED, Steering

MADE_WORSE = -0.1
"""Effect below which a healing ends at once."""
MEASURE_EVERY_S = 5.0
"""How often it is looked at whether that is so: it reads through all that its pools did. How often an adaptation is
widened."""
_ORDERABLE = frozenset(HealingKind) - {HealingKind.RESTORE}


class Healer:
    """Heals the offers behind some levers.

    Parameters
    ----------
    settings
        The bounds.
    levers
        What is pulled.
    rng
        Draws the choices.
    """

    def __init__(self, settings: HealerSettings, levers: Levers, rng: random.Random) -> None:
        self.settings = settings
        self._tallies = Tallies()
        self._moves = Moves(levers, self._tallies, settings)
        self._levers = levers
        self._runs = Runs(levers)
        self._patterns: dict[str, InfrastructurePattern] = {}
        self._choice = Choice(settings, Bandit(rng), self._moves, self._tallies, self._runs)
        self._widen_at = 0.0
        self._returns = Returns(settings, self._moves, self._choice, self._runs, self._patterns)

    # ---- what is told -------------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Take in an attempt: effects are measured by them, adaptive limits follow them."""
        self._tallies.observe(observation)
        self._runs.observe(observation)
        self._choice.observe(observation)

    def foresee(self, offer: str, probability: float) -> None:
        """A failure of the offer within a minute is so probable: its score counts for the rest, from now on."""
        self._runs.foresee(offer, probability)

    def look(
        self,
        told: Iterable[InfrastructurePattern],
        now: float,
        going_on: Mapping[str, InfrastructurePattern] | None = None,
    ) -> list[SelfHealingAction]:
        """Act on what ``told`` says began, changed or ended; the actions that began, changed or ended since the last
        look.

        ``going_on``: all patterns that have not ended, by id, where somebody knows: others are over then, and those
        that were never told (before a restart) are taken up.
        """
        over = self._told(told, going_on)
        self._moves.read({offer for pattern in self._patterns.values() for offer in self._choice.ill_of(pattern)})
        self._tallies.keep_only(self._moves.offers)
        self._runs.lay_all()
        for running in list(self._runs.by_id.values()):
            if running.action.id in self._runs.by_id:
                self._attend(running, now, over)
        if now >= self._widen_at:
            self._widen_at = now + MEASURE_EVERY_S
        self._keep_within_bounds(now)
        if self.settings.mode != "off":
            for pattern in list(self._patterns.values()):
                begun = self._choice.of(pattern, now, applied=self.settings.mode == "act")
                if begun is not None:
                    self._returns.take_over(begun, now)
                    self._runs.begin(begun, {one: self._choice.usual(pattern.id, one) for one in begun.offers})
        self._runs.follow_limits()
        self._runs.fade_risks(self._tallies.last_at, lambda offer: self._tallies.usual((offer,), now), now)
        return self._runs.news()

    def _told(
        self, told: Iterable[InfrastructurePattern], going_on: Mapping[str, InfrastructurePattern] | None
    ) -> set[str]:
        """Take in patterns; ids of those that are over."""
        over: set[str] = set()
        for pattern in told:
            if pattern.kind is PatternKind.RECOVERY:
                over.update(pattern.similar[:1])  # what ended
            elif pattern.ended_at is not None:
                over.add(pattern.id)
            else:
                self._patterns[pattern.id] = pattern
        if going_on is not None:
            over |= self._patterns.keys() - going_on.keys()
            self._patterns.update(going_on)
        for gone in over:
            self._patterns.pop(gone, None)
            self._choice.over(gone)
        if over:
            self._choice.keep_only({*self._patterns, *(one.action.pattern for one in self._runs.by_id.values())})
        return over

    # ---- healings under way -------------------------------------------------------------------------------------

    def _attend(self, running: Running, now: float, over: set[str]) -> None:
        action = running.action
        if action.kind is HealingKind.RESTORE:
            self._returns.attend(running, now)
            return
        if not running.measured and now >= max(running.measure_at, action.at + self.settings.settle_s):
            running.measure_at = now + MEASURE_EVERY_S
            self._measure(running, now)
            if action.id not in self._runs.by_id:
                return
        if action.kind is HealingKind.ADAPT and now >= self._widen_at:
            self._widen(running)
        if action.until is None:
            return
        if action.pattern in over and action.kind not in MASKING:
            self._returns.begin(running, now, "the trouble is over", recovered=True)
        elif now >= action.until and not self._is_needed(running, now):
            self._returns.begin(running, now, "its time is up")
        elif self._answers_again(running):
            self._returns.begin(running, now, "it answers again")

    def _answers_again(self, running: Running) -> bool:
        """A drain is over where whoever looked at its offers was answered well, if that tells of its trouble."""
        telling = running.about is not None and not is_hidden(running.about.cause)
        return telling and running.action.kind is HealingKind.DRAIN and self._runs.answers_again(running)

    def _widen(self, running: Running) -> None:
        """Read what else of the pattern's answers cannot be read: streams too, say, or those of another offer."""
        about, move = self._patterns.get(running.action.pattern), running.move
        wider = None if about is None else self._moves.move(HealingKind.ADAPT, about)
        if wider is None or not running.action.applied:
            return
        changed = dict(running.action.changed)
        for offer, adaptation in wider.adaptations.items():
            ours, adapted = move.adaptations.get(offer), self._levers.adapted(offer)
            if adaptation != ours and ours == (None if adapted is None else adapted.adaptation):
                before = self._levers.adapt(offer, adaptation)
                running.adaptations.setdefault(offer, before)
                changed[f"{offer} adaptation"] = "; ".join(adaptation.words)
                move = Move({**move.layers, offer: Steering(adapted=True)}, {**move.adaptations, offer: adaptation})
        if move is running.move:
            return
        running.move = move
        running.action = msgspec.structs.replace(running.action, offers=move.offers, changed=changed)
        self._runs.relay(running, move.layers)
        self._runs.tell(running.action)

    def _is_needed(self, running: Running, now: float) -> bool:
        """An adaptation without which answers cannot be read yet goes on for as long again."""
        if not running.move.adaptations or running.action.until is None:
            return False
        rewritten = sum(
            adapted.rewritten
            for offer in running.move.adaptations
            if (adapted := self._levers.adapted(offer)) is not None
        )
        if rewritten <= running.rewritten:
            return False
        running.rewritten = rewritten
        running.duration_s = min(2.0 * running.duration_s, self.settings.most_s)
        running.action = msgspec.structs.replace(running.action, until=now + running.duration_s)
        self._runs.tell(running.action)
        return True

    def _measure(self, running: Running, now: float) -> None:
        """Work out the effect; end what made it worse, or did not help while the trouble goes on."""
        action, settings = running.action, self.settings
        pool = self._moves.pool_of(action.offers)
        if not running.usual:
            running.usual = {offer: self._tallies.usual((offer,), action.at) for offer in pool}
        seen = self._tallies.change(pool, action.at, action.at + settings.settle_s, now, running.usual)
        early = now < action.at + settings.settle_s + settings.measure_s
        if seen is None or (early and (seen.attempts < MANY or seen.effect >= MADE_WORSE)):
            return
        running.measured = True
        about, nothing, in_vain = running.about, 0.0, False
        if about is not None:
            kind = action.kind if action.applied else HealingKind.NOTHING
            if kind is not HealingKind.NOTHING:
                nothing = self.bandit.belief(about.kind, about.cause, running.provider, HealingKind.NOTHING)[0]
            if not (seen.was_well and seen.is_well):  # else there was nothing to gain, and nothing is learned
                self.bandit.learn(about.kind, about.cause, running.provider, kind, seen.effect)
            in_vain = about.id in self._patterns and not seen.is_well and seen.effect - nothing < settings.helps
        if not action.applied:
            return
        effect = seen.effect - nothing
        running.action = msgspec.structs.replace(action, effect=effect)
        self._runs.tell(running.action)
        if action.until is not None and action.kind is not HealingKind.NOTHING and (in_vain or effect < MADE_WORSE):
            self._choice.cool(action, now, now + settings.cooldown_s)
            if effect < MADE_WORSE:
                self._runs.end(running, now, "it made things worse")
            else:
                self._returns.begin(running, now, "it did not help", in_vain=True)

    def _keep_within_bounds(self, now: float) -> None:
        """A reload can leave a resource with fewer offers than when some of them were drained."""
        for running in reversed(self._runs.of(HealingKind.DRAIN)):
            drained = self._moves.drained()
            pools = [pool for pool in self._moves.pools.values() if set(pool).intersection(running.offers)]
            if not all(self._moves.within(pool, drained) for pool in pools):
                self._runs.end(running, now, "too few other offers are left")

    # ---- people -------------------------------------------------------------------------------------------------

    def veto(self, veto: Veto, now: float) -> None:
        """Forbid; what amaru does already that is forbidden ends now."""
        self.vetoes.append(veto)
        for running in list(self._runs.by_id.values()):
            action, about = running.action, running.about
            kind = about.kind if about is not None else ""
            providers = tuple(self._moves.providers(action.offers))
            if action.until is not None and veto.forbids(action.kind, providers, kind):
                self._runs.end(running, now, f"vetoed by {veto.by}")

    def lift(self, veto: Veto) -> None:
        """Allow again. Raises ValueError where there is no such veto."""
        self.vetoes.remove(veto)

    def pin(
        self,
        kind: HealingKind,
        offers: Iterable[str],
        now: float,
        *,
        by: str,
        reason: str = "",
        steering: Steering | None = None,
    ) -> SelfHealingAction:
        """A person orders a healing, which ends when they ``unpin`` it; ``steering``: exactly this one.

        ``NOTHING`` keeps amaru's own healings away from the offers.

        Raises
        ------
        ValueError
            Unknown offers; a healing that cannot be ordered or is not possible there; one that would drain too many of
            the offers of a resource.
        """
        self._moves.read()
        wanted = tuple(dict.fromkeys(offers))
        unknown = [offer for offer in wanted if offer not in self._moves.offers]
        if not wanted or unknown:
            raise ValueError(f"there is no offer {', '.join(unknown) or 'named'}")
        if kind not in _ORDERABLE:
            raise ValueError("what is healed is restored by unpinning it")
        if kind is HealingKind.DRAIN and steering is None:
            steering = Steering(drained=True)
        if steering is None:
            move = self._moves.move(kind, self._order(kind, wanted, now))
        else:
            move = Move(dict.fromkeys(wanted, steering))
            drained = self._moves.drained()
            more = set(wanted) - drained if steering.drained else set()
            if more - set(self._moves.drainable(more, drained)):
                raise ValueError(
                    f"too few other offers would be left if {', '.join(sorted(more))} were drained: at most "
                    f"{self._moves.settings.most_drained:.0%} of those of a resource are at one time"
                )
        if move is None or steering == UNSTEERED:
            raise ValueError(f"{kind.value} is not possible for {', '.join(wanted)} now")
        action = action_of(kind, "", wanted, now, None, reason=reason, by=by)
        if action.id in self._runs.by_id:
            raise ValueError(f"{kind.value} of {', '.join(wanted)} was ordered at this very moment already")
        if kind is HealingKind.NOTHING:
            for running in list(self._runs.by_id.values()):
                if running.action.until is not None and set(running.offers) & set(wanted):
                    self._runs.end(running, now, f"left alone by {by}")
        return self._runs.begin(Running(action, move, None, "", math.inf))

    def _order(self, kind: HealingKind, offers: tuple[str, ...], now: float) -> InfrastructurePattern:
        """What a person sees in the offers, as a pattern."""
        shape = kind is HealingKind.ADAPT
        return InfrastructurePattern(
            id=ORDERED,
            kind=PatternKind.API_CHANGE if shape else PatternKind.DEGRADATION,
            at=now,
            confidence=1.0,
            offers=offers,
            providers=tuple(sorted(self._moves.providers(offers))),
            impact=Impact.CRITICAL,
            cause="shape" if shape else "errors",
            suggested=kind.value,
            detail="ordered",
        )

    def unpin(self, action: str, now: float) -> SelfHealingAction:
        """End a person's order. Raises ValueError where there is none of that id."""
        running = self._runs.by_id.get(action)
        if running is None or running.action.until is not None:
            raise ValueError(f"there is no pinned healing {action!r}")
        self._runs.end(running, now, "unpinned")
        return running.action

    def set_mode(self, mode: Mode, now: float) -> None:
        """Act, advise, or neither; what amaru does already ends at once where it may no longer. Pins stay."""
        self.settings = msgspec.structs.replace(self.settings, mode=mode)
        for running in list(self._runs.by_id.values()):
            applied = running.action.applied
            if running.action.until is not None and (mode == "off" or applied is (mode == "advise")):
                self._runs.end(running, now, f"switched to {mode}")

    # ---- what there is ------------------------------------------------------------------------------------------

    @property
    def bandit(self) -> Bandit:
        """What was learned of healings."""
        return self._choice.bandit

    @property
    def vetoes(self) -> list[Veto]:
        """What people forbade."""
        return self._choice.vetoes

    @property
    def active(self) -> dict[str, SelfHealingAction]:
        """Healings and advice under way, by id."""
        return {running.action.id: running.action for running in self._runs.by_id.values()}

    def actions(self) -> list[SelfHealingAction]:
        """All that are under way, and the last that were, newest first."""
        return sorted((*self.active.values(), *self._runs.history), key=lambda action: action.at, reverse=True)

    # ---- restarts -----------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        running = [one for one in self._runs.by_id.values() if one.action.applied]
        return packed(Kept(self.bandit.state(), self.vetoes, running, list(self._runs.history)))

    def load(self, state: bytes, now: float) -> None:
        """Go on from a ``state``: what was learned and forbidden, and the healings whose time is not up.

        Raises
        ------
        ValueError
            It is no state, or of another version; nothing is changed then.
        """
        kept = unpacked(state)
        self.bandit.load(kept.arms)
        self._choice.vetoes = kept.vetoes
        self._runs.history.extend(kept.history)
        self._moves.read()
        for running in kept.running:
            until = running.action.until
            is_over = until is not None and (until <= now or self.settings.mode != "act")
            recovers = running.action.kind is HealingKind.RESTORE and running.after is None
            if recovers or is_over:
                ended = msgspec.structs.replace(running.action, ended_at=now, ended="amaru was started anew")
                self._runs.history.append(msgspec.structs.replace(ended, reverted=True))
                continue
            running.move = self._moves.still_possible(running.move)
            running.rewritten, running.adaptations = 0, {}
            began = running.action.changed
            self._returns.resume(running, now)
            self._runs.begin(running)
            running.action = msgspec.structs.replace(running.action, changed=began)
        self._keep_within_bounds(now)
