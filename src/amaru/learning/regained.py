"""How soon a policy is itself again after a provider's regime changed under it.

Definition. A *class* is one tenant's requests for one resource. A class is struck at a step where a provider's true
failure probability jumps (it fell ill, recovered, or its bridge went out or came back) and, with that, what the oracle
mostly chooses for that class. The change is *for the worse* where the offer that was best till then began to fail, and
*for the better* where the one that is best from then on ceased to.

What is measured is the *shortfall*: the utility that the oracle had from a request less what the policy had from the
same request, with the same luck. So whatever nobody could have had does not count as lost. Counted from the change in
decisions of that class (all of them, also those that went elsewhere), and averaged over all changes of all worlds:

- *before* is the mean shortfall of the ``BEFORE`` decisions before the change, as far as the change before that one was
  ``CALM`` decisions ago,
- *lost* is the mean shortfall of the first ``RIGHT_AFTER`` decisions after it, less *before*,
- the loss is *regained* at the first decision from which on the shortfall is at most *before* and a tenth of *lost*.

Decisions are taken ``BIN`` at a time, and the curve is made monotone by isotonic regression (Ayer et al., 1955: pool
adjacent violators), so that one lucky bin counts as no recovery. A change is followed until the same class is struck
again. Intervals resample whole worlds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from amaru.learning.intervals import Estimate, Floats, Resampling

Ints = NDArray[np.int64]

JUMP = 0.05
"""Least change of a failure probability from one step to the next that is a change of regime."""
NEIGHBOURS = 10
"""The oracle's choice before and after is what it chose most in so many decisions."""
BIN = 10
BEFORE = 100
CALM = 200
AFTER = 600
RIGHT_AFTER = 10
WANTED = 0.9
"""Share of the loss that is to be regained."""
RESAMPLES = 2000

BINS = (BEFORE + AFTER) // BIN
_ZERO = BEFORE // BIN


class Change(msgspec.Struct, frozen=True):
    """One class is struck."""

    at: int
    """The first decision of the class after it."""
    step: int
    worse: bool


class Curves(msgspec.Struct, frozen=True):
    """Sums of one world over its changes; each [BINS], from ``BEFORE`` decisions before the change on."""

    shortfall: Floats
    decisions: Floats
    changes: int


