# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a replay leaves to look at: the video, the bag that viewers open, the Rerun recording."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from red_drive import HEIGHT, PERIOD_NS, START_NS, WIDTH, red_image, red_truth, write_red_drive

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_file import bag_info, open_bag, read_messages
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.outputs import recorded_results
from mtl_evaluation.messages.cdr import DETECTIONS, boxes_of, deserialise
from mtl_evaluation.runs.recording import RecordingError, Recordings, recorder
from mtl_evaluation.truth.truth import Truth
from mtl_perception.frame import Detections, Result, Tracks
from mtl_perception.tasks import TASKS

CONFIG = Path(__file__).resolve().parents[2] / 'config'
TASK_LIST = tuple(TASKS.values())
LIVE_ONLY = {'/diagnostics', '/camera/image_raw'}
"""Topics of the live layouts that a replay has nothing to say about."""


def answer(index: int) -> Result:
    truth = red_truth()
    boxes = truth.boxes.boxes + np.float32(0.1 * index)
    scores = np.linspace(0.9, 0.35, len(boxes)).astype(np.float32)
    probabilities = {
        task.name: np.arange(1, len(task.classes) + 1, dtype=np.float32) / 10
        for task in TASK_LIST
        if task.kind == 'classification'
    }
    found = Detections(boxes, scores, np.zeros(len(boxes), np.int64))
    rows = np.arange(3)
    tracks = Tracks(found.boxes[:3], found.scores[:3], found.labels[:3], 11 + rows, rows)
    answers = {'detection': found, **truth.masks, **probabilities}
    return Result(answers, {'detection': tracks})


def record(bag_path: Path, folder: Path, wanted: Recordings) -> None:
    with DriveBag(bag_path) as bag, recorder(wanted, folder, TASK_LIST)(bag) as watch:
        for frame in bag.frames():
            watch(frame, frame.image(), answer(frame.index), frame.truth())


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recorded')
    drive = write_red_drive(folder / 'drive', frames=5, unlabelled=1)
    record(drive, folder / 'run', Recordings(video=True, bag=True))
    return folder / 'run'


def test_the_answers_come_back_as_they_were(recorded):
    results = list(recorded_results(recorded / 'answers', TASK_LIST))

    assert [stamp for stamp, _ in results] == [START_NS + i * PERIOD_NS for i in range(5)]
    for index, (_, result) in enumerate(results):
        expected = answer(index)
        found, wanted = result.detections['detection'], expected.detections['detection']
        assert found.boxes == pytest.approx(wanted.boxes, abs=1e-4)
        assert found.scores == pytest.approx(wanted.scores)
        assert found.labels.tolist() == wanted.labels.tolist()
        for name, mask in expected.masks.items():
            assert np.array_equal(result.masks[name], mask)
        for name, values in expected.probabilities.items():
            assert result.probabilities[name] == pytest.approx(values)


def messages_of(bag: Path, topic: str, kind: str) -> list:
    reader = open_bag(bag)
    try:
        wanted = [item for item in reader.connections if item.topic == topic]
        return [deserialise(cdr, kind) for _, _, cdr in read_messages(bag, reader, wanted)]
    finally:
        reader.close()


def test_tracks_are_recorded_with_their_ids(recorded):
    messages = messages_of(recorded / 'answers', '/perception/tracks', DETECTIONS)

    assert [[item.id for item in message.detections] for message in messages] == [
        ['11', '12', '13']
    ] * 5
    boxes, names = boxes_of(messages[2])
    np.testing.assert_allclose(boxes, answer(2).tracks['detection'].boxes, atol=1e-4)
    assert names == ('pedestrian',) * 3


