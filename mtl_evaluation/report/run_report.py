# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a run: RUN/report.html, of the run alone and, where they can be had, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtl_evaluation import kinds
from mtl_evaluation.accuracy import (
    class_values,
    headline,
    percent,
    published_line,
    tracking_rows,
)
from mtl_evaluation.metrics.box_faults import KINDS
from mtl_evaluation.report import gallery, matrix, page, plots, run_plots
from mtl_evaluation.report.accuracy_section import accuracy_section
from mtl_evaluation.report.matrix import confusion_table, occurring
from mtl_evaluation.report.page import Section, card, dim, grid, or_dash
from mtl_evaluation.report.review import TaskReview, review
from mtl_evaluation.report.run_pictures import recordings, worst_frames
from mtl_evaluation.runs.revisit import Pictures
from mtl_evaluation.runs.run import Run

PUBLISHED_EXPLAINED = (
    'AP is scored on the full list; this is what the node publishes of it at its default '
    'thresholds, suppressed across classes that exclude each other. Right: IoU 0.5 with an object '
    'of its class. Second: on an object that has a right box. Loose: IoU 0.1 to 0.5. Not judged: '
    'in an ignored region.'
)

BAGS_OVER_TIME = 4
"""Bags whose frames are plotted one by one: the first ones."""

SLICE_FRAMES = 20
"""Labelled frames from which a slice is worth a word at the top."""

LISTED = 200
"""Lines of a folded list."""


def write_report(
    run: Run,
    pictures: Pictures | None = None,
    path: Path | None = None,
    more: Iterable[Section] = (),
) -> Path:
    """Write the page (to RUN/report.html unless told otherwise) and return its path.

    more: sections that the run's writer knows of, put first.

    Needs no bag and no model: without `pictures` the galleries list the frames only. Raises
    RunError when the run cannot be read and OSError when the page cannot be written.
    """
    path = path or run.path / 'report.html'
    reviews = review(run)
    sections = [
        *more,
        accuracy_section('Accuracy', run.summary.get('accuracy', {})),
        *_published(run.summary),
        *_slices(run.summary),
        *_detection(reviews),
        *_road(run.summary),
        *_tracking(run.summary),
        *_confusions(reviews),
        *_stability(run.summary),
        *_over_time(reviews, run.summary),
        *worst_frames(run, reviews, pictures),
        *recordings(run, path.parent),
        *_bags(run.summary),
        *_time(run.summary),
        *_left_out(run.summary),
        _making_of(run),
    ]
    title = f'{_model(run.summary)}: {run.path.name}'
    page.write_page(path, title, _head(run), sections, [*gallery.ASSETS, *matrix.ASSETS])
    return path


def _head(run: Run) -> Iterator[Markup]:
    summary = run.summary
    bags = [bag['name'] for bag in summary.get('bags', [])]
    named = ', '.join(bags[:4]) + (f' and {len(bags) - 4} more' if len(bags) > 4 else '')
    model = summary.get('model') or {}
    runs_on = [str(model.get(key) or '') for key in ('engine', 'precision', 'device')]
    yield page.heading(
        f'{_model(summary)} over {named or "no bag"}',
        ', '.join(part for part in (*runs_on, summary.get('created', '')) if part),
    )
    lines = list(_in_short(summary))
    if not summary.get('complete', True):
        reason = summary.get('partial_reason') or 'it was not finished'
        yield page.verdict('open', 'Partial run:', [f'{reason}.', *lines])
    elif lines:
        yield page.verdict('plain', lines[0], ['', *lines[1:]])
    if summary.get('accuracy_note'):
        yield page.note(summary['accuracy_note'])
    yield page.tiles(_tiles(summary))


