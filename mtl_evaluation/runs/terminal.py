# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a run looks like in a terminal: the verdict first, then tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtl_evaluation.accuracy import (
    NOT_MEASURED,
    accuracy_rows,
    main_figure,
    percent,
    published_line,
    tracking_rows,
)
from mtl_evaluation.runs.run import Run
from mtl_perception.tables import print_table

MOST_BAGS = 40
SLICE_FRAMES = 20
"""Labelled frames from which a slice is worth a word at the top."""


def print_run(run: Run, console: Console | None = None) -> None:
    """Print what `run.json` says."""
    console = console or Console()
    summary = run.summary
    for line in headline(summary):
        console.print(line, highlight=False)
    if not summary['frames']['processed']:
        return
    table = Table('task', 'metric', 'value', 'frames')
    for task, metric, value, count in accuracy_rows(summary['accuracy']):
        if count:
            table.add_row(task, metric, value, str(count))
    if table.row_count:
        print_table(table, console)
    without = [task for task, result in summary['accuracy'].items() if not result['frames']]
    if without:
        console.print(f'{NOT_MEASURED}, without labels: {", ".join(without)}', highlight=False)
    console.print(summary['accuracy_note'], style='italic')
    for name, counts in summary.get('published', {}).items():
        if counts['frames']:
            console.print(f'{name}: {published_line(counts)}', highlight=False)
    tables = (_slices(summary), _road(summary), _tracking(summary), _temporal(summary))
    for table in (*tables, _bags(summary)):
        if table.row_count:
            print_table(table, console)
    for note in {road['distance_note'] for road in summary['road'].values()} - {None}:
        console.print(f'recall by distance: {note}', highlight=False, style='italic')
    for line in _cost(summary):
        console.print(line, highlight=False)
    console.print(f'answers sha256 {summary["answers_sha256"]}', highlight=False)
    names = ['report.html', 'run.json', 'live.json', 'recordings', 'frames']
    there = ', '.join(name for name in names if (run.path / name).exists())
    console.print(f'in {escape(str(run.path))}/: {there}', highlight=False)


def headline(summary: Mapping[str, Any]) -> Iterator[str]:
    """What was run, whether it is whole, and the figures that matter most."""
    frames, model, bags = summary['frames'], summary['model'], summary['bags']
    if not summary['complete']:
        yield f'[bold red]PARTIAL[/]: {escape(summary["partial_reason"])}'
    yield (
        f'[bold]{model["name"]}[/] on {model["engine"]} {model["precision"]}: '
        f'{frames["processed"]} frames of {len(bags)} {"bag" if len(bags) == 1 else "bags"}, '
        f'{frames["labelled"]} with labels'
    )
    left_out = {name: count for name, count in frames.items() if count}
    left_out = {n: c for n, c in left_out.items() if n not in ('processed', 'labelled')}
    if left_out:
        yield 'left out: ' + ', '.join(f'{c} {n.replace("_", " ")}' for n, c in left_out.items())
    yield from _weakest(summary)


def _weakest(summary: Mapping[str, Any]) -> Iterator[str]:
    """By task, the slice in which it does worst."""
    for task, whole in summary['accuracy'].items():
        key, title = main_figure(whole['kind'])
        of_slices = {
            name: results[task][key]
            for name, results in summary['slices'].items()
            if task in results
            and results[task][key] is not None
            and results[task]['frames'] >= SLICE_FRAMES
        }
        if len(of_slices) > 1:
            name = min(of_slices, key=lambda name: of_slices[name])
            yield (
                f'{task} {title} {percent(whole[key])}, weakest in {escape(name)} '
                f'({percent(of_slices[name])} of {summary["slices"][name][task]["frames"]} frames)'
            )


def _by_task(summary: Mapping[str, Any], title: str, *first: str) -> Table:
    """A table with a column for each task that was measured."""
    kinds = {task: summary['accuracy'][task]['kind'] for task in _tasks(summary)}
    columns = [f'{task}\n{main_figure(kind)[1]}' for task, kind in kinds.items()]
    table = Table(title=f'{title}, per cent (frames)', title_justify='left')
    for name in first:
        table.add_column(name)
    for name in columns:
        table.add_column(name)
    return table


