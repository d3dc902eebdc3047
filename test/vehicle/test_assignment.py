# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The pairs of greatest total worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mtl_perception.assignment import assign

WORTH = arrays.arrays(
    np.float64,
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    # Few values, so that ties are common.
    elements=st.integers(-4, 8).map(lambda value: value / 4),
)


@given(WORTH)
@settings(max_examples=100, deadline=None)
def test_total_is_that_of_scipy_and_every_pair_is_worth_something(worth):
    optimize = pytest.importorskip('scipy.optimize', reason='the oracle comes with training')

    rows, columns = assign(worth)

    best = np.maximum(worth, 0)
    expected = best[optimize.linear_sum_assignment(best, maximize=True)].sum()
    assert worth[rows, columns].sum() == pytest.approx(expected)
    assert (worth[rows, columns] > 0).all()
    assert (np.diff(rows) > 0).all()
    assert len(np.unique(columns)) == len(columns)


def test_the_best_pair_gives_way_where_the_sum_gains():
    rows, columns = assign(np.array([[0.9, 0.8], [0.8, 0.0]]))

    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


def test_a_row_stays_alone_rather_than_in_a_worthless_pair():
    rows, columns = assign(np.array([[0.0, -1.0], [0.5, 0.0]]))

    assert (rows.tolist(), columns.tolist()) == ([1], [0])


@pytest.mark.parametrize('shape', [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_pair(shape):
    assert [part.tolist() for part in assign(np.zeros(shape))] == [[], []]


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match='not finite'):
        assign(np.array([[np.nan]]))
