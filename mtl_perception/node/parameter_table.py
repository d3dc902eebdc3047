# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The one table of ROS parameters: name, type, default, range, when it applies, description.

The node declares from it, `config/perception.param.yaml` and the table of docs/node.md are written
from it (`python -m mtl_perception.node.parameter_table yaml|markdown`) and a test compares them.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mtl_perception.text import quoted

Value = bool | int | float | str | list[str]
Applies = Literal['live', 'configure', 'start']

MASK_AUTO = 'auto'
MASK_NONE = 'none'


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
        'model', 'hydranet_pvtv2_b0', 'configure',
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
        '# Written by `python -m mtl_perception.node.parameter_table yaml`; a test compares.',
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
        usage = 'python -m mtl_perception.node.parameter_table'
        print(f'usage: {usage} {"|".join(writers)}', file=sys.stderr)
        return 2
    sys.stdout.write(writers[arguments[0]]())
    return 0


if __name__ == '__main__':
    sys.exit(main())
