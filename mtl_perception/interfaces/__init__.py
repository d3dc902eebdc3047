# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Message definitions that PyPI lacks: field lists of public interfaces, comments of our own.

Owns the texts of vision_msgs and of what is used of foxglove_msgs and tf2_msgs, for places without
the apt packages: `requirements/ros/build_interfaces.py` builds them against the ROS 2 wheels, and
bag readers register them from here. Imports no ROS.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def message_texts() -> dict[str, str]:
    """Text of every message by its type name, as `vision_msgs/msg/Detection2DArray`."""
    return {
        f'{path.parts[-3]}/msg/{path.stem}': path.read_text()
        for path in sorted(_HERE.glob('*/msg/*.msg'))
    }
