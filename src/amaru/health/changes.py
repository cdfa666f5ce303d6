"""What changed at which offer: turns attempts into signals, and hands them to the compiled detectors."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.health import change_kernels as k
from amaru.health.observation import Observation, Sample, Verdict, is_suspect, verdict_on
from amaru.health.pattern_types import SIGNALS, PatternSettings
from amaru.routing.kernels import Floats
from amaru.routing.reactions import Health, reaction_to

BROKEN = frozenset(kind for kind in FailureKind if reaction_to(Failure(kind, "")).health is Health.BROKEN)

USUAL_STATUSES = frozenset({400, 401, 402, 403, 404, 408, 409, 413, 425, 429, *range(500, 600)} - {501, 505})
"""That a provider may answer any day. Others, where an offer has not always had them, speak of a changed API."""
REPEATED = 0.5
"""From this share of repeated 4-grams on, an answer repeats itself beyond what lists and tables do."""
_MOST_SHAPES = 64
_MOST_REFUSED = 64
_LONG_CHARS = 40
"""Shorter answers may well be the same to different prompts."""
_RISES = {"errors": 0.1, "coherence": 0.2, "shape": 0.2, "novelty": 0.5, "refused": 0.5, "repetition": 0.15}
"""How much a signal must have risen for a change to matter; of times, see ``PatternSettings.least_slowdown``."""

_NAN = math.nan


class Alarm(msgspec.Struct, frozen=True):
    """One signal of one offer that changed."""

    row: int
    signal: int
    since: float
    evidence: float
    """Natural logarithm of the Shiryaev-Roberts statistic, at most since the alarm: seconds of calm that would bring
    this much."""
    level: float
    """Lately, above what is usual: of times the logarithm of the ratio, else a share."""
    recovered: bool


class Looks:
    """What answers of one offer usually look like: their shapes, and the latest texts. Bounded."""

    __slots__ = ("_refused", "_seen", "_texts", "missing", "refusal", "shapes", "status")

    def __init__(self) -> None:
        self.shapes: dict[int, float] = {}
        """Answers of each."""
        self._seen = 0.0
        self._texts: deque[tuple[int, int]] = deque(maxlen=8)
        self._refused: deque[int] = deque(maxlen=_MOST_REFUSED)
        self.refusal: int | None = None
        """Status of the last refusal that was said to be the caller's fault."""
        self.missing: tuple[str, ...] = ()
        """Of the last answer that lacked any."""
        self.status: int | None = None
        """The last strange status; ``None``: malformed bodies or missing fields came later."""

    def novel(self, shape: int) -> bool:
        """Whether answers rarely had this shape; it is counted from now on."""
        if self._seen > 2000.0:
            self.shapes = {known: 0.5 * count for known, count in self.shapes.items() if count > 1.0}
            self._seen = sum(self.shapes.values())
        count = self.shapes.get(shape, 0.0)
        if count or len(self.shapes) < _MOST_SHAPES:
            self.shapes[shape] = count + 1.0
        novel = self._seen >= 30.0 and count < 0.02 * self._seen
        self._seen += 1.0
        return novel

    def know(self, shapes: Mapping[int, float]) -> None:
        """These shapes were seen so often."""
        self.shapes = dict(list(shapes.items())[:_MOST_SHAPES])
        self._seen = sum(self.shapes.values())

    def refused(self, prompt: int, status: int | None) -> bool:
        """Whether another prompt than those before was refused: who asks for the same again says nothing new."""
        if prompt == 0 or prompt in self._refused:
            return False
        self._refused.append(prompt)
        self.refusal = status
        return True

    def odd(self, sample: Sample, chars: int) -> bool:
        """Whether the text makes no sense: empty, repeating itself, or what another prompt was answered lately."""
        if sample.empty or sample.repetition >= REPEATED:
            return True
        if sample.digest == 0 or sample.prompt == 0 or chars < _LONG_CHARS:
            return False
        text, prompt, again = sample.digest, sample.prompt, False
        for before, asked in self._texts:
            if before == text and asked != prompt:
                again = True
        self._texts.append((text, prompt))
        return again


