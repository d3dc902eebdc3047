"""ROS messages as serialised bytes, without ROS: types, stamps, and what a drive's messages hold.

CDR as rosbags reads and writes it. vision_msgs is registered from the texts that come with this
package. Topics and conventions of a drive are described in `bag.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtl_perception.interfaces import vision_msgs_texts
from mtl_perception.replay.truth import Truth, TruthBoxes

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
CLASSIFICATION = 'vision_msgs/msg/Classification'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'

IMAGE_TOPIC = '/camera/image_raw'
COMPRESSED_TOPIC = '/camera/image_raw/compressed'
CAMERA_INFO_TOPIC = '/camera/camera_info'
TRUTH = '/ground_truth'
IGNORED = 'ignored'
FRAME_ID = 'camera'


class BagError(Exception):
    """A bag that cannot be read or written: what, where, found, next step."""


@cache
def typestore() -> Typestore:
    """Jazzy's message types and vision_msgs, whose texts come with this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name, text in vision_msgs_texts().items():
        types.update(get_types_from_msg(text, name))
    store.register({name: value for name, value in types.items() if name not in store.fielddefs})
    return store


def deserialise(cdr: bytes, msgtype: str) -> Any:
    """Message object of serialised bytes; raises BagError when they are not one."""
    try:
        return typestore().deserialize_cdr(cdr, msgtype)
    # The decoder is generated code and raises whatever its bytes lead to.
    except Exception as error:
        raise BagError(
            f'a {msgtype} message of {len(cdr)} bytes cannot be decoded: {error}. The recording is '
            f'damaged at this message; cut it out or record again.'
        ) from error


def serialise(message: Any) -> bytes:
    """CDR bytes of a message made with `typestore().types`."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def stamp_of(cdr: bytes) -> int:
    """Header stamp in nanoseconds of a serialised message that starts with a std_msgs/Header."""
    if len(cdr) < 12:
        raise BagError(f'a message of {len(cdr)} bytes has no header; the recording is damaged')
    seconds, nanoseconds = struct.unpack_from(f'{_order(cdr)}iI', cdr, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def with_stamp(cdr: bytes, stamp_ns: int) -> bytes:
    """The same serialised message with another header stamp."""
    stamp = struct.pack(f'{_order(cdr)}iI', *divmod(stamp_ns, 1_000_000_000))
    return b''.join((cdr[:4], stamp, memoryview(cdr)[12:]))


def _order(cdr: bytes) -> str:
    return '<' if cdr[1] & 1 else '>'


def mask_of(message: Any, where: str) -> NDArray[np.uint8]:
    """Uint8 [H, W] of a mono8 image message; raises BagError when it is not one."""
    if (
        message.encoding != 'mono8'
        or len(message.data) != message.step * message.height
        or (message.step < message.width)
    ):
        raise BagError(
            f'{where}: expected a mono8 class mask, found {message.encoding} '
            f'{message.width}x{message.height}, step {message.step}, {len(message.data)} bytes'
        )
    data = np.frombuffer(memoryview(message.data), np.uint8)
    return data.reshape(message.height, message.step)[:, : message.width]


def truth_boxes_of(message: Any) -> TruthBoxes:
    """Labelled objects of a Detection2DArray on a ground-truth topic."""
    boxes, classes = boxes_of(message)
    ignore = np.array([item.id.startswith(IGNORED) for item in message.detections], bool)
    return TruthBoxes(boxes, classes, ignore)


def boxes_of(message: Any) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Float32 [N, 4] xyxy and N class names (of each first hypothesis) of a Detection2DArray."""
    table = np.array(
        [
            (box.center.position.x, box.center.position.y, box.size_x, box.size_y)
            for box in (item.bbox for item in message.detections)
        ],
        np.float64,
    ).reshape(-1, 4)
    half = table[:, 2:] / 2
    boxes = np.concatenate([table[:, :2] - half, table[:, :2] + half], 1).astype(np.float32)
    names = tuple(
        item.results[0].hypothesis.class_id if item.results else '' for item in message.detections
    )
    return boxes, names


def header_of(stamp_ns: int) -> Any:
    """A std_msgs/Header of the camera frame."""
    types = typestore().types
    stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    return types['std_msgs/msg/Header'](stamp, FRAME_ID)


def image_message(header: Any, pixels: NDArray[np.uint8], encoding: str) -> Any:
    """A sensor_msgs/Image of uint8 [H, W] or [H, W, 3]."""
    height, width = pixels.shape[:2]
    step = width * (pixels.shape[2] if pixels.ndim == 3 else 1)
    data = np.ascontiguousarray(pixels).reshape(-1)
    return typestore().types[IMAGE](header, height, width, encoding, 0, step, data)


def camera_info_message(header: Any, width: int, height: int, matrix: NDArray[np.float64]) -> Any:
    """A sensor_msgs/CameraInfo of an undistorted camera, matrix [3, 3] in pixels."""
    types = typestore().types
    projection = np.concatenate([matrix, np.zeros((3, 1))], 1).reshape(-1)
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return types[CAMERA_INFO](
        header, height, width, 'plumb_bob', np.zeros(5), matrix.reshape(-1), np.eye(3).reshape(-1),
        projection, 0, 0, roi,
    )  # fmt: skip


def truth_messages(header: Any, truth: Truth) -> Iterator[tuple[str, Any]]:
    """Topic and message of everything that is known about a frame."""
    types = typestore().types
    if truth.boxes is not None:
        items = [
            _detection(header, box, name, IGNORED if ignored else '')
            for box, name, ignored in zip(
                truth.boxes.boxes.tolist(), truth.boxes.classes, truth.boxes.ignore, strict=True
            )
        ]
        yield f'{TRUTH}/detections', types[DETECTIONS](header, items)
    for name, mask in truth.masks.items():
        yield f'{TRUTH}/{name}', image_message(header, mask, 'mono8')
    for name, label in truth.labels.items():
        hypothesis = types['vision_msgs/msg/ObjectHypothesis'](label, 1.0)
        yield f'{TRUTH}/scene/{name}', types[CLASSIFICATION](header, [hypothesis])


def _detection(header: Any, box: list[float], name: str, identity: str) -> Any:
    types = typestore().types
    x1, y1, x2, y2 = box
    centre = types['vision_msgs/msg/Pose2D'](
        types['vision_msgs/msg/Point2D']((x1 + x2) / 2, (y1 + y2) / 2), 0.0
    )
    pose = types['geometry_msgs/msg/PoseWithCovariance'](
        types['geometry_msgs/msg/Pose'](
            types['geometry_msgs/msg/Point'](0.0, 0.0, 0.0),
            types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0),
        ),
        np.zeros(36),
    )
    result = types['vision_msgs/msg/ObjectHypothesisWithPose'](
        types['vision_msgs/msg/ObjectHypothesis'](name, 1.0), pose
    )
    bbox = types['vision_msgs/msg/BoundingBox2D'](centre, x2 - x1, y2 - y1)
    return types['vision_msgs/msg/Detection2D'](header, [result], bbox, identity)
