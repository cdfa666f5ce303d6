"""What machines hand each other through Redis, as bytes; what others wrote there is checked before it is used.

- ``PREFIX:sharing:words``: a stream of ``Said``; the time of each is Redis' own, since machines' clocks differ.
- ``PREFIX:sharing:machines`` and ``…:machine:RUN``: which machines live, and what each measured.
- ``PREFIX:sharing:origins`` and ``…:learned:ORIGIN``: what each origin learned (``routing.evidence``).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from amaru.routing.evidence import Evidence, SlotSums, arrays_of
from amaru.routing.hearsay import Average, Word
from amaru.routing.mind import offer_of

FORMAT = 1
MOST_BYTES = 8 * 1024 * 1024
"""Of one value; a larger one is not looked at."""
AHEAD_S = 60.0
"""Outcomes from further in the future than this would make all others fade: they are junk."""


class Said(msgspec.Struct, frozen=True):
    """What one machine had to say."""

    machine: str
    words: list[Word]


class Measured(msgspec.Struct, frozen=True):
    """What one machine measured, by offer."""

    averages: dict[str, tuple[Average | None, ...]]
    """Latencies: see ``Hearsay.averages``."""
    doubts: dict[str, float] = {}
    """How far its answers are doubted, more than 0 and at most 1: see ``health.sense``."""


class Learned(msgspec.Struct, frozen=True):
    """What one origin learned. Instants are Redis'; offers have the names that all machines know them by."""

    format: int
    evidence: Evidence


encode = msgspec.msgpack.Encoder().encode
decode_said = msgspec.msgpack.Decoder(Said).decode
decode_measured = msgspec.msgpack.Decoder(Measured).decode
_decode_learned = msgspec.msgpack.Decoder(Learned).decode


def learned_of(evidence: Evidence, names: Mapping[str, str], ahead_s: float) -> bytes:
    """To be sent; ``names`` are those of the offers' ids, ``ahead_s`` is what Redis' clock is ahead of this one."""
    return encode(Learned(FORMAT, _renamed(evidence, names, ahead_s)))


def evidence_of(data: bytes, origin: str, ids: Mapping[str, str], ahead_s: float, now: float) -> Evidence:
    """What that origin learned of the offers that this machine has too, by its own ids and clock.

    Raises ValueError where it is no such thing, or cannot be true.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    try:
        learned = _decode_learned(data)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    evidence = learned.evidence
    if learned.format != FORMAT:
        raise ValueError(f"its format is {learned.format}; this version of amaru reads {FORMAT}")
    if evidence.origin != origin or evidence.outcomes < 0:
        raise ValueError("it is not what it says it is")
    ours = _renamed(evidence, ids, -ahead_s)
    at, _ = arrays_of(ours.slots.values())
    if (at > now + AHEAD_S).any():
        raise ValueError("it has outcomes from the future")
    return ours


def _renamed(evidence: Evidence, names: Mapping[str, str], later_s: float) -> Evidence:
    slots: dict[str, SlotSums] = {}
    for key, slot in evidence.slots.items():
        offer = offer_of(key)
        if offer is not None:
            if offer not in names:
                continue
            key = f"{key[: len(key) - len(offer)]}{names[offer]}"  # noqa: PLW2901 - the same slot by another name
        slots[key] = slot if later_s == 0.0 else SlotSums(slot.at + later_s, slot.sums)
    return msgspec.structs.replace(evidence, slots=slots)
