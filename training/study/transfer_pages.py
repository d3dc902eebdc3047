# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The parts of a study's page on what tasks give each other: all of them exploratory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mtl_evaluation.report.page import (
    MatrixCell,
    card,
    details,
    dim,
    grid,
    matrix,
    or_dash,
    subheading,
    table,
)
from training.study import plots
from training.study.analysis import PHASES
from training.study.plots import shown
from training.study.significance import SMALLEST_SHARE
from training.study.texts import difference_text, gain_text, interval_text
from training.study.transfer import NONE, UNFINISHED

MEASURES = {'cosine': 'gradient cosine', 'lookahead': 'look-ahead'}


def transfer_matrix(found: Mapping[str, Any]) -> Iterator[Markup]:
    """The matrices of `transfer.transfer_matrices`, and whether the affinities foretell them."""
    rows = found['matrices']
    if not rows:
        yield dim(UNFINISHED if found['planned'] else NONE)
        return
    for row in rows:
        tasks = row['task_names']
        by_pair = {(x['from'], x['to']): x for x in row['transfers']}
        figures = {x['to']: x['figure'] for x in (*row['singles'], *row['transfers'])}
        body = [
            (f'from {source}', [_transfer(by_pair.get((source, task))) for task in tasks])
            for source in tasks
            if source not in row['missing']
        ]
        singles = {x['to']: x for x in row['singles']}
        body.append(('single-task to all', [_transfer(singles.get(task)) for task in tasks]))
        columns = [f'to {task} {figures.get(task, "")}' for task in tasks]
        title = f'{row["trunk"]}, {row["pretraining"]}, {row["name"]}: transfer, %'
        yield card(title, matrix(columns, body, 'tasks'))
        yield dim(transfer_words(row))
        yield dim(prediction_words(row))
    yield dim(
        'A row is a task that was in the set against the same set without it: the relative gain of '
        'the column’s task, with its 95 % interval (paired by seed where both sides have the same '
        'seeds, otherwise Welch’s), coloured where that leaves zero out. The last row is the gain '
        'over the single-task network. In brackets, points: figures too small for a relative gain. '
        'The correlation is Spearman’s over ordered pairs of tasks; its interval is a bootstrap '
        'over seeds and pairs, as docs/study.md says. Pairs share runs and tasks, so it is rather '
        'too narrow.'
    )


def _transfer(row: Mapping[str, Any] | None) -> MatrixCell:
    if row is None:
        return MatrixCell('–')
    if row['gain'] is None:
        return MatrixCell(f'({interval_text(row["figure"], row)})')
    text = gain_text(row).replace(' %', '')
    return _coloured(row['gain'], 0.25, text) if row['clear'] else MatrixCell(text)


def transfer_words(row: Mapping[str, Any]) -> str:
    """What the intervals of a matrix show."""
    clear = [
        f'{x["from"]} to {x["to"]} ({gain_text(x)})'
        for x in row['transfers']
        if x['clear'] and x['gain'] is not None
    ]
    count = len(row['transfers'])
    text = (
        f'{len(clear)} of {count} intervals leave zero out, uncorrected: {", ".join(clear)}.'
        if clear
        else f'None of {count} intervals leaves zero out: no transfer is shown.'
    )
    if row['missing']:
        text += f' Not run yet: the set without {", without ".join(row["missing"])}.'
    return text


def prediction_words(row: Mapping[str, Any]) -> str:
    """Whether the affinities foretell the transfers."""
    sentences = []
    for measure, name in MEASURES.items():
        found = row['predictions'][measure]
        if found is None:
            sentences.append(f'{name}: not logged, or too few pairs')
            continue
        text = f'{name} {found["correlation"]:+.2f}'
        if found['low'] is not None:
            text += f' [{found["low"]:.2f}, {found["high"]:.2f}]'
            holds = found['low'] <= 0 <= found['high']
            text += ', not shown to foretell it' if holds else ''
        sentences.append(f'{text} ({found["pairs"]} pairs, {len(found["seeds"])} seeds)')
    return f'Rank correlation of affinity and transfer: {"; ".join(sentences)}.'


def against_single(rows: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """Every task of every combination beside its single-task runs."""
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
            gain_text(row),
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


def affinities(rows: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """What was measured while training, by thirds of it."""
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
