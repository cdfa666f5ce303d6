"""What a policy has learned, as the arrays that the kernels read and write; and which rows of them are whose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from amaru.domain import Offer
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import q_kernels as q
from amaru.routing.knobs import Knobs


class Mind:
    """Beliefs about offers, values of states, and the knobs.

    Attributes
    ----------
    sums, beliefs
        float64 [slots, N_SCALES, N_SUMS] and [slots, N_BELIEFS]: see ``belief_kernels``. An offer has a slot, and so
        has its provider; another pair where whole answers are timed instead of first tokens.
    values, memory, ring
        float64 [N_STATES, 2], [MEMORY, 3], [1]: see ``q_kernels``.
    knobs
        float64 [N_KNOBS].
    """

    __slots__ = ("beliefs", "knobs", "memory", "ring", "settings", "slot_of", "sums", "values")

    def __init__(self, settings: Knobs, *, believes: bool = False, values_states: bool = False) -> None:
        self.settings = settings
        self.knobs = settings.array()
        self.slot_of: dict[str, int] | None = {} if believes else None
        self.sums = np.zeros((0, b.N_SCALES, b.N_SUMS))
        self.beliefs = np.zeros((0, b.N_BELIEFS))
        self.values = np.zeros((q.N_STATES if values_states else 0, 2))
        self.memory = np.zeros((q.MEMORY if values_states else 0, 3))
        self.ring = np.zeros(1)

    def slots(self, offers: Sequence[Offer], *, whole: bool = False) -> tuple[k.Ints, k.Ints]:
        """[offers] int64 each: the slot of every offer, and of its provider; new ones where they are not known yet.

        ``whole``: those for the time of whole answers. The arrays may be replaced by larger ones: fetch them after.
        """
        if self.slot_of is None:
            none = np.zeros(len(offers), dtype=np.int64)
            return none, none
        keys = slot_keys(offers, whole=whole)
        self.reserve(key for pair in keys for key in pair)
        own, groups = (np.array([self.slot_of[pair[i]] for pair in keys], dtype=np.int64) for i in (0, 1))
        return own, groups

    def pair(self, offer: Offer, *, whole: bool = False) -> tuple[int, int]:
        """As ``slots``, of one offer."""
        slot_of = self.slot_of
        if slot_of is None:
            return 0, 0
        ((own, group),) = slot_keys((offer,), whole=whole)
        if own not in slot_of or group not in slot_of:
            self.reserve((own, group))
        return slot_of[own], slot_of[group]

    def reserve(self, keys: Iterable[str]) -> None:
        """Make sure that every key has a slot."""
        slot_of = self.slot_of
        assert slot_of is not None
        for key in keys:
            slot_of.setdefault(key, len(slot_of))
        more = len(slot_of) - len(self.sums)
        if more > 0:
            self.sums = np.concatenate([self.sums, np.zeros((more, b.N_SCALES, b.N_SUMS))])
            blank = np.zeros((more, b.N_BELIEFS))
            blank[:, [b.SUMS_AT, b.SENSED_AT, b.AS_OF]] = -math.inf
            self.beliefs = np.concatenate([self.beliefs, blank])

    def forget(self) -> None:
        """Back to what it was before it learned anything; slots stay."""
        self.knobs[:] = self.settings.array()
        self.sums[:] = 0.0
        self.beliefs[:] = 0.0
        self.beliefs[:, [b.SUMS_AT, b.SENSED_AT, b.AS_OF]] = -math.inf
        self.values[:] = 0.0
        self.memory[:] = 0.0
        self.ring[:] = 0.0


def slot_keys(offers: Sequence[Offer], *, whole: bool) -> list[tuple[str, str]]:
    """The names that the offer's and its provider's slots have."""
    kind = "whole" if whole else "first"
    return [(f"{kind} offer {offer.id}", f"{kind} provider {offer.provider}") for offer in offers]


def offer_of(key: str) -> str | None:
    """The id of the offer whose slot has that name; None: it is a provider's."""
    kind, _, id = key.partition(" offer ")
    return id if kind in ("first", "whole") else None
