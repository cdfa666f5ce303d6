"""Error objects as they are found on the wire: OpenAI's own, and what its imitators send in their place.

Seen in the field: ``{"error": {…}}`` (OpenAI, Azure, vLLM) and the same in a list (Gemini), ``{"error": "…"}`` (Ollama,
TGI), ``{"object": "error", "message": …}`` (older vLLM, Mistral), ``{"detail": …}`` (FastAPI), ``{"message": …}``.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class WireError(Struct, frozen=True):
    """An error object in OpenAI's shape.

    ``status`` is the HTTP status that the object itself names; ``type`` and ``code`` are as sent, numbers as text.
    ``fields`` holds all of the object's fields, among them OpenAI's ``message``, ``type``, ``param`` and ``code``.
    """

    message: str
    type: str | None
    code: str | None
    status: int | None
    fields: dict[str, Any]  # Any: JSON


BROKEN_OFF = WireError("", "server_error", None, None, {})
"""An error without a word: an event named ``error``, or OpenRouter's finish reason ``error``."""


def read_error(value: Any) -> WireError | None:  # Any: JSON
    """The error in a decoded body or event; ``None`` where there is none."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, dict) and error:
        fields = dict(error)
    elif isinstance(error, str | list) and error:
        fields = {name: item for name, item in value.items() if name != "error"}
        fields["message"] = error
        fields.setdefault("type", value.get("error_type"))
    elif "choices" not in value and "data" not in value and _is_bare_error(value):
        fields = {name: item for name, item in value.items() if name not in ("object", "detail")}
        fields["message"] = value.get("message") or value.get("detail")
    else:
        return None
    message = fields["message"] = _text(fields.get("message") or fields.get("detail"))
    for name in ("type", "param", "code"):
        fields.setdefault(name, None)
    code, type_ = _name(fields["code"]), _name(fields["type"]) or _name(fields.get("status"))
    status = next(
        (
            number
            for number in map(
                _status, (fields.get("status"), fields.get("status_code"), fields["code"], fields["type"])
            )
            if number is not None
        ),
        None,
    )
    return WireError(message, type_, code, status, fields)


def _is_bare_error(value: dict[str, Any]) -> bool:  # Any: JSON
    return value.get("object") == "error" or bool(value.get("detail")) or isinstance(value.get("message"), str)


def _text(value: Any) -> str:  # Any: JSON
    """Words out of a message field; FastAPI's list of mistakes becomes one line, without the ``input`` it quotes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value)))
    if isinstance(value, dict):
        words = value.get("msg") or value.get("message")
        place = value.get("loc")
        if not isinstance(words, str):
            return ""
        return f"{'.'.join(map(str, place))}: {words}" if isinstance(place, list) else words
    return ""


def _name(value: Any) -> str | None:  # Any: JSON
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def _status(value: Any) -> int | None:  # Any: JSON
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None
