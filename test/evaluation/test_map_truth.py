# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals: truth from topics and from files, scores, and answers in a recorded bag."""

import json

import cv2
import numpy as np
import pytest

from mtl_evaluation.bags.answers import AnswerBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.outputs import recorded_results
from mtl_evaluation.bags.truth_join import JoinedBag, truth_content
from mtl_evaluation.messages.cdr import BagError, header_of, image_message, map_message, map_of
from mtl_evaluation.pictures.frames import truth_as_result
from mtl_evaluation.scores import Scores
from mtl_evaluation.truth.class_mapping import ClassMapping
from mtl_evaluation.truth.label_files import LabelError
from mtl_evaluation.truth.truth import Truth
from mtl_evaluation.truth.truth_files import TruthFiles
from mtl_perception import overlay
from mtl_perception.annotations import annotate
from mtl_perception.frame import Result
from mtl_perception.tasks import DEPTH, NORMALS, WEATHER, Task

HEIGHT, WIDTH = 24, 32
PICTURE = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
TASKS = (DEPTH, NORMALS, WEATHER)


def maps(metres: float) -> dict[str, np.ndarray]:
    """A wall at some distance, seen from the front; its left half is unknown."""
    depth = np.full((HEIGHT, WIDTH), metres, np.float32)
    normals = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    normals[..., 2] = -1
    depth[:, : WIDTH // 2], normals[:, : WIDTH // 2] = 0, 0
    return {'depth': depth, 'normals': normals}


@pytest.fixture
def bag(tmp_path):
    """Two frames with depth and normals as ground truth."""
    with DriveWriter(tmp_path / 'drive') as writer:
        for i, metres in enumerate((4.0, 8.0)):
            truth = Truth(labels={'weather': 'clear'}, maps=maps(metres))
            writer.write_frame(i * 10**8, EncodedImage(PICTURE), truth, name=f'{i}.jpg')
    return tmp_path / 'drive'


def scored(truths, answers) -> dict:
    scores = Scores(TASKS)
    for i, (truth, answer) in enumerate(zip(truths, answers, strict=True)):
        scores.update(str(i), answer, truth, (WIDTH, HEIGHT))
    return scores.result()


def test_truth_of_topics_is_read_and_scored(bag):
    with GuardedBag(bag) as opened:
        truths = [frame.truth() for frame in opened.frames()]
    for truth, metres in zip(truths, (4.0, 8.0), strict=True):
        assert {*truth.maps} == {'depth', 'normals'} and truth.labels == {'weather': 'clear'}
        for name, expected in maps(metres).items():
            np.testing.assert_array_equal(truth.maps[name], expected)
    found = scored(truths, [Result(maps(4.0)), Result(maps(6.0))])
    assert (found['depth']['frames'], found['depth']['abs_error']) == (2, 1.0)
    assert found['depth']['delta1'] == 0.5 and found['normals']['mean_error'] < 0.01
    assert found['weather']['frames'] == 0


def test_truth_of_files_completes_a_bag(bag, tmp_path):
    for folder, values in (
        ('depth', np.full((HEIGHT, WIDTH), 400, np.uint16)),
        ('normals', np.full((HEIGHT, WIDTH, 3), (1, 32768, 32768), np.uint16)),
    ):
        (tmp_path / 'labels' / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'labels' / folder / '1.png'), values)
    files = TruthFiles([tmp_path / 'labels'])
    before = truth_content(files)
    with GuardedBag(bag) as opened:
        truths = [frame.truth() for frame in JoinedBag(opened, files).frames()]
    assert not truths[0] and {*truths[1].maps} == {'depth', 'normals'}
    assert (truths[1].maps['depth'] == 4).all()
    np.testing.assert_allclose(truths[1].maps['normals'][0, 0], (0, 0, -1), atol=1e-4)
    half = Result({'depth': np.full((HEIGHT * 2, WIDTH * 2), 4, np.float32)})
    assert scored(truths[1:], [half])['depth']['abs_error'] == 0
    cv2.imwrite(str(tmp_path / 'labels/depth/1.png'), np.zeros((2, 2), np.uint16))
    assert truth_content(files) != before


