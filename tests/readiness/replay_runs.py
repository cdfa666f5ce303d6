"""Runs that never took place, for tests of what is made of them."""

from __future__ import annotations

import random
from array import array
from typing import Any

from hypothesis import strategies as st

from amaru.readiness.measuring import TRUNCATED, UNFINISHED, Sample
from amaru.readiness.replay_report import ReplayRun

MACHINE = {"processor": "a processor", "cores": 2, "system": "Linux", "python": "CPython 3.11"}


def answer(
    at_s: float = 0.0, first_token_s: float | None = 0.2, tokens: int = 5, gap_s: float = 0.01, **fields: Any
) -> Sample:
    """A whole answer whose tokens came evenly, one an event."""
    gaps_s = array("f", [gap_s] * (tokens - 1))
    made: dict[str, Any] = {
        "at_s": at_s,
        "first_token_s": first_token_s,
        "latency_s": (first_token_s or 0.0) + sum(gaps_s),
        "status": 200,
        "input_tokens": 10,
        "output_tokens": tokens,
        "content_events": tokens,
        "gaps_s": gaps_s,
        "provider": "anvil",
        "cost_usd": 0.001,
    }
    return Sample(**{**made, **fields})


def failure(at_s: float = 0.0, error: str = "http_503", **fields: Any) -> Sample:
    """A request that failed before its first token."""
    return Sample(**{"at_s": at_s, "latency_s": 0.1, "error": error, "detail": "overloaded", "status": 503, **fields})


def run_of(samples: list[Sample], **fields: Any) -> ReplayRun:
    """A run over ``samples``."""
    facts: dict[str, Any] = {
        "samples": samples,
        "dropped": 0,
        "duration_s": 60.0,
        "complete": True,
        "target": "http://127.0.0.1:8080/v1",
        "model": "a-model",
        "trace": "trace.csv",
        "trace_format": "azure",
        "speed": 20.0,
        "slo_first_token_s": 0.8,
        "started_at": 1_700_000_000.0,
        "command": "amaru replay trace.csv",
        "machine": MACHINE,
    }
    return ReplayRun(**{**facts, **fields})


def many(seed: int, count: int = 1200, *, slower: float = 1.0, lost: float = 0.0, **fields: Any) -> ReplayRun:
    """Requests over a minute; ``slower`` multiplies times to first token, ``lost`` is the share that fails."""
    rng = random.Random(seed)
    samples = []
    for place in range(count):
        at_s = 60 * place / count
        first_token_s = 0.2 * rng.lognormvariate(0, 0.4) * slower
        if rng.random() < lost:
            samples.append(failure(at_s))
        else:
            samples.append(answer(at_s, first_token_s, rng.randrange(2, 9), provider=rng.choice("abc")))
    return run_of(samples, **fields)


@st.composite
def any_sample(draw: st.DrawFn) -> Sample:
    """A sample of any kind, whole or not."""
    short = st.floats(0, 100, allow_nan=False, width=32)
    gaps_s = array("f", draw(st.lists(short, max_size=6)))
    first_token_s = draw(st.none() | short)
    return Sample(
        at_s=draw(st.floats(0, 60)),
        lag_s=draw(short),
        first_token_s=first_token_s,
        latency_s=(first_token_s or 0.0) + sum(gaps_s),
        error=draw(st.sampled_from(["", "", "", TRUNCATED, UNFINISHED, "http_503"])),
        input_tokens=draw(st.integers(0, 1000)),
        output_tokens=draw(st.integers(0, 9)),
        content_events=len(gaps_s) + 1,
        counted_by=draw(st.sampled_from(["server", "client"])),
        provider=draw(st.sampled_from(["", "a", "b"])),
        attempts=draw(st.integers(1, 3)),
        cost_usd=draw(st.none() | st.floats(0, 1)),
        cached_input_tokens=draw(st.none() | st.integers(0, 1000)),
        joined=draw(st.sampled_from(["", "", "continued", "unseen"])),
        gaps_s=gaps_s,
    )
