"""How likely an offer is to fail hard within the next minute: at least half of its attempts, sometime in it.

A logistic model over ``features``, monotone by its form: each term rises from 0 to its weight while one feature goes
from one figure to another, and no weight is negative, so an offer that looks worse in any respect is never predicted to
be safer. What comes out is mapped to probabilities by isotonic regression on worlds that the model was not fitted to
(Zadrozny, Elkan, *Transforming classifier scores into accurate multiclass probability estimates*, 2002), joined by
straight lines so that it has no steps.

It was fitted to generated incidents (``incidents``), by the command that ``prediction_table`` names: what it says of
the next minute holds for a mesh where offers fall ill about as often as there, ``OFTEN`` of the time. How well, on
worlds held out, is measured by ``benchmarks/incident_patterns.py``. It says how bad things look rather than how often
providers fail in general: of a healthy offer the figure is small whatever the true one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from amaru.health.features import N_FEATURES, NAMES, OUTCOMES_SLOW
from amaru.health.prediction_table import BIAS, CALIBRATION, OFTEN, TERMS
from amaru.routing.kernels import Floats

WARNS = 0.5
"""From this probability on, a prediction is worth telling as a warning."""
ENOUGH = 20.0
"""Attempts behind a prediction. With fewer it is lowered in proportion: the first attempt of a new offer that fails is
all of its attempts, and no model here was fitted to such offers."""

__all__ = ["ENOUGH", "OFTEN", "WARNS", "Prediction"]


class Prediction:
    """The model.

    Parameters
    ----------
    terms
        Feature, the figures where its effect begins and where it is full, and its weight (not negative), in log-odds.
    bias
        Log-odds of an offer that shows nothing at all.
    calibration
        Log-odds and what they truly mean as a probability, both rising.

    Raises
    ------
    ValueError
        An unknown feature, a negative weight, or a calibration that does not rise.
    """

    __slots__ = ("_bias", "_log_odds", "_probabilities", "_terms")

    def __init__(
        self,
        terms: Sequence[tuple[str, float, float, float]] = TERMS,
        bias: float = BIAS,
        calibration: Sequence[tuple[float, float]] = CALIBRATION,
    ) -> None:
        for name, begins, full, weight in terms:
            if name not in NAMES or begins == full or not weight >= 0.0:
                raise ValueError(f"no term of a prediction: {name} from {begins} to {full} weighs {weight}")
        self._terms = tuple(
            (NAMES.index(name), begins, 1.0 / (full - begins), weight) for name, begins, full, weight in terms
        )
        self._bias = bias
        self._log_odds = [log_odds for log_odds, _ in calibration]
        self._probabilities = [probability for _, probability in calibration]
        rising = self._probabilities == sorted(self._probabilities) and len(set(self._log_odds)) == len(self._log_odds)
        if not (calibration and rising and self._log_odds == sorted(self._log_odds)):
            raise ValueError("a calibration has at least one point, and rises")

    def log_odds(self, features: Floats | Sequence[float]) -> float:
        """Before calibration.

        Raises
        ------
        ValueError
            There are not ``N_FEATURES`` of them.
        """
        row: Sequence[float] = features.tolist() if isinstance(features, np.ndarray) else features
        if len(row) != N_FEATURES:
            raise ValueError(f"{len(row)} features, not {N_FEATURES}")
        total = self._bias
        for column, begins, slope, weight in self._terms:
            share = (row[column] - begins) * slope
            if share > 0.0:
                total += weight if share >= 1.0 else weight * share
        return total

    def predict(self, features: Floats | Sequence[float]) -> float:
        """P(hard failure within the next minute) of an offer with this row of ``features``."""
        probability = self._calibrated(self.log_odds(features))
        return probability * min(max(float(features[OUTCOMES_SLOW]) / ENOUGH, 0.0), 1.0)

    def _calibrated(self, log_odds: float) -> float:
        known, probabilities = self._log_odds, self._probabilities
        above = bisect_right(known, log_odds)
        if above == 0:
            return probabilities[0]
        if above == len(known):
            return probabilities[-1]
        left, right = known[above - 1], known[above]
        part = (log_odds - left) / (right - left)
        return probabilities[above - 1] + part * (probabilities[above] - probabilities[above - 1])
