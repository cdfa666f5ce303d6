"""What is known of an offer after a run of observations, and that no run of them can confuse it."""

from __future__ import annotations

import math
import random
import sys
import tracemalloc

import numpy as np
import pytest
from health_answers import BEGIN, empty, failed, healthy, play, shorter
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from amaru.domain import FailureKind, Kind
from amaru.health import features as f
from amaru.health.observation import Observation, Sample
from amaru.health.quantile_kernels import RELATIVE_ERROR
from amaru.health.signature import AdapterHealthSignature, Signatures, SignatureSettings

OFFER = "acme/large"


def took(ms: float, at: float, **more: object) -> Observation:
    return replace(Observation(OFFER, "acme", at, True, latency_ms=ms, output_chars=100, output_tokens=25), **more)


def calm(seconds: int = 600, seed: int = 0) -> tuple[Signatures, float, random.Random]:
    """An offer after so many seconds with a good answer each."""
    rng, signatures = random.Random(seed), Signatures()
    at, _ = play(signatures, healthy, seconds, rng=rng, at=BEGIN)
    return signatures, at, rng


# ---- latency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("median_ms", [3.0, 400.0, 60_000.0])
def test_quantiles_are_within_the_documented_error(median_ms: float) -> None:
    rng = np.random.default_rng(1)
    latencies = np.minimum(median_ms * np.exp(0.6 * rng.standard_normal(20_000)), 590_000.0)
    signatures = Signatures()
    for ms in latencies:  # all at one moment: nothing is forgotten
        signatures.observe(took(float(ms), BEGIN, first_token_ms=float(ms) / 2))
    view = signatures.view(OFFER, BEGIN)
    for q, whole, first in (
        (0.5, view.latency_p50_ms, view.first_token_p50_ms),
        (0.95, view.latency_p95_ms, view.first_token_p95_ms),
        (0.99, view.latency_p99_ms, view.first_token_p99_ms),
    ):
        exact = float(np.quantile(latencies, q, method="inverted_cdf"))
        assert whole == pytest.approx(exact, rel=1.001 * RELATIVE_ERROR)
        assert first == pytest.approx(exact / 2, rel=1.001 * RELATIVE_ERROR)


def test_quantiles_follow_a_change_and_forget_what_was_before() -> None:
    signatures = Signatures()
    for second in range(3600):
        signatures.observe(took(200.0, BEGIN + second))
    for second in range(3600, 3600 + 660):  # the past has lost more than half of its weight
        signatures.observe(took(2000.0, BEGIN + second))
    assert signatures.view(OFFER, BEGIN).latency_p50_ms == pytest.approx(2000, rel=0.06)
    for second in range(3600 + 660, 3600 + 4300):
        signatures.observe(took(2000.0, BEGIN + second))
    histogram = signatures.view(OFFER, BEGIN)
    assert histogram.latency_p50_ms == histogram.latency_p99_ms


def test_where_answers_are_rare_quantiles_have_a_past_all_the_same() -> None:
    signatures = Signatures()
    for hour in range(20):
        signatures.observe(took(1000.0 if hour % 2 else 100.0, BEGIN + 3600 * hour))
    view = signatures.view(OFFER, BEGIN)
    assert view.latency_p50_ms == pytest.approx(100, rel=0.06) or view.latency_p50_ms == pytest.approx(1000, rel=0.06)
    assert view.latency_p99_ms == pytest.approx(1000, rel=0.06)


def test_latency_is_that_of_successes() -> None:
    signatures, at, _ = calm()
    before = signatures.view(OFFER, at).latency_p99_ms
    for _ in range(100):
        signatures.observe(replace(failed(at, FailureKind.NO_ANSWER), latency_ms=30_000.0))
    assert signatures.view(OFFER, at).latency_p99_ms == before


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_counted_by_kind_and_fade() -> None:
    signatures, at, _ = calm(100)
    for kind in (FailureKind.SERVER_ERROR, FailureKind.SERVER_ERROR, FailureKind.STREAM_CUT):
        signatures.observe(failed(at, kind))
    signatures.observe(replace(failed(at), failure=None))
    view = signatures.view(OFFER, at)
    assert view.errors == {"server_error": 2, "stream_cut": 1, "other": 1}
    assert view.recent_errors == {"server_error": 2.0, "stream_cut": 1.0, "other": 1.0}
    later = signatures.view(OFFER, at + 1800)
    assert later.errors == view.errors
    assert later.recent_errors["server_error"] == pytest.approx(1.0)


