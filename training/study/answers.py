"""The two questions that the project began with, answered in words by what a study measured.

RQ1: does multi-task PVTv2 beat single-task PVTv2 on accuracy, AP, mIoU, parameters and time?
RQ2: how does it compare with the HydraNet-style reference (RegNet trunk, BiFPN)?

The first sharing structure and method of the study file stand for multi-task learning: they were
named before anything was measured. What came out best is named beside it, and as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mtl_perception.tasks import ALL_TASKS
from training.study.analysis import (
    SIGNIFICANT,
    paired_ratio,
    tested,
    verdict,
)
from training.study.config import StudyConfig
from training.study.records import Combination, baseline_of, lower_is_better
from training.study.significance import holm

NOT_MEASURED = 'not measured'
ASKED = {'accuracy': 'classification', 'AP': 'detection', 'mIoU': 'segmentation'}
"""What RQ1 asks of accuracy, by kind of task; depth and normals are answered beside them."""

WORDS = {
    'helped': 'better', 'hurt': 'worse', 'higher': 'no significant difference (higher)',
    'lower': 'no significant difference (lower)', 'untested': 'too few seeds for a test',
}  # fmt: skip


def pvt_trunk(study: StudyConfig) -> str | None:
    """The first trunk of the study that is a PVTv2."""
    for label, network in study.trunks.items():
        if str(network.get('trunk', '')).startswith('pvt_v2'):
            return label
    return None


def answers(
    study: StudyConfig,
    combinations: Sequence[Combination],
    rows: Sequence[Mapping[str, Any]],
    costs: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Both questions, for every task set; rows: of `analysis.combination_rows`."""
    found = []
    for tasks in study.tasks:
        trunk = pvt_trunk(study)
        found.append(_first(study, combinations, rows, costs, trunk, tasks))
        found.append(_second(study, combinations, costs, trunk, tasks))
    return found


def _first(
    study: StudyConfig,
    combinations: Sequence[Combination],
    rows: Sequence[Mapping[str, Any]],
    costs: Mapping[str, Any],
    trunk: str | None,
    tasks: str,
) -> dict[str, Any]:
    question = f'RQ1, {tasks}: does multi-task PVTv2 beat single-task PVTv2?'
    ours = _plain(study, combinations, trunk, tasks)
    if ours is None or trunk is None:
        return _unanswered(question, f'no finished multi-task run of a PVTv2 with tasks {tasks!r}')
    pairs = []
    for task in ours.model.task_names:
        baseline = baseline_of(combinations, trunk, ours.key[1], task)
        pairs += [(task, figure, baseline) for figure in ours.figures(task)]
    lines = _accuracy(ours, pairs)
    for asked, kind in ASKED.items():
        if not any(line['kind'] == kind for line in lines):
            lines.append({'kind': kind, 'metric': asked, 'verdict': NOT_MEASURED})
    singles = [f'{trunk}.{ours.key[1]}.{task}.single' for task in ours.model.task_names]
    lines += _costs(costs, ours, singles)
    return {
        'question': question,
        'ours': ours.name,
        'theirs': f'{len(singles)} single-task networks of the same trunk',
        'answer': _in_words(lines),
        'best': _best(rows, ours.key[0], tasks),
        'lines': lines,
    }


def _second(
    study: StudyConfig,
    combinations: Sequence[Combination],
    costs: Mapping[str, Any],
    trunk: str | None,
    tasks: str,
) -> dict[str, Any]:
    question = f'RQ2, {tasks}: how does it compare with the HydraNet-style reference?'
    ours = _plain(study, combinations, trunk, tasks)
    theirs = _plain(study, combinations, study.reference or None, tasks)
    if not study.reference:
        return _unanswered(question, 'the study names no reference trunk')
    if ours is None or theirs is None:
        return _unanswered(
            question, f'no finished run of {trunk if ours is None else study.reference!r}'
        )
    pairs = [(task, figure, theirs) for task in ours.model.task_names
             for figure in ours.figures(task)]  # fmt: skip
    lines = _accuracy(ours, pairs) + _costs(costs, ours, [theirs.model.id])
    return {
        'question': question,
        'ours': f'{trunk}: {ours.name}',
        'theirs': f'{study.reference}: {theirs.name}',
        'answer': _in_words(lines),
        'best': None,
        'lines': lines,
    }


