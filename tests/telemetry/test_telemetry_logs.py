"""Logs are lines of JSON without secrets, and never hold anybody up."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.telemetry import logs, redaction
from amaru.telemetry.logs import LineWriter, RepeatLimit, configure, get_logger, unconfigure
from amaru.telemetry.redaction import LONGEST, REDACTED, WITHHELD, redact, redact_text

AT = 1_767_225_600.25  # 2026-01-01T00:00:00.250Z


class Hand:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    yield
    unconfigure()


def lines(stream: io.StringIO, writer: LineWriter) -> list[dict[str, object]]:
    assert writer.flush()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_becomes_one_line_of_json() -> None:
    stream = io.StringIO()
    log = get_logger("routing")  # made before the set-up, as modules do
    writer = configure("info", "json", stream, clock=lambda: AT)
    log.warning("breaker_opened", offer="a/gpt", failures=5, reason="two\nlines")
    log.debug("not_shown")
    (line,) = lines(stream, writer)
    assert line == {
        "timestamp": "2026-01-01T00:00:00.250Z",
        "level": "warning",
        "room": "routing",
        "event": "breaker_opened",
        "offer": "a/gpt",
        "failures": 5,
        "reason": "two\nlines",
    }
    assert datetime.fromisoformat(str(line["timestamp"])).utcoffset() is not None


def test_console_is_for_reading() -> None:
    stream = io.StringIO()
    writer = configure("debug", "console", stream)
    get_logger("mesh").info("served", offer="a")
    assert writer.flush()
    assert "served" in stream.getvalue()
    assert "offer=a" in stream.getvalue()


def test_before_the_set_up_events_go_to_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("mesh").warning("odd", api_key="sk-abcdefgh12345678", n=1)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("amaru.mesh", "WARNING")
    assert record.getMessage() == f"odd api_key={REDACTED} n=1"


def test_exceptions_are_shown_without_secrets() -> None:
    stream = io.StringIO()
    writer = configure("info", "json", stream)
    try:
        raise ValueError("refused: Bearer abcdef0123456789")
    except ValueError:
        get_logger("mesh").exception("failed")
    (line,) = lines(stream, writer)
    assert line["level"] == "error"
    assert "ValueError: refused: Bearer [redacted]" in str(line["exception"])


def test_what_other_libraries_log_comes_along_redacted() -> None:
    stream = io.StringIO()
    writer = configure("info", "json", stream)
    logging.getLogger("some.library").warning("cannot reach %s", "https://user:pa55word@host/")
    logging.getLogger("some.library").info("chatter")
    (line,) = lines(stream, writer)
    assert (line["room"], line["logger"], line["level"]) == ("library", "some.library", "warning")
    assert line["message"] == f"cannot reach https://{REDACTED}@host/"


def test_repeats_are_held_back_and_counted() -> None:
    stream, timer = io.StringIO(), Hand()
    writer = configure("info", "json", stream, timer=timer)
    log = get_logger("mesh")
    for n in range(100):
        log.warning("again", n=n)
    log.warning("something_else")
    timer.now = logs.WINDOW_S
    log.warning("again", n=100)
    told = lines(stream, writer)
    assert len(told) == logs.EVENTS_PER_WINDOW + 2
    assert told[-1]["held_back"] == 100 - logs.EVENTS_PER_WINDOW


def test_the_memory_of_repeats_is_bounded() -> None:
    limit = RepeatLimit(Hand(), events=1)
    for n in range(3 * logs.EVENT_KEYS):
        assert limit.admit("room", f"event-{n}") == 0
    assert len(limit._seen) == logs.EVENT_KEYS
    assert limit.admit("room", f"event-{3 * logs.EVENT_KEYS - 1}") is None


class StuckStream(io.StringIO):
    """A terminal that was stopped: the first write waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.let_go.wait()
        return super().write(text)


