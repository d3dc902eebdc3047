"""Drives as rosbag2 folders or files, read and written without a ROS installation.

Topics of a drive, all stamped like the frame they belong to:

| topic | type | |
|---|---|---|
| `/camera/image_raw` | sensor_msgs/Image | or `/camera/image_raw/compressed`, CompressedImage |
| `/camera/camera_info` | sensor_msgs/CameraInfo | optional |
| `/ground_truth/detections` | vision_msgs/Detection2DArray | `id` `ignored`: not scored |
| `/ground_truth/<segmentation task>` | sensor_msgs/Image mono8 | 255 = unlabelled |
| `/ground_truth/<segmentation task>/label_info` | vision_msgs/LabelInfo | latched |
| `/ground_truth/scene/<task>` | vision_msgs/Classification | |

A frame without a message on a truth topic is unlabelled for it. Reading streams: messages with one
stamp are brought together within a second of recorded time, so memory does not grow with the bag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from mtl_perception.image_codec import decode_compressed, decode_raw
from mtl_perception.pipeline import Frame
from mtl_perception.replay.cdr import (
    CLASSIFICATION,
    COMPRESSED_IMAGE,
    COMPRESSED_TOPIC,
    DETECTIONS,
    IMAGE,
    IMAGE_TOPIC,
    LABEL_INFO,
    TRUTH,
    BagError,
    deserialise,
    mask_of,
    stamp_of,
    truth_boxes_of,
)
from mtl_perception.replay.truth import Truth
from mtl_perception.tasks import TASKS

if TYPE_CHECKING:
    pass

WINDOW_NS = 1_000_000_000
"""Messages of one stamp are looked for within this much recorded time of the first of them."""

MAX_MESSAGE_BYTES = 256 << 20
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'


@dataclass(frozen=True)
class BagFrame:
    """One camera frame of a bag. `stamp_ns` is its header stamp (its log time if that is 0).

    cdr: the serialised image message. truth: messages by topic, serialised.
    """

    index: int
    stamp_ns: int
    topic: str
    msgtype: str
    cdr: bytes
    truth_cdr: Mapping[str, bytes]

    def image(self) -> Frame:
        """Decode the image; raises ImageError."""
        message = deserialise(self.cdr, self.msgtype)
        if self.msgtype == COMPRESSED_IMAGE:
            return decode_compressed(message.format, message.data)
        return decode_raw(
            message.encoding, message.height, message.width, message.step, message.is_bigendian,
            message.data,
        )  # fmt: skip

    def truth(self) -> Truth:
        """What the bag says about this frame; raises BagError on a malformed truth message."""
        boxes, masks, labels = None, {}, {}
        for topic, cdr in self.truth_cdr.items():
            name = topic.removeprefix(f'{TRUTH}/')
            if name == 'detections':
                boxes = truth_boxes_of(deserialise(cdr, DETECTIONS))
            elif name.startswith('scene/'):
                results = deserialise(cdr, CLASSIFICATION).results
                if results:
                    labels[name.removeprefix('scene/')] = results[0].class_id
            else:
                masks[name] = mask_of(deserialise(cdr, IMAGE), topic)
        return Truth(boxes, masks, labels)


class DriveBag:
    """A bag opened for its camera frames and ground truth; use as a context manager."""

    def __init__(self, path: str | Path, image_topic: str | None = None) -> None:
        """Open; `image_topic` is needed only where the bag holds several cameras.

        Raises BagError when there is no bag, it is damaged, or no one image topic is meant.
        """
        self.path = Path(path).expanduser()
        self._reader = open_bag(self.path)
        try:
            self.connections = list(self._reader.connections)
            self.image = _image_connection(self.path, self.connections, image_topic)
            self.truth = [
                connection
                for connection in self.connections
                if connection.topic.startswith(f'{TRUTH}/')
                and connection.msgtype in (DETECTIONS, IMAGE, CLASSIFICATION)
            ]
            self._check_class_tables()
        except BaseException:
            self._reader.close()
            raise
        self.frames_total = self.image.msgcount
        self.repeated_stamps = 0
        self.unmatched_truth = 0

    def __enter__(self) -> DriveBag:
        """The bag itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._reader.close()

    def frames(self, truth: bool = True) -> Iterator[BagFrame]:
        """Every frame in stamp order with its truth (not read when `truth` is False).

        A second image with the same stamp is skipped and counted in `repeated_stamps`, a truth
        message whose stamp no image has in `unmatched_truth`. Raises BagError on damage.
        """
        self.repeated_stamps = self.unmatched_truth = 0
        index = 0
        for stamp, messages, repeated in by_stamp(
            self._messages([self.image, *(self.truth if truth else ())])
        ):
            self.repeated_stamps += repeated.count(self.image.topic)
            cdr = messages.pop(self.image.topic, None)
            if cdr is None:
                self.unmatched_truth += len(messages)
                continue
            yield BagFrame(index, stamp, self.image.topic, self.image.msgtype, cdr, messages)
            index += 1
        found = index + self.repeated_stamps
        if found != self.image.msgcount:
            raise BagError(
                f'{self.path} is truncated or damaged: {self.image.topic} holds {found} messages, '
                f'its index promises {self.image.msgcount}. Copy it again.'
            )

    def stamps(self) -> list[int]:
        """Stamps of all frames in order."""
        return [stamp for stamp, _, _ in by_stamp(self._messages([self.image]), payload=False)]

    def _messages(self, connections: list[Connection]) -> Iterator[tuple[str, int, bytes]]:
        return read_messages(self.path, self._reader, connections)

    def _check_class_tables(self) -> None:
        """Compare each mask topic's label_info with the task of that name."""
        infos = [
            connection
            for connection in self.connections
            if connection.msgtype == LABEL_INFO and connection.topic.startswith(f'{TRUTH}/')
        ]
        # Without a filter rosbags would read every message, hence the guard.
        for topic, _, cdr in self._messages(infos) if infos else ():
            name = topic.removeprefix(f'{TRUTH}/').removesuffix('/label_info')
            found = {
                item.class_id: item.class_name for item in deserialise(cdr, LABEL_INFO).class_map
            }
            task = TASKS.get(name)
            if task and found != dict(enumerate(task.classes)):
                raise BagError(
                    f'{self.path}: {topic} names classes {list(found.values())}, this version has '
                    f'{list(task.classes)}. Write the bag again with this version.'
                )


