"""Lists a page at a time: those of the file first, then those of the store, each by id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from amaru.errors import RequestError

MAX_PAGE = 1_000

T = TypeVar("T")


class Listed(Protocol):
    """What the file and the store may both have."""

    @property
    def id(self) -> str: ...

    @property
    def from_file(self) -> bool: ...


L = TypeVar("L", bound=Listed)


class Page(NamedTuple, Generic[T]):
    """Some of a list."""

    items: list[T]
    next_cursor: str | None
    """Where the next page begins; ``None``: this is the last."""


def bounded(limit: int) -> int:
    """How many entries a page has at most."""
    return max(1, min(limit, MAX_PAGE))


def cut(found: Sequence[T], limit: int, cursor_of: Callable[[T], str]) -> Page[T]:
    """A page of ``limit`` entries, of which one more was looked for."""
    page = list(found[:limit])
    return Page(page, cursor_of(page[-1]) if len(found) > limit else None)


def both(filed: Iterable[L], stored: Callable[[str, int], list[L]], cursor: str | None, limit: int) -> Page[L]:
    """A page of what the file has and, after that, of the store.

    ``stored`` gives as many as asked for of those after an id. The cursor says in which of the two it is, so that what
    a reload adds or takes away meanwhile neither repeats nor hides anything else. Raises ``RequestError`` 400.
    """
    place, colon, after = (cursor or "file:").partition(":")
    if place not in ("file", "store") or not colon:
        raise RequestError(400, "cursor must be the next_cursor of the page before.", param="cursor")
    found: list[L] = []
    if place == "file":
        found, after = sorted((one for one in filed if one.id > after), key=lambda one: one.id), ""
    if len(found) <= limit:
        found += stored(after, limit + 1 - len(found))
    return cut(found, limit, lambda one: f"{'file' if one.from_file else 'store'}:{one.id}")


def every(page: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """Whatever is on this page and all that follow."""
    cursor: str | None = None
    while True:
        items, cursor = page(cursor)
        yield from items
        if cursor is None:
            return
