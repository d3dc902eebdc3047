# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A confusion matrix as an HTML table: percent of each row, the darker the more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mtl_evaluation.report import page
from mtl_evaluation.report.page import MatrixCell

ASSETS = (page.ASSETS / 'matrix.css',)
"""What a page with a matrix needs."""


def occurring(
    confusion: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """The same without classes that neither truth nor prediction has."""
    there = np.flatnonzero(confusion.any(0) | confusion.any(1))
    return confusion[np.ix_(there, there)], [names[i] for i in there.tolist()]


def confusion_table(confusion: NDArray[np.int64], names: Sequence[str]) -> Markup:
    """`confusion` [truth, prediction] of `names`."""
    rows = [
        (name, [_cell(confusion[row], row, column, names) for column in range(len(names))])
        for row, name in enumerate(names)
    ]
    return page.matrix(names, rows, counts=[_short(int(row.sum())) for row in confusion])


def _cell(row: NDArray[np.int64], at: int, column: int, names: Sequence[str]) -> MatrixCell:
    whole = int(row.sum())
    share = row[column] / whole if whole else 0.0
    return MatrixCell(
        text=f'{100 * share:.0f}' if share >= 0.005 else '–' if not row[column] else '0',
        colour='--first' if at == column else '--alarm',
        percent=f'{100 * share:.0f}',
        # From a share of 0.62 on the cell is dark enough for light letters, on either page colour.
        ink='--page' if share > 0.62 else '' if share >= 0.005 else '--line',
        title=f'{names[at]} answered as {names[column]}: {int(row[column])} of {whole}',
    )


def _short(count: int) -> str:
    for unit, size in (('G', 10**9), ('M', 10**6), ('k', 10**3)):
        if count >= 10 * size:
            return f'{count / size:.0f} {unit}'
    return str(count)
