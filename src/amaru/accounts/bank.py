"""What tills and banks say to each other: counters, leases, recalls, and the turn in which all of it is exchanged.

A bank keeps counters and who holds which part of them, durably. A till tells, in each turn, what it holds in whole
numbers, not what changed: a turn whose answer was lost is simply followed by the next one, and a bank that forgot the
last moment before a crash hears of it again. Turns of one holder are numbered, and one that comes late changes
nothing. ``docs/explanation/accounts.md`` shows why a counter can then never be overspent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from amaru.accounts.charges import Charge

Key = tuple[str, int]
"""Of a counter: the allowance's id, and the start of the period as Unix seconds."""

LIVE_S = 2.0
"""A holder that was heard of within this time is waited for; the others' leases stand, but nobody waits."""
RECALL_S = 2.0
"""How long a recall goes on after the last turn in which somebody waited for it."""
TAKEOVER_STEP = 1 << 20
"""Whoever goes on for a holder that is dead counts its turns from so much further: no turn of it comes after that."""


class Counter(msgspec.Struct, frozen=True, gc=False):
    """An allowance in one period."""

    key: Key
    amount: int
    """Nano-USD, requests or tokens."""
    period_end: int | None = None
    """Unix seconds; ``None``: it never renews."""
    hard: bool = True
    """It refuses what would exceed it; else it only counts."""


class Part(NamedTuple):
    """What one reservation takes from one counter."""

    key: Key
    reserved: int
    used: int | None
    """``None``: it is not known yet, and the reservation stands."""


class Ended(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A reservation that came to its end."""

    number: int
    """Of the holder's, ascending: a bank takes in each once."""
    id: str
    """Of the dispatch; empty: it was never dispatched."""
    charge: Charge | None
    """The row of spend; ``None``: none is due."""
    parts: tuple[Part, ...]


class Held(NamedTuple):
    """What a holder has of a counter, altogether."""

    amount: int
    acknowledged: int
    """The last recall on which it gave back what was idle."""


class Need(NamedTuple):
    """What somebody waits for."""

    key: Key
    amount: int
    since: int
    """The recall that was made for it; 0: none yet."""


class Verdict(enum.IntEnum):
    """What a bank says to one that waits."""

    GRANTED = 0
    WAIT = 1
    """Other holders have not yet said that they have nothing to spare, or one that came before waits for the same."""
    REFUSED = 2


class Decision(NamedTuple):
    """What became of an ask."""

    verdict: Verdict
    since: tuple[int, ...] = ()
    """Of each need: the recall that was made for it; 0: none. To be handed in with the next ask."""
    short: int = 0
    """Of a refused one: which need it is that cannot be met."""


class Turn(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a holder tells its bank."""

    holder: str
    number: int
    ended: Sequence[Ended] = ()
    """In the order of their numbers, none left out."""
    leases: Mapping[Key, Held] = {}
    """What it holds once ``ended`` is taken in; of counters that are not named, as much as before."""
    whole: bool = False
    """``leases`` names all that it holds."""
    counters: Mapping[Key, Counter] = {}
    """Of every key in ``asks`` and ``wants``, and of those that the bank may not know."""
    asks: Sequence[tuple[Need, ...]] = ()
    """Each all or nothing, those that wait longest first."""
    wants: Mapping[Key, int] = {}
    """What it would like to have besides, for requests to come."""
    epoch: str = ""
    """Of the last bank that heard all."""

    @property
    def taken_over(self) -> bool:
        """Somebody took the holder for dead at some time: charges of its may have been made in its place."""
        return self.number >= TAKEOVER_STEP


class Recall(NamedTuple):
    """A counter of which everybody gives back what is idle."""

    generation: int
    free: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a bank answers."""

    now: float
    """By the bank's clock, Unix seconds."""
    directory: int
    """Version of tenants, keys and allowances: it rises with each change."""
    decisions: Sequence[Decision] = ()
    """On each of the asks."""
    granted: Mapping[Key, int] = {}
    """Leased in this turn."""
    free: Mapping[Key, int] = {}
    """Of each counter that the turn named: neither settled nor leased."""
    recalls: Mapping[Key, Recall] = {}
    """Those that go on."""
    overruns: Mapping[Key, int] = {}
    """Counters that were settled beyond their amount in this turn, and by how much they exceed it now."""
    epoch: str = ""
    announce: bool = False
    """It does not know what this holder has: tell all of it."""


class Position(NamedTuple):
    """How far a bank has heard of a holder."""

    turn: int = 0
    through: int = 0
    """Number of the last end that was taken in."""


class Bank(Protocol):
    """Durable counters and leases, shared by holders. Called from one thread of each; every call may take its time.

    All raise StorageError where it cannot be reached, or fails; then it is not known whether the turn was taken in.
    """

    def turn(self, turn: Turn) -> Answer:
        """Take in all of a turn, or nothing. Raises StaleTurn."""

    def position(self, holder: str) -> Position:
        """Of a holder that is unknown: the beginning."""

    def resolve(self, charge: Charge, used: Mapping[Key, int]) -> bool:
        """Put ``charge`` in place of the one that stood under its id, and what was used in place of its reservation.

        False: nothing stands there under this id; nothing was changed.
        """
