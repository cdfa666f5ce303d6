"""What the psi-field service answers, as types: for those who read it."""

from __future__ import annotations

import msgspec

from amaru.stability.field_settings import FieldReading
from amaru.stability.guardian import GuardianStatus


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Where the state is kept."""

    file: str | None
    saved_at: float | None
    """Unix seconds."""
    problem: str | None
    """Why the last change was not saved; ``None``: it was."""


class StateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /state``."""

    initialised: bool
    reading: FieldReading | None
    surprises: dict[str, float]
    """By signal, where signals have names."""
    guardian: GuardianStatus
    state: Kept
