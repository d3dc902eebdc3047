"""A camera for when there is none: publishes a generated drive, again and again.

`ros2 run mtl_perception test_pattern`, or `camera:=test_pattern` in `launch/camera.launch.py`.
Topics are those of a camera driver: `image_raw` (bgr8) and `image_raw/compressed` (JPEG), each only
while somebody listens.
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
from rclpy.qos import QoSProfile
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mtl_perception import process
from mtl_perception.node import messages
from mtl_scenes import Drive, DriveConfig

FRAMES = 60
"""Length of the drive; it is rendered once (at 640x360: 40 MB) and then played to and fro."""
# Reliable connects to reliable and best-effort subscribers alike.
OUTPUT = QoSProfile(depth=5)


class PatternCamera(Node):
    """Node `test_pattern`. Parameters, read at start: width, height, rate_hz, seed, frame_id."""

    def __init__(self) -> None:
        """Declare parameters; raises rclpy's exceptions on values out of range."""
        super().__init__('test_pattern')
        rate_hz = float(self._declare('rate_hz', 10.0, 'Frames a second.', 0.1, 60.0))
        config = DriveConfig(
            seed=int(self._declare('seed', 0, 'Chooses road, traffic and weather.', 0, 2**31 - 1)),
            width=int(self._declare('width', 640, 'Pixels.', 32, 8192)),
            height=int(self._declare('height', 360, 'Pixels.', 32, 8192)),
            frames=FRAMES,
            rate_hz=rate_hz,
        )
        self._frame_id = self.declare_parameter('frame_id', 'camera').value
        self._drive = Drive(config)
        self._pictures: list[NDArray[np.uint8]] = []
        self._count = 0
        self._raw = self.create_publisher(Image, 'image_raw', OUTPUT)
        self._compressed = self.create_publisher(CompressedImage, 'image_raw/compressed', OUTPUT)
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
        if raw or compressed:
            picture = self._picture(to_and_fro(self._count, FRAMES))
            self._count += 1
            header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
            if raw:
                self._raw.publish(messages.overlay_message(header, picture))
            if compressed:
                self._compressed.publish(messages.compressed_overlay_message(header, picture))

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
    process.use_shared_memory_profile()
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
