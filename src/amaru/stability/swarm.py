"""Several nodes' fields as one: what ``POST /federation/swarm`` answers.

Each figure of the whole is the mean of the nodes' own, weighted. Beside it stands the node that fares worst, since a
mean hides it: nine calm nodes and one in turmoil are not a swarm that is nearly calm. Φ of the whole is the mean
coherence *within* the nodes: phases between nodes are not compared, since their steps are not taken together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

MAX_NODES = 10_000
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class NodeMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One node's latest figures, as ``GET /federation/metrics`` gives them; further ones are ignored."""

    node: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    C: Share | None = None
    U: Share | None = None
    Phi: Share | None = None
    Psi: Share | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    """Beside the other nodes'."""


class SwarmHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The whole."""

    nodes: int
    """That are counted."""
    silent: list[str]
    """Nodes without figures: they have taken no step yet, or could not be reached."""
    C: float | None
    U: float | None
    Phi: float | None
    Psi: float | None
    """Weighted means; ``None``: no node has figures."""
    worst: str | None
    """The node of the least Ψ."""
    worst_psi: float | None
    spread: float | None
    """From the least Ψ to the greatest."""


def swarm_health(nodes: Sequence[NodeMetrics]) -> SwarmHealth:
    """What the nodes come to together, in whatever order they are given."""
    counted = [one for one in nodes if _figures(one) is not None]
    silent = sorted({one.node for one in nodes} - {one.node for one in counted})
    if not counted:
        return SwarmHealth(
            nodes=0, silent=silent, C=None, U=None, Phi=None, Psi=None, worst=None, worst_psi=None, spread=None
        )
    weights = [one.weight for one in counted]
    columns = list(zip(*(_figures(one) or () for one in counted), strict=True))
    c, u, phi, psi = (
        math.fsum(weight * figure for weight, figure in zip(weights, column, strict=True)) / math.fsum(weights)
        for column in columns
    )
    least, worst = min((figure, one.node) for figure, one in zip(columns[3], counted, strict=True))
    return SwarmHealth(
        nodes=len(counted),
        silent=silent,
        C=c,
        U=u,
        Phi=phi,
        Psi=psi,
        worst=worst,
        worst_psi=least,
        spread=max(columns[3]) - least,
    )


def _figures(one: NodeMetrics) -> tuple[float, float, float, float] | None:
    if one.C is None or one.U is None or one.Phi is None or one.Psi is None:
        return None
    return one.C, one.U, one.Phi, one.Psi
