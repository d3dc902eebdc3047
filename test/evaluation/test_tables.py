# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of the commands on a terminal of 80 columns: nothing is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from mtl_evaluation.accuracy import main_figure
from mtl_evaluation.bench import accuracy, timing
from mtl_evaluation.commands import bag
from mtl_evaluation.metrics.box_faults import KINDS
from mtl_evaluation.runs import terminal
from mtl_perception import tables


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    tables.print_table(table, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def check(text: str, *words: str) -> None:
    assert '…' not in text
    assert max(map(len, text.splitlines())) <= 80
    for word in words:
        assert word in text, text


def test_a_table_that_fits_is_left_alone():
    table = Table('task', 'value', title='headlines')
    table.add_row('detection', '[bold]31.5[/]')
    console = Console(file=io.StringIO(), width=80)
    assert [*tables.fitted(table, console)] == [table]


def test_columns_too_many_go_below_beside_the_first():
    sources = [f'driving_data_{letter}_long' for letter in 'abc']
    table = Table('source', 'images', *KINDS, title='published boxes', caption='of val')
    for source in sources:
        table.add_row(source, '10000', *['123456'] * len(KINDS))
    text = printed(table)
    check(text, 'images', *KINDS)
    parts = text.count('source')
    assert parts > 1 and all(text.count(source) == parts for source in sources)
    assert text.count('123456') == len(sources) * len(KINDS)
    assert text.count('published boxes') == 1 == text.count('of val')


def test_long_words_are_folded_and_sentences_wrap():
    table = Table('rule', 'verdict', 'why')
    why = 'between -0.31 and +0.12 points in 95 of 100 drives, expected -0.50 or more ' * 3
    table.add_row('/a' * 60, 'UNDECIDED', why)
    text = printed(table)
    check(text, 'UNDECIDED', 'verdict')
    assert text.count('/a') + text.count('a/') >= 60
    for word in set(why.split()):
        assert text.count(word) >= why.split().count(word)


@pytest.mark.parametrize('width', [20, 40, 60])
def test_narrower_terminals_lose_nothing(width):
    table = Table('engine', 'p50 ms', 'p99 ms')
    table.add_row('openvino', '12.25', '14.75')
    text = printed(table, width)
    assert '…' not in text and '12.25' in text and '14.75' in text


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns, whatever the command thinks of it."""
    out = io.StringIO()
    for module in (timing, accuracy, bag, tables, terminal):
        monkeypatch.setattr(module, 'Console', lambda **_: Console(file=out, width=80))
    return out


def test_bench_shows_every_stage_of_every_engine(narrow):
    stages = {name: {'median': 123.4, 'p90': 130.0, 'p99': 156.7} for name in timing.STAGES}
    engine = {
        'stages_ms': stages, 'frames_per_s': 12.3, 'load_s': 4.5, 'memory_mb': 678,
        'paired_ratio_median': 1.0, 'times_engine': 0.5,
    }  # fmt: skip
    names = ['onnxruntime fp32', 'openvino int8', 'hydranet_lite0_all_tasks tensorrt fp16']
    timing._print({
        'model': 'hydranet', 'source': [1280, 720], 'frames': 100,
        'engines': dict.fromkeys(names, engine), 'sum_of_others': {},
        'machine': {'cpu': 'cpu', 'cores': 2, 'load_average': [0.0]},
    })  # fmt: skip
    text = narrow.getvalue()
    check(text, *timing.STAGES, 'frames/s', '× ours')
    assert text.count('123.4 / 156.7') == len(timing.STAGES) * len(names)


def test_bench_shows_every_loss_of_accuracy(narrow):
    tasks = {f'{task} {metric}': 61.25 for task, metric in (
        ('semantic', 'mIoU'), ('drivable', 'mIoU'), ('lane', 'IoU'), ('detection', 'AP'),
        ('scene/weather', 'accuracy'), ('scene/timeofday', 'accuracy'),
    )}  # fmt: skip
    accuracy._print({
        'model': 'hydranet', 'reference': 'onnxruntime fp32', 'data': '/data/' + 'x' * 90,
        'reference_scores': tasks,
        'engines': {
            'openvino int8': {
                'losses_points': dict.fromkeys(tasks, 0.5), 'limit_points': 1.0, 'speed': 2.0,
                'passed': False, 'text': 'loses 0.50 points of semantic mIoU',
            },
            'tensorrt fp16': {'text': 'is not installed'},
        },
    })  # fmt: skip
    text = narrow.getvalue()
    check(text, 'scene/weather', 'scene/timeofday', 'not offered')
    assert text.count('+0.50') == len(tasks)


def test_bag_info_shows_long_topics_whole(narrow):
    topic = '/sensing/camera/front_left/image_rectified/with_a_long_name/compressed'
    bag._print({
        'path': 'bag', 'storage': 'mcap', 'compression': 'none', 'files': ['a'], 'bytes': 1,
        'notes': [], 'duration_s': 1.0, 'generated': False, 'partial': False, 'cameras': [],
        'evaluable': {},
        'topics': [{
            'topic': topic, 'type': 'sensor_msgs/msg/CompressedImage', 'messages': 123456,
            'rate_hz': 29.97,
        }],
    })  # fmt: skip
    text = narrow.getvalue()
    check(text, '123456', '29.97 Hz', 'messages')


def test_replay_shows_every_task_of_every_slice(narrow):
    names = ['semantic', 'drivable', 'lane', 'detection', 'scene/weather', 'scene/timeofday']
    kinds = ['segmentation'] * 3 + ['detection'] + ['classification'] * 2
    key = {kind: main_figure(kind)[0] for kind in kinds}
    found = {
        name: {'kind': kind, 'frames': 1000, key[kind]: 0.625}
        for name, kind in zip(names, kinds, strict=True)
    }
    part = {name: {**result, 'frames': 500} for name, result in found.items()}
    slices = {'timeofday=dawn/dusk': part, 'weather=partly cloudy': part}
    table = terminal._slices({'accuracy': found, 'slices': slices})
    text = printed(table)
    check(text, *names, 'timeofday=dawn/dusk')
    assert text.count('62.5 (500)') == 2 * len(names)
