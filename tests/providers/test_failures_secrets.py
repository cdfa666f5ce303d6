"""Keys in what providers say: found wherever they stand, and never cut before they are looked for."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import Failure
from amaru.protocols.wire_errors import read_error
from amaru.providers.failures import (
    MAX_BODY_BYTES,
    MAX_MESSAGE_CHARS,
    REDACTED,
    failure_from_error,
    failure_from_response,
    scrub,
)

KEY = "q7Zp4Lx9Tn/2Vb8+Kd3=Wm6Rj1Hc5"


def failed(status: int, body: object) -> Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return failure_from_response(status, {}, raw, now_s=0.0, secrets=(KEY,))


def inside(error: object) -> Failure:
    wire = read_error({"error": error})
    assert wire is not None
    return failure_from_error(wire, 200, {}, now_s=0.0, secrets=(KEY,))


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "sk-proj-abcdef0123456789",
        "sk-ab***********wxyz",
        "sk_live_abcdef",
        "Bearer abcdefgh12345678",
        "bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "AIzaSyA-1234567890abcdefg",
        "gsk_0123456789abcdef",
        "xai-0123456789abcdef",
        "hf_0123456789abcdef",
        "nvapi-0123456789abcdef",
        "AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_what_looks_like_a_key_is_removed(secret: str) -> None:
    for status in (400, 401, 429, 451):
        error = {"message": f"Refused: {secret}.", "code": secret, "more": {secret: [f"({secret})"]}}
        failure = failed(status, {"error": error})
        assert secret not in f"{failure} {failure.body!r}"
        if failure.body is not None:
            assert json.loads(failure.body)["error"]["message"] == f"Refused: {REDACTED}."


PIECES = {KEY[at : at + 6] for at in range(len(KEY) - 5)}


def straddling(limit: int) -> list[str]:
    """Texts in which the key stands at every place around ``limit``."""
    return ["x" * (before - 1) + " " + KEY + " y" for before in range(limit - len(KEY) - 3, limit + 3)]


@pytest.mark.parametrize("status", [400, 401, 413, 429, 451, 500])
@pytest.mark.parametrize("limit", [48, MAX_MESSAGE_CHARS, 4096, MAX_BODY_BYTES])
def test_no_piece_of_a_key_is_left_where_a_text_is_cut(status: int, limit: int) -> None:
    more = "z" * MAX_BODY_BYTES  # too much to be told whole, so that the message is cut
    for text in straddling(limit):
        bodies = [
            text.encode(),
            (text + more).encode(),
            json.dumps({"error": {"message": text}}).encode(),
            json.dumps({"error": {"message": text, "more": more}}).encode(),
            json.dumps({"error": {"message": text, "code": text, "type": text, text: [{text: text}]}}).encode(),
            json.dumps({"detail": text, "more": more}).encode(),
            json.dumps({"other": text}).encode(),
        ]
        for body in bodies:
            failure = failed(status, body)
            shown = f"{failure} {failure.message} {failure.body!r}"
            assert not [piece for piece in PIECES if piece in shown]


@pytest.mark.parametrize("limit", [48, MAX_MESSAGE_CHARS, MAX_BODY_BYTES])
def test_no_piece_of_a_key_is_left_of_an_error_inside_a_200(limit: int) -> None:
    for text in straddling(limit):
        for more in ("", "z" * MAX_BODY_BYTES):
            for code in ("content_filter", text):
                failure = inside({"message": text, "code": code, "more": more, "type": "invalid_request_error"})
                shown = f"{failure} {failure.message} {failure.body!r}"
                assert not [piece for piece in PIECES if piece in shown]


def test_a_key_is_known_where_it_is_escaped() -> None:
    escaped = KEY.replace("/", "\\/")
    quoted = json.dumps({"error": {"message": f"Incorrect: {KEY}"}}).replace("/", "\\/")
    for body in (f'{{"reason": "{escaped}"}}'.encode(), {"error": {"message": "m", "metadata": {"raw": quoted}}}):
        failure = failed(400, body)
        assert failure.body is not None
        assert KEY[-6:] not in failure.body.decode()
    odd = 'key"with\\both'
    for body in (json.dumps({"reason": odd}).encode(), json.dumps({"error": {"message": odd}}).encode()):
        failure = failure_from_response(400, {}, body, now_s=0.0, secrets=(odd,))
        assert failure.body is not None
        assert "both" not in failure.body.decode()


def test_a_key_that_is_an_escape_leaves_json() -> None:
    body = json.dumps({"error": {"message": "\nnewline"}}).encode()
    failure = failure_from_response(400, {}, body, now_s=0.0, secrets=("nnewline",))
    assert failure.body is not None
    assert json.loads(failure.body)["error"]["message"] == "\nnewline"


def test_ordinary_words_stay() -> None:
    words = "Bearer authentication is required, see basic instructions; task-12, risk-adjusted, hf models, key_file"
    assert scrub(words, ("none", "", "x")) == words


@pytest.mark.parametrize("start", ["eyJ", "-eyJ", "sk-", "bearer ", "bearer 1", "AIza", ".", "sk-."])
def test_what_looks_like_a_key_is_found_in_one_pass(start: str) -> None:
    """A provider's words may be long and made to be slow to search."""
    text = start * (MAX_BODY_BYTES // len(start))
    began = time.process_time()
    scrub(text, (KEY,))
    assert time.process_time() - began < 1.0  # some milliseconds; seconds where each start is searched to the end


@given(st.text(min_size=6, max_size=30), st.text(max_size=30), st.sampled_from([400, 401, 404, 429, 500]))
def test_the_providers_key_never_gets_out(secret: str, around: str, status: int) -> None:
    body = json.dumps({"error": {"message": f"{around}{secret}{around}", "code": secret, secret: secret}}).encode()
    failure = failure_from_response(status, {}, body, now_s=0.0, secrets=(secret,))
    assert secret not in failure.message.replace(REDACTED, "")
    if failure.body is not None:
        written = json.loads(failure.body)["error"]
        assert secret not in written["message"].replace(REDACTED, "") or secret in REDACTED
        assert secret not in set(written) - {"message", "type", "param", "code"}
