# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The two questions that the project began with, answered in words by what a study measured.

RQ1: does multi-task PVTv2 beat single-task PVTv2 on accuracy, AP, mIoU, parameters and time?
RQ2: how does it compare with the HydraNet-style reference (RegNet trunk, BiFPN)?

One paragraph each, for every task set that is not another one without a task. The primary
comparisons of the study file come first, with their test. After them the first sharing structure
and method of the file stand for multi-task learning, exploratory: the gain of each task's first
figure with its interval, what it costs, what was not shown and what was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mtl_perception.tasks import ALL_TASKS
from training.study.analysis import compared, paired_ratio
from training.study.comparisons import percent
from training.study.config import StudyConfig
from training.study.records import Combination, baseline_of, lower_is_better
from training.study.transfer import parts_of

NOT_MEASURED = 'not measured'
ASKED = {'accuracy': 'classification', 'AP': 'detection', 'mIoU': 'segmentation'}
"""What RQ1 asks of accuracy, by kind of task; depth and normals are answered beside them."""


def pvt_trunk(study: StudyConfig) -> str | None:
    """The first trunk of the study that is a PVTv2."""
    for label, network in study.trunks.items():
        if str(network.get('trunk', '')).startswith('pvt_v2'):
            return label
    return None


@dataclass(frozen=True)
class Measured:
    """What the answers are made of.

    rows: of `analysis.combination_rows`. primary: of `comparisons.primary_rows`. costs: what
    cost.py measured. in_time: whether the primary comparisons were named before the first run.
    earlier: lines of cost by question, of a report whose measurements are gone.
    """

    study: StudyConfig
    combinations: Sequence[Combination]
    rows: Sequence[Mapping[str, Any]]
    primary: Sequence[Mapping[str, Any]]
    costs: Mapping[str, Any]
    in_time: bool
    earlier: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def plain(self, trunk: str | None, tasks: str) -> Combination | None:
        """The combination that stands for multi-task learning; None without a finished run."""
        first = [next(iter(axis)) for axis in (
            self.study.pretraining, self.study.sharing, self.study.balancing,
        )]  # fmt: skip
        key = (trunk, first[0], tasks, *first[1:])
        return next((each for each in self.combinations if each.key == key), None)


def answers(measured: Measured) -> list[dict[str, Any]]:
    """Both questions, for every task set that is not another one without a task."""
    trunk, sets = pvt_trunk(measured.study), measured.study.tasks
    return [
        question(measured, trunk, tasks)
        for tasks in sets
        if tasks not in parts_of(sets)
        for question in (_first, _second)
    ]


def _first(measured: Measured, trunk: str | None, tasks: str) -> dict[str, Any]:
    question = f'RQ1, {tasks}: does multi-task PVTv2 beat single-task PVTv2?'
    ours = measured.plain(trunk, tasks)
    if ours is None or trunk is None:
        return _unanswered(question, f'no finished multi-task run of a PVTv2 with tasks {tasks!r}')
    pairs = []
    for task in ours.model.task_names:
        baseline = baseline_of(measured.combinations, trunk, ours.key[1], task)
        pairs += [(task, figure, baseline) for figure in ours.figures(task)]
    lines = _accuracy(ours, pairs)
    for asked, kind in ASKED.items():
        if not any(line['kind'] == kind for line in lines):
            lines.append({'kind': kind, 'metric': asked, 'verdict': NOT_MEASURED})
    singles = [f'{trunk}.{ours.key[1]}.{task}.single' for task in ours.model.task_names]
    lines += measured.earlier.get(question) or _costs(measured.costs, ours, singles)
    primary = [
        row['words']
        for row in measured.primary
        if row['theirs'] is None and (row['ours']['trunk'], row['ours']['tasks']) == (trunk, tasks)
    ]
    return {
        'question': question,
        'ours': f'{trunk}: {ours.name}',
        'theirs': f'{len(singles)} single-task networks of the same trunk',
        'primary': primary,
        'answer': _paragraph(primary, measured.in_time, lines),
        'best': _best(measured.rows, ours.key[0], tasks),
        'lines': lines,
    }


def _second(measured: Measured, trunk: str | None, tasks: str) -> dict[str, Any]:
    question = f'RQ2, {tasks}: how does it compare with the HydraNet-style reference?'
    reference = measured.study.reference
    ours, theirs = measured.plain(trunk, tasks), measured.plain(reference or None, tasks)
    if not reference:
        return _unanswered(question, 'the study names no reference trunk')
    if ours is None or theirs is None:
        return _unanswered(question, f'no finished run of {trunk if ours is None else reference!r}')
    pairs = [(task, figure, theirs) for task in ours.model.task_names
             for figure in ours.figures(task)]  # fmt: skip
    costs = measured.earlier.get(question) or _costs(measured.costs, ours, [theirs.model.id])
    lines = _accuracy(ours, pairs) + costs
    primary = [
        row['words']
        for row in measured.primary
        if row['theirs']
        and row['ours']['tasks'] == tasks
        and {row['ours']['trunk'], row['theirs']['trunk']} == {trunk, reference}
    ]
    return {
        'question': question,
        'ours': f'{trunk}: {ours.name}',
        'theirs': f'{reference}: {theirs.name}',
        'primary': primary,
        'answer': _paragraph(primary, measured.in_time, lines),
        'best': '',
        'lines': lines,
    }


def _unanswered(question: str, why: str) -> dict[str, Any]:
    return {
        'question': question, 'ours': '', 'theirs': '', 'answer': f'Not measured: {why}.',
        'primary': [], 'best': '', 'lines': [],
    }  # fmt: skip


