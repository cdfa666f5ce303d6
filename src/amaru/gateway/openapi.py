"""The OpenAPI 3.1 document of the whole API, with examples; its schemas are in ``openapi_schemas``."""

from __future__ import annotations

import functools

from amaru import __version__
from amaru.domain import Rescue
from amaru.gateway.agent_api import MAX_BATCH
from amaru.gateway.conversations_api import conversation_paths
from amaru.gateway.openapi_admin import admin_paths, admin_schemas
from amaru.gateway.openapi_admin_parts import ADMIN
from amaru.gateway.openapi_health import health_paths
from amaru.gateway.openapi_ledger import ledger_paths
from amaru.gateway.openapi_schemas import ID, INTEGER, STRING, Json, component_schemas, ref

CHAT_EXAMPLE: Json = {"model": "fast", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 32}
COMPLETION_EXAMPLE: Json = {"model": "fast", "prompt": "Once upon a time", "max_tokens": 32}
EMBEDDING_EXAMPLE: Json = {"model": "embed", "input": "hello"}
WORKLOAD_EXAMPLE: Json = {
    "workload_type": "llm_inference",
    "gpu_type": "A100",
    "region": "eu-west-1",
    "gpu_hours": 2.0,
    "max_price": 2.5,
    "weights": {"price": 0.5, "latency": 0.2, "reputation": 0.2, "availability": 0.1},
}
MODEL_WORKLOAD_EXAMPLE: Json = {"model": "fast", "input_tokens": 800, "output_tokens": 200, "needs": ["stream"]}
ID_EXAMPLE = "019a5d0c3b7e4f21c8d96a07e35b1f42"
FEEDBACK_EXAMPLE: Json = {"decision_id": ID_EXAMPLE, "ok": True, "latency_ms": 412.0, "cost_usd": 0.0031}
STREAM_EXAMPLE = (
    'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hello"}}],…}\n\n'
    ': amaru {"decision":"019a5d0c3b7e4f21c8d96a07e35b1f42","provider":"openai","attempts":1,"cost_usd":0.0000042}\n\n'
    "data: [DONE]\n\n"
)

_LABEL: Json = {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"}
REQUEST_HEADERS: list[Json] = [
    {
        "name": "x-amaru-deadline-ms",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
        "description": "Milliseconds after which the caller no longer wants an answer; retries and waits fit inside.",
        "example": 30_000,
    },
    {
        "name": "x-amaru-rescue",
        "in": "header",
        "schema": {"type": "string", "enum": [wish.value for wish in Rescue]},
        "description": "Of a stream: `join` hands each event on as it comes, and joins another provider's answer where "
        "it breaks; `hold` holds the answer back until it is whole. Left out: what the tenant's settings say.",
        "example": "join",
    },
    {
        "name": "x-amaru-session",
        "in": "header",
        "schema": _LABEL,
        "description": "Names a conversation: its turns prefer the offer that has its prompt in its cache.",
        "example": "conversation-7",
    },
    {
        "name": "x-amaru-region",
        "in": "header",
        "schema": _LABEL,
        "description": "Only offers that serve this region may answer.",
        "example": "global",
    },
]
_PRINTABLE: Json = {"type": "string", "pattern": "^[ -~]*$"}
PAGE_QUERY: list[Json] = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}},
    {"name": "cursor", "in": "query", "schema": ID, "description": "`next_cursor` of the last page."},
    {
        "name": "tenant",
        "in": "query",
        "schema": _PRINTABLE,
        "description": "For operators; a tenant sees its own only.",
    },
    {"name": "team", "in": "query", "schema": _PRINTABLE},
    {
        "name": "key",
        "in": "query",
        "schema": _PRINTABLE,
        "description": "Id of a key of the store; of one that was rotated, the first one's.",
    },
    {"name": "resource", "in": "query", "schema": _PRINTABLE},
    {"name": "offer", "in": "query", "schema": _PRINTABLE},
    {"name": "ok", "in": "query", "schema": {"type": "boolean"}},
    {
        "name": "since",
        "in": "query",
        "schema": {"type": "number", "minimum": 0, "maximum": 999_999_999_999},
        "description": "Unix seconds.",
    },
    {
        "name": "until",
        "in": "query",
        "schema": {"type": "number", "minimum": 0, "maximum": 999_999_999_999},
        "description": "Unix seconds; not included.",
    },
    {
        "name": "provider",
        "in": "query",
        "schema": _PRINTABLE,
        "description": "That was asked, whether it answered or not.",
    },
    {
        "name": "min_cost_usd",
        "in": "query",
        "schema": {"type": "number", "minimum": 0, "exclusiveMaximum": 1_000_000_000},
    },
]

