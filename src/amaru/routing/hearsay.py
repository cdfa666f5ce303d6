"""What machines tell each other of offers, and how far one believes the others.

What a machine finds out by its own requests it tells as a ``Word``: an offer's breaker opened, is probed or closed, or
the provider asked for a pause. What others found out it takes over, within bounds, since their network may be broken
where its own is not:

- An opening counts only where no request of this machine's was served since the failures began elsewhere.
- Others keep an offer away for one longest cool-down at most; then this machine sends a probe of its own.
- A machine whose word on an offer proved wrong here twice is not believed about that offer for ``DOUBT_S``.

Words hold durations, never instants: machines' clocks differ. Nothing here waits or does I/O.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from amaru.routing import kernels as k
from amaru.routing.board import Board
from amaru.routing.breaker import State

DOUBT_S = 300.0
WRONG_AT_MOST = 2
"""So often may a machine's word on an offer prove wrong within ``DOUBT_S``; after that it is not believed."""
PROBE_S = 2.0
"""How long others leave an offer alone while one machine probes it."""
LEAST_PAUSE_S = 0.25
"""Shorter pauses are over before others hear of them."""
LONGEST_PAUSE_S = 60.0
"""Others' word keeps no offer paused for longer: a limit may be of one machine's address. Then this one asks itself."""
LEAST_WEIGHT = 0.05
"""An average that has faded below it is as good as none."""
MOST_WORD_S = 3600.0

_WATCHED = [k.REFUSES_UNTIL, k.THROTTLED_UNTIL]
_LATENCIES = (k.FIRST_TOKEN, k.ANSWER)


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine found of one offer by its own requests."""

    offer: str
    """``provider/resource/model``, as ``names_of`` has it."""
    what: Literal["open", "probed", "well", "paused"]
    for_s: float = 0.0
    """From when it was said: how long no request is to be sent."""
    failing_s: float = 0.0
    """Before it was said: since when nothing but failures came."""
    broken: bool = False
    """Open for a cause that a person must fix."""


class Average(msgspec.Struct, frozen=True, array_like=True):
    """A latency of an offer, as one machine measured it."""

    ms: float
    weight: float
    """In [0, 1], as it has faded by now."""


class _Seen:
    """What was last known of an offer's breaker and pause here."""

    __slots__ = ("opened_at", "paused_until", "recoveries", "state", "until")

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.until = -math.inf
        self.opened_at = -math.inf
        self.recoveries = 0
        self.paused_until = -math.inf


class _Told(NamedTuple):
    """By whose word a breaker moved."""

    origin: str
    at: float
    """When this machine heard it."""
    until: float
    """No word keeps it open past this."""


def names_of(board: Board) -> list[str]:
    """By row: the name that an offer has on every machine; where several have one name, their ids tell them apart."""
    names = [f"{offer.provider}/{offer.resource}/{offer.model}" for offer in board.offers]
    often = Counter(names)
    return [f"{name}#{offer.id}" if often[name] > 1 else name for name, offer in zip(names, board.offers, strict=True)]


