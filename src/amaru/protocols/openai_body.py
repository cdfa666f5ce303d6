"""The body of a request as one provider is sent it: the caller's, but for the few fields that are the provider's."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from amaru.domain import Kind, LimitField
from amaru.protocols.openai import OpenAIRequest

_write = msgspec.json.Encoder().encode

_CHAT = Kind.CHAT
_INCLUDE_USAGE = Raw(b'{"include_usage":true}')
_NULL = Raw(b"null")
_OLDER_LIMIT, _NEWER_LIMIT = LimitField.MAX_TOKENS.value, LimitField.MAX_COMPLETION_TOKENS.value


def encode_request(request: OpenAIRequest, model: str, limit_field: LimitField = LimitField.BOTH) -> bytes:
    """The body for a provider whose own name for the model is ``model``.

    A chat's limit on its answer stands in the field that the provider heeds, and in no other. A stream also asks for
    its usage, beside the caller's other stream options. All else is the caller's, byte for byte.
    """
    fields: dict[str, object] = request.fields.copy()  # type: ignore[assignment]  # a copy may hold more types
    fields["model"] = model
    if request.max_output_tokens is not None and request.kind is _CHAT:
        _put_limit(fields, limit_field)
    if request.stream and not request.include_usage:
        options = request.fields.get("stream_options")
        given = None if options is None else msgspec.json.decode(options, type=dict[str, Raw] | None)
        fields["stream_options"] = {**given, "include_usage": True} if given else _INCLUDE_USAGE
    return _write(fields)


def _put_limit(fields: dict[str, object], limit_field: LimitField) -> None:
    """Of two that the caller set the newer one holds, as for OpenAI, which refuses both together."""
    newer, older = fields.get(_NEWER_LIMIT, _NULL), fields.get(_OLDER_LIMIT, _NULL)
    if newer != _NULL:
        fields.pop(_OLDER_LIMIT, None)
        if limit_field is LimitField.MAX_TOKENS:
            fields[_OLDER_LIMIT] = fields.pop(_NEWER_LIMIT)
    elif limit_field is LimitField.MAX_COMPLETION_TOKENS:
        del fields[_OLDER_LIMIT]
        fields[_NEWER_LIMIT] = older
