# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Plots of a study, each drawn for the page (its colours follow light and dark) and for a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from mtl_evaluation.report import plots
from mtl_evaluation.report.plots import as_svg, new_figure

Rows = Sequence[Mapping[str, Any]]
WIDTH = 11.4


@dataclass(frozen=True)
class Palette:
    """Colours by what they mean."""

    ink: str
    faint: str
    first: str
    second: str
    alarm: str
    good: str


PAGE = Palette(plots.INK, plots.FAINT, plots.FIRST, plots.SECOND, plots.ALARM, plots.GOOD)
PAPER = Palette('#59626d', '#dfe3e8', '#2f6fde', '#d9822b', '#cf3b3b', '#1d8a4e')

LINES = ('#2f6fde', '#d9822b', '#1d8a4e', '#cf3b3b', '#8a5fd0', '#0f9aa8', '#a9762b', '#7a8594')
"""Of several curves; dark and light enough for both page colours."""

MARKS = 'osD^vP*X<>hp'

Draw = Callable[[Palette], Any]


def shown(draw: Draw, name: str) -> Markup:
    """The plot as inline SVG."""
    with matplotlib.rc_context(_style(PAGE)):
        return as_svg(draw(PAGE), name)


def saved(draw: Draw, folder: Path, name: str) -> None:
    """The plot as NAME.png and NAME.svg on white; the same bytes every time."""
    with matplotlib.rc_context(_style(PAPER) | {'svg.hashsalt': name}):
        figure = draw(PAPER)
        figure.savefig(
            folder / f'{name}.png', dpi=110, facecolor='white', metadata={'Software': None}
        )
        figure.savefig(
            folder / f'{name}.svg', facecolor='white', metadata={'Date': None, 'Creator': None}
        )


def _style(palette: Palette) -> dict[Any, Any]:
    named = {plots.INK: palette.ink, plots.FAINT: palette.faint}
    return {
        key: named.get(value, value) if isinstance(value, str) else value
        for key, value in plots.STYLE.items()
    }


def deltas(rows: Rows) -> Draw:
    """Delta_MTL with its interval, the largest on top; rows have name and delta."""
    ordered = sorted(rows, key=lambda row: row['delta']['mean'])

    def draw(palette: Palette) -> Any:
        figure, axes = new_figure((WIDTH, 1.0 + 0.27 * len(ordered)))
        for at, row in enumerate(ordered):
            delta = row['delta']
            if delta['low'] is not None:
                ends = [100 * delta['low'], 100 * delta['high']]
                axes.plot(ends, [at, at], color=palette.first, linewidth=1.4)
            axes.plot(100 * delta['mean'], at, 'D', color=palette.first, markersize=7)
            axes.plot(
                [100 * value for value in delta['values']], [at] * len(delta['values']), '.',
                color=palette.ink, markersize=6, zorder=3,
            )  # fmt: skip
        axes.axvline(0, color=palette.ink, linewidth=0.8)
        axes.set_yticks(range(len(ordered)), [row['name'] for row in ordered])
        axes.grid(axis='y', visible=False)
        axes.set_ylim(-0.7, len(ordered) - 0.3)
        axes.set_xlabel('Delta_MTL, % (diamond: mean; line: 95 % interval; dots: seeds)')
        return figure

    return draw