def test_a_stuck_stream_drops_lines_and_blocks_nobody() -> None:
    stream = StuckStream()
    writer = LineWriter(stream, queue_lines=10)
    writer.write("first")
    assert stream.reached.wait(60)
    for n in range(25):
        writer.write(str(n))
    assert writer.dropped == 15
    assert not writer.flush(0.0)
    stream.let_go.set()
    assert writer.flush()
    writer.close()
    told = stream.getvalue().splitlines()
    assert told[:11] == ["first", *map(str, range(10))]
    assert json.loads(told[11])["total"] == 15


def test_a_closed_stream_is_survived() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    stream.close()
    writer.write("lost")
    assert writer.flush()
    assert writer.dropped == 1
    writer.close()


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("key sk-proj-abc_DEF-123456789 refused", "sk-proj-abc_DEF-123456789"),
        ("Authorization: Bearer eyJhbGciOi.abc-def.ghi", "eyJhbGciOi.abc-def.ghi"),
        ("the-token-eyJhbGciOiJI.abc-def.ghi was", "abc-def"),
        ("authorization: BEARER abcdef123", "abcdef123"),
        ("Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("GET /v1?api_key=abcd1234&x=1", "abcd1234"),
        ('{"api_key": "abcd1234"}', "abcd1234"),
        ("x-api-key: abcd1234", "abcd1234"),
        ("OPENAI_API_KEY=abcd1234", "abcd1234"),
        ("password='hunter22'", "hunter22"),
        ("client_secret=abcd1234", "abcd1234"),
        ("gsk_abcdefgh12345678", "gsk_abcdefgh12345678"),
        ("hf_abcdefgh12345678", "hf_abcdefgh12345678"),
        ("AIzaSyA1234567890abcdefghij_klm", "AIzaSyA1234567890abcdefghij_klm"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("https://me:secretword@host/v1", "secretword"),
    ],
)
def test_what_looks_like_a_key_is_taken_out(text: str, gone: str) -> None:
    assert gone not in redact_text(text)
    assert REDACTED in redact_text(text)


@pytest.mark.parametrize("text", ["offer a/gpt-4o failed: HTTP 503", "took 12 ms, 3 tokens", "task skipped", "a=b"])
def test_ordinary_words_stay(text: str) -> None:
    assert redact_text(text) == text


def test_fields_are_judged_by_their_names_too() -> None:
    event = {
        "api_key": "plain-looking",
        "headers": {"Authorization": "xyz", "accept": "json"},
        "messages": [{"role": "user", "content": "tell nobody"}],
        "prompt": "tell nobody",
        "input_tokens": 12,
        "token": 5,
        "nested": {"a": {"b": {"c": {"d": {"e": "deep"}}}}},
        "things": ["ok", "sk-abcdefgh12345678"],
    }
    safe = redact(event)
    assert "tell nobody" not in str(safe)
    assert "deep" not in str(safe)
    assert safe["api_key"] == REDACTED
    assert safe["headers"] == {"Authorization": REDACTED, "accept": "json"}
    assert safe["prompt"] == safe["messages"] == WITHHELD
    assert (safe["input_tokens"], safe["token"]) == (12, 5)
    assert safe["things"] == ["ok", REDACTED]


def test_long_texts_are_cut() -> None:
    assert len(redact_text("word " * 10_000)) < LONGEST + 40


@given(st.text(max_size=300), st.from_regex(r"\Ask-[A-Za-z0-9]{20,40}\Z"))
def test_a_key_is_found_among_any_words(words: str, key: str) -> None:
    assert key not in redact_text(f"{words} {key} {words}")


@pytest.mark.parametrize(
    "piece",
    [
        "eyJ-",
        "eyJ.",
        "eyJaaaaaaaa.",
        "bearer ",
        "basic",
        "key ",
        "api_",
        "a_",
        "sk-",
        "hf_aaa ",
        "AIza",
        "AKIA",
        "://a:",
        "secret=",
    ],
)
def test_no_text_makes_the_search_slow(piece: str) -> None:
    text = piece * (200_000 // len(piece))  # far beyond what is searched, for a slow pattern to be seen
    began = time.process_time()
    redaction._SECRETS.sub("", text)
    assert time.process_time() - began < 1.0
