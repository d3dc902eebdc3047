# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy as a part of a page: the table of headlines and a plot by class of each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from mtl_evaluation.accuracy import EXPLAINED, accuracy_rows, class_values
from mtl_evaluation.report import page, plots
from mtl_evaluation.report.page import Section, card, dim, grid


def accuracy_section(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Section:
    """Of what `Scores.result` gives, or `accuracy` of a run."""
    measured = {name: result for name, result in scores.items() if result['frames']}
    rows = [
        (task, metric, value, str(frames))
        for task, metric, value, frames in accuracy_rows(measured)
    ]
    table = page.table(('task', 'metric', 'value', 'frames'), rows, (2, 3))
    missing = ', '.join(name for name in scores if name not in measured)
    parts = [card('', table), grid(_class_cards(measured), 3)] if measured else []
    if missing:
        parts.append(dim(f'For want of labels not measured: {missing}.'))
    if measured:
        parts.append(dim(EXPLAINED))
    return Section(title, page.joined(parts))


def _class_cards(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[Markup]:
    for name, result in scores.items():
        title, values = class_values(result)
        if any(value is not None for value in values.values()):
            yield card(f'{name} by class', plots.class_bars(f'{name}: {title}, %', values))
