# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a person sees: it is there, in its place and colour, and odd input does no harm."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_perception.frame import Detections, Result, Tracks
from mtl_perception.kinds.detection import box_text
from mtl_perception.overlay import draw
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, TASKS, Task

ALL = tuple(TASKS.values())
SIZES = [(360, 640), (720, 1280)]


def grey(height=360, width=640):
    return np.full((height, width, 3), 100, np.uint8)


def boxes(*rows):
    """Rows of (x1, y1, x2, y2, score, class id)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_the_frame_itself_is_not_touched():
    image = grey()
    result = Result({'detection': boxes((10, 50, 300, 300, 0.9, 2))})

    painted = draw(image, result, ALL)

    assert (image == 100).all()
    assert painted.shape == image.shape and painted.dtype == np.uint8 and painted is not image


def test_an_empty_result_changes_nothing():
    np.testing.assert_array_equal(draw(grey(), Result(), ALL), grey())


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_a_box_has_its_class_colour_on_its_edges_and_nothing_inside(height, width):
    result = Result({'detection': boxes((200, 100, 400, 300, 0.9, 2))})

    painted = draw(grey(height, width), result, ALL)

    car = DETECTION.colours[2]
    for y, x in [(200, 200), (200, 400), (300, 300)]:
        np.testing.assert_allclose(painted[y, x], car, atol=40)
    assert (painted[150:280, 210:390] == 100).all()


def test_a_label_stands_above_its_box_or_in_it_at_the_upper_border():
    above = draw(grey(), Result({'detection': boxes((200, 100, 400, 300, 0.9, 2))}), ALL)
    within = draw(grey(), Result({'detection': boxes((200, 2, 400, 300, 0.9, 2))}), ALL)

    assert (above[88:98, 205:240] != 100).any() and (above[105:115, 205:240] == 100).all()
    assert (within[5:12, 205:240] != 100).any()


def test_a_label_does_not_cover_a_stronger_one():
    strong = boxes((200, 100, 400, 300, 0.9, 2))
    both = boxes((200, 100, 400, 300, 0.9, 2), (202, 102, 398, 298, 0.5, 9))

    one = draw(grey(), Result({'detection': strong}), ALL)
    two = draw(grey(), Result({'detection': both}), ALL)

    np.testing.assert_array_equal(one[85:99], two[85:99])


def test_drivable_is_tinted_and_its_background_is_not():
    mask = np.full((360, 640), 2, np.uint8)
    mask[200:, :320] = 0
    mask[200:, 320:] = 1

    painted = draw(grey(), Result({'drivable': mask}), ALL)

    assert (painted[:190] == 100).all()
    direct, alternative = DRIVABLE.colours[:2]
    expected = 100 * 0.58 + 0.42 * np.array(direct)
    np.testing.assert_allclose(painted[280, 160], expected, atol=1)
    expected = 100 * 0.58 + 0.42 * np.array(alternative)
    np.testing.assert_allclose(painted[280, 480], expected, atol=1)


def test_unlabelled_pixels_are_not_tinted():
    mask = np.full((360, 640), 255, np.uint8)

    np.testing.assert_array_equal(draw(grey(), Result({'semantic': mask}), ALL), grey())


def test_a_mask_without_colours_is_left_out():
    task = Task('plain', 'segmentation', ('a', 'b'))
    result = Result({'plain': np.ones((360, 640), np.uint8)})

    assert (draw(grey(), result, [task]) == 100).all()


def test_the_mask_to_paint_can_be_chosen():
    drivable = np.zeros((360, 640), np.uint8)
    semantic = np.full((360, 640), 10, np.uint8)
    result = Result({'semantic': semantic, 'drivable': drivable})

    def at_centre(choice):
        return draw(grey(), result, ALL, choice)[180, 320].astype(int)

    sky = 100 * 0.58 + 0.42 * np.array(SEMANTIC.colours[10])
    direct = 100 * 0.58 + 0.42 * np.array(DRIVABLE.colours[0])
    np.testing.assert_allclose(at_centre('auto'), direct, atol=1)
    np.testing.assert_allclose(at_centre('semantic'), sky, atol=1)
    np.testing.assert_array_equal(at_centre(None), [100] * 3)
    np.testing.assert_array_equal(at_centre('not there'), [100] * 3)


def test_scene_labels_and_status_are_written_in_their_corners():
    probabilities = {'weather': np.array([0, 0, 0.9, 0.1, 0, 0], np.float32)}

    painted = draw(grey(), Result(probabilities), ALL, status='30 fps')

    changed = (painted != 100).any(axis=2)
    assert changed[:20, :60].any() and changed[-20:, :60].any()
    assert not changed[40:300].any() and not changed[:, 400:].any()


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (8, 8), (40, 2000), (2000, 40)])
def test_tiny_and_odd_frames_do_no_harm(height, width):
    result = Result(
        {
            'detection': boxes((0, 0, width, height, 0.9, 0), (0, 0, 1, 1, 0.1, 9)),
            'drivable': np.zeros((height, width), np.uint8),
            'weather': np.eye(6, dtype=np.float32)[2],
        }
    )

    assert draw(grey(height, width), result, ALL, status='x' * 200).shape == (height, width, 3)


def test_a_view_with_padded_rows_is_taken():
    wide = np.full((360, 700, 3), 100, np.uint8)
    result = Result({'detection': boxes((10, 50, 300, 300, 0.9, 2))})

    np.testing.assert_array_equal(draw(wide[:, :640], result, ALL), draw(grey(), result, ALL))


def test_the_id_of_a_track_is_written_at_its_box():
    found = boxes((200, 100, 400, 300, 0.9, 2), (420, 100, 620, 300, 0.8, 2))
    second = np.array([1])
    tracks = Tracks(
        found.boxes[second], found.scores[second], found.labels[second], np.array([7]), second
    )

    plain = draw(grey(), Result({'detection': found}), ALL)
    numbered = draw(grey(), Result({'detection': found}, tracks={'detection': tracks}), ALL)

    changed = (plain != numbered).any(axis=2)
    assert changed[85:99, 420:].any() and not changed[:, :420].any()
    assert box_text('car', 0.9, 7) == 'car #7 0.90'
    assert box_text('car', float('nan')) == 'car'


def test_depth_and_normals_are_painted_where_they_are_chosen():
    metres = np.zeros((360, 640), np.float32)
    metres[:, 320:480], metres[:, 480:] = 2, 60
    vectors = np.zeros((360, 640, 3), np.float32)
    vectors[:, 320:, 2] = -1
    result = Result({'depth': metres, 'normals': vectors})

    depth = draw(grey(), result, ALL, 'depth').astype(int)
    normals = draw(grey(), result, ALL, 'normals').astype(int)

    near, far = depth[200, 400], depth[200, 600]
    assert near[0] > near[2] and far[2] > far[0]
    assert normals[200, 400, 2] < normals[200, 400, 0]
    for painted in (depth, normals):
        assert (painted[:, :320] == 100).all()
    np.testing.assert_array_equal(draw(grey(), result, ALL), grey())
