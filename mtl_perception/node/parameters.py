# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The one table of ROS parameters: name, type, default, range, when it applies, description.

The node declares from it, `config/perception.param.yaml` and the table of docs/node.md are written
from it (`python -m mtl_perception.node.parameters yaml|markdown`) and a test compares them. Nothing
here needs ROS before `declare` is called, so that documents can be built without it.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from mtl_perception import kinds
from mtl_perception.schema import did_you_mean
from mtl_perception.tasks import Task
from mtl_perception.text import quoted

if TYPE_CHECKING:
    from rclpy.node import Node

Value = bool | int | float | str | list[str]
Applies = Literal['live', 'configure', 'start']

MASK_AUTO = 'auto'
MASK_NONE = 'none'


class ParameterError(Exception):
    """A parameter value that cannot be used: which, why, expected, found."""


@dataclass(frozen=True)
class Parameter:
    """One ROS parameter.

    applies: `live` from the next frame on, `configure` when the node is configured (and not to be
    changed while it is), `start` read-only. low, high: inclusive. choices: the only strings.
    """

    name: str
    default: Value
    applies: Applies
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def type_name(self) -> str:
        """The type as `ros2 param describe` names it."""
        if isinstance(self.default, list):
            return 'string array'
        return {bool: 'boolean', int: 'integer', float: 'double', str: 'string'}[type(self.default)]

    @property
    def range(self) -> str:
        """Allowed values in words; empty when any value of the type will do."""
        if self.choices:
            return ', '.join(f'`{choice}`' for choice in self.choices)
        if self.low is None:
            return ''
        return f'{self.low:g} to {self.high:g}'

    def refusal(self, value: Any) -> str:
        """Why the value cannot be used, as a clause after the name; empty when it can."""
        if type(value) is not type(self.default) or (
            isinstance(value, list) and not all(isinstance(item, str) for item in value)
        ):
            hint = (
                f' (write {value}.0)' if self.type_name == 'double' and type(value) is int else ''
            )
            return f'must be a {self.type_name}, found {quoted(value)}{hint}'
        if self.choices and value not in self.choices:
            return f'must be one of {list(self.choices)}, found {quoted(value)}'
        if self.low is None or self.high is None or not isinstance(value, (int, float)):
            return ''
        within = self.low <= value <= self.high
        return '' if within else f'must be {self.low:g} to {self.high:g}, found {value:g}'


