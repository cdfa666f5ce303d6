"""The OpenAPI document is valid and true: Schemathesis asks a running gateway whatever it allows, and what it does not.

Schemathesis runs as a program, through all of its phases, on a copy of the served document in which ``model`` and
``gpu_type`` can only be what this gateway serves: so its requests pass routing and reach providers.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from admin_world import alerted
from gateway_world import KEY, OPERATOR_KEY, MakeWorld, World
from schemathesis import openapi
from starlette.routing import Route

from amaru.domain import Offer, Price
from amaru.gateway.access import Access
from amaru.gateway.admin_api import AdminApi
from amaru.gateway.conversations_api import ConversationsApi
from amaru.gateway.health_api import HealthApi
from amaru.gateway.ledger_api import LedgerApi
from amaru.gateway.openapi import openapi_document
from amaru.gateway.operator_api import OperatorApi
from amaru.mesh import Views
from amaru.mesh.views import status_of
from amaru.routing.board import Board
from amaru.routing.breaker import State
from amaru.simulation import ProviderProfile

DOCUMENT = json.loads(json.dumps(openapi_document()))
ALLOWANCE = "tenant:shop:usd:month"
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]

TIMES = {"first_token_ms": 5000, "answer_ms": 5000}
GPU = {"kinds": ["gpu_job"], "regions": ["eu-west-1"], "price": {"usd_per_gpu_hour": 1.8}}
MODEL = {
    "kinds": ["chat", "completion"],
    "capabilities": ["stream", "tools", "vision", "json_schema"],
    "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2},
}
OFFERS = [
    {"provider": "openai", "resource": "sim", "model": "sim-model", **MODEL},
    {"provider": "beta", "resource": "sim", "model": "sim-model", **MODEL},
    {"provider": "openai", "resource": "embed", "model": "sim-embed", "kinds": ["embedding"],
     "price": {"input_usd_per_mtok": 0.1}},
    {"provider": "beta", "resource": "A100", **GPU},
]  # fmt: skip


@pytest.fixture
async def shown(make_world: MakeWorld) -> AsyncIterator[World]:
    """A gateway that serves what the document's examples ask for."""
    roomy = {name: ProviderProfile(name=name, context_window_tokens=2**50) for name in ("openai", "beta")}
    extra = {"offers": OFFERS, "ledger": {}}
    async with make_world(("openai", "beta"), profiles=roomy, extra=extra, routing=TIMES, with_accounts=True) as made:
        yield made


def body_examples() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Path, method, name and value of every request body that the document shows."""
    for path, method in OPERATIONS:
        content = DOCUMENT["paths"][path][method].get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            yield path, method, name, example["value"]


def errors_in(value: Any, schema: dict[str, Any]) -> list[str]:
    """What ``value`` breaks of ``schema``, which may refer to the document's components."""
    validator = jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    return [error.message for error in validator.iter_errors(value)]


def filled(path: str, decision: str, key: str = "k-none") -> str:
    """``path`` with an id that exists."""
    if path == "/ledger/checkpoints/{path}":
        return path.replace("{path}", "000.p/1")
    known = {"/decisions": decision, "/admin/tenants": "shop", "/admin/keys": key, "/admin/allow": ALLOWANCE,
             "/admin/alerts": "1"}  # fmt: skip
    id = next((id for start, id in known.items() if path.startswith(start)), "openai")
    return path.replace("{id}", id).replace("{team}", "web")