def _unanswered(question: str, why: str) -> dict[str, Any]:
    return {
        'question': question, 'ours': '', 'theirs': '', 'answer': f'Not measured: {why}.',
        'best': None, 'lines': [],
    }  # fmt: skip


def _plain(
    study: StudyConfig, combinations: Sequence[Combination], trunk: str | None, tasks: str
) -> Combination | None:
    """The combination that stands for multi-task learning; None when it has no finished run."""
    pretraining = next(iter(study.pretraining))
    sharing, balancing = next(iter(study.sharing)), next(iter(study.balancing))
    key = (trunk, pretraining, tasks, sharing, balancing)
    return next((each for each in combinations if each.key == key), None)


def _accuracy(
    ours: Combination, pairs: Sequence[tuple[str, str, Combination | None]]
) -> list[dict[str, Any]]:
    """One line a figure; tests are corrected over the lines of this answer."""
    lines: list[dict[str, Any]] = []
    for task, figure, theirs in pairs:
        line: dict[str, Any] = {
            'kind': ALL_TASKS[task].kind, 'metric': f'{task} {figure}', 'verdict': NOT_MEASURED,
            'p': None,
        }  # fmt: skip
        before = theirs.values(task, figure) if theirs else {}
        after = ours.values(task, figure)
        if before and after:
            line |= {'ours': fmean(after.values()), 'theirs': fmean(before.values())}
            line |= tested(before, after, lower_is_better(figure))
        lines.append(line)
    for line, p in zip(lines, holm([line['p'] for line in lines]), strict=True):
        if 'ours' in line:
            line['p_holm'] = p
            line['verdict'] = WORDS[verdict(line['better'], p, line['p'])]
    return lines


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


def _in_words(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as sentences, the plain ones first."""
    accuracy = [line for line in lines if line['kind'] != 'cost']
    measured = [line for line in accuracy if line['verdict'] != NOT_MEASURED]
    sentences = []
    for word in ('better', 'worse'):
        named = [line['metric'] for line in measured if line['verdict'] == word]
        if named:
            sentences.append(
                f'Significantly {word} (corrected p < {SIGNIFICANT:g}) on {", ".join(named)}.'
            )
    undecided = [line for line in measured if line['verdict'] not in ('better', 'worse')]
    if undecided:
        seeds = max(max(line['n']) for line in undecided)
        named = [
            line['metric'] + (f' ({100 * line["gain"]:+.1f} %)' if line['gain'] is not None else '')
            for line in undecided
        ]
        sentences.append(
            f'No difference is shown with {seeds} seed{"s" * (seeds != 1)} on {", ".join(named)}.'
        )
    ratios = [
        f'{line["ratio"]:.2f} of the {line["metric"]}'
        for line in lines
        if line['kind'] == 'cost' and 'ratio' in line
    ]
    if ratios:
        sentences.append(f'It needs {", ".join(ratios)}.')
    missing = [line['metric'] for line in lines if line['verdict'] == NOT_MEASURED]
    if missing:
        sentences.append(f'Not measured: {", ".join(missing)}.')
    return ' '.join(sentences)


def _best(rows: Sequence[Mapping[str, Any]], trunk: str, tasks: str) -> str | None:
    """The multi-task combination with the largest Delta_MTL, picked after measuring."""
    found = [
        row for row in rows if row.get('delta') and (row['trunk'], row['tasks']) == (trunk, tasks)
    ]
    if not found:
        return None
    best = max(found, key=lambda row: row['delta']['mean'])
    return (
        f'Of {len(found)} combinations the largest Delta_MTL has {best["name"]}: '
        f'{100 * best["delta"]["mean"]:+.1f} %. It was picked after measuring, by the same '
        f'validation split: a first guess, to be confirmed with new seeds.'
    )
