# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a study as a page: report.json in, sections of HTML out.

The answers come first, then accuracy against cost, what tasks give each other, and the tables.
Whatever was not named before the first run says that it is exploratory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtl_evaluation.report.matrix import ASSETS as MATRIX
from mtl_evaluation.report.page import (
    Cell,
    Section,
    card,
    coloured,
    details,
    dim,
    facts,
    heading,
    joined,
    note,
    or_dash,
    small,
    table,
    verdict,
)
from training.study import plots
from training.study.plots import shown
from training.study.primary import POWER
from training.study.records import lower_is_better
from training.study.significance import SMALLEST_SHARE
from training.study.texts import delta_text, figure_text, gain_text, interval_text
from training.study.transfer_pages import affinities, against_single, transfer_matrix

Report = Mapping[str, Any]

ASSETS = (*MATRIX, Path(__file__).with_name('study.css'))
"""What the page needs beside what every page does."""

MOODS = {'better': 'good', 'worse': 'bad'}


def head(report: Report) -> Iterator[Markup]:
    """Title, and how far the study is."""
    cells = report['cells']
    yield heading(
        f'Study: {report["name"]}',
        f'{cells["finished"]} of {cells["planned"]} runs finished, seeds '
        f'{", ".join(map(str, report["seeds"]))}, split {report["split"]}.',
    )
    if cells['failed']:
        lines = [f'{each["id"]}: {each["error"]}' for each in cells['failed']]
        yield verdict('bad', f'{len(lines)} failed:', lines)
    if cells['missing']:
        left = len(cells['missing'])
        yield verdict('open', f'{left} not run yet', ['and missing below.'])


def sections(report: Report) -> Iterator[Section]:
    """All parts of the page."""
    primary = report['primary']
    yield Section('Answers', joined(_answers(report)))
    if report['pareto']:
        yield Section('Accuracy against cost (exploratory)', joined(_pareto(report)))
    yield Section(
        'What tasks give each other (exploratory)', joined(transfer_matrix(report['leave_one_out']))
    )
    if primary['comparisons']:
        title = 'Primary comparisons' + (' (exploratory)' if not primary['in_time'] else '')
        yield Section(title, joined(_primary(primary)))
    yield Section('Results (exploratory)', joined(_results(report)))
    figures = [_figure_table(answer) for answer in report['answers'] if answer['lines']]
    if figures:
        yield Section('Figure by figure (exploratory)', joined(figures))
    if report['costs']:
        yield Section('Cost', joined(_costs(report['costs'])))
    if report['transfer']:
        yield Section(
            'Against single-task (exploratory)', joined(against_single(report['transfer']))
        )
    if report['affinity']:
        yield Section('Task affinity (exploratory)', joined(affinities(report['affinity'])))
    yield Section('How it was made', card('', facts(report['made'])))


DELTA = (
    'Mean over the tasks of the relative gain over their single-task networks, each by one figure '
    'and with the sign that makes more better (Vandenhende et al., TPAMI 2021, eq. 10). Both sides '
    'had the same schedule and the same images. A task whose single-task share is below '
    f'{100 * SMALLEST_SHARE:g} % has no relative gain: where a name says "without", the figure is '
    'that of the other tasks, on an axis of its own. The 95 % intervals carry the variance of both '
    'sides: paired by seed where both have the same, otherwise Welch’s. All rows share their '
    'single-task runs, so that they agree with each other shows little.'
)


def _primary(primary: Mapping[str, Any]) -> Iterator[Markup]:
    rows = [
        (
            row['name'],
            delta_text(row['delta']),
            row['delta']['test'] if row['delta'] else '–',
            or_dash(row['delta'] and row['delta']['p'], '', '.3g'),
            or_dash(row['p_holm'], '', '.3g'),
            or_dash(row['power'] and 100 * row['power'], ' %', '.0f'),
            _mood(row['verdict'] if primary['in_time'] else 'exploratory'),
        )
        for row in primary['comparisons']
    ]
    header = ('comparison', 'Delta_MTL, %', 'test', 'p', 'corrected p', 'power', 'verdict')
    yield card('', table(header, rows, (1, 3, 4, 5)))
    yield dim(
        f'Named in the study file, tested two-sided with Holm’s correction over these rows only. '
        f'Power: of finding {100 * primary["estimate"]["effect"]:g} % with the measured spread; '
        f'below {100 * POWER:g} % the interval is the result, and there is no verdict.'
    )


