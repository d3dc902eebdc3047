# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The page: complete, self-contained, and right about what was not measured."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from red_drive import red_image, red_truth

from mtl_evaluation.accuracy import GENERATED_NOTE
from mtl_evaluation.live.timing import LiveRun, PlayedFrame, frame_counts, spread, stages
from mtl_evaluation.pictures.video import Video
from mtl_evaluation.report.live_report import write_live_report
from mtl_evaluation.report.pictures import Example, panels
from mtl_evaluation.scores import Scores
from mtl_evaluation.truth.truth import Truth
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import TASKS

MS = 1_000_000


def made_up_run(answered: int = 8, frames: int = 10) -> LiveRun:
    """Ten frames at 10 Hz, eight answered after 20, 21, ... ms."""
    run = LiveRun('/perception/detections', Path('outputs'))
    run.frames = [
        PlayedFrame(i, 10**18 + i * 100 * MS, 0.1, 10**18 + i * 100 * MS) for i in range(frames)
    ]
    run.answered_ns = {f.stamp_ns: f.stamp_ns + (20 + i) * MS for i, f in enumerate(run.frames)}
    for frame in run.frames[answered:]:
        del run.answered_ns[frame.stamp_ns]
    run.counters = {
        'received': '9', 'processed': '8', 'replaced': '1', 'rejected': '0', 'failed': '0',
        'engine_ms_p50': '5.00', 'engine_ms_p99': '9.00', 'age_ms_p50': '20',
    }  # fmt: skip
    return run


def answer() -> Result:
    truth = red_truth()
    boxes = Detections(truth.boxes.boxes, np.full(8, 0.9, np.float32), np.zeros(8, int))
    probabilities = {'timeofday': np.array([0.1, 0.8, 0.1], np.float32)}
    return Result({'detection': boxes, **truth.masks, **probabilities})


def results_of(run: LiveRun, truth: Truth) -> dict:
    scores = Scores(TASKS.values())
    scores.update('a', answer(), truth, (96, 64))
    return {
        'created': '2026-01-01T00:00:00+00:00',
        'command': 'mtl-perception demo --bag "<script>alert(1)</script>"',
        'machine': {
            'cpu': 'a CPU', 'cores': 2, 'system': 'Linux', 'python': '3.11', 'gpus': [],
            'load_average': [0.1, 0.2, 0.3], 'packages': {'numpy': '2'},
        },
        'drive': {'kind': 'generated', 'description': 'a <drive>', 'path': 'd', 'complete': True},
        'model': {'name': 'tiny', 'bundle_hash': 'ab' * 32, 'training_data': ['none']},
        'frames': frame_counts(run),
        'latency_ms': spread([value for _, value in run.latencies_ms()]),
        'publish_late_ms': spread([frame.late_ms for frame in run.frames]),
        'fps': 10.0,
        'rate_in_hz': 10.0,
        'stages_ms': stages(run.counters),
        'accuracy': scores.result(),
        'accuracy_note': GENERATED_NOTE,
        'undecodable': [],
        'video_codec': 'vp09',
    }  # fmt: skip


def page(tmp_path, run, truth, examples=()):
    write_live_report(tmp_path / 'report.html', results_of(run, truth), run, examples)
    return (tmp_path / 'report.html').read_text()


def test_counts_say_where_every_frame_went():
    counts = frame_counts(made_up_run())

    assert counts['played'] == 10
    assert counts['lost_in_transport'] == 1
    assert counts['unaccounted'] == 0
    assert stages(made_up_run().counters) == {'engine': {'p50': 5.0, 'p99': 9.0}}
    assert spread([1.0, 3.0])['p50'] == 2.0
    assert frame_counts(LiveRun('y', Path('x')))['lost_in_transport'] is None


def test_the_page_is_complete_and_needs_no_network(tmp_path):
    examples = [
        Example(3, 0.3, 'night', panels(red_image(), answer(), red_truth(), list(TASKS.values())))
    ]

    text = page(tmp_path, made_up_run(), red_truth(), examples)

    assert GENERATED_NOTE in text
    assert '8 / 10' in text
    assert '23.5 ms' in text
    assert text.count('<svg') == 7  # over time, histogram, stages, and four tasks by class
    assert text.count('data:image/jpeg;base64,') == len(examples[0].panels) == 4
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith(('data:', '#')) for link in links)
    assert 'url(http' not in text
    assert '<script src' not in text
    assert 'a &lt;drive&gt;' in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) == set(ids)


def test_plots_take_their_colours_from_the_page(tmp_path):
    text = page(tmp_path, made_up_run(), red_truth())

    assert 'var(--first)' in text
    assert 'prefers-color-scheme: dark' in text
    assert not re.findall(r'#0[1-5]0[1-5]0[1-5]', text)


def test_what_was_not_measured_is_left_out(tmp_path):
    text = page(tmp_path, made_up_run(), Truth())

    assert 'AP50' not in text
    assert '0.0 %' not in text


def test_a_run_without_answers_still_makes_a_page(tmp_path):
    run = made_up_run(answered=0)
    run.counters = {}

    text = page(tmp_path, run, Truth())

    assert '0 / 10' in text
    assert '<svg' not in text


def test_panels_without_truth_are_only_the_answer():
    titles = [p.title for p in panels(red_image(), answer(), Truth(), list(TASKS.values()))]

    assert titles == ['Answer of the node', 'semantic, predicted']


def test_wrong_pixels_are_red_and_right_ones_grey():
    wrong = np.zeros((64, 96), np.uint8)
    wrong[:32] = 5
    result = Result({'semantic': wrong})
    truth = Truth(masks={'semantic': np.zeros((64, 96), np.uint8)})

    panel = panels(red_image(), result, truth, list(TASKS.values()))[-1]

    red, green, _ = panel.image[10, 10].astype(int)
    assert red > green + 80
    assert len(set(panel.image[50, 50].tolist())) == 1


@pytest.mark.parametrize('frames', [3, 10_000])
def test_a_video_takes_pictures_of_any_size(tmp_path, frames):
    import cv2

    path = tmp_path / 'overlay.mp4'
    with Video(path, 10, frames) as video:
        for size in ((63, 97), (40, 40), (128, 64)):
            video.add(np.full((*size, 3), 128, np.uint8))

    capture = cv2.VideoCapture(str(path))
    shapes = []
    while (read := capture.read())[0]:
        shapes.append(read[1].shape)
    assert shapes == [(62, 96, 3)] * 3
    assert video.codec in (('vp09', 'mp4v') if frames == 3 else ('mp4v',))
