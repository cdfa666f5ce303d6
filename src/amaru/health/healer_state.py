"""What a healer keeps across a restart."""

from __future__ import annotations

import msgspec

from amaru.health.bandit import Arm
from amaru.health.healing import SelfHealingAction
from amaru.health.healing_runs import Running
from amaru.health.healing_settings import Veto

VERSION = 2


class Kept(msgspec.Struct):
    """What was learned, what was forbidden, what is under way and what was."""

    arms: dict[str, dict[str, Arm]]
    vetoes: list[Veto]
    running: list[Running]
    history: list[SelfHealingAction]
    version: int = VERSION


def packed(kept: Kept) -> bytes:
    """As bytes."""
    return msgspec.msgpack.encode(kept)


def unpacked(state: bytes) -> Kept:
    """What ``packed`` gave. Raises ValueError where it is no such, or of another version."""
    try:
        version = msgspec.msgpack.decode(state, type=_Versioned).version
        if version != VERSION:
            raise ValueError(f"the state of the healer has version {version}, and this amaru reads {VERSION}")
        return msgspec.msgpack.decode(state, type=Kept)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"this is no state of a healer: {error}") from None


class _Versioned(msgspec.Struct):
    version: int
