"""One line of anchors: one log, one cadence, one target; each slot is anchored once, whatever happens in between.

A step goes as far as it can and says when the next one is due. Each stage is durable before the next begins:

1. the checkpoint for the slot is chosen, verified against the log's keys and its history, and written down;
2. the target is asked, and what it gives is written down;
3. that is put where it belongs, beside the log, where it is looked for first;
4. the slot is settled.

Whoever is killed goes on from the stage that was reached. Between asking and writing down, a target may have answered
unheard: an authority's answer is then lost, and it is asked again; a signature's file has the same name again; a URL is
sent the same key again.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from amaru.errors import LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.anchoring_metrics import LineFigures
from amaru.ledger.anchoring_pace import TRIES, Cadence
from amaru.ledger.anchoring_state import Anchored, LineName, LineState, Outcome, Pending, StateFolder, Token
from amaru.ledger.anchoring_targets import Ask, Target
from amaru.ledger.checkpoint import Checkpoint, read_checkpoint
from amaru.ledger.proofs import Superseded
from amaru.ledger.troubles import AnchorError, Trouble
from amaru.telemetry.logs import get_logger
from amaru.telemetry.redaction import in_one_line

RELOAD_S = 20.0
"""After what was kept of a line could not be read."""

_log = get_logger("ledger")


class Log(Protocol):
    """A log that is anchored; see ``anchoring_source.Source``. Raises LedgerError."""

    def checked(self) -> tuple[Checkpoint, bytes]: ...
    def keep(self, note: bytes, token: Token) -> None: ...


class Line:
    """One line.

    Parameters
    ----------
    name, cadence, target, log
        What is anchored how often and where.
    states
        Where it writes down how far it got. Only one line of a name may be stepped at a time.
    figures
        Its counts.
    clock, timer
        Unix seconds, and seconds for durations.
    """

    def __init__(
        self,
        name: LineName,
        cadence: Cadence,
        target: Target,
        log: Log,
        states: StateFolder,
        figures: LineFigures,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        self.cadence = cadence
        self.target = target
        self.state = LineState()
        self._log = log
        self._states = states
        self._figures = figures
        self._clock = clock
        self._timer = timer
        self._loaded = False
        """The first step loads the state: it may wait for a disk, and for the last step of a line before this one."""

    @property
    def status(self) -> str:
        """``new``, ``anchored``, ``unchanged``, ``retrying`` or ``failed``; what has failed stays so until it works."""
        pending, outcome = self.state.pending, self.state.outcome
        return "retrying" if pending is not None and pending.tries and outcome != "failed" else outcome or "new"

    @property
    def problem(self) -> str:
        """Why the last try failed; empty: it did not."""
        pending = self.state.pending
        return pending.problem if pending is not None and pending.tries else self.state.problem

    def step(self) -> float:
        """Do what is due; when to step again, Unix seconds. Takes as long as the target does, and raises nothing."""
        now = self._clock()
        if not self._loaded and not self._load():
            return now + RELOAD_S
        pending = self.state.pending
        if pending is None:
            slot = self.cadence.due(self.state.settled, now)
            if slot is None:
                return self.cadence.next_s(self.state.settled, now)
            pending = Pending(slot)
        elif now < pending.next_s <= now + self.cadence.longest_wait_s:  # one further ahead: the clock was wrong then
            return pending.next_s
        began = self._timer()
        try:
            self._try(pending)
        except LedgerError as error:
            self._failed(self.state.pending or pending, error, self._timer() - began)
        except Exception as error:  # whatever it is, it must not end the line
            _log.exception("anchor_failed_unforeseen", **self.name._asdict())
            told = AnchorError(f"{type(error).__name__}: {in_one_line(str(error))}", Trouble.VALIDATION)
            self._failed(self.state.pending or pending, told, self._timer() - began)
        pending = self.state.pending
        return self.cadence.next_s(self.state.settled, self._clock()) if pending is None else pending.next_s

    def _load(self) -> bool:
        try:
            self.state = self._states.load(self.name)
        except LedgerError as error:
            # Without it, nothing may be done: it could be done already.
            _log.error("anchor_state_unreadable", **self.name._asdict(), problem=str(error))
            self.state = LineState(outcome="failed", problem=str(error))
            return False
        self._loaded = True
        self._figures.backoff = self.state.pending.tries if self.state.pending is not None else 0
        return True

    def _try(self, pending: Pending) -> None:
        began = self._timer()
        note = pending.note
        if not note:
            head, note = self._log.checked()
            if self._is_unchanged(head):
                self._settle(pending.slot, "unchanged")
                return
        self._figures.attempted += 1
        ask = Ask(self.name, pending.slot, note)
        token, where = pending.token, pending.where
        if token is None:
            self._write_down(replace(pending, note=note))
            token, where = self.target.ask(ask), self.target.where
        # In memory even where it cannot be written down; but nothing is done with it before it is.
        self.state = self._with(replace(pending, note=note, token=token, where=where))
        self._states.save(self.name, self.state)
        if where == self.target.where:  # else its settings were changed in between: another place has no use for it
            self.target.place(ask, token)
        self._log.keep(note, token)
        head = read_checkpoint(note)
        made = Anchored(pending.slot, self._clock(), head.size, _text(head.root), where, token.digest)
        self._settle(pending.slot, "anchored", made)
        self._figures.succeeded += 1
        self._figures.seconds.observe(self._timer() - began)
        _log.info("anchored", **self.name._asdict(), size=head.size, slot=pending.slot, where=where)

    def _is_unchanged(self, head: Checkpoint) -> bool:
        """This tree was anchored here before, or there is nothing in it: one more anchor would prove nothing."""
        last = self.state.last
        if last is None or (last.size, last.root) != (head.size, _text(head.root)):
            return not head.size
        return last.where == self.target.where

    def _failed(self, pending: Pending, error: LedgerError, took_s: float) -> None:
        figures = self._figures
        # One that could not even begin to be asked counts as begun, so that begun ones are those that ended.
        figures.attempted += figures.attempted == figures.succeeded + figures.failed
        figures.failed += 1
        figures.seconds.observe(took_s)
        if isinstance(error, Superseded):
            # Keys were rotated in between: what was got can never lie there; the note that does is anchored instead.
            pending = Pending(pending.slot, tries=pending.tries)
        trouble, tries = trouble_of(error), pending.tries + 1
        given_up = tries >= TRIES
        say = _log.error if given_up or isinstance(error, ProofError | LedgerCorrupt) else _log.warning
        say(
            "log_does_not_hold" if isinstance(error, ProofError | LedgerCorrupt) else "anchor_failed",
            **self.name._asdict(), slot=pending.slot, tries=tries, trouble=trouble.value, problem=str(error),
        )  # fmt: skip
        figures.backoff = tries
        now = self._clock()
        if not given_up:
            next_s = now + self.cadence.backoff_s(tries, trouble)
            state = self._with(replace(pending, tries=tries, next_s=next_s, problem=str(error)))
        elif pending.token is not None:
            # Got, and nowhere to put it: it is not thrown away, but tried with every slot until it can be kept.
            next_s = self.cadence.next_s(self.cadence.slot(now), now)
            state = self._with(replace(pending, tries=TRIES - 1, next_s=next_s, problem=str(error)), "failed")
        else:
            state = replace(self.state, settled=pending.slot, outcome="failed", pending=None, problem=str(error))
        self.state = state
        try:
            self._states.save(self.name, state)
        except LedgerError as unsaved:
            # A kill now would have the try done again sooner: no anchor is lost or doubled by that.
            _log.error("anchor_state_not_saved", **self.name._asdict(), problem=str(unsaved), remedy="make room")

    def _write_down(self, pending: Pending) -> None:
        state = self._with(pending)
        self._states.save(self.name, state)
        self.state = state

    def _with(self, pending: Pending, outcome: Outcome | None = None) -> LineState:
        return replace(self.state, pending=pending, outcome=self.state.outcome if outcome is None else outcome)

    def _settle(self, slot: int, outcome: Outcome, anchored: Anchored | None = None) -> None:
        settled = LineState(settled=slot, outcome=outcome, last=anchored or self.state.last)
        self._states.save(self.name, settled)
        self.state = settled
        self._figures.backoff = 0


def _text(root: bytes) -> str:
    return base64.b64encode(root).decode()


def trouble_of(error: LedgerError) -> Trouble:
    """Who can end it: a target says so; a log that does not hold takes a person, one that is away comes back."""
    if isinstance(error, AnchorError):
        return error.trouble
    return Trouble.VALIDATION if isinstance(error, ProofError | LedgerCorrupt) else Trouble.NETWORK
