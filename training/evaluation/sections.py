# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the report of an evaluation shows beside what every run's report does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl_evaluation import kinds
from mtl_evaluation.accuracy import shown
from mtl_evaluation.report.page import Section, card, dim, or_dash, table
from training.evaluation.results import BY_KIND

KEYS = {
    'detection': ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'),
    'drivable': ('miou', 'official_miou', 'two_class_miou', 'pixel_accuracy'),
    'semantic': ('miou', 'pixel_accuracy'),
    'coarse7': ('miou', 'pixel_accuracy'),
    'lane': ('miou', 'pixel_accuracy'),
    'weather': ('accuracy', 'macro_f1'),
    'scene': ('accuracy', 'macro_f1'),
    'timeofday': ('accuracy', 'macro_f1'),
    'depth': ('delta1', 'abs_error', 'rel_error', 'rmse'),
    'normals': ('within_11_25', 'within_22_5', 'within_30', 'mean_error', 'median_error'),
    'yolop_style': ('vehicle_map50', 'recall', 'drivable_miou'),
}
"""Figures of a source that the report shows, in this order."""
_LIKE = {
    'detection': 'detection', 'segmentation': 'semantic', 'classification': 'scene',
    'depth': 'depth', 'normals': 'normals',
}  # fmt: skip
"""By kind: the task whose figures are shown of every other task."""

TITLES = {
    'miou': 'mIoU', 'official_miou': 'mIoU, official', 'two_class_miou': 'mIoU, two classes',
    'pixel_accuracy': 'pixel accuracy', 'macro_f1': 'macro F1', 'vehicle_map50': 'vehicle mAP50',
    'delta1': 'within a factor of 1.25', 'abs_error': 'absolute error',
    'rel_error': 'relative error', 'rmse': 'RMSE', 'within_11_25': 'within 11.25°',
    'within_22_5': 'within 22.5°', 'within_30': 'within 30°', 'mean_error': 'mean angle',
    'median_error': 'median angle', 'recall': 'vehicle recall at 0.001',
    'drivable_miou': 'drivable mIoU',
}  # fmt: skip


def evaluation_sections(record: Mapping[str, Any]) -> Iterator[Section]:
    """Sections made of evaluation.json: every source's figures, and what the model costs."""
    results = record['results']
    rows = []
    for task, keys in (KEYS | _others(results)).items():
        for key in keys:
            found = [(values.get(task) or {}).get(key) for values in results.values()]
            if any(value is not None for value in found):
                cells = ('–' if value is None else shown(key, value) for value in found)
                rows.append(
                    (task.replace('_', ' '), TITLES.get(key, kinds.figure(key).title), *cells)
                )
    header = ('task', 'metric', *results)
    yield Section(
        'Sources',
        card('', table(header, rows, range(2, len(header))))
        + dim(
            'Each source by its own labels. yolop style: counted as YOLOP’s code does, to be '
            'compared with the papers of that family only; docs/evaluation.md says what differs.'
        ),
    )
    if record['cost']:
        yield _cost(record['cost'], record['latency'])


def _others(results: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The same of tasks that `KEYS` does not list."""
    return {
        task: KEYS[_LIKE[kind]] if kind in _LIKE else (*kinds.KINDS[kind].figures,)
        for values in results.values()
        for task, figures in values.items()
        if task not in KEYS and isinstance(figures, Mapping)
        for kind, (first, *_) in BY_KIND.items()
        if first in figures
    }


def _cost(cost: Mapping[str, Any], latency: Mapping[str, Any] | None) -> Section:
    rows = [
        (part, f'{count / 1e6:.3f}', f'{cost["gflop"][part]:.3f}')
        for part, count in cost['parameters'].items()
    ]
    height, width = cost['input']
    html = card('', table(('part', 'parameters, M', 'GFLOP'), rows, (1, 2)))
    html += dim(
        f'One image of {height}x{width}. A multiplication and an addition are two operations; '
        f'papers that count them as one have half of it: {cost["gmac"]:.2f} GMAC.'
    )
    if latency:
        lines = [
            (
                name, str(times['precision']),
                or_dash(times['stages_ms']['total']['median'], ' ms', '.1f'),
                or_dash(times['stages_ms']['total']['p99'], ' ms', '.1f'),
                f'{times["paired_ratio_median"]:.2f}',
            )
            for name, times in latency['pipelines'].items()
        ]  # fmt: skip
        header = ('pipeline', 'precision', 'median', 'p99', 'times the first')
        html += card('Whole way of a frame, taking turns', table(header, lines, (2, 3, 4)))
        html += dim(latency['note'])
    return Section('Cost', html)