class Hearsay:
    """The words of one machine, and its ear for those of others. Instants are of the board's clock."""

    def __init__(self, board: Board) -> None:
        self.doubted = 0
        """Words that were not believed."""
        self._seen: dict[str, _Seen] = {}
        self._told: dict[str, _Told] = {}
        self._told_well: dict[str, _Told] = {}
        self._wrong: dict[tuple[str, str], tuple[int, float]] = {}
        self._filled: dict[tuple[str, int], float] = {}  # averages that are others': when they were taken over
        self.follow(board)

    def follow(self, board: Board) -> None:
        """There is another board; what is known of the offers that remain is kept."""
        self.board = board
        self.names = names_of(board)
        self.row_of = {name: row for row, name in enumerate(self.names)}
        for known in (self._seen, self._told, self._told_well):
            for name in known.keys() - self.row_of.keys():
                del known[name]
        self._slots = board.static[:, k.SLOT].astype(np.int64)
        self._last = np.full((len(self.names), len(_WATCHED)), math.nan)
        for row, name in enumerate(self.names):
            if name not in self._seen:  # what it came with is no news
                self._seen[name] = _Seen()
                self._note(row)

    # ---- telling ------------------------------------------------------------------------------------------------

    def news(self, now_s: float) -> list[Word]:
        """What this machine's own requests changed since the last call."""
        watched = self.board.live[self._slots[:, None], _WATCHED]
        moved = np.flatnonzero((watched != self._last).any(axis=1))
        self._last = watched
        words: list[Word] = []
        for row in moved.tolist():
            words += self._news_of(row, now_s)
        for name, told in list(self._told.items()):
            self._contradict(name, told, now_s)
        return words

    def _news_of(self, row: int, now_s: float) -> list[Word]:
        name = self.names[row]
        state, seen = self.board.states[row], self._seen[name]
        breaker, words = state.breaker, []
        now_is, until, recoveries = breaker.state, breaker.until, state.recoveries
        paused_until = float(self._last[row, 1])
        if now_is is State.OPEN and (seen.state is State.CLOSED or until != seen.until) and until > now_s:
            failing_s = max(now_s - min(breaker.failing_since, now_s), 0.0)
            words.append(Word(name, "open", until - now_s, failing_s, breaker.broken))
            self._opened(name, now_s)
        elif now_is is State.HALF_OPEN and seen.state is not State.HALF_OPEN:
            words.append(Word(name, "probed", PROBE_S))
        elif now_is is State.CLOSED and recoveries > seen.recoveries:
            words.append(Word(name, "well"))
            told = self._told.pop(name, None)
            if told is not None:
                self._prove_wrong(told.origin, name, now_s)
        if paused_until > seen.paused_until and paused_until - now_s >= LEAST_PAUSE_S:
            words.append(Word(name, "paused", paused_until - now_s))
        self._note(row)
        return words

    def _note(self, row: int) -> None:
        """What there is now, is known."""
        state, seen = self.board.states[row], self._seen[self.names[row]]
        cells, base = state.slab.cells, state.base
        seen.state, seen.until = state.breaker.state, state.breaker.until
        seen.recoveries, seen.paused_until = state.recoveries, cells[base + k.THROTTLED_UNTIL]
        self._last[row] = [cells[base + column] for column in _WATCHED]

    def _opened(self, name: str, now_s: float) -> None:
        """Its own requests failed: whoever said that it is well was wrong."""
        self._seen[name].opened_at = now_s
        self._told.pop(name, None)
        told = self._told_well.pop(name, None)
        if told is not None and now_s < told.until:
            self._prove_wrong(told.origin, name, now_s)

    def _contradict(self, name: str, told: _Told, now_s: float) -> None:
        """A request that was under way when others' word closed the offer was served: it is well, seen from here."""
        row = self.row_of[name]
        state = self.board.states[row]
        if state.breaker.state is State.CLOSED:
            del self._told[name]
        elif told.origin and self._served_at(row) > told.at and state.breaker.told_well(now_s):
            state.found_well(now_s)
            state.breaker_moved()
            self._note(row)
            del self._told[name]
            self._prove_wrong(told.origin, name, now_s)

    def _served_at(self, row: int) -> float:
        """When a request of this machine's was last served there; -inf: never."""
        state, name = self.board.states[row], self.names[row]
        cells, base = state.slab.cells, state.base
        at = [
            cells[base + column + 2]
            for column in _LATENCIES
            if cells[base + column + 1] > 0.0 and cells[base + column + 2] != self._filled.get((name, column))
        ]
        return max(at, default=-math.inf)

    # ---- hearing ------------------------------------------------------------------------------------------------

    def hear(self, origin: str, word: Word, age_s: float, now_s: float) -> bool:
        """Take in what another machine said ``age_s`` ago; whether it changed anything here."""
        row = self.row_of.get(word.offer)
        left_s = min(word.for_s, MOST_WORD_S) - max(age_s, 0.0)
        if row is None or not math.isfinite(left_s):  # not configured here, or no word at all
            return False
        if word.what != "well" and left_s <= 0.0:
            return False
        if self._is_doubted(origin, word.offer, now_s):
            self.doubted += 1
            return False
        match word.what:
            case "open":
                changed = self._hear_open(origin, word, row, left_s, age_s, now_s)
            case "probed":
                changed = self._keep_open(word.offer, row, left_s, now_s)
            case "well":
                changed = self._hear_well(origin, word.offer, row, age_s, now_s)
            case "paused":
                changed = self._hear_pause(row, left_s, now_s)
        if changed:
            self._note(row)
        return changed

    def _hear_open(self, origin: str, word: Word, row: int, left_s: float, age_s: float, now_s: float) -> bool:
        state = self.board.states[row]
        breaker = state.breaker
        if breaker.state is not State.CLOSED:
            return self._keep_open(word.offer, row, left_s, now_s)
        if self._served_at(row) > now_s - age_s - max(word.failing_s, 0.0):
            self.doubted += 1
            return False
        settings = breaker.settings
        until = now_s + (settings.max_broken_s if word.broken else settings.max_cool_down_s)
        if not breaker.told_open(min(now_s + left_s, until), broken=word.broken):
            return False
        self._told[word.offer] = _Told(origin, now_s, until)
        self._seen[word.offer].opened_at = now_s - age_s
        state.breaker_moved()
        return True

    def _keep_open(self, name: str, row: int, left_s: float, now_s: float) -> bool:
        """Leave the probe to others for so long: it is open here too."""
        state = self.board.states[row]
        breaker = state.breaker
        if breaker.state is not State.OPEN:
            return False
        told = self._told.get(name)
        if told is None:  # by its own failures; the empty name is nobody's
            told = self._told[name] = _Told("", now_s, max(breaker.until, now_s) + breaker.settings.max_cool_down_s)
        if not breaker.told_open(min(now_s + left_s, told.until), broken=breaker.broken):
            return False
        state.breaker_moved()
        return True

    def _hear_well(self, origin: str, name: str, row: int, age_s: float, now_s: float) -> bool:
        state = self.board.states[row]
        if now_s - age_s < self._seen[name].opened_at:  # it fell since that was said
            return False
        if not state.breaker.told_well(now_s):
            return False
        state.found_well(now_s)
        state.breaker_moved()
        self._told.pop(name, None)
        self._told_well[name] = _Told(origin, now_s, now_s + state.breaker.settings.window_s)
        return True

    def _hear_pause(self, row: int, left_s: float, now_s: float) -> bool:
        state = self.board.states[row]
        cells, at = state.slab.cells, state.base + k.THROTTLED_UNTIL
        until = now_s + min(left_s, LONGEST_PAUSE_S)
        if until <= cells[at]:
            return False
        cells[at] = until
        state.slab.notify()
        return True

    # ---- trust --------------------------------------------------------------------------------------------------

    def _prove_wrong(self, origin: str, name: str, now_s: float) -> None:
        if not origin:
            return
        times, at = self._wrong.get((origin, name), (0, -math.inf))
        self._wrong[origin, name] = (times + 1 if now_s - at < DOUBT_S else 1, now_s)
        for key in [key for key, (_, at) in self._wrong.items() if now_s - at >= DOUBT_S]:
            del self._wrong[key]

    def _is_doubted(self, origin: str, name: str, now_s: float) -> bool:
        times, at = self._wrong.get((origin, name), (0, -math.inf))
        return times >= WRONG_AT_MOST and now_s - at < DOUBT_S

    # ---- latencies ----------------------------------------------------------------------------------------------

    def averages(self, now_s: float) -> dict[str, tuple[Average | None, ...]]:
        """By offer: latencies until the first token, and of whole answers, that this machine measured itself."""
        found: dict[str, tuple[Average | None, ...]] = {}
        for row, name in enumerate(self.names):
            own = tuple(self._own_average(row, name, column, now_s) for column in _LATENCIES)
            if any(own):
                found[name] = own
        return found

    def _own_average(self, row: int, name: str, column: int, now_s: float) -> Average | None:
        state = self.board.states[row]
        ms, weight = state.estimate(column, now_s)
        at = state.slab.cells[state.base + column + 2]
        if weight < LEAST_WEIGHT or at == self._filled.get((name, column)):
            return None
        return Average(ms, weight)

    def fill(self, others: Sequence[Mapping[str, tuple[Average | None, ...]]], now_s: float) -> None:
        """Where this machine has no measurement of its own any more, go by those of others, by their weights."""
        for row, name in enumerate(self.names):
            for place, column in enumerate(_LATENCIES):
                told = [
                    one
                    for of in others
                    if len(of.get(name, ())) == len(_LATENCIES) and (one := of[name][place]) is not None
                ]
                weight = sum(one.weight for one in told)
                if weight < LEAST_WEIGHT or self._own_average(row, name, column, now_s) is not None:
                    continue
                state = self.board.states[row]
                cells, at = state.slab.cells, state.base + column
                cells[at] = sum(one.weight * one.ms for one in told) / weight
                cells[at + 1] = min(weight, 1.0)
                cells[at + 2] = self._filled[name, column] = now_s
