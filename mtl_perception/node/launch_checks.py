# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the launch files check before they start anything: one sentence and the next command.

Plain Python without ROS, so that it is tested wherever the rest is. An exception raised in a launch
description ends `ros2 launch` with its text in one line and exit code 1.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from mtl_perception.text import quoted

PACKAGES = Path('share', 'ament_index', 'resource_index', 'packages')
_TOPIC = re.compile(r'(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*/?')
BAG_FILES = ('.mcap', '.db3')


class LaunchError(Exception):
    """Something that a launch argument asks for is not there: what, and the next command."""


def require_package(
    package: str, needed_by: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Raise LaunchError unless the ROS package is installed (ament index).

    needed_by: the launch argument that asks for it, as typed on the command line.
    """
    prefixes = [p for p in environment.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    if not any((Path(prefix) / PACKAGES / package).is_file() for prefix in prefixes):
        raise LaunchError(
            f'{needed_by} needs the package {package}, which is not installed: '
            f'`sudo apt install {apt_name(package, environment)}`'
        )


def require_command(
    command: str, package: str, needed_by: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Raise LaunchError unless the command is on PATH; `package`: the ROS package that has it."""
    if shutil.which(command, path=environment.get('PATH')) is None:
        raise LaunchError(
            f'{needed_by} needs the command {command}, which is not on PATH: '
            f'`sudo apt install {apt_name(package, environment)}`'
        )


def require_number(argument: str, value: str, low: float, high: float) -> float:
    """The number that an argument must be, `low` to `high`; raises LaunchError."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise LaunchError(f'{argument}:={quoted(value)}: expected a number of {low:g} to {high:g}')
    return number


def require_topic(argument: str, value: str, empty: bool = False) -> None:
    """Raise LaunchError unless the value can be the name of a topic (or be `empty`)."""
    if not (_TOPIC.fullmatch(value) or (empty and not value)):
        raise LaunchError(
            f'{argument}:={quoted(value)}: expected a ROS name, as /front/image_raw: letters, '
            f'digits and _, none of the parts beginning with a digit'
        )


def require_file(value: str, argument: str) -> Path:
    """The path of an existing file, `~` expanded; raises LaunchError."""
    path = Path(value).expanduser()
    if not path.is_file():
        raise LaunchError(f'{argument}: there is no file {value!r} (from {Path.cwd()})')
    return path


def require_video_device(value: str, camera: str) -> Path:
    """The path of a character device; raises LaunchError that lists those there are."""
    path = Path(value)
    if not path.is_char_device():
        found = ', '.join(sorted(str(device) for device in Path('/dev').glob('video*')))
        raise LaunchError(
            f'camera:={camera}: no video device {value!r}, found {found or "none"}: plug the '
            f'camera in, name another with video_device:=, or try camera:=test_pattern'
        )
    return path


def require_bag(value: str) -> Path:
    """The path of what looks like a rosbag2, `~` expanded; raises LaunchError."""
    path = Path(value).expanduser()
    is_bag = path.is_file() and path.suffix in BAG_FILES
    if not is_bag and not (path / 'metadata.yaml').is_file():
        raise LaunchError(
            f'bag: {value!r} is not a rosbag2 (expected a folder with metadata.yaml, or an '
            f'{" or ".join(BAG_FILES)} file): `ros2 bag info {value}` says more'
        )
    return path


def apt_name(package: str, environment: Mapping[str, str] = os.environ) -> str:
    """Debian package of a ROS package, for the distribution that is sourced (or Jazzy)."""
    return f'ros-{environment.get("ROS_DISTRO") or "jazzy"}-{package.replace("_", "-")}'
