# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Drives as rosbag2 folders or files, read without a ROS installation.

Topics of a drive, all stamped like the frame they belong to. A camera is an image topic, its
namespace is what stands before the last name: `/camera` of `/camera/image_raw[/compressed]`.

| topic | type | |
|---|---|---|
| `/camera/image_raw` | sensor_msgs/Image | or `/camera/image_raw/compressed`, CompressedImage |
| `/camera/camera_info` | sensor_msgs/CameraInfo | optional; of the frame's stamp, else the last |
| `/camera/image_name` | std_msgs/Header | optional; `frame_id` is the name of the image's file |
| `/ground_truth/detections` | vision_msgs/Detection2DArray | `id`: who; `ignored`: not scored |
| `/ground_truth/objects` | vision_msgs/Detection3DArray | optional; feet of detections in order |
| `/ground_truth/camera_pose` | geometry_msgs/PoseStamped | optional; in the frame of `objects` |
| `/ground_truth/<segmentation task>` | sensor_msgs/Image mono8 | 255 = unlabelled |
| `/ground_truth/<depth or normals task>` | sensor_msgs/Image 32FC1, 32FC3 | 0 = unknown |
| `/ground_truth/<segmentation task>/label_info` | vision_msgs/LabelInfo | latched |
| `/ground_truth/scene/<task>` | vision_msgs/Classification | |
| `/ground_truth/<folder>/<task>` | the type of its kind | of kinds that plug-ins add |

Ground truth of one of several cameras stands in its namespace: `/front/ground_truth/...`. Under the
root it belongs to the camera only where one camera is read. A frame without a message on a truth
topic is unlabelled for it.

Reading streams: messages with one stamp are brought together within a second of recorded time, so
memory does not grow with the bag. `DriveBag` parses in this process; a bag of unknown origin is
read through `guarded.GuardedBag`, which looks the same and parses in a child process with limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection

from mtl_evaluation import kinds
from mtl_evaluation.bags.bag_file import BagInfo, bag_info, by_stamp, open_bag, read_messages
from mtl_evaluation.bags.cameras import (
    Camera,
    CameraBag,
    choose_cameras,
    other_sensors,
    truth_type,
    with_truth,
)
from mtl_evaluation.bags.listing import Listing
from mtl_evaluation.bags.near import with_near_truth
from mtl_evaluation.bags.read_options import AS_RECORDED, ReadOptions
from mtl_evaluation.messages.cdr import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    HEADER,
    LABEL_INFO,
    OBJECTS,
    POSE,
    BagError,
    check_definition,
    deserialise,
    feet_of,
    mount_of,
)
from mtl_evaluation.truth.class_mapping import NO_MAPPING, ClassMapping
from mtl_evaluation.truth.truth import Truth, TruthPlaces
from mtl_perception.camera_model import CameraModel, GeometryError, is_rectified
from mtl_perception.frame import Frame
from mtl_perception.image_codec import ImageError, decode_compressed, decode_raw
from mtl_perception.tasks import TASKS
from mtl_perception.text import one_line, quoted

__all__ = ['BagFrame', 'Camera', 'DriveBag', 'DriveFrame']


@dataclass(frozen=True)
class DriveFrame:
    """One camera frame. `stamp_ns` is its header stamp (its log time if that is 0).

    index: within its camera. name: of the image's file, '' where the bag does not say.
    """

    index: int
    stamp_ns: int
    camera: Camera
    name: str

    @property
    def topic(self) -> str:
        """Image topic of its camera."""
        return self.camera.topic

    def image(self) -> Frame:
        """The picture; raises ImageError where it cannot be decoded."""
        raise NotImplementedError

    def truth(self) -> Truth:
        """What is known about the frame; raises BagError on a malformed truth message."""
        raise NotImplementedError


@dataclass(frozen=True)
class BagFrame(DriveFrame):
    """A frame as it lies in the bag. cdr: its image message; truth_cdr: messages by topic."""

    cdr: bytes
    truth_cdr: Mapping[str, bytes]
    classes: ClassMapping = NO_MAPPING

    def image(self) -> Frame:
        """Decode the image; raises ImageError."""
        try:
            message = deserialise(self.cdr, self.camera.msgtype)
        except BagError as error:
            raise ImageError(str(error)) from error
        return _decoded(message)

    def truth(self) -> Truth:
        """Decode the ground truth; raises BagError."""
        truth, feet, mount = Truth(), None, None
        for topic, cdr in self.truth_cdr.items():
            name = self.camera.truth[topic]
            try:
                if name == 'objects':
                    feet = feet_of(deserialise(cdr, OBJECTS))
                elif name == 'camera_pose':
                    mount = mount_of(deserialise(cdr, POSE))
                else:
                    message = deserialise(cdr, truth_type(name))
                    kind, task = kinds.of_truth(name, getattr(message, 'encoding', ''))
                    truth = truth.joined(kind.truth_from(message, task))
            except (BagError, ValueError) as error:
                raise BagError(f'frame {self.index} of {self.topic}: {topic}: {error}') from error
        places = None if feet is None or mount is None else TruthPlaces(feet, mount)
        count = None if truth.boxes is None else len(truth.boxes.boxes)
        if places is not None and count not in (None, len(places.feet)):
            raise BagError(
                f'frame {self.index} of {self.topic}: {count} true boxes and '
                f'{len(places.feet)} objects, expected one object for each box in its order'
            )
        return self.classes(replace(truth, places=places))


