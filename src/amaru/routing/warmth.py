"""Warm prompt caches as a term of the score: what each is expected to save one request.

Providers keep what they have computed of a prompt for some minutes. Whoever served the last turn of a conversation can
serve the next for less, where it has a price for cached tokens, and begins sooner. That is a share of the offer's price
and of its latency, by which the kernels score (``score_kernels.warm_price``). No limit sees it: an offer that is
refused without it is refused with it, and one that is better by more than the cache saves still comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from amaru.domain import Workload
from amaru.routing import kernels as k
from amaru.routing.conversation import Conversation, mark_of

MOST = 0.95
"""No cache saves more than this share, so that what is left can be told apart."""


class Saved(NamedTuple):
    """What one offer's cache is expected to save one request."""

    price: float
    """Share of its unit price, 0 to ``MOST``."""
    time: float
    """Share of its latency, 0 to ``MOST``."""


Warmth = Mapping[int, Saved]
"""By board row; offers whose caches are cold have no entry."""


class WarmthSettings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much a warm cache counts."""

    weight: float = 1.0
    """In [0, 1]: what both shares are multiplied by."""
    first_token: float = 0.1
    """In [0, 0.9]: share of the latency that a cache saves which was warmed just now."""
    shun_s: float = 60.0
    """An offer that failed the conversation within so many seconds is not preferred for it."""


def put_in(table: k.Floats, rows: k.Ints, warmth: Warmth) -> None:
    """Write ``SAVES_PRICE`` and ``SAVES_TIME`` of the offers ``rows``: few are warm, often one."""
    columns = table[:, k.SAVES_PRICE : k.SAVES_TIME + 1]
    columns[:] = 0.0
    for row, saved in warmth.items():
        columns[rows == row] = saved


class ConversationWarmth:
    """Which offer is warm for a conversation, on one board.

    Parameters
    ----------
    offers
        By id: board row, and seconds that its prompt cache lasts after a turn.
    static
        See ``kernels``: prices are read from it.
    """

    def __init__(self, offers: Mapping[str, tuple[int, float]], static: k.Floats, settings: WarmthSettings) -> None:
        self._settings = settings
        self._static = static
        self._offers = {mark_of(id): place for id, place in offers.items()}

    def of(self, conversation: Conversation, workload: Workload, now: float) -> Warmth | None:
        """What the conversation's last turn has left warm at ``now``, in Unix seconds; ``None``: nothing.

        A cache is taken to be lost a bit at a time over its lifetime. It saves the difference between the prices of
        fresh and of cached tokens on the last prompt, which begins the next.
        """
        settings = self._settings
        place = self._offers.get(conversation.offer)
        if place is None or settings.weight <= 0.0 or _failed(conversation, now, settings.shun_s):
            return None
        row, lifetime_s = place
        age_s = max(now - conversation.at, 0.0)
        if age_s >= lifetime_s:
            return None
        left = settings.weight * (1.0 - age_s / lifetime_s)
        fresh, cached, out = self._static[row, [k.PRICE_IN, k.PRICE_CACHED, k.PRICE_OUT]].tolist()
        cost = workload.input_tokens * fresh + workload.output_tokens * out
        known = min(conversation.prompt_tokens, workload.input_tokens)
        saved = known * max(fresh - cached, 0.0) / cost if cost > 0.0 else 0.0
        found = Saved(min(left * saved, MOST), min(left * settings.first_token, MOST))
        return {row: found} if any(found) else None


def _failed(conversation: Conversation, now: float, within_s: float) -> bool:
    failed: Collection[float] = [one.at for one in conversation.failed if one.offer == conversation.offer]
    return any(now - at < within_s for at in failed)