def test_failures_in_a_row_end_with_a_success() -> None:
    signatures, at, rng = calm(10)
    for _ in range(3):
        signatures.observe(failed(at))
    assert signatures.view(OFFER, at).consecutive_failures == 3
    assert signatures.view(OFFER, at).last_success_at == at
    signatures.observe(healthy(rng, at + 1))
    assert signatures.view(OFFER, at).consecutive_failures == 0
    assert signatures.view(OFFER, at).last_success_at == at + 1


def test_throttling_is_no_error() -> None:
    signatures, at, _ = calm(100)
    before = signatures.view(OFFER, at)
    for _ in range(50):
        signatures.observe(failed(at, FailureKind.RATE_LIMITED))
    view = signatures.view(OFFER, at)
    assert view.throttle_rate > 0.3
    assert (view.error_rate, view.errors, view.consecutive_failures) == (0.0, {}, 0)
    assert (view.stability, view.coherence) == (before.stability, before.coherence)
    row = signatures.features(OFFER, at)
    assert row[f.THROTTLES] > 0.3
    assert row[f.ERRORS_FAST] == row[f.ERRORS_SLOW] == 0.0


@pytest.mark.parametrize("kind", [FailureKind.BAD_REQUEST, FailureKind.CONTEXT_TOO_LONG, FailureKind.CONTENT_REJECTED])
def test_the_callers_own_faults_only_show_that_the_provider_is_there(kind: FailureKind) -> None:
    signatures, at, _ = calm(100)
    signatures.observe(failed(at, FailureKind.CONNECT))
    before = signatures.view(OFFER, at)
    assert not before.connected
    for _ in range(50):
        signatures.observe(failed(at, kind))
    assert signatures.view(OFFER, at) == replace(before, connected=True)


def test_connected_is_whether_the_last_attempt_came_through() -> None:
    signatures = Signatures()
    assert not signatures.view(OFFER, BEGIN).connected
    for kind, connected in (
        (FailureKind.SERVER_ERROR, True),
        (FailureKind.CONNECT, False),
        (FailureKind.RATE_LIMITED, True),
        (FailureKind.NO_ANSWER, False),
        (FailureKind.BAD_CREDENTIALS, True),
        (FailureKind.RESET, False),
    ):
        signatures.observe(failed(BEGIN, kind))
        assert signatures.view(OFFER, BEGIN).connected is connected


def test_the_error_rate_is_of_minutes_and_leans_on_the_half_hour_where_they_hold_little() -> None:
    signatures, at, rng = calm(1200)
    for second in range(60):
        signatures.observe((failed if second % 2 else lambda at: healthy(rng, at))(at + second))
    assert signatures.view(OFFER, at + 60).error_rate == pytest.approx(0.15, abs=0.08)
    at += 1800
    assert 0.0 < signatures.view(OFFER, at).error_rate < 0.05


# ---- stability and trend ---------------------------------------------------------------------------------------------


def test_calm_traffic_is_stable_and_has_no_trend() -> None:
    signatures, at, rng = calm(1000)
    stability, trend = [], []
    for _ in range(300):
        at, _ = play(signatures, healthy, 1, rng=rng, at=at)
        view = signatures.view(OFFER, at)
        stability.append(view.stability)
        trend.append(view.trend)
    assert min(stability) > 0.9
    assert max(map(abs, trend)) < 0.5
    assert abs(sum(trend) / len(trend)) < 0.2


def test_failures_now_and_then_take_stability() -> None:
    signatures, at, rng = calm(600)
    for second in range(600):
        signatures.observe(failed(at + second) if second % 3 == 0 else healthy(rng, at + second))
    assert signatures.view(OFFER, at + 600).stability == pytest.approx(2 / 3, abs=0.07)


def test_latency_that_jumps_takes_stability_and_so_does_a_shift() -> None:
    for factor in (lambda rng: 10.0 if rng.random() < 0.3 else 0.3, lambda rng: 8.0):
        signatures, at, rng = calm(600)
        for second in range(200):
            seen = healthy(rng, at + second)
            signatures.observe(replace(seen, latency_ms=seen.latency_ms * factor(rng)))
        assert signatures.view(OFFER, at + 200).stability < 0.7


