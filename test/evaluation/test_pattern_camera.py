# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The test pattern's camera_info and mount are those of the drive that it plays."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')

import live_node
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image

from mtl_evaluation.live.test_pattern import PatternCamera
from mtl_perception.camera_model import CameraModel

pytestmark = pytest.mark.ros


def test_every_image_has_a_camera_info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in live_node.private_ros_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    rclpy.init(args=['--ros-args', '-p', 'width:=64', '-p', 'height:=48', '-p', 'rate_hz:=20.0'])
    camera, peer = PatternCamera(), rclpy.create_node('peer')
    executor = SingleThreadedExecutor()
    images: list[Image] = []
    infos: list[CameraInfo] = []
    for node in (camera, peer):
        executor.add_node(node)
    peer.create_subscription(Image, '/image_raw', images.append, 10)
    peer.create_subscription(CameraInfo, '/camera_info', infos.append, 10)
    for _ in range(2000):
        executor.spin_once(timeout_sec=0.02)
        if len(images) >= 3 and images[2].header in [info.header for info in infos]:
            break
    lens = camera._drive.camera
    for node in (camera, peer):
        node.destroy_node()
    rclpy.shutdown()

    header = images[2].header
    assert header in [info.header for info in infos]
    assert header.frame_id == 'camera_optical'
    for rectified in (False, True):
        model = CameraModel.from_info(infos[-1], rectified)
        assert (model.width, model.height, model.model) == (64, 48, 'pinhole')
        assert (model.fx, model.cx, model.cy) == (lens.focal, lens.centre_x, lens.centre_y)