def open_bag(path: Path) -> Reader:
    """An opened rosbags reader; raises BagError naming what the path is instead."""
    if not path.exists():
        raise BagError(
            f'no bag at {path}: nothing is there. Give the folder that `ros2 bag record` made, '
            f'or a .mcap or .db3 file.'
        )
    if path.is_dir() and not (path / 'metadata.yaml').is_file():
        raise BagError(
            f'{path} is not a bag: a folder without metadata.yaml. For a folder of pictures use '
            f'--images; after a crashed recording run `ros2 bag reindex {path}`.'
        )
    if path.is_file() and path.suffix not in ('.mcap', '.db3'):
        raise BagError(
            f'{path} is not a bag: expected a folder with metadata.yaml or a .mcap or .db3 file. '
            f'For a video use --video.'
        )
    try:
        reader = Reader(path)
        reader.open()
    # rosbags, sqlite and zstd each raise classes of their own on damaged files.
    except Exception as error:
        raise BagError(_damaged(path, error)) from error
    return reader


def read_messages(
    path: Path, reader: Reader, connections: Iterable[Connection]
) -> Iterator[tuple[str, int, bytes]]:
    """Topic, log time and CDR bytes in log order; raises BagError on damage."""
    wanted = list(connections)
    if not wanted:
        return
    try:
        for connection, log_ns, cdr in reader.messages(wanted):
            if len(cdr) > MAX_MESSAGE_BYTES:
                raise BagError(
                    f'{path}: a message of {len(cdr)} bytes on {connection.topic}, expected at '
                    f'most {MAX_MESSAGE_BYTES}'
                )
            if cdr[:4] == ZSTD_MAGIC:
                raise BagError(
                    f'{path}: the messages are compressed one by one, which only metadata.yaml '
                    f'says. Open the folder of the bag instead of the file in it.'
                )
            yield connection.topic, log_ns, cdr
    except (BagError, GeneratorExit):
        raise
    except Exception as error:
        raise BagError(_damaged(path, error)) from error


def by_stamp(
    messages: Iterable[tuple[str, int, bytes]], payload: bool = True
) -> Iterator[tuple[int, dict[str, bytes], list[str]]]:
    """Bring messages of one header stamp together: stamp, CDR by topic, topics that repeated.

    Stamps come in order as far as WINDOW_NS reaches. A header stamp of 0 (drivers that set none) is
    replaced by the log time. Without `payload` the bytes are dropped at once.
    """
    waiting: dict[int, tuple[int, dict[str, bytes], list[str]]] = {}
    for topic, log_ns, cdr in messages:
        stamp = stamp_of(cdr) or log_ns
        _, group, repeated = waiting.setdefault(stamp, (log_ns, {}, []))
        if topic in group:
            repeated.append(topic)
        else:
            group[topic] = cdr if payload else b''
        # Log times rise, so the head of the dictionary is the group that has waited longest.
        while waiting and log_ns - next(iter(waiting.values()))[0] > WINDOW_NS:
            yield _first(waiting)
    while waiting:
        yield _first(waiting)


def _first(
    waiting: dict[int, tuple[int, dict[str, bytes], list[str]]],
) -> tuple[int, dict[str, bytes], list[str]]:
    stamp = min(waiting)
    _, group, repeated = waiting.pop(stamp)
    return stamp, group, repeated


def _damaged(path: Path, error: Exception) -> str:
    return (
        f'{path} is truncated or damaged: {str(error).strip() or type(error).__name__}. Copy it '
        f'again, or save what is left with `mcap recover` (.mcap) or `ros2 bag reindex` (folder).'
    )


def _image_connection(path: Path, connections: list[Connection], wanted: str | None) -> Connection:
    there = ', '.join(f'{item.topic} ({item.msgtype})' for item in connections) or 'nothing'
    images = [item for item in connections if item.msgtype in (IMAGE, COMPRESSED_IMAGE)]
    if wanted is not None:
        for item in images:
            if item.topic == wanted:
                return item
        raise BagError(f'{path} has no image topic {wanted}; it holds {there}')
    cameras = [item for item in images if not item.topic.startswith((f'{TRUTH}/', '/perception/'))]
    for item in cameras:
        if item.topic in (IMAGE_TOPIC, COMPRESSED_TOPIC) and item.msgcount:
            return item
    cameras = [item for item in cameras if item.msgcount]
    if not cameras:
        raise BagError(f'{path} has no camera images; it holds {there}. Record an image topic too.')
    if len(cameras) > 1:
        raise BagError(
            f'{path} has several image topics: {", ".join(item.topic for item in cameras)}. '
            f'Choose one with --topic.'
        )
    return cameras[0]
