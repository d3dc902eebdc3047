"""The vision_msgs message definitions: field lists of a public interface, with comments of our own.

Owns the texts for places without the apt package: `requirements/ros/build_vision_msgs.py` builds
them against the ROS 2 wheels, and bag readers register them from here. Imports no ROS.
"""

from __future__ import annotations

from pathlib import Path

_MESSAGES = Path(__file__).parent / 'vision_msgs' / 'msg'


def vision_msgs_texts() -> dict[str, str]:
    """Text of every vision_msgs message by its type name, `vision_msgs/msg/Detection2DArray`."""
    return {f'vision_msgs/msg/{path.stem}': path.read_text() for path in _MESSAGES.glob('*.msg')}
