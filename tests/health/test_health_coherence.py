"""Coherence: an offer that answers 200 with nothing in it is found out, and one that merely changes is let be."""

from __future__ import annotations

import random

import pytest
from health_answers import (
    BEGIN,
    Make,
    empty,
    empty_unsampled,
    failed,
    healthy,
    lacking,
    looping,
    of_any_shape,
    of_new_shape,
    otherwise_finished,
    play,
    shorter,
    the_same,
    the_same_word,
)
from msgspec.structs import replace

from amaru.domain import FailureKind, Kind
from amaru.health import features
from amaru.health.observation import Observation
from amaru.health.signature import PARTS, Signatures

WITHIN = 20
"""Answers, by when an offer of bad ones has lost its coherence."""
PACES = (0.02, 1.0, 20.0)
"""Answers a second."""


def fallen_at(coherence: list[float], below: float = 0.3) -> int:
    """How many answers it took."""
    return next((count for count, figure in enumerate(coherence, 1) if figure < below), 10**9)


@pytest.mark.parametrize("per_s", PACES)
@pytest.mark.parametrize("seed", range(3))
def test_healthy_traffic_stays_coherent(seed: int, per_s: float) -> None:
    _, coherence = play(Signatures(), healthy, 5_000, rng=random.Random(seed), at=BEGIN, per_s=per_s)
    assert min(coherence) > 0.9


@pytest.mark.parametrize("per_s", PACES)
@pytest.mark.parametrize("past", [0, 30, 200, 3_000])
@pytest.mark.parametrize("make", [empty, empty_unsampled, the_same, looping])
def test_bad_answers_are_found_out_within_20(make: Make, past: int, per_s: float) -> None:
    rng, signatures = random.Random(past), Signatures()
    at, _ = play(signatures, healthy, past, rng=rng, at=BEGIN, per_s=per_s)
    at, coherence = play(signatures, make, WITHIN, rng=rng, at=at, per_s=per_s)
    assert fallen_at(coherence) <= WITHIN
    parts = signatures.view("acme/large", at).incoherence
    expected = {empty: "empty", empty_unsampled: "empty", the_same: "same_text", looping: "repeats_itself"}[make]
    assert max(parts, key=lambda part: parts[part] * (part != "length" and part != "speed")) == expected
    assert set(parts) <= set(PARTS)


def test_one_word_to_everybody_is_found_out_where_answers_used_to_differ() -> None:
    rng, signatures = random.Random(1), Signatures()
    at, _ = play(signatures, healthy, 300, rng=rng, at=BEGIN)
    _, coherence = play(signatures, the_same_word, WITHIN, rng=rng, at=at)
    assert fallen_at(coherence) <= WITHIN


def test_one_word_to_everybody_is_usual_for_a_classifier() -> None:
    _, coherence = play(Signatures(), the_same_word, 500, rng=random.Random(1), at=BEGIN)
    assert min(coherence) > 0.9


def test_the_same_answer_to_the_same_prompt_is_as_it_should_be() -> None:
    def cached(rng: random.Random, at: float) -> Observation:
        seen = the_same(rng, at)
        assert seen.sample is not None
        return replace(seen, sample=replace(seen.sample, prompt=5))

    _, coherence = play(Signatures(), cached, 200, rng=random.Random(1), at=BEGIN)
    assert min(coherence) > 0.9


@pytest.mark.parametrize("make", [empty, the_same, looping])
def test_bad_answers_never_become_usual(make: Make) -> None:
    rng, signatures = random.Random(2), Signatures()
    at, _ = play(signatures, healthy, 200, rng=rng, at=BEGIN)
    _, coherence = play(signatures, make, 20_000, rng=rng, at=at)  # five hours and a half
    assert max(coherence[WITHIN:]) < 0.3


@pytest.mark.parametrize("make", [empty, the_same, looping])
@pytest.mark.parametrize("past", [0, 300])
def test_coherence_returns_with_the_good_answers(make: Make, past: int) -> None:
    rng, signatures = random.Random(3), Signatures()
    at, _ = play(signatures, healthy, past, rng=rng, at=BEGIN)
    at, _ = play(signatures, make, 1_000, rng=rng, at=at)
    _, coherence = play(signatures, healthy, 300, rng=rng, at=at)
    assert min(coherence[WITHIN:]) > 0.9


def test_one_empty_answer_in_thirty_is_a_blemish_and_one_in_two_an_incident() -> None:
    def at_times(share: float) -> list[float]:
        rng, signatures = random.Random(4), Signatures()
        at, _ = play(signatures, healthy, 500, rng=rng, at=BEGIN)

        def mixed(rng: random.Random, at: float) -> Observation:
            return (empty if rng.random() < share else healthy)(rng, at)

        return sorted(play(signatures, mixed, 300, rng=rng, at=at)[1])

    assert at_times(1 / 30)[150] > 0.9
    assert at_times(1 / 2)[150] < 0.6