def test_annotations_have_the_points_of_the_boxes(recorded):
    kind = 'foxglove_msgs/msg/ImageAnnotations'
    messages = messages_of(recorded / 'answers', '/perception/annotations', kind)

    assert len(messages) == 5
    for index, message in enumerate(messages):
        expected = answer(index).detections['detection'].boxes
        outlines = message.points[: len(expected)]
        corners = np.array([[(p.x, p.y) for p in line.points] for line in outlines])
        np.testing.assert_allclose(corners.min(1), expected[:, :2])
        np.testing.assert_allclose(corners.max(1), expected[:, 2:])
        assert {line.type for line in message.points} == {2}
        stamps = {
            part.timestamp.sec * 10**9 + part.timestamp.nanosec
            for part in (*message.points, *message.texts)
        }
        assert stamps == {START_NS + index * PERIOD_NS}
        texts = [item.text for item in message.texts]
        assert texts[0] == 'pedestrian #11 0.90' and texts[3].startswith('pedestrian 0.6')
        assert any(text.startswith('weather: ') for text in texts)
        # The whole picture is drivable: one outline, along its border.
        (area,) = message.points[len(expected) :]
        points = np.array([(p.x, p.y) for p in area.points])
        assert points.min(0).tolist() == [0.5, 0.5]
        assert points.max(0).tolist() == [WIDTH - 0.5, HEIGHT - 0.5]


def test_the_answers_are_a_drive_that_can_be_replayed(recorded):
    with DriveBag(recorded / 'answers') as bag:
        frames = list(bag.frames())
        assert [camera.topic for camera in bag.cameras] == ['/camera/image_raw/compressed']
        assert len(frames) == 5
        picture = frames[0].image().pixels.astype(int)
        assert frames[0].truth().boxes.classes == red_truth().boxes.classes
        assert frames[-1].truth() == Truth()
    assert abs(picture - red_image()[..., ::-1]).mean() < 12 or (
        abs(picture - red_image()).mean() < 12
    )


def topics_of(bag: Path) -> dict[str, str]:
    reader = open_bag(bag)
    try:
        return {item.topic: item.msgtype for item in reader.connections}
    finally:
        reader.close()


def foxglove_topics(path: Path) -> dict[str, str | None]:
    """Topic -> the schema that the layout says it has, if it says so."""
    layout = json.loads(path.read_text())
    found = {}
    for config in layout['configById'].values():
        mode = config.get('imageMode', {})
        if mode:
            found[mode['imageTopic']] = mode.get('imageSchemaName')
            for topic in mode.get('annotations', {}):
                found[topic] = 'foxglove_msgs/msg/ImageAnnotations'
        for key in ('topicPath', 'topicToRender'):
            if key in config:
                found[config[key]] = None
    return found


def rviz_topics(path: Path) -> list[tuple[str, str]]:
    layout = yaml.safe_load(path.read_text())
    return [
        (item['Class'], item['Topic']['Value'])
        for item in layout['Visualization Manager']['Displays']
    ]


@pytest.mark.parametrize('name', ['foxglove_replay.json', 'foxglove_layout.json'])
def test_foxglove_layouts_show_topics_that_are_there(recorded, name):
    there = topics_of(recorded / 'answers')

    shown = foxglove_topics(CONFIG / name)

    assert len(shown) >= 4
    for topic, schema in shown.items():
        if topic not in LIVE_ONLY:
            assert topic in there, topic
            assert schema in (None, there[topic]), topic


def test_the_foxglove_layout_is_whole():
    layout = json.loads((CONFIG / 'foxglove_replay.json').read_text())
    placed = []

    def walk(node):
        if isinstance(node, str):
            placed.append(node)
            return
        assert node.keys() <= {'direction', 'first', 'second', 'splitPercentage'}
        assert node['direction'] in ('row', 'column')
        assert 0 < node.get('splitPercentage', 50) < 100
        walk(node['first'])
        walk(node['second'])

    walk(layout['layout'])
    assert sorted(placed) == sorted(layout['configById'])
    assert {panel.partition('!')[0] for panel in placed} == {'Image', 'RawMessages'}


