# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception bag`: make bags, and say what a bag holds and what can be evaluated with it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtl_evaluation import progress
from mtl_evaluation.bags import bag_make
from mtl_evaluation.bags.bag_parts import DONE_KEY
from mtl_evaluation.bags.cameras import Camera
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.listing import Listing
from mtl_evaluation.bags.sources import CONFIG_KEY
from mtl_evaluation.messages.cdr import BagError
from mtl_perception.cli import HelpFormatter
from mtl_perception.image_codec import ImageError
from mtl_perception.tables import print_table
from mtl_perception.tasks import DETECTION

MAKE = 'make a bag of images, a video, a data set or a generated drive, with their labels'
MAKE_MORE = (
    ' Stopped by Ctrl-C or a full disk it leaves OUT.partial, a bag of the frames so far; the same '
    'command resumes from there.'
)
INFO = 'say what a bag holds, and what can be evaluated with it'
MOST_SIZES = 6
NOTES = {'camera_info': 'camera info', 'names': 'names of the image files'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command and its two parts."""
    parts = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name, add, action, text, more in (
        ('make', bag_make.add_arguments, bag_make.run, MAKE, MAKE_MORE),
        ('info', _info_arguments, info, INFO, ''),
    ):
        part = parts.add_parser(
            name, help=text, description=f'{text[0].upper()}{text[1:]}.{more}',
            formatter_class=HelpFormatter,
        )  # fmt: skip
        add(part)
        part.set_defaults(action=action)


def run(args: argparse.Namespace) -> int:
    """Do the part that was given; returns the exit code."""
    return int(args.action(args))


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bag', type=Path, help='a rosbag2 folder, or a .mcap or .db3 file')
    parser.add_argument('--json', action='store_true', help='print it as JSON')
    parser.add_argument(
        '--scan', action='store_true', help='read every frame: exact counts, sizes and damage'
    )


def info(args: argparse.Namespace) -> int:
    """Print what a bag holds; returns the exit code, 1 where a scan found damage."""
    with GuardedBag(args.bag) as bag:
        summary = describe(bag)
        if args.scan:
            summary['scan'] = scan(bag, Console(stderr=True))
    if args.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
    else:
        _print(summary)
    return 1 if summary.get('scan', {}).get('damage') else 0


def describe(bag: GuardedBag) -> dict[str, Any]:
    """What the index of a bag says, and its first frames; raises BagError.

    `evaluable`: by task the ground-truth messages there are, which are frames unless stamps differ.
    """
    seconds = (bag.info.end_ns - bag.info.start_ns) / 1e9
    evaluable: dict[str, int] = {}
    counts = {topic: count for topic, _, count in bag.info.topics}
    for camera in bag.cameras:
        for topic, name in camera.truth.items():
            evaluable[_task(name)] = evaluable.get(_task(name), 0) + counts[topic]
    return {
        'path': str(bag.path),
        'storage': bag.info.storage,
        'compression': bag.info.compression or 'none',
        'files': list(bag.info.files),
        'bytes': bag.info.bytes,
        'notes': list(bag.info.notes),
        'start_ns': bag.info.start_ns,
        'duration_s': round(seconds, 3),
        'generated': CONFIG_KEY in bag.info.custom,
        'partial': DONE_KEY in bag.info.custom,
        'cameras': [_describe_camera(camera, counts, seconds) for camera in bag.cameras],
        'evaluable': evaluable,
        'topics': [
            {'topic': topic, 'type': kind, 'messages': count, 'rate_hz': _rate(count, seconds)}
            for topic, kind, count in bag.info.topics
        ],
    }


def scan(bag: GuardedBag, console: Console) -> dict[str, Any]:
    """Read every frame: labelled frames by task, sizes, what is undecodable, left out or damaged.

    A bag that breaks off is described as far as it could be read; `damage` says why it ended.
    """
    sizes: dict[str, int] = {}
    labelled: dict[str, int] = {}
    undecodable = Listing()
    frames, damage = 0, ''
    with progress.shown('reading', bag.frames_total, console, keep=False) as show:
        try:
            for frame in bag.frames():
                frames += 1
                show(frames)
                try:
                    height, width = frame.image().pixels.shape[:2]
                except ImageError as error:
                    undecodable.add(f'frame {frame.index} of {frame.topic}: {error}')
                else:
                    size = f'{width}x{height}'
                    sizes[size] = sizes.get(size, 0) + 1
                truth = frame.truth()
                boxes = [DETECTION.name] if truth.boxes is not None else []
                for name in (*boxes, *truth.masks, *truth.maps, *truth.labels):
                    labelled[name] = labelled.get(name, 0) + 1
        except BagError as error:
            damage = str(error)
    return {
        'frames': frames,
        'labelled': labelled,
        'sizes': sizes,
        'undecodable': undecodable.to_json(),
        'repeated': bag.repeated.to_json(),
        'unmatched_truth': bag.unmatched_truth.to_json(),
        'damage': damage,
    }


def _describe_camera(camera: Camera, counts: dict[str, int], seconds: float) -> dict[str, Any]:
    model = camera.model
    return {
        'topic': camera.topic,
        'type': camera.msgtype,
        'encoding': camera.encoding,
        'frames': camera.frames,
        'rate_hz': _rate(camera.frames, seconds),
        'size': list(camera.size),
        'camera_info': model is not None,
        'camera_model': model.description if model else camera.model_note,
        'names': counts.get(camera.name_topic, 0) > 0,
        'truth': {_task(name): counts[topic] for topic, name in camera.truth.items()},
    }


def _task(name: str) -> str:
    """Task of what a ground-truth topic holds: `scene/weather` is weather."""
    return DETECTION.name if name == 'detections' else name.removeprefix('scene/')


def _rate(count: int, seconds: float) -> float | None:
    """Messages a second: intervals, not messages, make the duration."""
    return round((count - 1) / seconds, 2) if count > 1 and seconds > 0 else None


def _print(summary: dict[str, Any]) -> None:
    console = Console()
    notes = ', generated scenes' if summary['generated'] else ''
    notes += ', [bold red]partial[/]' if summary['partial'] else ''
    console.print(
        f'[bold]{escape(summary["path"])}[/]: {summary["storage"]}, compression '
        f'{summary["compression"]}, {len(summary["files"])} files, '
        f'{summary["bytes"] / 1e6:.1f} MB, {summary["duration_s"]:g} s{notes}',
        highlight=False,
    )
    for item in summary['cameras']:
        _print_camera(item, console)
    table = Table('topic', 'type', 'messages', 'rate', box=None, pad_edge=False)
    for item in summary['topics']:
        rate = _hertz(item['rate_hz'])
        kind = escape(item['type'].replace('/msg/', '/'))
        table.add_row(escape(item['topic']), kind, str(item['messages']), rate)
    print_table(table, console)
    console.print(_verdict(summary), highlight=False, markup=False)
    if 'scan' in summary:
        _print_scan(summary['scan'], console)


def _print_camera(item: dict[str, Any], console: Console) -> None:
    width, height = item['size']
    size = f'{width}x{height}' if width else 'undecodable'
    notes = ''.join(f', with {text}' for key, text in NOTES.items() if item[key])
    console.print(
        f'camera [bold]{escape(item["topic"])}[/]: {item["frames"]} frames at '
        f'{_hertz(item["rate_hz"])}, {size} {escape(item["encoding"])}{notes}',
        highlight=False,
    )
    console.print(f'  camera model: {escape(item["camera_model"])}', highlight=False)
    labels = ', '.join(f'{task} {count}' for task, count in item['truth'].items())
    console.print(f'  labels: {escape(labels) or "none"}', highlight=False)


def _verdict(summary: dict[str, Any]) -> str:
    evaluable = summary['evaluable']
    if not evaluable:
        return (
            'no ground truth in the bag: `mtl-perception replay` measures speed and stability; '
            'for accuracy give it labels with --truth'
        )
    return 'can be evaluated: ' + ', '.join(
        f'{task} ({count} frames)' for task, count in evaluable.items()
    )


def _print_scan(found: dict[str, Any], console: Console) -> None:
    labelled = ', '.join(f'{task} {count}' for task, count in found['labelled'].items())
    most = sorted(found['sizes'].items(), key=lambda item: -item[1])
    sizes = ', '.join(f'{size} ({count})' for size, count in most[:MOST_SIZES])
    sizes += f' and {len(most) - MOST_SIZES} other sizes' if len(most) > MOST_SIZES else ''
    console.print(f'read {found["frames"]} frames: {sizes}', highlight=False)
    console.print(f'with labels: {labelled or "none"}', highlight=False, markup=False)
    for name in ('undecodable', 'repeated', 'unmatched_truth'):
        listing = found[name]
        if listing['count']:
            console.print(f'{listing["count"]} {name.replace("_", " ")}:', highlight=False)
            for text in listing['first']:
                console.print(f'  {text}', highlight=False, markup=False)
            if listing['not_named']:
                console.print(f'  and {listing["not_named"]} more', highlight=False)
    if found['damage']:
        console.print(f'[bold red]damaged[/]: {escape(found["damage"])}', highlight=False)


def _hertz(rate: float | None) -> str:
    return '-' if rate is None else f'{rate:g} Hz'