def test_stability_returns_with_time_alone() -> None:
    signatures, at, _ = calm(300)
    for second in range(60):
        signatures.observe(failed(at + second))
    assert signatures.view(OFFER, at + 60).stability < 0.7
    assert signatures.view(OFFER, at + 1800).stability > 0.98


def test_the_trend_falls_as_things_get_worse_and_rises_as_they_get_better() -> None:
    signatures, at, rng = calm(600)
    for second in range(20):
        signatures.observe(failed(at + second))
    assert signatures.view(OFFER, at + 20).trend < -0.5
    at, _ = play(signatures, healthy, 60, rng=rng, at=at + 20)
    assert signatures.view(OFFER, at).trend > 0.1


# ---- features --------------------------------------------------------------------------------------------------------


def test_of_an_unknown_offer_nothing_is_known_and_all_is_well() -> None:
    signatures = Signatures()
    assert tuple(signatures.features("no/such", BEGIN)) == f.NOTHING_KNOWN
    view = signatures.view("no/such", BEGIN)
    assert (view.coherence, view.stability, view.total, view.latency_p50_ms) == (1.0, 1.0, 0, None)
    assert len(signatures) == 0
    assert signatures.provider("no", BEGIN) == replace(view, offer="", provider="no")


def test_names_of_columns_are_those_of_their_numbers() -> None:
    assert len(f.NAMES) == f.N_FEATURES == len(f.NOTHING_KNOWN)
    for place, name in enumerate(f.NAMES):
        assert getattr(f, name.upper()) == place


def test_a_slowdown_shows_in_standard_deviations_soon_and_then_at_the_pace_of_minutes() -> None:
    signatures, at, rng = calm(1200)
    calm_row = signatures.features(OFFER, at)
    assert abs(calm_row[f.LATENCY_SHIFT_MID]) < 0.7
    assert abs(calm_row[f.SPEED_SHIFT]) < 0.1
    for second in range(15):
        seen = healthy(rng, at + second)
        first_ms = None if seen.first_token_ms is None else 4 * seen.first_token_ms
        signatures.observe(replace(seen, latency_ms=4 * seen.latency_ms, first_token_ms=first_ms))
    row = signatures.features(OFFER, at + 15)
    assert row[f.LATENCY_SHIFT_FAST] > 0.8
    assert row[f.FIRST_TOKEN_SHIFT_FAST] > 1.5
    assert row[f.LATENCY_SHIFT_FAST] > row[f.LATENCY_SHIFT_MID] > calm_row[f.LATENCY_SHIFT_MID]
    assert row[f.SPEED_SHIFT] < -0.05


def test_errors_show_at_three_paces() -> None:
    signatures, at, _ = calm(3600)
    for second in range(10):
        signatures.observe(failed(at + second))
    row = signatures.features(OFFER, at + 10)
    assert row[f.ERRORS_FAST] > row[f.ERRORS_MID] > row[f.ERRORS_SLOW] > 0.0
    assert row[f.FAILURES_IN_A_ROW] == 10
    assert row[f.SINCE_SUCCESS_S] == pytest.approx(10)
    quiet = signatures.features(OFFER, at + 86_400)
    assert quiet[f.ERRORS_FAST] < 1e-6
    assert quiet[f.SINCE_SUCCESS_S] == f.MOST_SINCE_S


# ---- many offers -----------------------------------------------------------------------------------------------------


def test_a_provider_is_seen_over_its_offers() -> None:
    rng, signatures = random.Random(1), Signatures()
    for second in range(200):
        signatures.observe(healthy(rng, BEGIN + second, "acme/large"))
        signatures.observe(healthy(rng, BEGIN + second, "acme/small"))
        signatures.observe(healthy(rng, BEGIN + second, "other/large"))
    for second in range(200, 230):
        signatures.observe(failed(BEGIN + second, FailureKind.CONNECT, "acme/small"))
        signatures.observe(replace(empty(rng, BEGIN + second), offer="acme/large"))
    signatures.healed("acme/small")
    signatures.predicted("acme/small", 0.75)
    now = BEGIN + 230
    large, small, acme = (
        signatures.view("acme/large", now),
        signatures.view("acme/small", now),
        signatures.provider("acme", now),
    )
    assert signatures.offers == ("acme/large", "acme/small", "other/large")
    assert signatures.providers == ("acme", "other")
    assert acme.connected
    assert not small.connected
    assert acme.consecutive_failures == 0
    assert small.consecutive_failures == 30
    assert acme.coherence == large.coherence < 0.3 < small.coherence
    assert acme.incoherence["empty"] == large.incoherence["empty"] > 0.5
    assert acme.stability == small.stability < large.stability
    assert acme.errors == {"connect": 30}
    assert large.error_rate < acme.error_rate < small.error_rate
    assert acme.total == large.total + small.total == 460
    assert (acme.healings, acme.failure_probability) == (1, 0.75)
    assert acme.last_seen_at == now - 1
    p50 = sorted(view.latency_p50_ms or 0.0 for view in (large, small))
    assert p50[0] <= (acme.latency_p50_ms or 0.0) <= p50[1]


