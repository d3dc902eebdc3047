# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The topics of one camera: their names, types and QoS, who listens, and what they are sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.duration import Duration, Infinite
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mtl_perception import kinds, overlay
from mtl_perception.frame import Frame, Result
from mtl_perception.node import messages
from mtl_perception.node.annotations import CameraAnnotations
from mtl_perception.node.camera_geometry import CameraGeometry
from mtl_perception.node.endpoints import create_publisher
from mtl_perception.node.navigation import CameraNavigation, Requested
from mtl_perception.node.objects import CameraObjects
from mtl_perception.node.tracks import CameraTracks
from mtl_perception.tasks import Task
from mtl_perception.text import one_line

# Loses nothing at 30 Hz (a depth of 1: 2.5 %); what keeps only the newest is `newest.py`.
INPUT_DEPTH = 5
SMALL_OUTPUT = QoSProfile(depth=5)
IMAGE_OUTPUT = QoSProfile(depth=2)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Outputs are reliable, so that both reliable and best-effort subscribers connect."""


def input_qos(reliability: str) -> QoSProfile:
    """QoS of an image subscription: `best_effort` (connects to every driver) or `reliable`."""
    return QoSProfile(depth=INPUT_DEPTH, reliability=ReliabilityPolicy[reliability.upper()])


def unheard_publishers(node: Node, topic: str, qos: QoSProfile) -> list[str]:
    """A sentence for every publisher whose QoS keeps it from a subscription of ours."""
    return [
        f'publisher {one_line(info.node_name)} of {topic} does not reach us ({why}); '
        f'with image_reliability best_effort every one does'
        for info in node.get_publishers_info_by_topic(topic)
        if (why := _why_apart(info.qos_profile, qos))
    ]


def unreached_subscribers(node: Node, publishers: Sequence[Publisher]) -> list[str]:
    """A sentence for every subscription whose QoS keeps it from one of our publishers."""
    return [
        f'subscriber {one_line(info.node_name)} of {publisher.topic_name} is not reached ({why}); '
        f'change its QoS'
        for publisher in publishers
        for info in node.get_subscriptions_info_by_topic(publisher.topic_name)
        if (why := _why_apart(publisher.qos_profile, info.qos_profile))
    ]


def _why_apart(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Why the two do not connect, empty when they do."""
    result, why = qos_check_compatible(_spelt_out(publisher), _spelt_out(subscription))
    if result != QoSCompatibility.ERROR:
        return ''
    return str(why).replace('ERROR: ', '').strip('; ').lower()


def _spelt_out(qos: QoSProfile) -> QoSProfile:
    """What is in force where a profile leaves it open: rclpy would compare 0 s with for ever."""
    return QoSProfile(
        depth=max(1, qos.depth),
        reliability=qos.reliability,
        durability=qos.durability,
        deadline=_or_infinite(qos.deadline),
        liveliness=qos.liveliness or LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=_or_infinite(qos.liveliness_lease_duration),
    )


def _or_infinite(duration: Duration) -> Duration:
    return duration if duration.nanoseconds else Infinite


def topic_prefix(camera: str) -> str:
    """`~/` for the camera without a name, `~/<camera>/` for the others."""
    return f'~/{camera}/' if camera else '~/'


def image_topic(node: Node, camera: str, transport: str) -> str:
    """Where the camera's images are expected, resolved: the base topic, remapped, plus transport.

    As image_transport does it: remap `~/image` to the base topic of the driver, and `compressed`
    listens to `<base>/compressed`.
    """
    base = node.resolve_topic_name(f'{topic_prefix(camera)}image')
    if transport == 'compressed' and not base.endswith('/compressed'):
        return f'{base}/compressed'
    return base


def output_topic(camera: str, task: Task) -> str:
    """Where a task's answers go."""
    name = 'detections' if task.name == 'detection' else task.name
    return f'{topic_prefix(camera)}{kinds.of(task).topic_folder}{name}'


@dataclass(frozen=True)
class Wanted:
    """What somebody listens to at the moment: tasks to publish, annotations, both kinds of overlay.

    tracks, places: tasks whose tracks, or places on the road, are published. needed: tasks to
    compute for places and navigation. painted: the tasks that overlay and annotations show.
    """

    published: frozenset[str]
    tracks: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    navigation: Requested = Requested()  # noqa: RUF009 - it is immutable
    needed: frozenset[str] = frozenset()
    overlay: bool = False
    overlay_compressed: bool = False
    painted: frozenset[str] = frozenset()
    annotations: bool = False

    def __bool__(self) -> bool:
        """Whether anybody listens at all."""
        extras = self.tracks or self.places or self.navigation
        return bool(self.published or extras or self.has_picture)

    @property
    def has_overlay(self) -> bool:
        """Whether an overlay is to be drawn."""
        return self.overlay or self.overlay_compressed

    @property
    def has_picture(self) -> bool:
        """Whether anything is shown to people, drawn by us or by their viewer."""
        return self.has_overlay or self.annotations

    @property
    def computed(self) -> frozenset[str]:
        """Tasks to compute."""
        return self.published | self.tracked | self.needed

    @property
    def tracked(self) -> frozenset[str]:
        """Tasks whose detections need ids, where they are detections."""
        return self.tracks | self.placed

    @property
    def placed(self) -> frozenset[str]:
        """Tasks whose detections need places on the road, where they are detections."""
        return self.places | self.painted if self.has_picture else self.places