async def made_by_admin(world: World) -> str:
    """An alert that nobody took, a tenant, a team, a budget, and a key whose id this is."""
    alerted(world)
    headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
    for path, body in (
        ("/tenants", {"id": "shop"}),
        ("/tenants/shop/teams", {"id": "web"}),
        ("/allowances", {"scope": "tenant", "subject": "shop", "metric": "usd", "period": "month", "amount": 5}),
        ("/providers/openai/weight", {"weight": 0.5}),
        ("/keys", {"tenant": "shop"}),
    ):
        answer = await world.client.post(f"/admin{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
    return str(answer.json()["info"]["id"])


# ---- the document by itself -----------------------------------------------------------------------------------------


def test_document_is_valid_openapi() -> None:
    openapi.from_dict(DOCUMENT).validate()
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert re.fullmatch("[A-Za-z]+", name)


def test_every_reference_leads_somewhere_and_every_part_is_used() -> None:
    references = set(re.findall(r'"\$ref": "#/components/([^"]+)"', json.dumps(DOCUMENT)))
    parts = {f"{kind}/{name}" for kind in ("schemas", "responses") for name in DOCUMENT["components"][kind]}
    assert references == parts


def test_operations_have_ids_of_their_own() -> None:
    ids = [DOCUMENT["paths"][path][method]["operationId"] for path, method in OPERATIONS]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("path", "method", "name", "value"), list(body_examples()), ids=lambda value: str(value)[:40])
def test_examples_are_valid_against_their_schemas(path: str, method: str, name: str, value: dict[str, Any]) -> None:
    content = DOCUMENT["paths"][path][method]["requestBody"]["content"]["application/json"]
    assert errors_in(value, content["schema"]) == []


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_examples_of_parameters_are_valid(path: str, method: str) -> None:
    for parameter in DOCUMENT["paths"][path][method].get("parameters", []):
        if "example" in parameter:
            assert errors_in(parameter["example"], parameter["schema"]) == []


# ---- the document and a gateway -------------------------------------------------------------------------------------


async def test_every_path_served_is_described_and_the_other_way_round(shown: World) -> None:
    posts = shown.gateway._posts  # the routing table has no public face
    access = Access(shown.mesh)
    views = Views(shown.mesh)
    assert shown.accounts is not None
    admin = AdminApi(shown.mesh, views, access, shown.accounts)
    further = [
        *HealthApi(shown.mesh, access).routes(), *LedgerApi(shown.mesh, views, access).routes(), *admin.routes(),
        *ConversationsApi(shown.mesh, access).routes(),
    ]  # fmt: skip
    operator = OperatorApi(views, access, further=further, ready=lambda: True)
    routes = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in operator.app().routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {*dict.fromkeys(posts, "post").items(), *routes, ("/v1/models", "get")} == set(OPERATIONS)
    assert (await shown.client.get("/openapi.json")).json() == DOCUMENT
    told = {(entry.path.replace(":path}", "}"), entry.method.lower(), entry.role) for entry in admin.table()}
    assert told == {
        (path, method, DOCUMENT["paths"][path][method]["x-amaru-role"])
        for path, method in OPERATIONS
        if path.startswith("/admin/")
    }


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
async def test_keys_are_asked_for_where_the_document_says(shown: World, path: str, method: str) -> None:
    """Before anything else is looked at: the body here is none, the ids are unknown."""
    security = DOCUMENT["paths"][path][method].get("security", DOCUMENT["security"])
    async with httpx.AsyncClient(base_url=shown.base_url) as stranger:
        for headers in ({}, {"authorization": "Bearer sk-amaru-unknown"}, {"x-api-key": "sk-amaru-unknown"}):
            response = await stranger.request(method, filled(path, "0" * 32), headers=headers)
            if not security:
                assert response.status_code == 200
            elif any("operatorKey" in names for names in security):
                assert response.status_code in (401, 403)
            else:
                assert response.status_code == 401
    if any("operatorKey" in names for names in security):
        assert (await shown.client.request(method, path)).status_code == 403


