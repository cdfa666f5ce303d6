"""Decisions and what became of them, kept in SQLite: written after the answer, never in its way.

``DecisionStore`` is the door. ``record`` costs the event loop one append; a single writer thread does the rest. When
the store cannot keep up or cannot write, records are dropped and counted, and ``status()`` says so (laws 8 and 9).
"""

from amaru.storage.records import (
    DecisionRecord,
    Page,
    PolicyState,
    StoredDecision,
    StoreSettings,
    StoreStatus,
    UnknownDecisionError,
)
from amaru.storage.store import DecisionStore

__all__ = [
    "DecisionRecord",
    "DecisionStore",
    "Page",
    "PolicyState",
    "StoreSettings",
    "StoreStatus",
    "StoredDecision",
    "UnknownDecisionError",
]
