# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Plots of a recorded run and of the comparison of two, in the style of `plots.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mtl_evaluation.report.plots import (
    ALARM,
    FAINT,
    FIRST,
    GOOD,
    INK,
    STYLE,
    THIRD,
    as_svg,
    new_figure,
)

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

COLUMNS = 5
WIDE_INCHES = 11.4


def precision_recall(curves: Mapping[str, Curve]) -> Markup:
    """A small plot per class, best first, its area named."""
    order = sorted(curves, key=lambda name: -float(curves[name][1].mean()))
    rows = -(-len(order) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE_INCHES, 0.35 + 1.95 * rows), layout='constrained')
        figure.patch.set_alpha(0)
        grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, name in zip(grid, order, strict=False):
            axes.patch.set_alpha(0)
            recall, precision = curves[name]
            axes.plot(recall, precision, color=FIRST, linewidth=1.5)
            axes.fill_between(recall, precision, color=FIRST, alpha=0.12, linewidth=0)
            axes.set_title(f'{name}  {100 * float(precision.mean()):.1f}', fontsize=9, loc='left')
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xticks([0, 0.5, 1], ['0', '0.5', '1'])
            axes.set_yticks([0, 0.5, 1], ['0', '0.5', '1'])
        for axes in grid[len(order) :]:
            axes.set_visible(False)
        figure.supxlabel('recall', fontsize=9, color=INK)
        figure.supylabel('precision', fontsize=9, color=INK)
        return as_svg(figure, 'precision-recall')


def recall_by_band(title: str, bands: Mapping[str, tuple[float | None, int]]) -> Markup:
    """Percent found by band, in order; how many objects there are under each name."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((5.5, 2.7))
        places = np.arange(len(bands))
        heights = [100 * (recall or 0) for recall, _ in bands.values()]
        axes.bar(places, heights, width=0.62, color=FIRST)
        for place, (recall, _), height in zip(places, bands.values(), heights, strict=True):
            text = '–' if recall is None else f'{height:.0f}'
            axes.annotate(
                text, (place, height), xytext=(0, 2), textcoords='offset points', ha='center',
                fontsize=8,
            )  # fmt: skip
        axes.set_xticks(places, [f'{name}\n{n}' for name, (_, n) in bands.items()], fontsize=8)
        axes.set_ylim(0, 112)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.grid(axis='x', visible=False)
        axes.set_ylabel('found, %')
        return as_svg(figure, f'recall-{title}')


def over_the_drive(name: str, label: str, bags: Mapping[str, Curve]) -> Markup:
    """A line per bag: how wrong each frame is (y) over the seconds of its bag (x)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE_INCHES, 0.4 + 1.25 * len(bags)), layout='constrained')
        figure.patch.set_alpha(0)
        rows = figure.subplots(len(bags), 1, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (bag, (seconds, flaws)) in zip(rows, bags.items(), strict=True):
            axes.patch.set_alpha(0)
            axes.fill_between(seconds, flaws, step='mid', color=FIRST, alpha=0.25, linewidth=0)
            axes.step(seconds, flaws, where='mid', color=FIRST, linewidth=0.9)
            if len(bags) > 1:
                axes.set_title(bag, fontsize=8, loc='left')
        rows[0].set_ylim(bottom=0)  # of all, and only now: it ends their fitting to the values
        rows[-1].set_xlabel('seconds')
        figure.supylabel(label, fontsize=9, color=INK)
        return as_svg(figure, f'drive-{name}')


@dataclass(frozen=True)
class Change:
    """A row of `changes`: points of difference, its interval, and whether less is better."""

    name: str
    value: float
    interval: tuple[float, float] | None
    lower_is_better: bool = False

    @property
    def colour(self) -> str:
        """Green or red where the interval leaves no doubt, grey-blue where it does."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return FIRST
        return GOOD if (self.value > 0) is not self.lower_is_better else ALARM


def changes(title: str, rows: Sequence[Change], width: float = THIRD) -> Markup:
    """A point a row with its interval, in points of a hundred, around a line at no change."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((width, 0.75 + 0.23 * len(rows)))
        places = np.arange(len(rows))[::-1]
        for place, row in zip(places, rows, strict=True):
            if row.interval is not None:
                low, high = (100 * bound for bound in row.interval)
                axes.plot([low, high], [place, place], color=row.colour, linewidth=2.2, alpha=0.5)
            hollow = row.interval is None
            axes.plot(
                100 * row.value, place, 'o', color=row.colour, markersize=5,
                markerfacecolor='none' if hollow else row.colour,
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(places, [row.name for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        limit = max(0.1, *(abs(x) for x in axes.get_xlim()))
        axes.set_xlim(-limit, limit)
        axes.grid(axis='y', color=FAINT, linewidth=0.4)
        axes.set_xlabel(title)
        return as_svg(figure, f'changes-{title}-{rows[0].name if rows else ""}')