@pytest.mark.parametrize("make", [of_new_shape, lacking, shorter, otherwise_finished, of_any_shape])
def test_a_lasting_change_is_seen_at_first_and_usual_after_an_hour_and_a_half(make: Make) -> None:
    rng, signatures = random.Random(5), Signatures()
    at, _ = play(signatures, healthy, 1_000, rng=rng, at=BEGIN)
    _, coherence = play(signatures, make, 3 * 3600, rng=rng, at=at)
    assert fallen_at(coherence, 0.8) <= WITHIN
    assert max(coherence[60:600]) < 0.9
    assert min(coherence[5400:]) > 0.85


@pytest.mark.parametrize("make", [of_new_shape, lacking, shorter, otherwise_finished, of_any_shape])
def test_what_depends_on_the_question_too_does_not_take_all_coherence(make: Make) -> None:
    rng, signatures = random.Random(5), Signatures()
    at, _ = play(signatures, healthy, 1_000, rng=rng, at=BEGIN)
    _, coherence = play(signatures, make, 300, rng=rng, at=at)
    assert min(coherence) > 0.3


def test_many_answers_in_a_short_time_make_no_change_usual() -> None:
    rng, signatures = random.Random(6), Signatures()
    at, _ = play(signatures, healthy, 20_000, rng=rng, at=BEGIN, per_s=50.0)
    _, coherence = play(signatures, lacking, 20_000, rng=rng, at=at, per_s=50.0)
    assert max(coherence[60:]) < 0.6


def test_where_answers_are_rare_a_change_is_usual_after_some_hundreds() -> None:
    rng, signatures = random.Random(7), Signatures()
    at, _ = play(signatures, healthy, 300, rng=rng, at=BEGIN, per_s=1 / 600)
    _, coherence = play(signatures, lacking, 500, rng=rng, at=at, per_s=1 / 600)
    assert coherence[WITHIN] < 0.6
    assert min(coherence[400:]) > 0.85


def test_what_was_found_fades_while_nothing_is_asked() -> None:
    rng, signatures = random.Random(8), Signatures()
    at, _ = play(signatures, empty, 50, rng=rng, at=BEGIN)

    def after(seconds: float) -> float:
        return signatures.view("acme/large", at + seconds).coherence

    assert after(0) < 0.3
    assert after(600) == pytest.approx(1 - (1 - after(0)) / 2)
    assert after(3600) > 0.97
    assert after(-100) == after(0)
    _, coherence = play(signatures, empty, 5, rng=rng, at=at + 3600)
    assert coherence[-1] < 0.4


def test_a_body_that_cannot_be_read_is_incoherent_too() -> None:
    rng, signatures = random.Random(9), Signatures()
    at, _ = play(signatures, healthy, 300, rng=rng, at=BEGIN)
    for second in range(10):
        signatures.observe(failed(at + second, FailureKind.MALFORMED_BODY))
    view = signatures.view("acme/large", at + 10)
    assert view.coherence < 0.7
    assert list(view.incoherence) == ["shape"]
    assert signatures.features("acme/large", at + 10)[features.SHAPE_CHANGE] > 0.5


def test_a_change_of_shape_is_told_to_patterns() -> None:
    rng, signatures = random.Random(10), Signatures()
    at, _ = play(signatures, healthy, 600, rng=rng, at=BEGIN)
    assert signatures.features("acme/large", at)[features.SHAPE_CHANGE] < 0.1
    at, _ = play(signatures, of_new_shape, 10, rng=rng, at=at)
    assert signatures.features("acme/large", at)[features.SHAPE_CHANGE] > 0.6


@pytest.mark.parametrize("failure", [FailureKind.SERVER_ERROR, FailureKind.RATE_LIMITED, FailureKind.BAD_REQUEST])
def test_other_failures_say_nothing_about_coherence(failure: FailureKind) -> None:
    rng, signatures = random.Random(11), Signatures()
    at, _ = play(signatures, healthy, 100, rng=rng, at=BEGIN)
    before = signatures.view("acme/large", at).coherence
    for second in range(50):
        signatures.observe(failed(at + second, failure))
    assert signatures.view("acme/large", at).coherence >= before


def test_embeddings_have_no_text_to_be_empty() -> None:
    def embedded(rng: random.Random, at: float) -> Observation:
        seen = replace(healthy(rng, at), kind=Kind.EMBEDDING, output_chars=0, output_tokens=None, finish_reason=None)
        assert seen.sample is not None
        return replace(seen, sample=replace(seen.sample, shape=4, digest=0))

    _, coherence = play(Signatures(), embedded, 200, rng=random.Random(12), at=BEGIN)
    assert min(coherence) == 1.0


def test_work_that_a_caller_reports_has_no_answer_to_judge() -> None:
    def reported(_: random.Random, at: float) -> Observation:
        return Observation("acme/large", "acme", at, True, latency_ms=800.0)

    signatures = Signatures()
    at, coherence = play(signatures, reported, 100, rng=random.Random(14), at=BEGIN)
    assert min(coherence) == 1.0
    assert signatures.view("acme/large", at).latency_p50_ms == pytest.approx(800, rel=0.06)


def test_probes_are_of_another_kind_than_what_users_ask() -> None:
    rng, signatures = random.Random(13), Signatures()
    at, _ = play(signatures, healthy, 300, rng=rng, at=BEGIN)
    _, coherence = play(signatures, lambda rng, at: replace(the_same_word(rng, at), probe=True), 50, rng=rng, at=at)
    assert min(coherence) > 0.9
