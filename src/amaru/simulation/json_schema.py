"""Make an instance that validates against a JSON schema, for ``response_format`` and for the arguments of tools.

It covers what structured outputs allow (JSON Schema 2020-12, OpenAI's subset and the usual rest): ``type``, ``enum``,
``const``, ``properties``, ``required``, ``items``, ``prefixItems``, ``$ref`` within the document, ``anyOf``, ``oneOf``,
``allOf``, the bounds of numbers, strings and arrays, and the formats that providers name. A ``pattern`` is beyond it.
"""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

from amaru.simulation.text import VOCABULARY

# JSON values are trees of any shape: `Any` is their honest type here.
Schema = dict[str, Any]

MAX_VALUES = 5_000
"""Most values of an instance, a long string counting by its words: a few lines of schema can ask for billions."""
MAX_DEPTH = 12
"""Below this depth, and once half of ``MAX_VALUES`` are made, optional parts are left out: recursive schemas end."""

_FORMATS = {
    "date": "2026-02-28",
    "time": "12:30:00Z",
    "date-time": "2026-02-28T12:30:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "uri": "https://example.com/",
}


def instance(schema: Schema | bool, rng: random.Random) -> Any:
    """An instance of ``schema``.

    Raises
    ------
    ValueError, TypeError
        The schema cannot be read (an unknown type, a ``$ref`` that leads nowhere), or demands more than ``MAX_VALUES``;
        the message names the part. Where a keyword has a value of a wrong type, whatever error that leads to.
    """
    return _instance(schema, _Making(schema, rng), 0)


class _Making:
    """What all parts of one instance share."""

    def __init__(self, root: Schema | bool, rng: random.Random) -> None:
        self.root = root
        self.rng = rng
        self._left = MAX_VALUES

    def spend(self, values: int) -> None:
        """Raise ValueError where the instance has become larger than ``MAX_VALUES``."""
        self._left -= max(0, values)
        if self._left < 0:
            raise ValueError(f"its instance would be larger than {MAX_VALUES} values, or as many words")

    def is_deep(self, depth: int) -> bool:
        """Whether to leave out optional parts: far down, or where half of the values are made."""
        return depth > MAX_DEPTH or self._left < MAX_VALUES // 2


def _instance(schema: Schema | bool, making: _Making, depth: int) -> Any:
    making.spend(1)
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        raise TypeError(f"a schema must be an object, got {type(schema).__name__}")
    if depth > 4 * MAX_DEPTH:
        raise ValueError("the schema nests without end: every instance of it would be infinite")
    if "$ref" in schema:
        return _instance(_resolve(str(schema["$ref"]), making.root), making, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return making.rng.choice(schema["enum"])
    if schema.get("allOf"):
        return _instance(_merged(schema, making), making, depth + 1)
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            # Deep down the last choice, by habit the plain one (`null`), ends the recursion.
            choices = schema[union]
            return _instance(choices[-1] if making.is_deep(depth) else making.rng.choice(choices), making, depth + 1)
    return _typed(_type_of(schema, making, depth), schema, making, depth)


def _type_of(schema: Schema, making: _Making, depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return "null" if making.is_deep(depth) and "null" in kind else str(making.rng.choice(kind))
    if kind is not None:
        return str(kind)
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _typed(kind: str, schema: Schema, making: _Making, depth: int) -> Any:
    match kind:
        case "object":
            return _object(schema, making, depth)
        case "array":
            return _array(schema, making, depth)
        case "string":
            return _string(schema, making)
        case "integer":
            return _integer(schema, making)
        case "number":
            return _number(schema, making)
        case "boolean":
            return making.rng.random() < 0.5
        case "null":
            return None
    raise ValueError(f"unknown type {kind!r} in the schema")


def _object(schema: Schema, making: _Making, depth: int) -> dict[str, Any]:
    properties: Schema = schema.get("properties") or {}
    required = dict.fromkeys(schema.get("required") or [])  # a set in its order
    names = [name for name in properties if name in required or not making.is_deep(depth)]
    names += [name for name in required if name not in properties]
    return {name: _instance(properties.get(name, {"type": "string"}), making, depth + 1) for name in names}


def _array(schema: Schema, making: _Making, depth: int) -> list[Any]:
    head = [_instance(part, making, depth + 1) for part in schema.get("prefixItems") or []]
    low = int(schema.get("minItems", 0 if making.is_deep(depth) else 1))
    high = int(schema.get("maxItems", max(low, 3)))
    items = schema.get("items", {"type": "string"})
    count = max(low, min(high, making.rng.randint(low, max(low, high)))) - len(head)
    if making.is_deep(depth):
        count = low - len(head)
    making.spend(count)
    values = head + [_instance(items, making, depth + 1) for _ in range(count) if items is not False]
    if schema.get("uniqueItems"):
        return list({msgspec.json.encode(value): value for value in values}.values())
    return values


def _string(schema: Schema, making: _Making) -> str:
    if "format" in schema:
        return _FORMATS.get(str(schema["format"]), "")
    low = int(schema.get("minLength", 0))
    making.spend(low // 2)  # the shortest words have one letter, and a space before it
    text = making.rng.choice(VOCABULARY)
    while len(text) < low:
        text += " " + making.rng.choice(VOCABULARY)
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _bounds(schema: Schema, step: float) -> tuple[float, float]:
    low = float(schema.get("minimum", -math.inf))
    high = float(schema.get("maximum", math.inf))
    if "exclusiveMinimum" in schema:
        low = max(low, float(schema["exclusiveMinimum"]) + step)
    if "exclusiveMaximum" in schema:
        high = min(high, float(schema["exclusiveMaximum"]) - step)
    if low == -math.inf:
        low = 0.0 if high >= 0 else high - 100
    return low, min(high, low + 100)


def _integer(schema: Schema, making: _Making) -> int:
    low, high = _bounds(schema, 1)
    step = int(schema.get("multipleOf", 1)) or 1
    first = math.ceil(low / step)
    return making.rng.randint(first, max(first, math.floor(high / step))) * step


def _number(schema: Schema, making: _Making) -> float:
    if "multipleOf" in schema:
        step = float(schema["multipleOf"])
        return math.ceil(_bounds(schema, step)[0] / step) * step
    low, high = _bounds(schema, 1e-6)
    return min(high, max(low, round(making.rng.uniform(low, high), 3)))


def _resolve(reference: str, root: Schema | bool) -> Schema | bool:
    """Follow a JSON pointer (RFC 6901) within the document."""
    if not reference.startswith("#"):
        raise ValueError(
            f"$ref {reference!r} points outside the schema; only references that begin with # are followed"
        )
    node: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or name not in node:
            raise ValueError(f"$ref {reference!r} leads nowhere in the schema")
        node = node[name]
    resolved: Schema | bool = node
    return resolved


def _merged(schema: Schema, making: _Making) -> Schema:
    """Fold ``allOf`` into one schema: properties and requirements add up, the rest is overwritten."""
    whole: Schema = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        making.spend(1)
        while isinstance(part, dict) and "$ref" in part:
            making.spend(1)
            part = _resolve(str(part["$ref"]), making.root)  # noqa: PLW2901 -- the part is what its reference says
        if isinstance(part, bool):
            continue
        flat = _merged(part, making) if part.get("allOf") else part
        properties = {**whole.get("properties", {}), **flat.get("properties", {})}
        required = [*whole.get("required", []), *flat.get("required", [])]
        whole = {**whole, **flat}
        if properties:
            whole["properties"] = properties
        if required:
            whole["required"] = required
    return whole
