# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""ROS messages as serialised bytes, without ROS: types, stamps, and what a drive's messages hold.

CDR as rosbags reads and writes it. vision_msgs is registered from the texts that come with this
package. Topics and conventions of a drive are described in `bags/bag.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtl_evaluation.truth.truth import TruthBoxes
from mtl_perception.camera_model import GeometryError
from mtl_perception.geometry import Mount
from mtl_perception.interfaces import message_texts
from mtl_perception.text import one_line, quoted
from mtl_perception.transforms import rotation_of

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
OBJECTS = 'vision_msgs/msg/Detection3DArray'
POSE = 'geometry_msgs/msg/PoseStamped'
CLASSIFICATION = 'vision_msgs/msg/Classification'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'
HEADER = 'std_msgs/msg/Header'

TRUTH = '/ground_truth'
IGNORED = 'ignored'
BASE_FRAME = 'base_link'
"""Frame of true places: on the road below the camera."""
CAMERA = 'camera'
"""Name of the camera where there is only one: its namespace and the `frame_id` of its images."""
MAP_ENCODINGS: dict[str, tuple[type[np.generic], int, float]] = {
    '32FC1': (np.float32, 1, 1.0), '16UC1': (np.uint16, 1, 1e-3), '32FC3': (np.float32, 3, 1.0),
}  # fmt: skip
"""Of depth and normals: type and number of a pixel's values, and their unit."""


class BagError(Exception):
    """A bag that cannot be read or written: what, where, found, next step."""


@cache
def typestore() -> Typestore:
    """Jazzy's message types, and those whose texts come with this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name, text in message_texts().items():
        types.update(get_types_from_msg(text, name))
    store.register({name: value for name, value in types.items() if name not in store.fielddefs})
    return store


def deserialise(cdr: bytes, msgtype: str) -> Any:
    """Message object of serialised bytes; raises BagError when they are not one."""
    try:
        return typestore().deserialize_cdr(cdr, msgtype)
    # The decoder is generated code and raises whatever its bytes lead to.
    except Exception as error:
        reason = one_line(str(error)).rstrip('.') or type(error).__name__
        raise BagError(
            f'a {msgtype} message of {len(cdr)} bytes cannot be decoded: {reason}. The recording '
            f'is damaged at this message; cut it out or record again.'
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


def check_definition(where: str, connection: Connection) -> None:
    """Compare the recorded definition of a message with ours; raises BagError when they differ.

    By its type hash, or where there is none (Humble, mcap files without their folder) by its text.
    """
    msgtype = connection.msgtype
    ours = typestore().hash_rihs01(msgtype)
    found = connection.digest or _hash_of(connection)
    if found and found != ours:
        raise BagError(
            f'{where} was recorded with another definition of {msgtype}: type hash '
            f'{one_line(found)}, expected {ours}. Convert the bag with `ros2 bag convert` under '
            f'ROS 2 Jazzy, or leave the topic out with --ignore-topic {connection.topic}.'
        )


def _hash_of(connection: Connection) -> str:
    """Type hash of the definition that is stored with the messages; empty where there is none."""
    definition = connection.msgdef
    if definition.format != MessageDefinitionFormat.MSG or not definition.data:
        return ''
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(definition.data, connection.msgtype))
        return store.hash_rihs01(connection.msgtype)
    # A text of anybody: what it lacks shows when the first message is decoded.
    except Exception:
        return ''


def mask_of(message: Any) -> NDArray[np.uint8]:
    """Uint8 [H, W] of a mono8 image message; raises BagError when it is not one."""
    if (
        message.encoding != 'mono8'
        or len(message.data) != message.step * message.height
        or (message.step < message.width)
    ):
        raise BagError(
            f'expected a mono8 class mask, found {quoted(message.encoding)} '
            f'{message.width}x{message.height}, step {message.step}, {len(message.data)} bytes'
        )
    data = np.frombuffer(memoryview(message.data), np.uint8)
    return data.reshape(message.height, message.step)[:, : message.width]


def map_of(message: Any) -> NDArray[np.float32]:
    """Metres [H, W] or vectors [H, W, 3] of an image message (REP 118); raises BagError.

    32FC1 is in metres, 16UC1 in millimetres, 32FC3 holds vectors; what is not finite becomes 0,
    unknown.
    """
    dtype, channels, unit = MAP_ENCODINGS.get(message.encoding, (np.float32, 0, 1.0))
    row = message.width * channels * np.dtype(dtype).itemsize
    if not row or message.step < row or len(message.data) != message.step * message.height:
        raise BagError(
            f'expected an image of {", ".join(MAP_ENCODINGS)}, found {quoted(message.encoding)} '
            f'{message.width}x{message.height}, step {message.step}, {len(message.data)} bytes'
        )
    rows = np.frombuffer(memoryview(message.data), np.uint8).reshape(message.height, message.step)
    stored = np.dtype(dtype).newbyteorder('>' if message.is_bigendian else '<')
    values = np.ascontiguousarray(rows[:, :row]).view(stored)
    shape = (message.height, message.width, channels)[: 2 if channels == 1 else 3]
    metres = values.reshape(shape).astype(np.float32) * np.float32(unit)
    return np.where(np.isfinite(metres), metres, np.float32(0))


def truth_boxes_of(message: Any) -> TruthBoxes:
    """Labelled objects of a Detection2DArray on a ground-truth topic."""
    boxes, classes = boxes_of(message)
    ignore = np.array([item.id.startswith(IGNORED) for item in message.detections], bool)
    ids = tuple('' if item.id.startswith(IGNORED) else item.id for item in message.detections)
    return TruthBoxes(boxes, classes, ignore, ids if any(ids) else ())


def feet_of(message: Any) -> NDArray[np.float64]:
    """Positions [N, 3] of a Detection3DArray on a ground-truth topic; NaN where it has none."""
    places = [item.results[0].pose.pose.position if item.results else None
              for item in message.detections]  # fmt: skip
    feet = [(np.nan,) * 3 if place is None else (place.x, place.y, place.z) for place in places]
    return np.array(feet, np.float64).reshape(-1, 3)


def mount_of(message: Any) -> Mount:
    """Mount of a camera by the PoseStamped of its optical frame; raises BagError on no pose."""
    at, turn = message.pose.position, message.pose.orientation
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    transform = np.eye(4)
    transform[:3, 3] = at.x, at.y, at.z
    if not np.isfinite(transform).all() or abs(np.linalg.norm(quaternion) - 1) > 1e-3:
        raise BagError(f'expected the pose of a camera, found rotation {quaternion.tolist()}')
    transform[:3, :3] = rotation_of(quaternion)
    try:
        return Mount.from_transform(transform)
    except GeometryError as error:
        raise BagError(str(error)) from error


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


def header_of(stamp_ns: int, frame_id: str = CAMERA) -> Any:
    """A std_msgs/Header."""
    types = typestore().types
    stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    return types[HEADER](stamp, frame_id)


def image_message(header: Any, pixels: NDArray[Any], encoding: str) -> Any:
    """A sensor_msgs/Image of [H, W] or [H, W, C], uint8 or what the encoding says."""
    height, width = pixels.shape[:2]
    step = pixels.nbytes // height
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    return typestore().types[IMAGE](header, height, width, encoding, 0, step, data)


def map_message(header: Any, values: NDArray[np.float32]) -> Any:
    """Float32 [H, W] as 32FC1, [H, W, 3] as 32FC3."""
    return image_message(header, values, f'32FC{1 if values.ndim == 2 else values.shape[2]}')


def camera_info_message(
    header: Any,
    width: int,
    height: int,
    matrix: NDArray[np.float64],
    model: str = 'plumb_bob',
    distortion: Sequence[float] = (0.0,) * 5,
) -> Any:
    """A sensor_msgs/CameraInfo, matrix [3, 3] in pixels, by default of a camera without distortion.

    P is that of an image rectified to the same matrix.
    """
    types = typestore().types
    projection = np.concatenate([matrix, np.zeros((3, 1))], 1).reshape(-1)
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return types[CAMERA_INFO](
        header, height, width, model, np.array(distortion, np.float64), matrix.reshape(-1),
        np.eye(3).reshape(-1), projection, 0, 0, roi,
    )  # fmt: skip


def label_info_message(header: Any, classes: Sequence[str]) -> Any:
    """A vision_msgs/LabelInfo that names the values of a mask."""
    types = typestore().types
    names = [types['vision_msgs/msg/VisionClass'](i, name) for i, name in enumerate(classes)]
    return types[LABEL_INFO](header, names, 0.0)


def detection_message(
    header: Any, box: list[float], name: str, score: float, identity: str = ''
) -> Any:
    """A vision_msgs/Detection2D of a box xyxy in pixels."""
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
        types['vision_msgs/msg/ObjectHypothesis'](name, score), pose
    )
    bbox = types['vision_msgs/msg/BoundingBox2D'](centre, x2 - x1, y2 - y1)
    return types['vision_msgs/msg/Detection2D'](header, [result], bbox, identity)
