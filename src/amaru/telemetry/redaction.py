"""Takes keys and texts out of what is about to be logged (law 4).

The last line of defence: rooms do not log such things in the first place. It errs on the side of taking out too much.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
WITHHELD = "[text withheld]"
LONGEST = 4_000
"""Characters of a logged string; the rest is cut."""
DEEPEST = 4

_SECRET_FIELD = re.compile(
    r"(^|[_-])(api[_-]?key|key|secret|password|passwd|authorization|credential|credentials|cookie|bearer|token)$", re.I
)
"""Names of fields whose value is a secret; ``tokens``, ``key_hash`` and the like are not."""

_TEXT_FIELD = re.compile(r"^(prompt|prompts|messages|content|completion|output_text|input_text|body|arguments)$", re.I)
"""Names of fields that would hold a caller's or a model's words."""

_SECRETS = re.compile(
    r"""
    (?P<lead>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}                               # Authorization: Bearer …
    | (?P<name>\b(?:[a-z0-9]{1,32}[_-]){0,4}(?:api[_-]?key|secret|password|passwd|access[_-]?token|authorization|key)
        ["']?\s*[=:]\s*["']?)(?!bearer\b|basic\b)[^\s"',;&}\])]{4,}                     # api_key=…, "password": "…"
    | \b(?:sk|pk|rk|gsk|xai|hf|key|r8|pplx|ghp|gho|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_-]{8,}   # sk-…, hf_…
    | \bAIza[A-Za-z0-9_-]{20,}                                                          # Google
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}                                                      # AWS
    | (?<![\w-])(?=[\w-]*?\beyJ)[\w-]{11,}+\.[\w-]++\.[\w-]*+                            # a word with a JSON Web Token
    | (?P<userinfo>://)[^/\s:@]+:[^/\s@]+(?=@)                                          # user:password@host
    """,
    re.I | re.X,
)


def redact_text(text: str) -> str:
    """``text`` with whatever looks like a key taken out, and cut to ``LONGEST`` characters."""
    if len(text) > LONGEST:
        # Cut first, so that the search is bounded; a key at the cut is taken out with the word it stands in.
        text = text[:LONGEST].rsplit(None, 1)[0] + f"… ({len(text)} characters)"
    return _SECRETS.sub(lambda m: (m["lead"] or m["name"] or m["userinfo"] or "") + REDACTED, text)


def redact(event: Mapping[str, Any]) -> dict[str, Any]:  # Any: whatever was logged
    """A copy of an event that is fit to be written."""
    return {name: _redact_field(name, value, DEEPEST) for name, value in event.items()}


def _redact_field(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_FIELD.search(name):
        return REDACTED
    if _TEXT_FIELD.match(name):
        return WITHHELD
    return _redact_value(value, depth)


def _redact_value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth == 0:
        return WITHHELD
    if isinstance(value, Mapping):
        return {redact_text(str(k)): _redact_field(str(k), v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item, depth - 1) for item in value]
    return redact_text(str(value))


def in_one_line(text: str, limit: int = 300) -> str:
    """Foreign words, fit for an error: one line that cannot play with a terminal, of at most ``limit`` characters."""
    return printable(" ".join(text[: 4 * limit].split()))[:limit]


def printable(text: str) -> str:
    """A line in which foreign words may stand, without what a terminal would obey: escapes, or a turn to the left."""
    return "".join(char if char.isprintable() else " " for char in text)
