"""The rows of all offers, and how they are kept across restarts.

A state is keyed by offer, so that a changed configuration keeps what it can. It holds the rows bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np

from amaru.health import quantile_kernels as q
from amaru.health import row_kernels as r

FORMAT = 1
MAX_STATE_BYTES = 256 * 1024 * 1024
_LAYOUT = (r.N_FIGURES, r.N_TRACKS, r.N_TRACK, q.N_BINS, r.N_MARKS)
_FEWEST = 8
_SHARES = slice(r.REPETITION, r.N_TRACKS)


class Rows:
    """The arrays of ``row_kernels``, and which row is whose. They grow by doubling."""

    __slots__ = ("bins", "figures", "marks", "providers", "slot_of", "tracks")

    def __init__(self, room: int = _FEWEST) -> None:
        self.slot_of: dict[str, int] = {}
        self.providers: list[str] = []
        """By slot."""
        self.figures = np.zeros((room, r.N_FIGURES))
        self.tracks = np.zeros((room, r.N_TRACKS, r.N_TRACK))
        self.bins = np.zeros((room, 2, q.N_BINS))
        self.marks = np.zeros((room, r.N_MARKS), dtype=np.int64)

    @staticmethod
    def of_nothing() -> Rows:
        """One row, of which nothing is known."""
        rows = Rows(1)
        rows.begin(0)
        return rows

    def begin(self, slot: int) -> None:
        """Forget what is known."""
        r.begin(slot, self.figures, self.tracks, self.bins, self.marks)

    def add(self, offer: str) -> int:
        """A slot for one more offer."""
        slot = len(self.providers)
        if slot == len(self.figures):
            more = self.room_for(2 * slot)
            self.figures, self.tracks, self.bins, self.marks = more.figures, more.tracks, more.bins, more.marks
        self.slot_of[offer] = slot
        self.providers.append("")
        self.begin(slot)
        return slot

    def room_for(self, room: int) -> Rows:
        """The same rows in larger arrays."""
        more = Rows(room)
        for name in ("figures", "tracks", "bins", "marks"):
            held = getattr(self, name)
            getattr(more, name)[: len(held)] = held
        return more

    def only(self, offers: Sequence[str]) -> Rows:
        """The rows of these, in this order."""
        less = Rows(max(len(offers), _FEWEST))
        for offer in offers:
            slot, old = less.add(offer), self.slot_of[offer]
            less.providers[slot] = self.providers[old]
            less.figures[slot], less.tracks[slot] = self.figures[old], self.tracks[old]
            less.bins[slot], less.marks[slot] = self.bins[old], self.marks[old]
        return less

    def merged_bins(self, slots: Sequence[int]) -> r.Floats:
        """float64 [1, 2, N_BINS]: the histograms of these slots together, each as of its own last observation."""
        ages = (self.figures[slots, r.OWN_S] - self.figures[slots, r.LANDMARK_S]) / q.HALF_LIFE_S
        merged: r.Floats = (self.bins[slots] * np.exp2(-ages)[:, None, None]).sum(axis=0, keepdims=True)
        return merged


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    offer: str
    provider: str
    figures: bytes
    """float64, little-endian, as the next two; marks are int64."""
    tracks: bytes
    bins: bytes
    marks: bytes


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    layout: tuple[int, ...]
    kinds: tuple[str, ...]
    rows: list[_Row]


class _Version(msgspec.Struct, frozen=True):
    format: int


def packed(rows: Rows, kinds: tuple[str, ...]) -> bytes:
    """All rows; ``kinds`` names those of failures."""
    stored = [
        _Row(
            offer,
            rows.providers[slot],
            rows.figures[slot].astype("<f8").tobytes(),
            rows.tracks[slot].astype("<f8").tobytes(),
            rows.bins[slot].astype("<f8").tobytes(),
            rows.marks[slot].astype("<i8").tobytes(),
        )
        for offer, slot in rows.slot_of.items()
    ]
    return zlib.compress(msgspec.msgpack.encode(_State(FORMAT, _LAYOUT, kinds, stored)), 1)


def unpacked(state: bytes, kinds: tuple[str, ...]) -> Rows:
    """The rows of a state.

    Raises
    ------
    ValueError
        It is no state, damaged, or of another version.
    """
    data = _inflated(state)
    try:
        version = msgspec.msgpack.decode(data, type=_Version)
        if version.format != FORMAT:
            raise ValueError(f"the state of health has format {version.format}; this version of amaru reads {FORMAT}")
        stored = msgspec.msgpack.decode(data, type=_State)
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is no state of health: {error}") from None
    if stored.layout != _LAYOUT or stored.kinds != kinds:
        raise ValueError("the state of health is of another version of amaru: its figures are not those of this one")
    rows = Rows(max(len(stored.rows), _FEWEST))
    for row in stored.rows:
        if row.offer in rows.slot_of:
            raise ValueError(f"the state of health names the offer {row.offer[:80]!r} twice")
        slot = rows.add(row.offer)
        rows.providers[slot] = row.provider
        rows.figures[slot] = _array(row.figures, rows.figures[slot])
        rows.tracks[slot] = _array(row.tracks, rows.tracks[slot])
        rows.bins[slot] = _array(row.bins, rows.bins[slot])
        rows.marks[slot] = _array(row.marks, rows.marks[slot], "<i8")
        wrong = _wrong(rows, slot)
        if wrong:
            raise ValueError(f"the state of health of {row.offer[:80]!r} is damaged: {wrong}")
    return rows


def _array(data: bytes, like: np.ndarray, dtype: str = "<f8") -> np.ndarray:
    if len(data) != 8 * like.size:
        raise ValueError("the state of health is damaged: a row is cut short")
    return np.frombuffer(data, dtype=dtype).reshape(like.shape)


def _wrong(rows: Rows, slot: int) -> str | None:
    """What no run of observations leads to, and would lead to figures out of range."""
    figures, tracks, bins = rows.figures[slot], rows.tracks[slot], rows.bins[slot]
    instants = figures[: r.N_INSTANTS]
    if np.isnan(instants).any() or (instants > r.MOST_AT).any():
        return "an instant is none"
    rest = figures[r.N_INSTANTS :]
    if not np.isfinite(rest).all() or not np.isfinite(tracks).all() or not np.isfinite(bins).all():
        return "a figure is not finite"
    weights = tracks[:, [r.R_WEIGHT, r.U_WEIGHT, r.U_SUM, r.T_WEIGHT, r.T_WEIGHT_MID, r.T_SQUARES]]
    if rest.min() < 0.0 or bins.min() < 0.0 or weights.min() < 0.0:
        return "a figure is negative"
    if figures[[r.REACHED, r.COHERENCE, r.FAILURE_PROBABILITY]].max() > 1.0 or figures[r.RING] > r.N_TEXTS:
        return "a share is larger than 1"
    means = tracks[_SHARES][:, [r.R_MEAN, r.U_MEAN]]
    if means.min() < -1e-9 or means.max() > 1.0 + 1e-9:
        return "a share is not between 0 and 1"
    return None


def _inflated(state: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        inflated = decompressor.decompress(state, MAX_STATE_BYTES)
    except zlib.error as error:
        raise ValueError(f"this is no state of health: {error}") from None
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise ValueError("this is no state of health: it is too large, or cut short")
    return inflated
