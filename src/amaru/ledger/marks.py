"""What stands for a prompt in a decision's receipt: a keyed digest, from which nobody reads the prompt (law 4).

Each tenant has a key of its own, so that equal prompts of two tenants have unrelated marks::

    key  = HMAC-SHA-256(salt, "amaru prompt mark v1" || 0x00 || the tenant's name in UTF-8)
    mark = "hmac-sha256:" || hex(HMAC-SHA-256(key, prompt))

``salt`` are the 32 bytes of the ledger's own (``place.load_salt``); HMAC is RFC 2104's. ``prompt`` are the bytes of a
JSON value as the caller sent them, from its first character to its last: the value of ``messages``, ``prompt`` or
``input``, whichever the endpoint reads. Nothing is rewritten: other white space or other escapes make another mark.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Raw

from amaru.domain import Kind
from amaru.errors import LedgerError

PROMPT_FIELD = {Kind.CHAT: "messages", Kind.COMPLETION: "prompt", Kind.EMBEDDING: "input"}
"""Which field of a request is its prompt."""
MOST_KEYS = 1024
"""Of tenants; that of one beyond them is derived anew, in microseconds."""

_BLOCK_BYTES = 64
"""SHA-256's."""
_LABEL = b"amaru prompt mark v1\0"
_read_value = msgspec.json.Decoder(Raw).decode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class PromptMarks:
    """Marks prompts with a ledger's salt; may be used by several threads."""

    __slots__ = ("_begun",)

    def __init__(self, salt: bytes) -> None:
        @lru_cache(MOST_KEYS)
        def begun(tenant: str) -> tuple[Any, Any]:  # Any: hashlib has no name for the type of its hashes
            """HMAC's two hashes, each with its block of the tenant's key taken in (RFC 2104, section 4)."""
            key = hmac.digest(salt, _LABEL + tenant.encode(), "sha256").ljust(_BLOCK_BYTES, b"\0")
            return sha256(bytes(byte ^ 0x36 for byte in key)), sha256(bytes(byte ^ 0x5C for byte in key))

        self._begun = begun

    def mark(self, tenant: str, prompt: bytes | Raw) -> str:
        """The mark of a prompt, as the module has it. Raises UnicodeEncodeError: the tenant's name is no Unicode."""
        inner, outer = self._begun(tenant)
        inner, outer = inner.copy(), outer.copy()  # in a third of the time that hmac.digest takes
        inner.update(prompt)
        outer.update(inner.digest())
        return f"hmac-sha256:{outer.hexdigest()}"


def prompt_of(body: bytes, *, where: str) -> Raw:
    """The prompt in a request's body, or in a text that is the prompt's JSON alone; ``where`` it is from, in words.

    Raises
    ------
    LedgerError
        It is no JSON in UTF-8, or which part of it is the prompt cannot be told.
    """
    try:
        body.decode()  # msgspec does not look into what it keeps raw
        value = _read_value(body)
        if bytes(memoryview(value)[:1]) == b"{":
            value = _only_prompt(_read_fields(value), where)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LedgerError(f"{where}: is not JSON, as a request is: {error}") from None
    if bytes(memoryview(value)[:1]) not in (b"[", b'"'):
        raise LedgerError(f"{where}: holds no prompt: that is a list or a text in JSON")
    return value


def _only_prompt(fields: dict[str, Raw], where: str) -> Raw:
    names = [name for name in PROMPT_FIELD.values() if name in fields]
    if len(names) != 1:
        found = f"has {' and '.join(names)}" if names else f"has none of {', '.join(PROMPT_FIELD.values())}"
        raise LedgerError(f"{where}: {found}: give the request's body as it was sent, or the JSON of the prompt alone")
    return fields[names[0]]
