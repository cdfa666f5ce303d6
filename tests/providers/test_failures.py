"""The table of provider errors, row by row: statuses, codes and words as providers really send them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import FailureKind as F
from amaru.errors import Failure
from amaru.protocols.wire_errors import read_error
from amaru.providers.failures import (
    IN_THE_PROVIDERS_WORDS,
    MAX_BODY_BYTES,
    MAX_MESSAGE_CHARS,
    failure_from_error,
    failure_from_response,
)

KEY = "a-provider-key/with+odd=chars"


def failed(status: int, body: object = b"", headers: dict[bytes, bytes] | None = None) -> Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return failure_from_response(status, headers or {}, raw, now_s=0.0, secrets=(KEY,))


def inside(error: object, status: int = 200) -> Failure:
    wire = read_error({"error": error})
    assert wire is not None
    return failure_from_error(wire, status, {}, now_s=0.0, secrets=(KEY,), bytes_received=7)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (300, F.SERVER_ERROR), (301, F.SERVER_ERROR), (308, F.SERVER_ERROR),
        (400, F.BAD_REQUEST), (401, F.BAD_CREDENTIALS), (402, F.QUOTA_EXHAUSTED),
        (405, F.UNKNOWN_MODEL), (406, F.BAD_REQUEST), (407, F.BAD_CREDENTIALS),
        (408, F.NO_ANSWER), (409, F.BAD_REQUEST), (413, F.CONTEXT_TOO_LONG),
        (415, F.BAD_REQUEST), (418, F.BAD_REQUEST), (422, F.BAD_REQUEST), (424, F.SERVER_ERROR),
        (429, F.RATE_LIMITED), (431, F.BAD_REQUEST), (451, F.CONTENT_REJECTED), (499, F.SERVER_ERROR),
        (500, F.SERVER_ERROR), (501, F.SERVER_ERROR), (502, F.SERVER_ERROR), (503, F.OVERLOADED),
        (504, F.SERVER_ERROR), (520, F.SERVER_ERROR), (524, F.SERVER_ERROR), (529, F.OVERLOADED),
        (599, F.SERVER_ERROR), (600, F.SERVER_ERROR), (999, F.SERVER_ERROR), (100, F.SERVER_ERROR),
    ],
)  # fmt: skip
def test_statuses(status: int, kind: F) -> None:
    for body in (b"", b"{}", b"<html>", b"words", b'{"error":{"message":"words"}}', b"\xff", b"[" * 100_000):
        failure = failed(status, body)
        assert (failure.kind, failure.status) == (kind, status)
        assert (failure.body is not None) == (kind in IN_THE_PROVIDERS_WORDS)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        # OpenAI
        (429, {"type": "insufficient_quota", "code": "insufficient_quota"}, F.QUOTA_EXHAUSTED),
        (429, {"type": "tokens", "code": "rate_limit_exceeded"}, F.RATE_LIMITED),
        (400, {"code": "billing_hard_limit_reached"}, F.QUOTA_EXHAUSTED),
        (400, {"type": "invalid_request_error", "code": "context_length_exceeded"}, F.CONTEXT_TOO_LONG),
        (400, {"type": "image_generation_user_error", "code": "moderation_blocked"}, F.CONTENT_REJECTED),
        (400, {"code": "content_policy_violation"}, F.CONTENT_REJECTED),
        (401, {"type": "invalid_request_error", "code": "invalid_api_key"}, F.BAD_CREDENTIALS),
        (403, {"code": "unsupported_country_region_territory"}, F.BAD_CREDENTIALS),
        (403, {"type": "invalid_request_error", "code": "model_not_found"}, F.UNKNOWN_MODEL),
        (404, {"type": "invalid_request_error", "code": "model_not_found"}, F.UNKNOWN_MODEL),
        (500, {"type": "server_error"}, F.SERVER_ERROR),
        (503, {"type": "server_error", "message": "The engine is currently overloaded"}, F.OVERLOADED),
        (400, {"type": "invalid_request_error", "code": "invalid_value", "message": "max_tokens is too large: 9999. "
               "This model supports at most 4096 completion tokens."}, F.BAD_REQUEST),
        # Azure
        (404, {"code": "DeploymentNotFound"}, F.UNKNOWN_MODEL),
        (400, {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, F.CONTENT_REJECTED),
        (400, {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
               "policy."}, F.CONTENT_REJECTED),
        # Anthropic
        (529, {"type": "overloaded_error", "message": "Overloaded"}, F.OVERLOADED),
        (400, {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
         F.CONTEXT_TOO_LONG),
        (400, {"type": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 1 + 2"},
         F.CONTEXT_TOO_LONG),
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."},
         F.QUOTA_EXHAUSTED),
        (413, {"type": "request_too_large"}, F.CONTEXT_TOO_LONG),
        # Gemini
        (400, {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"},
         F.BAD_CREDENTIALS),
        (400, {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of tokens allowed"},
         F.CONTEXT_TOO_LONG),
        (429, {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.",
               "status": "RESOURCE_EXHAUSTED"}, F.RATE_LIMITED),
        (503, {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}, F.OVERLOADED),
        # OpenRouter, DeepSeek, Groq
        (402, {"code": 402, "message": "Insufficient credits"}, F.QUOTA_EXHAUSTED),
        (403, {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"},
         F.CONTENT_REJECTED),
        (400, {"code": 400, "message": "foo/bar is not a valid model ID"}, F.UNKNOWN_MODEL),
        (402, {"message": "Insufficient Balance", "code": "invalid_request_error"}, F.QUOTA_EXHAUSTED),
        (413, {"message": "Request too large for model", "type": "tokens", "code": "rate_limit_exceeded"},
         F.RATE_LIMITED),
        (400, {"message": "The model `x` has been decommissioned", "code": "model_decommissioned"}, F.UNKNOWN_MODEL),
        (404, {"message": "The model `x` does not exist or you do not have access to it."}, F.UNKNOWN_MODEL),
        # vLLM, SGLang, TGI, llama.cpp, Ollama
        (400, {"message": "This model's maximum context length is 2048 tokens. However, you requested 4000 tokens",
               "type": "BadRequestError", "code": 400}, F.CONTEXT_TOO_LONG),
        (400, {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
         F.CONTEXT_TOO_LONG),
        (400, {"message": "'max_tokens' is too large: 9000. This model's maximum context length is 2048 tokens and "
               "your request has 10 input tokens"}, F.CONTEXT_TOO_LONG),
        (400, {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."},
         F.CONTEXT_TOO_LONG),
        (422, {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"},
         F.CONTEXT_TOO_LONG),
        (400, {"message": "the request exceeds the available context size, try increasing it",
               "type": "exceed_context_size_error", "n_ctx": 4096}, F.CONTEXT_TOO_LONG),
        (500, {"message": "the request exceeds the available context size. try increasing the context size"},
         F.CONTEXT_TOO_LONG),
        (400, {"message": "the input length exceeds the context length"}, F.CONTEXT_TOO_LONG),
        (400, {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"},
         F.CONTEXT_TOO_LONG),
        (404, {"message": "model 'llama9' not found", "type": "api_error"}, F.UNKNOWN_MODEL),
        (400, {"message": "model 'llama9' not found, try pulling it first"}, F.UNKNOWN_MODEL),
        (500, {"message": "server busy, please try again. maximum pending requests exceeded; we are at capacity"},
         F.OVERLOADED),
        (503, {"message": "Loading model", "type": "unavailable_error", "code": 503}, F.OVERLOADED),
    ],
)  # fmt: skip
def test_codes_and_words(status: int, error: dict[str, object], kind: F) -> None:
    assert failed(status, {"error": error}).kind is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("boom", F.SERVER_ERROR),
        ("Rate limit reached", F.RATE_LIMITED),
        ({"message": "m"}, F.SERVER_ERROR),
        ({"message": "m", "code": 429}, F.RATE_LIMITED),
        ({"message": "m", "code": "429"}, F.RATE_LIMITED),
        ({"message": "m", "code": 502}, F.SERVER_ERROR),
        ({"message": "m", "status": 503}, F.OVERLOADED),
        ({"message": "m", "status": "RESOURCE_EXHAUSTED"}, F.RATE_LIMITED),
        ({"message": "m", "type": "rate-limit-error"}, F.RATE_LIMITED),
        ({"message": "m", "type": "insufficient_quota"}, F.QUOTA_EXHAUSTED),
        ({"message": "m", "type": "overloaded_error"}, F.OVERLOADED),
        ({"message": "m", "type": "invalid_request_error"}, F.BAD_REQUEST),
        ({"message": "m", "type": "invalid_request_error", "code": "context_length_exceeded"}, F.CONTEXT_TOO_LONG),
        ({"message": "m", "type": "permission_error"}, F.BAD_CREDENTIALS),
        ({"message": "model: m", "type": "not_found_error"}, F.UNKNOWN_MODEL),
        ({"message": "m", "type": "not_found_error"}, F.BAD_REQUEST),
        ({"message": "m", "type": "timeout"}, F.NO_ANSWER),
        ({"message": "m", "type": "server_error"}, F.SERVER_ERROR),
        ({"message": "This model's maximum context length is 10 tokens"}, F.CONTEXT_TOO_LONG),
        ({"message": "blocked by our content policy"}, F.CONTENT_REJECTED),
    ],
)
def test_error_objects_inside_a_200(error: object, kind: F) -> None:
    failure = inside(error)
    assert (failure.kind, failure.status, failure.bytes_received) == (kind, 200, 7)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # The offer's own: the model, the key, the account, a wrong base_url.
        (404, b"", F.UNKNOWN_MODEL),
        (404, b"{}", F.UNKNOWN_MODEL),
        (404, b"<html><h1>404 Not Found</h1>", F.UNKNOWN_MODEL),
        (404, b"404 page not found\n", F.UNKNOWN_MODEL),
        (404, {"detail": "Not Found"}, F.UNKNOWN_MODEL),
        (404, {"error": {"code": "404", "message": "Resource not found"}}, F.UNKNOWN_MODEL),
        (404, {"message": "no Route matched with those values"}, F.UNKNOWN_MODEL),
        (404, {"error": {"message": "Invalid URL (POST /v1/v1/x)", "type": "invalid_request_error"}}, F.UNKNOWN_MODEL),
        (404, {"error": {"message": "Unknown request URL: POST /x.", "code": "unknown_url"}}, F.UNKNOWN_MODEL),
        (404, {"error": {"message": "The model `x` does not exist.", "param": "model"}}, F.UNKNOWN_MODEL),
        (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: claude-9"}}, F.UNKNOWN_MODEL),
        (404, {"error": {"code": 404, "message": "models/g-9 is not found for API version v1", "status": "NOT_FOUND"}},
         F.UNKNOWN_MODEL),
        (404, {"error": {"message": "No endpoints found for foo/bar.", "code": 404}}, F.UNKNOWN_MODEL),
        (404, {"error": {"message": "Unable to find the model 'x'"}}, F.UNKNOWN_MODEL),
        (410, {"error": {"message": "This model was retired"}}, F.UNKNOWN_MODEL),
        (403, {"error": {"type": "permission_error", "message": "Your API key may not use this resource."}},
         F.BAD_CREDENTIALS),
        (403, {"error": {"code": 403, "message": "The caller does not have permission"}}, F.BAD_CREDENTIALS),
        (403, {"error": {"message": "Project `p` does not have access to model `m`"}}, F.BAD_CREDENTIALS),
        (403, {"error": {"message": "You have insufficient permissions for this operation."}}, F.BAD_CREDENTIALS),
        (403, {"detail": "Not authenticated"}, F.BAD_CREDENTIALS),
        (400, {"error": {"message": "Invalid authentication", "type": "invalid_request_error"}}, F.BAD_CREDENTIALS),
        (400, {"error": {"message": "Unknown model: x"}}, F.UNKNOWN_MODEL),
        # The caller's.
        (404, {"error": {"message": "No such File object: file-1", "param": "file_id"}}, F.BAD_REQUEST),
        (404, {"error": {"message": "The model of the file", "param": "messages[0].content"}}, F.BAD_REQUEST),
        (404, {"error": {"message": "Not found", "code": "model_not_found", "param": "tools"}}, F.BAD_REQUEST),
        (404, {"error": {"message": "Image not found: https://x/model", "type": "invalid_request_error"}},
         F.BAD_REQUEST),
        (404, {"error": {"message": "File not found: f", "type": "not_found_error"}}, F.BAD_REQUEST),
        (404, {"error": {"message": "File 'model' was not found"}}, F.BAD_REQUEST),
        (404, {"error": {"message": "No endpoints found that support tool use.", "code": 404}}, F.BAD_REQUEST),
        (404, b"no such image", F.BAD_REQUEST),
        (410, {"error": {"message": "The image is gone"}}, F.BAD_REQUEST),
        (403, {"error": {"message": "Access to the image URL was forbidden", "type": "invalid_request_error"}},
         F.BAD_REQUEST),
        (403, {"error": {"code": 403, "status": "PERMISSION_DENIED",
                         "message": "You do not have permission to access the File f or it may not exist."}},
         F.BAD_REQUEST),
        (400, {"error": {"message": "Model output format 'foo' is not supported"}}, F.BAD_REQUEST),
        (400, {"error": {"message": "Invalid authentication of the image url"}}, F.BAD_REQUEST),
        (400, {"error": {"message": "Unknown model parameter 'x'"}}, F.BAD_REQUEST),
        (200, {"error": {"message": "No such file", "type": "not_found_error"}}, F.BAD_REQUEST),
        # A firewall's, or nobody's that one could tell.
        (403, b"<html>Attention Required! | Cloudflare</html>", F.SERVER_ERROR),
        (403, b"", F.SERVER_ERROR),
        (403, {"message": "Forbidden"}, F.SERVER_ERROR),
        (403, b"Access denied.", F.SERVER_ERROR),
    ],
)  # fmt: skip
def test_one_callers_own_mistake_does_not_take_an_offer_from_the_others(status: int, body: object, kind: F) -> None:
    if status == 200:
        assert isinstance(body, dict)
        assert inside(body["error"]).kind is kind
    else:
        failure = failed(status, body)
        assert (failure.kind, failure.status) == (kind, status)
        assert (failure.body is not None) == (kind in IN_THE_PROVIDERS_WORDS)


def test_telling_whose_fault_it_was_takes_no_time() -> None:
    starts = ("the ", "no such ", " ", "error ", "404 ", "page ", "not ", ".", "model x", "key ", "\n")
    began = time.process_time()
    for start in starts:
        for status in (400, 403, 404):
            failed(status, {"error": {"message": start * (60_000 // len(start)), "type": "not_found_error"}})
    assert time.process_time() - began < 1.0  # milliseconds each


def test_a_quoted_prompt_cannot_put_a_provider_out_of_service() -> None:
    """A message may repeat what the caller wrote; only its start is the provider's own."""
    for words in ("incorrect api key provided", "insufficient balance", "the model x does not exist"):
        failure = failed(400, {"error": {"message": f"Invalid 'messages[0].content': '{words}'"}})
        assert failure.kind is F.BAD_REQUEST


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_words_that_may_quote_the_prompt_go_to_the_caller_alone() -> None:
    prompt = "My diagnosis is confidential"
    for status in (400, 413, 422, 451, 500):
        failure = failed(status, {"error": {"message": f"bad: {prompt}", "code": f"x {prompt}", "type": "t"}})
        assert prompt not in str(failure)
        assert "(t)" in failure.message
        assert (failure.body is not None) == (status != 500)
        if failure.body is not None:
            assert prompt in failure.body.decode()


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 413, 422, 429, 451, 500, 502, 503, 529, 200])
@pytest.mark.parametrize("place", ["message", "code", "type", "status", "text", "detail"])
def test_a_failure_is_told_in_our_words(status: int, place: str) -> None:
    """It is logged and stored, and whatever a provider says may quote the prompt."""
    prompt = "My diagnosis is confidential"
    body: object = {"error": {"code": 429 if status == 200 else None, place: f"I cannot serve: {prompt}"}}
    if place == "text":
        body = f"I cannot serve: {prompt}".encode()
    elif place == "detail":
        body = {"detail": [{"loc": [prompt], "msg": prompt}]}
    if status == 200:
        wire = read_error(body)
        if wire is None:
            return
        failure = failure_from_error(wire, status, {}, now_s=0.0)
    else:
        failure = failed(status, body)
    assert "diagnosis" not in f"{failure} {failure.message}"
    assert prompt.split()[0] not in failure.message


