"""Labelled observations of a mesh in calm and in trouble, from a seed: what tests and benchmarks hold health against.

A day has its load, which slows answers and brings throttling; each provider's latency wanders for minutes; single
attempts take long, fail, or are the caller's fault; now and then an offer fails for some seconds. Incidents come on
top, gradual or sudden, of one provider or of all that share a trait, and their truth is known. Everything is drawn by
the quarter of an hour with NumPy, so that a simulated month takes minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from amaru.domain import FailureKind
from amaru.health.incident_types import API, GRADUAL, Incident, Mesh, Trouble, load_at
from amaru.health.observation import Observation, Sample
from amaru.routing.kernels import Floats

Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

CHUNK_S = 900.0
_USUAL_FAILURES = (
    FailureKind.SERVER_ERROR, FailureKind.OVERLOADED, FailureKind.CONNECT, FailureKind.RESET, FailureKind.NO_ANSWER,
    FailureKind.STREAM_CUT,
)  # fmt: skip
_STATUS = {
    FailureKind.SERVER_ERROR: 500,
    FailureKind.OVERLOADED: 503,
    FailureKind.RATE_LIMITED: 429,
    FailureKind.BAD_REQUEST: 400,
    FailureKind.MALFORMED_BODY: 200,
    FailureKind.MALFORMED_EVENT: 200,
    FailureKind.STREAM_CUT: 200,
}
NEW_STATUS = 422
_FELL = 0.95
"""Share of attempts that fail when hardly anything succeeds."""

(_OK, _FAILED, _THROTTLED, _CALLER, _MALFORMED, _STRANGE) = range(6)


class World:
    """What happens in a mesh from ``begins`` on. Iterating over ``observations`` draws it; the same again next time.

    Parameters
    ----------
    mesh
        What is usual.
    incidents
        What is not.
    seed
        Of everything that is drawn.
    begins
        Unix s.
    """

    def __init__(self, mesh: Mesh, incidents: Sequence[Incident], seed: int, begins: float = 1.75e9) -> None:
        self.mesh = mesh
        self.incidents = tuple(incidents)
        self.begins = begins
        self._seed = seed
        draws = np.random.default_rng([seed, 1])
        n = len(mesh.traits)
        self._first_ms = np.exp(draws.normal(math.log(350.0), 0.4, n))
        self._token_ms = np.exp(draws.normal(math.log(18.0), 0.4, n))
        self._failures = mesh.failures * np.exp(draws.uniform(-math.log(3.0), math.log(3.0), n))
        self._shapes = draws.integers(1, 2**62, (n, 4))
        providers = list(dict.fromkeys(one.provider for one in mesh.traits))
        self._provider = [providers.index(one.provider) for one in mesh.traits]
        self._providers = len(providers)

    def observations(self, seconds: float) -> Iterator[Observation]:
        """What is observed for so long, in the order of time."""
        wander = np.zeros(self._providers)
        number = 0
        for chunk in range(math.ceil(seconds / CHUNK_S)):
            draws = np.random.default_rng([self._seed, 2, chunk])
            begins = self.begins + chunk * CHUNK_S
            length = min(CHUNK_S, seconds - chunk * CHUNK_S)
            walks, wander = self._walks(draws, wander)
            for observation in self._chunk(draws, begins, length, walks, number):
                number += 1
                yield observation

    def hard(self, offer: str) -> list[tuple[float, float]]:
        """From when until when the offer fails hard, in order."""
        spans = [(one.hard_at, one.ends) for one in self.incidents if offer in one.offers and one.hard_at is not None]
        return sorted(spans)

    def _walks(self, draws: np.random.Generator, wander: Floats) -> tuple[Floats, Floats]:
        """Log-latency that a provider's attempts share, by provider and ten seconds: Ornstein-Uhlenbeck."""
        steps = int(CHUNK_S / 10.0) + 1
        kept = math.exp(-10.0 / self.mesh.wander_s)
        noise = draws.normal(0.0, self.mesh.wander * math.sqrt(1.0 - kept * kept), (self._providers, steps))
        walks = np.empty((self._providers, steps))
        for step in range(steps):
            wander = wander * kept + noise[:, step]
            walks[:, step] = wander
        return walks, wander

    def _chunk(
        self, draws: np.random.Generator, begins: float, length: float, walks: Floats, number: int
    ) -> Iterator[Observation]:
        mesh = self.mesh
        busy = load_at(mesh, begins + 0.5 * length)
        counts = draws.poisson(mesh.rate_per_s * busy * length, len(mesh.traits))
        who = np.repeat(np.arange(len(mesh.traits)), counts)
        at = begins + draws.uniform(0.0, length, len(who))
        order = np.argsort(at, kind="stable")
        who, at = who[order], at[order]
        n = len(who)
        load = (busy - 1.0) / max(mesh.day_swing, 1e-9) if mesh.day_swing else 0.0
        slow = mesh.load_slows * load + walks[np.array(self._provider)[who], ((at - begins) / 10.0).astype(int)]
        slow += draws.normal(0.0, mesh.noise, n)
        spiked = draws.random(n) < mesh.spikes
        slow += spiked * draws.uniform(math.log(4.0), math.log(20.0), n)
        failing = self._failures[who].copy()
        for offer in range(len(mesh.traits)):
            for _ in range(draws.poisson(mesh.blips_per_day * length / 86400.0)):
                since = begins + draws.uniform(0.0, length)
                failing[(who == offer) & (at >= since) & (at < since + draws.uniform(2.0, 6.0))] = 0.3
        shares = {trouble: np.zeros(n) for trouble in (*API, Trouble.RAMBLING)}
        for incident in self.incidents:
            if incident.begins < begins + length and incident.ends > begins:
                self._apply(incident, who, at, slow, failing, shares)
        throttled = mesh.throttled * max(load, 0.0)
        malformed = np.maximum(mesh.malformed, shares[Trouble.MALFORMED])
        u = draws.random(n)
        what = np.where(draws.random(n) < mesh.callers_faults, _CALLER, _OK)
        what = np.where(draws.random(n) < malformed, _MALFORMED, what)
        what = np.where(draws.random(n) < shares[Trouble.STATUS], _STRANGE, what)
        what = np.where(u < failing, _FAILED, np.where(u < failing + throttled * (1 - failing), _THROTTLED, what))
        stream = draws.random(n) < 0.6
        inputs = np.exp(draws.normal(math.log(400.0), 1.0, n)).astype(int) + 1
        outputs = np.minimum(np.exp(draws.normal(math.log(180.0), 0.9, n)).astype(int) + 1, 4000)
        factor = np.exp(slow)
        first = self._first_ms[who] * factor * (0.8 + 0.2 * inputs / 400.0)
        whole = first + self._token_ms[who] * outputs * factor
        rambling = draws.random(n) < shares[Trouble.RAMBLING]
        usual = self._draw_samples(draws, n)
        columns = zip(
            who.tolist(), at.tolist(), what.tolist(), stream.tolist(), inputs.tolist(), outputs.tolist(),
            first.tolist(), whole.tolist(), rambling.tolist(), (draws.random(n) < mesh.sampled).tolist(),
            (draws.random(n) < shares[Trouble.MISSING]).tolist(), (draws.random(n) < shares[Trouble.RESHAPED]).tolist(),
            *usual, strict=True,
        )  # fmt: skip
        for i, row in enumerate(columns):
            yield self._one(number + i, *row)

    def _draw_samples(self, draws: np.random.Generator, n: int) -> tuple[list[int], list[float], list[float]]:
        """Which of an offer's usual shapes, how repetitive, and a number for whatever else is drawn."""
        shapes = np.searchsorted(np.cumsum([0.7, 0.2, 0.095]), draws.random(n)).tolist()
        return shapes, (0.15 * draws.random(n) ** 3).tolist(), draws.random(n).tolist()

    def _apply(
        self, one: Incident, who: Integers, at: Floats, slow: Floats, failing: Floats, shares: dict[Trouble, Floats]
    ) -> None:
        rows = [row for row, traits in enumerate(self.mesh.traits) if traits.offer in one.offers]
        on = np.isin(who, rows) & (at >= one.begins) & (at < one.ends)
        ramp = np.clip((at[on] - one.begins) / max(one.full_at - one.begins, 1e-9), 0.0, 1.0)
        if one.trouble is Trouble.SLOWING:
            slow[on] += math.log(one.strength) * ramp
        elif one.trouble in (Trouble.FAILING, Trouble.OUTAGE, Trouble.TOGETHER):
            failing[on] = np.maximum(failing[on], one.strength * ramp)
        else:
            shares[one.trouble][on] = one.strength * ramp
        if one.trouble in (Trouble.SLOWING, Trouble.RAMBLING):
            failing[on] = np.where(at[on] >= one.full_at, _FELL, failing[on])

    def _one(
        self, number: int, who: int, at: float, what: int, stream: bool, inputs: int, outputs: int, first: float,
        whole: float, rambling: bool, sampled: bool, missing: bool, reshaped: bool, shape: int, repetition: float,
        draw: float,
    ) -> Observation:  # fmt: skip
        traits = self.mesh.traits[who]
        if what == _OK:
            sample = None
            if sampled:
                empty = rambling and draw < 0.5
                sample = Sample(
                    shape=int(self._shapes[who, shape]) + (1 if reshaped else 0),
                    missing=("choices.0.message.content",) if missing else (),
                    repetition=0.9 if rambling and not empty else repetition,
                    digest=0 if empty else number + 1,
                    prompt=number + 1,
                    empty=empty or missing,
                )
            return Observation(
                traits.offer, traits.provider, at, True, None, 200, stream, whole, first if stream else None, inputs,
                outputs, 4 * outputs, "stop", sample,
            )  # fmt: skip
        failure, ms, status = self._failure(what, stream, draw, first, whole)
        return Observation(
            traits.offer, traits.provider, at, False, failure, status, stream, ms, None, inputs, prompt=number + 1
        )

    @staticmethod
    def _failure(
        what: int, stream: bool, draw: float, first: float, whole: float
    ) -> tuple[FailureKind, float, int | None]:
        if what == _STRANGE:
            return FailureKind.BAD_REQUEST, 0.1 * first, NEW_STATUS
        if what == _FAILED:
            kind = _USUAL_FAILURES[int(draw * (len(_USUAL_FAILURES) if stream else len(_USUAL_FAILURES) - 1))]
        elif what == _THROTTLED:
            kind = FailureKind.RATE_LIMITED
        elif what == _CALLER:
            kind = FailureKind.BAD_REQUEST
        else:
            kind = FailureKind.MALFORMED_EVENT if stream else FailureKind.MALFORMED_BODY
        waits = kind in (FailureKind.NO_ANSWER, FailureKind.STREAM_CUT, FailureKind.MALFORMED_EVENT)
        return kind, 30000.0 if kind is FailureKind.NO_ANSWER else whole if waits else 0.2 * first, _STATUS.get(kind)


