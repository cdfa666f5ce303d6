"""How healings lie over each other, and how they are taken away again.

Each healing lays one partial ``Steering`` over an offer: what it leaves at its neutral value it does not touch.
Together they are the strictest of each; taken away, the offer is as it was found. What somebody else steers meanwhile
is theirs: no healing touches it, and none takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from amaru.health.healing import Levers
from amaru.routing.steering import UNSTEERED, Steering

LEAST_WEIGHT = 0.05
"""However many healings weigh an offer down, it keeps so much."""

_FIELDS = UNSTEERED.__struct_fields__


def _product(weights: Iterable[float]) -> float:
    weight = 1.0
    for one in weights:
        weight *= one
    return max(weight, LEAST_WEIGHT)


_STRICTEST: dict[str, Callable[[Any], Any]] = {  # Any: values of a field, of its own type
    "drained": any,
    "weight": _product,
    "risk": max,
    "at_once": min,
    "look_s": max,
    "concurrency": min,
    "patience": min,
    "first_token_ms": min,
    "idle_ms": min,
    "breaker_failures": min,
    "cool_down_s": max,
    "backoff": max,
    "retry_ratio": min,
    "non_stream": any,
    "adapted": any,
}


def touched(layer: Steering) -> frozenset[str]:
    """The fields that a layer says something about."""
    return frozenset(name for name in _FIELDS if getattr(layer, name) != getattr(UNSTEERED, name))


def laid_over(base: Steering, layers: Sequence[Steering], theirs: frozenset[str]) -> Steering:
    """``base`` under all of ``layers``; the fields ``theirs``, and those that it has set already, stay as they are."""
    changes: dict[str, Any] = {}  # Any: as above
    for name in _FIELDS:
        neutral = getattr(UNSTEERED, name)
        if name in theirs or getattr(base, name) != neutral:
            continue
        said = [value for layer in layers if (value := getattr(layer, name)) != neutral]
        if said:
            changes[name] = _STRICTEST[name](said)
    return msgspec.structs.replace(base, **changes) if changes else base


def in_words(before: Steering, after: Steering) -> dict[str, str]:
    """What changes, field by field: ``weight`` → ``1 -> 0.4``."""
    return {
        name: f"{_word(getattr(before, name))} -> {_word(getattr(after, name))}"
        for name in _FIELDS
        if getattr(before, name) != getattr(after, name)
    }


def _word(value: object) -> str:
    if value is None:
        return "as configured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float | int) else str(value)


class _Held(msgspec.Struct):
    base: Steering
    """As it was found."""
    last: Steering
    """As it was set last."""
    theirs: frozenset[str] = frozenset()
    """Fields that somebody else set meanwhile."""


class Grip:
    """What is laid over each offer, and what was there before."""

    def __init__(self, levers: Levers) -> None:
        self._levers = levers
        self._held: dict[str, _Held] = {}

    @property
    def offers(self) -> tuple[str, ...]:
        """Those over which something is laid."""
        return tuple(self._held)

    def theirs(self, offer: str) -> frozenset[str]:
        """Fields that somebody else set while something lay over the offer."""
        held = self._held.get(offer)
        return held.theirs if held is not None else frozenset()

    def lay(self, offer: str, layers: Sequence[Steering]) -> bool:
        """Lay exactly ``layers`` over the offer from now on; False: there is no such offer now."""
        current = self._levers.steering(offer)
        if current is None:
            self._held.pop(offer, None)
            return False
        held = self._held.get(offer)
        if held is None:
            if not layers:
                return True
            held = self._held[offer] = _Held(current, current)
        elif current != held.last:
            others = {name for name in _FIELDS if getattr(current, name) != getattr(held.last, name)}
            held.base = msgspec.structs.replace(held.base, **{name: getattr(current, name) for name in others})
            held.theirs |= others
        wanted = laid_over(held.base, layers, held.theirs)
        if wanted != current:
            self._levers.steer(offer, wanted)
        held.last = wanted
        if not layers:
            del self._held[offer]
        return True
