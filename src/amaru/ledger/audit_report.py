"""What an audit says of a log: what is wrong, where, and what of its history could not be looked at."""

from __future__ import annotations

import enum

import msgspec

MOST_FAULTS = 100
"""Named one by one; a log with more is told from a sound one all the same."""
MOST_COUNTED = 10_000
"""Beyond those; a log with more is not looked at to its end."""


class Fault(enum.Enum):
    """What can be wrong with a log."""

    CHECKPOINT = "checkpoint"
    """Missing, forged, signed by an unknown key, or of another log."""
    ENTRY = "entry"
    """Edited, dropped, added or moved: it does not have the hash that was logged at its index."""
    DUPLICATE = "duplicate index"
    """Two different entries, or hashes, at one index."""
    CANONICAL = "not canonical"
    """Not RFC 8785 canonical JSON, so that another text could say the same."""
    MISSING = "missing"
    """Entries or tiles that the checkpoint covers are not there, and no pruning says why."""
    TILE = "tile"
    """A tile does not hold what the tiles below it give."""
    TRUNCATED = "truncated"
    """A checkpoint covers more than is there: the log was cut, or an older checkpoint put back."""
    SPLIT = "split view"
    """Two checkpoints of one size with different roots."""
    HISTORY = "history"
    """A checkpoint that was signed once is not of these entries: they were exchanged together with their hashes."""


class Finding(msgspec.Struct, frozen=True):
    """One fault: which, where, and the first leaf that it concerns, where that can be told."""

    fault: Fault
    where: str
    message: str
    leaf: int | None = None


class History(enum.Enum):
    """Whether the checkpoints that the log published before its last are there, to hold the entries against."""

    COMPLETE = "complete"
    INCOMPLETE = "not available in part"
    """Some are there and others are not: ``AuditReport.missing`` says which."""
    NONE = "not available"
    """None is: a copy without the folder ``checkpoints``, as other tools make one, or a log that it was taken from."""


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit found; ``ok`` where nothing is wrong, and nothing was missing to tell."""

    size: int
    """Leaves under the checkpoint."""
    walked: int
    """Leaves looked at: all of them, unless too much was at fault to go on."""
    entries: int
    """Entries read and hashed."""
    pruned: int
    """Entries gone by a logged pruning, whose hashes were taken from the tiles."""
    tiles: int
    checkpoints: int
    findings: tuple[Finding, ...]
    more: int = 0
    """Findings beyond the first hundred."""
    history: History = History.COMPLETE
    missing: tuple[str, ...] = ()
    """Which earlier checkpoints are not there, in words."""

    @property
    def sound(self) -> bool:
        """Nothing is wrong with what is there."""
        return not self.findings

    @property
    def ok(self) -> bool:
        return self.sound and self.history is History.COMPLETE

    @property
    def first_leaf(self) -> int | None:
        """The first leaf at fault, where one can be named."""
        return min((found.leaf for found in self.findings if found.leaf is not None), default=None)
