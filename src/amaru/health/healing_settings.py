"""Within which bounds amaru may heal, and what a person forbade."""

from __future__ import annotations

from typing import Literal

import msgspec

from amaru.health.healing import HealingKind

Mode = Literal["act", "advise", "off"]


class HealerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of healing. Times are in seconds."""

    mode: Mode = "act"
    """``act`` pulls levers, ``advise`` only says what it would do, ``off`` does neither. Pins hold in all of them."""
    least_confidence: float = 0.5
    """Of a pattern that is acted upon."""
    most_per_provider: int = 2
    """Healings at one time; pins and what comes back step by step do not count."""
    most_drained: float = 0.5
    """Share of the offers of a resource or alias that may be drained at one time; one always stays."""
    drain_s: float = 40.0
    """Duration of a drain or a weight; then the offer is tried. Doubles where it fails again soon, up to"""
    most_drain_s: float = 300.0
    """this."""
    mask_s: float = 900.0
    """Duration of a healing under which nobody sees whether the trouble is over: ``adapt``, ``alternate``,
    ``non_stream``. Doubles likewise."""
    other_s: float = 300.0
    """Duration of the others. Doubles likewise."""
    most_s: float = 3600.0
    """The longest duration."""
    settle_s: float = 5.0
    """After it began, a healing's effect is measured from here on,"""
    measure_s: float = 30.0
    """for so long."""
    helps: float = 0.03
    """Effect below which another healing is tried while the trouble goes on."""
    cooldown_s: float = 300.0
    """A healing that did not help is not taken again so soon for the same offers."""
    step_s: float = 3.0
    """Length of each step by which an offer comes back that was seen to have recovered."""
    weight: float = 0.4
    """To which an offer is weighed down."""


class Veto(msgspec.Struct, frozen=True, kw_only=True):
    """What a person forbade. What is ``None`` stands for all."""

    kind: HealingKind | None = None
    provider: str | None = None
    pattern: str | None = None
    """Kind of pattern."""
    by: str = "operator"
    at: float = 0.0
    reason: str = ""

    def forbids(self, kind: HealingKind, providers: tuple[str, ...], pattern: str) -> bool:
        """Whether it forbids such a healing."""
        return (
            self.kind in (None, kind)
            and (self.provider is None or self.provider in providers)
            and self.pattern in (None, pattern)
        )


MASKING = frozenset((HealingKind.ADAPT, HealingKind.ALTERNATE, HealingKind.NON_STREAM))
"""Under these the offer looks well whether or not its trouble is over, so a recovery does not end them."""
KEEPING_OUT = frozenset((HealingKind.DRAIN, HealingKind.WEIGHT, HealingKind.OTHER_MODEL))
"""These keep traffic away, so the offer comes back step by step."""
COMING_BACK = KEEPING_OUT | {HealingKind.ALTERNATE, HealingKind.NON_STREAM}
"""After these nobody knows whether the offer is well, so it is put on trial."""
RESTORING = (0.5, 0.75)
"""Weights by which an offer comes back that was seen to have recovered."""


def duration_s(kind: HealingKind, settings: HealerSettings) -> float:
    """How long a healing of that kind lasts at first."""
    if kind is HealingKind.NOTHING:
        return settings.settle_s + settings.measure_s
    if kind in KEEPING_OUT:
        return settings.drain_s
    return settings.mask_s if kind in MASKING else settings.other_s
