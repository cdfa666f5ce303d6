"""What a stability field is made with, and what it reads."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

MAX_DIMENSION = 4096
"""Signals of one field: a step takes under a microsecond each."""


class FieldWeights(msgspec.Struct, frozen=True, kw_only=True):
    """How much each figure counts in Ψ. What steadies counts for it, what unsettles against it."""

    M: float = 1.0
    C: float = 0.8
    U: float = 0.6
    Phi: float = 0.6
    """For Ψ where the signals are rewards, against it where they are latencies."""
    H: float = 0.7
    PE: float = 0.7

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            weight = getattr(self, name)
            if not 0.0 <= weight <= 100.0:
                raise ValueError(f"weight {name}: {weight} is not between 0 and 100")


class FieldSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A field's dimension, its memory, and how its figures make one.

    Raises
    ------
    ValueError
        A figure is out of its range; the message names it.
    """

    dimension: int
    """Signals, at most ``MAX_DIMENSION``."""
    kind: Literal["rewards", "latencies"] = "latencies"
    """Rewards that move together are stable; latencies and errors that do are resonance."""
    step_s: float = 15.0
    """Time between two steps, as long as nothing else is known of it."""
    half_life_steps: float = 240.0
    """Of what is learned of a signal: its location, scale, and noise."""
    past_steps: float = 12.0
    """Weight of the past that C compares with, in steps."""
    horizon_steps: float = 32.0
    """Weight of the past that U is of."""
    order_steps: float = 64.0
    """Weight of the past that H is of."""
    phase_steps: float = 16.0
    """Weight of the past that Φ is averaged over."""
    calm_steps: int = 8192
    """Steps that PE's probabilities are counted over."""
    weights: FieldWeights = FieldWeights()
    bias: float | Literal["auto"] = "auto"
    """Subtracted from the weighted sum; ``"auto"``: so that a calm signal reads 0.8."""

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension: {self.dimension} is not between 1 and {MAX_DIMENSION}")
        if not (0.0 < self.step_s <= 86_400.0):
            raise ValueError(f"step_s: {self.step_s} is not between 0 and 86400 seconds")
        for name in (
            "half_life_steps",
            "past_steps",
            "horizon_steps",
            "order_steps",
            "phase_steps",
        ):
            steps = getattr(self, name)
            if not 2.0 <= steps <= 1e6:
                raise ValueError(f"{name}: {steps} is not between 2 and 1,000,000")
        if not 512 <= self.calm_steps <= 131_072:
            raise ValueError(f"calm_steps: {self.calm_steps} is not between 512 and 131,072")
        if self.bias != "auto" and not math.isfinite(self.bias):
            raise ValueError("bias: neither a finite number nor 'auto'")


class FieldReading(msgspec.Struct, frozen=True, gc=False):
    """One step's figures; none is ever NaN or infinite."""

    PE: float
    """Prediction error, ≥ 0: above 0.7 on 1 % of the steps of a stationary series, above 1.5 on 0.01 %."""
    C: float
    """Continuity, in [0, 1]: 1 is as in the recent past."""
    U: float
    """Futurity, in [0, 1]: share of the signals' variance that a forecast explains."""
    Phi: float
    """Phase coherence, in [0, 1]: 1 is moving as one."""
    H: float
    """Temporal entropy, in [0, 1]: 1 is disorder."""
    M: float
    """Memory, in [0, 1]: share of the history in use."""
    dt_eff: float
    """Seconds until the next step should be taken: the usual time, or less while surprised."""
    Psi: float
    """Stability of the whole, in (0, 1): a calm signal reads about 0.8."""
    surprises: tuple[float, ...]
    """Each signal's own share in PE: its innovation in standard deviations of a normal one, ≥ 0."""
    step: int
    """1 for the first."""
    at: float | None
    """Unix seconds, where they were given."""