def test_offers_do_not_touch_each_other() -> None:
    rng = random.Random(1)
    runs = {f"p{n}/m": [healthy(rng, BEGIN + second, f"p{n}/m") for second in range(50)] for n in range(20)}
    together = Signatures()
    for seen in sorted((seen for run in runs.values() for seen in run), key=lambda seen: (seen.at, seen.offer)):
        together.observe(seen)
    for offer, run in runs.items():
        alone = Signatures()
        for seen in run:
            alone.observe(seen)
        assert alone.view(offer, BEGIN + 50) == together.view(offer, BEGIN + 50)


def test_the_row_seen_longest_ago_makes_room() -> None:
    signatures = Signatures(SignatureSettings(most_offers=3))
    for at, name in enumerate(("a", "b", "c", "a", "d")):
        signatures.observe(failed(BEGIN + at, offer=f"p/{name}"))
    assert set(signatures.offers) == {"p/a", "p/c", "p/d"}
    assert signatures.view("p/d", BEGIN).errors == {"server_error": 1}
    assert signatures.view("p/b", BEGIN).total == 0


def test_a_changed_configuration_keeps_what_it_can() -> None:
    rng, signatures = random.Random(1), Signatures()
    for n in range(30):
        for name in ("a", "b", "c"):
            signatures.observe(healthy(rng, BEGIN + n, f"p/{name}"))
    before = {offer: signatures.view(offer, BEGIN) for offer in signatures.offers}
    signatures.keep(["p/c", "p/a", "p/new"])
    assert signatures.offers == ("p/a", "p/c")
    assert signatures.view("p/a", BEGIN) == before["p/a"]
    assert signatures.view("p/c", BEGIN) == before["p/c"]
    signatures.observe(failed(BEGIN, offer="p/b"))
    assert signatures.view("p/b", BEGIN).total == 1


def test_memory_does_not_grow_with_traffic() -> None:
    rng, signatures = random.Random(1), Signatures()
    at, _ = play(signatures, healthy, 200, rng=rng, at=BEGIN)
    sizes = [len(signatures.state())]
    mixed = [healthy(rng, at + n / 100) for n in range(2_000)] + [failed(at + n) for n in range(20)]
    tracemalloc.start()
    for seen in mixed:
        signatures.observe(seen)
    held = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        for seen in mixed:
            signatures.observe(seen)
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    sizes.append(len(signatures.state()))
    assert grown < 2_000
    assert max(sizes) < 8_192
    rows = signatures._rows
    per_offer = sum(getattr(rows, name)[0].nbytes for name in ("figures", "tracks", "bins", "marks"))
    assert per_offer < 5_000


# ---- any run of observations -----------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0.0, 1e5)
samples = st.none() | st.builds(
    Sample,
    shape=st.sampled_from([0, 1, 2**63 - 1, 2**64 - 1, -5]) | st.integers(-(2**70), 2**70),
    missing=st.sampled_from([(), ("choices",)]),
    repetition=numbers | st.floats(0.0, 1.0),
    digest=st.integers(0, 3),
    prompt=st.integers(0, 3),
    empty=st.booleans(),
)
observations = st.builds(
    Observation,
    offer=st.sampled_from(["a/x", "a/y", "b/x"]),
    provider=st.sampled_from(["a", "b"]),
    at=st.floats(0.0, 3000.0) | st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([1.7e9, 1e12, -1e12]),
    ok=st.booleans(),
    failure=st.none() | st.sampled_from(FailureKind),
    stream=st.booleans(),
    latency_ms=numbers,
    first_token_ms=st.none() | numbers,
    output_tokens=st.none() | st.integers(-5, 10**30),
    output_chars=st.integers(-5, 10**30),
    finish_reason=st.none() | st.sampled_from(["stop", "length", "odd"]),
    sample=samples,
    probe=st.booleans(),
    kind=st.sampled_from(Kind),
)


