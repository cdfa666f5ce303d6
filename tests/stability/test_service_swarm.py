"""Several nodes as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.stability.swarm import NodeMetrics, swarm_health

share = st.floats(0, 1)
nodes = st.lists(
    st.builds(
        NodeMetrics, node=st.text("abc", min_size=1), C=share, U=share, Phi=share, Psi=share, weight=st.floats(0.1, 9)
    ),
    min_size=1,
    max_size=8,
)


def node(name: str, figure: float, **others: float) -> NodeMetrics:
    return NodeMetrics(node=name, C=figure, U=figure, Phi=figure, Psi=figure, **others)


def test_the_whole_is_the_mean_and_the_worst_stands_beside_it() -> None:
    found = swarm_health([node("a", 0.8), node("b", 0.2), NodeMetrics(node="c")])
    assert (found.nodes, found.silent) == (2, ["c"])
    assert [found.C, found.U, found.Phi, found.Psi] == [pytest.approx(0.5)] * 4
    assert (found.worst, found.worst_psi) == ("b", 0.2)
    assert found.spread == pytest.approx(0.6)


def test_nodes_can_weigh_more() -> None:
    assert swarm_health([node("a", 0.8, weight=3.0), node("b", 0.4)]).Psi == pytest.approx(0.7)


def test_without_figures_nothing_is_known() -> None:
    found = swarm_health([NodeMetrics(node="a", C=0.5)])
    assert (found.nodes, found.silent, found.Psi, found.worst) == (0, ["a"], None, None)


@given(nodes)
def test_it_lies_between_the_nodes_in_whatever_order(some: list[NodeMetrics]) -> None:
    found = swarm_health(some)
    figures = [one.Psi for one in some if one.Psi is not None]
    assert found.Psi is not None
    assert min(figures) - 1e-9 <= found.Psi <= max(figures) + 1e-9
    assert swarm_health(some[::-1]) == found
