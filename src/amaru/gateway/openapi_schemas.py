"""The schemas of the OpenAPI document.

Those of amaru's own types come from the types themselves (msgspec), so they cannot drift; what the types check in code
(either a model or a GPU type) is added to them. Those of OpenAI's endpoints name the fields that amaru reads; every
other field passes through untouched.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from amaru.domain import Attempt, Decision, Offer, Outcome
from amaru.gateway.agent_api import LEAST_WEIGHT, BatchIn, BatchOut, BestOut, FeedbackIn, FeedbackOut, Need, WorkloadIn
from amaru.gateway.conversations_api import CONVERSATION_TYPES
from amaru.gateway.openapi_health import HEALTH_TYPES
from amaru.gateway.openapi_ledger import LEDGER_TYPES
from amaru.routing.board import OfferHealth
from amaru.storage import DecisionRecord, StoreStatus

Json = dict[str, Any]  # Any: a JSON document

TYPES = (
    WorkloadIn, Decision, BatchIn, BatchOut, BestOut, FeedbackIn, FeedbackOut,
    Attempt, DecisionRecord, Offer, OfferHealth, Outcome, StoreStatus, *HEALTH_TYPES, *LEDGER_TYPES,
    *CONVERSATION_TYPES,
)  # fmt: skip

STRING: Json = {"type": "string"}
BOOLEAN: Json = {"type": "boolean"}
INTEGER: Json = {"type": "integer", "minimum": 0}
NUMBER: Json = {"type": "number"}
ID: Json = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128
"""OpenAI's own limit of ``n``, which providers share."""


def ref(name: str) -> Json:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Json, **bounds: int) -> Json:
    """An array of ``items``."""
    return {"type": "array", "items": items, **bounds}


