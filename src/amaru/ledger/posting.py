"""One POST for an anchor: what goes wrong with it is a trouble, by which it is tried again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from amaru.http1 import posting
from amaru.http1.posting import LIMIT_S, PostError
from amaru.ledger.troubles import AnchorError, Trouble

_REFUSED_STATUSES = frozenset((401, 403, 407))
_BUSY_STATUSES = frozenset((408, 425, 429))


class Poster(posting.Poster):
    """As ``http1.posting.Poster``, but raises AnchorError throughout."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit_s: float = LIMIT_S,
        ca_file: Path | None = None,
    ) -> None:
        with _anchoring():
            super().__init__(url, headers=headers, limit_s=limit_s, ca_file=ca_file)

    def post(
        self, body: bytes, content_type: str, *, accept: str | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Post ``body``; the answer's body."""
        with _anchoring():
            return super().post(body, content_type, accept=accept, headers=headers)


def require_url(url: str) -> str:
    """``url``, where it is one that can be posted to. Raises AnchorError, without credentials that are in it."""
    with _anchoring():
        return posting.require_url(url)


@contextmanager
def _anchoring() -> Iterator[None]:
    try:
        yield
    except PostError as error:
        raise AnchorError(str(error), _trouble(error)) from None


def _trouble(error: PostError) -> Trouble:
    if error.status in _REFUSED_STATUSES:
        return Trouble.AUTHENTICATION
    if error.status is None:
        return Trouble.NETWORK if error.is_passing else Trouble.VALIDATION
    return Trouble.NETWORK if error.status >= 500 or error.status in _BUSY_STATUSES else Trouble.VALIDATION
