# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The pages of a run and of a comparison: complete, self-contained, alive in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import cv2
import numpy as np
import pytest
from browser import Browser
from made_runs import SIZE, TASK_LIST, made_result, made_truth, write_made_run

from mtl_evaluation.commands.compare import to_json
from mtl_evaluation.compare.comparison import compare
from mtl_evaluation.compare.paired import Pair, Side
from mtl_evaluation.pictures.frames import Seen
from mtl_evaluation.pictures.video import Video
from mtl_evaluation.report.compare_report import write_page
from mtl_evaluation.report.pictures import task_panels
from mtl_evaluation.report.review import galleries, review
from mtl_evaluation.report.run_report import write_report
from mtl_evaluation.report.worst import FRAMES
from mtl_evaluation.runs.writer import RunWriter
from mtl_evaluation.truth.truth import Truth

LOADED = '[...document.querySelectorAll(".gallery img")].every(i => i.naturalWidth > 100)'
HOSTILE = '<script>alert("x")</script>'


def seen(record, error=0.3, model=0) -> Seen:
    """A frame of a made run, with masks as large as its picture."""
    drive = sum(record.bag.encode())
    truth = made_truth(drive, record.index)
    result = made_result(truth, drive, record.index, error, model)

    def enlarged(masks):
        return {
            name: np.asarray(cv2.resize(mask, SIZE, interpolation=cv2.INTER_NEAREST), np.uint8)
            for name, mask in masks.items()
        }

    image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    masks = enlarged(result.masks)
    result.answers.update(masks)
    return Seen(image, result, Truth(truth.boxes, enlarged(truth.masks), truth.labels))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    listing = {'count': 3, 'first': [f'frame 3: {HOSTILE}', 'frame 4: cut off']}
    bag = {'name': 'town', 'path': f'/bags/{HOSTILE}', 'error': None, 'undecodable': listing}
    return write_made_run(
        folder / 'run', frames=50, bags=('town', 'hill'), error=0.3, bags_described=[bag],
        command=f'mtl-perception replay {HOSTILE}', created='2026-01-01T00:00:00+00:00',
        accuracy_note='Made of thin air.',
    )  # fmt: skip


@pytest.fixture(scope='module')
def page(run, tmp_path_factory):
    """Path and text of the page with pictures."""
    path = tmp_path_factory.mktemp('page') / 'report.html'
    assert write_report(run, seen, path) == path
    return path, path.read_text()