TABLE: tuple[Parameter, ...] = (
    Parameter(
        'model', 'hydranet_lite0', 'configure',
        'Bundle: the name of one under models/, or the path of its folder.',
    ),
    Parameter(
        'engine', 'auto', 'configure',
        'What runs the network; `auto` takes the best that is there and says which. '
        '`mtl-perception doctor` lists what this machine can run.',
    ),
    Parameter('device', 'auto', 'configure', 'Where the engine runs, as the engine names it.'),
    Parameter(
        'precision', 'auto', 'configure', 'Arithmetic of the engine.',
        choices=('auto', 'fp32', 'fp16', 'bf16', 'int8'),
    ),
    Parameter(
        'build', False, 'configure',
        'Build a missing engine while configuring (can take minutes), not only name the command; '
        'one for the subscribed heads, in the background.',
    ),
    Parameter(
        'target_rate_hz', 0.0, 'configure',
        'Frames per second and camera that the node is to keep: input size, engine, precision and '
        'threads are those that `mtl-perception compile MODEL --rate` chose on this machine. 0: '
        "the bundle's size.", 0.0, 1000.0,
    ),
    Parameter(
        'adaptive_size', False, 'configure',
        'Step to the next smaller input size that is built while frames take longer than '
        'target_rate_hz allows, and back when there is room; /diagnostics and the log say so.',
    ),
    Parameter(
        'autostart', False, 'start',
        'Configure and activate without being asked, also after a respawn.',
    ),
    Parameter(
        'cameras', [''], 'configure',
        'Camera names; each gets topics of its own below ~/<name>/. The one empty name: one camera '
        'directly below ~/.',
    ),
    Parameter(
        'image_transport', 'raw', 'configure',
        'What comes in on ~/image: sensor_msgs/Image or CompressedImage (then ~/image/compressed).',
        choices=('raw', 'compressed'),
    ),
    Parameter(
        'image_reliability', 'best_effort', 'configure',
        'QoS of the image subscriptions; `reliable` connects to reliable drivers only.',
        choices=('best_effort', 'reliable'),
    ),
    Parameter(
        'score_threshold', 0.4, 'live', 'Detections below this score are not published.', 0.0, 1.0
    ),
    Parameter(
        'nms_iou_threshold', 0.5, 'live',
        'Of two boxes of a class that overlap by more than this IoU the weaker one is dropped.',
        0.0, 1.0,
    ),
    Parameter(
        'cross_class_iou_threshold', 0.6, 'live',
        'Of two boxes of classes that one thing cannot be at once (car and truck, pedestrian and '
        'rider) that overlap by more than this IoU the weaker one is dropped; 1 keeps both.',
        0.0, 1.0,
    ),
    Parameter('max_detections', 100, 'live', 'At most so many detections per frame.', 1, 1000),
    Parameter(
        'overlay_task', MASK_AUTO, 'configure',
        'Mask, depth or normals task painted into ~/overlay; `auto`: drivable if the model has it, '
        'else its first mask; `none`: none of them.',
    ),
    Parameter(
        'track_start_score', 0.4, 'live',
        'A track begins with a detection of this score; weaker ones only continue it.', 0.0, 1.0,
    ),
    Parameter(
        'track_memory_s', 1.0, 'live',
        'Seconds, by the stamps, that a track outlives its last detection: an object that comes '
        'back in time keeps its id.', 0.01, 60.0,
    ),
    Parameter(
        'camera_height_m', 0.0, 'configure',
        'Metres of the camera above a flat road, for places on it; 0: not known. For every camera: '
        'where they differ, base_frame is the way.', 0.0, 100.0,
    ),
    Parameter(
        'camera_pitch_rad', 0.0, 'configure', 'Radians that the camera looks down (REP 103).',
        -1.5708, 1.5708,
    ),
    Parameter(
        'camera_roll_rad', 0.0, 'configure',
        'Radians that the camera leans to the right (REP 103).', -1.5708, 1.5708,
    ),
    Parameter(
        'base_frame', '', 'configure',
        'Frame whose plane z = 0 is the road (base_footprint, or base_link), found through tf '
        'instead of the three above; places are then given in it. Empty: they are given in the '
        'frame of the image.',
    ),
    Parameter(
        'rectification', 'auto', 'configure',
        'Whether the images are distorted as D of camera_info says, or rectified, so that P holds; '
        '`auto`: rectified where the image topic is called image_rect or image_rect_*.',
        choices=('auto', 'raw', 'rectified'),
    ),
    Parameter(
        'points_source', 'auto', 'configure',
        'What ~/<task>/points is made of: the depth task of the model, depth images on '
        '~/depth_image, or a flat road; `auto`: depth where the model has it, else ground.',
        choices=('auto', 'depth', 'topic', 'ground'),
    ),
    Parameter(
        'foot_std', 0.03, 'configure',
        'Standard deviation of the lower edge of boxes, in heights of the box, for covariances.',
        0.0, 1.0,
    ),
    Parameter(
        'tilt_std_rad', 0.005, 'configure',
        'Standard deviation of pitch and roll between camera and road, radians, for covariances.',
        0.0, 0.5,
    ),
    Parameter(
        'stall_warn_s', 0.9, 'configure',
        'Seconds without an image until /diagnostics says WARN (steady clock).', 0.05, 3600.0,
    ),
    Parameter(
        'stall_error_s', 1.9, 'configure',
        'Seconds without an image until /diagnostics says ERROR; more than stall_warn_s.',
        0.05, 3600.0,
    ),
    Parameter(
        'diagnostics_period_s', 1.0, 'start', 'Seconds between messages on /diagnostics.',
        0.05, 60.0,
    ),
)  # fmt: skip

BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in TABLE}


@dataclass(frozen=True)
class Parameters:
    """Checked values, one field a parameter of the table."""

    model: str
    engine: str
    device: str
    precision: str
    build: bool
    target_rate_hz: float
    adaptive_size: bool
    autostart: bool
    cameras: tuple[str, ...]
    image_transport: str
    image_reliability: str
    score_threshold: float
    nms_iou_threshold: float
    cross_class_iou_threshold: float
    max_detections: int
    overlay_task: str
    track_start_score: float
    track_memory_s: float
    camera_height_m: float
    camera_pitch_rad: float
    camera_roll_rad: float
    base_frame: str
    rectification: str
    points_source: str
    foot_std: float
    tilt_std_rad: float
    stall_warn_s: float
    stall_error_s: float
    diagnostics_period_s: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Parameters:
        """Check values one by one and together; raises ParameterError with every reason found."""
        checked = {name: parameter.default for name, parameter in BY_NAME.items()} | dict(values)
        reasons = [
            f'{name} {why}'
            for name, parameter in BY_NAME.items()
            if (why := parameter.refusal(checked[name]))
        ]
        if not reasons:
            reasons = _cross_refusals(checked)
        if reasons:
            raise ParameterError('; '.join(reasons))
        checked['cameras'] = tuple(checked['cameras'])
        return cls(**{item.name: checked[item.name] for item in fields(cls)})


def _cross_refusals(values: Mapping[str, Any]) -> list[str]:
    """Rules between parameters, and the names of cameras."""
    reasons = []
    if values['stall_error_s'] <= values['stall_warn_s']:
        reasons.append(
            f'stall_error_s must be more than stall_warn_s, found {values["stall_error_s"]:g} and '
            f'{values["stall_warn_s"]:g}'
        )
    if values['adaptive_size'] and not values['target_rate_hz']:
        reasons.append('adaptive_size needs a target_rate_hz above 0, found 0')
    fixed = [name for name in ('engine', 'device', 'precision') if values[name] != 'auto']
    if values['target_rate_hz'] and fixed:
        reasons.append(
            f'target_rate_hz takes what `mtl-perception compile --rate` chose, so '
            f'{" and ".join(fixed)} must be auto'
        )
    cameras = values['cameras']
    names = re.compile(r'[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*')
    bad = [name for name in cameras if not names.fullmatch(name)]
    if not cameras or (bad and cameras != ['']) or len(set(cameras)) != len(cameras):
        reasons.append(
            f"cameras must be distinct topic names (letters, digits, _), or [''] for one without a "
            f'name, found {quoted(cameras)}'
        )
    return reasons


def unknown_refusal(name: str, known: Sequence[str] = ()) -> str:
    """What is wrong with a parameter name that was given but is not declared; empty if known."""
    if name in BY_NAME or name in known:
        return ''
    return f'unknown parameter {quoted(name)}{did_you_mean(name, BY_NAME, cutoff=0.75)}'


def declare(node: Node) -> Parameters:
    """Declare the whole table on the node, overrides applied; raises ParameterError on bad ones.

    Names that were given and are nearly right are errors; names far from all of ours may belong to
    another node that shares the file, and are only logged.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.parameter import Parameter as RosParameter

    # rclpy has no public way to ask for the overrides that nobody declared.
    overrides: Mapping[str, RosParameter] = node._parameter_overrides
    # Checked by our own table first: its sentences say more than rclpy's exceptions.
    Parameters.of({name: overrides[name].value for name in BY_NAME if name in overrides})
    for name in overrides:
        refusal = '' if node.has_parameter(name) or '.' in name else unknown_refusal(name)
        if 'did you mean' in refusal:
            raise ParameterError(refusal)
        if refusal:
            node.get_logger().warning(f'{refusal}: ignored')
    for parameter in TABLE:
        descriptor = ParameterDescriptor(
            name=parameter.name,
            description=parameter.description,
            additional_constraints=_constraints(parameter),
            read_only=parameter.applies == 'start',
        )
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=parameter.low, to_value=parameter.high)
            ]
        elif type(parameter.default) is int and parameter.low is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high or 0))
            ]
        node.declare_parameter(parameter.name, parameter.default, descriptor)
    return read(node)


def read(node: Node) -> Parameters:
    """The node's present values, checked; raises ParameterError."""
    return Parameters.of({name: node.get_parameter(name).value for name in BY_NAME})