def test_a_file_of_another_form_is_one_clear_error(tmp_path):
    (tmp_path / 'depth').mkdir()
    cv2.imwrite(str(tmp_path / 'depth/1.png'), np.zeros((4, 4), np.uint8))
    (entry,) = TruthFiles([tmp_path]).entries
    with pytest.raises(LabelError, match='16 bits with one channel, found uint8'):
        entry.truth()


def test_files_of_a_models_own_tasks_are_read(tmp_path):
    tasks = (
        Task('fruit', 'detection', ('papaya', 'quince')), Task('gauge', 'segmentation', ('dial',)),
        Task('reach', 'depth'), Task('shift', 'classification', ('early', 'late')),
    )  # fmt: skip
    for folder, values in (
        ('gauge', np.zeros((HEIGHT, WIDTH), np.uint8)),
        ('reach', np.full((HEIGHT, WIDTH), 250, np.uint16)),
    ):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / '1.png'), values)
    box = {'x1': 1, 'y1': 2, 'x2': 9, 'y2': 8}
    labels = [{'category': 'quince', 'box2d': box}]
    frame = {'name': '1.jpg', 'attributes': {'shift': 'late'}, 'labels': labels}
    (tmp_path / 'frames.json').write_text(json.dumps([frame]))

    (entry,) = TruthFiles([tmp_path], tasks).entries
    truth = entry.truth()

    assert truth.boxes.classes == ('quince',) and not truth.boxes.ignore.any()
    assert {*truth.masks} == {'gauge'} and truth.labels == {'shift': 'late'}
    assert (truth.maps['reach'] == 2.5).all()
    mapped = ClassMapping.of('quince=papaya')(truth)
    assert mapped.boxes.classes == ('papaya',)
    other = (Task('fruit', 'detection', ('rake',)),)
    with pytest.raises(LabelError, match='names classes quince; fruit has rake'):
        TruthFiles([tmp_path / 'frames.json'], other)


def test_answers_are_recorded_and_read_back(tmp_path):
    answer = Result(maps(3.0))
    answer.answers['weather'] = np.array([0.1, 0.5, 0.1, 0.1, 0.1, 0.1], np.float32)
    true = truth_as_result(Truth(maps=maps(2.0)), TASKS)
    assert {*true.maps} == {'depth', 'normals'}
    painted = overlay.draw(PICTURE, answer, TASKS)
    with AnswerBag(tmp_path / 'answers', TASKS) as writer:
        shapes = annotate(answer, TASKS, HEIGHT)
        writer.add(0, PICTURE, answer, Truth(maps=maps(2.0)), painted, shapes, 'a.jpg')
    ((stamp, found),) = recorded_results(tmp_path / 'answers', TASKS)
    assert stamp == 0 and {*found.answers} == {'depth', 'normals', 'weather'}
    for name, values in maps(3.0).items():
        np.testing.assert_array_equal(found.maps[name], values)
    with GuardedBag(tmp_path / 'answers') as opened:
        (frame,) = opened.frames()
        np.testing.assert_array_equal(frame.truth().maps['depth'], maps(2.0)['depth'])


def test_depth_cameras_speak_millimetres_and_leave_holes():
    header = header_of(0)
    millimetres = np.array([[1500, 0]], np.uint16)
    np.testing.assert_allclose(map_of(image_message(header, millimetres, '16UC1')), [[1.5, 0]])
    holes = np.array([[np.nan, 2.0]], np.float32)
    np.testing.assert_array_equal(map_of(map_message(header, holes)), [[0, 2]])
    with pytest.raises(BagError, match=r'expected an image of 32FC1, 16UC1, 32FC3, found .mono8'):
        map_of(image_message(header, np.zeros((2, 2), np.uint8), 'mono8'))