@pytest.mark.parametrize(("path", "method", "name", "value"), list(body_examples()), ids=lambda value: str(value)[:40])
async def test_examples_work(shown: World, path: str, method: str, name: str, value: dict[str, Any]) -> None:
    operation = DOCUMENT["paths"][path][method]
    key = ""
    if path.startswith(("/health/", "/admin/")):
        shown.client.headers["authorization"] = f"Bearer {OPERATOR_KEY}"
    if path.startswith("/admin/") and "{id}" in path:
        key = await made_by_admin(shown)
        value = {**value, "id": "other"} if path.endswith("/teams") else value
    if path.startswith("/health/"):
        await shown.client.post("/health/healings/veto", json={"kind": "drain", "provider": "openai"})
    if "decision_id" in value:
        decision = await shown.client.post("/agent/route", json={"gpu_type": "A100", "workload_type": "x"})
        value = {**value, "decision_id": decision.json()["id"]}
    headers = {
        parameter["name"]: str(parameter["example"])
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header" and "example" in parameter
    }
    response = await shown.client.request(method, filled(path, "", key), json=value, headers=headers)
    done = next(status for status in operation["responses"] if status.startswith("2"))
    assert str(response.status_code) == done, response.text
    if name == "stream":
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.endswith("data: [DONE]\n\n")
        assert ": amaru {" in response.text
        return
    assert errors_in(response.json(), operation["responses"][done]["content"]["application/json"]["schema"]) == []
    assert "error" not in response.text or path != "/agent/route/batch"


@pytest.mark.parametrize("key", [KEY, OPERATOR_KEY], ids=["tenant", "operator"])
@pytest.mark.parametrize(
    "path", [path for path, method in OPERATIONS if method == "get" and not path.endswith("/events")]
)
async def test_what_people_read_is_as_described_after_all_that_can_happen(shown: World, path: str, key: str) -> None:
    """Answers hold their richest content here: served, streamed, failed and recommended decisions, and feedback."""
    served = await shown.chat("hello", model="sim")
    await shown.stream()
    shown.break_("openai", "cut")
    await shown.stream()
    shown.break_("openai", "status", status=500)
    await shown.chat()
    shown.break_("beta", "status", status=400, message="no")
    await shown.chat()
    decision = (await shown.client.post("/agent/route", json={"gpu_type": "A100", "workload_type": "x"})).json()["id"]
    await shown.client.post("/agent/feedback", json={"decision_id": decision, "ok": False, "failure": "server_error"})
    made = await made_by_admin(shown) if path.startswith("/admin/") else ""
    for known in (decision, served.headers["x-amaru-decision"]):
        headers = {"authorization": f"Bearer {key}"}
        response = await shown.client.get(filled(path, known, made), headers=headers)
        operation = DOCUMENT["paths"][path]["get"]
        described = operation["responses"][str(response.status_code)]
        if response.status_code != 200:
            assert (path, response.status_code) in [
                ("/status", 403),
                ("/policy", 403),
                ("/metrics", 403),
                *((path, 403) for path, _ in OPERATIONS if path.startswith(("/admin/", "/health/", "/ledger/"))),
                ("/ledger/tile/{tile}", 404),
                ("/ledger/proofs/{path}", 404),
                ("/ledger/checkpoints", 308),
                ("/ledger/pruned", 404),
                ("/v1/models", 401),
                ("/conversations", 400),  # which one?
            ]
        elif path != "/metrics" and not path.startswith("/ledger/"):
            assert errors_in(response.json(), described["content"]["application/json"]["schema"]) == []


def test_every_status_that_an_offer_can_have_is_described() -> None:
    known = Board([Offer(id="a", provider="a", resource="m", model="m", price=Price(1.0))], {}).health(0, 0.0)
    found = {
        status_of(msgspec.structs.replace(known, state=state.value, free_in_s=free_in_s))
        for state in State
        for free_in_s in (0.0, 1.0, None)
    }
    schemas = DOCUMENT["components"]["schemas"]
    assert found == set(schemas["Offer"]["properties"]["status"]["enum"])
    assert {"unused", *found} == set(schemas["Provider"]["properties"]["status"]["enum"])


# ---- Schemathesis ---------------------------------------------------------------------------------------------------
