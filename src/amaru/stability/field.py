"""The stability field, also called the Ψ-field: one score for the whole of many signals, and its parts.

It is streaming and multivariate: each step takes one vector (agents' rewards in training; providers' latencies and
error rates in the gateway) and updates what is known of each signal in constant time and memory. Signals need no
common unit. What each figure is, and where it comes from: ``docs/explanation/stability.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from amaru.stability import field_kernels as k
from amaru.stability import signal_kernels as s
from amaru.stability import surprise_kernels as rare
from amaru.stability.field_settings import FieldReading, FieldSettings

VERSION = 1
"""Of the state; another one is refused."""


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    settings: FieldSettings
    signals: bytes
    whole: bytes
    past: bytes
    calm: bytes
    reading: FieldReading | None


class StabilityField:
    """A field over ``settings.dimension`` signals.

    Examples
    --------
    >>> field = StabilityField(FieldSettings(dimension=2))
    >>> for _ in range(100):
    ...     reading = field.step([0.2, 410.0])
    >>> reading.U, reading.H  # constants are predictable, and in order
    (1.0, 0.0)
    """

    def __init__(self, settings: FieldSettings) -> None:
        self.settings = settings
        self.reading: FieldReading | None = None
        """The last one."""
        self._knobs = _knobs(settings)
        self._signals = np.zeros((settings.dimension, s.N_COLUMNS))
        self._whole = np.zeros(k.N_WHOLE)
        self._whole[k.AT] = math.nan
        self._whole[k.SPACING_S] = settings.step_s
        self._whole[k.PACE] = 1.0
        self._past = np.zeros(rare.N_PAST)
        self._calm = np.zeros(settings.calm_steps)
        self._ranked = np.zeros(settings.calm_steps)
        self._x = np.empty(settings.dimension)
        self._surprises = np.zeros(settings.dimension)
        self._figures = np.zeros(k.N_FIGURES)

    @property
    def dimension(self) -> int:
        return self.settings.dimension

    def step(self, x: Sequence[float | None], *, at: float | None = None, cut: bool = False) -> FieldReading:
        """Take in one vector and read the field.

        Parameters
        ----------
        x
            One value per signal, always in the same order. ``None``, NaN and infinities are missing; a shorter vector
            lacks its last signals.
        at
            Unix seconds. Without, steps count as equally far apart.
        cut
            Leave out what a longer vector has too many.

        Raises
        ------
        ValueError
            The vector is longer than the dimension; the field is as it was.
        """
        given, dimension = len(x), self.settings.dimension
        if given > dimension:
            if not cut:
                raise ValueError(f"{given} values for a field of {dimension} signals; cut=True leaves out the last")
            x = x[:dimension]
            given = dimension
        try:
            self._x[:given] = x  # None becomes NaN
        except OverflowError:  # an integer that is no float
            self._x[:given] = [_number(value) for value in x]
        self._x[given:] = math.nan
        instant = _number(at)
        k.step(
            self._x,
            instant,
            self._signals,
            self._whole,
            self._past,
            self._calm,
            self._ranked,
            self._knobs,
            self._surprises,
            self._figures,
        )
        pe, c, u, phi, h, m, dt_eff, psi = self._figures.tolist()
        self.reading = FieldReading(
            PE=pe,
            C=c,
            U=u,
            Phi=phi,
            H=h,
            M=m,
            dt_eff=dt_eff,
            Psi=psi,
            surprises=tuple(self._surprises.tolist()),
            step=int(self._whole[k.STEPS]),
            at=None if math.isnan(instant) else instant,
        )
        return self.reading

    def state(self) -> bytes:
        """Everything, for ``load``: a field that loads it reads on exactly as this one would."""
        held = int(self._past[rare.HELD])
        saved = _Saved(
            version=VERSION,
            settings=self.settings,
            signals=_packed(self._signals),
            whole=_packed(self._whole),
            past=_packed(self._past),
            calm=_packed(self._calm[:held]),
            reading=self.reading,
        )
        return msgspec.msgpack.encode(saved)

    def load(self, state: bytes) -> None:
        """Go on from a ``state()`` of a field with the same settings.

        Raises
        ------
        ValueError
            It is damaged, of another version, or of other settings; the field is as it was.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"no state of a stability field: {error}") from None
        if saved.version != VERSION:
            raise ValueError(f"a stability field's state of version {saved.version}, and this reads {VERSION}")
        if saved.settings != self.settings:
            raise ValueError("the state is of a stability field with other settings")
        signals, whole = _unpacked(saved.signals, self._signals.size), _unpacked(saved.whole, k.N_WHOLE)
        past, calm = _unpacked(saved.past, rare.N_PAST), _unpacked(saved.calm, len(saved.calm) // 8)
        held = len(calm)
        known = np.concatenate((signals, np.delete(whole, k.AT), past, calm))
        if not (np.isfinite(known).all() and past[rare.HELD] == held <= len(self._calm) > past[rare.NEXT] >= 0.0):
            raise ValueError("no state of a stability field: its figures contradict each other")
        self._signals[:] = signals.reshape(self._signals.shape)
        self._whole[:] = whole
        self._past[:] = past
        self._calm[:held] = calm
        self._ranked[:held] = np.sort(calm)
        self.reading = saved.reading


def _number(value: float | None) -> float:
    """A finite number, or NaN."""
    if value is None:
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _knobs(settings: FieldSettings) -> npt.NDArray[np.float64]:
    knobs, weights = np.zeros(s.N_KNOBS), settings.weights
    knobs[s.MEMORY] = max(settings.half_life_steps / math.log(2.0), s.FIRST)
    knobs[s.PAST_STEPS] = settings.past_steps
    knobs[s.HORIZON] = settings.horizon_steps
    knobs[s.ORDER_STEPS] = settings.order_steps
    knobs[s.WAVE_STEPS] = settings.phase_steps
    knobs[s.WEIGHT_M] = weights.M
    knobs[s.WEIGHT_C] = weights.C
    knobs[s.WEIGHT_U] = weights.U
    knobs[s.WEIGHT_PHI] = weights.Phi if settings.kind == "rewards" else -weights.Phi
    knobs[s.WEIGHT_H] = weights.H
    knobs[s.WEIGHT_PE] = weights.PE
    knobs[s.BIAS] = math.nan if settings.bias == "auto" else settings.bias
    return knobs


def _packed(values: npt.NDArray[np.float64]) -> bytes:
    return values.astype("<f8").tobytes()


def _unpacked(values: bytes, size: int) -> npt.NDArray[np.float64]:
    if len(values) != 8 * size:
        raise ValueError("no state of a stability field: its arrays have other sizes")
    return np.frombuffer(values, dtype="<f8").astype(np.float64)
