"""What was learned as evidence that can be sent, replaced and merged: sums by origin and epoch (law 6).

Each origin (a node) sums the outcomes that it saw itself; an epoch begins when it forgets. Sums of different origins
are decayed to a common instant and added, so any split of one log over nodes gives what the whole log gives. Evidence
of an origin and epoch received again takes the place of what was there, the one with more outcomes winning.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

import msgspec
import numpy as np

from amaru.routing import belief_kernels as b
from amaru.routing.kernels import Floats

_SHAPE = (b.N_SCALES, b.N_SUMS)
_BYTES = 8 * b.N_SCALES * b.N_SUMS
_TINY = 1e-290


class SlotSums(msgspec.Struct, frozen=True, array_like=True):
    """The sums of one slot, decayed to ``at``."""

    at: float
    sums: bytes
    """float64, little-endian, [N_SCALES, N_SUMS]."""

    def array(self) -> Floats:
        """The sums. Raises ValueError where they have another shape, or are not finite."""
        sums: Floats = arrays_of((self,))[1][0]
        return sums


def arrays_of(slots: Collection[SlotSums]) -> tuple[Floats, Floats]:
    """Instants, [slots], and sums, [slots, N_SCALES, N_SUMS]. Raises ValueError as ``SlotSums.array`` does."""
    for slot in slots:
        if len(slot.sums) != _BYTES:
            raise ValueError(f"{len(slot.sums)} bytes of sums in a slot, not {_BYTES}")
    at = np.array([slot.at for slot in slots], dtype=np.float64)
    sums = np.frombuffer(b"".join(slot.sums for slot in slots), dtype="<f8")
    if not (np.isfinite(at).all() and np.isfinite(sums).all()):
        raise ValueError("sums that are not finite numbers")
    sums = sums.reshape(len(at), *_SHAPE).astype(np.float64)
    if not _possible(sums):
        raise ValueError("sums that no outcomes add up to")
    return at, sums


def _possible(sums: Floats) -> bool:
    """Whether there are outcomes that have these sums; others would make beliefs of no sense, or no numbers at all."""
    column = np.moveaxis(sums, -1, 0)
    n = column[b.N_Y]
    most = 1.000001 * b.LOG_MOST
    # The first is at least the second; what has all but faded away is rounded coarsely.
    pairs = [
        *itertools.pairwise((column[b.TRIES], column[b.WINS], 0.0 * n)),
        *itertools.pairwise((n, column[b.X], column[b.XX], 0.0 * n)),
        (1.000001 * n * column[b.XX] + 1e-9, column[b.X] ** 2),
        *((most * n, np.abs(column[which])) for which in (b.Y, b.XY)),
        (most**2 * n, column[b.YY]),
        (column[b.YY], 0.0 * n),
        (column[b.WINS], column[b.N_C]),
        (column[b.N_C], 0.0 * n),
        (most * column[b.N_C], np.abs(column[b.C])),
    ]
    return all(bool((more >= less - _TINY).all()) for more, less in pairs)


class Evidence(msgspec.Struct, frozen=True):
    """What one origin saw in one epoch."""

    origin: str
    epoch: float
    """When it began, in Unix seconds."""
    outcomes: int
    half_lives_s: tuple[float, ...]
    slots: dict[str, SlotSums]
    """By ``mind.slot_keys``."""


def current(evidences: Iterable[Evidence]) -> list[Evidence]:
    """Of each origin and epoch the evidence with most outcomes, in an order that does not depend on the input's."""
    best: dict[tuple[str, float], Evidence] = {}
    for evidence in evidences:
        key = (evidence.origin, evidence.epoch)
        if key not in best or best[key].outcomes < evidence.outcomes:
            best[key] = evidence
    return [best[key] for key in sorted(best)]


def merged(evidences: Iterable[Evidence]) -> dict[str, SlotSums]:
    """All evidence together, each slot as of its latest instant.

    Raises ValueError where the half-lives differ: sums that fade differently cannot be added.
    """
    parts = current(evidences)
    if len({part.half_lives_s for part in parts}) > 1:
        lives = sorted({part.half_lives_s for part in parts})
        raise ValueError(f"evidence with different half-lives cannot be merged: {lives}; give all nodes the same")
    row_of = {key: row for row, key in enumerate(sorted({key for part in parts for key in part.slots}))}
    arrays = [
        (np.array([row_of[key] for key in part.slots], dtype=np.int64), *arrays_of(part.slots.values()))
        for part in parts
    ]
    latest, total = np.full(len(row_of), -np.inf), np.zeros((len(row_of), *_SHAPE))
    for rows, at, _ in arrays:
        latest[rows] = np.maximum(latest[rows], at)
    for part, (rows, at, sums) in zip(parts, arrays, strict=True):
        kept = np.exp2(-(latest[rows] - at)[:, None] / np.array(part.half_lives_s))
        total[rows] += sums * kept[:, :, None]
    return {
        key: SlotSums(at, sums.tobytes())
        for key, at, sums in zip(row_of, latest.tolist(), total.astype("<f8"), strict=True)
    }