class DriveBag(CameraBag):
    """A bag opened for its camera frames and ground truth; use as a context manager.

    info: what the bag says about itself. cameras: those that are read, in the order of their
    topics. repeated and unmatched_truth: what `frames` left out so far.
    """

    def __init__(
        self,
        path: str | Path,
        topics: str | Sequence[str] | None = None,
        options: ReadOptions = AS_RECORDED,
    ) -> None:
        """Open; `topics` are the image topics to read, by default every camera of the bag.

        Raises BagError when there is no bag, it is damaged, a topic is no image topic of it, or its
        ground truth does not fit: another class table, another message definition, no one camera.
        """
        self.path = Path(path).expanduser()
        self._reader = open_bag(self.path)
        try:
            self._options = options
            self._classes = ClassMapping(options.classes)
            self.connections = [
                item for item in self._reader.connections if item.topic not in options.ignored
            ]
            self.info: BagInfo = bag_info(self.path, self._reader)
            wanted = [topics] if isinstance(topics, str) else list(topics or ())
            chosen = choose_cameras(self.path, self.connections, wanted)
            if not wanted and (note := other_sensors(chosen, self.connections)):
                self.info = replace(self.info, notes=(*self.info.notes, note))
            self.cameras = tuple(
                self._looked_at(camera)
                for camera in with_truth(self.path, chosen, self.connections)
            )
            self._check_definitions()
            self._check_class_tables()
        except BaseException:
            self._reader.close()
            raise
        self.repeated = Listing()
        self.unmatched_truth = Listing()

    def __enter__(self) -> DriveBag:
        """The bag itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._reader.close()

    def frames(self, truth: bool = True) -> Iterator[BagFrame]:
        """Every frame in stamp order with its truth (not read when `truth` is False).

        Frames of one stamp come in the order of their topics. A second message of a topic with the
        same stamp is left out and listed in `repeated`, a truth message whose stamp no image of its
        camera has in `unmatched_truth`. Raises BagError on damage.
        """
        self.repeated, self.unmatched_truth = Listing(), Listing()
        indices: Counter[str] = Counter()
        infos = {camera.info_topic for camera in self.cameras}
        lenses = [_Lens(camera) for camera in self.cameras]
        groups = by_stamp(self._counted(self._topics(truth)))
        tolerance_ns = round(self._options.tolerance_ms * 1e6)
        if truth and tolerance_ns:
            groups = with_near_truth(groups, self.cameras, tolerance_ns)
        for stamp, group, repeated in groups:
            for topic in repeated:
                if topic not in infos:
                    self.repeated.add(f'{topic} at {stamp}')
            used: set[str] = set()
            for lens in lenses:
                camera = lens.at(group)
                cdr = group.get(camera.topic)
                if cdr is None:
                    continue
                labels = {topic: group[topic] for topic in camera.truth if topic in group}
                used.update(labels)
                name = self._name(camera.name_topic, group.get(camera.name_topic))
                yield BagFrame(
                    indices[camera.topic], stamp, camera, name, cdr, labels, self._classes
                )
                indices[camera.topic] += 1
            for topic in sorted(self._truth_topics().intersection(group) - used):
                self.unmatched_truth.add(f'{topic} at {stamp}')

    def raw_frames(self) -> Iterator[BagFrame]:
        """Every frame with its serialised image and without truth, for playing it to a node."""
        return self.frames(truth=False)

    def stamps(self) -> list[int]:
        """Stamps of all frames in order."""
        stamps: list[int] = []
        images = {camera.topic for camera in self.cameras}
        for stamp, group, _ in by_stamp(self._counted(images), payload=False):
            stamps += [stamp] * len(group)
        return stamps

    def _topics(self, truth: bool) -> set[str]:
        topics = {camera.topic for camera in self.cameras}
        topics |= {camera.name_topic for camera in self.cameras}
        topics |= {camera.info_topic for camera in self.cameras}
        return topics | self._truth_topics() if truth else topics

    def _truth_topics(self) -> set[str]:
        return {topic for camera in self.cameras for topic in camera.truth}

    def _connections(self, topics: Iterable[str]) -> list[Connection]:
        """Connections of topics; an mcap file has one for every publisher that a topic had."""
        types = {camera.topic: camera.msgtype for camera in self.cameras}
        types |= {camera.name_topic: HEADER for camera in self.cameras}
        types |= {camera.info_topic: CAMERA_INFO for camera in self.cameras}
        wanted = set(topics)
        return [
            item
            for item in self.connections
            if item.topic in wanted and item.msgtype == types.get(item.topic, item.msgtype)
        ]

    def _counted(self, topics: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
        """Messages of topics; raises BagError at the end when there were not all of them."""
        connections = self._connections(topics)
        found: Counter[str] = Counter()
        for message in read_messages(self.path, self._reader, connections):
            found[message[0]] += 1
            yield message
        promised: Counter[str] = Counter()
        for item in connections:
            promised[item.topic] += item.msgcount
        for topic, count in promised.items():
            if found[topic] != count:
                raise BagError(
                    f'{self.path} is truncated or damaged: {topic} holds {found[topic]} messages, '
                    f'its index promises {count}. Copy it again.'
                )

    def _looked_at(self, camera: Camera) -> Camera:
        """With what its first image and CameraInfo say."""
        info = self._first(camera.info_topic, CAMERA_INFO)
        camera = camera if info is None else _with_model(camera, info)
        image = self._first(camera.topic, camera.msgtype)
        if image is None:
            return camera
        encoding = image.format if camera.msgtype == COMPRESSED_IMAGE else image.encoding
        camera = replace(camera, encoding=one_line(encoding))
        with suppress(ImageError):
            height, width = _decoded(image).pixels.shape[:2]
            camera = replace(camera, size=(width, height))
        return camera

    def _first(self, topic: str, msgtype: str) -> Any:
        """The first message of a topic, None where there is none that can be decoded."""
        connections = [
            item
            for item in self.connections
            if item.topic == topic and item.msgtype == msgtype and item.msgcount
        ]
        for _, _, cdr in read_messages(self.path, self._reader, connections):
            with suppress(BagError):
                return deserialise(cdr, msgtype)
            break
        return None

    def _name(self, topic: str, cdr: bytes | None) -> str:
        return '' if cdr is None else one_line(self._deserialise(topic, cdr, HEADER).frame_id)

    def _deserialise(self, topic: str, cdr: bytes, msgtype: str) -> Any:
        try:
            return deserialise(cdr, msgtype)
        except BagError as error:
            raise BagError(f'{self.path}: {topic}: {error}') from error

    def _check_definitions(self) -> None:
        topics = self._topics(truth=True)
        for item in self._connections(topics):
            check_definition(f'{self.path}: {item.topic}', item)

    def _check_class_tables(self) -> None:
        """Compare each mask topic's label_info with the task of that name."""
        names = {
            f'{topic}/label_info': name
            for camera in self.cameras
            for topic, name in camera.truth.items()
        }
        infos = [
            item for item in self.connections if item.topic in names and item.msgtype == LABEL_INFO
        ]
        for topic, _, cdr in read_messages(self.path, self._reader, infos):
            message = self._deserialise(topic, cdr, LABEL_INFO)
            found = {item.class_id: item.class_name for item in message.class_map}
            task = TASKS.get(names[topic])
            mapped = names[topic] in self._classes.tasks()
            if task and not mapped and found != dict(enumerate(task.classes)):
                raise BagError(
                    f'{self.path}: {topic} names classes {quoted(list(found.values()))}, this '
                    f'version has {list(task.classes)}. Say which is which with '
                    f'--classes, as `{names[topic]}:7=road`, or write the bag again.'
                )


class _Lens:
    """A camera with the model that holds at a frame: a drive may change or zoom its cameras."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._content = b''

    def at(self, group: Mapping[str, bytes]) -> Camera:
        """The camera by the CameraInfo among messages of one stamp, else as it was before."""
        cdr = group.get(self._camera.info_topic)
        if cdr is not None and cdr[12:] != self._content:  # what follows the stamp
            self._content = cdr[12:]
            with suppress(BagError):
                self._camera = _with_model(self._camera, deserialise(cdr, CAMERA_INFO))
        return self._camera


def _with_model(camera: Camera, info: Any) -> Camera:
    try:
        model = CameraModel.from_info(info, is_rectified(camera.topic))
    except GeometryError as error:
        return replace(camera, model=None, model_note=str(error))
    return replace(camera, model=model, model_note='')


def _decoded(message: Any) -> Frame:
    """Picture of an Image or CompressedImage message; raises ImageError."""
    if message.__msgtype__ == COMPRESSED_IMAGE:
        return decode_compressed(message.format, message.data)
    return decode_raw(
        message.encoding, message.height, message.width, message.step, message.is_bigendian,
        message.data,
    )  # fmt: skip
