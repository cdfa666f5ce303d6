"""Retry-After, in all the forms that providers use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.providers.retry_after import duration_s, retry_after_s

NOW_S = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def wait(rate_limited: bool = True, **headers: str) -> float | None:
    given_headers = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return retry_after_s(given_headers, now_s=NOW_S, rate_limited=rate_limited)


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the machine's time zone, for the test."""

    def set_to(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        (" 20 ", 20.0),
        ("1.5", 1.5),
        ("86400", 86_400.0),
        ("86401", None),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("1_0", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        ("1, 2", None),
        ("9" * 400, None),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Tue, 14 Nov 2023 23:13:30 +0100", 10.0),
        ("Tue, 14 Nov 2090 22:13:50 GMT", None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
        ("Tue, 14 Nov 99999999999 22:13:50 GMT", None),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "EST5EDT"])
def test_retry_after(value: str, seconds: float | None, zone: str, local_zone: Callable[[str], None]) -> None:
    local_zone(zone)
    assert wait(retry_after=value) == seconds
    assert wait(retry_after=value, rate_limited=False) == seconds


def test_milliseconds_are_the_finer_word() -> None:
    assert wait(retry_after_ms="250", retry_after="1") == 0.25
    assert wait(retry_after_ms="many", retry_after="1") == 1.0
    assert wait(retry_after_ms="-5") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("2m59.56s", 179.56), ("1d", 86_400.0),
     ("250us", 0.00025), ("12", 12.0), ("", None), ("s", None), ("1x", None), ("1s ago", None), ("-1s", None),
     ("2d", None), ("9999h", None)],
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def test_rate_limits_tell_when_they_are_full_again() -> None:
    limits = {"x_ratelimit_reset_requests": "8s", "x_ratelimit_reset_tokens": "20ms"}
    assert wait(**limits) == 8.0
    assert wait(**limits, x_ratelimit_remaining_tokens="0") == 0.02
    assert wait(**limits, x_ratelimit_remaining_requests="0", x_ratelimit_remaining_tokens="0") == 8.0
    assert wait(**limits, retry_after="3") == 3.0
    assert wait(x_ratelimit_reset_requests="later") is None
    assert wait(**limits, rate_limited=False) is None


names = st.sampled_from([b"retry-after", b"retry-after-ms", b"x-ratelimit-reset-tokens", b"x-ratelimit-reset-requests"])


@given(st.dictionaries(names, st.binary(max_size=40) | st.text(max_size=40).map(str.encode)))
def test_any_headers_give_a_bounded_wait_or_none(headers: dict[bytes, bytes]) -> None:
    seconds = retry_after_s(headers, now_s=NOW_S, rate_limited=True)
    assert seconds is None or 0.0 <= seconds <= 86_400.0
