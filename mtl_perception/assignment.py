# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which rows go with which columns, so that the sum of what the pairs are worth is greatest.

The linear assignment problem by shortest augmenting paths (Jonker and Volgenant, Computing 38,
1987; Crouse, IEEE TAES 52(4), 2016), rectangular, where a row may also stay alone. The search over
columns is one numpy operation a step; rows whose best column nobody else wants, most of them in
tracking, take none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def assign(worth: NDArray[np.floating]) -> tuple[Indices, Indices]:
    """Rows and columns of the pairs of greatest total worth, by rising row.

    worth [N, M]: what a pair is worth; one of 0 or less is never made. Each row and each column is
    in one pair at most. Raises ValueError on values that are not finite.
    """
    worth = np.asarray(worth, np.float64)
    if not np.isfinite(worth).all():
        raise ValueError('assign: worth holds values that are not finite')
    # What can be in no pair is left out; the rest gets a column per row for staying alone.
    rows = np.flatnonzero((worth > 0).any(1))
    columns = np.flatnonzero((worth > 0).any(0))
    if not rows.size:
        return rows, rows.copy()
    part = worth[np.ix_(rows, columns)]
    alone = np.zeros((len(rows), len(rows)))
    # A worthless pair costs more than staying alone, so that no search goes through one.
    cost = np.concatenate([np.where(part > 0, -part, part.max()), alone], 1)
    column_of = _shortest_paths(cost)
    paired = column_of < len(columns)
    return rows[paired], columns[column_of[paired]]


def _shortest_paths(cost: NDArray[np.float64]) -> Indices:
    """The column of every row [N] at the least total cost [N, M], N <= M."""
    count, width = cost.shape
    price = np.zeros(width)
    """Of a column; reduced costs, `cost - least of the row - price`, are never negative."""
    least = cost.min(1)
    column_of = np.full(count, -1)
    row_of = np.full(width, -1)
    best = cost.argmin(1)
    first = np.unique(best, return_index=True)[1]
    column_of[first], row_of[best[first]] = best[first], first
    for start in np.flatnonzero(column_of < 0).tolist():
        distance = np.full(width, np.inf)
        """Of a column from `start`, over pairs that exist and reduced costs."""
        before = np.full(width, start)
        """The row from which a column is reached."""
        closed = np.zeros(width, bool)
        row, so_far = start, 0.0
        while True:
            through = so_far + (cost[row] - least[row] - price)
            nearer = (through < distance) & ~closed
            distance[nearer], before[nearer] = through[nearer], row
            column = int(np.where(closed, np.inf, distance).argmin())
            so_far = distance[column]
            if row_of[column] < 0:
                break
            closed[column] = True
            row = row_of[column]
        gain = so_far - distance[closed]
        price[closed] -= gain
        least[row_of[closed]] += gain
        least[start] += so_far
        while True:
            row = int(before[column])
            row_of[column] = row
            column, column_of[row] = int(column_of[row]), column
            if row == start:
                break
    return column_of
