"""What is known of each offer's health: taken in one observation at a time, in constant memory.

Every figure is defined in ``docs/explanation/health.md``; how it is kept, in the kernels: ``row_kernels`` (rows, time,
what is usual), ``quantile_kernels``, ``coherence_kernels``, ``feature_kernels`` and ``signature_kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import msgspec
import numpy as np

from amaru.domain import FailureKind, Kind
from amaru.health import coherence_kernels as c
from amaru.health import feature_kernels as f
from amaru.health import quantile_kernels as q
from amaru.health import row_kernels as r
from amaru.health import signature_kernels as s
from amaru.health.observation import Observation, Verdict, is_suspect, verdict_on
from amaru.health.signature_state import Rows, packed, unpacked

PARTS = (
    "empty", "same_text", "same_short_text", "repeats_itself", "shape", "finish_reasons", "length", "speed",
)  # fmt: skip
"""Of coherence, in the order of ``coherence_kernels``."""

KINDS = tuple(FailureKind)
_KIND_OF: dict[FailureKind | None, int] = {kind: place for place, kind in enumerate(KINDS)} | {None: len(KINDS)}
_KIND_NAMES = (*(kind.value for kind in KINDS), "other")
_UNREACHED = frozenset((FailureKind.CONNECT, FailureKind.NO_ANSWER, FailureKind.RESET))
_ERROR, _SUCCESS = int(Verdict.ERROR), int(Verdict.SUCCESS)
_OF_FAILURE: dict[FailureKind | None, tuple[int, int, bool, bool]] = {
    kind: (int(verdict_on(False, kind)), place, kind not in _UNREACHED, kind is not None and is_suspect(kind))
    for kind, place in _KIND_OF.items()
}
_OF_SUCCESS = (_SUCCESS, 0, True, False)
_FINISH = {
    "stop": 0, "length": 1, "tool_calls": 2, "function_call": 2, "content_filter": 3, None: 4, "": 4,
}  # fmt: skip
_OTHER_FINISH = 5
_GENERATED = frozenset((Kind.CHAT, Kind.COMPLETION))
_MASK = (1 << 63) - 1
_MOST = 10**12
_CHARS_PER_TOKEN = 4.0
_NAN = math.nan


class SignatureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds."""

    most_offers: int = 4096
    """Rows that are kept; one more replaces the one seen longest ago."""


class AdapterHealthSignature(msgspec.Struct, frozen=True, kw_only=True):
    """The health of an offer, or of a provider over its offers, at one moment.

    Durations are of successful attempts, ``None`` where there was none. Shares and scores are in [0, 1].
    """

    offer: str
    """Empty: of the whole provider."""
    provider: str
    connected: bool
    """The last attempt came through: the provider answered something. False where nothing was ever tried."""
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None
    first_token_p99_ms: float | None
    consecutive_failures: int
    errors: dict[str, int]
    """By kind of failure, since the row was begun; throttling and callers' own faults are none."""
    recent_errors: dict[str, float]
    """The same, faded by half each half hour."""
    error_rate: float
    """Of the last minutes; where they hold few attempts, drawn towards that of the last half hour."""
    throttle_rate: float
    last_success_at: float | None
    """Unix seconds, as the next."""
    last_seen_at: float | None
    coherence: float
    """Answers keep the shape and the distribution they had: 1. Empty, repeated or otherwise odd ones: towards 0."""
    incoherence: dict[str, float]
    """What takes away from coherence: the distance of each part of ``PARTS`` that is not 0."""
    stability: float
    """Steadiness of success and latency."""
    failure_probability: float
    """Of a hard failure within the next minute, as was predicted last; 0 where nothing was."""
    healings: int
    """Taken on it so far."""
    trend: float
    """-1 (getting worse) to 1 (getting better)."""
    outcomes: float
    """Attempts behind the figures, faded by half each half hour."""
    total: int
    """Attempts ever."""


