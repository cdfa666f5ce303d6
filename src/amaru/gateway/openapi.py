"""The OpenAPI 3.1 document of the whole API, with examples.

Schemas of amaru's own types come from the types themselves (msgspec), so they cannot drift. Those of OpenAI's
endpoints name the fields that amaru reads; every other field passes through untouched.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from amaru import __version__
from amaru.domain import Decision
from amaru.gateway.agent_api import MAX_BATCH, BatchIn, BatchOut, BestOut, FeedbackIn, FeedbackOut, WorkloadIn

Json = dict[str, Any]  # Any: a JSON document

TYPES = (WorkloadIn, Decision, BatchIn, BatchOut, BestOut, FeedbackIn, FeedbackOut)

ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}

_MODEL: Json = {"type": "string", "minLength": 1, "description": "A resource or alias of the configuration."}
_STREAM: Json = {"type": ["boolean", "null"]}
_TOKENS: Json = {"type": ["integer", "null"], "minimum": 1}
_N: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": 128}

CHAT: Json = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": _MODEL,
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"type": "string", "minLength": 1},
                    "content": {
                        "anyOf": [
                            {"type": "string"},
                            {"type": "null"},
                            {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["type"],
                                    "properties": {"type": {"type": "string"}},
                                },
                            },
                        ]
                    },
                },
            },
        },
        "stream": _STREAM,
        "max_tokens": _TOKENS,
        "max_completion_tokens": _TOKENS,
        "n": _N,
    },
}
COMPLETION: Json = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": {
        "model": _MODEL,
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {"type": "string"}},
            ]
        },
        "stream": _STREAM,
        "max_tokens": _TOKENS,
        "n": _N,
    },
}
EMBEDDING: Json = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": _MODEL,
        "input": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
            ]
        },
    },
}

CHAT_EXAMPLE: Json = {"model": "fast", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 32}
WORKLOAD_EXAMPLE: Json = {
    "workload_type": "llm_inference",
    "gpu_type": "A100",
    "region": "eu-west-1",
    "gpu_hours": 2.0,
    "max_price": 2.5,
    "weights": {"price": 0.5, "latency": 0.2, "reputation": 0.2, "availability": 0.1},
}

REQUEST_HEADERS: list[Json] = [
    {
        "name": "x-amaru-deadline-ms",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
        "description": "Milliseconds after which the caller no longer wants an answer; retries and waits fit inside.",
    },
    {
        "name": "x-amaru-session",
        "in": "header",
        "schema": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
        "description": "Names a conversation.",
    },
    {
        "name": "x-amaru-region",
        "in": "header",
        "schema": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
        "description": "Only offers that serve this region may answer.",
    },
]
RESPONSE_HEADERS: Json = {
    "x-amaru-decision": {"schema": {"type": "string"}, "description": "Ask `/decisions/{id}` why."},
    "x-amaru-provider": {"schema": {"type": "string"}, "description": "Who answered."},
    "x-amaru-attempts": {"schema": {"type": "string"}, "description": "How many offers were called."},
    "x-amaru-cost-usd": {
        "schema": {"type": "string"},
        "description": "Cost of the answer; for a stream, in its closing SSE comment and at `/decisions/{id}`.",
    },
}


@functools.cache
def openapi_document() -> Json:
    """The document as a JSON value."""
    _, components = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    paths: Json = {
        "/v1/chat/completions": {"post": _serve("Chat", "createChatCompletion", CHAT, CHAT_EXAMPLE)},
        "/v1/completions": {
            "post": _serve("Completion", "createCompletion", COMPLETION, {"model": "fast", "prompt": "Once upon"})
        },
        "/v1/embeddings": {
            "post": _serve("Embeddings", "createEmbedding", EMBEDDING, {"model": "embed", "input": "hello"}, False)
        },
        "/v1/models": {"get": _get("Resources and aliases that the key may use", "listModels")},
        "/agent/route": {
            "post": _typed("Rank every offer for a workload", "agentRoute", WorkloadIn, Decision, WORKLOAD_EXAMPLE)
        },
        "/agent/route/batch": {
            "post": _typed(
                f"Rank offers for up to {MAX_BATCH} workloads", "agentRouteBatch", BatchIn, BatchOut,
                {"workloads": [WORKLOAD_EXAMPLE]},
            )
        },
        "/route": {"post": _typed("The best offer only", "route", WorkloadIn, BestOut, WORKLOAD_EXAMPLE, 429, 503)},
        "/agent/feedback": {
            "post": _typed(
                "Report the outcome of a decision, exactly once", "agentFeedback", FeedbackIn, FeedbackOut,
                {"decision_id": "0198c0ffee", "ok": True, "latency_ms": 412.0, "cost_usd": 0.0031}, 409, 503,
            )
        },
        "/providers": {"get": _get("Every provider, its offers, and how they fare now", "listProviders")},
        "/providers/{id}": {"get": _get("One provider", "getProvider", 404, path="id")},
        "/decisions": {"get": _get("Stored decisions, newest first", "listDecisions", 400, 503, query=PAGE_QUERY)},
        "/decisions/{id}": {"get": _get("One decision and its outcome", "getDecision", 404, 503, path="id")},
        "/health/live": {"get": _get("The process answers", "live", open_=True)},
        "/health/ready": {"get": _get("The server takes traffic", "ready", 503, open_=True)},
        "/health": {"get": _get("Whether each resource can be served now", "health", 503, open_=True)},
        "/status": {"get": _get("Traffic, spend, offers, store, configuration (operators)", "status")},
        "/metrics": {"get": _get("Prometheus metrics (operators)", "metrics", media="text/plain")},
        "/openapi.json": {"get": _get("This document", "openapi", open_=True)},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "amaru",
            "version": __version__,
            "description": "One endpoint in front of every AI provider. Errors have OpenAI's shape everywhere.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "schemas": {**components, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


PAGE_QUERY: list[Json] = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}},
    {"name": "cursor", "in": "query", "schema": {"type": "string"}, "description": "`next_cursor` of the last page."},
    {"name": "tenant", "in": "query", "schema": {"type": "string"}, "description": "Operators only."},
    {"name": "resource", "in": "query", "schema": {"type": "string"}},
    {"name": "offer", "in": "query", "schema": {"type": "string"}},
    {"name": "ok", "in": "query", "schema": {"type": "boolean"}},
    {"name": "since", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 999_999_999_999}},
]


def _error(description: str) -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


ERRORS: dict[int, str] = {
    400: "The request is wrong; the message names the field and the remedy",
    401: "The key is missing or not known",
    403: "The tenant may not use this resource",
    404: "Unknown resource, provider or decision",
    409: "The outcome of this decision was already reported",
    413: "The body is too large",
    429: "Throttled; Retry-After says when to come back",
    502: "Every provider failed",
    503: "Nothing can serve this now",
    504: "No provider answered in time",
}


def _errors(*statuses: int) -> Json:
    return {str(status): _error(ERRORS[status]) for status in sorted(statuses)}


def _serve(summary: str, operation: str, schema: Json, example: Json, streams: bool = True) -> Json:
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "operationId": operation,
        "tags": ["OpenAI"],
        "parameters": REQUEST_HEADERS,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": {
            "200": {"description": "The provider's answer, verbatim", "headers": RESPONSE_HEADERS, "content": content},
            **_errors(400, 401, 403, 404, 413, 429, 502, 503, 504),
            "4XX": _error("The provider refused the request; its words are passed on"),
        },
    }


def _typed(summary: str, operation: str, body: type, answer: type, example: Json, *extra: int) -> Json:
    return {
        "summary": summary,
        "operationId": operation,
        "tags": ["Agents"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}, "example": example}
            },
        },
        "responses": {
            "200": {
                "description": "Done",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer.__name__}"}}},
            },
            **_errors(400, 401, 403, 404, 413, *extra),
        },
    }


def _get(
    summary: str,
    operation: str,
    *extra: int,
    path: str | None = None,
    query: list[Json] | None = None,
    media: str = "application/json",
    open_: bool = False,
) -> Json:
    parameters: list[Json] = list(query or [])
    if path is not None:
        parameters.append(
            {
                "name": path,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
            }
        )
    schema: Json = {"type": "object"} if media == "application/json" else {"type": "string"}
    errors = set(extra) | (set() if open_ else {401})
    if media == "application/json" and 503 in errors and operation in ("ready", "health"):
        not_now: Json = {"503": {"description": "Not now", "content": {media: {"schema": schema}}}}
        errors.discard(503)
    else:
        not_now = {}
    operation_: Json = {
        "summary": summary,
        "operationId": operation,
        "tags": ["Operations"],
        "responses": {
            "200": {"description": "Done", "content": {media: {"schema": schema}}},
            **_errors(*errors),
            **not_now,
        },
    }
    if parameters:
        operation_["parameters"] = parameters
    if open_:
        operation_["security"] = []
    return operation_
