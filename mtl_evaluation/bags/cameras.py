# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which topics of a bag are cameras, and which ground truth is theirs: the rules of `bag.py`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rosbags.interfaces import Connection

from mtl_evaluation import kinds
from mtl_evaluation.messages.cdr import (
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    OBJECTS,
    POSE,
    TRUTH,
    BagError,
)
from mtl_perception import kinds as vehicle
from mtl_perception.camera_model import CameraModel, info_topic
from mtl_perception.tasks import TASKS
from mtl_perception.text import one_line

COMPRESSED = '/compressed'
TRUTH_TYPES = {'detections': DETECTIONS, 'objects': OBJECTS, 'camera_pose': POSE}
"""Type by name of a ground-truth topic, where it is not the one of its task."""
OTHER_TRANSPORTS = ('/compressedDepth', '/theora', '/zstd')
OTHER_SENSORS = {'depth', 'disparity', 'infra', 'infrared', 'ir', 'thermal', 'confidence'}
"""Words in the topics of a stereo or depth camera that are no picture for this network."""
OURS = '/perception/'
"""What the node publishes is no camera."""


@dataclass(frozen=True)
class Camera:
    """One image topic of a bag and what goes with it.

    frames: image messages that the bag's index promises. truth: ground-truth topic -> what it holds
    (`detections`, `drivable`, `scene/weather`). encoding, as `bgr8` or `jpeg`, and size, width and
    height: of the first image; (0, 0) where it cannot be decoded. model: by the first CameraInfo
    (of a frame: by its own), None where there is none that can be used, which model_note explains.
    """

    topic: str
    msgtype: str
    frames: int
    truth: Mapping[str, str]
    encoding: str = ''
    size: tuple[int, int] = (0, 0)
    model: CameraModel | None = None
    model_note: str = 'no CameraInfo'

    @property
    def namespace(self) -> str:
        """`/camera` of `/camera/image_raw`."""
        return namespace_of(self.topic)

    @property
    def name_topic(self) -> str:
        """Where the names of the images stand, if they were recorded."""
        return f'{self.namespace}/image_name'

    @property
    def info_topic(self) -> str:
        """Where its CameraInfo stands."""
        return info_topic(self.topic)


class CameraBag:
    """What bags have in common, however they are read. cameras: those read, in topic order."""

    path: Path
    cameras: tuple[Camera, ...]

    @property
    def frames_total(self) -> int:
        """Frames of all cameras that the bag's index promises."""
        return sum(camera.frames for camera in self.cameras)

    @property
    def image(self) -> Camera:
        """The only camera that is read; raises BagError where there are several."""
        if len(self.cameras) > 1:
            raise BagError(
                f'{self.path} has several image topics: '
                f'{", ".join(item.topic for item in self.cameras)}. Choose one with --topic.'
            )
        return self.cameras[0]


def namespace_of(topic: str) -> str:
    """`/camera` of `/camera/image_raw` and of `/camera/image_raw/compressed`."""
    return topic.removesuffix(COMPRESSED).rpartition('/')[0]


def choose_cameras(path: Path, connections: list[Connection], wanted: list[str]) -> list[Camera]:
    """Cameras in topic order: those wanted, or all that hold pictures.

    Topics of depth and infrared sensors, which stand beside the colour one of the same camera, are
    read where they are named, or where there is nothing else.
    """
    there = ', '.join(f'{item.topic} ({item.msgtype})' for item in connections) or 'nothing'
    there = one_line(there, 1000)
    counts: Counter[tuple[str, str]] = Counter()
    for item in connections:
        if item.msgtype in (IMAGE, COMPRESSED_IMAGE):
            counts[item.topic, item.msgtype] += item.msgcount
    found = [Camera(topic, msgtype, count, {}) for (topic, msgtype), count in counts.items()]
    if wanted:
        by_topic = {camera.topic: camera for camera in found}
        for topic in wanted:
            if topic not in by_topic:
                raise BagError(f'{path} has no image topic {topic}; it holds {there}')
        return [by_topic[topic] for topic in sorted(set(wanted))]
    cameras: dict[str, Camera] = {}
    for camera in sorted(found, key=lambda item: item.topic):
        if f'{TRUTH}/' in camera.topic or camera.topic.startswith(OURS) or not camera.frames:
            continue
        if camera.topic.endswith(OTHER_TRANSPORTS):
            continue
        # Sorted, so that the raw topic comes first: its compressed copy is the same camera.
        cameras.setdefault(camera.topic.removesuffix(COMPRESSED), camera)
    colour = {name: camera for name, camera in cameras.items() if not _other_sensor(camera.topic)}
    cameras = colour or cameras
    if not cameras:
        raise BagError(f'{path} has no camera images; it holds {there}. Record an image topic too.')
    return sorted(cameras.values(), key=lambda item: item.topic)


def other_sensors(cameras: list[Camera], connections: list[Connection]) -> str:
    """A note of the depth and infrared topics that `choose_cameras` left out; '' for none."""
    read = {camera.topic for camera in cameras}
    left = {
        item.topic
        for item in connections
        if item.msgtype in (IMAGE, COMPRESSED_IMAGE) and item.msgcount and item.topic not in read
        and _other_sensor(item.topic) and f'{TRUTH}/' not in item.topic
        and not item.topic.startswith(OURS)
    }  # fmt: skip
    if not left or any(_other_sensor(topic) for topic in read):
        return ''
    names = one_line(', '.join(sorted(left)), 1000)
    return f'depth and infrared topics left out beside the camera: {names}; read one with --topic'


def _other_sensor(topic: str) -> bool:
    """Whether a topic is of a depth, infrared or thermal sensor by its name, as drivers call it."""
    words = set(re.split(r'[/_\d]+', topic.lower()))
    return bool(words & OTHER_SENSORS)


def with_truth(
    path: Path, cameras: list[Camera], connections: list[Connection]
) -> Iterator[Camera]:
    """Each camera with its ground-truth topics, by the rule that the module's docstring states."""
    roots = [f'{camera.namespace}{TRUTH}/' for camera in cameras]
    own = [_truth_below(path, root, connections) for root in roots]
    shared = _truth_below(path, f'{TRUTH}/', connections)
    if len(cameras) == 1 and not own[0]:
        own = [shared]
    elif shared and not any(own):
        raise BagError(
            f'{path} has ground truth under {TRUTH}/ and {len(cameras)} cameras '
            f'({", ".join(item.topic for item in cameras)}): it does not say whose it is. Choose '
            f'a camera with --topic, or record it as {roots[0]}...'
        )
    for camera, truth in zip(cameras, own, strict=True):
        yield replace(camera, truth=truth)


def truth_type(name: str) -> str:
    """Message type of a ground-truth topic by its name below the root."""
    kind = kinds.folder_of(name)
    return TRUTH_TYPES.get(name, IMAGE) if kind is None else vehicle.KINDS[kind.name].message


def _truth_below(path: Path, root: str, connections: list[Connection]) -> dict[str, str]:
    """Ground-truth topics under a prefix and what they hold; others there are left alone."""
    found = {}
    for item in connections:
        name = item.topic.removeprefix(root)
        if name == item.topic or not item.msgcount:
            continue
        task = TASKS.get(name)
        known = name in TRUTH_TYPES or kinds.folder_of(name) is not None or task is not None
        expected = truth_type(name)
        if item.msgtype == expected:
            found[item.topic] = name
        elif known:
            raise BagError(f'{path}: {item.topic} is {item.msgtype}, expected {expected}')
    return found