class Signatures:
    """Rows of constant size, one for each offer."""

    __slots__ = ("_rows", "_settings")

    def __init__(self, settings: SignatureSettings | None = None) -> None:
        self._settings = settings or SignatureSettings()
        self._rows = Rows()

    def __len__(self) -> int:
        return len(self._rows.slot_of)

    @property
    def offers(self) -> tuple[str, ...]:
        """Those that something is known of, in order of their first observation."""
        return tuple(self._rows.slot_of)

    @property
    def providers(self) -> tuple[str, ...]:
        """Those of the offers, each once."""
        return tuple(dict.fromkeys(self._rows.providers[slot] for slot in self._rows.slot_of.values()))

    def observe(self, seen: Observation) -> None:
        """Take in one attempt. Observations may come late and in any order; the clock may be set back."""
        rows = self._rows
        slot = rows.slot_of.get(seen.offer)
        if slot is None:
            slot = self._begin(seen.offer)
        if rows.providers[slot] != seen.provider:
            rows.providers[slot] = seen.provider
        verdict, kind, reached, suspect = _OF_SUCCESS if seen.ok else _OF_FAILURE[seen.failure]
        chars = seen.output_chars if seen.output_chars < _MOST else _MOST
        counted = seen.output_tokens
        tokens = max(chars, 0) / _CHARS_PER_TOKEN if counted is None else float(min(max(counted, 0), _MOST))
        sample = seen.sample
        if sample is None:
            empty = float(chars <= 0) if chars > 0 or not counted else _NAN
            sampled, shape, lacking, repetition, text, prompt = False, 0, False, 0.0, 0, 0
        else:
            empty = 1.0 if sample.empty else 0.0
            sampled, shape, lacking = True, sample.shape & _MASK, bool(sample.missing)
            repetition, text, prompt = sample.repetition, sample.digest & _MASK, sample.prompt & _MASK
            if not 0.0 <= repetition <= 1.0:
                repetition = 0.0
        first_ms = seen.first_token_ms
        s.observe(
            slot, seen.at, verdict, kind, reached, suspect, seen.probe, seen.stream,
            seen.kind in _GENERATED and seen.status is not None,
            seen.latency_ms, _NAN if first_ms is None else first_ms, tokens, chars,
            _FINISH.get(seen.finish_reason, _OTHER_FINISH), empty, sampled, shape, lacking, repetition,
            text, prompt, rows.figures, rows.tracks, rows.bins, rows.marks,
        )  # fmt: skip

    def predicted(self, offer: str, probability: float) -> None:
        """Note the probability that it fails within the next minute; an offer without a row is passed over."""
        slot = self._rows.slot_of.get(offer)
        if slot is not None and 0.0 <= probability <= 1.0:
            self._rows.figures[slot, r.FAILURE_PROBABILITY] = probability

    def healed(self, offer: str) -> None:
        """Count a healing that was taken on it; an offer without a row is passed over."""
        slot = self._rows.slot_of.get(offer)
        if slot is not None:
            self._rows.figures[slot, r.HEALINGS] += 1.0

    def keep(self, offers: Collection[str]) -> None:
        """Forget all other offers: the configuration changed."""
        self._rows = self._rows.only([offer for offer in self._rows.slot_of if offer in offers])

    # ---- what is known ----------------------------------------------------------------------------------------------

    def view(self, offer: str, now: float) -> AdapterHealthSignature:
        """Of one offer. What is not known is at its best: a signature of nothing is healthy."""
        slot = self._rows.slot_of.get(offer)
        if slot is None:
            return _of(offer, "", Rows.of_nothing(), 0, 0.0)
        return _of(offer, self._rows.providers[slot], self._rows, slot, now)

    def provider(self, provider: str, now: float) -> AdapterHealthSignature:
        """Over all its offers: quantiles of all attempts together, sums of counts, the worst of each score.

        Connected where any of them is; failures in a row are the least of any offer's, among those tried at all.
        """
        rows = self._rows
        slots = [slot for slot in rows.slot_of.values() if rows.providers[slot] == provider]
        if not slots:
            return _of("", provider, Rows.of_nothing(), 0, 0.0)
        views = [_of("", provider, rows, slot, now) for slot in slots]
        tried = [view for view in views if view.total] or views
        errors: dict[str, int] = {}
        recent: dict[str, float] = {}
        parts: dict[str, float] = {}
        for view in views:
            for kind, count in view.errors.items():
                errors[kind] = errors.get(kind, 0) + count
                recent[kind] = recent.get(kind, 0.0) + view.recent_errors[kind]
            for part, distance in view.incoherence.items():
                parts[part] = max(parts.get(part, 0.0), distance)
        weight = sum(view.outcomes for view in views)
        times = _quantiles(rows.merged_bins(slots), 0)
        return AdapterHealthSignature(
            offer="",
            provider=provider,
            connected=any(view.connected for view in views),
            latency_p50_ms=times[0],
            latency_p95_ms=times[1],
            latency_p99_ms=times[2],
            first_token_p50_ms=times[3],
            first_token_p95_ms=times[4],
            first_token_p99_ms=times[5],
            consecutive_failures=min(view.consecutive_failures for view in tried),
            errors=errors,
            recent_errors=recent,
            error_rate=_mean(((view.error_rate, view.outcomes) for view in views), weight),
            throttle_rate=_mean(((view.throttle_rate, view.outcomes) for view in views), weight),
            last_success_at=max(
                (view.last_success_at for view in views if view.last_success_at is not None), default=None
            ),
            last_seen_at=max((view.last_seen_at for view in views if view.last_seen_at is not None), default=None),
            coherence=min(view.coherence for view in views),
            incoherence=parts,
            stability=min(view.stability for view in views),
            failure_probability=max(view.failure_probability for view in views),
            healings=sum(view.healings for view in views),
            trend=min(view.trend for view in tried),
            outcomes=weight,
            total=sum(view.total for view in views),
        )

    def features(self, offer: str, now: float) -> r.Floats:
        """float64 [N_FEATURES]: see ``features``."""
        out = np.zeros(f.N_FEATURES)
        slot = self._rows.slot_of.get(offer)
        rows = self._rows if slot is not None else Rows.of_nothing()
        f.write_features(slot or 0, now, rows.figures, rows.tracks, out)
        return out

    # ---- across restarts --------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """All rows, to be loaded after a restart."""
        return packed(self._rows, _KIND_NAMES)

    def load(self, state: bytes) -> None:
        """Have the rows of ``state`` in place of all.

        Raises
        ------
        ValueError
            It is none, damaged, or of another version; the message says which. Nothing changes then.
        """
        rows = unpacked(state, _KIND_NAMES)
        newest = sorted(rows.slot_of, key=lambda offer: rows.figures[rows.slot_of[offer], r.AT], reverse=True)
        kept = set(newest[: self._settings.most_offers])
        self._rows = rows if len(kept) == len(newest) else rows.only([offer for offer in rows.slot_of if offer in kept])

    def _begin(self, offer: str) -> int:
        rows = self._rows
        if len(rows.slot_of) < self._settings.most_offers:
            return rows.add(offer)
        oldest = min(rows.slot_of, key=lambda other: float(rows.figures[rows.slot_of[other], r.AT]))
        slot = rows.slot_of.pop(oldest)
        rows.slot_of[offer] = slot
        rows.begin(slot)
        return slot