DECISION_HEADERS: Json = {
    "x-amaru-decision": {"required": True, "schema": ID, "description": "Ask `/decisions/{id}` why."},
    "x-amaru-attempts": {
        "required": True,
        "schema": INTEGER,
        "description": "How many calls it took; of a stream, until its first bytes.",
    },
    "x-amaru-provider": {
        "required": True,
        "schema": STRING,
        "description": "Who answered; of a stream that broke, first.",
    },
    "x-amaru-receipt": {
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "description": "Hash of the receipt's leaf in the ledger; `/decisions/{id}` proves that it is there.",
    },
    "x-amaru-cost-usd": {
        "schema": {"type": "number", "minimum": 0},
        "description": "Cost of the answer; for a stream, in its closing SSE comment and at `/decisions/{id}`.",
    },
}
RETRY_AFTER: Json = {
    "retry-after": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds, where it is known."},
    "retry-after-ms": {"schema": {"type": "integer", "minimum": 1}, "description": "The same in milliseconds."},
}
CHALLENGE: Json = {"www-authenticate": {"required": True, "schema": {"const": "Bearer"}}}

ERRORS: dict[int, tuple[str, Json]] = {
    400: ("The request is wrong; the message names the field and the remedy", {}),
    401: ("The key is missing or not known", CHALLENGE),
    403: ("The key does not open this", {}),
    404: ("Unknown resource, provider, decision or file", {}),
    408: ("The request did not arrive in time", {}),
    409: ("What is there already is in the way, or health is switched off; the message says what", {}),
    412: ("It was changed meanwhile: read it anew", {}),
    413: ("The body is too large", {}),
    414: ("The URL is too long", {}),
    417: ("An expectation other than 100-continue", {}),
    429: ("Throttled", RETRY_AFTER),
    431: ("The headers are too large or too many", {}),
    502: ("Every provider failed", {}),
    503: ("Nothing can serve this now", RETRY_AFTER),
    504: ("No provider answered in time", {}),
}
ANY_REQUEST = (400, 408, 413, 414, 417, 431, 503)
"""What the server itself may answer to whatever is sent, before an endpoint is asked."""


@functools.cache
def openapi_document() -> Json:
    """The document as a JSON value."""
    workloads = {"gpu": WORKLOAD_EXAMPLE, "model": MODEL_WORKLOAD_EXAMPLE}
    batch = {"batch": {"workloads": list(workloads.values())}}
    paths: Json = {
        "/v1/chat/completions": {
            "post": _serve("Chat", "createChatCompletion", "ChatRequest", CHAT_EXAMPLE, "Choices", streams=True)
        },
        "/v1/completions": {
            "post": _serve(
                "Completion", "createCompletion", "CompletionRequest", COMPLETION_EXAMPLE, "Choices", streams=True
            )
        },
        "/v1/embeddings": {
            "post": _serve("Embeddings", "createEmbedding", "EmbeddingRequest", EMBEDDING_EXAMPLE, "Embeddings")
        },
        "/v1/models": {"get": _get("Resources and aliases that the key may use", "listModels", "Models", 401)},
        "/agent/route": {
            "post": _receipted(
                _typed("Rank every offer for a workload", "agentRoute", "Workload", "Decision", workloads, 403, 404)
            )
        },
        "/agent/route/batch": {
            "post": _typed(
                f"Rank offers for up to {MAX_BATCH} workloads", "agentRouteBatch", "BatchIn", "BatchOut", batch
            )
        },
        "/route": {
            "post": _receipted(
                _typed("The best offer only", "route", "Workload", "BestOut", workloads, 403, 404, 429, 502)
            )
        },
        "/agent/feedback": {
            "post": _typed(
                "Report the outcome of a decision, exactly once",
                "agentFeedback",
                "FeedbackIn",
                "FeedbackOut",
                {"success": FEEDBACK_EXAMPLE},
                404,
                409,
            )
        },
        "/providers": {
            "get": _get("Every provider, its offers, and how they fare now", "listProviders", "Providers", 401)
        },
        "/providers/{id}": {
            "get": _get("One provider", "getProvider", "Provider", 401, 404, parameters=[_path("openai")])
        },
        "/decisions": {
            "get": _get("Stored decisions, newest first", "listDecisions", "DecisionPage", 401, parameters=PAGE_QUERY)
        },
        "/decisions/{id}": {
            "get": _get(
                "A decision and its outcome", "getDecision", "DecisionDetail", 401, 404, parameters=[_path(ID_EXAMPLE)]
            )
        },
        **conversation_paths(_get),
        "/health/live": {"get": _get("The process answers", "live", "Alive", security=[])},
        "/health/ready": {"get": _get("The server takes traffic", "ready", "Alive", security=[], not_now=True)},
        "/health": {
            "get": _get("Whether each resource can be served now", "health", "Health", security=[], not_now=True)
        },
        "/status": {
            "get": _get("Traffic, spend, offers, store, sensing", "status", "Status", 401, 403, security=OPERATOR)
        },
        "/policy": {
            "get": _get("The policy, and what it has learned", "policy", "Policy", 401, 403, security=OPERATOR)
        },
        **health_paths(_operators_get, _order, _events),
        **ledger_paths(_errors, OPERATOR),
        **admin_paths(_errors, _body),
        "/admin/decisions": {"get": _admin_decisions()},
        "/metrics": {"get": _get("Figures in Prometheus' formats", "metrics", None, 401, 403, security=OPERATOR)},
        "/openapi.json": {"get": _get("This document", "openapi", "Document", security=[])},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "amaru",
            "version": __version__,
            "description": "One endpoint in front of every AI provider. Errors have OpenAI's shape everywhere.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": [{"key": []}, {"apiKey": []}],
        "components": {
            "schemas": {
                **(schemas := component_schemas()),
                **admin_schemas(schemas),
                "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
            },
            "responses": {str(status): _error(*words) for status, words in ERRORS.items()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A tenant's key, or an operator's."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A tenant's key."},
                "operatorKey": {"type": "http", "scheme": "bearer", "description": "An operator's key."},
                "adminKey": {"type": "http", "scheme": "bearer", "description": "An admin key of the accounts."},
            },
        },
    }