def in_range(view: AdapterHealthSignature) -> None:
    for name in ("coherence", "stability", "error_rate", "throttle_rate", "failure_probability"):
        assert 0.0 <= getattr(view, name) <= 1.0, name
    assert -1.0 <= view.trend <= 1.0
    for times in (
        (view.latency_p50_ms, view.latency_p95_ms, view.latency_p99_ms),
        (view.first_token_p50_ms, view.first_token_p95_ms, view.first_token_p99_ms),
    ):
        known = [ms for ms in times if ms is not None]
        assert len(known) in (0, 3)
        assert known == sorted(known)
        assert all(0.9 <= ms <= 620_000 for ms in known)
    assert all(0.0 < distance <= 1.0 for distance in view.incoherence.values())
    assert all(count >= 0 for count in (*view.errors.values(), view.consecutive_failures, view.total, view.healings))
    assert all(0.0 <= weight < 1e9 for weight in (*view.recent_errors.values(), view.outcomes))
    assert all(at is None or math.isfinite(at) for at in (view.last_success_at, view.last_seen_at))


def row_in_range(row: np.ndarray) -> None:
    assert row.shape == (f.N_FEATURES,)
    assert np.isfinite(row).all()
    for column in (f.ERRORS_FAST, f.ERRORS_MID, f.ERRORS_SLOW, f.COHERENCE, f.SHAPE_CHANGE, f.THROTTLES, f.STABILITY):
        assert 0.0 <= row[column] <= 1.0, f.NAMES[column]
    for column in (f.LATENCY_SHIFT_FAST, f.LATENCY_SHIFT_MID, f.FIRST_TOKEN_SHIFT_FAST, f.FIRST_TOKEN_SHIFT_MID):
        assert abs(row[column]) <= f.MOST_SHIFT
    assert 0.0 <= row[f.SINCE_SUCCESS_S] <= f.MOST_SINCE_S


@given(st.lists(observations, max_size=40), st.floats(-1e13, 1e13))
@settings(max_examples=300, deadline=None)
def test_figures_stay_in_their_ranges_whatever_is_observed(seen: list[Observation], now: float) -> None:
    signatures = Signatures()
    for one in seen:
        signatures.observe(one)
    for offer in ("a/x", "a/y", "b/x"):
        in_range(signatures.view(offer, now))
        row_in_range(signatures.features(offer, now))
    for provider in ("a", "b"):
        in_range(signatures.provider(provider, now))
    restored = Signatures()
    restored.load(signatures.state())
    assert restored.state() == signatures.state()


@given(st.permutations(range(30)))
@settings(max_examples=60, deadline=None)
def test_counts_and_rates_do_not_depend_on_the_order_within_a_minute(order: list[int]) -> None:
    rng = random.Random(1)
    run = [healthy(rng, BEGIN + n) if n % 4 else failed(BEGIN + n) for n in range(30)]
    in_order, shuffled = Signatures(), Signatures()
    for seen in run:
        in_order.observe(seen)
    for place in order:
        shuffled.observe(run[place])
    one, two = in_order.view(OFFER, BEGIN + 30), shuffled.view(OFFER, BEGIN + 30)
    assert two.errors == one.errors
    assert two.recent_errors == pytest.approx(one.recent_errors)
    assert (two.error_rate, two.outcomes) == pytest.approx((one.error_rate, one.outcomes))
    assert (two.last_success_at, two.last_seen_at, two.total) == (one.last_success_at, one.last_seen_at, one.total)
    same = [f.ERRORS_FAST, f.ERRORS_MID, f.ERRORS_SLOW, f.OUTCOMES_FAST, f.OUTCOMES_SLOW, f.THROTTLES]
    rows = [signatures.features(OFFER, BEGIN + 30)[same] for signatures in (in_order, shuffled)]
    assert rows[1] == pytest.approx(rows[0])


def test_a_clock_that_was_set_back_takes_nothing_away_and_blocks_nothing() -> None:
    signatures, at, rng = calm(600)
    before = signatures.view(OFFER, at)
    back = at - 86_400
    signatures.observe(healthy(rng, back))
    view = signatures.view(OFFER, back)
    assert view.last_seen_at == back
    assert view.outcomes == pytest.approx(before.outcomes + 1)
    assert view.latency_p50_ms == pytest.approx(before.latency_p50_ms, rel=0.12)
    for second in range(30):
        signatures.observe(failed(back + second))
    row = signatures.features(OFFER, back + 30)
    assert row[f.ERRORS_FAST] > 0.7
    assert row[f.SINCE_SUCCESS_S] == pytest.approx(30)


