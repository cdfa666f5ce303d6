"""The HTTP API, from the OpenAPI document that the server serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from amaru.gateway.openapi import openapi_document
from reference.markdown import code, fence, table

Schema = dict[str, Any]  # Any: part of an OpenAPI document

INTRO = """# HTTP API

Made from the OpenAPI document that a running server gives at `/openapi.json`. Every error has OpenAI's shape:

```json
{"error": {"message": "…", "type": "invalid_request_error", "param": "model", "code": "…"}}
```

Callers authenticate with `Authorization: Bearer KEY` or `x-api-key: KEY`.
"""


def page() -> str:
    """The page's Markdown."""
    document = openapi_document()
    groups: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            texts = groups.setdefault(operation.get("tags", ["Other"])[0], [])
            texts += _operation(method, path, operation)
            for status, answer in operation["responses"].items():
                if not status.startswith("2"):
                    meanings.setdefault(status, _resolved(document, answer)["description"])
    parts = [INTRO, table(("status", "meaning"), sorted(meanings.items()))]
    for group, texts in groups.items():
        parts += [f"## {group}\n", *texts]
    return "\n".join([*parts, "## Types\n", *_types(document)])


def _resolved(document: Schema, part: Schema) -> Schema:
    """What a reference into the document (``#/components/…``) stands for; anything else is itself."""
    found = document
    for name in part.get("$ref", "").removeprefix("#/").split("/"):
        found = found[name] if name else part
    return found


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    role = operation.get("x-amaru-role")
    key = " No key needed." if operation.get("security") == [] else f" For the role `{role}`." if role else ""
    yield operation["summary"] + "." + key + "\n"
    parameters = operation.get("parameters", ())
    if role is None and any(parameter["in"] == "header" for parameter in parameters):
        yield "Takes and gives [amaru's headers](headers.md).\n"
    if others := [parameter for parameter in parameters if role is not None or parameter["in"] != "header"]:
        yield table(
            ("parameter", "in", "type", "meaning"),
            ((code(p["name"]), p["in"], _type(p["schema"]), p.get("description", "")) for p in others),
        )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        if "$ref" in body["schema"]:
            yield f"Takes {_type(body['schema'])}.\n"
        else:
            yield _fields(body["schema"])
        yield from (fence("json", json.dumps(example["value"], indent=2)) for example in body["examples"].values())
    yield "Answers " + ", ".join(_answer(status, answer) for status, answer in operation["responses"].items()) + ".\n"


def _answer(status: str, answer: Schema) -> str:
    content = answer.get("content", {})
    if not status.startswith("2"):
        return status
    types = [_type(c["schema"]) if "$ref" in c.get("schema", {}) else code(media) for media, c in content.items()]
    return f"{status} ({' or '.join(types)})"


def _types(document: Schema) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        if name == "Error":
            continue
        yield f"### {name}\n"
        yield _flow(schema.get("description", "")) + "\n"
        if "enum" in schema:
            yield ", ".join(code(str(value)) for value in schema["enum"]) + "\n"
        elif schema.get("properties"):
            yield _fields(schema)


def _fields(schema: Schema) -> str:
    required = set(schema.get("required", ()))
    return table(
        ("field", "type", "default", "meaning"),
        (
            (
                code(name),
                _type(field),
                "**required**" if name in required else _default(field),
                _flow(field.get("description", "")),
            )
            for name, field in schema["properties"].items()
        ),
    )


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value is None or value == [] else code(json.dumps(value))


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_type(option) for option in schema[word] if option.get("type") != "null"))
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        kind = " or ".join(k for k in kind if k != "null")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(kind)


def _flow(text: str) -> str:
    """A docstring's first paragraph as running text: reST's double backticks become Markdown's single ones."""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`")
