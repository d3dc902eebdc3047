# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a semantic costmap layer needs beside a mask: how sure it is, and where its pixels are.

`~/<task>/confidence` (mono8, 255 = sure) and `~/<task>/points` (an organised PointCloud2 in the
frame of the image), both of the mask's size and with its header, each only while subscribed: the
contract of Nav2's semantic segmentation layer (`config/nav2_semantic_layer.yaml`).
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from mtl_perception import kinds
from mtl_perception.camera_model import GeometryError
from mtl_perception.frame import Frame, Result
from mtl_perception.node import messages
from mtl_perception.node.camera_geometry import CameraGeometry
from mtl_perception.node.endpoints import create_publisher, create_subscription
from mtl_perception.points import Points, depth_points, ground_points
from mtl_perception.tasks import Task
from mtl_perception.transforms import TransformError

OUTPUT = QoSProfile(depth=2)
INPUT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
DEPTH_TOLERANCE_S = 0.05
"""How far the stamp of a depth image may be from that of the image."""
DEPTHS_KEPT = 8
METRES = {'32FC1': 1.0, '16UC1': 0.001}
"""Metres a unit by encoding (REP 118)."""


@dataclass(frozen=True)
class Requested:
    """Segmentation tasks whose confidences and points have subscribers."""

    confidences: frozenset[str] = frozenset()
    points: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.confidences or self.points)


class CameraNavigation:
    """One camera's confidences and points.

    fault: why points that are subscribed to could not be made of the last frame; '' otherwise.
    """

    def __init__(
        self,
        node: Node,
        prefix: str,
        tasks: Sequence[Task],
        with_logits: Collection[str],
        geometry: CameraGeometry,
        source: str,
    ) -> None:
        """Create the publishers below `prefix`.

        with_logits: tasks whose confidence can be known. source: of points, by the parameter
        `points_source`.
        """
        self.fault = ''
        self._node = node
        self._geometry = geometry
        self._prefix = prefix
        self._depth_task = next((task.name for task in tasks if kinds.of(task).is_depth), '')
        self._source = source
        if source == 'auto':
            self._source = 'depth' if self._depth_task else 'ground'
        masks = [task.name for task in tasks if kinds.of(task).is_mask]
        self._confidences: dict[str, Publisher] = {
            name: create_publisher(node, Image, f'{prefix}{name}/confidence', OUTPUT)
            for name in masks
            if name in with_logits
        }
        self._points: dict[str, Publisher] = {
            name: create_publisher(node, PointCloud2, f'{prefix}{name}/points', OUTPUT)
            for name in masks
        }
        self._depths: deque[Image] = deque(maxlen=DEPTHS_KEPT)
        self._subscription: Subscription | None = None
        self._bytes: tuple[Points, array[int]] | None = None

    def listen(self) -> None:
        """Take in depth images, where points come from them."""
        if self._source == 'topic':
            self._subscription = create_subscription(
                self._node, Image, f'{self._prefix}depth_image', self._depths.append, INPUT
            )

    def stop(self) -> None:
        """Take in none any more."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def requested(self) -> Requested:
        """What is subscribed to."""
        return Requested(_subscribed(self._confidences), _subscribed(self._points))

    def needs(self, requested: Requested) -> frozenset[str]:
        """Tasks to compute for these: their masks, and the depth that points come from."""
        depth = {self._depth_task} if requested.points and self._source == 'depth' else set()
        return requested.confidences | requested.points | (depth - {''})

    def publish(self, header: Header, frame: Frame, result: Result, requested: Requested) -> None:
        """Send what is requested of a frame, with its header."""
        self.fault = ''
        for name in sorted(requested.confidences & result.confidences.keys()):
            confidence = result.confidences[name]
            self._confidences[name].publish(messages.mask_message(header, confidence))
        if requested.points:
            try:
                points = self._points_of(header, frame, result)
            except (GeometryError, TransformError) as error:
                self.fault = f'no points of pixels: {error}'
                return
            message = self._cloud(header, points)
            for name in sorted(requested.points):
                self._points[name].publish(message)

    @property
    def publishers(self) -> list[Publisher]:
        """All of them."""
        return [*self._confidences.values(), *self._points.values()]

    def _points_of(self, header: Header, frame: Frame, result: Result) -> Points:
        height, width = frame.pixels.shape[:2]
        if self._source == 'ground':
            view = self._geometry.view(header, width, height)
            if view is None:
                raise GeometryError(self._geometry.fault)
            return ground_points(view.camera, view.mount)
        camera = self._geometry.camera(width, height)
        if self._source == 'topic':
            return depth_points(self._depth_near(header, width, height), camera)
        if self._depth_task not in result.maps:
            raise GeometryError('the model has no depth task: set points_source to ground or topic')
        return depth_points(result.maps[self._depth_task], camera)

    def _depth_near(self, header: Header, width: int, height: int) -> NDArray[np.float32]:
        """Metres of the depth image with the image's stamp, or the nearest one."""
        wanted = _seconds(header)
        depths = {abs(_seconds(image.header) - wanted): image for image in tuple(self._depths)}
        apart_s = min(depths, default=np.inf)
        if apart_s > DEPTH_TOLERANCE_S:
            raise GeometryError(
                f'no depth image within {DEPTH_TOLERANCE_S:g} s of the image on '
                f'{self._prefix}depth_image'
            )
        return depth_of(depths[apart_s], width, height)

    def _cloud(self, header: Header, points: Points) -> PointCloud2:
        """An organised cloud; the bytes of points that do not change are made once."""
        height, width = points.shape[:2]
        if self._bytes is None or self._bytes[0] is not points:
            data = array('B')
            data.frombytes(np.ascontiguousarray(points).data.cast('B'))
            self._bytes = points, data
        fields = [
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate('xyz')
        ]
        cloud = PointCloud2(
            header=header, height=height, width=width, fields=fields, point_step=12,
            row_step=12 * width, is_dense=False, is_bigendian=sys.byteorder == 'big',
        )  # fmt: skip
        cloud.data = self._bytes[1]
        return cloud


def depth_of(image: Image, width: int, height: int) -> NDArray[np.float32]:
    """Metres [height, width] of a 32FC1 or 16UC1 image; raises GeometryError."""
    metres = METRES.get(image.encoding)
    if metres is None or (image.width, image.height) != (width, height):
        raise GeometryError(
            f'depth image is {image.encoding} {image.width}x{image.height}, expected '
            f'{" or ".join(METRES)} {width}x{height}, registered to the image'
        )
    order = '>' if image.is_bigendian else '<'
    dtype = np.dtype(f'{order}f4' if image.encoding == '32FC1' else f'{order}u2')
    if image.step < width * dtype.itemsize or len(image.data) != image.step * height:
        raise GeometryError(
            f'depth image has {len(image.data)} bytes in rows of {image.step}, expected {height} '
            f'rows of at least {width * dtype.itemsize}'
        )
    strides = (image.step, dtype.itemsize)
    values: NDArray[np.generic] = np.ndarray(
        (height, width), dtype, np.frombuffer(image.data, np.uint8), 0, strides
    )
    return values.astype(np.float32) * np.float32(metres)


def _subscribed(outputs: dict[str, Publisher]) -> frozenset[str]:
    return frozenset(name for name, output in outputs.items() if output.get_subscription_count())


def _seconds(header: Header) -> float:
    return float(header.stamp.sec + header.stamp.nanosec * 1e-9)
