"""Error objects as providers send them: OpenAI's, and the shapes that others have."""

from __future__ import annotations

from typing import Literal

import msgspec

ErrorShape = Literal["openai", "flat", "detail", "errors", "text"]
"""OpenAI's ``error``; its fields without it; FastAPI's ``detail``; a list of ``errors`` (JSON:API); words alone."""

# OpenAI's error codes with the status and the type that come with them.
ERROR_CODES: dict[str, tuple[int, str, str]] = {
    "insufficient_quota": (429, "insufficient_quota", "You exceeded your current quota, please check your plan."),
    "rate_limit_exceeded": (429, "requests", "Rate limit reached for requests. Please try again later."),
    "context_length_exceeded": (400, "invalid_request_error", "This model's maximum context length is exceeded."),
    "content_policy_violation": (400, "invalid_request_error", "Your request was rejected by our safety system."),
    "invalid_api_key": (401, "invalid_request_error", "Incorrect API key provided."),
    "model_not_found": (404, "invalid_request_error", "The model does not exist or you do not have access to it."),
}
ERROR_STATUSES: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request could not be understood."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    402: ("billing_error", "payment_required", "Insufficient balance."),
    403: ("permission_error", "forbidden", "Your key may not use this."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", None, "The server had an error while processing your request."),
    502: ("server_error", None, "Bad gateway."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
    504: ("server_error", None, "Gateway time-out."),
    529: ("overloaded_error", None, "Overloaded."),
}


def error_body(error: dict[str, object], shape: ErrorShape) -> bytes:
    """What OpenAI calls ``error``, in another shape."""
    match shape:
        case "flat":
            return msgspec.json.encode(error)
        case "detail":
            return msgspec.json.encode({"detail": error["message"]})
        case "errors":
            told = {"title": error["type"], "code": error["code"], "detail": error["message"]}
            return msgspec.json.encode({"success": False, "errors": [told]})
        case "text":
            return str(error["message"]).encode()
    return msgspec.json.encode({"error": error})
