"""What an attempt says of its offer, and what it does not."""

from __future__ import annotations

import pytest

from amaru.domain import Attempt, Capability, Experience, FailureKind, Kind, Offer, Outcome, Usage, Workload
from amaru.routing.experience import experience_of, experience_of_report

AT = 1_800_000_000.0
CHAT = Workload(tenant="team", kind=Kind.CHAT, resource="m", input_tokens=100, output_tokens=50)
STREAM = Workload(tenant="team", kind=Kind.CHAT, resource="m", needs=Capability.STREAM)
JOB = Workload(tenant="team", kind=Kind.GPU_JOB, resource="a100", gpu_hours=2.0)
OFFER = Offer(id="p/m", provider="p", resource="m", model="m", latency_ms=200.0)


def attempt(**fields: object) -> Attempt:
    base = {"offer": "p/m", "provider": "p", "started_ms": 500.0, "latency_ms": 1500.0, "load": 0.25}
    return Attempt(**{**base, **fields})  # type: ignore[arg-type]  # a test's short hand


def test_a_whole_answer_is_timed_whole_and_a_stream_by_its_first_token() -> None:
    served = attempt(first_token_ms=300.0, usage=Usage(100, 50), cost_usd=0.02)
    whole, stream = experience_of(CHAT, served, AT), experience_of(STREAM, served, AT)
    assert whole == Experience(
        at=AT + 2.0, ok=True, latency_ms=1500.0, cost_usd=0.02, expected_cost_usd=0.02, load=0.25
    )
    assert stream is not None
    assert stream.latency_ms == 300.0


def test_a_failure_has_no_latency_and_no_expected_cost_where_nothing_was_billed() -> None:
    found = experience_of(STREAM, attempt(failure=FailureKind.SERVER_ERROR, detail="it broke"), AT)
    assert found == Experience(at=AT + 2.0, ok=False, failure=FailureKind.SERVER_ERROR, load=0.25)


@pytest.mark.parametrize("kind", list(FailureKind))
def test_only_the_requests_own_failures_blame_nobody(kind: FailureKind) -> None:
    found = experience_of(CHAT, attempt(failure=kind), AT)
    assert found is not None
    own = (FailureKind.BAD_REQUEST, FailureKind.CONTENT_REJECTED, FailureKind.CONTEXT_TOO_LONG)
    assert found.blame is (kind not in own)


def test_the_requests_own_deadline_blames_nobody() -> None:
    found = experience_of(CHAT, attempt(failure=FailureKind.NO_ANSWER, out_of_time=True), AT)
    assert found is not None
    assert not found.blame


def test_a_caller_who_left_and_an_answer_that_could_not_be_joined_say_nothing() -> None:
    assert experience_of(CHAT, attempt(detail="the caller went away"), AT) is None


def outcome(**fields: object) -> Outcome:
    base = {"decision": "d", "at": AT, "ok": True, "offer": "p/m", "reported": True}
    return Outcome(**{**base, **fields})  # type: ignore[arg-type]  # a test's short hand


def test_a_report_of_a_job_is_timed_by_its_acceptance_and_cannot_be_out_of_all_proportion() -> None:
    told = experience_of_report(JOB, OFFER, outcome(latency_ms=90.0, cost_usd=6.0), 4.0)
    assert told == Experience(at=AT, ok=True, latency_ms=90.0, cost_usd=6.0, expected_cost_usd=4.0)
    wild = experience_of_report(JOB, OFFER, outcome(latency_ms=1e12, cost_usd=1e12), 4.0)
    assert (wild.latency_ms, wild.cost_usd) == (2000.0, 40.0)
    flattered = experience_of_report(JOB, OFFER, outcome(latency_ms=1e-9, cost_usd=1e-9), 4.0)
    assert (flattered.latency_ms, flattered.cost_usd) == (20.0, 0.4)


def test_what_a_report_leaves_out_is_not_learned() -> None:
    told = experience_of_report(CHAT, OFFER, outcome(), None)
    assert told == Experience(at=AT, ok=True)
    free = experience_of_report(JOB, OFFER, outcome(), 4.0)
    assert (free.latency_ms, free.expected_cost_usd) == (None, None)


@pytest.mark.parametrize(
    ("kind", "blame"),
    [
        (None, True),
        (FailureKind.CONNECT, True),
        (FailureKind.BAD_CREDENTIALS, False),
        (FailureKind.QUOTA_EXHAUSTED, False),
        (FailureKind.RATE_LIMITED, False),
        (FailureKind.BAD_REQUEST, False),
    ],
)
def test_a_callers_own_key_and_quota_say_nothing_of_the_offer(kind: FailureKind | None, blame: bool) -> None:
    told = experience_of_report(JOB, OFFER, outcome(ok=False, failure=kind), None)
    assert (told.ok, told.blame, told.latency_ms) == (False, blame, None)