def _of(offer: str, provider: str, rows: Rows, slot: int, now: float) -> AdapterHealthSignature:
    out, parts = np.zeros(s.N_SUMMARY), np.zeros(c.N_PARTS)
    s.summarise(slot, now, rows.figures, rows.tracks, rows.bins, out)
    c.distances(slot, now, rows.figures, rows.tracks, parts)
    own = rows.figures[slot].tolist()
    ever = own[r.KINDS_EVER : r.KINDS_EVER + r.N_KINDS]
    left = 0.5 ** (max(now - own[r.AT], 0.0) / r.SLOW_S) if own[r.AT] > -math.inf else 0.0
    figures = out.tolist()
    times = [None if math.isnan(ms) else ms for ms in figures[: s.COHERENCE]]
    return AdapterHealthSignature(
        offer=offer,
        provider=provider,
        connected=own[r.REACHED] == 1.0,
        latency_p50_ms=times[0],
        latency_p95_ms=times[1],
        latency_p99_ms=times[2],
        first_token_p50_ms=times[3],
        first_token_p95_ms=times[4],
        first_token_p99_ms=times[5],
        consecutive_failures=int(own[r.IN_A_ROW]),
        errors={name: int(count) for name, count in zip(_KIND_NAMES, ever, strict=True) if count},
        recent_errors={
            name: left * own[r.KINDS + place]
            for place, (name, count) in enumerate(zip(_KIND_NAMES, ever, strict=True))
            if count
        },
        error_rate=figures[s.ERROR_RATE],
        throttle_rate=figures[s.THROTTLE_RATE],
        last_success_at=_known(own[r.LAST_SUCCESS]),
        last_seen_at=_known(own[r.AT]),
        coherence=figures[s.COHERENCE],
        incoherence={name: part for name, part in zip(PARTS, parts.tolist(), strict=True) if part > 0.0},
        stability=figures[s.STABILITY],
        failure_probability=own[r.FAILURE_PROBABILITY],
        healings=int(own[r.HEALINGS]),
        trend=figures[s.TREND],
        outcomes=figures[s.OUTCOMES],
        total=int(own[r.OUTCOMES]),
    )


def _quantiles(bins: r.Floats, slot: int) -> list[float | None]:
    found = [q.quantile(bins, slot, histogram, share) for histogram in range(2) for share in (0.5, 0.95, 0.99)]
    return [None if math.isnan(ms) else ms for ms in found]


def _mean(weighted: Iterable[tuple[float, float]], weight: float) -> float:
    return min(sum(figure * share for figure, share in weighted) / weight, 1.0) if weight > 0.0 else 0.0


def _known(at: float) -> float | None:
    return at if at > -math.inf else None