def troubled_times(
    mesh: Mesh,
    seed: int,
    hours: float,
    *,
    every_s: float = 2400.0,
    begins: float = 1.75e9,
    calm_first_s: float = 3600.0,
    troubles: Sequence[Trouble] = tuple(Trouble),
) -> list[Incident]:
    """Incidents in turns, about one every ``every_s``, each of another trouble, place, speed and strength.

    They leave ten minutes of calm between them, but one outage in three is joined by another provider's, some minutes
    into it: together by chance, and nothing that they share.
    """
    draws = np.random.default_rng([seed, 3])
    incidents: list[Incident] = []
    at, until = begins + calm_first_s, begins + 3600.0 * hours
    number = 0
    while True:
        at += draws.uniform(0.25, 0.6) * every_s
        trouble = troubles[number % len(troubles)]
        number += 1
        drawn = _incident(mesh, draws, trouble, at)
        last = max(one.ends for one in drawn)
        if last + 600.0 > until:
            return incidents
        incidents += drawn
        at = last + 600.0


def _incident(mesh: Mesh, draws: np.random.Generator, trouble: Trouble, begins: float) -> list[Incident]:
    trait = None
    providers = list(dict.fromkeys(one.provider for one in mesh.traits))
    if trouble is Trouble.TOGETHER:
        shared: dict[str, dict[str, None]] = {}
        for one in mesh.traits:
            for name in one.shared():
                shared.setdefault(name, {})[one.provider] = None
        # What nearly everyone shares cannot be told from "everyone".
        names = sorted(name for name, who in shared.items() if 2 <= len(who) <= 0.7 * len(providers))
        trait = names[int(draws.integers(len(names)))]
        offers = tuple(one.offer for one in mesh.traits if trait in one.shared())
    else:
        provider = providers[int(draws.integers(len(providers)))]
        theirs = [one.offer for one in mesh.traits if one.provider == provider]
        offers = tuple(theirs if draws.random() < 0.5 else theirs[:1])
    gradual = trouble in GRADUAL
    full_at = begins + (draws.uniform(120.0, 480.0) if gradual else 0.0)
    strength = math.exp(draws.uniform(math.log(3.0), math.log(8.0))) if trouble is Trouble.SLOWING else 0.0
    strength = strength or (draws.uniform(0.85, 1.0) if gradual else draws.uniform(0.6, 1.0))
    first = Incident(
        trouble=trouble,
        offers=offers,
        providers=tuple(dict.fromkeys(one.provider for one in mesh.traits if one.offer in offers)),
        begins=begins,
        full_at=full_at,
        ends=full_at + draws.uniform(240.0, 600.0),
        strength=strength,
        trait=trait,
    )
    if trouble is not Trouble.OUTAGE or draws.random() >= 1.0 / 3.0:
        return [first]
    other = _incident(mesh, draws, Trouble.OUTAGE, begins + draws.uniform(100.0, 200.0))[0]
    return [first] if set(other.providers) & set(first.providers) else [first, other]