def _tasks(summary: Mapping[str, Any]) -> list[str]:
    return [task for task, result in summary['accuracy'].items() if result['frames']]


def _cells(summary: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    for task in _tasks(summary):
        value = results[task][main_figure(results[task]['kind'])[0]] if task in results else None
        yield '-' if value is None else f'{100 * value:.1f} ({results[task]["frames"]})'


def _slices(summary: Mapping[str, Any]) -> Table:
    table = _by_task(summary, 'by slice', 'slice')
    whole = {task: result['frames'] for task, result in summary['accuracy'].items()}
    for name, results in summary['slices'].items():
        if any(result['frames'] < whole[task] for task, result in results.items()):
            table.add_row(escape(name), *_cells(summary, results))
    return table


def _road(summary: Mapping[str, Any]) -> Table:
    table = Table('object', 'recall', 'found of objects', title_justify='left')
    for road in summary['road'].values():
        table.title = f'recall at score {road["score"]:g}, IoU {road["iou"]:g}'
        for bands in (road['height_px'], road['distance_m'] or {}):
            for name, row in bands.items():
                if row['objects']:
                    share = f'{row["found"]} of {row["objects"]}'
                    table.add_row(name, percent(row['recall']), share)
        for name, row in (road.get('distance_error') or {}).items():
            if row['median'] is not None:
                error = f'{percent(row["median"])} (90 %: {percent(row["p90"])})'
                table.add_row(f'{name}: error of the distance', error, f'{row["objects"]} found')
    return table


def _tracking(summary: Mapping[str, Any]) -> Table:
    table = Table('task', 'tracks', 'value', title_justify='left')
    for task, title, value in tracking_rows(summary.get('tracking', {})):
        table.add_row(task, title, value)
    return table


def _temporal(summary: Mapping[str, Any]) -> Table:
    table = Table('task', 'between consecutive frames', 'value')
    titles = {
        'changed': 'pixels that change class',
        'truth_changed': 'labelled pixels whose label changes',
        'flicker': 'pixels that change though their label stays',
        'blink': 'pixels that leave their class for one frame',
        'vanished': 'objects that vanish for one frame',
        'score_jitter': 'mean change of score (0 to 1)',
    }
    for task, values in summary['temporal'].items():
        for key, title in titles.items():
            if values.get(key) is not None:
                text = (
                    f'{values[key]:.3f}' if key == 'score_jitter' else f'{100 * values[key]:.2f} %'
                )
                table.add_row(task, title, text)
    return table


def _bags(summary: Mapping[str, Any]) -> Table:
    table = _by_task(summary, 'by bag', 'bag', 'frames')
    if len(summary['bags']) < 2:
        return table
    for bag in summary['bags'][:MOST_BAGS]:
        frames = str(bag['frames']) if bag.get('complete', True) else f'{bag["frames"]}, partial'
        table.add_row(escape(bag['name']), frames, *_cells(summary, bag.get('accuracy', {})))
    if len(summary['bags']) > MOST_BAGS:
        table.caption = f'{len(summary["bags"]) - MOST_BAGS} more in run.json'
    return table


def _cost(summary: Mapping[str, Any]) -> Iterator[str]:
    cost = summary.get('cost')
    if not cost:
        return
    limit = cost['limited_by']
    yield (
        f'{cost["frames_per_s"]:.1f} frames/s with {cost["workers"]} workers on {cost["cores"]} '
        f'cores ({cost["frames_per_s_per_core"]:.2f} a core), limited by {limit} '
        f'({100 * cost["shares"][limit]:.0f} % of {cost["ms_per_frame"]:.1f} ms); '
        f'{cost["bytes_per_frame"]:.0f} bytes per frame kept'
    )
    fleet = cost['fleet']
    if fleet:
        days = ', '.join(
            f'{value:.3g} days on {count}' for count, value in fleet['days_on_machines'].items()
        )
        yield (
            f'{fleet["hours"]} hours of such driving ({fleet["frames_an_hour"]:.0f} frames an '
            f'hour) on machines like this: {days}; {fleet["records_gb"]:.3g} GB of records'
        )
