"""Observations of a provider in good and in bad order, made from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from msgspec.structs import replace

from amaru.domain import FailureKind
from amaru.health.observation import Observation, Sample
from amaru.health.signature import Signatures

Make = Callable[[random.Random, float], Observation]

BEGIN = 1_700_000_000.0


def healthy(rng: random.Random, at: float, offer: str = "acme/large") -> Observation:
    """An answer of usual variety: log-normal lengths and latencies, three shapes, streams and whole ones."""
    tokens = max(1, round(120 * math.exp(0.7 * rng.gauss(0, 1))))
    first_ms = 200 * math.exp(0.3 * rng.gauss(0, 1))
    speed = 60 * math.exp(0.15 * rng.gauss(0, 1))
    stream = rng.random() < 0.6
    return Observation(
        offer=offer,
        provider=offer.partition("/")[0],
        at=at,
        ok=True,
        status=200,
        stream=stream,
        latency_ms=first_ms + tokens / speed * 1000,
        first_token_ms=first_ms if stream else None,
        input_tokens=50,
        output_tokens=tokens,
        output_chars=4 * tokens,
        finish_reason=rng.choices(("stop", "length", "tool_calls"), (0.85, 0.05, 0.1))[0],
        sample=Sample(
            shape=rng.choices((1, 2, 3), (0.6, 0.3, 0.1))[0],
            repetition=min(1.0, abs(rng.gauss(0, 0.05))),
            digest=rng.getrandbits(62) | 1,
            prompt=rng.getrandbits(62) | 1,
        ),
    )


def _sampled(seen: Observation, **changes: object) -> Observation:
    assert seen.sample is not None
    return replace(seen, sample=replace(seen.sample, **changes))


def empty(rng: random.Random, at: float) -> Observation:
    """200, and no text."""
    return _sampled(replace(healthy(rng, at), output_tokens=0, output_chars=0), empty=True, digest=0)


def empty_unsampled(rng: random.Random, at: float) -> Observation:
    """The same, not looked at more closely."""
    return replace(healthy(rng, at), output_tokens=0, output_chars=0, sample=None)


def the_same(rng: random.Random, at: float) -> Observation:
    """200, and one sentence to everybody."""
    return _sampled(replace(healthy(rng, at), output_tokens=40, output_chars=160), digest=77)


def the_same_word(rng: random.Random, at: float) -> Observation:
    """200, and one word to everybody."""
    return _sampled(replace(healthy(rng, at), output_tokens=3, output_chars=10), digest=77)


def looping(rng: random.Random, at: float) -> Observation:
    """200, and the same words again and again."""
    return _sampled(healthy(rng, at), repetition=0.95)


def of_new_shape(rng: random.Random, at: float) -> Observation:
    """The API has a new field."""
    return _sampled(healthy(rng, at), shape=99)


def of_any_shape(rng: random.Random, at: float) -> Observation:
    """Each answer names its fields differently."""
    return _sampled(healthy(rng, at), shape=rng.getrandbits(62) | 1)


def lacking(rng: random.Random, at: float) -> Observation:
    """The API has lost a required field."""
    return _sampled(healthy(rng, at), missing=("choices[].finish_reason",))


def shorter(rng: random.Random, at: float) -> Observation:
    """A new model, of few words."""
    seen = healthy(rng, at)
    assert seen.output_tokens is not None
    return replace(seen, output_tokens=1 + seen.output_tokens // 20, output_chars=5 + seen.output_tokens // 20)


def otherwise_finished(rng: random.Random, at: float) -> Observation:
    """A finish reason that was never seen."""
    return replace(healthy(rng, at), finish_reason="end_turn")


def failed(at: float, failure: FailureKind = FailureKind.SERVER_ERROR, offer: str = "acme/large") -> Observation:
    """An attempt that failed after 90 ms."""
    return Observation(
        offer=offer, provider=offer.partition("/")[0], at=at, ok=False, failure=failure, status=500, latency_ms=90.0
    )


def play(
    signatures: Signatures, make: Make, answers: int, *, rng: random.Random, at: float, per_s: float = 1.0
) -> tuple[float, list[float]]:
    """So many observations at random instants; returns the last instant and the coherence after each."""
    coherence = []
    for _ in range(answers):
        at += rng.expovariate(per_s)
        seen = make(rng, at)
        signatures.observe(seen)
        coherence.append(signatures.view(seen.offer, at).coherence)
    return at, coherence
