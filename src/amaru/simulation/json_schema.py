"""Make an instance that validates against a JSON schema, for ``response_format`` and for the arguments of tools.

It covers what structured outputs allow (JSON Schema 2020-12, OpenAI's subset and the usual rest): ``type``, ``enum``,
``const``, ``properties``, ``required``, ``items``, ``prefixItems``, ``$ref`` within the document, ``anyOf``, ``oneOf``,
``allOf``, the bounds of numbers, strings and arrays, and the formats that providers name. A ``pattern`` is beyond it.
"""

from __future__ import annotations

import math
import random
from typing import Any

from amaru.simulation.text import VOCABULARY

# JSON values are trees of any shape: `Any` is their honest type here.
Schema = dict[str, Any]

MAX_DEPTH = 12
"""Below this depth optional parts are left out, so that recursive schemas end."""

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
        The schema cannot be read (an unknown type, a ``$ref`` that leads nowhere); the message names the part.
    """
    return _instance(schema, schema, rng, 0)


def _instance(schema: Schema | bool, root: Schema | bool, rng: random.Random, depth: int) -> Any:
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        raise TypeError(f"a schema must be an object, got {type(schema).__name__}")
    if depth > 4 * MAX_DEPTH:
        raise ValueError("the schema nests without end: every instance of it would be infinite")
    if "$ref" in schema:
        return _instance(_resolve(str(schema["$ref"]), root), root, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    if schema.get("allOf"):
        return _instance(_merged(schema, root), root, rng, depth + 1)
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            # Deep down the last choice, by habit the plain one (`null`), ends the recursion.
            choices = schema[union]
            return _instance(choices[-1] if depth > MAX_DEPTH else rng.choice(choices), root, rng, depth + 1)
    return _typed(_type_of(schema, rng, depth), schema, root, rng, depth)


def _type_of(schema: Schema, rng: random.Random, depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return "null" if depth > MAX_DEPTH and "null" in kind else str(rng.choice(kind))
    if kind is not None:
        return str(kind)
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _typed(kind: str, schema: Schema, root: Schema | bool, rng: random.Random, depth: int) -> Any:
    match kind:
        case "object":
            return _object(schema, root, rng, depth)
        case "array":
            return _array(schema, root, rng, depth)
        case "string":
            return _string(schema, rng)
        case "integer":
            return _integer(schema, rng)
        case "number":
            return _number(schema, rng)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    raise ValueError(f"unknown type {kind!r} in the schema")


def _object(schema: Schema, root: Schema | bool, rng: random.Random, depth: int) -> dict[str, Any]:
    properties: Schema = schema.get("properties") or {}
    required = list(schema.get("required") or [])
    names = [name for name in properties if name in required or depth < MAX_DEPTH]
    names += [name for name in required if name not in properties]
    return {name: _instance(properties.get(name, {"type": "string"}), root, rng, depth + 1) for name in names}


def _array(schema: Schema, root: Schema | bool, rng: random.Random, depth: int) -> list[Any]:
    head = [_instance(part, root, rng, depth + 1) for part in schema.get("prefixItems") or []]
    low = int(schema.get("minItems", 0 if depth > MAX_DEPTH else 1))
    high = int(schema.get("maxItems", max(low, 3)))
    items = schema.get("items", {"type": "string"})
    count = max(low, min(high, rng.randint(low, max(low, high)))) - len(head)
    if depth > MAX_DEPTH:
        count = low - len(head)
    values = head + [_instance(items, root, rng, depth + 1) for _ in range(count) if items is not False]
    if schema.get("uniqueItems"):
        return [value for place, value in enumerate(values) if value not in values[:place]]
    return values


def _string(schema: Schema, rng: random.Random) -> str:
    if "format" in schema:
        return _FORMATS.get(str(schema["format"]), "")
    low = int(schema.get("minLength", 0))
    text = rng.choice(VOCABULARY)
    while len(text) < low:
        text += " " + rng.choice(VOCABULARY)
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


def _integer(schema: Schema, rng: random.Random) -> int:
    low, high = _bounds(schema, 1)
    step = int(schema.get("multipleOf", 1)) or 1
    first = math.ceil(low / step)
    return rng.randint(first, max(first, math.floor(high / step))) * step


def _number(schema: Schema, rng: random.Random) -> float:
    if "multipleOf" in schema:
        step = float(schema["multipleOf"])
        return math.ceil(_bounds(schema, step)[0] / step) * step
    low, high = _bounds(schema, 1e-6)
    return min(high, max(low, round(rng.uniform(low, high), 3)))


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


def _merged(schema: Schema, root: Schema | bool) -> Schema:
    """Fold ``allOf`` into one schema: properties and requirements add up, the rest is overwritten."""
    whole: Schema = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        while isinstance(part, dict) and "$ref" in part:
            part = _resolve(str(part["$ref"]), root)  # noqa: PLW2901 -- the part is what its reference says
        if isinstance(part, bool):
            continue
        flat = _merged(part, root) if part.get("allOf") else part
        properties = {**whole.get("properties", {}), **flat.get("properties", {})}
        required = [*whole.get("required", []), *flat.get("required", [])]
        whole = {**whole, **flat}
        if properties:
            whole["properties"] = properties
        if required:
            whole["required"] = required
    return whole