def test_rviz_shows_topics_that_are_there(recorded):
    there = topics_of(recorded / 'answers')

    shown = rviz_topics(CONFIG / 'replay.rviz')

    assert len(shown) >= 4
    for kind, topic in shown:
        assert kind == 'rviz_default_plugins/Image'
        # RViz takes the transport from the last part of the name.
        compressed = topic.endswith('/compressed')
        expected = 'sensor_msgs/msg/CompressedImage' if compressed else 'sensor_msgs/msg/Image'
        assert there[topic] == expected


def test_masks_are_named_beside_them(recorded):
    there = topics_of(recorded / 'answers')

    for name in ('drivable', 'semantic'):
        for root in ('/perception', '/ground_truth'):
            assert there[f'{root}/{name}/label_info'] == 'vision_msgs/msg/LabelInfo'


def test_the_video_has_every_frame(recorded):
    capture = cv2.VideoCapture(str(recorded / 'overlay.mp4'))
    shapes = []
    while (read := capture.read())[0]:
        shapes.append(read[1].shape)

    assert shapes == [(HEIGHT, WIDTH, 3)] * 5
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20, rel=0.05)


def test_several_cameras_have_videos_and_topics_of_their_own(tmp_path):
    with DriveWriter(tmp_path / 'drive', cameras=('front', 'rear')) as writer:
        for index in range(3):
            for camera in ('front', 'rear'):
                writer.write_frame(
                    START_NS + index * PERIOD_NS, EncodedImage(red_image()), red_truth(),
                    camera=camera,
                )  # fmt: skip

    record(tmp_path / 'drive', tmp_path / 'run', Recordings(video=True, bag=True))

    assert {path.name for path in (tmp_path / 'run').iterdir()} == {
        'answers', 'overlay_front.mp4', 'overlay_rear.mp4'
    }  # fmt: skip
    there = topics_of(tmp_path / 'run' / 'answers')
    assert {'/perception/front/detections', '/perception/rear/detections'} <= there.keys()
    assert '/rear/ground_truth/semantic' in there
    with DriveBag(tmp_path / 'run' / 'answers') as bag:
        assert [camera.namespace for camera in bag.cameras] == ['/front', '/rear']
        assert len(list(bag.frames())) == 6


def test_a_recording_that_fails_leaves_no_half_bag(tmp_path):
    drive = write_red_drive(tmp_path / 'drive', frames=2)

    with (
        pytest.raises(RuntimeError),
        DriveBag(drive) as bag,
        recorder(Recordings(bag=True), tmp_path / 'run', TASK_LIST)(bag) as watch,
    ):
        for frame in bag.frames():
            watch(frame, frame.image(), answer(0), frame.truth())
            raise RuntimeError

    assert list((tmp_path / 'run').iterdir()) == []


def test_a_missing_rerun_is_said_before_anything_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)

    with pytest.raises(RecordingError, match='pip install rerun-sdk'):
        Recordings(rerun=True).check()
    Recordings(video=True, bag=True).check()


def test_a_rerun_recording_can_be_read_back(tmp_path):
    pytest.importorskip('rerun', reason='rerun-sdk is optional and not installed')
    drive = write_red_drive(tmp_path / 'drive', frames=4, unlabelled=1)

    record(drive, tmp_path / 'run', Recordings(rerun=True))

    path = tmp_path / 'run' / 'recording.rrd'
    shown = subprocess.run(
        [sys.executable, '-m', 'rerun', 'rrd', 'print', str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    for entity in ('/camera', '/camera/answer/detection', '/camera/truth/semantic'):
        assert entity in shown.stdout
    verified = subprocess.run(
        [sys.executable, '-m', 'rerun', 'rrd', 'verify', str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


def test_info_of_the_bag_is_that_of_the_drive(recorded):
    reader = open_bag(recorded / 'answers')
    try:
        info = bag_info(recorded / 'answers', reader)
    finally:
        reader.close()
    assert info.start_ns == START_NS