def _answers(report: Report) -> Iterator[Markup]:
    """A paragraph per question, then what else was named before the run, and the limits."""
    answers, primary = report['answers'], report['primary']
    for answer in answers:
        yield verdict('plain', answer['question'], ['', answer['answer']])
    said = {words for answer in answers for words in answer['primary']}
    others = [row['words'] for row in primary['comparisons'] if row['words'] not in said]
    if others:
        named = '' if primary['in_time'] else ' (named late, so exploratory)'
        yield verdict('plain', f'Other comparisons{named}', ['', *others])
    yield note(report['note'])
    for line in primary['notices']:
        yield note('', f'{line[0].upper()}{line[1:]}.')


def _figure_table(answer: Mapping[str, Any]) -> Markup:
    """All figures behind an answer, folded away."""
    rows = [
        (
            line['metric'],
            *(_cell(line, side) for side in ('ours', 'theirs')),
            _change(line),
            interval_text(line['metric'].split()[-1], line) if 'difference' in line else '–',
            _mood(line['verdict']),
        )
        for line in answer['lines']
    ]
    header = ('metric', 'ours', 'theirs', 'gain', 'difference', 'exploratory')
    sides = dim(f'Ours: {answer["ours"]}. Theirs: {answer["theirs"]}.')
    return details(answer['question'], sides + card('', table(header, rows, range(1, 5))))


def _cell(line: Mapping[str, Any], side: str) -> str:
    if side not in line:
        return '–'
    if line['kind'] != 'cost':
        return figure_text(line['metric'].split()[-1], line[side])
    return f'{line[side] / 1e6:.2f} M' if line['metric'] == 'parameters' else f'{line[side]:.2f}'


def _change(line: Mapping[str, Any]) -> str:
    if 'ratio' in line:
        return f'x {line["ratio"]:.2f}'
    return gain_text(line)


def _mood(word: str) -> Cell:
    kind = MOODS.get(word)
    return coloured(word, kind) if kind else word


def _estimate(figure: str, found: Mapping[str, Any]) -> Cell:
    shown_value = figure_text(figure, found['mean'])
    if found['low'] is None:
        return shown_value
    half = found['high'] - found['mean']
    spread = f'{half:.3f}' if lower_is_better(figure) else f'{100 * half:.2f}'
    return Markup('{} ').format(shown_value) + small(f'± {spread}')


def _results(report: Report) -> Iterator[Markup]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in report['combinations']:
        if not row['single']:
            groups.setdefault((row['trunk'], row['pretraining'], row['tasks']), []).append(row)
    for (trunk, pretraining, tasks), rows in groups.items():
        columns = [
            (task, figure) for task in rows[0]['task_names'] for figure in _figures(rows, task)
        ]
        singles = {
            row['tasks']: row
            for row in report['combinations']
            if row['single'] and (row['trunk'], row['pretraining']) == (trunk, pretraining)
        }
        lines: list[list[Cell]] = []
        if singles:
            lines.append(['single-task', '', *(
                _of(singles[task], task, figure) if task in singles else '–'
                for task, figure in columns
            ), '–'])  # fmt: skip
        for row in rows:
            delta = row.get('delta')
            lines.append([
                row['sharing'], row['balancing'],
                *(_of(row, task, figure) for task, figure in columns),
                _delta_cell(delta) if delta else '–',
            ])  # fmt: skip
        # Tasks without a gain are the same in every row: the baselines are.
        without: Mapping[str, str] = next(
            (row['delta']['without'] for row in rows if row.get('delta')), {}
        )
        header = [
            'sharing', 'balancing',
            *(f'{task} {figure.replace("_", " ")}' for task, figure in columns),
            f'Delta_MTL %{plots.left_out(without)}, 95 % interval',
        ]  # fmt: skip
        seeds = max(len(row['seeds']) for row in rows)
        title = f'{tasks}, {trunk}, {pretraining}: mean ± half the 95 % interval, n = {seeds}'
        yield card(title, table(header, lines, range(2, len(header))))
        for task, why in without.items():
            yield dim(f'Delta_MTL is undefined over all tasks and goes without {task}: {why}.')
        if by_source := _by_source([*singles.values(), *rows]):
            yield details(f'{tasks}, {trunk}, {pretraining}: by data set', by_source)
    for axis in report['deltas']:
        plot = shown(plots.deltas(axis['rows']), f'deltas {axis["name"]}')
        yield card(f'Delta_MTL: {axis["title"]}', plot)
    for answer in report['answers']:
        if answer['best']:
            yield dim(f'{answer["question"].split(":")[0]}. {answer["best"]}')
    if report['deltas']:
        yield dim(DELTA)
    yield dim(
        'Shares in percent; errors of depth in metres, of normals in degrees, lower is better. '
        'A row with fewer runs than n has a wider interval. report.json holds every seed.'
    )


