# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a study as a page: report.json in, sections of HTML out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtl_evaluation.report.matrix import ASSETS as MATRIX
from mtl_evaluation.report.page import (
    Cell,
    MatrixCell,
    Section,
    card,
    coloured,
    details,
    dim,
    facts,
    grid,
    heading,
    joined,
    matrix,
    note,
    or_dash,
    small,
    subheading,
    table,
    verdict,
)
from training.study import plots
from training.study.analysis import PHASES
from training.study.plots import shown
from training.study.primary import POWER
from training.study.records import lower_is_better
from training.study.significance import SMALLEST_SHARE

Report = Mapping[str, Any]

ASSETS = (*MATRIX, Path(__file__).with_name('study.css'))
"""What the page needs beside what every page does."""

UNITS = {'abs_error': ' m', 'mean_error': '°'}

MOODS = {'better': 'good', 'worse': 'bad'}


def head(report: Report) -> Iterator[Markup]:
    """Title, what the study is and how far it may be believed."""
    cells = report['cells']
    yield heading(
        f'Study: {report["name"]}',
        f'{cells["finished"]} of {cells["planned"]} runs finished, seeds '
        f'{", ".join(map(str, report["seeds"]))}, split {report["split"]}.',
    )
    yield note(report['note'])
    for line in report['primary']['notices']:
        yield note('', f'{line[0].upper()}{line[1:]}.')
    if cells['failed']:
        lines = [f'{each["id"]}: {each["error"]}' for each in cells['failed']]
        yield verdict('bad', f'{len(lines)} failed:', lines)
    if cells['missing']:
        left = len(cells['missing'])
        yield verdict('open', f'{left} not run yet', ['and missing below.'])


def sections(report: Report) -> Iterator[Section]:
    """All parts of the page."""
    yield Section('Answers', joined(map(_answer, report['answers'])))
    if report['primary']['comparisons']:
        yield Section('Primary comparisons', joined(_primary(report['primary'])))
    yield Section('Results (exploratory)', joined(_results(report)))
    if report['deltas']:
        shown_axes = [
            card(axis['title'], shown(plots.deltas(axis['rows']), f'deltas {axis["name"]}'))
            for axis in report['deltas']
        ]
        yield Section('Delta_MTL (exploratory)', joined(shown_axes) + dim(DELTA))
    if report['costs']:
        yield Section('Cost', joined(_costs(report)))
    if report['transfer']:
        yield Section('Negative transfer (exploratory)', joined(_transfer(report['transfer'])))
    if report['affinity']:
        yield Section('Task affinity', joined(_affinity(report['affinity'])))
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
            _delta_text(row['delta']),
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


def _delta_text(delta: Mapping[str, Any] | None) -> str:
    """`-1.1 [-7.0, 4.8] (without detection)`."""
    if not delta:
        return '–'
    text = f'{100 * delta["mean"]:+.1f}'
    if delta['low'] is not None:
        text += f' [{100 * delta["low"]:.1f}, {100 * delta["high"]:.1f}]'
    return text + plots.left_out(delta['without'])


def _answer(answer: Mapping[str, Any]) -> Markup:
    lines = [*answer['primary'], answer['answer'], *filter(None, [answer['best']])]
    if answer['ours']:
        lines.append(f'Ours: {answer["ours"]}. Against: {answer["theirs"]}.')
    body = verdict('plain', answer['question'], ['', *lines])
    if not answer['lines']:
        return body
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
    return body + card('', table(header, rows, range(1, 5)))


def _cell(line: Mapping[str, Any], side: str) -> str:
    if side not in line:
        return '–'
    if line['kind'] != 'cost':
        return figure_text(line['metric'].split()[-1], line[side])
    return f'{line[side] / 1e6:.2f} M' if line['metric'] == 'parameters' else f'{line[side]:.2f}'


def _change(line: Mapping[str, Any]) -> str:
    if 'ratio' in line:
        return f'x {line["ratio"]:.2f}'
    return _gain_text(line)


def _gain_text(line: Mapping[str, Any]) -> str:
    """`+1.0 % [-2.0, 4.0]`."""
    text = or_dash(None if line.get('gain') is None else 100 * line['gain'], ' %', '+.1f')
    if line.get('gain_low') is None:
        return text
    return f'{text} [{100 * line["gain_low"]:.1f}, {100 * line["gain_high"]:.1f}]'


def _mood(word: str) -> Cell:
    kind = MOODS.get(word)
    return coloured(word, kind) if kind else word


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
    yield dim(
        'Shares in percent; errors of depth in metres, of normals in degrees, lower is better. '
        'A row with fewer runs than n has a wider interval. report.json holds every seed.'
    )


def _figures(rows: Iterable[Mapping[str, Any]], task: str) -> list[str]:
    return list(dict.fromkeys(figure for row in rows for figure in row['figures'].get(task, {})))


def _of(row: Mapping[str, Any], task: str, figure: str) -> Cell:
    found = row['figures'].get(task, {}).get(figure)
    return '–' if found is None else _estimate(figure, found)


