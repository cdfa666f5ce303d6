"""What the OpenAPI document says of the health endpoints: paths and schemas."""

from __future__ import annotations

from typing import Any

from amaru.gateway.health_orders import HealingsOut, HistoryOut, LiftIn, PatternsOut, PinIn, TriggerIn, VetoIn
from amaru.health.healing import SelfHealingAction
from amaru.health.report import HealthReport
from amaru.mesh.views import SensingStatus
from amaru.stability.guardian import InterventionRecord

Json = dict[str, Any]  # Any: a JSON document

HEALTH_TYPES = (
    HealthReport, PatternsOut, HistoryOut, HealingsOut, SelfHealingAction, InterventionRecord, SensingStatus, VetoIn,
    PinIn, LiftIn, TriggerIn,
)  # fmt: skip
"""Whose schemas are made from the types themselves."""

EVENTS_EXAMPLE = (
    'event: pattern\nid: 1\ndata: {"kind":"degradation","offers":["openai/gpt-4o-mini"],"cause":"latency",…}\n\n'
    'event: healing\nid: 2\ndata: {"kind":"weight","offers":["openai/gpt-4o-mini"],…}\n\n'
    'event: field\nid: 3\ndata: {"Psi":0.81,"PE":0.12,…}\n\n'
)
VETO_EXAMPLE: Json = {"kind": "drain", "provider": "openai", "by": "ada", "reason": "it is the only one with our key"}
PIN_EXAMPLE: Json = {"kind": "weight", "offers": ["beta/sim"], "by": "ada"}
LIFT_EXAMPLE: Json = {"veto": {"kind": "drain", "provider": "openai"}}
LIMIT: Json = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
}
SINCE: Json = {
    "name": "since_s",
    "in": "query",
    "schema": {"type": "number", "minimum": 0, "maximum": 9_999_999_999, "default": 2_592_000},
    "description": "How far back, in seconds.",
}


def health_paths(get: Any, post: Any, events: Any) -> Json:  # Any: the functions of `openapi` that make operations
    """The paths below ``/health/`` for operators. The arguments make operations as the document has them."""
    return {
        "/health/providers": {
            "get": get("Each provider's health, what is foreseen, what it means", "healthReport", "HealthReport")
        },
        "/health/patterns": {"get": get("Patterns, newest first", "healthPatterns", "PatternsOut", [LIMIT])},
        "/health/history": {"get": get("What came more than once", "healthHistory", "HistoryOut", [SINCE])},
        "/health/healings": {
            "get": get("Healings and their effects, newest first", "healthHealings", "HealingsOut", [LIMIT])
        },
        "/health/healings/veto": {
            "post": post("Forbid healings", "vetoHealings", "VetoIn", "HealingsOut", {"drain": VETO_EXAMPLE})
        },
        "/health/healings/pin": {
            "post": post(
                "Order a healing until it is lifted",
                "pinHealing",
                "PinIn",
                "SelfHealingAction",
                {"weight": PIN_EXAMPLE},
            )
        },
        "/health/healings/lift": {
            "post": post(
                "End a pinned healing, or lift vetoes",
                "liftHealing",
                "LiftIn",
                "HealingsOut",
                {"veto": LIFT_EXAMPLE},
                404,
            )
        },
        "/health/guardian/nigredo": {
            "post": post(
                "Drain the worst provider for a minute",
                "triggerNigredo",
                "TriggerIn",
                "InterventionRecord",
                {"by": {"by": "ada"}},
            )
        },
        "/health/guardian/albedo": {
            "post": post(
                "Raise exploration for five minutes",
                "triggerAlbedo",
                "TriggerIn",
                "InterventionRecord",
                {"by": {"by": "ada"}},
            )
        },
        "/health/events": {"get": events("What happens, as it happens", "healthEvents", EVENTS_EXAMPLE)},
    }
