"""What a person asks the Remembrancer: ``ai-mesh "first token" -drain rout* component:psi-field since:7d``.

Words are all to be there; each is a phrase where it has several parts (``ai-mesh``, ``"first token"``), a beginning
with ``*`` behind it, to be absent with ``-`` before it. ``name:value`` with a name of ``FILTERS`` narrows; any other is
a phrase like the rest. Nothing of it reaches a database as syntax: what leaves here are words of letters and digits.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import msgspec

from amaru.errors import LedgerError
from amaru.ledger.receipts import rfc3339, type_of
from amaru.ledger.words import words_of

MAX_QUERY = 1_000
"""Characters."""
MAX_TERMS = 32
FILTERS = ("component", "type", "version", "ref", "by", "digest", "since", "until")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}

_PART = re.compile(r"(?P<minus>-?)(?:(?P<name>[A-Za-z]+):)?(?:\"(?P<quoted>[^\"]*)\"?|(?P<plain>[^\s\"]*))", re.UNICODE)
_AGO = re.compile(r"(\d{1,9})([smhdw])")
_DIGEST = re.compile(r"(?:(?:hmac-)?sha256:)?([0-9a-f]{64})")
_DAY = datetime.timedelta(days=1)


class SearchError(LedgerError):
    """A query or a time that cannot be understood; the message says what to write."""


class Term(msgspec.Struct, frozen=True):
    """Words that stand one behind the other."""

    words: tuple[str, ...]
    prefix: bool = False
    """The last is a beginning only."""
    absent: bool = False


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """Which receipts are wanted; ``None`` and empty: all."""

    terms: tuple[Term, ...] = ()
    component: str | None = None
    types: tuple[str, ...] = ()
    traffic: bool | None = None
    """Only what a gateway logged of the requests that it served, or only the rest: what people said, and events."""
    version: str | None = None
    ref: str | None = None
    by: str | None = None
    digest: bytes | None = None
    """SHA-256 of a file, or an HMAC, that the receipt names; 32 bytes."""
    since: float | None = None
    """Unix seconds, included."""
    until: float | None = None
    """Unix seconds, not included."""
    before: int | None = None
    """Only entries before this one: where the page before ended."""


def parse_query(text: str, now: float) -> Search:
    """What ``text`` asks for at ``now`` (Unix seconds).

    Raises
    ------
    SearchError
        It is empty, too long, or a filter's value cannot be understood.
    """
    if len(text) > MAX_QUERY:
        raise SearchError(f"the query has {len(text):,} characters, and may have {MAX_QUERY:,}: ask for less")
    terms: list[Term] = []
    found: dict[str, str] = {}
    for part in _PART.finditer(text):
        name, value = (part["name"] or "").lower(), part["quoted"] if part["plain"] is None else part["plain"]
        if name in FILTERS and not part["minus"]:
            if name in found and found[name] != value:
                raise SearchError(f"the query has {name}: twice; ask once for each")
            found[name] = value
            continue
        prefix = part["plain"] is not None and value.endswith("*")
        whole = f"{name} {value}" if name else value
        # A beginning is not brought into the singular: of "class*", "clas" is none.
        *head, last = words_of(whole) or [""]
        last = words_of(whole, stems=False)[-1] if prefix and last else last
        if last:
            terms.append(Term((*head, last), prefix, bool(part["minus"])))
    if len(terms) > MAX_TERMS:
        raise SearchError(f"the query has {len(terms)} words, and may have {MAX_TERMS}: ask for less")
    if not terms and not found:
        raise SearchError(
            "the query has no word to look for; write some, or a filter: " + ", ".join(f"{name}:…" for name in FILTERS)
        )
    empty = next((name for name, value in found.items() if not value), None)
    if empty is not None:
        raise SearchError(f"{empty}: wants a value behind it, without a space between")
    return Search(
        terms=tuple(terms),
        component=found.get("component"),
        types=tuple(type_of(one) for one in found.get("type", "").split(",") if one),
        version=found.get("version"),
        ref=found.get("ref"),
        by=found.get("by"),
        digest=digest_of(found["digest"]) if "digest" in found else None,
        since=time_of(found["since"], now) if "since" in found else None,
        until=time_of(found["until"], now, end=True) if "until" in found else None,
    )


def digest_of(text: str) -> bytes:
    """The 32 bytes of ``sha256:HEX``, ``hmac-sha256:HEX`` or ``HEX``. Raises SearchError."""
    found = _DIGEST.fullmatch(text.strip().lower())
    if found is None:
        raise SearchError(f"{text[:80]!r} is no SHA-256: write sha256: and 64 hexadecimal digits")
    return bytes.fromhex(found[1])


def time_of(text: str, now: float, *, end: bool = False) -> float:
    """``7d`` before ``now``, a day or an instant in RFC 3339 (UTC where it names no offset), as Unix seconds.

    A day is its beginning, or with ``end`` the beginning of the next. Raises SearchError.
    """
    given = text.strip()
    ago = _AGO.fullmatch(given)
    if ago is not None:
        return now - int(ago[1]) * UNITS_S[ago[2]]
    try:
        if len(given) == 10:
            day = datetime.datetime.combine(datetime.date.fromisoformat(given), datetime.time(), datetime.UTC)
            return (day + _DAY if end else day).timestamp()
        at = datetime.datetime.fromisoformat(given)
        return (at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise SearchError(
            f"{text[:40]!r} is no time: write 30d, 12h or 90m back from now, a day ({rfc3339(now)[:10]}), "
            f"or an instant ({rfc3339(now)[:19]}Z)"
        ) from None


def terms_of(search: Search) -> tuple[Term, ...]:
    """The terms of a search, with those that its filters imply where there are words to look for anyway.

    Every receipt has its component and the like among its words, so nothing is lost; and of a word that all receipts
    have, those without the rare component are then passed over by the index of words, not one by one.
    """
    if not any(not term.absent for term in search.terms):
        return search.terms
    filters = (
        search.component,
        search.version,
        search.ref,
        search.by,
        *(search.types if len(search.types) == 1 else ()),
    )
    implied = [Term(tuple(words_of(value))) for value in filters if value]
    return search.terms + tuple(term for term in implied if term.words)


def match_fts5(terms: Sequence[Term]) -> str:
    """The terms, at least one of them not absent, as an FTS5 expression (https://sqlite.org/fts5.html, section 3)."""
    wanted, unwanted = ([_phrase(term) for term in terms if term.absent is absent] for absent in (False, True))
    found = " AND ".join(wanted)
    return f"({found}) NOT ({' OR '.join(unwanted)})" if unwanted else found


def _phrase(term: Term) -> str:
    return f'"{" ".join(term.words)}"{" *" if term.prefix else ""}'


def match_tsquery(terms: Sequence[Term]) -> str:
    """The terms, none of them absent, as a PostgreSQL ``tsquery`` literal (PostgreSQL 15 manual, 8.11.2)."""
    return " & ".join(
        " <-> ".join(f"'{word}'" for word in term.words) + (":*" if term.prefix else "") for term in terms
    )


def tsvector(words: Sequence[str]) -> str:
    """Words with their places, as a ``tsvector`` literal (8.11.1): built here, it needs no parser of the server's."""
    places: dict[str, list[str]] = {}
    for place, word in enumerate(words, 1):
        places.setdefault(word, []).append(str(place))
    return " ".join(f"'{word}':{','.join(at)}" for word, at in places.items())
