"""What is known of changes and patterns, kept across restarts.

Kept by offer, so that a changed configuration keeps what it can: what is usual of each signal, alarms that are on, the
shapes that answers have, and the patterns that go on. What providers share is watched anew.
"""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from amaru.health import change_kernels as k
from amaru.health.changes import Changes
from amaru.health.pattern_types import InfrastructurePattern
from amaru.routing.kernels import Floats

FORMAT = 2
MAX_STATE_BYTES = 64 * 1024 * 1024
_SHAPE = (k.N_SIGNALS, k.N_COLUMNS)


class Going(msgspec.Struct):
    """A pattern of one provider that goes on."""

    pattern: InfrastructurePattern
    parts: set[tuple[str, int]]
    """Offers and signals that are changed still."""
    because: str = ""
    """Why a part of it ended without having been as before again, in words."""


class _Offer(msgspec.Struct, array_like=True):
    offer: str
    figures: bytes
    """float64, little-endian, [N_SIGNALS, N_COLUMNS]."""
    shapes: dict[int, float]


class PatternState(msgspec.Struct):
    """Everything that is kept."""

    format: int
    layout: tuple[int, int]
    offers: list[_Offer]
    going: list[Going]
    joint: list[InfrastructurePattern]


class _Version(msgspec.Struct):
    format: int


def packed(changes: Changes, going: list[Going], joint: list[InfrastructurePattern]) -> bytes:
    """All that is kept."""
    offers = [
        _Offer(offer, changes.row(row).astype("<f8").tobytes(), changes.looks(row).shapes)
        for row, offer in enumerate(changes.offers)
    ]
    return zlib.compress(msgspec.msgpack.encode(PatternState(FORMAT, _SHAPE, offers, going, joint)), 1)


def unpacked(state: bytes) -> tuple[PatternState, dict[str, tuple[Floats, dict[int, float]]]]:
    """The patterns of a state, and what it knows of each offer.

    Raises
    ------
    ValueError
        It is no state, damaged, or of another version.
    """
    inflating = zlib.decompressobj()
    try:
        data = inflating.decompress(state, MAX_STATE_BYTES)
        version = msgspec.msgpack.decode(data, type=_Version)
        if version.format != FORMAT:
            raise ValueError(f"the state of patterns has format {version.format}; this version reads {FORMAT}")
        stored = msgspec.msgpack.decode(data, type=PatternState)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"this is no state of patterns: {error}") from None
    if stored.layout != _SHAPE:
        raise ValueError("the state of patterns is of another version of amaru: its figures are not those of this one")
    known = {}
    for one in stored.offers:
        figures = np.frombuffer(one.figures, dtype="<f8").astype(np.float64) if len(one.figures) % 8 == 0 else None
        if figures is None or figures.size != _SHAPE[0] * _SHAPE[1]:
            raise ValueError("the state of patterns is damaged: a row is cut short")
        figures = figures.reshape(_SHAPE)
        rest = np.delete(figures, k.ALARM, axis=1)
        if not (np.isfinite(rest).all() and not np.isinf(figures).any() and (figures[:, k.BEFORE :] >= 0.0).all()):
            raise ValueError(f"the state of patterns of {one.offer[:80]!r} is damaged: figures that cannot be")
        known[one.offer] = (figures, one.shapes)
    return stored, known
