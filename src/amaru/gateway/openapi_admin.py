"""What the OpenAPI document says of the admin API: paths and schemas, with an example of each body."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from amaru.accounts.allowances import Scope
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.directory_keys import KeyInfo, NewKey
from amaru.accounts.directory_tenants import TeamInfo, TenantInfo
from amaru.accounts.spend import By
from amaru.gateway.admin_bodies import (
    AllowanceIn,
    AllowanceOut,
    AllowancesOut,
    AuditOut,
    ExpireIn,
    KeyIn,
    KeysOut,
    ProviderOrderOut,
    ProviderOrdersOut,
    ReasonIn,
    RotateIn,
    TeamIn,
    TeamsOut,
    TenantChange,
    TenantIn,
    TenantsOut,
    WeightIn,
)

Json = dict[str, Any]  # Any: a JSON document

_IN = (TenantIn, TenantChange, TeamIn, KeyIn, RotateIn, ExpireIn, AllowanceIn, ReasonIn, WeightIn)
_OUT = (
    TenantsOut, TenantInfo, TeamsOut, TeamInfo, KeysOut, KeyInfo, NewKey, AllowancesOut, AllowanceOut, AuditOut,
    ProviderOrdersOut, ProviderOrderOut,
)  # fmt: skip
_TEMPLATE = "#/components/schemas/{name}"
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


def admin_schemas(others: Json) -> Json:
    """The schemas of bodies and answers, but for those that are among ``others`` already."""
    _, found = models_json_schema([(model, "validation") for model in _IN], ref_template="#/components/schemas/{model}")
    _, out = msgspec.json.schema_components(_OUT, ref_template=_TEMPLATE)
    schemas = {**found["$defs"], **out, "SpendOut": _SPEND, "ChargesOut": _CHARGES}
    schemas["AuditRow"]["properties"] |= {name: {"description": "Null: nothing."} for name in ("before", "after")}
    return {name: schema for name, schema in schemas.items() if name not in others}


def admin_paths(errors: Any, body: Any) -> Json:  # Any: what `openapi` makes errors and bodies of
    """The paths below ``/admin/``."""

    def operation(
        role: str,
        summary: str,
        name: str,
        answer: str,
        *statuses: int,
        sends: tuple[str, Json] | None = None,
        parameters: list[Json] | None = None,
        status: int = 200,
    ) -> Json:
        found: Json = {
            "summary": summary,
            "description": f"Needs an admin key with the role `{role}`, or an operator's key.",
            "operationId": name,
            "tags": ["Admin"],
            "responses": {
                str(status): {
                    "description": "Done",
                    "content": {"application/json": {"schema": {"$ref": _TEMPLATE.format(name=answer)}}},
                },
                **errors(401, 403, *statuses),
            },
            "security": ADMIN,
            "x-amaru-role": role,
        }
        if sends is not None:
            found["requestBody"] = body(*sends)
        if parameters is not None:
            found["parameters"] = parameters
        return found

    tenant, key, provider = _id("shop"), _id("k-0b1c2d3e4f5a"), _id("openai")
    team = {**_id("web"), "name": "team"}
    allowance = _id("tenant:shop:usd:month")
    archived, over = _flag("archived", "With those that are archived."), _flag("over", "With those that open nothing.")
    whys = ("ReasonIn", {"reason": {"reason": "its invoices are wrong"}})
    return {
        "/admin/tenants": {
            "get": operation(READ, "Every tenant", "listTenants", "TenantsOut", parameters=[archived]),
            "post": operation(
                OWN, "Make a tenant", "createTenant", "TenantInfo", 409, sends=("TenantIn", {"shop": TENANT_EXAMPLE}),
                status=201,
            ),
        },
        "/admin/tenants/{id}": {
            "get": operation(READ, "One tenant", "getTenant", "TenantInfo", 404, parameters=[tenant]),
            "patch": operation(
                OWN, "Change a tenant; settings are replaced whole", "changeTenant", "TenantInfo", 404, 409, 412,
                sends=("TenantChange", {"name": {"name": "The shop"}}), parameters=[tenant, IF_MATCH],
            ),
            "delete": operation(
                OWN, "Archive a tenant: its keys open nothing", "archiveTenant", "TenantInfo", 404, 409,
                parameters=[tenant],
            ),
        },
        "/admin/tenants/{id}/restore": {
            "post": operation(
                OWN, "Let an archived tenant ask again", "restoreTenant", "TenantInfo", 404, 409, parameters=[tenant]
            )
        },
        "/admin/tenants/{id}/teams": {
            "get": operation(READ, "Teams of a tenant", "listTeams", "TeamsOut", 404, parameters=[tenant, archived]),
            "post": operation(
                OWN, "Make a team", "createTeam", "TeamInfo", 404, 409, sends=("TeamIn", {"web": {"id": "web"}}),
                parameters=[tenant], status=201,
            ),
        },
        "/admin/tenants/{id}/teams/{team}": {
            "delete": operation(
                OWN, "Archive a team: its keys open nothing", "archiveTeam", "TeamInfo", 404, parameters=[tenant, team]
            )
        },
        "/admin/tenants/{id}/teams/{team}/restore": {
            "post": operation(
                OWN, "Let an archived team ask again", "restoreTeam", "TeamInfo", 404, parameters=[tenant, team]
            )
        },
        "/admin/keys": {
            "get": operation(
                READ, "Keys, a page at a time", "listKeys", "KeysOut",
                parameters=[*_page("k-0b1c2d3e4f5a"), over, _text("tenant")],
            ),
            "post": operation(
                OWN, "Make a key: shown once", "createKey", "NewKey", 404, 409, sends=("KeyIn", KEY_EXAMPLES),
                parameters=[ONCE], status=201,
            ),
        },
        "/admin/keys/{id}": {
            "get": operation(READ, "One key, as lists show it", "getKey", "KeyInfo", 404, parameters=[key]),
            "delete": operation(OPERATE, "Revoke a key", "revokeKey", "KeyInfo", 404, parameters=[key]),
        },
        "/admin/keys/{id}/rotate": {
            "post": operation(
                OPERATE, "Another key in its place: shown once", "rotateKey", "NewKey", 404, 409,
                sends=("RotateIn", {"overlap": {"overlap_s": 3600}}), parameters=[key, ONCE], status=201,
            )
        },
        "/admin/keys/{id}/expire": {
            "post": operation(
                OPERATE, "Have a key end, or last", "expireKey", "KeyInfo", 404, 409,
                sends=("ExpireIn", {"end": {"expires_at": 4102444800}, "never": {"lasts": True}}), parameters=[key],
            )
        },
        "/admin/allowances": {
            "get": operation(
                READ, "Budgets and limits, with what is left", "listAllowances", "AllowancesOut",
                parameters=[{**_text("scope"), "schema": {"enum": list(Scope)}}, _text("subject")],
            ),
            "post": operation(
                OWN, "Set a budget or a limit", "setAllowance", "AllowanceOut", 404, 409,
                sends=("AllowanceIn", ALLOWANCE_EXAMPLES),
            ),
        },
        "/admin/allowances/{id}": {
            "get": operation(READ, "One budget or limit", "getAllowance", "AllowanceOut", 404, parameters=[allowance]),
            "delete": operation(
                OWN, "Have it bind nobody", "archiveAllowance", "AllowanceOut", 404, 409, parameters=[allowance]
            ),
        },
        "/admin/audit": {
            "get": operation(
                READ, "Who changed what, newest first", "audit", "AuditOut", parameters=[*_page("42"), _text("subject")]
            )
        },
        "/admin/spend": {
            "get": operation(
                READ, "What was spent, in sums", "spend", "SpendOut",
                parameters=[_by(), *_times(), *_spend_filters()],
            )
        },
        "/admin/charges": {
            "get": operation(
                READ, "Single charges, oldest first", "listCharges", "ChargesOut",
                parameters=[*_page("1767225600.5~c-1"), _text("decision"), *_times(), *_spend_filters()],
            )
        },
        "/admin/providers": {
            "get": operation(READ, "What is ordered about providers", "listProviderOrders", "ProviderOrdersOut")
        },
        "/admin/providers/{id}/drain": {
            "post": operation(
                OPERATE, "Have a provider serve only what no other can", "drainProvider", "ProviderOrderOut", 404, 409,
                sends=whys, parameters=[provider],
            )
        },
        "/admin/providers/{id}/enable": {
            "post": operation(
                OPERATE, "Have a drained provider serve again", "enableProvider", "ProviderOrderOut", 404, 409,
                sends=whys, parameters=[provider],
            )
        },
        "/admin/providers/{id}/weight": {
            "post": operation(
                OPERATE, "Have its scores count so much", "weighProvider", "ProviderOrderOut", 404, 409,
                sends=("WeightIn", {"half": {"weight": 0.5, "reason": "dear"}}), parameters=[provider],
            )
        },
        "/admin/events": {"get": _events(errors)},
    }  # fmt: skip


def _id(example: str) -> Json:
    schema = {"type": "string", "pattern": r"^[^/\x00-\x1f\x7f]+$"}
    return {"name": "id", "in": "path", "required": True, "schema": schema, "example": example}


def _text(name: str) -> Json:
    return {"name": name, "in": "query", "schema": {"type": "string", "pattern": "^[ -~]*$"}}


def _flag(name: str, description: str) -> Json:
    schema = {"type": "boolean", "default": False}
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _page(example: str) -> list[Json]:
    limit = {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    return [
        {"name": "limit", "in": "query", "schema": limit},
        {**_text("cursor"), "description": "`next_cursor` of the last page.", "example": example},
    ]


def _times() -> list[Json]:
    words = "Unix seconds, or a date like 2026-01-31 (UTC)."
    return [{**_text(name), "description": words} for name in ("since", "until")]


def _by() -> Json:
    known = "|".join(By)
    schema = {"type": "string", "pattern": f"^({known})(,({known}))*$", "default": "tenant,model"}
    return {"name": "by", "in": "query", "schema": schema, "description": "What sums are told apart by."}


def _spend_filters() -> list[Json]:
    texts = [_text(name) for name in ("tenant", "team", "key", "model", "provider", "offer")]
    return [*texts, {"name": "status", "in": "query", "schema": {"enum": list(ChargeStatus)}}]


def _events(errors: Any) -> Json:  # Any: as above
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
_SPEND: Json = {
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
_CHARGES: Json = {
    "type": "object",
    "required": ["charges", "next_cursor"],
    "properties": {
        "charges": {"type": "array", "items": _ROW},
        "next_cursor": {"type": ["string", "null"]},
    },
}
