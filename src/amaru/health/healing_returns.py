"""How offers come back that a healing had kept out, or had made look well whether or not they were.

Those that were seen to have recovered come back by the clock. Of the others nobody knows; each is on trial (``trial``):
it serves few requests at once, more as their answers show that it is well, and for as long as there are none it stays
at one. What shows that it is ill still is kept out again, for longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from amaru.health.healing import HealingKind
from amaru.health.healing_choice import Choice, action_of, is_hidden
from amaru.health.healing_runs import Running, Runs
from amaru.health.healing_settings import COMING_BACK, MASKING, RESTORING, HealerSettings
from amaru.health.moves import Move, Moves
from amaru.health.pattern_types import InfrastructurePattern
from amaru.health.trial import AT_ONCE, BEGINS, MANY
from amaru.routing.steering import UNSTEERED, Steering

LONGEST_TRIAL_S = 300.0
"""A trial that nothing came of goes on as long as its pattern; without one it ends then."""


class Returns:
    """Begins and attends to returns.

    Parameters
    ----------
    settings, moves, choice, runs
        The bounds, what is possible, what is chosen, and what is under way.
    patterns
        Those that go on, by id.
    """

    def __init__(
        self,
        settings: HealerSettings,
        moves: Moves,
        choice: Choice,
        runs: Runs,
        patterns: Mapping[str, InfrastructurePattern],
    ) -> None:
        self._step_s = settings.step_s
        self._moves = moves
        self._choice = choice
        self._runs = runs
        self._patterns = patterns

    def begin(self, running: Running, now: float, why: str, *, recovered: bool = False, in_vain: bool = False) -> None:
        """End a healing, and have its offers come back step by step where it calls for that.

        ``in_vain``: it had not helped, so that another may be taken besides.
        """
        action = running.action
        offers = tuple(offer for offer in action.offers if offer in self._moves.offers)
        if action.applied and action.kind in COMING_BACK and offers:
            lasts_s = len(RESTORING) * self._step_s if recovered else LONGEST_TRIAL_S
            reason = f"after {action.kind}: {why}"
            back = action_of(HealingKind.RESTORE, action.pattern, offers, now, lasts_s, reason=reason)
            layers = _eased(offers, 0) if recovered else dict.fromkeys(offers, BEGINS)
            after = Running(back, Move(layers), running.about, running.provider, lasts_s, measured=True)
            if not recovered:
                after.after, after.in_vain = running, in_vain
                self._try_out(after, now)
            self._runs.begin(after)  # before the other ends, so that the offer is never back all at once
        self._runs.end(running, now, why)

    def resume(self, running: Running, now: float) -> None:
        """A healing goes on after a restart; a trial begins anew, since nobody knows what came meanwhile."""
        if running.after is not None:
            self._try_out(running, now)

    def take_over(self, begun: Running, now: float) -> None:
        """A healing begins after which its offers will be tried: what tried them in vain ends."""
        if begun.action.applied and begun.action.kind in COMING_BACK:
            for running in self._runs.of(HealingKind.RESTORE):
                if running.in_vain and running.action.pattern == begun.action.pattern:
                    self._runs.end(running, now, f"{begun.action.kind} took over")

    def attend(self, running: Running, now: float) -> None:
        """Take its next step, if it is time for one."""
        if running.after is not None:
            self._try(running, running.after, now)
            return
        step = int((now - running.action.at) // self._step_s)
        layers = _eased(running.offers, step)
        if step >= len(RESTORING):
            self._runs.end(running, now, "it is back")
        elif layers != running.move.layers:
            self._runs.relay(running, layers)

    def _try(self, running: Running, before: Running, now: float) -> None:
        action, goes_on = running.action, self._patterns.get(running.action.pattern)
        hidden = goes_on is not None and is_hidden(goes_on.cause)
        trials = self._runs.trials_of(running)
        ill = [offer for offer, trial in trials.items() if trial.is_ill or (hidden and trial.attempts >= MANY)]
        if before.action.kind not in MASKING and goes_on is None:
            self._runs.end(running, now, "the trouble is over")
        elif ill:
            self._heal_again(running, before, ill, now)
        elif all(trial.is_well for trial in trials.values()) and not hidden:
            for offer in trials:
                if goes_on is not None:
                    self._choice.is_back(goes_on, offer, now)
            self._runs.end(running, now, "it is back")
        elif action.until is not None and now >= action.until:
            if goes_on is None:
                self._runs.end(running, now, "nobody asked for it")
                return
            running.action = msgspec.structs.replace(action, until=now + LONGEST_TRIAL_S)
            self._runs.tell(running.action)
        else:
            self._runs.follow_trials(running, most=AT_ONCE[-1] if hidden else None)

    def _heal_again(self, running: Running, before: Running, ill: Sequence[str], now: float) -> None:
        """What kept these offers out does so again, for longer; where it may not, they stay on trial."""
        again = self._choice.again(before, tuple(ill), now)
        if again is None:
            running.in_vain = True
            self._try_out(running, now)
            return
        self._runs.begin(again, {offer: self._choice.usual(again.action.pattern, offer) for offer in again.offers})
        rest = tuple(offer for offer in running.offers if offer not in again.offers)
        if rest:
            self._runs.narrow(running, rest)
        else:
            self._runs.end(running, now, "it is ill still")

    def _try_out(self, running: Running, now: float) -> None:
        pattern = running.action.pattern
        self._runs.try_out(running, {offer: self._choice.usual(pattern, offer) for offer in running.offers}, now)


def _eased(offers: Sequence[str], step: int) -> dict[str, Steering]:
    """The layers of the n-th step of the return of offers that have recovered; behind the last one, nothing."""
    layer = Steering(weight=RESTORING[step]) if step < len(RESTORING) else UNSTEERED
    return dict.fromkeys(offers, layer)