def test_a_code_that_is_a_name_is_kept_for_the_operator() -> None:
    failure = failed(404, {"error": {"message": "The model `gpt-9` does not exist", "code": "model_not_found"}})
    assert failure.message == (
        "the provider does not know the model; check the offer's model and the provider's base_url (model_not_found)"
    )
    for code in ("Too Many", "a" * 49, "a\nb", "diagnóstico", "1st", "", "a:b", "a/b", 429, ["x"], None):
        assert failed(429, {"error": {"message": "m", "code": code}}).message == "the provider's rate limit is reached"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"message": "m", "type": "t", "param": "p", "code": "c", "innererror": {"a": [1]}}},
         {"message": "m", "type": "t", "param": "p", "code": "c", "innererror": {"a": [1]}}),
        ({"detail": "m"}, {"message": "m", "type": "invalid_request_error", "param": None, "code": None}),
        ({"detail": [{"loc": ["body", "n"], "msg": "too small", "input": "the prompt"}]},
         {"message": "body.n: too small", "type": "invalid_request_error", "param": None, "code": None}),
        ({"message": "m", "request_id": "r"},
         {"message": "m", "type": "invalid_request_error", "param": None, "code": None, "request_id": "r"}),
        (b"no such x\n", {"message": "no such x", "type": "invalid_request_error", "param": None, "code": None}),
        (b"<html><h1>400</h1></html>", {"message": "The provider answered with a web page.",
                                        "type": "invalid_request_error", "param": None, "code": None}),
        (b"", {"message": "The provider gave no reason.",
               "type": "invalid_request_error", "param": None, "code": None}),
        ({"other": 1}, {"message": '{"other": 1}', "type": "invalid_request_error", "param": None, "code": None}),
    ],
)  # fmt: skip
def test_the_providers_words_come_in_openais_shape(body: object, error: dict[str, object]) -> None:
    failure = failed(400, body)
    assert failure.body is not None
    assert json.loads(failure.body) == {"error": error}