class Regained(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    changes: int
    before: float
    """Utility per request, as the next."""
    lost: Estimate
    decisions: Estimate
    """Until 90 % of it was regained; ``AFTER`` where that had not happened till then."""
    curve: tuple[float, ...]
    """Mean shortfall by bin, as measured."""


def changes(steps: Ints, best: Ints, failure: Floats) -> list[Change]:
    """When a class was struck.

    Parameters
    ----------
    steps, best
        [n] of each decision of the class: its step, counted from the first row of ``failure``, and the row of the offer
        that the oracle chose (-1: none).
    failure
        [steps, offers], the truth.
    """
    found: list[Change] = []
    jumps = np.diff(failure, axis=0)
    for step in (np.flatnonzero((np.abs(jumps) >= JUMP).any(axis=1)) + 1).tolist():
        at = int(np.searchsorted(steps, step))
        if at < NEIGHBOURS or at + NEIGHBOURS > len(steps):
            continue
        earlier, later = _mostly(best[at - NEIGHBOURS : at]), _mostly(best[at : at + NEIGHBOURS])
        if earlier == later or earlier < 0 or later < 0:
            continue
        worse = bool(jumps[step - 1, earlier] >= JUMP)
        if worse or jumps[step - 1, later] <= -JUMP:
            found.append(Change(at, step, worse))
    return found


def curves(struck: Sequence[tuple[list[Change], Floats]], *, worse: bool, from_step: int = 0) -> Curves:
    """Sums over the changes of one world.

    ``struck`` has, for each class, its changes and the shortfall [n] of its decisions; only those for the worse count,
    or only the others, and only from ``from_step`` on, but all of them end what came before.
    """
    total, count, taken = np.zeros(BINS), np.zeros(BINS), 0
    for found, shortfall in struck:
        edges = [0, *(change.at for change in found), len(shortfall)]
        for place, change in enumerate(found, 1):
            if change.worse is not worse or change.step < from_step:
                continue
            start = min(max(edges[place - 1] + CALM, change.at - BEFORE), change.at)
            end = min(edges[place + 1], change.at + AFTER)
            bins = (np.arange(start, end) - change.at + BEFORE) // BIN
            total += np.bincount(bins, shortfall[start:end], BINS)
            count += np.bincount(bins, minlength=BINS)
            taken += 1
    return Curves(total, count, taken)


def regained(worlds: Sequence[Curves], *, seed: int) -> Regained:
    """How many decisions it takes, over all changes in ``worlds``; ``seed`` resamples them.

    Raises ValueError where there was no change at all.
    """
    taken = sum(world.changes for world in worlds)
    if not taken:
        raise ValueError("no class was struck in any of these worlds: take more worlds, or longer ones")
    columns = np.array([np.concatenate([world.shortfall, world.decisions]) for world in worlds])
    resampling = Resampling(len(worlds), seed=seed, resamples=RESAMPLES)
    sums = columns.mean(axis=0)
    return Regained(
        changes=taken,
        before=float(_level(sums, 0, _ZERO)),
        lost=resampling.estimate(columns, _lost),
        decisions=resampling.estimate(columns, _until),
        curve=tuple(_curve(sums).tolist()),
    )


def _level(sums: Floats, start: int, end: int) -> Floats:
    """Mean shortfall of the bins ``start`` to ``end``; ``sums`` [..., 2 BINS], shortfall first and decisions next."""
    shortfall, decisions = sums[..., start:end], sums[..., BINS + start : BINS + end]
    level: Floats = shortfall.sum(axis=-1) / decisions.sum(axis=-1)
    return level


def _lost(sums: Floats) -> Floats:
    return _level(sums, _ZERO, _ZERO + RIGHT_AFTER // BIN) - _level(sums, 0, _ZERO)


def _curve(sums: Floats) -> Floats:
    curve: Floats = sums[..., :BINS] / np.maximum(sums[..., BINS:], 1e-12)
    return curve


def _until(sums: Floats) -> Floats:
    """Decisions until the loss is regained; ``AFTER`` where it is not."""
    before, lost = _level(sums, 0, _ZERO), _lost(sums)
    wanted = before + (1 - WANTED) * lost
    found = np.array(
        [
            _first_below(curve[_ZERO:], decisions[_ZERO:], level)
            for curve, decisions, level in zip(
                _curve(sums).reshape(-1, BINS), sums[..., BINS:].reshape(-1, BINS), np.ravel(wanted), strict=True
            )
        ],
        np.float64,
    )
    return found.reshape(before.shape)


def _first_below(curve: Floats, weights: Floats, level: float) -> float:
    """Where the falling curve first reaches ``level``, in decisions from the change to the end of that bin."""
    fitted = falling(curve, weights)
    reached = np.flatnonzero(fitted <= level + 1e-12)
    return float((reached[0] + 1) * BIN) if len(reached) else float(AFTER)


def falling(values: Floats, weights: Floats) -> Floats:
    """The nearest sequence to ``values`` [n] that never rises, in weighted least squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), np.maximum(weights, 1e-12).tolist(), strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] <= pools[-1][0]:
            (first, first_weight, length), (second, second_weight, more) = pools[-2:]
            both = first_weight + second_weight
            pools[-2:] = [((first * first_weight + second * second_weight) / both, both, length + more)]
    return np.repeat([mean for mean, _, _ in pools], [length for _, _, length in pools])


def _mostly(rows: Ints) -> int:
    values, counts = np.unique(rows, return_counts=True)
    return int(values[counts.argmax()])
