"""The fields of a file that people write, from its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from reference.markdown import code, table

Schema = dict[str, Any]  # Any: a JSON Schema


def sections(schema: Schema, title: str) -> Iterator[str]:
    """The Markdown of every section of a file, from the whole file on down."""
    return _sections(schema, schema, "", title)


def _sections(root: Schema, section: Schema, path: str, title: str) -> Iterator[str]:
    """This section's heading, description and fields, then those of the sections inside it, in the file's order."""
    level = "###" if "." in path.replace(".*", "") else "##"
    yield f"{level} {title if not path else code(path)}\n"
    yield section.get("description", "") + "\n"
    required = set(section.get("required", ()))
    inside: list[tuple[str, Schema]] = []
    rows = []
    for name, field in section["properties"].items():
        shape, child = _shape(root, field)
        where = f"{path}.{name}" if path else name
        if child is not None:
            inside.append((where + {"list": "[]", "map": ".*"}.get(shape.split()[0], ""), child))
        default = "**required**" if name in required else _default(field, child)
        mark = " ↻" if field.get("x-amaru-restart") else ""
        rows.append((code(name) + mark, shape, default, _meaning(root, field)))
    yield table(("field", "type", "default", "meaning"), rows)
    for where, child in inside:
        yield from _sections(root, child, where, where)


def _resolve(root: Schema, schema: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Schema = root["$defs"][reference.rsplit("/", 1)[-1]]
    return found


def _shape(root: Schema, field: Schema) -> tuple[str, Schema | None]:
    """A field's type in words, and the section that it holds, if any."""
    schema = _resolve(root, field)
    options = [o for o in schema.get("anyOf", ()) if o.get("type") != "null"]
    if len(options) == 1:
        return _shape(root, options[0])
    if options:
        return " or ".join(_shape(root, option)[0] for option in options), None
    if "enum" in schema:
        return ", ".join(code(str(value)) for value in schema["enum"]), None
    if "const" in schema:
        return code(str(schema["const"])), None
    kind = schema.get("type")
    if kind == "array":
        inner, child = _shape(root, schema.get("items", {}))
        return f"list of {inner}", child
    if kind == "object" and "properties" in schema:
        return "section", schema
    if kind == "object":
        values = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties", {}))
        inner, child = _shape(root, values if isinstance(values, dict) else {})
        return f"map of name to {inner}", child
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(str(kind), str(kind)), None


def _default(field: Schema, child: Schema | None) -> str:
    value = field.get("default")
    if value is None or child is not None or value in ([], {}):
        return ""
    return code(_plain(value))


def _plain(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


_BOUNDS = (("minimum", "at least"), ("exclusiveMinimum", "more than"), ("maximum", "at most"), ("minItems", "at least"))


def _meaning(root: Schema, field: Schema) -> str:
    schema = _resolve(root, field)
    sources = [field, schema, *schema.get("anyOf", ())]
    bounds = [
        f"{words} {_plain(source[name])}{' entry' if name == 'minItems' else ''}"
        for name, words in _BOUNDS
        for source in sources
        if name in source
    ]
    text = field.get("description") or schema.get("description", "")
    return f"{text} ({', '.join(dict.fromkeys(bounds))})" if bounds else text