@pytest.fixture(scope='module')
def compare_page(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp('compare')
    other = write_made_run(folder / 'other', frames=50, bags=('town', 'hill'), model=1)
    comparison = compare(Pair(Side(run), Side(other)), block_s=0.2, samples=100)

    def look(keys):
        records = {record.key: record for record in run.records()}
        for key in keys:
            yield key, seen(records[key]), seen(records[key], 0.15, 1)

    path = folder / 'compare.html'
    write_page(path, comparison, to_json(comparison, 1.0), look)
    return path, path.read_text()


def test_everything_is_in_the_page_and_nothing_is_fetched(page):
    path, text = page

    assert [file.name for file in path.parent.iterdir()] == ['report.html']
    for heading in (
        'Accuracy', 'Slices', 'detection: precision and recall', 'detection: found by size',
        'Confusion', 'Stability', 'Over the drive', 'Worst frames', 'Bags', 'Time', 'Left out',
        'How this was made',
    ):  # fmt: skip
        assert f'>{heading}</h2>' in text, heading
        anchor = re.search(rf'<h2 id="([^"]*)">{heading}</h2>', text)[1]
        assert f'href="#{anchor}"' in text
    assert all(
        link.startswith(('data:', '#')) for link in re.findall(r'(?:src|href)="([^"]*)"', text)
    )
    assert "default-src 'none'" in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(set(ids)) == len(ids)


def test_text_from_outside_is_text(page):
    _, text = page

    assert HOSTILE not in text
    assert unescape(text).count(HOSTILE) >= 2  # the command and the name of the bag's folder


def test_worst_frames_come_with_prediction_truth_and_errors(page, run):
    _, text = page
    shown = galleries(run, review(run))

    assert {'detection', 'drivable', 'semantic', 'timeofday'} == shown.keys()
    for name, frames in shown.items():
        assert 1 <= len(frames) <= FRAMES
        badness = [item.flaw.badness for item in frames]
        assert badness == sorted(badness, reverse=True), name
        assert min(badness) > 0
    assert text.count('alt="wrong pixels in red"') == len(shown['drivable']) + len(
        shown['semantic']
    )
    assert text.count('alt="missed red, false orange, found green"') == len(shown['detection'])
    assert shown['detection'][0].flaw.text in text


def test_frames_are_asked_for_once_and_in_order(run, tmp_path):
    asked = []

    write_report(run, lambda record: asked.append(record.key), tmp_path / 'page.html')

    there = [record.key for record in run.records()]
    assert asked == sorted(set(asked), key=there.index)
    text = (tmp_path / 'page.html').read_text()
    assert 'class="gallery"' not in text  # none could be shown: they are listed
    assert asked[0] in text


def test_a_run_that_measured_nothing_says_so(run, tmp_path):
    with RunWriter(tmp_path / 'bare', TASK_LIST) as writer:
        for record in run.records(['town']):
            bare = replace(record, pieces={}, stability=None, slices={}, timings_ms={})
            writer.add(replace(bare, tracks={}))
        bare = writer.finish({'complete': False, 'partial_reason': 'it was stopped'})

    text = write_report(bare).read_text()

    assert 'Nothing was measured' in text
    assert 'Partial run:' in text
    assert 'it was stopped' in text
    assert 'not measured' in text
    assert '0.0 %' not in text
    assert '<svg' not in text


def test_an_empty_run_still_makes_a_page(tmp_path):
    with RunWriter(tmp_path / 'empty', TASK_LIST) as writer:
        empty = writer.finish({})

    assert 'Nothing was measured' in write_report(empty).read_text()


def test_boxes_are_painted_by_what_became_of_them(run):
    record = next(iter(run.records()))
    looked = seen(record, error=0.0)
    everything = task_panels(looked, TASK_LIST[0])[-1]
    del looked.result.answers['detection']

    assert [panel.title for panel in task_panels(looked, TASK_LIST[0])] == ['predicted', 'truth']
    red, green, _ = everything.image.reshape(-1, 3).astype(int).T
    assert ((green > red + 80) & (green > 150)).any()
    assert not ((red > green + 120) & (red > 200)).any()  # nothing is missed


@pytest.mark.parametrize('dark', [False, True])
def test_the_page_lives_in_a_browser(page, tmp_path, dark):
    path, _ = page
    with Browser(tmp_path / 'profile') as browser:
        browser.open(path, dark)

        assert browser.run('document.title') == 'made_0: run'
        colour = browser.run('getComputedStyle(document.body).backgroundColor')
        assert colour == ('rgb(16, 19, 23)' if dark else 'rgb(246, 247, 249)')
        assert browser.run(LOADED)
        assert not browser.run('document.documentElement.scrollWidth > innerWidth')

        browser.click('.gallery img')
        place = 'document.querySelector(".viewer .place").textContent'
        picture = 'document.querySelector(".viewer .picture img")'
        assert browser.run('document.querySelector("dialog").open')
        assert browser.run(place).startswith('1 / ')
        assert browser.run(f'{picture}.alt') == 'predicted'
        first = browser.run(f'{picture}.src')
        browser.press('ArrowRight')
        assert browser.run(place).startswith('2 / ')
        assert browser.run(f'{picture}.src') != first
        browser.press('ArrowLeft')
        assert browser.run(f'{picture}.src') == first
        browser.press('ArrowUp')
        assert browser.run(f'{picture}.alt').startswith('missed red')
        browser.click('.viewer .tabs button:nth-of-type(2)')
        assert browser.run(f'{picture}.alt') == 'truth'
        browser.press('Escape')
        assert not browser.run('document.querySelector("dialog").open')

        assert browser.complaints() == []
        assert browser.requests() == [path.as_uri()]


def test_the_comparison_lives_in_a_browser(compare_page, tmp_path):
    path, text = compare_page
    assert 'Frames that changed most' in text
    with Browser(tmp_path / 'profile') as browser:
        browser.open(path)

        assert browser.run('document.querySelector(".verdict b").textContent') == 'COMPARED'
        assert browser.run('document.querySelectorAll("svg").length') >= 4
        browser.click('.gallery img')
        titles = browser.run(
            '[...document.querySelectorAll(".tabs button")].map(b => b.textContent)'
        )
        assert titles[:3] == ['A, predicted', 'B, predicted', 'truth']
        browser.press('ArrowDown')
        assert browser.run('document.querySelector(".viewer .picture img").alt') == 'B, predicted'

        browser.call(
            'Emulation.setDeviceMetricsOverride', width=400, height=800, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip
        assert not browser.run('document.documentElement.scrollWidth > innerWidth')
        assert browser.complaints() == []
        assert browser.requests() == [path.as_uri()]


def test_recordings_are_shown_where_they_lie(tmp_path):
    run = write_made_run(tmp_path / 'run', frames=3)
    folder = run.path / 'recordings' / 'my town#1'
    folder.mkdir(parents=True)
    with Video(folder / 'overlay.mp4', 10, 3) as video:
        for _ in range(3):
            video.add(np.full((48, 64, 3), 128, np.uint8))
    (folder / 'answers').mkdir()

    path = write_report(run)

    assert 'foxglove_replay.json' in path.read_text()
    with Browser(tmp_path / 'profile') as browser:
        browser.open(path)
        browser.wait_for('document.querySelector("video").readyState >= 1')
        assert browser.run('document.querySelector("video").videoWidth') == 64
        assert browser.complaints() == []
        asked = set(browser.requests())
    assert asked == {path.as_uri(), (folder / 'overlay.mp4').as_uri()}
