# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Frames: chains up and down, loops, rubbish; quaternions against OpenCV's rotations."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from mtl_perception.transforms import (
    TransformError,
    TransformTree,
    quaternion_of,
    rotation_of,
)

HALF = math.sqrt(0.5)
NO_TURN = (0.0, 0.0, 0.0, 1.0)


def test_a_chain_and_a_branch():
    tree = TransformTree()
    tree.put('base_link', 'mast', (1.0, 0.0, 2.0), (0.0, 0.0, HALF, HALF))  # 90 degrees to the left
    tree.put('mast', 'camera', (1.0, 0.0, 0.0), NO_TURN)
    tree.put('base_link', 'wheel', (0.0, -1.0, 0.3), NO_TURN)

    np.testing.assert_allclose(
        tree.lookup('base_link', 'camera') @ [0, 0, 0, 1], [1, 1, 2, 1], atol=1e-12
    )
    np.testing.assert_allclose(
        tree.lookup('wheel', 'camera') @ [1, 0, 0, 1], [1, 3, 1.7, 1], atol=1e-12
    )
    np.testing.assert_allclose(tree.lookup('camera', 'camera'), np.eye(4))
    np.testing.assert_allclose(
        tree.lookup('camera', 'wheel') @ tree.lookup('wheel', 'camera'), np.eye(4), atol=1e-12
    )


def test_the_newest_transform_counts_and_a_leading_slash_does_not():
    tree = TransformTree()
    tree.put('/base_link', 'camera', (1.0, 0.0, 1.0), NO_TURN)
    tree.put('base_link', '/camera', (1.0, 0.0, 1.5), NO_TURN)

    assert tree.lookup('base_link', '/camera')[2, 3] == 1.5


def test_what_is_not_connected_is_said():
    tree = TransformTree()
    with pytest.raises(TransformError, match='no transform has come'):
        tree.lookup('base_link', 'camera')
    tree.put('map', 'base_link', (0.0, 0.0, 0.0), NO_TURN)
    tree.put('rig', 'camera', (0.0, 0.0, 0.0), NO_TURN)
    with pytest.raises(TransformError, match=r"'camera' with 'base_link'.*'rig'.*'map'"):
        tree.lookup('base_link', 'camera')


def test_rubbish_is_not_taken_and_a_loop_ends():
    tree = TransformTree()
    assert not tree.put('a', 'b', (math.nan, 0.0, 0.0), NO_TURN)
    assert not tree.put('a', 'b', (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    assert not tree.put('a', 'a', (0.0, 0.0, 0.0), NO_TURN)
    tree.put('a', 'b', (0.0, 0.0, 0.0), NO_TURN)
    tree.put('b', 'a', (0.0, 0.0, 0.0), NO_TURN)
    with pytest.raises(TransformError):
        tree.lookup('c', 'a')


def test_quaternions_are_rotations():
    for vector in np.random.default_rng(0).normal(0, 2, (50, 3)):
        rotation = cv2.Rodrigues(vector)[0]
        quaternion = quaternion_of(rotation)
        np.testing.assert_allclose(rotation_of(np.array(quaternion)), rotation, atol=1e-12)
    assert quaternion_of(np.eye(3)) == NO_TURN