def _delta_cell(delta: Mapping[str, Any]) -> Cell:
    """Mean and interval; a colour only where the interval leaves zero out."""
    text = _delta_text(delta | {'without': ()})
    if delta['low'] is None or delta['low'] * delta['high'] <= 0:
        return text
    return coloured(text, 'good' if delta['mean'] > 0 else 'bad')


def _costs(report: Report) -> Iterator[Markup]:
    for axis in report['pareto']:
        plot = shown(plots.pareto(axis['points']), f'pareto {axis["name"]}')
        yield card(f'Accuracy against cost: {axis["title"]}', plot)
    if report['pareto']:
        yield dim(
            f'Delta_MTL of every combination against single-task {report["main_trunk"]}, so that '
            f'trunks can be compared; thin lines: 95 % intervals. The front is that of the means. '
            f'Other tasks, another pretraining or a Delta_MTL without a task have a plot of their '
            f'own.'
        )
    rows = []
    for row in report['costs']:
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


def _transfer(rows: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row['trunk'], row['pretraining'], row['tasks']), []).append(row)
    for (trunk, pretraining, tasks), members in groups.items():
        names = list(dict.fromkeys(row['task'] for row in members))
        by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in members:
            by_name.setdefault(row['name'], {})[row['task']] = row
        body = [
            (name, [_heat(found.get(task)) for task in names]) for name, found in by_name.items()
        ]
        title = f'{tasks}, {trunk}, {pretraining}: gain over single-task, %'
        yield card(title, matrix(names, body, 'tasks'))
    yield dim(
        f'Marked * where the 95 % interval leaves zero out, uncorrected: of {len(rows)} such '
        f'intervals, {len(rows) / 20:.0f} or so would by chance. In brackets, points: single-task '
        f'figures below {100 * SMALLEST_SHARE:g} % are too small for a relative gain. Rows of one '
        f'task share their single-task runs.'
    )
    lower = [row for row in rows if not row['better']]
    header = (
        'task', 'combination', 'gain', 'difference', 'seeds worse', 'test', 'p, uncorrected',
        'effect d',
    )  # fmt: skip
    lines = [
        (
            f'{row["task"]} {row["figure"]}',
            f'{row["trunk"]} {row["name"]}',
            _gain_text(row),
            interval_text(row['figure'], row),
            f'{row["worse_seeds"]} of {row["shared_seeds"]}',
            row['test'],
            or_dash(row['p'], '', '.3g'),
            or_dash(row['effect'], '', '+.1f'),
        )
        for row in sorted(lower, key=lambda row: (row['p'] is None, row['p'], row['gain'] or 0))
    ]
    yield card(
        f'{len(lower)} of {len(rows)} task results have a mean below their single-task network',
        table(header, lines, (2, 3, 4, 6, 7)),
    )
    yield dim(
        'Two-sided t tests and 95 % intervals, paired by seed where both sides have the same '
        'seeds, otherwise Welch’s. Effect: Cohen’s d. None of this was named before the run.'
    )


def _heat(row: Mapping[str, Any] | None) -> MatrixCell:
    if row is None:
        return MatrixCell('–')
    star = '*' if row['clear'] else ''
    if row['gain'] is None:
        return MatrixCell(f'({difference_text(row["figure"], row["difference"])}{star})')
    return _coloured(row['gain'], 0.25, f'{100 * row["gain"]:+.1f}{star}')


def _coloured(value: float | None, most: float, words: str) -> MatrixCell:
    """A cell that is the redder or greener the more, full at `most`."""
    if value is None:
        return MatrixCell('–')
    share = 70 * min(1.0, abs(value) / most)
    return MatrixCell(words, '--good' if value > 0 else '--alarm', f'{share:.0f}')


def _affinity(rows: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    yield dim(
        'Cosine: of the gradients of two tasks with respect to what they share; below 0 they pull '
        'against each other. Look-ahead (Fifty et al., NeurIPS 2021, eq. 2): how much of the '
        'column’s loss a small step on the row’s loss alone takes away, in units of 0.001; below '
        '0 it adds to it. Measured on training batches, means over steps and seeds.'
    )
    for row in rows:
        cards = []
        for phase in PHASES:
            found = row['phases'][phase]
            cards.append(card(f'Cosine, {phase}', _matrix(row['task_names'], found['cosine'], 1)))
        for phase in PHASES:
            found = row['phases'][phase]
            scaled = [[None if x is None else 1e3 * x for x in line] for line in found['lookahead']]
            most = max((abs(x) for line in scaled for x in line if x is not None), default=1)
            cards.append(card(f'Look-ahead, {phase}', _matrix(row['task_names'], scaled, most)))
        title = f'{row["trunk"]} {row["pretraining"]}, {row["name"]}'
        body = grid(cards, 3)
        if row['balancing'] == rows[0]['balancing']:
            plot = shown(plots.cosines(row['through']), f'cosines {row["model"]}')
            body = card('', plot) + body
        if row is rows[0]:
            yield subheading(title) + body
        else:
            yield details(title, body)


def _matrix(names: Sequence[str], values: Sequence[Sequence[float | None]], most: float) -> Markup:
    rows = [
        (name, [_coloured(x, most or 1, or_dash(x, '', '+.2f')) for x in line])
        for name, line in zip(names, values, strict=True)
    ]
    return matrix(names, rows, 'tasks')