def test_a_clock_that_leapt_ahead_for_a_moment_is_survived() -> None:
    signatures, at, rng = calm(600)
    signatures.observe(healthy(rng, at + 10 * 365 * 86_400))
    at, _ = play(signatures, healthy, 100, rng=rng, at=at)
    for second in range(30):
        signatures.observe(failed(at + second))
    view = signatures.view(OFFER, at + 30)
    assert view.last_seen_at == at + 29
    assert view.error_rate > 0.2
    assert view.latency_p50_ms is not None


def test_what_comes_late_counts_as_old_as_it_is() -> None:
    signatures, at, _ = calm(100)
    signatures.observe(failed(at - 50))
    row = signatures.features(OFFER, at)
    weight = 0.5 ** (50 / f.FAST_S)
    assert row[f.ERRORS_FAST] == pytest.approx(weight / (row[f.OUTCOMES_FAST] + 1))


# ---- across restarts -------------------------------------------------------------------------------------------------


def test_a_state_is_kept_bit_for_bit_and_goes_on_as_if_nothing_had_been() -> None:
    signatures, at, rng = calm(300)
    signatures.observe(failed(at))
    signatures.healed(OFFER)
    signatures.predicted(OFFER, 0.25)
    restored = Signatures()
    restored.observe(failed(BEGIN, offer="p/forgotten"))
    restored.load(signatures.state())
    assert restored.offers == (OFFER,)
    for _ in range(50):
        at += 1
        seen = healthy(rng, at) if rng.random() < 0.8 else shorter(rng, at)
        signatures.observe(seen)
        restored.observe(seen)
        assert asdict(restored.view(OFFER, at)) == asdict(signatures.view(OFFER, at))
    assert restored.state() == signatures.state()


@pytest.mark.parametrize("damage", ["format", "layout", "nan", "negative", "share", "cut", "twice", "noise", "empty"])
def test_a_state_of_another_version_or_a_damaged_one_is_refused_and_changes_nothing(damage: str) -> None:
    import zlib

    import msgspec

    signatures, _, _ = calm(50)
    state = signatures.state()
    held = msgspec.msgpack.decode(zlib.decompress(state))
    (row,) = held["rows"]
    figures, tracks = np.frombuffer(row["figures"]).copy(), np.frombuffer(row["tracks"]).copy()
    words = "damaged"
    if damage == "format":
        held["format"], words = 99, "format 99"
    elif damage == "layout":
        held["layout"][0] += 1
        words = "another version"
    elif damage == "nan":
        figures[7] = math.nan
    elif damage == "negative":
        figures[8] = -1.0
    elif damage == "share":
        tracks.reshape(15, -1)[5, 1] = 1.5
    elif damage == "cut":
        figures = figures[:-1]
    elif damage == "twice":
        held["rows"].append(row)
        words = "twice"
    row["figures"], row["tracks"] = figures.tobytes(), tracks.tobytes()
    packed = zlib.compress(msgspec.msgpack.encode(held))
    if damage in ("noise", "empty"):
        packed, words = (b"\0noise" if damage == "noise" else b""), "no state"
    with pytest.raises(ValueError, match=words):
        signatures.load(packed)
    assert signatures.state() == state


@given(st.binary(max_size=60), st.integers(0, 2_000))
@settings(max_examples=200, deadline=None)
def test_no_bytes_break_it(noise: bytes, place: int) -> None:
    signatures, _, _ = calm(5)
    state = signatures.state()
    broken = state[:place] + noise + state[place + len(noise) :]
    for data in (noise, broken, state[:place]):
        other = Signatures()
        try:
            other.load(data)
        except ValueError:
            assert len(other) == 0
        else:
            in_range(other.view(OFFER, BEGIN))


def test_a_state_with_more_rows_than_fit_keeps_those_seen_last() -> None:
    signatures = Signatures()
    for n in range(10):
        signatures.observe(failed(BEGIN + (n * 7) % 10, offer=f"p/{n}"))
    small = Signatures(SignatureSettings(most_offers=2))
    small.load(signatures.state())
    assert set(small.offers) == {"p/4", "p/7"}
    assert sys.getsizeof(small.state()) < sys.getsizeof(signatures.state())
