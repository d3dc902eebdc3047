# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The node's parameters: checked values, declared and read by `parameter_table.TABLE`.

Nothing here needs ROS before `declare` is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mtl_perception import kinds
from mtl_perception.node.parameter_table import BY_NAME, MASK_AUTO, MASK_NONE, TABLE, Parameter
from mtl_perception.schema import did_you_mean
from mtl_perception.tasks import Task
from mtl_perception.text import quoted

if TYPE_CHECKING:
    from rclpy.node import Node


class ParameterError(Exception):
    """A parameter value that cannot be used: which, why, expected, found."""


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