def refusal_of_change(
    present: Mapping[str, Any], changes: Mapping[str, Any], configured: bool
) -> str:
    """Why a running node cannot take the changes; empty when it can.

    What applies at configure cannot be changed while configured: the node would not be what its
    parameters say.
    """
    changes = {name: value for name, value in changes.items() if name in BY_NAME}
    try:
        Parameters.of({**present, **changes})
    except ParameterError as error:
        return str(error)
    late = [
        name for name, value in changes.items()
        if configured and BY_NAME[name].applies == 'configure' and value != present[name]
    ]  # fmt: skip
    if late:
        return (
            f'{", ".join(late)} is read when the node is configured; bring it back first: '
            f'`ros2 lifecycle set <node> deactivate`, then `cleanup`'
        )
    return ''


def overlay_task(value: str, tasks: Sequence[Task]) -> str | None:
    """The task that `overlay.draw` is to tint with, None for none; raises ParameterError."""
    images = [task.name for task in tasks if kinds.of(task).is_image]
    if value not in (MASK_AUTO, MASK_NONE, *images):
        raise ParameterError(
            f'overlay_task must be {MASK_AUTO!r}, {MASK_NONE!r} or a mask, depth or normals task '
            f'of the model ({images}), found {quoted(value)}'
        )
    masks = [task.name for task in tasks if kinds.of(task).is_mask]
    if value == MASK_AUTO:
        return 'drivable' if 'drivable' in masks else next(iter(masks), None)
    return None if value == MASK_NONE else value


def _constraints(parameter: Parameter) -> str:
    choices = f'one of {list(parameter.choices)}. ' if parameter.choices else ''
    when = {
        'live': 'Applies from the next frame on.',
        'configure': 'Read at configure.',
        'start': 'Read at start.',
    }
    return choices + when[parameter.applies]


def as_markdown() -> str:
    """The table of parameters in docs/node.md."""
    lines = [
        '| parameter | type | default | range | applies | what it does |',
        '|---|---|---|---|---|---|',
    ]
    lines += [
        f'| `{p.name}` | {p.type_name} | `{_yaml_value(p.default)}` | {p.range} | {p.applies} '
        f'| {p.description} |'
        for p in TABLE
    ]
    return '\n'.join(lines) + '\n'


def as_yaml() -> str:
    """`config/perception.param.yaml`: every parameter with its default, range and description."""
    lines = [
        '# Parameters of the perception node, with their defaults.',
        '# Written by `python -m mtl_perception.node.parameters yaml`; a test compares.',
        '/**:',
        '  ros__parameters:',
    ]
    for p in TABLE:
        allowed = f': {p.range.replace("`", "")}' if p.range else ''
        text = f'{p.description} ({p.type_name}{allowed}; {p.applies})'
        comment = textwrap.wrap(text, 100, initial_indent='    # ', subsequent_indent='    # ')
        lines += [*comment, f'    {p.name}: {_yaml_value(p.default)}']
    return '\n'.join(lines) + '\n'


def _yaml_value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table as `yaml` or `markdown`."""
    writers = {'yaml': as_yaml, 'markdown': as_markdown}
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0] not in writers:
        usage = 'python -m mtl_perception.node.parameters'
        print(f'usage: {usage} {"|".join(writers)}', file=sys.stderr)
        return 2
    sys.stdout.write(writers[arguments[0]]())
    return 0


if __name__ == '__main__':
    sys.exit(main())
