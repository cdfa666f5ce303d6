"""What an attempt says of its offer is read from the failure taxonomy, and from nowhere else."""

from __future__ import annotations

import msgspec
import pytest

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.health.observation import Observation, Sample, Verdict, is_suspect, verdict_on
from amaru.routing.reactions import Health, reaction_to


@pytest.mark.parametrize("kind", FailureKind)
def test_a_verdict_is_what_the_taxonomy_says_of_health(kind: FailureKind) -> None:
    health = reaction_to(Failure(kind, "")).health
    expected = {Health.HEALTHY: Verdict.NONE, Health.THROTTLED: Verdict.THROTTLED}.get(health, Verdict.ERROR)
    assert verdict_on(False, kind) is expected
    assert is_suspect(kind) is (health is Health.SUSPECT)


def test_the_callers_own_faults_say_nothing() -> None:
    own = [kind for kind in FailureKind if verdict_on(False, kind) is Verdict.NONE]
    assert own == [FailureKind.CONTEXT_TOO_LONG, FailureKind.CONTENT_REJECTED, FailureKind.BAD_REQUEST]


def test_a_success_is_one_and_a_failure_of_no_kind_is_an_error() -> None:
    assert verdict_on(True, None) is Verdict.SUCCESS
    assert verdict_on(False, None) is Verdict.ERROR


def test_observations_hold_figures_that_can_be_written_down_and_read() -> None:
    seen = Observation("acme/large", "acme", 1.5, True, sample=Sample(shape=3, missing=("choices",), prompt=7))
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Observation) == seen
