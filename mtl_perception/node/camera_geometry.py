# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the node knows of one camera's geometry: its newest CameraInfo, and where it is mounted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from mtl_perception.camera_model import CameraModel, GeometryError, info_topic, is_rectified
from mtl_perception.geometry import Mount
from mtl_perception.node.endpoints import create_subscription
from mtl_perception.node.parameters import ParameterError, Parameters
from mtl_perception.node.transforms import TransformListener
from mtl_perception.objects import Deviations
from mtl_perception.transforms import TransformError

QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Connects to every driver, as the images do."""


@dataclass(frozen=True)
class View:
    """The geometry of one frame; frame_id: where places are given, '' for the image's own frame."""

    camera: CameraModel
    mount: Mount
    frame_id: str

    def header(self, image: Header) -> Header:
        """Of messages about places: the image's, in the frame of the places."""
        return Header(stamp=image.stamp, frame_id=self.frame_id) if self.frame_id else image


@dataclass(frozen=True)
class Geometry:
    """What the parameters say about the mount, for all cameras of a node.

    mount: by height and angles; None where it comes from tf, or is not known at all.
    """

    mount: Mount | None
    base_frame: str
    rectification: str
    deviations: Deviations

    @classmethod
    def of(cls, p: Parameters) -> Geometry:
        """Raises ParameterError on a mount that is none."""
        mount = None
        if p.camera_height_m > 0 and not p.base_frame:
            try:
                mount = Mount.of(p.camera_height_m, p.camera_roll_rad, p.camera_pitch_rad)
            except GeometryError as error:
                raise ParameterError(str(error)) from error
        deviations = Deviations(p.foot_std, p.tilt_std_rad)
        return cls(mount, p.base_frame, p.rectification, deviations)


class CameraGeometry:
    """One camera: subscribes to its `camera_info`, answers with the view of a frame.

    fault: why the last frame had none, '' where it had. Fed by the executor's thread, asked by the
    worker's.
    """

    def __init__(
        self,
        node: Node,
        image_topic: str,
        settings: Geometry,
        transforms: TransformListener | None,
    ) -> None:
        """image_topic: resolved; transforms: where the settings name a base frame."""
        self.settings = settings
        self.topic = info_topic(image_topic)
        self.fault = ''
        self._node = node
        self._rectified = settings.rectification == 'rectified' or (
            settings.rectification == 'auto' and is_rectified(image_topic)
        )
        self._transforms = transforms
        self._subscription: Subscription | None = None
        self._newest: CameraInfo | None = None
        self._models: dict[Any, CameraModel] = {}

    def listen(self) -> None:
        """Take in camera_info from now on."""
        self._subscription = create_subscription(
            self._node, CameraInfo, self.topic, self._take, QOS
        )

    def stop(self) -> None:
        """Take in none any more."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def view(self, header: Header, width: int, height: int) -> View | None:
        """Geometry of an image of that size; None, with the reason in `fault`, where there is none.

        Where a camera is not mounted as the parameters say, or its camera_info does not fit the
        image, no place is better than a wrong one.
        """
        try:
            camera, mount = self.camera(width, height), self._mount(header)
        except (GeometryError, TransformError) as error:
            self.fault = str(error)
            return None
        self.fault = ''
        return View(camera, mount, self.settings.base_frame)

    def camera(self, width: int, height: int) -> CameraModel:
        """Model for images of that size; raises GeometryError."""
        info = self._newest
        if info is None:
            raise GeometryError(
                f'no camera_info on {self.topic} yet; start the driver with a calibration, or '
                f'remap it there'
            )
        roi = info.roi
        key = (
            width, height, info.width, info.height, info.distortion_model, tuple(info.d),
            tuple(info.k), tuple(info.r), tuple(info.p), info.binning_x, info.binning_y,
            roi.x_offset, roi.y_offset, roi.width, roi.height,
        )  # fmt: skip
        if key not in self._models:
            found = CameraModel.from_info(info, self._rectified).for_image(width, height)
            self._models = {key: found}
        return self._models[key]

    def _mount(self, header: Header) -> Mount:
        settings = self.settings
        if self._transforms is not None:
            transform = self._transforms.tree.lookup(settings.base_frame, header.frame_id)
            return Mount.from_transform(transform)
        if settings.mount is None:
            raise GeometryError(
                'where the camera is above the road is not known: set camera_height_m (and '
                'camera_pitch_rad, camera_roll_rad), or base_frame for tf'
            )
        return settings.mount

    def _take(self, info: CameraInfo) -> None:
        self._newest = info