OPERATOR: list[Json] = [{"operatorKey": []}]


# ---- the parts ------------------------------------------------------------------------------------------------------


def _error(description: str, headers: Json) -> Json:
    found: Json = {"description": description, "content": _json(ref("Error"))}
    return {**found, "headers": headers} if headers else found


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _errors(*statuses: int) -> Json:
    every = sorted({*statuses, *ANY_REQUEST})
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in every}


def _body(schema: str, examples: Json) -> Json:
    named = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": {"schema": ref(schema), "examples": named}}}


def _path(example: str) -> Json:
    schema = {"type": "string", "pattern": r"^[^/\x00-\x1f\x7f]+$"}
    return {"name": "id", "in": "path", "required": True, "schema": schema, "example": example}


def _serve(summary: str, operation: str, body: str, example: Json, answer: str, *, streams: bool = False) -> Json:
    content = _json(ref(answer))
    examples = {"whole": example}
    if streams:
        content["text/event-stream"] = {"example": STREAM_EXAMPLE}
        examples["stream"] = {**example, "stream": True}
    return {
        "summary": summary,
        "operationId": operation,
        "tags": ["OpenAI"],
        "parameters": REQUEST_HEADERS,
        "requestBody": _body(body, examples),
        "responses": {
            "200": {"description": "The provider's answer, verbatim", "headers": DECISION_HEADERS, "content": content},
            **_errors(401, 403, 404, 429, 502, 504),
            "4XX": _error("The provider refused the request; its words are passed on", {}),
        },
    }


def _typed(summary: str, operation: str, body: str, answer: str, examples: Json, *errors: int) -> Json:
    return {
        "summary": summary,
        "operationId": operation,
        "tags": ["Agents"],
        "requestBody": _body(body, examples),
        "responses": {"200": {"description": "Done", "content": _json(ref(answer))}, **_errors(401, *errors)},
    }


def _receipted(found: Json) -> Json:
    found["responses"]["200"]["headers"] = {"x-amaru-receipt": DECISION_HEADERS["x-amaru-receipt"]}
    return found


def _get(
    summary: str,
    operation: str,
    answer: str | None,
    *errors: int,
    parameters: list[Json] | None = None,
    security: list[Json] | None = None,
    not_now: bool = False,
) -> Json:
    """A GET. ``answer`` None: text for scrapers; ``not_now``: 503 carries the same answer as 200."""
    if answer is not None:
        content = _json(ref(answer))
    else:
        content = {media: {"schema": STRING} for media in ("text/plain", "application/openmetrics-text")}
    found: Json = {
        "summary": summary,
        "operationId": operation,
        "tags": ["Operations"],
        "responses": {"200": {"description": "Done", "content": content}, **_errors(*errors)},
    }
    if not_now and answer is not None:
        either = _json({"anyOf": [ref(answer), ref("Error")]})
        found["responses"]["503"] = {"description": "Not now", "content": either, "headers": RETRY_AFTER}
    if parameters:
        found["parameters"] = parameters
    if security is not None:
        found["security"] = security
    return found


def _operators_get(summary: str, operation: str, answer: str, parameters: list[Json] | None = None) -> Json:
    statuses = (401, 403) if parameters is None else (400, 401, 403)
    found = _get(summary, operation, answer, *statuses, parameters=parameters, security=OPERATOR)
    return {**found, "tags": ["Health"]}


def _admin_decisions() -> Json:
    found = _get(
        "Stored decisions of all tenants, newest first",
        "listAllDecisions",
        "DecisionPage",
        401,
        403,
        parameters=PAGE_QUERY,
        security=ADMIN,
    )
    return {**found, "tags": ["Admin"], "x-amaru-role": "read"}


def _order(summary: str, operation: str, body: str, answer: str, examples: Json, *errors: int) -> Json:
    found = _typed(summary, operation, body, answer, examples, 403, 409, *errors)
    found["requestBody"]["required"] = False  # without one, nothing is named
    return {**found, "tags": ["Health"], "security": OPERATOR}


def _events(summary: str, operation: str, example: str) -> Json:
    return {
        "summary": summary,
        "description": "Server-sent events: `report` first, then each `pattern`, `healing`, `field` and `guardian`, "
        "and `end`. One who reads too slowly is dropped, and told so by `end`.",
        "operationId": operation,
        "tags": ["Health"],
        "responses": {
            "200": {"description": "A stream without an end", "content": {"text/event-stream": {"example": example}}},
            **_errors(401, 403),
        },
        "security": OPERATOR,
    }