def nullable(schema: Json) -> Json:
    """``schema``, or null."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def obj(required: Json | None = None, **optional: Json) -> Json:
    """An object with some required and some optional properties; further ones are allowed."""
    properties = {**(required or {}), **optional}
    found: Json = {"type": "object"}
    if required:
        found["required"] = list(required)
    if properties:
        found["properties"] = properties
    return found


def component_schemas() -> Json:
    """All schemas, by the name under which ``ref`` finds them."""
    _, found = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    found["FeedbackIn"]["not"] = obj({"ok": {"const": True}, "failure": STRING})
    weights = found["WeightsIn"]["properties"]
    some_weight: Json = {"anyOf": [_NULL, *(obj({name: {"minimum": LEAST_WEIGHT}}) for name in weights)]}
    offer = found.pop("Offer")
    del found["Capability"]  # shown by name, not as bits
    summary = found.pop("DecisionRecord")
    del summary["properties"]["ranking"]
    summary["required"].remove("ranking")
    found["Attempt"]["properties"]["detail"]["description"] = "The failure in words; for operators only."
    return {
        **found,
        "Error": ERROR,
        "Workload": {"allOf": [ref("WorkloadIn"), obj(weights=some_weight), _MODEL_OR_GPU]},
        "ChatRequest": CHAT,
        "CompletionRequest": COMPLETION,
        "EmbeddingRequest": EMBEDDING,
        "Choices": _CHOICES,
        "Embeddings": _EMBEDDINGS,
        "Models": _MODELS,
        "Offer": {
            **offer,
            "description": "An offer, and how it fares now.",
            "properties": {
                **offer["properties"],
                "capabilities": array({"enum": list(get_args(Need))}),
                "status": _STATUS,
                "now": ref("OfferHealth"),
            },
            "required": [*offer["required"], "capabilities", "status", "now"],
        },
        "Provider": _PROVIDER,
        "Providers": obj({"providers": array(ref("Provider"))}),
        "DecisionSummary": {**summary, "title": "DecisionSummary", "description": "A decision without its ranking."},
        "DecisionPage": obj({"decisions": array(ref("DecisionSummary")), "next_cursor": nullable(ID)}),
        "DecisionDetail": _DECISION_DETAIL,
        "Health": _HEALTH,
        "Status": _OVERVIEW,
        "Policy": _POLICY,
        "Alive": obj({"status": {"enum": ["live", "ready", "draining"]}}),
    }


# ---- what the code checks beside the types --------------------------------------------------------------------------

_NULL: Json = {"type": "null"}
_MODEL_OR_GPU: Json = {
    "oneOf": [
        obj({"model": STRING}, gpu_type=_NULL, workload_type={"enum": ["chat", "completion", "embedding"]}),
        obj({"gpu_type": STRING}, model=_NULL),
    ]
}


# ---- OpenAI's -------------------------------------------------------------------------------------------------------

ERROR: Json = obj(
    {
        "error": obj(
            {"message": STRING},
            type=nullable(STRING),
            param=nullable(STRING),
            code={"type": ["string", "integer", "null"]},
        )
    }
)

_MODEL: Json = {
    "type": "string",
    "pattern": r"\S",
    "description": "A resource or alias of the configuration; GET /v1/models lists them.",
}
_COUNT: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_TOKENS}
_POLICY: Json = obj(
    {
        "policy": STRING,
        "learns": BOOLEAN,
        "settings": {
            "type": "object",
            "additionalProperties": NUMBER,
            "description": "The knobs that were set; the others have their defaults.",
        },
        "exploration": NUMBER,
        "outcomes": {**INTEGER, "description": "Learned from, on top of the artifact; restarts do not reset it."},
        "outcomes_lost": {**INTEGER, "description": "That could not be learned from, since the start."},
        "artifact": nullable({**STRING, "description": "On which it stands: version and digest; null: none."}),
        "artifact_source": nullable(
            obj(
                {
                    "store": nullable(STRING),
                    "version": nullable({**STRING, "description": "As configured: vN, promoted or latest."}),
                    "failure": nullable({**STRING, "description": "Why the last look or load failed."}),
                    "failures": INTEGER,
                }
            )
        ),
        "snapshot_age_s": nullable({**NUMBER, "description": "Since what it learned was last handed to the store."}),
        "snapshot_bytes": INTEGER,
        "snapshot_ms": {**NUMBER, "description": "How long the last copy of its state took."},
        "snapshot_failure": nullable(STRING),
    }
)
_OBJECTS: Json = {"type": ["array", "null"], "items": {"type": "object"}}
_TOKEN_IDS: Json = array({"type": "integer"})
_GENERATED: Json = {
    "stream": nullable(BOOLEAN),
    "stream_options": nullable(obj(include_usage=nullable(BOOLEAN))),
    "max_tokens": _COUNT,
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CHOICES},
}


def _inputs() -> Json:
    """A text, texts, token ids, or lists of token ids."""
    return {
        "anyOf": [STRING, *(array(items, minItems=1) for items in (STRING, {"type": "integer"}, _TOKEN_IDS))],
    }


CHAT: Json = obj(
    {
        "model": _MODEL,
        "messages": array(
            obj(
                {"role": STRING},
                content={
                    "anyOf": [STRING, _NULL, array(obj(type=STRING, text=STRING))],
                },
                tool_calls=_OBJECTS,
            ),
            minItems=1,
        ),
    },
    **_GENERATED,
    max_completion_tokens=_COUNT,
    tools=_OBJECTS,
    functions=_OBJECTS,
    response_format=nullable(obj(type={"enum": ["text", "json_object", "json_schema"]})),
    logprobs=nullable(BOOLEAN),
)
COMPLETION: Json = obj(
    {"model": _MODEL, "prompt": _inputs()},
    **{**_GENERATED, "max_tokens": {**_COUNT, "minimum": 0}},
    logprobs={"type": ["integer", "null"], "minimum": 0},
)
EMBEDDING: Json = obj({"model": _MODEL, "input": _inputs()})

_CHOICES: Json = obj({"choices": array({"type": "object"}, minItems=1)})
_EMBEDDINGS: Json = obj({"data": {"type": "array", "minItems": 1}})
_MODELS: Json = obj(
    {
        "object": {"const": "list"},
        "data": array(obj({"id": STRING, "object": {"const": "model"}, "created": INTEGER, "owned_by": STRING})),
    }
)

# ---- what people and their tools read -------------------------------------------------------------------------------

_STATUS: Json = {"enum": ["available", "throttled", "recovering", "unavailable"]}
_PROVIDER: Json = obj(
    {
        "id": STRING,
        "protocol": STRING,
        "regions": array(STRING),
        "status": {"enum": [*_STATUS["enum"], "unused"]},
        "offers": array(ref("Offer")),
    }
)
_DECISION_DETAIL: Json = obj(
    {
        "id": ID,
        "at": NUMBER,
        "tenant": STRING,
        "kind": STRING,
        "ranked": nullable(array(ref("RankedOffer"))),
        "outcome": {
            "description": "What the caller got; null where amaru only recommended.",
            "anyOf": [
                obj(
                    {
                        "ok": BOOLEAN,
                        "status": INTEGER,
                        "failure": nullable(ref("FailureKind")),
                        "offer": nullable(STRING),
                        "stream": BOOLEAN,
                        "latency_ms": NUMBER,
                        "first_token_ms": nullable(NUMBER),
                        "input_tokens": nullable(INTEGER),
                        "cached_input_tokens": nullable(INTEGER),
                        "output_tokens": nullable(INTEGER),
                        "usage_source": nullable(ref("Provenance")),
                        "cost_usd": NUMBER,
                    }
                ),
                _NULL,
            ],
        },
        "attempts": array(ref("Attempt")),
        "feedback": {"description": "What the caller reported.", "anyOf": [ref("Outcome"), _NULL]},
        "pending": {**BOOLEAN, "description": "Not written to disk yet."},
        "ledger": {
            "description": "Its receipts, and the proofs that they are in the ledger; null where that is off.",
            "anyOf": [ref("DecisionReceipts"), _NULL],
        },
    },
    resource=STRING,
    policy=STRING,
    refused=array(ref("Refusal")),
    explored=BOOLEAN,
    propensity=NUMBER,
    note={**STRING, "description": "Why `ranked` is null."},
)
_HEALTH: Json = obj(
    {
        "status": {"enum": ["ok", "degraded", "down"]},
        "resources": obj({"served": INTEGER, "configured": INTEGER}),
        "offers": obj({"available": INTEGER, "configured": INTEGER}),
        "store": {"enum": ["ok", "failing"]},
    }
)
_OVERVIEW: Json = obj(
    {
        "version": STRING,
        "uptime_s": NUMBER,
        "health": ref("Health"),
        "policy": STRING,
        "exploration": NUMBER,
        "configuration": obj({"path": STRING, "digest": STRING}),
        "in_flight": INTEGER,
        "traffic": obj({"requests": INTEGER, "cost_usd": NUMBER}),
        "store": ref("StoreStatus"),
        "ledger": nullable(ref("LedgerStatus")),
        "accounts": nullable(obj({"store": {**STRING, "description": "`ok`, or why it cannot be read."}})),
        "sensing": ref("SensingStatus"),
        "providers": array(ref("Provider")),
    }
)
