# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A camera for when there is none: publishes a generated drive, again and again.

`ros2 run mtl_perception test_pattern`, or `camera:=test_pattern` in `launch/camera.launch.py`.
Topics are those of a camera driver: `image_raw` (bgr8) and `image_raw/compressed` (JPEG), each only
while subscribed, and `camera_info` with every image. Where the message type is installed, the mount
of the camera above the road is on `/tf_static`, from `base_link` (REP 105) to the camera's optical
frame (REP 103), so that the node can be tried with `base_frame:=base_link`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import rclpy
from numpy.typing import NDArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from mtl_perception import process, shared_memory
from mtl_perception.geometry import Mount
from mtl_perception.node import messages
from mtl_perception.transforms import quaternion_of
from mtl_scenes import Drive, DriveConfig

FRAMES = 60
"""Length of the drive; it is rendered once (at 640x360: 40 MB) and then played to and fro."""
# Reliable connects to reliable and best-effort subscribers alike.
OUTPUT = QoSProfile(depth=5)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BASE_FRAME = 'base_link'
"""On the road below the camera."""


class PatternCamera(Node):
    """Node `test_pattern`. Parameters, read at start: width, height, rate_hz, seed, frame_id."""

    def __init__(self) -> None:
        """Declare parameters; raises rclpy's exceptions on values out of range."""
        super().__init__('test_pattern')
        rate_hz = float(self._declare('rate_hz', 10.0, 'Frames per second.', 0.1, 60.0))
        config = DriveConfig(
            seed=int(self._declare('seed', 0, 'Chooses road, traffic and weather.', 0, 2**31 - 1)),
            width=int(self._declare('width', 640, 'Pixels.', 32, 8192)),
            height=int(self._declare('height', 360, 'Pixels.', 32, 8192)),
            frames=FRAMES,
            rate_hz=rate_hz,
        )
        self._frame_id = self.declare_parameter('frame_id', 'camera_optical').value
        self._drive = Drive(config)
        self._pictures: list[NDArray[np.uint8]] = []
        self._count = 0
        self._raw = self.create_publisher(Image, 'image_raw', OUTPUT)
        self._compressed = self.create_publisher(CompressedImage, 'image_raw/compressed', OUTPUT)
        self._info = self.create_publisher(CameraInfo, 'camera_info', OUTPUT)
        self._publish_mount()
        self.create_timer(1 / rate_hz, self._publish)
        self.get_logger().info(
            f'a generated drive, {config.width}x{config.height} at {rate_hz:g} Hz, on '
            f'{self._raw.topic_name}'
        )

    def _declare(
        self, name: str, default: float, description: str, low: float, high: float
    ) -> float:
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        value: float = self.declare_parameter(name, default, descriptor).value
        return value

    def _publish(self) -> None:
        raw = self._raw.get_subscription_count()
        compressed = self._compressed.get_subscription_count()
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        self._info.publish(self._camera_info(header))
        if raw or compressed:
            picture = self._picture(to_and_fro(self._count, FRAMES))
            self._count += 1
            if raw:
                self._raw.publish(messages.overlay_message(header, picture))
            if compressed:
                self._compressed.publish(messages.compressed_overlay_message(header, picture))

    def _camera_info(self, header: Header) -> CameraInfo:
        """Of a lens without distortion."""
        camera, config = self._drive.camera, self._drive.config
        k = [camera.focal, 0, camera.centre_x, 0, camera.focal, camera.centre_y, 0, 0, 1]
        return CameraInfo(
            header=header, width=config.width, height=config.height, distortion_model='plumb_bob',
            d=[0.0] * 5, k=np.array(k, np.float64), r=np.eye(3).reshape(-1),
            p=np.insert(np.array(k, np.float64), (3, 6, 9), 0.0),
        )  # fmt: skip

    def _publish_mount(self) -> None:
        try:
            from geometry_msgs.msg import TransformStamped
            from tf2_msgs.msg import TFMessage
        except ImportError:  # the camera is as good without
            return
        camera = self._drive.camera
        mount = Mount.of(camera.height_m, pitch=camera.pitch)
        found = TransformStamped(child_frame_id=self._frame_id)
        found.header = Header(stamp=self.get_clock().now().to_msg(), frame_id=BASE_FRAME)
        found.transform.translation.z = mount.height_m
        turn = found.transform.rotation
        turn.x, turn.y, turn.z, turn.w = quaternion_of(mount.matrix)
        self._tf = self.create_publisher(TFMessage, '/tf_static', LATCHED)
        self._tf.publish(TFMessage(transforms=[found]))

    def _picture(self, index: int) -> NDArray[np.uint8]:
        """Frame of the drive, RGB; the first time round each is rendered when it is due."""
        while len(self._pictures) <= index:
            self._pictures.append(self._drive[len(self._pictures)].image)
        return self._pictures[index]


def to_and_fro(count: int, length: int) -> int:
    """Index below `length` for every count from 0: up to the end, back to the start, and again."""
    step = count % max(2 * length - 2, 1)
    return min(step, 2 * length - 2 - step)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM: exit code 0. Bad arguments or parameters: 2, a sentence."""
    process.tune_allocator()
    shared_memory.use_profile()
    try:
        rclpy.init(args=None if argv is None else list(argv))
        node = PatternCamera()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except (RuntimeError, ValueError, rclpy.exceptions.ParameterException) as error:
        print(f'test_pattern: cannot start: {error}', file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()
    node.destroy_node()
    try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