def _in_short(summary: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know first: the headlines, then where it is weakest."""
    measured = {
        name: result for name, result in summary.get('accuracy', {}).items() if result['frames']
    }
    if not measured:
        yield 'Nothing was measured: no frame has labels for a task of this model.'
        return
    said = []
    for name, result in measured.items():
        title, value = headline(result)
        there = [label for label, known in class_values(result)[1].items() if known is not None]
        only = f' (only {there[0]} is labelled)' if len(there) == 1 else ''
        said.append(f'{name} {title} {percent(value)}{only}')
    yield ', '.join(said)
    weak = [text for name, result in measured.items() for text in _weakest_class(name, result)]
    if weak:
        yield f'Weakest classes: {"; ".join(weak)}.'
    slices = [text for name in measured for text in _weakest_slice(name, summary)]
    if slices:
        yield f'Weakest slices: {"; ".join(slices)}.'


def _weakest_class(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    _, values = class_values(result)
    known = {label: value for label, value in values.items() if value is not None}
    if len(known) > 1:
        lowest = min(known, key=lambda label: known[label])
        yield f'{name} {lowest} ({percent(known[lowest])})'


def _weakest_slice(name: str, summary: Mapping[str, Any]) -> Iterator[str]:
    found = {
        label: headline(results[name])[1]
        for label, results in summary.get('slices', {}).items()
        if results.get(name, {}).get('frames', 0) >= SLICE_FRAMES
    }
    known = {label: value for label, value in found.items() if value is not None}
    if len(known) > 1:
        lowest = min(known, key=lambda label: known[label])
        yield f'{name} at {lowest} ({percent(known[lowest])})'


def _tiles(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    frames = summary.get('frames', {})
    yield str(frames.get('processed', 0)), 'frames answered'
    yield str(frames.get('labelled', 0)), 'of them with labels'
    for name, result in summary.get('accuracy', {}).items():
        if result['frames'] and not kinds.named(result['kind']).is_label:
            title, value = headline(result)
            yield percent(value), f'{name} {title}'
    engine = summary.get('stages_ms', {}).get('engine', {})
    if engine:
        yield or_dash(engine.get('p50'), ' ms', '.1f'), 'engine p50, offline'
    lost = frames.get('undecodable', 0)
    if lost:
        yield str(lost), 'frames that could not be decoded'


def _detection(reviews: Mapping[str, TaskReview]) -> Iterator[Section]:
    for name, of in reviews.items():
        curves = of.curves()
        if curves:
            explained = (
                'IoU 0.5. The figure beside a class is the area under its curve, in percent: its '
                'AP50. Best class first.'
            )
            yield Section(
                f'{name}: precision and recall',
                card('', run_plots.precision_recall(curves)) + dim(explained),
            )


def _confusions(reviews: Mapping[str, TaskReview]) -> Iterator[Section]:
    cards = []
    for name, of in reviews.items():
        if of.confusion is not None and of.confusion.any():
            kind = kinds.of(of.task)
            names = [*of.task.classes, *(['background'] if kind.background else [])]
            table = occurring(of.confusion, names)
            wide = 'wide' if len(table[1]) > 12 else ''
            cards.append(card(f'{name}, {kind.counted}', confusion_table(*table), wide))
    if cards:
        explained = (
            'A row is what is there, a column what was answered: percent of the row, a dash for '
            'nothing. Boxes: IoU 0.5, score at least 0.25; the last column are missed objects, the '
            'last row false boxes (how they divide among the classes).'
        )
        yield Section('Confusion', grid(cards) + dim(explained))


def _slices(summary: Mapping[str, Any]) -> Iterator[Section]:
    slices = summary.get('slices', {})
    if slices:
        rows = {'all frames': summary['accuracy'], **slices}
        explained = (
            'Slices are by the labels of the frames. A value is over the frames of the slice that '
            'are labelled for the task; the small number says how many.'
        )
        yield Section('Slices', card('', _headline_table('slice', rows)) + dim(explained))


def _bags(summary: Mapping[str, Any]) -> Iterator[Section]:
    bags = summary.get('bags', [])
    if len(bags) > 1:
        rows = {bag['name']: bag.get('accuracy', {}) for bag in bags}
        yield Section('Bags', card('', _headline_table('bag', rows)))


def _headline_table(what: str, rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A row per slice or bag, a column per task's headline."""
    tasks: dict[str, str] = {}
    for results in rows.values():
        for name, result in results.items():
            if result['frames']:
                tasks.setdefault(name, headline(result)[0])

    def cell(result: Mapping[str, Any] | None) -> page.Cell:
        if not result or not result['frames']:
            return '–'
        return page.bar(headline(result)[1], f'{result["frames"]}')

    table = [
        (label, *(cell(results.get(name)) for name in tasks)) for label, results in rows.items()
    ]
    header = (what, *(f'{name} {title}' for name, title in tasks.items()))
    return page.table(header, table, range(1, len(header)))


def _published(summary: Mapping[str, Any]) -> Iterator[Section]:
    for name, counts in summary.get('published', {}).items():
        if counts['frames']:
            rows = [(kind.replace('_', ' '), str(counts[kind])) for kind in KINDS]
            table = page.table(('detection', 'count'), rows, (1,))
            yield Section(
                f'{name}: published boxes',
                card('', table) + dim(f'{published_line(counts)}. {PUBLISHED_EXPLAINED}'),
            )


def _road(summary: Mapping[str, Any]) -> Iterator[Section]:
    for name, road in summary.get('road', {}).items():
        cards = []
        for key, title in (('height_px', 'height of the object'), ('distance_m', 'distance')):
            bands = road.get(key) or {}
            shown = {band: (value['recall'], value['objects']) for band, value in bands.items()}
            if any(objects for _, objects in shown.values()):
                cards.append(card(f'by {title}', run_plots.recall_by_band(f'{name}-{key}', shown)))
        if cards:
            explained = (
                f'Share of labelled objects that were found (IoU {road["iou"]:g}, score at least '
                f'{road["score"]:g}); under each band how many objects there are. '
            )
            why = road.get('distance_note') or ''
            errors = _distance_errors(road.get('distance_error') or {})
            yield Section(
                f'{name}: found by size', grid(cards) + dim(f'{explained}{_say(why)}{errors}')
            )


def _distance_errors(bands: Mapping[str, Any]) -> str:
    """The error of the distance by band, as a sentence; empty where the truth has no places."""
    parts = [
        f'{name} {percent(row["median"])} (90 %: {percent(row["p90"])}; {row["objects"]})'
        for name, row in bands.items()
        if row['median'] is not None
    ]
    listed = ', '.join(parts)
    return f' Median error of the distance of objects found: {listed}.' if parts else ''


def _say(note: str) -> str:
    return f'Distance: {note}.' if note else ''


def _tracking(summary: Mapping[str, Any]) -> Iterator[Section]:
    rows = tracking_rows(summary.get('tracking', {}))
    if rows:
        by_class = [
            card(f'{name}: HOTA by class', plots.class_bars(f'{name}: HOTA, %', values))
            for name, result in summary['tracking'].items()
            if (values := {label: of['HOTA'] for label, of in result['per_class'].items()})
        ]
        explained = (
            'As TrackEval counts: HOTA is the geometric mean of detection and association over 19 '
            'overlaps; IDF1 and MOTA at IoU 0.5. Over all classes, unless it says otherwise.'
        )
        table = card('', page.table(('task', 'tracks', 'value'), rows, (2,)))
        yield Section('Tracks', grid([table, *by_class]) + dim(explained))


def _stability(summary: Mapping[str, Any]) -> Iterator[Section]:
    titles = {
        'changed': 'pixels that changed class',
        'truth_changed': 'labelled pixels whose truth changed',
        'flicker': 'flicker: changed where the truth did not',
        'blink': 'blink: left their class for one frame',
        'vanished': 'boxes that vanished for one frame',
        'score_jitter': 'mean change of a box’s score (0 to 1)',
    }
    rows = [
        (task, titles[key], f'{values[key]:.3f}' if 'score' in key else percent(values[key], 2))
        for task, values in summary.get('temporal', {}).items()
        for key in titles
        if values.get(key) is not None
    ]
    if rows:
        table = page.table(('task', 'from one frame to the next', 'share'), rows, (2,))
        yield Section('Stability', card('', table))


def _over_time(reviews: Mapping[str, TaskReview], summary: Mapping[str, Any]) -> Iterator[Section]:
    # Images of a data set have no time.
    timeless = {bag['name'] for bag in summary.get('bags', []) if bag.get('kind') == 'images'}
    cards = []
    for name, of in reviews.items():
        kind = kinds.of(of.task)
        if kind.is_label:
            continue
        bags = {
            place: curve
            for place, curve in of.over_time().items()
            if len(curve[0]) > 2 and place not in timeless
        }
        shown = dict(list(bags.items())[:BAGS_OVER_TIME])
        if shown:
            plot = run_plots.over_the_drive(name, kind.flaw_title, shown)
            cards.append(card(name, plot, 'wide'))
    if cards:
        explained = (
            'How wrong every labelled frame is. Boxes: missed objects and false boxes. Masks: 1 '
            f'minus the mean IoU over the classes of the frame. The first {BAGS_OVER_TIME} bags.'
        )
        yield Section('Over the drive', grid(cards) + dim(explained))


def _time(summary: Mapping[str, Any]) -> Iterator[Section]:
    stages = summary.get('stages_ms', {})
    if stages:
        explained = (
            'Offline, frame after frame on this machine: where the work goes, not what a vehicle '
            'sees. Letterbox, engine and decode run beside the other stages, which measure an '
            'earlier frame; wait is what they wait for them. Latency and drops are measured live: '
            'mtl-perception replay --live.'
        )
        plot = card('Milliseconds a frame by stage', plots.stage_times(stages))
        rows = [
            (name, f'{value["p50"]:.2f}', f'{value["p99"]:.2f}') for name, value in stages.items()
        ]
        table = card('', page.table(('stage', 'p50, ms', 'p99, ms'), rows, (1, 2)))
        yield Section('Time', grid([plot, table]) + dim(explained))


def _left_out(summary: Mapping[str, Any]) -> Iterator[Section]:
    """What was in the bags and is not in the figures."""
    titles = {
        'undecodable': 'frames that could not be decoded',
        'repeated': 'frames with a stamp that was there before',
        'unmatched_truth': 'labels without a frame',
        'unmatched_frames': 'frames without labels in the label files',
    }
    rows, lists = [], []
    for bag in summary.get('bags', []):
        if bag.get('error'):
            rows.append((bag['name'], 'ended early', str(bag['error'])))
        for key, title in titles.items():
            listing = bag.get(key) or {}
            if isinstance(listing, Mapping) and listing.get('count'):
                rows.append((bag['name'], title, str(listing['count'])))
                first = [str(line) for line in listing.get('first', [])]
                more = listing['count'] - len(first)
                lists.append(
                    page.details(f'{bag["name"]}: {title}', page.listed(first[:LISTED], more))
                )
    if rows:
        table = card('', page.table(('bag', 'what', 'frames'), rows, (2,)))
        yield Section('Left out', table + page.joined(lists))


def _making_of(run: Run) -> Section:
    summary = run.summary
    model = summary.get('model') or {}
    facts = {
        'command': summary.get('command', ''),
        'model': f'{_model(summary)}, bundle {str(model.get("bundle_hash", ""))[:16]}',
        'engine': ' '.join(
            str(model.get(key) or '') for key in ('engine', 'engine_version', 'precision', 'device')
        ),
        'answers': f'sha256 {summary.get("answers_sha256", "")}',
        'bags': '; '.join(str(bag.get('path') or bag['name']) for bag in summary.get('bags', [])),
    }
    if 'machine' in summary:
        facts |= page.machine_facts(summary['machine'])
    facts['run'] = str(run.path)
    return Section('How this was made', card('', page.facts(facts)))


def _model(summary: Mapping[str, Any]) -> str:
    return str((summary.get('model') or {}).get('name') or 'a model')
