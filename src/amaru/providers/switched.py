"""A provider at several addresses (versions of its API, endpoints), of which calls go to one at a time."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from amaru.domain import Offer
from amaru.protocols.adapting import Adaptation, Adapted
from amaru.protocols.openai import OpenAIRequest
from amaru.providers.base import Provider, StreamReply, Timing, WholeReply
from amaru.providers.unread import Unread


class SwitchedProvider:
    """See ``base.Provider``. ``addresses`` are the same provider, the first of them where it is asked ordinarily.

    ``switch`` decides where the next calls go; those under way end where they began.
    """

    __slots__ = ("_addresses", "_asked", "_index", "id")

    def __init__(self, addresses: Sequence[Provider]) -> None:
        self._addresses = tuple(addresses)
        self._asked = self._addresses[0]
        self._index = 0
        self.id = self._asked.id

    def __repr__(self) -> str:
        return f"SwitchedProvider({self.id!r}, {self._index} of {len(self._addresses)})"

    @property
    def index(self) -> int:
        """Which address is asked; 0 is the first."""
        return self._index

    def switch(self, index: int) -> int:
        """Ask the address of this index from now on; gives back the former.

        Raises
        ------
        ValueError
            There is none of this index.
        """
        if not 0 <= index < len(self._addresses):
            raise ValueError(f"provider {self.id!r} has addresses 0 to {len(self._addresses) - 1}, not {index}")
        former, self._index = self._index, index
        self._asked = self._addresses[index]
        return former

    def call(
        self, offer: Offer, request: OpenAIRequest, timing: Timing, *, whole: bool = False
    ) -> Coroutine[Any, Any, WholeReply | StreamReply]:  # Any: what coroutines are sent
        """Ask the address of the hour."""
        return self._asked.call(offer, request, timing, whole=whole)

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        """Adapt at every address: what is OpenAI's already stays as it is."""
        return [address.adapt(offer, adaptation) for address in self._addresses][self._index]

    def adapted(self, offer: str) -> Adapted | None:
        """At the address of the hour."""
        return self._asked.adapted(offer)

    def unread(self, offer: str) -> tuple[Unread, ...]:
        """At the address of the hour."""
        return self._asked.unread(offer)

    async def aclose(self) -> None:
        """Close every connection of every address."""
        for address in self._addresses:
            await address.aclose()
