"""Streaming anomaly scores for one signal, or several that belong together.

A row is anomalous where the last few rows, taken together, are like nothing in memory: neither at any time, nor at this
time of day. How unlike is a distance to the nearest neighbours among windows of the past; how rare such a distance is
with this very stream is its probability, in the manner of conformal prediction (Burnaev and Ishimtsev, *Conformalized
density- and distance-based anomaly detection in time-series data*, 2016). No model of the signal is fitted, so none can
be wrong. ``docs/explanation/anomaly.md`` has the method and what it is worth on a public benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from amaru.stability import anomaly_kernels as k

VERSION = 2
"""Of the state; another one is refused."""
ALARM = 0.5
"""A score from here on is an alarm."""


class AnomalySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as unlike, and as rare.

    The defaults were tuned on the Numenta benchmark's artificial series and on those of AWS, and on nothing else.

    Raises
    ------
    ValueError
        A figure is out of its range; the message names it.
    """

    dimension: int = 1
    """Signals that are compared together, each in its own standard deviations."""
    memory: int = 4096
    """Rows that are compared with: two weeks of one every five minutes. A row costs about 2 ns for each, and length."""
    half_lives: tuple[float, ...] = (1.0, 3.0, 8.0)
    """Lengths of the windows that are compared: rows in which a difference loses half its weight."""
    season_s: float = 86_400.0
    """Where instants are given, the past at the same time of this season is compared with apart."""
    season_within_s: float = 3_600.0
    """What counts as the same time."""
    season_share: float = 0.03
    """Weight of that comparison in the probability."""
    forget_rows: float = 8192.0
    """Half-life of what is known of how far apart windows usually are."""
    alarm_probability: float = 10.0**-1.65
    """A row this improbable scores ``ALARM`` after a thousand rows. Rows are improbable in runs: with calm signals far
    fewer runs begin."""
    alarm_fall: float = 0.5
    """With this power of the rows so far (from 100 to ``forget_rows``) that probability falls: each row is one more
    chance of something rare."""
    rest_rows: int = 150
    """Rows after an alarm in which only what is clearly more surprising scores; 0: none."""
    rest_share: float = 0.05
    """The same as a share of all rows so far, where that is less."""
    rest_margin: float = 1.0
    """Powers of ten by which something is clearly less probable than what the last alarm was about."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("dimension", 1, 256),
            ("memory", 64, 1_048_576),
            ("season_s", 1.0, 1e9),
            ("season_within_s", 0.0, self.season_s / 2),
            ("season_share", 0.0, 0.99),
            ("forget_rows", 64.0, 1e9),
            ("alarm_probability", 1e-12, 0.5),
            ("alarm_fall", 0.0, 2.0),
            ("rest_rows", 0, 1_000_000),
            ("rest_share", 0.0, 1.0),
            ("rest_margin", 0.0, 100.0),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)} is not between {least:,} and {most:,}")
        if not self.half_lives or not all(0.5 <= half_life <= self.memory / 16 for half_life in self.half_lives):
            raise ValueError(f"half_lives: {self.half_lives} are not all between 0.5 and {self.memory / 16:g} rows")


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    settings: AnomalySettings
    arrays: tuple[bytes, ...]


class AnomalyScorer:
    """Scores each row as it comes, from the rows before it and nothing else. Constant memory.

    Examples
    --------
    >>> scorer = AnomalyScorer(AnomalySettings(memory=512))
    >>> calm = [scorer.score(row % 7) for row in range(400)]
    >>> max(calm) < ALARM <= scorer.score(40.0)
    True
    """

    def __init__(self, settings: AnomalySettings | None = None) -> None:
        self.settings = settings = settings or AnomalySettings()
        scales = len(settings.half_lives)
        self._x = np.empty(settings.dimension)
        self._half_lives = np.array(settings.half_lives)
        self._gaps = np.zeros(settings.memory)
        self._mates = np.zeros(settings.memory, dtype=np.int64)
        self._knobs = _knobs(settings)
        self._values = np.zeros((settings.memory, settings.dimension))
        self._clock = np.zeros(settings.memory)
        self._apart = np.zeros((scales, settings.memory))
        self._tails = np.zeros((2 * scales, k.N_TAIL))
        self._tails[:, k.UNIT] = math.nan
        self._tails[:, k.NEW] = 1.0
        self._signals = np.zeros((settings.dimension, k.N_SIGNAL))
        self._whole = np.zeros(k.N_WHOLE)
        self._whole[k.FIRST_AT] = math.nan
        self._whole[k.ALARM_ROW] = -math.inf

    @property
    def surprise(self) -> float:
        """-log10 of the last row's probability, ≥ 0, whatever was alarmed about before: how unusual now is."""
        return float(self._whole[k.SURPRISE])

    def score(self, value: float | Sequence[float | None] | None, at: float | None = None) -> float:
        """Score a row, and take it in.

        Parameters
        ----------
        value
            The signal, or one value per signal. ``None``, NaN and infinities are missing; a row in which all is
            missing scores 0 and is not remembered.
        at
            Unix seconds. Without, no season is compared with.

        Returns
        -------
        float
            In [0, 1), high is anomalous; an alarm from ``ALARM`` on. It is news: while an anomaly that was alarmed
            about goes on, it is 0 again. ``surprise`` says how unusual it still is.

        Raises
        ------
        ValueError
            There are not as many values as signals; the scorer is as it was.
        """
        row = value if isinstance(value, Sequence) else (value,)
        if len(row) != self.settings.dimension:
            raise ValueError(f"{len(row)} values for a scorer of {self.settings.dimension} signals")
        self._x[:] = [_number(one) for one in row]
        if np.isnan(self._x).all():
            return 0.0
        score: float = k.step(
            self._x,
            _number(at),
            self._values,
            self._clock,
            self._apart,
            self._gaps,
            self._mates,
            self._half_lives,
            self._tails,
            self._signals,
            self._whole,
            self._knobs,
        )
        return score

    def state(self) -> bytes:
        """Everything, for ``load``: a scorer that loads it goes on exactly as this one would."""
        arrays = tuple(array.astype("<f8").tobytes() for array in self._arrays())
        return msgspec.msgpack.encode(_Saved(version=VERSION, settings=self.settings, arrays=arrays))

    def load(self, state: bytes) -> None:
        """Go on from a ``state()`` of a scorer with the same settings.

        Raises
        ------
        ValueError
            It is damaged, of another version, or of other settings; the scorer is as it was.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"no state of an anomaly scorer: {error}") from None
        if saved.version != VERSION:
            raise ValueError(f"an anomaly scorer's state of version {saved.version}, and this reads {VERSION}")
        if saved.settings != self.settings:
            raise ValueError("the state is of an anomaly scorer with other settings")
        arrays = self._arrays()
        if [len(stored) for stored in saved.arrays] != [8 * array.size for array in arrays]:
            raise ValueError("no state of an anomaly scorer: its arrays have other sizes")
        stored = [np.frombuffer(data, dtype="<f8") for data in saved.arrays]
        whole, tails = stored[-1], stored[-2].reshape(self._tails.shape)
        if not (
            0 <= whole[k.SLOT] < self.settings.memory
            and whole[k.ROWS] >= whole[k.SLOT]
            and (tails[:, k.TOP] >= 0).all()
            and (tails[:, k.TOP] < k.BINS).all()
        ):
            raise ValueError("no state of an anomaly scorer: its figures contradict each other")
        for array, values in zip(arrays, stored, strict=True):
            array[:] = values.reshape(array.shape)

    def _arrays(self) -> tuple[npt.NDArray[np.float64], ...]:
        return self._values, self._clock, self._apart, self._signals, self._tails, self._whole


def _number(value: float | None) -> float:
    """A finite number, no larger than its square can be kept; or NaN."""
    if value is None or not math.isfinite(value):
        return math.nan
    return min(max(float(value), -k.HUGE), k.HUGE)


def _knobs(settings: AnomalySettings) -> npt.NDArray[np.float64]:
    knobs = np.zeros(k.N_KNOBS)
    knobs[k.SEASON_S] = settings.season_s
    knobs[k.SEASON_WITHIN_S] = settings.season_within_s
    knobs[k.SEASON_SHARE] = settings.season_share
    knobs[k.ALARM_FROM] = -math.log10(settings.alarm_probability)
    knobs[k.ALARM_FALL] = settings.alarm_fall
    knobs[k.REST_ROWS] = settings.rest_rows
    knobs[k.REST_SHARE] = settings.rest_share
    knobs[k.REST_MARGIN] = settings.rest_margin
    knobs[k.FORGET_ROWS] = settings.forget_rows
    knobs[k.GROWTH] = 2.0 ** (1.0 / settings.forget_rows)
    return knobs
