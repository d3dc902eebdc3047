# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Letterbox geometry: the round trip, the buffer, the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_perception.letterbox import Letterbox

SIDE = st.integers(1, 4000)
INPUT_SIDE = st.integers(32, 2048)
UNIT = st.floats(0, 1, width=32)


@given(SIDE, SIDE, INPUT_SIDE, INPUT_SIDE, st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=5))
def test_boxes_survive_the_round_trip(width, height, input_width, input_height, units):
    letterbox = Letterbox.fit(width, height, input_width, input_height)
    boxes = np.array(units, np.float32).reshape(-1, 4) * np.float32([width, height] * 2)

    there = letterbox.boxes_to_input(boxes)
    back = letterbox.boxes_to_source(there)

    # float32 steps at the input's far edge, seen in source pixels
    scale = min(letterbox.scale_x, letterbox.scale_y)
    tolerance = 4 * np.spacing(np.float32(max(input_width, input_height))) / scale
    assert np.abs(back - boxes).max(initial=0) <= tolerance + 1e-6 * max(width, height)
    assert back.dtype == np.float32


@given(SIDE, SIDE, INPUT_SIDE, INPUT_SIDE)
def test_inner_area_lies_in_the_input_and_touches_two_sides(
    width, height, input_width, input_height
):
    letterbox = Letterbox.fit(width, height, input_width, input_height)

    right = letterbox.pad_left + letterbox.inner_width
    bottom = letterbox.pad_top + letterbox.inner_height
    corners = letterbox.boxes_to_input(np.array([[0, 0, width, height]], np.float32))[0]

    assert letterbox.pad_left >= 0 and right <= input_width
    assert letterbox.pad_top >= 0 and bottom <= input_height
    assert letterbox.inner_width == input_width or letterbox.inner_height == input_height
    np.testing.assert_allclose(
        corners, [letterbox.pad_left, letterbox.pad_top, right, bottom], rtol=1e-5
    )


@given(SIDE, SIDE)
def test_boxes_outside_are_clipped_to_the_source(width, height):
    letterbox = Letterbox.fit(width, height, 640, 384)

    box = letterbox.boxes_to_source(np.array([[-50, -50, 9999, 9999]], np.float32))

    np.testing.assert_array_equal(box, np.array([[0, 0, width, height]], np.float32))


@pytest.mark.parametrize('size', [(1280, 720), (480, 360), (320, 227), (360, 640), (640, 384)])
def test_apply_fills_the_inner_area_and_nothing_else(size):
    width, height = size
    letterbox = Letterbox.fit(width, height, 640, 384)
    buffer = letterbox.new_buffer((1, 2, 3))
    image = np.full((height, width, 3), 200, np.uint8)

    filled = letterbox.apply(image, buffer)

    inside = np.zeros((384, 640), bool)
    top, left = letterbox.pad_top, letterbox.pad_left
    inside[top : top + letterbox.inner_height, left : left + letterbox.inner_width] = True
    assert filled is buffer
    assert (filled[inside] == 200).all()
    assert (filled[~inside] == (1, 2, 3)).all()


def test_apply_takes_a_view_with_padded_rows():
    letterbox = Letterbox.fit(100, 50, 64, 32)
    wide = np.random.default_rng(0).integers(0, 256, (50, 120, 3), dtype=np.uint8)
    view = wide[:, :100]

    padded = letterbox.apply(view, letterbox.new_buffer()).copy()
    compact = letterbox.apply(np.ascontiguousarray(view), letterbox.new_buffer())

    np.testing.assert_array_equal(padded, compact)


def test_16_by_9_into_640_by_384():
    letterbox = Letterbox.fit(1280, 720, 640, 384)

    assert (letterbox.inner_width, letterbox.inner_height) == (640, 360)
    assert (letterbox.pad_left, letterbox.pad_top) == (0, 12)


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match='at least 1 pixel'):
        Letterbox.fit(0, 720, 640, 384)
