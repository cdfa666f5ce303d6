"""Query parameters, as every endpoint that operators read takes them: only those it knows, and figures in bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from starlette.requests import Request

from amaru.errors import RequestError

MAX_PAGE = 500
_LIMIT = re.compile("[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def query_of(request: Request, names: Sequence[str]) -> dict[str, str]:
    """The query. Raises ``RequestError`` where it has a parameter that is not among ``names``."""
    query = dict(request.query_params)
    for name in query:
        if name not in names:
            known = f"; known: {', '.join(names)}" if names else ""
            raise RequestError(400, f"Unknown query parameter {name[:64]!r}{known}.", param=name[:64])
    return query


def limit_of(query: Mapping[str, str]) -> int:
    """How many entries a page is to have. Raises ``RequestError``."""
    limit = query.get("limit", "50")
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise RequestError(400, f"limit must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return int(limit)


def seconds_of(text: str) -> float | None:
    """A plain number of seconds, not negative; ``None``: it is none."""
    return float(text) if _SECONDS.fullmatch(text) else None
