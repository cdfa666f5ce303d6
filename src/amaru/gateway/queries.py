"""Query parameters, as every endpoint that operators read takes them: only those it knows, and figures in bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from amaru.errors import RequestError

MAX_PAGE = 500
MAX_UNIX_S = 1e12
MAX_USD = 1e9
_TEXTS = ("cursor", "key", "offer", "provider", "resource", "team", "tenant")
_FIGURES = {
    "since": ("Unix seconds, for instance 1767225600", MAX_UNIX_S),
    "until": ("Unix seconds, for instance 1767225600", MAX_UNIX_S),
    "min_cost_usd": ("US dollars, for instance 0.25", MAX_USD),
}
DECISION_FILTERS = ("limit", "ok", *_TEXTS, *_FIGURES)
"""What pages of decisions may be asked for by."""
_DECISION = re.compile("[0-9a-f]{32}")
_LIMIT = re.compile("[0-9]{1,9}")
_FIGURE = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def query_of(request: Request, names: Sequence[str]) -> dict[str, str]:
    """The query. Raises ``RequestError`` where it has a parameter that is not among ``names``, or one of no text."""
    query = dict(request.query_params)
    for name in query:
        if name not in names:
            known = f"; known: {', '.join(names)}" if names else ""
            raise RequestError(400, f"Unknown query parameter {name[:64]!r}{known}.", param=name[:64])
        if not (query[name].isascii() and query[name].isprintable()):  # no name is otherwise
            raise RequestError(400, f"{name} must be printable ASCII characters.", param=name)
    return query


def limit_of(query: Mapping[str, str]) -> int:
    """How many entries a page is to have. Raises ``RequestError``."""
    limit = query.get("limit", "50")
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise RequestError(400, f"limit must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return int(limit)


def figure_of(text: str) -> float | None:
    """A plain number, not negative; ``None``: it is none."""
    return float(text) if _FIGURE.fullmatch(text) else None


def decisions_page(query: Mapping[str, str]) -> dict[str, Any]:  # Any: keyword arguments of several types
    """Which decisions are asked for, as ``Views.decisions`` takes it. Raises ``RequestError``."""
    page: dict[str, Any] = {name: query[name] for name in _TEXTS if name in query}
    page["limit"] = limit_of(query)
    if "cursor" in query and not _DECISION.fullmatch(query["cursor"]):
        raise RequestError(400, "cursor must be the next_cursor of the page before.", param="cursor")
    if "ok" in query:
        if query["ok"] not in ("true", "false"):
            raise RequestError(400, "ok must be `true` or `false`.", param="ok")
        page["ok"] = query["ok"] == "true"
    for name, (what, most) in _FIGURES.items():
        if name in query:
            page[name] = figure_of(query[name])
            if page[name] is None or page[name] >= most:
                raise RequestError(400, f"{name} must be {what}.", param=name)
    return page
