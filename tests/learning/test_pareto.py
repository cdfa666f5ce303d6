"""Fronts: what dominates, what the front covers, and where it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amaru.learning.pareto import box, hypervolume, lattice, non_dominated, reference_beyond

REFERENCE = (1.0, 1.0, 0.0)
clouds = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(0.0, 1.0))


@pytest.mark.parametrize(("wanted", "got"), [(1, 3), (3, 3), (4, 6), (21, 21), (22, 28), (66, 66)])
def test_weights_lie_evenly_on_the_simplex(wanted: int, got: int) -> None:
    weights = lattice(wanted)
    assert len(weights) == got
    assert len(np.unique(weights, axis=0)) == got
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1)} <= {tuple(row) for row in weights.tolist()}


def test_a_point_is_dominated_by_one_that_is_better_on_an_axis_and_worse_on_none() -> None:
    points = np.array([[1, 9, 0.9], [2, 8, 0.9], [2, 9, 0.9], [1, 9, 0.95], [9, 9, 0.99]], np.float64)
    assert non_dominated(points).tolist() == [False, True, False, True, True]


def test_equal_points_do_not_dominate_each_other() -> None:
    assert non_dominated(np.ones((3, 3))).all()


def test_volume_of_boxes_that_can_be_counted_by_hand() -> None:
    assert hypervolume(np.array([[0.0, 0.0, 1.0]]), REFERENCE) == pytest.approx(1.0)
    two = np.array([[0.5, 0.0, 1.0], [0.0, 0.5, 1.0]])
    assert hypervolume(two, REFERENCE) == pytest.approx(0.75)
    corner = np.array([[0.5, 0.5, 0.5], [0.0, 0.75, 0.25]])
    # 0.5³, and of the second 1 · 0.25 · 0.25 less what both cover, 0.5 · 0.25 · 0.25.
    assert hypervolume(corner, REFERENCE) == pytest.approx(0.125 + 0.0625 - 0.03125)


def test_what_is_beyond_the_reference_covers_nothing() -> None:
    assert hypervolume(np.array([[1.5, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), REFERENCE) == 0.0


@settings(max_examples=60)
@given(clouds)
def test_volume_agrees_with_counting_cells(points: np.ndarray) -> None:
    """Inclusion of every cell of the grid that the points' own coordinates make: exact, and another algorithm."""
    losses = points * [1, 1, -1] + [0, 0, 1]
    axes = [np.unique(np.append(losses[:, axis], 1.0)) for axis in range(3)]
    expected = 0.0
    for i, low_a in enumerate(axes[0][:-1]):
        for j, low_b in enumerate(axes[1][:-1]):
            for k, low_c in enumerate(axes[2][:-1]):
                if (losses <= [low_a, low_b, low_c]).all(axis=1).any():
                    expected += (axes[0][i + 1] - low_a) * (axes[1][j + 1] - low_b) * (axes[2][k + 1] - low_c)
    assert hypervolume(points, REFERENCE) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60)
@given(clouds)
def test_only_the_front_covers(points: np.ndarray) -> None:
    assert hypervolume(points[non_dominated(points)], REFERENCE) == pytest.approx(hypervolume(points, REFERENCE))


@settings(max_examples=60)
@given(clouds)
def test_every_point_is_inside_its_reference_and_no_front_fills_more_than_its_box(points: np.ndarray) -> None:
    reference = reference_beyond(points)
    covered = hypervolume(points, reference)
    assert 0.0 < covered <= box(points, reference) * (1 + 1e-9)
