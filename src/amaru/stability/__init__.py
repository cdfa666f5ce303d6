"""Sense the whole: one stability score over any vector of signals, and the guardian that acts on it.

``field`` is the model, ``guardian`` what asks for interventions, ``service`` both over HTTP, ``integration`` the way
from a training of one's own to the service. The names below are imported when they are first asked for: the compiled
kernels take their time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amaru.stability.field import StabilityField
    from amaru.stability.field_settings import FieldReading, FieldSettings
    from amaru.stability.guardian import Guardian, GuardianSettings, Intervention
    from amaru.stability.integration import PsiFieldIntegration

__all__ = [
    "FieldReading",
    "FieldSettings",
    "Guardian",
    "GuardianSettings",
    "Intervention",
    "PsiFieldIntegration",
    "StabilityField",
]

_HOME = {
    "FieldReading": "field_settings",
    "FieldSettings": "field_settings",
    "Guardian": "guardian",
    "GuardianSettings": "guardian",
    "Intervention": "guardian",
    "PsiFieldIntegration": "integration",
    "StabilityField": "field",
}


def __getattr__(name: str) -> Any:  # Any: what a module's attribute is
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
