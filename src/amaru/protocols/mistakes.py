"""What is wrong with a request's body, in JSON's words. Messages name the place and the remedy, never the value."""

from __future__ import annotations

import re

import msgspec

from amaru.errors import RequestError

_EXPECTED = re.compile(r"Expected `(?P<want>[^`]+)`(?P<bound>(?: of length)? [<>]= -?\d+)?(?:, got `(?P<got>[^`]+)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_JSON_WORDS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "null": "null",
               "object": "an object", "array": "an array"}  # fmt: skip


def explain(error: ValueError | RecursionError, body: bytes) -> RequestError:
    """What is wrong with ``body``, in JSON's words; the decoder's own messages quote places, never values."""
    if isinstance(error, RecursionError):
        return bad(None, "is nested too deeply", "flatten it")
    if isinstance(error, UnicodeDecodeError):
        return bad(None, "is not valid UTF-8", "encode it as UTF-8")
    if not body.strip():
        return bad(None, "is empty", "send a JSON object")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        where = text.removeprefix("JSON is malformed: ")
        return bad(None, f"is not valid JSON ({where[0].lower()}{where[1:]})", "send one JSON object (RFC 8259)")
    place = _PATH.search(text)
    path = place["path"] if place else ""
    if missing := _MISSING.match(text):
        name = missing["name"]
        return bad(f"{path}.{name}" if path else name, "is missing", "add it")
    if expected := _EXPECTED.match(text):
        want = _words(expected["want"]) + (expected["bound"] or "")
        wrong = f"is {_words(expected['got'])}" if expected["got"] else "is out of range"
        if " of length <=" in (expected["bound"] or ""):
            wrong = "is too long"
        return bad(path or None, wrong, f"send {want}")
    return bad(
        path or None,
        "is out of range" if "range" in text else "is not valid",
        "check it against OpenAI's API reference",
    )


def _words(types: str) -> str:
    return " or ".join(_JSON_WORDS.get(word, word) for word in types.split(" | "))


def bad(field: str | None, wrong: str, remedy: str) -> RequestError:
    """A 400 for the top-level ``field``, or a path below one; for the body as a whole where there is none."""
    what = f"The field {field!r}" if field else "The request body"
    return RequestError(400, f"{what} {wrong}: {remedy}.", param=field)
