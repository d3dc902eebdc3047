# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Figures, gains and intervals as people read them, for the pages of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_evaluation.report.page import or_dash
from training.study.plots import left_out
from training.study.records import lower_is_better

UNITS = {'abs_error': ' m', 'mean_error': '°'}


def figure_text(figure: str, value: float) -> str:
    """A figure as people read it: shares in percent, errors with their unit."""
    if lower_is_better(figure):
        return f'{value:.3f}{UNITS.get(figure, "")}'
    return f'{100 * value:.2f}'


def difference_text(figure: str, difference: float) -> str:
    """Of two figures, in the unit of `figure_text`; of shares in points."""
    if lower_is_better(figure):
        return f'{difference:+.3f}{UNITS.get(figure, "")}'
    return f'{100 * difference:+.2f}'


def interval_text(figure: str, line: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    text = difference_text(figure, line['difference'])
    if line['low'] is None:
        return text
    low, high = (difference_text(figure, line[end]) for end in ('low', 'high'))
    return f'{text} [{low}, {high}]'


def gain_text(line: Mapping[str, Any]) -> str:
    """`+1.0 % [-2.0, 4.0]`."""
    text = or_dash(None if line.get('gain') is None else 100 * line['gain'], ' %', '+.1f')
    if line.get('gain_low') is None:
        return text
    return f'{text} [{100 * line["gain_low"]:.1f}, {100 * line["gain_high"]:.1f}]'


def delta_text(delta: Mapping[str, Any] | None) -> str:
    """`-1.1 [-7.0, 4.8] (without detection)`."""
    if not delta:
        return '–'
    text = f'{100 * delta["mean"]:+.1f}'
    if delta['low'] is not None:
        text += f' [{100 * delta["low"]:.1f}, {100 * delta["high"]:.1f}]'
    return text + left_out(delta['without'])