def _accuracy(
    ours: Combination, pairs: Sequence[tuple[str, str, Combination | None]]
) -> list[dict[str, Any]]:
    """One line a figure, with the difference and its interval."""
    lines: list[dict[str, Any]] = []
    for task, figure, theirs in pairs:
        line: dict[str, Any] = {
            'kind': ALL_TASKS[task].kind, 'metric': f'{task} {figure}', 'verdict': NOT_MEASURED,
        }  # fmt: skip
        before = theirs.values(task, figure) if theirs else {}
        after = ours.values(task, figure)
        if before and after:
            line |= {'ours': fmean(after.values()), 'theirs': fmean(before.values())}
            line |= compared(before, after, lower_is_better(figure))
            line['verdict'] = direction(line)
        lines.append(line)
    return lines


def direction(line: Mapping[str, Any]) -> str:
    """What an exploratory difference shows, in words."""
    if line['low'] is None:
        return 'too few seeds for an interval'
    return ('better' if line['better'] else 'worse') if line['clear'] else 'interval holds zero'


def _costs(
    costs: Mapping[str, Any], ours: Combination, theirs: Sequence[str]
) -> list[dict[str, Any]]:
    """Parameters, operations, memory and time as ratios; below 1 is less."""
    measured = costs.get('models', {})
    names = {'parameters': 'parameters', 'gflop': 'GFLOP', 'memory_mb': 'memory'}
    known = all(name in measured for name in (ours.model.id, *theirs))
    lines = []
    for key, name in names.items():
        line: dict[str, Any] = {'kind': 'cost', 'metric': name, 'verdict': NOT_MEASURED}
        if known:
            line['ours'] = measured[ours.model.id][key]
            line['theirs'] = sum(measured[other][key] for other in theirs)
            line |= _ratio(line['ours'] / line['theirs'])
        lines.append(line)
    line = {'kind': 'cost', 'metric': 'inference time', 'verdict': NOT_MEASURED}
    if known:
        line |= _ratio(paired_ratio(measured, [ours.model.id], theirs))
    return [*lines, line]


def _ratio(ratio: float) -> dict[str, Any]:
    return {'ratio': ratio, 'verdict': 'better' if ratio < 1 else 'worse'}


def _paragraph(primary: Sequence[str], in_time: bool, lines: Sequence[Mapping[str, Any]]) -> str:
    """Primary comparisons, gains by task, costs, and what was not shown or not measured."""
    sentences = ['No primary comparison asks this.']
    if primary:
        named = 'before the first run' if in_time else 'after the first run, so exploratory'
        sentences = [f'Named {named}:', *primary]
    first: dict[str, Mapping[str, Any]] = {}
    for line in (line for line in lines if 'clear' in line):
        first.setdefault(line['metric'].split()[0], line)
    accuracy = list(first.values())
    gains = [line for line in accuracy if line['gain'] is not None]
    if gains:
        seeds = max(max(line['n']) for line in gains)
        sentences.append(
            f'Task by task, exploratory, n = {seeds}: {", ".join(map(_named, gains))}.'
        )
    for line in accuracy:
        if line['gain'] is None:
            sentences.append(
                f'The other side’s {line["metric"]} ({line["theirs"]:.2g}; ours '
                f'{line["ours"]:.2g}) is too small for a relative gain, which would be noise.'
            )
    clear = [f'{x["metric"]} ({x["verdict"]})' for x in accuracy if x['clear']]
    if clear:
        sentences.append(f'An interval leaves zero out on {", ".join(clear)}.')
    ratios = [
        f'{line["ratio"]:.2f} of the {line["metric"]}'
        for line in lines
        if line['kind'] == 'cost' and 'ratio' in line
    ]
    if ratios:
        sentences.append(f'It needs {", ".join(ratios)}.')
    unclear = [line['metric'] for line in accuracy if not line['clear']]
    if unclear:
        sentences.append(f'Not shown: a difference on {", ".join(unclear)}.')
    missing = [line['metric'] for line in lines if line['verdict'] == NOT_MEASURED]
    if missing:
        sentences.append(f'Not measured: {", ".join(missing)}.')
    return ' '.join(sentences)


def _named(line: Mapping[str, Any]) -> str:
    """The metric with its gain and interval, in percent."""
    text = f'{line["metric"]} {100 * line["gain"]:+.1f} %'
    if line['gain_low'] is None:
        return text
    return f'{text} [{100 * line["gain_low"]:.1f}, {100 * line["gain_high"]:.1f}]'


def _best(rows: Sequence[Mapping[str, Any]], trunk: str, tasks: str) -> str:
    """The multi-task combinations with the largest Delta_MTL, picked after measuring.

    One for each pretraining and for each set of tasks that Delta_MTL is of: those of others are
    another measure.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get('delta') and (row['trunk'], row['tasks']) == (trunk, tasks):
            key = row['pretraining'], tuple(row['delta']['without'])
            groups.setdefault(key, []).append(row)
    sentences = []
    for (pretraining, _), found in groups.items():
        best = max(found, key=lambda row: row['delta']['mean'])
        among = f' with {pretraining}' if len({key[0] for key in groups}) > 1 else ''
        partial = ''.join(
            f' It is undefined over all tasks, and goes without {task}: {reason}.'
            for task, reason in best['delta']['without'].items()
        )
        sentences.append(
            f'Of {len(found)} combinations{among} the largest Delta_MTL has {best["name"]}: '
            f'{percent(best["delta"])}.{partial}'
        )
    if not sentences:
        return ''
    return (
        f'{" ".join(sentences)} Picked after measuring, by the same validation split: a first '
        f'guess, to be confirmed with new seeds.'
    )
