"""Parts of what the OpenAPI document says of the admin API: examples, parameters, and shapes that no type has."""

from __future__ import annotations

from typing import Any

from amaru.accounts.charges import ChargeStatus
from amaru.accounts.spend import By

Json = dict[str, Any]  # Any: a JSON document

ADMIN: list[Json] = [{"adminKey": []}, {"operatorKey": []}]
READ, OPERATE, OWN = "read", "operate", "own"
EVENTS_EXAMPLE = (
    'event: open\nid: 41.0.9f3c21d7.0\ndata: {"run":"9f3c21d7"}\n\n'
    'event: change\nid: 42.0.9f3c21d7.0\ndata: {"id":42,"action":"key.revoke","actor":"k-0b1c2d3e4f5a",…}\n\n'
    'event: breaker\nid: 42.0.9f3c21d7.1\ndata: {"offer":"openai/gpt-4o-mini","state":"open"}\n\n'
)
TENANT_EXAMPLE: Json = {
    "id": "shop",
    "name": "The shop",
    "settings": {"weights": {"price": 1, "latency": 1}, "limits": {"max_price": 10}, "resources": ["fast"]},
}
KEY_EXAMPLES: Json = {
    "tenant": {"tenant": "team", "name": "checkout", "expires_at": 4102444800},
    "admin": {"role": "operate", "name": "night shift"},
}
ALLOWANCE_EXAMPLES: Json = {
    "budget": {
        "scope": "tenant",
        "subject": "team",
        "metric": "usd",
        "period": "month",
        "amount": "250.00",
        "alerts": [0.5, 0.8, 1],
    },
    "limit": {"scope": "tenant", "subject": "team", "metric": "requests", "period": "minute", "amount": 600},
}
ONCE: Json = {
    "name": "idempotency-key",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "Names this wish: repeated, it makes no second key, and is answered 409.",
}
IF_MATCH: Json = {
    "name": "if-match",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "The `etag` that it was read with: changed meanwhile, it is left as it is.",
}
ETAG: Json = {
    "etag": {
        "description": "Of what it is now, for `if-match`; use alone does not change it.",
        "schema": {"type": "string"},
    }
}


def id_in_path(example: str) -> Json:
    """The id of the thing."""
    schema = {"type": "string", "pattern": r"^[^/\x00-\x1f\x7f]+$"}
    return {"name": "id", "in": "path", "required": True, "schema": schema, "example": example}


def text_in_query(name: str) -> Json:
    """A filter."""
    return {"name": name, "in": "query", "schema": {"type": "string", "pattern": "^[ -~]*$"}}


def flag_in_query(name: str, description: str) -> Json:
    """A wish for more."""
    schema = {"type": "boolean", "default": False}
    return {"name": name, "in": "query", "schema": schema, "description": description}


def page_in_query(example: str) -> list[Json]:
    """Which page."""
    limit = {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    return [
        {"name": "limit", "in": "query", "schema": limit},
        {**text_in_query("cursor"), "description": "`next_cursor` of the last page.", "example": example},
    ]


def times_in_query() -> list[Json]:
    """From when until when."""
    words = "Unix seconds, or a date like 2026-01-31 (UTC)."
    return [{**text_in_query(name), "description": words} for name in ("since", "until")]


def by_in_query() -> Json:
    """What sums are told apart by."""
    known = "|".join(By)
    schema = {"type": "string", "pattern": f"^({known})(,({known}))*$", "default": "tenant,model"}
    return {"name": "by", "in": "query", "schema": schema, "description": "What sums are told apart by."}


def spend_filters() -> list[Json]:
    """Whose charges."""
    texts = [text_in_query(name) for name in ("tenant", "team", "key", "model", "provider", "offer")]
    return [*texts, {"name": "status", "in": "query", "schema": {"enum": list(ChargeStatus)}}]


def events_operation(errors: Any) -> Json:  # Any: what `openapi` makes errors of
    """``GET /admin/events``."""
    last = {"type": "string", "pattern": r"^\d{1,18}\.\d{1,18}\.[0-9a-f]{8}\.\d{1,18}$"}
    return {
        "summary": "What happens, as it happens; a reader can resume",
        "description": "Needs an admin key with the role `read`, or an operator's key. Server-sent events: `open`, or "
        "what was missed since `Last-Event-ID`; then each `change`, `alert`, `pattern`, `healing`, `guardian`, "
        "`breaker` and `reload`; `reset` where a gap cannot be filled, and `end`.",
        "operationId": "adminEvents",
        "tags": ["Admin"],
        "parameters": [
            {"name": "last-event-id", "in": "header", "schema": last, "example": "42.0.9f3c21d7.1"},
        ],
        "responses": {
            "200": {"description": "A stream without an end", "content": {"text/event-stream": {
                "example": EVENTS_EXAMPLE}}},
            **errors(401, 403),
        },
        "security": ADMIN,
        "x-amaru-role": READ,
    }  # fmt: skip


_ROW: Json = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
SPEND: Json = {
    "type": "object",
    "required": ["by", "since", "until", "rows", "more"],
    "properties": {
        "by": {"type": "array", "items": {"enum": list(By)}},
        "since": {"type": ["number", "null"], "description": "Unix seconds."},
        "until": {"type": ["number", "null"]},
        "rows": {"type": "array", "items": _ROW, "description": "Amounts of US dollars are exact, as texts."},
        "more": {"type": "boolean", "description": "There are more sums than one answer holds."},
    },
}
CHARGES: Json = {
    "type": "object",
    "required": ["charges", "next_cursor"],
    "properties": {
        "charges": {"type": "array", "items": _ROW},
        "next_cursor": {"type": ["string", "null"]},
    },
}
