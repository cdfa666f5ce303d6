"""What the OpenAPI document says of the admin API: paths and schemas, with an example of each body."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from amaru.accounts.allowances import Scope
from amaru.accounts.directory_keys import KeyInfo, NewKey
from amaru.accounts.directory_tenants import TeamInfo, TenantInfo
from amaru.accounts.outbox import MessageInfo, State
from amaru.gateway.admin_bodies import (
    AlertsOut,
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
from amaru.gateway.openapi_admin_parts import (
    ADMIN,
    ALLOWANCE_EXAMPLES,
    CHARGES,
    ETAG,
    IF_MATCH,
    KEY_EXAMPLES,
    ONCE,
    OPERATE,
    OWN,
    READ,
    SPEND,
    TENANT_EXAMPLE,
    Json,
    by_in_query,
    events_operation,
    flag_in_query,
    id_in_path,
    page_in_query,
    spend_filters,
    text_in_query,
    times_in_query,
)

_IN = (TenantIn, TenantChange, TeamIn, KeyIn, RotateIn, ExpireIn, AllowanceIn, ReasonIn, WeightIn)
_OUT = (
    TenantsOut, TenantInfo, TeamsOut, TeamInfo, KeysOut, KeyInfo, NewKey, AllowancesOut, AllowanceOut, AuditOut,
    ProviderOrdersOut, ProviderOrderOut, AlertsOut, MessageInfo,
)  # fmt: skip
_TEMPLATE = "#/components/schemas/{name}"


def admin_schemas(others: Json) -> Json:
    """The schemas of bodies and answers, but for those that are among ``others`` already."""
    _, found = models_json_schema([(model, "validation") for model in _IN], ref_template="#/components/schemas/{model}")
    _, out = msgspec.json.schema_components(_OUT, ref_template=_TEMPLATE)
    schemas = {**found["$defs"], **out, "SpendOut": SPEND, "ChargesOut": CHARGES}
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
        has_tag: bool = False,
    ) -> Json:
        if IF_MATCH in (parameters or ()):
            statuses, has_tag = (*statuses, 412), True
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
        if has_tag:
            found["responses"][str(status)]["headers"] = ETAG
        if sends is not None:
            found["requestBody"] = body(*sends)
        if parameters is not None:
            found["parameters"] = parameters
        return found

    tenant, key, provider = id_in_path("shop"), id_in_path("k-0b1c2d3e4f5a"), id_in_path("openai")
    team = {**id_in_path("web"), "name": "team"}
    allowance, alert = id_in_path("tenant:shop:usd:month"), id_in_path("1")
    archived, over = (
        flag_in_query("archived", "With those that are archived."),
        flag_in_query("over", "With those that open nothing."),
    )
    whys = ("ReasonIn", {"reason": {"reason": "its invoices are wrong"}})
    return {
        "/admin/tenants": {
            "get": operation(
                READ, "Tenants, a page at a time", "listTenants", "TenantsOut",
                parameters=[*page_in_query("store:shop"), archived],
            ),
            "post": operation(
                OWN, "Make a tenant", "createTenant", "TenantInfo", 409, sends=("TenantIn", {"shop": TENANT_EXAMPLE}),
                status=201, has_tag=True,
            ),
        },
        "/admin/tenants/{id}": {
            "get": operation(
                READ, "One tenant", "getTenant", "TenantInfo", 404, parameters=[tenant], has_tag=True
            ),
            "patch": operation(
                OWN, "Change a tenant; settings are replaced whole", "changeTenant", "TenantInfo", 404, 409,
                sends=("TenantChange", {"name": {"name": "The shop"}}), parameters=[tenant, IF_MATCH],
            ),
            "delete": operation(
                OWN, "Archive a tenant: its keys open nothing", "archiveTenant", "TenantInfo", 404, 409,
                parameters=[tenant, IF_MATCH],
            ),
        },
        "/admin/tenants/{id}/restore": {
            "post": operation(
                OWN, "Let an archived tenant ask again", "restoreTenant", "TenantInfo", 404, 409,
                parameters=[tenant, IF_MATCH],
            )
        },
        "/admin/tenants/{id}/teams": {
            "get": operation(
                READ, "Teams of a tenant, a page at a time", "listTeams", "TeamsOut", 404,
                parameters=[tenant, *page_in_query("shop/web"), archived],
            ),
            "post": operation(
                OWN, "Make a team", "createTeam", "TeamInfo", 404, 409, sends=("TeamIn", {"web": {"id": "web"}}),
                parameters=[tenant], status=201, has_tag=True,
            ),
        },
        "/admin/tenants/{id}/teams/{team}": {
            "get": operation(
                READ, "One team", "getTeam", "TeamInfo", 404, parameters=[tenant, team], has_tag=True
            ),
            "delete": operation(
                OWN, "Archive a team: its keys open nothing", "archiveTeam", "TeamInfo", 404,
                parameters=[tenant, team, IF_MATCH],
            ),
        },
        "/admin/tenants/{id}/teams/{team}/restore": {
            "post": operation(
                OWN, "Let an archived team ask again", "restoreTeam", "TeamInfo", 404,
                parameters=[tenant, team, IF_MATCH],
            )
        },
        "/admin/keys": {
            "get": operation(
                READ, "Keys, a page at a time", "listKeys", "KeysOut",
                parameters=[*page_in_query("k-0b1c2d3e4f5a"), over, text_in_query("tenant")],
            ),
            "post": operation(
                OWN, "Make a key: shown once", "createKey", "NewKey", 404, 409, sends=("KeyIn", KEY_EXAMPLES),
                parameters=[ONCE], status=201, has_tag=True,
            ),
        },
        "/admin/keys/{id}": {
            "get": operation(
                READ, "One key, as lists show it", "getKey", "KeyInfo", 404, parameters=[key], has_tag=True
            ),
            "delete": operation(OPERATE, "Revoke a key", "revokeKey", "KeyInfo", 404, parameters=[key, IF_MATCH]),
        },
        "/admin/keys/{id}/rotate": {
            "post": operation(
                OWN, "Another key in its place: shown once", "rotateKey", "NewKey", 404, 409,
                sends=("RotateIn", {"overlap": {"overlap_s": 3600}}), parameters=[key, ONCE, IF_MATCH],
                status=201,
            )
        },
        "/admin/keys/{id}/expire": {
            "post": operation(
                OPERATE, "Have a key end, or last", "expireKey", "KeyInfo", 404, 409,
                sends=("ExpireIn", {"end": {"expires_at": 4102444800}, "never": {"lasts": True}}),
                parameters=[key, IF_MATCH],
            )
        },
        "/admin/allowances": {
            "get": operation(
                READ, "Budgets and limits, with what is left, a page at a time", "listAllowances", "AllowancesOut",
                parameters=[
                    *page_in_query("store:tenant:shop:usd:month"),
                    {**text_in_query("scope"), "schema": {"enum": list(Scope)}},
                    text_in_query("subject"),
                ],
            ),
            "post": operation(
                OWN, "Set a budget or a limit", "setAllowance", "AllowanceOut", 404, 409,
                sends=("AllowanceIn", ALLOWANCE_EXAMPLES), parameters=[IF_MATCH],
            ),
        },
        "/admin/allowances/{id}": {
            "get": operation(
                READ, "One budget or limit", "getAllowance", "AllowanceOut", 404, parameters=[allowance], has_tag=True
            ),
            "delete": operation(
                OWN, "Have it bind nobody", "archiveAllowance", "AllowanceOut", 404, 409,
                parameters=[allowance, IF_MATCH],
            ),
        },
        "/admin/alerts": {
            "get": operation(
                READ, "Alerts of budgets, newest first, and whether the webhook took them", "listAlerts", "AlertsOut",
                parameters=[*page_in_query("42"), {**text_in_query("state"), "schema": {"enum": list(State)}}],
            )
        },
        "/admin/alerts/{id}": {
            "get": operation(READ, "One alert", "getAlert", "MessageInfo", 404, parameters=[alert])
        },
        "/admin/alerts/{id}/retry": {
            "post": operation(
                OPERATE, "Send one anew that was not delivered", "retryAlert", "MessageInfo", 404, 409,
                parameters=[alert],
            )
        },
        "/admin/audit": {
            "get": operation(
                READ, "Who changed what, newest first", "audit", "AuditOut",
                parameters=[*page_in_query("42"), text_in_query("subject")],
            )
        },
        "/admin/spend": {
            "get": operation(
                READ, "What was spent, in sums", "spend", "SpendOut",
                parameters=[by_in_query(), *times_in_query(), *spend_filters()],
            )
        },
        "/admin/charges": {
            "get": operation(
                READ, "Single charges, oldest first", "listCharges", "ChargesOut",
                parameters=[
                    *page_in_query("1767225600.5~c-1"), text_in_query("decision"), *times_in_query(), *spend_filters(),
                ],
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
        "/admin/events": {"get": events_operation(errors)},
    }  # fmt: skip