def _by_source(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The figures of every data set that the means in the table above are of."""
    names = list(dict.fromkeys(name for row in rows for name in row.get('sources', {})))
    if not names:
        return None
    lines: list[list[Cell]] = [
        [row['name'], *(
            _estimate(name.split('/')[2], row['sources'][name]) if name in row['sources'] else '–'
            for name in names
        )]
        for row in rows
    ]  # fmt: skip
    header = ['', *(name.replace('/', ' ').replace('_', ' ') for name in names)]
    return table(header, lines, range(1, len(header)))


def _figures(rows: Iterable[Mapping[str, Any]], task: str) -> list[str]:
    return list(dict.fromkeys(figure for row in rows for figure in row['figures'].get(task, {})))


def _of(row: Mapping[str, Any], task: str, figure: str) -> Cell:
    found = row['figures'].get(task, {}).get(figure)
    return '–' if found is None else _estimate(figure, found)


def _delta_cell(delta: Mapping[str, Any]) -> Cell:
    """Mean and interval; a colour only where the interval leaves zero out."""
    text = delta_text(delta | {'without': ()})
    if delta['low'] is None or delta['low'] * delta['high'] <= 0:
        return text
    return coloured(text, 'good' if delta['mean'] > 0 else 'bad')


def _pareto(report: Report) -> Iterator[Markup]:
    for axis in report['pareto']:
        plot = shown(plots.pareto(axis['points']), f'pareto {axis["name"]}')
        yield card(axis['title'], plot)
    yield dim(
        f'Delta_MTL of every combination against single-task {report["main_trunk"]}, so that '
        f'trunks can be compared; lines: 95 % intervals; methods on one network cost the same and '
        f'stand side by side. The front is that of the means. Other tasks, another pretraining '
        f'or a Delta_MTL without a task have a plot of their own.'
    )


def _costs(costs: Iterable[Mapping[str, Any]]) -> Iterator[Markup]:
    rows = []
    for row in costs:
        ratios = row['against_singles'] or {}
        rows.append(
            (
                f'{row["trunk"]}, {row["tasks"]}, {row["sharing"]}',
                f'{row["parameters"] / 1e6:.2f}', f'{row["gflop"]:.2f}',
                f'{row["memory_mb"]:.0f}', f'{row["latency_ms"]:.0f}',
                *(or_dash(ratios.get(key), '', '.2f')
                  for key in ('parameters', 'gflop', 'memory_mb', 'latency')),
            )
        )  # fmt: skip
    header = (
        'network', 'parameters, M', 'GFLOP', 'memory, MB', 'ms',
        'x parameters', 'x GFLOP', 'x memory', 'x time',
    )  # fmt: skip
    yield card('', table(header, rows, range(1, 9)))
    yield dim(
        'x: ratio to the sum over the single-task networks that it replaces; of time, a median '
        'over frames on which all networks took turns, in torch and single precision. Memory: '
        'weights, and what is allocated beside them for one image. Milliseconds are this '
        'machine’s.'
    )