class CameraTopics:
    """Publishers of everything that one camera's frames become."""

    def __init__(
        self,
        node: Node,
        camera: str,
        tasks: Sequence[Task],
        mask_task: str | None,
        geometry: CameraGeometry,
        with_logits: Collection[str] = (),
        points_source: str = 'auto',
    ) -> None:
        """Create the publishers; mask_task: the segmentation task that the overlay shows.

        with_logits, points_source: see `CameraNavigation`.
        """
        self._node = node
        self._tasks = list(tasks)
        self._mask_task = mask_task
        self._painted = frozenset(
            task.name
            for task in self._tasks
            if kinds.of(task).always_painted or task.name == mask_task
        )
        prefix = topic_prefix(camera)
        self.tracks = CameraTracks(node, prefix, self._tasks)
        self.objects = CameraObjects(node, prefix, self._tasks, geometry)
        self.navigation = CameraNavigation(
            node, prefix, self._tasks, with_logits, geometry, points_source
        )
        self.annotations = CameraAnnotations(node, prefix, self._tasks, mask_task)
        self._outputs: dict[str, Publisher] = {}
        self._label_infos: dict[str, Publisher] = {}
        for task in self._tasks:
            topic = output_topic(camera, task)
            kind = kinds.of(task)
            qos = IMAGE_OUTPUT if kind.is_image else SMALL_OUTPUT
            message = messages.message_type(kind.message)
            self._outputs[task.name] = create_publisher(node, message, topic, qos)
            if kind.is_mask:
                self._label_infos[task.name] = create_publisher(
                    node, LabelInfo, f'{topic}/label_info', LATCHED
                )
        self._overlay = create_publisher(node, Image, f'{prefix}overlay', IMAGE_OUTPUT)
        self._overlay_compressed = create_publisher(
            node, CompressedImage, f'{prefix}overlay/compressed', IMAGE_OUTPUT
        )

    def listen(self) -> None:
        """Take in what comes beside the images."""
        self.objects.geometry.listen()
        self.navigation.listen()

    def stop(self) -> None:
        """Take in nothing any more."""
        self.objects.geometry.stop()
        self.navigation.stop()

    @property
    def faults(self) -> list[str]:
        """A sentence for every kind of output that is subscribed to and cannot be made."""
        return [fault for fault in (self.objects.fault, self.navigation.fault) if fault]

    def publish_label_infos(self, stamp: Time) -> None:
        """Latch the names of mask values beside every mask topic."""
        for task in self._tasks:
            if task.name in self._label_infos:
                message = messages.label_info_message(Header(stamp=stamp), task)
                self._label_infos[task.name].publish(message)

    def wanted(self) -> Wanted:
        """Ask once per frame, so that what is published of a frame fits together."""
        places, navigation = self.objects.requested(), self.navigation.requested()
        return Wanted(
            frozenset(
                name for name, output in self._outputs.items() if output.get_subscription_count()
            ),
            self.tracks.requested(),
            places,
            navigation,
            self.objects.needs(places) | self.navigation.needs(navigation),
            bool(self._overlay.get_subscription_count()),
            bool(self._overlay_compressed.get_subscription_count()),
            self._painted,
            self.annotations.requested(),
        )

    def publish(self, header: Header, frame: Frame, result: Result, wanted: Wanted) -> None:
        """Send what is wanted of a frame, small messages first, all with the same header."""
        self.tracks.add(header, frame, result, wanted.tracked)
        self.objects.add(header, frame, result, wanted.placed)
        self.tracks.publish(header, result, wanted.tracks)
        self.objects.publish(header, frame, result, wanted.places)
        if wanted.annotations:
            self.annotations.publish(header, frame, result)
        for task in sorted(self._tasks, key=lambda task: kinds.of(task).is_image):
            if task.name in wanted.published:
                answer = result.answers[task.name]
                self._outputs[task.name].publish(messages.answer_message(header, answer, task))
        self.navigation.publish(header, frame, result, wanted.navigation)
        if wanted.has_overlay:
            picture = self._draw(frame, result)
            if wanted.overlay:
                self._overlay.publish(messages.overlay_message(header, picture))
            if wanted.overlay_compressed:
                self._overlay_compressed.publish(
                    messages.compressed_overlay_message(header, picture)
                )

    @property
    def publishers(self) -> list[Publisher]:
        """All of them."""
        outputs = [*self._outputs.values(), *self._label_infos.values()]
        for extra in (self.tracks, self.objects, self.navigation, self.annotations):
            outputs += extra.publishers
        return [*outputs, self._overlay, self._overlay_compressed]

    def destroy(self) -> None:
        """Take the topics down."""
        for publisher in self.publishers:
            self._node.destroy_publisher(publisher)

    def _draw(self, frame: Frame, result: Result) -> NDArray[np.uint8]:
        rgb = frame.pixels
        if frame.order == 'bgr':
            rgb = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB), np.uint8)
        closest = self.objects.closest
        status = f'closest in the own path: {closest}' if closest else ''
        return overlay.draw(rgb, result, self._tasks, self._mask_task, status)
