"""What the index keeps of a leaf: enough to find it by, never what it says.

A leaf is read as plain JSON, not as a receipt: what a newer amaru or another program logged is found as well.
"""

from __future__ import annotations

import re

import msgspec

from amaru.ledger.merkle import leaf_hash
from amaru.ledger.receipts import PLURALS, unix_s
from amaru.ledger.words import MAX_WORDS, words_of

MAX_COLUMN = 200
"""Characters of a name; PostgreSQL cannot index a value of some thousand."""
DEEPEST = 32

_DIGEST = re.compile(r"(?:hmac-)?sha256:[0-9a-f]{64}")
_DIGEST_LENGTHS = (71, 76)
_UNSAID = frozenset(("envelope", "v", "at"))
"""Fields whose texts nobody looks for by words; digests in them are found all the same."""
_COLUMNS = ("component", "version", "ref", "by")
_ALSO = {"deploy": "deployment", "discovery": "discovered", "adr": "architecture decision record"}
"""What people also call a type."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is known of one leaf."""

    leaf: int
    hash: bytes
    type: str = ""
    at: float = 0.0
    """Unix seconds; 0 where the leaf does not say."""
    component: str = ""
    version: str = ""
    ref: str = ""
    by: str = ""
    traffic: bool = False
    """Of a request that a gateway served: there may be thousands a second. What people decide names no resource."""
    words: tuple[str, ...] = ()
    digests: frozenset[bytes] = frozenset()


def row_of(leaf: int, entry: bytes) -> Row:
    """The row of an entry, whatever it holds."""
    try:
        said = msgspec.json.decode(entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return Row(leaf, leaf_hash(entry))
    kind = _column(said, "type")
    columns = component, version, ref, by = [_column(said, name) for name in _COLUMNS]
    # First, so that no length of the rest leaves them out: ``search.terms_of`` counts on them.
    texts = [PLURALS.get(kind, kind), kind, _ALSO.get(kind, ""), *columns]
    routing = kind == "decision" and bool(said.get("resource"))
    if routing:
        texts.append("routing")
    unsaid: list[str] = []
    for name, value in said.items():
        if name not in _COLUMNS or value not in columns:
            _gather(value, unsaid if name in _UNSAID else texts, DEEPEST)
    named = [text for text in (*texts, *unsaid) if len(text) in _DIGEST_LENGTHS and _DIGEST.fullmatch(text)]
    return Row(
        leaf=leaf,
        hash=leaf_hash(entry),
        type=kind,
        at=_instant(said.get("at")),
        component=component,
        version=version,
        ref=ref,
        by=by,
        traffic=routing or kind == "outcome",
        words=tuple(words_of("\n".join(texts))[:MAX_WORDS]),
        digests=frozenset([bytes.fromhex(text[-64:]) for text in named]),
    )


def pruned_row(leaf: int, hash: bytes) -> Row:
    """The row of an entry that was erased: that it was there, and its hash."""
    return Row(leaf, hash, type="pruned")


def _gather(value: object, texts: list[str], depth: int) -> None:
    if type(value) is str:
        texts.append(value)
    elif depth:
        for one in value.values() if type(value) is dict else value if type(value) is list else ():
            if type(one) is str:  # as most are: a call for each would take longer than all the rest
                texts.append(one)
            else:
                _gather(one, texts, depth - 1)


def _column(said: dict[str, object], name: str) -> str:
    value = said.get(name, "")
    # PostgreSQL has no NUL in texts.
    return value[:MAX_COLUMN].replace("\0", "\ufffd") if isinstance(value, str) and value else ""


def _instant(at: object) -> float:
    try:
        return unix_s(at) if isinstance(at, str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
