# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a live run: figures, plots and pictures of what a node answered in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtl_evaluation import kinds
from mtl_evaluation.accuracy import headline, percent
from mtl_evaluation.kinds.detection import SHOWN_SCORE
from mtl_evaluation.live.timing import LiveRun
from mtl_evaluation.report import page, plots
from mtl_evaluation.report.accuracy_section import accuracy_section
from mtl_evaluation.report.gallery import ASSETS, Shot, gallery
from mtl_evaluation.report.page import Section, card, dim, grid, or_dash
from mtl_evaluation.report.pictures import Example


def write_live_report(
    path: Path, results: Mapping[str, Any], live: LiveRun, examples: Sequence[Example]
) -> None:
    """Write the page. results: what `results.json` holds. Nothing in it is fetched from a network.

    Only the video is a file of its own, beside the page.
    """
    has_video = (path.parent / 'overlay.mp4').is_file()
    sections = [
        *_timing(results, live),
        *_accuracy(results),
        *_video(results, has_video),
        *_examples(examples),
        _making_of(results),
    ]
    title = f'{results["model"]["name"]}: live run'
    page.write_page(path, title, _head(results), sections, ASSETS)


def _head(results: Mapping[str, Any]) -> Iterator[Markup]:
    model, drive = results['model'], results['drive']
    runs_on = [model.get(key, '') for key in ('engine', 'precision', 'device')]
    cores = results['machine'].get('cores')
    yield page.heading(
        f'{model["name"]} in a live run',
        drive['description'],
        f'{", ".join(part for part in runs_on if part)}, {cores} cores; {results["created"]}',
    )
    stopped = '' if drive['complete'] else 'The run was stopped before the end of the drive.'
    yield page.note(results['accuracy_note'], stopped)
    yield page.tiles(_tiles(results))


def _tiles(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    frames, latency = results['frames'], results['latency_ms'] or {}
    yield f'{frames["answered"]} / {frames["played"]}', 'frames answered of those played'
    yield or_dash(frames['replaced']), 'dropped for a newer frame'
    yield or_dash(frames['lost_in_transport']), 'lost on the way to the node'
    yield or_dash(latency.get('p50'), ' ms', '.1f'), 'latency p50, stamp to detections'
    yield or_dash(latency.get('p99'), ' ms', '.1f'), 'latency p99'
    yield or_dash(results['fps'], '', '.1f'), 'answers a second'
    for name, result in results['accuracy'].items():
        if result['frames'] and not kinds.named(result['kind']).is_label:
            title, value = headline(result)
            yield percent(value), f'{name} {title}'


def _accuracy(results: Mapping[str, Any]) -> Iterator[Section]:
    """Of the labelled tasks; the note on top says where there was no label at all."""
    if any(result['frames'] for result in results['accuracy'].values()):
        yield accuracy_section('Accuracy of the processed frames', results['accuracy'])


def _timing(results: Mapping[str, Any], live: LiveRun) -> Iterator[Section]:
    latencies = live.latencies_ms()
    if not latencies:
        return
    answered = live.answered_ns
    first_ns = live.frames[0].stamp_ns
    dropped = [
        (frame.stamp_ns - first_ns) / 1e9 for frame in live.frames if frame.stamp_ns not in answered
    ]
    period_ms = 1e3 / results['rate_in_hz'] if results['rate_in_hz'] else None
    cards = [
        card(
            'Latency of every frame', plots.latency_over_time(latencies, dropped, period_ms), 'wide'
        ),
        card('How latency spreads', plots.latency_histogram([value for _, value in latencies])),
    ]
    if results['stages_ms']:
        cards.append(card('Where the node spends it', plots.stage_times(results['stages_ms'])))
    late = results['publish_late_ms'] or {}
    explained = dim(
        f'Latency runs from the image stamp, the moment the frame was due, until '
        f'its detections arrive at a subscriber in another process. The player published '
        f'{late.get("p50", 0):.2f} ms after that stamp (p50; p99 {late.get("p99", 0):.2f} ms), '
        f'which is included. Stage times are the node’s own, over its last 300 frames. A frame '
        f'that is not processed before a newer one arrives is dropped on purpose.'
    )
    yield Section('Time', grid(cards) + explained)


def _video(results: Mapping[str, Any], has_video: bool) -> Iterator[Section]:
    if not has_video:
        return
    shown = (
        page.video('overlay.mp4')
        if results['video_codec'] == 'vp09'
        else page.link('overlay.mp4', 'for a desktop player')
    )
    yield Section('Video', shown + dim('A dropped frame shows the newest answer there was.'))


def _examples(examples: Sequence[Example]) -> Iterator[Section]:
    if not examples:
        return
    shots = []
    for example in examples:
        caption = f'Frame {example.index}, {example.time_s:.1f} s'
        caption += f' · {example.caption}' if example.caption else ''
        shots.append(Shot.of(caption, example.panels))
    rule = (
        f'Evenly spaced over the run, not chosen. Boxes with a score of at least {SHOWN_SCORE:g}.'
    )
    yield Section('Frames', dim(rule) + gallery(shots))


def _making_of(results: Mapping[str, Any]) -> Section:
    model = results['model']
    engine = ('engine', 'engine_version', 'precision', 'device')
    facts = {
        'command': results['command'],
        'model': f'{model["name"]}, bundle {model["bundle_hash"][:16]}, trained on '
        f'{"; ".join(model["training_data"])}',
        'engine': ' '.join(model.get(key, '') for key in engine),
        **page.machine_facts(results['machine']),
        'drive': results['drive']['path'],
        'undecodable frames': '; '.join(results['undecodable']) or 'none',
    }
    return Section('How this was made', card('', page.facts(facts)))
