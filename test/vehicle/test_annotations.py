# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The shapes that a viewer draws, and the message that carries them."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_perception.annotations import MOST_POINTS, annotate, as_message
from mtl_perception.frame import Detections, Result, Tracks
from mtl_perception.tasks import DETECTION, DRIVABLE, TASKS, Task

ALL = tuple(TASKS.values())


def boxes(*rows: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_a_box_is_a_loop_of_its_corners_with_class_id_and_score():
    found = boxes((200, 100, 400, 300.5, 0.9, 2), (10, 20, 30, 40, 0.5, 0))
    row = np.array([0])
    tracks = Tracks(found.boxes[row], found.scores[row], found.labels[row], np.array([7]), row)

    shapes = annotate(Result({'detection': found}, {'detection': tracks}), ALL, 720)

    assert shapes.boxes[0].points.tolist() == [[200, 100], [400, 100], [400, 300.5], [200, 300.5]]
    assert shapes.boxes[0].colour == DETECTION.colours[2]
    assert [item.text for item in shapes.captions] == ['car #7 0.90', 'pedestrian 0.50']
    assert (shapes.captions[0].x, shapes.captions[0].y) == (200, 100)
    assert shapes.areas == []


def test_areas_are_outlined_at_their_border_and_background_is_not():
    mask = np.full((180, 320), 2, np.uint8)
    mask[100:160, 40:200] = 0
    mask[120:140, 80:120] = 2
    mask[5:8, 5:8] = 1

    shapes = annotate(Result({'drivable': mask}), ALL, 180)

    outer, hole = shapes.areas
    assert outer.colour == hole.colour == DRIVABLE.colours[0]
    assert [outer.points.min(0).tolist(), outer.points.max(0).tolist()] == [
        [40.5, 100.5], [199.5, 159.5],
    ]  # fmt: skip
    assert hole.points.min(0) == pytest.approx([80, 120], abs=1)
    assert annotate(Result({'drivable': mask}), ALL, 180, None).areas == []


def test_a_mask_of_noise_has_a_bounded_number_of_points():
    noise = np.random.default_rng(1).integers(0, 3, (720, 1280)).astype(np.uint8)
    blocks = noise[:48, :80].repeat(15, 0).repeat(16, 1)

    for mask in (noise, blocks):
        shapes = annotate(Result({'drivable': mask}), ALL, 720)
        assert sum(len(line.points) for line in shapes.areas) <= MOST_POINTS


def test_nothing_known_is_nothing_drawn():
    shapes = annotate(Result(), ALL, 720)

    assert (shapes.boxes, shapes.areas, shapes.captions) == ([], [], [])


def test_a_task_without_colours_has_boxes_and_no_areas():
    tasks = (Task('things', 'detection', ('a',)), Task('ground', 'segmentation', ('b', 'c')))
    result = Result({'things': boxes((0, 0, 9, 9, 1, 0)), 'ground': np.ones((20, 20), np.uint8)})

    shapes = annotate(result, tasks, 20)

    assert len(shapes.boxes) == 1 and shapes.areas == []


@pytest.mark.ros
def test_the_ros_message_comes_back_from_its_bytes():
    foxglove = pytest.importorskip('foxglove_msgs.msg', reason='make setup builds it')
    from builtin_interfaces.msg import Time
    from rclpy.serialization import deserialize_message, serialize_message

    found = boxes((200.25, 100, 400, 300, 0.9, 2))
    mask = np.full((180, 320), 2, np.uint8)
    mask[100:160, 40:200] = 0
    probabilities = {'weather': np.eye(6, dtype=np.float32)[2]}
    result = Result({'detection': found, 'drivable': mask, **probabilities})
    shapes = annotate(result, ALL, 180)

    made = as_message(shapes, Time(sec=12, nanosec=34), lambda name: getattr(foxglove, name))
    message = deserialize_message(serialize_message(made), foxglove.ImageAnnotations)

    corners = [(point.x, point.y) for point in message.points[0].points]
    assert corners == [(200.25, 100), (400, 100), (400, 300), (200.25, 300)]
    assert len(message.points) == 2 and message.points[1].type == message.points[1].LINE_LOOP
    assert [item.text for item in message.texts] == ['car 0.90', 'weather: clear 100%']
    parts = (*message.points, *message.texts)
    assert {(part.timestamp.sec, part.timestamp.nanosec) for part in parts} == {(12, 34)}
    colour = message.points[0].outline_color
    assert [colour.r, colour.g, colour.b, colour.a] == pytest.approx(
        [*(np.array(DETECTION.colours[2]) / 255), 1]
    )