def test_words_are_bounded() -> None:
    huge = failed(400, {"error": {"message": "x" * 10_000, "more": "y" * MAX_BODY_BYTES, "code": "z" * MAX_BODY_BYTES}})
    assert huge.body is not None
    assert len(huge.body) < 1000
    assert len(json.loads(huge.body)["error"]["message"]) == MAX_MESSAGE_CHARS
    for endless in (b"x" * (MAX_BODY_BYTES + 1), {"error": {"message": "x" * (MAX_BODY_BYTES + 1)}}):
        body = failed(400, endless).body
        assert body is not None
        assert json.loads(body)["error"]["message"] == "The provider's reason is too long to repeat."
    deep: object = "x"
    for _ in range(900):
        deep = [deep]
    assert failed(400, {"error": {"message": "m", "deep": deep}}).body is not None


# ---- anything at all ------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "status", "detail", "param", "loc", "msg", "object"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)
bodies = (
    st.binary(max_size=100) | st.text(max_size=100).map(str.encode) | json_values.map(lambda v: json.dumps(v).encode())
)
headers = st.dictionaries(
    st.sampled_from(
        [b"retry-after", b"retry-after-ms", b"x-ratelimit-reset-requests", b"x-ratelimit-remaining-tokens"]
    ),
    st.binary(max_size=20) | st.text(max_size=20).map(str.encode) | st.floats().map(lambda v: str(v).encode()),
)


@given(st.integers(0, 1000), headers, bodies)
def test_any_answer_is_exactly_one_failure(status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    failure = failure_from_response(status, headers, body, now_s=1.7e9, secrets=(KEY,))
    assert failure.kind in F
    assert 0 < len(failure.message) <= MAX_MESSAGE_CHARS
    assert failure.retry_after_s is None or 0 <= failure.retry_after_s <= 86_400
    assert (failure.body is not None) == (failure.kind in IN_THE_PROVIDERS_WORDS)
    if failure.body is not None:
        error = json.loads(failure.body)["error"]
        assert isinstance(error["message"], str)
        assert set(error) >= {"message", "type", "param", "code"}


@given(st.integers(200, 299), json_values)
def test_any_error_object_is_exactly_one_failure(status: int, error: object) -> None:
    wire = read_error({"error": error})
    if wire is not None:
        assert failure_from_error(wire, status, {}, now_s=0.0).kind in F