def pareto(points: Rows) -> Draw:
    """Accuracy against cost: points have x, y (a fraction), low and high or None, label, group."""
    groups = list(dict.fromkeys(point['group'] for point in points))
    apart = 0.012 * max(point['x'] for point in points)
    at = {id(point): point['x'] + apart * shift for point, shift in _beside(points)}

    def draw(palette: Palette) -> Any:
        figure, axes = new_figure((WIDTH, 4.6))
        axes.axhline(0, color=palette.ink, linewidth=0.8)
        for index, group in enumerate(groups):
            mine = [point for point in points if point['group'] == group]
            for point in mine:
                if point['low'] is not None:
                    axes.plot(
                        [at[id(point)]] * 2, [100 * point['low'], 100 * point['high']],
                        color=LINES[index % len(LINES)], linewidth=1.2, alpha=0.6,
                    )  # fmt: skip
            axes.plot(
                [at[id(point)] for point in mine], [100 * point['y'] for point in mine],
                MARKS[index % len(MARKS)], color=LINES[index % len(LINES)], markersize=6.5,
                linestyle='', label=group,
            )  # fmt: skip
        front = pareto_front(points)
        axes.plot(
            [at[id(point)] for point in front], [100 * point['y'] for point in front],
            color=palette.ink, linewidth=0.8, linestyle='--', label='best for its cost', zorder=1,
        )  # fmt: skip
        for point in front:
            axes.annotate(
                point['label'], (at[id(point)], 100 * point['y']), xytext=(6, 4), fontsize=8,
                textcoords='offset points',
            )  # fmt: skip
        axes.set_xlabel(
            'GFLOP per image (single-task: of all its networks; methods of one side by side)'
        )
        axes.set_ylabel('Delta_MTL, %')
        axes.margins(x=0.12, y=0.15)
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
        return figure

    return draw


def _beside(points: Rows) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Points of one network, whose cost is the same, side by side: each with its place from 0."""
    for x in dict.fromkeys(point['x'] for point in points):
        mine = [point for point in points if point['x'] == x]
        yield from ((point, i - (len(mine) - 1) / 2) for i, point in enumerate(mine))


def pareto_front(points: Rows) -> list[Mapping[str, Any]]:
    """Points that no other beats in accuracy at the same or a lower cost, by cost."""
    front: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda point: (point['x'], -point['y'])):
        if not front or point['y'] > front[-1]['y']:
            front.append(point)
    return front


def transfers(row: Mapping[str, Any]) -> Draw:
    """What each task gives each other one, with intervals: a row of `transfer.transfer_matrices`.

    Transfers without a relative gain are left out.
    """
    shown_rows = [x for x in row['transfers'] if x['gain'] is not None]
    ordered = sorted(shown_rows, key=lambda x: row['task_names'].index(x['to']), reverse=True)

    def draw(palette: Palette) -> Any:
        figure, axes = new_figure((WIDTH, 1.0 + 0.27 * len(ordered)))
        axes.axvline(0, color=palette.ink, linewidth=0.8)
        for at, found in enumerate(ordered):
            colour = LINES[row['task_names'].index(found['from']) % len(LINES)]
            if found['gain_low'] is not None:
                axes.plot([100 * found['gain_low'], 100 * found['gain_high']], [at, at], '-',
                          color=colour, linewidth=1.6)  # fmt: skip
            axes.plot(100 * found['gain'], at, 'o', color=colour, markersize=5.5)
        axes.set_yticks(
            range(len(ordered)), [f'{x["from"]} to {x["to"]} {x["figure"]}' for x in ordered]
        )
        axes.set_ylim(-0.7, len(ordered) - 0.3)
        axes.set_xlabel('transfer, % of the receiving task’s figure (line: 95 % interval)')
        return figure

    return draw


def cosines(through: Mapping[str, Sequence[tuple[int, float]]]) -> Draw:
    """Gradient cosine of each pair of tasks through training."""

    def draw(palette: Palette) -> Any:
        figure, axes = new_figure((WIDTH, 3.0))
        axes.axhline(0, color=palette.ink, linewidth=0.8)
        for index, (pair, found) in enumerate(through.items()):
            steps, values = np.array(found).reshape(-1, 2).T
            axes.plot(
                steps, values, '-', color=LINES[index % len(LINES)], label=pair, linewidth=1.4,
                marker=MARKS[index % len(MARKS)], markersize=3.5,
            )  # fmt: skip
        axes.set_xlabel('step')
        axes.set_ylabel('cosine of the gradients')
        axes.legend(frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
        return figure

    return draw


def left_out(without: Iterable[str]) -> str:
    """` (without detection)`, or nothing where Delta_MTL is over all tasks."""
    named = ', '.join(without)
    return f' (without {named})' if named else ''