class Changes:
    """Detectors of every offer.

    Parameters
    ----------
    settings
        The budget of false alarms, and what matters.
    offers
        Ids, whose places in it are the rows.
    """

    def __init__(self, settings: PatternSettings, offers: Sequence[str]) -> None:
        self._settings = settings
        self.offers: tuple[str, ...] = ()
        self._rows: dict[str, int] = {}
        self._c: Floats = np.zeros((0, k.N_SIGNALS, k.N_COLUMNS))
        self._looks: list[Looks] = []
        slower = math.log(settings.least_slowdown)
        self._least: Floats = np.array([_RISES.get(name, slower) for name in SIGNALS])
        self._log_a = math.inf
        self.set_offers(offers)

    def set_offers(self, offers: Sequence[str]) -> None:
        """From now on these offers are watched; what is known of those that stay is kept."""
        c = np.zeros((len(offers), k.N_SIGNALS, k.N_COLUMNS))
        c[:, :, k.ALARM] = _NAN
        looks = [Looks() for _ in offers]
        for row, offer in enumerate(offers):
            before = self._rows.get(offer)
            if before is not None:
                c[row], looks[row] = self._c[before], self._looks[before]
        self._c, self._looks, self.offers = c, looks, tuple(offers)
        self._rows = {offer: row for row, offer in enumerate(offers)}
        streams = max(len(offers), 1) * k.N_SIGNALS
        self._log_a = math.log(86400.0 * streams / self._settings.false_alarms_per_day)

    @property
    def threshold(self) -> float:
        """Natural logarithm of the evidence at which an alarm begins: mean seconds between false ones of one signal."""
        return self._log_a

    def row_of(self, offer: str) -> int | None:
        """The offer's row; ``None``: not watched."""
        return self._rows.get(offer)

    def looks(self, row: int) -> Looks:
        """What its answers look like."""
        return self._looks[row]

    def observe(self, observation: Observation, row: int) -> float:
        """Take in one attempt; NaN: it says nothing of trouble, else 1 where it failed or was very slow, else 0."""
        at, ok, failure, status, sample = (
            observation.at, observation.ok, observation.failure, observation.status, observation.sample,
        )  # fmt: skip
        if not math.isfinite(at):
            return _NAN
        latency_ms = first_ms = 0.0
        error = shape = odd = repetition = novelty = refused = _NAN
        strange = callers = False
        if ok:
            error = refused = 0.0
            if not observation.probe and (sample is None or not sample.empty):  # no words take no time
                latency_ms = observation.latency_ms
                if observation.stream and observation.first_token_ms is not None:
                    first_ms = observation.first_token_ms
            if sample is not None:
                looks = self._looks[row]
                if sample.missing:  # what it would say is missing too: no text is no wonder
                    shape = 1.0
                    looks.status, looks.missing = None, sample.missing
                else:
                    shape, repetition = 0.0, sample.repetition
                    odd = 1.0 if looks.odd(sample, observation.output_chars) else 0.0
                    if sample.shape and not observation.probe:
                        novelty = 1.0 if looks.novel(sample.shape) else 0.0
        else:
            strange = status is not None and status >= 300 and status not in USUAL_STATUSES
            verdict = verdict_on(False, failure)
            callers = verdict is Verdict.NONE and not strange
            if callers and failure is FailureKind.BAD_REQUEST and self._looks[row].refused(observation.prompt, status):
                refused = 1.0
            if verdict is Verdict.THROTTLED or (callers and refused != 1.0):
                return _NAN
            suspect = failure is not None and is_suspect(failure)
            if not callers:
                shape, error = (1.0, 0.0) if suspect or strange else (_NAN, 1.0)
            if strange:
                self._looks[row].status = status
            elif suspect:
                self._looks[row].status, self._looks[row].missing = None, ()
        tokens = observation.output_tokens
        slow = k.observe(
            row, at, latency_ms, observation.output_chars / 4.0 if tokens is None else float(tokens), first_ms,
            float(observation.input_tokens), min(max(observation.load, 0.0), 1.0),
            repetition, error, odd, shape, novelty, refused, self._least, self._log_a, self._settings.usual_s, self._c,
        )  # fmt: skip
        if not ok:
            return _NAN if failure in BROKEN or strange or callers else 1.0
        return 1.0 if slow >= k.MOST_Z else 0.0

    def rate(self, row: int, signal: int) -> float:
        """Usual rate of a yes-or-no signal."""
        return k.usual_rate(row, signal, self._c)

    def level(self, row: int, signal: int) -> float:
        """Mean of a signal lately: a share, or of times the rise in their logarithm."""
        c = self._c[row, signal]
        return float(c[k.FAST] if signal >= k.N_CONTINUOUS else c[k.RAW])

    def row(self, row: int) -> Floats:
        """All that is known of one offer, as a view; NaN stands where no alarm is on."""
        view: Floats = self._c[row]
        return view

    def restore(self, row: int, figures: Floats, shapes: Mapping[int, float]) -> None:
        """What ``row`` and ``Looks.shapes`` gave before a restart."""
        self._c[row] = figures
        self._looks[row] = Looks()
        self._looks[row].know(shapes)

    def alarms(self) -> list[Alarm]:
        """Every signal that is changed now, in the order of rows and signals."""
        c = self._c
        return [
            Alarm(
                row=int(row),
                signal=int(signal),
                since=float(c[row, signal, k.ALARM]),
                evidence=float(c[row, signal, k.PEAK]),
                level=self.level(row, signal),
                recovered=bool(c[row, signal, k.OVER] >= self._settings.recovery_evidence),
            )
            for row, signal in np.argwhere(~np.isnan(c[:, :, k.ALARM]))
        ]

    def clear(self, row: int, signal: int) -> None:
        """The alarm is over; what was usual before it is usual again."""
        c = self._c[row, signal]
        c[k.ALARM] = _NAN
        c[k.BEFORE :] = 0.0
        c[k.OVER] = c[k.OVER_BEFORE] = c[k.BLOCK_N] = c[k.BLOCK_SUM] = 0.0

    def settle(self, row: int, signal: int) -> None:
        """What changed stays so: learn anew what is usual."""
        self._c[row, signal] = 0.0
        self._c[row, signal, k.ALARM] = _NAN
