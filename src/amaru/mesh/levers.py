"""The levers of a live mesh: what a healer pulls acts on the next decision, attempt or call.

How an offer is steered lives with what is known of it, so reloads carry it on. Which address a provider is asked at and
how answers are rewritten live in the provider's connections; where a reload opens new ones, ``carry_on`` sets them
again.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from amaru.domain import Kind, Offer
from amaru.protocols.adapting import Adaptation, Adapted
from amaru.protocols.adapting_evidence import find_adaptation
from amaru.providers.switched import SwitchedProvider
from amaru.routing.steering import Steering

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh
    from amaru.routing.board import Board

READABLE_S = 60.0
"""How long another worker's word counts: while unreadable answers come, it is renewed."""
Answer = tuple[Kind, bool, float]
"""Its kind, whether it was streamed, and when it was kept: which of an offer's unreadable answers it is."""


class MeshLevers:
    """See ``health.healing.Levers``; they act on whatever plan the mesh serves by now."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._addresses: dict[str, int] = {}
        """Providers that are not asked where they are configured."""
        self._adaptations: dict[str, Adaptation] = {}
        """By offer."""
        self._pools: tuple[Board, dict[str, list[str]]] | None = None
        self._found: dict[str, dict[Answer, Adaptation | None]] = {}
        """By offer: what its latest unreadable answers gave, without them."""
        self._readable: dict[str, tuple[float, Adaptation]] = {}
        """By offer: what they gave in other workers, and when that was told, in Unix seconds."""

    # ---- what there is ------------------------------------------------------------------------------------------

    def offers(self) -> Sequence[Offer]:
        """Those of the configuration that serves now."""
        return self._mesh.plan.board.offers

    def pools(self) -> Mapping[str, Sequence[str]]:
        """Name of each resource and alias → ids of its offers."""
        board = self._mesh.plan.board
        if self._pools is None or self._pools[0] is not board:
            pools: dict[str, list[str]] = {}
            for name in board.resources():
                rows = board.pool(name)
                pools[name] = [] if rows is None else [board.offers[row].id for row in rows.tolist()]
            self._pools = board, pools
        return self._pools[1]

    def kept_away(self, offer: str) -> bool:
        """Whether its breaker keeps requests away now, but for probes."""
        board = self._mesh.plan.board
        row = board.row_of.get(offer)
        return row is not None and board.kept_away(row)

    def recoveries(self, offer: str) -> int:
        """How often a probe has found it well after its breaker had opened."""
        board = self._mesh.plan.board
        row = board.row_of.get(offer)
        return 0 if row is None else board.recoveries(row)

    def in_flight(self, offer: str) -> float:
        """Requests, or GPU-hours, under way there now."""
        board = self._mesh.plan.board
        row = board.row_of.get(offer)
        return 0.0 if row is None else board.in_flight(row)

    # ---- steering -----------------------------------------------------------------------------------------------

    def steering(self, offer: str) -> Steering | None:
        """How the offer is steered now; ``None``: there is no such offer now."""
        board = self._mesh.plan.board
        row = board.row_of.get(offer)
        return None if row is None else board.steering(row)

    def steer(self, offer: str, steering: Steering) -> Steering:
        """Steer it so from the next decision on; returns the steering before. Raises ValueError: no such offer."""
        board = self._mesh.plan.board
        row = board.row_of.get(offer)
        if row is None:
            raise ValueError(f"no offer {offer!r}")
        return board.steer(row, steering)

    # ---- decoding -----------------------------------------------------------------------------------------------

    def adapted(self, offer: str) -> Adapted | None:
        """How its answers are rewritten now, and how many needed it; ``None``: they are not, or there is no such."""
        try:
            return self._mesh.plan.provider_of(offer).adapted(offer)
        except ValueError:
            return None

    def find_adaptation(self, offer: str) -> Adaptation | None:
        """One that would make its latest unreadable answers readable, where that takes no guessing.

        It goes on reading what the adaptation in force reads, if there is one.
        """
        try:
            provider = self._mesh.plan.provider_of(offer)
        except ValueError:
            return None
        before, found = self._found.pop(offer, {}), dict[Answer, Adaptation | None]()
        for answer in provider.unread(offer):
            key = answer.kind, answer.stream, answer.at
            known = key in before  # this is asked again and again while a trouble goes on
            found[key] = before[key] if known else find_adaptation(answer.kind, answer.body, stream=answer.stream)
        adaptations = [adaptation for adaptation in found.values() if adaptation is not None]
        if found:
            self._found[offer] = found
        at, elsewhere = self._readable.get(offer, (-math.inf, None))
        if elsewhere is not None and self._mesh.wall() - at < READABLE_S:
            adaptations.append(elsewhere)
        if not adaptations:
            return None
        use = provider.adapted(offer)
        return reduce(or_, adaptations if use is None else [use.adaptation, *adaptations])

    def told_readable(self, offer: str, adaptation: Adaptation, at: float) -> None:
        """Another worker found that its unreadable answers would be readable so."""
        if offer in self._mesh.plan.board.row_of:
            self._readable[offer] = at, adaptation

    def adaptations(self) -> dict[str, Adaptation]:
        """Those in force, by offer."""
        return dict(self._adaptations)

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        """Rewrite its answers so, or not at all; returns the adaptation before. Raises ValueError: no such offer."""
        before = self._mesh.plan.adapt(offer, adaptation)
        self._adaptations.pop(offer, None)
        if adaptation is not None:
            self._adaptations[offer] = adaptation
        return before

    # ---- addresses ----------------------------------------------------------------------------------------------

    def alternates(self, provider: str) -> int:
        """How many other addresses the provider has."""
        settings = self._mesh.plan.settings.get(provider)
        return 0 if settings is None else len(settings.alternates)

    def address(self, provider: str) -> int:
        """Which is asked now: 0 the configured one, n the n-th alternate."""
        switched = self._mesh.plan.providers.get(provider)
        return switched.index if isinstance(switched, SwitchedProvider) else 0

    def addresses(self) -> dict[str, int]:
        """Of the providers that are not asked where they are configured."""
        return dict(self._addresses)

    def endpoint(self, provider: str, index: int) -> int:
        """Ask its address 0 (the configured one) or n (its n-th alternate); returns the index before.

        Raises ValueError where there is no such provider or address.
        """
        before = self._mesh.plan.endpoint(provider, index)
        self._addresses.pop(provider, None)
        if index:
            self._addresses[provider] = index
        return before

    # ---- reloads ------------------------------------------------------------------------------------------------

    def carry_on(self) -> None:
        """A reload may have opened a provider anew: ask it where it was asked, and read it as it was read."""
        plan = self._mesh.plan
        self._found.clear()
        self._readable.clear()
        for provider, index in list(self._addresses.items()):
            if self.address(provider) != index:
                with contextlib.suppress(ValueError):  # the provider is gone, or that address of it
                    plan.endpoint(provider, index)
        for offer, adaptation in list(self._adaptations.items()):
            if offer not in plan.board.row_of:
                del self._adaptations[offer]
            elif self.adapted(offer) is None:
                plan.adapt(offer, adaptation)
