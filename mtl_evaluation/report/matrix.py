"""A confusion matrix as an HTML table: percent of each row, the darker the more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.report.page import text

MATRIX_STYLE = """
.matrix { width: auto; font-size: 12px; border-collapse: separate; border-spacing: 2px; }
.matrix th, .matrix td { border: 0; padding: 0; vertical-align: middle; font-size: 12px; }
.matrix td { min-width: 32px; height: 24px; text-align: center; border-radius: 4px; }
.matrix th[scope=row] { text-align: right; padding-right: 8px; }
.matrix th[scope=col] { height: 92px; vertical-align: bottom; }
.matrix th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg);
  padding-top: 6px; white-space: nowrap; }
.matrix .count { text-align: right; padding-left: 10px; width: auto; color: var(--ink-2); }
"""


def occurring(
    confusion: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """The same without classes that neither truth nor prediction has."""
    there = np.flatnonzero(confusion.any(0) | confusion.any(1))
    return confusion[np.ix_(there, there)], [names[i] for i in there.tolist()]


def confusion_table(confusion: NDArray[np.int64], names: Sequence[str]) -> str:
    """`confusion` [truth, prediction] of `names`."""
    head = ''.join(f'<th scope="col"><span>{text(name)}</span></th>' for name in names)
    rows = ''.join(
        f'<tr><th scope="row">{text(name)}</th>'
        f'{"".join(_cell(confusion[row], row, column, names) for column in range(len(names)))}'
        f'<td class="count">{_short(int(confusion[row].sum()))}</td></tr>'
        for row, name in enumerate(names)
    )
    return (
        f'<div class="scroll"><table class="matrix"><tr><td></td>{head}'
        f'<th scope="col"><span>all</span></th></tr>{rows}</table></div>'
    )


def _cell(row: NDArray[np.int64], at: int, column: int, names: Sequence[str]) -> str:
    whole = int(row.sum())
    share = row[column] / whole if whole else 0.0
    what = f'{names[at]} answered as {names[column]}: {int(row[column])} of {whole}'
    colour = 'var(--first)' if at == column else 'var(--alarm)'
    shown = f'{100 * share:.0f}' if share >= 0.005 else '–' if not row[column] else '0'
    # From a share of 0.62 on the cell is dark enough for light letters, on either page colour.
    ink = 'color:var(--page);' if share > 0.62 else '' if share >= 0.005 else 'color:var(--line);'
    return (
        f'<td title="{text(what)}" style="{ink}background:color-mix(in srgb,{colour} '
        f'{100 * share:.0f}%,transparent)">{shown}</td>'
    )


def _short(count: int) -> str:
    for unit, size in (('G', 10**9), ('M', 10**6), ('k', 10**3)):
        if count >= 10 * size:
            return f'{count / size:.0f} {unit}'
    return str(count)
