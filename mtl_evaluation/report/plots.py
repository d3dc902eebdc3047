# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Plots as inline SVG that follows the page's colours, light or dark.

matplotlib draws with placeholder colours; each is replaced by a CSS variable of the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np

matplotlib.use('Agg')

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, FIRST, SECOND, ALARM, GOOD = (
    '#010101', '#020202', '#030303', '#040404', '#050505', '#060606'
)  # fmt: skip
VARIABLES = {
    INK: 'var(--ink-2)',
    FAINT: 'var(--line)',
    FIRST: 'var(--first)',
    SECOND: 'var(--second)',
    ALARM: 'var(--alarm)',
    GOOD: 'var(--good)',
}
WIDE, HALF, THIRD = (11.4, 2.9), (5.5, 2.7), 3.6
"""Inches, in the proportion of the page's columns, so that letters come out alike everywhere."""
STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none',
    'font.family': 'sans-serif',
    'font.size': 9,
    'text.color': INK,
    'axes.labelcolor': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.edgecolor': FAINT,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': FAINT,
    'grid.linewidth': 0.6,
    'xtick.major.size': 0,
    'ytick.major.size': 0,
}


def latency_over_time(
    latencies: Sequence[tuple[float, float]], dropped_s: Sequence[float], period_ms: float | None
) -> Markup:
    """Points (seconds, ms); ticks at the bottom where a frame went unanswered."""
    times, values = np.array(latencies).reshape(-1, 2).T
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(WIDE)
        axes.plot(times, values, '.', color=FIRST, markersize=4, label='latency of a frame')
        if len(dropped_s):
            axes.plot(
                dropped_s, np.zeros(len(dropped_s)), '|', color=ALARM, markersize=9,
                label='frame without an answer',
            )  # fmt: skip
        if period_ms is not None and period_ms < 1.25 * values.max():
            axes.axhline(period_ms, color=SECOND, linewidth=1, label='time between two frames')
        axes.set_ylim(0, values.max() * 1.25)
        axes.set_xlabel('seconds since the first frame')
        axes.set_ylabel('ms')
        axes.legend(loc='upper right', frameon=False, ncols=3, fontsize=8, handlelength=1)
        return as_svg(figure, 'latency-time')


def latency_histogram(values: Sequence[float]) -> Markup:
    """How many frames took how long, with p50 and p99."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(HALF)
        axes.hist(values, bins=min(40, max(8, len(values) // 5)), color=FIRST)
        for rank, place in ((50, 'p50'), (99, 'p99')):
            value = float(np.percentile(values, rank))
            axes.axvline(value, color=SECOND, linewidth=1.2)
            axes.annotate(
                f' {place}', (value, 0.97), xycoords=('data', 'axes fraction'), va='top', fontsize=8
            )
        axes.margins(y=0.18)
        axes.set_xlabel('latency, ms')
        axes.set_ylabel('frames')
        return as_svg(figure, 'latency-histogram')


def stage_times(stages: Mapping[str, Mapping[str, float]]) -> Markup:
    """A bar per stage up to its p50, a thin one on to its p99."""
    names = list(stages)
    p50 = [stages[name].get('p50', 0.0) for name in names]
    p99 = [stages[name].get('p99', 0.0) for name in names]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(HALF)
        rows = np.arange(len(names))[::-1]
        axes.barh(rows, p99, height=0.12, color=SECOND, label='p99')
        axes.barh(rows, p50, height=0.5, color=FIRST, label='p50')
        axes.set_yticks(rows, names)
        axes.grid(axis='y', visible=False)
        axes.set_xlabel('ms')
        axes.legend(loc='lower right', frameon=False, fontsize=8)
        return as_svg(figure, 'stages')


def class_bars(title: str, values: Mapping[str, float | None]) -> Markup:
    """Percent by class, best first; classes that the truth lacks are left out."""
    present = sorted(
        ((name, 100 * value) for name, value in values.items() if value is not None),
        key=lambda item: item[1],
    )
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((THIRD, 0.75 + 0.2 * len(present)))
        axes.barh([name for name, _ in present], [v for _, v in present], height=0.6, color=FIRST)
        for row, (_, value) in enumerate(present):
            axes.annotate(
                f'{value:.1f}', (value, row), xytext=(3, 0), textcoords='offset points',
                va='center', fontsize=8,
            )  # fmt: skip
        axes.set_xlim(0, 108)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.grid(axis='y', visible=False)
        axes.set_xlabel(title)
        return as_svg(figure, f'bars-{title}')


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A transparent figure of so many inches, and its axes."""
    figure = Figure(figsize=size, layout='constrained')
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def as_svg(figure: Figure, title: str) -> Markup:
    """Inline SVG: ids that are its own, colours from the page, width of its column."""
    buffer = StringIO()
    name = re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')
    metadata: dict[str, Any] = {'Date': None, 'Creator': None}
    with matplotlib.rc_context({'svg.hashsalt': name}):
        figure.savefig(buffer, format='svg', metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    text = re.sub(r'font-family: [^;"]*;', '', text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', text, count=1)
    # Ids of several plots meet in one page: only those that are referred to stay, each unique.
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else '', text
    )
    text = re.sub(r'(url\(#|href="#)', rf'\1{name}-', text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(text)
